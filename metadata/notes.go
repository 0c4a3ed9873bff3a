package metadata

import (
	"context"
	"database/sql"
	"errors"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
)

// A note is a text that one replica leaves for all of them, until it expires:
// how far a check is, what the collector did last. Like a lease it is of the moment and no fact of the
// registry, so it stands among the leases, and no backup has it.

const notePrefix = "note:"

// PutNote replaces the note of a name; it expires after ttl.
func (tx *Tx) PutNote(ctx context.Context, name, text string, ttl time.Duration) error {
	_, err := tx.exec(ctx, `
		INSERT INTO leases (name, holder, expires_at) VALUES ($1, $2, $3)
		ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, expires_at = excluded.expires_at`,
		notePrefix+name, text, micros(tx.now.Add(ttl)))
	return err
}

// Note reads a note. It is "" when nobody wrote one, or when it was removed.
func (tx *Tx) Note(ctx context.Context, name string) (text string, err error) {
	err = tx.row(ctx, `SELECT holder FROM leases WHERE name = $1 AND expires_at > $2`, notePrefix+name, micros(tx.now)).Scan(&text)
	if errors.Is(err, sql.ErrNoRows) {
		err = nil
	}
	return text, err
}

// Notes gives the names of the notes that begin so and are not expired, at most limit, in order.
func (tx *Tx) Notes(ctx context.Context, prefix string, limit int) ([]string, error) {
	return list(ctx, tx, func(rows *sql.Rows) (name string, err error) {
		err = rows.Scan(&name)
		return strings.TrimPrefix(name, notePrefix), err
	}, `SELECT name FROM leases WHERE name >= $1 AND name < $2 AND expires_at > $3 ORDER BY name LIMIT $4`,
		notePrefix+prefix, notePrefix+prefix+"\x7f", micros(tx.now), limit)
}

// DeleteNote takes a note away, if it is there.
func (tx *Tx) DeleteNote(ctx context.Context, name string) error {
	_, err := tx.exec(ctx, `DELETE FROM leases WHERE name = $1`, notePrefix+name)
	return err
}

// A suspect is a blob of which the store has given wrong bytes. It is noted until a check has read
// it again, or until the note expires.
const (
	suspectNotes = "suspect:"
	suspectTTL   = 90 * 24 * time.Hour
)

// NoteSuspect has the next check read a blob, whose object has the key given.
func (tx *Tx) NoteSuspect(ctx context.Context, d digest.Digest, key string) error {
	return tx.PutNote(ctx, suspectNotes+d.String(), key, suspectTTL)
}

// Suspects lists the blobs that are noted so, at most limit, in order of their digests.
func (tx *Tx) Suspects(ctx context.Context, limit int) ([]digest.Digest, error) {
	names, err := tx.Notes(ctx, suspectNotes, limit)
	if err != nil {
		return nil, err
	}
	suspects := make([]digest.Digest, len(names))
	for i, name := range names {
		suspects[i] = digest.Digest(strings.TrimPrefix(name, suspectNotes))
	}
	return suspects, nil
}

// ClearSuspect takes the note about a blob away, if it is there.
func (tx *Tx) ClearSuspect(ctx context.Context, d digest.Digest) error {
	return tx.DeleteNote(ctx, suspectNotes+d.String())
}
