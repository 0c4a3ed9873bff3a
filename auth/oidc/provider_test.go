package oidc_test

import (
	"errors"
	"net/url"
	"strings"
	"testing"
	"time"

	"golang.org/x/oauth2"

	"berth/auth"
	"berth/auth/authtest"
	"berth/auth/oidc"
	"berth/metadata"
	"berth/oci"
	"berth/testenv"
)

const callback = "https://registry.example.com/sign-in/callback"

// real is a real OpenID provider with the settings that go with it.
func real(t *testing.T) (*testenv.OIDCProvider, oidc.Options) {
	p := testenv.OIDC(t, testenv.OIDCSettings{
		Accounts: map[string]map[string]any{
			"alice": {"groups": []string{"dev"}, "email": "alice@example.com", "email_verified": true},
			"bob":   {"groups": []string{}},
		},
		Jobs: map[string]map[string]any{"ci": {"repository": "acme/app", "ref": "refs/heads/main"}, "fork": {"repository": "evil/app"}},
	})
	return p, oidc.Options{
		TrustedIssuers: []string{p.Issuer},
		People: &oidc.People{
			Issuer: p.Issuer, ClientID: testenv.OIDCWebClient, ClientSecret: testenv.OIDCWebSecret, ProgramClientID: testenv.OIDCCLIClient,
			Scopes: []string{"openid", "email", "offline_access"}, UsernameClaim: "preferred_username", GroupsClaim: "groups",
			Teams: map[string][]oidc.TeamRole{"dev": {{Team: "core", Role: "member"}}},
		},
	}
}

// TestBrowser is the code flow with PKCE at a real provider.
func TestBrowser(t *testing.T) {
	p, options := real(t)
	db := sqlite(t)
	clock := &clock{now: time.Now()}
	options.Clock = clock.Now
	a := open(t, db, options)
	verifier := oauth2.GenerateVerifier()
	signIn := func(nonce, proof string) (auth.Principal, error) {
		t.Helper()
		to, err := a.AuthURL(t.Context(), callback, "s", "n", verifier)
		if err != nil {
			t.Fatal(err)
		}
		back, err := url.Parse(p.Browse(to, "alice"))
		if err != nil || !strings.HasPrefix(back.String(), callback+"?") || back.Query().Get("state") != "s" {
			t.Fatalf("the provider sent the browser to %s, %v", back, err)
		}
		return a.Exchange(t.Context(), callback, back.Query().Get("code"), nonce, proof)
	}
	alice, err := signIn("n", verifier)
	if err != nil || alice.String() != "alice" || alice.Claims["email"] != "alice@example.com" {
		t.Fatalf("%+v, %v", alice, err)
	}
	if d, err := auth.NewPolicy(db, auth.PolicyOptions{}).Actions(t.Context(), alice, "core/app"); err != nil || d.Actions != auth.Pull|auth.Push {
		t.Errorf("a member of the group dev may %s in core, %v", d.Actions, err)
	}
	if other, err := signIn("n", oauth2.GenerateVerifier()); !errors.Is(err, auth.ErrWrong) {
		t.Errorf("a code without its PKCE verifier: %+v, %v", other, err)
	}
	if other, err := signIn("another nonce", verifier); !errors.Is(err, auth.ErrWrong) {
		t.Errorf("the ID token of another sign-in: %+v, %v", other, err)
	}

	// The provider goes and comes back with other keys.
	p.Stop()
	fresh := open(t, db, options)
	if _, err := fresh.AuthURL(t.Context(), callback, "s", "n", verifier); !errors.Is(err, oci.ErrUnavailable) {
		t.Errorf("without a provider: %v", err)
	}
	if _, err := a.Exchange(t.Context(), callback, "code", "n", verifier); !errors.Is(err, oci.ErrUnavailable) {
		t.Errorf("without a provider: %v", err)
	}
	p.Start()
	clock.advance(6 * time.Second)
	if alice, err = signIn("n", verifier); err != nil || alice.String() != "alice" {
		t.Errorf("after the provider changed its keys: %+v, %v", alice, err)
	}
}

// TestRealJobs is the contract with the tokens of a real provider.
func TestRealJobs(t *testing.T) {
	p, options := real(t)
	ci, fork, elsewhere := p.JobToken("ci", "https://registry.example.com"), p.JobToken("fork", "https://registry.example.com"), p.JobToken("ci", "https://elsewhere.example.com")
	authtest.Test(t, func(t *testing.T) authtest.Fixture {
		db := sqlite(t)
		err := db.Update(t.Context(), func(tx *metadata.Tx) error {
			if _, err := tx.CreateTeam(t.Context(), "core", ""); err != nil {
				return err
			}
			_, _, err := tx.PutTrustPolicy(t.Context(), metadata.TrustPolicy{
				Team: "core", Name: "main", Issuer: p.Issuer, Audience: "https://registry.example.com", Robot: "ci", Repositories: "*",
				Claims: map[string]string{"repository": "acme/app", "ref": "refs/heads/*"}, Actions: []string{"push"}, MaxLife: 15 * time.Minute,
			})
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return authtest.Fixture{
			Authenticator: open(t, db, options),
			Good:          auth.Credentials{Username: "oidc", Password: ci},
			Who:           "core+ci",
			Wrong:         []auth.Credentials{bearer(fork), bearer(elsewhere), bearer(ci[:len(ci)-4] + "AAAA")},
			Break:         p.Stop,
		}
	})
}
