package ldap_test

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	directory "github.com/go-ldap/ldap/v3"

	"berth/auth"
	"berth/auth/authtest"
	"berth/auth/ldap"
	"berth/metadata"
	"berth/oci"
	"berth/testenv"
)

// cannotSay checks that an error is neither yes nor no.
func cannotSay(t *testing.T, what string, p auth.Principal, err error) {
	t.Helper()
	if !errors.Is(err, oci.ErrUnavailable) || errors.Is(err, auth.ErrWrong) || errors.Is(err, auth.ErrNotMine) || !p.IsAnonymous() {
		t.Errorf("%s: %+v, %v, want UNAVAILABLE", what, p, err)
	}
}

// TestTransport: a password goes only to a server whose certificate and name are
// right, and never in clear when TLS is wanted.
func TestTransport(t *testing.T) {
	s := testenv.Slapd(t, people)
	// 127.0.0.2 is this machine too, and not in the certificate.
	l, err := net.Listen("tcp", "127.0.0.2:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			up, err := net.Dial("tcp", strings.TrimPrefix(s.SecureURL, "ldaps://"))
			if err != nil {
				c.Close()
				continue
			}
			go func() { _, _ = io.Copy(up, c); up.Close() }()
			go func() { _, _ = io.Copy(c, up); c.Close() }()
		}
	}()
	for name, change := range map[string]func(o *ldap.Options){
		"authority of somebody else":           func(o *ldap.Options) { o.Roots = x509.NewCertPool() },
		"authorities of the system":            func(o *ldap.Options) { o.Roots = nil },
		"authority of somebody else, StartTLS": func(o *ldap.Options) { o.URLs, o.StartTLS, o.Roots = []string{s.URL}, true, nil },
		"another name":                         func(o *ldap.Options) { o.URLs = []string{"ldaps://" + l.Addr().String()} },
		"in clear, which the server refuses":   func(o *ldap.Options) { o.URLs = []string{s.URL} },
		"TLS to a port without":                func(o *ldap.Options) { o.URLs = []string{"ldaps" + strings.TrimPrefix(s.URL, "ldap")} },
		"nobody listens":                       func(o *ldap.Options) { o.URLs = []string{"ldaps://127.0.0.1:1"} },
		"the account's password is wrong":      func(o *ldap.Options) { o.BindPassword = "old" },
		"the base is nowhere":                  func(o *ldap.Options) { o.BaseDN = "ou=nowhere,dc=example,dc=org" },
		"the base is on another server":        func(o *ldap.Options) { o.BaseDN = "dc=elsewhere,dc=org" },
		"the group base is nowhere":            func(o *ldap.Options) { o.GroupBase = "ou=nowhere,dc=example,dc=org" },
		"no attribute for the name":            func(o *ldap.Options) { o.NameAttribute = "employeeNumber" },
		"no attribute for the subject":         func(o *ldap.Options) { o.SubjectAttribute = "employeeNumber" },
	} {
		w := newWorld(t, s, change)
		c := auth.Credentials{Username: "bob", Password: "pw:of:bob"}
		p, err := w.Authenticate(t.Context(), c)
		cannotSay(t, name, p, err)
		authtest.NoSecret(t, err, c)
		authtest.NoSecret(t, err, auth.Credentials{Password: s.BindPassword})
	}
	// One that can be reached is enough.
	w := newWorld(t, s, func(o *ldap.Options) { o.URLs = []string{"ldaps://127.0.0.1:1", s.SecureURL} })
	w.signIn(t, "bob", "pw:of:bob")
}

// An empty password is an anonymous success for this server, so it is never sent.
func TestEmptyPassword(t *testing.T) {
	s := testenv.Slapd(t, people)
	conn, err := directory.DialURL(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.UnauthenticatedBind("uid=alice,ou=people,dc=example,dc=org"); err != nil {
		t.Fatalf("this server does not take an empty password, so the test shows nothing: %v", err)
	}
	for name, change := range map[string]func(o *ldap.Options){"search": nil, "direct": direct} {
		w := newWorld(t, s, change)
		for _, user := range []string{"alice", "nobody"} {
			if p, err := w.as(t, user, ""); !errors.Is(err, auth.ErrNotMine) || !p.IsAnonymous() {
				t.Errorf("%s, %s: %+v, %v", name, user, p, err)
			}
		}
	}
}

func direct(o *ldap.Options) {
	o.UserDN = "uid={username},ou=people,dc=example,dc=org"
	o.BindDN, o.BindPassword, o.BaseDN = "", "", ""
}

// Names to sign in with: any that the filter finds, as long as it finds one.
func TestLogins(t *testing.T) {
	s := testenv.Slapd(t, people)
	w := newWorld(t, s, func(o *ldap.Options) { o.UserFilter = "(|(uid={username})(mail={username}))" })
	alice := w.signIn(t, "alice", "pw-of-alice")
	for _, name := range []string{"alice@example.org", "ALICE", "Alice@Example.ORG"} {
		if p := w.signIn(t, name, "pw-of-alice"); p.ID != alice.ID || p.Name != "alice" {
			t.Errorf("%s is %+v", name, p)
		}
	}
	if p := w.signIn(t, "bob+x@example.org", "pw:of:bob"); p.Name != "bob" { // no name of a user here, but of an entry
		t.Errorf("%+v", p)
	}
	p, err := w.as(t, "shared@example.org", "pw-of-carl")
	cannotSay(t, "an address of two", p, err)
	if !strings.Contains(err.Error(), "more than one") {
		t.Errorf("%v does not say what to mend", err)
	}
	if p, err := w.as(t, "nobody", "x"); !errors.Is(err, auth.ErrNotMine) {
		t.Errorf("nobody: %+v, %v", p, err)
	}
	// A local user of the name keeps it.
	err = w.db.Update(t.Context(), func(tx *metadata.Tx) error {
		_, err := tx.CreateUser(t.Context(), metadata.User{Name: "carl", Role: metadata.RoleAdmin})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if p, err := w.as(t, "carl", "pw-of-carl"); !errors.Is(err, auth.ErrWrong) {
		t.Errorf("carl of the directory got in as the local one: %+v, %v", p, err)
	}
	// A new name is the same user, and keeps the name here.
	s.Modify("dn: uid=alice,ou=people,dc=example,dc=org\nchangetype: modrdn\nnewrdn: uid=alice.miller\ndeleteoldrdn: 1\n")
	if p := w.signIn(t, "alice.miller", "pw-of-alice"); p.ID != alice.ID || p.Name != "alice" {
		t.Errorf("after the marriage: %+v", p)
	}
}

// Direct bind: the name is put into a DN, where other signs than in a filter mean something.
func TestDirectBind(t *testing.T) {
	s := testenv.Slapd(t, people+`
dn: uid=o\2Cdd\3D1,ou=people,dc=example,dc=org
objectClass: inetOrgPerson
cn: Odd
sn: O
uid: o,dd=1
employeeNumber: odd
userPassword: pw-of-odd
`)
	w := newWorld(t, s, direct)
	p := w.signIn(t, "alice", "pw-of-alice")
	if p.Name != "alice" || w.may(t, p, "core/app") != auth.Pull|auth.Push {
		t.Errorf("%+v, %s", p, w.may(t, p, "core/app"))
	}
	for _, name := range []string{"carl", "nobody", "*", "alice,ou=people", "alice,ou=people,dc=example,dc=org#"} {
		if p, err := w.as(t, name, "pw-of-alice"); !errors.Is(err, auth.ErrWrong) {
			t.Errorf("%s: %+v, %v", name, p, err)
		}
	}
	w = newWorld(t, s, func(o *ldap.Options) { direct(o); o.NameAttribute = "employeeNumber" })
	if p := w.signIn(t, "o,dd=1", "pw-of-odd"); p.Name != "odd" {
		t.Errorf("%+v", p)
	}
	// With a base, the user searches its own entry.
	w = newWorld(t, s, func(o *ldap.Options) { base := o.BaseDN; direct(o); o.BaseDN = base })
	if p := w.signIn(t, "alice", "pw-of-alice"); p.Name != "alice" {
		t.Errorf("%+v", p)
	}
}

// TestGroups: groups below the base give teams, names for grants and the role admin;
// those elsewhere give nothing; and what ends there ends here.
func TestGroups(t *testing.T) {
	s := testenv.Slapd(t, people)
	rules := []ldap.TeamRule{
		{Group: "DEVS", Team: "core", Role: "reader"}, {Group: "cn=devs, ou=Groups,dc=example,dc=org", Team: "core", Role: "member"},
		{Group: "team-*", Team: "*", Role: "maintainer"}, {Group: "nobody", Team: "other", Role: "member"},
	}
	for name, tt := range map[string]struct {
		change func(o *ldap.Options)
		alice  []string
		web    auth.Actions
	}{
		"search":           {nil, []string{"devs"}, 0},
		"search, nested":   {func(o *ldap.Options) { o.Nested = true }, []string{"circle", "devs", "everybody", "team-web"}, auth.AllActions},
		"memberOf":         {func(o *ldap.Options) { o.GroupFilter = "" }, []string{"devs"}, 0},
		"memberOf, nested": {func(o *ldap.Options) { o.GroupFilter, o.Nested = "", true }, []string{"circle", "devs", "everybody", "team-web"}, auth.AllActions},
		"or-filter":        {func(o *ldap.Options) { o.GroupFilter, o.Nested = "(|(member={dn})(memberUid={username}))", true }, []string{"circle", "devs", "everybody", "team-web"}, auth.AllActions},
		"none":             {func(o *ldap.Options) { o.GroupBase, o.GroupFilter, o.Teams, o.AdminGroup = "", "", nil, "" }, nil, 0},
		"direct, nested":   {func(o *ldap.Options) { direct(o); o.Nested = true }, []string{"circle", "devs", "everybody", "team-web"}, auth.AllActions},
	} {
		w := newWorld(t, s, func(o *ldap.Options) {
			o.Teams, o.AdminGroup = rules, "admins"
			if tt.change != nil {
				tt.change(o)
			}
		})
		p := w.signIn(t, "alice", "pw-of-alice")
		core := auth.Pull | auth.Push
		if name == "none" {
			core = 0
		}
		if got := w.groups(t, p); !slices.Equal(got, tt.alice) || p.Admin || w.may(t, p, "core/app") != core || w.may(t, p, "web/app") != tt.web || w.may(t, p, "other/app") != 0 {
			t.Errorf("%s: groups %q, admin %t, core %s, web %s", name, got, p.Admin, w.may(t, p, "core/app"), w.may(t, p, "web/app"))
		}
		if carl := w.signIn(t, "carl", "pw-of-carl"); carl.Admin != (name != "none") || w.may(t, carl, "core/app") == auth.Pull|auth.Push {
			t.Errorf("%s: carl %+v", name, carl)
		}
	}

	w := newWorld(t, s, func(o *ldap.Options) { o.AdminGroup = "cn=admins,ou=groups,dc=example,dc=org" })
	if p := w.signIn(t, "alice", "pw-of-alice"); w.may(t, p, "core/app") != auth.Pull|auth.Push {
		t.Errorf("alice: %s", w.may(t, p, "core/app"))
	}
	carl := w.signIn(t, "carl", "pw-of-carl")
	s.Modify("dn: cn=devs,ou=groups,dc=example,dc=org\nchangetype: modify\ndelete: member\nmember: uid=alice,ou=people,dc=example,dc=org\n\n" +
		"dn: cn=admins,ou=groups,dc=example,dc=org\nchangetype: modify\nreplace: member\nmember: uid=bob,ou=people,dc=example,dc=org\n")
	w.clock.forward(3 * time.Minute)
	if p := w.signIn(t, "alice", "pw-of-alice"); w.may(t, p, "core/app") != 0 {
		t.Errorf("alice after she left: %s", w.may(t, p, "core/app"))
	}
	if p := w.signIn(t, "carl", "pw-of-carl"); !carl.Admin || p.Admin || p.ID != carl.ID {
		t.Errorf("carl was %+v and is %+v", carl, p)
	}
}

// TestCache is dims.md, works when 16, as far as it is about right passwords: who was right goes on for a while without
// the directory, also when the chain is closed to a flooder; wrong ones are asked about each time.
func TestCache(t *testing.T) {
	s := testenv.Slapd(t, people)
	gate := newGate(t, s.SecureURL)
	w := newWorld(t, s, func(o *ldap.Options) { o.URLs = []string{"ldaps://" + gate.addr} })
	w.signIn(t, "alice", "pw-of-alice")
	before := gate.connections()
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() { w.signIn(t, "alice", "pw-of-alice") })
	}
	wg.Wait()
	if n := gate.connections() - before; n != 0 {
		t.Errorf("%d connections for a password that was right just now", n)
	}
	// A new password holds at once, the old one at most for the life of the cache.
	if _, err := w.as(t, "alice", "new-password"); !errors.Is(err, auth.ErrWrong) {
		t.Errorf("before the change: %v", err)
	}
	s.Modify("dn: uid=alice,ou=people,dc=example,dc=org\nchangetype: modify\nreplace: userPassword\nuserPassword: new-password\n")
	w.signIn(t, "alice", "new-password")
	w.clock.forward(3 * time.Minute)
	if _, err := w.as(t, "alice", "pw-of-alice"); !errors.Is(err, auth.ErrWrong) {
		t.Errorf("the old password: %v", err)
	}
	w.signIn(t, "alice", "new-password")
	if _, err := w.as(t, "alicenew-", "password"); !errors.Is(err, auth.ErrNotMine) { // no key of two pairs is the same
		t.Errorf("another split of name and password: %v", err)
	}
	// A user who was disabled here is refused at once.
	disabled := true
	err := w.db.Update(t.Context(), func(tx *metadata.Tx) error {
		if _, err := tx.CreateUser(t.Context(), metadata.User{Name: "root", Role: metadata.RoleAdmin}); err != nil {
			return err
		}
		_, err := tx.UpdateUser(t.Context(), "alice", metadata.UserChange{Disabled: &disabled})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.as(t, "alice", "new-password"); !errors.Is(err, auth.ErrWrong) {
		t.Errorf("disabled here: %v", err)
	}
}

// TestServerGoesAway: stopped in the middle of a bind, killed, back again. Who was right goes
// on, new ones get "cannot say" inside the deadline, and nothing of it is remembered.
func TestServerGoesAway(t *testing.T) {
	s := testenv.Slapd(t, people)
	w := newWorld(t, s, func(o *ldap.Options) { o.Timeout = 300 * time.Millisecond })
	w.signIn(t, "alice", "pw-of-alice")
	away := func(what string) {
		t.Helper()
		if p := w.signIn(t, "alice", "pw-of-alice"); p.Name != "alice" {
			t.Errorf("%s: %+v", what, p)
		}
		for _, password := range []string{"pw:of:bob", "wrong"} {
			p, err := w.as(t, "bob", password)
			cannotSay(t, what, p, err)
		}
	}
	back := func(what string) {
		t.Helper()
		w.clock.forward(3 * time.Minute)
		// The old process of a kill takes its port with it.
		for end := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
			_, err := w.as(t, "bob", "pw:of:bob")
			if err == nil {
				break
			}
			if !errors.Is(err, oci.ErrUnavailable) || time.Now().After(end) {
				t.Fatalf("%s: %v", what, err)
			}
		}
		if _, err := w.as(t, "bob", "wrong"); !errors.Is(err, auth.ErrWrong) {
			t.Errorf("%s: wrong: %v", what, err)
		}
		w.signIn(t, "alice", "pw-of-alice")
		w.clock.forward(3 * time.Minute)
		w.signIn(t, "alice", "pw-of-alice")
	}
	s.Signal(syscall.SIGSTOP)
	away("stopped")
	s.Signal(syscall.SIGCONT)
	back("goes on")
	s.Signal(syscall.SIGSTOP)
	result := make(chan error, 1)
	go func() {
		_, err := w.as(t, "carl", "pw-of-carl")
		result <- err
	}()
	time.Sleep(50 * time.Millisecond) // under way, most likely
	s.Kill()
	if err := <-result; !errors.Is(err, oci.ErrUnavailable) {
		t.Errorf("killed under way: %v", err)
	}
	away("killed")
	s.Start()
	back("started again")
}

// Connections that the server has closed meanwhile are replaced, and one that a
// user was bound on serves nobody else: afterwards, searches are the account's.
func TestConnections(t *testing.T) {
	s := testenv.Slapd(t, people)
	gate := newGate(t, s.SecureURL)
	w := newWorld(t, s, func(o *ldap.Options) { o.URLs, o.Connections = []string{"ldaps://" + gate.addr}, 2 })
	var wg sync.WaitGroup
	for i := range 40 {
		wg.Go(func() {
			// Each password is a credential of its own, so nothing is shared.
			if i%4 == 3 {
				if _, err := w.as(t, "nobody", fmt.Sprint(i)); !errors.Is(err, auth.ErrNotMine) {
					t.Errorf("nobody: %v", err)
				}
				return
			}
			name := []string{"alice", "bob", "carl"}[i%4]
			p, err := w.Authenticate(t.Context(), auth.Credentials{Username: name, Password: map[string]string{"alice": "pw-of-alice", "bob": "pw:of:bob", "carl": "pw-of-carl"}[name], RemoteAddr: fmt.Sprint(i)})
			if err != nil || p.Name != name {
				t.Errorf("%s: %+v, %v", name, p, err)
			}
		})
	}
	wg.Wait()
	gate.cut()
	w.clock.forward(3 * time.Minute)
	w.signIn(t, "alice", "pw-of-alice")
}

// TestGuard: guesses at Berth do not lock the account in the directory, which
// happens after five. Who guesses from elsewhere does not lock its owner out.
func TestGuard(t *testing.T) {
	s := testenv.Slapd(t, people)
	w := newWorld(t, s, func(o *ldap.Options) {
		o.MaxFailures, o.FailureWindow, o.UserFilter = 2, 15*time.Minute, "(|(uid={username})(mail={username}))"
	})
	from := func(address, name, password string) error {
		_, err := w.Authenticate(t.Context(), auth.Credentials{Username: name, Password: password, RemoteAddr: address})
		return err
	}
	const home = "192.0.2.1"
	if err := from(home, "alice", "pw-of-alice"); err != nil {
		t.Fatal(err)
	}
	w.clock.forward(3 * time.Minute)
	var throttled *auth.ThrottledError
	wrong := 0
	for i := range 30 { // by both names, from everywhere
		err := from(fmt.Sprintf("198.51.100.%d", i), []string{"alice", "alice@example.org"}[i%2], fmt.Sprint("guess", i))
		switch {
		case errors.Is(err, auth.ErrWrong):
			wrong++
		case !errors.As(err, &throttled) || throttled.RetryAfter <= 0 || throttled.RetryAfter > 15*time.Minute:
			t.Fatalf("guess %d: %v", i, err)
		}
	}
	if wrong != 2 {
		t.Errorf("%d guesses were passed on, want 2", wrong)
	}
	if err := from("198.51.100.99", "bob", "pw:of:bob"); err != nil {
		t.Errorf("another account: %v", err)
	}
	if err := from(home, "alice", "slip of a finger"); !errors.Is(err, auth.ErrWrong) {
		t.Errorf("a wrong password at home: %v", err)
	}
	if err := from(home, "alice", "pw-of-alice"); err != nil {
		t.Errorf("the right one at home: %v", err)
	}
	holds(t, s, "uid=alice,ou=people,dc=example,dc=org", "pw-of-alice")
	w.clock.forward(16 * time.Minute)
	if err := from("198.51.100.1", "alice", "pw-of-alice"); err != nil {
		t.Errorf("after the window: %v", err)
	}
}

// TestGuardAgainstManyAtATime: guesses from everywhere at the same moment, before the
// first of them has failed, are no more than those one after the other.
func TestGuardAgainstManyAtATime(t *testing.T) {
	s := testenv.Slapd(t, people)
	w := newWorld(t, s, func(o *ldap.Options) { o.MaxFailures, o.FailureWindow = 2, 15*time.Minute })
	var wrong, refused atomic.Int32
	var wg sync.WaitGroup
	for i := range 40 {
		wg.Go(func() {
			_, err := w.Authenticate(t.Context(), auth.Credentials{Username: "alice", Password: fmt.Sprint("guess", i), RemoteAddr: fmt.Sprintf("198.51.100.%d", i)})
			var throttled *auth.ThrottledError
			switch {
			case errors.Is(err, auth.ErrWrong):
				wrong.Add(1)
			case errors.As(err, &throttled):
				refused.Add(1)
			default:
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if wrong.Load() != 2 || refused.Load() != 38 {
		t.Errorf("%d guesses were passed on and %d refused, want 2 and 38", wrong.Load(), refused.Load())
	}
	// One password from everywhere is no guessing.
	for i := range 40 {
		wg.Go(func() {
			if _, err := w.Authenticate(t.Context(), auth.Credentials{Username: "bob", Password: "pw:of:bob", RemoteAddr: fmt.Sprintf("198.51.100.%d", i)}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

// TestHostileServer: a server that hangs, sends rubbish or does not end is "cannot
// say" inside the deadline, and takes no more memory than its bound.
func TestHostileServer(t *testing.T) {
	for name, serve := range map[string]func(net.Conn){
		"hangs":       func(c net.Conn) { _, _ = io.Copy(io.Discard, c) },
		"closes":      func(net.Conn) {},
		"speaks HTTP": func(c net.Conn) { _, _ = io.WriteString(c, "HTTP/1.1 400 Bad Request\r\n\r\n") },
		"sends rubbish": func(c net.Conn) {
			_, _ = c.Write([]byte{0x30, 0x84, 0xff, 0xff, 0xff, 0xff, 0, 1, 2, 3})
			_, _ = io.Copy(io.Discard, c)
		},
		"hangs after StartTLS": func(c net.Conn) {
			_, _ = c.Write([]byte{0x30, 0x0c, 0x02, 0x01, 0x01, 0x78, 0x07, 0x0a, 0x01, 0x00, 0x04, 0x00, 0x04, 0x00}) // extendedResponse, success
			_, _ = io.Copy(io.Discard, c)
		},
		"a bind without end": func(c net.Conn) {
			// bindResponse, success, and a message of 1 GiB
			_, _ = c.Write([]byte{0x30, 0x84, 0x40, 0, 0, 0x10, 0x02, 0x01, 0x01, 0x61, 0x84, 0x40, 0, 0, 0x05, 0x0a, 0x01, 0x00, 0x04, 0x84, 0x40, 0, 0, 0})
			for {
				if _, err := c.Write(make([]byte, 1<<20)); err != nil {
					return
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			go func() {
				for {
					c, err := l.Accept()
					if err != nil {
						return
					}
					go func() {
						defer c.Close()
						serve(c)
					}()
				}
			}()
			for _, start := range []bool{false, true} {
				s := &testenv.LDAP{SecureURL: "ldap://" + l.Addr().String(), BaseDN: "dc=example,dc=org", BindDN: "cn=berth,dc=example,dc=org", BindPassword: "berth-secret"}
				w := newWorld(t, s, func(o *ldap.Options) { o.StartTLS, o.Timeout = start, 500*time.Millisecond })
				p, err := w.as(t, "alice", "pw-of-alice")
				cannotSay(t, fmt.Sprintf("%s, StartTLS %t", name, start), p, err)
			}
		})
	}
}

// TestRecheck: without the password, the directory says who is still there, with the groups of today.
func TestRecheck(t *testing.T) {
	for name, attribute := range map[string]string{"entryUUID": "", "attribute": "uid", "dn": "dn"} {
		t.Run(name, func(t *testing.T) {
			s := testenv.Slapd(t, people)
			w := newWorld(t, s, func(o *ldap.Options) {
				o.SubjectAttribute, o.UserFilter = attribute, "(&(|(uid={username})(mail={username}))(!(employeeType=gone)))"
			})
			refresher := auth.NewRefresher(w.db, nil)
			refresher.External(0, auth.NewDirectory(w.db, nil, nil), w.Authenticator)
			p := w.signIn(t, "alice", "pw-of-alice")
			proof, err := refresher.Proof(t.Context(), p)
			if err != nil {
				t.Fatal(err)
			}
			again := func() (auth.Principal, error) { return refresher.Recheck(t.Context(), p, proof) }
			if q, err := again(); err != nil || q.ID != p.ID || w.may(t, q, "core/app") != auth.Pull|auth.Push {
				t.Fatalf("%+v, %v", q, err)
			}
			s.Modify("dn: cn=devs,ou=groups,dc=example,dc=org\nchangetype: modify\ndelete: member\nmember: uid=alice,ou=people,dc=example,dc=org\n")
			if q, err := again(); err != nil || w.may(t, q, "core/app") != 0 {
				t.Errorf("after she left the group: %+v, %v", q, err)
			}
			s.Modify("dn: uid=alice,ou=people,dc=example,dc=org\nchangetype: modify\nadd: employeeType\nemployeeType: gone\n")
			if q, err := again(); !errors.Is(err, auth.ErrWrong) {
				t.Errorf("after she was locked: %+v, %v", q, err)
			}
			s.Modify("dn: uid=alice,ou=people,dc=example,dc=org\nchangetype: delete\n")
			if q, err := again(); !errors.Is(err, auth.ErrWrong) {
				t.Errorf("after she was deleted: %+v, %v", q, err)
			}
			s.Kill()
			q, err := again()
			cannotSay(t, "the directory is away", q, err)
			if _, err := w.Recheck(t.Context(), "oidc", "1"); !errors.Is(err, auth.ErrNotMine) {
				t.Errorf("another provider's user: %v", err)
			}
		})
	}
	s := testenv.Slapd(t, people)
	w := newWorld(t, s, direct)
	refresher := auth.NewRefresher(w.db, nil)
	refresher.External(0, auth.NewDirectory(w.db, nil, nil), w.Authenticator)
	if _, err := refresher.Proof(t.Context(), w.signIn(t, "alice", "pw-of-alice")); !errors.Is(err, auth.ErrNoRefresh) {
		t.Errorf("direct bind: %v", err)
	}
}

// What Active Directory says in the message of a refused bind, in its own words.
func TestActiveDirectoryReasons(t *testing.T) {
	for name, tt := range map[string]struct {
		code    byte
		message string
		want    error
		says    string
	}{
		"wrong password":   {49, "80090308: LdapErr: DSID-0C090446, comment: AcceptSecurityContext error, data 52e, v4563", auth.ErrWrong, "wrong"},
		"unknown":          {49, "80090308: LdapErr: DSID-0C090446, comment: AcceptSecurityContext error, data 525, v4563", auth.ErrWrong, "wrong"},
		"locked":           {49, "80090308: LdapErr: DSID-0C090446, comment: AcceptSecurityContext error, data 775, v4563", auth.ErrWrong, "wrong"},
		"password expired": {49, "80090308: LdapErr: DSID-0C090446, comment: AcceptSecurityContext error, data 532, v4563", auth.ErrWrong, "expired"},
		"disabled":         {49, "80090308: LdapErr: DSID-0C090446, comment: AcceptSecurityContext error, data 533, v4563", auth.ErrWrong, "disabled"},
		"must change":      {49, "80090308: LdapErr: DSID-0C090446, comment: AcceptSecurityContext error, data 773, v4563", auth.ErrWrong, "new password"},
		"busy":             {51, "", oci.ErrUnavailable, ""},
		"unavailable":      {52, "", oci.ErrUnavailable, ""},
		"no rights":        {50, "", oci.ErrUnavailable, ""},
		"wants TLS":        {13, "", oci.ErrUnavailable, ""},
		"referral":         {10, "", oci.ErrUnavailable, ""},
		"other":            {80, "", oci.ErrUnavailable, ""},
	} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go func() {
					defer c.Close()
					if _, err := c.Read(make([]byte, 4096)); err != nil {
						return
					}
					// bindResponse to the message 1, with an empty matchedDN
					body := append([]byte{0x0a, 0x01, tt.code, 0x04, 0x00, 0x04, byte(len(tt.message))}, tt.message...)
					message := append([]byte{0x02, 0x01, 0x01, 0x61, byte(len(body))}, body...)
					_, _ = c.Write(append([]byte{0x30, byte(len(message))}, message...))
					_, _ = io.Copy(io.Discard, c)
				}()
			}
		}()
		w := newWorld(t, &testenv.LDAP{SecureURL: "ldap://" + l.Addr().String(), BaseDN: "dc=example,dc=org"}, direct)
		p, err := w.as(t, "alice", "pw-of-alice")
		if !errors.Is(err, tt.want) || !p.IsAnonymous() || !strings.Contains(auth.WrongReason(err), tt.says) {
			t.Errorf("%s: %+v, %v (%s)", name, p, err, auth.WrongReason(err))
		}
		l.Close()
	}
}

// Who hangs up does not wait, and does not fail the others.
func TestClientHangsUp(t *testing.T) {
	s := testenv.Slapd(t, people)
	w := newWorld(t, s, nil)
	s.Signal(syscall.SIGSTOP)
	ctx, cancel := context.WithCancel(t.Context())
	first, second := make(chan error, 1), make(chan error, 1)
	ask := func(ctx context.Context, result chan error) {
		_, err := w.Authenticate(ctx, auth.Credentials{Username: "alice", Password: "pw-of-alice"})
		result <- err
	}
	go ask(ctx, first)
	go ask(t.Context(), second)
	cancel()
	if err := <-first; !errors.Is(err, context.Canceled) {
		t.Errorf("who hung up: %v", err)
	}
	s.Signal(syscall.SIGCONT)
	if err := <-second; err != nil {
		t.Errorf("who waited: %v", err)
	}
}

func TestParseTeamRules(t *testing.T) {
	for text, want := range map[string][]ldap.TeamRule{
		"":                 nil,
		"devs=core:member": {{Group: "devs", Team: "core", Role: "member"}},
		" devs = core:member ; ops=ops:maintainer;": {{Group: "devs", Team: "core", Role: "member"}, {Group: "ops", Team: "ops", Role: "maintainer"}},
		"cn=devs,ou=groups,dc=example,dc=org=core:member,cn=ops,ou=groups,dc=example,dc=org=core:reader": {
			{Group: "cn=devs,ou=groups,dc=example,dc=org", Team: "core", Role: "member"}, {Group: "cn=ops,ou=groups,dc=example,dc=org", Team: "core", Role: "reader"}},
		"team-*=*:member": {{Group: "team-*", Team: "*", Role: "member"}},
		"Domain Users=all:reader;odd:members=x:reader": {{Group: "Domain Users", Team: "all", Role: "reader"}, {Group: "odd:members", Team: "x", Role: "reader"}},
	} {
		got, err := ldap.ParseTeamRules(text)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
	}
	for _, text := range []string{
		"devs", "devs=core", "devs=core:owner", "=core:member", "devs=:member", "devs=Core:member", "devs=a/b:member", "devs=*:member", "a*b*=*:member",
		"cn=devs,,=core:member", "devs=core:member ops", "devs=core:members",
	} {
		if got, err := ldap.ParseTeamRules(text); err == nil {
			t.Errorf("%q: %+v, want an error", text, got)
		}
	}
}

// All that is wrong is said at once.
func TestOptions(t *testing.T) {
	_, err := ldap.New(nil, ldap.Options{
		URLs: []string{"ldap://", "http://x", "ldaps://u:p@x", "ldaps://x/dc=example"}, BindDN: "cn=x", UserFilter: "(uid=", GroupFilter: "(cn=x)", BaseDN: "no dn", AdminGroup: "x",
	})
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{"http://x", "ldaps://x/dc=example", "bind DN and its password", "user filter lacks", "malformed", "neither", "no DN", "group base"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("no word about %q in:\n%v", want, err)
		}
	}
	for _, o := range []ldap.Options{
		{}, {URLs: []string{"ldaps://x"}}, {URLs: []string{"ldaps://x"}, UserDN: "uid=alice,dc=x"},
		{URLs: []string{"ldaps://x"}, UserDN: "uid={username},dc=x", BindDN: "cn=x", BindPassword: "y"},
	} {
		if _, err := ldap.New(nil, o); err == nil {
			t.Errorf("%+v: accepted", o)
		}
	}
}
