package registry

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"berth/metadata"
	"berth/oci"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// tagAt pushes a small image under a tag, as if that was so long ago.
func (e *env) tagAt(repo, tag, content string, ago time.Duration) digest.Digest {
	e.Helper()
	raw := e.image(e.r, repo, content)
	e.pushManifest(e.r, repo, tagged(tag), nil, v1.MediaTypeImageManifest, raw)
	_, err := e.raw.ExecContext(e.ctx, `UPDATE tags SET updated_at = $1 WHERE name = $2`, e.clock.Now().Add(-ago).UnixMicro(), tag)
	e.ok(err)
	return digest.FromBytes(raw)
}

func (e *env) retain(repo string, rules ...metadata.RetentionRule) {
	e.Helper()
	e.ok(e.r.db.Update(e.ctx, func(tx *metadata.Tx) error {
		return tx.SetRepositoryRetention(e.ctx, repo, &metadata.RetentionPolicy{Rules: append([]metadata.RetentionRule{}, rules...)}, alice)
	}))
}

func (e *env) policy(mode string) {
	e.Helper()
	e.ok(e.r.db.Update(e.ctx, func(tx *metadata.Tx) error {
		return tx.SetInstanceTagPolicy(e.ctx, metadata.TagPolicy{Mode: mode, Exempt: []string{"latest", "dev-*", "sha256-*"}})
	}))
}

// fates is what a dry run says, by tag: keep, or the rule that lets it go.
func (e *env) fates(repo string) map[string]string {
	e.Helper()
	fates := map[string]string{}
	report, err := e.r.DryRunRetention(e.ctx, repo, nil, "", 3)
	e.ok(err)
	kept, deleted := report.Kept, report.Deleted
	for {
		for _, d := range report.Tags {
			fates[d.Tag] = "keep"
			if !d.Keep {
				fates[d.Tag] = d.Rule
				deleted--
			} else {
				kept--
			}
			if len(d.Reasons) == 0 {
				e.Errorf("nothing is said of %s", d.Tag)
			}
		}
		if report.Next == "" {
			break
		}
		report, err = e.r.DryRunRetention(e.ctx, repo, nil, report.Next, 3)
		e.ok(err)
	}
	if kept != 0 || deleted != 0 {
		e.Errorf("the counts of the dry run are off by %d and %d", kept, deleted)
	}
	return fates
}

func (e *env) tags(repo string) []string {
	e.Helper()
	tags, err := e.r.TagNames(e.ctx, repo, "", 10_000)
	e.ok(err)
	return tags
}

// Each rule keeps what it says, immutable tags go only by a rule that says so, and a
// run deletes exactly what the dry run before it shows.
func TestRetention(t *testing.T) {
	five, none := 2, 0
	cases := []struct {
		name  string
		mode  string
		rules []metadata.RetentionRule
		want  map[string]string // what goes, by which rule
	}{
		{"no rules", metadata.Mutable, nil, nil},
		{"keep all that match", metadata.Mutable, []metadata.RetentionRule{{Name: "v", Tags: []string{"v*", "latest"}}},
			map[string]string{"dev-1": "unmatched", "dev-2": "unmatched", "dev-3": "unmatched"}},
		{"newest", metadata.Mutable, []metadata.RetentionRule{{Name: "few", Tags: []string{"v?"}, Newest: &five}, {Name: "all", Tags: []string{"dev-*", "latest"}}},
			map[string]string{"v1": "few", "v2": "few"}},
		{"age", metadata.Mutable, []metadata.RetentionRule{{Name: "young", YoungerThan: 48 * time.Hour}},
			map[string]string{"v1": "young", "v2": "young", "dev-1": "young", "dev-2": "young"}},
		{"pulled", metadata.Mutable, []metadata.RetentionRule{{Name: "used", PulledWithin: 47 * time.Hour}},
			map[string]string{"v1": "used", "dev-1": "used", "dev-2": "used"}},
		{"any rule keeps", metadata.Mutable, []metadata.RetentionRule{{Name: "few", Newest: &five}, {Name: "one", Tags: []string{"v1"}}, {Name: "used", Tags: []string{"v2"}, PulledWithin: 47 * time.Hour}},
			map[string]string{"v3": "few", "dev-1": "few", "dev-2": "few", "dev-3": "few"}},
		{"immutable ones stay", metadata.Immutable, []metadata.RetentionRule{{Name: "nothing", Newest: &none}},
			map[string]string{"dev-1": "nothing", "dev-2": "nothing", "dev-3": "nothing", "latest": "nothing"}},
		{"immutable ones go by the rule that says so", metadata.Immutable,
			[]metadata.RetentionRule{{Name: "dev", Tags: []string{"*-1", "v3"}, Newest: &none}, {Name: "v", Tags: []string{"v*"}, Newest: &five, DeleteImmutable: true}, {Name: "latest", Tags: []string{"latest"}}},
			map[string]string{"dev-1": "dev", "dev-2": "unmatched", "dev-3": "unmatched", "v1": "v", "v2": "v"}},
		{"sealed ones stay", metadata.Sealed, []metadata.RetentionRule{{Name: "nothing", Newest: &none, DeleteImmutable: true}},
			map[string]string{"dev-1": "nothing", "dev-2": "nothing", "dev-3": "nothing", "latest": "nothing"}},
	}
	onEach(t, func(t *testing.T, e *env) {
		for i, c := range cases {
			t.Run(c.name, func(t *testing.T) {
				e.TB = t
				repo := fmt.Sprintf("team/app%d", i)
				e.policy(metadata.Mutable)
				_, err := e.raw.ExecContext(e.ctx, `UPDATE retention_state SET pulls_since = 0`)
				e.ok(err)
				for n, tag := range []string{"v4", "v3", "dev-3", "v2", "dev-2", "v1", "dev-1"} {
					e.tagAt(repo, tag, fmt.Sprint(i, tag), time.Duration(n)*20*time.Hour)
				}
				e.tagAt(repo, "latest", fmt.Sprint(i, "latest"), time.Hour)
				puller := e.replica() // e.r has read what it pushed
				_, err = puller.HeadManifest(e.ctx, repo, tagged("v2"))
				e.ok(err)
				if n, err := puller.RecordPulls(e.ctx); err != nil || n != 1 {
					t.Fatal(n, err)
				}
				e.policy(c.mode)
				if c.rules != nil {
					e.retain(repo, c.rules...)
				}
				before := e.tags(repo)
				goes := e.fates(repo)
				maps.DeleteFunc(goes, func(_, fate string) bool { return fate == "keep" })
				if !maps.Equal(goes, c.want) {
					t.Errorf("the dry run lets go %v, want %v", goes, c.want)
				}
				report, err := e.r.RunRetention(e.ctx, repo, 1000)
				e.ok(err)
				left := e.tags(repo)
				gone := slices.DeleteFunc(slices.Clone(before), func(tag string) bool { return slices.Contains(left, tag) })
				if want := slices.Sorted(maps.Keys(goes)); !slices.Equal(gone, want) || report.Deleted != len(want) || report.Kept != len(left) || report.More {
					t.Errorf("the run has deleted %v, the dry run said %v; %+v", gone, want, report)
				}
				for tag, rule := range goes {
					actor := e.strings(`SELECT actor FROM tag_history WHERE repository = $1 AND tag = $2 AND action = 'delete'`, repo, tag)
					if !slices.Equal(actor, []string{"retention:" + rule}) {
						t.Errorf("%s was deleted by %v, want the rule %s", tag, actor, rule)
					}
				}
			})
		}
	})
}

// What retention has let go goes after the undo window, though untagged
// manifests are kept; what an index needs stays, and so do a signature's tag and a
// restored tag.
func TestRetentionFreesSpace(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		e.o.UndoWindow = day
		e.r = e.replica()
		e.policy(metadata.Mutable)
		g := e.graph() // latest is the index
		old := e.tagAt(repo, "old", "old", 100*day)
		restored := e.tagAt(repo, "restored", "restored", 100*day)
		byHand := e.tagAt(repo, "by-hand", "by hand", 100*day)
		e.ok(e.r.db.Update(e.ctx, func(tx *metadata.Tx) error {
			r, err := tx.Repository(e.ctx, repo)
			if err == nil {
				_, err = tx.PutTag(e.ctx, r.ID, "child", g.child1, as(alice).Audit)
			}
			return err
		}))
		fallback := oci.ReferrersTag(g.index)
		orphan := oci.ReferrersTag(digest.FromString("nothing"))
		for _, tag := range []string{fallback, fallback + ".sig", orphan} {
			e.tagAt(repo, tag, tag, 100*day)
		}
		_, err := e.raw.ExecContext(e.ctx, `UPDATE tags SET updated_at = 1 WHERE name <> 'latest'`)
		e.ok(err)
		one := 1
		e.retain(repo, metadata.RetentionRule{Name: "few", Newest: &one})
		e.ok(e.r.DeleteTag(e.ctx, as(alice), repo, "by-hand"))
		n, err := e.r.ApplyRetention(e.ctx, day)
		for n > 0 && err == nil {
			n, err = e.r.ApplyRetention(e.ctx, day)
		}
		e.ok(err)
		if got, want := e.tags(repo), []string{"latest", fallback, fallback + ".sig"}; !slices.Equal(got, want) {
			t.Fatalf("tags %v, want %v", got, want)
		}
		e.restore("restored", "")
		e.collect(e.r)
		e.there(repo, old, restored, byHand, g.child1)
		for range 3 {
			e.age(day)
			e.collect(e.r)
		}
		e.gone(repo, old, digest.FromString(`{"name":"old"}`), digest.FromString("layer of old"))
		e.there(repo, g.index, g.child1, g.child2, g.signature, g.untagged, restored, byHand)

		e.settled()
	})
}

// The lifetime of untagged manifests is that of the nearest policy, also for what waits already.
func TestUntaggedTTL(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		push := func(repo string) digest.Digest {
			raw := e.image(e.r, repo, repo)
			e.pushManifest(e.r, repo, digested(digest.FromBytes(raw)), nil, v1.MediaTypeImageManifest, raw)
			return digest.FromBytes(raw)
		}
		e.ok(e.r.db.Update(e.ctx, func(tx *metadata.Tx) error {
			_, err := tx.CreateTeam(e.ctx, "short", "")
			return err
		}))
		names := []string{"short/a", "short/b", "other/a"}
		digests := map[string]digest.Digest{}
		for _, name := range names {
			digests[name] = push(name)
		}
		e.age(10 * day)
		e.collect(e.r)
		set := func(repository string, ttl time.Duration) {
			t.Helper()
			p := &metadata.RetentionPolicy{UntaggedTTL: &ttl}
			if ttl < 0 {
				p = nil
			}
			e.ok(e.r.db.Update(e.ctx, func(tx *metadata.Tx) error {
				if repository == "" {
					return tx.SetTeamRetention(e.ctx, "short", p, alice)
				}
				return tx.SetRepositoryRetention(e.ctx, repository, p, alice)
			}))
		}
		left := func() (left []string) {
			t.Helper()
			e.collect(e.r)
			for _, name := range names {
				if e.has(name, digests[name]) {
					left = append(left, name)
				}
			}
			return left
		}
		want := func(want ...string) {
			t.Helper()
			if got := left(); !slices.Equal(got, want) {
				t.Errorf("left %v, want %v", got, want)
			}
		}
		want("short/a", "short/b", "other/a")
		set("", 20*day)
		set("short/b", 0)
		want("short/a", "short/b", "other/a")
		e.age(10 * day)
		want("short/b", "other/a")
		e.o.UntaggedTTL = 5 * day // the instance's, which the nearer one overrules
		e.r = e.replica()
		want("short/b")
		set("short/b", -1) // now the team's
		want()
		digests["short/a"] = push("short/a")
		set("short/a", 40*day)
		e.age(20 * day)
		want("short/a")
		set("short/a", 10*day)
		want()
	})
}

// A tag that is pushed while retention deletes it is there afterwards: with the
// new image, or, when the push came first, not deleted at all.
func TestRetentionRace(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		e.policy(metadata.Mutable)
		none := 0
		pushed := e.image(e.r, repo, "pushed")
		stayed, anew := 0, 0
		for i := range 15 {
			e.tagAt(repo, "dev", "old", 100*day)
			e.retain(repo, metadata.RetentionRule{Name: "old", YoungerThan: day}, metadata.RetentionRule{Name: "none", Newest: &none})
			start := make(chan struct{})
			var group sync.WaitGroup
			for range 2 {
				r := e.replica()
				group.Go(func() {
					<-start
					if _, err := r.RunRetention(e.ctx, repo, 100); err != nil {
						t.Error(err)
					}
				})
			}
			group.Go(func() {
				<-start
				time.Sleep(time.Duration(i) * 300 * time.Microsecond)
				e.pushManifest(e.r, repo, tagged("dev"), nil, v1.MediaTypeImageManifest, pushed)
			})
			close(start)
			group.Wait()
			m, err := e.r.HeadManifest(e.ctx, repo, tagged("dev"))
			e.ok(err)
			if m.Digest != digest.FromBytes(pushed) {
				t.Fatalf("the tag gives %s", m.Digest)
			}
			last := e.strings(`SELECT action FROM tag_history WHERE tag = 'dev' ORDER BY id DESC LIMIT 1`)[0]
			switch last {
			case "move":
				stayed++
			case "create":
				anew++
			default:
				t.Errorf("the last thing that happened is %s", last)
			}
			e.ok(e.r.DeleteTag(e.ctx, as(alice), repo, "dev"))
		}
		t.Logf("the push was first %d times, retention %d times", stayed, anew)
	})
}

// A decision that is out of date deletes nothing: the tag has moved, its policy
// has become stricter, or the rules are others.
func TestRetentionStale(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		e.policy(metadata.Mutable)
		none := 0
		for _, tag := range []string{"v1", "v2", "v3"} {
			e.tagAt(repo, tag, tag, day)
		}
		e.retain(repo, metadata.RetentionRule{Name: "none", Newest: &none})
		var run *metadata.RetentionRun
		var page []metadata.RetentionDecision
		decide := func() {
			t.Helper()
			e.ok(e.r.db.View(e.ctx, func(tx *metadata.Tx) (err error) {
				if run, err = tx.RetentionRun(e.ctx, repo, nil); err == nil {
					page, err = tx.DecideRetention(e.ctx, run, "", 100)
				}
				return err
			}))
		}
		apply := func() (deleted []string, err error) {
			err = e.r.db.Update(e.ctx, func(tx *metadata.Tx) (err error) {
				deleted, err = tx.DeleteByRetention(e.ctx, run, page)
				return err
			})
			return deleted, err
		}
		decide()
		e.pushManifest(e.r, repo, tagged("v2"), nil, v1.MediaTypeImageManifest, e.image(e.r, repo, "another"))
		if deleted, err := apply(); err != nil || strings.Join(deleted, " ") != "v1 v3" {
			t.Errorf("deleted %v, %v", deleted, err)
		}
		decide()
		e.policy(metadata.Immutable)
		if deleted, err := apply(); err != nil || len(deleted) > 0 {
			t.Errorf("deleted the immutable %v, %v", deleted, err)
		}
		e.policy(metadata.Mutable)
		e.retain(repo, metadata.RetentionRule{Name: "all"})
		if deleted, err := apply(); !errors.Is(err, metadata.ErrRetentionChanged) || len(deleted) > 0 {
			t.Errorf("deleted %v by rules of yesterday, %v", deleted, err)
		}
		e.retain(repo, metadata.RetentionRule{Name: "none", Newest: &none, DeleteImmutable: true})
		decide()
		e.policy(metadata.Sealed)
		if deleted, err := apply(); err != nil || len(deleted) > 0 {
			t.Errorf("deleted the sealed %v, %v", deleted, err)
		}
		if got := e.tags(repo); !slices.Equal(got, []string{"v2"}) {
			t.Errorf("tags %v", got)
		}
	})
}

// The rules of a team are applied to its repositories but those with rules of their own,
// a bounded part at a time, and by whichever process comes.
func TestApplyRetention(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		e.policy(metadata.Mutable)
		none := 0
		e.ok(e.r.db.Update(e.ctx, func(tx *metadata.Tx) error {
			_, err := tx.CreateTeam(e.ctx, "team", "")
			return err
		}))
		for _, name := range []string{"team/a", "team/b", "team/c", "other/a"} {
			e.tagAt(name, "v1", name, day)
		}
		e.retain("team/b", metadata.RetentionRule{Name: "all"})
		e.ok(e.r.db.Update(e.ctx, func(tx *metadata.Tx) error {
			return tx.SetTeamRetention(e.ctx, "team", &metadata.RetentionPolicy{Rules: []metadata.RetentionRule{{Name: "none", Newest: &none}}}, alice)
		}))
		passes := 0
		for n := 1; n > 0; passes++ {
			var err error
			n, err = e.replica().ApplyRetention(e.ctx, day) // each pass in another process
			e.ok(err)
		}
		for name, want := range map[string]int{"team/a": 0, "team/b": 1, "team/c": 0, "other/a": 1} {
			if got := len(e.tags(name)); got != want {
				t.Errorf("%s has %d tags, want %d", name, got, want)
			}
		}
		e.tagAt("team/a", "v2", "v2", day)
		if n, err := e.r.ApplyRetention(e.ctx, day); n > 0 || err != nil {
			t.Errorf("%d things were due, %v", n, err)
		}
		e.clock.Add(day)
		for n := 1; n > 0; {
			var err error
			n, err = e.r.ApplyRetention(e.ctx, day)
			e.ok(err)
		}
		if got := e.tags("team/a"); len(got) > 0 {
			t.Errorf("a day later there still are %v", got)
		}
		t.Logf("%d passes", passes)
	})
}

// A pull is noted once an hour, and survives a database that was away.
func TestRecordPulls(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		d := e.tagAt(repo, "v1", "v1", 0)
		e.r = e.replica() // the other one has read what it pushed
		record := func(want int) {
			t.Helper()
			n, err := e.r.RecordPulls(e.ctx)
			e.ok(err)
			if n != want {
				t.Errorf("%d pulls recorded, want %d", n, want)
			}
		}
		record(0)
		for range 3 {
			_, err := e.r.Manifest(e.ctx, repo, tagged("v1"))
			e.ok(err)
			_, err = e.r.HeadManifest(e.ctx, repo, digested(d))
			e.ok(err)
		}
		record(1)
		first := e.strings(`SELECT pulled_at FROM manifest_pulls`)
		_, err := e.r.Manifest(e.ctx, repo, tagged("v1"))
		e.ok(err)
		record(0)
		e.clock.Add(pullEvery)
		_, err = e.r.Manifest(e.ctx, repo, tagged("v1"))
		e.ok(err)
		ended, cancel := context.WithCancel(e.ctx)
		cancel()
		if _, err := e.r.RecordPulls(ended); err == nil {
			t.Error("recorded in a context that has ended")
		}
		record(1)
		if now := e.strings(`SELECT pulled_at FROM manifest_pulls`); len(now) != 1 || now[0] <= first[0] {
			t.Errorf("pulled at %v, before at %v", now, first)
		}
		_, err = e.r.Manifest(e.ctx, repo, digested(digest.FromString("nothing")))
		e.is(err, oci.ErrManifestUnknown)
		record(0)
		_, err = e.r.DeleteManifest(e.ctx, as(alice), repo, d)
		e.ok(err)
		if left := e.strings(`SELECT manifest_id FROM manifest_pulls`); len(left) > 0 {
			t.Errorf("left over: %v", left)
		}
	})
}
