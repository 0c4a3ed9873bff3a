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
	var quotas []metadata.Quota
	err := h.DB.View(ctx, func(tx *metadata.Tx) (err error) {
		quotas, err = tx.Quotas(ctx, after, limit+1)
		return err
	})
	if err != nil {
		return nil, err
	}
	quotas, next, link := page(ctx, quotas, limit, func(q metadata.Quota) string { return q.Team })
	return api.ListQuotas200JSONResponse{
		Body:    api.QuotaList{Items: each(quotas, quotaOf), Next: next},
		Headers: api.ListQuotas200ResponseHeaders{Link: link},
	}, nil
}

func (h *Admin) quota(ctx context.Context, team string) (q metadata.Quota, err error) {
	err = h.DB.View(ctx, func(tx *metadata.Tx) (err error) {
		q, err = tx.Quota(ctx, team)
		return err
	})
	return q, err
}

// GetTeamQuota shows a team's quota.
func (h *Admin) GetTeamQuota(ctx context.Context, r api.GetTeamQuotaRequestObject) (api.GetTeamQuotaResponseObject, error) {
	q, err := h.quota(ctx, r.Team)
	if err != nil {
		return nil, err
	}
	return api.GetTeamQuota200JSONResponse(quotaOf(q)), nil
}

// SetTeamQuota limits a team, and counts what it has when that is its first quota.
// When the counting fails, the background job repeats it.
func (h *Admin) SetTeamQuota(ctx context.Context, r api.SetTeamQuotaRequestObject) (api.SetTeamQuotaResponseObject, error) {
	limits := metadata.Limits{Bytes: r.Body.Bytes, Repositories: r.Body.Repositories, Tags: r.Body.Tags}
	err := h.change(ctx, r.Body, func(tx *metadata.Tx) error {
		return tx.SetQuota(ctx, r.Team, limits, callOf(ctx).actor.String())
	})
	if err != nil {
		return nil, err
	}
	q, err := h.quota(ctx, r.Team)
	if err == nil && !q.Counted {
		if err = h.Registry.CountQuota(ctx, r.Team); err == nil {
			q, err = h.quota(ctx, r.Team)
		}
	}
	if err != nil {
		return nil, err
	}
	return api.SetTeamQuota200JSONResponse(quotaOf(q)), nil
}

// DeleteTeamQuota removes a team's quota.
func (h *Admin) DeleteTeamQuota(ctx context.Context, r api.DeleteTeamQuotaRequestObject) (api.DeleteTeamQuotaResponseObject, error) {
	err := h.change(ctx, nil, func(tx *metadata.Tx) error { return tx.DeleteQuota(ctx, r.Team) })
	if err != nil {
		return nil, err
	}
	return api.DeleteTeamQuota204Response{}, nil
}
