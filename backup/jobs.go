package backup

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"sync"
	"time"

	"berth/metadata"
	"berth/oci"
	"berth/registry"
)

// Kinds of jobs.
const (
	KindBackup = "backup"
	KindVerify = "verify"
)

// The terms of a job.
const (
	jobLease    = "backup"
	jobLeaseTTL = time.Minute
	jobRenew    = 5 * time.Second
	jobEnd      = 15 * time.Second
	noteJob     = "backup"
	noteJobTTL  = 90 * 24 * time.Hour
	// maxNoted bounds the problems in the note, which is written every few seconds.
	maxNoted = 1000
)

// Job is a backup, or the verifying of one, that a server runs in the background,
// as all replicas see it. Its states are those of a check.
type Job struct {
	ID        string    `json:"id"`
	Kind      string    `json:"kind"`
	State     string    `json:"state"`
	StartedBy string    `json:"started_by"`
	UpdatedAt time.Time `json:"updated_at"`
	Rate      float64   `json:"rate"` // bytes a second, 0 for no limit
	Error     string    `json:"error,omitempty"`
	// Transfer is what a backup has copied so far, Check what a verifying has read so far.
	Transfer *registry.TransferReport `json:"transfer,omitempty"`
	Check    *registry.CheckReport    `json:"check,omitempty"`
	// Manifest is that of a backup that is complete, Verified the result of verifying.
	Manifest *Manifest `json:"manifest,omitempty"`
	Verified *Verified `json:"verified,omitempty"`
}

// JobsOptions say what is backed up, and where to.
type JobsOptions struct {
	From registry.Side
	// Open gives the place and the work directory of backups. The place is nil when
	// the settings name none.
	Open func(context.Context) (Place, string, error)
	// Source and Version are as in Options.
	Source  string
	Version string
	// Logger gets why a job failed; nil discards it.
	Logger *slog.Logger
}

// Jobs runs backups in the background, one at a time in all replicas. Close it.
type Jobs struct {
	o      JobsOptions
	ctx    context.Context // ends with the server; a job outlives the request that started it
	cancel context.CancelFunc
	group  sync.WaitGroup
}

// NewJobs makes one for a registry.
func NewJobs(o JobsOptions) *Jobs {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	ctx, cancel := context.WithCancel(context.Background())
	return &Jobs{o: o, ctx: ctx, cancel: cancel}
}

// Close ends a job that runs here, and waits for its end.
func (j *Jobs) Close() {
	j.cancel()
	j.group.Wait()
}

// Start begins a job of a kind that reads so many bytes a second, 0 for no
// limit. It returns CONFLICT while another one runs, and when no place is set.
func (j *Jobs) Start(ctx context.Context, kind string, rate float64, by string) (Job, error) {
	job := Job{ID: rand.Text(), Kind: kind, State: registry.CheckRunning, StartedBy: by, Rate: rate, UpdatedAt: time.Now().UTC()}
	if j.ctx.Err() != nil {
		return job, oci.Errorf(oci.CodeUnavailable, "this server is stopping: ask again, another one will answer")
	}
	place, work, err := j.o.Open(ctx)
	if err != nil {
		return job, fmt.Errorf("opening the place of the backups: %w", err)
	}
	if place == nil {
		return job, oci.Errorf(oci.CodeConflict, "no backup_url is set: set it, or run berth backup")
	}
	err = j.o.From.DB.Update(ctx, func(tx *metadata.Tx) error {
		mine, err := tx.AcquireLease(ctx, jobLease, job.ID, jobLeaseTTL)
		if err != nil {
			return err
		}
		if !mine {
			return oci.Errorf(oci.CodeConflict, "a backup, or the verifying of one, is running already: look at it, cancel it or wait for its end")
		}
		return note(ctx, tx, job)
	})
	if err != nil {
		return job, err
	}
	j.group.Go(func() { j.run(job, place, work) })
	return job, nil
}

// Current gives the job that runs, or the last one; nil when there was none
// within three months.
func (j *Jobs) Current(ctx context.Context) (*Job, error) {
	var job *Job
	err := j.o.From.DB.View(ctx, func(tx *metadata.Tx) error {
		text, err := tx.Note(ctx, noteJob)
		if err != nil || text == "" {
			return err
		}
		job = &Job{}
		if err := json.Unmarshal([]byte(text), job); err != nil {
			return fmt.Errorf("reading the note of the backup: %w", err)
		}
		holder, err := tx.LeaseHolder(ctx, jobLease)
		if err == nil && job.State == registry.CheckRunning && holder != job.ID {
			job.State = registry.CheckLost
		}
		return err
	})
	return job, err
}

// Cancel ends the job that runs, on whichever replica, within seconds. It
// returns NOT_FOUND when none does.
func (j *Jobs) Cancel(ctx context.Context) error {
	return j.o.From.DB.Update(ctx, func(tx *metadata.Tx) error {
		holder, err := tx.LeaseHolder(ctx, jobLease)
		if err != nil {
			return err
		}
		if holder == "" {
			return oci.Errorf(oci.CodeNotFound, "no backup is running")
		}
		return tx.ReleaseLease(ctx, jobLease, holder)
	})
}

// note writes how far the job is.
func note(ctx context.Context, tx *metadata.Tx, job Job) error {
	text, err := json.Marshal(job)
	if err != nil {
		return err
	}
	return tx.PutNote(ctx, noteJob, string(text), noteJobTTL)
}

// notedTransfer and notedCheck are copies of reports, as they are noted.
func notedTransfer(r registry.TransferReport) *registry.TransferReport {
	r.Rows = maps.Clone(r.Rows)
	if r.Rows == nil {
		r.Rows = map[string]int64{}
	}
	r.Problems = append([]registry.Problem{}, r.Problems[:min(len(r.Problems), maxNoted)]...)
	return &r
}

func notedCheck(r registry.CheckReport) *registry.CheckReport {
	r.Found = maps.Clone(r.Found)
	r.Problems = append([]registry.Problem{}, r.Problems[:min(len(r.Problems), maxNoted)]...)
	return &r
}

var errCancelled = errors.New("the job was cancelled")

func (j *Jobs) run(job Job, place Place, work string) {
	ctx, cancel := context.WithCancelCause(j.ctx)
	defer cancel(nil)
	var mu sync.Mutex // job
	change := func(f func()) {
		mu.Lock()
		defer mu.Unlock()
		f()
	}
	snapshot := func() Job {
		mu.Lock()
		defer mu.Unlock()
		job.UpdatedAt = time.Now().UTC()
		return job
	}
	done := make(chan struct{})
	var renewing sync.WaitGroup
	renewing.Go(func() {
		for {
			select {
			case <-done:
				return
			case <-time.After(jobRenew):
			}
			now := snapshot()
			var mine bool
			err := j.o.From.DB.UpdateRelaxed(ctx, func(tx *metadata.Tx) (err error) {
				if mine, err = tx.RenewLease(ctx, jobLease, job.ID, jobLeaseTTL); err == nil && mine {
					err = note(ctx, tx, now)
				}
				return err
			})
			if err == nil && !mine {
				cancel(errCancelled)
				return
			}
		}
	})
	err := j.work(ctx, &job, place, Options{
		Work: work, Source: j.o.Source, Version: j.o.Version, Rate: job.Rate, Logger: j.o.Logger,
		Progress:      func(r registry.TransferReport) { change(func() { job.Transfer = notedTransfer(r) }) },
		CheckProgress: func(r registry.CheckReport) { change(func() { job.Check = notedCheck(r) }) },
	}, change)
	close(done)
	renewing.Wait()
	end := snapshot()
	end.State = registry.CheckFinished
	switch {
	case errors.Is(context.Cause(ctx), errCancelled):
		end.State, end.Error = registry.CheckCancelled, errCancelled.Error()
	case err != nil:
		j.o.Logger.Error("the job could not be finished", "kind", job.Kind, "error", err)
		end.State, end.Error = registry.CheckFailed, "the job could not be finished; the server's log says why"
		for _, known := range []error{registry.ErrBusy, ErrNoBackup} {
			if errors.Is(err, known) {
				end.Error = known.Error()
			}
		}
		if j.ctx.Err() != nil {
			end.Error = "the server that ran the job was stopped"
		}
	}
	final, stop := context.WithTimeout(context.Background(), jobEnd)
	defer stop()
	err = j.o.From.DB.Update(final, func(tx *metadata.Tx) error {
		// Somebody may have begun another one, after this was cancelled.
		text, err := tx.Note(final, noteJob)
		if err != nil {
			return err
		}
		var last Job
		if text != "" && json.Unmarshal([]byte(text), &last) == nil && last.ID != end.ID {
			return nil
		}
		if err := note(final, tx, end); err != nil {
			return err
		}
		return tx.ReleaseLease(final, jobLease, end.ID)
	})
	if err != nil {
		j.o.Logger.Error("the end of the backup could not be noted", "error", err)
	}
}

// work does what the job is for, and puts the result into it.
func (j *Jobs) work(ctx context.Context, job *Job, place Place, o Options, change func(func())) error {
	if job.Kind == KindVerify {
		// The place is only read.
		dir, err := os.MkdirTemp("", "berth-verify-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		o.Work = dir
		v, err := Verify(ctx, place, o)
		if err == nil {
			v.Check = *notedCheck(v.Check)
			change(func() { job.Check, job.Verified = nil, &v })
		}
		return err
	}
	m, report, err := Run(ctx, j.o.From, place, o)
	change(func() {
		job.Transfer = notedTransfer(report)
		if err == nil {
			job.Manifest = &m
		}
	})
	return err
}
