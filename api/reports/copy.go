package reports

import (
	"berth/api"
	"berth/backup"
)

// CopyJob is a backup, restore or migration, done by a server in the background or by a command.
func CopyJob(j *backup.Job) api.CopyJob {
	shown := api.CopyJob{
		Id: j.ID, State: j.State, StartedBy: j.StartedBy, UpdatedAt: j.UpdatedAt, Error: optional(j.Error),
		Kind: j.Kind, Rate: j.Rate,
	}
	if j.Transfer != nil {
		transfer := TransferReport(*j.Transfer)
		shown.Transfer = &transfer
	}
	if j.Check != nil {
		check := CheckReport(*j.Check)
		shown.Check = &check
	}
	if j.Manifest != nil {
		manifest := backupManifest(*j.Manifest)
		shown.Manifest = &manifest
	}
	if v := j.Verified; v != nil {
		shown.Verified = &api.BackupVerified{
			Backup: backupManifest(v.Backup), Check: CheckReport(v.Check), Problems: each(v.Problems, same), Bad: v.Bad,
		}
	}
	return shown
}

// TransferReport is what was copied, with all problems that it lists.
func TransferReport(r backup.TransferReport) api.TransferReport {
	return api.TransferReport{
		Rows: r.Rows, Blobs: r.Blobs, Present: r.Present, Copied: r.Copied, CopiedBytes: r.Bytes,
		Lost: r.Lost, Problems: each(r.Problems, problem), Progress: progress(r.Progress),
	}
}

func backupManifest(m backup.Manifest) api.BackupManifest {
	shown := api.BackupManifest{
		Format: m.Format, CreatedAt: m.CreatedAt, Version: m.Version, Schema: m.Schema, Source: m.Source,
		Rows: m.Rows, Blobs: m.Blobs, Lost: m.Lost,
	}
	shown.Database.Name, shown.Database.Size, shown.Database.Sha256 = m.Database.Name, m.Database.Size, m.Database.SHA256
	return shown
}
