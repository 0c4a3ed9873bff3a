package main

import (
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"berth/api"
)

// asJSON reports whether the answer is to be printed as JSON.
func (r *remote) asJSON() bool { return r.output.value == "json" }

// printJSON writes a value as the API gives it, indented.
func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// printList writes a list as a table with a header, or as one JSON array.
func printList[T any](r *remote, cmd *cobra.Command, items iter.Seq2[T, error], header []string, row func(T) []string) error {
	if r.asJSON() {
		list := []T{}
		for item, err := range items {
			if err != nil {
				return err
			}
			list = append(list, item)
		}
		return printJSON(cmd.OutOrStdout(), list)
	}
	w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 3, ' ', 0)
	rows := [][]string{header}
	for item, err := range items {
		if err != nil {
			return err
		}
		rows = append(rows, row(item))
	}
	for _, cells := range rows {
		for i := range cells {
			cells[i] = printable(cells[i])
		}
		fmt.Fprintln(w, strings.Join(cells, "\t"))
	}
	return w.Flush()
}

// fact is a line of what `show` prints.
type fact struct{ name, value string }

// printFacts writes a thing as lines of "name: value", or as JSON.
func printFacts(r *remote, cmd *cobra.Command, v any, facts ...fact) error {
	if r.asJSON() {
		return printJSON(cmd.OutOrStdout(), v)
	}
	w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
	for _, f := range facts {
		fmt.Fprintf(w, "%s:\t%s\n", f.name, printable(f.value))
	}
	return w.Flush()
}

// printDone writes the changed thing as JSON, or a sentence.
func printDone(r *remote, cmd *cobra.Command, v any, format string, args ...any) error {
	if r.asJSON() && v != nil {
		return printJSON(cmd.OutOrStdout(), v)
	}
	if r.asJSON() {
		return nil
	}
	_, err := fmt.Fprintf(cmd.OutOrStdout(), format+"\n", args...)
	return err
}

// showTime is a point in time to the second, in UTC.
func showTime(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// showTimeOr is showTime, or a word for no time.
func showTimeOr(t *time.Time, none string) string {
	if t == nil {
		return none
	}
	return showTime(*t)
}

// showOr is a text, or a word for none.
func showOr(s *string, none string) string {
	if s == nil || *s == "" {
		return none
	}
	return *s
}

// showState is whether a user or a group counts.
func showState(disabled bool) string {
	if disabled {
		return "disabled"
	}
	return "enabled"
}

// showBytes is a size for people, in binary units.
func showBytes(n int64) string {
	if n < 1024 {
		return strconv.FormatInt(n, 10) + " B"
	}
	v, unit := float64(n), ""
	for _, unit = range []string{"KiB", "MiB", "GiB", "TiB", "PiB"} {
		if v /= 1024; v < 1024 {
			break
		}
	}
	return fmt.Sprintf("%.1f %s", v, unit)
}

func showList[T ~string](list []T) string {
	if len(list) == 0 {
		return "none"
	}
	parts := make([]string, len(list))
	for i, s := range list {
		parts[i] = string(s)
	}
	return strings.Join(parts, ", ")
}

// choice is a flag that takes one of a few words.
type choice struct {
	value  string
	values []string
}

// String, Set and Type make a choice a pflag.Value.
func (c *choice) String() string { return c.value }

// Set takes one of the words.
func (c *choice) Set(s string) error {
	if !slices.Contains(c.values, s) {
		return fmt.Errorf("use one of %s", strings.Join(c.values, ", "))
	}
	c.value = s
	return nil
}

// Type is what the help calls the flag's value.
func (c *choice) Type() string { return "string" }

func (c *choice) complete(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return c.values, cobra.ShellCompDirectiveNoFileComp
}

// choiceFlag adds a flag that takes one of a few words and completes them.
func choiceFlag(cmd *cobra.Command, name, initial, usage string, values ...string) *choice {
	c := &choice{value: initial, values: values}
	cmd.Flags().Var(c, name, usage+": "+strings.Join(values, ", "))
	if err := cmd.RegisterFlagCompletionFunc(name, c.complete); err != nil {
		panic(err) // the flag is defined in the line above
	}
	return c
}

// duration is a flag that takes what api.ParseDuration reads.
type duration time.Duration

// String, Set and Type make a duration a pflag.Value.
func (d *duration) String() string { return api.FormatDuration(time.Duration(*d)) }

// Set reads a duration.
func (d *duration) Set(s string) error {
	v, err := api.ParseDuration(s)
	if err == nil {
		*d = duration(v)
	}
	return err
}

// Type is what the help calls the flag's value.
func (d *duration) Type() string { return "duration" }

// durationFlag adds a flag that takes a duration.
func durationFlag(flags *pflag.FlagSet, name string, initial time.Duration, usage string) *time.Duration {
	d := duration(initial)
	flags.Var(&d, name, usage)
	if initial == 0 { // no default to speak of: the usage says what holds without the flag
		flags.Lookup(name).DefValue = ""
	}
	return (*time.Duration)(&d)
}

// pointer is nil for the zero value: a field that is left out.
func pointer[T comparable](v T) *T {
	var zero T
	if v == zero {
		return nil
	}
	return &v
}
