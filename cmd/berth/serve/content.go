package serve

import (
	"context"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"berth/cmd/berth/open"
	"berth/cmd/berth/settings"
	"berth/jobs"
	"berth/metadata"
	"berth/registry"
	"berth/server"
)

// newContent makes the registry, and collects what it no longer needs.
func newContent(ctx context.Context, a *app) (part, error) {
	if err := applyTagPolicy(ctx, a.db, a.config); err != nil {
		return part{}, err
	}
	gc := newGCMetrics(a.metrics)
	o := open.RegistryOptions(a.config)
	o.Collected, o.Logger, o.Budget = gc.collected, a.log, a.config.SharedBudget()
	reg := registry.New(a.db, a.store, o)
	a.registry = reg
	retention := func(ctx context.Context) (int, error) { return reg.ApplyRetention(ctx, a.config.RetentionInterval) }
	return part{
		metrics: []prometheus.Collector{newQueueCollector(reg.Queues, a.log)},
		serve:   func(o *server.Options) { o.Registry = reg },
		loops: []jobs.Loop{
			{Name: "expire-uploads", Every: time.Minute, Run: reg.ExpireUploads},
			{Name: "collect-unreferenced", Every: 30 * time.Second, Run: gc.counted(reg.CollectUnreferenced)},
			{Name: "collect-garbage", Every: 30 * time.Second, Run: gc.counted(reg.CollectGarbage)},
			{Name: "fold-quotas", Every: 5 * time.Second, Run: reg.FoldQuotas},
			{Name: "retention", Every: time.Minute, Run: gc.counted(retention)},
		},
		ownLoops: []jobs.Loop{{Name: "record-pulls", Every: time.Minute, Run: reg.RecordPulls}},
		rest:     reg.Rest,
	}, nil
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
