package main

// auditSettings are those of the audit log.
func auditSettings() []setting {
	return []setting{
		intSetting("audit_retention", "365", "how many days the audit log is kept; 0 keeps it for ever", func(c *config) *int { return &c.AuditRetention }, 0, 36500),
	}
}
