package registry

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"berth/metadata"
	"berth/oci"
	"berth/registry/collect"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// The bounds of collect.Why.
const (
	whyHolders   = 20
	whyDecisions = 200
)

func TestWhy(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		why := func(d digest.Digest) collect.Why {
			t.Helper()
			w, err := collecting(e.r).Why(e.ctx, d)
			e.ok(err)
			return w
		}
		g := e.graph()
		config := digest.FromString(`{"name":"child1"}`)
		ok, err := e.r.MountBlob(e.ctx, as(alice), "team/other", config, repo)
		if !ok || err != nil {
			t.Fatal(ok, err)
		}

		// A blob, up to the tag, and a repository that only has a link.
		w := why(config)
		if w.Blob == nil || w.Blob.Size != 17 || w.Blob.Fate != nil || w.Blob.Key == "" || len(w.Repositories) != 2 {
			t.Fatalf("%+v", w)
		}
		in := w.Repositories[0]
		if in.Name != repo || in.Linked == nil || in.Needed != 1 || len(in.Manifests) != 1 || in.Fate != nil || in.Manifest != nil {
			t.Fatalf("%+v", in)
		}
		if m := in.Manifests[0]; m.Digest != g.child1 || len(m.Tags) > 0 || m.Fate != nil || len(m.Indexes) != 1 || m.Indexes[0].Digest != g.index ||
			len(m.Indexes[0].Tags) != 1 || m.Indexes[0].Tags[0].Name != "latest" || m.Indexes[0].Tags[0].Mode != metadata.Mutable {
			t.Errorf("%+v", m)
		}
		in = w.Repositories[1]
		if f := in.Fate; in.Name != "team/other" || in.Needed != 0 || f == nil || f.Rule != "gc_grace" || f.After.Sub(*f.Since) != collect.DefaultGrace ||
			time.Since(*f.Since).Abs() > time.Minute {
			t.Errorf("%+v %+v", in, f)
		}

		// A referrer of a referrer hangs on the index's tag.
		in = why(g.sbom).Repositories[0]
		if m := in.Manifest; m == nil || m.Fate != nil || m.Subject == nil || m.Subject.Digest != g.signature || m.Subject.Subject.Digest != g.index ||
			len(m.Subject.Subject.Tags) != 1 || in.Linked != nil {
			t.Errorf("%+v", in)
		}

		// Rules: kept by policy, then by a lifetime; a referrer without its subject has only the grace period.
		if f := why(g.untagged).Repositories[0].Manifest.Fate; f == nil || f.Rule != "untagged_ttl" || f.After != nil || f.Reason != "pushed" || f.Since == nil {
			t.Errorf("%+v", f)
		}
		e.o.UntaggedTTL = 20 * day
		short := e.replica()
		other, err := collecting(short).Why(e.ctx, g.untagged)
		e.ok(err)
		if f := other.Repositories[0].Manifest.Fate; f == nil || f.After == nil || f.After.Sub(*f.Since) != 20*day {
			t.Errorf("%+v", f)
		}
		_, err = e.r.DeleteManifest(e.ctx, as(alice), repo, g.index)
		e.ok(err)
		if f := why(g.signature).Repositories[0].Manifest.Fate; f == nil || f.Rule != "gc_grace" || f.Reason != "subject" || f.After.Sub(*f.Since) != collect.DefaultGrace {
			t.Errorf("%+v", f)
		}
		if f := why(g.child1).Repositories[0].Manifest.Fate; f == nil || f.Reason != "index" || f.After != nil {
			t.Errorf("%+v", f)
		}

		// A blob that no repository has, and one that is collected but not removed yet.
		lone := e.push(e.r, repo, []byte("lone"))
		e.ok(e.r.DeleteBlob(e.ctx, as(alice), repo, lone))
		if w := why(lone); len(w.Repositories) > 0 || w.Blob.Fate == nil || w.Blob.Fate.After == nil {
			t.Errorf("%+v", w)
		}
		e.age(day)
		for n := 1; n > 0; {
			n, err = collecting(e.r).CollectUnreferenced(e.ctx)
			e.ok(err)
		}
		if w := why(lone); w.Blob != nil || len(w.Removals) != 1 || w.Removals[0].Size != 4 {
			t.Errorf("%+v", w)
		}
		e.collect(e.r)
		_, err = collecting(e.r).Why(e.ctx, lone)
		e.is(err, oci.ErrBlobUnknown)
	})
}

// What was deleted holds what it held until its undo window is over, and is
// named with that time; what has nothing else has no other fate till then.
func TestWhyUndo(t *testing.T) {
	withUndo(t, func(t *testing.T, e *env) {
		why := func(d digest.Digest) *collect.WhyRepository {
			t.Helper()
			w, err := collecting(e.r).Why(e.ctx, d)
			e.ok(err)
			if len(w.Repositories) != 1 || w.Repositories[0].Name != repo {
				t.Fatalf("%+v", w)
			}
			return w.Repositories[0]
		}
		holds := func(found []*collect.Deletion, as string, d digest.Digest) *collect.Deletion {
			t.Helper()
			if len(found) != 1 || found[0].As != as || found[0].Digest != d || found[0].DeletedBy != alice || found[0].Until.Sub(found[0].DeletedAt) != day {
				t.Fatalf("%+v is not the deleted %s %s alone", found, as, d)
			}
			return found[0]
		}
		g := e.graph()
		config := digest.FromString(`{"name":"child1"}`)

		// A tag.
		e.ok(e.r.DeleteTag(e.ctx, as(alice), repo, "latest"))
		m := why(config).Manifests[0].Indexes[0]
		if d := holds(m.Deleted, collect.DeletedTag, g.index); d.Tag != "latest" || m.Fate != nil || len(m.Tags) > 0 {
			t.Errorf("%+v %+v", m, d)
		}
		e.restore("latest", "")

		// An index and subject, with its tag; it says so of itself, too.
		_, err := e.r.DeleteManifest(e.ctx, as(alice), repo, g.index)
		e.ok(err)
		m = why(config).Manifests[0]
		if d := holds(m.Deleted, collect.DeletedIndex, g.index); m.Fate != nil || len(m.Indexes) > 0 || len(d.Tags) != 1 || d.Tags[0] != "latest" || d.MediaType != v1.MediaTypeImageIndex {
			t.Errorf("%+v %+v", m, d)
		}
		if m = why(g.sbom).Manifest.Subject; m.Fate != nil {
			t.Errorf("%+v", m)
		}
		holds(m.Deleted, collect.DeletedSubject, g.index)
		if in := why(g.index); in.Manifest != nil || in.Linked != nil {
			t.Errorf("%+v", in)
		} else {
			holds([]*collect.Deletion{in.DeletedManifest}, collect.DeletedManifest, g.index)
		}

		// The image itself: its blob is needed, and is no other's.
		_, err = e.r.DeleteManifest(e.ctx, as(alice), repo, g.child1)
		e.ok(err)
		in := why(config)
		holds(in.Deleted, collect.DeletedManifest, g.child1)
		if in.Fate != nil || len(in.Manifests) > 0 || in.Needed != 0 || in.Truncated {
			t.Errorf("%+v", in)
		}
		w, err := collecting(e.r).WhyVisible(e.ctx, g.index, func(context.Context, []string) ([]string, error) { return []string{repo}, nil })
		if err != nil || len(w.Repositories) != 1 || w.Repositories[0].DeletedManifest == nil {
			t.Errorf("%+v %v", w, err)
		}
		_, err = collecting(e.r).WhyVisible(e.ctx, g.index, func(context.Context, []string) ([]string, error) { return nil, nil })
		e.is(err, oci.ErrBlobUnknown)

		// Over, even when the collector did not come yet: it goes on from the deletion.
		_, err = e.raw.ExecContext(e.ctx, `DELETE FROM gc_links`) // a pass within the window drops what is held
		e.ok(err)
		_, err = e.raw.ExecContext(e.ctx, `DELETE FROM gc_manifests`)
		e.ok(err)
		e.age(day)
		if in := why(config); len(in.Deleted) > 0 || in.Fate == nil || in.Fate.Rule != "gc_grace" || in.Fate.Since == nil {
			t.Errorf("%+v %+v", in, in.Fate)
		}
		if m := why(g.child2).Manifest; len(m.Deleted) > 0 || m.Fate == nil || m.Fate.Since == nil || m.Fate.Reason != "index" {
			t.Errorf("%+v %+v", m, m.Fate)
		}
		_, err = collecting(e.r).Why(e.ctx, g.index)
		e.is(err, oci.ErrBlobUnknown)
	})
}

// A manifest that nothing holds has the lifetime of the nearest policy, and none when retention has let its tag go.
func TestWhyUntagged(t *testing.T) {
	withUndo(t, func(t *testing.T, e *env) {
		fate := func(d digest.Digest) *collect.Fate {
			t.Helper()
			w, err := collecting(e.r).Why(e.ctx, d)
			e.ok(err)
			f := w.Repositories[0].Manifest.Fate
			if f == nil || f.Since == nil {
				t.Fatalf("%+v", f)
			}
			return f
		}
		set := func(p metadata.RetentionPolicy) {
			t.Helper()
			e.ok(e.r.db.Update(e.ctx, func(tx *metadata.Tx) error { return tx.SetRepositoryRetention(e.ctx, repo, &p, alice) }))
		}
		raw := e.image(e.r, repo, "image")
		d := digest.FromBytes(raw)
		e.pushManifest(e.r, repo, digested(d), nil, v1.MediaTypeImageManifest, raw)
		if f := fate(d); f.Rule != "untagged_ttl" || f.Level != "" || f.After.Sub(*f.Since) != day {
			t.Errorf("%+v", f)
		}
		week, ever, none := 7*day, time.Duration(0), 0
		set(metadata.RetentionPolicy{UntaggedTTL: &week})
		if f := fate(d); f.Rule != "untagged_ttl" || f.Level != "repository" || f.After.Sub(*f.Since) != week {
			t.Errorf("%+v", f)
		}
		set(metadata.RetentionPolicy{UntaggedTTL: &ever, Rules: []metadata.RetentionRule{{Name: "all", Newest: &none, DeleteImmutable: true}}})
		if f := fate(d); f.Rule != "untagged_ttl" || f.Level != "repository" || f.After != nil {
			t.Errorf("%+v", f)
		}
		e.pushManifest(e.r, repo, tagged("1.0"), nil, v1.MediaTypeImageManifest, raw)
		if report, err := e.r.RunRetention(e.ctx, repo, RetentionLimit); err != nil || report.Deleted != 1 {
			t.Fatal(report, err)
		}
		e.age(day)
		for _, when := range []string{"before the collector came", "after that"} {
			if f := fate(d); f.Rule != "gc_grace" || f.After.Sub(*f.Since) != collect.DefaultGrace || f.Reason != "untagged" {
				t.Errorf("%s: %+v", when, f)
			}
			e.ok(e.r.db.Update(e.ctx, func(tx *metadata.Tx) error {
				_, err := tx.PurgeDeleted(e.ctx, day)
				return err
			}))
		}
	})
}

// However much was deleted, what is told of it is bounded, and says that there is more.
func TestWhyUndoBounds(t *testing.T) {
	withUndo(t, func(t *testing.T, e *env) {
		raw := e.image(e.r, repo, "many")
		d := digest.FromBytes(raw)
		for i := range whyHolders + 1 {
			tag := fmt.Sprintf("v%02d", i)
			e.pushManifest(e.r, repo, tagged(tag), nil, v1.MediaTypeImageManifest, raw)
			e.ok(e.r.DeleteTag(e.ctx, as(alice), repo, tag))
		}
		w, err := collecting(e.r).Why(e.ctx, d)
		e.ok(err)
		if m := w.Repositories[0].Manifest; len(m.Deleted) != whyHolders || !m.Truncated || m.Deleted[0].Tag != "v20" {
			t.Errorf("%d deleted, %+v", len(m.Deleted), m)
		}
		for i := range whyHolders + 1 {
			e.pushManifest(e.r, repo, tagged(fmt.Sprintf("v%02d", i)), nil, v1.MediaTypeImageManifest, raw)
		}
		_, err = e.r.DeleteManifest(e.ctx, as(alice), repo, d)
		e.ok(err)
		w, err = collecting(e.r).Why(e.ctx, d)
		e.ok(err)
		if m := w.Repositories[0].DeletedManifest; len(m.Tags) != whyHolders || !m.Truncated {
			t.Errorf("%+v", m)
		}
	})
}

// A tag is named with the rules that keep it or let it go, and when.
func TestWhyRetention(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		tag := func(d digest.Digest) collect.WhyTag {
			t.Helper()
			w, err := collecting(e.r).Why(e.ctx, d)
			e.ok(err)
			m := w.Repositories[0].Manifest
			if m == nil || len(m.Tags) != 1 || w.RulesTruncated {
				t.Fatalf("%+v", w)
			}
			return m.Tags[0]
		}
		e.policy(metadata.Mutable)
		old, young := e.tagAt(repo, "v1", "one", 3*day), e.tagAt(repo, "v2", "two", time.Hour)
		other := e.tagAt(repo, "dev-1", "three", time.Hour)
		if r := tag(old).Retention; r != nil {
			t.Errorf("without rules there is %+v", r)
		}
		one, none := 1, 0
		e.ok(e.r.db.Update(e.ctx, func(tx *metadata.Tx) error {
			if _, err := tx.CreateTeam(e.ctx, "team", ""); err != nil && !errors.Is(err, oci.ErrConflict) {
				return err
			}
			return tx.SetTeamRetention(e.ctx, "team", &metadata.RetentionPolicy{Rules: []metadata.RetentionRule{{Name: "nothing", Newest: &none}}}, alice)
		}))
		if r := tag(young).Retention; r == nil || r.Keep || r.Rule != "nothing" || r.Level != "team" || r.After == nil {
			t.Errorf("%+v", r)
		}
		e.retain(repo, metadata.RetentionRule{Name: "releases", Tags: []string{"v*"}, Newest: &one, YoungerThan: 2 * day})
		if r := tag(old).Retention; r == nil || r.Keep || r.Rule != "releases" || r.Level != "repository" || len(r.Reasons) != 2 ||
			r.After == nil || e.clock.Now().Sub(*r.After).Abs() > time.Minute {
			t.Errorf("%+v", r)
		}
		got := tag(young)
		if r := got.Retention; !r.Keep || r.Rule != "" || r.After != nil || len(r.Reasons) != 2 || r.Reasons[0].Until != nil ||
			r.Reasons[1].Until == nil || !r.Reasons[1].Until.Equal(got.UpdatedAt.Add(2*day)) {
			t.Errorf("%+v", r)
		}
		if r := tag(other).Retention; r.Keep || r.Rule != "unmatched" {
			t.Errorf("%+v", r)
		}

		// The next run is known; the tag it takes can then be restored.
		n, err := e.r.ApplyRetention(e.ctx, day)
		if err != nil || n == 0 {
			t.Fatal(n, err)
		}
		for n > 0 {
			n, err = e.r.ApplyRetention(e.ctx, day)
			e.ok(err)
		}
		again := e.tagAt(repo, "v0", "zero", 4*day)
		if r := tag(again).Retention; r.Keep || r.After == nil || r.After.Sub(e.clock.Now()) < day-time.Minute {
			t.Errorf("%+v", r)
		}
		e.o.UndoWindow = day
		w, err := collecting(e.replica()).Why(e.ctx, old)
		e.ok(err)
		if m := w.Repositories[0].Manifest; len(m.Deleted) != 1 || m.Deleted[0].DeletedBy != "retention:releases" || m.Fate != nil {
			t.Errorf("%+v", m)
		}

		// The rules of many tags are not all told, and it says so.
		base := []byte("base")
		for i := range whyDecisions/whyHolders + 1 {
			raw := e.image(e.r, repo, fmt.Sprint("base", i), func(m *v1.Manifest) {
				m.Layers = append(m.Layers, v1.Descriptor{MediaType: v1.MediaTypeImageLayerGzip, Digest: e.push(e.r, repo, base), Size: int64(len(base))})
			})
			e.pushManifest(e.r, repo, tagged(fmt.Sprintf("base%d", i)), nil, v1.MediaTypeImageManifest, raw)
			e.ok(e.r.db.Update(e.ctx, func(tx *metadata.Tx) error {
				r, err := tx.Repository(e.ctx, repo)
				for n := 0; err == nil && n < whyHolders; n++ {
					_, err = tx.PutTag(e.ctx, r.ID, fmt.Sprintf("base%d-%d", i, n), digest.FromBytes(raw), as(alice).Audit)
				}
				return err
			}))
		}
		w, err = collecting(e.r).Why(e.ctx, digest.FromBytes(base))
		e.ok(err)
		told := 0
		for _, m := range w.Repositories[0].Manifests {
			for _, tag := range m.Tags {
				if tag.Retention != nil {
					told++
				}
			}
		}
		if told != whyDecisions || !w.RulesTruncated {
			t.Errorf("the retention of %d tags is told, truncated %t", told, w.RulesTruncated)
		}
	})
}

func TestUsage(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		base := random(1000, 1)
		layer := func(m *v1.Manifest, repo string, data []byte) {
			m.Layers = append(m.Layers, v1.Descriptor{MediaType: v1.MediaTypeImageLayerGzip, Digest: e.push(e.r, repo, data), Size: int64(len(data))})
		}
		manifests := map[string]int64{}
		for _, repo := range []string{"a/one", "a/two", "b/one"} {
			raw := e.image(e.r, repo, repo, func(m *v1.Manifest) { layer(m, repo, base) })
			e.pushManifest(e.r, repo, tagged("1"), nil, v1.MediaTypeImageManifest, raw)
			manifests[repo] = int64(len(raw))
		}
		raw := e.image(e.r, "a/two", "only two", func(m *v1.Manifest) { layer(m, "a/two", random(500, 2)) }) // never tagged, nor pushed
		e.push(e.r, "c/empty", nil)
		u, err := e.r.Usage(e.ctx)
		e.ok(err)
		own := int64(len(`{"name":"a/one"}`) + len("layer of a/one"))
		extra := int64(500 + len(`{"name":"only two"}`) + len("layer of only two"))
		one, two, b := manifests["a/one"], manifests["a/two"], manifests["b/one"]
		want := []metadata.Usage{
			{Team: "a", Repository: "a/one", Blobs: 3, Manifests: 1, Logical: 1000 + own + one, Unique: own + one, Shared: 1000},
			{Team: "a", Repository: "a/two", Blobs: 6, Manifests: 1, Logical: 1000 + own + extra + two, Unique: own + extra + two, Shared: 1000, Waiting: extra},
			{Team: "b", Repository: "b/one", Blobs: 3, Manifests: 1, Logical: 1000 + own + b, Unique: own + b, Shared: 1000},
			{Team: "c", Repository: "c/empty", Blobs: 1},
		}
		for i, got := range u.Repositories {
			if i >= len(want) || got != want[i] {
				t.Errorf("got %+v", got)
			}
		}
		teams := []metadata.Usage{
			{Team: "a", Blobs: 8, Manifests: 2, Logical: 2000 + 2*own + extra + one + two, Unique: 2*own + extra + one + two, Shared: 1000},
			{Team: "b", Blobs: 3, Manifests: 1, Logical: 1000 + own + b, Unique: own + b, Shared: 1000},
			{Team: "c", Blobs: 1},
		}
		for i, got := range u.Teams {
			if i >= len(teams) || got != teams[i] {
				t.Errorf("got %+v", got)
			}
		}
		if len(u.Repositories) != len(want) || len(u.Teams) != len(teams) || len(raw) == 0 {
			t.Errorf("%+v", u)
		}
		if s := (metadata.StoredBytes{Blobs: 11, Bytes: 1000 + 3*own + extra, Manifests: one + two + b}); u.Stored != s {
			t.Errorf("stored %+v, want %+v", u.Stored, s)
		}
	})
}
