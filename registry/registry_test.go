package registry

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"berth/auth"
	"berth/metadata"
	"berth/oci"
	"berth/registry/collect"
	"berth/registry/registrytest"
	"berth/storage"
	"berth/storage/fs"
	"berth/storage/storagetest"
	"berth/testenv"

	"github.com/opencontainers/go-digest"
)

func TestMain(m *testing.M) { os.Exit(testenv.Main(m)) }

const (
	alice = "alice"
	bob   = "bob"
	repo  = "team/app"
)

// env is a database and a store, on which any number of registries work.
type env struct {
	testing.TB
	ctx   context.Context
	clock *registrytest.Clock
	url   string               // of the database
	store func() storage.Store // each call as another process would open it
	raw   *sql.DB              // the database, to look behind the scenes
	r     *Registry            // one of the registries
	raced bool                 // requests have raced on one upload; see lost
	o     Options              // of the registries
}

// onEach runs a test on every combination.
func onEach(t *testing.T, run func(t *testing.T, e *env)) {
	for i, b := range registrytest.Backends {
		if registrytest.Left(i) {
			continue
		}
		t.Run(b.Name, func(t *testing.T) {
			url, driver, dsn := b.DB(t)
			run(t, newEnv(t, url, driver, dsn, b.Store(t)))
		})
	}
}

func newEnv(t testing.TB, url, driver, dsn string, store func() storage.Store) *env {
	t.Helper()
	e := &env{TB: t, ctx: t.Context(), clock: registrytest.NewClock(), url: url, store: store}
	e.o = Options{Clock: e.clock.Now}
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
	db, err := metadata.Open(context.Background(), metadata.Options{URL: e.url, Clock: e.clock.Now})
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
		e.clock.Add(48 * time.Hour)
		_, err := collecting(r).ExpireUploads(e.ctx)
		e.ok(err)
		e.clock.Add(48 * time.Hour)
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
