package auth

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	"berth/metadata"
	"berth/oci"
)

// This file is the one place that says how far a credential reaches: what its limit lets
// through, and what somebody may give to others with it.

// Limit is what a token is restricted to. It never adds a right.
type Limit struct {
	// Repositories is a glob on the repository's name, where * stands for any
	// characters ('/' included) and ? for one.
	Repositories string
	// Actions are those that the token carries at most.
	Actions Actions
	// Tags is a glob on the tags that may be pushed and deleted; "" is every tag. A limit
	// that carries neither narrows the tags that may be pulled.
	Tags string
	// CIDRs are the networks from which the token may be used; none is everywhere.
	CIDRs []string
}

// allows gives the actions that the limit lets through on a repository, asked
// for from an address. No limit lets all through.
func (l *Limit) allows(repository, address string) Actions {
	switch {
	case l == nil:
		return AllActions
	case oci.Match(l.Repositories, repository) && l.AllowsFrom(address):
		return l.Actions
	}
	return 0
}

// AllowsFrom reports whether the limit lets the credential be used from an address,
// with or without a port. An address that is not known is in no network.
func (l *Limit) AllowsFrom(address string) bool {
	if l == nil || len(l.CIDRs) == 0 {
		return true
	}
	from, ok := parseAddress(address)
	return ok && slices.ContainsFunc(l.CIDRs, func(cidr string) bool {
		network, err := netip.ParsePrefix(cidr)
		return err == nil && network.Contains(from)
	})
}

// whole reports whether the limit leaves administration of the whole instance
// or team.
func (l *Limit) whole() bool {
	return l == nil || l.Actions.Has(Admin) && strings.Trim(l.Repositories, "*") == "" && l.Repositories != "" && l.allTags()
}

func (l *Limit) allTags() bool { return l == nil || strings.Trim(l.Tags, "*") == "" }

// AllowsTag reports whether an action may be done on a tag. The tag "" stands for
// what may touch every tag, as deleting a manifest by its digest does.
func (l *Limit) AllowsTag(action Actions, tag string) bool {
	switch {
	case l.allTags():
		return true
	case action == Pull && l.Actions&(Push|Delete) != 0:
		return true
	}
	return tag != "" && oci.Match(l.Tags, tag)
}

// OnAllTags gives those of the actions that the limit allows whatever the tag is.
func (l *Limit) OnAllTags(actions Actions) Actions {
	for _, n := range actionNames {
		if !l.AllowsTag(n.action, "") {
			actions &^= n.action
		}
	}
	return actions
}

// maxCIDRs bounds the networks of one token.
const maxCIDRs = 32

// ParseCIDRs checks networks such as 10.0.0.0/8 or 2001:db8::/32 and gives them in
// their shortest form; an address alone is the network of that address. The error is
// an INVALID.
func ParseCIDRs(list []string) ([]string, error) {
	if len(list) > maxCIDRs {
		return nil, oci.Errorf(oci.CodeInvalid, "a token can be bound to %d networks, these are %d: use wider ones", maxCIDRs, len(list))
	}
	out := make([]string, 0, len(list))
	for _, s := range list {
		p, err := netip.ParsePrefix(s)
		if ip, ipErr := netip.ParseAddr(s); err != nil && ipErr == nil && ip.Zone() == "" {
			p, err = ip.Prefix(ip.BitLen())
		}
		if err != nil || p.Addr().Is4In6() {
			return nil, oci.Errorf(oci.CodeInvalid, "%.60q is not a network: write it like 10.0.0.0/8 or 2001:db8::/32", s)
		}
		out = append(out, p.Masked().String())
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}

// Within reports whether the limit opens nothing that the outer one does not, apart
// from how long they last: each action, tag, repository and network of it is the outer
// one's too. A pattern is within another when the other is equal to it, or matches
// all of it, its wildcards read as any characters.
func (l *Limit) Within(outer *Limit) bool {
	switch {
	case outer == nil:
		return true
	case l == nil:
		return false
	}
	return outer.Actions.Has(l.Actions) && covers(outer.Repositories, l.Repositories) &&
		(outer.allTags() || !l.allTags() && covers(outer.Tags, l.Tags)) && cidrsWithin(l.CIDRs, outer.CIDRs)
}

// covers reports that every name that the inner glob matches the outer one matches.
// It may say false for some pairs for which it is so, never true for others: a * of the inner one
// is matched by a * alone, for '*' is in no name.
func covers(outer, inner string) bool {
	return outer == inner || !strings.Contains(outer, "?") && oci.Match(outer, inner)
}

func cidrsWithin(inner, outer []string) bool {
	if len(outer) == 0 {
		return true
	}
	for _, cidr := range inner {
		in, err := netip.ParsePrefix(cidr)
		if err != nil || !slices.ContainsFunc(outer, func(s string) bool {
			out, err := netip.ParsePrefix(s)
			return err == nil && out.Bits() <= in.Bits() && out.Contains(in.Addr())
		}) {
			return false
		}
	}
	return len(inner) > 0
}

// Right is what somebody gets by a deed: a token, a role, a grant, a password.
type Right struct {
	// What names it in a refusal, such as "a grant"; "" is a token, or what makes one.
	What string
	// Limit is what it opens at most, and the networks that it is bound to.
	Limit Limit
	// Expires is when it ends; nil is never.
	Expires *time.Time
	// User is the name of the user as whom it signs in, when it is a token of a user.
	User string
}

// Everything is the limit of a right that opens all that somebody may, such as a password
// or the role admin.
func Everything() Limit { return Limit{Repositories: "*", Actions: AllActions} }

// MayGive refuses to give a right that opens more than the credential in use, or for
// longer: else a token that leaks for an hour, or from one network, would be one for
// ever. It holds for every deed that gives somebody a right, through every door.
//
// Who signed in as a person with a credential without an end may give what the person
// may. The sign-in of a person at a provider ends (Principal.Person): with it the person
// changes the rights of others as with a password, and those last; only a token as the
// same user ends with it, so that who is signed out at the provider is out here.
//
// The error is a DENIED with the rule token-limit.
func (p Principal) MayGive(r Right) error {
	give := "make one that"
	if r.What != "" {
		give = "give " + r.What + " that"
	}
	refuse := func(format string, args ...any) error {
		return oci.Errorf(oci.CodeDenied, "the token you use "+format, args...).WithDetail(map[string]string{
			"rule": string(RuleLimit), "principal": p.String(), "ask": "sign in with a password, or a token that carries as much",
		})
	}
	switch {
	case p.IsAnonymous() || p.Kind != KindUser && p.Limit == nil:
		return refuse("gives no rights to others")
	case p.Limit == nil:
	case !p.Limit.Actions.Has(r.Limit.Actions):
		return refuse("carries %s, so it cannot %s carries %s", p.Limit.Actions, give, r.Limit.Actions)
	case !r.Limit.Within(p.Limit):
		return refuse("is bound to repositories, tags or networks, so it cannot %s is not bound to them or to fewer", give)
	}
	if p.Expires.IsZero() || p.Person && p.Kind == KindUser && r.User != p.Name {
		return nil
	}
	if r.Expires == nil || r.Expires.After(p.Expires) {
		return refuse("ends on %s, so it cannot %s lives longer", p.Expires.UTC().Format(time.RFC3339), give)
	}
	return nil
}

// MayOpen refuses to let more people pull from repositories than before, when the credential
// in use is narrower than that. The visibilities are metadata's, the error is that of MayGive.
func (p Principal) MayOpen(repositories, before, after string) error {
	if after != metadata.Public && (after != metadata.Internal || before != metadata.Private) || after == before {
		return nil
	}
	return p.MayGive(Right{What: "the right of everybody to pull", Limit: Limit{Repositories: repositories, Actions: Pull}})
}
