package registry

import (
	"context"
	"errors"
	"fmt"
	"time"

	"berth/auth"
	"berth/metadata"
)

// DefaultGCGrace is how long what nothing refers to stays, unless Options say otherwise.
const DefaultGCGrace = 24 * time.Hour

// GCRun says what one run of the collector may take away.
type GCRun struct {
	// Grace is how long something has to be unreferenced. A push whose manifest
	// comes later than that is asked to begin again.
	Grace time.Duration
	// UntaggedTTL is how long a manifest lives that no tag, index or subject
	// holds, where no policy of its repository or team says otherwise; 0 keeps it. It is never less than Grace.
	UntaggedTTL time.Duration
	// UndoWindow is how long a deleted tag or manifest can be restored.
	UndoWindow time.Duration
	// Limit ends the run after this time with Report.More set; 0 is until nothing is left.
	Limit time.Duration
	// Progress hears of what went, batch by batch; nil for nobody.
	Progress func(GCReport)
}

// GCReport is what a run of the collector did, or would do.
type GCReport struct {
	Manifests int   `json:"manifests"` // deleted
	Links     int   `json:"links"`     // blobs that a repository no longer has
	Blobs     int   `json:"blobs"`     // blobs that no repository has, and whose objects go
	BlobBytes int64 `json:"blob_bytes"`
	Objects   int   `json:"objects"` // removed from the store now, with aborted uploads
	Freed     int64 `json:"freed_bytes"`
	// Items names what went; a dry run has all of it.
	Items []metadata.Collected `json:"-"`
	// Truncated: a dry run has stopped looking, there is more.
	Truncated bool `json:"truncated,omitempty"`
	// More: the run ended at its limit, and there is work left.
	More bool `json:"more,omitempty"`
}

// Add makes one report of two runs, one after the other.
func (g *GCReport) Add(next GCReport) {
	g.Manifests += next.Manifests
	g.Links += next.Links
	g.Blobs += next.Blobs
	g.BlobBytes += next.BlobBytes
	g.Objects += next.Objects
	g.Freed += next.Freed
	g.More = next.More
}

func (g *GCReport) add(p metadata.Pass) {
	for _, c := range p.Gone {
		switch c.Kind {
		case metadata.CollectedManifest:
			g.Manifests++
		case metadata.CollectedLink:
			g.Links++
		case metadata.CollectedBlob:
			g.Blobs++
			g.BlobBytes += c.Size
		}
	}
}

// pass is one of the collector's passes, in the order in which one makes work for the next.
type pass func(context.Context, *metadata.Tx) (metadata.Pass, error)

func (r *Registry) passes(run GCRun) []pass {
	return []pass{
		func(ctx context.Context, tx *metadata.Tx) (metadata.Pass, error) {
			return tx.PurgeDeleted(ctx, run.UndoWindow)
		},
		func(ctx context.Context, tx *metadata.Tx) (metadata.Pass, error) {
			return tx.ReviewUntagged(ctx)
		},
		func(ctx context.Context, tx *metadata.Tx) (metadata.Pass, error) {
			return tx.CollectManifests(ctx, run.Grace, run.UntaggedTTL)
		},
		func(ctx context.Context, tx *metadata.Tx) (metadata.Pass, error) {
			return tx.CollectLinks(ctx, run.Grace)
		},
		func(ctx context.Context, tx *metadata.Tx) (metadata.Pass, error) {
			// Who may still be reading was given the key before the link went.
			return tx.CollectBlobs(ctx, run.Grace, min(run.Grace, r.o.ReadTTL))
		},
	}
}

// CollectUnreferenced deletes manifests that no policy keeps, takes blobs out
// of repositories whose manifests do not need them, and turns blobs that no repository has into garbage,
// of each at most metadata.GCBatch. It returns how many candidates it has looked at; none means that there
// is nothing to do now. What is alive is looked at only when it was pushed or lost a
// reference since. Several processes may run it at once, and pushes go on meanwhile.
func (r *Registry) CollectUnreferenced(ctx context.Context) (int, error) {
	looked := 0
	var report GCReport
	defer func() { r.noteCollection(ctx, report) }()
	for _, pass := range r.passes(r.DefaultGCRun()) {
		p, err := r.collect(ctx, pass)
		if err != nil {
			return looked, err
		}
		looked += p.Looked
		report.add(p)
	}
	return looked, nil
}

// DefaultGCRun is what the background jobs do, as Options say.
func (r *Registry) DefaultGCRun() GCRun {
	return GCRun{Grace: r.o.GCGrace, UntaggedTTL: r.o.UntaggedTTL, UndoWindow: r.o.UndoWindow}
}

// collect runs one pass in a transaction of its own. It has to be durable: the
// object must not go before its row has.
func (r *Registry) collect(ctx context.Context, pass pass) (p metadata.Pass, err error) {
	err = r.db.Update(ctx, func(tx *metadata.Tx) (err error) {
		p, err = pass(ctx, tx)
		return err
	})
	if err != nil {
		return metadata.Pass{}, fmt.Errorf("collecting what is not referenced: %w", err)
	}
	for _, c := range p.Gone {
		r.o.Logger.DebugContext(ctx, "collected", "kind", c.Kind, "repository", c.Repository, "digest", c.Digest,
			"bytes", c.Size, "reason", c.Reason, "since", c.Since)
		r.o.Collected(c.Kind, 1, 0)
	}
	return p, nil
}

// Collect runs the collector, and CollectGarbage, until there is nothing left to do
// now. Servers may go on serving, and collecting. The report beside an error is what was done before it.
func (r *Registry) Collect(ctx context.Context, run GCRun) (report GCReport, err error) {
	progress := func() {
		if run.Progress != nil {
			run.Progress(report)
		}
	}
	defer func() { r.noteCollection(ctx, report) }()
	began := time.Now()
	over := func() bool {
		report.More = run.Limit > 0 && time.Since(began) > run.Limit
		return report.More
	}
	for _, pass := range r.passes(run) {
		for !over() {
			p, err := r.collect(ctx, pass)
			if err != nil {
				return report, err
			}
			if p.Looked == 0 {
				break
			}
			report.add(p)
			progress()
		}
	}
	var errs []error
	for !over() {
		n, freed, err := r.collectGarbage(ctx)
		report.Objects += n
		report.Freed += freed
		if err != nil {
			// What failed is put off, so this ends; the others are still due.
			errs = append(errs, err)
		}
		if n == 0 || ctx.Err() != nil {
			break
		}
		progress()
	}
	return report, errors.Join(errs...)
}

// dryRunItems bounds what a dry run looks at, for it keeps what it finds in memory.
const dryRunItems = 20_000

// CollectNow is Collect for somebody who asks for it now. What goes cannot be undone, so that
// is on record first.
func (r *Registry) CollectNow(ctx context.Context, by auth.Actor, run GCRun) (GCReport, error) {
	e := metadata.Event{Kind: metadata.CollectorRun, Actor: by.Audit, Detail: fields(map[string]any{
		"grace": run.Grace.String(), "untagged_ttl": run.UntaggedTTL.String(), "undo_window": run.UndoWindow.String(),
	})}
	if err := r.db.Update(ctx, recording(ctx, e)); err != nil {
		return GCReport{}, err
	}
	return r.Collect(ctx, run)
}

// DryRun tells what Collect would take away now. It reads one state of the database and changes nothing: pushes and
// the collector go on meanwhile.
func (r *Registry) DryRun(ctx context.Context, run GCRun) (report GCReport, err error) {
	err = r.db.Snapshot(ctx, func(tx *metadata.Tx) error {
		plan, err := tx.PlanCollection(ctx, run.UndoWindow, run.Grace, run.UntaggedTTL, dryRunItems)
		report = GCReport{Items: plan.Gone, Truncated: plan.Truncated}
		report.add(metadata.Pass{Gone: plan.Gone})
		return err
	})
	return report, err
}

// Queues describes what waits for the collector.
func (r *Registry) Queues(ctx context.Context) (queues []metadata.Queue, err error) {
	err = r.db.View(ctx, func(tx *metadata.Tx) (err error) {
		queues, err = tx.Queues(ctx)
		return err
	})
	return queues, err
}
