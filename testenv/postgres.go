package testenv

import (
	"context"
	"crypto/rand"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// Postgres gives the URL of a fresh, empty database, which is dropped when
// the test ends. The server is the one of BERTH_TEST_POSTGRES_URL (a superuser's
// URL), else one of this process's own.
func Postgres(t testing.TB) string {
	t.Helper()
	admin, err := PostgresServer()
	require(t, err)
	name := "berth_test_" + strings.ToLower(rand.Text())
	run := func(sql string) error {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
		defer cancel()
		conn, err := pgx.Connect(ctx, admin)
		if err != nil {
			return err
		}
		defer conn.Close(ctx)
		_, err = conn.Exec(ctx, sql)
		return err
	}
	if err := run("CREATE DATABASE " + name); err != nil {
		t.Fatalf("creating a test database: %v", err)
	}
	t.Cleanup(func() {
		if err := run("DROP DATABASE " + name + " WITH (FORCE)"); err != nil {
			t.Errorf("dropping the test database: %v", err)
		}
	})
	u, err := url.Parse(admin)
	if err != nil {
		t.Fatalf("BERTH_TEST_POSTGRES_URL: %v", err)
	}
	u.Path = "/" + name
	return u.String()
}

// PostgresServer gives the URL of a superuser on the server that [Postgres]
// uses, and starts it when need be.
func PostgresServer() (string, error) {
	if url := os.Getenv("BERTH_TEST_POSTGRES_URL"); url != "" {
		return url, nil
	}
	addr, err := shared.postgres.start(startPostgres)
	return "postgres://postgres@" + addr + "/postgres?sslmode=disable", err
}

func startPostgres() (string, error) {
	bin, err := postgresBin()
	if err != nil {
		return "", err
	}
	owner, err := postgresUser()
	if err != nil {
		return "", err
	}
	tmp, err := tempDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(tmp, "postgres")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", err
	}
	if owner != nil {
		if err := os.Chown(dir, int(owner.Uid), int(owner.Gid)); err != nil {
			return "", err
		}
	}
	command := func(name string, args ...string) *exec.Cmd {
		cmd := exec.Command(filepath.Join(bin, name), args...)
		cmd.Dir = "/"
		cmd.Env = []string{"PATH=" + bin + ":/usr/bin:/bin", "LC_ALL=C", "TZ=UTC"}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: owner}
		return cmd
	}
	data := filepath.Join(dir, "data")
	initdb := command("initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "-N")
	if out, err := initdb.CombinedOutput(); err != nil {
		return "", fmt.Errorf("initdb: %w\n%s", err, out)
	}
	for range 5 { // another process may take the port before Postgres does
		addr, err := FreePort()
		if err != nil {
			return "", err
		}
		_, port, _ := net.SplitHostPort(addr)
		log, err := os.Create(filepath.Join(tmp, "postgres.log"))
		if err != nil {
			return "", err
		}
		// Nothing here outlives the machine, so nothing waits for the disk.
		cmd := command("postgres", "-D", data, "-h", "127.0.0.1", "-p", port, "-k", "",
			"-c", "fsync=off", "-c", "full_page_writes=off", "-c", "max_connections=1000", "-c", "shared_buffers=64MB")
		cmd.Stdout, cmd.Stderr = log, log
		p, err := Start(cmd, syscall.SIGQUIT)
		log.Close()
		if err != nil {
			return "", err
		}
		url := "postgres://postgres@" + addr + "/postgres?sslmode=disable"
		err = await(p, func(ctx context.Context) error {
			conn, err := pgx.Connect(ctx, url)
			if err == nil {
				err = conn.Close(ctx)
			}
			return err
		})
		if err == nil {
			shared.stops = append(shared.stops, func() { _ = p.Stop(syscall.SIGQUIT) })
			return addr, nil
		}
		_ = p.Stop(syscall.SIGQUIT)
		text, _ := os.ReadFile(log.Name())
		if !strings.Contains(string(text), "Address already in use") {
			return "", fmt.Errorf("starting Postgres: %w\n%s", err, text)
		}
	}
	return "", fmt.Errorf("starting Postgres: found no free port")
}

// await asks ready until it says yes; it gives up after three minutes, or when the process ends.
func await(p *Process, ready func(context.Context) error) error {
	deadline := time.Now().Add(3 * time.Minute)
	for {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		err := ready(ctx)
		cancel()
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("not ready after three minutes: %w", err)
		}
		select {
		case <-p.Done():
			return fmt.Errorf("the process ended: %v", p.Wait())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// postgresBin finds the directory of Postgres's programs: $BERTH_TEST_PGBIN,
// PATH, or where Debian puts the newest version.
func postgresBin() (string, error) {
	if dir := os.Getenv("BERTH_TEST_PGBIN"); dir != "" {
		return dir, nil
	}
	if path, err := exec.LookPath("initdb"); err == nil {
		return filepath.Dir(path), nil
	}
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if len(found) == 0 {
		return "", missing{"the Postgres server", "apt-get install postgresql, or set BERTH_TEST_POSTGRES_URL to a superuser's URL"}
	}
	version := func(path string) int {
		n, _ := strconv.Atoi(strings.Split(path, "/")[4])
		return n
	}
	slices.SortFunc(found, func(a, b string) int { return version(b) - version(a) })
	return filepath.Dir(found[0]), nil
}

// postgresUser is whom Postgres runs as: it refuses root, so root becomes the
// system user postgres, or nobody. nil is the user of this process.
func postgresUser() (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
		gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
		if err1 == nil && err2 == nil {
			return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
		}
	}
	return nil, missing{"a system user for Postgres, which refuses to run as root", "adduser --system postgres"}
}
