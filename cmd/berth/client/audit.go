package client

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"berth/api"
	"berth/api/client"
	"berth/cmd/berth/cli"
)

// NewAuditCommand makes 'berth audit'.
func NewAuditCommand(r *Remote) *cobra.Command {
	c := &cobra.Command{
		Use:   "audit",
		Short: "Read the audit log: who did what, and who was refused",
		Example: `  berth audit list --outcome refused --since 24h
  berth audit export --since 2026-01-01 >audit.jsonl`,
	}
	c.AddCommand(newAuditListCommand(r), newAuditExportCommand(r))
	return c
}

// auditFilter are the flags that select events.
type auditFilter struct {
	team, principal, repository, action, since, until *string
	outcome                                           *cli.Choice
}

func addAuditFilter(c *cobra.Command) auditFilter {
	return auditFilter{
		team:       c.Flags().String("team", "", "what concerns this team; its maintainers see it too"),
		principal:  c.Flags().String("principal", "", "who did it: alice, team+robot, anonymous"),
		repository: c.Flags().String("repository", "", "this repository"),
		action:     c.Flags().String("action", "", "what was done or tried: pushManifest, moveTag, deleteTag, pull, push, delete, signIn, or an operation of the API such as createToken"),
		outcome:    cli.ChoiceFlag(c, "outcome", "", "how it ended", "ok", "refused", "failed"),
		since:      c.Flags().String("since", "", "not before: 24h, 30d or 2w ago, or 2026-01-31"),
		until:      c.Flags().String("until", "", "before: 24h, 30d or 2w ago, or 2026-01-31"),
	}
}

// parsePast reads a point in time before now: a duration ago, a date in UTC, or a time (RFC 3339).
func parsePast(flag, s string, now time.Time) (*time.Time, error) {
	if s == "" {
		return nil, nil
	}
	if span, err := api.ParseDuration(s); err == nil && span > 0 {
		at := now.Add(-span).UTC()
		return &at, nil
	}
	if at, err := parseDate(s); err == nil {
		return &at, nil
	}
	return nil, cli.Usagef("--%s %q is neither a duration such as 12h, 30d or 2w nor a date such as 2026-01-31", flag, s)
}

// events lists what the flags select, newest first, at most limit events; 0 is all.
func (f auditFilter) events(ctx context.Context, r *Remote, cmd *cobra.Command, limit int) (iter.Seq2[api.AuditEvent, error], error) {
	now := time.Now()
	since, err := parsePast("since", *f.since, now)
	if err != nil {
		return nil, err
	}
	until, err := parsePast("until", *f.until, now)
	if err != nil {
		return nil, err
	}
	if *f.team != "" {
		if err := NameArgument("team", *f.team); err != nil {
			return nil, err
		}
	}
	s, err := r.Connect(cmd)
	if err != nil {
		return nil, err
	}
	events := All(func(page *api.Limit, after *api.After) (*client.ListAuditResponse, error) {
		return s.ListAuditWithResponse(ctx, &api.ListAuditParams{
			Limit: page, After: after, Since: since, Until: until, Principal: cli.Pointer(*f.principal), Repository: cli.Pointer(*f.repository),
			Action: cli.Pointer(*f.action), Outcome: cli.Pointer(api.ListAuditParamsOutcome(f.outcome.Value)),
		})
	})
	if *f.team != "" {
		events = All(func(page *api.Limit, after *api.After) (*client.ListTeamAuditResponse, error) {
			return s.ListTeamAuditWithResponse(ctx, *f.team, &api.ListTeamAuditParams{
				Limit: page, After: after, Since: since, Until: until, Principal: cli.Pointer(*f.principal), Repository: cli.Pointer(*f.repository),
				Action: cli.Pointer(*f.action), Outcome: cli.Pointer(api.ListTeamAuditParamsOutcome(f.outcome.Value)),
			})
		})
	}
	return func(yield func(api.AuditEvent, error) bool) {
		n := 0
		for e, err := range events {
			if !yield(e, err) || err != nil {
				return
			}
			if n++; n == limit {
				return
			}
		}
	}, nil
}

func newAuditListCommand(r *Remote) *cobra.Command {
	c := &cobra.Command{
		Use:   "list",
		Short: "List events, newest first",
		Long: `List events of the audit log, newest first. Admins see all of it; the maintainers of a team see what
concerns the team and its repositories, with --team.`,
		Example: `  berth audit list
  berth audit list --outcome failed --since 24h
  berth audit list --team core --repository core/app --limit 500`,
		Args: cobra.NoArgs,
	}
	f := addAuditFilter(c)
	limit := c.Flags().Int("limit", 100, "how many events at most; 0 for all")
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		if *limit < 0 {
			return cli.Usagef("--limit %d is negative", *limit)
		}
		events, err := f.events(cmd.Context(), r, cmd, *limit)
		if err != nil {
			return err
		}
		return printList(r, cmd, events, []string{"WHEN", "WHO", "FROM", "WHAT", "OUTCOME", "ON", "WHY"}, func(e api.AuditEvent) []string {
			outcome := string(e.Outcome)
			if e.Count > 1 {
				outcome = fmt.Sprintf("%s x%d", outcome, e.Count)
			}
			return []string{cli.ShowTime(e.At), cli.ShowOr(&e.Principal, "-"), cli.ShowOr(e.Address, "-"), e.Action, outcome, auditTarget(e), auditReason(e)}
		})
	}
	return c
}

// auditTarget is what an event is about.
func auditTarget(e api.AuditEvent) string {
	var parts []string
	switch {
	case e.Repository != nil && e.Reference != nil:
		parts = append(parts, *e.Repository+":"+*e.Reference)
	case e.Repository != nil && e.Digest != nil:
		parts = append(parts, *e.Repository+"@"+*e.Digest)
	case e.Repository != nil:
		parts = append(parts, *e.Repository)
	default:
		for _, s := range []*string{e.Team, e.Reference} {
			if s != nil {
				parts = append(parts, *s)
			}
		}
	}
	if len(parts) == 0 {
		return "-"
	}
	return strings.Join(parts, " ")
}

// auditReason is the rule that refused, or "-".
func auditReason(e api.AuditEvent) string {
	if e.Detail != nil {
		if rule, ok := (*e.Detail)["rule"].(string); ok {
			return rule
		}
	}
	return "-"
}

func newAuditExportCommand(r *Remote) *cobra.Command {
	c := &cobra.Command{
		Use:   "export",
		Short: "Write events as JSON lines, newest first",
		Long: `Write events of the audit log to stdout, newest first, one JSON object in each line, with all that is known
of them. When it is cut off, --until with the time of the last line goes on there.`,
		Example: `  berth audit export --since 2026-01-01 --until 2026-02-01 >january.jsonl
  berth audit export --team core --action pushManifest`,
		Args: cobra.NoArgs,
	}
	f := addAuditFilter(c)
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		events, err := f.events(cmd.Context(), r, cmd, 0)
		if err != nil {
			return err
		}
		out := json.NewEncoder(cmd.OutOrStdout())
		out.SetEscapeHTML(false)
		for e, err := range events {
			if err != nil {
				return err
			}
			if err := out.Encode(e); err != nil {
				return err
			}
		}
		return nil
	}
	return c
}
