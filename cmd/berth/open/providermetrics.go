package open

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// ProviderMetrics count what outside providers said of those who signed in.
type ProviderMetrics struct {
	signIns *prometheus.CounterVec
	seconds *prometheus.HistogramVec
}

// NewProviderMetrics registers the metrics of providers.
func NewProviderMetrics(reg prometheus.Registerer) *ProviderMetrics {
	m := &ProviderMetrics{
		signIns: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "berth_provider_sign_ins_total",
			Help: "Credentials that an outside provider knows, by result: ok, wrong, refused, unavailable, or cached when it was not asked.",
		}, []string{"provider", "result"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "berth_provider_seconds", Help: "Time that asking an outside provider took, with all questions for one sign-in.",
			Buckets: []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
		}, []string{"provider"}),
	}
	reg.MustRegister(m.signIns, m.seconds)
	return m
}

// of gives what a provider reports its sign-ins to.
func (m *ProviderMetrics) of(provider string) func(result string, took time.Duration) {
	seconds := m.seconds.WithLabelValues(provider)
	return func(result string, took time.Duration) {
		m.signIns.WithLabelValues(provider, result).Inc()
		if result != "cached" {
			seconds.Observe(took.Seconds())
		}
	}
}
