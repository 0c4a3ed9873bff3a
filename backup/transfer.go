package backup

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"berth/jobs"
	"berth/metadata"
	"berth/registry/collect"
	"berth/storage"
)

// Side is one end of a transfer: a migrated database and its store.
type Side struct {
	DB    *metadata.DB
	Store storage.Store
}

// TransferRun says how a transfer is made.
type TransferRun struct {
	// Source names where the rows come from. What is in the target from another
	// source is not touched: the transfer is refused.
	Source string
	// Rate is how many bytes are read from the source's store in a second, 0 for no limit.
	Rate float64
	// Parallel is how many objects are copied at a time; 0 means 4.
	Parallel int
	// Progress hears of it now and then; nil for nobody.
	Progress func(TransferReport)
	// Logger gets what the report has no place for; nil discards it.
	Logger *slog.Logger
}

// TransferReport is what a transfer has done. Its JSON is part of the notes of jobs.
type TransferReport struct {
	Rows    map[string]int64 `json:"rows"`    // by table
	Blobs   int64            `json:"blobs"`   // of which the target has the bytes now
	Present int64            `json:"present"` // of those, how many it had before
	Copied  int64            `json:"copied"`
	Bytes   int64            `json:"copied_bytes"`
	// Lost counts blobs whose bytes the source does not have, or has damaged;
	// Problems names the first ten thousand. The target counts them as missing.
	Lost     int64             `json:"lost"`
	Problems []collect.Problem `json:"problems"`
	// Progress is in bytes.
	Progress jobs.Progress `json:"progress"`
}

// Noted is a copy for a job's note: it has the first thousand problems, and does not
// change when the transfer goes on.
func (r TransferReport) Noted() TransferReport {
	rows := maps.Clone(r.Rows)
	if rows == nil {
		rows = map[string]int64{}
	}
	r.Rows, r.Problems = rows, collect.FirstProblems(r.Problems)
	return r
}

// Terms of a transfer's holds. A process that dies holds up the collector for
// transferTTL; one that cannot renew its hold in that time gives up.
const (
	transferTTL   = 15 * time.Minute
	transferRenew = time.Minute
	transferLease = "transfer"
	// transferLeaseTTL is short, so that a transfer that was killed is soon made again.
	transferLeaseTTL = 10 * time.Second
)

// Rows that are read at a time.
const (
	uploadsAtOnce = 200
	blobsAtOnce   = 256
)

// recordTime bounds the statements that record what has happened to bytes.
const recordTime = 15 * time.Second

// lastWords is for the end of a change that must not be left half done because the context has ended.
func lastWords(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), recordTime)
}

// newID names an upload of ours.
func newID() string {
	var b [16]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// ErrBusy says that another transfer into the same database is under way.
var ErrBusy = errors.New("another backup, restore or migration into the same place is under way, or has died within the last seconds")

var errHoldLost = errors.New("the hold on the source's objects could not be renewed in time, so the collector may have removed some: start it again, it goes on where it stopped")

// ErrInUse says that a database cannot be the target of a transfer.
var ErrInUse = errors.New("the target database holds a registry already: give an empty one")

var errMeddled = errors.New("somebody else has changed the target database meanwhile")

var errSameStore = errors.New("the target's store is the source's own, under another name: give another place, for objects of two registries must not share one")

var errStoreInUse = errors.New("the target's store has objects already, which its database does not know: of another registry, or of a copy whose database is gone. " +
	"Give an empty place, for objects of two registries must not share one")

// Receives reports nil when a database may be the target of a transfer as far as it tells
// by itself: it is empty, or a copy that nobody has taken into use. Else it returns ErrInUse. Ask before migrating
// one, so that a registry that somebody named by mistake is left as it is.
func Receives(ctx context.Context, db *metadata.DB) error {
	have, _, err := db.SchemaVersion(ctx)
	if err != nil || have == 0 {
		return err
	}
	return db.View(ctx, func(tx *metadata.Tx) error {
		_, err := receives(ctx, tx)
		return err
	})
}

// receives also gives whose copy the database is.
func receives(ctx context.Context, tx *metadata.Tx) (*metadata.Transfer, error) {
	was, err := tx.Transfer(ctx)
	if err != nil || was != nil {
		return was, err
	}
	empty, err := tx.IsEmpty(ctx)
	if err == nil && !empty {
		err = ErrInUse
	}
	return nil, err
}

// Transfer makes to a copy of from: all rows as they are at one moment, and
// their bytes, hashed on the way. Pushes to from, pulls and its collector go on meanwhile; no object that
// the copied rows refer to is removed before the transfer has ended. Objects that to has already from an earlier
// transfer, of the right size, are not copied again, so one that was killed is made again to go on,
// and one that is made again after a while copies what is new.
//
// to has to be empty, or a copy of the same source that nobody has taken into
// use, and its store a place of its own, which is empty at first. Memory is bounded by Parallel and the buffers of the stores.
func Transfer(ctx context.Context, from, to Side, run TransferRun) (report TransferReport, err error) {
	if run.Parallel <= 0 {
		run.Parallel = 4
	}
	if run.Logger == nil {
		run.Logger = slog.New(slog.DiscardHandler)
	}
	t := &transfer{from: from, to: to, run: run, id: newID(), pace: jobs.NewPace(run.Rate), told: time.Now()}
	t.target = collect.New(to.DB, to.Store, collect.Options{Logger: run.Logger})
	ctx, release, err := t.begin(ctx)
	if err != nil {
		return t.report, err
	}
	defer func() { err = errors.Join(err, release()) }()
	for _, step := range []func(context.Context) error{t.sweep, t.apart, t.rows, t.objects, t.ready} {
		err := step(ctx)
		if cause := context.Cause(ctx); err != nil && cause != nil {
			return t.snapshot(), cause
		}
		if err != nil && !errors.Is(err, errSameStore) {
			err = goesOn(err)
		}
		if err != nil {
			return t.snapshot(), err
		}
	}
	return t.snapshot(), nil
}

// goesOn tells what to do about what stopped a transfer on its way.
func goesOn(err error) error {
	return fmt.Errorf("%w. When that is mended, start it again: it goes on where it stopped", err)
}

// transfer is one that is under way.
type transfer struct {
	from, to Side
	run      TransferRun
	id       string // of its holds
	target   *collect.Collector
	pace     *jobs.Pace

	mu     sync.Mutex
	report TransferReport
	told   time.Time
}

// begin makes sure that the target may be written to, by this transfer alone,
// and holds the source's objects. The context that it returns ends when a hold is lost.
func (t *transfer) begin(ctx context.Context) (_ context.Context, end func() error, err error) {
	if err := t.unused(ctx); err != nil {
		return ctx, nil, err
	}
	defer func() {
		if err != nil { // also of a context that ended while it was being held
			_ = t.release(ctx)
		}
	}()
	err = t.to.DB.Update(ctx, func(tx *metadata.Tx) error {
		mine, err := tx.AcquireLease(ctx, transferLease, t.id, transferLeaseTTL)
		if err != nil {
			return err
		}
		if !mine {
			return ErrBusy
		}
		was, err := receives(ctx, tx)
		if err != nil {
			return err
		}
		if was != nil && was.Source != t.run.Source {
			return fmt.Errorf("the target is a copy of %s, not of %s: give another target", was.Source, t.run.Source)
		}
		return tx.SetTransfer(ctx, &metadata.Transfer{Source: t.run.Source})
	})
	if err != nil {
		return ctx, nil, err
	}
	err = t.from.DB.Update(ctx, func(tx *metadata.Tx) error {
		_, err := tx.Hold(ctx, t.id, transferTTL, false)
		return err
	})
	if err != nil {
		return ctx, nil, fmt.Errorf("holding the objects of the source: %w", err)
	}
	failed := func(err error) {
		t.run.Logger.Warn("renewing a hold of the transfer failed, it will be tried again", "error", err)
	}
	source, stopSource := jobs.Keep(ctx, jobs.Lease{
		Every: transferRenew, Renew: t.holdSource, Patience: transferTTL - transferRenew, Late: errHoldLost, Failed: failed})
	both, stopTarget := jobs.Keep(source, jobs.Lease{Every: transferLeaseTTL / 3, Renew: t.holdTarget, Failed: failed})
	return both, func() error {
		stopTarget()
		stopSource()
		return t.release(ctx)
	}, nil
}

// release gives back what begin holds. A hold that cannot be released ends by itself.
func (t *transfer) release(ctx context.Context) error {
	ctx, end := lastWords(ctx)
	defer end()
	return errors.Join(
		t.from.DB.Update(ctx, func(tx *metadata.Tx) error { return tx.ReleaseHold(ctx, t.id) }),
		t.to.DB.Update(ctx, func(tx *metadata.Tx) error { return tx.ReleaseLease(ctx, transferLease, t.id) }))
}

// unused makes sure that the store of a target into which nothing was copied before has no objects: they would be
// another registry's, and a check of either would take the objects of both for its own.
func (t *transfer) unused(ctx context.Context) error {
	var was *metadata.Transfer
	err := t.to.DB.View(ctx, func(tx *metadata.Tx) (err error) {
		was, err = receives(ctx, tx)
		return err
	})
	if err != nil || was != nil {
		return err
	}
	for info, err := range t.to.Store.Walk(ctx) {
		if err != nil {
			return fmt.Errorf("looking whether the target's store is empty: %w", err)
		}
		if _, err := t.from.Store.Stat(ctx, info.Key); err == nil {
			return errSameStore
		}
		return errStoreInUse
	}
	return nil
}

// holdTarget renews the target's lease. It waits behind the one transaction that
// fills the rows; while that runs, others cannot begin either.
func (t *transfer) holdTarget(ctx context.Context) (lost, failed error) {
	var mine bool
	err := t.to.DB.UpdateRelaxed(ctx, func(tx *metadata.Tx) (err error) {
		mine, err = tx.AcquireLease(ctx, transferLease, t.id, transferLeaseTTL)
		return err
	})
	if err == nil && !mine {
		return ErrBusy, nil
	}
	return nil, err
}

func (t *transfer) holdSource(ctx context.Context) (lost, failed error) {
	var held bool
	err := t.from.DB.UpdateRelaxed(ctx, func(tx *metadata.Tx) (err error) {
		held, err = tx.Hold(ctx, t.id, transferTTL, true)
		return err
	})
	if err == nil && !held {
		return errHoldLost, nil
	}
	return nil, err
}

// sweep removes what a transfer that was killed has half written, also what the store has under names
// that the dead had no time to note: nobody else writes to this store, so an object of an
// unfinished upload is nobody's. Only then, it lists the store.
func (t *transfer) sweep(ctx context.Context) error {
	for {
		var left []metadata.Upload
		err := t.to.DB.View(ctx, func(tx *metadata.Tx) (err error) {
			left, err = tx.UnfinishedUploads(ctx, uploadsAtOnce)
			return err
		})
		if err != nil || len(left) == 0 {
			return err
		}
		if err := t.removeUploads(ctx, left); err != nil {
			return fmt.Errorf("removing what an earlier attempt has left: %w", err)
		}
		err = t.to.DB.UpdateRelaxed(ctx, func(tx *metadata.Tx) error {
			for _, u := range left {
				if _, err := tx.DeleteUpload(ctx, u.ID); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
}

func (t *transfer) removeUploads(ctx context.Context, left []metadata.Upload) error {
	dead := map[string]bool{}
	for _, u := range left {
		dead[u.ID] = true
		if err := t.target.RemoveSession(ctx, storage.Session(u.Session)); err != nil {
			return err
		}
	}
	for info, err := range t.to.Store.Walk(ctx) {
		if err == nil && dead[collect.UploadOf(info.Key)] {
			err = t.to.Store.Delete(ctx, info.Key)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// apart makes sure that the stores are two, however they are named: what is put into
// one must not be in the other. Else a check of either would take the objects of both for its own.
func (t *transfer) apart(ctx context.Context) error {
	row, err := t.open(ctx, digest.SHA256)
	if err != nil {
		return err
	}
	session, _, err := t.to.Store.Append(ctx, storage.Session(row.Session), strings.NewReader("one store or two?"), io.Discard)
	var key string
	if err == nil {
		key, err = t.to.Store.Commit(ctx, session)
	}
	if err == nil {
		if _, err = t.from.Store.Stat(ctx, key); err == nil {
			err = errSameStore
		} else if errors.Is(err, storage.ErrNotFound) {
			err = nil
		}
	}
	return errors.Join(err, t.drop(ctx, row, session))
}

// open begins a session in the target's store. The row of an upload goes before it and ends
// with it, so that what a killed process leaves has an owner.
func (t *transfer) open(ctx context.Context, algorithm digest.Algorithm) (metadata.Upload, error) {
	row := metadata.Upload{ID: newID(), Principal: transferLease, Algorithm: string(algorithm)}
	row.Session = string(t.to.Store.Begin(row.ID))
	err := t.to.DB.UpdateRelaxed(ctx, func(tx *metadata.Tx) error {
		return tx.CreateUpload(ctx, row)
	})
	return row, err
}

func (t *transfer) rows(ctx context.Context) error {
	counts, err := metadata.CopyRows(ctx, t.from.DB, t.to.DB)
	if err != nil {
		return fmt.Errorf("copying the rows: %w", err)
	}
	progress, err := jobs.BytesOf(ctx, t.to.DB)
	if err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.report.Rows, t.report.Blobs, t.report.Progress = counts, counts["blobs"], progress
	if t.run.Progress != nil {
		t.run.Progress(t.report)
	}
	return nil
}

// objects copies the bytes of all blobs whose object is not in the target's store.
func (t *transfer) objects(ctx context.Context) error {
	group, gctx := errgroup.WithContext(ctx)
	work := make(chan metadata.StoredBlob)
	start := func(work func() error) { group.Go(func() error { return jobs.Protected(work) }) }
	start(func() error {
		defer close(work)
		var after digest.Digest
		for {
			var page []metadata.StoredBlob
			err := t.to.DB.View(gctx, func(tx *metadata.Tx) (err error) {
				page, err = tx.BlobsAfter(gctx, after, blobsAtOnce)
				return err
			})
			if err != nil || len(page) == 0 {
				return err
			}
			for _, b := range page {
				select {
				case work <- b:
				case <-gctx.Done():
					return gctx.Err()
				}
			}
			after = page[len(page)-1].Digest
		}
	})
	for range t.run.Parallel {
		start(func() error {
			for b := range work {
				there, err := t.there(gctx, b)
				if err != nil {
					return fmt.Errorf("looking for the blob %s in the copy: %w", b.Digest, err)
				}
				if there {
					t.count(func(r *TransferReport) {
						r.Present++
						r.Progress.Add(b.Size)
					})
				} else if err := t.object(gctx, b.Blob); err != nil {
					return fmt.Errorf("copying the blob %s: %w", b.Digest, err)
				}
			}
			return nil
		})
	}
	err := group.Wait()
	t.mu.Lock()
	defer t.mu.Unlock()
	if err != nil {
		t.report.Blobs = t.report.Present + t.report.Copied // those that are known to be there: not all were looked at
		return err
	}
	t.report.Blobs -= t.report.Lost
	return nil
}

// there reports whether the target has a blob's object, as long as the blob. One that it has lost since
// an earlier transfer is to be copied again.
func (t *transfer) there(ctx context.Context, b metadata.StoredBlob) (bool, error) {
	if b.MissingSince != nil {
		return false, nil
	}
	info, err := t.to.Store.Stat(ctx, b.Key)
	if err == nil && info.Size == b.Size {
		return true, nil
	}
	if err != nil && !errors.Is(err, storage.ErrNotFound) {
		return false, err
	}
	t.run.Logger.Warn("the copy has lost an object of an earlier run, it is copied again", "digest", b.Digest, "key", b.Key)
	var gone bool
	err = t.to.DB.Update(ctx, func(tx *metadata.Tx) (err error) {
		gone, err = tx.BlobGone(ctx, b.Blob)
		return err
	})
	if err == nil && !gone {
		err = errMeddled
	}
	return false, err
}

// count changes the report, and tells how far it is.
func (t *transfer) count(change func(*TransferReport)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	change(&t.report)
	if t.run.Progress != nil && time.Since(t.told) > time.Second {
		t.told = time.Now()
		t.run.Progress(t.report)
	}
}

// source finds the object of a blob. When the blob was collected after the
// rows were copied, its object is still there, for the hold keeps it.
func (t *transfer) source(ctx context.Context, d digest.Digest) (key string, err error) {
	err = t.from.DB.View(ctx, func(tx *metadata.Tx) error {
		b, ok, err := tx.StoredBlob(ctx, d)
		if err != nil {
			return err
		}
		if ok {
			key = b.Key
			return nil
		}
		removed, err := tx.RemovedObjects(ctx, d)
		if err == nil && len(removed) > 0 {
			key = removed[len(removed)-1].Key
		}
		return err
	})
	return key, err
}

// object copies one.
func (t *transfer) object(ctx context.Context, b metadata.Blob) error {
	key, err := t.source(ctx, b.Digest)
	if err != nil {
		return err
	}
	rc, err := t.from.Store.Open(ctx, key, 0, -1)
	if errors.Is(err, storage.ErrNotFound) {
		t.lost(b, key, collect.ProblemMissing, "the source's store has no such object")
		return nil
	}
	if collect.Unreadable(ctx, t.from.Store, err) {
		t.lost(b, key, collect.ProblemDamaged, "the source's object cannot be read: "+err.Error())
		return nil
	}
	if err != nil {
		return fmt.Errorf("opening the object %s: %w", key, err)
	}
	defer rc.Close()
	row, err := t.open(ctx, b.Digest.Algorithm())
	if err != nil {
		return err
	}
	sum := b.Digest.Algorithm().Digester()
	session, n, err := t.to.Store.Append(ctx, storage.Session(row.Session), t.pace.Reader(ctx, rc), sum.Hash())
	if err == nil && (n != b.Size || sum.Digest() != b.Digest) {
		t.lost(b, key, collect.ProblemDamaged, fmt.Sprintf("the source's object has %d bytes with the digest %s, the row says %d", n, sum.Digest(), b.Size))
		return t.drop(ctx, row, session)
	}
	var source *storage.SourceError
	if errors.As(err, &source) && collect.Unreadable(ctx, t.from.Store, source) {
		t.lost(b, key, collect.ProblemDamaged, "the source's object cannot be read: "+source.Err.Error())
		return t.drop(ctx, row, session)
	}
	if err != nil {
		return errors.Join(err, t.drop(ctx, row, session))
	}
	arrived, err := t.to.Store.Commit(ctx, session)
	if err != nil {
		return errors.Join(err, t.drop(ctx, row, session))
	}
	var taken bool
	err = t.to.DB.Update(ctx, func(tx *metadata.Tx) (err error) {
		if _, err = tx.DeleteUpload(ctx, row.ID); err == nil {
			taken, err = tx.BlobArrived(ctx, b.Digest, arrived)
		}
		return err
	})
	if err == nil && !taken {
		err = errMeddled
	}
	if err != nil {
		return err
	}
	t.count(func(r *TransferReport) {
		r.Copied++
		r.Bytes += n
		r.Progress.Add(n)
	})
	return nil
}

// drop removes a session that does not become an object. When it cannot, its
// row stays, and the next attempt tries again.
func (t *transfer) drop(ctx context.Context, row metadata.Upload, session storage.Session) error {
	ctx, cancel := lastWords(ctx)
	defer cancel()
	if err := t.to.Store.Abort(ctx, session); err != nil {
		return err
	}
	return t.to.DB.UpdateRelaxed(ctx, func(tx *metadata.Tx) error {
		_, err := tx.DeleteUpload(ctx, row.ID)
		return err
	})
}

func (t *transfer) lost(b metadata.Blob, key, kind, detail string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.report.Lost++
	t.report.Progress.Add(b.Size)
	if len(t.report.Problems) < collect.MaxProblems {
		t.report.Problems = append(t.report.Problems, collect.Problem{Kind: kind, Digest: b.Digest, Key: key, Size: b.Size, Detail: detail})
	}
}

func (t *transfer) ready(ctx context.Context) error {
	return t.to.DB.Update(ctx, func(tx *metadata.Tx) error {
		return tx.SetTransfer(ctx, &metadata.Transfer{Source: t.run.Source, Ready: true})
	})
}

func (t *transfer) snapshot() TransferReport {
	t.mu.Lock()
	defer t.mu.Unlock()
	r := t.report
	if r.Problems == nil {
		r.Problems = []collect.Problem{}
	}
	return r
}
