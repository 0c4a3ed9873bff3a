package server

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"berth/registry"
	"berth/registry/collect"
	"berth/storage"
	"berth/storage/fs"
	"berth/storage/mem"
)

func TestBlobRanges(t *testing.T) {
	for name, make := range map[string]func(w *world){
		"directory":  func(w *world) {},
		"memory":     func(w *world) { w.store = mem.New() },
		"remembered": func(w *world) {},
	} {
		t.Run(name, func(t *testing.T) {
			w := small(t, func(w *world, _ *Options) { make(w) })
			content := []byte("0123456789abcdef")
			d := w.pushBlob("mo", "team/app", content)
			path := "/v2/team/app/blobs/" + d.String()
			w.do("GET", path, "mo", nil).want(t, 200)
			for _, tt := range []struct {
				rng, ifRange string
				status       int
				body, header string
			}{
				{"bytes=0-3", "", 206, "0123", "bytes 0-3/16"},
				{"bytes=12-", "", 206, "cdef", "bytes 12-15/16"},
				{"bytes=-2", "", 206, "ef", "bytes 14-15/16"},
				{"bytes=0-", "", 206, string(content), "bytes 0-15/16"},
				{"bytes=4-100", "", 206, "456789abcdef", "bytes 4-15/16"},
				{"bytes=16-", "", 416, "", "bytes */16"},
				{"bytes=0-1,99-", "", 206, "01", "bytes 0-1/16"},
				{"bytes=16-,20-30", "", 416, "", "bytes */16"},
				{"bytes=0-,0-", "", 200, string(content), ""},
				{"bytes=0-1,3-4", `"other"`, 200, string(content), ""},
				{"bytes=0-3", etag(d), 206, "0123", "bytes 0-3/16"},
				{"bytes=0-3", "W/" + etag(d), 200, string(content), ""},
				{"bytes=0-3", `"other"`, 200, string(content), ""},
				{"bytes=0-3", "Wed, 21 Oct 2015 07:28:00 GMT", 200, string(content), ""},
			} {
				headers := []string{"Range", tt.rng}
				if name != "remembered" {
					w.registry.Rest()
				}
				if tt.ifRange != "" {
					headers = append(headers, "If-Range", tt.ifRange)
				}
				r := w.do("GET", path, "mo", nil, headers...)
				if r.StatusCode != tt.status || r.Header.Get("Content-Range") != tt.header || tt.status != 416 && string(r.body) != tt.body {
					t.Errorf("%s, If-Range %s: %d %q %q", tt.rng, tt.ifRange, r.StatusCode, r.Header.Get("Content-Range"), r.body)
				}
				if r.StatusCode == 416 && (r.code() != "RANGE_INVALID" || r.Header.Get("Etag") != "") {
					t.Errorf("%s: %v %s", tt.rng, r.Header, r.body)
				}
			}
			for _, tt := range []struct{ rng, parts string }{
				{"bytes=0-1,3-4", "0-1/16 01|3-4/16 34"},
				{"bytes=-2, 0-0 ,7-9,20-", "14-15/16 ef|0-0/16 0|7-9/16 789"},
				{"bytes=2-5,4-7", "2-5/16 2345|4-7/16 4567"},
			} {
				r := w.do("GET", path, "mo", nil, "Range", tt.rng).want(t, 206)
				if got := partsOf(t, r); got != tt.parts {
					t.Errorf("%s: %s, want %s", tt.rng, got, tt.parts)
				}
				if r.Header.Get("Content-Range") != "" || r.Header.Get("Docker-Content-Digest") != d.String() || r.Header.Get("Etag") != etag(d) {
					t.Errorf("%s: %v", tt.rng, r.Header)
				}
			}
			head := w.do("HEAD", path, "mo", nil, "Range", "bytes=0-3,5-6").want(t, 200)
			if head.ContentLength != 16 || head.Header.Get("Etag") != etag(d) || head.Header.Get("Content-Type") != "application/octet-stream" {
				t.Errorf("HEAD: %v", head.Header)
			}
			w.do("DELETE", path, "mia", nil).want(t, 202)
			w.do("GET", path, "mo", nil).want(t, 404)
		})
	}
}

// partsOf reads a multipart/byteranges answer: "first-last/size bytes" of each part, with bars between.
func partsOf(t *testing.T, r reply) string {
	t.Helper()
	kind, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || kind != "multipart/byteranges" {
		t.Fatalf("Content-Type %q, %v", r.Header.Get("Content-Type"), err)
	}
	if r.ContentLength != int64(len(r.body)) {
		t.Errorf("%d bytes were announced, %d came", r.ContentLength, len(r.body))
	}
	var parts []string
	for m := multipart.NewReader(bytes.NewReader(r.body), params["boundary"]); ; {
		p, err := m.NextRawPart()
		if err == io.EOF {
			return strings.Join(parts, "|")
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(p)
		if err != nil || p.Header.Get("Content-Type") != "application/octet-stream" {
			t.Fatalf("%v %v", p.Header, err)
		}
		parts = append(parts, strings.TrimPrefix(p.Header.Get("Content-Range"), "bytes ")+" "+string(content))
	}
}

// opens notes how a store is opened.
type opens struct {
	storage.Store
	mu   sync.Mutex
	seen []string
}

func (o *opens) Open(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	o.mu.Lock()
	o.seen = append(o.seen, fmt.Sprintf("%d+%d", offset, length))
	o.mu.Unlock()
	return o.Store.Open(ctx, key, offset, length)
}

// TestPartsCostFewCalls: parts that lie near to each other are read from the store in one go, and a gap that costs
// more than a request is not read.
func TestPartsCostFewCalls(t *testing.T) {
	store := &opens{Store: mem.New()}
	w := small(t, func(w *world, _ *Options) { w.store = store })
	content := make([]byte, 3*maxGap)
	for i := range content {
		content[i] = byte(i ^ i>>8)
	}
	d := w.pushBlob("mo", "team/app", content)
	rng := fmt.Sprintf("bytes=10-19,1000-1009,%d-%d,5-9,7-11", 2*maxGap, 2*maxGap+9)
	got := partsOf(t, w.do("GET", "/v2/team/app/blobs/"+d.String(), "mo", nil, "Range", rng).want(t, 206))
	var want []string
	for _, p := range []byteRange{{10, 10}, {1000, 10}, {2 * maxGap, 10}, {5, 5}, {7, 5}} {
		want = append(want, strings.TrimPrefix(p.contentRange(int64(len(content))), "bytes ")+" "+string(content[p.start:p.start+p.length]))
	}
	if got != strings.Join(want, "|") {
		t.Errorf("the parts are wrong")
	}
	if want := fmt.Sprintf("[10+1000 %d+10 5+5 7+5]", 2*maxGap); fmt.Sprint(store.seen) != want {
		t.Errorf("the store was opened at %v, want %v", store.seen, want)
	}
}

// linked is a store that hands out links, as S3 does.
type linked struct{ storage.Store }

func (linked) URL(_ context.Context, key string, valid time.Duration) (string, error) {
	return "https://store.example/" + key + "?X-Amz-Signature=verysecret&valid=" + valid.String(), nil
}

// TestRedirect: a GET goes to the store, a HEAD is answered here, and the
// signature is in no log line.
func TestRedirect(t *testing.T) {
	w := small(t, func(w *world, o *Options) { w.store, o.RedirectTTL = linked{mem.New()}, time.Minute })
	d := w.pushBlob("mo", "team/app", []byte("content"))
	path := "/v2/team/app/blobs/" + d.String()
	r := w.do("GET", path, "mo", nil).want(t, http.StatusTemporaryRedirect)
	if !strings.HasPrefix(r.Header.Get("Location"), "https://store.example/") || r.Header.Get("Cache-Control") != "no-store" || r.Header.Get("Docker-Content-Digest") != d.String() {
		t.Errorf("headers: %v", r.Header)
	}
	if r := w.do("HEAD", path, "mo", nil).want(t, http.StatusOK); r.ContentLength != 7 {
		t.Errorf("HEAD: %v", r.Header)
	}
	w.do("GET", path, "fred", nil).want(t, http.StatusForbidden)
	// The rest of a blob comes from the store, but chosen parts do not: S3 knows one range per request.
	w.do("GET", path, "mo", nil, "Range", "bytes=3-").want(t, http.StatusTemporaryRedirect)
	for _, rng := range []string{"bytes=0-1", "bytes=0-6", "bytes=-2"} {
		w.do("GET", path, "mo", nil, "Range", rng).want(t, 206)
	}
	if got := partsOf(t, w.do("GET", path, "mo", nil, "Range", "bytes=0-1,3-4").want(t, 206)); got != "0-1/7 co|3-4/7 te" {
		t.Errorf("several ranges: %s", got)
	}
	w.do("GET", path, "mo", nil, "Range", "bytes=9-,8-").want(t, 416)
	w.do("GET", path, "mo", nil, "Range", "bytes=0-,0-").want(t, 200) // too many bytes: everything, and from here
	if strings.Contains(w.log.String(), "verysecret") {
		t.Error("the signature is in the log")
	}
}

// TestRedirectToOwnHost: a client keeps its Authorization when it is sent to the same host or below it, whatever the
// port, and S3 refuses a link beside it. Such a client gets the bytes; one without credentials gets the link.
func TestRedirectToOwnHost(t *testing.T) {
	w := small(t, func(w *world, o *Options) { w.store, o.RedirectTTL = linked{mem.New()}, time.Minute })
	d := w.pushBlob("mo", "team/app", []byte("content"))
	path := "/v2/team/app/blobs/" + d.String()
	get := func(s *Server, host string, signedIn bool, headers ...string) int {
		r := httptest.NewRequest("GET", "http://"+host+path, nil)
		if signedIn {
			r.SetBasicAuth("mo", w.accounts["mo"])
		}
		for i := 0; i < len(headers); i += 2 {
			r.Header.Set(headers[i], headers[i+1])
		}
		rec := httptest.NewRecorder()
		s.Handler().ServeHTTP(rec, r)
		if rec.Code == 200 && rec.Body.String() != "content" {
			t.Errorf("%s: %q", host, rec.Body)
		}
		return rec.Code
	}
	for host, want := range map[string]int{
		"store.example":            200,
		"store.example:5000":       200,
		"STORE.example:5000":       200,
		"example":                  200, // store.example is below it
		"registry.store.example":   307,
		"re.example":               307,
		"registry.example.com:443": 307,
	} {
		if got := get(w.server, host, true); got != want {
			t.Errorf("at %s: %d, want %d", host, got, want)
		}
	}
	if n := strings.Count(w.log.String(), "give the bucket a host name of its own"); n != 1 {
		t.Errorf("%d warnings, want 1", n)
	}
	w.visibility("team/app", "public")
	if got := get(w.server, "store.example:5000", false); got != 307 {
		t.Errorf("without credentials: %d", got)
	}
	// The host is the one that the client knows.
	o := Options{Auth: w.server.auth, Policy: w.server.policy, Tokens: w.server.tokens, Registry: w.registry, RedirectTTL: time.Minute, URL: "https://store.example:5000"}
	behind, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	if got := get(behind, "10.0.0.1:5000", true); got != 200 {
		t.Errorf("behind a proxy: %d", got)
	}
}

// readFromWriter stands where net/http's response writer does, and notes what it
// is given to read from.
type readFromWriter struct {
	*httptest.ResponseRecorder
	from []io.Reader
}

func (w *readFromWriter) ReadFrom(r io.Reader) (int64, error) {
	w.from = append(w.from, r)
	return io.Copy(w.ResponseRecorder, r)
}

// TestSendfile: on a directory, net/http gets the file itself, limited; that is
// the form in which it uses sendfile. A wrapper on the way would cost it.
func TestSendfile(t *testing.T) {
	w := small(t, nil)
	if _, ok := w.store.(*fs.Store); !ok {
		t.Fatalf("the store is a %T", w.store)
	}
	content := bytes.Repeat([]byte("x"), streamChunk+10)
	d := w.pushBlob("mo", "team/app", content)
	r := httptest.NewRequest("GET", "/v2/team/app/blobs/"+d.String(), nil)
	r.SetBasicAuth("mo", w.accounts["mo"])
	rw := &readFromWriter{ResponseRecorder: httptest.NewRecorder()}
	w.server.Handler().ServeHTTP(rw, r)
	if rw.Code != 200 || !bytes.Equal(rw.Body.Bytes(), content) || len(rw.from) != 2 {
		t.Fatalf("status %d, %d bytes in %d parts", rw.Code, rw.Body.Len(), len(rw.from))
	}
	for _, from := range rw.from {
		limited, ok := from.(*io.LimitedReader)
		if !ok {
			t.Fatalf("net/http reads from a %T", from)
		}
		if _, ok := limited.R.(*os.File); !ok {
			t.Errorf("net/http reads from a %T", limited.R)
		}
	}
}

// TestRangesBySendfile: parts of a file are sent as the file too.
func TestRangesBySendfile(t *testing.T) {
	w := small(t, nil)
	content := bytes.Repeat([]byte("0123456789"), 10_000)
	d := w.pushBlob("mo", "team/app", content)
	for rng, files := range map[string]int{"bytes=10-49999": 1, "bytes=10-49999,60000-": 2} {
		r := httptest.NewRequest("GET", "/v2/team/app/blobs/"+d.String(), nil)
		r.SetBasicAuth("mo", w.accounts["mo"])
		r.Header.Set("Range", rng)
		rw := &readFromWriter{ResponseRecorder: httptest.NewRecorder()}
		w.server.Handler().ServeHTTP(rw, r)
		if rw.Code != 206 || len(rw.from) != files || !bytes.Contains(rw.Body.Bytes(), content[10:50_000]) {
			t.Errorf("%s: status %d, %d bytes in %d parts", rng, rw.Code, rw.Body.Len(), len(rw.from))
		}
		for _, from := range rw.from {
			if _, ok := from.(*io.LimitedReader).R.(*os.File); !ok {
				t.Errorf("%s: net/http reads from a %T", rng, from)
			}
		}
	}
}

// flipped is a store whose reads have one bit wrong, the last one of the object, as long as it is told so.
type flipped struct {
	storage.Store
	wrong atomic.Bool
}

func (f *flipped) Open(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	rc, err := f.Store.Open(ctx, key, offset, length)
	if err != nil || !f.wrong.Load() {
		return rc, err
	}
	defer rc.Close()
	all, err := io.ReadAll(rc)
	if len(all) > 0 {
		all[len(all)-1] ^= 1
	}
	return io.NopCloser(bytes.NewReader(all)), err
}

// TestWrongBytes: what the store gives wrong never reaches a client as a whole blob: not by HTTP/1.1, not by HTTP/2, not
// with a Range for everything, and it is counted, logged and left to the next check.
func TestWrongBytes(t *testing.T) {
	for name, serve := range map[string]func(w *world) *httptest.Server{
		"HTTP/1.1": func(w *world) *httptest.Server { return w.http },
		"HTTP/2": func(w *world) *httptest.Server {
			s := httptest.NewUnstartedServer(nil)
			w.server.Configure(s.Config)
			s.EnableHTTP2 = true
			s.StartTLS()
			t.Cleanup(s.Close)
			return s
		},
	} {
		t.Run(name, func(t *testing.T) {
			store := &flipped{Store: mem.New()}
			w := small(t, func(w *world, _ *Options) { w.store = store })
			s := serve(w)
			get := func(d digest.Digest, rng string) (status int, body []byte, err error) {
				r, _ := http.NewRequest("GET", s.URL+"/v2/team/app/blobs/"+d.String(), nil)
				r.SetBasicAuth("mo", w.accounts["mo"])
				if rng != "" {
					r.Header.Set("Range", rng)
				}
				resp, err := s.Client().Do(r)
				if err != nil {
					t.Fatal(err)
				}
				defer resp.Body.Close()
				body, err = io.ReadAll(resp.Body)
				return resp.StatusCode, body, err
			}
			large := bytes.Repeat([]byte("x"), 10*copyBuffer+7)
			tiny := []byte("tiny")
			d, e := w.pushBlob("mo", "team/app", large), w.pushBlob("mo", "team/app", tiny)
			store.wrong.Store(true)
			for _, rng := range []string{"", "bytes=0-"} {
				if status, body, err := get(d, rng); err == nil || len(body) >= len(large) {
					t.Errorf("Range %q: %d with all %d bytes and no error", rng, status, len(body))
				}
				if status, body, err := get(e, rng); status != 500 || err != nil || !strings.Contains(string(body), "other bytes than were pushed") {
					t.Errorf("Range %q of few bytes: %d %q %v", rng, status, body, err)
				}
			}
			// A part cannot be verified: its client compares the whole that it makes of it.
			if status, body, err := get(d, "bytes=0-9"); status != 206 || len(body) != 10 || err != nil {
				t.Errorf("a part: %d %q %v", status, body, err)
			}
			metrics := w.do("GET", "/metrics", "", nil).want(t, 200)
			if !strings.Contains(string(metrics.body), "berth_damaged_blobs_total 4") {
				t.Error("the metric does not say 4")
			}
			for _, want := range []string{d.String(), e.String(), "berth check will read it again"} {
				if !strings.Contains(w.log.String(), want) {
					t.Errorf("the log lacks %q", want)
				}
			}
			// The next check, one that reads nothing else, reads these two.
			report, err := collect.New(w.db, w.store, collect.Options{}).Check(context.Background(), collect.CheckRun{})
			if err != nil || report.Found[collect.ProblemDamaged] != 2 || report.Bytes != int64(len(large)+len(tiny)) {
				t.Errorf("the check: %+v %v", report, err)
			}
			// It was the way, not the bytes: they are served, and no longer suspected.
			store.wrong.Store(false)
			if status, body, err := get(d, ""); status != 200 || !bytes.Equal(body, large) || err != nil {
				t.Errorf("afterwards: %d, %d bytes, %v", status, len(body), err)
			}
			for _, want := range []int64{int64(len(large) + len(tiny)), 0} {
				if report, err := collect.New(w.db, w.store, collect.Options{}).Check(context.Background(), collect.CheckRun{}); err != nil || report.Open != 0 || report.Bytes != want {
					t.Errorf("the check afterwards: %+v %v, want %d bytes read", report, err, want)
				}
			}
		})
	}
}

// TestFilesOverTLSAreVerified: without sendfile the bytes of a directory pass through this process too.
func TestFilesOverTLSAreVerified(t *testing.T) {
	w := small(t, nil)
	content := bytes.Repeat([]byte("y"), 3*copyBuffer)
	d := w.pushBlob("mo", "team/app", content)
	s := httptest.NewUnstartedServer(nil)
	w.server.Configure(s.Config)
	s.StartTLS()
	defer s.Close()
	get := func() ([]byte, error) {
		r, _ := http.NewRequest("GET", s.URL+"/v2/team/app/blobs/"+d.String(), nil)
		r.SetBasicAuth("mo", w.accounts["mo"])
		resp, err := s.Client().Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		return io.ReadAll(resp.Body)
	}
	if body, err := get(); err != nil || !bytes.Equal(body, content) {
		t.Fatalf("%d bytes, %v", len(body), err)
	}
	var file string
	err := filepath.WalkDir(filepath.Join(w.dir, "blobs"), func(path string, e os.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() {
			file = path
		}
		return err
	})
	if err != nil || file == "" {
		t.Fatalf("no file: %v", err)
	}
	if err := os.Chmod(file, 0o600); err != nil {
		t.Fatal(err)
	}
	content[0] ^= 1
	if err := os.WriteFile(file, content, 0o600); err != nil {
		t.Fatal(err)
	}
	if body, err := get(); err == nil {
		t.Errorf("%d bytes and no error", len(body))
	}
}

// short is a store that loses the end of what it has.
type short_ struct{ storage.Store }

func (s short_) Open(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	return io.NopCloser(strings.NewReader("con")), nil
}

// TestTruncatedBlob: a client must not take a part for the whole. The
// connection ends before Content-Length is reached, and the log says why; of a small blob the answer has not begun.
func TestTruncatedBlob(t *testing.T) {
	w := small(t, func(w *world, _ *Options) { w.store = short_{mem.New()} })
	d := w.pushBlob("mo", "team/app", make([]byte, 2*registry.SmallBlob))
	r, _ := http.NewRequest("GET", w.http.URL+"/v2/team/app/blobs/"+d.String(), nil)
	r.SetBasicAuth("mo", w.accounts["mo"])
	// What had come may still be in a buffer: then there is no answer at all.
	if resp, err := w.http.Client().Do(r); err == nil {
		defer resp.Body.Close()
		if body, err := io.ReadAll(resp.Body); err == nil {
			t.Errorf("the client got %q and no error", body)
		}
	}
	few := w.pushBlob("mo", "team/app", []byte("content"))
	if r := w.do("GET", "/v2/team/app/blobs/"+few.String(), "mo", nil).want(t, 503); r.code() != "UNAVAILABLE" {
		t.Errorf("few bytes: %s", r.body)
	}
	w.http.Close()
	for _, want := range []string{"the storage gave 3 bytes of 65536", "the storage gave 3 bytes of 7"} {
		if !strings.Contains(w.log.String(), want) {
			t.Errorf("log: %s", w.log)
		}
	}
}
