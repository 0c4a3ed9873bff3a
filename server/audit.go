package server

import (
	"errors"
	"net/http"

	"berth/auth"
	"berth/metadata"
	"berth/oci"
)

// What was refused goes into the audit log from here, the one place that sees the end
// of every request. What was done is recorded where it is done, in its transaction.

// routine are the refusals that belong to the protocol: the client is told to fetch a
// token, or another one, and does.
var routine = map[string]bool{"insufficient-scope": true, "token-expired": true}

// auditRefusal records a request that was refused, and why.
func (s *Server) auditRefusal(ex *exchange, r *http.Request) {
	var throttled *auth.ThrottledError
	e := metadata.Event{Actor: ex.Actor().Audit, Repository: ex.repository, Team: ex.deed.On.Team, Outcome: metadata.AuditRefused}
	signIn := false
	why := map[string]any{}
	switch {
	case s.audit == nil:
		return
	case ex.status == http.StatusTooManyRequests && errors.As(ex.cause, &throttled):
		signIn, why["rule"] = true, "throttled"
	case ex.status == http.StatusUnauthorized, ex.status == http.StatusForbidden:
		var refused *oci.Error
		if !errors.As(ex.cause, &refused) {
			return
		}
		if fields := facts(ex, refused); fields != nil {
			why["rule"] = fields["rule"]
			if missing, ok := fields["missing"]; ok {
				why["missing"] = missing
			}
		}
		why["message"] = shorten(auth.MaskSecrets(refused.Message))
	case r.Method == http.MethodDelete && errors.Is(ex.cause, oci.ErrTagImmutable):
		// Somebody who may delete met a seal, which nobody may break.
		why["rule"] = "tag-policy"
		var refused *oci.Error
		if errors.As(ex.cause, &refused) {
			why["message"] = shorten(auth.MaskSecrets(refused.Message))
		}
	default:
		return
	}
	rule, _ := why["rule"].(string)
	switch {
	case routine[rule]:
		return
	case ex.status == http.StatusUnauthorized && !ex.identity.known:
		signIn, e.Outcome = true, metadata.AuditFailed
		if rule == "token-network" {
			e.Outcome = metadata.AuditRefused // who it is, is known
		}
	case ex.status == http.StatusUnauthorized && !ex.identity.shown:
		return // asked without any credential, and was told how to get one
	}
	switch {
	case signIn:
		// The name that was tried; it may be anything.
		e.Kind, e.Actor.Name, e.Actor.Kind = metadata.SignedIn, ex.tried, ""
	case ex.deed.Operation != "":
		e.Kind = metadata.EventKind(ex.deed.Operation)
	case ex.endpoint != nil && ex.endpoint.need.Action() != 0:
		e.Kind = metadata.EventKind(ex.endpoint.need.Action().String())
	case ex.endpoint != nil:
		e.Kind = metadata.EventKind(ex.endpoint.name)
	}
	if signIn {
		e.Repository, e.Team = "", ""
	}
	e.Repository = auth.MaskSecrets(e.Repository)
	e.Detail = why
	s.audit(e, auth.Network(ex.remote))
}
