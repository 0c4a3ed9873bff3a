package oci

import v1 "github.com/opencontainers/image-spec/specs-go/v1"

// Media types of manifests that clients push. Berth accepts any media type;
// these are the ones whose structure it knows.
const (
	MediaTypeImageManifest      = v1.MediaTypeImageManifest
	MediaTypeImageIndex         = v1.MediaTypeImageIndex
	MediaTypeDockerManifest     = "application/vnd.docker.distribution.manifest.v2+json"
	MediaTypeDockerManifestList = "application/vnd.docker.distribution.manifest.list.v2+json"
	// MediaTypeOctetStream is what blobs are served as.
	MediaTypeOctetStream = "application/octet-stream"
)

// MaxManifestSize is the default limit of a manifest in bytes: 4 MiB, the
// least that the specification asks clients and registries to support.
const MaxManifestSize = 4 << 20
