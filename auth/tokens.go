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

// Tokens recognises the opaque tokens of users and teams (berth_pat_...,
// berth_rob_..., berth_dep_...), as a bearer token or as a password with any user
// name, and the d.ims.io tokens that were imported, as user name and password. Safe
// for concurrent use.
type Tokens struct {
	db      *metadata.DB
	log     *slog.Logger
	clock   func() time.Time
	maxAge  time.Duration
	touched *lru.Cache[int64, time.Time] // by the row of the secret
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

// External says for how long the word of an outside provider about a user keeps
// the user's personal tokens alive; 0 is for ever. It is called before the first use.
func (a *Tokens) External(maxAge time.Duration) { a.maxAge = maxAge }

// Authenticate finds the owner of a token. A secret of ours costs one query when it
// can be one and none otherwise; a user name and a password cost one, for they may be
// a d.ims.io token.
func (a *Tokens) Authenticate(ctx context.Context, c Credentials) (Principal, error) {
	secret := c.secret()
	ours := LooksLikeSecret(secret)
	var hash string
	switch {
	case ours && !IsSecret(secret):
		return Principal{}, Wrongf("the token is mistyped or cut off: its checksum does not fit")
	case ours:
		hash = SecretHash(secret)
	case c.Bearer != "" || c.Username == "" || c.Password == "":
		return Principal{}, ErrNotMine
	default:
		hash = PairHash(c.Username, c.Password)
	}
	var (
		t     metadata.Token
		owner metadata.TokenOwner
	)
	err := a.db.View(ctx, func(tx *metadata.Tx) (err error) {
		t, owner, err = tx.TokenBySecretHash(ctx, hash)
		return err
	})
	switch {
	case errors.Is(err, oci.ErrNotFound) && !ours:
		return Principal{}, ErrNotMine
	case errors.Is(err, oci.ErrNotFound):
		return Principal{}, Wrongf("there is no such token: it was deleted or replaced by another secret, or is for another registry")
	case err != nil:
		return Principal{}, fmt.Errorf("reading the token: %w", err)
	}
	p, err := tokenPrincipal(t, owner, a.clock(), a.maxAge)
	if err != nil {
		return Principal{}, err
	}
	address := hostOf(c.RemoteAddr)
	if !p.Limit.AllowsFrom(address) {
		return Principal{}, WrongNetwork(p, address)
	}
	a.touch(ctx, t, address)
	return p, nil
}

// tokenPrincipal is who acts by a token and its one secret, if they may still be used.
func tokenPrincipal(t metadata.Token, owner metadata.TokenOwner, now time.Time, maxAge time.Duration) (Principal, error) {
	actions, err := ParseActions(t.Actions)
	if err != nil {
		return Principal{}, fmt.Errorf("token %d in the database: %w", t.ID, errors.New(err.Error()))
	}
	if len(t.Secrets) != 1 {
		return Principal{}, fmt.Errorf("token %d was read with %d secrets", t.ID, len(t.Secrets))
	}
	secret := t.Secrets[0]
	p := Principal{Kind: KindRobot, ID: t.ID, Name: t.Name, TeamID: t.TeamID, Team: t.Team, TokenID: t.ID, SecretID: secret.ID,
		Limit: &Limit{Repositories: t.Repositories, Actions: actions, Tags: t.Tags, CIDRs: t.CIDRs}}
	for _, end := range []*time.Time{t.ExpiresAt, secret.ExpiresAt} {
		if end != nil && (p.Expires.IsZero() || end.Before(p.Expires)) {
			p.Expires = *end
		}
	}
	switch t.Kind {
	case metadata.RobotToken:
	case metadata.DeployToken:
		p.Limit.Actions &^= Admin // whatever the row says
	case metadata.PersonalToken:
		p.Kind, p.ID, p.Name, p.Admin = KindUser, t.UserID, t.User, owner.Admin
	default:
		return Principal{}, fmt.Errorf("token %d in the database is of the unknown kind %q", t.ID, t.Kind)
	}
	refuse := func(format string, args ...any) (Principal, error) {
		return Principal{}, &wrong{reason: fmt.Sprintf(format, args...), whose: p.String()}
	}
	switch {
	case t.ExpiresAt != nil && !now.Before(*t.ExpiresAt):
		return refuse("the token %s has expired on %s, make a new one", t.Name, t.ExpiresAt.UTC().Format(time.RFC3339))
	case secret.ExpiresAt != nil && !now.Before(*secret.ExpiresAt):
		return refuse("the token %s has another secret since %s, use that", t.Name, secret.ExpiresAt.UTC().Format(time.RFC3339))
	case owner.Disabled:
		return refuse("the user %s, who owns the token %s, is disabled: ask an administrator of this registry", t.User, t.Name)
	case tooOld(owner.SeenAt, now, maxAge):
		return refuse("the token %s works again after a sign-in: the identity provider of %s last vouched on %s, and that counts for %s. Sign in there (docker login, berth login or the web page)", t.Name, t.User, owner.SeenAt.UTC().Format(time.RFC3339), maxAge)
	}
	return p, nil
}

// touch notes the use of a secret, at most once a minute. It is a convenience for
// people who clean up: when it fails, nothing is refused.
func (a *Tokens) touch(ctx context.Context, t metadata.Token, address string) {
	now, secret := a.clock(), t.Secrets[0]
	if secret.LastUsedAt != nil && now.Sub(*secret.LastUsedAt) < touchEvery {
		return
	}
	if last, ok := a.touched.Get(secret.ID); ok && now.Sub(last) < touchEvery {
		return
	}
	a.touched.Add(secret.ID, now)
	err := a.db.UpdateRelaxed(ctx, func(tx *metadata.Tx) error { return tx.TouchToken(ctx, t.ID, secret.ID, address) })
	if err != nil && ctx.Err() == nil {
		a.log.WarnContext(ctx, "the use of a token was not noted", "token", t.ID, "error", err)
	}
}
