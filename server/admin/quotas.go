package admin

import (
	"context"

	"berth/api"
	"berth/metadata"
)

func quotaOf(q metadata.Quota) api.Quota {
	return api.Quota{
		Team:    q.Team,
		Limits:  api.QuotaLimits{Bytes: q.Limits.Bytes, Repositories: q.Limits.Repositories, Tags: q.Limits.Tags},
		Counted: q.Counted, Bytes: q.Bytes, ReservedBytes: q.Reserved, Repositories: q.Repositories, Tags: q.Tags,
		UpdatedAt: q.UpdatedAt, UpdatedBy: q.UpdatedBy,
	}
}

// ListQuotas lists the teams that have a quota.
func (h *Admin) ListQuotas(ctx context.Context, r api.ListQuotasRequestObject) (api.ListQuotasResponseObject, error) {
	limit, after := bounds(r.Params.Limit, r.Params.After)
	quotas, err := h.Registry.Quotas(ctx, after, limit+1)
	if err != nil {
		return nil, err
	}
	quotas, next, link := page(ctx, quotas, limit, func(q metadata.Quota) string { return q.Team })
	return api.ListQuotas200JSONResponse{
		Body:    api.QuotaList{Items: each(quotas, quotaOf), Next: next},
		Headers: api.ListQuotas200ResponseHeaders{Link: link},
	}, nil
}

// GetTeamQuota shows a team's quota.
func (h *Admin) GetTeamQuota(ctx context.Context, r api.GetTeamQuotaRequestObject) (api.GetTeamQuotaResponseObject, error) {
	q, err := h.Registry.Quota(ctx, r.Team)
	if err != nil {
		return nil, err
	}
	return api.GetTeamQuota200JSONResponse(quotaOf(q)), nil
}

// SetTeamQuota limits a team.
func (h *Admin) SetTeamQuota(ctx context.Context, r api.SetTeamQuotaRequestObject) (api.SetTeamQuotaResponseObject, error) {
	limits := metadata.Limits{Bytes: r.Body.Bytes, Repositories: r.Body.Repositories, Tags: r.Body.Tags}
	q, err := h.Registry.SetQuota(ctx, callOf(ctx).actor, r.Team, limits)
	if err != nil {
		return nil, err
	}
	return api.SetTeamQuota200JSONResponse(quotaOf(q)), nil
}

// DeleteTeamQuota removes a team's quota.
func (h *Admin) DeleteTeamQuota(ctx context.Context, r api.DeleteTeamQuotaRequestObject) (api.DeleteTeamQuotaResponseObject, error) {
	if err := h.Registry.DeleteQuota(ctx, callOf(ctx).actor, r.Team); err != nil {
		return nil, err
	}
	return api.DeleteTeamQuota204Response{}, nil
}
