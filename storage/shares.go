package storage

import (
	"context"
	"sync"
)

// Shares hands out a number of bytes to principals who take turns, none of whom ever has more than a share of them.
// Who waits for his own share holds nobody else up. It starts no goroutine; its methods may be called concurrently.
type Shares struct {
	max, share int64

	mu    sync.Mutex
	used  int64
	by    map[string]int64
	queue []*claim
}

type claim struct {
	who     string
	n       int64
	granted chan struct{}
}

// NewShares makes shares of max bytes, of which one principal has at most share.
func NewShares(max, share int64) *Shares {
	return &Shares{max: max, share: min(share, max), by: map[string]int64{}}
}

// Take waits for n bytes, or for a whole share if n is more than that. The caller gives them back by calling
// release, once. It returns the context's error.
func (s *Shares) Take(ctx context.Context, who string, n int64) (release func(), err error) {
	c := &claim{who: who, n: min(n, s.share), granted: make(chan struct{})}
	s.mu.Lock()
	s.queue = append(s.queue, c)
	s.grant()
	s.mu.Unlock()
	select {
	case <-c.granted:
		return func() { s.give(c) }, nil
	case <-ctx.Done():
	}
	s.mu.Lock()
	for i, q := range s.queue {
		if q == c {
			s.queue = append(s.queue[:i:i], s.queue[i+1:]...)
			s.grant() // who stood behind may fit
			s.mu.Unlock()
			return nil, ctx.Err()
		}
	}
	s.mu.Unlock()
	s.give(c) // granted in the same moment
	return nil, ctx.Err()
}

func (s *Shares) give(c *claim) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used -= c.n
	if s.by[c.who] -= c.n; s.by[c.who] == 0 {
		delete(s.by, c.who)
	}
	s.grant()
}

// grant serves the queue in its order, past those who wait for their own share only; the caller holds the lock.
func (s *Shares) grant() {
	rest := s.queue[:0]
	for i, c := range s.queue {
		if s.by[c.who]+c.n > s.share {
			rest = append(rest, c)
			continue
		}
		if s.used+c.n > s.max {
			rest = append(rest, s.queue[i:]...)
			break
		}
		s.used += c.n
		s.by[c.who] += c.n
		close(c.granted)
	}
	clear(s.queue[len(rest):])
	s.queue = rest
}
