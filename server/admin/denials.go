package admin

import (
	"context"
	"errors"

	"berth/api"
	"berth/auth"
	"berth/metadata"
	"berth/oci"
)

func denialOf(d metadata.Denial) api.Denial {
	shown := api.Denial{Name: d.Name, Principal: d.Principal, Repository: d.Repository, Actions: actionsOf(d.Actions),
		CreatedAt: d.CreatedAt, CreatedBy: d.CreatedBy, UpdatedAt: d.UpdatedAt}
	shown.Cidr, shown.Reason = optional(d.CIDR), optional(d.Reason)
	return shown
}

// ListDenials lists all denials.
func (h *handler) ListDenials(ctx context.Context, r api.ListDenialsRequestObject) (api.ListDenialsResponseObject, error) {
	limit, after := bounds(r.Params.Limit, r.Params.After)
	var denials []metadata.Denial
	err := h.DB.View(ctx, func(tx *metadata.Tx) (err error) {
		denials, err = tx.Denials(ctx, after, limit+1)
		return err
	})
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
func (h *handler) GetDenial(ctx context.Context, r api.GetDenialRequestObject) (api.GetDenialResponseObject, error) {
	var denial metadata.Denial
	err := h.DB.View(ctx, func(tx *metadata.Tx) (err error) {
		denial, err = tx.Denial(ctx, r.Denial)
		return err
	})
	if err != nil {
		return nil, err
	}
	shown := denialOf(denial)
	return api.GetDenial200JSONResponse{Body: shown, Headers: api.GetDenial200ResponseHeaders{ETag: etagOf(shown)}}, nil
}

// PutDenial makes a denial, or changes it.
func (h *handler) PutDenial(ctx context.Context, r api.PutDenialRequestObject) (api.PutDenialResponseObject, error) {
	actions, err := parseActions(r.Body.Actions)
	if err != nil {
		return nil, err
	}
	wanted := metadata.Denial{Name: r.Denial, Principal: valueOf(r.Body.Principal), CIDR: valueOf(r.Body.Cidr), Repository: valueOf(r.Body.Repository),
		Actions: actions, Reason: valueOf(r.Body.Reason), CreatedBy: callOf(ctx).principal.String()}
	var denial metadata.Denial
	err = h.change(ctx, r.Body, func(tx *metadata.Tx) error {
		if r.Params.IfMatch != nil {
			if err := matchDenial(ctx, tx, r.Denial, r.Params.IfMatch); err != nil && !errors.Is(err, oci.ErrNotFound) {
				return err
			} else if err != nil {
				return oci.Errorf(oci.CodePreconditionFailed, "there is no denial %s any more, and If-Match asks for one", r.Denial)
			}
		}
		before, err := tx.Denial(ctx, r.Denial)
		if err == nil {
			err = mayLift(ctx, before)
		}
		if err != nil && !errors.Is(err, oci.ErrNotFound) {
			return err
		}
		denial, _, err = tx.PutDenial(ctx, wanted)
		return err
	})
	if err != nil {
		return nil, err
	}
	shown := denialOf(denial)
	return api.PutDenial200JSONResponse{Body: shown, Headers: api.PutDenial200ResponseHeaders{ETag: etagOf(shown)}}, nil
}

// matchDenial compares If-Match with a denial that the transaction is about to change.
func matchDenial(ctx context.Context, tx *metadata.Tx, name string, header *api.IfMatch) error {
	if err := tx.LockDenials(ctx); err != nil {
		return err
	}
	before, err := tx.Denial(ctx, name)
	if err != nil {
		return err
	}
	return checkMatch(header, denialOf(before))
}

// mayLift refuses to take back a denial with a credential that has not what it denies.
func mayLift(ctx context.Context, d metadata.Denial) error {
	actions, err := auth.ParseActions(d.Actions)
	if err != nil {
		return err
	}
	return mayGive(ctx, auth.Right{What: "what a denial denies", Limit: auth.Limit{Repositories: d.Repository, Actions: actions}})
}

// DeleteDenial removes a denial.
func (h *handler) DeleteDenial(ctx context.Context, r api.DeleteDenialRequestObject) (api.DeleteDenialResponseObject, error) {
	err := h.change(ctx, nil, func(tx *metadata.Tx) error {
		if err := matchDenial(ctx, tx, r.Denial, r.Params.IfMatch); err != nil {
			return err
		}
		before, err := tx.Denial(ctx, r.Denial)
		if err != nil {
			return err
		}
		if err := mayLift(ctx, before); err != nil {
			return err
		}
		return tx.DeleteDenial(ctx, r.Denial)
	})
	if err != nil {
		return nil, err
	}
	return api.DeleteDenial204Response{}, nil
}
