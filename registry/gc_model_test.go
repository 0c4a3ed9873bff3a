package registry

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"berth/metadata"
	"berth/oci"
	"berth/testenv"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// model is what a registry is, said simply: sets in memory, and no garbage
// collection but the rule of what may go.
type model struct {
	*env
	random *rand.Rand
	ttl    bool // untagged manifests may go
	repos  map[string]*modelRepo
	data   map[digest.Digest][]byte // every blob that was ever pushed
	count  map[string]int           // what was done
}

type modelRepo struct {
	manifests map[digest.Digest]*modelManifest
	tags      map[string]digest.Digest
	lossy     bool // a blob was deleted that a deleted manifest needs
	// What was deleted and is held as before, newest last.
	deletedManifests []*deletion
	deletedTags      []*deletion
}

// undoWindow is that of the registry of the model.
const undoWindow = 10 * time.Hour

// deletion is a tag or a manifest that can be restored.
type deletion struct {
	tag      string // of a tag
	digest   digest.Digest
	manifest *modelManifest // of a manifest
	age      time.Duration
}

type modelManifest struct {
	raw             []byte
	mediaType       string
	blobs, children []digest.Digest
	subject         digest.Digest
	reason          string // why it was last let go
	lone            bool   // a subject of it was deleted, and cannot be restored any more
}

// parents are the indexes that list a manifest.
func (r *modelRepo) parents(d digest.Digest) (all []digest.Digest) {
	for p, m := range r.manifests {
		if slices.Contains(m.children, d) {
			all = append(all, p)
		}
	}
	return all
}

// held says whether a tag, an index or a subject holds a manifest, or one that
// was deleted and can be restored.
func (r *modelRepo) held(d digest.Digest) bool {
	for _, t := range r.tags {
		if t == d {
			return true
		}
	}
	for _, t := range r.deletedTags {
		if t.digest == d {
			return true
		}
	}
	for _, m := range r.deletedManifests {
		if slices.Contains(m.manifest.children, d) || m.digest == r.manifests[d].subject {
			return true
		}
	}
	return len(r.parents(d)) > 0 || r.manifests[r.manifests[d].subject] != nil
}

// undelete is Restore of a tag: whether it works, which is done then.
func (r *modelRepo) undelete(name string) bool {
	for i, t := range slices.Backward(r.deletedTags) {
		if t.tag != name {
			continue
		}
		if d, there := r.tags[name]; there && d != t.digest {
			return false
		}
		if r.manifests[t.digest] == nil {
			at := -1
			for j, m := range r.deletedManifests {
				if m.digest == t.digest {
					at = j
				}
			}
			if at < 0 {
				return false
			}
			m := r.deletedManifests[at].manifest
			for _, c := range m.children {
				if r.manifests[c] == nil {
					return false
				}
			}
			m.reason = "pushed"
			r.manifests[t.digest] = m
			r.deletedManifests = slices.DeleteFunc(r.deletedManifests, func(m *deletion) bool { return m.digest == t.digest })
		}
		r.tags[name] = t.digest
		r.deletedTags = slices.Delete(r.deletedTags, i, i+1)
		return true
	}
	return false
}

// bury deletes a manifest as a person does, so that it can be restored.
func (r *modelRepo) bury(d digest.Digest) {
	for _, name := range slices.Sorted(maps.Keys(r.tags)) {
		if r.tags[name] == d {
			r.deletedTags = append(r.deletedTags, &deletion{tag: name, digest: d})
		}
	}
	r.deletedManifests = append(r.deletedManifests, &deletion{digest: d, manifest: r.manifests[d]})
	r.remove(d)
}

// remove deletes a manifest with its tags, and lets go what hung on it.
func (r *modelRepo) remove(d digest.Digest) {
	maps.DeleteFunc(r.tags, func(_ string, t digest.Digest) bool { return t == d })
	for _, c := range r.manifests[d].children {
		if r.manifests[c] != nil {
			r.manifests[c].reason = "index"
		}
	}
	delete(r.manifests, d)
	for _, m := range r.manifests {
		if m.subject == d {
			m.reason = "subject"
		}
	}
}

func (r *modelRepo) tag(name string, d digest.Digest) {
	if old := r.manifests[r.tags[name]]; old != nil && r.tags[name] != d {
		old.reason = "untagged"
	}
	r.tags[name] = d
}

// mayGo says whether the collector may delete a manifest.
func (m *model) mayGo(r *modelRepo, d digest.Digest) bool {
	return m.mustGo(r, d) || !r.held(d) && r.manifests[d].lone
}

// mustGo says whether the collector has to delete a manifest at last.
func (m *model) mustGo(r *modelRepo, d digest.Digest) bool {
	return !r.held(d) && (m.ttl || r.manifests[d].reason == "subject")
}

func pick[K comparable](random *rand.Rand, from []K) (one K) {
	if len(from) > 0 {
		one = from[random.IntN(len(from))]
	}
	return one
}

func keysOf[V any](m map[digest.Digest]V) []digest.Digest {
	return slices.Sorted(maps.Keys(m))
}

// someRepo picks a repository.
func (m *model) someRepo() (string, *modelRepo) {
	name := pick(m.random, slices.Sorted(maps.Keys(m.repos)))
	return name, m.repos[name]
}

// ensure pushes a blob as clients do: only when it is not there.
func (m *model) ensure(r *Registry, repo string, data []byte) (digest.Digest, error) {
	d := digest.FromBytes(data)
	m.data[d] = data
	_, err := r.Blob(m.ctx, repo, d)
	if errors.Is(err, oci.ErrBlobUnknown) {
		if other, _ := m.someRepo(); m.random.IntN(2) == 0 {
			if ok, err := r.MountBlob(m.ctx, as(alice), repo, d, other); ok || err != nil {
				return d, err
			}
		}
		_, err = r.PutBlob(m.ctx, as(alice), repo, d, int64(len(data)), bytes.NewReader(data))
	}
	return d, err
}

// step does one thing with a registry, and gives what has to be done to the
// model when it has worked, and what when the process has died meanwhile:
// touched asks a living registry whether it has worked.
func (m *model) step(r *Registry) (name string, done func(), touched func(*Registry), err error) {
	repo, in := m.someRepo()
	tagName := pick(m.random, []string{"a", "b", "c"})
	some := pick(m.random, keysOf(in.manifests))
	nothing := func() {}
	push := func(what string, raw []byte, one *modelManifest) (string, func(), func(*Registry), error) {
		d := digest.FromBytes(raw)
		byTag := m.random.IntN(3) > 0
		ref := digested(d)
		if byTag {
			ref = tagged(tagName)
		}
		_, err := r.PushManifest(m.ctx, as(alice), repo, ref, nil, one.mediaType, raw)
		add := func() {
			one.raw, one.reason = raw, "pushed"
			in.manifests[d] = one
		}
		both := func() { // in one transaction
			add()
			if byTag {
				in.tag(tagName, d)
			}
		}
		return what, both, func(alive *Registry) {
			if _, err := alive.HeadManifest(m.ctx, repo, digested(d)); err == nil {
				both()
			}
		}, err
	}
	switch m.random.IntN(11) {
	case 0: // a blob alone
		_, err = m.ensure(r, repo, fmt.Appendf(nil, "layer %d", m.random.IntN(12)))
		return "push blob", nothing, func(*Registry) {}, err
	case 1, 2, 3: // an image, perhaps a referrer
		i := v1.Manifest{MediaType: v1.MediaTypeImageManifest, Layers: []v1.Descriptor{}, Annotations: map[string]string{"n": strconv.Itoa(m.random.IntN(30))}}
		i.SchemaVersion = 2
		one := &modelManifest{mediaType: v1.MediaTypeImageManifest}
		for n := range 1 + m.random.IntN(3) {
			data := fmt.Appendf(nil, "layer %d", m.random.IntN(12))
			d, err := m.ensure(r, repo, data)
			if err != nil {
				return "push image", nothing, func(*Registry) {}, err
			}
			desc := v1.Descriptor{MediaType: v1.MediaTypeImageLayer, Digest: d, Size: int64(len(data))}
			if n == 0 {
				i.Config = desc
			} else {
				i.Layers = append(i.Layers, desc)
			}
			if !slices.Contains(one.blobs, d) {
				one.blobs = append(one.blobs, d)
			}
		}
		if some != "" && m.random.IntN(3) == 0 {
			one.subject = some
			i.Subject = &v1.Descriptor{MediaType: v1.MediaTypeImageManifest, Digest: some, Size: 1}
		}
		return push("push image", m.marshal(i), one)
	case 4: // an index
		i := v1.Index{MediaType: v1.MediaTypeImageIndex, Manifests: []v1.Descriptor{}}
		i.SchemaVersion = 2
		one := &modelManifest{mediaType: v1.MediaTypeImageIndex}
		for range 1 + m.random.IntN(3) {
			if d := pick(m.random, keysOf(in.manifests)); d != "" && !slices.Contains(one.children, d) {
				one.children = append(one.children, d)
				i.Manifests = append(i.Manifests, desc(in.manifests[d].mediaType, in.manifests[d].raw))
			}
		}
		return push("push index", m.marshal(i), one)
	case 5: // what is there already, again
		if some == "" {
			return "", nothing, nil, nil
		}
		again := *in.manifests[some]
		return push("push again", again.raw, &again)
	case 6:
		d, there := in.tags[tagName]
		err = r.DeleteTag(m.ctx, as(alice), repo, tagName)
		if !there {
			if err == nil {
				m.Errorf("a tag %s of %s was deleted that there was not", tagName, repo)
			}
			return "", nothing, nil, nil
		}
		gone := func() {
			delete(in.tags, tagName)
			in.manifests[d].reason = "untagged"
			in.deletedTags = append(in.deletedTags, &deletion{tag: tagName, digest: d})
		}
		return "delete tag", gone, func(alive *Registry) {
			if _, err := alive.HeadManifest(m.ctx, repo, tagged(tagName)); errors.Is(err, oci.ErrManifestUnknown) {
				gone()
			}
		}, err
	case 7:
		if some == "" {
			return "", nothing, nil, nil
		}
		_, err = r.DeleteManifest(m.ctx, as(alice), repo, some)
		if len(in.parents(some)) > 0 {
			if err == nil {
				m.Errorf("a child of an index was deleted")
			}
			return "refused delete", nothing, func(*Registry) {}, nil
		}
		return "delete manifest", func() { in.bury(some) }, func(alive *Registry) {
			if _, err := alive.HeadManifest(m.ctx, repo, digested(some)); errors.Is(err, oci.ErrManifestUnknown) {
				in.bury(some)
			}
		}, err
	case 8:
		d := pick(m.random, keysOf(m.data))
		if d == "" {
			return "", nothing, nil, nil
		}
		err = r.DeleteBlob(m.ctx, as(alice), repo, d)
		needed := false
		for _, one := range in.manifests {
			needed = needed || slices.Contains(one.blobs, d)
		}
		if needed && err == nil {
			m.Errorf("a blob was deleted that a manifest needs")
		}
		if err == nil { // on purpose, so what needed it cannot be restored
			in.damaged(d)
		}
		if needed || errors.Is(err, oci.ErrBlobUnknown) {
			err = nil
		}
		return "delete blob", nothing, func(*Registry) {}, err
	case 9:
		_, there := in.tags[tagName]
		restored, rerr := r.Restore(m.ctx, as(alice), repo, tagName, "")
		switch {
		case rerr == nil:
			return "restore", func() {
				if !in.undelete(tagName) {
					m.Errorf("the tag %s of %s was restored to %s, which should not work", tagName, repo, restored.Digest)
				}
			}, func(*Registry) {}, nil
		case errors.Is(rerr, oci.ErrNotFound), errors.Is(rerr, oci.ErrConflict), errors.Is(rerr, oci.ErrNameUnknown):
			return "refused restore", func() {
				if !in.lossy && in.undelete(tagName) {
					m.Errorf("the tag %s of %s was not restored: %v", tagName, repo, rerr)
				}
			}, func(*Registry) {}, nil
		}
		return "restore", nothing, func(alive *Registry) {
			if _, err := alive.HeadManifest(m.ctx, repo, tagged(tagName)); err == nil && !there {
				in.undelete(tagName)
			}
		}, rerr
	default:
		for range 1 + m.random.IntN(4) {
			if _, err = collecting(r).CollectUnreferenced(m.ctx); err == nil {
				_, err = collecting(r).CollectGarbage(m.ctx)
			}
			if err != nil {
				break
			}
		}
		return "collect", nothing, func(*Registry) {}, err
	}
}

// damaged notes that a blob was deleted on purpose, though restoring needs it.
func (r *modelRepo) damaged(blob digest.Digest) {
	for _, t := range r.deletedManifests {
		r.lossy = r.lossy || slices.Contains(t.manifest.blobs, blob)
	}
}

// forgotten takes out of the model what cannot be restored any more, which has
// to be for its age.
func (m *model) forgotten() {
	m.Helper()
	for name, in := range m.repos {
		left := map[string]int{}
		for _, row := range m.strings(`SELECT 't ' || t.name || ' ' || t.digest FROM deleted_tags t JOIN repositories r ON r.id = t.repository_id WHERE r.name = $1
			UNION ALL SELECT 'm  ' || t.digest FROM deleted_manifests t JOIN repositories r ON r.id = t.repository_id WHERE r.name = $1`, name) {
			left[row]++
		}
		for _, list := range []*[]*deletion{&in.deletedTags, &in.deletedManifests} {
			for _, t := range slices.Backward(slices.Clone(*list)) { // the newest stay
				key := "t " + t.tag + " " + t.digest.String()
				if t.manifest != nil {
					key = "m  " + t.digest.String()
				}
				if left[key]--; left[key] >= 0 {
					continue
				}
				if t.age < undoWindow {
					m.Errorf("%s: %s cannot be restored any more, after %s", name, key, t.age)
				}
				*list = slices.DeleteFunc(*list, func(one *deletion) bool { return one == t })
				for _, m := range in.manifests {
					m.lone = m.lone || t.manifest != nil && m.subject == t.digest
				}
			}
		}
		for key, n := range left {
			if n > 0 {
				m.Errorf("%s: %s can be restored, which was not deleted", name, key)
			}
		}
	}
}

// older lets time pass.
func (m *model) older(d time.Duration) {
	m.Helper()
	m.age(d)
	for _, in := range m.repos {
		for _, t := range slices.Concat(in.deletedTags, in.deletedManifests) {
			t.age += d
		}
	}
}

// collected takes out of the model what the collector has deleted, which has to be allowed.
func (m *model) collected() {
	m.Helper()
	m.forgotten()
	for name, in := range m.repos {
		for again := true; again; {
			again = false
			for _, d := range keysOf(in.manifests) {
				if _, err := m.r.HeadManifest(m.ctx, name, digested(d)); err != nil && m.mayGo(in, d) {
					in.remove(d)
					m.count["collected manifests"]++
					again = true
				}
			}
		}
	}
}

// verify reads everything that the model has.
func (m *model) verify() {
	m.Helper()
	for name, in := range m.repos {
		for d, one := range in.manifests {
			got, err := m.r.Manifest(m.ctx, name, digested(d))
			if err != nil || !bytes.Equal(got.Payload, one.raw) {
				m.Fatalf("%s: the manifest %s (%s): %v", name, d, one.reason, err)
			}
			for _, b := range one.blobs {
				if !bytes.Equal(m.read(m.r, name, b), m.data[b]) {
					m.Fatalf("%s: the blob %s has other bytes", name, b)
				}
			}
		}
		for tag, d := range in.tags {
			if got, err := m.r.HeadManifest(m.ctx, name, tagged(tag)); err != nil || got.Digest != d {
				m.Fatalf("%s: the tag %s gives %s, want %s: %v", name, tag, got.Digest, d, err)
			}
		}
	}
}

// TestGCModel does random things to a registry, with time passing, collectors
// working and processes dying, and compares it with the model. Never is anything missing
// that the model has; in the end there is nothing else. BERTH_TEST_SEED repeats a run;
// testenv.Steps says how long it is.
func TestGCModel(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("BERTH_TEST_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("seed %d", seed)
	steps := testenv.Steps(t, 100, 600)
	for _, ttl := range []time.Duration{0, 20 * time.Hour} {
		t.Run(fmt.Sprintf("untagged_ttl=%s", ttl), func(t *testing.T) {
			onEach(t, func(t *testing.T, e *env) {
				e.raced = true // the dying leave bytes as racers do
				e.o.UntaggedTTL = ttl
				e.o.UndoWindow = undoWindow
				e.r = e.replica()
				e.ok(e.r.db.Update(e.ctx, func(tx *metadata.Tx) error {
					return tx.SetInstanceTagPolicy(e.ctx, metadata.TagPolicy{Mode: metadata.Mutable})
				}))
				m := &model{env: e, random: rand.New(rand.NewPCG(seed, uint64(len(t.Name())))), ttl: ttl > 0,
					repos: map[string]*modelRepo{}, data: map[digest.Digest][]byte{}, count: map[string]int{}}
				for _, name := range []string{"team/a", "team/b"} {
					m.repos[name] = &modelRepo{manifests: map[digest.Digest]*modelManifest{}, tags: map[string]digest.Digest{}}
				}
				e.limit(1<<50, 0, 0) // so that it is counted
				for n := range steps {
					if t.Failed() {
						t.Fatalf("at step %d of seed %d", n, seed)
					}
					if m.random.IntN(4) == 0 {
						m.older(time.Duration(m.random.IntN(16)) * time.Hour)
					}
					if m.random.IntN(5) > 0 {
						name, done, _, err := m.step(e.r)
						if err != nil {
							t.Fatalf("step %d of seed %d, %s: %v", n, seed, name, err)
						}
						done()
						m.count[name]++
					} else {
						m.dying()
					}
					m.collected()
					if n%10 == 0 {
						m.verify()
						m.balanced(fmt.Sprint("at step ", n))
					}
				}
				m.verify()
				m.drained()
				m.balanced("in the end")
				delete(m.count, "")
				testenv.Report(t, "seed %d: %d steps, %v", seed, steps, m.count)
			})
		})
	}
}

// dying is a step by a process that dies in it, perhaps.
func (m *model) dying() {
	db := m.openDB()
	process := &mortal{Store: m.store(), db: db, left: m.random.IntN(3)}
	name, done, touched, err := m.step(New(db, process, m.o))
	switch {
	case process.when == "" && err == nil:
		done()
		m.count[name]++
	case process.when == "":
		m.Errorf("%s without a death: %v", name, err)
	default:
		m.count["deaths"]++
		if touched != nil {
			touched(m.r)
		}
	}
	db.Close()
}

// drained lets so much time pass that all garbage is collected, and compares what is left exactly.
func (m *model) drained() {
	m.Helper()
	for again := true; again; { // long chains of referrers go one a day
		again = false
		m.older(30 * time.Hour)
		_, err := collecting(m.r).ExpireUploads(m.ctx)
		m.ok(err)
		before := m.count["collected manifests"]
		m.collect(m.r)
		m.collected()
		for _, in := range m.repos {
			for d := range in.manifests {
				again = again || m.mustGo(in, d)
			}
		}
		if again && m.count["collected manifests"] == before {
			m.Fatal("there are manifests that may go and do not")
		}
	}
	for range 3 { // then what they needed
		m.older(30 * time.Hour)
		m.collect(m.r)
	}
	m.verify()
	var manifests, links, blobs []string
	for name, in := range m.repos {
		linked := map[digest.Digest]bool{}
		for d, one := range in.manifests {
			manifests = append(manifests, name+" "+string(d))
			for _, b := range one.blobs {
				linked[b] = true
			}
		}
		for _, d := range keysOf(linked) {
			links = append(links, name+" "+string(d))
			blobs = append(blobs, string(d))
		}
	}
	slices.Sort(blobs)
	for _, c := range []struct {
		what, query string
		want        []string
	}{
		{"manifests", `SELECT r.name || ' ' || m.digest FROM manifests m JOIN repositories r ON r.id = m.repository_id`, manifests},
		{"links", `SELECT r.name || ' ' || l.digest FROM repository_blobs l JOIN repositories r ON r.id = l.repository_id`, links},
		{"blobs", `SELECT digest FROM blobs`, slices.Compact(blobs)},
	} {
		got := m.strings(c.query)
		slices.Sort(got)
		slices.Sort(c.want)
		if !slices.Equal(got, c.want) {
			m.Errorf("in the end there are the %s %v, want %v", c.what, got, c.want)
		}
	}
	if n := m.queued(); n > 0 {
		m.Errorf("in the end %d are in queues", n)
	}
	m.settled()
}
