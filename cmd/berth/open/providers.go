package open

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"berth/auth"
	"berth/auth/aws"
	"berth/auth/ldap"
	"berth/auth/oauth2"
	"berth/auth/oidc"
	"berth/cmd/berth/settings"
	"berth/metadata"
)

// awsAuthenticators are those that the settings ask for.
func awsAuthenticators(a *settings.AWSConfig, c *settings.Config, db *metadata.DB) ([]auth.Authenticator, error) {
	var list []auth.Authenticator
	roots, err := a.Roots()
	if err != nil {
		return nil, err
	}
	if a.Certificates != "" || a.HelperURL != "" {
		o := aws.DocumentOptions{DB: db, HelperURL: a.HelperURL, HelperRepositories: a.HelperRepositories, MaxAge: a.DocumentMaxAge, Roots: roots}
		if o.Certificates, err = a.ReadCertificates(); err != nil {
			return nil, err
		}
		documents, err := aws.NewDocuments(o)
		if err != nil {
			return nil, err
		}
		list = append(list, documents)
	}
	if a.IAM {
		callers, err := aws.NewCallers(aws.CallerOptions{DB: db, ServerID: a.ServerName(c), Hosts: a.STSHosts, Roots: roots})
		if err != nil {
			return nil, err
		}
		list = append(list, callers)
	}
	return list, nil
}

// LDAPAuthenticator is that of the directory's users.
func LDAPAuthenticator(c settings.LDAPConfig, directory *auth.Directory, observe func(string, time.Duration), log *slog.Logger) (*ldap.Authenticator, error) {
	o, err := c.Options()
	if err != nil {
		return nil, err
	}
	o.Observe = observe
	for _, u := range c.URLs {
		if strings.HasPrefix(u, "ldap:") && !c.StartTLS {
			log.Warn("passwords go to the LDAP directory in clear: set ldap_start_tls, or use ldaps://", "url", u)
		}
	}
	return ldap.New(directory, o)
}

// oauth2Authenticator is that of OAuth2 access tokens.
func oauth2Authenticator(c settings.OAuth2Config, directory *auth.Directory, observe func(string, time.Duration), log *slog.Logger) (*oauth2.Authenticator, error) {
	roots, err := settings.ReadRoots(c.CAFile)
	if err != nil {
		return nil, fmt.Errorf("oauth2_ca_file: %w", err)
	}
	if c.TokeninfoURL != "" && c.TeamClaim == "" && c.TeamServiceURL == "" && c.KioURL == "" && c.PolicyURL == "" {
		log.Warn("no source of teams is set for OAuth2 users: they may push only where they are members here, or with the scope application.write_all")
	}
	return oauth2.New(directory, oauth2.Options{
		TokeninfoURL:     c.TokeninfoURL,
		IntrospectionURL: c.IntrospectionURL,
		ClientID:         c.ClientID,
		ClientSecret:     c.ClientSecret,
		NameClaim:        c.NameClaim,
		SubjectClaim:     c.SubjectClaim,
		Audience:         c.Audience,
		Realms:           c.Rules == "realm" || c.Rules == "" && c.TokeninfoURL != "",
		TeamClaim:        c.TeamClaim,
		TeamServiceURL:   c.TeamServiceURL,
		KioURL:           c.KioURL,
		KioPrefix:        c.KioPrefix,
		PolicyURL:        c.PolicyURL,
		Policy:           c.Policy,
		Roots:            roots,
		Timeout:          c.Timeout,
		CacheTTL:         c.CacheTTL,
		Observe:          observe,
	})
}

// NewOIDC makes what accepts the tokens of people, when there is a provider for
// them, and of jobs.
func NewOIDC(c *settings.Config, db *metadata.DB, log *slog.Logger) (*oidc.Authenticator, error) {
	options, err := c.OIDC.Options()
	if err != nil {
		return nil, fmt.Errorf("the OpenID provider: %w", err)
	}
	options.DB, options.Log = db, log
	return oidc.New(options)
}

// Authenticators lists who is asked about credentials, in this order. An outside
// provider is asked when its settings are there.
func Authenticators(_ context.Context, c *settings.Config, db *metadata.DB, hasher *auth.Hasher, openid *oidc.Authenticator, log *slog.Logger, metrics *ProviderMetrics) ([]auth.Authenticator, error) {
	directory := auth.NewDirectory(db, log, db.Now)
	// A token of an OpenID provider may come with anybody's name.
	tokens := auth.NewTokens(db, log, db.Now)
	tokens.External(c.ExternalMaxAge)
	list := []auth.Authenticator{tokens, openid}
	machines, err := awsAuthenticators(&c.AWS, c, db)
	if err != nil {
		return nil, err
	}
	list = append(list, machines...)
	// Every bearer string that nobody before knows is taken for an access token.
	if c.OAuth2.Enabled() {
		a, err := oauth2Authenticator(c.OAuth2, directory, metrics.of("oauth2"), log)
		if err != nil {
			return nil, err
		}
		list = append(list, a)
	}
	list = append(list, auth.NewPasswords(db, hasher, db.Now))
	// The last one: to a directory that binds users without a search, every name may
	// be one of its own.
	if c.LDAP.Enabled() {
		a, err := LDAPAuthenticator(c.LDAP, directory, metrics.of("ldap"), log)
		if err != nil {
			return nil, err
		}
		list = append(list, a)
	}
	return list, nil
}

// TeamService is the authenticator that can be asked about teams; there is at most one.
func TeamService(list []auth.Authenticator) auth.TeamService {
	for _, a := range list {
		if t, ok := a.(auth.TeamService); ok {
			return t
		}
	}
	return nil
}

// Recheckers are the authenticators that can say of a user, without a credential,
// what they would say at a sign-in now.
func Recheckers(list []auth.Authenticator) []auth.Rechecker {
	var found []auth.Rechecker
	for _, a := range list {
		if r, ok := a.(auth.Rechecker); ok {
			found = append(found, r)
		}
	}
	return found
}
