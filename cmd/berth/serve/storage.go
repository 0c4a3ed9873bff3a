package serve

import (
	"context"
	"errors"
	"syscall"

	"berth/metadata"
	"berth/oci"
	"berth/server"
	"berth/storage"
)

// readiness is what /readyz and /livez ask: whether pulls can be served, whether pushes can be taken, and what an
// operator has to look at.
func readiness(db *metadata.DB, store storage.Store) []server.Check {
	return []server.Check{
		{Name: "database", Read: db.Ping, Write: db.Writable, Warn: db.ClockOff, Dead: db.Dead},
		{Name: "storage", Read: store.Ping, Write: func(ctx context.Context) error { return storeReason(store.Writable(ctx)) }},
	}
}

// storeReason adds what a stranger may know of a store that takes nothing.
func storeReason(err error) error {
	switch {
	case err == nil:
		return nil
	case storage.Full(err):
		return oci.Errorf(oci.CodeUnavailable, "no room is left").WithCause(err)
	case errors.Is(err, syscall.EROFS):
		return oci.Errorf(oci.CodeUnavailable, "it is read-only").WithCause(err)
	}
	return err
}
