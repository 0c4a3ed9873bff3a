package serve

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"berth/audit"
	"berth/auth"
	"berth/auth/token"
	"berth/backup"
	"berth/cmd/berth/open"
	"berth/cmd/berth/settings"
	"berth/metadata"
	"berth/oci"
	"berth/people"
	"berth/registry"
	"berth/server"
	"berth/server/admin"
	"berth/server/dockit"
	"berth/storage"
)

// app is a running Berth without its listeners: the only place that knows all
// the parts.
type app struct {
	version  string
	config   *settings.Config
	log      *slog.Logger
	metrics  *prometheus.Registry
	db       *metadata.DB
	store    storage.Store
	registry *registry.Registry
	server   *server.Server
	tokens   *token.Issuer
	audit    *audit.Log
	jobs     []job
	checks   *registry.CheckJobs
	copies   *backup.Jobs
	ownJobs  []job // of this replica alone
	keyFiles *keyFiles
	holder   string // this process's name in leases
	closers  []io.Closer
	hasher   *auth.Hasher
	people   *people.People
}

// newApp makes everything from the settings. The caller closes it.
func newApp(ctx context.Context, c *settings.Config, version string, log *slog.Logger) (a *app, err error) {
	a = &app{config: c, version: version, log: log, metrics: prometheus.NewRegistry()}
	defer func() {
		if err != nil {
			err = errors.Join(err, a.close())
		}
	}()
	id := make([]byte, 8)
	if _, err := rand.Read(id); err != nil {
		return a, err
	}
	host, err := os.Hostname()
	if err != nil {
		host = "unknown" // only for people who look at the leases
	}
	a.holder = host + "-" + hex.EncodeToString(id)

	if a.db, err = open.Database(ctx, c, log); err != nil {
		return a, err
	}
	if a.store, err = open.Store(ctx, c, false, log, a.metrics); err != nil {
		return a, err
	}
	a.hasher = auth.NewHasher(runtime.GOMAXPROCS(0))
	if err := applyTagPolicy(ctx, a.db, c); err != nil {
		return a, err
	}
	tokens, err := token.New(ctx, a.db, token.Options{TTL: c.TokenTTL, Clock: a.db.Now, Keys: token.KeyOptions{
		Algorithm: c.TokenAlgorithm, PublishDelay: c.KeyPublishDelay, CertificateLife: c.KeyCertificateLife,
		Files: slices.Concat(c.TokenKeyFile, c.ServiceKeyFiles), Logger: log,
	}})
	if err != nil {
		return a, err
	}
	a.tokens = tokens
	if a.keyFiles, err = newKeyFiles(tokens.Keys(), a.metrics, log); err != nil {
		return a, err
	}
	gc := newGCMetrics(a.metrics)
	options := open.RegistryOptions(c)
	options.Collected, options.Logger, options.Budget = gc.collected, log, c.SharedBudget()
	reg := registry.New(a.db, a.store, options)
	a.registry = reg
	a.metrics.MustRegister(newQueueCollector(reg.Queues, log))
	openid, err := open.NewOIDC(c, a.db, log)
	if err != nil {
		return a, err
	}
	list, err := open.Authenticators(ctx, c, a.db, a.hasher, openid, log, open.NewProviderMetrics(a.metrics))
	if err != nil {
		return a, err
	}
	for _, l := range list {
		if closer, ok := l.(io.Closer); ok {
			a.closers = append(a.closers, closer)
		}
	}
	policy := auth.NewPolicy(a.db, auth.PolicyOptions{PublicRead: c.PublicRead, Clock: a.db.Now, Teams: open.TeamService(list), ExternalMaxAge: c.ExternalMaxAge})
	refresher := auth.NewRefresher(a.db, a.db.Now)
	refresher.External(c.ExternalMaxAge, auth.NewDirectory(a.db, log, a.db.Now), open.Recheckers(list)...)
	chain := auth.NewChain(nil, list...)
	a.checks = registry.NewCheckJobs(reg)
	a.copies = newCopies(c, version, registry.Side{DB: a.db, Store: a.store}, reg, log)
	a.people = people.New(people.Options{
		DB: a.db, Hasher: a.hasher, Passwords: chain, Keys: tokens.Keys(), Service: serviceName(c.URL), TrustedIssuers: c.OIDC.TrustedIssuers,
	})
	management, err := admin.New(admin.Options{
		ReadOnly:       readOnly(c),
		DB:             a.db,
		Registry:       reg,
		Checks:         a.checks,
		Copies:         a.copies,
		Policy:         policy,
		Keys:           tokens.Keys(),
		People:         a.people,
		SetRepository:  server.SetRepository,
		TrustedIssuers: c.OIDC.TrustedIssuers,
		SetOperation:   server.SetOperation,
		Principal:      server.PrincipalOf,
		Actor:          server.ActorOf,
		PageToken:      server.PageToken,
		WriteProblem:   server.WriteProblem,
	})
	if err != nil {
		return a, err
	}
	dockitAPI, err := dockit.New(dockit.Options{DB: a.db, People: a.people, Principal: server.PrincipalOf, Actor: server.ActorOf})
	if err != nil {
		return a, err
	}
	dropped := prometheus.NewCounter(prometheus.CounterOpts{
		Name: "berth_audit_dropped_total",
		Help: "Refusals that are not in the audit log, because there were too many at a time, or the database was away.",
	})
	a.metrics.MustRegister(dropped)
	a.audit = audit.New(a.db, audit.Options{
		Retention: time.Duration(c.AuditRetention) * 24 * time.Hour,
		Dropped:   func(n int) { dropped.Add(float64(n)) },
		Logger:    log,
	})
	a.collectors()
	trusted, err := settings.Proxies(c.TrustProxy)
	if err != nil {
		return a, err
	}
	o := server.Options{
		Registry:     reg,
		DB:           a.db,
		People:       a.people,
		Auth:         chain,
		Policy:       policy,
		Tokens:       tokens,
		Refresher:    refresher,
		Services:     findService(a.db),
		API:          management,
		Dockit:       dockitAPI,
		Challenge:    c.Challenge,
		URL:          c.URL,
		Service:      serviceName(c.URL),
		Proxies:      trusted,
		ReadOnly:     c.ReadOnly,
		StallTimeout: c.StallTimeout,
		Ready:        readiness(a.db, a.store),
		Registerer:   a.metrics,
		Audit:        a.audit.Record,
		Version:      version,
		Logger:       log,
		Clock:        a.db.Now,
	}
	if provider, ok := openid.SignIn(); ok {
		o.Provider = (*server.Provider)(&provider)
		o.Browsers, o.Sessions = openid, auth.NewWebSessions(a.db, c.OIDC.SessionTTL, a.db.Now)
		o.Sessions.External(c.ExternalMaxAge)
	}
	if c.StorageRedirect {
		o.RedirectTTL = c.RedirectTTL
	}
	if c.MetricsListen == "" {
		o.Gatherer = a.metrics
	}
	if a.server, err = server.New(o); err != nil {
		return a, err
	}
	if c.ReadOnly {
		return a, nil // the jobs would change something
	}
	a.jobs = []job{
		{"expire-uploads", time.Minute, reg.ExpireUploads},
		{"collect-unreferenced", 30 * time.Second, gc.counted(reg.CollectUnreferenced)},
		{"collect-garbage", 30 * time.Second, gc.counted(reg.CollectGarbage)},
		{"prune-audit", 10 * time.Minute, a.audit.Prune},
		{"prune-token-secrets", time.Hour, func(ctx context.Context) (int, error) { return pruneTokenSecrets(ctx, a.db) }},
		{"maintain-keys", time.Minute, tokens.Keys().Maintain},
		{"fold-quotas", 5 * time.Second, reg.FoldQuotas},
		{"retention", time.Minute, gc.counted(func(ctx context.Context) (int, error) { return reg.ApplyRetention(ctx, c.RetentionInterval) })},
	}
	a.ownJobs = []job{{"record-pulls", time.Minute, reg.RecordPulls}}
	return a, nil
}

// readOnly is what the management API answers to changes; nil lets them through.
func readOnly(c *settings.Config) error {
	if c.ReadOnly {
		return server.ErrReadOnly()
	}
	return nil
}

// newCopies makes what copies the registry in the background, to and from the places that the settings name.
func newCopies(c *settings.Config, version string, from registry.Side, reg *registry.Registry, log *slog.Logger) *backup.Jobs {
	unset := func(format string, args ...any) error { return oci.Errorf(oci.CodeConflict, format, args...) }
	return backup.NewJobs(backup.JobsOptions{
		From: from, Registry: reg, Source: open.DescribeDatabase(c.DatabaseURL), Version: version, Logger: log,
		Place: func(ctx context.Context) (backup.Place, string, error) {
			if c.BackupURL == "" {
				return nil, "", unset("no backup_url is set: set it, or run berth backup or berth restore")
			}
			place, work, err := open.Place(ctx, c, c.BackupURL, "", log)
			if err != nil {
				err = unusable(oci.CodeUnavailable, "backup_url", err)
			}
			return place, work, err
		},
		Target: func(ctx context.Context) (side registry.Side, err error) {
			if c.TargetDatabaseURL == "" {
				return side, unset("no target_database_url and target_storage_url are set: set them to an empty database and a store, or run berth migrate-storage or berth restore")
			}
			const names = "target_database_url and target_storage_url"
			target, err := open.TargetOf(c, c.TargetDatabaseURL, c.TargetStorageURL)
			if err != nil {
				return side, unusable(oci.CodeConflict, names, err)
			}
			switch side, err = open.Target(ctx, target, log); {
			case errors.Is(err, registry.ErrInUse):
				err = unusable(oci.CodeConflict, names, err)
			case err != nil:
				err = unusable(oci.CodeUnavailable, names, err)
			}
			return side, err
		},
		Stores: func(ctx context.Context) (from, to storage.Store, err error) {
			if from, to, err = open.Stores(ctx, c, log); err != nil {
				err = unusable(oci.CodeConflict, "storage_fallback_url and storage_url", err)
			}
			return from, to, err
		},
	})
}

// unusable tells an admin which settings lead to a place that a job cannot work with, and why. The
// errors of databases and stores have no secrets.
func unusable(code oci.Code, settings string, err error) error {
	return oci.Errorf(code, "%s: %s", settings, strings.Join(strings.Fields(err.Error()), " "))
}

// endedSecrets is how long the hash of a token's old secret is kept after its end, so
// that who still uses it is told that there is another one.
const endedSecrets = 30 * 24 * time.Hour

// rest lets go of memory that only makes the next requests faster. Small things that live
// long, such as known tokens, also keep the heap's memory around them from going back.
func (a *app) rest(ctx context.Context) error {
	a.tokens.Rest()
	a.registry.Rest()
	return a.db.Rest(ctx)
}

// pruneTokenSecrets forgets secrets of tokens that ended long ago, some hundreds at a time.
func pruneTokenSecrets(ctx context.Context, db *metadata.DB) (n int, err error) {
	err = db.UpdateRelaxed(ctx, func(tx *metadata.Tx) error {
		pruned, err := tx.PruneTokenSecrets(ctx, tx.Now().Add(-endedSecrets), 500)
		n = int(pruned)
		return err
	})
	return n, err
}

// findService gives the server the other registries that take our tokens.
func findService(db *metadata.DB) func(context.Context, string) (metadata.Service, error) {
	return func(ctx context.Context, name string) (found metadata.Service, err error) {
		err = db.View(ctx, func(tx *metadata.Tx) (err error) {
			found, err = tx.Service(ctx, name)
			return err
		})
		return found, err
	}
}

func (a *app) collectors() {
	connections := func(name, help string, value func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value)
	}
	a.metrics.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name:        "berth_build_info",
			Help:        "Constant 1, with the version of the program as a label.",
			ConstLabels: prometheus.Labels{"version": a.version},
		}, func() float64 { return 1 }),
		connections("berth_database_connections_open", "Open connections to the database.",
			func() float64 { return float64(a.db.Stats().OpenConnections) }),
		connections("berth_database_connections_in_use", "Connections to the database in use.",
			func() float64 { return float64(a.db.Stats().InUse) }),
		connections("berth_clock_skew_seconds", "How far this machine's clock is ahead of the database's; times are taken from the database.",
			func() float64 { return a.db.ClockSkew().Seconds() }),
	)
}

func (a *app) close() (err error) {
	// What runs in the background notes its end in the database.
	if a.checks != nil {
		a.checks.Close()
	}
	if a.copies != nil {
		a.copies.Close()
	}
	for _, c := range a.closers {
		err = errors.Join(err, c.Close())
	}
	if a.db == nil {
		return err
	}
	return errors.Join(err, a.db.Close())
}

// adminName is the user that the first start makes.
const adminName = "admin"

// firstStart makes the first user when there is none, and gives its password
// when it was made up here. When there are users, the setting of that password is ignored, and the log says so.
func firstStart(ctx context.Context, db *metadata.DB, hasher *auth.Hasher, c *settings.Config, log *slog.Logger) (string, error) {
	var has bool
	err := db.View(ctx, func(tx *metadata.Tx) (err error) {
		has, err = tx.HasUsers(ctx)
		return err
	})
	if err == nil && has && c.AdminPassword != "" {
		log.Info("the setting admin_password is ignored, for there are users already: it is the password of the first one only. " +
			"If the password of " + adminName + " is lost, set it with 'berth user password " + adminName + " --local'")
	}
	if err != nil || has {
		return "", err
	}
	password, made := c.AdminPassword, ""
	if password == "" {
		password = rand.Text()
		made = password
	}
	created, err := people.New(people.Options{DB: db, Hasher: hasher}).CreateFirstAdmin(ctx, auth.Operator("berth"), adminName, password)
	if err != nil || !created { // another replica was first
		return "", err
	}
	return made, nil
}

// applyTagPolicy gives the instance the policy of the settings, when somebody
// has set one; else what `berth instance set` last said stays in force.
func applyTagPolicy(ctx context.Context, db *metadata.DB, c *settings.Config) error {
	if !c.Explicit["tag_policy"] && !c.Explicit["tag_exempt"] {
		return nil
	}
	return db.Update(ctx, func(tx *metadata.Tx) error {
		now, err := tx.InstanceTagPolicy(ctx)
		if err != nil {
			return err
		}
		want := now
		if c.Explicit["tag_policy"] {
			want.Mode = c.TagPolicy
		}
		if c.Explicit["tag_exempt"] {
			want.Exempt = slices.Sorted(slices.Values(c.TagExempt))
		}
		if now.Mode == want.Mode && slices.Equal(now.Exempt, want.Exempt) {
			return nil
		}
		return tx.SetInstanceTagPolicy(ctx, want)
	})
}

// metricsHandler serves /metrics alone, for the separate address.
func (a *app) metricsHandler() http.Handler { return server.MetricsHandler(a.metrics) }
