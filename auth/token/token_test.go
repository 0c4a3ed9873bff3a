package token

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"errors"
	"maps"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"berth/auth"
	"berth/metadata"
	"berth/oci"
)

func openDB(t testing.TB) *metadata.DB {
	t.Helper()
	ctx := context.Background()
	db, err := metadata.Open(ctx, metadata.Options{URL: "sqlite:" + filepath.Join(t.TempDir(), "berth.db")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	if _, err := db.Migrate(ctx); err != nil {
		t.Fatal(err)
	}
	return db
}

func newIssuer(t testing.TB, db *metadata.DB, o Options) *Issuer {
	t.Helper()
	i, err := New(context.Background(), db, o)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

const service = "registry.test"

var access = []Access{{Type: "repository", Name: "team/app", Actions: []string{"pull", "push"}}, {Type: "registry", Name: "catalog", Actions: []string{"*"}}}

func TestRoundTrip(t *testing.T) {
	ctx := context.Background()
	i := newIssuer(t, openDB(t), Options{})
	for _, p := range []auth.Principal{
		auth.Anonymous(),
		{Kind: auth.KindUser, ID: 7, Name: "alice", Admin: true},
		{Kind: auth.KindUser, ID: 7, Name: "alice", TokenID: 3, Limit: &auth.Limit{Repositories: "team/*", Actions: auth.Pull}},
		{Kind: auth.KindUser, ID: 7, Name: "alice", TokenID: 3, Limit: &auth.Limit{}}, // nothing is not everything
		{Kind: auth.KindUser, ID: 8, Name: "stups_ci", Everywhere: auth.Pull | auth.Push, AskTeams: true},
		{Kind: auth.KindRobot, ID: 3, Name: "ci", TeamID: 2, Team: "team", TokenID: 3, Limit: &auth.Limit{Repositories: "*", Actions: auth.Pull | auth.Push}},
	} {
		raw, expires, err := i.Issue(ctx, p, service, access)
		if err != nil || time.Until(expires) < 4*time.Minute {
			t.Fatalf("%v, %v", expires, err)
		}
		for range 2 { // then from the cache
			c, err := i.Verify(ctx, raw, service)
			if err != nil || !reflect.DeepEqual(c.Principal, p) || !reflect.DeepEqual(c.Access, access) {
				t.Fatalf("%+v, %v, want %+v", c, err, p)
			}
			if c.Actions("team/app") != auth.Pull|auth.Push || c.Actions("team/other") != 0 || !c.Allows("registry", "catalog", "*") || c.Allows("registry", "catalog", "pull") || c.Allows("repository", "team/app", "delete") {
				t.Errorf("rights: %+v", c)
			}
		}
	}
}

// forge signs claims and a header as an attacker or a confused program would.
type forge struct {
	t      *testing.T
	issuer *Issuer
}

func (f forge) claims(change func(c jwt.MapClaims)) jwt.MapClaims {
	now := time.Now()
	c := jwt.MapClaims{
		"iss": "berth", "sub": "alice", "aud": service, "iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(time.Minute).Unix(), "jti": "1",
		"access": access, "berth": map[string]any{"kind": "user", "id": 7, "name": "alice"},
	}
	if change != nil {
		change(c)
	}
	return c
}

func (f forge) sign(method jwt.SigningMethod, key any, header map[string]any, c jwt.MapClaims) string {
	f.t.Helper()
	t := jwt.NewWithClaims(method, c)
	t.Header["kid"] = f.issuer.keys.current.Load().rings[0][0].kid
	maps.Copy(t.Header, header)
	raw, err := t.SignedString(key)
	if err != nil {
		f.t.Fatal(err)
	}
	return raw
}

// otherAlgorithm signs with a key of the curve P-256 as if it were one for ES384, which
// the library takes for good.
func (f forge) otherAlgorithm(key *ecdsa.PrivateKey) string {
	f.t.Helper()
	t := jwt.NewWithClaims(jwt.SigningMethodES384, f.claims(nil))
	t.Header["kid"] = f.issuer.keys.current.Load().rings[0][0].kid
	text, err := t.SigningString()
	if err != nil {
		f.t.Fatal(err)
	}
	sum := sha512.Sum384([]byte(text))
	r, s, err := ecdsa.Sign(rand.Reader, key, sum[:])
	if err != nil {
		f.t.Fatal(err)
	}
	signature := append(r.FillBytes(make([]byte, 48)), s.FillBytes(make([]byte, 48))...)
	return text + "." + base64.RawURLEncoding.EncodeToString(signature)
}

func TestForgeries(t *testing.T) {
	ctx := context.Background()
	i := newIssuer(t, openDB(t), Options{})
	f := forge{t, i}
	ours := i.keys.current.Load().rings[0][0].private.(*ecdsa.PrivateKey)
	theirs, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	jwk, err := publicJWK(&theirs.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	public, err := ours.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	es256, none := jwt.SigningMethodES256, jwt.UnsafeAllowNoneSignatureType

	if _, err := i.Verify(ctx, f.sign(es256, ours, nil, f.claims(nil)), service); err != nil {
		t.Fatalf("the forger's tools do not work: %v", err)
	}
	good := f.sign(es256, ours, nil, f.claims(nil))
	parts := strings.Split(good, ".")
	otherClaims, err := json.Marshal(f.claims(func(c jwt.MapClaims) { c["sub"] = "root" }))
	if err != nil {
		t.Fatal(err)
	}

	for name, raw := range map[string]string{
		// CVE-2025-24976: a key that the token brings itself, under our key's id.
		"jwk in the header":          f.sign(es256, theirs, map[string]any{"jwk": jwk}, f.claims(nil)),
		"jwk, no kid":                f.sign(es256, theirs, map[string]any{"jwk": jwk, "kid": ""}, f.claims(nil)),
		"jku in the header":          f.sign(es256, theirs, map[string]any{"jku": "http://127.0.0.1:1/jwks"}, f.claims(nil)),
		"x5c in the header":          f.sign(es256, theirs, map[string]any{"x5c": []string{base64.StdEncoding.EncodeToString(public)}}, f.claims(nil)),
		"x5u in the header":          f.sign(es256, theirs, map[string]any{"x5u": "http://127.0.0.1:1/cert"}, f.claims(nil)),
		"our key, another algorithm": f.otherAlgorithm(ours),
		"another key, our kid":       f.sign(es256, theirs, nil, f.claims(nil)),
		"our key, an unknown kid":    f.sign(es256, ours, map[string]any{"kid": "unknown"}, f.claims(nil)),
		"our key, a kid of a list":   f.sign(es256, ours, map[string]any{"kid": []string{"a"}}, f.claims(nil)),
		"alg none":                   f.sign(jwt.SigningMethodNone, none, nil, f.claims(nil)),
		"alg None":                   f.sign(jwt.SigningMethodNone, none, map[string]any{"alg": "None"}, f.claims(nil)),
		"HS256 with our public key":  f.sign(jwt.SigningMethodHS256, public, nil, f.claims(nil)),
		"ES384":                      f.sign(jwt.SigningMethodES384, p384, nil, f.claims(nil)),
		"critical extension":         f.sign(es256, ours, map[string]any{"crit": []string{"x"}}, f.claims(nil)),
		"another issuer":             f.sign(es256, ours, nil, f.claims(func(c jwt.MapClaims) { c["iss"] = "other" })),
		"no issuer":                  f.sign(es256, ours, nil, f.claims(func(c jwt.MapClaims) { delete(c, "iss") })),
		"another audience":           f.sign(es256, ours, nil, f.claims(func(c jwt.MapClaims) { c["aud"] = "other" })),
		"no audience":                f.sign(es256, ours, nil, f.claims(func(c jwt.MapClaims) { delete(c, "aud") })),
		"two audiences":              f.sign(es256, ours, nil, f.claims(func(c jwt.MapClaims) { c["aud"] = []string{service, "other"} })),
		"no expiry":                  f.sign(es256, ours, nil, f.claims(func(c jwt.MapClaims) { delete(c, "exp") })),
		"no nbf":                     f.sign(es256, ours, nil, f.claims(func(c jwt.MapClaims) { delete(c, "nbf") })),
		"not yet valid":              f.sign(es256, ours, nil, f.claims(func(c jwt.MapClaims) { c["nbf"] = time.Now().Add(2 * time.Minute).Unix() })),
		"no principal":               f.sign(es256, ours, nil, f.claims(func(c jwt.MapClaims) { delete(c, "berth") })),
		"an unknown limit": f.sign(es256, ours, nil, f.claims(func(c jwt.MapClaims) {
			c["berth"] = map[string]any{"kind": "user", "limit": map[string]any{"repositories": "*", "actions": []string{"pull", "fly"}}}
		})),
		"altered claims":    parts[0] + "." + base64.RawURLEncoding.EncodeToString(otherClaims) + "." + parts[2],
		"no signature":      parts[0] + "." + parts[1] + ".",
		"zero signature":    parts[0] + "." + parts[1] + "." + base64.RawURLEncoding.EncodeToString(make([]byte, 64)),
		"over 16 KiB":       f.sign(es256, ours, nil, f.claims(func(c jwt.MapClaims) { c["pad"] = strings.Repeat("x", MaxSize) })),
		"empty":             "",
		"dots":              "..",
		"not base64":        "!.!.!",
		"not JSON":          "eA.eA.eA",
		"five parts (JWE)":  "a.b.c.d.e",
		"blanks around":     " " + good,
		"exp far too large": f.sign(es256, ours, nil, f.claims(func(c jwt.MapClaims) { c["exp"] = 1e300 })),
	} {
		c, err := i.Verify(ctx, raw, service)
		if c != nil && err != nil {
			c = nil
		}
		if c != nil || !errors.Is(err, ErrInvalid) && !errors.Is(err, ErrExpired) {
			t.Errorf("%s: %+v, %v", name, c, err)
		}
		if err != nil && len(raw) > 20 && strings.Contains(err.Error(), raw[len(raw)-10:]) {
			t.Errorf("%s: the error repeats the token: %v", name, err)
		}
	}
	if _, err := i.Verify(ctx, f.sign(es256, ours, nil, f.claims(func(c jwt.MapClaims) { c["exp"] = time.Now().Unix() - 1 })), service); !errors.Is(err, ErrExpired) {
		t.Errorf("expired: %v", err)
	}
	// A replica's clock that is ahead is forgiven.
	if _, err := i.Verify(ctx, f.sign(es256, ours, nil, f.claims(func(c jwt.MapClaims) { c["nbf"] = time.Now().Add(30 * time.Second).Unix() })), service); err != nil {
		t.Errorf("30 s ahead: %v", err)
	}
}

// TestCacheForgetsNothing: what is remembered of a verified token holds for its
// service and its life only.
// A token of somebody else is told from a forged one of ours by the issuer that
// it names, and by nothing else.
func TestForeign(t *testing.T) {
	i := newIssuer(t, openDB(t), Options{})
	f := forge{t, i}
	key := []byte("a key that is none of ours, 32 b")
	ours, _, err := i.Issue(t.Context(), auth.Anonymous(), service, nil)
	if err != nil {
		t.Fatal(err)
	}
	issuer := func(v any) jwt.MapClaims { return f.claims(func(c jwt.MapClaims) { c["iss"] = v }) }
	none, err := jwt.NewWithClaims(jwt.SigningMethodNone, f.claims(nil)).SignedString(jwt.UnsafeAllowNoneSignatureType)
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		raw  string
		want bool
	}{
		"ours":                {ours, false},
		"forged":              {f.sign(jwt.SigningMethodHS256, key, nil, f.claims(nil)), false},
		"forged, other kid":   {f.sign(jwt.SigningMethodHS256, key, map[string]any{"kid": "x"}, f.claims(nil)), false},
		"forged, alg none":    {none, false},
		"other issuer":        {f.sign(jwt.SigningMethodHS256, key, nil, issuer("https://login.example.com")), true},
		"no issuer":           {f.sign(jwt.SigningMethodHS256, key, nil, issuer("")), true},
		"issuer is no string": {f.sign(jwt.SigningMethodHS256, key, nil, issuer([]string{"berth"})), true},
		"opaque, with dots":   {"a.b.c", true},
		"far too long":        {"a." + strings.Repeat("b", maxForeign) + ".c", false},
		"only dots":           {"..", true},
	} {
		if got := i.Foreign(tt.raw); got != tt.want || !LooksLike(tt.raw) {
			t.Errorf("%s: %t, want %t", name, got, tt.want)
		}
		if _, err := i.Verify(t.Context(), tt.raw, service); (err == nil) != (name == "ours") {
			t.Errorf("%s: Verify says %v", name, err)
		}
	}
}

func TestCacheForgetsNothing(t *testing.T) {
	ctx := context.Background()
	var mu sync.Mutex
	now := time.Now()
	clock := func() time.Time { mu.Lock(); defer mu.Unlock(); return now }
	i := newIssuer(t, openDB(t), Options{Clock: clock})
	raw, _, err := i.Issue(ctx, auth.Anonymous(), service, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := i.Verify(ctx, raw, service); err != nil {
		t.Fatal(err)
	}
	i.Rest()
	if i.cache.Len() != 0 {
		t.Errorf("%d tokens are remembered at rest", i.cache.Len())
	}
	if _, err := i.Verify(ctx, raw, service); err != nil {
		t.Errorf("after a rest: %v", err)
	}
	if _, err := i.Verify(ctx, raw, "other"); !errors.Is(err, ErrInvalid) {
		t.Errorf("for another service: %v", err)
	}
	if _, err := i.Verify(ctx, raw[:len(raw)-4]+"AAAA", service); !errors.Is(err, ErrInvalid) {
		t.Errorf("with another signature: %v", err)
	}
	mu.Lock()
	now = now.Add(5*time.Minute + time.Second)
	mu.Unlock()
	for range 2 {
		if _, err := i.Verify(ctx, raw, service); !errors.Is(err, ErrExpired) {
			t.Errorf("after its life: %v", err)
		}
	}
	if i.cache.Len() != 0 {
		t.Errorf("%d tokens are remembered after their life", i.cache.Len())
	}
	mu.Lock()
	now = now.Add(-time.Hour)
	mu.Unlock()
	for range 2 * cachedTokens {
		if raw, _, err = i.Issue(ctx, auth.Anonymous(), service, nil); err != nil {
			t.Fatal(err)
		}
		i.cache.Add(raw, &Claims{})
	}
	if i.cache.Len() > cachedTokens {
		t.Errorf("%d tokens are remembered", i.cache.Len())
	}
}

func TestTooMuchAccess(t *testing.T) {
	ctx := context.Background()
	i := newIssuer(t, openDB(t), Options{})
	for _, many := range [][]Access{
		make([]Access, MaxAccess+1),
		{{Type: "repository", Name: strings.Repeat("x", MaxSize), Actions: []string{"pull"}}},
	} {
		if raw, _, err := i.Issue(ctx, auth.Anonymous(), service, many); raw != "" || !errors.Is(err, oci.ErrInvalid) {
			t.Errorf("%d entries: %d bytes, %v", len(many), len(raw), err)
		}
	}
}

func TestRefresh(t *testing.T) {
	ctx := context.Background()
	i := newIssuer(t, openDB(t), Options{})
	raw, err := i.IssueRefresh(ctx, alice, service, "proof")
	if err != nil {
		t.Fatal(err)
	}
	c, err := i.VerifyRefresh(ctx, raw, service)
	if err != nil || c.Proof != "proof" || !reflect.DeepEqual(c.Principal, alice) || time.Until(c.ExpiresAt) < 89*24*time.Hour || len(c.Access) != 0 {
		t.Errorf("%+v, %v", c, err)
	}
	accessToken, _, err := i.Issue(ctx, alice, service, access)
	if err != nil {
		t.Fatal(err)
	}
	for name, f := range map[string]func() (*Claims, error){
		"refresh as access":           func() (*Claims, error) { return i.Verify(ctx, raw, service) },
		"refresh as access, by name":  func() (*Claims, error) { return i.Verify(ctx, raw, refreshAudience(service)) },
		"access as refresh":           func() (*Claims, error) { return i.VerifyRefresh(ctx, accessToken, service) },
		"refresh for another service": func() (*Claims, error) { return i.VerifyRefresh(ctx, raw, "other") },
	} {
		if _, err := f(); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := i.IssueRefresh(ctx, alice, service, ""); err == nil {
		t.Error("a refresh token without a proof")
	}
}

// TestKeyIsMadeOnce: replicas that start together on an empty database use one
// key, and take each other's tokens.
func TestKeyIsMadeOnce(t *testing.T) {
	ctx := context.Background()
	db := openDB(t)
	issuers := make([]*Issuer, 8)
	var wg sync.WaitGroup
	for n := range issuers {
		wg.Go(func() { issuers[n] = newIssuer(t, db, Options{}) })
	}
	wg.Wait()
	raw, _, err := issuers[0].Issue(ctx, auth.Anonymous(), service, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range issuers {
		if _, err := i.Verify(ctx, raw, service); err != nil {
			t.Error(err)
		}
		set, err := i.Keys().JWKS(ctx, nil)
		if err != nil || len(set.Keys) != 1 {
			t.Fatalf("%+v, %v", set, err)
		}
	}
}

// TestNewKeyIsFound: a token signed with a key that another replica has got
// since is verified, and invented key ids do not make a query each.
func TestNewKeyIsFound(t *testing.T) {
	ctx := context.Background()
	db := openDB(t)
	var mu sync.Mutex
	now := time.Now()
	clock := func() time.Time { mu.Lock(); defer mu.Unlock(); return now }
	i := newIssuer(t, db, Options{Clock: clock})
	first := i.keys.current.Load()
	for range 100 {
		if k, err := i.keys.find(ctx, "invented"); k != nil || err != nil {
			t.Fatal(k, err)
		}
	}
	if i.keys.current.Load() != first {
		t.Error("the keys were read again for an invented id within a second")
	}
	mu.Lock()
	now = now.Add(2 * time.Second)
	mu.Unlock()
	if k, err := i.keys.find(ctx, "invented"); k != nil || err != nil || i.keys.current.Load() == first {
		t.Errorf("after a second: %v, %v", k, err)
	}
	db.Close()
	mu.Lock()
	now = now.Add(time.Hour)
	mu.Unlock()
	// Without the database: known keys go on, unknown ones cannot be judged.
	raw, _, err := i.Issue(ctx, auth.Anonymous(), service, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := i.Verify(ctx, raw, service); err != nil {
		t.Error(err)
	}
	other := newIssuer(t, openDB(t), Options{Clock: clock})
	raw, _, err = other.Issue(ctx, auth.Anonymous(), service, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := i.Verify(ctx, raw, service); err == nil || errors.Is(err, ErrInvalid) || errors.Is(err, ErrExpired) {
		t.Errorf("an unknown key without a database: %v", err)
	}
}

// TestThumbprint is RFC 7638 for EC keys: the members crv, kty, x, y.
func TestThumbprint(t *testing.T) {
	i := newIssuer(t, openDB(t), Options{})
	set, err := i.Keys().JWKS(context.Background(), nil)
	if err != nil {
		t.Fatal(err)
	}
	k := set.Keys[0]
	if len(k.X) != 43 || len(k.Y) != 43 || len(k.ID) != 43 || k.Algorithm != "ES256" || k.Use != "sig" {
		t.Errorf("%+v", k)
	}
	// A library that knows only the published key verifies our token.
	x, _ := base64.RawURLEncoding.DecodeString(k.X)
	y, _ := base64.RawURLEncoding.DecodeString(k.Y)
	public, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), append(append([]byte{4}, x...), y...))
	if err != nil {
		t.Fatal(err)
	}
	if id, err := thumbprint(public); err != nil || id != k.ID {
		t.Errorf("thumbprint %s, %v, want %s", id, err, k.ID)
	}
	raw, _, err := i.Issue(context.Background(), auth.Principal{Kind: auth.KindUser, Name: "alice"}, service, access)
	if err != nil {
		t.Fatal(err)
	}
	tok, err := jwt.Parse(raw, func(*jwt.Token) (any, error) { return public, nil }, jwt.WithAudience(service), jwt.WithIssuer("berth"), jwt.WithExpirationRequired())
	if err != nil || tok.Header["kid"] != k.ID || tok.Claims.(jwt.MapClaims)["sub"] != "alice" {
		t.Errorf("%+v, %v", tok, err)
	}
}

func FuzzVerify(f *testing.F) {
	i := newIssuer(f, openDB(f), Options{})
	raw, _, err := i.Issue(context.Background(), auth.Anonymous(), service, access)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Add("..")
	f.Add("eyJhbGciOiJub25lIn0.e30.")
	f.Fuzz(func(t *testing.T, s string) {
		if _, err := i.verify(context.Background(), s, service, time.Now()); err == nil && s != raw {
			t.Fatalf("%q is taken", s)
		}
	})
}

func BenchmarkVerifyCached(b *testing.B) {
	i := newIssuer(b, openDB(b), Options{})
	raw, _, err := i.Issue(context.Background(), auth.Anonymous(), service, access)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := i.Verify(context.Background(), raw, service); err != nil {
			b.Fatal(err)
		}
	}
}

// TestExpires: a token does not outlive the credential behind it.
func TestExpires(t *testing.T) {
	ctx := context.Background()
	i := newIssuer(t, openDB(t), Options{TTL: time.Hour})
	soon := time.Now().Add(time.Minute).Truncate(time.Second)
	raw, expires, err := i.Issue(ctx, auth.Principal{Kind: auth.KindUser, ID: 7, Name: "alice", Expires: soon}, service, nil)
	if err != nil || !expires.Equal(soon) {
		t.Fatalf("%s, %v, want %s", expires, err, soon)
	}
	if c, err := i.Verify(ctx, raw, service); err != nil || !c.ExpiresAt.Equal(soon) {
		t.Errorf("%+v, %v", c, err)
	}
	if _, expires, err = i.Issue(ctx, auth.Principal{Kind: auth.KindUser, ID: 7, Name: "alice", Expires: time.Now().Add(2 * time.Hour)}, service, nil); err != nil || time.Until(expires) > time.Hour {
		t.Errorf("%s, %v", expires, err)
	}
}
