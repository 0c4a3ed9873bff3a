package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/spf13/cobra"

	"berth/backup"
	"berth/metadata"
	"berth/registry"
)

func newMigrateStorageCommand() *cobra.Command {
	var flags transferFlags
	var toDatabase, toStorage string
	var storageOnly bool
	c := &cobra.Command{
		Use:   "migrate-storage",
		Short: "Copy the registry to another database and store, to move there",
		Long: `Copy the registry to another database and another store, such as from SQLite and a directory to Postgres and
S3, or back. The registry that is configured goes on serving meanwhile. Run it again to copy what has
come since, and a last time while the servers run with --read-only; then start them on the new
database and store. docs/migrate-storage.md has the steps.

Every byte is hashed on the way. One that was killed is run again and goes on. Until servers have been started on it, the
target can be brought up to date again; after that it is a registry of its own and is not written to.

With --storage-only the database stays, and the objects move from storage_fallback_url to storage_url while servers
that have both settings go on, pushes too.`,
		Example: `  berth migrate-storage --to-database postgres://berth@db/berth --to-storage 's3://blobs?region=eu-central-1'
  berth migrate-storage --database-url postgres://berth@db/berth --storage-url s3://blobs \
    --to-database sqlite:/data/berth.db --to-storage file:/data/blobs --rate 100MiB
  berth migrate-storage --storage-only --storage-url s3://blobs --storage-fallback-url file:/data/blobs`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			rate, err := flags.parse()
			if err != nil {
				return err
			}
			if storageOnly {
				return relocate(cmd, flags.output, rate)
			}
			if toDatabase == "" || toStorage == "" {
				return usagef("--to-database and --to-storage are needed, or --storage-only")
			}
			if err := errors.Join(validDatabase(toDatabase), validStorage(toStorage)); err != nil {
				return usageError{err}
			}
			return runLocal(cmd, true, func(ctx context.Context, l *local) error {
				if toStorage == l.config.StorageURL || describeDatabase(toDatabase) == describeDatabase(l.config.DatabaseURL) {
					return usagef("the target has to be another database and another store: objects of two registries must not share a place")
				}
				target := *l.config
				target.DatabaseURL, target.StorageURL = toDatabase, toStorage
				return withTarget(ctx, &target, l.log, func(to registry.Side) error {
					report, err := registry.Transfer(ctx, registry.Side{DB: l.db, Store: l.store}, to, registry.TransferRun{
						Source: describeDatabase(l.config.DatabaseURL), Rate: rate, Logger: l.log, Progress: transferProgress(cmd),
					})
					if err != nil {
						return err
					}
					if err := printTransfer(cmd, flags.output, backup.Manifest{}, report, "copied"); err != nil {
						return err
					}
					return checkTarget(ctx, cmd, to, registryOptions(l.config))
				})
			})
		},
	}
	flags.add(c, "")
	c.Flags().StringVar(&toDatabase, "to-database", "", "database to fill, as database_url; it has to be empty, or filled by an earlier run")
	c.Flags().StringVar(&toStorage, "to-storage", "", "store to fill, as storage_url")
	c.Flags().BoolVar(&storageOnly, "storage-only", false, "move the objects from storage_fallback_url to storage_url; the database stays")
	for _, name := range []string{"to-database", "to-storage"} {
		c.MarkFlagsMutuallyExclusive("storage-only", name)
	}
	return c
}

// openTarget opens the database and the store of the settings to be filled. It
// migrates, and does not take the database into use as a server does.
func openTarget(ctx context.Context, c *config, log *slog.Logger) (registry.Side, error) {
	db, err := metadata.Open(ctx, metadata.Options{URL: c.DatabaseURL, MaxConns: 8, Logger: log})
	if err != nil {
		return registry.Side{}, fmt.Errorf("opening the target: %w", err)
	}
	if _, err = db.Migrate(ctx); err == nil {
		side := registry.Side{DB: db}
		if side.Store, _, err = openBareStore(ctx, c, c.StorageURL, log); err == nil {
			return side, nil
		}
	}
	return registry.Side{}, errors.Join(fmt.Errorf("opening the target: %w", err), db.Close())
}

// relocate moves the objects of the registry from its second store to its first.
func relocate(cmd *cobra.Command, output *choice, rate float64) error {
	return runLocal(cmd, false, func(ctx context.Context, l *local) error {
		c := l.config
		if c.StorageFallbackURL == "" || c.StorageFallbackURL == c.StorageURL {
			return usagef("--storage-only moves objects from storage_fallback_url to storage_url: set both, to different stores, here and for the servers")
		}
		from, _, err := openBareStore(ctx, c, c.StorageFallbackURL, l.log)
		if err != nil {
			return err
		}
		to, _, err := openBareStore(ctx, c, c.StorageURL, l.log)
		if err != nil {
			return err
		}
		report, err := l.registry.Relocate(ctx, from, to, registry.TransferRun{Rate: rate, Logger: l.log, Progress: transferProgress(cmd)})
		if err != nil {
			return err
		}
		return printTransfer(cmd, output, backup.Manifest{}, report, "moved")
	})
}
