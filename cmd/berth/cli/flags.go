package cli

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"berth/api"
)

// OutputFlag adds --output to a command that has no server's.
func OutputFlag(cmd *cobra.Command) *Choice {
	c := &Choice{Value: "text", Values: []string{"text", "json"}}
	cmd.Flags().VarP(c, "output", "o", "form of the output: text, json")
	if err := cmd.RegisterFlagCompletionFunc("output", c.Complete); err != nil {
		panic(err) // the flag is defined in the line above
	}
	return c
}

// Choice is a flag that takes one of a few words.
type Choice struct {
	Value  string
	Values []string
}

// String, Set and Type make a choice a pflag.Value.
func (c *Choice) String() string { return c.Value }

// Set takes one of the words.
func (c *Choice) Set(s string) error {
	if !slices.Contains(c.Values, s) {
		return fmt.Errorf("use one of %s", strings.Join(c.Values, ", "))
	}
	c.Value = s
	return nil
}

// Type is what the help calls the flag's value.
func (c *Choice) Type() string { return "string" }

// Complete gives the shell the words of the choice.
func (c *Choice) Complete(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return c.Values, cobra.ShellCompDirectiveNoFileComp
}

// ChoiceFlag adds a flag that takes one of a few words and completes them.
func ChoiceFlag(cmd *cobra.Command, name, initial, usage string, values ...string) *Choice {
	c := &Choice{Value: initial, Values: values}
	cmd.Flags().Var(c, name, usage+": "+strings.Join(values, ", "))
	if err := cmd.RegisterFlagCompletionFunc(name, c.Complete); err != nil {
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

// DurationFlag adds a flag that takes a duration.
func DurationFlag(flags *pflag.FlagSet, name string, initial time.Duration, usage string) *time.Duration {
	d := duration(initial)
	flags.Var(&d, name, usage)
	if initial == 0 { // no default to speak of: the usage says what holds without the flag
		flags.Lookup(name).DefValue = ""
	}
	return (*time.Duration)(&d)
}
