package metadata_test

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"berth/metadata"
	"berth/metadata/metadatatest"
	"berth/oci"
)

func TestPutTag(t *testing.T) {
	metadatatest.EachURL(t, func(t *testing.T, url string) {
		var clock metadatatest.Clock
		db := metadatatest.Open(t, metadata.Options{URL: url, Clock: clock.Now})
		r := repo(t, db, "team/app")
		one, two := manifest(t, db, r, "one"), manifest(t, db, r, "two")
		pushed := clock.Now()

		if c := tag(t, db, r, "1.0", one, "alice"); c != (metadata.TagChange{Created: true}) {
			t.Errorf("new tag: %+v", c)
		}
		clock.Advance(time.Hour)
		if c := tag(t, db, r, "1.0", one, "bob"); c != (metadata.TagChange{}) {
			t.Errorf("same digest again: %+v", c)
		}
		_, err := putTag(db, r, "1.0", two, "bob")
		e := wantErr(t, err, oci.ErrTagImmutable)
		for _, part := range []string{"1.0", "team/app", "immutable", one.String(), "2026-01-02T03:04:05Z", "alice", "maintainer", "another tag"} {
			if !strings.Contains(e.Message, part) {
				t.Errorf("the message %q does not name %q", e.Message, part)
			}
		}
		detail := e.Detail.(map[string]any)
		if detail["tag"] != "1.0" || detail["digest"] != one || detail["pushed_by"] != "alice" || detail["policy"] != "immutable" || !detail["pushed_at"].(time.Time).Equal(pushed) {
			t.Errorf("detail %v", detail)
		}

		// latest is exempt by default.
		if c := tag(t, db, r, "latest", one, "alice"); !c.Created {
			t.Errorf("new latest: %+v", c)
		}
		if c := tag(t, db, r, "latest", two, "bob"); c != (metadata.TagChange{Moved: true, Previous: one}) {
			t.Errorf("moved at the same time of the clock: %+v", c)
		}
		clock.Advance(time.Hour)
		if c := tag(t, db, r, "latest", one, "carol"); c != (metadata.TagChange{Moved: true, Previous: two}) {
			t.Errorf("moved back: %+v", c)
		}
		if c := tag(t, db, r, "latest", one, "dave"); c != (metadata.TagChange{}) {
			t.Errorf("same digest again: %+v", c)
		}

		view(t, db, func(ctx context.Context, tx *metadata.Tx) error {
			got, err := tx.Tag(ctx, "team/app", "1.0")
			want := metadata.Tag{Name: "1.0", Digest: one, MediaType: oci.MediaTypeImageManifest, Size: 3,
				Mode: metadata.Immutable, CreatedAt: pushed, UpdatedAt: pushed, UpdatedBy: "alice"}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("got %+v\nwant %+v", got, want)
			}
			if err != nil {
				return err
			}
			got, err = tx.Tag(ctx, "team/app", "latest")
			want = metadata.Tag{Name: "latest", Digest: one, MediaType: oci.MediaTypeImageManifest, Size: 3,
				Mode: metadata.Mutable, CreatedAt: pushed.Add(time.Hour), UpdatedAt: pushed.Add(2 * time.Hour), UpdatedBy: "carol"}
			if err != nil || !reflect.DeepEqual(got, want) {
				t.Errorf("got %+v, %v\nwant %+v", got, err, want)
			}
			_, missing := tx.Tag(ctx, "team/app", "nope")
			wantErr(t, missing, oci.ErrManifestUnknown)
			_, missing = tx.Tag(ctx, "team/nope", "1.0")
			wantErr(t, missing, oci.ErrNameUnknown)

			events, err := tx.TagHistory(ctx, "team/app", "latest", 0, 10)
			if len(events) != 3 {
				t.Fatalf("history %+v", events)
			}
			e := events[0]
			e.ID = 0
			if want := (metadata.TagEvent{Tag: "latest", Action: "move", Digest: one, Previous: two, Actor: "carol", At: pushed.Add(2 * time.Hour)}); !reflect.DeepEqual(e, want) {
				t.Errorf("newest event %+v", e)
			}
			older, err2 := tx.TagHistory(ctx, "team/app", "latest", events[0].ID, 1)
			if len(older) != 1 || !reflect.DeepEqual(older[0], events[1]) {
				t.Errorf("second page %+v, want %+v", older, events[1])
			}
			return errors.Join(err, err2)
		})

		// A tag needs its manifest.
		_, err = putTag(db, r, "2.0", digest.FromString("nothing"), "alice")
		wantErr(t, err, oci.ErrManifestUnknown)
	})
}

func TestDeleteTag(t *testing.T) {
	metadatatest.Each(t, func(t *testing.T, db *metadata.DB) {
		r := repo(t, db, "team/app")
		d := manifest(t, db, r, "one")
		tag(t, db, r, "1.0", d, "alice")
		ctx := context.Background()
		remove := func(repository, name string) error {
			return db.Update(ctx, func(tx *metadata.Tx) error { _, err := tx.DeleteTag(ctx, repository, name, by("maria")); return err })
		}
		if err := remove("team/app", "1.0"); err != nil {
			t.Fatal(err)
		}
		wantErr(t, remove("team/app", "1.0"), oci.ErrManifestUnknown)
		wantErr(t, remove("team/nope", "1.0"), oci.ErrNameUnknown)
		two := manifest(t, db, r, "two")
		if c := tag(t, db, r, "1.0", two, "bob"); !c.Created {
			t.Errorf("a deleted tag is free again: %+v", c)
		}
		if got, want := history(t, db, "team/app", "1.0"), []string{"create alice", "delete maria", "create bob"}; !slices.Equal(got, want) {
			t.Errorf("history %q, want %q", got, want)
		}
	})
}

// 64 pushers, 64 manifests, one tag, on two handles as two replicas: one wins.
func TestTagRace(t *testing.T) {
	metadatatest.EachURL(t, func(t *testing.T, url string) {
		for _, replicas := range []int{1, 2} {
			t.Run(fmt.Sprintf("%d replicas", replicas), func(t *testing.T) {
				var dbs []*metadata.DB
				for range replicas {
					dbs = append(dbs, metadatatest.Open(t, metadata.Options{URL: url}))
				}
				name := fmt.Sprintf("team/race%d", replicas)
				r := repo(t, dbs[0], name)
				const pushers = 64
				errs := make([]error, pushers)
				changes := make([]metadata.TagChange, pushers)
				start := make(chan struct{})
				var wg sync.WaitGroup
				for i := range pushers {
					wg.Go(func() {
						db, actor, ctx := dbs[i%replicas], fmt.Sprintf("user%d", i), context.Background()
						m := image(fmt.Sprintf("%s %d", name, i))
						<-start
						errs[i] = db.Update(ctx, func(tx *metadata.Tx) error {
							if _, err := tx.PutManifest(ctx, r, m, nil, nil, false); err != nil {
								return err
							}
							var err error
							changes[i], err = tx.PutTag(ctx, r, "1.0", m.Digest, by(actor))
							return err
						})
						if errors.Is(errs[i], oci.ErrTagImmutable) {
							if err := db.Update(ctx, func(tx *metadata.Tx) error {
								return tx.RecordRefusal(ctx, name, "1.0", m.Digest, by(actor))
							}); err != nil {
								t.Errorf("recording a refusal: %v", err)
							}
						}
					})
				}
				close(start)
				wg.Wait()
				winner, refused := -1, 0
				for i, err := range errs {
					switch {
					case err == nil && winner >= 0:
						t.Errorf("two winners: %d and %d", winner, i)
					case err == nil:
						winner = i
						if !changes[i].Created {
							t.Errorf("the winner's change: %+v", changes[i])
						}
					case errors.Is(err, oci.ErrTagImmutable):
						refused++
					default:
						t.Errorf("pusher %d: %v", i, err)
					}
				}
				if winner < 0 || refused != pushers-1 {
					t.Fatalf("winner %d, %d refused", winner, refused)
				}
				lines := history(t, dbs[0], name, "1.0")
				if len(lines) != pushers || lines[0] != fmt.Sprintf("create user%d", winner) {
					t.Errorf("history %q", lines)
				}
				tried := map[string]bool{}
				for _, l := range lines[1:] {
					if actor, ok := strings.CutPrefix(l, "refused "); ok {
						tried[actor] = true
					}
				}
				if len(tried) != pushers-1 {
					t.Errorf("%d refused pushers in the history, want %d", len(tried), pushers-1)
				}
				view(t, dbs[0], func(ctx context.Context, tx *metadata.Tx) error {
					m, err := tx.ManifestByTag(ctx, name, "1.0")
					if want := image(fmt.Sprintf("%s %d", name, winner)); m.Digest != want.Digest {
						t.Errorf("the tag points to %s, the winner pushed %s", m.Digest, want.Digest)
					}
					return err
				})
			})
		}
	})
}

// A mutable tag takes every push, also when all of them are the first.
func TestMutableTagRace(t *testing.T) {
	metadatatest.EachURL(t, func(t *testing.T, url string) {
		dbs := []*metadata.DB{metadatatest.Open(t, metadata.Options{URL: url}), metadatatest.Open(t, metadata.Options{URL: url})}
		r := repo(t, dbs[0], "team/app")
		const pushers, rounds = 16, 10
		for round := range rounds {
			name := fmt.Sprintf("%d-SNAPSHOT", round)
			var digests []digest.Digest
			for i := range pushers {
				digests = append(digests, manifest(t, dbs[0], r, fmt.Sprintf("%d %d", round, i)))
			}
			var wg sync.WaitGroup
			start := make(chan struct{})
			for i := range pushers {
				wg.Go(func() {
					<-start
					if _, err := putTag(dbs[i%2], r, name, digests[i], fmt.Sprintf("user%d", i)); err != nil {
						t.Errorf("%s: %v", name, err)
					}
				})
			}
			close(start)
			wg.Wait()
			if lines := history(t, dbs[0], "team/app", name); len(lines) != pushers {
				t.Errorf("history of %s: %d lines, want %d", name, len(lines), pushers)
			}
		}
	})
}

// defaultExempt are the tags that a new registry lets move, in the order of their names.
var defaultExempt = []string{"*-SNAPSHOT", "*-buildcache", "buildcache", "buildcache-*", "cache", "latest", "sha256-*", "sha512-*"}

// On a new registry the second run of a CI works: its build caches move, and so do the tags that cosign
// and the referrers fallback keep under a digest. Versions, branches and what only looks like those do not.
// The refusal says which tags move.
func TestTagsThatMoveOnANewRegistry(t *testing.T) {
	hex := strings.Repeat("0a", 32)
	metadatatest.Each(t, func(t *testing.T, db *metadata.DB) {
		r := repo(t, db, "core/app")
		one, two := manifest(t, db, r, "one"), manifest(t, db, r, "two")
		for name, moves := range map[string]bool{
			"latest": true, "1.0-SNAPSHOT": true,
			"buildcache": true, "buildcache-arm64": true, "feature-x-buildcache": true, "cache": true,
			"sha256-" + hex: true, "sha256-" + hex + ".sig": true, "sha256-" + hex + ".att": true, "sha256-" + hex + ".sbom": true, "sha512-" + hex + hex: true,
			"1.0": false, "v1.2.3": false, "main": false, "sha-0a0a0a0": false, "1.0-cache": false, "cache-1.0": false, "cached": false,
			"buildcache2": false, "1.0.sig": false, "v1.sbom": false, "sha256": false, "latest-1": false, "1.0-snapshot": false,
		} {
			tag(t, db, r, name, one, "alice")
			_, err := putTag(db, r, name, two, "alice")
			if moves {
				if err != nil {
					t.Errorf("%s does not move: %v", name, err)
				}
				continue
			}
			if e := wantErr(t, err, oci.ErrTagImmutable); !strings.HasSuffix(e.Message, "Tags that may move here: "+strings.Join(defaultExempt, ", ")) {
				t.Errorf("%s: the message %q does not say which tags move", name, e.Message)
			}
		}
		// A policy without exemptions has none to name, and of a long one a refusal names the first.
		var many []string
		for i := range 20 {
			many = append(many, fmt.Sprintf("dev-%02d", i))
		}
		for _, policy := range []struct {
			exempt []string
			end    string
		}{{nil, "No tag may move here"}, {many, "dev-10, dev-11, ..."}} {
			update(t, db, func(ctx context.Context, tx *metadata.Tx) error {
				return tx.SetRepositoryTagPolicy(ctx, "core/app", &metadata.TagPolicy{Mode: metadata.Immutable, Exempt: policy.exempt})
			})
			_, err := putTag(db, r, "1.0", two, "alice")
			if e := wantErr(t, err, oci.ErrTagImmutable); !strings.HasSuffix(e.Message, policy.end) {
				t.Errorf("the message %q does not end with %q", e.Message, policy.end)
			}
		}
	})
}

func TestTagPolicyLevels(t *testing.T) {
	mutable := &metadata.TagPolicy{Mode: metadata.Mutable}
	immutable := &metadata.TagPolicy{Mode: metadata.Immutable}
	sealed := &metadata.TagPolicy{Mode: metadata.Sealed}
	globs := &metadata.TagPolicy{Mode: metadata.Immutable, Exempt: []string{"dev-*", "v?", "a_b", "nightly"}}
	cases := []struct {
		name                       string
		instance, team, repository *metadata.TagPolicy
		tag                        string
		mode, level                string // effective mode of the tag; level of the policy
		canMove, canDelete         bool
	}{
		{name: "default", tag: "1.0", mode: "immutable", level: "instance", canDelete: true},
		{name: "default exempt", tag: "latest", mode: "mutable", level: "instance", canMove: true, canDelete: true},
		{name: "default exempt glob", tag: "1-SNAPSHOT", mode: "mutable", level: "instance", canMove: true, canDelete: true},
		{name: "instance mutable", instance: mutable, tag: "1.0", mode: "mutable", level: "instance", canMove: true, canDelete: true},
		{name: "instance sealed", instance: sealed, tag: "1.0", mode: "sealed", level: "instance"},
		{name: "team over instance", instance: sealed, team: mutable, tag: "1.0", mode: "mutable", level: "team", canMove: true, canDelete: true},
		{name: "team without exemptions", team: immutable, tag: "latest", mode: "immutable", level: "team", canDelete: true},
		{name: "repository over team", team: mutable, repository: sealed, tag: "1.0", mode: "sealed", level: "repository"},
		{name: "repository over instance", instance: sealed, repository: immutable, tag: "1.0", mode: "immutable", level: "repository", canDelete: true},
		{name: "star", repository: globs, tag: "dev-1.2", mode: "mutable", level: "repository", canMove: true, canDelete: true},
		{name: "star matches nothing too", repository: globs, tag: "dev-", mode: "mutable", level: "repository", canMove: true, canDelete: true},
		{name: "star is anchored", repository: globs, tag: "my-dev-1", mode: "immutable", level: "repository", canDelete: true},
		{name: "question mark", repository: globs, tag: "v1", mode: "mutable", level: "repository", canMove: true, canDelete: true},
		{name: "question mark is one", repository: globs, tag: "v12", mode: "immutable", level: "repository", canDelete: true},
		{name: "underscore is no wildcard", repository: globs, tag: "axb", mode: "immutable", level: "repository", canDelete: true},
		{name: "underscore", repository: globs, tag: "a_b", mode: "mutable", level: "repository", canMove: true, canDelete: true},
		{name: "case matters", repository: globs, tag: "Nightly", mode: "immutable", level: "repository", canDelete: true},
	}
	metadatatest.Each(t, func(t *testing.T, db *metadata.DB) {
		for i, c := range cases {
			t.Run(c.name, func(t *testing.T) {
				team := fmt.Sprintf("team%d", i)
				name := team + "/app"
				r := repo(t, db, name)
				instance := c.instance
				if instance == nil {
					instance = &metadata.TagPolicy{Mode: metadata.Immutable, Exempt: defaultExempt}
				}
				update(t, db, func(ctx context.Context, tx *metadata.Tx) error {
					if _, err := tx.CreateTeam(ctx, team, ""); err != nil {
						return err
					}
					return errors.Join(tx.SetInstanceTagPolicy(ctx, *instance), tx.SetTeamTagPolicy(ctx, team, c.team), tx.SetRepositoryTagPolicy(ctx, name, c.repository))
				})
				one, two := manifest(t, db, r, "one"+name), manifest(t, db, r, "two"+name)
				tag(t, db, r, c.tag, one, "alice")
				view(t, db, func(ctx context.Context, tx *metadata.Tx) error {
					p, level, err := tx.EffectiveTagPolicy(ctx, name)
					want := instance
					for _, level := range []*metadata.TagPolicy{c.team, c.repository} {
						if level != nil {
							want = level
						}
					}
					if level != c.level || p.Mode != want.Mode || !slices.Equal(slices.Sorted(slices.Values(p.Exempt)), slices.Sorted(slices.Values(want.Exempt))) {
						t.Errorf("effective policy %+v of level %s, want %+v of %s", p, level, want, c.level)
					}
					if err != nil {
						return err
					}
					g, err := tx.Tag(ctx, name, c.tag)
					if g.Mode != c.mode {
						t.Errorf("mode %s, want %s", g.Mode, c.mode)
					}
					return err
				})
				_, err := putTag(db, r, c.tag, two, "bob")
				if c.canMove != (err == nil) {
					t.Errorf("moving: %v, allowed: %t", err, c.canMove)
				}
				if !c.canMove {
					if e := wantErr(t, err, oci.ErrTagImmutable); !strings.Contains(e.Message, c.mode) {
						t.Errorf("the message %q does not name the mode %s", e.Message, c.mode)
					}
				}
				ctx := context.Background()
				err = db.Update(ctx, func(tx *metadata.Tx) error { _, err := tx.DeleteTag(ctx, name, c.tag, by("bob")); return err })
				if c.canDelete != (err == nil) {
					t.Errorf("deleting: %v, allowed: %t", err, c.canDelete)
				}
				if !c.canDelete {
					wantErr(t, err, oci.ErrTagImmutable)
				}
			})
		}
	})
}

// Sealed is for ever: a softer policy later does not free the tag, nor does
// deleting what it belongs to.
func TestSealed(t *testing.T) {
	set := map[string]func(ctx context.Context, tx *metadata.Tx, p *metadata.TagPolicy) error{
		"instance": func(ctx context.Context, tx *metadata.Tx, p *metadata.TagPolicy) error {
			if p == nil {
				p = &metadata.TagPolicy{Mode: metadata.Mutable}
			}
			return tx.SetInstanceTagPolicy(ctx, *p)
		},
		"team": func(ctx context.Context, tx *metadata.Tx, p *metadata.TagPolicy) error {
			return tx.SetTeamTagPolicy(ctx, "team", p)
		},
		"repository": func(ctx context.Context, tx *metadata.Tx, p *metadata.TagPolicy) error {
			return tx.SetRepositoryTagPolicy(ctx, "team/app", p)
		},
	}
	for level, setPolicy := range set {
		t.Run(level, func(t *testing.T) {
			metadatatest.Each(t, func(t *testing.T, db *metadata.DB) {
				ctx := context.Background()
				r := repo(t, db, "team/app")
				other := repo(t, db, "other/app")
				one, two := manifest(t, db, r, "one"), manifest(t, db, r, "two")
				tag(t, db, r, "before", one, "alice")
				tag(t, db, r, "latest", one, "alice")
				tag(t, db, other, "free", manifest(t, db, other, "three"), "alice")
				update(t, db, func(ctx context.Context, tx *metadata.Tx) error {
					if _, err := tx.CreateTeam(ctx, "team", ""); err != nil {
						return err
					}
					return setPolicy(ctx, tx, &metadata.TagPolicy{Mode: metadata.Sealed, Exempt: []string{"latest"}})
				})
				tag(t, db, r, "after", one, "alice")
				update(t, db, func(ctx context.Context, tx *metadata.Tx) error {
					return setPolicy(ctx, tx, &metadata.TagPolicy{Mode: metadata.Mutable})
				})
				if level != "instance" {
					update(t, db, func(ctx context.Context, tx *metadata.Tx) error { return setPolicy(ctx, tx, nil) })
				}
				for _, name := range []string{"before", "after"} {
					_, err := putTag(db, r, name, two, "bob")
					if e := wantErr(t, err, oci.ErrTagImmutable); !strings.Contains(e.Message, "sealed") {
						t.Errorf("message %q", e.Message)
					}
					if c := tag(t, db, r, name, one, "bob"); c != (metadata.TagChange{}) {
						t.Errorf("same digest: %+v", c)
					}
					wantErr(t, db.Update(ctx, func(tx *metadata.Tx) error { _, err := tx.DeleteTag(ctx, "team/app", name, by("bob")); return err }), oci.ErrTagImmutable)
				}
				wantErr(t, db.Update(ctx, func(tx *metadata.Tx) error {
					_, err := tx.DeleteManifest(ctx, "team/app", one, by("bob"))
					return err
				}), oci.ErrTagImmutable)
				wantErr(t, db.Update(ctx, func(tx *metadata.Tx) error { return tx.DeleteRepository(ctx, "team/app", by("bob")) }), oci.ErrTagImmutable)
				view(t, db, func(ctx context.Context, tx *metadata.Tx) error {
					_, err := tx.ManifestByTag(ctx, "team/app", "before")
					return err
				})
				tag(t, db, r, "latest", two, "bob") // was exempt
				err := db.Update(ctx, func(tx *metadata.Tx) error { _, err := tx.DeleteTag(ctx, "other/app", "free", by("bob")); return err })
				if level == "instance" {
					wantErr(t, err, oci.ErrTagImmutable)
				} else if err != nil {
					t.Errorf("a tag of another team: %v", err)
				}
			})
		})
	}
}

func TestTagPolicyValidation(t *testing.T) {
	metadatatest.Each(t, func(t *testing.T, db *metadata.DB) {
		repo(t, db, "team/app")
		ctx := context.Background()
		for _, p := range []metadata.TagPolicy{
			{Mode: ""}, {Mode: "frozen"},
			{Mode: metadata.Immutable, Exempt: []string{""}},
			{Mode: metadata.Immutable, Exempt: []string{"[a-z]"}},
			{Mode: metadata.Immutable, Exempt: []string{"a,b"}},
			{Mode: metadata.Immutable, Exempt: []string{"a b"}},
			{Mode: metadata.Immutable, Exempt: []string{strings.Repeat("a", 129)}},
		} {
			wantErr(t, db.Update(ctx, func(tx *metadata.Tx) error { return tx.SetInstanceTagPolicy(ctx, p) }), oci.ErrInvalid)
			wantErr(t, db.Update(ctx, func(tx *metadata.Tx) error { return tx.SetRepositoryTagPolicy(ctx, "team/app", &p) }), oci.ErrInvalid)
		}
		wantErr(t, db.Update(ctx, func(tx *metadata.Tx) error { return tx.SetRepositoryTagPolicy(ctx, "team/nope", nil) }), oci.ErrNameUnknown)
		wantErr(t, db.Update(ctx, func(tx *metadata.Tx) error { return tx.SetTeamTagPolicy(ctx, "nope", nil) }), oci.ErrNotFound)
		view(t, db, func(ctx context.Context, tx *metadata.Tx) error {
			p, err := tx.InstanceTagPolicy(ctx)
			if p.Mode != metadata.Immutable || !slices.Equal(p.Exempt, defaultExempt) {
				t.Errorf("the instance's policy is %+v after refused changes", p)
			}
			return err
		})
	})
}

// adversarial names sort differently in most collations than in bytes.
var adversarial = []string{"A", "A0", "B", "Z_", "_", "_a", "a", "a-", "a-b", "a.", "a.b", "a0", "aA", "aB", "a_", "a_b", "aa", "ab", "b", "v1.10", "v1.9", "z", "0", "00", "1"}

func TestTagListing(t *testing.T) {
	metadatatest.Each(t, func(t *testing.T, db *metadata.DB) {
		r := repo(t, db, "team/app")
		d := manifest(t, db, r, "one")
		for _, name := range adversarial {
			tag(t, db, r, name, d, "alice")
		}
		other := repo(t, db, "team/app2")
		tag(t, db, other, "aaa", manifest(t, db, other, "one"), "alice")
		want := slices.Sorted(slices.Values(adversarial))
		view(t, db, func(ctx context.Context, tx *metadata.Tx) error {
			for _, limit := range []int{1, 2, 7, 24, 25, 26, 100} {
				var names, full []string
				for after := ""; ; {
					page, err := tx.TagNames(ctx, "team/app", after, limit)
					if err != nil {
						return err
					}
					tags, err := tx.Tags(ctx, "team/app", after, limit)
					if err != nil {
						return err
					}
					for _, g := range tags {
						full = append(full, g.Name)
						if g.Digest != d || g.Mode == "" {
							t.Errorf("tag %+v", g)
						}
					}
					names = append(names, page...)
					if len(page) < limit {
						break
					}
					after = page[len(page)-1]
				}
				if !slices.Equal(names, want) || !slices.Equal(full, want) {
					t.Errorf("pages of %d: %q and %q, want %q", limit, names, full, want)
				}
			}
			// Any string is a place to start from, also one that is no tag.
			for _, after := range []string{"a!", "a~", "Zz", "\x00", "é", "zz"} {
				if after == "\x00" && db.Engine() == "postgres" {
					continue // not a text there; no URL can carry it to here
				}
				page, err := tx.TagNames(ctx, "team/app", after, 1000)
				if err != nil {
					return err
				}
				var rest []string
				for _, n := range want {
					if n > after {
						rest = append(rest, n)
					}
				}
				if !slices.Equal(page, rest) {
					t.Errorf("after %q: %q, want %q", after, page, rest)
				}
			}
			_, err := tx.TagNames(ctx, "team/nope", "", 10)
			wantErr(t, err, oci.ErrNameUnknown)
			_, err = tx.Tags(ctx, "team/nope", "", 10)
			wantErr(t, err, oci.ErrNameUnknown)
			return nil
		})
	})
}
