package client

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"berth/cmd/berth/cli"
)

// rbacRemote is the server of the rbac commands and who signs in there.
type rbacRemote struct {
	dockitRemote
	registryURL string
	username    string
	password    string
}

// NewRBACCommand makes 'berth rbac'.
func NewRBACCommand() *cobra.Command {
	r := &rbacRemote{dockitRemote: dockitRemote{names: []string{"DOCKIT_BASE_URL", "DOCKIT_GRANT_BASE_URL"}}}
	c := &cobra.Command{
		Use:   "rbac",
		Short: "Manage users, groups and their rights as Dockit's command line does",
		Long: `Manage users, groups and their rights with the commands, flags and variables of Dockit. They
speak Dockit's administration API (/v2/admin/), and need an administrator.

A right is pull or push (which includes pull) on a repository, or on a namespace: all that is
below a name. Without --username the credentials are those of $BERTH_USERNAME and $BERTH_PASSWORD,
else those that docker login keeps for --registry-url, or for the server.`,
		Example: `  berth rbac add group:devs
  berth rbac add-member group:devs user:alice
  berth rbac grant group:devs repository:team/app:push
  berth rbac permissions user:alice`,
	}
	r.addFlags(c)
	f := c.PersistentFlags()
	f.StringVar(&r.registryURL, "registry-url", "", "the registry whose docker login is used (DOCKIT_REGISTRY_URL)")
	f.StringVar(&r.username, "username", "", "sign in as this user (DOCKIT_USERNAME)")
	f.StringVar(&r.password, "password", "", "with this password; better in DOCKIT_PASSWORD, where other users of the machine do not see it")
	c.AddCommand(
		r.grantCommand("grant", http.MethodPut, "Give a right"),
		r.grantCommand("revoke", http.MethodDelete, "Take a right away"),
		r.passwordCommand("add", "Add a group, or a user with a password"),
		r.actionCommand("remove", "Remove a user or a group"),
		r.actionCommand("enable", "Let a user sign in again, or give a group its rights back"),
		r.actionCommand("disable", "Keep a user from signing in, or take a group's rights away"),
		r.permissionsCommand(),
		r.memberCommand("add-member", "Put a user into a group"),
		r.memberCommand("remove-member", "Take a user out of a group"),
		r.passwordCommand("change-password", "Set a user's password"),
	)
	return c
}

// rbacSubject reads (user|group):NAME into a part of a path.
func rbacSubject(s string, kinds ...string) (string, error) {
	kind, name, ok := strings.Cut(s, ":")
	if !ok || name == "" || !slices.Contains(kinds, kind) {
		return "", cli.Usagef("%q is not (%s):NAME", s, strings.Join(kinds, "|"))
	}
	return kind + ":" + url.PathEscape(name), nil
}

// rbacTarget reads (repository|namespace):NAME:(pull|push) into a part of a path.
// Slashes are written as %2F and underscores as %5F: Dockit's own form, an
// underscore for a slash, has no name for an underscore.
func rbacTarget(s string) (string, error) {
	parts := strings.Split(s, ":")
	if len(parts) != 3 || !slices.Contains([]string{"repository", "namespace"}, parts[0]) || parts[1] == "" || !slices.Contains([]string{"pull", "push"}, parts[2]) {
		return "", cli.Usagef("%q is not (repository|namespace):NAME:(pull|push)", s)
	}
	name := strings.ReplaceAll(url.PathEscape(parts[1]), "_", "%5F")
	return parts[0] + ":" + name + ":" + parts[2], nil
}

func (r *rbacRemote) grantCommand(verb, method, short string) *cobra.Command {
	return &cobra.Command{
		Use:     verb + " (user|group):NAME (repository|namespace):NAME:(pull|push)",
		Short:   short,
		Example: "  berth rbac " + verb + " group:devs repository:team/app:push\n  berth rbac " + verb + " user:alice namespace:team:pull",
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			who, err := rbacSubject(args[0], "user", "group")
			if err != nil {
				return err
			}
			what, err := rbacTarget(args[1])
			if err != nil {
				return err
			}
			return r.send(cmd, method, who+"/"+what, nil, nil)
		},
	}
}

func (r *rbacRemote) actionCommand(verb, short string) *cobra.Command {
	return &cobra.Command{
		Use:     verb + " (user|group):NAME",
		Short:   short,
		Example: "  berth rbac " + verb + " user:alice",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			who, err := rbacSubject(args[0], "user", "group")
			if err != nil {
				return err
			}
			return r.send(cmd, http.MethodPut, who+"/"+verb, nil, nil)
		},
	}
}

// passwordCommand is add and change-password.
func (r *rbacRemote) passwordCommand(verb, short string) *cobra.Command {
	kinds, example := []string{"user"}, "  echo 'a good password' | berth rbac "+verb+" user:alice\n  berth rbac "+verb+" user:alice 'a good password'"
	if verb == "add" {
		kinds = append(kinds, "group")
		example += "\n  berth rbac add group:devs"
	}
	return &cobra.Command{
		Use:     verb + " (" + strings.Join(kinds, "|") + "):NAME [PASSWORD]",
		Short:   short,
		Long:    short + ". A user's password is the second argument, which other users of the machine can see, or else the first line of standard input.",
		Example: example,
		Args:    cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			who, err := rbacSubject(args[0], kinds...)
			if err != nil {
				return err
			}
			if strings.HasPrefix(who, "group:") {
				if len(args) > 1 {
					return cli.Usagef("a group has no password")
				}
				return r.send(cmd, http.MethodPut, who+"/"+verb, nil, nil)
			}
			var password string
			if len(args) > 1 {
				password = args[1]
			} else {
				_, typed := cli.Terminal(cmd)
				if password, err = NewPassword(&Remote{}, cmd, !typed, ""); err != nil {
					return err
				}
			}
			return r.send(cmd, http.MethodPut, who+"/"+verb, map[string]string{"password": password}, nil)
		},
	}
}

func (r *rbacRemote) memberCommand(verb, short string) *cobra.Command {
	return &cobra.Command{
		Use:     verb + " group:NAME user:NAME",
		Short:   short,
		Example: "  berth rbac " + verb + " group:devs user:alice",
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			group, err := rbacSubject(args[0], "group")
			if err != nil {
				return err
			}
			user, err := rbacSubject(args[1], "user")
			if err != nil {
				return err
			}
			return r.send(cmd, http.MethodPut, group+"/"+user+"/"+verb, nil, nil)
		},
	}
}

func (r *rbacRemote) permissionsCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "permissions (user|group):NAME",
		Short:   "List the rights of a user, those of the user's groups included, or of a group",
		Example: "  berth rbac permissions user:alice",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			who, err := rbacSubject(args[0], "user", "group")
			if err != nil {
				return err
			}
			var list []struct{ Type, Name, Action string }
			if err := r.send(cmd, http.MethodPut, who+"/permissions", nil, &list); err != nil {
				return err
			}
			for _, p := range list {
				fmt.Fprintf(cmd.OutOrStdout(), "%s -> %s:%s\n", p.Action, p.Type, p.Name)
			}
			return nil
		},
	}
}

// credentials finds what to sign in with.
func (r *rbacRemote) credentials(cmd *cobra.Command, base *url.URL) (username, password string, err error) {
	username = cmp.Or(r.username, FirstEnv("DOCKIT_USERNAME", "DOCKIT_GRANT_USERNAME"))
	password = cmp.Or(r.password, FirstEnv("DOCKIT_PASSWORD", "DOCKIT_GRANT_PASSWORD"))
	if username != "" && password != "" {
		return username, password, nil
	}
	registry := base
	if s := cmp.Or(r.registryURL, FirstEnv("DOCKIT_REGISTRY_URL", "DOCKIT_GRANT_REGISTRY_URL")); s != "" {
		if registry, err = parseServer(s); err != nil {
			return "", "", err
		}
	}
	c, err := (&Remote{username: username}).credentials(cmd, registry)
	if err != nil {
		return "", "", err
	}
	if c.username == "" || c.Password == "" {
		return "", "", fmt.Errorf("docker login for %s keeps no password: give --username and --password", registry.Host)
	}
	return c.username, c.Password, nil
}

// maxAnswer is the largest answer that is read, in bytes.
const maxAnswer = 4 << 20

// send makes a request and reads its answer's data, if any is wanted. Whatever is
// not a success is an error.
func (r *rbacRemote) send(cmd *cobra.Command, method, path string, body, data any) error {
	base, err := r.url()
	if err != nil {
		return err
	}
	username, password, err := r.credentials(cmd, base)
	if err != nil {
		return err
	}
	client, err := r.client(cmd)
	if err != nil {
		return err
	}
	var raw []byte
	if body != nil {
		if raw, err = json.Marshal(body); err != nil {
			return err
		}
	}
	req, err := http.NewRequestWithContext(cmd.Context(), method, base.String()+"/admin/"+path, bytes.NewReader(raw))
	if err != nil {
		return err
	}
	req.SetBasicAuth(username, password)
	req.Header.Set("Content-Type", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		return explain(err)
	}
	defer resp.Body.Close()
	var envelope struct {
		Success bool            `json:"success"`
		Data    json.RawMessage `json:"data"`
		Errors  []string        `json:"errors"`
	}
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("the answer of %s ended early: %w", base, err)
	}
	ok := json.Unmarshal(answer, &envelope) == nil
	switch {
	case ok && len(envelope.Errors) > 0:
		return errors.New(strings.Join(envelope.Errors, "; "))
	case !ok || !envelope.Success || resp.StatusCode >= 300:
		return fmt.Errorf("%s answered %q, which is not an answer of Dockit's administration API: is --base-url right, with its path (/v2)?", base, resp.Status)
	case data != nil:
		return json.Unmarshal(envelope.Data, data)
	}
	return nil
}
