-- Registries that delegate their sign-in to us, and their keys.

CREATE TABLE services (
    id             INTEGER PRIMARY KEY AUTOINCREMENT,
    name           TEXT NOT NULL UNIQUE, -- the parameter "service" of the token endpoint, and the claim "aud"
    issuer         TEXT NOT NULL,                    -- the claim "iss"
    token_ttl      INTEGER NOT NULL CHECK (token_ttl > 0), -- seconds
    algorithm      TEXT NOT NULL CHECK (algorithm IN ('ES256', 'ES384', 'RS256')), -- of keys that are made here
    anonymous_pull TEXT NOT NULL,                    -- pattern (* and ?) of what everybody may pull; '' gives no token without credentials
    refresh_tokens BOOLEAN NOT NULL,
    created_at     INTEGER NOT NULL,
    updated_at     INTEGER NOT NULL
);

-- A key belongs to one service, or to none and then signs our own tokens. Of
-- those that are active the newest one signs, and all that have not expired verify.
CREATE TABLE keys_with_services (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    service_id  INTEGER REFERENCES services (id) ON DELETE CASCADE,
    kid         TEXT NOT NULL,            -- RFC 7638 thumbprint
    algorithm   TEXT NOT NULL,
    private_pem TEXT NOT NULL,
    certificates TEXT NOT NULL DEFAULT '', -- PEM, the one of the key first; '' is made when it is needed
    source      TEXT NOT NULL DEFAULT 'generated' CHECK (source IN ('generated', 'imported', 'file')),
    created_at  INTEGER NOT NULL,
    active_at   INTEGER NOT NULL,          -- it signs from then on; until then it is only published
    expires_at  INTEGER                    -- it verifies until then; NULL while no other key follows
);
INSERT INTO keys_with_services (kid, algorithm, private_pem, created_at, active_at)
SELECT kid, algorithm, private_pem, created_at, created_at FROM signing_keys ORDER BY created_at;
DROP TABLE signing_keys;
ALTER TABLE keys_with_services RENAME TO signing_keys;
CREATE UNIQUE INDEX signing_keys_service ON signing_keys (service_id, kid) WHERE service_id IS NOT NULL;
CREATE UNIQUE INDEX signing_keys_own ON signing_keys (kid) WHERE service_id IS NULL;
