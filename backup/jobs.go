package backup

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"berth/auth"
	"berth/jobs"
	"berth/metadata"
	"berth/registry/collect"
	"berth/storage"
)

// Kinds of jobs.
const (
	KindBackup  = "backup"
	KindVerify  = "verify"  // of the backup that is there
	KindRestore = "restore" // of the backup, into the target
	KindMigrate = "migrate" // of the registry, into the target
	KindStorage = "storage" // of the registry's objects, from its second store to its first
)

// Job is something that copies a registry, which a server does in the background, as all
// replicas see it. It is noted as JSON, see [jobs.Job], with TransferReport, Manifest, Verified and
// collect.CheckReport in it.
type Job struct {
	jobs.Head
	Kind string  `json:"kind"`
	Rate float64 `json:"rate"` // bytes a second, 0 for no limit
	// Transfer is what has been copied so far. Check is what a verifying has read so far, or, after
	// a copy into the target, how far its rows are compared with its objects.
	Transfer *TransferReport      `json:"transfer,omitempty"`
	Check    *collect.CheckReport `json:"check,omitempty"`
	// Manifest is that of a backup that is complete or was restored, Verified the result of verifying.
	Manifest *Manifest `json:"manifest,omitempty"`
	Verified *Verified `json:"verified,omitempty"`
}

// JobsOptions say what is copied, and where to. The functions open what a job works
// on, as the settings say. Their errors are for who starts a job: CONFLICT when the settings name nothing.
type JobsOptions struct {
	From Side
	// Grace is how long the registry's collector leaves what nothing refers to: also an object that has moved.
	Grace time.Duration
	// Place gives where backups are, and their work directory.
	Place func(context.Context) (Place, string, error)
	// Target opens where another registry is made; the job closes its database.
	Target func(context.Context) (Side, error)
	// Stores opens the registry's second store and its first.
	Stores func(context.Context) (from, to storage.Store, err error)
	// Source and Version are as in Options.
	Source  string
	Version string
	// Logger gets why a job failed; nil discards it.
	Logger *slog.Logger
	// Renew is as in jobs.Options.
	Renew time.Duration
}

// Jobs copies registries in the background: makes, verifies and restores backups, and
// migrates. One such job runs at a time over all replicas, for they read the same stores, and a restore
// must not read what a backup writes. Close it.
type Jobs struct {
	o                             JobsOptions
	backups, restores, migrations *jobs.Runner[*Job]
}

// NewJobs makes one for a registry.
func NewJobs(o JobsOptions) *Jobs {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	runner := func(noun string) *jobs.Runner[*Job] {
		return jobs.NewRunner[*Job](jobs.Options{
			DB: o.From.DB, Name: noun, Lease: "backup", Noun: noun, Excludes: "backup, restore or migration", Logger: o.Logger, Renew: o.Renew})
	}
	return &Jobs{o: o, backups: runner("backup"), restores: runner("restore"), migrations: runner("migration")}
}

// Close ends a job that runs here, and waits for its end.
func (j *Jobs) Close() {
	j.backups.Close()
	j.restores.Close()
	j.migrations.Close()
}

// Of gives what shows and cancels jobs of a kind, and of those that are seen as the
// same: a backup and its verifying, a migration and that of the store alone.
func (j *Jobs) Of(kind string) *jobs.Runner[*Job] {
	switch kind {
	case KindRestore:
		return j.restores
	case KindMigrate, KindStorage:
		return j.migrations
	}
	return j.backups
}

// openTime bounds the opening of what a job works on, which the caller waits for.
const openTime = 20 * time.Second

// Start begins a job of a kind that reads so many bytes a second, 0 for no
// limit, on record; the rest is as jobs.Runner.Start.
func (j *Jobs) Start(ctx context.Context, by auth.Actor, kind string, rate float64) (*Job, error) {
	run := &running{Job: &Job{Kind: kind, Rate: rate}, o: j.o}
	if err := j.Of(kind).Free(ctx); err != nil { // before anything is opened, and perhaps migrated
		return nil, err
	}
	opening, cancel := context.WithTimeout(ctx, openTime)
	defer cancel()
	work, err := run.open(opening)
	if err != nil {
		return nil, errors.Join(err, run.close())
	}
	job, err := j.Of(kind).Start(ctx, run.Job, by.Audit.Name, recording(ctx, started(by, kind, rate)), func(ctx context.Context, change func(func())) (err error) {
		defer func() { err = errors.Join(err, run.close()) }()
		run.change = change
		return work(ctx)
	})
	if err != nil {
		err = errors.Join(err, run.close())
	}
	return job, err
}

// Cancel ends the job of a kind that runs, on record; the rest is as jobs.Runner.Cancel.
func (j *Jobs) Cancel(ctx context.Context, by auth.Actor, kind string) error {
	e := metadata.Event{Kind: metadata.BackupCancelled, Actor: by.Audit}
	switch kind {
	case KindRestore:
		e.Kind = metadata.RestoreCancelled
	case KindMigrate, KindStorage:
		e.Kind = metadata.MigrationCancelled
	}
	return j.Of(kind).Cancel(ctx, recording(ctx, e))
}

// started is the event of a job that begins.
func started(by auth.Actor, kind string, rate float64) metadata.Event {
	e := metadata.Event{Kind: metadata.BackupStarted, Actor: by.Audit}
	asked := map[string]any{}
	if rate > 0 {
		asked["rate"] = rate
	}
	switch kind {
	case KindVerify:
		asked["verify"] = true
	case KindRestore:
		e.Kind = metadata.RestoreStarted
	case KindMigrate:
		e.Kind = metadata.MigrationStarted
	case KindStorage:
		e.Kind, asked["storage_only"] = metadata.MigrationStarted, true
	}
	if len(asked) > 0 {
		e.Detail = map[string]any{"fields": asked}
	}
	return e
}

// recording records a deed in the transaction of a runner.
func recording(ctx context.Context, e metadata.Event) func(*metadata.Tx) error {
	return func(tx *metadata.Tx) error { return tx.Record(ctx, e) }
}

// running is a job with what it works on.
type running struct {
	*Job
	o      JobsOptions
	change func(func()) // of the job
	place  Place
	work   string // directory for databases
	target Side
	closer []func() error
}

func (r *running) close() (err error) {
	for _, c := range r.closer {
		err = errors.Join(err, c())
	}
	return err
}

// open opens what a job of the kind works on, and gives what it does.
func (r *running) open(ctx context.Context) (work func(context.Context) error, err error) {
	if r.Kind == KindStorage {
		from, to, err := r.o.Stores(ctx)
		return func(ctx context.Context) error { return r.relocate(ctx, from, to) }, err
	}
	if r.Kind != KindMigrate {
		if r.place, r.work, err = r.o.Place(ctx); err != nil {
			return nil, err
		}
	}
	if r.Kind == KindVerify || r.Kind == KindRestore { // the place is only read
		if r.work, err = os.MkdirTemp("", "berth-"+r.Kind+"-"); err != nil {
			return nil, err
		}
		r.closer = append(r.closer, func() error { return os.RemoveAll(r.work) })
	}
	if r.Kind == KindMigrate || r.Kind == KindRestore {
		if r.target, err = r.o.Target(ctx); err != nil {
			return nil, err
		}
		r.closer = append(r.closer, r.target.DB.Close)
	}
	return map[string]func(context.Context) error{
		KindBackup: r.backup, KindVerify: r.verify, KindRestore: r.restore, KindMigrate: r.migrate,
	}[r.Kind], nil
}

func (r *running) options() Options {
	return Options{Work: r.work, Source: r.o.Source, Version: r.o.Version, Rate: r.Rate, Logger: r.o.Logger, Progress: r.copied, CheckProgress: r.checked}
}

// copied and checked note how far it is.
func (r *running) copied(report TransferReport) {
	report = report.Noted()
	r.change(func() { r.Transfer = &report })
}

func (r *running) checked(report collect.CheckReport) {
	report = report.Noted()
	r.change(func() { r.Check = &report })
}

func (r *running) backup(ctx context.Context) error {
	m, report, err := Run(ctx, r.o.From, r.place, r.options())
	r.copied(report)
	if err == nil {
		r.change(func() { r.Manifest = &m })
	}
	return err
}

func (r *running) verify(ctx context.Context) error {
	v, err := Verify(ctx, r.place, r.options())
	if err == nil {
		v.Check = v.Check.Noted()
		r.change(func() { r.Check, r.Verified = nil, &v })
	}
	return err
}

func (r *running) restore(ctx context.Context) error {
	m, report, err := Restore(ctx, r.place, r.target, r.options())
	r.copied(report)
	if err != nil {
		return err
	}
	r.change(func() { r.Manifest = &m })
	return r.compare(ctx)
}

func (r *running) migrate(ctx context.Context) error {
	report, err := Transfer(ctx, r.o.From, r.target, r.options().transfer(r.o.Source))
	r.copied(report)
	if err != nil {
		return err
	}
	return r.compare(ctx)
}

func (r *running) relocate(ctx context.Context, from, to storage.Store) error {
	report, err := Relocate(ctx, r.o.From.DB, r.o.Grace, from, to, r.options().transfer(""))
	r.copied(report)
	return err
}

func (r *running) compare(ctx context.Context) error {
	report, err := Compare(ctx, r.target, r.options())
	r.checked(report)
	return err
}

// Compare compares the rows of a copy with its objects, at its end.
func Compare(ctx context.Context, copied Side, o Options) (collect.CheckReport, error) {
	report, err := collect.New(copied.DB, copied.Store, collect.Options{Logger: o.Logger}).Check(ctx, collect.CheckRun{Progress: o.CheckProgress})
	if err != nil {
		err = fmt.Errorf("the copy is complete, but could not be checked: %w", err)
	}
	return report, err
}
