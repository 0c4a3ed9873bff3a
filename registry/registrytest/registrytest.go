// Package registrytest has what tests of registries share: the databases and stores that they run
// on, and a clock. It knows nothing of package registry, so that tests inside it can use this.
package registrytest

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib"
	"github.com/minio/minio-go/v7/pkg/credentials"
	_ "modernc.org/sqlite"

	"berth/metadata/metadatatest"
	"berth/storage"
	"berth/storage/fs"
	"berth/storage/mem"
	"berth/storage/s3"
	"berth/testenv"
)

// Clock is a time that only moves when it is told to, but for a millisecond at each look.
type Clock struct {
	mu sync.Mutex
	t  time.Time
}

// NewClock starts at a moment in 2026.
func NewClock() *Clock { return &Clock{t: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)} }

// Now is the time, each time a millisecond later.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(time.Millisecond)
	return c.t
}

// Add lets time pass.
func (c *Clock) Add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

// Backend is a kind of database with a kind of store.
type Backend struct {
	Name string
	// DB makes an empty database that goes with the test: its URL for Berth, and driver and DSN for
	// database/sql.
	DB func(testing.TB) (url, driver, dsn string)
	// Store makes an empty store that goes with the test. Each call of what it gives opens the store
	// as another process would.
	Store func(testing.TB) func() storage.Store
}

// Backends are the combinations that tests run on.
var Backends = []Backend{
	{"sqlite and memory", SQLite, memStore},
	{"sqlite and directory", SQLite, fsStore},
	{"postgres and directory", postgresDB, fsStore},
	{"postgres and MinIO", postgresDB, minioStore},
}

// budget is the memory of all stores of these tests, as of all stores of a process.
var budget = sync.OnceValue(func() *storage.Budget { return storage.NewBudget(0) })

// SQLite makes an empty SQLite database, as Backend.DB does.
func SQLite(t testing.TB) (url, driver, dsn string) {
	url = metadatatest.SQLite(t)
	return url, "sqlite", "file:" + strings.TrimPrefix(url, "sqlite:") + "?_pragma=busy_timeout(10000)"
}

func postgresDB(t testing.TB) (url, driver, dsn string) {
	url = metadatatest.Postgres(t)
	return url, "pgx", url
}

func memStore(testing.TB) func() storage.Store {
	one := mem.New()
	return func() storage.Store { return one }
}

func fsStore(t testing.TB) func() storage.Store {
	dir := t.TempDir()
	return func() storage.Store {
		s, err := fs.New(dir, fs.Options{Budget: budget()})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
}

func minioStore(t testing.TB) func() storage.Store {
	bucket := testenv.MinIO(t)
	c := s3.Config{
		Endpoint:    strings.TrimPrefix(bucket.Endpoint, "http://"),
		Insecure:    true,
		Bucket:      bucket.Bucket,
		Region:      "us-east-1",
		PathStyle:   true,
		Credentials: credentials.NewStaticV4(bucket.AccessKey, bucket.SecretKey, ""),
		Budget:      budget(),
		Logger:      slog.New(slog.DiscardHandler),
	}
	return func() storage.Store {
		s, err := s3.New(context.Background(), c)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
}

// Left reports whether -short leaves out what a test does on a backend, by its index. What
// stays has both databases, a store in this process and one that is not.
func Left(backend int) bool {
	return testing.Short() && backend != 0 && backend != len(Backends)-1
}
