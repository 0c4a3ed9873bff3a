package token

import (
	"os"
	"testing"
	"time"

	"berth/auth"
	"berth/metadata"
	"berth/testenv"
)

func TestMain(m *testing.M) { os.Exit(testenv.Main(m)) }

// Replicas whose machines' clocks differ by two hours accept each other's tokens, for they take the time from
// the database.
func TestTokensOfReplicasWithClocksThatAreOff(t *testing.T) {
	address := testenv.Postgres(t)
	issuers := map[string]*Issuer{}
	for name, off := range map[string]time.Duration{"right": 0, "behind": -time.Hour, "ahead": time.Hour} {
		db, err := metadata.Open(t.Context(), metadata.Options{URL: address, Machine: func() time.Time { return time.Now().Add(off) }})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { db.Close() })
		if _, err := db.Migrate(t.Context()); err != nil {
			t.Fatal(err)
		}
		issuers[name] = newIssuer(t, db, Options{})
	}
	for from, issuer := range issuers {
		raw, _, err := issuer.Issue(t.Context(), auth.Anonymous(), service, access)
		if err != nil {
			t.Fatal(err)
		}
		for to, other := range issuers {
			if _, err := other.Verify(t.Context(), raw, service); err != nil {
				t.Errorf("a token of the replica that is %s, at the one that is %s: %v", from, to, err)
			}
		}
	}
}
