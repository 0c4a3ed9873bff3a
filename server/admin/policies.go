package admin

import (
	"context"

	"berth/api"
	"berth/metadata"
	"berth/registry"
)

func policyOf(p registry.TagPolicy) api.EffectiveTagPolicy {
	return api.EffectiveTagPolicy{Mode: api.TagMode(p.Mode), Exempt: append([]string{}, p.Exempt...), Level: api.EffectiveTagPolicyLevel(p.Level)}
}

func newPolicy(body *api.TagPolicy) *metadata.TagPolicy {
	return &metadata.TagPolicy{Mode: string(body.Mode), Exempt: body.Exempt}
}

// GetInstanceTagPolicy shows the instance's policy.
func (h *Admin) GetInstanceTagPolicy(ctx context.Context, _ api.GetInstanceTagPolicyRequestObject) (api.GetInstanceTagPolicyResponseObject, error) {
	policy, err := h.Registry.InstanceTagPolicy(ctx)
	if err != nil {
		return nil, err
	}
	return api.GetInstanceTagPolicy200JSONResponse(policyOf(policy)), nil
}

// SetInstanceTagPolicy changes the instance's policy.
func (h *Admin) SetInstanceTagPolicy(ctx context.Context, r api.SetInstanceTagPolicyRequestObject) (api.SetInstanceTagPolicyResponseObject, error) {
	policy, err := h.Registry.SetInstanceTagPolicy(ctx, callOf(ctx).actor, *newPolicy(r.Body))
	if err != nil {
		return nil, err
	}
	return api.SetInstanceTagPolicy200JSONResponse(policyOf(policy)), nil
}

// GetTeamTagPolicy shows the policy in force for a team.
func (h *Admin) GetTeamTagPolicy(ctx context.Context, r api.GetTeamTagPolicyRequestObject) (api.GetTeamTagPolicyResponseObject, error) {
	policy, err := h.Registry.TeamTagPolicy(ctx, r.Team)
	if err != nil {
		return nil, err
	}
	return api.GetTeamTagPolicy200JSONResponse(policyOf(policy)), nil
}

// SetTeamTagPolicy gives a team a policy of its own.
func (h *Admin) SetTeamTagPolicy(ctx context.Context, r api.SetTeamTagPolicyRequestObject) (api.SetTeamTagPolicyResponseObject, error) {
	policy, err := h.Registry.SetTeamTagPolicy(ctx, callOf(ctx).actor, r.Team, newPolicy(r.Body))
	if err != nil {
		return nil, err
	}
	return api.SetTeamTagPolicy200JSONResponse(policyOf(policy)), nil
}

// DeleteTeamTagPolicy lets a team follow the instance.
func (h *Admin) DeleteTeamTagPolicy(ctx context.Context, r api.DeleteTeamTagPolicyRequestObject) (api.DeleteTeamTagPolicyResponseObject, error) {
	if _, err := h.Registry.SetTeamTagPolicy(ctx, callOf(ctx).actor, r.Team, nil); err != nil {
		return nil, err
	}
	return api.DeleteTeamTagPolicy204Response{}, nil
}

// GetRepositoryTagPolicy shows the policy in force for a repository.
func (h *Admin) GetRepositoryTagPolicy(ctx context.Context, r api.GetRepositoryTagPolicyRequestObject) (api.GetRepositoryTagPolicyResponseObject, error) {
	policy, err := h.Registry.RepositoryTagPolicy(ctx, r.Repository)
	if err != nil {
		return nil, err
	}
	return api.GetRepositoryTagPolicy200JSONResponse(policyOf(policy)), nil
}

// SetRepositoryTagPolicy gives a repository a policy of its own.
func (h *Admin) SetRepositoryTagPolicy(ctx context.Context, r api.SetRepositoryTagPolicyRequestObject) (api.SetRepositoryTagPolicyResponseObject, error) {
	policy, err := h.Registry.SetRepositoryTagPolicy(ctx, callOf(ctx).actor, r.Repository, newPolicy(r.Body))
	if err != nil {
		return nil, err
	}
	return api.SetRepositoryTagPolicy200JSONResponse(policyOf(policy)), nil
}

// DeleteRepositoryTagPolicy lets a repository follow its team.
func (h *Admin) DeleteRepositoryTagPolicy(ctx context.Context, r api.DeleteRepositoryTagPolicyRequestObject) (api.DeleteRepositoryTagPolicyResponseObject, error) {
	if _, err := h.Registry.SetRepositoryTagPolicy(ctx, callOf(ctx).actor, r.Repository, nil); err != nil {
		return nil, err
	}
	return api.DeleteRepositoryTagPolicy204Response{}, nil
}
