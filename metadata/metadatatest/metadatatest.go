// Package metadatatest opens real databases for tests: an SQLite file always,
// and Postgres where there is one. A package that uses it lets testenv.Main
// run its tests, which stops the server:
//
//	func TestMain(m *testing.M) { os.Exit(testenv.Main(m)) }
package metadatatest

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"berth/metadata"
	"berth/migrations"
	"berth/testenv"
)

// Each runs a test on a fresh, migrated database of each engine.
func Each(t *testing.T, f func(t *testing.T, db *metadata.DB)) {
	EachURL(t, func(t *testing.T, url string) { f(t, Open(t, metadata.Options{URL: url})) })
}

// EachURL runs a test on a fresh, migrated database of each engine, for tests
// that open it themselves, or twice as two replicas do.
func EachURL(t *testing.T, f func(t *testing.T, url string)) {
	t.Helper()
	t.Run("sqlite", func(t *testing.T) { f(t, SQLite(t)) })
	t.Run("postgres", func(t *testing.T) { f(t, Postgres(t)) })
}

// EachEmptyURL is EachURL for tests that make the schema themselves.
func EachEmptyURL(t *testing.T, f func(t *testing.T, url string)) {
	t.Helper()
	t.Run("sqlite", func(t *testing.T) { f(t, EmptySQLite(t)) })
	t.Run("postgres", func(t *testing.T) { f(t, testenv.Postgres(t)) })
}

// EmptySQLite gives the URL of a file that is not there yet, in a directory that
// goes with the test.
func EmptySQLite(t testing.TB) string {
	return "sqlite:" + filepath.Join(t.TempDir(), "berth.db")
}

// SQLite gives the URL of a fresh, migrated file in a directory that goes with the test: a
// copy of the one that the first caller in this process has made.
func SQLite(t testing.TB) string {
	t.Helper()
	made, err := migratedFile()
	if err != nil {
		t.Fatalf("making the SQLite file of which tests get copies: %v", err)
	}
	path := filepath.Join(t.TempDir(), "berth.db")
	if err := os.WriteFile(path, made, 0o600); err != nil {
		t.Fatal(err)
	}
	return "sqlite:" + path
}

var migratedFile = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "berth-test-schema-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "berth.db")
	if err := migrate(context.Background(), "sqlite:"+path); err != nil {
		return nil, err
	}
	if log, err := os.Stat(path + "-wal"); err == nil && log.Size() > 0 {
		return nil, errors.New("the closed database has left a log")
	}
	return os.ReadFile(path)
})

// Postgres gives the URL of a fresh, migrated database, which is dropped when the test
// ends. Like testenv.Postgres it skips, or with CI set fails, where there is no server.
func Postgres(t testing.TB) string {
	t.Helper()
	name, err := schemaName()
	if err != nil {
		t.Fatal(err)
	}
	return testenv.PostgresFrom(t, name, migrate)
}

// schemaName names the database of which tests get copies, by what the migrations say.
func schemaName() (string, error) {
	files, err := fs.Glob(migrations.Postgres, "postgres/*.sql")
	if err != nil {
		return "", err
	}
	sum := sha256.New()
	for _, name := range files {
		text, err := migrations.Postgres.ReadFile(name)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(sum, "%s %d\n%s", name, len(text), text)
	}
	return fmt.Sprintf("berth_schema_%x", sum.Sum(nil)[:8]), nil
}

// migrate makes the schema in an empty database.
func migrate(ctx context.Context, url string) (err error) {
	db, err := metadata.Open(ctx, metadata.Options{URL: url})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	_, err = db.Migrate(ctx)
	return err
}

// Open opens a database, migrates it where it is not, and closes it when the test ends. Like that of
// the server, it remembers what it has read.
func Open(t testing.TB, o metadata.Options) *metadata.DB {
	t.Helper()
	o.ReadCache = 1 << 20
	db, err := metadata.Open(t.Context(), o)
	if err != nil {
		t.Fatalf("opening %s: %v", strings.SplitN(o.URL, ":", 2)[0], err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Errorf("closing the database: %v", err)
		}
	})
	if _, err := db.Migrate(t.Context()); err != nil {
		t.Fatalf("migrating: %v", err)
	}
	return db
}

// Clock is a clock that tests set. The zero value stands at the year 2026.
type Clock struct{ ahead time.Duration }

// Now gives the clock's time; pass it as metadata.Options.Clock.
func (c *Clock) Now() time.Time {
	return time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC).Add(c.ahead)
}

// Advance moves the clock. Not while transactions run.
func (c *Clock) Advance(d time.Duration) { c.ahead += d }
