package sqldb

import (
	"context"
	"database/sql"
	"encoding/binary"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
)

// readCache remembers what single statements have found, for exactly as long as the
// database is as it was. Losing it changes nothing but speed.
//
// It rests on something that names the state of the database: two reads under the same name
// see the same, and a name that is gone does not come back. On SQLite that is the header
// of the wal-index (walindex_linux.go), on Postgres the transactions that a statement sees
// (snapshot.go). An answer is put under a name that was read before the statement ran,
// and counts when the same name is read after somebody asked again. Nothing was committed in
// between, by nobody, so it is what the statement would find now.
//
// It knows nothing of time: statements that compare with the clock get it as an
// argument, and arguments are part of what is asked.
type readCache struct {
	max    int // bytes of all answers together
	states stateReader

	mu      sync.RWMutex
	at      dbState // under which all answers are; zero is none
	answers map[question]any
	bytes   int

	hits atomic.Int64
}

// dbState names a state of the database.
type dbState struct {
	header   walHeader // SQLite
	snapshot string    // Postgres
}

// stateReader reads the state of a database.
type stateReader interface {
	// state gives the state at some moment after it was called, or reports that it is
	// not to be had now.
	state(ctx context.Context) (dbState, bool)
	// free reports whether state costs next to nothing.
	free() bool
	close() error
}

// question is a statement with its arguments.
type question struct{ query, args string }

// Bounds of the cache, beside its bytes.
const (
	// maxAnswers bounds how many there are; answerCost is about what each takes beside its bytes.
	maxAnswers = 20_000
	answerCost = 200
	// An answer that takes more than this part of the whole is not kept.
	answerShare = 16
)

// openSQLiteStates reads the states of a database. The connection stays open for as long as
// they are read, so that nobody can take the wal-index away.
func openSQLiteStates(ctx context.Context, conn *sql.Conn, path string) (*walIndex, error) {
	var mode string
	if err := conn.QueryRowContext(ctx, `PRAGMA journal_mode`).Scan(&mode); err != nil {
		return nil, err
	}
	if mode != "wal" {
		return nil, fmt.Errorf("its journal_mode is %s, where wal was asked for", mode)
	}
	// The first read makes the wal-index.
	var tables int
	if err := conn.QueryRowContext(ctx, `SELECT COUNT(*) FROM sqlite_schema`).Scan(&tables); err != nil {
		return nil, err
	}
	path, err := filepath.EvalSymlinks(path) // as SQLite does, to name the files beside it
	if err != nil {
		return nil, err
	}
	return openWALIndex(path)
}

// find gives the answer, and the state to put one under when it has none.
func (c *readCache) find(ctx context.Context, query string, args []byte) (answer any, ok bool, at dbState, readable bool) {
	if !c.states.free() {
		c.mu.RLock()
		_, known := c.answers[question{query, string(args)}]
		at = c.at
		c.mu.RUnlock()
		// The last state that was read does for an answer to come, however old: it counts
		// only if it still holds when the answer is asked for.
		if !known && at != (dbState{}) {
			return nil, false, at, true
		}
	}
	at, readable = c.states.state(ctx)
	if !readable {
		return nil, false, at, false
	}
	c.mu.RLock()
	same := c.at == at
	if same {
		answer, ok = c.answers[question{query, string(args)}]
	}
	c.mu.RUnlock()
	if ok {
		c.hits.Add(1)
	}
	if !same {
		c.begin(at)
	}
	return answer, ok, at, true
}

// begin forgets what was found under another state.
func (c *readCache) begin(at dbState) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.at != at {
		c.at, c.answers, c.bytes = at, map[question]any{}, 0
	}
}

// put keeps an answer that was found after the state was read, unless another one
// has been read since.
func (c *readCache) put(at dbState, q question, answer any, bytes int) {
	bytes += len(q.query) + len(q.args) + answerCost
	if bytes > c.max/answerShare {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.at != at {
		return
	}
	// A full cache forgets all: what is asked often is back soon.
	if c.bytes+bytes > c.max || len(c.answers) >= maxAnswers {
		c.answers, c.bytes = map[question]any{}, 0
	}
	c.answers[q] = answer
	c.bytes += bytes
}

// Remembers reports whether Remember may answer from memory.
func (tx *Tx) Remembers() bool { return tx.cache != nil }

// CacheStats is how the read cache does.
type CacheStats struct {
	Hits  int64 // reads that were answered from memory
	Bytes int   // that it holds
}

// CacheStats gives the state of the read cache; zeros where there is none.
func (db *DB) CacheStats() CacheStats {
	if db.cache == nil {
		return CacheStats{}
	}
	db.cache.mu.RLock()
	defer db.cache.mu.RUnlock()
	return CacheStats{Hits: db.cache.hits.Load(), Bytes: db.cache.bytes}
}

func (c *readCache) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at, c.answers, c.bytes = dbState{}, nil, 0
}

func (c *readCache) close() error {
	c.forget()
	return c.states.close()
}

// Remember answers a statement from the read cache, or by find, which runs it and says how
// many bytes the answer takes. An answer is everybody's: nobody may change it. An
// error is not remembered. Only a View remembers, and only for arguments that are text or whole numbers (string, int64,
// int); all others run find each time. The query with its arguments is the key, so T is the same for
// each use of a query.
func Remember[T any](ctx context.Context, tx *Tx, find func(query string, args []any) (T, int, error), query string, args ...any) (T, error) {
	var room [256]byte
	asked, ok := room[:0], tx.cache != nil
	if ok {
		asked, ok = appendArgs(asked, args)
	}
	if !ok {
		answer, _, err := find(query, args)
		return answer, err
	}
	known, hit, at, readable := tx.cache.find(ctx, query, asked)
	if hit {
		return known.(T), nil
	}
	answer, bytes, err := find(query, args)
	if err == nil && readable {
		tx.cache.put(at, question{query, string(asked)}, answer, bytes)
	}
	return answer, err
}

// appendArgs writes the arguments of a statement so that different ones differ. It
// reports false for a type that it does not know.
func appendArgs(b []byte, args []any) ([]byte, bool) {
	for _, arg := range args {
		switch v := arg.(type) {
		case string:
			b = append(binary.AppendUvarint(append(b, 's'), uint64(len(v))), v...)
		case int64:
			b = binary.BigEndian.AppendUint64(append(b, 'i'), uint64(v))
		case int:
			b = binary.BigEndian.AppendUint64(append(b, 'i'), uint64(v))
		default:
			return nil, false
		}
	}
	return b, true
}
