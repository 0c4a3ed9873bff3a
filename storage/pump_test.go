package storage

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/iotest"
)

func through(b *Budget, out io.Writer) *WriteThrough {
	return NewWriteThrough(b, func(p []byte) error { _, err := out.Write(p); return err })
}

func TestPump(t *testing.T) {
	b := NewBudget(MinBudget)
	data := make([]byte, 3<<20+7)
	rand.NewChaCha8([32]byte{}).Read(data)
	for _, n := range []int{0, 1, firstSize - 1, firstSize, firstSize + 1, firstSize + BlockSize, inlineHash, inlineHash + 1, len(data)} {
		for name, wrap := range map[string]func(io.Reader) io.Reader{
			"plain":           func(r io.Reader) io.Reader { return r },
			"half":            iotest.HalfReader,
			"error with data": iotest.DataErrReader,
		} {
			var out, tee bytes.Buffer
			got, err := Pump(t.Context(), wrap(bytes.NewReader(data[:n])), &tee, through(b, &out))
			if err != nil || got != int64(n) || !bytes.Equal(out.Bytes(), data[:n]) || !bytes.Equal(tee.Bytes(), data[:n]) {
				t.Errorf("%d bytes, %s: %d taken, %d stored, %d hashed, %v", n, name, got, out.Len(), tee.Len(), err)
			}
		}
	}
	b.check(t)
}

// TestPumpWithoutMemory goes on with small buffers when the budget is spent.
func TestPumpWithoutMemory(t *testing.T) {
	b := NewBudget(MinBudget)
	var held []*Block
	for k := b.Loose(); k != nil; k = b.Loose() {
		held = append(held, k)
	}
	for k := b.First(); len(k.buf) == firstSize; k = b.First() {
		held = append(held, k)
	}
	var out, tee bytes.Buffer
	data := strings.Repeat("0123456789abcdef", 50_000)
	n, err := Pump(t.Context(), strings.NewReader(data), &tee, through(b, &out))
	if err != nil || n != int64(len(data)) || out.String() != data || tee.String() != data {
		t.Errorf("%d taken, %d stored, %d hashed, %v", n, out.Len(), tee.Len(), err)
	}
	for _, k := range held {
		k.Release()
	}
	b.check(t)
}

type failAfter struct{ n int }

var errFull = errors.New("full")

func (w *failAfter) Write(p []byte) (int, error) {
	if w.n -= len(p); w.n < 0 {
		return 0, errFull
	}
	return len(p), nil
}

func TestPumpErrors(t *testing.T) {
	b := NewBudget(MinBudget)
	data := make([]byte, 2<<20)
	broken := errors.New("broken")
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for _, n := range []int{0, 10, firstSize, 1 << 20} {
		var source *SourceError
		var tee, out bytes.Buffer
		r := io.MultiReader(bytes.NewReader(data[:n]), iotest.ErrReader(broken))
		got, err := Pump(t.Context(), r, &tee, through(b, &out))
		if !errors.As(err, &source) || !errors.Is(err, broken) || got != int64(n) || tee.Len() != n || out.Len() != n {
			t.Errorf("a reader that breaks after %d bytes: %d, %d stored, %d hashed, %v", n, got, out.Len(), tee.Len(), err)
		}
		if _, err := Pump(t.Context(), bytes.NewReader(data), io.Discard, through(b, &failAfter{n})); err != errFull {
			t.Errorf("a store that fails after %d bytes: %v", n, err)
		}
		var hash *TeeError
		if _, err := Pump(t.Context(), bytes.NewReader(data), &failAfter{n}, through(b, io.Discard)); !errors.As(err, &hash) || !errors.Is(err, errFull) {
			t.Errorf("a hash that fails after %d bytes: %v", n, err)
		}
		if got, err := Pump(ended, bytes.NewReader(data), io.Discard, through(b, io.Discard)); got != 0 || !errors.As(err, &source) || !errors.Is(err, context.Canceled) {
			t.Errorf("a context that has ended: %d, %v", got, err)
		}
	}
	if _, err := Pump(t.Context(), stuck{}, io.Discard, through(b, io.Discard)); !errors.Is(err, io.ErrNoProgress) {
		t.Errorf("a reader without progress: %v", err)
	}
	if _, err := Pump(t.Context(), liar{}, io.Discard, through(b, io.Discard)); err == nil {
		t.Error("a reader that returns too much is believed")
	}
	b.check(t)
}

type stuck struct{}

func (stuck) Read([]byte) (int, error) { return 0, nil }

type liar struct{}

func (liar) Read(p []byte) (int, error) { return len(p) + 1, nil }

// BenchmarkPump16KiB is what a small body costs before the store does anything.
func BenchmarkPump16KiB(b *testing.B) {
	budget := NewBudget(0)
	data := make([]byte, 16<<10)
	b.ReportAllocs()
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		if _, err := Pump(b.Context(), bytes.NewReader(data), io.Discard, through(budget, io.Discard)); err != nil {
			b.Fatal(err)
		}
	}
}
