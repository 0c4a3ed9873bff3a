package main

import (
	"bufio"
	"context"
	"debug/buildinfo"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"berth/testenv"
)

// lab starts the servers of a run on loopback, with fresh data below dir, and
// stops them in the end.
type lab struct {
	dir      string
	programs programs
	postgres *process
	pgAddr   string
	minio    *process
	s3Addr   string
	stops    []func()
}

// programs are paths of binaries; "" is not there.
type programs struct {
	berth, distribution, zot, olareg, harbor, nginx, minio, pgbin string
}

const (
	s3User     = "berth-bench"
	s3Password = "berth-bench-secret"
)

func (l *lab) close() {
	for i := len(l.stops) - 1; i >= 0; i-- {
		l.stops[i]()
	}
	l.stops = nil
}

func (l *lab) mkdir(name string) (string, error) {
	dir := filepath.Join(l.dir, name)
	return dir, os.MkdirAll(dir, 0o755)
}

func environ(extra ...string) []string {
	return append([]string{"PATH=/usr/local/bin:/usr/bin:/bin", "HOME=/nonexistent", "LC_ALL=C", "TZ=UTC"}, extra...)
}

// startMinIO starts the one MinIO that all targets share, each with a bucket.
func (l *lab) startMinIO() error {
	if l.minio != nil {
		return nil
	}
	dir, err := l.mkdir("minio")
	if err != nil {
		return err
	}
	addr, err := testenv.FreePort()
	if err != nil {
		return err
	}
	cmd := exec.Command(l.programs.minio, "server", "--quiet", "--address", addr, filepath.Join(dir, "data"))
	cmd.Env = environ("HOME="+dir, "MINIO_ROOT_USER="+s3User, "MINIO_ROOT_PASSWORD="+s3Password,
		"MINIO_PROMETHEUS_AUTH_TYPE=public", "MINIO_BROWSER=off", "MINIO_UPDATE=off")
	p, err := start(dir, "minio", cmd)
	if err != nil {
		return err
	}
	l.stops = append(l.stops, func() { p.stop(syscall.SIGTERM) })
	l.minio, l.s3Addr = p, addr
	return p.await(func() error { return getOK("http://" + addr + "/minio/health/ready") })
}

func getOK(url string) error {
	hc := http.Client{Timeout: 5 * time.Second}
	res, err := hc.Get(url)
	if err != nil {
		return err
	}
	res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", url, res.Status)
	}
	return nil
}

func (l *lab) bucket(ctx context.Context, name string) error {
	c, err := minio.New(l.s3Addr, &minio.Options{Creds: credentials.NewStaticV4(s3User, s3Password, ""), Region: "us-east-1"})
	if err != nil {
		return err
	}
	return c.MakeBucket(ctx, name, minio.MakeBucketOptions{Region: "us-east-1"})
}

// s3Count is what MinIO has counted for a bucket.
type s3Count struct {
	Requests map[string]float64 `json:"requests"` // by operation
	In       float64            `json:"in"`       // bytes received
	Out      float64            `json:"out"`      // bytes sent
}

var s3Line = regexp.MustCompile(`^(minio_bucket_api_total|minio_bucket_api_traffic_received_bytes|minio_bucket_api_traffic_sent_bytes)\{(.*)\} ([0-9.e+]+)$`)
var s3Name = regexp.MustCompile(`name="([A-Za-z0-9]+)"`)

// s3Metrics reads MinIO's own metrics of a bucket, which are not cached.
func (l *lab) s3Metrics(bucket string) (s3Count, error) {
	count := s3Count{Requests: map[string]float64{}}
	res, err := http.Get("http://" + l.s3Addr + "/minio/metrics/v3/bucket/api/" + bucket)
	if err != nil {
		return count, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return count, fmt.Errorf("MinIO's metrics: %s", res.Status)
	}
	lines := bufio.NewScanner(res.Body)
	for lines.Scan() {
		m := s3Line.FindStringSubmatch(lines.Text())
		if m == nil {
			continue
		}
		n, err := strconv.ParseFloat(m[3], 64)
		if err != nil {
			return count, err
		}
		switch m[1] {
		case "minio_bucket_api_total":
			if name := s3Name.FindStringSubmatch(m[2]); name != nil {
				count.Requests[name[1]] += n
			}
		case "minio_bucket_api_traffic_sent_bytes": // MinIO has the two the wrong way round here
			count.In += n
		default:
			count.Out += n
		}
	}
	return count, lines.Err()
}

func (c s3Count) minus(o s3Count) s3Count {
	d := s3Count{Requests: map[string]float64{}, In: c.In - o.In, Out: c.Out - o.Out}
	for k, v := range c.Requests {
		if v -= o.Requests[k]; v > 0 {
			d.Requests[k] = v
		}
	}
	return d
}

func (c s3Count) total() float64 {
	sum := 0.0
	for _, v := range c.Requests {
		sum += v
	}
	return sum
}

// startPostgres starts a server as its packagers set it up: fsync on, 128 MB of
// shared buffers.
func (l *lab) startPostgres() error {
	if l.postgres != nil {
		return nil
	}
	dir, err := l.mkdir("postgres")
	if err != nil {
		return err
	}
	var owner *syscall.Credential // Postgres refuses root
	if os.Geteuid() == 0 {
		for _, name := range []string{"postgres", "nobody"} {
			if u, err := user.Lookup(name); err == nil {
				uid, _ := strconv.ParseUint(u.Uid, 10, 32)
				gid, _ := strconv.ParseUint(u.Gid, 10, 32)
				owner = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
				break
			}
		}
		if owner == nil {
			return fmt.Errorf("no system user for Postgres, which refuses to run as root: adduser --system postgres")
		}
		if err := os.Chown(dir, int(owner.Uid), int(owner.Gid)); err != nil {
			return err
		}
	}
	command := func(name string, args ...string) *exec.Cmd {
		cmd := exec.Command(filepath.Join(l.programs.pgbin, name), args...)
		cmd.Dir, cmd.Env = "/", environ("HOME="+dir)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: owner}
		return cmd
	}
	data := filepath.Join(dir, "data")
	if out, err := command("initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C").CombinedOutput(); err != nil {
		return fmt.Errorf("initdb: %w\n%s", err, out)
	}
	addr, err := testenv.FreePort()
	if err != nil {
		return err
	}
	_, port, _ := net.SplitHostPort(addr)
	p, err := start(dir, "postgres", command("postgres", "-D", data, "-h", "127.0.0.1", "-p", port, "-k", "", "-c", "max_connections=200"))
	if err != nil {
		return err
	}
	l.stops = append(l.stops, func() { p.stop(syscall.SIGINT) })
	l.postgres, l.pgAddr = p, addr
	return p.await(func() error { return l.sql(context.Background(), "postgres", "SELECT 1") })
}

func (l *lab) pgURL(database string) string {
	return "postgres://postgres@" + l.pgAddr + "/" + database + "?sslmode=disable"
}

func (l *lab) sql(ctx context.Context, database, text string) error {
	conn, err := pgx.Connect(ctx, l.pgURL(database))
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, text)
	return err
}

// serve keeps a server of a target: how it starts, and starts again on the
// same port with the same data.
type serve struct {
	lab     *lab
	name    string
	addr    string
	command func(addr string) *exec.Cmd
	ready   string // path that answers when it serves
	p       *process
	stopped bool
}

func (l *lab) serve(name, ready string, command func(addr string) *exec.Cmd) (*serve, error) {
	addr, err := testenv.FreePort()
	if err != nil {
		return nil, err
	}
	s := &serve{lab: l, name: name, addr: addr, command: command, ready: ready}
	l.stops = append(l.stops, s.stop)
	return s, s.start()
}

func (s *serve) start() error {
	p, err := start(s.lab.dir, s.name, s.command(s.addr))
	if err != nil {
		return err
	}
	s.p, s.stopped = p, false
	return p.await(func() error {
		c, err := newClient(context.Background(), access{url: "http://" + s.addr})
		if err != nil {
			return err
		}
		defer c.close()
		res, err := c.do(request{method: "GET", target: s.ready})
		if err == nil && res.status >= 500 {
			return fmt.Errorf("%s: status %d", s.ready, res.status)
		}
		return err
	})
}

func (s *serve) stop() {
	if !s.stopped && s.p != nil {
		s.p.stop(syscall.SIGTERM)
		s.stopped = true
	}
}

func s3URL(addr, bucket string) string {
	q := url.Values{"endpoint": {"http://" + addr}, "region": {"us-east-1"}, "path_style": {"true"}}
	return "s3://" + bucket + "/?" + q.Encode()
}

// version asks a program for its version: the first line of what it prints. A
// program that does not know says at least which module it was built from.
func version(path string, args ...string) string {
	out, err := exec.Command(path, args...).CombinedOutput()
	line, _, _ := strings.Cut(string(out), "\n")
	line = strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(line), path)) // some print their path
	if info, builtErr := buildinfo.ReadFile(path); builtErr == nil && (err != nil || line == "" || line[0] == '{' || strings.Contains(line, "(devel)")) {
		line = info.Main.Path + " " + info.Main.Version
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				line += " " + s.Value[:min(7, len(s.Value))]
			}
		}
	}
	if line == "" {
		return "unknown"
	}
	return line
}
