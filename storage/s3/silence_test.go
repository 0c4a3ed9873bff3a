package s3_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"berth/storage/storagetest"
	"berth/testenv"
)

// Connections that lead nowhere, as after the fail-over of a router, end the reading of an object and the storing of one
// after the bound, and not after TCP's; what begins then goes over new ones.
func TestBlackholedConnections(t *testing.T) {
	bucket := testenv.MinIO(t)
	network := testenv.NewProxy(t, strings.TrimPrefix(bucket.Endpoint, "http://"))
	c := config(bucket)
	c.Endpoint, c.Timeout = network.Addr, 2*time.Second
	store := open(t, c)
	content := bytes.Repeat([]byte("0123456789abcdef"), 4<<20) // more than the kernel and the proxy hold
	put := func() (string, error) {
		session, _, err := store.Append(t.Context(), store.Begin(storagetest.NewID()), bytes.NewReader(content), io.Discard)
		if err != nil {
			return "", err
		}
		return store.Commit(t.Context(), session)
	}
	key, err := put()
	if err != nil {
		t.Fatal(err)
	}
	r, err := store.Open(t.Context(), key, 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(r, make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	network.HoldConnections()
	// Without a bound this waits for ever.
	if _, err := io.Copy(io.Discard, r); err == nil || errors.Is(err, context.Canceled) {
		t.Errorf("the end of a stalled object: %v", err)
	}
	_ = r.Close()
	for range 3 {
		if _, err := store.Stat(t.Context(), key); err != nil {
			t.Errorf("over new connections: %v", err)
		}
	}

	network.Hold()
	if _, err := store.Open(t.Context(), key, 0, -1); err == nil || errors.Is(err, context.Canceled) {
		t.Errorf("opening while nothing passes: %v", err)
	}
	if _, err := put(); err == nil || errors.Is(err, context.Canceled) {
		t.Errorf("storing while nothing passes: %v", err)
	}
	if err := store.Delete(t.Context(), key); err == nil {
		t.Error("deleting while nothing passes succeeds")
	}
	network.Release()
	if key, err = put(); err != nil {
		t.Errorf("storing afterwards: %v", err)
	}
	if err := store.Delete(t.Context(), key); err != nil {
		t.Error(err)
	}
}
