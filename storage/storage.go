// Package storage keeps bytes by key and knows nothing of repositories,
// digests or SQL. Implementations: fs (a directory), s3 (S3 and MinIO), mem.
// All of them pass storagetest.Test, which is the contract in executable form.
//
// A blob arrives in a session: Begin, any number of Append, then Commit or
// Abort. A Session is an opaque string that the caller stores between the
// calls, so that another replica can continue where this one stopped. The
// object stays where its session put it: Commit gives its key, and nothing is
// copied, renamed to a digest or read back.
//
// The caller's record of an upload decides which session is the current one,
// and three rules keep a race between two requests harmless:
//
//   - Replace the recorded session only if it is still the one that was given to
//     Append (compare and set).
//   - Record the key that Commit gave in the transaction that removes the
//     upload's record, and only if the record was there.
//   - Call Abort only after removing the record. It removes all that the
//     session made, a committed object too.
//
// [Pump] moves the bytes, within the memory of a [Budget].
package storage

import (
	"context"
	"errors"
	"io"
	"iter"
	"os"
	"regexp"
	"syscall"
	"time"
)

// ErrNotFound says that there is no object under a key, or no such session.
var ErrNotFound = errors.New("storage: not found")

// ErrSession says that a session cannot be continued or committed: it was
// aborted or committed, its bytes were lost, or another writer changed it.
// The upload has to start again; nothing wrong has been stored.
var ErrSession = errors.New("storage: the session cannot be continued")

// ErrOutOfRange says that an offset lies beyond the end of an object.
var ErrOutOfRange = errors.New("storage: out of range")

// ErrFull says that the place where the bytes are kept has no room; see Full.
var ErrFull = errors.New("storage: full")

// Full reports whether a store failed because there is no room left, on the disk, in a
// quota of it, or in the bucket: whoever runs the registry has to make some.
func Full(err error) bool {
	return errors.Is(err, ErrFull) || errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// Session is the state of an unfinished object, at most 1 MiB of text. It is
// opaque: only the store that made it reads it.
type Session string

// Info describes a stored object.
type Info struct {
	Key     string
	Size    int64 // bytes
	ModTime time.Time
}

// Store keeps objects and unfinished sessions. All methods may be called
// concurrently, by several processes on the same directory or bucket. All
// honour their context. Keys and sessions are made by the store.
type Store interface {
	// Open reads length bytes of an object from offset; length -1 means to the
	// end. The caller closes the reader. It returns ErrNotFound, or
	// ErrOutOfRange when offset is beyond the object's size (offset == size is
	// an empty read). On a directory the reader is the *os.File itself, placed
	// at offset, when length is -1, so that http.ServeContent and io.Copy use sendfile.
	Open(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error)

	// Stat describes an object, or returns ErrNotFound.
	Stat(ctx context.Context, key string) (Info, error)

	// Begin starts a session. It does no input or output, so that a session
	// that is never used costs nothing. id is the caller's unique and
	// unguessable name for the session (lower-case hexadecimal, 32 to 128
	// digits); the keys of the session's objects contain it. With another id the
	// session cannot be used.
	Begin(id string) Session

	// Append reads r to its end and adds the bytes to the session. Every byte
	// taken is also written to tee, in order and from one goroutine at a time,
	// possibly not the caller's; all of that has happened when Append returns. tee
	// must not keep the slice. Append returns the session to store and the
	// number of bytes that it now holds more.
	//
	// When r fails, what was read before is kept: Append returns the new
	// session, the count and an *SourceError. A context that ends while r is being
	// read counts as that, too. When the store fails, or tee (*TeeError), it returns
	// the session it was given, 0 and the store's error; what it has half
	// written counts for nothing and the next Append of the same session
	// replaces it. The bytes survive the death of this process when Append has
	// returned; they survive a power failure only after Commit.
	//
	// Two Appends to one session at a time are a mistake of the client: one of
	// them may fail with ErrSession, or a later Commit does; never do mixed bytes
	// become an object unnoticed.
	Append(ctx context.Context, s Session, r io.Reader, tee io.Writer) (Session, int64, error)

	// OpenSession reads back what an uncommitted session holds, from its
	// first byte. It is there for one case: a digest algorithm that the client did not
	// announce before its closing request.
	OpenSession(ctx context.Context, s Session) (io.ReadCloser, error)

	// Commit makes the session's bytes durable as an object and returns its
	// key. A session without bytes becomes an empty object. Committing a session again
	// as long as its object is there, or several times at once, returns the same key.
	Commit(ctx context.Context, s Session) (key string, err error)

	// Abort removes what the session holds, also if it was committed. Aborting a
	// session that is not there is no error.
	Abort(ctx context.Context, s Session) error

	// Delete removes objects; it ignores keys that are not there. All keys
	// are tried; the error joins what failed.
	Delete(ctx context.Context, keys ...string) error

	// Walk lists all objects, unfinished sessions' included, in no particular order. It is
	// for checking a store against the database, never for serving a request.
	Walk(ctx context.Context) iter.Seq2[Info, error]

	// Ping reports whether objects can be read. It writes nothing.
	Ping(ctx context.Context) error

	// Writable reports whether objects can be stored: it writes a small one and removes it.
	Writable(ctx context.Context) error
}

// URLer is a Store that can hand out a time-limited link to an object, so
// that clients fetch the bytes from it directly.
type URLer interface {
	// URL gives a link for a GET of the object, valid for the duration (1
	// second to 7 days, the limit of S3 signatures). It does not check that the
	// object exists and makes no request. The answer has the Content-Type application/octet-stream and the
	// Content-Disposition attachment, so that no browser runs what somebody stored.
	URL(ctx context.Context, key string, valid time.Duration) (string, error)
}

// A Leaver is a Store whose uploads can leave things behind that it cannot, or must
// not, remove by itself.
type Leaver interface {
	// Leftovers gives the keys that the committed session s leaves, usually
	// none: objects that once were all that a session held, which a racing request may have committed.
	// Delete them when no blob is recorded under them, after s was recorded.
	Leftovers(s Session) []string

	// Remains lists the objects of the upload that s belongs to, whoever has stored them: a request that died
	// before its session was recorded, or that lost a race, has left some under names of its own. What it has
	// left beside objects is removed. Call it when the upload has ended without a blob, after
	// Abort, and when nobody can be writing to it any more; and delete what no row points to. It lists the store.
	Remains(ctx context.Context, s Session) ([]Info, error)
}

// A Filer is a Store that also keeps files under names of the caller, beside its
// objects: Walk does not list them. It is for a backup's few files of its own, not for blobs. Names are 3 to 64 lower-case
// letters, digits, dots and dashes, with a dot between the first and the last; see [ValidFileName].
type Filer interface {
	// PutFile stores a copy of f, from its beginning, in place of what has the
	// name: durable when it returns, and whole or not at all. Only the owner of a directory may read it.
	PutFile(ctx context.Context, name string, f *os.File) error
	// OpenFile reads a file, or returns ErrNotFound. The caller closes the reader.
	OpenFile(ctx context.Context, name string) (io.ReadCloser, error)
	// DeleteFile removes a file. It returns nil when the file is not there.
	DeleteFile(ctx context.Context, name string) error
}

// ContextReader is a Reader that fails when its context has ended, for copies
// of files, which know of no context.
type ContextReader struct {
	Context context.Context
	Reader  io.Reader
}

// Read implements io.Reader.
func (r ContextReader) Read(p []byte) (int, error) {
	if err := r.Context.Err(); err != nil {
		return 0, err
	}
	return r.Reader.Read(p)
}

var fileNameRE = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]{0,60}\.[a-z0-9-]{1,60}$`)

// ValidFileName reports whether a Filer takes the name. None of them is an object's key.
func ValidFileName(name string) bool { return len(name) <= 64 && fileNameRE.MatchString(name) }

// SourceError is the failure of the reader given to Append, as opposed to one
// of the store.
type SourceError struct{ Err error }

func (e *SourceError) Error() string { return "reading the upload: " + e.Err.Error() }

// Unwrap gives the reader's own error.
func (e *SourceError) Unwrap() error { return e.Err }
