package serve

import (
	"context"

	"berth/server"
	"berth/server/dims"
)

// newDims makes the API that d.ims.io had.
func newDims(_ context.Context, a *app) (part, error) {
	api, err := dims.New(dims.Options{Registry: a.registry, People: a.people, Policy: a.policy})
	return part{serve: func(o *server.Options) { o.Doors = append(o.Doors, api) }}, err
}
