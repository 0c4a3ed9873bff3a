package client

import (
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"berth/api"
	"berth/api/client"
	"berth/cmd/berth/cli"
)

// NewServiceCommand makes 'berth service'.
func NewServiceCommand(r *Remote) *cobra.Command {
	c := &cobra.Command{
		Use:   "service",
		Short: "Manage the other registries that take Berth's tokens",
		Long: `Manage services: other registries that send their clients to Berth's token endpoint. Each has
a name (what its setting "service" says, and the audience of its tokens), an issuer, a life time
of its tokens, and keys of its own. See docs/token-server.md.`,
		Example: `  berth service set registry.example.com --issuer berth
  berth service list
  berth key list`,
	}
	c.AddCommand(newServiceSetCommand(r), newServiceListCommand(r), newServiceShowCommand(r), newServiceDeleteCommand(r))
	return c
}

func newServiceSetCommand(r *Remote) *cobra.Command {
	var (
		issuer, anonymous string
		refresh, omitX5C  bool
	)
	c := &cobra.Command{
		Use:   "set NAME",
		Short: "Make a service, or change the one of this name",
		Long:  "Make a service, or change the one of this name: what no flag names stays as it is.",
		Example: `  berth service set registry.example.com --issuer berth
  berth service set harbor-registry --issuer harbor-token-issuer --algorithm RS256 --token-ttl 10m
  berth service set registry.example.com --anonymous-pull 'library/*' --refresh-tokens`,
		Args: cobra.ExactArgs(1),
	}
	f := c.Flags()
	f.StringVar(&issuer, "issuer", "berth", "the issuer of its tokens, as the registry's settings name it")
	ttl := cli.DurationFlag(f, "token-ttl", 5*time.Minute, "life of its tokens")
	f.StringVar(&anonymous, "anonymous-pull", "", "the repositories that everybody may pull, * and ? are wildcards; '' is none")
	f.BoolVar(&refresh, "refresh-tokens", false, "hand out refresh tokens to clients that ask for one")
	f.BoolVar(&omitX5C, "omit-x5c", false, "leave the certificates out of its tokens, for a registry that has the keys as a JWKS")
	algorithm := cli.ChoiceFlag(c, "algorithm", "ES256", "of the keys that are made for it", "ES256", "ES384", "RS256")
	c.RunE = r.SignedIn(func(cmd *cobra.Command, args []string, s *Connection) error {
		before, err := s.GetServiceWithResponse(cmd.Context(), args[0])
		now, err := found(before, err)
		if err != nil {
			return err
		}
		params, change := &api.PutServiceParams{}, api.ServiceChange{}
		if now != nil {
			change = api.ServiceChange{Issuer: &now.Issuer, TokenTtl: &now.TokenTtl, AnonymousPull: &now.AnonymousPull,
				RefreshTokens: &now.RefreshTokens, OmitX5c: &now.OmitX5c, Algorithm: cli.Pointer(api.ServiceChangeAlgorithm(now.Algorithm))}
			params.IfMatch = cli.Pointer(before.HTTPResponse.Header.Get("ETag"))
		}
		if f.Changed("issuer") {
			change.Issuer = &issuer
		}
		if f.Changed("token-ttl") {
			seconds := int(*ttl / time.Second)
			change.TokenTtl = &seconds
		}
		if f.Changed("anonymous-pull") {
			change.AnonymousPull = &anonymous
		}
		if f.Changed("refresh-tokens") {
			change.RefreshTokens = &refresh
		}
		if f.Changed("omit-x5c") {
			change.OmitX5c = &omitX5C
		}
		if f.Changed("algorithm") {
			change.Algorithm = cli.Pointer(api.ServiceChangeAlgorithm(algorithm.Value))
		}
		service, err := Fetched(s.PutServiceWithResponse(cmd.Context(), args[0], params, change))
		if err != nil {
			return err
		}
		return PrintDone(r, cmd, service, "service %s: issuer %s, tokens live for %s", service.Name, service.Issuer, seconds(service.TokenTtl))
	})
	return c
}

func seconds(n int) time.Duration { return time.Duration(n) * time.Second }

func newServiceListCommand(r *Remote) *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Short:   "List the services",
		Example: `  berth service list --output json`,
		Args:    cobra.NoArgs,
		RunE: r.SignedIn(func(cmd *cobra.Command, args []string, s *Connection) error {
			services := All(func(limit *api.Limit, after *api.After) (*client.ListServicesResponse, error) {
				return s.ListServicesWithResponse(cmd.Context(), &api.ListServicesParams{Limit: limit, After: after})
			})
			return printList(r, cmd, services, []string{"NAME", "ISSUER", "TOKEN TTL", "ALGORITHM", "ANONYMOUS PULL", "REFRESH TOKENS"}, func(v api.Service) []string {
				return []string{v.Name, v.Issuer, seconds(v.TokenTtl).String(), string(v.Algorithm), cli.ShowOr(&v.AnonymousPull, "-"), strconv.FormatBool(v.RefreshTokens)}
			})
		}),
	}
}

func newServiceShowCommand(r *Remote) *cobra.Command {
	return &cobra.Command{
		Use:     "show NAME",
		Short:   "Show a service",
		Example: `  berth service show registry.example.com`,
		Args:    cobra.ExactArgs(1),
		RunE: r.SignedIn(func(cmd *cobra.Command, args []string, s *Connection) error {
			v, err := Fetched(s.GetServiceWithResponse(cmd.Context(), args[0]))
			if err != nil {
				return err
			}
			return printFacts(r, cmd, v,
				fact{"Name", v.Name},
				fact{"Issuer", v.Issuer},
				fact{"Token TTL", seconds(v.TokenTtl).String()},
				fact{"Algorithm", string(v.Algorithm)},
				fact{"Anonymous pull", cli.ShowOr(&v.AnonymousPull, "-")},
				fact{"Refresh tokens", strconv.FormatBool(v.RefreshTokens)},
				fact{"Without x5c", strconv.FormatBool(v.OmitX5c)},
				fact{"Created", cli.ShowTime(v.CreatedAt)})
		}),
	}
}

func newServiceDeleteCommand(r *Remote) *cobra.Command {
	return &cobra.Command{
		Use:     "delete NAME",
		Short:   "Delete a service with its keys",
		Example: `  berth service delete registry.example.com --yes`,
		Args:    cobra.ExactArgs(1),
		RunE: r.SignedIn(func(cmd *cobra.Command, args []string, s *Connection) error {
			if err := r.confirm(cmd, "This deletes the service "+args[0]+" with its keys: its registry gets no tokens any more."); err != nil {
				return err
			}
			if err := Done(s.DeleteServiceWithResponse(cmd.Context(), args[0], &api.DeleteServiceParams{})); err != nil {
				return err
			}
			return PrintDone(r, cmd, nil, "service %s is deleted", args[0])
		}),
	}
}
