// Package testenv gives tests the real things: a Postgres database, a MinIO
// bucket, the programs that people use. Start with [Postgres], [MinIO] and
// [Tool]; a package that uses one of the first two lets [Main] run its tests,
// so that what was started also stops:
//
//	func TestMain(m *testing.M) { os.Exit(testenv.Main(m)) }
//
// Servers are started at most once per test process, on free loopback ports,
// with their data in a temporary directory. `make test` starts one of each for all
// packages and says so in BERTH_TEST_POSTGRES_URL and BERTH_TEST_S3_ENDPOINT.
//
// What is not installed skips the test and says how to get it. With CI set in
// the environment it fails the test instead, so that a green run has run everything.
package testenv

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// shared is what this test process has started. Tests of one process share
// servers, so this is the one place where state cannot be passed in.
var shared struct {
	mu       sync.Mutex
	dir      string
	lock     *os.File
	stops    []func()
	postgres server
	minio    server
}

// server is a running server, or the reason why there is none.
type server struct {
	started bool
	addr    string // host:port
	err     error
}

// start runs f the first time and remembers its answer.
func (s *server) start(f func() (string, error)) (string, error) {
	shared.mu.Lock()
	defer shared.mu.Unlock()
	if !s.started {
		s.started = true
		s.addr, s.err = f()
	}
	return s.addr, s.err
}

// Main runs the tests of a package, stops what they started, reports the processor time and gives the exit code.
func Main(m *testing.M) int {
	began := time.Now()
	code := m.Run()
	Stop()
	if err := reportTime(time.Since(began)); err != nil {
		fmt.Fprintln(os.Stderr, "reporting the processor time:", err)
		return max(code, 1)
	}
	return code
}

// Stop stops the servers of this process and removes their data. Main calls it.
func Stop() {
	shared.mu.Lock()
	defer shared.mu.Unlock()
	for i := len(shared.stops) - 1; i >= 0; i-- {
		shared.stops[i]()
	}
	shared.stops = nil
	if shared.dir != "" {
		os.RemoveAll(shared.dir)
		shared.lock.Close()
		shared.dir = ""
	}
	shared.postgres, shared.minio = server{}, server{}
}

// Dir makes a directory of this test process, for what all its tests share. Main
// removes it.
func Dir(name string) (string, error) {
	shared.mu.Lock()
	defer shared.mu.Unlock()
	parent, err := tempDir()
	if err != nil {
		return "", err
	}
	return os.MkdirTemp(parent, name)
}

// tempDir is this process's directory. Those of processes that were killed
// before they could remove theirs are removed now: a living one holds a lock.
func tempDir() (string, error) {
	if shared.dir != "" {
		return shared.dir, nil
	}
	const prefix = "berth-testenv-"
	old, _ := filepath.Glob(filepath.Join(os.TempDir(), prefix+"*", "lock"))
	for _, name := range old {
		f, err := os.Open(name)
		if err != nil {
			continue
		}
		if syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil {
			os.RemoveAll(filepath.Dir(name))
		}
		f.Close()
	}
	dir, err := os.MkdirTemp("", prefix)
	if err != nil {
		return "", err
	}
	lock, err := os.Create(filepath.Join(dir, "lock"))
	if err != nil {
		return "", err
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return "", err
	}
	// Postgres runs as another user and has to get through to its own directory.
	if err := os.Chmod(dir, 0o711); err != nil {
		return "", err
	}
	shared.dir, shared.lock = dir, lock
	return dir, nil
}

// missing is the error of something that is not installed.
type missing struct{ what, get string }

func (m missing) Error() string { return m.what + " is not installed; to get it: " + m.get }

// require ends the test when err is not nil: a missing thing skips it, or
// fails it with CI set; any other error fails it.
func require(t testing.TB, err error) {
	t.Helper()
	var m missing
	switch {
	case err == nil:
	case errors.As(err, &m) && os.Getenv("CI") == "":
		t.Skip(err)
	default:
		t.Fatal(err)
	}
}

// hints says how to get the tools whose package does not have their name.
var hints = map[string]string{
	"ctr":      "apt-get install containerd",
	"promtool": "apt-get install prometheus",
	"dockerd":  "apt-get install docker.io",
	"docker":   "apt-get install docker.io",
	"node":     "apt-get install nodejs npm, or https://nodejs.org (20 or later)",
	"ldapadd":  "apt-get install ldap-utils",
	"mariadbd": "apt-get install mariadb-server",
}

// builtTools are those that scripts/tools.sh builds from their Go modules.
var builtTools = map[string]bool{"minio": true, "crane": true, "regctl": true, "cosign": true, "helm": true, "registry": true, "kustomize": true}

// Tool finds an executable: $BERTH_TEST_<NAME>, then .cache/tools of the
// project (where `make tools` puts what it builds), then PATH. When there is
// none, the test skips, or fails with CI set, and says how to get it.
func Tool(t testing.TB, name string) string {
	t.Helper()
	path, err := lookTool(name)
	require(t, err)
	return path
}

func lookTool(name string) (string, error) {
	env := "BERTH_TEST_" + strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
	if path := os.Getenv(env); path != "" {
		if _, err := exec.LookPath(path); err != nil {
			return "", fmt.Errorf("%s: %w", env, err)
		}
		return path, nil
	}
	if root, err := Root(); err == nil {
		if path, err := exec.LookPath(filepath.Join(root, ".cache", "tools", name)); err == nil {
			return path, nil
		}
	}
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	get := "make tools, or set " + env
	if h := hints[name]; h != "" {
		get += ", or " + h
	} else if !builtTools[name] {
		get += ", or apt-get install " + name
	}
	return "", missing{name, get}
}

// Root is the project's directory: the nearest one upwards with a go.mod.
func Root() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", errors.New("testenv: no go.mod in this directory or above")
		}
		dir = up
	}
}

// FreePort draws from these ports: below the ports that kernels take by themselves for
// connections and for listeners on port 0 (32768 and up on Linux, 49152 elsewhere), so that nobody gets one by chance
// between FreePort and the program that listens there.
const firstPort, lastPort = 10000, 32767

// portRange gives the first and last port that FreePort draws from: fewer where the kernel says that it begins earlier.
func portRange() (first, last int) {
	text, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
	if err != nil {
		return firstPort, lastPort // not Linux
	}
	var kernels int
	if _, err := fmt.Sscan(string(text), &kernels); err != nil || kernels < firstPort+1000 {
		return firstPort, lastPort // nothing is left to choose
	}
	return firstPort, min(lastPort, kernels-1)
}

// given are the ports that FreePort has given in this process.
var given sync.Map

// FreePort gives a loopback address, host:port, that was free a moment ago, and gives it only once.
func FreePort() (string, error) {
	var failed error
	first, last := portRange()
	for range 100 {
		addr := fmt.Sprintf("127.0.0.1:%d", first+rand.IntN(last-first+1))
		if _, again := given.LoadOrStore(addr, true); again {
			continue
		}
		l, err := net.Listen("tcp", addr)
		if err != nil {
			failed = err
			continue
		}
		return addr, l.Close()
	}
	return "", fmt.Errorf("testenv: no free port among 100 of %d to %d: %w", first, last, failed)
}

// NeedRoot skips a test that has to run as root (and fails it with CI set).
func NeedRoot(t testing.TB, why string) {
	t.Helper()
	if os.Geteuid() != 0 {
		require(t, missing{"root, which is needed to " + why + ",", "run the tests as root"})
	}
}
