package testenv

import (
	"context"
	"crypto/rand"
	"errors"
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
	"github.com/jackc/pgx/v5/pgconn"
)

// Postgres gives the URL of a fresh, empty database, which is dropped when
// the test ends. The server is the one of BERTH_TEST_POSTGRES_URL (a superuser's
// URL), else one of this process's own.
func Postgres(t testing.TB) string {
	t.Helper()
	admin, err := PostgresServer()
	require(t, err)
	return createDatabase(t, admin, "")
}

// PostgresFrom is Postgres, with a copy of the database that fill has made in place of an
// empty one. The first caller on a server makes it, under the name; all others of the same
// name, in other processes too, get copies, which cost a fraction of making it again. So the
// name has to change with what fill does. fill closes its connections before it returns.
func PostgresFrom(t testing.TB, name string, fill func(ctx context.Context, url string) error) string {
	t.Helper()
	admin, err := PostgresServer()
	require(t, err)
	if err := makeTemplate(admin, name, fill); err != nil {
		t.Fatalf("making the database %s, of which tests get copies: %v", name, err)
	}
	return createDatabase(t, admin, " TEMPLATE "+name)
}

// postgresWait bounds what tests ask of the server that databases are made on.
const postgresWait = 5 * time.Minute

// createDatabase makes a database that is dropped when the test ends, and gives its URL.
func createDatabase(t testing.TB, admin, options string) string {
	t.Helper()
	name := "berth_test_" + strings.ToLower(rand.Text())
	run := func(sql string) error {
		ctx, cancel := context.WithTimeout(context.Background(), postgresWait)
		defer cancel()
		conn, err := pgx.Connect(ctx, admin)
		if err != nil {
			return err
		}
		defer conn.Close(ctx)
		_, err = conn.Exec(ctx, sql)
		return err
	}
	if err := run("CREATE DATABASE " + name + options); err != nil {
		t.Fatalf("creating a test database: %v", err)
	}
	t.Cleanup(func() {
		if err := run("DROP DATABASE " + name + " WITH (FORCE)"); err != nil {
			t.Errorf("dropping the test database: %v", err)
		}
	})
	url, err := databaseURL(admin, name)
	if err != nil {
		t.Fatalf("BERTH_TEST_POSTGRES_URL: %v", err)
	}
	return url
}

// templateLock is the key of the advisory lock under which templates are made: "test" in ASCII.
const templateLock = 0x74657374

// makeTemplate makes the database of a name unless it is there. It appears under its name
// when it is whole.
func makeTemplate(admin, name string, fill func(ctx context.Context, url string) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), postgresWait)
	defer cancel()
	conn, err := pgx.Connect(ctx, admin)
	if err != nil {
		return err
	}
	defer conn.Close(ctx) // which ends the lock
	there := func() (found bool, err error) {
		err = conn.QueryRow(ctx, "SELECT EXISTS (SELECT 1 FROM pg_database WHERE datname = $1)", name).Scan(&found)
		return found, err
	}
	if found, err := there(); err != nil || found {
		return err
	}
	if _, err := conn.Exec(ctx, "SELECT pg_advisory_lock($1)", templateLock); err != nil {
		return err
	}
	if found, err := there(); err != nil || found {
		return err
	}
	making := name + "_making"
	if _, err := conn.Exec(ctx, "DROP DATABASE IF EXISTS "+making+" WITH (FORCE)"); err != nil {
		return err
	}
	if _, err := conn.Exec(ctx, "CREATE DATABASE "+making); err != nil {
		return err
	}
	url, err := databaseURL(admin, making)
	if err != nil {
		return err
	}
	if err := fill(ctx, url); err != nil {
		return err
	}
	// A connection that is being closed may still be there for a moment, and forbids the new name.
	for {
		_, err = conn.Exec(ctx, "ALTER DATABASE "+making+" RENAME TO "+name)
		var pg *pgconn.PgError
		if !errors.As(err, &pg) || pg.Code != "55006" { // object_in_use
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// databaseURL is the URL of another database on the same server.
func databaseURL(server, name string) (string, error) {
	u, err := url.Parse(server)
	if err != nil {
		return "", err
	}
	u.Path = "/" + name
	return u.String(), nil
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
	dir, err := postgresDir()
	if err != nil {
		return "", err
	}
	c, err := newPostgresCluster(dir)
	if err != nil {
		return "", err
	}
	if err := c.init(); err != nil {
		return "", err
	}
	// Nothing here outlives the machine, so nothing waits for the disk.
	if err := c.start(syscall.SIGQUIT, "fsync=off", "full_page_writes=off", "max_connections=1000", "shared_buffers=64MB"); err != nil {
		return "", err
	}
	shared.stops = append(shared.stops, func() { _ = c.Process.Stop(syscall.SIGQUIT) })
	return c.Addr, nil
}

// postgresDir makes a directory of this process's own for a cluster.
func postgresDir() (string, error) {
	tmp, err := tempDir()
	if err != nil {
		return "", err
	}
	dir, err := os.MkdirTemp(tmp, "postgres-*")
	if err != nil {
		return "", err
	}
	owner, err := postgresUser()
	if err != nil {
		return "", err
	}
	if owner != nil {
		err = os.Chown(dir, int(owner.Uid), int(owner.Gid))
	}
	return dir, err
}

// A PostgresCluster is a Postgres of one test's own, to be stopped, broken and followed by another one.
type PostgresCluster struct {
	Addr    string   // host:port
	Process *Process // the running server

	dir      string // with the directory data, and the log
	bin      string
	owner    *syscall.Credential
	settings []string
}

func newPostgresCluster(dir string) (*PostgresCluster, error) {
	bin, err := postgresBin()
	if err != nil {
		return nil, err
	}
	owner, err := postgresUser()
	if err != nil {
		return nil, err
	}
	return &PostgresCluster{dir: dir, bin: bin, owner: owner}, nil
}

// StartPostgres starts a Postgres of the test's own, with settings such as "wal_level=replica". It
// ends with the test.
func StartPostgres(t testing.TB, settings ...string) *PostgresCluster {
	t.Helper()
	return startCluster(t, (*PostgresCluster).init, settings)
}

// StartStandby starts a Postgres that follows this one, by streaming replication, under the
// name of a standby as in synchronous_standby_names.
func (c *PostgresCluster) StartStandby(t testing.TB, name string, settings ...string) *PostgresCluster {
	t.Helper()
	host, port, _ := net.SplitHostPort(c.Addr)
	return startCluster(t, func(standby *PostgresCluster) error {
		return standby.run("pg_basebackup", "-D", standby.data(), "-X", "stream", "-c", "fast", "-R",
			"-d", fmt.Sprintf("host=%s port=%s user=postgres application_name=%s", host, port, name))
	}, settings)
}

func startCluster(t testing.TB, fill func(*PostgresCluster) error, settings []string) *PostgresCluster {
	t.Helper()
	dir, err := postgresDir()
	require(t, err)
	c, err := newPostgresCluster(dir)
	require(t, err)
	require(t, fill(c))
	require(t, c.start(syscall.SIGKILL, slices.Concat([]string{"shared_buffers=32MB", "max_connections=200"}, settings)...))
	t.Cleanup(func() {
		_ = c.Process.Thaw()
		_ = c.Process.Stop(syscall.SIGQUIT)
		if t.Failed() {
			text, _ := os.ReadFile(c.logName())
			t.Logf("the log of Postgres at %s:\n%s", c.Addr, text)
		}
		_ = os.RemoveAll(c.dir)
	})
	return c
}

// URL leads to the database postgres, as a superuser.
func (c *PostgresCluster) URL() string {
	return "postgres://postgres@" + c.Addr + "/postgres?sslmode=disable"
}

// Exec runs statements one after the other, as a superuser.
func (c *PostgresCluster) Exec(t testing.TB, statements ...string) {
	t.Helper()
	PostgresExec(t, c.URL(), statements...)
}

// PostgresExec runs statements one after the other in one session.
func PostgresExec(t testing.TB, database string, statements ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	conn, err := pgx.Connect(ctx, database)
	if err != nil {
		t.Fatalf("connecting to Postgres: %v", err)
	}
	defer conn.Close(ctx)
	for _, statement := range statements {
		if _, err := conn.Exec(ctx, statement); err != nil {
			t.Fatalf("%s: %v", statement, err)
		}
	}
}

// Restart starts a server that has ended, on the same port.
func (c *PostgresCluster) Restart(t testing.TB) {
	t.Helper()
	<-c.Process.Done()
	require(t, c.startAt(syscall.SIGKILL, c.Addr))
}

// Kill ends the server and all its processes at once, as a power failure does.
func (c *PostgresCluster) Kill() {
	_ = c.Process.signalTree(syscall.SIGKILL)
	<-c.Process.Done()
}

func (c *PostgresCluster) data() string    { return filepath.Join(c.dir, "data") }
func (c *PostgresCluster) logName() string { return filepath.Join(c.dir, "log") }

func (c *PostgresCluster) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(c.bin, name), args...)
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=" + c.bin + ":/usr/bin:/bin", "LC_ALL=C", "TZ=UTC"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: c.owner}
	return cmd
}

func (c *PostgresCluster) run(name string, args ...string) error {
	if out, err := c.command(name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", name, err, out)
	}
	return nil
}

func (c *PostgresCluster) init() error {
	return c.run("initdb", "-D", c.data(), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "-N")
}

// start runs the server on a free port. death is what it gets when this process dies.
func (c *PostgresCluster) start(death syscall.Signal, settings ...string) error {
	c.settings = settings
	for range 5 { // another process may take the port before Postgres does
		addr, err := FreePort()
		if err != nil {
			return err
		}
		if err = c.startAt(death, addr); err == nil || !strings.Contains(err.Error(), "Address already in use") {
			return err
		}
	}
	return fmt.Errorf("starting Postgres: found no free port")
}

func (c *PostgresCluster) startAt(death syscall.Signal, addr string) error {
	_, port, _ := net.SplitHostPort(addr)
	log, err := os.OpenFile(c.logName(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	args := []string{"-D", c.data(), "-h", "127.0.0.1", "-p", port, "-k", ""}
	for _, setting := range c.settings {
		args = append(args, "-c", setting)
	}
	cmd := c.command("postgres", args...)
	cmd.Stdout, cmd.Stderr = log, log
	p, err := Start(cmd, death)
	if err != nil {
		return err
	}
	c.Addr = addr
	err = await(p, func(ctx context.Context) error {
		conn, err := pgx.Connect(ctx, c.URL())
		if err == nil {
			err = conn.Close(ctx)
		}
		return err
	})
	if err != nil {
		_ = p.Stop(syscall.SIGQUIT)
		text, _ := os.ReadFile(c.logName())
		return fmt.Errorf("starting Postgres: %w\n%s", err, text)
	}
	c.Process = p
	return nil
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
		// A link may lead to the directory where the others are.
		if path, err = filepath.EvalSymlinks(path); err == nil {
			return filepath.Dir(path), nil
		}
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
