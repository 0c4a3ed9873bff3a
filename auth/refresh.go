package auth

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"berth/metadata"
	"berth/oci"
)

// Refresher says whether somebody who signed in once may still come back
// without showing the credential again, and as whom. Safe for concurrent use.
type Refresher struct {
	db     *metadata.DB
	clock  func() time.Time
	maxAge time.Duration

	directory *Directory
	providers []Rechecker
}

// Rechecker is an Authenticator of outside users that can say of one of them,
// without a credential, what it would say at a sign-in now: an LDAP server can,
// most others cannot. Safe for concurrent use.
type Rechecker interface {
	// Recheck finds the user by the source and the subject of the identity that
	// it gave at the sign-in. The errors are those of Authenticate: ErrNotMine for
	// another source, ErrWrong for a user who is gone or locked there, any other
	// when it cannot say now.
	Recheck(ctx context.Context, source, subject string) (Identity, error)
}

// NewRefresher makes a Refresher. A nil clock is time.Now.
func NewRefresher(db *metadata.DB, clock func() time.Time) *Refresher {
	if clock == nil {
		clock = time.Now
	}
	return &Refresher{db: db, clock: clock}
}

// External tells how users of outside providers come back. What a provider said
// counts for maxAge, 0 is for ever. Refresh tokens have only users whose provider
// can be asked again at each use; the directory stores what it says then. It is
// called before the first use.
func (r *Refresher) External(maxAge time.Duration, directory *Directory, providers ...Rechecker) {
	r.maxAge, r.directory, r.providers = maxAge, directory, providers
}

// ErrNoRefresh says that somebody has to show the credential again each time:
// there is nothing to recognise later that it still holds.
var ErrNoRefresh = errors.New("auth: there is no refresh token for this sign-in")

// Proof binds a refresh token to the credential that was shown: to the present
// password of a user, to a secret of a token, or to the identity at a provider that
// can be asked again. The error is ErrNoRefresh for all others.
func (r *Refresher) Proof(ctx context.Context, p Principal) (string, error) {
	switch {
	case p.TokenID != 0:
		return tokenProof(p), nil
	case p.Kind == KindUser:
		u, err := r.user(ctx, p.ID)
		switch {
		case err != nil:
			return "", err
		case u.Source == metadata.SourceLocal:
			return passwordProof(u), nil
		case len(r.providers) == 0:
			return "", ErrNoRefresh
		}
		// Asking now tells whether one of them knows the source at all.
		if _, err := r.ask(ctx, u); err != nil {
			if errors.Is(err, ErrNotMine) {
				return "", ErrNoRefresh
			}
			return "", err
		}
		return providerProof(u), nil
	}
	return "", ErrNoRefresh
}

// ask has the provider of an outside user say again who that is.
func (r *Refresher) ask(ctx context.Context, u metadata.User) (Identity, error) {
	for _, provider := range r.providers {
		id, err := provider.Recheck(ctx, u.Source, u.Subject)
		switch {
		case errors.Is(err, ErrNotMine):
			continue
		case err != nil:
			return Identity{}, fmt.Errorf("asking %s about %s: %w", u.Source, u.Name, err)
		case id.Provider != u.Source || id.Subject != u.Subject:
			return Identity{}, fmt.Errorf("%s was asked about %s and spoke of somebody else", u.Source, u.Name)
		}
		return id, nil
	}
	return Identity{}, ErrNotMine
}

// providerProof says at whose word the user was taken.
func providerProof(u metadata.User) string {
	sum := sha256.Sum256([]byte("berth refresh\x00" + u.Source + "\x00" + u.Subject))
	return "provider:" + hex.EncodeToString(sum[:16])
}

// tokenProof names the secret and not only its token: when the token is rotated, what
// was signed in with the old secret ends with it.
func tokenProof(p Principal) string { return fmt.Sprintf("token:%d:%d", p.TokenID, p.SecretID) }

// passwordProof changes with the password and tells nothing about it: the
// stored hash is salted, and slow to guess at.
func passwordProof(u metadata.User) string {
	sum := sha256.Sum256([]byte("berth refresh\x00" + u.PasswordHash))
	return "password:" + hex.EncodeToString(sum[:16])
}

// Recheck gives the principal of a refresh token as it is now, with today's
// role and limits. The error is ErrWrong when the user or the token is gone,
// disabled or expired, the password has been changed, or the user's provider says
// no or has not been heard for too long.
func (r *Refresher) Recheck(ctx context.Context, p Principal, proof string) (Principal, error) {
	if p.TokenID != 0 {
		if proof != tokenProof(p) {
			return Principal{}, ErrWrong
		}
		var (
			t     metadata.Token
			owner metadata.TokenOwner
		)
		err := r.db.View(ctx, func(tx *metadata.Tx) (err error) {
			t, owner, err = tx.TokenBySecretID(ctx, p.TokenID, p.SecretID)
			return err
		})
		if errors.Is(err, oci.ErrNotFound) {
			return Principal{}, Wrongf("the token that was signed in with has been deleted, or its secret was replaced")
		}
		if err != nil {
			return Principal{}, fmt.Errorf("reading the token: %w", err)
		}
		return tokenPrincipal(t, owner, r.clock(), r.maxAge)
	}
	if p.Kind != KindUser {
		return Principal{}, ErrWrong
	}
	u, err := r.user(ctx, p.ID)
	switch {
	case err != nil:
		return Principal{}, err
	case u.Disabled:
		return Principal{}, errDisabled(u)
	case u.Source != metadata.SourceLocal:
		return r.recheckExternal(ctx, u, proof)
	case !hmac.Equal([]byte(passwordProof(u)), []byte(proof)):
		return Principal{}, Wrongf("the password was changed since, sign in again")
	}
	return userPrincipal(u), nil
}

// recheckExternal asks the provider of an outside user, as a sign-in would.
func (r *Refresher) recheckExternal(ctx context.Context, u metadata.User, proof string) (Principal, error) {
	if !hmac.Equal([]byte(providerProof(u)), []byte(proof)) {
		return Principal{}, ErrWrong
	}
	id, err := r.ask(ctx, u)
	if errors.Is(err, ErrNotMine) {
		return Principal{}, Wrongf("%s cannot be asked about %s any more, sign in again", u.Source, u.Name)
	}
	if err != nil {
		return Principal{}, err
	}
	return r.directory.SignIn(ctx, id)
}

// Current gives a principal, as a bearer token holds it, with today's role. It
// is for requests that change who may do what, where the life of a bearer token
// is too long to wait. The error is ErrWrong when the principal is gone or disabled.
func (r *Refresher) Current(ctx context.Context, p Principal) (Principal, error) {
	switch {
	case p.TokenID != 0:
		return r.Recheck(ctx, p, tokenProof(p))
	case p.TrustID != 0:
		return r.trusted(ctx, p)
	case p.Kind == KindUser:
		u, err := r.user(ctx, p.ID)
		if err != nil {
			return Principal{}, err
		}
		switch {
		case u.Disabled:
			return Principal{}, errDisabled(u)
		case tooOld(u.SeenAt, r.clock(), r.maxAge):
			return Principal{}, errStale(u)
		}
		p.Name, p.Admin = u.Name, u.IsAdmin() // how the user signed in, and what that carries, has not changed
		return p, nil
	}
	return p, nil
}

// trusted gives the robot of a trust policy with the policy's rights of today. A
// policy with other conditions than before holds for claims that are known, those
// by which the workload signed in. One for another issuer is another policy, and so
// is that of another team, which on SQLite may have got the number of a deleted one.
func (r *Refresher) trusted(ctx context.Context, p Principal) (Principal, error) {
	var policy metadata.TrustPolicy
	err := r.db.View(ctx, func(tx *metadata.Tx) (err error) {
		policy, err = tx.TrustPolicyByID(ctx, p.TrustID)
		return err
	})
	if err != nil && !errors.Is(err, oci.ErrNotFound) {
		return Principal{}, fmt.Errorf("reading the trust policy: %w", err)
	}
	today, ok := TrustPrincipal(policy, func(claim string) []string {
		if v, ok := p.Claims[claim]; ok {
			return []string{v}
		}
		return nil
	})
	if err != nil || !ok || policy.Issuer != p.Claims["iss"] || policy.TeamID != p.TeamID {
		return Principal{}, Wrongf("the trust policy that was signed in by has been deleted or changed, sign in again")
	}
	today.Claims, today.Expires = p.Claims, p.Expires
	return today, nil
}

func (r *Refresher) user(ctx context.Context, id int64) (u metadata.User, err error) {
	err = r.db.View(ctx, func(tx *metadata.Tx) (err error) {
		u, err = tx.UserByID(ctx, id)
		return err
	})
	if errors.Is(err, oci.ErrNotFound) {
		return u, Wrongf("the user who signed in does not exist any more")
	}
	if err != nil {
		return u, fmt.Errorf("reading the user: %w", err)
	}
	return u, nil
}
