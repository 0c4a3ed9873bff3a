package admin

import (
	"slices"
	"strings"

	"berth/oci"
)

// maxName bounds the names of users, teams and tokens, in bytes.
const maxName = 128

// reserved are names that mean something else: who has not signed in, and the
// user names that come with tokens of other identity providers.
func reserved(name string) bool {
	return slices.Contains([]string{"anonymous", "oauth2", "oidc", "token"}, name)
}

// parseName checks the name of a new user, team or token. It has the grammar
// of one path component of a repository (distribution-spec, "Pulling
// manifests"): a team's name is one, and a user's gets a namespace of its own
// the day somebody asks for it. The error is an INVALID.
func parseName(what, name string) error {
	switch _, err := oci.ParseName(name); {
	case err != nil, strings.Contains(name, "/"), len(name) > maxName:
		return oci.Errorf(oci.CodeInvalid, "the %s name %.140q is not valid: use at most %d lower-case letters and digits, separated by '.', '_' or '-'", what, name, maxName)
	case reserved(name):
		return oci.Errorf(oci.CodeInvalid, "the %s name %q is reserved: choose another one", what, name)
	}
	return nil
}
