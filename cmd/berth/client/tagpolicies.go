package client

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"berth/api"
	"berth/cmd/berth/cli"
)

// policyHelp explains tag policies in the help of the commands that set them.
const policyHelp = `Tag policies say what may happen to a tag that exists:
  mutable    it may move and be deleted
  immutable  it never moves; deleting it needs the delete right and is on record
  sealed     it can neither move nor be deleted, ever, and neither can its repository;
             tags that are sealed once stay so when the policy changes
Tags matching an --exempt pattern (* and ?) are mutable. The nearest policy decides: the
repository's, else its team's, else the instance's.

--exempt replaces all patterns that hold now, the default ones too; --add-exempt keeps them and
adds one; without either they stay as they are. --exempt '' is none.`

// policyFlags are --tag-policy and --exempt.
type policyFlags struct {
	cmd    *cobra.Command
	mode   *cli.Choice
	exempt *[]string
	add    *[]string
}

func addPolicyFlags(c *cobra.Command, inherits bool) policyFlags {
	values := []string{"mutable", "immutable", "sealed"}
	if inherits {
		values = append(values, "inherit")
	}
	f := policyFlags{
		cmd:    c,
		mode:   cli.ChoiceFlag(c, "tag-policy", "", "what may happen to tags", values...),
		exempt: c.Flags().StringArray("exempt", nil, "a pattern of tags that stay mutable, in place of all that hold now, the default ones too; give it again for more"),
		add:    c.Flags().StringArray("add-exempt", nil, "a pattern of tags that stay mutable, beside those that hold now; give it again for more"),
	}
	c.MarkFlagsMutuallyExclusive("exempt", "add-exempt")
	return f
}

// exempts reports whether the patterns change.
func (f policyFlags) exempts() bool {
	return f.cmd.Flags().Changed("exempt") || f.cmd.Flags().Changed("add-exempt")
}

// confirm asks before tags are sealed.
func (f policyFlags) confirm(r *Remote, cmd *cobra.Command, what string) error {
	if f.mode.Value == "inherit" && f.exempts() {
		return cli.Usagef("--exempt and --add-exempt go with a policy of its own, not with --tag-policy inherit")
	}
	if f.mode.Value != string(api.TagModeSealed) {
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
func (f policyFlags) apply(r *Remote, cmd *cobra.Command, what string, calls policyCalls) error {
	if f.mode.Value == "" && !f.exempts() {
		return nil
	}
	if f.mode.Value == "inherit" {
		if err := calls.remove(); err != nil {
			return err
		}
		return PrintDone(r, cmd, nil, "%s: no tag policy of its own", what)
	}
	now, err := calls.get()
	if err != nil {
		return err
	}
	policy := api.TagPolicy{Mode: cmp.Or(api.TagMode(f.mode.Value), now.Mode), Exempt: []string{}}
	replaced := f.cmd.Flags().Changed("exempt")
	if !replaced {
		policy.Exempt = slices.Clone(now.Exempt)
	}
	for _, pattern := range append(*f.exempt, *f.add...) {
		if pattern != "" && !slices.Contains(policy.Exempt, pattern) {
			policy.Exempt = append(policy.Exempt, pattern)
		}
	}
	p, err := calls.put(policy)
	if err != nil {
		return err
	}
	dropped := slices.DeleteFunc(slices.Clone(now.Exempt), func(pattern string) bool { return slices.Contains(p.Exempt, pattern) })
	if replaced && len(dropped) > 0 {
		again := ""
		for _, pattern := range dropped {
			again += " --add-exempt '" + pattern + "'"
		}
		fmt.Fprintf(cmd.ErrOrStderr(), "--exempt has replaced the patterns that held before: %s are not exempt any more. To have them again, add%s.\n", cli.ShowList(dropped), again)
	}
	return PrintDone(r, cmd, p, "%s: tags are %s, exempt: %s", what, p.Mode, cli.ShowList(p.Exempt))
}

// policyFacts are the lines of a policy in what `show` prints.
func policyFacts(p api.EffectiveTagPolicy) []fact {
	return []fact{
		{"Tag policy", string(p.Mode) + " (set at the " + string(p.Level) + ")"},
		{"Exempt tags", cli.ShowList(p.Exempt)},
	}
}
