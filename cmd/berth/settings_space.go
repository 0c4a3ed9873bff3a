package main

// spaceSettings are those of retention, quotas and other matters of space.
func spaceSettings() []setting { return nil }
