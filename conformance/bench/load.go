package main

import (
	"context"
	"database/sql"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib" // the database/sql driver pgx
	_ "modernc.org/sqlite"             // the database/sql driver sqlite
)

// loadedBlob is the digest of the first blob that load makes for a stage. The
// others are those of the manifests, turned by half.
func loadedBlob(tags int) string { return fmt.Sprintf("sha256:%064x", tags) }

// load makes a repository with tags, each with a manifest and a blob of its own,
// and empty repositories until there are so many of them. The triggers do not run, for speed; what they
// would leave for good, the tags' history, is written too, and the collector's queues are as empty as
// after a day. The objects of the blobs do not exist.
func (b *bench) load(ctx context.Context, t *target, tags, repos, want int) error {
	driver, dsn := "sqlite", "file:"+filepath.Join(b.lab.dir, t.name, "berth.db")+"?_pragma=cache_size(-1000000)&_pragma=synchronous(OFF)"
	// What differs: a row per number, a random digest, padding.
	rows, digest, pad := "WITH RECURSIVE g(n) AS (SELECT $1 UNION ALL SELECT n + 1 FROM g WHERE n < $2)", "lower(hex(randomblob(32)))", "printf('%0700d', n)"
	payload, name := "CAST(%s AS BLOB)", "printf('%s%%07d', %s)"
	if t.usesPG {
		driver, dsn = "pgx", b.lab.pgURL("berth")
		rows, digest, pad = "WITH g AS (SELECT n FROM generate_series($1::bigint, $2::bigint) n)", "encode(sha256(convert_to('growth' || $2::text || '/' || n::text, 'UTF8')), 'hex')", "lpad(n::text, 700, '0')"
		payload, name = "convert_to(%s, 'UTF8')", "'%s' || lpad((%s)::text, 7, '0')"
	}
	db, err := sql.Open(driver, dsn)
	if err != nil {
		return err
	}
	defer db.Close()
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() // nothing to undo after the commit
	exec := func(text string, args ...any) error {
		if _, err := tx.ExecContext(ctx, text, args...); err != nil {
			return fmt.Errorf("%w in: %.120s", err, text)
		}
		return nil
	}
	var triggers []string
	if t.usesPG {
		if err := exec("SET LOCAL session_replication_role = replica"); err != nil {
			return err
		}
	} else if triggers, err = dropTriggers(ctx, tx); err != nil {
		return err
	}
	now := time.Now().UnixMicro()
	var repo int64
	err = tx.QueryRowContext(ctx, "INSERT INTO repositories (name, team, visibility, created_at, created_by) VALUES ($1, $2, 'private', $3, 'bench') RETURNING id",
		growthRepo(tags), team, now).Scan(&repo)
	if err != nil {
		return err
	}
	const turned = "'sha256:' || substr(digest, 40) || substr(digest, 8, 32)"
	// In the order of digests, for indexes that are filled from one end are filled much faster.
	first := "CASE WHEN created_at = 0 THEN '" + loadedBlob(tags) + "' ELSE " + turned + " END"
	of := fmt.Sprint(" FROM manifests WHERE repository_id = ", repo)
	sorted := of + " ORDER BY " + first
	key := fmt.Sprint("'growth/", tags, "/' || created_at")
	for _, s := range []struct {
		text string
		args []any
	}{
		// Their number stands in created_at.
		{rows + " INSERT INTO manifests (repository_id, digest, media_type, size, created_at, created_by, payload) SELECT " + fmt.Sprint(repo) +
			", 'sha256:' || " + digest + ", '" + typeManifest + "', 700, n, 'bench', " + fmt.Sprintf(payload, pad) + " FROM g ORDER BY 2", []any{0, tags - 1}},
		{"INSERT INTO blobs (digest, storage_key, size, created_at) SELECT " + first + ", " + key + ", 1000, created_at" + sorted, nil},
		{"INSERT INTO repository_blobs (repository_id, digest, created_at) SELECT repository_id, " + first + ", created_at" + sorted, nil},
		{"INSERT INTO manifest_blobs (manifest_id, repository_id, digest) SELECT id, repository_id, " + first + sorted, nil},
		{"INSERT INTO tags (repository_id, name, digest, created_at, updated_at, updated_by) SELECT repository_id, " +
			fmt.Sprintf(name, "v", "created_at") + fmt.Sprintf(", digest, %d, %[1]d, 'bench'", now) + of, nil},
		{"INSERT INTO tag_history (repository, tag, action, digest, actor, at) SELECT '" + growthRepo(tags) + "', name, 'create', digest, 'bench', updated_at FROM tags" +
			fmt.Sprint(" WHERE repository_id = ", repo), nil},
		{rows + " INSERT INTO repositories (name, team, visibility, created_at, created_by) SELECT " +
			fmt.Sprintf(name, team+"/filler-", "n") + ", '" + team + fmt.Sprintf("', CASE WHEN n %% %d = 0 THEN 'public' ELSE 'private' END, %d, 'bench' FROM g", publicEvery, now), []any{repos + 1, want}},
	} {
		if err := exec(s.text, s.args...); err != nil {
			return err
		}
	}
	for _, text := range triggers {
		if err := exec(text); err != nil {
			return err
		}
	}
	if err := tx.Commit(); err != nil {
		return err
	}
	if t.usesPG { // autovacuum would do it a minute later
		_, err = db.ExecContext(ctx, "VACUUM ANALYZE")
	} else {
		_, err = db.ExecContext(ctx, "PRAGMA wal_checkpoint(TRUNCATE)")
	}
	return err
}

// dropTriggers removes all triggers of SQLite and returns the statements that make them again.
func dropTriggers(ctx context.Context, tx *sql.Tx) (texts []string, err error) {
	rows, err := tx.QueryContext(ctx, "SELECT name, sql FROM sqlite_master WHERE type = 'trigger' ORDER BY name")
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var names []string
	for rows.Next() {
		var name, text string
		if err := rows.Scan(&name, &text); err != nil {
			return nil, err
		}
		names, texts = append(names, name), append(texts, text)
	}
	if err := rows.Err(); err != nil {
		return nil, err
	}
	for _, name := range names {
		if _, err := tx.ExecContext(ctx, `DROP TRIGGER "`+strings.ReplaceAll(name, `"`, `""`)+`"`); err != nil {
			return nil, err
		}
	}
	return texts, nil
}
