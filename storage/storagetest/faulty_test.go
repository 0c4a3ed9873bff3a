package storagetest_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"berth/storage"
	"berth/storage/mem"
	"berth/storage/storagetest"
)

// plain hides URL, which mem does not have.
type plain struct{ storage.Store }

func TestFaulty(t *testing.T) {
	ctx := t.Context()
	own := errors.New("disk full")
	f := storagetest.Faulty(mem.New(),
		storagetest.Fault{Op: "Append", Call: 1, Err: own, Bytes: 3},
		storagetest.Fault{Op: "Append", Call: 2, After: true},
		storagetest.Fault{Op: "Commit", Call: 1, After: true},
		storagetest.Fault{Op: "Ping"},
		storagetest.Fault{Op: "Walk"},
	)
	var tee bytes.Buffer
	s := f.Begin(storagetest.NewID())
	body := strings.NewReader("hello")
	next, n, err := f.Append(ctx, s, body, &tee)
	if next != s || n != 0 || !errors.Is(err, own) || tee.String() != "hel" || body.Len() != 2 {
		t.Errorf("the first Append: %d bytes, %v, %q hashed", n, err, &tee)
	}
	next, n, err = f.Append(ctx, s, strings.NewReader("hello"), io.Discard)
	if next != s || n != 0 || !errors.Is(err, storagetest.ErrFault) {
		t.Errorf("the second Append: %d bytes, %v", n, err)
	}
	s, n, err = f.Append(ctx, s, strings.NewReader("hello"), io.Discard)
	if n != 5 || err != nil {
		t.Errorf("the third Append: %d bytes, %v", n, err)
	}
	if key, err := f.Commit(ctx, s); key != "" || !errors.Is(err, storagetest.ErrFault) {
		t.Errorf("the first Commit: %q, %v", key, err)
	}
	key, err := f.Commit(ctx, s)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := f.Stat(ctx, key); err != nil || info.Size != 5 {
		t.Errorf("Stat: %+v, %v", info, err)
	}
	for range 2 {
		if err := f.Ping(ctx); !errors.Is(err, storagetest.ErrFault) {
			t.Errorf("Ping: %v", err)
		}
	}
	for _, err := range f.Walk(ctx) {
		if !errors.Is(err, storagetest.ErrFault) {
			t.Errorf("Walk: %v", err)
		}
	}
	if _, err := f.URL(ctx, key, 1); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("URL: %v", err)
	}
	if f.Calls("Append") != 3 || f.Calls("Delete") != 0 {
		t.Errorf("%d calls of Append, %d of Delete", f.Calls("Append"), f.Calls("Delete"))
	}
}

func TestFaultyRefusesWhatItDoesNotKnow(t *testing.T) {
	for _, plan := range []storagetest.Fault{{Op: "append"}, {}, {Op: "Begin"}, {Op: "Stat", Bytes: 1}, {Op: "Stat", Call: -1}} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%+v is accepted", plan)
				}
			}()
			storagetest.Faulty(mem.New(), plan)
		}()
	}
}

func TestInstrument(t *testing.T) {
	type caller struct{}
	ctx := context.WithValue(context.Background(), caller{}, "alice")
	var seen []string
	f := storagetest.Faulty(mem.New(), storagetest.Fault{Op: "Stat"})
	s := storage.Instrument(plain{f}, "memory", func(ctx context.Context, action string, seconds float64, err error) {
		if ctx.Value(caller{}) != "alice" {
			t.Errorf("%s is told without the context of its caller", action)
		}
		if seconds < 0 || seconds > 60 {
			t.Errorf("%s took %v s", action, seconds)
		}
		if err != nil {
			action += "!"
		}
		seen = append(seen, action)
	})
	session, _, err := s.Append(ctx, s.Begin(storagetest.NewID()), strings.NewReader("hello"), io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	key, err := s.Commit(ctx, session)
	if err != nil {
		t.Fatal(err)
	}
	if r, err := s.Open(ctx, key, 0, -1); err != nil {
		t.Error(err)
	} else {
		r.Close()
	}
	for range s.Walk(ctx) {
	}
	if _, err = s.Stat(ctx, key); !errors.Is(err, storagetest.ErrFault) || !strings.Contains(err.Error(), "memory") {
		t.Errorf("Stat: %v", err)
	}
	if got, want := strings.Join(seen, " "), "Append Commit Open Walk Stat!"; got != want {
		t.Errorf("observed %q, want %q", got, want)
	}
	if _, ok := s.(storage.URLer); ok {
		t.Error("a store without links is a URLer")
	}
	linked := storage.Instrument(f, "memory", func(_ context.Context, action string, _ float64, _ error) { seen = append(seen, action) })
	if u, ok := linked.(storage.URLer); !ok {
		t.Error("a store with links is no URLer")
	} else if _, err := u.URL(ctx, key, 1); !errors.Is(err, errors.ErrUnsupported) || seen[len(seen)-1] != "URL" {
		t.Errorf("URL: %v, seen %v", err, seen)
	}
	if _, ok := linked.(storage.Leaver); !ok {
		t.Error("a store that leaves objects is no Leaver")
	}
}
