package token

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"berth/auth"
	"berth/metadata"
	"berth/oci"
)

var alice = auth.Principal{Kind: auth.KindUser, ID: 7, Name: "alice"}

// ticker is a clock that tests put forward.
type ticker struct {
	mu  sync.Mutex
	now time.Time
}

func newTicker() *ticker { return &ticker{now: time.Now()} }

func (c *ticker) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *ticker) forward(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// openTicking is openDB with a clock.
func openTicking(t *testing.T, c *ticker) *metadata.DB {
	t.Helper()
	db, err := metadata.Open(t.Context(), metadata.Options{URL: "sqlite:" + filepath.Join(t.TempDir(), "berth.db"), Clock: c.Now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	if _, err := db.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	return db
}

func putService(t *testing.T, db *metadata.DB, s metadata.Service) metadata.Service {
	t.Helper()
	if s.Issuer == "" {
		s.Issuer = "issuer of " + s.Name
	}
	if s.TokenTTL == 0 {
		s.TokenTTL = 5 * time.Minute
	}
	if s.Algorithm == "" {
		s.Algorithm = ES256
	}
	err := db.Update(t.Context(), func(tx *metadata.Tx) (err error) {
		s, _, err = tx.PutService(t.Context(), s)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// verifyAsRegistry checks a token as CNCF distribution does: the first
// certificate of x5c has to lead to one of the bundle, and its key verifies.
func verifyAsRegistry(t *testing.T, now time.Time, bundle []byte, raw string, s metadata.Service) (jwt.MapClaims, error) {
	t.Helper()
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(bundle) {
		t.Fatalf("the bundle has no certificate: %s", bundle)
	}
	claims := jwt.MapClaims{}
	_, err := jwt.ParseWithClaims(raw, claims, func(tok *jwt.Token) (any, error) {
		chain, _ := tok.Header["x5c"].([]any)
		if len(chain) == 0 {
			return nil, errors.New("no x5c")
		}
		der, err := base64.StdEncoding.DecodeString(chain[0].(string))
		if err != nil {
			return nil, err
		}
		leaf, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, err
		}
		if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
			return nil, err
		}
		if kid, err := thumbprint(leaf.PublicKey); err != nil || kid != tok.Header["kid"] {
			t.Errorf("the kid is %v, the certificate's thumbprint is %s, %v", tok.Header["kid"], kid, err)
		}
		return leaf.PublicKey, nil
	}, jwt.WithAudience(s.Name), jwt.WithIssuer(s.Issuer), jwt.WithExpirationRequired(), jwt.WithTimeFunc(func() time.Time { return now }))
	return claims, err
}

// Dockit, works when 14 and 15: keys EC P-256, EC P-384 and RSA, made here or
// brought, sign tokens with the algorithm that belongs to them, x5c and a kid.
func TestDockitWorksWhen14And15(t *testing.T) {
	ctx := t.Context()
	db := openDB(t)
	i := newIssuer(t, db, Options{})
	for _, algorithm := range []string{ES256, ES384, RS256} {
		s := putService(t, db, metadata.Service{Name: "made-" + strings.ToLower(algorithm), Algorithm: algorithm})
		checkService(t, i, s, algorithm)
	}
	p256, p384, bits2048 := ecKey(t, elliptic.P256()), ecKey(t, elliptic.P384()), rsaKey(t, 2048)
	for name, tt := range map[string]struct {
		text      []byte
		algorithm string
	}{
		"pkcs8-ec":     {pkcs8(t, p256), ES256},
		"pkcs8-ec-384": {pkcs8(t, p384), ES384},
		"pkcs8-rsa":    {pkcs8(t, bits2048), RS256},
		"sec1":         {sec1(t, p384), ES384},
		"sec1-openssl": {append(pem.EncodeToMemory(&pem.Block{Type: "EC PARAMETERS", Bytes: []byte{6, 1, 0}}), sec1(t, p256)...), ES256},
		"pkcs1":        {pkcs1(bits2048), RS256},
		"combined":     {append(pkcs8(t, p384), selfSigned(t, p384)...), ES384},
		"combined-rsa": {append(selfSigned(t, bits2048), pkcs1(bits2048)...), RS256},
	} {
		t.Run(name, func(t *testing.T) {
			m, err := ParseMaterial(tt.text)
			if err != nil {
				t.Fatal(err)
			}
			s := putService(t, db, metadata.Service{Name: name})
			now := time.Duration(0)
			if _, err := i.Keys().Rotate(ctx, name, Rotation{Material: m, Delay: &now}); err != nil {
				t.Fatal(err)
			}
			checkService(t, i, s, tt.algorithm)
			if bundle, err := i.Keys().Bundle(ctx, &s); err != nil || strings.Contains(name, "combined") && !strings.Contains(string(bundle), string(pemChain(m.chain))) {
				t.Errorf("the brought certificate is not in the bundle: %v\n%s", err, bundle)
			}
		})
	}
}

func checkService(t *testing.T, i *Issuer, s metadata.Service, algorithm string) {
	t.Helper()
	raw, expires, err := i.IssueFor(t.Context(), s, alice, access)
	if err != nil {
		t.Fatal(err)
	}
	if d := time.Until(expires); d > s.TokenTTL || d < s.TokenTTL-time.Minute {
		t.Errorf("%s: the token lives for %s", s.Name, d)
	}
	bundle, err := i.Keys().Bundle(t.Context(), &s)
	if err != nil {
		t.Fatal(err)
	}
	claims, err := verifyAsRegistry(t, time.Now(), bundle, raw, s)
	if err != nil {
		t.Fatalf("%s: %v", s.Name, err)
	}
	if claims["sub"] != "alice" || claims["aud"] != s.Name || claims["iss"] != s.Issuer || claims["jti"] == "" || claims["berth"] != nil {
		t.Errorf("%s: claims %v", s.Name, claims)
	}
	tok, _, err := jwt.NewParser().ParseUnverified(raw, jwt.MapClaims{})
	if err != nil || tok.Header["alg"] != algorithm || tok.Header["typ"] != "JWT" {
		t.Errorf("%s: header %v, %v", s.Name, tok.Header, err)
	}
	set, err := i.Keys().JWKS(t.Context(), &s)
	if err != nil || !slices.ContainsFunc(set.Keys, func(k JWK) bool {
		return k.ID == tok.Header["kid"] && k.Algorithm == algorithm && k.Use == "sig"
	}) {
		t.Errorf("%s: the key is not in the JWKS: %+v, %v", s.Name, set, err)
	}
	// A token for another service opens nothing here: cloudflare/serverless-registry#154.
	if c, err := i.Verify(t.Context(), raw, s.Name); !errors.Is(err, ErrInvalid) {
		t.Errorf("%s: our own verification takes the token of another service: %+v, %v", s.Name, c, err)
	}
}

func ecKey(t *testing.T, c elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(c, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func rsaKey(t *testing.T, bits int) *rsa.PrivateKey {
	t.Helper()
	k, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func pkcs8(t *testing.T, k any) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

func sec1(t *testing.T, k *ecdsa.PrivateKey) []byte {
	t.Helper()
	der, err := x509.MarshalECPrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})
}

func pkcs1(k *rsa.PrivateKey) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(k)})
}

func selfSigned(t *testing.T, k any) []byte {
	t.Helper()
	m, err := newMaterial(k)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.certify("test", time.Now(), 24*time.Hour); err != nil {
		t.Fatal(err)
	}
	return []byte(pemChain(m.chain))
}

func TestUnusableKeys(t *testing.T) {
	p256 := ecKey(t, elliptic.P256())
	m, err := newMaterial(p256)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.certify("old", time.Now().Add(-48*time.Hour), 24*time.Hour); err != nil {
		t.Fatal(err)
	}
	ended, err := ParseMaterial(pkcs8(t, p256), []byte(pemChain(m.chain)))
	if err != nil {
		t.Fatal(err)
	}
	if err := ended.usable(time.Now()); err == nil || !strings.Contains(err.Error(), "ended") {
		t.Errorf("a certificate that has ended: %v", err)
	}
	encrypted := pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: []byte("x")})
	old := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Headers: map[string]string{"Proc-Type": "4,ENCRYPTED", "DEK-Info": "AES-128-CBC,00"}, Bytes: []byte("x")})
	for name, tt := range map[string]struct {
		text []byte
		says string
	}{
		"nothing":                {nil, "no private key"},
		"no PEM":                 {[]byte("<html>"), "no private key"},
		"a certificate alone":    {selfSigned(t, p256), "no private key"},
		"EC P-224":               {pkcs8(t, ecKey(t, elliptic.P224())), "P-224"},
		"EC P-521":               {pkcs8(t, ecKey(t, elliptic.P521())), "P-521"},
		"RSA of 1024 bits":       {pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: weakRSA(t)}), "RSA"},
		"encrypted":              {encrypted, "encrypted"},
		"encrypted, old":         {old, "encrypted"},
		"damaged":                {pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("x")}), "damaged"},
		"two keys":               {append(pkcs8(t, p256), pkcs8(t, p256)...), "two"},
		"somebody's certificate": {append(pkcs8(t, p256), selfSigned(t, ecKey(t, elliptic.P256()))...), "none of the certificates"},
		"a damaged certificate":  {append(pkcs8(t, p256), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("x")})...), "certificate"},
		"a public key":           {pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: []byte("x")}), "PUBLIC KEY"},
		"far too large":          {[]byte(strings.Repeat("x", maxKeyFile+1)), "larger"},
		"a chain without end":    {append(pkcs8(t, p256), []byte(strings.Repeat(string(selfSigned(t, p256)), maxChain+1))...), "more than"},
	} {
		if _, err := ParseMaterial(tt.text); err == nil || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: %v, want an error that says %q", name, err, tt.says)
		}
	}
}

// weakRSA is a PKCS #1 key of 1024 bits, which Go makes only when it is told to.
func weakRSA(t *testing.T) []byte {
	t.Helper()
	t.Setenv("GODEBUG", "rsa1024min=0")
	k, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	return x509.MarshalPKCS1PrivateKey(k)
}

// Dockit, works when 13: a new key is published before it signs; what the old
// one signed verifies until it ends; then the old one goes.
func TestDockitWorksWhen13(t *testing.T) {
	ctx := t.Context()
	clock := newTicker()
	db := openTicking(t, clock)
	delay := time.Hour
	i := newIssuer(t, db, Options{Clock: clock.Now, Keys: KeyOptions{PublishDelay: delay}})
	replica := newIssuer(t, db, Options{Clock: clock.Now})
	s := putService(t, db, metadata.Service{Name: "registry.example.com"})
	issue := func(i *Issuer) (string, any) {
		t.Helper()
		raw, _, err := i.IssueFor(ctx, s, alice, access)
		if err != nil {
			t.Fatal(err)
		}
		tok, _, err := jwt.NewParser().ParseUnverified(raw, jwt.MapClaims{})
		if err != nil {
			t.Fatal(err)
		}
		return raw, tok.Header["kid"]
	}
	bundle := func() []byte {
		t.Helper()
		b, err := replica.Keys().Bundle(ctx, &s)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	certificates := func(b []byte) int { return strings.Count(string(b), "BEGIN CERTIFICATE") }

	_, first := issue(i)
	info, err := i.Keys().Rotate(ctx, s.Name, Rotation{})
	if err != nil || info.State != KeyPublished || info.KID == first {
		t.Fatalf("%+v, %v", info, err)
	}
	clock.forward(2 * time.Second) // the replica looks again
	both := bundle()
	if certificates(both) != 2 {
		t.Errorf("the bundle has %d certificates at once after the rotation, want 2", certificates(both))
	}
	before, kid := issue(i)
	if kid != first {
		t.Errorf("the new key signs before it could be known")
	}
	clock.forward(delay)
	after, kid := issue(i)
	if kid != info.KID {
		t.Errorf("the new key does not sign after its delay")
	}
	for _, raw := range []string{before, after} {
		_, err := verifyAsRegistry(t, clock.Now(), both, raw, s)
		if raw == after && err != nil {
			t.Errorf("with the bundle of before the switch: %v", err)
		}
		if raw == before && (err == nil || !strings.Contains(err.Error(), "expired")) {
			t.Errorf("a token of an hour ago: %v", err)
		}
	}
	if _, kid := issue(replica); kid != info.KID {
		t.Errorf("the replica signs with another key")
	}
	if n, err := i.Keys().Maintain(ctx); n != 0 || err != nil {
		t.Errorf("the old key went with tokens of it alive: %d, %v", n, err)
	}
	clock.forward(s.TokenTTL + keyringAge + 2*verifyLeeway)
	if n, err := i.Keys().Maintain(ctx); n != 1 || err != nil {
		t.Errorf("the old key stays: %d, %v", n, err)
	}
	if certificates(bundle()) != 1 {
		t.Errorf("the bundle has %d certificates at the end, want 1", certificates(bundle()))
	}
}

// Our own tokens survive a rotation on every replica, refresh tokens too, and
// end with a key that is retired.
func TestRotateOwn(t *testing.T) {
	ctx := t.Context()
	clock := newTicker()
	db := openTicking(t, clock)
	i, replica := newIssuer(t, db, Options{Clock: clock.Now}), newIssuer(t, db, Options{Clock: clock.Now})
	old, _, err := i.Issue(ctx, alice, service, access)
	if err != nil {
		t.Fatal(err)
	}
	refresh, err := i.IssueRefresh(ctx, alice, service, "proof")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := i.Verify(ctx, old, service); err != nil { // and now it is remembered
		t.Fatal(err)
	}
	for _, algorithm := range []string{EdDSA, RS256, ES384} {
		if _, err := i.Keys().Rotate(ctx, "", Rotation{Algorithm: algorithm}); err != nil {
			t.Fatal(err)
		}
		clock.forward(2 * time.Second)
		raw, _, err := i.Issue(ctx, alice, service, access)
		if err != nil {
			t.Fatal(err)
		}
		tok, _, err := jwt.NewParser().ParseUnverified(raw, jwt.MapClaims{})
		if err != nil || tok.Header["alg"] != algorithm || tok.Header["x5c"] != nil {
			t.Errorf("header %v, %v, want %s", tok.Header, err, algorithm)
		}
		for _, any := range []*Issuer{i, replica} {
			for _, one := range []string{old, raw} {
				if _, err := any.Verify(ctx, one, service); err != nil {
					t.Errorf("after the rotation to %s: %v", algorithm, err)
				}
			}
		}
	}
	clock.forward(80 * 24 * time.Hour)
	if _, err := i.Keys().Maintain(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := replica.VerifyRefresh(ctx, refresh, service); err != nil {
		t.Errorf("a refresh token after 80 days and three rotations: %v", err)
	}
	// Retired keys end at once what they signed.
	fresh, _, err := i.Issue(ctx, alice, service, access)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := i.Verify(ctx, fresh, service); err != nil {
		t.Fatal(err)
	}
	list, err := i.Keys().List(ctx)
	if err != nil || len(list) != 4 || list[0].State != KeySigning || list[1].State != KeyVerifying || list[3].ExpiresAt == nil {
		t.Fatalf("%+v, %v", list, err)
	}
	if _, err := i.Keys().Rotate(ctx, "", Rotation{}); err != nil {
		t.Fatal(err)
	}
	if err := i.Keys().Retire(ctx, "", list[0].KID, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := i.Verify(ctx, fresh, service); !errors.Is(err, ErrInvalid) {
		t.Errorf("what a retired key signed: %v", err)
	}
}

func TestRetire(t *testing.T) {
	ctx := t.Context()
	clock := newTicker()
	db := openTicking(t, clock)
	i := newIssuer(t, db, Options{Clock: clock.Now})
	s := putService(t, db, metadata.Service{Name: "one"})
	if err := i.Keys().Ensure(ctx, s); err != nil {
		t.Fatal(err)
	}
	mine := func() (list []KeyInfo) {
		t.Helper()
		all, err := i.Keys().List(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, k := range all {
			if k.Service == s.Name {
				list = append(list, k)
			}
		}
		return list
	}
	first := mine()[0].KID
	if err := i.Keys().Retire(ctx, "one", first, nil); !errors.Is(err, oci.ErrConflict) {
		t.Errorf("the only key: %v", err)
	}
	if err := i.Keys().Retire(ctx, "one", "nope", nil); !errors.Is(err, oci.ErrNotFound) {
		t.Errorf("an unknown key: %v", err)
	}
	if err := i.Keys().Retire(ctx, "", first, nil); !errors.Is(err, oci.ErrNotFound) {
		t.Errorf("the key of another service: %v", err)
	}
	day := 24 * time.Hour
	second, err := i.Keys().Rotate(ctx, "one", Rotation{Delay: &day})
	if err != nil {
		t.Fatal(err)
	}
	if err := i.Keys().Retire(ctx, "one", first, nil); !errors.Is(err, oci.ErrConflict) {
		t.Errorf("the only one that signs now: %v", err)
	}
	// The published one goes, and the first has no successor any more.
	if err := i.Keys().Retire(ctx, "one", second.KID, nil); err != nil {
		t.Fatal(err)
	}
	clock.forward(30 * day)
	if n, err := i.Keys().Maintain(ctx); n != 0 || err != nil {
		t.Fatalf("%d, %v", n, err)
	}
	if list := mine(); len(list) != 1 || list[0].KID != first || list[0].State != KeySigning || list[0].ExpiresAt != nil {
		t.Errorf("%+v", list)
	}
	for name, r := range map[string]Rotation{
		"an algorithm that nobody knows": {Algorithm: "HS256"},
		"Ed25519 for another registry":   {Algorithm: EdDSA},
		"a delay of years":               {Delay: pointer(1000 * day)},
		"a delay that goes back":         {Delay: pointer(-day)},
	} {
		if _, err := i.Keys().Rotate(ctx, "one", r); !errors.Is(err, oci.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := i.Keys().Rotate(ctx, "two", Rotation{}); !errors.Is(err, oci.ErrNotFound) {
		t.Errorf("an unknown service: %v", err)
	}
}

// TestRetiredElsewhere: a replica that issues no tokens of its own, and only checks
// them, refuses those of a key that another one has retired.
func TestRetiredElsewhere(t *testing.T) {
	ctx := t.Context()
	clock := newTicker()
	db := openTicking(t, clock)
	one := newIssuer(t, db, Options{Clock: clock.Now, TTL: time.Hour})
	other := newIssuer(t, db, Options{Clock: clock.Now, TTL: time.Hour})
	raw, _, err := one.Issue(ctx, auth.Principal{Kind: auth.KindUser, ID: 1, Name: "alice"}, service, access)
	if err != nil {
		t.Fatal(err)
	}
	stolen := one.Keys().current.Load().rings[0][0].kid
	if _, err := one.Keys().Rotate(ctx, "", Rotation{}); err != nil {
		t.Fatal(err)
	}
	if _, err := other.Verify(ctx, raw, service); err != nil {
		t.Fatal(err)
	}
	if err := one.Keys().Retire(ctx, "", stolen, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := one.Verify(ctx, raw, service); !errors.Is(err, ErrInvalid) {
		t.Errorf("where it was retired: %v", err)
	}
	clock.forward(keyringAge + time.Second)
	if _, err := other.Verify(ctx, raw, service); !errors.Is(err, ErrInvalid) {
		t.Errorf("elsewhere, remembered: %v", err)
	}
	// When the database is away, keys that are known go on, as they do for issuing.
	db.Close()
	clock.forward(keyringAge + time.Second)
	if raw, _, err = other.Issue(ctx, auth.Principal{Kind: auth.KindUser, ID: 1, Name: "alice"}, service, access); err != nil {
		t.Fatal(err)
	}
	if _, err := other.Verify(ctx, raw, service); err != nil {
		t.Errorf("without the database: %v", err)
	}
}

func pointer[T any](v T) *T { return &v }

// A certificate that was made here is replaced, with its key, before it ends.
func TestCertificateIsRenewed(t *testing.T) {
	ctx := t.Context()
	clock := newTicker()
	db := openTicking(t, clock)
	i := newIssuer(t, db, Options{Clock: clock.Now, Keys: KeyOptions{CertificateLife: 100 * 24 * time.Hour, PublishDelay: 24 * time.Hour}})
	s := putService(t, db, metadata.Service{Name: "one"})
	for range 300 {
		raw, _, err := i.IssueFor(ctx, s, alice, nil)
		if err != nil {
			t.Fatal(err)
		}
		bundle, err := i.Keys().Bundle(ctx, &s)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := verifyAsRegistry(t, clock.Now(), bundle, raw, s); err != nil {
			t.Fatal(err)
		}
		clock.forward(24 * time.Hour)
		if _, err := i.Keys().Maintain(ctx); err != nil {
			t.Fatal(err)
		}
	}
	list, err := i.Keys().List(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(slices.DeleteFunc(list, func(k KeyInfo) bool { return k.Service != "one" })); n < 1 || n > 2 {
		t.Errorf("%d keys are left", n)
	}
}

// Dockit, works when 14, hot reload: a key from a file is followed when it
// changes, as a rotation; a broken file leaves the old key in force.
func TestDockitWorksWhen14HotReload(t *testing.T) {
	ctx := context.Background()
	clock := newTicker()
	db := openTicking(t, clock)
	dir := t.TempDir()
	file, own := filepath.Join(dir, "tls.pem"), filepath.Join(dir, "own.key")
	certificates := filepath.Join(dir, "own.crt")
	write := func(path string, text []byte) {
		t.Helper()
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	first, second := ecKey(t, elliptic.P384()), rsaKey(t, 2048)
	ours := ecKey(t, elliptic.P256())
	write(file, append(pkcs8(t, first), selfSigned(t, first)...))
	write(own, sec1(t, ours))
	write(certificates, selfSigned(t, ours))
	o := KeyOptions{PublishDelay: time.Hour, Files: []KeyFile{{Service: AllServices, Key: file}, {Key: own, Certificates: certificates}}}
	i := newIssuer(t, db, Options{Clock: clock.Now, Keys: o})
	s := putService(t, db, metadata.Service{Name: "one"})
	signer := func(s metadata.Service) string {
		t.Helper()
		k, err := i.keys.signing(ctx, s)
		if err != nil {
			t.Fatal(err)
		}
		return k.kid
	}
	kid := func(k any) string {
		m, err := newMaterial(k)
		if err != nil {
			t.Fatal(err)
		}
		return m.kid
	}
	// A service's first key is the file's, without a delay: nobody knows another.
	if signer(s) != kid(first) || signer(metadata.Service{}) != kid(ours) {
		t.Errorf("the files' keys do not sign")
	}
	checkBundle := func(want ...any) {
		t.Helper()
		clock.forward(2 * time.Second)
		b, err := i.Keys().Bundle(ctx, &s)
		if err != nil || strings.Count(string(b), "BEGIN") != len(want) {
			t.Errorf("the bundle is %s, %v, want %d certificates", b, err, len(want))
		}
	}
	for range 3 { // nothing changed
		if err := i.Keys().LoadFiles(ctx); err != nil {
			t.Fatal(err)
		}
	}
	checkBundle(first)
	if _, err := i.Keys().Rotate(ctx, "one", Rotation{}); !errors.Is(err, oci.ErrConflict) {
		t.Errorf("rotating what comes from a file: %v", err)
	}

	for _, broken := range [][]byte{nil, []byte("<html>"), pkcs8(t, ecKey(t, elliptic.P521())), append(pkcs8(t, second), selfSigned(t, first)...)} {
		write(file, broken)
		if err := i.Keys().LoadFiles(ctx); err == nil || !strings.Contains(err.Error(), "tls.pem") {
			t.Errorf("a broken file: %v", err)
		}
		if signer(s) != kid(first) {
			t.Errorf("a broken file changed the key")
		}
	}
	write(file, append(pkcs8(t, second), selfSigned(t, second)...))
	if err := i.Keys().LoadFiles(ctx); err != nil {
		t.Fatal(err)
	}
	checkBundle(first, second)
	if signer(s) != kid(first) {
		t.Errorf("the new key signs before its delay")
	}
	clock.forward(time.Hour)
	if signer(s) != kid(second) {
		t.Errorf("the new key does not sign after its delay")
	}
	// The same key with another certificate, as cert-manager renews it.
	again := selfSigned(t, ours)
	write(certificates, again)
	if err := i.Keys().LoadFiles(ctx); err != nil {
		t.Fatal(err)
	}
	clock.forward(2 * time.Second)
	if b, err := i.Keys().Bundle(ctx, nil); err != nil || !strings.Contains(string(b), string(again)) {
		t.Errorf("the renewed certificate is not in the bundle: %v", err)
	}
	// The settings of a start that names a file which is broken are an error.
	write(file, nil)
	if _, err := New(ctx, db, Options{Clock: clock.Now, Keys: o}); err == nil || !strings.Contains(err.Error(), "tls.pem") {
		t.Errorf("a start with a broken file: %v", err)
	}
}

// Ed25519 signs our own tokens, and is not in the bundle.
func TestEd25519(t *testing.T) {
	ctx := t.Context()
	db := openDB(t)
	i := newIssuer(t, db, Options{Keys: KeyOptions{Algorithm: EdDSA}})
	raw, _, err := i.Issue(ctx, auth.Anonymous(), service, access)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := i.Verify(ctx, raw, service); err != nil {
		t.Error(err)
	}
	set, err := i.Keys().JWKS(ctx, nil)
	if err != nil || len(set.Keys) != 1 || set.Keys[0].KeyType != "OKP" || set.Keys[0].Algorithm != EdDSA {
		t.Errorf("%+v, %v", set, err)
	}
	if b, err := i.Keys().Bundle(ctx, nil); !errors.Is(err, oci.ErrNotFound) {
		t.Errorf("the bundle is %s, %v", b, err)
	}
	// Another algorithm in the settings of the next start is a rotation.
	i = newIssuer(t, db, Options{Keys: KeyOptions{Algorithm: ES384}})
	if _, err := i.Verify(ctx, raw, service); err != nil {
		t.Errorf("after the change of the algorithm: %v", err)
	}
	raw, _, err = i.Issue(ctx, auth.Anonymous(), service, access)
	if err != nil {
		t.Fatal(err)
	}
	if tok, _, err := jwt.NewParser().ParseUnverified(raw, jwt.MapClaims{}); err != nil || tok.Header["alg"] != ES384 {
		t.Errorf("%v, %v", tok.Header, err)
	}
}

// The thumbprints of RFC 7638, section 3.1, and of RFC 8037, appendix A.3.
func TestThumbprintExamples(t *testing.T) {
	n, err := base64.RawURLEncoding.DecodeString("0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw")
	if err != nil {
		t.Fatal(err)
	}
	public := &rsa.PublicKey{E: 65537}
	public.N = new(big.Int).SetBytes(n)
	if got, err := thumbprint(public); err != nil || got != "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs" {
		t.Errorf("%s, %v", got, err)
	}
	x, err := base64.RawURLEncoding.DecodeString("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := thumbprint(ed25519.PublicKey(x)); err != nil || got != "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k" {
		t.Errorf("%s, %v", got, err)
	}
}

// Whatever a file holds: it is a key that signs, or an error that does not repeat it.
func FuzzParseMaterial(f *testing.F) {
	m, err := generate(ES256)
	if err != nil {
		f.Fatal(err)
	}
	if err := m.certify("fuzz", time.Now(), time.Hour); err != nil {
		f.Fatal(err)
	}
	private, certificates, err := m.encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(private), []byte(certificates))
	f.Add([]byte(certificates+private), []byte(nil))
	f.Add([]byte("-----BEGIN RSA PRIVATE KEY-----\nAAAA\n-----END RSA PRIVATE KEY-----\n"), []byte("x"))
	f.Fuzz(func(t *testing.T, key, certificates []byte) {
		m, err := ParseMaterial(key, certificates)
		if err != nil {
			return
		}
		if signingMethod(m.algorithm) == nil || len(m.kid) != 43 || len(m.chain) > maxChain {
			t.Errorf("%+v", m)
		}
		if _, err := jwt.New(signingMethod(m.algorithm)).SignedString(m.private); err != nil {
			t.Errorf("the key does not sign: %v", err)
		}
	})
}
