package people

import (
	"context"
	"slices"

	"berth/auth"
	"berth/metadata"
	"berth/oci"
)

// grantParams are what the audit log names of a grant, and the operation.
func grantParams(put bool, to metadata.Grantee, pattern string) (action string, params Params) {
	verb := "delete"
	if put {
		verb = "put"
	}
	if to.Group != "" {
		return verb + "GroupGrant", Params{"group": to.Group, "pattern": pattern}
	}
	return verb + "UserGrant", Params{"user": to.User, "pattern": pattern}
}

type grantFields struct {
	Actions []string `json:"actions"`
}

// PutGrant gives a user or a group exactly these actions on the repositories of a pattern.
// It returns NOT_FOUND for the grantee, INVALID for the pattern or no action, DENIED, and
// CONFLICT for too many grants.
func (p *People) PutGrant(ctx context.Context, by auth.Actor, to metadata.Grantee, pattern string, actions []string) (metadata.Grant, error) {
	return in(ctx, p, func(b *Batch) (g metadata.Grant, err error) {
		if err := mayGrant(by, pattern, actions); err != nil {
			return g, err
		}
		if g, _, err = b.tx.PutGrant(ctx, to, pattern, actions, by.Audit.Name); err != nil {
			return g, err
		}
		if err := b.stillMaintains(ctx, by, g.Team); err != nil {
			return g, err
		}
		action, params := grantParams(true, to, pattern)
		return g, b.record(ctx, by, action, params, grantFields{g.Actions})
	})
}

// stillMaintains refuses what somebody does in a team who had a say there when the request
// came, and has none any more: the team was deleted meanwhile, and the next one of its name
// would find the grant. It is asked behind the lock that PutGrant has on the team.
func (b *Batch) stillMaintains(ctx context.Context, by auth.Actor, team string) error {
	if team == "" || by.IsAdmin() || by.Kind != auth.KindUser {
		return nil
	}
	role, err := b.tx.MemberRole(ctx, team, by.ID)
	if err == nil && role != metadata.RoleMaintainer {
		return oci.Errorf(oci.CodeDenied, "%s is not a maintainer of the team %s any more", by, team).WithDetail(map[string]string{
			"rule": string(auth.RuleNoMember), "principal": by.String(), "ask": "an administrator of this registry",
		})
	}
	return err
}

func mayGrant(by auth.Actor, pattern string, actions []string) error {
	l, err := limit(pattern, actions)
	if err != nil {
		return err
	}
	return by.MayGive(auth.Right{What: "a grant", Limit: l})
}

// AddGrant adds actions to what is granted on a pattern. The errors are those of PutGrant.
func (p *People) AddGrant(ctx context.Context, by auth.Actor, to metadata.Grantee, pattern string, actions []string) error {
	return do(ctx, p, func(b *Batch) error { return b.AddGrant(ctx, by, to, pattern, actions) })
}

// AddGrant is People.AddGrant.
func (b *Batch) AddGrant(ctx context.Context, by auth.Actor, to metadata.Grantee, pattern string, actions []string) error {
	if err := mayGrant(by, pattern, actions); err != nil {
		return err
	}
	if err := b.tx.AddGrant(ctx, to, pattern, actions, by.Audit.Name); err != nil {
		return err
	}
	action, params := grantParams(true, to, pattern)
	return b.record(ctx, by, action, params, grantFields{actions})
}

// TakeGrant takes actions away from what is granted on a pattern; what is not there is no
// error. unless names actions without which nothing is taken: who may push may pull, says
// a door that knows only these two. It returns NOT_FOUND for the grantee.
func (p *People) TakeGrant(ctx context.Context, by auth.Actor, to metadata.Grantee, pattern string, actions []string, unless ...string) error {
	return do(ctx, p, func(b *Batch) error {
		if len(unless) > 0 {
			grants, err := b.GrantsTo(ctx, to)
			if err != nil {
				return err
			}
			kept := func(g metadata.Grant) bool {
				return g.Pattern == pattern && slices.ContainsFunc(g.Actions, func(a string) bool { return slices.Contains(unless, a) })
			}
			if slices.ContainsFunc(grants, kept) {
				return nil
			}
		}
		if err := b.tx.TakeGrant(ctx, to, pattern, actions, by.Audit.Name); err != nil {
			return err
		}
		action, params := grantParams(false, to, pattern)
		return b.record(ctx, by, action, params, grantFields{actions})
	})
}

// DeleteGrant removes a grant. It returns NOT_FOUND.
func (p *People) DeleteGrant(ctx context.Context, by auth.Actor, to metadata.Grantee, pattern string) error {
	return do(ctx, p, func(b *Batch) error {
		if err := b.tx.DeleteGrant(ctx, to, pattern); err != nil {
			return err
		}
		action, params := grantParams(false, to, pattern)
		return b.record(ctx, by, action, params, nil)
	})
}

// Grants lists the grants of a filter that a caller may see, by their number: an administrator
// all, a user those that concern the user, and a robot those of its team. A credential that
// does not carry all that its owner may sees none.
func (p *People) Grants(ctx context.Context, by auth.Principal, f metadata.GrantFilter) ([]metadata.Grant, error) {
	switch {
	case by.IsAdmin():
	case by.Kind == auth.KindUser && by.CarriesAll():
		f.For = by.ID
	case by.Kind == auth.KindRobot && by.CarriesAll() && (f.Team == "" || f.Team == by.Team):
		f.Team = by.Team // acts there as a maintainer
	default:
		return nil, nil
	}
	return view(ctx, p, func(tx *metadata.Tx) ([]metadata.Grant, error) { return tx.Grants(ctx, f) })
}

// GrantsTo lists what is granted to a user or to a group itself.
func (b *Batch) GrantsTo(ctx context.Context, to metadata.Grantee) ([]metadata.Grant, error) {
	return b.tx.Grants(ctx, metadata.GrantFilter{Grantee: to, Limit: metadata.MaxGrants})
}
