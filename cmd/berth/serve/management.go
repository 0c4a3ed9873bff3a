package serve

import (
	"context"

	"berth/server"
	"berth/server/admin"
	"berth/server/dockit"
)

// newManagement makes the management API.
func newManagement(_ context.Context, a *app) (part, error) {
	var readOnly error // what changes are answered; nil lets them through
	if a.config.ReadOnly {
		readOnly = server.ErrReadOnly()
	}
	api, err := admin.New(admin.Options{
		ReadOnly:       readOnly,
		DB:             a.db,
		Registry:       a.registry,
		Checks:         a.checks,
		Copies:         a.copies,
		Policy:         a.policy,
		Keys:           a.tokens.Keys(),
		People:         a.people,
		SetRepository:  server.SetRepository,
		TrustedIssuers: a.config.OIDC.TrustedIssuers,
		SetOperation:   server.SetOperation,

		Actor:        server.ActorOf,
		PageToken:    server.PageToken,
		WriteProblem: server.WriteProblem,
	})
	return part{serve: func(o *server.Options) { o.API = api }}, err
}

// newDockit makes the API that Dockit had.
func newDockit(_ context.Context, a *app) (part, error) {
	api, err := dockit.New(dockit.Options{DB: a.db, People: a.people, Actor: server.ActorOf})
	return part{serve: func(o *server.Options) { o.Dockit = api }}, err
}
