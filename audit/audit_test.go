package audit_test

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"berth/audit"
	"berth/metadata"
	"berth/metadata/metadatatest"
	"berth/testenv"
)

func TestMain(m *testing.M) { os.Exit(testenv.Main(m)) }

func events(t testing.TB, db *metadata.DB) (list []metadata.AuditEvent) {
	t.Helper()
	ctx := context.Background()
	err := db.View(ctx, func(tx *metadata.Tx) (err error) {
		list, err = tx.AuditEvents(ctx, metadata.AuditFilter{Limit: 10000})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func failure(name, address string) metadata.Event {
	return metadata.Event{Kind: metadata.SignedIn, Outcome: metadata.AuditFailed, Actor: metadata.Actor{Name: name, Address: address}, Detail: map[string]any{"rule": "credentials"}}
}

// A flood costs bounded memory and bounded rows, and nobody's events but its own.
func TestFlood(t *testing.T) {
	metadatatest.Each(t, func(t *testing.T, db *metadata.DB) {
		dropped := 0
		l := audit.New(db, audit.Options{Rows: 50, RowsPerSource: 5, Dropped: func(n int) { dropped += n }})
		for range 1000 {
			l.Record(failure("alice", "10.0.0.1"), "10.0.0.1") // the same again and again
		}
		for i := range 1000 {
			l.Record(failure(fmt.Sprint("user", i), "10.0.0.2"), "10.0.0.2") // always another name
		}
		l.Record(failure("bob", "10.0.0.3"), "10.0.0.3")
		if err := l.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		var alice, many, others, bob int64
		for _, e := range events(t, db) {
			switch {
			case e.Actor.Name == "alice":
				alice += e.Count
			case e.Actor.Name == "bob":
				bob += e.Count
			case e.Detail["rule"] == audit.RuleMany:
				many += e.Count
				if e.Actor.Address != "10.0.0.2" {
					t.Errorf("the row of many is %+v", e)
				}
			default:
				others += e.Count
			}
		}
		if n := len(events(t, db)); n != 1+5+1+1 || alice != 1000 || bob != 1 || others != 5 || many != 995 || dropped != 0 {
			t.Errorf("%d rows: alice %d, bob %d, others %d, many %d, dropped %d", n, alice, bob, others, many, dropped)
		}

		// From everywhere: what does not fit is counted.
		for i := range 1000 {
			l.Record(failure("alice", fmt.Sprint("10.1.0.", i)), fmt.Sprint("10.1.0.", i))
		}
		if err := l.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		if n := len(events(t, db)); n != 8+50 || dropped != 950 {
			t.Errorf("%d rows, %d dropped", n, dropped)
		}
		// And then there is room again.
		l.Record(failure("carol", "10.0.0.9"), "10.0.0.9")
		if err := l.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		if n := len(events(t, db)); n != 8+50+1 {
			t.Errorf("%d rows", n)
		}
	})
}

// What has come in is written when the server stops.
func TestStop(t *testing.T) {
	metadatatest.Each(t, func(t *testing.T, db *metadata.DB) {
		l := audit.New(db, audit.Options{Every: time.Hour})
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { l.Run(ctx); close(done) }()
		l.Record(failure("alice", "10.0.0.1"), "10.0.0.1")
		stop()
		<-done
		if got := events(t, db); len(got) != 1 || got[0].Actor.Name != "alice" {
			t.Errorf("%+v", got)
		}
	})
}

// While the database is away, refusals are counted and not piled up.
func TestDatabaseAway(t *testing.T) {
	db := metadatatest.Open(t, metadata.Options{URL: metadatatest.SQLite(t)})
	dropped := 0
	l := audit.New(db, audit.Options{Dropped: func(n int) { dropped += n }})
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		l.Record(failure("alice", "10.0.0.1"), "10.0.0.1")
	}
	if err := l.Flush(t.Context()); err == nil || dropped != 3 {
		t.Errorf("error %v, %d dropped", err, dropped)
	}
	if err := l.Flush(t.Context()); err != nil {
		t.Errorf("something was left: %v", err)
	}
}

func TestPrune(t *testing.T) {
	metadatatest.Each(t, func(t *testing.T, db *metadata.DB) {
		var clock metadatatest.Clock
		day := 24 * time.Hour
		var old []metadata.Event
		for i := range 1300 {
			old = append(old, metadata.Event{At: clock.Now().Add(-time.Duration(i) * time.Hour), Kind: metadata.UserCreated})
		}
		ctx := t.Context()
		if err := db.Update(ctx, func(tx *metadata.Tx) error { return tx.Record(ctx, old...) }); err != nil {
			t.Fatal(err)
		}
		for _, c := range []struct {
			retention time.Duration
			want      int
		}{{0, 0}, {30 * day, 1300 - 721}, {30 * day, 0}, {day, 721 - 25}} {
			n, err := audit.New(db, audit.Options{Retention: c.retention, Clock: clock.Now}).Prune(ctx)
			if err != nil || n != c.want {
				t.Errorf("retention %s: %d pruned, %v; want %d", c.retention, n, err, c.want)
			}
		}
		if n := len(events(t, db)); n != 25 {
			t.Errorf("%d left", n)
		}
	})
}
