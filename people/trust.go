package people

import (
	"context"
	"slices"

	"berth/auth"
	"berth/metadata"
	"berth/oci"
)

// PutTrustIssuer lets an issuer in. It returns INVALID or DENIED.
func (p *People) PutTrustIssuer(ctx context.Context, by auth.Actor, issuer string) (metadata.TrustIssuer, error) {
	if err := auth.CheckIssuer(issuer, false); err != nil {
		return metadata.TrustIssuer{}, err
	}
	return in(ctx, p, func(b *Batch) (i metadata.TrustIssuer, err error) {
		if err := by.MayGive(auth.Right{What: "trust in an issuer", Limit: auth.Everything()}); err != nil {
			return i, err
		}
		if i, err = b.tx.PutTrustIssuer(ctx, issuer, by.Audit.Name); err != nil {
			return i, err
		}
		return i, b.record(ctx, by, "putTrustIssuer", Params{"issuer": issuer}, nil)
	})
}

// SetTrustOwners says whose the jobs of an issuer are, by their claims: no policy of another
// team lets these in. An issuer of the settings gets its row. It returns INVALID, DENIED, or
// NOT_FOUND for the issuer or a team.
func (p *People) SetTrustOwners(ctx context.Context, by auth.Actor, issuer string, owners []metadata.TrustOwner) (metadata.TrustIssuer, error) {
	if err := auth.CheckTrustOwners(owners); err != nil {
		return metadata.TrustIssuer{}, err
	}
	return in(ctx, p, func(b *Batch) (i metadata.TrustIssuer, err error) {
		// Whose jobs these are no more, others may take.
		if err := by.MayGive(auth.Right{What: "jobs to a team", Limit: auth.Everything()}); err != nil {
			return i, err
		}
		if slices.Contains(p.o.TrustedIssuers, issuer) {
			if _, err := b.tx.PutTrustIssuer(ctx, issuer, by.Audit.Name); err != nil {
				return i, err
			}
		}
		if i, err = b.tx.SetTrustOwners(ctx, issuer, owners); err != nil {
			return i, err
		}
		return i, b.record(ctx, by, "setTrustOwners", Params{"issuer": issuer}, map[string]any{"owners": owners})
	})
}

// DeleteTrustIssuer removes an issuer. It returns CONFLICT while a policy names it, or NOT_FOUND.
func (p *People) DeleteTrustIssuer(ctx context.Context, by auth.Actor, issuer string) error {
	return do(ctx, p, func(b *Batch) error {
		if err := b.tx.DeleteTrustIssuer(ctx, issuer); err != nil {
			return err
		}
		return b.record(ctx, by, "deleteTrustIssuer", Params{"issuer": issuer}, nil)
	})
}

// PutTrustPolicy makes or replaces a trust policy of a team, as what signs in by it is a
// robot like others. An empty audience is the registry itself, an empty robot the policy's
// name. fields are what the audit log tells. The issuer has to be one that an admin or the
// operator let in. It returns INVALID, DENIED or NOT_FOUND. condition may be nil; when it
// is not, there has to be a policy.
func (p *People) PutTrustPolicy(ctx context.Context, by auth.Actor, t metadata.TrustPolicy, fields any, condition func(metadata.TrustPolicy) error) (metadata.TrustPolicy, error) {
	if t.Audience == "" {
		t.Audience = p.o.Service
	}
	if t.Robot == "" {
		t.Robot = t.Name
	}
	t.CreatedBy = by.Audit.Name
	l, err := checkTrustPolicy(&t)
	if err != nil {
		return t, err
	}
	return in(ctx, p, func(b *Batch) (stored metadata.TrustPolicy, err error) {
		if err := b.adopt(ctx, by, t.Team); err != nil {
			return stored, err
		}
		if !slices.Contains(p.o.TrustedIssuers, t.Issuer) {
			known, err := b.tx.HasTrustIssuer(ctx, t.Issuer)
			if err != nil {
				return stored, err
			}
			if !known {
				return stored, oci.Errorf(oci.CodeInvalid, "the issuer %s is none of those that trust policies may name: ask an administrator of this registry to add it (berth trust issuer add)", t.Issuer)
			}
		}
		if err := by.MayGive(auth.Right{Limit: l}); err != nil {
			return stored, err
		}
		before, err := b.tx.LockTrustPolicy(ctx, t.Team, t.Name)
		switch {
		case err == nil:
			if err := check(condition, before); err != nil {
				return stored, err
			}
		case !isNotFound(err) || condition != nil:
			return stored, err
		}
		if stored, _, err = b.tx.PutTrustPolicy(ctx, t); err != nil {
			return stored, err
		}
		return stored, b.record(ctx, by, "putTrustPolicy", Params{"team": t.Team, "trust_policy": t.Name}, fields)
	})
}

// checkTrustPolicy checks what a person wrote, and gives what it opens.
func checkTrustPolicy(t *metadata.TrustPolicy) (l auth.Limit, err error) {
	if err := ParseName("trust policy", t.Name); err != nil {
		return l, err
	}
	if err := ParseName("robot", t.Robot); err != nil {
		return l, err
	}
	if err := parsePatterns(t.Repositories, t.Tags); err != nil {
		return l, err
	}
	actions, err := auth.ParseActions(t.Actions)
	if err != nil {
		return l, err
	}
	t.Actions = actions.Names()
	return auth.Limit{Repositories: t.Repositories, Actions: actions, Tags: t.Tags}, auth.CheckTrustPolicy(*t)
}

// DeleteTrustPolicy removes a trust policy. It returns NOT_FOUND. condition may be nil.
func (p *People) DeleteTrustPolicy(ctx context.Context, by auth.Actor, team, name string, condition func(metadata.TrustPolicy) error) error {
	return do(ctx, p, func(b *Batch) error {
		before, err := b.tx.LockTrustPolicy(ctx, team, name)
		if err != nil {
			return err
		}
		if err := check(condition, before); err != nil {
			return err
		}
		if err := b.tx.DeleteTrustPolicy(ctx, team, name); err != nil {
			return err
		}
		return b.record(ctx, by, "deleteTrustPolicy", Params{"team": team, "trust_policy": name}, nil)
	})
}

// TrustIssuers lists issuers behind one, in byte order, at most limit. Those of the settings
// that have no row are not among them.
func (p *People) TrustIssuers(ctx context.Context, after string, limit int) ([]metadata.TrustIssuer, error) {
	return view(ctx, p, func(tx *metadata.Tx) ([]metadata.TrustIssuer, error) { return tx.TrustIssuers(ctx, after, limit) })
}

// TrustPolicies lists trust policies of a team behind a name, in byte order, at most limit. It
// returns NOT_FOUND for the team.
func (p *People) TrustPolicies(ctx context.Context, team, after string, limit int) ([]metadata.TrustPolicy, error) {
	return snapshot(ctx, p, func(tx *metadata.Tx) ([]metadata.TrustPolicy, error) {
		// Of a team that is not there, TrustPolicies gives an empty list.
		if _, err := tx.Team(ctx, team); err != nil {
			return nil, err
		}
		return tx.TrustPolicies(ctx, team, after, limit)
	})
}

// TrustPolicy gives a trust policy of a team. It returns NOT_FOUND.
func (p *People) TrustPolicy(ctx context.Context, team, name string) (metadata.TrustPolicy, error) {
	return view(ctx, p, func(tx *metadata.Tx) (metadata.TrustPolicy, error) { return tx.TrustPolicy(ctx, team, name) })
}
