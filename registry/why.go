package registry

import (
	"context"
	"time"

	"berth/metadata"
	"berth/oci"

	"github.com/opencontainers/go-digest"
)

// Bounds of what Why lists, so that a blob that everybody has can be asked about.
const (
	whyRepositories = 1000
	whyHolders      = 20 // tags, indexes, manifests of one thing
	whyDepth        = 8
)

// Why is all that keeps a digest.
type Why struct {
	Digest digest.Digest `json:"digest"`
	// Blob is the stored bytes, nil when there are none.
	Blob *WhyBlob `json:"blob,omitempty"`
	// Repositories that have the digest, as a blob, a manifest or both.
	Repositories []*WhyRepository `json:"repositories"`
	// Removals are objects of the digest that are about to go, and that nothing keeps.
	Removals []WhyRemoval `json:"removals,omitempty"`
	// Truncated: more repositories have it than are listed.
	Truncated bool `json:"truncated,omitempty"`
}

// WhyBlob is a blob's bytes.
type WhyBlob struct {
	Size         int64      `json:"size"`
	StoredAt     time.Time  `json:"stored_at"`
	Key          string     `json:"key"`                     // of the object
	MissingSince *time.Time `json:"missing_since,omitempty"` // known to be lost
	// Fate is set when no repository has the blob.
	Fate *Fate `json:"fate,omitempty"`
}

// WhyRemoval is an object on its way out.
type WhyRemoval struct {
	Key   string    `json:"key"`
	Size  int64     `json:"size"`
	After time.Time `json:"after"`
}

// WhyRepository is what keeps the digest in one repository.
type WhyRepository struct {
	Name string `json:"name"`
	// Linked is when the repository got the blob, nil when it has no such blob.
	Linked *time.Time `json:"linked_at,omitempty"`
	// Manifests that need the blob, some of Needed.
	Manifests []*Holder `json:"manifests,omitempty"`
	Needed    int64     `json:"needed_by"`
	// Manifest is set when the digest is a manifest of the repository.
	Manifest *Holder `json:"manifest,omitempty"`
	// Fate is set when no manifest needs the blob.
	Fate *Fate `json:"fate,omitempty"`
}

// Holder is a manifest with what holds it in turn.
type Holder struct {
	Digest       digest.Digest         `json:"digest"`
	MediaType    string                `json:"media_type"`
	ArtifactType string                `json:"artifact_type,omitempty"`
	Tags         []metadata.HoldingTag `json:"tags,omitempty"`
	Indexes      []*Holder             `json:"indexes,omitempty"`
	Subject      *Holder               `json:"subject,omitempty"` // a referrer stays while this is there
	// Fate is set when nothing holds it.
	Fate *Fate `json:"fate,omitempty"`
	// Truncated: it is held by more than is listed.
	Truncated bool `json:"truncated,omitempty"`
}

// Fate is what becomes of something that nothing holds.
type Fate struct {
	// Since when; nil when that was never noted (berth check --repair does).
	Since *time.Time `json:"since,omitempty"`
	// Reason of a manifest: pushed, untagged, index or subject, see migrations.
	Reason string `json:"reason,omitempty"`
	// After is when it may be collected; nil when a rule keeps it.
	After *time.Time `json:"after,omitempty"`
	// Rule is the setting that decides: gc_grace or untagged_ttl.
	Rule string `json:"rule"`
}

// Why lists every tag, index, subject, repository and rule that keeps a digest,
// or when it goes. It returns BLOB_UNKNOWN when nothing of the digest is here. An unfinished upload
// keeps no digest: only its own bytes, which have none yet.
func (r *Registry) Why(ctx context.Context, d digest.Digest) (w Why, err error) {
	err = r.db.Snapshot(ctx, func(tx *metadata.Tx) (err error) {
		w, err = r.why(ctx, tx, d)
		return err
	})
	return w, err
}

func (r *Registry) why(ctx context.Context, tx *metadata.Tx, d digest.Digest) (Why, error) {
	w := Why{Digest: d, Repositories: []*WhyRepository{}}
	links, err := tx.BlobLinks(ctx, d, "", whyRepositories+1)
	if err != nil {
		return w, err
	}
	manifests, err := tx.ManifestsOf(ctx, d, "", whyRepositories+1)
	if err != nil {
		return w, err
	}
	if len(links) > whyRepositories {
		links, w.Truncated = links[:whyRepositories], true
	}
	if len(manifests) > whyRepositories {
		manifests, w.Truncated = manifests[:whyRepositories], true
	}
	b, stored, err := tx.StoredBlob(ctx, d)
	if err != nil {
		return w, err
	}
	if stored {
		w.Blob = &WhyBlob{Size: b.Size, StoredAt: b.CreatedAt, Key: b.Key, MissingSince: b.MissingSince}
		if len(links) == 0 {
			w.Blob.Fate = r.fate(b.QueuedSince)
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
	for _, l := range links {
		in := repository(l.Repository)
		in.Linked, in.Needed = &l.PushedAt, l.Manifests
		if l.Manifests == 0 {
			in.Fate = r.fate(l.QueuedSince)
		}
		needing, err := tx.ManifestsNeeding(ctx, l.RepositoryID, d, whyHolders)
		if err != nil {
			return w, err
		}
		for _, m := range needing {
			h, err := r.holder(ctx, tx, m, whyDepth)
			if err != nil {
				return w, err
			}
			in.Manifests = append(in.Manifests, h)
		}
	}
	for _, m := range manifests {
		if repository(m.Repository).Manifest, err = r.holder(ctx, tx, m, whyDepth); err != nil {
			return w, err
		}
	}
	removed, err := tx.RemovedObjects(ctx, d)
	if err != nil {
		return w, err
	}
	for _, o := range removed {
		w.Removals = append(w.Removals, WhyRemoval{Key: o.Key, Size: o.Size, After: o.NotBefore})
	}
	if !stored && len(w.Repositories) == 0 && len(w.Removals) == 0 {
		return w, oci.Errorf(oci.CodeBlobUnknown, "nothing here has the digest %s", d)
	}
	return w, nil
}

// holder finds what holds a manifest, and what holds that.
func (r *Registry) holder(ctx context.Context, tx *metadata.Tx, m metadata.HeldManifest, depth int) (*Holder, error) {
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
	if len(tags)+len(indexes)+len(subject) == 0 {
		h.Fate = r.manifestFate(m)
		return h, nil
	}
	if len(tags) > whyHolders {
		tags, h.Truncated = tags[:whyHolders], true
	}
	if len(indexes) > whyHolders {
		indexes, h.Truncated = indexes[:whyHolders], true
	}
	h.Tags = tags
	if depth == 0 {
		h.Truncated = h.Truncated || len(indexes)+len(subject) > 0
		return h, nil
	}
	for _, i := range indexes {
		parent, err := r.holder(ctx, tx, i, depth-1)
		if err != nil {
			return nil, err
		}
		h.Indexes = append(h.Indexes, parent)
	}
	for _, s := range subject {
		if h.Subject, err = r.holder(ctx, tx, s, depth-1); err != nil {
			return nil, err
		}
	}
	return h, nil
}

// fate is that of a link or a blob.
func (r *Registry) fate(since *time.Time) *Fate {
	f := &Fate{Since: since, Rule: "gc_grace"}
	if since != nil {
		after := since.Add(r.o.GCGrace)
		f.After = &after
	}
	return f
}

func (r *Registry) manifestFate(m metadata.HeldManifest) *Fate {
	f := r.fate(m.QueuedSince)
	f.Reason = m.QueueReason
	if m.QueueReason == "subject" {
		return f
	}
	f.Rule = "untagged_ttl"
	switch {
	case r.o.UntaggedTTL == 0:
		f.After = nil
	case m.QueuedSince != nil:
		after := m.QueuedSince.Add(max(r.o.GCGrace, r.o.UntaggedTTL))
		f.After = &after
	}
	return f
}

// Usage is who takes how much space.
type Usage struct {
	Stored       metadata.StoredBytes `json:"stored"`
	Teams        []metadata.Usage     `json:"teams"`
	Repositories []metadata.Usage     `json:"repositories"`
}

// Usage measures teams and repositories. It reads all links, in one snapshot.
func (r *Registry) Usage(ctx context.Context) (u Usage, err error) {
	err = r.db.Snapshot(ctx, func(tx *metadata.Tx) (err error) {
		if u.Stored, err = tx.StoredBytes(ctx); err != nil {
			return err
		}
		if u.Teams, err = tx.TeamUsage(ctx); err != nil {
			return err
		}
		u.Repositories, err = tx.RepositoryUsage(ctx)
		return err
	})
	return u, err
}
