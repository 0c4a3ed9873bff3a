package conformance

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"berth/auth/aws/awstest"
)

// TestAWS is docker on machines of AWS: an instance logs in by its identity document
// and pulls; a role logs in by what `berth aws-token` prints and pushes. STS is a
// server that verifies the signature.
func TestAWS(t *testing.T) {
	const account = "123456789012"
	ci := awstest.Identity{Secret: "the secret key", SessionToken: "the+session/token==", Account: account, ARN: "arn:aws:sts::" + account + ":assumed-role/ci-build/job-1"}
	sts := awstest.New(t, map[string]awstest.Identity{"ASIACICICICICICICICI": ci})
	authority := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(authority, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: sts.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	s := Start(t, Embedded, "BERTH_AWS_CERTIFICATES="+awstest.Certificate(t, "dsa"),
		"BERTH_AWS_IAM=true", "BERTH_AWS_SERVER_ID=127.0.0.1", "BERTH_AWS_STS_HOSTS="+sts.Host(), "BERTH_AWS_CA_FILE="+authority)
	w := newWorld(t, s)
	b, docker := dockerTool(t, s, &daemons{t: t})
	login := func(user, password string) {
		t.Helper()
		if out, err := docker.login(user, password); err != nil {
			t.Fatalf("docker login -u %s: %v\n%s", user, err, out)
		}
	}
	ref := s.Host + "/core/app:1.0"
	image := newArchive(t, ref)
	login("alice", password("alice"))
	if out, err := docker.push(image, ref); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	docker.logout()

	document := awstest.Sign(t, "dsa", awstest.Document(account, "eu-west-1", time.Now().Add(-time.Hour)), "-md", "sha1")
	if out, err := docker.login("instance-identity-document", document); err == nil || !strings.Contains(out, account) {
		t.Errorf("an account that nobody let in: %v\n%s", err, out)
	}
	w.Berth(t, "account", "add", account, "--repositories", "core/*")
	login("instance-identity-document", document)
	if out, err := docker.pull(ref); err != nil {
		t.Errorf("an instance pulls: %v\n%s", err, out)
	}
	out, err := docker.push(image, s.Host+"/core/app:2.0")
	b.fails(out, err, "aws:"+account)
	docker.logout()
	stranger := awstest.Sign(t, "stranger", awstest.Document(account, "eu-west-1", time.Now().Add(-time.Hour)))
	if out, err := docker.login("instance-identity-document", stranger); err == nil {
		t.Errorf("a document of somebody else: %s", out)
	}

	w.Berth(t, "account", "add", account, "--role", "ci-*", "--repositories", "core/*", "--actions", "pull,push")
	ctx, cancel := context.WithTimeout(t.Context(), clientTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, s.Bin, "aws-token", "--server", s.URL)
	cmd.Env = append(os.Environ(), "HOME="+b.home, "AWS_ENDPOINT_URL_STS=https://"+sts.Host(), "AWS_REGION=eu-west-1",
		"AWS_ACCESS_KEY_ID=ASIACICICICICICICICI", "AWS_SECRET_ACCESS_KEY="+ci.Secret, "AWS_SESSION_TOKEN="+ci.SessionToken)
	token, err := cmd.Output()
	if err != nil {
		t.Fatalf("berth aws-token: %v", err)
	}
	login("aws-iam", strings.TrimSpace(string(token)))
	if out, err := docker.push(image, s.Host+"/core/app:2.0"); err != nil {
		t.Errorf("a role pushes: %v\n%s", err, out)
	}
	if out, err := docker.pull(ref); err != nil {
		t.Errorf("a role pulls: %v\n%s", err, out)
	}
	out, err = docker.push(image, s.Host+"/other/app:2.0")
	b.fails(out, err, "aws:"+account+":role/ci-build")
	if history := w.Berth(t, "tag", "history", "core/app:2.0"); !strings.Contains(history, "aws:"+account+":role/ci-build") {
		t.Errorf("the history does not say who pushed: %s", history)
	}
	if sts.Calls.Load() == 0 {
		t.Error("nobody asked STS")
	}
	for _, secret := range []string{strings.TrimSpace(string(token)), strings.ReplaceAll(document, "\n", "")[:200], document[:60]} {
		if strings.Contains(s.Log(), secret) {
			t.Error("the log has a credential")
		}
	}
}

// TestDims is checks 2 and 7 of d.ims.io with docker: a token is put as it is into
// docker's configuration, and what docker pushed is what the API lists.
func TestDims(t *testing.T) {
	s := Start(t, Embedded)
	w := newWorld(t, s)
	b, docker := dockerTool(t, s, &daemons{t: t})
	ask := func(method, path, body, authorization string, status int) []byte {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), method, s.URL+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Basic "+authorization)
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		raw, err := drain(answer.Body)
		if err != nil || answer.StatusCode != status {
			t.Fatalf("%s %s: %d %s, %v", method, path, answer.StatusCode, raw, err)
		}
		return raw
	}
	var token struct{ Token string }
	alice := base64.StdEncoding.EncodeToString([]byte("alice:" + password("alice")))
	if err := json.Unmarshal(ask("POST", "/token", "", alice, http.StatusAccepted), &token); err != nil {
		t.Fatal(err)
	}
	config := fmt.Sprintf(`{"auths":{%q:{"auth":%q}}}`, s.Host, token.Token)
	if err := os.WriteFile(filepath.Join(b.home, "docker", "config.json"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	ask("POST", "/repository/core", `{"name":"redis"}`, token.Token, http.StatusAccepted)
	ref := s.Host + "/core/redis:1"
	printed, err := docker.push(newArchive(t, ref), ref)
	if err != nil {
		t.Fatalf("%v\n%s", err, printed)
	}
	if out, err := docker.pull(ref); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	if list := ask("GET", "/repository/core/redis/image", "", token.Token, 200); string(list) != `{"images":["1"]}` {
		t.Errorf("%s", list)
	}
	var image struct{ Digest, Size string }
	if err := json.Unmarshal(ask("GET", "/repository/core/redis/image/1", "", token.Token, 200), &image); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(printed, "digest: "+image.Digest) || !strings.HasSuffix(image.Size, "MB") {
		t.Errorf("the API says %+v, docker said\n%s", image, printed)
	}
	ask("DELETE", "/token/"+token.Token, "", alice, 200)
	ask("GET", "/repository", "", token.Token, http.StatusUnauthorized)
	if out, err := docker.pull(ref); err == nil {
		t.Errorf("docker pulls with a token that was deleted:\n%s", out)
	}
	if out := w.Berth(t, "token", "list", "--user", "alice"); strings.Contains(out, "dims-") {
		t.Errorf("%s", out)
	}
}
