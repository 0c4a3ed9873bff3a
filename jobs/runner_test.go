package jobs

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"berth/metadata"
	"berth/metadata/metadatatest"
	"berth/oci"
	"berth/testenv"
)

func TestMain(m *testing.M) { os.Exit(testenv.Main(m)) }

// clock is one that tests put forward.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

// counting is a job that counts.
type counting struct {
	Head
	Count int `json:"count"`
}

// replicas is a database on which replicas run jobs.
type replicas struct {
	*testing.T
	url   string
	clock *clock
	log   syncBuffer
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func eachJobs(t *testing.T, run func(j *replicas)) {
	metadatatest.EachURL(t, func(t *testing.T, url string) {
		run(&replicas{T: t, url: url, clock: &clock{t: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}})
	})
}

// replica is a runner with a connection of its own, as another process has it.
func (j *replicas) replica() (*Runner[*counting], *metadata.DB) {
	db := metadatatest.Open(j.T, metadata.Options{URL: j.url, Clock: j.clock.now})
	r := NewRunner[*counting](Options{DB: db, Name: "count", Noun: "count", Renew: 10 * time.Millisecond, Clock: j.clock.now,
		Logger: slog.New(slog.NewTextHandler(&j.log, nil))})
	j.Cleanup(r.Close)
	return r, db
}

func nothing(*metadata.Tx) error { return nil }

// start begins a job that has to begin.
func (j *replicas) start(r *Runner[*counting], work func(ctx context.Context, job *counting, change func(func())) error) *counting {
	j.Helper()
	job := &counting{}
	started, err := r.Start(j.Context(), job, "root", nothing, func(ctx context.Context, change func(func())) error { return work(ctx, job, change) })
	if err != nil {
		j.Fatal(err)
	}
	return started
}

// current waits until the job is as it should be.
func (j *replicas) current(r *Runner[*counting], what string, is func(*counting) bool) *counting {
	j.Helper()
	var job *counting
	for range 2000 {
		var err error
		if job, err = r.Current(j.Context()); err != nil {
			j.Fatal(err)
		}
		if job != nil && is(job) {
			return job
		}
		time.Sleep(5 * time.Millisecond)
	}
	j.Fatalf("the job is never %s, but %+v", what, job)
	return nil
}

func (j *replicas) ends(r *Runner[*counting], state string) *counting {
	j.Helper()
	return j.current(r, state, func(job *counting) bool { return job.State == state })
}

// refused starts a job that must not begin, nor do what goes with its beginning.
func (j *replicas) refused(r *Runner[*counting], want error) {
	j.Helper()
	_, err := r.Start(j.Context(), &counting{}, "root", func(*metadata.Tx) error {
		j.Error("the transaction of a refused job goes on")
		return nil
	}, func(context.Context, func(func())) error { return nil })
	if !errors.Is(err, want) {
		j.Errorf("the start gives %v, want %v", err, want)
	}
}

func untilCancelled(ctx context.Context, _ *counting, _ func(func())) error {
	<-ctx.Done()
	return ctx.Err()
}

func TestJobIsTheOnlyOne(t *testing.T) {
	eachJobs(t, func(j *replicas) {
		a, _ := j.replica()
		b, _ := j.replica()
		if job, err := a.Current(j.Context()); job != nil || err != nil {
			j.Errorf("before the first one: %+v %v", job, err)
		}
		if err := a.Cancel(j.Context(), nothing); !errors.Is(err, oci.ErrNotFound) {
			j.Errorf("cancelling none gives %v", err)
		}
		// What cannot be recorded is not done.
		broken := errors.New("the audit log cannot be written")
		_, err := a.Start(j.Context(), &counting{}, "root", func(*metadata.Tx) error { return broken },
			func(context.Context, func(func())) error {
				j.Error("a job runs that was not recorded")
				return nil
			})
		if !errors.Is(err, broken) {
			j.Errorf("the start gives %v", err)
		}

		release := make(chan struct{})
		job := j.start(a, func(_ context.Context, job *counting, change func(func())) error {
			change(func() { job.Count = 7 })
			<-release
			change(func() { job.Count = 8 })
			return nil
		})
		if job.State != Running || job.StartedBy != "root" || job.ID == "" || job.UpdatedAt.IsZero() {
			j.Errorf("the job begins as %+v", job)
		}
		j.refused(a, oci.ErrConflict)
		j.refused(b, oci.ErrConflict)
		if err := b.Free(j.Context()); !errors.Is(err, oci.ErrConflict) {
			j.Errorf("while a job runs, Free gives %v", err)
		}
		if now := j.current(b, "noted", func(job *counting) bool { return job.Count == 7 }); now.State != Running || now.ID != job.ID {
			j.Errorf("the other replica sees %+v", now)
		}
		close(release)
		if end := j.ends(b, Finished); end.Count != 8 || end.Error != "" || end.ID != job.ID {
			j.Errorf("the job ends as %+v", end)
		}
		if err := b.Free(j.Context()); err != nil {
			j.Error(err)
		}
		j.start(b, func(context.Context, *counting, func(func())) error { return nil })
	})
}

// A cancelled job ends wherever it runs, and no other begins before that.
func TestCancelledElsewhere(t *testing.T) {
	eachJobs(t, func(j *replicas) {
		a, _ := j.replica()
		b, _ := j.replica()
		ending, release := make(chan struct{}), make(chan struct{})
		j.start(a, func(ctx context.Context, job *counting, change func(func())) error {
			<-ctx.Done()
			close(ending)
			<-release
			change(func() { job.Count = 5 })
			return ctx.Err()
		})
		recorded := 0
		also := func(*metadata.Tx) error { recorded++; return nil }
		if err := b.Cancel(j.Context(), also); err != nil || recorded != 1 {
			j.Fatalf("cancelling gives %v, recorded %d times", err, recorded)
		}
		<-ending
		if now := j.current(b, "there", func(*counting) bool { return true }); now.State != Running {
			j.Errorf("before its end the job is %+v", now)
		}
		j.refused(b, oci.ErrConflict)
		if err := b.Cancel(j.Context(), also); !errors.Is(err, oci.ErrNotFound) || recorded != 1 {
			j.Errorf("cancelling again gives %v, recorded %d times", err, recorded)
		}
		close(release)
		if end := j.ends(b, Cancelled); end.Count != 5 || end.Error != "it was cancelled" {
			j.Errorf("the job ends as %+v", end)
		}
		j.start(b, func(context.Context, *counting, func(func())) error { return nil })
		j.ends(a, Finished)
	})
}

// When a replica dies its lease runs out, and the job is lost.
func TestJobOfADeadReplica(t *testing.T) {
	eachJobs(t, func(j *replicas) {
		a, db := j.replica()
		b, _ := j.replica()
		j.start(a, untilCancelled)
		if err := db.Close(); err != nil { // as good as dead: nothing of it reaches the database any more
			j.Fatal(err)
		}
		j.refused(b, oci.ErrConflict)
		j.clock.add(2 * leaseTTL)
		if now := j.current(b, "there", func(*counting) bool { return true }); now.State != Lost || !strings.Contains(now.Error, "has died") {
			j.Errorf("the job is %+v", now)
		}
		if err := b.Cancel(j.Context(), nothing); !errors.Is(err, oci.ErrNotFound) {
			j.Errorf("cancelling gives %v", err)
		}
		j.start(b, func(context.Context, *counting, func(func())) error { return nil })
		j.ends(b, Finished)
	})
}

// A replica that stood still for longer than its lease ends its job, and leaves the
// note and the lease of the next one alone.
func TestJobWithoutItsLease(t *testing.T) {
	eachJobs(t, func(j *replicas) {
		a, _ := j.replica()
		b, _ := j.replica()
		ending, release := make(chan struct{}), make(chan struct{})
		lost := j.start(a, func(ctx context.Context, _ *counting, _ func(func())) error {
			<-ctx.Done()
			close(ending)
			<-release
			return ctx.Err()
		})
		j.clock.add(2 * leaseTTL)
		<-ending
		next := j.start(b, untilCancelled)
		close(release)
		a.Close()
		if now := j.current(b, "there", func(*counting) bool { return true }); now.ID != next.ID || now.ID == lost.ID || now.State != Running {
			j.Errorf("the job is %+v, want the second one", now)
		}
		a, _ = j.replica()
		j.refused(a, oci.ErrConflict)
	})
}

// Why a job failed is in its note; where it panicked, in the log. Then the next one can begin.
func TestJobFails(t *testing.T) {
	eachJobs(t, func(j *replicas) {
		a, _ := j.replica()
		j.start(a, func(context.Context, *counting, func(func())) error { return errors.New("the disk is full") })
		if end := j.ends(a, Failed); end.Error != "the disk is full" {
			j.Errorf("the job ends as %+v", end)
		}
		j.start(a, func(_ context.Context, job *counting, change func(func())) error {
			change(func() { job = nil; job.Count++ })
			return nil
		})
		if end := j.ends(a, Failed); !strings.Contains(end.Error, "mistake in the program") || strings.Contains(end.Error, "nil pointer") {
			j.Errorf("the job ends as %+v", end)
		}
		if log := j.log.String(); !strings.Contains(log, "the disk is full") || !strings.Contains(log, "nil pointer") || !strings.Contains(log, "runner_test.go") {
			j.Errorf("the log has %s", log)
		}
		j.start(a, func(context.Context, *counting, func(func())) error { return nil })
		j.ends(a, Finished)
	})
}

func TestJobOfAServerThatStops(t *testing.T) {
	eachJobs(t, func(j *replicas) {
		a, _ := j.replica()
		b, _ := j.replica()
		j.start(a, untilCancelled)
		a.Close()
		if now := j.current(b, "there", func(*counting) bool { return true }); now.State != Failed || !strings.Contains(now.Error, "was stopped") {
			j.Errorf("the job is %+v", now)
		}
		j.refused(a, oci.ErrUnavailable)
		j.start(b, func(context.Context, *counting, func(func())) error { return nil })
	})
}

// Jobs that share a lease exclude each other; each has its own note, and is cancelled by itself.
func TestJobsExcludeEachOther(t *testing.T) {
	eachJobs(t, func(j *replicas) {
		a, db := j.replica()
		other := NewRunner[*counting](Options{DB: db, Name: "other", Lease: "count", Noun: "other", Excludes: "count or other", Renew: 10 * time.Millisecond})
		j.Cleanup(other.Close)
		j.start(a, untilCancelled)
		j.refused(other, oci.ErrConflict)
		if err := other.Cancel(j.Context(), nothing); !errors.Is(err, oci.ErrNotFound) {
			j.Errorf("cancelling the other kind gives %v", err)
		}
		if job, err := other.Current(j.Context()); job != nil || err != nil {
			j.Errorf("the other kind has %+v %v", job, err)
		}
		if err := a.Cancel(j.Context(), nothing); err != nil {
			j.Error(err)
		}
		j.ends(a, Cancelled)
		j.start(other, func(context.Context, *counting, func(func())) error { return nil })
		j.ends(other, Finished)
		j.ends(a, Cancelled)
	})
}
