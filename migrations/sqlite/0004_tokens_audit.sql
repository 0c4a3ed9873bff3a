-- Rights and rotation of tokens, the audit log, and the provenance of tags.

-- Deploy tokens: of a team, for clusters that pull. They never carry admin. SQLite
-- cannot change a CHECK, so the table is made anew.
CREATE TABLE tokens_new (
    id             INTEGER PRIMARY KEY AUTOINCREMENT,
    kind           TEXT NOT NULL CHECK (kind IN ('personal', 'robot', 'deploy')),
    name           TEXT NOT NULL,
    user_id        INTEGER REFERENCES users (id) ON DELETE CASCADE,
    team_id        INTEGER REFERENCES teams (id) ON DELETE CASCADE,
    secret_hash    TEXT NOT NULL,
    repositories   TEXT NOT NULL DEFAULT '*', -- glob on the repository's name
    actions        TEXT NOT NULL,             -- comma separated: pull,push,delete,admin
    expires_at     INTEGER,
    last_used_at   INTEGER,
    created_at     INTEGER NOT NULL,
    created_by     TEXT NOT NULL,
    tags           TEXT NOT NULL DEFAULT '',  -- glob on tags; '' is every tag
    cidrs          TEXT NOT NULL DEFAULT '',  -- networks, comma separated; '' is everywhere
    last_used_from TEXT NOT NULL DEFAULT '',  -- the address of the last use
    CHECK ((kind = 'personal') = (user_id IS NOT NULL)),
    CHECK ((kind IN ('robot', 'deploy')) = (team_id IS NOT NULL)),
    UNIQUE (user_id, name),
    UNIQUE (team_id, name)
);
INSERT INTO tokens_new (id, kind, name, user_id, team_id, secret_hash, repositories, actions, expires_at, last_used_at, created_at, created_by)
SELECT id, kind, name, user_id, team_id, secret_hash, repositories, actions, expires_at, last_used_at, created_at, created_by FROM tokens;
-- The ids of tokens that were deleted are not given again: bearer tokens may still name them.
DELETE FROM sqlite_sequence WHERE name = 'tokens_new';
INSERT INTO sqlite_sequence (name, seq) SELECT 'tokens_new', seq FROM sqlite_sequence WHERE name = 'tokens';
DROP TABLE tokens;
ALTER TABLE tokens_new RENAME TO tokens;

-- A token has one secret, and while it is rotated the ones before it until they end.
-- The hash is SHA-256 in hex: of a secret of ours, or of the user:password of a
-- d.ims.io token.
CREATE TABLE token_secrets (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    token_id     INTEGER NOT NULL REFERENCES tokens (id) ON DELETE CASCADE,
    secret_hash  TEXT NOT NULL UNIQUE,
    created_at   INTEGER NOT NULL,
    expires_at   INTEGER, -- set when another one takes its place
    last_used_at INTEGER
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
    action     TEXT NOT NULL, -- an operation of the API, or what was done on /v2/
    outcome    TEXT NOT NULL CHECK (outcome IN ('ok', 'refused', 'failed')),
    principal  TEXT NOT NULL,
    kind       TEXT NOT NULL,
    address    TEXT NOT NULL,
    request_id TEXT NOT NULL,
    user_agent TEXT NOT NULL,
    claims     TEXT NOT NULL, -- JSON object or ''
    team       TEXT NOT NULL,
    repository TEXT NOT NULL,
    reference  TEXT NOT NULL,
    digest     TEXT NOT NULL,
    detail     TEXT NOT NULL, -- JSON object or ''
    count      BIGINT NOT NULL, -- how often it happened; more than 1 for refusals put together
    PRIMARY KEY (at, id)
) WITHOUT ROWID;
CREATE INDEX audit_events_principal ON audit_events (principal, at, id);
CREATE INDEX audit_events_team ON audit_events (team, at, id) WHERE team <> '';
CREATE INDEX audit_events_repository ON audit_events (repository, at, id) WHERE repository <> '';
CREATE INDEX audit_events_action ON audit_events (action, at, id) WHERE action <> 'pushManifest';
CREATE INDEX audit_events_outcome ON audit_events (outcome, at, id) WHERE outcome <> 'ok';

CREATE TRIGGER audit_events_unchanged BEFORE UPDATE ON audit_events
BEGIN
    SELECT RAISE(ABORT, 'the audit log cannot be changed');
END;

-- Provenance: what the identity provider said of who pushed (JSON object or '').
-- Just before DELETE, with removed_by, it is of who deletes.
ALTER TABLE tags ADD COLUMN claims TEXT NOT NULL DEFAULT '';
ALTER TABLE tag_history ADD COLUMN claims TEXT NOT NULL DEFAULT '';

DROP TRIGGER tags_record_create;
CREATE TRIGGER tags_record_create AFTER INSERT ON tags
BEGIN
    INSERT INTO tag_history (repository, tag, action, digest, previous, actor, at, claims)
    SELECT r.name, NEW.name, 'create', NEW.digest, NULL, NEW.updated_by, NEW.updated_at, NEW.claims
      FROM repositories r WHERE r.id = NEW.repository_id;
END;

DROP TRIGGER tags_record_move;
CREATE TRIGGER tags_record_move AFTER UPDATE OF digest ON tags
WHEN NEW.digest <> OLD.digest
BEGIN
    INSERT INTO tag_history (repository, tag, action, digest, previous, actor, at, claims)
    SELECT r.name, NEW.name, 'move', NEW.digest, OLD.digest, NEW.updated_by, NEW.updated_at, NEW.claims
      FROM repositories r WHERE r.id = NEW.repository_id;
END;

DROP TRIGGER tags_record_delete;
CREATE TRIGGER tags_record_delete AFTER DELETE ON tags
BEGIN
    INSERT INTO tag_history (repository, tag, action, digest, previous, actor, at, claims)
    SELECT r.name, OLD.name, 'delete', OLD.digest, OLD.digest, COALESCE(OLD.removed_by, 'sql'),
           CAST(unixepoch('subsec') * 1000000 AS INTEGER),
           CASE WHEN OLD.removed_by IS NULL THEN '' ELSE OLD.claims END
      FROM repositories r WHERE r.id = OLD.repository_id;
END;
