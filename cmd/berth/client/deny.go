package main

import (
	"github.com/spf13/cobra"

	"berth/api"
	"berth/api/client"
)

func newDenyCommand(r *remote) *cobra.Command {
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

func newDenyAddCommand(r *remote) *cobra.Command {
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
		s, err := r.connect(cmd)
		if err != nil {
			return err
		}
		d, err := fetched(s.PutDenialWithResponse(cmd.Context(), args[0], &api.PutDenialParams{}, api.DenialChange{
			Principal: principal, Cidr: pointer(*from), Repository: repositories, Actions: actions, Reason: pointer(*reason)}))
		if err != nil {
			return err
		}
		return printDone(r, cmd, d, "denial %s: %s may not %s on %s%s", d.Name, d.Principal, showList(d.Actions), d.Repository, fromWhere(d))
	}
	return c
}

func fromWhere(d *api.Denial) string {
	if d.Cidr == nil {
		return ""
	}
	return " from " + *d.Cidr
}

func newDenyListCommand(r *remote) *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Short:   "List the denials",
		Example: `  berth deny list`,
		Args:    cobra.NoArgs,
		RunE: r.signedIn(func(cmd *cobra.Command, args []string, s *connection) error {
			denials := all(func(limit *api.Limit, after *api.After) (*client.ListDenialsResponse, error) {
				return s.ListDenialsWithResponse(cmd.Context(), &api.ListDenialsParams{Limit: limit, After: after})
			})
			return printList(r, cmd, denials, []string{"NAME", "PRINCIPAL", "FROM", "REPOSITORIES", "ACTIONS", "REASON"}, func(d api.Denial) []string {
				return []string{d.Name, d.Principal, showOr(d.Cidr, "-"), d.Repository, showList(d.Actions), showOr(d.Reason, "-")}
			})
		}),
	}
}

func newDenyShowCommand(r *remote) *cobra.Command {
	return &cobra.Command{
		Use:     "show NAME",
		Short:   "Show a denial",
		Example: `  berth deny show freeze`,
		Args:    arguments(nameOf("denial")),
		RunE: r.signedIn(func(cmd *cobra.Command, args []string, s *connection) error {
			d, err := fetched(s.GetDenialWithResponse(cmd.Context(), args[0]))
			if err != nil {
				return err
			}
			return printFacts(r, cmd, d,
				fact{"Name", d.Name},
				fact{"Principal", d.Principal},
				fact{"From", showOr(d.Cidr, "-")},
				fact{"Repositories", d.Repository},
				fact{"Actions", showList(d.Actions)},
				fact{"Reason", showOr(d.Reason, "-")},
				fact{"Created", showTime(d.CreatedAt) + " by " + d.CreatedBy},
				fact{"Changed", showTime(d.UpdatedAt)})
		}),
	}
}

func newDenyRemoveCommand(r *remote) *cobra.Command {
	return &cobra.Command{
		Use:     "remove NAME",
		Short:   "Remove a denial",
		Example: `  berth deny remove freeze`,
		Args:    arguments(nameOf("denial")),
		RunE: r.signedIn(func(cmd *cobra.Command, args []string, s *connection) error {
			if err := done(s.DeleteDenialWithResponse(cmd.Context(), args[0], &api.DeleteDenialParams{})); err != nil {
				return err
			}
			return printDone(r, cmd, nil, "denial %s is removed", args[0])
		}),
	}
}
