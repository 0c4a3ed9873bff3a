package sqldb

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// Everybody gets what was asked after they came, and those who come together
// share one question.
func TestSnapshotsAreAskedAfterwards(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int64
		const roundTrip = 10 * time.Millisecond
		s := &snapshots{ask: func(context.Context) (string, error) {
			asked.Add(1)
			begun := time.Now().UnixNano() // the moment that the answer is of
			time.Sleep(roundTrip)
			return fmt.Sprint(begun), nil
		}}
		const clients = 100
		var group sync.WaitGroup
		for i := range clients {
			group.Go(func() {
				time.Sleep(time.Duration(i) * time.Millisecond)
				s.mu.Lock()
				s.pause = 0 // each answer is a new state, but here nobody pauses
				s.mu.Unlock()
				came := time.Now().UnixNano()
				at, ok := s.state(t.Context())
				var begun, broken int64
				if _, err := fmt.Sscan(at.snapshot, &begun, &broken); err != nil || !ok || broken != 0 {
					t.Errorf("%q, %v, %v", at.snapshot, ok, err)
				}
				if begun < came {
					t.Errorf("client %d was told what was asked %v before it came", i, time.Duration(came-begun))
				}
				if waited := time.Duration(time.Now().UnixNano() - came); waited > 2*roundTrip {
					t.Errorf("client %d waited %v", i, waited)
				}
			})
		}
		group.Wait()
		if n := asked.Load(); n < clients/10 || n > clients/10+2 {
			t.Errorf("%d clients in %d round trips asked %d questions", clients, clients/10, n)
		}
	})
}

// A state that was named before a connection was made, or broke, is none that holds now,
// even if the server says the same again.
func TestSnapshotsOfAnotherConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var failing, connects bool
		s := &snapshots{}
		s.ask = func(ctx context.Context) (string, error) {
			if failing {
				return "", errors.New("the connection broke")
			}
			if connects {
				s.connected()
				return "same", nil
			}
			return "same", nil
		}
		state := func() (dbState, bool) {
			time.Sleep(time.Second) // all pauses are over
			return s.state(t.Context())
		}
		first, ok := state()
		if again, same := state(); !ok || !same || again != first {
			t.Errorf("nothing happened, and %v is %v", first, again)
		}
		connects = true
		second, ok := state()
		connects = false
		if third, same := state(); !ok || !same || second == first || third != second {
			t.Errorf("before a connection was made it was %v, with it %v, then %v", first, second, third)
		}
		failing = true
		if at, ok := state(); ok {
			t.Errorf("an answer that did not come is %v", at)
		}
		failing = false
		if fourth, ok := state(); !ok || fourth == second {
			t.Errorf("after a broken connection the state is still %v", fourth)
		}
	})
}

// While each question finds another state, fewer are asked; a state that lasts ends that.
// Who gives up does not wait for an answer.
func TestSnapshotsPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked int
		changes := true
		s := &snapshots{ask: func(context.Context) (string, error) {
			if asked++; changes {
				return fmt.Sprint(asked), nil
			}
			return "same", nil
		}}
		during := func(d time.Duration) int {
			before := asked
			for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(100 * time.Microsecond) {
				s.state(t.Context())
			}
			return asked - before
		}
		if n := during(time.Second); n < 10 || n > 30 {
			t.Errorf("of a database that changes all the time, %d questions are asked in a second", n)
		}
		changes = false
		during(time.Second)
		if n := during(time.Second); n < 9000 {
			t.Errorf("of a database that does not change, %d questions are asked where 10,000 are wanted", n)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		s.ask = func(context.Context) (string, error) {
			time.Sleep(time.Hour)
			return "same", nil
		}
		begun := time.Now()
		if _, ok := s.state(ctx); ok || time.Since(begun) != 0 {
			t.Error("who gave up has waited for an answer")
		}
		time.Sleep(2 * time.Hour)
	})
}

// A server whose snapshots do not show what was written is read without a cache.
func TestSnapshotsShowWrites(t *testing.T) {
	broken := errors.New("broken")
	for name, server := range map[string]struct {
		ask   error
		moves bool
		write error
		ok    bool
	}{
		"Postgres":                  {moves: true, ok: true},
		"always the same":           {},
		"no such function":          {ask: broken, moves: true},
		"a standby cannot be asked": {write: broken, moves: true},
	} {
		state := 0
		s := &snapshots{ask: func(context.Context) (string, error) { return fmt.Sprint(state), server.ask }}
		err := s.check(t.Context(), func(context.Context) error {
			if server.moves {
				state++
			}
			return server.write
		})
		if ok := err == nil; ok != server.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}
