// Package storagetest is the contract of storage.Store in executable form.
// Every store passes [Test]; [Faulty] is a store that fails on cue, for the
// tests of what is built upon one.
package storagetest

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	mrand "math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"berth/storage"
)

// NewID makes an id for a session.
func NewID() string {
	var b [16]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// Bytes makes n bytes that look random and are the same for the same seed.
func Bytes(n int, seed uint64) []byte {
	var key [32]byte
	key[0], key[1], key[2] = byte(seed), byte(seed>>8), byte(seed>>16)
	b := make([]byte, n)
	mrand.NewChaCha8(key).Read(b)
	return b
}

// tee is a hash that also counts.
type tee struct {
	hash.Hash
	n int64
}

func newTee() *tee { return &tee{Hash: sha256.New()} }

func (t *tee) Write(p []byte) (int, error) {
	t.n += int64(len(p))
	return t.Hash.Write(p)
}

// Test runs the contract against a store. open gives another Store on the same
// directory or bucket with each call, as another replica would have it.
func Test(t *testing.T, open func(t testing.TB) storage.Store) {
	tests := []struct {
		name string
		run  func(*testing.T, *env)
	}{
		{"put, get, range", testRange},
		{"empty object", testEmpty},
		{"sizes around the limits", testSizes},
		{"many appends", testManyAppends},
		{"one-byte reads and appends", testOneByte},
		{"64 KiB chunks between two stores", chunks(64<<10, 40)},
		{"5 MiB + 1 chunks between two stores", chunks(5<<20+1, 5)},
		{"2 MiB chunks between two stores", chunks(2<<20, 9)},
		{"failing reader keeps the prefix", testFailingReader},
		{"failing tee", testFailingTee},
		{"an append whose session was not stored", testUnstored},
		{"commit twice", testCommitTwice},
		{"append after commit", testAppendAfterCommit},
		{"abort", testAbort},
		{"abort after a commit that was not recorded", testAbortCommitted},
		{"concurrent appends never mix", testConcurrentAppends},
		{"stale session never mixes", testStaleSession},
		{"concurrent uploads", testConcurrentUploads},
		{"cancelled context", testCancelled},
		{"context cancelled while reading", testCancelledReading},
		{"open session", testOpenSession},
		{"walk", testWalk},
		{"delete", testDelete},
		{"foreign sessions and keys", testForeign},
		{"ping", func(t *testing.T, e *env) { e.ok(e.store.Ping(e.ctx)); e.ok(e.store.Writable(e.ctx)) }},
		{"links", testURL},
		{"named files", testFiles},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			test.run(t, &env{t: t, ctx: t.Context(), store: open(t), open: open})
		})
	}
}

type env struct {
	t     *testing.T
	ctx   context.Context
	store storage.Store
	open  func(testing.TB) storage.Store
}

// A store that keeps named files replaces them whole, and lists none of them.
func testFiles(t *testing.T, e *env) {
	files, ok := e.store.(storage.Filer)
	if !ok {
		return // the ability is optional
	}
	put := func(name, text string) error {
		f, err := os.Create(filepath.Join(t.TempDir(), "f"))
		e.ok(err)
		defer f.Close()
		_, err = f.WriteString(text)
		e.ok(err)
		return files.PutFile(e.ctx, name, f)
	}
	get := func(name string) string {
		rc, err := e.open(t).(storage.Filer).OpenFile(e.ctx, name)
		e.ok(err)
		defer rc.Close()
		text, err := io.ReadAll(rc)
		e.ok(err)
		return string(text)
	}
	_, err := files.OpenFile(e.ctx, "backup.json")
	e.is(err, storage.ErrNotFound)
	e.ok(put("backup.json", "one, and longer"))
	e.ok(put("backup.json", "two"))
	e.ok(put("berth-20260102t030405.db", ""))
	if got := get("backup.json") + get("berth-20260102t030405.db"); got != "two" {
		t.Errorf("the files hold %q", got)
	}
	for _, name := range []string{"", "..", "../x.db", "a/b.json", "x", ".hidden.db", "ab", "x.", strings.Repeat("a", 70) + ".db", "X.DB"} {
		if err := put(name, "x"); !errors.Is(err, storage.ErrNotFound) {
			t.Errorf("the name %q gives %v", name, err)
		}
		_, err := files.OpenFile(e.ctx, name)
		e.is(err, storage.ErrNotFound)
	}
	for info, err := range e.store.Walk(e.ctx) {
		if err != nil || storage.ValidFileName(info.Key) {
			t.Errorf("Walk gives %v, %v", info, err)
		}
	}
	ctx, cancel := context.WithCancel(e.ctx)
	cancel()
	if _, err := files.OpenFile(ctx, "backup.json"); !errors.Is(err, context.Canceled) {
		t.Errorf("with an ended context the error is %v", err)
	}
	e.ok(files.DeleteFile(e.ctx, "backup.json"))
	e.ok(files.DeleteFile(e.ctx, "backup.json"))
	_, err = files.OpenFile(e.ctx, "backup.json")
	e.is(err, storage.ErrNotFound)
}

func (e *env) ok(err error) {
	e.t.Helper()
	if err != nil {
		e.t.Fatal(err)
	}
}

func (e *env) is(err, want error) {
	e.t.Helper()
	if !errors.Is(err, want) {
		e.t.Fatalf("the error is %v, want %v", err, want)
	}
}

func (e *env) append(store storage.Store, s storage.Session, data []byte) storage.Session {
	e.t.Helper()
	h := newTee()
	next, n, err := store.Append(e.ctx, s, bytes.NewReader(data), h)
	e.ok(err)
	if n != int64(len(data)) || h.n != n {
		e.t.Fatalf("Append took %d bytes and hashed %d, want %d", n, h.n, len(data))
	}
	if want := sha256.Sum256(data); !bytes.Equal(h.Sum(nil), want[:]) {
		e.t.Fatal("tee was given other bytes than the store")
	}
	if len(next) > 1<<20 {
		e.t.Fatalf("the session has %d bytes, more than 1 MiB", len(next))
	}
	return next
}

func (e *env) put(data []byte) string {
	e.t.Helper()
	key, err := e.store.Commit(e.ctx, e.append(e.store, e.store.Begin(NewID()), data))
	e.ok(err)
	return key
}

func (e *env) get(key string, offset, length int64) ([]byte, error) {
	r, err := e.store.Open(e.ctx, key, offset, length)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

// want checks the whole object and cleans up.
func (e *env) want(key string, data []byte) {
	e.t.Helper()
	info, err := e.store.Stat(e.ctx, key)
	e.ok(err)
	if info.Key != key || info.Size != int64(len(data)) || time.Since(info.ModTime).Abs() > time.Hour {
		e.t.Fatalf("Stat says %+v of an object of %d bytes, key %s", info, len(data), key)
	}
	got, err := e.get(key, 0, -1)
	e.ok(err)
	if !bytes.Equal(got, data) {
		e.t.Fatalf("the object has %d other bytes than the %d that were put", len(got), len(data))
	}
	e.ok(e.store.Delete(e.ctx, key))
}

// keys lists what the store has of one session.
func (e *env) keys(id string) []string {
	e.t.Helper()
	var keys []string
	for info, err := range e.store.Walk(e.ctx) {
		e.ok(err)
		if strings.Contains(info.Key, id) {
			keys = append(keys, info.Key)
		}
	}
	return keys
}

func testRange(t *testing.T, e *env) {
	data := Bytes(100_000, 1)
	key := e.put(data)
	for _, r := range []struct{ offset, length, want int64 }{
		{0, -1, 100_000}, {0, 0, 0}, {0, 1, 1}, {0, 100_000, 100_000}, {0, 200_000, 100_000},
		{99_999, -1, 1}, {50_000, 10, 10}, {50_000, -1, 50_000}, {99_999, 10, 1},
		{100_000, -1, 0}, {100_000, 0, 0}, {100_000, 5, 0},
	} {
		got, err := e.get(key, r.offset, r.length)
		if err != nil {
			t.Errorf("%d bytes from %d: %v", r.length, r.offset, err)
		} else if !bytes.Equal(got, data[r.offset:r.offset+r.want]) {
			t.Errorf("%d bytes from %d: got %d bytes, or wrong ones", r.length, r.offset, len(got))
		}
	}
	for _, offset := range []int64{100_001, 1 << 40} {
		for _, length := range []int64{-1, 0, 10} {
			if _, err := e.get(key, offset, length); !errors.Is(err, storage.ErrOutOfRange) {
				t.Errorf("%d bytes from %d: %v, want ErrOutOfRange", length, offset, err)
			}
		}
	}
	e.want(key, data)
}

func testEmpty(t *testing.T, e *env) {
	key, err := e.store.Commit(e.ctx, e.store.Begin(NewID()))
	e.ok(err)
	got, err := e.get(key, 0, -1)
	e.ok(err)
	if len(got) != 0 {
		t.Fatalf("%d bytes", len(got))
	}
	if _, err := e.get(key, 1, -1); !errors.Is(err, storage.ErrOutOfRange) {
		t.Errorf("from byte 1: %v, want ErrOutOfRange", err)
	}
	e.want(key, nil)
	e.want(e.put(nil), nil)
}

func testSizes(t *testing.T, e *env) {
	for _, n := range []int{
		1, 4095, 4096, 32<<10 - 1, 32 << 10, 32<<10 + 1, 64 << 10, 96 << 10, 96<<10 + 1, 256 << 10, 300_001,
		1 << 20, 1<<20 + 32<<10 + 1, 5 << 20, 8 << 20, 13 << 20, 13<<20 + 1, 21 << 20, 40<<20 + 5,
	} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			e := &env{t: t, ctx: t.Context(), store: e.store}
			data := Bytes(n, uint64(n))
			e.want(e.put(data), data)
		})
	}
}

func testManyAppends(t *testing.T, e *env) {
	var all []byte
	s := e.store.Begin(NewID())
	for i := range 100 {
		data := Bytes(i*i%7001, uint64(i))
		s = e.append(e.store, s, data)
		all = append(all, data...)
	}
	key, err := e.store.Commit(e.ctx, s)
	e.ok(err)
	e.want(key, all)
}

func testOneByte(t *testing.T, e *env) {
	data := Bytes(100, 3)
	s := e.store.Begin(NewID())
	for i := range data {
		s = e.append(e.store, s, data[i:i+1])
	}
	key, err := e.store.Commit(e.ctx, s)
	e.ok(err)
	e.want(key, data)

	data = Bytes(200_000, 4)
	h := newTee()
	s, n, err := e.store.Append(e.ctx, e.store.Begin(NewID()), iotest.OneByteReader(bytes.NewReader(data)), h)
	e.ok(err)
	if n != h.n || n != int64(len(data)) {
		t.Fatalf("%d bytes, %d hashed, want %d", n, h.n, len(data))
	}
	key, err = e.store.Commit(e.ctx, s)
	e.ok(err)
	e.want(key, data)
}

// chunks uploads through two stores by turns.
func chunks(size, count int) func(*testing.T, *env) {
	return func(t *testing.T, e *env) {
		data := Bytes(size*count+size/3, uint64(size))
		two := []storage.Store{e.store, e.open(t)}
		s := two[0].Begin(NewID())
		var i int
		for chunk := range slices.Chunk(data, size) {
			s = e.append(two[i%2], s, chunk)
			i++
		}
		key, err := two[i%2].Commit(e.ctx, s)
		e.ok(err)
		e.want(key, data)
	}
}

func testFailingReader(t *testing.T, e *env) {
	broken := errors.New("connection reset")
	for _, n := range []int{0, 1, 32 << 10, 500_000, 6 << 20, 20 << 20} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			e := &env{t: t, ctx: t.Context(), store: e.store}
			data := Bytes(n+100_000, 5)
			h := newTee()
			s, got, err := e.store.Append(e.ctx, e.store.Begin(NewID()), io.MultiReader(bytes.NewReader(data[:n]), iotest.ErrReader(broken)), h)
			var source *storage.SourceError
			if !errors.As(err, &source) || !errors.Is(err, broken) {
				t.Fatalf("the error is %v, want a SourceError", err)
			}
			if got != int64(n) || h.n != got {
				t.Fatalf("%d bytes kept, %d hashed, want %d", got, h.n, n)
			}
			key, err := e.store.Commit(e.ctx, e.append(e.store, s, data[n:]))
			e.ok(err)
			e.want(key, data)
		})
	}
}

type failingWriter struct{ after int }

var errTee = errors.New("no hash")

func (w *failingWriter) Write(p []byte) (int, error) {
	if w.after -= len(p); w.after < 0 {
		return 0, errTee
	}
	return len(p), nil
}

func testFailingTee(t *testing.T, e *env) {
	data := Bytes(7<<20, 6)
	for _, after := range []int{0, 300 << 10, 6 << 20} {
		s0 := e.append(e.store, e.store.Begin(NewID()), data[:1000])
		s, n, err := e.store.Append(e.ctx, s0, bytes.NewReader(data[1000:]), &failingWriter{after})
		e.is(err, errTee)
		if n != 0 || s != s0 {
			t.Fatalf("%d bytes count, session changed: %v", n, s != s0)
		}
		key, err := e.store.Commit(e.ctx, e.append(e.store, s0, data[1000:]))
		e.ok(err)
		e.want(key, data)
	}
}

// testUnstored is a process that dies, or whose database does, between Append
// and storing the session: the one before goes on, more than once.
func testUnstored(t *testing.T, e *env) {
	for _, n := range []int{0, 1000, 6 << 20, 14 << 20} {
		id := NewID()
		s := e.store.Begin(id)
		data := Bytes(n+9<<20, 7)
		if n > 0 {
			s = e.append(e.store, s, data[:n])
		}
		e.append(e.store, s, Bytes(7<<20, 8))
		e.append(e.open(t), s, Bytes(10, 9))
		e.append(e.store, s, Bytes(500_000, 10))
		s = e.append(e.open(t), s, data[n:])
		key, err := e.store.Commit(e.ctx, s)
		e.ok(err)
		e.want(key, data)
	}
}

// One closing request may reach two servers, at once or one after the other.
func testCommitTwice(t *testing.T, e *env) {
	two := []storage.Store{e.store, e.open(t)}
	for _, n := range []int{0, 10, 15 << 20} {
		for round := range 5 {
			data := Bytes(n, uint64(11+round))
			s := e.append(e.store, e.store.Begin(NewID()), data)
			keys := make([]string, 5)
			commit := func(i int) {
				var err error
				if keys[i], err = two[i%2].Commit(e.ctx, s); err != nil {
					t.Errorf("%d bytes, commit %d: %v", n, i, err)
				}
			}
			var wg sync.WaitGroup
			for i := range len(keys) - 1 {
				wg.Go(func() { commit(i) })
			}
			wg.Wait()
			commit(len(keys) - 1)
			if len(slices.Compact(slices.Clone(keys))) > 1 {
				t.Errorf("%d bytes: the keys of one session are %q", n, keys)
			}
			e.want(keys[0], data)
		}
	}
}

func testAppendAfterCommit(t *testing.T, e *env) {
	for _, n := range []int{10, 15 << 20} {
		data := Bytes(n, 12)
		s := e.append(e.store, e.store.Begin(NewID()), data)
		key, err := e.store.Commit(e.ctx, s)
		e.ok(err)
		// It may go on in a place of its own, but never in the object.
		for range 2 {
			next, _, err := e.store.Append(e.ctx, s, bytes.NewReader(Bytes(6<<20, 13)), io.Discard)
			if err == nil {
				_, err = e.store.Commit(e.ctx, next)
			}
			if err != nil {
				e.is(err, storage.ErrSession)
			}
		}
		e.want(key, data)
	}
}

func testAbort(t *testing.T, e *env) {
	for _, n := range []int{0, 10, 6 << 20, 30 << 20} {
		id := NewID()
		s := e.store.Begin(id)
		if n > 0 {
			s = e.append(e.store, s, Bytes(n, 14))
			s = e.append(e.store, s, Bytes(100, 15))
		}
		e.ok(e.store.Abort(e.ctx, s))
		e.ok(e.store.Abort(e.ctx, s))
		if keys := e.keys(id); len(keys) > 0 {
			t.Errorf("%d bytes: Abort leaves %v", n, keys)
		}
		if n == 0 {
			continue
		}
		if _, err := e.store.Commit(e.ctx, s); !errors.Is(err, storage.ErrSession) {
			t.Errorf("%d bytes: Commit after Abort: %v", n, err)
		}
	}
}

// testAbortCommitted is an upload whose commit was never recorded, and which expires.
func testAbortCommitted(t *testing.T, e *env) {
	for _, n := range []int{10, 6 << 20, 30 << 20} {
		id := NewID()
		s := e.append(e.store, e.store.Begin(id), Bytes(n, 16))
		_, err := e.store.Commit(e.ctx, s)
		e.ok(err)
		e.ok(e.store.Abort(e.ctx, s))
		if keys := e.keys(id); len(keys) > 0 {
			t.Errorf("%d bytes: Abort leaves %v", n, keys)
		}
	}
}

// testConcurrentAppends races writers on one session. Whatever a commit makes of
// it is one writer's bytes.
func testConcurrentAppends(t *testing.T, e *env) {
	for _, n := range []int{50, 200_000, 6 << 20} {
		for _, before := range []int{0, 1000, 14 << 20} {
			head := Bytes(before, 17)
			s := e.store.Begin(NewID())
			if before > 0 {
				s = e.append(e.store, s, head)
			}
			const writers = 4
			results := make([]storage.Session, writers)
			bodies := make([][]byte, writers)
			var wg sync.WaitGroup
			for i := range writers {
				bodies[i] = Bytes(n, uint64(100+i))
				store := e.open(t)
				wg.Go(func() {
					next, got, err := store.Append(e.ctx, s, iotest.HalfReader(bytes.NewReader(bodies[i])), io.Discard)
					if err == nil && got == int64(n) {
						results[i] = next
					} else if !errors.Is(err, storage.ErrSession) {
						t.Errorf("writer %d: %d bytes, %v", i, got, err)
					}
				})
			}
			wg.Wait()
			committed := 0
			for i, next := range results {
				if next == "" {
					continue
				}
				key, err := e.store.Commit(e.ctx, next)
				if err != nil {
					e.is(err, storage.ErrSession)
					continue
				}
				committed++
				got, err := e.get(key, 0, -1)
				e.ok(err)
				if !bytes.Equal(got, append(slices.Clip(head), bodies[i]...)) {
					t.Fatalf("%d bytes after %d: the object of writer %d has other bytes", n, before, i)
				}
			}
			if committed == 0 {
				t.Errorf("%d bytes after %d: no writer got through", n, before)
			}
		}
	}
}

// testStaleSession goes on from an old session, and then from the one that it took over from.
func testStaleSession(t *testing.T, e *env) {
	for _, n := range []int{10, 6 << 20, 14 << 20} {
		for _, early := range []bool{false, true} {
			head, one, two, end := Bytes(n, 18), Bytes(n, 19), Bytes(n, 20), Bytes(n, 21)
			s0 := e.store.Begin(NewID())
			if !early {
				s0 = e.append(e.store, s0, head)
			} else {
				head = nil
			}
			s1 := e.append(e.store, s0, one)
			s2, _, err := e.store.Append(e.ctx, s0, bytes.NewReader(two), io.Discard)
			if err != nil {
				e.is(err, storage.ErrSession)
				s2 = ""
			}
			for _, c := range []struct {
				s    storage.Session
				body []byte
			}{{s1, one}, {s2, two}} {
				if c.s == "" {
					continue
				}
				s3, _, err := e.store.Append(e.ctx, c.s, bytes.NewReader(end), io.Discard)
				var key string
				if err == nil {
					key, err = e.store.Commit(e.ctx, s3)
				}
				if err != nil {
					e.is(err, storage.ErrSession)
					continue
				}
				got, err := e.get(key, 0, -1)
				e.ok(err)
				if !bytes.Equal(got, slices.Concat(head, c.body, end)) {
					t.Fatalf("%d bytes: mixed", n)
				}
			}
		}
	}
}

func testConcurrentUploads(t *testing.T, e *env) {
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			data := Bytes(i*300_000+1, uint64(i))
			s, _, err := e.store.Append(e.ctx, e.store.Begin(NewID()), bytes.NewReader(data), io.Discard)
			var key string
			if err == nil {
				key, err = e.store.Commit(e.ctx, s)
			}
			var got []byte
			if err == nil {
				got, err = e.get(key, 0, -1)
			}
			if err != nil || !bytes.Equal(got, data) {
				t.Errorf("upload %d: %v, %d of %d bytes", i, err, len(got), len(data))
			}
		})
	}
	wg.Wait()
}

func testCancelled(t *testing.T, e *env) {
	key := e.put([]byte("hello"))
	s := e.append(e.store, e.store.Begin(NewID()), []byte("hello"))
	ctx, cancel := context.WithCancel(e.ctx)
	cancel()
	next, n, err := e.store.Append(ctx, s, strings.NewReader("more"), io.Discard)
	if !errors.Is(err, context.Canceled) || n != 0 || next != s {
		t.Errorf("Append: %d bytes, %v", n, err)
	}
	_, err = e.store.Open(ctx, key, 0, -1)
	e.is(err, context.Canceled)
	_, err = e.store.Stat(ctx, key)
	e.is(err, context.Canceled)
	e.is(e.store.Delete(ctx, key), context.Canceled)
	e.is(e.store.Ping(ctx), context.Canceled)
	e.is(e.store.Writable(ctx), context.Canceled)
	for _, err := range e.store.Walk(ctx) {
		e.is(err, context.Canceled)
		break
	}
	e.want(key, []byte("hello"))
}

// cancelReader ends its context instead of failing.
type cancelReader struct {
	data   *bytes.Reader
	cancel func()
	after  int
}

func (r *cancelReader) Read(p []byte) (int, error) {
	n, err := r.data.Read(p[:min(len(p), 10_000)])
	if r.after -= n; r.after <= 0 {
		r.cancel()
	}
	return n, err
}

func testCancelledReading(t *testing.T, e *env) {
	data := Bytes(15<<20, 22)
	for _, after := range []int{100, 500_000, 9 << 20} {
		ctx, cancel := context.WithCancel(e.ctx)
		h := newTee()
		s, n, err := e.store.Append(ctx, e.store.Begin(NewID()), &cancelReader{bytes.NewReader(data), cancel, after}, h)
		var source *storage.SourceError
		if !errors.As(err, &source) || !errors.Is(err, context.Canceled) {
			t.Fatalf("after %d bytes: %v, want a SourceError", after, err)
		}
		if n < int64(after) || n == int64(len(data)) || h.n != n {
			t.Fatalf("after %d bytes: %d kept, %d hashed", after, n, h.n)
		}
		key, err := e.store.Commit(e.ctx, e.append(e.store, s, data[n:]))
		e.ok(err)
		e.want(key, data)
	}
}

func testOpenSession(t *testing.T, e *env) {
	for _, sizes := range [][]int{{0}, {1}, {100_000}, {14 << 20}, {10, 10}, {14 << 20, 10}, {6 << 20, 6 << 20}, {3, 6 << 20, 2}} {
		var all []byte
		s := e.store.Begin(NewID())
		for i, n := range sizes {
			data := Bytes(n, uint64(30+i))
			all = append(all, data...)
			if n > 0 {
				s = e.append(e.store, s, data)
			}
		}
		r, err := e.open(t).OpenSession(e.ctx, s)
		e.ok(err)
		got, err := io.ReadAll(r)
		e.ok(err)
		e.ok(r.Close())
		if !bytes.Equal(got, all) {
			t.Fatalf("%v: %d bytes of %d, or other ones", sizes, len(got), len(all))
		}
		key, err := e.store.Commit(e.ctx, s)
		e.ok(err)
		e.want(key, all)
	}
}

func testWalk(t *testing.T, e *env) {
	want := map[string]int64{}
	for i := range 5 {
		data := Bytes(i*1000, 23)
		want[e.put(data)] = int64(len(data))
	}
	id := NewID()
	e.append(e.store, e.store.Begin(id), Bytes(77, 24))
	unfinished := false
	for info, err := range e.store.Walk(e.ctx) {
		e.ok(err)
		if size, ok := want[info.Key]; ok {
			if info.Size != size || time.Since(info.ModTime).Abs() > time.Hour {
				t.Errorf("%+v, want %d bytes", info, size)
			}
			delete(want, info.Key)
		}
		unfinished = unfinished || strings.Contains(info.Key, id) && info.Size == 77
	}
	if len(want) > 0 || !unfinished {
		t.Errorf("not walked over: %v; unfinished session seen: %v", want, unfinished)
	}
	for range e.store.Walk(e.ctx) {
		break // may be left early
	}
}

func testDelete(t *testing.T, e *env) {
	var keys []string
	for i := range 3 {
		keys = append(keys, e.put(Bytes(i+1, 25)))
	}
	gone := keys[0]
	e.ok(e.store.Delete(e.ctx, gone, gone))
	e.ok(e.store.Delete(e.ctx, keys...))
	e.ok(e.store.Delete(e.ctx))
	for _, key := range keys {
		_, err := e.store.Stat(e.ctx, key)
		e.is(err, storage.ErrNotFound)
		_, err = e.store.Open(e.ctx, key, 0, -1)
		e.is(err, storage.ErrNotFound)
		_, err = e.store.Open(e.ctx, key, 5, 10)
		e.is(err, storage.ErrNotFound)
	}
}

func testForeign(t *testing.T, e *env) {
	for _, s := range []storage.Session{"", "x", "{}", "null", `{"id":"../../../etc/passwd"}`, `{"id":"` + storage.Session(strings.Repeat("0", 32)) + `","n":-1}`, e.store.Begin(""), e.store.Begin("../../etc/passwd/0123456789abcdef0123456789"), e.store.Begin(strings.Repeat("A", 32))} {
		next, n, err := e.store.Append(e.ctx, s, strings.NewReader("x"), io.Discard)
		if !errors.Is(err, storage.ErrSession) || n != 0 || next != s {
			t.Errorf("Append(%q): %q, %d, %v", s, next, n, err)
		}
		if _, err := e.store.Commit(e.ctx, s); !errors.Is(err, storage.ErrSession) {
			t.Errorf("Commit(%q): %v", s, err)
		}
	}
	for _, key := range []string{"", ".", "..", "/", "../x", "/etc/passwd", "ab/../../x", "ab", "nothing-here", strings.Repeat("a", 2000)} {
		if _, err := e.store.Open(e.ctx, key, 0, -1); !errors.Is(err, storage.ErrNotFound) {
			t.Errorf("Open(%.20q): %v", key, err)
		}
		if _, err := e.store.Stat(e.ctx, key); !errors.Is(err, storage.ErrNotFound) {
			t.Errorf("Stat(%.20q): %v", key, err)
		}
		if err := e.store.Delete(e.ctx, key); err != nil {
			t.Errorf("Delete(%.20q): %v", key, err)
		}
	}
}

func testURL(t *testing.T, e *env) {
	u, ok := e.store.(storage.URLer)
	if !ok {
		return // an ability that not every store has
	}
	data := Bytes(1000, 26)
	key := e.put(data)
	link, err := u.URL(e.ctx, key, time.Minute)
	e.ok(err)
	req, err := http.NewRequestWithContext(e.ctx, http.MethodGet, link, nil)
	e.ok(err)
	req.Header.Set("Range", "bytes=10-19")
	res, err := http.DefaultClient.Do(req)
	e.ok(err)
	defer res.Body.Close()
	got, err := io.ReadAll(res.Body)
	e.ok(err)
	if res.StatusCode != http.StatusPartialContent || !bytes.Equal(got, data[10:20]) {
		t.Fatalf("%s: %q", res.Status, got)
	}
	if res.Header.Get("Content-Type") != "application/octet-stream" || res.Header.Get("Content-Disposition") != "attachment" {
		t.Errorf("the answer of a link is for a browser to run: %v", res.Header)
	}
	for _, valid := range []time.Duration{0, 8 * 24 * time.Hour} {
		if _, err := u.URL(e.ctx, key, valid); err == nil {
			t.Errorf("a link for %v", valid)
		}
	}
}
