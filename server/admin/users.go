package admin

import (
	"context"
	"maps"
	"slices"

	"berth/api"
	"berth/auth"
	"berth/metadata"
	"berth/oci"
)

func userOf(u metadata.User) api.User {
	return api.User{Name: u.Name, Role: api.Role(u.Role), Disabled: u.Disabled, Source: u.Source, CreatedAt: u.CreatedAt, UpdatedAt: u.UpdatedAt}
}

// ListUsers lists all users.
func (h *handler) ListUsers(ctx context.Context, r api.ListUsersRequestObject) (api.ListUsersResponseObject, error) {
	limit, after := bounds(r.Params.Limit, r.Params.After)
	var users []metadata.User
	err := h.DB.View(ctx, func(tx *metadata.Tx) (err error) {
		users, err = tx.Users(ctx, after, limit+1)
		return err
	})
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
func (h *handler) CreateUser(ctx context.Context, r api.CreateUserRequestObject) (api.CreateUserResponseObject, error) {
	if err := parseName("user", r.Body.Name); err != nil {
		return nil, err
	}
	user := metadata.User{Name: r.Body.Name, Role: metadata.RoleUser}
	if r.Body.Role != nil {
		user.Role = string(*r.Body.Role)
	}
	right := auth.Right{What: "a user", Limit: auth.Limit{Repositories: "*", Actions: auth.Pull}}
	if user.Role == metadata.RoleAdmin {
		right.Limit = auth.Everything()
	}
	if err := mayGive(ctx, right); err != nil {
		return nil, err
	}
	if r.Body.Password != nil {
		hash, err := h.Hasher.Hash(ctx, *r.Body.Password)
		if err != nil {
			return nil, err
		}
		user.PasswordHash = hash
	}
	err := h.change(ctx, r.Body, func(tx *metadata.Tx) (err error) {
		user, err = tx.CreateUser(ctx, user)
		return err
	})
	if err != nil {
		return nil, err
	}
	shown := userOf(user)
	return api.CreateUser201JSONResponse{Body: shown, Headers: api.CreateUser201ResponseHeaders{ETag: etagOf(shown)}}, nil
}

// GetUser shows a user.
func (h *handler) GetUser(ctx context.Context, r api.GetUserRequestObject) (api.GetUserResponseObject, error) {
	var (
		user            metadata.User
		teams, provided map[string]string
		groups          []string
	)
	err := h.DB.View(ctx, func(tx *metadata.Tx) (err error) {
		if user, err = tx.User(ctx, r.User); err != nil {
			return err
		}
		if teams, err = tx.UserTeams(ctx, user.ID); err != nil {
			return err
		}
		if provided, _, err = tx.ProviderFacts(ctx, user.ID); err != nil {
			return err
		}
		groups, err = tx.UserGroups(ctx, user.ID)
		return err
	})
	if err != nil {
		return nil, err
	}
	shown := userOf(user)
	etag := etagOf(shown) // of what updateUser changes, and no sign-in does
	shown.SeenAt = user.SeenAt
	in := []api.UserTeam{}
	for _, team := range slices.Sorted(maps.Keys(teams)) {
		in = append(in, api.UserTeam{Team: team, Role: api.TeamRole(teams[team]), Provider: provided[team] == teams[team]})
	}
	shown.Teams, shown.Groups = &in, &groups
	if groups == nil {
		shown.Groups = &[]string{}
	}
	return api.GetUser200JSONResponse{Body: shown, Headers: api.GetUser200ResponseHeaders{ETag: etag}}, nil
}

// UpdateUser changes role and state. That an enabled admin is left is seen to
// by metadata, in the same transaction.
func (h *handler) UpdateUser(ctx context.Context, r api.UpdateUserRequestObject) (api.UpdateUserResponseObject, error) {
	var user metadata.User
	err := h.change(ctx, r.Body, func(tx *metadata.Tx) error {
		before, err := tx.LockUser(ctx, r.User)
		if err != nil {
			return err
		}
		if err := checkMatch(r.Params.IfMatch, userOf(before)); err != nil {
			return err
		}
		promoted := r.Body.Role != nil && string(*r.Body.Role) == metadata.RoleAdmin && before.Role != metadata.RoleAdmin
		if enabled := r.Body.Disabled != nil && !*r.Body.Disabled && before.Disabled; promoted || enabled {
			if err := mayGive(ctx, auth.Right{What: "what a user may", Limit: auth.Everything()}); err != nil {
				return err
			}
		}
		user, err = tx.UpdateUser(ctx, r.User, metadata.UserChange{Role: (*string)(r.Body.Role), Disabled: r.Body.Disabled})
		return err
	})
	if err != nil {
		return nil, err
	}
	shown := userOf(user)
	return api.UpdateUser200JSONResponse{Body: shown, Headers: api.UpdateUser200ResponseHeaders{ETag: etagOf(shown)}}, nil
}

// DeleteUser removes a user; see UpdateUser for the last admin.
func (h *handler) DeleteUser(ctx context.Context, r api.DeleteUserRequestObject) (api.DeleteUserResponseObject, error) {
	err := h.change(ctx, nil, func(tx *metadata.Tx) error {
		before, err := tx.LockUser(ctx, r.User)
		if err != nil {
			return err
		}
		if err := checkMatch(r.Params.IfMatch, userOf(before)); err != nil {
			return err
		}
		return tx.DeleteUser(ctx, r.User)
	})
	if err != nil {
		return nil, err
	}
	return api.DeleteUser204Response{}, nil
}

// SetPassword sets a password. Users show their current one, so that a session
// left open cannot lock its owner out; failures count like failed sign-ins.
func (h *handler) SetPassword(ctx context.Context, r api.SetPasswordRequestObject) (api.SetPasswordResponseObject, error) {
	c := callOf(ctx)
	if c.principal.Kind == auth.KindUser && c.principal.Name == r.User {
		if r.Body.CurrentPassword == nil {
			return nil, oci.Errorf(oci.CodeInvalid, "the field \"current_password\" is missing: your own password is changed with the current one")
		}
		if err := auth.CheckCurrent(ctx, h.Passwords, c.principal, *r.Body.CurrentPassword); err != nil {
			return nil, err
		}
	} else if err := mayGive(ctx, auth.Right{What: "a password", Limit: auth.Everything()}); err != nil {
		return nil, err
	}
	hash, err := h.Hasher.Hash(ctx, r.Body.Password)
	if err != nil {
		return nil, err
	}
	err = h.change(ctx, r.Body, func(tx *metadata.Tx) error {
		if _, err := tx.LockUser(ctx, r.User); err != nil {
			return err
		}
		_, err := tx.UpdateUser(ctx, r.User, metadata.UserChange{PasswordHash: &hash})
		return err
	})
	if err != nil {
		return nil, err
	}
	return api.SetPassword204Response{}, nil
}
