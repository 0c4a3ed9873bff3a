package serve

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"

	"berth/auth"
	"berth/metadata"
	"berth/registry"
	"berth/registry/collect"
	"berth/storage/fs"
)

// What Prometheus is told is what is in the database and what was done.
func TestGCMetrics(t *testing.T) {
	ctx, dir := t.Context(), t.TempDir()
	db, err := metadata.Open(ctx, metadata.Options{URL: "sqlite:" + filepath.Join(dir, "berth.db")})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Migrate(ctx); err != nil {
		t.Fatal(err)
	}
	store, err := fs.New(filepath.Join(dir, "blobs"), fs.Options{})
	if err != nil {
		t.Fatal(err)
	}
	metrics := prometheus.NewRegistry()
	gc := newGCMetrics(metrics)
	r := registry.New(db, store, registry.Options{})
	collector := collect.New(db, store, collect.Options{Collected: gc.collected})
	queues := newQueueCollector(collector.Queues, slog.New(slog.DiscardHandler))
	metrics.MustRegister(queues)
	values := func() map[string]float64 {
		t.Helper()
		families, err := metrics.Gather()
		if err != nil {
			t.Fatal(err)
		}
		all := map[string]float64{}
		for _, f := range families {
			for _, m := range f.Metric {
				name := f.GetName()
				for _, l := range m.Label {
					name += " " + l.GetValue()
				}
				all[name] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
		return all
	}
	want := func(want map[string]float64) {
		t.Helper()
		got := values()
		for name, v := range want {
			if n, ok := got[name]; !ok || n != v {
				t.Errorf("%s is %v (there: %v), want %v", name, n, ok, v)
			}
		}
	}

	for _, data := range []string{"one", "three"} {
		u, err := r.StartUpload(ctx, auth.Operator("alice"), "team/app", digest.SHA256)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.CommitUpload(ctx, auth.Operator("alice"), "team/app", u.ID, digest.FromString(data), -1, int64(len(data)), strings.NewReader(data)); err != nil {
			t.Fatal(err)
		}
	}
	want(map[string]float64{"berth_gc_queue_length links": 2, "berth_gc_queue_length blobs": 0, "berth_gc_queue_length untagged": 0,
		"berth_gc_oldest_seconds blobs": 0, "berth_gc_deleted_total link": 0, "berth_gc_errors_total": 0})
	if _, err := collector.Collect(ctx, collect.Run{}); err != nil {
		t.Fatal(err)
	}
	queues.read = queues.read.Add(-queuesEvery) // as after that time
	want(map[string]float64{"berth_gc_queue_length links": 0, "berth_gc_queue_length objects": 0, "berth_gc_deleted_total link": 2,
		"berth_gc_deleted_total blob": 2, "berth_gc_deleted_total object": 2, "berth_gc_freed_bytes_total": 8})

	job := gc.counted(func(context.Context) (int, error) { return 0, errors.New("no") })
	if _, err := job(ctx); err == nil {
		t.Error("the failure is lost")
	}
	// Without a database there are no queues to tell of, rather than old ones.
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	queues.read = queues.read.Add(-queuesEvery)
	if v, ok := values()["berth_gc_queue_length links"]; ok {
		t.Errorf("links %v without a database", v)
	}
	want(map[string]float64{"berth_gc_errors_total": 1})
}
