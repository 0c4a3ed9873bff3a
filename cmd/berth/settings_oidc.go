package main

// oidcSettings are those of an OpenID provider and trust policies.
func oidcSettings() []setting { return nil }
