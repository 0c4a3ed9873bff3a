package oci

import (
	"errors"
	"fmt"
	"net/http"
)

// Code is an error code as it appears in an OCI error body: upper case letters
// and underscores (distribution-spec, "Error Codes").
type Code string

// The codes of the distribution specification, then those that the
// specification leaves to the registry. The management API uses the same words.
const (
	CodeBlobUnknown         Code = "BLOB_UNKNOWN"
	CodeBlobUploadInvalid   Code = "BLOB_UPLOAD_INVALID"
	CodeBlobUploadUnknown   Code = "BLOB_UPLOAD_UNKNOWN"
	CodeDigestInvalid       Code = "DIGEST_INVALID"
	CodeManifestBlobUnknown Code = "MANIFEST_BLOB_UNKNOWN"
	CodeManifestInvalid     Code = "MANIFEST_INVALID"
	CodeManifestUnknown     Code = "MANIFEST_UNKNOWN"
	CodeNameInvalid         Code = "NAME_INVALID"
	CodeNameUnknown         Code = "NAME_UNKNOWN"
	CodeSizeInvalid         Code = "SIZE_INVALID"
	CodeUnauthorized        Code = "UNAUTHORIZED"
	CodeDenied              Code = "DENIED"
	CodeUnsupported         Code = "UNSUPPORTED"
	CodeTooManyRequests     Code = "TOOMANYREQUESTS"

	// CodeTagInvalid: the tag's name is malformed (400).
	CodeTagInvalid Code = "TAG_INVALID"
	// CodeTagImmutable: the tag exists and its policy refuses to move or delete it (409).
	// Clients of the protocol do not know this code; [Code.Wire] says what they are told.
	CodeTagImmutable Code = "TAG_IMMUTABLE"
	// CodeRangeInvalid: a range or an offset outside of what is there (416).
	CodeRangeInvalid Code = "RANGE_INVALID"
	// CodeManifestTooLarge: the manifest is over the limit (413).
	CodeManifestTooLarge Code = "MANIFEST_TOO_LARGE"
	// CodeConflict: the request contradicts what is stored, e.g. a blob that a
	// manifest still references, or a name that is taken (409).
	CodeConflict Code = "CONFLICT"
	// CodeInvalid: the request itself is malformed (400).
	CodeInvalid Code = "INVALID"
	// CodeNotFound: a thing of the management API, or a route, is not there (404).
	CodeNotFound Code = "NOT_FOUND"
	// CodePreconditionFailed: If-Match or a similar header did not hold (412).
	CodePreconditionFailed Code = "PRECONDITION_FAILED"
	// CodeUnavailable: a dependency (database, store) cannot answer now (503).
	CodeUnavailable Code = "UNAVAILABLE"
	// CodeUnknown: an unexpected failure; the cause is in the log only (500).
	CodeUnknown Code = "UNKNOWN"
)

// statuses is the one table from code to HTTP status.
var statuses = map[Code]int{
	CodeBlobUnknown:         http.StatusNotFound,
	CodeBlobUploadInvalid:   http.StatusBadRequest,
	CodeBlobUploadUnknown:   http.StatusNotFound,
	CodeDigestInvalid:       http.StatusBadRequest,
	CodeManifestBlobUnknown: http.StatusBadRequest,
	CodeManifestInvalid:     http.StatusBadRequest,
	CodeManifestUnknown:     http.StatusNotFound,
	CodeNameInvalid:         http.StatusBadRequest,
	CodeNameUnknown:         http.StatusNotFound,
	CodeSizeInvalid:         http.StatusBadRequest,
	CodeUnauthorized:        http.StatusUnauthorized,
	CodeDenied:              http.StatusForbidden,
	CodeUnsupported:         http.StatusMethodNotAllowed,
	CodeTooManyRequests:     http.StatusTooManyRequests,
	CodeTagInvalid:          http.StatusBadRequest,
	CodeTagImmutable:        http.StatusConflict,
	CodeRangeInvalid:        http.StatusRequestedRangeNotSatisfiable,
	CodeManifestTooLarge:    http.StatusRequestEntityTooLarge,
	CodeConflict:            http.StatusConflict,
	CodeInvalid:             http.StatusBadRequest,
	CodeNotFound:            http.StatusNotFound,
	CodePreconditionFailed:  http.StatusPreconditionFailed,
	CodeUnavailable:         http.StatusServiceUnavailable,
	CodeUnknown:             http.StatusInternalServerError,
}

// Wire lists the codes of the protocol that say what the code means, the one that
// clients decide by first. It is the code itself, but for CodeTagImmutable:
//
// To containers/image (podman, buildah, skopeo) a first TAG_INVALID says that the
// registry does not take this form of manifest, and it pushes three others
// (docker/docker_image_dest.go, isManifestInvalidError). A code that it does not know it
// pushes again after a pause (containers/common, pkg/retry). DENIED ends the push at once,
// and all clients print its message. TAG_INVALID, which Pier One answered, comes behind it
// for programs that look for that; clients decide by the first.
func (c Code) Wire() []Code {
	if c == CodeTagImmutable {
		return []Code{CodeDenied, CodeTagInvalid}
	}
	return []Code{c}
}

// Error is a failure that a client may read. Message says what was wrong, what
// was expected and what to do next, in one or two sentences. Detail is for
// programs. Err, the cause, is for the operator's log only and never leaves
// the process.
type Error struct {
	Code    Code
	Message string
	Detail  any
	Err     error
}

// Errorf makes an Error of the code with a formatted message. A %w in the
// format becomes its cause.
func Errorf(code Code, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Code: code, Message: err.Error(), Err: errors.Unwrap(err)}
}

// WithDetail returns a copy of the error with the detail.
func (e *Error) WithDetail(detail any) *Error {
	c := *e
	c.Detail = detail
	return &c
}

// WithCause returns a copy of the error with a cause for the log.
func (e *Error) WithCause(err error) *Error {
	c := *e
	c.Err = err
	return &c
}

// Error gives the code, the message and, for the log, the cause.
func (e *Error) Error() string {
	s := string(e.Code) + ": " + e.Message
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }

// Is reports whether the target is an Error of the same code, so that
// errors.Is(err, oci.ErrBlobUnknown) works whatever the message is.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Code == e.Code
}

// Status is the HTTP status of the error's code.
func (e *Error) Status() int {
	if s, ok := statuses[e.Code]; ok {
		return s
	}
	return http.StatusInternalServerError
}

// Sentinels for errors.Is. Use Errorf to make the error that a client reads.
var (
	ErrBlobUnknown         = &Error{Code: CodeBlobUnknown, Message: "the blob is not in this repository"}
	ErrBlobUploadInvalid   = &Error{Code: CodeBlobUploadInvalid, Message: "the upload cannot be continued"}
	ErrBlobUploadUnknown   = &Error{Code: CodeBlobUploadUnknown, Message: "there is no such upload session"}
	ErrDigestInvalid       = &Error{Code: CodeDigestInvalid, Message: "the digest does not match the content, or is malformed"}
	ErrManifestBlobUnknown = &Error{Code: CodeManifestBlobUnknown, Message: "the manifest references content that is not in this repository"}
	ErrManifestInvalid     = &Error{Code: CodeManifestInvalid, Message: "the manifest is not valid"}
	ErrManifestUnknown     = &Error{Code: CodeManifestUnknown, Message: "the manifest is not in this repository"}
	ErrNameInvalid         = &Error{Code: CodeNameInvalid, Message: "the repository name is not valid"}
	ErrNameUnknown         = &Error{Code: CodeNameUnknown, Message: "there is no such repository"}
	ErrUnauthorized        = &Error{Code: CodeUnauthorized, Message: "authentication is required"}
	ErrDenied              = &Error{Code: CodeDenied, Message: "the requested access is denied"}
	ErrUnsupported         = &Error{Code: CodeUnsupported, Message: "the operation is not supported"}
	ErrRangeInvalid        = &Error{Code: CodeRangeInvalid, Message: "the range cannot be satisfied"}
	ErrConflict            = &Error{Code: CodeConflict, Message: "the request contradicts what is stored"}
	ErrNotFound            = &Error{Code: CodeNotFound, Message: "not found"}
	ErrInvalid             = &Error{Code: CodeInvalid, Message: "the request is not valid"}
	ErrUnavailable         = &Error{Code: CodeUnavailable, Message: "a dependency is unavailable, try again later"}

	ErrTagImmutable = &Error{Code: CodeTagImmutable, Message: "the tag is immutable"}
)

// Message is what a person reads of an error: without the code of an *Error.
func Message(err error) string {
	var e *Error
	if errors.As(err, &e) {
		return e.Message
	}
	return err.Error()
}
