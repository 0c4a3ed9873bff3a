package server

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

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
				{"bytes=0-1,3-4", "", 200, string(content), ""},
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
			head := w.do("HEAD", path, "mo", nil, "Range", "bytes=0-3").want(t, 200)
			if head.ContentLength != 16 || head.Header.Get("Etag") != etag(d) || head.Header.Get("Content-Type") != "application/octet-stream" {
				t.Errorf("HEAD: %v", head.Header)
			}
			w.do("DELETE", path, "mia", nil).want(t, 202)
			w.do("GET", path, "mo", nil).want(t, 404)
		})
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
	if strings.Contains(w.log.String(), "verysecret") {
		t.Error("the signature is in the log")
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

// short is a store that loses the end of what it has.
type short_ struct{ storage.Store }

func (s short_) Open(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	return io.NopCloser(strings.NewReader("con")), nil
}

// TestTruncatedBlob: a client must not take a part for the whole. The
// connection ends before Content-Length is reached, and the log says why.
func TestTruncatedBlob(t *testing.T) {
	w := small(t, func(w *world, _ *Options) { w.store = short_{mem.New()} })
	d := w.pushBlob("mo", "team/app", []byte("content"))
	r, _ := http.NewRequest("GET", w.http.URL+"/v2/team/app/blobs/"+d.String(), nil)
	r.SetBasicAuth("mo", w.accounts["mo"])
	resp, err := w.http.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, err := io.ReadAll(resp.Body); err == nil {
		t.Errorf("the client got %q and no error", body)
	}
	w.http.Close()
	if !strings.Contains(w.log.String(), "the storage gave 3 bytes of 7") {
		t.Errorf("log: %s", w.log)
	}
}
