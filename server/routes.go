package server

import (
	"net/http"
	"slices"
	"strings"

	"github.com/gorilla/mux"

	"berth/auth"
	"berth/oci"
)

// need is what a caller must be allowed to do for a route. access.go enforces it.
type need uint8

const (
	// needUndeclared is the zero value, so that a route without a permission is
	// refused and not open.
	needUndeclared need = iota
	// open routes answer everybody, and do not look at credentials.
	open
	// signedIn routes want credentials, if only an anonymous token.
	signedIn
	// catalog routes list what the caller may pull.
	catalog
	// pull, push and remove are actions on the repository in the path.
	pull
	push
	remove
	// known routes want somebody who has signed in, and no anonymous token.
	known
	// own is the action admin on the repository in the path.
	own
	// manage is the management API, which decides itself for each operation.
	manage
	// administer is for administrators of the whole instance.
	administer
)

// action is the repository action behind a need; 0 when it has none.
func (n need) action() auth.Actions {
	switch n {
	case pull:
		return auth.Pull
	case push:
		return auth.Push
	case remove:
		return auth.Delete
	case own:
		return auth.Admin
	}
	return 0
}

// scope is what a client has to ask the token endpoint for: the action of the
// route, and with push also pull, for a client that pushes looks first.
func (n need) scope() string {
	switch n {
	case push:
		return "pull,push"
	case remove:
		return "delete"
	}
	return "pull"
}

// handler answers one kind of request. The error it returns is written by
// errors.go; it returns none after it began to write.
type handler func(s *Server, ex *exchange, r *http.Request) error

// route is a line of the table.
type route struct {
	method  string
	pattern string
	need    need
	handler handler
	name    string // of the handler, in metrics and the log; those of CNCF distribution where it has one
}

// The variables of the patterns. A name holds slashes, so the router knows its
// whole grammar; what else stands there is checked by package oci.
const (
	varName      = "{name:" + oci.NamePattern + "}"
	varReference = "{reference:[^/]+}"
	varDigest    = "{digest:[^/]+}"
	varUpload    = "{upload:[^/]+}"
)

// The patterns under /v2/ (distribution-spec, "Endpoints"), the most frequent
// first, for the router tries them in turn.
const (
	pathManifest = "/v2/" + varName + "/manifests/" + varReference
	pathUploads  = "/v2/" + varName + "/blobs/uploads{slash:/?}"
	pathUpload   = "/v2/" + varName + "/blobs/uploads/" + varUpload
	pathBlob     = "/v2/" + varName + "/blobs/" + varDigest
	pathTags     = "/v2/" + varName + "/tags/list"
	// A repository's name has no colon, so that these are no repository's.
	pathDockit    = "/v2/admin/{rest:(?:user|group):.*}"
	pathReferrers = "/v2/" + varName + "/referrers/" + varDigest
)

// routes is the table of everything that is served, in the order in which the
// router looks. Every line names what it takes to be allowed.
func routes() []route {
	return []route{
		{"GET", pathManifest, pull, (*Server).getManifest, "manifest"},
		{"HEAD", pathManifest, pull, (*Server).headManifest, "manifest"},
		{"PUT", pathManifest, push, (*Server).putManifest, "manifest"},
		{"DELETE", pathManifest, remove, (*Server).deleteManifest, "manifest"},

		{"POST", pathUploads, push, (*Server).startUpload, "blob_upload"},
		{"GET", pathUpload, push, (*Server).getUpload, "blob_upload_chunk"},
		{"PATCH", pathUpload, push, (*Server).patchUpload, "blob_upload_chunk"},
		{"PUT", pathUpload, push, (*Server).putUpload, "blob_upload_chunk"},
		{"DELETE", pathUpload, push, (*Server).deleteUpload, "blob_upload_chunk"},

		{"GET", pathBlob, pull, (*Server).getBlob, "blob"},
		{"HEAD", pathBlob, pull, (*Server).headBlob, "blob"},
		{"DELETE", pathBlob, remove, (*Server).deleteBlob, "blob"},

		{"GET", pathTags, pull, (*Server).listTags, "tags"},
		{"GET", pathReferrers, pull, (*Server).listReferrers, "referrers"},
		{"GET", "/v2/_catalog", catalog, (*Server).listCatalog, "catalog"},
		{"GET", "/v2{slash:/?}", signedIn, (*Server).getBase, "base"},
		{"HEAD", "/v2{slash:/?}", signedIn, (*Server).getBase, "base"},

		{"GET", "/token{slash:/?}", open, (*Server).getToken, "token"},
		{"POST", "/token{slash:/?}", open, (*Server).postToken, "token"},
		{"GET", "/.well-known/jwks.json", open, (*Server).getJWKS, "jwks"},
		{"GET", "/.well-known/berth", open, (*Server).getWellKnown, "well_known"},
		{"GET", "/sign-in", open, (*Server).getSignIn, "sign_in"},
		{"GET", callbackPath, open, (*Server).getSignInCallback, "sign_in"},
		{"GET", "/sign-out", open, (*Server).getSignOut, "sign_out"},
		{"POST", "/sign-out", open, (*Server).postSignOut, "sign_out"},
		// Dockit's names of the same, for registries that are configured with them. Paths
		// of repositories have /manifests/, /blobs/, /tags/ or /referrers/ in them, these do not.
		{"GET", "/v2/token", open, (*Server).getToken, "token"},
		{"POST", "/v2/token", open, (*Server).postToken, "token"},
		{"GET", "/v2/certs/pem", open, (*Server).getCertificates, "certificates"},
		{"HEAD", "/v2/certs/pem", open, (*Server).getCertificates, "certificates"},
		{"PUT", pathDockit, administer, (*Server).serveDockit, "dockit"},
		{"DELETE", pathDockit, administer, (*Server).serveDockit, "dockit"},

		// The API of d.ims.io; its POST /token is the one above.
		{"DELETE", pathDimsToken, known, (*Server).dimsDeleteToken, "dims_token"},
		{"GET", pathDimsRepositories, known, (*Server).dimsListRepositories, "dims_repositories"},
		{"GET", pathDimsImages, pull, (*Server).dimsListImages, "dims_images"},
		{"GET", pathDimsImage, pull, (*Server).dimsGetImage, "dims_image"},
		{"DELETE", pathDimsImage, remove, (*Server).dimsDeleteImage, "dims_image"},
		{"GET", pathDimsRepository, pull, (*Server).dimsGetRepository, "dims_repository"},
		{"DELETE", pathDimsRepository, own, (*Server).dimsDeleteRepository, "dims_repository"},
		{"GET", pathDimsOwner, known, (*Server).dimsListOwner, "dims_owner"},
		{"POST", pathDimsOwner, known, (*Server).dimsCreateRepository, "dims_owner"}, // and push on the name in the body
		{"GET", pathDimsAccounts, administer, (*Server).dimsListAccounts, "dims_accounts"},
		{"POST", pathDimsAccounts, administer, (*Server).dimsCreateAccount, "dims_accounts"},
		{"DELETE", pathDimsAccount, administer, (*Server).dimsDeleteAccount, "dims_account"},

		// What describes the APIs, beside /api/.
		{"GET", "/swagger.json", open, (*Server).serveAPI, "documents"},
		{"HEAD", "/swagger.json", open, (*Server).serveAPI, "documents"},
		{"GET", "/api", open, (*Server).serveAPI, "documents"},
		{"HEAD", "/api", open, (*Server).serveAPI, "documents"},
		{"GET", "/ui{slash:/?}", open, (*Server).serveAPI, "documents"},
		{"HEAD", "/ui{slash:/?}", open, (*Server).serveAPI, "documents"},

		{"GET", "/livez", open, (*Server).getLive, "health"},
		{"HEAD", "/livez", open, (*Server).getLive, "health"},
		// What probes of Dockit and of others ask: it fails when the database is down.
		{"GET", "/healthz", open, (*Server).getReady, "health"},
		{"HEAD", "/healthz", open, (*Server).getReady, "health"},
		{"GET", "/readyz", open, (*Server).getReady, "health"},
		{"HEAD", "/readyz", open, (*Server).getReady, "health"},
		{"GET", "/metrics", open, (*Server).getMetrics, "metrics"},
		{"GET", "/", open, (*Server).getRoot, "root"},
		{"HEAD", "/", open, (*Server).getRoot, "root"},
	}
}

// apiRoute is what all of /api/ is: Options.API has a table of its own.
var apiRoute = route{"", "/api/", manage, (*Server).serveAPI, "api"}

// endpoint is a route that the router knows, with its metrics looked up.
type endpoint struct {
	route
	metrics handlerMetrics
}

// newRouter builds the router. There is one mux route per pattern, with the
// methods in a map below it, so that a path is matched once and the right
// Allow header is at hand.
func (s *Server) newRouter(table []route) *mux.Router {
	router := mux.NewRouter().SkipClean(true) // a cleaned path would be a redirect
	var patterns []string
	methods := map[string]map[string]*endpoint{}
	for _, rt := range table {
		if methods[rt.pattern] == nil {
			methods[rt.pattern] = map[string]*endpoint{}
			patterns = append(patterns, rt.pattern)
		}
		methods[rt.pattern][rt.method] = &endpoint{rt, s.metrics.handler(rt.name, rt.method)}
	}
	for _, pattern := range patterns {
		byMethod := methods[pattern]
		allow := make([]string, 0, len(byMethod))
		for method := range byMethod {
			allow = append(allow, method)
		}
		slices.Sort(allow)
		allowed := strings.Join(allow, ", ")
		newRoute(router, pattern).HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			ex := w.(*exchange)
			ep := byMethod[r.Method]
			if ep == nil {
				w.Header().Set("Allow", allowed)
				ex.fail(r, oci.Errorf(oci.CodeUnsupported, "the method %.20q is not supported here, use %s", r.Method, allowed))
				return
			}
			s.run(ex, r, ep)
		})
	}
	if s.api != nil {
		byMethod := map[string]*endpoint{}
		for _, method := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "other"} {
			byMethod[method] = &endpoint{apiRoute, s.metrics.handler(apiRoute.name, method)}
		}
		router.PathPrefix(apiRoute.pattern).HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			s.run(w.(*exchange), r, byMethod[methodLabel(r.Method)])
		})
	}
	router.NotFoundHandler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.(*exchange).fail(r, errNoRoute(r))
	})
	return router
}

// newRoute makes the mux route of a pattern.
func newRoute(router *mux.Router, pattern string) *mux.Route {
	if rest, ok := strings.CutPrefix(pattern, "/v2/"+varName); ok {
		fixed, variable := rest, ""
		if i := strings.IndexByte(rest, '{'); i >= 0 {
			fixed = rest[:i]
			variable, _, _ = strings.Cut(rest[i+1:], ":")
		}
		return router.MatcherFunc(func(r *http.Request, m *mux.RouteMatch) bool {
			name, value, ok := splitPath(r.URL.Path, fixed, variable)
			if ok {
				m.Vars = map[string]string{"name": name}
				if variable != "" {
					m.Vars[variable] = value
				}
			}
			return ok
		})
	}
	// Looking for the words between the variables costs a tenth of the regular
	// expression.
	words := fixedParts(pattern)
	return router.MatcherFunc(func(r *http.Request, _ *mux.RouteMatch) bool { return hasInOrder(r.URL.Path, words) }).Path(pattern)
}

// splitPath reads a path of a repository, /v2/<name><fixed><value>, as the pattern
// with this variable says: "" for no value, "slash" for a slash that may be there,
// else one segment. It is those patterns' regular expressions by hand, which were 5 % of a small pull.
func splitPath(path, fixed, variable string) (name, value string, ok bool) {
	rest, ok := strings.CutPrefix(path, "/v2/")
	if !ok {
		return "", "", false
	}
	switch variable {
	case "":
	case "slash":
		if strings.HasSuffix(rest, "/") {
			rest, value = rest[:len(rest)-1], "/"
		}
	default:
		i := strings.LastIndexByte(rest, '/') + 1
		if rest, value = rest[:i], rest[i:]; value == "" {
			return "", "", false
		}
	}
	name, ok = strings.CutSuffix(rest, fixed)
	return name, value, ok && oci.IsName(name)
}

// fixedParts gives what of a pattern stands between its variables.
func fixedParts(pattern string) []string {
	var parts []string
	depth, from := 0, 0
	for i, c := range pattern {
		switch c {
		case '{':
			if depth == 0 && i > from {
				parts = append(parts, pattern[from:i])
			}
			depth++
		case '}':
			depth--
			from = i + 1
		}
	}
	if from < len(pattern) {
		parts = append(parts, pattern[from:])
	}
	return parts
}

// hasInOrder reports whether a path begins with the first of some words and has
// the others behind it, one after the other.
func hasInOrder(path string, words []string) bool {
	for i, word := range words {
		at := strings.Index(path, word)
		if at < 0 || i == 0 && at != 0 {
			return false
		}
		path = path[at+len(word):]
	}
	return true
}

// writes reports whether a request of the method may change something. What is
// open does not: the token endpoint is asked by POST, too.
func (ep *endpoint) writes(method string) bool {
	switch ep.need {
	case push, remove:
		return true
	case open:
		return false
	}
	return method != http.MethodGet && method != http.MethodHead && method != http.MethodOptions
}

// ErrReadOnly is UNSUPPORTED, as CNCF distribution answers in its read-only mode: clients do
// not try it again, and show the sentence.
func ErrReadOnly() error {
	return oci.Errorf(oci.CodeUnsupported, "this registry is read-only now: pulling works, and pushing, deleting and changing settings do not. "+
		"Try again later, or ask its operator when the maintenance ends (the setting read_only)")
}

// run does what every route has in common: know the repository, enforce the
// permission, call the handler, write its error.
func (s *Server) run(ex *exchange, r *http.Request, ep *endpoint) {
	ex.endpoint = ep
	if name, ok := mux.Vars(r)["name"]; ok {
		if len(name) > oci.MaxNameLength {
			_, err := oci.ParseName(name)
			ex.fail(r, err)
			return
		}
		ex.repository = name
	}
	err := s.authorize(ex, r)
	if err == nil && s.readOnly && ep.pattern != apiRoute.pattern && ep.writes(r.Method) {
		err = ErrReadOnly()
	}
	if err == nil {
		err = ep.handler(s, ex, r)
	}
	if err != nil {
		ex.fail(r, err)
	}
}

// errNoRoute is the error for a path that no route matches. A path that would
// match but for its repository's name gets NAME_INVALID.
func errNoRoute(r *http.Request) error {
	path := r.URL.Path
	rest, ok := strings.CutPrefix(path, "/v2/")
	if !ok {
		return oci.Errorf(oci.CodeNotFound, "there is nothing at %.120q: the registry is at /v2/, the management API at /api/", path)
	}
	for _, infix := range []string{"/manifests/", "/blobs/", "/tags/", "/referrers/"} {
		if i := strings.LastIndex(rest, infix); i >= 0 {
			if _, err := oci.ParseName(rest[:i]); err != nil {
				return err
			}
		}
	}
	// NAME_UNKNOWN is the specification's only code for a 404 without a better one.
	return oci.Errorf(oci.CodeNameUnknown, "there is no such endpoint: %.120q is none of those in the distribution specification", path)
}
