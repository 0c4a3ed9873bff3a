-- Which outside workloads act as which robot, and the sessions of browsers.

-- Issuers that administrators let teams choose, beside those of the settings.
CREATE TABLE trust_issuers (
    url        TEXT COLLATE "C" PRIMARY KEY,
    created_at BIGINT NOT NULL,
    created_by TEXT NOT NULL
);

-- Tokens of an issuer, for an audience, with claims, act as a robot of a team. The
-- issuer has no foreign key: it may stand in the settings. A policy whose issuer is
-- in neither place does nothing.
CREATE TABLE trust_policies (
    id           BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    team_id      BIGINT NOT NULL REFERENCES teams (id) ON DELETE CASCADE,
    name         TEXT COLLATE "C" NOT NULL,
    issuer       TEXT COLLATE "C" NOT NULL,
    audience     TEXT COLLATE "C" NOT NULL,
    claims       TEXT NOT NULL, -- a JSON object: claim -> pattern (* and ?)
    robot        TEXT COLLATE "C" NOT NULL,
    repositories TEXT COLLATE "C" NOT NULL, -- glob on the repository's name
    actions      TEXT NOT NULL,             -- comma separated: pull,push,delete,admin
    tags         TEXT COLLATE "C" NOT NULL, -- glob on the tag; '' is every tag
    max_seconds  BIGINT NOT NULL,           -- longest life of a registry token
    created_at   BIGINT NOT NULL,
    created_by   TEXT NOT NULL,
    updated_at   BIGINT NOT NULL,
    last_used_at BIGINT,
    UNIQUE (team_id, name)
);
-- The oldest policy that matches decides, so they are read in the order of their ids.
CREATE INDEX trust_policies_issuer ON trust_policies (issuer, audience, id);

-- Who is signed in with a browser; the cookie holds what hashes to secret_hash.
CREATE TABLE web_sessions (
    secret_hash TEXT PRIMARY KEY,
    user_id     BIGINT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    created_at  BIGINT NOT NULL,
    expires_at  BIGINT NOT NULL
);
CREATE INDEX web_sessions_user ON web_sessions (user_id);
CREATE INDEX web_sessions_expires ON web_sessions (expires_at);
