package main

import (
	"fmt"
	"iter"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
)

// asJSON reports whether the answer is to be printed as JSON.
func (r *remote) asJSON() bool { return r.output.value == "json" }

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
