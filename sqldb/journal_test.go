package sqldb

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"berth/oci"
)

// A durable transaction returns only when a sync that began after its commit
// has ended; relaxed ones do not wait; those that wait together share a sync;
// and once a sync has failed, nothing is called durable any more.
func TestJournal(t *testing.T) {
	ctx := context.Background()
	path := filepath.Join(t.TempDir(), "berth.db")
	db, err := Open(ctx, Options{URL: "sqlite:" + path})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Migrate(ctx, words); err != nil {
		t.Fatal(err)
	}
	var syncs atomic.Int32
	began, proceed := make(chan struct{}, 100), make(chan error)
	db.writer.journal.stop()
	<-db.writer.journal.done
	db.writer.journal = startJournal(path, func(f *os.File) error {
		if f.Name() != path+"-wal" {
			t.Errorf("synced %s", f.Name())
		}
		syncs.Add(1)
		began <- struct{}{}
		return <-proceed
	}, db.breakDown)
	add := func(update func(context.Context, func(*Tx) error) error, name string) error {
		return update(ctx, func(tx *Tx) error { return tx.add(ctx, name) })
	}
	done := make(chan error, 1)
	go func() { done <- add(db.Update, "first") }()
	<-began
	// The first one is committed and waits for the disk. Meanwhile the writer serves others.
	if err := add(db.UpdateRelaxed, "relaxed"); err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	const together = 10
	for i := range together {
		group.Go(func() {
			if err := add(db.Update, string(rune('a'+i))); err != nil {
				t.Error(err)
			}
		})
	}
	for n := 0; n < together+2; { // all are committed, none is answered
		if err := db.View(ctx, func(tx *Tx) error {
			all, err := tx.words(ctx)
			n = len(all)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Millisecond)
	}
	select {
	case err := <-done:
		t.Fatalf("a durable transaction returned (%v) before its sync did", err)
	default:
	}
	proceed <- nil
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	<-began
	proceed <- nil
	for len(began) > 0 || !waited(&group) { // those that came too late for the second sync
		select {
		case <-began:
			proceed <- nil
		case <-time.After(10 * time.Millisecond):
		}
	}
	if n := syncs.Load(); n > 4 {
		t.Errorf("%d transactions that waited together took %d syncs", together+1, n)
	}

	broken := errors.New("disk on fire")
	go func() { done <- add(db.Update, "lost") }()
	<-began
	proceed <- broken
	if err := <-done; !errors.Is(err, broken) {
		t.Errorf("after a failed sync: %v", err)
	}
	before := syncs.Load()
	if err := add(db.Update, "after"); !errors.Is(err, broken) || syncs.Load() != before {
		t.Errorf("a later transaction was called durable: %v", err)
	}
	// Nor is anything taken or shown: what was committed last may not be there after a power failure.
	if err := add(db.UpdateRelaxed, "relaxed after"); !errors.Is(err, oci.ErrUnavailable) {
		t.Errorf("a relaxed transaction afterwards: %v", err)
	}
	for name, read := range map[string]func(context.Context, func(*Tx) error) error{"View": db.View, "Snapshot": db.Snapshot} {
		if err := read(ctx, func(tx *Tx) error { return nil }); !errors.Is(err, oci.ErrUnavailable) {
			t.Errorf("%s afterwards: %v", name, err)
		}
	}
	if err := db.Dead(); !errors.Is(err, broken) {
		t.Errorf("the reason is %v", err)
	}
	select {
	case <-db.Died():
	default:
		t.Error("nobody was told")
	}
}

// A disk that hangs keeps nobody waiting for ever: neither those whose commit it does not take, nor those behind them.
func TestHangingDisk(t *testing.T) {
	ctx := context.Background()
	path := filepath.Join(t.TempDir(), "berth.db")
	db, err := Open(ctx, Options{URL: "sqlite:" + path})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Migrate(ctx, words); err != nil {
		t.Fatal(err)
	}
	db.writer.journal.stop()
	hangs := make(chan struct{})
	db.writer.journal = startJournal(path, func(*os.File) error { <-hangs; return nil }, db.breakDown)
	db.writer.patience = 50 * time.Millisecond
	for i := range 3 {
		if err := db.add(ctx, string(rune('a'+i))); !errors.Is(err, oci.ErrUnavailable) {
			t.Errorf("a durable transaction while the disk hangs: %v", err)
		}
	}
	close(hangs)
	db.writer.patience = diskPatience
	if err := db.add(ctx, "afterwards"); err != nil {
		t.Error(err)
	}
}

// waited reports whether all of the group have ended, within a moment.
func waited(group *sync.WaitGroup) bool {
	ended := make(chan struct{})
	go func() { group.Wait(); close(ended) }()
	select {
	case <-ended:
		return true
	case <-time.After(20 * time.Millisecond):
		return false
	}
}
