package client

import (
	"slices"

	"github.com/spf13/cobra"

	"berth/api"
	"berth/api/client"
	"berth/cmd/berth/cli"
)

// NewAccountCommand makes 'berth account'.
func NewAccountCommand(r *Remote) *cobra.Command {
	c := &cobra.Command{
		Use:   "account",
		Short: "Manage which AWS accounts and IAM roles may sign in",
		Long: `Manage which AWS accounts and IAM roles may sign in. The instances of an account that is let
in pull with their instance identity document; everybody in it signs in with 'berth aws-token'.
Roles may be given more than the account. See docs/sign-in-aws.md.`,
		Example: `  berth account add 123456789012
  berth account add 123456789012 --role 'ci-*' --repositories 'core/*' --actions pull,push
  berth account list`,
	}
	c.AddCommand(newAccountAddCommand(r), newAccountListCommand(r), newAccountRemoveCommand(r))
	return c
}

func newAccountAddCommand(r *Remote) *cobra.Command {
	var (
		role, repositories string
		actions            []string
	)
	c := &cobra.Command{
		Use:   "add ACCOUNT",
		Short: "Let an AWS account or IAM roles of it in, or change what they may do",
		Long: `Let an AWS account (12 digits) or IAM roles of it in, or change what they may do. A whole
account only pulls. Of several patterns that match a role the longest alone counts.`,
		Example: `  berth account add 123456789012
  berth account add 123456789012 --repositories 'base/*'
  berth account add 123456789012 --role 'ci-*' --repositories 'core/*' --actions pull,push`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if role == "" && !slices.Equal(actions, []string{"pull"}) {
				return cli.Usagef("a whole account only pulls: name the roles that may do more with --role")
			}
			list, err := parseActions(actions)
			if err != nil {
				return err
			}
			s, err := r.Connect(cmd)
			if err != nil {
				return err
			}
			var a *api.Account
			if role == "" {
				a, err = Fetched(s.PutAccountWithResponse(cmd.Context(), args[0], api.AccountChange{Repositories: &repositories}))
			} else {
				a, err = Fetched(s.PutAccountRoleWithResponse(cmd.Context(), args[0], role, api.AccountRoleChange{Repositories: &repositories, Actions: list}))
			}
			if err != nil {
				return err
			}
			return PrintDone(r, cmd, a, "%s may %s on %s", accountName(a.Account, role), cli.ShowList(a.Actions), a.Repositories)
		},
	}
	c.Flags().StringVar(&role, "role", "", "name of an IAM role, * and ? are wildcards; without it, the whole account")
	c.Flags().StringVar(&repositories, "repositories", "*", "the repositories, * and ? are wildcards")
	c.Flags().StringSliceVar(&actions, "actions", []string{"pull"}, "what the roles may do: pull, push, delete")
	return c
}

func accountName(account, role string) string {
	if role == "" {
		return "account " + account
	}
	return "role " + role + " of account " + account
}

func newAccountListCommand(r *Remote) *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Short:   "List the AWS accounts and IAM roles that may sign in",
		Example: `  berth account list --output json`,
		Args:    cobra.NoArgs,
		RunE: r.SignedIn(func(cmd *cobra.Command, args []string, s *Connection) error {
			accounts := All(func(limit *api.Limit, after *api.After) (*client.ListAccountsResponse, error) {
				return s.ListAccountsWithResponse(cmd.Context(), &api.ListAccountsParams{Limit: limit, After: after})
			})
			return printList(r, cmd, accounts, []string{"ACCOUNT", "ROLE", "REPOSITORIES", "ACTIONS", "CREATED"}, func(a api.Account) []string {
				return []string{a.Account, cli.ShowOr(a.Role, "-"), a.Repositories, cli.ShowList(a.Actions), cli.ShowTime(a.CreatedAt)}
			})
		}),
	}
}

func newAccountRemoveCommand(r *Remote) *cobra.Command {
	var role string
	c := &cobra.Command{
		Use:   "remove ACCOUNT",
		Short: "Shut an AWS account or IAM roles of it out",
		Example: `  berth account remove 123456789012
  berth account remove 123456789012 --role 'ci-*'`,
		Args: cobra.ExactArgs(1),
		RunE: r.SignedIn(func(cmd *cobra.Command, args []string, s *Connection) error {
			var err error
			if role == "" {
				err = Done(s.DeleteAccountWithResponse(cmd.Context(), args[0]))
			} else {
				err = Done(s.DeleteAccountRoleWithResponse(cmd.Context(), args[0], role))
			}
			if err != nil {
				return err
			}
			return PrintDone(r, cmd, nil, "%s is removed", accountName(args[0], role))
		}),
	}
	c.Flags().StringVar(&role, "role", "", "the name or pattern that was added; without it, the whole account")
	return c
}
