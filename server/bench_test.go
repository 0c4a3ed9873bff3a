package server

import (
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"
)

// nullWriter is the answer of a benchmark: what net/http itself costs is not ours.
type nullWriter struct{ header http.Header }

func (w *nullWriter) Header() http.Header         { return w.header }
func (w *nullWriter) Write(p []byte) (int, error) { return len(p), nil }
func (w *nullWriter) WriteHeader(int)             {}

// BenchmarkManifestHead is the most frequent request of a registry, with a
// bearer token, without the network: router, token, query, log line, metrics.
func BenchmarkManifestHead(b *testing.B) {
	w := small(b, func(w *world, o *Options) { o.Logger = slog.New(slog.NewJSONHandler(io.Discard, nil)) })
	w.pushImage("mo", "team/app", "1.0")
	jwt := w.jwt("mo", "repository:team/app:pull")[len("jwt:"):]
	handler := w.server.Handler()
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		rw := &nullWriter{http.Header{}}
		for pb.Next() {
			clear(rw.header)
			r := httptest.NewRequest("HEAD", "/v2/team/app/manifests/1.0", nil)
			r.Header.Set("Authorization", "Bearer "+jwt)
			handler.ServeHTTP(rw, r)
		}
	})
}
