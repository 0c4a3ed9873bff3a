package serve

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"time"

	"berth/backup"
	"berth/cmd/berth/open"
	"berth/cmd/berth/settings"
	"berth/oci"
	"berth/registry/collect"
	"berth/storage"
)

// newChecks makes what compares the database with the store in the background.
func newChecks(_ context.Context, a *app) (part, error) {
	a.checks = collect.NewCheckJobs(a.collector)
	return part{close: func() error { a.checks.Close(); return nil }}, nil // it notes its end in the database
}

// newCopies makes backups, restores and migrations in the background.
func newCopies(_ context.Context, a *app) (part, error) {
	a.copies = copyJobs(a.config, a.version, backup.Side{DB: a.db, Store: a.store}, a.collector.DefaultRun().Grace, a.log)
	return part{close: func() error { a.copies.Close(); return nil }}, nil
}

// copyJobs makes what copies the registry in the background, to and from the places that the
// settings name.
func copyJobs(c *settings.Config, version string, from backup.Side, grace time.Duration, log *slog.Logger) *backup.Jobs {
	unset := func(format string, args ...any) error { return oci.Errorf(oci.CodeConflict, format, args...) }
	return backup.NewJobs(backup.JobsOptions{
		From: from, Grace: grace, Source: open.DescribeDatabase(c.DatabaseURL), Version: version, Logger: log,
		Place: func(ctx context.Context) (backup.Place, string, error) {
			if c.BackupURL == "" {
				return nil, "", unset("no backup_url is set: set it, or run berth backup or berth restore")
			}
			place, work, err := open.Place(ctx, c, c.BackupURL, "", log)
			if err != nil {
				err = unusable(oci.CodeUnavailable, "backup_url", err)
			}
			return place, work, err
		},
		Target: func(ctx context.Context) (side backup.Side, err error) {
			if c.TargetDatabaseURL == "" {
				return side, unset("no target_database_url and target_storage_url are set: set them to an empty database and a store, or run berth migrate-storage or berth restore")
			}
			const names = "target_database_url and target_storage_url"
			target, err := open.TargetOf(c, c.TargetDatabaseURL, c.TargetStorageURL)
			if err != nil {
				return side, unusable(oci.CodeConflict, names, err)
			}
			switch side, err = open.Target(ctx, target, log); {
			case errors.Is(err, backup.ErrInUse):
				err = unusable(oci.CodeConflict, names, err)
			case err != nil:
				err = unusable(oci.CodeUnavailable, names, err)
			}
			return side, err
		},
		Stores: func(ctx context.Context) (from, to storage.Store, err error) {
			if from, to, err = open.Stores(ctx, c, log); err != nil {
				err = unusable(oci.CodeConflict, "storage_fallback_url and storage_url", err)
			}
			return from, to, err
		},
	})
}

// unusable tells an admin which settings lead to a place that a job cannot work with, and why. The
// errors of databases and stores have no secrets.
func unusable(code oci.Code, settings string, err error) error {
	return oci.Errorf(code, "%s: %s", settings, strings.Join(strings.Fields(err.Error()), " "))
}
