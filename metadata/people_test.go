package metadata_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"berth/metadata"
	"berth/metadata/metadatatest"
	"berth/oci"
)

func ptr[T any](v T) *T { return &v }

func TestUsers(t *testing.T) {
	metadatatest.EachURL(t, func(t *testing.T, url string) {
		var clock metadatatest.Clock
		db := metadatatest.Open(t, metadata.Options{URL: url, Clock: clock.Now})
		ctx := context.Background()
		made := clock.Now()
		for _, name := range []string{"bob", "Alice", "admin"} {
			role := metadata.RoleUser
			if name == "admin" {
				role = metadata.RoleAdmin
			}
			update(t, db, func(ctx context.Context, tx *metadata.Tx) error {
				u, err := tx.CreateUser(ctx, metadata.User{Name: name, PasswordHash: "$h$" + name, Role: role})
				if u.ID == 0 || u.Name != name || u.PasswordHash != "$h$"+name || u.Role != role || !u.CreatedAt.Equal(made) {
					t.Errorf("made %+v", u)
				}
				return err
			})
		}
		wantErr(t, db.Update(ctx, func(tx *metadata.Tx) error {
			_, err := tx.CreateUser(ctx, metadata.User{Name: "bob", Role: metadata.RoleUser})
			return err
		}), oci.ErrConflict)
		clock.Advance(time.Hour)
		update(t, db, func(ctx context.Context, tx *metadata.Tx) error {
			u, err := tx.UpdateUser(ctx, "bob", metadata.UserChange{Disabled: ptr(true)})
			if !u.Disabled || u.PasswordHash != "$h$bob" || u.Role != metadata.RoleUser || !u.UpdatedAt.Equal(clock.Now()) || !u.CreatedAt.Equal(made) {
				t.Errorf("disabled: %+v", u)
			}
			if err != nil {
				return err
			}
			u, err = tx.UpdateUser(ctx, "bob", metadata.UserChange{PasswordHash: ptr("$new"), Role: ptr(metadata.RoleAdmin), Disabled: ptr(false)})
			if u.Disabled || u.PasswordHash != "$new" || u.Role != metadata.RoleAdmin {
				t.Errorf("changed: %+v", u)
			}
			return err
		})
		view(t, db, func(ctx context.Context, tx *metadata.Tx) error {
			u, err := tx.User(ctx, "bob")
			byID, err2 := tx.UserByID(ctx, u.ID)
			if u != byID || u.Name != "bob" {
				t.Errorf("%+v and %+v", u, byID)
			}
			_, e := tx.User(ctx, "BOB")
			wantErr(t, e, oci.ErrNotFound)
			_, e = tx.UserByID(ctx, 12345)
			wantErr(t, e, oci.ErrNotFound)
			var names []string
			for after := ""; ; {
				page, err := tx.Users(ctx, after, 1)
				if err != nil {
					return err
				}
				if len(page) == 0 {
					break
				}
				names = append(names, page[0].Name)
				after = page[0].Name
			}
			if !slices.Equal(names, []string{"Alice", "admin", "bob"}) {
				t.Errorf("users %q", names)
			}
			return errors.Join(err, err2)
		})
		// Two admins: either may go, not both.
		demote := func(name string) error {
			return db.Update(ctx, func(tx *metadata.Tx) error {
				_, err := tx.UpdateUser(ctx, name, metadata.UserChange{Role: ptr(metadata.RoleUser)})
				return err
			})
		}
		remove := func(name string) error {
			return db.Update(ctx, func(tx *metadata.Tx) error { return tx.DeleteUser(ctx, name) })
		}
		var wg sync.WaitGroup
		var one, two error
		wg.Go(func() { one = demote("bob") })
		wg.Go(func() { two = remove("admin") })
		wg.Wait()
		if (one == nil) == (two == nil) {
			t.Fatalf("one of two admins has to stay: %v; %v", one, two)
		}
		wantErr(t, errors.Join(one, two), oci.ErrConflict)
		last := "bob"
		if one == nil {
			last = "admin"
		}
		wantErr(t, demote(last), oci.ErrConflict)
		wantErr(t, remove(last), oci.ErrConflict)
		wantErr(t, remove("nobody"), oci.ErrNotFound)
		wantErr(t, demote("nobody"), oci.ErrNotFound)
		if err := remove("Alice"); err != nil {
			t.Error(err)
		}
	})
}

// Of any number of replicas that start on an empty database, one makes the admin.
func TestFirstAdminRace(t *testing.T) {
	metadatatest.EachURL(t, func(t *testing.T, url string) {
		dbs := []*metadata.DB{metadatatest.Open(t, metadata.Options{URL: url}), metadatatest.Open(t, metadata.Options{URL: url})}
		ctx := context.Background()
		admins, keys := make([]bool, 16), make([]bool, 16)
		start := make(chan struct{})
		var wg sync.WaitGroup
		for i := range 16 {
			wg.Go(func() {
				<-start
				err := dbs[i%2].Update(ctx, func(tx *metadata.Tx) (err error) {
					admins[i], err = tx.CreateFirstAdmin(ctx, fmt.Sprint("admin", i%4), "$h")
					return err
				})
				err2 := dbs[i%2].Update(ctx, func(tx *metadata.Tx) (err error) {
					keys[i], err = tx.InsertFirstSigningKey(ctx, metadata.SigningKey{KID: fmt.Sprint("key", i), Algorithm: "ES256", PrivatePEM: "pem"})
					return err
				})
				if err := errors.Join(err, err2); err != nil {
					t.Error(err)
				}
			})
		}
		close(start)
		wg.Wait()
		count := func(made []bool) (n int) {
			for _, m := range made {
				if m {
					n++
				}
			}
			return n
		}
		if count(admins) != 1 || count(keys) != 1 {
			t.Errorf("%d first admins and %d first keys were made", count(admins), count(keys))
		}
		view(t, dbs[0], func(ctx context.Context, tx *metadata.Tx) error {
			users, err := tx.Users(ctx, "", 10)
			if len(users) != 1 || users[0].Role != metadata.RoleAdmin {
				t.Errorf("users %+v", users)
			}
			stored, err2 := tx.SigningKeys(ctx)
			if len(stored) != 1 || stored[0].KID != fmt.Sprint("key", slices.Index(keys, true)) || stored[0].Algorithm != "ES256" || stored[0].PrivatePEM != "pem" {
				t.Errorf("keys %+v", stored)
			}
			has, err3 := tx.HasUsers(ctx)
			if !has {
				t.Error("HasUsers is false")
			}
			return errors.Join(err, err2, err3)
		})
	})
}

func TestTeams(t *testing.T) {
	metadatatest.Each(t, func(t *testing.T, db *metadata.DB) {
		ctx := context.Background()
		try := func(fn func(tx *metadata.Tx) error) error { return db.Update(ctx, fn) }
		update(t, db, func(ctx context.Context, tx *metadata.Tx) error {
			for _, name := range []string{"alice", "bob", "carol", "dora"} {
				if _, err := tx.CreateUser(ctx, metadata.User{Name: name, Role: metadata.RoleUser, Disabled: name == "dora"}); err != nil {
					return err
				}
			}
			for _, name := range []string{"b-team", "a-team", "c.team"} {
				if _, err := tx.CreateTeam(ctx, name, metadata.Internal); err != nil {
					return err
				}
			}
			for user, role := range map[string]string{"carol": metadata.RoleMaintainer, "alice": metadata.RoleMember, "bob": metadata.RoleMaintainer, "dora": metadata.RoleMaintainer} {
				if err := tx.PutMember(ctx, "a-team", user, role); err != nil {
					return err
				}
			}
			return tx.PutMember(ctx, "b-team", "alice", metadata.RoleReader)
		})
		wantErr(t, try(func(tx *metadata.Tx) error { _, err := tx.CreateTeam(ctx, "a-team", ""); return err }), oci.ErrConflict)
		wantErr(t, try(func(tx *metadata.Tx) error { return tx.PutMember(ctx, "nope", "alice", metadata.RoleMember) }), oci.ErrNotFound)
		wantErr(t, try(func(tx *metadata.Tx) error { return tx.PutMember(ctx, "a-team", "nope", metadata.RoleMember) }), oci.ErrNotFound)
		wantErr(t, try(func(tx *metadata.Tx) error { return tx.RemoveMember(ctx, "b-team", "bob") }), oci.ErrNotFound)
		wantErr(t, try(func(tx *metadata.Tx) error { return tx.RemoveMember(ctx, "nope", "bob") }), oci.ErrNotFound)
		wantErr(t, try(func(tx *metadata.Tx) error { return tx.SetTeamVisibility(ctx, "nope", metadata.Public) }), oci.ErrNotFound)
		wantErr(t, try(func(tx *metadata.Tx) error { return tx.DeleteTeam(ctx, "nope") }), oci.ErrNotFound)

		alice := func() (roles map[string]string) {
			view(t, db, func(ctx context.Context, tx *metadata.Tx) error {
				u, err := tx.User(ctx, "alice")
				if err != nil {
					return err
				}
				roles, err = tx.UserTeams(ctx, u.ID)
				teams, err2 := tx.Teams(ctx, u.ID, "", 10)
				var names []string
				for _, team := range teams {
					names = append(names, team.Name)
				}
				if want := slices.Sorted(maps.Keys(roles)); !slices.Equal(names, want) {
					t.Errorf("alice's teams %q and roles %v", names, roles)
				}
				for team, role := range roles {
					if got, err := tx.MemberRole(ctx, team, u.ID); got != role || err != nil {
						t.Errorf("role %q in %s, want %q; %v", got, team, role, err)
					}
				}
				if got, err := tx.MemberRole(ctx, "c.team", u.ID); got != "" || err != nil {
					t.Errorf("role %q in c.team; %v", got, err)
				}
				return errors.Join(err, err2)
			})
			return roles
		}
		if got := alice(); !maps.Equal(got, map[string]string{"a-team": "member", "b-team": "reader"}) {
			t.Errorf("alice's roles %v", got)
		}
		update(t, db, func(ctx context.Context, tx *metadata.Tx) error {
			return errors.Join(tx.PutMember(ctx, "a-team", "alice", metadata.RoleMaintainer), tx.RemoveMember(ctx, "b-team", "alice"),
				tx.SetTeamVisibility(ctx, "b-team", ""), tx.SetTeamTagPolicy(ctx, "b-team", &metadata.TagPolicy{Mode: metadata.Mutable}))
		})
		if got := alice(); !maps.Equal(got, map[string]string{"a-team": "maintainer"}) {
			t.Errorf("alice's roles %v", got)
		}
		view(t, db, func(ctx context.Context, tx *metadata.Tx) error {
			var names []string
			teams, err := tx.Teams(ctx, 0, "", 2)
			rest, err2 := tx.Teams(ctx, 0, "b-team", 10)
			for _, team := range append(teams, rest...) {
				names = append(names, team.Name)
			}
			if !slices.Equal(names, []string{"a-team", "b-team", "c.team"}) {
				t.Errorf("teams %q", names)
			}
			if b := teams[1]; b.DefaultVisibility != "" || b.TagPolicy == nil || b.TagPolicy.Mode != metadata.Mutable || teams[0].DefaultVisibility != metadata.Internal || teams[0].TagPolicy != nil {
				t.Errorf("teams %+v", teams)
			}
			members, err3 := tx.Members(ctx, "a-team", "", 2)
			more, err4 := tx.Members(ctx, "a-team", "bob", 10)
			var who []string
			for _, m := range append(members, more...) {
				who = append(who, m.User+" "+m.Role)
			}
			if !slices.Equal(who, []string{"alice maintainer", "bob maintainer", "carol maintainer", "dora maintainer"}) {
				t.Errorf("members %q", who)
			}
			_, e := tx.Members(ctx, "nope", "", 10)
			wantErr(t, e, oci.ErrNotFound)
			_, e = tx.Team(ctx, "nope")
			wantErr(t, e, oci.ErrNotFound)
			able, err5 := tx.Maintainers(ctx, "a-team", 10)
			if !slices.Equal(able, []string{"alice", "bob", "carol"}) { // dora is disabled
				t.Errorf("maintainers %q", able)
			}
			return errors.Join(err, err2, err3, err4, err5)
		})
		update(t, db, func(ctx context.Context, tx *metadata.Tx) error {
			return errors.Join(tx.DeleteTeam(ctx, "a-team"), tx.DeleteTeam(ctx, "b-team"))
		})
		if got := alice(); len(got) != 0 {
			t.Errorf("alice's roles in deleted teams %v", got)
		}
	})
}

func TestTokens(t *testing.T) {
	metadatatest.EachURL(t, func(t *testing.T, url string) {
		var clock metadatatest.Clock
		db := metadatatest.Open(t, metadata.Options{URL: url, Clock: clock.Now})
		ctx := context.Background()
		expires := clock.Now().Add(24 * time.Hour)
		var personal, robot metadata.Token
		update(t, db, func(ctx context.Context, tx *metadata.Tx) (err error) {
			for _, name := range []string{"alice", "root"} {
				if _, err := tx.CreateUser(ctx, metadata.User{Name: name, Role: map[string]string{"alice": metadata.RoleUser, "root": metadata.RoleAdmin}[name]}); err != nil {
					return err
				}
			}
			if _, err := tx.CreateTeam(ctx, "team", ""); err != nil {
				return err
			}
			personal, err = tx.CreateToken(ctx, metadata.Token{Kind: metadata.PersonalToken, Name: "laptop", User: "alice", Repositories: "*", Actions: []string{"pull", "push"}, CreatedBy: "alice"}, "hash1")
			if err != nil {
				return err
			}
			robot, err = tx.CreateToken(ctx, metadata.Token{Kind: metadata.RobotToken, Name: "ci", Team: "team", Repositories: "team/*", Actions: []string{"pull"}, ExpiresAt: &expires, CreatedBy: "alice"}, "hash2")
			return err
		})
		if personal.ID == 0 || personal.User != "alice" || personal.UserID == 0 || personal.Team != "" || personal.ExpiresAt != nil || personal.LastUsedAt != nil || !slices.Equal(personal.Actions, []string{"pull", "push"}) {
			t.Errorf("personal %+v", personal)
		}
		if robot.Team != "team" || robot.TeamID == 0 || robot.User != "" || robot.ExpiresAt == nil || !robot.ExpiresAt.Equal(expires) || robot.Repositories != "team/*" {
			t.Errorf("robot %+v", robot)
		}
		for _, c := range []struct {
			token metadata.Token
			hash  string
			want  *oci.Error
		}{
			{metadata.Token{Kind: metadata.PersonalToken, Name: "laptop", User: "alice", Actions: []string{"pull"}}, "hash3", oci.ErrConflict},
			{metadata.Token{Kind: metadata.RobotToken, Name: "ci", Team: "team", Actions: []string{"pull"}}, "hash3", oci.ErrConflict},
			{metadata.Token{Kind: metadata.PersonalToken, Name: "x", User: "nobody", Actions: []string{"pull"}}, "hash3", oci.ErrNotFound},
			{metadata.Token{Kind: metadata.RobotToken, Name: "x", Team: "nope", Actions: []string{"pull"}}, "hash3", oci.ErrNotFound},
		} {
			wantErr(t, db.Update(ctx, func(tx *metadata.Tx) error { _, err := tx.CreateToken(ctx, c.token, c.hash); return err }), c.want)
		}
		find := func(hash string) (token metadata.Token, owner metadata.TokenOwner, err error) {
			err = db.View(ctx, func(tx *metadata.Tx) (err error) {
				token, owner, err = tx.TokenBySecretHash(ctx, hash)
				return err
			})
			return
		}
		token, owner, err := find("hash1")
		if err != nil || token.ID != personal.ID || owner != (metadata.TokenOwner{}) {
			t.Errorf("%+v %+v %v", token, owner, err)
		}
		_, _, err = find("hash3")
		wantErr(t, err, oci.ErrNotFound)
		token, owner, err = find("hash2")
		if err != nil || token.ID != robot.ID || token.Team != "team" || owner != (metadata.TokenOwner{}) {
			t.Errorf("%+v %+v %v", token, owner, err)
		}
		update(t, db, func(ctx context.Context, tx *metadata.Tx) error {
			_, err := tx.UpdateUser(ctx, "alice", metadata.UserChange{Role: ptr(metadata.RoleAdmin), Disabled: ptr(true)})
			return err
		})
		if _, owner, err = find("hash1"); err != nil || owner != (metadata.TokenOwner{Admin: true, Disabled: true}) {
			t.Errorf("%+v %v", owner, err)
		}
		// Touched at most once a minute.
		first := clock.Now()
		for _, c := range []struct {
			after time.Duration
			want  time.Time
		}{{0, first}, {59 * time.Second, first}, {2 * time.Second, first.Add(61 * time.Second)}} {
			clock.Advance(c.after)
			if err := db.UpdateRelaxed(ctx, func(tx *metadata.Tx) error {
				return tx.TouchToken(ctx, personal.ID, personal.Secrets[0].ID, "10.0.0.1")
			}); err != nil {
				t.Fatal(err)
			}
			if token, _, _ := find("hash1"); token.LastUsedAt == nil || !token.LastUsedAt.Equal(c.want) || token.LastUsedFrom != "10.0.0.1" {
				t.Errorf("last used at %v, want %v", token.LastUsedAt, c.want)
			}
		}
		view(t, db, func(ctx context.Context, tx *metadata.Tx) error {
			mine, err := tx.Tokens(ctx, "alice", "", "", 10)
			if len(mine) != 1 || mine[0].Name != "laptop" {
				t.Errorf("alice's tokens %+v", mine)
			}
			robots, err2 := tx.Tokens(ctx, "", "team", "", 10)
			if len(robots) != 1 || robots[0].Name != "ci" {
				t.Errorf("robots %+v", robots)
			}
			after, err3 := tx.Tokens(ctx, "", "team", "ci", 10)
			if len(after) != 0 {
				t.Errorf("robots after the last %+v", after)
			}
			byID, _, err4 := tx.TokenBySecretID(ctx, robot.ID, robot.Secrets[0].ID)
			if byID.Name != "ci" {
				t.Errorf("by id %+v", byID)
			}
			return errors.Join(err, err2, err3, err4)
		})
		update(t, db, func(ctx context.Context, tx *metadata.Tx) error { return tx.DeleteToken(ctx, "alice", "", "laptop") })
		wantErr(t, db.Update(ctx, func(tx *metadata.Tx) error { return tx.DeleteToken(ctx, "alice", "", "laptop") }), oci.ErrNotFound)
		// Robots go with their team.
		update(t, db, func(ctx context.Context, tx *metadata.Tx) error { return tx.DeleteTeam(ctx, "team") })
		_, _, err = find("hash2")
		wantErr(t, err, oci.ErrNotFound)
	})
}

// A user whom an import made for a provider is that provider's at the first sign-in, and
// nobody else's; with the tokens that the import made.
func TestProviderTakesOverImportedUser(t *testing.T) {
	metadatatest.Each(t, func(t *testing.T, db *metadata.DB) {
		ctx := t.Context()
		var made metadata.User
		update(t, db, func(ctx context.Context, tx *metadata.Tx) (err error) {
			if made, err = tx.CreateUser(ctx, metadata.User{Name: "john.doe", Role: metadata.RoleUser, Source: "ldap"}); err != nil {
				return err
			}
			_, err = tx.CreateUser(ctx, metadata.User{Name: "local", Role: metadata.RoleUser})
			return err
		})
		put := func(source, subject, name string) (u metadata.User, err error) {
			err = db.Update(ctx, func(tx *metadata.Tx) (err error) {
				u, err = tx.PutExternalUser(ctx, metadata.ExternalUser{Source: source, Subject: subject, Name: name})
				return err
			})
			return u, err
		}
		_, err := put("oidc", "s1", "john.doe")
		wantErr(t, err, oci.ErrConflict)
		_, err = put("ldap", "s1", "local")
		wantErr(t, err, oci.ErrConflict)
		for range 2 {
			if u, err := put("ldap", "s1", "john.doe"); err != nil || u.ID != made.ID || u.Subject != "s1" {
				t.Errorf("%+v %v", u, err)
			}
		}
		_, err = put("ldap", "s2", "john.doe")
		wantErr(t, err, oci.ErrConflict)

		// The provider's way of writing the name counts, and the user does not become a second one.
		update(t, db, func(ctx context.Context, tx *metadata.Tx) (err error) {
			made, err = tx.CreateUser(ctx, metadata.User{Name: "Lea.X", Role: metadata.RoleUser, Source: "ldap"})
			return err
		})
		_, err = put("oidc", "s3", "LEA.X")
		wantErr(t, err, oci.ErrConflict)
		for range 2 {
			if u, err := put("ldap", "s3", "lea.x"); err != nil || u.ID != made.ID || u.Name != "lea.x" {
				t.Errorf("%+v %v", u, err)
			}
		}
	})
}

// A name that differs from another user's in case only is taken: for a user of ours, and for
// one whom a provider vouches for.
func TestLookAlikeNames(t *testing.T) {
	metadatatest.Each(t, func(t *testing.T, db *metadata.DB) {
		make := func(name string) error {
			return db.Update(t.Context(), func(tx *metadata.Tx) error {
				_, err := tx.CreateUser(t.Context(), metadata.User{Name: name, Role: metadata.RoleUser})
				return err
			})
		}
		vouch := func(name, subject string) error {
			return db.Update(t.Context(), func(tx *metadata.Tx) error {
				_, err := tx.PutExternalUser(t.Context(), metadata.ExternalUser{Source: "ldap", Subject: subject, Name: name})
				return err
			})
		}
		for _, err := range []error{make("admin"), vouch("Bob", "1"), vouch("bobby", "2"), vouch("Bob", "1")} {
			if err != nil {
				t.Fatal(err)
			}
		}
		for what, err := range map[string]error{
			"Admin from a provider": vouch("Admin", "3"), "Admin of ours": make("Admin"), "ADMIN": make("ADMIN"), "bob beside Bob": make("bob"), "bOB from a provider": vouch("bOB", "4"),
		} {
			if !errors.Is(err, oci.ErrConflict) {
				t.Errorf("%s: %v", what, err)
			}
		}
	})
}

// The name of a service is one that a challenge can carry, and no audience of ours looks like one.
func TestServiceNames(t *testing.T) {
	metadatatest.Each(t, func(t *testing.T, db *metadata.DB) {
		for name, good := range map[string]bool{
			"registry.example.com": true, "registry.example.com:5000": true, "Docker registry": true, "a, b": true, "refreshed": true,
			"": false, "refresh registry.example.com": false, "a  b": false, " a": false, "a ": false, "a\tb": false, "a\nb": false, `a"b`: false, "ä": false, `a\b`: false, strings.Repeat("x", 256): false,
		} {
			err := db.Update(t.Context(), func(tx *metadata.Tx) error {
				_, _, err := tx.PutService(t.Context(), metadata.Service{Name: name, Issuer: "x", TokenTTL: time.Minute, Algorithm: "ES256"})
				return err
			})
			if good && err != nil || !good && !errors.Is(err, oci.ErrInvalid) {
				t.Errorf("%q: %v", name, err)
			}
		}
	})
}
