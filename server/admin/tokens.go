package admin

import (
	"context"
	"regexp"
	"time"

	"berth/api"
	"berth/auth"
	"berth/metadata"
	"berth/oci"
)

func actionsOf(names []string) []api.Action {
	return each(names, func(name string) api.Action { return api.Action(name) })
}

func tokenOf(t metadata.Token) api.Token {
	username := t.User
	if t.Kind == metadata.RobotToken {
		username = t.Team + "+" + t.Name
	}
	return api.Token{
		Name: t.Name, Username: username, Repositories: t.Repositories, Actions: actionsOf(t.Actions),
		ExpiresAt: t.ExpiresAt, LastUsedAt: t.LastUsedAt, CreatedAt: t.CreatedAt, CreatedBy: t.CreatedBy,
	}
}

// repositoriesRE is what a pattern on repository names may hold.
var repositoriesRE = regexp.MustCompile(`^[a-z0-9._/*?-]+$`)

// newToken makes a token of a user or a team and gives its secret, which is
// nowhere else from then on.
func (h *handler) newToken(ctx context.Context, t metadata.Token, prefix string, body *api.TokenCreate) (api.NewToken, error) {
	var none api.NewToken
	if err := parseName("token", body.Name); err != nil {
		return none, err
	}
	t.Name, t.Repositories = body.Name, "*"
	if body.Repositories != nil {
		t.Repositories = *body.Repositories
	}
	if !repositoriesRE.MatchString(t.Repositories) {
		return none, oci.Errorf(oci.CodeInvalid, "the pattern %.140q cannot match a repository: use the characters of their names, '*' and '?'", t.Repositories)
	}
	names := each(body.Actions, func(a api.Action) string { return string(a) })
	actions, err := auth.ParseActions(names)
	if err != nil {
		return none, err
	}
	t.Actions = actions.Names()
	c := callOf(ctx)
	if limit := c.principal.Limit; limit != nil && !limit.Actions.Has(actions) {
		return none, denied(c.principal, "token-limit", "sign in with a password, or a token that carries these actions",
			"the token you use carries %s, so it cannot make one that carries %s", limit.Actions, actions)
	}
	t.CreatedBy = c.principal.String()
	t.ExpiresAt = body.ExpiresAt
	secret, hash := auth.NewSecret(prefix)
	err = h.change(ctx, body, func(tx *metadata.Tx) (err error) {
		if t.ExpiresAt != nil && !t.ExpiresAt.After(tx.Now()) {
			return oci.Errorf(oci.CodeInvalid, "the field \"expires_at\" is %s, which is not in the future", t.ExpiresAt.UTC().Format(time.RFC3339))
		}
		t, err = tx.CreateToken(ctx, t, hash)
		return err
	})
	if err != nil {
		return none, err
	}
	return api.NewToken{Token: tokenOf(t), Secret: secret}, nil
}

// tokens lists the tokens of a user or a team.
func (h *handler) tokens(ctx context.Context, user, team, after string, limit int) (tokens []metadata.Token, err error) {
	err = h.DB.Snapshot(ctx, func(tx *metadata.Tx) (err error) {
		// Of an owner that is not there, Tokens gives an empty list.
		if team != "" {
			_, err = tx.Team(ctx, team)
		} else {
			_, err = tx.User(ctx, user)
		}
		if err != nil {
			return err
		}
		tokens, err = tx.Tokens(ctx, user, team, after, limit)
		return err
	})
	return tokens, err
}

// token finds a token of a user or a team.
func (h *handler) token(ctx context.Context, user, team, name string) (t metadata.Token, err error) {
	err = h.DB.View(ctx, func(tx *metadata.Tx) (err error) {
		t, err = tx.Token(ctx, user, team, name)
		return err
	})
	return t, err
}

func tokenName(t metadata.Token) string { return t.Name }

// ListTokens lists a user's personal tokens.
func (h *handler) ListTokens(ctx context.Context, r api.ListTokensRequestObject) (api.ListTokensResponseObject, error) {
	limit, after := bounds(r.Params.Limit, r.Params.After)
	tokens, err := h.tokens(ctx, r.User, "", after, limit+1)
	if err != nil {
		return nil, err
	}
	tokens, next, link := page(ctx, tokens, limit, tokenName)
	return api.ListTokens200JSONResponse{
		Body:    api.TokenList{Items: each(tokens, tokenOf), Next: next},
		Headers: api.ListTokens200ResponseHeaders{Link: link},
	}, nil
}

// CreateToken makes a personal token.
func (h *handler) CreateToken(ctx context.Context, r api.CreateTokenRequestObject) (api.CreateTokenResponseObject, error) {
	token, err := h.newToken(ctx, metadata.Token{Kind: metadata.PersonalToken, User: r.User}, auth.PersonalPrefix, r.Body)
	if err != nil {
		return nil, err
	}
	return api.CreateToken201JSONResponse(token), nil
}

// GetToken shows a personal token.
func (h *handler) GetToken(ctx context.Context, r api.GetTokenRequestObject) (api.GetTokenResponseObject, error) {
	t, err := h.token(ctx, r.User, "", r.Token)
	if err != nil {
		return nil, err
	}
	return api.GetToken200JSONResponse(tokenOf(t)), nil
}

// DeleteToken removes a personal token.
func (h *handler) DeleteToken(ctx context.Context, r api.DeleteTokenRequestObject) (api.DeleteTokenResponseObject, error) {
	err := h.change(ctx, nil, func(tx *metadata.Tx) error { return tx.DeleteToken(ctx, r.User, "", r.Token) })
	if err != nil {
		return nil, err
	}
	return api.DeleteToken204Response{}, nil
}

// ListRobots lists a team's robots.
func (h *handler) ListRobots(ctx context.Context, r api.ListRobotsRequestObject) (api.ListRobotsResponseObject, error) {
	limit, after := bounds(r.Params.Limit, r.Params.After)
	tokens, err := h.tokens(ctx, "", r.Team, after, limit+1)
	if err != nil {
		return nil, err
	}
	tokens, next, link := page(ctx, tokens, limit, tokenName)
	return api.ListRobots200JSONResponse{
		Body:    api.TokenList{Items: each(tokens, tokenOf), Next: next},
		Headers: api.ListRobots200ResponseHeaders{Link: link},
	}, nil
}

// CreateRobot makes a robot of a team.
func (h *handler) CreateRobot(ctx context.Context, r api.CreateRobotRequestObject) (api.CreateRobotResponseObject, error) {
	token, err := h.newToken(ctx, metadata.Token{Kind: metadata.RobotToken, Team: r.Team}, auth.RobotPrefix, r.Body)
	if err != nil {
		return nil, err
	}
	return api.CreateRobot201JSONResponse(token), nil
}

// GetRobot shows a robot.
func (h *handler) GetRobot(ctx context.Context, r api.GetRobotRequestObject) (api.GetRobotResponseObject, error) {
	t, err := h.token(ctx, "", r.Team, r.Token)
	if err != nil {
		return nil, err
	}
	return api.GetRobot200JSONResponse(tokenOf(t)), nil
}

// DeleteRobot removes a robot.
func (h *handler) DeleteRobot(ctx context.Context, r api.DeleteRobotRequestObject) (api.DeleteRobotResponseObject, error) {
	err := h.change(ctx, nil, func(tx *metadata.Tx) error { return tx.DeleteToken(ctx, "", r.Team, r.Token) })
	if err != nil {
		return nil, err
	}
	return api.DeleteRobot204Response{}, nil
}
