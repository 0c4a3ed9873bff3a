package storage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
)

// inlineHash is how many bytes of a body are hashed by the goroutine that
// reads them. Starting another one and waking it costs more than it saves below that.
const inlineHash = 256 << 10

// Sink is where [Pump] puts what it reads. A Sink is used by one goroutine.
type Sink interface {
	// Next gives an empty block to read into, and may wait for it.
	Next(ctx context.Context) (*Block, error)

	// Take is given every block that Next has given, in order, and a use of it
	// to release. The last one may be empty.
	Take(ctx context.Context, k *Block) error

	// Reading and Read enclose every wait for the body; n is what it brought.
	Reading()
	Read(n int)
}

// TeeError is the failure of the writer given to Append as tee.
type TeeError struct{ Err error }

func (e *TeeError) Error() string { return "hashing the upload: " + e.Err.Error() }

// Unwrap gives the writer's own error.
func (e *TeeError) Unwrap() error { return e.Err }

// Pump reads r to its end, in blocks that the sink provides. Each goes to the sink and to
// tee; beyond the first 256 KiB tee is written from a goroutine of its own, since
// hashing and storing in one would take the sum of both times. When Pump returns, tee has
// all bytes that the sink has taken, and nothing of Pump's runs any more.
//
// It returns the number of bytes taken and nil at the end of r, a
// *SourceError when r failed, and any other error when the sink or tee did.
// A context that ends while r is read or the sink waits for memory counts as a failure of r:
// what was read before is worth keeping.
func Pump(ctx context.Context, r io.Reader, tee io.Writer, sink Sink) (int64, error) {
	h := hasher{tee: tee}
	n, err := pump(ctx, r, &h, sink)
	if herr := h.close(); herr != nil && (err == nil || isSource(err)) {
		err = herr
	}
	return n, err
}

func isSource(err error) bool {
	var s *SourceError
	return errors.As(err, &s)
}

func pump(ctx context.Context, r io.Reader, h *hasher, sink Sink) (int64, error) {
	var total int64
	for {
		if err := ctx.Err(); err != nil {
			return total, &SourceError{err}
		}
		k, err := sink.Next(ctx)
		if err != nil {
			if ctx.Err() != nil {
				err = &SourceError{ctx.Err()}
			}
			return total, err
		}
		rerr := fill(k, r, sink)
		if k.n > 0 {
			total += int64(k.n)
			k.retain()
			h.write(k, total > inlineHash)
		}
		if err := sink.Take(ctx, k); err != nil {
			return total, err
		}
		switch {
		case h.failed.Load():
			return total, nil // close tells
		case rerr == io.EOF:
			return total, nil
		case rerr != nil:
			return total, &SourceError{rerr}
		}
	}
}

// fill reads until the block is full or r ends.
func fill(k *Block, r io.Reader, sink Sink) error {
	for empty := 0; k.n < len(k.buf); {
		sink.Reading()
		n, err := r.Read(k.buf[k.n:])
		if n < 0 || n > len(k.buf)-k.n {
			sink.Read(0)
			return fmt.Errorf("storage: the body's reader returned a count of %d", n)
		}
		sink.Read(n)
		k.n += n
		if err != nil {
			return err
		}
		if n > 0 {
			empty = 0
		} else if empty++; empty == 100 {
			return io.ErrNoProgress
		}
	}
	return nil
}

// hasher writes blocks to tee in order: at first at once, then from a goroutine.
type hasher struct {
	tee    io.Writer
	blocks chan *Block
	done   chan struct{}
	err    error // read it after done, or before there is a goroutine
	failed atomic.Bool
}

func (h *hasher) write(k *Block, async bool) {
	if async && h.blocks == nil {
		h.blocks, h.done = make(chan *Block, 16), make(chan struct{})
		go func() {
			defer close(h.done)
			for k := range h.blocks {
				h.one(k)
			}
		}()
	}
	if h.blocks != nil {
		h.blocks <- k
	} else {
		h.one(k)
	}
}

func (h *hasher) one(k *Block) {
	defer k.Release()
	if h.err != nil {
		return
	}
	if n, err := h.tee.Write(k.Bytes()); err != nil {
		h.err = err
	} else if n != k.n {
		h.err = io.ErrShortWrite
	}
	if h.err != nil {
		h.failed.Store(true)
	}
}

func (h *hasher) close() error {
	if h.blocks != nil {
		close(h.blocks)
		<-h.done
	}
	if h.err != nil {
		return &TeeError{h.err}
	}
	return nil
}

// WriteThrough is a Sink for a store that writes each block at once, as it
// comes. It never waits for the budget: without loose blocks it goes on with
// small buffers, only slower. It holds at most half a MiB.
type WriteThrough struct {
	budget *Budget
	write  func([]byte) error
	begun  bool
	tokens chan struct{}
}

// NewWriteThrough makes a sink for one body. write must not keep the slice.
func NewWriteThrough(b *Budget, write func([]byte) error) *WriteThrough {
	return &WriteThrough{budget: b, write: write}
}

// Next implements [Sink].
func (w *WriteThrough) Next(context.Context) (*Block, error) {
	if !w.begun {
		w.begun = true
		return w.budget.First(), nil
	}
	if w.tokens == nil {
		w.tokens = make(chan struct{}, 8)
		for range cap(w.tokens) {
			w.tokens <- struct{}{}
		}
	}
	<-w.tokens // blocks that are still to be hashed come back
	k := w.budget.Loose()
	if k == nil {
		k = w.budget.First()
	}
	k.done = w.tokens
	return k, nil
}

// Take implements [Sink].
func (w *WriteThrough) Take(_ context.Context, k *Block) error {
	defer k.Release()
	if k.n == 0 {
		return nil
	}
	return w.write(k.Bytes())
}

// Reading implements [Sink].
func (w *WriteThrough) Reading() {}

// Read implements [Sink].
func (w *WriteThrough) Read(int) {}
