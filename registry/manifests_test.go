package registry

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"berth/manifest"
	"berth/metadata"
	"berth/oci"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

func (e *env) marshal(v any) []byte {
	e.Helper()
	raw, err := json.Marshal(v)
	e.ok(err)
	return raw
}

// image pushes a config and layers and gives the manifest.
func (e *env) image(r *Registry, repo, name string, change ...func(*v1.Manifest)) []byte {
	e.Helper()
	m := v1.Manifest{MediaType: v1.MediaTypeImageManifest, Layers: []v1.Descriptor{}}
	m.SchemaVersion = 2
	blob := func(mediaType string, data []byte) v1.Descriptor {
		return v1.Descriptor{MediaType: mediaType, Digest: e.push(r, repo, data), Size: int64(len(data))}
	}
	m.Config = blob(v1.MediaTypeImageConfig, []byte(`{"name":"`+name+`"}`))
	m.Layers = append(m.Layers, blob(v1.MediaTypeImageLayerGzip, []byte("layer of "+name)))
	for _, c := range change {
		c(&m)
	}
	return e.marshal(m)
}

func subject(d digest.Digest) func(*v1.Manifest) {
	return func(m *v1.Manifest) {
		m.Subject = &v1.Descriptor{MediaType: v1.MediaTypeImageManifest, Digest: d, Size: 1}
	}
}

func tagged(tag string) oci.Reference        { return oci.Reference{Tag: tag} }
func digested(d digest.Digest) oci.Reference { return oci.Reference{Digest: d} }
func desc(mediaType string, raw []byte) v1.Descriptor {
	return v1.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(raw), Size: int64(len(raw))}
}

// pushManifest pushes and checks that the same bytes come back.
func (e *env) pushManifest(r *Registry, repo string, ref oci.Reference, tags []string, contentType string, raw []byte) Pushed {
	e.Helper()
	p, err := r.PushManifest(e.ctx, as(alice), repo, ref, tags, contentType, raw)
	e.ok(err)
	for _, ref := range append([]oci.Reference{digested(p.Digest)}, references(p.Tags)...) {
		m, err := r.Manifest(e.ctx, repo, ref)
		e.ok(err)
		if !bytes.Equal(m.Payload, raw) || m.Digest != p.Digest || m.MediaType != contentType || m.Size != int64(len(raw)) {
			e.Fatalf("%s gives %+v", ref, m)
		}
		h, err := r.HeadManifest(e.ctx, repo, ref)
		e.ok(err)
		if h.Digest != p.Digest || len(h.Payload) != 0 || h.Size != m.Size || h.MediaType != contentType {
			e.Fatalf("the head of %s gives %+v", ref, h)
		}
	}
	return p
}

func references(tags []string) (refs []oci.Reference) {
	for _, t := range tags {
		refs = append(refs, tagged(t))
	}
	return refs
}

func TestPushManifest(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		const image, index = v1.MediaTypeImageManifest, v1.MediaTypeImageIndex
		amd, arm := e.image(e.r, repo, "amd64"), e.image(e.r, repo, "arm64")
		p := e.pushManifest(e.r, repo, tagged("v1"), nil, image, amd)
		if p.Digest != digest.FromBytes(amd) || !p.Created || !slices.Equal(p.Tags, []string{"v1"}) || p.Subject != "" || p.MediaType != image {
			t.Errorf("%+v", p)
		}
		// Again, under the same and under another tag.
		if p = e.pushManifest(e.r, repo, tagged("v1"), nil, image, amd); p.Created {
			t.Errorf("%+v", p)
		}
		e.pushManifest(e.r, repo, tagged("v1.0"), nil, image, amd)
		e.pushManifest(e.r, repo, digested(digest.FromBytes(arm)), nil, image, arm)

		// White space is content.
		spaced := append(slices.Clone(amd), ' ', '\n')
		if p := e.pushManifest(e.r, repo, tagged("spaced"), nil, image, spaced); p.Digest == digest.FromBytes(amd) {
			t.Error("white space is lost")
		}

		// An index, nested, by sha512, with several tags.
		list := e.marshal(map[string]any{"schemaVersion": 2, "mediaType": index, "manifests": []any{desc(image, amd), desc(image, arm)}})
		outer := e.marshal(map[string]any{"schemaVersion": 2, "mediaType": index, "manifests": []any{desc(index, list)}})
		e.pushManifest(e.r, repo, tagged("multi"), nil, index, list)
		d512 := digest.SHA512.FromBytes(outer)
		p = e.pushManifest(e.r, repo, digested(d512), []string{"z", "a", "z", "latest", "a"}, index, outer)
		if p.Digest != d512 || !slices.Equal(p.Tags, []string{"z", "a", "latest"}) {
			t.Errorf("%+v", p)
		}
		tags, err := e.r.TagNames(e.ctx, repo, "", 100)
		e.ok(err)
		if want := []string{"a", "latest", "multi", "spaced", "v1", "v1.0", "z"}; !slices.Equal(tags, want) {
			t.Errorf("tags %v, want %v", tags, want)
		}
		if tags, err = e.r.TagNames(e.ctx, repo, "multi", 2); err != nil || !slices.Equal(tags, []string{"spaced", "v1"}) {
			t.Errorf("tags %v, %v", tags, err)
		}

		// A subject that is not there, and foreign layers: one of them has been pushed.
		absent := digest.FromString("absent")
		foreign := []byte("a layer that one may not push, usually")
		held := e.push(e.r, repo, foreign)
		raw := e.image(e.r, repo, "windows", subject(absent), func(m *v1.Manifest) {
			for _, d := range []digest.Digest{held, digest.FromString("elsewhere")} {
				m.Layers = append(m.Layers, v1.Descriptor{MediaType: "application/vnd.oci.image.layer.nondistributable.v1.tar", Digest: d, Size: int64(len(foreign)), URLs: []string{"https://example.com/x"}})
			}
		})
		if p = e.pushManifest(e.r, repo, tagged("windows"), nil, image, raw); p.Subject != absent {
			t.Errorf("%+v", p)
		}
		e.is(e.r.DeleteBlob(e.ctx, as(alice), repo, held), oci.ErrConflict)

		// Any media type; the Content-Type's parameters are not part of it.
		p, err = e.r.PushManifest(e.ctx, as(alice), repo, tagged("thing"), nil, "application/vnd.acme.thing+json; charset=utf-8", []byte(`{"a":1}`))
		e.ok(err)
		if p.MediaType != "application/vnd.acme.thing+json" {
			t.Errorf("%+v", p)
		}
		e.settled()
	})
}

func TestPushManifestRefusals(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		const image, index = v1.MediaTypeImageManifest, v1.MediaTypeImageIndex
		r := New(e.openDB(), e.store(), Options{MaxManifestSize: 10_000, Clock: e.clock.Now})
		raw := e.image(r, repo, "one")
		other := e.image(r, repo, "two")
		absent := digest.FromString("absent")
		lacking := func(n int) []byte {
			m := map[string]any{"schemaVersion": 2, "mediaType": image, "config": v1.Descriptor{MediaType: "a/b", Digest: absent}, "layers": []any{}}
			for i := range n {
				m["layers"] = append(m["layers"].([]any), v1.Descriptor{MediaType: "a/b", Digest: digest.FromString(fmt.Sprint(i))})
			}
			return e.marshal(m)
		}
		many := make([]string, MaxTags+1)
		for i := range many {
			many[i] = fmt.Sprint("t", i)
		}
		foreign := e.image(r, "team/foreign", "foreign")
		tests := []struct {
			name        string
			ref         oci.Reference
			tags        []string
			contentType string
			raw         []byte
			want        error
			rule        string
		}{
			{"too large", tagged("x"), nil, image, bytes.Repeat([]byte(" "), 10_001), &oci.Error{Code: oci.CodeManifestTooLarge}, "manifest-size"},
			{"another digest", digested(digest.FromBytes(other)), nil, image, raw, oci.ErrDigestInvalid, "digest-mismatch"},
			{"another sha512 digest", digested(digest.SHA512.FromBytes(other)), nil, image, raw, oci.ErrDigestInvalid, "digest-mismatch"},
			{"not a manifest", tagged("x"), nil, image, []byte("hello"), oci.ErrManifestInvalid, "json"},
			{"tags with a tag", tagged("x"), []string{"y"}, image, raw, oci.ErrInvalid, "tag-parameters"},
			{"too many tags", digested(digest.FromBytes(raw)), many, image, raw, oci.ErrInvalid, "tag-parameters"},
			{"a malformed tag", digested(digest.FromBytes(raw)), []string{"ok", "not ok"}, image, raw, &oci.Error{Code: oci.CodeTagInvalid}, ""},
			{"missing blobs", tagged("x"), nil, image, lacking(5), oci.ErrManifestBlobUnknown, ""},
			{"blobs of another repository", tagged("x"), nil, image, foreign, oci.ErrManifestBlobUnknown, ""},
			{"missing child", tagged("x"), nil, index, e.marshal(map[string]any{"schemaVersion": 2, "manifests": []any{desc(image, other)}}), oci.ErrManifestBlobUnknown, ""},
		}
		for _, tt := range tests {
			_, err := r.PushManifest(e.ctx, as(alice), repo, tt.ref, tt.tags, tt.contentType, tt.raw)
			if !errors.Is(err, tt.want) {
				t.Errorf("%s: %v, want %v", tt.name, err, tt.want)
				continue
			}
			if tt.rule != "" {
				e.is(err, tt.want, tt.rule)
			}
			if _, err := r.PushManifest(e.ctx, as(alice), "team/new", tt.ref, tt.tags, tt.contentType, tt.raw); err == nil {
				t.Errorf("%s: accepted in another repository", tt.name)
			}
		}
		if got := e.strings(`SELECT name FROM repositories ORDER BY name`); !slices.Equal(got, []string{repo, "team/foreign"}) {
			t.Errorf("refused pushes have made repositories: %v", got)
		}
		if got := e.strings(`SELECT digest FROM manifests`); len(got) > 0 {
			t.Errorf("refused pushes have made manifests: %v", got)
		}

		sparse := New(e.openDB(), e.store(), Options{AllowSparse: true, Clock: e.clock.Now})
		e.pushManifest(sparse, repo, tagged("sparse"), nil, index, e.marshal(map[string]any{"schemaVersion": 2, "manifests": []any{desc(image, other)}}))
	})
}

// TestImmutableTags: all tags of a push or none, and a refusal is on record.
func TestImmutableTags(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		const image = v1.MediaTypeImageManifest
		one, two := e.image(e.r, repo, "one"), e.image(e.r, repo, "two")
		d1, d2 := digest.FromBytes(one), digest.FromBytes(two)
		e.pushManifest(e.r, repo, digested(d1), []string{"1.0", "1", "latest"}, image, one)
		before := e.strings(`SELECT action || ' ' || tag FROM tag_history ORDER BY id`)

		_, err := e.r.PushManifest(e.ctx, as(bob), repo, tagged("1.0"), nil, image, two)
		e.is(err, oci.ErrTagImmutable)
		for _, word := range []string{"1.0", d1.String(), alice, repo} {
			if !strings.Contains(err.Error(), word) {
				t.Errorf("%v does not name %s", err, word)
			}
		}
		// The exempt tag would move, the new one would be made, but they come with others.
		_, err = e.r.PushManifest(e.ctx, as(bob), repo, digested(d2), []string{"2.0", "latest", "1", "1.0"}, image, two)
		e.is(err, oci.ErrTagImmutable, "tag-policy")
		for _, ref := range []oci.Reference{digested(d2), tagged("2.0")} {
			_, err = e.r.Manifest(e.ctx, repo, ref)
			e.is(err, oci.ErrManifestUnknown)
		}
		m, err := e.r.HeadManifest(e.ctx, repo, tagged("latest"))
		e.ok(err)
		if m.Digest != d1 {
			t.Error("latest has moved")
		}
		after := e.strings(`SELECT action || ' ' || tag || ' ' || actor || ' ' || digest FROM tag_history ORDER BY id`)[len(before):]
		if want := []string{"refused 1.0 bob " + d2.String(), "refused 1 bob " + d2.String(), "refused 1.0 bob " + d2.String()}; !slices.Equal(after, want) {
			t.Errorf("history %v, want %v", after, want)
		}

		e.pushManifest(e.r, repo, digested(d2), []string{"2.0", "latest"}, image, two)
		e.pushManifest(e.r, repo, tagged("1.0"), nil, image, one)
		if n := len(e.strings(`SELECT tag FROM tag_history`)); n != len(before)+5 {
			t.Errorf("%d lines of history", n)
		}
	})
}

// TestTagRace: 64 pushers through two registries, 64 manifests, one tag.
func TestTagRace(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		two := []*Registry{e.r, e.replica()}
		raws := make([][]byte, 64)
		for i := range raws {
			raws[i] = e.image(e.r, repo, fmt.Sprint(i))
		}
		var wg sync.WaitGroup
		var won, refused atomic.Int64
		var winner atomic.Value
		start := make(chan struct{})
		for i, raw := range raws {
			wg.Go(func() {
				<-start
				p, err := two[i%2].PushManifest(e.ctx, as(fmt.Sprint("user", i)), repo, tagged("release"), nil, v1.MediaTypeImageManifest, raw)
				switch {
				case err == nil:
					won.Add(1)
					winner.Store(p.Digest)
				case errors.Is(err, oci.ErrTagImmutable):
					refused.Add(1)
				default:
					t.Errorf("pusher %d: %v", i, err)
				}
			})
		}
		close(start)
		wg.Wait()
		t.Logf("64 pushers of one tag: %d success, %d refused", won.Load(), refused.Load())
		if won.Load() != 1 || refused.Load() != 63 {
			t.Fatal("not exactly one")
		}
		m, err := e.r.HeadManifest(e.ctx, repo, tagged("release"))
		e.ok(err)
		if m.Digest != winner.Load() {
			t.Errorf("the tag points to %s, the winner was told %s", m.Digest, winner.Load())
		}
		if n := len(e.strings(`SELECT actor FROM tag_history WHERE action = 'refused'`)); n != 63 {
			t.Errorf("%d refusals on record", n)
		}
		if n := len(e.strings(`SELECT digest FROM manifests`)); n != 1 {
			t.Errorf("%d manifests are left", n)
		}
	})
}

func TestMount(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		data := []byte("shared")
		d := e.push(e.r, "team/from", data)
		mount := func(from string, d digest.Digest) bool {
			t.Helper()
			ok, err := e.r.MountBlob(e.ctx, as(alice), repo, d, from)
			e.ok(err)
			return ok
		}
		if mount("team/none", d) || mount("team/from", digest.FromString("other")) || mount("", d) || mount(repo, d) {
			t.Error("mounted what is not there")
		}
		if got := e.strings(`SELECT name FROM repositories`); len(got) != 1 {
			t.Errorf("a failed mount has made a repository: %v", got)
		}
		for _, from := range []string{"team/from", "team/from", repo} {
			if !mount(from, d) {
				t.Errorf("not mounted from %s", from)
			}
		}
		e.read(e.r, repo, d)
		candidates, err := e.r.MountCandidates(e.ctx, d)
		e.ok(err)
		slices.Sort(candidates)
		if !slices.Equal(candidates, []string{repo, "team/from"}) {
			t.Errorf("candidates %v", candidates)
		}
		if candidates, err = e.r.MountCandidates(e.ctx, digest.FromString("other")); len(candidates) > 0 || err != nil {
			t.Errorf("candidates %v, %v", candidates, err)
		}

		// Each repository lets go for itself; the bytes stay for a push to come.
		e.ok(e.r.DeleteBlob(e.ctx, as(alice), "team/from", d))
		e.is(e.r.DeleteBlob(e.ctx, as(alice), "team/from", d), oci.ErrBlobUnknown)
		_, err = e.r.Blob(e.ctx, "team/from", d)
		e.is(err, oci.ErrBlobUnknown)
		e.read(e.r, repo, d)
		e.ok(e.r.DeleteBlob(e.ctx, as(alice), repo, d))
		e.push(e.r, "team/from", data)
		e.read(e.r, "team/from", d)
		e.settled()
	})
}

func TestDelete(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		const image, index = v1.MediaTypeImageManifest, v1.MediaTypeImageIndex
		raw := e.image(e.r, repo, "one")
		d := digest.FromBytes(raw)
		e.pushManifest(e.r, repo, digested(d), []string{"a", "b"}, image, raw)
		list := e.marshal(map[string]any{"schemaVersion": 2, "mediaType": index, "manifests": []any{desc(image, raw)}})
		e.pushManifest(e.r, repo, tagged("list"), nil, index, list)

		_, err := e.r.DeleteManifest(e.ctx, as(bob), repo, d)
		e.is(err, oci.ErrConflict)
		_, err = e.r.DeleteManifest(e.ctx, as(bob), repo, digest.FromString("x"))
		e.is(err, oci.ErrManifestUnknown)
		_, err = e.r.DeleteManifest(e.ctx, as(bob), "team/none", d)
		e.is(err, oci.ErrNameUnknown)
		e.ok(e.r.DeleteTag(e.ctx, as(bob), repo, "a"))
		e.is(e.r.DeleteTag(e.ctx, as(bob), repo, "a"), oci.ErrManifestUnknown)
		_, err = e.r.Manifest(e.ctx, repo, tagged("a"))
		e.is(err, oci.ErrManifestUnknown)
		tags, err := e.r.DeleteManifest(e.ctx, as(bob), repo, digest.FromBytes(list))
		e.ok(err)
		if !slices.Equal(tags, []string{"list"}) {
			t.Errorf("tags %v", tags)
		}
		_, err = e.r.DeleteManifest(e.ctx, as(bob), repo, d)
		e.ok(err)
		for _, ref := range []oci.Reference{digested(d), tagged("b"), tagged("list")} {
			_, err = e.r.Manifest(e.ctx, repo, ref)
			e.is(err, oci.ErrManifestUnknown)
		}
		_, err = e.r.Manifest(e.ctx, "team/none", tagged("b"))
		e.is(err, oci.ErrNameUnknown)
		// A tag that somebody has deleted may be pushed again.
		e.pushManifest(e.r, repo, tagged("a"), nil, image, raw)
	})
}

// TestReferrers has subjects, a fallback index with truths and lies, filters and pages.
func TestReferrers(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		const image, index = v1.MediaTypeImageManifest, v1.MediaTypeImageIndex
		base := e.image(e.r, repo, "base")
		s := digest.FromBytes(base)
		get := func(artifactType string, limit int) []manifest.Descriptor {
			t.Helper()
			var all []manifest.Descriptor
			after := digest.Digest("")
			for pages := 0; ; pages++ {
				page, next, err := e.r.Referrers(e.ctx, repo, s, artifactType, after, limit)
				e.ok(err)
				if len(page) > limit || pages > 2000 {
					t.Fatalf("%d on a page of %d, page %d", len(page), limit, pages)
				}
				all = append(all, page...)
				if next == "" {
					return all
				}
				if next <= after {
					t.Fatalf("the page behind %s ends at %s", after, next)
				}
				after = next
			}
		}
		same := func(got []manifest.Descriptor, want map[digest.Digest]string) {
			t.Helper()
			last := digest.Digest("")
			for _, d := range got {
				if d.Digest <= last {
					t.Errorf("%s follows %s", d.Digest, last)
				}
				last = d.Digest
				if artifactType, ok := want[d.Digest]; !ok || d.ArtifactType != artifactType || d.Size == 0 || d.MediaType == "" {
					t.Errorf("%+v, want type %q (%v)", d, artifactType, ok)
				}
			}
			if len(got) != len(want) {
				t.Errorf("%d referrers, want %d", len(got), len(want))
			}
		}
		for _, repo := range []string{repo, "team/none"} {
			page, next, err := e.r.Referrers(e.ctx, repo, s, "", "", 10)
			if len(page) > 0 || next != "" || err != nil {
				t.Errorf("%v, %s, %v", page, next, err)
			}
		}

		want, sboms := map[digest.Digest]string{}, map[digest.Digest]string{}
		put := func(raw []byte, contentType, artifactType string) digest.Digest {
			p := e.pushManifest(e.r, repo, digested(digest.FromBytes(raw)), nil, contentType, raw)
			want[p.Digest] = artifactType
			if artifactType == "application/sbom" {
				sboms[p.Digest] = artifactType
			}
			return p.Digest
		}
		for i := range 40 {
			artifactType := []string{"application/sbom", "application/sig"}[i%2]
			put(e.image(e.r, repo, fmt.Sprint("ref", i), subject(s), func(m *v1.Manifest) {
				m.ArtifactType = artifactType
				m.Annotations = map[string]string{"n": fmt.Sprint(i)}
			}), image, artifactType)
		}
		put(e.image(e.r, repo, "by config", subject(s)), image, v1.MediaTypeImageConfig)
		put(e.marshal(map[string]any{"schemaVersion": 2, "mediaType": index, "manifests": []any{}, "subject": desc(image, base)}), index, "")
		direct := len(want)
		same(get("", 1000), want)

		// The fallback index: of a client that did not set a subject, twice,
		// with invented annotations; one that has a subject; one of another subject; itself.
		plain := e.image(e.r, repo, "plain", func(m *v1.Manifest) {
			m.ArtifactType = "application/sbom"
			m.Annotations = map[string]string{"true": "yes"}
		})
		put(plain, image, "application/sbom")
		stranger := e.image(e.r, repo, "stranger", subject(digest.FromString("another")))
		e.pushManifest(e.r, repo, digested(digest.FromBytes(stranger)), nil, image, stranger)
		listed := desc(image, plain)
		listed.ArtifactType, listed.Annotations = "application/lie", map[string]string{"true": "no"}
		entries := []any{listed, desc(image, plain), desc(image, stranger)}
		for d := range want {
			m, err := e.r.HeadManifest(e.ctx, repo, digested(d))
			e.ok(err)
			entries = append(entries, v1.Descriptor{MediaType: image, Digest: d, Size: m.Size})
		}
		fallback := e.marshal(map[string]any{"schemaVersion": 2, "mediaType": index, "manifests": entries})
		e.pushManifest(e.r, repo, tagged(oci.ReferrersTag(s)), nil, index, fallback)

		all := get("", 1000)
		same(all, want)
		for _, d := range all {
			if d.Digest == listed.Digest && d.Annotations["true"] != "yes" {
				t.Errorf("the fallback index's word is believed: %+v", d)
			}
		}
		for _, limit := range []int{1, 2, 7, 31, 32, 33, direct, direct + 1} {
			same(get("", limit), want)
			same(get("application/sbom", limit), sboms)
		}
		same(get("application/lie", 10), nil)
		if page, next, err := e.r.Referrers(e.ctx, repo, s, "", "", 0); len(page) > 0 || next != "" || err != nil {
			t.Errorf("limit 0: %v, %s, %v", page, next, err)
		}
	})
}

// TestReferrersBounds: thousands of entries in a fallback index, most of them
// not there, and large annotations.
func TestReferrersBounds(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		const image, index = v1.MediaTypeImageManifest, v1.MediaTypeImageIndex
		r := New(e.openDB(), e.store(), Options{AllowSparse: true, Clock: e.clock.Now})
		s := digest.FromString("subject")
		real := map[digest.Digest]bool{}
		for i := range 5 {
			raw := e.image(r, repo, fmt.Sprint(i), subject(s), func(m *v1.Manifest) {
				m.Annotations = map[string]string{"big": strings.Repeat("x", 1_500_000)}
			})
			p, err := r.PushManifest(e.ctx, as(alice), repo, digested(digest.FromBytes(raw)), nil, image, raw)
			e.ok(err)
			real[p.Digest] = true
		}
		var entries []any
		for i := range 3000 {
			entries = append(entries, v1.Descriptor{MediaType: image, Digest: digest.FromString(fmt.Sprint("none", i)), Size: 1})
		}
		fallback := e.marshal(map[string]any{"schemaVersion": 2, "mediaType": index, "manifests": entries})
		_, err := r.PushManifest(e.ctx, as(alice), repo, tagged(oci.ReferrersTag(s)), nil, index, fallback)
		e.ok(err)

		after, pages := digest.Digest(""), 0
		for {
			page, next, err := r.Referrers(e.ctx, repo, s, "", after, 100)
			e.ok(err)
			pages++
			size := 0
			for _, d := range page {
				if !real[d.Digest] {
					t.Errorf("%s is not there, or was there before", d.Digest)
				}
				delete(real, d.Digest)
				size += len(d.Annotations["big"])
			}
			if size > maxReferrersBytes {
				t.Errorf("a page of %d bytes", size)
			}
			if next == "" {
				break
			}
			after = next
		}
		if len(real) > 0 || pages < 2 || pages > 20 {
			t.Errorf("%d referrers missing after %d pages", len(real), pages)
		}
	})
}

func TestRepositories(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		for _, name := range []string{"b/x", "a/y", "a/x"} {
			e.push(e.r, name, []byte("x"))
		}
		names, err := e.r.RepositoryNames(e.ctx, metadata.RepositoryFilter{Viewer: metadata.Viewer{All: true}, After: "a/x", Limit: 10})
		e.ok(err)
		if want := []string{"a/y", "b/x"}; !slices.Equal(names, want) {
			t.Errorf("%v, want %v", names, want)
		}
		var made []metadata.Repository
		e.ok(e.r.db.View(e.ctx, func(tx *metadata.Tx) (err error) {
			made, err = tx.Repositories(e.ctx, metadata.RepositoryFilter{Viewer: metadata.Viewer{All: true}, Limit: 1})
			return err
		}))
		if len(made) != 1 || made[0].Visibility != metadata.Private || made[0].CreatedBy != "alice" {
			t.Errorf("%+v, want a private one of alice", made)
		}
		_, err = e.r.TagNames(e.ctx, "a/none", "", 10)
		e.is(err, oci.ErrNameUnknown)
		tags, err := e.r.TagNames(e.ctx, "a/x", "", 10)
		if len(tags) > 0 || err != nil {
			t.Errorf("%v, %v", tags, err)
		}
	})
}
