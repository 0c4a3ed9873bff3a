package auth

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"berth/metadata"
	"berth/oci"
)

// Tokens recognises the opaque tokens of users and robots (berth_pat_...,
// berth_rob_...), as a bearer token or as a password with any user name. Safe
// for concurrent use.
type Tokens struct {
	db      *metadata.DB
	log     *slog.Logger
	clock   func() time.Time
	touched *lru.Cache[int64, time.Time]
}

const (
	// touchEvery is how exact the time of a token's last use is.
	touchEvery = time.Minute
	touchedMax = 4096
)

// NewTokens makes the authenticator of opaque tokens. A nil logger discards, a
// nil clock is time.Now.
func NewTokens(db *metadata.DB, log *slog.Logger, clock func() time.Time) *Tokens {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	if clock == nil {
		clock = time.Now
	}
	touched, err := lru.New[int64, time.Time](touchedMax)
	if err != nil {
		panic(err) // only for a size that is not positive
	}
	return &Tokens{db: db, log: log, clock: clock, touched: touched}
}

// Authenticate finds the owner of a token: no query for what cannot be one,
// else one query.
func (a *Tokens) Authenticate(ctx context.Context, c Credentials) (Principal, error) {
	secret := c.secret()
	if !looksLikeSecret(secret) {
		return Principal{}, ErrNotMine
	}
	if !IsSecret(secret) {
		return Principal{}, Wrongf("the token is mistyped or cut off: its checksum does not fit")
	}
	var (
		t     metadata.Token
		owner metadata.TokenOwner
	)
	err := a.db.View(ctx, func(tx *metadata.Tx) (err error) {
		t, owner, err = tx.TokenBySecretHash(ctx, SecretHash(secret))
		return err
	})
	if errors.Is(err, oci.ErrNotFound) {
		return Principal{}, Wrongf("there is no such token: it was deleted, or is for another registry")
	}
	if err != nil {
		return Principal{}, fmt.Errorf("reading the token: %w", err)
	}
	p, err := tokenPrincipal(t, owner, a.clock())
	if err == nil {
		a.touch(ctx, t)
	}
	return p, err
}

// tokenPrincipal is who acts by a token, if it may still be used.
func tokenPrincipal(t metadata.Token, owner metadata.TokenOwner, now time.Time) (Principal, error) {
	switch {
	case t.ExpiresAt != nil && !now.Before(*t.ExpiresAt):
		return Principal{}, Wrongf("the token %s has expired on %s, make a new one", t.Name, t.ExpiresAt.UTC().Format(time.RFC3339))
	case owner.Disabled:
		return Principal{}, Wrongf("the user %s, who owns the token %s, is disabled: ask an administrator of this registry", t.User, t.Name)
	}
	actions, err := ParseActions(t.Actions)
	if err != nil {
		return Principal{}, fmt.Errorf("token %d in the database: %w", t.ID, errors.New(err.Error()))
	}
	limit := &Limit{Repositories: t.Repositories, Actions: actions}
	switch t.Kind {
	case metadata.RobotToken:
		return Principal{Kind: KindRobot, ID: t.ID, Name: t.Name, TeamID: t.TeamID, Team: t.Team, TokenID: t.ID, Limit: limit}, nil
	case metadata.PersonalToken:
		return Principal{Kind: KindUser, ID: t.UserID, Name: t.User, Admin: owner.Admin, TokenID: t.ID, Limit: limit}, nil
	}
	return Principal{}, fmt.Errorf("token %d in the database is of the unknown kind %q", t.ID, t.Kind)
}

// touch notes the use of a token, at most once a minute. It is a convenience for
// people who clean up: that it fails is no reason to refuse.
func (a *Tokens) touch(ctx context.Context, t metadata.Token) {
	now := a.clock()
	if t.LastUsedAt != nil && now.Sub(*t.LastUsedAt) < touchEvery {
		return
	}
	if last, ok := a.touched.Get(t.ID); ok && now.Sub(last) < touchEvery {
		return
	}
	a.touched.Add(t.ID, now)
	err := a.db.UpdateRelaxed(ctx, func(tx *metadata.Tx) error { return tx.TouchToken(ctx, t.ID) })
	if err != nil && ctx.Err() == nil {
		a.log.WarnContext(ctx, "the use of a token was not noted", "token", t.ID, "error", err)
	}
}
