package registry

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"berth/metadata"
	"berth/oci"
	"berth/registry/registrytest"
	"berth/storage"
	"berth/storage/fs"
)

// A small blob that is asked for again comes from memory; only its right bytes do; and
// the row still says who may serve it.
func TestSmallBlob(t *testing.T) {
	dir := t.TempDir()
	url, driver, dsn := registrytest.SQLite(t)
	e := newEnv(t, url, driver, dsn, func() storage.Store {
		s, err := fs.New(dir, fs.Options{})
		if err != nil {
			t.Fatal(err)
		}
		return s
	})
	push := func(content []byte) metadata.Blob {
		t.Helper()
		b, err := e.r.Blob(e.ctx, repo, e.push(e.r, repo, content))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	content := []byte(strings.Repeat("x", SmallBlob))
	b := push(content)
	for i := range 4 {
		got := e.r.SmallBlob(e.ctx, b)
		if (got != nil) != (i > 0) || got != nil && !bytes.Equal(got, content) {
			t.Errorf("time %d: %d bytes", i, len(got))
		}
	}
	if err := e.r.DeleteBlob(e.ctx, as(alice), repo, b.Digest); err != nil {
		t.Fatal(err)
	}
	if _, err := e.r.Blob(e.ctx, repo, b.Digest); !errors.Is(err, oci.ErrBlobUnknown) {
		t.Errorf("after its deletion: %v", err)
	}
	e.r.Rest()
	if got := e.r.SmallBlob(e.ctx, b); got != nil {
		t.Error("it is still there after Rest")
	}

	large, empty := push(append(content, 'x')), push(nil)
	damaged := push([]byte("damaged"))
	file := dir + "/" + damaged.Key
	if err := os.Chmod(file, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte("dAmaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	lost := metadata.Blob{Digest: damaged.Digest, Key: "00/" + strings.Repeat("0", 32), Size: 7}
	for range 3 {
		for name, b := range map[string]metadata.Blob{"large": large, "empty": empty, "damaged": damaged, "lost": lost} {
			if got := e.r.SmallBlob(e.ctx, b); got != nil {
				t.Errorf("%s: %q", name, got)
			}
		}
	}
}

func TestSmallBlobsBounds(t *testing.T) {
	var s smallBlobs
	for i := range 20_000 {
		key := fmt.Sprint(i)
		s.get(key)
		if i%3 == 0 {
			s.put(key, make([]byte, SmallBlob))
		}
		if s.bytes > maxSmallBytes || s.lru.Len() > maxSmallNoted {
			t.Fatalf("%d bytes in %d entries", s.bytes, s.lru.Len())
		}
	}
	// What is asked for stays, and what is counted is what is there.
	s.put("hot", []byte("hot"))
	for i := range 1000 {
		s.put(fmt.Sprint("other", i), make([]byte, SmallBlob))
		if data, _ := s.get("hot"); string(data) != "hot" {
			t.Fatalf("it was dropped after %d others", i)
		}
	}
	sum := 0
	for _, key := range s.lru.Keys() {
		data, _ := s.lru.Peek(key)
		sum += smallBlobExtra + len(data)
	}
	if sum != s.bytes {
		t.Errorf("%d bytes are counted, there are %d", s.bytes, sum)
	}
}
