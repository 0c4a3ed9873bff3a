package auth

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"time"

	"berth/metadata"
	"berth/oci"
)

// WebSessions remembers who signed in with a browser. A session is a row, so it
// ends for all replicas at once, and its user's role is that of the moment. Safe
// for concurrent use.
type WebSessions struct {
	db     *metadata.DB
	ttl    time.Duration
	clock  func() time.Time
	maxAge time.Duration
}

// NewWebSessions makes WebSessions that last for ttl. A nil clock is time.Now.
func NewWebSessions(db *metadata.DB, ttl time.Duration, clock func() time.Time) *WebSessions {
	if clock == nil {
		clock = time.Now
	}
	return &WebSessions{db: db, ttl: ttl, clock: clock}
}

// External says for how long the word of an outside provider about a user keeps
// the user's sessions alive; 0 is for as long as they last. It is called before the
// first use.
func (s *WebSessions) External(maxAge time.Duration) { s.maxAge = maxAge }

// Begin makes a session of a user and gives its secret, for a cookie, and its
// end. Only the hash of the secret is stored.
func (s *WebSessions) Begin(ctx context.Context, p Principal) (secret string, expires time.Time, err error) {
	// A session is the whole user. It holds nothing of what narrows a credential.
	if p.Kind != KindUser || p.Limit != nil || p.Everywhere != 0 || p.TokenID != 0 {
		return "", time.Time{}, Wrongf("only people sign in with a browser")
	}
	secret, expires = rand.Text()+rand.Text(), s.clock().Add(s.ttl)
	err = s.db.Update(ctx, func(tx *metadata.Tx) error {
		return tx.CreateWebSession(ctx, p.ID, SecretHash(secret), expires)
	})
	if err != nil {
		return "", time.Time{}, fmt.Errorf("storing the session of %s: %w", p, err)
	}
	return secret, expires, nil
}

// Find gives the user of a session as the user is now. The error is ErrWrong for a
// session that has ended, or whose user is disabled or not vouched for any more.
func (s *WebSessions) Find(ctx context.Context, secret string) (Principal, error) {
	var u metadata.User
	var expires time.Time
	err := s.db.View(ctx, func(tx *metadata.Tx) error {
		id, until, err := tx.WebSession(ctx, SecretHash(secret))
		if err != nil {
			return err
		}
		expires = until
		u, err = tx.UserByID(ctx, id)
		return err
	})
	switch {
	case errors.Is(err, oci.ErrNotFound), err == nil && !s.clock().Before(expires):
		return Principal{}, Wrongf("the session has ended, sign in again")
	case err != nil:
		return Principal{}, fmt.Errorf("reading the session: %w", err)
	case u.Disabled:
		return Principal{}, errDisabled(u)
	case tooOld(u.SeenAt, s.clock(), s.maxAge):
		return Principal{}, errStale(u)
	}
	p := userPrincipal(u)
	p.Expires, p.Person = expires, true
	return p, nil
}

// PageToken is the token of a session that a page shows with what it changes, beside the
// session itself: base64url, 43 characters, as long as the session. Who knows it does not know the session's secret. A cookie
// comes with every request of a browser, whoever made it; this comes only from who was given it.
func PageToken(secret string) string {
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte("berth page token"))
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

// IsPageToken reports whether a token is that of the session.
func IsPageToken(secret, token string) bool {
	return hmac.Equal([]byte(PageToken(secret)), []byte(token))
}

// End ends a session, if there is one.
func (s *WebSessions) End(ctx context.Context, secret string) error {
	err := s.db.Update(ctx, func(tx *metadata.Tx) error { return tx.DeleteWebSession(ctx, SecretHash(secret)) })
	if err != nil {
		return fmt.Errorf("ending the session: %w", err)
	}
	return nil
}
