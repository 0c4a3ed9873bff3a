package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/spf13/pflag"

	"berth/cmd/berth/client"
	"berth/cmd/berth/settings"
	"berth/testenv"
)

// openIDWorld is a server with a real OpenID provider, and a home directory of
// somebody who uses it.
type openIDWorld struct {
	*testing.T
	provider *testenv.OIDCProvider
	url      string // of the server
	host     string
	env      []string
	home     string
	log      *bytes.Buffer
}

// jobAudience is what jobs ask the provider for.
const jobAudience = "https://registry.example.com"

func newOpenIDWorld(t *testing.T) *openIDWorld {
	w := &openIDWorld{T: t, home: t.TempDir(), log: &bytes.Buffer{}}
	w.provider = testenv.OIDC(t, testenv.OIDCSettings{
		Accounts: map[string]map[string]any{"alice": {"groups": []string{"dev"}}, "boss": {"groups": []string{"admins"}}},
		Jobs: map[string]map[string]any{
			"ci":   {"repository": "acme/app", "ref": "refs/heads/main", "sha": "c0ffee", "environment": "production"},
			"fork": {"repository": "evil/app", "ref": "refs/heads/main"},
		},
		IDTokenSeconds: 45, // less than refreshAhead, so that every use refreshes
	})
	cmd := exec.Command("berth", "serve", "--listen", "127.0.0.1:0", "--data-dir", filepath.Join(w.home, "server"))
	cmd.Env = append(os.Environ(),
		"BERTH_ADMIN_PASSWORD="+adminPassword,
		"BERTH_OIDC_ISSUER="+w.provider.Issuer, "BERTH_OIDC_CLIENT_ID="+testenv.OIDCWebClient, "BERTH_OIDC_CLIENT_SECRET="+testenv.OIDCWebSecret,
		"BERTH_OIDC_CLI_CLIENT_ID="+testenv.OIDCCLIClient, "BERTH_OIDC_TEAMS=dev=core:member", "BERTH_OIDC_ADMIN_GROUP=admins",
		"BERTH_OIDC_TRUSTED_ISSUERS="+w.provider.Issuer, "BERTH_LOG_LEVEL=debug")
	cmd.Stderr = w.log
	stdout, err := cmd.StdoutPipe()
	w.must(err)
	server, err := testenv.Start(cmd, syscall.SIGKILL)
	w.must(err)
	t.Cleanup(func() {
		_ = server.Stop(syscall.SIGTERM)
		for _, secret := range []string{testenv.OIDCWebSecret, "eyJ"} { // CVE-2025-48374: the client's secret in the log
			if strings.Contains(w.log.String(), secret) {
				t.Errorf("a secret stands in the log: %s", w.log)
			}
		}
	})
	found := make(chan string, 1)
	go func() {
		for lines := bufio.NewScanner(stdout); lines.Scan(); {
			if _, url, ok := strings.Cut(lines.Text(), "running at "); ok {
				found <- strings.TrimSuffix(url, "/")
			}
		}
		close(found)
	}()
	select {
	case w.url = <-found:
	case <-time.After(time.Minute):
	}
	if w.url == "" {
		t.Fatalf("the server did not start:\n%s", w.log)
	}
	w.host = strings.TrimPrefix(w.url, "http://")
	w.env = append(os.Environ(), "HOME="+w.home, "XDG_CONFIG_HOME="+filepath.Join(w.home, "config"), "XDG_RUNTIME_DIR="+filepath.Join(w.home, "run"),
		"DOCKER_CONFIG="+filepath.Join(w.home, "docker"), "REGISTRY_AUTH_FILE=", "BROWSER=true", "BERTH_SERVER="+w.url)
	return w
}

func (w *openIDWorld) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// run runs a program and gives what it printed; admin is who berth is without a
// sign-in of its own.
func (w *openIDWorld) run(stdin string, args ...string) (string, error) {
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env, cmd.Stdin = w.env, strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (w *openIDWorld) ok(stdin string, args ...string) string {
	w.Helper()
	out, err := w.run(stdin, args...)
	if err != nil {
		w.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

func (w *openIDWorld) admin(args ...string) string {
	w.Helper()
	return w.ok(adminPassword+"\n", append(args, "--username", "admin", "--password-stdin")...)
}

var authorizeURL = regexp.MustCompile(`http://\S+/(?:auth|device)\?\S+`)

// login runs `berth login`, while account does what it asks for in a browser.
func (w *openIDWorld) login(account string, args ...string) (string, error) {
	w.Helper()
	cmd := exec.Command("berth", append([]string{"login"}, args...)...)
	cmd.Env = w.env
	stderr, err := cmd.StderrPipe()
	w.must(err)
	var stdout bytes.Buffer
	cmd.Stdout = &stdout
	w.must(cmd.Start())
	var all strings.Builder
	seen := false
	for lines := bufio.NewScanner(stderr); lines.Scan(); {
		all.WriteString(lines.Text() + "\n")
		if address := authorizeURL.FindString(lines.Text()); address != "" && !seen {
			seen = true
			if err := w.provider.Visit(address, account); err != nil {
				w.Errorf("the browser: %v", err)
			}
		}
	}
	err = cmd.Wait()
	return stdout.String() + all.String(), err
}

// TestOIDCLogin: berth login with a browser and on another device, and docker's
// credential helper, at a real provider.
func TestOIDCLogin(t *testing.T) {
	w := newOpenIDWorld(t)
	// Without a user name, at a server with a provider.
	out, err := w.login("alice")
	if err != nil || !strings.Contains(out, "signed in at "+w.host+" as alice") {
		t.Fatalf("%v: %s", err, out)
	}
	if who := w.ok("", "berth", "whoami"); !strings.Contains(who, "core (member)") {
		t.Errorf("whoami says %s", who)
	}
	file := filepath.Join(w.home, "config", "berth", "credentials.json")
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	var docker struct {
		CredHelpers map[string]string `json:"credHelpers"`
		Auths       map[string]any    `json:"auths"`
	}
	raw, err := os.ReadFile(filepath.Join(w.home, "docker", "config.json"))
	if err != nil || json.Unmarshal(raw, &docker) != nil || docker.CredHelpers[w.host] != "berth" || len(docker.Auths) != 0 {
		t.Errorf("docker's configuration: %s, %v", raw, err)
	}

	// The helper gives a fresh token each time, for each ends soon, and to many at a time.
	get := func() (c struct{ ServerURL, Username, Secret string }) {
		t.Helper()
		w.must(json.Unmarshal([]byte(w.ok(w.host+"\n", "docker-credential-berth", "get")), &c))
		return c
	}
	refreshToken := func() string {
		t.Helper()
		raw, err := os.ReadFile(file)
		w.must(err)
		var all map[string]client.Kept
		w.must(json.Unmarshal(raw, &all))
		return all[w.host].RefreshToken
	}
	before := refreshToken()
	if c := get(); c.Username != "oidc" || c.ServerURL != w.host || refreshToken() == before {
		t.Errorf("%s at %s was not refreshed", c.Username, c.ServerURL)
	}
	results := make(chan error, 4)
	for range cap(results) {
		go func() {
			out, err := w.run("http://"+w.host+"/v2/", "docker-credential-berth", "get")
			if err != nil {
				err = fmt.Errorf("%w: %s", err, out)
			}
			results <- err
		}()
	}
	for range cap(results) {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
	if names := w.ok("", "berth", "credential-helper", "list"); !strings.Contains(names, w.host) || strings.Contains(names, "eyJ") {
		t.Errorf("the list: %s", names)
	}
	out, err = w.run("elsewhere.example.com", "docker-credential-berth", "get")
	if err == nil || !strings.Contains(out, "credentials not found in native keychain") {
		t.Errorf("of a server that is not kept: %v: %s", err, out)
	}

	// A client that asks docker's helper pushes.
	image := w.image()
	w.ok("", testenv.Tool(t, "crane"), "push", "--insecure", image, w.host+"/core/app:1.0")
	if out, err := w.run("", testenv.Tool(t, "crane"), "push", "--insecure", image, w.host+"/web/app:1.0"); err == nil {
		t.Errorf("a push to another team: %s", out)
	}

	// The provider forgets its people: then the helper says what to do.
	w.provider.Stop()
	if out, err := w.run(w.host, "docker-credential-berth", "get"); err == nil || strings.Contains(out, "not found") {
		t.Errorf("without a provider: %v: %s", err, out)
	}
	w.provider.Start()
	if out, err := w.run(w.host, "docker-credential-berth", "get"); err == nil || !strings.Contains(out, "berth login --server") {
		t.Errorf("a refresh token that the provider does not know: %v: %s", err, out)
	}

	// On another device, with other rights.
	out, err = w.login("boss", "--device")
	if err != nil || !strings.Contains(out, "signed in at "+w.host+" as boss") || !strings.Contains(out, "enter the code") {
		t.Fatalf("%v: %s", err, out)
	}
	if who := w.ok("", "berth", "whoami"); !regexp.MustCompile(`Admin: +yes`).MatchString(who) {
		t.Errorf("whoami says %s", who)
	}

	// Signing out ends it at the provider, too.
	before = refreshToken()
	w.ok("", "berth", "logout")
	if out, err := w.run(w.host, "docker-credential-berth", "get"); err == nil {
		t.Errorf("after the logout: %s", out)
	}
	if raw, err := os.ReadFile(filepath.Join(w.home, "docker", "config.json")); err != nil || strings.Contains(string(raw), w.host) {
		t.Errorf("docker's configuration after the logout: %s, %v", raw, err)
	}
	resp, err := http.PostForm(w.provider.Issuer+"/token", url.Values{"grant_type": {"refresh_token"}, "refresh_token": {before}, "client_id": {testenv.OIDCCLIClient}})
	w.must(err)
	defer resp.Body.Close()
	if body, _ := io.ReadAll(resp.Body); resp.StatusCode != http.StatusBadRequest {
		t.Errorf("the refresh token after the logout: %s %s", resp.Status, body)
	}

	// A password is where docker keeps it, whatever was before.
	w.admin("berth", "login")
	if raw, err := os.ReadFile(filepath.Join(w.home, "docker", "config.json")); err != nil || !strings.Contains(string(raw), w.host) || strings.Contains(string(raw), "credHelpers") {
		t.Errorf("docker's configuration after a login with a password: %s, %v", raw, err)
	}
	// docker login stores with the helper when that is what is configured.
	w.ok(`{"ServerURL":"other.example.com","Username":"bob","Secret":"a password"}`, "docker-credential-berth", "store")
	if out := w.ok("other.example.com", "docker-credential-berth", "get"); !strings.Contains(out, `"Secret":"a password"`) {
		t.Errorf("what was stored: %s", out)
	}
	w.ok("other.example.com", "docker-credential-berth", "erase")
	if out, err := w.run("other.example.com", "docker-credential-berth", "get"); err == nil {
		t.Errorf("what was erased: %s", out)
	}
}

// image is an image in a file.
func (w *openIDWorld) image() string {
	w.Helper()
	image, err := random.Image(1024, 2)
	w.must(err)
	path := filepath.Join(w.TempDir(), "image.tar")
	w.must(tarball.WriteToFile(path, name.MustParseReference("registry.example.com/app:1.0"), image))
	return path
}

// TestKeylessCI: a job pushes with the token that its platform gave it, and with
// nothing else.
func TestKeylessCI(t *testing.T) {
	w := newOpenIDWorld(t)
	skopeo := testenv.Tool(t, "skopeo")
	w.admin("berth", "team", "create", "core")
	w.admin("berth", "trust", "set", "core", "main", "--issuer", w.provider.Issuer, "--audience", jobAudience,
		"--claim", "repository=acme/app", "--claim", "ref=refs/heads/*", "--actions", "pull,push", "--repositories", "core/app*", "--robot", "ci")
	image := w.image()
	job := w.provider.JobToken("ci", jobAudience)
	w.ok(job, skopeo, "login", "--tls-verify=false", "--username", "oidc", "--password-stdin", w.host)
	push := func(to string) (string, error) {
		return w.run("", skopeo, "copy", "--dest-tls-verify=false", "docker-archive:"+image, "docker://"+w.host+"/"+to)
	}
	if out, err := push("core/app:1.0"); err != nil {
		t.Fatal(out)
	}
	if out, err := push("core/other:1.0"); err == nil {
		t.Errorf("outside of the policy's repositories: %s", out)
	}
	// Who built it stands in the tag's history.
	if history := w.admin("berth", "tag", "history", "core/app:1.0", "--output", "json"); !strings.Contains(history, "core+ci") {
		t.Errorf("the history: %s", history)
	}
	if audit := w.admin("berth", "trust", "show", "core", "main"); strings.Contains(audit, "never") {
		t.Errorf("its use is not noted: %s", audit)
	}

	// The token endpoint, by RFC 8693 and as docker asks.
	type answer struct {
		Token   string `json:"access_token"`
		Expires int    `json:"expires_in"`
		Refresh string `json:"refresh_token"`
		Type    string `json:"issued_token_type"`
		Scope   string `json:"scope"`
	}
	exchange := func(form url.Values) (a answer, status int) {
		t.Helper()
		resp, err := http.PostForm(w.url+"/token", form)
		w.must(err)
		defer resp.Body.Close()
		w.must(json.NewDecoder(resp.Body).Decode(&a))
		return a, resp.StatusCode
	}
	const scope = "repository:core/app:pull,push,delete berth:api:*"
	got, status := exchange(url.Values{
		"grant_type": {"urn:ietf:params:oauth:grant-type:token-exchange"}, "subject_token": {job}, "scope": {scope},
		"subject_token_type": {"urn:ietf:params:oauth:token-type:id_token"},
	})
	if status != http.StatusOK || got.Token == "" || got.Expires > 900 || got.Refresh != "" || got.Type != "urn:ietf:params:oauth:token-type:access_token" || got.Scope != "repository:core/app:pull,push" {
		t.Errorf("%d %+v", status, got)
	}
	got, status = exchange(url.Values{"grant_type": {"password"}, "username": {"core+ci"}, "password": {job}, "scope": {scope}, "access_type": {"offline"}})
	if status != http.StatusOK || got.Expires > 900 || got.Refresh != "" || got.Scope != "repository:core/app:pull,push" {
		t.Errorf("%d %+v", status, got)
	}
	use := func(method, path, bearer string) int {
		t.Helper()
		r, err := http.NewRequest(method, w.url+path, nil)
		w.must(err)
		r.Header.Set("Authorization", "Bearer "+bearer)
		resp, err := http.DefaultClient.Do(r)
		w.must(err)
		resp.Body.Close()
		return resp.StatusCode
	}
	for name, tt := range map[string]struct {
		bearer, path string
		status       int
	}{
		"the exchanged token pulls":            {got.Token, "/v2/core/app/manifests/1.0", 200},
		"the job's own token pulls":            {job, "/v2/core/app/manifests/1.0", 200},
		"the exchanged token is for one place": {got.Token, "/v2/core/other/manifests/1.0", 403},
		"a job manages nothing":                {job, "/api/v1/whoami", 403},
		"the token of a fork":                  {w.provider.JobToken("fork", jobAudience), "/v2/core/app/manifests/1.0", 401},
		"the token for another registry":       {w.provider.JobToken("ci", "https://elsewhere.example.com"), "/v2/core/app/manifests/1.0", 401},
	} {
		if got := use("GET", tt.path, tt.bearer); got != tt.status {
			t.Errorf("%s: %d, want %d", name, got, tt.status)
		}
	}

	// A job that may manage, until its policy is gone.
	w.admin("berth", "trust", "set", "core", "main", "--actions", "pull,push,admin", "--repositories", "*")
	got, _ = exchange(url.Values{"grant_type": {"password"}, "username": {"oidc"}, "password": {job}, "scope": {"berth:api:*"}})
	if status := use("GET", "/api/v1/teams/core", got.Token); status != 200 {
		t.Errorf("a job that may manage: %d", status)
	}
	w.admin("berth", "trust", "delete", "core", "main", "--yes")
	if status := use("GET", "/api/v1/teams/core", got.Token); status != 401 {
		t.Errorf("a job whose policy was deleted: %d", status)
	}
	if out, err := push("core/app:2.0"); err == nil {
		t.Errorf("a push without a policy: %s", out)
	}
}

// TestOIDCSettings: all that is wrong is said at once, and no secret with it.
func TestOIDCSettings(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "empty.pem")
	if err := os.WriteFile(empty, []byte("no certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := settings.Load(pflag.NewFlagSet("", pflag.ContinueOnError), []string{
		"BERTH_OIDC_ISSUER=http://login.example.com", "BERTH_OIDC_CLIENT_SECRET=hidden-secret", "BERTH_OIDC_TEAMS=dev=core:owner",
		"BERTH_OIDC_ALGORITHMS=RS256,none", "BERTH_OIDC_TRUSTED_ISSUERS=https://gitlab.example.com,http://10.0.0.1", "BERTH_OIDC_CA_FILE=" + empty,
		"BERTH_OIDC_SESSION_TTL=1s",
	})
	for _, want := range []string{"BERTH_OIDC_ISSUER", "oidc_teams", "oidc_algorithms", "oidc_trusted_issuers", "oidc_ca_file", "BERTH_OIDC_SESSION_TTL"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("nothing is said of %s: %v", want, err)
		}
	}
	if err != nil && strings.Contains(err.Error(), "hidden-secret") {
		t.Errorf("the secret is shown: %v", err)
	}
	if _, err := settings.Load(pflag.NewFlagSet("", pflag.ContinueOnError), []string{"BERTH_OIDC_ISSUER=https://login.example.com"}); err == nil || !strings.Contains(err.Error(), "oidc_client_id") {
		t.Errorf("an issuer without a client: %v", err)
	}
	c, err := settings.Load(pflag.NewFlagSet("", pflag.ContinueOnError), []string{"BERTH_OIDC_ISSUER=https://login.example.com", "BERTH_OIDC_CLIENT_ID=berth", "BERTH_OIDC_TEAMS=dev=core:member"})
	if err != nil {
		t.Fatal(err)
	}
	if o, err := c.OIDC.Options(); err != nil || o.People == nil || o.People.UsernameClaim != "preferred_username" || len(o.People.Teams["dev"]) != 1 {
		t.Errorf("%+v, %v", o, err)
	}
}
