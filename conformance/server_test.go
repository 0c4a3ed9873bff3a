package conformance

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
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

	"berth/testenv"
)

// certificate writes a self-signed certificate for 127.0.0.1 with the serial number.
func certificate(t *testing.T, certFile, keyFile string, serial int64) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "berth"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"localhost"},
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: der}, keyFile: {Type: "PRIVATE KEY", Bytes: keyDER}} {
		tmp := name + ".new"
		if err := os.WriteFile(tmp, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(tmp, name); err != nil {
			t.Fatal(err)
		}
	}
}

// TLS by files, which are read again when they change, without a restart and
// without breaking connections that exist.
func TestTLSReload(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	certificate(t, cert, key, 1)
	s := Start(t, Embedded, "BERTH_TLS_CERT="+cert, "BERTH_TLS_KEY="+key)
	c := s.Admin(t)
	content := random(1000)
	repo := unique("tls/reload")
	d := c.PushBlob(repo, content)
	serial := func() int64 {
		conn, err := tls.Dial("tcp", s.Host, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2", "http/1.1"}})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		return conn.ConnectionState().PeerCertificates[0].SerialNumber.Int64()
	}
	if n := serial(); n != 1 {
		t.Fatalf("the certificate has serial number %d, want 1", n)
	}
	certificate(t, cert, key, 2)
	deadline := time.Now().Add(3 * time.Minute)
	for serial() != 2 {
		if time.Now().After(deadline) {
			t.Fatal("the new certificate is not served after 3 minutes")
		}
		time.Sleep(200 * time.Millisecond)
	}
	// A broken file is no reason to stop serving with the last good one.
	if err := os.WriteFile(cert, []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(time.Minute); !strings.Contains(s.Log(), "the new certificate cannot be used"); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("a broken file is not noticed after a minute")
		}
	}
	if n := serial(); n != 2 {
		t.Errorf("with a broken file the serial number is %d, want the last good one's", n)
	}
	c.Do("GET", "/v2/"+repo+"/blobs/"+d, nil).Want(200).WantBody(content)
}

// Health: alive, and ready when database and store are.
func TestHealth(t *testing.T) {
	t.Parallel()
	b := NewBackend(t, Variant{"postgres", "directory"})
	s := b.Start(t)
	get := func(path string) int {
		res, err := http.Get(s.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		return res.StatusCode
	}
	for _, path := range []string{"/livez", "/readyz"} {
		if got := get(path); got != 200 {
			t.Errorf("%s is %d, want 200", path, got)
		}
	}
}

// Metrics: the names that dashboards know, no label per repository, clean for
// promtool, and scraped by a real Prometheus.
func TestMetrics(t *testing.T) {
	t.Parallel()
	promtool, prometheus := testenv.Tool(t, "promtool"), testenv.Tool(t, "prometheus")
	s := Start(t, Embedded)
	c := s.Admin(t)
	repo := unique("metrics/repo")
	c.PushImage(repo, "v1")
	c.Do("GET", "/v2/"+repo+"/manifests/v1", nil).Want(200)
	c.Do("GET", "/v2/"+repo+"/manifests/none", nil).Want(404)

	res, err := http.Get(s.URL + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	text, err := drain(res.Body)
	if err != nil || res.StatusCode != 200 {
		t.Fatalf("/metrics: %s %v", res.Status, err)
	}
	for _, name := range []string{
		"registry_http_requests_total", "registry_http_request_duration_seconds_bucket", "registry_storage_action_seconds_bucket",
		"process_resident_memory_bytes", "go_goroutines",
	} {
		if !bytes.Contains(text, []byte("\n"+name)) {
			t.Errorf("/metrics has no %s", name)
		}
	}
	if bytes.Contains(text, []byte(repo)) || bytes.Contains(text, []byte("metrics/repo")) {
		t.Error("/metrics has a repository's name in it: labels must not grow with repositories")
	}
	check := exec.Command(promtool, "check", "metrics")
	check.Stdin = bytes.NewReader(text)
	if out, err := check.CombinedOutput(); err != nil || len(bytes.TrimSpace(out)) > 0 {
		t.Errorf("promtool check metrics: %v\n%s", err, out)
	}

	dir := t.TempDir()
	config := fmt.Sprintf("global: {scrape_interval: 1s}\nscrape_configs:\n- job_name: berth\n  static_configs:\n  - targets: ['%s']\n", s.Host)
	root, err := testenv.Root()
	if err != nil {
		t.Fatal(err)
	}
	rules := filepath.Join(root, "deploy", "prometheus", "rules.yaml")
	if out, err := exec.Command(promtool, "check", "rules", rules).CombinedOutput(); err != nil {
		t.Errorf("promtool check rules: %v\n%s", err, out)
	}
	// The alerts find Berth whatever its job is called, and leave other registries alone.
	if out, err := exec.Command(promtool, "test", "rules", filepath.Join(filepath.Dir(rules), "rules_test.yaml")).CombinedOutput(); err != nil {
		t.Errorf("promtool test rules: %v\n%s", err, out)
	}
	config += "rule_files: ['" + rules + "']\n"
	if err := os.WriteFile(filepath.Join(dir, "prometheus.yml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	addr, err := testenv.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(prometheus, "--config.file="+filepath.Join(dir, "prometheus.yml"), "--storage.tsdb.path="+filepath.Join(dir, "data"), "--web.listen-address="+addr)
	var log logBuffer
	cmd.Stdout, cmd.Stderr = &log, &log
	p, err := testenv.Start(cmd, syscall.SIGKILL)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = p.Stop(syscall.SIGTERM) }()
	query := url.QueryEscape(`sum(registry_http_requests_total{job="berth"}) > 0 and on() up{job="berth"} == 1`)
	deadline := time.Now().Add(3 * time.Minute)
	for {
		var answer struct {
			Status string `json:"status"`
			Data   struct {
				Result []struct {
					Value [2]any `json:"value"`
				} `json:"result"`
			} `json:"data"`
		}
		res, err := http.Get("http://" + addr + "/api/v1/query?query=" + query)
		if err == nil {
			body, _ := drain(res.Body)
			_ = json.Unmarshal(body, &answer)
			if answer.Status == "success" && len(answer.Data.Result) == 1 {
				t.Logf("Prometheus has scraped %v requests", answer.Data.Result[0].Value[1])
				return
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("Prometheus has no sample of Berth after 3 minutes: %v %+v\n%s", err, answer, tail(log.String(), 30))
		}
		time.Sleep(200 * time.Millisecond)
	}
}

// lastRequest is the line of the last request of TestLogHasNoSecrets, as text and as JSON.
var lastRequest = regexp.MustCompile(`method=POST \S+ path=/token |"method":"POST",[^,]*,"path":"/token"`)

// The request log names who did what, and never a secret.
func TestLogHasNoSecrets(t *testing.T) {
	t.Parallel()
	for _, env := range [][]string{{"BERTH_LOG_LEVEL=debug"}, {"BERTH_LOG_LEVEL=debug", "BERTH_LOG_FORMAT=json"}} {
		b := NewBackend(t, Distributed)
		s := b.Start(t, env...)
		c := s.Admin(t)
		repo := unique("log/secrets")
		c.PushImage(repo, "v1")
		token := c.Token("repository:" + repo + ":pull,push")
		s.Anonymous(t).Do("GET", "/v2/"+repo+"/manifests/v1", nil, "Authorization: Bearer "+token).Want(200)
		const wrong = "a-wrong-password-that-is-a-secret-too"
		s.As(t, "admin", wrong).Do("GET", "/v2/", nil).Want(401)
		form := url.Values{"grant_type": {"password"}, "service": {"berth"}, "username": {"admin"}, "password": {AdminPassword}, "client_id": {"t"}}
		s.Anonymous(t).Do("POST", "/token", []byte(form.Encode()), "Content-Type: application/x-www-form-urlencoded").Want(200)
		// The line of a request is written when it has been answered; the last one tells of a form.
		for deadline := time.Now().Add(time.Minute); !lastRequest.MatchString(s.Log()); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("the last request is not in the log after a minute")
			}
		}
		log := s.Log()
		secrets := []string{AdminPassword, wrong, token, b.Bucket.SecretKey, "Bearer ey", "Basic ",
			base64.StdEncoding.EncodeToString([]byte("admin:" + AdminPassword)), url.QueryEscape(AdminPassword)}
		for i, secret := range secrets {
			if strings.Contains(log, secret) {
				t.Errorf("%v: the log has secret %d in it", env, i)
			}
		}
		for _, want := range []string{repo, "admin", "201"} {
			if !strings.Contains(log, want) {
				t.Errorf("%v: the request log does not name %s", env, want)
			}
		}
	}
}

// The first start makes the user admin, and prints a password that works when none was given.
func TestFirstStartPrintsAPassword(t *testing.T) {
	t.Parallel()
	b := NewBackend(t, Embedded)
	b.Env = b.Env[:1] // without BERTH_ADMIN_PASSWORD
	s := b.Start(t)
	printed := regexp.MustCompile(`(?m)^ *password +(\S+)$`)
	for deadline := time.Now().Add(time.Minute); !printed.MatchString(s.Log()); { // it answers a moment before that
		if time.Now().After(deadline) {
			t.Fatalf("the first start does not print a password:\n%s", s.Log())
		}
		time.Sleep(10 * time.Millisecond)
	}
	log := s.Log()
	m := printed.FindStringSubmatch(log)
	password := m[1]
	s.As(t, "admin", password).Do("GET", "/v2/", nil).Want(200)
	s.Terminate()
	s.Restart(t)
	if strings.Count(s.Log(), password) != strings.Count(log, password) {
		t.Error("the password was printed again at the second start")
	}
	s.As(t, "admin", password).Do("GET", "/v2/", nil).Want(200)
}

// Settings that make no sense: all of them at once, no panic, exit code not 0.
func TestWrongSettings(t *testing.T) {
	t.Parallel()
	cmd := exec.Command(Binary(t), "serve")
	cmd.Env = []string{"BERTH_LISTEN=nonsense", "BERTH_TAG_POLICY=sometimes", "BERTH_STORAGE_URL=ftp://x", "BERTH_DATABASE_URL=mysql://x", "BERTH_TYPO=1"}
	out, err := cmd.CombinedOutput()
	if err == nil {
		t.Fatal("the server took the settings")
	}
	for _, want := range []string{"BERTH_LISTEN", "BERTH_TAG_POLICY", "BERTH_STORAGE_URL", "BERTH_DATABASE_URL", "BERTH_TYPO"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("the message does not name %s:\n%s", want, out)
		}
	}
	if strings.Contains(string(out), "panic") {
		t.Errorf("it panicked:\n%s", out)
	}
}
