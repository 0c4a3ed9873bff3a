package collect

import (
	"context"
	"errors"
	"time"

	"berth/metadata"
	"berth/oci"

	"github.com/opencontainers/go-digest"
)

// Bounds of what Why lists, so that a blob that everybody has can be asked about.
const (
	whyRepositories = 1000
	whyHolders      = 20 // tags, indexes, manifests, deletions of one thing
	whyDepth        = 8
	whyRules        = 20  // repositories whose rules are looked at, for that may read all their tags
	whyDecisions    = 200 // tags whose retention is told
)

// Why is all that keeps a digest.
type Why struct {
	Digest digest.Digest
	// Blob is the stored bytes, nil when there are none.
	Blob *WhyBlob
	// Repositories that have the digest, as a blob, a manifest or both.
	Repositories []*WhyRepository
	// Removals are objects of the digest that are about to go, and that nothing keeps.
	Removals []WhyRemoval
	// Truncated: more repositories have it than are listed.
	Truncated bool
	// RulesTruncated: the retention of some of the tags is not told.
	RulesTruncated bool
}

// WhyBlob is a blob's bytes.
type WhyBlob struct {
	Size         int64
	StoredAt     time.Time
	Key          string     // of the object
	MissingSince *time.Time // known to be lost
	// Fate is set when no repository has the blob.
	Fate *Fate
}

// WhyRemoval is an object on its way out.
type WhyRemoval struct {
	Key   string
	Size  int64
	After time.Time
}

// WhyRepository is what keeps the digest in one repository.
type WhyRepository struct {
	Name string
	// Linked is when the repository got the blob, nil when it has no such blob.
	Linked *time.Time
	// Manifests that need the blob, some of Needed.
	Manifests []*Holder
	Needed    int64
	// Manifest is set when the digest is a manifest of the repository.
	Manifest *Holder
	// Deleted manifests that keep the blob, newest first.
	Deleted []*Deletion
	// DeletedManifest is set when the digest is a manifest that was deleted here.
	DeletedManifest *Deletion
	// Fate is set when no manifest needs the blob, nor a deleted one.
	Fate *Fate
	// Truncated: more deleted manifests keep it than are listed.
	Truncated bool
}

// Holder is a manifest with what holds it in turn.
type Holder struct {
	Digest       digest.Digest
	MediaType    string
	ArtifactType string
	Tags         []WhyTag
	Deleted      []*Deletion // newest first
	Indexes      []*Holder
	Subject      *Holder // a referrer stays while this is there
	// Fate is set when nothing holds it.
	Fate *Fate
	// Truncated: it is held by more than is listed.
	Truncated bool
}

// WhyTag is a tag that holds a manifest, as long as retention lets it.
type WhyTag struct {
	metadata.HoldingTag
	// Retention is nil where there are no rules, and when it is not told.
	Retention *TagRetention
}

// TagRetention is what the retention rules make of a tag.
type TagRetention struct {
	Level string // whose rules: repository or team
	Keep  bool
	// Rule lets the tag go.
	Rule string
	// After is when the rules are next applied, of a tag that goes then.
	After   *time.Time
	Reasons []metadata.RetentionReason
}

// What a Deletion was to what it keeps.
const (
	DeletedTag      = "tag"
	DeletedIndex    = "index"
	DeletedSubject  = "subject"
	DeletedManifest = "manifest" // that needs the blob, or has the digest
)

// Deletion is something deleted that keeps what it kept before, while it can
// be restored: the undo window.
type Deletion struct {
	As        string
	Tag       string
	Digest    digest.Digest // of the deleted manifest, or the one that the tag named
	MediaType string
	Tags      []string // that went along with the manifest
	DeletedAt time.Time
	DeletedBy string // who, or retention:RULE
	Until     time.Time
	// Truncated: more tags went along than are listed.
	Truncated bool
}

// Fate is what becomes of something that nothing holds.
type Fate struct {
	// Since when; nil when that was never noted (berth check --repair does).
	Since *time.Time
	// Reason of a manifest: pushed, untagged, index or subject, see migrations.
	Reason string
	// After is when it may be collected; nil when a rule keeps it.
	After *time.Time
	// Rule is the setting that decides: gc_grace or untagged_ttl.
	Rule string
	// Level is whose untagged_ttl that is: repository or team; "" for the setting.
	Level string
}

// Why lists every tag, index, subject, deletion that can be undone, repository and rule that keeps a digest,
// or when it goes. It returns BLOB_UNKNOWN when nothing of the digest is here. An unfinished upload
// keeps no digest: only its own bytes, which have none yet.
func (c *Collector) Why(ctx context.Context, d digest.Digest) (w Why, err error) {
	err = c.db.Snapshot(ctx, func(tx *metadata.Tx) (err error) {
		w, err = c.why(ctx, tx, d, nil)
		return err
	})
	if err == nil && w.Blob == nil && len(w.Repositories) == 0 && len(w.Removals) == 0 {
		err = errNothingOf(d)
	}
	return w, err
}

func errNothingOf(d digest.Digest) error {
	return oci.Errorf(oci.CodeBlobUnknown, "nothing here has the digest %s", d)
}

// WhyVisible is Why for somebody who may see some repositories only: visible
// gives those of up to a thousand names that it is. What is kept elsewhere is not told, nor
// that it is: a digest that only others have is BLOB_UNKNOWN, and nothing says where and since when its bytes are stored.
func (c *Collector) WhyVisible(ctx context.Context, d digest.Digest, visible func(ctx context.Context, names []string) ([]string, error)) (Why, error) {
	// Asked before the snapshot, for the answer may need the database, too.
	allowed := map[string]bool{}
	ask := func(names []string) error {
		if len(names) == 0 {
			return nil
		}
		seen, err := visible(ctx, names)
		for _, name := range seen {
			allowed[name] = true
		}
		return err
	}
	err := c.db.View(ctx, func(tx *metadata.Tx) error {
		_, _, err := paged(func(after string) ([]metadata.BlobLink, error) {
			page, err := tx.BlobLinks(ctx, d, after, whyRepositories)
			return page, errors.Join(err, ask(namesOf(page, linkName)))
		}, linkName, nil)
		if err != nil {
			return err
		}
		_, _, err = paged(func(after string) ([]metadata.HeldManifest, error) {
			page, err := tx.ManifestsOf(ctx, d, after, whyRepositories)
			return page, errors.Join(err, ask(namesOf(page, manifestName)))
		}, manifestName, nil)
		if err != nil {
			return err
		}
		_, _, err = paged(func(after string) ([]metadata.RepositoryDeletedManifest, error) {
			page, err := tx.DeletedManifestsOf(ctx, d, c.o.UndoWindow, after, whyRepositories)
			return page, errors.Join(err, ask(namesOf(page, deletedName)))
		}, deletedName, nil)
		return err
	})
	if err != nil {
		return Why{}, err
	}
	if len(allowed) == 0 {
		return Why{}, errNothingOf(d)
	}
	var w Why
	err = c.db.Snapshot(ctx, func(tx *metadata.Tx) (err error) {
		w, err = c.why(ctx, tx, d, allowed)
		return err
	})
	if err != nil {
		return Why{}, err
	}
	if len(w.Repositories) == 0 { // gone meanwhile
		return Why{}, errNothingOf(d)
	}
	w.Removals = nil
	if w.Blob != nil {
		w.Blob = &WhyBlob{Size: w.Blob.Size, MissingSince: w.Blob.MissingSince}
	}
	return w, nil
}

func linkName(l metadata.BlobLink) string { return l.Repository }

func manifestName(m metadata.HeldManifest) string { return m.Repository }

func deletedName(m metadata.RepositoryDeletedManifest) string { return m.Repository }

func namesOf[T any](all []T, name func(T) string) []string {
	names := make([]string, len(all))
	for i, one := range all {
		names[i] = name(one)
	}
	return names
}

// whyPages bounds how many repositories are looked at for those that are allowed, in thousands.
const whyPages = 10

// paged reads pages of up to whyRepositories things, by the names of their
// repositories, and gives those that are allowed (nil: all), at most as many.
func paged[T any](page func(after string) ([]T, error), name func(T) string, allowed map[string]bool) (found []T, truncated bool, err error) {
	after := ""
	for range whyPages {
		list, err := page(after)
		if err != nil {
			return nil, false, err
		}
		for _, one := range list {
			if allowed != nil && !allowed[name(one)] {
				continue
			}
			if len(found) == whyRepositories {
				return found, true, nil
			}
			found = append(found, one)
		}
		if len(list) < whyRepositories {
			return found, false, nil
		}
		after = name(list[len(list)-1])
	}
	return found, true, nil
}

func (c *Collector) why(ctx context.Context, tx *metadata.Tx, d digest.Digest, allowed map[string]bool) (Why, error) {
	w := Why{Digest: d, Repositories: []*WhyRepository{}}
	links, more, err := paged(func(after string) ([]metadata.BlobLink, error) {
		return tx.BlobLinks(ctx, d, after, whyRepositories)
	}, linkName, allowed)
	if err != nil {
		return w, err
	}
	manifests, evenMore, err := paged(func(after string) ([]metadata.HeldManifest, error) {
		return tx.ManifestsOf(ctx, d, after, whyRepositories)
	}, manifestName, allowed)
	if err != nil {
		return w, err
	}
	deleted, moreDeleted, err := paged(func(after string) ([]metadata.RepositoryDeletedManifest, error) {
		return tx.DeletedManifestsOf(ctx, d, c.o.UndoWindow, after, whyRepositories)
	}, deletedName, allowed)
	if err != nil {
		return w, err
	}
	w.Truncated = more || evenMore || moreDeleted
	b, stored, err := tx.StoredBlob(ctx, d)
	if err != nil {
		return w, err
	}
	if stored {
		w.Blob = &WhyBlob{Size: b.Size, StoredAt: b.CreatedAt, Key: b.Key, MissingSince: b.MissingSince}
		if len(links) == 0 {
			w.Blob.Fate = c.fate(b.QueuedSince)
		}
	}
	byName := map[string]*WhyRepository{}
	repository := func(name string) *WhyRepository {
		if byName[name] == nil {
			byName[name] = &WhyRepository{Name: name}
			w.Repositories = append(w.Repositories, byName[name])
		}
		return byName[name]
	}
	q := question{Collector: c, tx: tx, rules: map[string]*rules{}}
	for _, l := range links {
		in := repository(l.Repository)
		in.Linked, in.Needed = &l.PushedAt, l.Manifests
		undo, err := tx.DeletedManifestsNeeding(ctx, l.RepositoryID, "blob", d, "", c.o.UndoWindow, whyHolders+1)
		if err != nil {
			return w, err
		}
		for _, m := range undo[:min(len(undo), whyHolders)] {
			in.Deleted = append(in.Deleted, c.deletion(DeletedManifest, m))
		}
		in.Truncated = len(undo) > whyHolders
		if l.Manifests == 0 && len(undo) == 0 {
			in.Fate = c.fate(l.QueuedSince)
		}
		needing, err := tx.ManifestsNeeding(ctx, l.RepositoryID, d, whyHolders)
		if err != nil {
			return w, err
		}
		for _, m := range needing {
			h, err := q.holder(ctx, m, whyDepth)
			if err != nil {
				return w, err
			}
			in.Manifests = append(in.Manifests, h)
		}
	}
	for _, m := range manifests {
		if repository(m.Repository).Manifest, err = q.holder(ctx, m, whyDepth); err != nil {
			return w, err
		}
	}
	for _, m := range deleted {
		repository(m.Repository).DeletedManifest = c.deletion(DeletedManifest, m.DeletedManifest)
	}
	w.RulesTruncated = q.truncated
	removed, err := tx.RemovedObjects(ctx, d)
	if err != nil {
		return w, err
	}
	for _, o := range removed {
		w.Removals = append(w.Removals, WhyRemoval{Key: o.Key, Size: o.Size, After: o.NotBefore})
	}
	return w, nil
}

// deletion is a deleted manifest as a holder.
func (c *Collector) deletion(as string, m metadata.DeletedManifest) *Deletion {
	d := &Deletion{As: as, Digest: m.Digest, MediaType: m.MediaType, Tags: m.Tags,
		DeletedAt: m.DeletedAt, DeletedBy: m.DeletedBy, Until: m.DeletedAt.Add(c.o.UndoWindow)}
	if len(d.Tags) > whyHolders {
		d.Tags, d.Truncated = d.Tags[:whyHolders], true
	}
	return d
}

// question is what one Why has looked up.
type question struct {
	*Collector
	tx        *metadata.Tx
	rules     map[string]*rules // by repository
	read      int               // repositories that have some
	decisions int
	truncated bool
}

// rules are those of a repository, and when they are next applied.
type rules struct {
	run  *metadata.RetentionRun
	next *time.Time
}

// retention is what rules make of a tag, nil when there are none or too much was asked.
func (q *question) retention(ctx context.Context, repository, tag string) (*TagRetention, error) {
	in := q.rules[repository]
	if in == nil {
		if q.read == whyRules {
			q.truncated = true
			return nil, nil
		}
		run, err := q.tx.RetentionRun(ctx, repository, nil)
		if err != nil {
			return nil, err
		}
		next, err := q.tx.NextRetention(ctx, run)
		if err != nil {
			return nil, err
		}
		in = &rules{run, next}
		q.rules[repository] = in
		if !run.Empty() {
			q.read++
		}
	}
	if in.run.Empty() {
		return nil, nil
	}
	if q.decisions == whyDecisions {
		q.truncated = true
		return nil, nil
	}
	q.decisions++
	d, err := q.tx.DecideRetentionOf(ctx, in.run, tag)
	if err != nil {
		return nil, err
	}
	t := &TagRetention{Level: in.run.Level, Keep: d.Keep, Rule: d.Rule, Reasons: d.Reasons}
	if !d.Keep {
		t.After = in.next
	}
	return t, nil
}

// undo lists what was deleted and still holds a manifest.
func (q *question) undo(ctx context.Context, m metadata.HeldManifest) (found []*Deletion, more bool, err error) {
	tags, err := q.tx.DeletedTagsOf(ctx, m.RepositoryID, m.Digest, q.o.UndoWindow, whyHolders+1)
	if err != nil {
		return nil, false, err
	}
	manifests, err := q.tx.DeletedManifestsNeeding(ctx, m.RepositoryID, "child", m.Digest, m.Subject, q.o.UndoWindow, whyHolders+1)
	if err != nil {
		return nil, false, err
	}
	for _, t := range tags[:min(len(tags), whyHolders)] {
		found = append(found, &Deletion{As: DeletedTag, Tag: t.Name, Digest: t.Digest, DeletedAt: t.DeletedAt, DeletedBy: t.DeletedBy,
			Until: t.DeletedAt.Add(q.o.UndoWindow)})
	}
	for _, d := range manifests[:min(len(manifests), whyHolders)] {
		as := DeletedIndex
		if d.Digest == m.Subject {
			as = DeletedSubject
		}
		found = append(found, q.deletion(as, d))
	}
	return found, len(tags) > whyHolders || len(manifests) > whyHolders, nil
}

// holder finds what holds a manifest, and what holds that.
func (q *question) holder(ctx context.Context, m metadata.HeldManifest, depth int) (*Holder, error) {
	tx := q.tx
	h := &Holder{Digest: m.Digest, MediaType: m.MediaType, ArtifactType: m.ArtifactType}
	tags, err := tx.TagsOf(ctx, m.RepositoryID, m.Digest, whyHolders+1)
	if err != nil {
		return nil, err
	}
	indexes, err := tx.IndexesOf(ctx, m.ID, whyHolders+1)
	if err != nil {
		return nil, err
	}
	subject, err := tx.SubjectOf(ctx, m)
	if err != nil {
		return nil, err
	}
	if h.Deleted, h.Truncated, err = q.undo(ctx, m); err != nil {
		return nil, err
	}
	if len(tags)+len(indexes)+len(subject)+len(h.Deleted) == 0 {
		h.Fate, err = q.manifestFate(ctx, m)
		return h, err
	}
	if len(tags) > whyHolders {
		tags, h.Truncated = tags[:whyHolders], true
	}
	if len(indexes) > whyHolders {
		indexes, h.Truncated = indexes[:whyHolders], true
	}
	for _, t := range tags {
		retention, err := q.retention(ctx, m.Repository, t.Name)
		if err != nil {
			return nil, err
		}
		h.Tags = append(h.Tags, WhyTag{t, retention})
	}
	if depth == 0 {
		h.Truncated = h.Truncated || len(indexes)+len(subject) > 0
		return h, nil
	}
	for _, i := range indexes {
		parent, err := q.holder(ctx, i, depth-1)
		if err != nil {
			return nil, err
		}
		h.Indexes = append(h.Indexes, parent)
	}
	for _, s := range subject {
		if h.Subject, err = q.holder(ctx, s, depth-1); err != nil {
			return nil, err
		}
	}
	return h, nil
}

// fate is that of a link or a blob.
func (c *Collector) fate(since *time.Time) *Fate {
	f := &Fate{Since: since, Rule: "gc_grace"}
	if since != nil {
		after := since.Add(c.o.Grace)
		f.After = &after
	}
	return f
}

func (q *question) manifestFate(ctx context.Context, m metadata.HeldManifest) (*Fate, error) {
	u, err := q.tx.Unheld(ctx, m)
	if err != nil {
		return nil, err
	}
	f := q.fate(u.Since)
	f.Reason = u.Reason
	if u.Reason == "subject" || u.Released {
		return f, nil
	}
	f.Rule = "untagged_ttl"
	ttl := q.o.UntaggedTTL
	if u.TTL != nil {
		ttl, f.Level = *u.TTL, u.TTLLevel
	}
	switch {
	case ttl == 0:
		f.After = nil
	case u.Since != nil:
		after := u.Since.Add(max(q.o.Grace, ttl))
		f.After = &after
	}
	return f, nil
}
