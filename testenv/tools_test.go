package testenv

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// `make test PKG=` gets the tools that the package's tests need, and no others.
func TestToolsOfPackages(t *testing.T) {
	root, err := Root()
	if err != nil {
		t.Fatal(err)
	}
	for pkg, want := range map[string]string{
		"./oci":        "",
		"./manifest":   "",
		"./metadata":   "postgres", // by metadatatest
		"./storage/s3": "minio",
		"./auth/ldap":  "ldapadd slapd",
		"./auth/oidc":  "node npm oidc-provider postgres",
	} {
		cmd := exec.Command(filepath.Join(root, "scripts", "tools.sh"), "needs", pkg)
		cmd.Dir = root
		var problems strings.Builder
		cmd.Stderr = &problems
		out, err := cmd.Output()
		if got := strings.Join(strings.Fields(string(out)), " "); err != nil || got != want {
			t.Errorf("the tests of %s need %q (%v %s), want %q", pkg, got, err, problems.String(), want)
		}
	}
	cmd := exec.Command(filepath.Join(root, "scripts", "tools.sh"), "needs", "./conformance")
	cmd.Dir = root
	out, err := cmd.Output()
	for _, tool := range []string{"docker", "podman", "crane", "helm", "cosign", "nginx"} { // also those named in a table
		if !strings.Contains(string(out), "\n"+tool+"\n") {
			t.Errorf("the tests of ./conformance do not need %s: %v, %q", tool, err, out)
		}
	}
}

// The tests' OpenID provider runs on node, so the workflow that runs the tests brings it.
func TestWorkflowHasNode(t *testing.T) {
	root, err := Root()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(root, ".github", "workflows", "test.yml"))
	if err != nil {
		t.Fatal(err)
	}
	node, run := strings.Index(string(text), "uses: actions/setup-node@"), strings.Index(string(text), ".ci/run")
	if node < 0 || run < node {
		t.Error("the workflow runs the tests without setting up node before")
	}
}
