package open

import (
	"io"
	"log/slog"
	"time"

	"berth/cmd/berth/settings"
)

// Logger writes the log as the settings say.
func Logger(c *settings.Config, w io.Writer) *slog.Logger {
	var level slog.Level
	// The settings table allows only names that slog knows.
	if err := level.UnmarshalText([]byte(c.LogLevel)); err != nil {
		level = slog.LevelInfo
	}
	opts := &slog.HandlerOptions{Level: level}
	if c.LogFormat == "json" {
		opts.ReplaceAttr = inMilliseconds
		return slog.New(slog.NewJSONHandler(w, opts))
	}
	return slog.New(slog.NewTextHandler(w, opts))
}

// inMilliseconds gives a duration a unit where machines read it: duration_ms, a number. As
// JSON it would be a bare number of nanoseconds.
func inMilliseconds(_ []string, a slog.Attr) slog.Attr {
	if a.Value.Kind() == slog.KindDuration {
		return slog.Float64(a.Key+"_ms", float64(a.Value.Duration())/float64(time.Millisecond))
	}
	return a
}
