package operate

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"berth/backup"
	"berth/cmd/berth/cli"
	"berth/cmd/berth/open"
	"berth/cmd/berth/settings"
)

// NewMigrateStorageCommand makes 'berth migrate-storage'.
func NewMigrateStorageCommand() *cobra.Command {
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
that have both settings go on, pushes too.

With --server and without a target, that server does it in the background: it copies itself to its settings target_database_url and
target_storage_url, or with --storage-only moves its objects. This command waits for the end, --status shows how far it is or
how the last one ended, and --cancel ends it.

The exit code is 1 when the registry itself has lost some bytes, or the target lacks any.`,
		Example: `  berth migrate-storage --to-database postgres://berth@db/berth --to-storage 's3://blobs?region=eu-central-1'
  berth migrate-storage --database-url postgres://berth@db/berth --storage-url s3://blobs \
    --to-database sqlite:/data/berth.db --to-storage file:/data/blobs --rate 100MiB
  berth migrate-storage --storage-only --storage-url s3://blobs --storage-fallback-url file:/data/blobs
  berth migrate-storage --server https://registry.example.com --rate 100MiB
  berth migrate-storage --server https://registry.example.com --status`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			rate, err := flags.parse()
			if err != nil {
				return err
			}
			remote, err := flags.remote()
			if err != nil {
				return err
			}
			if remote && storageOnly {
				return remoteCopy(cmd, &flags, backup.KindStorage, rate)
			}
			if remote {
				return remoteCopy(cmd, &flags, backup.KindMigrate, rate)
			}
			if storageOnly {
				return relocate(cmd, flags.output, rate)
			}
			if toDatabase == "" || toStorage == "" {
				return cli.Usagef("--to-database and --to-storage are needed, or --storage-only, or --server")
			}
			if err := errors.Join(settings.ValidDatabase(toDatabase), settings.ValidStorage(toStorage)); err != nil {
				return cli.AsUsage(err)
			}
			return runLocal(cmd, true, func(ctx context.Context, l *local) error {
				target, err := open.TargetOf(l.config, toDatabase, toStorage)
				if err != nil {
					return cli.AsUsage(err)
				}
				return open.WithTarget(ctx, target, l.log, func(to backup.Side) error {
					p := cli.NewProgress(cmd, "copying")
					defer p.End()
					report, err := backup.Transfer(ctx, backup.Side{DB: l.db, Store: l.store}, to, backup.TransferRun{
						Source: open.DescribeDatabase(l.config.DatabaseURL), Rate: rate, Logger: l.log, Progress: showTransfer(p),
					})
					if err != nil {
						return err
					}
					check, err := backup.Compare(ctx, to, backup.Options{Logger: l.log, CheckProgress: showCheck(p)})
					p.End()
					if err != nil {
						return err
					}
					return endCopy(cmd, flags.output, &backup.Job{Kind: backup.KindMigrate, Transfer: &report, Check: &check})
				})
			})
		},
	}
	flags.add(c, "migration", "")
	c.Flags().StringVar(&toDatabase, "to-database", "", "database to fill, as database_url; it has to be empty, or filled by an earlier run")
	c.Flags().StringVar(&toStorage, "to-storage", "", "store to fill, as storage_url")
	c.Flags().BoolVar(&storageOnly, "storage-only", false, "move the objects from storage_fallback_url to storage_url; the database stays")
	for _, name := range []string{"to-database", "to-storage"} {
		c.MarkFlagsMutuallyExclusive("storage-only", name)
		c.MarkFlagsMutuallyExclusive("server", name)
	}
	return c
}

// relocate moves the objects of the registry from its second store to its first.
func relocate(cmd *cobra.Command, output *cli.Choice, rate float64) error {
	return runLocal(cmd, false, func(ctx context.Context, l *local) error {
		from, to, err := open.Stores(ctx, l.config, l.log)
		if err != nil {
			return cli.AsUsage(err)
		}
		p := cli.NewProgress(cmd, "moving")
		report, err := backup.Relocate(ctx, l.db, l.collector.DefaultRun().Grace, from, to, backup.TransferRun{Rate: rate, Logger: l.log, Progress: showTransfer(p)})
		p.End()
		if err != nil {
			return err
		}
		return endCopy(cmd, output, &backup.Job{Kind: backup.KindStorage, Transfer: &report})
	})
}
