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
	db    *metadata.DB
	clock func() time.Time
}

// NewRefresher makes a Refresher. A nil clock is time.Now.
func NewRefresher(db *metadata.DB, clock func() time.Time) *Refresher {
	if clock == nil {
		clock = time.Now
	}
	return &Refresher{db: db, clock: clock}
}

// Proof binds a refresh token to the credential that was shown: to the present
// password of a user, or to a secret of a token. The anonymous have none.
func (r *Refresher) Proof(ctx context.Context, p Principal) (string, error) {
	switch {
	case p.TokenID != 0:
		return tokenProof(p), nil
	case p.Kind == KindUser:
		u, err := r.user(ctx, p.ID)
		if err != nil {
			return "", err
		}
		return passwordProof(u), nil
	}
	return "", errors.New("nobody has signed in")
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
// disabled or expired, or the password has been changed.
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
		return tokenPrincipal(t, owner, r.clock())
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
	case !hmac.Equal([]byte(passwordProof(u)), []byte(proof)):
		return Principal{}, Wrongf("the password was changed since, sign in again")
	}
	return userPrincipal(u), nil
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
		if u.Disabled {
			return Principal{}, errDisabled(u)
		}
		return userPrincipal(u), nil
	}
	return p, nil
}

// trusted gives the robot of a trust policy with the policy's rights of today. A
// policy with other conditions than before holds for claims that are known, those
// by which the workload signed in.
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
	if err != nil || !ok {
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
