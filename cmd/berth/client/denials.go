package client

import (
	"github.com/spf13/cobra"

	"berth/api"
	"berth/api/client"
	"berth/cmd/berth/cli"
)

// NewDenyCommand makes 'berth deny'.
func NewDenyCommand(r *Remote) *cobra.Command {
	c := &cobra.Command{
		Use:   "deny",
		Short: "Manage denials, which refuse whatever else allows",
		Long: `Manage denials. A denial refuses actions to everybody whom all its conditions meet: who, from which
network, on which repositories. It wins over roles, grants, tokens and public repositories, and meets
admins too, but for the management of the registry: nobody can be locked out of taking it back.`,
		Example: `  berth deny add freeze --repositories 'core/*' --actions push --reason 'release week'
  berth deny add office --from 192.0.2.0/24 --actions pull
  berth deny list
  berth deny remove freeze`,
	}
	c.AddCommand(newDenyAddCommand(r), newDenyListCommand(r), newDenyShowCommand(r), newDenyRemoveCommand(r))
	return c
}

func newDenyAddCommand(r *Remote) *cobra.Command {
	c := &cobra.Command{
		Use:   "add NAME",
		Short: "Make a denial, or replace one",
		Long: `Make a denial, or replace the one of the same name. It holds at once for new tokens, and within seconds
for those that clients have.`,
		Example: `  berth deny add freeze --repositories 'core/*' --actions push --reason 'release week'
  berth deny add ci-abroad --principal 'core+*' --from 198.51.100.0/24 --actions pull,push`,
		Args: arguments(nameOf("denial")),
	}
	principal := c.Flags().String("principal", "*", "whom: a pattern on names of users and robots, such as alice or 'core+*'")
	from := c.Flags().String("from", "", "from which network, such as 192.0.2.0/24 (default everywhere)")
	repositories := c.Flags().String("repositories", "*", "a pattern (* and ?) on the names of repositories")
	reason := c.Flags().String("reason", "", "what those are told who are refused")
	read := actionsFlag(c, nil, "what is refused")
	if err := c.MarkFlagRequired("actions"); err != nil {
		panic(err) // only for a flag that is not there
	}
	c.RunE = func(cmd *cobra.Command, args []string) error {
		actions, err := read()
		if err != nil {
			return err
		}
		s, err := r.Connect(cmd)
		if err != nil {
			return err
		}
		d, err := Fetched(s.PutDenialWithResponse(cmd.Context(), args[0], &api.PutDenialParams{}, api.DenialChange{
			Principal: principal, Cidr: cli.Pointer(*from), Repository: repositories, Actions: actions, Reason: cli.Pointer(*reason)}))
		if err != nil {
			return err
		}
		return PrintDone(r, cmd, d, "denial %s: %s may not %s on %s%s", d.Name, d.Principal, cli.ShowList(d.Actions), d.Repository, fromWhere(d))
	}
	return c
}

func fromWhere(d *api.Denial) string {
	if d.Cidr == nil {
		return ""
	}
	return " from " + *d.Cidr
}

func newDenyListCommand(r *Remote) *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Short:   "List the denials",
		Example: `  berth deny list`,
		Args:    cobra.NoArgs,
		RunE: r.SignedIn(func(cmd *cobra.Command, args []string, s *Connection) error {
			denials := All(func(limit *api.Limit, after *api.After) (*client.ListDenialsResponse, error) {
				return s.ListDenialsWithResponse(cmd.Context(), &api.ListDenialsParams{Limit: limit, After: after})
			})
			return printList(r, cmd, denials, []string{"NAME", "PRINCIPAL", "FROM", "REPOSITORIES", "ACTIONS", "REASON"}, func(d api.Denial) []string {
				return []string{d.Name, d.Principal, cli.ShowOr(d.Cidr, "-"), d.Repository, cli.ShowList(d.Actions), cli.ShowOr(d.Reason, "-")}
			})
		}),
	}
}

func newDenyShowCommand(r *Remote) *cobra.Command {
	return &cobra.Command{
		Use:     "show NAME",
		Short:   "Show a denial",
		Example: `  berth deny show freeze`,
		Args:    arguments(nameOf("denial")),
		RunE: r.SignedIn(func(cmd *cobra.Command, args []string, s *Connection) error {
			d, err := Fetched(s.GetDenialWithResponse(cmd.Context(), args[0]))
			if err != nil {
				return err
			}
			return printFacts(r, cmd, d,
				fact{"Name", d.Name},
				fact{"Principal", d.Principal},
				fact{"From", cli.ShowOr(d.Cidr, "-")},
				fact{"Repositories", d.Repository},
				fact{"Actions", cli.ShowList(d.Actions)},
				fact{"Reason", cli.ShowOr(d.Reason, "-")},
				fact{"Created", cli.ShowTime(d.CreatedAt) + " by " + d.CreatedBy},
				fact{"Changed", cli.ShowTime(d.UpdatedAt)})
		}),
	}
}

func newDenyRemoveCommand(r *Remote) *cobra.Command {
	return &cobra.Command{
		Use:     "remove NAME",
		Short:   "Remove a denial",
		Example: `  berth deny remove freeze`,
		Args:    arguments(nameOf("denial")),
		RunE: r.SignedIn(func(cmd *cobra.Command, args []string, s *Connection) error {
			if err := Done(s.DeleteDenialWithResponse(cmd.Context(), args[0], &api.DeleteDenialParams{})); err != nil {
				return err
			}
			return PrintDone(r, cmd, nil, "denial %s is removed", args[0])
		}),
	}
}
