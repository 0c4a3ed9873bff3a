package main

// auditSettings are those of the audit log.
func auditSettings() []setting { return nil }
