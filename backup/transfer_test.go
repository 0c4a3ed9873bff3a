package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"github.com/opencontainers/go-digest"

	"berth/jobs"
	"berth/oci"
	"berth/registry/collect"
	"berth/storage"
)

// side opens the ends of a transfer as another process would.
func (e *env) side() Side { return Side{DB: e.openDB(), Store: e.store()} }

// sameImages checks that the target has what the source's rows say, byte for byte.
func sameImages(t *testing.T, to *env) (blobs int) {
	t.Helper()
	r := to.replica()
	for _, l := range to.strings(`SELECT r.name || ' ' || l.digest FROM repository_blobs l JOIN repositories r ON r.id = l.repository_id`) {
		name, d, _ := strings.Cut(l, " ")
		to.read(r, name, digest.Digest(d))
		blobs++
	}
	report, err := to.collector().Check(to.ctx, collect.CheckRun{Rehash: true, Grace: -time.Hour})
	to.ok(err)
	if report.Open > 0 {
		t.Errorf("a check of the copy finds %+v", report.Problems)
	}
	return blobs
}

// A transfer while others push, delete and collect gives a copy in which every
// row has its bytes; made again, it copies only what is new.
func TestTransferWhilePushing(t *testing.T) {
	onTransfers(t, func(t *testing.T, from, to *env) {
		for i := range 12 {
			from.pushImage(from.r, repo, fmt.Sprint("app ", i), fmt.Sprint("v", i))
		}
		from.push(from.r, "team/large", random(3<<20, 5))
		run := TransferRun{Source: "the source"}

		stop := make(chan struct{})
		var pushing sync.WaitGroup
		var pushed atomic.Int64
		pushing.Go(func() {
			r, collector := from.replica(), from.collector()
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				d := from.push(r, "team/churn", random(20_000, uint64(100+i)))
				pushed.Add(1)
				if i%2 == 1 {
					from.ok(r.DeleteBlob(from.ctx, as(alice), "team/churn", d))
				}
				// What has just lost its last link goes at once, if nobody holds it.
				_, err := collector.Collect(from.ctx, collect.Run{})
				from.ok(err)
			}
		})
		first, err := Transfer(from.ctx, from.side(), to.side(), run)
		to.ok(err)
		for seen := pushed.Load(); pushed.Load() < seen+3; {
			time.Sleep(time.Millisecond)
		}
		second, err := Transfer(from.ctx, from.side(), to.side(), run)
		to.ok(err)
		close(stop)
		pushing.Wait()
		if first.Lost+second.Lost > 0 {
			t.Errorf("bytes are missing in the copy: %+v %+v", first.Problems, second.Problems)
		}
		if first.Copied < 14 || second.Present == 0 || second.Copied > second.Blobs-14 {
			t.Errorf("the first copied %d, the second %d beside %d that were there", first.Copied, second.Copied, second.Present)
		}
		if n := sameImages(t, to); n < 14 {
			t.Errorf("the copy has %d blobs", n)
		}
		if left := from.strings(`SELECT name FROM leases WHERE name NOT LIKE 'note:%'`); len(left) > 0 {
			t.Errorf("the transfer leaves the holds %v", left)
		}
	})
}

// dying is a store whose process dies at the n-th write that it is asked for:
// from there on nothing is written any more, and nothing is cleaned up.
type dying struct {
	storage.Store
	left *atomic.Int64
	die  context.CancelFunc
}

func (d dying) dead() bool {
	if d.left.Add(-1) < 0 {
		d.die()
		return true
	}
	return false
}

func (d dying) Append(ctx context.Context, s storage.Session, r io.Reader, tee io.Writer) (storage.Session, int64, error) {
	if d.dead() {
		// Half of it is written, and nobody hears of it.
		_, _, _ = d.Store.Append(context.Background(), s, io.LimitReader(r, 10), io.Discard)
		return s, 0, errors.New("killed")
	}
	return d.Store.Append(ctx, s, r, tee)
}

func (d dying) Commit(ctx context.Context, s storage.Session) (string, error) {
	key, err := d.Store.Commit(ctx, s)
	if d.dead() {
		return "", errors.New("killed")
	}
	return key, err
}

func (d dying) Abort(ctx context.Context, s storage.Session) error {
	if d.left.Load() < 0 {
		return errors.New("killed")
	}
	return d.Store.Abort(ctx, s)
}

func (d dying) Walk(ctx context.Context) iter.Seq2[storage.Info, error] { return d.Store.Walk(ctx) }

// A transfer that ends before it has begun does not stand in the way of the next one.
func TestTransferThatCannotBegin(t *testing.T) {
	onTransfers(t, func(t *testing.T, from, to *env) {
		from.push(from.r, repo, random(5000, 1))
		gone := from.side()
		from.ok(gone.DB.Close())
		if _, err := Transfer(from.ctx, gone, to.side(), TransferRun{Source: "the source"}); !errors.Is(err, oci.ErrUnavailable) {
			t.Errorf("from a database that is gone: %v", err)
		}
		_, err := Transfer(from.ctx, from.side(), to.side(), TransferRun{Source: "the source"})
		to.ok(err)
	})
}

// mistaken is a store with a mistake in its program.
type mistaken struct{ storage.Store }

func (mistaken) Open(context.Context, string, int64, int64) (io.ReadCloser, error) {
	var no *int
	*no++
	return nil, nil
}

// A mistake in the program ends the transfer, not the server that does it as a job, and says where it is.
func TestTransferPanics(t *testing.T) {
	onTransfers(t, func(t *testing.T, from, to *env) {
		from.push(from.r, repo, random(5000, 1))
		source := from.side()
		source.Store = mistaken{source.Store}
		_, err := Transfer(from.ctx, source, to.side(), TransferRun{Source: "the source"})
		var mistake jobs.Panicked
		if !errors.As(err, &mistake) || !strings.Contains(mistake.LogValue().String(), "transfer_test.go") {
			t.Fatalf("the transfer ends with %v", err)
		}
		_, err = Transfer(from.ctx, from.side(), to.side(), TransferRun{Source: "the source"})
		to.ok(err)
		sameImages(t, to)
	})
}

// A transfer that dies anywhere is made again and ends with the same copy, and
// with nothing in the target's store that no row points to.
func TestTransferGoesOn(t *testing.T) {
	onTransfers(t, func(t *testing.T, from, to *env) {
		for i := range 6 {
			from.push(from.r, repo, random(5000+i, uint64(i)))
		}
		run := TransferRun{Source: "the source", Parallel: 1}
		deaths, copied := 0, int64(0)
		for n := int64(0); ; n++ {
			ctx, cancel := context.WithCancel(from.ctx)
			var left atomic.Int64
			left.Store(1 + n%4)
			target := to.side()
			target.Store = dying{target.Store, &left, cancel}
			report, err := Transfer(ctx, from.side(), target, run)
			cancel()
			copied += report.Copied
			if err == nil {
				break
			}
			deaths++
			// A server must not use what is half there.
			err = to.openDB().TakeIntoUse(to.ctx)
			if err == nil {
				t.Fatal("an unfinished copy was taken into use")
			}
			if deaths > 50 {
				t.Fatal("the transfer makes no progress")
			}
		}
		if deaths == 0 || copied != 6 {
			t.Errorf("%d deaths, %d objects copied, want 6", deaths, copied)
		}
		sameImages(t, to)
		to.noOrphans()

		_, err := Transfer(from.ctx, from.side(), to.side(), TransferRun{Source: "another"})
		if err == nil || !strings.Contains(err.Error(), "is a copy of") {
			t.Errorf("a transfer from another source gives %v", err)
		}
		to.ok(to.openDB().TakeIntoUse(to.ctx))
		_, err = Transfer(from.ctx, from.side(), to.side(), run)
		if err == nil || !strings.Contains(err.Error(), "holds a registry already") {
			t.Errorf("a transfer into a registry in use gives %v", err)
		}
	})
}

// What the source has lost is reported, is missing in the copy, and is copied
// when it is there again.
func TestTransferLost(t *testing.T) {
	onTransfers(t, func(t *testing.T, from, to *env) {
		whole, gone := from.push(from.r, repo, []byte("whole")), from.push(from.r, repo, []byte("gone"))
		from.ok(from.store().Delete(from.ctx, from.strings(`SELECT storage_key FROM blobs WHERE digest = $1`, string(gone))...))
		run := TransferRun{Source: "the source"}
		report, err := Transfer(from.ctx, from.side(), to.side(), run)
		to.ok(err)
		if report.Lost != 1 || report.Problems[0].Digest != gone || report.Problems[0].Kind != collect.ProblemMissing || report.Copied != 1 {
			t.Errorf("the report is %+v", report)
		}
		to.read(to.replica(), repo, whole)
		if _, err := to.replica().Blob(to.ctx, repo, gone); err == nil {
			t.Error("the copy serves a blob without bytes")
		}
		check, err := from.collector().Check(from.ctx, collect.CheckRun{Repair: true})
		from.ok(err)
		if check.Found[collect.ProblemMissing] != 1 {
			t.Errorf("the check of the source finds %+v", check)
		}
		from.push(from.r, "team/other", []byte("gone"))
		report, err = Transfer(from.ctx, from.side(), to.side(), run)
		to.ok(err)
		if report.Lost != 0 || report.Copied != 1 {
			t.Errorf("after the re-push the report is %+v", report)
		}
		to.read(to.replica(), repo, gone)
	})
}

// badDisk is a store of which the disk cannot read one object to its end.
type badDisk struct {
	storage.Store
	key  string
	ping error // of the whole store
}

func (b badDisk) Open(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	rc, err := b.Store.Open(ctx, key, offset, length)
	if err == nil && key == b.key {
		rc = io.NopCloser(io.MultiReader(io.LimitReader(rc, 100), iotest.ErrReader(syscall.EIO)))
	}
	return rc, err
}

func (b badDisk) Ping(context.Context) error { return b.ping }

// One object that the disk cannot read is damaged, for a check and a copy, which go on. A disk that
// is gone as a whole ends both, and proves nothing.
func TestUnreadableObject(t *testing.T) {
	onTransfers(t, func(t *testing.T, from, to *env) {
		bad, good := from.push(from.r, repo, random(5000, 1)), from.push(from.r, repo, random(5000, 2))
		key := from.strings(`SELECT storage_key FROM blobs WHERE digest = $1`, string(bad))[0]
		side := from.side()
		side.Store = badDisk{side.Store, key, errors.New("gone")}
		if _, err := collect.New(side.DB, side.Store, collect.Options{}).Check(from.ctx, collect.CheckRun{Rehash: true}); !errors.Is(err, syscall.EIO) {
			t.Errorf("a check of a disk that is gone gives %v", err)
		}
		run := TransferRun{Source: "the source"}
		if _, err := Transfer(from.ctx, side, to.side(), run); !errors.Is(err, syscall.EIO) {
			t.Errorf("a transfer from a disk that is gone gives %v", err)
		}
		side.Store = badDisk{from.store(), key, nil}
		check, err := collect.New(side.DB, side.Store, collect.Options{}).Check(from.ctx, collect.CheckRun{Rehash: true})
		from.ok(err)
		if check.Blobs != 2 || len(check.Problems) != 1 || check.Problems[0].Digest != bad || check.Problems[0].Kind != collect.ProblemDamaged {
			t.Errorf("the check finds %+v", check)
		}
		report, err := Transfer(from.ctx, side, to.side(), run)
		from.ok(err)
		if report.Lost != 1 || report.Problems[0].Digest != bad || report.Problems[0].Kind != collect.ProblemDamaged {
			t.Errorf("the transfer's report is %+v", report)
		}
		to.read(to.replica(), repo, good)
		moved, err := Relocate(from.ctx, side.DB, collect.DefaultGrace, side.Store, to.store(), TransferRun{})
		from.ok(err)
		if moved.Lost != 1 || moved.Copied != 1 {
			t.Errorf("the relocation's report is %+v", moved)
		}
		if left := to.strings(`SELECT id FROM uploads`); len(left) > 0 {
			t.Errorf("the uploads %v are left", left)
		}
	})
}

// What a copy has lost of an earlier transfer is copied again by the next one; what it has is not.
func TestTransferHealsTheCopy(t *testing.T) {
	onTransfers(t, func(t *testing.T, from, to *env) {
		gone, short, whole := from.push(from.r, repo, []byte("gone")), from.push(from.r, repo, []byte("cut short")), from.push(from.r, repo, []byte("whole"))
		run := TransferRun{Source: "the source"}
		_, err := Transfer(from.ctx, from.side(), to.side(), run)
		to.ok(err)
		to.ok(to.store().Delete(to.ctx, to.strings(`SELECT storage_key FROM blobs WHERE digest = $1`, string(gone))...))
		other := to.put([]byte("cut"))
		cut := to.strings(`SELECT storage_key FROM blobs WHERE digest = $1`, string(short))
		to.ok(to.store().Delete(to.ctx, cut...))
		_, err = to.raw.ExecContext(to.ctx, `UPDATE blobs SET storage_key = $1 WHERE digest = $2`, other, string(short))
		to.ok(err)
		report, err := Transfer(from.ctx, from.side(), to.side(), run)
		to.ok(err)
		if report.Copied != 2 || report.Present != 1 || report.Blobs != 3 || report.Lost != 0 {
			t.Errorf("the report is %+v", report)
		}
		for _, d := range []digest.Digest{gone, short, whole} {
			to.read(to.replica(), repo, d)
		}
		sameImages(t, to)
		if left := to.strings(`SELECT value FROM garbage WHERE value = $1`, other); len(left) != 1 {
			t.Errorf("the object that was cut short is no garbage")
		}
	})
}

// A store with objects that nobody in the target's database knows is not filled: they are another registry's.
func TestTransferIntoAStoreInUse(t *testing.T) {
	onTransfers(t, func(t *testing.T, from, to *env) {
		d := from.push(from.r, repo, []byte("mine"))
		theirs := to.put([]byte("of another registry"))
		run := TransferRun{Source: "the source"}
		for range 2 {
			if _, err := Transfer(from.ctx, from.side(), to.side(), run); !errors.Is(err, errStoreInUse) || strings.Contains(err.Error(), "goes on") {
				t.Fatalf("a transfer into a store with objects gives %v", err)
			}
		}
		if keys := to.keys(); !slices.Equal(keys, []string{theirs}) {
			t.Errorf("afterwards the store has %v", keys)
		}
		to.ok(to.store().Delete(to.ctx, theirs))
		_, err := Transfer(from.ctx, from.side(), to.side(), run)
		to.ok(err)
		to.read(to.replica(), repo, d)
	})
}

// Whatever the names say, a target that is the source's own database or store, or another
// registry's, is refused, and is as it was afterwards.
func TestTransferIntoItself(t *testing.T) {
	onTransfers(t, func(t *testing.T, from, to *env) {
		d := from.push(from.r, repo, []byte("mine"))
		before := from.keys()
		run := TransferRun{Source: "the source"}
		for name, target := range map[string]Side{"the same database": {DB: from.openDB(), Store: to.store()}, "both": from.side()} {
			if _, err := Transfer(from.ctx, from.side(), target, run); !errors.Is(err, ErrInUse) {
				t.Errorf("a transfer into %s gives %v", name, err)
			}
		}
		if err := Receives(from.ctx, from.openDB()); !errors.Is(err, ErrInUse) {
			t.Errorf("a database in use receives: %v", err)
		}
		_, err := Transfer(from.ctx, from.side(), Side{DB: to.openDB(), Store: from.store()}, run)
		if !errors.Is(err, errSameStore) || strings.Contains(err.Error(), "goes on") {
			t.Errorf("a transfer into the same store gives %v", err)
		}
		if after := from.keys(); !slices.Equal(after, before) {
			t.Errorf("the store has %v, want %v", after, before)
		}
		if err := Receives(to.ctx, to.openDB()); err != nil {
			t.Errorf("after that the target receives no more: %v", err)
		}
		_, err = Transfer(from.ctx, from.side(), to.side(), run)
		to.ok(err)
		to.read(to.replica(), repo, d)
		if left := to.strings(`SELECT id FROM uploads`); len(left) > 0 {
			t.Errorf("the transfer leaves the uploads %v", left)
		}
	})
}

// A note holds the first problems and does not change under the hands of who writes it.
func TestNotedTransfer(t *testing.T) {
	many := make([]collect.Problem, collect.MaxProblems)
	report := TransferReport{Problems: many, Rows: map[string]int64{"tags": 1}}
	noted := report.Noted()
	report.Rows["tags"], many[0].Kind = 2, collect.ProblemMissing
	if len(noted.Problems) >= len(many) || len(noted.Problems) == 0 || noted.Rows["tags"] != 1 || noted.Problems[0].Kind != "" {
		t.Errorf("the transfer is noted with %d problems and %v", len(noted.Problems), noted.Rows)
	}
	if empty := (TransferReport{}).Noted(); empty.Problems == nil || empty.Rows == nil {
		t.Error("an empty report is noted with null in place of lists")
	}
}
