package ldap_test

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	directory "github.com/go-ldap/ldap/v3"

	"berth/auth"
	"berth/auth/authtest"
	"berth/auth/ldap"
	"berth/metadata"
	"berth/testenv"
)

func TestMain(m *testing.M) { os.Exit(testenv.Main(m)) }

// people are the entries that the tests start from.
const people = `
dn: uid=alice,ou=people,dc=example,dc=org
objectClass: inetOrgPerson
cn: Alice
sn: A
uid: alice
mail: alice@example.org
userPassword: pw-of-alice

dn: uid=bob,ou=people,dc=example,dc=org
objectClass: inetOrgPerson
cn: Bob
sn: B
uid: bob
mail: bob+x@example.org
userPassword: pw:of:bob

dn: uid=carl,ou=people,dc=example,dc=org
objectClass: inetOrgPerson
cn: Carl
sn: C
uid: carl
mail: shared@example.org
userPassword: pw-of-carl

dn: uid=dora,ou=people,dc=example,dc=org
objectClass: inetOrgPerson
cn: Dora
sn: D
uid: dora
mail: shared@example.org

dn: cn=devs,ou=groups,dc=example,dc=org
objectClass: groupOfNames
cn: devs
member: uid=alice,ou=people,dc=example,dc=org
member: uid=bob,ou=people,dc=example,dc=org

dn: cn=team-web,ou=groups,dc=example,dc=org
objectClass: groupOfNames
cn: team-web
member: cn=devs,ou=groups,dc=example,dc=org

dn: cn=everybody,ou=groups,dc=example,dc=org
objectClass: groupOfNames
cn: everybody
member: cn=team-web,ou=groups,dc=example,dc=org
member: cn=circle,ou=groups,dc=example,dc=org

dn: cn=circle,ou=groups,dc=example,dc=org
objectClass: groupOfNames
cn: circle
member: cn=everybody,ou=groups,dc=example,dc=org

dn: cn=admins,ou=groups,dc=example,dc=org
objectClass: groupOfNames
cn: admins
member: uid=carl,ou=people,dc=example,dc=org

dn: cn=admins,ou=people,dc=example,dc=org
objectClass: groupOfNames
cn: admins
member: uid=alice,ou=people,dc=example,dc=org
`

// clock is a time that tests move.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) forward(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

type world struct {
	*ldap.Authenticator
	server *testenv.LDAP
	db     *metadata.DB
	policy *auth.Policy
	clock  *clock
}

func options(s *testenv.LDAP) ldap.Options {
	return ldap.Options{
		URLs: []string{s.SecureURL}, Roots: s.Roots, BindDN: s.BindDN, BindPassword: s.BindPassword,
		BaseDN: "ou=people," + s.BaseDN, GroupBase: "ou=groups," + s.BaseDN, GroupFilter: "(member={dn})",
		Teams:   []ldap.TeamRule{{Group: "devs", Team: "core", Role: "member"}},
		Timeout: 10 * time.Second,
	}
}

func newWorld(t *testing.T, s *testenv.LDAP, change func(o *ldap.Options)) *world {
	t.Helper()
	db, err := metadata.Open(t.Context(), metadata.Options{URL: "sqlite:" + filepath.Join(t.TempDir(), "berth.db")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	if _, err := db.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	w := &world{server: s, db: db, policy: auth.NewPolicy(db, auth.PolicyOptions{}), clock: &clock{now: time.Now()}}
	o := options(s)
	o.Clock = w.clock.Now
	if change != nil {
		change(&o)
	}
	if w.Authenticator, err = ldap.New(auth.NewDirectory(db, nil, nil), o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	return w
}

func (w *world) as(t *testing.T, name, password string) (auth.Principal, error) {
	t.Helper()
	return w.Authenticate(t.Context(), auth.Credentials{Username: name, Password: password, RemoteAddr: "192.0.2.1"})
}

func (w *world) signIn(t *testing.T, name, password string) auth.Principal {
	t.Helper()
	p, err := w.as(t, name, password)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return p
}

func (w *world) may(t *testing.T, p auth.Principal, repository string) auth.Actions {
	t.Helper()
	d, err := w.policy.Actions(t.Context(), p, repository)
	if err != nil {
		t.Fatal(err)
	}
	return d.Actions
}

func (w *world) groups(t *testing.T, p auth.Principal) (groups []string) {
	t.Helper()
	err := w.db.View(t.Context(), func(tx *metadata.Tx) (err error) {
		_, groups, err = tx.ProviderFacts(t.Context(), p.ID)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return groups
}

// holds checks that the directory itself still takes a password.
func holds(t *testing.T, s *testenv.LDAP, dn, password string) {
	t.Helper()
	conn, err := directory.DialURL(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	o := options(s)
	if err := conn.StartTLS(tlsConfig(o)); err != nil {
		t.Fatal(err)
	}
	if err := conn.Bind(dn, password); err != nil {
		t.Errorf("the directory does not take the password of %s any more: %v", dn, err)
	}
}

func TestContract(t *testing.T) {
	s := testenv.Slapd(t, people)
	secret, _ := auth.NewSecret(auth.RobotPrefix)
	for name, url := range map[string]string{"ldaps": s.SecureURL, "StartTLS": s.URL} {
		t.Run(name, func(t *testing.T) {
			authtest.Test(t, func(t *testing.T) authtest.Fixture {
				// A port of its own that can be closed, in front of the one server.
				gate := newGate(t, url)
				w := newWorld(t, s, func(o *ldap.Options) {
					scheme, _, _ := strings.Cut(url, ":")
					o.URLs, o.StartTLS = []string{scheme + "://" + gate.addr}, scheme == "ldap"
				})
				return authtest.Fixture{
					Authenticator: w.Authenticator,
					Good:          auth.Credentials{Username: "bob", Password: "pw:of:bob"},
					Who:           "bob",
					// Few guesses for one account: five would lock it.
					Wrong: []auth.Credentials{
						{Username: "carl", Password: "not-this-one"},
						{Username: "dora", Password: "has-no-password"},
					},
					Foreign: []auth.Credentials{
						{Username: "nobody", Password: "x"}, {Username: "bob", Password: ""}, {Username: "dora", Password: ""},
						{Username: "bob", Password: secret}, {Username: "bob", Password: "eyJhbGciOiJub25lIn0.e30.x"}, {Bearer: "pw:of:bob"},
						{Username: "bob", Password: strings.Repeat("x", 5000)}, {Username: "bob\x00", Password: "pw:of:bob"}, {Username: "\xff", Password: "x"},
						{Username: "*", Password: "pw:of:bob"}, {Username: "b*b", Password: "pw:of:bob"}, {Username: "bob)(uid=*", Password: "pw:of:bob"},
						{Username: `\62ob`, Password: "pw:of:bob"}, {Username: "bob,ou=people", Password: "pw:of:bob"}, {Username: "{dn}", Password: "x"},
					},
					Break: gate.shut,
				}
			})
		})
		// The wrong ones above have been counted in the directory.
		s.Modify("dn: uid=carl,ou=people,dc=example,dc=org\nchangetype: modify\nreplace: userPassword\nuserPassword: pw-of-carl\n")
	}
}
