package operate

import (
	"strings"
	"testing"
	"time"

	"berth/metadata"
	"berth/registry/collect"
)

// A server does not list all that would go, but counts it.
func TestPrintDryRunCut(t *testing.T) {
	var b strings.Builder
	report := collect.Report{Manifests: 2, Links: 1, Truncated: true, Items: []metadata.Collected{{Kind: metadata.CollectedManifest}}}
	if err := printDryRun(&b, report, collect.Run{}); err != nil || !strings.Contains(b.String(), "These are the first 1 of 3 that it found;") || strings.Contains(b.String(), "stopped") {
		t.Errorf("%v\n%s", err, b.String())
	}
}

// What was deleted says so on its own, too.
func TestPrintWhyDeleted(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	deleted := &collect.Deletion{MediaType: "application/x", DeletedBy: "alice", DeletedAt: at, Until: at.Add(time.Hour), Tags: []string{"1.0", "2.0"}}
	var b strings.Builder
	printWhy(&b, collect.Why{Digest: "sha256:x", Repositories: []*collect.WhyRepository{{Name: "core/app", DeletedManifest: deleted}}})
	want := "sha256:x\nrepository core/app\n  had the manifest (application/x), deleted by alice at 2026-01-02T03:04:05Z, " +
		"can be restored until 2026-01-02T04:04:05Z (undo_window), with the tags 1.0, 2.0\n"
	if b.String() != want {
		t.Errorf("got\n%swant\n%s", b.String(), want)
	}
}
