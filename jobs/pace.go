package jobs

import (
	"context"
	"io"
	"sync"
	"time"
)

// Pace spreads work over time. Several goroutines may share it.
type Pace struct {
	rate float64 // units a second, 0 for no limit

	mu   sync.Mutex
	next time.Time
}

// NewPace makes one of so many units a second, 0 for no limit.
func NewPace(rate float64) *Pace { return &Pace{rate: rate} }

// Wait waits until n more units may be used, or returns the error of the context.
func (p *Pace) Wait(ctx context.Context, n float64) error {
	if p.rate <= 0 {
		return ctx.Err()
	}
	p.mu.Lock()
	now := time.Now()
	if p.next.Before(now) {
		p.next = now
	}
	delay := p.next.Sub(now)
	p.next = p.next.Add(time.Duration(n / p.rate * float64(time.Second)))
	p.mu.Unlock()
	if delay < 10*time.Millisecond { // what a timer can do
		return ctx.Err()
	}
	t := time.NewTimer(delay)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Reader reads from r no faster than the pace, of which a byte is a unit.
func (p *Pace) Reader(ctx context.Context, r io.Reader) io.Reader { return pacedReader{ctx, r, p} }

type pacedReader struct {
	ctx  context.Context
	r    io.Reader
	pace *Pace
}

func (p pacedReader) Read(b []byte) (int, error) {
	n, err := p.r.Read(b)
	if werr := p.pace.Wait(p.ctx, float64(n)); werr != nil {
		return n, werr
	}
	return n, err
}
