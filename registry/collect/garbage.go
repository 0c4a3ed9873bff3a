package collect

import (
	"context"
	"errors"
	"fmt"
	"time"

	"berth/metadata"
	"berth/oci"
	"berth/storage"
)

// Sizes of one pass of a job.
const (
	expireBatch  = 200
	collectBatch = 1000 // what S3 deletes in one request
	retryGarbage = 10 * time.Minute
)

var errAlive = errors.New("the upload has gone on")

// ExpireUploads ends uploads without progress for Options.UploadTTL, at most a
// few hundred, and returns how many. Several processes may run it at once. An
// upload that goes on at this moment either stays or is
// gone for its client: the row is removed first, and only while it is as stale as it was found.
func (c *Collector) ExpireUploads(ctx context.Context) (int, error) {
	before := c.o.Clock().Add(-c.o.UploadTTL)
	var stale []metadata.Upload
	err := c.db.View(ctx, func(tx *metadata.Tx) (err error) {
		stale, err = tx.StaleUploads(ctx, before, expireBatch)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("finding stale uploads: %w", err)
	}
	n := 0
	for _, row := range stale {
		var deleted metadata.Upload
		err := c.db.UpdateRelaxed(ctx, func(tx *metadata.Tx) (err error) {
			if deleted, err = tx.DeleteUpload(ctx, row.ID); err != nil {
				return err
			}
			if !deleted.UpdatedAt.Before(before) {
				return errAlive
			}
			return tx.EnqueueGarbage(ctx, metadata.GarbageSession, deleted.Session, tx.Now().Add(metadata.SessionGrace))
		})
		switch {
		case err == nil:
			n++
			if err := c.store.Abort(ctx, storage.Session(deleted.Session)); err != nil { // the garbage row is tried again
				c.o.Logger.WarnContext(ctx, "aborting an upload failed, it will be tried again", "upload", deleted.ID, "error", err)
			}
		case errors.Is(err, errAlive), errors.Is(err, oci.ErrBlobUploadUnknown):
		default:
			return n, fmt.Errorf("expiring upload %s: %w", row.ID, err)
		}
	}
	return n, nil
}

// CollectGarbage removes from the store what the garbage table lists and is
// due, at most a thousand things, and returns how many. Nothing can come to
// need a thing again once its row is there. Several processes may run it at
// once; they do the same work twice. What the store
// refuses is put back for later, and reported.
func (c *Collector) CollectGarbage(ctx context.Context) (int, error) {
	n, freed, err := c.collectGarbage(ctx)
	c.noteCollection(ctx, Report{Objects: n, Freed: freed})
	return n, err
}

// collectGarbage also tells how many bytes are free now, as far as rows said so.
func (c *Collector) collectGarbage(ctx context.Context) (n int, freed int64, err error) {
	var due []metadata.Garbage
	err = c.db.View(ctx, func(tx *metadata.Tx) (err error) {
		due, err = tx.DueGarbage(ctx, collectBatch)
		return err
	})
	if err != nil || len(due) == 0 {
		return 0, 0, err
	}
	var keys []string
	for _, g := range due {
		if g.Kind == metadata.GarbageObject {
			keys = append(keys, g.Value)
		}
	}
	all := len(keys) == 0 || c.store.Delete(ctx, keys...) == nil // one request for many
	var done, failed []int64
	gone := map[string]tally{}
	var errs []error
	for _, g := range due {
		var err error
		switch {
		case g.Kind == metadata.GarbageSession:
			err = c.RemoveSession(ctx, storage.Session(g.Value))
		case !all:
			err = c.store.Delete(ctx, g.Value)
		}
		if ctx.Err() != nil {
			break // what is left is still due
		}
		if err != nil {
			failed = append(failed, g.ID)
			errs = append(errs, fmt.Errorf("removing the %s %.80s: %w", g.Kind, g.Value, err))
			continue
		}
		done = append(done, g.ID)
		freed += g.Size
		gone[g.Kind] = gone[g.Kind].plus(g.Size)
	}
	ctx, cancel := detached(ctx)
	defer cancel()
	err = c.db.UpdateRelaxed(ctx, func(tx *metadata.Tx) error {
		for _, id := range done {
			if err := tx.RemoveGarbage(ctx, id); err != nil {
				return err
			}
		}
		for _, id := range failed {
			// Behind the others, so that what always fails does not keep them waiting.
			if err := tx.PostponeGarbage(ctx, id, tx.Now().Add(retryGarbage)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return 0, 0, errors.Join(append(errs, err)...)
	}
	for kind, t := range gone {
		c.o.Collected(kind, t.n, t.bytes)
	}
	return len(done), freed, errors.Join(errs...)
}

// tally counts things and their bytes.
type tally struct {
	n     int
	bytes int64
}

func (t tally) plus(bytes int64) tally { return tally{t.n + 1, t.bytes + bytes} }

// RemoveSession frees what was ever stored for an upload that did not become a blob. Of what a store finds
// beside the session, that becomes garbage to which no row points.
func (c *Collector) RemoveSession(ctx context.Context, s storage.Session) error {
	if err := c.store.Abort(ctx, s); err != nil {
		return err
	}
	l, ok := c.store.(storage.Leaver)
	if !ok {
		return nil
	}
	left, err := l.Remains(ctx, s)
	if err != nil || len(left) == 0 {
		return err
	}
	return c.db.UpdateRelaxed(ctx, func(tx *metadata.Tx) error {
		for _, o := range left {
			if _, err := tx.EnqueueOrphan(ctx, objectName(o.Key), o.Size); err != nil {
				return err
			}
		}
		return nil
	})
}
