package auth

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"berth/metadata"
	"berth/metadata/metadatatest"
	"berth/oci"
)

// askable is a provider that can be asked again, as package auth/ldap is one.
type askable struct {
	source string
	ids    map[string]Identity
	err    error
	asked  int
}

func (a *askable) Recheck(_ context.Context, source, subject string) (Identity, error) {
	if source != a.source {
		return Identity{}, ErrNotMine
	}
	a.asked++
	if a.err != nil {
		return Identity{}, a.err
	}
	if id, ok := a.ids[subject]; ok {
		return id, nil
	}
	return Identity{}, ErrWrong
}

// What a provider said counts for so long: then the user's tokens are refused, and
// the bearer tokens that are still about have no rights, until the next sign-in.
func TestExternalMaxAge(t *testing.T) {
	metadatatest.EachURL(t, func(t *testing.T, url string) {
		ctx := t.Context()
		var clock metadatatest.Clock
		db := metadatatest.Open(t, metadata.Options{URL: url, Clock: clock.Now})
		const maxAge = 720 * time.Hour
		directory := NewDirectory(db, nil, clock.Now)
		tokens := NewTokens(db, nil, clock.Now)
		tokens.External(maxAge)
		policy := NewPolicy(db, PolicyOptions{ExternalMaxAge: maxAge, Clock: clock.Now})
		refresher := NewRefresher(db, clock.Now)
		refresher.External(maxAge, directory)
		sessions := NewWebSessions(db, 100*maxAge, clock.Now)
		sessions.External(maxAge)
		alice := Identity{Provider: "ldap", Subject: "uuid-1", Name: "alice", Teams: map[string]string{"core": "member"}}
		p, err := directory.SignIn(ctx, alice)
		if err != nil {
			t.Fatal(err)
		}
		secret, hash := NewSecret(PersonalPrefix)
		err = db.Update(ctx, func(tx *metadata.Tx) error {
			_, err := tx.CreateToken(ctx, metadata.Token{Kind: metadata.PersonalToken, Name: "laptop", User: "alice", Repositories: "*", Actions: []string{"pull", "push"}}, hash)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		session, _, err := sessions.Begin(ctx, p)
		if err != nil {
			t.Fatal(err)
		}
		expect := func(when string, fresh bool) {
			t.Helper()
			if _, err := sessions.Find(ctx, session); fresh != (err == nil) || !fresh && !errors.Is(err, ErrWrong) {
				t.Errorf("%s: the browser: %v", when, err)
			}
			_, err := tokens.Authenticate(ctx, Credentials{Bearer: secret})
			if fresh && err != nil || !fresh && (!errors.Is(err, ErrWrong) || !strings.Contains(WrongReason(err), "Sign in there")) {
				t.Errorf("%s: the token: %v", when, err)
			}
			d, err := policy.Actions(ctx, p, "core/app")
			if err != nil || fresh != (d.Actions == Pull|Push) || !fresh && (d.Actions != 0 || d.Rule != RuleStale) {
				t.Errorf("%s: %v, %v", when, d, err)
			}
			if !fresh {
				if r := policy.Explain(ctx, p, "core/app", d, Push); r.Rule != RuleStale || !strings.Contains(r.Message(), "too old") {
					t.Errorf("%s: %+v %s", when, r, r.Message())
				}
			}
			viewer, err := policy.Viewer(ctx, p)
			if err != nil {
				t.Fatal(err)
			}
			err = db.View(ctx, func(tx *metadata.Tx) error {
				names, err := tx.RepositoryNames(ctx, metadata.RepositoryFilter{Viewer: viewer, Limit: 10})
				if fresh != (len(names) == 2) || !fresh && len(names) != 0 {
					t.Errorf("%s: %q are listed", when, names)
				}
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := refresher.Current(ctx, p); fresh != (err == nil) || !fresh && !errors.Is(err, ErrWrong) {
				t.Errorf("%s: now: %v", when, err)
			}
		}
		err = db.Update(ctx, func(tx *metadata.Tx) error {
			_, _, err := tx.EnsureRepository(ctx, "core/app", metadata.Private, "x")
			if err == nil {
				_, _, err = tx.EnsureRepository(ctx, "other/app", metadata.Internal, "x")
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		expect("at first", true)
		clock.Advance(maxAge)
		expect("to the day", true)
		clock.Advance(time.Second)
		expect("too late", false)
		if _, err := directory.SignIn(ctx, alice); err != nil {
			t.Fatal(err)
		}
		expect("after a sign-in", true)
		// Users of ours have no such end.
		err = db.Update(ctx, func(tx *metadata.Tx) error {
			u, err := tx.CreateUser(ctx, metadata.User{Name: "local", Role: metadata.RoleUser})
			if err != nil {
				return err
			}
			p = userPrincipal(u)
			session = "of local"
			if err := tx.CreateWebSession(ctx, u.ID, SecretHash(session), clock.Now().Add(100*maxAge)); err != nil {
				return err
			}
			if _, err := tx.CreateTeam(ctx, "core", ""); err != nil {
				return err
			}
			if err := tx.PutMember(ctx, "core", "local", metadata.RoleMember); err != nil {
				return err
			}
			secret, hash = NewSecret(PersonalPrefix)
			_, err = tx.CreateToken(ctx, metadata.Token{Kind: metadata.PersonalToken, Name: "laptop", User: "local", Repositories: "*", Actions: []string{"pull", "push"}}, hash)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		clock.Advance(10 * maxAge)
		expect("a local user", true)
	})
}

// A user of an outside provider has a refresh token only when the provider can be
// asked again, and then each use asks it.
func TestRecheckExternal(t *testing.T) {
	metadatatest.Each(t, func(t *testing.T, db *metadata.DB) {
		ctx := t.Context()
		directory := NewDirectory(db, nil, nil)
		alice := Identity{Provider: "ldap", Subject: "uuid-1", Name: "alice", Teams: map[string]string{"core": "member"}}
		p, err := directory.SignIn(ctx, alice)
		if err != nil {
			t.Fatal(err)
		}
		ldap := &askable{source: "ldap", ids: map[string]Identity{"uuid-1": alice}}
		r := NewRefresher(db, nil)
		if proof, err := r.Proof(ctx, p); !errors.Is(err, ErrNoRefresh) || proof != "" {
			t.Errorf("nobody can be asked: %q, %v", proof, err)
		}
		r.External(time.Hour, directory, &askable{source: "oidc"})
		if proof, err := r.Proof(ctx, p); !errors.Is(err, ErrNoRefresh) || proof != "" {
			t.Errorf("only others can be asked: %q, %v", proof, err)
		}
		if _, err := r.Proof(ctx, Anonymous()); !errors.Is(err, ErrNoRefresh) {
			t.Errorf("nobody: %v", err)
		}
		r.External(time.Hour, directory, &askable{source: "oidc"}, ldap)
		proof, err := r.Proof(ctx, p)
		if err != nil {
			t.Fatal(err)
		}
		policy := NewPolicy(db, PolicyOptions{})
		rights := func() Actions {
			t.Helper()
			again, err := r.Recheck(ctx, p, proof)
			if err != nil || again.ID != p.ID {
				t.Fatalf("%+v, %v", again, err)
			}
			d, err := policy.Actions(ctx, again, "core/app")
			if err != nil {
				t.Fatal(err)
			}
			return d.Actions
		}
		if got := rights(); got != Pull|Push {
			t.Errorf("the same: %s", got)
		}
		alice.Teams = map[string]string{"core": "reader"}
		ldap.ids["uuid-1"] = alice
		if got := rights(); got != Pull { // CVE-2025-23208: less counts as much as more
			t.Errorf("lowered upstream: %s", got)
		}
		ldap.err = oci.ErrUnavailable
		if _, err := r.Recheck(ctx, p, proof); err == nil || errors.Is(err, ErrWrong) || !errors.Is(err, oci.ErrUnavailable) {
			t.Errorf("the provider is down: %v", err)
		}
		ldap.err = nil
		for name, bad := range map[string]string{"another proof": "provider:00", "a password's": passwordProof(metadata.User{}), "none": ""} {
			asked := ldap.asked
			if _, err := r.Recheck(ctx, p, bad); !errors.Is(err, ErrWrong) || ldap.asked != asked {
				t.Errorf("%s: %v", name, err)
			}
		}
		ldap.ids["uuid-1"] = Identity{Provider: "ldap", Subject: "uuid-2", Name: "mallory"}
		if p, err := r.Recheck(ctx, p, proof); err == nil || errors.Is(err, ErrWrong) {
			t.Errorf("the provider speaks of somebody else: %+v, %v", p, err)
		}
		delete(ldap.ids, "uuid-1")
		if _, err := r.Recheck(ctx, p, proof); !errors.Is(err, ErrWrong) {
			t.Errorf("gone upstream: %v", err)
		}
		ldap.ids["uuid-1"] = alice
		disabled := true
		if err := db.Update(ctx, func(tx *metadata.Tx) error {
			if _, err := tx.CreateUser(ctx, metadata.User{Name: "root", Role: metadata.RoleAdmin}); err != nil {
				return err
			}
			_, err := tx.UpdateUser(ctx, "alice", metadata.UserChange{Disabled: &disabled})
			return err
		}); err != nil {
			t.Fatal(err)
		}
		if _, err := r.Recheck(ctx, p, proof); !errors.Is(err, ErrWrong) {
			t.Errorf("disabled here: %v", err)
		}
	})
}
