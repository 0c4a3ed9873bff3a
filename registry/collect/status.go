package collect

import (
	"context"
	"encoding/json"
	"time"

	"berth/metadata"
)

// LastCollection is what the collector last took away, on whichever replica. Its JSON is a note that
// another version of the program reads: a name stays, and a new field may be absent.
type LastCollection struct {
	At time.Time `json:"at"`
	Report
}

// Status is how the collector is doing.
type Status struct {
	Rules  Run
	Queues []metadata.Queue
	Last   *LastCollection // nil when nothing went for a long time
}

const (
	noteGC    = "gc"
	noteGCTTL = 90 * 24 * time.Hour
)

// noteCollection leaves a note of what a pass took away. The pass
// succeeds also when the note cannot be written.
func (c *Collector) noteCollection(ctx context.Context, report Report) {
	if report.Manifests+report.Links+report.Blobs+report.Objects == 0 {
		return
	}
	ctx, cancel := detached(ctx)
	defer cancel()
	text, err := json.Marshal(LastCollection{At: c.o.Clock().UTC(), Report: report})
	if err == nil {
		err = c.db.UpdateRelaxed(ctx, func(tx *metadata.Tx) error { return tx.PutNote(ctx, noteGC, string(text), noteGCTTL) })
	}
	if err != nil {
		c.o.Logger.WarnContext(ctx, "what the collector did could not be noted", "error", err)
	}
}

// Status tells the rules, the queues and the last collection.
func (c *Collector) Status(ctx context.Context) (Status, error) {
	s := Status{Rules: c.DefaultRun()}
	err := c.db.View(ctx, func(tx *metadata.Tx) (err error) {
		if s.Queues, err = tx.Queues(ctx); err != nil {
			return err
		}
		text, err := tx.Note(ctx, noteGC)
		if err != nil || text == "" {
			return err
		}
		s.Last = &LastCollection{}
		return json.Unmarshal([]byte(text), s.Last)
	})
	return s, err
}
