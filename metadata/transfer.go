package metadata

import (
	"context"
	"database/sql"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"berth/oci"
	"berth/sqldb"
)

// Copying a registry to another database and store: which blobs still need
// their bytes there, whose copy a database is, and the hold on objects meanwhile.

// pendingPrefix begins the storage key of a blob whose bytes are still to be
// copied. No store has such a key.
const pendingPrefix = "pending:"

// copyRules says which rows a copy of a registry has, and what becomes of its blobs.
var copyRules = sqldb.CopyRules{
	// These are about one database or one store, and mean nothing beside another.
	LeaveOut: map[string]string{
		"leases":  "who is doing something at this moment",
		"uploads": "sessions of the store; clients begin theirs anew",
		"garbage": "objects of the store that nothing refers to",
	},
	Merge: map[string]sqldb.Merge{"blobs": {
		Before: func(ctx context.Context, to *sqldb.Tx) error {
			_, err := to.Exec(ctx, `UPDATE blobs SET created_at = -1`) // an impossible time: not copied yet
			return err
		},
		Change: pendingBlob, Conflict: arrivedBlobsStay, After: forgetBlobs,
	}},
}

// CopyRows makes the rows of to those that from has at this moment, see [sqldb.CopyRows].
//
// A blob is the exception: its bytes are in from's store. The row of one that to has
// already keeps its own object. Others get no object yet, and count as missing until BlobArrived.
// What from no longer has loses its row, and its object becomes garbage.
//
// It returns the number of rows by table.
func CopyRows(ctx context.Context, from, to *DB) (map[string]int64, error) {
	return sqldb.CopyRows(ctx, from.database, to.database, copyRules)
}

// CountRows counts the rows of every table that CopyRows copies, by its name. It reads them all.
func (db *DB) CountRows(ctx context.Context) (map[string]int64, error) {
	return db.database.CountRows(ctx, copyRules)
}

// pendingBlob gives a blob's row a key of its own until its bytes are there.
func pendingBlob(to *sqldb.Tx, t sqldb.Table) func([]any) {
	at := func(name string) int {
		return slices.IndexFunc(t.Columns, func(c sqldb.Column) bool { return c.Name == name })
	}
	digestAt, keyAt, missingAt := at("digest"), at("storage_key"), at("missing_since")
	return func(row []any) {
		row[keyAt] = pendingPrefix + row[digestAt].(string)
		if row[missingAt] == nil {
			row[missingAt] = micros(to.Now())
		}
	}
}

// arrivedBlobsStay ends the INSERT of blobs: a healthy row keeps its object.
func arrivedBlobsStay(t sqldb.Table) string {
	var set []string
	for _, c := range t.Columns {
		switch c.Name {
		case "digest":
		case "storage_key", "missing_since":
			set = append(set, c.Name+" = CASE WHEN blobs.missing_since IS NULL THEN blobs."+c.Name+" ELSE excluded."+c.Name+" END")
		default:
			set = append(set, sqldb.Quoted(c.Name)+" = excluded."+sqldb.Quoted(c.Name))
		}
	}
	return `ON CONFLICT (digest) DO UPDATE SET ` + strings.Join(set, ", ")
}

// forgetBlobs removes the blobs that the source no longer has, and makes garbage of their objects.
func forgetBlobs(ctx context.Context, to *sqldb.Tx) error {
	_, err := to.Exec(ctx, `
		INSERT INTO garbage (kind, value, enqueued_at, not_before, digest, size)
		SELECT 'object', storage_key, CAST($1 AS BIGINT), CAST($1 AS BIGINT), digest, size FROM blobs
		 WHERE created_at = -1 AND storage_key NOT LIKE '`+pendingPrefix+`%'`, micros(to.Now()))
	if err == nil {
		_, err = to.Exec(ctx, `DELETE FROM blobs WHERE created_at = -1`)
	}
	return err
}

// BlobGone makes a blob whose object a copy has lost pending again, if it still has that object. What
// is left of the object becomes garbage.
func (tx *Tx) BlobGone(ctx context.Context, b Blob) (bool, error) {
	n, err := tx.exec(ctx, `
		UPDATE blobs SET storage_key = $3, missing_since = $4 WHERE digest = $1 AND storage_key = $2`,
		string(b.Digest), b.Key, pendingPrefix+string(b.Digest), micros(tx.now))
	if err == nil && n > 0 {
		err = tx.EnqueueGarbage(ctx, GarbageObject, b.Key, tx.now)
	}
	return n > 0, err
}

// BlobArrived gives a pending blob its object. It reports false when the blob
// has one by now, or is gone.
func (tx *Tx) BlobArrived(ctx context.Context, d digest.Digest, key string) (bool, error) {
	n, err := tx.exec(ctx, `
		UPDATE blobs SET storage_key = $2, missing_since = NULL
		 WHERE digest = $1 AND storage_key = $3`, string(d), key, pendingPrefix+string(d))
	return n > 0, err
}

// MoveBlob gives a healthy blob another object, if it still has the one given.
func (tx *Tx) MoveBlob(ctx context.Context, b Blob, key string) (bool, error) {
	n, err := tx.exec(ctx, `
		UPDATE blobs SET storage_key = $3 WHERE digest = $1 AND storage_key = $2 AND missing_since IS NULL`,
		string(b.Digest), b.Key, key)
	return n > 0, err
}

// UnfinishedUploads lists sessions, oldest first. In a database that no server
// works on, they are of a copy that was cut off.
func (tx *Tx) UnfinishedUploads(ctx context.Context, limit int) ([]Upload, error) {
	return list(ctx, tx, func(rows *sql.Rows) (Upload, error) { return scanUpload(rows.Scan) },
		`SELECT `+uploadColumns+` FROM uploads ORDER BY started_at LIMIT $1`, limit)
}

// The rows of leases that are about transfers.
const (
	transferCopying = "transfer:copying" // the holder is the source
	transferReady   = "transfer:ready"
	holdPrefix      = "hold:"
)

// forever is the end of a lease that has none: the year 9999.
var forever = time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)

// Transfer says that a database is a copy of another one.
type Transfer struct {
	Source string
	Ready  bool // complete, and may be taken into use
}

// Transfer gives whose copy the database is; nil when it is a registry of its own.
func (tx *Tx) Transfer(ctx context.Context) (*Transfer, error) {
	var t Transfer
	err := tx.row(ctx, `SELECT holder, name = $2 FROM leases WHERE name IN ($1, $2) ORDER BY name LIMIT 1`,
		transferCopying, transferReady).Scan(&t.Source, &t.Ready)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return &t, nil
}

// SetTransfer notes whose copy the database is, and whether it is complete. nil says that the database is not a copy.
func (tx *Tx) SetTransfer(ctx context.Context, t *Transfer) error {
	_, err := tx.exec(ctx, `DELETE FROM leases WHERE name IN ($1, $2)`, transferCopying, transferReady)
	if err != nil || t == nil {
		return err
	}
	name := transferCopying
	if t.Ready {
		name = transferReady
	}
	_, err = tx.exec(ctx, `INSERT INTO leases (name, holder, expires_at) VALUES ($1, $2, $3)`, name, t.Source, micros(forever))
	return err
}

// TakeIntoUse makes a complete copy a registry of its own: nothing is copied
// into it any more. One that is not complete is refused with CONFLICT, since
// what a client would push to it would be lost.
func (db *DB) TakeIntoUse(ctx context.Context) error {
	return db.Update(ctx, func(tx *Tx) error { return tx.takeIntoUse(ctx) })
}

func (tx *Tx) takeIntoUse(ctx context.Context) error {
	t, err := tx.Transfer(ctx)
	if err != nil || t == nil {
		return err
	}
	if !t.Ready {
		return oci.Errorf(oci.CodeConflict, "the database is an unfinished copy of %s: run the berth restore or berth migrate-storage that fills it to its end, or choose another database", t.Source)
	}
	return tx.SetTransfer(ctx, nil)
}

// IsEmpty reports whether the database holds no registry: no user, team,
// repository or blob. What migrations put there does not count.
func (tx *Tx) IsEmpty(ctx context.Context) (bool, error) {
	var used bool
	err := tx.row(ctx, `
		SELECT EXISTS (SELECT 1 FROM users) OR EXISTS (SELECT 1 FROM teams)
		    OR EXISTS (SELECT 1 FROM repositories) OR EXISTS (SELECT 1 FROM blobs)`).Scan(&used)
	return !used, err
}

// Hold keeps every replica from removing objects, collected ones too, until
// ttl is over: what a snapshot refers to stays readable. It reports false, and holds nothing, when
// renew is set and the hold had run out.
func (tx *Tx) Hold(ctx context.Context, id string, ttl time.Duration, renew bool) (bool, error) {
	if !renew {
		return tx.AcquireLease(ctx, holdPrefix+id, id, ttl)
	}
	return tx.RenewLease(ctx, holdPrefix+id, id, ttl)
}

// ReleaseHold ends a hold.
func (tx *Tx) ReleaseHold(ctx context.Context, id string) error {
	return tx.ReleaseLease(ctx, holdPrefix+id, id)
}
