package metadata

import (
	"context"
	"database/sql"

	"github.com/opencontainers/go-digest"
)

// The questions and repairs of `berth check`, which compares rows with objects.

// BlobsAfter lists blobs in the order of their digests, behind one.
func (tx *Tx) BlobsAfter(ctx context.Context, after digest.Digest, limit int) ([]StoredBlob, error) {
	return list(ctx, tx, func(rows *sql.Rows) (b StoredBlob, err error) {
		var created int64
		var missing sql.NullInt64
		err = rows.Scan(&b.Digest, &b.Key, &b.Size, &created, &missing)
		b.CreatedAt, b.MissingSince = fromMicros(created), timePtr(missing)
		return b, err
	}, `SELECT digest, storage_key, size, created_at, missing_since FROM blobs WHERE digest > $1 ORDER BY digest LIMIT $2`, string(after), limit)
}

// CountBlobs gives how many blobs there are, and how many bytes they have. It reads all rows.
func (tx *Tx) CountBlobs(ctx context.Context) (blobs, bytes int64, err error) {
	return blobs, bytes, tx.row(ctx, `SELECT COUNT(*), CAST(COALESCE(SUM(size), 0) AS BIGINT) FROM blobs`).Scan(&blobs, &bytes)
}

// MarkMissing notes that the bytes of a blob are lost, unless it has others by
// now. It is not served any more, and the next push of it brings it back.
func (tx *Tx) MarkMissing(ctx context.Context, d digest.Digest, key string) (bool, error) {
	n, err := tx.exec(ctx, `
		UPDATE blobs SET missing_since = $3 WHERE digest = $1 AND storage_key = $2 AND missing_since IS NULL`,
		string(d), key, micros(tx.now))
	return n > 0, err
}

// MarkFound takes MarkMissing back, when the bytes are there after all.
func (tx *Tx) MarkFound(ctx context.Context, d digest.Digest, key string) (bool, error) {
	n, err := tx.exec(ctx, `
		UPDATE blobs SET missing_since = NULL WHERE digest = $1 AND storage_key = $2 AND missing_since IS NOT NULL`, string(d), key)
	return n > 0, err
}

// ObjectName is an object's key, and the upload that its key names.
type ObjectName struct{ Key, Upload string }

// KnownObjects gives those of at most 256 objects that a row points to: a
// blob, an unfinished upload, or garbage. One statement, so that an upload that becomes a blob at this
// moment is seen as one or the other.
func (tx *Tx) KnownObjects(ctx context.Context, names []ObjectName) (map[ObjectName]bool, error) {
	known := map[ObjectName]bool{}
	if len(names) == 0 {
		return known, nil
	}
	byKey, byUpload := map[string]ObjectName{}, map[string][]ObjectName{}
	keys, uploads := make([]digest.Digest, len(names)), make([]digest.Digest, len(names))
	for i, n := range names {
		byKey[n.Key] = n
		byUpload[n.Upload] = append(byUpload[n.Upload], n)
		keys[i], uploads[i] = digest.Digest(n.Key), digest.Digest(n.Upload) // inArgs takes any text
	}
	inKeys, args := inArgs(1, keys)
	inUploads, more := inArgs(1+len(args), uploads)
	err := tx.each(ctx, func(rows *sql.Rows) error {
		var kind, name string
		if err := rows.Scan(&kind, &name); err != nil {
			return err
		}
		if kind == "upload" {
			for _, n := range byUpload[name] {
				known[n] = true
			}
		} else {
			known[byKey[name]] = true
		}
		return nil
	}, `
		SELECT 'blob', storage_key FROM blobs WHERE storage_key IN `+inKeys+`
		 UNION ALL SELECT 'garbage', value FROM garbage WHERE kind = 'object' AND value IN `+inKeys+`
		 UNION ALL SELECT 'upload', id FROM uploads WHERE id IN `+inUploads, append(args, more...)...)
	return known, err
}

// GarbageSessions lists the sessions that wait to be aborted.
func (tx *Tx) GarbageSessions(ctx context.Context) ([]string, error) {
	return list(ctx, tx, scanString, `SELECT value FROM garbage WHERE kind = 'session'`)
}

// EnqueueOrphan makes an object garbage, unless a row points to it. No row
// ever comes to point to an object whose upload is gone.
func (tx *Tx) EnqueueOrphan(ctx context.Context, o ObjectName, size int64) (bool, error) {
	n, err := tx.exec(ctx, `
		INSERT INTO garbage (kind, value, enqueued_at, not_before, size)
		SELECT 'object', CAST($1 AS TEXT), CAST($3 AS BIGINT), CAST($3 AS BIGINT), CAST($4 AS BIGINT)
		 WHERE NOT EXISTS (SELECT 1 FROM blobs WHERE storage_key = $1)
		   AND NOT EXISTS (SELECT 1 FROM uploads WHERE id = $2)
		   AND NOT EXISTS (SELECT 1 FROM garbage WHERE kind = 'object' AND value = $1)`, o.Key, o.Upload, micros(tx.now), size)
	return n > 0, err
}

// StoredManifest is a manifest as a check reads it.
type StoredManifest struct {
	ID         int64
	Repository string
	Digest     digest.Digest
	Payload    []byte
}

// ManifestsAfter lists manifests with their payloads in the order of their
// ids, behind one. Each has up to some MiB.
func (tx *Tx) ManifestsAfter(ctx context.Context, after int64, limit int) ([]StoredManifest, error) {
	return list(ctx, tx, func(rows *sql.Rows) (m StoredManifest, err error) {
		return m, rows.Scan(&m.ID, &m.Repository, &m.Digest, &m.Payload)
	}, `
		SELECT m.id, r.name, m.digest, m.payload FROM manifests m JOIN repositories r ON r.id = m.repository_id
		 WHERE m.id > $1 ORDER BY m.id LIMIT $2`, after, limit)
}
