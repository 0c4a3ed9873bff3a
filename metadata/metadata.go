// Package metadata owns every fact of the registry: names, tags, links,
// sessions, people and their rights. All SQL of the project is here; it runs on Postgres and
// on an embedded SQLite file from one text, with the differences in dialect.go.
//
// A DB hands out a Tx in four ways: View (single statements, the hot path),
// Snapshot (several reads that agree), Update (one durable transaction) and
// UpdateRelaxed (the same, but a power failure may undo it). The methods of Tx stand in one file per
// subject. Start with tx.go, then tags.go, where the database decides who wins.
package metadata

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

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	sqlite "modernc.org/sqlite"

	"berth/migrations"
	"berth/oci"
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
	// Logger gets what no caller can be told; nil discards it.
	Logger *slog.Logger
	// Clock gives the time of transactions; nil means time.Now.
	Clock func() time.Time
}

// DB is a database on either engine. Its methods may be called concurrently.
type DB struct {
	dialect dialect
	log     *slog.Logger
	clock   func() time.Time

	reads   *sql.DB // on Postgres: durable transactions too
	relaxed *sql.DB // Postgres only: synchronous_commit = off
	stmts   stmtCache
	pools   []*pgxpool.Pool
	writer  *writer    // SQLite only
	cache   *readCache // nil without one, and where it is not possible
	files   fs.FS      // the migrations of this engine
	closed  atomic.Bool
}

// ErrNoDatabase says that there is no SQLite file where MustExist wants one.
var ErrNoDatabase = errors.New("there is no database")

// Open connects to the database. It does not migrate; see Migrate. On SQLite
// the file and its directory are made when they are missing, unless MustExist is set.
func Open(ctx context.Context, o Options) (*DB, error) {
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	db := &DB{log: o.Logger, clock: o.Clock}
	var err error
	if path, ok := strings.CutPrefix(o.URL, "sqlite:"); ok {
		if db.files, err = fs.Sub(migrations.SQLite, "sqlite"); err == nil {
			err = db.openSQLite(ctx, path, o)
		}
	} else if strings.HasPrefix(o.URL, "postgres://") || strings.HasPrefix(o.URL, "postgresql://") {
		if db.files, err = fs.Sub(migrations.Postgres, "postgres"); err == nil {
			err = db.openPostgres(ctx, o)
		}
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
		_, err := tx.exec(ctx, `PRAGMA shrink_memory`)
		return err
	})
}

func (db *DB) openPostgres(ctx context.Context, o Options) error {
	db.dialect = postgresDialect{}
	if o.MaxConns <= 0 {
		o.MaxConns = 16
	}
	var states snapshots
	open := func(params map[string]string) (*sql.DB, error) {
		config, err := pgxpool.ParseConfig(o.URL)
		if err != nil {
			return nil, errors.New("the database URL is not valid: it has to look like postgres://user:password@host:5432/name") // pgx's text may hold the password
		}
		config.MaxConns = int32(o.MaxConns)
		config.ConnConfig.ConnectTimeout = 5 * time.Second
		config.ConnConfig.RuntimeParams["application_name"] = "berth"
		if config.ConnConfig.RuntimeParams["statement_timeout"] == "" {
			config.ConnConfig.RuntimeParams["statement_timeout"] = "60s"
		}
		// A client that dies inside of a transaction must not hold its locks.
		config.ConnConfig.RuntimeParams["idle_in_transaction_session_timeout"] = "60s"
		for k, v := range params {
			config.ConnConfig.RuntimeParams[k] = v
		}
		config.AfterConnect = states.connected
		pool, err := pgxpool.NewWithConfig(ctx, config)
		if err != nil {
			return nil, err
		}
		db.pools = append(db.pools, pool)
		return stdlib.OpenDBFromPool(pool), nil
	}
	var err error
	if db.reads, err = open(nil); err != nil {
		return err
	}
	if db.relaxed, err = open(map[string]string{"synchronous_commit": "off"}); err != nil {
		return err
	}
	if err := db.Ping(ctx); err != nil {
		return err
	}
	if o.ReadCache > 0 {
		if err := states.ofPostgres(ctx, db.pools[0]); err != nil {
			db.log.Warn("the database is read without a cache, which is slower", "error", err)
		} else {
			db.cache = &readCache{max: o.ReadCache, states: &states}
		}
	}
	return nil
}

// Engine is "sqlite" or "postgres".
func (db *DB) Engine() string { return db.dialect.name() }

// Ping reports whether the database answers.
func (db *DB) Ping(ctx context.Context) error {
	var one int
	err := db.reads.QueryRowContext(ctx, `SELECT 1`).Scan(&one)
	if db.closed.Load() {
		err = errClosed
	}
	return db.classify(ctx, err)
}

// Stats gives the state of the connections that serve reads.
func (db *DB) Stats() sql.DBStats {
	if len(db.pools) > 0 {
		s := db.pools[0].Stat()
		return sql.DBStats{
			MaxOpenConnections: int(s.MaxConns()),
			OpenConnections:    int(s.TotalConns()),
			InUse:              int(s.AcquiredConns()),
			Idle:               int(s.IdleConns()),
			WaitCount:          s.EmptyAcquireCount(),
			WaitDuration:       s.AcquireDuration(),
		}
	}
	return db.reads.Stats()
}

// Close waits for running transactions and closes the connections.
func (db *DB) Close() error {
	if db.closed.Swap(true) {
		return nil
	}
	var err error
	if db.writer != nil {
		db.writer.stop()
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
	for _, pool := range db.pools {
		pool.Close()
	}
	return err
}

// notFound turns "no rows" into the error given and leaves others alone.
func notFound(err error, instead *oci.Error) error {
	if errors.Is(err, sql.ErrNoRows) {
		return instead
	}
	return err
}
