package main

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"berth/api"
	"berth/backup"
	"berth/registry"
)

// transferFlags are those of the commands that copy a registry.
type transferFlags struct {
	rate   string
	work   string
	output *choice
}

func (f *transferFlags) add(c *cobra.Command, workDefault string) {
	addFlags(c.Flags())
	c.Flags().StringVar(&f.rate, "rate", "0", "bytes to read per second at most, such as 64MiB; 0 for no limit")
	if workDefault != "" {
		c.Flags().StringVar(&f.work, "work-dir", "", "private directory for databases while they are worked on (default "+workDefault+")")
	}
	f.output = outputFlag(c)
}

// parse gives the limit in bytes a second.
func (f *transferFlags) parse() (float64, error) {
	bytes, err := parseSize(f.rate)
	if err != nil || bytes < 0 {
		return 0, usagef("--rate has to be a size such as 64MiB, or 0 for no limit")
	}
	return float64(bytes), nil
}

// openPlace opens where backups are kept: a directory, or s3://bucket/prefix.
// It gives the work directory, too.
func openPlace(ctx context.Context, c *config, where, work string, log *slog.Logger) (backup.Place, string, error) {
	if where == "" {
		return nil, "", usagef("the place of the backup is empty: give a directory, or s3://bucket/prefix")
	}
	address := where
	if !strings.HasPrefix(where, "s3://") {
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
		return nil, "", usagef("%s is the registry's own store: give another place", where)
	}
	if work == "" {
		sum := sha256.Sum256([]byte(address))
		work = filepath.Join(c.DataDir, "backup-"+hex.EncodeToString(sum[:6]))
	}
	store, _, err := openBareStore(ctx, c, address, log)
	if err != nil {
		return nil, "", err
	}
	place, ok := store.(backup.Place)
	if !ok {
		return nil, "", fmt.Errorf("%s cannot keep backups", where)
	}
	return place, work, nil
}

// describeDatabase names a database without its secrets.
func describeDatabase(address string) string {
	if path, ok := strings.CutPrefix(address, "sqlite:"); ok {
		if abs, err := filepath.Abs(path); err == nil {
			path = abs
		}
		return "sqlite:" + path
	}
	u, err := url.Parse(address)
	if err != nil {
		return "postgres"
	}
	return "postgres://" + u.Host + u.Path
}

func newBackupCommand() *cobra.Command {
	var flags transferFlags
	var server remote
	c := &cobra.Command{
		Use:   "backup [DEST]",
		Short: "Copy the registry to a directory or a bucket while it serves",
		Long: `Copy the registry to a directory or to s3://bucket/prefix, while servers, pushes and pulls go on: the rows as they
are at one moment, and all bytes that these need, each hashed on the way. What DEST has already is
not copied again, so the next backup to the same DEST copies only what is new, and one that was killed goes on.

The backup counts only when all of it is there; until then DEST keeps the one before. Objects are not
removed from the registry's store meanwhile. A backup holds password hashes and signing keys: keep it secret.

With --server and without DEST, that server makes the backup, to the place that its setting backup_url names, and
this command waits for the end.

The exit code is 1, after a complete backup, when the registry itself has lost some bytes; berth check tells which.`,
		Example: `  berth backup /backup/berth
  berth backup /backup/berth --rate 50MiB
  berth backup --server https://registry.example.com
  berth backup 's3://backups/berth?region=eu-central-1' --database-url postgres://berth@db/berth --storage-url 's3://blobs'`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			rate, err := flags.parse()
			if err != nil {
				return err
			}
			if (len(args) == 0) != (server.server != "") {
				return usagef("give either DEST or --server: a server makes its backups where its backup_url says")
			}
			if len(args) == 0 {
				return remoteBackup(cmd, &server, rate, flags.output)
			}
			return runLocal(cmd, true, func(ctx context.Context, l *local) error {
				place, work, err := openPlace(ctx, l.config, args[0], flags.work, l.log)
				if err != nil {
					return err
				}
				m, report, err := backup.Run(ctx, registry.Side{DB: l.db, Store: l.store}, place, backup.Options{
					Work: work, Source: describeDatabase(l.config.DatabaseURL), Version: version, Rate: rate, Logger: l.log,
					Progress: transferProgress(cmd),
				})
				if err != nil {
					return err
				}
				return printTransfer(cmd, flags.output, m, report, "backed up")
			})
		},
	}
	flags.add(c, "work in the backup itself; for s3:// one in data_dir")
	f := c.Flags()
	f.StringVar(&server.server, "server", "", "let this server make the backup, where its backup_url says")
	f.StringVarP(&server.username, "username", "u", "", "sign in at the server as this user (default $BERTH_USERNAME, else as docker login did)")
	f.BoolVar(&server.passwordStdin, "password-stdin", false, "read the password or token to sign in with from stdin")
	return c
}

// remoteBackup lets a server make a backup, and waits for the end. When it is interrupted the backup goes on.
func remoteBackup(cmd *cobra.Command, r *remote, rate float64, output *choice) error {
	s, err := r.connect(cmd)
	if err != nil {
		return err
	}
	ctx := cmd.Context()
	var body api.StartBackupJSONRequestBody
	if rate > 0 {
		bytes := int64(rate)
		body.Rate = &bytes
	}
	resp, err := s.StartBackupWithResponse(ctx, body)
	if err := check(resp, err); err != nil {
		return err
	}
	started, err := present(resp.GetJSON202())
	if err != nil {
		return err
	}
	for {
		shown, err := fetched(s.GetBackupWithResponse(ctx))
		if err != nil {
			return err
		}
		job, err := recast[backup.Job](shown)
		if err != nil {
			return err
		}
		switch {
		case job.ID != started.Id:
			return errors.New("the backup has ended, and somebody has started another one since")
		case job.State == registry.JobFinished && job.Manifest != nil && job.Transfer != nil:
			return printTransfer(cmd, output, *job.Manifest, *job.Transfer, "backed up")
		case job.State != registry.JobRunning:
			return errors.New(cmp.Or(job.Error, "the server that ran it has died"))
		case job.Transfer != nil:
			fmt.Fprintln(cmd.ErrOrStderr(), "so far:", transferLine(*job.Transfer))
		}
		select {
		case <-time.After(checkPoll):
		case <-ctx.Done():
			return errors.New("interrupted; the backup goes on, see GET /api/v1/instance/backup")
		}
	}
}

func newRestoreCommand() *cobra.Command {
	var flags transferFlags
	var verify bool
	c := &cobra.Command{
		Use:   "restore SRC",
		Short: "Make a registry of a backup, or verify one",
		Long: `Fill the configured database and store from a backup. The database has to be empty; its engine and the
kind of store need not be those of the registry that was backed up. Every byte is hashed on the way. One that
was killed is run again and goes on; no server starts on a database that is half restored.

With --verify nothing is restored and nothing is written to SRC: the backup is read from beginning to end, and it is
told whether each row's references, each blob and each manifest is there with the digest that it is named by.`,
		Example: `  berth restore /backup/berth
  berth restore /backup/berth --verify
  berth restore 's3://backups/berth?region=eu-central-1' --database-url postgres://berth@db/berth --storage-url 's3://blobs'`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			rate, err := flags.parse()
			if err != nil {
				return err
			}
			c, err := loadConfig(cmd.Flags(), os.Environ())
			if err != nil {
				return err
			}
			log := newLogger(c, cmd.ErrOrStderr())
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
			place, _, err := openPlace(ctx, c, args[0], work, log)
			if err != nil {
				return err
			}
			o := backup.Options{Work: work, Rate: rate, Logger: log, Progress: transferProgress(cmd), CheckProgress: func(r registry.CheckReport) {
				fmt.Fprintln(cmd.ErrOrStderr(), "so far:", checkLine(r))
			}}
			if verify {
				v, err := backup.Verify(ctx, place, o)
				if err != nil {
					return err
				}
				return printVerified(cmd, flags.output, v)
			}
			return withTarget(ctx, c, log, func(to registry.Side) error {
				m, report, err := backup.Restore(ctx, place, to, o)
				if err != nil {
					return err
				}
				if err := printTransfer(cmd, flags.output, m, report, "restored"); err != nil {
					return err
				}
				return checkTarget(ctx, cmd, to, registryOptions(c))
			})
		},
	}
	flags.add(c, "a new one in $TMPDIR, which needs room for the database")
	c.Flags().BoolVar(&verify, "verify", false, "only read the backup, and say whether it is whole")
	return c
}

// withTarget opens and migrates a database that is to be filled, and its store.
func withTarget(ctx context.Context, c *config, log *slog.Logger, run func(registry.Side) error) (err error) {
	to, err := openTarget(ctx, c, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, to.DB.Close()) }()
	return run(to)
}

// checkTarget compares the rows of a copy with its objects.
func checkTarget(ctx context.Context, cmd *cobra.Command, to registry.Side, o registry.Options) error {
	report, err := registry.New(to.DB, to.Store, o).Check(ctx, registry.CheckRun{})
	if err != nil {
		return fmt.Errorf("the copy is complete, but could not be checked: %w", err)
	}
	fmt.Fprintln(cmd.ErrOrStderr(), "checked:", checkLine(report))
	if report.Open > 0 {
		return errors.New(problemsLeft(report, registry.CheckRun{}))
	}
	return nil
}

func transferProgress(cmd *cobra.Command) func(registry.TransferReport) {
	return func(r registry.TransferReport) { fmt.Fprintln(cmd.ErrOrStderr(), "so far:", transferLine(r)) }
}

func transferLine(r registry.TransferReport) string {
	rows := int64(0)
	for _, n := range r.Rows {
		rows += n
	}
	line := fmt.Sprintf("%s copied (%s)", count(int(r.Copied), "blob"), showBytes(r.Bytes))
	if rows > 0 {
		line = fmt.Sprintf("%s in %s, %s", count(int(rows), "row"), count(len(r.Rows), "table"), line)
	}
	if r.Present > 0 {
		line += fmt.Sprintf(", %s there already", count(int(r.Present), "blob"))
	}
	if r.Lost > 0 {
		line += fmt.Sprintf(", %s lost", count(int(r.Lost), "blob"))
	}
	return line
}

// printTransfer says what was copied. Lost bytes make it an error.
func printTransfer(cmd *cobra.Command, output *choice, m backup.Manifest, report registry.TransferReport, what string) error {
	var err error
	if output.value == "json" {
		var shown *backup.Manifest
		if m.Format != 0 {
			shown = &m
		}
		err = printJSON(cmd.OutOrStdout(), struct {
			registry.TransferReport
			Backup *backup.Manifest `json:"backup,omitempty"`
		}{report, shown})
	} else {
		printLost(cmd.OutOrStdout(), report.Problems)
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: %s\n", what, transferLine(report))
	}
	if err == nil && report.Lost > 0 {
		err = fmt.Errorf("everything else is %s, but the bytes of %s are not in the source: run berth check --repair there and push them again", what, count(int(report.Lost), "blob"))
	}
	return err
}

func printLost(w io.Writer, problems []registry.Problem) {
	for _, p := range problems {
		fmt.Fprintf(w, "%s: %s: %s\n", p.Kind, p.Digest, p.Detail)
	}
}

func printVerified(cmd *cobra.Command, output *choice, v backup.Verified) error {
	var err error
	if output.value == "json" {
		err = printJSON(cmd.OutOrStdout(), v)
	} else {
		for _, p := range v.Problems {
			fmt.Fprintln(cmd.OutOrStdout(), p)
		}
		printLost(cmd.OutOrStdout(), v.Check.Problems)
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "backup of %s, made %s by version %s: %s\n", v.Backup.Source, showTime(v.Backup.CreatedAt), v.Backup.Version, checkLine(v.Check))
	}
	if err == nil && v.Bad > 0 {
		err = fmt.Errorf("the backup has %s: make a new one to another place, and keep this one until that is verified", count(int(v.Bad), "problem"))
	}
	return err
}
