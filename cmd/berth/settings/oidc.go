package settings

import (
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"time"

	"berth/auth"
	"berth/auth/oidc"
	"berth/cmd/berth/cli"
)

// OIDCConfig are the settings of the OpenID provider and of trust policies.
type OIDCConfig struct {
	Issuer         string
	ClientID       string
	ClientSecret   string
	CLIClientID    string
	Audiences      []string
	Scopes         []string
	UsernameClaim  string
	GroupsClaim    string
	TeamsClaim     string
	Teams          []string
	AdminGroup     string
	CAFile         string
	Algorithms     []string
	SessionTTL     time.Duration
	TrustedIssuers []string
}

// oidcSettings are those of an OpenID provider and trust policies.
func oidcSettings() []Setting {
	issuer := func(v string) error { return auth.CheckIssuer(v, true) }
	return []Setting{
		stringSetting("oidc_issuer", "", "the OpenID provider that vouches for people, as in its tokens' claim iss", func(c *Config) *string { return &c.OIDC.Issuer }, issuer),
		stringSetting("oidc_client_id", "", "client of the browser's sign-in at the provider; its ID tokens are accepted", func(c *Config) *string { return &c.OIDC.ClientID }, nil),
		secret(stringSetting("oidc_client_secret", "", "secret of that client; none when it is a public one", func(c *Config) *string { return &c.OIDC.ClientSecret }, nil), "none"),
		shown(stringSetting("oidc_cli_client_id", "", "public client of `berth login`, without a secret, with the redirect http://127.0.0.1/callback at any port", func(c *Config) *string { return &c.OIDC.CLIClientID }, nil), "`oidc_client_id`"),
		listSetting("oidc_audience", "", "audiences of ID tokens that are accepted beside the clients", func(c *Config) *[]string { return &c.OIDC.Audiences }),
		listSetting("oidc_scopes", "openid,profile,email,offline_access", "scopes that a sign-in asks for", func(c *Config) *[]string { return &c.OIDC.Scopes }),
		stringSetting("oidc_username_claim", "preferred_username", "claim that holds the user's name here; an email has to be verified by the provider", func(c *Config) *string { return &c.OIDC.UsernameClaim }, nil),
		stringSetting("oidc_groups_claim", "groups", "claim that holds the user's groups; nested ones with dots, such as realm_access.roles", func(c *Config) *string { return &c.OIDC.GroupsClaim }, nil),
		stringSetting("oidc_teams_claim", "", "claim that holds a list of team:role", func(c *Config) *string { return &c.OIDC.TeamsClaim }, nil),
		listSetting("oidc_teams", "", "group=team:role, with the roles reader, member and maintainer", func(c *Config) *[]string { return &c.OIDC.Teams }),
		stringSetting("oidc_admin_group", "", "group whose members administer the instance", func(c *Config) *string { return &c.OIDC.AdminGroup }, nil),
		stringSetting("oidc_ca_file", "", "PEM file of the certificate authorities of oidc_issuer and oidc_trusted_issuers, beside the system's", func(c *Config) *string { return &c.OIDC.CAFile }, nil),
		listSetting("oidc_algorithms", strings.Join(oidc.DefaultAlgorithms, ","), "signing algorithms of tokens that are accepted", func(c *Config) *[]string { return &c.OIDC.Algorithms }),
		durationSetting("oidc_session_ttl", "8h", "how long a browser stays signed in", func(c *Config) *time.Duration { return &c.OIDC.SessionTTL }, 5*time.Minute, 30*24*time.Hour),
		listSetting("oidc_trusted_issuers", "", "issuers of jobs' tokens that trust policies may name, beside those that an administrator adds with `berth trust issuer add`; only these may have a private address", func(c *Config) *[]string { return &c.OIDC.TrustedIssuers }),
	}
}

// check finds settings that do not fit together. It gives all problems at once.
func (o *OIDCConfig) check() []error {
	var problems []error
	add := func(key string, err error) {
		if err != nil {
			problems = append(problems, fmt.Errorf("%s: %w", key, err))
		}
	}
	if (o.Issuer == "") != (o.ClientID == "") {
		problems = append(problems, errors.New("oidc_issuer and oidc_client_id have to be set together"))
	}
	_, err := oidc.ParseTeams(o.Teams)
	add("oidc_teams", err)
	add("oidc_algorithms", oidc.CheckAlgorithms(o.Algorithms))
	for _, url := range o.TrustedIssuers {
		add("oidc_trusted_issuers", auth.CheckIssuer(url, true))
	}
	_, err = o.roots()
	add("oidc_ca_file", err)
	return problems
}

// roots are the system's certificate authorities and those of the file; nil
// without a file.
func (o *OIDCConfig) roots() (*x509.CertPool, error) {
	if o.CAFile == "" {
		return nil, nil
	}
	text, err := cli.ReadSmallFile(o.CAFile)
	if err != nil {
		return nil, err
	}
	roots, err := x509.SystemCertPool()
	if err != nil {
		roots = x509.NewCertPool()
	}
	if !roots.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("%s holds no certificate in PEM form", o.CAFile)
	}
	return roots, nil
}

// Options makes the authenticator's options of settings that have passed check.
func (o *OIDCConfig) Options() (oidc.Options, error) {
	roots, err := o.roots()
	if err != nil {
		return oidc.Options{}, err
	}
	options := oidc.Options{TrustedIssuers: o.TrustedIssuers, Roots: roots, Algorithms: o.Algorithms}
	if o.Issuer == "" {
		return options, nil
	}
	teams, err := oidc.ParseTeams(o.Teams)
	if err != nil {
		return oidc.Options{}, err
	}
	options.People = &oidc.People{
		Issuer: o.Issuer, ClientID: o.ClientID, ClientSecret: o.ClientSecret, ProgramClientID: o.CLIClientID,
		Audiences: o.Audiences, Scopes: o.Scopes,
		UsernameClaim: o.UsernameClaim, GroupsClaim: o.GroupsClaim, TeamsClaim: o.TeamsClaim, Teams: teams, AdminGroup: o.AdminGroup,
	}
	return options, nil
}
