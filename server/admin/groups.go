package admin

import (
	"context"

	"berth/api"
	"berth/metadata"
)

func groupOf(g metadata.Group) api.Group {
	return api.Group{Name: g.Name, Disabled: g.Disabled, CreatedAt: g.CreatedAt, UpdatedAt: g.UpdatedAt}
}

// ListGroups lists all groups.
func (h *Admin) ListGroups(ctx context.Context, r api.ListGroupsRequestObject) (api.ListGroupsResponseObject, error) {
	limit, after := bounds(r.Params.Limit, r.Params.After)
	groups, err := h.People.Groups(ctx, after, limit+1)
	if err != nil {
		return nil, err
	}
	groups, next, link := page(ctx, groups, limit, func(g metadata.Group) string { return g.Name })
	return api.ListGroups200JSONResponse{
		Body:    api.GroupList{Items: each(groups, groupOf), Next: next},
		Headers: api.ListGroups200ResponseHeaders{Link: link},
	}, nil
}

// CreateGroup makes a group without members of ours.
func (h *Admin) CreateGroup(ctx context.Context, r api.CreateGroupRequestObject) (api.CreateGroupResponseObject, error) {
	group, err := h.People.CreateGroup(ctx, callOf(ctx).actor, r.Body.Name)
	if err != nil {
		return nil, err
	}
	shown := groupOf(group)
	return api.CreateGroup201JSONResponse{Body: shown, Headers: api.CreateGroup201ResponseHeaders{ETag: etagOf(shown)}}, nil
}

// GetGroup shows a group.
func (h *Admin) GetGroup(ctx context.Context, r api.GetGroupRequestObject) (api.GetGroupResponseObject, error) {
	group, err := h.People.Group(ctx, r.Group)
	if err != nil {
		return nil, err
	}
	shown := groupOf(group)
	return api.GetGroup200JSONResponse{Body: shown, Headers: api.GetGroup200ResponseHeaders{ETag: etagOf(shown)}}, nil
}

// UpdateGroup disables a group, or enables it again.
func (h *Admin) UpdateGroup(ctx context.Context, r api.UpdateGroupRequestObject) (api.UpdateGroupResponseObject, error) {
	group, err := h.People.SetGroupDisabled(ctx, callOf(ctx).actor, r.Group, r.Body.Disabled, matches(r.Params.IfMatch, groupOf))
	if err != nil {
		return nil, err
	}
	shown := groupOf(group)
	return api.UpdateGroup200JSONResponse{Body: shown, Headers: api.UpdateGroup200ResponseHeaders{ETag: etagOf(shown)}}, nil
}

// DeleteGroup removes a group with its memberships and grants.
func (h *Admin) DeleteGroup(ctx context.Context, r api.DeleteGroupRequestObject) (api.DeleteGroupResponseObject, error) {
	if err := h.People.DeleteGroup(ctx, callOf(ctx).actor, r.Group, matches(r.Params.IfMatch, groupOf)); err != nil {
		return nil, err
	}
	return api.DeleteGroup204Response{}, nil
}

// ListGroupMembers lists the members of a group, ours and those whom a provider names.
func (h *Admin) ListGroupMembers(ctx context.Context, r api.ListGroupMembersRequestObject) (api.ListGroupMembersResponseObject, error) {
	limit, after := bounds(r.Params.Limit, r.Params.After)
	members, err := h.People.GroupMembers(ctx, r.Group, after, limit+1)
	if err != nil {
		return nil, err
	}
	members, next, link := page(ctx, members, limit, func(m metadata.GroupMember) string { return m.User })
	items := each(members, func(m metadata.GroupMember) api.GroupMember {
		return api.GroupMember{User: m.User, Provider: m.Provider}
	})
	return api.ListGroupMembers200JSONResponse{
		Body:    api.GroupMemberList{Items: items, Next: next},
		Headers: api.ListGroupMembers200ResponseHeaders{Link: link},
	}, nil
}

// PutGroupMember puts a user into a group.
func (h *Admin) PutGroupMember(ctx context.Context, r api.PutGroupMemberRequestObject) (api.PutGroupMemberResponseObject, error) {
	if err := h.People.PutGroupMember(ctx, callOf(ctx).actor, r.Group, r.User); err != nil {
		return nil, err
	}
	return api.PutGroupMember200JSONResponse{User: r.User}, nil
}

// RemoveGroupMember takes a user out of a group.
func (h *Admin) RemoveGroupMember(ctx context.Context, r api.RemoveGroupMemberRequestObject) (api.RemoveGroupMemberResponseObject, error) {
	if err := h.People.RemoveGroupMember(ctx, callOf(ctx).actor, r.Group, r.User); err != nil {
		return nil, err
	}
	return api.RemoveGroupMember204Response{}, nil
}
