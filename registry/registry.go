// Package registry says what push, mount, pull, delete, list and retain mean, and what
// making, deleting and setting up a repository means. With collect below it, which takes away
// what nothing needs, it joins the store of bytes and the database of facts. It knows nothing of HTTP, and does not ask what the caller
// may do to a repository: its callers have decided that before.
//
// Two rules keep it right under concurrency and crashes:
//
//   - Bytes first, then rows. A blob's row is written only when its bytes are
//     durable, and a transaction never waits for the store.
//   - An upload's row is the right to its bytes. Who deletes the row in a transaction
//     decides, in that transaction, what becomes of them: a blob, or garbage. Everybody else
//     finds the row gone and leaves the bytes alone. So a crash at any point leaves
//     bytes that a blob row, an upload row or a garbage row still points to, and
//     nothing is ever deleted that a blob row points to.
//
// Start with manifests.go (a push) and uploads.go.
package registry

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"berth/metadata"
	"berth/oci"
	"berth/storage"
)

// Options of a Registry; the zero value works.
type Options struct {
	// DefaultVisibility is that of repositories which come into being by a push,
	// unless their team has its own: public, internal or private. "" means private.
	DefaultVisibility string
	// AllowSparse accepts an index whose manifests are not all in the repository.
	AllowSparse bool
	// MaxManifestSize in bytes; 0 means 4 MiB, the least that the specification asks for.
	MaxManifestSize int64
	// MaxUploads is how many uploads a principal may have open at a time; 0 is any number.
	MaxUploads int
	// UntaggedTTL is how long a manifest lives that no tag, index or subject
	// holds, where no policy of its repository or team says otherwise; 0 keeps it.
	UntaggedTTL time.Duration
	// UndoWindow is how long a deleted tag or manifest can be restored; 0: only
	// until the collector comes.
	UndoWindow time.Duration
	// Collected hears of what retention took away: the kind is metadata.CollectedTag, and no bytes
	// are known. nil for nobody.
	Collected func(kind string, n int, bytes int64)
	// Budget is the memory that uploads share, in which large manifests have their turns too; nil means one of its own.
	Budget *storage.Budget
	// Logger gets what no client can be told; nil discards it.
	Logger *slog.Logger
	// Clock tells when something was pulled; nil means the database's.
	Clock func() time.Time
}

// Registry is a registry on a database and a store. It keeps only a note of recent pulls and
// the bytes of small blobs, so any number of Registries, in any number of processes, work on the
// same two. Its methods may be called concurrently.
type Registry struct {
	db     *metadata.DB
	store  storage.Store
	o      Options
	sha256 hashPool
	sha512 hashPool
	pulls  pulls
	small  smallBlobs

	turns     turns
	manifests manifestMemory
}

// New makes a Registry. The database has to be migrated.
func New(db *metadata.DB, store storage.Store, o Options) *Registry {
	if o.DefaultVisibility == "" {
		o.DefaultVisibility = "private"
	}
	if o.MaxManifestSize <= 0 {
		o.MaxManifestSize = oci.MaxManifestSize
	}
	if o.Collected == nil {
		o.Collected = func(string, int, int64) {}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Clock == nil {
		o.Clock = db.Now
	}
	return &Registry{db: db, store: store, o: o, manifests: newManifestMemory(o.Budget)}
}

// MaxManifestSize is the limit in bytes, for those who read a body before PushManifest.
func (r *Registry) MaxManifestSize() int64 { return r.o.MaxManifestSize }

// view reads in one statement at a time, and snapshot several rows as they were at one moment.
func view[T any](ctx context.Context, r *Registry, read func(*metadata.Tx) (T, error)) (result T, err error) {
	err = r.db.View(ctx, func(tx *metadata.Tx) (err error) {
		result, err = read(tx)
		return err
	})
	return result, err
}

func snapshot[T any](ctx context.Context, r *Registry, read func(*metadata.Tx) (T, error)) (result T, err error) {
	err = r.db.Snapshot(ctx, func(tx *metadata.Tx) (err error) {
		result, err = read(tx)
		return err
	})
	return result, err
}

// fields is the detail of an event about settings that somebody has asked for.
func fields(asked map[string]any) map[string]any {
	if len(asked) == 0 {
		return nil
	}
	return map[string]any{"fields": asked}
}

// detached is for the end of a change that must not be left half done
// because the client went away: it outlives ctx, but not by more than d.
func detached(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), d)
}

// recordTime bounds the statements that record what has happened to bytes.
const recordTime = 15 * time.Second

// storeError is a failure of the store as the client may read it.
func storeError(err error) error {
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	case errors.Is(err, storage.ErrSession):
		return oci.Errorf(oci.CodeBlobUploadInvalid, "the upload cannot be continued, because its bytes were lost or another request wrote to it: start again with a new upload").WithCause(err)
	}
	if storage.Full(err) {
		return oci.Errorf(oci.CodeUnavailable, "the storage of this registry is full: nothing was stored, push again when its operator has made room").WithCause(err)
	}
	return oci.Errorf(oci.CodeUnavailable, "the storage cannot take or give bytes now, try again later").WithCause(err)
}
