package server

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"maps"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"berth/auth"
	"berth/oci"
	"berth/server/door"
)

// This file is the only one that writes an error to a client. Handlers return
// errors; oci.Error.Status turns the code into a status.

// statusClientGone is what is logged when the client hung up before there was
// an answer. It is nginx's 499, and is never sent.
const statusClientGone = 499

// retryAfterUnavailable is what a 503 asks clients to wait, in seconds.
const retryAfterUnavailable = "5"

// toError finds the error that the client may read. Everything that is not
// made for clients becomes UNKNOWN, whose cause stays in the log.
func toError(ex *exchange, err error) *oci.Error {
	var (
		e         *oci.Error
		throttled *auth.ThrottledError
	)
	switch {
	case errors.As(err, &throttled):
		return oci.Errorf(oci.CodeTooManyRequests, "%s", throttled.Error())
	case stopped(ex, err):
		return oci.Errorf(oci.CodeUnavailable, "this server is stopping: ask for the upload's state and continue there, another one will answer").WithCause(err)
	case errors.As(err, &e) && e.Status() < 500:
		return e
	}
	// When the client's own body ended early or stalled, that is the failure,
	// whatever a lower layer made of it.
	if ex != nil {
		if failed := ex.body.failure(); failed != nil {
			if isTimeout(failed) {
				return oci.Errorf(oci.CodeBlobUploadInvalid, "no data arrived for %s, the request was given up: ask for the upload's state and continue there", ex.server.stall).WithCause(err)
			}
			return oci.Errorf(oci.CodeBlobUploadInvalid, "the request body ended before its announced length: ask for the upload's state and continue there").WithCause(err)
		}
	}
	switch {
	case e != nil:
		return e
	case errors.Is(err, context.DeadlineExceeded):
		return oci.ErrUnavailable.WithCause(err)
	}
	id := ""
	if ex != nil {
		id = ex.id
	}
	return oci.Errorf(oci.CodeUnknown, "an unexpected error happened; nothing was changed as far as is known. Ask the operator of this registry, giving the request id %s", id).WithCause(err)
}

// stopped reports whether a request failed because we did not wait for the rest of it: no fault of the client.
func stopped(ex *exchange, err error) bool {
	return errors.Is(err, errStopping) || ex != nil && errors.Is(ex.body.failure(), errStopping)
}

// refusal is the detail of an error: for people who ask why, and for programs.
type refusal struct {
	Rule       string   `json:"rule,omitempty"`
	Principal  string   `json:"principal,omitempty"`
	Repository string   `json:"repository,omitempty"`
	Missing    []string `json:"missing,omitempty"`
	Has        []string `json:"has,omitempty"`
	Ask        string   `json:"ask,omitempty"`
	Denial     string   `json:"denial,omitempty"`
	Reason     string   `json:"reason,omitempty"`
}

// facts gives an error's detail with what every answer carries: the rule, who
// was asking, the request's id and who can help. What the error brings itself
// has precedence. It is nil when the detail is not a JSON object.
func facts(ex *exchange, e *oci.Error) map[string]any {
	fields := map[string]any{}
	if e.Detail != nil {
		raw, err := json.Marshal(e.Detail)
		if err != nil {
			return nil
		}
		exact := json.NewDecoder(bytes.NewReader(raw))
		exact.UseNumber() // a size of millions of bytes is no 4.194304e+06
		if exact.Decode(&fields) != nil || fields == nil {
			return nil
		}
	}
	add := func(key, value string) {
		if _, ok := fields[key]; !ok && value != "" {
			fields[key] = value
		}
	}
	add("rule", strings.ToLower(strings.ReplaceAll(string(e.Code), "_", "-")))
	if ex != nil {
		principal := ex.identity.principal
		if !ex.identity.known {
			principal = auth.Anonymous()
		}
		add("principal", principal.String())
		add("repository", ex.repository)
		add("request_id", ex.id)
	}
	switch status := e.Status(); {
	case status >= 500:
		add("ask", "the operator of this registry, with the request id")
	case status == http.StatusConflict || status == http.StatusForbidden:
		add("ask", "a maintainer of the repository's team, or an administrator of this registry")
	}
	return fields
}

// detailObject is the detail of the management API's errors.
func detailObject(ex *exchange, e *oci.Error) any {
	if fields := facts(ex, e); fields != nil {
		return fields
	}
	return e.Detail
}

// detailLine is the detail of the protocol's errors. crane, oras and helm print
// it behind the message as Go prints it, which makes an object unreadable, so it
// is one line in the form of logfmt:
//
//	rule=not-a-member ask="a maintainer of the team core" missing=push request_id=4ZQ...
//
// A value is bare, or a JSON string where it has a space, a quote, an equals sign
// or what does not print. Lists are joined by commas; what is empty is left out.
// The rule comes first, whom to ask second and the request's id last. What has a
// structure of its own, as the grounds of rights have, is left to /api/v1/explain.
func detailLine(ex *exchange, e *oci.Error) any {
	fields := facts(ex, e)
	if fields == nil {
		return e.Detail
	}
	rank := map[string]int{"rule": -2, "ask": -1, "request_id": 1}
	keys := slices.SortedFunc(maps.Keys(fields), func(a, b string) int {
		return cmp.Or(cmp.Compare(rank[a], rank[b]), strings.Compare(a, b))
	})
	var line []string
	for _, key := range keys {
		if value, ok := flat(fields[key]); ok && value != "" {
			line = append(line, key+"="+quoteValue(value))
		}
	}
	return strings.Join(line, " ")
}

// flat gives a scalar, or a list of scalars, as text.
func flat(v any) (string, bool) {
	switch v := v.(type) {
	case string:
		return v, true
	case json.Number:
		return v.String(), true
	case bool:
		return strconv.FormatBool(v), true
	case []any:
		items := make([]string, len(v))
		for i, item := range v {
			text, ok := flat(item)
			if _, list := item.([]any); !ok || list {
				return "", false
			}
			items[i] = text
		}
		return strings.Join(items, ","), true
	}
	return "", false
}

func quoteValue(s string) string {
	bare := !strings.ContainsFunc(s, func(r rune) bool {
		return r <= ' ' || r == '"' || r == '=' || r == '\\' || r == utf8.RuneError || !unicode.IsPrint(r)
	})
	if bare {
		return s
	}
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if enc.Encode(s) != nil { // a string can always be encoded
		return `""`
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// commonHeaders sets what errors of both forms share.
func commonHeaders(w http.ResponseWriter, err error, e *oci.Error) {
	h := w.Header()
	// Whatever a handler had announced of its answer is not true any more.
	for _, name := range []string{"Content-Length", "Content-Range", "Accept-Ranges", "Etag", "Content-Encoding", "Last-Modified"} {
		if name != "Content-Range" || e.Code != oci.CodeRangeInvalid {
			h.Del(name)
		}
	}
	h.Set("Cache-Control", "no-store")
	var throttled *auth.ThrottledError
	switch {
	case errors.As(err, &throttled):
		h.Set("Retry-After", strconv.Itoa(retrySeconds(throttled.RetryAfter)))
	case e.Status() == http.StatusServiceUnavailable && h.Get("Retry-After") == "":
		h.Set("Retry-After", retryAfterUnavailable)
	}
}

func retrySeconds(d time.Duration) int { return max(1, int(math.Ceil(d.Seconds()))) }

// begin records the failure for the log line. It reports false when there is
// nobody to write to, or the answer has already begun.
func begin(ex *exchange, r *http.Request, err error) bool {
	if ex == nil {
		return true
	}
	ex.cause = err
	if ex.status != 0 {
		return false // the connection is closed, for the length is not reached
	}
	if r.Context().Err() != nil && errors.Is(err, context.Canceled) {
		ex.status = statusClientGone
		return false
	}
	return true
}

// fail answers with an error in the form of the request's face.
func (ex *exchange) fail(r *http.Request, err error) {
	if !begin(ex, r, err) {
		return
	}
	e := toError(ex, err)
	commonHeaders(ex, err, e)
	if r.Method == http.MethodHead {
		// "A HEAD has no body", and the errors of HEAD are frequent: docker asks
		// for each layer before pushing it.
		ex.Header().Set("Content-Type", ex.face.ContentType)
		ex.WriteHeader(e.Status())
		return
	}
	writeJSON(ex, ex.face.ContentType, e.Status(), ex.face.Error(ex, r, e))
}

// protocol is the face of the distribution API and of the token endpoint: errors have the
// OCI error body (distribution-spec, "Error Codes").
var protocol = &door.Face{
	Paths:       func(path string) bool { return strings.HasPrefix(path, "/v2/") || path == "/v2" },
	ContentType: "application/json",
	Error: func(ex door.Exchange, _ *http.Request, e *oci.Error) any {
		type item struct {
			Code    oci.Code `json:"code"`
			Message string   `json:"message"`
			Detail  any      `json:"detail,omitempty"`
		}
		codes := e.Code.Wire()
		items := []item{{codes[0], e.Message, detailLine(ex.(*exchange), e)}}
		for _, code := range codes[1:] {
			items = append(items, item{Code: code, Message: oci.ErrTagImmutable.Message})
		}
		return map[string]any{"errors": items}
	},
}

// problems is the face of what belongs neither to a door nor to the protocol: an error is an
// application/problem+json document (RFC 9457).
var problems = &door.Face{
	Paths:        func(string) bool { return true },
	ContentType:  "application/problem+json",
	Error:        func(ex door.Exchange, r *http.Request, e *oci.Error) any { return ex.Problem(r, e) },
	EscapedSlash: func(string) bool { return true },
}

// Problem is the body of an error of the management API (RFC 9457).
type Problem struct {
	Type      string `json:"type"`
	Title     string `json:"title"`
	Status    int    `json:"status"`
	Code      string `json:"code"`
	Detail    string `json:"detail"`
	Instance  string `json:"instance,omitempty"`
	RequestID string `json:"request_id,omitempty"`
	// Errors is the detail of the oci.Error, with rule, principal and ask.
	Errors any `json:"errors,omitempty"`
}

// Problem implements [door.Exchange].
func (ex *exchange) Problem(r *http.Request, e *oci.Error) any {
	return Problem{
		Type:      "about:blank",
		Title:     http.StatusText(e.Status()),
		Status:    e.Status(),
		Code:      string(e.Code),
		Detail:    e.Message,
		Instance:  r.URL.Path,
		Errors:    detailObject(ex, e),
		RequestID: ex.id,
	}
}

// writeJSON answers with a JSON document. What we marshal cannot fail; that
// the client is gone is its own matter.
func writeJSON(w http.ResponseWriter, contentType string, status int, body any) {
	raw, err := json.Marshal(body)
	if err != nil {
		status, raw = http.StatusInternalServerError, []byte(`{"errors":[{"code":"UNKNOWN","message":"the answer could not be written"}]}`)
	}
	h := w.Header()
	h.Set("Content-Type", contentType)
	h.Set("Content-Length", strconv.Itoa(len(raw)))
	w.WriteHeader(status)
	_, _ = w.Write(raw)
}
