-- Garbage collection: queues of what may be unreferenced. Whatever takes a
-- reference away puts what it pointed to in a queue; so does a push, whose
-- manifest may never come. A row is a reason to look, never a verdict: the
-- collector looks at the tables when the grace period is over, and drops what is
-- in use. The times are this database's clock, on which the collector relies too.
--
-- A row that is there already is updated, never left alone (DO NOTHING): the
-- update waits for a collector that is dropping the row because the reference
-- still stood when it looked. Many rows are written in one order, so that locks cannot cross.

-- Manifests that perhaps no tag, index or subject holds. settled: the
-- collector has found nothing that holds it, and only the policy for untagged
-- manifests keeps it.
CREATE TABLE gc_manifests (
    manifest_id BIGINT PRIMARY KEY,
    reason      TEXT NOT NULL CHECK (reason IN ('pushed', 'untagged', 'index', 'subject')),
    settled     BOOLEAN NOT NULL DEFAULT FALSE,
    enqueued_at BIGINT NOT NULL
);
CREATE INDEX gc_manifests_due ON gc_manifests (settled, enqueued_at);

-- Blobs of a repository that perhaps none of its manifests needs.
CREATE TABLE gc_links (
    id            BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    repository_id BIGINT NOT NULL,
    digest        TEXT COLLATE "C" NOT NULL,
    enqueued_at   BIGINT NOT NULL,
    UNIQUE (repository_id, digest)
);
CREATE INDEX gc_links_due ON gc_links (enqueued_at);

-- Blobs that perhaps no repository has.
CREATE TABLE gc_blobs (
    digest      TEXT COLLATE "C" PRIMARY KEY,
    enqueued_at BIGINT NOT NULL
);
CREATE INDEX gc_blobs_due ON gc_blobs (enqueued_at);

-- What a removed object held.
ALTER TABLE garbage ADD COLUMN digest TEXT COLLATE "C" NOT NULL DEFAULT '';
ALTER TABLE garbage ADD COLUMN size BIGINT NOT NULL DEFAULT 0;
CREATE INDEX garbage_object ON garbage (value) WHERE kind = 'object';
CREATE INDEX garbage_digest ON garbage (digest) WHERE digest <> '';

-- Since when the bytes are known to be gone or damaged; NULL is healthy. Such a blob
-- is not served, and the next push of it brings it back.
ALTER TABLE blobs ADD COLUMN missing_since BIGINT;
CREATE INDEX blobs_missing ON blobs (digest) WHERE missing_since IS NOT NULL;

CREATE FUNCTION gc_now() RETURNS BIGINT LANGUAGE sql STABLE AS $$
    SELECT (extract(epoch FROM statement_timestamp()) * 1000000)::BIGINT
$$;

CREATE FUNCTION gc_manifest_pushed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO gc_manifests (manifest_id, reason, enqueued_at) VALUES (NEW.id, 'pushed', gc_now());
    RETURN NULL;
END $$;
CREATE TRIGGER gc_manifest_pushed AFTER INSERT ON manifests
    FOR EACH ROW EXECUTE FUNCTION gc_manifest_pushed();

CREATE FUNCTION gc_manifests_deleted() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM gc_manifests WHERE manifest_id IN (SELECT id FROM gone);
    INSERT INTO gc_manifests (manifest_id, reason, enqueued_at)
    SELECT DISTINCT m.id, 'subject', gc_now()
      FROM gone g JOIN manifests m ON m.repository_id = g.repository_id AND m.subject = g.digest
     ORDER BY m.id
    ON CONFLICT (manifest_id) DO UPDATE
       SET reason = excluded.reason, settled = FALSE, enqueued_at = excluded.enqueued_at;
    RETURN NULL;
END $$;
CREATE TRIGGER gc_manifests_deleted AFTER DELETE ON manifests REFERENCING OLD TABLE AS gone
    FOR EACH STATEMENT EXECUTE FUNCTION gc_manifests_deleted();

CREATE FUNCTION gc_tag_moved() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO gc_manifests (manifest_id, reason, enqueued_at)
    SELECT id, 'untagged', gc_now() FROM manifests WHERE repository_id = OLD.repository_id AND digest = OLD.digest
    ON CONFLICT (manifest_id) DO UPDATE
       SET reason = excluded.reason, settled = FALSE, enqueued_at = excluded.enqueued_at;
    RETURN NULL;
END $$;
CREATE TRIGGER gc_tag_moved AFTER UPDATE OF digest ON tags
    FOR EACH ROW WHEN (NEW.digest <> OLD.digest) EXECUTE FUNCTION gc_tag_moved();

CREATE FUNCTION gc_tags_deleted() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO gc_manifests (manifest_id, reason, enqueued_at)
    SELECT DISTINCT m.id, 'untagged', gc_now()
      FROM gone g JOIN manifests m ON m.repository_id = g.repository_id AND m.digest = g.digest
     ORDER BY m.id
    ON CONFLICT (manifest_id) DO UPDATE
       SET reason = excluded.reason, settled = FALSE, enqueued_at = excluded.enqueued_at;
    RETURN NULL;
END $$;
CREATE TRIGGER gc_tags_deleted AFTER DELETE ON tags REFERENCING OLD TABLE AS gone
    FOR EACH STATEMENT EXECUTE FUNCTION gc_tags_deleted();

CREATE FUNCTION gc_children_released() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO gc_manifests (manifest_id, reason, enqueued_at)
    SELECT DISTINCT child_id, 'index', gc_now() FROM gone WHERE child_id IS NOT NULL ORDER BY child_id
    ON CONFLICT (manifest_id) DO UPDATE
       SET reason = excluded.reason, settled = FALSE, enqueued_at = excluded.enqueued_at;
    RETURN NULL;
END $$;
CREATE TRIGGER gc_children_released AFTER DELETE ON manifest_children REFERENCING OLD TABLE AS gone
    FOR EACH STATEMENT EXECUTE FUNCTION gc_children_released();

CREATE FUNCTION gc_blobs_released() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO gc_links (repository_id, digest, enqueued_at)
    SELECT DISTINCT repository_id, digest, gc_now() FROM gone ORDER BY repository_id, digest
    ON CONFLICT (repository_id, digest) DO UPDATE SET enqueued_at = excluded.enqueued_at;
    RETURN NULL;
END $$;
CREATE TRIGGER gc_blobs_released AFTER DELETE ON manifest_blobs REFERENCING OLD TABLE AS gone
    FOR EACH STATEMENT EXECUTE FUNCTION gc_blobs_released();

-- A link is pushed again by updating created_at, which begins its grace period anew.
CREATE FUNCTION gc_link_pushed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO gc_links (repository_id, digest, enqueued_at) VALUES (NEW.repository_id, NEW.digest, gc_now())
    ON CONFLICT (repository_id, digest) DO UPDATE SET enqueued_at = excluded.enqueued_at;
    RETURN NULL;
END $$;
CREATE TRIGGER gc_link_pushed AFTER INSERT OR UPDATE OF created_at ON repository_blobs
    FOR EACH ROW EXECUTE FUNCTION gc_link_pushed();

CREATE FUNCTION gc_links_deleted() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM gc_links l USING gone g WHERE l.repository_id = g.repository_id AND l.digest = g.digest;
    INSERT INTO gc_blobs (digest, enqueued_at)
    SELECT DISTINCT digest, gc_now() FROM gone ORDER BY digest
    ON CONFLICT (digest) DO UPDATE SET enqueued_at = excluded.enqueued_at;
    RETURN NULL;
END $$;
CREATE TRIGGER gc_links_deleted AFTER DELETE ON repository_blobs REFERENCING OLD TABLE AS gone
    FOR EACH STATEMENT EXECUTE FUNCTION gc_links_deleted();

-- What is unreferenced already.
INSERT INTO gc_manifests (manifest_id, reason, enqueued_at)
SELECT m.id, 'pushed', gc_now()
  FROM manifests m
 WHERE NOT EXISTS (SELECT 1 FROM tags t WHERE t.repository_id = m.repository_id AND t.digest = m.digest)
   AND NOT EXISTS (SELECT 1 FROM manifest_children c WHERE c.child_id = m.id)
   AND NOT EXISTS (SELECT 1 FROM manifests s WHERE s.repository_id = m.repository_id AND s.digest = m.subject);

INSERT INTO gc_links (repository_id, digest, enqueued_at)
SELECT l.repository_id, l.digest, gc_now()
  FROM repository_blobs l
 WHERE NOT EXISTS (SELECT 1 FROM manifest_blobs b WHERE b.repository_id = l.repository_id AND b.digest = l.digest);

INSERT INTO gc_blobs (digest, enqueued_at)
SELECT b.digest, gc_now()
  FROM blobs b
 WHERE NOT EXISTS (SELECT 1 FROM repository_blobs l WHERE l.digest = b.digest);
