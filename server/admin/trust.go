package admin

import (
	"context"
	"slices"
	"strings"
	"time"

	"berth/api"
	"berth/metadata"
)

func trustPolicyOf(p metadata.TrustPolicy) api.TrustPolicy {
	out := api.TrustPolicy{
		Name: p.Name, Issuer: p.Issuer, Audience: p.Audience, Claims: p.Claims, Robot: p.Robot, Username: p.Team + "+" + p.Robot,
		Repositories: p.Repositories, Actions: actionsOf(p.Actions), MaxLife: int(p.MaxLife / time.Second),
		LastUsedAt: p.LastUsedAt, CreatedAt: p.CreatedAt, CreatedBy: p.CreatedBy, UpdatedAt: p.UpdatedAt,
	}
	if p.Tags != "" {
		out.Tags = &p.Tags
	}
	return out
}

// trustPolicyTag is the entity tag of a policy. Use does not change it.
func trustPolicyTag(p metadata.TrustPolicy) *string { return etagOf(unusedPolicyOf(p)) }

func unusedPolicyOf(p metadata.TrustPolicy) api.TrustPolicy {
	p.LastUsedAt = nil
	return trustPolicyOf(p)
}

// ListTrustIssuers lists the issuers of the settings and of the database.
func (h *Admin) ListTrustIssuers(ctx context.Context, r api.ListTrustIssuersRequestObject) (api.ListTrustIssuersResponseObject, error) {
	limit, after := bounds(r.Params.Limit, r.Params.After)
	issuers, err := h.People.TrustIssuers(ctx, after, limit+1)
	if err != nil {
		return nil, err
	}
	items := each(issuers, trustIssuerOf)
	for _, url := range h.TrustedIssuers {
		i := slices.IndexFunc(items, func(item api.TrustIssuer) bool { return item.Issuer == url })
		switch {
		case i >= 0:
			items[i].Setting = true
		case url > after:
			items = append(items, api.TrustIssuer{Issuer: url, Setting: true})
		}
	}
	slices.SortFunc(items, func(a, b api.TrustIssuer) int { return strings.Compare(a.Issuer, b.Issuer) })
	items, next, link := page(ctx, items, limit, func(i api.TrustIssuer) string { return i.Issuer })
	return api.ListTrustIssuers200JSONResponse{
		Body:    api.TrustIssuerList{Items: items, Next: next},
		Headers: api.ListTrustIssuers200ResponseHeaders{Link: link},
	}, nil
}

func trustIssuerOf(i metadata.TrustIssuer) api.TrustIssuer {
	shown := api.TrustIssuer{Issuer: i.URL, CreatedAt: &i.CreatedAt, CreatedBy: &i.CreatedBy}
	if len(i.Owners) > 0 {
		owners := each(i.Owners, func(o metadata.TrustOwner) api.TrustOwner { return api.TrustOwner(o) })
		shown.Owners = &owners
	}
	return shown
}

// PutTrustIssuer lets an issuer in.
func (h *Admin) PutTrustIssuer(ctx context.Context, r api.PutTrustIssuerRequestObject) (api.PutTrustIssuerResponseObject, error) {
	issuer, err := h.People.PutTrustIssuer(ctx, callOf(ctx).actor, r.Issuer)
	if err != nil {
		return nil, err
	}
	shown := trustIssuerOf(issuer)
	shown.Setting = slices.Contains(h.TrustedIssuers, issuer.URL)
	return api.PutTrustIssuer200JSONResponse(shown), nil
}

// SetTrustOwners says whose the jobs of an issuer are.
func (h *Admin) SetTrustOwners(ctx context.Context, r api.SetTrustOwnersRequestObject) (api.SetTrustOwnersResponseObject, error) {
	issuer, err := h.People.SetTrustOwners(ctx, callOf(ctx).actor, r.Issuer, each(r.Body.Owners, func(o api.TrustOwner) metadata.TrustOwner { return metadata.TrustOwner(o) }))
	if err != nil {
		return nil, err
	}
	shown := trustIssuerOf(issuer)
	shown.Setting = slices.Contains(h.TrustedIssuers, issuer.URL)
	return api.SetTrustOwners200JSONResponse(shown), nil
}

// DeleteTrustIssuer removes an issuer that no policy names.
func (h *Admin) DeleteTrustIssuer(ctx context.Context, r api.DeleteTrustIssuerRequestObject) (api.DeleteTrustIssuerResponseObject, error) {
	if err := h.People.DeleteTrustIssuer(ctx, callOf(ctx).actor, r.Issuer); err != nil {
		return nil, err
	}
	return api.DeleteTrustIssuer204Response{}, nil
}

// ListTrustPolicies lists the trust policies of a team.
func (h *Admin) ListTrustPolicies(ctx context.Context, r api.ListTrustPoliciesRequestObject) (api.ListTrustPoliciesResponseObject, error) {
	limit, after := bounds(r.Params.Limit, r.Params.After)
	policies, err := h.People.TrustPolicies(ctx, r.Team, after, limit+1)
	if err != nil {
		return nil, err
	}
	policies, next, link := page(ctx, policies, limit, func(p metadata.TrustPolicy) string { return p.Name })
	return api.ListTrustPolicies200JSONResponse{
		Body:    api.TrustPolicyList{Items: each(policies, trustPolicyOf), Next: next},
		Headers: api.ListTrustPolicies200ResponseHeaders{Link: link},
	}, nil
}

// GetTrustPolicy shows a trust policy.
func (h *Admin) GetTrustPolicy(ctx context.Context, r api.GetTrustPolicyRequestObject) (api.GetTrustPolicyResponseObject, error) {
	p, err := h.People.TrustPolicy(ctx, r.Team, r.TrustPolicy)
	if err != nil {
		return nil, err
	}
	return api.GetTrustPolicy200JSONResponse{Body: trustPolicyOf(p), Headers: api.GetTrustPolicy200ResponseHeaders{ETag: trustPolicyTag(p)}}, nil
}

// PutTrustPolicy makes or replaces a trust policy. Its issuer has to be one that
// an admin or the operator let in.
func (h *Admin) PutTrustPolicy(ctx context.Context, r api.PutTrustPolicyRequestObject) (api.PutTrustPolicyResponseObject, error) {
	p, err := h.People.PutTrustPolicy(ctx, callOf(ctx).actor, metadata.TrustPolicy{
		Team: r.Team, Name: r.TrustPolicy, Issuer: r.Body.Issuer, Audience: valueOf(r.Body.Audience), Claims: r.Body.Claims, Robot: valueOf(r.Body.Robot),
		Repositories: *r.Body.Repositories, Actions: each(r.Body.Actions, func(a api.Action) string { return string(a) }), Tags: *r.Body.Tags,
		MaxLife: time.Duration(*r.Body.MaxLife) * time.Second,
	}, r.Body, matches(r.Params.IfMatch, unusedPolicyOf))
	if err != nil {
		return nil, err
	}
	return api.PutTrustPolicy200JSONResponse{Body: trustPolicyOf(p), Headers: api.PutTrustPolicy200ResponseHeaders{ETag: trustPolicyTag(p)}}, nil
}

// DeleteTrustPolicy removes a trust policy.
func (h *Admin) DeleteTrustPolicy(ctx context.Context, r api.DeleteTrustPolicyRequestObject) (api.DeleteTrustPolicyResponseObject, error) {
	if err := h.People.DeleteTrustPolicy(ctx, callOf(ctx).actor, r.Team, r.TrustPolicy, matches(r.Params.IfMatch, unusedPolicyOf)); err != nil {
		return nil, err
	}
	return api.DeleteTrustPolicy204Response{}, nil
}
