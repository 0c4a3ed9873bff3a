package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"berth/manifest"
	"berth/metadata"
	"berth/oci"
	"berth/storage"

	"github.com/opencontainers/go-digest"
)

// Manifest gives a manifest with its bytes as they were pushed, which counts as
// a pull for retention. One query.
// It returns MANIFEST_UNKNOWN or NAME_UNKNOWN.
func (r *Registry) Manifest(ctx context.Context, repo string, ref oci.Reference) (metadata.Manifest, error) {
	m, err := r.look(ctx, repo, ref)
	if err == nil {
		r.pulls.note(m.ID, r.o.Clock())
	}
	return m, err
}

// look is Manifest for what only looks at an image: it is no pull.
func (r *Registry) look(ctx context.Context, repo string, ref oci.Reference) (m metadata.Manifest, err error) {
	err = r.db.View(ctx, func(tx *metadata.Tx) (err error) {
		if ref.Digest != "" {
			m, err = tx.ManifestByDigest(ctx, repo, ref.Digest)
		} else {
			m, err = tx.ManifestByTag(ctx, repo, ref.Tag)
		}
		return err
	})
	return m, err
}

// HeadManifest is Manifest without the payload. It counts as a pull too: it is all
// that a client asks which has the image already.
func (r *Registry) HeadManifest(ctx context.Context, repo string, ref oci.Reference) (m metadata.Manifest, err error) {
	err = r.db.View(ctx, func(tx *metadata.Tx) (err error) {
		if ref.Digest != "" {
			m, err = tx.ManifestHeadByDigest(ctx, repo, ref.Digest)
		} else {
			m, err = tx.ManifestHeadByTag(ctx, repo, ref.Tag)
		}
		return err
	})
	if err == nil {
		r.pulls.note(m.ID, r.o.Clock())
	}
	return m, err
}

// Blob describes a blob of a repository. One query. It returns BLOB_UNKNOWN,
// also when another repository has the blob.
func (r *Registry) Blob(ctx context.Context, repo string, d digest.Digest) (b metadata.Blob, err error) {
	err = r.db.View(ctx, func(tx *metadata.Tx) (err error) {
		b, err = tx.Blob(ctx, repo, d)
		return err
	})
	return b, err
}

// OpenBlob reads length bytes of a blob from an offset, or to its end when
// length is -1; then, on a directory, the reader is the *os.File. The caller closes it.
// It returns RANGE_INVALID for an offset behind the end.
func (r *Registry) OpenBlob(ctx context.Context, b metadata.Blob, offset, length int64) (io.ReadCloser, error) {
	rc, err := r.store.Open(ctx, b.Key, offset, length)
	switch {
	case err == nil:
		return rc, nil
	case errors.Is(err, storage.ErrOutOfRange):
		return nil, oci.Errorf(oci.CodeRangeInvalid, "the blob has %d bytes, there are none at offset %d", b.Size, offset).WithCause(err)
	case errors.Is(err, storage.ErrNotFound):
		// The row promises bytes. This is damage, not an unknown blob; berth check finds it.
		return nil, oci.Errorf(oci.CodeUnknown, "the blob %s is registered but its bytes are missing in the storage: tell an administrator", b.Digest).WithCause(err)
	}
	return nil, storeError(err)
}

// DamageError says that the store has given other bytes for a blob than those that were pushed.
type DamageError struct {
	Digest digest.Digest // the blob's
	Got    digest.Digest // of the bytes that came
	err    *oci.Error
}

func (e *DamageError) Error() string {
	return fmt.Sprintf("the store gave bytes of the blob %s that have the digest %s", e.Digest, e.Got)
}

// Unwrap gives what a client may read.
func (e *DamageError) Unwrap() error { return e.err }

// BlobVerifier hashes the bytes of a blob that come from the store, see VerifyBlob.
type BlobVerifier struct {
	r   *Registry
	b   metadata.Blob
	sum *sum
}

// VerifyBlob makes a verifier: all bytes of the blob are to be written to it, in order, and Check then says whether they
// are right. Who passes them on holds the last ones back until then. The caller closes it.
func (r *Registry) VerifyBlob(b metadata.Blob) *BlobVerifier {
	return &BlobVerifier{r: r, b: b, sum: r.newSum(b.Digest.Algorithm())}
}

// Write implements io.Writer; it does not fail, and does not keep p.
func (v *BlobVerifier) Write(p []byte) (int, error) { return v.sum.Write(p) }

// Check returns a *DamageError unless what was written is the blob.
func (v *BlobVerifier) Check() error {
	got := v.sum.digest()
	if got == v.b.Digest {
		return nil
	}
	return &DamageError{Digest: v.b.Digest, Got: got, err: oci.Errorf(oci.CodeUnknown,
		"the storage gave other bytes than were pushed for the blob %s: try again, and tell an administrator if it stays so", v.b.Digest)}
}

// ReadBlob reads all bytes of a blob that was opened, a small one, and verifies them. It returns a *DamageError, or UNAVAILABLE.
func (r *Registry) ReadBlob(from io.Reader, b metadata.Blob) ([]byte, error) {
	all := make([]byte, b.Size)
	if n, err := io.ReadFull(from, all); err != nil {
		if err == io.EOF || errors.Is(err, io.ErrUnexpectedEOF) {
			err = fmt.Errorf("the storage gave %d bytes of %d: %w", n, b.Size, io.ErrUnexpectedEOF)
		}
		return nil, storeError(err)
	}
	v := r.VerifyBlob(b)
	defer v.Close()
	_, _ = v.Write(all)
	return all, v.Check()
}

// Close gives back the hash.
func (v *BlobVerifier) Close() {
	v.r.release(v.sum)
	v.sum = nil
}

// suspectTTL is how long a suspect waits for a check.
const suspectTTL = 90 * 24 * time.Hour

// suspectNote is the note about a blob that the store has given wrong.
func suspectNote(d digest.Digest) string { return suspectNotes + d.String() }

const suspectNotes = "suspect:"

// Suspect logs that the store has given a blob wrong, and has the next check read its bytes, also one that reads no others.
// The blob is served as before: a proxy before the store may have been wrong once.
func (r *Registry) Suspect(ctx context.Context, b metadata.Blob, damage *DamageError) {
	r.o.Logger.ErrorContext(ctx, "the store gave wrong bytes of a blob, and the client got no complete answer; berth check will read it again",
		"digest", b.Digest, "got", damage.Got, "key", b.Key, "size", b.Size)
	ctx, cancel := detached(ctx, recordTime)
	defer cancel()
	err := r.db.UpdateRelaxed(ctx, func(tx *metadata.Tx) error {
		return tx.PutNote(ctx, suspectNote(b.Digest), b.Key, suspectTTL)
	})
	if err != nil {
		r.o.Logger.WarnContext(ctx, "a blob that the store gave wrong is not noted for the next check: run berth check --rehash", "digest", b.Digest, "error", err)
	}
}

// BlobURL gives a link from which a client can fetch the blob's bytes itself,
// valid for ttl. It says false when the store has no such links.
func (r *Registry) BlobURL(ctx context.Context, b metadata.Blob, ttl time.Duration) (string, bool, error) {
	u, ok := r.store.(storage.URLer)
	if !ok {
		return "", false, nil
	}
	link, err := u.URL(ctx, b.Key, ttl)
	if err != nil {
		return "", false, storeError(err)
	}
	return link, true, nil
}

// maxSized is how many images of an index ImageSize looks at.
const maxSized = 64

// ImageSize is what ECR calls the size of an image: the bytes of its config and
// layers, compressed as they are; of an index, those of its largest image, among the
// first 64 that are there. It is no pull of it. The error is MANIFEST_UNKNOWN for no such manifest.
func (r *Registry) ImageSize(ctx context.Context, repo string, d digest.Digest) (int64, error) {
	return r.imageSize(ctx, repo, d, true)
}

func (r *Registry) imageSize(ctx context.Context, repo string, d digest.Digest, children bool) (size int64, err error) {
	stored, err := r.look(ctx, repo, oci.Reference{Digest: d})
	if err != nil {
		return 0, err
	}
	m, err := manifest.Read(stored.MediaType, stored.Payload)
	if err != nil {
		// Not the client's: it was readable when it was pushed.
		return 0, fmt.Errorf("the stored manifest %s of %s cannot be read: %s", d, repo, err.Error())
	}
	for _, blob := range m.Blobs {
		size += blob.Size
	}
	if !children {
		return size, nil
	}
	for i, child := range m.Children {
		if i == maxSized {
			break
		}
		one, err := r.imageSize(ctx, repo, child.Digest, false)
		switch {
		case err == nil:
			size = max(size, one)
		case !errors.Is(err, oci.ErrManifestUnknown): // a sparse index lacks some
			return 0, err
		}
	}
	return size, nil
}
