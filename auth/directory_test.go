package auth

import (
	"errors"
	"testing"

	"berth/metadata"
	"berth/metadata/metadatatest"
)

// What a provider says of a user counts anew at each sign-in, and a name has one owner.
func TestDirectory(t *testing.T) {
	metadatatest.Each(t, func(t *testing.T, db *metadata.DB) {
		ctx := t.Context()
		directory := NewDirectory(db, nil, nil)
		policy := NewPolicy(db, PolicyOptions{})
		alice := Identity{Provider: "ldap", Subject: "uuid-1", Name: "alice", Teams: map[string]string{"core": "member", "ops": "reader"}, Groups: []string{"b", "a", "b"}}
		push := func(p Principal, repository string) Actions {
			t.Helper()
			d, err := policy.Actions(ctx, p, repository)
			if err != nil {
				t.Fatal(err)
			}
			return d.Actions
		}
		p, err := directory.SignIn(ctx, alice)
		if err != nil || p.Name != "alice" || p.Kind != KindUser || p.Admin || p.ID == 0 {
			t.Fatalf("first sign-in: %+v, %v", p, err)
		}
		if got := push(p, "core/app"); got != Pull|Push {
			t.Errorf("core/app: %s, want pull,push", got)
		}
		if got := push(p, "ops/app"); got != Pull {
			t.Errorf("ops/app: %s, want pull", got)
		}

		alice.Teams, alice.Groups, alice.Admin, alice.Name = map[string]string{"core": "reader"}, nil, true, "alice.new"
		again, err := directory.SignIn(ctx, alice)
		if err != nil || again.ID != p.ID || again.Name != "alice" || !again.Admin {
			t.Fatalf("second sign-in: %+v, %v", again, err)
		}
		if got := push(p, "core/app"); got != Pull {
			t.Errorf("core/app after the role was lowered: %s, want pull", got)
		}
		if got := push(p, "ops/app"); got != 0 {
			t.Errorf("ops/app after the membership ended: %s, want nothing", got)
		}

		for name, id := range map[string]Identity{
			"the same name of another subject":  {Provider: "ldap", Subject: "uuid-2", Name: "alice"},
			"the same name of another provider": {Provider: "oidc", Subject: "uuid-1", Name: "alice"},
			"a robot's name":                    {Provider: "oidc", Subject: "x", Name: "core+ci"},
		} {
			if p, err := directory.SignIn(ctx, id); !errors.Is(err, ErrWrong) {
				t.Errorf("%s: %+v, %v, want ErrWrong", name, p, err)
			}
		}
		for name, id := range map[string]Identity{
			"no subject":          {Provider: "ldap", Name: "bob"},
			"a role that is none": {Provider: "ldap", Subject: "y", Name: "bob", Teams: map[string]string{"core": "owner"}},
			"our own users":       {Provider: metadata.SourceLocal, Subject: "y", Name: "bob"},
		} {
			if p, err := directory.SignIn(ctx, id); err == nil || errors.Is(err, ErrWrong) {
				t.Errorf("%s: %+v, %v, want an error that is not ErrWrong", name, p, err)
			}
		}

		disabled := true
		if err := db.Update(ctx, func(tx *metadata.Tx) error {
			_, err := tx.CreateUser(ctx, metadata.User{Name: "root", Role: metadata.RoleAdmin})
			if err == nil {
				_, err = tx.UpdateUser(ctx, "alice", metadata.UserChange{Disabled: &disabled})
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
		if _, err := directory.SignIn(ctx, alice); !errors.Is(err, ErrWrong) {
			t.Errorf("a disabled user signed in: %v", err)
		}
	})
}

// A provider gives nobody a name that means something else at the sign-in.
func TestReservedNamesOfProviders(t *testing.T) {
	metadatatest.Each(t, func(t *testing.T, db *metadata.DB) {
		d := NewDirectory(db, nil, nil)
		for _, name := range []string{"oidc", "Token", "oauth2"} {
			if p, err := d.SignIn(t.Context(), Identity{Provider: "ldap", Subject: name, Name: name}); !errors.Is(err, ErrWrong) {
				t.Errorf("%s: %v, %v", name, p, err)
			}
		}
	})
}
