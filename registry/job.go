package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"

	"berth/metadata"
	"berth/oci"
)

// The states of a job.
const (
	JobRunning   = "running"
	JobFinished  = "finished"
	JobFailed    = "failed"
	JobCancelled = "cancelled"
	JobLost      = "lost" // the replica that ran it has died
)

// JobHead is what all jobs have; a job is a struct that embeds it. A JobRunner fills it in.
type JobHead struct {
	ID        string    `json:"id"`
	State     string    `json:"state"`
	StartedBy string    `json:"started_by"`
	UpdatedAt time.Time `json:"updated_at"`
	Error     string    `json:"error,omitempty"` // why it has not finished, for an admin
}

// Head is the head itself, so that a pointer to a job is a Job.
func (h *JobHead) Head() *JobHead { return h }

// Job is a pointer to a struct that embeds JobHead. It is noted as JSON, every few
// seconds, so its size has to be bounded.
type Job interface{ Head() *JobHead }

// JobOptions say how jobs of one kind are told from others.
type JobOptions struct {
	DB *metadata.DB
	// Name is that of the note in which all replicas see the job.
	Name string
	// Lease keeps jobs from running at the same time; "" means Name. Runners that share one exclude each other.
	Lease string
	// Noun is what a person calls such a job, such as "backup".
	Noun string
	// Excludes is what a person calls the jobs that share the lease; "" means Noun.
	Excludes string
	// Logger gets why a job failed; nil discards it.
	Logger *slog.Logger
	// Clock gives the times in notes; nil means time.Now.
	Clock func() time.Time
	// Renew is how often the lease is renewed, the progress noted, and a wish to cancel
	// seen; 0 means 5 seconds.
	Renew time.Duration
}

// The terms of a job.
const (
	jobRenew    = 5 * time.Second
	jobLeaseTTL = time.Minute
	jobNoteTTL  = 90 * 24 * time.Hour
	// maxJobError bounds the error in a note, in characters.
	maxJobError = 4000
	// cancelling is before the job's ID in the lease when somebody wants it to end. So nothing
	// else begins before it has ended.
	cancelling = "cancelling:"
)

// JobRunner runs jobs in the background, one at a time over all replicas: who runs one
// holds a lease in the database, and notes there how far it is. T is a pointer to the job's
// type. Its methods may be called concurrently; Close it before the database.
type JobRunner[T Job] struct {
	o      JobOptions
	ctx    context.Context // ends with the server; a job outlives the request that started it
	cancel context.CancelFunc

	mu      sync.Mutex // closed, and the first use of running
	closed  bool
	running sync.WaitGroup
}

// NewJobRunner makes one.
func NewJobRunner[T Job](o JobOptions) *JobRunner[T] {
	if o.Lease == "" {
		o.Lease = o.Name
	}
	if o.Excludes == "" {
		o.Excludes = o.Noun
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.Renew <= 0 {
		o.Renew = jobRenew
	}
	ctx, cancel := context.WithCancel(context.Background())
	return &JobRunner[T]{o: o, ctx: ctx, cancel: cancel}
}

// Close ends a job that runs here, and waits for its end.
func (r *JobRunner[T]) Close() {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.cancel()
	r.running.Wait()
}

// enter counts a job, unless the runner is closed.
func (r *JobRunner[T]) enter() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.closed {
		r.running.Add(1)
	}
	return !r.closed
}

// Start begins a job and returns a copy of it as it was noted first. It returns CONFLICT
// while another one runs, and UNAVAILABLE when this server is stopping.
//
// also runs in the transaction that takes the lease, for the audit log. work does
// what the job is for; it changes the job only in functions that it gives to change,
// and returns when its context ends. An error of work is shown to admins, so it holds no secret.
func (r *JobRunner[T]) Start(ctx context.Context, job T, by string, also func(*metadata.Tx) error,
	work func(ctx context.Context, change func(func())) error) (started T, err error) {
	if !r.enter() {
		return started, oci.Errorf(oci.CodeUnavailable, "this server is stopping: ask again, another one will answer")
	}
	h := job.Head()
	h.ID, h.State, h.StartedBy, h.UpdatedAt = newID(), JobRunning, by, r.o.Clock().UTC()
	text, err := json.Marshal(job)
	if err == nil {
		err = json.Unmarshal(text, &started)
	}
	if err == nil {
		err = r.o.DB.Update(ctx, func(tx *metadata.Tx) error {
			mine, err := tx.AcquireLease(ctx, r.o.Lease, h.ID, jobLeaseTTL)
			if err != nil {
				return err
			}
			if !mine {
				return r.conflict()
			}
			if err := tx.PutNote(ctx, r.o.Name, string(text), jobNoteTTL); err != nil {
				return err
			}
			return also(tx)
		})
	}
	if err != nil {
		r.running.Done()
		return started, err
	}
	go r.run(job, work)
	return started, nil
}

// conflict says that another job runs.
func (r *JobRunner[T]) conflict() error {
	return oci.Errorf(oci.CodeConflict, "a %s is running already, or is about to end: look at it, cancel it or wait for its end", r.o.Excludes)
}

// Free returns CONFLICT while a job runs, for those who want to know before they prepare
// one. Start decides.
func (r *JobRunner[T]) Free(ctx context.Context) error {
	return r.o.DB.View(ctx, func(tx *metadata.Tx) error {
		holder, err := tx.LeaseHolder(ctx, r.o.Lease)
		if err == nil && holder != "" {
			err = r.conflict()
		}
		return err
	})
}

// Current gives the job that runs, or the last one; nil when there was none
// within three months.
func (r *JobRunner[T]) Current(ctx context.Context) (job T, err error) {
	err = r.o.DB.Snapshot(ctx, func(tx *metadata.Tx) error {
		var there bool
		if job, there, err = r.noted(ctx, tx); err != nil || !there {
			return err
		}
		h := job.Head()
		holder, err := tx.LeaseHolder(ctx, r.o.Lease)
		if err == nil && h.State == JobRunning && holder != h.ID && holder != cancelling+h.ID {
			h.State, h.Error = JobLost, fmt.Sprintf("the server that ran the %s has died: start it again", r.o.Noun)
		}
		return err
	})
	return job, err
}

// Cancel ends the job that runs, on whichever replica, within seconds. It
// returns NOT_FOUND when none does. also is as in Start.
func (r *JobRunner[T]) Cancel(ctx context.Context, also func(*metadata.Tx) error) error {
	return r.o.DB.Update(ctx, func(tx *metadata.Tx) error {
		job, there, err := r.noted(ctx, tx)
		if err != nil {
			return err
		}
		passed := false
		if there {
			id := job.Head().ID
			if passed, err = tx.PassLease(ctx, r.o.Lease, id, cancelling+id, jobLeaseTTL); err != nil {
				return err
			}
		}
		if !passed {
			return oci.Errorf(oci.CodeNotFound, "no %s is running, or it is about to end", r.o.Noun)
		}
		return also(tx)
	})
}

// noted reads the last job.
func (r *JobRunner[T]) noted(ctx context.Context, tx *metadata.Tx) (job T, there bool, err error) {
	text, err := tx.Note(ctx, r.o.Name)
	if err != nil || text == "" {
		return job, false, err
	}
	if err := json.Unmarshal([]byte(text), &job); err != nil {
		return job, false, fmt.Errorf("reading the note of the %s: %w", r.o.Noun, err)
	}
	return job, true, nil
}

var (
	errJobCancelled = errors.New("it was cancelled")
	errJobLease     = errors.New("the database could not be reached for a minute, so another replica may have begun one: start it again")
	errJobStopped   = errors.New("the server that ran it was stopped: start it again")
)

// run does the work and notes the end.
func (r *JobRunner[T]) run(job T, work func(context.Context, func(func())) error) {
	defer r.running.Done()
	h := job.Head()
	ctx, cancel := context.WithCancelCause(r.ctx)
	defer cancel(nil)
	var mu sync.Mutex // job
	change := func(f func()) {
		mu.Lock()
		defer mu.Unlock()
		f()
	}
	text := func() (text []byte, err error) {
		change(func() {
			h.UpdatedAt = r.o.Clock().UTC()
			text, err = json.Marshal(job)
		})
		return text, err
	}
	done := make(chan struct{})
	var renewing sync.WaitGroup
	renewing.Go(func() { r.renew(ctx, done, cancel, h.ID, text) })
	err := protected(func() error { return work(ctx, change) })
	close(done)
	renewing.Wait()
	change(func() {
		h.State = JobFinished
		if err == nil {
			return
		}
		h.State = JobFailed
		switch cause := context.Cause(ctx); {
		case errors.Is(cause, errJobCancelled):
			h.State, err = JobCancelled, cause
		case errors.Is(cause, errJobLease):
			err = cause
		case r.ctx.Err() != nil:
			err = errJobStopped
		}
		h.Error = fmt.Sprintf("%.*s", maxJobError, err)
		level := slog.LevelInfo
		if h.State == JobFailed {
			level = slog.LevelError
		}
		var mistake panicked // which may be wrapped
		if errors.As(err, &mistake) {
			err = mistake
		}
		r.o.Logger.Log(context.Background(), level, "a job was not finished", "job", r.o.Noun, "id", h.ID, "state", h.State, "error", err)
	})
	if err := r.end(h.ID, text); err != nil {
		r.o.Logger.Error("the end of a job could not be noted", "job", r.o.Noun, "id", h.ID, "error", err)
	}
}

// panicked is what a job's work panicked with. The stack is for the log alone.
type panicked struct {
	value any
	stack []byte
}

func (p panicked) Error() string {
	return "it ended by a mistake in the program; the server's log says where"
}

// LogValue implements slog.LogValuer.
func (p panicked) LogValue() slog.Value {
	return slog.StringValue(fmt.Sprintf("panic: %v\n%s", p.value, p.stack))
}

// protected works. A panic in it is an error: it must not end the server, which serves others.
// Each goroutine that works for a job needs it.
func protected(work func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = panicked{v, debug.Stack()}
		}
	}()
	return work()
}

// renew keeps the lease and notes the progress, until the job is done. It ends the job
// when somebody wants that, or when the lease is or may be lost.
func (r *JobRunner[T]) renew(ctx context.Context, done <-chan struct{}, cancel context.CancelCauseFunc, id string, text func() ([]byte, error)) {
	renewed := time.Now()
	for {
		select {
		case <-done:
			return
		case <-ctx.Done():
			return
		case <-time.After(r.o.Renew):
		}
		asked := time.Now()
		note, err := text()
		var mine bool
		var holder string
		if err == nil {
			err = r.o.DB.UpdateRelaxed(ctx, func(tx *metadata.Tx) (err error) {
				if mine, err = tx.RenewLease(ctx, r.o.Lease, id, jobLeaseTTL); err == nil && mine {
					return tx.PutNote(ctx, r.o.Name, string(note), jobNoteTTL)
				}
				if err == nil {
					holder, err = tx.LeaseHolder(ctx, r.o.Lease)
				}
				return err
			})
		}
		switch {
		case err == nil && mine:
			renewed = asked
		case err == nil && holder == cancelling+id:
			cancel(errJobCancelled)
		case err == nil, time.Since(renewed) > jobLeaseTTL-r.o.Renew:
			cancel(errJobLease)
		case ctx.Err() == nil:
			r.o.Logger.Warn("renewing the lease of a job failed, it will be tried again", "job", r.o.Noun, "error", err)
		}
	}
}

// end writes the last note and gives the lease back. When the lease was lost, somebody
// may have begun another job since, and the note is about that one.
func (r *JobRunner[T]) end(id string, text func() ([]byte, error)) error {
	ctx, cancel := context.WithTimeout(context.Background(), recordTime)
	defer cancel()
	note, err := text()
	if err != nil {
		return err
	}
	return r.o.DB.Update(ctx, func(tx *metadata.Tx) error {
		last, there, err := r.noted(ctx, tx)
		if err != nil {
			return err
		}
		if there && last.Head().ID == id {
			if err := tx.PutNote(ctx, r.o.Name, string(note), jobNoteTTL); err != nil {
				return err
			}
		}
		return errors.Join(tx.ReleaseLease(ctx, r.o.Lease, id), tx.ReleaseLease(ctx, r.o.Lease, cancelling+id))
	})
}

// maxNoted bounds the problems in a job's note, which is written every few seconds.
const maxNoted = 1000

// firstProblems is a copy of them, which does not change when the list grows.
func firstProblems(problems []Problem) []Problem {
	return append([]Problem{}, problems[:min(len(problems), maxNoted)]...)
}
