package metadata

import (
	"context"
	"database/sql"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"berth/oci"
)

// What was deleted stays restorable until the undo window is over: a deleted
// tag or manifest leaves a row that keeps what it named from the collector, as the tag or
// manifest itself did. PurgeDeleted ends that.

// DeletedTag is a tag that can be restored.
type DeletedTag struct {
	ID        int64
	Name      string
	Digest    digest.Digest
	DeletedAt time.Time // by the database's clock
	DeletedBy string    // who, or retention:RULE
}

// DeletedManifest is a manifest that can be restored, with the tags that went
// along.
type DeletedManifest struct {
	ID        int64
	Digest    digest.Digest
	MediaType string
	Size      int64 // bytes of the manifest
	Tags      []string
	DeletedAt time.Time // by the database's clock
	DeletedBy string
}

// buryTags notes tags that are about to be deleted. The condition selects
// rows whose removed_by is set; deletion is the manifest's, or 0.
func (tx *Tx) buryTags(ctx context.Context, deletion int64, condition string, args ...any) error {
	_, err := tx.exec(ctx, `
		INSERT INTO deleted_tags (repository_id, name, digest, created_at, deleted_at, deleted_by, deletion_id)
		SELECT repository_id, name, digest, created_at, `+tx.clock()+`, removed_by, NULLIF(CAST($`+strconv.Itoa(len(args)+1)+` AS BIGINT), 0)
		  FROM tags WHERE removed_by IS NOT NULL AND `+condition, append(slices.Clone(args), deletion)...)
	return err
}

// buryManifest notes a manifest that is about to be deleted, with its references.
func (tx *Tx) buryManifest(ctx context.Context, id int64, actor string) (deletion int64, err error) {
	err = tx.row(ctx, `
		INSERT INTO deleted_manifests (repository_id, digest, media_type, artifact_type, annotations, subject, size,
		                               created_at, created_by, deleted_at, deleted_by, payload)
		SELECT repository_id, digest, media_type, artifact_type, annotations, subject, size,
		       created_at, created_by, `+tx.clock()+`, CAST($2 AS TEXT), payload
		  FROM manifests WHERE id = $1
		RETURNING id`, id, actor).Scan(&deletion)
	if err != nil {
		return 0, err
	}
	_, err = tx.exec(ctx, `
		INSERT INTO deleted_references (deletion_id, kind, repository_id, digest)
		SELECT CAST($2 AS BIGINT), 'blob', repository_id, digest FROM manifest_blobs WHERE manifest_id = $1
		 UNION ALL
		SELECT CAST($2 AS BIGINT), CASE WHEN child_id IS NULL THEN 'waiting' ELSE 'child' END, repository_id, digest
		  FROM manifest_children WHERE manifest_id = $1`, id, deletion)
	return deletion, err
}

// DeletedTags lists what can be restored of a repository's tags, newest first,
// before the id given (0 starts at the newest). It returns NAME_UNKNOWN.
func (tx *Tx) DeletedTags(ctx context.Context, repository string, before int64, limit int) ([]DeletedTag, error) {
	id, err := tx.repositoryID(ctx, repository)
	if err != nil {
		return nil, err
	}
	if before <= 0 {
		before = 1<<63 - 1
	}
	return list(ctx, tx, scanDeletedTag, `
		SELECT id, name, digest, deleted_at, deleted_by FROM deleted_tags
		 WHERE repository_id = $1 AND id < $2 ORDER BY id DESC LIMIT $3`, id, before, limit)
}

func scanDeletedTag(rows *sql.Rows) (d DeletedTag, err error) {
	var at int64
	err = rows.Scan(&d.ID, &d.Name, &d.Digest, &at, &d.DeletedBy)
	d.DeletedAt = fromMicros(at)
	return d, err
}

// DeletedTagsOf lists deleted tags that hold a manifest and whose undo window
// is not over, newest first.
func (tx *Tx) DeletedTagsOf(ctx context.Context, repositoryID int64, d digest.Digest, window time.Duration, limit int) ([]DeletedTag, error) {
	return list(ctx, tx, scanDeletedTag, `
		SELECT id, name, digest, deleted_at, deleted_by FROM deleted_tags
		 WHERE repository_id = $1 AND digest = $2 AND deleted_at > `+tx.clock()+` - $3
		 ORDER BY id DESC LIMIT $4`, repositoryID, string(d), window.Microseconds(), limit)
}

const (
	deletedManifestColumns = `d.id, d.digest, d.media_type, d.size, d.deleted_at, d.deleted_by,
	       COALESCE((SELECT string_agg(t.name, ',' ORDER BY t.name) FROM deleted_tags t WHERE t.deletion_id = d.id), '')`
	deletedManifest = `
	SELECT ` + deletedManifestColumns + `
	  FROM deleted_manifests d `
)

func scanDeletedManifest(rows *sql.Rows) (DeletedManifest, error) {
	return scanDeletedManifestAnd(rows)
}

func scanDeletedManifestAnd(rows *sql.Rows, more ...any) (d DeletedManifest, err error) {
	var at int64
	var tags string
	err = rows.Scan(append([]any{&d.ID, &d.Digest, &d.MediaType, &d.Size, &at, &d.DeletedBy, &tags}, more...)...)
	d.DeletedAt, d.Tags = fromMicros(at), []string{}
	if tags != "" {
		d.Tags = strings.Split(tags, ",")
	}
	return d, err
}

// DeletedManifests is DeletedTags for manifests.
func (tx *Tx) DeletedManifests(ctx context.Context, repository string, before int64, limit int) ([]DeletedManifest, error) {
	id, err := tx.repositoryID(ctx, repository)
	if err != nil {
		return nil, err
	}
	if before <= 0 {
		before = 1<<63 - 1
	}
	return list(ctx, tx, scanDeletedManifest, deletedManifest+`WHERE d.repository_id = $1 AND d.id < $2 ORDER BY d.id DESC LIMIT $3`, id, before, limit)
}

// DeletedManifestsNeeding lists deleted manifests that keep a digest of a
// repository and whose undo window is not over, newest first: kind says whether it is a blob or a child of
// theirs, and subject, if there is one, is what the manifest of the digest refers to.
func (tx *Tx) DeletedManifestsNeeding(ctx context.Context, repositoryID int64, kind string, d, subject digest.Digest, window time.Duration, limit int) ([]DeletedManifest, error) {
	return list(ctx, tx, scanDeletedManifest, deletedManifest+`
		WHERE d.repository_id = $1 AND d.deleted_at > `+tx.clock()+` - $5
		  AND d.id IN (SELECT deletion_id FROM deleted_references WHERE repository_id = $1 AND digest = $2 AND kind = $4
		                UNION ALL SELECT id FROM deleted_manifests WHERE repository_id = $1 AND digest = $3)
		ORDER BY d.id DESC LIMIT $6`, repositoryID, string(d), string(subject), kind, window.Microseconds(), limit)
}

// RepositoryDeletedManifest is a deleted manifest and where it was.
type RepositoryDeletedManifest struct {
	Repository string
	DeletedManifest
}

// DeletedManifestsOf lists a deleted manifest whose undo window is not over
// wherever it was, its last deletion, by the repositories' names, behind one. For people: it
// reads all that was deleted in the window.
func (tx *Tx) DeletedManifestsOf(ctx context.Context, d digest.Digest, window time.Duration, after string, limit int) ([]RepositoryDeletedManifest, error) {
	return list(ctx, tx, func(rows *sql.Rows) (m RepositoryDeletedManifest, err error) {
		m.DeletedManifest, err = scanDeletedManifestAnd(rows, &m.Repository)
		return m, err
	}, `
		SELECT `+deletedManifestColumns+`, r.name
		  FROM deleted_manifests d JOIN repositories r ON r.id = d.repository_id
		 WHERE d.digest = $1 AND d.deleted_at > `+tx.clock()+` - $2 AND r.name > $3
		   AND NOT EXISTS (SELECT 1 FROM deleted_manifests n WHERE n.repository_id = d.repository_id AND n.digest = d.digest AND n.id > d.id)
		 ORDER BY r.name LIMIT $4`, string(d), window.Microseconds(), after, limit)
}

// Restored is what Restore has brought back.
type Restored struct {
	Digest   digest.Digest
	Manifest bool     // the manifest too
	Tags     []string // by name
	Taken    []string // tags of the manifest that were pushed again meanwhile, to something else
}

// Restore brings back a deleted tag, with its manifest if that was deleted as
// well, or (without a tag) a deleted manifest with the tags that went along. With both, the tag as
// it pointed to the digest. All or nothing: it returns NOT_FOUND when there is nothing to
// restore, CONFLICT when the tag points to something else by now, or when
// content that the manifest needs has been collected.
func (tx *Tx) Restore(ctx context.Context, repository, tag string, d digest.Digest, actor Actor) (Restored, error) {
	id, err := tx.repositoryID(ctx, repository)
	if err != nil {
		return Restored{}, err
	}
	if tag == "" {
		return tx.restoreManifest(ctx, repository, id, d, actor)
	}
	var deleted, created int64
	err = tx.row(ctx, `
		SELECT id, digest, created_at FROM deleted_tags
		 WHERE repository_id = $1 AND name = $2 AND ($3 = '' OR digest = $3)
		 ORDER BY id DESC LIMIT 1`+tx.dialect().ForUpdate(), id, tag, string(d)).Scan(&deleted, &d, &created)
	if err != nil {
		return Restored{}, notFound(err, oci.Errorf(oci.CodeNotFound,
			"there is no deleted tag %s in %s that can be restored: it was not deleted, it points elsewhere, or its undo window is over", tag, repository))
	}
	r := Restored{Digest: d, Tags: []string{tag}}
	var manifest int64
	err = tx.row(ctx, `SELECT id FROM manifests WHERE repository_id = $1 AND digest = $2`+tx.dialect().KeyShare(), id, string(d)).Scan(&manifest)
	if errors.Is(err, sql.ErrNoRows) {
		if err = tx.unbury(ctx, repository, id, d); errors.Is(err, oci.ErrNotFound) {
			err = oci.Errorf(oci.CodeConflict, "the tag %s cannot be restored: its manifest %s has been collected; push the image again", tag, d)
		}
		r.Manifest = true
	}
	if err != nil {
		return Restored{}, err
	}
	other, err := tx.restoreTag(ctx, repository, id, tag, d, created, actor)
	if err != nil {
		return Restored{}, err
	}
	if other != nil {
		return Restored{}, oci.Errorf(oci.CodeConflict, "the tag %s of %s exists again: it points to %s since %s, pushed by %s. Delete it first, or pull the deleted image by its digest %s",
			tag, repository, other.Digest, other.UpdatedAt.Format(time.RFC3339), other.UpdatedBy, d)
	}
	_, err = tx.exec(ctx, `DELETE FROM deleted_tags WHERE id = $1`, deleted)
	return r, err
}

// restoreManifest is Restore for a manifest and the tags that went along.
func (tx *Tx) restoreManifest(ctx context.Context, repository string, id int64, d digest.Digest, actor Actor) (Restored, error) {
	r := Restored{Digest: d, Manifest: true}
	type tombstone struct {
		id, created int64
		name        string
	}
	tags, err := list(ctx, tx, func(rows *sql.Rows) (t tombstone, err error) {
		return t, rows.Scan(&t.id, &t.name, &t.created)
	}, `
		SELECT id, name, created_at FROM deleted_tags
		 WHERE deletion_id = (SELECT MAX(id) FROM deleted_manifests WHERE repository_id = $1 AND digest = $2)
		 ORDER BY name`, id, string(d))
	if err != nil {
		return Restored{}, err
	}
	if err := tx.unbury(ctx, repository, id, d); err != nil {
		return Restored{}, err
	}
	for _, t := range tags {
		other, err := tx.restoreTag(ctx, repository, id, t.name, d, t.created, actor)
		if err != nil {
			return Restored{}, err
		}
		if other != nil {
			r.Taken = append(r.Taken, t.name)
			continue
		}
		r.Tags = append(r.Tags, t.name)
		if _, err := tx.exec(ctx, `DELETE FROM deleted_tags WHERE id = $1`, t.id); err != nil {
			return Restored{}, err
		}
	}
	return r, nil
}

// unbury makes a deleted manifest one of the repository again.
func (tx *Tx) unbury(ctx context.Context, repository string, repositoryID int64, d digest.Digest) error {
	var deletion, created int64
	var annotations string
	m := Manifest{Digest: d}
	err := tx.row(ctx, `
		SELECT id, media_type, artifact_type, annotations, COALESCE(subject, ''), size, created_at, created_by, payload
		  FROM deleted_manifests WHERE repository_id = $1 AND digest = $2
		 ORDER BY id DESC LIMIT 1`+tx.dialect().ForUpdate(), repositoryID, string(d)).
		Scan(&deletion, &m.MediaType, &m.ArtifactType, &annotations, &m.Subject, &m.Size, &created, &m.CreatedBy, &m.Payload)
	if err != nil {
		return notFound(err, oci.Errorf(oci.CodeNotFound,
			"there is no deleted manifest %s in %s that can be restored: it was not deleted, or its undo window is over", d, repository))
	}
	m.CreatedAt = fromMicros(created)
	if m.Annotations, err = readAnnotations(annotations); err != nil {
		return err
	}
	of := map[string][]digest.Digest{}
	err = tx.each(ctx, func(rows *sql.Rows) error {
		var kind string
		var one digest.Digest
		err := rows.Scan(&kind, &one)
		of[kind] = append(of[kind], one)
		return err
	}, `SELECT kind, digest FROM deleted_references WHERE deletion_id = $1`, deletion)
	if err != nil {
		return err
	}
	found, err := tx.references(ctx, repositoryID, References{Blobs: of["blob"], Children: of["child"]})
	if err != nil {
		return err
	}
	missing := found.missing
	if len(missing) == 0 {
		_, err = tx.PutManifest(ctx, repositoryID, m, of["blob"], slices.Concat(of["child"], of["waiting"]), len(of["waiting"]) > 0)
	}
	if len(missing) > 0 || errors.Is(err, oci.ErrManifestBlobUnknown) {
		refused := oci.Errorf(oci.CodeConflict, "the manifest %s cannot be restored, because content that it needs is deleted: push the image again, or restore the missing manifests first", d)
		if len(missing) > 0 {
			refused = refused.WithDetail(map[string]any{"missing": missing})
			refused.Message += ". Missing: " + missing[0].String()
		}
		return refused
	}
	if err != nil {
		return err
	}
	_, err = tx.exec(ctx, `DELETE FROM deleted_manifests WHERE repository_id = $1 AND digest = $2`, repositoryID, string(d))
	return err
}

// restoreTag makes a tag again that has been there since a time. A tag of the same name
// that points elsewhere is left alone and given back.
func (tx *Tx) restoreTag(ctx context.Context, repository string, repositoryID int64, name string, d digest.Digest, created int64, actor Actor) (*Tag, error) {
	n, err := tx.exec(ctx, `
		INSERT INTO tags (repository_id, name, digest, created_at, updated_at, updated_by, claims)
		VALUES ($1, $2, $3, $4, $5, $6, $7)
		ON CONFLICT (repository_id, name) DO NOTHING`, repositoryID, name, string(d), created, micros(tx.now), actor.Name, actor.claims())
	switch {
	case err != nil && tx.dialect().IsForeignKey(err):
		return nil, oci.Errorf(oci.CodeConflict, "the manifest %s was deleted while it was tagged: restore it again", d).WithCause(err)
	case err != nil && !tx.dialect().IsTriggered(err): // SQLite's trigger tags_replace: the tag is there
		return nil, err
	case n > 0:
		return nil, nil
	}
	t, err := tx.Tag(ctx, repository, name)
	if err != nil || t.Digest == d {
		return nil, err
	}
	return &t, nil
}

// PurgeDeleted forgets what was deleted before the undo window, in one pass,
// and hands what it kept to the collector, as unused since it was deleted.
func (tx *Tx) PurgeDeleted(ctx context.Context, window time.Duration) (Pass, error) {
	now, err := tx.gcTime(ctx)
	if err != nil {
		return Pass{}, err
	}
	before := micros(now.Add(-window))
	tags, err := tx.purgeTags(ctx, before)
	if err != nil {
		return Pass{}, err
	}
	manifests, err := tx.purgeManifests(ctx, before)
	return Pass{Looked: tags + manifests}, err
}

// retentionActor is how the history names a retention rule.
const retentionActor = "retention:"

func (tx *Tx) purgeTags(ctx context.Context, before int64) (int, error) {
	type tombstone struct {
		id, at   int64
		manifest sql.NullInt64
		by       string
	}
	due, err := list(ctx, tx, func(rows *sql.Rows) (t tombstone, err error) {
		return t, rows.Scan(&t.id, &t.at, &t.by, &t.manifest)
	}, `
		SELECT d.id, d.deleted_at, d.deleted_by,
		       (SELECT m.id FROM manifests m WHERE m.repository_id = d.repository_id AND m.digest = d.digest)
		  FROM deleted_tags d
		 WHERE d.deleted_at <= $1 ORDER BY d.deleted_at, d.id LIMIT $2`+tx.dialect().SkipLocked("d"), before, GCBatch)
	if err != nil || len(due) == 0 {
		return 0, err
	}
	// The last deletion decides. What retention has let go goes, whatever the
	// lifetime of untagged manifests is: settled, to be released at once.
	last := map[int64]tombstone{}
	for _, t := range due {
		if t.manifest.Valid {
			last[t.manifest.Int64] = t
		}
	}
	var manifests []int64
	for id := range last {
		manifests = append(manifests, id)
	}
	slices.Sort(manifests)
	// What is queued for something newer stays. The deletion itself has queued the
	// manifest too, by a statement after the one that wrote the tombstone, hence the second.
	for _, id := range manifests {
		t := last[id]
		var release any
		if strings.HasPrefix(t.by, retentionActor) {
			release = t.at
		}
		_, err := tx.exec(ctx, `
			INSERT INTO gc_manifests (manifest_id, reason, settled, enqueued_at, release_at) VALUES ($1, 'untagged', $2, $3, $4)
			ON CONFLICT (manifest_id) DO UPDATE
			   SET reason = excluded.reason, settled = excluded.settled, enqueued_at = excluded.enqueued_at, release_at = excluded.release_at
			 WHERE gc_manifests.enqueued_at <= excluded.enqueued_at
			    OR gc_manifests.reason = 'untagged' AND gc_manifests.enqueued_at <= excluded.enqueued_at + 1000000`, id, release != nil, t.at, release)
		if err != nil {
			return 0, err
		}
	}
	in, args := inIDs(1, due, func(t tombstone) int64 { return t.id })
	_, err = tx.exec(ctx, `DELETE FROM deleted_tags WHERE id IN `+in, args...)
	return len(due), err
}

// purgeBatch is how many deleted manifests are forgotten in one pass: so few that the
// database finds what they reference by index.
const purgeBatch = 32

func (tx *Tx) purgeManifests(ctx context.Context, before int64) (int, error) {
	type tombstone struct {
		id, repository, at int64
		digest             string
	}
	due, err := list(ctx, tx, func(rows *sql.Rows) (t tombstone, err error) {
		return t, rows.Scan(&t.id, &t.repository, &t.digest, &t.at)
	}, `
		SELECT id, repository_id, digest, deleted_at FROM deleted_manifests
		 WHERE deleted_at <= $1 ORDER BY deleted_at, id LIMIT $2`+tx.dialect().SkipLocked("deleted_manifests"), before, purgeBatch)
	if err != nil || len(due) == 0 {
		return 0, err
	}
	for _, t := range due { // referrers
		_, err := tx.exec(ctx, `
			INSERT INTO gc_manifests (manifest_id, reason, enqueued_at)
			SELECT id, 'subject', CAST($3 AS BIGINT) FROM manifests WHERE repository_id = $1 AND subject = $2 ORDER BY id
			ON CONFLICT (manifest_id) DO UPDATE SET reason = excluded.reason, settled = FALSE, enqueued_at = excluded.enqueued_at
			 WHERE gc_manifests.enqueued_at <= excluded.enqueued_at`, t.repository, t.digest, t.at)
		if err != nil {
			return 0, err
		}
	}
	in, args := inIDs(1, due, func(t tombstone) int64 { return t.id })
	for _, statement := range []string{`
		INSERT INTO gc_links (repository_id, digest, enqueued_at)
		SELECT r.repository_id, r.digest, MAX((SELECT d.deleted_at FROM deleted_manifests d WHERE d.id = r.deletion_id))
		  FROM deleted_references r
		  JOIN repository_blobs l ON l.repository_id = r.repository_id AND l.digest = r.digest
		 WHERE r.deletion_id IN ` + in + ` AND r.kind = 'blob'
		 GROUP BY r.repository_id, r.digest ORDER BY r.repository_id, r.digest
		ON CONFLICT (repository_id, digest) DO UPDATE SET enqueued_at = excluded.enqueued_at
		 WHERE gc_links.enqueued_at <= excluded.enqueued_at`, `
		INSERT INTO gc_manifests (manifest_id, reason, enqueued_at)
		SELECT m.id, 'index', MAX((SELECT d.deleted_at FROM deleted_manifests d WHERE d.id = r.deletion_id))
		  FROM deleted_references r
		  JOIN manifests m ON m.repository_id = r.repository_id AND m.digest = r.digest
		 WHERE r.deletion_id IN ` + in + ` AND r.kind = 'child'
		 GROUP BY m.id ORDER BY m.id
		ON CONFLICT (manifest_id) DO UPDATE SET reason = excluded.reason, settled = FALSE, enqueued_at = excluded.enqueued_at
		 WHERE gc_manifests.enqueued_at <= excluded.enqueued_at`,
		`DELETE FROM deleted_manifests WHERE id IN ` + in,
	} {
		if _, err := tx.exec(ctx, statement, args...); err != nil {
			return 0, err
		}
	}
	return len(due), nil
}
