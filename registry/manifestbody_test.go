package registry

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"berth/oci"
	"berth/storage"
)

// interruptible is a body that gives nothing until it is interrupted.
type interruptible struct {
	start io.Reader
	ended chan struct{}
}

func (b *interruptible) Read(p []byte) (int, error) {
	if n, err := b.start.Read(p); err == nil {
		return n, nil
	}
	<-b.ended
	return 0, errors.New("interrupted")
}

func (b *interruptible) Interrupt() { close(b.ended) }

// TestLargeManifestsTakeTurns: a principal whose large manifests do not come to an end has no memory for another one;
// others have, and small manifests always.
func TestLargeManifestsTakeTurns(t *testing.T) {
	r := New(nil, nil, Options{Budget: storage.NewBudget(64 << 20), Clock: time.Now})
	large := bytes.Repeat([]byte("x"), 4<<20)
	read := func(ctx context.Context, who string, length int, body []byte) error {
		raw, done, err := r.ReadManifest(ctx, as(who), int64(length), bytes.NewReader(body))
		defer done()
		if err == nil && !bytes.Equal(raw, body) {
			t.Errorf("%s: %d bytes of %d", who, len(raw), len(body))
		}
		return err
	}
	stuck := &interruptible{start: bytes.NewReader(large[:100_000]), ended: make(chan struct{})}
	ended := make(chan error)
	go func() {
		_, done, err := r.ReadManifest(context.Background(), as("greedy"), int64(len(large)), stuck)
		done()
		ended <- err
	}()
	// It has its turn when nobody of that name gets one any more.
	for {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		err := read(ctx, "greedy", len(large), large)
		cancel()
		if errors.Is(err, context.DeadlineExceeded) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, length := range []int{-1, len(large)} {
		if err := read(t.Context(), "other", length, large); err != nil {
			t.Errorf("another principal's, announced as %d: %v", length, err)
		}
	}
	for _, size := range []int{0, 1, usualManifest} {
		if err := read(t.Context(), "greedy", -1, large[:size]); err != nil {
			t.Errorf("%d bytes of the same: %v", size, err)
		}
	}
	stuck.Interrupt()
	if err := <-ended; !errors.Is(err, oci.ErrManifestInvalid) {
		t.Errorf("the one that ended early: %v", err)
	}
	if err := read(t.Context(), "greedy", len(large), large); err != nil {
		t.Errorf("afterwards: %v", err)
	}
	if err := read(t.Context(), "greedy", -1, append(large, 'x')); !errors.Is(err, oci.Errorf(oci.CodeManifestTooLarge, "")) {
		t.Errorf("a byte too many: %v", err)
	}
	if now, _, waiting := r.manifests.budget.Usage(); now != 0 || waiting != 0 {
		t.Errorf("left in the budget: %d bytes, %d waiting", now, waiting)
	}
}
