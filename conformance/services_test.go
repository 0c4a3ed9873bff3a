package conformance

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"berth/testenv"
)

// otherRegistry is a registry of somebody else's that takes Berth's tokens.
type otherRegistry struct {
	Host   string
	proc   *testenv.Process
	log    *logBuffer
	bin    string
	config string
}

// startOther writes the registry's configuration and starts it. keys is the setting (rootcertbundle or jwks) that gets
// the file.
func startOther(t *testing.T, w *world, bin, service, keys, file string) *otherRegistry {
	t.Helper()
	addr, err := testenv.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	r := &otherRegistry{Host: addr, log: &logBuffer{}, bin: bin, config: filepath.Join(dir, "config.yml")}
	config := fmt.Sprintf(`version: 0.1
log:
  level: warn
storage:
  filesystem:
    rootdirectory: %s
http:
  addr: %s
  secret: not-a-secret
auth:
  token:
    realm: %s/v2/token
    service: %s
    issuer: dockit
    %s: %s
`, filepath.Join(dir, "data"), addr, w.URL, service, keys, file)
	if err := os.WriteFile(r.config, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	r.start(t)
	t.Cleanup(func() {
		_ = r.proc.Stop(syscall.SIGTERM)
		if t.Failed() {
			t.Logf("log of %s:\n%s", filepath.Base(bin), tail(r.log.String(), 40))
		}
	})
	return r
}

func (r *otherRegistry) start(t *testing.T) {
	t.Helper()
	cmd := exec.Command(r.bin, "serve", r.config)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "OTEL_TRACES_EXPORTER=none"}
	cmd.Stdout, cmd.Stderr = r.log, r.log
	proc, err := testenv.Start(cmd, syscall.SIGKILL)
	if err != nil {
		t.Fatal(err)
	}
	r.proc = proc
	for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		if resp, err := http.Get("http://" + r.Host + "/v2/"); err == nil {
			resp.Body.Close()
			if resp.StatusCode != http.StatusUnauthorized {
				t.Fatalf("%s answers %s, want 401", r.bin, resp.Status)
			}
			return
		}
	}
	t.Fatalf("%s does not answer:\n%s", r.bin, tail(r.log.String(), 40))
}

// tokenFor fetches a token for another service, and gives it with its kid.
func (w *world) tokenFor(t *testing.T, user, service string, scopes ...string) (raw, kid string) {
	t.Helper()
	q := url.Values{"service": {service}, "account": {user}, "scope": scopes}
	r, err := http.NewRequest("GET", w.URL+"/v2/token?"+q.Encode(), nil)
	if err != nil {
		t.Fatal(err)
	}
	r.SetBasicAuth(user, password(user))
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var answer struct{ Token string }
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s, %v", resp.Status, err)
	}
	var header struct {
		Kid string
		X5c []string
	}
	text, err := base64.RawURLEncoding.DecodeString(strings.Split(answer.Token, ".")[0])
	if err != nil || json.Unmarshal(text, &header) != nil || header.Kid == "" {
		t.Fatalf("header %s, %v", text, err)
	}
	return answer.Token, header.Kid
}

// get asks the other registry with a token and gives the status.
func (r *otherRegistry) get(t *testing.T, path, token string) int {
	t.Helper()
	req, err := http.NewRequest("GET", "http://"+r.Host+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	return resp.StatusCode
}

// TestServices is Dockit's works when 2, 13 and 15: CNCF distribution 3 and Debian's
// docker-registry 2.8 take Berth's tokens from docker, with every kind of key that
// they know; and keys change while people push, with no push failing and without
// Berth being started again.
func TestServices(t *testing.T) {
	d := &daemons{t: t}
	w := newWorld(t, Start(t, Embedded))
	for _, peer := range []struct {
		name, program string
		algorithms    []string
	}{
		{"distribution-3", "registry", []string{"ES256", "ES384", "RS256"}},
		{"docker-registry-2", "docker-registry", []string{"ES256", "ES384", "RS256"}},
	} {
		for _, algorithm := range peer.algorithms {
			t.Run(peer.name+"/"+algorithm, func(t *testing.T) {
				t.Parallel()
				testOtherRegistry(t, w, d, testenv.Tool(t, peer.program), peer.name+"."+algorithm+".example.com", algorithm)
			})
		}
	}
}

// A registry that has nothing but the JWKS takes the tokens of a service that leaves the certificates out: CNCF
// distribution 3 looks at them first, and fails where it has no bundle.
func TestServiceWithJWKS(t *testing.T) {
	w := newWorld(t, Start(t, Embedded))
	const service = "jwks.example.com"
	w.Berth(t, "service", "set", service, "--issuer", "dockit")
	resp, err := http.Get(w.URL + "/.well-known/jwks.json?service=" + service)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	set, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s, %v", resp.Status, err)
	}
	jwks := filepath.Join(t.TempDir(), "jwks.json")
	if err := os.WriteFile(jwks, set, 0o600); err != nil {
		t.Fatal(err)
	}
	r := startOther(t, w, testenv.Tool(t, "registry"), service, "jwks", jwks)
	status := func(scope, path string) int {
		raw, _ := w.tokenFor(t, "alice", service, scope)
		return r.get(t, path, raw)
	}
	const list, mine = "/v2/core/app/tags/list", "repository:core/app:pull"
	if got := status(mine, list); got != http.StatusUnauthorized {
		t.Errorf("a token with certificates gets %d: then the switch is not needed any more", got)
	}
	w.Berth(t, "service", "set", service, "--omit-x5c")
	if got := status(mine, list); got != http.StatusNotFound { // let in, and there is no such repository
		t.Errorf("a token without certificates gets %d, want 404", got)
	}
	if got := status("repository:core/other:pull", list); got != http.StatusUnauthorized {
		t.Errorf("a token for another repository gets %d, want 401", got)
	}
	w.Berth(t, "service", "set", service, "--omit-x5c=false")
	if got := status(mine, list); got != http.StatusUnauthorized {
		t.Errorf("set back, a token gets %d, want 401", got)
	}
}

func testOtherRegistry(t *testing.T, w *world, d *daemons, bin, service, algorithm string) {
	w.Berth(t, "service", "set", service, "--issuer", "dockit", "--algorithm", algorithm)
	bundle := filepath.Join(t.TempDir(), "bundle.pem")
	w.Berth(t, "init-container", bundle, "--service", service)
	r := startOther(t, w, bin, service, "rootcertbundle", bundle)

	b := newBox(t, "DOCKER_HOST="+d.dockerd(t))
	docker := testenv.Tool(t, "docker")
	login := func(user string) {
		t.Helper()
		if out, err := b.tryIn(password(user), docker, "login", "-u", user, "--password-stdin", r.Host); err != nil {
			t.Fatalf("docker login: %v\n%s", err, out)
		}
	}
	repo := r.Host + "/" + unique("core/app")
	a := newArchive(t, "example.com/mine:1")
	b.run(docker, "load", "-q", "-i", a.path)
	b.run(docker, "tag", a.id(t), repo+":1.0")

	// alice may push, rita may only pull.
	out, err := b.tryIn("wrong", docker, "login", "-u", "alice", "--password-stdin", r.Host)
	b.fails(out, err)
	login("alice")
	b.run(docker, "push", repo+":1.0")
	// A second repository takes the layers by mount, for which docker asks for two scopes.
	b.run(docker, "tag", a.id(t), repo+"-two:1.0")
	if out := b.run(docker, "push", repo+"-two:1.0"); !strings.Contains(out, "Mounted from") {
		t.Errorf("docker did not mount from the first repository:\n%s", out)
	}
	login("rita")
	_, _ = b.try(docker, "rmi", "-f", repo+":1.0")
	b.run(docker, "pull", repo+":1.0")
	b.run(docker, "tag", a.id(t), repo+":2.0")
	out, err = b.try(docker, "push", repo+":2.0")
	b.fails(out, err, "denied|unauthorized")
	if algorithm != "ES256" {
		return // the rest does not depend on the kind of the key
	}

	// bob is of another team, until he is given the right.
	login("bob")
	out, err = b.try(docker, "pull", repo+":1.0")
	b.fails(out, err)
	name := strings.TrimPrefix(repo, r.Host+"/")
	w.Berth(t, "rbac", "grant", "user:bob", "repository:"+name+":push")
	b.run(docker, "push", repo+":2.0")
	w.Berth(t, "rbac", "revoke", "user:bob", "repository:"+name+":push")
	out, err = b.try(docker, "push", repo+":2.0")
	b.fails(out, err, "denied|unauthorized")

	// Anonymously, when it is enabled.
	b.run(docker, "logout", r.Host)
	out, err = b.try(docker, "pull", repo+":1.0")
	b.fails(out, err)
	w.Berth(t, "service", "set", service, "--anonymous-pull", "core/*")
	b.run(docker, "pull", repo+":1.0")
	b.run(docker, "tag", a.id(t), repo+":3.0")
	out, err = b.try(docker, "push", repo+":3.0")
	b.fails(out, err, "denied|unauthorized|no basic auth")
	// The catalog is for those who may pull everything.
	if raw, _ := w.tokenFor(t, "alice", service, "registry:catalog:*"); r.get(t, "/v2/_catalog", raw) != http.StatusUnauthorized {
		t.Error("a member of a team lists the names of all repositories")
	}

	// A new key is in the bundle before it signs. The registry, which reads it only
	// when it starts, is started again meanwhile; Berth is not.
	list := "/v2/" + name + "/tags/list"
	before, old := w.tokenFor(t, "alice", service, "repository:"+name+":pull")
	w.Berth(t, "key", "rotate", "--service", service, "--delay", "8s")
	w.Berth(t, "init-container", bundle, "--service", service)
	text, err := os.ReadFile(bundle)
	if err != nil || strings.Count(string(text), "BEGIN CERTIFICATE") != 2 {
		t.Fatalf("the bundle after the rotation is %s, %v, want two certificates", text, err)
	}
	if _, kid := w.tokenFor(t, "alice", service); kid != old {
		t.Log("the machine is slow: the new key signs already")
	}
	_ = r.proc.Stop(syscall.SIGTERM)
	r.start(t)
	login("alice")
	deadline := time.Now().Add(3 * time.Minute)
	for n, kid := 0, old; kid == old; n++ {
		if time.Now().After(deadline) {
			t.Fatal("the new key does not sign after 3 minutes")
		}
		tag := fmt.Sprintf("%s:rotation-%d", repo, n)
		b.run(docker, "tag", a.id(t), tag)
		b.run(docker, "push", "-q", tag)
		_, kid = w.tokenFor(t, "alice", service)
	}
	b.run(docker, "tag", a.id(t), repo+":after")
	b.run(docker, "push", repo+":after")
	after, _ := w.tokenFor(t, "alice", service, "repository:"+name+":pull")
	for what, raw := range map[string]string{"old": before, "new": after} {
		if status := r.get(t, list, raw); status != http.StatusOK {
			t.Errorf("a token of the %s key gets %d", what, status)
		}
	}
	// A token for us opens nothing there, and theirs nothing here.
	ours := w.person(t, "alice").Token("repository:" + name + ":pull")
	if status := r.get(t, list, ours); status != http.StatusUnauthorized {
		t.Errorf("Berth's own token gets %d from another registry", status)
	}
	w.Anonymous(t).Do("GET", "/v2/"+name+"/tags/list", nil, "Authorization: Bearer "+after).Want(401)
}
