package server

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
)

// TestTokenExchange: what RFC 8693 asks for, and what is no token of a provider.
// That one of a real provider is exchanged is tested in cmd/berth.
func TestTokenExchange(t *testing.T) {
	w := small(t, nil)
	foreign := "eyJhbGciOiJub25lIn0." + "eyJpc3MiOiJodHRwczovL2lkLmV4YW1wbGUuY29tIn0" + ".AAAA" // {"iss":"https://id.example.com"}
	ours := w.jwt("mo", "berth:api:*")
	bearer := strings.TrimPrefix(ours, "jwt:")
	for _, header := range []string{"Bearer " + bearer, "bearer  " + bearer, "Bearer " + bearer + " "} {
		r := w.do(http.MethodGet, "/token", "", nil, "Authorization", header)
		if r.StatusCode != http.StatusUnauthorized || !strings.Contains(string(r.body), "cannot be exchanged") {
			t.Errorf("%.10q: %d %s", header, r.StatusCode, r.body)
		}
	}
	for name, tt := range map[string]struct {
		form   url.Values
		status int
		words  string
	}{
		"nothing to exchange":       {url.Values{"subject_token_type": {typeIDToken}}, http.StatusBadRequest, "subject_token is missing"},
		"no type":                   {url.Values{"subject_token": {foreign}}, http.StatusBadRequest, "subject_token_type"},
		"SAML":                      {url.Values{"subject_token": {foreign}, "subject_token_type": {"urn:ietf:params:oauth:token-type:saml2"}}, http.StatusBadRequest, "not supported"},
		"for somebody else":         {url.Values{"subject_token": {foreign}, "subject_token_type": {typeIDToken}, "actor_token": {foreign}}, http.StatusBadRequest, "actor_token"},
		"a refresh token wanted":    {url.Values{"subject_token": {foreign}, "subject_token_type": {typeIDToken}, "requested_token_type": {"urn:ietf:params:oauth:token-type:refresh_token"}}, http.StatusBadRequest, "requested_token_type"},
		"one of ours":               {url.Values{"subject_token": {ours}, "subject_token_type": {typeAccessToken}}, http.StatusUnauthorized, "cannot be exchanged"},
		"a password":                {url.Values{"subject_token": {"mo's password"}, "subject_token_type": {typeJWT}, "username": {"mo"}}, http.StatusUnauthorized, "no token of an identity provider"},
		"one that nobody here asks": {url.Values{"subject_token": {foreign}, "subject_token_type": {typeIDToken}}, http.StatusUnauthorized, ""},
	} {
		tt.form.Set("grant_type", grantExchange)
		r := w.do(http.MethodPost, "/token", "", strings.NewReader(tt.form.Encode()), "Content-Type", "application/x-www-form-urlencoded")
		if r.StatusCode != tt.status || !strings.Contains(string(r.body), tt.words) {
			t.Errorf("%s: %d %s", name, r.StatusCode, r.body)
		}
		if strings.Contains(string(r.body), foreign) || strings.Contains(string(r.body), ours) {
			t.Errorf("%s: the answer repeats the token: %s", name, r.body)
		}
	}
}
