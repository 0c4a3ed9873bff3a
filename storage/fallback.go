package storage

import (
	"context"
	"errors"
	"io"
	"iter"
)

// Fallback joins two stores while their objects move from one to the other.
// What is written goes to the first; what the first does not have is read from the second; what
// is deleted goes from both. Sessions that the second has begun can be aborted, and not be continued:
// their clients start again. The result hands out no links, since which store has
// an object takes a request to find out.
//
// Both stores are given all keys, so they must not have objects of other
// registries under the same ones: keys are random, so this never happens by itself.
func Fallback(first, second Store) Store {
	f := fallback{first, second}
	if l, ok := first.(Leaver); ok {
		return struct {
			fallback
			Leaver
		}{f, l}
	}
	return f
}

type fallback struct{ first, second Store }

func (f fallback) Open(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	r, err := f.first.Open(ctx, key, offset, length)
	if errors.Is(err, ErrNotFound) {
		return f.second.Open(ctx, key, offset, length)
	}
	return r, err
}

func (f fallback) Stat(ctx context.Context, key string) (Info, error) {
	info, err := f.first.Stat(ctx, key)
	if errors.Is(err, ErrNotFound) {
		return f.second.Stat(ctx, key)
	}
	return info, err
}

func (f fallback) Begin(id string) Session { return f.first.Begin(id) }

func (f fallback) Append(ctx context.Context, s Session, r io.Reader, tee io.Writer) (Session, int64, error) {
	return f.first.Append(ctx, s, r, tee)
}

func (f fallback) OpenSession(ctx context.Context, s Session) (io.ReadCloser, error) {
	return f.first.OpenSession(ctx, s)
}

func (f fallback) Commit(ctx context.Context, s Session) (string, error) {
	return f.first.Commit(ctx, s)
}

func (f fallback) Abort(ctx context.Context, s Session) error {
	err := f.first.Abort(ctx, s)
	if errors.Is(err, ErrSession) {
		return f.second.Abort(ctx, s)
	}
	return err
}

func (f fallback) Delete(ctx context.Context, keys ...string) error {
	return errors.Join(f.first.Delete(ctx, keys...), f.second.Delete(ctx, keys...))
}

// Walk lists both stores; an object that is in both comes twice.
func (f fallback) Walk(ctx context.Context) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		for _, store := range []Store{f.first, f.second} {
			for info, err := range store.Walk(ctx) {
				if !yield(info, err) {
					return
				}
			}
		}
	}
}

func (f fallback) Ping(ctx context.Context) error {
	return errors.Join(f.first.Ping(ctx), f.second.Ping(ctx))
}

// Writable asks the first store: new objects go there.
func (f fallback) Writable(ctx context.Context) error { return f.first.Writable(ctx) }
