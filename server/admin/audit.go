package admin

import (
	"context"
	"time"

	"berth/api"
	"berth/metadata"
)

func auditEventOf(e metadata.AuditEvent) api.AuditEvent {
	shown := api.AuditEvent{
		Key: e.Key(), At: e.At, Action: e.Action, Outcome: api.AuditEventOutcome(e.Outcome), Principal: e.Actor.Name, Kind: text(e.Actor.Kind),
		Address: text(e.Actor.Address), RequestId: text(e.Actor.RequestID), UserAgent: text(e.Actor.UserAgent), Claims: provenance(e.Actor.Claims),
		Team: text(e.Team), Repository: text(e.Repository), Reference: text(e.Reference), Digest: text(e.Digest.String()), Count: e.Count,
	}
	if len(e.Detail) > 0 {
		shown.Detail = &e.Detail
	}
	return shown
}

// events reads a page of the audit log.
func (h *Admin) events(ctx context.Context, f metadata.AuditFilter, limit *api.Limit, after *api.After) (body api.AuditEventList, link *string, err error) {
	n, before := bounds(limit, after)
	f.Before, f.Limit = before, n+1
	events, err := h.Audit.Events(ctx, f)
	if err != nil {
		return body, nil, err
	}
	events, next, link := page(ctx, events, n, metadata.AuditEvent.Key)
	return api.AuditEventList{Items: each(events, auditEventOf), Next: next}, link, nil
}

// filterOf reads the parameters that both lists have.
func filterOf(principal, repository, action *string, outcome string, since, until *time.Time) metadata.AuditFilter {
	value := func(s *string) string {
		if s == nil {
			return ""
		}
		return *s
	}
	f := metadata.AuditFilter{Principal: value(principal), Repository: value(repository), Action: value(action), Outcome: outcome}
	if since != nil {
		f.Since = *since
	}
	if until != nil {
		f.Until = *until
	}
	return f
}

// ListAudit lists the audit log.
func (h *Admin) ListAudit(ctx context.Context, r api.ListAuditRequestObject) (api.ListAuditResponseObject, error) {
	q, outcome := r.Params, ""
	if q.Outcome != nil {
		outcome = string(*q.Outcome)
	}
	f := filterOf(q.Principal, q.Repository, q.Action, outcome, q.Since, q.Until)
	if q.Team != nil {
		f.Team = *q.Team
	}
	body, link, err := h.events(ctx, f, q.Limit, q.After)
	if err != nil {
		return nil, err
	}
	return api.ListAudit200JSONResponse{Body: body, Headers: api.ListAudit200ResponseHeaders{Link: link}}, nil
}

// ListTeamAudit lists what the audit log tells of a team.
func (h *Admin) ListTeamAudit(ctx context.Context, r api.ListTeamAuditRequestObject) (api.ListTeamAuditResponseObject, error) {
	q, outcome := r.Params, ""
	if q.Outcome != nil {
		outcome = string(*q.Outcome)
	}
	f := filterOf(q.Principal, q.Repository, q.Action, outcome, q.Since, q.Until)
	f.Team = r.Team
	body, link, err := h.events(ctx, f, q.Limit, q.After)
	if err != nil {
		return nil, err
	}
	return api.ListTeamAudit200JSONResponse{Body: body, Headers: api.ListTeamAudit200ResponseHeaders{Link: link}}, nil
}
