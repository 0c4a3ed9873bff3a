// Package metadatatest opens real databases for tests: an SQLite file always,
// and Postgres where there is one. A package that uses it lets testenv.Main
// run its tests, which stops the server:
//
//	func TestMain(m *testing.M) { os.Exit(testenv.Main(m)) }
package metadatatest

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"berth/metadata"
	"berth/testenv"
)

// Each runs a test on a fresh, migrated database of each engine.
func Each(t *testing.T, f func(t *testing.T, db *metadata.DB)) {
	EachURL(t, func(t *testing.T, url string) { f(t, Open(t, metadata.Options{URL: url})) })
}

// EachURL runs a test on a fresh, empty database of each engine, for tests
// that open it themselves, or twice as two replicas do.
func EachURL(t *testing.T, f func(t *testing.T, url string)) {
	t.Helper()
	t.Run("sqlite", func(t *testing.T) { f(t, SQLite(t)) })
	t.Run("postgres", func(t *testing.T) { f(t, testenv.Postgres(t)) })
}

// SQLite gives the URL of a file that is not there yet, in a directory that
// goes with the test.
func SQLite(t testing.TB) string {
	return "sqlite:" + filepath.Join(t.TempDir(), "berth.db")
}

// Open opens and migrates a database, which is closed when the test ends. Like that of
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
