package outbound_test

import (
	"compress/gzip"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"berth/auth/outbound"
)

func get(t *testing.T, client *http.Client, url string) ([]byte, error) {
	t.Helper()
	resp, err := client.Get(url)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	return io.ReadAll(resp.Body)
}

// TestBounds: an answer larger than the limit is an error, compressed or not, and
// so is one that points elsewhere (peers.md D.2, CVE-2026-2376).
func TestBounds(t *testing.T) {
	elsewhere := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		t.Error("the redirect was followed")
	}))
	defer elsewhere.Close()
	mux := http.NewServeMux()
	mux.HandleFunc("/small", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") })
	mux.HandleFunc("/exact", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, outbound.MaxBody)) })
	mux.HandleFunc("/large", func(w http.ResponseWriter, _ *http.Request) {
		chunk := make([]byte, 1<<20)
		for range 100 {
			if _, err := w.Write(chunk); err != nil {
				return // cut off, as it should be
			}
		}
	})
	mux.HandleFunc("/bomb", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Encoding", "gzip")
		z := gzip.NewWriter(w)
		_, _ = z.Write(make([]byte, 32<<20))
		_ = z.Close()
	})
	mux.HandleFunc("/near", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/small", http.StatusFound) })
	mux.HandleFunc("/far", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, elsewhere.URL, http.StatusFound) })
	mux.HandleFunc("/round", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/round", http.StatusFound) })
	server := httptest.NewServer(mux)
	defer server.Close()

	client := outbound.New(outbound.Options{LoopbackHTTP: true})
	for _, path := range []string{"/small", "/near", "/exact"} {
		if body, err := get(t, client, server.URL+path); err != nil || len(body) == 0 {
			t.Errorf("%s: %d bytes, %v", path, len(body), err)
		}
	}
	for _, path := range []string{"/large", "/bomb"} {
		if body, err := get(t, client, server.URL+path); !errors.Is(err, outbound.ErrTooLarge) || len(body) > outbound.MaxBody {
			t.Errorf("%s: %d bytes, %v", path, len(body), err)
		}
	}
	for path, want := range map[string]string{"/far": "another host", "/round": "more than"} {
		if _, err := get(t, client, server.URL+path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", path, err)
		}
	}
	if _, err := get(t, outbound.New(outbound.Options{}), server.URL+"/small"); err == nil || !strings.Contains(err.Error(), "only https") {
		t.Errorf("plain HTTP: %v", err)
	}
	if _, err := get(t, client, "http://registry.example.com/"); err == nil || !strings.Contains(err.Error(), "only https") {
		t.Errorf("plain HTTP to another machine: %v", err)
	}
	for _, url := range []string{server.URL, strings.Replace(server.URL, "127.0.0.1", "localhost", 1), strings.Replace(server.URL, "127.0.0.1", "[::ffff:127.0.0.1]", 1)} {
		if _, err := get(t, outbound.New(outbound.Options{LoopbackHTTP: true, PublicOnly: true}), url+"/small"); err == nil || !strings.Contains(err.Error(), "public Internet") {
			t.Errorf("%s: %v", url, err)
		}
	}
}

func TestIsPublic(t *testing.T) {
	for _, s := range []string{"8.8.8.8", "140.82.112.3", "2606:4700::1111", "2a00:1450:4001:80b::200e"} {
		if !outbound.IsPublic(netip.MustParseAddr(s)) {
			t.Errorf("%s is refused", s)
		}
	}
	for _, s := range []string{
		"127.0.0.1", "127.8.8.8", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "198.18.0.1",
		"224.0.0.1", "240.0.0.1", "255.255.255.255", "::", "::1", "::ffff:127.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1", "fe80::1",
		"fe80::1%eth0", "fc00::1", "fd00:ec2::254", "fec0::1", "ff02::1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "2002:7f00:1::", "2001:0:7f00:1::",
		"192.88.99.1", "::ffff:0:127.0.0.1", "::ffff:0:169.254.169.254", "3fff::1", "5f00::1",
	} {
		if outbound.IsPublic(netip.MustParseAddr(s)) {
			t.Errorf("%s is let through", s)
		}
	}
}
