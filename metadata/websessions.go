package metadata

import (
	"context"
	"time"

	"berth/oci"
)

// CreateWebSession notes that a user is signed in with a browser until expires,
// under the SHA-256 of the session's secret (lower-case hex). Sessions that have ended
// are removed on the way.
func (tx *Tx) CreateWebSession(ctx context.Context, userID int64, secretHash string, expires time.Time) error {
	if _, err := tx.exec(ctx, `DELETE FROM web_sessions WHERE expires_at <= $1`, micros(tx.now)); err != nil {
		return err
	}
	_, err := tx.exec(ctx, `INSERT INTO web_sessions (secret_hash, user_id, created_at, expires_at) VALUES ($1, $2, $3, $4)`,
		secretHash, userID, micros(tx.now), micros(expires))
	return err
}

// WebSession finds the user of a session and when it ends, or returns NOT_FOUND. A
// session that has ended is not found.
func (tx *Tx) WebSession(ctx context.Context, secretHash string) (userID int64, expires time.Time, err error) {
	var until int64
	err = tx.row(ctx, `SELECT user_id, expires_at FROM web_sessions WHERE secret_hash = $1 AND expires_at > $2`,
		secretHash, micros(tx.now)).Scan(&userID, &until)
	return userID, fromMicros(until), notFound(err, oci.Errorf(oci.CodeNotFound, "there is no such session"))
}

// DeleteWebSession ends a session. One that is not there is no error.
func (tx *Tx) DeleteWebSession(ctx context.Context, secretHash string) error {
	_, err := tx.exec(ctx, `DELETE FROM web_sessions WHERE secret_hash = $1`, secretHash)
	return err
}
