-- Names and digests compare as bytes (BINARY, the default here), so that pages are
-- in the order that the distribution specification asks for and equal on both engines.
-- Times are microseconds since 1970 UTC. Globs know * and ? only.
-- WITHOUT ROWID: the row stands in the index of its key, one look-up less.

CREATE TABLE users (
    id            INTEGER PRIMARY KEY AUTOINCREMENT,
    name          TEXT NOT NULL UNIQUE,
    password_hash TEXT NOT NULL DEFAULT '', -- PHC string; '' = cannot sign in with a password
    role          TEXT NOT NULL DEFAULT 'user' CHECK (role IN ('user', 'admin')),
    disabled      BOOLEAN NOT NULL DEFAULT FALSE,
    created_at    INTEGER NOT NULL,
    updated_at    INTEGER NOT NULL
);

-- A policy belongs to the instance (id 1), a team or a repository; the nearest decides.
CREATE TABLE tag_policies (
    id   INTEGER PRIMARY KEY AUTOINCREMENT,
    mode TEXT NOT NULL CHECK (mode IN ('mutable', 'immutable', 'sealed'))
);

CREATE TABLE tag_policy_exemptions (
    policy_id INTEGER NOT NULL REFERENCES tag_policies (id) ON DELETE CASCADE,
    pattern   TEXT NOT NULL CHECK (pattern NOT LIKE '%[%'), -- GLOB would know [a-z]
    PRIMARY KEY (policy_id, pattern)
) WITHOUT ROWID;

INSERT INTO tag_policies (id, mode) VALUES (1, 'immutable');
INSERT INTO tag_policy_exemptions (policy_id, pattern) VALUES (1, 'latest'), (1, '*-SNAPSHOT');

CREATE TABLE teams (
    id                 INTEGER PRIMARY KEY AUTOINCREMENT,
    name               TEXT NOT NULL UNIQUE,
    default_visibility TEXT CHECK (default_visibility IN ('public', 'internal', 'private')),
    tag_policy_id      INTEGER REFERENCES tag_policies (id),
    created_at         INTEGER NOT NULL,
    updated_at         INTEGER NOT NULL
);

CREATE TABLE team_members (
    team_id    INTEGER NOT NULL REFERENCES teams (id) ON DELETE CASCADE,
    user_id    INTEGER NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    role       TEXT NOT NULL CHECK (role IN ('reader', 'member', 'maintainer')),
    created_at INTEGER NOT NULL,
    PRIMARY KEY (team_id, user_id)
) WITHOUT ROWID;
CREATE INDEX team_members_user ON team_members (user_id, team_id);

-- A token's secret is random, so its SHA-256 is enough to recognise it.
CREATE TABLE tokens (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    kind         TEXT NOT NULL CHECK (kind IN ('personal', 'robot')),
    name         TEXT NOT NULL,
    user_id      INTEGER REFERENCES users (id) ON DELETE CASCADE,
    team_id      INTEGER REFERENCES teams (id) ON DELETE CASCADE,
    secret_hash  TEXT NOT NULL UNIQUE,
    repositories TEXT NOT NULL DEFAULT '*', -- glob on the repository's name
    actions      TEXT NOT NULL,                         -- comma separated: pull,push,delete,admin
    expires_at   INTEGER,
    last_used_at INTEGER,
    created_at   INTEGER NOT NULL,
    created_by   TEXT NOT NULL,
    CHECK ((kind = 'personal') = (user_id IS NOT NULL)),
    CHECK ((kind = 'robot') = (team_id IS NOT NULL)),
    UNIQUE (user_id, name),
    UNIQUE (team_id, name)
);

CREATE TABLE signing_keys (
    kid         TEXT PRIMARY KEY, -- RFC 7638 thumbprint
    algorithm   TEXT NOT NULL,
    private_pem TEXT NOT NULL,
    created_at  INTEGER NOT NULL
);

CREATE TABLE repositories (
    id            INTEGER PRIMARY KEY AUTOINCREMENT,
    name          TEXT NOT NULL UNIQUE,
    team          TEXT NOT NULL, -- first path segment of the name
    visibility    TEXT NOT NULL CHECK (visibility IN ('public', 'internal', 'private')),
    tag_policy_id INTEGER REFERENCES tag_policies (id),
    created_at    INTEGER NOT NULL,
    created_by    TEXT NOT NULL,
    CHECK (team = CASE instr(name, '/') WHEN 0 THEN name ELSE substr(name, 1, instr(name, '/') - 1) END)
);
CREATE INDEX repositories_team ON repositories (team, name);
CREATE INDEX repositories_visibility ON repositories (visibility, name);

-- The bytes under a digest, once for the whole instance.
CREATE TABLE blobs (
    digest      TEXT PRIMARY KEY,
    storage_key TEXT NOT NULL UNIQUE,
    size        INTEGER NOT NULL CHECK (size >= 0),
    created_at  INTEGER NOT NULL
) WITHOUT ROWID;

-- What a repository may serve.
CREATE TABLE repository_blobs (
    repository_id INTEGER NOT NULL REFERENCES repositories (id),
    digest        TEXT NOT NULL REFERENCES blobs (digest),
    created_at    INTEGER NOT NULL,
    PRIMARY KEY (repository_id, digest)
) WITHOUT ROWID;
CREATE INDEX repository_blobs_digest ON repository_blobs (digest, repository_id);

CREATE TABLE manifests (
    id            INTEGER PRIMARY KEY AUTOINCREMENT,
    repository_id INTEGER NOT NULL REFERENCES repositories (id),
    digest        TEXT NOT NULL,
    media_type    TEXT NOT NULL,
    artifact_type TEXT NOT NULL DEFAULT '', -- as the referrers API reports it
    annotations   TEXT NOT NULL DEFAULT '', -- JSON object or ''
    subject       TEXT,         -- may not be pushed yet, hence no foreign key
    size          INTEGER NOT NULL,
    created_at    INTEGER NOT NULL,
    created_by    TEXT NOT NULL,
    payload       BLOB NOT NULL, -- last, so that the others are read without it
    UNIQUE (repository_id, digest)
);
CREATE INDEX manifests_subject ON manifests (repository_id, subject, digest) WHERE subject IS NOT NULL;

CREATE TABLE manifest_blobs (
    manifest_id   INTEGER NOT NULL REFERENCES manifests (id) ON DELETE CASCADE,
    repository_id INTEGER NOT NULL,
    digest        TEXT NOT NULL,
    PRIMARY KEY (manifest_id, digest),
    FOREIGN KEY (repository_id, digest) REFERENCES repository_blobs (repository_id, digest)
) WITHOUT ROWID;
CREATE INDEX manifest_blobs_blob ON manifest_blobs (repository_id, digest);

-- child_id is NULL only while a sparse index waits for a child (a setting).
CREATE TABLE manifest_children (
    manifest_id   INTEGER NOT NULL REFERENCES manifests (id) ON DELETE CASCADE,
    repository_id INTEGER NOT NULL,
    digest        TEXT NOT NULL,
    child_id      INTEGER REFERENCES manifests (id),
    PRIMARY KEY (manifest_id, digest)
) WITHOUT ROWID;
CREATE INDEX manifest_children_child ON manifest_children (child_id);
CREATE INDEX manifest_children_waiting ON manifest_children (repository_id, digest) WHERE child_id IS NULL;

CREATE TRIGGER manifests_adopted AFTER INSERT ON manifests
BEGIN
    UPDATE manifest_children SET child_id = NEW.id
     WHERE repository_id = NEW.repository_id AND digest = NEW.digest AND child_id IS NULL;
END;

CREATE TABLE tags (
    repository_id INTEGER NOT NULL REFERENCES repositories (id),
    name          TEXT NOT NULL,
    digest        TEXT NOT NULL,
    previous      TEXT,                           -- the digest before the last move
    sealed        BOOLEAN NOT NULL DEFAULT FALSE, -- set by the trigger, for ever
    created_at    INTEGER NOT NULL,
    updated_at    INTEGER NOT NULL,
    updated_by    TEXT NOT NULL,
    removed_by    TEXT,                           -- set just before DELETE, for the history
    PRIMARY KEY (repository_id, name),
    FOREIGN KEY (repository_id, digest) REFERENCES manifests (repository_id, digest)
) WITHOUT ROWID;
CREATE INDEX tags_digest ON tags (repository_id, digest);

-- Append-only: who made, moved, deleted a tag, and who was refused.
CREATE TABLE tag_history (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    repository TEXT NOT NULL,
    tag        TEXT NOT NULL,
    action     TEXT NOT NULL CHECK (action IN ('create', 'move', 'delete', 'refused')),
    digest     TEXT NOT NULL,
    previous   TEXT,
    actor      TEXT NOT NULL,
    at         INTEGER NOT NULL
);
CREATE INDEX tag_history_tag ON tag_history (repository, tag, id);

CREATE TABLE uploads (
    id         TEXT PRIMARY KEY,
    repository TEXT NOT NULL,
    principal  TEXT NOT NULL,
    algorithm  TEXT NOT NULL,
    size       INTEGER NOT NULL DEFAULT 0, -- bytes taken so far = the next offset
    hash_state BLOB,                     -- encoding.BinaryMarshaler of the running hash
    session    TEXT NOT NULL,             -- the store's, opaque
    started_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX uploads_started ON uploads (started_at);

-- Objects and sessions that nothing points to any more, to be removed from the store.
CREATE TABLE garbage (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    kind        TEXT NOT NULL CHECK (kind IN ('object', 'session')),
    value       TEXT NOT NULL,
    enqueued_at INTEGER NOT NULL,
    not_before  INTEGER NOT NULL
);
CREATE INDEX garbage_due ON garbage (not_before, id);

CREATE TABLE leases (
    name       TEXT PRIMARY KEY,
    holder     TEXT NOT NULL,
    expires_at INTEGER NOT NULL
);

-- Tag policy ------------------------------------------------------------------

-- The policy that decides in each repository.
CREATE VIEW repository_tag_policies AS
    SELECT r.id AS repository_id, p.id AS policy_id, p.mode
      FROM repositories r
      LEFT JOIN teams t ON t.name = r.team
      JOIN tag_policies p ON p.id = COALESCE(r.tag_policy_id, t.tag_policy_id, 1);

-- What decides over each existing tag now.
CREATE VIEW tag_modes AS
    SELECT g.repository_id, g.name,
           CASE WHEN g.sealed THEN 'sealed'
                WHEN EXISTS (SELECT 1 FROM tag_policy_exemptions e
                              WHERE e.policy_id = p.policy_id AND glob(e.pattern, g.name)) THEN 'mutable'
                ELSE p.mode END AS mode
      FROM tags g
      JOIN repository_tag_policies p ON p.repository_id = g.repository_id;

CREATE TRIGGER tags_seal AFTER INSERT ON tags
WHEN (SELECT mode FROM tag_modes WHERE repository_id = NEW.repository_id AND name = NEW.name) = 'sealed'
BEGIN
    UPDATE tags SET sealed = TRUE WHERE repository_id = NEW.repository_id AND name = NEW.name;
END;

-- INSERT OR REPLACE removes the row that is in its way without a word to the
-- delete triggers, so a tag that may not move is not in anybody's way.
CREATE TRIGGER tags_replace BEFORE INSERT ON tags
WHEN EXISTS (SELECT 1 FROM tag_modes
              WHERE repository_id = NEW.repository_id AND name = NEW.name AND mode <> 'mutable')
BEGIN
    SELECT RAISE(ABORT, 'the tag exists and cannot be moved');
END;

CREATE TRIGGER tags_rename BEFORE UPDATE OF repository_id, name ON tags
WHEN NEW.repository_id <> OLD.repository_id OR NEW.name <> OLD.name
BEGIN
    SELECT RAISE(ABORT, 'a tag cannot be renamed');
END;

CREATE TRIGGER tags_unseal BEFORE UPDATE OF sealed ON tags
WHEN OLD.sealed AND NOT NEW.sealed
BEGIN
    SELECT RAISE(ABORT, 'the tag is sealed for ever');
END;

CREATE TRIGGER tags_move BEFORE UPDATE OF digest ON tags
WHEN NEW.digest <> OLD.digest AND COALESCE((SELECT mode FROM tag_modes
     WHERE repository_id = OLD.repository_id AND name = OLD.name), '') <> 'mutable'
BEGIN
    SELECT RAISE(ABORT, 'the tag cannot be moved');
END;

CREATE TRIGGER tags_delete BEFORE DELETE ON tags
WHEN OLD.sealed OR (SELECT mode FROM tag_modes
     WHERE repository_id = OLD.repository_id AND name = OLD.name) = 'sealed'
BEGIN
    SELECT RAISE(ABORT, 'the tag is sealed and cannot be deleted');
END;

CREATE TRIGGER tags_delete_unnamed BEFORE DELETE ON tags
WHEN OLD.removed_by IS NULL AND (SELECT mode FROM tag_modes
     WHERE repository_id = OLD.repository_id AND name = OLD.name) = 'immutable'
BEGIN
    SELECT RAISE(ABORT, 'the tag is immutable: set removed_by to delete it on record');
END;

-- Under another name the same tag could be pushed anew.
CREATE TRIGGER repositories_rename BEFORE UPDATE OF id, name ON repositories
WHEN NEW.id <> OLD.id OR NEW.name <> OLD.name
BEGIN
    SELECT RAISE(ABORT, 'a repository cannot be renamed');
END;

-- What a digest names never changes.
CREATE TRIGGER manifests_update BEFORE UPDATE OF id, repository_id, digest, payload ON manifests
BEGIN
    SELECT RAISE(ABORT, 'a manifest cannot be changed');
END;

-- A shell has foreign keys off unless told otherwise: these hold without.
CREATE TRIGGER manifests_delete_tagged BEFORE DELETE ON manifests
WHEN EXISTS (SELECT 1 FROM tags WHERE repository_id = OLD.repository_id AND digest = OLD.digest)
BEGIN
    SELECT RAISE(ABORT, 'the manifest has tags: delete them first');
END;

CREATE TRIGGER repositories_delete_tagged BEFORE DELETE ON repositories
WHEN EXISTS (SELECT 1 FROM tags WHERE repository_id = OLD.id)
BEGIN
    SELECT RAISE(ABORT, 'the repository has tags: delete them first');
END;

-- As tags_replace: nothing is in the way of another repository or another event.
CREATE TRIGGER repositories_replace BEFORE INSERT ON repositories
WHEN EXISTS (SELECT 1 FROM tags WHERE repository_id = NEW.id)
  OR EXISTS (SELECT 1 FROM repositories r JOIN tags t ON t.repository_id = r.id WHERE r.name = NEW.name)
BEGIN
    SELECT RAISE(ABORT, 'the repository exists and has tags');
END;

CREATE TRIGGER tag_history_no_replace BEFORE INSERT ON tag_history
WHEN EXISTS (SELECT 1 FROM tag_history WHERE id = NEW.id)
BEGIN
    SELECT RAISE(ABORT, 'tag_history is append-only');
END;

-- Every change of a tag leaves a line, whoever made it.
CREATE TRIGGER tags_record_create AFTER INSERT ON tags
BEGIN
    INSERT INTO tag_history (repository, tag, action, digest, previous, actor, at)
    SELECT r.name, NEW.name, 'create', NEW.digest, NULL, NEW.updated_by, NEW.updated_at
      FROM repositories r WHERE r.id = NEW.repository_id;
END;

CREATE TRIGGER tags_record_move AFTER UPDATE OF digest ON tags
WHEN NEW.digest <> OLD.digest
BEGIN
    INSERT INTO tag_history (repository, tag, action, digest, previous, actor, at)
    SELECT r.name, NEW.name, 'move', NEW.digest, OLD.digest, NEW.updated_by, NEW.updated_at
      FROM repositories r WHERE r.id = NEW.repository_id;
END;

CREATE TRIGGER tags_record_delete AFTER DELETE ON tags
BEGIN
    INSERT INTO tag_history (repository, tag, action, digest, previous, actor, at)
    SELECT r.name, OLD.name, 'delete', OLD.digest, OLD.digest, COALESCE(OLD.removed_by, 'sql'),
           CAST(unixepoch('subsec') * 1000000 AS INTEGER)
      FROM repositories r WHERE r.id = OLD.repository_id;
END;

CREATE TRIGGER tag_history_no_update BEFORE UPDATE ON tag_history
BEGIN
    SELECT RAISE(ABORT, 'tag_history is append-only');
END;

CREATE TRIGGER tag_history_no_delete BEFORE DELETE ON tag_history
BEGIN
    SELECT RAISE(ABORT, 'tag_history is append-only');
END;
