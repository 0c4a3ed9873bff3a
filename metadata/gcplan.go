package metadata

import (
	"cmp"
	"context"
	"database/sql"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
)

// CollectionPlan is what the collector would take away now.
type CollectionPlan struct {
	Gone []Collected // manifests, then links, then blobs
	// Truncated: so many candidates were looked at that the rest was left out.
	Truncated bool
}

// PlanCollection says what PurgeDeleted with the window and then ReviewUntagged, CollectManifests, CollectLinks and
// CollectBlobs, each until it has nothing left to do, would take away now. It only reads, so it belongs into
// a Snapshot, and nobody waits for it. It looks at no more than about limit candidates.
//
// What a pass writes, and what the triggers of the schema write then (migrations/*/0002_gc.sql), the plan
// keeps in memory: a manifest that goes releases its children, those whose subject it is and its
// blobs, which are candidates from that moment on.
func (tx *Tx) PlanCollection(ctx context.Context, window, grace, untaggedTTL time.Duration, limit int) (CollectionPlan, error) {
	if err := tx.dialect().PreferIndexes(ctx, tx.sql); err != nil {
		return CollectionPlan{}, err
	}
	now, err := tx.gcTime(ctx)
	if err != nil {
		return CollectionPlan{}, err
	}
	p := &plan{
		tx: tx, now: now, grace: grace, untaggedTTL: untaggedTTL, left: limit,
		before: micros(now.Add(-grace)), undo: micros(now.Add(-window)),
		manifests: map[int64]*plannedManifest{}, gone: map[int64]bool{}, released: map[int64]int{},
		links: map[plannedLink]int64{}, unused: map[plannedLink]int{}, unlinked: map[digest.Digest]int{},
	}
	for _, step := range []func(context.Context) error{p.purge, p.collectManifests, p.collectLinks, p.collectBlobs} {
		if err := step(ctx); err != nil {
			return CollectionPlan{}, err
		}
	}
	return p.CollectionPlan, nil
}

// plannedManifest is a manifest with its row in the queue, as it would be.
type plannedManifest struct {
	manifestCandidate
	queued  bool
	settled bool
}

// plannedLink is a blob of a repository.
type plannedLink struct {
	repository int64
	digest     digest.Digest
}

type plan struct {
	CollectionPlan
	tx                 *Tx
	now                time.Time
	before, undo       int64 // what was queued, or deleted, by then is due
	grace, untaggedTTL time.Duration
	left               int // how many candidates may still be looked at

	manifests map[int64]*plannedManifest
	gone      map[int64]bool        // manifests
	released  map[int64]int         // how many of the manifests that list this one are gone
	links     map[plannedLink]int64 // since when they would be in the queue, where that differs from what it says
	unused    map[plannedLink]int   // how many of the manifests that need it are gone
	unlinked  map[digest.Digest]int // how many repositories would no longer have it
	order     []int64               // manifests to look at, or to look at again
}

// look counts candidates, and cuts off what is too much.
func look[T any](p *plan, all []T) []T {
	if len(all) > p.left {
		all, p.Truncated = all[:p.left], true
	}
	p.left -= len(all)
	return all
}

// chunks runs read for some of the ids at a time.
func chunks[T any](all []T, read func([]T) error) error {
	for chunk := range slices.Chunk(all, GCBatch) {
		if err := read(chunk); err != nil {
			return err
		}
	}
	return nil
}

func same[T any](v T) T { return v }

// load reads manifests that are not known yet.
func (p *plan) load(ctx context.Context, ids []int64) error {
	ids = slices.DeleteFunc(slices.Clone(ids), func(id int64) bool { return p.manifests[id] != nil })
	return chunks(ids, func(ids []int64) error {
		in, args := inIDs(1, ids, same)
		return p.tx.each(ctx, func(rows *sql.Rows) error {
			m := &plannedManifest{manifestCandidate: manifestCandidate{Collected: Collected{Kind: CollectedManifest}}}
			var reason sql.NullString
			var settled sql.NullBool
			var since sql.NullInt64
			if err := rows.Scan(&m.id, &m.Repository, &m.Digest, &m.Size, &reason, &settled, &since, &m.release, &m.ttl); err != nil {
				return err
			}
			m.queued, m.settled = since.Valid, settled.Bool
			m.Reason, m.Since = reason.String, fromMicros(since.Int64)
			p.manifests[m.id] = m
			return nil
		}, `
			SELECT m.id, r.name, m.digest, m.size, c.reason, c.settled, c.enqueued_at, c.release_at,
			       (SELECT v.untagged_ttl FROM repository_retention v WHERE v.repository_id = r.id)
			  FROM manifests m JOIN repositories r ON r.id = m.repository_id
			  LEFT JOIN gc_manifests c ON c.manifest_id = m.id
			 WHERE m.id IN `+in, args...)
	})
}

// queue is what an upsert into gc_manifests does. Without always, what is queued for something newer stays.
func (p *plan) queue(id int64, reason string, settled bool, since int64, always bool) {
	m := p.manifests[id]
	if m == nil || p.gone[id] { // of another repository that is gone, or gone itself
		return
	}
	if m.queued && !always && micros(m.Since) > since && (reason != "untagged" || m.Reason != "untagged" || micros(m.Since) > since+1e6) {
		return
	}
	m.queued, m.Reason, m.settled, m.Since = true, reason, settled, fromMicros(since)
	m.release = sql.NullInt64{Int64: since, Valid: settled}
	p.order = append(p.order, id)
}

type tombstone struct {
	id, at int64
	by     string
}

// purge queues what deleted tags and manifests have held whose undo window is over.
func (p *plan) purge(ctx context.Context) error {
	scan := func(rows *sql.Rows) (t tombstone, err error) { return t, rows.Scan(&t.id, &t.at, &t.by) }
	for _, released := range []struct{ reason, query string }{
		{"untagged", `
			SELECT m.id, d.deleted_at, d.deleted_by
			  FROM deleted_tags d JOIN manifests m ON m.repository_id = d.repository_id AND m.digest = d.digest
			 WHERE d.deleted_at <= $1 ORDER BY d.deleted_at, d.id LIMIT $2`},
		{"subject", `
			SELECT m.id, d.deleted_at, ''
			  FROM deleted_manifests d JOIN manifests m ON m.repository_id = d.repository_id AND m.subject = d.digest
			 WHERE d.deleted_at <= $1 ORDER BY d.deleted_at, d.id LIMIT $2`},
		{"index", `
			SELECT m.id, d.deleted_at, ''
			  FROM deleted_manifests d JOIN deleted_references c ON c.deletion_id = d.id AND c.kind = 'child'
			  JOIN manifests m ON m.repository_id = c.repository_id AND m.digest = c.digest
			 WHERE d.deleted_at <= $1 ORDER BY d.deleted_at, d.id LIMIT $2`},
	} {
		all, err := list(ctx, p.tx, scan, released.query, p.undo, p.left+1)
		if err != nil {
			return err
		}
		all = look(p, all)
		ids := make([]int64, len(all))
		for i, t := range all {
			ids[i] = t.id
		}
		if err := p.load(ctx, ids); err != nil {
			return err
		}
		for _, t := range all {
			p.queue(t.id, released.reason, strings.HasPrefix(t.by, retentionActor), t.at, false)
		}
	}
	return p.tx.each(ctx, func(rows *sql.Rows) error {
		var l plannedLink
		var since int64
		err := rows.Scan(&l.repository, &l.digest, &since)
		p.links[l] = since
		return err
	}, `
		SELECT c.repository_id, c.digest, MAX(d.deleted_at)
		  FROM deleted_manifests d JOIN deleted_references c ON c.deletion_id = d.id AND c.kind = 'blob'
		 WHERE d.deleted_at <= $1
		   AND NOT EXISTS (SELECT 1 FROM gc_links q WHERE q.repository_id = c.repository_id AND q.digest = c.digest AND q.enqueued_at > d.deleted_at)
		 GROUP BY c.repository_id, c.digest LIMIT $2`, p.undo, max(p.left, 1))
}

// collectManifests looks at the queue of manifests, and at what those that go release.
func (p *plan) collectManifests(ctx context.Context) error {
	ripe := int64(-1) // none
	if p.untaggedTTL > 0 {
		ripe = micros(p.now.Add(-untaggedAge(p.grace, p.untaggedTTL)))
	}
	for _, due := range []struct {
		which string
		args  []any
	}{
		{`settled = FALSE AND enqueued_at <= $1 ORDER BY enqueued_at, manifest_id`, []any{p.before}},
		{`settled AND release_at IS NOT NULL AND release_at <= $1 AND enqueued_at <= $2 ORDER BY release_at, manifest_id`, []any{micros(p.now), p.before}},
		{`settled AND release_at IS NULL AND enqueued_at <= $1 ORDER BY enqueued_at, manifest_id`, []any{ripe}},
		// A policy that has changed may let go any that policies keep.
		{`settled AND manifest_id > (SELECT review_after FROM retention_state WHERE id = 1) AND enqueued_at <= $1 ORDER BY manifest_id`, []any{p.before}},
	} {
		found, err := list(ctx, p.tx, scanID, `SELECT manifest_id FROM gc_manifests WHERE `+due.which+` LIMIT $`+strconv.Itoa(len(due.args)+1),
			append(due.args, p.left+1)...)
		if err != nil {
			return err
		}
		p.order = append(p.order, look(p, found)...)
	}
	for len(p.order) > 0 {
		n := min(len(p.order), GCBatch)
		batch := slices.Compact(slices.Sorted(slices.Values(p.order[:n])))
		p.order = p.order[n:]
		if err := p.load(ctx, batch); err != nil {
			return err
		}
		slices.SortStableFunc(batch, func(a, b int64) int { return p.age(a).Compare(p.age(b)) })
		gone, err := p.dropped(ctx, batch)
		if err != nil {
			return err
		}
		if len(gone) == 0 {
			continue
		}
		for _, id := range gone {
			p.gone[id] = true
			p.Gone = append(p.Gone, p.manifests[id].Collected)
		}
		before := len(p.order)
		if err := p.release(ctx, gone); err != nil {
			return err
		}
		p.order = append(p.order[:before], look(p, p.order[before:])...)
	}
	return nil
}

// age is since when a manifest is queued; one that is gone has none.
func (p *plan) age(id int64) time.Time {
	if m := p.manifests[id]; m != nil {
		return m.Since
	}
	return time.Time{}
}

// dropped gives those of some candidates that are due, that nothing holds and whose time is over.
func (p *plan) dropped(ctx context.Context, ids []int64) (gone []int64, err error) {
	ids = slices.DeleteFunc(ids, func(id int64) bool {
		m := p.manifests[id]
		return m == nil || p.gone[id] || !m.queued || micros(m.Since) > p.before
	})
	if len(ids) == 0 {
		return nil, nil
	}
	most := 0
	for _, id := range ids {
		most = max(most, p.released[id])
	}
	in, args := inIDs(3, ids, same)
	// One EXISTS with parts, for the reason that CollectLinks gives.
	err = p.tx.each(ctx, func(rows *sql.Rows) error {
		var id int64
		var held bool
		var parents int
		var subject sql.NullInt64
		if err := rows.Scan(&id, &held, &parents, &subject); err != nil {
			return err
		}
		m := p.manifests[id]
		c := m.manifestCandidate
		c.release.Valid = c.release.Valid && m.settled
		if !held && parents <= p.released[id] && (!subject.Valid || p.gone[subject.Int64]) && c.expired(p.now, p.grace, p.untaggedTTL) {
			gone = append(gone, id)
		}
		return nil
	}, `
		SELECT m.id,
		       EXISTS (SELECT 1 FROM tags t WHERE t.repository_id = m.repository_id AND t.digest = m.digest
		                UNION ALL
		               SELECT 1 FROM deleted_tags t WHERE t.repository_id = m.repository_id AND t.digest = m.digest AND t.deleted_at > $1
		                UNION ALL
		               SELECT 1 FROM deleted_references c JOIN deleted_manifests d ON d.id = c.deletion_id
		                WHERE c.repository_id = m.repository_id AND c.digest = m.digest AND c.kind = 'child' AND d.deleted_at > $1
		                UNION ALL
		               SELECT 1 FROM deleted_manifests s WHERE s.repository_id = m.repository_id AND s.digest = m.subject AND s.deleted_at > $1),
		       (SELECT COUNT(*) FROM (SELECT 1 FROM manifest_children c WHERE c.child_id = m.id LIMIT $2) few),
		       (SELECT s.id FROM manifests s WHERE s.repository_id = m.repository_id AND s.digest = m.subject)
		  FROM manifests m WHERE m.id IN `+in, append([]any{p.undo, most + 1}, args...)...)
	slices.SortFunc(gone, func(a, b int64) int { return cmp.Or(p.age(a).Compare(p.age(b)), cmp.Compare(a, b)) })
	return gone, err
}

// release does what the triggers do when manifests go.
func (p *plan) release(ctx context.Context, gone []int64) error {
	now := micros(p.now)
	in, args := inIDs(1, gone, same)
	children, err := list(ctx, p.tx, scanID, `SELECT child_id FROM manifest_children WHERE child_id IS NOT NULL AND manifest_id IN `+in, args...)
	if err != nil {
		return err
	}
	referrers, err := list(ctx, p.tx, scanID, `
		SELECT r.id FROM manifests m JOIN manifests r ON r.repository_id = m.repository_id AND r.subject = m.digest
		 WHERE m.id IN `+in, args...)
	if err != nil {
		return err
	}
	if err := p.load(ctx, slices.Concat(children, referrers)); err != nil {
		return err
	}
	for _, id := range children {
		p.released[id]++
		p.queue(id, "index", false, now, true)
	}
	for _, id := range referrers {
		p.queue(id, "subject", false, now, true)
	}
	return p.tx.each(ctx, func(rows *sql.Rows) error {
		var l plannedLink
		err := rows.Scan(&l.repository, &l.digest)
		p.links[l] = now
		p.unused[l]++
		return err
	}, `SELECT repository_id, digest FROM manifest_blobs WHERE manifest_id IN `+in, args...)
}

// collectLinks looks at the blobs that repositories may no longer need.
func (p *plan) collectLinks(ctx context.Context) error {
	queued, err := list(ctx, p.tx, func(rows *sql.Rows) (q struct {
		plannedLink
		since int64
	}, err error) {
		return q, rows.Scan(&q.repository, &q.digest, &q.since)
	}, `SELECT repository_id, digest, enqueued_at FROM gc_links WHERE enqueued_at <= $1 ORDER BY enqueued_at, id LIMIT $2`, p.before, p.left+1)
	if err != nil {
		return err
	}
	for _, q := range queued {
		if _, newer := p.links[q.plannedLink]; !newer {
			p.links[q.plannedLink] = q.since
		}
	}
	maps.DeleteFunc(p.links, func(_ plannedLink, since int64) bool { return since > p.before })
	all := look(p, slices.SortedFunc(maps.Keys(p.links), func(a, b plannedLink) int {
		return cmp.Or(cmp.Compare(a.repository, b.repository), strings.Compare(string(a.digest), string(b.digest)))
	}))
	for len(all) > 0 {
		repository, n := all[0].repository, 0
		most := 0
		var digests []digest.Digest
		for n < len(all) && all[n].repository == repository && n < GCBatch {
			most = max(most, p.unused[all[n]])
			digests = append(digests, all[n].digest)
			n++
		}
		all = all[n:]
		in, args := inArgs(4, digests)
		err := p.tx.each(ctx, func(rows *sql.Rows) error {
			c := Collected{Kind: CollectedLink}
			var users int
			var held bool
			if err := rows.Scan(&c.Repository, &c.Digest, &c.Size, &users, &held); err != nil {
				return err
			}
			l := plannedLink{repository, c.Digest}
			if !held && users <= p.unused[l] {
				c.Since = fromMicros(p.links[l])
				p.Gone = append(p.Gone, c)
				p.unlinked[c.Digest]++
			}
			return nil
		}, `
			SELECT r.name, l.digest, b.size,
			       (SELECT COUNT(*) FROM (SELECT 1 FROM manifest_blobs u WHERE u.repository_id = l.repository_id AND u.digest = l.digest LIMIT $2) few),
			       EXISTS (SELECT 1 FROM deleted_references c JOIN deleted_manifests d ON d.id = c.deletion_id
			                WHERE c.repository_id = l.repository_id AND c.digest = l.digest AND c.kind = 'blob' AND d.deleted_at > $3)
			  FROM repository_blobs l JOIN repositories r ON r.id = l.repository_id JOIN blobs b ON b.digest = l.digest
			 WHERE l.repository_id = $1 AND l.digest IN `+in, append([]any{repository, most + 1, p.undo}, args...)...)
		if err != nil {
			return err
		}
	}
	return nil
}

// collectBlobs looks at the blobs that perhaps no repository has.
func (p *plan) collectBlobs(ctx context.Context) error {
	since := map[digest.Digest]int64{}
	for d := range p.unlinked {
		since[d] = p.before
	}
	err := p.tx.each(ctx, func(rows *sql.Rows) error {
		var d digest.Digest
		var at int64
		err := rows.Scan(&d, &at)
		since[d] = at
		return err
	}, `SELECT digest, enqueued_at FROM gc_blobs WHERE enqueued_at <= $1 ORDER BY enqueued_at, digest LIMIT $2`, p.before, p.left+1)
	if err != nil {
		return err
	}
	return chunks(look(p, slices.Sorted(maps.Keys(since))), func(digests []digest.Digest) error {
		most := 0
		for _, d := range digests {
			most = max(most, p.unlinked[d])
		}
		in, args := inArgs(2, digests)
		return p.tx.each(ctx, func(rows *sql.Rows) error {
			c := Collected{Kind: CollectedBlob}
			var links int
			if err := rows.Scan(&c.Digest, &c.Size, &links); err != nil {
				return err
			}
			if links <= p.unlinked[c.Digest] {
				c.Since = fromMicros(since[c.Digest])
				p.Gone = append(p.Gone, c)
			}
			return nil
		}, `
			SELECT b.digest, b.size,
			       (SELECT COUNT(*) FROM (SELECT 1 FROM repository_blobs l WHERE l.digest = b.digest LIMIT $1) few)
			  FROM blobs b WHERE b.digest IN `+in+` ORDER BY b.digest`, append([]any{most + 1}, args...)...)
	})
}
