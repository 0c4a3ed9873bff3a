package storage

import (
	"context"
	"errors"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
)

// TestShares: many take and give back, and never is more out than there is, nor with one of them than a share.
func TestShares(t *testing.T) {
	const limit, share, people = 100, 40, 5
	s := NewShares(limit, share)
	var all atomic.Int64
	var each [people]atomic.Int64
	var wg sync.WaitGroup
	for i := range 200 {
		wg.Go(func() {
			who := i % people
			n := 1 + rand.Int64N(2*share)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if i%7 == 0 {
				go cancel() // at any moment
			}
			release, err := s.Take(ctx, strconv.Itoa(who), n)
			if err != nil {
				if !errors.Is(err, context.Canceled) || i%7 != 0 {
					t.Error(err)
				}
				return
			}
			n = min(n, share)
			if a, e := all.Add(n), each[who].Add(n); a > limit || e > share {
				t.Errorf("%d are out, %d of them with %d", a, e, who)
			}
			all.Add(-n)
			each[who].Add(-n)
			release()
		})
	}
	wg.Wait()
	if s.used != 0 || len(s.by) != 0 || len(s.queue) != 0 {
		t.Errorf("left: %d, %v, %d waiting", s.used, s.by, len(s.queue))
	}
}

// Who has used up his share holds nobody up.
func TestSharesPassThoseWhoWaitForThemselves(t *testing.T) {
	s := NewShares(100, 40)
	release, err := s.Take(t.Context(), "greedy", 40)
	if err != nil {
		t.Fatal(err)
	}
	second := make(chan func())
	go func() {
		r, err := s.Take(context.Background(), "greedy", 1)
		if err != nil {
			t.Error(err)
		}
		second <- r
	}()
	if other, err := s.Take(t.Context(), "other", 40); err != nil {
		t.Fatal(err)
	} else {
		other()
	}
	release()
	(<-second)()
}
