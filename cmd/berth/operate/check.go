package operate

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"berth/api"
	"berth/api/reports"
	"berth/cmd/berth/cli"
	"berth/cmd/berth/client"
	"berth/cmd/berth/settings"
	"berth/jobs"
	"berth/oci"
	"berth/registry/collect"
)

// NewCheckCommand makes 'berth check'.
func NewCheckCommand() *cobra.Command {
	var run collect.CheckRun
	var rate int
	var hashRate string
	var output *cli.Choice
	var where place
	var job jobFlags
	c := &cobra.Command{
		Use:   "check",
		Short: "Compare the database with the store, and repair what can be",
		Long: `Compare the database with the store, in both directions: that every blob has its object, of its size
(and with --rehash its digest), and that every object has a row. Servers go on meanwhile.

With --repair, a blob whose bytes are gone or damaged is marked: it is no longer served, and the next push of it,
into any repository, brings it back everywhere. Objects without a row that are older than gc_grace are removed.

A server runs one check at a time, in the background: this command waits for its end, --status shows how far it is or
what the last one found, and --cancel ends it.

The exit code is 0 when nothing is wrong, or nothing any more, else 1.` + whereHelp,
		Example: `  berth check
  berth check --rehash --hash-rate 50MiB --rate 100 -o json
  berth check --repair
  berth check --rehash --server https://registry.example.com
  berth check --status --server https://registry.example.com -o json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			bytes, err := settings.ParseSize(hashRate)
			if err != nil || bytes < 0 || rate < 0 {
				return cli.Usagef("--rate has to be a number and --hash-rate a size such as 64MiB, or 0 for no limit")
			}
			run.Rate, run.HashRate = float64(rate), float64(bytes)
			if remote, err := where.remote(cmd); err != nil {
				return err
			} else if remote {
				return remoteCheck(cmd, &where.server, run, job, output)
			}
			if err := job.local(); err != nil {
				return err
			}
			return runLocal(cmd, true, func(ctx context.Context, l *local) error {
				if run.Repair {
					if err := l.mayChange(); err != nil {
						return err
					}
				}
				p := cli.NewProgress(cmd, "checking")
				run.Progress = showCheck(p)
				checked, err := l.collector.Check(ctx, run)
				report := reports.CheckReport(checked)
				p.End()
				if perr := printCheck(cmd, output, report); perr != nil {
					return perr
				}
				if err != nil {
					return fmt.Errorf("the check could not be finished: %w", err)
				}
				return wrongCheck(report, run.Repair)
			})
		},
	}
	settings.AddFlags(c.Flags())
	where.addFlags(c)
	job.add(c, "check")
	c.Flags().BoolVar(&run.Rehash, "rehash", false, "read all bytes and compute their digests")
	c.Flags().BoolVar(&run.Repair, "repair", false, "repair what can be repaired")
	c.Flags().IntVar(&rate, "rate", 500, "objects to ask for per second at most; 0 for no limit")
	c.Flags().StringVar(&hashRate, "hash-rate", "64MiB", "bytes to read per second at most; 0 for no limit")
	output = cli.OutputFlag(c)
	return c
}

// remoteCheck lets a server check.
func remoteCheck(cmd *cobra.Command, r *client.Remote, run collect.CheckRun, flags jobFlags, output *cli.Choice) error {
	if starts := flags == (jobFlags{}); starts && (run.Rate <= 0 || run.HashRate <= 0) {
		return cli.Usagef("a server checks at a limited rate only: give --rate and --hash-rate more than 0")
	}
	s, err := r.Connect(cmd)
	if err != nil {
		return err
	}
	return serverJob[*api.Check]{
		noun: "check", command: "berth check",
		start: func(ctx context.Context) (string, error) {
			rate, hashRate := int(run.Rate), int64(run.HashRate)
			body := api.StartCheckJSONRequestBody{Rehash: &run.Rehash, Repair: &run.Repair, Rate: &rate, HashRate: &hashRate}
			job, err := client.Accepted(s.StartCheckWithResponse(ctx, body))
			if err != nil {
				return "", err
			}
			return job.Id, nil
		},
		get:    func(ctx context.Context) (*api.Check, error) { return client.Fetched(s.GetCheckWithResponse(ctx)) },
		cancel: func(ctx context.Context) error { return client.Done(s.CancelCheckWithResponse(ctx)) },
		head: func(job *api.Check) jobs.Head {
			return jobs.Head{ID: job.Id, State: job.State, StartedBy: job.StartedBy, UpdatedAt: job.UpdatedAt, Error: cli.Value(job.Error)}
		},
		at:    func(job *api.Check) jobs.Progress { return progressOf(job.Report.Progress) },
		line:  func(job *api.Check) string { return checkLine(job.Report) },
		print: func(job *api.Check) error { return printCheck(cmd, output, job.Report) },
		wrong: func(job *api.Check) error { return wrongCheck(job.Report, job.Repair) },
	}.run(cmd, flags, output)
}

func checkLine(r api.CheckReport) string {
	return fmt.Sprintf("%s, %s compared%s", cli.Count(int(r.Blobs), "blob"), cli.Count(int(r.Objects), "object"), foundLine(r))
}

// verifiedLine is checkLine for a copy, which is looked at in one direction: from its rows to its
// objects.
func verifiedLine(r api.CheckReport) string {
	return cli.Count(int(r.Blobs), "blob") + " compared" + foundLine(r)
}

func foundLine(r api.CheckReport) (line string) {
	if r.BytesRead > 0 || r.Manifests > 0 {
		line += fmt.Sprintf(", %s and %s hashed", oci.ShowBytes(r.BytesRead), cli.Count(int(r.Manifests), "manifest"))
	}
	for _, kind := range slices.Sorted(maps.Keys(r.Found)) {
		line += fmt.Sprintf("; %s: %d", kind, r.Found[kind])
	}
	return line
}

func printCheck(cmd *cobra.Command, output *cli.Choice, r api.CheckReport) error {
	w := cmd.OutOrStdout()
	if output.Value == "json" {
		return cli.PrintJSON(w, r)
	}
	for _, p := range r.Problems {
		state := ""
		if p.Repaired {
			state = " (repaired)"
			if p.Kind == collect.ProblemMissing || p.Kind == collect.ProblemDamaged {
				state = " (marked)"
			}
		}
		fmt.Fprintf(w, "%s%s: %s: %s", p.Kind, state, problemSubject(p), p.Detail)
		if in := cli.Value(p.Repositories); len(in) > 0 {
			fmt.Fprintf(w, "; in %s", strings.Join(in, ", "))
		}
		fmt.Fprintln(w)
	}
	_, err := fmt.Fprintln(w, checkLine(r))
	return err
}

// problemSubject is what a problem is of: a blob or manifest, or else an object.
func problemSubject(p api.CheckProblem) string {
	return cmp.Or(cli.Value(p.Digest), cli.Value(p.Key))
}

// wrongCheck makes an error of what is still wrong, and says what to do about it.
func wrongCheck(r api.CheckReport, repaired bool) error {
	switch {
	case r.Open == 0:
		return nil
	case repaired || !slices.ContainsFunc(r.Problems, func(p api.CheckProblem) bool { return !p.Repaired }): // nothing more to repair
		return fmt.Errorf("%s left: push the missing blobs again, or restore a backup of the store and run berth check --repair", cli.Count(int(r.Open), "problem"))
	}
	return fmt.Errorf("%s left: run berth check --repair", cli.Count(int(r.Open), "problem"))
}

// showCheck is what hears of a check for a bar.
func showCheck(p *cli.Progress) func(collect.CheckReport) {
	return func(r collect.CheckReport) {
		r.Problems = nil // the line only counts them
		p.Show(r.Progress, checkLine(reports.CheckReport(r)))
	}
}
