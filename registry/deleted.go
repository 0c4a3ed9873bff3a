package registry

import (
	"context"

	"berth/auth"
	"berth/metadata"

	"github.com/opencontainers/go-digest"
)

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

// DeletedTags lists what can be restored of a repository's tags, newest first, at most limit
// of them before the id given (0 starts at the newest). It returns NAME_UNKNOWN.
func (r *Registry) DeletedTags(ctx context.Context, repo string, before int64, limit int) ([]metadata.DeletedTag, error) {
	return view(ctx, r, func(tx *metadata.Tx) ([]metadata.DeletedTag, error) { return tx.DeletedTags(ctx, repo, before, limit) })
}

// DeletedManifests is DeletedTags for manifests.
func (r *Registry) DeletedManifests(ctx context.Context, repo string, before int64, limit int) ([]metadata.DeletedManifest, error) {
	return view(ctx, r, func(tx *metadata.Tx) ([]metadata.DeletedManifest, error) {
		return tx.DeletedManifests(ctx, repo, before, limit)
	})
}
