package main

import (
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// TestEveryCommandHasAnExample: help without an example sends people to search for one.
func TestEveryCommandHasAnExample(t *testing.T) {
	count := 0
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		count++
		if c.HasParent() && (!strings.Contains(c.Example, "berth ") || c.Short == "") {
			t.Errorf("%s: Short %q, Example %q", c.CommandPath(), c.Short, c.Example)
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(newRootCommand())
	if count < 60 {
		t.Errorf("only %d commands were looked at", count)
	}
}
