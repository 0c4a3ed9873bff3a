package auth_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"berth/auth"
	"berth/metadata"
)

// TestOneGuesserLocksNobodyOut: who tries many names from one address is stopped, while those behind the
// same address sign in, also for the first time, and nobody learns which guesses were looked at.
func TestOneGuesserLocksNobodyOut(t *testing.T) {
	ctx := context.Background()
	now := time.Unix(1_700_000_000, 0)
	clock := func() time.Time { return now }
	db := open(t)
	for _, name := range []string{"alice", "bob", "carol", "dora"} {
		addUser(t, db, name, metadata.RoleUser, cheapHash(t, "right"))
	}
	chain := auth.NewChain(clock, auth.NewTokens(db, nil, clock), auth.NewPasswords(db, auth.NewHasher(0), clock))
	as := func(name, password, address string) error {
		_, err := chain.Authenticate(ctx, auth.Credentials{Username: name, Password: password, RemoteAddr: address})
		return err
	}
	const office, elsewhere = "192.0.2.1:4000", "192.0.2.2:4000"
	var throttled *auth.ThrottledError
	if err := as("alice", "right", office); err != nil { // once, long ago
		t.Fatal(err)
	}
	now = now.Add(time.Hour)
	for i := range 100 {
		// Failures of a name are one each, and a success pays none of them back.
		if err := as(fmt.Sprint("name", i), "summer", office); !errors.Is(err, auth.ErrWrong) {
			t.Fatalf("guess %d: %v", i, err)
		}
	}
	for i := range 20 {
		for _, name := range []string{fmt.Sprint("other", i), "carol"} {
			if err := as(name, "summer", office); !errors.As(err, &throttled) || !throttled.Address || throttled.RetryAfter <= 0 {
				t.Fatalf("%s in place of a refusal that tells something: %v", name, err)
			}
		}
	}
	// At the first attempt, whether known from here or not.
	for _, name := range []string{"bob", "alice"} {
		if err := as(name, "right", office); err != nil {
			t.Errorf("%s behind the same address: %v", name, err)
		}
	}
	// Those who are known from here may mistype, too; others may not, nor does the right password count then.
	if err := as("alice", "wrong", office); !errors.Is(err, auth.ErrWrong) {
		t.Errorf("alice mistypes: %v", err)
	}
	for _, password := range []string{"wrong", "right"} {
		if err := as("dora", password, office); !errors.As(err, &throttled) {
			t.Errorf("dora, who is not known here, says %s: %v", password, err)
		}
	}
	if err := as("dora", "right", elsewhere); err != nil {
		t.Errorf("dora elsewhere: %v", err)
	}
	now = now.Add(10 * time.Minute)
	if err := as("dora", "right", office); err != nil {
		t.Errorf("dora later: %v", err)
	}
}
