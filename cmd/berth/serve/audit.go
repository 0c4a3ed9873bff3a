package serve

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"berth/audit"
	"berth/jobs"
	"berth/server"
)

// newAudit makes the log of who did what.
func newAudit(_ context.Context, a *app) (part, error) {
	dropped := prometheus.NewCounter(prometheus.CounterOpts{
		Name: "berth_audit_dropped_total",
		Help: "Refusals that are not in the audit log, because there were too many at a time, or the database was away.",
	})
	a.audit = audit.New(a.db, audit.Options{
		Retention: time.Duration(a.config.AuditRetention) * 24 * time.Hour,
		Dropped:   func(n int) { dropped.Add(float64(n)) },
		Logger:    a.log,
	})
	return part{
		metrics: []prometheus.Collector{dropped},
		serve:   func(o *server.Options) { o.Audit = a.audit.Record },
		loops:   []jobs.Loop{{Name: "prune-audit", Every: 10 * time.Minute, Run: a.audit.Prune}},
		run:     []func(context.Context){a.audit.Run},
	}, nil
}
