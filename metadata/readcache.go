package metadata

import (
	"context"
	"database/sql"
	"encoding/binary"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
)

// readCache remembers what single statements have found in SQLite, for exactly as
// long as the database is as it was. Losing it changes nothing but speed.
//
// It rests on the rule by which SQLite keeps its own cache of pages: the header of
// the wal-index, which all processes that use the database share, changes with each
// commit before that commit returns, and two reads that begin under the same header
// see the same state (https://sqlite.org/walformat.html, "The WAL-Index Header"). So an answer that was found
// while the header did not change is what the statement would find now, as long as the
// header is the same, whoever writes, also another process.
//
// It knows nothing of time: statements that compare with the clock get it as an
// argument, and arguments are part of what is asked.
type readCache struct {
	max int // bytes of all answers together

	mu      sync.RWMutex
	index   *walIndex // nil when closed
	at      walHeader // under which all answers were found
	answers map[question]any
	bytes   int

	hits atomic.Int64
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

// openReadCache makes the cache of a database. The connection stays open for as long as
// the cache is used, so that nobody can take the wal-index away.
func openReadCache(ctx context.Context, conn *sql.Conn, path string, max int) (*readCache, error) {
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
	index, err := openWALIndex(path)
	if err != nil {
		return nil, err
	}
	return &readCache{max: max, index: index}, nil
}

// find gives the answer, and the header to put one under when it has none.
func (c *readCache) find(query string, args []byte) (answer any, ok bool, at walHeader, readable bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if at, readable = c.index.header(); readable && at == c.at {
		if answer, ok = c.answers[question{query, string(args)}]; ok {
			c.hits.Add(1)
		}
	}
	return answer, ok, at, readable
}

// put keeps an answer that was found after the header was read, unless the database
// has changed since.
func (c *readCache) put(at walHeader, q question, answer any, bytes int) {
	bytes += len(q.query) + len(q.args) + answerCost
	if bytes > c.max/answerShare {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if now, readable := c.index.header(); !readable || now != at {
		return
	}
	// All answers are of one state, so a new state forgets them all. So does a full
	// cache: what is asked often is back soon.
	if c.at != at || c.bytes+bytes > c.max || len(c.answers) >= maxAnswers {
		c.at, c.answers, c.bytes = at, map[question]any{}, 0
	}
	c.answers[q] = answer
	c.bytes += bytes
}

func (c *readCache) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at, c.answers, c.bytes = walHeader{}, nil, 0
}

func (c *readCache) close() error {
	c.forget()
	c.mu.Lock()
	defer c.mu.Unlock()
	index := c.index
	c.index = nil
	return index.close()
}

// remember answers a statement from the cache, or by find, which runs it and says how
// many bytes the answer takes. An answer is everybody's: nobody may change it. An
// error is not remembered.
func remember[T any](tx *Tx, find func(query string, args []any) (T, int, error), query string, args ...any) (T, error) {
	var room [256]byte
	asked, ok := room[:0], tx.cache != nil
	if ok {
		asked, ok = appendArgs(asked, args)
	}
	if !ok {
		answer, _, err := find(query, args)
		return answer, err
	}
	known, hit, at, readable := tx.cache.find(query, asked)
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

// rememberNames is remember for names, which see.
func (tx *Tx) rememberNames(ctx context.Context, query string, args ...any) ([]string, error) {
	return remember(tx, func(query string, args []any) ([]string, int, error) {
		found, err := tx.names(ctx, query, args...)
		return found, sizeOf(found), err
	}, query, args...)
}

// sizeOf is about what a list takes in memory.
func sizeOf(list []string) int {
	n := 0
	for _, s := range list {
		n += 16 + len(s)
	}
	return n
}
