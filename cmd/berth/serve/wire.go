package serve

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"log/slog"
	"net/http"
	"os"
	"runtime"
	"slices"

	"github.com/prometheus/client_golang/prometheus"

	"berth/audit"
	"berth/auth"
	"berth/auth/token"
	"berth/backup"
	"berth/cmd/berth/settings"
	"berth/jobs"
	"berth/metadata"
	"berth/people"
	"berth/registry"
	"berth/registry/collect"
	"berth/server"
	"berth/storage"
)

// part is a piece of the server. Every field may be left out.
type part struct {
	metrics  []prometheus.Collector
	serve    func(*server.Options)   // what it gives to the HTTP server: its routes, and what requests need of it
	loops    []jobs.Loop             // by one replica at a time; none while the registry is read-only
	ownLoops []jobs.Loop             // by each replica; none while the registry is read-only
	run      []func(context.Context) // each until the context ends
	rest     func()                  // lets go of memory that only makes the next requests faster
	close    func() error            // after all that it runs has ended; parts are closed in the reverse of their order
}

// parts makes the parts of the server, in this order. A new one is a file beside this one and a
// line here. It finds what those before it have made in the app.
func parts() []func(context.Context, *app) (part, error) {
	return []func(context.Context, *app) (part, error){
		newProcess, newDatabase, newStore, newKeys, newContent, newIdentities, newPeople, newChecks, newCopies, newAudit, newManagement, newDockit, newDims,
	}
}

// app is a running Berth without its listeners. Its fields are what parts use that others have
// made.
type app struct {
	version string
	config  *settings.Config
	log     *slog.Logger
	metrics *prometheus.Registry
	holder  string // this process's name in leases
	hasher  *auth.Hasher

	db        *metadata.DB
	store     storage.Store
	tokens    *token.Issuer
	registry  *registry.Registry
	collector *collect.Collector
	policy    *auth.Policy
	chain     *auth.Chain
	people    *people.People
	checks    *collect.CheckJobs
	copies    *backup.Jobs
	audit     *audit.Log

	parts  []part
	server *server.Server
}

// newApp makes everything from the settings. The caller closes it.
func newApp(ctx context.Context, c *settings.Config, version string, log *slog.Logger) (a *app, err error) {
	a = &app{config: c, version: version, log: log, metrics: prometheus.NewRegistry(), hasher: auth.NewHasher(runtime.GOMAXPROCS(0))}
	defer func() {
		if err != nil {
			err = errors.Join(err, a.close())
		}
	}()
	if a.holder, err = newHolder(); err != nil {
		return a, err
	}
	proxies, err := settings.Proxies(c.TrustProxy)
	if err != nil {
		return a, err
	}
	o := server.Options{
		Start:        "/api/",
		Challenge:    c.Challenge,
		URL:          c.URL,
		Service:      serviceName(c.URL),
		Proxies:      proxies,
		ReadOnly:     c.ReadOnly,
		StallTimeout: c.StallTimeout,
		Registerer:   a.metrics,
		Version:      version,
		Logger:       log,
	}
	if c.MetricsListen == "" {
		o.Gatherer = a.metrics
	}
	for _, make := range parts() {
		p, err := make(ctx, a)
		a.parts = append(a.parts, p)
		if err != nil {
			return a, err
		}
		for _, m := range p.metrics {
			if err := a.metrics.Register(m); err != nil {
				return a, err
			}
		}
		if p.serve != nil {
			p.serve(&o)
		}
	}
	a.server, err = server.New(o)
	return a, err
}

// newHolder names this process in leases.
func newHolder() (string, error) {
	id := make([]byte, 8)
	if _, err := rand.Read(id); err != nil {
		return "", err
	}
	host, err := os.Hostname()
	if err != nil {
		host = "unknown" // only for people who look at the leases
	}
	return host + "-" + hex.EncodeToString(id), nil
}

// work is all that runs in the background beside requests, each until the context ends.
func (a *app) work() (all []func(context.Context)) {
	var leased, own []jobs.Loop
	for _, p := range a.parts {
		all = append(all, p.run...)
		leased, own = append(leased, p.loops...), append(own, p.ownLoops...)
	}
	if a.config.ReadOnly {
		return all // they would change something
	}
	return append(all,
		func(ctx context.Context) { jobs.RunLeased(ctx, a.db, a.holder, a.log, leased) },
		func(ctx context.Context) { jobs.RunOwn(ctx, a.log, own) })
}

// rest lets go of memory that only makes the next requests faster. Small things that live
// long, such as known tokens, also keep the heap's memory around them from going back.
func (a *app) rest(ctx context.Context) error {
	for _, p := range a.parts {
		if p.rest != nil {
			p.rest()
		}
	}
	return a.db.Rest(ctx)
}

func (a *app) close() (err error) {
	for _, p := range slices.Backward(a.parts) {
		if p.close != nil {
			err = errors.Join(err, p.close())
		}
	}
	return err
}

// metricsHandler serves /metrics alone, for the separate address.
func (a *app) metricsHandler() http.Handler { return server.MetricsHandler(a.metrics) }
