package client

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/spf13/cobra"
	"golang.org/x/oauth2"

	"berth/auth/outbound"
)

const (
	// oidcUser is the user name that goes with an ID token. The server takes any.
	oidcUser = "oidc"
	// signInWait is how long a person has for the sign-in.
	signInWait = 10 * time.Minute
	// refreshAhead is how long before its end an ID token is replaced.
	refreshAhead = time.Minute
	// maxWellKnown bounds what a server tells of its sign-in, in bytes.
	maxWellKnown = 64 << 10
)

// wellKnown is what a server tells of how people sign in there.
type wellKnown struct {
	OIDC *struct {
		Issuer   string   `json:"issuer"`
		ClientID string   `json:"client_id"`
		Scopes   []string `json:"scopes"`
	} `json:"oidc"`
}

// fetchWellKnown asks a server how people sign in. A server of an earlier version
// has nothing to tell.
func fetchWellKnown(ctx context.Context, transport http.RoundTripper, server *url.URL) (w wellKnown, err error) {
	endpoint := *server
	endpoint.Path = "/.well-known/berth"
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, endpoint.String(), nil)
	if err != nil {
		return w, err
	}
	resp, err := newHTTPClient(transport).Do(r)
	if err != nil {
		return w, explain(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusOK {
		err = json.NewDecoder(io.LimitReader(resp.Body, maxWellKnown)).Decode(&w)
	}
	if err != nil {
		return w, fmt.Errorf("%s does not answer as Berth does: is --server right?", endpoint.String())
	}
	return w, nil
}

// openID is an OpenID provider as a program on somebody's computer uses it.
type openID struct {
	provider *oidc.Provider
	config   oauth2.Config
	client   *http.Client
}

// discover reads the provider's document. ca is a PEM file of authorities, as in authorities.
func discover(ctx context.Context, ca, issuer, clientID string, scopes []string) (*openID, error) {
	roots, err := authorities(ca)
	if err != nil {
		return nil, err
	}
	client := outbound.New(outbound.Options{LoopbackHTTP: true, Roots: roots})
	provider, err := oidc.NewProvider(oidc.ClientContext(ctx, client), issuer)
	if err != nil {
		return nil, fmt.Errorf("asking the identity provider %s: %.300w", issuer, err)
	}
	return &openID{provider, oauth2.Config{ClientID: clientID, Endpoint: provider.Endpoint(), Scopes: scopes}, client}, nil
}

// context makes oauth2 and go-oidc use the client of the provider.
func (o *openID) context(ctx context.Context) context.Context {
	return oidc.ClientContext(ctx, o.client)
}

// credential checks the tokens that the provider gave and makes what is kept.
func (o *openID) credential(ctx context.Context, tokens *oauth2.Token, issuer, nonce string) (Kept, error) {
	raw, _ := tokens.Extra("id_token").(string)
	if raw == "" {
		return Kept{}, fmt.Errorf("the identity provider %s gave no ID token", issuer)
	}
	token, err := o.provider.VerifierContext(o.context(ctx), &oidc.Config{ClientID: o.config.ClientID}).Verify(ctx, raw)
	if err != nil {
		return Kept{}, fmt.Errorf("the ID token of %s does not hold: %.300w", issuer, err)
	}
	if subtle.ConstantTimeCompare([]byte(token.Nonce), []byte(nonce)) != 1 {
		return Kept{}, fmt.Errorf("the ID token of %s belongs to another sign-in: try again", issuer)
	}
	return Kept{
		Issuer: issuer, ClientID: o.config.ClientID, Subject: token.Subject,
		IDToken: raw, Expires: token.Expiry.UTC(), RefreshToken: tokens.RefreshToken,
	}, nil
}

// signInOIDC signs a person in at the server's identity provider, with a browser,
// or on another device.
func (r *Remote) signInOIDC(cmd *cobra.Command, server *url.URL, device bool) (Kept, error) {
	ctx, cancel := context.WithTimeout(cmd.Context(), signInWait)
	defer cancel()
	transport, err := r.transport()
	if err != nil {
		return Kept{}, err
	}
	w, err := fetchWellKnown(ctx, transport, server)
	if err != nil {
		return Kept{}, err
	}
	if w.OIDC == nil {
		return Kept{}, fmt.Errorf("%s has no identity provider to sign in at: give --username", server.Host)
	}
	o, err := discover(ctx, r.caFile(), w.OIDC.Issuer, w.OIDC.ClientID, w.OIDC.Scopes)
	if err != nil {
		return Kept{}, err
	}
	var tokens *oauth2.Token
	nonce := ""
	if device {
		tokens, err = o.device(ctx, cmd.ErrOrStderr())
	} else {
		nonce = rand.Text()
		tokens, err = o.browser(ctx, cmd.ErrOrStderr(), nonce)
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return Kept{}, fmt.Errorf("nobody signed in within %s: try again", signInWait)
	}
	if err != nil {
		return Kept{}, signInError(w.OIDC.Issuer, err)
	}
	return o.credential(ctx, tokens, w.OIDC.Issuer, nonce)
}

// signInError is what the provider said, for a person.
func signInError(issuer string, err error) error {
	var refused *oauth2.RetrieveError
	if errors.As(err, &refused) && refused.ErrorCode != "" {
		return fmt.Errorf("the identity provider %s refuses the sign-in: %.60s %.200s", issuer, refused.ErrorCode, refused.ErrorDescription)
	}
	return fmt.Errorf("signing in at %s: %.300w", issuer, err)
}

// options are those of the authorization request. Providers give a refresh token
// when the person consents (OpenID Connect Core, section 11).
func (o *openID) options() []oauth2.AuthCodeOption {
	if slices.Contains(o.config.Scopes, oidc.ScopeOfflineAccess) {
		return []oauth2.AuthCodeOption{oauth2.SetAuthURLParam("prompt", "consent")}
	}
	return nil
}

// browser is the code flow with PKCE (RFC 7636) and a redirect to a port of this
// machine (RFC 8252, section 7.3).
func (o *openID) browser(ctx context.Context, stderr io.Writer, nonce string) (*oauth2.Token, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("waiting for the browser: %w", err)
	}
	config := o.config
	config.RedirectURL = "http://" + listener.Addr().String() + "/callback"
	state, verifier := rand.Text(), oauth2.GenerateVerifier()
	came := make(chan url.Values, 1)
	server := &http.Server{ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 10 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		// Whoever does not know the state is not the browser that was sent out.
		if r.Method != http.MethodGet || r.URL.Path != "/callback" || subtle.ConstantTimeCompare([]byte(q.Get("state")), []byte(state)) != 1 {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.Header().Set("Content-Security-Policy", "default-src 'none'")
		fmt.Fprint(w, "<!DOCTYPE html><title>Berth</title><p>Berth has your sign-in. Close this window and go back to the terminal.</p>\n")
		select {
		case came <- q:
		default: // it came before
		}
	})}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(listener) // it ends when it is shut down below
	}()
	defer func() {
		// The browser gets its page before the listener goes.
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		if server.Shutdown(stop) != nil {
			_ = server.Close()
		}
		<-done
	}()

	address := config.AuthCodeURL(state, append(o.options(), oidc.Nonce(nonce), oauth2.S256ChallengeOption(verifier))...)
	fmt.Fprintf(stderr, "Sign in with the browser. If it does not open, go to\n\n  %s\n\n", address)
	if err := openBrowser(ctx, address); err != nil {
		fmt.Fprintf(stderr, "The browser could not be opened (%v). Without one on this machine, use --device.\n", err)
	}
	select {
	case q := <-came:
		if problem := q.Get("error"); problem != "" {
			return nil, &oauth2.RetrieveError{ErrorCode: problem, ErrorDescription: q.Get("error_description")}
		}
		return config.Exchange(o.context(ctx), q.Get("code"), oauth2.VerifierOption(verifier))
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// device is the flow for a machine without a browser (RFC 8628).
func (o *openID) device(ctx context.Context, stderr io.Writer) (*oauth2.Token, error) {
	if o.config.Endpoint.DeviceAuthURL == "" {
		return nil, errors.New("it knows no sign-in on another device: leave out --device")
	}
	code, err := o.config.DeviceAuth(o.context(ctx), o.options()...)
	if err != nil {
		return nil, err
	}
	fmt.Fprintf(stderr, "On a machine with a browser, go to\n\n  %s\n\nand enter the code %s\n", code.VerificationURI, code.UserCode)
	if code.VerificationURIComplete != "" {
		fmt.Fprintf(stderr, "or go to\n\n  %s\n\n", code.VerificationURIComplete)
	}
	return o.config.DeviceAccessToken(o.context(ctx), code)
}

// openBrowser starts the program that opens a URL: $BROWSER, or the system's.
func openBrowser(ctx context.Context, address string) error {
	name, args := os.Getenv("BROWSER"), []string{address}
	if name == "" {
		switch runtime.GOOS {
		case "darwin":
			name = "open"
		case "windows":
			name, args = "rundll32", []string{"url.dll,FileProtocolHandler", address}
		default:
			name = "xdg-open"
		}
	}
	cmd := exec.CommandContext(ctx, name, args...)
	if err := cmd.Start(); err != nil {
		return err
	}
	go cmd.Wait() // it is reaped, and how it ended is for the person to see
	return nil
}

// refreshed gives a credential whose ID token holds for a while, asking the
// provider when it has to.
func (k Kept) refreshed(ctx context.Context, host string) (Kept, error) {
	if k.Issuer == "" || time.Until(k.Expires) > refreshAhead {
		return k, nil
	}
	again := fmt.Sprintf("run 'berth login --server %s --oidc'", host)
	if k.RefreshToken == "" {
		return k, fmt.Errorf("the sign-in at %s has ended, and its identity provider gave no refresh token: %s", host, again)
	}
	o, err := discover(ctx, cmp.Or(k.CA, os.Getenv("BERTH_CA")), k.Issuer, k.ClientID, nil)
	if err != nil {
		return k, err
	}
	tokens, err := o.config.TokenSource(o.context(ctx), &oauth2.Token{RefreshToken: k.RefreshToken}).Token()
	if err != nil {
		return k, fmt.Errorf("%w: %s", signInError(k.Issuer, err), again)
	}
	raw, _ := tokens.Extra("id_token").(string)
	nonce := ""
	if token, err := o.provider.VerifierContext(o.context(ctx), &oidc.Config{ClientID: k.ClientID}).Verify(ctx, raw); err == nil {
		nonce = token.Nonce // of the first sign-in, which was compared then
	}
	fresh, err := o.credential(ctx, tokens, k.Issuer, nonce)
	switch {
	case err != nil:
		return k, fmt.Errorf("%w: %s", err, again)
	case fresh.Subject != k.Subject: // OpenID Connect Core, section 12.2
		return k, fmt.Errorf("the identity provider %s now says that you are somebody else: %s", k.Issuer, again)
	}
	fresh.CA = k.CA
	return fresh, nil
}

// revoke tells the provider that the refresh token is not needed any more (RFC
// 7009), when it has an endpoint for that.
func (k Kept) revoke(ctx context.Context) error {
	if k.RefreshToken == "" {
		return nil
	}
	o, err := discover(ctx, cmp.Or(k.CA, os.Getenv("BERTH_CA")), k.Issuer, k.ClientID, nil)
	if err != nil {
		return err
	}
	var document struct {
		Revocation string `json:"revocation_endpoint"`
	}
	if err := o.provider.Claims(&document); err != nil || document.Revocation == "" {
		return err
	}
	form := url.Values{"token": {k.RefreshToken}, "token_type_hint": {"refresh_token"}, "client_id": {k.ClientID}}
	ctx, cancel := context.WithTimeout(ctx, outbound.Timeout)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, document.Revocation, strings.NewReader(form.Encode()))
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := o.client.Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answered %s", document.Revocation, resp.Status)
	}
	return nil
}
