package admin

import (
	"context"
	"slices"
	"strings"
	"time"

	"berth/api"
	"berth/auth"
	"berth/metadata"
	"berth/oci"
)

func trustPolicyOf(p metadata.TrustPolicy) api.TrustPolicy {
	out := api.TrustPolicy{
		Name: p.Name, Issuer: p.Issuer, Audience: p.Audience, Claims: p.Claims, Robot: p.Robot, Username: p.Team + "+" + p.Robot,
		Repositories: p.Repositories, Actions: actionsOf(p.Actions), MaxLife: int(p.MaxLife / time.Second),
		LastUsedAt: p.LastUsedAt, CreatedAt: p.CreatedAt, CreatedBy: p.CreatedBy, UpdatedAt: p.UpdatedAt,
	}
	if p.Tags != "" {
		out.Tags = &p.Tags
	}
	return out
}

// trustPolicyTag is the entity tag of a policy. That it was used is no change.
func trustPolicyTag(p metadata.TrustPolicy) *string {
	p.LastUsedAt = nil
	return etagOf(trustPolicyOf(p))
}

// checkTrustMatch is checkMatch for a policy.
func checkTrustMatch(header *api.IfMatch, p metadata.TrustPolicy) error {
	p.LastUsedAt = nil
	return checkMatch(header, trustPolicyOf(p))
}

// ListTrustIssuers lists the issuers of the settings and of the database.
func (h *handler) ListTrustIssuers(ctx context.Context, r api.ListTrustIssuersRequestObject) (api.ListTrustIssuersResponseObject, error) {
	limit, after := bounds(r.Params.Limit, r.Params.After)
	var issuers []metadata.TrustIssuer
	err := h.DB.View(ctx, func(tx *metadata.Tx) (err error) {
		issuers, err = tx.TrustIssuers(ctx, after, limit+1)
		return err
	})
	if err != nil {
		return nil, err
	}
	items := each(issuers, trustIssuerOf)
	for _, url := range h.TrustedIssuers {
		i := slices.IndexFunc(items, func(item api.TrustIssuer) bool { return item.Issuer == url })
		switch {
		case i >= 0:
			items[i].Setting = true
		case url > after:
			items = append(items, api.TrustIssuer{Issuer: url, Setting: true})
		}
	}
	slices.SortFunc(items, func(a, b api.TrustIssuer) int { return strings.Compare(a.Issuer, b.Issuer) })
	items, next, link := page(ctx, items, limit, func(i api.TrustIssuer) string { return i.Issuer })
	return api.ListTrustIssuers200JSONResponse{
		Body:    api.TrustIssuerList{Items: items, Next: next},
		Headers: api.ListTrustIssuers200ResponseHeaders{Link: link},
	}, nil
}

func trustIssuerOf(i metadata.TrustIssuer) api.TrustIssuer {
	return api.TrustIssuer{Issuer: i.URL, CreatedAt: &i.CreatedAt, CreatedBy: &i.CreatedBy}
}

// PutTrustIssuer lets an issuer in.
func (h *handler) PutTrustIssuer(ctx context.Context, r api.PutTrustIssuerRequestObject) (api.PutTrustIssuerResponseObject, error) {
	if err := auth.CheckIssuer(r.Issuer, false); err != nil {
		return nil, err
	}
	if err := mayGive(ctx, auth.Right{What: "trust in an issuer", Limit: auth.Everything()}); err != nil {
		return nil, err
	}
	var issuer metadata.TrustIssuer
	err := h.change(ctx, nil, func(tx *metadata.Tx) (err error) {
		issuer, err = tx.PutTrustIssuer(ctx, r.Issuer, callOf(ctx).principal.String())
		return err
	})
	if err != nil {
		return nil, err
	}
	shown := trustIssuerOf(issuer)
	shown.Setting = slices.Contains(h.TrustedIssuers, issuer.URL)
	return api.PutTrustIssuer200JSONResponse(shown), nil
}

// DeleteTrustIssuer removes an issuer that no policy names.
func (h *handler) DeleteTrustIssuer(ctx context.Context, r api.DeleteTrustIssuerRequestObject) (api.DeleteTrustIssuerResponseObject, error) {
	err := h.change(ctx, nil, func(tx *metadata.Tx) error { return tx.DeleteTrustIssuer(ctx, r.Issuer) })
	if err != nil {
		return nil, err
	}
	return api.DeleteTrustIssuer204Response{}, nil
}

// ListTrustPolicies lists the trust policies of a team.
func (h *handler) ListTrustPolicies(ctx context.Context, r api.ListTrustPoliciesRequestObject) (api.ListTrustPoliciesResponseObject, error) {
	limit, after := bounds(r.Params.Limit, r.Params.After)
	var policies []metadata.TrustPolicy
	err := h.DB.Snapshot(ctx, func(tx *metadata.Tx) (err error) {
		// Of a team that is not there, TrustPolicies gives an empty list.
		if _, err = tx.Team(ctx, r.Team); err != nil {
			return err
		}
		policies, err = tx.TrustPolicies(ctx, r.Team, after, limit+1)
		return err
	})
	if err != nil {
		return nil, err
	}
	policies, next, link := page(ctx, policies, limit, func(p metadata.TrustPolicy) string { return p.Name })
	return api.ListTrustPolicies200JSONResponse{
		Body:    api.TrustPolicyList{Items: each(policies, trustPolicyOf), Next: next},
		Headers: api.ListTrustPolicies200ResponseHeaders{Link: link},
	}, nil
}

// GetTrustPolicy shows a trust policy.
func (h *handler) GetTrustPolicy(ctx context.Context, r api.GetTrustPolicyRequestObject) (api.GetTrustPolicyResponseObject, error) {
	var p metadata.TrustPolicy
	err := h.DB.View(ctx, func(tx *metadata.Tx) (err error) {
		p, err = tx.TrustPolicy(ctx, r.Team, r.TrustPolicy)
		return err
	})
	if err != nil {
		return nil, err
	}
	return api.GetTrustPolicy200JSONResponse{Body: trustPolicyOf(p), Headers: api.GetTrustPolicy200ResponseHeaders{ETag: trustPolicyTag(p)}}, nil
}

// PutTrustPolicy makes or replaces a trust policy. Its issuer has to be one that
// an admin or the operator let in.
func (h *handler) PutTrustPolicy(ctx context.Context, r api.PutTrustPolicyRequestObject) (api.PutTrustPolicyResponseObject, error) {
	c := callOf(ctx)
	p, err := h.trustPolicy(c.principal, r.Team, r.TrustPolicy, r.Body)
	if err != nil {
		return nil, err
	}
	err = h.change(ctx, r.Body, func(tx *metadata.Tx) error {
		if !slices.Contains(h.TrustedIssuers, p.Issuer) {
			known, err := tx.HasTrustIssuer(ctx, p.Issuer)
			if err != nil {
				return err
			}
			if !known {
				return oci.Errorf(oci.CodeInvalid, "the issuer %s is none of those that trust policies may name: ask an administrator of this registry to add it (berth trust issuer add)", p.Issuer)
			}
		}
		// What signs in by it is a robot like others.
		actions, err := auth.ParseActions(p.Actions)
		if err != nil {
			return err
		}
		if err := mayGive(ctx, auth.Right{Limit: auth.Limit{Repositories: p.Repositories, Actions: actions, Tags: p.Tags}}); err != nil {
			return err
		}
		before, err := tx.LockTrustPolicy(ctx, p.Team, p.Name)
		switch {
		case err == nil:
			if err := checkTrustMatch(r.Params.IfMatch, before); err != nil {
				return err
			}
		case !isNotFound(err) || r.Params.IfMatch != nil:
			return err
		}
		p, _, err = tx.PutTrustPolicy(ctx, p)
		return err
	})
	if err != nil {
		return nil, err
	}
	return api.PutTrustPolicy200JSONResponse{Body: trustPolicyOf(p), Headers: api.PutTrustPolicy200ResponseHeaders{ETag: trustPolicyTag(p)}}, nil
}

// trustPolicy reads the body of a request.
func (h *handler) trustPolicy(by auth.Principal, team, name string, body *api.TrustPolicyChange) (metadata.TrustPolicy, error) {
	p := metadata.TrustPolicy{
		Team: team, Name: name, Issuer: body.Issuer, Audience: h.Service, Claims: body.Claims, Robot: name,
		Repositories: *body.Repositories, Tags: *body.Tags, MaxLife: time.Duration(*body.MaxLife) * time.Second, CreatedBy: by.String(),
	}
	if body.Audience != nil {
		p.Audience = *body.Audience
	}
	if body.Robot != nil {
		p.Robot = *body.Robot
	}
	if err := parseName("trust policy", name); err != nil {
		return p, err
	}
	if err := parseName("robot", p.Robot); err != nil {
		return p, err
	}
	if !repositoriesRE.MatchString(p.Repositories) {
		return p, oci.Errorf(oci.CodeInvalid, "the pattern %.140q cannot match a repository: use the characters of their names, '*' and '?'", p.Repositories)
	}
	if !tagsRE.MatchString(p.Tags) {
		return p, oci.Errorf(oci.CodeInvalid, "the pattern %.140q cannot match a tag: use the characters of tags, '*' and '?'", p.Tags)
	}
	actions, err := auth.ParseActions(each(body.Actions, func(a api.Action) string { return string(a) }))
	if err != nil {
		return p, err
	}
	p.Actions = actions.Names()
	return p, auth.CheckTrustPolicy(p)
}

// DeleteTrustPolicy removes a trust policy.
func (h *handler) DeleteTrustPolicy(ctx context.Context, r api.DeleteTrustPolicyRequestObject) (api.DeleteTrustPolicyResponseObject, error) {
	err := h.change(ctx, nil, func(tx *metadata.Tx) error {
		before, err := tx.LockTrustPolicy(ctx, r.Team, r.TrustPolicy)
		if err != nil {
			return err
		}
		if err := checkTrustMatch(r.Params.IfMatch, before); err != nil {
			return err
		}
		return tx.DeleteTrustPolicy(ctx, r.Team, r.TrustPolicy)
	})
	if err != nil {
		return nil, err
	}
	return api.DeleteTrustPolicy204Response{}, nil
}
