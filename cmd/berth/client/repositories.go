package client

import (
	"context"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"berth/api"
	"berth/api/client"
	"berth/cmd/berth/cli"
	"berth/oci"
)

// NewRepoCommand makes 'berth repo'.
func NewRepoCommand(r *Remote) *cobra.Command {
	c := &cobra.Command{
		Use:   "repo",
		Short: "Manage repositories, their visibility and their tag policy",
		Long: `Manage repositories. A repository comes into being at the first push to its name by
somebody who may, or by 'berth repo create' beforehand.`,
		Example: `  berth repo list --team core
  berth repo set core/app --visibility public
  berth repo set core/app --tag-policy sealed --exempt latest`,
	}
	c.AddCommand(
		newRepoCreateCommand(r),
		newRepoListCommand(r),
		newRepoShowCommand(r),
		newRepoSetCommand(r),
		newRepoDeleteCommand(r),
	)
	return c
}

func visibilityFlag(c *cobra.Command) *cli.Choice {
	return cli.ChoiceFlag(c, "visibility", "", "who may pull", "public", "internal", "private")
}

func setVisibility(ctx context.Context, s *Connection, name string, visibility *cli.Choice) (*api.Repository, error) {
	return Fetched(s.UpdateRepositoryWithResponse(ctx, name, &api.UpdateRepositoryParams{},
		api.RepositoryChange{Visibility: cli.Pointer(api.Visibility(visibility.Value))}))
}

func newRepoCreateCommand(r *Remote) *cobra.Command {
	c := &cobra.Command{
		Use:   "create NAME",
		Short: "Create an empty repository before the first push",
		Example: `  berth repo create core/app
  berth repo create core/site --visibility public`,
		Args: arguments(nameOf("repository")),
	}
	visibility := visibilityFlag(c)
	c.RunE = r.SignedIn(func(cmd *cobra.Command, args []string, s *Connection) error {
		resp, err := s.CreateRepositoryWithResponse(cmd.Context(), args[0])
		if err := check(resp, err); err != nil {
			return err
		}
		repo := resp.JSON201
		if repo == nil {
			return fmt.Errorf("the repository %s is there already", args[0])
		}
		if visibility.Value != "" {
			repo, err = setVisibility(cmd.Context(), s, args[0], visibility)
			if err != nil {
				return err
			}
		}
		return PrintDone(r, cmd, repo, "repository %s is created, %s", repo.Name, repo.Visibility)
	})
	return c
}

func newRepoListCommand(r *Remote) *cobra.Command {
	c := &cobra.Command{
		Use:   "list",
		Short: "List the repositories that you may pull",
		Example: `  berth repo list
  berth repo list --team core
  berth repo list --prefix core/tools/`,
		Args: cobra.NoArgs,
	}
	team := c.Flags().String("team", "", "only repositories of this team")
	prefix := c.Flags().String("prefix", "", "only repositories whose name starts with this")
	c.RunE = r.SignedIn(func(cmd *cobra.Command, args []string, s *Connection) error {
		repos := All(func(limit *api.Limit, after *api.After) (*client.ListRepositoriesResponse, error) {
			return s.ListRepositoriesWithResponse(cmd.Context(), &api.ListRepositoriesParams{
				Team: cli.Pointer(*team), Prefix: cli.Pointer(*prefix), Limit: limit, After: after})
		})
		return printList(r, cmd, repos, []string{"NAME", "VISIBILITY", "CREATED", "BY"}, func(p api.Repository) []string {
			return []string{p.Name, string(p.Visibility), cli.ShowTime(p.CreatedAt), p.CreatedBy}
		})
	})
	return c
}

func newRepoShowCommand(r *Remote) *cobra.Command {
	return &cobra.Command{
		Use:     "show NAME",
		Short:   "Show a repository and the tag policy that holds for it",
		Example: `  berth repo show core/app`,
		Args:    arguments(nameOf("repository")),
		RunE: r.SignedIn(func(cmd *cobra.Command, args []string, s *Connection) error {
			repo, err := Fetched(s.GetRepositoryWithResponse(cmd.Context(), args[0]))
			if err != nil {
				return err
			}
			p, err := Fetched(s.GetRepositoryTagPolicyWithResponse(cmd.Context(), args[0]))
			if err != nil {
				return err
			}
			shown := struct {
				*api.Repository
				TagPolicy *api.EffectiveTagPolicy `json:"tag_policy"`
			}{repo, p}
			facts := []fact{
				{"Name", repo.Name},
				{"Team", repo.Team},
				{"Visibility", string(repo.Visibility)},
				{"Created", cli.ShowTime(repo.CreatedAt) + " by " + repo.CreatedBy},
			}
			if repo.Tags != nil {
				facts = append(facts, fact{"Tags", strconv.FormatInt(*repo.Tags, 10)})
			}
			if repo.Size != nil {
				facts = append(facts, fact{"Size", oci.ShowBytes(*repo.Size)})
			}
			return printFacts(r, cmd, shown, append(facts, policyFacts(*p)...)...)
		}),
	}
}

func newRepoSetCommand(r *Remote) *cobra.Command {
	c := &cobra.Command{
		Use:   "set NAME",
		Short: "Change a repository's visibility or tag policy",
		Long:  "Change a repository.\n\n" + policyHelp,
		Example: `  berth repo set core/app --visibility internal
  berth repo set core/app --tag-policy sealed --exempt latest
  berth repo set core/app --tag-policy inherit`,
		Args: arguments(nameOf("repository")),
	}
	visibility := visibilityFlag(c)
	policy := addPolicyFlags(c, true)
	c.MarkFlagsOneRequired("visibility", "tag-policy", "exempt", "add-exempt")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		name := args[0]
		if err := policy.confirm(r, cmd, name); err != nil {
			return err
		}
		s, err := r.Connect(cmd)
		if err != nil {
			return err
		}
		ctx := cmd.Context()
		if visibility.Value != "" {
			repo, err := setVisibility(ctx, s, name, visibility)
			if err != nil {
				return err
			}
			if err := PrintDone(r, cmd, repo, "repository %s is %s", repo.Name, repo.Visibility); err != nil {
				return err
			}
		}
		return policy.apply(r, cmd, "repository "+name, policyCalls{
			get: func() (*api.EffectiveTagPolicy, error) {
				return Fetched(s.GetRepositoryTagPolicyWithResponse(ctx, name))
			},
			put: func(p api.TagPolicy) (*api.EffectiveTagPolicy, error) {
				return Fetched(s.SetRepositoryTagPolicyWithResponse(ctx, name, p))
			},
			remove: func() error { return Done(s.DeleteRepositoryTagPolicyWithResponse(ctx, name)) },
		})
	}
	return c
}

func newRepoDeleteCommand(r *Remote) *cobra.Command {
	return &cobra.Command{
		Use:     "delete NAME",
		Short:   "Delete a repository with its tags and manifests",
		Example: `  berth repo delete core/app --yes`,
		Args:    arguments(nameOf("repository")),
		RunE: r.SignedIn(func(cmd *cobra.Command, args []string, s *Connection) error {
			if err := r.confirm(cmd, "This deletes the repository "+args[0]+" with all its tags and manifests."); err != nil {
				return err
			}
			if err := Done(s.DeleteRepositoryWithResponse(cmd.Context(), args[0], &api.DeleteRepositoryParams{})); err != nil {
				return err
			}
			return PrintDone(r, cmd, nil, "repository %s is deleted", args[0])
		}),
	}
}
