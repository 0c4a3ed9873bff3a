package client

import (
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"berth/api"
	"berth/api/client"
	"berth/auth"
	"berth/cmd/berth/cli"
)

// NewTrustCommand makes 'berth trust'.
func NewTrustCommand(r *Remote) *cobra.Command {
	c := &cobra.Command{
		Use:   "trust",
		Short: "Manage trust policies: jobs that sign in without a secret",
		Long: `Manage trust policies. By one, a job of GitHub Actions, GitLab CI, Buildkite, Kubernetes or of
any platform that gives its jobs OpenID Connect tokens acts as a robot of a team: its token is
the password of 'docker login'. See docs/keyless-ci.md.`,
		Example: `  berth trust issuer add https://token.actions.githubusercontent.com
  berth trust set core main --preset github --claim repository=acme/app --claim ref=refs/heads/main --actions pull,push
  berth trust list core`,
	}
	c.AddCommand(newTrustSetCommand(r), newTrustListCommand(r), newTrustShowCommand(r), newTrustDeleteCommand(r), newTrustIssuerCommand(r))
	return c
}

// presets are issuers by the name of their platform. A cluster has its own.
var presets = map[string]string{"github": auth.GitHubIssuer, "gitlab": auth.GitLabIssuer, "buildkite": auth.BuildkiteIssuer}

func newTrustSetCommand(r *Remote) *cobra.Command {
	var (
		issuer, audience, robot, repositories, tags string
		claims                                      []string
	)
	c := &cobra.Command{
		Use:   "set TEAM NAME",
		Short: "Make a trust policy, or change the one of this name",
		Long: `Make a trust policy, or change the one of this name: what no flag names stays as it is. A job is
let in when its token is from the issuer, for the audience, and every --claim matches; * and ? are
wildcards, and names of nested claims are joined with dots. --claim replaces all conditions.

Useful claims, by platform:
  github      repository, repository_owner, ref, environment, workflow_ref, event_name
  gitlab      project_path, namespace_path, ref, ref_type, ref_protected, environment
  buildkite   organization_slug, pipeline_slug, build_branch, step_key
  kubernetes  sub (system:serviceaccount:NAMESPACE:NAME), kubernetes.io.namespace`,
		Example: `  berth trust set core main --preset github --claim repository=acme/app --claim ref=refs/heads/main --actions pull,push
  berth trust set core ci --issuer https://gitlab.example.com --claim project_path=acme/app --claim ref_protected=true --actions push
  berth trust set core deploy --preset buildkite --claim organization_slug=acme --claim pipeline_slug=deploy --repositories 'core/app*' --tags 'v*'`,
		Args: arguments(nameOf("team"), nameOf("trust policy")),
	}
	f := c.Flags()
	f.StringVar(&issuer, "issuer", "", "whose tokens: the URL of their claim iss")
	preset := cli.ChoiceFlag(c, "preset", "", "the issuer of a platform", slices.Sorted(maps.Keys(presets))...)
	c.MarkFlagsMutuallyExclusive("issuer", "preset")
	f.StringVar(&audience, "audience", "", "what the job asks its platform for as audience (default the host of this registry)")
	f.StringArrayVar(&claims, "claim", nil, "a condition, name=pattern; may be repeated")
	f.StringVar(&robot, "robot", "", "the robot that jobs act as (default the policy's name)")
	f.StringVar(&repositories, "repositories", "*", "a pattern (* and ?) on the names of the team's repositories")
	actions := actionsFlag(c, []string{"pull"}, "what the job may do")
	f.StringVar(&tags, "tags", "", "a pattern (* and ?) on the tags that may be pushed and deleted (default all)")
	maxLife := cli.DurationFlag(f, "max-life", 15*time.Minute, "longest life of a registry token, 1m to 15m")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		team, name := args[0], args[1]
		s, err := r.Connect(cmd)
		if err != nil {
			return err
		}
		before, err := s.GetTrustPolicyWithResponse(cmd.Context(), team, name)
		now, err := found(before, err)
		if err != nil {
			return err
		}
		params, change := &api.PutTrustPolicyParams{}, api.TrustPolicyChange{}
		if now != nil {
			change = api.TrustPolicyChange{Issuer: now.Issuer, Audience: &now.Audience, Claims: now.Claims, Robot: &now.Robot,
				Repositories: &now.Repositories, Actions: now.Actions, Tags: now.Tags, MaxLife: &now.MaxLife}
			params.IfMatch = cli.Pointer(before.HTTPResponse.Header.Get("ETag"))
		}
		if preset.Value != "" {
			change.Issuer = presets[preset.Value]
		}
		if f.Changed("issuer") {
			change.Issuer = issuer
		}
		if change.Issuer == "" {
			return cli.Usagef("a new trust policy needs --issuer or --preset")
		}
		if f.Changed("audience") {
			change.Audience = &audience
		}
		if f.Changed("claim") {
			change.Claims = api.TrustConditions{}
			for _, claim := range claims {
				name, pattern, ok := strings.Cut(claim, "=")
				if !ok || name == "" || pattern == "" {
					return cli.Usagef("--claim %q is not of the form name=pattern", claim)
				}
				if _, twice := change.Claims[name]; twice {
					return cli.Usagef("--claim %s is there twice: all conditions have to match, so make two policies", name)
				}
				change.Claims[name] = pattern
			}
		}
		if len(change.Claims) == 0 {
			return cli.Usagef("a new trust policy needs at least one --claim, which says whose job it is")
		}
		if f.Changed("robot") {
			change.Robot = &robot
		}
		if f.Changed("repositories") {
			change.Repositories = &repositories
		}
		if now == nil || f.Changed("actions") {
			if change.Actions, err = actions(); err != nil {
				return err
			}
		}
		if f.Changed("tags") {
			change.Tags = &tags
		}
		if f.Changed("max-life") {
			seconds := int(*maxLife / time.Second)
			change.MaxLife = &seconds
		}
		p, err := Fetched(s.PutTrustPolicyWithResponse(cmd.Context(), team, name, params, change))
		if err != nil {
			return err
		}
		return PrintDone(r, cmd, p, "jobs of %s for the audience %s act as %s where %s", p.Issuer, p.Audience, p.Username, showConditions(p.Claims))
	}
	return c
}

func showConditions(claims api.TrustConditions) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(claims)) {
		parts = append(parts, name+"="+claims[name])
	}
	return strings.Join(parts, " ")
}

func newTrustListCommand(r *Remote) *cobra.Command {
	return &cobra.Command{
		Use:     "list TEAM",
		Short:   "List the trust policies of a team",
		Example: `  berth trust list core`,
		Args:    arguments(nameOf("team")),
		RunE: r.SignedIn(func(cmd *cobra.Command, args []string, s *Connection) error {
			policies := All(func(limit *api.Limit, after *api.After) (*client.ListTrustPoliciesResponse, error) {
				return s.ListTrustPoliciesWithResponse(cmd.Context(), args[0], &api.ListTrustPoliciesParams{Limit: limit, After: after})
			})
			return printList(r, cmd, policies, []string{"NAME", "ISSUER", "CLAIMS", "ACTS AS", "REPOSITORIES", "ACTIONS", "LAST USED"}, func(p api.TrustPolicy) []string {
				return []string{p.Name, p.Issuer, showConditions(p.Claims), p.Username, p.Repositories, cli.ShowList(p.Actions), cli.ShowTimeOr(p.LastUsedAt, "never")}
			})
		}),
	}
}

func newTrustShowCommand(r *Remote) *cobra.Command {
	return &cobra.Command{
		Use:     "show TEAM NAME",
		Short:   "Show a trust policy",
		Example: `  berth trust show core main`,
		Args:    arguments(nameOf("team"), nameOf("trust policy")),
		RunE: r.SignedIn(func(cmd *cobra.Command, args []string, s *Connection) error {
			p, err := Fetched(s.GetTrustPolicyWithResponse(cmd.Context(), args[0], args[1]))
			if err != nil {
				return err
			}
			facts := []fact{{"Name", p.Name}, {"Issuer", p.Issuer}, {"Audience", p.Audience}}
			for _, name := range slices.Sorted(maps.Keys(p.Claims)) {
				facts = append(facts, fact{"Claim " + name, p.Claims[name]})
			}
			return printFacts(r, cmd, p, append(facts, fact{"Acts as", p.Username}, fact{"Repositories", p.Repositories}, fact{"Actions", cli.ShowList(p.Actions)},
				fact{"Tags", cli.ShowOr(p.Tags, "every")}, fact{"Max life", seconds(p.MaxLife).String()}, fact{"Last used", cli.ShowTimeOr(p.LastUsedAt, "never")},
				fact{"Created", cli.ShowTime(p.CreatedAt) + " by " + p.CreatedBy})...)
		}),
	}
}

func newTrustDeleteCommand(r *Remote) *cobra.Command {
	return &cobra.Command{
		Use:     "delete TEAM NAME",
		Short:   "Delete a trust policy",
		Example: `  berth trust delete core main --yes`,
		Args:    arguments(nameOf("team"), nameOf("trust policy")),
		RunE: r.SignedIn(func(cmd *cobra.Command, args []string, s *Connection) error {
			if err := r.confirm(cmd, "This deletes the trust policy "+args[1]+" of the team "+args[0]+": its jobs cannot sign in any more."); err != nil {
				return err
			}
			if err := Done(s.DeleteTrustPolicyWithResponse(cmd.Context(), args[0], args[1], &api.DeleteTrustPolicyParams{})); err != nil {
				return err
			}
			return PrintDone(r, cmd, nil, "trust policy %s of %s is deleted", args[1], args[0])
		}),
	}
}

func newTrustIssuerCommand(r *Remote) *cobra.Command {
	c := &cobra.Command{
		Use:   "issuer",
		Short: "Manage the issuers that trust policies may name",
		Long: `Manage the issuers that trust policies may name. Admins let them in; maintainers choose among
them. One at a private address has to stand in the setting oidc_trusted_issuers.`,
		Example: `  berth trust issuer add https://token.actions.githubusercontent.com
  berth trust issuer list`,
	}
	add := &cobra.Command{
		Use:     "add URL",
		Short:   "Let an issuer in",
		Example: `  berth trust issuer add https://gitlab.com`,
		Args:    cobra.ExactArgs(1),
		RunE: r.SignedIn(func(cmd *cobra.Command, args []string, s *Connection) error {
			issuer, err := Fetched(s.PutTrustIssuerWithResponse(cmd.Context(), args[0]))
			if err != nil {
				return err
			}
			return PrintDone(r, cmd, issuer, "trust policies may name %s", issuer.Issuer)
		}),
	}
	list := &cobra.Command{
		Use:     "list",
		Short:   "List the issuers",
		Example: `  berth trust issuer list`,
		Args:    cobra.NoArgs,
		RunE: r.SignedIn(func(cmd *cobra.Command, args []string, s *Connection) error {
			issuers := All(func(limit *api.Limit, after *api.After) (*client.ListTrustIssuersResponse, error) {
				return s.ListTrustIssuersWithResponse(cmd.Context(), &api.ListTrustIssuersParams{Limit: limit, After: after})
			})
			return printList(r, cmd, issuers, []string{"ISSUER", "FROM", "OWNERS"}, func(i api.TrustIssuer) []string {
				if i.Setting || i.CreatedBy == nil {
					return []string{i.Issuer, "the settings", showOwners(i.Owners)}
				}
				return []string{i.Issuer, *i.CreatedBy, showOwners(i.Owners)}
			})
		}),
	}
	owners := &cobra.Command{
		Use:   "owners URL [CLAIM=PATTERN:TEAM]...",
		Short: "Say whose the jobs of an issuer are",
		Long: `Say whose the jobs of an issuer are. Jobs whose tokens have a claim that matches are the team's: no trust
policy of another team lets them in. What is given replaces what was there; nothing removes it. Jobs that
nothing matches may be let in by every team.`,
		Example: `  berth trust issuer owners https://token.actions.githubusercontent.com repository_owner=acme:core
  berth trust issuer owners https://gitlab.com 'project_path=acme/*:core' 'project_path=shop/*:web'`,
		Args: func(cmd *cobra.Command, args []string) error {
			if err := cobra.MinimumNArgs(1)(cmd, args); err != nil {
				return err
			}
			_, err := parseOwners(args[1:])
			return err
		},
		RunE: r.SignedIn(func(cmd *cobra.Command, args []string, s *Connection) error {
			owners, err := parseOwners(args[1:])
			if err != nil {
				return err
			}
			change := api.TrustOwners{Owners: owners}
			issuer, err := Fetched(s.SetTrustOwnersWithResponse(cmd.Context(), args[0], change))
			if err != nil {
				return err
			}
			if issuer.Owners == nil {
				return PrintDone(r, cmd, issuer, "every team may let in the jobs of %s", issuer.Issuer)
			}
			return PrintDone(r, cmd, issuer, "jobs of %s: %s", issuer.Issuer, showOwners(issuer.Owners))
		}),
	}
	remove := &cobra.Command{
		Use:     "remove URL",
		Short:   "Remove an issuer that no trust policy names",
		Example: `  berth trust issuer remove https://gitlab.com`,
		Args:    cobra.ExactArgs(1),
		RunE: r.SignedIn(func(cmd *cobra.Command, args []string, s *Connection) error {
			if err := Done(s.DeleteTrustIssuerWithResponse(cmd.Context(), args[0])); err != nil {
				return err
			}
			return PrintDone(r, cmd, nil, "trust policies may no longer name %s", args[0])
		}),
	}
	c.AddCommand(add, list, owners, remove)
	return c
}

// parseOwners reads CLAIM=PATTERN:TEAM.
func parseOwners(texts []string) ([]api.TrustOwner, error) {
	owners := []api.TrustOwner{}
	for _, text := range texts {
		claim, rest, ok := strings.Cut(text, "=")
		i := strings.LastIndexByte(rest, ':') // a value may have one, a team's name has none
		if !ok || claim == "" || i <= 0 || i == len(rest)-1 {
			return nil, cli.Usagef("%q is not of the form CLAIM=PATTERN:TEAM", text)
		}
		owners = append(owners, api.TrustOwner{Claim: claim, Pattern: rest[:i], Team: rest[i+1:]})
	}
	return owners, nil
}

func showOwners(owners *[]api.TrustOwner) string {
	if owners == nil {
		return "-"
	}
	var parts []string
	for _, o := range *owners {
		parts = append(parts, o.Claim+"="+o.Pattern+":"+o.Team)
	}
	return strings.Join(parts, " ")
}
