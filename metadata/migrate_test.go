package metadata_test

import (
	"context"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	"berth/metadata"
	"berth/metadata/metadatatest"
	"berth/oci"
	"berth/testenv"
)

func open(t *testing.T, url string) *metadata.DB {
	t.Helper()
	db, err := metadata.Open(t.Context(), metadata.Options{URL: url})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

// Replicas that start together on an empty database: each file is applied once.
func TestMigrateAtOnce(t *testing.T) {
	metadatatest.EachEmptyURL(t, func(t *testing.T, url string) {
		files := fstest.MapFS{}
		for i := range 5 {
			files[fmt.Sprintf("%04d_step.sql", i+1)] = &fstest.MapFile{Data: fmt.Appendf(nil, "CREATE TABLE t%d (x INTEGER);\nINSERT INTO t%d VALUES (1);", i, i)}
		}
		var dbs []*metadata.DB
		for range 4 {
			db := open(t, url)
			db.SetMigrations(files)
			dbs = append(dbs, db)
		}
		have, want, err := dbs[0].SchemaVersion(t.Context())
		if have != 0 || want != 5 || err != nil {
			t.Errorf("an empty database has version %d of %d, %v", have, want, err)
		}
		applied := make([][]string, len(dbs))
		var wg sync.WaitGroup
		for i, db := range dbs {
			wg.Go(func() {
				var err error
				if applied[i], err = db.Migrate(t.Context()); err != nil {
					t.Errorf("replica %d: %v", i, err)
				}
			})
		}
		wg.Wait()
		all := slices.Sorted(slices.Values(slices.Concat(applied...)))
		if len(all) != 5 || len(slices.Compact(all)) != 5 {
			t.Errorf("applied: %q", applied)
		}
		for _, db := range dbs {
			if have, want, err := db.SchemaVersion(t.Context()); have != 5 || want != 5 || err != nil {
				t.Errorf("version %d of %d, %v", have, want, err)
			}
		}
	})
}

func TestMigrateSteps(t *testing.T) {
	metadatatest.EachEmptyURL(t, func(t *testing.T, url string) {
		db := open(t, url)
		one := fstest.MapFS{"0001_one.sql": {Data: []byte("CREATE TABLE one (x INTEGER)")}}
		two := maps.Clone(one)
		two["0002_two.sql"] = &fstest.MapFile{Data: []byte("CREATE TABLE two (x INTEGER); INSERT INTO two VALUES (1); CREATE TABLE one (x INTEGER)")}
		fixed := maps.Clone(one)
		fixed["0002_two.sql"] = &fstest.MapFile{Data: []byte("CREATE TABLE two (x INTEGER)")}
		migrate := func(files fstest.MapFS) (string, error) {
			db.SetMigrations(files)
			applied, err := db.Migrate(t.Context())
			return strings.Join(applied, " "), err
		}
		if got, err := migrate(one); !strings.Contains(got, "0001_one") || err != nil {
			t.Fatalf("%q %v", got, err)
		}
		if got, err := migrate(one); got != "" || err != nil {
			t.Errorf("again: %q %v", got, err)
		}
		// The second fails in its last statement: nothing of it stays.
		if got, err := migrate(two); got != "" || err == nil || !strings.Contains(err.Error(), "0002_two") {
			t.Errorf("broken: %q %v", got, err)
		}
		if got, err := migrate(fixed); !strings.Contains(got, "0002_two") || err != nil {
			t.Errorf("fixed: %q %v", got, err)
		}
		// An older program does not touch a newer schema.
		got, err := migrate(one)
		if got != "" || err == nil || !strings.Contains(err.Error(), "2") || !strings.Contains(err.Error(), "newer") {
			t.Errorf("older program: %q %v", got, err)
		}
		if have, want, err := db.SchemaVersion(t.Context()); have != 2 || want != 1 || err != nil {
			t.Errorf("version %d of %d, %v", have, want, err)
		}
		if _, err := migrate(fstest.MapFS{"0001_one.sql": {}, "0003_three.sql": {}}); err == nil {
			t.Error("a gap in the numbers was accepted")
		}
	})
}

// The tags that a new registry lets move are not given to one that was there before: its policy is its own,
// also when it is the one that it began with.
func TestMigrationKeepsTheTagPolicy(t *testing.T) {
	metadatatest.EachEmptyURL(t, func(t *testing.T, url string) {
		db := open(t, url)
		all := db.Migrations()
		before := fstest.MapFS{}
		names, err := fs.Glob(all, "*.sql")
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			if name < "0009" {
				text, err := fs.ReadFile(all, name)
				if err != nil {
					t.Fatal(err)
				}
				before[name] = &fstest.MapFile{Data: text}
			}
		}
		db.SetMigrations(before)
		if _, err := db.Migrate(t.Context()); err != nil {
			t.Fatal(err)
		}
		update(t, db, func(ctx context.Context, tx *metadata.Tx) error {
			_, err := tx.CreateFirstAdmin(ctx, "admin", "")
			return err
		})
		db.SetMigrations(all)
		if _, err := db.Migrate(t.Context()); err != nil {
			t.Fatal(err)
		}
		view(t, db, func(ctx context.Context, tx *metadata.Tx) error {
			p, err := tx.InstanceTagPolicy(ctx)
			if err == nil && !slices.Equal(p.Exempt, []string{"*-SNAPSHOT", "latest"}) {
				t.Errorf("after the migration these tags move: %q", p.Exempt)
			}
			return err
		})
	})
}

// A database in use: the writer's statements survive a migration.
func TestMigrateWhileInUse(t *testing.T) {
	metadatatest.Each(t, func(t *testing.T, db *metadata.DB) {
		stop := make(chan struct{})
		var wg sync.WaitGroup
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				ctx := context.Background()
				if err := db.Update(ctx, func(tx *metadata.Tx) error { return createUser(ctx, tx, fmt.Sprint("user", i)) }); err != nil {
					t.Error(err)
					return
				}
			}
		})
		for range 20 {
			if _, err := db.Migrate(t.Context()); err != nil {
				t.Error(err)
			}
		}
		close(stop)
		wg.Wait()
	})
}

func TestUnmigrated(t *testing.T) {
	metadatatest.EachEmptyURL(t, func(t *testing.T, url string) {
		db := open(t, url)
		ctx := context.Background()
		err := db.View(ctx, func(tx *metadata.Tx) error { _, err := tx.HasUsers(ctx); return err })
		if err == nil {
			t.Error("no error without tables")
		}
		if err := db.Ping(ctx); err != nil {
			t.Errorf("Ping: %v", err)
		}
	})
}

// Both engines have the same tables, columns, and what may be NULL.
func TestSchemasAreEqual(t *testing.T) {
	schemas := map[string][]string{}
	metadatatest.EachEmptyURL(t, func(t *testing.T, url string) {
		metadatatest.Open(t, metadata.Options{URL: url})
		query := map[string]string{
			"sqlite": `SELECT m.type || ' ' || m.name || '.' || c.name ||
			                  CASE WHEN m.type = 'table' AND (c."notnull" OR c.pk) THEN ' NOT NULL' ELSE '' END
			             FROM sqlite_schema m, pragma_table_info(m.name) c
			            WHERE m.type IN ('table', 'view') AND m.name NOT LIKE 'sqlite_%'`,
			"postgres": `SELECT CASE t.table_type WHEN 'VIEW' THEN 'view' ELSE 'table' END || ' ' || t.table_name || '.' || c.column_name ||
			                    CASE WHEN c.is_nullable = 'NO' THEN ' NOT NULL' ELSE '' END
			               FROM information_schema.columns c JOIN information_schema.tables t USING (table_schema, table_name)
			              WHERE t.table_schema = 'public'`,
		}[engine(url)]
		indexes := map[string]string{
			"sqlite":   `SELECT 'index ' || name FROM sqlite_schema WHERE type = 'index' AND sql IS NOT NULL`,
			"postgres": `SELECT 'index ' || indexname FROM pg_indexes WHERE schemaname = 'public' AND indexname NOT LIKE '%_key' AND indexname NOT LIKE '%_pkey'`,
		}[engine(url)]
		var lines []string
		raw := shell(t, url, true)
		for _, q := range []string{query, indexes} {
			rows, err := raw.Query(q)
			if err != nil {
				t.Fatal(err)
			}
			defer rows.Close()
			for rows.Next() {
				var line string
				if err := rows.Scan(&line); err != nil {
					t.Fatal(err)
				}
				lines = append(lines, line)
			}
		}
		slices.Sort(lines)
		if len(lines) < 100 {
			t.Errorf("only %d columns and indexes were found", len(lines))
		}
		schemas[engine(url)] = lines
	})
	if len(schemas) < 2 {
		t.Skip("there is only one engine here")
	}
	for name, other := range map[string]string{"sqlite": "postgres", "postgres": "sqlite"} {
		for _, line := range schemas[name] {
			if !slices.Contains(schemas[other], line) {
				t.Errorf("only %s has %s", name, line)
			}
		}
	}
}

// SQLite: a shell that writes makes the program wait, and then be unavailable.
func TestSQLiteBusy(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for busy_timeout")
	}
	url := metadatatest.EmptySQLite(t)
	db := metadatatest.Open(t, metadata.Options{URL: url})
	raw := shell(t, url, true)
	conn, err := raw.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.ExecContext(t.Context(), `BEGIN IMMEDIATE`); err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	wantErr(t, db.Update(ctx, func(tx *metadata.Tx) error { return createUser(ctx, tx, "alice") }), oci.ErrUnavailable)
	names(t, db) // readers go on
	if _, err := conn.ExecContext(t.Context(), `ROLLBACK`); err != nil {
		t.Fatal(err)
	}
	update(t, db, func(ctx context.Context, tx *metadata.Tx) error { return createUser(ctx, tx, "bob") })
	if got := names(t, db); !slices.Equal(got, []string{"bob"}) {
		t.Errorf("users %q", got)
	}
}

// Servers whose strings are not those of the standard get the same schema.
func TestMigrateWithoutStandardStrings(t *testing.T) {
	t.Parallel()
	address := testenv.Postgres(t)
	if _, err := shell(t, address, true).Exec(`DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET standard_conforming_strings = off', current_database()); END $$`); err != nil {
		t.Fatal(err)
	}
	db := metadatatest.Open(t, metadata.Options{URL: address})
	repo(t, db, "team/app")
}
