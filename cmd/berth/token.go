package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"berth/api"
)

func newTokenCommand(r *remote) *cobra.Command {
	c := &cobra.Command{
		Use:   "token",
		Short: "Manage tokens: your own, and the robots of a team",
		Long: `Manage tokens, which programs sign in with. A personal token acts as its user, with what the
user may do at that moment. A robot belongs to a team (--team), acts in the team's repositories
only and stays when people leave. Both can be limited to some repositories and actions.`,
		Example: `  berth token create laptop --actions pull,push --expires 90d
  berth token create ci --team core --repositories 'core/app*' --actions pull,push
  berth token list --team core`,
	}
	c.AddCommand(newTokenCreateCommand(r), newTokenListCommand(r), newTokenShowCommand(r), newTokenDeleteCommand(r))
	return c
}

// tokenOwner are the flags that say whose tokens are meant.
type tokenOwner struct{ team, user *string }

func addTokenOwner(c *cobra.Command) tokenOwner {
	o := tokenOwner{
		team: c.Flags().String("team", "", "the robots of this team"),
		user: c.Flags().String("user", "", "the personal tokens of this user, for admins (default yourself)"),
	}
	c.MarkFlagsMutuallyExclusive("team", "user")
	return o
}

// check refuses names that are none.
func (o tokenOwner) check() error {
	if *o.team != "" {
		return nameArgument("team", *o.team)
	}
	if *o.user != "" {
		return userArgument(*o.user)
	}
	return nil
}

// userName is the user whose personal tokens are meant.
func (o tokenOwner) userName(ctx context.Context, s *connection) (string, error) {
	if *o.user != "" {
		return *o.user, nil
	}
	return s.self(ctx)
}

func newTokenCreateCommand(r *remote) *cobra.Command {
	c := &cobra.Command{
		Use:   "create NAME",
		Short: "Create a token and print its secret, which is shown this once",
		Long: `Create a token. Its secret is printed on stdout and is never shown again; sign in with it as
the password, for example in 'docker login'.`,
		Example: `  berth token create laptop --actions pull,push --expires 90d
  berth token create ci --team core --repositories 'core/app*' --actions pull,push
  berth token create deploy --team core --expires 2030-01-31`,
		Args: cobra.ExactArgs(1),
	}
	owner := addTokenOwner(c)
	repositories := c.Flags().String("repositories", "*", "a pattern (* and ?) on the names of repositories")
	actions := c.Flags().StringSlice("actions", []string{"pull"}, "what the token may do: pull, push, delete, admin")
	expires := c.Flags().String("expires", "", "when it ends: after 30d, 12h or 2w, or at 2030-01-31 (default never)")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if err := owner.check(); err != nil {
			return err
		}
		body := api.TokenCreate{Name: args[0], Repositories: repositories}
		for _, a := range *actions {
			action := api.Action(strings.TrimSpace(a))
			if !action.Valid() {
				return usagef("the action %q does not exist: use pull, push, delete or admin", a)
			}
			body.Actions = append(body.Actions, action)
		}
		if *expires != "" {
			at, err := parseExpiry(*expires, time.Now())
			if err != nil {
				return err
			}
			body.ExpiresAt = &at
		}
		s, err := r.connect(cmd)
		if err != nil {
			return err
		}
		ctx := cmd.Context()
		var token *api.NewToken
		if *owner.team != "" {
			token, err = created(s.CreateRobotWithResponse(ctx, *owner.team, body))
		} else {
			var user string
			if user, err = owner.userName(ctx, s); err != nil {
				return err
			}
			token, err = created(s.CreateTokenWithResponse(ctx, user, body))
		}
		if err != nil {
			return err
		}
		if r.asJSON() {
			return printJSON(cmd.OutOrStdout(), token)
		}
		fmt.Fprintf(cmd.ErrOrStderr(), "The secret is shown this once. Sign in with: docker login -u %s %s\n", token.Token.Username, s.server.Host)
		_, err = fmt.Fprintln(cmd.OutOrStdout(), token.Secret)
		return err
	}
	return c
}

// parseExpiry reads the end of a token's life: a number of hours, days or weeks
// from now, a date in UTC, or a time (RFC 3339).
func parseExpiry(s string, now time.Time) (time.Time, error) {
	units := map[byte]time.Duration{'h': time.Hour, 'd': 24 * time.Hour, 'w': 7 * 24 * time.Hour}
	if unit, ok := units[s[len(s)-1]]; ok {
		if n, err := strconv.ParseUint(s[:len(s)-1], 10, 16); err == nil && n > 0 {
			return now.Add(time.Duration(n) * unit).UTC(), nil
		}
	}
	for _, layout := range []string{time.RFC3339, time.DateOnly} {
		if t, err := time.Parse(layout, s); err == nil {
			return t, nil
		}
	}
	return time.Time{}, usagef("--expires %q is neither a span such as 12h, 30d or 2w nor a date such as 2030-01-31", s)
}

func newTokenListCommand(r *remote) *cobra.Command {
	c := &cobra.Command{
		Use:   "list",
		Short: "List tokens, without their secrets",
		Example: `  berth token list
  berth token list --team core`,
		Args: cobra.NoArgs,
	}
	owner := addTokenOwner(c)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if err := owner.check(); err != nil {
			return err
		}
		s, err := r.connect(cmd)
		if err != nil {
			return err
		}
		ctx := cmd.Context()
		var user string
		if *owner.team == "" {
			if user, err = owner.userName(ctx, s); err != nil {
				return err
			}
		}
		tokens := all(func(limit *api.Limit, after *api.After) ([]api.Token, *api.Next, error) {
			var page *api.TokenList
			var err error
			if *owner.team != "" {
				page, err = fetched(s.ListRobotsWithResponse(ctx, *owner.team, &api.ListRobotsParams{Limit: limit, After: after}))
			} else {
				page, err = fetched(s.ListTokensWithResponse(ctx, user, &api.ListTokensParams{Limit: limit, After: after}))
			}
			if err != nil {
				return nil, nil, err
			}
			return page.Items, page.Next, nil
		})
		return printList(r, cmd, tokens, []string{"NAME", "USERNAME", "REPOSITORIES", "ACTIONS", "EXPIRES", "LAST USED"}, func(t api.Token) []string {
			return []string{t.Name, t.Username, t.Repositories, showList(t.Actions), showTimeOr(t.ExpiresAt, "never"), showTimeOr(t.LastUsedAt, "never")}
		})
	}
	return c
}

func newTokenShowCommand(r *remote) *cobra.Command {
	c := &cobra.Command{
		Use:     "show NAME",
		Short:   "Show a token, without its secret",
		Example: `  berth token show ci --team core`,
		Args:    cobra.ExactArgs(1),
	}
	owner := addTokenOwner(c)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if err := owner.check(); err != nil {
			return err
		}
		if err := nameArgument("token", args[0]); err != nil {
			return err
		}
		s, err := r.connect(cmd)
		if err != nil {
			return err
		}
		ctx := cmd.Context()
		var t *api.Token
		if *owner.team != "" {
			t, err = fetched(s.GetRobotWithResponse(ctx, *owner.team, args[0]))
		} else {
			var user string
			if user, err = owner.userName(ctx, s); err != nil {
				return err
			}
			t, err = fetched(s.GetTokenWithResponse(ctx, user, args[0]))
		}
		if err != nil {
			return err
		}
		return printFacts(r, cmd, t,
			fact{"Name", t.Name},
			fact{"Username", t.Username},
			fact{"Repositories", t.Repositories},
			fact{"Actions", showList(t.Actions)},
			fact{"Expires", showTimeOr(t.ExpiresAt, "never")},
			fact{"Last used", showTimeOr(t.LastUsedAt, "never")},
			fact{"Created", showTime(t.CreatedAt) + " by " + t.CreatedBy})
	}
	return c
}

func newTokenDeleteCommand(r *remote) *cobra.Command {
	c := &cobra.Command{
		Use:   "delete NAME",
		Short: "Delete a token: what uses it is locked out",
		Example: `  berth token delete laptop --yes
  berth token delete ci --team core --yes`,
		Args: cobra.ExactArgs(1),
	}
	owner := addTokenOwner(c)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if err := owner.check(); err != nil {
			return err
		}
		if err := nameArgument("token", args[0]); err != nil {
			return err
		}
		if err := r.confirm(cmd, "This deletes the token "+args[0]+" and locks out what uses it."); err != nil {
			return err
		}
		s, err := r.connect(cmd)
		if err != nil {
			return err
		}
		ctx := cmd.Context()
		if *owner.team != "" {
			err = done(s.DeleteRobotWithResponse(ctx, *owner.team, args[0]))
		} else {
			var user string
			if user, err = owner.userName(ctx, s); err != nil {
				return err
			}
			err = done(s.DeleteTokenWithResponse(ctx, user, args[0]))
		}
		if err != nil {
			return err
		}
		return printDone(r, cmd, nil, "token %s is deleted", args[0])
	}
	return c
}
