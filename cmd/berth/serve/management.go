package serve

import (
	"context"

	"berth/server"
	"berth/server/admin"
)

// newManagement makes the management API.
func newManagement(_ context.Context, a *app) (part, error) {
	api, err := admin.New(admin.Options{
		Registry:       a.registry,
		Collector:      a.collector,
		Checks:         a.checks,
		Copies:         a.copies,
		Policy:         a.policy,
		Keys:           a.tokens.Keys(),
		People:         a.people,
		Audit:          a.audit,
		TrustedIssuers: a.config.OIDC.TrustedIssuers,
	})
	return part{serve: func(o *server.Options) { o.Doors = append(o.Doors, api) }}, err
}
