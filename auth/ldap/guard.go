package ldap

import (
	"context"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"berth/auth"
)

// guard keeps guesses here from locking accounts there: directories lock an account
// after a few wrong passwords, for everything that it is used for. It passes on only
// so many wrong passwords for an account, wherever they come from; the chain's
// own limit is per address.
//
// An address from which the account has signed in before has a budget of its own, so that
// somebody who guesses from elsewhere does not lock its owner out here.
// The directory sees at most twice the number that is set.
type guard struct {
	limit  int
	window time.Duration
	clock  func() time.Time

	turns   *auth.Turns // of accounts
	mu      sync.Mutex  // makes read-change-write of a count one step
	known   *lru.Cache[[2]string, struct{}]
	counted *lru.Cache[budget, count]
}

// guardEntries bounds the memory, to a few MB.
const guardEntries = 16384

type budget struct {
	account string
	known   bool
}

type count struct {
	failures int
	since    time.Time
}

func newGuard(limit int, window time.Duration, clock func() time.Time) *guard {
	g := &guard{limit: limit, window: window, clock: clock, turns: auth.NewTurns(1)}
	g.known, _ = lru.New[[2]string, struct{}](guardEntries)
	g.counted, _ = lru.New[budget, count](guardEntries) // they fail for a size that is not positive
	return g
}

func (g *guard) budget(account, address string) budget {
	return budget{account, g.known.Contains([2]string{account, address})}
}

// enter waits for the turn of an account, which leave gives back, or says how long no
// more passwords are tried. The error is UNAVAILABLE: the turn did not come in time.
func (g *guard) enter(ctx context.Context, account, address string) (leave func(), wait time.Duration, err error) {
	if g.limit <= 0 {
		return func() {}, 0, nil
	}
	if wait = g.blocked(account, address); wait > 0 {
		return nil, wait, nil
	}
	if leave, err = g.turns.Take(ctx, account); err != nil {
		return nil, 0, err
	}
	if wait = g.blocked(account, address); wait > 0 { // by those before
		leave()
		return nil, wait, nil
	}
	return leave, 0, nil
}

// blocked gives how long no more passwords are tried; 0 is that one may be.
func (g *guard) blocked(account, address string) time.Duration {
	c, ok := g.counted.Get(g.budget(account, address))
	if !ok || c.failures < g.limit {
		return 0
	}
	return max(0, c.since.Add(g.window).Sub(g.clock()))
}

// failed counts a wrong password. The window begins with the first one.
func (g *guard) failed(account, address string) {
	if g.limit <= 0 {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	key, now := g.budget(account, address), g.clock()
	c, ok := g.counted.Get(key)
	if !ok || now.Sub(c.since) >= g.window {
		c = count{since: now}
	}
	c.failures++
	g.counted.Add(key, c)
}

// succeeded remembers the address; the directory itself forgets the failures now.
func (g *guard) succeeded(account, address string) {
	if g.limit <= 0 {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.known.Add([2]string{account, address}, struct{}{})
	g.counted.Remove(budget{account, false})
	g.counted.Remove(budget{account, true})
}
