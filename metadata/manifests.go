package metadata

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"berth/oci"
)

// Manifest is a manifest as a repository holds it.
type Manifest struct {
	ID           int64 // of its row
	Digest       digest.Digest
	MediaType    string
	ArtifactType string            // as the referrers API reports it
	Annotations  map[string]string // filled by Referrers only
	Subject      digest.Digest     // "" for none
	Payload      []byte            // exactly as pushed; empty where only the head was asked for
	Size         int64
	CreatedAt    time.Time
	CreatedBy    string
}

const (
	manifestHead = `m.id, m.digest, m.media_type, m.artifact_type, COALESCE(m.subject, ''), m.size, m.created_at, m.created_by`
	byDigest     = ` FROM repositories r
	  JOIN manifests m ON m.repository_id = r.id
	 WHERE r.name = $1 AND m.digest = $2`
	byTag = ` FROM repositories r
	  JOIN tags t ON t.repository_id = r.id
	  JOIN manifests m ON m.repository_id = t.repository_id AND m.digest = t.digest
	 WHERE r.name = $1 AND t.name = $2`
)

func scanManifest(scan func(...any) error, more ...any) (Manifest, error) {
	var m Manifest
	var created int64
	err := scan(append([]any{&m.ID, &m.Digest, &m.MediaType, &m.ArtifactType, &m.Subject, &m.Size, &created, &m.CreatedBy}, more...)...)
	m.CreatedAt = fromMicros(created)
	return m, err
}

// ManifestByDigest gives a manifest with its payload, or MANIFEST_UNKNOWN, or
// NAME_UNKNOWN when there is no such repository. One statement when it is there.
func (tx *Tx) ManifestByDigest(ctx context.Context, repository string, d digest.Digest) (Manifest, error) {
	return tx.manifest(ctx, `SELECT `+manifestHead+`, m.payload`+byDigest, true, repository, string(d))
}

// ManifestByTag is ManifestByDigest for the manifest that a tag points to.
func (tx *Tx) ManifestByTag(ctx context.Context, repository, tag string) (Manifest, error) {
	return tx.manifest(ctx, `SELECT `+manifestHead+`, m.payload`+byTag, true, repository, tag)
}

// ManifestHeadByDigest is ManifestByDigest without the payload.
func (tx *Tx) ManifestHeadByDigest(ctx context.Context, repository string, d digest.Digest) (Manifest, error) {
	return tx.manifest(ctx, `SELECT `+manifestHead+byDigest, false, repository, string(d))
}

// ManifestHeadByTag is ManifestByTag without the payload.
func (tx *Tx) ManifestHeadByTag(ctx context.Context, repository, tag string) (Manifest, error) {
	return tx.manifest(ctx, `SELECT `+manifestHead+byTag, false, repository, tag)
}

func (tx *Tx) manifest(ctx context.Context, query string, payload bool, repository, reference string) (Manifest, error) {
	m, err := remember(ctx, tx, func(query string, args []any) (m Manifest, size int, err error) {
		row := tx.row(ctx, query, args...)
		if payload {
			var bytes []byte
			m, err = scanManifest(row.Scan, &bytes)
			m.Payload = bytes
		} else {
			m, err = scanManifest(row.Scan)
		}
		return m, 2*len(m.Digest) + len(m.MediaType) + len(m.ArtifactType) + len(m.CreatedBy) + len(m.Payload), err
	}, query, repository, reference)
	if errors.Is(err, sql.ErrNoRows) {
		return Manifest{}, tx.errManifestUnknown(ctx, repository, reference)
	}
	return m, err
}

// errManifestUnknown tells a missing manifest from a missing repository.
func (tx *Tx) errManifestUnknown(ctx context.Context, repository, reference string) error {
	var id int64
	if err := tx.row(ctx, `SELECT id FROM repositories WHERE name = $1`, repository).Scan(&id); err != nil {
		return notFound(err, errRepositoryUnknown(repository))
	}
	return oci.Errorf(oci.CodeManifestUnknown, "there is no manifest %s in the repository %s", reference, repository)
}

// PutManifest stores a manifest with what it references. A manifest that is
// there already stays as it is. Blobs and children that the repository lacks
// end in MANIFEST_BLOB_UNKNOWN, which names all of them; with allowSparse,
// children may be missing and are tied when they arrive. The error is a NAME_UNKNOWN when
// the repository is deleted at this moment.
func (tx *Tx) PutManifest(ctx context.Context, repositoryID int64, m Manifest, blobs, children []digest.Digest, allowSparse bool) (created bool, err error) {
	return tx.PushManifest(ctx, repositoryID, m, References{Blobs: blobs, Children: children, Sparse: allowSparse})
}

// References is what a manifest needs of its repository.
type References struct {
	Blobs    []digest.Digest
	Children []digest.Digest // manifests
	// Entries of an index are manifests, or blobs where there is no such manifest.
	Entries []digest.Digest
	Sparse  bool // Children and Entries may be missing
	// Check is given the sizes, in bytes, of all that is there, and may refuse; nil takes everything. It
	// is not called for a manifest that is there already.
	Check func(sizes map[digest.Digest]int64) error
}

// PushManifest is PutManifest for references of which more is to be known.
func (tx *Tx) PushManifest(ctx context.Context, repositoryID int64, m Manifest, refs References) (created bool, err error) {
	var id int64
	// The row is locked (on Postgres) until a tag's foreign key holds it, so that
	// a collector cannot take the manifest away in between.
	err = tx.row(ctx, `SELECT id FROM manifests WHERE repository_id = $1 AND digest = $2`+tx.dialect().KeyShare(), repositoryID, string(m.Digest)).Scan(&id)
	if err == nil {
		// Its grace period begins anew, as that of a new one does. It may be in no
		// queue, and held only by a deleted tag whose undo window ends at this moment.
		_, err = tx.exec(ctx, `
			INSERT INTO gc_manifests (manifest_id, reason, enqueued_at) VALUES ($1, 'pushed', `+tx.clock()+`)
			ON CONFLICT (manifest_id) DO UPDATE SET reason = excluded.reason, settled = FALSE, enqueued_at = excluded.enqueued_at`, id)
	}
	if !errors.Is(err, sql.ErrNoRows) {
		return false, err
	}
	found, err := tx.references(ctx, repositoryID, refs)
	if err != nil {
		return false, err
	}
	if len(found.missing) > 0 {
		return false, errReferencesMissing(found)
	}
	if refs.Check != nil {
		if err := refs.Check(found.sizes); err != nil {
			return false, err
		}
	}
	annotations := ""
	if len(m.Annotations) > 0 {
		text, err := json.Marshal(m.Annotations)
		if err != nil {
			return false, fmt.Errorf("encoding annotations: %w", err)
		}
		annotations = string(text)
	}
	since := tx.now
	if !m.CreatedAt.IsZero() { // it is restored
		since = m.CreatedAt
	}
	var subject any
	if m.Subject != "" {
		subject = string(m.Subject)
	}
	err = tx.row(ctx, `
		INSERT INTO manifests (repository_id, digest, media_type, artifact_type, annotations, subject,
		                       payload, size, created_at, created_by)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
		ON CONFLICT (repository_id, digest) DO NOTHING
		RETURNING id`,
		repositoryID, string(m.Digest), m.MediaType, m.ArtifactType, annotations, subject,
		m.Payload, int64(len(m.Payload)), micros(since), m.CreatedBy).Scan(&id)
	switch {
	case errors.Is(err, sql.ErrNoRows): // the same manifest, pushed at the same moment
		return false, nil
	case err != nil && tx.dialect().IsForeignKey(err):
		return false, errRepositoryGone(err)
	case err != nil:
		return false, err
	}
	if err := tx.insertReferences(ctx, id, repositoryID, found.blobs, found.children, found.ids); err != nil {
		if tx.dialect().IsForeignKey(err) {
			return false, oci.Errorf(oci.CodeManifestBlobUnknown, "content that the manifest references was deleted while it was pushed: push it again").WithCause(err)
		}
		return false, err
	}
	// The trigger manifests_adopted has tied it to sparse indexes that waited for it.
	return true, nil
}

func sorted(digests []digest.Digest) []digest.Digest {
	s := slices.Clone(digests)
	slices.Sort(s) // one order for all transactions, so that their locks cannot cross
	return slices.Compact(s)
}

// inList bounds how many digests one statement carries.
const inList = 256

// inArgs gives "($from, $from+1, ...)" and the arguments for a chunk of digests. The
// list is padded with its last element to a power of two, so that there are
// few different texts to prepare.
func inArgs(from int, chunk []digest.Digest) (string, []any) {
	n := 1
	for n < len(chunk) {
		n *= 2
	}
	var b strings.Builder
	args := make([]any, 0, n)
	for i := range n {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString("$" + strconv.Itoa(from+i))
		args = append(args, string(chunk[min(i, len(chunk)-1)]))
	}
	return "(" + b.String() + ")", args
}

// found is what a repository has of a manifest's references.
type found struct {
	blobs, children []digest.Digest // what to tie, in the order of all transactions
	ids             map[digest.Digest]int64
	sizes           map[digest.Digest]int64 // of all that is there
	missing         []digest.Digest
	misplaced       []digest.Digest // those missing that are there as blobs, but have to be manifests
}

// references finds what is there of a manifest's references, and what is missing.
func (tx *Tx) references(ctx context.Context, repositoryID int64, refs References) (found, error) {
	f := found{blobs: sorted(refs.Blobs), ids: map[digest.Digest]int64{}, sizes: map[digest.Digest]int64{}}
	if err := tx.blobSizes(ctx, repositoryID, f.blobs, f.sizes); err != nil {
		return found{}, err
	}
	for _, d := range f.blobs {
		if _, ok := f.sizes[d]; !ok {
			f.missing = append(f.missing, d)
		}
	}
	all := sorted(slices.Concat(refs.Children, refs.Entries))
	for chunk := range slices.Chunk(all, inList) {
		in, args := inArgs(2, chunk)
		err := tx.each(ctx, func(rows *sql.Rows) error {
			var d digest.Digest
			var id, size int64
			err := rows.Scan(&d, &id, &size)
			f.ids[d], f.sizes[d] = id, size
			return err
		}, `SELECT digest, id, size FROM manifests WHERE repository_id = $1 AND digest IN `+in, append([]any{repositoryID}, args...)...)
		if err != nil {
			return found{}, err
		}
	}
	var rest []digest.Digest
	for _, d := range all {
		if _, ok := f.ids[d]; ok {
			f.children = append(f.children, d)
		} else {
			rest = append(rest, d)
		}
	}
	if len(rest) == 0 {
		return f, nil
	}
	sizes := map[digest.Digest]int64{}
	if err := tx.blobSizes(ctx, repositoryID, rest, sizes); err != nil {
		return found{}, err
	}
	manifests := sorted(refs.Children)
	for _, d := range rest {
		size, isBlob := sizes[d]
		_, isManifest := slices.BinarySearch(manifests, d)
		switch {
		case isBlob && !isManifest:
			f.blobs = append(f.blobs, d)
			f.sizes[d] = size
		case refs.Sparse:
			f.children = append(f.children, d)
		default:
			f.missing = append(f.missing, d)
			if isBlob {
				f.misplaced = append(f.misplaced, d)
			}
		}
	}
	f.blobs, f.children = sorted(f.blobs), sorted(f.children)
	return f, nil
}

// blobSizes adds the sizes, in bytes, of those of the digests that are blobs of the repository.
func (tx *Tx) blobSizes(ctx context.Context, repositoryID int64, digests []digest.Digest, sizes map[digest.Digest]int64) error {
	for chunk := range slices.Chunk(digests, inList) {
		in, args := inArgs(2, chunk)
		err := tx.each(ctx, func(rows *sql.Rows) error {
			var d digest.Digest
			var size int64
			err := rows.Scan(&d, &size)
			sizes[d] = size
			return err
		}, `
			SELECT l.digest, b.size FROM repository_blobs l JOIN blobs b ON b.digest = l.digest
			 WHERE l.repository_id = $1 AND b.missing_since IS NULL AND l.digest IN `+in, append([]any{repositoryID}, args...)...)
		if err != nil {
			return err
		}
	}
	return nil
}

func errReferencesMissing(f found) *oci.Error {
	const named = 3
	names := func(digests []digest.Digest) string {
		var names []string
		for _, d := range digests[:min(named, len(digests))] {
			names = append(names, d.String())
		}
		text := strings.Join(names, ", ")
		if len(digests) > named {
			text += fmt.Sprintf(" and %d more", len(digests)-named)
		}
		return text
	}
	if len(f.misplaced) == len(f.missing) {
		return oci.Errorf(oci.CodeManifestBlobUnknown, "the index lists as manifests what this repository has only as blobs: %s; push it as a manifest (PUT /v2/<name>/manifests/<digest>) first", names(f.missing)).
			WithDetail(map[string]any{"missing": f.missing})
	}
	return oci.Errorf(oci.CodeManifestBlobUnknown, "the manifest references content that is not in this repository: %s; push it first", names(f.missing)).
		WithDetail(map[string]any{"missing": f.missing})
}

// rowsPerInsert keeps the parameters of one statement well below both engines' limits.
const rowsPerInsert = 256

func (tx *Tx) insertReferences(ctx context.Context, id, repositoryID int64, blobs, children []digest.Digest, childIDs map[digest.Digest]int64) error {
	for chunk := range slices.Chunk(blobs, rowsPerInsert) {
		args := []any{id, repositoryID}
		var values []string
		for _, d := range chunk {
			args = append(args, string(d))
			values = append(values, "($1, $2, $"+strconv.Itoa(len(args))+")")
		}
		if _, err := tx.exec(ctx, `INSERT INTO manifest_blobs (manifest_id, repository_id, digest) VALUES `+strings.Join(values, ", "), args...); err != nil {
			return err
		}
	}
	for chunk := range slices.Chunk(children, rowsPerInsert) {
		args := []any{id, repositoryID}
		var values []string
		for _, d := range chunk {
			var child any
			if childID, ok := childIDs[d]; ok {
				child = childID
			}
			args = append(args, string(d), child)
			values = append(values, "($1, $2, $"+strconv.Itoa(len(args)-1)+", $"+strconv.Itoa(len(args))+")")
		}
		if _, err := tx.exec(ctx, `INSERT INTO manifest_children (manifest_id, repository_id, digest, child_id) VALUES `+strings.Join(values, ", "), args...); err != nil {
			return err
		}
	}
	return nil
}

// DeleteManifest removes a manifest and the tags that point to it, and names
// those tags. Restore can bring them back. It returns MANIFEST_UNKNOWN or NAME_UNKNOWN, CONFLICT while an index needs the
// manifest, or DENIED (409) when one of its tags is sealed.
func (tx *Tx) DeleteManifest(ctx context.Context, repository string, d digest.Digest, actor Actor) ([]string, error) {
	var id, repositoryID int64
	err := tx.row(ctx, `SELECT m.id, m.repository_id`+byDigest, repository, string(d)).Scan(&id, &repositoryID)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, tx.errManifestUnknown(ctx, repository, d.String())
	}
	if err != nil {
		return nil, err
	}
	// The lock stops pushes of tags and indexes: their foreign keys wait for
	// this row, then fail.
	err = tx.row(ctx, `SELECT id FROM manifests WHERE id = $1`+tx.dialect().ForUpdate(), id).Scan(&id)
	if err != nil {
		return nil, notFound(err, oci.Errorf(oci.CodeManifestUnknown, "the manifest %s was deleted by somebody else", d))
	}
	parents, err := list(ctx, tx, scanString, `
		SELECT m.digest FROM manifest_children c JOIN manifests m ON m.id = c.manifest_id
		 WHERE c.child_id = $1 ORDER BY m.id LIMIT 3`, id)
	if err != nil {
		return nil, err
	}
	if len(parents) > 0 {
		return nil, errManifestInUse(d, parents)
	}
	deletion, err := tx.buryManifest(ctx, id, actor.Name)
	if err != nil {
		return nil, err
	}
	tags, err := tx.deleteTags(ctx, repository, repositoryID, actor, string(d), deletion)
	if err != nil {
		return nil, err
	}
	if _, err := tx.exec(ctx, `DELETE FROM manifests WHERE id = $1`, id); err != nil {
		if tx.dialect().IsForeignKey(err) {
			return nil, errManifestInUse(d, nil).WithCause(err)
		}
		return nil, err
	}
	return tags, nil
}

func errManifestInUse(d digest.Digest, parents []string) *oci.Error {
	needed := "an index or a tag that was just pushed"
	if len(parents) > 0 {
		needed = "the index " + strings.Join(parents, ", ")
	}
	return oci.Errorf(oci.CodeConflict, "the manifest %s is needed by %s: delete that first", d, needed).
		WithDetail(map[string]any{"digest": d, "indexes": parents})
}

// Referrers lists manifests whose subject is the digest, ordered by their own
// digests, after the one given; an artifactType of "" selects all. Without payloads.
// An unknown repository has none.
func (tx *Tx) Referrers(ctx context.Context, repository string, subject digest.Digest, artifactType string, after digest.Digest, limit int) ([]Manifest, error) {
	where, args := "", []any{repository, string(subject), string(after), limit}
	if artifactType != "" {
		where, args = " AND m.artifact_type = $5", append(args, artifactType)
	}
	return list(ctx, tx, scanReferrer, `
		SELECT `+manifestHead+`, m.annotations
		  FROM repositories r JOIN manifests m ON m.repository_id = r.id
		 WHERE r.name = $1 AND m.subject = $2 AND m.digest > $3`+where+`
		 ORDER BY m.digest LIMIT $4`, args...)
}

func scanReferrer(rows *sql.Rows) (Manifest, error) {
	var annotations string
	m, err := scanManifest(rows.Scan, &annotations)
	if err == nil {
		m.Annotations, err = readAnnotations(annotations)
	}
	return m, err
}

func readAnnotations(text string) (annotations map[string]string, err error) {
	if text != "" {
		err = json.Unmarshal([]byte(text), &annotations)
	}
	return annotations, err
}

// ManifestHeads gives those of the digests that the repository holds, with
// annotations and without payloads. At most 256 digests.
func (tx *Tx) ManifestHeads(ctx context.Context, repository string, digests []digest.Digest) ([]Manifest, error) {
	if len(digests) == 0 {
		return nil, nil
	}
	if len(digests) > inList {
		return nil, fmt.Errorf("ManifestHeads takes at most %d digests, got %d", inList, len(digests))
	}
	in, args := inArgs(2, digests)
	return list(ctx, tx, scanReferrer, `
		SELECT `+manifestHead+`, m.annotations
		  FROM repositories r JOIN manifests m ON m.repository_id = r.id
		 WHERE r.name = $1 AND m.digest IN `+in, append([]any{repository}, args...)...)
}
