// Package oidc accepts the tokens of OpenID providers: ID tokens of people, from
// the one provider of the settings, and tokens of jobs (GitHub Actions, GitLab,
// Kubernetes, Buildkite), from issuers that an administrator has let in, by the
// trust policies of teams.
//
// Start with [Authenticator]. issuer.go knows a provider's keys, people.go and
// jobs.go say who a verified token is, web.go signs people in with a browser.
package oidc

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"berth/auth"
	"berth/auth/outbound"
	"berth/metadata"
)

// MaxToken is the longest token that is looked at, in bytes.
const MaxToken = 16 << 10

const (
	// maxIssuers is how many issuers' keys are remembered.
	maxIssuers = 256
	// touchedMax is how many trust policies' last use is remembered.
	touchedMax = 4096
	// maxAudiences is how many audiences of a token are looked at.
	maxAudiences = 8
)

// Options of an Authenticator. DB is required.
type Options struct {
	DB *metadata.DB
	// People is the provider that vouches for people; nil is none.
	People *People
	// TrustedIssuers are issuers of jobs' tokens that the operator vouches for, beside
	// those that the database lists. Only these may be at an address that is not of the
	// public Internet, or at http:// on this machine.
	TrustedIssuers []string
	// Roots are the certificate authorities of the people's provider and of
	// TrustedIssuers; nil is the system's.
	Roots *x509.CertPool
	// Algorithms are the signing algorithms (RFC 7518) that are taken; the default is
	// RS256, ES256, ES384, PS256 and EdDSA. Those with a shared key are refused.
	Algorithms []string
	// Log gets what no client is told; nil discards. Clock is time.Now by default.
	Log   *slog.Logger
	Clock func() time.Time
}

// algorithms are those that a provider's public key can verify.
var algorithms = []string{"RS256", "RS384", "RS512", "ES256", "ES384", "ES512", "PS256", "PS384", "PS512", "EdDSA"}

// DefaultAlgorithms are those that are taken when the settings name none.
var DefaultAlgorithms = []string{"RS256", "ES256", "ES384", "PS256", "EdDSA"}

// CheckAlgorithms reports whether all names are algorithms that can be taken.
func CheckAlgorithms(names []string) error {
	for _, name := range names {
		if !slices.Contains(algorithms, name) {
			return fmt.Errorf("%.20q is no signing algorithm that can be taken: use some of %s", name, strings.Join(algorithms, ", "))
		}
	}
	return nil
}

// Authenticator recognises tokens of OpenID providers, as a bearer token or as a
// password with any user name. It asks a provider for the first time when
// somebody shows a token of it. Safe for concurrent use.
type Authenticator struct {
	options   Options
	directory *auth.Directory
	operator  *http.Client // for issuers that the operator vouches for
	public    *http.Client // for issuers that come from the database
	issuers   *lru.Cache[string, *issuer]
	touched   *lru.Cache[int64, time.Time]
}

// New makes an Authenticator. The error says which option is wrong.
func New(o Options) (*Authenticator, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if len(o.Algorithms) == 0 {
		o.Algorithms = DefaultAlgorithms
	}
	if err := CheckAlgorithms(o.Algorithms); err != nil {
		return nil, err
	}
	if o.People != nil {
		if err := o.People.check(); err != nil {
			return nil, err
		}
	}
	for _, url := range o.TrustedIssuers {
		if err := auth.CheckIssuer(url, true); err != nil {
			return nil, err
		}
	}
	issuers, err := lru.New[string, *issuer](maxIssuers)
	if err != nil {
		return nil, err
	}
	touched, err := lru.New[int64, time.Time](touchedMax)
	if err != nil {
		return nil, err
	}
	return &Authenticator{
		options:   o,
		directory: auth.NewDirectory(o.DB, o.Log, o.Clock),
		operator:  outbound.New(outbound.Options{LoopbackHTTP: true, Roots: o.Roots}),
		public:    outbound.New(outbound.Options{PublicOnly: true}),
		issuers:   issuers,
		touched:   touched,
	}, nil
}

// Authenticate says who shows a token. It is not this authenticator's when it is
// no JSON Web Token, or when its issuer is nobody's who is trusted here.
func (a *Authenticator) Authenticate(ctx context.Context, c auth.Credentials) (auth.Principal, error) {
	raw := c.Bearer
	if raw == "" {
		raw = c.Password
	}
	url, ok := issuerOf(raw)
	if !ok {
		return auth.Principal{}, auth.ErrNotMine
	}
	people := a.options.People != nil && url == a.options.People.Issuer
	listed := slices.Contains(a.options.TrustedIssuers, url)
	jobs := listed
	if !jobs {
		if err := a.options.DB.View(ctx, func(tx *metadata.Tx) (err error) {
			jobs, err = tx.HasTrustIssuer(ctx, url)
			return err
		}); err != nil {
			return auth.Principal{}, fmt.Errorf("looking up the issuer of a token: %w", err)
		}
	}
	switch {
	case !people && !jobs:
		return auth.Principal{}, auth.ErrNotMine
	case len(raw) > MaxToken:
		return auth.Principal{}, auth.Wrongf("the token has %d bytes, the limit is %d", len(raw), MaxToken)
	}
	t, err := a.issuer(url, people || listed).verify(ctx, raw)
	if err != nil {
		return auth.Principal{}, err
	}
	if people && a.options.People.addressed(t) {
		return a.person(ctx, t)
	}
	if jobs {
		return a.job(ctx, t, c)
	}
	return auth.Principal{}, auth.Wrongf("the token is for the audience %s, and here it has to be %s", quoted(t.audience), quoted(a.options.People.audiences()))
}

// issuer gives what is known of an issuer. vouched is one that the operator named.
func (a *Authenticator) issuer(url string, vouched bool) *issuer {
	if i, ok := a.issuers.Get(url); ok && i.vouched == vouched {
		return i
	}
	client := a.public
	if vouched {
		client = a.operator
	}
	i := newIssuer(url, vouched, client, a.options)
	a.issuers.Add(url, i)
	return i
}

// maxUnverified bounds a credential that is decoded to find its issuer, in bytes.
const maxUnverified = 64 << 10

// issuerOf reads the issuer of a JSON Web Token, unverified: it is to know whom to
// ask, and nothing else.
func issuerOf(raw string) (string, bool) {
	if len(raw) > maxUnverified || !auth.LooksLikeJWT(raw) {
		return "", false
	}
	payload, err := base64.RawURLEncoding.DecodeString(strings.Split(raw, ".")[1])
	if err != nil {
		return "", false
	}
	var c struct {
		Issuer string `json:"iss"`
	}
	if json.Unmarshal(payload, &c) != nil || auth.CheckIssuer(c.Issuer, true) != nil {
		return "", false
	}
	return c.Issuer, true
}

func quoted(list []string) string {
	parts := make([]string, 0, len(list))
	for _, s := range list[:min(len(list), maxAudiences)] {
		parts = append(parts, fmt.Sprintf("%.80q", s))
	}
	if len(parts) == 0 {
		return "nobody"
	}
	return strings.Join(parts, " or ")
}

// claims are those of a verified token, as JSON has them.
type claims map[string]any

// values gives the values of a claim as text: of a list every item, of an object and
// of a claim that is missing none. The name of a nested claim is joined with
// dots; names may have dots themselves (Kubernetes has "kubernetes.io").
func (c claims) values(name string) []string {
	v, ok := find(c, name)
	if !ok {
		return nil
	}
	if list, ok := v.([]any); ok {
		var all []string
		for _, item := range list {
			if s, ok := text(item); ok {
				all = append(all, s)
			}
		}
		return all
	}
	if s, ok := text(v); ok {
		return []string{s}
	}
	return nil
}

// value is the only value of a claim, or "".
func (c claims) value(name string) string {
	if all := c.values(name); len(all) == 1 {
		return all[0]
	}
	return ""
}

// find looks a claim up: the whole name first, then every way to divide it.
func find(in map[string]any, name string) (any, bool) {
	if v, ok := in[name]; ok {
		return v, true
	}
	for i := range len(name) {
		if name[i] != '.' {
			continue
		}
		if inner, ok := in[name[:i]].(map[string]any); ok {
			if v, ok := find(inner, name[i+1:]); ok {
				return v, true
			}
		}
	}
	return nil, false
}

func text(v any) (string, bool) {
	switch v := v.(type) {
	case string:
		return v, true
	case json.Number:
		return v.String(), true
	case bool:
		return fmt.Sprint(v), true
	}
	return "", false
}

// keep makes Principal.Claims: what is there already, then the named claims as
// long as there is room.
func keep(kept map[string]string, c claims, names ...string) map[string]string {
	out := make(map[string]string, auth.MaxClaims)
	for name, v := range kept {
		out[name] = v
	}
	for _, name := range names {
		if _, ok := out[name]; ok || len(out) == auth.MaxClaims {
			continue
		}
		if all := c.values(name); len(all) > 0 {
			out[name] = auth.ClipClaim(strings.Join(all, " "))
		}
	}
	return out
}

// errNoPeople says that nobody can sign in with a browser.
var errNoPeople = errors.New("no OpenID provider for people is set: see oidc_issuer")

// SignIn is what a program on somebody's computer needs to sign in.
type SignIn struct {
	Issuer   string   `json:"issuer"`
	ClientID string   `json:"client_id"`
	Scopes   []string `json:"scopes"`
}

// SignIn gives what programs need to sign people in, or false when there is no
// provider for people. None of it is secret.
func (a *Authenticator) SignIn() (SignIn, bool) {
	p := a.options.People
	if p == nil {
		return SignIn{}, false
	}
	return SignIn{Issuer: p.Issuer, ClientID: p.programClient(), Scopes: p.Scopes}, true
}

// askable reports whether an address in a provider's document can be asked: https,
// or http on this machine, which the client for unvouched issuers refuses.
func askable(raw string) bool {
	u, err := url.Parse(raw)
	return err == nil && u.Host != "" && (u.Scheme == "https" || outbound.IsLoopbackHTTP(u))
}
