package collect

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"
	"syscall"
	"time"

	"berth/jobs"
	"berth/metadata"
	"berth/storage"

	"github.com/opencontainers/go-digest"
)

// CheckRun says what a check does.
type CheckRun struct {
	// Rehash reads every object and manifest and computes its digest again. Without it only the objects are read
	// of which a pull has got wrong bytes since they were last checked, see registry.Suspect.
	Rehash bool
	// Repair marks blobs whose bytes are gone or damaged, so that clients push them again; takes the
	// mark away where the bytes are there; and makes garbage of objects without a row.
	Repair bool
	// RowsOnly leaves out the search for objects without a row.
	RowsOnly bool
	// Rate is how many objects are asked for in a second, 0 for no limit.
	Rate float64
	// HashRate is how many bytes are read in a second, 0 for no limit.
	HashRate float64
	// Grace is how old an object without a row has to be; 0 means Options.Grace.
	Grace time.Duration
	// Progress hears of it now and then; nil for nobody.
	Progress func(CheckReport)
}

// The kinds of problems that a check finds.
const (
	ProblemMissing  = "missing"  // a blob's object is not there
	ProblemDamaged  = "damaged"  // a blob's object has another size or digest
	ProblemFound    = "found"    // a blob is marked as missing, but its object is there
	ProblemOrphan   = "orphan"   // an object that no row points to
	ProblemManifest = "manifest" // a manifest's bytes have another digest
	ProblemQueue    = "queue"    // things that nothing refers to, in no queue of the collector
)

// Problem is something that does not fit.
type Problem struct {
	Kind         string        `json:"kind"`
	Digest       digest.Digest `json:"digest,omitempty"`
	Key          string        `json:"key,omitempty"` // of the object
	Size         int64         `json:"size,omitempty"`
	Repositories []string      `json:"repositories,omitempty"` // some that have the blob
	Detail       string        `json:"detail"`
	// Repaired: the row or the object is dealt with. Missing bytes are still missing, until somebody pushes them.
	Repaired bool `json:"repaired"`
}

// CheckReport is what a check found. Its JSON is part of the notes of jobs.
type CheckReport struct {
	StartedAt  time.Time `json:"started_at"`
	FinishedAt time.Time `json:"finished_at"`
	Blobs      int64     `json:"blobs"`      // rows that were compared with their objects
	Objects    int64     `json:"objects"`    // objects that were compared with the rows
	Manifests  int64     `json:"manifests"`  // that were hashed
	Bytes      int64     `json:"bytes_read"` // of objects
	// Found counts the problems by their kind; Problems has the first ten thousand.
	Found    map[string]int64 `json:"found"`
	Problems []Problem        `json:"problems"`
	// Open counts the problems that are still there: not repaired, or bytes that only a push brings back.
	Open int64 `json:"open"`
	// Progress is in bytes when objects are read, else in rows and objects.
	Progress jobs.Progress `json:"progress"`
}

// MaxProblems bounds the list of a report.
const MaxProblems = 10_000

func (c *CheckReport) add(p Problem) {
	c.Found[p.Kind]++
	if !p.Repaired || p.Kind == ProblemMissing || p.Kind == ProblemDamaged {
		c.Open++
	}
	if len(c.Problems) < MaxProblems {
		c.Problems = append(c.Problems, p)
	}
}

// Noted is a copy for a job's note: it has the first thousand problems, and does not
// change when the check goes on.
func (c CheckReport) Noted() CheckReport {
	found := maps.Clone(c.Found)
	if found == nil {
		found = map[string]int64{}
	}
	c.Found, c.Problems = found, FirstProblems(c.Problems)
	return c
}

// Check compares the rows of blobs with the objects of the store, in both
// directions. Pushes, pulls and the collector go on meanwhile: what they change is looked at again before it
// counts as a problem. An error means that the check could not go on; the report beside it is of what was done.
func (c *Collector) Check(ctx context.Context, run CheckRun) (CheckReport, error) {
	if run.Grace == 0 {
		run.Grace = c.o.Grace
	}
	k := &check{collector: c, run: run, told: time.Now(), objects: jobs.NewPace(run.Rate), bytes: jobs.NewPace(run.HashRate)}
	k.report = CheckReport{StartedAt: c.o.Clock().UTC(), Found: map[string]int64{}, Problems: []Problem{}}
	for _, step := range []func(context.Context) error{k.suspicions, k.blobs, k.walk, k.manifests, k.queues} {
		if err := step(ctx); err != nil {
			return k.report, err
		}
	}
	k.report.FinishedAt = c.o.Clock().UTC()
	return k.report, nil
}

// check is a check that is under way.
type check struct {
	collector *Collector
	run       CheckRun
	report    CheckReport
	objects   *jobs.Pace
	bytes     *jobs.Pace
	told      time.Time

	suspects map[digest.Digest]bool // blobs that pulls have got wrong
}

// progress counts rows and objects that were compared and the bytes of those that were to be read, and tells how far it is.
func (k *check) progress(items, bytes int64) {
	if k.run.Rehash {
		k.report.Progress.Add(bytes)
	} else {
		k.report.Progress.Add(items)
	}
	if k.run.Progress != nil && time.Since(k.told) > time.Second {
		k.told = time.Now()
		k.run.Progress(k.report)
	}
}

// Rows that are read at a time.
const (
	checkBatch     = 256
	checkManifests = 16
)

// maxSuspects bounds the suspects of one check.
const maxSuspects = 10_000

// suspicions reads which blobs have to be read in any case.
func (k *check) suspicions(ctx context.Context) error {
	k.suspects = map[digest.Digest]bool{}
	return k.collector.db.View(ctx, func(tx *metadata.Tx) error {
		suspects, err := tx.Suspects(ctx, maxSuspects)
		for _, d := range suspects {
			k.suspects[d] = true
		}
		return err
	})
}

// cleared takes the note about a suspect away, which is right, or marked.
func (k *check) cleared(ctx context.Context, d digest.Digest) error {
	return k.collector.db.UpdateRelaxed(ctx, func(tx *metadata.Tx) error { return tx.ClearSuspect(ctx, d) })
}

// blobs looks for the object of every blob.
func (k *check) blobs(ctx context.Context) (err error) {
	switch {
	case k.run.Rehash:
		k.report.Progress, err = jobs.BytesOf(ctx, k.collector.db)
	case k.run.RowsOnly:
		k.report.Progress, err = jobs.ItemsOf(ctx, k.collector.db, 1)
	default: // the row of each, and then its object
		k.report.Progress, err = jobs.ItemsOf(ctx, k.collector.db, 2)
	}
	if err != nil {
		return err
	}
	var after digest.Digest
	for {
		var page []metadata.StoredBlob
		err := k.collector.db.View(ctx, func(tx *metadata.Tx) (err error) {
			page, err = tx.BlobsAfter(ctx, after, checkBatch)
			return err
		})
		if err != nil || len(page) == 0 {
			return err
		}
		for _, b := range page {
			if err := k.objects.Wait(ctx, 1); err != nil {
				return err
			}
			kind, detail, err := k.object(ctx, b)
			if Unreadable(ctx, k.collector.store, err) {
				kind, detail, err = ProblemDamaged, "the object cannot be read: "+err.Error(), nil
			}
			if err == nil && (kind != "" || b.MissingSince != nil) {
				err = k.blob(ctx, b, kind, detail)
			}
			if err == nil && (kind == "" || k.run.Repair) && k.suspects[b.Digest] {
				err = k.cleared(ctx, b.Digest)
			}
			if err != nil {
				return fmt.Errorf("checking the blob %s: %w", b.Digest, err)
			}
			k.report.Blobs++
			k.progress(1, b.Size)
		}
		after = page[len(page)-1].Digest
	}
}

// Unreadable reports whether reading an object has failed for that object alone: the disk cannot
// read its bytes any more (EIO), and the store is in order otherwise.
func Unreadable(ctx context.Context, store storage.Store, err error) bool {
	return errors.Is(err, syscall.EIO) && store.Ping(ctx) == nil && store.Writable(ctx) == nil
}

// object compares an object with its row; no kind means that it is right.
func (k *check) object(ctx context.Context, b metadata.StoredBlob) (kind, detail string, err error) {
	info, err := k.collector.store.Stat(ctx, b.Key)
	switch {
	case errors.Is(err, storage.ErrNotFound):
		return ProblemMissing, "the store has no such object", nil
	case err != nil:
		return "", "", err
	case info.Size != b.Size:
		return ProblemDamaged, fmt.Sprintf("the object has %d bytes, the row says %d", info.Size, b.Size), nil
	case !k.run.Rehash && !k.suspects[b.Digest]:
		return "", "", nil
	}
	rc, err := k.collector.store.Open(ctx, b.Key, 0, -1)
	if errors.Is(err, storage.ErrNotFound) {
		return ProblemMissing, "the store has no such object", nil
	}
	if err != nil {
		return "", "", err
	}
	defer rc.Close()
	sum := b.Digest.Algorithm().Digester()
	n, err := io.Copy(sum.Hash(), k.bytes.Reader(ctx, rc))
	k.report.Bytes += n
	if err != nil {
		return "", "", err
	}
	if got := sum.Digest(); got != b.Digest {
		return ProblemDamaged, "the object's bytes have the digest " + got.String(), nil
	}
	return "", "", nil
}

// blob notes what is wrong with a blob, if it still has the same bytes.
func (k *check) blob(ctx context.Context, b metadata.StoredBlob, kind, detail string) error {
	p := Problem{Kind: kind, Digest: b.Digest, Key: b.Key, Size: b.Size, Detail: detail}
	same := false
	err := k.collector.db.View(ctx, func(tx *metadata.Tx) error {
		now, ok, err := tx.StoredBlob(ctx, b.Digest)
		if same = err == nil && ok && now.Key == b.Key; same {
			p.Repositories, err = tx.BlobRepositories(ctx, b.Digest, 10)
		}
		return err
	})
	if err != nil || !same { // collected or pushed again meanwhile
		return err
	}
	repair := (*metadata.Tx).MarkMissing
	switch {
	case kind == "":
		p.Kind, p.Detail, repair = ProblemFound, "marked as missing, but the object is there", (*metadata.Tx).MarkFound
	case b.MissingSince != nil:
		p.Detail += fmt.Sprintf("; marked since %s, push it again", b.MissingSince.Format(time.RFC3339))
		p.Repaired = true
	}
	if k.run.Repair && !p.Repaired {
		err := k.collector.db.Update(ctx, func(tx *metadata.Tx) (err error) {
			p.Repaired, err = repair(tx, ctx, b.Digest, b.Key)
			return err
		})
		if err != nil {
			return err
		}
	}
	k.report.add(p)
	return nil
}

// uploadRE finds the upload's id in a key, which the store has put there.
var uploadRE = regexp.MustCompile(`[0-9a-f]{32}`)

// UploadOf is the id of the upload that an object came by, which the store has put into its key; "" for an object of others.
func UploadOf(key string) string { return uploadRE.FindString(key) }

func objectName(key string) metadata.ObjectName {
	return metadata.ObjectName{Key: key, Upload: UploadOf(key)}
}

// walk looks for the row of every object.
func (k *check) walk(ctx context.Context) error {
	if k.run.RowsOnly {
		return nil
	}
	var batch []storage.Info
	for info, err := range k.collector.store.Walk(ctx) {
		if err != nil {
			return fmt.Errorf("listing the store: %w", err)
		}
		if err := k.objects.Wait(ctx, 0.1); err != nil { // a list is cheaper than a look at each
			return err
		}
		if batch = append(batch, info); len(batch) == checkBatch {
			if err := k.known(ctx, batch); err != nil {
				return err
			}
			batch = batch[:0]
		}
	}
	return k.known(ctx, batch)
}

func (k *check) known(ctx context.Context, batch []storage.Info) error {
	names := make([]metadata.ObjectName, len(batch))
	for i, info := range batch {
		names[i] = objectName(info.Key)
	}
	var known map[metadata.ObjectName]bool
	err := k.collector.db.View(ctx, func(tx *metadata.Tx) (err error) {
		known, err = tx.KnownObjects(ctx, names)
		return err
	})
	if err != nil {
		return err
	}
	k.report.Objects += int64(len(batch))
	k.progress(int64(len(batch)), 0)
	var aborting map[string]bool // uploads whose sessions wait to be aborted
	for i, n := range names {
		if known[n] || k.collector.o.Clock().Sub(batch[i].ModTime) < k.run.Grace {
			continue
		}
		if aborting == nil {
			if aborting, err = k.aborting(ctx); err != nil {
				return err
			}
		}
		if aborting[n.Upload] {
			continue
		}
		p := Problem{Kind: ProblemOrphan, Key: n.Key, Size: batch[i].Size,
			Detail: "no row points to the object, of " + batch[i].ModTime.UTC().Format(time.RFC3339)}
		if k.run.Repair {
			err := k.collector.db.Update(ctx, func(tx *metadata.Tx) (err error) {
				p.Repaired, err = tx.EnqueueOrphan(ctx, n, p.Size)
				return err
			})
			if err != nil {
				return fmt.Errorf("making garbage of the object %s: %w", n.Key, err)
			}
			if !p.Repaired { // a row points to it now
				continue
			}
		}
		k.report.add(p)
	}
	return nil
}

func (k *check) aborting(ctx context.Context) (map[string]bool, error) {
	uploads := map[string]bool{}
	err := k.collector.db.View(ctx, func(tx *metadata.Tx) error {
		sessions, err := tx.GarbageSessions(ctx)
		for _, s := range sessions {
			for _, id := range uploadRE.FindAllString(s, -1) {
				uploads[id] = true
			}
		}
		return err
	})
	return uploads, err
}

// manifests hashes every manifest's bytes.
func (k *check) manifests(ctx context.Context) error {
	if !k.run.Rehash {
		return nil
	}
	var after int64
	for {
		var page []metadata.StoredManifest
		err := k.collector.db.View(ctx, func(tx *metadata.Tx) (err error) {
			page, err = tx.ManifestsAfter(ctx, after, checkManifests)
			return err
		})
		if err != nil || len(page) == 0 {
			return err
		}
		for _, m := range page {
			if err := k.bytes.Wait(ctx, float64(len(m.Payload))); err != nil {
				return err
			}
			if got := m.Digest.Algorithm().FromBytes(m.Payload); got != m.Digest {
				k.report.add(Problem{Kind: ProblemManifest, Digest: m.Digest, Size: int64(len(m.Payload)), Repositories: []string{m.Repository},
					Detail: "the manifest's bytes have the digest " + got.String() + ": restore it from a backup, or delete and push it again"})
			}
			k.report.Manifests++
			after = m.ID
		}
		k.progress(0, 0)
	}
}

// queues looks for what the collector would never see. Only a repair asks, for it writes what it finds.
func (k *check) queues(ctx context.Context) error {
	if !k.run.Repair {
		return nil
	}
	var n int64
	err := k.collector.db.Update(ctx, func(tx *metadata.Tx) (err error) {
		n, err = tx.EnqueueForgotten(ctx)
		return err
	})
	if err == nil && n > 0 {
		k.report.add(Problem{Kind: ProblemQueue, Repaired: true,
			Detail: fmt.Sprintf("%d unreferenced rows were in no queue of the collector; somebody has changed the database without its triggers", n)})
	}
	return err
}

// maxNoted bounds the problems in a job's note, which is written every few seconds.
const maxNoted = 1000

// FirstProblems is a copy of the first thousand, for a job's note. It does not change when the list grows.
func FirstProblems(problems []Problem) []Problem {
	return append([]Problem{}, problems[:min(len(problems), maxNoted)]...)
}
