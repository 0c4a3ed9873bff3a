package client

import (
	"strings"

	"github.com/spf13/cobra"

	"berth/api"
	"berth/api/client"
	"berth/auth"
	"berth/cmd/berth/cli"
)

// NewUserCommand makes 'berth user'.
func NewUserCommand(r *Remote) *cobra.Command {
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

// UserArgument checks a user's name before it becomes part of a path.
func UserArgument(s string) error {
	if _, err := auth.ParseUserName(s); err != nil {
		return cli.Usagef("%q is not the name of a user", s)
	}
	return nil
}

func newUserCreateCommand(r *Remote) *cobra.Command {
	c := &cobra.Command{
		Use:   "create NAME",
		Short: "Create a user",
		Long: `Create a user. The password is asked for on the terminal, or read from stdin with
--new-password-stdin. A user without a password signs in by tokens only.`,
		Example: `  berth user create alice
  berth user create alice --new-password-stdin <password.txt
  berth user create bot --no-password`,
		Args: arguments(UserArgument),
	}
	role := cli.ChoiceFlag(c, "role", "user", "what the user may do on the instance", "user", "admin")
	fromStdin := c.Flags().Bool("new-password-stdin", false, "read the new user's password from stdin")
	none := c.Flags().Bool("no-password", false, "create the user without a password")
	c.MarkFlagsMutuallyExclusive("new-password-stdin", "no-password")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		body := api.UserCreate{Name: args[0], Role: cli.Pointer(api.Role(role.Value))}
		if !*none {
			password, err := NewPassword(r, cmd, *fromStdin, "or --no-password")
			if err != nil {
				return err
			}
			body.Password = &password
		}
		s, err := r.Connect(cmd)
		if err != nil {
			return err
		}
		user, err := created(s.CreateUserWithResponse(cmd.Context(), body))
		if err != nil {
			return err
		}
		return PrintDone(r, cmd, user, "user %s is created", user.Name)
	}
	return c
}

// NewPassword gets a password that is about to be set: from stdin, or typed twice.
func NewPassword(r *Remote, cmd *cobra.Command, fromStdin bool, otherwise string) (string, error) {
	if fromStdin && r.passwordStdin {
		return "", cli.Usagef("stdin cannot hold both passwords: give your own in BERTH_PASSWORD instead of --password-stdin")
	}
	if fromStdin {
		return cli.ReadLine(cmd)
	}
	password, ok, err := cli.AskPassword(cmd, "New password: ")
	if err != nil {
		return "", err
	}
	if !ok {
		return "", cli.Usagef("there is no terminal to ask for the new password on: use --new-password-stdin %s", otherwise)
	}
	again, _, err := cli.AskPassword(cmd, "Again: ")
	if err != nil {
		return "", err
	}
	if password != again {
		return "", cli.Usagef("the two passwords differ")
	}
	return password, nil
}

func newUserListCommand(r *Remote) *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Short:   "List the users",
		Example: `  berth user list --output json`,
		Args:    cobra.NoArgs,
		RunE: r.SignedIn(func(cmd *cobra.Command, args []string, s *Connection) error {
			users := All(func(limit *api.Limit, after *api.After) (*client.ListUsersResponse, error) {
				return s.ListUsersWithResponse(cmd.Context(), &api.ListUsersParams{Limit: limit, After: after})
			})
			return printList(r, cmd, users, []string{"NAME", "ROLE", "STATE", "SOURCE", "CREATED"}, func(u api.User) []string {
				return []string{u.Name, string(u.Role), cli.ShowState(u.Disabled), u.Source, cli.ShowTime(u.CreatedAt)}
			})
		}),
	}
}

func newUserShowCommand(r *Remote) *cobra.Command {
	return &cobra.Command{
		Use:     "show NAME",
		Short:   "Show a user",
		Example: `  berth user show alice`,
		Args:    arguments(UserArgument),
		RunE: r.SignedIn(func(cmd *cobra.Command, args []string, s *Connection) error {
			u, err := Fetched(s.GetUserWithResponse(cmd.Context(), args[0]))
			if err != nil {
				return err
			}
			return printFacts(r, cmd, u,
				fact{"Name", u.Name},
				fact{"Role", string(u.Role)},
				fact{"State", cli.ShowState(u.Disabled)},
				fact{"Source", u.Source},
				fact{"Last vouched for", cli.ShowTimeOr(u.SeenAt, "-")},
				fact{"Teams", showUserTeams(u.Teams)},
				fact{"Groups", showGroups(u.Groups)},
				fact{"Created", cli.ShowTime(u.CreatedAt)},
				fact{"Changed", cli.ShowTime(u.UpdatedAt)})
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

func newUserSetCommand(r *Remote) *cobra.Command {
	c := &cobra.Command{
		Use:   "set NAME",
		Short: "Change a user's role, or disable or enable the user",
		Long:  `Change a user. A disabled user cannot sign in, and neither can the user's tokens.`,
		Example: `  berth user set alice --role admin
  berth user set bob --disable
  berth user set bob --enable`,
		Args: arguments(UserArgument),
	}
	role := cli.ChoiceFlag(c, "role", "", "what the user may do on the instance", "user", "admin")
	disable := c.Flags().Bool("disable", false, "refuse the user and the user's tokens")
	enable := c.Flags().Bool("enable", false, "let the user in again")
	c.MarkFlagsMutuallyExclusive("disable", "enable")
	c.MarkFlagsOneRequired("role", "disable", "enable")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		body := api.UserChange{Role: cli.Pointer(api.Role(role.Value))}
		if *disable || *enable {
			body.Disabled = disable
		}
		s, err := r.Connect(cmd)
		if err != nil {
			return err
		}
		u, err := Fetched(s.UpdateUserWithResponse(cmd.Context(), args[0], &api.UpdateUserParams{}, body))
		if err != nil {
			return err
		}
		return PrintDone(r, cmd, u, "user %s: role %s, %s", u.Name, u.Role, cli.ShowState(u.Disabled))
	}
	return c
}

func newUserDeleteCommand(r *Remote) *cobra.Command {
	return &cobra.Command{
		Use:     "delete NAME",
		Short:   "Delete a user with all memberships and personal tokens",
		Example: `  berth user delete alice --yes`,
		Args:    arguments(UserArgument),
		RunE: r.SignedIn(func(cmd *cobra.Command, args []string, s *Connection) error {
			if err := r.confirm(cmd, "This deletes the user "+args[0]+" with all memberships and personal tokens."); err != nil {
				return err
			}
			if err := Done(s.DeleteUserWithResponse(cmd.Context(), args[0], &api.DeleteUserParams{})); err != nil {
				return err
			}
			return PrintDone(r, cmd, nil, "user %s is deleted", args[0])
		}),
	}
}
