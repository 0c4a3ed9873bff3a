package storage

import (
	"context"
	"fmt"
	"io"
	"iter"
	"time"
)

// Instrument tells observe of every call to a store that can fail: what it was ("Open", "Append"
// ...), how many seconds it took and how it ended, with the context of the call, by which it is
// known whose it was. An Append takes as long as its client sends; a Walk is told when it ends;
// readers are handed through as they are, so that a file stays a file. Errors say from which
// driver they come. The result is a [URLer] and a [Leaver] if the store is.
func Instrument(store Store, driver string, observe func(ctx context.Context, action string, seconds float64, err error)) Store {
	i := instrumented{store, driver, observe}
	u, isURLer := store.(URLer)
	l, isLeaver := store.(Leaver)
	switch {
	case isURLer && isLeaver:
		return struct {
			instrumented
			URLer
			Leaver
		}{i, observedURLer{i, u}, l}
	case isURLer:
		return struct {
			instrumented
			URLer
		}{i, observedURLer{i, u}}
	case isLeaver:
		return struct {
			instrumented
			Leaver
		}{i, l}
	}
	return i
}

type instrumented struct {
	store   Store
	driver  string
	observe func(ctx context.Context, action string, seconds float64, err error)
}

func (i instrumented) done(ctx context.Context, action string, start time.Time, err *error) {
	i.observe(ctx, action, time.Since(start).Seconds(), *err)
	if *err != nil {
		*err = fmt.Errorf("storage on %s: %w", i.driver, *err)
	}
}

func (i instrumented) Open(ctx context.Context, key string, offset, length int64) (r io.ReadCloser, err error) {
	defer i.done(ctx, "Open", time.Now(), &err)
	return i.store.Open(ctx, key, offset, length)
}

func (i instrumented) Stat(ctx context.Context, key string) (info Info, err error) {
	defer i.done(ctx, "Stat", time.Now(), &err)
	return i.store.Stat(ctx, key)
}

func (i instrumented) Begin(id string) Session { return i.store.Begin(id) }

func (i instrumented) Append(ctx context.Context, s Session, r io.Reader, tee io.Writer) (next Session, n int64, err error) {
	defer i.done(ctx, "Append", time.Now(), &err)
	return i.store.Append(ctx, s, r, tee)
}

func (i instrumented) OpenSession(ctx context.Context, s Session) (r io.ReadCloser, err error) {
	defer i.done(ctx, "OpenSession", time.Now(), &err)
	return i.store.OpenSession(ctx, s)
}

func (i instrumented) Commit(ctx context.Context, s Session) (key string, err error) {
	defer i.done(ctx, "Commit", time.Now(), &err)
	return i.store.Commit(ctx, s)
}

func (i instrumented) Abort(ctx context.Context, s Session) (err error) {
	defer i.done(ctx, "Abort", time.Now(), &err)
	return i.store.Abort(ctx, s)
}

func (i instrumented) Delete(ctx context.Context, keys ...string) (err error) {
	defer i.done(ctx, "Delete", time.Now(), &err)
	return i.store.Delete(ctx, keys...)
}

func (i instrumented) Walk(ctx context.Context) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		var failed error
		start := time.Now()
		defer func() { i.observe(ctx, "Walk", time.Since(start).Seconds(), failed) }()
		for info, err := range i.store.Walk(ctx) {
			failed = err
			if !yield(info, err) {
				return
			}
		}
	}
}

func (i instrumented) Ping(ctx context.Context) (err error) {
	defer i.done(ctx, "Ping", time.Now(), &err)
	return i.store.Ping(ctx)
}

func (i instrumented) Writable(ctx context.Context) (err error) {
	defer i.done(ctx, "Writable", time.Now(), &err)
	return i.store.Writable(ctx)
}

type observedURLer struct {
	instrumented
	urls URLer
}

func (u observedURLer) URL(ctx context.Context, key string, valid time.Duration) (link string, err error) {
	defer u.done(ctx, "URL", time.Now(), &err)
	return u.urls.URL(ctx, key, valid)
}
