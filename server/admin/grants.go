package admin

import (
	"context"
	"strconv"

	"berth/api"
	"berth/auth"
	"berth/metadata"
	"berth/oci"
)

func grantOf(g metadata.Grant) api.Grant {
	shown := api.Grant{Pattern: g.Pattern, Actions: actionsOf(g.Actions), CreatedAt: g.CreatedAt, CreatedBy: g.CreatedBy, UpdatedAt: g.UpdatedAt}
	shown.User, shown.Group = text(g.Grantee.User), text(g.Grantee.Group)
	return shown
}

// parseActions reads actions that validate has let through, in their own order.
func parseActions(actions []api.Action) ([]string, error) {
	set, err := auth.ParseActions(each(actions, func(a api.Action) string { return string(a) }))
	return set.Names(), err
}

// ListGrants lists the grants that the caller may see.
func (h *Admin) ListGrants(ctx context.Context, r api.ListGrantsRequestObject) (api.ListGrantsResponseObject, error) {
	limit, after := bounds(r.Params.Limit, r.Params.After)
	f := metadata.GrantFilter{Limit: limit + 1, Grantee: metadata.Grantee{User: valueOf(r.Params.User), Group: valueOf(r.Params.Group)},
		Repository: valueOf(r.Params.Repository), Team: valueOf(r.Params.Team)}
	if after != "" {
		var err error
		if f.After, err = strconv.ParseInt(after, 10, 64); err != nil {
			return nil, oci.Errorf(oci.CodeInvalid, "the parameter \"after\" is not the \"next\" of a page of grants")
		}
	}
	grants, err := h.People.Grants(ctx, callOf(ctx).actor.Principal, f)
	if err != nil {
		return nil, err
	}
	grants, next, link := page(ctx, grants, limit, func(g metadata.Grant) string { return strconv.FormatInt(g.ID, 10) })
	return api.ListGrants200JSONResponse{
		Body:    api.GrantList{Items: each(grants, grantOf), Next: next},
		Headers: api.ListGrants200ResponseHeaders{Link: link},
	}, nil
}

func (h *Admin) putGrant(ctx context.Context, to metadata.Grantee, pattern string, body *api.GrantChange) (g metadata.Grant, err error) {
	actions, err := parseActions(body.Actions)
	if err != nil {
		return g, err
	}
	return h.People.PutGrant(ctx, callOf(ctx).actor, to, pattern, actions)
}

func (h *Admin) deleteGrant(ctx context.Context, to metadata.Grantee, pattern string) error {
	return h.People.DeleteGrant(ctx, callOf(ctx).actor, to, pattern)
}

// PutUserGrant gives a user rights on the repositories of a pattern.
func (h *Admin) PutUserGrant(ctx context.Context, r api.PutUserGrantRequestObject) (api.PutUserGrantResponseObject, error) {
	g, err := h.putGrant(ctx, metadata.Grantee{User: r.User}, r.Pattern, r.Body)
	if err != nil {
		return nil, err
	}
	return api.PutUserGrant200JSONResponse(grantOf(g)), nil
}

// DeleteUserGrant takes a grant away from a user.
func (h *Admin) DeleteUserGrant(ctx context.Context, r api.DeleteUserGrantRequestObject) (api.DeleteUserGrantResponseObject, error) {
	if err := h.deleteGrant(ctx, metadata.Grantee{User: r.User}, r.Pattern); err != nil {
		return nil, err
	}
	return api.DeleteUserGrant204Response{}, nil
}

// PutGroupGrant gives a group rights on the repositories of a pattern.
func (h *Admin) PutGroupGrant(ctx context.Context, r api.PutGroupGrantRequestObject) (api.PutGroupGrantResponseObject, error) {
	g, err := h.putGrant(ctx, metadata.Grantee{Group: r.Group}, r.Pattern, r.Body)
	if err != nil {
		return nil, err
	}
	return api.PutGroupGrant200JSONResponse(grantOf(g)), nil
}

// DeleteGroupGrant takes a grant away from a group.
func (h *Admin) DeleteGroupGrant(ctx context.Context, r api.DeleteGroupGrantRequestObject) (api.DeleteGroupGrantResponseObject, error) {
	if err := h.deleteGrant(ctx, metadata.Grantee{Group: r.Group}, r.Pattern); err != nil {
		return nil, err
	}
	return api.DeleteGroupGrant204Response{}, nil
}
