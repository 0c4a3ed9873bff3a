package client

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"berth/api"
	"berth/api/client"
	"berth/cmd/berth/cli"
)

// NewTokenCommand makes 'berth token'.
func NewTokenCommand(r *Remote) *cobra.Command {
	c := &cobra.Command{
		Use:   "token",
		Short: "Manage tokens: your own, and the robots of a team",
		Long: `Manage tokens, which programs sign in with. A personal token acts as its user, with what the
user may do at that moment. A robot belongs to a team (--team), acts in the team's repositories
only and stays when people leave. A deploy token (--kind deploy) is a team's too, for clusters: it pulls,
and never manages anything. All can be limited to repositories, actions, tags and networks.`,
		Example: `  berth token create laptop --actions pull,push --expires 90d
  berth token create ci --team core --repositories 'core/app*' --actions pull,push
  berth token create prod --team core --kind deploy --tags 'v*' --cidr 10.0.0.0/8
  berth token rotate ci --team core --overlap 24h
  berth token list --team core`,
	}
	c.AddCommand(newTokenCreateCommand(r), newTokenListCommand(r), newTokenShowCommand(r), newTokenRotateCommand(r), newTokenDeleteCommand(r))
	return c
}

// tokenOwner are the flags that say whose tokens are meant.
type tokenOwner struct{ team, user *string }

// String is the flag as it was given, behind a space.
func (o tokenOwner) String() string {
	switch {
	case *o.team != "":
		return " --team " + *o.team
	case *o.user != "":
		return " --user " + *o.user
	}
	return ""
}

func addTokenOwner(c *cobra.Command) tokenOwner {
	o := tokenOwner{
		team: c.Flags().String("team", "", "the robots of this team"),
		user: c.Flags().String("user", "", "the personal tokens of this user, for admins (default yourself)"),
	}
	c.MarkFlagsMutuallyExclusive("team", "user")
	return o
}

// connect is that of remote. user is whose personal tokens are meant, "" for those
// of a team.
func (o tokenOwner) connect(r *Remote, cmd *cobra.Command) (s *Connection, user string, err error) {
	switch {
	case *o.team != "":
		err = NameArgument("team", *o.team)
	case *o.user != "":
		err = UserArgument(*o.user)
	}
	if err != nil {
		return nil, "", err
	}
	if s, err = r.Connect(cmd); err != nil || *o.team != "" {
		return s, "", err
	}
	if user = *o.user; user == "" {
		user, err = s.self(cmd.Context())
	}
	return s, user, err
}

func newTokenCreateCommand(r *Remote) *cobra.Command {
	c := &cobra.Command{
		Use:   "create NAME",
		Short: "Create a token and print its secret, which is shown this once",
		Long: `Create a token. Its secret is printed on stdout and is never shown again; sign in with it as
the password, for example in 'docker login'.`,
		Example: `  berth token create laptop --actions pull,push --expires 90d
  berth token create ci --team core --repositories 'core/app*' --actions pull,push
  berth token create release --team core --actions pull,push --tags 'v*' --expires 2030-01-31
  berth token create prod --team core --kind deploy --cidr 10.0.0.0/8 --cidr 2001:db8::/32 --expires 30d`,
		Args: arguments(nameOf("token")),
	}
	owner := addTokenOwner(c)
	kind := cli.ChoiceFlag(c, "kind", "robot", "of a team's token", "robot", "deploy")
	repositories := c.Flags().String("repositories", "", "a pattern (* and ?) on the names of repositories (default \"*\", and \"TEAM/*\" for a deploy token)")
	actions := actionsFlag(c, []string{"pull"}, "what the token may do")
	tags := c.Flags().String("tags", "", "a pattern (* and ?) on the tags that may be pushed and deleted, or pulled by a token that can only pull (default every tag)")
	cidrs := c.Flags().StringSlice("cidr", nil, "a network from which it may be used, such as 10.0.0.0/8; can be repeated (default everywhere)")
	expires := c.Flags().String("expires", "", "when it ends: after 30d, 12h or 2w, or at 2030-01-31 (default never)")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		body := api.TokenCreate{Name: args[0], Repositories: cli.Pointer(*repositories), Tags: cli.Pointer(*tags)}
		if len(*cidrs) > 0 {
			body.Cidrs = cidrs
		}
		switch {
		case *owner.team != "":
			body.Kind = cli.Pointer(api.TokenCreateKind(kind.Value))
		case kind.Value == "deploy":
			return cli.Usagef("a deploy token belongs to a team: add --team")
		}
		var err error
		if body.Actions, err = actions(); err != nil {
			return err
		}
		if *expires != "" {
			at, err := parseExpiry(*expires, time.Now())
			if err != nil {
				return err
			}
			body.ExpiresAt = &at
		}
		s, user, err := owner.connect(r, cmd)
		if err != nil {
			return err
		}
		ctx := cmd.Context()
		var token *api.NewToken
		if *owner.team != "" {
			token, err = created(s.CreateRobotWithResponse(ctx, *owner.team, body))
		} else {
			token, err = created(s.CreateTokenWithResponse(ctx, user, body))
		}
		var refused ProblemError
		if errors.As(err, &refused) && refused.Status == http.StatusConflict {
			return fmt.Errorf("%w: 'berth token rotate %s' gives it a new secret", err, args[0]+owner.String())
		}
		if err != nil {
			return err
		}
		if r.asJSON() {
			return cli.PrintJSON(cmd.OutOrStdout(), token)
		}
		return printSecret(cmd, s, token)
	}
	return c
}

// printSecret shows the secret of a token, the only time.
func printSecret(cmd *cobra.Command, s *Connection, token *api.NewToken) error {
	fmt.Fprintf(cmd.ErrOrStderr(), "The secret is shown this once. Sign in with: docker login -u %s %s\n", token.Token.Username, s.server.Host)
	_, err := fmt.Fprintln(cmd.OutOrStdout(), token.Secret)
	return err
}

// parseExpiry reads the end of a token's life: a duration from now, a date in UTC, or a time (RFC 3339).
func parseExpiry(s string, now time.Time) (time.Time, error) {
	if span, err := api.ParseDuration(s); err == nil && span > 0 {
		return now.Add(span).UTC(), nil
	}
	if at, err := parseDate(s); err == nil {
		return at, nil
	}
	return time.Time{}, cli.Usagef("--expires %q is neither a duration such as 12h, 30d or 2w nor a date such as 2030-01-31", s)
}

// parseDate reads a date in UTC, or a time (RFC 3339).
func parseDate(s string) (time.Time, error) {
	at, err := time.Parse(time.RFC3339, s)
	if err != nil {
		at, err = time.Parse(time.DateOnly, s)
	}
	return at, err
}

func newTokenListCommand(r *Remote) *cobra.Command {
	c := &cobra.Command{
		Use:   "list",
		Short: "List tokens, without their secrets",
		Example: `  berth token list
  berth token list --team core`,
		Args: cobra.NoArgs,
	}
	owner := addTokenOwner(c)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		s, user, err := owner.connect(r, cmd)
		if err != nil {
			return err
		}
		ctx := cmd.Context()
		tokens := All(func(limit *api.Limit, after *api.After) (*client.ListTokensResponse, error) {
			return s.ListTokensWithResponse(ctx, user, &api.ListTokensParams{Limit: limit, After: after})
		})
		if *owner.team != "" {
			tokens = All(func(limit *api.Limit, after *api.After) (*client.ListRobotsResponse, error) {
				return s.ListRobotsWithResponse(ctx, *owner.team, &api.ListRobotsParams{Limit: limit, After: after})
			})
		}
		return printList(r, cmd, tokens, []string{"NAME", "KIND", "USERNAME", "REPOSITORIES", "ACTIONS", "EXPIRES", "LAST USED", "SECRETS"}, func(t api.Token) []string {
			return []string{t.Name, string(t.Kind), t.Username, t.Repositories, cli.ShowList(t.Actions), cli.ShowTimeOr(t.ExpiresAt, "never"), showUse(t), strconv.Itoa(len(t.Secrets))}
		})
	}
	return c
}

func newTokenShowCommand(r *Remote) *cobra.Command {
	c := &cobra.Command{
		Use:     "show NAME",
		Short:   "Show a token, without its secret",
		Example: `  berth token show ci --team core`,
		Args:    arguments(nameOf("token")),
	}
	owner := addTokenOwner(c)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		s, user, err := owner.connect(r, cmd)
		if err != nil {
			return err
		}
		ctx := cmd.Context()
		var t *api.Token
		if *owner.team != "" {
			t, err = Fetched(s.GetRobotWithResponse(ctx, *owner.team, args[0]))
		} else {
			t, err = Fetched(s.GetTokenWithResponse(ctx, user, args[0]))
		}
		if err != nil {
			return err
		}
		facts := []fact{
			{"Name", t.Name},
			{"Kind", string(t.Kind)},
			{"Username", t.Username},
			{"Repositories", t.Repositories},
			{"Actions", cli.ShowList(t.Actions)},
			{"Tags", cli.ShowOr(t.Tags, "every")},
			{"Networks", "everywhere"},
			{"Expires", cli.ShowTimeOr(t.ExpiresAt, "never")},
			{"Last used", showUse(*t)},
			{"Created", cli.ShowTime(t.CreatedAt) + " by " + t.CreatedBy},
		}
		if t.Cidrs != nil {
			facts[6].value = strings.Join(*t.Cidrs, ", ")
		}
		for _, secret := range t.Secrets {
			state := "in force"
			if secret.ExpiresAt != nil {
				state = "replaced, until " + cli.ShowTime(*secret.ExpiresAt)
			}
			facts = append(facts, fact{"Secret", fmt.Sprintf("of %s, %s, last used %s", cli.ShowTime(secret.CreatedAt), state, cli.ShowTimeOr(secret.LastUsedAt, "never"))})
		}
		return printFacts(r, cmd, t, facts...)
	}
	return c
}

// showUse is when and from where a token was used last.
func showUse(t api.Token) string {
	if t.LastUsedAt == nil || t.LastUsedFrom == nil {
		return cli.ShowTimeOr(t.LastUsedAt, "never")
	}
	return cli.ShowTime(*t.LastUsedAt) + " from " + *t.LastUsedFrom
}

func newTokenRotateCommand(r *Remote) *cobra.Command {
	c := &cobra.Command{
		Use:   "rotate NAME",
		Short: "Give a token a new secret and print it; the old one works for a while",
		Long: `Give a token a new secret, which is printed on stdout and never shown again. What the token may do
stays as it is. With --overlap the old secret still signs in for so long, so that nothing stands still while
the new one is brought to where it is needed; without it the old one ends at once, as it has to when it has leaked.
'berth token show' tells which secrets there are, and when each was used last.`,
		Example: `  berth token rotate ci --team core --overlap 24h
  berth token rotate laptop`,
		Args: arguments(nameOf("token")),
	}
	owner := addTokenOwner(c)
	overlap := cli.DurationFlag(c.Flags(), "overlap", 0, "how long the old secret still works, such as 24h or 10d, at most 90d")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if *overlap < 0 || *overlap > 90*24*time.Hour {
			return cli.Usagef("--overlap %s is not between 0s and 90d", api.FormatDuration(*overlap))
		}
		s, user, err := owner.connect(r, cmd)
		if err != nil {
			return err
		}
		ctx := cmd.Context()
		body := api.TokenRotation{Overlap: cli.Pointer(int64(overlap.Seconds()))}
		var token *api.NewToken
		if *owner.team != "" {
			token, err = Fetched(s.RotateRobotWithResponse(ctx, *owner.team, args[0], body))
		} else {
			token, err = Fetched(s.RotateTokenWithResponse(ctx, user, args[0], body))
		}
		if err != nil {
			return err
		}
		if r.asJSON() {
			return cli.PrintJSON(cmd.OutOrStdout(), token)
		}
		return printSecret(cmd, s, token)
	}
	return c
}

func newTokenDeleteCommand(r *Remote) *cobra.Command {
	c := &cobra.Command{
		Use:   "delete NAME",
		Short: "Delete a token: what uses it is locked out",
		Example: `  berth token delete laptop --yes
  berth token delete ci --team core --yes`,
		Args: arguments(nameOf("token")),
	}
	owner := addTokenOwner(c)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if err := r.confirm(cmd, "This deletes the token "+args[0]+" and locks out what uses it."); err != nil {
			return err
		}
		s, user, err := owner.connect(r, cmd)
		if err != nil {
			return err
		}
		ctx := cmd.Context()
		if *owner.team != "" {
			err = Done(s.DeleteRobotWithResponse(ctx, *owner.team, args[0]))
		} else {
			err = Done(s.DeleteTokenWithResponse(ctx, user, args[0]))
		}
		if err != nil {
			return err
		}
		return PrintDone(r, cmd, nil, "token %s is deleted", args[0])
	}
	return c
}
