package admin

import (
	"context"
	"maps"
	"slices"

	"berth/api"
	"berth/metadata"
	"berth/people"
)

func userOf(u metadata.User) api.User {
	return api.User{Name: u.Name, Role: api.Role(u.Role), Disabled: u.Disabled, Source: u.Source, CreatedAt: u.CreatedAt, UpdatedAt: u.UpdatedAt}
}

// ListUsers lists all users.
func (h *Admin) ListUsers(ctx context.Context, r api.ListUsersRequestObject) (api.ListUsersResponseObject, error) {
	limit, after := bounds(r.Params.Limit, r.Params.After)
	users, err := h.People.Users(ctx, after, limit+1)
	if err != nil {
		return nil, err
	}
	users, next, link := page(ctx, users, limit, func(u metadata.User) string { return u.Name })
	return api.ListUsers200JSONResponse{
		Body:    api.UserList{Items: each(users, userOf), Next: next},
		Headers: api.ListUsers200ResponseHeaders{Link: link},
	}, nil
}

// CreateUser makes a user, with or without a password.
func (h *Admin) CreateUser(ctx context.Context, r api.CreateUserRequestObject) (api.CreateUserResponseObject, error) {
	if err := people.ParseName("user", r.Body.Name); err != nil {
		return nil, err
	}
	user, err := h.People.CreateUser(ctx, callOf(ctx).actor, people.NewUser{Name: r.Body.Name, Password: r.Body.Password, Role: (*string)(r.Body.Role)})
	if err != nil {
		return nil, err
	}
	shown := userOf(user)
	return api.CreateUser201JSONResponse{Body: shown, Headers: api.CreateUser201ResponseHeaders{ETag: etagOf(shown)}}, nil
}

// GetUser shows a user.
func (h *Admin) GetUser(ctx context.Context, r api.GetUserRequestObject) (api.GetUserResponseObject, error) {
	user, err := h.People.Profile(ctx, r.User)
	if err != nil {
		return nil, err
	}
	shown := userOf(user.User)
	etag := etagOf(shown) // of what updateUser changes, and no sign-in does
	shown.SeenAt = user.SeenAt
	in := []api.UserTeam{}
	for _, team := range slices.Sorted(maps.Keys(user.Teams)) {
		in = append(in, api.UserTeam{Team: team, Role: api.TeamRole(user.Teams[team]), Provider: user.Provided[team] == user.Teams[team]})
	}
	shown.Teams, shown.Groups = &in, &user.Groups
	if user.Groups == nil {
		shown.Groups = &[]string{}
	}
	return api.GetUser200JSONResponse{Body: shown, Headers: api.GetUser200ResponseHeaders{ETag: etag}}, nil
}

// UpdateUser changes role and state.
func (h *Admin) UpdateUser(ctx context.Context, r api.UpdateUserRequestObject) (api.UpdateUserResponseObject, error) {
	user, err := h.People.UpdateUser(ctx, callOf(ctx).actor, r.User, people.UserChange{
		Role: (*string)(r.Body.Role), Disabled: r.Body.Disabled, If: matches(r.Params.IfMatch, userOf),
	})
	if err != nil {
		return nil, err
	}
	shown := userOf(user)
	return api.UpdateUser200JSONResponse{Body: shown, Headers: api.UpdateUser200ResponseHeaders{ETag: etagOf(shown)}}, nil
}

// DeleteUser removes a user.
func (h *Admin) DeleteUser(ctx context.Context, r api.DeleteUserRequestObject) (api.DeleteUserResponseObject, error) {
	if err := h.People.DeleteUser(ctx, callOf(ctx).actor, r.User, matches(r.Params.IfMatch, userOf)); err != nil {
		return nil, err
	}
	return api.DeleteUser204Response{}, nil
}

// SetPassword sets a password; users show their current one.
func (h *Admin) SetPassword(ctx context.Context, r api.SetPasswordRequestObject) (api.SetPasswordResponseObject, error) {
	w := people.Password{New: r.Body.Password, Current: valueOf(r.Body.CurrentPassword)}
	if err := h.People.SetPassword(ctx, callOf(ctx).actor, r.User, w); err != nil {
		return nil, err
	}
	return api.SetPassword204Response{}, nil
}
