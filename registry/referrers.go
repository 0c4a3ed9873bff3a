package registry

import (
	"context"
	"errors"
	"slices"
	"strings"

	"berth/manifest"
	"berth/metadata"
	"berth/oci"

	"github.com/opencontainers/go-digest"
)

// Bounds of one page of referrers.
const (
	// maxReferrersBytes is about what the descriptors of a page may take: a client
	// reads the page as a manifest, and those are limited to 4 MiB.
	maxReferrersBytes = 4 << 20
	// referrersBatch rows are read at a time, each with up to 4 MiB of annotations.
	referrersBatch = 32
	// maxFallback entries of a fallback index are looked up for one page. It is
	// what one call of ManifestHeads takes.
	maxFallback = 256
)

// Referrers lists the manifests of a repository that refer to the subject,
// ordered by digest, at most limit of them behind after; artifactType "" selects all. next is
// what to pass as after for the next page, or "" when there is none; a page can have less
// than limit entries and still a next one. An unknown repository or subject has no referrers.
//
// Two sources are merged: manifests with the subject, and those in an index under the
// subject's fallback tag (distribution-spec, "Referrers Tag Schema"), which
// clients keep that do not know of the referrers API. Anybody who may push can write
// anything into such an index, so it only says which manifests to look at: one is listed when the
// repository has it and it names no other subject itself. What is said about it comes from the stored
// manifest.
func (r *Registry) Referrers(ctx context.Context, repo string, subject digest.Digest, artifactType string, after digest.Digest, limit int) (page []manifest.Descriptor, next digest.Digest, err error) {
	if limit <= 0 {
		return nil, "", nil
	}
	var rows, listed []metadata.Manifest
	var seenRows, seenListed digest.Digest // how far each source was read, "" for to the end
	err = r.db.View(ctx, func(tx *metadata.Tx) (err error) {
		if rows, seenRows, err = referrers(ctx, tx, repo, subject, artifactType, after, limit); err != nil {
			return err
		}
		listed, seenListed, err = r.fallback(ctx, tx, repo, subject, artifactType, after)
		return err
	})
	if err != nil {
		return nil, "", err
	}
	// The page ends where the first of the sources was left.
	end := seenRows
	if seenListed != "" && (end == "" || seenListed < end) {
		end = seenListed
	}
	all := append(rows, listed...)
	slices.SortFunc(all, func(a, b metadata.Manifest) int { return strings.Compare(string(a.Digest), string(b.Digest)) })
	all = slices.CompactFunc(all, func(a, b metadata.Manifest) bool { return a.Digest == b.Digest })
	size := 0
	for _, m := range all {
		if end != "" && m.Digest > end {
			break
		}
		size += descriptorSize(m)
		if len(page) == limit || len(page) > 0 && size > maxReferrersBytes {
			return page, page[len(page)-1].Digest, nil
		}
		page = append(page, manifest.Descriptor{
			MediaType:    m.MediaType,
			Digest:       m.Digest,
			Size:         m.Size,
			ArtifactType: m.ArtifactType,
			Annotations:  m.Annotations,
		})
	}
	return page, end, nil
}

// referrers reads enough manifests with the subject for a page. seen is the last
// one's digest when there may be more.
func referrers(ctx context.Context, tx *metadata.Tx, repo string, subject digest.Digest, artifactType string, after digest.Digest, limit int) (rows []metadata.Manifest, seen digest.Digest, err error) {
	size := 0
	for {
		n := min(referrersBatch, limit+1-len(rows))
		batch, err := tx.Referrers(ctx, repo, subject, artifactType, after, n)
		if err != nil {
			return nil, "", err
		}
		rows = append(rows, batch...)
		if len(batch) < n {
			return rows, "", nil
		}
		after = rows[len(rows)-1].Digest
		for _, m := range batch {
			size += descriptorSize(m)
		}
		if len(rows) > limit || size > maxReferrersBytes {
			return rows, after, nil
		}
	}
}

// fallback reads the manifests that an index under the fallback tag lists,
// behind after. seen is the last digest that was looked at when there are more.
func (r *Registry) fallback(ctx context.Context, tx *metadata.Tx, repo string, subject digest.Digest, artifactType string, after digest.Digest) (kept []metadata.Manifest, seen digest.Digest, err error) {
	index, err := tx.ManifestByTag(ctx, repo, oci.ReferrersTag(subject))
	if errors.Is(err, oci.ErrManifestUnknown) || errors.Is(err, oci.ErrNameUnknown) {
		return nil, "", nil
	}
	if err != nil {
		return nil, "", err
	}
	// It was parsed when it was pushed, with these bounds, so this does not fail.
	m, err := manifest.Read(index.MediaType, index.Payload)
	if err != nil {
		return nil, "", err
	}
	candidates := slices.DeleteFunc(digests(m.Children), func(d digest.Digest) bool { return d <= after })
	slices.Sort(candidates)
	candidates = slices.Compact(candidates)
	if len(candidates) > maxFallback {
		candidates = candidates[:maxFallback]
		seen = candidates[maxFallback-1]
	}
	heads, err := tx.ManifestHeads(ctx, repo, candidates)
	if err != nil {
		return nil, "", err
	}
	for _, h := range heads {
		if (h.Subject == "" || h.Subject == subject) && (artifactType == "" || h.ArtifactType == artifactType) {
			kept = append(kept, h)
		}
	}
	return kept, seen, nil
}

// descriptorSize is about the length of a manifest's descriptor as JSON.
func descriptorSize(m metadata.Manifest) int {
	n := 200 + len(m.MediaType) + len(m.ArtifactType) + len(m.Digest)
	for k, v := range m.Annotations {
		n += len(k) + len(v) + 6
	}
	return n
}
