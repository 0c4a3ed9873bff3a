package registry

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"

	"berth/auth"
	"berth/metadata"
	"berth/oci"
	"berth/storage"

	"github.com/opencontainers/go-digest"
)

// Upload is an unfinished blob.
type Upload struct {
	ID        string // 32 hexadecimal digits
	Size      int64  // bytes taken so far, which is the next offset
	Algorithm digest.Algorithm
}

// RangeError is a RANGE_INVALID with the upload as it truly is, so that the
// client can be told where to go on. errors.As finds the *oci.Error in it too.
type RangeError struct {
	Upload Upload
	Err    *oci.Error
}

func (e *RangeError) Error() string { return e.Err.Error() }

// Unwrap gives the *oci.Error.
func (e *RangeError) Unwrap() error { return e.Err }

func rangeError(row metadata.Upload, format string, args ...any) error {
	u := toUpload(row)
	return &RangeError{Upload: u, Err: oci.Errorf(oci.CodeRangeInvalid, format, args...).
		WithDetail(map[string]any{"rule": "upload-offset", "size": u.Size})}
}

func toUpload(row metadata.Upload) Upload {
	return Upload{ID: row.ID, Size: row.Size, Algorithm: digest.Algorithm(row.Algorithm)}
}

// StartUpload begins an upload of a blob that will be asked for by a digest of
// the algorithm. It belongs to the principal and the repository. One relaxed insert;
// the store is not touched. It returns DENIED when the quota of the team is used up, also that of
// repositories, when this would be a new one, and TOOMANYREQUESTS when the principal has Options.MaxUploads open.
func (r *Registry) StartUpload(ctx context.Context, by auth.Actor, repo string, algorithm digest.Algorithm) (Upload, error) {
	row, err := r.start(ctx, by, repo, algorithm, 0)
	return toUpload(row), err
}

// newID makes the unguessable name of an upload.
func newID() string {
	var b [16]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// start begins an upload of so many bytes, as far as that is known: they are
// reserved when the team has a quota, and refused (DENIED) when it has not so many left.
func (r *Registry) start(ctx context.Context, by auth.Actor, repo string, algorithm digest.Algorithm, length int64) (metadata.Upload, error) {
	id := newID()
	row := metadata.Upload{
		ID:         id,
		Repository: repo,
		Principal:  by.Audit.Name,
		Algorithm:  algorithm.String(),
		Session:    string(r.store.Begin(id)),
	}
	created := false
	err := r.db.StatementRelaxed(ctx, func(tx *metadata.Tx) (err error) {
		created, err = tx.CreateUnlimitedUpload(ctx, row, r.o.MaxUploads)
		return err
	})
	if err == nil && !created {
		row.QuotaTeam = oci.Team(repo)
		err = r.db.UpdateRelaxed(ctx, func(tx *metadata.Tx) error {
			if err := tx.RoomForUpload(ctx, by.Audit.Name, r.o.MaxUploads); err != nil {
				return err
			}
			if err := tx.RoomForRepository(ctx, repo); err != nil {
				return err
			}
			if err := tx.CreateUpload(ctx, row); err != nil {
				return err
			}
			return tx.ReserveUpload(ctx, id, row.QuotaTeam, max(length, 1)) // so that a full quota refuses here
		})
	}
	if err != nil {
		return metadata.Upload{}, fmt.Errorf("starting an upload: %w", err)
	}
	return row, nil
}

// UploadStatus tells how far an upload is. It returns BLOB_UPLOAD_UNKNOWN,
// also for the upload of another principal or repository.
func (r *Registry) UploadStatus(ctx context.Context, by auth.Actor, repo, id string) (Upload, error) {
	row, err := r.upload(ctx, by.Audit.Name, repo, id)
	return toUpload(row), err
}

func (r *Registry) upload(ctx context.Context, principal, repo, id string) (row metadata.Upload, err error) {
	err = r.db.View(ctx, func(tx *metadata.Tx) (err error) {
		row, err = tx.Upload(ctx, repo, id)
		return err
	})
	return owned(row, principal, err)
}

// owned hides the upload of another principal.
func owned(row metadata.Upload, principal string, err error) (metadata.Upload, error) {
	if err == nil && row.Principal != principal {
		err = oci.Errorf(oci.CodeBlobUploadUnknown, "there is no upload %.40q in this repository: start a new one", row.ID)
	}
	if err != nil {
		return metadata.Upload{}, err
	}
	return row, nil
}

// AppendUpload adds a body to an upload. at is the offset that the client
// claims with Content-Range, -1 for none. length is what the client has announced, -1
// for nothing.
//
// It returns the upload as it is then, beside an error too:
//   - BLOB_UPLOAD_UNKNOWN;
//   - a *RangeError when at is not the upload's size, or another request was
//     faster: nothing was added by this one;
//   - BLOB_UPLOAD_INVALID when the body broke off: what had come is kept, and
//     the client can go on from there. The cause is a *storage.SourceError;
//   - SIZE_INVALID when the body is complete but not of the announced length:
//     it is kept as well;
//   - UNAVAILABLE when the store failed: nothing was added.
func (r *Registry) AppendUpload(ctx context.Context, by auth.Actor, repo, id string, at, length int64, body io.Reader) (Upload, error) {
	seen, leave := r.enter(ctx, by, repo, id, body)
	defer leave()
	row, err := r.upload(ctx, by.Audit.Name, repo, id)
	if err != nil {
		return Upload{}, err
	}
	if at < 0 && seen != "" && seen != row.Session {
		row, _, err = r.overtaken(ctx, row)
		return toUpload(row), err
	}
	row, s, err := r.take(ctx, row, "", at, length, body)
	r.release(s)
	return toUpload(row), err
}

// enter waits until no other request writes to the upload; one that still waits for its client is interrupted when
// this one brings a body. When one did write, seen is the session of before that: a body that does not say where it
// belongs was meant to follow its bytes.
func (r *Registry) enter(ctx context.Context, by auth.Actor, repo, id string, body io.Reader) (seen string, leave func()) {
	leave = r.turns.enter(ctx, id, body, func() bool {
		row, err := r.upload(ctx, by.Audit.Name, repo, id)
		if err == nil {
			seen = row.Session
		}
		return err == nil
	})
	return seen, leave
}

// take appends a body to the session of row and records that. It gives the
// row as it is then, also with an error, and without one the running hash, which
// the caller releases. The hash is of the upload's algorithm unless another
// one is given and there are no bytes yet.
func (r *Registry) take(ctx context.Context, row metadata.Upload, algorithm digest.Algorithm, at, length int64, body io.Reader) (metadata.Upload, *sum, error) {
	if at >= 0 && at != row.Size {
		return row, nil, rangeError(row, "the chunk starts at byte %d, but the upload has %d bytes: send the chunk that starts there", at, row.Size)
	}
	s, err := r.sumOf(row, algorithm)
	if err != nil {
		return row, nil, err
	}
	kept := false
	defer func() {
		if !kept {
			r.release(s)
		}
	}()

	metered, err := r.meter(ctx, row, length, body)
	if err != nil {
		return r.overQuota(ctx, row, err)
	}
	// The store is not told that the client went away, for what was read until
	// then is worth keeping; the body's reader fails instead.
	session, n, err := r.store.Append(context.WithoutCancel(ctx), storage.Session(row.Session), storage.ContextReader{Context: ctx, Reader: metered}, s)
	var broken *storage.SourceError
	if err != nil && !errors.As(err, &broken) {
		if errors.Is(err, storage.ErrSession) {
			if now, uerr := r.upload(ctx, row.Principal, row.Repository, row.ID); uerr != nil || now.Size != row.Size {
				return r.overtaken(ctx, row)
			}
		}
		return row, nil, storeError(fmt.Errorf("appending to upload %s: %w", row.ID, err))
	}
	if s.n != n {
		return row, nil, fmt.Errorf("appending to upload %s: the store took %d bytes but hashed %d", row.ID, n, s.n)
	}
	if n > 0 {
		next := row
		next.Size += n
		next.Session = string(session)
		next.Algorithm = s.algorithm.String()
		if next.HashState, err = s.state(); err != nil {
			return row, nil, err
		}
		ok, aerr := r.advance(ctx, row, next)
		if aerr != nil {
			return row, nil, aerr
		}
		if !ok {
			return r.overtaken(ctx, row)
		}
		row = next
	}
	if broken != nil && errors.Is(broken, oci.ErrDenied) {
		return r.overQuota(ctx, row, broken)
	}
	if broken != nil {
		return row, nil, oci.Errorf(oci.CodeBlobUploadInvalid, "the body broke off; the upload has %d bytes now: go on from there", row.Size).
			WithDetail(map[string]any{"rule": "body-incomplete", "size": row.Size}).WithCause(broken)
	}
	if length >= 0 && n != length {
		return row, nil, oci.Errorf(oci.CodeSizeInvalid, "%d bytes were announced but %d came; the upload has %d bytes now", length, n, row.Size).
			WithDetail(map[string]any{"rule": "content-length", "announced": length, "received": n, "size": row.Size})
	}
	kept = true
	return row, s, nil
}

// sumOf is the hash of what the upload has; of the algorithm given, if there is
// one and the upload has no bytes.
func (r *Registry) sumOf(row metadata.Upload, algorithm digest.Algorithm) (*sum, error) {
	if row.Size > 0 {
		s, err := r.restoreSum(row.HashState)
		if err != nil {
			return nil, fmt.Errorf("upload %s: %w", row.ID, err)
		}
		return s, nil
	}
	if algorithm == "" {
		algorithm = digest.Algorithm(row.Algorithm)
	}
	return r.newSum(algorithm), nil
}

// advance records that the upload has gone from one state to the next, unless
// another request has changed it.
func (r *Registry) advance(ctx context.Context, from, to metadata.Upload) (ok bool, err error) {
	ctx, cancel := detached(ctx, recordTime)
	defer cancel()
	err = r.db.StatementRelaxed(ctx, func(tx *metadata.Tx) (err error) {
		ok, err = tx.AdvanceUpload(ctx, from, to)
		return err
	})
	if err != nil {
		return false, fmt.Errorf("recording the progress of upload %s: %w", from.ID, err)
	}
	return ok, nil
}

// overtaken is the end of a request that lost against another one on the same upload.
// What it gave to the store is not in the session that the row has.
func (r *Registry) overtaken(ctx context.Context, row metadata.Upload) (metadata.Upload, *sum, error) {
	ctx, cancel := detached(ctx, recordTime)
	defer cancel()
	now, err := r.upload(ctx, row.Principal, row.Repository, row.ID)
	if err != nil {
		return now, nil, err
	}
	return now, nil, rangeError(now, "another request has continued this upload meanwhile; it has %d bytes now: go on from there", now.Size)
}

// CancelUpload ends an upload and frees what it holds. It returns
// BLOB_UPLOAD_UNKNOWN.
func (r *Registry) CancelUpload(ctx context.Context, by auth.Actor, repo, id string) error {
	row, err := r.upload(ctx, by.Audit.Name, repo, id)
	if err != nil {
		return err
	}
	return r.discard(ctx, row)
}

// discard ends an upload without a blob: the row becomes a garbage row, and
// the session is aborted at once if the store can.
func (r *Registry) discard(ctx context.Context, row metadata.Upload) error {
	ctx, cancel := detached(ctx, recordTime)
	defer cancel()
	err := r.db.UpdateRelaxed(ctx, func(tx *metadata.Tx) error {
		deleted, err := tx.DeleteUpload(ctx, row.ID)
		if err != nil {
			return err
		}
		return tx.EnqueueGarbage(ctx, metadata.GarbageSession, deleted.Session, tx.Now().Add(metadata.SessionGrace))
	})
	if err != nil {
		return err
	}
	r.abort(ctx, row)
	return nil
}

// abort frees a session whose row the caller has turned into garbage. A failure
// is for the log only: the garbage row will be tried again.
func (r *Registry) abort(ctx context.Context, row metadata.Upload) {
	if err := r.store.Abort(ctx, storage.Session(row.Session)); err != nil {
		r.o.Logger.WarnContext(ctx, "aborting an upload failed, it will be tried again", "upload", row.ID, "error", err)
	}
}

// CommitUpload ends an upload: a body, if one comes, is appended as by
// AppendUpload, with the same errors; then the upload becomes the blob d of
// the repository, which comes into being if needed. When it returns nil the
// bytes and the rows are durable.
//
// It returns DIGEST_INVALID when the bytes are others; nothing of the upload
// is left then. An upload that is not there any more, because the answer to the
// same request got lost, is a success when the repository has the blob.
func (r *Registry) CommitUpload(ctx context.Context, by auth.Actor, repo, id string, d digest.Digest, at, length int64, body io.Reader) (metadata.Blob, error) {
	if length == 0 && at < 0 {
		body = nil // it closes what there is
	}
	seen, leave := r.enter(ctx, by, repo, id, body)
	defer leave()
	var row metadata.Upload
	var known bool
	err := r.db.View(ctx, func(tx *metadata.Tx) (err error) {
		row, known, err = tx.UploadToClose(ctx, repo, id, d)
		return err
	})
	if row, err = owned(row, by.Audit.Name, err); err != nil {
		return r.committed(ctx, repo, d, err)
	}
	var s *sum
	if at >= 0 || body != nil {
		if body == nil {
			body = strings.NewReader("")
		}
		if at < 0 && seen != "" && seen != row.Session {
			_, _, err = r.overtaken(ctx, row)
			return r.committed(ctx, repo, d, err)
		}
		if row, s, err = r.take(ctx, row, d.Algorithm(), at, length, body); err != nil {
			return r.committed(ctx, repo, d, err)
		}
		known, err = r.known(ctx, d) // a body takes its time
	} else {
		s, err = r.sumOf(row, d.Algorithm())
	}
	defer r.release(s)
	if err != nil {
		return metadata.Blob{}, err
	}
	return r.close(ctx, by, row, s, d, known)
}

// known reports whether some repository has the blob. It is for bytes that have
// all come: a client that goes away now does not lose them.
func (r *Registry) known(ctx context.Context, d digest.Digest) (bool, error) {
	ctx, cancel := detached(ctx, recordTime)
	defer cancel()
	var holders []string
	err := r.db.View(ctx, func(tx *metadata.Tx) (err error) {
		holders, err = tx.BlobRepositories(ctx, d, 1)
		return err
	})
	return len(holders) > 0, err
}

// committed looks whether the upload is not there because it was committed
// before. The caller may push to the repository, so it may know what is in it.
func (r *Registry) committed(ctx context.Context, repo string, d digest.Digest, err error) (metadata.Blob, error) {
	if !errors.Is(err, oci.ErrBlobUploadUnknown) {
		return metadata.Blob{}, err
	}
	ctx, cancel := detached(ctx, recordTime)
	defer cancel()
	if b, berr := r.Blob(ctx, repo, d); berr == nil {
		return b, nil
	} else if !errors.Is(berr, oci.ErrBlobUnknown) {
		return metadata.Blob{}, berr
	}
	return metadata.Blob{}, err
}

// PutBlob takes a blob in one request. The upload's row is written (relaxed)
// before the first byte is stored, as for an upload in several requests, so that a crash
// leaves nothing that the stale-upload job would not find; nobody is told its id.
// Errors are those of CommitUpload, but nothing is kept.
func (r *Registry) PutBlob(ctx context.Context, by auth.Actor, repo string, d digest.Digest, length int64, body io.Reader) (metadata.Blob, error) {
	row, err := r.start(ctx, by, repo, d.Algorithm(), length)
	if err != nil {
		return metadata.Blob{}, err
	}
	row, s, err := r.take(ctx, row, "", -1, length, body)
	defer r.release(s)
	var b metadata.Blob
	known := false
	if err == nil {
		known, err = r.known(ctx, d)
	}
	if err == nil {
		b, err = r.close(ctx, by, row, s, d, known)
	}
	if err != nil {
		if derr := r.discard(ctx, row); derr != nil && !errors.Is(derr, oci.ErrBlobUploadUnknown) {
			r.o.Logger.WarnContext(ctx, "an upload is left to expire", "upload", row.ID, "error", derr)
		}
	}
	var broken *storage.SourceError
	if errors.As(err, &broken) {
		err = oci.Errorf(oci.CodeBlobUploadInvalid, "the body broke off after %d bytes: push the blob again", row.Size).
			WithDetail(map[string]any{"rule": "body-incomplete"}).WithCause(broken)
	}
	return b, err
}

// close turns an upload into a blob. s is the hash of its bytes; known says that some
// repository has the blob, as far as that was seen.
func (r *Registry) close(ctx context.Context, by auth.Actor, row metadata.Upload, s *sum, d digest.Digest, known bool) (metadata.Blob, error) {
	got, err := r.digestOf(ctx, row, s, d.Algorithm())
	if err != nil {
		return metadata.Blob{}, err
	}
	if got != d {
		if err := r.discard(ctx, row); err != nil && !errors.Is(err, oci.ErrBlobUploadUnknown) {
			r.o.Logger.WarnContext(ctx, "an upload with a wrong digest is left to expire", "upload", row.ID, "error", err)
		}
		return metadata.Blob{}, oci.Errorf(oci.CodeDigestInvalid, "the %d bytes of the upload have the digest %s, not %s: the upload is discarded, push the blob again", row.Size, got, d).
			WithDetail(map[string]any{"rule": "digest-mismatch", "computed": got, "asked": d})
	}
	// The bytes are right and complete; a client that goes away now gets its
	// blob all the same, and finds it when it tries again.
	ctx = context.WithoutCancel(ctx)
	if known {
		if b, done, err := r.linkExisting(ctx, by, row, d); done || err != nil {
			return b, err
		}
	}
	key, err := r.store.Commit(ctx, storage.Session(row.Session))
	if err != nil {
		err = storeError(fmt.Errorf("committing upload %s: %w", row.ID, err))
		if errors.Is(err, oci.ErrBlobUploadInvalid) {
			// Perhaps the same request, sent twice, was faster.
			if b, berr := r.Blob(ctx, row.Repository, d); berr == nil {
				return b, nil
			}
		}
		return metadata.Blob{}, err
	}
	return r.insert(ctx, by, row, metadata.Blob{Digest: d, Key: key, Size: row.Size})
}

// digestOf is the digest of the upload's bytes. Only an algorithm that was not
// announced before the first byte makes it read them again.
func (r *Registry) digestOf(ctx context.Context, row metadata.Upload, s *sum, algorithm digest.Algorithm) (digest.Digest, error) {
	if s.algorithm == algorithm {
		return s.digest(), nil
	}
	other := r.newSum(algorithm)
	defer r.release(other)
	rc, err := r.store.OpenSession(ctx, storage.Session(row.Session))
	if err != nil {
		return "", storeError(fmt.Errorf("reading upload %s again: %w", row.ID, err))
	}
	defer rc.Close()
	again := r.newSum(s.algorithm)
	defer r.release(again)
	n, err := io.Copy(io.MultiWriter(other, again), storage.ContextReader{Context: ctx, Reader: rc})
	if err != nil {
		return "", storeError(fmt.Errorf("reading upload %s again: %w", row.ID, err))
	}
	// What was read back has to be what came in.
	if n != row.Size || again.digest() != s.digest() {
		return "", fmt.Errorf("reading upload %s again: %d bytes with %s, want %d with %s", row.ID, n, again.digest(), row.Size, s.digest())
	}
	return other.digest(), nil
}

var errNotThere = errors.New("the blob is not there any more")

// linkExisting ends the upload of a blob that the instance has already, without
// a commit in the store. done is false when there is no such blob any more.
func (r *Registry) linkExisting(ctx context.Context, by auth.Actor, row metadata.Upload, d digest.Digest) (b metadata.Blob, done bool, err error) {
	ctx, cancel := detached(ctx, recordTime)
	defer cancel()
	err = r.db.Update(ctx, func(tx *metadata.Tx) error {
		deleted, err := tx.DeleteUpload(ctx, row.ID)
		if err != nil {
			return err
		}
		err = r.pushTo(ctx, tx, by, row.Repository, chargeOf(deleted), func(id int64) (err error) {
			linked := false
			if b, linked, err = tx.LinkBlob(ctx, id, d); err == nil && !linked {
				err = errNotThere
			}
			return err
		})
		if err != nil {
			return err
		}
		if err := tx.EnqueueGarbage(ctx, metadata.GarbageSession, deleted.Session, tx.Now().Add(metadata.SessionGrace)); err != nil {
			return err
		}
		return tx.Record(ctx, blobPushed(by, row.Repository, b))
	})
	switch {
	case errors.Is(err, errNotThere):
		return b, false, nil
	case errors.Is(err, oci.ErrDenied):
		_, _, err = r.overQuota(ctx, row, err)
		return metadata.Blob{}, false, err
	case err != nil:
		b, err = r.committed(ctx, row.Repository, d, err)
		return b, err == nil, err
	}
	r.abort(ctx, row)
	return b, true, nil
}

// blobPushed is the event of a blob whose bytes came in.
func blobPushed(by auth.Actor, repo string, b metadata.Blob) metadata.Event {
	return metadata.Event{Kind: metadata.BlobPushed, Actor: by.Audit, Repository: repo, Digest: b.Digest, Size: b.Size}
}

// insert makes the rows of a blob whose bytes are durable under its key.
func (r *Registry) insert(ctx context.Context, by auth.Actor, row metadata.Upload, mine metadata.Blob) (metadata.Blob, error) {
	ctx, cancel := detached(ctx, recordTime)
	defer cancel()
	var b metadata.Blob
	err := r.db.Update(ctx, func(tx *metadata.Tx) error {
		// The right to the bytes, see the package comment. The object must not be
		// enqueued when the row is gone: it may be the blob of the request
		// that was faster, or garbage that whoever took the row has enqueued.
		deleted, err := tx.DeleteUpload(ctx, row.ID)
		if err != nil {
			return err
		}
		if deleted.Session != row.Session {
			return oci.Errorf(oci.CodeBlobUploadInvalid, "another request has changed the upload while it was closed: start again with a new upload")
		}
		err = r.pushTo(ctx, tx, by, row.Repository, chargeOf(deleted), func(id int64) (err error) {
			b, err = tx.PutBlob(ctx, id, mine)
			return err
		})
		if err != nil {
			return err
		}
		garbage := r.leftovers(row.Session)
		if b.Key != mine.Key {
			garbage = append(garbage, mine.Key)
		}
		for _, key := range garbage {
			if err := tx.EnqueueGarbage(ctx, metadata.GarbageObject, key, tx.Now()); err != nil {
				return err
			}
		}
		return tx.Record(ctx, blobPushed(by, row.Repository, b))
	})
	if errors.Is(err, oci.ErrDenied) {
		return metadata.Blob{}, errors.Join(err, r.refuse(ctx, row, mine.Key))
	}
	if err != nil {
		return r.committed(ctx, row.Repository, mine.Digest, err)
	}
	if b.Key != mine.Key {
		// Another push of the same bytes was first; the garbage row is for the case
		// that this fails.
		if err := r.store.Delete(ctx, mine.Key); err != nil {
			r.o.Logger.WarnContext(ctx, "deleting a second copy of a blob failed, it will be tried again", "digest", mine.Digest, "error", err)
		}
	}
	return b, nil
}

// leftovers are objects that a committed session has no use for. They are
// garbage from the moment on that its row is gone: nothing else could be recorded under them.
func (r *Registry) leftovers(session string) []string {
	if l, ok := r.store.(storage.Leaver); ok {
		return l.Leftovers(storage.Session(session))
	}
	return nil
}
