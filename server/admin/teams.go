package admin

import (
	"context"

	"berth/api"
	"berth/metadata"
	"berth/people"
)

func teamOf(t metadata.Team) api.Team {
	visibility := api.DefaultVisibilityInherit
	if t.DefaultVisibility != "" {
		visibility = api.DefaultVisibility(t.DefaultVisibility)
	}
	return api.Team{Name: t.Name, DefaultVisibility: visibility, CreatedAt: t.CreatedAt, UpdatedAt: t.UpdatedAt}
}

// visibilityOf is what metadata stores: "" inherits.
func visibilityOf(v *api.DefaultVisibility) string {
	if v == nil || *v == api.DefaultVisibilityInherit {
		return ""
	}
	return string(*v)
}

// ListTeams lists the caller's teams, and all teams for admins.
func (h *Admin) ListTeams(ctx context.Context, r api.ListTeamsRequestObject) (api.ListTeamsResponseObject, error) {
	limit, after := bounds(r.Params.Limit, r.Params.After)
	teams, err := h.People.Teams(ctx, callOf(ctx).actor.Principal, after, limit+1)
	if err != nil {
		return nil, err
	}
	teams, next, link := page(ctx, teams, limit, func(t metadata.Team) string { return t.Name })
	return api.ListTeams200JSONResponse{
		Body:    api.TeamList{Items: each(teams, teamOf), Next: next},
		Headers: api.ListTeams200ResponseHeaders{Link: link},
	}, nil
}

// CreateTeam makes a team without members.
func (h *Admin) CreateTeam(ctx context.Context, r api.CreateTeamRequestObject) (api.CreateTeamResponseObject, error) {
	team, err := h.People.CreateTeam(ctx, callOf(ctx).actor, people.NewTeam{Name: r.Body.Name, DefaultVisibility: visibilityOf(r.Body.DefaultVisibility)})
	if err != nil {
		return nil, err
	}
	shown := teamOf(team)
	return api.CreateTeam201JSONResponse{Body: shown, Headers: api.CreateTeam201ResponseHeaders{ETag: etagOf(shown)}}, nil
}

// GetTeam shows a team.
func (h *Admin) GetTeam(ctx context.Context, r api.GetTeamRequestObject) (api.GetTeamResponseObject, error) {
	team, err := h.People.Team(ctx, r.Team)
	if err != nil {
		return nil, err
	}
	shown := teamOf(team)
	return api.GetTeam200JSONResponse{Body: shown, Headers: api.GetTeam200ResponseHeaders{ETag: etagOf(shown)}}, nil
}

// UpdateTeam changes a team's default visibility.
func (h *Admin) UpdateTeam(ctx context.Context, r api.UpdateTeamRequestObject) (api.UpdateTeamResponseObject, error) {
	team, err := h.People.UpdateTeam(ctx, callOf(ctx).actor, r.Team, people.TeamChange{
		DefaultVisibility: visibilityOf(r.Body.DefaultVisibility), If: matches(r.Params.IfMatch, teamOf),
	})
	if err != nil {
		return nil, err
	}
	shown := teamOf(team)
	return api.UpdateTeam200JSONResponse{Body: shown, Headers: api.UpdateTeam200ResponseHeaders{ETag: etagOf(shown)}}, nil
}

// DeleteTeam removes a team that has no repositories.
func (h *Admin) DeleteTeam(ctx context.Context, r api.DeleteTeamRequestObject) (api.DeleteTeamResponseObject, error) {
	if err := h.People.DeleteTeam(ctx, callOf(ctx).actor, r.Team, matches(r.Params.IfMatch, teamOf)); err != nil {
		return nil, err
	}
	return api.DeleteTeam204Response{}, nil
}

// ListMembers lists the members of a team.
func (h *Admin) ListMembers(ctx context.Context, r api.ListMembersRequestObject) (api.ListMembersResponseObject, error) {
	limit, after := bounds(r.Params.Limit, r.Params.After)
	members, err := h.People.Members(ctx, r.Team, after, limit+1)
	if err != nil {
		return nil, err
	}
	members, next, link := page(ctx, members, limit, func(m metadata.Member) string { return m.User })
	items := each(members, func(m metadata.Member) api.Member {
		return api.Member{User: m.User, Role: api.TeamRole(m.Role)}
	})
	return api.ListMembers200JSONResponse{
		Body:    api.MemberList{Items: items, Next: next},
		Headers: api.ListMembers200ResponseHeaders{Link: link},
	}, nil
}

// PutMember adds a user to a team, or changes the role there.
func (h *Admin) PutMember(ctx context.Context, r api.PutMemberRequestObject) (api.PutMemberResponseObject, error) {
	if err := h.People.PutMember(ctx, callOf(ctx).actor, r.Team, r.User, string(r.Body.Role)); err != nil {
		return nil, err
	}
	return api.PutMember200JSONResponse{User: r.User, Role: r.Body.Role}, nil
}

// RemoveMember takes a user out of a team.
func (h *Admin) RemoveMember(ctx context.Context, r api.RemoveMemberRequestObject) (api.RemoveMemberResponseObject, error) {
	if err := h.People.RemoveMember(ctx, callOf(ctx).actor, r.Team, r.User); err != nil {
		return nil, err
	}
	return api.RemoveMember204Response{}, nil
}
