// Package jobs is work in the background of servers. Loops (loops.go) run on one replica at a
// time. Jobs (runner.go) are started by somebody; one runs at a time over all replicas, and a
// note tells all of them how far it is.
//
// Who works holds a lease in the database. [Keep] renews it; when its holder dies it ends by
// itself. Package metadata has the rows of leases and notes. The callers say what the work is.
package jobs

import (
	"context"
	"sync"
	"time"
)

// Lease is one that the caller has, and how it is kept.
type Lease struct {
	// Every is how often it is renewed.
	Every time.Duration
	// Renew renews it. It says why the lease is lost, if it is, or why it could not be asked for; that is tried again.
	Renew func(context.Context) (lost, failed error)
	// Patience is how long renewing may fail before the lease counts as lost, for Late; 0 is any time.
	Patience time.Duration
	Late     error
	// Failed hears of each renewal that failed.
	Failed func(error)
}

// Keep renews a lease in the background. The context that it returns ends when the lease is or may be lost; its
// cause ([context.Cause]) is the reason. The caller calls stop when it needs the lease no longer: when that returns,
// nothing is renewed any more. It does not give the lease back.
func Keep(ctx context.Context, l Lease) (held context.Context, stop func()) {
	held, cancel := context.WithCancelCause(ctx)
	done := make(chan struct{})
	var renewing sync.WaitGroup
	renewing.Go(func() {
		renewed := time.Now()
		for {
			select {
			case <-done:
				return
			case <-held.Done():
				return
			case <-time.After(l.Every):
			}
			asked := time.Now()
			lost, failed := l.Renew(held)
			switch {
			case lost != nil:
				cancel(lost)
			case failed == nil:
				renewed = asked
			case l.Patience > 0 && time.Since(renewed) > l.Patience:
				cancel(l.Late)
			case held.Err() == nil:
				l.Failed(failed)
			}
		}
	})
	return held, func() {
		close(done)
		renewing.Wait()
		cancel(nil)
	}
}
