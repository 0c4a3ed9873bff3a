package collect

import (
	"context"
	"errors"
	"fmt"
	"time"

	"berth/auth"
	"berth/metadata"
)

// Run says what one run of the collector may take away.
type Run struct {
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
	Progress func(Report)
}

// Report is what a run of the collector did, or would do. Its JSON is part of [LastCollection].
type Report struct {
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

func (g *Report) add(p metadata.Pass) {
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

func (c *Collector) passes(run Run) []pass {
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
			return tx.CollectBlobs(ctx, run.Grace, min(run.Grace, c.o.ReadTTL))
		},
	}
}

// CollectUnreferenced deletes manifests that no policy keeps, takes blobs out
// of repositories whose manifests do not need them, and turns blobs that no repository has into garbage,
// of each at most metadata.GCBatch. It returns how many candidates it has looked at; none means that there
// is nothing to do now. What is alive is looked at only when it was pushed or lost a
// reference since. Several processes may run it at once, and pushes go on meanwhile.
func (c *Collector) CollectUnreferenced(ctx context.Context) (int, error) {
	looked := 0
	var report Report
	defer func() { c.noteCollection(ctx, report) }()
	for _, pass := range c.passes(c.DefaultRun()) {
		p, err := c.collect(ctx, pass)
		if err != nil {
			return looked, err
		}
		looked += p.Looked
		report.add(p)
	}
	return looked, nil
}

// DefaultRun is what the background jobs do, as Options say.
func (c *Collector) DefaultRun() Run {
	return Run{Grace: c.o.Grace, UntaggedTTL: c.o.UntaggedTTL, UndoWindow: c.o.UndoWindow}
}

// collect runs one pass in a transaction of its own. It has to be durable: the
// object must not go before its row has.
func (c *Collector) collect(ctx context.Context, pass pass) (p metadata.Pass, err error) {
	err = c.db.Update(ctx, func(tx *metadata.Tx) (err error) {
		p, err = pass(ctx, tx)
		return err
	})
	if err != nil {
		return metadata.Pass{}, fmt.Errorf("collecting what is not referenced: %w", err)
	}
	for _, gone := range p.Gone {
		c.o.Logger.DebugContext(ctx, "collected", "kind", gone.Kind, "repository", gone.Repository, "digest", gone.Digest,
			"bytes", gone.Size, "reason", gone.Reason, "since", gone.Since)
		c.o.Collected(gone.Kind, 1, 0)
	}
	return p, nil
}

// Collect runs the collector, and CollectGarbage, until there is nothing left to do
// now. Servers may go on serving, and collecting. The report beside an error is what was done before it.
func (c *Collector) Collect(ctx context.Context, run Run) (report Report, err error) {
	progress := func() {
		if run.Progress != nil {
			run.Progress(report)
		}
	}
	defer func() { c.noteCollection(ctx, report) }()
	began := time.Now()
	over := func() bool {
		report.More = run.Limit > 0 && time.Since(began) > run.Limit
		return report.More
	}
	for _, pass := range c.passes(run) {
		for !over() {
			p, err := c.collect(ctx, pass)
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
		n, freed, err := c.collectGarbage(ctx)
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
func (c *Collector) CollectNow(ctx context.Context, by auth.Actor, run Run) (Report, error) {
	e := metadata.Event{Kind: metadata.CollectorRun, Actor: by.Audit, Detail: map[string]any{"fields": map[string]any{
		"grace": run.Grace.String(), "untagged_ttl": run.UntaggedTTL.String(), "undo_window": run.UndoWindow.String(),
	}}}
	if err := c.db.Update(ctx, recording(ctx, e)); err != nil {
		return Report{}, err
	}
	return c.Collect(ctx, run)
}

// DryRun tells what Collect would take away now. It reads one state of the database and changes nothing: pushes and
// the collector go on meanwhile.
func (c *Collector) DryRun(ctx context.Context, run Run) (report Report, err error) {
	err = c.db.Snapshot(ctx, func(tx *metadata.Tx) error {
		plan, err := tx.PlanCollection(ctx, run.UndoWindow, run.Grace, run.UntaggedTTL, dryRunItems)
		report = Report{Items: plan.Gone, Truncated: plan.Truncated}
		report.add(metadata.Pass{Gone: plan.Gone})
		return err
	})
	return report, err
}

// Queues describes what waits for the collector.
func (c *Collector) Queues(ctx context.Context) (queues []metadata.Queue, err error) {
	err = c.db.View(ctx, func(tx *metadata.Tx) (err error) {
		queues, err = tx.Queues(ctx)
		return err
	})
	return queues, err
}
