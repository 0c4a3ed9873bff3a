package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"berth/metadata"
	"berth/registry"
)

// gcProgress is how often a long run says how far it is.
const gcProgress = 2 * time.Second

func newGCCommand() *cobra.Command {
	var dryRun bool
	var grace time.Duration
	var output *choice
	c := &cobra.Command{
		Use:   "gc",
		Short: "Collect garbage now, or say what would go",
		Long: `Collect garbage now: manifests that no policy keeps, blobs that no manifest needs, and
their objects. Running servers do the same by themselves, a little at a time; this is for those who
want to see it, or want the space at once. Servers, pushes and pulls go on meanwhile.

Nothing goes that has been unreferenced for less than the grace period. With --grace 0s a push that is
under way may be told that a blob is unknown, and has to push again; no image ever loses anything.
What was deleted within the undo window stays; with --undo-window 0s it goes, and cannot be restored.`,
		Example: `  berth gc --dry-run
  berth gc --grace 0s
  berth gc --grace 0s --undo-window 0s
  berth gc --untagged-ttl 720h --dry-run -o json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runLocal(cmd, true, func(ctx context.Context, l *local) error {
				run := registry.GCRun{Grace: l.config.GCGrace, UntaggedTTL: l.config.UntaggedTTL, UndoWindow: l.config.UndoWindow}
				if cmd.Flags().Changed("grace") {
					run.Grace = grace
				}
				if run.Grace < 0 {
					return usagef("--grace %s is negative", run.Grace)
				}
				if dryRun {
					report, err := l.registry.DryRun(ctx, run)
					if err != nil {
						return err
					}
					if output.value == "json" {
						return printJSON(cmd.OutOrStdout(), dryRunJSON(report))
					}
					return printDryRun(cmd.OutOrStdout(), report, run)
				}
				last := time.Now()
				run.Progress = func(g registry.GCReport) {
					if time.Since(last) >= gcProgress {
						last = time.Now()
						fmt.Fprintln(cmd.ErrOrStderr(), "so far:", gcLine(g))
					}
				}
				report, err := l.registry.Collect(ctx, run)
				if output.value == "json" {
					if perr := printJSON(cmd.OutOrStdout(), report); err == nil {
						err = perr
					}
					return err
				}
				fmt.Fprintln(cmd.OutOrStdout(), gcLine(report))
				return err
			})
		},
	}
	addFlags(c.Flags())
	c.Flags().BoolVar(&dryRun, "dry-run", false, "only say what would go")
	c.Flags().DurationVar(&grace, "grace", 0, "how long something has to be unreferenced; without it, the setting gc_grace")
	output = outputFlag(c)
	return c
}

func gcLine(g registry.GCReport) string {
	return fmt.Sprintf("%s deleted, %s taken out of repositories, %s (%s) forgotten; %s removed from the store, %s freed",
		count(g.Manifests, "manifest"), count(g.Links, "blob"), count(g.Blobs, "blob"), showBytes(g.BlobBytes),
		count(g.Objects, "object"), showBytes(g.Freed))
}

// count is "1 manifest" or "2 manifests".
func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// gcReasons says why a manifest was looked at.
var gcReasons = map[string]string{
	"pushed":   "never tagged",
	"untagged": "its tag moved or was deleted",
	"index":    "its index was deleted",
	"subject":  "its subject was deleted",
}

func printDryRun(w io.Writer, report registry.GCReport, run registry.GCRun) error {
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	if len(report.Items) > 0 {
		fmt.Fprintln(t, strings.Join([]string{"WHAT", "REPOSITORY", "DIGEST", "SIZE", "SINCE", "WHY"}, "\t"))
	}
	for _, i := range report.Items {
		what, why, repository := i.Kind, gcReasons[i.Reason], i.Repository
		switch i.Kind {
		case metadata.CollectedLink:
			what, why = "blob", "no manifest of the repository needs it"
		case metadata.CollectedBlob:
			what, why, repository = "bytes", "no repository has the blob", "-"
		}
		fmt.Fprintln(t, strings.Join([]string{what, repository, i.Digest.String(), showBytes(i.Size), showTime(i.Since), why}, "\t"))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if report.Truncated {
		fmt.Fprintln(w, "There is more; this is where the dry run stopped looking.")
	}
	fmt.Fprintf(w, "Would go now, after a grace period of %s: %s, %s in repositories, %s of %s.\n", run.Grace,
		count(report.Manifests, "manifest"), count(report.Links, "blob"), showBytes(report.BlobBytes), count(report.Blobs, "blob"))
	return nil
}

// gcItem is a line of a dry run as JSON.
type gcItem struct {
	Kind       string    `json:"kind"`
	Repository string    `json:"repository,omitempty"`
	Digest     string    `json:"digest"`
	Size       int64     `json:"size"`
	Since      time.Time `json:"since"`
	Reason     string    `json:"reason,omitempty"`
}

func dryRunJSON(report registry.GCReport) any {
	items := make([]gcItem, len(report.Items))
	for i, c := range report.Items {
		items[i] = gcItem{c.Kind, c.Repository, c.Digest.String(), c.Size, c.Since, c.Reason}
	}
	return struct {
		registry.GCReport
		Items []gcItem `json:"items"`
	}{report, items}
}
