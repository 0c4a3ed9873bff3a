package client

import (
	"fmt"

	"github.com/spf13/cobra"

	"berth/api"
	"berth/api/client"
	"berth/cmd/berth/cli"
	"berth/cmd/berth/settings"
	"berth/oci"
)

// NewQuotaCommand makes 'berth quota'.
func NewQuotaCommand(r *Remote) *cobra.Command {
	c := &cobra.Command{
		Use:   "quota",
		Short: "Limit what teams may use",
		Long: `Limit how many bytes, repositories and tags a team may have. A blob counts once for a team,
however many of its repositories have it; uploads under way count too. A push that needs more is refused.`,
		Example: `  berth quota set core --bytes 100GiB --repositories 50 --tags 10000
  berth quota show core
  berth quota list`,
	}
	c.AddCommand(newQuotaSetCommand(r), newQuotaShowCommand(r), newQuotaListCommand(r), newQuotaUnsetCommand(r))
	return c
}

func newQuotaSetCommand(r *Remote) *cobra.Command {
	var bytes string
	var repositories, tags int64
	c := &cobra.Command{
		Use:   "set TEAM",
		Short: "Set a team's quota; what is not given is not limited",
		Example: `  berth quota set core --bytes 100GiB
  berth quota set core --bytes 1TiB --repositories 50 --tags 10000`,
		Args: arguments(nameOf("team")),
	}
	c.Flags().StringVar(&bytes, "bytes", "", "most bytes, such as 500MiB or 100GiB")
	c.Flags().Int64Var(&repositories, "repositories", 0, "most repositories")
	c.Flags().Int64Var(&tags, "tags", 0, "most tags, of all repositories together")
	c.MarkFlagsOneRequired("bytes", "repositories", "tags")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		var body api.QuotaLimits
		if cmd.Flags().Changed("bytes") {
			n, err := settings.ParseSize(bytes)
			if err != nil || n < 0 {
				return cli.Usagef("--bytes %q is not a size, such as 500MiB or 100GiB", bytes)
			}
			body.Bytes = &n
		}
		if cmd.Flags().Changed("repositories") {
			body.Repositories = &repositories
		}
		if cmd.Flags().Changed("tags") {
			body.Tags = &tags
		}
		for _, n := range []int64{repositories, tags} {
			if n < 0 {
				return cli.Usagef("a limit is negative")
			}
		}
		s, err := r.Connect(cmd)
		if err != nil {
			return err
		}
		q, err := Fetched(s.SetTeamQuotaWithResponse(cmd.Context(), args[0], body))
		if err != nil {
			return err
		}
		return printQuota(r, cmd, q)
	}
	return c
}

func limitText(limit *int64, show func(int64) string) string {
	if limit == nil {
		return "no limit"
	}
	return "of " + show(*limit)
}

func number(n int64) string { return fmt.Sprint(n) }

func printQuota(r *Remote, cmd *cobra.Command, q *api.Quota) error {
	facts := []fact{
		{"Team", q.Team},
		{"Bytes", oci.ShowBytes(q.Bytes) + " " + limitText(q.Limits.Bytes, oci.ShowBytes)},
		{"Held by uploads", oci.ShowBytes(q.ReservedBytes)},
		{"Repositories", number(q.Repositories) + " " + limitText(q.Limits.Repositories, number)},
		{"Tags", number(q.Tags) + " " + limitText(q.Limits.Tags, number)},
		{"Set", cli.ShowTime(q.UpdatedAt) + " by " + q.UpdatedBy},
	}
	if !q.Counted {
		facts = append(facts, fact{"State", "counting what the team has; nothing is refused until then"})
	}
	return printFacts(r, cmd, q, facts...)
}

func newQuotaShowCommand(r *Remote) *cobra.Command {
	return &cobra.Command{
		Use:     "show TEAM",
		Short:   "Show a team's quota and what it uses",
		Example: `  berth quota show core`,
		Args:    arguments(nameOf("team")),
		RunE: r.SignedIn(func(cmd *cobra.Command, args []string, s *Connection) error {
			q, err := Fetched(s.GetTeamQuotaWithResponse(cmd.Context(), args[0]))
			if err != nil {
				return err
			}
			return printQuota(r, cmd, q)
		}),
	}
}

func newQuotaListCommand(r *Remote) *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Short:   "List the teams that have a quota",
		Example: `  berth quota list`,
		Args:    cobra.NoArgs,
		RunE: r.SignedIn(func(cmd *cobra.Command, args []string, s *Connection) error {
			quotas := All(func(limit *api.Limit, after *api.After) (*client.ListQuotasResponse, error) {
				return s.ListQuotasWithResponse(cmd.Context(), &api.ListQuotasParams{Limit: limit, After: after})
			})
			return printList(r, cmd, quotas, []string{"TEAM", "BYTES", "REPOSITORIES", "TAGS"}, func(q api.Quota) []string {
				return []string{q.Team, oci.ShowBytes(q.Bytes+q.ReservedBytes) + " " + limitText(q.Limits.Bytes, oci.ShowBytes),
					number(q.Repositories) + " " + limitText(q.Limits.Repositories, number), number(q.Tags) + " " + limitText(q.Limits.Tags, number)}
			})
		}),
	}
}

func newQuotaUnsetCommand(r *Remote) *cobra.Command {
	return &cobra.Command{
		Use:     "unset TEAM",
		Short:   "Remove a team's quota",
		Example: `  berth quota unset core`,
		Args:    arguments(nameOf("team")),
		RunE: r.SignedIn(func(cmd *cobra.Command, args []string, s *Connection) error {
			if err := Done(s.DeleteTeamQuotaWithResponse(cmd.Context(), args[0])); err != nil {
				return err
			}
			return PrintDone(r, cmd, nil, "team %s has no quota", args[0])
		}),
	}
}
