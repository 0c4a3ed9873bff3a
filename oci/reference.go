package oci

import (
	_ "crypto/sha256" // makes sha256 available to go-digest
	_ "crypto/sha512" // makes sha512 available to go-digest
	"strings"

	"github.com/opencontainers/go-digest"
)

// ParseDigest checks a digest: "sha256:" with 64 or "sha512:" with 128 lower
// case hexadecimal digits. The error is a DIGEST_INVALID.
func ParseDigest(s string) (digest.Digest, error) {
	d := digest.Digest(s)
	if hex, ok := strings.CutPrefix(s, "sha256:"); ok && len(hex) == 64 && strings.Trim(hex, "0123456789abcdef") == "" {
		return d, nil // nearly all are, and go-digest asks a regular expression
	}
	if err := d.Validate(); err != nil || !supported(d.Algorithm()) {
		return "", Errorf(CodeDigestInvalid, "the digest %.160q is not valid: use sha256:<64 hex digits> or sha512:<128 hex digits>", s)
	}
	return d, nil
}

// ParseAlgorithm checks a digest algorithm as given in digest-algorithm=.
// An empty string is sha256. The error is a DIGEST_INVALID.
func ParseAlgorithm(s string) (digest.Algorithm, error) {
	if s == "" {
		return digest.SHA256, nil
	}
	a := digest.Algorithm(s)
	if !supported(a) {
		return "", Errorf(CodeDigestInvalid, "the digest algorithm %.40q is not supported: use sha256 or sha512", s)
	}
	return a, nil
}

func supported(a digest.Algorithm) bool { return a == digest.SHA256 || a == digest.SHA512 }

// Reference names a manifest in a repository: by Tag or by Digest, never both.
type Reference struct {
	Tag    string
	Digest digest.Digest
}

// ParseReference reads what stands behind /manifests/ in a URL. A colon makes
// it a digest, for no tag has one. The error is a DIGEST_INVALID or TAG_INVALID.
func ParseReference(s string) (Reference, error) {
	if strings.Contains(s, ":") {
		d, err := ParseDigest(s)
		return Reference{Digest: d}, err
	}
	t, err := ParseTag(s)
	return Reference{Tag: t}, err
}

// String is the inverse of ParseReference.
func (r Reference) String() string {
	if r.Digest != "" {
		return r.Digest.String()
	}
	return r.Tag
}

// ReferrersTag is the tag under which clients of registries without the
// referrers API keep the index of a subject's referrers (distribution-spec,
// "Referrers Tag Schema").
func ReferrersTag(subject digest.Digest) string {
	return replaceNonTag(truncate(subject.Algorithm().String(), 32)) + "-" + replaceNonTag(truncate(subject.Encoded(), 64))
}

func truncate(s string, n int) string {
	if len(s) > n {
		return s[:n]
	}
	return s
}

func replaceNonTag(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '_', r == '.', r == '-':
			return r
		}
		return '-'
	}, s)
}
