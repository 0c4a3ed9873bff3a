// Package conformance looks at Berth from outside: it starts the real binary
// on every combination of database and store, and talks to it as the protocol
// says ([TestProtocol] in protocol_*_test.go, written from the OCI distribution
// specification) and through the programs that people use (clients_*_test.go).
// Replicas, kill -9, memory, S3 request counts and metrics are tested here too.
//
// Start with harness.go: a [Backend] is a database and a store, [Backend.Start] runs
// a server on it, and a second call runs a replica beside the first.
package conformance

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"berth/testenv"
)

// Variant is a combination of database and store.
type Variant struct {
	Database string // "sqlite" or "postgres"
	Storage  string // "directory" or "s3"
}

// The variants that the tests name: the two ends, and those between.
var (
	Embedded     = Variant{"sqlite", "directory"}
	Distributed  = Variant{"postgres", "s3"}
	SQLiteS3     = Variant{"sqlite", "s3"}
	PostgresDisk = Variant{"postgres", "directory"}
)

// Variants lists all four.
func Variants() []Variant { return []Variant{Embedded, PostgresDisk, SQLiteS3, Distributed} }

// String names the variant in test names, e.g. "postgres+s3".
func (v Variant) String() string { return v.Database + "+" + v.Storage }

// AdminPassword is the password of the user admin of every server started here.
const AdminPassword = "conformance-Admin-1"

// Backend is a database and a store, on which any number of servers run.
type Backend struct {
	Variant     Variant
	DatabaseURL string     // "" unless Variant.Database is "postgres"
	Bucket      testenv.S3 // zero unless Variant.Storage is "s3"
	Env         []string   // settings of the database and the store
	DataDir     string
}

// NewBackend makes an empty database and an empty store. The test skips when
// Postgres or MinIO is not installed (and fails with CI set).
func NewBackend(t testing.TB, v Variant) *Backend {
	t.Helper()
	dir := t.TempDir()
	b := &Backend{Variant: v, DataDir: dir, Env: []string{"BERTH_DATA_DIR=" + dir, "BERTH_ADMIN_PASSWORD=" + AdminPassword}}
	if v.Database == "postgres" {
		b.DatabaseURL = testenv.Postgres(t)
		b.Env = append(b.Env, "BERTH_DATABASE_URL="+b.DatabaseURL)
	}
	if v.Storage == "s3" {
		b.Bucket = testenv.MinIO(t)
		b.Env = append(b.Env, "BERTH_STORAGE_URL="+b.Bucket.URL("registry"))
		b.Env = append(b.Env, b.Bucket.Env()...)
	}
	return b
}

// Server is a running Berth.
type Server struct {
	Host string // 127.0.0.1:port
	URL  string // http://127.0.0.1:port, or https://
	Bin  string // the binary that runs

	proc *testenv.Process
	log  *logBuffer
	env  []string
}

// Start runs a server on a new backend and waits until it is ready. When the
// test fails, the server's log is printed.
func Start(t testing.TB, v Variant, env ...string) *Server {
	t.Helper()
	return NewBackend(t, v).Start(t, env...)
}

// Start runs a server on the backend and waits until it is ready.
func (b *Backend) Start(t testing.TB, env ...string) *Server {
	t.Helper()
	s := b.Launch(t, Binary(t), env...)
	s.WaitReady(t)
	return s
}

// Launch runs the given binary on the backend and does not wait for it.
func (b *Backend) Launch(t testing.TB, bin string, env ...string) *Server {
	t.Helper()
	addr, err := testenv.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{Host: addr, URL: "http://" + addr, Bin: bin, log: &logBuffer{}}
	s.env = append([]string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + b.DataDir, "TMPDIR=" + os.TempDir(),
		"BERTH_LISTEN=" + addr, "GORACE=halt_on_error=0 exitcode=66",
	}, b.Env...)
	s.env = append(s.env, env...)
	for _, kv := range env {
		if strings.HasPrefix(kv, "BERTH_TLS_CERT=") {
			s.URL = "https://" + addr
		}
	}
	s.run(t)
	t.Cleanup(func() {
		s.proc.Signal(syscall.SIGTERM)
		select {
		case <-s.proc.Done():
		case <-time.After(time.Minute): // its own limit, shutdown_timeout, is 30 s, after which it says so in the log
			t.Errorf("the server did not stop within a minute of SIGTERM")
			s.proc.Signal(syscall.SIGQUIT) // prints the goroutines
			_ = s.proc.Wait()
		}
		log := s.Log()
		for _, bad := range []string{"DATA RACE", "\npanic: ", "fatal error: ", "requests were still in flight and have been cut off"} {
			if strings.Contains(log, bad) {
				t.Errorf("the server's log has %q", strings.TrimSpace(bad))
			}
		}
		for _, secret := range []string{AdminPassword, b.Bucket.SecretKey} {
			if secret != "" && strings.Contains(log, secret) {
				t.Errorf("the server's log has a secret in it")
			}
		}
		if t.Failed() {
			t.Logf("log of the server on %s, %s:\n%s", s.Host, keep(log), excerpt(log))
		}
	})
	return s
}

// Bounds of what [excerpt] shows of a log, so that what the test itself has said is not lost before it.
const (
	excerptTrouble = 15  // lines
	excerptEnd     = 15  // lines
	excerptLine    = 250 // bytes
)

// trouble is what a log's lines have that tell of something wrong, as text and as JSON; crashed is
// how the message of a crash begins, which has many lines.
var (
	trouble = regexp.MustCompile(`\blevel=(WARN|ERROR)\b|"level":"(WARN|ERROR)"|\bstatus=5\d\d\b|"status":5\d\d\b`)
	crashed = regexp.MustCompile(`^(panic: |fatal error: |WARNING: DATA RACE|SIGQUIT: )`)
)

// excerpt gives of a server's log the beginning of a crash, the first warnings, errors and
// answers of 500 and more, and the end.
func excerpt(log string) string {
	all := strings.Split(strings.TrimRight(log, "\n"), "\n")
	end := max(0, len(all)-excerptEnd)
	var shown []string
	left := 0
	for i, line := range all[:end] {
		switch {
		case crashed.MatchString(line):
			shown = append(shown, all[i:min(i+2*excerptTrouble, end)]...)
		case trouble.MatchString(line) && len(shown) < excerptTrouble:
			shown = append(shown, line)
		case trouble.MatchString(line):
			left++
		}
	}
	shown = shown[:min(len(shown), 4*excerptTrouble)]
	if left > 0 {
		shown = append(shown, fmt.Sprintf("... and %d more such lines", left))
	}
	shown = append(append(shown, "... its end:"), all[end:]...)
	for i, line := range shown {
		if len(line) > excerptLine {
			shown[i] = line[:excerptLine] + "…"
		}
	}
	return strings.Join(shown, "\n")
}

// keep writes the whole log to a file, which stays, and says where.
func keep(log string) string {
	f, err := os.CreateTemp("", "berth-server-*.log")
	if err != nil {
		return "which cannot be kept: " + err.Error()
	}
	_, err = f.WriteString(log)
	if err = errors.Join(err, f.Close()); err != nil {
		return "which cannot be kept: " + err.Error()
	}
	return "an excerpt of " + f.Name()
}

func (s *Server) run(t testing.TB) {
	t.Helper()
	cmd := exec.Command(s.Bin, "serve")
	cmd.Env = s.env
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = s.log, s.log
	proc, err := testenv.Start(cmd, syscall.SIGKILL)
	if err != nil {
		t.Fatalf("starting the server: %v", err)
	}
	s.proc = proc
}

// WaitReady waits until /readyz says yes.
func (s *Server) WaitReady(t testing.TB) {
	t.Helper()
	deadline := time.Now().Add(2 * time.Minute)
	for {
		select {
		case <-s.proc.Done():
			t.Fatalf("the server ended at start: %v\n%s", s.proc.Wait(), s.Log())
		default:
		}
		res, err := insecure.Get(s.URL + "/readyz")
		if err == nil {
			res.Body.Close()
			if res.StatusCode == http.StatusOK {
				return
			}
			err = errors.New(res.Status)
		}
		if time.Now().After(deadline) {
			t.Fatalf("the server is not ready after 2 minutes: %v\n%s", err, s.Log())
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// Kill is kill -9.
func (s *Server) Kill() { _ = s.proc.Stop(syscall.SIGKILL) }

// Terminate asks the server to stop and does not wait.
func (s *Server) Terminate() { s.proc.Signal(syscall.SIGTERM) }

// Wait waits for the server's end.
func (s *Server) Wait() error { return s.proc.Wait() }

// Restart runs the server again, on the same address, after Kill or Terminate.
func (s *Server) Restart(t testing.TB) {
	t.Helper()
	_ = s.proc.Wait()
	insecure.CloseIdleConnections() // those to the one that has ended
	s.run(t)
	s.WaitReady(t)
}

// watch prints what the server has logged meanwhile, when a test fails that shares it with others.
func (s *Server) watch(t testing.TB) {
	before := len(s.Log())
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log of the server during this test:\n%s", excerpt(s.Log()[before:]))
		}
	})
}

// Log is what the server has printed so far.
func (s *Server) Log() string { return s.log.String() }

// ResidentPeak is the most memory that the server's process has had resident, in bytes (VmHWM).
func (s *Server) ResidentPeak(t testing.TB) int64 {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.proc.Cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if value, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kib, err := strconv.ParseInt(strings.Fields(value)[0], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return kib << 10
		}
	}
	t.Fatal("/proc has no VmHWM")
	return 0
}

// Berth runs a client verb of the binary as the user admin and gives what it printed.
func (s *Server) Berth(t testing.TB, args ...string) string {
	t.Helper()
	out, err := s.TryBerth(t, args...)
	if err != nil {
		t.Fatalf("berth %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// clientTimeout is how long one command of a client may take. It is there for those that hang: a busy
// machine with one processor takes many times as long as an idle one.
const clientTimeout = 5 * time.Minute

// TryBerth is Berth for what may fail.
func (s *Server) TryBerth(t testing.TB, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), clientTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, s.Bin, args...)
	cmd.Env = append(os.Environ(), "BERTH_SERVER="+s.URL, "BERTH_USERNAME=admin", "BERTH_PASSWORD="+AdminPassword, "GORACE=exitcode=66")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// binaries are built once per test process.
var binaries struct {
	mu    sync.Mutex
	dir   string
	paths map[bool]string
}

// Binary is the server's binary: with the race detector when the tests have
// it. BERTH_TEST_BINARY names one that is built already.
func Binary(t testing.TB) string { return build(t, raceEnabled) }

// PlainBinary is the binary as it is shipped, for what is measured.
func PlainBinary(t testing.TB) string { return build(t, false) }

func build(t testing.TB, race bool) string {
	t.Helper()
	if path := os.Getenv("BERTH_TEST_BINARY"); path != "" && !race {
		return path
	}
	binaries.mu.Lock()
	defer binaries.mu.Unlock()
	if path := binaries.paths[race]; path != "" {
		return path
	}
	root, err := testenv.Root()
	if err != nil {
		t.Fatal(err)
	}
	if binaries.dir == "" {
		if binaries.dir, err = os.MkdirTemp("", "berth-conformance-"); err != nil {
			t.Fatal(err)
		}
		binaries.paths = map[bool]string{}
	}
	path := filepath.Join(binaries.dir, "berth")
	args := []string{"build", "-o", path}
	env := append(os.Environ(), "CGO_ENABLED=0")
	if race {
		path += "-race"
		args = []string{"build", "-race", "-o", path}
		env = append(os.Environ(), "CGO_ENABLED=1")
	}
	cmd := exec.Command("go", append(args, "./cmd/berth")...)
	cmd.Dir, cmd.Env = root, env
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building berth: %v\n%s", err, out)
	}
	binaries.paths[race] = path
	return path
}

// removeBinaries removes what build has made.
func removeBinaries() {
	if binaries.dir != "" {
		os.RemoveAll(binaries.dir)
	}
}

// logBuffer keeps what a process prints.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func tail(s string, lines int) string {
	all := strings.Split(strings.TrimRight(s, "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// random gives n bytes that nobody has pushed before.
func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return b
}

// unique makes a repository name that no other test uses.
func unique(prefix string) string { return prefix + "-" + strings.ToLower(rand.Text()[:10]) }

// drain reads a body to its end and closes it.
func drain(body io.ReadCloser) ([]byte, error) {
	defer body.Close()
	return io.ReadAll(body)
}
