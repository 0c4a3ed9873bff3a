-- Who outside providers vouch for, groups, grants, and denials.

-- source says who vouches for a user: local (a password or a token of ours), or
-- the name of a provider, whose own stable id of the user is subject.
ALTER TABLE users ADD COLUMN source TEXT NOT NULL DEFAULT 'local';
ALTER TABLE users ADD COLUMN subject TEXT;
ALTER TABLE users ADD COLUMN provider_admin BOOLEAN NOT NULL DEFAULT FALSE; -- the provider gives the admin role
ALTER TABLE users ADD COLUMN seen_at BIGINT;                               -- when the provider last vouched
CREATE UNIQUE INDEX users_subject ON users (source, subject) WHERE subject IS NOT NULL;

-- What a provider said of its user at the last sign-in. Teams and groups are
-- named, for they need no row of ours.
CREATE TABLE provider_teams (
    user_id BIGINT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    team    TEXT NOT NULL,
    role    TEXT NOT NULL CHECK (role IN ('reader', 'member', 'maintainer')),
    PRIMARY KEY (user_id, team)
);
CREATE INDEX provider_teams_team ON provider_teams (team, user_id);

CREATE TABLE provider_groups (
    user_id BIGINT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    name    TEXT NOT NULL,
    PRIMARY KEY (user_id, name)
);
CREATE INDEX provider_groups_name ON provider_groups (name, user_id);

CREATE TABLE groups (
    id         INTEGER PRIMARY KEY,
    name       TEXT NOT NULL UNIQUE,
    disabled   BOOLEAN NOT NULL DEFAULT FALSE,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);

CREATE TABLE group_members (
    group_id   BIGINT NOT NULL REFERENCES groups (id) ON DELETE CASCADE,
    user_id    BIGINT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (group_id, user_id)
);
CREATE INDEX group_members_user ON group_members (user_id, group_id);

-- A right of one user or one group on the repositories that a pattern (* and ?)
-- matches. Each is independent of all others.
CREATE TABLE grants (
    id         INTEGER PRIMARY KEY,
    user_id    BIGINT REFERENCES users (id) ON DELETE CASCADE,
    group_id   BIGINT REFERENCES groups (id) ON DELETE CASCADE,
    pattern    TEXT NOT NULL CHECK (pattern NOT LIKE '%[%'), -- SQLite's GLOB would know [a-z]
    team       TEXT NOT NULL, -- first path segment of the pattern; '' when a wildcard stands in it
    actions    TEXT NOT NULL, -- comma separated: pull,push,delete,admin
    created_at BIGINT NOT NULL,
    created_by TEXT NOT NULL,
    updated_at BIGINT NOT NULL,
    CHECK ((user_id IS NULL) <> (group_id IS NULL))
);
CREATE UNIQUE INDEX grants_user ON grants (user_id, pattern) WHERE user_id IS NOT NULL;
CREATE UNIQUE INDEX grants_group ON grants (group_id, pattern) WHERE group_id IS NOT NULL;
CREATE INDEX grants_team ON grants (team, id);

-- What is refused whatever else allows it. An empty field matches all: who, from
-- where, on what.
CREATE TABLE denials (
    id         INTEGER PRIMARY KEY,
    name       TEXT NOT NULL UNIQUE,
    principal  TEXT NOT NULL DEFAULT '*' CHECK (principal NOT LIKE '%[%'), -- pattern on the principal's name (alice, core+ci)
    cidr       TEXT NOT NULL DEFAULT '',
    pattern    TEXT NOT NULL DEFAULT '*' CHECK (pattern NOT LIKE '%[%'),
    actions    TEXT NOT NULL,
    reason     TEXT NOT NULL DEFAULT '',
    created_at BIGINT NOT NULL,
    created_by TEXT NOT NULL,
    updated_at BIGINT NOT NULL
);

-- Grows with each change of the denials, so that a replica that remembers them
-- knows by the query it makes anyway whether they still are what it remembers.
CREATE TABLE denial_version (
    id      INTEGER PRIMARY KEY CHECK (id = 1),
    version BIGINT NOT NULL
);
INSERT INTO denial_version (id, version) VALUES (1, 1);

CREATE INDEX users_admins ON users (name) WHERE role = 'admin' OR provider_admin;
