package client

import (
	"github.com/spf13/cobra"

	"berth/api"
	"berth/api/client"
	"berth/cmd/berth/cli"
)

// NewTeamCommand makes 'berth team'.
func NewTeamCommand(r *Remote) *cobra.Command {
	c := &cobra.Command{
		Use:   "team",
		Short: "Manage teams, their members and their tag policy",
		Long: `Manage teams. A team owns the repositories whose first path segment is its name: the
members of core push to core/app. Readers pull, members also push, maintainers also
delete and manage the team.`,
		Example: `  berth team create core
  berth team add-member core alice --role maintainer
  berth team set core --tag-policy immutable --exempt latest`,
	}
	c.AddCommand(
		newTeamCreateCommand(r),
		newTeamListCommand(r),
		newTeamShowCommand(r),
		newTeamSetCommand(r),
		newTeamDeleteCommand(r),
		newTeamMembersCommand(r),
		newTeamAddMemberCommand(r),
		newTeamRemoveMemberCommand(r),
	)
	return c
}

func newTeamCreateCommand(r *Remote) *cobra.Command {
	c := &cobra.Command{
		Use:   "create NAME",
		Short: "Create a team",
		Example: `  berth team create core
  berth team create oss --default-visibility public`,
		Args: arguments(nameOf("team")),
	}
	visibility := defaultVisibilityFlag(c)
	c.RunE = r.SignedIn(func(cmd *cobra.Command, args []string, s *Connection) error {
		team, err := created(s.CreateTeamWithResponse(cmd.Context(), api.TeamCreate{
			Name: args[0], DefaultVisibility: cli.Pointer(api.DefaultVisibility(visibility.Value))}))
		if err != nil {
			return err
		}
		return PrintDone(r, cmd, team, "team %s is created", team.Name)
	})
	return c
}

func defaultVisibilityFlag(c *cobra.Command) *cli.Choice {
	return cli.ChoiceFlag(c, "default-visibility", "", "what new repositories of the team start with", "public", "internal", "private", "inherit")
}

func newTeamListCommand(r *Remote) *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Short:   "List your teams; for admins, all teams",
		Example: `  berth team list`,
		Args:    cobra.NoArgs,
		RunE: r.SignedIn(func(cmd *cobra.Command, args []string, s *Connection) error {
			teams := All(func(limit *api.Limit, after *api.After) (*client.ListTeamsResponse, error) {
				return s.ListTeamsWithResponse(cmd.Context(), &api.ListTeamsParams{Limit: limit, After: after})
			})
			return printList(r, cmd, teams, []string{"NAME", "DEFAULT VISIBILITY", "CREATED"}, func(t api.Team) []string {
				return []string{t.Name, string(t.DefaultVisibility), cli.ShowTime(t.CreatedAt)}
			})
		}),
	}
}

func newTeamShowCommand(r *Remote) *cobra.Command {
	return &cobra.Command{
		Use:     "show NAME",
		Short:   "Show a team and the tag policy that holds for it",
		Example: `  berth team show core`,
		Args:    arguments(nameOf("team")),
		RunE: r.SignedIn(func(cmd *cobra.Command, args []string, s *Connection) error {
			t, err := Fetched(s.GetTeamWithResponse(cmd.Context(), args[0]))
			if err != nil {
				return err
			}
			p, err := Fetched(s.GetTeamTagPolicyWithResponse(cmd.Context(), args[0]))
			if err != nil {
				return err
			}
			shown := struct {
				*api.Team
				TagPolicy *api.EffectiveTagPolicy `json:"tag_policy"`
			}{t, p}
			return printFacts(r, cmd, shown, append([]fact{
				{"Name", t.Name},
				{"Default visibility", string(t.DefaultVisibility)},
				{"Created", cli.ShowTime(t.CreatedAt)}},
				policyFacts(*p)...)...)
		}),
	}
}

func newTeamSetCommand(r *Remote) *cobra.Command {
	c := &cobra.Command{
		Use:   "set NAME",
		Short: "Change a team's default visibility or tag policy",
		Long:  "Change a team.\n\n" + policyHelp,
		Example: `  berth team set core --default-visibility internal
  berth team set core --add-exempt 'dev-*'
  berth team set core --tag-policy immutable --exempt latest --exempt 'dev-*'
  berth team set core --tag-policy inherit`,
		Args: arguments(nameOf("team")),
	}
	visibility := defaultVisibilityFlag(c)
	policy := addPolicyFlags(c, true)
	c.MarkFlagsOneRequired("default-visibility", "tag-policy", "exempt", "add-exempt")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		team := args[0]
		if err := policy.confirm(r, cmd, "all of team "+team); err != nil {
			return err
		}
		s, err := r.Connect(cmd)
		if err != nil {
			return err
		}
		ctx := cmd.Context()
		if visibility.Value != "" {
			t, err := Fetched(s.UpdateTeamWithResponse(ctx, team, &api.UpdateTeamParams{},
				api.TeamChange{DefaultVisibility: cli.Pointer(api.DefaultVisibility(visibility.Value))}))
			if err != nil {
				return err
			}
			if err := PrintDone(r, cmd, t, "team %s: default visibility %s", t.Name, t.DefaultVisibility); err != nil {
				return err
			}
		}
		return policy.apply(r, cmd, "team "+team, policyCalls{
			get: func() (*api.EffectiveTagPolicy, error) { return Fetched(s.GetTeamTagPolicyWithResponse(ctx, team)) },
			put: func(p api.TagPolicy) (*api.EffectiveTagPolicy, error) {
				return Fetched(s.SetTeamTagPolicyWithResponse(ctx, team, p))
			},
			remove: func() error { return Done(s.DeleteTeamTagPolicyWithResponse(ctx, team)) },
		})
	}
	return c
}

func newTeamDeleteCommand(r *Remote) *cobra.Command {
	return &cobra.Command{
		Use:     "delete NAME",
		Short:   "Delete a team that has no repositories",
		Example: `  berth team delete core --yes`,
		Args:    arguments(nameOf("team")),
		RunE: r.SignedIn(func(cmd *cobra.Command, args []string, s *Connection) error {
			if err := r.confirm(cmd, "This deletes the team "+args[0]+" with its memberships, robots, trust policies and quota, and the grants and denials on its repositories."); err != nil {
				return err
			}
			if err := Done(s.DeleteTeamWithResponse(cmd.Context(), args[0], &api.DeleteTeamParams{})); err != nil {
				return err
			}
			return PrintDone(r, cmd, nil, "team %s is deleted", args[0])
		}),
	}
}

func newTeamMembersCommand(r *Remote) *cobra.Command {
	return &cobra.Command{
		Use:     "members TEAM",
		Short:   "List the members of a team",
		Example: `  berth team members core`,
		Args:    arguments(nameOf("team")),
		RunE: r.SignedIn(func(cmd *cobra.Command, args []string, s *Connection) error {
			members := All(func(limit *api.Limit, after *api.After) (*client.ListMembersResponse, error) {
				return s.ListMembersWithResponse(cmd.Context(), args[0], &api.ListMembersParams{Limit: limit, After: after})
			})
			return printList(r, cmd, members, []string{"USER", "ROLE"}, func(m api.Member) []string {
				return []string{m.User, string(m.Role)}
			})
		}),
	}
}

func newTeamAddMemberCommand(r *Remote) *cobra.Command {
	c := &cobra.Command{
		Use:   "add-member TEAM USER",
		Short: "Add a user to a team, or change the role there",
		Example: `  berth team add-member core alice
  berth team add-member core bob --role maintainer`,
		Args: arguments(nameOf("team"), UserArgument),
	}
	role := cli.ChoiceFlag(c, "role", "member", "what the user may do in the team", "reader", "member", "maintainer")
	c.RunE = r.SignedIn(func(cmd *cobra.Command, args []string, s *Connection) error {
		m, err := Fetched(s.PutMemberWithResponse(cmd.Context(), args[0], args[1], api.MemberChange{Role: api.TeamRole(role.Value)}))
		if err != nil {
			return err
		}
		return PrintDone(r, cmd, m, "%s is %s of %s", m.User, m.Role, args[0])
	})
	return c
}

func newTeamRemoveMemberCommand(r *Remote) *cobra.Command {
	return &cobra.Command{
		Use:     "remove-member TEAM USER",
		Short:   "Remove a user from a team",
		Example: `  berth team remove-member core alice`,
		Args:    arguments(nameOf("team"), UserArgument),
		RunE: r.SignedIn(func(cmd *cobra.Command, args []string, s *Connection) error {
			if err := Done(s.RemoveMemberWithResponse(cmd.Context(), args[0], args[1])); err != nil {
				return err
			}
			return PrintDone(r, cmd, nil, "%s is not in %s any more", args[1], args[0])
		}),
	}
}
