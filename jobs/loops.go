package jobs

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"berth/metadata"
)

// Loop is work that comes again and again.
type Loop struct {
	// Name is that of its lease, and in the log.
	Name  string
	Every time.Duration
	// Run is one bounded pass; it returns how many things it did, 0 when there is nothing left to do now.
	Run func(context.Context) (int, error)
}

// RunLeased runs each loop until the context ends, and returns when all have stopped. A lease in
// the database keeps replicas, each a holder with a name of its own, from doing the same work;
// work done twice after a lease ran out does no harm. A pass that fails is logged and made again.
func RunLeased(ctx context.Context, db *metadata.DB, holder string, log *slog.Logger, loops []Loop) {
	var group sync.WaitGroup
	for _, l := range loops {
		group.Go(func() {
			// Replicas that start together do not ask together.
			wait := time.Duration(rand.Int64N(int64(l.Every)))
			for {
				select {
				case <-ctx.Done():
					return
				case <-time.After(wait):
				}
				wait = l.Every
				if err := l.leased(ctx, db, holder, log); err != nil && ctx.Err() == nil {
					log.Error("background job failed, it will be tried again", "job", l.Name, "error", err)
				}
			}
		})
	}
	group.Wait()
}

// lastPass bounds the last pass of a loop about what is in memory.
const lastPass = 5 * time.Second

// RunOwn runs loops about what this process has in memory, so without a lease,
// until the context ends, and each once more then. A pass has a few seconds.
func RunOwn(ctx context.Context, log *slog.Logger, loops []Loop) {
	var group sync.WaitGroup
	for _, l := range loops {
		group.Go(func() {
			for ctx.Err() == nil {
				select {
				case <-ctx.Done():
				case <-time.After(l.Every):
				}
				pass, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastPass)
				if _, err := l.Run(pass); err != nil {
					log.Error("background job failed, it will be tried again", "job", l.Name, "error", err)
				}
				cancel()
			}
		})
	}
	group.Wait()
}

// leased runs passes while there is work and the lease is ours.
func (l Loop) leased(ctx context.Context, db *metadata.DB, holder string, log *slog.Logger) error {
	for {
		// Twice the interval: a replica that dies is followed within that time.
		var mine bool
		err := db.UpdateRelaxed(ctx, func(tx *metadata.Tx) (err error) {
			mine, err = tx.AcquireLease(ctx, l.Name, holder, 2*l.Every)
			return err
		})
		if err != nil || !mine {
			return err
		}
		n, err := l.Run(ctx)
		if n > 0 {
			log.Info("background job", "job", l.Name, "done", n)
		}
		if err != nil || n == 0 || ctx.Err() != nil {
			return errors.Join(err, ctx.Err())
		}
	}
}
