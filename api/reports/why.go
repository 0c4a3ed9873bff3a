package reports

import (
	"time"

	"berth/api"
	"berth/metadata"
	"berth/registry/collect"
)

// Two types of the API that have no name there.
type (
	removal = struct {
		After time.Time `json:"after"`
		Key   string    `json:"key"`
		Size  int64     `json:"size"`
	}
	holdingTag = struct {
		Name string `json:"name"`

		// Policy mutable, immutable or sealed.
		Policy   string    `json:"policy"`
		PushedAt time.Time `json:"pushed_at"`

		// Retention What the retention rules make of a tag; absent where there are none.
		Retention *api.TagRetention `json:"retention,omitempty"`
	}
)

// DigestHolders is all that keeps a digest.
func DigestHolders(w collect.Why) api.DigestHolders {
	shown := api.DigestHolders{
		Digest: w.Digest.String(), Repositories: each(w.Repositories, holdingRepository),
		Removals: some(w.Removals, func(r collect.WhyRemoval) removal {
			return removal{Key: r.Key, Size: r.Size, After: r.After}
		}),
		Truncated: optional(w.Truncated), RulesTruncated: optional(w.RulesTruncated),
	}
	if b := w.Blob; b != nil {
		shown.Blob = &api.HeldBlob{Size: b.Size, Key: optional(b.Key), MissingSince: b.MissingSince, Fate: fate(b.Fate)}
		if !b.StoredAt.IsZero() {
			shown.Blob.StoredAt = &b.StoredAt
		}
	}
	return shown
}

func holdingRepository(r *collect.WhyRepository) api.HoldingRepository {
	shown := api.HoldingRepository{
		Name: r.Name, LinkedAt: r.Linked, Manifests: some(r.Manifests, holdingManifest), NeededBy: r.Needed,
		Deleted: some(r.Deleted, holdingDeletion), Fate: fate(r.Fate), Truncated: optional(r.Truncated),
	}
	if r.Manifest != nil {
		manifest := holdingManifest(r.Manifest)
		shown.Manifest = &manifest
	}
	if r.DeletedManifest != nil {
		deleted := holdingDeletion(r.DeletedManifest)
		shown.DeletedManifest = &deleted
	}
	return shown
}

func holdingManifest(h *collect.Holder) api.HoldingManifest {
	shown := api.HoldingManifest{
		Digest: h.Digest.String(), MediaType: h.MediaType, ArtifactType: optional(h.ArtifactType),
		Tags: some(h.Tags, func(t collect.WhyTag) holdingTag {
			return holdingTag{Name: t.Name, Policy: t.Mode, PushedAt: t.UpdatedAt, Retention: tagRetention(t.Retention)}
		}),
		Deleted: some(h.Deleted, holdingDeletion), Indexes: some(h.Indexes, holdingManifest),
		Fate: fate(h.Fate), Truncated: optional(h.Truncated),
	}
	if h.Subject != nil {
		subject := holdingManifest(h.Subject)
		shown.Subject = &subject
	}
	return shown
}

func holdingDeletion(d *collect.Deletion) api.HoldingDeletion {
	return api.HoldingDeletion{
		As: d.As, Tag: optional(d.Tag), Digest: d.Digest.String(), MediaType: optional(d.MediaType), Tags: some(d.Tags, same),
		DeletedAt: d.DeletedAt, DeletedBy: d.DeletedBy, Until: d.Until, Truncated: optional(d.Truncated),
	}
}

func tagRetention(t *collect.TagRetention) *api.TagRetention {
	if t == nil {
		return nil
	}
	return &api.TagRetention{
		Level: t.Level, Keep: t.Keep, Rule: optional(t.Rule), After: t.After, Reasons: RetentionReasons(t.Reasons),
	}
}

// RetentionReasons is what rules, or a tag itself, say of the tag.
func RetentionReasons(reasons []metadata.RetentionReason) []api.RetentionReason {
	return each(reasons, func(r metadata.RetentionReason) api.RetentionReason {
		return api.RetentionReason{Rule: optional(r.Rule), Keeps: r.Keeps, Reason: r.Reason, Until: r.Until}
	})
}

func fate(f *collect.Fate) *api.Fate {
	if f == nil {
		return nil
	}
	return &api.Fate{Since: f.Since, Reason: optional(f.Reason), After: f.After, Rule: f.Rule, Level: optional(f.Level)}
}
