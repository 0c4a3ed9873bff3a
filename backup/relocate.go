package backup

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/opencontainers/go-digest"

	"berth/jobs"
	"berth/metadata"
	"berth/registry/collect"
	"berth/storage"
)

// Relocate moves the objects of all blobs of a registry from one store to another, while
// servers go on that read both (storage.Fallback) and write to the new one. Each object is copied
// and hashed, then its row points to the copy, in a small transaction that changes nothing if somebody else has
// changed the row meanwhile; what it pointed to becomes garbage, to be removed after the
// registry's grace period. One that was killed is made again, and goes on with what still is in the old store.
func Relocate(ctx context.Context, db *metadata.DB, grace time.Duration, from, to storage.Store, run TransferRun) (TransferReport, error) {
	if run.Logger == nil {
		run.Logger = slog.New(slog.DiscardHandler)
	}
	m := &relocation{db: db, grace: grace, from: from, to: to, pace: jobs.NewPace(run.Rate), run: run, told: time.Now()}
	m.report.Problems, m.report.Rows = []collect.Problem{}, map[string]int64{}
	var err error
	if m.report.Progress, err = jobs.BytesOf(ctx, db); err != nil {
		return m.report, err
	}
	var after digest.Digest
	for {
		var page []metadata.StoredBlob
		err := db.View(ctx, func(tx *metadata.Tx) (err error) {
			page, err = tx.BlobsAfter(ctx, after, blobsAtOnce)
			return err
		})
		if err != nil || len(page) == 0 {
			return m.report, err
		}
		for _, b := range page {
			if err := m.blob(ctx, b); err != nil {
				return m.report, goesOn(fmt.Errorf("moving the blob %s: %w", b.Digest, err))
			}
			m.report.Progress.Add(b.Size)
			if run.Progress != nil && time.Since(m.told) > time.Second {
				m.told = time.Now()
				run.Progress(m.report)
			}
		}
		after = page[len(page)-1].Digest
	}
}

type relocation struct {
	db       *metadata.DB
	grace    time.Duration
	from, to storage.Store
	run      TransferRun
	pace     *jobs.Pace
	report   TransferReport
	told     time.Time
}

func (m *relocation) lost(b metadata.StoredBlob, kind, detail string) {
	m.report.Lost++
	if len(m.report.Problems) < collect.MaxProblems {
		m.report.Problems = append(m.report.Problems, collect.Problem{Kind: kind, Digest: b.Digest, Key: b.Key, Size: b.Size, Detail: detail})
	}
}

func (m *relocation) blob(ctx context.Context, b metadata.StoredBlob) error {
	if b.MissingSince != nil {
		m.lost(b, collect.ProblemMissing, "marked as missing since "+b.MissingSince.Format(time.RFC3339))
		return nil
	}
	_, err := m.to.Stat(ctx, b.Key)
	if err == nil {
		m.report.Blobs++
		m.report.Present++
		return nil
	}
	if !errors.Is(err, storage.ErrNotFound) {
		return err
	}
	rc, err := m.from.Open(ctx, b.Key, 0, -1)
	if errors.Is(err, storage.ErrNotFound) {
		if same, err := m.same(ctx, b); err != nil || !same { // collected meanwhile
			return err
		}
		m.lost(b, collect.ProblemMissing, "neither store has such an object")
		return nil
	}
	if collect.Unreadable(ctx, m.from, err) {
		m.lost(b, collect.ProblemDamaged, "the object cannot be read: "+err.Error())
		return nil
	}
	if err != nil {
		return err
	}
	defer rc.Close()
	row := metadata.Upload{ID: newID(), Principal: transferLease, Algorithm: string(b.Digest.Algorithm())}
	row.Session = string(m.to.Begin(row.ID))
	if err := m.db.UpdateRelaxed(ctx, func(tx *metadata.Tx) error {
		return tx.CreateUpload(ctx, row)
	}); err != nil {
		return err
	}
	sum := b.Digest.Algorithm().Digester()
	session, n, err := m.to.Append(ctx, storage.Session(row.Session), m.pace.Reader(ctx, rc), sum.Hash())
	row.Session = string(session)
	if err == nil && (n != b.Size || sum.Digest() != b.Digest) {
		m.lost(b, collect.ProblemDamaged, fmt.Sprintf("the object has %d bytes with the digest %s, the row says %d", n, sum.Digest(), b.Size))
		return m.drop(ctx, row)
	}
	var source *storage.SourceError
	if errors.As(err, &source) && collect.Unreadable(ctx, m.from, source) {
		m.lost(b, collect.ProblemDamaged, "the object cannot be read: "+source.Err.Error())
		return m.drop(ctx, row)
	}
	if err != nil {
		return errors.Join(err, m.drop(ctx, row))
	}
	key, err := m.to.Commit(ctx, session)
	if err != nil {
		return errors.Join(err, m.drop(ctx, row))
	}
	var moved bool
	err = m.db.Update(ctx, func(tx *metadata.Tx) error {
		if _, err := tx.DeleteUpload(ctx, row.ID); err != nil {
			return err
		}
		var err error
		moved, err = tx.MoveBlob(ctx, b.Blob, key)
		if err != nil {
			return err
		}
		if moved {
			return tx.EnqueueGarbage(ctx, metadata.GarbageObject, b.Key, tx.Now().Add(m.grace))
		}
		return tx.EnqueueGarbage(ctx, metadata.GarbageObject, key, tx.Now())
	})
	if err == nil && moved {
		m.report.Blobs++
		m.report.Copied++
		m.report.Bytes += n
	}
	return err
}

// same reports whether the blob still has the object that it was read with.
func (m *relocation) same(ctx context.Context, b metadata.StoredBlob) (same bool, err error) {
	err = m.db.View(ctx, func(tx *metadata.Tx) error {
		now, ok, err := tx.StoredBlob(ctx, b.Digest)
		same = ok && now.Key == b.Key
		return err
	})
	return same, err
}

// drop gives a session up that does not become an object.
func (m *relocation) drop(ctx context.Context, row metadata.Upload) error {
	ctx, cancel := lastWords(ctx)
	defer cancel()
	if err := m.to.Abort(ctx, storage.Session(row.Session)); err != nil {
		return err // the upload's row stays, and ends as those of clients do
	}
	return m.db.UpdateRelaxed(ctx, func(tx *metadata.Tx) error {
		_, err := tx.DeleteUpload(ctx, row.ID)
		return err
	})
}
