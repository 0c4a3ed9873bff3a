package operate

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"berth/api"
	"berth/api/reports"
	"berth/backup"
	"berth/cmd/berth/cli"
	"berth/cmd/berth/client"
	"berth/jobs"
)

// copied are the words for what was done by a job of a kind.
var copied = map[string]string{
	backup.KindBackup: "backed up", backup.KindRestore: "restored", backup.KindMigrate: "copied", backup.KindStorage: "moved",
}

// remoteCopy lets a server make, verify or restore a backup, or migrate.
func remoteCopy(cmd *cobra.Command, f *transferFlags, kind string, rate float64) error {
	s, err := f.server.Connect(cmd)
	if err != nil {
		return err
	}
	limit := cli.Pointer(int64(rate))
	j := serverJob[*api.CopyJob]{
		head: func(job *api.CopyJob) jobs.Head {
			return jobs.Head{ID: job.Id, State: job.State, StartedBy: job.StartedBy, UpdatedAt: job.UpdatedAt, Error: cli.Value(job.Error)}
		},
		at:    atCopy,
		line:  copyLine,
		print: func(job *api.CopyJob) error { return printCopy(cmd, f.output, job) },
		wrong: wrongCopy,
	}
	id := func(job *api.CopyJob, err error) (string, error) {
		if err != nil {
			return "", err
		}
		return job.Id, nil
	}
	switch kind {
	case backup.KindRestore:
		j.noun, j.command = "restore", "berth restore"
		j.start = func(ctx context.Context) (string, error) {
			return id(client.Accepted(s.StartRestoreWithResponse(ctx, api.StartRestoreJSONRequestBody{Rate: limit})))
		}
		j.get = func(ctx context.Context) (*api.CopyJob, error) {
			return client.Fetched(s.GetRestoreWithResponse(ctx))
		}
		j.cancel = func(ctx context.Context) error { return client.Done(s.CancelRestoreWithResponse(ctx)) }
	case backup.KindMigrate, backup.KindStorage:
		j.noun, j.command = "migration", "berth migrate-storage"
		j.start = func(ctx context.Context) (string, error) {
			body := api.StartMigrationJSONRequestBody{Rate: limit, StorageOnly: cli.Pointer(kind == backup.KindStorage)}
			return id(client.Accepted(s.StartMigrationWithResponse(ctx, body)))
		}
		j.get = func(ctx context.Context) (*api.CopyJob, error) {
			return client.Fetched(s.GetMigrationWithResponse(ctx))
		}
		j.cancel = func(ctx context.Context) error { return client.Done(s.CancelMigrationWithResponse(ctx)) }
	default:
		j.noun, j.command = "backup", "berth backup"
		j.start = func(ctx context.Context) (string, error) {
			body := api.StartBackupJSONRequestBody{Rate: limit, Verify: cli.Pointer(kind == backup.KindVerify)}
			return id(client.Accepted(s.StartBackupWithResponse(ctx, body)))
		}
		j.get = func(ctx context.Context) (*api.CopyJob, error) {
			return client.Fetched(s.GetBackupWithResponse(ctx))
		}
		j.cancel = func(ctx context.Context) error { return client.Done(s.CancelBackupWithResponse(ctx)) }
	}
	return j.run(cmd, f.job, f.output)
}

// endCopy prints what a command has copied by itself, and makes an error of what is wrong.
func endCopy(cmd *cobra.Command, output *cli.Choice, job *backup.Job) error {
	done := reports.CopyJob(job)
	if err := printCopy(cmd, output, &done); err != nil {
		return err
	}
	return wrongCopy(&done)
}

// atCopy is how far a job is, of what it does at the moment.
func atCopy(job *api.CopyJob) (at jobs.Progress) {
	switch {
	case job.Check != nil:
		at = progressOf(job.Check.Progress)
	case job.Transfer != nil:
		at = progressOf(job.Transfer.Progress)
	}
	return at
}

// copyLine says how far a job is.
func copyLine(job *api.CopyJob) string {
	switch {
	case job.Check != nil && job.Kind == backup.KindVerify:
		return verifiedLine(*job.Check)
	case job.Check != nil:
		return checkLine(*job.Check)
	case job.Transfer != nil:
		return transferLine(*job.Transfer)
	}
	return "it has begun"
}

// printCopy prints what a job has done, also when it was not finished.
func printCopy(cmd *cobra.Command, output *cli.Choice, job *api.CopyJob) error {
	w := cmd.OutOrStdout()
	switch v := job.Verified; {
	case v != nil && output.Value == "json":
		return cli.PrintJSON(w, v)
	case v != nil:
		for _, p := range v.Problems {
			fmt.Fprintln(w, p)
		}
		printLost(w, v.Check.Problems)
		_, err := fmt.Fprintf(w, "backup of %s, made %s by version %s: %s\n", v.Backup.Source, cli.ShowTime(v.Backup.CreatedAt), v.Backup.Version, verifiedLine(v.Check))
		return err
	case job.Transfer == nil, job.State == jobs.Failed && len(job.Transfer.Rows) == 0 && job.Transfer.Copied == 0:
		return nil // it has not come so far
	case output.Value == "json":
		return cli.PrintJSON(w, struct {
			*api.TransferReport
			Backup *api.BackupManifest `json:"backup,omitempty"`
			Check  *api.CheckReport    `json:"check,omitempty"`
		}{job.Transfer, job.Manifest, job.Check})
	}
	printLost(w, job.Transfer.Problems)
	what := copied[job.Kind]
	if job.State != "" && job.State != jobs.Finished {
		what += " before it ended"
	}
	_, err := fmt.Fprintf(w, "%s: %s\n", what, transferLine(*job.Transfer))
	if job.Check != nil {
		fmt.Fprintln(cmd.ErrOrStderr(), "checked:", checkLine(*job.Check))
	}
	return err
}

// wrongCopy makes an error of bytes that are lost, and of what else is wrong with the result of a
// job.
func wrongCopy(job *api.CopyJob) error {
	switch {
	case job.Verified != nil && job.Verified.Bad > 0:
		return fmt.Errorf("the backup has %s: make a new one to another place, and keep this one until that is verified", cli.Count(int(job.Verified.Bad), "problem"))
	case job.Transfer != nil && job.Transfer.Lost > 0 && job.Kind == backup.KindRestore:
		return fmt.Errorf("everything else is restored, but the backup lacks the bytes of %s: push them again into the restored registry, or restore another backup",
			cli.Count(int(job.Transfer.Lost), "blob"))
	case job.Transfer != nil && job.Transfer.Lost > 0:
		return fmt.Errorf("everything else is %s, but the bytes of %s are not in the source: run berth check --repair there and push them again",
			copied[job.Kind], cli.Count(int(job.Transfer.Lost), "blob"))
	case job.Check != nil:
		return wrongCheck(*job.Check, false)
	}
	return nil
}

func printLost(w io.Writer, problems []api.CheckProblem) {
	for _, p := range problems {
		fmt.Fprintf(w, "%s: %s: %s\n", p.Kind, problemSubject(p), p.Detail)
	}
}
