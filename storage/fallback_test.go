package storage_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"berth/storage"
	"berth/storage/fs"
	"berth/storage/mem"
	"berth/storage/storagetest"
)

// Two stores joined are a store as any other.
func TestFallbackContract(t *testing.T) {
	first, second := mem.New(), mem.New()
	storagetest.Test(t, func(testing.TB) storage.Store { return storage.Fallback(first, second) })
}

func TestFallback(t *testing.T) {
	ctx := context.Background()
	dir, err := fs.New(t.TempDir(), fs.Options{})
	must(t, err)
	second := mem.New()
	both := storage.Fallback(dir, second)
	put := func(s storage.Store, text string) string {
		session, _, err := s.Append(ctx, s.Begin(storagetest.NewID()), strings.NewReader(text), io.Discard)
		must(t, err)
		key, err := s.Commit(ctx, session)
		must(t, err)
		return key
	}
	get := func(key string) (string, error) {
		rc, err := both.Open(ctx, key, 0, -1)
		if err != nil {
			return "", err
		}
		defer rc.Close()
		text, err := io.ReadAll(rc)
		return string(text), err
	}
	old, fresh := put(second, "old"), put(both, "fresh")
	if _, err := dir.Stat(ctx, fresh); err != nil {
		t.Errorf("what is written is not in the first store: %v", err)
	}
	for key, want := range map[string]string{old: "old", fresh: "fresh"} {
		if got, err := get(key); got != want || err != nil {
			t.Errorf("%s holds %q, %v", key, got, err)
		}
		if info, err := both.Stat(ctx, key); err != nil || info.Size != int64(len(want)) {
			t.Errorf("Stat gives %+v, %v", info, err)
		}
	}
	n := 0
	for _, err := range both.Walk(ctx) {
		must(t, err)
		n++
	}
	if n != 2 {
		t.Errorf("Walk lists %d objects", n)
	}
	if _, ok := both.(storage.URLer); ok {
		t.Error("it hands out links")
	}
	// A session of the second store can be given up, and not be continued.
	session, _, err := second.Append(ctx, second.Begin(storagetest.NewID()), strings.NewReader("half"), io.Discard)
	must(t, err)
	if _, _, err := both.Append(ctx, session, strings.NewReader("more"), io.Discard); !errors.Is(err, storage.ErrSession) {
		t.Errorf("continuing it gives %v", err)
	}
	must(t, both.Abort(ctx, session))
	must(t, both.Delete(ctx, old, fresh))
	for _, key := range []string{old, fresh} {
		if _, err := get(key); !errors.Is(err, storage.ErrNotFound) {
			t.Errorf("after Delete, Open gives %v", err)
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
