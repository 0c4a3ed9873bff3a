package backup

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"io"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"berth/auth"
	"berth/metadata"
	"berth/oci"
	"berth/registry"
	"berth/registry/collect"
	"berth/registry/registrytest"
	"berth/storage"
	"berth/storage/storagetest"
)

const (
	alice = "alice"
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
	r     *registry.Registry   // one of the registries
	o     registry.Options     // of the registries
}

// newBackend makes an empty one, by its name in the list.
func newBackend(t *testing.T, name string) *env {
	for _, b := range registrytest.Backends {
		if b.Name == name {
			url, driver, dsn := b.DB(t)
			return newEnv(t, url, driver, dsn, b.Store(t))
		}
	}
	t.Fatalf("there is no backend %s", name)
	return nil
}

// onTransfers runs a test on ways from one backend to another: each is the
// source of one and the target of another.
func onTransfers(t *testing.T, run func(t *testing.T, from, to *env)) {
	for i, b := range registrytest.Backends {
		if registrytest.Left(i) {
			continue
		}
		target := registrytest.Backends[(i+2)%len(registrytest.Backends)].Name
		t.Run(b.Name+" to "+target, func(t *testing.T) {
			run(t, newBackend(t, b.Name), newBackend(t, target))
		})
	}
}

func newEnv(t testing.TB, url, driver, dsn string, store func() storage.Store) *env {
	t.Helper()
	e := &env{TB: t, ctx: t.Context(), clock: registrytest.NewClock(), url: url, store: store}
	e.o = registry.Options{Clock: e.clock.Now}
	db := e.openDB()
	if _, err := db.Migrate(e.ctx); err != nil {
		t.Fatal(err)
	}
	var err error
	if e.raw, err = sql.Open(driver, dsn); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.raw.Close() })
	e.r = registry.New(db, store(), e.o)
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
func (e *env) replica() *registry.Registry { return registry.New(e.openDB(), e.store(), e.o) }

// collector takes away what the registry no longer needs, and checks it, as another process.
func (e *env) collector() *collect.Collector {
	return collect.New(e.openDB(), e.store(), collect.Options{Clock: e.clock.Now})
}

func (e *env) ok(err error) {
	e.Helper()
	if err != nil {
		e.Fatal(err)
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
func (e *env) push(r *registry.Registry, repo string, data []byte) digest.Digest {
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
func (e *env) read(r *registry.Registry, repo string, d digest.Digest) []byte {
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

// noOrphans checks that a row points to everything that the store has.
func (e *env) noOrphans() {
	e.Helper()
	blobs := e.strings(`SELECT storage_key FROM blobs`)
	uploads := e.strings(`SELECT id FROM uploads`)
	garbage := strings.Join(e.strings(`SELECT value FROM garbage`), "\n")
	for _, key := range e.keys() {
		id := idRE.FindString(key)
		if !slices.Contains(blobs, key) && !slices.Contains(uploads, id) && !strings.Contains(garbage, id) {
			e.Errorf("no row points to %s", key)
		}
	}
}

// put stores an object that no row points to.
func (e *env) put(data []byte) string {
	e.Helper()
	store := e.store()
	s, _, err := store.Append(e.ctx, store.Begin(storagetest.NewID()), bytes.NewReader(data), io.Discard)
	e.ok(err)
	key, err := store.Commit(e.ctx, s)
	e.ok(err)
	return key
}

// image pushes the blobs of an image, and gives its manifest.
func (e *env) image(r *registry.Registry, repo, name string) []byte {
	e.Helper()
	m := v1.Manifest{MediaType: v1.MediaTypeImageManifest}
	m.SchemaVersion = 2
	blob := func(mediaType string, data []byte) v1.Descriptor {
		return v1.Descriptor{MediaType: mediaType, Digest: e.push(r, repo, data), Size: int64(len(data))}
	}
	m.Config = blob(v1.MediaTypeImageConfig, []byte(`{"name":"`+name+`"}`))
	m.Layers = []v1.Descriptor{blob(v1.MediaTypeImageLayerGzip, []byte("layer of "+name))}
	raw, err := json.Marshal(m)
	e.ok(err)
	return raw
}

// pushImage pushes an image with a tag.
func (e *env) pushImage(r *registry.Registry, repo, name, tag string) {
	e.Helper()
	_, err := r.PushManifest(e.ctx, as(alice), repo, oci.Reference{Tag: tag}, nil, v1.MediaTypeImageManifest, e.image(r, repo, name))
	e.ok(err)
}

// random gives n bytes, the same for the same seed.
func random(n int, seed uint64) []byte { return storagetest.Bytes(n, seed) }

// as is an actor of whom only the name matters.
func as(name string) auth.Actor { return auth.Operator(name) }
