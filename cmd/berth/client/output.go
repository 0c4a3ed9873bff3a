package client

import (
	"fmt"
	"iter"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"berth/cmd/berth/cli"
)

// asJSON reports whether the answer is to be printed as JSON.
func (r *Remote) asJSON() bool { return r.output.Value == "json" }

// printList writes a list as a table with a header, or as one JSON array.
func printList[T any](r *Remote, cmd *cobra.Command, items iter.Seq2[T, error], header []string, row func(T) []string) error {
	if r.asJSON() {
		list := []T{}
		for item, err := range items {
			if err != nil {
				return err
			}
			list = append(list, item)
		}
		return cli.PrintJSON(cmd.OutOrStdout(), list)
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
			cells[i] = cli.Printable(cells[i])
		}
		fmt.Fprintln(w, strings.Join(cells, "\t"))
	}
	return w.Flush()
}

// fact is a line of what `show` prints.
type fact struct{ name, value string }

// printFacts writes a thing as lines of "name: value", or as JSON.
func printFacts(r *Remote, cmd *cobra.Command, v any, facts ...fact) error {
	if r.asJSON() {
		return cli.PrintJSON(cmd.OutOrStdout(), v)
	}
	w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
	for _, f := range facts {
		fmt.Fprintf(w, "%s:\t%s\n", f.name, cli.Printable(f.value))
	}
	return w.Flush()
}

// PrintDone writes the changed thing as JSON, or a sentence.
func PrintDone(r *Remote, cmd *cobra.Command, v any, format string, args ...any) error {
	if r.asJSON() && v != nil {
		return cli.PrintJSON(cmd.OutOrStdout(), v)
	}
	if r.asJSON() {
		return nil
	}
	_, err := fmt.Fprintf(cmd.OutOrStdout(), format+"\n", args...)
	return err
}
