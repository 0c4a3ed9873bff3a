package conformance

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"berth/testenv"
)

// allowedImports lists which packages of the project each package may import
// (tests of the package not included). Arrows point down only: cmd -> server
// -> registry, auth -> metadata -> sqldb; storage, manifest -> oci. storage and metadata
// do not know each other, and only metadata, which owns all rows, reaches sqldb. A new arrow is a decision: it shows up here, in
// review. Packages of tests and tools come last.
var allowedImports = map[string][]string{
	"oci":                {},
	"dial":               {},
	"migrations":         {},
	"manifest":           {"oci"},
	"storage":            {},
	"storage/fs":         {"storage"},
	"storage/s3":         {"dial", "storage"},
	"storage/mem":        {"storage"},
	"sqldb":              {"dial", "oci"},
	"metadata":           {"migrations", "oci", "sqldb"},
	"auth":               {"metadata", "oci"},
	"auth/token":         {"auth", "metadata", "oci"},
	"auth/outbound":      {},
	"auth/aws":           {"auth", "auth/outbound", "metadata", "oci"},
	"auth/oauth2":        {"auth", "auth/outbound", "metadata", "oci"},
	"auth/oidc":          {"auth", "auth/outbound", "metadata", "oci"},
	"auth/ldap":          {"auth", "metadata", "oci"},
	"people":             {"auth", "auth/token", "metadata", "oci"},
	"imports":            {"auth", "auth/token", "metadata", "oci", "people"},
	"jobs":               {"metadata", "oci"},
	"registry":           {"auth", "manifest", "metadata", "oci", "storage"},
	"registry/collect":   {"auth", "jobs", "metadata", "oci", "storage"},
	"backup":             {"auth", "jobs", "metadata", "oci", "registry/collect", "storage"},
	"audit":              {"metadata"},
	"api":                {},
	"api/client":         {"api"},
	"api/reports":        {"api", "backup", "jobs", "metadata", "registry", "registry/collect"},
	"server":             {"auth", "auth/token", "manifest", "metadata", "oci", "registry", "server/door"},
	"server/door":        {"auth", "oci"},
	"server/dims":        {"auth", "metadata", "oci", "people", "registry", "server/door"},
	"server/admin":       {"api", "api/reports", "audit", "auth", "auth/token", "backup", "metadata", "oci", "people", "registry", "registry/collect", "server/door"},
	"server/dockit":      {"auth", "metadata", "oci", "people", "server/door"},
	"cmd/berth":          {"cmd/berth/cli", "cmd/berth/client", "cmd/berth/operate", "cmd/berth/serve", "cmd/berth/settings"},
	"cmd/berth/serve":    {"audit", "auth", "auth/token", "backup", "cmd/berth/cli", "cmd/berth/open", "cmd/berth/settings", "jobs", "metadata", "oci", "people", "registry", "registry/collect", "server", "server/admin", "server/dims", "server/dockit", "storage"},
	"cmd/berth/operate":  {"api", "api/client", "api/reports", "auth", "auth/token", "backup", "cmd/berth/cli", "cmd/berth/client", "cmd/berth/open", "cmd/berth/settings", "imports", "jobs", "metadata", "oci", "people", "registry", "registry/collect", "storage"},
	"cmd/berth/open":     {"auth", "auth/aws", "auth/ldap", "auth/oauth2", "auth/oidc", "backup", "cmd/berth/cli", "cmd/berth/settings", "metadata", "oci", "registry", "registry/collect", "storage", "storage/fs", "storage/s3"},
	"cmd/berth/client":   {"api", "api/client", "auth", "auth/aws", "auth/outbound", "cmd/berth/cli", "cmd/berth/settings", "metadata", "oci"},
	"cmd/berth/settings": {"api", "auth", "auth/aws", "auth/ldap", "auth/oauth2", "auth/oidc", "auth/token", "cmd/berth/cli", "metadata", "people", "server", "storage"},
	"cmd/berth/cli":      {"api", "jobs", "oci"},

	"storage/storagetest":   {"storage"},
	"registry/registrytest": {"metadata/metadatatest", "storage", "storage/fs", "storage/mem", "storage/s3", "testenv"},
	"testenv":               {},
	"testenv/withservers":   {"testenv"},
	"conformance":           {"testenv"},
	"conformance/bench":     {"testenv"},
	"deploy/image":          {},
	"auth/authtest":         {"auth"},
	"auth/aws/awstest":      {"testenv"},
	"metadata/metadatatest": {"metadata", "migrations", "testenv"},
}

// A package may import only what allowedImports says.
func TestImports(t *testing.T) {
	root, err := testenv.Root()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("go", "list", "-json=ImportPath,Imports", "./...")
	cmd.Dir = root
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	const module = "berth/"
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p struct {
			ImportPath string
			Imports    []string
		}
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		name := strings.TrimPrefix(p.ImportPath, module)
		allowed, known := allowedImports[name]
		if !known {
			t.Errorf("package %s is not in allowedImports (conformance/imports_test.go): say there what it may import", name)
			continue
		}
		for _, i := range p.Imports {
			if i, ours := strings.CutPrefix(i, module); ours && !slices.Contains(allowed, i) {
				t.Errorf("package %s imports %s: arrows point down only; if this one has to be, say so in allowedImports", name, i)
			}
		}
	}
}
