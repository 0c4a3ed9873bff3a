package admin

import (
	"strings"

	"berth/auth"
	"berth/oci"
)

// maxName bounds the names of users, teams and tokens, in bytes.
const maxName = 128

// parseName checks the name of a new user, team or token. It has the grammar
// of one path component of a repository (distribution-spec, "Pulling
// manifests"): a team's name is one, and a user's gets a namespace of its own
// the day somebody asks for it. The error is an INVALID.
func parseName(what, name string) error {
	switch _, err := oci.ParseName(name); {
	case err != nil, strings.Contains(name, "/"), len(name) > maxName:
		return oci.Errorf(oci.CodeInvalid, "the %s name %.140q is not valid: use at most %d lower-case letters and digits, separated by '.', '_' or '-'", what, name, maxName)
	case auth.IsReserved(name):
		return oci.Errorf(oci.CodeInvalid, "the %s name %q is reserved: choose another one", what, name)
	}
	return nil
}
