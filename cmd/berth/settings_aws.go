package main

// awsSettings are those of AWS identities.
func awsSettings() []setting { return nil }
