package oidc

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/coreos/go-oidc/v3/oidc"

	"berth/auth"
	"berth/metadata"
)

// provider is the name under which people of the OpenID provider are kept.
const provider = "oidc"

// People is the provider that vouches for people, and what its claims mean here.
type People struct {
	Issuer string
	// ClientID and ClientSecret are what the server signs in with, for browsers.
	// The secret is empty for a public client.
	ClientID, ClientSecret string
	// ProgramClientID is the public client of programs (berth login); the default is
	// ClientID.
	ProgramClientID string
	// Audiences are accepted beside the two client ids.
	Audiences []string
	// Scopes are asked for at the sign-in.
	Scopes []string
	// UsernameClaim holds the user's name here. When it is "email", the provider has
	// to say that the address is verified.
	UsernameClaim string
	// GroupsClaim holds a list of the user's groups, or a text with spaces between them.
	GroupsClaim string
	// TeamsClaim holds a list of team:role; "" is none.
	TeamsClaim string
	// Teams are roles by team, by group.
	Teams map[string][]TeamRole
	// AdminGroup is the group whose members administer the instance; "" is none.
	AdminGroup string
}

// TeamRole is a role (reader, member, maintainer) in a team.
type TeamRole struct{ Team, Role string }

// ParseTeamRole reads team:role.
func ParseTeamRole(s string) (TeamRole, error) {
	team, role, ok := strings.Cut(s, ":")
	if !ok || team == "" || rank(role) == 0 {
		return TeamRole{}, fmt.Errorf("%.140q is not of the form team:role, where the role is reader, member or maintainer", s)
	}
	return TeamRole{team, role}, nil
}

// ParseTeams reads a mapping, items of the form group=team:role. A group may have
// several.
func ParseTeams(items []string) (map[string][]TeamRole, error) {
	teams := map[string][]TeamRole{}
	for _, item := range items {
		i := strings.LastIndexByte(item, '=') // the name of a group may have one
		if i <= 0 {
			return nil, fmt.Errorf("%.140q is not of the form group=team:role", item)
		}
		role, err := ParseTeamRole(item[i+1:])
		if err != nil {
			return nil, err
		}
		teams[item[:i]] = append(teams[item[:i]], role)
	}
	return teams, nil
}

// rank orders the roles; 0 is none of them.
func rank(role string) int {
	return 1 + slices.Index([]string{metadata.RoleReader, metadata.RoleMember, metadata.RoleMaintainer}, role)
}

func (p *People) check() error {
	if err := auth.CheckIssuer(p.Issuer, true); err != nil {
		return err
	}
	switch {
	case p.ClientID == "":
		return errors.New("the OpenID provider needs a client id")
	case p.UsernameClaim == "":
		return errors.New("the OpenID provider needs a claim that holds the user's name")
	}
	return nil
}

// webScopes are those of a browser's sign-in: no refresh token is wanted there.
func (p *People) webScopes() []string {
	return slices.DeleteFunc(slices.Clone(p.Scopes), func(scope string) bool { return scope == oidc.ScopeOfflineAccess })
}

func (p *People) programClient() string {
	if p.ProgramClientID != "" {
		return p.ProgramClientID
	}
	return p.ClientID
}

func (p *People) audiences() []string {
	all := append([]string{p.ClientID}, p.Audiences...)
	if p.ProgramClientID != "" {
		all = append(all, p.ProgramClientID)
	}
	return all
}

// addressed reports whether a token is an ID token for us (OpenID Connect Core,
// section 3.1.3.7): one of our audiences, and when it names an authorized party,
// this is one, too.
func (p *People) addressed(t *verified) bool {
	ours := p.audiences()
	if !slices.ContainsFunc(t.audience, func(aud string) bool { return slices.Contains(ours, aud) }) {
		return false
	}
	azp, named := find(t.claims, "azp")
	if !named {
		return len(t.audience) == 1
	}
	party, _ := text(azp)
	return slices.Contains(ours, party)
}

// person signs a user in by a verified ID token.
func (a *Authenticator) person(ctx context.Context, t *verified) (auth.Principal, error) {
	id, err := a.options.People.identity(t)
	if err != nil {
		return auth.Principal{}, err
	}
	p, err := a.directory.SignIn(ctx, id)
	if err != nil {
		return auth.Principal{}, err
	}
	p.Expires, p.Person = t.expires, true
	return p, nil
}

// identity reads what the provider says of a user.
func (p *People) identity(t *verified) (auth.Identity, error) {
	c := t.claims
	// An access token and a logout token are signed with the same keys, and are for
	// somebody else's eyes (RFC 9068, section 4; OpenID Connect Back-Channel Logout, 2.4).
	_, logout := c["events"]
	if t.typ != "" && !strings.EqualFold(t.typ, "JWT") || logout {
		return auth.Identity{}, auth.Wrongf("the token of %s is not an ID token", p.Issuer)
	}
	subject := c.value("sub")
	if subject == "" {
		return auth.Identity{}, auth.Wrongf("the token of %s names no subject", p.Issuer)
	}
	name := c.value(p.UsernameClaim)
	if name == "" {
		return auth.Identity{}, auth.Wrongf("the token of %s has no claim %s, which holds the user's name here: ask for the scope that brings it, or ask an administrator of this registry", p.Issuer, p.UsernameClaim)
	}
	if p.UsernameClaim == "email" && c.value("email_verified") != "true" {
		return auth.Identity{}, auth.Wrongf("%s does not say that the address %.140q is verified", p.Issuer, name)
	}
	id := auth.Identity{
		Provider: provider,
		// A subject is unique at its issuer only (OpenID Connect Core, section 2).
		Subject: t.issuer + " " + subject,
		Name:    name,
		Teams:   map[string]string{},
		Claims:  keep(nil, c, "iss", "sub", "aud", "jti", "email", "azp", "amr", "acr"),
	}
	give := func(role TeamRole) {
		if rank(role.Role) > rank(id.Teams[role.Team]) {
			id.Teams[role.Team] = role.Role
		}
	}
	groups := c.values(p.GroupsClaim)
	if v, _ := find(c, p.GroupsClaim); v != nil {
		if _, list := v.([]any); !list {
			groups = strings.Fields(c.value(p.GroupsClaim))
		}
	}
	for _, group := range groups {
		id.Groups = append(id.Groups, group)
		id.Admin = id.Admin || p.AdminGroup != "" && group == p.AdminGroup
		for _, role := range p.Teams[group] {
			give(role)
		}
	}
	if p.TeamsClaim != "" {
		for _, item := range c.values(p.TeamsClaim) {
			// What does not have the form team:role is meant for another program.
			if role, err := ParseTeamRole(item); err == nil {
				give(role)
			}
		}
	}
	return id, nil
}
