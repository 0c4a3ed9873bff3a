package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"berth/metadata"
	"berth/oci"
	"berth/storage"

	"github.com/opencontainers/go-digest"
)

var errDead = errors.New("the process is dead")

// mortal is the store of a process that dies at its n-th chance: just before
// a call to the store, just after it, or in the middle of a body. From then on neither the store nor
// the database hears from that process again. Since every statement of
// the registry stands between two calls to the store, or at the
// end, this also is a process that dies before and after each transaction.
type mortal struct {
	storage.Store
	db   *metadata.DB
	mu   sync.Mutex
	left int    // chances until death
	when string // what it died of; "" while alive
}

// chance reports whether the process is dead.
func (m *mortal) chance(what string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.when == "" {
		if m.left--; m.left >= 0 {
			return nil
		}
		m.when = what
		m.db.Close()
	}
	return errDead
}

func (m *mortal) Append(ctx context.Context, s storage.Session, r io.Reader, w io.Writer) (storage.Session, int64, error) {
	if err := m.chance("before Append"); err != nil {
		return s, 0, err
	}
	next, n, err := m.Store.Append(ctx, s, io.MultiReader(iotest.HalfReader(r), readerFunc(func([]byte) (int, error) {
		if err := m.chance("in Append"); err != nil {
			return 0, err
		}
		return 0, io.EOF
	})), w)
	if derr := m.chance("after Append"); derr != nil {
		return s, 0, derr
	}
	return next, n, err
}

func (m *mortal) OpenSession(ctx context.Context, s storage.Session) (io.ReadCloser, error) {
	if err := m.chance("before OpenSession"); err != nil {
		return nil, err
	}
	return m.Store.OpenSession(ctx, s)
}

func (m *mortal) Commit(ctx context.Context, s storage.Session) (string, error) {
	if err := m.chance("before Commit"); err != nil {
		return "", err
	}
	key, err := m.Store.Commit(ctx, s)
	if derr := m.chance("after Commit"); derr != nil {
		return "", derr
	}
	return key, err
}

func (m *mortal) Abort(ctx context.Context, s storage.Session) error {
	if err := m.chance("before Abort"); err != nil {
		return err
	}
	err := m.Store.Abort(ctx, s)
	return errors.Join(err, m.chance("after Abort"))
}

func (m *mortal) Leftovers(s storage.Session) []string     { return leftovers(m.Store, s) }
func (f *failing) Leftovers(s storage.Session) []string    { return leftovers(f.Store, s) }
func (c *commitHook) Leftovers(s storage.Session) []string { return leftovers(c.Store, s) }

func (m *mortal) Delete(ctx context.Context, keys ...string) error {
	if err := m.chance("before Delete"); err != nil {
		return err
	}
	err := m.Store.Delete(ctx, keys...)
	return errors.Join(err, m.chance("after Delete"))
}

// TestDeathAnywhere lets a process die at every point of every kind of push,
// and of the jobs. Whatever was acknowledged is there; no row points to
// missing or wrong bytes; every stored byte has a row; and the same push
// again, through another process, succeeds.
func TestDeathAnywhere(t *testing.T) {
	data := random(100_000, 1)
	d := digest.FromBytes(data)
	d512 := digest.SHA512.FromBytes(data)

	// A scenario pushes data with a mortal registry and tells what was acknowledged.
	put := func(e *env, r *Registry, d digest.Digest, chunks ...int) (acknowledged bool) {
		u, err := r.StartUpload(e.ctx, alice, repo, digest.SHA256)
		rest := data
		for _, n := range chunks {
			if err == nil {
				_, err = r.AppendUpload(e.ctx, alice, repo, u.ID, -1, int64(n), bytes.NewReader(rest[:n]))
				rest = rest[n:]
			}
		}
		if err == nil {
			_, err = r.CommitUpload(e.ctx, alice, repo, u.ID, d, -1, int64(len(rest)), bytes.NewReader(rest))
		}
		return err == nil
	}
	scenarios := []struct {
		name   string
		before func(*env) // by a healthy process
		run    func(*env, *Registry) (acknowledged bool)
		least  int           // chances to die that there are at least
		blob   digest.Digest // what is acknowledged when nothing dies, if anything
	}{
		{name: "single POST", least: 5, blob: d, run: func(e *env, r *Registry) bool {
			_, err := r.PutBlob(e.ctx, alice, repo, d, int64(len(data)), bytes.NewReader(data))
			return err == nil
		}},
		{name: "POST, PUT", least: 5, blob: d, run: func(e *env, r *Registry) bool { return put(e, r, d) }},
		{name: "POST, PATCH, PATCH, PUT", least: 8, blob: d, run: func(e *env, r *Registry) bool { return put(e, r, d, 10, len(data)-10) }},
		{name: "sha512 at the end", least: 6, blob: d512, run: func(e *env, r *Registry) bool { return put(e, r, d512, len(data)) }},
		{name: "a blob that another repository has", least: 5, blob: d,
			before: func(e *env) { e.push(e.r, "team/other", data) },
			run:    func(e *env, r *Registry) bool { return put(e, r, d) }},
		{name: "a blob that another process pushes meanwhile", least: 7, blob: d, run: func(e *env, r *Registry) bool {
			// The other one comes between this one's look at the rows and its insert.
			m := r.store.(*mortal)
			m.Store = &commitHook{Store: m.Store, after: func() { e.push(e.r, "team/other", data) }}
			return put(e, r, d)
		}},
		{name: "a wrong digest", least: 5, run: func(e *env, r *Registry) bool {
			put(e, r, digest.FromString("wrong"))
			return false
		}},
		{name: "cancelled", least: 5, run: func(e *env, r *Registry) bool {
			u, err := r.StartUpload(e.ctx, alice, repo, digest.SHA256)
			if err == nil {
				_, err = r.AppendUpload(e.ctx, alice, repo, u.ID, -1, -1, bytes.NewReader(data))
			}
			if err == nil {
				_ = r.CancelUpload(e.ctx, alice, repo, u.ID)
			}
			return false
		}},
		{name: "jobs", least: 6, before: func(e *env) {
			for range 3 {
				u, err := e.r.StartUpload(e.ctx, alice, repo, digest.SHA256)
				e.ok(err)
				_, err = e.r.AppendUpload(e.ctx, alice, repo, u.ID, -1, -1, bytes.NewReader(data))
				e.ok(err)
			}
			e.push(e.r, "team/other", data)
			e.clock.add(48 * time.Hour)
		}, run: func(e *env, r *Registry) bool {
			_, _ = r.ExpireUploads(e.ctx)
			e.clock.add(48 * time.Hour)
			_, _ = r.CollectGarbage(e.ctx)
			return false
		}},
	}
	onEach(t, func(t *testing.T, shared *env) {
		for _, s := range scenarios {
			t.Run(s.name, func(t *testing.T) {
				deaths := map[string]int{}
				for n := 0; ; n++ {
					e := shared.fresh(t)
					e.raced = true // what died was in a race with those that come after it
					if s.before != nil {
						s.before(e)
					}
					db := e.openDB()
					m := &mortal{Store: e.store(), db: db, left: n}
					acknowledged := s.run(e, New(db, m, e.o))
					if m.when == "" {
						if n < s.least || acknowledged != (s.blob != "") {
							t.Errorf("%d chances to die, acknowledged: %v", n, acknowledged)
						}
						break
					}
					deaths[m.when]++
					t.Run(fmt.Sprintf("%d %s", n, m.when), func(t *testing.T) {
						e.TB = t
						e.noOrphans()
						other := e.replica()
						if acknowledged {
							if b, err := other.Blob(e.ctx, repo, s.blob); err != nil || b.Size != int64(len(data)) {
								t.Errorf("acknowledged, but: %+v, %v", b, err)
							}
						}
						e.push(other, repo, data)
						if !bytes.Equal(e.read(other, repo, d), data) {
							t.Error("other bytes")
						}
						e.settled()
					})
				}
				t.Logf("died %v", deaths)
			})
		}
	})
}

// fresh is an empty env of the same kind.
func (e *env) fresh(t *testing.T) *env {
	for _, b := range backends {
		if strings.Contains(e.Name(), strings.ReplaceAll(b.name, " ", "_")) {
			url, driver, dsn := b.db(t)
			return newEnv(t, url, driver, dsn, b.store(t))
		}
	}
	panic("no backend for " + e.Name())
}

// commitHook does something once, after the first Commit.
type commitHook struct {
	storage.Store
	once  sync.Once
	after func()
}

func (c *commitHook) Commit(ctx context.Context, s storage.Session) (string, error) {
	key, err := c.Store.Commit(ctx, s)
	c.once.Do(c.after)
	return key, err
}

// TestStoreTrouble: the store fails for a while, and nothing is lost by it.
func TestStoreTrouble(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		data := random(50_000, 9)
		d := digest.FromBytes(data)
		e.raced = true // failing leaves half of its Appends
		f := &failing{Store: e.store()}
		r := New(e.openDB(), f, e.o)
		u, err := r.StartUpload(e.ctx, alice, repo, digest.SHA256)
		e.ok(err)

		f.fail = true
		got, err := r.AppendUpload(e.ctx, alice, repo, u.ID, 0, -1, bytes.NewReader(data))
		e.is(err, oci.ErrUnavailable)
		if got.Size != 0 {
			t.Errorf("%+v", got)
		}
		f.fail = false
		_, err = r.AppendUpload(e.ctx, alice, repo, u.ID, 0, -1, bytes.NewReader(data))
		e.ok(err)
		f.fail = true
		_, err = r.CommitUpload(e.ctx, alice, repo, u.ID, d, -1, 0, nil)
		e.is(err, oci.ErrUnavailable)
		_, err = r.PutBlob(e.ctx, alice, repo, d, -1, bytes.NewReader(data))
		e.is(err, oci.ErrUnavailable)
		f.fail = false
		_, err = r.CommitUpload(e.ctx, alice, repo, u.ID, d, -1, 0, nil)
		e.ok(err)
		e.read(r, repo, d)

		b, err := r.Blob(e.ctx, repo, d)
		e.ok(err)
		f.fail = true
		_, err = r.OpenBlob(e.ctx, b, 0, -1)
		e.is(err, oci.ErrUnavailable)

		// What cannot be deleted now is tried again later, and does not stand in the way.
		f.fail = false
		for range 3 {
			u, err := r.StartUpload(e.ctx, alice, repo, digest.SHA256)
			e.ok(err)
			_, err = r.AppendUpload(e.ctx, alice, repo, u.ID, 0, -1, bytes.NewReader(data))
			e.ok(err)
			f.fail = true
			e.ok(r.CancelUpload(e.ctx, alice, repo, u.ID))
			f.fail = false
		}
		e.clock.add(2 * graceOfSessions)
		f.fail = true
		if n, err := r.CollectGarbage(e.ctx); n != 0 || err == nil {
			t.Errorf("collected %d, %v", n, err)
		}
		f.fail = false
		if n, err := r.CollectGarbage(e.ctx); n != 0 || err != nil {
			t.Errorf("collected %d at once, %v", n, err)
		}
		e.clock.add(retryGarbage)
		if n, err := r.CollectGarbage(e.ctx); n < 3 || err != nil {
			t.Errorf("collected %d, %v", n, err)
		}
		e.settled()
	})
}

// failing is a store that does not answer at times.
type failing struct {
	storage.Store
	fail bool
}

var errNoAnswer = errors.New("no answer")

func (f *failing) Append(ctx context.Context, s storage.Session, r io.Reader, w io.Writer) (storage.Session, int64, error) {
	if f.fail {
		_, _, _ = f.Store.Append(ctx, s, io.LimitReader(r, 1000), w)
		return s, 0, errNoAnswer
	}
	return f.Store.Append(ctx, s, r, w)
}

func (f *failing) Commit(ctx context.Context, s storage.Session) (string, error) {
	if f.fail {
		return "", errNoAnswer
	}
	return f.Store.Commit(ctx, s)
}

func (f *failing) Abort(ctx context.Context, s storage.Session) error {
	if f.fail {
		return errNoAnswer
	}
	return f.Store.Abort(ctx, s)
}

func (f *failing) Delete(ctx context.Context, keys ...string) error {
	if f.fail {
		return errNoAnswer
	}
	return f.Store.Delete(ctx, keys...)
}

func (f *failing) Open(ctx context.Context, key string, off, n int64) (io.ReadCloser, error) {
	if f.fail {
		return nil, errNoAnswer
	}
	return f.Store.Open(ctx, key, off, n)
}
