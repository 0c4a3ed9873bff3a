package registry

import (
	"slices"
	"testing"
	"time"

	"berth/metadata"
	"berth/registry/collect"
)

// While an object is held, no replica removes it; a hold that nobody renews ends.
func TestHold(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		d := e.push(e.r, repo, []byte("held"))
		e.ok(e.openDB().Update(e.ctx, func(tx *metadata.Tx) error {
			_, err := tx.Hold(e.ctx, "h", time.Hour, false)
			return err
		}))
		e.ok(e.r.DeleteBlob(e.ctx, as(alice), repo, d))
		collected := func() []string {
			_, err := collecting(e.replica()).Collect(e.ctx, collect.Run{})
			e.ok(err)
			return e.keys()
		}
		if keys := collected(); len(keys) != 1 {
			t.Errorf("during the hold the store has %v", keys)
		}
		e.clock.Add(2 * time.Hour)
		held := true
		e.ok(e.openDB().Update(e.ctx, func(tx *metadata.Tx) (err error) {
			held, err = tx.Hold(e.ctx, "h", time.Hour, true)
			return err
		}))
		if held {
			t.Error("a hold that had run out was renewed")
		}
		if keys := collected(); len(keys) != 0 {
			t.Errorf("after the hold the store has %v", slices.Clone(keys))
		}
	})
}
