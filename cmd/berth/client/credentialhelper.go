package client

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	dockerconfig "github.com/docker/cli/cli/config"
	helpers "github.com/docker/docker-credential-helpers/credentials"
	"github.com/spf13/cobra"

	"berth/cmd/berth/cli"
)

// helperName is the credential helper's name in docker's configuration; its
// program is docker-credential-berth.
const (
	helperName    = "berth"
	HelperProgram = "docker-credential-" + helperName
)

// CommandLine gives the arguments of a command line. Called by the name of the
// credential helper, berth is that.
func CommandLine(args []string) []string {
	if len(args) == 0 {
		return nil
	}
	if name := strings.TrimSuffix(filepath.Base(args[0]), ".exe"); name == HelperProgram {
		return append([]string{"credential-helper"}, args[1:]...)
	}
	return args[1:]
}

// NewCredentialHelperCommand makes 'berth credential-helper'.
func NewCredentialHelperCommand() *cobra.Command {
	actions := []string{helpers.ActionGet, helpers.ActionStore, helpers.ActionErase, helpers.ActionList}
	return &cobra.Command{
		Use:   "credential-helper get|store|erase|list",
		Short: "Give docker, podman and others the credentials of 'berth login'",
		Long: `Speak the protocol of docker's credential helpers. Docker calls the program
docker-credential-berth, which is berth by another name:

  ln -s "$(command -v berth)" /usr/local/bin/docker-credential-berth

'berth login --oidc' names it in docker's configuration. An ID token that is about to end is
replaced at the identity provider.`,
		Example:   `  echo registry.example.com | berth credential-helper get`,
		ValidArgs: actions,
		Args: arguments(func(s string) error {
			if !slices.Contains(actions, s) {
				return cli.Usagef("%q is none of %s", s, strings.Join(actions, ", "))
			}
			return nil
		}),
		RunE: func(cmd *cobra.Command, args []string) error {
			err := helpers.HandleCommand(helper{cmd.Context()}, args[0], cli.Input(cmd), cmd.OutOrStdout())
			if err != nil {
				// Docker reads the reason from there, and knows some of them by their text.
				fmt.Fprintln(cmd.OutOrStdout(), err)
			}
			return err
		},
	}
}

// helper implements helpers.Helper with what is kept.
type helper struct {
	ctx context.Context // the command's; the interface has no parameter for it
}

// hostOf is the host of what clients call a server: some give a URL.
func hostOf(server string) string {
	if strings.Contains(server, "://") {
		if u, err := url.Parse(server); err == nil {
			return u.Host
		}
	}
	host, _, _ := strings.Cut(server, "/")
	return host
}

// Add keeps what docker login was given.
func (h helper) Add(c *helpers.Credentials) error {
	return withKept(func(all map[string]Kept) (bool, error) {
		all[hostOf(c.ServerURL)] = Kept{Username: c.Username, Secret: c.Secret}
		return true, nil
	})
}

// Delete forgets a server's credentials.
func (h helper) Delete(server string) error {
	_, err := forget(h.ctx, hostOf(server))
	return err
}

// Get gives user name and secret of a server.
func (h helper) Get(server string) (string, string, error) {
	k, ok, err := keptFor(h.ctx, hostOf(server))
	switch {
	case err != nil:
		return "", "", err
	case !ok:
		return "", "", helpers.NewErrCredentialsNotFound()
	case k.Issuer != "":
		return oidcUser, k.IDToken, nil
	}
	return k.Username, k.Secret, nil
}

// List gives the user names by server.
func (h helper) List() (map[string]string, error) {
	names := map[string]string{}
	err := withKept(func(all map[string]Kept) (bool, error) {
		for host, k := range all {
			if names[host] = k.Username; k.Issuer != "" {
				names[host] = oidcUser
			}
		}
		return false, nil
	})
	return names, err
}

// keptFor gives what is kept for a host, with an ID token that holds.
func keptFor(ctx context.Context, host string) (k Kept, ok bool, err error) {
	err = withKept(func(all map[string]Kept) (bool, error) {
		before, found := all[host]
		if !found {
			return false, nil
		}
		if k, err = before.refreshed(ctx, host); err != nil {
			return false, err
		}
		all[host], ok = k, true
		return k != before, nil
	})
	return k, ok, err
}

// forget removes what is kept for a host, and tells its provider. It
// removes it also when the provider could not be told.
func forget(ctx context.Context, host string) (was Kept, err error) {
	err = withKept(func(all map[string]Kept) (bool, error) {
		var found bool
		if was, found = all[host]; found {
			delete(all, host)
		}
		return found, nil
	})
	if err != nil {
		return was, err
	}
	if err := was.revoke(ctx); err != nil {
		fmt.Fprintf(os.Stderr, "the identity provider %s could not be told that the sign-in is over: %v\n", was.Issuer, err)
	}
	return was, nil
}

// useHelper makes docker and others ask the credential helper about a host, or
// not any more.
func useHelper(cmd *cobra.Command, host string, use bool) error {
	store := dockerconfig.LoadDefaultConfigFile(cmd.ErrOrStderr())
	switch now := store.CredentialHelpers[host]; {
	case use && now != helperName:
		if store.CredentialHelpers == nil {
			store.CredentialHelpers = map[string]string{}
		}
		store.CredentialHelpers[host] = helperName
	case !use && now == helperName:
		delete(store.CredentialHelpers, host)
	default:
		return nil
	}
	if err := store.Save(); err != nil {
		return fmt.Errorf("changing docker's configuration: %w", err)
	}
	return nil
}

// adviseHelper says how docker finds the helper, when it would not.
func adviseHelper(cmd *cobra.Command) {
	if _, err := exec.LookPath(HelperProgram); err == nil {
		return
	}
	program, err := os.Executable()
	if err != nil {
		program = "berth"
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "docker asks the program %s, which is not in PATH yet: ln -s %s /usr/local/bin/%s\n", HelperProgram, program, HelperProgram)
}
