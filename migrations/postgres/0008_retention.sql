-- Retention, what can be undone, and quotas.

-- What a team or a repository keeps. The two columns are inherited each for
-- itself: the repository's, else its team's, else the instance's setting.
CREATE TABLE retention_policies (
    id            BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    team_id       BIGINT UNIQUE REFERENCES teams (id) ON DELETE CASCADE,
    repository_id BIGINT UNIQUE REFERENCES repositories (id) ON DELETE CASCADE,
    rules         TEXT,                  -- JSON list, NULL inherits
    untagged_ttl  BIGINT,                -- microseconds, 0 keeps, NULL inherits
    updated_at    BIGINT NOT NULL,
    updated_by    TEXT NOT NULL,
    next_at       BIGINT NOT NULL,       -- when the rules are applied next
    progress      TEXT COLLATE "C" NOT NULL DEFAULT '', -- the last repository that the run under way has done
    ran_at        BIGINT,                -- when the last run ended
    CHECK ((team_id IS NULL) <> (repository_id IS NULL))
);
CREATE INDEX retention_policies_next ON retention_policies (next_at, id) WHERE rules IS NOT NULL;

CREATE VIEW repository_retention AS
    SELECT r.id AS repository_id,
           COALESCE(o.rules, p.rules) AS rules,
           CASE WHEN o.rules IS NOT NULL THEN 'repository' WHEN p.rules IS NOT NULL THEN 'team' ELSE 'instance' END AS rules_level,
           COALESCE(o.untagged_ttl, p.untagged_ttl) AS untagged_ttl,
           CASE WHEN o.untagged_ttl IS NOT NULL THEN 'repository' WHEN p.untagged_ttl IS NOT NULL THEN 'team' ELSE 'instance' END AS ttl_level
      FROM repositories r
      LEFT JOIN retention_policies o ON o.repository_id = r.id
      LEFT JOIN teams t ON t.name = r.team
      LEFT JOIN retention_policies p ON p.team_id = t.id;

-- One row. pulls_since: nothing is known of pulls before. review_after: the
-- policies have changed, and untagged manifests up to this one have been looked at again; NULL for all.
CREATE TABLE retention_state (
    id           INTEGER PRIMARY KEY CHECK (id = 1),
    pulls_since  BIGINT NOT NULL,
    review_after BIGINT
);
INSERT INTO retention_state (id, pulls_since) VALUES (1, gc_now());

-- When a manifest was last asked for, exact to an hour.
CREATE TABLE manifest_pulls (
    manifest_id BIGINT PRIMARY KEY REFERENCES manifests (id) ON DELETE CASCADE,
    pulled_at   BIGINT NOT NULL
);

-- When a nearer policy than the instance's lets a settled manifest go; NULL leaves
-- it to the setting. Equal to enqueued_at: retention has let its tag go.
ALTER TABLE gc_manifests ADD COLUMN release_at BIGINT;
CREATE INDEX gc_manifests_untagged ON gc_manifests (enqueued_at, manifest_id) WHERE settled AND release_at IS NULL;
CREATE INDEX gc_manifests_release ON gc_manifests (release_at, manifest_id) WHERE settled AND release_at IS NOT NULL;

-- What was deleted and can be restored until the undo window is over. These rows hold
-- what they name as tags and manifests do; they have no foreign key to it, for deleting it on purpose is allowed.
CREATE TABLE deleted_manifests (
    id            BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    repository_id BIGINT NOT NULL REFERENCES repositories (id) ON DELETE CASCADE,
    digest        TEXT COLLATE "C" NOT NULL,
    media_type    TEXT NOT NULL,
    artifact_type TEXT NOT NULL,
    annotations   TEXT NOT NULL,
    subject       TEXT COLLATE "C",
    size          BIGINT NOT NULL,
    created_at    BIGINT NOT NULL,
    created_by    TEXT NOT NULL,
    deleted_at    BIGINT NOT NULL,
    deleted_by    TEXT NOT NULL,
    payload       BYTEA NOT NULL
);
CREATE INDEX deleted_manifests_repository ON deleted_manifests (repository_id, id);
CREATE INDEX deleted_manifests_digest ON deleted_manifests (repository_id, digest, id);
CREATE INDEX deleted_manifests_at ON deleted_manifests (deleted_at, id);

CREATE TABLE deleted_references (
    deletion_id   BIGINT NOT NULL REFERENCES deleted_manifests (id) ON DELETE CASCADE,
    kind          TEXT NOT NULL CHECK (kind IN ('blob', 'child', 'waiting')), -- waiting: a child that a sparse index lacked
    repository_id BIGINT NOT NULL,
    digest        TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (deletion_id, kind, digest)
);
CREATE INDEX deleted_references_digest ON deleted_references (repository_id, digest);

CREATE TABLE deleted_tags (
    id            BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    repository_id BIGINT NOT NULL REFERENCES repositories (id) ON DELETE CASCADE,
    name          TEXT COLLATE "C" NOT NULL,
    digest        TEXT COLLATE "C" NOT NULL,
    created_at    BIGINT NOT NULL,
    deleted_at    BIGINT NOT NULL,
    deleted_by    TEXT NOT NULL,
    deletion_id   BIGINT -- of the manifest whose deletion took the tag along
);
CREATE INDEX deleted_tags_repository ON deleted_tags (repository_id, id);
CREATE INDEX deleted_tags_name ON deleted_tags (repository_id, name, id);
CREATE INDEX deleted_tags_digest ON deleted_tags (repository_id, digest);
CREATE INDEX deleted_tags_at ON deleted_tags (deleted_at, id);
CREATE INDEX deleted_tags_deletion ON deleted_tags (deletion_id) WHERE deletion_id IS NOT NULL;

-- Quotas. What a team uses is counted only while it has one. used_*: what the ledger
-- said until it was last folded. counted: FALSE while the first count is made; the quota holds after it.
CREATE TABLE team_quotas (
    team              TEXT COLLATE "C" PRIMARY KEY REFERENCES teams (name) ON DELETE CASCADE,
    max_bytes         BIGINT, -- NULL is no limit, here and below
    max_repositories  BIGINT,
    max_tags          BIGINT,
    counted           BOOLEAN NOT NULL DEFAULT FALSE,
    used_bytes        BIGINT NOT NULL DEFAULT 0,
    used_repositories BIGINT NOT NULL DEFAULT 0,
    used_tags         BIGINT NOT NULL DEFAULT 0,
    updated_at        BIGINT NOT NULL,
    updated_by        TEXT NOT NULL
);

-- The blobs that used_bytes has counted: each once for a team, however many of its repositories have it.
CREATE TABLE quota_blobs (
    team   TEXT COLLATE "C" NOT NULL REFERENCES team_quotas (team) ON DELETE CASCADE,
    digest TEXT COLLATE "C" NOT NULL,
    size   BIGINT NOT NULL,
    PRIMARY KEY (team, digest)
);

-- Append-only: what changed since. With a digest it is a reason to look whether the team has
-- the blob, and its size until then; else it is added as it is. Folding removes it.
CREATE TABLE quota_ledger (
    id           BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    team         TEXT COLLATE "C" NOT NULL,
    digest       TEXT COLLATE "C" NOT NULL DEFAULT '',
    bytes        BIGINT NOT NULL DEFAULT 0,
    repositories BIGINT NOT NULL DEFAULT 0,
    tags         BIGINT NOT NULL DEFAULT 0
);
CREATE INDEX quota_ledger_team ON quota_ledger (team, id);

-- An upload's row is its reservation, when its team has a quota.
ALTER TABLE uploads ADD COLUMN quota_team TEXT COLLATE "C";
ALTER TABLE uploads ADD COLUMN reserved BIGINT NOT NULL DEFAULT 0;
CREATE INDEX uploads_quota ON uploads (quota_team) WHERE quota_team IS NOT NULL;

CREATE FUNCTION quota_link() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (SELECT 1 FROM team_quotas) THEN
        RETURN NULL;
    END IF;
    IF TG_OP = 'INSERT' THEN
        INSERT INTO quota_ledger (team, digest, bytes)
        SELECT q.team, b.digest, b.size FROM repositories r JOIN team_quotas q ON q.team = r.team JOIN blobs b ON b.digest = NEW.digest
         WHERE r.id = NEW.repository_id;
    ELSE
        INSERT INTO quota_ledger (team, digest)
        SELECT q.team, OLD.digest FROM repositories r JOIN team_quotas q ON q.team = r.team WHERE r.id = OLD.repository_id;
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER quota_link AFTER INSERT OR DELETE ON repository_blobs
    FOR EACH ROW EXECUTE FUNCTION quota_link();

CREATE FUNCTION quota_manifest() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (SELECT 1 FROM team_quotas) THEN
        RETURN NULL;
    END IF;
    IF TG_OP = 'INSERT' THEN
        INSERT INTO quota_ledger (team, bytes)
        SELECT q.team, NEW.size FROM repositories r JOIN team_quotas q ON q.team = r.team WHERE r.id = NEW.repository_id;
    ELSE
        INSERT INTO quota_ledger (team, bytes)
        SELECT q.team, -OLD.size FROM repositories r JOIN team_quotas q ON q.team = r.team WHERE r.id = OLD.repository_id;
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER quota_manifest AFTER INSERT OR DELETE ON manifests
    FOR EACH ROW EXECUTE FUNCTION quota_manifest();

CREATE FUNCTION quota_tag() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (SELECT 1 FROM team_quotas) THEN
        RETURN NULL;
    END IF;
    IF TG_OP = 'INSERT' THEN
        INSERT INTO quota_ledger (team, tags)
        SELECT q.team, 1 FROM repositories r JOIN team_quotas q ON q.team = r.team WHERE r.id = NEW.repository_id;
    ELSE
        INSERT INTO quota_ledger (team, tags)
        SELECT q.team, -1 FROM repositories r JOIN team_quotas q ON q.team = r.team WHERE r.id = OLD.repository_id;
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER quota_tag AFTER INSERT OR DELETE ON tags
    FOR EACH ROW EXECUTE FUNCTION quota_tag();

CREATE FUNCTION quota_repository() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO quota_ledger (team, repositories) SELECT team, 1 FROM team_quotas WHERE team = NEW.team;
    ELSE
        INSERT INTO quota_ledger (team, repositories) SELECT team, -1 FROM team_quotas WHERE team = OLD.team;
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER quota_repository AFTER INSERT OR DELETE ON repositories
    FOR EACH ROW EXECUTE FUNCTION quota_repository();
