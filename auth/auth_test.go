package auth_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"berth/auth"
	"berth/auth/authtest"
	"berth/metadata"
	"berth/oci"
	"berth/testenv"
)

func TestMain(m *testing.M) { os.Exit(testenv.Main(m)) }

// open makes an empty database.
func open(t testing.TB) *metadata.DB {
	t.Helper()
	ctx := context.Background()
	db, err := metadata.Open(ctx, metadata.Options{URL: "sqlite:" + filepath.Join(t.TempDir(), "berth.db")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	if _, err := db.Migrate(ctx); err != nil {
		t.Fatal(err)
	}
	return db
}

func update(t testing.TB, db *metadata.DB, fn func(ctx context.Context, tx *metadata.Tx) error) {
	t.Helper()
	ctx := context.Background()
	if err := db.Update(ctx, func(tx *metadata.Tx) error { return fn(ctx, tx) }); err != nil {
		t.Fatal(err)
	}
}

func cheapHash(t testing.TB, password string) string {
	t.Helper()
	hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	return string(hash)
}

func addUser(t testing.TB, db *metadata.DB, name, role, hash string) metadata.User {
	t.Helper()
	var u metadata.User
	update(t, db, func(ctx context.Context, tx *metadata.Tx) (err error) {
		u, err = tx.CreateUser(ctx, metadata.User{Name: name, Role: role, PasswordHash: hash})
		return err
	})
	return u
}

func addToken(t testing.TB, db *metadata.DB, k metadata.Token) string {
	t.Helper()
	prefix := auth.PersonalPrefix
	if k.Kind == metadata.RobotToken {
		prefix = auth.RobotPrefix
	}
	secret, hash := auth.NewSecret(prefix)
	k.CreatedBy = "test"
	update(t, db, func(ctx context.Context, tx *metadata.Tx) error {
		_, err := tx.CreateToken(ctx, k, hash)
		return err
	})
	return secret
}

func change(t testing.TB, db *metadata.DB, user string, c metadata.UserChange) {
	t.Helper()
	update(t, db, func(ctx context.Context, tx *metadata.Tx) error {
		_, err := tx.UpdateUser(ctx, user, c)
		return err
	})
}

func TestPasswordsContract(t *testing.T) {
	authtest.Test(t, func(t *testing.T) authtest.Fixture {
		db := open(t)
		hasher := auth.NewHasher(0)
		hash, err := hasher.Hash(context.Background(), "right:with:colons")
		if err != nil {
			t.Fatal(err)
		}
		addUser(t, db, "root", metadata.RoleAdmin, cheapHash(t, "x"))
		addUser(t, db, "alice", metadata.RoleUser, hash)
		addUser(t, db, "nopassword", metadata.RoleUser, "")
		addUser(t, db, "gone", metadata.RoleUser, cheapHash(t, "pw-of-gone"))
		disabled := true
		change(t, db, "gone", metadata.UserChange{Disabled: &disabled})
		secret, _ := auth.NewSecret(auth.PersonalPrefix)
		return authtest.Fixture{
			Authenticator: auth.NewPasswords(db, hasher, nil),
			Good:          auth.Credentials{Username: "alice", Password: "right:with:colons"},
			Who:           "alice",
			Wrong: []auth.Credentials{
				{Username: "alice", Password: "not-this-one"},
				{Username: "alice", Password: ""},
				{Username: "alice", Password: strings.Repeat("x", 5000)},
				{Username: "nopassword", Password: ""},
				{Username: "nopassword", Password: "x"},
				{Username: "gone", Password: "pw-of-gone"},
			},
			Foreign: []auth.Credentials{{Username: "nobody", Password: "x"}, {Username: "Alice", Password: "right:with:colons"}, {Username: "alice", Password: secret}, {Bearer: "opaque"}},
			Break:   func() { db.Close() },
		}
	})
}

func TestTokensContract(t *testing.T) {
	authtest.Test(t, func(t *testing.T) authtest.Fixture {
		db := open(t)
		addUser(t, db, "root", metadata.RoleAdmin, cheapHash(t, "x"))
		addUser(t, db, "alice", metadata.RoleUser, "")
		addUser(t, db, "gone", metadata.RoleUser, "")
		update(t, db, func(ctx context.Context, tx *metadata.Tx) error {
			_, err := tx.CreateTeam(ctx, "team", "")
			return err
		})
		disabled := true
		change(t, db, "gone", metadata.UserChange{Disabled: &disabled})
		past := time.Now().Add(-time.Minute)
		robot := addToken(t, db, metadata.Token{Kind: metadata.RobotToken, Name: "ci", Team: "team", Repositories: "*", Actions: []string{"push"}})
		expired := addToken(t, db, metadata.Token{Kind: metadata.PersonalToken, Name: "old", User: "alice", Repositories: "*", Actions: []string{"pull"}, ExpiresAt: &past})
		gone := addToken(t, db, metadata.Token{Kind: metadata.PersonalToken, Name: "x", User: "gone", Repositories: "*", Actions: []string{"pull"}})
		unknown, _ := auth.NewSecret(auth.RobotPrefix)
		return authtest.Fixture{
			Authenticator: auth.NewTokens(db, nil, nil),
			Good:          auth.Credentials{Username: "any name goes", Password: robot},
			Who:           "team+ci",
			Wrong: []auth.Credentials{
				{Bearer: expired}, {Bearer: gone}, {Bearer: unknown}, {Username: "alice", Password: unknown},
				{Bearer: robot[:len(robot)-1]}, {Bearer: robot + "x"}, {Bearer: auth.PersonalPrefix}, {Bearer: auth.RobotPrefix + strings.Repeat("!", 38)},
			},
			Foreign: []auth.Credentials{{Username: "alice", Password: "berth"}, {Bearer: "a.b.c"}, {Username: robot, Password: "x"}},
			Break:   func() { db.Close() },
		}
	})
}

// TestDeployTokenIsNotForManagement: whatever its row says.
func TestDeployTokenIsNotForManagement(t *testing.T) {
	db := open(t)
	update(t, db, func(ctx context.Context, tx *metadata.Tx) error {
		_, err := tx.CreateTeam(ctx, "team", "")
		return err
	})
	secret := addToken(t, db, metadata.Token{Kind: metadata.DeployToken, Name: "prod", Team: "team", Repositories: "*", Actions: []string{"pull", "admin"}})
	p, err := auth.NewTokens(db, nil, nil).Authenticate(t.Context(), auth.Credentials{Bearer: secret})
	if err != nil || p.Limit.Actions != auth.Pull || p.MayManage() {
		t.Errorf("%+v, %v", p, err)
	}
}

// TestPasswordTakesEffectAtOnce: what is remembered of a verified password
// gives nothing to somebody whose password or state has changed since.
func TestPasswordTakesEffectAtOnce(t *testing.T) {
	ctx := context.Background()
	db := open(t)
	addUser(t, db, "root", metadata.RoleAdmin, cheapHash(t, "x"))
	addUser(t, db, "alice", metadata.RoleUser, cheapHash(t, "old"))
	passwords := auth.NewPasswords(db, auth.NewHasher(0), nil)
	as := func(password string) error {
		_, err := passwords.Authenticate(ctx, auth.Credentials{Username: "alice", Password: password})
		return err
	}
	if err := as("old"); err != nil {
		t.Fatal(err)
	}
	hash := cheapHash(t, "new")
	change(t, db, "alice", metadata.UserChange{PasswordHash: &hash})
	if err := as("old"); !errors.Is(err, auth.ErrWrong) {
		t.Errorf("the old password: %v", err)
	}
	if err := as("new"); err != nil {
		t.Errorf("the new password: %v", err)
	}
	role := metadata.RoleAdmin
	change(t, db, "alice", metadata.UserChange{Role: &role})
	if p, err := passwords.Authenticate(ctx, auth.Credentials{Username: "alice", Password: "new"}); err != nil || !p.IsAdmin() {
		t.Errorf("promoted: %+v, %v", p, err)
	}
	disabled := true
	change(t, db, "alice", metadata.UserChange{Disabled: &disabled})
	if err := as("new"); !errors.Is(err, auth.ErrWrong) {
		t.Errorf("disabled: %v", err)
	}
	if err := as("wrong"); auth.WrongReason(err) != auth.WrongReason(auth.ErrWrong) {
		t.Errorf("that alice is disabled is told without the password: %v", err)
	}
}

// TestSlowHashIsPaidOnce: 200 requests with one password cost one hash, also
// when they come at the same time.
func TestSlowHashIsPaidOnce(t *testing.T) {
	ctx := context.Background()
	db := open(t)
	hasher := auth.NewHasher(0)
	hash, err := hasher.Hash(ctx, "pw")
	if err != nil {
		t.Fatal(err)
	}
	addUser(t, db, "root", metadata.RoleAdmin, hash)
	passwords := auth.NewPasswords(db, hasher, nil)
	before := hasher.Runs()
	var wg sync.WaitGroup
	for range 200 {
		wg.Go(func() {
			if _, err := passwords.Authenticate(ctx, auth.Credentials{Username: "root", Password: "pw"}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := hasher.Runs() - before; n != 1 {
		t.Errorf("%d hashes for 200 sign-ins", n)
	}
}

// TestUnknownUserTakesAsLong: a refusal costs one hash whether or not there is
// such a user, so its time does not tell. It is counted and not measured.
func TestUnknownUserTakesAsLong(t *testing.T) {
	ctx := context.Background()
	db := open(t)
	hasher := auth.NewHasher(0)
	addUser(t, db, "alice", metadata.RoleAdmin, cheapHash(t, "pw"))
	addUser(t, db, "nopassword", metadata.RoleUser, "")
	chain := auth.NewChain(nil, auth.NewTokens(db, nil, nil), auth.NewPasswords(db, hasher, nil))
	unknown, _ := auth.NewSecret(auth.PersonalPrefix)
	for _, tt := range []struct {
		c    auth.Credentials
		runs int64
	}{
		{auth.Credentials{Username: "alice", Password: "guess"}, 1},
		{auth.Credentials{Username: "nobody", Password: "guess"}, 1},
		{auth.Credentials{Username: "nopassword", Password: "guess"}, 1},
		{auth.Credentials{Username: "not a name!", Password: "guess"}, 1},
		{auth.Credentials{Username: "", Password: "guess"}, 1},
		// For these names play no part, and a flood of them costs nothing.
		{auth.Credentials{Username: "alice", Password: unknown}, 0},
		{auth.Credentials{Bearer: unknown}, 0},
		{auth.Credentials{Bearer: "opaque"}, 0},
	} {
		tt.c.RemoteAddr = "192.0.2.1:1"
		before := hasher.Runs()
		if _, err := chain.Authenticate(ctx, tt.c); !errors.Is(err, auth.ErrWrong) {
			t.Fatalf("%v: %v", tt.c, err)
		}
		if n := hasher.Runs() - before; n != tt.runs {
			t.Errorf("%v: %d hashes, want %d", tt.c, n, tt.runs)
		}
	}
}

// answer is an authenticator that says one thing and counts.
type answer struct {
	p     auth.Principal
	err   error
	asked int
}

func (a *answer) Authenticate(context.Context, auth.Credentials) (auth.Principal, error) {
	a.asked++
	return a.p, a.err
}

func TestChain(t *testing.T) {
	ctx := context.Background()
	alice := auth.Principal{Kind: auth.KindUser, ID: 1, Name: "alice"}
	yes := func() *answer { return &answer{p: alice} }
	say := func(err error) *answer { return &answer{err: err} }
	for name, tt := range map[string]struct {
		list  []*answer
		asked int
		want  error
	}{
		"first":              {[]*answer{yes(), yes()}, 1, nil},
		"second":             {[]*answer{say(auth.ErrNotMine), yes()}, 2, nil},
		"wrong is final":     {[]*answer{say(auth.ErrWrong), yes()}, 1, auth.ErrWrong},
		"nobody knows":       {[]*answer{say(auth.ErrNotMine), say(auth.ErrNotMine)}, 2, auth.ErrWrong},
		"nobody there":       {nil, 0, auth.ErrWrong},
		"down is final":      {[]*answer{say(oci.ErrUnavailable), yes()}, 1, oci.ErrUnavailable},
		"deadline is final":  {[]*answer{say(context.DeadlineExceeded), yes()}, 1, context.DeadlineExceeded},
		"nobody named":       {[]*answer{{}, yes()}, 1, nil},
		"anonymous is named": {[]*answer{{p: auth.Anonymous()}, yes()}, 1, nil},
	} {
		var list []auth.Authenticator
		for _, a := range tt.list {
			list = append(list, a)
		}
		p, err := auth.NewChain(nil, list...).Authenticate(ctx, auth.Credentials{Username: "a", Password: "b", RemoteAddr: "192.0.2.1:1"})
		asked := 0
		for _, a := range tt.list {
			asked += a.asked
		}
		if asked != tt.asked {
			t.Errorf("%s: %d were asked, want %d", name, asked, tt.asked)
		}
		switch {
		case strings.HasSuffix(name, "named"): // a broken authenticator opens nothing, and is no "wrong password"
			if err == nil || errors.Is(err, auth.ErrWrong) {
				t.Errorf("%s: %v, %v", name, p, err)
			}
		case tt.want == nil:
			if err != nil || p.String() != "alice" {
				t.Errorf("%s: %v, %v", name, p, err)
			}
		case !errors.Is(err, tt.want) || errors.Is(err, auth.ErrWrong) != (tt.want == auth.ErrWrong):
			t.Errorf("%s: %v, want %v", name, err, tt.want)
		}
	}
}

// TestThrottle: guesses are limited for a name at an address, and neither the
// name elsewhere nor others at the address suffer. Who is known to be right gets in.
func TestThrottle(t *testing.T) {
	ctx := context.Background()
	now := time.Unix(1_700_000_000, 0)
	clock := func() time.Time { return now }
	db := open(t)
	addUser(t, db, "alice", metadata.RoleAdmin, cheapHash(t, "right"))
	addUser(t, db, "bob", metadata.RoleUser, cheapHash(t, "right"))
	token := addToken(t, db, metadata.Token{Kind: metadata.PersonalToken, Name: "t", User: "alice", Repositories: "*", Actions: []string{"pull"}})
	chain := auth.NewChain(clock, auth.NewTokens(db, nil, clock), auth.NewPasswords(db, auth.NewHasher(0), clock))
	as := func(name, password, address string) error {
		_, err := chain.Authenticate(ctx, auth.Credentials{Username: name, Password: password, RemoteAddr: address})
		return err
	}
	var throttled *auth.ThrottledError
	const here, there = "192.0.2.1:4000", "192.0.2.2:4000"
	for i := range 10 {
		if err := as("alice", "guess", here); !errors.Is(err, auth.ErrWrong) {
			t.Fatalf("guess %d: %v", i, err)
		}
	}
	if err := as("alice", "guess", "192.0.2.1:4001"); !errors.As(err, &throttled) || throttled.RetryAfter <= 0 || throttled.RetryAfter > time.Minute {
		t.Fatalf("guess 11: %v", err)
	}
	if err := as("ALICE", "guess", here); !errors.As(err, &throttled) {
		t.Errorf("another spelling: %v", err)
	}
	// The right password tells nothing either while guesses are refused ...
	if err := as("alice", "right", here); !errors.As(err, &throttled) {
		t.Errorf("the right password, not known yet: %v", err)
	}
	// ... but only here, only for her, and not for tokens.
	for _, tt := range [][3]string{{"alice", "right", there}, {"bob", "right", here}, {"alice", token, here}} {
		if err := as(tt[0], tt[1], tt[2]); err != nil {
			t.Errorf("%s at %s: %v", tt[0], tt[2], err)
		}
	}
	// Her password is known to be right by now, so the attacker beside her cannot lock her out.
	if err := as("alice", "right", here); err != nil {
		t.Errorf("the right password, known: %v", err)
	}
	if err := as("alice", "guess", here); !errors.As(err, &throttled) {
		t.Errorf("a guess after her success: %v", err)
	}
	now = now.Add(throttled.RetryAfter)
	if err := as("alice", "guess", here); !errors.Is(err, auth.ErrWrong) {
		t.Errorf("after the wait: %v", err)
	}
	// An expired or unknown token is told so each time.
	unknown, _ := auth.NewSecret(auth.PersonalPrefix)
	for range 30 {
		if err := as("ci", unknown, here); !errors.Is(err, auth.ErrWrong) {
			t.Fatal(err)
		}
	}
	// An IPv6 client has 2^64 addresses of its own; they are one.
	for i := range 11 {
		err := as("bob", "guess", "[2001:db8::"+string("0123456789abcdef"[i])+"]:1")
		if i == 10 && !errors.As(err, &throttled) {
			t.Errorf("from many addresses of one network: %v", err)
		}
	}
	if err := as("bob", "guess", "[2001:db8:0:1::1]:1"); !errors.Is(err, auth.ErrWrong) {
		t.Errorf("from another network: %v", err)
	}
}

// ticket is an authenticator of tokens that stand in place of a password.
type ticket struct{ answer }

func (*ticket) Unguessable(c auth.Credentials) bool { return c.Username == "oauth2" }

// Wrong tokens of a provider, all under one name, lock out nobody behind the same address.
func TestThrottleLeavesTokensOut(t *testing.T) {
	a := &ticket{answer{err: auth.ErrWrong}}
	chain := auth.NewChain(nil, a)
	for i := range 30 {
		_, err := chain.Authenticate(t.Context(), auth.Credentials{Username: "oauth2", Password: "expired", RemoteAddr: "192.0.2.1:1"})
		if !errors.Is(err, auth.ErrWrong) {
			t.Fatalf("token %d: %v, want ErrWrong", i, err)
		}
	}
	var throttled *auth.ThrottledError
	for range 11 {
		_, err := chain.Authenticate(t.Context(), auth.Credentials{Username: "alice", Password: "guess", RemoteAddr: "192.0.2.1:1"})
		if errors.As(err, &throttled) {
			return
		}
	}
	t.Error("guesses of a password are not limited")
}

// gate is an authenticator that takes its time for each password, and knows one.
type gate struct {
	asked chan string
	open  chan struct{}
}

func (g *gate) Authenticate(_ context.Context, c auth.Credentials) (auth.Principal, error) {
	g.asked <- c.Password
	<-g.open
	if c.Password == "right" {
		return auth.Principal{Kind: auth.KindUser, ID: 1, Name: c.Username}, nil
	}
	return auth.Principal{}, auth.ErrWrong
}

// TestThrottleCountsWhatIsUnderWay: sending all guesses at the same time, before the
// first of them has failed, gains nothing; a client that shows one password with many
// requests at a time is no guesser.
func TestThrottleCountsWhatIsUnderWay(t *testing.T) {
	const requests = 100
	try := func(password func(i int) string) (asked, throttled, right int) {
		g := &gate{make(chan string, requests), make(chan struct{})}
		chain := auth.NewChain(nil, g)
		outcomes := make(chan error, requests)
		for i := range requests {
			go func() {
				p, err := chain.Authenticate(t.Context(), auth.Credentials{Username: "alice", Password: password(i), RemoteAddr: "192.0.2.1:1"})
				if err == nil && p.Name != "alice" {
					err = fmt.Errorf("it is %s", p)
				}
				outcomes <- err
			}()
		}
		// Each request is either refused by now, or waits at the gate.
		for range requests {
			var refused *auth.ThrottledError
			select {
			case err := <-outcomes:
				if throttled++; !errors.As(err, &refused) || refused.RetryAfter <= 0 {
					t.Fatal(err)
				}
			case <-g.asked:
				asked++
			}
		}
		close(g.open)
		for range asked {
			if err := <-outcomes; err == nil {
				right++
			} else if !errors.Is(err, auth.ErrWrong) {
				t.Error(err)
			}
		}
		if n := auth.ThrottleTrying(chain); n != 0 {
			t.Errorf("%d names are remembered as being tried", n)
		}
		return asked, throttled, right
	}
	if asked, throttled, _ := try(func(i int) string { return fmt.Sprint("guess ", i) }); asked != 10 || throttled != requests-10 {
		t.Errorf("%d guesses were looked at and %d refused, want 10 and %d", asked, throttled, requests-10)
	}
	if asked, throttled, right := try(func(int) string { return "right" }); asked != requests || throttled != 0 || right != requests {
		t.Errorf("of %d requests with the right password %d were looked at, %d refused, %d right", requests, asked, throttled, right)
	}
}

// TestThrottleIsBounded: 100,000 names do not take memory for ever.
func TestThrottleIsBounded(t *testing.T) {
	chain := auth.NewChain(nil, &answer{err: auth.ErrWrong})
	for i := range 100_000 {
		name := strings.Repeat("x", 500) + string(rune(i))
		if _, err := chain.Authenticate(context.Background(), auth.Credentials{Username: name, Password: "p", RemoteAddr: "192.0.2.1:1"}); !errors.Is(err, auth.ErrWrong) {
			var throttled *auth.ThrottledError
			if !errors.As(err, &throttled) {
				t.Fatal(err)
			}
		}
	}
	if n := auth.ThrottleEntries(chain); n > 16384 {
		t.Errorf("%d entries", n)
	}
}

// TestRecheck: see server.TestRefreshToken for the whole way.
func TestRecheck(t *testing.T) {
	ctx := context.Background()
	db := open(t)
	u := addUser(t, db, "alice", metadata.RoleAdmin, cheapHash(t, "pw"))
	addUser(t, db, "root", metadata.RoleAdmin, cheapHash(t, "pw"))
	r := auth.NewRefresher(db, nil)
	alice := auth.Principal{Kind: auth.KindUser, ID: u.ID, Name: "alice", Admin: true}
	proof, err := r.Proof(ctx, alice)
	if err != nil {
		t.Fatal(err)
	}
	if p, err := r.Recheck(ctx, alice, proof); err != nil || p.String() != "alice" {
		t.Errorf("%v, %v", p, err)
	}
	for name, bad := range map[string]struct {
		p     auth.Principal
		proof string
	}{
		"another proof":    {alice, "password:00"},
		"no proof":         {alice, ""},
		"nobody":           {auth.Anonymous(), proof},
		"an unknown user":  {auth.Principal{Kind: auth.KindUser, ID: 999, Name: "alice"}, proof},
		"an unknown token": {auth.Principal{Kind: auth.KindRobot, TokenID: 999}, "token:999"},
		"another's token":  {auth.Principal{Kind: auth.KindRobot, TokenID: 999}, "token:1"},
		"a zero principal": {auth.Principal{}, ""},
	} {
		if p, err := r.Recheck(ctx, bad.p, bad.proof); !errors.Is(err, auth.ErrWrong) {
			t.Errorf("%s: %v, %v", name, p, err)
		}
	}
	role := metadata.RoleUser
	change(t, db, "alice", metadata.UserChange{Role: &role})
	for _, f := range []func() (auth.Principal, error){
		func() (auth.Principal, error) { return r.Recheck(ctx, alice, proof) },
		func() (auth.Principal, error) { return r.Current(ctx, alice) },
	} {
		if p, err := f(); err != nil || p.IsAdmin() {
			t.Errorf("demoted: %v, %v", p, err)
		}
	}
	// What a sign-in was limited to, and what it brought along, is not lost on the way.
	limited := alice
	limited.Limit = &auth.Limit{Repositories: "core/*", Actions: auth.Pull}
	limited.Everywhere, limited.AskTeams, limited.Claims = auth.Pull, true, map[string]string{"realm": "services"}
	want := limited
	want.Admin = false // since the change above
	if p, err := r.Current(ctx, limited); err != nil || !reflect.DeepEqual(p, want) {
		t.Errorf("a limited sign-in is now %+v, %v", p, err)
	}
	if _, err := r.Proof(ctx, auth.Anonymous()); err == nil {
		t.Error("nobody has a proof")
	}
}

func TestLastUse(t *testing.T) {
	ctx := context.Background()
	db := open(t)
	addUser(t, db, "alice", metadata.RoleAdmin, "")
	secret := addToken(t, db, metadata.Token{Kind: metadata.PersonalToken, Name: "t", User: "alice", Repositories: "*", Actions: []string{"pull"}})
	tokens := auth.NewTokens(db, nil, nil)
	if _, err := tokens.Authenticate(ctx, auth.Credentials{Bearer: secret}); err != nil {
		t.Fatal(err)
	}
	err := db.View(ctx, func(tx *metadata.Tx) error {
		list, err := tx.Tokens(ctx, "alice", "", "", 10)
		if err == nil && (len(list) != 1 || list[0].LastUsedAt == nil || time.Since(*list[0].LastUsedAt).Abs() > time.Minute) {
			t.Errorf("%+v", list)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// A limit within another opens nothing that the other does not, checked against names,
// tags and addresses.
func TestLimitWithin(t *testing.T) {
	globs := []string{"", "*", "a*", "*a", "ab*", "a?", "?b", "a*b", "ab", "**", "?*"}
	cidrs := [][]string{nil, {"10.0.0.0/8"}, {"10.1.0.0/16"}, {"10.1.0.0/16", "11.0.0.0/8"}, {"::/0"}, {"0.0.0.0/0"}}
	names := []string{"a", "b", "ab", "ba", "aab", "abb", "xyz"}
	addresses := []string{"10.0.0.1", "10.1.0.1", "11.0.0.1", "12.0.0.1", "2001:db8::1", ""}
	var limits []*auth.Limit
	for i, g := range globs {
		for j, tags := range globs {
			limits = append(limits, &auth.Limit{Repositories: g, Tags: tags, Actions: auth.Actions(1 + (i+j)%15), CIDRs: cidrs[(i+j)%len(cidrs)]})
		}
	}
	limits = append(limits, nil)
	within := 0
	for _, in := range limits {
		for _, out := range limits {
			if !in.Within(out) {
				continue
			}
			within++
			if in == nil && out != nil {
				t.Fatalf("no limit is within %+v", out)
			}
			if in == nil || out == nil {
				continue
			}
			if in.Actions&^out.Actions != 0 {
				t.Errorf("%+v is not within %+v: actions", in, out)
			}
			for _, n := range names {
				if oci.Match(in.Repositories, n) && !oci.Match(out.Repositories, n) {
					t.Errorf("%+v is not within %+v: the repository %s", in, out, n)
				}
				if in.AllowsTag(auth.Push, n) && !out.AllowsTag(auth.Push, n) {
					t.Errorf("%+v is not within %+v: the tag %s", in, out, n)
				}
			}
			for _, a := range addresses {
				if in.AllowsFrom(a) && !out.AllowsFrom(a) {
					t.Errorf("%+v is not within %+v: the address %s", in, out, a)
				}
			}
		}
		if !in.Within(in) || !in.Within(nil) {
			t.Errorf("%+v is not within itself", in)
		}
	}
	if within < 2*len(limits) {
		t.Errorf("only %d pairs are within each other", within)
	}
}

func TestParseCIDRs(t *testing.T) {
	got, err := auth.ParseCIDRs([]string{"10.1.2.3/8", "2001:db8::1", "192.168.1.1", "10.0.0.0/8"})
	if want := "[10.0.0.0/8 192.168.1.1/32 2001:db8::1/128]"; err != nil || fmt.Sprint(got) != want {
		t.Errorf("got %v, %v; want %s", got, err, want)
	}
	for _, bad := range []string{"", "10.0.0.0/33", "10.0.0", "localhost", "::ffff:10.0.0.1/104", "10.0.0.0/8,11.0.0.0/8", "fe80::1%eth0/64"} {
		if _, err := auth.ParseCIDRs([]string{bad}); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
	if _, err := auth.ParseCIDRs(make([]string, 33)); err == nil {
		t.Error("33 networks were taken")
	}
}
