package main

import "time"

// spaceSettings are those of retention, quotas and other matters of space.
func spaceSettings() []setting {
	return []setting{
		durationSetting("undo_window", "24h", "how long a deleted tag or manifest can be restored; 0s: not at all", func(c *config) *time.Duration { return &c.UndoWindow }, 0, 90*24*time.Hour),
		durationSetting("retention_interval", "24h", "how often the retention rules of teams and repositories are applied", func(c *config) *time.Duration { return &c.RetentionInterval }, 10*time.Minute, 30*24*time.Hour),
		stringSetting("backup_url", "", "where backups go that the management API starts: a directory, or s3://bucket/prefix; without it the API makes none", func(c *config) *string { return &c.BackupURL }, nil),
	}
}
