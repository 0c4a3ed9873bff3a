package client

import (
	"fmt"
	"net/url"
	"os"
	"path/filepath"

	dockerconfig "github.com/docker/cli/cli/config"
	"github.com/docker/cli/cli/config/types"
	"github.com/spf13/cobra"

	"berth/api"
	"berth/cmd/berth/cli"
)

// NewLoginCommand makes 'berth login'.
func NewLoginCommand(r *Remote) *cobra.Command {
	var openid, device bool
	c := &cobra.Command{
		Use:   "login",
		Short: "Sign in at a server, for berth and for docker",
		Long: `Sign in at a server, for berth, docker, podman, skopeo, crane and others.

With a user name: check it with a password or a token, and keep them where 'docker login' does,
in docker's configuration, or in the credential helper that it names.

With --oidc, or without a user name at a server that has an identity provider: sign in there with
the browser (--device: on another machine). What is kept is a file that you alone can read, from
which the credential helper docker-credential-berth gets a new ID token when the old one ends.`,
		Example: `  berth login --server registry.example.com
  berth login --server registry.example.com --oidc --device
  berth login --username alice --password-stdin <password.txt`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			server, err := r.address()
			if err != nil {
				return err
			}
			transport, err := r.transport()
			if err != nil {
				return err
			}
			openid = openid || device
			if named := r.username != "" || os.Getenv("BERTH_USERNAME") != "" || r.passwordStdin; !openid && !named {
				w, err := fetchWellKnown(cmd.Context(), transport, server)
				if err != nil {
					return err
				}
				openid = w.OIDC != nil
			}
			if openid {
				return r.loginOIDC(cmd, server, device)
			}
			from, err := r.askCredentials(cmd)
			if err != nil {
				return err
			}
			// No scope: a token for pulls only may not manage anything, and still is a good login.
			if _, err := newTokenSource(cmd.Context(), transport, server, from).Token(); err != nil {
				return explain(err)
			}
			// A password belongs where docker keeps them.
			if err := useHelper(cmd, server.Host, false); err != nil {
				return err
			}
			if _, err := forget(cmd.Context(), server.Host); err != nil {
				return err
			}
			store := dockerconfig.LoadDefaultConfigFile(cmd.ErrOrStderr())
			err = store.GetCredentialsStore(server.Host).Store(types.AuthConfig{
				Username: from.username, Password: from.Password, ServerAddress: server.Host})
			if err != nil {
				return fmt.Errorf("keeping the credentials for %s: %w", server.Host, err)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "signed in at %s as %s\n", server.Host, from.username)
			return err
		},
	}
	c.Flags().BoolVar(&openid, "oidc", false, "sign in at the server's identity provider")
	c.Flags().BoolVar(&device, "device", false, "sign in there with a browser on another machine")
	return c
}

// loginOIDC signs in at the server's identity provider and keeps what that gave.
func (r *Remote) loginOIDC(cmd *cobra.Command, server *url.URL, device bool) error {
	k, err := r.signInOIDC(cmd, server, device)
	if err != nil {
		return err
	}
	if r.caFile() != "" {
		if k.CA, err = filepath.Abs(r.caFile()); err != nil {
			return err
		}
	}
	s, err := r.connectAs(cmd, server, credentials{username: oidcUser, Password: k.IDToken})
	if err != nil {
		return err
	}
	me, err := Fetched(s.WhoamiWithResponse(cmd.Context()))
	if err != nil {
		return err
	}
	if _, err := forget(cmd.Context(), server.Host); err != nil { // an earlier sign-in
		return err
	}
	if err := withKept(func(all map[string]Kept) (bool, error) { all[server.Host] = k; return true, nil }); err != nil {
		return err
	}
	if err := useHelper(cmd, server.Host, true); err != nil {
		return err
	}
	adviseHelper(cmd)
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "signed in at %s as %s\n", server.Host, me.Name)
	return err
}

// askCredentials takes the user name and the password from the flags, the
// environment or the terminal, but not those of an earlier login.
func (r *Remote) askCredentials(cmd *cobra.Command) (credentials, error) {
	if r.username == "" {
		r.username = os.Getenv("BERTH_USERNAME")
	}
	if r.username == "" {
		if _, ok := cli.Terminal(cmd); !ok || r.passwordStdin {
			return credentials{}, cli.Usagef("--username is missing")
		}
		fmt.Fprint(cmd.ErrOrStderr(), "Username: ")
		name, err := cli.ReadLine(cmd)
		if err != nil {
			return credentials{}, err
		}
		r.username = name
	}
	return r.credentials(cmd, nil)
}

// NewLogoutCommand makes 'berth logout'.
func NewLogoutCommand(r *Remote) *cobra.Command {
	return &cobra.Command{
		Use:     "logout",
		Short:   "Forget the credentials of a server, for berth and for docker",
		Long:    "Forget the credentials of a server, for berth and for docker. A sign-in at an identity provider is ended there, too.",
		Example: `  berth logout --server registry.example.com`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			server, err := r.address()
			if err != nil {
				return err
			}
			if _, err := forget(cmd.Context(), server.Host); err != nil {
				return err
			}
			if err := useHelper(cmd, server.Host, false); err != nil {
				return err
			}
			store := dockerconfig.LoadDefaultConfigFile(cmd.ErrOrStderr())
			if err := store.GetCredentialsStore(server.Host).Erase(server.Host); err != nil {
				return fmt.Errorf("forgetting the credentials for %s: %w", server.Host, err)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "signed out of %s\n", server.Host)
			return err
		},
	}
}

// NewWhoamiCommand makes 'berth whoami'.
func NewWhoamiCommand(r *Remote) *cobra.Command {
	return &cobra.Command{
		Use:     "whoami",
		Short:   "Show who you are signed in as, and your teams",
		Example: `  berth whoami`,
		Args:    cobra.NoArgs,
		RunE: r.SignedIn(func(cmd *cobra.Command, args []string, s *Connection) error {
			me, err := Fetched(s.WhoamiWithResponse(cmd.Context()))
			if err != nil {
				return err
			}
			facts := []fact{{"Name", me.Name}, {"Kind", string(me.Kind)}, {"Admin", yesNo(me.Admin)}, {"Teams", showTeams(me.Teams)}}
			if me.Limit != nil {
				facts = append(facts, fact{"Limited to", me.Limit.Repositories + " (" + cli.ShowList(me.Limit.Actions) + ")"})
			}
			return printFacts(r, cmd, me, facts...)
		}),
	}
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func showTeams(teams []api.Membership) string {
	list := make([]string, len(teams))
	for i, t := range teams {
		list[i] = t.Team + " (" + string(t.Role) + ")"
	}
	return cli.ShowList(list)
}
