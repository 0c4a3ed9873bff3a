// Package oauth2 signs in with the access tokens of an OAuth2 server, which come
// as a bearer string or, for docker, as the password of the user "oauth2". The
// server says whether a token holds: at a tokeninfo URL (Pier One's contract) or by
// token introspection (RFC 7662).
//
// What the answer means is in rights.go, where the user's teams come from is in
// teams.go, and client.go is how questions are asked. Start with [New].
package oauth2

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"net/http"
	"net/url"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/sync/singleflight"

	"berth/auth"
	"berth/oci"
)

// Username is the user name that says that the password is an access token.
const Username = "oauth2"

// Provider is the source of the users who sign in here.
const Provider = "oauth2"

// Limits of what is asked and remembered.
const (
	// MaxCacheTTL is the longest that an answer about a token is believed.
	MaxCacheTTL = 10 * time.Minute
	// wrongFor is how long a refused token is not asked about again. It is short, for
	// a token may be known to the server a moment later.
	wrongFor = 5 * time.Second
	// cached bounds the remembered tokens, at about 1 KiB each.
	cached = 4096
	// teamsFor is how long the answer of a team service is believed; a "no" about
	// one team is asked again earlier.
	teamsFor   = 5 * time.Minute
	notTeamFor = time.Minute
	// maxToken is the longest token in bytes, as long as the server takes in a header.
	maxToken = 16 << 10
	// maxCalls is how many questions are under way at a time. Others wait, within
	// their deadline.
	maxCalls = 32
	// perAddress is how many of them one address has for its sign-ins.
	perAddress = 8
)

// Options of an Authenticator. One of TokeninfoURL and IntrospectionURL is required.
type Options struct {
	// TokeninfoURL is asked with GET and ?access_token=.
	TokeninfoURL string
	// IntrospectionURL is asked as RFC 7662 says, with ClientID and ClientSecret.
	IntrospectionURL       string
	ClientID, ClientSecret string
	// NameClaim and SubjectClaim are the fields of the answer that hold the user's
	// name, and an id that the server gives to nobody else later. The default is uid
	// for both, or username and sub for introspection.
	NameClaim, SubjectClaim string
	// Audience has to be among the answer's aud; "" takes tokens for everybody.
	Audience string
	// Realms applies Pier One's rules of realm and scope; see rights.
	Realms bool

	// TeamClaim is the field of the answer that lists the user's teams.
	TeamClaim string
	// TeamServiceURL lists a user's teams at /api/accounts/aws?member=.
	TeamServiceURL string
	// KioURL has the team of a service user at /apps/{app}: the name without KioPrefix,
	// or what stands behind its last '_'. Realm /services only, when Realms is set.
	KioURL, KioPrefix string
	// PolicyURL says at /auth whether the holder of a token is in one team, under a Policy.
	PolicyURL, Policy string

	// Roots are the authorities of the servers' certificates; nil is the system's.
	Roots *x509.CertPool
	// Timeout bounds each question, its answer included; the default is 5 seconds.
	Timeout time.Duration
	// CacheTTL is how long an answer is believed at most; the default is 2 minutes.
	CacheTTL time.Duration
	// Observe is told of each sign-in: ok, wrong, refused, unavailable, or cached when
	// nobody was asked. nil tells nobody.
	Observe func(outcome string, took time.Duration)
	Clock   func() time.Time
}

// Authenticator recognises access tokens. It is also the auth.TeamService of the
// users who sign in here. Safe for concurrent use.
type Authenticator struct {
	o         Options
	directory *auth.Directory
	http      *http.Client
	slots     chan struct{}
	turns     *auth.Turns
	key       [32]byte // of the HMAC that hides tokens in the caches, new in every process

	verified *lru.Cache[[32]byte, verdict]
	flights  singleflight.Group
	// teams remembers what the team services said: of a user, or of a user and a team.
	teams *lru.Cache[string, membership]
	// bearers are the tokens that users showed last, to ask about their teams with.
	bearers *lru.Cache[int64, bearer]
}

// verdict is what was found out about a token.
type verdict struct {
	principal auth.Principal
	err       error
	until     time.Time
}

type membership struct {
	teams []string
	until time.Time
}

type bearer struct {
	token string
	kio   bool // it is of an application
	until time.Time
}

// New makes an Authenticator, or says what is wrong with the options.
func New(directory *auth.Directory, o Options) (*Authenticator, error) {
	if (o.TokeninfoURL == "") == (o.IntrospectionURL == "") {
		return nil, errors.New("oauth2: set either a tokeninfo URL or an introspection URL")
	}
	name, subject := "uid", "uid"
	if o.IntrospectionURL != "" {
		name, subject = "username", "sub"
	}
	if o.NameClaim == "" {
		o.NameClaim = name
	}
	if o.SubjectClaim == "" {
		o.SubjectClaim = subject
	}
	if o.Policy == "" {
		o.Policy = "relaxed-radical-agility"
	}
	if o.Timeout <= 0 {
		o.Timeout = 5 * time.Second
	}
	if o.CacheTTL <= 0 {
		o.CacheTTL = 2 * time.Minute
	}
	o.CacheTTL = min(o.CacheTTL, MaxCacheTTL)
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.Observe == nil {
		o.Observe = func(string, time.Duration) {}
	}
	for _, u := range []string{o.TokeninfoURL, o.IntrospectionURL, o.TeamServiceURL, o.KioURL, o.PolicyURL} {
		if err := ValidURL(u); u != "" && err != nil {
			return nil, err
		}
	}
	a := &Authenticator{o: o, directory: directory, http: newClient(o.Roots), slots: make(chan struct{}, maxCalls), turns: auth.NewTurns(perAddress)}
	_, _ = rand.Read(a.key[:]) // never fails: see crypto/rand
	a.verified, _ = lru.New[[32]byte, verdict](cached)
	a.teams, _ = lru.New[string, membership](cached)
	a.bearers, _ = lru.New[int64, bearer](cached) // they fail for a size that is not positive
	return a, nil
}

// tokenOf finds the access token. ours reports that the credentials are for
// this authenticator; an empty token among those is ignored.
func tokenOf(c auth.Credentials) (token string, ours bool) {
	if c.Bearer == "" {
		if c.Username != Username || auth.LooksLikeSecret(c.Password) {
			return "", false
		}
		if !isToken(c.Password) {
			return "", true
		}
		return c.Password, true
	}
	return c.Bearer, isToken(c.Bearer) && !auth.LooksLikeSecret(c.Bearer)
}

// isToken reports whether a string can be an access token: visible ASCII, as a
// header takes it (RFC 6750, section 2.1; some servers use more than b64token).
func isToken(s string) bool {
	if s == "" || len(s) > maxToken {
		return false
	}
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

// Unguessable reports whether the credentials are an access token as password.
func (a *Authenticator) Unguessable(c auth.Credentials) bool {
	_, ours := tokenOf(c)
	return ours
}

// Authenticate finds the user of an access token. It asks the OAuth2 server when nothing that it
// remembers still counts; else it reads one row. A token that holds and names nobody is a DENIED.
func (a *Authenticator) Authenticate(ctx context.Context, c auth.Credentials) (auth.Principal, error) {
	token, ours := tokenOf(c)
	switch {
	case !ours:
		return auth.Principal{}, auth.ErrNotMine
	case token == "":
		return auth.Principal{}, auth.Wrongf("the user %s needs an OAuth2 access token as password", Username)
	}
	key := a.hidden(token)
	if v, ok := a.verified.Get(key); ok && a.o.Clock().Before(v.until) {
		p, err := a.recall(ctx, v)
		if !errors.Is(err, auth.ErrNotMine) { // else the user's row is gone
			a.o.Observe("cached", 0)
			return p, err
		}
	}
	flight := a.flights.DoChan("token\x00"+string(key[:]), func() (any, error) {
		// One client that hangs up must not fail the others who show the same token.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*a.o.Timeout)
		defer cancel()
		began := a.o.Clock()
		release, err := a.turns.Take(ctx, c.RemoteAddr)
		if err != nil {
			a.o.Observe(outcome(err), a.o.Clock().Sub(began))
			return verdict{err: err}, nil
		}
		defer release()
		v := a.check(ctx, token)
		if v.until.After(began) {
			a.verified.Add(key, v)
		}
		a.o.Observe(outcome(v.err), a.o.Clock().Sub(began))
		return v, nil
	})
	select {
	case r := <-flight:
		v := r.Val.(verdict)
		return v.principal, v.err
	case <-ctx.Done():
		return auth.Principal{}, ctx.Err()
	}
}

// recall is a remembered verdict; a user who was disabled since is refused.
func (a *Authenticator) recall(ctx context.Context, v verdict) (auth.Principal, error) {
	if v.err != nil {
		return auth.Principal{}, v.err
	}
	return a.directory.Recall(ctx, v.principal)
}

// hidden is the key under which a token is remembered. It tells nothing about it.
func (a *Authenticator) hidden(token string) (key [32]byte) {
	mac := hmac.New(sha256.New, a.key[:])
	mac.Write([]byte(token))
	mac.Sum(key[:0])
	return key
}

// check asks about a token. A verdict whose until is zero is not to be remembered.
func (a *Authenticator) check(ctx context.Context, token string) verdict {
	began := a.o.Clock()
	fail := func(err error) verdict {
		if errors.Is(err, auth.ErrWrong) || errors.Is(err, oci.ErrDenied) {
			return verdict{err: err, until: began.Add(wrongFor)}
		}
		return verdict{err: unavailable(err)}
	}
	answer, err := a.ask(ctx, token)
	if err != nil {
		return fail(err)
	}
	u, err := a.user(answer, began)
	if err != nil {
		return fail(err)
	}
	p, err := a.directory.SignIn(ctx, auth.Identity{
		Provider: Provider, Subject: u.subject, Name: u.name, Teams: claimed(u), Claims: u.claims,
	})
	if err != nil {
		return fail(err)
	}
	p.Limit, p.Everywhere, p.AskTeams, p.Expires = u.limit, u.everywhere, a.asksTeams(u), u.expires
	until := began.Add(a.o.CacheTTL)
	if u.expires.Before(until) {
		until = u.expires
	}
	if p.AskTeams {
		a.bearers.Add(p.ID, bearer{token: token, kio: a.asksKio(u), until: until})
	}
	return verdict{principal: p, until: until}
}

// unavailable is the answer when it cannot be said now. The cause is for the log,
// and has no secret in it: see client.go.
func unavailable(err error) error {
	var e *oci.Error
	if errors.As(err, &e) {
		return err
	}
	return oci.Errorf(oci.CodeUnavailable, "the OAuth2 token cannot be checked now, try again later").WithCause(err)
}

func outcome(err error) string {
	switch {
	case err == nil:
		return "ok"
	case errors.Is(err, auth.ErrWrong):
		return "wrong"
	case errors.Is(err, oci.ErrDenied):
		return "refused"
	}
	return "unavailable"
}

// ValidURL checks the address of a server: https, or http on this machine itself.
func ValidURL(s string) error {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || u.User != nil || u.Fragment != "" || u.Scheme != "https" && !loopback(u) {
		return errors.New("write the URL as https://host/path (http:// only for localhost), without a user")
	}
	return nil
}
