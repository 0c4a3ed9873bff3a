package sqldb

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"berth/oci"
)

// Tx runs statements, single ones (View) or those of a transaction (the others). It must not be
// used after the function that it was given to has returned, nor from another goroutine.
//
// Statements take their arguments as $1, $2 ... on both engines. On a View on Postgres a read whose connection
// turns out to be dead is made again on a new one, once.
type Tx struct {
	db  *DB
	q   querier
	now time.Time

	cache *readCache // nil where nothing is remembered
	// Postgres only: how long a statement may be waited for, and whether each is a transaction of its own that only reads.
	bound  time.Duration
	single bool
}

// Now is the one timestamp of the transaction, UTC, in microseconds.
func (tx *Tx) Now() time.Time { return tx.now }

// Dialect has the words for what differs between the engines.
func (tx *Tx) Dialect() Dialect { return tx.db.dialect }

// Engine is "sqlite" or "postgres".
func (tx *Tx) Engine() string { return tx.db.Engine() }

// querier is what runs statements: a pool, a transaction, or a connection
// with prepared statements.
type querier interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

func (db *DB) newTx(q querier) *Tx {
	tx := &Tx{db: db, q: q, now: db.clock().UTC().Truncate(time.Microsecond)}
	if db.postgres != nil {
		tx.bound = db.postgres.timeout
	}
	return tx
}

// unusable is why nothing can be asked of the database any more.
func (db *DB) unusable() error {
	if db.closed.Load() {
		return errClosed
	}
	return db.Dead()
}

// View runs reads without a transaction: each statement sees what is committed
// when it runs, and one statement costs one round trip.
func (db *DB) View(ctx context.Context, fn func(*Tx) error) error {
	if err := db.unusable(); err != nil {
		return db.classify(ctx, err)
	}
	var q querier = db.reads
	if db.writer != nil {
		q = preparedPool{&db.stmts}
	}
	tx := db.newTx(q)
	tx.cache, tx.single = db.cache, db.postgres != nil
	err := fn(tx)
	if broken := db.Dead(); broken != nil {
		err = broken // what was read may have been of a commit that is not durable
	}
	return db.classify(ctx, err)
}

// Snapshot runs several reads that all see the same state.
func (db *DB) Snapshot(ctx context.Context, fn func(*Tx) error) error {
	if err := db.unusable(); err != nil {
		return db.classify(ctx, err)
	}
	if db.postgres != nil {
		opts := &sql.TxOptions{Isolation: sql.LevelRepeatableRead, ReadOnly: true}
		return db.attempt(ctx, func() (bool, error) {
			began := false
			_, err := db.transact(ctx, db.reads, opts, db.durableSetup, func(tx *Tx) error { began = true; return fn(tx) })
			return began, err // fn may have handed on what it read
		})
	}
	t, err := db.reads.BeginTx(ctx, nil) // any read transaction of SQLite is a snapshot
	if err != nil {
		return db.classify(ctx, err)
	}
	defer t.Rollback()
	err = fn(db.newTx(t))
	if broken := db.Dead(); broken != nil {
		err = broken
	}
	return db.classify(ctx, err)
}

// Update runs one durable transaction: when it returns nil, the change
// survives a power failure. When fn returns an error, all that it did is
// undone. fn may run several times (after a deadlock, or when its connection broke before the commit), so it
// sets what it gives to its caller afresh each time. On SQLite all callers' functions run one after the
// other on one goroutine: fn has to be short, and must not call a store, the
// network, or Update again. There ctx is looked at before each statement, but
// interrupts none, for that would undo the work of others.
func (db *DB) Update(ctx context.Context, fn func(*Tx) error) error {
	return db.update(ctx, true, fn)
}

// UpdateRelaxed is Update for facts that may be lost in a power failure, such
// as the progress of an upload: it does not wait for the disk.
func (db *DB) UpdateRelaxed(ctx context.Context, fn func(*Tx) error) error {
	return db.update(ctx, false, fn)
}

// StatementRelaxed is UpdateRelaxed for a function that runs one statement at most, which
// Postgres makes a transaction of by itself: one round trip instead of three.
func (db *DB) StatementRelaxed(ctx context.Context, fn func(*Tx) error) error {
	only := func(tx *Tx) error {
		tx.q = &oneStatement{querier: tx.q}
		return fn(tx)
	}
	if db.writer != nil {
		return db.UpdateRelaxed(ctx, only)
	}
	return db.attempt(ctx, func() (bool, error) { return true, only(db.newTx(db.relaxed)) })
}

// oneStatement panics at the second statement, which would be a transaction of its own.
type oneStatement struct {
	querier
	used bool
}

func (q *oneStatement) use() querier {
	if q.used {
		panic("sqldb: a second statement where there may be one")
	}
	q.used = true
	return q.querier
}

func (q *oneStatement) ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error) {
	return q.use().ExecContext(ctx, query, args...)
}

func (q *oneStatement) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	return q.use().QueryContext(ctx, query, args...)
}

func (q *oneStatement) QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row {
	return q.use().QueryRowContext(ctx, query, args...)
}

// Attempts and pauses of a transaction that lost against others.
const (
	maxAttempts = 8
	firstPause  = 2 * time.Millisecond
)

// ErrAgain, in the error of a transaction's function, asks for another run of it on Postgres, where what it saw
// may be out of date by a lock that it got since. After some runs the caller gets the error.
var ErrAgain = errors.New("the transaction has to be run again")

func (db *DB) update(ctx context.Context, durable bool, fn func(*Tx) error) error {
	if db.writer != nil {
		if err := db.unusable(); err != nil {
			return db.classify(ctx, err)
		}
		return db.classify(ctx, db.writer.do(ctx, durable, fn))
	}
	pool, setup := db.reads, db.durableSetup
	if !durable {
		pool, setup = db.relaxed, db.relaxedSetup
	}
	return db.attempt(ctx, func() (bool, error) { return db.transact(ctx, pool, nil, setup, fn) })
}

// attempt runs a transaction on Postgres until it does not lose against others, and once more on a new connection
// when its connection broke. transaction also reports whether it may have been done in spite of its error.
func (db *DB) attempt(ctx context.Context, transaction func() (unsure bool, err error)) error {
	if err := db.unusable(); err != nil {
		return db.classify(ctx, err)
	}
	pause, again := firstPause, true
	for attempt := 1; ; attempt++ {
		unsure, err := transaction()
		if err == nil {
			return nil
		}
		if db.postgres.failed(ctx, err) && again && (!unsure || pgCode(err) != "") {
			again = false // the server says itself that it did not do it, or was not told to
			continue
		}
		if attempt == maxAttempts || !db.dialect.isRetryable(err) && !errors.Is(err, ErrAgain) {
			return db.classify(ctx, err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause/2 + rand.N(pause)):
			pause *= 2
		}
	}
}

// transact runs one transaction on Postgres, and reports whether the commit was sent.
func (db *DB) transact(ctx context.Context, pool *sql.DB, opts *sql.TxOptions, setup string, fn func(*Tx) error) (sent bool, err error) {
	// The context of Begin is that of Commit and Rollback.
	w := newWatch(ctx, db.postgres.timeout)
	defer func() { err = w.end(err) }()
	t, err := pool.BeginTx(w.ctx, opts)
	if err != nil {
		return false, err
	}
	defer func() {
		w.resume()
		_ = t.Rollback() // after a commit it does nothing
	}()
	if setup != "" {
		if _, err := t.ExecContext(w.ctx, setup); err != nil {
			return false, err
		}
	}
	w.pause()
	if err := fn(db.newTx(t)); err != nil {
		return false, err
	}
	w.resume()
	return true, t.Commit()
}

// classify makes trouble with the connection recognisable as UNAVAILABLE, what
// the caller's context ended as the context's error, and leaves every other error as it is.
func (db *DB) classify(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	var known *oci.Error
	if errors.As(err, &known) {
		return err
	}
	if ended := ctx.Err(); ended != nil {
		if errors.Is(err, ended) {
			return err
		}
		return fmt.Errorf("%w: %w", ended, err)
	}
	var broken *brokenError
	if errors.As(err, &broken) {
		return oci.Errorf(oci.CodeUnavailable, "the disk of this registry's database has failed, this server ends and starts anew: ask again").WithCause(err)
	}
	if advice := db.dialect.advice(err); advice != "" {
		return oci.Errorf(oci.CodeUnavailable, "%s", advice).WithCause(err)
	}
	if db.dialect.isFull(err) {
		return oci.Errorf(oci.CodeUnavailable, "the disk of this registry's database is full: nothing was changed, try again when its operator has made room").WithCause(err)
	}
	// A deadline that is not the caller's is one of ours.
	if db.closed.Load() || errors.Is(err, errSilent) || errors.Is(err, sql.ErrConnDone) || errors.Is(err, errClosed) || errors.Is(err, context.DeadlineExceeded) || db.dialect.isUnavailable(err) {
		return oci.Errorf(oci.CodeUnavailable, "the database cannot be reached now, try again later").WithCause(err)
	}
	return err
}

// Exec runs a statement and gives the number of rows that it changed.
func (tx *Tx) Exec(ctx context.Context, query string, args ...any) (n int64, err error) {
	run := func(ctx context.Context) error {
		res, err := tx.q.ExecContext(ctx, query, args...)
		if err == nil {
			n, err = res.RowsAffected()
		}
		return err
	}
	if tx.bound == 0 {
		return n, run(ctx)
	}
	w := newWatch(ctx, tx.bound)
	return n, w.end(run(w.ctx))
}

// Row is a query of one row, which Scan runs.
type Row struct {
	ctx   context.Context
	tx    *Tx
	query string
	args  []any
}

// Row makes a query of which the first row is wanted. Nothing is asked before Scan.
func (tx *Tx) Row(ctx context.Context, query string, args ...any) Row {
	return Row{ctx, tx, query, args}
}

// Scan runs the query and is [sql.Row.Scan]: it returns [sql.ErrNoRows] when there is no row.
func (r Row) Scan(dest ...any) error {
	if r.tx.bound == 0 {
		return r.tx.q.QueryRowContext(r.ctx, r.query, r.args...).Scan(dest...)
	}
	for again := r.tx.single; ; again = false {
		w := newWatch(r.ctx, r.tx.bound)
		err := w.end(r.tx.q.QueryRowContext(w.ctx, r.query, r.args...).Scan(dest...))
		if err == nil || !r.tx.single || !r.tx.db.postgres.failed(r.ctx, err) || !again {
			return err
		}
	}
}

// Each calls scan for every row of a query, and ends with the first error of it. The time that scan
// takes is its own: the bound of the statement is for the database's answers.
func (tx *Tx) Each(ctx context.Context, scan func(*sql.Rows) error, query string, args ...any) error {
	if tx.bound == 0 {
		_, err := tx.rows(ctx, nil, scan, query, args)
		return err
	}
	for again := tx.single; ; again = false {
		w := newWatch(ctx, tx.bound)
		n, err := tx.rows(w.ctx, w, scan, query, args)
		err = w.end(err)
		if err == nil || !tx.single || !tx.db.postgres.failed(ctx, err) || !again || n > 0 {
			return err
		}
	}
}

// rows gives the number of rows that scan got. The time that scan takes is not the database's.
func (tx *Tx) rows(ctx context.Context, w *watch, scan func(*sql.Rows) error, query string, args []any) (n int, err error) {
	rows, err := tx.q.QueryContext(ctx, query, args...)
	if err != nil {
		return 0, err
	}
	defer rows.Close()
	for rows.Next() {
		if w != nil {
			w.pause()
		}
		n++
		if err := scan(rows); err != nil {
			return n, err
		}
		if n%1000 == 0 && ctx.Err() != nil {
			return n, ctx.Err()
		}
		if w != nil {
			w.resume()
		}
	}
	return n, rows.Err()
}

// List collects the rows of a query, in their order; nil when there are none.
func List[T any](ctx context.Context, tx *Tx, scan func(*sql.Rows) (T, error), query string, args ...any) ([]T, error) {
	var all []T
	err := tx.Each(ctx, func(rows *sql.Rows) error {
		one, err := scan(rows)
		all = append(all, one)
		return err
	}, query, args...)
	return all, err
}

// SQLite ----------------------------------------------------------------------

// stmtCache keeps one prepared statement per text; the texts are constants of
// the program and lists padded to powers of two, so their number is bounded.
type stmtCache struct {
	prepare func(context.Context, string) (*sql.Stmt, error)
	direct  querier  // what prepare belongs to
	all     sync.Map // text -> *sql.Stmt
}

func (c *stmtCache) get(ctx context.Context, query string) (*sql.Stmt, error) {
	if s, ok := c.all.Load(query); ok {
		return s.(*sql.Stmt), nil
	}
	s, err := c.prepare(ctx, query)
	if err != nil {
		return nil, err
	}
	if other, taken := c.all.LoadOrStore(query, s); taken {
		s.Close()
		return other.(*sql.Stmt), nil
	}
	return s, nil
}

func (c *stmtCache) closeAll() {
	c.all.Range(func(k, s any) bool {
		s.(*sql.Stmt).Close()
		c.all.Delete(k)
		return true
	})
}

// preparedPool runs statements of a stmtCache. SQLite answers from local pages
// within microseconds and waits at most busy_timeout, so statements do not
// carry the caller's context, which would cost the driver a goroutine each.
type preparedPool struct{ stmts *stmtCache }

func (p preparedPool) ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s, err := p.stmts.get(context.Background(), query)
	if err != nil {
		return nil, err
	}
	return s.ExecContext(context.Background(), args...)
}

func (p preparedPool) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s, err := p.stmts.get(context.Background(), query)
	if err != nil {
		return nil, err
	}
	return s.QueryContext(context.Background(), args...)
}

func (p preparedPool) QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row {
	s, err := p.stmts.get(context.Background(), query)
	if err != nil || ctx.Err() != nil {
		// There is no way to make a Row with an error; the pool's own call fails alike.
		return p.stmts.direct.QueryRowContext(ctx, query, args...)
	}
	return s.QueryRowContext(context.Background(), args...)
}

var errClosed = errors.New("the database is closed")
