package people_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"berth/auth"
	"berth/metadata"
	"berth/metadata/metadatatest"
	"berth/oci"
	"berth/people"
	"berth/testenv"
)

func TestMain(m *testing.M) { os.Exit(testenv.Main(m)) }

// world has the users boss (an admin), alice and off (disabled), the team core, the groups
// devs and off, and the denial freeze.
func world(t *testing.T, db *metadata.DB) *people.People {
	t.Helper()
	p := people.New(people.Options{DB: db})
	setup := auth.Operator("test")
	yes, admin := true, metadata.RoleAdmin
	_, err := p.CreateUser(t.Context(), setup, people.NewUser{Name: "boss", Role: &admin})
	errs := []error{err}
	for _, name := range []string{"alice", "off"} {
		_, err := p.CreateUser(t.Context(), setup, people.NewUser{Name: name})
		_, err2 := p.CreateGroup(t.Context(), setup, name)
		errs = append(errs, err, err2)
	}
	_, err = p.UpdateUser(t.Context(), setup, "off", people.UserChange{Disabled: &yes})
	_, err2 := p.SetGroupDisabled(t.Context(), setup, "off", true, nil)
	_, err3 := p.CreateTeam(t.Context(), setup, people.NewTeam{Name: "core"})
	_, err4 := p.PutDenial(t.Context(), setup, metadata.Denial{Name: "freeze", Principal: "*", Repository: "core/*", Actions: []string{"push"}}, nil)
	_, _, err5 := p.CreateToken(t.Context(), setup, people.NewToken{Kind: metadata.RobotToken, Team: "core", Name: "old", Actions: []string{"pull"}})
	_, err6 := p.PutTrustIssuer(t.Context(), setup, "https://jobs.example.com")
	if err := errors.Join(append(errs, err, err2, err3, err4, err5, err6)...); err != nil {
		t.Fatal(err)
	}
	return p
}

// A denial of what is nobody's name would deny nobody, and whoever made it believes that it does.
func TestDenialOfNobodyIsRefused(t *testing.T) {
	metadatatest.Each(t, func(t *testing.T, db *metadata.DB) {
		p := world(t, db)
		for principal, ok := range map[string]bool{
			"user:alice": false, "robot:core+ci": false, "team:*": false,
			"alice": true, "core+*": true, "aws:123456789012": true, "aws:*": true, "*:*": true, "*": true,
		} {
			_, err := p.PutDenial(t.Context(), auth.Operator("test"), metadata.Denial{Name: "one", Principal: principal, Repository: "core/*", Actions: []string{"push"}}, nil)
			if ok && err != nil || !ok && !errors.Is(err, oci.ErrInvalid) {
				t.Errorf("a denial of %q: %v", principal, err)
			}
		}
	})
}

// Every deed that gives a right asks for it and is on record, and one that is refused
// leaves neither row nor record.
func TestDeedsAskAndRecord(t *testing.T) {
	no, admin := false, metadata.RoleAdmin
	deeds := map[string]func(context.Context, *people.People, auth.Actor) error{
		"createUser": func(ctx context.Context, p *people.People, by auth.Actor) error {
			_, err := p.CreateUser(ctx, by, people.NewUser{Name: "eve", Role: &admin})
			return err
		},
		"updateUser": func(ctx context.Context, p *people.People, by auth.Actor) error {
			_, err := p.UpdateUser(ctx, by, "off", people.UserChange{Disabled: &no})
			return err
		},
		"setPassword": func(ctx context.Context, p *people.People, by auth.Actor) error {
			return p.SetPassword(ctx, by, "alice", people.Password{New: "long enough"})
		},
		"putMember": func(ctx context.Context, p *people.People, by auth.Actor) error {
			return p.PutMember(ctx, by, "core", "alice", metadata.RoleReader)
		},
		"putGroupMember": func(ctx context.Context, p *people.People, by auth.Actor) error {
			return p.PutGroupMember(ctx, by, "alice", "alice")
		},
		"updateGroup": func(ctx context.Context, p *people.People, by auth.Actor) error {
			_, err := p.SetGroupDisabled(ctx, by, "off", false, nil)
			return err
		},
		"putUserGrant": func(ctx context.Context, p *people.People, by auth.Actor) error {
			_, err := p.PutGrant(ctx, by, metadata.Grantee{User: "alice"}, "core/*", []string{"pull"})
			return err
		},
		"putGroupGrant": func(ctx context.Context, p *people.People, by auth.Actor) error {
			return p.AddGrant(ctx, by, metadata.Grantee{Group: "alice"}, "core/*", []string{"pull"})
		},
		"deleteDenial": func(ctx context.Context, p *people.People, by auth.Actor) error {
			return p.DeleteDenial(ctx, by, "freeze", nil)
		},
		"createRobot": func(ctx context.Context, p *people.People, by auth.Actor) error {
			_, _, err := p.CreateToken(ctx, by, people.NewToken{Kind: metadata.RobotToken, Team: "core", Name: "ci", Actions: []string{"pull"}})
			return err
		},
		"rotateRobot": func(ctx context.Context, p *people.People, by auth.Actor) error {
			_, _, err := p.RotateToken(ctx, by, "", "core", "old", time.Minute)
			return err
		},
		"putTrustPolicy": func(ctx context.Context, p *people.People, by auth.Actor) error {
			_, err := p.PutTrustPolicy(ctx, by, metadata.TrustPolicy{Team: "core", Name: "main", Issuer: "https://jobs.example.com", Audience: "a", Claims: map[string]string{"sub": "x"},
				Repositories: "*", Actions: []string{"pull"}, MaxLife: time.Minute}, nil, nil)
			return err
		},
		"setTrustOwners": func(ctx context.Context, p *people.People, by auth.Actor) error {
			_, err := p.SetTrustOwners(ctx, by, "https://jobs.example.com", []metadata.TrustOwner{{Claim: "sub", Pattern: "x", Team: "core"}})
			return err
		},
		"putAccount": func(ctx context.Context, p *people.People, by auth.Actor) error {
			return p.AddAccount(ctx, by, metadata.Account{Account: "123456789012", Repositories: "*", Actions: []string{"pull"}})
		},
	}
	metadatatest.Each(t, func(t *testing.T, db *metadata.DB) {
		p := world(t, db)
		log := func() (actions []string) {
			t.Helper()
			err := db.View(t.Context(), func(tx *metadata.Tx) error {
				events, err := tx.AuditEvents(t.Context(), metadata.AuditFilter{Principal: "boss", Limit: 100})
				for _, e := range events {
					actions = append(actions, e.Action)
				}
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			return actions
		}
		boss := auth.Actor{Principal: auth.Principal{Kind: auth.KindUser, ID: 1, Name: "boss", Admin: true}, Audit: metadata.Actor{Name: "boss", Kind: "user"}}
		narrow := map[string]func(*auth.Principal){
			"an hour": func(p *auth.Principal) { p.Expires = time.Now().Add(time.Hour) },
			"a network": func(p *auth.Principal) {
				p.Limit = &auth.Limit{Repositories: "*", Actions: auth.AllActions, CIDRs: []string{"10.0.0.0/8"}}
			},
			"admin only": func(p *auth.Principal) { p.Limit = &auth.Limit{Repositories: "*", Actions: auth.Admin} },
			"nobody":     func(p *auth.Principal) { *p = auth.Anonymous() },
		}
		for name, deed := range deeds {
			for how, change := range narrow {
				by := boss
				change(&by.Principal)
				if err := deed(t.Context(), p, by); !errors.Is(err, oci.ErrDenied) {
					t.Errorf("%s with a credential of %s: %v", name, how, err)
				}
			}
			if got := log(); slices.Contains(got, name) {
				t.Errorf("%s was refused, and is on record: %v", name, got)
			}
			before := len(log())
			if err := deed(t.Context(), p, boss); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			if got := log(); len(got) != before+1 || got[0] != name {
				t.Errorf("%s is on record as %v", name, got)
			}
		}
	})
}

// A batch is all or nothing, and no secret is on record.
func TestBatch(t *testing.T) {
	metadatatest.Each(t, func(t *testing.T, db *metadata.DB) {
		p := world(t, db)
		by := auth.Operator("import")
		run := func(names ...string) error {
			return p.Batch(t.Context(), func(b *people.Batch) error {
				for _, name := range names {
					if _, err := b.CreateUser(t.Context(), by, metadata.User{Name: name, PasswordHash: "the-hash", Role: metadata.RoleUser}, "test"); err != nil {
						return err
					}
				}
				return nil
			})
		}
		if err := run("one", "token"); !errors.Is(err, oci.ErrInvalid) {
			t.Errorf("a reserved name: %v", err)
		}
		if err := run("one", "two"); err != nil {
			t.Errorf("after a batch that failed: %v", err)
		}
		err := db.View(t.Context(), func(tx *metadata.Tx) error {
			events, err := tx.AuditEvents(t.Context(), metadata.AuditFilter{Principal: "import", Limit: 10})
			if text := fmt.Sprint(events); len(events) != 2 || strings.Contains(text, "the-hash") || !strings.Contains(text, "from:test") {
				t.Errorf("on record: %s", text)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}

// A batch has no way to its transaction: who imports writes no row around the rules.
func TestBatchHidesItsTransaction(t *testing.T) {
	batch := reflect.TypeFor[people.Batch]()
	for _, field := range reflect.VisibleFields(batch) {
		if field.IsExported() || field.Anonymous {
			t.Errorf("people.Batch has the field %s: give it a name of its own, in lower case", field.Name)
		}
	}
	tx := reflect.TypeFor[*metadata.Tx]()
	pointer := reflect.PointerTo(batch)
	for m := range pointer.NumMethod() {
		method := pointer.Method(m)
		for i := range method.Type.NumOut() {
			if method.Type.Out(i) == tx {
				t.Errorf("people.Batch.%s gives the transaction away", method.Name)
			}
		}
	}
}

// The bounds of a password are those that the management API's document tells.
func TestPasswordBounds(t *testing.T) {
	spec, err := os.ReadFile("../api/openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf("minLength: %d\n      maxLength: %d", people.MinPassword, people.MaxPassword); !strings.Contains(string(spec), want) {
		t.Errorf("api/openapi.yaml has not %q", want)
	}
	for n, good := range map[int]bool{people.MinPassword - 1: false, people.MinPassword: true, people.MaxPassword: true, people.MaxPassword + 1: false} {
		if err := people.CheckPassword(strings.Repeat("x", n)); (err == nil) != good {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
}
