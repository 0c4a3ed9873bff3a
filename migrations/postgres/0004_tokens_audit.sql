-- Rights and rotation of tokens, the audit log, and the provenance of tags.

-- Deploy tokens: of a team, for clusters that pull. They never carry admin.
ALTER TABLE tokens DROP CONSTRAINT tokens_kind_check, DROP CONSTRAINT tokens_check1;
ALTER TABLE tokens
    ADD CHECK (kind IN ('personal', 'robot', 'deploy')),
    ADD CHECK ((kind IN ('robot', 'deploy')) = (team_id IS NOT NULL)),
    ADD COLUMN tags           TEXT COLLATE "C" NOT NULL DEFAULT '', -- glob on tags; '' is every tag
    ADD COLUMN cidrs          TEXT NOT NULL DEFAULT '',             -- networks, comma separated; '' is everywhere
    ADD COLUMN last_used_from TEXT NOT NULL DEFAULT '';             -- the address of the last use

-- A token has one secret, and while it is rotated the ones before it until they end.
-- The hash is SHA-256 in hex: of a secret of ours, or of the user:password of a
-- d.ims.io token.
CREATE TABLE token_secrets (
    id           BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    token_id     BIGINT NOT NULL REFERENCES tokens (id) ON DELETE CASCADE,
    secret_hash  TEXT COLLATE "C" NOT NULL UNIQUE,
    created_at   BIGINT NOT NULL,
    expires_at   BIGINT, -- set when another one takes its place
    last_used_at BIGINT
);
CREATE INDEX token_secrets_token ON token_secrets (token_id, id);
CREATE INDEX token_secrets_ended ON token_secrets (expires_at) WHERE expires_at IS NOT NULL;
INSERT INTO token_secrets (token_id, secret_hash, created_at, last_used_at)
SELECT id, secret_hash, created_at, last_used_at FROM tokens;
ALTER TABLE tokens DROP COLUMN secret_hash;

-- Who did what, and who was refused. The key is the time (microseconds) and a random
-- number, so rows go in at the end, are read from the end, and are pruned from the
-- beginning. Each index serves one filter. Pushes are nearly all rows, so the index of
-- actions is without them.
CREATE TABLE audit_events (
    at         BIGINT NOT NULL,
    id         BIGINT NOT NULL,
    action     TEXT COLLATE "C" NOT NULL, -- an operation of the API, or what was done on /v2/
    outcome    TEXT NOT NULL CHECK (outcome IN ('ok', 'refused', 'failed')),
    principal  TEXT COLLATE "C" NOT NULL,
    kind       TEXT NOT NULL,
    address    TEXT NOT NULL,
    request_id TEXT NOT NULL,
    user_agent TEXT NOT NULL,
    claims     TEXT NOT NULL, -- JSON object or ''
    team       TEXT COLLATE "C" NOT NULL,
    repository TEXT COLLATE "C" NOT NULL,
    reference  TEXT NOT NULL,
    digest     TEXT NOT NULL,
    detail     TEXT NOT NULL, -- JSON object or ''
    count      BIGINT NOT NULL, -- how often it happened; more than 1 for refusals put together
    PRIMARY KEY (at, id)
);
CREATE INDEX audit_events_principal ON audit_events (principal, at, id);
CREATE INDEX audit_events_team ON audit_events (team, at, id) WHERE team <> '';
CREATE INDEX audit_events_repository ON audit_events (repository, at, id) WHERE repository <> '';
CREATE INDEX audit_events_action ON audit_events (action, at, id) WHERE action <> 'pushManifest';
CREATE INDEX audit_events_outcome ON audit_events (outcome, at, id) WHERE outcome <> 'ok';

CREATE FUNCTION audit_events_unchanged() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the audit log cannot be changed' USING ERRCODE = 'BT001';
END $$;
CREATE TRIGGER audit_events_unchanged BEFORE UPDATE ON audit_events
    FOR EACH ROW EXECUTE FUNCTION audit_events_unchanged();

-- Provenance: what the identity provider said of who pushed (JSON object or '').
-- Just before DELETE, with removed_by, it is of who deletes.
ALTER TABLE tags ADD COLUMN claims TEXT NOT NULL DEFAULT '';
ALTER TABLE tag_history ADD COLUMN claims TEXT NOT NULL DEFAULT '';

CREATE OR REPLACE FUNCTION tags_record() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO tag_history (repository, tag, action, digest, previous, actor, at, claims)
        SELECT r.name, NEW.name, 'create', NEW.digest, NULL, NEW.updated_by, NEW.updated_at, NEW.claims
          FROM repositories r WHERE r.id = NEW.repository_id;
    ELSIF TG_OP = 'UPDATE' THEN
        IF NEW.digest <> OLD.digest THEN
            INSERT INTO tag_history (repository, tag, action, digest, previous, actor, at, claims)
            SELECT r.name, NEW.name, 'move', NEW.digest, OLD.digest, NEW.updated_by, NEW.updated_at, NEW.claims
              FROM repositories r WHERE r.id = NEW.repository_id;
        END IF;
    ELSE
        INSERT INTO tag_history (repository, tag, action, digest, previous, actor, at, claims)
        SELECT r.name, OLD.name, 'delete', OLD.digest, OLD.digest, COALESCE(OLD.removed_by, 'sql:' || current_user),
               (extract(epoch FROM clock_timestamp()) * 1000000)::BIGINT,
               CASE WHEN OLD.removed_by IS NULL THEN '' ELSE OLD.claims END
          FROM repositories r WHERE r.id = OLD.repository_id;
    END IF;
    RETURN NULL;
END $$;
