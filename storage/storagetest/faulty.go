package storagetest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"sync"
	"time"

	"berth/storage"
)

// ErrFault is what a [Fault] without an error of its own fails with.
var ErrFault = errors.New("storagetest: the store was told to fail")

// Fault is one failure on cue.
type Fault struct {
	Op    string // the method: "Append", "Commit" ...
	Call  int    // which call of it, from 1; 0: every one
	After bool   // the call is made, and its success thrown away; else it is not made
	Err   error  // ErrFault when nil
	// Bytes of its body that an Append takes before it fails; only without After.
	Bytes int64
}

var faultyOps = []string{"Open", "Stat", "Append", "OpenSession", "Commit", "Abort", "Delete", "Walk", "Ping", "URL"}

// FaultyStore is a store that fails on cue. Of optional abilities it has
// [storage.URLer] and [storage.Leaver]; a store without them gives no link and leaves nothing.
type FaultyStore struct {
	store  storage.Store
	faults []Fault

	mu    sync.Mutex
	calls map[string]int
}

var (
	_ storage.Store  = (*FaultyStore)(nil)
	_ storage.URLer  = (*FaultyStore)(nil)
	_ storage.Leaver = (*FaultyStore)(nil)
)

// Faulty makes a store fail as planned. It panics when the plan names an
// operation that there is not, so that a test cannot pass by a slip.
func Faulty(store storage.Store, plan ...Fault) *FaultyStore {
	for _, f := range plan {
		if !slices.Contains(faultyOps, f.Op) {
			panic(fmt.Sprintf("storagetest: no operation is called %q; there are %v", f.Op, faultyOps))
		}
		if f.Call < 0 || f.Bytes < 0 || f.Bytes > 0 && (f.Op != "Append" || f.After) || f.After && f.Op == "Walk" {
			panic(fmt.Sprintf("storagetest: %+v makes no sense", f))
		}
	}
	return &FaultyStore{store: store, faults: plan, calls: map[string]int{}}
}

// Calls says how often an operation was called.
func (f *FaultyStore) Calls(op string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.calls[op]
}

// fault counts a call and gives what is planned for it.
func (f *FaultyStore) fault(op string) (fault Fault, planned bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls[op]++
	for _, fault := range f.faults {
		if fault.Op == op && (fault.Call == 0 || fault.Call == f.calls[op]) {
			if fault.Err == nil {
				fault.Err = ErrFault
			}
			return fault, true
		}
	}
	return Fault{}, false
}

// call makes a call, or not, and fails, or not.
func call[T any](f *FaultyStore, op string, do func() (T, error)) (T, error) {
	var none T
	fault, planned := f.fault(op)
	if planned && !fault.After {
		return none, fault.Err
	}
	result, err := do()
	if planned && err == nil {
		if c, ok := any(result).(io.Closer); ok {
			c.Close()
		}
		return none, fault.Err
	}
	return result, err
}

func nothing(err error) (struct{}, error) { return struct{}{}, err }

// Open implements [storage.Store].
func (f *FaultyStore) Open(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	return call(f, "Open", func() (io.ReadCloser, error) { return f.store.Open(ctx, key, offset, length) })
}

// Stat implements [storage.Store].
func (f *FaultyStore) Stat(ctx context.Context, key string) (storage.Info, error) {
	return call(f, "Stat", func() (storage.Info, error) { return f.store.Stat(ctx, key) })
}

// Begin implements [storage.Store].
func (f *FaultyStore) Begin(id string) storage.Session { return f.store.Begin(id) }

// Append implements [storage.Store].
func (f *FaultyStore) Append(ctx context.Context, s storage.Session, r io.Reader, tee io.Writer) (storage.Session, int64, error) {
	fault, planned := f.fault("Append")
	if planned && !fault.After {
		if _, err := io.CopyN(tee, r, fault.Bytes); err != nil && err != io.EOF {
			return s, 0, err
		}
		return s, 0, fault.Err
	}
	next, n, err := f.store.Append(ctx, s, r, tee)
	if planned && err == nil {
		return s, 0, fault.Err
	}
	return next, n, err
}

// OpenSession implements [storage.Store].
func (f *FaultyStore) OpenSession(ctx context.Context, s storage.Session) (io.ReadCloser, error) {
	return call(f, "OpenSession", func() (io.ReadCloser, error) { return f.store.OpenSession(ctx, s) })
}

// Commit implements [storage.Store].
func (f *FaultyStore) Commit(ctx context.Context, s storage.Session) (string, error) {
	return call(f, "Commit", func() (string, error) { return f.store.Commit(ctx, s) })
}

// Abort implements [storage.Store].
func (f *FaultyStore) Abort(ctx context.Context, s storage.Session) error {
	_, err := call(f, "Abort", func() (struct{}, error) { return nothing(f.store.Abort(ctx, s)) })
	return err
}

// Delete implements [storage.Store].
func (f *FaultyStore) Delete(ctx context.Context, keys ...string) error {
	_, err := call(f, "Delete", func() (struct{}, error) { return nothing(f.store.Delete(ctx, keys...)) })
	return err
}

// Walk implements [storage.Store].
func (f *FaultyStore) Walk(ctx context.Context) iter.Seq2[storage.Info, error] {
	if fault, planned := f.fault("Walk"); planned {
		return func(yield func(storage.Info, error) bool) { yield(storage.Info{}, fault.Err) }
	}
	return f.store.Walk(ctx)
}

// Ping implements [storage.Store].
func (f *FaultyStore) Ping(ctx context.Context) error {
	_, err := call(f, "Ping", func() (struct{}, error) { return nothing(f.store.Ping(ctx)) })
	return err
}

// Writable implements [storage.Store].
func (f *FaultyStore) Writable(ctx context.Context) error {
	_, err := call(f, "Writable", func() (struct{}, error) { return nothing(f.store.Writable(ctx)) })
	return err
}

// URL implements [storage.URLer].
func (f *FaultyStore) URL(ctx context.Context, key string, valid time.Duration) (string, error) {
	u, ok := f.store.(storage.URLer)
	if !ok {
		return "", fmt.Errorf("storagetest: this store gives no links: %w", errors.ErrUnsupported)
	}
	return call(f, "URL", func() (string, error) { return u.URL(ctx, key, valid) })
}

// Remains implements [storage.Leaver].
func (f *FaultyStore) Remains(ctx context.Context, s storage.Session) ([]storage.Info, error) {
	l, ok := f.store.(storage.Leaver)
	if !ok {
		return nil, nil
	}
	return call(f, "Remains", func() ([]storage.Info, error) { return l.Remains(ctx, s) })
}

// Leftovers implements [storage.Leaver].
func (f *FaultyStore) Leftovers(s storage.Session) []string {
	if l, ok := f.store.(storage.Leaver); ok {
		return l.Leftovers(s)
	}
	return nil
}
