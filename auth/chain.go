package auth

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Chain asks authenticators in turn, and limits guessing for all of them. It
// is an Authenticator that never says ErrNotMine: what nobody knows is wrong.
// Safe for concurrent use.
type Chain struct {
	list     []Authenticator
	throttle *throttle
}

// NewChain makes a chain that asks the authenticators in the given order. A
// nil clock is time.Now.
func NewChain(clock func() time.Time, list ...Authenticator) *Chain {
	if clock == nil {
		clock = time.Now
	}
	return &Chain{list: list, throttle: newThrottle(clock)}
}

// Authenticate finds who shows the credentials. The errors are ErrWrong, *ThrottledError when this
// name failed too often from this address and the credentials were not looked at, or when all
// names together did and they are wrong or were not looked at, or any other error when it cannot
// be said now (answer 503).
func (c *Chain) Authenticate(ctx context.Context, cred Credentials) (Principal, error) {
	// A token cannot be guessed, so its failures need no limit: a CI job with an
	// expired token is told so each time, and hinders nobody.
	if c.unguessable(cred) {
		return c.ask(ctx, cred)
	}
	key := keyOf(cred)
	leave, spent, refused := c.throttle.enter(key, cred)
	if refused != nil {
		for _, a := range c.list {
			if r, ok := a.(Recaller); ok {
				if p, err := r.Recall(ctx, cred); err == nil {
					return p, nil
				}
			}
		}
		return Principal{}, refused
	}
	defer leave()
	p, err := c.ask(ctx, cred)
	switch {
	case err == nil:
		c.throttle.succeeded(key)
	case errors.Is(err, ErrWrong):
		c.throttle.failed(key)
		if spent != nil {
			err = spent
		}
	}
	return p, err
}

func (c *Chain) unguessable(cred Credentials) bool {
	if cred.Bearer != "" || LooksLikeSecret(cred.Password) || LooksLikeJWT(cred.Password) {
		return true
	}
	for _, a := range c.list {
		if u, ok := a.(Unguessable); ok && u.Unguessable(cred) {
			return true
		}
	}
	return false
}

func (c *Chain) ask(ctx context.Context, cred Credentials) (Principal, error) {
	for _, a := range c.list {
		p, err := a.Authenticate(ctx, cred)
		switch {
		case err == nil && p.IsAnonymous():
			// A wrapper refuses what it does not know: this would be a mistake that opens.
			return Principal{}, fmt.Errorf("authenticator %T named nobody and gave no error", a)
		case err == nil:
			return p, nil
		case errors.Is(err, ErrNotMine):
		case errors.Is(err, ErrWrong):
			if !c.unguessable(cred) {
				c.decoys(ctx, cred, a)
			}
			return Principal{}, err
		default:
			return Principal{}, fmt.Errorf("checking credentials: %w", err)
		}
	}
	c.decoys(ctx, cred, nil)
	return Principal{}, ErrWrong
}

// decoys spends the time of those who were not asked about a password, or did not
// know the name: who is refused shall not tell by the time it takes.
func (c *Chain) decoys(ctx context.Context, cred Credentials, refused Authenticator) {
	for _, a := range c.list {
		if d, ok := a.(Decoy); ok && a != refused {
			d.Decoy(ctx, cred)
		}
	}
}
