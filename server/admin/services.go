package admin

import (
	"context"
	"time"

	"berth/api"
	"berth/metadata"
)

func serviceOf(s metadata.Service) api.Service {
	return api.Service{
		Name: s.Name, Issuer: s.Issuer, TokenTtl: int(s.TokenTTL / time.Second), Algorithm: api.KeyAlgorithm(s.Algorithm),
		AnonymousPull: s.AnonymousPull, RefreshTokens: s.RefreshTokens, OmitX5c: s.OmitX5C, CreatedAt: s.CreatedAt, UpdatedAt: s.UpdatedAt,
	}
}

// ListServices lists the other registries that take our tokens.
func (h *Admin) ListServices(ctx context.Context, r api.ListServicesRequestObject) (api.ListServicesResponseObject, error) {
	limit, after := bounds(r.Params.Limit, r.Params.After)
	services, err := h.People.Services(ctx, after, limit+1)
	if err != nil {
		return nil, err
	}
	services, next, link := page(ctx, services, limit, func(s metadata.Service) string { return s.Name })
	return api.ListServices200JSONResponse{
		Body:    api.ServiceList{Items: each(services, serviceOf), Next: next},
		Headers: api.ListServices200ResponseHeaders{Link: link},
	}, nil
}

// GetService shows a service.
func (h *Admin) GetService(ctx context.Context, r api.GetServiceRequestObject) (api.GetServiceResponseObject, error) {
	service, err := h.People.Service(ctx, r.Service)
	if err != nil {
		return nil, err
	}
	shown := serviceOf(service)
	return api.GetService200JSONResponse{Body: shown, Headers: api.GetService200ResponseHeaders{ETag: etagOf(shown)}}, nil
}

// PutService makes a service with its first key, or changes one. The body's
// defaults are filled in by validate.
func (h *Admin) PutService(ctx context.Context, r api.PutServiceRequestObject) (api.PutServiceResponseObject, error) {
	service, err := h.People.PutService(ctx, callOf(ctx).actor, metadata.Service{
		Name: r.Service, Issuer: *r.Body.Issuer, TokenTTL: time.Duration(*r.Body.TokenTtl) * time.Second,
		Algorithm: string(*r.Body.Algorithm), AnonymousPull: *r.Body.AnonymousPull, RefreshTokens: *r.Body.RefreshTokens, OmitX5C: *r.Body.OmitX5c,
	}, r.Body, matches(r.Params.IfMatch, serviceOf))
	if err != nil {
		return nil, err
	}
	shown := serviceOf(service)
	return api.PutService200JSONResponse{Body: shown, Headers: api.PutService200ResponseHeaders{ETag: etagOf(shown)}}, nil
}

// DeleteService removes a service with its keys.
func (h *Admin) DeleteService(ctx context.Context, r api.DeleteServiceRequestObject) (api.DeleteServiceResponseObject, error) {
	if err := h.People.DeleteService(ctx, callOf(ctx).actor, r.Service, matches(r.Params.IfMatch, serviceOf)); err != nil {
		return nil, err
	}
	return api.DeleteService204Response{}, nil
}
