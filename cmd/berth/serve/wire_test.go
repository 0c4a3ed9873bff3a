package serve

import (
	"log/slog"
	"testing"

	"github.com/spf13/pflag"

	"berth/cmd/berth/settings"
)

// The jobs of all parts have leases of their own, and a registry that is read-only has none of
// them.
func TestPartsHaveJobs(t *testing.T) {
	for _, readOnly := range []string{"false", "true"} {
		c, err := settings.Load(pflag.NewFlagSet("", pflag.ContinueOnError), []string{"BERTH_DATA_DIR=" + t.TempDir(), "BERTH_READ_ONLY=" + readOnly})
		if err != nil {
			t.Fatal(err)
		}
		a, err := newApp(t.Context(), c, "test", slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		names, runs, beside := map[string]bool{}, 0, 0
		for _, p := range a.parts {
			runs += len(p.run)
			beside += len(p.ownLoops)
			for _, j := range p.loops {
				if names[j.Name] || j.Every <= 0 || j.Run == nil {
					t.Errorf("the job %q is there twice, or never runs", j.Name)
				}
				names[j.Name] = true
			}
		}
		if len(names) < 8 || beside == 0 || runs < 2 {
			t.Errorf("only %d jobs, %d of each replica and %d that run on", len(names), beside, runs)
		}
		want := runs + 2
		if readOnly == "true" {
			want = runs
		}
		if got := len(a.work()); got != want {
			t.Errorf("read-only %s: %d things run in the background, want %d", readOnly, got, want)
		}
		if err := a.close(); err != nil {
			t.Error(err)
		}
	}
}
