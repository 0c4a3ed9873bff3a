package registry

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"io"
	"log/slog"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"berth/auth"
	"berth/metadata"
	"berth/metadata/metadatatest"
	"berth/oci"
	"berth/registry/collect"
	"berth/storage"
	"berth/storage/fs"
	"berth/storage/mem"
	"berth/storage/s3"
	"berth/storage/storagetest"
	"berth/testenv"

	_ "github.com/jackc/pgx/v5/stdlib"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/opencontainers/go-digest"
	_ "modernc.org/sqlite"
)

func TestMain(m *testing.M) { os.Exit(testenv.Main(m)) }

const (
	alice = "alice"
	bob   = "bob"
	repo  = "team/app"
)

// clock is a time that only moves when it is told to.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(time.Millisecond)
	return c.t
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

// env is a database and a store, on which any number of registries work.
type env struct {
	testing.TB
	ctx   context.Context
	clock *clock
	url   string               // of the database
	store func() storage.Store // each call as another process would open it
	raw   *sql.DB              // the database, to look behind the scenes
	r     *Registry            // one of the registries
	raced bool                 // requests have raced on one upload; see lost
	o     Options              // of the registries
}

// backends are the combinations that the tests run on.
var backends = []struct {
	name  string
	db    func(testing.TB) (url, driver, dsn string)
	store func(testing.TB) func() storage.Store
}{
	{"sqlite and memory", sqliteDB, memStore},
	{"sqlite and directory", sqliteDB, fsStore},
	{"postgres and directory", postgresDB, fsStore},
	{"postgres and MinIO", postgresDB, minioStore},
}

// budget is the memory of all stores of these tests, as of all stores of a process.
var budget = sync.OnceValue(func() *storage.Budget { return storage.NewBudget(0) })

func sqliteDB(t testing.TB) (url, driver, dsn string) {
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

// left reports whether -short leaves out what a test does on a backend. What
// stays has both databases, a store in this process and one that is not.
func left(backend int) bool {
	return testing.Short() && backend != 0 && backend != len(backends)-1
}

// onEach runs a test on every combination.
func onEach(t *testing.T, run func(t *testing.T, e *env)) {
	for i, b := range backends {
		if left(i) {
			continue
		}
		t.Run(b.name, func(t *testing.T) {
			url, driver, dsn := b.db(t)
			run(t, newEnv(t, url, driver, dsn, b.store(t)))
		})
	}
}

func newEnv(t testing.TB, url, driver, dsn string, store func() storage.Store) *env {
	t.Helper()
	e := &env{TB: t, ctx: t.Context(), clock: &clock{t: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}, url: url, store: store}
	e.o = Options{Clock: e.clock.now}
	db := e.openDB()
	if _, err := db.Migrate(e.ctx); err != nil {
		t.Fatal(err)
	}
	var err error
	if e.raw, err = sql.Open(driver, dsn); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.raw.Close() })
	e.r = New(db, store(), e.o)
	return e
}

func (e *env) openDB() *metadata.DB {
	e.Helper()
	db, err := metadata.Open(context.Background(), metadata.Options{URL: e.url, Clock: e.clock.now})
	if err != nil {
		e.Fatal(err)
	}
	e.Cleanup(func() { db.Close() })
	return db
}

// replica is another process on the same database and store.
func (e *env) replica() *Registry { return New(e.openDB(), e.store(), e.o) }

// collecting is the collector of a registry, with the same settings.
func collecting(r *Registry) *collect.Collector {
	return collect.New(r.db, r.store, collect.Options{
		UntaggedTTL: r.o.UntaggedTTL, UndoWindow: r.o.UndoWindow, Collected: r.o.Collected, Logger: r.o.Logger, Clock: r.o.Clock,
	})
}

func (e *env) ok(err error) {
	e.Helper()
	if err != nil {
		e.Fatal(err)
	}
}

// is checks an error's kind and, with a rule, its detail.
func (e *env) is(err, want error, rule ...string) {
	e.Helper()
	if !errors.Is(err, want) {
		e.Fatalf("the error is %v, want %v", err, want)
	}
	var o *oci.Error
	if !errors.As(err, &o) || len(o.Message) < 15 {
		e.Errorf("%v has no message to read", err)
	}
	for _, rule := range rule {
		if detail, _ := o.Detail.(map[string]any); detail["rule"] != rule {
			e.Errorf("%v has the detail %v, want the rule %s", err, o.Detail, rule)
		}
	}
}

func (e *env) strings(query string, args ...any) []string {
	e.Helper()
	rows, err := e.raw.QueryContext(e.ctx, query, args...)
	e.ok(err)
	defer rows.Close()
	var all []string
	for rows.Next() {
		var s string
		e.ok(rows.Scan(&s))
		all = append(all, s)
	}
	e.ok(rows.Err())
	return all
}

// push makes a blob of data in one request.
func (e *env) push(r *Registry, repo string, data []byte) digest.Digest {
	e.Helper()
	d := digest.FromBytes(data)
	b, err := r.PutBlob(e.ctx, as(alice), repo, d, int64(len(data)), bytes.NewReader(data))
	e.ok(err)
	if b.Digest != d || b.Size != int64(len(data)) {
		e.Fatalf("PutBlob gives %+v for %d bytes with %s", b, len(data), d)
	}
	return d
}

// read gets a blob as a client would.
func (e *env) read(r *Registry, repo string, d digest.Digest) []byte {
	e.Helper()
	b, err := r.Blob(e.ctx, repo, d)
	e.ok(err)
	rc, err := r.OpenBlob(e.ctx, b, 0, -1)
	e.ok(err)
	defer rc.Close()
	data, err := io.ReadAll(rc)
	e.ok(err)
	if d.Algorithm().FromBytes(data) != d || int64(len(data)) != b.Size {
		e.Fatalf("the blob %s of %s has %d other bytes", d, repo, len(data))
	}
	return data
}

func (e *env) keys() []string {
	e.Helper()
	var keys []string
	for info, err := range e.store().Walk(e.ctx) {
		e.ok(err)
		keys = append(keys, info.Key)
	}
	slices.Sort(keys)
	return keys
}

var idRE = regexp.MustCompile(`[0-9a-f]{32}`)

// lost tells whether a key is what a request left that died, or lost a race on an
// upload, before its session was recorded. A directory has none. Another store has a name of
// its own for it, and finds it only by listing; beside a blob of the same upload, not even then.
func (e *env) lost(key string, blobs []string) bool {
	if _, directory := e.store().(*fs.Store); directory || !e.raced {
		return false
	}
	_, lists := e.store().(storage.Leaver)
	id := idRE.FindString(key)
	return !lists || slices.ContainsFunc(blobs, func(k string) bool { return strings.Contains(k, id) })
}

// noOrphans checks that a row points to everything that the store has.
func (e *env) noOrphans() {
	e.Helper()
	blobs := e.strings(`SELECT storage_key FROM blobs`)
	uploads := e.strings(`SELECT id FROM uploads`)
	garbage := strings.Join(e.strings(`SELECT value FROM garbage`), "\n")
	for _, key := range e.keys() {
		id := idRE.FindString(key)
		if !slices.Contains(blobs, key) && !slices.Contains(uploads, id) && !strings.Contains(garbage, id) && !e.lost(key, blobs) {
			e.Errorf("no row points to %s", key)
		}
	}
}

// settled lets time pass, runs the jobs, and checks that what is left is what
// blob rows point to, and that their bytes are right.
func (e *env) settled() {
	e.Helper()
	e.noOrphans()
	r := e.replica()
	for range 2 {
		e.clock.add(48 * time.Hour)
		_, err := collecting(r).ExpireUploads(e.ctx)
		e.ok(err)
		e.clock.add(48 * time.Hour)
		_, err = collecting(r).CollectGarbage(e.ctx)
		e.ok(err)
	}
	if left := append(e.strings(`SELECT id FROM uploads`), e.strings(`SELECT value FROM garbage`)...); len(left) > 0 {
		e.Errorf("the jobs leave %v", left)
	}
	blobs := e.strings(`SELECT storage_key FROM blobs`)
	slices.Sort(blobs)
	keys := slices.DeleteFunc(e.keys(), func(k string) bool { return !slices.Contains(blobs, k) && e.lost(k, blobs) })
	if !slices.Equal(keys, blobs) {
		e.Errorf("the store has %v, the rows %v", keys, blobs)
	}
	for _, l := range e.strings(`SELECT r.name || ' ' || l.digest FROM repository_blobs l JOIN repositories r ON r.id = l.repository_id`) {
		name, d, _ := strings.Cut(l, " ")
		e.read(r, name, digest.Digest(d))
	}
}

// random gives n bytes, the same for the same seed.
func random(n int, seed uint64) []byte { return storagetest.Bytes(n, seed) }

// as is an actor of whom only the name matters.
func as(name string) auth.Actor { return auth.Operator(name) }

// robot is the robot ci of the team, in a request from the address.
func robot(address string) auth.Actor {
	p := auth.Principal{Kind: auth.KindRobot, Team: "team", Name: "ci", Claims: map[string]string{"workflow": "release"}}
	return auth.ActorOf(p, metadata.Actor{Address: address, RequestID: "r1"})
}
