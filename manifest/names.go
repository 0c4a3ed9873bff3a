package manifest

import (
	"strings"

	"berth/oci"
)

// A manifest is served with its media type as the Content-Type, from the address at which people
// sign in. A browser must have no reason to run or to show it, and so what a manifest may be
// called is bounded here. The artifact type, and the media types of config, layers and children,
// are never a Content-Type (blobs are application/octet-stream, a child has its own push): they are data in JSON.
// They stay free, for people push files as text/plain, and artifacts of the type sbom/example.
// docs/decisions/0006-content-is-inert.md tells more.

// active are the subtypes of application/ that browsers run or show as a page, and
// that no JSON has. Those that end in +xml come to them.
var active = map[string]bool{
	"xml": true, "xml-dtd": true, "xml-external-parsed-entity": true, "xhtml": true, "html": true,
	"javascript": true, "x-javascript": true, "ecmascript": true, "x-ecmascript": true,
	"pdf": true, "x-shockwave-flash": true,
}

// inert reports whether a media type is application/..., in the grammar of RFC 6838 section 4.2, and none
// that a browser runs or shows.
func inert(mediaType string) bool {
	if kinds[mediaType] != kindUnknown {
		return true
	}
	low := strings.ToLower(mediaType)
	subtype, ok := strings.CutPrefix(low, "application/")
	return ok && mediaTypeRE.MatchString(mediaType) && !active[subtype] && !strings.HasSuffix(subtype, "+xml")
}

// ContentType is the Content-Type to serve a manifest with: its media type, or
// application/octet-stream for one that was pushed before [Parse] refused its media type.
func ContentType(mediaType string) string {
	if inert(mediaType) {
		return mediaType
	}
	return oci.MediaTypeOctetStream
}

// checkNames refuses what a manifest must not be called. artifactType is that of the body.
func checkNames(mediaType, artifactType string) error {
	if !inert(mediaType) {
		return refuse("media-type-forbidden", "/mediaType",
			"a manifest cannot have the media type %.255q: use one that begins with application/ (RFC 6838) and is not that of XML or a script, such as %s",
			mediaType, oci.MediaTypeImageManifest)
	}
	if artifactType != "" && !mediaTypeRE.MatchString(artifactType) {
		return refuse("artifact-type", "/artifactType",
			"the artifactType %.80q is not a media type: write type/subtype without parameters (RFC 6838 section 4.2)", artifactType)
	}
	return nil
}
