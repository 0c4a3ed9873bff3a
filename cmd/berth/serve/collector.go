package serve

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"berth/metadata"
)

// gcMetrics are the collector's counters, of what this replica has done.
type gcMetrics struct {
	deleted *prometheus.CounterVec
	freed   prometheus.Counter
	errors  prometheus.Counter
}

func newGCMetrics(reg prometheus.Registerer) *gcMetrics {
	m := &gcMetrics{
		deleted: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "berth_gc_deleted_total",
			Help: "What garbage collection and retention took away, by kind: tag (by retention), manifest, link (a repository's blob), blob, object or session (of the store).",
		}, []string{"kind"}),
		freed: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "berth_gc_freed_bytes_total",
			Help: "Bytes of collected blobs that were removed from the store.",
		}),
		errors: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "berth_gc_errors_total",
			Help: "Passes of garbage collection that failed, in whole or in part.",
		}),
	}
	for _, kind := range []string{metadata.CollectedTag, metadata.CollectedManifest, metadata.CollectedLink, metadata.CollectedBlob,
		metadata.GarbageObject, metadata.GarbageSession} {
		m.deleted.WithLabelValues(kind)
	}
	reg.MustRegister(m.deleted, m.freed, m.errors)
	return m
}

// collected counts; it is Options.Collected of the registry and of the collector.
func (m *gcMetrics) collected(kind string, n int, bytes int64) {
	m.deleted.WithLabelValues(kind).Add(float64(n))
	m.freed.Add(float64(bytes))
}

// counted makes a job count its failures.
func (m *gcMetrics) counted(run func(context.Context) (int, error)) func(context.Context) (int, error) {
	return func(ctx context.Context) (int, error) {
		n, err := run(ctx)
		if err != nil && ctx.Err() == nil {
			m.errors.Inc()
		}
		return n, err
	}
}

// How often the queues are looked at for Prometheus at most, and how long that may take.
const (
	queuesEvery   = 15 * time.Second
	queuesTimeout = 5 * time.Second
)

// queueCollector reads the collector's queues when Prometheus asks. They are
// the database's, so all replicas tell the same.
type queueCollector struct {
	queues         func(context.Context) ([]metadata.Queue, error)
	log            *slog.Logger
	length, oldest *prometheus.Desc

	mu   sync.Mutex
	read time.Time
	last []metadata.Queue
}

func newQueueCollector(queues func(context.Context) ([]metadata.Queue, error), log *slog.Logger) *queueCollector {
	return &queueCollector{
		queues: queues,
		log:    log,
		length: prometheus.NewDesc("berth_gc_queue_length",
			"Candidates for garbage collection: manifests, links and blobs that wait out the grace period, untagged manifests that the policy keeps, objects to be removed.",
			[]string{"queue"}, nil),
		oldest: prometheus.NewDesc("berth_gc_oldest_seconds", "Age of the oldest candidate.", []string{"queue"}, nil),
	}
}

// Describe implements [prometheus.Collector].
func (c *queueCollector) Describe(ch chan<- *prometheus.Desc) {
	ch <- c.length
	ch <- c.oldest
}

// Collect implements [prometheus.Collector]. While the database cannot be
// read there are no values, rather than old ones.
func (c *queueCollector) Collect(ch chan<- prometheus.Metric) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.read) > queuesEvery {
		ctx, cancel := context.WithTimeout(context.Background(), queuesTimeout)
		defer cancel()
		queues, err := c.queues(ctx)
		if err != nil {
			c.log.Warn("reading the queues of garbage collection for metrics", "error", err)
		}
		c.last, c.read = queues, time.Now()
	}
	for _, q := range c.last {
		ch <- prometheus.MustNewConstMetric(c.length, prometheus.GaugeValue, float64(q.Length), q.Name)
		ch <- prometheus.MustNewConstMetric(c.oldest, prometheus.GaugeValue, q.Oldest.Seconds(), q.Name)
	}
}
