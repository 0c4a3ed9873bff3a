package oidc_test

import (
	"crypto/x509"
	"errors"
	"net/http/httptest"
	"reflect"
	"testing"

	"github.com/golang-jwt/jwt/v5"

	"berth/auth"
	"berth/auth/oidc"
	"berth/metadata"
	"berth/metadata/metadatatest"
	"berth/oci"
)

// TestMapping: claims become name, teams, groups and roles as the settings say, and
// what the provider does not say any more is gone at the next sign-in
// (CVE-2025-23208 was that groups were only ever added).
func TestMapping(t *testing.T) {
	metadatatest.Each(t, func(t *testing.T, db *metadata.DB) {
		ctx := t.Context()
		h := newHostile(t)
		people := h.people()
		var err error
		if people.Teams, err = oidc.ParseTeams([]string{"dev=core:member", "leads=core:maintainer", "dev=web:reader", "cn=ops,dc=x=ops:member"}); err != nil {
			t.Fatal(err)
		}
		people.GroupsClaim, people.TeamsClaim, people.AdminGroup = "realm_access.roles", "berth/teams", "admins"
		a := open(t, db, oidc.Options{People: people})
		signIn := func(roles any, teams any) (auth.Principal, map[string]string, []string) {
			t.Helper()
			p, err := a.Authenticate(ctx, bearer(h.token(func(c jwt.MapClaims) {
				c["realm_access"] = map[string]any{"roles": roles}
				c["berth/teams"] = teams
			})))
			if err != nil {
				t.Fatal(err)
			}
			var byTeam map[string]string
			var groups []string
			if err := db.View(ctx, func(tx *metadata.Tx) (err error) {
				byTeam, groups, err = tx.ProviderFacts(ctx, p.ID)
				return err
			}); err != nil {
				t.Fatal(err)
			}
			return p, byTeam, groups
		}
		p, teams, groups := signIn([]string{"dev", "leads", "admins", "cn=ops,dc=x"}, []string{"data:reader", "data:member", "other program", "x:owner"})
		if want := map[string]string{"core": "maintainer", "web": "reader", "ops": "member", "data": "member"}; !reflect.DeepEqual(teams, want) || !p.IsAdmin() {
			t.Errorf("%v, admin %v, want %v", teams, p.IsAdmin(), want)
		}
		if want := []string{"admins", "cn=ops,dc=x", "dev", "leads"}; !reflect.DeepEqual(groups, want) {
			t.Errorf("groups %v, want %v", groups, want)
		}
		again, teams, groups := signIn("dev other", nil)
		if again.ID != p.ID || again.IsAdmin() || !reflect.DeepEqual(teams, map[string]string{"core": "member", "web": "reader"}) || len(groups) != 2 {
			t.Errorf("after most was taken away: %+v, %v, %v", again, teams, groups)
		}
		if _, teams, groups = signIn(nil, nil); len(teams)+len(groups) != 0 {
			t.Errorf("after all was taken away: %v, %v", teams, groups)
		}
	})
}

// TestEmail: an address is a name only when the provider has verified it, for it
// could be anybody's.
func TestEmail(t *testing.T) {
	h := newHostile(t)
	people := h.people()
	people.UsernameClaim = "email"
	a := open(t, sqlite(t), oidc.Options{People: people})
	for _, verified := range []any{nil, false, "false", "yes", []bool{true, true}} {
		if p, err := a.Authenticate(t.Context(), bearer(h.token(func(c jwt.MapClaims) { c["email"], c["email_verified"] = "a@example.com", verified }))); !errors.Is(err, auth.ErrWrong) {
			t.Errorf("verified %v: %+v, %v", verified, p, err)
		}
	}
	p, err := a.Authenticate(t.Context(), bearer(h.token(func(c jwt.MapClaims) { c["email"], c["email_verified"] = "a@example.com", true })))
	if err != nil || p.Name != "a@example.com" {
		t.Errorf("%+v, %v", p, err)
	}
}

// TestSubjects: a subject belongs to its issuer, so another provider in the
// settings does not inherit the users of the former one.
func TestSubjects(t *testing.T) {
	db := sqlite(t)
	first, second := newHostile(t), newHostile(t)
	if _, err := open(t, db, oidc.Options{People: first.people()}).Authenticate(t.Context(), bearer(first.token(nil))); err != nil {
		t.Fatal(err)
	}
	if p, err := open(t, db, oidc.Options{People: second.people()}).Authenticate(t.Context(), bearer(second.token(nil))); !errors.Is(err, auth.ErrWrong) {
		t.Errorf("the same subject and name at another issuer: %+v, %v", p, err)
	}
}

func TestOptions(t *testing.T) {
	good := func() *oidc.People {
		return &oidc.People{Issuer: "https://id.example.com", ClientID: "berth", UsernameClaim: "sub"}
	}
	for name, change := range map[string]func(o *oidc.Options){
		"an issuer by http":  func(o *oidc.Options) { o.People.Issuer = "http://id.example.com" },
		"an issuer and more": func(o *oidc.Options) { o.People.Issuer = "https://id.example.com?x=1" },
		"no client":          func(o *oidc.Options) { o.People.ClientID = "" },
		"no name":            func(o *oidc.Options) { o.People.UsernameClaim = "" },
		"alg none":           func(o *oidc.Options) { o.Algorithms = []string{"none"} },
		"a shared key":       func(o *oidc.Options) { o.Algorithms = []string{"RS256", "HS256"} },
		"a trusted issuer":   func(o *oidc.Options) { o.TrustedIssuers = []string{"http://10.0.0.1"} },
	} {
		o := oidc.Options{People: good()}
		change(&o)
		if _, err := oidc.New(o); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
	for _, bad := range []string{"dev", "dev=core", "dev=core:owner", "=core:member", "dev=:member"} {
		if teams, err := oidc.ParseTeams([]string{bad}); err == nil {
			t.Errorf("%q is taken: %v", bad, teams)
		}
	}
}

// TestOwnAuthority: an issuer whose certificate is of the operator's own authority is
// asked when that is named, and otherwise is none that can be asked.
func TestOwnAuthority(t *testing.T) {
	h := newHostile(t)
	secure := httptest.NewTLSServer(h.Config.Handler)
	t.Cleanup(secure.Close)
	h.Server.URL = secure.URL // what it calls itself
	roots := x509.NewCertPool()
	roots.AddCert(secure.Certificate())
	raw := h.token(nil)
	if p, err := open(t, sqlite(t), oidc.Options{People: h.people(), Roots: roots}).Authenticate(t.Context(), bearer(raw)); err != nil || p.Name != "alice" {
		t.Errorf("%+v, %v", p, err)
	}
	if p, err := open(t, sqlite(t), oidc.Options{People: h.people()}).Authenticate(t.Context(), bearer(raw)); !errors.Is(err, oci.ErrUnavailable) {
		t.Errorf("without the authority: %+v, %v", p, err)
	}
}
