package conformance

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/types"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content/memory"
	"oras.land/oras-go/v2/errdef"
	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"

	"berth/testenv"
)

// TestClients runs the programs that people use against every combination of
// database and store.
func TestClients(t *testing.T) {
	d := &daemons{t: t}
	t.Run("variants", func(t *testing.T) {
		for _, v := range Variants() {
			t.Run(v.String(), func(t *testing.T) {
				t.Parallel()
				w := newWorld(t, NewBackend(t, v).Start(t))
				for _, client := range []struct {
					name string
					run  func(*testing.T, *world, *daemons)
				}{
					{"docker", testDocker},
					{"docker multi-arch", testDockerMultiArch},
					{"berth's own image", testOwnImage},
					{"podman", testPodman},
					{"buildah", testBuildah},
					{"skopeo", testSkopeo},
					{"ctr", testCtr},
					{"crane", testCrane},
					{"regctl", testRegctl},
					{"oras-go", testORAS},
					{"cosign", testCosign},
					{"helm", testHelm},
					{"interrupted", testClientsInterrupted},
					{"tokens", testTokens},
					{"visibility", testVisibility},
				} {
					t.Run(client.name, func(t *testing.T) {
						w.watch(t)
						client.run(t, w, d)
					})
				}
			})
		}
	})
}

// A tool is a client that pushes and pulls images by name.
type tool struct {
	login  func(user, password string) (string, error)
	logout func()
	push   func(a archive, ref string) (string, error) // a fresh copy of the image from the archive
	pull   func(ref string) (string, error)            // forgets what it has of ref first
	mute   bool                                        // prints the status of a refusal, never its message
}

// everyday is what every such client goes through.
func everyday(t *testing.T, w *world, b *box, name string, c tool) {
	repo := unique("core/" + name)
	ref := func(tag string) string { return w.Host + "/" + repo + ":" + tag }
	mine := newArchive(t, "example.com/mine:1")
	changed := newArchive(t, "example.com/changed:1")

	// Signing in.
	out, err := c.login("alice", "wrong")
	b.fails(out, err)
	must := func(what string, out string, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v\n%s", what, err, tail(out, 40))
		}
	}
	out, err = c.login("alice", password("alice"))
	must("login", out, err)

	// Push, and push again.
	out, err = c.push(mine, ref("1.0"))
	must("push", out, err)
	digest := w.person(t, "alice").Do("HEAD", "/v2/"+repo+"/manifests/1.0", nil).Want(200).Header.Get("Docker-Content-Digest")
	out, err = c.push(mine, ref("1.0"))
	must("push again", out, err)
	w.person(t, "alice").Do("HEAD", "/v2/"+repo+"/manifests/1.0", nil).Want(200).WantHeader("Docker-Content-Digest", digest)

	// Another image under the same tag is refused, and the client says why.
	out, err = c.push(changed, ref("1.0"))
	if c.mute {
		b.fails(out, err, "409")
	} else {
		b.fails(out, err, "immutable", "1.0")
	}
	w.person(t, "alice").Do("HEAD", "/v2/"+repo+"/manifests/1.0", nil).Want(200).WantHeader("Docker-Content-Digest", digest)
	// latest moves.
	out, err = c.push(mine, ref("latest"))
	must("push latest", out, err)
	out, err = c.push(changed, ref("latest"))
	must("push another latest", out, err)

	// Another team's namespace is refused. Most clients look with HEAD first,
	// whose answer has a status and no message.
	out, err = c.push(mine, w.Host+"/"+unique("other/"+name)+":1.0")
	b.fails(out, err, "denied|forbidden")

	// Pull, signed in.
	out, err = c.pull(ref("1.0"))
	must("pull", out, err)
	out, err = c.pull(ref("2.0"))
	b.fails(out, err)

	// Anonymously: refused, then public.
	c.logout()
	out, err = c.pull(ref("1.0"))
	b.fails(out, err)
	w.publish(t, repo)
	out, err = c.pull(ref("1.0"))
	must("anonymous pull of a public repository", out, err)
	out, err = c.push(changed, ref("3.0"))
	b.fails(out, err)
	// And pushes with credentials to the same host.
	out, err = c.login("alice", password("alice"))
	must("login again", out, err)
	out, err = c.push(changed, ref("3.0"))
	must("push after an anonymous pull", out, err)
}

func testDocker(t *testing.T, w *world, d *daemons) {
	b, c := dockerTool(t, w.Server, d)
	everyday(t, w, b, "docker", c)
}

// dockerTool is docker against a server.
func dockerTool(t *testing.T, s *Server, d *daemons) (*box, tool) {
	b := newBox(t, "DOCKER_HOST="+d.dockerd(t))
	docker := testenv.Tool(t, "docker")
	load := func(a archive) string {
		b.run(docker, "load", "-q", "-i", a.path)
		return a.id(t)
	}
	return b, tool{
		login: func(user, password string) (string, error) {
			return b.tryIn(password, docker, "login", "-u", user, "--password-stdin", s.Host)
		},
		logout: func() { b.run(docker, "logout", s.Host) },
		push: func(a archive, ref string) (string, error) {
			b.run(docker, "tag", load(a), ref)
			return b.try(docker, "push", ref)
		},
		pull: func(ref string) (string, error) {
			_, _ = b.try(docker, "rmi", "-f", ref)
			return b.try(docker, "pull", ref)
		},
	}
}

// docker manifest makes lists of Docker's own type.
func testDockerMultiArch(t *testing.T, w *world, d *daemons) {
	b := newBox(t, "DOCKER_HOST="+d.dockerd(t), "DOCKER_CLI_EXPERIMENTAL=enabled")
	docker := testenv.Tool(t, "docker")
	if out, err := b.tryIn(password("alice"), docker, "login", "-u", "alice", "--password-stdin", w.Host); err != nil {
		t.Fatalf("docker login: %v\n%s", err, out)
	}
	ref := w.Host + "/" + unique("core/docker-multi")
	for _, arch := range []string{"amd64", "arm64"} {
		a := newArchive(t, "example.com/"+arch+":1")
		b.run(docker, "load", "-q", "-i", a.path)
		b.run(docker, "tag", a.id(t), ref+":"+arch)
		b.run(docker, "push", "-q", ref+":"+arch)
	}
	b.run(docker, "manifest", "create", "--insecure", ref+":1.0", ref+":amd64", ref+":arm64")
	b.run(docker, "manifest", "annotate", ref+":1.0", ref+":arm64", "--arch", "arm64")
	b.run(docker, "manifest", "push", "--insecure", ref+":1.0")
	if out := b.run(docker, "manifest", "inspect", "--insecure", ref+":1.0"); !strings.Contains(out, "arm64") || !strings.Contains(out, typeDockerList) {
		t.Errorf("docker manifest inspect: %s", out)
	}
	b.run(docker, "pull", ref+":1.0")
}

// Berth's own image, as `make image` makes it, is pushed to Berth, pulled and run.
func testOwnImage(t *testing.T, w *world, d *daemons) {
	b := newBox(t, "DOCKER_HOST="+d.dockerd(t))
	docker := testenv.Tool(t, "docker")
	root, err := testenv.Root()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(b.home, "berth.tar")
	// The worlds of the other backends have the same daemon, which loses an image that one of them
	// removes while another pulls it: each makes its own.
	version := unique("own")
	local := "berth:" + version
	cmd := exec.Command("go", "run", "./deploy/image", "-binary", PlainBinary(t), "-version", version, "-tag", local, "-o", file)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "GOPROXY=off") // offline
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("making the image: %v\n%s", err, out)
	}
	if out, err := b.tryIn(password("alice"), docker, "login", "-u", "alice", "--password-stdin", w.Host); err != nil {
		t.Fatalf("docker login: %v\n%s", err, out)
	}
	ref := w.Host + "/" + unique("core/berth") + ":own"
	b.run(docker, "load", "-q", "-i", file)
	b.run(docker, "tag", local, ref)
	b.run(docker, "push", ref)
	b.run(docker, "rmi", "-f", local, ref)
	b.run(docker, "pull", ref)
	if out := b.run(docker, "inspect", "--format", "{{.Config.User}} {{json .Config.Entrypoint}}", ref); !strings.Contains(out, `65532:65532 ["/berth"]`) {
		t.Errorf("the pulled image runs as %s", out)
	}
	if out := b.run(docker, "run", "--rm", "--net=host", ref, "version"); !strings.Contains(strings.ToLower(out), "berth") {
		t.Errorf("docker run … version printed %q", out)
	}
	// And it serves.
	addr, err := testenv.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	id := strings.TrimSpace(b.run(docker, "run", "-d", "--net=host", "-e", "BERTH_LISTEN="+addr, "-e", "BERTH_ADMIN_PASSWORD="+AdminPassword, ref))
	defer func() { _, _ = b.try(docker, "rm", "-f", "-v", id) }()
	inside := &Server{Host: addr, URL: "http://" + addr, log: &logBuffer{}, proc: w.proc}
	inside.WaitReady(t)
	raw, _ := inside.Admin(t).PushImage("core/inside", "v1")
	inside.Admin(t).Do("GET", "/v2/core/inside/manifests/v1", nil).Want(200).WantBody(raw)
	b.run(docker, "stop", "-t", "10", id)
}

// podman, buildah and skopeo share their library and most of their flags.
func testPodman(t *testing.T, w *world, _ *daemons) {
	b, c := podmanTool(t, w.Server)
	everyday(t, w, b, "podman", c)
}

// podmanTool is podman against a server.
func podmanTool(t *testing.T, s *Server) (*box, tool) {
	testenv.NeedRoot(t, "run podman with a store of its own")
	b := newBox(t)
	podman := testenv.Tool(t, "podman")
	store := []string{"--root", filepath.Join(b.home, "store"), "--runroot", filepath.Join(b.home, "runroot"), "--storage-driver", "vfs", "--cgroup-manager", "cgroupfs", "--events-backend", "file"}
	do := func(args ...string) (string, error) { return b.try(podman, append(slices.Clone(store), args...)...) }
	auth := "--authfile=" + filepath.Join(b.home, "auth.json")
	return b, tool{
		login: func(user, password string) (string, error) {
			return b.tryIn(password, podman, append(slices.Clone(store), "login", auth, "--tls-verify=false", "-u", user, "--password-stdin", s.Host)...)
		},
		logout: func() { _, _ = do("logout", auth, s.Host) },
		push: func(a archive, ref string) (string, error) {
			if out, err := do("load", "-q", "-i", a.path); err != nil {
				return out, err
			}
			return do("push", auth, "--tls-verify=false", strings.TrimPrefix(a.id(t), "sha256:"), ref)
		},
		pull: func(ref string) (string, error) {
			_, _ = do("rmi", "-f", "-a")
			return do("pull", auth, "--tls-verify=false", ref)
		},
	}
}

// buildahTool is buildah against a server; do runs it with its store.
func buildahTool(t *testing.T, s *Server) (b *box, c tool, do func(args ...string) (string, error)) {
	testenv.NeedRoot(t, "run buildah with a store of its own")
	b = newBox(t)
	buildah := testenv.Tool(t, "buildah")
	store := []string{"--root", filepath.Join(b.home, "store"), "--runroot", filepath.Join(b.home, "runroot"), "--storage-driver", "vfs"}
	do = func(args ...string) (string, error) { return b.try(buildah, append(slices.Clone(store), args...)...) }
	auth := "--authfile=" + filepath.Join(b.home, "auth.json")
	return b, tool{
		login: func(user, password string) (string, error) {
			return b.tryIn(password, buildah, append(slices.Clone(store), "login", auth, "--tls-verify=false", "-u", user, "--password-stdin", s.Host)...)
		},
		logout: func() { _, _ = do("logout", auth, s.Host) },
		push: func(a archive, ref string) (string, error) {
			if out, err := do("pull", "-q", "docker-archive:"+a.path); err != nil {
				return out, err
			}
			return do("push", auth, "--tls-verify=false", strings.TrimPrefix(a.id(t), "sha256:"), "docker://"+ref)
		},
		pull: func(ref string) (string, error) {
			_, _ = do("rmi", "-f", "-a")
			return do("pull", auth, "--tls-verify=false", ref)
		},
	}, do
}

func testBuildah(t *testing.T, w *world, _ *daemons) {
	b, c, do := buildahTool(t, w.Server)
	everyday(t, w, b, "buildah", c)
	auth := "--authfile=" + filepath.Join(b.home, "auth.json")
	// A manifest list of its own making, pushed with all images in it.
	list := "docker://" + w.Host + "/" + unique("core/buildah-multi")
	for _, args := range [][]string{
		{"manifest", "create", "multi"},
		{"manifest", "add", "multi", "docker-archive:" + newArchive(t, "example.com/a:1").path},
		{"manifest", "push", "--all", auth, "--tls-verify=false", "multi", list + ":1.0"},
		{"manifest", "push", "--all", auth, "--tls-verify=false", "--format", "oci", "multi", list + ":oci"},
	} {
		if out, err := do(args...); err != nil {
			t.Fatalf("buildah %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
}

// skopeoTool is skopeo against a server.
func skopeoTool(t *testing.T, s *Server) (*box, tool) {
	b := newBox(t)
	skopeo := testenv.Tool(t, "skopeo")
	auth := "--authfile=" + filepath.Join(b.home, "auth.json")
	return b, tool{
		login: func(user, password string) (string, error) {
			return b.tryIn(password, skopeo, "login", auth, "--tls-verify=false", "-u", user, "--password-stdin", s.Host)
		},
		logout: func() { _, _ = b.try(skopeo, "logout", auth, s.Host) },
		push: func(a archive, ref string) (string, error) {
			return b.try(skopeo, "copy", auth, "--insecure-policy", "--dest-tls-verify=false", "docker-archive:"+a.path, "docker://"+ref)
		},
		pull: func(ref string) (string, error) {
			return b.try(skopeo, "copy", auth, "--insecure-policy", "--src-tls-verify=false", "docker://"+ref, "dir:"+t.TempDir())
		},
	}
}

func testSkopeo(t *testing.T, w *world, _ *daemons) {
	b, c := skopeoTool(t, w.Server)
	everyday(t, w, b, "skopeo", c)
	skopeo := testenv.Tool(t, "skopeo")
	auth := "--authfile=" + filepath.Join(b.home, "auth.json")
	// Multi-arch, and from there byte for byte into another repository.
	dir, _ := newMultiArch(t, "multi")
	repo := unique("core/skopeo-multi")
	ref := "docker://" + w.Host + "/" + repo
	b.run(skopeo, "copy", auth, "--insecure-policy", "--all", "--dest-tls-verify=false", "oci:"+dir+":multi", ref+":1.0")
	list := w.person(t, "alice").Do("GET", "/v2/"+repo+"/manifests/1.0", nil).Want(200)
	b.run(skopeo, "copy", auth, "--insecure-policy", "--all", "--preserve-digests", "--src-tls-verify=false", "--dest-tls-verify=false", ref+":1.0", ref+"-copy:1.0")
	w.person(t, "alice").Do("GET", "/v2/"+repo+"-copy/manifests/1.0", nil).Want(200).WantBody(list.Body)
	if out := b.run(skopeo, "list-tags", auth, "--tls-verify=false", ref+"-copy"); !strings.Contains(out, `"1.0"`) {
		t.Errorf("skopeo list-tags: %s", out)
	}
	// Deleting is not for pushers.
	out, err := b.try(skopeo, "delete", auth, "--tls-verify=false", ref+"-copy:1.0")
	b.fails(out, err, "denied")
	if out, err := b.tryIn(password("mary"), skopeo, "login", auth, "--tls-verify=false", "-u", "mary", "--password-stdin", w.Host); err != nil {
		t.Fatalf("skopeo login: %v\n%s", err, out)
	}
	b.run(skopeo, "delete", auth, "--tls-verify=false", ref+"-copy:1.0")
	w.person(t, "mary").Do("GET", "/v2/"+repo+"-copy/manifests/1.0", nil).Want(404)
}

func testCtr(t *testing.T, w *world, d *daemons) {
	b, c := ctrTool(t, w.Server, d)
	everyday(t, w, b, "ctr", c)
}

// ctrTool is ctr against a server.
func ctrTool(t *testing.T, s *Server, d *daemons) (*box, tool) {
	b := newBox(t, "CONTAINERD_ADDRESS="+d.containerd(t))
	ctr := testenv.Tool(t, "ctr")
	var user []string
	namespace := strings.ReplaceAll(unique("ns"), "/", "-")
	do := func(args ...string) (string, error) {
		return b.try(ctr, append([]string{"-n", namespace}, args...)...)
	}
	return b, tool{
		login: func(name, password string) (string, error) { // ctr has no login: it takes them each time
			user = []string{"--user", name + ":" + password}
			out, err := do(append(append([]string{"images", "pull", "--plain-http"}, user...), s.Host+"/core/none:1")...)
			if err != nil && strings.Contains(out, "not found") {
				return out, nil // signed in, and told that there is no such image
			}
			return out, err
		},
		logout: func() { user = nil },
		push: func(a archive, ref string) (string, error) {
			if out, err := do("images", "import", "--no-unpack", "--index-name", ref, a.path); err != nil {
				return out, err
			}
			return do(append(append([]string{"images", "push", "--plain-http"}, user...), ref)...)
		},
		pull: func(ref string) (string, error) {
			_, _ = do("images", "rm", "--sync", ref)
			return do(append(append([]string{"images", "pull", "--plain-http", "--snapshotter", "native"}, user...), ref)...)
		},
		mute: true,
	}
}

// craneTool is crane against a server.
func craneTool(t *testing.T, s *Server) (*box, tool) {
	b := newBox(t)
	crane := testenv.Tool(t, "crane")
	return b, tool{
		login: func(user, password string) (string, error) {
			if out, err := b.tryIn(password, crane, "auth", "login", "-u", user, "--password-stdin", s.Host); err != nil {
				return out, err
			}
			// crane keeps credentials without trying them.
			return b.try(crane, "catalog", s.Host)
		},
		logout: func() { b.run(crane, "auth", "logout", s.Host) },
		push:   func(a archive, ref string) (string, error) { return b.try(crane, "push", a.path, ref) },
		pull: func(ref string) (string, error) {
			file := filepath.Join(t.TempDir(), "image.tar")
			if out, err := b.try(crane, "pull", ref, file); err != nil {
				return out, err
			}
			return b.try(crane, "validate", "--remote", ref)
		},
	}
}

func testCrane(t *testing.T, w *world, _ *daemons) {
	b, c := craneTool(t, w.Server)
	everyday(t, w, b, "crane", c)
	crane := testenv.Tool(t, "crane")
	dir, digest := newMultiArch(t, "multi")
	repo := unique("core/crane-multi")
	ref := w.Host + "/" + repo
	// crane pushes an index whose layout holds it as the only entry: it is the index in the index.
	b.run(crane, "push", "--index", dir, ref+":nested")
	b.run(crane, "copy", ref+"@"+digest, ref+"-copy:1.0")
	if got := strings.TrimSpace(b.run(crane, "digest", ref+"-copy:1.0")); got != digest {
		t.Errorf("crane digest is %s, want %s", got, digest)
	}
	b.run(crane, "validate", "--remote", ref+"-copy:1.0")
	b.run(crane, "tag", ref+"-copy:1.0", "also")
	if out := b.run(crane, "ls", ref+"-copy"); !strings.Contains(out, "1.0\n") || !strings.Contains(out, "also\n") {
		t.Errorf("crane ls: %q", out)
	}
	// Deleting is not for pushers.
	out, err := b.try(crane, "delete", ref+"-copy:also")
	b.fails(out, err, "denied")
	if out, err := b.tryIn(password("mary"), crane, "auth", "login", "-u", "mary", "--password-stdin", w.Host); err != nil {
		t.Fatalf("crane auth login: %v\n%s", err, out)
	}
	b.run(crane, "delete", ref+"-copy:also")
	if out := b.run(crane, "ls", ref+"-copy"); strings.Contains(out, "also\n") {
		t.Errorf("after the delete crane ls: %q", out)
	}
	b.run(crane, "delete", ref+"-copy@"+digest)
	w.person(t, "mary").Do("GET", "/v2/"+repo+"-copy/manifests/1.0", nil).Want(404)
}

// regctlTool is regctl against a server.
func regctlTool(t *testing.T, s *Server) (*box, tool) {
	b := newBox(t)
	b.env = append(b.env, "REGCTL_CONFIG="+filepath.Join(b.home, "regctl.json"))
	regctl := testenv.Tool(t, "regctl")
	b.run(regctl, "registry", "set", "--tls", "disabled", s.Host)
	return b, tool{
		login: func(user, password string) (string, error) {
			return b.tryIn(password, regctl, "registry", "login", "-u", user, "--pass-stdin", s.Host)
		},
		logout: func() { b.run(regctl, "registry", "logout", s.Host) },
		push:   func(a archive, ref string) (string, error) { return b.try(regctl, "image", "import", ref, a.path) },
		pull: func(ref string) (string, error) {
			return b.try(regctl, "image", "export", ref, filepath.Join(t.TempDir(), "image.tar"))
		},
	}
}

func testRegctl(t *testing.T, w *world, _ *daemons) {
	b, c := regctlTool(t, w.Server)
	everyday(t, w, b, "regctl", c)
	regctl := testenv.Tool(t, "regctl")
	// Multi-arch by chunks, with a referrer that travels along.
	dir, digest := newMultiArch(t, "multi")
	repo := unique("core/regctl-multi")
	ref := w.Host + "/" + repo
	b.run(regctl, "registry", "set", "--blob-chunk", "1000", "--blob-max", "5000", w.Host)
	b.run(regctl, "image", "copy", "ocidir://"+dir+":multi", ref+":1.0")
	if got := strings.TrimSpace(b.run(regctl, "image", "digest", ref+":1.0")); got != digest {
		t.Errorf("regctl image digest is %s, want %s", got, digest)
	}
	sbom := filepath.Join(b.home, "sbom.json")
	if err := os.WriteFile(sbom, []byte(`{"sbom":true}`), 0o600); err != nil {
		t.Fatal(err)
	}
	b.run(regctl, "artifact", "put", "--artifact-type", "application/vnd.example.sbom", "--subject", ref+":1.0", "-f", sbom)
	if out := b.run(regctl, "artifact", "list", ref+":1.0", "--filter-artifact-type", "application/vnd.example.sbom", "--format", "{{json .Descriptors}}"); !strings.Contains(out, "application/vnd.example.sbom") {
		t.Errorf("regctl artifact list: %s", out)
	}
	if out := b.run(regctl, "tag", "ls", ref); strings.Contains(out, "sha256-") {
		t.Errorf("regctl fell back to the referrers tag, which this registry does not need: %s", out)
	}
	b.run(regctl, "image", "copy", "--referrers", ref+":1.0", ref+"-copy:1.0")
	if out := b.run(regctl, "artifact", "get", "--subject", ref+"-copy:1.0"); !strings.Contains(out, `{"sbom":true}`) {
		t.Errorf("regctl artifact get: %q", out)
	}
	// Refused to delete, regctl tries to move the tag to a manifest that it then deletes.
	out, err := b.try(regctl, "tag", "delete", ref+"-copy:1.0")
	b.fails(out, err, "denied|immutable")
	w.person(t, "mary").Do("GET", "/v2/"+repo+"-copy/manifests/1.0", nil).Want(200)
	if out, err := c.login("mary", password("mary")); err != nil {
		t.Fatalf("regctl login: %v\n%s", err, out)
	}
	b.run(regctl, "tag", "delete", ref+"-copy:1.0")
	b.run(regctl, "manifest", "delete", ref+"-copy@"+digest)
	w.person(t, "mary").Do("GET", "/v2/"+repo+"-copy/manifests/"+digest, nil).Want(404)
}

// oras-go is a library; this is a program with it.
func testORAS(t *testing.T, w *world, _ *daemons) {
	ctx := context.Background()
	name := unique("core/oras")
	open := func(repo, user string) *remote.Repository {
		r, err := remote.NewRepository(w.Host + "/" + repo)
		if err != nil {
			t.Fatal(err)
		}
		r.PlainHTTP = true
		if user != "" {
			r.Client = &auth.Client{Client: http.DefaultClient, Cache: auth.NewCache(),
				Credential: auth.StaticCredential(w.Host, auth.Credential{Username: user, Password: password(user)})}
		}
		return r
	}
	repo := open(name, "alice")
	store := memory.New()
	pack := func(artifactType string, subject *v1.Descriptor) v1.Descriptor {
		t.Helper()
		blob, err := oras.PushBytes(ctx, store, "application/vnd.example.data", random(2000))
		if err != nil {
			t.Fatal(err)
		}
		d, err := oras.PackManifest(ctx, store, oras.PackManifestVersion1_1, artifactType, oras.PackManifestOptions{Layers: []v1.Descriptor{blob}, Subject: subject})
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	push := func(r oras.Target, d v1.Descriptor, tag string) error {
		if err := store.Tag(ctx, d, tag); err != nil {
			t.Fatal(err)
		}
		_, err := oras.Copy(ctx, store, tag, r, tag, oras.DefaultCopyOptions)
		return err
	}
	thing := pack("application/vnd.example.thing", nil)
	if err := push(repo, thing, "1.0"); err != nil {
		t.Fatalf("push: %v", err)
	}
	if err := push(repo, thing, "1.0"); err != nil {
		t.Fatalf("push again: %v", err)
	}
	if err := push(repo, pack("application/vnd.example.other", nil), "1.0"); err == nil || !strings.Contains(err.Error(), "immutable") {
		t.Errorf("another artifact under the same tag: %v, want a refusal that says immutable", err)
	}
	if err := push(open(unique("other/oras"), "alice"), thing, "1.0"); err == nil || !strings.Contains(err.Error(), "Forbidden") {
		t.Errorf("a push to another team: %v, want a refusal that says Forbidden", err)
	}
	if err := push(repo, pack("application/vnd.example.signature", &thing), "signature"); err != nil {
		t.Fatalf("pushing a referrer: %v", err)
	}
	var found []string
	if err := repo.Referrers(ctx, thing, "application/vnd.example.signature", func(ds []v1.Descriptor) error {
		for _, d := range ds {
			found = append(found, d.ArtifactType)
		}
		return nil
	}); err != nil || !slices.Equal(found, []string{"application/vnd.example.signature"}) {
		t.Errorf("referrers: %q, %v", found, err)
	}
	var tags []string
	if err := repo.Tags(ctx, "", func(page []string) error { tags = append(tags, page...); return nil }); err != nil || !slices.Equal(tags, []string{"1.0", "signature"}) {
		t.Errorf("tags: %q, %v", tags, err)
	}
	if d, err := oras.Copy(ctx, repo, "1.0", memory.New(), "1.0", oras.DefaultCopyOptions); err != nil || d.Digest != thing.Digest {
		t.Errorf("pull: %v, %v", d.Digest, err)
	}
	// A blob is read from the middle, as a resumed pull does.
	blob, err := oras.PushBytes(ctx, repo, "application/octet-stream", bytes.Repeat([]byte("0123456789"), 100))
	if err != nil {
		t.Fatal(err)
	}
	rc, err := repo.Blobs().Fetch(ctx, blob)
	if err != nil {
		t.Fatal(err)
	}
	if seeker, ok := rc.(io.Seeker); !ok {
		t.Error("oras-go found no support for ranges")
	} else if _, err := seeker.Seek(995, io.SeekStart); err != nil {
		t.Error(err)
	} else if rest, err := io.ReadAll(rc); err != nil || string(rest) != "56789" {
		t.Errorf("the blob from byte 995 is %q, %v", rest, err)
	}
	rc.Close()
	// Anonymously, before and after it is public.
	if _, err := open(name, "").Resolve(ctx, "1.0"); err == nil {
		t.Error("an anonymous pull of a private repository succeeded")
	}
	w.publish(t, name)
	if _, err := open(name, "").Resolve(ctx, "1.0"); err != nil {
		t.Errorf("anonymous pull: %v", err)
	}
	if err := repo.Delete(ctx, thing); err == nil || !strings.Contains(strings.ToLower(err.Error()), "denied") {
		t.Errorf("a delete by a pusher: %v, want a refusal that says denied", err)
	}
	mary := open(name, "mary")
	if err := mary.Delete(ctx, thing); err != nil {
		t.Errorf("delete: %v", err)
	}
	if _, err := mary.Resolve(ctx, "1.0"); err == nil || !strings.Contains(err.Error(), errdef.ErrNotFound.Error()) {
		t.Errorf("after the delete: %v, want not found", err)
	}
}

// cosign keeps signatures as referrers of the image, or, as it used to, under
// tags sha256-<hex>.sig that it moves; both have to work, signing twice too, and
// so have attestations and SBOMs, on a registry that nobody has set up for it.
func testCosign(t *testing.T, w *world, _ *daemons) {
	b := newBox(t, "COSIGN_PASSWORD=secret", "COSIGN_YES=true")
	cosign, crane := testenv.Tool(t, "cosign"), testenv.Tool(t, "crane")
	repo := unique("core/cosign")
	_, digest := w.person(t, "alice").PushImage(repo, "1.0")
	ref := w.Host + "/" + repo + "@" + digest
	if out, err := b.tryIn(password("alice"), crane, "auth", "login", "-u", "alice", "--password-stdin", w.Host); err != nil {
		t.Fatalf("crane auth login: %v\n%s", err, out)
	}
	b.run(cosign, "generate-key-pair")
	out, err := b.try(cosign, "verify", "--key", "cosign.pub", "--insecure-ignore-tlog=true", "--allow-http-registry", ref)
	b.fails(out, err)
	for _, format := range []string{"--new-bundle-format=true", "--new-bundle-format=false"} {
		for range 2 {
			b.run(cosign, "sign", "--key", "cosign.key", "--tlog-upload=false", "--use-signing-config=false", format, "--allow-http-registry", ref)
		}
		if out := b.run(cosign, "verify", "--key", "cosign.pub", "--insecure-ignore-tlog=true", format, "--allow-http-registry", ref); !strings.Contains(out, digest) {
			t.Errorf("cosign verify %s printed no claim about %s:\n%s", format, digest, out)
		}
	}
	sbom := filepath.Join(b.home, "sbom.json")
	for i := range 2 {
		if err := os.WriteFile(sbom, fmt.Appendf(nil, `{"spdxVersion":"SPDX-2.%d"}`, i), 0o600); err != nil {
			t.Fatal(err)
		}
		b.run(cosign, "attach", "sbom", "--sbom", sbom, "--type", "spdx", "--input-format", "json", "--allow-http-registry", ref)
		for _, format := range []string{"--new-bundle-format=true", "--new-bundle-format=false"} {
			b.run(cosign, "attest", "--key", "cosign.key", "--type", "spdxjson", "--predicate", sbom, "--tlog-upload=false", "--use-signing-config=false", format, "--allow-http-registry", ref)
		}
	}
	b.run(cosign, "tree", "--allow-http-registry", ref)
}

func testHelm(t *testing.T, w *world, _ *daemons) {
	b := newBox(t)
	helm := testenv.Tool(t, "helm")
	login := func(user, password string) (string, error) {
		return b.tryIn(password, helm, "registry", "login", w.Host, "--plain-http", "-u", user, "--password-stdin")
	}
	out, err := login("alice", "wrong")
	b.fails(out, err)
	if out, err := login("alice", password("alice")); err != nil {
		t.Fatalf("helm registry login: %v\n%s", err, out)
	}
	b.run(helm, "create", "app")
	chart := func(description string) string {
		yaml := "apiVersion: v2\nname: app\nversion: 0.1.0\ndescription: " + description + "\n"
		if err := os.WriteFile(filepath.Join(b.home, "app", "Chart.yaml"), []byte(yaml), 0o600); err != nil {
			t.Fatal(err)
		}
		b.run(helm, "package", "app")
		return filepath.Join(b.home, "app-0.1.0.tgz")
	}
	prefix := "oci://" + w.Host + "/" + unique("core/charts")
	pkg := chart("first")
	b.run(helm, "push", pkg, prefix, "--plain-http")
	b.run(helm, "push", pkg, prefix, "--plain-http")
	b.run(helm, "pull", prefix+"/app", "--version", "0.1.0", "--plain-http", "-d", t.TempDir())
	if out := b.run(helm, "show", "chart", prefix+"/app", "--plain-http"); !strings.Contains(out, "first") {
		t.Errorf("helm show chart: %s", out)
	}
	out, err = b.try(helm, "push", chart("changed"), prefix, "--plain-http")
	b.fails(out, err, "immutable")
	out, err = b.try(helm, "push", pkg, "oci://"+w.Host+"/"+unique("other/charts"), "--plain-http")
	b.fails(out, err, "forbidden")
	b.run(helm, "registry", "logout", w.Host)
	out, err = b.try(helm, "pull", prefix+"/app", "--version", "0.1.0", "--plain-http", "-d", t.TempDir())
	b.fails(out, err)
	w.publish(t, strings.TrimPrefix(prefix, "oci://"+w.Host+"/")+"/app")
	b.run(helm, "pull", prefix+"/app", "--version", "0.1.0", "--plain-http", "-d", t.TempDir())
}

// Connections that break in the middle of a layer, both ways: the clients
// go on by themselves.
func testClientsInterrupted(t *testing.T, w *world, d *daemons) {
	docker, crane, regctl := testenv.Tool(t, "docker"), testenv.Tool(t, "crane"), testenv.Tool(t, "regctl")
	b := newBox(t, "DOCKER_HOST="+d.dockerd(t))
	b.env = append(b.env, "REGCTL_CONFIG="+filepath.Join(b.home, "regctl.json"))
	const limit = 1 << 20
	a := archive{path: filepath.Join(b.home, "large.tar"), image: newImage(t, "amd64", types.DockerLayer, 8<<20)}
	a.write(t, "example.com/large:1")
	b.run(docker, "load", "-q", "-i", a.path)
	for _, client := range []struct {
		name       string
		push, pull func(ref string) string
	}{
		{"docker", func(ref string) string {
			b.run(docker, "tag", a.id(t), ref)
			return b.run(docker, "push", ref)
		}, func(ref string) string {
			_, _ = b.try(docker, "rmi", "-f", a.id(t))
			return b.run(docker, "pull", ref)
		}},
		{"crane", func(ref string) string { return b.run(crane, "push", a.path, ref) }, nil},
		{"regctl", func(ref string) string { return b.run(regctl, "image", "import", ref, a.path) },
			func(ref string) string {
				return b.run(regctl, "image", "export", ref, filepath.Join(b.home, "out.tar"))
			}},
	} {
		t.Run(client.name, func(t *testing.T) {
			repo := unique("core/interrupted")
			use := func(c *cutter, what string, f func(ref string) string) {
				t.Helper()
				b.t = t
				if out, err := b.tryIn(password("alice"), docker, "login", "-u", "alice", "--password-stdin", c.Host); err != nil {
					t.Fatalf("docker login: %v\n%s", err, out)
				}
				b.run(regctl, "registry", "set", "--tls", "disabled", c.Host)
				f(c.Host + "/" + repo + ":1.0")
				if c.Cuts() == 0 {
					t.Errorf("the %s met no broken connection", what)
				}
			}
			use(newCutter(t, w.Server, 1, limit), "push", client.push)
			w.person(t, "alice").Do("GET", "/v2/"+repo+"/manifests/1.0", nil).Want(200)
			if client.pull != nil {
				use(newCutter(t, w.Server, 1, limit), "pull", client.pull)
			}
		})
	}
}

// The token endpoint: GET and POST, both token fields, a subset of what is
// asked for, anonymous tokens, robots and personal tokens.
func testTokens(t *testing.T, w *world, _ *daemons) {
	repo, open := unique("core/tokens"), unique("core/tokens-open")
	alice := w.person(t, "alice")
	alice.PushImage(repo, "v1")
	alice.PushImage(open, "v1")
	w.publish(t, open)
	get := "/v2/" + repo + "/manifests/v1"
	bearer := func(token string) string { return "Authorization: Bearer " + token }
	anonymous := w.Anonymous(t)

	// The challenge asks for what is missing; a token for it opens the door.
	r := anonymous.Do("GET", get, nil).WantError(401, "UNAUTHORIZED")
	if c := r.Header.Get("WWW-Authenticate"); !strings.Contains(c, `scope="repository:`+repo+`:pull"`) {
		t.Errorf("the challenge %q does not ask for pull on %s", c, repo)
	}
	r = anonymous.Do("POST", "/v2/"+repo+"/blobs/uploads/", nil).WantError(401, "UNAUTHORIZED")
	if c := r.Header.Get("WWW-Authenticate"); !strings.Contains(c, "repository:"+repo+":") || !strings.Contains(c, "push") {
		t.Errorf("the challenge %q does not ask for push on %s", c, repo)
	}
	anonymous.Do("GET", get, nil, bearer(alice.Token("repository:"+repo+":pull"))).Want(200)
	anonymous.Do("GET", get, nil, bearer(alice.Token("repository:"+open+":pull", "repository:"+repo+":pull,push"))).Want(200)

	// A subset: bob may not pull, and gets a token that opens nothing.
	bob := w.person(t, "bob")
	anonymous.Do("GET", get, nil, bearer(bob.Token("repository:"+repo+":pull,push"))).Want(403)
	anonymous.Do("POST", "/v2/"+repo+"/blobs/uploads/", nil, bearer(alice.Token("repository:"+repo+":pull,push"))).Want(202)
	// A token for pull is no token for push; the client is told to ask for another.
	anonymous.Do("POST", "/v2/"+repo+"/blobs/uploads/", nil, bearer(alice.Token("repository:"+repo+":pull"))).WantError(401, "UNAUTHORIZED")

	// Anonymous tokens read what is public, and only that.
	token := anonymous.Token("repository:"+open+":pull,push", "repository:"+repo+":pull")
	anonymous.Do("GET", "/v2/"+open+"/manifests/v1", nil, bearer(token)).Want(200)
	anonymous.Do("GET", get, nil, bearer(token)).WantError(401, "UNAUTHORIZED")
	anonymous.Do("POST", "/v2/"+open+"/blobs/uploads/", nil, bearer(token)).WantError(401, "UNAUTHORIZED")
	anonymous.Do("GET", "/v2/"+open+"/manifests/v1", nil).Want(200) // without a token too

	// The form, as containerd and docker with identity tokens use it.
	var answer struct {
		AccessToken string `json:"access_token"`
	}
	form := "grant_type=password&service=" + service(alice) + "&client_id=test&username=alice&password=" + password("alice") + "&scope=repository:" + repo + ":pull"
	anonymous.Do("POST", "/token", []byte(form), "Content-Type: application/x-www-form-urlencoded").Want(200).JSON(&answer)
	anonymous.Do("GET", get, nil, bearer(answer.AccessToken)).Want(200)
	w.As(t, "alice", "wrong").Do("GET", "/token?service="+service(alice), nil).Want(401)

	// Nonsense as a token is refused.
	for _, bad := range []string{"nonsense", answer.AccessToken + "x", "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhZG1pbiJ9."} {
		anonymous.Do("GET", get, nil, bearer(bad)).WantError(401, "UNAUTHORIZED")
	}

	// A robot acts in its team, with its token's actions only.
	var robot struct {
		Secret string `json:"secret"`
	}
	out := w.Berth(t, "token", "create", unique("ci"), "--team", "core", "--actions", "pull", "-o", "json")
	if err := json.Unmarshal([]byte(out), &robot); err != nil || robot.Secret == "" {
		t.Fatalf("berth token create -o json: %v\n%s", err, out)
	}
	as := w.As(t, "anything", robot.Secret)
	as.Do("GET", get, nil).Want(200)
	as.Do("POST", "/v2/"+repo+"/blobs/uploads/", nil).WantError(403, "DENIED")
	anonymous.Do("GET", get, nil, bearer(as.Token("repository:"+repo+":pull,push"))).Want(200)
}

// Who may see and do what, and that what is private is not revealed.
func testVisibility(t *testing.T, w *world, _ *daemons) {
	private, public, internal := unique("core/private"), unique("core/public"), unique("core/internal")
	alice, bob, rita, anonymous := w.person(t, "alice"), w.person(t, "bob"), w.person(t, "rita"), w.Anonymous(t)
	for _, repo := range []string{private, public, internal} {
		alice.PushImage(repo, "v1")
	}
	w.publish(t, public)
	w.Berth(t, "repo", "set", internal, "--visibility", "internal")
	for _, test := range []struct {
		c    *Client
		repo string
		want int
	}{
		{alice, private, 200}, {rita, private, 200}, {bob, private, 403}, {anonymous, private, 401},
		{alice, internal, 200}, {rita, internal, 200}, {bob, internal, 200}, {anonymous, internal, 401},
		{alice, public, 200}, {rita, public, 200}, {bob, public, 200}, {anonymous, public, 200},
	} {
		for _, path := range []string{"/manifests/v1", "/tags/list"} {
			test.c.Do("GET", "/v2/"+test.repo+path, nil).Want(test.want)
		}
	}
	rita.Do("POST", "/v2/"+private+"/blobs/uploads/", nil).WantError(403, "DENIED")
	bob.Do("POST", "/v2/"+public+"/blobs/uploads/", nil).WantError(403, "DENIED")
	alice.Do("DELETE", "/v2/"+private+"/manifests/v1", nil).WantError(403, "DENIED")

	// A private repository and one that does not exist look the same from outside.
	for _, c := range []*Client{bob, anonymous} {
		there := c.Do("GET", "/v2/"+private+"/manifests/v1", nil)
		gone := c.Do("GET", "/v2/"+strings.Repeat("x", 4)+private[4:]+"/manifests/v1", nil)
		if there.Status != gone.Status || len(there.Errors()) == 0 || len(gone.Errors()) == 0 || there.Errors()[0].Code != gone.Errors()[0].Code {
			t.Errorf("a private repository is a %d, one that is not there a %d: this tells them apart", there.Status, gone.Status)
		}
	}
	// Mounting never links what the caller could not pull, with or without from.
	secret := random(500)
	d := alice.PushBlob(private, secret)
	mine := unique("other/mine")
	for _, query := range []string{"&from=" + private, ""} {
		loc := bob.Do("POST", "/v2/"+mine+"/blobs/uploads/?mount="+d+query, nil).Want(202).Location(bob)
		bob.Do("DELETE", loc, nil).Want(204)
		bob.Do("HEAD", "/v2/"+mine+"/blobs/"+d, nil).Want(404)
	}
	// Another's upload session is not there for bob, even in a repository of bob's.
	loc := alice.StartUpload(private)
	if r := bob.Do("PATCH", loc, []byte("x")); r.Status != 403 && r.Status != 404 {
		t.Errorf("bob's PATCH on alice's session is a %d", r.Status)
	}
	// The catalog shows everybody what they may pull.
	var catalog struct {
		Repositories []string `json:"repositories"`
	}
	bob.Do("GET", "/v2/_catalog?n=1000", nil).Want(200).JSON(&catalog)
	if slices.Contains(catalog.Repositories, private) || !slices.Contains(catalog.Repositories, public) || !slices.Contains(catalog.Repositories, internal) {
		t.Errorf("bob's catalog has private %v, public %v, internal %v; want false, true, true", slices.Contains(catalog.Repositories, private),
			slices.Contains(catalog.Repositories, public), slices.Contains(catalog.Repositories, internal))
	}
}
