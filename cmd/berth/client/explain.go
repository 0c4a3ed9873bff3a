package client

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"berth/api"
	"berth/api/client"
	"berth/cmd/berth/cli"
)

// actionArgument reads an action of the command line.
func actionArgument(s string) (api.Action, error) {
	action := api.Action(s)
	if !action.Valid() {
		return "", cli.Usagef("the action %q does not exist: use pull, push, delete or admin", s)
	}
	return action, nil
}

// NewExplainCommand makes 'berth explain'.
func NewExplainCommand(r *Remote) *cobra.Command {
	c := &cobra.Command{
		Use:   "explain ACTION REPOSITORY[:TAG]",
		Short: "Say whether something may be done, why, and who can help",
		Long: `Say whether somebody may pull, push, delete or admin on a repository: which rule decides, what is
missing and who can grant it. With a tag, the tag policy is looked at too. Nothing is done.
Everybody asks about themselves; about others, admins and the maintainers of the repository's team.

The exit code is 0 for yes and 1 for no.`,
		Example: `  berth explain push core/app:1.0
  berth explain push core/app --as alice
  berth explain pull core/app --as alice --token laptop
  berth explain push core/app --as core+ci --from 192.0.2.7`,
		Args: cobra.ExactArgs(2),
	}
	as := c.Flags().String("as", "", "whose rights: a user, or a robot as team+name (default yourself)")
	token := c.Flags().String("token", "", "a token of that user")
	from := c.Flags().String("from", "", "the address from which it is done")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		action, err := actionArgument(args[0])
		if err != nil {
			return err
		}
		repository, tag, _ := strings.Cut(args[1], ":")
		if err := NameArgument("repository", repository); err != nil {
			return err
		}
		s, err := r.Connect(cmd)
		if err != nil {
			return err
		}
		e, err := Fetched(s.ExplainWithResponse(cmd.Context(), &api.ExplainParams{Action: action, Repository: repository,
			Tag: cli.Pointer(tag), User: cli.Pointer(*as), Token: cli.Pointer(*token), Address: cli.Pointer(*from)}))
		if err != nil {
			return err
		}
		var verdict error
		if !e.Allowed {
			verdict = cli.ErrNo
		}
		if r.asJSON() {
			if err := cli.PrintJSON(cmd.OutOrStdout(), e); err != nil {
				return err
			}
			return verdict
		}
		out := cmd.OutOrStdout()
		answer := "no"
		if e.Allowed {
			answer = "yes"
		}
		fmt.Fprintf(out, "%s: %s\n", answer, e.Message)
		fmt.Fprintf(out, "rule: %s\n", e.Rule)
		if len(e.Missing) > 0 {
			fmt.Fprintf(out, "missing: %s\n", cli.ShowList(e.Missing))
		}
		fmt.Fprintf(out, "has: %s\n", cli.ShowList(e.Has))
		for _, g := range e.Grounds {
			fmt.Fprintf(out, "  %s\n", showGround(g))
		}
		for _, condition := range e.Conditions {
			fmt.Fprintf(out, "condition: %s\n", condition)
		}
		if e.Ask != nil {
			fmt.Fprintf(out, "ask: %s\n", *e.Ask)
		}
		return verdict
	}
	return c
}

// showGround is a ground in one line: rule, where it comes from, actions.
func showGround(g api.Ground) string {
	text := g.Rule
	if g.Team != nil {
		text += " of " + *g.Team
	}
	if g.Group != nil {
		text += " " + *g.Group
	}
	if g.Pattern != nil {
		text += " on " + *g.Pattern
	}
	if g.Provider != nil && *g.Provider {
		text += " (identity provider)"
	}
	return text + ": " + cli.ShowList(g.Actions)
}

// NewWhoCanCommand makes 'berth who-can'.
func NewWhoCanCommand(r *Remote) *cobra.Command {
	return &cobra.Command{
		Use:   "who-can ACTION REPOSITORY",
		Short: "List who may do something with a repository",
		Long: `List the users and robots who may pull, push, delete or admin on a repository, with what makes
them. Personal tokens, which may carry less than their owner has, are not listed. For admins and the
maintainers of the repository's team.`,
		Example: `  berth who-can push core/app
  berth who-can delete core/app --output json`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			action, err := actionArgument(args[0])
			if err != nil {
				return err
			}
			if err := NameArgument("repository", args[1]); err != nil {
				return err
			}
			s, err := r.Connect(cmd)
			if err != nil {
				return err
			}
			var everyone *api.HolderListEveryone
			holders := All(func(limit *api.Limit, after *api.After) (*client.WhoCanResponse, error) {
				resp, err := s.WhoCanWithResponse(cmd.Context(), &api.WhoCanParams{Action: action, Repository: args[1], Limit: limit, After: after})
				if err == nil && resp.JSON200 != nil {
					everyone = resp.JSON200.Everyone
				}
				return resp, err
			})
			err = printList(r, cmd, holders, []string{"NAME", "KIND", "BY"}, func(h api.Holder) []string {
				var by []string
				for _, g := range h.Grounds {
					by = append(by, showGround(g))
				}
				return []string{h.Principal, string(h.Kind), strings.Join(append(by, h.Conditions...), "; ")}
			})
			if err != nil || r.asJSON() || everyone == nil {
				return err
			}
			who := "everybody"
			if *everyone == api.HolderListEveryoneInternal {
				who = "everybody who is signed in"
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "and %s (%s)\n", who, *everyone)
			return err
		},
	}
}
