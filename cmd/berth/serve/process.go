package serve

import (
	"context"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// newProcess is what Prometheus hears of the process itself.
func newProcess(_ context.Context, a *app) (part, error) {
	return part{metrics: []prometheus.Collector{
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name:        "berth_build_info",
			Help:        "Constant 1, with the version of the program as a label.",
			ConstLabels: prometheus.Labels{"version": a.version},
		}, func() float64 { return 1 }),
	}}, nil
}
