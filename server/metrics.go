package server

import (
	"net/http"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are the server's own. The registry_http_ names are those of CNCF
// distribution, so that dashboards for it work. There is no label per
// repository or user: those are as many as clients care to make.
type metrics struct {
	requests     *prometheus.CounterVec
	duration     *prometheus.HistogramVec
	inFlight     prometheus.Gauge
	requestSize  *prometheus.HistogramVec
	responseSize *prometheus.HistogramVec
	signIns      *prometheus.CounterVec
	refusals     *prometheus.CounterVec
	tokens       prometheus.Counter
	panics       prometheus.Counter
	damage       prometheus.Counter
}

func newMetrics(r prometheus.Registerer) *metrics {
	sizes := prometheus.ExponentialBuckets(256, 8, 10) // 256 B to 32 GiB
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "registry_http_requests_total", Help: "HTTP requests that were answered, by handler, method and status code.",
		}, []string{"handler", "method", "code"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "registry_http_request_duration_seconds", Help: "Time from the request's header to the end of the answer.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300},
		}, []string{"handler", "method"}),
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "registry_http_in_flight_requests", Help: "HTTP requests that are being answered.",
		}),
		requestSize: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "registry_http_request_size_bytes", Help: "Size of the request bodies that were read.", Buckets: sizes,
		}, []string{"handler"}),
		responseSize: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "registry_http_response_size_bytes", Help: "Size of the response bodies that were written.", Buckets: sizes,
		}, []string{"handler"}),
		signIns: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "berth_sign_ins_total", Help: "Credentials that were checked, by result: ok, wrong, refused, throttled or unavailable.",
		}, []string{"result"}),
		refusals: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "berth_refusals_total", Help: "Requests that were refused for want of a right, by the action that was missing.",
		}, []string{"action"}),
		tokens: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "berth_tokens_issued_total", Help: "Bearer tokens that the token endpoint issued.",
		}),
		panics: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "berth_panics_total", Help: "Requests that ended in a programming error.",
		}),
		damage: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "berth_damaged_blobs_total", Help: "Answers that were cut because the store gave other bytes for a blob than were pushed.",
		}),
	}
	if r != nil {
		r.MustRegister(m.requests, m.duration, m.inFlight, m.requestSize, m.responseSize, m.signIns, m.refusals, m.tokens, m.panics, m.damage)
	}
	return m
}

// handlerMetrics are those of one handler and method, looked up once.
type handlerMetrics struct {
	requests     *prometheus.CounterVec
	duration     prometheus.Observer
	requestSize  prometheus.Observer
	responseSize prometheus.Observer
}

func (m *metrics) handler(name, method string) handlerMetrics {
	return handlerMetrics{
		requests:     m.requests.MustCurryWith(prometheus.Labels{"handler": name, "method": method}),
		duration:     m.duration.WithLabelValues(name, method),
		requestSize:  m.requestSize.WithLabelValues(name),
		responseSize: m.responseSize.WithLabelValues(name),
	}
}

func (h handlerMetrics) observe(status int, seconds float64, in, out int64) {
	h.requests.WithLabelValues(code(status)).Inc()
	h.duration.Observe(seconds)
	h.requestSize.Observe(float64(in))
	h.responseSize.Observe(float64(out))
}

// code gives a status as text, without making a new string each time.
func code(status int) string {
	switch status {
	case http.StatusOK:
		return "200"
	case http.StatusNotFound:
		return "404"
	case http.StatusCreated:
		return "201"
	case http.StatusAccepted:
		return "202"
	case http.StatusUnauthorized:
		return "401"
	}
	return strconv.Itoa(status)
}

// methodLabel keeps the methods that clients invent out of the labels.
func methodLabel(method string) string {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions:
		return method
	}
	return "other"
}
