package metadata

import (
	"context"
	"database/sql"
	"time"
)

// The kinds of garbage: an object's key, or a store's session.
const (
	GarbageObject  = "object"
	GarbageSession = "session"
)

// SessionGrace is how long an aborted session is remembered, to abort it
// again: a request that was writing to it, or committing it, when its row
// went may have brought something back. Longer than such a request lives.
const SessionGrace = time.Hour

// Garbage is something in the store that nothing points to any more.
type Garbage struct {
	ID    int64
	Kind  string
	Value string
	Size  int64 // of a collected blob's object, bytes; 0 where it is not known
}

// EnqueueGarbage notes an object or a session for removal, from a time on. It
// belongs into the transaction that removes what pointed to it.
func (tx *Tx) EnqueueGarbage(ctx context.Context, kind, value string, notBefore time.Time) error {
	_, err := tx.exec(ctx, `INSERT INTO garbage (kind, value, enqueued_at, not_before) VALUES ($1, $2, $3, $4)`,
		kind, value, micros(tx.now), micros(notBefore))
	return err
}

// DueGarbage lists what may be removed now, longest due first. While somebody
// has a Hold, objects are not listed: a snapshot may still refer to them. What was listed before the hold
// began had lost its row by then, so no later snapshot refers to that.
func (tx *Tx) DueGarbage(ctx context.Context, limit int) ([]Garbage, error) {
	return list(ctx, tx, func(rows *sql.Rows) (g Garbage, err error) {
		return g, rows.Scan(&g.ID, &g.Kind, &g.Value, &g.Size)
	}, `
		SELECT id, kind, value, size FROM garbage
		 WHERE not_before <= $1
		   AND (kind = 'session' OR NOT EXISTS (SELECT 1 FROM leases WHERE name >= 'hold:' AND name < 'hold;' AND expires_at > $1))
		 ORDER BY not_before, id LIMIT $2`, micros(tx.now), limit)
}

// RemoveGarbage forgets a note, after the store has removed the thing.
func (tx *Tx) RemoveGarbage(ctx context.Context, id int64) error {
	_, err := tx.exec(ctx, `DELETE FROM garbage WHERE id = $1`, id)
	return err
}

// PostponeGarbage puts a note off, when the store could not remove the thing.
func (tx *Tx) PostponeGarbage(ctx context.Context, id int64, until time.Time) error {
	_, err := tx.exec(ctx, `UPDATE garbage SET not_before = $2 WHERE id = $1`, id, micros(until))
	return err
}
