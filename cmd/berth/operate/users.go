package operate

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"berth/api"
	"berth/auth"
	"berth/cmd/berth/cli"
	"berth/cmd/berth/client"
	"berth/cmd/berth/settings"
	"berth/oci"
	"berth/people"
)

// NewUserPasswordCommand makes 'berth password'.
func NewUserPasswordCommand(r *client.Remote) *cobra.Command {
	c := &cobra.Command{
		Use:     "password [NAME]",
		Aliases: []string{"passwd"},
		Short:   "Set a password, your own without a name",
		Long: `Set a password: your own, or as an admin another user's. Your own needs the current
one, which is asked for on the terminal; without a terminal it is the one you sign in with.

When the password of the last admin is lost, --local sets a user's password in the configured database
itself, with the servers stopped or running. It needs no sign-in, but the settings and the access to the
database that a server has. It is on record in the audit log.`,
		Example: `  berth user password
  berth user password alice --new-password-stdin <password.txt
  berth user password admin --local --data-dir /var/lib/berth`,
		Args: cobra.MaximumNArgs(1),
	}
	settings.AddFlags(c.Flags())
	fromStdin := c.Flags().Bool("new-password-stdin", false, "read the new password from stdin")
	withoutServer := c.Flags().Bool("local", false, "set it in the configured database itself, without asking a server")
	remotely := r.SignedIn(func(cmd *cobra.Command, args []string, s *client.Connection) error {
		me, err := client.Fetched(s.WhoamiWithResponse(cmd.Context()))
		if err != nil {
			return err
		}
		name := me.Name
		if len(args) == 1 {
			name = args[0]
		}
		if err := client.UserArgument(name); err != nil {
			return err
		}
		var body api.PasswordChange
		if name == me.Name {
			current, ok, err := cli.AskPassword(cmd, "Current password: ")
			if err != nil {
				return err
			}
			if !ok {
				current = s.From.Password
			}
			body.CurrentPassword = &current
		}
		if body.Password, err = client.NewPassword(r, cmd, *fromStdin, ""); err != nil {
			return err
		}
		if err := client.Done(s.SetPasswordWithResponse(cmd.Context(), name, body)); err != nil {
			return err
		}
		return client.PrintDone(r, cmd, nil, "the password of %s is set", name)
	})
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if !*withoutServer {
			return remotely(cmd, args)
		}
		if cmd.Flags().Changed("server") {
			return cli.Usagef("--local asks no server: leave out --server")
		}
		if len(args) == 0 {
			return cli.Usagef("with --local nobody is signed in: name the user, such as admin")
		}
		if err := client.UserArgument(args[0]); err != nil {
			return err
		}
		return runLocal(cmd, false, func(ctx context.Context, l *local) error { return setPassword(ctx, r, cmd, l, args[0], *fromStdin) })
	}
	return c
}

// restorer is who the audit log names for a password that was set without a server.
var restorer = auth.Operator("berth user password --local")

// setPassword sets a user's password in the database.
func setPassword(ctx context.Context, r *client.Remote, cmd *cobra.Command, l *local, name string, fromStdin bool) error {
	if err := l.mayChange(); err != nil {
		return err
	}
	// Whether there is such a user is said before a password is asked for.
	if _, err := l.people().User(ctx, name); err != nil {
		return fmt.Errorf("%s", oci.Message(err))
	}
	password, err := client.NewPassword(r, cmd, fromStdin, "")
	if err != nil {
		return err
	}
	if err := people.CheckPassword(password); err != nil {
		return fmt.Errorf("%s", oci.Message(err))
	}
	if err := l.people().SetPassword(ctx, restorer, name, people.Password{New: password}); err != nil {
		return fmt.Errorf("%s", oci.Message(err))
	}
	user, err := l.people().User(ctx, name)
	if err != nil {
		return fmt.Errorf("%s", oci.Message(err))
	}
	if user.Disabled {
		fmt.Fprintf(cmd.ErrOrStderr(), "%s is disabled, and cannot sign in until an admin says: berth user set %s --enable\n", name, name)
	}
	return client.PrintDone(r, cmd, nil, "the password of %s is set", name)
}
