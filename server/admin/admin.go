// Package admin serves the management API of api/openapi.yaml: users, teams,
// tokens, repositories, tags and tag policies. It implements the strict
// handlers that are generated from that document, one file per subject.
//
// A request passes, in this order: the route, the permission table
// (permissions.go), the check of parameters and body against the document
// (validate.go), and its handler. Who is asking is decided before, by package
// server; how an error is written, too. Start with [New].
package admin

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"unicode/utf8"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/routers"
	"github.com/gorilla/mux"

	"berth/api"
	"berth/auth"
	"berth/auth/token"
	"berth/backup"
	"berth/metadata"
	"berth/oci"
	"berth/people"
	"berth/registry"
)

// Options are what the handlers need. All fields but ReadOnly, TrustedIssuers,
// SetRepository, SetOperation and PageToken are required.
type Options struct {
	DB     *metadata.DB
	Policy *auth.Policy
	// Registry collects, retains, restores, checks, measures and explains; Checks runs checks in the background.
	Registry *registry.Registry
	Checks   *registry.CheckJobs
	// Copies makes, verifies and restores backups, and migrates, in the background.
	Copies *backup.Jobs
	// ReadOnly is the answer to what changes something, but for the jobs that only copy the
	// registry; nil lets everything through.
	ReadOnly error
	// People changes users, teams, rights and what else is theirs.
	People *people.People
	// Keys are those that sign tokens.
	Keys *token.Keys
	// TrustedIssuers are issuers of jobs' tokens that the settings name.
	TrustedIssuers []string
	// Actor gives who makes the request whose context this is, with today's
	// role and limits: a bearer token lives too long where rights change hands.
	// Without credentials it is auth.Anonymous.
	Actor func(context.Context) auth.Actor
	// SetRepository gets the repository of a request for its log line; optional.
	SetRepository func(ctx context.Context, name string)
	// SetOperation gets what a request is, and the team that it is about, for the audit
	// log; optional.
	SetOperation func(ctx context.Context, operation, team string)
	// PageToken gives the page of the API the token that its requests carry, or ""; optional.
	PageToken func(*http.Request) string
	// WriteProblem answers with application/problem+json. The status is that of
	// the *oci.Error in the chain.
	WriteProblem func(http.ResponseWriter, *http.Request, error)
}

// base is the path of all operations.
const base = "/api/v1"

// handler implements api.StrictServerInterface.
type handler struct {
	Options
	operations map[string]operation // by method and path template
}

// operation is one of the document's operations with its row of the
// permission table.
type operation struct {
	route *routers.Route
	rule  rule
}

// New makes the handler of everything below /api/. It fails when an operation
// of the document has no row in the permission table, or the other way round.
func New(options Options) (http.Handler, error) {
	if options.DB == nil || options.Registry == nil || options.Checks == nil || options.Copies == nil || options.Policy == nil || options.People == nil || options.Keys == nil ||
		options.Actor == nil || options.WriteProblem == nil {
		return nil, errors.New("admin: all options but ReadOnly, TrustedIssuers, SetRepository, SetOperation and PageToken are required")
	}
	spec, err := api.GetSpec()
	if err != nil {
		return nil, err
	}
	h := &handler{Options: options}
	if h.operations, err = operations(spec); err != nil {
		return nil, err
	}

	// Names of repositories have slashes, percent-encoded in paths. Cleaning
	// would answer odd paths by a redirect, where 404 is the answer.
	router := mux.NewRouter().UseEncodedPath().SkipClean(true)
	router.NotFoundHandler = h.problem(oci.Errorf(oci.CodeNotFound,
		"there is no such path in the management API; repository names are percent-encoded into one segment (team%%2Fapp). See /api/"))
	router.MethodNotAllowedHandler = h.problem(oci.Errorf(oci.CodeUnsupported,
		"the management API has no such method on this path. See /api/"))
	if err := h.documents(router); err != nil {
		return nil, err
	}

	operations := router.NewRoute().Subrouter()
	operations.Use(h.guard)
	invalid := func(w http.ResponseWriter, r *http.Request, err error) {
		options.WriteProblem(w, r, oci.Errorf(oci.CodeInvalid, "the request is not valid: %w", err))
	}
	strict := api.NewStrictHandlerWithOptions(h, nil, api.StrictHTTPServerOptions{
		RequestErrorHandlerFunc:  invalid,
		ResponseErrorHandlerFunc: options.WriteProblem,
	})
	api.HandlerWithOptions(strict, api.GorillaServerOptions{BaseURL: base, BaseRouter: operations, ErrorHandlerFunc: invalid})
	return router, nil
}

// problem is a handler that always answers with the error.
func (h *handler) problem(err error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.WriteProblem(w, r, err) })
}

// call is what the handlers know of a request beyond its parameters.
type call struct {
	actor     auth.Actor
	url       *url.URL
	operation string            // its id in the document
	params    map[string]string // of the path, decoded
}

type callKey struct{}

// callOf finds the call of a request that passed the guard.
func callOf(ctx context.Context) call {
	c, _ := ctx.Value(callKey{}).(call)
	return c
}

// guard lets a request through to its handler when the caller may make it and
// it is what the document says. It is the one place that enforces the
// permission table.
func (h *handler) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := h.check(w, r)
		if err != nil {
			h.WriteProblem(w, r, err)
			return
		}
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), callKey{}, c)))
	})
}

func (h *handler) check(w http.ResponseWriter, r *http.Request) (call, error) {
	c := call{actor: h.Actor(r.Context()), url: r.URL}
	template, err := mux.CurrentRoute(r).GetPathTemplate()
	if err != nil {
		return c, err
	}
	op, ok := h.operations[r.Method+" "+template]
	if !ok {
		return c, oci.Errorf(oci.CodeDenied, "nobody may do this: the operation has no row in the permission table")
	}
	params := mux.Vars(r)
	c.operation, c.params = op.route.Operation.OperationID, params
	if err := readParameters(params, r.URL); err != nil {
		return c, err
	}
	if h.SetOperation != nil {
		h.SetOperation(r.Context(), c.operation, params["team"])
	}
	if h.SetRepository != nil && params["repository"] != "" {
		h.SetRepository(r.Context(), params["repository"])
	}
	if err := h.permit(r.Context(), c.actor.Principal, op, params); err != nil {
		return c, err
	}
	if h.ReadOnly != nil && r.Method != http.MethodGet && !op.rule.whileReadOnly {
		return c, h.ReadOnly
	}
	return c, validate(w, r, op, params)
}

// readParameters decodes path parameters in place: with encoded paths, mux
// gives them as they stand in the URL, and the generated code expects them
// decoded. What is no text is refused, in the query too: it can be the name of
// nothing, and Postgres fails on it.
func readParameters(params map[string]string, u *url.URL) error {
	for name, value := range params {
		decoded, err := url.PathUnescape(value)
		if err != nil || !isText(decoded) {
			return oci.Errorf(oci.CodeInvalid, "the %s in the path is not percent-encoded text", name)
		}
		params[name] = decoded
	}
	for name, values := range u.Query() {
		if !isText(strings.Join(values, "")) {
			return oci.Errorf(oci.CodeInvalid, "the parameter %.80q is not percent-encoded text", name)
		}
	}
	return nil
}

func isText(s string) bool { return utf8.ValidString(s) && !strings.ContainsRune(s, 0) }

// operations pairs the document's operations with the permission table.
func operations(spec *openapi3.T) (map[string]operation, error) {
	rules := permissions()
	found := map[string]operation{}
	for path, item := range spec.Paths.Map() {
		for method, op := range item.Operations() {
			rule, ok := rules[op.OperationID]
			if !ok {
				return nil, fmt.Errorf("operation %s has no row in the permission table", op.OperationID)
			}
			delete(rules, op.OperationID)
			found[method+" "+base+path] = operation{
				route: &routers.Route{Spec: spec, Path: path, PathItem: item, Method: method, Operation: op},
				rule:  rule,
			}
		}
	}
	for id := range rules {
		return nil, fmt.Errorf("the permission table has a row for %s, which is no operation", id)
	}
	return found, nil
}
