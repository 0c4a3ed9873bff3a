// Package ldap signs in users of an LDAP directory, such as OpenLDAP or Active
// Directory, by their name and password: it looks the user up, binds as the user,
// and reads the groups. Start with [New]; conn.go talks to the server, groups.go
// says what groups give, and guard.go keeps guesses from locking accounts.
//
// Three rules hold throughout. An empty password never reaches a server, which
// would call it an anonymous success (RFC 4513, section 5.1.2). Whatever is put into a
// filter or a DN is escaped (RFC 4515, RFC 4514). And a connection on which a user was
// bound serves nobody else.
package ldap

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/go-ldap/ldap/v3"
	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/sync/singleflight"

	"berth/auth"
	"berth/oci"
)

// Provider is the source of the users who sign in here.
const Provider = "ldap"

// Limits of what is asked and remembered.
const (
	// MaxCacheTTL is the longest that a password which was right is not asked about.
	MaxCacheTTL = 15 * time.Minute
	// verifiedMax bounds the remembered passwords, at about 1 KiB each.
	verifiedMax = 4096
	// maxName and maxPassword bound what is sent, in bytes.
	maxName     = 256
	maxPassword = 1024
	// maxBinds is how many users are checked at a time; others wait, within their deadline.
	maxBinds = 16
	// perAddress is how many sign-ins of one address are checked at a time.
	perAddress = 4
)

// UsernamePlaceholder stands in filters and in UserDN for the name that somebody
// signs in with, and DNPlaceholder in a group filter for the DN of a member.
const (
	UsernamePlaceholder = "{username}"
	DNPlaceholder       = "{dn}"
)

// Options of an Authenticator. URLs is required, and either BaseDN or UserDN.
type Options struct {
	// URLs are ldaps://host:port or ldap://host:port; those after the first are for
	// when it cannot be reached.
	URLs []string
	// StartTLS begins TLS on ldap:// before anything else is said.
	StartTLS bool
	// Roots are the authorities of the servers' certificates; nil is the system's. The
	// name in the certificate is always compared with the host of the URL.
	Roots *x509.CertPool

	// BindDN and BindPassword are the account that searches; "" searches anonymously.
	BindDN, BindPassword string
	// BaseDN and UserFilter find the entry of a user, exactly one.
	BaseDN, UserFilter string
	// UserDN makes the name to bind with out of the user name, without a search
	// before: uid={username},ou=people,dc=example,dc=org or {username}@corp.example.com.
	// The entry is then read by the user: by UserFilter below BaseDN, or, without a BaseDN,
	// at that DN.
	UserDN string
	// NameAttribute holds the user's name here; the default is uid.
	NameAttribute string
	// SubjectAttribute holds an id that no other entry ever gets. The default is the
	// first of entryUUID and objectGUID that the entry has, or else its DN.
	SubjectAttribute string

	// GroupBase is the DN below which groups count; "" counts no groups.
	GroupBase string
	// GroupFilter finds the groups of a member. "" takes the user's attribute memberOf.
	GroupFilter string
	// GroupNameAttribute holds a group's name; the default is cn.
	GroupNameAttribute string
	// Nested also finds the groups that groups are members of.
	Nested bool
	// Teams say which group gives which role in which team.
	Teams []TeamRule
	// AdminGroup is the group (its name or DN) whose members administer the instance.
	AdminGroup string

	// Timeout bounds each step: connecting with TLS, a bind, a search. The default is 5 s.
	Timeout time.Duration
	// CacheTTL is how long a password that was right is not asked about; the default is
	// 2 minutes.
	CacheTTL time.Duration
	// Connections is how many connections search; the default is 4.
	Connections int
	// MaxFailures wrong passwords for one account within FailureWindow are passed
	// on, and no more: see guard. 0 passes all on.
	MaxFailures   int
	FailureWindow time.Duration
	// Observe is told of each sign-in: ok, wrong, throttled, unavailable, or cached when
	// the directory was not asked. nil tells nobody.
	Observe func(outcome string, took time.Duration)
	Clock   func() time.Time
}

// Authenticator recognises users of a directory. Safe for concurrent use. Close it
// at the end.
type Authenticator struct {
	o         Options
	directory *auth.Directory
	servers   []server
	groupBase *ldap.DN
	pool      *pool
	binds     chan struct{}
	turns     *auth.Turns
	guard     *guard

	key      [32]byte // of the HMAC that hides passwords in the cache, new in every process
	verified *lru.Cache[[32]byte, remembered]
	flights  singleflight.Group
}

type remembered struct {
	principal auth.Principal
	until     time.Time
}

// New makes an Authenticator, or says everything that is wrong with the options. It
// connects when somebody signs in and not before.
func New(directory *auth.Directory, o Options) (*Authenticator, error) {
	if o.NameAttribute == "" {
		o.NameAttribute = "uid"
	}
	if o.UserFilter == "" {
		o.UserFilter = "(uid=" + UsernamePlaceholder + ")"
	}
	if o.GroupNameAttribute == "" {
		o.GroupNameAttribute = "cn"
	}
	if o.Timeout <= 0 {
		o.Timeout = 5 * time.Second
	}
	if o.CacheTTL <= 0 {
		o.CacheTTL = 2 * time.Minute
	}
	o.CacheTTL = min(o.CacheTTL, MaxCacheTTL)
	if o.Connections <= 0 {
		o.Connections = 4
	}
	if o.FailureWindow <= 0 {
		o.FailureWindow = 15 * time.Minute
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.Observe == nil {
		o.Observe = func(string, time.Duration) {}
	}
	if err := errors.Join(o.problems()...); err != nil {
		return nil, err
	}
	a := &Authenticator{
		o: o, directory: directory,
		binds: make(chan struct{}, maxBinds),
		turns: auth.NewTurns(perAddress),
		guard: newGuard(o.MaxFailures, o.FailureWindow, o.Clock),
	}
	for _, u := range o.URLs {
		s, err := parseURL(u)
		if err != nil {
			return nil, err
		}
		a.servers = append(a.servers, s)
	}
	if o.GroupBase != "" {
		var err error
		if a.groupBase, err = ldap.ParseDN(o.GroupBase); err != nil {
			return nil, err
		}
	}
	a.pool = newPool(o.Connections, o.Clock, a.connectService)
	_, _ = rand.Read(a.key[:]) // never fails: see crypto/rand
	a.verified, _ = lru.New[[32]byte, remembered](verifiedMax)
	return a, nil
}

// problems are what is wrong with the options, all of it.
func (o Options) problems() (problems []error) {
	problem := func(wrong bool, format string, args ...any) {
		if wrong {
			problems = append(problems, fmt.Errorf("ldap: "+format, args...))
		}
	}
	problem(len(o.URLs) == 0, "there is no URL of a server")
	for _, u := range o.URLs {
		if err := ValidURL(u); err != nil {
			problems = append(problems, err)
		}
	}
	problem(o.BaseDN == "" && o.UserDN == "", "set a base DN to search users below, or a template of their DN")
	problem((o.BindDN == "") != (o.BindPassword == ""), "the bind DN and its password have to be set together")
	problem(o.UserDN != "" && o.BindDN != "", "a template of the users' DN needs no bind DN: leave one of them out")
	problem(o.UserDN != "" && !strings.Contains(o.UserDN, UsernamePlaceholder), "the template of the users' DN lacks %s", UsernamePlaceholder)
	problem(!strings.Contains(o.UserFilter, UsernamePlaceholder), "the user filter lacks %s", UsernamePlaceholder)
	for name, filter := range map[string]string{"user filter": o.UserFilter, "group filter": o.GroupFilter} {
		if filter != "" {
			_, err := ldap.CompileFilter(fill(filter, "x", "cn=x"))
			problem(err != nil, "the %s %q is malformed, see RFC 4515: %v", name, filter, err)
		}
	}
	problem(o.GroupFilter != "" && !strings.Contains(o.GroupFilter, DNPlaceholder) && !strings.Contains(o.GroupFilter, UsernamePlaceholder),
		"the group filter has neither %s nor %s", DNPlaceholder, UsernamePlaceholder)
	for name, dn := range map[string]string{"base DN": o.BaseDN, "group base": o.GroupBase, "bind DN": o.BindDN} {
		_, err := ldap.ParseDN(dn)
		// Active Directory binds user@domain too.
		problem(err != nil && (name != "bind DN" || !strings.Contains(dn, "@")), "the %s %q is no DN", name, dn)
	}
	problem(o.GroupBase == "" && (len(o.Teams) > 0 || o.AdminGroup != "" || o.GroupFilter != "" || o.Nested), "groups need a group base, the DN below which they count")
	return problems
}

// ValidURL checks the address of a server.
func ValidURL(s string) error {
	_, err := parseURL(s)
	return err
}

func parseURL(s string) (server, error) {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "ldap" && u.Scheme != "ldaps" || u.Hostname() == "" || u.User != nil || u.RawQuery != "" || strings.Trim(u.Path, "/") != "" {
		return server{}, fmt.Errorf("%.200q is not the URL of an LDAP server: write ldaps://host or ldap://host, with a port if need be", s)
	}
	v := server{host: u.Hostname(), port: u.Port(), tls: u.Scheme == "ldaps"}
	if v.port == "" {
		if v.port = "389"; v.tls {
			v.port = "636"
		}
	}
	return v, nil
}

// login reports whether credentials may be those of a user of a directory.
func login(c auth.Credentials) bool {
	if c.Bearer != "" || c.Username == "" || len(c.Username) > maxName || c.Password == "" || len(c.Password) > maxPassword {
		return false
	}
	if auth.LooksLikeSecret(c.Password) || auth.LooksLikeJWT(c.Password) {
		return false // a secret that is nobody's password
	}
	return oci.IsText(c.Username) && oci.IsText(c.Password) && strings.IndexFunc(c.Username, unicode.IsControl) < 0
}

// Authenticate finds the user of a name and password. Who was right within the
// last minutes costs one query; all others cost two or more questions to the
// directory. A name that the directory does not have is ErrNotMine. The error is
// *auth.ThrottledError for an account that had too many wrong passwords.
func (a *Authenticator) Authenticate(ctx context.Context, c auth.Credentials) (auth.Principal, error) {
	if !login(c) {
		return auth.Principal{}, auth.ErrNotMine
	}
	if p, err := a.Recall(ctx, c); !errors.Is(err, auth.ErrNotMine) {
		a.o.Observe("cached", 0)
		return p, err
	}
	key := a.hidden(c)
	// A flight per address, for what failed counts for an address.
	flight := a.flights.DoChan(string(key[:])+c.RemoteAddr, func() (any, error) {
		// One client that hangs up must not fail the others who show the same.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 4*a.o.Timeout)
		defer cancel()
		began := a.o.Clock()
		release, err := a.turns.Take(ctx, c.RemoteAddr)
		if err != nil {
			a.o.Observe(outcome(err), a.o.Clock().Sub(began))
			return auth.Principal{}, err
		}
		defer release()
		p, err := a.check(ctx, c)
		if err == nil {
			a.verified.Add(key, remembered{p, began.Add(a.o.CacheTTL)})
		}
		if !errors.Is(err, auth.ErrNotMine) {
			a.o.Observe(outcome(err), a.o.Clock().Sub(began))
		}
		return p, err
	})
	select {
	case r := <-flight:
		if r.Err != nil {
			return auth.Principal{}, r.Err
		}
		return r.Val.(auth.Principal), nil
	case <-ctx.Done():
		return auth.Principal{}, ctx.Err()
	}
}

// Recall is Authenticate for passwords that were right a short time ago. It goes on
// while the directory is away, and a user who was disabled here since is refused.
func (a *Authenticator) Recall(ctx context.Context, c auth.Credentials) (auth.Principal, error) {
	if !login(c) {
		return auth.Principal{}, auth.ErrNotMine
	}
	r, ok := a.verified.Get(a.hidden(c))
	if !ok || !a.o.Clock().Before(r.until) {
		return auth.Principal{}, auth.ErrNotMine
	}
	return a.directory.Recall(ctx, r.principal)
}

// hidden is the key under which a right password is remembered. It tells nothing
// about it.
func (a *Authenticator) hidden(c auth.Credentials) (key [32]byte) {
	mac := hmac.New(sha256.New, a.key[:])
	mac.Write([]byte(c.Username))
	mac.Write([]byte{0})
	mac.Write([]byte(c.Password))
	mac.Sum(key[:0])
	return key
}

func outcome(err error) string {
	var throttled *auth.ThrottledError
	switch {
	case err == nil:
		return "ok"
	case errors.Is(err, auth.ErrWrong):
		return "wrong"
	case errors.As(err, &throttled):
		return "throttled"
	}
	return "unavailable"
}

// unavailable is the answer when it cannot be said now. The cause is for the log
// and has no password in it.
func unavailable(err error) error {
	var (
		e         *oci.Error
		throttled *auth.ThrottledError
	)
	if errors.As(err, &e) || errors.As(err, &throttled) || errors.Is(err, auth.ErrWrong) || errors.Is(err, auth.ErrNotMine) {
		return err
	}
	return oci.Errorf(oci.CodeUnavailable, "the directory cannot be asked about this user now, try again later").WithCause(err)
}

// check asks the directory.
func (a *Authenticator) check(ctx context.Context, c auth.Credentials) (auth.Principal, error) {
	id, err := a.identity(ctx, c)
	if err != nil {
		return auth.Principal{}, unavailable(err)
	}
	p, err := a.directory.SignIn(ctx, id)
	if err != nil {
		return auth.Principal{}, unavailable(err)
	}
	return p, nil
}

// Recheck says what the directory has about a user now, for refresh tokens. An
// entry that the user filter does not find any more, whatever name stands in it, is
// ErrWrong: put into the filter what tells a locked account. With direct bind
// there is nobody to ask, and no refresh token.
func (a *Authenticator) Recheck(ctx context.Context, source, subject string) (auth.Identity, error) {
	if source != Provider || a.o.UserDN != "" {
		return auth.Identity{}, auth.ErrNotMine
	}
	ctx, cancel := context.WithTimeout(ctx, 2*a.o.Timeout)
	defer cancel()
	base, scope, filter := a.o.BaseDN, ldap.ScopeWholeSubtree, strings.ReplaceAll(a.o.UserFilter, UsernamePlaceholder, "*")
	switch dn, isDN := strings.CutPrefix(subject, "dn:"); {
	case isDN:
		base, scope = dn, ldap.ScopeBaseObject
	default:
		name, value := a.o.SubjectAttribute, ldap.EscapeFilter(subject)
		raw, err := hex.DecodeString(subject)
		if guid := err == nil && len(raw) == 16; name == "" && guid || strings.EqualFold(name, "objectGUID") && guid {
			name, value = "objectGUID", ldap.EscapeFilter(string(raw))
		} else if name == "" {
			name = "entryUUID"
		}
		filter = "(&(" + name + "=" + value + ")" + filter + ")"
	}
	var id auth.Identity
	err := a.pool.with(ctx, func(s *conn) error {
		entry, err := a.one(ctx, s, base, scope, filter)
		if err == nil {
			id, err = a.describe(ctx, s, entry, "")
		}
		return err
	})
	if errors.Is(err, auth.ErrNotMine) || ldap.IsErrorWithCode(err, ldap.LDAPResultNoSuchObject) && base != a.o.BaseDN {
		return id, auth.Wrongf("the user is not in the directory any more, or not allowed in: sign in again")
	}
	if err != nil {
		return auth.Identity{}, unavailable(err)
	}
	return id, nil
}

// Canonical gives a user's name as the directory writes it, which looks at no case. It is auth.ErrNotMine for a
// name that the directory does not have; any other error says that it cannot be asked now, as with direct bind.
func (a *Authenticator) Canonical(ctx context.Context, username string) (name string, err error) {
	if a.o.UserDN != "" {
		return "", errors.New("the directory can only be asked by its users themselves")
	}
	ctx, cancel := context.WithTimeout(ctx, 2*a.o.Timeout)
	defer cancel()
	err = a.pool.with(ctx, func(s *conn) error {
		entry, err := a.find(ctx, s, username)
		if err == nil {
			name, err = a.name(entry, username)
		}
		return err
	})
	return name, err
}

// name is the user's name here: of several, the one that was typed.
func (a *Authenticator) name(entry *ldap.Entry, username string) (string, error) {
	names := entry.GetEqualFoldAttributeValues(a.o.NameAttribute)
	if len(names) == 0 {
		return "", fmt.Errorf("%s has no attribute %s for the user's name, or it may not be read", entry.DN, a.o.NameAttribute)
	}
	name := names[0]
	for _, n := range names {
		if strings.EqualFold(n, username) {
			name = n
		}
	}
	return name, nil
}

// identity is what the directory says of a user whose password is right.
func (a *Authenticator) identity(ctx context.Context, c auth.Credentials) (auth.Identity, error) {
	if a.o.UserDN != "" {
		return a.direct(ctx, c)
	}
	var entry *ldap.Entry
	err := a.pool.with(ctx, func(s *conn) (err error) {
		entry, err = a.find(ctx, s, c.Username)
		return err
	})
	if err != nil {
		return auth.Identity{}, err
	}
	if err := a.bindAs(ctx, entry.DN, c, nil); err != nil {
		return auth.Identity{}, err
	}
	var id auth.Identity
	err = a.pool.with(ctx, func(s *conn) (err error) {
		id, err = a.describe(ctx, s, entry, c.Username)
		return err
	})
	return id, err
}

// direct binds without a search before, and reads the entry as the user.
func (a *Authenticator) direct(ctx context.Context, c auth.Credentials) (id auth.Identity, err error) {
	escaped := ldap.EscapeDN(c.Username)
	if _, err := ldap.ParseDN(a.o.UserDN); err != nil {
		escaped = c.Username // user@domain, in which a DN's signs mean nothing
	}
	name := strings.ReplaceAll(a.o.UserDN, UsernamePlaceholder, escaped)
	err = a.bindAs(ctx, name, c, func(s *conn) error {
		var entry *ldap.Entry
		if a.o.BaseDN != "" {
			entry, err = a.find(ctx, s, c.Username)
		} else {
			entry, err = a.one(ctx, s, name, ldap.ScopeBaseObject, "(objectClass=*)")
		}
		if errors.Is(err, auth.ErrNotMine) {
			return fmt.Errorf("%s may not read its own entry, which has the name and the groups", name)
		}
		if err == nil {
			id, err = a.describe(ctx, s, entry, c.Username)
		}
		return err
	})
	return id, err
}

// find gives the one entry of a user name. It is ErrNotMine when there is none.
func (a *Authenticator) find(ctx context.Context, s *conn, username string) (*ldap.Entry, error) {
	return a.one(ctx, s, a.o.BaseDN, ldap.ScopeWholeSubtree, fill(a.o.UserFilter, username, ""))
}

func (a *Authenticator) one(ctx context.Context, s *conn, base string, scope int, filter string) (*ldap.Entry, error) {
	attributes := []string{a.o.NameAttribute, a.o.SubjectAttribute, "entryUUID", "objectGUID", "memberOf"}
	entries, err := s.search(ctx, base, scope, 2, filter, attributes)
	switch {
	case err != nil:
		return nil, fmt.Errorf("searching the user: %w", err)
	case len(entries) == 0:
		return nil, auth.ErrNotMine
	case len(entries) > 1:
		// Whose password it is cannot be guessed: "wrong" would hide a mistake in the
		// settings, and trying one after the other would be a way to be somebody else.
		return nil, fmt.Errorf("the filter %s finds more than one entry (%s and %s): make it find one", filter, entries[0].DN, entries[1].DN)
	case entries[0].DN == "":
		return nil, errors.New("the directory gave an entry without a DN") // to bind with it would be anonymous
	}
	return entries[0], nil
}

// describe makes the identity out of an entry and its groups.
func (a *Authenticator) describe(ctx context.Context, s *conn, entry *ldap.Entry, username string) (auth.Identity, error) {
	name, err := a.name(entry, username)
	if err != nil {
		return auth.Identity{}, err
	}
	subject, err := a.subject(entry)
	if err != nil {
		return auth.Identity{}, err
	}
	id := auth.Identity{Provider: Provider, Subject: subject, Name: name, Claims: map[string]string{"dn": clip(entry.DN)}}
	if a.o.GroupBase == "" {
		return id, nil
	}
	groups, err := a.groups(ctx, s, entry, name)
	if err != nil {
		return id, fmt.Errorf("the groups of %s: %w", entry.DN, err)
	}
	id.Teams, id.Groups, id.Admin = a.gives(groups)
	return id, nil
}

// subject is the id that stays when a user is renamed or moved.
func (a *Authenticator) subject(entry *ldap.Entry) (string, error) {
	if name := a.o.SubjectAttribute; name != "" && !strings.EqualFold(name, "dn") {
		if v := id(entry, name); v != "" {
			return v, nil
		}
		return "", fmt.Errorf("%s has no attribute %s, which tells users apart, or it may not be read", entry.DN, name)
	}
	for _, name := range []string{"entryUUID", "objectGUID"} {
		if v := id(entry, name); v != "" && a.o.SubjectAttribute == "" {
			return v, nil
		}
	}
	return "dn:" + strings.ToLower(entry.DN), nil
}

// id reads an attribute that identifies. One that is not text is written in hex: the
// 16 bytes of an objectGUID.
func id(entry *ldap.Entry, name string) string {
	raw := entry.GetEqualFoldRawAttributeValue(name)
	for _, b := range raw {
		if b < ' ' || b > '~' {
			return hex.EncodeToString(raw)
		}
	}
	if len(raw) == 16 && strings.EqualFold(name, "objectGUID") {
		return hex.EncodeToString(raw) // bytes that happen to be letters
	}
	return string(raw)
}

// fill puts values into a filter, escaped.
func fill(filter, username, dn string) string {
	return strings.NewReplacer(UsernamePlaceholder, ldap.EscapeFilter(username), DNPlaceholder, ldap.EscapeFilter(dn)).Replace(filter)
}

func clip(s string) string {
	for len(s) > auth.MaxClaimSize || !utf8.ValidString(s) {
		s = s[:min(len(s), auth.MaxClaimSize+1)-1]
	}
	return s
}

// Close closes the idle connections. Nobody may sign in any more.
func (a *Authenticator) Close() error {
	a.pool.close()
	return nil
}
