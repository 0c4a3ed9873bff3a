package serve

import (
	"context"
	"log/slog"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"berth/auth/token"
	"berth/jobs"
	"berth/server"
)

// newKeys makes what signs tokens.
func newKeys(ctx context.Context, a *app) (part, error) {
	c := a.config
	tokens, err := token.New(ctx, a.db, token.Options{TTL: c.TokenTTL, Clock: a.db.Now, Keys: token.KeyOptions{
		Algorithm: c.TokenAlgorithm, PublishDelay: c.KeyPublishDelay, CertificateLife: c.KeyCertificateLife,
		Files: slices.Concat(c.TokenKeyFile, c.ServiceKeyFiles), Logger: a.log,
	}})
	if err != nil {
		return part{}, err
	}
	a.tokens = tokens
	files, err := newKeyFiles(tokens.Keys(), a.metrics, a.log)
	if err != nil {
		return part{}, err
	}
	return part{
		serve: func(o *server.Options) { o.Tokens = tokens },
		loops: []jobs.Loop{{Name: "maintain-keys", Every: time.Minute, Run: tokens.Keys().Maintain}},
		run:   []func(context.Context){func(ctx context.Context) { files.watch(ctx, keyFileInterval) }},
		rest:  tokens.Rest,
	}, nil
}

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
