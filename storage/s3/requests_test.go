package s3_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"berth/storage"
	"berth/storage/s3"
	"berth/storage/storagetest"
	"berth/testenv"
)

// requests counts what MinIO was asked while f ran. MinIO counts a request when
// it has answered it, a moment later than the client has the answer.
func requests(t *testing.T, bucket testenv.S3, want map[string]float64, f func()) map[string]float64 {
	t.Helper()
	before := bucket.Metrics()
	f()
	var got map[string]float64
	for range 20 {
		got = bucket.Metrics()
		for name, n := range got {
			if got[name] = n - before[name]; got[name] == 0 {
				delete(got, name)
			}
		}
		if maps.Equal(got, want) {
			time.Sleep(50 * time.Millisecond) // for requests that nobody waits for
			after := bucket.Metrics()
			for name := range after {
				if after[name]-before[name] != got[name] {
					t.Errorf("%s is still being called", name)
				}
			}
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	return got
}

// TestRequests counts with MinIO's own metrics: one request for a blob that
// fits a part, parts + 2 for a larger one, and never a GET, HEAD, COPY or LIST.
func TestRequests(t *testing.T) {
	bucket := testenv.MinIO(t)
	store := open(t, config(bucket))
	one := map[string]float64{"PutObject": 1}
	parts := func(n float64) map[string]float64 {
		return map[string]float64{"NewMultipartUpload": 1, "PutObjectPart": n, "CompleteMultipartUpload": 1}
	}
	for _, c := range []struct {
		size int
		want map[string]float64
	}{
		{0, one}, {1, one}, {16 << 10, one}, {5 << 20, one}, {8 << 20, one}, {13 << 20, one},
		{14 << 20, parts(2)}, {64 << 20, parts(8)}, {65<<20 + 1, parts(8)}, {256 << 20, parts(32)},
	} {
		var key string
		got := requests(t, bucket, c.want, func() {
			s, n, err := store.Append(t.Context(), store.Begin(storagetest.NewID()), storagetest.Reader(int64(c.size)), io.Discard)
			if err != nil || n != int64(c.size) {
				t.Fatalf("%d of %d bytes, %v", n, c.size, err)
			}
			if key, err = store.Commit(t.Context(), s); err != nil {
				t.Fatal(err)
			}
		})
		t.Logf("%9d bytes: %v", c.size, got)
		if !maps.Equal(got, c.want) {
			t.Errorf("%d bytes take the requests %v, want %v", c.size, got, c.want)
		}
		if err := store.Delete(t.Context(), key); err != nil {
			t.Error(err)
		}
	}
}

// Two chunks that fit parts are uploaded like one body; small ones wait in pieces.
func TestRequestsOfChunks(t *testing.T) {
	bucket := testenv.MinIO(t)
	store := open(t, config(bucket))
	for _, c := range []struct {
		chunks []int
		want   map[string]float64
	}{
		{[]int{20 << 20, 20 << 20}, map[string]float64{"NewMultipartUpload": 1, "PutObjectPart": 4, "CompleteMultipartUpload": 1}},
		{[]int{100, 0}, map[string]float64{"PutObject": 1}},
		{[]int{100, 100}, map[string]float64{"PutObject": 3, "GetObject": 2, "DeleteObject": 1}},
		{[]int{20 << 20, 100}, map[string]float64{"NewMultipartUpload": 1, "PutObjectPart": 3, "PutObject": 1, "GetObject": 1, "CompleteMultipartUpload": 1, "DeleteObject": 1}},
	} {
		got := requests(t, bucket, c.want, func() {
			s := store.Begin(storagetest.NewID())
			var err error
			for _, n := range c.chunks {
				if s, _, err = store.Append(t.Context(), s, storagetest.Reader(int64(n)), io.Discard); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := store.Commit(t.Context(), s); err != nil {
				t.Fatal(err)
			}
		})
		if !maps.Equal(got, c.want) {
			t.Errorf("chunks of %v bytes take the requests %v, want %v", c.chunks, got, c.want)
		}
	}
}

// TestNothingStaysBehind commits and aborts uploads in many chunks.
func TestNothingStaysBehind(t *testing.T) {
	bucket := testenv.MinIO(t)
	store := open(t, config(bucket))
	for _, chunks := range [][]int{{10}, {10, 10}, {6 << 20, 10, 6 << 20, 10}, {20 << 20, 10, 10}, {3 << 20, 3 << 20, 3 << 20}} {
		for _, end := range []string{"commit", "abort"} {
			s := store.Begin(storagetest.NewID())
			for range 3 {
				for _, n := range chunks {
					s = add(t, store, s, storagetest.Bytes(n, 1))
				}
			}
			if end == "commit" {
				key, err := store.Commit(t.Context(), s)
				if err != nil {
					t.Fatal(err)
				}
				left := store.Leftovers(s)
				if len(left) > 1 {
					t.Errorf("%v leaves %v, want one object at most", chunks, left)
				}
				if err := store.Delete(t.Context(), append(left, key)...); err != nil {
					t.Fatal(err)
				}
			} else if err := store.Abort(t.Context(), s); err != nil {
				t.Fatal(err)
			}
			if keys := bucket.Objects(t); len(keys) > 0 {
				t.Errorf("chunks of %v bytes, %s: %v are left", chunks, end, keys)
			}
		}
	}
}

func add(t testing.TB, store storage.Store, s storage.Session, data []byte) storage.Session {
	t.Helper()
	next, n, err := store.Append(t.Context(), s, bytes.NewReader(data), io.Discard)
	if err != nil || n != int64(len(data)) {
		t.Fatalf("%d of %d bytes, %v", n, len(data), err)
	}
	return next
}

// proxy stands before MinIO and spoils requests; see newProxy.
type proxy struct {
	*httptest.Server
	mu    sync.Mutex
	spoil func(n int, w http.ResponseWriter, r *http.Request, forward func()) // n-th request of that kind, from 1
	seen  map[string]int
}

// newProxy also gives the configuration of a store that goes through it.
func newProxy(t *testing.T, bucket testenv.S3) (*proxy, s3.Config) {
	t.Helper()
	target, err := url.Parse(bucket.Endpoint)
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{seen: map[string]int{}}
	forward := &httputil.ReverseProxy{
		Rewrite:      func(r *httputil.ProxyRequest) { r.SetURL(target); r.Out.Host = r.In.Host },
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) { panic(http.ErrAbortHandler) },
	}
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		kind := operation(r)
		p.seen[kind]++
		n, spoil := p.seen[kind], p.spoil
		p.mu.Unlock()
		if spoil == nil {
			forward.ServeHTTP(w, r)
			return
		}
		spoil(n, w, r, func() { forward.ServeHTTP(w, r) })
	}))
	p.Server.Config.ErrorLog = nil
	t.Cleanup(p.Close)
	c := config(bucket)
	c.Endpoint = strings.TrimPrefix(p.URL, "http://")
	return p, c
}

func operation(r *http.Request) string {
	q := r.URL.Query()
	switch {
	case r.Method == http.MethodPost && q.Has("uploads"):
		return "create"
	case r.Method == http.MethodPost && q.Has("uploadId"):
		return "complete"
	case r.Method == http.MethodPut && q.Has("uploadId"):
		return "part"
	case r.Method == http.MethodDelete && q.Has("uploadId"):
		return "abort"
	}
	return strings.ToLower(r.Method)
}

// throttle answers as S3 does when it has too much to do.
func throttle(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(http.StatusServiceUnavailable)
	fmt.Fprint(w, `<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>`)
}

// TestRetries spoils the first request of every kind in every way; the bytes
// are right nevertheless.
func TestRetries(t *testing.T) {
	bucket := testenv.MinIO(t)
	ways := map[string]func(w http.ResponseWriter, r *http.Request, forward func()){
		"refused":                     func(w http.ResponseWriter, r *http.Request, _ func()) { throttle(w, r) },
		"cut before the body is read": func(http.ResponseWriter, *http.Request, func()) { panic(http.ErrAbortHandler) },
		"answer before the body is read": func(w http.ResponseWriter, r *http.Request, _ func()) {
			w.Header().Set("Connection", "close")
			throttle(w, r)
		},
		"answer lost": func(_ http.ResponseWriter, r *http.Request, _ func()) {
			serveLost(bucket, r)
			panic(http.ErrAbortHandler)
		},
		"a bit flipped": func(w http.ResponseWriter, r *http.Request, forward func()) {
			r.Body = &flip{ReadCloser: r.Body}
			forward()
		},
	}
	for name, way := range ways {
		t.Run(name, func(t *testing.T) {
			p, c := newProxy(t, bucket)
			store := open(t, c)
			for _, chunks := range [][]int{{1000}, {20 << 20}, {1000, 20 << 20, 1000}} {
				p.mu.Lock()
				clear(p.seen)
				p.spoil = func(n int, w http.ResponseWriter, r *http.Request, forward func()) {
					if kind := operation(r); n == 1 && (kind != "complete" || name != "a bit flipped") {
						way(w, r, forward)
					} else {
						forward()
					}
				}
				p.mu.Unlock()
				s := store.Begin(storagetest.NewID())
				var data []byte
				for i, n := range chunks {
					chunk := storagetest.Bytes(n, uint64(i))
					s = add(t, store, s, chunk)
					data = append(data, chunk...)
				}
				key, err := store.Commit(t.Context(), s)
				if err != nil {
					t.Fatalf("chunks of %v bytes: %v", chunks, err)
				}
				r, err := store.Open(t.Context(), key, 0, -1)
				if err != nil {
					t.Fatal(err)
				}
				got, err := io.ReadAll(r)
				r.Close()
				if err != nil || !bytes.Equal(got, data) {
					t.Errorf("chunks of %v bytes: %d bytes, or wrong ones, %v", chunks, len(got), err)
				}
			}
		})
	}
}

// serveLost has MinIO serve a request whose answer nobody gets.
func serveLost(bucket testenv.S3, r *http.Request) {
	out := r.Clone(r.Context())
	out.RequestURI = ""
	out.URL.Scheme, out.URL.Host = "http", strings.TrimPrefix(bucket.Endpoint, "http://")
	if res, err := http.DefaultTransport.RoundTrip(out); err == nil {
		io.Copy(io.Discard, res.Body)
		res.Body.Close()
	}
}

type flip struct {
	io.ReadCloser
	done bool
}

func (f *flip) Read(p []byte) (int, error) {
	n, err := f.ReadCloser.Read(p)
	if n > 0 && !f.done {
		f.done = true
		p[0] ^= 1
	}
	return n, err
}

// TestS3Down fails for good, and the session goes on when S3 is back.
func TestS3Down(t *testing.T) {
	bucket := testenv.MinIO(t)
	for _, kind := range []string{"put", "create", "part", "complete"} {
		for _, denied := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s %v", kind, denied), func(t *testing.T) {
				p, c := newProxy(t, bucket)
				c.Attempts = 2
				store := open(t, c)
				data := storagetest.Bytes(30<<20, 3)
				head := 1000
				if kind != "put" {
					head = 0
				}
				s := store.Begin(storagetest.NewID())
				if head > 0 {
					s = add(t, store, s, data[:head])
				}
				end := len(data)
				if kind == "put" {
					end = 2000
				}
				p.mu.Lock()
				p.spoil = func(n int, w http.ResponseWriter, r *http.Request, forward func()) {
					switch {
					case operation(r) != kind:
						forward()
					case denied:
						w.WriteHeader(http.StatusForbidden)
						fmt.Fprint(w, `<Error><Code>AccessDenied</Code><Message>Access Denied.</Message></Error>`)
					default:
						throttle(w, r)
					}
				}
				p.mu.Unlock()
				next, n, err := store.Append(t.Context(), s, bytes.NewReader(data[head:end]), io.Discard)
				if kind == "complete" {
					if err != nil {
						t.Fatal(err)
					}
					if _, err = store.Commit(t.Context(), next); err == nil {
						t.Fatal("Commit succeeds")
					}
					s, head = next, end
				} else if err == nil || n != 0 || next != s {
					t.Fatalf("Append: %d bytes, %v", n, err)
				}
				if errors.Is(err, storage.ErrSession) {
					t.Errorf("the session is given up: %v", err)
				}
				if denied != strings.Contains(err.Error(), "AWS_ACCESS_KEY_ID") {
					t.Errorf("the error says %q", err)
				}
				p.mu.Lock()
				p.spoil = nil
				p.mu.Unlock()
				if head < end {
					s = add(t, store, s, data[head:end])
				}
				key, err := store.Commit(t.Context(), s)
				if err != nil {
					t.Fatal(err)
				}
				if info, err := store.Stat(t.Context(), key); err != nil || info.Size != int64(end) {
					t.Errorf("%+v, %v", info, err)
				}
				if err := store.Delete(t.Context(), append(store.Leftovers(s), key)...); err != nil {
					t.Error(err)
				}
				if keys := bucket.Objects(t); len(keys) != 0 {
					t.Errorf("%v are left", keys)
				}
			})
		}
	}
}

// TestDeadline has an S3 that takes requests and never answers.
func TestDeadline(t *testing.T) {
	bucket := testenv.MinIO(t)
	p, c := newProxy(t, bucket)
	c.Timeout, c.Attempts = 100*time.Millisecond, 2
	store := open(t, c)
	p.mu.Lock()
	p.spoil = func(_ int, _ http.ResponseWriter, r *http.Request, _ func()) {
		io.Copy(io.Discard, r.Body)
		<-r.Context().Done()
	}
	p.mu.Unlock()
	start := time.Now()
	if _, n, err := store.Append(t.Context(), store.Begin(storagetest.NewID()), strings.NewReader("hello"), io.Discard); err == nil || n != 0 {
		t.Errorf("%d bytes, %v", n, err)
	}
	if err := store.Ping(t.Context()); err == nil {
		t.Error("Ping succeeds")
	}
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("giving up took %v", took)
	}
}

func TestNoSuchBucket(t *testing.T) {
	c := config(testenv.MinIO(t))
	c.Bucket = "berth-no-such-bucket"
	if _, err := s3.New(t.Context(), c); err == nil || !strings.Contains(err.Error(), "does not exist") {
		t.Errorf("New: %v", err)
	}
	c.Endpoint = "127.0.0.1:1"
	c.Attempts = 1
	s, err := s3.New(t.Context(), c)
	if err != nil {
		t.Fatalf("New while S3 is down: %v", err)
	}
	if err := s.Ping(t.Context()); err == nil {
		t.Error("Ping succeeds while S3 is down")
	}
}

func TestManyDeletes(t *testing.T) {
	bucket := testenv.MinIO(t)
	store := open(t, config(bucket))
	var keys []string
	for range 2500 {
		keys = append(keys, storagetest.NewID()+"-name")
	}
	s := add(t, store, store.Begin(storagetest.NewID()), []byte("x"))
	key, err := store.Commit(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	keys = append(keys, key)
	want := map[string]float64{"DeleteMultipleObjects": 3}
	got := requests(t, bucket, want, func() {
		if err := store.Delete(t.Context(), keys...); err != nil {
			t.Error(err)
		}
	})
	if !maps.Equal(got, want) {
		t.Errorf("%d keys are deleted by %v, want %v", len(keys), got, want)
	}
	if left := bucket.Objects(t); len(left) != 0 {
		t.Errorf("%v are left", left)
	}
}

// MinIO denies a PUT now and then that it would take a moment later, see deniedAgain. What is denied for good fails soon.
func TestDeniedForAMoment(t *testing.T) {
	bucket := testenv.MinIO(t)
	p, c := newProxy(t, bucket)
	store := open(t, c)
	denied := 2
	p.spoil = func(n int, w http.ResponseWriter, r *http.Request, forward func()) {
		if r.Method == http.MethodPut && n <= denied {
			_, _ = io.Copy(io.Discard, r.Body)
			w.WriteHeader(http.StatusForbidden)
			io.WriteString(w, `<Error><Code>AccessDenied</Code></Error>`)
			return
		}
		forward()
	}
	data := storagetest.Bytes(1000, 1)
	key, err := store.Commit(t.Context(), add(t, store, store.Begin(storagetest.NewID()), data))
	if err != nil {
		t.Fatal(err)
	}
	if info, err := store.Stat(t.Context(), key); err != nil || info.Size != int64(len(data)) {
		t.Errorf("%+v, %v", info, err)
	}
	p.mu.Lock()
	denied, p.seen["put"] = 1000, 0
	p.mu.Unlock()
	_, _, err = store.Append(t.Context(), store.Begin(storagetest.NewID()), bytes.NewReader(data), io.Discard)
	if err == nil || !strings.Contains(err.Error(), "S3 denies access") {
		t.Errorf("what is denied for good: %v", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.seen["put"] != 4 {
		t.Errorf("it was tried %d times, want 4", p.seen["put"])
	}
}
