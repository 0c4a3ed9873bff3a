package server

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"time"

	"berth/auth"
	"berth/oci"
)

// Signing in with a browser, at an OpenID provider: /sign-in sends the browser
// there, /sign-in/callback takes it back and makes a session, /sign-out ends it.
// What a session may do is in access.go.

// Browsers is an OpenID provider where people sign in with a browser.
type Browsers interface {
	// AuthURL is where to send a browser, which comes back to redirect.
	AuthURL(ctx context.Context, redirect, state, nonce, verifier string) (string, error)
	// Exchange gives who came back with a code. The error is auth.ErrWrong, or one
	// that says that it cannot be said now.
	Exchange(ctx context.Context, redirect, code, nonce, verifier string) (auth.Principal, error)
}

// Provider is what a program on somebody's computer needs to sign in at the
// OpenID provider. None of it is secret.
type Provider struct {
	Issuer   string   `json:"issuer"`
	ClientID string   `json:"client_id"`
	Scopes   []string `json:"scopes"`
}

const (
	// PageTokenHeader carries the page token with what a page changes.
	PageTokenHeader = "X-Csrf-Token"
	callbackPath    = "/sign-in/callback"
	// The names of the cookies. Behind https they begin with __Host-, which keeps
	// other hosts of the domain from setting them (RFC 6265bis, section 4.1.3.2).
	sessionCookie = "berth-session"
	signInCookie  = "berth-sign-in"
	// signInTime is how long a sign-in at the provider may take.
	signInTime = 10 * time.Minute
)

// pending is a sign-in that is under way. It is kept by the browser that began it,
// so that nobody's browser can be made to finish somebody else's.
type pending struct {
	State    string `json:"s"`
	Nonce    string `json:"n"`
	Verifier string `json:"v"` // of PKCE, RFC 7636
	Return   string `json:"r"`
}

func (s *Server) getSignIn(ex *exchange, r *http.Request) error {
	if s.browsers == nil || s.sessions == nil {
		return oci.Errorf(oci.CodeNotFound, "nobody can sign in here with a browser: no OpenID provider is set (oidc_issuer)")
	}
	q, err := query(r)
	if err != nil {
		return err
	}
	p := pending{State: rand.Text(), Nonce: rand.Text(), Verifier: rand.Text() + rand.Text(), Return: returnPath(q.Get("return"))}
	to, err := s.browsers.AuthURL(r.Context(), s.baseURL(r)+callbackPath, p.State, p.Nonce, p.Verifier)
	if err != nil {
		return failClosed(err)
	}
	raw, err := json.Marshal(p)
	if err != nil {
		return err
	}
	s.setCookie(ex, r, signInCookie, base64.RawURLEncoding.EncodeToString(raw), signInTime)
	return seeOther(ex, to)
}

func (s *Server) getSignInCallback(ex *exchange, r *http.Request) error {
	if s.browsers == nil || s.sessions == nil {
		return oci.Errorf(oci.CodeNotFound, "nobody can sign in here with a browser: no OpenID provider is set (oidc_issuer)")
	}
	q, err := query(r)
	if err != nil {
		return err
	}
	p, ok := s.pendingSignIn(r)
	s.setCookie(ex, r, signInCookie, "", -1) // it holds once
	if !ok || subtle.ConstantTimeCompare([]byte(q.Get("state")), []byte(p.State)) != 1 {
		return oci.Errorf(oci.CodeUnauthorized, "this is not the end of a sign-in that this browser began: start again at %s/sign-in", s.baseURL(r))
	}
	if problem := q.Get("error"); problem != "" { // RFC 6749, section 4.1.2.1
		return oci.Errorf(oci.CodeUnauthorized, "the identity provider refused the sign-in (%.40q): start again at %s/sign-in, or ask its operator", problem, s.baseURL(r))
	}
	who, err := s.browsers.Exchange(r.Context(), s.baseURL(r)+callbackPath, q.Get("code"), p.Nonce, p.Verifier)
	if err == nil && who.IsAnonymous() {
		err = oci.Errorf(oci.CodeUnknown, "the sign-in named nobody")
	}
	if errors.Is(err, auth.ErrWrong) {
		s.metrics.signIns.WithLabelValues("wrong").Inc()
		return oci.Errorf(oci.CodeUnauthorized, "%s", auth.WrongReason(err)).WithDetail(refusal{Rule: "credentials", Ask: "an administrator of this registry"}).WithCause(err)
	}
	if err != nil {
		s.metrics.signIns.WithLabelValues("unavailable").Inc()
		return failClosed(err)
	}
	ex.identity = identity{known: true, shown: true, principal: who}
	// A session of before is not taken over: its secret may be known to others.
	if old, ok := s.cookie(r, sessionCookie); ok {
		if err := s.sessions.End(r.Context(), old); err != nil {
			return failClosed(err)
		}
	}
	secret, expires, err := s.sessions.Begin(r.Context(), who)
	if err != nil {
		return failClosed(err)
	}
	s.metrics.signIns.WithLabelValues("ok").Inc()
	s.setCookie(ex, r, sessionCookie, secret, expires.Sub(s.clock()))
	return seeOther(ex, returnPath(p.Return))
}

// pendingSignIn reads the cookie of a sign-in.
func (s *Server) pendingSignIn(r *http.Request) (p pending, ok bool) {
	value, ok := s.cookie(r, signInCookie)
	if !ok {
		return p, false
	}
	raw, err := base64.RawURLEncoding.DecodeString(value)
	return p, err == nil && json.Unmarshal(raw, &p) == nil && p.State != "" && p.Nonce != "" && p.Verifier != ""
}

func (s *Server) getSignOut(ex *exchange, _ *http.Request) error {
	h := ex.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", "default-src 'none'; form-action 'self'; frame-ancestors 'none'")
	h.Set("Cache-Control", "no-store")
	_, _ = ex.Write([]byte(signOutPage)) // fails only when the client is gone
	return nil
}

const signOutPage = `<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Sign out</title>
<form method="post" action="/sign-out"><button>Sign out</button></form>
</html>
`

func (s *Server) postSignOut(ex *exchange, r *http.Request) error {
	if err := s.sameOrigin(r); err != nil {
		return err
	}
	if secret, ok := s.cookie(r, sessionCookie); ok && s.sessions != nil {
		if err := s.sessions.End(r.Context(), secret); err != nil {
			return failClosed(err)
		}
	}
	s.setCookie(ex, r, sessionCookie, "", -1)
	return seeOther(ex, "/")
}

// getWellKnown tells programs how people sign in here.
func (s *Server) getWellKnown(ex *exchange, _ *http.Request) error {
	ex.Header().Set("Cache-Control", "public, max-age=60")
	writeJSON(ex, "application/json", http.StatusOK, struct {
		OIDC *Provider `json:"oidc,omitempty"`
	}{s.provider})
	return nil
}

// PageToken implements [door.Exchange]: it gives a page of ours the token that its requests carry in [PageTokenHeader] when they
// change something; "" when nobody is signed in with this browser. Give it to nothing but a page, and
// send that with Cache-Control: no-store and Cross-Origin-Opener-Policy: same-origin, so that no
// other page of this origin reads it: not through fetch, which Sec-Fetch-Dest tells
// apart (Fetch Metadata; browsers on plain http send none), and not through window.open.
func (ex *exchange) PageToken(r *http.Request) string {
	if ex.server.sessions == nil {
		return ""
	}
	if dest := r.Header.Get("Sec-Fetch-Dest"); dest != "" && dest != "document" {
		return ""
	}
	secret, ok := ex.server.cookie(r, sessionCookie)
	if !ok {
		return ""
	}
	return auth.PageToken(secret)
}

func seeOther(ex *exchange, to string) error {
	ex.Header().Set("Cache-Control", "no-store")
	ex.Header().Set("Referrer-Policy", "no-referrer")
	ex.Header().Set("Location", to)
	ex.WriteHeader(http.StatusSeeOther)
	return nil
}

// returnPath is where a browser goes after the sign-in: a path below one of those
// that are for people, and / for everything else. It never leads to another host:
// no scheme, no //host, and no backslash, which browsers take for a slash.
func returnPath(s string) string {
	const none = "/"
	u, err := url.Parse(s)
	if err != nil || len(s) > 1024 || u.Scheme != "" || u.Host != "" || u.User != nil || u.Opaque != "" || u.Fragment != "" {
		return none
	}
	for i := range len(s) {
		if s[i] <= ' ' || s[i] >= 0x7f || s[i] == '\\' {
			return none
		}
	}
	for _, text := range []string{s, u.Path} {
		if strings.Contains(text, "//") || strings.Contains(text, "\\") || strings.Contains(text, "..") {
			return none
		}
	}
	if u.Path == "/" || u.Path == "/api/" || strings.HasPrefix(u.Path, "/ui/") {
		return u.EscapedPath()
	}
	return none
}

// secure reports whether clients use https.
func (s *Server) secure(r *http.Request) bool { return strings.HasPrefix(s.baseURL(r), "https:") }

func (s *Server) cookieName(r *http.Request, name string) string {
	if s.secure(r) {
		return "__Host-" + name
	}
	return name
}

// setCookie gives the browser a cookie that no script can read and that comes
// back with requests of this site only, and with links to it. A negative life
// removes it.
func (s *Server) setCookie(ex *exchange, r *http.Request, name, value string, life time.Duration) {
	age := int(life / time.Second)
	if life < 0 {
		age = -1
	}
	http.SetCookie(ex, &http.Cookie{
		Name: s.cookieName(r, name), Value: value, Path: "/", MaxAge: age,
		HttpOnly: true, Secure: s.secure(r), SameSite: http.SameSiteLaxMode,
	})
}

// cookie reads one of our cookies. One that is there twice is not believed: who set
// which of them cannot be told.
func (s *Server) cookie(r *http.Request, name string) (string, bool) {
	all := r.CookiesNamed(s.cookieName(r, name))
	if len(all) != 1 || all[0].Value == "" {
		return "", false
	}
	return all[0].Value, true
}
