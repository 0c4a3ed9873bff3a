package main

// oauth2Settings are those of an OAuth2 server.
func oauth2Settings() []setting { return nil }
