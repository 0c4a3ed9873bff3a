package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"berth/api"
	"berth/registry"
)

func newCheckCommand() *cobra.Command {
	var run registry.CheckRun
	var rate int
	var hashRate string
	var output *choice
	var where place
	var status, stop bool
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
			bytes, err := parseSize(hashRate)
			if err != nil || bytes < 0 || rate < 0 {
				return usagef("--rate has to be a number and --hash-rate a size such as 64MiB, or 0 for no limit")
			}
			run.Rate, run.HashRate = float64(rate), float64(bytes)
			if remote, err := where.remote(cmd); err != nil {
				return err
			} else if remote {
				return remoteCheck(cmd, &where.server, run, status, stop, output)
			}
			if status || stop {
				return usagef("--status and --cancel are for the check of a server: give --server")
			}
			return runLocal(cmd, true, func(ctx context.Context, l *local) error {
				run.Progress = func(r registry.CheckReport) {
					fmt.Fprintln(cmd.ErrOrStderr(), "so far:", checkLine(r))
				}
				report, err := l.registry.Check(ctx, run)
				return printChecked(cmd, output, report, run, err)
			})
		},
	}
	addFlags(c.Flags())
	where.addFlags(c)
	c.Flags().BoolVar(&status, "status", false, "of a server: only show the check that runs, or the last one")
	c.Flags().BoolVar(&stop, "cancel", false, "of a server: end the check that runs")
	c.MarkFlagsMutuallyExclusive("status", "cancel")
	c.Flags().BoolVar(&run.Rehash, "rehash", false, "read all bytes and compute their digests")
	c.Flags().BoolVar(&run.Repair, "repair", false, "repair what can be repaired")
	c.Flags().IntVar(&rate, "rate", 500, "objects to ask for per second at most; 0 for no limit")
	c.Flags().StringVar(&hashRate, "hash-rate", "64MiB", "bytes to read per second at most; 0 for no limit")
	output = outputFlag(c)
	return c
}

// printChecked prints a report, and makes an error of what is left.
func printChecked(cmd *cobra.Command, output *choice, report registry.CheckReport, run registry.CheckRun, err error) error {
	if output.value == "json" {
		if perr := printJSON(cmd.OutOrStdout(), report); err == nil {
			err = perr
		}
	} else {
		printCheck(cmd, report)
	}
	switch {
	case err != nil:
		return fmt.Errorf("the check could not be finished: %w", err)
	case report.Open > 0:
		return errors.New(problemsLeft(report, run))
	}
	return nil
}

// checkPoll is how often a server is asked how far its check is.
const checkPoll = time.Second

// remoteCheck lets a server check, and waits for the end. When it is interrupted the check goes on.
func remoteCheck(cmd *cobra.Command, r *remote, run registry.CheckRun, status, stop bool, output *choice) error {
	s, err := r.connect(cmd)
	if err != nil {
		return err
	}
	ctx := cmd.Context()
	if stop {
		if err := done(s.CancelCheckWithResponse(ctx)); err != nil {
			return err
		}
		_, err := fmt.Fprintln(cmd.OutOrStdout(), "The check ends within seconds; berth check --status shows what it has found.")
		return err
	}
	id := ""
	if !status && (run.Rate <= 0 || run.HashRate <= 0) {
		return usagef("a server checks at a limited rate only: give --rate and --hash-rate more than 0")
	}
	if !status {
		rate, hashRate := int(run.Rate), int64(run.HashRate)
		body := api.StartCheckJSONRequestBody{Rehash: &run.Rehash, Repair: &run.Repair, Rate: &rate, HashRate: &hashRate}
		resp, err := s.StartCheckWithResponse(ctx, body)
		if err := check(resp, err); err != nil {
			return err
		}
		started, err := present(resp.GetJSON202())
		if err != nil {
			return err
		}
		id = started.Id
	}
	for {
		shown, err := fetched(s.GetCheckWithResponse(ctx))
		if err != nil {
			return err
		}
		job, err := recast[registry.CheckJob](shown)
		if err != nil {
			return err
		}
		if status && output.value == "json" {
			return printJSON(cmd.OutOrStdout(), shown)
		}
		if status && job.State == registry.JobRunning {
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "running, started by %s at %s: %s\n", job.StartedBy, showTime(job.Report.StartedAt), checkLine(job.Report))
			return err
		}
		if !status && job.ID != id {
			return errors.New("the check has ended, and somebody has started another one since: see berth check --status")
		}
		if job.State != registry.JobRunning {
			var failed error
			if job.State != registry.JobFinished {
				failed = errors.New(cmp.Or(job.Error, "the server that ran it has died"))
			}
			return printChecked(cmd, output, job.Report, registry.CheckRun{Repair: job.Repair}, failed)
		}
		fmt.Fprintln(cmd.ErrOrStderr(), "so far:", checkLine(job.Report))
		select {
		case <-time.After(checkPoll):
		case <-ctx.Done():
			return errors.New("interrupted; the check goes on, see berth check --status, or end it with --cancel")
		}
	}
}

func checkLine(r registry.CheckReport) string {
	line := fmt.Sprintf("%s, %s compared", count(int(r.Blobs), "blob"), count(int(r.Objects), "object"))
	if r.Bytes > 0 || r.Manifests > 0 {
		line += fmt.Sprintf(", %s and %s hashed", showBytes(r.Bytes), count(int(r.Manifests), "manifest"))
	}
	for _, kind := range slices.Sorted(maps.Keys(r.Found)) {
		line += fmt.Sprintf("; %s: %d", kind, r.Found[kind])
	}
	return line
}

func printCheck(cmd *cobra.Command, r registry.CheckReport) {
	w := cmd.OutOrStdout()
	for _, p := range r.Problems {
		state := ""
		if p.Repaired {
			state = " (repaired)"
			if p.Kind == registry.ProblemMissing || p.Kind == registry.ProblemDamaged {
				state = " (marked)"
			}
		}
		subject := p.Key
		if p.Digest != "" {
			subject = p.Digest.String()
		}
		fmt.Fprintf(w, "%s%s: %s: %s", p.Kind, state, subject, p.Detail)
		if len(p.Repositories) > 0 {
			fmt.Fprintf(w, "; in %s", strings.Join(p.Repositories, ", "))
		}
		fmt.Fprintln(w)
	}
	fmt.Fprintln(w, checkLine(r))
}

// problemsLeft says what to do about what is still wrong.
func problemsLeft(r registry.CheckReport, run registry.CheckRun) string {
	text := fmt.Sprintf("%s left", count(int(r.Open), "problem"))
	if !run.Repair {
		return text + ": run berth check --repair"
	}
	return text + ": push the missing blobs again, or restore a backup of the store and run berth check --repair"
}
