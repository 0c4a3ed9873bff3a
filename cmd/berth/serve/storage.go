package serve

import (
	"context"
	"errors"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"berth/cmd/berth/open"
	"berth/metadata"
	"berth/oci"
	"berth/server"
	"berth/storage"
)

// readiness is what /readyz and /livez ask: whether pulls can be served, whether pushes can be
// taken, and what an operator has to look at.
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

// newDatabase opens the database and brings its schema up to date.
func newDatabase(ctx context.Context, a *app) (p part, err error) {
	if a.db, err = open.Database(ctx, a.config, a.log); err != nil {
		return part{}, err
	}
	gauge := func(name, help string, value func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value)
	}
	return part{
		metrics: []prometheus.Collector{
			gauge("berth_database_connections_open", "Open connections to the database.",
				func() float64 { return float64(a.db.Stats().OpenConnections) }),
			gauge("berth_database_connections_in_use", "Connections to the database in use.",
				func() float64 { return float64(a.db.Stats().InUse) }),
			gauge("berth_clock_skew_seconds", "How far this machine's clock is ahead of the database's; times are taken from the database.",
				func() float64 { return a.db.ClockSkew().Seconds() }),
		},
		serve: func(o *server.Options) { o.Clock = a.db.Now },
		close: a.db.Close,
	}, nil
}

// newStore opens the store of blobs.
func newStore(ctx context.Context, a *app) (p part, err error) {
	if a.store, err = open.Store(ctx, a.config, false, a.log, a.metrics); err != nil {
		return part{}, err
	}
	return part{serve: func(o *server.Options) {
		o.Ready = readiness(a.db, a.store)
		if a.config.StorageRedirect {
			o.RedirectTTL = a.config.RedirectTTL
		}
	}}, nil
}

// storeTimeout is how long the store may take for its first answer.
const storeTimeout = 15 * time.Second

// askStore warns when the store does not answer, such as one of wrong credentials: the
// server runs on, and what needs the store fails until it does.
func (a *app) askStore(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	if err := a.store.Ping(ctx); err != nil && !errors.Is(err, context.Canceled) {
		a.log.Warn("the store does not answer: pushes and pulls fail until it does; look at storage_url and its credentials", "error", err)
		return
	}
	if a.config.ReadOnly {
		return
	}
	if err := a.store.Writable(ctx); err != nil && !errors.Is(err, context.Canceled) {
		a.log.Warn("the store cannot be written to: pushes fail until it can; look at storage_url, the rights of its credentials and the room that is left", "error", err)
	}
}
