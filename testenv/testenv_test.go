package testenv

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/minio/minio-go/v7"
)

func TestMain(m *testing.M) { os.Exit(Main(m)) }

func TestPostgresIsFreshAndEmpty(t *testing.T) {
	ctx := context.Background()
	for range 2 { // the second would fail if the first's table were there
		conn, err := pgx.Connect(ctx, Postgres(t))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Exec(ctx, "CREATE TABLE t (i INT)"); err != nil {
			t.Fatal(err)
		}
		conn.Close(ctx)
	}
}

func TestMinIOCountsRequestsPerBucket(t *testing.T) {
	ctx := context.Background()
	a, b := MinIO(t), MinIO(t)
	c, err := a.client()
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if _, err := c.PutObject(ctx, a.Bucket, "key", strings.NewReader("body"), 4, minio.PutObjectOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if n := a.Metrics()["PutObject"]; n != 3 {
		t.Errorf("MinIO counted %v PutObject in a, want 3: %v", n, a.Metrics())
	}
	if n := b.Metrics()["PutObject"]; n != 0 {
		t.Errorf("MinIO counted %v PutObject in b, want 0", n)
	}
	if keys := a.Objects(t); len(keys) != 1 || keys[0] != "key" {
		t.Errorf("the bucket holds %v, want [key]", keys)
	}
}

func TestMissingToolSaysHowToGetIt(t *testing.T) {
	_, err := lookTool("no-such-tool")
	var m missing
	if !errors.As(err, &m) || !strings.Contains(err.Error(), "BERTH_TEST_NO_SUCH_TOOL") {
		t.Errorf("got %v", err)
	}
	t.Setenv("BERTH_TEST_NO_SUCH_TOOL", "/nonexistent")
	if _, err := lookTool("no-such-tool"); err == nil || errors.As(err, &m) {
		t.Errorf("a wrong setting must be an error of its own, not a missing tool: %v", err)
	}
}

func TestProcessStops(t *testing.T) {
	p, err := Start(exec.Command("sleep", "60"), syscall.SIGKILL)
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := p.Stop(syscall.SIGTERM); err == nil || time.Since(began) > 10*time.Second {
		t.Errorf("err %v after %v", err, time.Since(began))
	}
}
