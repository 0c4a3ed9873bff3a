package server

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"

	aws "github.com/minio/minio-go/v7/pkg/credentials"

	"berth/storage/s3"
	"berth/testenv"
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

// BenchmarkPullFromS3 says what hashing costs a pull whose bytes pass through this process: as it is served, and as it
// would be without.
func BenchmarkPullFromS3(b *testing.B) {
	bucket := testenv.MinIO(b)
	w := small(b, func(w *world, _ *Options) {
		store, err := s3.New(context.Background(), s3.Config{
			Endpoint: strings.TrimPrefix(bucket.Endpoint, "http://"), Insecure: true, Bucket: bucket.Bucket, Region: "us-east-1", PathStyle: true,
			Credentials: aws.NewStaticV4(bucket.AccessKey, bucket.SecretKey, ""),
		})
		if err != nil {
			b.Fatal(err)
		}
		w.store = store
	})
	content := make([]byte, 64<<20)
	d := w.pushBlob("mo", "team/app", content)
	blob, err := w.registry.Blob(context.Background(), "team/app", d)
	if err != nil {
		b.Fatal(err)
	}
	plain := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		rc, err := w.store.Open(r.Context(), blob.Key, 0, -1)
		if err != nil {
			b.Error(err)
			return
		}
		defer rc.Close()
		rw.Header().Set("Content-Length", strconv.Itoa(len(content)))
		ex := &exchange{rw: rw, server: w.server}
		if err := w.server.copy(ex, rc, int64(len(content))); err != nil {
			b.Error(err)
		}
	}))
	defer plain.Close()
	for _, c := range []struct{ name, url string }{
		{"hashed", w.http.URL + "/v2/team/app/blobs/" + d.String()},
		{"not hashed", plain.URL},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.SetBytes(int64(len(content)))
			for b.Loop() {
				r, err := http.NewRequest("GET", c.url, nil)
				if err != nil {
					b.Fatal(err)
				}
				r.SetBasicAuth("mo", w.accounts["mo"])
				res, err := http.DefaultClient.Do(r)
				if err != nil {
					b.Fatal(err)
				}
				n, err := io.Copy(io.Discard, res.Body)
				res.Body.Close()
				if n != int64(len(content)) || err != nil {
					b.Fatal(n, err)
				}
			}
		})
	}
}
