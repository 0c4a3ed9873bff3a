package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"berth/metadata"
	"berth/oci"
	"berth/storage"
	"berth/storage/storagetest"

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

// leftovers is for the stores here that wrap another one.
func leftovers(store storage.Store, s storage.Session) []string {
	if l, ok := store.(storage.Leaver); ok {
		return l.Leftovers(s)
	}
	return nil
}

func (m *mortal) Leftovers(s storage.Session) []string     { return leftovers(m.Store, s) }
func (c *commitHook) Leftovers(s storage.Session) []string { return leftovers(c.Store, s) }

func (m *mortal) Delete(ctx context.Context, keys ...string) error {
	if err := m.chance("before Delete"); err != nil {
		return err
	}
	err := m.Store.Delete(ctx, keys...)
	return errors.Join(err, m.chance("after Delete"))
}

// attempt is one push by a process that may die.
type attempt struct {
	*env
	r    *Registry
	repo string
	data []byte
	d    digest.Digest
}

// put pushes in chunks, the last one with the closing request, under a digest of
// the algorithm, and tells whether that was acknowledged.
func (a *attempt) put(d digest.Digest, chunks ...int) bool {
	u, err := a.r.StartUpload(a.ctx, as(alice), a.repo, digest.SHA256)
	rest := a.data
	for _, n := range chunks {
		if err == nil {
			_, err = a.r.AppendUpload(a.ctx, as(alice), a.repo, u.ID, -1, int64(n), bytes.NewReader(rest[:n]))
			rest = rest[n:]
		}
	}
	if err == nil {
		_, err = a.r.CommitUpload(a.ctx, as(alice), a.repo, u.ID, d, -1, int64(len(rest)), bytes.NewReader(rest))
	}
	return err == nil
}

// TestDeathAnywhere lets a process die at every point of every kind of push,
// and of the jobs. Whatever was acknowledged is there; no row points to
// missing or wrong bytes; every stored byte has a row; and the same push
// again, through another process, succeeds.
func TestDeathAnywhere(t *testing.T) {
	scenarios := []struct {
		name   string
		before func(*attempt) // by a healthy process
		run    func(*attempt) (acknowledged digest.Digest)
		least  int  // chances to die that there are at least
		ends   bool // with something acknowledged
	}{
		{name: "single POST", least: 5, ends: true, run: func(a *attempt) digest.Digest {
			b, _ := a.r.PutBlob(a.ctx, as(alice), a.repo, a.d, int64(len(a.data)), bytes.NewReader(a.data))
			return b.Digest
		}},
		{name: "POST, PUT", least: 5, ends: true, run: func(a *attempt) digest.Digest { return acknowledged(a.put(a.d), a.d) }},
		{name: "POST, PATCH, PATCH, PUT", least: 8, ends: true, run: func(a *attempt) digest.Digest {
			return acknowledged(a.put(a.d, 10, len(a.data)-10), a.d)
		}},
		{name: "sha512 at the end", least: 6, ends: true, run: func(a *attempt) digest.Digest {
			d := digest.SHA512.FromBytes(a.data)
			return acknowledged(a.put(d, len(a.data)), d)
		}},
		{name: "a blob that another repository has", least: 5, ends: true,
			before: func(a *attempt) { a.push(a.env.r, "team/other", a.data) },
			run:    func(a *attempt) digest.Digest { return acknowledged(a.put(a.d), a.d) }},
		{name: "a blob that another process pushes meanwhile", least: 7, ends: true, run: func(a *attempt) digest.Digest {
			// The other one comes between this one's look at the rows and its insert.
			m := a.r.store.(*mortal)
			m.Store = &commitHook{Store: m.Store, after: func() { a.push(a.env.r, "team/other", a.data) }}
			return acknowledged(a.put(a.d), a.d)
		}},
		{name: "a wrong digest", least: 5, run: func(a *attempt) digest.Digest {
			a.put(digest.FromString("wrong"))
			return ""
		}},
		{name: "cancelled", least: 5, run: func(a *attempt) digest.Digest {
			u, err := a.r.StartUpload(a.ctx, as(alice), a.repo, digest.SHA256)
			if err == nil {
				_, err = a.r.AppendUpload(a.ctx, as(alice), a.repo, u.ID, -1, -1, bytes.NewReader(a.data))
			}
			if err == nil {
				_ = a.r.CancelUpload(a.ctx, as(alice), a.repo, u.ID)
			}
			return ""
		}},
		{name: "jobs", least: 6, before: func(a *attempt) {
			for range 3 {
				u, err := a.env.r.StartUpload(a.ctx, as(alice), a.repo, digest.SHA256)
				a.ok(err)
				_, err = a.env.r.AppendUpload(a.ctx, as(alice), a.repo, u.ID, -1, -1, bytes.NewReader(a.data))
				a.ok(err)
			}
			a.push(a.env.r, "team/other", a.data)
			a.clock.Add(48 * time.Hour)
		}, run: func(a *attempt) digest.Digest {
			_, _ = collecting(a.r).ExpireUploads(a.ctx)
			a.clock.Add(48 * time.Hour)
			_, _ = collecting(a.r).CollectGarbage(a.ctx)
			return ""
		}},
	}
	onEach(t, func(t *testing.T, e *env) {
		e.raced = true // what died was in a race with those that come after it
		seed := uint64(0)
		for _, s := range scenarios {
			t.Run(s.name, func(t *testing.T) {
				deaths := map[string]int{}
				for n := 0; ; n++ {
					seed++
					e.TB = t
					a := &attempt{env: e, repo: fmt.Sprint("team/app", seed), data: random(100_000, seed)}
					a.d = digest.FromBytes(a.data)
					if s.before != nil {
						s.before(a)
					}
					db := e.openDB()
					m := &mortal{Store: e.store(), db: db, left: n}
					a.r = New(db, m, e.o)
					said := s.run(a)
					if m.when == "" {
						if n < s.least || (said != "") != s.ends {
							t.Errorf("%d chances to die, acknowledged: %v", n, said)
						}
						break
					}
					deaths[m.when]++
					t.Run(fmt.Sprintf("%d %s", n, m.when), func(t *testing.T) {
						e.TB = t
						e.noOrphans()
						other := e.replica()
						if said != "" && !bytes.Equal(e.read(other, a.repo, said), a.data) {
							t.Error("acknowledged, but with other bytes")
						}
						e.push(other, a.repo, a.data)
						if !bytes.Equal(e.read(other, a.repo, a.d), a.data) {
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

func acknowledged(ok bool, d digest.Digest) digest.Digest {
	if ok {
		return d
	}
	return ""
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

// TestStoreTrouble: the store fails at times, and nothing is lost by it.
func TestStoreTrouble(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		e.raced = true // the success of an Append is thrown away
		data := random(50_000, 9)
		d := digest.FromBytes(data)
		f := storagetest.Faulty(e.store(),
			storagetest.Fault{Op: "Append", Call: 1, Bytes: 1000},
			storagetest.Fault{Op: "Append", Call: 2, After: true},
			storagetest.Fault{Op: "Commit", Call: 1},
			storagetest.Fault{Op: "Commit", Call: 2, After: true},
			storagetest.Fault{Op: "Open", Call: 1},
			storagetest.Fault{Op: "Abort", Call: 1}, storagetest.Fault{Op: "Abort", Call: 2}, // as they are cancelled
			storagetest.Fault{Op: "Abort", Call: 3}, storagetest.Fault{Op: "Abort", Call: 4}, // as they are collected
		)
		r := New(e.openDB(), f, e.o)
		u, err := r.StartUpload(e.ctx, as(alice), repo, digest.SHA256)
		e.ok(err)
		for range 2 {
			got, err := r.AppendUpload(e.ctx, as(alice), repo, u.ID, 0, -1, bytes.NewReader(data))
			e.is(err, oci.ErrUnavailable)
			if got.Size != 0 {
				t.Errorf("%+v", got)
			}
		}
		_, err = r.AppendUpload(e.ctx, as(alice), repo, u.ID, 0, -1, bytes.NewReader(data))
		e.ok(err)
		for range 2 {
			_, err = r.CommitUpload(e.ctx, as(alice), repo, u.ID, d, -1, 0, nil)
			e.is(err, oci.ErrUnavailable)
		}
		// A store may or may not commit a session again; either way the client gets on.
		if _, err = r.CommitUpload(e.ctx, as(alice), repo, u.ID, d, -1, 0, nil); err != nil {
			e.is(err, oci.ErrBlobUploadInvalid)
			e.push(r, repo, data)
		}
		e.read(e.r, repo, d)
		b, err := r.Blob(e.ctx, repo, d)
		e.ok(err)
		_, err = r.OpenBlob(e.ctx, b, 0, -1)
		e.is(err, oci.ErrUnavailable)

		// What cannot be removed now is tried again later.
		for i := range 2 {
			u, err := r.StartUpload(e.ctx, as(alice), repo, digest.SHA256)
			e.ok(err)
			_, err = r.AppendUpload(e.ctx, as(alice), repo, u.ID, 0, -1, bytes.NewReader(data[i:]))
			e.ok(err)
			e.ok(r.CancelUpload(e.ctx, as(alice), repo, u.ID))
		}
		e.clock.Add(2 * metadata.SessionGrace)
		if n, err := collecting(r).CollectGarbage(e.ctx); n != 0 || !errors.Is(err, storagetest.ErrFault) {
			t.Errorf("collected %d, %v", n, err)
		}
		if n, err := collecting(r).CollectGarbage(e.ctx); n != 0 || err != nil {
			t.Errorf("collected %d at once, %v", n, err)
		}
		e.clock.Add(10 * time.Minute) // after which it is tried again
		if n, err := collecting(r).CollectGarbage(e.ctx); n != 2 || err != nil {
			t.Errorf("collected %d later, %v", n, err)
		}
		e.settled()
	})
}

// TestDatabaseGone: without the database nothing is acknowledged.
func TestDatabaseGone(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		data := []byte("data")
		u, err := e.r.StartUpload(e.ctx, as(alice), repo, digest.SHA256)
		e.ok(err)
		_, err = e.r.AppendUpload(e.ctx, as(alice), repo, u.ID, 0, -1, bytes.NewReader(data))
		e.ok(err)
		db := e.openDB()
		gone := New(db, e.store(), e.o)
		e.ok(db.Close())
		_, err = gone.StartUpload(e.ctx, as(alice), repo, digest.SHA256)
		e.is(err, oci.ErrUnavailable)
		_, err = gone.AppendUpload(e.ctx, as(alice), repo, u.ID, 4, -1, bytes.NewReader(data))
		e.is(err, oci.ErrUnavailable)
		_, err = gone.CommitUpload(e.ctx, as(alice), repo, u.ID, digest.FromBytes(data), -1, 0, nil)
		e.is(err, oci.ErrUnavailable)
		_, err = gone.PutBlob(e.ctx, as(alice), repo, digest.FromBytes(data), 4, bytes.NewReader(data))
		e.is(err, oci.ErrUnavailable)
		_, err = gone.Manifest(e.ctx, repo, tagged("x"))
		e.is(err, oci.ErrUnavailable)
		_, err = gone.PushManifest(e.ctx, as(alice), repo, tagged("x"), nil, "application/vnd.example", []byte("{}"))
		e.is(err, oci.ErrUnavailable)
		_, err = gone.MountBlob(e.ctx, as(alice), repo, digest.FromBytes(data), "team/from")
		e.is(err, oci.ErrUnavailable)
		_, _, err = gone.Referrers(e.ctx, repo, digest.FromBytes(data), "", "", 10)
		e.is(err, oci.ErrUnavailable)
		_, err = collecting(gone).ExpireUploads(e.ctx)
		e.is(err, oci.ErrUnavailable)
		_, err = collecting(gone).CollectGarbage(e.ctx)
		e.is(err, oci.ErrUnavailable)
		e.settled()
	})
}
