package metadata_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"

	"berth/metadata"
	"berth/metadata/metadatatest"
	"berth/oci"
)

func TestEnsureRepository(t *testing.T) {
	metadatatest.EachURL(t, func(t *testing.T, url string) {
		var clock metadatatest.Clock
		db := metadatatest.Open(t, metadata.Options{URL: url, Clock: clock.Now})
		update(t, db, func(ctx context.Context, tx *metadata.Tx) error {
			_, err := tx.CreateTeam(ctx, "open", metadata.Public)
			return err
		})
		ids := map[string]int64{}
		for _, c := range []struct{ name, visibility string }{
			{"open/app", metadata.Public}, {"open", metadata.Public}, {"other/app", metadata.Internal}, {"openly/app", metadata.Internal},
		} {
			for i := range 2 {
				update(t, db, func(ctx context.Context, tx *metadata.Tx) error {
					id, created, err := tx.EnsureRepository(ctx, c.name, metadata.Internal, "alice")
					if created != (i == 0) || i > 0 && id != ids[c.name] {
						t.Errorf("%s, time %d: id %d, created %t", c.name, i, id, created)
					}
					ids[c.name] = id
					return err
				})
			}
			view(t, db, func(ctx context.Context, tx *metadata.Tx) error {
				got, err := tx.Repository(ctx, c.name)
				want := metadata.Repository{ID: ids[c.name], Name: c.name, Team: oci.Team(c.name), Visibility: c.visibility, CreatedAt: clock.Now(), CreatedBy: "alice"}
				if got != want {
					t.Errorf("got %+v\nwant %+v", got, want)
				}
				return err
			})
		}
		ctx := context.Background()
		update(t, db, func(ctx context.Context, tx *metadata.Tx) error {
			if err := tx.SetVisibility(ctx, "open/app", metadata.Private); err != nil {
				return err
			}
			return tx.SetRepositoryTagPolicy(ctx, "open/app", &metadata.TagPolicy{Mode: metadata.Immutable, Exempt: []string{"b*", "a"}})
		})
		view(t, db, func(ctx context.Context, tx *metadata.Tx) error {
			got, err := tx.Repository(ctx, "open/app")
			if got.Visibility != metadata.Private || got.TagPolicy == nil || got.TagPolicy.Mode != metadata.Immutable || !slices.Equal(got.TagPolicy.Exempt, []string{"a", "b*"}) {
				t.Errorf("got %+v with policy %+v", got, got.TagPolicy)
			}
			_, e := tx.Repository(ctx, "no/repo")
			wantErr(t, e, oci.ErrNameUnknown)
			return err
		})
		wantErr(t, db.Update(ctx, func(tx *metadata.Tx) error { return tx.SetVisibility(ctx, "no/repo", metadata.Public) }), oci.ErrNameUnknown)
	})
}

func TestDeleteRepository(t *testing.T) {
	metadatatest.Each(t, func(t *testing.T, db *metadata.DB) {
		r, other := repo(t, db, "team/app"), repo(t, db, "team/other")
		d := blob(t, db, r, "layer")
		blob(t, db, other, "layer")
		child := manifest(t, db, r, "child")
		index := image("index")
		outer := image("outer index")
		update(t, db, func(ctx context.Context, tx *metadata.Tx) error {
			if _, err := tx.PutManifest(ctx, r, index, []digest.Digest{d}, []digest.Digest{child}, false); err != nil {
				return err
			}
			if _, err := tx.PutManifest(ctx, r, outer, nil, []digest.Digest{index.Digest, child}, false); err != nil {
				return err
			}
			return tx.SetRepositoryTagPolicy(ctx, "team/app", &metadata.TagPolicy{Mode: metadata.Immutable})
		})
		tag(t, db, r, "1.0", outer.Digest, "alice")
		tag(t, db, r, "1.1", child, "alice")
		view(t, db, func(ctx context.Context, tx *metadata.Tx) error {
			got, err := tx.RepositoryStats(ctx, r)
			want := metadata.RepositoryStats{Tags: 2, Manifests: 3, Blobs: 1, Bytes: int64(len("layer" + "child" + "index" + "outer index"))}
			if got != want {
				t.Errorf("stats %+v, want %+v", got, want)
			}
			empty, err2 := tx.RepositoryStats(ctx, 12345)
			if empty != (metadata.RepositoryStats{}) || err2 != nil {
				t.Errorf("stats of nothing: %+v, %v", empty, err2)
			}
			return err
		})
		ctx := context.Background()
		remove := func() error {
			return db.Update(ctx, func(tx *metadata.Tx) error { return tx.DeleteRepository(ctx, "team/app", by("maria")) })
		}
		if err := remove(); err != nil {
			t.Fatal(err)
		}
		wantErr(t, remove(), oci.ErrNameUnknown)
		for _, name := range []string{"1.0", "1.1"} {
			if got := history(t, db, "team/app", name); !slices.Equal(got, []string{"create alice", "delete maria"}) {
				t.Errorf("history of %s: %q", name, got)
			}
		}
		view(t, db, func(ctx context.Context, tx *metadata.Tx) error {
			_, err := tx.Blob(ctx, "team/other", d) // shared bytes stay
			return err
		})
		// The name is free again, and begins empty.
		again := repo(t, db, "team/app")
		view(t, db, func(ctx context.Context, tx *metadata.Tx) error {
			names, err := tx.TagNames(ctx, "team/app", "", 10)
			if again == r || len(names) != 0 {
				t.Errorf("id %d (was %d), tags %q", again, r, names)
			}
			return err
		})
	})
}

// Pushes go on while their repository is deleted: each one either stands in a
// repository that exists or is refused in words.
func TestDeleteRepositoryRace(t *testing.T) {
	metadatatest.EachURL(t, func(t *testing.T, url string) {
		dbs := []*metadata.DB{metadatatest.Open(t, metadata.Options{URL: url}), metadatatest.Open(t, metadata.Options{URL: url})}
		ctx := context.Background()
		for round := range 10 {
			repo(t, dbs[0], "team/app")
			var wg sync.WaitGroup
			start := make(chan struct{})
			for i := range 8 {
				wg.Go(func() {
					<-start
					err := dbs[i%2].Update(ctx, func(tx *metadata.Tx) error {
						r, _, err := tx.EnsureRepository(ctx, "team/app", metadata.Private, "alice")
						if err != nil {
							return err
						}
						m := image(fmt.Sprint(round, i))
						if _, err := tx.PutManifest(ctx, r, m, nil, nil, false); err != nil {
							return err
						}
						_, err = tx.PutTag(ctx, r, fmt.Sprint(i), m.Digest, by("alice"))
						return err
					})
					if err != nil {
						wantErr(t, err, oci.ErrNameUnknown)
					}
				})
			}
			wg.Go(func() {
				<-start
				err := dbs[1].Update(ctx, func(tx *metadata.Tx) error { return tx.DeleteRepository(ctx, "team/app", by("maria")) })
				if err != nil {
					wantErr(t, err, oci.ErrConflict)
				}
			})
			close(start)
			wg.Wait()
			err := dbs[0].Update(ctx, func(tx *metadata.Tx) error { return tx.DeleteRepository(ctx, "team/app", by("maria")) })
			if err != nil {
				wantErr(t, err, oci.ErrNameUnknown)
			}
		}
	})
}

func TestRepositoryListing(t *testing.T) {
	names := []string{"a", "a-b", "a/b", "a.b", "a_b", "a0", "aa", "a/b/c", "a/b-c", "b/a", "b", "a-b/c", "z/z", "0", "0/0", "a__b", "a--b/x"}
	visibilities := []string{metadata.Public, metadata.Internal, metadata.Private}
	metadatatest.Each(t, func(t *testing.T, db *metadata.DB) {
		type row struct{ name, visibility string }
		var rows []row
		var user, stranger int64
		update(t, db, func(ctx context.Context, tx *metadata.Tx) error {
			for i, n := range names {
				rows = append(rows, row{n, visibilities[i%3]})
				if _, _, err := tx.EnsureRepository(ctx, n, visibilities[i%3], "alice"); err != nil {
					return err
				}
			}
			u, err := tx.CreateUser(ctx, metadata.User{Name: "alice", Role: metadata.RoleUser})
			if err != nil {
				return err
			}
			s, err := tx.CreateUser(ctx, metadata.User{Name: "stranger", Role: metadata.RoleUser})
			if err != nil {
				return err
			}
			user, stranger = u.ID, s.ID
			for _, team := range []string{"a", "b"} {
				if _, err := tx.CreateTeam(ctx, team, ""); err != nil {
					return err
				}
			}
			return tx.PutMember(ctx, "a", "alice", metadata.RoleReader)
		})
		slices.SortFunc(rows, func(a, b row) int { return strings.Compare(a.name, b.name) })
		public := func(r row) bool { return r.visibility == metadata.Public }
		signed := func(r row) bool { return r.visibility != metadata.Private }
		of := func(team string, also func(row) bool) func(row) bool {
			return func(r row) bool { return oci.Team(r.name) == team || also(r) }
		}
		viewers := map[string]struct {
			viewer metadata.Viewer
			sees   func(row) bool
		}{
			"admin":     {metadata.Viewer{All: true}, func(row) bool { return true }},
			"anonymous": {metadata.Viewer{}, public},
			"signed in": {metadata.Viewer{Signed: true}, signed},
			"stranger":  {metadata.Viewer{Signed: true, UserID: stranger}, signed},
			"reader":    {metadata.Viewer{Signed: true, UserID: user}, of("a", signed)},
			"robot":     {metadata.Viewer{Team: "b"}, of("b", public)},
			"limited": {metadata.Viewer{All: true, Glob: "a/*"}, func(r row) bool {
				return strings.HasPrefix(r.name, "a/")
			}},
			"limited reader": {metadata.Viewer{Signed: true, UserID: user, Glob: "a?b"}, func(r row) bool {
				return len(r.name) == 3 && r.name[0] == 'a' && r.name[2] == 'b' && of("a", signed)(r)
			}},
		}
		filters := []metadata.RepositoryFilter{{}, {Team: "a"}, {Team: "nope"}, {Prefix: "a/b"}, {Prefix: "a-"}, {Team: "a", Prefix: "a/b/"}}
		view(t, db, func(ctx context.Context, tx *metadata.Tx) error {
			for who, v := range viewers {
				for _, f := range filters {
					var want []string
					for _, r := range rows {
						if v.sees(r) && (f.Team == "" || oci.Team(r.name) == f.Team) && strings.HasPrefix(r.name, f.Prefix) {
							want = append(want, r.name)
						}
					}
					f.Viewer = v.viewer
					for _, limit := range []int{1, 3, 100} {
						f.Limit, f.After = limit, ""
						var got []string
						for {
							page, err := tx.Repositories(ctx, f)
							if err != nil {
								return err
							}
							for _, r := range page {
								got = append(got, r.Name)
							}
							if len(page) < limit {
								break
							}
							f.After = page[len(page)-1].Name
						}
						if !slices.Equal(got, want) {
							t.Errorf("%s, %+v: %q, want %q", who, f, got, want)
						}
					}
				}
			}
			return nil
		})
	})
}

func TestAccess(t *testing.T) {
	metadatatest.Each(t, func(t *testing.T, db *metadata.DB) {
		var alice int64
		update(t, db, func(ctx context.Context, tx *metadata.Tx) error {
			u, err := tx.CreateUser(ctx, metadata.User{Name: "alice", Role: metadata.RoleUser})
			if err != nil {
				return err
			}
			alice = u.ID
			for team, role := range map[string]string{"read": metadata.RoleReader, "write": metadata.RoleMember, "own": metadata.RoleMaintainer, "none": ""} {
				if _, err := tx.CreateTeam(ctx, team, ""); err != nil {
					return err
				}
				if role != "" {
					if err := tx.PutMember(ctx, team, "alice", role); err != nil {
						return err
					}
				}
			}
			for name, visibility := range map[string]string{"read/app": metadata.Public, "own": metadata.Internal, "none/app": metadata.Private} {
				if _, _, err := tx.EnsureRepository(ctx, name, visibility, "alice"); err != nil {
					return err
				}
			}
			return nil
		})
		want := map[string]metadata.AccessFacts{
			"read/app":  {Exists: true, Visibility: metadata.Public, Role: metadata.RoleReader},
			"write/new": {Role: metadata.RoleMember},
			"own":       {Exists: true, Visibility: metadata.Internal, Role: metadata.RoleMaintainer},
			"own/a/b":   {Role: metadata.RoleMaintainer},
			"none/app":  {Exists: true, Visibility: metadata.Private},
			"no-team/x": {},
		}
		var names []string
		for n := range want {
			names = append(names, n)
		}
		view(t, db, func(ctx context.Context, tx *metadata.Tx) error {
			for n := range names {
				got, err := tx.Access(ctx, alice, names[:n+1])
				if err != nil {
					return err
				}
				for _, name := range names[:n+1] {
					facts := want[name]
					facts.DenialVersion = 1
					if got[name] != facts || len(got) != n+1 {
						t.Errorf("%s: %+v, want %+v", name, got[name], want[name])
					}
				}
			}
			got, err := tx.Access(ctx, 0, []string{"read/app", "write/new"})
			if got["read/app"] != (metadata.AccessFacts{Exists: true, Visibility: metadata.Public, DenialVersion: 1}) || got["write/new"] != (metadata.AccessFacts{DenialVersion: 1}) {
				t.Errorf("nobody: %+v", got)
			}
			return err
		})
	})
}
