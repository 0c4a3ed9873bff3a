package registry

import (
	"context"

	"berth/auth"
	"berth/metadata"

	"github.com/opencontainers/go-digest"
)

// DeleteManifest removes a manifest and gives the tags that went with it; Restore
// can bring them back. It
// returns MANIFEST_UNKNOWN or NAME_UNKNOWN, CONFLICT when an index has it, and
// oci.ErrTagImmutable when one of its tags is sealed.
func (r *Registry) DeleteManifest(ctx context.Context, by auth.Actor, repo string, d digest.Digest) (tags []string, err error) {
	err = r.db.Update(ctx, func(tx *metadata.Tx) (err error) {
		if tags, err = tx.DeleteManifest(ctx, repo, d, by.Audit); err != nil {
			return err
		}
		return tx.Record(ctx, manifestDeleted(by, repo, d, tags))
	})
	return tags, err
}

// DeleteTag removes a tag and leaves its manifest; Restore can bring it back. It returns MANIFEST_UNKNOWN
// or NAME_UNKNOWN, and oci.ErrTagImmutable when the tag is sealed.
func (r *Registry) DeleteTag(ctx context.Context, by auth.Actor, repo, tag string) error {
	return r.db.Update(ctx, func(tx *metadata.Tx) error {
		d, err := tx.DeleteTag(ctx, repo, tag, by.Audit)
		if err != nil {
			return err
		}
		return tx.Record(ctx, tagDeleted(by, repo, tag, d))
	})
}

// DeleteImage removes a tag, and with its last tag the manifest, as ECR does it; Restore brings
// back both. A manifest that an index needs stays as a part of that. The errors are those of DeleteTag.
func (r *Registry) DeleteImage(ctx context.Context, by auth.Actor, repo, tag string) error {
	return r.db.Update(ctx, func(tx *metadata.Tx) error {
		d, dropped, err := tx.DeleteTagAndImage(ctx, repo, tag, by.Audit)
		if err != nil {
			return err
		}
		events := []metadata.Event{tagDeleted(by, repo, tag, d)}
		if dropped {
			events = append(events, manifestDeleted(by, repo, d, []string{tag}))
		}
		return tx.Record(ctx, events...)
	})
}

// tagDeleted and manifestDeleted are the events, whatever the door.
func tagDeleted(by auth.Actor, repo, tag string, d digest.Digest) metadata.Event {
	return metadata.Event{Kind: metadata.TagDeleted, Actor: by.Audit, Repository: repo, Reference: tag, Digest: d}
}

func manifestDeleted(by auth.Actor, repo string, d digest.Digest, tags []string) metadata.Event {
	return metadata.Event{Kind: metadata.ManifestDeleted, Actor: by.Audit, Repository: repo, Digest: d, Tags: tags}
}

// Restore brings back a deleted tag, with its manifest if that was deleted as
// well, or a deleted manifest with the tags that went along (then tag is ""). See [metadata.Tx.Restore] for the errors;
// DENIED when the team's quota does not allow it.
func (r *Registry) Restore(ctx context.Context, by auth.Actor, repo, tag string, d digest.Digest) (restored metadata.Restored, err error) {
	err = r.db.Update(ctx, func(tx *metadata.Tx) (err error) {
		if _, err := tx.Repository(ctx, repo); err != nil {
			return err
		}
		err = r.pushTo(ctx, tx, by, repo, metadata.Charge{Unknown: true}, func(int64) (err error) {
			restored, err = tx.Restore(ctx, repo, tag, d, by.Audit)
			return err
		})
		if err != nil {
			return err
		}
		return tx.Record(ctx, metadata.Event{
			Kind: metadata.DeletedRestored, Actor: by.Audit, Repository: repo, Reference: tag, Digest: restored.Digest, Tags: restored.Tags,
			Detail: map[string]any{"tags": restored.Tags, "manifest": restored.Manifest},
		})
	})
	return restored, err
}

// DeleteBlob takes a blob out of a repository. Its bytes stay while any
// repository has it. It returns BLOB_UNKNOWN, and CONFLICT when a manifest has it.
func (r *Registry) DeleteBlob(ctx context.Context, by auth.Actor, repo string, d digest.Digest) error {
	return r.db.Update(ctx, func(tx *metadata.Tx) error {
		if err := tx.UnlinkBlob(ctx, repo, d); err != nil {
			return err
		}
		return tx.Record(ctx, metadata.Event{Kind: metadata.BlobDeleted, Actor: by.Audit, Repository: repo, Digest: d})
	})
}
