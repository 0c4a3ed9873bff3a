// Command berth is the registry and its command line client in one binary: `berth serve` runs the
// server, the other verbs talk to a running one over the management API, or work on the database
// and store themselves. Start with newRootCommand in root.go, which names every command. The rooms
// below: settings (the table), open (what the settings open), serve (the server), operate (local
// commands), client (remote ones), cli (what they share).
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"berth/cmd/berth/cli"
	"berth/cmd/berth/client"
	"berth/cmd/berth/settings"
)

// version is set by the linker.
var version = "dev"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the program where it is
	code := run(ctx, newRootCommand(), client.CommandLine(os.Args), os.Stderr)
	stop()
	os.Exit(code)
}

// interrupted is the exit code of a command that a signal ended, as shells have it for Ctrl-C.
const interrupted = 130

// run executes a command line and gives the exit code: 0, 1 when the command failed, 2 when it was
// not understood, 130 when it was interrupted. What went wrong goes to stderr.
func run(ctx context.Context, root *cobra.Command, args []string, stderr io.Writer) int {
	started := false
	prepare(root, &started)
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return 0
	}
	if errors.Is(err, cli.ErrNo) {
		return 1
	}
	cut := ctx.Err() != nil
	if errors.Is(err, context.Canceled) {
		cut, err = true, errors.New("interrupted")
	}
	fmt.Fprintf(stderr, "berth: %s\n", cli.PrintableLines(strings.TrimSpace(err.Error())))
	if cut {
		return interrupted
	}
	var usage cli.UsageError
	if started && !errors.As(err, &usage) {
		return 1
	}
	fmt.Fprintf(stderr, "See '%s --help'.\n", cmd.CommandPath())
	return 2
}

// prepare makes every command below c say when one has started: what cobra
// refuses before that, such as unknown flags, is a matter of usage. A command
// that only has others below it refuses words that are none of them.
func prepare(c *cobra.Command, started *bool) {
	switch runE := c.RunE; {
	case runE != nil:
		if check := c.Args; check != nil {
			c.Args = func(cmd *cobra.Command, args []string) error {
				err := check(cmd, args)
				var usage cli.UsageError
				if err != nil && !errors.As(err, &usage) { // cobra's, who counts
					return cli.Usagef("%s, where the command is '%s %s'%s", given(args), cmd.Parent().CommandPath(), cmd.Use, astray(cmd, args))
				}
				return err
			}
		}
		c.RunE = func(cmd *cobra.Command, args []string) error {
			*started = true
			return runE(cmd, args)
		}
	case c.HasSubCommands() && c.HasParent():
		c.Args = cobra.NoArgs
		c.RunE = func(cmd *cobra.Command, args []string) error { return cmd.Help() }
	}
	for _, child := range c.Commands() {
		prepare(child, started)
	}
}

// astray says where the value of a flag stands that needs none, when one was given like that of other flags.
func astray(cmd *cobra.Command, args []string) (hint string) {
	cmd.Flags().Visit(func(f *pflag.Flag) {
		if f.NoOptDefVal != "" && f.Annotations[settings.SettingFlag] != nil && f.Value.String() == f.NoOptDefVal && len(args) > 0 {
			hint = fmt.Sprintf("; a value of --%s stands behind an equals sign: --%s=%s", f.Name, f.Name, args[0])
		}
	})
	return hint
}

// given says how many arguments there are.
func given(args []string) string {
	if len(args) == 0 {
		return "there is no argument"
	}
	return "there are the arguments " + strings.Join(args, " ")
}
