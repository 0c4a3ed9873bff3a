package jobs

import (
	"context"
	"crypto/rand"
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
	Running   = "running"
	Finished  = "finished"
	Failed    = "failed"
	Cancelled = "cancelled"
	Lost      = "lost" // the replica that ran it has died
)

// Head is what all jobs have; a job is a struct that embeds it. A [Runner] fills it in.
type Head struct {
	ID        string    `json:"id"`
	State     string    `json:"state"`
	StartedBy string    `json:"started_by"`
	UpdatedAt time.Time `json:"updated_at"`
	Error     string    `json:"error,omitempty"` // why it has not finished, for an admin
}

// Job is a pointer to a struct that embeds [Head]. It is noted as JSON, every few
// seconds, so its size has to be bounded. The tags of its fields are the form of the note: another
// version of the program reads it, so a name stays, and a new field may be absent. The management
// API has types of its own.
type Job interface{ head() *Head }

func (h *Head) head() *Head { return h }

// HeadOf is what a job of any kind has in common with others.
func HeadOf(job Job) *Head { return job.head() }

// Options say how jobs of one kind are told from others.
type Options struct {
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
	renewEvery = 5 * time.Second
	leaseTTL   = time.Minute
	noteTTL    = 90 * 24 * time.Hour
	// maxError bounds the error in a note, in characters.
	maxError = 4000
	// endTime bounds the statements that note a job's end.
	endTime = 15 * time.Second
	// cancelling is before the job's ID in the lease when somebody wants it to end. So nothing
	// else begins before it has ended.
	cancelling = "cancelling:"
)

// Runner runs jobs in the background, one at a time over all replicas: who runs one
// holds a lease in the database, and notes there how far it is. T is a pointer to the job's
// type. Its methods may be called concurrently; Close it before the database.
type Runner[T Job] struct {
	o      Options
	ctx    context.Context // ends with the server; a job outlives the request that started it
	cancel context.CancelFunc

	mu      sync.Mutex // closed, and the first use of running
	closed  bool
	running sync.WaitGroup
}

// NewRunner makes one.
func NewRunner[T Job](o Options) *Runner[T] {
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
		o.Renew = renewEvery
	}
	ctx, cancel := context.WithCancel(context.Background())
	return &Runner[T]{o: o, ctx: ctx, cancel: cancel}
}

// Close ends a job that runs here, and waits for its end.
func (r *Runner[T]) Close() {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.cancel()
	r.running.Wait()
}

// enter counts a job, unless the runner is closed.
func (r *Runner[T]) enter() bool {
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
func (r *Runner[T]) Start(ctx context.Context, job T, by string, also func(*metadata.Tx) error,
	work func(ctx context.Context, change func(func())) error) (started T, err error) {
	if !r.enter() {
		return started, oci.Errorf(oci.CodeUnavailable, "this server is stopping: ask again, another one will answer")
	}
	h := job.head()
	h.ID, h.State, h.StartedBy, h.UpdatedAt = rand.Text(), Running, by, r.o.Clock().UTC()
	text, err := json.Marshal(job)
	if err == nil {
		err = json.Unmarshal(text, &started)
	}
	if err == nil {
		err = r.o.DB.Update(ctx, func(tx *metadata.Tx) error {
			mine, err := tx.AcquireLease(ctx, r.o.Lease, h.ID, leaseTTL)
			if err != nil {
				return err
			}
			if !mine {
				return r.conflict()
			}
			if err := tx.PutNote(ctx, r.o.Name, string(text), noteTTL); err != nil {
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
func (r *Runner[T]) conflict() error {
	return oci.Errorf(oci.CodeConflict, "a %s is running already, or is about to end: look at it, cancel it or wait for its end", r.o.Excludes)
}

// Free returns CONFLICT while a job runs, for those who want to know before they prepare
// one. Start decides.
func (r *Runner[T]) Free(ctx context.Context) error {
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
func (r *Runner[T]) Current(ctx context.Context) (job T, err error) {
	err = r.o.DB.Snapshot(ctx, func(tx *metadata.Tx) error {
		var there bool
		if job, there, err = r.noted(ctx, tx); err != nil || !there {
			return err
		}
		h := job.head()
		holder, err := tx.LeaseHolder(ctx, r.o.Lease)
		if err == nil && h.State == Running && holder != h.ID && holder != cancelling+h.ID {
			h.State, h.Error = Lost, fmt.Sprintf("the server that ran the %s has died: start it again", r.o.Noun)
		}
		return err
	})
	return job, err
}

// Cancel ends the job that runs, on whichever replica, within seconds. It
// returns NOT_FOUND when none does. also is as in Start.
func (r *Runner[T]) Cancel(ctx context.Context, also func(*metadata.Tx) error) error {
	return r.o.DB.Update(ctx, func(tx *metadata.Tx) error {
		job, there, err := r.noted(ctx, tx)
		if err != nil {
			return err
		}
		passed := false
		if there {
			id := job.head().ID
			if passed, err = tx.PassLease(ctx, r.o.Lease, id, cancelling+id, leaseTTL); err != nil {
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
func (r *Runner[T]) noted(ctx context.Context, tx *metadata.Tx) (job T, there bool, err error) {
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
	errCancelled = errors.New("it was cancelled")
	errLease     = errors.New("the database could not be reached for a minute, so another replica may have begun one: start it again")
	errStopped   = errors.New("the server that ran it was stopped: start it again")
)

// run does the work and notes the end.
func (r *Runner[T]) run(job T, work func(context.Context, func(func())) error) {
	defer r.running.Done()
	h := job.head()
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
	ctx, stop := Keep(r.ctx, Lease{
		Every: r.o.Renew, Patience: leaseTTL - r.o.Renew, Late: errLease,
		Renew: func(ctx context.Context) (lost, failed error) { return r.renew(ctx, h.ID, text) },
		Failed: func(err error) {
			r.o.Logger.Warn("renewing the lease of a job failed, it will be tried again", "job", r.o.Noun, "error", err)
		},
	})
	err := Protected(func() error { return work(ctx, change) })
	cause := context.Cause(ctx)
	stop()
	change(func() {
		h.State = Finished
		if err == nil {
			return
		}
		h.State = Failed
		switch {
		case errors.Is(cause, errCancelled):
			h.State, err = Cancelled, cause
		case errors.Is(cause, errLease):
			err = cause
		case r.ctx.Err() != nil:
			err = errStopped
		}
		h.Error = fmt.Sprintf("%.*s", maxError, err)
		level := slog.LevelInfo
		if h.State == Failed {
			level = slog.LevelError
		}
		var mistake Panicked // which may be wrapped
		if errors.As(err, &mistake) {
			err = mistake
		}
		r.o.Logger.Log(context.Background(), level, "a job was not finished", "job", r.o.Noun, "id", h.ID, "state", h.State, "error", err)
	})
	if err := r.end(h.ID, text); err != nil {
		r.o.Logger.Error("the end of a job could not be noted", "job", r.o.Noun, "id", h.ID, "error", err)
	}
}

// Panicked is what a job's work panicked with. The stack is for the log alone.
type Panicked struct {
	value any
	stack []byte
}

func (p Panicked) Error() string {
	return "it ended by a mistake in the program; the server's log says where"
}

// LogValue implements slog.LogValuer.
func (p Panicked) LogValue() slog.Value {
	return slog.StringValue(fmt.Sprintf("panic: %v\n%s", p.value, p.stack))
}

// Protected works. A panic in it is an error, [Panicked]: it must not end the server, which serves others.
// Each goroutine that works for a job needs it; a Runner does it for the first one.
func Protected(work func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = Panicked{v, debug.Stack()}
		}
	}()
	return work()
}

// renew prolongs the lease and notes the progress. The lease is lost when somebody wants the job to end, or has
// begun another one.
func (r *Runner[T]) renew(ctx context.Context, id string, text func() ([]byte, error)) (lost, failed error) {
	note, err := text()
	if err != nil {
		return nil, err
	}
	err = r.o.DB.UpdateRelaxed(ctx, func(tx *metadata.Tx) error {
		lost = nil
		mine, err := tx.RenewLease(ctx, r.o.Lease, id, leaseTTL)
		if err == nil && mine {
			return tx.PutNote(ctx, r.o.Name, string(note), noteTTL)
		}
		holder := ""
		if err == nil {
			holder, err = tx.LeaseHolder(ctx, r.o.Lease)
		}
		if lost = errLease; holder == cancelling+id {
			lost = errCancelled
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return lost, nil
}

// end writes the last note and gives the lease back. When the lease was lost, somebody
// may have begun another job since, and the note is about that one.
func (r *Runner[T]) end(id string, text func() ([]byte, error)) error {
	ctx, cancel := context.WithTimeout(context.Background(), endTime)
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
		if there && last.head().ID == id {
			if err := tx.PutNote(ctx, r.o.Name, string(note), noteTTL); err != nil {
				return err
			}
		}
		return errors.Join(tx.ReleaseLease(ctx, r.o.Lease, id), tx.ReleaseLease(ctx, r.o.Lease, cancelling+id))
	})
}
