package collect

import (
	"context"

	"berth/auth"
	"berth/jobs"
	"berth/metadata"
)

// CheckJob is a check that a server runs in the background, as all replicas see it. It is noted as
// JSON, see [jobs.Job], with CheckReport, Problem and jobs.Progress in it.
type CheckJob struct {
	jobs.Head
	Rehash   bool    `json:"rehash"`
	Repair   bool    `json:"repair"`
	Rate     float64 `json:"rate"`      // objects a second
	HashRate float64 `json:"hash_rate"` // bytes a second
	// Report is of what is done so far, as CheckReport.Noted.
	Report CheckReport `json:"report"`
}

// CheckJobs runs checks in the background, one at a time over all replicas. Close it.
type CheckJobs struct {
	*jobs.Runner[*CheckJob]
	c *Collector
}

// NewCheckJobs makes one for a collector.
func NewCheckJobs(c *Collector) *CheckJobs {
	return &CheckJobs{c: c, Runner: jobs.NewRunner[*CheckJob](jobs.Options{DB: c.db, Name: "check", Noun: "check", Logger: c.o.Logger, Clock: c.o.Clock})}
}

// Start begins a check, on record; the rest is as Runner.Start.
func (j *CheckJobs) Start(ctx context.Context, by auth.Actor, run CheckRun) (*CheckJob, error) {
	job := &CheckJob{Rehash: run.Rehash, Repair: run.Repair, Rate: run.Rate, HashRate: run.HashRate,
		Report: CheckReport{StartedAt: j.c.o.Clock().UTC()}.Noted()}
	started := metadata.Event{Kind: metadata.CheckStarted, Actor: by.Audit, Detail: map[string]any{"fields": map[string]any{
		"rehash": run.Rehash, "repair": run.Repair, "rate": run.Rate, "hash_rate": run.HashRate,
	}}}
	return j.Runner.Start(ctx, job, by.Audit.Name, recording(ctx, started), func(ctx context.Context, change func(func())) error {
		note := func(r CheckReport) {
			r = r.Noted()
			change(func() { job.Report = r })
		}
		run.Progress = note
		report, err := j.c.Check(ctx, run)
		note(report)
		return err
	})
}

// Cancel ends the check that runs, on record; the rest is as Runner.Cancel.
func (j *CheckJobs) Cancel(ctx context.Context, by auth.Actor) error {
	return j.Runner.Cancel(ctx, recording(ctx, metadata.Event{Kind: metadata.CheckCancelled, Actor: by.Audit}))
}

// recording records a deed in the transaction of somebody else.
func recording(ctx context.Context, e metadata.Event) func(*metadata.Tx) error {
	return func(tx *metadata.Tx) error { return tx.Record(ctx, e) }
}
