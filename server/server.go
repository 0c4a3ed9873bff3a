// Package server speaks HTTP: the OCI distribution API under /v2/, the token endpoint, health
// and metrics. It also serves the doors, which are APIs of their own on the same registry, and
// enforces for all of them who may do what.
//
// Start with routes.go, the table of everything that is served. access.go is the only place that
// enforces a permission, errors.go the only one that writes an error. A handler parses, calls one
// thing, and writes; it returns its error. Package server/door says what a door brings.
package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gorilla/mux"
	"github.com/prometheus/client_golang/prometheus"

	"berth/auth"
	"berth/auth/token"
	"berth/metadata"
	"berth/oci"
	"berth/registry"
	"berth/server/door"
)

// Options of a Server. Registry, Auth, Policy and Tokens are required.
type Options struct {
	Registry *registry.Registry
	// Auth recognises passwords and opaque tokens; usually an auth.Chain.
	Auth   auth.Authenticator
	Policy *auth.Policy
	Tokens *token.Issuer
	// Refresher makes refresh tokens possible; nil is none.
	Refresher *auth.Refresher
	// Browsers lets people sign in with a browser, and Sessions keeps them signed in;
	// nil is none.
	Browsers Browsers
	Sessions *auth.WebSessions
	// Provider is published for programs with which people sign in; nil is none.
	Provider *Provider
	// Services finds another registry that takes our tokens by its name, or returns
	// NOT_FOUND; nil is none.
	Services func(ctx context.Context, name string) (metadata.Service, error)

	// Doors are the other APIs on the same registry.
	Doors []door.Door
	// Start is the path to which programs are sent that ask for /; "" is the start page,
	// which people get in any case.
	Start string

	// URL is the address that clients use, e.g. https://registry.example.com. The
	// default is taken from each request.
	URL string
	// Service is the audience of tokens; the default is the host of URL, or "berth".
	Service string
	// Proxies are believed about where a request comes from. The default is nobody.
	Proxies Proxies
	// ReadOnly refuses everything that changes something, after the permission is
	// checked. Signing in and pulling go on.
	ReadOnly bool
	// RedirectTTL makes blob GETs redirect to the store for this long, when the
	// store can hand out links; 0 streams the bytes through the server.
	RedirectTTL time.Duration
	// StallTimeout is how long a client may neither send nor take a byte; the
	// default is 5 minutes, negative is for ever.
	StallTimeout time.Duration
	// OfflineTokens answers a GET of the token endpoint that asks for
	// offline_token with a refresh token. docker login then stores that in place
	// of the password, which tools that read docker's configuration for a password
	// cannot use; a POST with access_type=offline gets one in any case.
	OfflineTokens bool

	// Challenge is how /v2/ asks for a sign-in: ChallengeBearer, which is the default, ChallengeBasic for
	// clients that know nothing else (of d.ims.io and Pier One), or ChallengeBoth, of which several clients
	// take the first and stop.
	Challenge string

	// Audit takes what was refused, and the source that counts as one client; it must
	// not block. nil records nothing.
	Audit func(e metadata.Event, source string)

	// Ready are asked by /readyz and /livez.
	Ready []Check
	// Registerer takes the server's metrics; nil counts for nobody.
	Registerer prometheus.Registerer
	// Gatherer is served at /metrics; nil serves none, for those who use another
	// address for it.
	Gatherer prometheus.Gatherer
	// Version is shown on the start page.
	Version string
	Logger  *slog.Logger
	Clock   func() time.Time
}

// The values of Options.Challenge.
const (
	ChallengeBearer = "bearer"
	ChallengeBasic  = "basic"
	ChallengeBoth   = "both"
)

// Server answers requests. Make one with New; it is safe for concurrent use.
type Server struct {
	registry      *registry.Registry
	auth          auth.Authenticator
	policy        *auth.Policy
	tokens        *token.Issuer
	refresher     *auth.Refresher
	browsers      Browsers
	sessions      *auth.WebSessions
	provider      *Provider
	services      func(ctx context.Context, name string) (metadata.Service, error)
	faces         []*door.Face // of the doors
	start         string
	url           string // without a trailing slash; "" is from the request
	service       string
	proxies       Proxies
	readOnly      bool
	redirectTTL   time.Duration
	stall         time.Duration
	offlineTokens bool
	challenges    string
	audit         func(metadata.Event, string)
	health        *health
	gatherer      prometheus.Gatherer
	version       string
	log           *slog.Logger
	clock         func() time.Time
	metrics       *metrics
	router        *mux.Router
	draining      atomic.Bool
	sameHost      sync.Once // warned that the bucket is at the server's own host
	buffers       sync.Pool // of *[]byte, for blobs outside of files
	bodies        bodies
	plainRealm    sync.Once // the warning about a realm without TLS
}

// bodies are those of the requests in flight.
type bodies struct {
	mu       sync.Mutex
	all      map[*requestBody]struct{}
	stopping bool
}

func (b *bodies) add(body *requestBody) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.stopping {
		body.interrupt(errStopping)
		return
	}
	if b.all == nil {
		b.all = map[*requestBody]struct{}{}
	}
	b.all[body] = struct{}{}
}

func (b *bodies) remove(body *requestBody) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.all, body)
}

// New makes a Server, or says what is wrong with the options.
func New(o Options) (*Server, error) {
	switch {
	case o.Registry == nil, o.Auth == nil, o.Policy == nil, o.Tokens == nil:
		return nil, fmt.Errorf("server: Registry, Auth, Policy and Tokens are required")
	}
	s := &Server{
		registry:      o.Registry,
		auth:          o.Auth,
		policy:        o.Policy,
		tokens:        o.Tokens,
		refresher:     o.Refresher,
		browsers:      o.Browsers,
		sessions:      o.Sessions,
		provider:      o.Provider,
		services:      o.Services,
		start:         o.Start,
		url:           strings.TrimRight(o.URL, "/"),
		service:       o.Service,
		proxies:       o.Proxies,
		readOnly:      o.ReadOnly,
		redirectTTL:   o.RedirectTTL,
		stall:         o.StallTimeout,
		offlineTokens: o.OfflineTokens,
		challenges:    o.Challenge,
		audit:         o.Audit,
		gatherer:      o.Gatherer,
		version:       o.Version,
		log:           o.Logger,
		clock:         o.Clock,
		metrics:       newMetrics(o.Registerer),
	}
	if s.url != "" {
		u, err := url.Parse(s.url)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || !plainHost(u.Host) || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
			return nil, fmt.Errorf("server: the URL %q is not valid: write http:// or https:// and the host, e.g. https://registry.example.com", o.URL)
		}
		if s.service == "" {
			s.service = u.Hostname()
		}
	}
	if s.service == "" {
		s.service = "berth"
	}
	if strings.ContainsAny(s.service, "\"\\ ,") {
		return nil, fmt.Errorf("server: the service name %q is not valid: use a host name", s.service)
	}
	if s.stall == 0 {
		s.stall = 5 * time.Minute
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.clock == nil {
		s.clock = time.Now
	}
	checks := slices.Clone(o.Ready)
	for i := range checks {
		if s.readOnly {
			checks[i].Write = nil // nothing is to be written
		}
	}
	s.health = newHealth(s.clock, s.log, o.Registerer, checks)
	for _, d := range o.Doors {
		s.faces = append(s.faces, d.Face())
	}
	s.router = s.newRouter(s.table(o.Doors))
	return s, nil
}

// Handler is the Server as an http.Handler. Serve it with an http.Server made by
// Configure: it needs no middleware around it, and one that wraps the
// http.ResponseWriter costs sendfile.
func (s *Server) Handler() http.Handler { return http.HandlerFunc(s.serve) }

// Configure sets the limits that belong to this server on an http.Server: time
// for the header and between requests, size of the header. There is no limit
// for a whole request, for honest pushes may take hours; a client that falls
// silent is given up by Options.StallTimeout.
func (s *Server) Configure(h *http.Server) {
	h.Handler = s.Handler()
	h.ReadHeaderTimeout = 20 * time.Second
	h.IdleTimeout = 2 * time.Minute
	h.MaxHeaderBytes = 64 << 10
	h.ReadTimeout, h.WriteTimeout = 0, 0
	h.ConnContext = withConn
	h.ErrorLog = slog.NewLogLogger(s.log.Handler(), slog.LevelWarn)
}

// Drain makes /readyz fail, so that a balancer sends no more requests. Those
// that come nevertheless are served, each as the last one of its connection.
func (s *Server) Drain() { s.draining.Store(true) }

// Cut ends the requests that still wait for what their client sends. What came of an upload is kept, and
// its client is told with a 503 to go on from there, elsewhere or later.
func (s *Server) Cut() {
	s.bodies.mu.Lock()
	defer s.bodies.mu.Unlock()
	s.bodies.stopping = true
	for body := range s.bodies.all {
		body.interrupt(errStopping)
	}
}

// Service is the audience of the tokens that the server issues and takes.
func (s *Server) Service() string { return s.service }

// serve is all that stands around a handler.
func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	ex := &exchange{
		rw:     w,
		server: s,
		start:  s.clock(),
		id:     requestID(r),
		origin: originOf(r, s.proxies),
		agent:  auth.MaskSecrets(r.UserAgent()),
	}
	s.metrics.inFlight.Inc()
	defer s.metrics.inFlight.Dec()
	defer endConnection(w, r)()
	setInert(w.Header())
	w.Header().Set("X-Request-Id", ex.id)
	if r.TLS != nil {
		// RFC 6797. Whether a proxy's TLS stays is for the proxy to say.
		w.Header().Set("Strict-Transport-Security", "max-age=31536000")
	}
	if r.Body != nil && r.Body != http.NoBody {
		ex.body = &requestBody{rc: r.Body, control: http.NewResponseController(w), stall: s.stall, clock: s.clock}
		r.Body = ex.body
		s.bodies.add(ex.body)
		defer s.bodies.remove(ex.body)
	}
	ex.face = s.faceOf(r.URL.Path)
	r = r.WithContext(door.With(r.Context(), ex))
	defer func() {
		if p := recover(); p != nil {
			s.panicked(ex, r, p)
		}
		ex.body.done()
		s.finish(ex, r)
		if ex.aborted {
			panic(http.ErrAbortHandler) // net/http closes the connection and says nothing
		}
	}()

	path := r.URL.Path
	if protocol.Paths(path) {
		w.Header().Set("Docker-Distribution-API-Version", "registry/2.0")
	}
	if !oci.IsText(path) || !isTextQuery(r.URL.RawQuery) {
		// Such bytes are in no name that there is, and Postgres fails on them.
		err := errNoRoute(r)
		if !errors.Is(err, oci.ErrNameInvalid) {
			err = errNotText()
		}
		ex.fail(r, err)
		return
	}
	// An escaped slash would route like a real one, and two readers of one
	// path could disagree about the repository.
	if (ex.face.EscapedSlash == nil || !ex.face.EscapedSlash(path)) && r.URL.RawPath != "" && strings.Count(r.URL.RawPath, "/") != strings.Count(path, "/") {
		ex.fail(r, errNoRoute(r))
		return
	}
	// As the router's ServeHTTP does, without a second copy of the request for the route.
	var match mux.RouteMatch
	s.router.Match(r, &match)
	match.Handler.ServeHTTP(ex, mux.SetURLVars(r, match.Vars))
}

// isTextQuery is [oci.IsText] for a query as it stands in a URL. One that is malformed is for
// the handlers to refuse.
func isTextQuery(raw string) bool {
	if strings.IndexByte(raw, '%') >= 0 {
		if text, err := url.QueryUnescape(raw); err == nil {
			raw = text
		}
	}
	return oci.IsText(raw)
}

func errNotText() error {
	return oci.Errorf(oci.CodeInvalid, "the request holds bytes that are not text: names and parameters are UTF-8 without NUL, percent-encoded in a URL")
}

// faceOf finds the face of a path, before a route is known.
func (s *Server) faceOf(path string) *door.Face {
	for _, face := range s.faces {
		if face.Paths(path) {
			return face
		}
	}
	if protocol.Paths(path) {
		return protocol
	}
	return problems
}

// panicked turns a programming error into a 500. When the answer has begun, the
// connection is closed, so that the client does not take it for complete.
func (s *Server) panicked(ex *exchange, r *http.Request, p any) {
	if p == http.ErrAbortHandler {
		ex.aborted = true
		return
	}
	s.metrics.panics.Inc()
	err := fmt.Errorf("panic: %v", p)
	s.log.Error("a handler panicked", slog.String("id", ex.id), slog.String("error", err.Error()), slog.String("stack", string(debug.Stack())))
	if ex.status != 0 {
		ex.cause, ex.aborted = err, true
		return
	}
	ex.fail(r, err)
}

// baseURL is the address of this server as the client knows it.
func (s *Server) baseURL(r *http.Request) string {
	if s.url != "" {
		return s.url
	}
	o := exchangeOf(r.Context()).origin
	if o.host == "" {
		o.host = "localhost"
	}
	return o.scheme + "://" + o.host
}

// plainHost reports whether a host (with port) may stand in a header.
func plainHost(host string) bool {
	if host == "" || len(host) > 300 {
		return false
	}
	for i := range len(host) {
		c := host[i]
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte(".-_:[]", c) >= 0) {
			return false
		}
	}
	return true
}
