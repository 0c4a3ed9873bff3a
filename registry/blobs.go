package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"berth/auth"
	"berth/metadata"
	"berth/oci"
	"berth/storage"

	"github.com/opencontainers/go-digest"
)

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

// Suspect logs that the store has given a blob wrong, and has the next check read its bytes, also one that reads no others.
// The blob is served as before: a proxy before the store may have been wrong once.
func (r *Registry) Suspect(ctx context.Context, b metadata.Blob, damage *DamageError) {
	r.o.Logger.ErrorContext(ctx, "the store gave wrong bytes of a blob, and the client got no complete answer; berth check will read it again",
		"digest", b.Digest, "got", damage.Got, "key", b.Key, "size", b.Size)
	ctx, cancel := detached(ctx, recordTime)
	defer cancel()
	err := r.db.UpdateRelaxed(ctx, func(tx *metadata.Tx) error {
		return tx.NoteSuspect(ctx, b.Digest, b.Key)
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

// MountBlob makes a blob of one repository a blob of another without moving
// bytes. The caller has checked that the actor may pull from `from`. It says
// false when `from` does not have the blob; then the client has to upload it.
func (r *Registry) MountBlob(ctx context.Context, by auth.Actor, repo string, d digest.Digest, from string) (bool, error) {
	b, err := r.Blob(ctx, from, d)
	if err != nil {
		if errors.Is(err, oci.ErrBlobUnknown) {
			return false, nil
		}
		return false, err
	}
	linked := false
	err = r.db.Update(ctx, func(tx *metadata.Tx) error {
		err := r.pushTo(ctx, tx, by, repo, metadata.Charge{Bytes: b.Size}, func(id int64) (err error) {
			if linked, err = tx.Link(ctx, id, d); err == nil && !linked {
				err = errNotThere // and so no repository either
			}
			return err
		})
		if err != nil {
			return err
		}
		return tx.Record(ctx, metadata.Event{Kind: metadata.BlobMounted, Actor: by.Audit, Repository: repo, Digest: d, Size: b.Size, From: from})
	})
	if errors.Is(err, errNotThere) {
		return false, nil
	}
	return linked, err
}

// maxCandidates bounds the repositories that are considered for a mount that
// does not say from where.
const maxCandidates = 100

// MountCandidates gives repositories that have the blob, for a mount without
// `from`. The caller picks one that the client may pull from.
func (r *Registry) MountCandidates(ctx context.Context, d digest.Digest) (repos []string, err error) {
	err = r.db.View(ctx, func(tx *metadata.Tx) (err error) {
		repos, err = tx.BlobRepositories(ctx, d, maxCandidates)
		return err
	})
	return repos, err
}

// DeleteBlob takes a blob out of a repository. Its bytes stay while any
// repository has it. It returns BLOB_UNKNOWN, and CONFLICT when a manifest has it.
func (r *Registry) DeleteBlob(ctx context.Context, by auth.Actor, repo string, d digest.Digest) error {
	return r.db.Update(ctx, func(tx *metadata.Tx) error {
		if err := tx.UnlinkBlob(ctx, repo, d); err != nil {
			return err
		}
		return tx.Record(ctx, metadata.Event{Kind: metadata.BlobDeleted, Actor: by.Audit, Repository: repo, Digest: d})
	})
}
