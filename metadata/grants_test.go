package metadata_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"berth/metadata"
	"berth/metadata/metadatatest"
	"berth/oci"
)

func TestGrants(t *testing.T) {
	metadatatest.EachURL(t, func(t *testing.T, url string) {
		var clock metadatatest.Clock
		db := metadatatest.Open(t, metadata.Options{URL: url, Clock: clock.Now})
		ctx := t.Context()
		ids := map[string]int64{}
		update(t, db, func(ctx context.Context, tx *metadata.Tx) error {
			for _, name := range []string{"alice", "bob"} {
				u, err := tx.CreateUser(ctx, metadata.User{Name: name, Role: metadata.RoleUser})
				if err != nil {
					return err
				}
				ids[name] = u.ID
			}
			for _, name := range []string{"devs", "ops"} {
				if _, err := tx.CreateGroup(ctx, name); err != nil {
					return err
				}
			}
			return tx.PutGroupMember(ctx, "devs", "alice")
		})
		alice, bob, devs := metadata.Grantee{User: "alice"}, metadata.Grantee{User: "bob"}, metadata.Grantee{Group: "devs"}
		put := func(to metadata.Grantee, pattern string, actions ...string) {
			t.Helper()
			update(t, db, func(ctx context.Context, tx *metadata.Tx) error {
				_, _, err := tx.PutGrant(ctx, to, pattern, actions, "root")
				return err
			})
		}
		rights := func(user, repository string) string {
			t.Helper()
			var facts metadata.AccessFacts
			view(t, db, func(ctx context.Context, tx *metadata.Tx) error {
				all, err := tx.Access(ctx, ids[user], []string{repository})
				facts = all[repository]
				return err
			})
			own, group := strings.Split(facts.Granted, ","), strings.Split(facts.GroupGranted, ",")
			slices.Sort(own)
			slices.Sort(group)
			return strings.Join(slices.Compact(own), ",") + "|" + strings.Join(slices.Compact(group), ",")
		}
		expect := func(user, repository, want string) {
			t.Helper()
			if got := rights(user, repository); got != want {
				t.Errorf("%s on %s: %q, want %q", user, repository, got, want)
			}
		}

		// Two users and a group have rights on the same repository, each of its own
		// (dockit.md, works when 3); taking one away leaves the others.
		put(alice, "team/app", "pull", "push")
		put(bob, "team/app", "pull")
		put(devs, "team/app", "delete")
		expect("alice", "team/app", "pull,push|delete")
		expect("bob", "team/app", "pull|")
		update(t, db, func(ctx context.Context, tx *metadata.Tx) error { return tx.DeleteGrant(ctx, alice, "team/app") })
		expect("alice", "team/app", "|delete")
		expect("bob", "team/app", "pull|")
		put(bob, "team/app", "admin") // replaces
		expect("bob", "team/app", "admin|")

		// What a pattern covers (works when 4).
		put(alice, "foo/*", "pull")
		put(alice, "multi/seg/*", "push")
		put(alice, "one/a?c", "delete")
		for repository, want := range map[string]string{
			"foo/x": "pull|", "foo/a/x": "pull|", "foobar/x": "|", "x/foo/y": "|", "foo": "|", "foox": "|",
			"multi/seg/x": "push|", "multi/segment/x": "|", "multi/x": "|",
			"one/abc": "delete|", "one/a/c": "delete|", "one/ac": "|", "one/abbc": "|",
		} {
			expect("alice", repository, want)
		}
		// Underscores and percent signs are no wildcards.
		put(bob, "under_score/*", "pull")
		expect("bob", "underxscore/a", "|")
		expect("bob", "under_score/a", "pull|")

		// AddGrant and TakeGrant change what they name.
		for _, step := range []struct {
			add     bool
			actions []string
			want    string
		}{
			{true, []string{"push", "pull"}, "pull,push|"}, {true, []string{"pull"}, "pull,push|"}, {false, []string{"push", "delete"}, "pull|"},
			{false, []string{"push"}, "pull|"}, {false, []string{"pull"}, "|"}, {false, []string{"pull"}, "|"},
		} {
			update(t, db, func(ctx context.Context, tx *metadata.Tx) error {
				if step.add {
					return tx.AddGrant(ctx, bob, "step/x", step.actions, "root")
				}
				return tx.TakeGrant(ctx, bob, "step/x", step.actions, "root")
			})
			expect("bob", "step/x", step.want)
		}
		// Of two who add at the same time, both are heard.
		var wg sync.WaitGroup
		for _, action := range []string{"pull", "push", "delete"} {
			wg.Go(func() {
				if err := db.Update(ctx, func(tx *metadata.Tx) error { return tx.AddGrant(ctx, bob, "race/x", []string{action}, "root") }); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		expect("bob", "race/x", "delete,pull,push|")

		// Groups: disabled, by the provider's word, deleted (CVE-2025-23208).
		update(t, db, func(ctx context.Context, tx *metadata.Tx) error {
			_, err := tx.SetGroupDisabled(ctx, "devs", true)
			return err
		})
		expect("alice", "team/app", "|")
		update(t, db, func(ctx context.Context, tx *metadata.Tx) error {
			_, err := tx.SetGroupDisabled(ctx, "devs", false)
			return err
		})
		expect("alice", "team/app", "|delete")
		update(t, db, func(ctx context.Context, tx *metadata.Tx) error { return tx.RemoveGroupMember(ctx, "devs", "alice") })
		expect("alice", "team/app", "|")
		external := metadata.ExternalUser{Source: "ldap", Subject: "1", Name: "carol", Groups: []string{"devs", "nowhere"}, Teams: map[string]string{}}
		update(t, db, func(ctx context.Context, tx *metadata.Tx) error {
			u, err := tx.PutExternalUser(ctx, external)
			ids["carol"] = u.ID
			return err
		})
		expect("carol", "team/app", "|delete")
		update(t, db, func(ctx context.Context, tx *metadata.Tx) error {
			members, err := tx.GroupMembers(ctx, "devs", "", 10)
			if len(members) != 1 || members[0] != (metadata.GroupMember{User: "carol", Provider: true}) {
				t.Errorf("members: %+v", members)
			}
			return err
		})
		wantErr(t, db.Update(ctx, func(tx *metadata.Tx) error { return tx.RemoveGroupMember(ctx, "devs", "carol") }), oci.ErrConflict)
		external.Groups = nil
		update(t, db, func(ctx context.Context, tx *metadata.Tx) error {
			_, err := tx.PutExternalUser(ctx, external)
			return err
		})
		expect("carol", "team/app", "|")
		update(t, db, func(ctx context.Context, tx *metadata.Tx) error {
			if err := tx.PutGroupMember(ctx, "devs", "alice"); err != nil {
				return err
			}
			return tx.DeleteGroup(ctx, "devs")
		})
		expect("alice", "team/app", "|")

		for name, tt := range map[string]struct {
			f    func(tx *metadata.Tx) error
			want *oci.Error
		}{
			"no such user": {func(tx *metadata.Tx) error {
				_, _, err := tx.PutGrant(ctx, metadata.Grantee{User: "nobody"}, "a/*", []string{"pull"}, "x")
				return err
			}, oci.ErrNotFound},
			"no such group": {func(tx *metadata.Tx) error {
				_, _, err := tx.PutGrant(ctx, metadata.Grantee{Group: "devs"}, "a/*", []string{"pull"}, "x")
				return err
			}, oci.ErrNotFound},
			"no action": {func(tx *metadata.Tx) error { _, _, err := tx.PutGrant(ctx, bob, "a/*", nil, "x"); return err }, oci.ErrInvalid},
			"a class": {func(tx *metadata.Tx) error {
				_, _, err := tx.PutGrant(ctx, bob, "a/[b]", []string{"pull"}, "x")
				return err
			}, oci.ErrInvalid},
			"upper case": {func(tx *metadata.Tx) error {
				_, _, err := tx.PutGrant(ctx, bob, "A/*", []string{"pull"}, "x")
				return err
			}, oci.ErrInvalid},
			"no pattern": {func(tx *metadata.Tx) error { _, _, err := tx.PutGrant(ctx, bob, "", []string{"pull"}, "x"); return err }, oci.ErrInvalid},
			"too long": {func(tx *metadata.Tx) error {
				_, _, err := tx.PutGrant(ctx, bob, strings.Repeat("a", 256), []string{"pull"}, "x")
				return err
			}, oci.ErrInvalid},
			"not granted":           {func(tx *metadata.Tx) error { return tx.DeleteGrant(ctx, bob, "a/*") }, oci.ErrNotFound},
			"no such group to show": {func(tx *metadata.Tx) error { _, err := tx.Group(ctx, "devs"); return err }, oci.ErrNotFound},
			"the name is taken":     {func(tx *metadata.Tx) error { _, err := tx.CreateGroup(ctx, "ops"); return err }, oci.ErrConflict},
			"not a member":          {func(tx *metadata.Tx) error { return tx.RemoveGroupMember(ctx, "ops", "bob") }, oci.ErrNotFound},
		} {
			if err := db.Update(ctx, tt.f); err == nil {
				t.Errorf("%s: no error", name)
			} else {
				wantErr(t, err, tt.want)
			}
		}
	})
}

func TestGrantLists(t *testing.T) {
	metadatatest.Each(t, func(t *testing.T, db *metadata.DB) {
		ids := map[string]int64{}
		update(t, db, func(ctx context.Context, tx *metadata.Tx) error {
			for _, name := range []string{"alice", "bob", "mia"} {
				u, err := tx.CreateUser(ctx, metadata.User{Name: name, Role: metadata.RoleUser})
				if err != nil {
					return err
				}
				ids[name] = u.ID
			}
			if _, err := tx.CreateTeam(ctx, "core", ""); err != nil {
				return err
			}
			if _, err := tx.CreateGroup(ctx, "devs"); err != nil {
				return err
			}
			if err := tx.PutMember(ctx, "core", "mia", metadata.RoleMaintainer); err != nil {
				return err
			}
			if err := tx.PutGroupMember(ctx, "devs", "bob"); err != nil {
				return err
			}
			for _, g := range []metadata.Grant{
				{Grantee: metadata.Grantee{User: "alice"}, Pattern: "core/app"},
				{Grantee: metadata.Grantee{Group: "devs"}, Pattern: "core/*"},
				{Grantee: metadata.Grantee{User: "alice"}, Pattern: "co*"},
				{Grantee: metadata.Grantee{Group: "devs"}, Pattern: "other/x"},
			} {
				if _, _, err := tx.PutGrant(ctx, g.Grantee, g.Pattern, []string{"pull"}, "root"); err != nil {
					return err
				}
			}
			return nil
		})
		for name, tt := range map[string]struct {
			f    metadata.GrantFilter
			want string
		}{
			"all":             {metadata.GrantFilter{}, "core/app core/* co* other/x"},
			"of a user":       {metadata.GrantFilter{Grantee: metadata.Grantee{User: "alice"}}, "core/app co*"},
			"of a group":      {metadata.GrantFilter{Grantee: metadata.Grantee{Group: "devs"}}, "core/* other/x"},
			"of a repository": {metadata.GrantFilter{Repository: "core/app"}, "core/app core/* co*"},
			"of a team":       {metadata.GrantFilter{Team: "core"}, "core/app core/*"},
			"alice's eyes":    {metadata.GrantFilter{For: ids["alice"]}, "core/app co*"},
			"bob's eyes":      {metadata.GrantFilter{For: ids["bob"]}, "core/* other/x"},
			"mia's eyes":      {metadata.GrantFilter{For: ids["mia"]}, "core/app core/*"},
		} {
			view(t, db, func(ctx context.Context, tx *metadata.Tx) error {
				var got []string
				tt.f.Limit = 1
				for {
					page, err := tx.Grants(ctx, tt.f)
					if err != nil || len(page) == 0 {
						if strings.Join(got, " ") != tt.want {
							t.Errorf("%s: %q, want %q", name, got, tt.want)
						}
						return err
					}
					got = append(got, page[0].Pattern)
					tt.f.After = page[0].ID
				}
			})
		}
		for pattern, want := range map[string]string{"core/*": "core", "core": "core", "core*": "", "*": "", "c?re/x": "", "core/a/b*": "core"} {
			if got := metadata.PatternTeam(pattern); got != want {
				t.Errorf("the team of %s: %q, want %q", pattern, got, want)
			}
		}
	})
}

func TestDenials(t *testing.T) {
	metadatatest.Each(t, func(t *testing.T, db *metadata.DB) {
		ctx := t.Context()
		all := func() (names string, version int64) {
			t.Helper()
			view(t, db, func(ctx context.Context, tx *metadata.Tx) error {
				list, v, err := tx.AllDenials(ctx)
				for _, d := range list {
					names += d.Name + " "
				}
				version = v
				return err
			})
			return names, version
		}
		put := func(d metadata.Denial) (stored metadata.Denial, created bool) {
			t.Helper()
			update(t, db, func(ctx context.Context, tx *metadata.Tx) (err error) {
				stored, created, err = tx.PutDenial(ctx, d)
				return err
			})
			return stored, created
		}
		names, before := all()
		if names != "" {
			t.Errorf("at first: %s", names)
		}
		d := metadata.Denial{Name: "b", Principal: "alice", CIDR: "10.0.0.0/8", Repository: "core/*", Actions: []string{"push"}, Reason: "no", CreatedBy: "root"}
		stored, created := put(d)
		if !created || stored.ID == 0 || stored.Principal != "alice" || stored.CIDR != d.CIDR || stored.Repository != d.Repository || stored.Reason != "no" || stored.CreatedBy != "root" {
			t.Errorf("%+v, %v", stored, created)
		}
		put(metadata.Denial{Name: "a", Principal: "*", Repository: "*", Actions: []string{"pull"}})
		names, version := all()
		if names != "a b " || version != before+2 {
			t.Errorf("%q, version %d after %d", names, version, before)
		}
		d.Reason = "yes"
		if stored, created = put(d); created || stored.Reason != "yes" {
			t.Errorf("again: %+v, %v", stored, created)
		}
		update(t, db, func(ctx context.Context, tx *metadata.Tx) error { return tx.DeleteDenial(ctx, "b") })
		if names, version = all(); names != "a " || version != before+4 {
			t.Errorf("%q, version %d after %d", names, version, before)
		}
		// A change that fails counts for nothing.
		wantErr(t, db.Update(ctx, func(tx *metadata.Tx) error { return tx.DeleteDenial(ctx, "b") }), oci.ErrNotFound)
		if _, again := all(); again != version {
			t.Errorf("version %d after %d", again, version)
		}
		for name, bad := range map[string]metadata.Denial{
			"no name":       {Principal: "*", Repository: "*", Actions: []string{"pull"}},
			"odd name":      {Name: "A b", Principal: "*", Repository: "*", Actions: []string{"pull"}},
			"no network":    {Name: "x", CIDR: "10.0.0.1", Principal: "*", Repository: "*", Actions: []string{"pull"}},
			"mapped IPv4":   {Name: "x", CIDR: "::ffff:10.0.0.0/104", Principal: "*", Repository: "*", Actions: []string{"pull"}},
			"no action":     {Name: "x", Principal: "*", Repository: "*"},
			"no who":        {Name: "x", Repository: "*", Actions: []string{"pull"}},
			"a class":       {Name: "x", Principal: "[a]", Repository: "*", Actions: []string{"pull"}},
			"no where":      {Name: "x", Principal: "*", Actions: []string{"pull"}},
			"a long reason": {Name: "x", Principal: "*", Repository: "*", Actions: []string{"pull"}, Reason: strings.Repeat("x", 501)},
		} {
			if err := db.Update(ctx, func(tx *metadata.Tx) error { _, _, err := tx.PutDenial(ctx, bad); return err }); err == nil {
				t.Errorf("%s: no error", name)
			} else {
				wantErr(t, err, oci.ErrInvalid)
			}
		}
		// They are bounded, for each decision looks at all.
		update(t, db, func(ctx context.Context, tx *metadata.Tx) error {
			for i := range 499 {
				if _, _, err := tx.PutDenial(ctx, metadata.Denial{Name: fmt.Sprintf("n%d", i), Principal: "*", Repository: "*", Actions: []string{"pull"}}); err != nil {
					return err
				}
			}
			return nil
		})
		wantErr(t, db.Update(ctx, func(tx *metadata.Tx) error {
			_, _, err := tx.PutDenial(ctx, metadata.Denial{Name: "more", Principal: "*", Repository: "*", Actions: []string{"pull"}})
			return err
		}), oci.ErrConflict)
		put(metadata.Denial{Name: "a", Principal: "x", Repository: "*", Actions: []string{"pull"}})
	})
}

// TestHolders: everybody who has a right is listed, by all that gives it, in pages.
func TestHolders(t *testing.T) {
	metadatatest.Each(t, func(t *testing.T, db *metadata.DB) {
		disabled := true
		update(t, db, func(ctx context.Context, tx *metadata.Tx) error {
			for _, name := range []string{"boss", "maintainer", "member", "reader", "granted", "grouped", "gone", "stranger"} {
				role := metadata.RoleUser
				if name == "boss" {
					role = metadata.RoleAdmin
				}
				if _, err := tx.CreateUser(ctx, metadata.User{Name: name, Role: role}); err != nil {
					return err
				}
			}
			for _, team := range []string{"core", "other"} {
				if _, err := tx.CreateTeam(ctx, team, ""); err != nil {
					return err
				}
			}
			for user, role := range map[string]string{"maintainer": "maintainer", "member": "member", "reader": "reader", "gone": "maintainer"} {
				if err := tx.PutMember(ctx, "core", user, role); err != nil {
					return err
				}
			}
			if _, err := tx.UpdateUser(ctx, "gone", metadata.UserChange{Disabled: &disabled}); err != nil {
				return err
			}
			if _, err := tx.CreateGroup(ctx, "devs"); err != nil {
				return err
			}
			if _, err := tx.CreateGroup(ctx, "off"); err != nil {
				return err
			}
			if _, err := tx.SetGroupDisabled(ctx, "off", true); err != nil {
				return err
			}
			for group, user := range map[string]string{"devs": "grouped", "off": "stranger"} {
				if err := tx.PutGroupMember(ctx, group, user); err != nil {
					return err
				}
			}
			if _, err := tx.PutExternalUser(ctx, metadata.ExternalUser{Source: "ldap", Subject: "1", Name: "provided", Teams: map[string]string{"core": "member"}, Groups: []string{"devs"}}); err != nil {
				return err
			}
			for _, g := range []metadata.Grant{
				{Grantee: metadata.Grantee{User: "granted"}, Pattern: "core/a*", Actions: []string{"push"}},
				{Grantee: metadata.Grantee{User: "granted"}, Pattern: "*/app", Actions: []string{"pull", "push"}},
				{Grantee: metadata.Grantee{User: "stranger"}, Pattern: "core/app", Actions: []string{"pull"}},
				{Grantee: metadata.Grantee{User: "stranger"}, Pattern: "other/*", Actions: []string{"push"}},
				{Grantee: metadata.Grantee{Group: "devs"}, Pattern: "core/*", Actions: []string{"push"}},
				{Grantee: metadata.Grantee{Group: "off"}, Pattern: "*", Actions: []string{"push"}},
			} {
				if _, _, err := tx.PutGrant(ctx, g.Grantee, g.Pattern, g.Actions, "boss"); err != nil {
					return err
				}
			}
			past := time.Now().Add(-time.Hour)
			for i, k := range []metadata.Token{
				{Name: "ci", Team: "core", Repositories: "core/*", Actions: []string{"pull", "push"}},
				{Name: "narrow", Team: "core", Repositories: "core/x", Actions: []string{"push"}},
				{Name: "reads", Team: "core", Repositories: "*", Actions: []string{"pull"}},
				{Name: "old", Team: "core", Repositories: "*", Actions: []string{"push"}, ExpiresAt: &past},
				{Name: "foreign", Team: "other", Repositories: "*", Actions: []string{"push"}},
			} {
				k.Kind = metadata.RobotToken
				if _, err := tx.CreateToken(ctx, k, fmt.Sprintf("hash%d", i)); err != nil {
					return err
				}
			}
			for _, p := range []metadata.TrustPolicy{
				{Team: "core", Name: "github", Robot: "job", Repositories: "*", Actions: []string{"push"}, Tags: "dev-*"},
				{Team: "other", Name: "github", Robot: "job", Repositories: "*", Actions: []string{"push"}},
			} {
				p.Issuer, p.Audience, p.Claims, p.MaxLife = "https://id.example.com", "berth", map[string]string{"sub": "x"}, time.Minute
				if _, _, err := tx.PutTrustPolicy(ctx, p); err != nil {
					return err
				}
			}
			return nil
		})
		for _, limit := range []int{1, 3, 100} {
			var got []string
			f := metadata.HolderFilter{Repository: "core/app", Action: "push", Roles: []string{"member", "maintainer"}, Limit: limit}
			for {
				var page []metadata.Holder
				view(t, db, func(ctx context.Context, tx *metadata.Tx) (err error) {
					page, err = tx.Holders(ctx, f)
					return err
				})
				if len(page) > limit {
					t.Fatalf("a page of %d", len(page))
				}
				for _, h := range page {
					got = append(got, fmt.Sprintf("%s:%d", h.Principal, len(h.Grounds)))
					if h.Robot != strings.Contains(h.Principal, "+") {
						t.Errorf("%+v", h)
					}
				}
				if len(page) < limit {
					break
				}
				f.After = page[len(page)-1].Principal
			}
			if want := "boss:1 core+ci:1 core+job:1 granted:2 grouped:1 maintainer:1 member:1 provided:2"; strings.Join(got, " ") != want {
				t.Errorf("pages of %d: %q, want %q", limit, got, want)
			}
		}
		view(t, db, func(ctx context.Context, tx *metadata.Tx) error {
			page, err := tx.Holders(ctx, metadata.HolderFilter{Repository: "core/app", Action: "push", Roles: []string{"member", "maintainer"}, Limit: 100, Fresh: time.Now().Add(time.Hour)})
			for _, h := range page {
				if h.Principal == "provided" {
					t.Error("a user whose provider has not vouched is listed")
				}
			}
			return err
		})
	})
}

// More patterns than one statement looks for make the same list.
func TestManyPatterns(t *testing.T) {
	metadatatest.Each(t, func(t *testing.T, db *metadata.DB) {
		var want, patterns []string
		var id int64
		update(t, db, func(ctx context.Context, tx *metadata.Tx) error {
			u, err := tx.CreateUser(ctx, metadata.User{Name: "alice", Role: metadata.RoleUser})
			id = u.ID
			for i := range 80 {
				name := fmt.Sprintf("t%02d/app", i)
				if _, _, err := tx.EnsureRepository(ctx, name, metadata.Private, "x"); err != nil {
					return err
				}
				if i%3 != 0 {
					want = append(want, name)
					patterns = append(patterns, fmt.Sprintf("t%02d/*", i))
				}
			}
			return err
		})
		patterns = append(patterns, "t1*")
		want = append(want, "t12/app", "t15/app", "t18/app")
		want = slices.DeleteFunc(want, func(s string) bool { return s == "t20/app" })
		slices.Sort(want)
		for _, limit := range []int{7, 100} {
			var got, names []string
			for after := ""; ; {
				f := metadata.RepositoryFilter{Viewer: metadata.Viewer{Signed: true, UserID: id, Patterns: patterns, Denied: []string{"t20/*", "none"}}, After: after, Limit: limit}
				var page []metadata.Repository
				var more []string
				view(t, db, func(ctx context.Context, tx *metadata.Tx) (err error) {
					if page, err = tx.Repositories(ctx, f); err == nil {
						more, err = tx.RepositoryNames(ctx, f)
					}
					return err
				})
				for _, r := range page {
					got = append(got, r.Name)
				}
				names = append(names, more...)
				if len(page) < limit {
					break
				}
				after = page[len(page)-1].Name
			}
			if !slices.Equal(got, want) || !slices.Equal(names, want) {
				t.Errorf("pages of %d: %d repositories, %d names, want %d\n%q\n%q", limit, len(got), len(names), len(want), got, want)
			}
		}
	})
}
