package registry

import (
	"context"
	"fmt"
	"sync"
	"time"

	"berth/metadata"
)

// pullEvery is how often a pull of one manifest is noted at most.
const pullEvery = time.Hour

// maxPulls bounds the manifests that are remembered between two recordings, and
// those of which is known that they were recorded.
const maxPulls = 100_000

// pulls remembers which manifests were asked for, so that retention can know,
// without a write in a pull. A process that dies loses the last minute.
type pulls struct {
	mu      sync.Mutex
	noted   map[int64]time.Time // when a manifest was last noted
	pending map[int64]struct{}  // not recorded yet
}

func (p *pulls) note(id int64, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if last, ok := p.noted[id]; ok && now.Sub(last) < pullEvery || len(p.pending) >= maxPulls {
		return
	}
	if p.noted == nil || len(p.noted) >= maxPulls {
		p.noted = map[int64]time.Time{}
	}
	if p.pending == nil {
		p.pending = map[int64]struct{}{}
	}
	p.noted[id] = now
	p.pending[id] = struct{}{}
}

// RecordPulls writes down which manifests this process was asked for since the
// last call, and returns how many. Each process has to do so for itself.
func (r *Registry) RecordPulls(ctx context.Context) (int, error) {
	r.pulls.mu.Lock()
	pending := r.pulls.pending
	r.pulls.pending = nil
	r.pulls.mu.Unlock()
	if len(pending) == 0 {
		return 0, nil
	}
	ids := make([]int64, 0, len(pending))
	for id := range pending {
		ids = append(ids, id)
	}
	err := r.db.UpdateRelaxed(ctx, func(tx *metadata.Tx) error { return tx.RecordPulls(ctx, ids) })
	if err != nil {
		r.pulls.mu.Lock()
		defer r.pulls.mu.Unlock()
		for id := range r.pulls.pending {
			pending[id] = struct{}{}
		}
		r.pulls.pending = pending
		return 0, fmt.Errorf("recording pulls: %w", err)
	}
	return len(ids), nil
}
