package serve

import (
	"context"

	"berth/server"
	"berth/server/dockit"
)

// newDockit makes the API that Dockit had.
func newDockit(_ context.Context, a *app) (part, error) {
	api := dockit.New(a.people)
	return part{serve: func(o *server.Options) { o.Doors = append(o.Doors, api) }}, nil
}
