package oidc

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-jose/go-jose/v4"
	"golang.org/x/sync/singleflight"

	"berth/auth"
	"berth/oci"
)

const (
	// factsAge is how long keys and addresses are used without a look at the provider:
	// a key that it withdrew is refused after this time.
	factsAge = 15 * time.Minute
	// factsStale is how long they are used while the provider does not answer.
	factsStale = time.Hour
	// retryEvery is the least time between two looks, for an invented key id as
	// for a provider that is down.
	retryEvery = 5 * time.Second
	// lookTimeout bounds a look: the provider's document and its keys.
	lookTimeout = 15 * time.Second
	// maxKeys is how many keys of a provider are kept.
	maxKeys = 100
)

// issuer is a provider and what is known of it. Nothing is asked before the first
// token of it comes, so that Berth starts while the provider is down.
type issuer struct {
	url     string
	vouched bool // the operator named it
	client  *http.Client
	algs    []string
	clock   func() time.Time

	looks singleflight.Group
	mu    sync.Mutex
	known *facts    // of the last look that succeeded
	tried time.Time // when the last look ended
	err   error     // of the last look
}

// facts are what a provider published. They are never changed, only replaced.
type facts struct {
	provider *oidc.Provider
	keys     []jose.JSONWebKey
	read     time.Time
}

func newIssuer(url string, vouched bool, client *http.Client, o Options) *issuer {
	return &issuer{url: url, vouched: vouched, client: client, algs: o.Algorithms, clock: o.Clock}
}

// facts gives what is known of the provider, at most factsAge old, or factsStale
// when it does not answer. The error is UNAVAILABLE.
func (i *issuer) facts(ctx context.Context) (*facts, error) {
	i.mu.Lock()
	known := i.known
	i.mu.Unlock()
	if known != nil && i.clock().Sub(known.read) < factsAge {
		return known, nil
	}
	fresh, err := i.look(ctx)
	if err != nil && known != nil && i.clock().Sub(known.read) < factsStale && ctx.Err() == nil {
		return known, nil
	}
	return fresh, err
}

// look asks the provider, unless that was done within retryEvery: then it gives
// the outcome of that time. Those who ask at the same time share one look.
func (i *issuer) look(ctx context.Context) (*facts, error) {
	i.mu.Lock()
	known, tried, err := i.known, i.tried, i.err
	i.mu.Unlock()
	if !tried.IsZero() && i.clock().Sub(tried) < retryEvery && (known != nil || err != nil) {
		return known, err
	}
	flight := i.looks.DoChan("", func() (any, error) {
		// One client that hangs up must not fail the others.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lookTimeout)
		defer cancel()
		fresh, err := i.fetch(ctx)
		if err != nil {
			err = oci.Errorf(oci.CodeUnavailable, "the identity provider %s cannot be asked now, try again later", i.url).WithCause(err)
		}
		i.mu.Lock()
		defer i.mu.Unlock()
		i.tried, i.err = i.clock(), err
		if err == nil {
			i.known = fresh
		}
		return fresh, err
	})
	select {
	case result := <-flight:
		fresh, _ := result.Val.(*facts)
		return fresh, result.Err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// maxQuoted bounds what an error repeats of a provider's answer, in bytes.
const maxQuoted = 300

// fetch reads the provider's document (OpenID Connect Discovery, section 4) and its keys.
func (i *issuer) fetch(ctx context.Context) (*facts, error) {
	began := i.clock()
	provider, err := oidc.NewProvider(oidc.ClientContext(ctx, i.client), i.url)
	if err != nil {
		return nil, fmt.Errorf("reading the document of %s: %w", i.url, shortened(err))
	}
	var document struct {
		Keys string `json:"jwks_uri"`
	}
	if err := provider.Claims(&document); err != nil || !askable(document.Keys) {
		return nil, fmt.Errorf("the document of %s names no keys (jwks_uri) at an https address", i.url)
	}
	keys, err := i.fetchKeys(ctx, document.Keys)
	if err != nil {
		return nil, fmt.Errorf("reading the keys of %s: %w", i.url, err)
	}
	return &facts{provider: provider, keys: keys, read: began}, nil
}

func (i *issuer) fetchKeys(ctx context.Context, url string) ([]jose.JSONWebKey, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := i.client.Do(r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body) // the client bounds it
	if err != nil {
		return nil, err
	}
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answered %s", url, resp.Status)
	}
	if err := json.Unmarshal(body, &set); err != nil {
		return nil, fmt.Errorf("%s answered no set of keys: %w", url, shortened(err))
	}
	var keys []jose.JSONWebKey
	for _, raw := range set.Keys {
		var k jose.JSONWebKey
		// A key of a kind that is not known here is passed over (RFC 7517, section 5). One
		// that is not public would make everybody who reads it a signer.
		if json.Unmarshal(raw, &k) == nil && k.Valid() && k.IsPublic() && (k.Use == "" || k.Use == "sig") && len(keys) < maxKeys {
			keys = append(keys, k)
		}
	}
	return keys, nil
}

// shortened keeps a provider's answer, which go-oidc puts into its errors, from
// filling the log.
func shortened(err error) error {
	if text := err.Error(); len(text) > maxQuoted {
		return errors.New(text[:maxQuoted] + "...")
	}
	return err
}

// verified is a token whose signature, issuer and times hold. Whom it is for is
// still to be checked.
type verified struct {
	issuer   string
	audience []string
	expires  time.Time
	typ      string // of the header: what sort of token it says to be
	nonce    string
	claims   claims
}

// verify checks a token: algorithm, signature by a key that the provider
// publishes, issuer, expiry, not-before. Keys, key addresses and certificates in
// the token's own header are not looked at (CVE-2025-24976). The error is
// auth.ErrWrong, or UNAVAILABLE when the provider cannot be asked now.
func (i *issuer) verify(ctx context.Context, raw string) (*verified, error) {
	set := &keySet{issuer: i}
	verifier := oidc.NewVerifier(i.url, set, &oidc.Config{SkipClientIDCheck: true, SupportedSigningAlgs: i.algs, Now: i.clock})
	token, err := verifier.Verify(ctx, raw)
	var expired *oidc.TokenExpiredError
	switch {
	case set.unavailable != nil:
		return nil, set.unavailable
	case errors.As(err, &expired):
		return nil, auth.Wrongf("the token of %s has expired on %s, get a new one", i.url, expired.Expiry.UTC().Format(time.RFC3339))
	case set.payload == nil:
		return nil, auth.Wrongf("the token is not signed by %s with a key that it publishes, or its algorithm is none of those that are taken here", i.url)
	case err != nil:
		return nil, auth.Wrongf("the token of %s does not hold: it is not valid yet, or its claims are malformed", i.url)
	}
	v := &verified{issuer: token.Issuer, audience: token.Audience, expires: token.Expiry, typ: set.typ, nonce: token.Nonce}
	decoder := json.NewDecoder(bytes.NewReader(set.payload))
	decoder.UseNumber() // an id must not pass through a float
	if err := decoder.Decode(&v.claims); err != nil || token.Issuer != i.url {
		return nil, auth.Wrongf("the claims of the token of %s are malformed", i.url)
	}
	return v, nil
}

// keySet verifies the signature of one token, and remembers how that went, for
// go-oidc keeps only the text of an error.
type keySet struct {
	issuer      *issuer
	payload     []byte
	typ         string
	unavailable error
}

// VerifySignature implements oidc.KeySet.
func (s *keySet) VerifySignature(ctx context.Context, raw string) ([]byte, error) {
	algs := make([]jose.SignatureAlgorithm, len(s.issuer.algs))
	for n, alg := range s.issuer.algs {
		algs[n] = jose.SignatureAlgorithm(alg)
	}
	jws, err := jose.ParseSignedCompact(raw, algs)
	if err != nil {
		return nil, err
	}
	header := jws.Signatures[0].Protected
	s.typ, _ = header.ExtraHeaders[jose.HeaderType].(string)
	known, err := s.issuer.facts(ctx)
	if err != nil {
		s.unavailable = err
		return nil, err
	}
	if !known.has(header.KeyID) {
		// The provider may have a new key since.
		if known, err = s.issuer.look(ctx); err != nil {
			s.unavailable = err
			return nil, err
		}
	}
	for _, k := range known.keys {
		if header.KeyID != "" && k.KeyID != header.KeyID || k.Algorithm != "" && k.Algorithm != header.Algorithm {
			continue
		}
		if payload, err := jws.Verify(k.Key); err == nil {
			s.payload = payload
			return payload, nil
		}
	}
	return nil, errors.New("no key of the provider verifies the signature")
}

// has reports whether there is a key of this id; a token without an id may be by any.
func (f *facts) has(kid string) bool {
	return kid == "" || slices.ContainsFunc(f.keys, func(k jose.JSONWebKey) bool { return k.KeyID == kid })
}
