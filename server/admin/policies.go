package admin

import (
	"context"

	"berth/api"
	"berth/metadata"
)

func policyOf(p metadata.TagPolicy, level api.EffectiveTagPolicyLevel) api.EffectiveTagPolicy {
	return api.EffectiveTagPolicy{Mode: api.TagMode(p.Mode), Exempt: append([]string{}, p.Exempt...), Level: level}
}

func newPolicy(body *api.TagPolicy) metadata.TagPolicy {
	return metadata.TagPolicy{Mode: string(body.Mode), Exempt: body.Exempt}
}

// GetInstanceTagPolicy shows the instance's policy.
func (h *Admin) GetInstanceTagPolicy(ctx context.Context, _ api.GetInstanceTagPolicyRequestObject) (api.GetInstanceTagPolicyResponseObject, error) {
	var policy metadata.TagPolicy
	err := h.DB.View(ctx, func(tx *metadata.Tx) (err error) {
		policy, err = tx.InstanceTagPolicy(ctx)
		return err
	})
	if err != nil {
		return nil, err
	}
	return api.GetInstanceTagPolicy200JSONResponse(policyOf(policy, api.EffectiveTagPolicyLevelInstance)), nil
}

// SetInstanceTagPolicy changes the instance's policy.
func (h *Admin) SetInstanceTagPolicy(ctx context.Context, r api.SetInstanceTagPolicyRequestObject) (api.SetInstanceTagPolicyResponseObject, error) {
	var policy metadata.TagPolicy
	err := h.change(ctx, r.Body, func(tx *metadata.Tx) (err error) {
		if err := tx.SetInstanceTagPolicy(ctx, newPolicy(r.Body)); err != nil {
			return err
		}
		policy, err = tx.InstanceTagPolicy(ctx)
		return err
	})
	if err != nil {
		return nil, err
	}
	return api.SetInstanceTagPolicy200JSONResponse(policyOf(policy, api.EffectiveTagPolicyLevelInstance)), nil
}

// teamPolicy is the policy in force for new repositories of a team.
func teamPolicy(ctx context.Context, tx *metadata.Tx, team string) (api.EffectiveTagPolicy, error) {
	t, err := tx.Team(ctx, team)
	if err != nil {
		return api.EffectiveTagPolicy{}, err
	}
	if t.TagPolicy != nil {
		return policyOf(*t.TagPolicy, api.EffectiveTagPolicyLevelTeam), nil
	}
	policy, err := tx.InstanceTagPolicy(ctx)
	return policyOf(policy, api.EffectiveTagPolicyLevelInstance), err
}

// GetTeamTagPolicy shows the policy in force for a team.
func (h *Admin) GetTeamTagPolicy(ctx context.Context, r api.GetTeamTagPolicyRequestObject) (api.GetTeamTagPolicyResponseObject, error) {
	var policy api.EffectiveTagPolicy
	err := h.DB.Snapshot(ctx, func(tx *metadata.Tx) (err error) {
		policy, err = teamPolicy(ctx, tx, r.Team)
		return err
	})
	if err != nil {
		return nil, err
	}
	return api.GetTeamTagPolicy200JSONResponse(policy), nil
}

// SetTeamTagPolicy gives a team a policy of its own.
func (h *Admin) SetTeamTagPolicy(ctx context.Context, r api.SetTeamTagPolicyRequestObject) (api.SetTeamTagPolicyResponseObject, error) {
	var policy api.EffectiveTagPolicy
	err := h.change(ctx, r.Body, func(tx *metadata.Tx) (err error) {
		own := newPolicy(r.Body)
		if err := tx.SetTeamTagPolicy(ctx, r.Team, &own); err != nil {
			return err
		}
		policy, err = teamPolicy(ctx, tx, r.Team)
		return err
	})
	if err != nil {
		return nil, err
	}
	return api.SetTeamTagPolicy200JSONResponse(policy), nil
}

// DeleteTeamTagPolicy lets a team follow the instance.
func (h *Admin) DeleteTeamTagPolicy(ctx context.Context, r api.DeleteTeamTagPolicyRequestObject) (api.DeleteTeamTagPolicyResponseObject, error) {
	err := h.change(ctx, nil, func(tx *metadata.Tx) error { return tx.SetTeamTagPolicy(ctx, r.Team, nil) })
	if err != nil {
		return nil, err
	}
	return api.DeleteTeamTagPolicy204Response{}, nil
}

// repositoryPolicy is the policy in force for a repository that exists.
func repositoryPolicy(ctx context.Context, tx *metadata.Tx, repository string) (api.EffectiveTagPolicy, error) {
	if _, err := tx.Repository(ctx, repository); err != nil {
		return api.EffectiveTagPolicy{}, err
	}
	policy, level, err := tx.EffectiveTagPolicy(ctx, repository)
	return policyOf(policy, api.EffectiveTagPolicyLevel(level)), err
}

// GetRepositoryTagPolicy shows the policy in force for a repository.
func (h *Admin) GetRepositoryTagPolicy(ctx context.Context, r api.GetRepositoryTagPolicyRequestObject) (api.GetRepositoryTagPolicyResponseObject, error) {
	var policy api.EffectiveTagPolicy
	err := h.DB.Snapshot(ctx, func(tx *metadata.Tx) (err error) {
		policy, err = repositoryPolicy(ctx, tx, r.Repository)
		return err
	})
	if err != nil {
		return nil, err
	}
	return api.GetRepositoryTagPolicy200JSONResponse(policy), nil
}

// SetRepositoryTagPolicy gives a repository a policy of its own.
func (h *Admin) SetRepositoryTagPolicy(ctx context.Context, r api.SetRepositoryTagPolicyRequestObject) (api.SetRepositoryTagPolicyResponseObject, error) {
	var policy api.EffectiveTagPolicy
	err := h.change(ctx, r.Body, func(tx *metadata.Tx) (err error) {
		own := newPolicy(r.Body)
		if err := tx.SetRepositoryTagPolicy(ctx, r.Repository, &own); err != nil {
			return err
		}
		policy, err = repositoryPolicy(ctx, tx, r.Repository)
		return err
	})
	if err != nil {
		return nil, err
	}
	return api.SetRepositoryTagPolicy200JSONResponse(policy), nil
}

// DeleteRepositoryTagPolicy lets a repository follow its team.
func (h *Admin) DeleteRepositoryTagPolicy(ctx context.Context, r api.DeleteRepositoryTagPolicyRequestObject) (api.DeleteRepositoryTagPolicyResponseObject, error) {
	err := h.change(ctx, nil, func(tx *metadata.Tx) error { return tx.SetRepositoryTagPolicy(ctx, r.Repository, nil) })
	if err != nil {
		return nil, err
	}
	return api.DeleteRepositoryTagPolicy204Response{}, nil
}
