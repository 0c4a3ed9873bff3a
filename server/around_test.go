package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os/exec"
	"strings"
	"testing"
	"time"

	"berth/auth"
	"berth/metadata"
	"berth/oci"
	"berth/server/door"
	"berth/testenv"
)

// TestLog: one line per request with what it was about, and never a secret.
func TestLog(t *testing.T) {
	w := small(t, nil)
	secret := w.token(metadata.Token{Kind: metadata.PersonalToken, Name: "pat", User: "mo", Actions: []string{"pull", "push"}})
	w.pushImage("token:pat", "team/app", "1.0")
	jwt := w.jwt("mo", "repository:team/app:pull")
	before := strings.Count(w.log.String(), "msg=request")
	w.do("GET", "/v2/team/app/manifests/1.0?signature=topsecret", jwt, nil, "X-Request-Id", "line-1", "User-Agent", "test forged=line").want(t, 200)
	w.do("GET", "/token?scope=x&refresh_token=topsecret", "mo", nil).want(t, 200)
	form := url.Values{"grant_type": {"password"}, "username": {"mo"}, "password": {"pw-mo"}}
	w.do("POST", "/token", "", strings.NewReader(form.Encode()), "Content-Type", "application/x-www-form-urlencoded").want(t, 200)
	w.do("GET", "/v2/", "jwt:"+secret+"x", nil).want(t, 401)
	w.http.Close() // waits for the lines

	log := w.log.String()
	if n := strings.Count(log, "msg=request") - before; n != 4 {
		t.Errorf("%d lines for 4 requests", n)
	}
	_, line, _ := strings.Cut(log, "id=line-1 ")
	line, _, _ = strings.Cut(line, "\n")
	for _, want := range []string{"method=GET", "route=manifest", "status=200", "principal=mo", "repository=team/app", "bytes_in=0", "bytes_out=", "duration=", "remote=127.0.0.1", "path=/v2/team/app/manifests/1.0 "} {
		if !strings.Contains(line, want) {
			t.Errorf("the line lacks %q: %s", want, line)
		}
	}
	// CVE-2025-48374: no secret in a log, in whatever form it came.
	raw := strings.TrimPrefix(jwt, "jwt:")
	for _, s := range []string{secret, raw, raw[strings.LastIndexByte(raw, '.')+1:], "topsecret", "pw-mo", "Authorization", "Basic "} {
		if strings.Contains(log, s) {
			t.Errorf("the log contains %.20q", s)
		}
	}
}

// TestInternalErrorStaysInside: the client gets an id, the log the cause, once.
func TestInternalErrorStaysInside(t *testing.T) {
	w := small(t, func(_ *world, o *Options) {
		o.Doors = []door.Door{apiDoor{handler: func(ex door.Exchange, r *http.Request) error {
			switch r.URL.Path {
			case "/api/v1/panic":
				panic("the cause: /etc/passwd")
			case "/api/v1/late":
				ex.WriteHeader(200)
				ex.Write([]byte("half"))
				ex.(http.Flusher).Flush()
				panic("the cause: too late")
			}
			return fmt.Errorf("the cause: %w", errors.New("password=x at db.internal"))
		}}}
	})
	for _, path := range []string{"/api/v1/error", "/api/v1/panic"} {
		r := w.do("GET", path, "root", nil, "X-Request-Id", "id-"+path[8:]).want(t, 500)
		var p Problem
		if err := json.Unmarshal(r.body, &p); err != nil || p.RequestID != "id-"+path[8:] || strings.Contains(string(r.body), "the cause") || strings.Contains(string(r.body), "goroutine") {
			t.Errorf("%s: %s", path, r.body)
		}
	}
	// Half an answer must not look like a whole one.
	r, _ := http.NewRequest("GET", w.http.URL+"/api/v1/late", nil)
	r.SetBasicAuth("root", w.accounts["root"])
	resp, err := w.http.Client().Do(r)
	if err == nil {
		buf := make([]byte, 100)
		for err == nil {
			_, err = resp.Body.Read(buf)
		}
		if err.Error() == "EOF" {
			t.Error("the client took half an answer for complete")
		}
		resp.Body.Close()
	}
	w.http.Close()
	log := w.log.String()
	if n := strings.Count(log, "db.internal"); n != 1 {
		t.Errorf("the cause is in the log %d times", n)
	}
	if !strings.Contains(log, "server.go") || !strings.Contains(log, "id=id-panic") {
		t.Error("the panic's stack is not in the log")
	}
}

func TestHealth(t *testing.T) {
	var down error
	hang := make(chan struct{})
	defer close(hang)
	w := newWorld(t, func(_ *world, o *Options) {
		o.Ready = []Check{{Name: "database", Read: func(context.Context) error { return down }}, {Name: "storage"}}
	})
	ready := func() (int, string) {
		w.clock.forward(2 * readyFor)
		r := w.do("GET", "/readyz", "", nil)
		return r.StatusCode, string(r.body)
	}
	if status, body := ready(); status != 200 || body != "database ok\nstorage ok\nready\n" {
		t.Errorf("%d %s", status, body)
	}
	down = errors.New("dial tcp db.internal: refused")
	// Dockit, works when 19: /healthz fails when the database is down.
	w.clock.forward(2 * readyFor)
	w.do("GET", "/healthz", "", nil).want(t, 503)
	w.do("HEAD", "/healthz", "", nil).want(t, 503)
	if status, body := ready(); status != 503 || body != "database failed\nstorage ok\n" {
		t.Errorf("%d %s", status, body)
	}
	down = nil
	w.server.Drain()
	if status, body := ready(); status != 503 || !strings.Contains(body, "stopping") {
		t.Errorf("%d %s", status, body)
	}
	w.do("GET", "/livez", "", nil).want(t, 200)
	w.do("HEAD", "/livez", "", nil).want(t, 200)
	// A check that hangs is a failed one, and soon.
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if err := ping(ctx, func(context.Context) error { <-hang; return nil }); err == nil {
		t.Error("a check that hangs is fine")
	}
}

func TestStartPage(t *testing.T) {
	w := newWorld(t, func(_ *world, o *Options) { o.URL, o.Version = "https://registry.example:5443", "1.2.3<" })
	r := w.do("GET", "/", "", nil, "Accept", "text/html,*/*;q=0.8").want(t, 200)
	if !strings.Contains(string(r.body), "docker login registry.example:5443\n") || !strings.Contains(string(r.body), "1.2.3&lt;") || r.Header.Get("Content-Security-Policy") == "" {
		t.Errorf("%v %s", r.Header, r.body)
	}
	if got := w.do("GET", "/v2/", "", nil).Header.Get("WWW-Authenticate"); !strings.HasPrefix(got, `Bearer realm="https://registry.example:5443/token"`) {
		t.Errorf("challenge %q", got)
	}
}

// TestMetrics: the known names, no label that a client can make values for, and
// what promtool says.
func TestMetrics(t *testing.T) {
	w := small(t, nil)
	w.pushImage("mo", "team/app", "1.0")
	w.do("GET", "/v2/team/app/manifests/1.0", "mo", nil).want(t, 200)
	w.do("GET", "/v2/team/app/manifests/2.0", "mo", nil).want(t, 404)
	w.do("GET", "/v2/team/app/manifests/1.0", "fred", nil).want(t, 403)
	w.do("BREW", "/v2/", "mo", nil).want(t, 405)
	w.do("GET", "/some/path", "mo", nil).want(t, 404)
	r := w.do("GET", "/metrics", "", nil).want(t, 200)
	text := string(r.body)
	for _, want := range []string{
		`registry_http_requests_total{code="200",handler="manifest",method="GET"} 1`,
		`registry_http_requests_total{code="404",handler="manifest",method="GET"} 1`,
		`registry_http_requests_total{code="201",handler="blob_upload",method="POST"} 2`,
		`registry_http_requests_total{code="405",handler="unknown",method="other"} 1`,
		`registry_http_request_duration_seconds_count{handler="manifest",method="GET"} 3`,
		`registry_http_in_flight_requests 1`,
		`registry_http_response_size_bytes_count{handler="manifest"}`,
		`registry_http_request_size_bytes_sum{handler="blob_upload"} 19`,
		`berth_sign_ins_total{result="ok"}`,
		`berth_refusals_total{action="pull"} 1`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("/metrics lacks %s", want)
		}
	}
	for _, never := range []string{"team/app", "some/path", "BREW", `"mo"`} {
		if strings.Contains(text, never) {
			t.Errorf("/metrics has a label of %q", never)
		}
	}
	promtool := exec.Command(testenv.Tool(t, "promtool"), "check", "metrics")
	promtool.Stdin = strings.NewReader(text)
	if out, err := promtool.CombinedOutput(); err != nil || len(out) != 0 {
		t.Errorf("promtool: %v\n%s", err, out)
	}
}

// TestConfigure: the limits that keep slow and large headers out.
func TestConfigure(t *testing.T) {
	w := newWorld(t, nil)
	var h http.Server
	w.server.Configure(&h)
	if h.ReadHeaderTimeout == 0 || h.IdleTimeout == 0 || h.MaxHeaderBytes == 0 || h.ReadTimeout != 0 || h.WriteTimeout != 0 {
		t.Errorf("%+v", &h)
	}
	r := httptest.NewRequest("GET", "/v2/", nil)
	r.Header.Set("X-Large", strings.Repeat("x", 100_000))
	r.RequestURI, r.URL.Scheme, r.URL.Host = "", "http", w.http.Listener.Addr().String()
	resp, err := w.http.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("a header of 100 kB: %d", resp.StatusCode)
	}
}

// TestNewSaysWhatIsWrong: options that cannot work are refused at start.
func TestNewSaysWhatIsWrong(t *testing.T) {
	w := newWorld(t, nil)
	good := Options{Registry: w.registry, Auth: w.server.auth, Policy: w.server.policy, Tokens: w.server.tokens}
	if _, err := New(good); err != nil {
		t.Fatal(err)
	}
	if _, err := New(Options{}); err == nil {
		t.Error("nothing was enough")
	}
	for _, u := range []string{"registry.example", "ftp://x", "https://", "https://x/?a", "https://u:p@x", `https://x"y`} {
		bad := good
		bad.URL = u
		if _, err := New(bad); err == nil {
			t.Errorf("the URL %q was taken", u)
		}
	}
	bad := good
	bad.Service = `a",realm="b`
	if _, err := New(bad); err == nil {
		t.Error("a service with quotes was taken")
	}
}

// TestReadyIsForPulls: what keeps pushes out alone takes no traffic away, and is told by ?verbose, the
// metric and one line of the log; without hosts and paths for those who ask.
func TestReadyIsForPulls(t *testing.T) {
	var write, warn, dead error
	w := newWorld(t, func(_ *world, o *Options) {
		o.Ready = []Check{
			{Name: "database", Warn: func(context.Context) error { return warn }, Dead: func() error { return dead }},
			{Name: "storage", Write: func(context.Context) error { return write }},
		}
	})
	ask := func(path string) string {
		w.clock.forward(2 * writableFor)
		r := w.do("GET", path, "", nil)
		return fmt.Sprint(r.StatusCode, " ", string(r.body))
	}
	same := func(what, got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("%s: %q, want %q", what, got, want)
		}
	}
	same("in order", ask("/readyz?verbose"), "200 database read ok\ndatabase write ok\nstorage read ok\nstorage write ok\nready\n")
	write = oci.Errorf(oci.CodeUnavailable, "no room is left").WithCause(errors.New("/var/lib/berth: no space left on device"))
	for range 3 {
		same("full", ask("/readyz"), "200 database ok\nstorage ok\nready\n")
	}
	same("full", ask("/readyz?verbose"), "200 database read ok\ndatabase write ok\nstorage read ok\nstorage write failed: no room is left\nready\n")
	if n := strings.Count(w.log.String(), "pushes fail, pulls go on"); n != 1 || !strings.Contains(w.log.String(), "/var/lib/berth") {
		t.Errorf("%d lines about it in the log", n)
	}
	w.do("GET", "/healthz", "", nil).want(t, 200)
	metrics := ask("/metrics")
	for _, line := range []string{`berth_can_read{part="storage"} 1`, `berth_can_write{part="storage"} 0`, `berth_can_write{part="database"} 1`} {
		if !strings.Contains(metrics, line+"\n") {
			t.Errorf("no %s", line)
		}
	}
	write, warn = errors.New("dial tcp s3.internal: refused"), oci.Errorf(oci.CodeUnavailable, "the clock of this server is 7s ahead")
	same("another reason", ask("/readyz?verbose"), "200 database read ok\ndatabase write ok\ndatabase warning: the clock of this server is 7s ahead\n"+
		"storage read ok\nstorage write failed: the log has the reason\nready\n")
	write, warn = nil, nil
	same("mended", ask("/readyz?verbose"), "200 database read ok\ndatabase write ok\nstorage read ok\nstorage write ok\nready\n")
	if !strings.Contains(w.log.String(), "pushes work again") {
		t.Error("nothing in the log about its end")
	}
	dead = oci.Errorf(oci.CodeUnavailable, "its log could not be written")
	same("dead", ask("/readyz?verbose"), "503 database read failed: its log could not be written\ndatabase write failed\nstorage read ok\nstorage write ok\n")
	same("dead", ask("/livez"), "503 database failed: its log could not be written\nthis process has to be started anew\n")
	// What a probe finds is told once; the probes themselves are no failures.
	if strings.Contains(w.log.String(), "level=ERROR") {
		t.Errorf("probes are errors in the log:\n%s", w.log)
	}
}

// TestThrottledIsOneThing: a sign-in that is refused for too many failures is called the same on the wire, in
// the log and by the metric.
func TestThrottledIsOneThing(t *testing.T) {
	w := small(t, nil)
	for range 11 {
		w.do("GET", "/v2/", "ghost", nil)
	}
	for _, path := range []string{"/v2/", "/token?service=registry.test", "/v2/_catalog"} {
		r := w.do("GET", path, "ghost", nil, "X-Request-Id", "throttled").want(t, http.StatusTooManyRequests)
		if r.Header.Get("Retry-After") == "" || !strings.Contains(string(r.body), "TOOMANYREQUESTS") {
			t.Errorf("%s: %v %s", path, r.Header, r.body)
		}
	}
	lines := 0
	for line := range strings.Lines(w.log.String()) {
		if !strings.Contains(line, "id=throttled") {
			continue
		}
		lines++
		if !strings.Contains(line, "status=429") || !strings.Contains(line, "code=TOOMANYREQUESTS") || strings.Contains(line, "UNAVAILABLE") || !strings.Contains(line, "level=INFO") {
			t.Errorf("the log says %s", line)
		}
	}
	if lines != 3 {
		t.Errorf("%d lines", lines)
	}
	metrics := string(w.do("GET", "/metrics", "", nil).body)
	if !strings.Contains(metrics, `berth_sign_ins_total{result="throttled"} 4`) || strings.Contains(metrics, `berth_sign_ins_total{result="unavailable"}`) {
		t.Error("the metric says otherwise")
	}
}

// TestTokensInPathsAreMasked: tokens that somebody put into a path, a query or a header that is logged are not in
// the log, nor in the audit log.
func TestTokensInPathsAreMasked(t *testing.T) {
	var audit recorder
	w := small(t, func(_ *world, o *Options) { o.Audit = audit.record })
	jwt := strings.TrimPrefix(w.jwt("mo", "repository:team/app:pull"), "jwt:")
	for _, prefix := range []string{auth.PersonalPrefix, auth.RobotPrefix, auth.DeployPrefix} {
		secret, _ := auth.NewSecret(prefix)
		for _, form := range []string{secret, jwt} {
			for _, path := range []string{"/v2/" + form + "/manifests/1", "/v2/team/app/manifests/" + form, "/v2/team/" + form + "/tags/list", "/x?token=" + form, "/api/v1/users/" + form, "/v2/team/app/blobs/uploads/" + form + "?a=" + form} {
				w.do("GET", path, "fred", nil, "User-Agent", "job/"+form, "X-Request-Id", form)
			}
		}
		hidden := secret[len(prefix):]
		if log := w.log.String(); strings.Contains(log, hidden) || strings.Contains(log, jwt[len(jwt)-20:]) {
			t.Errorf("a token is in the log")
		}
		if raw, err := json.Marshal(audit.take()); err != nil || strings.Contains(string(raw), hidden) || strings.Contains(string(raw), jwt[len(jwt)-20:]) {
			t.Errorf("a token is in the audit log: %v", err)
		}
	}
	if !strings.Contains(w.log.String(), "path=/v2/"+auth.RobotPrefix+"***/manifests/1") {
		t.Error("the log does not show which kind of token it was")
	}
}

// TestPlainRealm: a client that came by TLS and is sent to http:// with its password is worth one warning; our own TLS is
// for good (RFC 6797).
func TestPlainRealm(t *testing.T) {
	w := small(t, func(_ *world, o *Options) { o.URL = "http://registry.example" })
	warned := func() int { return strings.Count(w.log.String(), "are sent to http://registry.example/token") }
	if r := w.do("GET", "/v2/", "", nil); warned() != 0 || r.Header.Get("Strict-Transport-Security") != "" {
		t.Errorf("%d warnings without TLS, %v", warned(), r.Header)
	}
	for range 3 {
		w.do("GET", "/v2/", "", nil, "X-Forwarded-Proto", "https")
	}
	if warned() != 1 {
		t.Errorf("%d warnings behind a proxy", warned())
	}

	w = small(t, func(_ *world, o *Options) { o.URL = "http://registry.example" })
	ours := httptest.NewUnstartedServer(nil)
	w.server.Configure(ours.Config)
	ours.StartTLS()
	defer ours.Close()
	res, err := ours.Client().Get(ours.URL + "/v2/")
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.Header.Get("Strict-Transport-Security") != "max-age=31536000" || warned() != 1 {
		t.Errorf("with our own TLS: %v, %d warnings", res.Header, warned())
	}
}
