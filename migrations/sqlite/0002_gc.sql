-- Garbage collection: queues of what may be unreferenced. Whatever takes a
-- reference away puts what it pointed to in a queue; so does a push, whose
-- manifest may never come. A row is a reason to look, never a verdict: the
-- collector looks at the tables when the grace period is over, and drops what is
-- in use. The times are this database's clock, on which the collector relies too.

-- Manifests that perhaps no tag, index or subject holds. settled: the
-- collector has found nothing that holds it, and only the policy for untagged
-- manifests keeps it.
CREATE TABLE gc_manifests (
    manifest_id INTEGER PRIMARY KEY,
    reason      TEXT NOT NULL CHECK (reason IN ('pushed', 'untagged', 'index', 'subject')),
    settled     BOOLEAN NOT NULL DEFAULT FALSE,
    enqueued_at INTEGER NOT NULL
);
CREATE INDEX gc_manifests_due ON gc_manifests (settled, enqueued_at);

-- Blobs of a repository that perhaps none of its manifests needs.
CREATE TABLE gc_links (
    id            INTEGER PRIMARY KEY AUTOINCREMENT,
    repository_id INTEGER NOT NULL,
    digest        TEXT NOT NULL,
    enqueued_at   INTEGER NOT NULL,
    UNIQUE (repository_id, digest)
);
CREATE INDEX gc_links_due ON gc_links (enqueued_at);

-- Blobs that perhaps no repository has.
CREATE TABLE gc_blobs (
    digest      TEXT PRIMARY KEY,
    enqueued_at INTEGER NOT NULL
);
CREATE INDEX gc_blobs_due ON gc_blobs (enqueued_at);

-- What a removed object held.
ALTER TABLE garbage ADD COLUMN digest TEXT NOT NULL DEFAULT '';
ALTER TABLE garbage ADD COLUMN size INTEGER NOT NULL DEFAULT 0;
CREATE INDEX garbage_object ON garbage (value) WHERE kind = 'object';
CREATE INDEX garbage_digest ON garbage (digest) WHERE digest <> '';

-- Since when the bytes are known to be gone or damaged; NULL is healthy. Such a blob
-- is not served, and the next push of it brings it back.
ALTER TABLE blobs ADD COLUMN missing_since INTEGER;
CREATE INDEX blobs_missing ON blobs (digest) WHERE missing_since IS NOT NULL;

-- Deleting a manifest asks for its tags by this index. With repository_id in front SQLite takes the
-- primary key instead, and reads every tag of the repository. (The table has no rowid, so
-- the index ends with repository_id and name all the same.)
DROP INDEX tags_digest;
CREATE INDEX tags_digest ON tags (digest);

CREATE TRIGGER gc_manifest_pushed AFTER INSERT ON manifests
BEGIN
    INSERT INTO gc_manifests (manifest_id, reason, enqueued_at)
    VALUES (NEW.id, 'pushed', CAST(unixepoch('subsec') * 1000000 AS INTEGER));
END;

CREATE TRIGGER gc_manifest_deleted AFTER DELETE ON manifests
BEGIN
    DELETE FROM gc_manifests WHERE manifest_id = OLD.id;
    INSERT INTO gc_manifests (manifest_id, reason, enqueued_at)
    SELECT id, 'subject', CAST(unixepoch('subsec') * 1000000 AS INTEGER)
      FROM manifests WHERE repository_id = OLD.repository_id AND subject = OLD.digest
    ON CONFLICT (manifest_id) DO UPDATE
       SET reason = excluded.reason, settled = FALSE, enqueued_at = excluded.enqueued_at;
END;

CREATE TRIGGER gc_tag_moved AFTER UPDATE OF digest ON tags
WHEN NEW.digest <> OLD.digest
BEGIN
    INSERT INTO gc_manifests (manifest_id, reason, enqueued_at)
    SELECT id, 'untagged', CAST(unixepoch('subsec') * 1000000 AS INTEGER)
      FROM manifests WHERE repository_id = OLD.repository_id AND digest = OLD.digest
    ON CONFLICT (manifest_id) DO UPDATE
       SET reason = excluded.reason, settled = FALSE, enqueued_at = excluded.enqueued_at;
END;

CREATE TRIGGER gc_tag_deleted AFTER DELETE ON tags
BEGIN
    INSERT INTO gc_manifests (manifest_id, reason, enqueued_at)
    SELECT id, 'untagged', CAST(unixepoch('subsec') * 1000000 AS INTEGER)
      FROM manifests WHERE repository_id = OLD.repository_id AND digest = OLD.digest
    ON CONFLICT (manifest_id) DO UPDATE
       SET reason = excluded.reason, settled = FALSE, enqueued_at = excluded.enqueued_at;
END;

CREATE TRIGGER gc_child_released AFTER DELETE ON manifest_children
WHEN OLD.child_id IS NOT NULL
BEGIN
    INSERT INTO gc_manifests (manifest_id, reason, enqueued_at)
    VALUES (OLD.child_id, 'index', CAST(unixepoch('subsec') * 1000000 AS INTEGER))
    ON CONFLICT (manifest_id) DO UPDATE
       SET reason = excluded.reason, settled = FALSE, enqueued_at = excluded.enqueued_at;
END;

CREATE TRIGGER gc_blob_released AFTER DELETE ON manifest_blobs
BEGIN
    INSERT INTO gc_links (repository_id, digest, enqueued_at)
    VALUES (OLD.repository_id, OLD.digest, CAST(unixepoch('subsec') * 1000000 AS INTEGER))
    ON CONFLICT (repository_id, digest) DO UPDATE SET enqueued_at = excluded.enqueued_at;
END;

CREATE TRIGGER gc_link_pushed AFTER INSERT ON repository_blobs
BEGIN
    INSERT INTO gc_links (repository_id, digest, enqueued_at)
    VALUES (NEW.repository_id, NEW.digest, CAST(unixepoch('subsec') * 1000000 AS INTEGER))
    ON CONFLICT (repository_id, digest) DO UPDATE SET enqueued_at = excluded.enqueued_at;
END;

-- A link is pushed again by updating created_at, which begins its grace period anew.
CREATE TRIGGER gc_link_pushed_again AFTER UPDATE OF created_at ON repository_blobs
BEGIN
    INSERT INTO gc_links (repository_id, digest, enqueued_at)
    VALUES (NEW.repository_id, NEW.digest, CAST(unixepoch('subsec') * 1000000 AS INTEGER))
    ON CONFLICT (repository_id, digest) DO UPDATE SET enqueued_at = excluded.enqueued_at;
END;

CREATE TRIGGER gc_link_deleted AFTER DELETE ON repository_blobs
BEGIN
    DELETE FROM gc_links WHERE repository_id = OLD.repository_id AND digest = OLD.digest;
    INSERT INTO gc_blobs (digest, enqueued_at)
    VALUES (OLD.digest, CAST(unixepoch('subsec') * 1000000 AS INTEGER))
    ON CONFLICT (digest) DO UPDATE SET enqueued_at = excluded.enqueued_at;
END;

-- What is unreferenced already.
INSERT INTO gc_manifests (manifest_id, reason, enqueued_at)
SELECT m.id, 'pushed', CAST(unixepoch('subsec') * 1000000 AS INTEGER)
  FROM manifests m
 WHERE NOT EXISTS (SELECT 1 FROM tags t WHERE t.repository_id = m.repository_id AND t.digest = m.digest)
   AND NOT EXISTS (SELECT 1 FROM manifest_children c WHERE c.child_id = m.id)
   AND NOT EXISTS (SELECT 1 FROM manifests s WHERE s.repository_id = m.repository_id AND s.digest = m.subject);

INSERT INTO gc_links (repository_id, digest, enqueued_at)
SELECT l.repository_id, l.digest, CAST(unixepoch('subsec') * 1000000 AS INTEGER)
  FROM repository_blobs l
 WHERE NOT EXISTS (SELECT 1 FROM manifest_blobs b WHERE b.repository_id = l.repository_id AND b.digest = l.digest);

INSERT INTO gc_blobs (digest, enqueued_at)
SELECT b.digest, CAST(unixepoch('subsec') * 1000000 AS INTEGER)
  FROM blobs b
 WHERE NOT EXISTS (SELECT 1 FROM repository_blobs l WHERE l.digest = b.digest);
