package server

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"time"

	"berth/auth"
	"berth/oci"
)

// maxLogged bounds what a client's own text may take of a log line, in bytes.
const maxLogged = 256

// finish writes the request's one log line and counts it. A failure of ours is
// logged here, with its cause, and nowhere else.
//
// The line never holds a secret: neither headers nor the query are in it (a
// query carries tokens and, behind some proxies, signatures), and the
// presigned links that we redirect to are in no line at all. Tokens that somebody has put where they do not
// belong, such as into the path, are masked.
func (s *Server) finish(ex *exchange, r *http.Request) {
	status := ex.status
	if status == 0 {
		status = http.StatusOK // what net/http sends when a handler writes nothing
	}
	s.auditRefusal(ex, r)
	elapsed := s.clock().Sub(ex.start)
	var in int64
	if ex.body != nil {
		in = ex.body.n.Load()
	}
	name := "unknown"
	if ex.endpoint != nil {
		name = ex.endpoint.name
		ex.endpoint.metrics.observe(status, elapsed.Seconds(), in, ex.written)
	} else {
		s.metrics.handler(name, methodLabel(r.Method)).observe(status, elapsed.Seconds(), in, ex.written)
	}

	level := slog.LevelInfo
	if status >= http.StatusInternalServerError {
		level = slog.LevelError
	}
	switch {
	case ex.cause != nil && stopped(ex, ex.cause):
		level = slog.LevelWarn // the operator's own doing
	case name == healthRoute:
		level = slog.LevelInfo // health logs what it finds, once; probes ask every second
	}
	ctx := r.Context()
	if !s.log.Enabled(ctx, level) {
		return
	}
	attrs := make([]slog.Attr, 0, 16)
	attrs = append(attrs,
		slog.String("id", ex.id),
		slog.String("method", shorten(r.Method)),
		slog.String("route", name),
		slog.String("path", shorten(auth.MaskSecrets(ex.loggedPath(r.URL.Path)))),
		slog.Int("status", status),
		slog.String("principal", ex.principal().String()),
		slog.Int64("bytes_in", in),
		slog.Int64("bytes_out", ex.written),
		slog.Duration("duration", elapsed.Round(time.Microsecond)),
		slog.String("remote", ex.remote),
	)
	if ex.remote == unknownAddress {
		// Somebody has to look at the proxy's settings.
		attrs = append(attrs, slog.String("proxy", peerOf(r)),
			slog.String("forwarded_for", shorten(joined(r.Header, "X-Forwarded-For")+" "+joined(r.Header, "Forwarded"))))
	}
	if ex.repository != "" {
		attrs = append(attrs, slog.String("repository", auth.MaskSecrets(ex.repository)))
	}
	if ex.agent != "" {
		attrs = append(attrs, slog.String("user_agent", shorten(ex.agent)))
	}
	if ex.cause != nil {
		var e *oci.Error
		if status == statusClientGone || ex.aborted {
			errors.As(ex.cause, &e)
		} else {
			e = toError(ex, ex.cause) // as the client was told
		}
		if e != nil {
			attrs = append(attrs, slog.String("code", string(e.Code)))
		}
		attrs = append(attrs, slog.String("error", auth.MaskSecrets(ex.cause.Error())))
	}
	s.log.LogAttrs(context.WithoutCancel(ctx), level, "request", attrs...)
}

func shorten(s string) string {
	if len(s) > maxLogged {
		return s[:maxLogged] + "..."
	}
	return s
}

// loggedPath is a path without the secret that some door has in it.
func (ex *exchange) loggedPath(path string) string {
	if ex.face != nil && ex.face.LogPath != nil {
		return ex.face.LogPath(path)
	}
	return path
}
