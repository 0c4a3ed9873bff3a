package metadata_test

import (
	"context"
	"database/sql"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"berth/metadata"
	"berth/metadata/metadatatest"
	"berth/sqldb"
)

// pairs are all ways from one engine to another.
func pairs(t *testing.T, f func(t *testing.T, from, to string)) {
	open := map[string]func(testing.TB) string{"sqlite": metadatatest.SQLite, "postgres": metadatatest.Postgres}
	for from, openFrom := range open {
		for to, openTo := range open {
			t.Run(from+" to "+to, func(t *testing.T) { f(t, openFrom(t), openTo(t)) })
		}
	}
}

// Both engines have to describe the schema alike, or nothing could be moved
// between them; and each table has to be copied or to have a reason not to be.
func TestTables(t *testing.T) {
	found := map[string][]sqldb.Table{}
	metadatatest.EachURL(t, func(t *testing.T, url string) {
		db := metadatatest.Open(t, metadata.Options{URL: url})
		tables, err := db.Tables(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, table := range tables {
			for _, ref := range table.Refs {
				if !slices.Contains(names, ref) {
					t.Errorf("%s comes before %s, which it refers to", table.Name, ref)
				}
			}
			names = append(names, table.Name)
		}
		slices.SortFunc(tables, func(a, b sqldb.Table) int { return strings.Compare(a.Name, b.Name) })
		found[db.Engine()] = tables
		all := map[string]string{
			"sqlite":   `SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%' ORDER BY name`,
			"postgres": `SELECT table_name FROM information_schema.tables WHERE table_schema = current_schema() AND table_type = 'BASE TABLE' ORDER BY 1`,
		}
		raw := shell(t, url, true)
		left := map[string]bool{}
		for _, name := range queryStrings(t, raw, all[db.Engine()]) {
			if !slices.Contains(names, name) {
				left[name] = true
			}
		}
		want := map[string]bool{"schema_migrations": true, "leases": true, "uploads": true, "garbage": true}
		if !reflect.DeepEqual(left, want) {
			t.Errorf("not copied are %v, want %v", left, want)
		}
	})
	if !t.Failed() && len(found) == 2 && !reflect.DeepEqual(found["sqlite"], found["postgres"]) {
		t.Errorf("the engines differ:\n%+v\n%+v", found["sqlite"], found["postgres"])
	}
}

func queryStrings(t *testing.T, raw *sql.DB, query string, args ...any) []string {
	t.Helper()
	rows, err := raw.QueryContext(t.Context(), query, args...)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for rows.Next() {
		values, targets := make([]any, len(columns)), make([]any, len(columns))
		for i := range values {
			targets[i] = &values[i]
		}
		if err := rows.Scan(targets...); err != nil {
			t.Fatal(err)
		}
		var line []string
		for _, v := range values {
			switch v := v.(type) {
			case []byte:
				line = append(line, string(v))
			case bool:
				line = append(line, map[bool]string{true: "1", false: "0"}[v])
			default:
				line = append(line, fmt.Sprint(v))
			}
		}
		all = append(all, strings.Join(line, "|"))
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return all
}

// rowsOf gives all rows of a table, in the order of its key.
func rowsOf(t *testing.T, raw *sql.DB, table sqldb.Table) []string {
	t.Helper()
	columns := make([]string, len(table.Columns))
	for i, c := range table.Columns {
		columns[i] = `"` + c.Name + `"`
	}
	key := make([]string, len(table.Key))
	for i, k := range table.Key {
		key[i] = `"` + k + `"`
	}
	return queryStrings(t, raw, `SELECT `+strings.Join(columns, ", ")+` FROM "`+table.Name+`" ORDER BY `+strings.Join(key, ", "))
}

// A copy has every row of every table, a table that this test has made up
// included; the triggers are in force again, and numbers go on.
func TestCopyRows(t *testing.T) {
	pairs(t, func(t *testing.T, fromURL, toURL string) {
		ctx := t.Context()
		from, to := metadatatest.Open(t, metadata.Options{URL: fromURL}), metadatatest.Open(t, metadata.Options{URL: toURL})
		rawFrom, rawTo := shell(t, fromURL, true), shell(t, toURL, true)
		for _, raw := range []*sql.DB{rawFrom, rawTo} {
			bytes := "BLOB"
			if raw == rawFrom && from.Engine() == "postgres" || raw == rawTo && to.Engine() == "postgres" {
				bytes = "BYTEA"
			}
			exec(t, raw, `CREATE TABLE later_migration (name TEXT PRIMARY KEY, parent TEXT REFERENCES later_migration (name), n BIGINT, ok BOOLEAN, raw `+bytes+`)`)
		}
		exec(t, rawFrom, `INSERT INTO later_migration (name, parent, n, ok, raw) VALUES ('a', NULL, NULL, TRUE, NULL), ('b', 'a', -5, FALSE, $1)`, []byte("\x00\xff\x01"))
		must(t, from.Update(ctx, func(tx *metadata.Tx) error {
			if _, err := tx.CreateFirstAdmin(ctx, "admin", "hash"); err != nil {
				return err
			}
			if _, err := tx.CreateTeam(ctx, "core", "internal"); err != nil {
				return err
			}
			return tx.SetInstanceTagPolicy(ctx, metadata.TagPolicy{Mode: "sealed", Exempt: []string{"latest"}})
		}))
		exec(t, rawFrom, `INSERT INTO repositories (name, team, visibility, created_at, created_by) VALUES ('core/app', 'core', 'private', 1, 'alice')`)
		for i := range 250 {
			d := fmt.Sprintf("sha256:%064d", i)
			exec(t, rawFrom, `INSERT INTO blobs (digest, storage_key, size, created_at) VALUES ($1, $2, $3, 7)`, d, fmt.Sprintf("key%d", i), i)
			exec(t, rawFrom, `INSERT INTO repository_blobs (repository_id, digest, created_at) SELECT id, $1, 8 FROM repositories`, d)
			exec(t, rawFrom, `INSERT INTO manifests (repository_id, digest, media_type, size, created_at, created_by, payload) SELECT id, $1, 'm', 3, 9, 'alice', $2 FROM repositories`,
				d, []byte(strings.Repeat("\xff\x00x", 1+i*100)))
		}
		d := fmt.Sprintf("sha256:%064d", 1)
		exec(t, rawFrom, `INSERT INTO tags (repository_id, name, digest, created_at, updated_at, updated_by) SELECT id, '1.0', $1, 1, 1, 'alice' FROM repositories`, d)
		exec(t, rawFrom, `INSERT INTO teams (name, created_at, updated_at) VALUES ('gone', 1, 1)`)
		exec(t, rawFrom, `DELETE FROM teams WHERE name = 'gone'`)

		for range 2 { // the second time over what the first has copied
			counts, err := metadata.CopyRows(ctx, from, to)
			must(t, err)
			if counts["manifests"] != 250 || counts["later_migration"] != 2 {
				t.Errorf("copied %v", counts)
			}
			tables, err := to.Tables(ctx)
			must(t, err)
			for _, table := range tables {
				if table.Name == "blobs" {
					continue
				}
				if a, b := rowsOf(t, rawFrom, table), rowsOf(t, rawTo, table); !slices.Equal(a, b) {
					t.Errorf("the table %s differs: %d rows, want %d:\n%.600v\n%.600v", table.Name, len(b), len(a), b, a)
				}
			}
		}
		if pending := queryStrings(t, rawTo, `SELECT digest FROM blobs WHERE missing_since IS NOT NULL AND storage_key LIKE 'pending:%'`); len(pending) != 250 {
			t.Errorf("%d blobs wait for their bytes, want 250", len(pending))
		}

		// The triggers are back, and what was sealed is.
		if _, err := rawTo.ExecContext(ctx, `DELETE FROM tags`); err == nil {
			t.Error("a sealed tag was deleted in the copy")
		}
		if _, err := rawTo.ExecContext(ctx, `UPDATE manifests SET payload = 'x'`); err == nil {
			t.Error("a manifest was changed in the copy")
		}
		before := len(queryStrings(t, rawTo, `SELECT digest FROM gc_links`))
		exec(t, rawTo, `UPDATE repository_blobs SET created_at = 9 WHERE digest = $1`, d)
		if got := queryStrings(t, rawTo, `SELECT enqueued_at FROM gc_links WHERE digest = $1`, d); len(got) != 1 || got[0] == "8" || before != 250 {
			t.Errorf("the collector's triggers do not work in the copy: %v, %d", got, before)
		}
		// A number that a deleted row had is not given out again.
		next := func(raw *sql.DB) string {
			exec(t, raw, `INSERT INTO teams (name, created_at, updated_at) VALUES ('next', 1, 1)`)
			return strings.Join(queryStrings(t, raw, `SELECT id FROM teams WHERE name = 'next'`), ",")
		}
		if a, b := next(rawFrom), next(rawTo); a != b {
			t.Errorf("the next team has the number %s in the copy, want %s", b, a)
		}
		must(t, to.Integrity(ctx))
	})
}

// A blob whose bytes have arrived keeps its object when the rows are copied
// again; one that the source has lost sight of becomes garbage.
func TestCopyRowsAgain(t *testing.T) {
	metadatatest.EachURL(t, func(t *testing.T, toURL string) {
		ctx := t.Context()
		fromURL := metadatatest.SQLite(t)
		from, to := metadatatest.Open(t, metadata.Options{URL: fromURL}), metadatatest.Open(t, metadata.Options{URL: toURL})
		blob := func(name string) metadata.Blob {
			return metadata.Blob{Digest: image(name).Digest, Key: "source-" + name, Size: 3}
		}
		a, b := blob("a"), blob("b")
		must(t, from.Update(ctx, func(tx *metadata.Tx) error {
			for _, one := range []metadata.Blob{a, b} {
				if _, err := tx.InsertBlob(ctx, one); err != nil {
					return err
				}
			}
			return nil
		}))
		_, err := metadata.CopyRows(ctx, from, to)
		must(t, err)
		must(t, to.Update(ctx, func(tx *metadata.Tx) error {
			for _, one := range []metadata.Blob{a, b} {
				if ok, err := tx.BlobArrived(ctx, one.Digest, "target-"+one.Key); !ok || err != nil {
					return fmt.Errorf("%v %w", ok, err)
				}
			}
			return nil
		}))
		raw := shell(t, toURL, true)
		must(t, from.Update(ctx, func(tx *metadata.Tx) error {
			_, err := tx.MarkMissing(ctx, a.Digest, a.Key)
			return err
		}))
		_, err = metadata.CopyRows(ctx, from, to)
		must(t, err)
		if got := queryStrings(t, raw, `SELECT storage_key FROM blobs WHERE missing_since IS NULL ORDER BY storage_key`); !slices.Equal(got, []string{"target-source-a", "target-source-b"}) {
			t.Errorf("after copying again the objects are %v", got)
		}
		exec(t, shell(t, fromURL, true), `DELETE FROM blobs WHERE storage_key = 'source-b'`)
		_, err = metadata.CopyRows(ctx, from, to)
		must(t, err)
		if got := queryStrings(t, raw, `SELECT storage_key FROM blobs UNION ALL SELECT value FROM garbage WHERE kind = 'object'`); !slices.Equal(got, []string{"target-source-a", "target-source-b"}) {
			t.Errorf("when the source has forgotten a blob the objects are %v", got)
		}
	})
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func exec(t *testing.T, raw *sql.DB, query string, args ...any) {
	t.Helper()
	if _, err := raw.ExecContext(context.Background(), query, args...); err != nil {
		t.Fatalf("%.80s: %v", query, err)
	}
}
