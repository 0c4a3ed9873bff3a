-- Whose jobs an issuer's tokens are: a JSON list of claim, pattern and team; '' is nobody's in particular.
ALTER TABLE trust_issuers ADD COLUMN owners TEXT NOT NULL DEFAULT '';

-- A name that differs from another user's in case only is taken.
CREATE INDEX users_lower_name ON users (lower(name));
