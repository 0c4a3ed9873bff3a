package client

import (
	"github.com/spf13/cobra"

	"berth/api"
)

// NewInstanceCommand makes 'berth instance'.
func NewInstanceCommand(r *Remote) *cobra.Command {
	c := &cobra.Command{
		Use:     "instance",
		Short:   "Show and change what holds for the whole registry",
		Example: `  berth instance show`,
	}
	c.AddCommand(newInstanceShowCommand(r), newInstanceSetCommand(r))
	return c
}

func newInstanceShowCommand(r *Remote) *cobra.Command {
	return &cobra.Command{
		Use:     "show",
		Short:   "Show the instance's tag policy",
		Example: `  berth instance show`,
		Args:    cobra.NoArgs,
		RunE: r.SignedIn(func(cmd *cobra.Command, args []string, s *Connection) error {
			p, err := Fetched(s.GetInstanceTagPolicyWithResponse(cmd.Context()))
			if err != nil {
				return err
			}
			shown := struct {
				TagPolicy *api.EffectiveTagPolicy `json:"tag_policy"`
			}{p}
			return printFacts(r, cmd, shown, policyFacts(*p)...)
		}),
	}
}

func newInstanceSetCommand(r *Remote) *cobra.Command {
	c := &cobra.Command{
		Use:   "set",
		Short: "Change the instance's tag policy",
		Long:  "Change the tag policy of every team and repository without one of its own.\n\n" + policyHelp,
		Example: `  berth instance set --tag-policy immutable --exempt latest --exempt '*-SNAPSHOT'
  berth instance set --exempt ''`,
		Args: cobra.NoArgs,
	}
	policy := addPolicyFlags(c, false)
	c.MarkFlagsOneRequired("tag-policy", "exempt", "add-exempt")
	c.RunE = r.SignedIn(func(cmd *cobra.Command, args []string, s *Connection) error {
		if err := policy.confirm(r, cmd, "every repository whose team and itself have no policy of their own"); err != nil {
			return err
		}
		ctx := cmd.Context()
		return policy.apply(r, cmd, "the instance", policyCalls{
			get: func() (*api.EffectiveTagPolicy, error) { return Fetched(s.GetInstanceTagPolicyWithResponse(ctx)) },
			put: func(p api.TagPolicy) (*api.EffectiveTagPolicy, error) {
				return Fetched(s.SetInstanceTagPolicyWithResponse(ctx, p))
			},
		})
	})
	return c
}
