package conformance

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"berth/testenv"
)

// world is a server with people: alice, member of the team core, mary, its
// maintainer, and bob, member of the team other.
type world struct {
	*Server
}

// passwords of the people.
func password(user string) string { return user + "-Password-1" }

func newWorld(t *testing.T, s *Server) *world {
	t.Helper()
	w := &world{Server: s}
	for user, member := range map[string]struct{ team, role string }{
		"alice": {"core", "member"}, "mary": {"core", "maintainer"}, "rita": {"core", "reader"}, "bob": {"other", "member"},
	} {
		if _, err := w.TryBerth(t, "team", "show", member.team); err != nil {
			w.Berth(t, "team", "create", member.team)
		}
		w.addUser(t, user)
		w.Berth(t, "team", "add-member", member.team, user, "--role", member.role)
	}
	return w
}

func (w *world) addUser(t *testing.T, user string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), clientTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, w.Bin, "user", "create", user, "--new-password-stdin")
	cmd.Env = append(os.Environ(), "BERTH_SERVER="+w.URL, "BERTH_USERNAME=admin", "BERTH_PASSWORD="+AdminPassword)
	cmd.Stdin = strings.NewReader(password(user) + "\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("berth user create %s: %v\n%s", user, err, out)
	}
}

// person is a client of one of the people.
func (w *world) person(t *testing.T, user string) *Client { return w.As(t, user, password(user)) }

// publish makes a repository public.
func (w *world) publish(t *testing.T, repo string) {
	t.Helper()
	w.Berth(t, "repo", "set", repo, "--visibility", "public")
}

// box is a place for a client to run in: a home of its own, so that no
// client sees another's credentials or those of the machine.
type box struct {
	t    *testing.T
	home string
	env  []string
}

func newBox(t *testing.T, env ...string) *box {
	t.Helper()
	// A short name: podman takes at most 50 characters.
	home, err := os.MkdirTemp("", "box")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(home); err != nil {
			t.Logf("removing a client's home: %v", err)
		}
	})
	b := &box{t: t, home: home, env: []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + home, "LC_ALL=C.UTF-8",
		"DOCKER_CONFIG=" + filepath.Join(home, "docker"),
		"XDG_RUNTIME_DIR=" + filepath.Join(home, "run"), "XDG_CONFIG_HOME=" + filepath.Join(home, "config"),
		"XDG_DATA_HOME=" + filepath.Join(home, "data"), "XDG_CACHE_HOME=" + filepath.Join(home, "cache"),
	}}
	for _, dir := range []string{"docker", "run", "config", "data", "cache"} {
		if err := os.MkdirAll(filepath.Join(home, dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	// Without it buildah refuses to start.
	if err := os.WriteFile(filepath.Join(home, "docker", "config.json"), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	// What podman keeps beside its store is in /run/libpod and /dev/shm, for all that run on the machine.
	conf := filepath.Join(home, "containers.conf")
	if err := os.WriteFile(conf, fmt.Appendf(nil, "[engine]\ntmp_dir = %q\nlock_type = \"file\"\n", filepath.Join(home, "podman")), 0o600); err != nil {
		t.Fatal(err)
	}
	b.env = append(b.env, "CONTAINERS_CONF="+conf)
	b.env = append(b.env, env...)
	return b
}

// try runs a program and gives what it printed on both streams.
func (b *box) try(program string, args ...string) (string, error) {
	b.t.Helper()
	return b.tryIn("", program, args...)
}

// tryIn is try with text on standard input.
func (b *box) tryIn(stdin, program string, args ...string) (string, error) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), clientTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir, cmd.Env = b.home, b.env
	cmd.Stdin = strings.NewReader(stdin)
	cmd.WaitDelay = 5 * time.Second
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// run is try for what has to work.
func (b *box) run(program string, args ...string) string {
	b.t.Helper()
	out, err := b.try(program, args...)
	if err != nil {
		b.t.Fatalf("%s %s: %v\n%s", filepath.Base(program), strings.Join(args, " "), err, tail(out, 40))
	}
	return out
}

// fails is try for what has to be refused, with all of the words in what the
// client prints; "a|b" is one of two.
func (b *box) fails(out string, err error, words ...string) {
	b.t.Helper()
	if err == nil {
		b.t.Errorf("the client succeeded, but has to be refused:\n%s", tail(out, 20))
	}
	for _, word := range words {
		if !slices.ContainsFunc(strings.Split(word, "|"), func(w string) bool {
			return strings.Contains(strings.ToLower(out), strings.ToLower(w))
		}) {
			b.t.Errorf("what the client prints does not say %q:\n%s", word, tail(out, 20))
		}
	}
}

// archive is an image as a file that `docker load` and its like read.
type archive struct {
	path  string
	image v1.Image
}

// digest of the image's configuration, which is its id in docker and podman.
func (a archive) id(t *testing.T) string {
	t.Helper()
	h, err := a.image.ConfigName()
	if err != nil {
		t.Fatal(err)
	}
	return h.String()
}

// newArchive makes an image of two random layers under a name.
func newArchive(t *testing.T, ref string) archive {
	t.Helper()
	img := newImage(t, "amd64", types.DockerLayer, 300_000, 5_000)
	a := archive{path: filepath.Join(t.TempDir(), "image.tar"), image: img}
	a.write(t, ref)
	return a
}

// write makes the file, which calls the image ref.
func (a archive) write(t *testing.T, ref string) {
	t.Helper()
	tag, err := name.NewTag(ref, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if err := tarball.WriteToFile(a.path, tag, a.image); err != nil {
		t.Fatal(err)
	}
}

func newImage(t *testing.T, arch string, layerType types.MediaType, sizes ...int64) v1.Image {
	t.Helper()
	img := empty.Image
	for _, size := range sizes {
		var file bytes.Buffer
		w := tar.NewWriter(&file)
		if err := w.WriteHeader(&tar.Header{Name: "random", Mode: 0o644, Size: size}); err != nil {
			t.Fatal(err)
		}
		_, _ = w.Write(random(int(size))) // a buffer takes all
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(file.Bytes())), nil },
			tarball.WithMediaType(layerType))
		if err != nil {
			t.Fatal(err)
		}
		if img, err = mutate.AppendLayers(img, layer); err != nil {
			t.Fatal(err)
		}
	}
	file, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	file = file.DeepCopy()
	file.OS, file.Architecture = "linux", arch
	file.Config.Cmd = []string{"/nothing"}
	if img, err = mutate.ConfigFile(img, file); err != nil {
		t.Fatal(err)
	}
	return img
}

// newMultiArch makes an image layout of an index with two architectures.
func newMultiArch(t *testing.T, tag string) (dir string, digest string) {
	t.Helper()
	var index v1.ImageIndex = mutate.IndexMediaType(empty.Index, typeIndex)
	for _, arch := range []string{"amd64", "arm64"} {
		img := mutate.MediaType(mutate.ConfigMediaType(newImage(t, arch, types.OCILayer, 20_000), typeConfig), typeManifest)
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}}})
	}
	dir = t.TempDir()
	path, err := layout.Write(dir, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	if err := path.AppendIndex(index, layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": tag})); err != nil {
		t.Fatal(err)
	}
	h, err := index.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return dir, h.String()
}

// daemons are started when the first test needs them and shared by all
// clients' tests of the process.
type daemons struct {
	t      *testing.T // outlives those that share
	mu     sync.Mutex
	docker string // the socket, unix://...
	ctrd   string
}

// dockerd starts a docker daemon of our own, with its data, state and socket
// in private directories, without touching the machine's network.
func (d *daemons) dockerd(t *testing.T) string {
	t.Helper()
	testenv.NeedRoot(t, "start dockerd")
	bin := testenv.Tool(t, "dockerd")
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.docker != "" {
		return d.docker
	}
	dir := d.dir()
	socket := filepath.Join(dir, "docker.sock")
	var problem error
	for _, driver := range []string{"", "vfs"} { // what the kernel offers here, else what always works
		args := []string{"--bridge=none", "--iptables=false", "--ip-forward=false", "--ip-masq=false",
			"--data-root=" + filepath.Join(dir, "data"+driver), "--exec-root=" + filepath.Join(dir, "exec"),
			"--pidfile=" + filepath.Join(dir, "docker.pid"), "--host=unix://" + socket, "--config-file=" + filepath.Join(dir, "none.json")}
		if driver != "" {
			args = append(args, "--storage-driver="+driver)
		}
		if err := os.WriteFile(filepath.Join(dir, "none.json"), []byte("{}"), 0o600); err != nil {
			t.Fatal(err)
		}
		// The socket is there before the daemon is: it answers, or hangs up, when that has come to be or failed.
		problem = d.start(exec.Command(bin, args...), socket, func() error {
			ctx, cancel := context.WithTimeout(context.Background(), clientTimeout)
			defer cancel()
			out, err := exec.CommandContext(ctx, testenv.Tool(t, "docker"), "-H", "unix://"+socket, "version").CombinedOutput()
			if err != nil {
				return fmt.Errorf("docker version: %w\n%s", err, out)
			}
			return nil
		})
		if problem == nil {
			d.docker = "unix://" + socket
			return d.docker
		}
	}
	t.Fatal(problem)
	return ""
}

// containerd starts a containerd of our own.
func (d *daemons) containerd(t *testing.T) string {
	t.Helper()
	testenv.NeedRoot(t, "start containerd")
	bin := testenv.Tool(t, "containerd")
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ctrd != "" {
		return d.ctrd
	}
	dir := d.dir()
	socket := filepath.Join(dir, "containerd.sock")
	config := fmt.Sprintf("version = 2\nroot = %q\nstate = %q\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\n  address = %q\n[ttrpc]\n  address = %q\n",
		filepath.Join(dir, "root"), filepath.Join(dir, "state"), socket, socket+".ttrpc")
	if err := os.WriteFile(filepath.Join(dir, "containerd.toml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := d.start(exec.Command(bin, "--config", filepath.Join(dir, "containerd.toml")), socket, func() error { return nil }); err != nil {
		t.Fatal(err)
	}
	d.ctrd = socket
	return socket
}

// dir makes a directory with a short name, as socket paths have a limit of 108 bytes.
func (d *daemons) dir() string {
	dir, err := os.MkdirTemp("", "berthd")
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() {
		// A network namespace that docker has mounted outlives it.
		if mounts, err := os.ReadFile("/proc/self/mounts"); err == nil {
			for line := range strings.Lines(string(mounts)) {
				if point := strings.Fields(line)[1]; strings.HasPrefix(point, dir+"/") {
					_ = syscall.Unmount(point, syscall.MNT_DETACH)
				}
			}
		}
		if err := os.RemoveAll(dir); err != nil {
			d.t.Logf("removing a daemon's data: %v", err)
		}
	})
	return dir
}

// start starts a daemon and waits until it listens on its socket and is ready. One that
// does not is ended, so that another can take its place.
func (d *daemons) start(cmd *exec.Cmd, socket string, ready func() error) error {
	log := &logBuffer{}
	cmd.Stdout, cmd.Stderr = log, log
	cmd.WaitDelay = 10 * time.Second // for what it has left running, with its output still open
	p, err := testenv.Start(cmd, syscall.SIGTERM)
	if err != nil {
		return err
	}
	stop := func() {
		p.Signal(syscall.SIGTERM)
		select {
		case <-p.Done():
		case <-time.After(30 * time.Second):
			_ = p.Stop(syscall.SIGKILL)
		}
	}
	if err = waitSocket(p, socket); err == nil {
		err = ready()
	}
	if err != nil {
		stop()
		return fmt.Errorf("%s: %w; the end of its log:\n%s", filepath.Base(cmd.Path), err, tail(log.String(), 30))
	}
	d.t.Cleanup(func() {
		if d.t.Failed() {
			d.t.Logf("log of %s, its last 15 lines:\n%s", filepath.Base(cmd.Path), tail(log.String(), 15))
		}
		stop()
	})
	return nil
}

// waitSocket waits until the process listens on a socket. On a machine that starts it for the first
// time and has much else to do this takes long.
func waitSocket(p *testenv.Process, path string) error {
	for deadline := time.Now().Add(3 * time.Minute); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if conn, err := net.Dial("unix", path); err == nil {
			return conn.Close()
		}
		select {
		case <-p.Done():
			return fmt.Errorf("it has ended: %v", p.Wait())
		default:
		}
	}
	return errors.New("it does not listen on its socket after 3 minutes")
}

// cutter is a TCP proxy in front of a server that breaks connections: each of
// the first cuts connections that has moved more than limit bytes is closed.
type cutter struct {
	Host string

	mu   sync.Mutex
	cuts int
	done int
}

func newCutter(t *testing.T, s *Server, cuts int, limit int64) *cutter {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	c := &cutter{Host: l.Addr().String(), cuts: cuts}
	go func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", s.Host)
			if err != nil {
				client.Close()
				continue
			}
			both := func() { client.Close(); server.Close() }
			go c.pump(server, client, limit, both)
			go c.pump(client, server, limit, both)
		}
	}()
	return c
}

func (c *cutter) pump(to, from net.Conn, limit int64, stop func()) {
	defer stop()
	buf := make([]byte, 32<<10)
	var moved int64
	for {
		n, err := from.Read(buf)
		if n > 0 {
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
		if moved += int64(n); moved > limit && c.cut() {
			return
		}
	}
}

func (c *cutter) cut() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.done == c.cuts {
		return false
	}
	c.done++
	return true
}

// Cuts tells how many connections were broken.
func (c *cutter) Cuts() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.done
}
