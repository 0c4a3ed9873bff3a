package main

import (
	"strings"

	"github.com/spf13/cobra"

	"berth/api"
	"berth/api/client"
	"berth/auth"
)

func newUserCommand(r *remote) *cobra.Command {
	c := &cobra.Command{
		Use:   "user",
		Short: "Manage users",
		Example: `  berth user create alice
  berth user list
  berth user set alice --role admin`,
	}
	c.AddCommand(
		newUserCreateCommand(r),
		newUserListCommand(r),
		newUserShowCommand(r),
		newUserSetCommand(r),
		newUserDeleteCommand(r),
	)
	return c
}

// userArgument checks a user's name before it becomes part of a path.
func userArgument(s string) error {
	if _, err := auth.ParseUserName(s); err != nil {
		return usagef("%q is not the name of a user", s)
	}
	return nil
}

func newUserCreateCommand(r *remote) *cobra.Command {
	c := &cobra.Command{
		Use:   "create NAME",
		Short: "Create a user",
		Long: `Create a user. The password is asked for on the terminal, or read from stdin with
--new-password-stdin. A user without a password signs in by tokens only.`,
		Example: `  berth user create alice
  berth user create alice --new-password-stdin <password.txt
  berth user create bot --no-password`,
		Args: arguments(userArgument),
	}
	role := choiceFlag(c, "role", "user", "what the user may do on the instance", "user", "admin")
	fromStdin := c.Flags().Bool("new-password-stdin", false, "read the new user's password from stdin")
	none := c.Flags().Bool("no-password", false, "create the user without a password")
	c.MarkFlagsMutuallyExclusive("new-password-stdin", "no-password")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		body := api.UserCreate{Name: args[0], Role: pointer(api.Role(role.value))}
		if !*none {
			password, err := newPassword(r, cmd, *fromStdin, "or --no-password")
			if err != nil {
				return err
			}
			body.Password = &password
		}
		s, err := r.connect(cmd)
		if err != nil {
			return err
		}
		user, err := created(s.CreateUserWithResponse(cmd.Context(), body))
		if err != nil {
			return err
		}
		return printDone(r, cmd, user, "user %s is created", user.Name)
	}
	return c
}

// newPassword gets a password that is about to be set: from stdin, or typed twice.
func newPassword(r *remote, cmd *cobra.Command, fromStdin bool, otherwise string) (string, error) {
	if fromStdin && r.passwordStdin {
		return "", usagef("stdin cannot hold both passwords: give your own in BERTH_PASSWORD instead of --password-stdin")
	}
	if fromStdin {
		return readLine(cmd)
	}
	password, ok, err := askPassword(cmd, "New password: ")
	if err != nil {
		return "", err
	}
	if !ok {
		return "", usagef("there is no terminal to ask for the new password on: use --new-password-stdin %s", otherwise)
	}
	again, _, err := askPassword(cmd, "Again: ")
	if err != nil {
		return "", err
	}
	if password != again {
		return "", usagef("the two passwords differ")
	}
	return password, nil
}

func newUserListCommand(r *remote) *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Short:   "List the users",
		Example: `  berth user list --output json`,
		Args:    cobra.NoArgs,
		RunE: r.signedIn(func(cmd *cobra.Command, args []string, s *connection) error {
			users := all(func(limit *api.Limit, after *api.After) (*client.ListUsersResponse, error) {
				return s.ListUsersWithResponse(cmd.Context(), &api.ListUsersParams{Limit: limit, After: after})
			})
			return printList(r, cmd, users, []string{"NAME", "ROLE", "STATE", "SOURCE", "CREATED"}, func(u api.User) []string {
				return []string{u.Name, string(u.Role), showState(u.Disabled), u.Source, showTime(u.CreatedAt)}
			})
		}),
	}
}

func newUserShowCommand(r *remote) *cobra.Command {
	return &cobra.Command{
		Use:     "show NAME",
		Short:   "Show a user",
		Example: `  berth user show alice`,
		Args:    arguments(userArgument),
		RunE: r.signedIn(func(cmd *cobra.Command, args []string, s *connection) error {
			u, err := fetched(s.GetUserWithResponse(cmd.Context(), args[0]))
			if err != nil {
				return err
			}
			return printFacts(r, cmd, u,
				fact{"Name", u.Name},
				fact{"Role", string(u.Role)},
				fact{"State", showState(u.Disabled)},
				fact{"Source", u.Source},
				fact{"Last vouched for", showTimeOr(u.SeenAt, "-")},
				fact{"Teams", showUserTeams(u.Teams)},
				fact{"Groups", showGroups(u.Groups)},
				fact{"Created", showTime(u.CreatedAt)},
				fact{"Changed", showTime(u.UpdatedAt)})
		}),
	}
}

// showUserTeams lists roles in teams; those of a provider are marked.
func showUserTeams(teams *[]api.UserTeam) string {
	if teams == nil || len(*teams) == 0 {
		return "-"
	}
	var shown []string
	for _, t := range *teams {
		text := t.Team + " (" + string(t.Role)
		if t.Provider {
			text += ", by the identity provider"
		}
		shown = append(shown, text+")")
	}
	return strings.Join(shown, ", ")
}

func showGroups(groups *[]string) string {
	if groups == nil || len(*groups) == 0 {
		return "-"
	}
	return strings.Join(*groups, ", ")
}

func newUserSetCommand(r *remote) *cobra.Command {
	c := &cobra.Command{
		Use:   "set NAME",
		Short: "Change a user's role, or disable or enable the user",
		Long:  `Change a user. A disabled user cannot sign in, and neither can the user's tokens.`,
		Example: `  berth user set alice --role admin
  berth user set bob --disable
  berth user set bob --enable`,
		Args: arguments(userArgument),
	}
	role := choiceFlag(c, "role", "", "what the user may do on the instance", "user", "admin")
	disable := c.Flags().Bool("disable", false, "refuse the user and the user's tokens")
	enable := c.Flags().Bool("enable", false, "let the user in again")
	c.MarkFlagsMutuallyExclusive("disable", "enable")
	c.MarkFlagsOneRequired("role", "disable", "enable")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		body := api.UserChange{Role: pointer(api.Role(role.value))}
		if *disable || *enable {
			body.Disabled = disable
		}
		s, err := r.connect(cmd)
		if err != nil {
			return err
		}
		u, err := fetched(s.UpdateUserWithResponse(cmd.Context(), args[0], &api.UpdateUserParams{}, body))
		if err != nil {
			return err
		}
		return printDone(r, cmd, u, "user %s: role %s, %s", u.Name, u.Role, showState(u.Disabled))
	}
	return c
}

func newUserDeleteCommand(r *remote) *cobra.Command {
	return &cobra.Command{
		Use:     "delete NAME",
		Short:   "Delete a user with all memberships and personal tokens",
		Example: `  berth user delete alice --yes`,
		Args:    arguments(userArgument),
		RunE: r.signedIn(func(cmd *cobra.Command, args []string, s *connection) error {
			if err := r.confirm(cmd, "This deletes the user "+args[0]+" with all memberships and personal tokens."); err != nil {
				return err
			}
			if err := done(s.DeleteUserWithResponse(cmd.Context(), args[0], &api.DeleteUserParams{})); err != nil {
				return err
			}
			return printDone(r, cmd, nil, "user %s is deleted", args[0])
		}),
	}
}
