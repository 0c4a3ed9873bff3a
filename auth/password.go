package auth

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/sync/singleflight"

	"berth/metadata"
	"berth/oci"
)

const (
	// verifiedFor is how long a password that was right is not hashed again. It
	// needs not be shorter: the stored hash is part of what is remembered and the
	// user's row is read each time, so a changed password or a disabled user is
	// refused at once.
	verifiedFor = 5 * time.Minute
	// verifiedMax bounds how many are remembered, at about 100 bytes each.
	verifiedMax = 4096
	// verifyTimeout bounds the wait for a turn and the hash itself.
	verifyTimeout = 20 * time.Second
)

// Passwords recognises the users of the database by their password. Safe for
// concurrent use.
type Passwords struct {
	db     *metadata.DB
	hasher *Hasher
	clock  func() time.Time

	key      [32]byte // of the HMAC below, new in every process
	verified *lru.Cache[[32]byte, time.Time]
	flights  singleflight.Group
	turns    *Turns
}

// NewPasswords makes the authenticator of passwords. A nil clock is time.Now.
func NewPasswords(db *metadata.DB, hasher *Hasher, clock func() time.Time) *Passwords {
	if clock == nil {
		clock = time.Now
	}
	verified, err := lru.New[[32]byte, time.Time](verifiedMax)
	if err != nil {
		panic(err) // only for a size that is not positive
	}
	p := &Passwords{db: db, hasher: hasher, clock: clock, verified: verified, turns: NewTurns(hashesPerAddress)}
	_, _ = rand.Read(p.key[:]) // never fails: see crypto/rand
	return p
}

// Authenticate finds the user of a name and password: one query, and a slow
// hash the first time. A name that is not in the database is ErrNotMine.
func (a *Passwords) Authenticate(ctx context.Context, c Credentials) (Principal, error) {
	u, err := a.user(ctx, c)
	if err != nil {
		return Principal{}, err
	}
	remembered := a.remembered(u.PasswordHash, c.Password)
	ok := a.isVerified(remembered)
	if !ok {
		if ok, err = a.verify(ctx, u.PasswordHash, c, remembered); err != nil {
			return Principal{}, err
		}
	}
	return a.principal(u, ok)
}

// Recall is Authenticate for passwords that were right a short time ago.
func (a *Passwords) Recall(ctx context.Context, c Credentials) (Principal, error) {
	u, err := a.user(ctx, c)
	if err != nil {
		return Principal{}, err
	}
	if !a.isVerified(a.remembered(u.PasswordHash, c.Password)) {
		return Principal{}, ErrNotMine
	}
	return a.principal(u, true)
}

// Decoy takes the time of checking a password.
func (a *Passwords) Decoy(ctx context.Context, c Credentials) {
	if c.Bearer != "" || LooksLikeSecret(c.Password) {
		return // names play no part in these
	}
	ctx, cancel := context.WithTimeout(ctx, verifyTimeout)
	defer cancel()
	release, err := a.turns.Take(ctx, c.RemoteAddr)
	if err != nil {
		return
	}
	defer release()
	a.hasher.Waste(ctx, c.Password)
}

// user reads the user of the credentials, who has not been verified yet.
func (a *Passwords) user(ctx context.Context, c Credentials) (u metadata.User, err error) {
	if c.Bearer != "" || c.Username == "" || LooksLikeSecret(c.Password) {
		return u, ErrNotMine
	}
	if _, err := ParseUserName(c.Username); err != nil {
		return u, ErrNotMine // cannot be one of ours, and need not reach the database
	}
	err = a.db.View(ctx, func(tx *metadata.Tx) (err error) {
		u, err = tx.User(ctx, c.Username)
		return err
	})
	if errors.Is(err, oci.ErrNotFound) {
		return u, ErrNotMine
	}
	if err != nil {
		return u, fmt.Errorf("reading the user: %w", err)
	}
	if u.Source != metadata.SourceLocal {
		return u, ErrNotMine // the provider has the password
	}
	return u, nil
}

// principal is the user, if the password was right and the user may sign in. A
// disabled user learns that only by showing the right password.
func (a *Passwords) principal(u metadata.User, ok bool) (Principal, error) {
	switch {
	case !ok:
		return Principal{}, ErrWrong
	case u.Disabled:
		return Principal{}, errDisabled(u)
	}
	return userPrincipal(u), nil
}

func userPrincipal(u metadata.User) Principal {
	return Principal{Kind: KindUser, ID: u.ID, Name: u.Name, Admin: u.IsAdmin()}
}

// remembered is the key under which a right password is remembered: without
// the process's own key it tells nothing about hash or password.
func (a *Passwords) remembered(hash, password string) (key [32]byte) {
	mac := hmac.New(sha256.New, a.key[:])
	mac.Write([]byte(hash))
	mac.Write([]byte{0})
	mac.Write([]byte(password))
	mac.Sum(key[:0])
	return key
}

func (a *Passwords) isVerified(key [32]byte) bool {
	until, ok := a.verified.Get(key)
	return ok && a.clock().Before(until)
}

// verify pays the slow hash, once for all requests that show the same
// credentials at the same time.
func (a *Passwords) verify(ctx context.Context, hash string, c Credentials, remembered [32]byte) (bool, error) {
	flight := a.flights.DoChan(string(remembered[:]), func() (any, error) {
		// One client that hangs up must not fail the others.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), verifyTimeout)
		defer cancel()
		release, err := a.turns.Take(ctx, c.RemoteAddr)
		if err != nil {
			return false, err
		}
		defer release()
		if hash == "" { // cannot sign in with a password; takes as long to say so
			a.hasher.Waste(ctx, c.Password)
			return false, nil
		}
		ok, err := a.hasher.Verify(ctx, hash, c.Password)
		if ok {
			a.verified.Add(remembered, a.clock().Add(verifiedFor))
		}
		return ok, err
	})
	select {
	case result := <-flight:
		ok, _ := result.Val.(bool)
		return ok && result.Err == nil, result.Err
	case <-ctx.Done():
		return false, ctx.Err()
	}
}

// CheckCurrent says whether a user knows the password that is about to be replaced: a
// token, or a session that was left open, does not take the account over. passwords
// counts failures as it does at a sign-in. The error is a DENIED, or says that it cannot
// be checked now.
func CheckCurrent(ctx context.Context, passwords Authenticator, p Principal, current string) error {
	is, err := passwords.Authenticate(ctx, Credentials{Username: p.Name, Password: current, RemoteAddr: p.RemoteAddr})
	wrong := errors.Is(err, ErrWrong) || errors.Is(err, ErrNotMine)
	// A token is accepted in place of a password elsewhere, but does not prove to be the owner.
	if wrong || err == nil && (is.Kind != KindUser || is.ID != p.ID || is.TokenID != 0) {
		return oci.Errorf(oci.CodeDenied, "the current password is wrong: give it again, or ask an admin to set a new one").WithDetail(map[string]string{
			"rule": "current-password", "principal": p.String(), "ask": "an administrator of this registry",
		})
	}
	return err
}
