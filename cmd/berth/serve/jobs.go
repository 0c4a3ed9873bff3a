package serve

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"berth/metadata"
)

// job is background work that one replica at a time does.
type job struct {
	name  string // of its lease
	every time.Duration
	run   func(context.Context) (int, error) // one bounded pass; how many things it did
}

// runJobs runs each job until the context ends, and returns when all have
// stopped. A lease in the database keeps replicas from doing the same work; work done twice
// after a lease ran out does no harm.
func runJobs(ctx context.Context, db *metadata.DB, holder string, log *slog.Logger, jobs []job) {
	var group sync.WaitGroup
	for _, j := range jobs {
		group.Go(func() {
			// Replicas that start together do not ask together.
			wait := time.Duration(rand.Int64N(int64(j.every)))
			for {
				select {
				case <-ctx.Done():
					return
				case <-time.After(wait):
				}
				wait = j.every
				if err := runLeased(ctx, db, holder, log, j); err != nil && ctx.Err() == nil {
					log.Error("background job failed, it will be tried again", "job", j.name, "error", err)
				}
			}
		})
	}
	group.Wait()
}

// lastPass bounds the last pass of a job about what is in memory.
const lastPass = 5 * time.Second

// runOwnJobs runs jobs about what this process has in memory, so without a lease,
// until the context ends, and each once more then.
func runOwnJobs(ctx context.Context, log *slog.Logger, jobs []job) {
	var group sync.WaitGroup
	for _, j := range jobs {
		group.Go(func() {
			for ctx.Err() == nil {
				select {
				case <-ctx.Done():
				case <-time.After(j.every):
				}
				pass, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastPass)
				if _, err := j.run(pass); err != nil {
					log.Error("background job failed, it will be tried again", "job", j.name, "error", err)
				}
				cancel()
			}
		})
	}
	group.Wait()
}

// runLeased runs passes of the job while there is work and the lease is ours.
func runLeased(ctx context.Context, db *metadata.DB, holder string, log *slog.Logger, j job) error {
	for {
		// Twice the interval: a replica that dies is followed within that time.
		var mine bool
		err := db.UpdateRelaxed(ctx, func(tx *metadata.Tx) (err error) {
			mine, err = tx.AcquireLease(ctx, j.name, holder, 2*j.every)
			return err
		})
		if err != nil || !mine {
			return err
		}
		n, err := j.run(ctx)
		if n > 0 {
			log.Info("background job", "job", j.name, "done", n)
		}
		if err != nil || n == 0 || ctx.Err() != nil {
			return errors.Join(err, ctx.Err())
		}
	}
}
