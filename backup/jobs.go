package backup

import (
	"context"
	"fmt"
	"log/slog"
	"os"

	"berth/metadata"
	"berth/registry"
)

// Kinds of jobs.
const (
	KindBackup = "backup"
	KindVerify = "verify"
)

// Job is a backup, or the verifying of one, that a server runs in the background,
// as all replicas see it.
type Job struct {
	registry.JobHead
	Kind string  `json:"kind"`
	Rate float64 `json:"rate"` // bytes a second, 0 for no limit
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
	// Open gives the place and the work directory of backups. Its errors are for who
	// starts a job: CONFLICT when the settings name no place.
	Open func(context.Context) (Place, string, error)
	// Source and Version are as in Options.
	Source  string
	Version string
	// Logger gets why a job failed; nil discards it.
	Logger *slog.Logger
}

// Jobs makes backups in the background, one at a time over all replicas. Close it.
type Jobs struct {
	*registry.JobRunner[*Job]
	o JobsOptions
}

// NewJobs makes one for a registry.
func NewJobs(o JobsOptions) *Jobs {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return &Jobs{o: o, JobRunner: registry.NewJobRunner[*Job](registry.JobOptions{DB: o.From.DB, Name: "backup", Noun: "backup", Logger: o.Logger})}
}

// Start begins a job of a kind that reads so many bytes a second, 0 for no
// limit; the rest is as registry.JobRunner.Start.
func (j *Jobs) Start(ctx context.Context, kind string, rate float64, by string, also func(*metadata.Tx) error) (*Job, error) {
	place, work, err := j.o.Open(ctx)
	if err != nil {
		return nil, fmt.Errorf("opening the place of the backups: %w", err)
	}
	job := &Job{Kind: kind, Rate: rate}
	return j.JobRunner.Start(ctx, job, by, also, func(ctx context.Context, change func(func())) error {
		o := Options{
			Work: work, Source: j.o.Source, Version: j.o.Version, Rate: rate, Logger: j.o.Logger,
			Progress: func(r registry.TransferReport) {
				r = r.Noted()
				change(func() { job.Transfer = &r })
			},
			CheckProgress: func(r registry.CheckReport) {
				r = r.Noted()
				change(func() { job.Check = &r })
			},
		}
		if kind == KindVerify {
			return verify(ctx, job, place, o, change)
		}
		m, report, err := Run(ctx, j.o.From, place, o)
		o.Progress(report)
		if err == nil {
			change(func() { job.Manifest = &m })
		}
		return err
	})
}

// verify only reads the place.
func verify(ctx context.Context, job *Job, place Place, o Options, change func(func())) error {
	dir, err := os.MkdirTemp("", "berth-verify-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	o.Work = dir
	v, err := Verify(ctx, place, o)
	if err == nil {
		v.Check = v.Check.Noted()
		change(func() { job.Check, job.Verified = nil, &v })
	}
	return err
}
