package serve

import (
	"context"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"berth/auth/token"
)

// keyFileInterval is how often the files of keys are looked at.
const keyFileInterval = 10 * time.Second

// keyFiles follows the files of the settings that bring keys. One that cannot be
// used is logged and counted, and the key that it brought before stays in force.
type keyFiles struct {
	keys   *token.Keys
	log    *slog.Logger
	failed prometheus.Gauge
}

func newKeyFiles(keys *token.Keys, reg prometheus.Registerer, log *slog.Logger) (*keyFiles, error) {
	f := &keyFiles{keys: keys, log: log, failed: prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "berth_signing_key_files_failed",
		Help: "1 when a file that brings a signing key could not be used at the last look, and the key before it is in force; else 0.",
	})}
	return f, reg.Register(f.failed)
}

// watch looks at the files every interval until the context ends.
func (f *keyFiles) watch(ctx context.Context, every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	said := ""
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		err := f.keys.LoadFiles(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err == nil:
			f.failed.Set(0)
			said = ""
		case err.Error() != said:
			said = err.Error()
			f.log.Error("a new signing key cannot be used, the old one stays", "error", err)
			fallthrough
		default:
			f.failed.Set(1)
		}
	}
}
