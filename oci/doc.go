// Package oci holds the words of the OCI distribution protocol: repository names, tags,
// references, digests, media types, and the error codes with the one table that turns a code
// into an HTTP status. It also has the one meaning of a glob and of what counts as text.
//
// It imports nothing of this project, and every other package may import it. Start with
// [Error] in errors.go, then [ParseName], [ParseReference] and [Match].
package oci
