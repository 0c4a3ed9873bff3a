package server

import (
	"context"
	"fmt"
	"html"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sync/singleflight"
)

// Check is something that the server depends on.
type Check struct {
	// Name stands in the answer of /readyz, e.g. "database".
	Name string
	// Check says what is wrong, within the context's deadline.
	Check func(ctx context.Context) error
}

const (
	readyTimeout = 5 * time.Second
	// readyFor is how long an answer is repeated, so that asking often, as anybody
	// can, does not load the database and the store.
	readyFor = time.Second
)

// health asks the checks, once at a time.
type health struct {
	clock  func() time.Time
	checks []Check
	flight singleflight.Group

	mu   sync.Mutex
	last []checked
	at   time.Time
}

type checked struct {
	name string
	err  error
}

func newHealth(clock func() time.Time, checks []Check) *health {
	return &health{clock: clock, checks: checks}
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
			wg.Go(func() { results[i] = checked{c.Name, ping(ctx, c)} })
		}
		wg.Wait()
		h.mu.Lock()
		defer h.mu.Unlock()
		h.last, h.at = results, h.clock()
		return results, nil
	})
	return results.([]checked)
}

// ping returns at the deadline even when the check does not.
func ping(ctx context.Context, c Check) error {
	done := make(chan error, 1)
	go func() { done <- c.Check(ctx) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("no answer within %s: %w", readyTimeout, ctx.Err())
	}
}

// getLive says that the process runs. It asks nobody: a dependency that is
// down is no reason to restart.
func (s *Server) getLive(ex *exchange, r *http.Request) error {
	plain(ex, http.StatusOK, "ok\n")
	return nil
}

// getReady says whether the server can do its work, and what is missing. The
// reasons, which name hosts and paths, are in the log only.
func (s *Server) getReady(ex *exchange, r *http.Request) error {
	status := http.StatusOK
	var b strings.Builder
	for _, c := range s.health.ready(r.Context()) {
		word := "ok"
		if c.err != nil {
			status, word = http.StatusServiceUnavailable, "failed"
			s.log.Warn("not ready", slog.String("id", ex.id), slog.String("check", c.name), slog.String("error", c.err.Error()))
		}
		fmt.Fprintf(&b, "%s %s\n", c.name, word)
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
	return promhttp.HandlerFor(g, promhttp.HandlerOpts{MaxRequestsInFlight: 4})
}

// getRoot tells somebody who opens the address in a browser what it is.
func (s *Server) getRoot(ex *exchange, r *http.Request) error {
	ex.Header().Set("Vary", "Accept")
	if s.api != nil && !strings.Contains(r.Header.Get("Accept"), "text/html") {
		// d.ims.io sent everybody to its API. Programs find it so, people a start page.
		ex.Header().Set("Location", "/api/")
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
	h.Set("X-Content-Type-Options", "nosniff")
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

// serveAPI hands a request, which is authorized by now, to the management API.
func (s *Server) serveAPI(ex *exchange, r *http.Request) error {
	if s.api == nil {
		return errNoRoute(r)
	}
	s.api.ServeHTTP(ex, r)
	return nil
}
