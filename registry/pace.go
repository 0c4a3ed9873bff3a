package registry

import (
	"context"
	"io"
	"sync"
	"time"
)

// pace spreads work over time. Several goroutines may share it.
type pace struct {
	rate float64 // units a second, 0 for no limit

	mu   sync.Mutex
	next time.Time
}

func newPace(rate float64) *pace { return &pace{rate: rate} }

// wait waits until n more units may be used.
func (p *pace) wait(ctx context.Context, n float64) error {
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

// pacedReader reads no faster than its pace.
type pacedReader struct {
	ctx  context.Context
	r    io.Reader
	pace *pace
}

func (p pacedReader) Read(b []byte) (int, error) {
	n, err := p.r.Read(b)
	if werr := p.pace.wait(p.ctx, float64(n)); werr != nil {
		return n, werr
	}
	return n, err
}
