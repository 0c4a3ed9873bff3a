// Package manifest reads manifests: bytes in, facts out. It decides what a
// manifest references, and refuses what two clients could understand
// differently. It is pure (no input, output or state) and never rewrites a
// byte. Start with [Parse].
package manifest

import (
	"strings"

	"berth/oci"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// Limits of a manifest. The size in bytes is the caller's to limit, before
// the bytes are in memory.
const (
	// MaxDescriptors bounds the descriptors of one manifest: config, layers,
	// manifests and subject together.
	MaxDescriptors = 10_000
	// MaxAnnotations bounds the manifest's own annotations, and MaxURLs those of one
	// descriptor. They are kept in memory, where short ones take many times their size.
	MaxAnnotations = 10_000
	MaxURLs        = 1_000
	// MaxTokens bounds the names, values and brackets of a manifest, in unknown fields
	// too: what looks for repeated names remembers them. It is far beyond what
	// MaxDescriptors with ten annotations each need.
	MaxTokens = 500_000
	// MaxForeign bounds the layers that need not be in the repository. Each may
	// cost the pusher's transaction a query; Docker's own limit of layers is 127.
	MaxForeign = 128
	// MaxDepth bounds the nesting of objects and arrays, in unknown fields too.
	MaxDepth = 64
	// MaxMediaType bounds a media type in bytes: RFC 6838 section 4.2 allows
	// 127 on each side of the slash.
	MaxMediaType = 255
	// maxPointer bounds the JSON pointer in an error's detail, in bytes.
	maxPointer = 256
)

// Descriptor points at content. Those of a Manifest have MediaType, Digest,
// Size, URLs and ArtifactType; the other fields are not read.
type Descriptor = v1.Descriptor

// Manifest is what a registry has to know about a manifest.
type Manifest struct {
	// MediaType is the Content-Type without parameters, or the body's mediaType
	// when the Content-Type is empty or says no more than "JSON" or "bytes".
	MediaType string
	// ArtifactType is what the referrers API reports: the body's artifactType,
	// else, of an image manifest, the media type of its config, else "".
	ArtifactType string
	// Annotations are the manifest's own, nil when it has none.
	Annotations map[string]string
	// Subject is the manifest that this one refers to, which need not exist; or nil.
	Subject *Descriptor
	// Blobs must exist in the repository: config and layers, in the manifest's order. Here
	// and below each digest comes once for each size that it is given with, and so once in a
	// manifest that tells the truth.
	Blobs []Descriptor
	// Foreign are layers that may be fetched elsewhere: non-distributable ones and those
	// with urls. They need not exist in the repository, but some clients push
	// them (dockerd's allow-nondistributable-artifacts), and then the manifest needs them.
	Foreign []Descriptor
	// Children are the manifests of an index, in order.
	Children []Descriptor
}

// kind is what a known media type says about the structure.
type kind int

const (
	kindUnknown  kind = iota
	kindImage         // config and layers
	kindIndex         // manifests
	kindArtifact      // blobs: the artifact manifest that OCI 1.1 dropped and ORAS still meets
	kindSchema1       // refused
)

var kinds = map[string]kind{
	oci.MediaTypeImageManifest:                                  kindImage,
	oci.MediaTypeDockerManifest:                                 kindImage,
	oci.MediaTypeImageIndex:                                     kindIndex,
	oci.MediaTypeDockerManifestList:                             kindIndex,
	"application/vnd.oci.artifact.manifest.v1+json":             kindArtifact,
	"application/vnd.cncf.oras.artifact.manifest.v1+json":       kindArtifact,
	"application/vnd.docker.distribution.manifest.v1+json":      kindSchema1,
	"application/vnd.docker.distribution.manifest.v1+prettyjws": kindSchema1,
}

// generic reports whether a Content-Type says nothing about the manifest, so
// that the body's mediaType decides.
func generic(mediaType string) bool {
	return mediaType == "" || mediaType == "application/json" || mediaType == oci.MediaTypeOctetStream
}

// foreign reports whether a layer may be absent: it has urls, or a media type
// that licences keep from being pushed (image-spec, "Non-Distributable Layers").
func foreign(d Descriptor) bool {
	return len(d.URLs) > 0 ||
		strings.HasPrefix(d.MediaType, "application/vnd.oci.image.layer.nondistributable.") ||
		strings.HasPrefix(d.MediaType, "application/vnd.docker.image.rootfs.foreign.")
}

// IsManifest reports whether a media type is that of a manifest for everybody: an image, an
// index or an artifact manifest, of OCI or Docker.
func IsManifest(mediaType string) bool { return kinds[mediaType] != kindUnknown }

// blobInIndex reports whether an entry of an index is a blob and not a
// manifest by its media type. BuildKit's registry cache (`--cache-to type=registry` without
// image-manifest=true) is an index of layers and a cache config.
func blobInIndex(d Descriptor) bool {
	return strings.HasPrefix(d.MediaType, "application/vnd.oci.image.layer.") ||
		strings.HasPrefix(d.MediaType, "application/vnd.docker.image.rootfs.") ||
		strings.HasPrefix(d.MediaType, "application/vnd.buildkit.cacheconfig.") ||
		d.MediaType == v1.MediaTypeImageConfig ||
		d.MediaType == "application/vnd.docker.container.image.v1+json"
}

// Parse reads a manifest as a client pushes it: the Content-Type header and
// the body. It accepts every media type application/..., but those of XML and scripts; the body must be one JSON object
// (RFC 8259, valid UTF-8, no name twice in an object) whose known fields
// (schemaVersion, mediaType, artifactType, config, layers, manifests, subject,
// annotations) have the form that the image specification gives them, or are null, which
// counts as absent. Other fields are not looked at, but a name that differs from a known one only in
// case is refused, because Go's clients would read it.
//
// Every refusal is a MANIFEST_INVALID whose detail has the "rule" that was
// broken and, where there is one, the "field" as a JSON pointer (RFC 6901).
//
// The time it takes is in proportion to len(raw), and so is the memory, until the
// bounds above end it: some 40 MB for a body of 4 MiB that was made to take much.
// The result does not share memory with raw.
func Parse(contentType string, raw []byte) (*Manifest, error) {
	m, doc, err := parse(contentType, raw)
	if err != nil {
		return nil, err
	}
	if err := checkNames(m.MediaType, doc.artifactType); err != nil {
		return nil, err
	}
	return m, nil
}

// Read is Parse for a manifest that is stored: its media type, and its bytes. It takes also
// what was pushed before Parse refused the media type.
func Read(mediaType string, raw []byte) (*Manifest, error) {
	m, _, err := parse(mediaType, raw)
	return m, err
}

func parse(contentType string, raw []byte) (*Manifest, *document, error) {
	mediaType, err := parseContentType(contentType)
	if err != nil {
		return nil, nil, err
	}
	doc, err := decode(raw)
	if err != nil {
		return nil, nil, err
	}
	if doc.mediaType != "" && !generic(mediaType) && doc.mediaType != mediaType {
		return nil, nil, refuse("media-type-mismatch", "/mediaType",
			"the Content-Type is %.255q but the body's mediaType is %.255q: push the manifest with its own media type", mediaType, doc.mediaType)
	}
	if generic(mediaType) && doc.mediaType != "" {
		if mediaType = doc.mediaType; !mediaTypeRE.MatchString(mediaType) {
			return nil, nil, refuse("media-type", "/mediaType", "%.80q is not a media type (RFC 6838)", mediaType)
		}
	}
	if mediaType == "" {
		return nil, nil, refuse("media-type-missing", "/mediaType",
			"there is neither a Content-Type nor a mediaType in the body: state the manifest's media type")
	}

	k := kinds[mediaType]
	if err := check(k, doc); err != nil {
		return nil, nil, err
	}
	m := &Manifest{
		MediaType:    mediaType,
		ArtifactType: doc.artifactType,
		Annotations:  doc.annotations,
		Subject:      doc.subject,
	}
	if m.ArtifactType == "" && k == kindImage {
		m.ArtifactType = doc.config.MediaType
	}
	var blobs []Descriptor
	if k == kindArtifact && doc.rawBlobs != nil {
		if blobs, err = decodeBlobs(doc.rawBlobs, doc.descriptors); err != nil {
			return nil, nil, err
		}
	}
	if err := m.sort(doc, blobs); err != nil {
		return nil, nil, err
	}
	return m, doc, nil
}

// check applies the rules that need more than one field.
func check(k kind, doc *document) error {
	if k == kindSchema1 || doc.fsLayers && doc.schemaVersion == 1 {
		return refuse("schema1", "/schemaVersion",
			"Docker image manifests of schema 1 are not supported, they cannot be verified: push the image with Docker 1.10 or newer, or convert it with skopeo copy --format v2s2")
	}
	// CVE-2021-41190: one document that is an image to one client and an index
	// to another.
	if doc.manifests != nil && (doc.layers != nil || doc.config != nil) {
		return refuse("index-and-image", "/manifests",
			"the manifest has both manifests and layers or config, so that clients disagree on what it is: make it either an index or an image")
	}
	if (k == kindImage || k == kindIndex) && doc.schemaVersion != 2 {
		return refuse("schema-version", "/schemaVersion",
			"schemaVersion is %d, it has to be 2 for this media type", doc.schemaVersion)
	}
	switch k {
	case kindImage:
		if doc.manifests != nil {
			return refuse("image-with-manifests", "/manifests", "the media type is that of an image, but the body has manifests: push an index with an index's media type")
		}
		if doc.config == nil {
			return refuse("config-missing", "/config", "an image manifest has to have a config")
		}
		// The specification wants layers too, but old tools leave the list out when it is empty.
	case kindIndex:
		if doc.layers != nil || doc.config != nil {
			return refuse("index-with-layers", "/layers", "the media type is that of an index, but the body has layers or config: push an image with an image's media type")
		}
		if doc.manifests == nil && !doc.nullManifests {
			return refuse("manifests-missing", "/manifests", "an index has to have manifests; the list may be empty")
		}
	}
	return nil
}

// sort puts the descriptors where they belong.
func (m *Manifest) sort(doc *document, blobs []Descriptor) error {
	var must []Descriptor
	if doc.config != nil {
		must = append(must, *doc.config)
	}
	must = append(must, blobs...)
	for _, d := range doc.layers {
		if !foreign(d) {
			must = append(must, d)
		}
	}
	for _, d := range doc.manifests {
		if blobInIndex(d) {
			must = append(must, d)
		}
	}
	seen := make(map[sized]bool, len(must))
	m.Blobs = unique(must, seen)

	var may []Descriptor
	for _, d := range doc.layers {
		if foreign(d) {
			may = append(may, d)
		}
	}
	m.Foreign = unique(may, seen)
	if len(m.Foreign) > MaxForeign {
		return refuse("too-many-foreign-layers", "/layers",
			"the manifest has %d foreign layers, at most %d are allowed", len(m.Foreign), MaxForeign)
	}

	var children []Descriptor
	for _, d := range doc.manifests {
		if !blobInIndex(d) {
			children = append(children, d)
		}
	}
	m.Children = unique(children, make(map[sized]bool, len(children)))
	return nil
}

// sized is content as a descriptor describes it.
type sized struct {
	digest digest.Digest
	size   int64
}

// unique keeps the first descriptor of each digest and size that is not seen yet.
func unique(ds []Descriptor, seen map[sized]bool) []Descriptor {
	kept := ds[:0]
	for _, d := range ds {
		if key := (sized{d.Digest, d.Size}); !seen[key] {
			seen[key] = true
			kept = append(kept, d)
		}
	}
	return kept
}

// refuse makes the error of a rule. field is a JSON pointer, or "".
func refuse(rule, field, format string, args ...any) *oci.Error {
	detail := map[string]any{"rule": rule}
	if field != "" {
		if len(field) > maxPointer {
			field = strings.ToValidUTF8(field[:maxPointer], "") + "..."
		}
		detail["field"] = field
	}
	return oci.Errorf(oci.CodeManifestInvalid, format, args...).WithDetail(detail)
}
