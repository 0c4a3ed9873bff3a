package admin

import (
	"context"
	"maps"
	"slices"

	"berth/api"
	"berth/auth"
)

// Whoami says who the caller is.
func (h *Admin) Whoami(ctx context.Context, _ api.WhoamiRequestObject) (api.WhoamiResponseObject, error) {
	p := callOf(ctx).actor.Principal
	me := api.Whoami{Kind: api.WhoamiKind(p.Kind), Name: p.String(), Admin: p.IsAdmin(), Teams: []api.Membership{}}
	if p.Limit != nil {
		me.Limit = &api.TokenLimit{
			Repositories: p.Limit.Repositories, Actions: actionsOf(p.Limit.Actions.Names()), Tags: text(p.Limit.Tags), Cidrs: list(p.Limit.CIDRs),
		}
	}
	if p.Kind == auth.KindUser {
		roles, err := h.People.UserTeams(ctx, p.ID)
		if err != nil {
			return nil, err
		}
		for _, team := range slices.Sorted(maps.Keys(roles)) {
			me.Teams = append(me.Teams, api.Membership{Team: team, Role: api.TeamRole(roles[team])})
		}
	}
	return api.Whoami200JSONResponse(me), nil
}
