package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// access is how to reach a registry.
type access struct{ url, user, password string }

// target is a registry under test.
type target struct {
	name    string
	version string
	access
	durable  string // what is on the disk when a push is acknowledged: synced, or words that say what is not
	s3       bool   // bytes are in MinIO
	bucket   string
	redirect access    // the same data served by redirects; url "" when there is none
	server   *serve    // nil for a registry given by URL
	usesPG   bool      // facts are in Postgres
	files    string    // nginx: where what is "pushed" is put as a file
	busy     time.Time // when the last workload but idle ended
	without  []string  // workloads that it cannot do, or that say nothing new of it
}

// synced is the durable of a target whose acknowledged pushes survive a power failure.
const synced = "synced"

// targetKinds lists the targets that the program can start, in the order of the tables.
func targetKinds() []string {
	return []string{"berth", "berth-s3", "distribution", "distribution-s3", "zot", "zot-commit", "zot-s3", "olareg", "harbor", "nginx"}
}

// missing is the error of a target whose program is not here: it says where to get it.
type missing string

func (m missing) Error() string {
	switch m {
	case "minio":
		return "MinIO was not found: scripts/tools.sh minio builds it from its Go module, or give its path with -minio"
	case "postgres":
		return "the Postgres server was not found: install the package postgresql, or give the directory of initdb and postgres with -pgbin"
	case "distribution":
		return "registry was not found, CNCF distribution v3: scripts/tools.sh registry builds it from its Go module, or give its path with -distribution"
	case "zot":
		return "zot was not found: get a binary or build ./cmd/zot of https://github.com/project-zot/zot, and give its path with -zot"
	case "olareg":
		return "olareg was not found: build ./cmd/olareg of https://github.com/olareg/olareg, and give its path with -olareg"
	case "harbor":
		return "Harbor's registry is not looked for: give its path with -harbor"
	}
	return string(m) + " was not found: install it with the system's packages, or give its path with -" + string(m)
}

// open starts a target. The error is a missing when a program for it is not there.
func (l *lab) open(ctx context.Context, kind string) (*target, error) {
	dir, err := l.mkdir(kind)
	if err != nil {
		return nil, err
	}
	base, variant, _ := strings.Cut(kind, "-")
	onS3 := variant == "s3"
	path := map[string]string{"berth": l.programs.berth, "distribution": l.programs.distribution, "zot": l.programs.zot,
		"olareg": l.programs.olareg, "harbor": l.programs.harbor, "nginx": l.programs.nginx}[base]
	if path == "" {
		return nil, missing(base)
	}
	t := &target{name: kind, s3: onS3}
	if onS3 {
		if l.programs.minio == "" {
			return nil, missing("minio")
		}
		if err := l.startMinIO(); err != nil {
			return nil, err
		}
		t.bucket = "bench-" + base
		if err := l.bucket(ctx, t.bucket); err != nil {
			return nil, err
		}
	}
	switch base {
	case "berth":
		err = l.openBerth(ctx, t, path, dir)
	case "distribution", "harbor":
		err = l.openDistribution(t, path, dir)
	case "zot":
		err = l.openZot(t, path, dir, variant == "commit")
	case "olareg":
		t.version, t.durable = version(path, "version"), "nothing is synced"
		t.without = []string{"catalog", "tricklers", "crowd"}
		t.server, err = l.serve(kind, "/v2/", func(addr string) *exec.Cmd {
			_, port, _ := strings.Cut(addr, ":")
			cmd := exec.Command(path, "serve", "--dir", dir, "--port", port)
			cmd.Env = environ()
			return cmd
		})
	case "nginx":
		err = l.openNginx(t, path, dir)
	}
	if err != nil {
		return nil, fmt.Errorf("target %s: %w", kind, err)
	}
	t.url = "http://" + t.server.addr
	return t, nil
}

// The team and the user that pushes and pulls: a member, no administrator. A
// guest is in no team and may pull a few repositories.
const (
	team          = "bench"
	benchUser     = "bencher"
	benchPassword = "bencher-password"
	guestUser     = "guest"
	adminPassword = "admin-password"
)

func (l *lab) openBerth(ctx context.Context, t *target, path, dir string) error {
	t.version, t.durable = version(path, "version"), synced
	env := environ("BERTH_DATA_DIR="+dir, "BERTH_ADMIN_PASSWORD="+adminPassword)
	if t.s3 {
		if l.programs.pgbin == "" {
			return missing("postgres")
		}
		if err := l.startPostgres(); err != nil {
			return err
		}
		if err := l.sql(ctx, "postgres", "CREATE DATABASE berth"); err != nil {
			return err
		}
		t.usesPG = true
		env = append(env, "BERTH_DATABASE_URL="+l.pgURL("berth"), "BERTH_STORAGE_URL="+s3URL(l.s3Addr, t.bucket),
			"AWS_ACCESS_KEY_ID="+s3User, "AWS_SECRET_ACCESS_KEY="+s3Password)
	}
	command := func(extra ...string) func(string) *exec.Cmd {
		return func(addr string) *exec.Cmd {
			cmd := exec.Command(path, "serve")
			cmd.Env = append(append(slices.Clone(env), "BERTH_LISTEN="+addr), extra...)
			return cmd
		}
	}
	var err error
	if t.server, err = l.serve(t.name, "/readyz", command()); err != nil {
		return err
	}
	t.user, t.password = benchUser, benchPassword
	if err := berthPeople(ctx, "http://"+t.server.addr); err != nil {
		return err
	}
	if t.s3 {
		s, err := l.serve(t.name+"-redirect", "/readyz", command("BERTH_STORAGE_REDIRECT=true"))
		if err != nil {
			return err
		}
		// By another name than MinIO's: to its own host Berth redirects nobody who has credentials.
		t.redirect = access{"http://" + strings.Replace(s.addr, "127.0.0.1", "localhost", 1), t.user, t.password}
	}
	return nil
}

// berthPeople makes the team, its member and the guest through the management API.
func berthPeople(ctx context.Context, url string) error {
	c, err := admin(ctx, url)
	if err != nil {
		return err
	}
	defer c.close()
	for _, q := range []struct {
		method, path string
		body         any
	}{
		{"POST", "/users", map[string]string{"name": benchUser, "password": benchPassword}},
		{"POST", "/teams", map[string]string{"name": team}},
		{"PUT", "/teams/" + team + "/members/" + benchUser, map[string]string{"role": "member"}},
		{"POST", "/users", map[string]string{"name": guestUser, "password": benchPassword}},
		{"PUT", "/users/" + guestUser + "/grants/" + team + "%2Fgrowth-*", map[string][]string{"actions": {"pull"}}},
	} {
		if err := c.manage(q.method, q.path, q.body, nil); err != nil {
			return err
		}
	}
	return nil
}

// admin signs the administrator of a Berth in to its management API.
func admin(ctx context.Context, url string) (*client, error) {
	c, err := newClient(ctx, access{url, "admin", adminPassword})
	if err != nil {
		return nil, err
	}
	if err := c.signIn("berth:api:*"); err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

// manage calls Berth's management API, with a JSON body unless it is nil, and
// decodes the answer into out unless that is nil.
func (c *client) manage(method, path string, body, out any) error {
	q := request{method: method, target: "/api/v1" + path, keep: true}
	if body != nil {
		raw, err := json.Marshal(body)
		if err != nil {
			return err
		}
		q.header, q.body = "Content-Type: application/json\r\n", wrap(raw)
	}
	res, err := c.call(q, 200, 201, 204)
	if err != nil || out == nil {
		return err
	}
	return json.Unmarshal(res.body, out)
}

// openDistribution runs CNCF distribution, or Harbor's registry, which is one,
// with the settings of its own image.
func (l *lab) openDistribution(t *target, path, dir string) error {
	t.version, t.durable = version(path, "--version"), synced
	config := func(name, addr string, redirect bool) (string, error) {
		storage := fmt.Sprintf("  filesystem:\n    rootdirectory: %s\n", filepath.Join(dir, "data"))
		if t.s3 {
			storage = fmt.Sprintf("  s3:\n    accesskey: %s\n    secretkey: %s\n    region: us-east-1\n    regionendpoint: http://%s\n    bucket: %s\n    secure: false\n    forcepathstyle: true\n  redirect:\n    disable: %v\n",
				s3User, s3Password, l.s3Addr, t.bucket, !redirect)
		}
		text := "version: 0.1\nlog:\n  fields:\n    service: registry\nstorage:\n  cache:\n    blobdescriptor: inmemory\n" + storage +
			"http:\n  addr: " + addr + "\n  headers:\n    X-Content-Type-Options: [nosniff]\n"
		file := filepath.Join(dir, name+".yml")
		return file, os.WriteFile(file, []byte(text), 0o600)
	}
	command := func(name string, redirect bool) func(string) *exec.Cmd {
		return func(addr string) *exec.Cmd {
			file, err := config(name, addr, redirect)
			if err != nil {
				file = err.Error() // the registry will say that there is no such file
			}
			cmd := exec.Command(path, "serve", file)
			cmd.Env = environ("OTEL_TRACES_EXPORTER=none")
			return cmd
		}
	}
	var err error
	if t.server, err = l.serve(t.name, "/v2/", command("config", false)); err != nil || !t.s3 {
		return err
	}
	s, err := l.serve(t.name+"-redirect", "/v2/", command("redirect", true))
	if err == nil {
		t.redirect = access{url: "http://" + s.addr}
	}
	return err
}

// openZot runs zot with its defaults, or, with commit, so that it syncs: then only pushes say something new.
func (l *lab) openZot(t *target, path, dir string, commit bool) error {
	t.version, t.durable, t.without = version(path, "--version"), "nothing is synced", []string{"tricklers", "crowd"}
	if t.s3 {
		t.durable = synced                     // by MinIO
		t.without = append(t.without, "mount") // which it refuses without dedupe
	}
	if commit {
		t.durable = synced
		for _, w := range workloads() {
			if !slices.Contains([]string{"push-stream", "push-stream-8", "push-images", "mount", "tags-push"}, w.name) {
				t.without = append(t.without, w.name)
			}
		}
	}
	command := func(addr string) *exec.Cmd {
		host, port, _ := strings.Cut(addr, ":")
		storage := map[string]any{"rootDirectory": filepath.Join(dir, "data"), "commit": commit}
		if t.s3 {
			storage["dedupe"] = false
			storage["storageDriver"] = map[string]any{"name": "s3", "rootdirectory": "/zot", "region": "us-east-1", "regionendpoint": "http://" + l.s3Addr,
				"bucket": t.bucket, "accesskey": s3User, "secretkey": s3Password, "secure": false, "skipverify": false, "forcepathstyle": true}
		}
		raw, err := json.Marshal(map[string]any{"distSpecVersion": "1.1.1", "storage": storage,
			"http": map[string]any{"address": host, "port": port}, "log": map[string]any{"level": "info"}})
		file := filepath.Join(dir, "config.json")
		if err == nil {
			err = os.WriteFile(file, raw, 0o600)
		}
		if err != nil {
			file = err.Error()
		}
		cmd := exec.Command(path, "serve", file)
		cmd.Env = environ()
		return cmd
	}
	var err error
	t.server, err = l.serve(t.name, "/v2/", command)
	return err
}

// openNginx serves files at the paths where a registry has them: what the
// machine gives without a registry.
func (l *lab) openNginx(t *target, path, dir string) error {
	t.version = strings.TrimPrefix(version(path, "-v"), "nginx version: ")
	t.durable = "only reads"
	t.files = filepath.Join(dir, "files")
	if err := os.MkdirAll(filepath.Join(t.files, "v2"), 0o755); err != nil {
		return err
	}
	account := ""
	if os.Geteuid() == 0 {
		account = "user root;\n"
	}
	command := func(addr string) *exec.Cmd {
		text := account + `daemon off; worker_processes 2; pid ` + dir + `/pid; error_log stderr;
events { worker_connections 1024; }
http {
	access_log off; sendfile on; tcp_nopush on; keepalive_requests 100000000; default_type application/octet-stream;
	client_body_temp_path ` + dir + `/1; proxy_temp_path ` + dir + `/2; fastcgi_temp_path ` + dir + `/3; uwsgi_temp_path ` + dir + `/4; scgi_temp_path ` + dir + `/5;
	open_file_cache max=10000 inactive=60s;
	server { listen ` + addr + `; root ` + t.files + `; location = /v2/ { return 200 "{}"; } }
}
`
		file := filepath.Join(dir, "nginx.conf")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			file = err.Error()
		}
		cmd := exec.Command(path, "-p", dir, "-c", file)
		cmd.Env = environ()
		return cmd
	}
	var err error
	t.server, err = l.serve(t.name, "/v2/", command)
	return err
}
