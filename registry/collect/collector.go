// Package collect takes away what a registry no longer needs, and finds out about what it has:
// uploads that nobody goes on with, garbage (gc.go for the rows, garbage.go for what is in the
// store), whether rows and bytes agree (check.go), and what keeps a digest (why.go).
//
// It follows the rule of package registry: the transaction that removes a row decides what becomes
// of its bytes and enqueues them as garbage, and objects go only after that transaction is durable.
// So a crash at any point leaves nothing that no row points to, and nothing is ever deleted that a
// blob's row points to. Pushes and pulls go on meanwhile, and any number of replicas may collect at
// once.
//
// Start with gc.go.
package collect

import (
	"context"
	"log/slog"
	"time"

	"berth/metadata"
	"berth/storage"
)

// DefaultGrace is how long what nothing refers to stays, unless Options say otherwise.
const DefaultGrace = 24 * time.Hour

// Options of a Collector; the zero value works.
type Options struct {
	// UploadTTL is how long an upload lives without progress; 0 means 24 hours.
	UploadTTL time.Duration
	// Grace is how long what nothing refers to stays; 0 means DefaultGrace.
	Grace time.Duration
	// UntaggedTTL is how long a manifest lives that no tag, index or subject
	// holds, where no policy of its repository or team says otherwise; 0 keeps it.
	UntaggedTTL time.Duration
	// UndoWindow is how long a deleted tag or manifest can be restored; 0: only
	// until the collector comes.
	UndoWindow time.Duration
	// ReadTTL is how long a client may use a link to an object at most; a collected
	// blob's object stays so much longer.
	ReadTTL time.Duration
	// Collected hears of what went: manifests, links and blobs (metadata's names for them) and, with
	// their bytes where those are known, objects and sessions of the store. nil for nobody.
	Collected func(kind string, n int, bytes int64)
	// Logger gets what no client can be told; nil discards it.
	Logger *slog.Logger
	// Clock decides which uploads are stale; nil means the database's.
	Clock func() time.Time
}

// Collector works on the database and the store of a registry, and keeps nothing itself: any number
// of Collectors, in any number of processes, work on the same two. Its methods may be called
// concurrently.
type Collector struct {
	db    *metadata.DB
	store storage.Store
	o     Options
}

// New makes a Collector. The database has to be migrated.
func New(db *metadata.DB, store storage.Store, o Options) *Collector {
	if o.UploadTTL <= 0 {
		o.UploadTTL = 24 * time.Hour
	}
	if o.Grace <= 0 {
		o.Grace = DefaultGrace
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
	return &Collector{db: db, store: store, o: o}
}

// recordTime bounds the statements that record what has happened to bytes.
const recordTime = 15 * time.Second

// detached is for the statements that record what has happened: they must not be left out because
// the caller went away.
func detached(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), recordTime)
}
