package metadata

import (
	"context"
	"database/sql"
	"fmt"
	"strings"

	"github.com/opencontainers/go-digest"

	"berth/oci"
)

// Blob is the bytes under a digest: where the store has them and how many.
type Blob struct {
	Digest digest.Digest
	Key    string
	Size   int64
}

// Blob finds a blob that the repository may serve, or returns BLOB_UNKNOWN,
// also when its bytes are known to be lost: so that the client pushes them
// again. One statement.
func (tx *Tx) Blob(ctx context.Context, repository string, d digest.Digest) (Blob, error) {
	b, err := remember(ctx, tx, func(query string, args []any) (Blob, int, error) {
		b := Blob{Digest: digest.Digest(strings.Clone(string(d)))} // the request's buffer is not kept alive
		err := tx.row(ctx, query, args...).Scan(&b.Key, &b.Size)
		return b, len(b.Digest) + len(b.Key), err
	}, `
		SELECT b.storage_key, b.size
		  FROM repositories r
		  JOIN repository_blobs l ON l.repository_id = r.id
		  JOIN blobs b ON b.digest = l.digest
		 WHERE r.name = $1 AND l.digest = $2 AND b.missing_since IS NULL`, repository, string(d))
	return b, notFound(err, oci.Errorf(oci.CodeBlobUnknown, "the blob %s is not in the repository %s", d, repository))
}

// Link lets a repository serve a blob that the instance has; false says
// that it has none of this digest, or has lost its bytes. Linking again begins the grace
// period anew in which a manifest has to need the blob. The error is
// a NAME_UNKNOWN when the repository is deleted at this moment. One statement.
func (tx *Tx) Link(ctx context.Context, repositoryID int64, d digest.Digest) (bool, error) {
	// The blob's row is locked (on Postgres) until the link's foreign key holds it,
	// so that a collector cannot take the blob away in between.
	n, err := tx.exec(ctx, `
		INSERT INTO repository_blobs (repository_id, digest, created_at)
		SELECT CAST($1 AS BIGINT), digest, CAST($3 AS BIGINT) FROM blobs WHERE digest = $2 AND missing_since IS NULL`+tx.dialect().KeyShare()+`
		ON CONFLICT (repository_id, digest) DO UPDATE SET created_at = excluded.created_at`, repositoryID, string(d), micros(tx.now))
	if err != nil && tx.dialect().IsForeignKey(err) {
		return false, errRepositoryGone(err)
	}
	return n > 0, err
}

// LinkBlob is Link for those who want to know the blob.
func (tx *Tx) LinkBlob(ctx context.Context, repositoryID int64, d digest.Digest) (Blob, bool, error) {
	linked, err := tx.Link(ctx, repositoryID, d)
	if err != nil || !linked {
		return Blob{}, false, err
	}
	b := Blob{Digest: d}
	err = tx.row(ctx, `SELECT storage_key, size FROM blobs WHERE digest = $1`, string(d)).Scan(&b.Key, &b.Size)
	return b, err == nil, err
}

// PutBlob records bytes that the store has, as InsertBlob, lets a repository serve the digest, as
// LinkBlob, and gives what is under it then: when somebody else was faster, other bytes of the same digest.
func (tx *Tx) PutBlob(ctx context.Context, repositoryID int64, b Blob) (Blob, error) {
	// The blob that is in the way may be collected just then.
	for range 3 {
		inserted, err := tx.InsertBlob(ctx, b)
		if err != nil {
			return Blob{}, err
		}
		there, linked := b, false
		if inserted { // and nobody else can change it yet
			linked, err = tx.Link(ctx, repositoryID, b.Digest)
		} else {
			there, linked, err = tx.LinkBlob(ctx, repositoryID, b.Digest)
		}
		if linked || err != nil {
			return there, err
		}
	}
	return Blob{}, fmt.Errorf("the blob %s is deleted by others all the time", b.Digest)
}

// InsertBlob records bytes that the store has. It reports false, and changes
// nothing, when the digest is there already: the first one wins. A blob whose bytes
// were lost gets these, everywhere, and what is left of the old ones is garbage.
func (tx *Tx) InsertBlob(ctx context.Context, b Blob) (bool, error) {
	n, err := tx.exec(ctx, `
		INSERT INTO blobs (digest, storage_key, size, created_at) VALUES ($1, $2, $3, $4)
		ON CONFLICT (digest) DO NOTHING`, string(b.Digest), b.Key, b.Size, micros(tx.now))
	if n > 0 || err != nil {
		return n > 0, err
	}
	_, err = tx.exec(ctx, `
		INSERT INTO garbage (kind, value, enqueued_at, not_before)
		SELECT 'object', storage_key, CAST($2 AS BIGINT), CAST($2 AS BIGINT) FROM blobs
		 WHERE digest = $1 AND missing_since IS NOT NULL`+tx.dialect().ForUpdate(), string(b.Digest), micros(tx.now))
	if err != nil {
		return false, err
	}
	n, err = tx.exec(ctx, `
		UPDATE blobs SET storage_key = $2, size = $3, missing_since = NULL
		 WHERE digest = $1 AND missing_since IS NOT NULL`, string(b.Digest), b.Key, b.Size)
	return n > 0, err
}

// BlobRepositories names repositories that hold a blob, at most limit.
func (tx *Tx) BlobRepositories(ctx context.Context, d digest.Digest, limit int) ([]string, error) {
	return list(ctx, tx, scanString, `
		SELECT r.name FROM repository_blobs l JOIN repositories r ON r.id = l.repository_id
		 WHERE l.digest = $1 ORDER BY l.repository_id LIMIT $2`, string(d), limit)
}

func scanString(rows *sql.Rows) (s string, err error) { return s, rows.Scan(&s) }

// UnlinkBlob makes a repository serve a blob no longer. It returns
// BLOB_UNKNOWN, or CONFLICT while a manifest of the repository needs the blob.
func (tx *Tx) UnlinkBlob(ctx context.Context, repository string, d digest.Digest) error {
	users, err := list(ctx, tx, scanString, `
		SELECT m.digest FROM repositories r
		  JOIN manifest_blobs b ON b.repository_id = r.id
		  JOIN manifests m ON m.id = b.manifest_id
		 WHERE r.name = $1 AND b.digest = $2 ORDER BY m.id LIMIT 3`, repository, string(d))
	if err != nil {
		return err
	}
	if len(users) > 0 {
		return errBlobInUse(d, users)
	}
	n, err := tx.exec(ctx, `
		DELETE FROM repository_blobs
		 WHERE repository_id = (SELECT id FROM repositories WHERE name = $1) AND digest = $2`, repository, string(d))
	if err != nil {
		if tx.dialect().IsForeignKey(err) {
			return errBlobInUse(d, nil).WithCause(err)
		}
		return err
	}
	if n == 0 {
		return oci.Errorf(oci.CodeBlobUnknown, "the blob %s is not in the repository %s", d, repository)
	}
	return nil
}

func errBlobInUse(d digest.Digest, manifests []string) *oci.Error {
	needed := "a manifest that was just pushed"
	if len(manifests) > 0 {
		needed = strings.Join(manifests, ", ")
	}
	return oci.Errorf(oci.CodeConflict, "the blob %s is needed by %s: delete the manifest first", d, needed).
		WithDetail(map[string]any{"digest": d, "manifests": manifests})
}
