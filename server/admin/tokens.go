package admin

import (
	"context"
	"time"

	"berth/api"
	"berth/metadata"
	"berth/people"
)

func actionsOf(names []string) []api.Action {
	return each(names, func(name string) api.Action { return api.Action(name) })
}

func tokenOf(t metadata.Token) api.Token {
	username := t.User
	if t.Kind != metadata.PersonalToken {
		username = t.Team + "+" + t.Name
	}
	return api.Token{
		Name: t.Name, Kind: api.TokenKind(t.Kind), Username: username, Repositories: t.Repositories, Actions: actionsOf(t.Actions),
		Tags: text(t.Tags), Cidrs: list(t.CIDRs),
		ExpiresAt: t.ExpiresAt, LastUsedAt: t.LastUsedAt, LastUsedFrom: text(t.LastUsedFrom), CreatedAt: t.CreatedAt, CreatedBy: t.CreatedBy,
		Secrets: each(t.Secrets, func(s metadata.TokenSecret) api.TokenSecret {
			return api.TokenSecret{CreatedAt: s.CreatedAt, ExpiresAt: s.ExpiresAt, LastUsedAt: s.LastUsedAt}
		}),
	}
}

// text is nil for "", which the API leaves out.
func text(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// list is nil for no items, which the API leaves out.
func list(items []string) *[]string {
	if len(items) == 0 {
		return nil
	}
	return &items
}

// newToken makes a token of a user or a team and gives its secret, which is
// nowhere else from then on.
func (h *Admin) newToken(ctx context.Context, n people.NewToken, body *api.TokenCreate) (api.NewToken, error) {
	n.Name, n.Repositories, n.Tags, n.ExpiresAt = body.Name, body.Repositories, body.Tags, body.ExpiresAt
	n.Actions = each(body.Actions, func(a api.Action) string { return string(a) })
	if body.Cidrs != nil {
		n.CIDRs = *body.Cidrs
	}
	t, secret, err := h.People.CreateToken(ctx, callOf(ctx).actor, n)
	if err != nil {
		return api.NewToken{}, err
	}
	return api.NewToken{Token: tokenOf(t), Secret: secret}, nil
}

// rotate gives a token of a user or a team a new secret.
func (h *Admin) rotate(ctx context.Context, user, team, name string, body *api.TokenRotation) (api.NewToken, error) {
	var overlap time.Duration
	if body.Overlap != nil {
		overlap = time.Duration(*body.Overlap) * time.Second
	}
	t, secret, err := h.People.RotateToken(ctx, callOf(ctx).actor, user, team, name, overlap)
	if err != nil {
		return api.NewToken{}, err
	}
	return api.NewToken{Token: tokenOf(t), Secret: secret}, nil
}

func tokenName(t metadata.Token) string { return t.Name }

// ListTokens lists a user's personal tokens.
func (h *Admin) ListTokens(ctx context.Context, r api.ListTokensRequestObject) (api.ListTokensResponseObject, error) {
	limit, after := bounds(r.Params.Limit, r.Params.After)
	tokens, err := h.People.Tokens(ctx, r.User, "", after, limit+1)
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
func (h *Admin) CreateToken(ctx context.Context, r api.CreateTokenRequestObject) (api.CreateTokenResponseObject, error) {
	kind := metadata.PersonalToken
	if r.Body.Kind != nil && *r.Body.Kind == api.TokenCreateKindDeploy {
		kind = metadata.DeployToken // which no user has
	}
	token, err := h.newToken(ctx, people.NewToken{Kind: kind, User: r.User}, r.Body)
	if err != nil {
		return nil, err
	}
	return api.CreateToken201JSONResponse(token), nil
}

// GetToken shows a personal token.
func (h *Admin) GetToken(ctx context.Context, r api.GetTokenRequestObject) (api.GetTokenResponseObject, error) {
	t, err := h.People.Token(ctx, r.User, "", r.Token)
	if err != nil {
		return nil, err
	}
	return api.GetToken200JSONResponse(tokenOf(t)), nil
}

// DeleteToken removes a personal token.
func (h *Admin) DeleteToken(ctx context.Context, r api.DeleteTokenRequestObject) (api.DeleteTokenResponseObject, error) {
	if err := h.People.DeleteToken(ctx, callOf(ctx).actor, r.User, "", r.Token); err != nil {
		return nil, err
	}
	return api.DeleteToken204Response{}, nil
}

// RotateToken gives a personal token a new secret.
func (h *Admin) RotateToken(ctx context.Context, r api.RotateTokenRequestObject) (api.RotateTokenResponseObject, error) {
	token, err := h.rotate(ctx, r.User, "", r.Token, r.Body)
	if err != nil {
		return nil, err
	}
	return api.RotateToken200JSONResponse(token), nil
}

// RotateRobot gives a robot a new secret.
func (h *Admin) RotateRobot(ctx context.Context, r api.RotateRobotRequestObject) (api.RotateRobotResponseObject, error) {
	token, err := h.rotate(ctx, "", r.Team, r.Token, r.Body)
	if err != nil {
		return nil, err
	}
	return api.RotateRobot200JSONResponse(token), nil
}

// ListRobots lists a team's robots.
func (h *Admin) ListRobots(ctx context.Context, r api.ListRobotsRequestObject) (api.ListRobotsResponseObject, error) {
	limit, after := bounds(r.Params.Limit, r.Params.After)
	tokens, err := h.People.Tokens(ctx, "", r.Team, after, limit+1)
	if err != nil {
		return nil, err
	}
	tokens, next, link := page(ctx, tokens, limit, tokenName)
	return api.ListRobots200JSONResponse{
		Body:    api.TokenList{Items: each(tokens, tokenOf), Next: next},
		Headers: api.ListRobots200ResponseHeaders{Link: link},
	}, nil
}

// CreateRobot makes a robot or a deploy token of a team.
func (h *Admin) CreateRobot(ctx context.Context, r api.CreateRobotRequestObject) (api.CreateRobotResponseObject, error) {
	kind := metadata.RobotToken
	if r.Body.Kind != nil {
		kind = string(*r.Body.Kind)
	}
	token, err := h.newToken(ctx, people.NewToken{Kind: kind, Team: r.Team}, r.Body)
	if err != nil {
		return nil, err
	}
	return api.CreateRobot201JSONResponse(token), nil
}

// GetRobot shows a robot.
func (h *Admin) GetRobot(ctx context.Context, r api.GetRobotRequestObject) (api.GetRobotResponseObject, error) {
	t, err := h.People.Token(ctx, "", r.Team, r.Token)
	if err != nil {
		return nil, err
	}
	return api.GetRobot200JSONResponse(tokenOf(t)), nil
}

// DeleteRobot removes a robot.
func (h *Admin) DeleteRobot(ctx context.Context, r api.DeleteRobotRequestObject) (api.DeleteRobotResponseObject, error) {
	if err := h.People.DeleteToken(ctx, callOf(ctx).actor, "", r.Team, r.Token); err != nil {
		return nil, err
	}
	return api.DeleteRobot204Response{}, nil
}
