// Package admin serves the management API of api/openapi.yaml: users, teams,
// tokens, repositories, tags and tag policies. It implements the strict
// handlers that are generated from that document, one file per subject.
//
// Package server asks [Admin.resolve] what a request is: the route, and the operation of
// the document. It asks package auth whether the caller may, and then the check of
// parameters and body against the document (validate.go) runs, and the handler. Start with
// [New].
package admin

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/routers"
	"github.com/gorilla/mux"

	"berth/api"
	"berth/audit"
	"berth/auth"
	"berth/auth/token"
	"berth/backup"
	"berth/oci"
	"berth/people"
	"berth/registry"
	"berth/registry/collect"
	"berth/server/door"
)

// Options are what the handlers need. All fields but TrustedIssuers are required.
type Options struct {
	Policy *auth.Policy
	// Registry retains, restores and measures.
	Registry *registry.Registry
	// Collector collects and explains; Checks runs checks in the background.
	Collector *collect.Collector
	Checks    *collect.CheckJobs
	// Copies makes, verifies and restores backups, and migrates, in the background.
	Copies *backup.Jobs
	// People reads and changes users, teams, rights and what else is theirs.
	People *people.People
	// Audit reads the audit log.
	Audit *audit.Log
	// Keys are those that sign tokens.
	Keys *token.Keys
	// TrustedIssuers are issuers of jobs' tokens that the settings name.
	TrustedIssuers []string
}

// base is the path of all operations.
const base = "/api/v1"

// Admin is the door. It implements api.StrictServerInterface.
type Admin struct {
	Options
	documents *mux.Router
	router    *mux.Router               // of the operations
	routes    map[string]*routers.Route // by method and path template
}

// New makes the door. It fails when an operation of the document has no row in the
// permission table.
func New(options Options) (*Admin, error) {
	if options.Registry == nil || options.Checks == nil || options.Copies == nil || options.Policy == nil || options.People == nil || options.Audit == nil || options.Keys == nil {
		return nil, errors.New("admin: all options but TrustedIssuers are required")
	}
	spec, err := api.GetSpec()
	if err != nil {
		return nil, err
	}
	h := &Admin{Options: options}
	if h.routes, err = operations(spec); err != nil {
		return nil, err
	}
	// Cleaning would answer odd paths by a redirect, where 404 is the answer.
	h.documents = mux.NewRouter().SkipClean(true)
	if err := h.addDocuments(h.documents); err != nil {
		return nil, err
	}
	// Names of repositories have slashes, percent-encoded in paths.
	h.router = mux.NewRouter().UseEncodedPath().SkipClean(true)
	invalid := func(_ http.ResponseWriter, r *http.Request, err error) {
		fail(nil, r, oci.Errorf(oci.CodeInvalid, "the request is not valid: %w", err))
	}
	strict := api.NewStrictHandlerWithOptions(h, nil, api.StrictHTTPServerOptions{
		RequestErrorHandlerFunc:  invalid,
		ResponseErrorHandlerFunc: fail,
	})
	api.HandlerWithOptions(strict, api.GorillaServerOptions{BaseURL: base, BaseRouter: h.router, ErrorHandlerFunc: invalid})
	return h, nil
}

// fail answers with the error of a generated handler.
func fail(_ http.ResponseWriter, r *http.Request, err error) { door.Of(r.Context()).Fail(r, err) }

// Face implements [door.Door]. An error is an application/problem+json document.
func (h *Admin) Face() *door.Face {
	return &door.Face{
		Paths:        func(path string) bool { return strings.HasPrefix(path, "/api/") },
		ContentType:  "application/problem+json",
		Error:        func(ex door.Exchange, r *http.Request, e *oci.Error) any { return ex.Problem(r, e) },
		Manages:      true,
		Sessions:     true,
		EscapedSlash: func(string) bool { return true },
	}
}

// Routes implements [door.Door].
func (h *Admin) Routes() []door.Route {
	routes := []door.Route{
		{Pattern: base + "/", Need: door.Manage, Resolve: h.resolve, Name: "api"},
		{Pattern: "/api/", Need: door.Open, Handler: h.serveDocument, Name: "api"},
	}
	for _, path := range []string{"/swagger.json", "/api", "/ui{slash:/?}"} {
		for _, method := range []string{http.MethodGet, http.MethodHead} {
			routes = append(routes, door.Route{Method: method, Pattern: path, Need: door.Open, Handler: h.serveDocument, Name: "documents"})
		}
	}
	return routes
}

// Errors of requests that match no operation.
var (
	errNoPath = oci.Errorf(oci.CodeNotFound,
		"there is no such path in the management API; repository names are percent-encoded into one segment (team%%2Fapp). See /api/")
	errNoMethod = oci.Errorf(oci.CodeUnsupported, "the management API has no such method on this path. See /api/")
)

// find gives what a router has for a request.
func find(router *mux.Router, r *http.Request) (match mux.RouteMatch, err error) {
	switch {
	case router.Match(r, &match):
		return match, nil
	case errors.Is(match.MatchErr, mux.ErrMethodMismatch):
		return match, errNoMethod
	}
	return match, errNoPath
}

func (h *Admin) serveDocument(ex door.Exchange, r *http.Request) error {
	match, err := find(h.documents, r)
	if err != nil {
		return err
	}
	match.Handler.ServeHTTP(ex, r)
	return nil
}

// resolve finds the operation of a request, and what it is about. Its handler checks the
// request against the document first.
func (h *Admin) resolve(ex door.Exchange, r *http.Request) (deed door.Deed, err error) {
	match, err := find(h.router, r)
	if err != nil {
		return deed, err
	}
	template, err := match.Route.GetPathTemplate()
	if err != nil {
		return deed, err
	}
	route := h.routes[r.Method+" "+template]
	if route == nil {
		return deed, errNoPath
	}
	params := match.Vars
	if err := readParameters(params, r.URL); err != nil {
		return deed, err
	}
	deed.Operation = auth.Operation(route.Operation.OperationID)
	deed.On = auth.Subject{User: params["user"], Team: params["team"], Repository: params["repository"], Tag: params["tag"], Pattern: params["pattern"]}
	switch deed.Operation {
	case "explain":
		if aboutOthers(ex.Actor().Principal, r.URL.Query()) {
			deed.Operation = auth.ExplainOthers
			deed.On.Repository = r.URL.Query().Get("repository")
		}
	case "whoCan":
		deed.On.Repository = r.URL.Query().Get("repository")
	}
	by := ex.Actor()
	deed.Handler = func(ex door.Exchange, r *http.Request) error {
		if err := validate(ex, r, route, params); err != nil {
			return err
		}
		c := call{actor: by, url: r.URL, operation: route.Operation.OperationID, deed: deed.Operation, params: params}
		r = mux.SetURLVars(r.WithContext(context.WithValue(r.Context(), callKey{}, c)), params)
		match.Handler.ServeHTTP(ex, r)
		return nil
	}
	return deed, nil
}

// call is what the handlers know of a request beyond its parameters.
type call struct {
	actor     auth.Actor
	url       *url.URL
	operation string            // its id in the document
	deed      auth.Operation    // its row in the permission table
	params    map[string]string // of the path, decoded
}

type callKey struct{}

// callOf finds the call of a request that is an operation.
func callOf(ctx context.Context) call {
	c, _ := ctx.Value(callKey{}).(call)
	return c
}

// readParameters decodes path parameters in place: with encoded paths, mux
// gives them as they stand in the URL, and the generated code expects them
// decoded. What is not text is refused, in the query too: it can be the name of
// nothing, and Postgres fails on it.
func readParameters(params map[string]string, u *url.URL) error {
	for name, value := range params {
		decoded, err := url.PathUnescape(value)
		if err != nil || !oci.IsText(decoded) {
			return oci.Errorf(oci.CodeInvalid, "the %s in the path is not percent-encoded text", name)
		}
		params[name] = decoded
	}
	for name, values := range u.Query() {
		if !oci.IsText(strings.Join(values, "")) {
			return oci.Errorf(oci.CodeInvalid, "the parameter %.80q is not percent-encoded text", name)
		}
	}
	return nil
}

// operations are those of the document. Each has a row in the permission table.
func operations(spec *openapi3.T) (map[string]*routers.Route, error) {
	rules := auth.Operations()
	found := map[string]*routers.Route{}
	for path, item := range spec.Paths.Map() {
		for method, op := range item.Operations() {
			if _, ok := rules[auth.Operation(op.OperationID)]; !ok {
				return nil, fmt.Errorf("operation %s has no row in the permission table", op.OperationID)
			}
			found[method+" "+base+path] = &routers.Route{Spec: spec, Path: path, PathItem: item, Method: method, Operation: op}
		}
	}
	return found, nil
}
