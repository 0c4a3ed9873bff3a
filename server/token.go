package server

import (
	"errors"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"time"

	"berth/auth"
	"berth/auth/token"
	"berth/oci"
)

// The token endpoint, in both forms of docker's token specification: GET with
// Basic or nothing, and POST with an OAuth2 form. What it grants is what was
// asked for and is allowed; a right that is missing is left out and no error.

// maxTokenForm bounds the body of a POST, in bytes.
const maxTokenForm = 64 << 10

// tokenAnswer is the body of a success. Some clients read token, others
// access_token.
type tokenAnswer struct {
	Token        string `json:"token"`
	AccessToken  string `json:"access_token"`
	ExpiresIn    int    `json:"expires_in"` // seconds
	IssuedAt     string `json:"issued_at"`
	Scope        string `json:"scope,omitempty"`
	RefreshToken string `json:"refresh_token,omitempty"`
	TokenType    string `json:"token_type,omitempty"`
	// IssuedTokenType is for a token exchange alone (RFC 8693, section 2.2.1).
	IssuedTokenType string `json:"issued_token_type,omitempty"`
}

func (s *Server) getToken(ex *exchange, r *http.Request) error {
	q := r.URL.Query()
	other, err := s.otherService(r.Context(), q["service"])
	if err != nil {
		return err
	}
	id := identity{known: true, principal: auth.Anonymous()}
	shown := ""
	if header := r.Header.Get("Authorization"); header != "" {
		scheme, value, _ := strings.Cut(header, " ")
		if bearer := strings.TrimSpace(value); strings.EqualFold(scheme, "Bearer") && token.LooksLike(bearer) && !s.tokens.Foreign(bearer) {
			// One that ends could otherwise live for ever.
			return s.refuseToken(ex, &errBadCredentials{rule: "credentials", reason: "a bearer token cannot be exchanged for another one: sign in with name and password, or a refresh token"})
		}
		cred, err := credentials(scheme, value)
		if err == nil {
			id, err = s.signIn(ex, r, cred)
		}
		if err != nil {
			return s.refuseToken(ex, err)
		}
		shown = cred.Username
	}
	ex.identity = id
	if err := s.authorizeNetwork(ex); err != nil {
		return err
	}
	if other != nil {
		return s.grantOther(ex, r, other, q["scope"], q["account"], shown, q.Get("offline_token") == "true")
	}
	if err := s.checkAccount(ex, q["account"], shown); err != nil {
		return err
	}
	refresh := s.offlineTokens && q.Get("offline_token") == "true" && !id.principal.IsAnonymous()
	return s.grant(ex, r, q["scope"], refresh)
}

func (s *Server) postToken(ex *exchange, r *http.Request) error {
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/x-www-form-urlencoded" {
		return oci.Errorf(oci.CodeInvalid, "the body must be an OAuth2 form: set Content-Type to application/x-www-form-urlencoded")
	}
	r.Body = http.MaxBytesReader(nil, r.Body, maxTokenForm)
	if err := r.ParseForm(); err != nil {
		return oci.Errorf(oci.CodeInvalid, "the form cannot be read: it has to be at most %d bytes of application/x-www-form-urlencoded", maxTokenForm).WithCause(err)
	}
	form := r.PostForm // never the query, which ends up in logs
	for name, values := range form {
		if !oci.IsText(name + strings.Join(values, "")) {
			return errNotText()
		}
	}
	other, err := s.otherService(r.Context(), form["service"])
	if err != nil {
		return err
	}
	service := s.service
	if other != nil {
		service = other.Name
	}
	var id identity
	switch grant := form.Get("grant_type"); grant {
	case "password":
		id, err = s.signIn(ex, r, auth.Credentials{Username: form.Get("username"), Password: form.Get("password")})
	case "refresh_token":
		id, err = s.refresh(r, form.Get("refresh_token"), service)
	case grantExchange:
		id, err = s.exchangeToken(ex, r, form)
	default:
		return oci.Errorf(oci.CodeInvalid, "the grant_type %.80q is not supported, use password, refresh_token or %s", grant, grantExchange)
	}
	if err != nil {
		return s.refuseToken(ex, err)
	}
	ex.identity = id
	if err := s.authorizeNetwork(ex); err != nil {
		return err
	}
	// A client that came with a refresh token keeps it: its life is not prolonged
	// by use.
	offline := form.Get("access_type") == "offline" && form.Get("grant_type") == "password"
	if other != nil {
		return s.grantOther(ex, r, other, form["scope"], form["account"], form.Get("username"), offline)
	}
	if err := s.checkAccount(ex, form["account"], form.Get("username")); err != nil {
		return err
	}
	return s.grant(ex, r, form["scope"], offline)
}

// The words of RFC 8693, OAuth 2.0 Token Exchange.
const (
	grantExchange   = "urn:ietf:params:oauth:grant-type:token-exchange"
	typeIDToken     = "urn:ietf:params:oauth:token-type:id_token"
	typeJWT         = "urn:ietf:params:oauth:token-type:jwt"
	typeAccessToken = "urn:ietf:params:oauth:token-type:access_token"
)

// exchangeToken signs in with a token of an identity provider. A token of our own
// is none: one that ends could otherwise live for ever. The user name is no
// word of the RFC; it says which robot a job wants to be, as with a password.
func (s *Server) exchangeToken(ex *exchange, r *http.Request, form url.Values) (identity, error) {
	subject := form.Get("subject_token")
	switch kind := form.Get("subject_token_type"); {
	case subject == "":
		return identity{}, oci.Errorf(oci.CodeInvalid, "the field subject_token is missing: it is the token to exchange")
	case kind != typeIDToken && kind != typeJWT && kind != typeAccessToken:
		return identity{}, oci.Errorf(oci.CodeInvalid, "the subject_token_type %.80q is not supported, use %s", kind, typeIDToken)
	case form.Has("actor_token"):
		return identity{}, oci.Errorf(oci.CodeInvalid, "an actor_token is not supported: nobody acts here for somebody else")
	}
	if wanted := form.Get("requested_token_type"); wanted != "" && wanted != typeAccessToken && wanted != typeJWT {
		return identity{}, oci.Errorf(oci.CodeInvalid, "the requested_token_type %.80q is not supported, leave it out", wanted)
	}
	if !token.LooksLike(subject) || !s.tokens.Foreign(subject) {
		return identity{}, &errBadCredentials{rule: "credentials", reason: "the subject_token is no token of an identity provider: one of this registry cannot be exchanged for another one"}
	}
	return s.signIn(ex, r, auth.Credentials{Username: form.Get("username"), Password: subject})
}

// refresh signs in with a refresh token for a service, and with who its bearer
// is today.
func (s *Server) refresh(r *http.Request, raw, service string) (identity, error) {
	if s.refresher == nil {
		return identity{}, &errBadCredentials{rule: "credentials", reason: "this registry issues no refresh tokens: sign in with name and password"}
	}
	claims, err := s.tokens.VerifyRefresh(r.Context(), raw, service)
	if err != nil {
		return identity{}, bearerError(err)
	}
	p, err := s.refresher.Recheck(r.Context(), claims.Principal, claims.Proof)
	if err != nil {
		return identity{}, err
	}
	return identity{known: true, shown: true, principal: p}, nil
}

// refuseToken answers wrong credentials with a 401 and a Basic challenge: it is
// what this endpoint takes.
func (s *Server) refuseToken(ex *exchange, err error) error {
	var bad *errBadCredentials
	if !errors.As(err, &bad) {
		if !errors.Is(err, auth.ErrWrong) {
			return failClosed(err)
		}
		bad = &errBadCredentials{rule: auth.WrongRule(err), reason: auth.WrongReason(err)}
	}
	ex.Header().Set("WWW-Authenticate", `Basic realm="`+s.service+`"`)
	return oci.Errorf(oci.CodeUnauthorized, "%s", bad.reason).
		WithDetail(refusal{Rule: bad.rule, Ask: "an administrator of this registry, for a new password or token"}).WithCause(err)
}

// grant answers with a token of our own for what was asked and is allowed.
func (s *Server) grant(ex *exchange, r *http.Request, scopes []string, refresh bool) error {
	asked, err := parseScopes(scopes)
	if err != nil {
		return err
	}
	ex.identity.principal.RemoteAddr = ex.remote
	p := ex.identity.principal
	names := repositoriesOf(asked)
	decisions, err := s.policy.Asked(r.Context(), p, names, actionsOf(asked))
	if err != nil {
		return failClosed(err)
	}
	access := make([]token.Access, 0, len(asked))
	for _, sc := range asked {
		if granted := sc.granted(p, decisions); len(granted) > 0 {
			access = append(access, token.Access{Type: sc.kind, Class: sc.class, Name: sc.name, Actions: granted})
		}
	}
	now := s.clock()
	raw, expires, err := s.tokens.Issue(r.Context(), p, s.service, access)
	if err != nil {
		return err
	}
	return s.answerToken(ex, r, issued{raw, s.service, access, now, expires}, refresh)
}

// teamsOf names the teams of the repositories that the token endpoint is asked about.
func teamsOf(r *http.Request) (teams []string) {
	if r.URL.Path != "/token" {
		return nil
	}
	params := r.URL.Query()["scope"]
	if r.Method == http.MethodPost {
		params = r.PostForm["scope"]
	}
	asked, err := parseScopes(params)
	if err != nil {
		return nil // and refused for it later
	}
	for _, name := range repositoriesOf(asked) {
		teams = append(teams, oci.Team(name))
	}
	return teams
}

// repositoriesOf names the repositories that scopes are about.
func repositoriesOf(asked []scope) (names []string) {
	for _, sc := range asked {
		if sc.kind == "repository" {
			names = append(names, sc.name)
		}
	}
	return names
}

// actionsOf gives what scopes ask for on a repository.
func actionsOf(asked []scope) func(repository string) auth.Actions {
	wanted := map[string]auth.Actions{}
	for _, sc := range asked {
		if sc.kind != "repository" {
			continue
		}
		actions, all := sc.asked()
		if all {
			actions = auth.AllActions
		}
		wanted[sc.name] |= actions
	}
	return func(repository string) auth.Actions { return wanted[repository] }
}

// issued is a token that was made.
type issued struct {
	raw         string
	service     string
	access      []token.Access
	at, expires time.Time
}

// answerToken writes the answer, with a refresh token when one is wanted and the
// caller can have one.
func (s *Server) answerToken(ex *exchange, r *http.Request, made issued, refresh bool) error {
	p := ex.identity.principal
	answer := tokenAnswer{
		Token: made.raw, AccessToken: made.raw,
		ExpiresIn: int(made.expires.Sub(made.at) / time.Second),
		IssuedAt:  made.at.UTC().Format(time.RFC3339),
		Scope:     scopeText(made.access),
	}
	if r.Method == http.MethodPost {
		answer.TokenType = "Bearer"
		if r.PostForm.Get("grant_type") == grantExchange {
			answer.IssuedTokenType = typeAccessToken
		}
	}
	// Who is known by a credential of somebody else that ends shows the next one. A refresh
	// token for a token of ours ends with it.
	if refresh && s.refresher != nil && (p.Expires.IsZero() || p.TokenID != 0) {
		proof, err := s.refresher.Proof(r.Context(), p)
		switch {
		case errors.Is(err, auth.ErrNoRefresh): // then the client shows the credential each time
		case err != nil:
			return s.refuseToken(ex, err)
		default:
			if answer.RefreshToken, err = s.tokens.IssueRefresh(r.Context(), p, made.service, proof); err != nil {
				return err
			}
		}
	}
	s.metrics.tokens.Inc()
	ex.Header().Set("Cache-Control", "no-store")
	writeJSON(ex, "application/json", http.StatusOK, answer)
	return nil
}

// scope is one resource that a token is asked for: type:name:action,action.
type scope struct {
	kind, class, name string
	actions           []string
}

// asked reads the actions of a scope; all is that "*" is among them. A word that is no
// action asks for nothing.
func (sc scope) asked() (asked auth.Actions, all bool) {
	for _, name := range sc.actions {
		action, _ := auth.ParseAction(name)
		asked |= action
		all = all || name == "*"
	}
	return asked, all
}

// granted is what of a scope is allowed, in a fixed order.
func (sc scope) granted(p auth.Principal, decisions map[string]auth.Decision) []string {
	asked, all := sc.asked()
	switch {
	case sc.kind == "repository":
		allowed := decisions[sc.name].Actions
		if all { // skopeo delete asks so
			return allowed.Names()
		}
		return (asked & allowed).Names()
	// The catalog lists what its reader may pull, so everybody may read it.
	case sc.kind == "registry" && sc.name == "catalog" && all:
		return []string{"*"}
	case sc.kind == "berth" && sc.name == "api" && all && p.MayManage():
		return []string{"*"}
	}
	return nil
}

// parseScopes reads scope parameters, each of which may hold several scopes. One
// that is malformed is left out: it grants nothing. The error is an INVALID for
// more than a token can hold.
func parseScopes(params []string) ([]scope, error) {
	var all []scope
	seen := map[[2]string]int{}
	count := 0
	for _, param := range params {
		for text := range strings.FieldsSeq(param) {
			if count++; count > token.MaxAccess {
				return nil, oci.Errorf(oci.CodeInvalid, "more than %d scopes were asked for: ask for several tokens", token.MaxAccess)
			}
			sc, ok := parseScope(text)
			if !ok {
				continue
			}
			key := [2]string{sc.kind, sc.name}
			if i, ok := seen[key]; ok {
				all[i].actions = append(all[i].actions, sc.actions...)
				continue
			}
			seen[key] = len(all)
			all = append(all, sc)
		}
	}
	return all, nil
}

// maxScopeActions bounds the actions of one scope.
const maxScopeActions = 16

// parseScope reads type[(class)]:name:actions. A name may hold colons, so the
// first and the last one count.
func parseScope(text string) (sc scope, ok bool) {
	first, last := strings.IndexByte(text, ':'), strings.LastIndexByte(text, ':')
	if first <= 0 || last <= first+1 || last == len(text)-1 {
		return scope{}, false
	}
	sc = scope{kind: text[:first], name: text[first+1 : last], actions: strings.Split(text[last+1:], ",")}
	if kind, class, found := strings.Cut(sc.kind, "("); found {
		if class, found = strings.CutSuffix(class, ")"); !found || !word(class) {
			return scope{}, false
		}
		sc.kind, sc.class = kind, class
	}
	if !word(sc.kind) || len(sc.actions) > maxScopeActions {
		return scope{}, false
	}
	if sc.kind == "repository" {
		if _, err := oci.ParseName(sc.name); err != nil {
			return scope{}, false
		}
	}
	return sc, true
}

// word reports whether s is 1 to 32 lower-case letters and digits.
func word(s string) bool {
	if s == "" || len(s) > 32 {
		return false
	}
	for i := range len(s) {
		if c := s[i]; !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9') {
			return false
		}
	}
	return true
}

// scopeText writes granted access as scopes.
func scopeText(access []token.Access) string {
	parts := make([]string, len(access))
	for i, a := range access {
		kind := a.Type
		if a.Class != "" {
			kind += "(" + a.Class + ")"
		}
		parts[i] = kind + ":" + a.Name + ":" + strings.Join(a.Actions, ",")
	}
	return strings.Join(parts, " ")
}

// query reads a request's parameters once. Parameters that are malformed are
// an INVALID, and not silently left out.
func query(r *http.Request) (url.Values, error) {
	if r.URL.RawQuery == "" {
		return nil, nil
	}
	q, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, oci.Errorf(oci.CodeInvalid, "the query of the URL is malformed: escape special characters with %%").WithCause(err)
	}
	return q, nil
}
