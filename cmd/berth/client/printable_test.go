package client

import (
	"bytes"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"berth/cmd/berth/cli"
)

// TestTerminalShowsTextOfOthers: what somebody wrote into a description or a reason neither moves the
// cursor of who reads it, nor makes a row, nor turns the direction of writing, in a table, in facts or in an error.
func TestTerminalShowsTextOfOthers(t *testing.T) {
	const hostile = "fine\x1b[2J\x1b]0;owned\a\u202e\u2066\nadmin\tyes\r"
	row := func(yield func(string, error) bool) { yield(hostile, nil) }
	var out bytes.Buffer
	cmd := &cobra.Command{Use: "x", SilenceErrors: true, SilenceUsage: true, RunE: func(cmd *cobra.Command, _ []string) error {
		r := &Remote{output: cli.Choice{Value: "table"}}
		if err := printList(r, cmd, row, []string{"NAME"}, func(s string) []string { return []string{s, "end"} }); err != nil {
			return err
		}
		if err := printFacts(r, cmd, nil, fact{"name", hostile}); err != nil {
			return err
		}
		return nil
	}}
	cmd.SetOut(&out)
	cmd.SetArgs(nil)
	if err := cmd.ExecuteContext(t.Context()); err != nil {
		t.Error(err)
	}
	if text := out.String(); strings.ContainsAny(text, "\x1b\a\r\u202e\u2066") || !strings.Contains(text, `\x1b[2J`) {
		t.Errorf("%q", text)
	}
	if lines := strings.Count(out.String(), "\n"); lines != 3 {
		t.Errorf("%d lines: %q", lines, out.String())
	}
	if s := "plain text, Größe 1 µs, 名前 👩‍🚀"; cli.Printable(s) != s || cli.PrintableLines(s+"\n") != s+"\n" {
		t.Errorf("%q", cli.Printable(s))
	}
}
