package server

import "net/http"

// What others stored never acts as us: every answer tells browsers to run nothing of it, to load
// nothing for it, and not to guess what it is. Our own pages replace the policy by one
// of theirs. docs/decisions/0006-content-is-inert.md tells more.

// The values of the headers are shared by all answers; Header.Add copies them.
var (
	inertPolicy = []string{"default-src 'none'; sandbox; frame-ancestors 'none'"}
	noSniff     = []string{"nosniff"}
	attachment  = []string{"attachment"}
)

// setInert is for every answer, whatever becomes of it.
func setInert(h http.Header) {
	h["Content-Security-Policy"] = inertPolicy
	h["X-Content-Type-Options"] = noSniff
}

// setAttachment is for an answer that is what somebody pushed: a browser keeps it as a file.
func setAttachment(h http.Header) { h["Content-Disposition"] = attachment }
