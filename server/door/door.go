// Package door is what the HTTP server (package server) and its doors know of each other.
// A door is an API of its own on the same registry: the management API, d.ims.io's,
// Dockit's. It brings its routes and its face, and translates: a handler parses, makes one
// call to registry or people, and shapes the answer. It decides nothing and writes no
// error: the server asks package auth what the route needs before the handler runs, and
// writes the error that the handler returns, in the form of the face.
//
// The server imports no door. What wires the program hands them over, so that another door
// is another package and a line there. Start with [Route].
package door

import (
	"bytes"
	"context"
	"io"
	"net/http"

	"berth/auth"
	"berth/oci"
)

// Door is an API of its own.
type Door interface {
	// Face is how it looks from outside. It is asked once.
	Face() *Face
	// Routes are what it serves. They are asked once, and come before the server's own.
	Routes() []Route
}

// Need is what a caller must be allowed to do for a route. The server enforces it.
type Need uint8

// The needs. The actions are those on the repository of the route: the variable {name} of
// its pattern, or what Resolve says.
const (
	// Undeclared is the zero value, so that a route without a permission is refused and
	// not open.
	Undeclared Need = iota
	// Open routes answer everybody, and do not look at credentials.
	Open
	// SignedIn routes want credentials, if only an anonymous token.
	SignedIn
	// Catalog routes list what the caller may pull.
	Catalog
	// Pull, Push and Delete are actions on the repository.
	Pull
	Push
	Delete
	// Own is the action admin on the repository.
	Own
	// Known routes want somebody who has signed in, and no anonymous token.
	Known
	// Manage routes are operations of [auth.Operations]. Resolve says which.
	Manage
	// Administer is for administrators of the whole instance.
	Administer
)

// Action is the repository action behind a need; 0 when it has none.
func (n Need) Action() auth.Actions {
	switch n {
	case Pull:
		return auth.Pull
	case Push:
		return auth.Push
	case Delete:
		return auth.Delete
	case Own:
		return auth.Admin
	}
	return 0
}

// Handler answers a request that is allowed. It returns its error before it began to
// write, for the server to write, or else after [Exchange.Abort].
type Handler func(ex Exchange, r *http.Request) error

// Route is a line of the table of what is served.
type Route struct {
	// Method is an HTTP method. "" is all of them, for a door with a table of its own
	// below a prefix.
	Method string
	// Pattern is a path as gorilla/mux writes it, or below a prefix when Method is "".
	Pattern string
	Need    Need
	Handler Handler
	// Name of the handler in metrics, log and audit log.
	Name string
	// Match leaves requests to another route of the same method and path that it does not
	// want; nil wants all. It may look into the body with [Peek].
	Match func(r *http.Request) bool
	// Resolve says what a request is about, where the path does not: for Manage, and for
	// an action on a repository that the body names. It runs when the caller is known and
	// before what the caller may is decided, and returns INVALID and the like; nil is not
	// needed.
	Resolve func(ex Exchange, r *http.Request) (Deed, error)
}

// Deed is what a request wants.
type Deed struct {
	// Operation for the need Manage.
	Operation auth.Operation
	// On what. Its repository is that of the need.
	On auth.Subject
	// Handler does it, in place of the route's; nil is the route's.
	Handler Handler
}

// Face is how a door looks from outside. Fields but Paths, ContentType and Error are
// optional.
type Face struct {
	// Paths reports whether a path belongs to the door, whether a route knows it or not:
	// errors there have its form. The first door that says so has it.
	Paths func(path string) bool
	// ContentType and Error are the body of an error: a document for JSON.
	ContentType string
	Error       func(ex Exchange, r *http.Request, e *oci.Error) any
	// Basic asks for a sign-in with Basic and never with Bearer, for clients that know
	// nothing else.
	Basic bool
	// Manages says that all of the door is management: nobody is anonymous there, and a
	// bearer token counts by who shows it today and not by what it carries for images.
	Manages bool
	// EscapedSlash reports whether a slash of the path may be percent-encoded. Elsewhere two
	// readers of one path could disagree about where it parts. nil is nowhere.
	EscapedSlash func(path string) bool
	// Sessions lets who is signed in with a browser in, too. What changes something then has
	// to carry the token of a page.
	Sessions bool
	// LogPath gives a path as the log may show it, where it holds a secret.
	LogPath func(path string) string
}

// Exchange is one request and its answer. The server makes it.
type Exchange interface {
	http.ResponseWriter
	// Actor is who makes the request; without credentials the anonymous.
	Actor() auth.Actor
	// Deed is what Resolve said of the request; the zero value without it.
	Deed() Deed
	// Repository is the one that the request is about, or "".
	Repository() string
	// RequestID is the id under which the request is logged.
	RequestID() string
	// JSON answers with a document of the type application/json.
	JSON(status int, body any)
	// Problem is the document of an error for a face whose errors are
	// application/problem+json (RFC 9457).
	Problem(r *http.Request, e *oci.Error) any
	// Fail answers with an error in the form of the face, for a door whose handlers are
	// not all of the type Handler. Others return the error.
	Fail(r *http.Request, err error)
	// Abort closes the connection in the middle of an answer, so that nobody takes it for
	// whole. It gives the error back, to be returned.
	Abort(err error) error
	// PageToken is what a page of ours needs to make requests as who is signed in with this
	// browser. See server.PageTokenHeader.
	PageToken(r *http.Request) string
}

type key struct{}

// With puts an exchange into the context of its request.
func With(ctx context.Context, ex Exchange) context.Context {
	return context.WithValue(ctx, key{}, ex)
}

// Of finds the exchange of a request, or nil outside of the server.
func Of(ctx context.Context) Exchange {
	ex, _ := ctx.Value(key{}).(Exchange)
	return ex
}

// Peek gives the beginning of a request's body, at most limit bytes, and whether that is all
// of it. The body can still be read from its beginning.
func Peek(r *http.Request, limit int64) (beginning []byte, whole bool) {
	if r.Body == nil {
		return nil, true
	}
	beginning, err := io.ReadAll(io.LimitReader(r.Body, limit+1))
	rest := io.Reader(r.Body)
	if err != nil {
		rest = failing{err}
	}
	r.Body = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(beginning), rest), r.Body}
	return beginning[:min(int64(len(beginning)), limit)], err == nil && int64(len(beginning)) <= limit
}

// failing is what is left of a body that could not be read.
type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }
