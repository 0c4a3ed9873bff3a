package registry

import (
	"bytes"
	"context"
	"errors"
	"io"
	"sync/atomic"
	"time"

	"berth/auth"
	"berth/oci"
	"berth/storage"
)

// Memory of pushes of manifests. Nearly all have a few KiB, and never wait. What a large one takes is counted, in two steps: its
// bytes while its client sends them, and about manifestWork times as much while it is parsed and written.
const (
	// usualManifest is how many bytes of a manifest are read before any are counted.
	usualManifest = 32 << 10
	// manifestWork is how many bytes of memory a byte of a manifest takes at most, measured at the worst kinds: lists of
	// small descriptors, and annotations.
	manifestWork = 6
	// A client that sends a large manifest more slowly than this is given up, for others wait for the memory.
	manifestGrace = 10 * time.Second
	manifestRate  = 64 << 10 // bytes per second
	// manifestWait is how long a push waits for memory.
	manifestWait = time.Minute
)

// manifestMemory is what pushes of large manifests have: of the budget's leases at most three
// quarters, in which blobs on S3 have their turns too, and while they are read an eighth of the
// budget beside it; one principal half of each.
type manifestMemory struct {
	budget        *storage.Budget
	reading, work *storage.Shares
}

func newManifestMemory(b *storage.Budget) manifestMemory {
	if b == nil {
		b = storage.NewBudget(0)
	}
	reading, work := b.Bytes()/8, b.LeaseMax()/4*3
	return manifestMemory{budget: b, reading: storage.NewShares(reading, reading/2), work: storage.NewShares(work, work/2)}
}

// ReadManifest reads the body of a push, whose announced length is -1 when it is not known, up to MaxManifestSize and no
// further: what a client announces or sends beyond it takes no memory (CVE-2017-11468). A large one waits for its turn
// among the principal's and everybody's. The caller calls done when it has no more use for the bytes; that
// may be called in any case.
//
// It returns MANIFEST_TOO_LARGE, MANIFEST_INVALID for a body that breaks off, or UNAVAILABLE when
// there was no memory for so long.
func (r *Registry) ReadManifest(ctx context.Context, by auth.Actor, length int64, body io.Reader) (raw []byte, done func(), err error) {
	done = func() {}
	limit := r.o.MaxManifestSize
	tooLarge := oci.Errorf(oci.CodeManifestTooLarge, "the manifest is larger than %d bytes: put large data in blobs", limit).
		WithDetail(map[string]any{"rule": "manifest-size", "limit": limit})
	if length > limit {
		return nil, done, tooLarge
	}
	var buf bytes.Buffer
	if length > 0 {
		buf.Grow(int(min(length, usualManifest)) + bytes.MinRead)
	}
	if _, err := buf.ReadFrom(io.LimitReader(body, min(usualManifest, limit)+1)); err != nil {
		return nil, done, brokenManifest(err)
	}
	if int64(buf.Len()) <= min(usualManifest, limit) {
		return buf.Bytes(), done, nil
	}

	size := limit
	if length >= 0 {
		size = length
	}
	waiting, cancel := context.WithTimeout(ctx, manifestWait)
	defer cancel()
	release, err := r.manifests.reading.Take(waiting, by.Audit.Name, size)
	if err != nil {
		return nil, done, noMemory(ctx, err)
	}
	defer release()
	patience := manifestGrace + time.Duration(size)*time.Second/manifestRate
	var late atomic.Bool
	if slow, ok := body.(Interrupter); ok {
		timer := time.AfterFunc(patience, func() { late.Store(true); slow.Interrupt() })
		defer timer.Stop()
	}
	if length > 0 {
		buf.Grow(int(length) - buf.Len() + bytes.MinRead) // once, rather than by doubling
	}
	if _, err := buf.ReadFrom(io.LimitReader(body, limit+1-int64(buf.Len()))); err != nil {
		if late.Load() {
			return nil, done, oci.Errorf(oci.CodeManifestInvalid, "the manifest did not come within %s: push it over a faster connection, or put large data in blobs", patience.Round(time.Second)).WithCause(err)
		}
		return nil, done, brokenManifest(err)
	}
	if int64(buf.Len()) > limit {
		return nil, done, tooLarge
	}

	waiting, cancel = context.WithTimeout(ctx, manifestWait)
	defer cancel()
	need := min(manifestWork*int64(buf.Len()), r.manifests.budget.LeaseMax()/8*3)
	release, err = r.manifests.work.Take(waiting, by.Audit.Name, need)
	if err != nil {
		return nil, done, noMemory(ctx, err)
	}
	lease, err := r.manifests.budget.Lease(waiting, need, func() {}) // it waits for no client
	if err != nil {
		release()
		return nil, done, noMemory(ctx, err)
	}
	return buf.Bytes(), func() { lease.Close(); release() }, nil
}

func brokenManifest(err error) error {
	return oci.Errorf(oci.CodeManifestInvalid, "the manifest ended before its announced length: push it again").WithCause(err)
}

func noMemory(ctx context.Context, err error) error {
	if ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return oci.Errorf(oci.CodeUnavailable, "large manifests wait for memory, and this one has for %s: push it again, and fewer at once", manifestWait).WithCause(err)
}
