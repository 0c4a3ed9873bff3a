package registry

import (
	"context"
	"slices"

	"berth/auth"
	"berth/metadata"
)

// A tag policy says whether tags may move, for the instance, a team or a repository; the
// narrowest one that there is holds. Who sets one, and what it looks like, is here. That a tag
// does not move is decided where tags move: in the one conditional upsert of
// [metadata.Tx.PutTag], and by triggers of the database.

// TagPolicy is the policy that holds somewhere.
type TagPolicy struct {
	metadata.TagPolicy
	Level string // whose it is: repository, team or instance
}

const instanceLevel = "instance"

// InstanceTagPolicy gives the policy of everything that has none of its own.
func (r *Registry) InstanceTagPolicy(ctx context.Context) (TagPolicy, error) {
	return view(ctx, r, func(tx *metadata.Tx) (TagPolicy, error) { return instanceTagPolicy(ctx, tx) })
}

func instanceTagPolicy(ctx context.Context, tx *metadata.Tx) (TagPolicy, error) {
	p, err := tx.InstanceTagPolicy(ctx)
	return TagPolicy{p, instanceLevel}, err
}

// SetInstanceTagPolicy changes the policy of everything that has none of its own. Tags under
// a policy of mode sealed are sealed for ever. It returns INVALID.
func (r *Registry) SetInstanceTagPolicy(ctx context.Context, by auth.Actor, p metadata.TagPolicy) (held TagPolicy, err error) {
	err = r.db.Update(ctx, func(tx *metadata.Tx) (err error) {
		held, err = setInstanceTagPolicy(ctx, tx, by, p)
		return err
	})
	return held, err
}

func setInstanceTagPolicy(ctx context.Context, tx *metadata.Tx, by auth.Actor, p metadata.TagPolicy) (held TagPolicy, err error) {
	if err = tx.SetInstanceTagPolicy(ctx, p); err != nil {
		return held, err
	}
	if held, err = instanceTagPolicy(ctx, tx); err != nil {
		return held, err
	}
	return held, tx.Record(ctx, metadata.Event{Kind: metadata.InstanceTagPolicySet, Actor: by.Audit, Detail: policyFields(&p)})
}

// ApplyTagPolicy is SetInstanceTagPolicy for what settings say of it: a mode, or "" for none,
// and the exempt patterns, or nil for none. It changes and records nothing when that holds already.
func (r *Registry) ApplyTagPolicy(ctx context.Context, by auth.Actor, mode string, exempt []string) error {
	return r.db.Update(ctx, func(tx *metadata.Tx) error {
		now, err := tx.InstanceTagPolicy(ctx)
		if err != nil {
			return err
		}
		want := now
		if mode != "" {
			want.Mode = mode
		}
		if exempt != nil {
			want.Exempt = slices.Sorted(slices.Values(exempt))
		}
		if now.Mode == want.Mode && slices.Equal(now.Exempt, want.Exempt) {
			return nil
		}
		_, err = setInstanceTagPolicy(ctx, tx, by, want)
		return err
	})
}

// TeamTagPolicy gives the policy that new repositories of a team have. It returns NOT_FOUND.
func (r *Registry) TeamTagPolicy(ctx context.Context, team string) (TagPolicy, error) {
	return snapshot(ctx, r, func(tx *metadata.Tx) (TagPolicy, error) { return teamTagPolicy(ctx, tx, team) })
}

func teamTagPolicy(ctx context.Context, tx *metadata.Tx, team string) (TagPolicy, error) {
	t, err := tx.Team(ctx, team)
	if err != nil {
		return TagPolicy{}, err
	}
	if t.TagPolicy != nil {
		return TagPolicy{*t.TagPolicy, "team"}, nil
	}
	return instanceTagPolicy(ctx, tx)
}

// SetTeamTagPolicy gives a team a policy of its own, or with nil the instance's, and gives the
// one that holds then. It returns NOT_FOUND or INVALID.
func (r *Registry) SetTeamTagPolicy(ctx context.Context, by auth.Actor, team string, p *metadata.TagPolicy) (held TagPolicy, err error) {
	e := metadata.Event{Kind: metadata.TeamTagPolicySet, Actor: by.Audit, Team: team, Detail: policyFields(p)}
	if p == nil {
		e.Kind = metadata.TeamTagPolicyDeleted
	}
	err = r.db.Update(ctx, func(tx *metadata.Tx) (err error) {
		if err := tx.AdoptTeam(ctx, team, by.Audit); err != nil {
			return err
		}
		if err := tx.SetTeamTagPolicy(ctx, team, p); err != nil {
			return err
		}
		if held, err = teamTagPolicy(ctx, tx, team); err != nil {
			return err
		}
		return tx.Record(ctx, e)
	})
	return held, err
}

// RepositoryTagPolicy gives the policy that holds in a repository. It returns NAME_UNKNOWN.
func (r *Registry) RepositoryTagPolicy(ctx context.Context, repo string) (TagPolicy, error) {
	return snapshot(ctx, r, func(tx *metadata.Tx) (TagPolicy, error) { return repositoryTagPolicy(ctx, tx, repo) })
}

func repositoryTagPolicy(ctx context.Context, tx *metadata.Tx, repo string) (TagPolicy, error) {
	if _, err := tx.Repository(ctx, repo); err != nil {
		return TagPolicy{}, err
	}
	p, level, err := tx.EffectiveTagPolicy(ctx, repo)
	return TagPolicy{p, level}, err
}

// SetRepositoryTagPolicy gives a repository a policy of its own, or with nil its team's, and
// gives the one that holds then. It returns NAME_UNKNOWN or INVALID.
func (r *Registry) SetRepositoryTagPolicy(ctx context.Context, by auth.Actor, repo string, p *metadata.TagPolicy) (held TagPolicy, err error) {
	e := metadata.Event{Kind: metadata.RepositoryTagPolicySet, Actor: by.Audit, Repository: repo, Detail: policyFields(p)}
	if p == nil {
		e.Kind = metadata.RepositoryTagPolicyDeleted
	}
	err = r.db.Update(ctx, func(tx *metadata.Tx) (err error) {
		if err := tx.SetRepositoryTagPolicy(ctx, repo, p); err != nil {
			return err
		}
		if held, err = repositoryTagPolicy(ctx, tx, repo); err != nil {
			return err
		}
		return tx.Record(ctx, e)
	})
	return held, err
}

// policyFields is what the audit log tells of a policy that was set; nil tells nothing.
func policyFields(p *metadata.TagPolicy) map[string]any {
	if p == nil {
		return nil
	}
	return fields(map[string]any{"mode": p.Mode, "exempt": p.Exempt})
}
