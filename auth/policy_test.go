package auth

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"berth/metadata"
	"berth/oci"
)

func TestDecide(t *testing.T) {
	user := func(limit *Limit) Principal { return Principal{Kind: KindUser, ID: 1, Name: "u", Limit: limit} }
	admin := func(limit *Limit) Principal {
		return Principal{Kind: KindUser, ID: 1, Name: "u", Admin: true, Limit: limit}
	}
	robot := func(actions Actions, glob string) Principal {
		return Principal{Kind: KindRobot, ID: 2, Name: "r", Team: "team", TeamID: 3, Limit: &Limit{Repositories: glob, Actions: actions}}
	}
	about := func(visibility, role string) metadata.AccessFacts {
		return metadata.AccessFacts{Exists: visibility != "", Visibility: visibility, Role: role}
	}
	for _, tt := range []struct {
		name   string
		p      Principal
		repo   string
		f      metadata.AccessFacts
		public bool
		want   Actions
		rule   Rule
	}{
		{"nobody, private", Anonymous(), "team/a", about("private", ""), false, 0, RuleAnonymous},
		{"nobody, internal", Anonymous(), "team/a", about("internal", ""), false, 0, RuleAnonymous},
		{"nobody, public", Anonymous(), "team/a", about("public", ""), false, Pull, RulePublic},
		{"nobody, absent", Anonymous(), "team/a", about("", ""), false, 0, RuleAnonymous},
		{"nobody, public read", Anonymous(), "team/a", about("private", ""), true, Pull, RulePublicRead},
		{"the zero principal", Principal{}, "team/a", about("private", "maintainer"), false, 0, RuleAnonymous},
		{"an unknown kind", Principal{Kind: "group", Admin: true}, "team/a", about("private", "maintainer"), false, 0, RuleAnonymous},
		{"stranger, private", user(nil), "team/a", about("private", ""), false, 0, RuleNoMember},
		{"stranger, internal", user(nil), "team/a", about("internal", ""), false, Pull, RuleInternal},
		{"stranger, public", user(nil), "team/a", about("public", ""), false, Pull, RulePublic},
		{"stranger, absent", user(nil), "team/a", about("", ""), false, 0, RuleNoMember},
		{"reader", user(nil), "team/a", about("private", "reader"), false, Pull, RuleReader},
		{"member", user(nil), "team/a", about("private", "member"), false, Pull | Push, RuleMember},
		{"maintainer", user(nil), "team/a", about("private", "maintainer"), false, AllActions, RuleMaintainer},
		{"member, absent", user(nil), "team", about("", "member"), false, Pull | Push, RuleMember},
		{"an unknown role", user(nil), "team/a", about("private", "owner"), false, 0, RuleNoMember},
		{"admin", admin(nil), "team/a", about("private", ""), false, AllActions, RuleAdmin},
		{"admin, token", admin(&Limit{Repositories: "team/*", Actions: Pull}), "team/a", about("private", ""), false, Pull, RuleLimit},
		{"admin, token elsewhere", admin(&Limit{Repositories: "team/*", Actions: Pull}), "other/a", about("private", ""), false, 0, RuleLimit},
		{"maintainer, token", user(&Limit{Repositories: "*", Actions: Pull | Push}), "team/a", about("private", "maintainer"), false, Pull | Push, RuleLimit},
		{"reader, wide token", user(&Limit{Repositories: "*", Actions: AllActions}), "team/a", about("private", "reader"), false, Pull, RuleReader},
		{"member, token elsewhere, public", user(&Limit{Repositories: "other/*", Actions: AllActions}), "team/a", about("public", "member"), false, Pull, RuleLimit},
		{"push token, public", user(&Limit{Repositories: "*", Actions: Push}), "team/a", about("public", "member"), false, Pull | Push, RuleLimit},
		{"robot", robot(Pull|Push, "*"), "team/a", about("private", ""), false, Pull | Push, RuleRobot},
		{"robot, its team's own name", robot(Pull, "*"), "team", about("private", ""), false, Pull, RuleRobot},
		{"robot, pattern", robot(Pull|Push, "team/b*"), "team/a", about("private", ""), false, 0, RuleLimit},
		{"robot, another team", robot(AllActions, "*"), "teamwork/a", about("private", ""), false, 0, RuleNoMember},
		{"robot, internal elsewhere", robot(AllActions, "*"), "other/a", about("internal", ""), false, Pull, RuleInternal},
		{"robot without pull, internal elsewhere", robot(Push, "*"), "other/a", about("internal", ""), false, 0, RuleLimit},
		{"robot has no role", robot(Pull, "*"), "other/a", about("private", "maintainer"), false, 0, RuleNoMember},
		{"robot without a limit", Principal{Kind: KindRobot, Team: "team"}, "team/a", about("private", ""), false, 0, RuleNoMember},
		{"robot without a team", Principal{Kind: KindRobot, Limit: &Limit{Repositories: "*", Actions: AllActions}}, "team/a", about("private", ""), false, 0, RuleNoMember},
		{"robot that says it is admin", Principal{Kind: KindRobot, Team: "x", Admin: true, Limit: &Limit{Repositories: "*", Actions: AllActions}}, "team/a", about("private", ""), false, 0, RuleNoMember},
	} {
		if got := decide(tt.p, tt.repo, facts{AccessFacts: tt.f, publicRead: tt.public}); got.Actions != tt.want || got.Rule != tt.rule {
			t.Errorf("%s: %v by %s, want %v by %s", tt.name, got.Actions, got.Rule, tt.want, tt.rule)
		}
	}
}

// TestDecideProperties checks what has to hold for every combination of facts.
func TestDecideProperties(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	pick := func(s ...string) string { return s[random.IntN(len(s))] }
	some := func() Actions { return Actions(random.IntN(int(AllActions) + 1)) }
	for range 200_000 {
		repo := pick("team/a", "team/b", "team", "other/a", "teamwork/x", "a")
		f := facts{
			AccessFacts: metadata.AccessFacts{
				Visibility: pick("", "public", "internal", "private"), Role: pick("", "reader", "member", "maintainer"),
				Granted: pick("", "", some().String()), GroupGranted: pick("", "", some().String()), Gone: random.IntN(10) == 0,
			},
			publicRead: random.IntN(4) == 0,
			stale:      random.IntN(10) == 0,
		}
		f.Exists = f.Visibility != ""
		limit := &Limit{Repositories: pick("*", "team/*", "*/a", "other/a", ""), Actions: some()}
		if random.IntN(4) == 0 {
			limit.CIDRs = []string{"10.0.0.0/8"}
		}
		p := Principal{Kind: Kind(pick("user", "robot", "machine", "anonymous", "")), ID: 1, Name: "x", Team: pick("team", "other", ""), Admin: random.IntN(4) == 0, RemoteAddr: pick("10.1.2.3", "192.0.2.1:99", "")}
		owner := p
		p.Limit = limit
		got := decide(p, repo, f)
		everybody := decide(Anonymous(), repo, f)
		fail := func(why string) {
			t.Helper()
			t.Fatalf("%s: %+v limit %+v on %s, facts %+v: %v by %s", why, p, limit, repo, f, got.Actions, got.Rule)
		}
		switch {
		case got.Actions&^AllActions != 0 || got.Rule == "":
			fail("an unknown action, or no rule")
		case everybody.Actions&^Pull != 0:
			fail("nobody may do more than pull")
		case everybody.Actions&^got.Actions != 0:
			fail("signing in takes something away")
		case got.Actions&^everybody.Actions&^limit.allows(repo, p.RemoteAddr) != 0:
			fail("more than the token carries")
		case p.Kind == KindUser && got.Actions&^decide(owner, repo, f).Actions != 0:
			fail("more than the owner has")
		case p.Kind == KindRobot && oci.Team(repo) != p.Team && got.Actions&^Pull != 0:
			fail("a robot changes something outside of its team")
		case p.IsAnonymous() && got.Actions != everybody.Actions:
			fail("an unknown kind has rights")
		case p.Kind != KindUser && decide(p, repo, facts{AccessFacts: metadata.AccessFacts{Visibility: f.Visibility}, publicRead: f.publicRead}).Actions != got.Actions:
			fail("facts about a user count for somebody else")
		case p.Kind == KindUser && !p.Admin && (f.Gone || f.stale) && got.Actions != everybody.Actions:
			fail("a user who is gone has rights")
		case !f.publicRead && f.Visibility == "" && f.Role == "" && f.Granted == "" && f.GroupGranted == "" && !p.Admin && p.Kind == KindUser && got.Actions != 0:
			fail("rights out of nothing")
		}
		for _, n := range actionNames {
			if got.By(n.action) == "" {
				fail("no rule for " + n.name)
			}
		}
		// A wider limit never takes away, a lower role never adds.
		wider := p
		wider.Limit = &Limit{Repositories: "*", Actions: limit.Actions | some()}
		if got.Actions&^decide(wider, repo, f).Actions != 0 {
			fail("a wider token carries less")
		}
		without := f
		without.Role = ""
		if decide(p, repo, without).Actions&^got.Actions != 0 {
			fail("membership takes something away")
		}
		// A grant adds what it names to the owner, and nothing else; it never removes.
		add := some()
		more := f
		if random.IntN(2) == 0 {
			more.Granted = strings.Trim(f.Granted+","+add.String(), ",")
		} else {
			more.GroupGranted = strings.Trim(f.GroupGranted+","+add.String(), ",")
		}
		if after := decide(p, repo, more); got.Actions&^after.Actions != 0 {
			fail("a grant takes something away")
		} else if after.Actions&^got.Actions&^add != 0 {
			fail("a grant gives more than it says")
		}
		// There being a private repository makes no difference to strangers.
		if f.Visibility == "private" {
			absent := f
			absent.Exists, absent.Visibility = false, ""
			if decide(p, repo, absent) != got {
				fail("a private repository and none differ")
			}
		}
		// A denial that meets somebody always wins, but for the administration by
		// administrators; one that does not changes nothing.
		n := denial{name: "no", principal: pick("*", "x", p.String(), "y", "team+*"), repository: pick("*", repo, "team/*", "none"), actions: some()}
		if random.IntN(2) == 0 {
			n.somewhere, n.network = true, netip.MustParsePrefix("10.0.0.0/8")
		}
		denying := f
		denying.denials = []denial{n}
		after := decide(p, repo, denying)
		taken := n.actions
		if p.IsAdmin() {
			taken &^= Admin
		}
		here := !n.somewhere || p.RemoteAddr != "192.0.2.1:99" // not known counts as there
		switch meets := oci.Match(n.principal, p.String()) && oci.Match(n.repository, repo) && here; {
		case !meets && after != got:
			fail("a denial that is about others counts")
		case meets && after.Actions != got.Actions&^taken:
			fail("a denial does not win")
		case meets && got.Actions&taken != 0 && (after.Rule != RuleDenied || after.Denial != "no"):
			fail("a denial is not named")
		}
	}
}

// TestPolicyOnDatabase: decisions follow the rows, at once; and lists show
// exactly what may be pulled.
func TestPolicyOnDatabase(t *testing.T) {
	ctx := context.Background()
	db, err := metadata.Open(ctx, metadata.Options{URL: "sqlite:" + filepath.Join(t.TempDir(), "berth.db")})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Migrate(ctx); err != nil {
		t.Fatal(err)
	}
	update := func(fn func(tx *metadata.Tx) error) {
		t.Helper()
		if err := db.Update(ctx, fn); err != nil {
			t.Fatal(err)
		}
	}
	users := map[string]Principal{}
	roles := []string{"reader", "member", "maintainer"}
	var names []string
	update(func(tx *metadata.Tx) error {
		for _, team := range []string{"team", "other"} {
			if _, err := tx.CreateTeam(ctx, team, ""); err != nil {
				return err
			}
			for _, visibility := range []string{"public", "internal", "private"} {
				name := team + "/" + visibility
				names = append(names, name)
				if _, _, err := tx.EnsureRepository(ctx, name, visibility, "test"); err != nil {
					return err
				}
			}
		}
		for _, name := range append(roles, "stranger", "admin") {
			role := "user"
			if name == "admin" {
				role = name
			}
			u, err := tx.CreateUser(ctx, metadata.User{Name: name, Role: role})
			if err != nil {
				return err
			}
			users[name] = userPrincipal(u)
		}
		for _, name := range roles {
			if err := tx.PutMember(ctx, "team", name, name); err != nil {
				return err
			}
		}
		return nil
	})
	names = append(names, "team/absent", "absent/absent")
	slices.Sort(names)

	y := NewPolicy(db, PolicyOptions{})
	robot := Principal{Kind: KindRobot, ID: 1, Name: "r", Team: "team", TeamID: 1, Limit: &Limit{Repositories: "*", Actions: Pull | Push}}
	all := map[string]Principal{"anonymous": Anonymous(), "robot": robot}
	for name, p := range users {
		all[name] = p
		for _, l := range []Limit{{Repositories: "*", Actions: Pull}, {Repositories: "team/p*", Actions: AllActions}, {Repositories: "other/*", Actions: Pull | Push}, {Repositories: "*", Actions: Push}, {Actions: AllActions}} {
			p.Limit = &l
			all[fmt.Sprintf("%s with %v on %q", name, l.Actions, l.Repositories)] = p
		}
	}
	for _, publicRead := range []bool{false, true} {
		y := NewPolicy(db, PolicyOptions{PublicRead: publicRead})
		for name, p := range all {
			decisions, err := y.ActionsFor(ctx, p, names)
			if err != nil || len(decisions) != len(names) {
				t.Fatalf("%s: %v, %v", name, decisions, err)
			}
			var listed []string
			viewer, err := y.Viewer(ctx, p)
			if err != nil {
				t.Fatal(err)
			}
			err = db.View(ctx, func(tx *metadata.Tx) error {
				repos, err := tx.Repositories(ctx, metadata.RepositoryFilter{Viewer: viewer, Limit: 100})
				for _, r := range repos {
					listed = append(listed, r.Name)
				}
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			for _, repo := range names {
				one, err := y.Actions(ctx, p, repo)
				if err != nil || one != decisions[repo] {
					t.Errorf("%s on %s: %v alone, %v among others, %v", name, repo, one, decisions[repo], err)
				}
				may := one.Actions.Has(Pull) && !strings.HasSuffix(repo, "absent")
				in := slices.Contains(listed, repo)
				// A token with a pattern or without pull lists less than everybody's part.
				if in && !may || may && !in && p.Limit == nil {
					t.Errorf("%s on %s, public read %v: may pull %v, is listed %v", name, repo, publicRead, may, in)
				}
			}
		}
	}

	// The next decision knows.
	member := users["member"]
	if d, _ := y.Actions(ctx, member, "team/private"); d.Actions != Pull|Push {
		t.Errorf("before: %v", d)
	}
	update(func(tx *metadata.Tx) error { return tx.PutMember(ctx, "team", "member", "reader") })
	if d, _ := y.Actions(ctx, member, "team/private"); d.Actions != Pull {
		t.Errorf("as reader: %v", d)
	}
	update(func(tx *metadata.Tx) error { return tx.RemoveMember(ctx, "team", "member") })
	if d, _ := y.Actions(ctx, member, "team/private"); d.Actions != 0 {
		t.Errorf("after: %v", d)
	}

	// Who can help is named for a team that there is; a repository's being there plays no part.
	for _, repo := range []string{"team/private", "team/absent"} {
		d, _ := y.Actions(ctx, users["stranger"], repo)
		r := y.Explain(ctx, users["stranger"], repo, d, Push)
		if r.Rule != RuleNoMember || r.Ask != "a maintainer of the team team: maintainer" || !slices.Equal(r.Missing, []string{"push"}) || !strings.Contains(r.Message(), "may not push on "+repo) {
			t.Errorf("%+v %s", r, r.Message())
		}
	}
	many := make([]string, 1000)
	for i := range many {
		many[i] = fmt.Sprintf("team/%d", i)
	}
	if d, err := y.ActionsFor(ctx, users["maintainer"], many); err != nil || len(d) != 1000 || d["team/999"].Actions != AllActions {
		t.Errorf("a thousand: %d, %v", len(d), err)
	}

	// What cannot be decided is an error and no right.
	db.Close()
	for name, p := range all {
		d, err := y.Actions(ctx, p, "team/public")
		if name == "admin" { // no fact could change that
			continue
		}
		if err == nil || d.Actions != 0 {
			t.Errorf("%s without a database: %v, %v", name, d, err)
		}
	}
	var e *oci.Error
	if r := y.Explain(ctx, users["stranger"], "team/a", Decision{}, Push); r.Ask == "" || errors.As(ctx.Err(), &e) {
		t.Errorf("without a database: %+v", r)
	}
}

func TestPrincipal(t *testing.T) {
	for _, tt := range []struct {
		p              Principal
		name           string
		admin, manages bool
	}{
		{Principal{}, "anonymous", false, false},
		{Anonymous(), "anonymous", false, false},
		{Principal{Kind: KindUser, Name: "u"}, "u", false, true},
		{Principal{Kind: KindUser, Name: "u", Admin: true}, "u", true, true},
		{Principal{Kind: KindUser, Name: "u", Admin: true, Limit: &Limit{Repositories: "*", Actions: AllActions}}, "u", true, true},
		{Principal{Kind: KindUser, Name: "u", Admin: true, Limit: &Limit{Repositories: "*", Actions: Pull | Push | Delete}}, "u", false, false},
		{Principal{Kind: KindUser, Name: "u", Admin: true, Limit: &Limit{Repositories: "team/*", Actions: AllActions}}, "u", false, true},
		{Principal{Kind: KindUser, Name: "u", Admin: true, Limit: &Limit{Repositories: "", Actions: AllActions}}, "u", false, true},
		{Principal{Kind: KindRobot, Name: "r", Team: "t", Admin: true, Limit: &Limit{Repositories: "*", Actions: AllActions}}, "t+r", false, true},
		{Principal{Kind: KindAnonymous, Admin: true}, "anonymous", false, false},
	} {
		if tt.p.String() != tt.name || tt.p.IsAdmin() != tt.admin || tt.p.MayManage() != tt.manages {
			t.Errorf("%+v: %s, admin %v, manages %v", tt.p, tt.p, tt.p.IsAdmin(), tt.p.MayManage())
		}
	}
	if (Pull|Delete).String() != "pull,delete" || Actions(0).String() != "" {
		t.Error("actions are written wrongly")
	}
	if a, err := ParseActions([]string{"push", "pull", "push"}); err != nil || a != Pull|Push {
		t.Errorf("%v, %v", a, err)
	}
	if _, err := ParseActions([]string{"pull", "fly"}); !errors.Is(err, oci.ErrInvalid) {
		t.Errorf("%v", err)
	}
}
