package auth

import (
	"errors"
	"testing"
	"time"

	"berth/metadata"
	"berth/metadata/metadatatest"
)

// TestWebSessions: a session is one user's, ends when it is told to, and leaves
// nothing behind when its time is over.
func TestWebSessions(t *testing.T) {
	metadatatest.Each(t, func(t *testing.T, db *metadata.DB) {
		ctx := t.Context()
		ahead := time.Duration(0)
		sessions := NewWebSessions(db, time.Hour, func() time.Time { return time.Now().Add(ahead) })
		alice, err := NewDirectory(db, nil, nil).SignIn(ctx, Identity{Provider: "oidc", Subject: "1", Name: "alice"})
		if err != nil {
			t.Fatal(err)
		}
		begin := func() string {
			t.Helper()
			secret, expires, err := sessions.Begin(ctx, alice)
			if err != nil || len(secret) < 40 || time.Until(expires) > time.Hour+ahead {
				t.Fatalf("%d bytes until %s, %v", len(secret), expires, err)
			}
			return secret
		}
		first, second := begin(), begin()
		for _, secret := range []string{first, second} {
			if p, err := sessions.Find(ctx, secret); err != nil || p.Name != "alice" || p.ID != alice.ID || p.Expires.IsZero() {
				t.Errorf("%+v, %v", p, err)
			}
		}
		for range 2 { // the second time there is none
			if err := sessions.End(ctx, first); err != nil {
				t.Error(err)
			}
		}
		for _, secret := range []string{first, "", SecretHash(second), "' OR 1=1 --"} {
			if p, err := sessions.Find(ctx, secret); !errors.Is(err, ErrWrong) {
				t.Errorf("%.20q: %+v, %v", secret, p, err)
			}
		}
		if _, err := sessions.Find(ctx, second); err != nil {
			t.Errorf("the other session: %v", err)
		}
		if _, _, err := sessions.Begin(ctx, Principal{Kind: KindRobot, Name: "ci", Team: "core"}); !errors.Is(err, ErrWrong) {
			t.Errorf("a session of a robot: %v", err)
		}
		ahead = 2 * time.Hour
		if p, err := sessions.Find(ctx, second); !errors.Is(err, ErrWrong) {
			t.Errorf("after its time: %+v, %v", p, err)
		}
	})
}
