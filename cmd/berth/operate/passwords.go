package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"berth/api"
	"berth/auth"
	"berth/metadata"
	"berth/people"
)

func newUserPasswordCommand(r *remote) *cobra.Command {
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
	addFlags(c.Flags())
	fromStdin := c.Flags().Bool("new-password-stdin", false, "read the new password from stdin")
	withoutServer := c.Flags().Bool("local", false, "set it in the configured database itself, without asking a server")
	remotely := r.signedIn(func(cmd *cobra.Command, args []string, s *connection) error {
		me, err := fetched(s.WhoamiWithResponse(cmd.Context()))
		if err != nil {
			return err
		}
		name := me.Name
		if len(args) == 1 {
			name = args[0]
		}
		if err := userArgument(name); err != nil {
			return err
		}
		var body api.PasswordChange
		if name == me.Name {
			current, ok, err := askPassword(cmd, "Current password: ")
			if err != nil {
				return err
			}
			if !ok {
				current = s.from.password
			}
			body.CurrentPassword = &current
		}
		if body.Password, err = newPassword(r, cmd, *fromStdin, ""); err != nil {
			return err
		}
		if err := done(s.SetPasswordWithResponse(cmd.Context(), name, body)); err != nil {
			return err
		}
		return printDone(r, cmd, nil, "the password of %s is set", name)
	})
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if !*withoutServer {
			return remotely(cmd, args)
		}
		if cmd.Flags().Changed("server") {
			return usagef("--local asks no server: leave out --server")
		}
		if len(args) == 0 {
			return usagef("with --local nobody is signed in: name the user, such as admin")
		}
		if err := userArgument(args[0]); err != nil {
			return err
		}
		return runLocal(cmd, false, func(ctx context.Context, l *local) error { return setPassword(ctx, r, cmd, l, args[0], *fromStdin) })
	}
	return c
}

// restorer is who the audit log names for a password that was set without a server.
var restorer = auth.Operator("berth user password --local")

// setPassword sets a user's password in the database.
func setPassword(ctx context.Context, r *remote, cmd *cobra.Command, l *local, name string, fromStdin bool) error {
	if err := l.mayChange(); err != nil {
		return err
	}
	// Whether there is such a user is said before a password is asked for.
	if err := l.db.View(ctx, func(tx *metadata.Tx) error { _, err := tx.User(ctx, name); return err }); err != nil {
		return fmt.Errorf("%s", message(err))
	}
	password, err := newPassword(r, cmd, fromStdin, "")
	if err != nil {
		return err
	}
	if err := people.CheckPassword(password); err != nil {
		return fmt.Errorf("%s", message(err))
	}
	if err := people.New(people.Options{DB: l.db, Hasher: auth.NewHasher(1)}).SetPassword(ctx, restorer, name, people.Password{New: password}); err != nil {
		return fmt.Errorf("%s", message(err))
	}
	var user metadata.User
	if err := l.db.View(ctx, func(tx *metadata.Tx) (err error) { user, err = tx.User(ctx, name); return err }); err != nil {
		return fmt.Errorf("%s", message(err))
	}
	if user.Disabled {
		fmt.Fprintf(cmd.ErrOrStderr(), "%s is disabled, and cannot sign in until an admin says: berth user set %s --enable\n", name, name)
	}
	return printDone(r, cmd, nil, "the password of %s is set", name)
}
