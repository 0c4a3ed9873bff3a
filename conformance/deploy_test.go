package conformance

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"berth/testenv"
)

// TestNginx pushes and pulls through nginx with the configuration of deploy/compose, in front of two replicas:
// nothing is limited or buffered on the way, links lead back to the proxy, and who asks is who the proxy says.
func TestNginx(t *testing.T) {
	t.Parallel()
	nginx := testenv.Tool(t, "nginx")
	addr, err := testenv.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	_, servers := replicas(t, 2, "BERTH_URL=http://"+addr, "BERTH_TRUST_PROXY=true")
	config := edit(t, readPage(t, "deploy/compose/nginx.conf"),
		"berth-1:5000", servers[0].Host, "berth-2:5000", servers[1].Host, "listen 5000", "listen "+addr)
	dir := t.TempDir()
	file := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	// Where the distribution's nginx would write is not ours.
	own := "daemon off; pid " + filepath.Join(dir, "nginx.pid") + "; error_log stderr;"
	if out, err := exec.Command(nginx, "-t", "-p", dir, "-c", file, "-g", own).CombinedOutput(); err != nil {
		t.Fatalf("nginx -t: %v\n%s", err, out)
	}
	cmd := exec.Command(nginx, "-p", dir, "-c", file, "-g", own)
	log := &logBuffer{}
	cmd.Stdout, cmd.Stderr = log, log
	proc, err := testenv.Start(cmd, syscall.SIGTERM)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = proc.Stop(syscall.SIGTERM) // the error says that it was ended
		if t.Failed() {
			t.Logf("log of nginx:\n%s", tail(log.String(), 40))
		}
	})
	proxy := &Server{Host: addr, URL: "http://" + addr, proc: proc, log: log}
	proxy.WaitReady(t)

	c := proxy.Admin(t)
	repo := unique("proxy/repo")
	layer := bytes.Repeat([]byte("0123456789abcdef"), 1<<18) // 4 MiB, which nginx refuses unless told
	digest := c.PushBlob(repo, layer)
	c.PushImage(repo, "v1")
	if got := c.Do("GET", "/v2/"+repo+"/blobs/"+digest, nil).Want(200).Body; !bytes.Equal(got, layer) {
		t.Errorf("%d bytes came back, want %d", len(got), len(layer))
	}
	if location := c.StartUpload(repo); !strings.HasPrefix(location, proxy.URL+"/") && !strings.HasPrefix(location, "/") {
		t.Errorf("an upload is at %s, want it at %s", location, proxy.URL)
	}
	r, err := http.NewRequest("GET", proxy.URL+"/v2/", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("X-Forwarded-For", "203.0.113.9")
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if challenge := resp.Header.Get("WWW-Authenticate"); !strings.Contains(challenge, `realm="`+proxy.URL+`/token"`) {
		t.Errorf("the challenge is %s, want the token endpoint at %s", challenge, proxy.URL)
	}
	deadline := time.Now().Add(time.Minute)
	for both := ""; ; time.Sleep(50 * time.Millisecond) { // the line of a request is written when it has been answered
		both = servers[0].Log() + servers[1].Log()
		if strings.Contains(both, "203.0.113.9") {
			t.Fatal("the server believes what a client says of its own address")
		}
		if strings.Contains(both, "path=/v2/ ") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("no request arrived")
		}
	}
}

// TestKustomize builds deploy/kustomize/example: what belongs together is called the same in all of its objects.
func TestKustomize(t *testing.T) {
	t.Parallel()
	root, err := testenv.Root()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(testenv.Tool(t, "kustomize"), "build", filepath.Join(root, "deploy", "kustomize", "example"))
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("kustomize build: %v\n%s", err, &stderr)
	}
	type container struct {
		Name, Image string
		EnvFrom     []struct {
			SecretRef struct{ Name string } `yaml:"secretRef"`
		} `yaml:"envFrom"`
		Ports []struct{ Name string }
	}
	type object struct {
		Kind     string
		Metadata struct{ Name, Namespace string }
		Spec     struct {
			Selector map[string]any
			Ports    []struct {
				TargetPort string `yaml:"targetPort"`
			}
			Template struct {
				Metadata struct{ Labels map[string]string }
				Spec     struct{ Containers []container }
			}
		}
	}
	objects := map[string]object{}
	for docs := yaml.NewDecoder(bytes.NewReader(out)); ; {
		var o object
		if err := docs.Decode(&o); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("%v in\n%s", err, out)
		}
		objects[o.Kind] = o
	}
	namespace := objects["Namespace"].Metadata.Name
	if namespace == "" {
		t.Error("nothing makes the namespace")
	}
	for kind, o := range objects {
		if kind != "Namespace" && o.Metadata.Namespace != namespace {
			t.Errorf("the %s is in the namespace %q, want %q", kind, o.Metadata.Namespace, namespace)
		}
	}
	pod := objects["Deployment"].Spec.Template
	if len(pod.Spec.Containers) != 1 {
		t.Fatalf("%d containers", len(pod.Spec.Containers))
	}
	berth := pod.Spec.Containers[0]
	if secret := objects["Secret"].Metadata.Name; len(berth.EnvFrom) != 1 || secret == "" || berth.EnvFrom[0].SecretRef.Name != secret {
		t.Errorf("the settings come from %v, and the secret is %q", berth.EnvFrom, secret)
	}
	if !strings.HasPrefix(berth.Image, "registry.example.com/core/berth:") {
		t.Errorf("the image is %s", berth.Image)
	}
	service := objects["Service"].Spec
	for key, value := range service.Selector {
		if pod.Metadata.Labels[key] != value {
			t.Errorf("the service selects %s=%v, and pods have %v", key, value, pod.Metadata.Labels)
		}
	}
	if len(service.Ports) != 1 || service.Ports[0].TargetPort != berth.Ports[0].Name {
		t.Errorf("the service leads to %v, and pods listen at %v", service.Ports, berth.Ports)
	}
}
