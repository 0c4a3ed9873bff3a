package metadata

import (
	"context"
	"database/sql"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
)

// GCBatch is how many candidates one pass of the collector looks at, at most.
const GCBatch = inList

// The kinds of things that the collector takes away.
const (
	CollectedManifest = "manifest"
	CollectedLink     = "link" // a repository serves a blob no longer
	CollectedBlob     = "blob" // no repository had it; its object is garbage now
	CollectedTag      = "tag"  // by retention
)

// Collected is something that a pass of the collector took away.
type Collected struct {
	Kind       string
	Repository string // "" for a blob
	Digest     digest.Digest
	Size       int64     // bytes; of a link, those of the blob
	Reason     string    // of a manifest: pushed, untagged, index or subject, see migrations
	Since      time.Time // since when it was a candidate
}

// Pass is what one pass of the collector did. Looked counts the candidates that
// have left the queue or their place in it; none is the end of the work.
type Pass struct {
	Looked int
	Gone   []Collected
}

// gcTime is the clock of the queues, which triggers write: the database's.
func (tx *Tx) gcTime(ctx context.Context) (time.Time, error) {
	var us int64
	err := tx.row(ctx, `SELECT `+tx.clock()).Scan(&us)
	return fromMicros(us), err
}

// held is what keeps manifest m: a tag, an index that lists it, or the
// presence of its subject; or one of these that was deleted and can be restored.
const held = `(EXISTS (SELECT 1 FROM tags t WHERE t.repository_id = m.repository_id AND t.digest = m.digest)
	    OR EXISTS (SELECT 1 FROM manifest_children c WHERE c.child_id = m.id)
	    OR EXISTS (SELECT 1 FROM manifests s WHERE s.repository_id = m.repository_id AND s.digest = m.subject)
	    OR EXISTS (SELECT 1 FROM deleted_tags t WHERE t.repository_id = m.repository_id AND t.digest = m.digest)
	    OR EXISTS (SELECT 1 FROM deleted_references c WHERE c.repository_id = m.repository_id AND c.digest = m.digest AND c.kind = 'child')
	    OR EXISTS (SELECT 1 FROM deleted_manifests s WHERE s.repository_id = m.repository_id AND s.digest = m.subject))`

// manifestCandidate is a row of gc_manifests with the manifest that it is about.
type manifestCandidate struct {
	Collected
	id      int64
	ttl     sql.NullInt64 // of the nearest policy, microseconds; 0 keeps
	release sql.NullInt64 // release_at
}

// expired reports whether a manifest that nothing holds goes now.
func (c manifestCandidate) expired(now time.Time, grace, untaggedTTL time.Duration) bool {
	if c.Reason == "subject" || c.release.Valid && c.release.Int64 == micros(c.Since) { // retention
		return true
	}
	if c.ttl.Valid {
		untaggedTTL = time.Duration(c.ttl.Int64) * time.Microsecond
	}
	return untaggedTTL > 0 && !c.Since.After(now.Add(-untaggedAge(grace, untaggedTTL)))
}

// untaggedAge is how long nothing has to hold a manifest. SQLite's clock counts milliseconds.
func untaggedAge(grace, ttl time.Duration) time.Duration {
	return max(grace, ttl.Truncate(time.Millisecond))
}

// settle notes which policy releases manifests that nothing holds, and when.
// What retention has let go stays so.
const settle = `
	UPDATE gc_manifests SET settled = TRUE, release_at = (
	       SELECT CASE v.untagged_ttl WHEN 0 THEN 9223372036854775807 ELSE gc_manifests.enqueued_at + v.untagged_ttl END
	         FROM manifests m JOIN repository_retention v ON v.repository_id = m.repository_id
	        WHERE m.id = gc_manifests.manifest_id AND v.untagged_ttl IS NOT NULL)
	 WHERE (NOT settled OR release_at IS NULL OR release_at <> enqueued_at) AND manifest_id IN `

// ReviewUntagged looks again at manifests that only a policy keeps, after one
// of a team or a repository has changed, in one pass.
func (tx *Tx) ReviewUntagged(ctx context.Context) (Pass, error) {
	var after sql.NullInt64
	err := tx.row(ctx, `SELECT review_after FROM retention_state WHERE id = 1`+tx.dialect().ForUpdate()).Scan(&after)
	if err != nil || !after.Valid {
		return Pass{}, err
	}
	ids, err := list(ctx, tx, scanID, `SELECT manifest_id FROM gc_manifests WHERE settled AND manifest_id > $1 ORDER BY manifest_id LIMIT $2`, after.Int64, GCBatch)
	if err != nil {
		return Pass{}, err
	}
	if len(ids) > 0 {
		in, args := inIDs(1, ids, func(id int64) int64 { return id })
		if _, err := tx.exec(ctx, settle+in, args...); err != nil {
			return Pass{}, err
		}
		after.Int64 = ids[len(ids)-1]
	}
	after.Valid = len(ids) == GCBatch
	_, err = tx.exec(ctx, `UPDATE retention_state SET review_after = $1 WHERE id = 1`, after)
	return Pass{Looked: len(ids)}, err
}

// CollectManifests deletes manifests that nothing holds, in one pass: those
// whose subject was deleted, those whose tag retention has let go, and others that have been so
// for the nearest policy's lifetime of untagged manifests, else for untaggedTTL; 0 keeps them.
// Nothing is touched before the grace period is over.
//
// A pusher who tags the manifest or lists it in an index at this moment either
// comes first, and it stays, or finds it gone and pushes it anew: the pass
// locks the rows that the pusher's foreign keys need, skips those that are
// locked already, and looks only then.
func (tx *Tx) CollectManifests(ctx context.Context, grace, untaggedTTL time.Duration) (Pass, error) {
	now, err := tx.gcTime(ctx)
	if err != nil {
		return Pass{}, err
	}
	// A row of a manifest that is gone is of no use; usually there is none. Looking
	// at the first ones only, the database plans for few rows, however many there are.
	_, err = tx.exec(ctx, `
		DELETE FROM gc_manifests
		 WHERE manifest_id IN (SELECT manifest_id FROM gc_manifests WHERE settled = FALSE AND enqueued_at <= $1
		                        ORDER BY enqueued_at, manifest_id LIMIT $2)
		   AND NOT EXISTS (SELECT 1 FROM manifests m WHERE m.id = gc_manifests.manifest_id)`, micros(now.Add(-grace)), GCBatch)
	if err != nil {
		return Pass{}, err
	}
	due, err := tx.manifestCandidates(ctx, `settled = FALSE AND enqueued_at <= $1`, `enqueued_at, manifest_id`, GCBatch, micros(now.Add(-grace)))
	if err != nil {
		return Pass{}, err
	}
	if len(due) < GCBatch {
		released, err := tx.manifestCandidates(ctx, `settled AND release_at IS NOT NULL AND release_at <= $1 AND enqueued_at <= $2`, `release_at, manifest_id`,
			GCBatch-len(due), micros(now), micros(now.Add(-grace)))
		if err != nil {
			return Pass{}, err
		}
		due = append(due, released...)
	}
	if untaggedTTL > 0 && len(due) < GCBatch {
		ripe, err := tx.manifestCandidates(ctx, `settled AND release_at IS NULL AND enqueued_at <= $1`, `enqueued_at, manifest_id`,
			GCBatch-len(due), micros(now.Add(-untaggedAge(grace, untaggedTTL))))
		if err != nil {
			return Pass{}, err
		}
		due = append(due, ripe...)
	}
	if len(due) == 0 {
		return Pass{}, nil
	}
	// First those that are held leave the queue, then the others go: a referrer
	// or child in the same batch is queued again by the deletion of what held it.
	in, args := inIDs(1, due, func(c manifestCandidate) int64 { return c.id })
	dropped, err := list(ctx, tx, scanID, `
		DELETE FROM gc_manifests
		 WHERE manifest_id IN `+in+`
		   AND EXISTS (SELECT 1 FROM manifests m WHERE m.id = gc_manifests.manifest_id AND `+held+`)
		RETURNING manifest_id`, args...)
	if err != nil {
		return Pass{}, err
	}
	var gone, kept []manifestCandidate
	for _, c := range due {
		switch {
		case slices.Contains(dropped, c.id):
		case c.expired(now, grace, untaggedTTL):
			gone = append(gone, c)
		default:
			kept = append(kept, c)
		}
	}
	if len(gone) > 0 {
		in, args := inIDs(1, gone, func(c manifestCandidate) int64 { return c.id })
		if _, err := tx.exec(ctx, `DELETE FROM manifests WHERE id IN `+in, args...); err != nil {
			return Pass{}, err
		}
	}
	if len(kept) > 0 {
		in, args := inIDs(1, kept, func(c manifestCandidate) int64 { return c.id })
		if _, err := tx.exec(ctx, settle+in, args...); err != nil {
			return Pass{}, err
		}
	}
	p := Pass{Looked: len(due)}
	for _, c := range gone {
		p.Gone = append(p.Gone, c.Collected)
	}
	return p, nil
}

// manifestCandidates locks and lists candidates, oldest first, together with
// their manifests, without those that somebody else has locked. The inner
// statement bounds what the planners expect, and CROSS JOIN is SQLite's word for this
// order of the tables: both make the cost that of the candidates. Likewise below.
func (tx *Tx) manifestCandidates(ctx context.Context, which, order string, limit int, args ...any) ([]manifestCandidate, error) {
	return list(ctx, tx, func(rows *sql.Rows) (manifestCandidate, error) {
		c := manifestCandidate{Collected: Collected{Kind: CollectedManifest}}
		var since int64
		var settled bool
		err := rows.Scan(&c.id, &c.Repository, &c.Digest, &c.Size, &c.Reason, &settled, &since, &c.release, &c.ttl)
		c.Since = fromMicros(since)
		c.release.Valid = c.release.Valid && settled
		return c, err
	}, `
		SELECT c.manifest_id, r.name, m.digest, m.size, c.reason, c.settled, c.enqueued_at, c.release_at,
		       (SELECT v.untagged_ttl FROM repository_retention v WHERE v.repository_id = r.id)
		  FROM (SELECT manifest_id, reason, settled, enqueued_at, release_at FROM gc_manifests
		         WHERE `+which+`
		         ORDER BY `+order+` LIMIT $`+strconv.Itoa(len(args)+1)+tx.dialect().SkipLocked("gc_manifests")+`) c
		 CROSS JOIN manifests m CROSS JOIN repositories r
		 WHERE m.id = c.manifest_id AND r.id = m.repository_id
		 ORDER BY c.enqueued_at, c.manifest_id`+tx.dialect().SkipLocked("m"), append(args, limit)...)
}

// CollectLinks makes repositories forget blobs that none of their manifests, deleted
// ones that can be restored included, has needed for the grace period, in one pass. It locks as CollectManifests
// does: a manifest that is pushed at this moment keeps its blobs or is refused with
// MANIFEST_BLOB_UNKNOWN. A blob that no repository has left waits no second time.
func (tx *Tx) CollectLinks(ctx context.Context, grace time.Duration) (Pass, error) {
	now, err := tx.gcTime(ctx)
	if err != nil {
		return Pass{}, err
	}
	before := micros(now.Add(-grace))
	_, err = tx.exec(ctx, `
		DELETE FROM gc_links
		 WHERE id IN (SELECT id FROM gc_links WHERE enqueued_at <= $1 ORDER BY enqueued_at, id LIMIT $2)
		   AND NOT EXISTS (SELECT 1 FROM repository_blobs l
		                    WHERE l.repository_id = gc_links.repository_id AND l.digest = gc_links.digest)`, before, GCBatch)
	if err != nil {
		return Pass{}, err
	}
	type candidate struct {
		Collected
		id int64
	}
	due, err := list(ctx, tx, func(rows *sql.Rows) (candidate, error) {
		c := candidate{Collected: Collected{Kind: CollectedLink}}
		var since int64
		err := rows.Scan(&c.id, &c.Repository, &c.Digest, &c.Size, &since)
		c.Since = fromMicros(since)
		return c, err
	}, `
		SELECT c.id, r.name, c.digest, b.size, c.enqueued_at
		  FROM (SELECT id, repository_id, digest, enqueued_at FROM gc_links
		         WHERE enqueued_at <= $1
		         ORDER BY enqueued_at, id LIMIT $2`+tx.dialect().SkipLocked("gc_links")+`) c
		 CROSS JOIN repository_blobs l CROSS JOIN repositories r CROSS JOIN blobs b
		 WHERE l.repository_id = c.repository_id AND l.digest = c.digest AND r.id = c.repository_id AND b.digest = c.digest
		 ORDER BY c.enqueued_at, c.id`+tx.dialect().SkipLocked("l"), before, GCBatch)
	if err != nil || len(due) == 0 {
		return Pass{}, err
	}
	id := func(c candidate) int64 { return c.id }
	in, args := inIDs(1, due, id)
	// One EXISTS with two parts: of two with OR between them, Postgres may build a
	// hash of all that the instance has.
	dropped, err := list(ctx, tx, scanID, `
		DELETE FROM gc_links
		 WHERE id IN `+in+`
		   AND EXISTS (SELECT 1 FROM manifest_blobs b
		                WHERE b.repository_id = gc_links.repository_id AND b.digest = gc_links.digest
		                UNION ALL
		               SELECT 1 FROM deleted_references b
		                WHERE b.repository_id = gc_links.repository_id AND b.digest = gc_links.digest AND b.kind = 'blob')
		RETURNING id`, args...)
	if err != nil {
		return Pass{}, err
	}
	p := Pass{Looked: len(due)}
	gone := slices.DeleteFunc(due, func(c candidate) bool { return slices.Contains(dropped, c.id) })
	if len(gone) == 0 {
		return p, nil
	}
	in, args = inIDs(1, gone, id)
	_, err = tx.exec(ctx, `
		DELETE FROM repository_blobs
		 WHERE (repository_id, digest) IN (SELECT repository_id, digest FROM gc_links WHERE id IN `+in+`)`, args...)
	if err != nil {
		return Pass{}, err
	}
	var unlinked []digest.Digest
	for _, c := range gone {
		p.Gone = append(p.Gone, c.Collected)
		unlinked = append(unlinked, c.Digest)
	}
	in, args = inArgs(2, sorted(unlinked))
	_, err = tx.exec(ctx, `UPDATE gc_blobs SET enqueued_at = $1 WHERE digest IN `+in+` AND enqueued_at > $1`,
		append([]any{before}, args...)...)
	return p, err
}

// CollectBlobs forgets blobs that no repository has had for the grace period,
// in one pass, and hands their objects to the garbage, to be removed after a
// further time. A push that links a blob at this moment keeps it, or finds it gone
// and records its own bytes.
func (tx *Tx) CollectBlobs(ctx context.Context, grace, further time.Duration) (Pass, error) {
	now, err := tx.gcTime(ctx)
	if err != nil {
		return Pass{}, err
	}
	before := micros(now.Add(-grace))
	_, err = tx.exec(ctx, `
		DELETE FROM gc_blobs
		 WHERE digest IN (SELECT digest FROM gc_blobs WHERE enqueued_at <= $1 ORDER BY enqueued_at, digest LIMIT $2)
		   AND NOT EXISTS (SELECT 1 FROM blobs b WHERE b.digest = gc_blobs.digest)`, before, GCBatch)
	if err != nil {
		return Pass{}, err
	}
	keys := map[digest.Digest]string{}
	due, err := list(ctx, tx, func(rows *sql.Rows) (Collected, error) {
		c := Collected{Kind: CollectedBlob}
		var since int64
		var key string
		err := rows.Scan(&c.Digest, &key, &c.Size, &since)
		c.Since = fromMicros(since)
		keys[c.Digest] = key
		return c, err
	}, `
		SELECT c.digest, b.storage_key, b.size, c.enqueued_at
		  FROM (SELECT digest, enqueued_at FROM gc_blobs
		         WHERE enqueued_at <= $1
		         ORDER BY enqueued_at, digest LIMIT $2`+tx.dialect().SkipLocked("gc_blobs")+`) c
		 CROSS JOIN blobs b
		 WHERE b.digest = c.digest
		 ORDER BY c.enqueued_at, c.digest`+tx.dialect().SkipLocked("b"), before, GCBatch)
	if err != nil || len(due) == 0 {
		return Pass{}, err
	}
	in, args := inArgs(1, digestsOf(due))
	dropped, err := list(ctx, tx, scanString, `
		DELETE FROM gc_blobs
		 WHERE digest IN `+in+` AND EXISTS (SELECT 1 FROM repository_blobs l WHERE l.digest = gc_blobs.digest)
		RETURNING digest`, args...)
	if err != nil {
		return Pass{}, err
	}
	p := Pass{Looked: len(due)}
	p.Gone = slices.DeleteFunc(due, func(c Collected) bool { return slices.Contains(dropped, string(c.Digest)) })
	if len(p.Gone) == 0 {
		return p, nil
	}
	in, args = inArgs(1, digestsOf(p.Gone))
	for _, table := range []string{"blobs", "gc_blobs"} {
		if _, err := tx.exec(ctx, `DELETE FROM `+table+` WHERE digest IN `+in, args...); err != nil {
			return Pass{}, err
		}
	}
	args = []any{micros(tx.now), micros(tx.now.Add(further))}
	var values []string
	for _, c := range p.Gone {
		n := len(args)
		args = append(args, keys[c.Digest], string(c.Digest), c.Size)
		values = append(values, "('object', $"+strconv.Itoa(n+1)+", $1, $2, $"+strconv.Itoa(n+2)+", $"+strconv.Itoa(n+3)+")")
	}
	_, err = tx.exec(ctx, `INSERT INTO garbage (kind, value, enqueued_at, not_before, digest, size) VALUES `+strings.Join(values, ", "), args...)
	return p, err
}

// EnqueueForgotten queues everything unreferenced that is in no queue. The
// triggers leave nothing out; this is for a database that somebody changed
// without them. It reads all manifests, links and blobs, and returns how many it found.
func (tx *Tx) EnqueueForgotten(ctx context.Context) (int64, error) {
	now := tx.clock()
	var all int64
	for _, statement := range []string{`
		INSERT INTO gc_manifests (manifest_id, reason, enqueued_at)
		SELECT m.id, 'pushed', ` + now + ` FROM manifests m
		 WHERE NOT ` + held + ` AND NOT EXISTS (SELECT 1 FROM gc_manifests q WHERE q.manifest_id = m.id)
		ON CONFLICT (manifest_id) DO NOTHING`, `
		INSERT INTO gc_links (repository_id, digest, enqueued_at)
		SELECT l.repository_id, l.digest, ` + now + ` FROM repository_blobs l
		 WHERE NOT EXISTS (SELECT 1 FROM manifest_blobs b WHERE b.repository_id = l.repository_id AND b.digest = l.digest)
		   AND NOT EXISTS (SELECT 1 FROM deleted_references b WHERE b.repository_id = l.repository_id AND b.digest = l.digest AND b.kind = 'blob')
		   AND NOT EXISTS (SELECT 1 FROM gc_links q WHERE q.repository_id = l.repository_id AND q.digest = l.digest)
		ON CONFLICT (repository_id, digest) DO NOTHING`, `
		INSERT INTO gc_blobs (digest, enqueued_at)
		SELECT b.digest, ` + now + ` FROM blobs b
		 WHERE NOT EXISTS (SELECT 1 FROM repository_blobs l WHERE l.digest = b.digest)
		   AND NOT EXISTS (SELECT 1 FROM gc_blobs q WHERE q.digest = b.digest)
		ON CONFLICT (digest) DO NOTHING`} {
		n, err := tx.exec(ctx, statement)
		if err != nil {
			return 0, err
		}
		all += n
	}
	return all, nil
}

// Queue is the state of one of the collector's queues.
type Queue struct {
	Name   string        // manifests, untagged (kept by the policy only), links, blobs or objects
	Length int64         // candidates, in use or not; the collector sorts them out after the grace period
	Oldest time.Duration // age of the oldest, 0 for an empty queue
}

// Queues describes the collector's queues. Its cost is that of their length.
func (tx *Tx) Queues(ctx context.Context) ([]Queue, error) {
	return list(ctx, tx, func(rows *sql.Rows) (q Queue, err error) {
		var now, first int64
		err = rows.Scan(&q.Name, &q.Length, &first, &now)
		if q.Length > 0 {
			q.Oldest = max(0, fromMicros(now).Sub(fromMicros(first)))
		}
		return q, err
	}, `
		SELECT name, n, first, `+tx.clock()+` FROM (
		        SELECT 'manifests' AS name, COUNT(*) AS n, COALESCE(MIN(enqueued_at), 0) AS first FROM gc_manifests WHERE settled = FALSE
		  UNION ALL SELECT 'untagged', COUNT(*), COALESCE(MIN(enqueued_at), 0) FROM gc_manifests WHERE settled = TRUE
		  UNION ALL SELECT 'links', COUNT(*), COALESCE(MIN(enqueued_at), 0) FROM gc_links
		  UNION ALL SELECT 'blobs', COUNT(*), COALESCE(MIN(enqueued_at), 0) FROM gc_blobs
		  UNION ALL SELECT 'objects', COUNT(*), COALESCE(MIN(enqueued_at), 0) FROM garbage) q`)
}

func digestsOf(all []Collected) []digest.Digest {
	digests := make([]digest.Digest, len(all))
	for i, c := range all {
		digests[i] = c.Digest
	}
	return digests
}

func scanID(rows *sql.Rows) (id int64, err error) { return id, rows.Scan(&id) }

// inIDs is inArgs for numbers.
func inIDs[T any](from int, chunk []T, id func(T) int64) (string, []any) {
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
		args = append(args, id(chunk[min(i, len(chunk)-1)]))
	}
	return "(" + b.String() + ")", args
}
