package registry

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"berth/metadata"
	"berth/oci"
	"berth/registry/collect"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// withUndo is an environment whose deletions can be undone for a day.
func withUndo(t *testing.T, f func(t *testing.T, e *env)) {
	onEach(t, func(t *testing.T, e *env) {
		e.o.UndoWindow = day
		e.o.UntaggedTTL = time.Hour
		e.r = e.replica()
		f(t, e)
	})
}

func (e *env) restore(tag string, d digest.Digest) metadata.Restored {
	e.Helper()
	restored, err := e.r.Restore(e.ctx, as(bob), repo, tag, d)
	e.ok(err)
	return restored
}

// A deleted tag keeps its image, and can be restored, until the undo window is
// over; then both go.
func TestRestoreTag(t *testing.T) {
	withUndo(t, func(t *testing.T, e *env) {
		raw := e.image(e.r, repo, "one")
		d := digest.FromBytes(raw)
		config := digest.FromString(`{"name":"one"}`)
		e.pushManifest(e.r, repo, tagged("1"), nil, v1.MediaTypeImageManifest, raw)
		e.ok(e.r.DeleteTag(e.ctx, as(alice), repo, "1"))
		e.age(day - time.Minute)
		e.collect(e.r)
		e.there(repo, d, config)
		deleted := e.strings(`SELECT name || ' ' || digest || ' ' || deleted_by FROM deleted_tags`)
		if want := "1 " + d.String() + " " + alice; !slices.Equal(deleted, []string{want}) {
			t.Errorf("deleted %v, want %s", deleted, want)
		}
		if r := e.restore("1", ""); r.Digest != d || r.Manifest || !slices.Equal(r.Tags, []string{"1"}) {
			t.Errorf("restored %+v", r)
		}
		e.age(30 * day)
		e.collect(e.r)
		e.there(repo, d, config)
		history := e.strings(`SELECT action || ' ' || actor FROM tag_history ORDER BY id`)
		if want := "create alice, delete alice, create bob"; strings.Join(history, ", ") != want {
			t.Errorf("the history is %v, want %s", history, want)
		}
		_, err := e.r.Restore(e.ctx, as(bob), repo, "1", "")
		e.is(err, oci.ErrNotFound)

		e.ok(e.r.DeleteTag(e.ctx, as(alice), repo, "1"))
		e.age(day)
		e.collect(e.r)
		e.gone(repo, d)
		_, err = e.r.Restore(e.ctx, as(bob), repo, "1", "")
		e.is(err, oci.ErrNotFound)
		_, err = e.r.Restore(e.ctx, as(bob), repo, "", d)
		e.is(err, oci.ErrNotFound)
		_, err = e.r.Restore(e.ctx, as(bob), "team/nowhere", "1", "")
		e.is(err, oci.ErrNameUnknown)
		e.age(day) // the blobs have theirs
		e.collect(e.r)
		if keys := e.keys(); len(keys) > 0 || e.queued() > 0 {
			t.Errorf("objects %v, %d in queues", keys, e.queued())
		}
	})
}

// A deleted manifest comes back with its tags, and finds its blobs, children
// and referrers as they were.
func TestRestoreManifest(t *testing.T) {
	withUndo(t, func(t *testing.T, e *env) {
		g := e.graph()
		e.ok(e.r.db.Update(e.ctx, func(tx *metadata.Tx) error {
			r, err := tx.Repository(e.ctx, repo)
			if err == nil {
				_, err = tx.PutTag(e.ctx, r.ID, "2.0", g.index, as(alice).Audit)
			}
			return err
		}))
		before, err := e.r.Manifest(e.ctx, repo, digested(g.index))
		e.ok(err)
		_, err = e.r.DeleteManifest(e.ctx, as(alice), repo, g.index)
		e.ok(err)
		e.age(day - time.Minute)
		e.collect(e.r)
		e.there(repo, g.child1, g.child2, g.signature, g.sbom, digest.FromString(`{"name":"child1"}`))
		e.gone(repo, g.index)
		r := e.restore("", g.index)
		if !r.Manifest || !slices.Equal(r.Tags, []string{"2.0", "latest"}) || len(r.Taken) > 0 {
			t.Errorf("restored %+v", r)
		}
		after, err := e.r.Manifest(e.ctx, repo, tagged("2.0"))
		e.ok(err)
		if after.Digest != g.index || !bytes.Equal(before.Payload, after.Payload) || !before.CreatedAt.Equal(after.CreatedAt) {
			t.Errorf("%+v was restored as %+v", before, after)
		}
		page, _, err := e.r.Referrers(e.ctx, repo, g.index, "", "", 10)
		e.ok(err)
		if len(page) != 1 || page[0].Digest != g.signature {
			t.Errorf("referrers %v", page)
		}
		e.age(30 * day)
		e.collect(e.r)
		e.there(repo, g.index, g.child1, g.child2, g.signature, g.sbom)

		// By its tag too; and a name that was pushed again is left alone.
		_, err = e.r.DeleteManifest(e.ctx, as(alice), repo, g.index)
		e.ok(err)
		e.pushManifest(e.r, repo, tagged("2.0"), nil, v1.MediaTypeImageManifest, e.image(e.r, repo, "another"))
		if r := e.restore("latest", ""); !r.Manifest || !slices.Equal(r.Tags, []string{"latest"}) {
			t.Errorf("restored %+v", r)
		}
		_, err = e.r.Restore(e.ctx, as(bob), repo, "2.0", "")
		e.is(err, oci.ErrConflict)
		_, err = e.r.DeleteManifest(e.ctx, as(alice), repo, g.index)
		e.ok(err)
		e.ok(e.r.DeleteTag(e.ctx, as(alice), repo, "2.0"))
		if r := e.restore("2.0", g.index); r.Digest != g.index || !r.Manifest {
			t.Errorf("restored %+v", r)
		}

		// An index whose child was deleted after it is refused as a whole.
		_, err = e.r.DeleteManifest(e.ctx, as(alice), repo, g.index)
		e.ok(err)
		_, err = e.r.DeleteManifest(e.ctx, as(alice), repo, g.child2)
		e.ok(err)
		_, err = e.r.Restore(e.ctx, as(bob), repo, "", g.index)
		e.is(err, oci.ErrConflict)
		if !strings.Contains(err.Error(), g.child2.String()) {
			t.Errorf("the error names no digest: %v", err)
		}
		e.gone(repo, g.index, g.child2)
		e.restore("", g.child2)
		e.restore("", g.index)

		// So is one whose blob was taken away on purpose.
		_, err = e.r.DeleteManifest(e.ctx, as(alice), repo, g.index)
		e.ok(err)
		_, err = e.r.DeleteManifest(e.ctx, as(alice), repo, g.child1)
		e.ok(err)
		config := digest.FromString(`{"name":"child1"}`)
		e.ok(e.r.DeleteBlob(e.ctx, as(alice), repo, config))
		_, err = e.r.Restore(e.ctx, as(bob), repo, "", g.child1)
		e.is(err, oci.ErrConflict)
		e.push(e.r, repo, []byte(`{"name":"child1"}`))
		e.restore("", g.child1)
		e.restore("", g.index)
		e.there(repo, g.index, g.child1, g.child2, g.signature)

		// Nothing outlives its repository.
		_, err = e.r.DeleteManifest(e.ctx, as(alice), repo, g.index)
		e.ok(err)
		e.ok(e.r.db.Update(e.ctx, func(tx *metadata.Tx) error { return tx.DeleteRepository(e.ctx, repo, as(alice).Audit) }))
		e.age(day)
		e.collect(e.r)
		if keys := e.keys(); len(keys) > 0 || e.queued() > 0 {
			t.Errorf("objects %v, %d in queues", keys, e.queued())
		}
		if left := e.strings(`SELECT digest FROM deleted_references`); len(left) > 0 {
			t.Errorf("left over: %v", left)
		}
	})
}

// Two who restore, one who pushes the tag anew, and a collector for whom the
// window is over meet: the image is whole or gone, never between.
func TestRestoreRace(t *testing.T) {
	withUndo(t, func(t *testing.T, e *env) {
		e.raced = true
		kept, lost := 0, 0
		for range 12 {
			raw := e.image(e.r, repo, "one")
			d := digest.FromBytes(raw)
			e.pushManifest(e.r, repo, tagged("1"), nil, v1.MediaTypeImageManifest, raw)
			_, err := e.r.DeleteManifest(e.ctx, as(alice), repo, d)
			e.ok(err)
			e.age(2 * day)
			start := make(chan struct{})
			var group sync.WaitGroup
			for range 2 {
				r := e.replica()
				group.Go(func() {
					<-start
					_, err := r.Restore(e.ctx, as(bob), repo, "1", "")
					if err != nil && !errors.Is(err, oci.ErrNotFound) && !errors.Is(err, oci.ErrConflict) {
						t.Error(err)
					}
				})
			}
			collector := e.replica()
			group.Go(func() {
				<-start
				if _, err := collecting(collector).Collect(e.ctx, collect.Run{Grace: day, UndoWindow: day, UntaggedTTL: day}); err != nil {
					t.Error(err)
				}
			})
			close(start)
			group.Wait()
			if m, err := e.r.HeadManifest(e.ctx, repo, tagged("1")); err == nil {
				kept++
				e.there(repo, m.Digest, digest.FromString(`{"name":"one"}`), digest.FromString("layer of one"))
				_, err := e.r.DeleteManifest(e.ctx, as(alice), repo, d)
				e.ok(err)
			} else {
				lost++
			}
			_, err = collecting(e.r).Collect(e.ctx, collect.Run{})
			e.ok(err)
			if left := e.strings(`SELECT digest FROM blobs UNION ALL SELECT digest FROM manifests`); len(left) > 0 || e.queued() > 0 {
				t.Fatalf("%d in queues, left over: %v", e.queued(), left)
			}
		}
		t.Logf("%d restored, %d collected", kept, lost)
		e.settled()
	})
}
