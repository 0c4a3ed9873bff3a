package server

import (
	"context"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"berth/auth"
	"berth/auth/oidc"
	"berth/metadata"
	"berth/server/door"
	"berth/testenv"
)

// browserWorld is a server behind https with a real OpenID provider.
func browserWorld(t *testing.T) (*world, *testenv.OIDCProvider) {
	p := testenv.OIDC(t, testenv.OIDCSettings{})
	w := small(t, func(w *world, o *Options) {
		people := &oidc.People{Issuer: p.Issuer, ClientID: testenv.OIDCWebClient, ClientSecret: testenv.OIDCWebSecret, Scopes: []string{"openid"}, UsernameClaim: "preferred_username"}
		browsers, err := oidc.New(oidc.Options{DB: w.db, People: people, Clock: w.clock.now})
		if err != nil {
			t.Fatal(err)
		}
		o.URL = "https://registry.example.com"
		o.Browsers, o.Sessions = browsers, auth.NewWebSessions(w.db, 8*time.Hour, w.clock.now)
		o.Provider = &Provider{Issuer: p.Issuer, ClientID: "berth-cli", Scopes: []string{"openid"}}
		o.Doors = []door.Door{apiDoor{handler: func(ex door.Exchange, _ *http.Request) error {
			fmt.Fprint(ex, ex.Actor().Principal)
			return nil
		}}}
	})
	return w, p
}

// cookieOf is a cookie that an answer sets, for a Cookie header; "" is none.
func cookieOf(t *testing.T, r reply, name string) string {
	t.Helper()
	for _, c := range r.Cookies() {
		if c.Name != "__Host-"+name {
			continue
		}
		if !c.HttpOnly || !c.Secure || c.SameSite != http.SameSiteLaxMode || c.Path != "/" || c.Domain != "" {
			t.Errorf("the cookie %s", c)
		}
		if c.MaxAge < 0 {
			return ""
		}
		return c.Name + "=" + c.Value
	}
	return ""
}

// comeBack begins a sign-in and gives its cookie and the way back from the provider.
func comeBack(t *testing.T, w *world, p *testenv.OIDCProvider, account, path string) (cookie, back string) {
	t.Helper()
	r := w.do("GET", "/sign-in?return="+url.QueryEscape(path), "", nil).want(t, http.StatusSeeOther)
	if cookie = cookieOf(t, r, signInCookie); cookie == "" || r.Header.Get("Cache-Control") != "no-store" {
		t.Fatalf("no cookie: %v", r.Header)
	}
	back, ok := strings.CutPrefix(p.Browse(r.Header.Get("Location"), account), "https://registry.example.com")
	if !ok {
		t.Fatalf("the provider sent the browser to %s", back)
	}
	return cookie, back
}

// pageToken is what our pages hold for a session, given its cookie.
func pageToken(cookie string) string {
	return auth.PageToken(strings.TrimPrefix(cookie, "__Host-"+sessionCookie+"="))
}

func TestBrowserSignIn(t *testing.T) {
	w, p := browserWorld(t)
	whoami := func(headers ...string) reply { return w.do("GET", "/api/v1/whoami", "", nil, headers...) }
	cookie, back := comeBack(t, w, p, "alice", "/api/")

	// Only the browser that began it comes in, with the state that it got, once.
	w.do("GET", back, "", nil).want(t, http.StatusUnauthorized)
	other, _ := comeBack(t, w, p, "bob", "/")
	w.do("GET", back, "", nil, "Cookie", other).want(t, http.StatusUnauthorized)
	w.do("GET", back, "", nil, "Cookie", cookie, "Cookie", other).want(t, http.StatusUnauthorized)
	w.do("GET", strings.Replace(back, "state=", "state=x", 1), "", nil, "Cookie", cookie).want(t, http.StatusUnauthorized)
	w.do("GET", "/sign-in/callback?error=access_denied&state=x", "", nil, "Cookie", cookie).want(t, http.StatusUnauthorized)
	w.do("GET", "/sign-in/callback?state=%zz", "", nil, "Cookie", cookie).want(t, http.StatusBadRequest)
	in := w.do("GET", back, "", nil, "Cookie", cookie).want(t, http.StatusSeeOther)
	session := cookieOf(t, in, sessionCookie)
	if in.Header.Get("Location") != "/api/" || session == "" || cookieOf(t, in, signInCookie) != "" {
		t.Fatalf("%v", in.Header)
	}
	w.do("GET", back, "", nil, "Cookie", cookie).want(t, http.StatusUnauthorized) // the code was used
	if strings.Contains(w.log.String(), strings.TrimPrefix(session, "__Host-berth-session=")) {
		t.Error("the session's secret stands in the log")
	}

	// The session is for the management API alone.
	if r := whoami("Cookie", session).want(t, http.StatusOK); string(r.body) != "alice" {
		t.Errorf("the session is %s's", r.body)
	}
	w.do("GET", "/v2/", "", nil, "Cookie", session).want(t, http.StatusUnauthorized)
	w.do("PUT", "/v2/team/app/manifests/x", "", strings.NewReader("{}"), "Cookie", session, "Sec-Fetch-Site", "same-origin").want(t, http.StatusUnauthorized)
	whoami("Cookie", strings.TrimPrefix(session, "__Host-")).want(t, http.StatusUnauthorized) // set by another host of the domain
	whoami("Cookie", session, "Cookie", "__Host-berth-session=x").want(t, http.StatusUnauthorized)
	whoami("Cookie", "__Host-berth-session=invented").want(t, http.StatusUnauthorized)
	w.do("GET", "/api/", "", nil, "Cookie", "__Host-berth-session=invented").want(t, http.StatusOK) // the description is for all

	// Another site's page does not act for alice, nor does one of this origin that does not hold the token of our pages.
	for _, headers := range [][]string{nil, {PageTokenHeader, ""}, {PageTokenHeader, "x"}, {PageTokenHeader, auth.PageToken("x")}, {PageTokenHeader, strings.TrimPrefix(session, "__Host-berth-session=")}} {
		for _, method := range []string{"POST", "PUT", "PATCH", "DELETE", "OPTIONS"} {
			r := w.do(method, "/api/v1/teams", "", nil, append([]string{"Cookie", session, "Sec-Fetch-Site", "same-origin"}, headers...)...)
			if r.StatusCode != http.StatusForbidden || !strings.Contains(string(r.body), "page-token") {
				t.Errorf("%s with %q: %d %s", method, headers, r.StatusCode, r.body)
			}
		}
	}
	for _, tt := range []struct {
		headers []string
		status  int
	}{
		{nil, http.StatusForbidden},
		{[]string{"Sec-Fetch-Site", "cross-site"}, http.StatusForbidden},
		{[]string{"Sec-Fetch-Site", "same-site"}, http.StatusForbidden},
		{[]string{"Sec-Fetch-Site", "none"}, http.StatusForbidden},
		{[]string{"Origin", "https://evil.example.com"}, http.StatusForbidden},
		{[]string{"Origin", "null"}, http.StatusForbidden},
		{[]string{"Origin", "http://registry.example.com"}, http.StatusForbidden},
		{[]string{"Origin", "https://registry.example.com", "Sec-Fetch-Site", "cross-site"}, http.StatusForbidden},
		{[]string{"Origin", "https://registry.example.com"}, http.StatusOK},
		{[]string{"Sec-Fetch-Site", "same-origin"}, http.StatusOK},
	} {
		for _, method := range []string{"POST", "PUT", "PATCH", "DELETE"} {
			r := w.do(method, "/api/v1/teams", "", nil, append([]string{"Cookie", session, PageTokenHeader, pageToken(session)}, tt.headers...)...)
			if r.StatusCode != tt.status {
				t.Errorf("%s with %v: %d %s", method, tt.headers, r.StatusCode, r.body)
			}
		}
		if r := w.do("POST", "/sign-out", "", nil, append([]string{"Cookie", session}, tt.headers...)...); tt.status == http.StatusForbidden && r.StatusCode != tt.status {
			t.Errorf("sign-out with %v: %d", tt.headers, r.StatusCode)
		}
		if tt.status == http.StatusForbidden {
			whoami("Cookie", session).want(t, http.StatusOK)
		} else {
			whoami("Cookie", session).want(t, http.StatusUnauthorized) // signed out, at once
			cookie, back := comeBack(t, w, p, "alice", "")
			session = cookieOf(t, w.do("GET", back, "", nil, "Cookie", cookie).want(t, http.StatusSeeOther), sessionCookie)
		}
	}

	// A new sign-in does not go on with the session of before.
	cookie, back = comeBack(t, w, p, "bob", "//evil.example.com")
	in = w.do("GET", back, "", nil, "Cookie", cookie+"; "+session).want(t, http.StatusSeeOther)
	if in.Header.Get("Location") != "/" {
		t.Errorf("the browser is sent to %s", in.Header.Get("Location"))
	}
	whoami("Cookie", session).want(t, http.StatusUnauthorized)
	session = cookieOf(t, in, sessionCookie)
	if r := whoami("Cookie", session).want(t, http.StatusOK); string(r.body) != "bob" {
		t.Errorf("the session is %s's", r.body)
	}

	// It ends with the user, and with time.
	disable := func(disabled bool) {
		w.update(func(ctx context.Context, tx *metadata.Tx) error {
			_, err := tx.UpdateUser(ctx, "bob", metadata.UserChange{Disabled: &disabled})
			return err
		})
	}
	disable(true)
	whoami("Cookie", session).want(t, http.StatusUnauthorized)
	disable(false)
	whoami("Cookie", session).want(t, http.StatusOK)
	w.clock.forward(9 * time.Hour)
	whoami("Cookie", session).want(t, http.StatusUnauthorized)

	p.Stop()
	w.clock.forward(2 * time.Hour)
	w.do("GET", "/sign-in", "", nil).want(t, http.StatusServiceUnavailable)
	w.db.Close()
	whoami("Cookie", session).want(t, http.StatusServiceUnavailable)
}

// TestPageToken: a page that a browser opens gets the token of the session, and nothing else does: no
// script that asks for the page, and no program without the cookie.
func TestPageToken(t *testing.T) {
	w := newWorld(t, func(w *world, o *Options) {
		o.Sessions = auth.NewWebSessions(w.db, time.Hour, nil)
		o.Doors = []door.Door{apiDoor{handler: func(ex door.Exchange, r *http.Request) error {
			fmt.Fprint(ex, ex.PageToken(r))
			return nil
		}}}
	})
	for _, tt := range []struct {
		cookie, dest string
		want         bool
	}{
		{"berth-session=secret", "document", true},
		{"berth-session=secret", "", true}, // plain http, where browsers do not say
		{"berth-session=secret", "empty", false},
		{"berth-session=secret", "iframe", false},
		{"berth-session=secret", "object", false},
		{"berth-session=secret; berth-session=other", "document", false},
		{"", "document", false},
	} {
		var headers []string
		if tt.cookie != "" {
			headers = append(headers, "Cookie", tt.cookie)
		}
		if tt.dest != "" {
			headers = append(headers, "Sec-Fetch-Dest", tt.dest)
		}
		want := ""
		if tt.want {
			want = auth.PageToken("secret")
		}
		if r := w.do("GET", "/api/", "", nil, headers...).want(t, http.StatusOK); string(r.body) != want {
			t.Errorf("%+v: %s", tt, r.body)
		}
	}
	if one, other := auth.PageToken("a"), auth.PageToken("b"); one == other || len(one) != 43 || !auth.IsPageToken("a", one) || auth.IsPageToken("a", other) || auth.IsPageToken("a", "") {
		t.Errorf("%q and %q", one, other)
	}
}

// TestNoBrowserSignIn: without a provider there is nothing to find.
func TestNoBrowserSignIn(t *testing.T) {
	w := small(t, nil)
	w.do("GET", "/sign-in", "", nil).want(t, http.StatusNotFound)
	w.do("GET", "/sign-in/callback?state=x&code=y", "", nil).want(t, http.StatusNotFound)
	if r := w.do("GET", "/.well-known/berth", "", nil).want(t, http.StatusOK); strings.TrimSpace(string(r.body)) != "{}" {
		t.Errorf("%s", r.body)
	}
}

// TestReturnPath: nobody is sent elsewhere after the sign-in (zot #4238, an open
// redirect by a backslash).
func TestReturnPath(t *testing.T) {
	for s, want := range map[string]string{
		"": "/", "/": "/", "/api/": "/api/", "/ui/repositories/a": "/ui/repositories/a",
		"//evil.example.com": "/", "///evil.example.com": "/", `/\evil.example.com`: "/", `\\evil.example.com`: "/", `\/evil.example.com`: "/",
		"https://evil.example.com/api/": "/", "http:/evil.example.com": "/", "javascript:alert(1)": "/", "/ui//evil.example.com": "/", `/ui/\evil.example.com`: "/",
		"/%2F/evil.example.com": "/", "/ui/%2F%2Fevil.example.com": "/", "/ui/%5Cevil.example.com": "/", "/ui/../sign-out": "/", "/ui/%2e%2e/sign-out": "/",
		"/ui/\r\nSet-Cookie: a=b": "/", "/ui/ä": "/", "/ui/\t/evil.example.com": "/", "/sign-out": "/", "/v2/": "/", "ui/": "/", "@evil.example.com": "/",
		"/ui/" + strings.Repeat("x", 2000): "/", "/ui/#//evil.example.com": "/", "%": "/",
	} {
		if got := returnPath(s); got != want {
			t.Errorf("%.60q leads to %q, want %q", s, got, want)
		}
	}
}

// TestProviderDown: Berth starts while the provider is down. Who shows a token of it
// is told to come again, and is neither let in nor called wrong; all others go on.
func TestProviderDown(t *testing.T) {
	address, err := testenv.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	w := small(t, func(w *world, o *Options) {
		people := &oidc.People{Issuer: "http://" + address, ClientID: "berth", UsernameClaim: "sub"}
		a, err := oidc.New(oidc.Options{DB: w.db, People: people})
		if err != nil {
			t.Fatal(err)
		}
		o.Auth = auth.NewChain(w.clock.now, a, o.Auth)
	})
	raw := "eyJhbGciOiJSUzI1NiJ9." + base64.RawURLEncoding.EncodeToString([]byte(`{"iss":"http://`+address+`","aud":"berth"}`)) + ".AAAA"
	w.accounts["oidc"] = raw
	for path, as := range map[string]string{"/v2/": "jwt:" + raw, "/v2/?": "oidc", "/token?service=registry.test": "oidc", "/token": "jwt:" + raw} {
		r := w.do("GET", path, as, nil)
		if r.StatusCode != http.StatusServiceUnavailable || r.Header.Get("Retry-After") == "" || r.Header.Get("WWW-Authenticate") != "" {
			t.Errorf("%s: %d %v %s", path, r.StatusCode, r.Header, r.body)
		}
		if strings.Contains(string(r.body), raw) {
			t.Errorf("%s: the answer repeats the token", path)
		}
	}
	w.do("GET", "/v2/", "mo", nil).want(t, http.StatusOK)
}
