// Package sqldb is the way to a SQL database on either engine, Postgres or an embedded SQLite file. It
// knows no table and no fact of the registry: package metadata owns those, and is the only one that runs
// statements through it.
//
// A [DB] hands out a [Tx] in five ways: View (single statements, the hot path), Snapshot (several reads
// that agree), Update (one durable transaction), UpdateRelaxed (the same, but a power failure may undo it)
// and StatementRelaxed (one statement of that kind). One SQL text runs on both engines; where they differ,
// a [Dialect] has the words. Every wait has a bound: a statement that is not answered in time ends, its
// connection is replaced, and the error says UNAVAILABLE ([oci.ErrUnavailable]), never anything else.
//
// Start with tx.go. postgres.go, clock.go and snapshot.go are about Postgres; writer.go, journal.go,
// broken.go and the walindex files about SQLite; readcache.go is about both. migrate.go makes the schema from the
// files that it is given, and copyrows.go copies all rows of one database to another by its
// catalog: it knows of tables only what that says, and is told which ones are special.
package sqldb

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"time"

	sqlite "modernc.org/sqlite"
)

// Options says where the database is.
type Options struct {
	// URL is "sqlite:/path/to/file" or "postgres://user:password@host/name".
	URL string
	// MaxConns bounds the connections to Postgres; 0 means 16. UpdateRelaxed has
	// a second pool of the same size.
	MaxConns int
	// ReadCache is how many bytes of what was read are remembered while the database
	// does not change; 0 is none. On SQLite it takes a file descriptor until the process ends.
	ReadCache int
	// MustExist makes no SQLite file, nor its directory: a missing one is ErrNoDatabase.
	MustExist bool
	// Timeout bounds, on Postgres, how long a statement may wait for a connection and for its
	// answer, and how long the server may be silent between two rows; 0 means DefaultTimeout.
	Timeout time.Duration
	// Pooled says that the URL leads to a pooler that gives each transaction another session, such as
	// pgbouncer with pool_mode=transaction: nothing may rest in a session.
	Pooled bool
	// Logger gets what no caller can be told; nil discards it.
	Logger *slog.Logger
	// Clock gives the time of transactions; nil means that of the database, which is this machine's on SQLite.
	Clock func() time.Time
	// Machine is the clock of this machine; nil means time.Now. Tests give one that is off.
	Machine func() time.Time
}

// DB is a database on either engine. Its methods may be called concurrently.
type DB struct {
	dialect engine
	log     *slog.Logger
	clock   func() time.Time

	reads   *sql.DB // on Postgres: durable transactions too
	relaxed *sql.DB // Postgres only: synchronous_commit = off
	stmts   stmtCache
	cache   *readCache // nil without one, and where it is not possible
	closed  atomic.Bool

	// SQLite only.

	writer *writer
	broken atomic.Pointer[brokenError] // set once, when nothing can be made durable any more
	dead   chan struct{}               // closed then

	// Postgres only.

	postgres      *postgres
	durableSetup  string // begins a transaction, see postgres.setup
	relaxedSetup  string
	server        *serverClock
	stopClock     context.CancelFunc
	clockFinished chan struct{}
}

// ErrNoDatabase says that there is no SQLite file where MustExist wants one.
var ErrNoDatabase = errors.New("there is no database")

// Open connects to the database. It does not migrate; see [DB.Migrate]. On SQLite
// the file and its directory are made when they are missing, unless MustExist is set. The caller closes the DB.
func Open(ctx context.Context, o Options) (*DB, error) {
	if o.Machine == nil {
		o.Machine = time.Now
	}
	if o.Timeout <= 0 {
		o.Timeout = DefaultTimeout
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	db := &DB{log: o.Logger, clock: o.Clock, dead: make(chan struct{})}
	if db.clock == nil {
		db.clock = o.Machine
	}
	var err error
	if path, ok := strings.CutPrefix(o.URL, "sqlite:"); ok {
		err = db.openSQLite(ctx, path, o)
	} else if strings.HasPrefix(o.URL, "postgres://") || strings.HasPrefix(o.URL, "postgresql://") {
		err = db.openPostgres(ctx, o)
	} else {
		err = errors.New("the database URL has to start with sqlite: or postgres://")
	}
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return db, nil
}

func (db *DB) openSQLite(ctx context.Context, path string, o Options) error {
	db.dialect = sqliteDialect{}
	if path == "" {
		return errors.New("the database URL sqlite: needs a path behind it")
	}
	if o.MustExist {
		if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%w at %s", ErrNoDatabase, path)
		} else if err != nil {
			return fmt.Errorf("the database: %w", err)
		}
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("making the directory of the database: %w", err)
	}
	// It holds hashes of passwords, and the key that signs tokens. SQLite makes
	// its -wal and -shm files as readable as this one.
	// A file that is there is not opened here: closing it again would take away the
	// locks that another handle of this process has on it.
	if f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600); err == nil {
		err = f.Close()
		if err != nil {
			return fmt.Errorf("making the database: %w", err)
		}
	} else if !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("making the database: %w", err)
	}
	// busy_timeout comes first, so that the pragmas behind it wait too. The
	// cache sizes are in KiB and per connection.
	dsn := func(pragmas ...string) string {
		q := url.Values{}
		for _, p := range append([]string{"busy_timeout(10000)", "journal_mode(WAL)", "foreign_keys(ON)"}, pragmas...) {
			q.Add("_pragma", p)
		}
		return "file:" + (&url.URL{Path: path}).EscapedPath() + "?" + q.Encode()
	}
	// The driver is used through its own type, not by a registered name, for
	// nothing here depends on what else is linked.
	writes := sql.OpenDB(connector{driver: &sqlite.Driver{}, dsn: dsn("synchronous(NORMAL)", "cache_size(-4096)",
		// 16 MiB of log: pages that many commits change are folded into the file once.
		"wal_autocheckpoint(4000)", "journal_size_limit(67108864)")})
	writes.SetMaxOpenConns(1)
	conn, err := writes.Conn(ctx)
	if err != nil {
		return errors.Join(fmt.Errorf("opening the database %s: %w", path, err), writes.Close())
	}
	if err := makeLogDurable(ctx, conn, path, syncData); err != nil {
		return errors.Join(fmt.Errorf("the database %s was not closed cleanly, and its log cannot be made durable: look at the disk: %w", path, err), conn.Close(), writes.Close())
	}
	// Small caches: the kernel has the file too, and 512 KiB measure like 2 MiB.
	// No mmap: a fifth faster, but each reader's map counts as resident memory.
	db.reads = sql.OpenDB(connector{driver: &sqlite.Driver{}, dsn: dsn("query_only(ON)", "cache_size(-512)")})
	db.reads.SetMaxOpenConns(readers())
	db.reads.SetMaxIdleConns(readers())
	db.reads.SetConnMaxIdleTime(time.Minute)
	db.stmts.prepare, db.stmts.direct = db.reads.PrepareContext, db.reads
	if o.ReadCache > 0 {
		states, err := openSQLiteStates(ctx, conn, path)
		if err != nil {
			db.log.Warn("the database is read without a cache, which is slower", "error", err)
		} else {
			db.cache = &readCache{max: o.ReadCache, states: states}
		}
	}
	db.writer = startWriter(db, writes, conn, path)
	return nil
}

// readers is how many connections read an SQLite file at once.
func readers() int { return max(4, 2*runtime.GOMAXPROCS(0)) }

// Rest gives back the memory that is held for the next statements: what is
// remembered of reads, and of SQLite's connections the caches of pages and what is prepared, some
// hundred KiB for each of them. It is for a moment without work; the next
// statements make anew what they need, in about a millisecond.
func (db *DB) Rest(ctx context.Context) error {
	if db.closed.Load() {
		return db.classify(ctx, errClosed)
	}
	if db.cache != nil {
		db.cache.forget()
	}
	if db.writer == nil {
		return nil // a connection costs Postgres more to make than this process to keep
	}
	db.reads.SetMaxIdleConns(-1) // closes those that are idle
	db.reads.SetMaxIdleConns(readers())
	return db.UpdateRelaxed(ctx, func(tx *Tx) error {
		_, err := tx.Exec(ctx, `PRAGMA shrink_memory`)
		return err
	})
}

func (db *DB) openPostgres(ctx context.Context, o Options) error {
	db.dialect = postgresDialect{}
	if o.MaxConns <= 0 {
		o.MaxConns = 16
	}
	var err error
	if db.postgres, err = newPostgres(o); err != nil {
		return err
	}
	states := &snapshots{}
	db.server = &serverClock{local: o.Machine, log: db.log}
	db.postgres.connected = states.connected
	notDurable := map[string]string{"synchronous_commit": "off"}
	db.reads, db.durableSetup = db.postgres.open(o.MaxConns, nil), db.postgres.setup(nil)
	db.relaxed, db.relaxedSetup = db.postgres.open(o.MaxConns, notDurable), db.postgres.setup(notDurable)
	if err := db.Ping(ctx); err != nil {
		return err
	}
	if err := db.server.read(ctx, db.serverTime); err != nil {
		return db.classify(ctx, err)
	}
	if o.Clock == nil {
		db.clock = db.server.now
	}
	clock, stop := context.WithCancel(context.Background())
	db.stopClock, db.clockFinished = stop, make(chan struct{})
	go func() {
		defer close(db.clockFinished)
		db.server.run(clock, db.serverTime)
	}()
	if o.ReadCache > 0 {
		if err := states.ofPostgres(ctx, db.reads); err != nil {
			db.log.Warn("the database is read without a cache, which is slower", "error", err)
		} else {
			db.cache = &readCache{max: o.ReadCache, states: states}
		}
	}
	return nil
}

// serverTime asks Postgres what time it is.
func (db *DB) serverTime(ctx context.Context) (time.Time, error) {
	var us int64
	// By name, so that a schema of somebody cannot stand in for it.
	err := db.reads.QueryRowContext(ctx, `SELECT CAST(extract(epoch FROM pg_catalog.clock_timestamp()) * 1000000 AS BIGINT)`).Scan(&us)
	return time.UnixMicro(us).UTC(), err
}

// Engine is "sqlite" or "postgres".
func (db *DB) Engine() string { return db.dialect.name() }

// Ping reports whether the database answers.
func (db *DB) Ping(ctx context.Context) error {
	return db.View(ctx, func(tx *Tx) error {
		var one int
		return tx.Row(ctx, `SELECT 1`).Scan(&one)
	})
}

// TakesWrites reports whether the database is one that is written to: a Postgres that follows another one, or that
// was set to read-only, answers but takes no writes. Whether there is room for one, only a write tells.
func (db *DB) TakesWrites(ctx context.Context) error {
	if db.writer != nil {
		return db.Dead()
	}
	var readOnly bool
	err := db.View(ctx, func(tx *Tx) error {
		return tx.Row(ctx, `SELECT pg_is_in_recovery() OR current_setting('transaction_read_only')::boolean`).Scan(&readOnly)
	})
	if err == nil && readOnly {
		// A session keeps what it was told when it began: a new one may be told otherwise.
		db.postgres.discard()
		return errReadOnlyDatabase
	}
	return err
}

// Stats gives the state of the connections that serve reads.
func (db *DB) Stats() sql.DBStats { return db.reads.Stats() }

// Close waits for running transactions and closes the connections.
func (db *DB) Close() error {
	if db.closed.Swap(true) {
		return nil
	}
	var err error
	if db.stopClock != nil {
		db.stopClock()
		<-db.clockFinished
	}
	if db.writer != nil {
		db.writer.stop()
	}
	if db.broken.Load() != nil {
		// Closing would fold a log into the file that the disk may not have. The next start reads it again.
		return nil
	}
	db.stmts.closeAll()
	if db.cache != nil {
		err = errors.Join(err, db.cache.close())
	}
	for _, pool := range []*sql.DB{db.reads, db.relaxed} {
		if pool != nil {
			err = errors.Join(err, pool.Close())
		}
	}
	if db.writer != nil {
		// Last, for the last connection folds the log into the file, and
		// readers may not write.
		err = errors.Join(err, db.writer.close())
	}
	return err
}
