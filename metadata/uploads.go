package metadata

import (
	"context"
	"database/sql"
	"time"

	"github.com/opencontainers/go-digest"

	"berth/oci"
)

// Upload is an upload session. Any replica can continue it: the row holds the
// running hash and the store's session.
type Upload struct {
	ID         string
	Repository string
	Principal  string // who may continue it
	Algorithm  string
	Size       int64 // bytes taken so far, which is the next offset
	HashState  []byte
	Session    string
	StartedAt  time.Time
	UpdatedAt  time.Time
	QuotaTeam  string // whose quota holds bytes for it, "" for none
	Reserved   int64  // so many
}

const uploadColumns = `id, repository, principal, algorithm, size, hash_state, session, started_at, updated_at, COALESCE(quota_team, ''), reserved`

func scanUpload(scan func(...any) error) (Upload, error) {
	var u Upload
	var started, updated int64
	err := scan(&u.ID, &u.Repository, &u.Principal, &u.Algorithm, &u.Size, &u.HashState, &u.Session, &started, &updated, &u.QuotaTeam, &u.Reserved)
	u.StartedAt, u.UpdatedAt = fromMicros(started), fromMicros(updated)
	return u, err
}

// CreateUpload records a new session.
func (tx *Tx) CreateUpload(ctx context.Context, u Upload) error {
	_, err := tx.createUpload(ctx, u, ``)
	return err
}

// CreateUnlimitedUpload is CreateUpload for a team without a quota and a principal with less than
// so many sessions, 0 for any number. It reports false, and changes nothing, for others: then the
// session needs RoomForUpload and ReserveUpload. One statement.
func (tx *Tx) CreateUnlimitedUpload(ctx context.Context, u Upload, most int) (bool, error) {
	where, args := ` WHERE NOT EXISTS (SELECT 1 FROM team_quotas WHERE team = $9)`, []any{oci.Team(u.Repository)}
	if most > 0 {
		where += ` AND (SELECT COUNT(*) FROM (SELECT 1 FROM uploads WHERE principal = $3 LIMIT $10) AS open) < $10`
		args = append(args, most)
	}
	return tx.createUpload(ctx, u, where, args...)
}

// RoomForUpload returns TOOMANYREQUESTS when a principal has so many sessions already, 0 for any
// number. It holds nothing: those who begin at the same time may pass it together. It bounds
// what is left behind; it does not check a right.
func (tx *Tx) RoomForUpload(ctx context.Context, principal string, most int) error {
	if most <= 0 {
		return nil
	}
	var open int
	err := tx.row(ctx, `SELECT COUNT(*) FROM (SELECT 1 FROM uploads WHERE principal = $1 LIMIT $2) AS open`, principal, most).Scan(&open)
	if err != nil || open < most {
		return err
	}
	return oci.Errorf(oci.CodeTooManyRequests, "%s has %d uploads open, which is the most at a time: finish them, cancel some with a DELETE of their locations, or wait until those that rest are given up", principal, open).
		WithDetail(map[string]any{"rule": "too-many-uploads", "limit": most})
}

func (tx *Tx) createUpload(ctx context.Context, u Upload, where string, args ...any) (bool, error) {
	n, err := tx.exec(ctx, `
		INSERT INTO uploads (id, repository, principal, algorithm, size, hash_state, session, started_at, updated_at)
		SELECT $1, $2, $3, $4, $5, $6, $7, $8, $8`+where,
		append([]any{u.ID, u.Repository, u.Principal, u.Algorithm, u.Size, u.HashState, u.Session, micros(tx.now)}, args...)...)
	return n > 0, err
}

// Upload finds a session of a repository, or returns BLOB_UPLOAD_UNKNOWN.
func (tx *Tx) Upload(ctx context.Context, repository, id string) (Upload, error) {
	u, err := scanUpload(tx.row(ctx, `SELECT `+uploadColumns+` FROM uploads WHERE id = $1 AND repository = $2`, id, repository).Scan)
	return u, notFound(err, errUploadUnknown(id))
}

// UploadToClose is Upload, and tells whether some repository has the blob that it is to become.
func (tx *Tx) UploadToClose(ctx context.Context, repository, id string, d digest.Digest) (u Upload, known bool, err error) {
	row := tx.row(ctx, `SELECT `+uploadColumns+`, EXISTS (SELECT 1 FROM repository_blobs WHERE digest = $3) FROM uploads WHERE id = $1 AND repository = $2`, id, repository, string(d))
	u, err = scanUpload(func(dest ...any) error { return row.Scan(append(dest, &known)...) })
	return u, known, notFound(err, errUploadUnknown(id))
}

func errUploadUnknown(id string) *oci.Error {
	return oci.Errorf(oci.CodeBlobUploadUnknown, "there is no upload %.64q here: it was finished, cancelled or given up; start a new one", id)
}

// AdvanceUpload moves a session from one state to the next; of a quota it holds then
// what it has. It reports false,
// and changes nothing, when the session is no longer in the state given.
func (tx *Tx) AdvanceUpload(ctx context.Context, from, to Upload) (bool, error) {
	n, err := tx.exec(ctx, `
		UPDATE uploads SET algorithm = $4, size = $5, hash_state = $6, session = $7, updated_at = $8,
		       reserved = CASE WHEN quota_team IS NULL THEN 0 ELSE CAST($5 AS BIGINT) END
		 WHERE id = $1 AND size = $2 AND session = $3`,
		from.ID, from.Size, from.Session, to.Algorithm, to.Size, to.HashState, to.Session, micros(tx.now))
	return n > 0, err
}

// DeleteUpload ends a session and gives its last state, or returns BLOB_UPLOAD_UNKNOWN.
func (tx *Tx) DeleteUpload(ctx context.Context, id string) (Upload, error) {
	u, err := scanUpload(tx.row(ctx, `DELETE FROM uploads WHERE id = $1 RETURNING `+uploadColumns, id).Scan)
	return u, notFound(err, errUploadUnknown(id))
}

// StaleUploads lists sessions that nobody has touched since a time, oldest first.
func (tx *Tx) StaleUploads(ctx context.Context, before time.Time, limit int) ([]Upload, error) {
	return list(ctx, tx, func(rows *sql.Rows) (Upload, error) { return scanUpload(rows.Scan) },
		// By the start, which has an index: one on updated_at would be written by every PATCH.
		`SELECT `+uploadColumns+` FROM uploads WHERE started_at < $1 AND updated_at < $1 ORDER BY started_at LIMIT $2`, micros(before), limit)
}

// DeleteStaleUpload ends a session, unless somebody has touched it since.
func (tx *Tx) DeleteStaleUpload(ctx context.Context, id string, before time.Time) (bool, error) {
	n, err := tx.exec(ctx, `DELETE FROM uploads WHERE id = $1 AND updated_at < $2`, id, micros(before))
	return n > 0, err
}
