package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"berth/registry"
)

func newCheckCommand() *cobra.Command {
	var run registry.CheckRun
	var rate int
	var hashRate string
	var output *choice
	c := &cobra.Command{
		Use:   "check",
		Short: "Compare the database with the store, and repair what can be",
		Long: `Compare the database with the store, in both directions: that every blob has its object, of its size
(and with --rehash its digest), and that every object has a row. Servers go on meanwhile.

With --repair, a blob whose bytes are gone or damaged is marked: it is no longer served, and the next push of it,
into any repository, brings it back everywhere. Objects without a row that are older than gc_grace are removed.

The exit code is 0 when nothing is wrong, or nothing any more, else 1.`,
		Example: `  berth check
  berth check --rehash --hash-rate 50MiB --rate 100 -o json
  berth check --repair`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			bytes, err := parseSize(hashRate)
			if err != nil || bytes < 0 || rate < 0 {
				return usagef("--rate has to be a number and --hash-rate a size such as 64MiB, or 0 for no limit")
			}
			run.Rate, run.HashRate = float64(rate), float64(bytes)
			return runLocal(cmd, true, func(ctx context.Context, l *local) error {
				run.Progress = func(r registry.CheckReport) {
					fmt.Fprintln(cmd.ErrOrStderr(), "so far:", checkLine(r))
				}
				report, err := l.registry.Check(ctx, run)
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
			})
		},
	}
	addFlags(c.Flags())
	c.Flags().BoolVar(&run.Rehash, "rehash", false, "read all bytes and compute their digests")
	c.Flags().BoolVar(&run.Repair, "repair", false, "repair what can be repaired")
	c.Flags().IntVar(&rate, "rate", 500, "objects to ask for per second at most; 0 for no limit")
	c.Flags().StringVar(&hashRate, "hash-rate", "64MiB", "bytes to read per second at most; 0 for no limit")
	output = outputFlag(c)
	return c
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
