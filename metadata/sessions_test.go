package metadata_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"berth/metadata"
	"berth/metadata/metadatatest"
	"berth/oci"
)

func TestUploads(t *testing.T) {
	metadatatest.EachURL(t, func(t *testing.T, url string) {
		var clock metadatatest.Clock
		db := metadatatest.Open(t, metadata.Options{URL: url, Clock: clock.Now})
		ctx := context.Background()
		started := clock.Now()
		u := metadata.Upload{ID: "u1", Repository: "team/app", Principal: "alice", Algorithm: "sha256", HashState: []byte{0, 1, 255}, Session: "s0"}
		update(t, db, func(ctx context.Context, tx *metadata.Tx) error { return tx.CreateUpload(ctx, u) })
		clock.Advance(time.Minute)
		advance := func(from, to metadata.Upload) (ok bool) {
			t.Helper()
			if err := db.UpdateRelaxed(ctx, func(tx *metadata.Tx) (err error) {
				ok, err = tx.AdvanceUpload(ctx, from, to)
				return err
			}); err != nil {
				t.Fatal(err)
			}
			return ok
		}
		known := blob(t, db, repo(t, db, "other/app"), "a blob")
		next := u
		next.Size, next.Session, next.HashState = 100, "s1", []byte{7}
		wrongSize, wrongSession, wrongID := u, u, u
		wrongSize.Size, wrongSession.Session, wrongID.ID = 1, "s9", "u9"
		for _, from := range []metadata.Upload{wrongSize, wrongSession, wrongID} {
			if advance(from, next) {
				t.Errorf("advanced from %+v", from)
			}
		}
		if !advance(u, next) || advance(u, next) {
			t.Error("the first has to win, and only the first")
		}
		view(t, db, func(ctx context.Context, tx *metadata.Tx) error {
			got, err := tx.Upload(ctx, "team/app", "u1")
			if got.Size != 100 || got.Session != "s1" || !bytes.Equal(got.HashState, []byte{7}) || got.Principal != "alice" || got.Algorithm != "sha256" ||
				!got.StartedAt.Equal(started) || !got.UpdatedAt.Equal(started.Add(time.Minute)) {
				t.Errorf("got %+v", got)
			}
			for _, d := range []digest.Digest{known, digest.FromString("of nobody")} {
				again, there, err := tx.UploadToClose(ctx, "team/app", "u1", d)
				if !reflect.DeepEqual(again, got) || there != (d == known) || err != nil {
					t.Errorf("to be closed as %s: %+v %t %v", d, again, there, err)
				}
			}
			_, _, e := tx.UploadToClose(ctx, "team/other", "u1", known)
			wantErr(t, e, oci.ErrBlobUploadUnknown)
			_, e = tx.Upload(ctx, "team/other", "u1")
			wantErr(t, e, oci.ErrBlobUploadUnknown)
			_, e = tx.Upload(ctx, "team/app", "u2")
			wantErr(t, e, oci.ErrBlobUploadUnknown)
			return err
		})
		clock.Advance(time.Hour)
		for i := range 3 {
			fresh := metadata.Upload{ID: fmt.Sprint("f", i), Repository: "team/app", Session: "s"}
			update(t, db, func(ctx context.Context, tx *metadata.Tx) error { return tx.CreateUpload(ctx, fresh) })
			clock.Advance(time.Second)
		}
		stale := func(before time.Time, limit int) (ids []string) {
			view(t, db, func(ctx context.Context, tx *metadata.Tx) error {
				all, err := tx.StaleUploads(ctx, before, limit)
				for _, u := range all {
					ids = append(ids, u.ID)
				}
				return err
			})
			return ids
		}
		if got := stale(started.Add(2*time.Minute), 10); !slices.Equal(got, []string{"u1"}) {
			t.Errorf("stale %q", got)
		}
		if got := stale(clock.Now(), 3); !slices.Equal(got, []string{"u1", "f0", "f1"}) {
			t.Errorf("stale, oldest first: %q", got)
		}
		update(t, db, func(ctx context.Context, tx *metadata.Tx) error {
			if ok, err := tx.DeleteStaleUpload(ctx, "u1", started.Add(time.Minute)); ok || err != nil {
				t.Errorf("deleted a session touched since: %t %v", ok, err)
			}
			ok, err := tx.DeleteStaleUpload(ctx, "u1", started.Add(2*time.Minute))
			if !ok {
				t.Error("did not delete a stale session")
			}
			return err
		})
		update(t, db, func(ctx context.Context, tx *metadata.Tx) error {
			got, err := tx.DeleteUpload(ctx, "f0")
			if got.Repository != "team/app" || got.Session != "s" {
				t.Errorf("deleted %+v", got)
			}
			return err
		})
		wantErr(t, db.Update(ctx, func(tx *metadata.Tx) error { _, err := tx.DeleteUpload(ctx, "f0"); return err }), oci.ErrBlobUploadUnknown)
	})
}

// Many requests continue one session from the same state: one does.
func TestAdvanceUploadRace(t *testing.T) {
	metadatatest.EachURL(t, func(t *testing.T, url string) {
		dbs := []*metadata.DB{metadatatest.Open(t, metadata.Options{URL: url}), metadatatest.Open(t, metadata.Options{URL: url})}
		ctx := context.Background()
		u := metadata.Upload{ID: "u", Repository: "team/app", Session: "0"}
		update(t, dbs[0], func(ctx context.Context, tx *metadata.Tx) error { return tx.CreateUpload(ctx, u) })
		for round := range 10 {
			var winners atomic.Int32
			var mu sync.Mutex
			next := u
			var wg sync.WaitGroup
			for i := range 8 {
				wg.Go(func() {
					to := u
					to.Size, to.Session = u.Size+int64(i%2), fmt.Sprint(round, "-", i) // of size 0: only the session tells
					var ok bool
					if err := dbs[i%2].UpdateRelaxed(ctx, func(tx *metadata.Tx) (err error) {
						ok, err = tx.AdvanceUpload(ctx, u, to)
						return err
					}); err != nil {
						t.Error(err)
					}
					if ok {
						winners.Add(1)
						mu.Lock()
						next = to
						mu.Unlock()
					}
				})
			}
			wg.Wait()
			if winners.Load() != 1 {
				t.Fatalf("round %d: %d winners", round, winners.Load())
			}
			u = next
		}
	})
}

func TestGarbage(t *testing.T) {
	metadatatest.EachURL(t, func(t *testing.T, url string) {
		var clock metadatatest.Clock
		db := metadatatest.Open(t, metadata.Options{URL: url, Clock: clock.Now})
		update(t, db, func(ctx context.Context, tx *metadata.Tx) error {
			return errors.Join(
				tx.EnqueueGarbage(ctx, metadata.GarbageObject, "later", tx.Now().Add(2*time.Hour)),
				tx.EnqueueGarbage(ctx, metadata.GarbageObject, "soon", tx.Now().Add(time.Hour)),
				tx.EnqueueGarbage(ctx, metadata.GarbageSession, "now", tx.Now()),
			)
		})
		due := func() (all []metadata.Garbage, values []string) {
			view(t, db, func(ctx context.Context, tx *metadata.Tx) (err error) {
				all, err = tx.DueGarbage(ctx, 10)
				for _, g := range all {
					values = append(values, g.Kind+" "+g.Value)
				}
				return err
			})
			return all, values
		}
		all, values := due()
		if !slices.Equal(values, []string{"session now"}) {
			t.Fatalf("due %q", values)
		}
		update(t, db, func(ctx context.Context, tx *metadata.Tx) error { return tx.RemoveGarbage(ctx, all[0].ID) })
		clock.Advance(3 * time.Hour)
		all, values = due()
		if !slices.Equal(values, []string{"object soon", "object later"}) {
			t.Fatalf("due %q", values)
		}
		update(t, db, func(ctx context.Context, tx *metadata.Tx) error {
			return tx.PostponeGarbage(ctx, all[0].ID, tx.Now().Add(time.Minute))
		})
		if _, values = due(); !slices.Equal(values, []string{"object later"}) {
			t.Fatalf("due %q", values)
		}
	})
}

// The session of a team with a quota is not begun without a reservation.
func TestUploadOfLimitedTeam(t *testing.T) {
	metadatatest.EachURL(t, func(t *testing.T, url string) {
		db := metadatatest.Open(t, metadata.Options{URL: url})
		tags := int64(10)
		if _, err := shell(t, url, true).Exec(`INSERT INTO teams (name, created_at, updated_at) VALUES ('limited', 1, 1)`); err != nil {
			t.Fatal(err)
		}
		update(t, db, func(ctx context.Context, tx *metadata.Tx) error {
			return tx.SetQuota(ctx, "limited", metadata.Limits{Tags: &tags}, "alice")
		})
		for team, want := range map[string]bool{"free": true, "limited": false} {
			created := false
			err := db.StatementRelaxed(t.Context(), func(tx *metadata.Tx) (err error) {
				created, err = tx.CreateUnlimitedUpload(t.Context(), metadata.Upload{ID: team, Repository: team + "/app"}, 0)
				return err
			})
			if created != want || err != nil {
				t.Errorf("the team %s: %t %v", team, created, err)
			}
			err = db.View(t.Context(), func(tx *metadata.Tx) error {
				_, err := tx.Upload(t.Context(), team+"/app", team)
				return err
			})
			if there := err == nil; there != want || err != nil && !errors.Is(err, oci.ErrBlobUploadUnknown) {
				t.Errorf("the session of the team %s: %v", team, err)
			}
		}
	})
}

// A principal has so many sessions at a time and no more, whatever its teams are; those that end make room.
func TestMostUploads(t *testing.T) {
	metadatatest.EachURL(t, func(t *testing.T, url string) {
		db := metadatatest.Open(t, metadata.Options{URL: url})
		var refused *oci.Error
		begin := func(id, principal string, most int) (created bool, room error) {
			t.Helper()
			err := db.StatementRelaxed(t.Context(), func(tx *metadata.Tx) (err error) {
				created, err = tx.CreateUnlimitedUpload(t.Context(), metadata.Upload{ID: id, Repository: "team/app", Principal: principal}, most)
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			return created, db.View(t.Context(), func(tx *metadata.Tx) error { return tx.RoomForUpload(t.Context(), principal, most) })
		}
		for i, id := range []string{"a", "b", "c"} {
			if created, room := begin(id, "alice", 3); !created || (room == nil) != (i < 2) {
				t.Errorf("%s: %t, %v", id, created, room)
			}
		}
		if created, room := begin("d", "alice", 3); created || !errors.As(room, &refused) || refused.Code != oci.CodeTooManyRequests {
			t.Errorf("one too many: %t, %v", created, room)
		}
		if created, room := begin("e", "bob", 3); !created || room != nil {
			t.Errorf("somebody else's: %t, %v", created, room)
		}
		if created, room := begin("f", "alice", 0); !created || room != nil {
			t.Errorf("without a bound: %t, %v", created, room)
		}
		for _, id := range []string{"a", "f"} {
			update(t, db, func(ctx context.Context, tx *metadata.Tx) error {
				_, err := tx.DeleteUpload(ctx, id)
				return err
			})
		}
		if created, _ := begin("g", "alice", 3); !created {
			t.Error("what has ended still counts")
		}
	})
}

func TestLeases(t *testing.T) {
	metadatatest.EachURL(t, func(t *testing.T, url string) {
		var clock metadatatest.Clock
		dbs := []*metadata.DB{
			metadatatest.Open(t, metadata.Options{URL: url, Clock: clock.Now}),
			metadatatest.Open(t, metadata.Options{URL: url, Clock: clock.Now}),
		}
		ctx := context.Background()
		acquire := func(name, holder string) (ok bool) {
			if err := dbs[len(holder)%2].Update(ctx, func(tx *metadata.Tx) (err error) {
				ok, err = tx.AcquireLease(ctx, name, holder, time.Minute)
				return err
			}); err != nil {
				t.Error(err)
			}
			return ok
		}
		var winners atomic.Int32
		var wg sync.WaitGroup
		for i := range 16 {
			wg.Go(func() {
				if acquire("race", fmt.Sprint("holder", i)) {
					winners.Add(1)
				}
			})
		}
		wg.Wait()
		if winners.Load() != 1 {
			t.Errorf("%d holders at once", winners.Load())
		}
		if !acquire("gc", "a") || acquire("gc", "b") || !acquire("gc", "a") {
			t.Error("the holder renews, nobody else acquires")
		}
		clock.Advance(time.Minute)
		if !acquire("gc", "b") || acquire("gc", "a") {
			t.Error("a lease that has ended is free")
		}
		release := func(holder string) {
			update(t, dbs[0], func(ctx context.Context, tx *metadata.Tx) error { return tx.ReleaseLease(ctx, "gc", holder) })
		}
		release("a") // not the holder
		if acquire("gc", "a") {
			t.Error("somebody else's release ended the lease")
		}
		release("b")
		if !acquire("gc", "a") {
			t.Error("a released lease is free")
		}
	})
}

// Writable finds out by writing: a database that answers and takes no row is not writable, and says so as
// long as that lasts.
func TestWritableWrites(t *testing.T) {
	metadatatest.EachURL(t, func(t *testing.T, url string) {
		db := metadatatest.Open(t, metadata.Options{URL: url})
		if ping, write := db.Ping(t.Context()), db.Writable(t.Context()); ping != nil || write != nil {
			t.Fatalf("in order: %v, %v", ping, write)
		}
		for _, tt := range []struct {
			change   string
			writable bool
		}{{`ALTER TABLE leases RENAME TO away`, false}, {`ALTER TABLE away RENAME TO leases`, true}} {
			if _, err := shell(t, url, true).Exec(tt.change); err != nil {
				t.Fatal(err)
			}
			if ping, write := db.Ping(t.Context()), db.Writable(t.Context()); ping != nil || (write == nil) != tt.writable {
				t.Errorf("after %s: %v, %v", tt.change, ping, write)
			}
		}
	})
}
