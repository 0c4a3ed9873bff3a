package registry

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"berth/auth"
	"berth/manifest"
	"berth/metadata"
	"berth/oci"

	"github.com/opencontainers/go-digest"
)

// Pushed is what PushManifest has done.
type Pushed struct {
	Digest    digest.Digest // the manifest's
	MediaType string
	Subject   digest.Digest // what the manifest refers to, or ""
	Tags      []string      // all that point to it by this push
	Created   bool          // false when the repository had the manifest already
}

// PushManifest stores a manifest, byte for byte, and points tags to it: the tag of a reference by
// tag, or tags, which need a reference by digest. All of it happens in one durable transaction,
// with its line in the audit log, or nothing does; each tag is decided by the database. Pushing
// the same again changes nothing and succeeds.
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
		events := make([]metadata.Event, 0, len(tags)+1)
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

// Manifest gives a manifest with its bytes as they were pushed, which counts as
// a pull for retention. One query.
// It returns MANIFEST_UNKNOWN or NAME_UNKNOWN.
func (r *Registry) Manifest(ctx context.Context, repo string, ref oci.Reference) (metadata.Manifest, error) {
	m, err := r.look(ctx, repo, ref)
	if err == nil {
		r.pulls.note(m.ID, r.o.Clock())
	}
	return m, err
}

// look is Manifest for what only looks at an image. It does not count as a pull.
func (r *Registry) look(ctx context.Context, repo string, ref oci.Reference) (m metadata.Manifest, err error) {
	err = r.db.View(ctx, func(tx *metadata.Tx) (err error) {
		if ref.Digest != "" {
			m, err = tx.ManifestByDigest(ctx, repo, ref.Digest)
		} else {
			m, err = tx.ManifestByTag(ctx, repo, ref.Tag)
		}
		return err
	})
	return m, err
}

// HeadManifest is Manifest without the payload. It counts as a pull too: it is all
// that a client asks which has the image already.
func (r *Registry) HeadManifest(ctx context.Context, repo string, ref oci.Reference) (m metadata.Manifest, err error) {
	err = r.db.View(ctx, func(tx *metadata.Tx) (err error) {
		if ref.Digest != "" {
			m, err = tx.ManifestHeadByDigest(ctx, repo, ref.Digest)
		} else {
			m, err = tx.ManifestHeadByTag(ctx, repo, ref.Tag)
		}
		return err
	})
	if err == nil {
		r.pulls.note(m.ID, r.o.Clock())
	}
	return m, err
}

// maxSized is how many images of an index ImageSize looks at.
const maxSized = 64

// ImageSize is what ECR calls the size of an image: the bytes of its config and
// layers, compressed as they are; of an index, those of its largest image, among the
// first 64 that are there. It is no pull of it. The error is MANIFEST_UNKNOWN for no such manifest.
func (r *Registry) ImageSize(ctx context.Context, repo string, d digest.Digest) (int64, error) {
	return r.imageSize(ctx, repo, d, true)
}

func (r *Registry) imageSize(ctx context.Context, repo string, d digest.Digest, children bool) (size int64, err error) {
	stored, err := r.look(ctx, repo, oci.Reference{Digest: d})
	if err != nil {
		return 0, err
	}
	m, err := manifest.Read(stored.MediaType, stored.Payload)
	if err != nil {
		// Not the client's: it was readable when it was pushed.
		return 0, fmt.Errorf("the stored manifest %s of %s cannot be read: %s", d, repo, err.Error())
	}
	for _, blob := range m.Blobs {
		size += blob.Size
	}
	if !children {
		return size, nil
	}
	for i, child := range m.Children {
		if i == maxSized {
			break
		}
		one, err := r.imageSize(ctx, repo, child.Digest, false)
		switch {
		case err == nil:
			size = max(size, one)
		case !errors.Is(err, oci.ErrManifestUnknown): // a sparse index lacks some
			return 0, err
		}
	}
	return size, nil
}

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

func manifestDeleted(by auth.Actor, repo string, d digest.Digest, tags []string) metadata.Event {
	return metadata.Event{Kind: metadata.ManifestDeleted, Actor: by.Audit, Repository: repo, Digest: d, Tags: tags}
}
