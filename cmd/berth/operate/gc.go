package operate

import (
	"context"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"berth/api"
	"berth/api/reports"
	"berth/cmd/berth/cli"
	"berth/cmd/berth/client"
	"berth/cmd/berth/settings"
	"berth/metadata"
	"berth/oci"
	"berth/registry/collect"
)

// gcProgress is how often a long run says how far it is.
const gcProgress = 2 * time.Second

// NewGCCommand makes 'berth gc'.
func NewGCCommand() *cobra.Command {
	var dryRun, status bool
	var grace *time.Duration
	var output *cli.Choice
	var where place
	c := &cobra.Command{
		Use:   "gc",
		Short: "Collect garbage now, or say what would go",
		Long: `Collect garbage now: manifests that no policy keeps, blobs that no manifest needs, and
their objects. Running servers do the same by themselves, a little at a time; this is for those who
want to see it, or want the space at once. Servers, pushes and pulls go on meanwhile.

Nothing goes that has been unreferenced for less than the grace period. With --grace 0s a push that is
under way may be told that a blob is unknown, and has to push again; no image ever loses anything.
What was deleted within the undo window stays; with --undo-window 0s it goes, and cannot be restored.` + whereHelp,
		Example: `  berth gc --dry-run
  berth gc --grace 0s
  berth gc --grace 0s --undo-window 0s
  berth gc --untagged-ttl 720h --dry-run -o json
  berth gc --status --server https://registry.example.com`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if remote, err := where.remote(cmd); err != nil {
				return err
			} else if remote {
				return remoteGC(cmd, &where.server, dryRun, status, output)
			}
			return runLocal(cmd, !status, func(ctx context.Context, l *local) error {
				if status {
					s, err := l.collector.Status(ctx)
					if err != nil {
						return err
					}
					return printCollector(cmd, output, reports.Collector(s))
				}
				run := collect.Run{Grace: l.config.GCGrace, UntaggedTTL: l.config.UntaggedTTL, UndoWindow: l.config.UndoWindow}
				if cmd.Flags().Changed("grace") {
					run.Grace = *grace
				}
				if run.Grace < 0 {
					return cli.Usagef("--grace %s is negative", run.Grace)
				}
				if dryRun {
					report, err := l.collector.DryRun(ctx, run)
					if err != nil {
						return err
					}
					grace := func() (time.Duration, error) { return run.Grace, nil }
					return printDryRun(cmd.OutOrStdout(), output, reports.CollectorReport(report), grace)
				}
				if err := l.mayChange(); err != nil {
					return err
				}
				last := time.Now()
				run.Progress = func(g collect.Report) {
					if time.Since(last) >= gcProgress {
						last = time.Now()
						fmt.Fprintln(cmd.ErrOrStderr(), "so far:", gcLine(reports.CollectorReport(g)))
					}
				}
				collected, err := l.collector.Collect(ctx, run)
				report := reports.CollectorReport(collected)
				if output.Value == "json" {
					if perr := cli.PrintJSON(cmd.OutOrStdout(), report); err == nil {
						err = perr
					}
					return err
				}
				fmt.Fprintln(cmd.OutOrStdout(), gcLine(report))
				return err
			})
		},
	}
	settings.AddFlags(c.Flags())
	where.addFlags(c)
	c.Flags().BoolVar(&dryRun, "dry-run", false, "only say what would go")
	c.Flags().BoolVar(&status, "status", false, "only show the collector's rules, its queues and what went last")
	c.MarkFlagsMutuallyExclusive("dry-run", "status")
	grace = cli.DurationFlag(c.Flags(), "grace", 0, "how long something has to be unreferenced; without it, the setting gc_grace")
	output = cli.OutputFlag(c)
	return c
}

func gcLine(g api.CollectorReport) string {
	return fmt.Sprintf("%s deleted, %s taken out of repositories, %s (%s) forgotten; %s removed from the store, %s freed",
		cli.Count(g.Manifests, "manifest"), cli.Count(g.Links, "blob"), cli.Count(g.Blobs, "blob"), oci.ShowBytes(g.BlobBytes),
		cli.Count(g.Objects, "object"), oci.ShowBytes(g.FreedBytes))
}

// gcReasons says why a manifest was looked at.
var gcReasons = map[string]string{
	"pushed":   "never tagged",
	"untagged": "its tag moved or was deleted",
	"index":    "its index was deleted",
	"subject":  "its subject was deleted",
}

// printDryRun prints what would go. Only the text needs the grace period, which a server is asked for.
func printDryRun(w io.Writer, output *cli.Choice, report api.CollectorReport, askGrace func() (time.Duration, error)) error {
	items := []api.CollectorItem{}
	if report.Items != nil {
		items = *report.Items
	}
	if output.Value == "json" {
		report.Items = &items // also when nothing would go
		return cli.PrintJSON(w, report)
	}
	grace, err := askGrace()
	if err != nil {
		return err
	}
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	if len(items) > 0 {
		fmt.Fprintln(t, strings.Join([]string{"WHAT", "REPOSITORY", "DIGEST", "SIZE", "SINCE", "WHY"}, "\t"))
	}
	for _, i := range items {
		what, why, repository := i.Kind, gcReasons[cli.Value(i.Reason)], cli.Value(i.Repository)
		switch i.Kind {
		case metadata.CollectedLink:
			what, why = "blob", "no manifest of the repository needs it"
		case metadata.CollectedBlob:
			what, why, repository = "bytes", "no repository has the blob", "-"
		}
		fmt.Fprintln(t, strings.Join([]string{what, repository, i.Digest, oci.ShowBytes(i.Size), cli.ShowTime(i.Since), why}, "\t"))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if all := report.Manifests + report.Links + report.Blobs; all > len(items) { // by a server
		fmt.Fprintf(w, "These are the first %d of %d that it found; a dry run looks at 20,000 candidates at most.\n", len(items), all)
	} else if cli.Value(report.Truncated) {
		fmt.Fprintln(w, "There is more; this is where the dry run stopped looking.")
	}
	fmt.Fprintf(w, "Would go now, after a grace period of %s: %s, %s in repositories, %s of %s.\n", grace,
		cli.Count(report.Manifests, "manifest"), cli.Count(report.Links, "blob"), oci.ShowBytes(report.BlobBytes), cli.Count(report.Blobs, "blob"))
	return nil
}

// remoteGC asks a server to collect, again and again until nothing is left.
func remoteGC(cmd *cobra.Command, r *client.Remote, dryRun, status bool, output *cli.Choice) error {
	s, err := r.Connect(cmd)
	if err != nil {
		return err
	}
	ctx := cmd.Context()
	if status {
		shown, err := client.Fetched(s.GetCollectorWithResponse(ctx))
		if err != nil {
			return err
		}
		return printCollector(cmd, output, *shown)
	}
	body := api.CollectorRun{DryRun: &dryRun}
	for name, field := range map[string]**string{"grace": &body.Grace, "untagged-ttl": &body.UntaggedTtl, "undo-window": &body.UndoWindow} {
		if f := cmd.Flags().Lookup(name); f != nil && f.Changed {
			value := f.Value.String()
			*field = &value
		}
	}
	var all api.CollectorReport
	for {
		report, err := client.Fetched(s.RunCollectorWithResponse(ctx, body))
		if err != nil {
			return err
		}
		if dryRun {
			return printDryRun(cmd.OutOrStdout(), output, *report, func() (time.Duration, error) { return remoteGrace(cmd, s) })
		}
		all = bothReports(all, *report)
		if !cli.Value(report.More) {
			break
		}
		fmt.Fprintln(cmd.ErrOrStderr(), "so far:", gcLine(all))
	}
	if output.Value == "json" {
		return cli.PrintJSON(cmd.OutOrStdout(), all)
	}
	_, err = fmt.Fprintln(cmd.OutOrStdout(), gcLine(all))
	return err
}

// bothReports makes one report of two runs, one after the other.
func bothReports(a, b api.CollectorReport) api.CollectorReport {
	return api.CollectorReport{
		Manifests: a.Manifests + b.Manifests, Links: a.Links + b.Links, Blobs: a.Blobs + b.Blobs, BlobBytes: a.BlobBytes + b.BlobBytes,
		Objects: a.Objects + b.Objects, FreedBytes: a.FreedBytes + b.FreedBytes, More: b.More,
	}
}

// remoteGrace is the grace period of the flag, or else of the server.
func remoteGrace(cmd *cobra.Command, s *client.Connection) (time.Duration, error) {
	grace := cmd.Flags().Lookup("grace")
	text := grace.Value.String()
	if !grace.Changed {
		c, err := client.Fetched(s.GetCollectorWithResponse(cmd.Context()))
		if err != nil {
			return 0, err
		}
		text = c.GcGrace
	}
	return api.ParseDuration(text)
}

func printCollector(cmd *cobra.Command, output *cli.Choice, c api.Collector) error {
	w := cmd.OutOrStdout()
	if output.Value == "json" {
		return cli.PrintJSON(w, c)
	}
	fmt.Fprintf(w, "gc_grace %s, untagged_ttl %s\n\n", c.GcGrace, c.UntaggedTtl)
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintln(t, "QUEUE\tLENGTH\tOLDEST")
	for _, q := range c.Queues {
		fmt.Fprintf(t, "%s\t%d\t%s\n", q.Name, q.Length, time.Duration(q.OldestSeconds)*time.Second)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if c.Last == nil || c.LastAt == nil {
		_, err := fmt.Fprintln(w, "\nNothing was collected yet.")
		return err
	}
	_, err := fmt.Fprintf(w, "\nLast, at %s: %s\n", cli.ShowTime(*c.LastAt), gcLine(*c.Last))
	return err
}
