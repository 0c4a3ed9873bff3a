package metadata_test

import (
	"context"
	"go/ast"
	"go/parser"
	"go/token"
	"strings"
	"testing"

	"berth/metadata"
	"berth/metadata/metadatatest"
)

// TestEventKinds: the kinds of events are a closed list. Each constant is known, no text
// stands for two of them, and a kind that is none is no deed.
func TestEventKinds(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "events.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]string{}
	for _, decl := range file.Decls {
		g, ok := decl.(*ast.GenDecl)
		if !ok || g.Tok != token.CONST {
			continue
		}
		for _, spec := range g.Specs {
			v := spec.(*ast.ValueSpec)
			if name, ok := v.Type.(*ast.Ident); !ok || name.Name != "EventKind" {
				continue
			}
			text := strings.Trim(v.Values[0].(*ast.BasicLit).Value, `"`)
			if !metadata.EventKind(text).Known() {
				t.Errorf("the kind %s (%q) is not in kinds: say there whether the audit log has it", v.Names[0], text)
			}
			if other := seen[text]; other != "" {
				t.Errorf("%s and %s are both %q", v.Names[0], other, text)
			}
			seen[text] = v.Names[0].Name
		}
	}
	if len(seen) < 70 {
		t.Errorf("only %d kinds were found", len(seen))
	}
	metadatatest.Each(t, func(t *testing.T, db *metadata.DB) {
		err := db.Update(t.Context(), func(tx *metadata.Tx) error {
			return tx.Record(t.Context(), metadata.Event{Kind: "renameTeam", Team: "core"})
		})
		if err == nil || !strings.Contains(err.Error(), "renameTeam") {
			t.Errorf("an unknown kind: %v", err)
		}
	})
}

// TestRecord: what an event has in fields is in the detail of its line, kinds that the audit
// log does not have leave none, and a refusal always does.
func TestRecord(t *testing.T) {
	metadatatest.Each(t, func(t *testing.T, db *metadata.DB) {
		one, two := image("one").Digest, image("two").Digest
		update(t, db, func(ctx context.Context, tx *metadata.Tx) error {
			return tx.Record(ctx,
				metadata.Event{Kind: metadata.BlobMounted, Repository: "core/app", From: "core/base", Digest: one, Size: 7},
				metadata.Event{Kind: metadata.TagCreated, Repository: "core/app", Reference: "1.1", Digest: two},
				metadata.Event{Kind: metadata.TagMoved, Repository: "core/app", Reference: "1.0", Digest: two, Previous: one, Size: 7},
				metadata.Event{Kind: metadata.ManifestPushed, Repository: "core/app", Reference: "1.0", Digest: two, Size: 7,
					MediaType: "application/vnd.oci.image.manifest.v1+json", Tags: []string{"1.0", "1.1"}, Detail: map[string]any{"again": true}},
				metadata.Event{Kind: metadata.BlobPushed, Outcome: metadata.AuditRefused, Repository: "core/app"})
		})
		lines := map[string]map[string]any{}
		for _, e := range audited(t, db, metadata.AuditFilter{}) {
			lines[e.Action+" "+e.Outcome] = e.Detail
		}
		if len(lines) != 3 {
			t.Errorf("lines %v", lines)
		}
		if got := lines["moveTag ok"]; len(got) != 1 || got["previous"] != one.String() {
			t.Errorf("moveTag: %v", got)
		}
		push := lines["pushManifest ok"]
		tags, _ := push["tags"].([]any)
		if len(push) != 3 || push["again"] != true || push["media_type"] != "application/vnd.oci.image.manifest.v1+json" || len(tags) != 2 {
			t.Errorf("pushManifest: %v", push)
		}
		if _, ok := lines["pushBlob refused"]; !ok {
			t.Error("a refusal of a kind that is not audited has no line")
		}
	})
}
