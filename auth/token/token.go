// Package token makes and checks the bearer tokens of the registry protocol:
// JSON Web Tokens in the form that docker's token specification gives, signed
// by keys that live in the database, so that every replica takes what any of
// them issued. It issues them for the registry itself, and for other services
// (registries) that delegate their sign-in to it, each with keys of its own.
//
// A token carries who its bearer is and which access was granted to it; the
// holder of a token needs no look-up until it expires. Start with [Issuer];
// [Keys] are made, published, rotated and retired in keys.go.
package token

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
	lru "github.com/hashicorp/golang-lru/v2"

	"berth/auth"
	"berth/metadata"
	"berth/oci"
)

// Limits of what is issued and accepted.
const (
	// MaxSize is the longest token in bytes.
	MaxSize = 16 << 10
	// MaxAccess is the largest number of access entries in a token.
	MaxAccess = 100

	// notBeforeLeeway forgives a replica whose clock is ahead.
	notBeforeLeeway = 60 * time.Second
	// Verified tokens are remembered, for checking a signature takes longer than
	// everything else in a HEAD. Larger tokens are checked each time, so that the
	// memory is bounded: 4096 * 4 KiB.
	cachedTokens   = 4096
	cachedTokenMax = 4 << 10
)

// ErrExpired says that a token was good once: its bearer should fetch a new one.
var ErrExpired = errors.New("token: expired")

// ErrInvalid says that a token is not ours, is for another service, or has
// been altered.
var ErrInvalid = errors.New("token: not valid")

// Access is one grant, as docker's token specification writes it in the claim
// "access": for example {"repository", "team/app", ["pull", "push"]}.
type Access struct {
	Type    string   `json:"type"`
	Class   string   `json:"class,omitempty"`
	Name    string   `json:"name"`
	Actions []string `json:"actions"`
}

// Claims are what a verified token says. They are shared and must not be changed.
type Claims struct {
	Principal auth.Principal
	Access    []Access
	ExpiresAt time.Time
	// Proof is empty but for refresh tokens; see auth.Refresher.
	Proof string

	service   string
	kid       string
	notBefore time.Time
}

// Allows reports whether the token grants an action on a resource.
func (c *Claims) Allows(typ, name, action string) bool {
	for i := range c.Access {
		a := &c.Access[i]
		if a.Type != typ || a.Name != name {
			continue
		}
		for _, granted := range a.Actions {
			if granted == action {
				return true
			}
		}
	}
	return false
}

// Actions gives what the token grants on a repository.
func (c *Claims) Actions(repository string) auth.Actions {
	var set auth.Actions
	for i := range c.Access {
		if a := &c.Access[i]; a.Type == "repository" && a.Name == repository {
			for _, name := range a.Actions {
				action, _ := auth.ParseAction(name)
				set |= action
			}
		}
	}
	return set
}

// bearer is the principal as it travels in a token.
type bearer struct {
	Kind   auth.Kind         `json:"kind"`
	ID     int64             `json:"id,omitempty"`
	Name   string            `json:"name,omitempty"`
	Admin  bool              `json:"admin,omitempty"`
	TeamID int64             `json:"team_id,omitempty"`
	Team   string            `json:"team,omitempty"`
	Token  int64             `json:"token_id,omitempty"`
	Secret int64             `json:"secret_id,omitempty"`
	Trust  int64             `json:"trust_id,omitempty"`
	Limit  *limit            `json:"limit,omitempty"`
	Every  []string          `json:"everywhere,omitempty"`
	Ask    bool              `json:"ask_teams,omitempty"`
	Claims map[string]string `json:"claims,omitempty"`
	// Ends is when the credential ends for which the token was given, in seconds since
	// 1970; 0 is never. The token itself may end earlier.
	Ends   int64 `json:"ends,omitempty"`
	Person bool  `json:"person,omitempty"`
}

type limit struct {
	Repositories string   `json:"repositories"`
	Actions      []string `json:"actions"`
	Tags         string   `json:"tags,omitempty"`
	CIDRs        []string `json:"cidrs,omitempty"`
}

func bearerOf(p auth.Principal) *bearer {
	b := &bearer{Kind: p.Kind, ID: p.ID, Name: p.Name, Admin: p.Admin, TeamID: p.TeamID, Team: p.Team, Token: p.TokenID, Secret: p.SecretID, Trust: p.TrustID, Every: p.Everywhere.Names(), Ask: p.AskTeams, Claims: p.Claims, Person: p.Person}
	if !p.Expires.IsZero() {
		b.Ends = p.Expires.Unix()
	}
	if l := p.Limit; l != nil {
		b.Limit = &limit{l.Repositories, l.Actions.Names(), l.Tags, l.CIDRs}
	}
	return b
}

func (b *bearer) principal() (auth.Principal, error) {
	p := auth.Principal{Kind: b.Kind, ID: b.ID, Name: b.Name, Admin: b.Admin, TeamID: b.TeamID, Team: b.Team, TokenID: b.Token, SecretID: b.Secret, TrustID: b.Trust, AskTeams: b.Ask, Claims: b.Claims, Person: b.Person}
	if b.Ends != 0 {
		p.Expires = time.Unix(b.Ends, 0)
	}
	var err error
	if p.Everywhere, err = auth.ParseActions(b.Every); err != nil {
		return p, fmt.Errorf("%w: the token has a right that this version does not know", ErrInvalid)
	}
	if l := b.Limit; l != nil {
		actions, err := auth.ParseActions(l.Actions)
		if err != nil {
			return p, fmt.Errorf("%w: the token has a limit that this version does not know", ErrInvalid)
		}
		p.Limit = &auth.Limit{Repositories: l.Repositories, Actions: actions, Tags: l.Tags, CIDRs: l.CIDRs}
	}
	return p, nil
}

// claims are the JSON of a token.
type claims struct {
	jwt.RegisteredClaims
	Access []Access `json:"access"`
	Bearer *bearer  `json:"berth"`
	Proof  string   `json:"proof,omitempty"`
}

// Options of an Issuer. The zero value is usable.
type Options struct {
	// Issuer is the claim "iss"; the default is "berth". All replicas, and all
	// that verify, use the same.
	Issuer string
	// TTL is the life of an access token; the default is 5 minutes. A right that
	// is taken away ends with the tokens that carry it.
	TTL time.Duration
	// RefreshTTL is the life of a refresh token; the default is 90 days. It is
	// checked against the database at each use.
	RefreshTTL time.Duration
	// Clock is the database's by default.
	Clock func() time.Time
	// Keys say how keys are made and changed.
	Keys KeyOptions
}

// Issuer issues and verifies tokens. Safe for concurrent use.
type Issuer struct {
	options Options
	keys    *Keys
	cache   *lru.Cache[string, *Claims]
	parser  *jwt.Parser
}

// New makes an Issuer with the keys of the database. The first one ever makes
// the key; when several replicas start at the same time, one of them does.
func New(ctx context.Context, db *metadata.DB, o Options) (*Issuer, error) {
	if o.Issuer == "" {
		o.Issuer = "berth"
	}
	if o.TTL <= 0 {
		o.TTL = 5 * time.Minute
	}
	if o.RefreshTTL <= 0 {
		o.RefreshTTL = 90 * 24 * time.Hour
	}
	if o.Clock == nil {
		o.Clock = db.Now
	}
	keys, err := openKeys(ctx, db, o.Clock, max(o.TTL, o.RefreshTTL), o.Keys)
	if err != nil {
		return nil, fmt.Errorf("signing keys: %w", err)
	}
	cache, err := lru.New[string, *Claims](cachedTokens)
	if err != nil {
		return nil, err
	}
	return &Issuer{
		options: o,
		keys:    keys,
		cache:   cache,
		// The claims are checked in verify, where the reasons can be told apart.
		parser: jwt.NewParser(jwt.WithValidMethods(Algorithms()), jwt.WithStrictDecoding(), jwt.WithoutClaimsValidation()),
	}, nil
}

// Keys are the signing keys.
func (i *Issuer) Keys() *Keys { return i.keys }

// TTL is the life of an access token.
func (i *Issuer) TTL() time.Duration { return i.options.TTL }

// Issue makes an access token for a service. The access is what somebody
// decided to grant; nothing is checked here. It ends with its TTL, or with
// Principal.Expires when that is earlier. The error is an INVALID when the
// access is too long for a token.
func (i *Issuer) Issue(ctx context.Context, p auth.Principal, service string, access []Access) (raw string, expires time.Time, err error) {
	return i.issue(ctx, p, service, access, "", i.options.TTL)
}

// IssueRefresh makes a refresh token for a service: it opens nothing but the
// token endpoint. The proof, from auth.Refresher, binds it to the credential
// it was made for.
func (i *Issuer) IssueRefresh(ctx context.Context, p auth.Principal, service, proof string) (string, error) {
	if proof == "" {
		return "", errors.New("a refresh token needs a proof")
	}
	raw, _, err := i.issue(ctx, p, refreshAudience(service), nil, proof, i.options.RefreshTTL)
	return raw, err
}

// refreshAudience makes a refresh token worthless as an access token, and the
// other way round. No service has a name that begins so.
func refreshAudience(service string) string { return "refresh " + service }

func (i *Issuer) issue(ctx context.Context, p auth.Principal, audience string, access []Access, proof string, ttl time.Duration) (string, time.Time, error) {
	if len(access) > MaxAccess {
		return "", time.Time{}, oci.Errorf(oci.CodeInvalid, "a token can hold %d scopes, %d were asked for: ask for several tokens", MaxAccess, len(access))
	}
	k, err := i.keys.signing(ctx, metadata.Service{Algorithm: i.keys.options.Algorithm})
	if err != nil {
		return "", time.Time{}, err
	}
	if access == nil {
		access = []Access{}
	}
	now := i.options.Clock()
	expires := now.Add(ttl)
	if !p.Expires.IsZero() && p.Expires.Before(expires) {
		expires = p.Expires
	}
	b := bearerOf(p)
	var id [16]byte
	_, _ = rand.Read(id[:]) // never fails: see crypto/rand
	t := jwt.NewWithClaims(signingMethod(k.algorithm), &claims{
		RegisteredClaims: jwt.RegisteredClaims{
			Issuer:    i.options.Issuer,
			Subject:   p.String(),
			Audience:  jwt.ClaimStrings{audience},
			ExpiresAt: jwt.NewNumericDate(expires),
			NotBefore: jwt.NewNumericDate(now),
			IssuedAt:  jwt.NewNumericDate(now),
			ID:        hex.EncodeToString(id[:]),
		},
		Access: access,
		Bearer: b,
		Proof:  proof,
	})
	raw, err := sign(t, k)
	return raw, expires, err
}

// sign finishes a token.
func sign(t *jwt.Token, k *key) (string, error) {
	t.Header["kid"] = k.kid
	raw, err := t.SignedString(k.private)
	if err != nil {
		return "", fmt.Errorf("signing a token: %w", err)
	}
	if len(raw) > MaxSize {
		return "", oci.Errorf(oci.CodeInvalid, "the asked scopes make a token of %d bytes, the limit is %d: ask for several tokens", len(raw), MaxSize)
	}
	return raw, nil
}

// notBefore is how far behind a registry's clock may be that forgives nothing.
const notBefore = 30 * time.Second

// IssueFor makes an access token for another service, in the form of docker's
// token specification ("Token Authentication Implementation"): its issuer, its
// audience, its life time, signed by its key. The header names the key by its
// RFC 7638 thumbprint and, unless the service is set otherwise, carries its certificates: CNCF distribution 2
// verifies by x5c, and version 3 by kid only in a token without x5c. It ends with Principal.Expires when that
// is earlier. The errors are those of Issue.
func (i *Issuer) IssueFor(ctx context.Context, s metadata.Service, p auth.Principal, access []Access) (raw string, expires time.Time, err error) {
	if len(access) > MaxAccess {
		return "", time.Time{}, oci.Errorf(oci.CodeInvalid, "a token can hold %d scopes, %d were asked for: ask for several tokens", MaxAccess, len(access))
	}
	k, err := i.keys.signing(ctx, s)
	if err != nil {
		return "", time.Time{}, err
	}
	if access == nil {
		access = []Access{}
	}
	now := i.options.Clock()
	expires = now.Add(s.TokenTTL)
	if !p.Expires.IsZero() && p.Expires.Before(expires) {
		expires = p.Expires
	}
	subject := "" // of the anonymous, as the specification says
	if !p.IsAnonymous() {
		subject = p.String()
	}
	var id [16]byte
	_, _ = rand.Read(id[:]) // never fails: see crypto/rand
	t := jwt.NewWithClaims(signingMethod(k.algorithm), jwt.MapClaims{
		"iss":    s.Issuer,
		"sub":    subject,
		"aud":    s.Name, // one string: not everybody reads the list that RFC 7519 allows too
		"exp":    expires.Unix(),
		"nbf":    now.Add(-notBefore).Unix(),
		"iat":    now.Unix(),
		"jti":    hex.EncodeToString(id[:]),
		"access": access,
	})
	if !s.OmitX5C {
		t.Header["x5c"] = k.x5c
	}
	raw, err = sign(t, k)
	return raw, expires, err
}

// LooksLike reports whether a bearer string has the form of a JWT: three parts
// with dots between them. Whether it holds is for Verify.
func LooksLike(raw string) bool { return strings.Count(raw, ".") == 2 }

// Foreign reports whether a bearer string that LooksLike a JWT does not even
// claim to be ours: it names another issuer or none, or is no JWT after all. Such a
// string may be a token of somebody else, whom to ask is for the caller. Nothing is
// verified: one that names our issuer is not foreign, however forged, and Verify's
// answer is the last word on it.
func (i *Issuer) Foreign(raw string) bool {
	if len(raw) > maxForeign {
		return false
	}
	var c struct {
		Issuer string `json:"iss"`
	}
	_, payload, _ := strings.Cut(raw, ".")
	payload, _, _ = strings.Cut(payload, ".")
	text, err := base64.RawURLEncoding.DecodeString(payload)
	return err != nil || json.Unmarshal(text, &c) != nil || c.Issuer != i.options.Issuer
}

// maxForeign bounds what is read to find the issuer of a token, in bytes. It is more
// than MaxSize, so that the provider's own verifier refuses what is too long.
const maxForeign = 64 << 10

// Verify checks an access token for a service: algorithm, signature by one of
// our keys, issuer, audience, life time. Keys, key URLs and certificates in
// the token's own header are not looked at. The error is ErrExpired or
// ErrInvalid (wrapped, with a reason for the client), or UNAVAILABLE when the
// keys cannot be read now.
func (i *Issuer) Verify(ctx context.Context, raw, service string) (*Claims, error) {
	now := i.options.Clock()
	// A key that was retired ends what it signed, remembered or not.
	set := i.keys.current.Load()
	if c, ok := i.cache.Get(raw); ok && c.service == service && set.recent(now) && set.find(c.kid, now) != nil {
		if err := c.valid(now); err != nil {
			i.cache.Remove(raw)
			return nil, err
		}
		return c, nil
	}
	c, err := i.verify(ctx, raw, service, now)
	if err != nil {
		return nil, err
	}
	if c.Proof != "" {
		return nil, fmt.Errorf("%w: this is a refresh token, exchange it at the token endpoint", ErrInvalid)
	}
	if len(raw) <= cachedTokenMax {
		i.cache.Add(strings.Clone(raw), c) // the request's buffer is not kept alive
	}
	return c, nil
}

// Rest gives back the memory that known tokens take; each is verified anew when it
// comes again, in less than a millisecond. It is for a moment without work.
func (i *Issuer) Rest() { i.cache.Purge() }

// VerifyRefresh checks a refresh token like Verify. Whether the credential
// behind it still holds is for auth.Refresher.
func (i *Issuer) VerifyRefresh(ctx context.Context, raw, service string) (*Claims, error) {
	c, err := i.verify(ctx, raw, refreshAudience(service), i.options.Clock())
	if err != nil {
		return nil, err
	}
	if c.Proof == "" {
		return nil, fmt.Errorf("%w: this is not a refresh token", ErrInvalid)
	}
	return c, nil
}

func (c *Claims) valid(now time.Time) error {
	switch {
	case !now.Before(c.ExpiresAt):
		return fmt.Errorf("%w: the token was valid until %s, fetch a new one", ErrExpired, c.ExpiresAt.UTC().Format(time.RFC3339))
	case now.Add(notBeforeLeeway).Before(c.notBefore):
		return fmt.Errorf("%w: the token is valid from %s only, check the clocks", ErrInvalid, c.notBefore.UTC().Format(time.RFC3339))
	}
	return nil
}

func (i *Issuer) verify(ctx context.Context, raw, audience string, now time.Time) (*Claims, error) {
	if len(raw) > MaxSize {
		return nil, fmt.Errorf("%w: the token has %d bytes, the limit is %d", ErrInvalid, len(raw), MaxSize)
	}
	var unavailable error
	t, err := i.parser.ParseWithClaims(raw, &claims{}, func(t *jwt.Token) (any, error) {
		if _, ok := t.Header["crit"]; ok {
			return nil, errors.New("it has critical extensions") // RFC 7515, 4.1.11
		}
		// Only the kid is read. jwk, jku, x5u and x5c are the sender's claims about
		// their own signature (CVE-2025-24976).
		kid, _ := t.Header["kid"].(string)
		k, err := i.keys.find(ctx, kid)
		if err != nil {
			unavailable = err
			return nil, err
		}
		if k == nil {
			return nil, errors.New("it was signed by an unknown key")
		}
		// A key is for one algorithm, whatever the token says.
		if t.Method.Alg() != k.algorithm {
			return nil, errors.New("its algorithm is not that of its key")
		}
		return k.private.Public(), nil
	})
	if unavailable != nil {
		return nil, unavailable
	}
	if err != nil {
		return nil, fmt.Errorf("%w: the token is malformed, or not signed by this registry", ErrInvalid)
	}
	c := t.Claims.(*claims)
	switch {
	case c.Issuer != i.options.Issuer:
		return nil, fmt.Errorf("%w: the token was issued by somebody else", ErrInvalid)
	case len(c.Audience) != 1 || c.Audience[0] != audience:
		return nil, fmt.Errorf("%w: the token is for another service", ErrInvalid)
	case c.ExpiresAt == nil || c.NotBefore == nil || c.Bearer == nil || len(c.Access) > MaxAccess:
		return nil, fmt.Errorf("%w: the token lacks a claim", ErrInvalid)
	}
	out := &Claims{
		Access:    c.Access,
		ExpiresAt: c.ExpiresAt.Time,
		Proof:     c.Proof,
		service:   audience,
		kid:       t.Header["kid"].(string), // a key was found by it
		notBefore: c.NotBefore.Time,
	}
	if out.Principal, err = c.Bearer.principal(); err != nil {
		return nil, err
	}
	return out, out.valid(now)
}
