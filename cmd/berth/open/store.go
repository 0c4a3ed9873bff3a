package open

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"path/filepath"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"berth/backup"
	"berth/cmd/berth/cli"
	"berth/cmd/berth/settings"
	"berth/storage"
	"berth/storage/fs"
	"berth/storage/s3"
)

// Place opens where backups are kept: a directory, or s3://bucket/prefix.
// It gives the work directory, too.
func Place(ctx context.Context, c *settings.Config, where, work string, log *slog.Logger) (backup.Place, string, error) {
	if where == "" {
		return nil, "", cli.Usagef("the place of the backup is empty: give a directory, or s3://bucket/prefix")
	}
	address := where
	if !strings.HasPrefix(where, "s3://") {
		if strings.Contains(where, "://") && !strings.HasPrefix(where, "file:") {
			return nil, "", cli.Usagef("the place of the backup is %s: give a directory, or s3://bucket/prefix", where)
		}
		path, err := filepath.Abs(strings.TrimPrefix(where, "file:"))
		if err != nil {
			return nil, "", err
		}
		address = "file:" + path
		if work == "" {
			work = filepath.Join(path, "work")
		}
	}
	if address == c.StorageURL {
		return nil, "", cli.Usagef("%s is the registry's own store: give another place", where)
	}
	if work == "" {
		sum := sha256.Sum256([]byte(address))
		work = filepath.Join(c.DataDir, "backup-"+hex.EncodeToString(sum[:6]))
	}
	store, _, err := openBareStore(ctx, c, address, false, log)
	if err != nil {
		return nil, "", err
	}
	place, ok := store.(backup.Place)
	if !ok {
		return nil, "", fmt.Errorf("%s cannot keep backups", where)
	}
	return place, work, nil
}

// Stores opens the registry's second store and its first, between which objects move.
func Stores(ctx context.Context, c *settings.Config, log *slog.Logger) (from, to storage.Store, err error) {
	if c.StorageFallbackURL == "" || c.StorageFallbackURL == c.StorageURL {
		return nil, nil, errors.New("objects move from storage_fallback_url to storage_url: set both, to different stores, for all servers and here")
	}
	if from, _, err = openBareStore(ctx, c, c.StorageFallbackURL, true, log); err == nil {
		to, _, err = openBareStore(ctx, c, c.StorageURL, false, log)
	}
	return from, to, err
}

// describeStore names a store without what should not be in its URL.
func describeStore(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return "with a URL that cannot be read"
	}
	if u.Scheme != "s3" {
		return address
	}
	place := settings.MaskURLs("s3://" + u.Host + u.Path)
	if endpoint := u.Query().Get("endpoint"); endpoint != "" {
		place += " at " + settings.MaskURLs(endpoint)
	}
	return place
}

// openBareStore opens the store of a URL as it is in the settings. The directory of one that must
// exist is not made.
func openBareStore(ctx context.Context, c *settings.Config, url string, mustExist bool, log *slog.Logger) (store storage.Store, driver string, err error) {
	budget := c.SharedBudget()
	if path, ok := strings.CutPrefix(url, "file:"); ok {
		store, err = fs.New(path, fs.Options{Budget: budget, MustExist: mustExist})
		return store, "filesystem", err
	}
	conf, err := s3.ParseURL(url)
	if err != nil {
		return nil, "s3", err
	}
	if conf.PartSize == 0 || c.Explicit["storage_part_size"] {
		conf.PartSize = c.PartSize
	}
	conf.Budget = budget
	conf.Timeout = c.StorageTimeout
	conf.Logger = log
	store, err = s3.New(ctx, conf)
	return store, "s3", err
}

// Store opens the store of blobs and counts what it does.
func Store(ctx context.Context, c *settings.Config, mustExist bool, log *slog.Logger, reg prometheus.Registerer) (storage.Store, error) {
	// Of two stores the one that the objects move to may be still to be made.
	mustExist = mustExist && c.StorageFallbackURL == ""
	store, driver, err := openBareStore(ctx, c, c.StorageURL, mustExist, log)
	if err != nil {
		return nil, err
	}
	if c.StorageFallbackURL != "" {
		second, _, err := openBareStore(ctx, c, c.StorageFallbackURL, mustExist, log)
		if err != nil {
			return nil, fmt.Errorf("storage_fallback_url: %w", err)
		}
		store = storage.Fallback(store, second)
	}
	seconds := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "registry_storage_action_seconds",
		Help:    "Time that calls of the blob store took.",
		Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
	}, []string{"driver", "action"})
	failures := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "berth_storage_errors_total",
		Help: "Calls of the blob store that failed.",
	}, []string{"driver", "action"})
	if err := errors.Join(reg.Register(seconds), reg.Register(failures)); err != nil {
		return nil, err
	}
	return storage.Instrument(store, driver, func(ctx context.Context, action string, took float64, err error) {
		seconds.WithLabelValues(driver, action).Observe(took)
		var source *storage.SourceError
		if err != nil && !errors.Is(err, storage.ErrNotFound) && !errors.Is(ctx.Err(), context.Canceled) && !errors.As(err, &source) {
			failures.WithLabelValues(driver, action).Inc()
		}
	}), nil
}
