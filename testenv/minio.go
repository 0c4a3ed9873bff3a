package testenv

import (
	"bufio"
	"context"
	"crypto/rand"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

// The credentials of a MinIO that this package starts.
const (
	minioUser     = "berth-test"
	minioPassword = "berth-test-secret"
)

// S3 is a bucket of a MinIO.
type S3 struct {
	Endpoint  string // http://host:port
	Bucket    string
	AccessKey string
	SecretKey string

	// Metrics gives the number of requests that MinIO has counted for this
	// bucket, by the name of the S3 operation in MinIO's words, e.g. "PutObject",
	// "NewMultipartUpload", "PutObjectPart", "CompleteMultipartUpload",
	// "GetObject", "CopyObject". A request counts when its answer has been sent.
	Metrics func() map[string]float64
}

// URL is the bucket as a BERTH_STORAGE_URL. The credentials are not in it:
// see [S3.Env].
func (s S3) URL(prefix string) string {
	q := url.Values{"endpoint": {s.Endpoint}, "region": {"us-east-1"}, "path_style": {"true"}}
	return "s3://" + s.Bucket + "/" + prefix + "?" + q.Encode()
}

// Env is what the AWS credentials chain reads, as environment settings.
func (s S3) Env() []string {
	return []string{"AWS_ACCESS_KEY_ID=" + s.AccessKey, "AWS_SECRET_ACCESS_KEY=" + s.SecretKey}
}

// MinIO gives a fresh bucket, which is removed when the test ends. The server
// is the one of BERTH_TEST_S3_ENDPOINT (with AWS_ACCESS_KEY_ID and
// AWS_SECRET_ACCESS_KEY), else one of this process's own, started from
// $BERTH_TEST_MINIO, .cache/tools/minio of the project, or PATH.
func MinIO(t testing.TB) S3 {
	t.Helper()
	s, err := MinIOServer()
	require(t, err)
	s.Bucket = "berth-test-" + strings.ToLower(rand.Text())
	s.Metrics = func() map[string]float64 {
		t.Helper()
		m, err := minioMetrics(s)
		if err != nil {
			t.Fatalf("MinIO's metrics: %v", err)
		}
		return m
	}
	c, err := s.client()
	if err != nil {
		t.Fatalf("MinIO: %v", err)
	}
	ctx := context.Background()
	if err := c.MakeBucket(ctx, s.Bucket, minio.MakeBucketOptions{Region: "us-east-1"}); err != nil {
		t.Fatalf("making a test bucket: %v", err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
		defer cancel()
		if err := c.RemoveBucketWithOptions(ctx, s.Bucket, minio.RemoveBucketOptions{ForceDelete: true}); err != nil {
			t.Errorf("removing the test bucket: %v", err)
		}
	})
	return s
}

// Objects lists the keys of the bucket's objects.
func (s S3) Objects(t testing.TB) []string {
	t.Helper()
	c, err := s.client()
	if err != nil {
		t.Fatal(err)
	}
	var keys []string
	for o := range c.ListObjects(context.Background(), s.Bucket, minio.ListObjectsOptions{Recursive: true}) {
		if o.Err != nil {
			t.Fatalf("listing the bucket: %v", o.Err)
		}
		keys = append(keys, o.Key)
	}
	return keys
}

func (s S3) client() (*minio.Client, error) {
	u, err := url.Parse(s.Endpoint)
	if err != nil {
		return nil, err
	}
	return minio.New(u.Host, &minio.Options{
		Creds:  credentials.NewStaticV4(s.AccessKey, s.SecretKey, ""),
		Secure: u.Scheme == "https",
		Region: "us-east-1",
	})
}

// MinIOServer gives the server that [MinIO] uses, without a bucket, and
// starts it when need be.
func MinIOServer() (S3, error) {
	if endpoint := os.Getenv("BERTH_TEST_S3_ENDPOINT"); endpoint != "" {
		return S3{Endpoint: endpoint, AccessKey: os.Getenv("AWS_ACCESS_KEY_ID"), SecretKey: os.Getenv("AWS_SECRET_ACCESS_KEY")}, nil
	}
	addr, err := shared.minio.start(startMinIO)
	return S3{Endpoint: "http://" + addr, AccessKey: minioUser, SecretKey: minioPassword}, err
}

func startMinIO() (string, error) {
	tmp, err := tempDir()
	if err != nil {
		return "", err
	}
	addr, p, err := runMinIO(tmp)
	if err == nil {
		shared.stops = append(shared.stops, func() { _ = p.Stop(syscall.SIGKILL) })
	}
	return addr, err
}

// StartMinIO starts a MinIO of the test's own, to be stopped and broken, with a bucket. It ends with the test.
func StartMinIO(t testing.TB) (S3, *Process) {
	t.Helper()
	addr, p, err := runMinIO(t.TempDir())
	require(t, err)
	t.Cleanup(func() { _ = p.Stop(syscall.SIGKILL) })
	s := S3{Endpoint: "http://" + addr, AccessKey: minioUser, SecretKey: minioPassword, Bucket: "berth-test"}
	c, err := s.client()
	require(t, err)
	require(t, c.MakeBucket(t.Context(), s.Bucket, minio.MakeBucketOptions{Region: "us-east-1"}))
	return s, p
}

// runMinIO starts a MinIO on a free port with its data in the directory.
func runMinIO(tmp string) (string, *Process, error) {
	bin, err := lookTool("minio")
	if err != nil {
		return "", nil, err
	}
	for range 5 { // another process may take the port before MinIO does
		addr, err := FreePort()
		if err != nil {
			return "", nil, err
		}
		log, err := os.Create(filepath.Join(tmp, "minio.log"))
		if err != nil {
			return "", nil, err
		}
		cmd := exec.Command(bin, "server", "--quiet", "--address", addr, filepath.Join(tmp, "minio"))
		cmd.Env = []string{
			"PATH=/usr/bin:/bin", "HOME=" + tmp,
			"MINIO_ROOT_USER=" + minioUser, "MINIO_ROOT_PASSWORD=" + minioPassword,
			"MINIO_PROMETHEUS_AUTH_TYPE=public", "MINIO_BROWSER=off", "MINIO_UPDATE=off",
		}
		cmd.Stdout, cmd.Stderr = log, log
		p, err := Start(cmd, syscall.SIGKILL)
		log.Close()
		if err != nil {
			return "", nil, err
		}
		err = await(p, func(ctx context.Context) error {
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/minio/health/ready", nil)
			if err != nil {
				return err
			}
			res, err := http.DefaultClient.Do(req)
			if err != nil {
				return err
			}
			res.Body.Close()
			if res.StatusCode != http.StatusOK {
				return fmt.Errorf("%s", res.Status)
			}
			return nil
		})
		if err == nil {
			return addr, p, nil
		}
		_ = p.Stop(syscall.SIGKILL)
		text, _ := os.ReadFile(log.Name())
		if !strings.Contains(string(text), "address already in use") && !strings.Contains(string(text), "port is already in use") {
			return "", nil, fmt.Errorf("starting MinIO: %w\n%s", err, text)
		}
	}
	return "", nil, fmt.Errorf("starting MinIO: found no free port")
}

// A line of MinIO's metrics for one bucket; the v3 endpoint answers without a cache.
var minioMetric = regexp.MustCompile(`^minio_bucket_api_total\{.*name="([A-Za-z0-9]+)".*\} ([0-9.e+]+)$`)

func minioMetrics(s S3) (map[string]float64, error) {
	res, err := http.Get(s.Endpoint + "/minio/metrics/v3/bucket/api/" + s.Bucket)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s (is MINIO_PROMETHEUS_AUTH_TYPE=public set?)", res.Status)
	}
	counts := map[string]float64{}
	lines := bufio.NewScanner(res.Body)
	for lines.Scan() {
		if m := minioMetric.FindStringSubmatch(lines.Text()); m != nil {
			n, err := strconv.ParseFloat(m[2], 64)
			if err != nil {
				return nil, err
			}
			counts[m[1]] += n
		}
	}
	return counts, lines.Err()
}
