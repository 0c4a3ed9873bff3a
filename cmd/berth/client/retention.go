package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"berth/api"
	"berth/api/client"
	"berth/cmd/berth/cli"
)

// NewRetentionCommand makes 'berth retention'.
func NewRetentionCommand(r *Remote) *cobra.Command {
	c := &cobra.Command{
		Use:   "retention",
		Short: "Say which tags and untagged manifests stay, and for how long",
		Long: `Retention deletes old tags of a team's repositories, or of one repository. A tag stays when
any rule keeps it. A rule is a name, and then any of

  tags=v*,rc-*        the tags that it selects; without it, all
  newest=10           keep so many that were pushed last
  younger-than=720h   keep what was pushed within that time
  pulled-within=720h  keep what was pulled or pushed within it
  delete-immutable    immutable tags that it selects may go too

It keeps what meets any of newest, younger-than and pulled-within; without these, all that it selects.
What rules select and none keeps goes, and so does a mutable tag that no rule selects. Sealed tags always stay.
What goes can be restored for a while: see 'berth tag restore'.`,
		Example: `  berth retention dry-run core/app --rule 'releases tags=v* newest=10 delete-immutable' --rule 'dev younger-than=336h'
  berth retention set core --rule 'releases tags=v*' --rule 'dev tags=dev-* pulled-within=336h' --untagged-ttl 168h
  berth retention show core/app`,
	}
	c.AddCommand(newRetentionShowCommand(r), newRetentionSetCommand(r), newRetentionUnsetCommand(r), newRetentionDryRunCommand(r), newRetentionRunCommand(r))
	return c
}

// retentionTarget tells a team from a repository, whose name has a slash.
func retentionTarget(s string) (repository bool, err error) {
	if strings.Contains(s, "/") {
		return true, NameArgument("repository", s)
	}
	return false, NameArgument("team", s)
}

// parseRule reads a rule of the command line.
func parseRule(text string) (api.RetentionRule, error) {
	fields := strings.Fields(text)
	if len(fields) == 0 || strings.Contains(fields[0], "=") {
		return api.RetentionRule{}, cli.Usagef("the rule %q has no name: write NAME first, then what it says, such as 'releases tags=v* newest=10'", text)
	}
	rule := api.RetentionRule{Name: fields[0]}
	said := map[string]bool{}
	for _, field := range fields[1:] {
		key, value, has := strings.Cut(field, "=")
		if said[key] {
			return rule, cli.Usagef("the rule %s says %s twice: say it once, several patterns separated by commas", rule.Name, key)
		}
		said[key] = true
		switch {
		case field == "delete-immutable":
			yes := true
			rule.DeleteImmutable = &yes
		case key == "tags" && value != "":
			tags := strings.Split(value, ",")
			rule.Tags = &tags
		case key == "newest" && has:
			n, err := strconv.Atoi(value)
			if err != nil {
				return rule, cli.Usagef("the rule %s keeps the newest %q, which is no number", rule.Name, value)
			}
			rule.Newest = &n
		case key == "younger-than" && value != "":
			rule.YoungerThan = &value
		case key == "pulled-within" && value != "":
			rule.PulledWithin = &value
		default:
			return rule, cli.Usagef("the rule %s says %q, which is none of tags=, newest=, younger-than=, pulled-within=, delete-immutable", rule.Name, field)
		}
	}
	return rule, nil
}

func parseRules(texts []string) (*[]api.RetentionRule, error) {
	rules := make([]api.RetentionRule, len(texts))
	for i, text := range texts {
		var err error
		if rules[i], err = parseRule(text); err != nil {
			return nil, err
		}
	}
	return &rules, nil
}

// ruleText is a rule as parseRule reads it.
func ruleText(rule api.RetentionRule) string {
	parts := []string{rule.Name}
	if rule.Tags != nil {
		parts = append(parts, "tags="+strings.Join(*rule.Tags, ","))
	}
	if rule.Newest != nil {
		parts = append(parts, "newest="+strconv.Itoa(*rule.Newest))
	}
	if rule.YoungerThan != nil {
		parts = append(parts, "younger-than="+*rule.YoungerThan)
	}
	if rule.PulledWithin != nil {
		parts = append(parts, "pulled-within="+*rule.PulledWithin)
	}
	if rule.DeleteImmutable != nil && *rule.DeleteImmutable {
		parts = append(parts, "delete-immutable")
	}
	return strings.Join(parts, " ")
}

func printRetention(r *Remote, cmd *cobra.Command, held *api.EffectiveRetention) error {
	var facts []fact
	for _, rule := range held.Rules {
		facts = append(facts, fact{"Rule", ruleText(rule)})
	}
	if len(held.Rules) == 0 {
		facts = append(facts, fact{"Rules", "none, all tags stay"})
	}
	ttl := held.UntaggedTtl
	if ttl == "0s" {
		ttl = "kept"
	}
	facts = append(facts, fact{"Rules set at", string(held.RulesLevel)},
		fact{"Untagged manifests", fmt.Sprintf("%s (set at the %s)", ttl, held.UntaggedTtlLevel)})
	if held.LastRunAt != nil {
		facts = append(facts, fact{"Last applied", cli.ShowTime(*held.LastRunAt)})
	}
	return printFacts(r, cmd, held, facts...)
}

func newRetentionShowCommand(r *Remote) *cobra.Command {
	return &cobra.Command{
		Use:   "show TEAM|REPOSITORY",
		Short: "Show the retention that holds",
		Example: `  berth retention show core
  berth retention show core/app`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			repository, err := retentionTarget(args[0])
			if err != nil {
				return err
			}
			s, err := r.Connect(cmd)
			if err != nil {
				return err
			}
			var held *api.EffectiveRetention
			if repository {
				held, err = Fetched(s.GetRepositoryRetentionWithResponse(cmd.Context(), args[0]))
			} else {
				held, err = Fetched(s.GetTeamRetentionWithResponse(cmd.Context(), args[0]))
			}
			if err != nil {
				return err
			}
			return printRetention(r, cmd, held)
		},
	}
}

func newRetentionSetCommand(r *Remote) *cobra.Command {
	var rules []string
	var ttl string
	c := &cobra.Command{
		Use:   "set TEAM|REPOSITORY",
		Short: "Set the retention of a team or a repository",
		Long: `Set the retention of a team or a repository. What is not given is inherited: a repository's
from its team, the lifetime of untagged manifests from the setting untagged_ttl at last. --no-rules keeps all tags.

It says what would go now. Nothing goes at once: the rules are applied once a day (retention_interval), or by
'berth retention run'.`,
		Example: `  berth retention set core --rule 'releases tags=v*' --rule 'dev tags=dev-* newest=20'
  berth retention set core/app --untagged-ttl 168h
  berth retention set core/archive --no-rules`,
		Args: cobra.ExactArgs(1),
	}
	c.Flags().StringArrayVar(&rules, "rule", nil, "a rule, see 'berth retention --help'; give it again for more")
	c.Flags().StringVar(&ttl, "untagged-ttl", "", "how long a manifest lives that no tag, index or subject holds; 0s keeps it")
	c.Flags().Bool("no-rules", false, "keep all tags, whatever the team says")
	c.MarkFlagsOneRequired("rule", "untagged-ttl", "no-rules")
	c.MarkFlagsMutuallyExclusive("rule", "no-rules")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		repository, err := retentionTarget(args[0])
		if err != nil {
			return err
		}
		var body api.RetentionPolicy
		if len(rules) > 0 || cmd.Flags().Changed("no-rules") {
			if body.Rules, err = parseRules(rules); err != nil {
				return err
			}
		}
		if cmd.Flags().Changed("untagged-ttl") {
			body.UntaggedTtl = &ttl
		}
		s, err := r.Connect(cmd)
		if err != nil {
			return err
		}
		var held *api.EffectiveRetention
		if repository {
			held, err = Fetched(s.SetRepositoryRetentionWithResponse(cmd.Context(), args[0], body))
		} else {
			held, err = Fetched(s.SetTeamRetentionWithResponse(cmd.Context(), args[0], body))
		}
		if err != nil {
			return err
		}
		if err := printRetention(r, cmd, held); err != nil {
			return err
		}
		w := cmd.OutOrStdout()
		if r.asJSON() {
			w = cmd.ErrOrStderr() // stdout has the policy alone
		}
		repositories := func(yield func(string, error) bool) { yield(args[0], nil) }
		if !repository {
			repositories = s.repositoriesOf(cmd.Context(), args[0])
		}
		return s.printGoesNow(cmd.Context(), w, repositories, held)
	}
	return c
}

// retentionLooks bounds how many repositories of a team 'retention set' asks about.
const retentionLooks = 200

// repositoriesOf lists the repositories of a team.
func (s *Connection) repositoriesOf(ctx context.Context, team string) iter.Seq2[string, error] {
	list := All(func(limit *api.Limit, after *api.After) (*client.ListRepositoriesResponse, error) {
		return s.ListRepositoriesWithResponse(ctx, &api.ListRepositoriesParams{Team: &team, Limit: limit, After: after})
	})
	return func(yield func(string, error) bool) {
		for r, err := range list {
			if !yield(r.Name, err) {
				return
			}
		}
	}
}

// printGoesNow says what the retention that was just set would delete now, repository by repository.
func (s *Connection) printGoesNow(ctx context.Context, w io.Writer, repositories iter.Seq2[string, error], held *api.EffectiveRetention) error {
	looked, goes, stays := 0, 0, 0
	var one api.Limit = 1 // the counts come with the first page
	for name, err := range repositories {
		if err != nil {
			return err
		}
		if looked == retentionLooks {
			fmt.Fprintf(w, "These are the first %d repositories; 'berth retention dry-run REPOSITORY' tells of each other one.\n", looked)
			break
		}
		looked++
		trial, err := Fetched(s.DryRunRetentionWithResponse(ctx, name, &api.DryRunRetentionParams{Limit: &one}, api.RetentionTrial{}))
		var refused ProblemError
		if errors.As(err, &refused) && refused.Status < 500 {
			continue // it was deleted since, or one that the caller may only pull
		}
		if err != nil {
			return err
		}
		if trial.Kept == nil || trial.Deleted == nil {
			continue
		}
		goes, stays = goes+*trial.Deleted, stays+*trial.Kept
		if *trial.Deleted > 0 {
			fmt.Fprintf(w, "%s: %s would go, %d stay; 'berth retention dry-run %s' tells which\n", name, cli.Count(*trial.Deleted, "tag"), *trial.Kept, name)
		}
	}
	fmt.Fprintf(w, "Would go now: %s; %d stay.\n", cli.Count(goes, "tag"), stays)
	if held.UntaggedTtl != "0s" {
		fmt.Fprintln(w, "Untagged manifests that are older than that go with the next collection: 'berth gc --dry-run' tells which.")
	}
	return nil
}

func newRetentionUnsetCommand(r *Remote) *cobra.Command {
	return &cobra.Command{
		Use:     "unset TEAM|REPOSITORY",
		Short:   "Remove the retention of a team or a repository, which then inherits it",
		Example: `  berth retention unset core/app`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			repository, err := retentionTarget(args[0])
			if err != nil {
				return err
			}
			s, err := r.Connect(cmd)
			if err != nil {
				return err
			}
			if repository {
				err = Done(s.DeleteRepositoryRetentionWithResponse(cmd.Context(), args[0]))
			} else {
				err = Done(s.DeleteTeamRetentionWithResponse(cmd.Context(), args[0]))
			}
			if err != nil {
				return err
			}
			return PrintDone(r, cmd, nil, "%s has no retention of its own", args[0])
		},
	}
}

func newRetentionDryRunCommand(r *Remote) *cobra.Command {
	var rules []string
	c := &cobra.Command{
		Use:   "dry-run REPOSITORY",
		Short: "Say which tags go now, and why each other one stays",
		Example: `  berth retention dry-run core/app
  berth retention dry-run core/app --rule 'releases tags=v* newest=10 delete-immutable'`,
		Args: arguments(nameOf("repository")),
	}
	c.Flags().StringArrayVar(&rules, "rule", nil, "a rule to try in place of those that hold; give it again for more")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		var body api.RetentionTrial
		if len(rules) > 0 {
			var err error
			if body.Rules, err = parseRules(rules); err != nil {
				return err
			}
		}
		s, err := r.Connect(cmd)
		if err != nil {
			return err
		}
		var kept, deleted int
		tags := All(func(limit *api.Limit, after *api.After) (*client.DryRunRetentionResponse, error) {
			resp, err := s.DryRunRetentionWithResponse(cmd.Context(), args[0], &api.DryRunRetentionParams{Limit: limit, After: after}, body)
			if err == nil && resp.JSON200 != nil && resp.JSON200.Kept != nil && resp.JSON200.Deleted != nil {
				kept, deleted = *resp.JSON200.Kept, *resp.JSON200.Deleted
			}
			return resp, err
		})
		err = printList(r, cmd, tags, []string{"TAG", "WHAT", "WHY"}, func(d api.RetentionDecision) []string {
			what := "stays"
			if !d.Keep {
				what = "goes"
			}
			var why []string
			for _, reason := range d.Reasons {
				if reason.Keeps != d.Keep {
					continue
				}
				text := reason.Reason
				if reason.Rule != nil {
					text = *reason.Rule + ": " + text
				}
				why = append(why, text)
			}
			return []string{d.Tag, what, strings.Join(why, "; ")}
		})
		if err == nil && !r.asJSON() {
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "Would go now: %s; %d stay.\n", cli.Count(deleted, "tag"), kept)
		}
		return err
	}
	return c
}

func newRetentionRunCommand(r *Remote) *cobra.Command {
	return &cobra.Command{
		Use:     "run REPOSITORY",
		Short:   "Apply the retention of a repository now",
		Example: `  berth retention run core/app --yes`,
		Args:    arguments(nameOf("repository")),
		RunE: r.SignedIn(func(cmd *cobra.Command, args []string, s *Connection) error {
			if err := r.confirm(cmd, "This deletes what 'berth retention dry-run "+args[0]+"' shows."); err != nil {
				return err
			}
			deleted := 0
			for {
				run, err := Fetched(s.RunRetentionWithResponse(cmd.Context(), args[0]))
				if err != nil {
					return err
				}
				deleted += run.Deleted
				if !run.More || run.Deleted == 0 {
					run.Deleted = deleted
					return PrintDone(r, cmd, run, "%s deleted", cli.Count(deleted, "tag"))
				}
			}
		}),
	}
}
