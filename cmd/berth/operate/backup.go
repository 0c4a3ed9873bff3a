package operate

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"berth/api"
	"berth/api/reports"
	"berth/backup"
	"berth/cmd/berth/cli"
	"berth/cmd/berth/client"
	"berth/cmd/berth/open"
	"berth/cmd/berth/settings"
	"berth/oci"
)

// transferFlags are those of the commands that copy a registry, themselves or by a server.
type transferFlags struct {
	rate   string
	work   string
	output *cli.Choice
	server client.Remote
	job    jobFlags
}

func (f *transferFlags) add(c *cobra.Command, noun, workDefault string) {
	settings.AddFlags(c.Flags())
	c.Flags().StringVar(&f.rate, "rate", "0", "bytes to read per second at most, such as 64MiB; 0 for no limit")
	f.server.AddConnectFlags(c, "let this server do it, where its settings say")
	f.job.add(c, noun)
	if workDefault != "" {
		c.Flags().StringVar(&f.work, "work-dir", "", "private directory for databases while they are worked on (default "+workDefault+")")
		c.MarkFlagsMutuallyExclusive("server", "work-dir")
	}
	f.output = cli.OutputFlag(c)
}

// remote reports whether a server is to do it. Only the flag says so, since these commands work on
// databases: BERTH_SERVER is set for others.
func (f *transferFlags) remote() (bool, error) {
	if f.server.Server != "" {
		return true, nil
	}
	return false, f.job.local()
}

// parse gives the limit in bytes a second.
func (f *transferFlags) parse() (float64, error) {
	bytes, err := settings.ParseSize(f.rate)
	if err != nil || bytes < 0 {
		return 0, cli.Usagef("--rate has to be a size such as 64MiB, or 0 for no limit")
	}
	return float64(bytes), nil
}

// NewBackupCommand makes 'berth backup'.
func NewBackupCommand(version string) *cobra.Command {
	var flags transferFlags
	c := &cobra.Command{
		Use:   "backup [DEST]",
		Short: "Copy the registry to a directory or a bucket while it serves",
		Long: `Copy the registry to a directory or to s3://bucket/prefix, while servers, pushes and pulls go on: the rows as they
are at one moment, and all bytes that these need, each hashed on the way. What DEST has already is
not copied again, so the next backup to the same DEST copies only what is new, and one that was killed goes on.

The backup counts only when all of it is there; until then DEST keeps the one before. Objects are not
removed from the registry's store meanwhile. A backup holds password hashes and signing keys: keep it secret.

With --server and without DEST, that server makes the backup in the background, to the place that its setting backup_url names.
This command waits for its end, --status shows how far it is or how the last one ended, and --cancel ends it.

The exit code is 1, after a complete backup, when the registry itself has lost some bytes; berth check tells which.`,
		Example: `  berth backup /backup/berth
  berth backup /backup/berth --rate 50MiB
  berth backup --server https://registry.example.com
  berth backup --server https://registry.example.com --status
  berth backup 's3://backups/berth?region=eu-central-1' --database-url postgres://berth@db/berth --storage-url 's3://blobs'`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			rate, err := flags.parse()
			if err != nil {
				return err
			}
			remote, err := flags.remote()
			if err != nil {
				return err
			}
			if remote != (len(args) == 0) {
				return cli.Usagef("give either DEST or --server: a server makes its backups where its backup_url says")
			}
			if remote {
				return remoteCopy(cmd, &flags, backup.KindBackup, rate)
			}
			return runLocal(cmd, true, func(ctx context.Context, l *local) error {
				place, work, err := open.Place(ctx, l.config, args[0], flags.work, l.log)
				if err != nil {
					return err
				}
				p := cli.NewProgress(cmd, "backing up")
				defer p.End()
				m, report, err := backup.Run(ctx, backup.Side{DB: l.db, Store: l.store}, place, backup.Options{
					Work: work, Source: open.DescribeDatabase(l.config.DatabaseURL), Version: version, Rate: rate, Logger: l.log,
					Progress: showTransfer(p),
				})
				p.End()
				if err != nil {
					return err
				}
				return endCopy(cmd, flags.output, &backup.Job{Kind: backup.KindBackup, Transfer: &report, Manifest: &m})
			})
		},
	}
	flags.add(c, "backup", "work in the backup itself; for s3:// one in data_dir")
	return c
}

// NewRestoreCommand makes 'berth restore'.
func NewRestoreCommand() *cobra.Command {
	var flags transferFlags
	var verify bool
	c := &cobra.Command{
		Use:   "restore [SRC]",
		Short: "Make a registry of a backup, or verify one",
		Long: `Fill the configured database and store from a backup. The database has to be empty; its engine and the
kind of store need not be those of the registry that was backed up. Every byte is hashed on the way. One that
was killed is run again and goes on; no server starts on a database that is half restored.

With --verify nothing is restored and nothing is written to SRC: the backup is read from beginning to end, and it is
told whether each row's references, each blob and each manifest is there with the digest that it is named by.

With --server and without SRC, that server restores its backup, of its setting backup_url, in the background, into the database
and the store of target_database_url and target_storage_url; or verifies it. This command waits for the end, --status shows how far it is
or how the last one ended, and --cancel ends it.

The exit code is 1 when the backup lacks bytes, or the restored registry does.`,
		Example: `  berth restore /backup/berth
  berth restore /backup/berth --verify
  berth restore --server https://registry.example.com --verify
  berth restore 's3://backups/berth?region=eu-central-1' --database-url postgres://berth@db/berth --storage-url 's3://blobs'`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			rate, err := flags.parse()
			if err != nil {
				return err
			}
			remote, err := flags.remote()
			if err != nil {
				return err
			}
			if remote != (len(args) == 0) {
				return cli.Usagef("give either SRC or --server: a server restores the backup that its backup_url names")
			}
			kind := backup.KindRestore
			if verify {
				kind = backup.KindVerify
			}
			if remote {
				return remoteCopy(cmd, &flags, kind, rate)
			}
			c, err := settings.Load(cmd.Flags(), os.Environ())
			if err != nil {
				return err
			}
			log := open.Logger(c, cmd.ErrOrStderr())
			ctx := cmd.Context()
			if path, ok := strings.CutPrefix(args[0], "file:"); ok || !strings.HasPrefix(args[0], "s3://") {
				if _, err := os.Stat(path); err != nil {
					return fmt.Errorf("there is no backup at %s: %w", path, err)
				}
			}
			work := flags.work
			if work == "" { // the backup itself is only read
				if work, err = os.MkdirTemp("", "berth-restore-"); err != nil {
					return err
				}
				defer os.RemoveAll(work)
			}
			place, _, err := open.Place(ctx, c, args[0], work, log)
			if err != nil {
				return err
			}
			p := cli.NewProgress(cmd, map[bool]string{true: "verifying", false: "restoring"}[verify])
			defer p.End()
			o := backup.Options{Work: work, Rate: rate, Logger: log, Progress: showTransfer(p), CheckProgress: showCheck(p)}
			if verify {
				v, err := backup.Verify(ctx, place, o)
				p.End()
				if err != nil {
					return err
				}
				return endCopy(cmd, flags.output, &backup.Job{Kind: kind, Verified: &v})
			}
			if _, err := backup.ReadManifest(ctx, place); err != nil {
				return err // before anything is made in the target
			}
			return open.WithTarget(ctx, c, log, func(to backup.Side) error {
				m, report, err := backup.Restore(ctx, place, to, o)
				if err != nil {
					return err
				}
				check, err := backup.Compare(ctx, to, o)
				p.End()
				if err != nil {
					return err
				}
				return endCopy(cmd, flags.output, &backup.Job{Kind: kind, Transfer: &report, Manifest: &m, Check: &check})
			})
		},
	}
	flags.add(c, "restore", "a new one in $TMPDIR, which needs room for the database")
	c.Flags().BoolVar(&verify, "verify", false, "only read the backup, and say whether it is whole")
	return c
}

func transferLine(r api.TransferReport) string {
	rows := int64(0)
	for _, n := range r.Rows {
		rows += n
	}
	line := fmt.Sprintf("%s copied (%s)", cli.Count(int(r.Copied), "blob"), oci.ShowBytes(r.CopiedBytes))
	if rows > 0 {
		line = fmt.Sprintf("%s in %s, %s", cli.Count(int(rows), "row"), cli.Count(len(r.Rows), "table"), line)
	}
	if r.Present > 0 {
		line += fmt.Sprintf(", %s there already", cli.Count(int(r.Present), "blob"))
	}
	if r.Lost > 0 {
		line += fmt.Sprintf(", %s lost", cli.Count(int(r.Lost), "blob"))
	}
	return line
}

// showTransfer is what hears of a transfer for a bar.
func showTransfer(p *cli.Progress) func(backup.TransferReport) {
	return func(r backup.TransferReport) {
		r.Problems = nil // the line only counts them
		p.Show(r.Progress, transferLine(reports.TransferReport(r)))
	}
}
