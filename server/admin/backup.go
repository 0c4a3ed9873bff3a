package admin

import (
	"context"

	"berth/api"
	"berth/api/reports"
	"berth/backup"
	"berth/oci"
)

// copyJob gives the job of a kind that runs, or the last one.
func (h *Admin) copyJob(ctx context.Context, kind, noun, starts string) (shown api.CopyJob, err error) {
	job, err := h.Copies.Of(kind).Current(ctx)
	if err == nil && job == nil {
		err = oci.Errorf(oci.CodeNotFound, "no %s was started here within three months: %s --server, starts one", noun, starts)
	}
	if err != nil {
		return shown, err
	}
	return reports.CopyJob(job), nil
}

// startCopy starts a job in the background, at so many bytes a second.
func (h *Admin) startCopy(ctx context.Context, kind string, rate *int64) (shown api.CopyJob, err error) {
	limit := 0.0
	if rate != nil {
		limit = float64(*rate)
	}
	job, err := h.Copies.Start(ctx, callOf(ctx).actor, kind, limit)
	if err != nil {
		return shown, err
	}
	return reports.CopyJob(job), nil
}

// GetBackup shows the backup, or the verifying of one, that runs, or the last one.
func (h *Admin) GetBackup(ctx context.Context, _ api.GetBackupRequestObject) (api.GetBackupResponseObject, error) {
	job, err := h.copyJob(ctx, backup.KindBackup, "backup", "POST /instance/backup, or berth backup")
	return api.GetBackup200JSONResponse(job), err
}

// StartBackup starts a backup, or the verifying of one.
func (h *Admin) StartBackup(ctx context.Context, r api.StartBackupRequestObject) (api.StartBackupResponseObject, error) {
	kind := backup.KindBackup
	if r.Body.Verify != nil && *r.Body.Verify {
		kind = backup.KindVerify
	}
	job, err := h.startCopy(ctx, kind, r.Body.Rate)
	return api.StartBackup202JSONResponse(job), err
}

// CancelBackup ends the backup that runs.
func (h *Admin) CancelBackup(ctx context.Context, _ api.CancelBackupRequestObject) (api.CancelBackupResponseObject, error) {
	return api.CancelBackup204Response{}, h.Copies.Cancel(ctx, callOf(ctx).actor, backup.KindBackup)
}

// GetRestore shows the restore that runs, or the last one.
func (h *Admin) GetRestore(ctx context.Context, _ api.GetRestoreRequestObject) (api.GetRestoreResponseObject, error) {
	job, err := h.copyJob(ctx, backup.KindRestore, "restore", "POST /instance/restore, or berth restore")
	return api.GetRestore200JSONResponse(job), err
}

// StartRestore makes another registry of the backup.
func (h *Admin) StartRestore(ctx context.Context, r api.StartRestoreRequestObject) (api.StartRestoreResponseObject, error) {
	job, err := h.startCopy(ctx, backup.KindRestore, r.Body.Rate)
	return api.StartRestore202JSONResponse(job), err
}

// CancelRestore ends the restore that runs.
func (h *Admin) CancelRestore(ctx context.Context, _ api.CancelRestoreRequestObject) (api.CancelRestoreResponseObject, error) {
	return api.CancelRestore204Response{}, h.Copies.Cancel(ctx, callOf(ctx).actor, backup.KindRestore)
}

// GetMigration shows the migration that runs, or the last one.
func (h *Admin) GetMigration(ctx context.Context, _ api.GetMigrationRequestObject) (api.GetMigrationResponseObject, error) {
	job, err := h.copyJob(ctx, backup.KindMigrate, "migration", "POST /instance/migration, or berth migrate-storage")
	return api.GetMigration200JSONResponse(job), err
}

// StartMigration copies the registry to the target, or moves its objects alone.
func (h *Admin) StartMigration(ctx context.Context, r api.StartMigrationRequestObject) (api.StartMigrationResponseObject, error) {
	kind := backup.KindMigrate
	if r.Body.StorageOnly != nil && *r.Body.StorageOnly {
		kind = backup.KindStorage
	}
	job, err := h.startCopy(ctx, kind, r.Body.Rate)
	return api.StartMigration202JSONResponse(job), err
}

// CancelMigration ends the migration that runs.
func (h *Admin) CancelMigration(ctx context.Context, _ api.CancelMigrationRequestObject) (api.CancelMigrationResponseObject, error) {
	return api.CancelMigration204Response{}, h.Copies.Cancel(ctx, callOf(ctx).actor, backup.KindMigrate)
}
