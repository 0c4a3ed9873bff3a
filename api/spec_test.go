package api_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"

	"berth/api"
)

// TestSpecIsValid checks openapi.yaml against the OpenAPI specification, and
// what the house asks of every operation.
func TestSpecIsValid(t *testing.T) {
	spec, err := openapi3.NewLoader().LoadFromData(api.SpecYAML())
	if err != nil {
		t.Fatal(err)
	}
	if err := spec.Validate(t.Context()); err != nil {
		t.Fatal(err)
	}
	ids := map[string]bool{}
	for path, item := range spec.Paths.Map() {
		for method, op := range item.Operations() {
			what := method + " " + path
			if op.OperationID == "" || ids[op.OperationID] {
				t.Errorf("%s: the operationId %q is empty or taken", what, op.OperationID)
			}
			ids[op.OperationID] = true
			if op.Summary == "" || len(op.Tags) != 1 {
				t.Errorf("%s: needs a summary and one tag", what)
			}
			if f := op.Responses.Default(); f == nil || f.Ref != "#/components/responses/Failure" {
				t.Errorf("%s: the default response must be the Failure", what)
			}
			if op.Security != nil {
				t.Errorf("%s: must not change who may call it; that stands in server/admin", what)
			}
			if op.RequestBody == nil {
				continue
			}
			schema := op.RequestBody.Value.Content.Get("application/json").Schema
			if closed := schema.Value.AdditionalProperties.Has; closed == nil || *closed {
				t.Errorf("%s: the body %s must refuse unknown fields (additionalProperties: false)", what, schema.Ref)
			}
			if !op.RequestBody.Value.Required {
				t.Errorf("%s: the body must be required", what)
			}
		}
	}
	if len(ids) < 30 {
		t.Errorf("only %d operations were looked at", len(ids))
	}
}

// TestEmbeddedSpec checks that the document the server hands out as JSON is
// the one that is edited as YAML.
func TestEmbeddedSpec(t *testing.T) {
	fromYAML, err := openapi3.NewLoader().LoadFromData(api.SpecYAML())
	if err != nil {
		t.Fatal(err)
	}
	embedded, err := api.GetSpec()
	if err != nil {
		t.Fatal(err)
	}
	want, err := fromYAML.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	got, err := embedded.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Error("the embedded document is not openapi.yaml: run `go generate ./api`")
	}
}

// TestGenerated runs the generate lines of spec.go into a temporary directory
// and compares.
func TestGenerated(t *testing.T) {
	source, err := os.ReadFile("spec.go")
	if err != nil {
		t.Fatal(err)
	}
	lines := regexp.MustCompile(`(?m)^//go:generate (go tool oapi-codegen -config (\S+) openapi\.yaml)$`).FindAllStringSubmatch(string(source), -1)
	if len(lines) != 2 {
		t.Fatalf("%d generate lines in spec.go, want 2", len(lines))
	}
	for _, line := range lines {
		config, err := os.ReadFile(line[2])
		if err != nil {
			t.Fatal(err)
		}
		output := regexp.MustCompile(`(?m)^output: (\S+)$`).FindSubmatch(config)
		if output == nil {
			t.Fatalf("%s names no output", line[2])
		}
		generated := filepath.Join(t.TempDir(), "generated.go")
		elsewhere := filepath.Join(t.TempDir(), "cfg.yaml")
		if err := os.WriteFile(elsewhere, bytes.Replace(config, output[0], []byte("output: "+generated), 1), 0o600); err != nil {
			t.Fatal(err)
		}
		args := strings.Fields(strings.Replace(line[1], line[2], elsewhere, 1))
		if out, err := exec.CommandContext(t.Context(), args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
		}
		want, err := os.ReadFile(generated)
		if err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(string(output[1]))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s is not what openapi.yaml gives: run `go generate ./api`", output[1])
		}
	}
}
