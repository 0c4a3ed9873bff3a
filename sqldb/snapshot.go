package sqldb

import (
	"context"
	"database/sql"
	"errors"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// snapshots names the states of a Postgres database by the transactions that a statement
// sees: the oldest that runs, the next to come, and which of those in between run. Two statements with
// the same list see the same rows, for that list is all by which Postgres decides
// (https://www.postgresql.org/docs/current/functions-info.html, "pg_snapshot Components"), and a list
// does not come back: its end only grows, and those that run only become fewer until it does.
//
// Numbers of transactions can be given out again when a server goes and some of its last
// commits are lost with it. The name therefore holds when the server was
// started, and how often this process has connected or failed to be answered.
//
// Asking is a round trip, which all share who come while the one before is under
// way: each gets what was asked after it came. While the database changes more often
// than it is asked, asking is of no use, and pauses.
type snapshots struct {
	ask     func(ctx context.Context) (string, error)
	broken  atomic.Uint64 // connections made, and answers that did not come
	mu      sync.Mutex
	running bool
	next    *snapshotQuestion // that is not asked yet, or nil
	last    dbState
	pause   time.Duration // after the last change
	until   time.Time     // of the pause
}

type snapshotQuestion struct {
	answered chan struct{} // closed when the others are set
	state    dbState
	ok       bool
}

// Bounds of asking for a snapshot.
const (
	snapshotTimeout  = 5 * time.Second
	minSnapshotPause = time.Millisecond
	maxSnapshotPause = 64 * time.Millisecond
)

// connected is told of each connection that is made.
func (s *snapshots) connected() { s.broken.Add(1) }

func (s *snapshots) free() bool   { return false }
func (s *snapshots) close() error { return nil } // the pool is another's

func (s *snapshots) state(ctx context.Context) (dbState, bool) {
	s.mu.Lock()
	if s.pause > 0 && time.Now().Before(s.until) {
		s.mu.Unlock()
		return dbState{}, false
	}
	q := s.next
	if q == nil {
		q = &snapshotQuestion{answered: make(chan struct{})}
		s.next = q
	}
	if !s.running {
		s.running = true
		go s.run()
	}
	s.mu.Unlock()
	select {
	case <-q.answered:
		return q.state, q.ok
	case <-ctx.Done():
		return dbState{}, false
	}
}

// run asks until nobody wants to know.
func (s *snapshots) run() {
	for {
		s.mu.Lock()
		q := s.next
		s.next = nil
		s.running = q != nil
		s.mu.Unlock()
		if q == nil {
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), snapshotTimeout)
		text, err := s.ask(ctx)
		cancel()
		if err != nil {
			s.broken.Add(1)
		}
		// Read after the answer, so that a connection that was made to ask is counted.
		q.state, q.ok = dbState{snapshot: text + " " + strconv.FormatUint(s.broken.Load(), 10)}, err == nil
		s.mu.Lock()
		if q.ok && q.state == s.last {
			s.pause = 0
		} else {
			s.pause = min(max(2*s.pause, minSnapshotPause), maxSnapshotPause)
			s.until = time.Now().Add(s.pause)
		}
		s.last = q.state
		s.mu.Unlock()
		close(q.answered)
	}
}

// check makes sure that the server names its states as Postgres does: write makes a
// new one. Others that speak its protocol may not.
func (s *snapshots) check(ctx context.Context, write func(context.Context) error) error {
	before, err := s.ask(ctx)
	if err != nil {
		return err
	}
	if err := write(ctx); err != nil {
		return err
	}
	after, err := s.ask(ctx)
	if err == nil && after == before {
		err = errors.New("a transaction has left no trace in the server's snapshots")
	}
	return err
}

// ofPostgres asks the server of a pool, which was checked before.
func (s *snapshots) ofPostgres(ctx context.Context, pool *sql.DB) error {
	s.ask = func(ctx context.Context) (text string, err error) {
		err = pool.QueryRowContext(ctx, `SELECT pg_current_snapshot()::text || ' ' || extract(epoch FROM pg_postmaster_start_time())`).Scan(&text)
		return text, err
	}
	return s.check(ctx, func(ctx context.Context) error {
		_, err := pool.ExecContext(ctx, `SELECT pg_current_xact_id()`)
		return err
	})
}
