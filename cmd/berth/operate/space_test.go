package operate

import (
	"strings"
	"testing"
	"time"

	"berth/api"
	"berth/cmd/berth/cli"
	"berth/metadata"
)

// A server does not list all that would go, but counts it.
func TestPrintDryRunCut(t *testing.T) {
	var b strings.Builder
	cut := true
	report := api.CollectorReport{Manifests: 2, Links: 1, Truncated: &cut, Items: &[]api.CollectorItem{{Kind: metadata.CollectedManifest}}}
	grace := func() (time.Duration, error) { return 0, nil }
	if err := printDryRun(&b, &cli.Choice{Value: "text"}, report, grace); err != nil || !strings.Contains(b.String(), "These are the first 1 of 3 that it found;") || strings.Contains(b.String(), "stopped") {
		t.Errorf("%v\n%s", err, b.String())
	}
}

// What was deleted says so on its own, too.
func TestPrintWhyDeleted(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	media := "application/x"
	deleted := &api.HoldingDeletion{MediaType: &media, DeletedBy: "alice", DeletedAt: at, Until: at.Add(time.Hour), Tags: &[]string{"1.0", "2.0"}}
	var b strings.Builder
	printWhy(&b, api.DigestHolders{Digest: "sha256:x", Repositories: []api.HoldingRepository{{Name: "core/app", DeletedManifest: deleted}}})
	want := "sha256:x\nrepository core/app\n  had the manifest (application/x), deleted by alice at 2026-01-02T03:04:05Z, " +
		"can be restored until 2026-01-02T04:04:05Z (undo_window), with the tags 1.0, 2.0\n"
	if b.String() != want {
		t.Errorf("got\n%swant\n%s", b.String(), want)
	}
}
