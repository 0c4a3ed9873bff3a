package main

import (
	"context"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// The hand-written client against net/http's server: both kinds of bodies, in
// both directions, connections that end, and a sign-in on the way.
func TestClient(t *testing.T) {
	mux := http.NewServeMux()
	server := httptest.NewServer(mux)
	defer server.Close()
	mux.HandleFunc("GET /v2/", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer good" {
			w.Header().Set("WWW-Authenticate", `Bearer realm="`+server.URL+`/token",service="here",scope="a"`)
			w.WriteHeader(http.StatusUnauthorized)
		}
	})
	mux.HandleFunc("GET /token", func(w http.ResponseWriter, r *http.Request) {
		name, password, _ := r.BasicAuth()
		if q := r.URL.Query(); name != "me" || password != "secret" || q.Get("service") != "here" || !strings.HasPrefix(q.Get("scope"), "repository:x") {
			t.Errorf("token request %s as %s", r.URL, name)
		}
		io.WriteString(w, `{"token":"good"}`)
	})
	mux.HandleFunc("/echo", func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		if r.URL.Query().Has("close") {
			w.Header().Set("Connection", "close")
		}
		if r.URL.Query().Has("chunked") {
			w.(http.Flusher).Flush()
		}
		w.Write(b)
	})
	mux.HandleFunc("GET /away", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "/v2/", http.StatusTemporaryRedirect)
	})

	c, err := newClient(context.Background(), access{server.URL, "me", "secret"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	if err := c.signIn("repository:x:pull"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.call(request{method: "GET", target: "/v2/"}, 200); err != nil {
		t.Error(err)
	}
	if res, err := c.do(request{method: "GET", target: "/away"}); err != nil || res.status != 401 {
		t.Errorf("a redirect gets no token and ends at the target: %+v, %v", res, err)
	}
	for _, size := range []int{0, 1, 16 * kib, 3*chunk + 5} {
		b := newContent("client", size)
		for _, target := range []string{"/echo", "/echo?close", "/echo?chunked", "/echo?chunked&close"} {
			for _, chunked := range []bool{false, true} {
				for _, keep := range []bool{false, true} {
					res, err := c.call(request{method: "POST", target: target, body: b, chunked: chunked, keep: keep}, 200)
					if err != nil {
						t.Fatalf("%s, %d bytes, chunked %v: %v", target, size, chunked, err)
					}
					if res.n != b.size || keep && wrap(res.body).digest != b.digest {
						t.Errorf("%s, %d bytes, chunked %v, keep %v: %d bytes came back, or others", target, size, chunked, keep, res.n)
					}
				}
			}
		}
	}
}

// Contents depend on their keys alone.
func TestContent(t *testing.T) {
	if a, b := newContent("a", 1000), newContent("a", 1000); a.digest != b.digest || a.size != 1000 {
		t.Errorf("the same key gives %s and %s", a.digest, b.digest)
	}
	if a, b := newContent("a", 1000), newContent("b", 1000); a.digest == b.digest {
		t.Error("different keys give the same bytes")
	}
	v := variants("v", 3, 8*kib)
	if v[0].digest == v[1].digest || v[0].size != 8*kib {
		t.Errorf("variants: %s, %s, %d bytes", v[0].digest, v[1].digest, v[0].size)
	}
}

// The processor time of a process is that of the test, which burns some.
func TestProcess(t *testing.T) {
	before, err := cpu(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	for begun := time.Now(); time.Since(begun) < 50*time.Millisecond; {
		newContent("burn", 64*kib)
	}
	after, err := cpu(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if used := after - before; used < time.Millisecond || used > 10*time.Second {
		t.Errorf("used %s", used)
	}
	if rss, hwm := memory(os.Getpid(), "VmRSS"), memory(os.Getpid(), "VmHWM"); rss < mib || hwm < rss/2 {
		t.Errorf("resident %d, peak %d", rss, hwm)
	}
}

func TestReport(t *testing.T) {
	r := &results{Targets: []resultTarget{{Name: "berth"}, {Name: "distribution"}, {Name: "olareg", Without: []string{"tags-push", "push-images"}}}}
	for round, v := range []float64{10, 1000, 40} {
		r.add(sample{Workload: "push-images", Target: "berth", Round: round, Value: v, Ops: 1})
		r.add(sample{Workload: "push-images", Target: "distribution", Round: round, Value: v / 2, Ops: 1})
	}
	r.add(sample{Workload: "push-images", Target: "berth", Round: 2, Value: 50, Ops: 1}) // measured again
	r.add(sample{Workload: "mount", Target: "berth", Error: "status 500"})
	r.add(sample{Workload: "tags-push", Target: "berth", Value: 9, Ops: 1})
	r.add(sample{Workload: "tags-push", Target: "distribution", Value: 1, Ops: 1, Note: "7 of 10", Peak: 140e6})
	r.add(sample{Workload: "idle", Target: "berth", Value: 41, Ops: 1, Peak: 90e6})
	r.add(sample{Workload: "crowd", Target: "berth", Value: 41, Ops: 1, Peak: 900e6})
	r.add(sample{Workload: "push-stream", Target: "berth-s3", Value: 41, Ops: 1, S3: s3Count{Requests: map[string]float64{"PutObjectPart": 32, "NewMultipartUpload": 1, "CompleteMultipartUpload": 1}}})
	text := r.markdown()
	for _, want := range []string{
		"| push-images | berth | 50.0 /s | distribution: 20.0 /s | 2.50 | >= 3 x the best that syncs | **missed** |",
		"| push-images | berth | 50.0 /s | distribution: 20.0 /s | 2.50 | as fast as the best of all, synced | open: not measured are zot |",
		"| push-images | 50.0 /s | 20.0 /s |",
		"| tags-push | berth | 9.00 /s | distribution: 1.00 /s | 9.00 | >= 2 x | open: not measured are zot |", // olareg cannot
		"| mount | berth |  |  |  | >= 1 x the best | not measured |",
		"| idle memory, 10 s after the workloads | berth | 41.0 MB |  |  | <= 40 MB | **missed** |",
		"| peak memory over the whole run | berth | 90.0 MB | distribution: 140 MB |  | <= 150 MB | reached |",
		"| S3 requests besides the parts, of a large push | berth-s3 | 2.00 |",
		"- tags-push, distribution: 7 of 10",
		"- mount on berth, round 1, failed: status 500",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the report lacks %q:\n%s", want, text)
		}
	}

	page := filepath.Join(t.TempDir(), "page.md")
	if err := os.WriteFile(page, []byte("above\n"+beginMarker+"old\n"+endMarker+"below\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := writePage(page, "new\n"); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(page); err != nil || string(b) != "above\n"+beginMarker+"new\n"+endMarker+"below\n" {
		t.Errorf("the page is %q, %v", b, err)
	}
}

// A plan counts what is left by what the same step took last.
func TestPlan(t *testing.T) {
	var p plan
	p.add("a", 3, time.Minute)
	p.add("b", 1, 30*time.Second)
	p.done("a", 2*time.Minute)
	if got := p.String(); got != "about 4 min left" {
		t.Errorf("%s", got)
	}
	p.done("a", 0)
	p.done("a", 0)
	p.done("b", 0)
	if got := p.remaining(); got != 0 {
		t.Errorf("%s are left in the end", got)
	}
}

// The part of the page about growth has a line per operation and says what grew.
func TestGrowthTables(t *testing.T) {
	r := &results{}
	for _, s := range []growthSample{{"berth", 1000, 1000, "push a tag", 1, 2}, {"berth", 1_000_000, 100_000, "push a tag", 1.5, 3}, {"berth", 1000, 1000, opDryRun, 10, 10}, {"berth", 1_000_000, 100_000, opDryRun, 9000, 9000}} {
		r.addGrowth(s)
		r.addGrowth(s) // a run again replaces it
	}
	var b strings.Builder
	r.growthTables(&b)
	for _, want := range []string{
		"| berth | 1,000 tags, 1,000 repositories | 1,000,000 tags, 100,000 repositories | last / first |",
		"| push a tag | 1.00 (2.00) | 1.50 (3.00) | 1.50 |",
		"| 10.0 (10.0) | 9,000 (9,000) | (900) |",
	} {
		if strings.Count(b.String(), want) != 1 {
			t.Errorf("the tables lack %q:\n%s", want, b.String())
		}
	}
}

func TestNumber(t *testing.T) {
	for v, want := range map[float64]string{1234567: "1,234,567", 1000: "1,000", 123.4: "123", 12.34: "12.3", 1.234: "1.23", 0.1234: "0.123", math.NaN(): ""} {
		if got := number(v); got != want {
			t.Errorf("number(%v) = %q, want %q", v, got, want)
		}
	}
}
