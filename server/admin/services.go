package admin

import (
	"context"
	"time"

	"berth/api"
	"berth/auth"
	"berth/auth/token"
	"berth/metadata"
	"berth/oci"
)

func serviceOf(s metadata.Service) api.Service {
	return api.Service{
		Name: s.Name, Issuer: s.Issuer, TokenTtl: int(s.TokenTTL / time.Second), Algorithm: api.KeyAlgorithm(s.Algorithm),
		AnonymousPull: s.AnonymousPull, RefreshTokens: s.RefreshTokens, OmitX5c: s.OmitX5C, CreatedAt: s.CreatedAt, UpdatedAt: s.UpdatedAt,
	}
}

// ListServices lists the other registries that take our tokens.
func (h *handler) ListServices(ctx context.Context, r api.ListServicesRequestObject) (api.ListServicesResponseObject, error) {
	limit, after := bounds(r.Params.Limit, r.Params.After)
	var services []metadata.Service
	err := h.DB.View(ctx, func(tx *metadata.Tx) (err error) {
		services, err = tx.Services(ctx, after, limit+1)
		return err
	})
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
func (h *handler) GetService(ctx context.Context, r api.GetServiceRequestObject) (api.GetServiceResponseObject, error) {
	var service metadata.Service
	err := h.DB.View(ctx, func(tx *metadata.Tx) (err error) {
		service, err = tx.Service(ctx, r.Service)
		return err
	})
	if err != nil {
		return nil, err
	}
	shown := serviceOf(service)
	return api.GetService200JSONResponse{Body: shown, Headers: api.GetService200ResponseHeaders{ETag: etagOf(shown)}}, nil
}

// PutService makes a service with its first key, or changes one. The body's
// defaults are filled in by validate.
func (h *handler) PutService(ctx context.Context, r api.PutServiceRequestObject) (api.PutServiceResponseObject, error) {
	if r.Service == h.Service {
		return nil, oci.Errorf(oci.CodeInvalid, "%s is the name of this registry itself: its tokens need no service", r.Service)
	}
	if p := *r.Body.AnonymousPull; p != "" && !repositoriesRE.MatchString(p) {
		return nil, oci.Errorf(oci.CodeInvalid, "the pattern %.140q cannot match a repository: use the characters of their names, '*' and '?'", p)
	}
	if err := mayGive(ctx, auth.Right{What: "a service", Limit: auth.Everything()}); err != nil {
		return nil, err
	}
	var before, service metadata.Service
	err := h.DB.View(ctx, func(tx *metadata.Tx) (err error) {
		before, err = tx.Service(ctx, r.Service)
		return err
	})
	if err != nil && !isNotFound(err) {
		return nil, err
	}
	otherKey := err == nil && before.Algorithm != string(*r.Body.Algorithm)
	change := func(tx *metadata.Tx) error {
		before, err := tx.LockService(ctx, r.Service)
		switch {
		case err == nil:
			if err := checkMatch(r.Params.IfMatch, serviceOf(before)); err != nil {
				return err
			}
			if !otherKey && before.Algorithm != string(*r.Body.Algorithm) {
				return oci.Errorf(oci.CodeConflict, "somebody has changed the service %s at the same time: look at it, and try again", r.Service)
			}
		case !isNotFound(err):
			return err
		case r.Params.IfMatch != nil:
			return err
		}
		service, _, err = tx.PutService(ctx, metadata.Service{
			Name: r.Service, Issuer: *r.Body.Issuer, TokenTTL: time.Duration(*r.Body.TokenTtl) * time.Second,
			Algorithm: string(*r.Body.Algorithm), AnonymousPull: *r.Body.AnonymousPull, RefreshTokens: *r.Body.RefreshTokens,
			OmitX5C: *r.Body.OmitX5c,
		})
		return err
	}
	if otherKey { // and so it gets one of the new algorithm, or does not change
		write := record(ctx, r.Body)
		_, err = h.Keys.Rotate(ctx, r.Service, token.Rotation{Algorithm: string(*r.Body.Algorithm), Also: func(tx *metadata.Tx) error {
			if err := change(tx); err != nil {
				return err
			}
			return write(tx)
		}})
	} else if err = h.change(ctx, r.Body, change); err == nil {
		err = h.Keys.Ensure(ctx, service)
	}
	if err != nil {
		return nil, err
	}
	shown := serviceOf(service)
	return api.PutService200JSONResponse{Body: shown, Headers: api.PutService200ResponseHeaders{ETag: etagOf(shown)}}, nil
}

// DeleteService removes a service with its keys.
func (h *handler) DeleteService(ctx context.Context, r api.DeleteServiceRequestObject) (api.DeleteServiceResponseObject, error) {
	err := h.change(ctx, nil, func(tx *metadata.Tx) error {
		before, err := tx.LockService(ctx, r.Service)
		if err != nil {
			return err
		}
		if err := checkMatch(r.Params.IfMatch, serviceOf(before)); err != nil {
			return err
		}
		return tx.DeleteService(ctx, r.Service)
	})
	if err != nil {
		return nil, err
	}
	return api.DeleteService204Response{}, nil
}
