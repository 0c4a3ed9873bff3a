package admin

import (
	"context"
	"encoding/json"
	"maps"
	"regexp"
	"slices"

	"berth/metadata"
)

// change runs a transaction that changes something, and writes the audit log in
// it: both are there afterwards, or neither. Every handler that changes
// something uses it in place of DB.Update. The event names the operation, what its
// path says, and the fields of body (the request's, or nil), with secrets masked.
func (h *handler) change(ctx context.Context, body any, fn func(*metadata.Tx) error) error {
	e := callOf(ctx).event(body)
	return h.DB.Update(ctx, func(tx *metadata.Tx) error {
		if err := fn(tx); err != nil {
			return err
		}
		return tx.InsertAudit(ctx, e)
	})
}

// event is what the audit log tells of a call.
func (c call) event(body any) metadata.AuditEvent {
	e := metadata.AuditEvent{Action: c.operation, Actor: c.actor, Team: c.params["team"], Repository: c.params["repository"], Detail: map[string]any{}}
	path := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(c.params)) {
		value := c.params[name]
		switch name {
		case "team", "repository":
		case "user", "group":
			// Of a member, a token or a grant, it is where that belongs.
			path[name] = value
			if e.Reference == "" {
				e.Reference = value
			}
		default:
			path[name] = value
			e.Reference = value
		}
	}
	if len(path) > 0 {
		e.Detail["path"] = path
	}
	if fields := fieldsOf(body); len(fields) > 0 {
		e.Detail["fields"] = fields
	}
	return e
}

// secretNames are the names of fields whose values no log may hold. It takes too
// many rather than too few.
var secretNames = regexp.MustCompile(`(?i)passw|secret|token$|private|key|pem|credential|hash`)

// masked stands for a secret.
const masked = "***"

// fieldsOf gives the fields of a request's body, with secrets masked.
func fieldsOf(body any) map[string]any {
	raw, err := json.Marshal(body)
	if err != nil {
		return nil
	}
	var fields map[string]any
	if json.Unmarshal(raw, &fields) != nil {
		return nil
	}
	mask(fields)
	return fields
}

func mask(v any) {
	switch v := v.(type) {
	case map[string]any:
		for name, value := range v {
			if secretNames.MatchString(name) {
				v[name] = masked
			} else {
				mask(value)
			}
		}
	case []any:
		for _, item := range v {
			mask(item)
		}
	}
}
