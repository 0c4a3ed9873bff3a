// Package audit reads the audit log, writes refusals into it, and deletes its old lines.
//
// A change writes its own line, in the transaction of the change (see metadata.Tx.Record). A
// refusal changes nothing, and an attacker can cause very many of them. So a refusal goes
// through a [Log]: it waits in memory, refusals that repeat become one, rows and bytes have a
// bound, and all are written some seconds later.
package audit

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"berth/metadata"
)

// Options of a Log. The zero value is usable.
type Options struct {
	// Every is how often what has come in is written; the default is 5 seconds.
	Every time.Duration
	// Rows bounds what is written each time; the default is 1000. What does not fit
	// is counted by Dropped alone.
	Rows int
	// RowsPerSource bounds what one source takes of them; the default is 20. What
	// it does beyond is put together in one row.
	RowsPerSource int
	// Retention is how long events are kept; 0 is for ever.
	Retention time.Duration
	// Dropped is told how many events are not in the log; nil tells nobody.
	Dropped func(n int)
	Logger  *slog.Logger
	// Clock is the database's by default.
	Clock func() time.Time
}

// Log collects refusals in memory. Its methods may be called concurrently.
type Log struct {
	db *metadata.DB
	o  Options

	mu      sync.Mutex
	pending map[key]*metadata.Event
	sources map[string]int // rows of each source
}

// key is what has to be equal for events to be one row.
type key struct {
	event                                                         metadata.EventKind
	outcome, principal, kind, source, rule, repository, reference string
}

// New makes a Log; see Run.
func New(db *metadata.DB, o Options) *Log {
	if o.Every <= 0 {
		o.Every = 5 * time.Second
	}
	if o.Rows <= 0 {
		o.Rows = 1000
	}
	if o.RowsPerSource <= 0 {
		o.RowsPerSource = 20
	}
	if o.Dropped == nil {
		o.Dropped = func(int) {}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Clock == nil {
		o.Clock = db.Now
	}
	return &Log{db: db, o: o, pending: map[key]*metadata.Event{}, sources: map[string]int{}}
}

// RuleMany is the rule of a row that stands for different refusals of one source.
const RuleMany = "many"

// Record takes an event, which never waits for the database. source is what counts as
// one client (see auth.Network). Events of a source that differ in nothing but time are
// one row with a count; its other details are those of the first.
func (l *Log) Record(e metadata.Event, source string) {
	if e.At.IsZero() {
		e.At = l.o.Clock()
	}
	e.Count = 1
	rule, _ := e.Detail["rule"].(string)
	k := key{e.Kind, e.Outcome, e.Actor.Name, e.Actor.Kind, source, rule, e.Repository, e.Reference}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.add(k, e, l.o.RowsPerSource) {
		return
	}
	// The last row of a source that is over its share.
	many := metadata.Event{
		At: e.At, Kind: e.Kind, Outcome: e.Outcome, Count: 1,
		Actor:  metadata.Actor{Address: source},
		Detail: map[string]any{"rule": RuleMany},
	}
	if !l.add(key{outcome: e.Outcome, source: source, rule: RuleMany}, many, l.o.RowsPerSource+2) {
		l.o.Dropped(1)
	}
}

// add counts an event in its row, or makes the row when there is room.
func (l *Log) add(k key, e metadata.Event, share int) bool {
	if row := l.pending[k]; row != nil {
		row.Count++
		return true
	}
	if len(l.pending) >= l.o.Rows || l.sources[k.source] >= share {
		return false
	}
	l.pending[k] = &e
	l.sources[k.source]++
	return true
}

// Flush writes what has come in. When that fails, it is counted as dropped: what could
// not be written now would only grow.
func (l *Log) Flush(ctx context.Context) error {
	l.mu.Lock()
	rows := make([]metadata.Event, 0, len(l.pending))
	for _, e := range l.pending {
		rows = append(rows, *e)
	}
	clear(l.pending)
	clear(l.sources)
	l.mu.Unlock()
	if len(rows) == 0 {
		return nil
	}
	err := l.db.UpdateRelaxed(ctx, func(tx *metadata.Tx) error { return tx.Record(ctx, rows...) })
	if err != nil {
		lost := 0
		for _, e := range rows {
			lost += int(e.Count)
		}
		l.o.Dropped(lost)
		return fmt.Errorf("%d refusals are not in the audit log: %w", lost, err)
	}
	return nil
}

// flushTime bounds one write.
const flushTime = 10 * time.Second

// Run writes what comes in until the context ends, and then what is left.
func (l *Log) Run(ctx context.Context) {
	tick := time.NewTicker(l.o.Every)
	defer tick.Stop()
	for {
		ended := false
		select {
		case <-ctx.Done():
			ended = true
		case <-tick.C:
		}
		write, cancel := context.WithTimeout(context.WithoutCancel(ctx), flushTime)
		if err := l.Flush(write); err != nil {
			l.o.Logger.Error("writing the audit log", "error", err)
		}
		cancel()
		if ended {
			return
		}
	}
}

// Events lists events of the audit log, newest first. Refusals of the last seconds may still
// wait in memory, and are not among them. The error is an INVALID for a key of another form.
func (l *Log) Events(ctx context.Context, f metadata.AuditFilter) (events []metadata.AuditEvent, err error) {
	err = l.db.View(ctx, func(tx *metadata.Tx) (err error) {
		events, err = tx.AuditEvents(ctx, f)
		return err
	})
	return events, err
}

// Sizes of one pass of Prune. A batch is one transaction: small, for on SQLite everybody
// who writes waits for it.
const (
	pruneBatch   = 500
	pruneBatches = 20
)

// Prune deletes events that are older than Retention, at most 10,000, and says how
// many. It reads no more than it deletes.
func (l *Log) Prune(ctx context.Context) (int, error) {
	if l.o.Retention <= 0 {
		return 0, nil
	}
	cutoff, from := l.o.Clock().Add(-l.o.Retention), time.UnixMicro(0)
	total := 0
	for range pruneBatches {
		var n int64
		var next time.Time
		var done bool
		err := l.db.UpdateRelaxed(ctx, func(tx *metadata.Tx) (err error) {
			n, next, done, err = tx.PruneAudit(ctx, from, cutoff, pruneBatch)
			return err
		})
		if err != nil {
			return total, fmt.Errorf("pruning the audit log: %w", err)
		}
		total, from = total+int(n), next
		if done {
			break
		}
	}
	return total, nil
}
