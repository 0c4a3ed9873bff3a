-- AWS accounts whose machines may sign in. The role '' stands for the whole account:
-- its instances, and every identity in it; such a row lets only pull.
CREATE TABLE accounts (
    account      TEXT NOT NULL CHECK (length(account) = 12),
    role         TEXT NOT NULL DEFAULT '', -- glob on the name of an IAM role
    repositories TEXT NOT NULL DEFAULT '*', -- glob on the repository's name
    actions      TEXT NOT NULL,             -- comma separated: pull,push,delete
    created_at   INTEGER NOT NULL,
    created_by   TEXT NOT NULL,
    PRIMARY KEY (account, role),
    CHECK (role <> '' OR actions = 'pull')
) WITHOUT ROWID;
