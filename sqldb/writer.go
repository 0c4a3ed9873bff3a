package sqldb

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"runtime/debug"
	"sync/atomic"
	"time"
)

// maxBatch bounds how many transactions share one commit.
const maxBatch = 128

// writer is SQLite's one writer. Transactions that wait together are run one
// after the other, each in a savepoint of its own, and committed together.
// Nobody waits for company: a batch is what is there when the previous one is done.
//
// A commit appends to the write-ahead log and does not wait for the disk
// (synchronous = NORMAL). Those who want durability then wait for the journal,
// while the writer goes on: see journal.go.
type writer struct {
	db      *DB
	pool    *sql.DB
	conn    *sql.Conn
	journal *journal
	stmts   stmtCache
	queue   chan *task
	quit    chan struct{}
	done    chan struct{}

	patience time.Duration // diskPatience
}

type task struct {
	ctx     context.Context
	durable bool
	fn      func(*Tx) error
	state   atomic.Int32 // either the writer takes it, or its caller leaves
	err     error
	ready   chan struct{}
}

const (
	taskWaiting   = iota
	taskTaken     // its function runs, or is about to
	taskLeft      // its caller has gone before it was taken
	taskCommitted // and not yet durable: its function has ended
)

// diskPatience is how long a transaction may wait for the ones before it, and then for the disk. A
// disk that hangs takes a call that cannot be ended, and who waits for it is told.
const diskPatience = 30 * time.Second

func startWriter(db *DB, pool *sql.DB, conn *sql.Conn, path string) *writer {
	w := &writer{
		db: db, pool: pool, conn: conn, journal: startJournal(path, syncData, db.breakDown),
		queue: make(chan *task, maxBatch),
		quit:  make(chan struct{}),
		done:  make(chan struct{}),

		patience: diskPatience,
	}
	w.stmts.prepare = conn.PrepareContext
	w.stmts.direct = conn
	go w.loop()
	return w
}

func (w *writer) do(ctx context.Context, durable bool, fn func(*Tx) error) error {
	t := &task{ctx: ctx, durable: durable, fn: fn, ready: make(chan struct{})}
	select {
	case w.queue <- t:
	case <-w.quit:
		return errClosed
	case <-ctx.Done():
		return ctx.Err()
	}
	ended := ctx.Done()
	patience := time.NewTimer(w.patience)
	defer patience.Stop()
	for {
		select {
		case <-t.ready:
			return t.err
		case <-patience.C:
			if t.state.CompareAndSwap(taskWaiting, taskLeft) || t.state.Load() == taskCommitted {
				return fmt.Errorf("%w (%s)", errSilent, w.patience)
			}
			// Its function runs, and uses what the caller has lent it.
			patience.Reset(w.patience)
		case <-ended:
			if t.state.CompareAndSwap(taskWaiting, taskLeft) {
				return ctx.Err()
			}
			// It runs, or is committed already: only the answer tells.
			ended = nil
			continue
		case <-w.done:
			// What the writer has finished, it answered before.
			select {
			case <-t.ready:
				return t.err
			default:
				return errClosed
			}
		}
	}
}

func (w *writer) loop() {
	defer close(w.done)
	defer func() { w.journal.stop() }() // answers what waits for it
	batch := make([]*task, 0, maxBatch)
	for {
		select {
		case t := <-w.queue:
			batch = append(batch[:0], t)
		case <-w.quit:
			return
		}
	gather:
		for len(batch) < maxBatch {
			select {
			case t := <-w.queue:
				batch = append(batch, t)
			default:
				break gather
			}
		}
		w.run(batch)
		var durable []*task
		broken := w.db.Dead()
		for _, t := range batch {
			if broken != nil && t.err == nil {
				t.err = broken
			}
			if t.durable && t.err == nil && t.state.CompareAndSwap(taskTaken, taskCommitted) {
				durable = append(durable, t)
			} else {
				close(t.ready)
			}
		}
		if len(durable) > 0 {
			w.journal.queue <- durable
		}
		clear(batch)
	}
}

// run executes a batch and sets the error of each of its tasks.
func (w *writer) run(batch []*task) {
	ctx := context.Background()
	fail := func(err error) {
		for _, t := range batch {
			if t.err == nil {
				t.err = err
			}
		}
	}
	if err := w.db.Dead(); err != nil {
		fail(err)
		return
	}
	q := preparedPool{&w.stmts}
	if _, err := q.ExecContext(ctx, `BEGIN IMMEDIATE`); err != nil {
		fail(fmt.Errorf("beginning a transaction: %w", err))
		return
	}
	alone := len(batch) == 1
	for _, t := range batch {
		if !t.state.CompareAndSwap(taskWaiting, taskTaken) {
			continue
		}
		if alone {
			t.err = w.call(t.fn, w.db.newTx(q))
			break
		}
		if _, err := q.ExecContext(ctx, `SAVEPOINT one`); err != nil {
			w.abandon(ctx, q)
			fail(fmt.Errorf("setting a savepoint: %w", err))
			return
		}
		if t.err = w.call(t.fn, w.db.newTx(q)); t.err != nil {
			if _, err := q.ExecContext(ctx, `ROLLBACK TO one`); err != nil {
				w.abandon(ctx, q)
				fail(fmt.Errorf("returning to a savepoint: %w", err))
				return
			}
		}
		if _, err := q.ExecContext(ctx, `RELEASE one`); err != nil {
			w.abandon(ctx, q)
			fail(fmt.Errorf("releasing a savepoint: %w", err))
			return
		}
	}
	if alone && batch[0].err != nil {
		w.abandon(ctx, q)
		return
	}
	if _, err := q.ExecContext(ctx, `COMMIT`); err != nil {
		w.abandon(ctx, q)
		fail(fmt.Errorf("committing: %w", err))
	}
}

// abandon ends a transaction that must not be committed. SQLite may have ended
// it by itself, so its error says nothing.
func (w *writer) abandon(ctx context.Context, q preparedPool) {
	if _, err := q.ExecContext(ctx, `ROLLBACK`); err != nil {
		w.db.log.Debug("rolling back", "error", err)
	}
}

// call runs a transaction's function; a panic in it is its caller's, and must
// not end the writer that everybody shares.
func (w *writer) call(fn func(*Tx) error, tx *Tx) (err error) {
	defer func() {
		if p := recover(); p != nil {
			w.db.log.Error("panic in a transaction", "panic", p, "stack", string(debug.Stack()))
			err = fmt.Errorf("panic in a transaction: %v", p)
		}
	}()
	return fn(tx)
}

// migrationConn opens a connection beside the writer's, for Migrate.
func (w *writer) migrationConn(ctx context.Context) (*sql.Conn, error) {
	w.pool.SetMaxOpenConns(2)
	w.pool.SetMaxIdleConns(-1) // closed when it is given back
	return w.pool.Conn(ctx)
}

// stop ends the goroutine, after the batch that it runs.
func (w *writer) stop() {
	close(w.quit)
	<-w.done
}

func (w *writer) close() error {
	w.stmts.closeAll()
	return errors.Join(w.conn.Close(), w.pool.Close())
}
