package metadata

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"berth/oci"
)

// Tx is the way to the tables: single statements (View) or a transaction (the
// others). It must not be used after the function that it was given to has
// returned, nor from another goroutine.
type Tx struct {
	db  *DB
	q   querier
	now time.Time

	cache *readCache // nil where nothing is remembered
}

// Now is the one timestamp of the transaction, UTC, in microseconds.
func (tx *Tx) Now() time.Time { return tx.now }

// querier is what runs statements: a pool, a transaction, or a connection
// with prepared statements.
type querier interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

func (db *DB) newTx(q querier) *Tx {
	return &Tx{db: db, q: q, now: db.clock().UTC().Truncate(time.Microsecond)}
}

// View runs reads without a transaction: each statement sees what is committed
// when it runs, and one statement costs one round trip.
func (db *DB) View(ctx context.Context, fn func(*Tx) error) error {
	if db.closed.Load() {
		return db.classify(ctx, errClosed)
	}
	var q querier = db.reads
	if db.writer != nil {
		q = preparedPool{&db.stmts}
	}
	tx := db.newTx(q)
	tx.cache = db.cache
	return db.classify(ctx, fn(tx))
}

// Snapshot runs several reads that all see the same state.
func (db *DB) Snapshot(ctx context.Context, fn func(*Tx) error) error {
	if db.closed.Load() {
		return db.classify(ctx, errClosed)
	}
	opts := &sql.TxOptions{Isolation: sql.LevelRepeatableRead, ReadOnly: true}
	if db.writer != nil {
		opts = nil // any read transaction of SQLite is a snapshot
	}
	t, err := db.reads.BeginTx(ctx, opts)
	if err != nil {
		return db.classify(ctx, err)
	}
	defer t.Rollback()
	return db.classify(ctx, fn(db.newTx(t)))
}

// Update runs one durable transaction: when it returns nil, the change
// survives a power failure. When fn returns an error, all that it did is
// undone. fn may run several times (after a deadlock), so it sets what it gives to its
// caller afresh each time. On SQLite all callers' functions run one after the
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
	return db.attempt(ctx, func() error { return only(db.newTx(db.relaxed)) })
}

// oneStatement panics at the second statement, which would be a transaction of its own.
type oneStatement struct {
	querier
	used bool
}

func (q *oneStatement) use() querier {
	if q.used {
		panic("metadata: a second statement where there may be one")
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

func (db *DB) update(ctx context.Context, durable bool, fn func(*Tx) error) error {
	if db.writer != nil {
		if db.closed.Load() {
			return db.classify(ctx, errClosed)
		}
		return db.classify(ctx, db.writer.do(ctx, durable, fn))
	}
	pool := db.reads
	if !durable {
		pool = db.relaxed
	}
	return db.attempt(ctx, func() error { return db.transact(ctx, pool, fn) })
}

// attempt runs a transaction on Postgres until it does not lose against others.
func (db *DB) attempt(ctx context.Context, transaction func() error) error {
	if db.closed.Load() {
		return db.classify(ctx, errClosed)
	}
	pause := firstPause
	for attempt := 1; ; attempt++ {
		err := transaction()
		if err == nil || attempt == maxAttempts || !db.dialect.isRetryable(err) && !isContended(err) {
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

func (db *DB) transact(ctx context.Context, pool *sql.DB, fn func(*Tx) error) error {
	t, err := pool.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer t.Rollback()
	if err := fn(db.newTx(t)); err != nil {
		return err
	}
	return t.Commit()
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
	if db.dialect.isFull(err) {
		return oci.Errorf(oci.CodeUnavailable, "the disk of this registry's database is full: nothing was changed, try again when its operator has made room").WithCause(err)
	}
	// A deadline that is not the caller's is one of ours, for connecting.
	if db.closed.Load() || errors.Is(err, sql.ErrConnDone) || errors.Is(err, errClosed) || errors.Is(err, context.DeadlineExceeded) || db.dialect.isUnavailable(err) {
		return oci.Errorf(oci.CodeUnavailable, "the database cannot be reached now, try again later").WithCause(err)
	}
	return err
}

func (tx *Tx) exec(ctx context.Context, query string, args ...any) (int64, error) {
	res, err := tx.q.ExecContext(ctx, query, args...)
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
}

func (tx *Tx) row(ctx context.Context, query string, args ...any) *sql.Row {
	return tx.q.QueryRowContext(ctx, query, args...)
}

// each calls scan for every row of a query.
func (tx *Tx) each(ctx context.Context, scan func(*sql.Rows) error, query string, args ...any) error {
	rows, err := tx.q.QueryContext(ctx, query, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for n := 1; rows.Next(); n++ {
		if err := scan(rows); err != nil {
			return err
		}
		if n%1000 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return rows.Err()
}

// list collects the rows of a query.
func list[T any](ctx context.Context, tx *Tx, scan func(*sql.Rows) (T, error), query string, args ...any) ([]T, error) {
	var all []T
	err := tx.each(ctx, func(rows *sql.Rows) error {
		one, err := scan(rows)
		all = append(all, one)
		return err
	}, query, args...)
	return all, err
}

// names reads a query of one row with one text, names put together with commas,
// which are in no name. A page of names costs a fraction of what it costs as rows,
// for each row passes through many layers of the driver.
func (tx *Tx) names(ctx context.Context, query string, args ...any) ([]string, error) {
	var text sql.NullString
	if err := tx.row(ctx, query, args...).Scan(&text); err != nil || text.String == "" {
		return nil, err
	}
	list := strings.Split(text.String, ",")
	if !slices.IsSorted(list) { // the engines aggregate in the order of the subquery, but promise nothing
		slices.Sort(list)
	}
	return list, nil
}

func micros(t time.Time) int64      { return t.UnixMicro() }
func fromMicros(us int64) time.Time { return time.UnixMicro(us).UTC() }
func nullMicros(t *time.Time) any {
	if t == nil {
		return nil
	}
	return micros(*t)
}
func timePtr(us sql.NullInt64) *time.Time {
	if !us.Valid {
		return nil
	}
	t := fromMicros(us.Int64)
	return &t
}

// SQLite ----------------------------------------------------------------------

// stmtCache keeps one prepared statement per text; the texts are constants of
// this package and lists padded to powers of two, so their number is bounded.
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
