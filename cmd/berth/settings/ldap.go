package settings

import (
	"fmt"
	"time"

	"berth/auth/ldap"
)

// LDAPConfig are the settings of an LDAP directory. Without a URL there is none.
type LDAPConfig struct {
	URLs             []string
	StartTLS         bool
	CAFile           string
	BindDN           string
	BindPassword     string
	BaseDN           string
	UserFilter       string
	UserDN           string
	NameAttribute    string
	SubjectAttribute string
	GroupBase        string
	GroupFilter      string
	GroupName        string
	Nested           bool
	Teams            string
	AdminGroup       string
	Timeout          time.Duration
	CacheTTL         time.Duration
	Connections      int
	MaxFailures      int
	FailureWindow    time.Duration
}

// ldapSettings are those of an LDAP directory.
func ldapSettings() []Setting {
	return []Setting{
		listSetting("ldap_url", "", "users of an LDAP directory sign in: ldaps://host or ldap://host; further ones are for when the first cannot be reached", func(c *Config) *[]string { return &c.LDAP.URLs }),
		boolSetting("ldap_start_tls", "true", "begin TLS on ldap:// before anything else is said; false sends passwords in clear", func(c *Config) *bool { return &c.LDAP.StartTLS }),
		shown(stringSetting("ldap_ca_file", "", "PEM file of the authorities that the directory's certificate may come from", func(c *Config) *string { return &c.LDAP.CAFile }, nil), "those of the system"),
		shown(stringSetting("ldap_bind_dn", "", "account that searches: a DN, or user@domain for Active Directory", func(c *Config) *string { return &c.LDAP.BindDN }, nil), "anonymous"),
		secret(stringSetting("ldap_bind_password", "", "password of that account", func(c *Config) *string { return &c.LDAP.BindPassword }, nil), ""),
		stringSetting("ldap_base_dn", "", "DN below which users are searched", func(c *Config) *string { return &c.LDAP.BaseDN }, nil),
		stringSetting("ldap_user_filter", "(uid={username})", "finds the one entry of a user name; {username} is escaped", func(c *Config) *string { return &c.LDAP.UserFilter }, nil),
		stringSetting("ldap_user_dn", "", "binds without a search before, as uid={username},ou=people,dc=example,dc=org or {username}@corp.example.com", func(c *Config) *string { return &c.LDAP.UserDN }, nil),
		stringSetting("ldap_name_attribute", "uid", "attribute with the user's name (Active Directory: sAMAccountName)", func(c *Config) *string { return &c.LDAP.NameAttribute }, nil),
		shown(stringSetting("ldap_subject_attribute", "", "attribute with an id that no other entry ever gets, or dn", func(c *Config) *string { return &c.LDAP.SubjectAttribute }, nil), "`entryUUID`, else `objectGUID`, else `dn`"),
		stringSetting("ldap_group_base", "", "DN below which groups count; without it there are none", func(c *Config) *string { return &c.LDAP.GroupBase }, nil),
		shown(stringSetting("ldap_group_filter", "", "finds the groups of a member, as (member={dn}), (memberUid={username}) or, nested in Active Directory, (member:1.2.840.113556.1.4.1941:={dn})", func(c *Config) *string { return &c.LDAP.GroupFilter }, nil), "the user's attribute memberOf"),
		stringSetting("ldap_group_name_attribute", "cn", "attribute with a group's name", func(c *Config) *string { return &c.LDAP.GroupName }, nil),
		boolSetting("ldap_nested_groups", "false", "also the groups that groups are members of, ten levels at most; not needed with the filter for Active Directory", func(c *Config) *bool { return &c.LDAP.Nested }),
		stringSetting("ldap_teams", "", "roles that groups give, as devs=core:member; cn=ops,ou=groups,dc=example,dc=org=ops:maintainer; team-*=*:member", func(c *Config) *string { return &c.LDAP.Teams }, func(v string) error {
			_, err := ldap.ParseTeamRules(v)
			return err
		}),
		stringSetting("ldap_admin_group", "", "group (name or DN) whose members administer this registry", func(c *Config) *string { return &c.LDAP.AdminGroup }, nil),
		durationSetting("ldap_timeout", "5s", "how long connecting, a bind and a search may take, each", func(c *Config) *time.Duration { return &c.LDAP.Timeout }, 100*time.Millisecond, 30*time.Second),
		durationSetting("ldap_cache_ttl", "2m", "how long a password that was right is not asked about again", func(c *Config) *time.Duration { return &c.LDAP.CacheTTL }, time.Second, ldap.MaxCacheTTL),
		intSetting("ldap_connections", "4", "connections that search at most, per replica", func(c *Config) *int { return &c.LDAP.Connections }, 1, 100),
		intSetting("ldap_max_failures", "3", "wrong passwords for one account that are passed on within the window, per replica, and as many again from addresses that it is known from; keep it below half of what locks an account in the directory; 0 passes all on", func(c *Config) *int { return &c.LDAP.MaxFailures }, 0, 1000),
		durationSetting("ldap_failure_window", "15m", "that window; as long as the directory counts", func(c *Config) *time.Duration { return &c.LDAP.FailureWindow }, time.Second, 24*time.Hour),
	}
}

// Enabled reports whether the settings name a directory.
func (c LDAPConfig) Enabled() bool { return len(c.URLs) > 0 }

// Options are those of the authenticator.
func (c LDAPConfig) Options() (o ldap.Options, err error) {
	if o.Roots, err = ReadRoots(c.CAFile); err != nil {
		return o, fmt.Errorf("ldap_ca_file: %w", err)
	}
	if o.Teams, err = ldap.ParseTeamRules(c.Teams); err != nil {
		return o, fmt.Errorf("ldap_teams: %w", err)
	}
	o.URLs, o.StartTLS = c.URLs, c.StartTLS
	o.BindDN, o.BindPassword = c.BindDN, c.BindPassword
	o.BaseDN, o.UserFilter, o.UserDN = c.BaseDN, c.UserFilter, c.UserDN
	o.NameAttribute, o.SubjectAttribute = c.NameAttribute, c.SubjectAttribute
	o.GroupBase, o.GroupFilter, o.GroupNameAttribute = c.GroupBase, c.GroupFilter, c.GroupName
	o.Nested, o.AdminGroup = c.Nested, c.AdminGroup
	o.Timeout, o.CacheTTL, o.Connections = c.Timeout, c.CacheTTL, c.Connections
	o.MaxFailures, o.FailureWindow = c.MaxFailures, c.FailureWindow
	return o, nil
}

// problems are what is wrong with the settings together.
func (c LDAPConfig) problems() []error {
	if !c.Enabled() {
		if c.BaseDN != "" || c.UserDN != "" || c.BindDN != "" {
			return []error{fmt.Errorf("ldap_base_dn, ldap_user_dn and ldap_bind_dn need ldap_url")}
		}
		return nil
	}
	o, err := c.Options()
	if err != nil {
		return []error{err}
	}
	a, err := ldap.New(nil, o)
	if err != nil {
		return []error{err}
	}
	_ = a.Close() // has no connection yet
	return nil
}
