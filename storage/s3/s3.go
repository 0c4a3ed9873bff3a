// Package s3 keeps objects in a bucket of S3, MinIO or another store that
// speaks its protocol. Start with [Store.Append] in append.go.
//
// An object is written once, to the place where it stays: key
// "<session id>-<name>", where every Append that makes an object makes a name. A
// body that fits one part is one PutObject, and Commit has nothing left to do. A
// larger one is a multipart upload: its creation, its parts, its completion. What an Append
// leaves that is too little for a part (5 MiB) is an object of its own, a piece, until a later Append
// or Commit makes it the beginning of a part. There is no copy, no listing, no HEAD, and a GET only of pieces.
//
// A process that is killed during an Append can leave a piece, or a multipart
// upload that no session names. When the upload ends without a blob, Remains finds both, but for multipart uploads on
// MinIO, which lists none by a prefix and aborts them by itself after a day. When it becomes a
// blob all the same, a check of the store against the database finds the pieces; for the multipart uploads a
// bucket should have a lifecycle rule (AbortIncompleteMultipartUpload).
//
// S3 verifies a CRC-32C of every object and part. The SHA-256 of the digest is
// computed once, by the caller; nothing here hashes a body again.
package s3

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"iter"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"

	"berth/storage"
)

// Store is a bucket, or the part of it under a prefix. Its methods may be
// called concurrently, by several processes; it implements [storage.Store],
// [storage.URLer] and [storage.Leaver].
type Store struct {
	config Config
	core   *minio.Core
	prefix string // "" or with a slash at its end
	parts  partSizes
}

var (
	_ storage.Store  = (*Store)(nil)
	_ storage.URLer  = (*Store)(nil)
	_ storage.Leaver = (*Store)(nil)
)

// MaxSize is the size of the largest object that can be stored, in bytes: 10,000
// parts, of which the budget limits the size.
func (s *Store) MaxSize() int64 { return s.parts.total() }

// Begin implements [storage.Store].
func (s *Store) Begin(id string) storage.Session {
	session, err := state{ID: id}.session()
	if err != nil {
		return "" // an id so long that nothing takes the session
	}
	return session
}

// Commit implements [storage.Store]. A session of one piece needs no request.
func (s *Store) Commit(ctx context.Context, session storage.Session) (string, error) {
	st, err := parseSession(session)
	if err != nil {
		return "", err
	}
	if err := ctx.Err(); err != nil {
		return "", err
	}
	key, err := s.commit(ctx, st)
	if err != nil {
		return "", fmt.Errorf("committing upload %s: %w", st.ID, err)
	}
	return key, nil
}

func (s *Store) commit(ctx context.Context, st state) (string, error) {
	switch {
	case st.Upload != "":
		return s.complete(ctx, st)
	case len(st.Pieces) == 1 && st.Pieces[0].Whole:
		return st.key(st.Pieces[0].Name), nil
	}
	// An empty object, or small pieces to put together.
	key := st.key(mergedName(st))
	_, err := s.put(ctx, key, remotes(st, st.Pieces))
	if errors.Is(err, storage.ErrSession) {
		// A piece is gone. If that is because the session was committed, the object is there.
		if info, serr := s.Stat(ctx, key); serr == nil && info.Size == st.Size {
			return key, nil
		}
	}
	if err != nil {
		return "", err
	}
	s.sweep(ctx, st, append(slices.Clone(st.Stale), st.removable()...))
	return key, nil
}

// complete makes the object of the multipart upload. Pieces become its last part.
func (s *Store) complete(ctx context.Context, st state) (string, error) {
	key := st.key(st.Name)
	all := slices.Clone(st.Parts)
	var err error
	if len(st.Pieces) > 0 {
		var last part
		if last, err = s.putPart(ctx, st, len(all)+1, remotes(st, st.Pieces)); err == nil {
			all = append(all, last)
		}
	}
	if err == nil {
		list := make([]minio.CompletePart, len(all))
		for i, p := range all {
			list[i] = minio.CompletePart{PartNumber: i + 1, ETag: p.etag, ChecksumCRC32C: checksum(p.crc)}
		}
		// S3 reads every part's entry: more parts take longer.
		ctx, cancel := s.patiently(ctx, 2*s.config.Timeout+time.Duration(len(all))*50*time.Millisecond)
		defer cancel()
		_, err = s.core.CompleteMultipartUpload(ctx, s.config.Bucket, s.prefix+key, st.Upload, list, minio.PutObjectOptions{})
		err = translate(err)
	}
	if errors.Is(err, storage.ErrSession) && s.completed(ctx, st, key) {
		err = nil
	}
	if err != nil {
		return "", err
	}
	s.sweep(ctx, st, append(slices.Clone(st.Stale), st.removable()...))
	return key, nil
}

// completed reports whether the object is there, made of just this session's parts: a
// Commit whose answer was lost. S3 knows the checksum of the parts' checksums.
func (s *Store) completed(ctx context.Context, st state, key string) bool {
	crcs := make([]uint32, 0, len(st.Parts)+1)
	for _, p := range st.Parts {
		crcs = append(crcs, p.crc)
	}
	if len(st.Pieces) > 0 {
		last, err := join(spansOf(remotes(st, st.Pieces)))
		if err != nil {
			return false
		}
		crcs = append(crcs, last.crc)
	}
	sum := crc32.New(castagnoli)
	for _, crc := range crcs {
		sum.Write([]byte{byte(crc >> 24), byte(crc >> 16), byte(crc >> 8), byte(crc)})
	}
	ctx, cancel := context.WithTimeout(ctx, s.config.Timeout)
	defer cancel()
	info, err := s.core.StatObject(ctx, s.config.Bucket, s.prefix+key, minio.StatObjectOptions{Checksum: true})
	if err != nil || info.Size != st.Size {
		return false
	}
	have, _, _ := strings.Cut(info.ChecksumCRC32C, "-") // "checksum-number of parts"
	return have == checksum(sum.Sum32())
}

// mergedName is the name of the object that Commit makes of pieces. It comes from the
// last piece's, so that committing the same session again gives the same key.
func mergedName(st state) string {
	if n := len(st.Pieces); n > 0 {
		return st.Pieces[n-1].Name + "c"
	}
	return "empty"
}

// removable are the pieces that the store may remove by itself when the session
// has got past them.
func (st state) removable() []string {
	var names []string
	for _, p := range st.Pieces {
		if !p.Whole {
			names = append(names, p.Name)
		}
	}
	return names
}

// Leftovers implements [storage.Leaver].
func (s *Store) Leftovers(session storage.Session) []string {
	st, err := parseSession(session)
	if err != nil {
		return nil
	}
	var keys []string
	if st.Left != "" {
		keys = append(keys, st.key(st.Left))
	}
	for _, p := range st.Pieces {
		if p.Whole && (len(st.Pieces) > 1 || st.Upload != "") {
			keys = append(keys, st.key(p.Name))
		}
	}
	return keys
}

// Abort implements [storage.Store]. A session that holds nothing costs no request.
func (s *Store) Abort(ctx context.Context, session storage.Session) error {
	st, err := parseSession(session)
	if err != nil {
		return err
	}
	names := slices.Clone(st.Stale)
	for _, p := range st.Pieces {
		names = append(names, p.Name)
	}
	if st.Left != "" {
		names = append(names, st.Left)
	}
	var aborted error
	if st.Upload != "" {
		if aborted = s.abort(ctx, st); errors.Is(aborted, storage.ErrSession) {
			aborted = nil // aborted or committed before; MinIO does not tell
		}
		names = append(names, st.Name) // of a Commit that was never recorded
	} else if len(st.Pieces) > 1 {
		names = append(names, mergedName(st)) // likewise
	}
	if err := errors.Join(aborted, s.Delete(ctx, st.keys(names)...)); err != nil {
		return fmt.Errorf("aborting upload %s: %w", st.ID, err)
	}
	return nil
}

func (s *Store) abort(ctx context.Context, st state) error {
	return s.abortUpload(ctx, s.prefix+st.key(st.Name), st.Upload)
}

func (s *Store) abortUpload(ctx context.Context, name, upload string) error {
	ctx, cancel := context.WithTimeout(ctx, s.config.Timeout)
	defer cancel()
	return translate(s.core.AbortMultipartUpload(ctx, s.config.Bucket, name, upload))
}

// Remains implements [storage.Leaver]: two requests, more from 1,000 things on. What the bucket's policy does not let it
// list is left to the check and the bucket's lifecycle rule.
func (s *Store) Remains(ctx context.Context, session storage.Session) ([]storage.Info, error) {
	st, err := parseSession(session)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 4*s.config.Timeout)
	defer cancel()
	if err := s.abortAll(ctx, st.key("")); err != nil && !mayNotList(err) {
		return nil, fmt.Errorf("multipart uploads of the upload %s: %w", st.ID, err)
	}
	var found []storage.Info
	for info, err := range s.list(ctx, st.key("")) {
		if mayNotList(err) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		found = append(found, info)
	}
	return found, nil
}

// abortAll ends the multipart uploads to keys with the prefix.
func (s *Store) abortAll(ctx context.Context, prefix string) error {
	var key, upload string // where the page before ended
	for {
		page, err := s.core.ListMultipartUploads(ctx, s.config.Bucket, s.prefix+prefix, key, upload, "", 1000)
		if err != nil {
			return translate(err)
		}
		for _, u := range page.Uploads {
			if !strings.HasPrefix(u.Key, s.prefix+prefix) {
				continue // not every store keeps to the prefix
			}
			if err := s.abortUpload(ctx, u.Key, u.UploadID); err != nil && !errors.Is(err, storage.ErrSession) {
				return err
			}
		}
		if !page.IsTruncated || page.NextKeyMarker == key && page.NextUploadIDMarker == upload {
			return nil
		}
		key, upload = page.NextKeyMarker, page.NextUploadIDMarker
	}
}

// mayNotList reports whether the store refuses to list, by its policy or altogether.
func mayNotList(err error) bool {
	var answer minio.ErrorResponse
	return errors.As(err, &answer) && slices.Contains([]string{minio.AccessDenied, minio.NotImplemented, minio.MethodNotAllowed}, answer.Code)
}

// OpenSession implements [storage.Store]. The parts of a multipart upload can
// only be read once it is complete, so this commits the session, which may then be
// committed again, or aborted, but not continued.
func (s *Store) OpenSession(ctx context.Context, session storage.Session) (io.ReadCloser, error) {
	st, err := parseSession(session)
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if st.Upload == "" {
		return s.newBody(ctx, remotes(st, st.Pieces)), nil
	}
	key, err := s.Commit(ctx, session)
	if err != nil {
		return nil, err
	}
	return s.Open(ctx, key, 0, -1)
}

// Open implements [storage.Store]: one GET.
func (s *Store) Open(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	if !validKey(key) {
		return nil, fmt.Errorf("%w: %.100q is not a key of this store", storage.ErrNotFound, key)
	}
	var opts minio.GetObjectOptions
	switch {
	case offset < 0:
		return nil, fmt.Errorf("opening %s: %w: offset %d", key, storage.ErrOutOfRange, offset)
	case length == 0:
		return s.openNothing(ctx, key, offset)
	case length > 0:
		opts.Set("Range", "bytes="+strconv.FormatInt(offset, 10)+"-"+strconv.FormatInt(offset+length-1, 10))
	case offset > 0:
		opts.Set("Range", "bytes="+strconv.FormatInt(offset, 10)+"-")
	}
	// No deadline: reading takes as long as the client takes.
	body, err := s.get(ctx, s.prefix+key, opts)
	if err == nil {
		return body, nil
	}
	if code(err) == minio.InvalidRange {
		return s.openNothing(ctx, key, offset) // S3 refuses the empty range at the end
	}
	return nil, s.notFound(ctx, key, err)
}

// openNothing is a read of no bytes, if the offset is one of the object's.
func (s *Store) openNothing(ctx context.Context, key string, offset int64) (io.ReadCloser, error) {
	info, err := s.Stat(ctx, key)
	if err != nil {
		return nil, err
	}
	if offset > info.Size {
		return nil, fmt.Errorf("opening %s: %w: offset %d of %d bytes", key, storage.ErrOutOfRange, offset, info.Size)
	}
	return http.NoBody, nil
}

// Stat implements [storage.Store]: one HEAD.
func (s *Store) Stat(ctx context.Context, key string) (storage.Info, error) {
	if !validKey(key) {
		return storage.Info{}, fmt.Errorf("%w: %.100q is not a key of this store", storage.ErrNotFound, key)
	}
	ctx, cancel := context.WithTimeout(ctx, s.config.Timeout)
	defer cancel()
	info, err := s.core.StatObject(ctx, s.config.Bucket, s.prefix+key, minio.StatObjectOptions{})
	if err != nil {
		return storage.Info{}, s.notFound(ctx, key, err)
	}
	return storage.Info{Key: key, Size: info.Size, ModTime: info.LastModified}, nil
}

func (s *Store) notFound(ctx context.Context, key string, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if code(err) == minio.NoSuchKey {
		return fmt.Errorf("%w: %s", storage.ErrNotFound, key)
	}
	return fmt.Errorf("opening %s: %w", key, translate(err))
}

// URL implements [storage.URLer].
func (s *Store) URL(ctx context.Context, key string, valid time.Duration) (string, error) {
	if !validKey(key) {
		return "", fmt.Errorf("%w: %.100q is not a key of this store", storage.ErrNotFound, key)
	}
	// A browser keeps the bytes as a file, whatever type the bucket has for the object.
	answer := url.Values{"response-content-type": {"application/octet-stream"}, "response-content-disposition": {"attachment"}}
	u, err := s.core.PresignedGetObject(ctx, s.config.Bucket, s.prefix+key, valid, answer)
	if err != nil {
		return "", fmt.Errorf("a link to %s: %w", key, err)
	}
	return u.String(), nil
}

// Delete implements [storage.Store]: one request for up to 1,000 keys.
func (s *Store) Delete(ctx context.Context, keys ...string) error {
	keys = slices.DeleteFunc(slices.Clone(keys), func(key string) bool { return !validKey(key) })
	if err := ctx.Err(); err != nil {
		return err
	}
	var errs []error
	for batch := range slices.Chunk(keys, 1000) {
		if err := s.deleteBatch(ctx, batch); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func (s *Store) deleteBatch(ctx context.Context, keys []string) error {
	ctx, cancel := s.patiently(ctx, 2*s.config.Timeout)
	defer cancel()
	if len(keys) == 1 {
		if err := s.core.RemoveObject(ctx, s.config.Bucket, s.prefix+keys[0], minio.RemoveObjectOptions{}); err != nil {
			return fmt.Errorf("deleting %s: %w", keys[0], translate(err))
		}
		return nil
	}
	objects := make(chan minio.ObjectInfo, len(keys))
	for _, key := range keys {
		objects <- minio.ObjectInfo{Key: s.prefix + key}
	}
	close(objects)
	var errs []error
	for failed := range s.core.RemoveObjects(ctx, s.config.Bucket, objects, minio.RemoveObjectsOptions{}) {
		errs = append(errs, fmt.Errorf("deleting %s: %w", strings.TrimPrefix(failed.ObjectName, s.prefix), translate(failed.Err)))
	}
	return errors.Join(errs...)
}

// sweep removes what a session does not need any more. That is not worth a
// failure: what stays is found by a check of the store.
func (s *Store) sweep(ctx context.Context, st state, names []string) {
	if err := s.Delete(ctx, st.keys(names)...); err != nil {
		s.config.Logger.Warn("objects of an upload are left behind", "upload", st.ID, "error", err)
	}
}

// Walk implements [storage.Store]: one request per 1,000 objects. Parts of
// unfinished multipart uploads are not objects.
func (s *Store) Walk(ctx context.Context) iter.Seq2[storage.Info, error] { return s.list(ctx, "") }

// list is Walk for the objects whose keys have a prefix.
func (s *Store) list(ctx context.Context, prefix string) iter.Seq2[storage.Info, error] {
	return func(yield func(storage.Info, error) bool) {
		list := s.core.ListObjectsIter(ctx, s.config.Bucket, minio.ListObjectsOptions{Prefix: s.prefix + prefix, Recursive: true})
		for o := range list {
			if o.Err != nil {
				yield(storage.Info{}, fmt.Errorf("listing the bucket: %w", translate(o.Err)))
				return
			}
			key := strings.TrimPrefix(o.Key, s.prefix)
			if !validKey(key) {
				continue // not ours
			}
			if !yield(storage.Info{Key: key, Size: o.Size, ModTime: o.LastModified}, nil) {
				return
			}
		}
		if err := ctx.Err(); err != nil {
			yield(storage.Info{}, err)
		}
	}
}

// Ping implements [storage.Store]: it asks for an object that is not there, with the right that reading takes.
func (s *Store) Ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, s.config.Timeout)
	defer cancel()
	// A GET, for the answer to a HEAD does not tell a missing object from a missing bucket.
	body, err := s.get(ctx, s.prefix+"ping", minio.GetObjectOptions{})
	if err == nil {
		_ = body.Close()
	} else if code(err) != minio.NoSuchKey {
		return fmt.Errorf("the S3 bucket %s cannot be read: %w", s.config.Bucket, translate(err))
	}
	return nil
}

// Writable implements [storage.Store]: it writes and removes a small object.
func (s *Store) Writable(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, s.config.Timeout)
	defer cancel()
	key := s.prefix + "ping-" + newName()
	opts := minio.PutObjectOptions{DisableContentSha256: true}
	_, err := s.core.PutObject(ctx, s.config.Bucket, key, strings.NewReader("ping\n"), 5, "", "", opts)
	if err == nil {
		err = s.core.RemoveObject(ctx, s.config.Bucket, key, minio.RemoveObjectOptions{})
	}
	if err != nil {
		return fmt.Errorf("the S3 bucket %s cannot be written to: %w", s.config.Bucket, translate(err))
	}
	return nil
}

// put stores segments as an object of their own.
func (s *Store) put(ctx context.Context, key string, segments []segment) (span, error) {
	all, err := join(spansOf(segments))
	if err != nil {
		return all, err
	}
	err = s.send(ctx, "PutObject", all.size, segments, func(ctx context.Context, body io.Reader) error {
		opts := minio.PutObjectOptions{
			DisableContentSha256: true,
			UserMetadata:         map[string]string{headerChecksum: checksum(all.crc)},
		}
		_, err := s.core.PutObject(ctx, s.config.Bucket, s.prefix+key, body, all.size, "", "", opts)
		return err
	})
	return all, err
}

// putPart uploads segments as a part of the session's multipart upload.
func (s *Store) putPart(ctx context.Context, st state, number int, segments []segment) (part, error) {
	all, err := join(spansOf(segments))
	if err != nil {
		return part{}, err
	}
	var etag string
	err = s.send(ctx, "UploadPart", all.size, segments, func(ctx context.Context, body io.Reader) error {
		opts := minio.PutObjectPartOptions{
			DisableContentSha256: true,
			CustomHeader:         http.Header{headerChecksum: {checksum(all.crc)}},
		}
		p, err := s.core.PutObjectPart(ctx, s.config.Bucket, s.prefix+st.key(st.Name), st.Upload, number, body, all.size, opts)
		etag = p.ETag
		return err
	})
	return part{etag: etag, crc: all.crc}, err
}

const (
	headerChecksum  = "X-Amz-Checksum-Crc32c"
	headerAlgorithm = "X-Amz-Checksum-Algorithm"
)

// patiently gives S3 longer than usual for an operation that takes it long.
func (s *Store) patiently(ctx context.Context, bound time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(withBound(ctx, bound), bound)
}

// get begins to read an object. The beginning has the time of an operation; then each read has it.
func (s *Store) get(ctx context.Context, name string, opts minio.GetObjectOptions) (io.ReadCloser, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	timer := time.AfterFunc(s.config.Timeout, func() { cancel(errSilent) })
	body, _, _, err := s.core.GetObject(ctx, s.config.Bucket, name, opts)
	if !timer.Stop() && err == nil {
		err = errors.Join(errSilent, body.Close())
	}
	if err != nil {
		if context.Cause(ctx) == errSilent {
			err = fmt.Errorf("%w (%s): %v", errSilent, s.config.Timeout, err)
		}
		cancel(nil)
		return nil, err
	}
	return begun{body, cancel}, nil
}

// begun is the body of an object whose reading has begun.
type begun struct {
	io.ReadCloser
	cancel context.CancelCauseFunc
}

func (b begun) Close() error {
	err := b.ReadCloser.Close()
	b.cancel(nil)
	return err
}

// create starts the session's multipart upload.
func (s *Store) create(ctx context.Context, st state) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, s.config.Timeout)
	defer cancel()
	id, err := s.core.NewMultipartUpload(ctx, s.config.Bucket, s.prefix+st.key(st.Name), minio.PutObjectOptions{
		UserMetadata: map[string]string{headerAlgorithm: "CRC32C"},
	})
	return id, translate(err)
}

// deniedAgain is how often a request that was denied is made again. MinIO denies the storing of an object while another request
// deletes the last other one under the prefix, whose directory it then removes.
const deniedAgain = 3

// send makes a request with a body until it succeeds, fails for good or has
// been made often enough. The client library does that for requests without one; but it would
// rewind a body that the failed request may still be reading.
func (s *Store) send(ctx context.Context, operation string, size int64, segments []segment, request func(context.Context, io.Reader) error) error {
	deadline, start := s.config.Timeout+time.Duration(size)*time.Second/(512<<10), time.Now()
	for attempt := 1; ; attempt++ {
		err := s.try(ctx, deadline, segments, request)
		again := (retryable(err) || attempt <= deniedAgain && code(err) == minio.AccessDenied) && time.Since(start) < s.config.Timeout
		if err == nil || ctx.Err() != nil || attempt >= s.config.Attempts || !again {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return translate(err)
		}
		s.config.Logger.Warn("an S3 request failed and is made again", "operation", operation, "attempt", attempt, "error", err)
		pause := min(100*time.Millisecond<<attempt, 5*time.Second)
		select {
		case <-time.After(pause/2 + rand.N(pause/2)):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (s *Store) try(ctx context.Context, deadline time.Duration, segments []segment, request func(context.Context, io.Reader) error) error {
	ctx, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	body := s.newBody(ctx, segments)
	defer body.Close()
	err := request(ctx, body)
	if err != nil && body.failed() != nil {
		return body.failed() // a piece could not be read; the request failed because of that
	}
	return err
}

func code(err error) string { return minio.ToErrorResponse(err).Code }

// retryable reports whether a request may succeed when it is made again.
func retryable(err error) bool {
	var certificate *tls.CertificateVerificationError
	if errors.Is(err, storage.ErrSession) || errors.As(err, &certificate) {
		return false
	}
	response := minio.ToErrorResponse(err)
	switch response.Code {
	case "":
		return true // no answer
	case "RequestTimeout", "RequestTimeTooSkewed", "Throttling", "ThrottlingException", "RequestLimitExceeded",
		"SlowDown", "SlowDownWrite", "SlowDownRead", "InternalError", "ServiceUnavailable", "IncompleteBody", minio.BadDigest, "XAmzContentChecksumMismatch",
		"ExpiredToken", "OperationAborted", "XMinioServerNotInitialized", "XMinioBackendDown":
		return true
	}
	return response.StatusCode >= 500 || response.StatusCode == http.StatusTooManyRequests || response.StatusCode == http.StatusRequestTimeout
}

// translate says in the contract's words what S3 said.
func translate(err error) error {
	switch code(err) {
	case minio.NoSuchUpload, minio.InvalidPart, minio.InvalidPartOrder, "EntityTooSmall":
		return fmt.Errorf("%w: S3 answers %s: %w", storage.ErrSession, code(err), err)
	case "XMinioStorageFull", "XMinioAdminBucketQuotaExceeded", "QuotaExceeded":
		return fmt.Errorf("%w: S3 answers %s: %w", storage.ErrFull, code(err), err)
	case minio.AccessDenied:
		return fmt.Errorf("S3 denies access; check the credentials (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a role) and the bucket's policy: %w", err)
	}
	return err
}
