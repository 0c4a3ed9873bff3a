package client

import (
	"strings"

	"github.com/spf13/cobra"

	"berth/api"
	"berth/api/client"
	"berth/cmd/berth/cli"
)

// NewGroupCommand makes 'berth group'.
func NewGroupCommand(r *Remote) *cobra.Command {
	c := &cobra.Command{
		Use:   "group",
		Short: "Manage groups, which rights are granted to",
		Long: `Manage groups. A group is a set of users that rights are granted to with 'berth grant'. Its
members are those put in here, and the users whose identity provider names a group of the
same name.`,
		Example: `  berth group create devs
  berth group add-member devs alice
  berth grant add 'core/*' --group devs --actions pull,push`,
	}
	c.AddCommand(
		newGroupCreateCommand(r),
		newGroupListCommand(r),
		newGroupShowCommand(r),
		newGroupStateCommand(r, "enable", "Let what is granted to a group count again", false),
		newGroupStateCommand(r, "disable", "Take what is granted to a group away from all its members", true),
		newGroupDeleteCommand(r),
		newGroupMembersCommand(r),
		newGroupAddMemberCommand(r),
		newGroupRemoveMemberCommand(r),
	)
	return c
}

// groupArgument refuses what cannot be a group's name before it becomes part of a path.
func groupArgument(s string) error {
	if s == "" || strings.TrimSpace(s) != s || s == "." || s == ".." {
		return cli.Usagef("%q is not the name of a group", s)
	}
	return nil
}

func newGroupCreateCommand(r *Remote) *cobra.Command {
	return &cobra.Command{
		Use:   "create NAME",
		Short: "Create a group",
		Example: `  berth group create devs
  berth group create 'CN=devs,OU=Groups,DC=example,DC=org'`,
		Args: arguments(groupArgument),
		RunE: r.SignedIn(func(cmd *cobra.Command, args []string, s *Connection) error {
			group, err := created(s.CreateGroupWithResponse(cmd.Context(), api.GroupCreate{Name: args[0]}))
			if err != nil {
				return err
			}
			return PrintDone(r, cmd, group, "group %s is created", group.Name)
		}),
	}
}

func newGroupListCommand(r *Remote) *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Short:   "List the groups",
		Example: `  berth group list`,
		Args:    cobra.NoArgs,
		RunE: r.SignedIn(func(cmd *cobra.Command, args []string, s *Connection) error {
			groups := All(func(limit *api.Limit, after *api.After) (*client.ListGroupsResponse, error) {
				return s.ListGroupsWithResponse(cmd.Context(), &api.ListGroupsParams{Limit: limit, After: after})
			})
			return printList(r, cmd, groups, []string{"NAME", "STATE", "CREATED"}, func(g api.Group) []string {
				return []string{g.Name, cli.ShowState(g.Disabled), cli.ShowTime(g.CreatedAt)}
			})
		}),
	}
}

func newGroupShowCommand(r *Remote) *cobra.Command {
	return &cobra.Command{
		Use:     "show NAME",
		Short:   "Show a group",
		Example: `  berth group show devs`,
		Args:    arguments(groupArgument),
		RunE: r.SignedIn(func(cmd *cobra.Command, args []string, s *Connection) error {
			g, err := Fetched(s.GetGroupWithResponse(cmd.Context(), args[0]))
			if err != nil {
				return err
			}
			return printFacts(r, cmd, g,
				fact{"Name", g.Name},
				fact{"State", cli.ShowState(g.Disabled)},
				fact{"Created", cli.ShowTime(g.CreatedAt)},
				fact{"Changed", cli.ShowTime(g.UpdatedAt)})
		}),
	}
}

func newGroupStateCommand(r *Remote, verb, short string, disabled bool) *cobra.Command {
	return &cobra.Command{
		Use:     verb + " NAME",
		Short:   short,
		Long:    short + ". It holds from the next token of each member on.",
		Example: `  berth group ` + verb + ` devs`,
		Args:    arguments(groupArgument),
		RunE: r.SignedIn(func(cmd *cobra.Command, args []string, s *Connection) error {
			g, err := Fetched(s.UpdateGroupWithResponse(cmd.Context(), args[0], &api.UpdateGroupParams{}, api.GroupChange{Disabled: disabled}))
			if err != nil {
				return err
			}
			return PrintDone(r, cmd, g, "group %s is %s", g.Name, cli.ShowState(g.Disabled))
		}),
	}
}

func newGroupDeleteCommand(r *Remote) *cobra.Command {
	return &cobra.Command{
		Use:     "delete NAME",
		Short:   "Delete a group",
		Example: `  berth group delete devs --yes`,
		Args:    arguments(groupArgument),
		RunE: r.SignedIn(func(cmd *cobra.Command, args []string, s *Connection) error {
			if err := r.confirm(cmd, "This deletes the group "+args[0]+" with its memberships and all that is granted to it."); err != nil {
				return err
			}
			if err := Done(s.DeleteGroupWithResponse(cmd.Context(), args[0], &api.DeleteGroupParams{})); err != nil {
				return err
			}
			return PrintDone(r, cmd, nil, "group %s is deleted", args[0])
		}),
	}
}

func newGroupMembersCommand(r *Remote) *cobra.Command {
	return &cobra.Command{
		Use:     "members GROUP",
		Short:   "List the members of a group, ours and the identity provider's",
		Example: `  berth group members devs`,
		Args:    arguments(groupArgument),
		RunE: r.SignedIn(func(cmd *cobra.Command, args []string, s *Connection) error {
			members := All(func(limit *api.Limit, after *api.After) (*client.ListGroupMembersResponse, error) {
				return s.ListGroupMembersWithResponse(cmd.Context(), args[0], &api.ListGroupMembersParams{Limit: limit, After: after})
			})
			return printList(r, cmd, members, []string{"USER", "BY"}, func(m api.GroupMember) []string {
				if m.Provider {
					return []string{m.User, "identity provider"}
				}
				return []string{m.User, "berth"}
			})
		}),
	}
}

func newGroupAddMemberCommand(r *Remote) *cobra.Command {
	return &cobra.Command{
		Use:     "add-member GROUP USER",
		Short:   "Put a user into a group",
		Example: `  berth group add-member devs alice`,
		Args:    arguments(groupArgument, UserArgument),
		RunE: r.SignedIn(func(cmd *cobra.Command, args []string, s *Connection) error {
			m, err := Fetched(s.PutGroupMemberWithResponse(cmd.Context(), args[0], args[1]))
			if err != nil {
				return err
			}
			return PrintDone(r, cmd, m, "%s is in the group %s", m.User, args[0])
		}),
	}
}

func newGroupRemoveMemberCommand(r *Remote) *cobra.Command {
	return &cobra.Command{
		Use:     "remove-member GROUP USER",
		Short:   "Take a user out of a group",
		Example: `  berth group remove-member devs alice`,
		Args:    arguments(groupArgument, UserArgument),
		RunE: r.SignedIn(func(cmd *cobra.Command, args []string, s *Connection) error {
			if err := Done(s.RemoveGroupMemberWithResponse(cmd.Context(), args[0], args[1])); err != nil {
				return err
			}
			return PrintDone(r, cmd, nil, "%s is not in the group %s any more", args[1], args[0])
		}),
	}
}
