// Package oci holds the words of the OCI distribution protocol: repository
// names, tags, references, digests, media types and the error codes with the
// one table that turns a code into an HTTP status.
//
// It is a leaf: it imports nothing of this project, and everything else may
// import it. Start with [Error] in errors.go, then [ParseName] and
// [ParseReference].
package oci
