package admin

import (
	"context"

	"berth/api"
	"berth/metadata"
)

func denialOf(d metadata.Denial) api.Denial {
	shown := api.Denial{Name: d.Name, Principal: d.Principal, Repository: d.Repository, Actions: actionsOf(d.Actions),
		CreatedAt: d.CreatedAt, CreatedBy: d.CreatedBy, UpdatedAt: d.UpdatedAt}
	shown.Cidr, shown.Reason = text(d.CIDR), text(d.Reason)
	return shown
}

// ListDenials lists all denials.
func (h *Admin) ListDenials(ctx context.Context, r api.ListDenialsRequestObject) (api.ListDenialsResponseObject, error) {
	limit, after := bounds(r.Params.Limit, r.Params.After)
	denials, err := h.People.Denials(ctx, after, limit+1)
	if err != nil {
		return nil, err
	}
	denials, next, link := page(ctx, denials, limit, func(d metadata.Denial) string { return d.Name })
	return api.ListDenials200JSONResponse{
		Body:    api.DenialList{Items: each(denials, denialOf), Next: next},
		Headers: api.ListDenials200ResponseHeaders{Link: link},
	}, nil
}

// GetDenial shows a denial.
func (h *Admin) GetDenial(ctx context.Context, r api.GetDenialRequestObject) (api.GetDenialResponseObject, error) {
	denial, err := h.People.Denial(ctx, r.Denial)
	if err != nil {
		return nil, err
	}
	shown := denialOf(denial)
	return api.GetDenial200JSONResponse{Body: shown, Headers: api.GetDenial200ResponseHeaders{ETag: etagOf(shown)}}, nil
}

// PutDenial makes a denial, or changes it.
func (h *Admin) PutDenial(ctx context.Context, r api.PutDenialRequestObject) (api.PutDenialResponseObject, error) {
	actions, err := parseActions(r.Body.Actions)
	if err != nil {
		return nil, err
	}
	denial, err := h.People.PutDenial(ctx, callOf(ctx).actor, metadata.Denial{
		Name: r.Denial, Principal: valueOf(r.Body.Principal), CIDR: valueOf(r.Body.Cidr), Repository: valueOf(r.Body.Repository), Actions: actions, Reason: valueOf(r.Body.Reason),
	}, matches(r.Params.IfMatch, denialOf))
	if err != nil {
		return nil, err
	}
	shown := denialOf(denial)
	return api.PutDenial200JSONResponse{Body: shown, Headers: api.PutDenial200ResponseHeaders{ETag: etagOf(shown)}}, nil
}

// DeleteDenial removes a denial.
func (h *Admin) DeleteDenial(ctx context.Context, r api.DeleteDenialRequestObject) (api.DeleteDenialResponseObject, error) {
	if err := h.People.DeleteDenial(ctx, callOf(ctx).actor, r.Denial, matches(r.Params.IfMatch, denialOf)); err != nil {
		return nil, err
	}
	return api.DeleteDenial204Response{}, nil
}
