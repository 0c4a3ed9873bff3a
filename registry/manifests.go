package registry

import (
	"context"
	"errors"
	"slices"
	"strings"

	"berth/auth"
	"berth/manifest"
	"berth/metadata"
	"berth/oci"

	"github.com/opencontainers/go-digest"
)

// MaxTags bounds the tags of one push by digest.
const MaxTags = 100

// Pushed is what PushManifest has done.
type Pushed struct {
	Digest    digest.Digest // the manifest's
	MediaType string
	Subject   digest.Digest // what the manifest refers to, or ""
	Tags      []string      // all that point to it by this push
	Created   bool          // false when the repository had the manifest already
}

// PushManifest stores a manifest, byte for byte, and points tags to it: the tag of a
// reference by tag, or tags, which need a reference by digest. All of it
// happens in one durable transaction, with its line in the audit log, or nothing does; each tag is decided by the database. Pushing the
// same again changes nothing and succeeds.
//
// It returns MANIFEST_TOO_LARGE, DIGEST_INVALID, TAG_INVALID, INVALID (tags
// with a reference by tag, or too many), MANIFEST_INVALID (see manifest.Parse),
// MANIFEST_BLOB_UNKNOWN with all that is missing, SIZE_INVALID when a descriptor gives another size than
// what is here has, DENIED when the team's quota does not
// allow it, or oci.ErrTagImmutable,
// which is then in the tag's history too.
func (r *Registry) PushManifest(ctx context.Context, by auth.Actor, repo string, ref oci.Reference, tags []string, contentType string, raw []byte) (Pushed, error) {
	if int64(len(raw)) > r.o.MaxManifestSize {
		return Pushed{}, oci.Errorf(oci.CodeManifestTooLarge, "the manifest is larger than %d bytes: put large data in blobs", r.o.MaxManifestSize).
			WithDetail(map[string]any{"rule": "manifest-size", "limit": r.o.MaxManifestSize})
	}
	tags, err := tagsOf(ref, tags)
	if err != nil {
		return Pushed{}, err
	}
	d, err := digestOf(ref, raw)
	if err != nil {
		return Pushed{}, err
	}
	m, err := manifest.Parse(contentType, raw)
	if err != nil {
		return Pushed{}, err
	}
	row := metadata.Manifest{
		Digest:       d,
		MediaType:    m.MediaType,
		ArtifactType: m.ArtifactType,
		Annotations:  m.Annotations,
		Payload:      raw,
		Size:         int64(len(raw)),
		CreatedBy:    by.Audit.Name,
	}
	if m.Subject != nil {
		row.Subject = m.Subject.Digest
	}

	var created bool
	var refused []refusal
	err = r.db.Update(ctx, func(tx *metadata.Tx) error {
		refused = nil
		var events []metadata.Event
		charge := metadata.Charge{Bytes: row.Size, Tags: len(tags)}
		err := r.pushTo(ctx, tx, by, repo, charge, func(id int64) error {
			blobs, err := withForeign(ctx, tx, repo, m)
			if err != nil {
				return err
			}
			refs := metadata.References{Blobs: blobs, Sparse: r.o.AllowSparse, Check: func(sizes map[digest.Digest]int64) error { return checkSizes(m, sizes) }}
			for _, child := range m.Children {
				if manifest.IsManifest(child.MediaType) {
					refs.Children = append(refs.Children, child.Digest)
				} else { // a build cache, an artifact of somebody: who pushed it knows
					refs.Entries = append(refs.Entries, child.Digest)
				}
			}
			if created, err = tx.PushManifest(ctx, id, row, refs); err != nil {
				return err
			}
			for _, tag := range slices.Sorted(slices.Values(tags)) { // one order for all, so that locks cannot cross
				change, err := tx.PutTag(ctx, id, tag, d, by.Audit)
				switch {
				case errors.Is(err, oci.ErrTagImmutable):
					refused = append(refused, refusal{tag, err})
				case err != nil:
					return err
				case change.Created, change.Moved:
					e := metadata.Event{
						Kind: metadata.TagCreated, Actor: by.Audit, Repository: repo, Reference: tag, Digest: d, Previous: change.Previous,
						MediaType: m.MediaType, ArtifactType: m.ArtifactType, Subject: row.Subject, Size: row.Size,
					}
					if change.Moved {
						e.Kind = metadata.TagMoved
					}
					events = append(events, e)
				}
			}
			return refusals(refused)
		})
		if err != nil {
			return err
		}
		return tx.Record(ctx, append(events, pushed(by, repo, tags, row, created))...)
	})
	if len(refused) > 0 && errors.Is(err, oci.ErrTagImmutable) {
		r.recordRefused(ctx, repo, d, by, refused)
	}
	if err != nil {
		return Pushed{}, err
	}
	return Pushed{Digest: d, MediaType: m.MediaType, Subject: row.Subject, Tags: tags, Created: created}, nil
}

// pushed is the event of a pushed manifest.
func pushed(by auth.Actor, repo string, tags []string, m metadata.Manifest, created bool) metadata.Event {
	e := metadata.Event{
		Kind: metadata.ManifestPushed, Actor: by.Audit, Repository: repo, Digest: m.Digest,
		MediaType: m.MediaType, ArtifactType: m.ArtifactType, Subject: m.Subject, Size: m.Size, Tags: tags,
	}
	if !created {
		e.Detail = map[string]any{"again": true} // the repository had the manifest
	}
	if len(tags) > 0 {
		e.Reference = tags[0]
	}
	return e
}

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

// digestOf is the manifest's digest: of the reference's algorithm, and then
// the same, or sha256 for a tag.
func digestOf(ref oci.Reference, raw []byte) (digest.Digest, error) {
	if ref.Digest == "" {
		return digest.FromBytes(raw), nil
	}
	d := ref.Digest.Algorithm().FromBytes(raw)
	if d != ref.Digest {
		return "", oci.Errorf(oci.CodeDigestInvalid, "the manifest's %d bytes have the digest %s, not %s: push them under their own digest", len(raw), d, ref.Digest).
			WithDetail(map[string]any{"rule": "digest-mismatch", "computed": d, "asked": ref.Digest})
	}
	return d, nil
}

func digests(ds []manifest.Descriptor) []digest.Digest {
	out := make([]digest.Digest, len(ds))
	for i, d := range ds {
		out[i] = d.Digest
	}
	return out
}

// maxLies bounds what the detail of a refusal by checkSizes names.
const maxLies = 10

// checkSizes refuses a manifest that gives a blob or a child another size than it has. Clients compare
// the two when they pull, and none would take it. The detail has three lists of the same order, as
// many as fit: digests, given (bytes, by the manifest) and stored (bytes).
func checkSizes(m *manifest.Manifest, sizes map[digest.Digest]int64) error {
	var digests []digest.Digest
	var given, stored []int64
	for _, list := range [][]manifest.Descriptor{m.Blobs, m.Foreign, m.Children} {
		for _, d := range list {
			if size, ok := sizes[d.Digest]; ok && size != d.Size && len(digests) < maxLies {
				digests, given, stored = append(digests, d.Digest), append(given, d.Size), append(stored, size)
			}
		}
	}
	if len(digests) == 0 {
		return nil
	}
	return oci.Errorf(oci.CodeSizeInvalid, "the manifest says that %s has %d bytes, but it has %d, so that no client could pull it: correct the size in the descriptor",
		digests[0], given[0], stored[0]).
		WithDetail(map[string]any{"rule": "descriptor-size", "digests": digests, "given": given, "stored": stored})
}

// withForeign gives the blobs that the manifest needs: those that must be
// there, and of the foreign layers those that somebody has pushed, so that they are not collected.
func withForeign(ctx context.Context, tx *metadata.Tx, repo string, m *manifest.Manifest) ([]digest.Digest, error) {
	blobs := digests(m.Blobs)
	for _, f := range m.Foreign {
		_, err := tx.Blob(ctx, repo, f.Digest)
		switch {
		case err == nil:
			blobs = append(blobs, f.Digest)
		case !errors.Is(err, oci.ErrBlobUnknown):
			return nil, err
		}
	}
	return blobs, nil
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

// MountBlob makes a blob of one repository a blob of another without moving
// bytes. The caller has checked that the actor may pull from `from`. It says
// false when `from` does not have the blob; then the client has to upload it.
func (r *Registry) MountBlob(ctx context.Context, by auth.Actor, repo string, d digest.Digest, from string) (bool, error) {
	b, err := r.Blob(ctx, from, d)
	if err != nil {
		if errors.Is(err, oci.ErrBlobUnknown) {
			return false, nil
		}
		return false, err
	}
	linked := false
	err = r.db.Update(ctx, func(tx *metadata.Tx) error {
		err := r.pushTo(ctx, tx, by, repo, metadata.Charge{Bytes: b.Size}, func(id int64) (err error) {
			if linked, err = tx.Link(ctx, id, d); err == nil && !linked {
				err = errNotThere // and so no repository either
			}
			return err
		})
		if err != nil {
			return err
		}
		return tx.Record(ctx, metadata.Event{Kind: metadata.BlobMounted, Actor: by.Audit, Repository: repo, Digest: d, Size: b.Size, From: from})
	})
	if errors.Is(err, errNotThere) {
		return false, nil
	}
	return linked, err
}

// maxCandidates bounds the repositories that are considered for a mount that
// does not say from where.
const maxCandidates = 100

// MountCandidates gives repositories that have the blob, for a mount without
// `from`. The caller picks one that the client may pull from.
func (r *Registry) MountCandidates(ctx context.Context, d digest.Digest) (repos []string, err error) {
	err = r.db.View(ctx, func(tx *metadata.Tx) (err error) {
		repos, err = tx.BlobRepositories(ctx, d, maxCandidates)
		return err
	})
	return repos, err
}
