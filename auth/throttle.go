package auth

import (
	"context"
	"hash/maphash"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"berth/oci"
)

// Limits of failed sign-ins. They count per name and address, never per name
// alone: somebody who guesses alice's password from elsewhere does not lock
// alice out. Why the address has a budget of its own, and what that one does, is on the page
// docs/decisions/0010-guessing-from-one-address.md.
var (
	// perName failures are free: fingers slip, and CI retries.
	perName = allowance{burst: 10, refill: 6 * time.Second}
	// perAddress is for all names together. When it is spent, a name that has not signed in from there gets
	// one attempt per strictly.
	perAddress = allowance{burst: 100, refill: 2 * time.Second}
)

const (
	strictly = 10 * time.Minute
	// throttleEntries bounds the memory, to a few MB. When it is full, the pair
	// that failed longest ago is forgotten.
	throttleEntries = 16384
)

// allowance is how many failures are free, and how long it takes to earn another one.
type allowance struct {
	burst  float64
	refill time.Duration
}

// throttle counts failed sign-ins in bounded memory.
type throttle struct {
	clock     func() time.Time
	buckets   *lru.Cache[throttleKey, bucket]
	addresses *lru.Cache[string, bucket]
	// proven are the names that have signed in from an address.
	proven *lru.Cache[throttleKey, struct{}]
	seed   maphash.Seed

	mu sync.Mutex // makes read-change-write of a bucket one step
	// trying are the different credentials that are being checked, with the number of
	// requests that show each. Those who guess would otherwise send all their guesses
	// before the first of them has failed.
	trying map[throttleKey]map[uint64]int
}

type throttleKey struct{ name, address string }

// bucket holds how many failures are still free, at a time.
type bucket struct {
	left float64
	at   time.Time
}

func newThrottle(clock func() time.Time) *throttle {
	t := &throttle{clock: clock, seed: maphash.MakeSeed(), trying: map[throttleKey]map[uint64]int{}}
	t.buckets, _ = lru.New[throttleKey, bucket](throttleEntries)
	t.addresses, _ = lru.New[string, bucket](throttleEntries)
	t.proven, _ = lru.New[throttleKey, struct{}](throttleEntries) // they fail for a size that is not positive
	return t
}

func keyOf(c Credentials) throttleKey {
	name := strings.ToLower(c.Username)
	if len(name) > maxUserName {
		name = name[:maxUserName]
	}
	return throttleKey{strings.Clone(name), Network(c.RemoteAddr)}
}

// hostOf takes the port off an address.
func hostOf(remote string) string {
	if host, _, err := net.SplitHostPort(remote); err == nil {
		return host
	}
	return remote
}

// Network is what counts as one client: its IPv4 address, or the /64 that an IPv6
// client can choose from freely. The address comes with or without a port.
func Network(remote string) string {
	remote = hostOf(remote)
	ip, err := netip.ParseAddr(remote)
	if err != nil {
		return strings.Clone(remote)
	}
	if ip = ip.Unmap().WithZone(""); ip.Is6() {
		if p, err := ip.Prefix(64); err == nil {
			return p.String()
		}
	}
	return ip.String()
}

// left gives how many failures are free now.
func (a allowance) left(b bucket, known bool, now time.Time) float64 {
	if !known {
		return a.burst
	}
	return min(a.burst, b.left+now.Sub(b.at).Seconds()/a.refill.Seconds())
}

// wait is how long it takes until one failure is free again.
func (a allowance) wait(left float64) time.Duration {
	return time.Duration((1 - left) * float64(a.refill))
}

// enter begins the check of credentials, which ends with leave, after the outcome has
// been counted; or says how long this name must wait at this address. Every guess under
// way counts as one that fails. The same credentials count once, for a client that is
// right may show them with many requests at a time.
//
// spent is not nil when the address has no failures left and the name has not signed in from it: then it is the
// answer to credentials that are wrong, so that they look like those that were not looked at.
func (t *throttle) enter(key throttleKey, c Credentials) (leave func(), spent, refused *ThrottledError) {
	var h maphash.Hash
	h.SetSeed(t.seed)
	_, _ = h.WriteString(c.Username)
	_ = h.WriteByte(0)
	_, _ = h.WriteString(c.Password) // none of them fails
	guess := h.Sum64()
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.clock()
	b, known := t.buckets.Get(key)
	left := perName.left(b, known, now)
	refused = &ThrottledError{RetryAfter: perName.wait(left)}
	all, seen := t.addresses.Get(key.address)
	if ofAddress := perAddress.left(all, seen, now); ofAddress < 1 && !t.proven.Contains(key) {
		spent = &ThrottledError{RetryAfter: perAddress.wait(ofAddress), Address: true}
		refused = spent
		if left = min(left, 1); known && now.Sub(b.at) < strictly {
			left = 0
		}
	}
	if left < 1 {
		return nil, nil, refused
	}
	trying := t.trying[key]
	if trying[guess] == 0 && left-float64(len(trying)) < 1 {
		if spent == nil {
			refused.RetryAfter = perName.refill
		}
		return nil, nil, refused
	}
	if trying == nil {
		trying = map[uint64]int{}
		t.trying[key] = trying
	}
	trying[guess]++
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if trying[guess]--; trying[guess] == 0 {
			delete(trying, guess)
		}
		if len(trying) == 0 {
			delete(t.trying, key)
		}
	}, spent, nil
}

// failed counts a failure.
func (t *throttle) failed(key throttleKey) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.clock()
	b, known := t.buckets.Get(key)
	t.buckets.Add(key, bucket{max(0, perName.left(b, known, now)-1), now})
	b, known = t.addresses.Get(key.address)
	t.addresses.Add(key.address, bucket{max(0, perAddress.left(b, known, now)-1), now})
}

// succeeded forgets the name's failures before a success. The address's stay: a guesser may have an account.
func (t *throttle) succeeded(key throttleKey) {
	t.proven.Add(key, struct{}{})
	if t.buckets.Contains(key) {
		t.buckets.Remove(key)
	}
}

// hashesPerAddress is how many password hashes one address may have under way
// or in the queue at a time. Its further sign-ins wait before the queue, so that
// a flooder delays itself and not everybody.
const hashesPerAddress = 4

// maxWaiting is how many may wait for a place of one address. Who shows credentials
// can hang up at once while they are still being checked, so that waiting takes
// memory which nothing else bounds.
const maxWaiting = 512

// Turns hands out places to addresses, or other names of one client, each of which has
// the same number: a flooder delays itself and not everybody. Addresses without a place
// in use take no memory. Safe for concurrent use.
type Turns struct {
	perAddress int

	mu     sync.Mutex
	places map[string]*place
}

// NewTurns makes Turns of so many places for each address.
func NewTurns(perAddress int) *Turns {
	return &Turns{perAddress: perAddress, places: map[string]*place{}}
}

type place struct {
	slots chan struct{}
	users int
}

// Take waits for a place of a caller's address, with or without a port, or for the
// context to end. That, and that too many wait already, is UNAVAILABLE.
func (t *Turns) Take(ctx context.Context, remoteAddr string) (release func(), err error) {
	address := Network(remoteAddr)
	busy := oci.Errorf(oci.CodeUnavailable, "too many sign-ins from this address are being checked at the moment, try again in a few seconds")
	t.mu.Lock()
	p := t.places[address]
	if p == nil {
		p = &place{slots: make(chan struct{}, t.perAddress)}
		t.places[address] = p
	}
	if p.users >= t.perAddress+maxWaiting {
		t.mu.Unlock()
		return nil, busy
	}
	p.users++
	t.mu.Unlock()
	leave := func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if p.users--; p.users == 0 {
			delete(t.places, address)
		}
	}
	select {
	case p.slots <- struct{}{}:
		return func() { <-p.slots; leave() }, nil
	case <-ctx.Done():
		leave()
		return nil, busy.WithCause(ctx.Err())
	}
}
