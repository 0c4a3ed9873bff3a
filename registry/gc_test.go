package registry

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"berth/metadata"
	"berth/oci"
	"berth/registry/collect"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// age makes everything in the collector's queues older. Their clock is the
// database's, which no test can set.
func (e *env) age(d time.Duration) {
	e.Helper()
	for _, column := range [][2]string{{"gc_manifests", "enqueued_at"}, {"gc_links", "enqueued_at"}, {"gc_blobs", "enqueued_at"},
		{"deleted_manifests", "deleted_at"}, {"deleted_tags", "deleted_at"}} {
		_, err := e.raw.ExecContext(e.ctx, `UPDATE `+column[0]+` SET `+column[1]+` = `+column[1]+` - $1`, d.Microseconds())
		e.ok(err)
	}
	_, err := e.raw.ExecContext(e.ctx, `UPDATE gc_manifests SET release_at = release_at - $1 WHERE release_at < 9223372036854775807`, d.Microseconds())
	e.ok(err)
	e.clock.Add(d)
}

// collect runs the jobs as a server does, until there is nothing to do.
func (e *env) collect(r *Registry) {
	e.Helper()
	for {
		n, err := collecting(r).CollectUnreferenced(e.ctx)
		e.ok(err)
		m, err := collecting(r).CollectGarbage(e.ctx)
		e.ok(err)
		if n+m == 0 {
			return
		}
	}
}

// queued counts what waits, without manifests that only the policy keeps.
func (e *env) queued() (n int64) {
	e.Helper()
	queues, err := collecting(e.r).Queues(e.ctx)
	e.ok(err)
	for _, q := range queues {
		if q.Name != "untagged" {
			n += q.Length
		}
	}
	return n
}

// gone checks that a repository has a manifest or blob no longer, and there checks the opposite.
func (e *env) gone(repo string, digests ...digest.Digest) {
	e.Helper()
	for _, d := range digests {
		if e.has(repo, d) {
			e.Errorf("%s still has %s", repo, d)
		}
	}
}

func (e *env) there(repo string, digests ...digest.Digest) {
	e.Helper()
	for _, d := range digests {
		if !e.has(repo, d) {
			e.Errorf("%s has lost %s", repo, d)
		}
	}
}

func (e *env) has(repo string, d digest.Digest) bool {
	e.Helper()
	if _, err := e.r.HeadManifest(e.ctx, repo, digested(d)); err == nil {
		return true
	} else if !errors.Is(err, oci.ErrManifestUnknown) && !errors.Is(err, oci.ErrNameUnknown) {
		e.Fatal(err)
	}
	_, err := e.r.Blob(e.ctx, repo, d)
	if errors.Is(err, oci.ErrBlobUnknown) {
		return false
	}
	e.ok(err)
	e.read(e.r, repo, d)
	return true
}

const day = 24 * time.Hour

// A blob waits a day for its manifest. A second push of it, or a mount, begins
// the day anew; and one that another repository needs keeps its bytes.
func TestGCBlobs(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		alone := e.push(e.r, repo, []byte("alone"))
		again := e.push(e.r, repo, []byte("again"))
		shared := e.push(e.r, repo, []byte("shared"))
		e.age(day - time.Minute)
		e.collect(e.r)
		e.there(repo, alone, again, shared)

		e.push(e.r, repo, []byte("again"))
		ok, err := e.r.MountBlob(e.ctx, as(alice), "team/other", shared, repo)
		if !ok || err != nil {
			t.Fatal(ok, err)
		}
		e.age(time.Hour)
		e.collect(e.r)
		e.gone(repo, alone, shared)
		e.there(repo, again)
		e.there("team/other", shared)
		if len(e.keys()) != 2 {
			t.Errorf("objects %v", e.keys())
		}

		e.ok(e.r.DeleteBlob(e.ctx, as(alice), "team/other", shared))
		e.age(day)
		e.collect(e.r)
		if keys := e.keys(); len(keys) > 0 || e.queued() > 0 {
			t.Errorf("objects %v, %d in queues", keys, e.queued())
		}
		e.push(e.r, repo, []byte("alone"))
		e.there(repo, alone)
		e.settled()
	})
}

// A deleted image goes a day later, apart from what other images have; what is
// alive leaves the queues.
func TestGCImages(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		layer := []byte("a layer of both")
		withLayer := func(m *v1.Manifest) {
			m.Layers = append(m.Layers, v1.Descriptor{MediaType: v1.MediaTypeImageLayerGzip, Digest: e.push(e.r, repo, layer), Size: int64(len(layer))})
		}
		one := e.image(e.r, repo, "one", withLayer)
		two := e.image(e.r, repo, "two", withLayer)
		e.pushManifest(e.r, repo, tagged("one"), nil, v1.MediaTypeImageManifest, one)
		e.pushManifest(e.r, repo, tagged("two"), nil, v1.MediaTypeImageManifest, two)
		e.age(day)
		e.collect(e.r)
		if n := e.queued(); n != 0 {
			t.Errorf("%d in queues of what is alive", n)
		}
		objects := len(e.keys())
		oneConfig, twoConfig := digest.FromString(`{"name":"one"}`), digest.FromString(`{"name":"two"}`)
		e.there(repo, digest.FromBytes(one), digest.FromBytes(two), oneConfig, twoConfig, digest.FromBytes(layer))

		_, err := e.r.DeleteManifest(e.ctx, as(alice), repo, digest.FromBytes(one))
		e.ok(err)
		e.collect(e.r)
		e.there(repo, oneConfig)
		e.age(day)
		e.collect(e.r)
		e.gone(repo, oneConfig, digest.FromString("layer of one"))
		e.there(repo, digest.FromBytes(two), twoConfig, digest.FromString("layer of two"), digest.FromBytes(layer))
		if n := len(e.keys()); n != objects-2 {
			t.Errorf("%d objects, want %d", n, objects-2)
		}

		e.ok(e.replica().db.Update(e.ctx, func(tx *metadata.Tx) error { return tx.DeleteRepository(e.ctx, repo, as(alice).Audit) }))
		e.age(day)
		e.collect(e.r)
		if keys := e.keys(); len(keys) > 0 || e.queued() > 0 {
			t.Errorf("objects %v, %d in queues", keys, e.queued())
		}
	})
}

// graph is an index with two children, referrers at two levels, an untagged
// image, and a referrer whose subject was never pushed.
type graph struct {
	index, child1, child2, signature, sbom, untagged, orphan digest.Digest
}

func (e *env) graph() (g graph) {
	e.Helper()
	push := func(name string, change ...func(*v1.Manifest)) ([]byte, digest.Digest) {
		raw := e.image(e.r, repo, name, change...)
		d := digest.FromBytes(raw)
		e.pushManifest(e.r, repo, digested(d), nil, v1.MediaTypeImageManifest, raw)
		return raw, d
	}
	raw1, child1 := push("child1")
	raw2, child2 := push("child2")
	index := v1.Index{MediaType: v1.MediaTypeImageIndex, Manifests: []v1.Descriptor{desc(v1.MediaTypeImageManifest, raw1), desc(v1.MediaTypeImageManifest, raw2)}}
	index.SchemaVersion = 2
	raw := e.marshal(index)
	g.index, g.child1, g.child2 = digest.FromBytes(raw), child1, child2
	_, g.signature = push("signature", subject(g.index))
	_, g.sbom = push("sbom", subject(g.signature))
	_, g.untagged = push("untagged")
	_, g.orphan = push("orphan", subject(digest.FromString("nothing")))
	e.pushManifest(e.r, repo, tagged("latest"), nil, v1.MediaTypeImageIndex, raw)
	return g
}

func TestGCManifests(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		g := e.graph()
		e.age(30 * day)
		e.collect(e.r)
		e.there(repo, g.index, g.child1, g.child2, g.signature, g.sbom, g.untagged, g.orphan)

		// The default keeps what has no tag. Referrers go with their subject all
		// the same, one after the other, each after its own day.
		_, err := e.r.DeleteManifest(e.ctx, as(alice), repo, g.index)
		e.ok(err)
		e.age(day)
		e.collect(e.r)
		e.gone(repo, g.index, g.signature)
		e.there(repo, g.child1, g.child2, g.sbom, g.untagged, g.orphan)
		e.age(day)
		e.collect(e.r)
		e.gone(repo, g.sbom)
		e.age(30 * day)
		e.collect(e.r)
		e.there(repo, g.child1, g.child2, g.untagged, g.orphan)

		// A policy that comes later finds what it did not allow before. What was tagged since stays.
		e.ok(e.r.db.Update(e.ctx, func(tx *metadata.Tx) error {
			r, err := tx.Repository(e.ctx, repo)
			if err == nil {
				_, err = tx.PutTag(e.ctx, r.ID, "kept", g.child1, as(alice).Audit)
			}
			return err
		}))
		e.o.UntaggedTTL = 20 * day
		e.collect(e.replica())
		e.there(repo, g.child1)
		e.gone(repo, g.child2, g.untagged, g.orphan)
		e.ok(e.r.DeleteTag(e.ctx, as(alice), repo, "kept"))
		e.age(19 * day)
		e.collect(e.replica())
		e.there(repo, g.child1)
		e.age(day)
		e.collect(e.replica())
		e.age(day)
		e.collect(e.replica())
		e.gone(repo, g.child1)
		if keys := e.keys(); len(keys) > 0 || e.queued() > 0 {
			t.Errorf("objects %v, %d in queues", keys, e.queued())
		}
	})
}

// With a lifetime for untagged manifests, what hangs on a tag stays, and goes when the tag moves.
func TestGCUntagged(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		e.o.UntaggedTTL = day
		r := e.replica()
		g := e.graph()
		e.age(day)
		e.collect(r)
		e.there(repo, g.index, g.child1, g.child2, g.signature, g.sbom)
		e.gone(repo, g.untagged, g.orphan)

		// A push by digest of what is there already is a new push.
		raw, err := r.Manifest(e.ctx, repo, digested(g.child2))
		e.ok(err)
		e.pushManifest(r, repo, tagged("latest"), nil, v1.MediaTypeImageManifest, e.image(r, repo, "next"))
		e.age(day)
		e.pushManifest(r, repo, digested(g.child2), nil, v1.MediaTypeImageManifest, raw.Payload)
		e.collect(r)
		e.gone(repo, g.index)
		e.there(repo, g.child1, g.child2, g.signature) // each has its own day, from its index's or subject's end
		e.age(day)
		e.collect(r)
		e.gone(repo, g.child1, g.child2, g.signature)
		e.age(day)
		e.collect(r)
		e.age(day)
		e.collect(r)
		e.gone(repo, g.sbom)
		if n := len(e.keys()); n != 2 || e.queued() > 0 {
			t.Errorf("%d objects, %d in queues", n, e.queued())
		}
	})
}

// A dry run says exactly what goes, and changes nothing.
func TestGCDryRun(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		e.graph()
		e.push(e.r, "team/other", []byte("left over"))
		e.ok(e.r.DeleteTag(e.ctx, as(alice), repo, "latest"))
		state := func() []string {
			return append(e.strings(`SELECT digest FROM manifests UNION ALL SELECT digest FROM repository_blobs UNION ALL SELECT storage_key FROM blobs
				UNION ALL SELECT 'q' || digest FROM gc_links UNION ALL SELECT value FROM garbage UNION ALL SELECT reason FROM gc_manifests ORDER BY 1`), e.keys()...)
		}
		before := state()
		for _, run := range []collect.Run{{Grace: time.Hour}, {UntaggedTTL: time.Nanosecond}} {
			dry, err := collecting(e.r).DryRun(e.ctx, run)
			e.ok(err)
			if after := state(); !slices.Equal(after, before) {
				t.Errorf("a dry run has changed %v to %v", before, after)
			}
			steps := 0
			run.Progress = func(collect.Report) { steps++ }
			real, err := collecting(e.r).Collect(e.ctx, run)
			e.ok(err)
			if run.Grace > 0 {
				if len(dry.Items) > 0 || real.Manifests+real.Links+real.Blobs+real.Objects > 0 {
					t.Errorf("within the grace period: %+v, %+v", dry, real)
				}
				continue
			}
			if dry.Manifests != 7 || dry.Links != 13 || dry.Blobs != 13 || len(dry.Items) != 33 || dry.Truncated ||
				real.Manifests != dry.Manifests || real.Links != dry.Links || real.Blobs != dry.Blobs || real.BlobBytes != dry.BlobBytes ||
				real.Freed != dry.BlobBytes || real.Freed == 0 || real.Objects < 13 || steps < 4 {
				t.Errorf("the dry run says %+v, the run %+v in %d steps", dry, real, steps)
			}
		}
		if keys := e.keys(); len(keys) > 0 || e.queued() > 0 {
			t.Errorf("objects %v, %d in queues", keys, e.queued())
		}
	})
}

// A dry run waits for no writer, and no writer for it: it reads what was committed when it began.
func TestGCDryRunOnlyReads(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		e.graph()
		e.ok(e.r.DeleteTag(e.ctx, as(alice), repo, "latest"))
		run := collect.Run{UntaggedTTL: time.Nanosecond}
		before, err := collecting(e.r).DryRun(e.ctx, run)
		e.ok(err)
		e.ok(e.openDB().Update(e.ctx, func(tx *metadata.Tx) error { // SQLite has one writer, and this is it
			if err := tx.PutNote(e.ctx, "writer", "busy", time.Hour); err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(e.ctx, time.Minute)
			defer cancel()
			dry, err := collecting(e.r).DryRun(ctx, run)
			if err == nil && (dry.Manifests == 0 || dry.Manifests != before.Manifests || dry.Links != before.Links || dry.Blobs != before.Blobs) {
				t.Errorf("the dry run says %+v, before %+v", dry, before)
			}
			return err
		}))
	})
}

// What a dry run says goes, of any history of pushes and deletions, under any rules, and nothing else.
func TestGCDryRunIsExact(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		e.graph()
		e.push(e.r, "team/other", []byte("left over"))
		for i, run := range []collect.Run{
			{Grace: time.Hour, UntaggedTTL: time.Nanosecond},
			{UndoWindow: time.Hour, UntaggedTTL: time.Nanosecond},
			{UntaggedTTL: time.Hour},
			{},
			{UntaggedTTL: time.Nanosecond},
		} {
			e.pushManifest(e.r, repo, tagged("again"), nil, v1.MediaTypeImageManifest, e.image(e.r, repo, fmt.Sprint("run ", i)))
			raw := e.image(e.r, repo, fmt.Sprint("deleted ", i))
			e.pushManifest(e.r, repo, tagged(fmt.Sprint("d", i)), nil, v1.MediaTypeImageManifest, raw)
			_, err := e.r.DeleteManifest(e.ctx, as(alice), repo, digest.FromBytes(raw))
			e.ok(err)
			e.ok(e.r.DeleteTag(e.ctx, as(alice), repo, "again"))
			if i == 3 {
				e.ok(e.r.DeleteTag(e.ctx, as(alice), repo, "latest"))
			}
			dry, err := collecting(e.r).DryRun(e.ctx, run)
			e.ok(err)
			said := map[string]bool{}
			for _, c := range dry.Items {
				said[c.Kind+" "+c.Repository+" "+string(c.Digest)] = true
			}
			var missed []string
			before := e.strings(collectable)
			_, err = collecting(e.r).Collect(e.ctx, run)
			e.ok(err)
			after := e.strings(collectable)
			for _, thing := range before {
				if !slices.Contains(after, thing) && !said[thing] {
					missed = append(missed, thing)
				}
				if said[thing] && slices.Contains(after, thing) {
					t.Errorf("run %d: %s was to go and is there", i, thing)
				}
				delete(said, thing)
			}
			if len(missed) > 0 || len(said) > 0 {
				t.Errorf("run %d: %v went without a word; said and not there at all: %v", i, missed, said)
			}
		}
	})
}

// collectable is what the collector may take away, as "kind repository digest".
const collectable = `
	SELECT 'manifest ' || r.name || ' ' || m.digest FROM manifests m JOIN repositories r ON r.id = m.repository_id
	 UNION ALL SELECT 'link ' || r.name || ' ' || l.digest FROM repository_blobs l JOIN repositories r ON r.id = l.repository_id
	 UNION ALL SELECT 'blob  ' || digest FROM blobs`
