package oci

import (
	"regexp"
	"unicode/utf8"
)

// Match reports whether a name matches a glob. In a glob * stands for any characters, '/'
// included, and none; ? stands for one character; every other character stands for itself.
//
// The rights of users and tokens, denials, retention and tag policies all use this one
// meaning. SQL has the same function twice: the function glob of the Postgres migrations, and
// SQLite's own GLOB, which also knows [classes]: [IsRepositoryGlob] and [IsTagGlob] reject
// these. It takes at most len(glob)*len(name) steps.
func Match(glob, name string) bool {
	g, n, star, mark := 0, 0, -1, 0
	for n < len(name) {
		_, size := utf8.DecodeRuneInString(name[n:])
		switch {
		case g < len(glob) && glob[g] == '*':
			star, mark = g, n
			g++
		case g < len(glob) && glob[g] == '?':
			g++
			n += size
		case g < len(glob) && glob[g] == name[n]:
			g++
			n++
		case star >= 0:
			mark++
			g, n = star+1, mark
		default:
			return false
		}
	}
	for g < len(glob) && glob[g] == '*' {
		g++
	}
	return g == len(glob)
}

var (
	repositoryGlobRE = regexp.MustCompile(`^[a-z0-9._/*?-]+$`)
	tagGlobRE        = regexp.MustCompile(`^[A-Za-z0-9_.*?-]+$`)
)

// IsRepositoryGlob reports whether a text is a glob on names of repositories: one or more of
// the characters of names, * and ?. The caller bounds its length.
func IsRepositoryGlob(s string) bool { return repositoryGlobRE.MatchString(s) }

// IsTagGlob reports whether a text is a glob on tags: one or more of the characters of tags,
// * and ?. The caller bounds its length.
func IsTagGlob(s string) bool { return tagGlobRE.MatchString(s) }
