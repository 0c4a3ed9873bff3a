package oidc_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/golang-jwt/jwt/v5"

	"berth/auth"
	"berth/auth/authtest"
	"berth/auth/oidc"
	"berth/metadata"
	"berth/metadata/metadatatest"
	"berth/oci"
	"berth/testenv"
)

func TestMain(m *testing.M) { os.Exit(testenv.Main(m)) }

const client = "berth"

// hostile is an issuer whose answers and tokens the test makes up: what a real
// provider never says. Those of a real one are in provider_test.go.
type hostile struct {
	*httptest.Server
	t    testing.TB
	key  *rsa.PrivateKey
	kid  atomic.Pointer[string]
	hits atomic.Int64 // of the keys
	// handlers by path replace what is answered there
	mu       sync.Mutex
	handlers map[string]http.HandlerFunc
}

var testKey = sync.OnceValues(func() (*rsa.PrivateKey, error) { return rsa.GenerateKey(rand.Reader, 2048) })

func newHostile(t testing.TB) *hostile {
	key, err := testKey()
	if err != nil {
		t.Fatal(err)
	}
	h := &hostile{t: t, key: key, handlers: map[string]http.HandlerFunc{}}
	h.publish("key-1")
	h.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.mu.Lock()
		special := h.handlers[r.URL.Path]
		h.mu.Unlock()
		switch {
		case special != nil:
			special(w, r)
		case r.URL.Path == "/.well-known/openid-configuration":
			h.json(w, map[string]any{"issuer": h.URL, "jwks_uri": h.URL + "/keys", "authorization_endpoint": h.URL + "/auth", "token_endpoint": h.URL + "/token"})
		case r.URL.Path == "/keys":
			h.hits.Add(1)
			h.json(w, jose.JSONWebKeySet{Keys: []jose.JSONWebKey{
				{Key: []byte("a shared key, which everybody who reads this has"), KeyID: "shared", Algorithm: "HS256"},
				{Key: key.Public(), KeyID: *h.kid.Load(), Use: "sig", Algorithm: "RS256"},
			}})
		default:
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(h.Close)
	return h
}

func (h *hostile) publish(kid string) { h.kid.Store(&kid) }

func (h *hostile) json(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(v); err != nil {
		h.t.Log(err)
	}
}

func (h *hostile) answer(path string, f http.HandlerFunc) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.handlers[path] = f
}

func (h *hostile) claims(change func(c jwt.MapClaims)) jwt.MapClaims {
	now := time.Now()
	c := jwt.MapClaims{
		"iss": h.URL, "sub": "1001", "aud": client, "iat": now.Unix(), "exp": now.Add(10 * time.Minute).Unix(), "jti": "j1",
		"preferred_username": "alice", "groups": []string{"dev", "all"},
	}
	if change != nil {
		change(c)
	}
	return c
}

func (h *hostile) sign(method jwt.SigningMethod, key any, header map[string]any, c jwt.MapClaims) string {
	h.t.Helper()
	t := jwt.NewWithClaims(method, c)
	t.Header["kid"] = *h.kid.Load()
	maps.Copy(t.Header, header)
	raw, err := t.SignedString(key)
	if err != nil {
		h.t.Fatal(err)
	}
	return raw
}

func (h *hostile) token(change func(c jwt.MapClaims)) string {
	return h.sign(jwt.SigningMethodRS256, h.key, nil, h.claims(change))
}

func (h *hostile) people() *oidc.People {
	return &oidc.People{Issuer: h.URL, ClientID: client, UsernameClaim: "preferred_username", GroupsClaim: "groups"}
}

func open(t testing.TB, db *metadata.DB, o oidc.Options) *oidc.Authenticator {
	t.Helper()
	o.DB = db
	a, err := oidc.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func sqlite(t testing.TB) *metadata.DB {
	return metadatatest.Open(t, metadata.Options{URL: metadatatest.SQLite(t)})
}

func bearer(raw string) auth.Credentials { return auth.Credentials{Bearer: raw} }

func TestContract(t *testing.T) {
	authtest.Test(t, func(t *testing.T) authtest.Fixture {
		h := newHostile(t)
		return authtest.Fixture{
			Authenticator: open(t, sqlite(t), oidc.Options{People: h.people()}),
			Good:          auth.Credentials{Username: "oidc", Password: h.token(nil)},
			Who:           "alice",
			Wrong: []auth.Credentials{
				bearer(h.token(func(c jwt.MapClaims) { c["exp"] = time.Now().Add(-time.Minute).Unix() })),
				{Username: "alice", Password: h.token(func(c jwt.MapClaims) { c["aud"] = "other" })},
			},
			Foreign: []auth.Credentials{
				{Username: "alice", Password: "a password"},
				{Username: "alice", Password: "a.b.c"},
				bearer("berth_pat_0123456789"),
				bearer(h.token(func(c jwt.MapClaims) { c["iss"] = "https://elsewhere.example.com" })),
				bearer(h.token(func(c jwt.MapClaims) { delete(c, "iss") })),
				bearer("eyJhbGciOiJub25lIn0.e30."),
				bearer("eyJ..x"),
			},
			Break: h.Close,
		}
	})
}

// TestForgeries: none of these tokens opens anything, and all are refused as
// wrong: nobody else is asked about a token of our issuer.
func TestForgeries(t *testing.T) {
	h := newHostile(t)
	a := open(t, sqlite(t), oidc.Options{People: h.people()})
	ctx := t.Context()
	rs256, none := jwt.SigningMethodRS256, jwt.UnsafeAllowNoneSignatureType
	theirs, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(h.key.Public())
	if err != nil {
		t.Fatal(err)
	}
	pem := []byte("-----BEGIN PUBLIC KEY-----\n" + base64.StdEncoding.EncodeToString(public) + "\n-----END PUBLIC KEY-----\n")
	jwk, err := jose.JSONWebKey{Key: theirs.Public(), KeyID: "key-1"}.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	good := h.token(nil)
	p, err := a.Authenticate(ctx, bearer(good))
	if err != nil || p.Name != "alice" || p.Claims["jti"] != "j1" || p.Claims["iss"] != h.URL || time.Until(p.Expires) > 10*time.Minute || time.Until(p.Expires) < 9*time.Minute {
		t.Fatalf("the forger's tools do not work: %+v, %v", p, err)
	}
	parts := strings.Split(good, ".")
	other := h.claims(func(c jwt.MapClaims) { c["preferred_username"] = "root" })
	text, err := json.Marshal(other)
	if err != nil {
		t.Fatal(err)
	}
	change := func(name string, v any) string { return h.token(func(c jwt.MapClaims) { c[name] = v }) }
	for name, raw := range map[string]string{
		"another key under the published id": h.sign(rs256, theirs, nil, h.claims(nil)),
		"a key in the header":                h.sign(rs256, theirs, map[string]any{"jwk": json.RawMessage(jwk)}, h.claims(nil)), // CVE-2025-24976
		"a key in the header, no id":         h.sign(rs256, theirs, map[string]any{"jwk": json.RawMessage(jwk), "kid": ""}, h.claims(nil)),
		"an address of keys in the header":   h.sign(rs256, theirs, map[string]any{"jku": "http://127.0.0.1:1/keys"}, h.claims(nil)),
		"a certificate in the header":        h.sign(rs256, theirs, map[string]any{"x5c": []string{base64.StdEncoding.EncodeToString(public)}}, h.claims(nil)),
		"an unknown key id":                  h.sign(rs256, theirs, map[string]any{"kid": "invented"}, h.claims(nil)),
		"a critical extension":               h.sign(rs256, h.key, map[string]any{"crit": []string{"x"}, "x": 1}, h.claims(nil)),
		"alg none":                           h.sign(jwt.SigningMethodNone, none, nil, h.claims(nil)),
		"alg None":                           h.sign(jwt.SigningMethodNone, none, map[string]any{"alg": "None"}, h.claims(nil)),
		"HS256 with the public key":          h.sign(jwt.SigningMethodHS256, public, nil, h.claims(nil)),
		"HS256 with the public key as PEM":   h.sign(jwt.SigningMethodHS256, pem, nil, h.claims(nil)),
		"HS256 with a published shared key":  h.sign(jwt.SigningMethodHS256, []byte("a shared key, which everybody who reads this has"), map[string]any{"kid": "shared"}, h.claims(nil)),
		"an algorithm that is not the key's": h.sign(jwt.SigningMethodPS256, h.key, nil, h.claims(nil)),
		"a key of another kind":              h.sign(jwt.SigningMethodES256, ec, nil, h.claims(nil)),
		"altered claims":                     parts[0] + "." + base64.RawURLEncoding.EncodeToString(text) + "." + parts[2],
		"no signature":                       parts[0] + "." + parts[1] + ".",
		"expired":                            change("exp", time.Now().Add(-time.Second).Unix()),
		"no expiry":                          h.token(func(c jwt.MapClaims) { delete(c, "exp") }),
		"not yet valid":                      change("nbf", time.Now().Add(10*time.Minute).Unix()),
		"another audience":                   change("aud", "https://elsewhere.example.com"), // serverless-registry#154
		"no audience":                        h.token(func(c jwt.MapClaims) { delete(c, "aud") }),
		"two audiences, no party":            change("aud", []string{client, "other"}),
		"another party":                      change("azp", "other"),
		"an odd party":                       change("azp", []string{client}),
		"no subject":                         h.token(func(c jwt.MapClaims) { delete(c, "sub") }),
		"no name":                            h.token(func(c jwt.MapClaims) { delete(c, "preferred_username") }),
		"a robot's name":                     change("preferred_username", "core+ci"),
		"the name anonymous":                 change("preferred_username", "anonymous"),
		"a name that is a list":              change("preferred_username", []string{"alice", "root"}),
		"an access token":                    h.sign(rs256, h.key, map[string]any{"typ": "at+jwt"}, h.claims(nil)),
		"a logout token":                     change("events", map[string]any{"http://schemas.openid.net/event/backchannel-logout": map[string]any{}}),
		"over 16 KiB":                        change("pad", strings.Repeat("x", oidc.MaxToken)),
		"odd times":                          change("exp", "tomorrow"),
		"a nested audience":                  change("aud", map[string]any{"a": client}),
		"a distributed claim without source": change("_claim_names", map[string]any{"groups": "src1"}),
	} {
		p, err := a.Authenticate(ctx, bearer(raw))
		if !errors.Is(err, auth.ErrWrong) || !p.IsAnonymous() {
			t.Errorf("%s: %+v, %v", name, p, err)
		}
		authtest.NoSecret(t, err, bearer(raw))
		if again, err := a.Authenticate(ctx, auth.Credentials{Username: "alice", Password: raw}); !errors.Is(err, auth.ErrWrong) {
			t.Errorf("%s, as a password: %+v, %v", name, again, err)
		}
	}
	for name, raw := range map[string]string{
		"two audiences and our party": h.token(func(c jwt.MapClaims) { c["aud"], c["azp"] = []string{"other", client}, client }),
		"no key id":                   h.sign(rs256, h.key, map[string]any{"kid": ""}, h.claims(nil)),
		"no type":                     h.sign(rs256, h.key, map[string]any{"typ": ""}, h.claims(nil)),
		"a clock 4 minutes ahead":     change("nbf", time.Now().Add(4*time.Minute).Unix()),
	} {
		if p, err := a.Authenticate(ctx, bearer(raw)); err != nil || p.Name != "alice" {
			t.Errorf("%s: %+v, %v", name, p, err)
		}
	}
}

// TestUnknownKeys: invented key ids ask the provider once in some seconds, and a
// key that the provider has got since is found.
func TestUnknownKeys(t *testing.T) {
	h := newHostile(t)
	clock := &clock{now: time.Now()}
	a := open(t, sqlite(t), oidc.Options{People: h.people(), Clock: clock.Now})
	ctx := t.Context()
	if _, err := a.Authenticate(ctx, bearer(h.token(nil))); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range 200 {
		raw := h.sign(jwt.SigningMethodRS256, h.key, map[string]any{"kid": fmt.Sprint("invented-", i)}, h.claims(nil))
		wg.Go(func() {
			if p, err := a.Authenticate(ctx, bearer(raw)); !errors.Is(err, auth.ErrWrong) {
				t.Errorf("an invented key id: %+v, %v", p, err)
			}
		})
	}
	wg.Wait()
	if n := h.hits.Load(); n != 1 {
		t.Errorf("200 invented key ids within 5 seconds made %d more requests", n-1)
	}
	// The key is changed without a sign.
	old := h.token(nil)
	h.publish("key-2")
	clock.advance(6 * time.Second)
	if _, err := a.Authenticate(ctx, bearer(h.token(nil))); err != nil {
		t.Errorf("with a key that was published since: %v", err)
	}
	if p, err := a.Authenticate(ctx, bearer(old)); !errors.Is(err, auth.ErrWrong) {
		t.Errorf("with a key that was withdrawn: %+v, %v", p, err)
	}
	// The provider goes: what is known holds for a while, what is not cannot be judged.
	h.Close()
	clock.advance(20 * time.Minute)
	if _, err := a.Authenticate(ctx, bearer(h.tokenFor(clock))); err != nil {
		t.Errorf("a known key, 20 minutes after the provider went: %v", err)
	}
	if p, err := a.Authenticate(ctx, bearer(h.sign(jwt.SigningMethodRS256, h.key, map[string]any{"kid": "key-3"}, h.claims(nil)))); !errors.Is(err, oci.ErrUnavailable) {
		t.Errorf("an unknown key without a provider: %+v, %v", p, err)
	}
	clock.advance(2 * time.Hour)
	if p, err := a.Authenticate(ctx, bearer(h.tokenFor(clock))); !errors.Is(err, oci.ErrUnavailable) {
		t.Errorf("two hours after the provider went: %+v, %v", p, err)
	}
}

func (h *hostile) tokenFor(c *clock) string {
	return h.token(func(m jwt.MapClaims) { m["exp"] = c.Now().Add(time.Minute).Unix() })
}

type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time { c.mu.Lock(); defer c.mu.Unlock(); return c.now }
func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// TestHostileAnswers: whatever a provider answers, it ends as "cannot say now",
// within its deadline, and tells nobody a secret.
func TestHostileAnswers(t *testing.T) {
	elsewhere := newHostile(t)
	const document = "/.well-known/openid-configuration"
	endless := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(`{"keys":[`))
		chunk := []byte(strings.Repeat(`{"kty":"RSA","n":"AQAB","e":"AQAB"},`, 4096))
		for range 100 << 20 / len(chunk) { // 100 MiB
			if _, err := w.Write(chunk); err != nil {
				return
			}
		}
	}
	for name, break_ := range map[string]func(h *hostile){
		"keys of 100 MiB":       func(h *hostile) { h.answer("/keys", endless) },
		"a document of 100 MiB": func(h *hostile) { h.answer(document, endless) },
		"a document of HTML": func(h *hostile) {
			h.answer(document, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>") })
		},
		"keys of HTML": func(h *hostile) {
			h.answer("/keys", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>") })
		},
		"no document": func(h *hostile) { h.answer(document, http.NotFound) },
		"a 500 for keys": func(h *hostile) {
			h.answer("/keys", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) })
		},
		"a document that moved":  func(h *hostile) { h.answer(document, redirect(elsewhere.URL+document)) },
		"keys that moved":        func(h *hostile) { h.answer("/keys", redirect(elsewhere.URL+"/keys")) },
		"another's document":     func(h *hostile) { h.answer(document, elsewhere.Config.Handler.ServeHTTP) },
		"keys at a plain host":   func(h *hostile) { h.document("jwks_uri", "http://keys.example.com/") },
		"keys in a file":         func(h *hostile) { h.document("jwks_uri", "file:///etc/passwd") },
		"no address of keys":     func(h *hostile) { h.document("jwks_uri", "") },
		"an issuer with a slash": func(h *hostile) { h.document("issuer", h.URL+"/") },
		"an answer cut off": func(h *hostile) {
			h.answer("/keys", func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Length", "1000")
				_, _ = w.Write([]byte(`{"keys":[`))
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHostile(t)
			break_(h)
			clock := &clock{now: time.Now()}
			a := open(t, sqlite(t), oidc.Options{People: h.people(), Clock: clock.Now})
			raw := h.token(nil)
			for range 2 {
				p, err := a.Authenticate(t.Context(), bearer(raw))
				if !errors.Is(err, oci.ErrUnavailable) || errors.Is(err, auth.ErrWrong) || !p.IsAnonymous() {
					t.Fatalf("%+v, %v", p, err)
				}
				if len(err.Error()) > 2000 {
					t.Errorf("the error has %d bytes", len(err.Error()))
				}
				authtest.NoSecret(t, err, bearer(raw))
			}
			// When the provider is well again, so are we.
			h.mu.Lock()
			clear(h.handlers)
			h.mu.Unlock()
			clock.advance(6 * time.Second)
			if p, err := a.Authenticate(t.Context(), bearer(raw)); err != nil || p.Name != "alice" {
				t.Errorf("afterwards: %+v, %v", p, err)
			}
		})
	}
}

func redirect(to string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, to, http.StatusFound) }
}

// document answers a document with one field changed.
func (h *hostile) document(field, value string) {
	h.answer("/.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		d := map[string]any{"issuer": h.URL, "jwks_uri": h.URL + "/keys"}
		d[field] = value
		h.json(w, d)
	})
}

// TestHanging: a provider that says nothing costs its caller no more than the
// caller's patience.
func TestHanging(t *testing.T) {
	h := newHostile(t)
	release := make(chan struct{})
	h.answer("/keys", func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-release:
		case <-r.Context().Done():
		}
	})
	defer close(release)
	a := open(t, sqlite(t), oidc.Options{People: h.people()})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	p, err := a.Authenticate(ctx, bearer(h.token(nil)))
	if !errors.Is(err, context.DeadlineExceeded) || !p.IsAnonymous() {
		t.Errorf("%+v, %v", p, err)
	}
}

// FuzzAuthenticate: no credential is anybody's but what the issuer signed, and
// each gets one of the three answers.
func FuzzAuthenticate(f *testing.F) {
	h := newHostile(f)
	a := open(f, sqlite(f), oidc.Options{People: h.people()})
	good := h.token(nil)
	f.Add(good)
	f.Add("..")
	f.Add("eyJhbGciOiJub25lIn0." + strings.Split(good, ".")[1] + ".")
	f.Add(h.sign(jwt.SigningMethodRS256, h.key, map[string]any{"kid": "x"}, h.claims(nil)))
	f.Fuzz(func(t *testing.T, raw string) {
		p, err := a.Authenticate(t.Context(), bearer(raw))
		switch {
		case err == nil && p.Name != "alice", err != nil && !p.IsAnonymous():
			t.Fatalf("%q is %+v, %v", raw, p, err)
		case err != nil && !errors.Is(err, auth.ErrWrong) && !errors.Is(err, auth.ErrNotMine):
			t.Fatalf("%q: %v", raw, err)
		}
	})
}
