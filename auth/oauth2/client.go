package oauth2

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strings"

	"github.com/go-json-experiment/json"

	"berth/auth"
	"berth/auth/outbound"
)

func newClient(roots *x509.CertPool) *http.Client {
	c := outbound.New(outbound.Options{LoopbackHTTP: true, Roots: roots})
	// A redirect would carry a token somewhere else.
	c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return c
}

func loopback(u *url.URL) bool { return outbound.IsLoopbackHTTP(u) }

// maxAnswer bounds an answer, in bytes.
const maxAnswer = 256 << 10

// call sends a request and gives the answer's status and body, which is empty but for a
// 200 with JSON. The error, which is for the log, never has the URL or a header in
// it: tokens stand there.
func (a *Authenticator) call(ctx context.Context, r *http.Request) (status int, body []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, a.o.Timeout)
	defer cancel()
	select {
	case a.slots <- struct{}{}:
		defer func() { <-a.slots }()
	case <-ctx.Done():
		return 0, nil, fmt.Errorf("waiting to ask %s: %w", r.URL.Host, ctx.Err())
	}
	r.Header.Set("Accept", "application/json")
	res, err := a.http.Do(r.WithContext(ctx))
	if err != nil {
		var u *url.Error
		if errors.As(err, &u) {
			err = u.Err
		}
		return 0, nil, fmt.Errorf("asking %s: %w", r.URL.Host, err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return res.StatusCode, nil, nil
	}
	kind, _, err := mime.ParseMediaType(res.Header.Get("Content-Type"))
	if err != nil || kind != "application/json" && !strings.HasSuffix(kind, "+json") {
		return 0, nil, fmt.Errorf("%s answered 200 with the content type %.80q, want application/json", r.URL.Host, res.Header.Get("Content-Type"))
	}
	body, err = io.ReadAll(io.LimitReader(res.Body, maxAnswer+1))
	switch {
	case err != nil:
		return 0, nil, fmt.Errorf("reading the answer of %s: %w", r.URL.Host, err)
	case len(body) > maxAnswer:
		return 0, nil, fmt.Errorf("%s answered with more than %d bytes", r.URL.Host, maxAnswer)
	}
	return res.StatusCode, body, nil
}

// refused reports whether a status is a decided "no", and not a sign that the
// server cannot decide now.
func refused(status int) bool {
	switch status {
	case http.StatusProxyAuthRequired, http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests:
		return false
	}
	return status >= 400 && status < 500
}

func statusError(r *http.Request, status int) error {
	return fmt.Errorf("%s answered with the status %d", r.URL.Host, status)
}

// parse reads JSON strictly: no name twice, no invalid UTF-8.
func parse(r *http.Request, body []byte, v any) error {
	if err := json.Unmarshal(body, v); err != nil {
		// The error may quote the answer, which may hold the token.
		return fmt.Errorf("%s did not answer with the JSON that was expected", r.URL.Host)
	}
	return nil
}

var errToken = auth.Wrongf("the OAuth2 server does not know this access token, or it has expired: get a new one")

// ask gives the server's answer about a token that holds. The error is ErrWrong when
// it does not.
func (a *Authenticator) ask(ctx context.Context, token string) (map[string]any, error) {
	if a.o.TokeninfoURL != "" {
		return a.tokeninfo(ctx, token)
	}
	return a.introspect(ctx, token)
}

func (a *Authenticator) tokeninfo(ctx context.Context, token string) (map[string]any, error) {
	u, err := url.Parse(a.o.TokeninfoURL)
	if err != nil {
		return nil, errors.New("the tokeninfo URL is malformed")
	}
	q := u.Query()
	q.Set("access_token", token)
	u.RawQuery = q.Encode()
	r := &http.Request{Method: http.MethodGet, URL: u, Host: u.Host, Header: http.Header{}}
	status, body, err := a.call(ctx, r)
	switch {
	case err != nil:
		return nil, err
	case refused(status):
		return nil, errToken
	case status != http.StatusOK:
		return nil, statusError(r, status)
	}
	var answer map[string]any
	err = parse(r, body, &answer)
	return answer, err
}

// introspect is RFC 7662, section 2. The client's own credentials go as RFC 6749, section
// 2.3.1 says; that they are wrong is not the user's fault, and so no ErrWrong.
func (a *Authenticator) introspect(ctx context.Context, token string) (map[string]any, error) {
	form := url.Values{"token": {token}, "token_type_hint": {"access_token"}}
	r, err := http.NewRequest(http.MethodPost, a.o.IntrospectionURL, strings.NewReader(form.Encode()))
	if err != nil {
		return nil, errors.New("the introspection URL is malformed")
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if a.o.ClientID != "" {
		r.SetBasicAuth(url.QueryEscape(a.o.ClientID), url.QueryEscape(a.o.ClientSecret))
	}
	status, body, err := a.call(ctx, r)
	switch {
	case err != nil:
		return nil, err
	case status != http.StatusOK:
		return nil, statusError(r, status)
	}
	var answer map[string]any
	if err := parse(r, body, &answer); err != nil {
		return nil, err
	}
	active, ok := answer["active"].(bool)
	switch {
	case !ok:
		return nil, fmt.Errorf("%s answered without active, which RFC 7662 requires", r.URL.Host)
	case !active:
		return nil, errToken
	}
	return answer, nil
}

// get asks a service in the name of the user. The body, when there is one, is JSON:
// one of the services wants it in a GET.
func (a *Authenticator) get(ctx context.Context, token, address string, body []byte) (*http.Request, int, []byte, error) {
	r, err := http.NewRequest(http.MethodGet, address, bytes.NewReader(body))
	if err != nil {
		return nil, 0, nil, errors.New("the URL of the team service is malformed")
	}
	if len(body) == 0 {
		r.Body, r.ContentLength = http.NoBody, 0
	} else {
		r.Header.Set("Content-Type", "application/json")
	}
	r.Header.Set("Authorization", "Bearer "+token)
	status, answer, err := a.call(ctx, r)
	return r, status, answer, err
}
