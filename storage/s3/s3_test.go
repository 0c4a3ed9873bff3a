package s3_test

import (
	"log/slog"
	"os"
	"strings"
	"testing"

	"github.com/minio/minio-go/v7/pkg/credentials"

	"berth/storage"
	"berth/storage/s3"
	"berth/storage/storagetest"
	"berth/testenv"
)

func TestMain(m *testing.M) { os.Exit(testenv.Main(m)) }

func config(bucket testenv.S3) s3.Config {
	return s3.Config{
		Endpoint:    strings.TrimPrefix(bucket.Endpoint, "http://"),
		Insecure:    true,
		Bucket:      bucket.Bucket,
		Prefix:      "some/where",
		Region:      "us-east-1",
		PathStyle:   true,
		Credentials: credentials.NewStaticV4(bucket.AccessKey, bucket.SecretKey, ""),
	}
}

func open(t testing.TB, c s3.Config) *s3.Store {
	t.Helper()
	if c.Logger == nil {
		c.Logger = slog.New(slog.NewTextHandler(t.Output(), nil))
	}
	s, err := s3.New(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestContract(t *testing.T) {
	c := config(testenv.MinIO(t))
	c.Budget = storage.NewBudget(0)
	storagetest.Test(t, func(t testing.TB) storage.Store { return open(t, c) })
}

func BenchmarkPush(b *testing.B) {
	storagetest.Benchmark(b, open(b, config(testenv.MinIO(b))))
}
