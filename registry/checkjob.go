package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"berth/metadata"
	"berth/oci"
)

// The states of a check that runs in the background.
const (
	CheckRunning   = "running"
	CheckFinished  = "finished"
	CheckFailed    = "failed"
	CheckCancelled = "cancelled"
	CheckLost      = "lost" // the replica that ran it has died
)

// CheckJob is a check that a server runs in the background, as all replicas see it.
type CheckJob struct {
	ID        string    `json:"id"`
	State     string    `json:"state"`
	StartedBy string    `json:"started_by"`
	UpdatedAt time.Time `json:"updated_at"`
	Rehash    bool      `json:"rehash"`
	Repair    bool      `json:"repair"`
	Rate      float64   `json:"rate"`      // objects a second
	HashRate  float64   `json:"hash_rate"` // bytes a second
	Error     string    `json:"error,omitempty"`
	// Report is of what is done so far; Problems has the first thousand.
	Report CheckReport `json:"report"`
}

// The terms of a job.
const (
	checkLease    = "check"
	checkLeaseTTL = time.Minute
	checkRenew    = 5 * time.Second
	noteCheck     = "check"
	noteCheckTTL  = 90 * 24 * time.Hour
	// maxNoted bounds the problems in the note, which is written every few seconds.
	maxNoted = 1000
)

// CheckJobs runs checks in the background, one at a time in all replicas. Close it.
type CheckJobs struct {
	r      *Registry
	ctx    context.Context // ends with the server; a job outlives the request that started it
	cancel context.CancelFunc
	group  sync.WaitGroup
}

// NewCheckJobs makes one for a registry.
func NewCheckJobs(r *Registry) *CheckJobs {
	ctx, cancel := context.WithCancel(context.Background())
	return &CheckJobs{r: r, ctx: ctx, cancel: cancel}
}

// Close ends a check that runs here, and waits for its end.
func (c *CheckJobs) Close() {
	c.cancel()
	c.group.Wait()
}

// Start begins a check, or returns CONFLICT while another one runs.
func (c *CheckJobs) Start(ctx context.Context, run CheckRun, by string) (CheckJob, error) {
	job := CheckJob{ID: newID(), State: CheckRunning, StartedBy: by, Rehash: run.Rehash, Repair: run.Repair, Rate: run.Rate, HashRate: run.HashRate,
		UpdatedAt: c.r.o.Clock().UTC(), Report: CheckReport{StartedAt: c.r.o.Clock().UTC(), Found: map[string]int64{}, Problems: []Problem{}}}
	if err := c.ctx.Err(); err != nil {
		return job, oci.Errorf(oci.CodeUnavailable, "this server is stopping: ask again, another one will answer")
	}
	err := c.r.db.Update(ctx, func(tx *metadata.Tx) error {
		mine, err := tx.AcquireLease(ctx, checkLease, job.ID, checkLeaseTTL)
		if err != nil {
			return err
		}
		if !mine {
			return oci.Errorf(oci.CodeConflict, "a check is running already: look at it, cancel it or wait for its end")
		}
		return c.note(ctx, tx, job)
	})
	if err != nil {
		return job, err
	}
	c.group.Go(func() { c.run(job, run) })
	return job, nil
}

// Current gives the check that runs, or the last one; nil when there was none
// within three months.
func (c *CheckJobs) Current(ctx context.Context) (*CheckJob, error) {
	var job *CheckJob
	err := c.r.db.View(ctx, func(tx *metadata.Tx) error {
		text, err := tx.Note(ctx, noteCheck)
		if err != nil || text == "" {
			return err
		}
		job = &CheckJob{}
		if err := json.Unmarshal([]byte(text), job); err != nil {
			return fmt.Errorf("reading the note of the check: %w", err)
		}
		holder, err := tx.LeaseHolder(ctx, checkLease)
		if err == nil && job.State == CheckRunning && holder != job.ID {
			job.State = CheckLost
		}
		return err
	})
	return job, err
}

// Cancel ends the check that runs, on whichever replica, within seconds. It
// returns NOT_FOUND when none does.
func (c *CheckJobs) Cancel(ctx context.Context) error {
	return c.r.db.Update(ctx, func(tx *metadata.Tx) error {
		holder, err := tx.LeaseHolder(ctx, checkLease)
		if err != nil {
			return err
		}
		if holder == "" {
			return oci.Errorf(oci.CodeNotFound, "no check is running")
		}
		return tx.ReleaseLease(ctx, checkLease, holder)
	})
}

// note writes how far the job is.
func (c *CheckJobs) note(ctx context.Context, tx *metadata.Tx, job CheckJob) error {
	if len(job.Report.Problems) > maxNoted {
		job.Report.Problems = job.Report.Problems[:maxNoted]
	}
	text, err := json.Marshal(job)
	if err != nil {
		return err
	}
	return tx.PutNote(ctx, noteCheck, string(text), noteCheckTTL)
}

var errCancelled = errors.New("the check was cancelled")

func (c *CheckJobs) run(job CheckJob, run CheckRun) {
	ctx, cancel := context.WithCancelCause(c.ctx)
	defer cancel(nil)
	var mu sync.Mutex // job.Report
	run.Progress = func(r CheckReport) {
		mu.Lock()
		defer mu.Unlock()
		r.Problems = append([]Problem{}, r.Problems[:min(len(r.Problems), maxNoted)]...)
		found := map[string]int64{}
		for kind, n := range r.Found {
			found[kind] = n
		}
		r.Found = found
		job.Report = r
	}
	snapshot := func() CheckJob {
		mu.Lock()
		defer mu.Unlock()
		job.UpdatedAt = c.r.o.Clock().UTC()
		return job
	}
	done := make(chan struct{})
	var renewing sync.WaitGroup
	renewing.Go(func() {
		for {
			select {
			case <-done:
				return
			case <-time.After(checkRenew):
			}
			now := snapshot()
			var mine bool
			err := c.r.db.UpdateRelaxed(ctx, func(tx *metadata.Tx) (err error) {
				if mine, err = tx.RenewLease(ctx, checkLease, job.ID, checkLeaseTTL); err == nil && mine {
					err = c.note(ctx, tx, now)
				}
				return err
			})
			if err == nil && !mine {
				cancel(errCancelled)
				return
			}
		}
	})
	report, err := c.r.Check(ctx, run)
	close(done)
	renewing.Wait()
	end := snapshot()
	end.Report, end.State = report, CheckFinished
	switch {
	case errors.Is(context.Cause(ctx), errCancelled):
		end.State, end.Error = CheckCancelled, errCancelled.Error()
	case err != nil:
		c.r.o.Logger.Error("the check could not be finished", "error", err)
		end.State, end.Error = CheckFailed, "the check could not be finished; the server's log says why"
		if c.ctx.Err() != nil {
			end.Error = "the server that ran the check was stopped"
		}
	}
	final, stop := context.WithTimeout(context.Background(), recordTime)
	defer stop()
	err = c.r.db.Update(final, func(tx *metadata.Tx) error {
		// Somebody may have begun another one, after this was cancelled.
		if text, err := tx.Note(final, noteCheck); err != nil {
			return err
		} else if text != "" {
			var last CheckJob
			if err := json.Unmarshal([]byte(text), &last); err == nil && last.ID != end.ID {
				return nil
			}
		}
		if err := c.note(final, tx, end); err != nil {
			return err
		}
		return tx.ReleaseLease(final, checkLease, end.ID)
	})
	if err != nil {
		c.r.o.Logger.Error("the end of the check could not be noted", "error", err)
	}
}
