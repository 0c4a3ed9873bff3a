package metadata_test

import (
	"context"
	"fmt"
	"io/fs"
	"regexp"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"berth/metadata"
	"berth/metadata/metadatatest"
	"berth/migrations"
)

// A database of the first version has garbage already, which the second finds.
func TestGCBackfill(t *testing.T) {
	metadatatest.EachEmptyURL(t, func(t *testing.T, url string) {
		var files fs.FS = migrations.SQLite
		if engine(url) == "postgres" {
			files = migrations.Postgres
		}
		files, err := fs.Sub(files, engine(url))
		if err != nil {
			t.Fatal(err)
		}
		text, err := fs.ReadFile(files, "0001_init.sql")
		if err != nil {
			t.Fatal(err)
		}
		old := open(t, url)
		old.SetMigrations(fstest.MapFS{"0001_init.sql": &fstest.MapFile{Data: text}})
		if _, err := old.Migrate(t.Context()); err != nil {
			t.Fatal(err)
		}
		raw := shell(t, url, true)
		exec := func(query string) {
			t.Helper()
			if _, err := raw.Exec(query); err != nil {
				t.Fatalf("%s: %v", query, err)
			}
		}
		exec(`INSERT INTO repositories (name, team, visibility, created_at, created_by) VALUES ('a/b', 'a', 'private', 1, 'x')`)
		exec(`INSERT INTO blobs (digest, storage_key, size, created_at) VALUES ('needed', 'k1', 1, 1), ('linked', 'k2', 1, 1), ('alone', 'k3', 1, 1)`)
		exec(`INSERT INTO repository_blobs (repository_id, digest, created_at) SELECT r.id, b.digest, 1 FROM repositories r, blobs b WHERE b.digest <> 'alone'`)
		for _, m := range []struct{ digest, subject string }{{"tagged", "NULL"}, {"index", "NULL"}, {"child", "NULL"}, {"referrer", "'tagged'"}, {"dangling", "'nothing'"}} {
			exec(`INSERT INTO manifests (repository_id, digest, media_type, subject, payload, size, created_at, created_by)
				SELECT id, '` + m.digest + `', 'm', ` + m.subject + `, '', 0, 1, 'x' FROM repositories`)
		}
		exec(`INSERT INTO tags (repository_id, name, digest, created_at, updated_at, updated_by) SELECT id, '1', 'tagged', 1, 1, 'x' FROM repositories`)
		exec(`INSERT INTO manifest_blobs (manifest_id, repository_id, digest) SELECT id, repository_id, 'needed' FROM manifests WHERE digest = 'tagged'`)
		exec(`INSERT INTO manifest_children (manifest_id, repository_id, digest, child_id)
			SELECT i.id, i.repository_id, 'child', c.id FROM manifests i, manifests c WHERE i.digest = 'index' AND c.digest = 'child'`)

		db := metadatatest.Open(t, metadata.Options{URL: url})
		check := func() {
			t.Helper()
			for query, want := range map[string]string{
				`SELECT string_agg(m.digest, ' ' ORDER BY m.digest) FROM gc_manifests q JOIN manifests m ON m.id = q.manifest_id WHERE NOT q.settled`: "dangling index",
				`SELECT string_agg(digest, ' ' ORDER BY digest) FROM gc_links`:                                                                        "linked",
				`SELECT string_agg(digest, ' ' ORDER BY digest) FROM gc_blobs`:                                                                        "alone",
			} {
				var got string
				if err := raw.QueryRow(query).Scan(&got); err != nil || got != want {
					t.Errorf("%s: %q, %v; want %q", query, got, err, want)
				}
			}
		}
		check()
		// The same question, when somebody has emptied the queues.
		for _, table := range []string{"gc_manifests", "gc_links", "gc_blobs"} {
			exec(`DELETE FROM ` + table)
		}
		for _, want := range []int64{4, 0} {
			update(t, db, func(ctx context.Context, tx *metadata.Tx) error {
				n, err := tx.EnqueueForgotten(ctx)
				if n != want {
					t.Errorf("%d were forgotten, want %d", n, want)
				}
				return err
			})
		}
		check()
	})
}

// The collector's statements find their rows by an index, with so many live
// blobs that reading all of them would be seen: its cost follows the garbage. On
// Postgres this is also counted in rows.
func TestGCCost(t *testing.T) {
	if testing.Short() {
		t.Skip("fills tables with 100,000 rows")
	}
	const live, images, garbage = 100_000, 60_000, 1_000
	live1 := []string{"blobs", "repository_blobs", "manifests", "manifest_blobs", "manifest_children", "tags"}
	scan := map[string]*regexp.Regexp{
		"postgres": regexp.MustCompile(`Seq Scan on (\w+)( \w+)?`),
		"sqlite":   regexp.MustCompile(`(?m)^(?:SCAN|SEARCH) (\w+)(?:$| USING .*\(repository_id=\?\)$| USING COVERING INDEX \S+$)`),
	}
	long := regexp.MustCompile(`((?:\$\d+|\d+), ?)(?:(?:\$\d+|\d+),? ?)+`) // lists
	metadatatest.EachURL(t, func(t *testing.T, url string) {
		e := engine(url)
		db := metadatatest.Open(t, metadata.Options{URL: url})
		raw := shell(t, url, true)
		exec := func(query string) {
			t.Helper()
			if _, err := raw.Exec(query); err != nil {
				t.Fatalf("%.200s: %v", query, err)
			}
		}
		series := func(from, to int) string {
			if e == "postgres" {
				return fmt.Sprintf("generate_series(%d, %d) s (i)", from, to)
			}
			return fmt.Sprintf("(WITH RECURSIVE s (i) AS (SELECT %d UNION ALL SELECT i + 1 FROM s WHERE i < %d) SELECT i FROM s) s", from, to)
		}
		payload := map[string]string{"sqlite": "CAST(i AS BLOB)", "postgres": "convert_to(CAST(i AS TEXT), 'UTF8')"}[e]
		blobs := func(from, to int) {
			exec(`INSERT INTO blobs (digest, storage_key, size, created_at) SELECT 'blob' || i, 'key' || i, i, 1 FROM ` + series(from, to))
			exec(`INSERT INTO repository_blobs (repository_id, digest, created_at) SELECT r.id, 'blob' || i, 1 FROM repositories r, ` + series(from, to))
		}
		manifests := func(from, to int) {
			exec(`INSERT INTO manifests (repository_id, digest, media_type, payload, size, created_at, created_by)
				SELECT r.id, 'manifest' || i, 'm', ` + payload + `, 1, 1, 'x' FROM repositories r, ` + series(from, to))
		}
		exec(`INSERT INTO repositories (name, team, visibility, created_at, created_by) VALUES ('a/b', 'a', 'private', 1, 'x')`)
		if e == "postgres" { // without triggers and foreign keys, for speed
			raw.SetMaxOpenConns(1)
			exec(`SET session_replication_role = replica`)
		}
		blobs(1, live)
		manifests(1, images)
		exec(fmt.Sprintf(`INSERT INTO manifest_blobs (manifest_id, repository_id, digest)
			SELECT m.id, m.repository_id, 'blob' || i FROM `+series(1, live)+` JOIN manifests m ON m.repository_id = 1 AND m.digest = 'manifest' || (i %% %d + 1)`, images))
		exec(`INSERT INTO tags (repository_id, name, digest, created_at, updated_at, updated_by) SELECT r.id, 'v' || i, 'manifest' || i, 1, 1, 'x' FROM repositories r, ` + series(1, images))
		exec(fmt.Sprintf(`INSERT INTO manifest_children (manifest_id, repository_id, digest, child_id)
			SELECT p.id, p.repository_id, c.digest, c.id FROM `+series(1, images/2)+`
			  JOIN manifests p ON p.digest = 'manifest' || i JOIN manifests c ON c.digest = 'manifest' || (i + %d)
			 WHERE p.repository_id = 1 AND c.repository_id = 1`, images/2))
		if e == "postgres" {
			exec(`SET session_replication_role = origin`)
		}
		for _, table := range []string{"gc_manifests", "gc_links", "gc_blobs"} {
			exec(`DELETE FROM ` + table) // as after a day
		}
		blobs(live+1, live+garbage)
		manifests(images+1, images+garbage)
		if e == "postgres" {
			exec(`ANALYZE`)
		}
		passes := map[string]func(context.Context, *metadata.Tx) (metadata.Pass, error){
			"manifests": func(ctx context.Context, tx *metadata.Tx) (metadata.Pass, error) {
				return tx.CollectManifests(ctx, 0, time.Nanosecond)
			},
			"links": func(ctx context.Context, tx *metadata.Tx) (metadata.Pass, error) { return tx.CollectLinks(ctx, 0) },
			"blobs": func(ctx context.Context, tx *metadata.Tx) (metadata.Pass, error) { return tx.CollectBlobs(ctx, 0, 0) },
		}
		touched := func() (n int64) {
			t.Helper()
			if e != "postgres" {
				return 0
			}
			time.Sleep(1500 * time.Millisecond) // until the connections have reported
			err := raw.QueryRow(`SELECT SUM(seq_tup_read + COALESCE(idx_tup_fetch, 0)) FROM pg_stat_user_tables WHERE relname = ANY (string_to_array($1, ','))`,
				strings.Join(live1, ",")).Scan(&n)
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
		indexed := func(name, query, plan string) {
			t.Helper()
			for _, found := range scan[e].FindAllStringSubmatch(plan, -1) {
				alias := map[string]string{"m": "manifests", "l": "repository_blobs", "b": "blobs or manifest_blobs", "t": "tags"}
				for _, table := range live1 {
					if found[1] == table || e == "sqlite" && alias[found[1]] != "" {
						t.Errorf("collecting %s reads all of %s:\n%s\n%s", name, found[1], long.ReplaceAllString(query, "$1..."), long.ReplaceAllString(plan, "$1..."))
					}
				}
			}
		}
		// What a dry run reads follows the garbage too, and it finds all of it.
		before := touched()
		err := db.Explain(t.Context(), func(tx *metadata.Tx) error {
			plan, err := tx.PlanCollection(t.Context(), 0, 0, time.Nanosecond, 100*garbage)
			if len(plan.Gone) != 3*garbage || plan.Truncated {
				t.Errorf("a plan has %d things, truncated %t", len(plan.Gone), plan.Truncated)
			}
			return err
		}, func(query, plan string) { indexed("a plan", query, plan) })
		if rows := touched() - before; err != nil || rows > 20*garbage {
			t.Errorf("a plan has touched %d rows, %v", rows, err)
		}
		for _, name := range []string{"manifests", "links", "blobs"} {
			explained := 0
			err := db.Explain(t.Context(), func(tx *metadata.Tx) error {
				p, err := passes[name](t.Context(), tx)
				if len(p.Gone) != metadata.GCBatch {
					t.Errorf("a pass over %s takes %d", name, len(p.Gone))
				}
				return err
			}, func(query, plan string) {
				explained++
				indexed(name, query, plan)
			})
			if err != nil || explained < 3 {
				t.Errorf("%s: %d statements, %v", name, explained, err)
			}
			before, looked, gone := touched(), 0, 0
			start := time.Now()
			for {
				var p metadata.Pass
				update(t, db, func(ctx context.Context, tx *metadata.Tx) (err error) {
					p, err = passes[name](ctx, tx)
					return err
				})
				if p.Looked == 0 {
					break
				}
				looked += p.Looked
				gone += len(p.Gone)
			}
			took := time.Since(start)
			rows := touched() - before
			t.Logf("%d %s of %d collected beside %d live blobs in %s, %d rows of the live tables touched", gone, name, looked, live, took.Round(time.Millisecond), rows)
			if gone != garbage || looked != garbage {
				t.Errorf("%d of %d %s collected", gone, looked, name)
			}
			if rows > 20*garbage {
				t.Errorf("collecting %d %s touched %d rows of tables with %d", garbage, name, rows, live)
			}
		}
		var left int
		if err := raw.QueryRow(`SELECT COUNT(*) FROM blobs`).Scan(&left); err != nil || left != live {
			t.Errorf("%d blobs are left of %d live ones, %v", left, live, err)
		}
	})
}
