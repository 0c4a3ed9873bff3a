package server

import (
	"context"
	"errors"
	"fmt"
	"html"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sync/singleflight"

	"berth/oci"
)

// Check is something that the server depends on. Its functions are called once at a time, and
// return within the context's deadline.
type Check struct {
	// Name stands in the answer of /readyz, e.g. "database".
	Name string
	// Read says what keeps pulls from being served: /readyz fails. What a stranger may read of any of these
	// errors is the message of an *oci.Error; everything else is for the log.
	Read func(ctx context.Context) error
	// Write says what keeps pushes out while pulls go on. It takes nobody's traffic away: it is in the
	// log, in berth_can_write and in /readyz?verbose. nil is nothing.
	Write func(ctx context.Context) error
	// Warn says what an operator has to look at while reading and writing go on, such as a
	// clock that is off. It is in the log and in /readyz?verbose. nil is nothing.
	Warn func(ctx context.Context) error
	// Dead says that only a new process mends what is broken: /livez fails, and /readyz. It asks nobody,
	// and answers at once. nil is never.
	Dead func() error
}

const (
	readyTimeout = 5 * time.Second
	// readyFor is how long an answer is repeated, so that asking often, as anybody
	// can, does not load the database and the store.
	readyFor = time.Second
	// writableFor is that for Write when it found nothing: an object in a bucket costs money.
	writableFor = 5 * time.Second
)

// The columns of health: what a check found wrong, by what it is about.
const (
	reading = "read"
	writing = "write"
	warning = "warning"
)

// health asks the checks, once at a time.
type health struct {
	clock  func() time.Time
	log    *slog.Logger
	checks []Check
	flight singleflight.Group

	mu   sync.Mutex
	last []checked // of each check
	at   time.Time
}

// checked is what a check found at last; nil errors are in order.
type checked struct {
	name              string
	read, write, warn error
	wrote             time.Time // when write was asked
}

// newHealth registers what the checks find as metrics.
func newHealth(clock func() time.Time, log *slog.Logger, reg prometheus.Registerer, checks []Check) *health {
	h := &health{clock: clock, log: log, checks: checks}
	if reg != nil {
		reg.MustRegister(healthCollector{h})
	}
	return h
}

// ready gives the result of every check.
func (h *health) ready(ctx context.Context) []checked {
	h.mu.Lock()
	last, at := h.last, h.at
	h.mu.Unlock()
	if last != nil && h.clock().Sub(at) < readyFor {
		return last
	}
	results, _, _ := h.flight.Do("", func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), readyTimeout)
		defer cancel()
		results := make([]checked, len(h.checks))
		var wg sync.WaitGroup
		for i, c := range h.checks {
			before := checked{name: c.Name}
			if last != nil {
				before = last[i]
			}
			wg.Go(func() { results[i] = h.ask(ctx, c, before) })
		}
		wg.Wait()
		h.mu.Lock()
		defer h.mu.Unlock()
		h.last, h.at = results, h.clock()
		return results, nil
	})
	return results.([]checked)
}

// ask asks one check, and logs what is not as it was before.
func (h *health) ask(ctx context.Context, c Check, before checked) checked {
	now := checked{name: c.Name, write: before.write, wrote: before.wrote}
	var wg sync.WaitGroup
	wg.Go(func() { now.read = ping(ctx, c.Read) })
	wg.Go(func() { now.warn = ping(ctx, c.Warn) })
	if c.Write != nil && (before.write != nil || h.clock().Sub(before.wrote) >= writableFor) {
		wg.Go(func() { now.write, now.wrote = ping(ctx, c.Write), h.clock() })
	}
	wg.Wait()
	for _, part := range []struct {
		what, broken, mended string
		before, now          error
	}{
		{reading, "not ready: pulls and pushes fail", "ready again", before.read, now.read},
		{writing, "pushes fail, pulls go on", "pushes work again", before.write, now.write},
		{warning, "something needs a look", "what needed a look is in order again", before.warn, now.warn},
	} {
		switch {
		case part.now != nil && (part.before == nil || reason(part.before) != reason(part.now)):
			h.log.Warn(part.broken, slog.String("check", c.Name), slog.String("part", part.what), slog.String("error", part.now.Error()))
		case part.now == nil && part.before != nil:
			h.log.Info(part.mended, slog.String("check", c.Name), slog.String("part", part.what))
		}
	}
	return now
}

// ping returns at the deadline even when the check does not.
func ping(ctx context.Context, check func(context.Context) error) error {
	if check == nil {
		return nil
	}
	done := make(chan error, 1)
	go func() { done <- check(ctx) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("no answer within %s: %w", readyTimeout, ctx.Err())
	}
}

// dead gives the checks that only a new process mends, with what is broken.
func (h *health) dead() map[string]error {
	var dead map[string]error
	for _, c := range h.checks {
		if c.Dead == nil {
			continue
		}
		if err := c.Dead(); err != nil {
			if dead == nil {
				dead = map[string]error{}
			}
			dead[c.Name] = err
		}
	}
	return dead
}

// reason is what a stranger may read of an error of a check: neither hosts nor paths, so only the message
// of an *oci.Error, which is made for clients.
func reason(err error) string {
	var known *oci.Error
	switch {
	case errors.As(err, &known):
		return known.Message
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Sprintf("no answer within %s", readyTimeout)
	}
	return "the log has the reason"
}

// healthCollector gives what the checks find as metrics, asking them when Prometheus does.
type healthCollector struct{ *health }

var (
	canRead = prometheus.NewDesc("berth_can_read",
		"1 when pulls can be served, as far as the part (database, storage) matters; /readyz is 503 when one is 0.", []string{"part"}, nil)
	canWrite = prometheus.NewDesc("berth_can_write",
		"1 when pushes can be taken, as far as the part matters; /readyz stays 200 when it is 0, and /readyz?verbose says why.", []string{"part"}, nil)
)

func (c healthCollector) Describe(ch chan<- *prometheus.Desc) { ch <- canRead; ch <- canWrite }

func (c healthCollector) Collect(ch chan<- prometheus.Metric) {
	value := func(errs ...error) float64 {
		if errors.Join(errs...) == nil {
			return 1
		}
		return 0
	}
	dead := c.dead()
	for _, part := range c.ready(context.Background()) {
		ch <- prometheus.MustNewConstMetric(canRead, prometheus.GaugeValue, value(part.read, dead[part.name]), part.name)
		ch <- prometheus.MustNewConstMetric(canWrite, prometheus.GaugeValue, value(part.read, part.write, dead[part.name]), part.name)
	}
}

// getLive says that the process runs. It asks nobody: a dependency that is
// down needs no restart. It fails when only that helps.
func (s *Server) getLive(ex *exchange, r *http.Request) error {
	if dead := s.health.dead(); len(dead) > 0 {
		var b strings.Builder
		for _, name := range slices.Sorted(maps.Keys(dead)) {
			fmt.Fprintf(&b, "%s failed: %s\n", name, reason(dead[name]))
		}
		plain(ex, http.StatusServiceUnavailable, b.String()+"this process has to be started anew\n")
		return nil
	}
	plain(ex, http.StatusOK, "ok\n")
	return nil
}

// getReady says whether the server can serve pulls, and with ?verbose also what keeps pushes out, and why.
// That pushes fail does not make it fail: all replicas share a full store, and a balancer would take the pulls away from all
// of them. The errors themselves, which name hosts and paths, are in the log only.
func (s *Server) getReady(ex *exchange, r *http.Request) error {
	_, verbose := r.URL.Query()["verbose"]
	status := http.StatusOK
	var b strings.Builder
	line := func(name, what string, err error) {
		switch {
		case err == nil:
			fmt.Fprintf(&b, "%s%s ok\n", name, what)
		case verbose:
			fmt.Fprintf(&b, "%s%s failed: %s\n", name, what, reason(err))
		default:
			fmt.Fprintf(&b, "%s%s failed\n", name, what)
		}
	}
	dead := s.health.dead()
	for _, c := range s.health.ready(r.Context()) {
		if c.read == nil {
			c.read = dead[c.name]
		}
		if c.read != nil {
			status = http.StatusServiceUnavailable
		}
		if !verbose {
			line(c.name, "", c.read)
			continue
		}
		line(c.name, " "+reading, c.read)
		switch {
		case s.readOnly:
			fmt.Fprintf(&b, "%s %s off: read_only is set\n", c.name, writing)
		case c.read != nil:
			fmt.Fprintf(&b, "%s %s failed\n", c.name, writing)
		default:
			line(c.name, " "+writing, c.write)
		}
		if c.warn != nil {
			fmt.Fprintf(&b, "%s %s: %s\n", c.name, warning, reason(c.warn))
		}
	}
	if s.draining.Load() {
		status = http.StatusServiceUnavailable
		b.WriteString("stopping\n")
	}
	if status == http.StatusOK {
		b.WriteString("ready\n")
	}
	plain(ex, status, b.String())
	return nil
}

func plain(ex *exchange, status int, text string) {
	ex.Header().Set("Content-Type", "text/plain; charset=utf-8")
	ex.Header().Set("Cache-Control", "no-store")
	ex.WriteHeader(status)
	_, _ = ex.Write([]byte(text))
}

func (s *Server) getMetrics(ex *exchange, r *http.Request) error {
	if s.gatherer == nil {
		return errNoRoute(r)
	}
	MetricsHandler(s.gatherer).ServeHTTP(ex, r)
	return nil
}

// MetricsHandler serves a gatherer's metrics on any path, for those who give
// Prometheus an address of its own.
func MetricsHandler(g prometheus.Gatherer) http.Handler {
	h := promhttp.HandlerFor(g, promhttp.HandlerOpts{MaxRequestsInFlight: 4})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		setInert(w.Header())
		h.ServeHTTP(w, r)
	})
}

// getRoot tells somebody who opens the address in a browser what it is.
func (s *Server) getRoot(ex *exchange, r *http.Request) error {
	ex.Header().Set("Vary", "Accept")
	if s.start != "" && !strings.Contains(r.Header.Get("Accept"), "text/html") {
		// d.ims.io sent everybody to its API. Programs find it so, people a start page.
		ex.Header().Set("Location", s.start)
		ex.WriteHeader(http.StatusFound)
		return nil
	}
	base := s.baseURL(r)
	_, host, _ := strings.Cut(base, "://")
	page := strings.NewReplacer(
		"{version}", html.EscapeString(s.version),
		"{host}", html.EscapeString(host),
	).Replace(rootPage)
	h := ex.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'")
	ex.WriteHeader(http.StatusOK)
	_, _ = ex.Write([]byte(page))
	return nil
}

const rootPage = `<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Berth</title>
<style>body{font:16px/1.5 system-ui,sans-serif;max-width:40em;margin:4em auto;padding:0 1em}pre{background:#f3f3f3;padding:1em;overflow:auto}</style>
<h1>Berth {version}</h1>
<p>This is a registry for container images and other OCI artifacts. Use it with docker, podman, or any client that speaks the OCI distribution protocol:</p>
<pre>docker login {host}
docker tag IMAGE {host}/TEAM/NAME:TAG
docker push {host}/TEAM/NAME:TAG
docker pull {host}/TEAM/NAME:TAG</pre>
<p>The first part of a name is your team. Ask a maintainer of the team, or an administrator of this registry, for access.</p>
<p>Programs manage it by <a href="/api/">its API</a>.</p>
</html>
`
