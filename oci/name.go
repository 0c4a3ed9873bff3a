package oci

import "regexp"

// Limits of the protocol's names, in bytes.
const (
	// MaxNameLength bounds a repository name. The specification notes that many
	// clients limit the name with the host to 255 characters.
	MaxNameLength = 255
	// MaxTagLength bounds a tag (distribution-spec, "Pulling manifests").
	MaxTagLength = 128
)

// NamePattern and TagPattern are the grammars of the distribution
// specification, section "Pulling manifests", without anchors.
const (
	NamePattern = `[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*`
	TagPattern  = `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}`
)

var tagRE = regexp.MustCompile(`^` + TagPattern + `$`)

// ParseName checks a repository name. The error is a NAME_INVALID.
func ParseName(s string) (string, error) {
	if len(s) > MaxNameLength {
		return "", Errorf(CodeNameInvalid, "the repository name has %d characters, at most %d are allowed", len(s), MaxNameLength)
	}
	if !IsName(s) {
		return "", Errorf(CodeNameInvalid, "the repository name %.80q is not valid: use lower-case letters and digits, separated by '.', '_', '-' or '/'", s)
	}
	return s, nil
}

// IsName reports whether a text of any length follows NamePattern. Every request on a
// repository asks this, and a regular expression takes ten times as long.
func IsName(s string) bool {
	for i := 0; ; {
		from := i
		for i < len(s) && (s[i] >= 'a' && s[i] <= 'z' || s[i] >= '0' && s[i] <= '9') {
			i++
		}
		if i == from {
			return false
		}
		if i == len(s) {
			return true
		}
		switch separator := s[i]; separator {
		case '/', '.':
			i++
		case '_':
			if i++; i < len(s) && s[i] == '_' {
				i++
			}
		case '-':
			for i < len(s) && s[i] == '-' {
				i++
			}
		default:
			return false
		}
	}
}

// ParseTag checks a tag. The error is a TAG_INVALID with status 400.
func ParseTag(s string) (string, error) {
	if !tagRE.MatchString(s) {
		return "", Errorf(CodeTagInvalid, "the tag %.140q is not valid: use at most %d letters, digits, '_', '.' or '-', starting with a letter, a digit or '_'", s, MaxTagLength)
	}
	return s, nil
}

// Team is the first path segment of a repository name: the team that owns it.
func Team(name string) string {
	for i := range len(name) {
		if name[i] == '/' {
			return name[:i]
		}
	}
	return name
}
