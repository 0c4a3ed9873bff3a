package server

import (
	"context"
	"encoding/base64"
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"strings"

	"github.com/gorilla/mux"

	"berth/auth"
	"berth/auth/token"
	"berth/oci"
	"berth/server/door"
)

// This file is the only one that enforces a permission. The route table says
// what a route needs, auth.Policy what a principal may; here the two meet.

// identity is who asks, and how that is known.
type identity struct {
	known     bool // credentials were looked at and hold, or there were none
	shown     bool // there were some; an anonymous token counts
	principal auth.Principal
	// claims are those of a bearer token (JWT). Its rights are what it carries,
	// which is never more than the principal's when it was issued.
	claims *token.Claims
}

// authorize lets a request through to its handler, or says why not.
func (s *Server) authorize(ex *exchange, r *http.Request) error {
	ep := ex.endpoint
	if ep.need == door.Open {
		return nil
	}
	if err := s.authorizeIdentity(ex, r); err != nil {
		return err
	}
	if ex.face.Manages || ep.need == door.Manage || ep.need == door.Administer {
		if err := s.authorizeManages(ex, r); err != nil {
			return err
		}
	}
	if ep.resolve != nil {
		if err := s.resolve(ex, r); err != nil {
			return err
		}
	}
	id := ex.identity
	switch ep.need {
	case door.SignedIn:
		if !id.shown {
			return s.challenge(ex, r, "", "authentication is required: sign in with docker login, or fetch an anonymous token", refusal{Rule: "not-signed-in"})
		}
		return nil
	case door.Catalog:
		// Without credentials a client would get the public part of the list and
		// take it for all: it has to be asked first.
		if !id.shown || id.claims != nil && !id.claims.Allows("registry", "catalog", "*") {
			return s.challenge(ex, r, insufficient(id), "listing repositories needs a token with the scope registry:catalog:*", refusal{Rule: "insufficient-scope", Missing: []string{"catalog"}})
		}
		return nil
	case door.Pull, door.Push, door.Delete, door.Own:
		if err := s.authorizeRepository(ex, r, ep.need.Action()); err != nil {
			return err
		}
		return s.authorizeTags(ex, r, ep.need.Action())
	case door.Known:
		if id.principal.IsAnonymous() {
			return s.challenge(ex, r, insufficient(id), "this needs a sign-in: give a user name and password, or a token", refusal{Rule: "not-signed-in"})
		}
		return nil
	case door.Manage:
		return failClosed(s.policy.Manage(r.Context(), id.principal, ex.deed.Operation, ex.deed.On))
	case door.Administer:
		return failClosed(s.policy.Permit(r.Context(), id.principal, auth.Operation(ep.name), auth.OperationRule{Who: auth.WhoAdmin}, auth.Subject{}))
	}
	return oci.Errorf(oci.CodeDenied, "this endpoint has no permission declared and is closed to everybody: tell the operator of this registry")
}

// resolve asks the door what the request is about.
func (s *Server) resolve(ex *exchange, r *http.Request) (err error) {
	if ex.deed, err = ex.endpoint.resolve(ex, r); ex.deed.On.Repository != "" {
		ex.repository = ex.deed.On.Repository
	}
	return err
}

// authorizeIdentity finds out who asks, and refuses credentials that do not hold here.
func (s *Server) authorizeIdentity(ex *exchange, r *http.Request) error {
	id, err := s.identify(ex, r)
	if err != nil {
		return s.refuseSignIn(ex, r, err)
	}
	id.principal.RemoteAddr = ex.remote
	ex.identity = id
	return s.authorizeNetwork(ex)
}

// authorizeNetwork refuses a credential that is used outside of its networks, whatever
// it is used for. At the sign-in it was not, but a bearer token can be carried away.
func (s *Server) authorizeNetwork(ex *exchange) error {
	p := ex.identity.principal
	if p.Limit.AllowsFrom(ex.remote) {
		return nil
	}
	refused := auth.WrongNetwork(p, ex.remote)
	return oci.Errorf(oci.CodeDenied, "%s", auth.WrongReason(refused)).WithDetail(refusal{Rule: auth.WrongRule(refused), Ask: "a token for this network"})
}

// authorizeTags checks the tags that a request is about against the tag pattern of the
// token, when it has one: the one in the path, and those that a push by digest names.
// Deleting by digest would take every tag of the manifest, and administration is about
// all tags.
func (s *Server) authorizeTags(ex *exchange, r *http.Request, action auth.Actions) error {
	limit := ex.identity.principal.Limit
	if limit == nil || limit.Tags == "" {
		return nil
	}
	var ref oci.Reference
	if text, ok := mux.Vars(r)["reference"]; ok {
		var err error
		if ref, err = oci.ParseReference(text); err != nil {
			return err
		}
	} else if action != auth.Admin {
		return nil
	}
	var tags []string
	switch {
	case ref.Tag != "":
		tags = []string{ref.Tag}
	case action == auth.Delete, action == auth.Admin:
		tags = []string{""}
	}
	if action == auth.Push {
		q, err := query(r)
		if err != nil {
			return err
		}
		tags = append(tags, q["tag"]...)
	}
	for _, tag := range tags {
		if limit.AllowsTag(action, tag) {
			continue
		}
		s.metrics.refusals.WithLabelValues(action.String()).Inc()
		what := "the tag " + shorten(tag)
		if tag == "" {
			what = "what takes other tags along"
		}
		return oci.Errorf(oci.CodeDenied, "the token of %s may %s only tags like %q, and not %s: use or make another token", ex.identity.principal, action, limit.Tags, what).
			WithDetail(refusal{Rule: string(auth.RuleLimit), Missing: action.Names(), Ask: "a token that carries " + action.String() + " for this tag"})
	}
	return nil
}

// insufficient is the RFC 6750 error code for an identity that lacks a scope.
func insufficient(id identity) string {
	if id.shown {
		return "insufficient_scope"
	}
	return ""
}

// authorizeRepository checks an action on the repository in the path. A bearer
// token is taken at its word, which saves the query. What it lacks is looked
// up, to tell a client that may fetch a better token from one that may not.
// Nothing here depends on whether the repository exists, but for what its
// visibility gives.
func (s *Server) authorizeRepository(ex *exchange, r *http.Request, action auth.Actions) error {
	id := ex.identity
	var decision auth.Decision
	var err error
	if id.claims != nil && id.claims.Actions(ex.repository).Has(action) {
		// What it carries counts, unless a denial has come in between, or it is used
		// from another place than where it was issued.
		var denied bool
		if decision, denied, err = s.policy.Denied(r.Context(), id.principal, ex.repository, action); err == nil && !denied {
			return nil
		}
	} else {
		decision, err = s.policy.Action(r.Context(), id.principal, ex.repository, action)
	}
	if err != nil {
		return failClosed(err)
	}
	allowed := decision.Actions.Has(action)
	if allowed && id.claims == nil {
		return nil
	}
	if !allowed && decision.Unsure != nil && !errors.Is(decision.Unsure, auth.ErrShowCredential) {
		return failClosed(decision.Unsure)
	}
	s.metrics.refusals.WithLabelValues(action.String()).Inc()
	if allowed || decision.Unsure != nil {
		return s.challenge(ex, r, "insufficient_scope", "the bearer token does not carry "+action.String()+" on "+ex.repository+": fetch one with the scope of the challenge",
			refusal{Rule: "insufficient-scope", Missing: (action).Names()})
	}
	why := s.policy.Explain(r.Context(), id.principal, ex.repository, decision, action)
	if id.principal.IsAnonymous() {
		return s.challenge(ex, r, insufficient(id), why.Message(), refusal{Rule: string(why.Rule), Missing: why.Missing, Has: why.Has, Ask: why.Ask, Denial: why.Denial, Reason: why.Reason})
	}
	return oci.Errorf(oci.CodeDenied, "%s", why.Message()).WithDetail(why)
}

// authorizeToday lets a signed-in caller through as who that is today. A bearer
// token has to be for management.
func (s *Server) authorizeToday(ex *exchange, r *http.Request) error {
	id := ex.identity
	if id.principal.IsAnonymous() {
		return s.challenge(ex, r, insufficient(id), "the management API needs a sign-in: give a user name and password, or a token", refusal{Rule: "not-signed-in"})
	}
	if id.claims != nil {
		if !id.claims.Allows("berth", "api", "*") {
			return s.challenge(ex, r, "insufficient_scope", "the bearer token is not for the management API: fetch one with the scope berth:api:*", refusal{Rule: "insufficient-scope"})
		}
		// This is where rights are changed, so a role that was taken away ends at
		// once here and not with the token.
		if s.refresher != nil {
			p, err := s.refresher.Current(r.Context(), id.principal)
			if err != nil {
				return s.refuseSignIn(ex, r, err)
			}
			p.RemoteAddr = ex.remote
			ex.identity.principal = p
		}
	}
	return nil
}

// authorizeManages lets a signed-in caller through to what manages: nobody is
// anonymous there, and a bearer token counts by who shows it and not by what it carries for
// images.
func (s *Server) authorizeManages(ex *exchange, r *http.Request) error {
	if err := s.authorizeToday(ex, r); err != nil {
		return err
	}
	ex.identity.claims = nil
	if ex.repository != "" {
		if _, err := oci.ParseName(ex.repository); err != nil {
			return err
		}
	}
	return nil
}

// mayPull divides repositories into those that the caller may pull from with
// what it shows, and those that it might with a better token.
func (s *Server) mayPull(ex *exchange, r *http.Request, repositories []string) (now, wider []string, err error) {
	id := ex.identity
	var ask []string
	for _, name := range repositories {
		if id.claims == nil || !id.claims.Actions(name).Has(auth.Pull) {
			ask = append(ask, name)
			continue
		}
		_, denied, err := s.policy.Denied(r.Context(), id.principal, name, auth.Pull)
		if err != nil {
			return nil, nil, failClosed(err)
		}
		if !denied {
			now = append(now, name)
		}
	}
	decisions, err := s.policy.Asked(r.Context(), id.principal, ask, func(string) auth.Actions { return auth.Pull })
	if err != nil {
		return nil, nil, failClosed(err)
	}
	for _, name := range ask {
		switch d := decisions[name]; {
		case !d.Actions.Has(auth.Pull):
		case id.claims == nil, d.By(auth.Pull) == auth.RulePublic, d.By(auth.Pull) == auth.RulePublicRead:
			now = append(now, name)
		default:
			wider = append(wider, name)
		}
	}
	return now, wider, nil
}

// failClosed keeps an error that means "it cannot be said now" from being
// anything but a 503. That the client hung up, or failed too often, stays what it is.
func failClosed(err error) error {
	if err == nil {
		return nil
	}
	var e *oci.Error
	var throttled *auth.ThrottledError
	if errors.As(err, &e) || errors.As(err, &throttled) || errors.Is(err, context.Canceled) {
		return err
	}
	return oci.Errorf(oci.CodeUnavailable, "your rights cannot be checked now, try again later").WithCause(err)
}

// errBadCredentials is a refusal of what was shown, with what the client may know.
type errBadCredentials struct {
	rule   string
	reason string
	cause  error
}

func (e *errBadCredentials) Error() string { return e.reason }
func (e *errBadCredentials) Unwrap() error { return e.cause }

// identify finds out who asks: Basic, a bearer token (our JWT, or one that an
// authenticator knows), or nobody.
func (s *Server) identify(ex *exchange, r *http.Request) (identity, error) {
	header := r.Header.Get("Authorization")
	if header == "" {
		return s.identifyBrowser(ex, r)
	}
	scheme, value, _ := strings.Cut(header, " ")
	if strings.EqualFold(scheme, "Bearer") {
		if value = strings.TrimSpace(value); token.LooksLike(value) && len(value) <= maxCredentials {
			claims, err := s.tokens.Verify(r.Context(), value, s.service)
			switch {
			case err == nil:
				return identity{known: true, shown: true, principal: claims.Principal, claims: claims}, nil
			case !s.tokens.Foreign(value):
				return identity{}, bearerError(err)
			}
			// Somebody else's JWT, which one of the authenticators may know.
			id, foreign := s.signIn(ex, r, auth.Credentials{Bearer: value})
			var bad *errBadCredentials
			if errors.As(foreign, &bad) && bad.cause == auth.ErrWrong {
				return identity{}, bearerError(err) // nobody knows it, and this tells more
			}
			return id, foreign
		}
	}
	cred, err := credentials(scheme, value)
	if err != nil {
		return identity{}, err
	}
	return s.signIn(ex, r, cred)
}

// identifyBrowser finds out who asks without an Authorization header: through a door
// for browsers whoever is signed in with this browser, and nobody elsewhere. A
// browser sends its cookie with requests that another site made, too, so a request
// that changes something has to come from our own origin; and for the case that something
// foreign does run there, it has to carry the token that only our pages hold.
func (s *Server) identifyBrowser(ex *exchange, r *http.Request) (identity, error) {
	nobody := identity{known: true, principal: auth.Anonymous()}
	if !ex.face.Sessions || s.sessions == nil {
		return nobody, nil
	}
	secret, ok := s.cookie(r, sessionCookie)
	if !ok {
		return nobody, nil
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		if err := s.sameOrigin(r); err != nil {
			return identity{}, err
		}
		if !auth.IsPageToken(secret, r.Header.Get(PageTokenHeader)) {
			return identity{}, oci.Errorf(oci.CodeDenied, "a browser's session changes something only with the token of a page in %s: load the page anew; "+
				"programs send an Authorization header instead of the cookie", PageTokenHeader).
				WithDetail(refusal{Rule: "page-token", Ask: "nobody: load the page anew, or do it with berth"})
		}
	}
	p, err := s.sessions.Find(r.Context(), secret)
	if errors.Is(err, auth.ErrWrong) {
		return identity{}, &errBadCredentials{rule: "session-ended", reason: auth.WrongReason(err), cause: err}
	}
	if err != nil {
		return identity{}, failClosed(err)
	}
	return identity{known: true, shown: true, principal: p}, nil
}

// sameOrigin refuses a request that a page of another origin made, and one of
// which that cannot be told: browsers send Sec-Fetch-Site, older ones Origin.
func (s *Server) sameOrigin(r *http.Request) error {
	site, origin := r.Header.Get("Sec-Fetch-Site"), r.Header.Get("Origin")
	if site == "same-origin" || site == "" && origin != "" && origin == s.baseURL(r) {
		return nil
	}
	return oci.Errorf(oci.CodeDenied, "a browser's session changes something only from a page of this registry; programs send an Authorization header instead of the cookie").
		WithDetail(refusal{Rule: "cross-site", Ask: "nobody: do it on a page of this registry, or with berth"})
}

// maxCredentials bounds an Authorization header, in bytes.
const maxCredentials = token.MaxSize + 1024

// credentials reads an Authorization header that does not carry a token of ours.
func credentials(scheme, value string) (auth.Credentials, error) {
	switch {
	// In base64, a token as a password is a third longer.
	case len(value) > maxCredentials && !(strings.EqualFold(scheme, "Basic") && len(value) <= base64.StdEncoding.EncodedLen(maxCredentials)):
		return auth.Credentials{}, &errBadCredentials{rule: "malformed", reason: "the Authorization header is too long"}
	case strings.EqualFold(scheme, "Basic"):
		raw, err := base64.StdEncoding.DecodeString(strings.TrimSpace(value))
		name, password, ok := strings.Cut(string(raw), ":")
		if err != nil || !ok {
			return auth.Credentials{}, &errBadCredentials{rule: "malformed", reason: "the Authorization header is not base64 of name:password"}
		}
		return auth.Credentials{Username: name, Password: password}, nil
	// Token is what docker wrote before it knew Bearer, and Pier One's clients after it.
	case strings.EqualFold(scheme, "Bearer") && value != "", strings.EqualFold(scheme, "Token") && value != "":
		return auth.Credentials{Bearer: strings.TrimSpace(value)}, nil
	}
	return auth.Credentials{}, &errBadCredentials{rule: "malformed", reason: "the Authorization header is neither Basic nor Bearer nor Token"}
}

// signIn asks the authenticators. Their three refusals stay apart: wrong,
// too often, cannot say now.
func (s *Server) signIn(ex *exchange, r *http.Request, cred auth.Credentials) (identity, error) {
	cred.RemoteAddr = ex.remote
	if cred.Teams = teamsOf(r); len(cred.Teams) == 0 && ex.repository != "" {
		cred.Teams = []string{oci.Team(ex.repository)}
	}
	if ex.tried = cred.Username; auth.LooksLikeSecret(ex.tried) || auth.LooksLikeJWT(ex.tried) {
		ex.tried = "***" // a token in the wrong place, as some programs put it, is a secret all the same
	}
	p, err := s.auth.Authenticate(r.Context(), cred)
	if whose := auth.WrongWhose(err); whose != "" {
		ex.tried = whose
	}
	var throttled *auth.ThrottledError
	result := "ok"
	switch {
	case err == nil && p.IsAnonymous():
		result, err = "unavailable", oci.Errorf(oci.CodeUnknown, "the sign-in named nobody")
	case err == nil:
	case errors.As(err, &throttled):
		result = "throttled"
	case errors.Is(err, auth.ErrWrong), errors.Is(err, auth.ErrNotMine):
		result, err = "wrong", &errBadCredentials{rule: auth.WrongRule(err), reason: auth.WrongReason(err), cause: err}
	default:
		result, err = "unavailable", failClosed(err)
		if errors.Is(err, oci.ErrDenied) {
			result = "refused" // known, and may not sign in
		}
	}
	s.metrics.signIns.WithLabelValues(result).Inc()
	if err != nil {
		return identity{}, err
	}
	return identity{known: true, shown: true, principal: p}, nil
}

// bearerError tells a token that ran out from one that never was good.
func bearerError(err error) error {
	switch {
	case errors.Is(err, token.ErrExpired):
		return &errBadCredentials{rule: "token-expired", reason: strings.TrimPrefix(err.Error(), token.ErrExpired.Error()+": "), cause: err}
	case errors.Is(err, token.ErrInvalid):
		return &errBadCredentials{rule: "token-invalid", reason: strings.TrimPrefix(err.Error(), token.ErrInvalid.Error()+": "), cause: err}
	}
	return failClosed(err)
}

// refuseSignIn answers credentials that do not hold with a 401 and a challenge,
// and passes on everything else, such as a 503.
func (s *Server) refuseSignIn(ex *exchange, r *http.Request, err error) error {
	var bad *errBadCredentials
	if errors.Is(err, auth.ErrWrong) && !errors.As(err, &bad) {
		bad = &errBadCredentials{rule: auth.WrongRule(err), reason: auth.WrongReason(err), cause: err}
	}
	if bad == nil && !errors.As(err, &bad) {
		return failClosed(err)
	}
	return s.challenge(ex, r, "invalid_token", bad.reason, refusal{Rule: bad.rule, Ask: "sign in again, or fetch a new token"})
}

// challenge makes the 401 that tells a client where to fetch which token. Unless the
// settings say otherwise there is one challenge, Bearer: several clients take the first of two and stop.
func (s *Server) challenge(ex *exchange, r *http.Request, code, message string, why refusal) error {
	return s.challengeScope(ex, r, code, message, why, s.scope(ex))
}

func (s *Server) challengeScope(ex *exchange, r *http.Request, code, message string, why refusal, scope string) error {
	if why.Principal == "" {
		why.Principal = ex.principal().String()
	}
	why.Repository = ex.repository
	refused := oci.Errorf(oci.CodeUnauthorized, "%s", message).WithDetail(why)
	if ex.face.Basic {
		ex.Header().Set("WWW-Authenticate", `Basic realm="`+s.service+`"`)
		return refused
	}
	basic := `Basic realm="` + s.service + `"`
	// Who came with a bearer token knows how to get another one.
	scheme, _, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	asksBasic := strings.HasPrefix(r.URL.Path, "/v2") && !strings.EqualFold(scheme, "Bearer")
	if s.challenges == ChallengeBasic && asksBasic {
		ex.Header().Set("WWW-Authenticate", basic)
		return refused
	}
	base := s.baseURL(r)
	// A stranger can claim it, so it is said once and changes nothing.
	if strings.HasPrefix(base, "http://") && originOf(r, AnyProxy()).scheme == "https" {
		s.plainRealm.Do(func() {
			s.log.Warn("clients that came by https are sent to "+base+"/token with their passwords: set url (BERTH_URL) to the https address that they use, or trust_proxy to the proxy that says so", slog.String("id", ex.id))
		})
	}
	var b strings.Builder
	b.WriteString(`Bearer realm="` + base + `/token",service="` + s.service + `"`)
	if scope != "" {
		b.WriteString(`,scope="` + scope + `"`)
	}
	if code != "" {
		// Of a 401 with an error docker prints the description, and not the body; without one it has
		// a sentence of its own, that access is denied (RFC 6750 3, distribution's HandleErrorResponse).
		b.WriteString(`,error="` + code + `",error_description="` + description(message) + `"`)
	}
	ex.Header().Set("WWW-Authenticate", b.String())
	if s.challenges == ChallengeBoth && asksBasic {
		ex.Header().Add("WWW-Authenticate", basic)
	}
	return refused
}

// description is a sentence in the characters that RFC 6750 3 has for an error_description. It has no comma
// either, at which some clients part the challenge, quoted or not.
func description(message string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '"' || r == '\\':
			return '\''
		case r == ',':
			return ';'
		case r < ' ' || r > '~':
			return '?'
		}
		return r
	}, message)
}

// scope is what a token has to carry for the route, in the form that the token
// endpoint reads.
func (s *Server) scope(ex *exchange) string {
	switch need := ex.endpoint.need; need {
	case door.Catalog:
		return "registry:catalog:*"
	case door.Manage, door.Administer:
		return "berth:api:*"
	case door.Pull, door.Push, door.Delete:
		return "repository:" + ex.repository + ":" + scopeOf(need)
	}
	return ""
}

// mountSource picks the repository to mount a blob from: `from` when it is
// given, else any that has the blob, among those that the caller may pull from.
// "" is none, and then the client uploads the blob as if nobody had it: whether
// somebody has it, is not for this caller to know.
//
// The error is a challenge when a token that carries more would make the
// mount possible, as CNCF distribution does it: docker and the others ask for
// both repositories then.
func (s *Server) mountSource(ex *exchange, r *http.Request, from string, candidates []string) (string, error) {
	if from == "" && slices.Contains(candidates, ex.repository) {
		return ex.repository, nil
	}
	now, wider, err := s.mayPull(ex, r, candidates)
	switch {
	case err != nil:
		return "", err
	case len(now) > 0:
		return now[0], nil
	case len(wider) > 0:
		return "", s.challengeScope(ex, r, "insufficient_scope", "mounting from "+wider[0]+" needs a token that carries pull on it",
			refusal{Rule: "insufficient-scope", Missing: []string{"pull"}}, s.scope(ex)+" repository:"+wider[0]+":pull")
	}
	return "", nil
}
