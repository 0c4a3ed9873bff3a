//go:build official

package conformance

import (
	"encoding/xml"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"berth/testenv"
)

// TestOfficialProgram runs the program of the OCI distribution specification
// (its folder conformance), which scripts/conformance.sh names in
// OCI_CONFORMANCE, and keeps its reports in dist/conformance. 0 failures and 0
// skips are wanted, with everything switched on except sparse manifests.
func TestOfficialProgram(t *testing.T) {
	program := os.Getenv("OCI_CONFORMANCE")
	if program == "" {
		t.Fatal("set OCI_CONFORMANCE to the path of the program; see docs/operations.md")
	}
	root, err := testenv.Root()
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range []Variant{Embedded, Distributed} {
		for _, version := range []string{"1.1", "dev"} {
			t.Run(version+"-"+v.String(), func(t *testing.T) {
				s := NewBackend(t, v).Launch(t, PlainBinary(t))
				s.WaitReady(t)
				dir := filepath.Join(root, "dist", "conformance", version+"-"+v.String())
				if err := os.RemoveAll(dir); err != nil {
					t.Fatal(err)
				}
				if err := os.MkdirAll(dir, 0o755); err != nil {
					t.Fatal(err)
				}
				cmd := exec.Command(program)
				cmd.Dir = dir
				cmd.Env = append(os.Environ(), "OCI_VERSION="+version, "OCI_RESULTS_DIR="+dir, "OCI_CONFIGURATION=",
					"OCI_REGISTRY="+s.Host, "OCI_TLS=disabled", "OCI_REPO1="+unique("conformance/repo1"), "OCI_REPO2="+unique("conformance/repo2"),
					"OCI_USERNAME=admin", "OCI_PASSWORD="+AdminPassword)
				for _, on := range []string{
					"API_PULL", "API_PUSH", "API_BLOBS_ATOMIC", "API_BLOBS_DELETE", "API_BLOBS_DIGEST_HEADER", "API_BLOBS_MOUNT_ANONYMOUS",
					"API_BLOBS_UPLOAD_CANCEL", "API_MANIFESTS_ATOMIC", "API_MANIFESTS_DELETE", "API_MANIFESTS_DIGEST_HEADER",
					"API_MANIFESTS_TAG_PARAM", "API_TAGS_ATOMIC", "API_TAGS_DELETE", "API_TAGS_LIST", "API_REFERRER",
					"DATA_IMAGE", "DATA_INDEX", "DATA_INDEX_LIST", "DATA_ARTIFACT", "DATA_SUBJECT", "DATA_SUBJECT_MISSING",
					"DATA_ARTIFACT_LIST", "DATA_SUBJECT_LIST", "DATA_DATA_FIELD", "DATA_NONDISTRIBUTABLE", "DATA_CUSTOM_FIELDS",
					"DATA_NO_LAYERS", "DATA_EMPTY_BLOB", "DATA_SHA512",
				} {
					cmd.Env = append(cmd.Env, "OCI_"+on+"=true")
				}
				out, err := cmd.CombinedOutput()
				if err != nil {
					t.Errorf("the program ended with %v:\n%s", err, tail(string(out), 150))
				}
				report, err := os.ReadFile(filepath.Join(dir, "junit.xml"))
				if err != nil {
					t.Fatal(err)
				}
				var sum struct {
					Tests    int `xml:"tests,attr"`
					Failures int `xml:"failures,attr"`
					Errors   int `xml:"errors,attr"`
					Skipped  int `xml:"skipped,attr"`
					Disabled int `xml:"disabled,attr"`
				}
				if err := xml.Unmarshal(report, &sum); err != nil {
					t.Fatal(err)
				}
				t.Logf("%s on %s: %d checks, %d failures, %d errors, %d skipped, %d disabled; reports in %s",
					version, v, sum.Tests, sum.Failures, sum.Errors, sum.Skipped, sum.Disabled, dir)
				if sum.Tests == 0 || sum.Failures+sum.Errors+sum.Skipped != 0 {
					t.Errorf("0 failures and 0 skips are wanted")
				}
			})
		}
	}
}
