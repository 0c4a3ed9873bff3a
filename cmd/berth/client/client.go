// Package client has the commands that speak to a running server over the management API, and sign in there. A file
// has the commands of its name. Start with Remote and Connect.
package client

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	dockerconfig "github.com/docker/cli/cli/config"
	"github.com/spf13/cobra"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"berth/api"
	"berth/api/client"
	"berth/cmd/berth/cli"
	"berth/oci"
)

// Limits of the client.
const (
	// requestTimeout bounds one request to the server.
	requestTimeout = time.Minute
	// pageSize is how many items of a list are asked for at once.
	pageSize = 500
)

// Remote is the server that the client commands talk to, as its flags say.
type Remote struct {
	Server        string
	username      string
	passwordStdin bool
	ca            string
	output        cli.Choice
	yes           bool
}

// AddFlags gives a client command and those below it the common flags.
func (r *Remote) AddFlags(c *cobra.Command) {
	f := c.PersistentFlags()
	f.StringVar(&r.Server, "server", "", "the server's address (default $BERTH_SERVER, else http://localhost:5000)")
	f.StringVarP(&r.username, "username", "u", "", "sign in as this user (default $BERTH_USERNAME, else as docker login did)")
	f.BoolVar(&r.passwordStdin, "password-stdin", false, "read the password or token to sign in with from stdin")
	f.StringVar(&r.ca, "ca", "", "PEM file of authorities that the server's certificate may come from, beside those of the system (default $BERTH_CA)")
	r.output = cli.Choice{Value: "table", Values: []string{"table", "json"}}
	f.VarP(&r.output, "output", "o", "table or json")
	f.BoolVarP(&r.yes, "yes", "y", false, "do not ask before something that cannot be undone")
	if err := c.RegisterFlagCompletionFunc("output", r.output.Complete); err != nil {
		panic(err) // the flag is defined two lines above
	}
}

// AddConnectFlags gives a command that does not always ask a server the flags that say which
// one, and who signs in there.
func (r *Remote) AddConnectFlags(c *cobra.Command, help string) {
	f := c.Flags()
	f.StringVar(&r.Server, "server", "", help)
	f.StringVarP(&r.username, "username", "u", "", "sign in at the server as this user (default $BERTH_USERNAME, else as docker login did)")
	f.BoolVar(&r.passwordStdin, "password-stdin", false, "read the password or token to sign in with from stdin")
	f.StringVar(&r.ca, "ca", "", "PEM file of authorities that the server's certificate may come from, beside those of the system (default $BERTH_CA)")
}

// address is the server's URL, without a path.
func (r *Remote) address() (*url.URL, error) {
	s := r.Server
	if s == "" {
		s = os.Getenv("BERTH_SERVER")
	}
	if s == "" {
		s = "http://localhost:5000"
	}
	return parseServer(s)
}

// parseServer reads a server's address: a URL, or a host with an optional
// port. Without a scheme it is https, and http for this machine itself, as
// docker does it.
func parseServer(s string) (*url.URL, error) {
	full := s
	if !strings.Contains(s, "://") {
		full = "https://" + s
	}
	u, err := url.Parse(full)
	if err != nil || u.Host == "" || u.Hostname() == "" || (u.Scheme != "http" && u.Scheme != "https") ||
		(u.Path != "" && u.Path != "/") || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		return nil, cli.Usagef("the server %q is not an address: give a host such as registry.example.com, or http://localhost:5000", s)
	}
	u.Path = ""
	if full != s && isLoopback(u.Hostname()) {
		u.Scheme = "http"
	}
	return u, nil
}

func isLoopback(host string) bool {
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

// credentials are what signs in at a server.
type credentials struct {
	username, Password string
	bearer             string // a registry token, used as it is
	refresh            string // an identity token of docker login
}

// credentials finds what to sign in with at the server: the flags, the
// environment, or what docker login keeps for the host.
func (r *Remote) credentials(cmd *cobra.Command, server *url.URL) (credentials, error) {
	c := credentials{username: r.username, Password: os.Getenv("BERTH_PASSWORD")}
	if c.username == "" {
		c.username = os.Getenv("BERTH_USERNAME")
	}
	if r.passwordStdin {
		if c.username == "" {
			return c, cli.Usagef("--password-stdin needs --username")
		}
		var err error
		c.Password, err = cli.ReadLine(cmd)
		return c, err
	}
	if c.username != "" && c.Password != "" {
		return c, nil
	}
	if c.username != "" && r.username != "" {
		password, ok, err := cli.AskPassword(cmd, fmt.Sprintf("Password of %s: ", c.username))
		if err != nil || ok {
			c.Password = password
			return c, err
		}
	}
	if c.username != "" || c.Password != "" {
		return c, cli.Usagef("a user name and a password are needed: --username with --password-stdin, or BERTH_USERNAME with BERTH_PASSWORD")
	}

	k, ok, err := keptFor(cmd.Context(), server.Host)
	switch {
	case err != nil:
		return c, err
	case ok && k.Issuer != "":
		return credentials{username: oidcUser, Password: k.IDToken}, nil
	case ok:
		return credentials{username: k.Username, Password: k.Secret}, nil
	}
	auth, err := dockerconfig.LoadDefaultConfigFile(cmd.ErrOrStderr()).GetAuthConfig(server.Host)
	if err != nil {
		return c, fmt.Errorf("reading the credentials of docker login for %s: %w", server.Host, err)
	}
	c = credentials{username: auth.Username, Password: auth.Password, bearer: auth.RegistryToken, refresh: auth.IdentityToken}
	if c.bearer == "" && c.refresh == "" && (c.username == "" || c.Password == "") {
		return c, fmt.Errorf("there are no credentials for %s: run 'berth login --server %s' or 'docker login %s', or give --username and --password-stdin", server.Host, server, server.Host)
	}
	return c, nil
}

// ApiScope is what the client asks of the token endpoint.
const ApiScope = "berth:api:*"

// authorities are those that certificates of servers may come from: the system's and those of a PEM
// file. Without a file they are nil, which stands for the system's.
func authorities(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil
	}
	pem, err := cli.ReadSmallFile(file)
	if err != nil {
		return nil, fmt.Errorf("--ca: %w", err)
	}
	roots, err := x509.SystemCertPool()
	if err != nil { // there are none, such as in an image from nothing
		roots = x509.NewCertPool()
	}
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("--ca: %s has no certificate in PEM form", file)
	}
	return roots, nil
}

// caFile is the file of authorities that the flag or the environment names, "" for none.
func (r *Remote) caFile() string { return cmp.Or(r.ca, os.Getenv("BERTH_CA")) }

// transport is what requests to the server go over.
func (r *Remote) transport() (http.RoundTripper, error) {
	roots, err := authorities(r.caFile())
	if err != nil || roots == nil {
		return http.DefaultTransport, err
	}
	return newTransport(&tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots}), nil
}

func newTransport(conf *tls.Config) *http.Transport {
	return &http.Transport{Proxy: http.ProxyFromEnvironment, TLSClientConfig: conf, TLSHandshakeTimeout: 10 * time.Second, ForceAttemptHTTP2: true}
}

// newHTTPClient follows no redirect: Berth sends none here, and passwords and
// tokens must not go where somebody else points.
func newHTTPClient(transport http.RoundTripper) *http.Client {
	return &http.Client{
		Timeout:       requestTimeout,
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// tokenSource exchanges credentials for short-lived tokens at the server's
// token endpoint, with the OAuth2 grants that registries have: password and
// refresh_token (https://distribution.github.io/distribution/spec/auth/oauth/).
type tokenSource struct {
	ctx    context.Context // the command's; oauth2's TokenSource has no parameter for it
	config oauth2.Config
	from   credentials
}

func newTokenSource(ctx context.Context, transport http.RoundTripper, server *url.URL, from credentials, scopes ...string) tokenSource {
	endpoint := *server
	endpoint.Path = "/token"
	ctx = context.WithValue(ctx, oauth2.HTTPClient, newHTTPClient(transport))
	return tokenSource{ctx: ctx, from: from, config: oauth2.Config{
		ClientID: "berth",
		Scopes:   scopes,
		Endpoint: oauth2.Endpoint{TokenURL: endpoint.String(), AuthStyle: oauth2.AuthStyleInParams},
	}}
}

// Token gets a fresh token.
func (s tokenSource) Token() (*oauth2.Token, error) {
	switch {
	case s.from.bearer != "":
		return &oauth2.Token{AccessToken: s.from.bearer}, nil
	case s.from.refresh != "":
		// The refreshing of oauth2.Config sends no scope, without which a
		// registry's token carries no right.
		refresh := clientcredentials.Config{
			ClientID: s.config.ClientID, TokenURL: s.config.Endpoint.TokenURL, AuthStyle: s.config.Endpoint.AuthStyle, Scopes: s.config.Scopes,
			EndpointParams: url.Values{"grant_type": {"refresh_token"}, "refresh_token": {s.from.refresh}},
		}
		return refresh.Token(s.ctx)
	}
	return s.config.PasswordCredentialsToken(s.ctx, s.from.username, s.from.Password)
}

// Connection is a signed in client of one server.
type Connection struct {
	*client.ClientWithResponses
	server *url.URL
	From   credentials
}

// Connect prepares a client. It signs in with its first request.
func (r *Remote) Connect(cmd *cobra.Command) (*Connection, error) {
	server, err := r.address()
	if err != nil {
		return nil, err
	}
	from, err := r.credentials(cmd, server)
	if err != nil {
		return nil, err
	}
	return r.connectAs(cmd, server, from)
}

// connectAs is connect with credentials that are known.
func (r *Remote) connectAs(cmd *cobra.Command, server *url.URL, from credentials) (*Connection, error) {
	transport, err := r.transport()
	if err != nil {
		return nil, err
	}
	source := oauth2.ReuseTokenSource(nil, newTokenSource(cmd.Context(), transport, server, from, ApiScope))
	base := *server
	base.Path = "/api/v1"
	c, err := client.NewClientWithResponses(base.String(), client.WithHTTPClient(newHTTPClient(&oauth2.Transport{Source: source, Base: transport})))
	if err != nil {
		return nil, err
	}
	return &Connection{ClientWithResponses: c, server: server, From: from}, nil
}

// SignedIn makes what a command runs of what it does with a signed in client.
func (r *Remote) SignedIn(run func(cmd *cobra.Command, args []string, s *Connection) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		s, err := r.Connect(cmd)
		if err != nil {
			return err
		}
		return run(cmd, args, s)
	}
}

// reply is what every generated response has.
type reply interface {
	StatusCode() int
	Status() string
	ContentType() string
	GetApplicationproblemJSONDefault() *api.Failure
}

// check turns a failed call into an error that a person reads.
func check(resp reply, err error) error {
	if err != nil {
		return explain(err)
	}
	if p := resp.GetApplicationproblemJSONDefault(); p != nil {
		return ProblemError(*p)
	}
	status := resp.StatusCode()
	if status >= 200 && status < 300 && (status == http.StatusNoContent || strings.HasPrefix(resp.ContentType(), "application/json")) {
		return nil
	}
	return fmt.Errorf("the server answered %q, which is not an answer of Berth's management API: is --server right?", resp.Status())
}

// Done is the outcome of a call that answers nothing.
func Done(resp reply, err error) error { return check(resp, err) }

// Fetched is what a call answered with status 200.
func Fetched[T any](resp interface {
	reply
	GetJSON200() *T
}, err error) (*T, error) {
	if err := check(resp, err); err != nil {
		return nil, err
	}
	return present(resp.GetJSON200())
}

// created is what a call answered with status 201.
func created[T any](resp interface {
	reply
	GetJSON201() *T
}, err error) (*T, error) {
	if err := check(resp, err); err != nil {
		return nil, err
	}
	return present(resp.GetJSON201())
}

// Accepted is what a call answered with status 202.
func Accepted[T any](resp interface {
	reply
	GetJSON202() *T
}, err error) (*T, error) {
	if err := check(resp, err); err != nil {
		return nil, err
	}
	return present(resp.GetJSON202())
}

func present[T any](v *T) (*T, error) {
	if v == nil {
		return nil, errors.New("the server answered with a status that its management API does not have: is it of another version?")
	}
	return v, nil
}

// ProblemError is a refusal of the server.
type ProblemError api.Problem

// Error is what the server says, with the request's id when it is the server's fault.
func (p ProblemError) Error() string {
	if p.Status >= 500 && p.RequestId != nil {
		return fmt.Sprintf("%s (request %s)", p.Detail, *p.RequestId)
	}
	return p.Detail
}

// explain makes errors of the connection and of the sign-in readable.
func explain(err error) error {
	var refused *oauth2.RetrieveError
	if errors.As(err, &refused) {
		return fmt.Errorf("signing in failed: %s", refusal(refused))
	}
	var u *url.Error
	if errors.As(err, &u) && !errors.Is(err, context.Canceled) {
		target, perr := url.Parse(u.URL)
		if perr != nil {
			return err
		}
		address := target.Scheme + "://" + target.Host
		var unknown x509.UnknownAuthorityError
		switch {
		case errors.As(err, &unknown):
			return fmt.Errorf("the certificate of %s comes from an authority that this machine does not know: name its PEM file with --ca (or BERTH_CA): %w", address, unknown)
		case errors.Is(err, http.ErrSchemeMismatch):
			return fmt.Errorf("%s speaks plain HTTP, not HTTPS: say --server http://%s when that is what you want", target.Host, target.Host)
		}
		cause := u.Err
		var op *net.OpError
		if errors.As(cause, &op) {
			cause = op.Err
		}
		return fmt.Errorf("no answer from %s: %w: does the server run, and is --server right?", address, cause)
	}
	return err
}

// refusal is what the token endpoint said.
func refusal(e *oauth2.RetrieveError) string {
	if e.ErrorDescription != "" {
		return e.ErrorDescription
	}
	var body struct {
		Errors []struct {
			Message string `json:"message"`
		} `json:"errors"`
	}
	if json.Unmarshal(e.Body, &body) == nil && len(body.Errors) > 0 && body.Errors[0].Message != "" {
		return body.Errors[0].Message
	}
	return fmt.Sprintf("%s answered %q, which is not an answer of Berth's token endpoint: is --server right?", e.Response.Request.URL.Redacted(), e.Response.Status)
}

// found is what a call answered with status 200, and nil where the server has
// nothing of that name.
func found[T any](resp interface {
	reply
	GetJSON200() *T
}, err error) (*T, error) {
	if err == nil && resp.StatusCode() == http.StatusNotFound {
		return nil, nil
	}
	return Fetched(resp, err)
}

// page is an answer that has a page of a list.
type page[L any] interface {
	reply
	GetJSON200() *L
}

// All reads a list to its end, page by page.
func All[P page[L], L api.List[T], T any](call func(limit *api.Limit, after *api.After) (P, error)) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		limit := pageSize
		var after *api.After
		for {
			resp, err := call(&limit, after)
			list, err := Fetched[L](resp, err)
			if err != nil {
				var zero T
				yield(zero, err)
				return
			}
			items, next := (*list).Page()
			for _, item := range items {
				if !yield(item, nil) {
					return
				}
			}
			if next == nil || *next == "" || (after != nil && *next == *after) {
				return
			}
			after = next
		}
	}
}

// self is the name of the signed in user.
func (c *Connection) self(ctx context.Context) (string, error) {
	me, err := Fetched(c.WhoamiWithResponse(ctx))
	if err != nil {
		return "", err
	}
	if me.Kind != api.WhoamiKindUser {
		return "", fmt.Errorf("you are signed in as the robot %s, which has no user account: name the user", me.Name)
	}
	return me.Name, nil
}

// confirm asks before something that cannot be undone, and gives a usage error
// when nobody is there to answer.
func (r *Remote) confirm(cmd *cobra.Command, question string) error {
	if r.yes {
		return nil
	}
	if _, ok := cli.Terminal(cmd); !ok {
		return cli.Usagef("%s Add --yes to do it without a terminal to ask on", question)
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "%s [y/N] ", question)
	answer, err := cli.ReadLine(cmd)
	if errors.Is(err, context.Canceled) {
		return err
	}
	if err != nil || !strings.EqualFold(answer, "y") && !strings.EqualFold(answer, "yes") {
		return errors.New("nothing was changed")
	}
	return nil
}

// arguments takes as many arguments as there are checks, each of which refuses what
// cannot be such a name before it becomes part of a path.
func arguments(checks ...func(string) error) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if err := cobra.ExactArgs(len(checks))(cmd, args); err != nil {
			return err
		}
		for i, check := range checks {
			if err := check(args[i]); err != nil {
				return err
			}
		}
		return nil
	}
}

// nameOf checks the name of a team, a token or a repository.
func nameOf(what string) func(string) error {
	return func(s string) error { return NameArgument(what, s) }
}

// NameArgument checks the name of a user, a team, a token or a repository
// before it becomes part of a path.
func NameArgument(what, s string) error {
	if _, err := oci.ParseName(s); err != nil {
		return cli.Usagef("the %s %q is not a name: use lower-case letters and digits, separated by '.', '_' or '-'", what, s)
	}
	return nil
}
