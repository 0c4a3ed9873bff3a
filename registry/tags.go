package registry

import (
	"context"
	"errors"
	"slices"
	"strings"

	"berth/auth"
	"berth/metadata"
	"berth/oci"

	"github.com/opencontainers/go-digest"
)

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

// MaxTags bounds the tags of one push by digest.
const MaxTags = 100

// tagsOf gives the tags of a push, each once, in their order.
func tagsOf(ref oci.Reference, params []string) ([]string, error) {
	if ref.Digest == "" {
		if len(params) > 0 {
			return nil, oci.Errorf(oci.CodeInvalid, "tag parameters need a manifest that is pushed by digest: put the digest in the place of the tag %q", ref.Tag).
				WithDetail(map[string]any{"rule": "tag-parameters"})
		}
		return []string{ref.Tag}, nil
	}
	tags := make([]string, 0, min(len(params), MaxTags))
	for _, p := range params {
		tag, err := oci.ParseTag(p)
		if err != nil {
			return nil, err
		}
		if slices.Contains(tags, tag) {
			continue
		}
		if len(tags) == MaxTags {
			return nil, oci.Errorf(oci.CodeInvalid, "there are more than %d tags: push the others in another request", MaxTags).
				WithDetail(map[string]any{"rule": "tag-parameters", "limit": MaxTags})
		}
		tags = append(tags, tag)
	}
	return tags, nil
}

// refusal is a tag that the database would not move.
type refusal struct {
	tag string
	err error
}

// refusals is the error of a push whose tags were refused. One that names
// several is still about the first.
func refusals(refused []refusal) error {
	if len(refused) < 2 {
		if len(refused) == 1 {
			return refused[0].err
		}
		return nil
	}
	var messages, tags []string
	for _, f := range refused {
		var e *oci.Error
		if errors.As(f.err, &e) {
			messages = append(messages, e.Message)
		}
		tags = append(tags, f.tag)
	}
	return oci.Errorf(oci.CodeTagImmutable, "%s", strings.Join(messages, "; ")).WithDetail(map[string]any{"rule": "tag-policy", "tags": tags})
}

// recordRefused writes down who was refused. It is history, not protection: a
// failure is logged and the refusal stands.
func (r *Registry) recordRefused(ctx context.Context, repo string, d digest.Digest, by auth.Actor, refused []refusal) {
	ctx, cancel := detached(ctx, recordTime)
	defer cancel()
	err := r.db.Update(ctx, func(tx *metadata.Tx) error {
		var events []metadata.Event
		for _, f := range refused {
			if err := tx.RecordRefusal(ctx, repo, f.tag, d, by.Audit); err != nil {
				return err
			}
			events = append(events, metadata.Event{
				Kind: metadata.ManifestPushed, Outcome: metadata.AuditRefused, Actor: by.Audit, Repository: repo, Reference: f.tag, Digest: d,
				Detail: map[string]any{"rule": "tag-policy"},
			})
		}
		return tx.Record(ctx, events...)
	})
	if err != nil {
		r.o.Logger.ErrorContext(ctx, "a refused push is missing in the tag history", "repository", repo, "actor", by.Audit.Name, "error", err)
	}
}

// TagNames lists the tags of a repository in the order of their bytes, at most
// limit of them, behind after. It returns NAME_UNKNOWN.
func (r *Registry) TagNames(ctx context.Context, repo, after string, limit int) (tags []string, err error) {
	err = r.db.View(ctx, func(tx *metadata.Tx) (err error) {
		tags, err = tx.TagNames(ctx, repo, after, limit)
		return err
	})
	return tags, err
}

// Tags lists the tags of a repository as TagNames does, with all about them.
func (r *Registry) Tags(ctx context.Context, repo, after string, limit int) ([]metadata.Tag, error) {
	return view(ctx, r, func(tx *metadata.Tx) ([]metadata.Tag, error) { return tx.Tags(ctx, repo, after, limit) })
}

// Tag gives where a tag points now, since when and by whom. It returns NAME_UNKNOWN or
// MANIFEST_UNKNOWN, and counts as no pull.
func (r *Registry) Tag(ctx context.Context, repo, name string) (metadata.Tag, error) {
	return view(ctx, r, func(tx *metadata.Tx) (metadata.Tag, error) { return tx.Tag(ctx, repo, name) })
}

// TagHistory lists what happened to a tag, newest first, at most limit lines before the id
// given (0 starts at the newest). The history outlives the tag and its repository. Without any
// it returns NAME_UNKNOWN or MANIFEST_UNKNOWN.
func (r *Registry) TagHistory(ctx context.Context, repo, tag string, before int64, limit int) ([]metadata.TagEvent, error) {
	return view(ctx, r, func(tx *metadata.Tx) ([]metadata.TagEvent, error) {
		events, err := tx.TagHistory(ctx, repo, tag, before, limit)
		if err == nil && len(events) == 0 && before == 0 {
			_, err = tx.Tag(ctx, repo, tag) // says what is not there
		}
		return events, err
	})
}
