package auth

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"berth/metadata"
	"berth/metadata/metadatatest"
	"berth/oci"
	"berth/testenv"
)

// model is what a random world holds, kept beside the database in the plainest
// form, and worked out without SQL.
type model struct {
	users       []Principal
	names       []string                     // of repositories, and of one that is not there
	visibility  map[string]string            // of those that are
	teams       map[string]map[string]string // team, user: role
	provided    map[string]map[string]string // user, team: role
	groups      map[string]map[string]bool   // group, user
	providedTo  map[string]map[string]bool   // user, group
	disabled    map[string]bool              // groups and users
	userGrants  map[string]map[string]Actions
	groupGrants map[string]map[string]Actions
	denials     map[string]metadata.Denial
}

// rights is the rule as docs/permissions.md tells it.
func (m *model) rights(p Principal, repository string) Actions {
	var set Actions
	team, _, _ := strings.Cut(repository, "/")
	if p.Kind == KindUser && !m.disabled[p.Name] {
		if p.Admin {
			set = AllActions
		}
		for _, role := range []string{m.teams[team][p.Name], m.provided[p.Name][team]} {
			set |= map[string]Actions{"reader": Pull, "member": Pull | Push, "maintainer": AllActions}[role]
		}
		for pattern, actions := range m.userGrants[p.Name] {
			if oci.Match(pattern, repository) {
				set |= actions
			}
		}
		for group, grants := range m.groupGrants {
			if m.disabled[group] || !m.groups[group][p.Name] && !m.providedTo[p.Name][group] {
				continue
			}
			for pattern, actions := range grants {
				if oci.Match(pattern, repository) {
					set |= actions
				}
			}
		}
		if m.visibility[repository] == metadata.Internal {
			set |= Pull
		}
	}
	if p.Limit != nil {
		if !oci.Match(p.Limit.Repositories, repository) {
			set = 0
		}
		set &= p.Limit.Actions
	}
	if m.visibility[repository] == metadata.Public {
		set |= Pull
	}
	for _, d := range m.denials {
		actions, _ := ParseActions(d.Actions)
		if p.IsAdmin() {
			actions &^= Admin
		}
		from := d.CIDR == "" || strings.HasPrefix(p.RemoteAddr, "10.")
		if from && oci.Match(d.Principal, p.String()) && oci.Match(d.Repository, repository) {
			set &^= actions
		}
	}
	return set
}

// TestPolicyModel changes a world at random, and asks after each change whether
// everybody has the rights that the model says, at once (CVE-2025-23208: what is
// taken away is gone); whether lists show exactly what may be pulled; and whether
// no token has more than its owner.
func TestPolicyModel(t *testing.T) {
	metadatatest.Each(t, func(t *testing.T, db *metadata.DB) {
		ctx := t.Context()
		random := rand.New(rand.NewPCG(7, 11))
		pick := func(s ...string) string { return s[random.IntN(len(s))] }
		some := func() Actions { return Actions(1 + random.IntN(int(AllActions))) }
		update := func(what string, fn func(tx *metadata.Tx) error) {
			t.Helper()
			if err := db.Update(ctx, fn); err != nil {
				t.Fatalf("%s: %v", what, err)
			}
		}
		m := &model{
			visibility: map[string]string{}, teams: map[string]map[string]string{"core": {}, "ops": {}}, provided: map[string]map[string]string{},
			groups: map[string]map[string]bool{"devs": {}, "qa": {}}, providedTo: map[string]map[string]bool{}, disabled: map[string]bool{},
			userGrants: map[string]map[string]Actions{}, groupGrants: map[string]map[string]Actions{"devs": {}, "qa": {}}, denials: map[string]metadata.Denial{},
		}
		locals := []string{"alice", "bob"}
		everyone := []string{"alice", "bob", "ext"}
		update("the beginning", func(tx *metadata.Tx) error {
			for _, name := range []string{"core/app", "core/a/deep", "core", "ops/app", "free/app", "free/x"} {
				m.visibility[name] = pick(metadata.Public, metadata.Internal, metadata.Private, metadata.Private)
				if _, _, err := tx.EnsureRepository(ctx, name, m.visibility[name], "x"); err != nil {
					return err
				}
			}
			for team := range m.teams {
				if _, err := tx.CreateTeam(ctx, team, ""); err != nil {
					return err
				}
			}
			for group := range m.groups {
				if _, err := tx.CreateGroup(ctx, group); err != nil {
					return err
				}
			}
			for _, name := range append(locals, "root") {
				role := metadata.RoleUser
				if name == "root" {
					role = metadata.RoleAdmin
				}
				u, err := tx.CreateUser(ctx, metadata.User{Name: name, Role: role})
				if err != nil {
					return err
				}
				m.users = append(m.users, userPrincipal(u))
			}
			return nil
		})
		directory := NewDirectory(db, nil, nil)
		signIn := func() {
			t.Helper()
			id := Identity{Provider: "ldap", Subject: "s", Name: "ext", Teams: m.provided["ext"], Groups: slices.Collect(maps.Keys(m.providedTo["ext"]))}
			p, err := directory.SignIn(ctx, id)
			if err != nil {
				t.Fatal(err)
			}
			if len(m.users) == 3 {
				m.users = append(m.users, p)
			}
		}
		signIn()
		m.names = append(slices.Sorted(maps.Keys(m.visibility)), "ops/absent")

		grantee := func() (metadata.Grantee, map[string]map[string]Actions) {
			if random.IntN(2) == 0 {
				return metadata.Grantee{Group: pick("devs", "qa")}, m.groupGrants
			}
			return metadata.Grantee{User: pick(everyone...)}, m.userGrants
		}
		steps := []func() string{
			func() string {
				team, user, role := pick("core", "ops"), pick(everyone...), pick("reader", "member", "maintainer")
				update("member", func(tx *metadata.Tx) error { return tx.PutMember(ctx, team, user, role) })
				m.teams[team][user] = role
				return user + " is " + role + " of " + team
			},
			func() string {
				for team, members := range m.teams {
					for user := range members {
						update("no member", func(tx *metadata.Tx) error { return tx.RemoveMember(ctx, team, user) })
						delete(members, user)
						return user + " leaves " + team
					}
				}
				return "nothing"
			},
			func() string {
				group, user := pick("devs", "qa"), pick(everyone...)
				update("group member", func(tx *metadata.Tx) error { return tx.PutGroupMember(ctx, group, user) })
				m.groups[group][user] = true
				return user + " joins " + group
			},
			func() string {
				group, user := pick("devs", "qa"), pick(everyone...)
				if !m.groups[group][user] {
					return "nothing"
				}
				update("no group member", func(tx *metadata.Tx) error { return tx.RemoveGroupMember(ctx, group, user) })
				delete(m.groups[group], user)
				return user + " leaves the group " + group
			},
			func() string {
				group := pick("devs", "qa")
				m.disabled[group] = !m.disabled[group]
				update("group", func(tx *metadata.Tx) error {
					_, err := tx.SetGroupDisabled(ctx, group, m.disabled[group])
					return err
				})
				return fmt.Sprintf("%s disabled: %v", group, m.disabled[group])
			},
			func() string {
				user := pick(locals...)
				m.disabled[user] = !m.disabled[user]
				off := m.disabled[user]
				update("user", func(tx *metadata.Tx) error {
					_, err := tx.UpdateUser(ctx, user, metadata.UserChange{Disabled: &off})
					return err
				})
				return fmt.Sprintf("%s disabled: %v", user, off)
			},
			func() string {
				to, grants := grantee()
				pattern, actions := pick("core/*", "core/app", "*", "ops/*", "*/app", "free/?", "core*"), some()
				update("grant", func(tx *metadata.Tx) error {
					_, _, err := tx.PutGrant(ctx, to, pattern, actions.Names(), "x")
					return err
				})
				name := to.User + to.Group
				if grants[name] == nil {
					grants[name] = map[string]Actions{}
				}
				grants[name][pattern] = actions
				return fmt.Sprintf("%s has %s on %s", to, actions, pattern)
			},
			func() string {
				to, grants := grantee()
				for pattern := range grants[to.User+to.Group] {
					update("no grant", func(tx *metadata.Tx) error { return tx.DeleteGrant(ctx, to, pattern) })
					delete(grants[to.User+to.Group], pattern)
					return fmt.Sprintf("%s loses %s", to, pattern)
				}
				return "nothing"
			},
			func() string {
				d := metadata.Denial{Name: pick("one", "two"), Principal: pick("*", "alice", "b*", "anonymous", "ext", "root"), CIDR: pick("", "10.0.0.0/8"),
					Repository: pick("*", "core/*", "*/app", "ops/app"), Actions: some().Names()}
				update("denial", func(tx *metadata.Tx) error { _, _, err := tx.PutDenial(ctx, d); return err })
				m.denials[d.Name] = d
				return fmt.Sprintf("denial %+v", d)
			},
			func() string {
				for name := range m.denials {
					update("no denial", func(tx *metadata.Tx) error { return tx.DeleteDenial(ctx, name) })
					delete(m.denials, name)
					return "no denial " + name
				}
				return "nothing"
			},
			func() string {
				m.provided["ext"], m.providedTo["ext"] = map[string]string{}, map[string]bool{}
				if random.IntN(3) > 0 {
					m.provided["ext"][pick("core", "ops", "free")] = pick("reader", "member", "maintainer")
				}
				if random.IntN(3) > 0 {
					m.providedTo["ext"][pick("devs", "qa", "nowhere")] = true
				}
				signIn()
				return fmt.Sprintf("ext has %v and %v", m.provided["ext"], m.providedTo["ext"])
			},
		}
		var done []string
		for range testenv.Steps(t, 60, 300) {
			done = append(done, steps[random.IntN(len(steps))]())
			m.check(t, ctx, db, random)
			if t.Failed() {
				t.Fatalf("after %s", strings.Join(done, "; "))
			}
		}
	})
}

func (m *model) check(t *testing.T, ctx context.Context, db *metadata.DB, random *rand.Rand) {
	t.Helper()
	// A new one in each round: what it remembers of denials where it reads nothing
	// else may be seconds old. TestDenialsAreRemembered is about that.
	y := NewPolicy(db, PolicyOptions{})
	for _, owner := range append(m.users, Anonymous()) {
		owner.RemoteAddr = []string{"10.0.0.1", "192.0.2.1"}[random.IntN(2)]
		token := owner
		token.Limit = &Limit{Repositories: []string{"*", "core/*"}[random.IntN(2)], Actions: Actions(random.IntN(int(AllActions) + 1))}
		for _, p := range []Principal{owner, token} {
			if p.IsAnonymous() && p.Limit != nil {
				continue
			}
			decisions, err := y.ActionsFor(ctx, p, m.names)
			if err != nil {
				t.Fatal(err)
			}
			viewer, err := y.Viewer(ctx, p)
			if err != nil {
				t.Fatal(err)
			}
			var listed []string
			err = db.View(ctx, func(tx *metadata.Tx) (err error) {
				listed, err = tx.RepositoryNames(ctx, metadata.RepositoryFilter{Viewer: viewer, Limit: 100})
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			for _, repository := range m.names {
				d := decisions[repository]
				if want := m.rights(p, repository); d.Actions != want {
					t.Errorf("%s (limit %+v, from %s) on %s (%s): %s by %s, want %s", p, p.Limit, p.RemoteAddr, repository, m.visibility[repository], d.Actions, d.Rule, want)
				}
				may, in := d.Actions.Has(Pull) && m.visibility[repository] != "", slices.Contains(listed, repository)
				if in && !may || may && !in && p.Limit == nil {
					t.Errorf("%s (limit %+v) on %s: may pull %v, is listed %v", p, p.Limit, repository, may, in)
				}
			}
			if p.Limit != nil {
				own, err := y.ActionsFor(ctx, owner, m.names)
				if err != nil {
					t.Fatal(err)
				}
				for _, repository := range m.names {
					// The administration by admins is beyond denials, and a token that is
					// narrower than "everything" is no admin's.
					if more := decisions[repository].Actions &^ own[repository].Actions; more != 0 {
						t.Errorf("the token %+v of %s has %s more than its owner on %s", p.Limit, owner, more, repository)
					}
				}
			}
			// For another registry nothing of our repositories counts.
			others, err := y.ActionsForService(ctx, p, metadata.Service{Name: "registry"}, m.names, func(string) Actions { return AllActions })
			if err != nil {
				t.Fatal(err)
			}
			bare := *m
			bare.visibility = map[string]string{}
			for _, repository := range m.names {
				if got, want := others[repository].Actions, bare.rights(p, repository); got != want {
					t.Errorf("%s on %s of another registry: %s, want %s", p, repository, got, want)
				}
			}
		}
	}
}

// Denials are read again when the database says that they have changed, and
// after two seconds where nothing else is read.
func TestDenialsAreRemembered(t *testing.T) {
	metadatatest.EachURL(t, func(t *testing.T, url string) {
		ctx := t.Context()
		var clock metadatatest.Clock
		db := metadatatest.Open(t, metadata.Options{URL: url, Clock: clock.Now})
		y := NewPolicy(db, PolicyOptions{PublicRead: true, Clock: clock.Now})
		var alice Principal
		change := func(fn func(tx *metadata.Tx) error) {
			t.Helper()
			if err := db.Update(ctx, fn); err != nil {
				t.Fatal(err)
			}
		}
		change(func(tx *metadata.Tx) error {
			u, err := tx.CreateUser(ctx, metadata.User{Name: "alice", Role: metadata.RoleUser})
			alice = userPrincipal(u)
			return err
		})
		pulls := func(p Principal) bool {
			t.Helper()
			d, err := y.Actions(ctx, p, "core/app")
			if err != nil {
				t.Fatal(err)
			}
			return d.Actions.Has(Pull)
		}
		if !pulls(Anonymous()) || !pulls(alice) {
			t.Fatal("nothing is denied yet")
		}
		change(func(tx *metadata.Tx) error {
			_, _, err := tx.PutDenial(ctx, metadata.Denial{Name: "no", Principal: "*", Repository: "core/*", Actions: []string{"pull"}})
			return err
		})
		if !pulls(Anonymous()) {
			t.Error("what needs no query waits for the two seconds")
		}
		if pulls(alice) {
			t.Error("who needs a query hears of the denial with it")
		}
		if pulls(Anonymous()) {
			t.Error("and then everybody does")
		}
		change(func(tx *metadata.Tx) error { return tx.DeleteDenial(ctx, "no") })
		clock.Advance(denialsFor)
		if !pulls(Anonymous()) {
			t.Error("two seconds later")
		}
		if _, denied, err := y.Denied(ctx, alice, "core/app", Pull); denied || err != nil {
			t.Errorf("%v, %v", denied, err)
		}
		// A database that went back in time is believed too.
		change(func(tx *metadata.Tx) error {
			_, _, err := tx.PutDenial(ctx, metadata.Denial{Name: "no", Principal: "*", Repository: "core/*", Actions: []string{"pull"}})
			return err
		})
		y.denials.current.Store(&denialList{version: 1000, read: clock.Now()})
		clock.Advance(denialsFor)
		if pulls(alice) {
			t.Error("after a restore")
		}
		// Without the database nothing is allowed by what is remembered for too long.
		clock.Advance(denialsFor)
		db.Close()
		if _, err := y.Actions(ctx, Anonymous(), "core/app"); err == nil {
			t.Error("without a database")
		}
		if _, _, err := y.Denied(ctx, alice, "core/app", Pull); err == nil {
			t.Error("without a database, for a bearer token")
		}
	})
}
