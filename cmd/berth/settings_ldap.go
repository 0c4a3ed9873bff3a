package main

// ldapSettings are those of an LDAP directory.
func ldapSettings() []setting { return nil }
