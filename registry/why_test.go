package registry

import (
	"testing"
	"time"

	"berth/metadata"
	"berth/oci"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

func TestWhy(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		why := func(d digest.Digest) Why {
			t.Helper()
			w, err := e.r.Why(e.ctx, d)
			e.ok(err)
			return w
		}
		g := e.graph()
		config := digest.FromString(`{"name":"child1"}`)
		ok, err := e.r.MountBlob(e.ctx, alice, "team/other", config, repo)
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
		if f := in.Fate; in.Name != "team/other" || in.Needed != 0 || f == nil || f.Rule != "gc_grace" || f.After.Sub(*f.Since) != DefaultGCGrace ||
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
		other, err := short.Why(e.ctx, g.untagged)
		e.ok(err)
		if f := other.Repositories[0].Manifest.Fate; f == nil || f.After == nil || f.After.Sub(*f.Since) != 20*day {
			t.Errorf("%+v", f)
		}
		_, err = e.r.DeleteManifest(e.ctx, as(alice), repo, g.index)
		e.ok(err)
		if f := why(g.signature).Repositories[0].Manifest.Fate; f == nil || f.Rule != "gc_grace" || f.Reason != "subject" || f.After.Sub(*f.Since) != DefaultGCGrace {
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
			n, err = e.r.CollectUnreferenced(e.ctx)
			e.ok(err)
		}
		if w := why(lone); w.Blob != nil || len(w.Removals) != 1 || w.Removals[0].Size != 4 {
			t.Errorf("%+v", w)
		}
		e.collect(e.r)
		_, err = e.r.Why(e.ctx, lone)
		e.is(err, oci.ErrBlobUnknown)
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
