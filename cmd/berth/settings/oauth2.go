package settings

import (
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"berth/auth/oauth2"
	"berth/cmd/berth/cli"
)

// OAuth2Config are the settings of an OAuth2 server. Without a tokeninfo and an
// introspection URL there is none.
type OAuth2Config struct {
	TokeninfoURL     string
	IntrospectionURL string
	ClientID         string
	ClientSecret     string
	NameClaim        string
	SubjectClaim     string
	Audience         string
	Rules            string
	TeamClaim        string
	TeamServiceURL   string
	KioURL           string
	KioPrefix        string
	PolicyURL        string
	Policy           string
	CAFile           string
	Timeout          time.Duration
	CacheTTL         time.Duration
}

// oauth2Settings are those of an OAuth2 server.
func oauth2Settings() []Setting {
	return []Setting{
		stringSetting("oauth2_tokeninfo_url", "", "OAuth2 access tokens sign in, checked with GET and ?access_token= at this URL (https, or http on localhost)", func(c *Config) *string { return &c.OAuth2.TokeninfoURL }, oauth2.ValidURL),
		stringSetting("oauth2_introspection_url", "", "OAuth2 access tokens sign in, checked by introspection (RFC 7662) at this URL", func(c *Config) *string { return &c.OAuth2.IntrospectionURL }, oauth2.ValidURL),
		stringSetting("oauth2_client_id", "", "client that asks for introspection", func(c *Config) *string { return &c.OAuth2.ClientID }, nil),
		secret(stringSetting("oauth2_client_secret", "", "secret of that client", func(c *Config) *string { return &c.OAuth2.ClientSecret }, nil), ""),
		shown(stringSetting("oauth2_name_claim", "", "field of the answer with the user's name", func(c *Config) *string { return &c.OAuth2.NameClaim }, nil), "`uid`, or `username` for introspection"),
		shown(stringSetting("oauth2_subject_claim", "", "field of the answer with an id that is never given to somebody else", func(c *Config) *string { return &c.OAuth2.SubjectClaim }, nil), "`uid`, or `sub` for introspection"),
		stringSetting("oauth2_audience", "", "value that the answer's aud has to hold; without it, tokens for other services sign in too", func(c *Config) *string { return &c.OAuth2.Audience }, nil),
		shown(enumSetting("oauth2_rules", "", "who may write: realm applies Pier One's realms and scopes on top of the teams, teams does not", func(c *Config) *string { return &c.OAuth2.Rules }, "realm", "teams"), "`realm`, or `teams` for introspection"),
		stringSetting("oauth2_team_claim", "", "field of the answer that lists the user's teams", func(c *Config) *string { return &c.OAuth2.TeamClaim }, nil),
		stringSetting("oauth2_team_service_url", "", "service that lists the user's teams, at /api/accounts/aws?member= behind this URL", func(c *Config) *string { return &c.OAuth2.TeamServiceURL }, oauth2.ValidURL),
		stringSetting("oauth2_kio_url", "", "service that knows the team of a service user's application, at /apps/ behind this URL", func(c *Config) *string { return &c.OAuth2.KioURL }, oauth2.ValidURL),
		shown(stringSetting("oauth2_kio_prefix", "", "what stands before the application in a service user's name", func(c *Config) *string { return &c.OAuth2.KioPrefix }, nil), "all up to the last `_`"),
		stringSetting("oauth2_policy_url", "", "service that says whether the holder of a token is in a team, at /auth behind this URL", func(c *Config) *string { return &c.OAuth2.PolicyURL }, oauth2.ValidURL),
		stringSetting("oauth2_policy", "relaxed-radical-agility", "policy that it is asked about", func(c *Config) *string { return &c.OAuth2.Policy }, nil),
		shown(stringSetting("oauth2_ca_file", "", "PEM file of the authorities that these servers' certificates may come from", func(c *Config) *string { return &c.OAuth2.CAFile }, nil), "those of the system"),
		durationSetting("oauth2_timeout", "5s", "how long one question may take", func(c *Config) *time.Duration { return &c.OAuth2.Timeout }, 100*time.Millisecond, 30*time.Second),
		durationSetting("oauth2_cache_ttl", "2m", "how long an answer about a token is believed at most", func(c *Config) *time.Duration { return &c.OAuth2.CacheTTL }, time.Second, oauth2.MaxCacheTTL),
	}
}

// Enabled reports whether the settings name an OAuth2 server.
func (c OAuth2Config) Enabled() bool { return c.TokeninfoURL != "" || c.IntrospectionURL != "" }

// problems are what is wrong with the settings together.
func (c OAuth2Config) problems() (problems []error) {
	problem := func(wrong bool, format string, args ...any) {
		if wrong {
			problems = append(problems, fmt.Errorf(format, args...))
		}
	}
	problem(c.TokeninfoURL != "" && c.IntrospectionURL != "", "oauth2_tokeninfo_url and oauth2_introspection_url are both set: set the one that your OAuth2 server has")
	problem(c.ClientID != "" && c.IntrospectionURL == "", "oauth2_client_id needs oauth2_introspection_url: only introspection asks as a client")
	problem((c.ClientID == "") != (c.ClientSecret == ""), "oauth2_client_id and oauth2_client_secret have to be set together")
	problem(c.IntrospectionURL != "" && c.ClientID == "", "oauth2_introspection_url needs oauth2_client_id and oauth2_client_secret")
	problem(c.PolicyURL != "" && (c.TeamServiceURL != "" || c.KioURL != "" || c.TeamClaim != ""), "oauth2_policy_url answers about every team: leave out oauth2_team_service_url, oauth2_kio_url and oauth2_team_claim")
	problem(c.KioPrefix != "" && c.KioURL == "", "oauth2_kio_prefix needs oauth2_kio_url")
	if !c.Enabled() {
		for key, value := range map[string]string{
			"oauth2_team_claim": c.TeamClaim, "oauth2_team_service_url": c.TeamServiceURL, "oauth2_kio_url": c.KioURL,
			"oauth2_policy_url": c.PolicyURL, "oauth2_audience": c.Audience,
		} {
			problem(value != "", "%s needs oauth2_tokeninfo_url or oauth2_introspection_url", key)
		}
	}
	if _, err := ReadRoots(c.CAFile); err != nil {
		problems = append(problems, fmt.Errorf("oauth2_ca_file: %w", err))
	}
	return problems
}

// ReadRoots reads certificate authorities; no file is nil, which stands for the system's.
func ReadRoots(path string) (*x509.CertPool, error) {
	if path == "" {
		return nil, nil
	}
	pem, err := cli.ReadSmallFile(path)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, errors.New(path + " has no certificate in PEM form")
	}
	return roots, nil
}
