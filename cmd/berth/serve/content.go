package serve

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"berth/auth"
	"berth/cmd/berth/open"
	"berth/cmd/berth/settings"
	"berth/jobs"
	"berth/registry"
	"berth/registry/collect"
	"berth/server"
)

// newContent makes the registry, and what collects what it no longer needs.
func newContent(ctx context.Context, a *app) (part, error) {
	gc := newGCMetrics(a.metrics)
	o := open.RegistryOptions(a.config)
	o.Collected, o.Logger, o.Budget = gc.collected, a.log, a.config.SharedBudget()
	reg := registry.New(a.db, a.store, o)
	co := open.CollectorOptions(a.config)
	co.Collected, co.Logger = gc.collected, a.log
	collector := collect.New(a.db, a.store, co)
	if err := applyTagPolicy(ctx, reg, a.config); err != nil {
		return part{}, err
	}
	a.registry, a.collector = reg, collector
	retention := func(ctx context.Context) (int, error) { return reg.ApplyRetention(ctx, a.config.RetentionInterval) }
	return part{
		metrics: []prometheus.Collector{newQueueCollector(collector.Queues, a.log)},
		serve:   func(o *server.Options) { o.Registry = reg },
		loops: []jobs.Loop{
			{Name: "expire-uploads", Every: time.Minute, Run: collector.ExpireUploads},
			{Name: "collect-unreferenced", Every: 30 * time.Second, Run: gc.counted(collector.CollectUnreferenced)},
			{Name: "collect-garbage", Every: 30 * time.Second, Run: gc.counted(collector.CollectGarbage)},
			{Name: "fold-quotas", Every: 5 * time.Second, Run: reg.FoldQuotas},
			{Name: "retention", Every: time.Minute, Run: gc.counted(retention)},
		},
		ownLoops: []jobs.Loop{{Name: "record-pulls", Every: time.Minute, Run: reg.RecordPulls}},
		rest:     reg.Rest,
	}, nil
}

// applyTagPolicy gives the instance the policy of the settings, when somebody
// has set one; else what `berth instance set` last said stays in force.
func applyTagPolicy(ctx context.Context, r *registry.Registry, c *settings.Config) error {
	var mode string
	var exempt []string
	if c.Explicit["tag_policy"] {
		mode = c.TagPolicy
	}
	if c.Explicit["tag_exempt"] {
		exempt = append([]string{}, c.TagExempt...)
	}
	if mode == "" && exempt == nil {
		return nil
	}
	return r.ApplyTagPolicy(ctx, auth.Operator("berth settings"), mode, exempt)
}
