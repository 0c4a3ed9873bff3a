package registry

import (
	"context"

	"berth/jobs"
	"berth/metadata"
)

// CheckJob is a check that a server runs in the background, as all replicas see it.
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
	r *Registry
}

// NewCheckJobs makes one for a registry.
func NewCheckJobs(r *Registry) *CheckJobs {
	return &CheckJobs{r: r, Runner: jobs.NewRunner[*CheckJob](jobs.Options{DB: r.db, Name: "check", Noun: "check", Logger: r.o.Logger, Clock: r.o.Clock})}
}

// Start begins a check; the rest is as Runner.Start.
func (c *CheckJobs) Start(ctx context.Context, run CheckRun, by string, also func(*metadata.Tx) error) (*CheckJob, error) {
	job := &CheckJob{Rehash: run.Rehash, Repair: run.Repair, Rate: run.Rate, HashRate: run.HashRate,
		Report: CheckReport{StartedAt: c.r.o.Clock().UTC()}.Noted()}
	return c.Runner.Start(ctx, job, by, also, func(ctx context.Context, change func(func())) error {
		note := func(r CheckReport) {
			r = r.Noted()
			change(func() { job.Report = r })
		}
		run.Progress = note
		report, err := c.r.Check(ctx, run)
		note(report)
		return err
	})
}
