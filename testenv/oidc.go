package testenv

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// OIDCSettings are what an OpenID provider of [OIDC] knows.
type OIDCSettings struct {
	// Accounts are the claims of people by their name, beside sub and preferred_username.
	Accounts map[string]map[string]any `json:"accounts,omitempty"`
	// Jobs are the claims of the tokens of jobs, by client id.
	Jobs map[string]map[string]any `json:"jobs,omitempty"`
	// Redirects are where the client OIDCWebClient may send a browser to.
	Redirects []string `json:"redirects,omitempty"`
	// IDTokenSeconds is the life of ID tokens; 0 is ten minutes.
	IDTokenSeconds int `json:"idTokenSeconds,omitempty"`
}

// The clients that an OpenID provider of [OIDC] has for people.
const (
	OIDCCLIClient = "berth-cli" // public
	OIDCWebClient = "berth-web"
	OIDCWebSecret = "the secret of the client berth-web"
)

// OIDCProvider is a running OpenID provider: npm's oidc-provider with
// testenv/oidcprovider/provider.mjs.
type OIDCProvider struct {
	Issuer string

	t        testing.TB
	node     string
	modules  string
	settings OIDCSettings
	process  *Process
}

// OIDC starts an OpenID provider, which ends with the test.
func OIDC(t testing.TB, s OIDCSettings) *OIDCProvider {
	t.Helper()
	p := &OIDCProvider{t: t, node: Tool(t, "node"), settings: s}
	root, err := Root()
	require(t, err)
	p.modules = filepath.Join(root, ".cache", "tools", "oidc-provider")
	if _, err := os.Stat(filepath.Join(p.modules, "node_modules", "oidc-provider", "package.json")); err != nil {
		require(t, missing{"npm's oidc-provider", "scripts/tools.sh oidc-provider (it needs node and npm)"})
	}
	address, err := FreePort()
	require(t, err)
	p.Issuer = "http://" + address
	t.Cleanup(p.Stop)
	p.Start()
	return p
}

// OIDCAt is a provider that somebody else has started, and stops, to browse there.
func OIDCAt(t testing.TB, issuer string) *OIDCProvider { return &OIDCProvider{Issuer: issuer, t: t} }

// Start starts a provider that was stopped, at the same address with new keys.
func (p *OIDCProvider) Start() {
	p.t.Helper()
	root, err := Root()
	require(p.t, err)
	settings, err := json.Marshal(p.settings)
	require(p.t, err)
	_, port, err := net.SplitHostPort(strings.TrimPrefix(p.Issuer, "http://"))
	require(p.t, err)
	cmd := exec.Command(p.node, filepath.Join(root, "testenv", "oidcprovider", "provider.mjs"), port, string(settings))
	cmd.Env = append(os.Environ(), "OIDC_PROVIDER_MODULES="+p.modules)
	var log strings.Builder
	cmd.Stderr = &log
	stdout, err := cmd.StdoutPipe()
	require(p.t, err)
	if p.process, err = Start(cmd, syscall.SIGKILL); err != nil {
		p.t.Fatal(err)
	}
	ready := make(chan bool, 1)
	go func() {
		lines := bufio.NewScanner(stdout)
		for lines.Scan() {
			if strings.HasPrefix(lines.Text(), "ready at ") {
				ready <- true
			}
		}
		close(ready)
	}()
	select {
	case ok := <-ready:
		if !ok {
			<-p.process.Done()
			p.t.Fatalf("the OpenID provider did not start:\n%s", log.String())
		}
	case <-time.After(3 * time.Minute):
		p.t.Fatal("the OpenID provider did not start within 3 minutes")
	}
}

// Stop ends the provider. It forgets who signed in and its keys.
func (p *OIDCProvider) Stop() {
	if p.process != nil {
		_ = p.process.Stop(syscall.SIGKILL) // the error says that it was killed
		p.process = nil
	}
}

// JobToken is a token of a job, for an audience, which has to be a URL (RFC 8707).
func (p *OIDCProvider) JobToken(job, audience string) string {
	p.t.Helper()
	form := url.Values{"grant_type": {"client_credentials"}, "resource": {audience}}
	r, err := http.NewRequest(http.MethodPost, p.Issuer+"/token", strings.NewReader(form.Encode()))
	require(p.t, err)
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.SetBasicAuth(url.QueryEscape(job), url.QueryEscape("the secret of the job "+job))
	resp, err := http.DefaultClient.Do(r)
	require(p.t, err)
	defer resp.Body.Close()
	var answer struct {
		Token string `json:"access_token"`
	}
	body, err := io.ReadAll(resp.Body)
	require(p.t, err)
	if json.Unmarshal(body, &answer) != nil || answer.Token == "" {
		p.t.Fatalf("the OpenID provider gave the job %s no token: %s %s", job, resp.Status, body)
	}
	return answer.Token
}

var (
	formAction = regexp.MustCompile(`<form[^>]*action="([^"]+)"`)
	formField  = regexp.MustCompile(`<input[^>]*name="([^"]+)"[^>]*value="([^"]*)"`)
	devField   = regexp.MustCompile(`<input[^>]*type="hidden"[^>]*name="([^"]+)"[^>]*value="([^"]*)"`)
)

// Browse does what somebody's browser does with an address of the provider: it
// signs in as account, consents to everything, and follows redirects until one
// leads away from the provider, which it gives without going there. "" is a flow
// that ends at the provider (the device flow).
func (p *OIDCProvider) Browse(address, account string) string {
	p.t.Helper()
	jar, err := cookiejar.New(nil)
	require(p.t, err)
	browser := &http.Client{Jar: jar, Timeout: 30 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	method, form := http.MethodGet, url.Values{}
	for range 20 {
		var body io.Reader
		if method == http.MethodPost {
			body = strings.NewReader(form.Encode())
		}
		r, err := http.NewRequest(method, address, body)
		require(p.t, err)
		if body != nil {
			r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		}
		resp, err := browser.Do(r)
		require(p.t, err)
		page, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		require(p.t, err)
		if location, err := resp.Location(); err == nil {
			if !strings.HasPrefix(location.String(), p.Issuer+"/") {
				return location.String()
			}
			method, address = http.MethodGet, location.String()
			continue
		}
		if resp.StatusCode != http.StatusOK {
			p.t.Fatalf("the OpenID provider answered %s at %s: %s", resp.Status, address, page)
		}
		action := formAction.FindStringSubmatch(string(page))
		if action == nil {
			return "" // nothing left to do here
		}
		form = url.Values{"login": {account}, "password": {"any"}}
		for _, field := range append(formField.FindAllStringSubmatch(string(page), -1), devField.FindAllStringSubmatch(string(page), -1)...) {
			form.Set(field[1], field[2])
		}
		if strings.Contains(string(page), `name="confirm"`) {
			form.Set("confirm", "yes")
		}
		target, err := r.URL.Parse(strings.ReplaceAll(action[1], "&amp;", "&"))
		require(p.t, err)
		method, address = http.MethodPost, target.String()
	}
	p.t.Fatalf("signing in as %s at the OpenID provider does not end", account)
	return ""
}

// Visit browses to an address of the provider as account, and then goes where it
// is sent, as a browser does.
func (p *OIDCProvider) Visit(address, account string) error {
	target := p.Browse(address, account)
	if target == "" {
		return nil
	}
	resp, err := http.Get(target)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answered %s", target, resp.Status)
	}
	return nil
}
