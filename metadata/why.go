package metadata

import (
	"context"
	"database/sql"
	"errors"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"berth/oci"
)

// The questions of `berth why` and `berth du`: what holds a digest, and what
// takes which space. They are for people; no request of a client asks them.

// StoredBlob is a blob's row, with what the collector has noted about it.
type StoredBlob struct {
	Blob
	CreatedAt    time.Time
	MissingSince *time.Time // the bytes are known to be lost since
	QueuedSince  *time.Time // it may be that no repository has it since
}

// StoredBlob finds a blob wherever it is linked; false says that there is none.
func (tx *Tx) StoredBlob(ctx context.Context, d digest.Digest) (b StoredBlob, ok bool, err error) {
	b.Digest = d
	var created int64
	var missing, queued sql.NullInt64
	err = tx.row(ctx, `
		SELECT b.storage_key, b.size, b.created_at, b.missing_since, q.enqueued_at
		  FROM blobs b LEFT JOIN gc_blobs q ON q.digest = b.digest
		 WHERE b.digest = $1`, string(d)).Scan(&b.Key, &b.Size, &created, &missing, &queued)
	if errors.Is(err, sql.ErrNoRows) {
		return b, false, nil
	}
	b.CreatedAt, b.MissingSince, b.QueuedSince = fromMicros(created), timePtr(missing), timePtr(queued)
	return b, err == nil, err
}

// RemovedObject is the object of a collected blob that waits for its removal.
type RemovedObject struct {
	Key       string
	Size      int64
	NotBefore time.Time
}

// RemovedObjects lists objects that held the digest until it was collected.
func (tx *Tx) RemovedObjects(ctx context.Context, d digest.Digest) ([]RemovedObject, error) {
	return list(ctx, tx, func(rows *sql.Rows) (o RemovedObject, err error) {
		var at int64
		err = rows.Scan(&o.Key, &o.Size, &at)
		o.NotBefore = fromMicros(at)
		return o, err
	}, `SELECT value, size, not_before FROM garbage WHERE digest = $1 AND digest <> '' ORDER BY id`, string(d))
}

// BlobLink is a repository's link to a blob.
type BlobLink struct {
	RepositoryID int64
	Repository   string
	PushedAt     time.Time  // when the repository got it, or was last given it again
	Manifests    int64      // of the repository that need it
	QueuedSince  *time.Time // it may be that no manifest needs it since, or a deleted one has needed it until then
}

// BlobLinks lists the repositories that have a blob, by name, behind one.
func (tx *Tx) BlobLinks(ctx context.Context, d digest.Digest, after string, limit int) ([]BlobLink, error) {
	return list(ctx, tx, func(rows *sql.Rows) (l BlobLink, err error) {
		var pushed int64
		var queued, deleted sql.NullInt64
		err = rows.Scan(&l.RepositoryID, &l.Repository, &pushed, &queued, &deleted, &l.Manifests)
		if deleted.Valid && deleted.Int64 > queued.Int64 {
			queued = deleted
		}
		l.PushedAt, l.QueuedSince = fromMicros(pushed), timePtr(queued)
		return l, err
	}, `
		SELECT r.id, r.name, l.created_at, q.enqueued_at,
		       (SELECT MAX(d.deleted_at) FROM deleted_references x JOIN deleted_manifests d ON d.id = x.deletion_id
		         WHERE x.repository_id = l.repository_id AND x.digest = l.digest AND x.kind = 'blob'),
		       (SELECT COUNT(*) FROM manifest_blobs m WHERE m.repository_id = l.repository_id AND m.digest = l.digest)
		  FROM repository_blobs l
		  JOIN repositories r ON r.id = l.repository_id
		  LEFT JOIN gc_links q ON q.repository_id = l.repository_id AND q.digest = l.digest
		 WHERE l.digest = $1 AND r.name > $2 ORDER BY r.name LIMIT $3`, string(d), after, limit)
}

// HeldManifest is a manifest, for the question what holds it.
type HeldManifest struct {
	ID           int64
	RepositoryID int64
	Repository   string
	Digest       digest.Digest
	MediaType    string
	ArtifactType string
	Subject      digest.Digest // "" for none
	Size         int64
	CreatedAt    time.Time
}

const heldManifest = `
	SELECT m.id, m.repository_id, r.name, m.digest, m.media_type, m.artifact_type, COALESCE(m.subject, ''), m.size, m.created_at
	  FROM manifests m
	  JOIN repositories r ON r.id = m.repository_id `

func scanHeldManifest(rows *sql.Rows) (m HeldManifest, err error) {
	var created int64
	err = rows.Scan(&m.ID, &m.RepositoryID, &m.Repository, &m.Digest, &m.MediaType, &m.ArtifactType, &m.Subject, &m.Size, &created)
	m.CreatedAt = fromMicros(created)
	return m, err
}

// Unheld is what the collector knows of a manifest that nothing holds.
type Unheld struct {
	Since    *time.Time // nil when it was never noted
	Reason   string     // pushed, untagged, index or subject, when Since is set
	Released bool       // retention has let its tag go, so that no lifetime keeps it
	// TTL is the lifetime of untagged manifests of the nearest policy, 0 for ever, and TTLLevel whose that is;
	// nil leaves it to the setting.
	TTL      *time.Duration
	TTLLevel string
}

// Unheld tells since when nothing holds a manifest, as CollectManifests will see it, also when what was deleted
// is out of its undo window but not purged yet.
func (tx *Tx) Unheld(ctx context.Context, m HeldManifest) (u Unheld, err error) {
	var queued, ttl sql.NullInt64
	err = tx.row(ctx, `
		SELECT q.enqueued_at, COALESCE(q.reason, ''), COALESCE(q.settled AND q.release_at = q.enqueued_at, FALSE), v.untagged_ttl, v.ttl_level
		  FROM repository_retention v LEFT JOIN gc_manifests q ON q.manifest_id = $1
		 WHERE v.repository_id = $2`, m.ID, m.RepositoryID).Scan(&queued, &u.Reason, &u.Released, &ttl, &u.TTLLevel)
	if err != nil {
		return Unheld{}, err
	}
	u.Since = timePtr(queued)
	if ttl.Valid {
		lifetime := time.Duration(ttl.Int64) * time.Microsecond
		u.TTL = &lifetime
	}
	var deleted int64
	var reason, by string
	err = tx.row(ctx, `
		SELECT deleted_at, reason, deleted_by FROM (
		        SELECT deleted_at, 'untagged' AS reason, deleted_by FROM deleted_tags WHERE repository_id = $1 AND digest = $2
		  UNION ALL SELECT d.deleted_at, 'index', d.deleted_by FROM deleted_references x JOIN deleted_manifests d ON d.id = x.deletion_id
		         WHERE x.repository_id = $1 AND x.digest = $2 AND x.kind = 'child'
		  UNION ALL SELECT deleted_at, 'subject', deleted_by FROM deleted_manifests WHERE repository_id = $1 AND digest = $3) d
		 ORDER BY deleted_at DESC LIMIT 1`, m.RepositoryID, string(m.Digest), string(m.Subject)).Scan(&deleted, &reason, &by)
	// The deletion of a tag queues its manifest a moment after it was noted, as in purgeTags.
	if err == nil && (u.Since == nil || deleted >= queued.Int64 || u.Reason == "untagged" && deleted+1_000_000 >= queued.Int64) {
		at := fromMicros(deleted)
		u.Since, u.Reason, u.Released = &at, reason, reason == "untagged" && strings.HasPrefix(by, retentionActor)
	}
	return u, notFoundIsNil(err)
}

// ManifestsOf lists a manifest wherever it is, by the repositories' names, behind one.
func (tx *Tx) ManifestsOf(ctx context.Context, d digest.Digest, after string, limit int) ([]HeldManifest, error) {
	return list(ctx, tx, scanHeldManifest, heldManifest+`WHERE m.digest = $1 AND r.name > $2 ORDER BY r.name LIMIT $3`, string(d), after, limit)
}

// ManifestsNeeding lists manifests of a repository that need a blob, oldest first.
func (tx *Tx) ManifestsNeeding(ctx context.Context, repositoryID int64, blob digest.Digest, limit int) ([]HeldManifest, error) {
	return list(ctx, tx, scanHeldManifest, heldManifest+`
		WHERE m.id IN (SELECT manifest_id FROM manifest_blobs WHERE repository_id = $1 AND digest = $2)
		ORDER BY m.id LIMIT $3`, repositoryID, string(blob), limit)
}

// IndexesOf lists indexes that have the manifest as a child, oldest first.
func (tx *Tx) IndexesOf(ctx context.Context, manifestID int64, limit int) ([]HeldManifest, error) {
	return list(ctx, tx, scanHeldManifest, heldManifest+`
		WHERE m.id IN (SELECT manifest_id FROM manifest_children WHERE child_id = $1)
		ORDER BY m.id LIMIT $2`, manifestID, limit)
}

// SubjectOf gives the manifest that another one refers to, or none.
func (tx *Tx) SubjectOf(ctx context.Context, m HeldManifest) ([]HeldManifest, error) {
	if m.Subject == "" {
		return nil, nil
	}
	return list(ctx, tx, scanHeldManifest, heldManifest+`WHERE m.repository_id = $1 AND m.digest = $2`, m.RepositoryID, string(m.Subject))
}

// HoldingTag is a tag that points to a manifest.
type HoldingTag struct {
	Name      string
	Mode      string // mutable, immutable or sealed
	UpdatedAt time.Time
}

// TagsOf lists the tags that point to a manifest, by name.
func (tx *Tx) TagsOf(ctx context.Context, repositoryID int64, d digest.Digest, limit int) ([]HoldingTag, error) {
	return list(ctx, tx, func(rows *sql.Rows) (t HoldingTag, err error) {
		var at int64
		err = rows.Scan(&t.Name, &t.Mode, &at)
		t.UpdatedAt = fromMicros(at)
		return t, err
	}, `
		SELECT t.name, v.mode, t.updated_at
		  FROM tags t JOIN tag_modes v ON v.repository_id = t.repository_id AND v.name = t.name
		 WHERE t.repository_id = $1 AND t.digest = $2 ORDER BY t.name LIMIT $3`, repositoryID, string(d), limit)
}

// Usage is the space that a repository or a team takes, in bytes.
type Usage struct {
	Team       string
	Repository string // "" for a team's
	Blobs      int64  // different ones
	Manifests  int64
	Logical    int64 // blobs and manifests as each repository has them
	Unique     int64 // what would be free without it: nobody else has these blobs
	Shared     int64 // of blobs that others have as well
	Waiting    int64 // part of it that perhaps no manifest needs, see berth gc --dry-run
}

// RepositoryUsage measures every repository, by name. It reads all links.
func (tx *Tx) RepositoryUsage(ctx context.Context) ([]Usage, error) {
	return tx.usage(ctx, `
		SELECT r.team, r.name, COALESCE(u.blobs, 0), COALESCE(m.manifests, 0),
		       COALESCE(u.logical, 0) + COALESCE(m.bytes, 0), COALESCE(u.unshared, 0) + COALESCE(m.bytes, 0),
		       COALESCE(u.logical, 0) - COALESCE(u.unshared, 0), COALESCE(u.waiting, 0)
		  FROM repositories r
		  LEFT JOIN (SELECT l.repository_id, COUNT(*) AS blobs, CAST(SUM(b.size) AS BIGINT) AS logical,
		                    CAST(SUM(CASE WHEN h.holders = 1 THEN b.size ELSE 0 END) AS BIGINT) AS unshared,
		                    CAST(SUM(CASE WHEN NOT EXISTS (SELECT 1 FROM manifest_blobs n WHERE n.repository_id = l.repository_id AND n.digest = l.digest)
		                                  THEN b.size ELSE 0 END) AS BIGINT) AS waiting
		               FROM repository_blobs l
		               JOIN blobs b ON b.digest = l.digest
		               JOIN (SELECT digest, COUNT(*) AS holders FROM repository_blobs GROUP BY digest) h ON h.digest = l.digest
		              GROUP BY l.repository_id) u ON u.repository_id = r.id
		  LEFT JOIN (SELECT repository_id, COUNT(*) AS manifests, CAST(SUM(size) AS BIGINT) AS bytes
		               FROM manifests GROUP BY repository_id) m ON m.repository_id = r.id
		 ORDER BY r.name`)
}

// smallUsage measures repositories without looking at others: what it costs is
// what these hold, and it does not tell who else has a blob. Subqueries for a value look up each blob; as a join
// Postgres may read all blobs of the instance.
const smallUsage = `
	SELECT r.team, r.name,
	       (SELECT COUNT(*) FROM repository_blobs l WHERE l.repository_id = r.id),
	       (SELECT COUNT(*) FROM manifests m WHERE m.repository_id = r.id),
	       (SELECT CAST(COALESCE(SUM((SELECT b.size FROM blobs b WHERE b.digest = l.digest)), 0) AS BIGINT) FROM repository_blobs l WHERE l.repository_id = r.id)
	     + (SELECT CAST(COALESCE(SUM(m.size), 0) AS BIGINT) FROM manifests m WHERE m.repository_id = r.id), 0, 0,
	       (SELECT CAST(COALESCE(SUM(CASE WHEN (SELECT 1 FROM manifest_blobs n WHERE n.repository_id = l.repository_id AND n.digest = l.digest LIMIT 1) IS NULL
	                                      THEN (SELECT b.size FROM blobs b WHERE b.digest = l.digest) END), 0) AS BIGINT)
	          FROM repository_blobs l WHERE l.repository_id = r.id)
	  FROM `

// UsageOfTeam measures the repositories of a team, by name, behind one. Unique
// and Shared stay 0: they would tell what other teams have. It returns NOT_FOUND for a team that is neither
// there nor has repositories.
func (tx *Tx) UsageOfTeam(ctx context.Context, team, after string, limit int) ([]Usage, error) {
	if err := tx.dialect().PreferIndexes(ctx, tx.sql); err != nil {
		return nil, err
	}
	found, err := tx.usage(ctx, smallUsage+`(SELECT id, team, name FROM repositories WHERE team = $1 AND name > $2 ORDER BY name LIMIT $3) r ORDER BY r.name`,
		team, after, limit)
	if err == nil && len(found) == 0 && after == "" {
		_, err = tx.teamID(ctx, team)
	}
	return found, err
}

// UsageOfRepository is UsageOfTeam for one repository, or returns NAME_UNKNOWN.
func (tx *Tx) UsageOfRepository(ctx context.Context, name string) (Usage, error) {
	if err := tx.dialect().PreferIndexes(ctx, tx.sql); err != nil {
		return Usage{}, err
	}
	found, err := tx.usage(ctx, smallUsage+`repositories r WHERE r.name = $1`, name)
	if err == nil && len(found) == 0 {
		err = oci.Errorf(oci.CodeNameUnknown, "there is no repository %s", name)
	}
	if err != nil {
		return Usage{}, err
	}
	return found[0], nil
}

// TeamUsage measures every team, by name: a blob that several of its
// repositories have is one for Unique and Shared, and several for Logical. It reads all links,
// in the order of digests: nearly every blob belongs to one team, so that nothing has to be sorted or looked up twice.
func (tx *Tx) TeamUsage(ctx context.Context) ([]Usage, error) {
	return tx.usage(ctx, `
		WITH linked AS (SELECT l.digest, COUNT(*) AS links, MIN(r.team) AS lowest, MAX(r.team) AS highest
		                  FROM repository_blobs l CROSS JOIN repositories r WHERE r.id = l.repository_id
		                 GROUP BY l.digest),
		     held AS (SELECT r.team, l.digest, COUNT(*) AS links
		                FROM linked w CROSS JOIN repository_blobs l CROSS JOIN repositories r
		               WHERE w.lowest <> w.highest AND l.digest = w.digest AND r.id = l.repository_id
		               GROUP BY r.team, l.digest)
		SELECT t.team, '', COALESCE(u.blobs, 0), COALESCE(m.manifests, 0),
		       COALESCE(u.logical, 0) + COALESCE(m.bytes, 0), COALESCE(u.unshared, 0) + COALESCE(m.bytes, 0), COALESCE(u.shared, 0), 0
		  FROM (SELECT DISTINCT team FROM repositories) t
		  LEFT JOIN (SELECT team, CAST(SUM(blobs) AS BIGINT) AS blobs, CAST(SUM(logical) AS BIGINT) AS logical,
		                    CAST(SUM(unshared) AS BIGINT) AS unshared, CAST(SUM(shared) AS BIGINT) AS shared
		               FROM (SELECT w.lowest AS team, COUNT(*) AS blobs, SUM(b.size * w.links) AS logical, SUM(b.size) AS unshared, 0 AS shared
		                       FROM linked w CROSS JOIN blobs b
		                      WHERE w.lowest = w.highest AND b.digest = w.digest
		                      GROUP BY w.lowest
		                      UNION ALL
		                     SELECT h.team, COUNT(*), SUM(b.size * h.links), 0, SUM(b.size)
		                       FROM held h CROSS JOIN blobs b
		                      WHERE b.digest = h.digest
		                      GROUP BY h.team) p
		              GROUP BY team) u ON u.team = t.team
		  LEFT JOIN (SELECT r.team, COUNT(*) AS manifests, CAST(SUM(m.size) AS BIGINT) AS bytes
		               FROM manifests m CROSS JOIN repositories r WHERE r.id = m.repository_id GROUP BY r.team) m ON m.team = t.team
		 ORDER BY t.team`)
}

func (tx *Tx) usage(ctx context.Context, query string, args ...any) ([]Usage, error) {
	return list(ctx, tx, func(rows *sql.Rows) (u Usage, err error) {
		return u, rows.Scan(&u.Team, &u.Repository, &u.Blobs, &u.Manifests, &u.Logical, &u.Unique, &u.Shared, &u.Waiting)
	}, query, args...)
}

// StoredBytes is what the store holds for blobs, and what of it no repository has.
type StoredBytes struct {
	Blobs     int64
	Bytes     int64
	Unlinked  int64 // of blobs that no repository has
	Removing  int64 // of collected blobs whose objects are about to go, not in Bytes
	Missing   int64 // blobs whose bytes are known to be lost
	Manifests int64 // in the database
	Uploading int64 // of unfinished uploads, not in Bytes
}

// StoredBytes measures the whole instance. It reads all blobs.
func (tx *Tx) StoredBytes(ctx context.Context) (s StoredBytes, err error) {
	err = tx.row(ctx, `
		SELECT (SELECT COUNT(*) FROM blobs),
		       (SELECT CAST(COALESCE(SUM(size), 0) AS BIGINT) FROM blobs),
		       (SELECT CAST(COALESCE(SUM(b.size), 0) AS BIGINT) FROM gc_blobs q JOIN blobs b ON b.digest = q.digest
		         WHERE NOT EXISTS (SELECT 1 FROM repository_blobs l WHERE l.digest = q.digest)),
		       (SELECT CAST(COALESCE(SUM(size), 0) AS BIGINT) FROM garbage),
		       (SELECT COUNT(*) FROM blobs WHERE missing_since IS NOT NULL),
		       (SELECT CAST(COALESCE(SUM(size), 0) AS BIGINT) FROM manifests),
		       (SELECT CAST(COALESCE(SUM(size), 0) AS BIGINT) FROM uploads)`).
		Scan(&s.Blobs, &s.Bytes, &s.Unlinked, &s.Removing, &s.Missing, &s.Manifests, &s.Uploading)
	return s, err
}
