package conformance

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"berth/testenv"
)

// inject makes system calls of a running server fail, on the files named only, until the function
// that it returns is called: strace changes what the kernel answers.
func (s *Server) inject(t *testing.T, fault string, paths ...string) (stop func()) {
	t.Helper()
	testenv.NeedRoot(t, "let system calls of a server fail")
	calls, _, _ := strings.Cut(fault, ":")
	args := []string{"-f", "-p", fmt.Sprint(s.proc.Cmd.Process.Pid), "-e", "trace=" + calls, "-e", "inject=" + fault}
	for _, path := range paths {
		args = append(args, "-P", path)
	}
	cmd := exec.Command(testenv.Tool(t, "strace"), args...)
	log := &logBuffer{}
	cmd.Stdout, cmd.Stderr = log, log
	p, err := testenv.Start(cmd, syscall.SIGKILL)
	if err != nil {
		t.Fatal(err)
	}
	var once sync.Once
	stop = func() { once.Do(func() { _ = p.Stop(syscall.SIGTERM) }) }
	t.Cleanup(func() {
		stop()
		if t.Failed() {
			t.Logf("strace:\n%s", tail(log.String(), 20))
		}
	})
	wait(t, "strace to attach", func() bool { return strings.Contains(log.String(), "attached") })
	return stop
}

// wait waits for a condition.
func wait(t *testing.T, what string, condition func() bool) {
	t.Helper()
	deadline := time.Now().Add(2 * time.Minute)
	for !condition() {
		if time.Now().After(deadline) {
			t.Fatalf("waited 2 minutes for %s", what)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// status asks an open path, without a judgement.
func (s *Server) status(path string) (int, string) {
	res, err := insecure.Get(s.URL + path)
	if err != nil {
		return 0, err.Error()
	}
	text, _ := drain(res.Body)
	return res.StatusCode, string(text)
}

// A sync of SQLite's log that fails (EIO) makes nothing acknowledged or shown that is not durable, and ends the process with
// a sentence; the next one has everything that was acknowledged.
func TestFailedSyncOfTheLog(t *testing.T) {
	t.Parallel()
	b := NewBackend(t, Embedded)
	s := b.Start(t)
	c := s.Admin(t)
	repo := unique("faults/log")
	kept, _ := c.PushImage(repo, "kept")
	m := c.MakeImage(repo, 1)
	stop := s.inject(t, "fdatasync:error=EIO", filepath.Join(b.DataDir, "berth.db-wal"))
	u := c.Unavailable()
	r := u.Do("PUT", "/v2/"+repo+"/manifests/lost", m.Bytes(), "Content-Type: "+typeManifest).WantError(503, "UNAVAILABLE")
	if r.Header.Get("Retry-After") == "" {
		t.Error("the 503 has no Retry-After")
	}
	if text := string(r.Body); strings.Contains(text, "nothing was changed") {
		t.Errorf("the message promises too much: %s", text)
	}
	// It is committed, though not durable: nobody may see it, nor anything else.
	u.Do("GET", "/v2/"+repo+"/manifests/lost", nil).WantError(503, "UNAVAILABLE")
	for _, path := range []string{"/readyz", "/livez"} {
		if code, text := s.status(path); code != 503 {
			t.Errorf("%s: %d %s", path, code, text)
		}
	}
	var ended *exec.ExitError
	if err := s.Wait(); !errors.As(err, &ended) || ended.ExitCode() != 1 {
		t.Errorf("the server ended with %v, want exit code 1", err)
	}
	if log := s.Log(); !strings.Contains(log, "the database has failed, and only a new process can go on with it") {
		t.Error("the last words do not say why")
	}
	stop()
	s.Restart(t)
	c.Do("GET", "/v2/"+repo+"/manifests/kept", nil).Want(200).WantBody(kept)
	c.PushManifest(repo, "lost", typeManifest, m.Bytes()) // whether it had come to stay or not
	c.Do("GET", "/v2/"+repo+"/manifests/lost", nil).Want(200).WantBody(m.Bytes())
}

// A sync of a blob's file or of its directory that fails (EIO) is 503, and the same bytes cannot be
// committed by a second try, whose sync would say nothing of the first.
func TestFailedSyncOfABlob(t *testing.T) {
	t.Parallel()
	b := NewBackend(t, Embedded)
	s := b.Start(t)
	c := s.Admin(t)
	for _, what := range []string{"file", "directory"} {
		repo := unique("faults/" + what)
		content := random(100_000)
		d := sha256Of(content)
		loc := c.StartUpload(repo)
		loc = c.Do("PATCH", loc, content, fmt.Sprintf("Content-Range: 0-%d", len(content)-1)).Want(202).Location(c)
		u, err := url.Parse(loc)
		if err != nil {
			t.Fatal(err)
		}
		found, err := filepath.Glob(filepath.Join(b.DataDir, "blobs", "*", strings.ReplaceAll(filepath.Base(u.Path), "-", "")+"*"))
		if err != nil || len(found) == 0 {
			t.Fatalf("the file of the upload %s: %v, %v", filepath.Base(u.Path), found, err)
		}
		path := found[0]
		if what == "directory" {
			path = filepath.Dir(path)
		}
		stop := s.inject(t, "fsync:error=EIO", path)
		r := c.Unavailable().Do("PUT", with(loc, "digest="+d), nil).WantError(503, "UNAVAILABLE")
		if r.Header.Get("Retry-After") == "" {
			t.Error("the 503 has no Retry-After")
		}
		stop()
		c.Do("PUT", with(loc, "digest="+d), nil).WantError(400, "BLOB_UPLOAD_INVALID")
		c.Do("HEAD", "/v2/"+repo+"/blobs/"+d, nil).Want(404)
		c.PushBlob(repo, content)
		c.Do("GET", "/v2/"+repo+"/blobs/"+d, nil).Want(200).WantBody(content)
		if code, text := s.status("/readyz"); code != 200 {
			t.Errorf("/readyz afterwards: %d %s", code, text)
		}
	}
}

// A database file whose reads fail, or give what cannot be, as those of a file system that was shut down, is a
// dependency that is away.
func TestFailedReadsOfTheDatabase(t *testing.T) {
	t.Parallel()
	for _, fault := range []string{"pread64:error=EIO", "pread64:retval=0"} {
		t.Run(fault, func(t *testing.T) {
			t.Parallel()
			b := NewBackend(t, Embedded)
			s := b.Start(t)
			c := s.Admin(t)
			repo := unique("faults/read")
			raw, _ := c.PushImage(repo, "v1")
			db := filepath.Join(b.DataDir, "berth.db")
			stop := s.inject(t, fault, db, db+"-wal")
			u := c.Unavailable()
			for i := range 10 {
				// What is in memory may still be answered.
				r := u.Do("GET", fmt.Sprintf("/v2/%s/manifests/none-%d", repo, i), nil)
				if r.Status != 503 && r.Status != 404 {
					t.Errorf("a pull: %d %s", r.Status, r.Body)
				}
				r = u.Do("POST", "/v2/"+unique("faults/new")+"/blobs/uploads/", nil)
				if r.Status != 503 && r.Status != 202 {
					t.Errorf("a push: %d %s", r.Status, r.Body)
				}
			}
			stop()
			wait(t, "the server to serve again", func() bool { code, _ := s.status("/readyz"); return code == 200 })
			c.Do("GET", "/v2/"+repo+"/manifests/v1", nil).Want(200).WantBody(raw)
		})
	}
}

// Servers that are stopped (SIGSTOP) keep nobody waiting: 503 within the bound, and service at once when they go on.
func TestStoppedDependencies(t *testing.T) {
	t.Parallel()
	database := testenv.StartPostgres(t)
	bucket, minio := testenv.StartMinIO(t)
	dir := t.TempDir()
	b := &Backend{Variant: Distributed, DatabaseURL: database.URL(), Bucket: bucket, DataDir: dir, Env: append([]string{
		"BERTH_DATA_DIR=" + dir, "BERTH_ADMIN_PASSWORD=" + AdminPassword, "BERTH_DATABASE_URL=" + database.URL(),
		"BERTH_STORAGE_URL=" + bucket.URL("registry"), "BERTH_DATABASE_TIMEOUT=2s", "BERTH_STORAGE_TIMEOUT=2s"}, bucket.Env()...)}
	s := b.Start(t)
	c := s.Admin(t)
	repo := unique("faults/stopped")
	content := random(100_000)
	blob := c.PushBlob(repo, content)
	raw, _ := c.PushImage(repo, "v1")
	for _, stopped := range []struct {
		name     string
		process  *testenv.Process
		requests func(u *Client) *Response
	}{
		{"Postgres, a pull", database.Process, func(u *Client) *Response { return u.Do("GET", "/v2/"+repo+"/manifests/v1", nil) }},
		{"Postgres, a push", database.Process, func(u *Client) *Response { return u.Do("POST", "/v2/"+repo+"/blobs/uploads/", nil) }},
		{"MinIO, a pull", minio, func(u *Client) *Response { return u.Do("GET", "/v2/"+repo+"/blobs/"+blob, nil) }},
		{"MinIO, a push", minio, func(u *Client) *Response {
			body := random(7 << 20)
			loc := u.StartUpload(repo)
			return u.Do("PUT", with(loc, "digest="+sha256Of(body)), body)
		}},
	} {
		if err := stopped.process.Freeze(); err != nil {
			t.Fatal(err)
		}
		var group sync.WaitGroup
		for range 40 {
			group.Go(func() {
				u := s.Admin(t).Unavailable()
				if r := stopped.requests(u); r.Status != 503 || r.Header.Get("Retry-After") == "" {
					t.Errorf("%s: %d, Retry-After %q, %s", stopped.name, r.Status, r.Header.Get("Retry-After"), r.Body)
				}
			})
		}
		group.Wait() // without bounds it would wait for ever
		if err := stopped.process.Thaw(); err != nil {
			t.Fatal(err)
		}
		// The stopped one has all that was asked of it meanwhile to do first.
		wait(t, stopped.name+" again", func() bool { return stopped.requests(s.Admin(t).Unavailable()).Status < 300 })
		c.Do("GET", "/v2/"+repo+"/manifests/v1", nil).Want(200).WantBody(raw)
		c.Do("GET", "/v2/"+repo+"/blobs/"+blob, nil).Want(200).WantBody(content)
	}
}

// The primary is killed while clients push, and its synchronous standby promoted: what was acknowledged is
// there, byte for byte, and pushes are taken again without a hand at the server.
func TestFailOver(t *testing.T) {
	t.Parallel()
	primary := testenv.StartPostgres(t, "wal_level=replica", "max_wal_senders=4", "hot_standby=on")
	standby := primary.StartStandby(t, "second", "hot_standby=on")
	primary.Exec(t, `ALTER SYSTEM SET synchronous_standby_names = 'second'`, `SELECT pg_reload_conf()`)
	hosts := "postgres://postgres@" + primary.Addr + "," + standby.Addr + "/postgres?sslmode=disable"
	b := NewBackend(t, Embedded)
	b.Variant, b.DatabaseURL = PostgresDisk, hosts
	b.Env = append(b.Env, "BERTH_DATABASE_URL="+hosts, "BERTH_DATABASE_TIMEOUT=5s")
	s := b.Start(t)
	repo := unique("faults/failover")
	m := s.Admin(t).MakeImage(repo, 1)

	var mu sync.Mutex
	acknowledged := map[string][]byte{}
	promoted := time.Time{}
	var back time.Duration // from the promotion to the first push after it
	var group sync.WaitGroup
	stop := make(chan struct{})
	for worker := range 8 {
		group.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				image := m
				image.Comment = fmt.Sprintf("%d-%d", worker, n)
				raw, tag := image.Bytes(), fmt.Sprintf("v%d.%d", worker, n)
				r, err := s.Admin(t).Unavailable().TryStream("PUT", "/v2/"+repo+"/manifests/"+tag, bytes.NewReader(raw), int64(len(raw)), "Content-Type: "+typeManifest)
				if err != nil {
					t.Errorf("%s: %v", tag, err)
					return
				}
				switch r.Status {
				case 201:
					mu.Lock()
					acknowledged[tag] = raw
					if !promoted.IsZero() && back == 0 {
						back = time.Since(promoted)
					}
					mu.Unlock()
				case 503:
					time.Sleep(50 * time.Millisecond)
				default:
					t.Errorf("%s: %d %s", tag, r.Status, r.Body)
				}
			}
		})
	}
	count := func() int { mu.Lock(); defer mu.Unlock(); return len(acknowledged) }
	wait(t, "the first pushes", func() bool { return count() > 100 })
	primary.Kill()
	before := count()
	standby.Exec(t, `SELECT pg_promote()`)
	mu.Lock()
	promoted = time.Now()
	mu.Unlock()
	wait(t, "pushes after the fail-over", func() bool { return count() > before+100 })
	close(stop)
	group.Wait()
	t.Logf("%d pushes acknowledged before the primary was killed, %d in all; the first one %v after the promotion", before, count(), back)
	c := s.Admin(t)
	for tag, raw := range acknowledged {
		c.Do("GET", "/v2/"+repo+"/manifests/"+tag, nil).Want(200).WantBody(raw)
	}
	if code, text := s.status("/readyz?verbose"); code != 200 || !strings.Contains(text, "database write ok") {
		t.Errorf("/readyz?verbose: %d %s", code, text)
	}
}

// A Postgres that takes no writes is 503 for pushes and nothing for pulls; /readyz?verbose says so, and it needs
// no hand when it takes them again.
func TestReadOnlyDatabase(t *testing.T) {
	t.Parallel()
	b := NewBackend(t, PostgresDisk)
	s := b.Start(t)
	c := s.Admin(t)
	repo := unique("faults/readonly")
	raw, _ := c.PushImage(repo, "v1")
	set := func(value string) {
		u, err := url.Parse(b.DatabaseURL)
		if err != nil {
			t.Fatal(err)
		}
		testenv.PostgresExec(t, b.DatabaseURL, `SET default_transaction_read_only = off`,
			`ALTER DATABASE `+strings.TrimPrefix(u.Path, "/")+` SET default_transaction_read_only = `+value,
			`SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()`)
	}
	set("on")
	r := c.Unavailable().Do("POST", "/v2/"+repo+"/blobs/uploads/", nil).WantError(503, "UNAVAILABLE")
	if !bytes.Contains(r.Body, []byte("takes no writes")) {
		t.Errorf("the refusal does not say what is wrong: %s", r.Body)
	}
	c.Do("GET", "/v2/"+repo+"/manifests/v1", nil).Want(200).WantBody(raw)
	wait(t, "/readyz?verbose to tell it", func() bool {
		code, text := s.status("/readyz?verbose")
		return code == http.StatusOK && strings.Contains(text, "database write failed: the database takes no writes")
	})
	u, err := url.Parse(b.DatabaseURL)
	if err != nil {
		t.Fatal(err)
	}
	testenv.PostgresExec(t, b.DatabaseURL, `SET default_transaction_read_only = off`, // and nobody closes a connection
		`ALTER DATABASE `+strings.TrimPrefix(u.Path, "/")+` RESET default_transaction_read_only`)
	for range 20 {
		c.Do("POST", "/v2/"+repo+"/blobs/uploads/", nil).Want(202)
	}
}
