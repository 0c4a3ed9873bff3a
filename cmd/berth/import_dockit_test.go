package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"database/sql"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"berth/auth"
	"berth/auth/token"
	"berth/imports"
	"berth/metadata"
	"berth/testenv"
)

// dockitSchema is what Dockit 0.4 makes, in words that SQLite and MySQL understand.
var dockitSchema = []string{
	"CREATE TABLE users (id bigint PRIMARY KEY, name longtext, username varchar(255), password longtext, admin boolean, active boolean, created_at datetime(3) NULL, updated_at datetime(3) NULL)",
	"CREATE TABLE `groups` (id bigint PRIMARY KEY, name longtext, active boolean, created_at datetime(3) NULL, updated_at datetime(3) NULL)",
	"CREATE TABLE user_groups (user_id bigint, group_id bigint, PRIMARY KEY (user_id, group_id))",
	"CREATE TABLE permissions (id bigint PRIMARY KEY, type varchar(191), class varchar(191), name varchar(191), action longtext, entity_id bigint, created_at datetime(3) NULL, updated_at datetime(3) NULL)",
	"CREATE TABLE pkis (id bigint PRIMARY KEY, type longtext, bits bigint, private longtext, public longtext, x509 longtext, not_before datetime(3) NULL, expires_at datetime(3) NULL, active boolean)",
}

// fillDockit makes a database as Dockit leaves it.
func fillDockit(t *testing.T, db *sql.DB) (kid string) {
	t.Helper()
	exec := func(query string, args ...any) {
		t.Helper()
		if _, err := db.Exec(query, args...); err != nil {
			t.Fatalf("%s: %v", query, err)
		}
	}
	for _, query := range dockitSchema {
		exec(query)
	}
	for id, u := range map[int]struct {
		name, password string
		admin, active  bool
	}{
		1: {"root", "roots password", true, true}, 2: {"alice", "alices password", false, true}, 3: {"bob", "bobs password", false, false},
		4: {"anonymous", "anonymous", false, true}, 5: {"a:b", "colon", false, true},
	} {
		hash, err := bcrypt.GenerateFromPassword([]byte(u.password), bcrypt.MinCost)
		if err != nil {
			t.Fatal(err)
		}
		exec("INSERT INTO users (id, name, username, password, admin, active) VALUES (?, ?, ?, ?, ?, ?)", id, "", u.name, hash, u.admin, u.active)
	}
	for id, g := range map[int]struct {
		name   string
		active bool
	}{11: {"devs", true}, 12: {"old", false}, 13: {"devs", true}} {
		exec("INSERT INTO `groups` (id, name, active) VALUES (?, ?, ?)", id, g.name, g.active)
	}
	for _, m := range [][2]int{{2, 11}, {3, 12}, {4, 11}, {3, 13}} {
		exec("INSERT INTO user_groups VALUES (?, ?)", m[0], m[1])
	}
	for id, p := range map[int]struct {
		kind, name, action string
		entity             int
	}{
		21: {"repository", "team/app", "push", 11}, 22: {"namespace", "foo", "pull", 2}, 23: {"repository", "library/x", "pull", 4},
		24: {"registry", "catalog", "admin", 2}, 25: {"repository", "team/old", "pull", 12},
	} {
		exec("INSERT INTO permissions (id, type, class, name, action, entity_id) VALUES (?, ?, '', ?, ?, ?)", id, p.kind, p.name, p.action, p.entity)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(31), Subject: pkix.Name{Organization: []string{"ekristen"}}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(2, 0, 0)}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private := string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}))
	exec("INSERT INTO pkis (id, type, bits, private, public, x509, active) VALUES (31, 'ec', 256, ?, '', ?, ?)",
		private, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate})), true)
	m, err := token.ParseMaterial([]byte(private))
	if err != nil {
		t.Fatal(err)
	}
	return m.KID()
}

// runBerth runs the command line and gives what it printed.
func runBerth(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	root := newRootCommand()
	root.SetOut(&out)
	root.SetErr(&errs)
	code = run(t.Context(), root, args, &errs)
	return code, out.String(), errs.String()
}

// testDockitImport imports into a new database and checks all that has to be there.
// Dockit, works when 18.
func testDockitImport(t *testing.T, source, kid string) {
	dir := t.TempDir()
	t.Setenv("BERTH_DATA_DIR", dir)
	must := func(args ...string) string {
		t.Helper()
		code, stdout, stderr := runBerth(t, args...)
		if code != 0 {
			t.Fatalf("%q: exit code %d\n%s%s", args, code, stdout, stderr)
		}
		return stdout
	}
	must("migrate")
	const did = "3 users %[1]s, 2 groups %[1]s, 3 memberships %[1]s, 3 grants %[1]s, 1 service %[1]s, 1 key %[1]s, 1 there already, 4 left alone.\n"
	if out := must("import", "dockit", source, "--service", theirRegistry, "--dry-run"); out != fmt.Sprintf(did, "would be made") {
		t.Errorf("the dry run says %q", out)
	}
	code, out, kept := runBerth(t, "import", "dockit", source, "--service", theirRegistry)
	if code != 0 || out != fmt.Sprintf(did, "made") {
		t.Errorf("%d %q %s", code, out, kept)
	}
	for _, word := range []string{"anonymous-pull", `"a:b"`, "the repository library/x", "admin on the registry catalog of alice"} {
		if !strings.Contains(kept, word) {
			t.Errorf("the report does not say %s:\n%s", word, kept)
		}
	}
	// Again, and nothing changes.
	if out := must("import", "dockit", source, "--service", theirRegistry); !strings.HasPrefix(out, "0 users made, ") || strings.Contains(out, "group") || strings.Contains(out, "grant") || strings.Contains(out, "key") {
		t.Errorf("the second import says %q", out)
	}

	ctx := t.Context()
	db, err := metadata.Open(ctx, metadata.Options{URL: "sqlite:" + filepath.Join(dir, "berth.db")})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	passwords := auth.NewPasswords(db, auth.NewHasher(1), nil)
	signIn := func(name, password string) (auth.Principal, error) {
		return passwords.Authenticate(ctx, auth.Credentials{Username: name, Password: password})
	}
	if p, err := signIn("root", "roots password"); err != nil || !p.IsAdmin() {
		t.Errorf("root: %+v, %v", p, err)
	}
	alice, err := signIn("alice", "alices password")
	if err != nil || alice.IsAdmin() {
		t.Errorf("alice: %+v, %v", alice, err)
	}
	if _, err := signIn("bob", "bobs password"); err == nil {
		t.Error("bob, who was not active, signs in")
	}
	policy := auth.NewPolicy(db, auth.PolicyOptions{})
	decisions, err := policy.ActionsForService(ctx, alice, metadata.Service{}, []string{"team/app", "foo/a/x", "foobar/x", "team/old", "library/x"}, func(string) auth.Actions { return auth.AllActions })
	if err != nil {
		t.Fatal(err)
	}
	for repo, want := range map[string]auth.Actions{"team/app": auth.Pull | auth.Push, "foo/a/x": auth.Pull, "foobar/x": 0, "team/old": 0, "library/x": 0} {
		if got := decisions[repo].Actions; got != want {
			t.Errorf("alice on %s: %v, want %v", repo, got, want)
		}
	}
	err = db.View(ctx, func(tx *metadata.Tx) error {
		s, err := tx.Service(ctx, theirRegistry)
		if err != nil || s.Issuer != "dockit" || s.Algorithm != "ES256" {
			t.Errorf("the service is %+v, %v", s, err)
		}
		g, err := tx.Group(ctx, "old")
		if err != nil || !g.Disabled {
			t.Errorf("the group that was not active is %+v, %v", g, err)
		}
		keys, err := tx.SigningKeys(ctx)
		if err != nil || len(keys) != 1 || keys[0].KID != kid || keys[0].Service != theirRegistry || !strings.Contains(keys[0].Certificates, "CERTIFICATE") {
			t.Errorf("keys %+v, %v", keys, err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

const theirRegistry = "registry.example.com"

func TestImportDockitSQLite(t *testing.T) {
	path := filepath.Join(t.TempDir(), "dockit.sqlite")
	db, err := sql.Open("sqlite", "file:"+path)
	if err != nil {
		t.Fatal(err)
	}
	kid := fillDockit(t, db)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	testDockitImport(t, path, kid)

	dir := t.TempDir()
	dump, empty := filepath.Join(dir, "dump.sql"), filepath.Join(dir, "empty.sqlite")
	if err := os.WriteFile(dump, []byte("-- MySQL dump 10.19\nCREATE TABLE users;\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	other, err := sql.Open("sqlite", "file:"+empty)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.Exec("CREATE TABLE something (id int)"); err != nil {
		t.Fatal(err)
	}
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
	for source, says := range map[string]string{
		dump:                                "is no SQLite file: a dump of MySQL has to be loaded into a server first",
		empty:                               "reading Dockit's database: ",
		filepath.Join(dir, "nowhere"):       "no such file",
		"mysql://":                          "is not of the form",
		"mysql://u:pass%zz@h/n":             "is not of the form",
		"mysql://u:secret(x":                "is not of the form",
		"mysql://u:secret@127.0.0.1:1/name": "reading Dockit's database",
	} {
		code, stdout, stderr := runBerth(t, "import", "dockit", source)
		if code != 1 || !strings.Contains(stderr, says) || strings.Contains(stdout+stderr, "secret") {
			t.Errorf("%s: exit code %d: %s", source, code, stderr)
		}
	}
	if code, _, _ := runBerth(t, "import", "dockit"); code != 2 {
		t.Errorf("without a source the exit code is %d, want 2", code)
	}
	t.Setenv("DOCKIT_SQL_DSN", "file:"+path)
	if code, _, stderr := runBerth(t, "import", "dockit", "--dry-run"); code != 0 {
		t.Errorf("with Dockit's own variables: %d %s", code, stderr)
	}
}

// The same from a real server of MySQL's kind.
func TestImportDockitMySQL(t *testing.T) {
	server, install := testenv.Tool(t, "mariadbd"), testenv.Tool(t, "mariadb-install-db")
	addr, err := testenv.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	host, port, _ := strings.Cut(addr, ":")
	dir, err := os.MkdirTemp("", "maria") // the path of a socket is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	user := []string{}
	if os.Geteuid() == 0 {
		user = append(user, "--user=root")
	}
	out, err := exec.Command(install, append(user, "--no-defaults", "--datadir="+filepath.Join(dir, "data"), "--auth-root-authentication-method=normal", "--skip-test-db")...).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	start := filepath.Join(dir, "start.sql")
	if err := os.WriteFile(start, []byte("CREATE DATABASE dockit;\nCREATE USER dockit@'%' IDENTIFIED BY 'p@ss';\nGRANT ALL ON dockit.* TO dockit@'%';\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(server, append([]string{"--no-defaults"}, append(user, "--datadir="+filepath.Join(dir, "data"), "--bind-address="+host, "--port="+port,
		"--socket="+filepath.Join(dir, "s"), "--pid-file="+filepath.Join(dir, "pid"), "--init-file="+start, "--skip-name-resolve")...)...)
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	proc, err := testenv.Start(cmd, syscall.SIGKILL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = proc.Stop(syscall.SIGTERM) })
	source := "mysql://dockit:p%40ss@" + addr + "/dockit"
	db, err := imports.OpenDockit(source)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for db.PingContext(ctx) != nil {
		select {
		case <-ctx.Done():
			_ = proc.Stop(syscall.SIGKILL)
			t.Fatalf("mariadbd does not answer:\n%s", log.String())
		case <-proc.Done():
			t.Fatalf("mariadbd ended:\n%s", log.String())
		case <-time.After(100 * time.Millisecond):
		}
	}
	kid := fillDockit(t, db)
	testDockitImport(t, source, kid)
	t.Setenv("DOCKIT_SQL_DIALECT", "mysql")
	t.Setenv("DOCKIT_SQL_DSN", "dockit:p@ss@tcp("+addr+")/dockit?parseTime=true")
	if code, _, stderr := runBerth(t, "import", "dockit", "--dry-run"); code != 0 {
		t.Errorf("with Dockit's own variables: %d %s", code, stderr)
	}
	t.Setenv("DOCKIT_SQL_DSN", "dockit:wrong secret@tcp("+addr+")/dockit")
	if code, _, stderr := runBerth(t, "import", "dockit", "--dry-run"); code != 1 || strings.Contains(stderr, "secret") {
		t.Errorf("with a wrong password: %d %s", code, stderr)
	}
}
