package ldap

import (
	"context"
	"fmt"
	"strings"

	"github.com/go-ldap/ldap/v3"

	"berth/auth"
	"berth/metadata"
	"berth/oci"
)

// TeamRule says that the members of a group have a role in a team.
type TeamRule struct {
	// Group is the name of a group or its DN. One '*' in a name stands for any
	// characters, which a '*' in Team repeats: "team-*" gives "*".
	Group string
	// Team is the first part of the names of repositories.
	Team string
	// Role is reader, member or maintainer.
	Role string
}

// group is a group that a user is in.
type group struct {
	dn   *ldap.DN
	name string
}

// Bounds of the walk through groups.
const (
	maxGroups = 1000
	maxDepth  = 10
	// perSearch is how many groups one search asks about.
	perSearch = 25
)

// groups gives the groups of a user below the group base, those of groups included
// when nesting is on. Each counts once, so a circle ends. More than maxGroups are an
// error: to leave some out could take away the one that matters.
func (a *Authenticator) groups(ctx context.Context, s *conn, entry *ldap.Entry, username string) ([]group, error) {
	seen := map[string]bool{}
	var all []group
	add := func(found []group) (fresh []group, err error) {
		for _, g := range found {
			key := strings.ToLower(g.dn.String())
			if seen[key] || !a.groupBase.EqualFold(g.dn) && !a.groupBase.AncestorOfFold(g.dn) {
				continue
			}
			seen[key] = true
			fresh = append(fresh, g)
		}
		if all = append(all, fresh...); len(all) > maxGroups {
			return nil, fmt.Errorf("there are more than %d", maxGroups)
		}
		return fresh, nil
	}
	var found []group
	var err error
	if a.o.GroupFilter == "" {
		found, err = a.named(entry.GetEqualFoldAttributeValues("memberOf"))
	} else {
		found, err = a.searchGroups(ctx, s, fill(a.o.GroupFilter, username, entry.DN))
	}
	for depth := 0; err == nil; depth++ {
		var level []group
		if level, err = add(found); err != nil || len(level) == 0 || !a.o.Nested || depth == maxDepth {
			break
		}
		found, err = a.parents(ctx, s, level)
	}
	if err != nil {
		return nil, err
	}
	return all, nil
}

// parents gives the groups that groups are members of.
func (a *Authenticator) parents(ctx context.Context, s *conn, level []group) (found []group, err error) {
	if a.o.GroupFilter == "" {
		for _, g := range level {
			entries, err := s.search(ctx, g.dn.String(), ldap.ScopeBaseObject, 1, "(objectClass=*)", []string{"memberOf"})
			if ldap.IsErrorWithCode(err, ldap.LDAPResultNoSuchObject) {
				continue // deleted since
			}
			if err != nil {
				return nil, err
			}
			for _, entry := range entries {
				more, err := a.named(entry.GetEqualFoldAttributeValues("memberOf"))
				if err != nil {
					return nil, err
				}
				found = append(found, more...)
			}
		}
		return found, nil
	}
	for len(level) > 0 {
		n := min(perSearch, len(level))
		var filter strings.Builder
		filter.WriteString("(|")
		for _, g := range level[:n] {
			filter.WriteString(fill(a.o.GroupFilter, "", g.dn.String()))
		}
		filter.WriteString(")")
		more, err := a.searchGroups(ctx, s, filter.String())
		if err != nil {
			return nil, err
		}
		found = append(found, more...)
		level = level[n:]
	}
	return found, nil
}

func (a *Authenticator) searchGroups(ctx context.Context, s *conn, filter string) ([]group, error) {
	entries, err := s.search(ctx, a.o.GroupBase, ldap.ScopeWholeSubtree, maxGroups+1, filter, []string{a.o.GroupNameAttribute})
	if err != nil {
		return nil, err
	}
	groups := make([]group, 0, len(entries))
	for _, entry := range entries {
		dn, err := ldap.ParseDN(entry.DN)
		if err != nil {
			return nil, fmt.Errorf("the DN %.200q cannot be read", entry.DN)
		}
		groups = append(groups, group{dn, entry.GetEqualFoldAttributeValue(a.o.GroupNameAttribute)})
	}
	return groups, nil
}

// named gives the groups of a list of DNs. A group's name is what the DN begins with.
func (a *Authenticator) named(dns []string) ([]group, error) {
	groups := make([]group, 0, len(dns))
	for _, text := range dns {
		dn, err := ldap.ParseDN(text)
		if err != nil {
			return nil, fmt.Errorf("the DN %.200q cannot be read", text)
		}
		if len(dn.RDNs) > 0 && len(dn.RDNs[0].Attributes) > 0 {
			groups = append(groups, group{dn, dn.RDNs[0].Attributes[0].Value})
		}
	}
	return groups, nil
}

// gives is what groups give: roles in teams, the names of groups for grants, and
// the role admin.
func (a *Authenticator) gives(groups []group) (teams map[string]string, names []string, admin bool) {
	teams = map[string]string{}
	for _, g := range groups {
		if g.name != "" {
			names = append(names, g.name)
		}
		if _, ok := matches(a.o.AdminGroup, g); ok {
			admin = true
		}
		for _, rule := range a.o.Teams {
			rest, ok := matches(rule.Group, g)
			if !ok {
				continue
			}
			team := strings.Replace(rule.Team, "*", strings.ToLower(rest), 1)
			if _, err := oci.ParseName(team); err == nil && !strings.Contains(team, "/") {
				teams[team] = metadata.StrongerRole(teams[team], rule.Role)
			}
		}
	}
	return teams, names, admin
}

// matches reports whether a rule means a group, and what its '*' stands for. Names and
// DNs are compared without regard to case, as directories do.
func matches(rule string, g group) (rest string, ok bool) {
	if rule == "" {
		return "", false
	}
	if strings.Contains(rule, "=") {
		dn, err := ldap.ParseDN(rule)
		return "", err == nil && dn.EqualFold(g.dn)
	}
	before, after, star := strings.Cut(strings.ToLower(rule), "*")
	name := strings.ToLower(g.name)
	if !star {
		return "", name == before
	}
	rest, ok = strings.CutPrefix(name, before)
	if !ok {
		return "", false
	}
	rest, ok = strings.CutSuffix(rest, after)
	return rest, ok && rest != ""
}

// ParseTeamRules reads rules written as group=team:role, separated by semicolons
// or commas. A group may be a DN, in which there are commas and equal signs.
func ParseTeamRules(text string) ([]TeamRule, error) {
	var rules []TeamRule
	for rest := strings.Trim(text, " ,;\n"); rest != ""; rest = strings.Trim(rest, " ,;\n") {
		end, role := len(rest), ""
		for _, r := range []string{metadata.RoleReader, metadata.RoleMember, metadata.RoleMaintainer} {
			for at := 0; ; {
				i := strings.Index(rest[at:], ":"+r)
				if i < 0 {
					break
				}
				at += i + len(r) + 1
				if at <= end && (at == len(rest) || strings.ContainsRune(" ,;\n", rune(rest[at]))) {
					end, role = at, r
					break
				}
			}
		}
		rule := TeamRule{Role: role}
		if i := strings.LastIndexByte(rest[:end], '='); i > 0 && role != "" {
			rule.Group, rule.Team = strings.TrimSpace(rest[:i]), strings.TrimSpace(rest[i+1:end-len(role)-1])
		}
		if err := rule.valid(); err != nil {
			return nil, fmt.Errorf("%.200q: %w", rest[:end], err)
		}
		rules = append(rules, rule)
		rest = rest[end:]
	}
	return rules, nil
}

func (r TeamRule) valid() error {
	if r.Group == "" || r.Team == "" || r.Role == "" {
		return fmt.Errorf("write group=team:role, with the role reader, member or maintainer; several are separated by ';'")
	}
	if strings.Contains(r.Group, "=") {
		if _, err := ldap.ParseDN(r.Group); err != nil {
			return fmt.Errorf("%s is no DN of a group", r.Group)
		}
	}
	if strings.Count(r.Group, "*") > 1 || strings.Count(r.Team, "*") > 1 || strings.Contains(r.Team, "*") && !strings.Contains(r.Group, "*") {
		return fmt.Errorf("one * may stand in the group, and one for it in the team")
	}
	if _, err := oci.ParseName(strings.Replace(r.Team, "*", "x", 1)); err != nil || strings.Contains(r.Team, "/") {
		return fmt.Errorf("%q is no name of a team, the first part of repository names", r.Team)
	}
	return nil
}

var (
	_ auth.Recaller  = (*Authenticator)(nil)
	_ auth.Rechecker = (*Authenticator)(nil)
)
