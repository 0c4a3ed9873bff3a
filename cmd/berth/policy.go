package main

import (
	"github.com/spf13/cobra"

	"berth/api"
)

// policyHelp explains tag policies in the help of the commands that set them.
const policyHelp = `Tag policies say what may happen to a tag that exists:
  mutable    it may move and be deleted
  immutable  it never moves; deleting it needs the delete right and is on record
  sealed     it can neither move nor be deleted, ever, and neither can its repository;
             tags that are sealed once stay so when the policy changes
Tags matching an --exempt pattern (* and ?) are mutable. The nearest policy decides: the
repository's, else its team's, else the instance's. Without --exempt the patterns
that hold now are kept; --exempt '' is none.`

// policyFlags are --tag-policy and --exempt.
type policyFlags struct {
	cmd    *cobra.Command
	mode   *choice
	exempt *[]string
}

func addPolicyFlags(c *cobra.Command, inherits bool) policyFlags {
	values := []string{"mutable", "immutable", "sealed"}
	if inherits {
		values = append(values, "inherit")
	}
	return policyFlags{
		cmd:    c,
		mode:   choiceFlag(c, "tag-policy", "", "what may happen to tags", values...),
		exempt: c.Flags().StringArray("exempt", nil, "a pattern of tags that stay mutable; give it again for more"),
	}
}

// confirm asks before tags are sealed.
func (f policyFlags) confirm(r *remote, cmd *cobra.Command, what string) error {
	if f.mode.value == "inherit" && f.cmd.Flags().Changed("exempt") {
		return usagef("--exempt goes with a policy of its own, not with --tag-policy inherit")
	}
	if f.mode.value != string(api.TagModeSealed) {
		return nil
	}
	return r.confirm(cmd, "This seals the tags in "+what+" for ever: nobody can move or delete them again.")
}

// policyCalls are the operations on the policy of a team, a repository or the
// instance. remove is nil where there is nothing to inherit from.
type policyCalls struct {
	get    func() (*api.EffectiveTagPolicy, error)
	put    func(api.TagPolicy) (*api.EffectiveTagPolicy, error)
	remove func() error
}

// apply does what the flags say, and nothing when they are absent.
func (f policyFlags) apply(r *remote, cmd *cobra.Command, what string, calls policyCalls) error {
	exempts := f.cmd.Flags().Changed("exempt")
	if f.mode.value == "" && !exempts {
		return nil
	}
	if f.mode.value == "inherit" {
		if err := calls.remove(); err != nil {
			return err
		}
		return printDone(r, cmd, nil, "%s: no tag policy of its own", what)
	}
	policy := api.TagPolicy{Mode: api.TagMode(f.mode.value), Exempt: []string{}}
	for _, pattern := range *f.exempt {
		if pattern != "" {
			policy.Exempt = append(policy.Exempt, pattern)
		}
	}
	if policy.Mode == "" || !exempts {
		now, err := calls.get()
		if err != nil {
			return err
		}
		if policy.Mode == "" {
			policy.Mode = now.Mode
		}
		if !exempts {
			policy.Exempt = now.Exempt
		}
	}
	p, err := calls.put(policy)
	if err != nil {
		return err
	}
	return printDone(r, cmd, p, "%s: tags are %s, exempt: %s", what, p.Mode, showList(p.Exempt))
}

// policyFacts are the lines of a policy in what `show` prints.
func policyFacts(p api.EffectiveTagPolicy) []fact {
	return []fact{
		{"Tag policy", string(p.Mode) + " (set at the " + string(p.Level) + ")"},
		{"Exempt tags", showList(p.Exempt)},
	}
}
