package server

import (
	"cmp"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/gorilla/mux"

	"berth/oci"
	"berth/server/door"
)

// scopeOf is what a client has to ask the token endpoint for: the action of the
// route, and with push also pull, for a client that pushes looks first.
func scopeOf(n door.Need) string {
	switch n {
	case door.Push:
		return "pull,push"
	case door.Delete:
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
	need    door.Need
	face    *door.Face
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
	pathManifest  = "/v2/" + varName + "/manifests/" + varReference
	pathUploads   = "/v2/" + varName + "/blobs/uploads{slash:/?}"
	pathUpload    = "/v2/" + varName + "/blobs/uploads/" + varUpload
	pathBlob      = "/v2/" + varName + "/blobs/" + varDigest
	pathTags      = "/v2/" + varName + "/tags/list"
	pathReferrers = "/v2/" + varName + "/referrers/" + varDigest
)

// healthRoute names the routes that probes ask, every second and for ever.
const healthRoute = "health"

// routes is the table of what the server itself serves, in the order in which the
// router looks. Every line names what it takes to be allowed. Doors bring their own.
func routes() []route {
	return []route{
		{"GET", pathManifest, door.Pull, protocol, (*Server).getManifest, "manifest"},
		{"HEAD", pathManifest, door.Pull, protocol, (*Server).headManifest, "manifest"},
		{"PUT", pathManifest, door.Push, protocol, (*Server).putManifest, "manifest"},
		{"DELETE", pathManifest, door.Delete, protocol, (*Server).deleteManifest, "manifest"},

		{"POST", pathUploads, door.Push, protocol, (*Server).startUpload, "blob_upload"},
		{"GET", pathUpload, door.Push, protocol, (*Server).getUpload, "blob_upload_chunk"},
		{"PATCH", pathUpload, door.Push, protocol, (*Server).patchUpload, "blob_upload_chunk"},
		{"PUT", pathUpload, door.Push, protocol, (*Server).putUpload, "blob_upload_chunk"},
		{"DELETE", pathUpload, door.Push, protocol, (*Server).deleteUpload, "blob_upload_chunk"},

		{"GET", pathBlob, door.Pull, protocol, (*Server).getBlob, "blob"},
		{"HEAD", pathBlob, door.Pull, protocol, (*Server).headBlob, "blob"},
		{"DELETE", pathBlob, door.Delete, protocol, (*Server).deleteBlob, "blob"},

		{"GET", pathTags, door.Pull, protocol, (*Server).listTags, "tags"},
		{"GET", pathReferrers, door.Pull, protocol, (*Server).listReferrers, "referrers"},
		{"GET", "/v2/_catalog", door.Catalog, protocol, (*Server).listCatalog, "catalog"},
		{"GET", "/v2{slash:/?}", door.SignedIn, protocol, (*Server).getBase, "base"},
		{"HEAD", "/v2{slash:/?}", door.SignedIn, protocol, (*Server).getBase, "base"},

		{"GET", "/token{slash:/?}", door.Open, protocol, (*Server).getToken, "token"},
		{"POST", "/token{slash:/?}", door.Open, protocol, (*Server).postToken, "token"},
		{"GET", "/.well-known/jwks.json", door.Open, problems, (*Server).getJWKS, "jwks"},
		{"GET", "/.well-known/berth", door.Open, problems, (*Server).getWellKnown, "well_known"},
		{"GET", "/sign-in", door.Open, problems, (*Server).getSignIn, "sign_in"},
		{"GET", callbackPath, door.Open, problems, (*Server).getSignInCallback, "sign_in"},
		{"GET", "/sign-out", door.Open, problems, (*Server).getSignOut, "sign_out"},
		{"POST", "/sign-out", door.Open, problems, (*Server).postSignOut, "sign_out"},
		// Dockit's names of the same, for registries that are configured with them. Paths
		// of repositories have /manifests/, /blobs/, /tags/ or /referrers/ in them, these do not.
		{"GET", "/v2/token", door.Open, protocol, (*Server).getToken, "token"},
		{"POST", "/v2/token", door.Open, protocol, (*Server).postToken, "token"},
		{"GET", "/v2/certs/pem", door.Open, protocol, (*Server).getCertificates, "certificates"},
		{"HEAD", "/v2/certs/pem", door.Open, protocol, (*Server).getCertificates, "certificates"},

		{"GET", "/livez", door.Open, problems, (*Server).getLive, healthRoute},
		{"HEAD", "/livez", door.Open, problems, (*Server).getLive, healthRoute},
		// What probes of Dockit and of others ask: it fails when the database is down.
		{"GET", "/healthz", door.Open, problems, (*Server).getReady, healthRoute},
		{"HEAD", "/healthz", door.Open, problems, (*Server).getReady, healthRoute},
		{"GET", "/readyz", door.Open, problems, (*Server).getReady, healthRoute},
		{"HEAD", "/readyz", door.Open, problems, (*Server).getReady, healthRoute},
		{"GET", "/metrics", door.Open, problems, (*Server).getMetrics, "metrics"},
		{"GET", "/", door.Open, problems, (*Server).getRoot, "root"},
		{"HEAD", "/", door.Open, problems, (*Server).getRoot, "root"},
	}
}

// endpoint is a route that the router knows, with its metrics looked up.
type endpoint struct {
	route
	match   func(*http.Request) bool
	resolve func(door.Exchange, *http.Request) (door.Deed, error)
	metrics handlerMetrics
}

// wants reports whether a request of the endpoint's path and method is for it.
func (ep *endpoint) wants(r *http.Request) bool { return ep.match == nil || ep.match(r) }

// methods are the endpoints of one pattern: several of a method, of which the first that
// wants a request has it.
type methods struct {
	by    map[string][]*endpoint
	allow string
}

func (m *methods) of(r *http.Request) *endpoint {
	for _, ep := range m.by[r.Method] {
		if ep.wants(r) {
			return ep
		}
	}
	return nil
}

// table joins the routes of the doors with the server's own. A door comes first: a route
// of its own leaves what it does not want to the server.
func (s *Server) table(doors []door.Door) (exact, prefixes []*endpoint) {
	for i, d := range doors {
		face := s.faces[i]
		for _, rt := range d.Routes() {
			handler := func(_ *Server, ex *exchange, r *http.Request) error {
				if ex.deed.Handler != nil {
					return ex.deed.Handler(ex, r)
				}
				return rt.Handler(ex, r)
			}
			ep := &endpoint{route: route{rt.Method, rt.Pattern, rt.Need, face, handler, rt.Name}, match: rt.Match, resolve: rt.Resolve}
			if rt.Method == "" {
				prefixes = append(prefixes, ep)
			} else {
				exact = append(exact, ep)
			}
		}
	}
	for _, rt := range routes() {
		exact = append(exact, &endpoint{route: rt})
	}
	return exact, prefixes
}

// newRouter builds the router. There is one mux route per pattern, with the
// methods in a map below it, so that a path is matched once and the right
// Allow header is at hand.
func (s *Server) newRouter(exact, prefixes []*endpoint) *mux.Router {
	router := mux.NewRouter().SkipClean(true) // a cleaned path would be a redirect
	var patterns []string
	byPattern := map[string]*methods{}
	for _, ep := range exact {
		m := byPattern[ep.pattern]
		if m == nil {
			m = &methods{by: map[string][]*endpoint{}}
			byPattern[ep.pattern] = m
			patterns = append(patterns, ep.pattern)
		}
		ep.metrics = s.metrics.handler(ep.name, ep.method)
		m.by[ep.method] = append(m.by[ep.method], ep)
	}
	// Those of repositories come first: they are asked for most.
	slices.SortStableFunc(patterns, func(a, b string) int { return cmp.Compare(rankOf(a), rankOf(b)) })
	for _, pattern := range patterns {
		m := byPattern[pattern]
		m.allow = strings.Join(slices.Sorted(maps.Keys(m.by)), ", ")
		newRoute(router, pattern).HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			ex := w.(*exchange)
			ep := m.of(r)
			if ep == nil {
				w.Header().Set("Allow", m.allow)
				ex.fail(r, oci.Errorf(oci.CodeUnsupported, "the method %.20q is not supported here, use %s", r.Method, m.allow))
				return
			}
			s.run(ex, r, ep)
		})
	}
	for _, ep := range prefixes {
		byMethod := map[string]*endpoint{}
		for _, method := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "other"} {
			one := *ep
			one.metrics = s.metrics.handler(ep.name, method)
			byMethod[method] = &one
		}
		router.PathPrefix(ep.pattern).HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			s.run(w.(*exchange), r, byMethod[methodLabel(r.Method)])
		})
	}
	router.NotFoundHandler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.(*exchange).fail(r, errNoRoute(r))
	})
	return router
}

// rankOf orders patterns: those of repositories before all others.
func rankOf(pattern string) int {
	if strings.HasPrefix(pattern, "/v2/"+varName) {
		return 0
	}
	return 1
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
	case door.Push, door.Delete:
		return true
	case door.Open:
		return false
	}
	return method != http.MethodGet && method != http.MethodHead && method != http.MethodOptions
}

// errReadOnly is UNSUPPORTED, as CNCF distribution answers in its read-only mode: clients do
// not try it again, and show the sentence.
func errReadOnly() error {
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
	if ep.face != nil {
		ex.face = ep.face
	}
	err := s.authorize(ex, r)
	if err == nil && s.readOnly && ep.writes(r.Method) && !ex.deed.Operation.WhileReadOnly() {
		err = errReadOnly()
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
