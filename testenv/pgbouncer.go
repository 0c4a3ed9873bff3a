package testenv

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"
)

// PgBouncer starts a pgbouncer in transaction mode before the database of a URL, with two connections to it,
// and gives the URL through it. It ends with the test.
func PgBouncer(t testing.TB, database string) string {
	t.Helper()
	bin := Tool(t, "pgbouncer")
	owner, err := postgresUser() // it refuses to run as root, too
	require(t, err)
	u, err := url.Parse(database)
	require(t, err)
	dir, err := postgresDir()
	require(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	addr, err := FreePort()
	require(t, err)
	_, port, _ := net.SplitHostPort(addr)
	password, _ := u.User.Password()
	users := fmt.Sprintf("%q %q\n", u.User.Username(), password)
	// Its defaults, but for what a test needs.
	config := fmt.Sprintf(`[databases]
* = host=%s port=%s user=%s
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = %s
unix_socket_dir =
auth_type = any
auth_file = %s
pool_mode = transaction
default_pool_size = 2
max_client_conn = 200
logfile = %s
`, u.Hostname(), u.Port(), u.User.Username(), port, filepath.Join(dir, "users"), filepath.Join(dir, "log"))
	require(t, os.WriteFile(filepath.Join(dir, "users"), []byte(users), 0o644))
	require(t, os.WriteFile(filepath.Join(dir, "pgbouncer.ini"), []byte(config), 0o644))
	cmd := exec.Command(bin, "-q", filepath.Join(dir, "pgbouncer.ini"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: owner}
	p, err := Start(cmd, syscall.SIGKILL)
	require(t, err)
	t.Cleanup(func() {
		_ = p.Stop(syscall.SIGKILL)
		if t.Failed() {
			text, _ := os.ReadFile(filepath.Join(dir, "log"))
			t.Logf("the log of pgbouncer:\n%s", text)
		}
	})
	through := *u
	through.Host = addr
	require(t, await(p, func(ctx context.Context) error {
		conn, err := pgx.Connect(ctx, through.String())
		if err == nil {
			err = conn.Close(ctx)
		}
		return err
	}))
	return through.String()
}
