package admin

import (
	"context"
	"net/netip"
	"net/url"
	"time"

	"berth/api"
	"berth/auth"
	"berth/oci"
)

func groundOf(g auth.Ground) api.Ground {
	shown := api.Ground{Rule: string(g.Rule), Actions: actionsOf(g.Actions)}
	shown.Team, shown.Group, shown.Pattern = text(g.Team), text(g.Group), text(g.Pattern)
	if g.Provider {
		shown.Provider = &g.Provider
	}
	return shown
}

// aboutOthers reports whether a question of explain is about somebody else than who asks,
// or about more than the credential in use: one's own tokens are one's own affair, but not a
// token's.
func aboutOthers(p auth.Principal, q url.Values) bool {
	name, token := q.Get("user"), q.Get("token")
	switch {
	case name == "" && token == "":
		return false
	case name == "":
		name = p.Name
	}
	return (name != p.String() || token != "") && (name != p.String() || p.Limit != nil)
}

// Explain says whether somebody may do something, and why.
func (h *Admin) Explain(ctx context.Context, r api.ExplainRequestObject) (api.ExplainResponseObject, error) {
	action, ok := auth.ParseAction(string(r.Params.Action))
	if !ok {
		return nil, oci.Errorf(oci.CodeInvalid, "there is no action %.40q: use pull, push, delete or admin", r.Params.Action)
	}
	if _, err := oci.ParseName(r.Params.Repository); err != nil {
		return nil, err
	}
	if r.Params.Tag != nil {
		if _, err := oci.ParseTag(*r.Params.Tag); err != nil {
			return nil, err
		}
	}
	q := auth.Question{Action: action, Repository: r.Params.Repository, Tag: valueOf(r.Params.Tag)}
	p := callOf(ctx).actor.Principal
	name, token := valueOf(r.Params.User), valueOf(r.Params.Token)
	var ended *time.Time
	if name != "" && name != p.String() || token != "" {
		if name == "" {
			name = p.Name
		}
		q.ShowTag = callOf(ctx).deed == auth.ExplainOthers
		var err error
		if p, ended, err = h.Policy.Named(ctx, name, token); err != nil {
			return nil, err
		}
		q.Anywhere = true
	}
	if r.Params.Address != nil {
		address, err := netip.ParseAddr(*r.Params.Address)
		if err != nil {
			return nil, oci.Errorf(oci.CodeInvalid, "the address %.70q is not one: write it as 192.0.2.7 or 2001:db8::7", *r.Params.Address)
		}
		p.RemoteAddr, q.Anywhere = address.String(), false
	}
	e, err := h.Policy.Ask(ctx, p, q)
	if err != nil {
		return nil, err
	}
	shown := api.Explanation{
		Allowed: e.Allowed, Principal: e.Principal, Action: r.Params.Action, Repository: e.Repository, Tag: r.Params.Tag,
		Rule: string(e.Rule), Message: e.Message(), Has: actionsOf(e.Has), Missing: actionsOf(e.Missing),
		Grounds: each(e.Grounds, groundOf), Conditions: e.Conditions,
	}
	if ended != nil {
		shown.Allowed, shown.Rule = false, string(auth.RuleExpired)
		shown.Message = "the token has ended on " + ended.UTC().Format(time.RFC3339) + " and opens nothing: make a new one"
		e.Ask = "make a new token"
	}
	shown.Ask, shown.Denial, shown.Reason = text(e.Ask), text(e.Denial), text(e.Reason)
	return api.Explain200JSONResponse(shown), nil
}

// WhoCan lists who may do something with a repository.
func (h *Admin) WhoCan(ctx context.Context, r api.WhoCanRequestObject) (api.WhoCanResponseObject, error) {
	action, ok := auth.ParseAction(string(r.Params.Action))
	if !ok {
		return nil, oci.Errorf(oci.CodeInvalid, "there is no action %.40q: use pull, push, delete or admin", r.Params.Action)
	}
	limit, after := bounds(r.Params.Limit, r.Params.After)
	holders, last, everyone, err := h.Policy.Holders(ctx, r.Params.Repository, action, after, limit)
	if err != nil {
		return nil, err
	}
	list := api.HolderList{Items: each(holders, func(o auth.Holder) api.Holder {
		kind := api.HolderKindUser
		if o.Robot {
			kind = api.HolderKindRobot
		}
		return api.Holder{Principal: o.Principal, Kind: kind, Grounds: each(o.Grounds, groundOf), Conditions: o.Conditions}
	})}
	if everyone != "" {
		list.Everyone = new(api.HolderListEveryone(everyone))
	}
	var link *string
	if last != "" {
		list.Next, link = nextPage(ctx, last)
	}
	return api.WhoCan200JSONResponse{Body: list, Headers: api.WhoCan200ResponseHeaders{Link: link}}, nil
}
