package metadata_test

import (
	"strings"
	"testing"
	"time"

	"berth/metadata"
	"berth/metadata/metadatatest"
)

// Two replicas whose clocks differ by two hours take the database's time: a lease of one is not over for the other.
func TestReplicasWithClocksThatAreOff(t *testing.T) {
	t.Parallel()
	address := metadatatest.Postgres(t)
	off := func(d time.Duration) func() time.Time { return func() time.Time { return time.Now().Add(d) } }
	behind := metadatatest.Open(t, metadata.Options{URL: address, Machine: off(-time.Hour)})
	ahead := metadatatest.Open(t, metadata.Options{URL: address, Machine: off(time.Hour)})
	ctx := t.Context()
	lease := func(db *metadata.DB, holder string) (mine bool) {
		if err := db.Update(ctx, func(tx *metadata.Tx) (err error) {
			mine, err = tx.AcquireLease(ctx, "job", holder, time.Minute)
			return err
		}); err != nil {
			t.Error(err)
		}
		return mine
	}
	if !lease(behind, "behind") {
		t.Error("a free lease was not given")
	}
	if lease(ahead, "ahead") {
		t.Error("the replica whose clock is ahead took the other's lease")
	}
	if d := ahead.Now().Sub(behind.Now()).Abs(); d > time.Minute {
		t.Errorf("the replicas' times differ by %v", d)
	}
	for db, want := range map[*metadata.DB]time.Duration{behind: -time.Hour, ahead: time.Hour} {
		if d := (db.ClockSkew() - want).Abs(); d > time.Minute {
			t.Errorf("a skew of %v was measured as %v", want, db.ClockSkew())
		}
		if err := db.ClockOff(ctx); err == nil || !strings.Contains(err.Error(), "the clock of this server is 1h0m0") && !strings.Contains(err.Error(), "59m59") {
			t.Errorf("the warning is %v", err)
		}
	}
}
