package client

import (
	"strings"

	"github.com/spf13/cobra"

	"berth/api"
	"berth/api/client"
	"berth/cmd/berth/cli"
	"berth/metadata"
)

// NewGrantCommand makes 'berth grant'.
func NewGrantCommand(r *Remote) *cobra.Command {
	c := &cobra.Command{
		Use:   "grant",
		Short: "Manage what is granted to single users and groups",
		Long: `Manage grants: rights of a user or a group on one repository, or on all that a pattern matches,
beside those that teams give. In a pattern * stands for any characters, '/' included, and ?
for one: 'core/*' has core/app and core/a/b, and neither core nor corexy/app. Grants add up, and
each stands alone. Admins grant everywhere, maintainers of a team inside of the team.`,
		Example: `  berth grant add core/app --user alice --actions pull,push
  berth grant add 'core/*' --group devs
  berth grant list --repository core/app
  berth grant remove core/app --user alice`,
	}
	c.AddCommand(newGrantAddCommand(r), newGrantListCommand(r), newGrantRemoveCommand(r))
	return c
}

// grantee are the flags that say to whom.
type grantee struct{ user, group *string }

func addGrantee(c *cobra.Command) grantee {
	g := grantee{
		user:  c.Flags().String("user", "", "this user"),
		group: c.Flags().String("group", "", "this group"),
	}
	c.MarkFlagsMutuallyExclusive("user", "group")
	return g
}

func (g grantee) check(pattern string) error {
	if err := patternArgument(pattern); err != nil {
		return err
	}
	if *g.group != "" {
		return groupArgument(*g.group)
	}
	return UserArgument(*g.user)
}

func (g grantee) String() string { return metadata.Grantee{User: *g.user, Group: *g.group}.String() }

func patternArgument(s string) error {
	if err := metadata.ParsePattern(s); err != nil {
		return cli.Usagef("%q is not a pattern on names of repositories, such as core/app or 'core/*'", s)
	}
	return nil
}

// actionsFlag reads a list of actions.
func actionsFlag(c *cobra.Command, initial []string, usage string) func() ([]api.Action, error) {
	words := c.Flags().StringSlice("actions", initial, usage+": pull, push, delete, admin")
	return func() ([]api.Action, error) { return parseActions(*words) }
}

func parseActions(words []string) ([]api.Action, error) {
	var actions []api.Action
	for _, word := range words {
		action, err := actionArgument(strings.TrimSpace(word))
		if err != nil {
			return nil, err
		}
		actions = append(actions, action)
	}
	return actions, nil
}

func newGrantAddCommand(r *Remote) *cobra.Command {
	c := &cobra.Command{
		Use:   "add PATTERN",
		Short: "Grant rights to a user or a group, or change what is granted",
		Long: `Grant rights on a repository or a pattern to a user or a group. What was granted to them on the same
pattern before is replaced. push does not include pull, so grant both to somebody who pushes.`,
		Example: `  berth grant add core/app --user alice --actions pull,push
  berth grant add 'core/*' --group devs --actions pull`,
		Args: cobra.ExactArgs(1),
	}
	to := addGrantee(c)
	c.MarkFlagsOneRequired("user", "group")
	read := actionsFlag(c, []string{"pull"}, "what is granted")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if err := to.check(args[0]); err != nil {
			return err
		}
		actions, err := read()
		if err != nil {
			return err
		}
		s, err := r.Connect(cmd)
		if err != nil {
			return err
		}
		var g *api.Grant
		if *to.group != "" {
			g, err = Fetched(s.PutGroupGrantWithResponse(cmd.Context(), *to.group, args[0], api.GrantChange{Actions: actions}))
		} else {
			g, err = Fetched(s.PutUserGrantWithResponse(cmd.Context(), *to.user, args[0], api.GrantChange{Actions: actions}))
		}
		if err != nil {
			return err
		}
		return PrintDone(r, cmd, g, "%s has %s on %s", to, cli.ShowList(g.Actions), g.Pattern)
	}
	return c
}

func newGrantListCommand(r *Remote) *cobra.Command {
	c := &cobra.Command{
		Use:   "list",
		Short: "List the grants that you may see",
		Long:  `List grants. Admins see all, others what reaches them and what lies in the teams that they maintain.`,
		Example: `  berth grant list
  berth grant list --repository core/app
  berth grant list --group devs --output json`,
		Args: cobra.NoArgs,
	}
	to := addGrantee(c)
	repository := c.Flags().String("repository", "", "only those whose pattern matches this repository")
	team := c.Flags().String("team", "", "only those whose pattern lies in this team")
	c.RunE = r.SignedIn(func(cmd *cobra.Command, args []string, s *Connection) error {
		grants := All(func(limit *api.Limit, after *api.After) (*client.ListGrantsResponse, error) {
			return s.ListGrantsWithResponse(cmd.Context(), &api.ListGrantsParams{Limit: limit, After: after,
				User: cli.Pointer(*to.user), Group: cli.Pointer(*to.group), Repository: cli.Pointer(*repository), Team: cli.Pointer(*team)})
		})
		return printList(r, cmd, grants, []string{"TO", "PATTERN", "ACTIONS", "BY", "CREATED"}, func(g api.Grant) []string {
			who := ""
			if g.User != nil {
				who = "user " + *g.User
			} else if g.Group != nil {
				who = "group " + *g.Group
			}
			return []string{who, g.Pattern, cli.ShowList(g.Actions), g.CreatedBy, cli.ShowTime(g.CreatedAt)}
		})
	})
	return c
}

func newGrantRemoveCommand(r *Remote) *cobra.Command {
	c := &cobra.Command{
		Use:   "remove PATTERN",
		Short: "Take a grant away",
		Long:  `Take a grant away. It holds from the next token on; what teams and other grants give stays.`,
		Example: `  berth grant remove core/app --user alice
  berth grant remove 'core/*' --group devs`,
		Args: cobra.ExactArgs(1),
	}
	to := addGrantee(c)
	c.MarkFlagsOneRequired("user", "group")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if err := to.check(args[0]); err != nil {
			return err
		}
		s, err := r.Connect(cmd)
		if err != nil {
			return err
		}
		if *to.group != "" {
			err = Done(s.DeleteGroupGrantWithResponse(cmd.Context(), *to.group, args[0]))
		} else {
			err = Done(s.DeleteUserGrantWithResponse(cmd.Context(), *to.user, args[0]))
		}
		if err != nil {
			return err
		}
		return PrintDone(r, cmd, nil, "%s has no grant on %s any more", to, args[0])
	}
	return c
}
