package metadata_test

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"berth/metadata"
	"berth/metadata/metadatatest"
	"berth/oci"
)

func audited(t testing.TB, db *metadata.DB, f metadata.AuditFilter) []metadata.AuditEvent {
	t.Helper()
	if f.Limit == 0 {
		f.Limit = 1000
	}
	var events []metadata.AuditEvent
	view(t, db, func(ctx context.Context, tx *metadata.Tx) (err error) {
		events, err = tx.AuditEvents(ctx, f)
		return err
	})
	return events
}

func TestAudit(t *testing.T) {
	metadatatest.EachURL(t, func(t *testing.T, url string) {
		var clock metadatatest.Clock
		db := metadatatest.Open(t, metadata.Options{URL: url, Clock: clock.Now})
		start := clock.Now()
		actor := metadata.Actor{Name: "core+ci", Kind: "robot", Claims: map[string]string{"repository": "acme/app"}, Address: "10.1.2.3", RequestID: "r1", UserAgent: "docker"}
		push := metadata.Event{Kind: metadata.ManifestPushed, Actor: actor, Repository: "core/app", Reference: "1.0", Digest: image("x").Digest, Detail: map[string]any{"a": "b"}}
		refused := metadata.Event{At: start.Add(time.Hour), Kind: "pull", Outcome: metadata.AuditRefused, Actor: metadata.Actor{Name: "mallory", Kind: "user"}, Repository: "core/secret", Count: 7}
		team := metadata.Event{At: start.Add(2 * time.Hour), Kind: metadata.MemberPut, Actor: metadata.Actor{Name: "root"}, Team: "core", Reference: "alice"}
		update(t, db, func(ctx context.Context, tx *metadata.Tx) error { return tx.Record(ctx, push, refused, team) })

		all := audited(t, db, metadata.AuditFilter{})
		if len(all) != 3 {
			t.Fatalf("events %+v", all)
		}
		got := all[2]
		want := metadata.AuditEvent{
			At: start, ID: got.ID, Action: "pushManifest", Outcome: metadata.AuditOK, Actor: actor, Team: "core",
			Repository: "core/app", Reference: "1.0", Digest: image("x").Digest, Detail: map[string]any{"a": "b"}, Count: 1,
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("got  %+v\nwant %+v", got, want)
		}
		if all[1].Count != 7 || all[0].Team != "core" {
			t.Errorf("events %+v", all)
		}

		at := func(h int) time.Time { return start.Add(time.Duration(h) * time.Hour) }
		for _, c := range []struct {
			filter metadata.AuditFilter
			want   string
		}{
			{metadata.AuditFilter{}, "putMember pull pushManifest"},
			{metadata.AuditFilter{Limit: 2}, "putMember pull"},
			{metadata.AuditFilter{Before: all[1].Key()}, "pushManifest"},
			{metadata.AuditFilter{Principal: "core+ci"}, "pushManifest"},
			{metadata.AuditFilter{Team: "core"}, "putMember pull pushManifest"},
			{metadata.AuditFilter{Team: "cor"}, ""},
			{metadata.AuditFilter{Repository: "core/app"}, "pushManifest"},
			{metadata.AuditFilter{Action: "pull"}, "pull"},
			{metadata.AuditFilter{Action: string(metadata.ManifestPushed)}, "pushManifest"},
			{metadata.AuditFilter{Outcome: metadata.AuditRefused}, "pull"},
			{metadata.AuditFilter{Outcome: metadata.AuditOK}, "putMember pushManifest"},
			{metadata.AuditFilter{Outcome: metadata.AuditFailed}, ""},
			{metadata.AuditFilter{Since: at(1)}, "putMember pull"},
			{metadata.AuditFilter{Until: at(1)}, "pushManifest"},
			{metadata.AuditFilter{Since: at(1), Until: at(2), Team: "core", Outcome: metadata.AuditRefused, Action: "pull", Principal: "mallory", Repository: "core/secret"}, "pull"},
		} {
			var actions []string
			for _, e := range audited(t, db, c.filter) {
				actions = append(actions, e.Action)
			}
			if got := strings.Join(actions, " "); got != c.want {
				t.Errorf("%+v: %q, want %q", c.filter, got, c.want)
			}
		}
		for _, key := range []string{"x", strings.Repeat("f", 32), strings.Repeat("0", 31), strings.Repeat("0", 34)} {
			ctx := t.Context()
			wantErr(t, db.View(ctx, func(tx *metadata.Tx) error {
				_, err := tx.AuditEvents(ctx, metadata.AuditFilter{Before: key, Limit: 1})
				return err
			}), oci.ErrInvalid)
		}

		// It is append-only, but for pruning.
		if _, err := shell(t, url, true).Exec(`UPDATE audit_events SET principal = 'nobody'`); err == nil || !strings.Contains(err.Error(), "cannot be changed") {
			t.Errorf("an event was changed: %v", err)
		}
	})
}

// What strangers send goes into the log, so it must fit there.
func TestAuditHostileText(t *testing.T) {
	metadatatest.Each(t, func(t *testing.T, db *metadata.DB) {
		long := strings.Repeat("ü", 1000)
		bad := "a\x00b\xff" + long
		claims := map[string]string{}
		for i := range 100 {
			claims[fmt.Sprint(i)] = long
		}
		update(t, db, func(ctx context.Context, tx *metadata.Tx) error {
			return tx.Record(ctx, metadata.Event{
				Kind: metadata.EventKind(bad), Outcome: metadata.AuditRefused, Repository: bad, Reference: bad, Team: bad, Detail: map[string]any{"long": long, "nul": "\x00\xff"},
				Actor: metadata.Actor{Name: bad, Kind: bad, Address: bad, RequestID: bad, UserAgent: bad, Claims: claims},
			})
		})
		e := audited(t, db, metadata.AuditFilter{})[0]
		for _, s := range []string{e.Action, e.Repository, e.Reference, e.Team, e.Actor.Name, e.Actor.Kind, e.Actor.UserAgent} {
			if !strings.HasPrefix(s, "a\uFFFDb\uFFFD") || len(s) > 530 || strings.ContainsRune(s, 0) {
				t.Errorf("%d bytes: %.20q", len(s), s)
			}
		}
		if e.Detail["long"] != long || e.Actor.Claims != nil {
			t.Errorf("detail %v, claims %v", e.Detail, e.Actor.Claims)
		}
	})
}

// Pages hold every event once, also those of the same microsecond.
func TestAuditPages(t *testing.T) {
	metadatatest.Each(t, func(t *testing.T, db *metadata.DB) {
		var events []metadata.Event
		for i := range 300 {
			events = append(events, metadata.Event{At: time.UnixMicro(int64(i / 100)), Kind: metadata.TeamChanged, Reference: fmt.Sprint(i), Team: "core"})
		}
		update(t, db, func(ctx context.Context, tx *metadata.Tx) error { return tx.Record(ctx, events...) })
		seen := map[string]bool{}
		f := metadata.AuditFilter{Team: "core", Limit: 7}
		for pages := 0; pages < 60; pages++ {
			list := audited(t, db, f)
			if len(list) == 0 {
				break
			}
			for _, e := range list {
				if seen[e.Reference] {
					t.Fatalf("%s came twice", e.Reference)
				}
				seen[e.Reference] = true
			}
			f.Before = list[len(list)-1].Key()
		}
		if len(seen) != 300 {
			t.Errorf("%d of 300 events", len(seen))
		}
	})
}

// Pruning takes the oldest, a batch at a time, and leaves the rest alone.
func TestPruneAudit(t *testing.T) {
	metadatatest.Each(t, func(t *testing.T, db *metadata.DB) {
		var events []metadata.Event
		for i := range 250 {
			events = append(events, metadata.Event{At: time.UnixMicro(int64(i)), Kind: metadata.TeamChanged, Reference: fmt.Sprint(i)})
		}
		update(t, db, func(ctx context.Context, tx *metadata.Tx) error { return tx.Record(ctx, events...) })
		var from time.Time
		from = time.UnixMicro(0)
		var sizes []int64
		for done := false; !done; {
			var n int64
			update(t, db, func(ctx context.Context, tx *metadata.Tx) (err error) {
				n, from, done, err = tx.PruneAudit(ctx, from, time.UnixMicro(230), 100)
				return err
			})
			sizes = append(sizes, n)
		}
		if !slices.Equal(sizes, []int64{100, 100, 30}) {
			t.Errorf("batches %v", sizes)
		}
		left := audited(t, db, metadata.AuditFilter{})
		if len(left) != 20 || left[19].Reference != "230" {
			t.Errorf("%d left, the oldest %s", len(left), left[len(left)-1].Reference)
		}
	})
}
