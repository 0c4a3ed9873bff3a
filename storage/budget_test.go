package storage

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func (b *Budget) check(t *testing.T) {
	t.Helper()
	if now, peak, waiting := b.Usage(); now != 0 || peak > b.total || waiting != 0 {
		t.Errorf("%d bytes in use, %d at most of %d, %d waiting; want none", now, peak, b.total, waiting)
	}
	if len(b.leases) != 0 || len(b.free) != int(b.fresh) {
		t.Errorf("%d leases, %d of %d blocks free", len(b.leases), len(b.free), b.fresh)
	}
}

func TestBudgetSizes(t *testing.T) {
	for bytes, want := range map[int64]int64{0: DefaultBudget, 1: MinBudget, MinBudget: MinBudget, 100<<20 + 1: 100 << 20} {
		b := NewBudget(bytes)
		if b.Bytes() != want {
			t.Errorf("NewBudget(%d) has %d bytes, want %d", bytes, b.Bytes(), want)
		}
		if sum := b.firstMax + b.parkMax + b.leaseMax; sum > b.total || b.looseMax > b.parkMax {
			t.Errorf("the parts of %d bytes are %d", b.total, sum)
		}
		// Two parts of S3's minimum: one to send, one to keep back.
		if b.LeaseMax() < 10<<20+4*BlockSize {
			t.Errorf("the largest lease of %d bytes has %d", b.total, b.LeaseMax())
		}
	}
}

func TestFirstBlocks(t *testing.T) {
	b := NewBudget(MinBudget)
	var blocks []*Block
	var bytes int
	for range 1000 {
		k := b.First()
		bytes += len(k.buf)
		blocks = append(blocks, k)
	}
	if limit := int(b.firstMax) + 1000*tinySize; bytes > limit {
		t.Errorf("1,000 first buffers have %d bytes, want at most %d", bytes, limit)
	}
	for _, k := range blocks {
		k.Release()
	}
	b.check(t)
}

func TestLooseBlocks(t *testing.T) {
	b := NewBudget(MinBudget)
	var blocks []*Block
	for k := b.Loose(); k != nil; k = b.Loose() {
		blocks = append(blocks, k)
	}
	if len(blocks) != int(b.looseMax/BlockSize) {
		t.Errorf("%d loose blocks, want %d", len(blocks), b.looseMax/BlockSize)
	}
	blocks[0].Release()
	if blocks[0] = b.Loose(); blocks[0] == nil {
		t.Error("no loose block after one came back")
	}
	for _, k := range blocks {
		k.Release()
	}
	b.check(t)
	defer func() {
		if recover() == nil {
			t.Error("releasing a block twice is accepted")
		}
	}()
	blocks[1].Release()
}

func TestLeasesAreServedInOrder(t *testing.T) {
	b := NewBudget(MinBudget)
	ctx := t.Context()
	all, err := b.Lease(ctx, b.LeaseMax(), func() {})
	if err != nil {
		t.Fatal(err)
	}
	var order []int
	var mu sync.Mutex
	var wg sync.WaitGroup
	for i := range 5 {
		wg.Go(func() {
			l, err := b.Lease(ctx, b.LeaseMax(), func() {})
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			order = append(order, i)
			mu.Unlock()
			l.Close()
		})
		for { // until it is in the queue
			if _, _, n := b.Usage(); n == i+1 {
				break
			}
			time.Sleep(time.Millisecond)
		}
	}
	if !all.Waiting() {
		t.Error("nobody waits")
	}
	all.Close()
	all.Close()
	wg.Wait()
	for i, got := range order {
		if got != i {
			t.Fatalf("served in the order %v", order)
		}
	}
	if _, err := b.Lease(ctx, b.LeaseMax()+1, func() {}); !errors.Is(err, ErrBudget) {
		t.Errorf("a lease of more than there is: %v", err)
	}
	b.check(t)
}

func TestLeaseWaitsForItsContext(t *testing.T) {
	b := NewBudget(MinBudget)
	l, err := b.Lease(t.Context(), b.LeaseMax(), func() {})
	if err != nil {
		t.Fatal(err)
	}
	var held []*Block
	for range b.LeaseMax() / BlockSize {
		k, err := l.Block(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, k)
	}
	for name, wait := range map[string]func(context.Context) error{
		"Lease": func(ctx context.Context) error { _, err := b.Lease(ctx, BlockSize, func() {}); return err },
		"Block": func(ctx context.Context) error { _, err := l.Block(ctx); return err },
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		if err := wait(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: %v", name, err)
		}
		cancel()
	}
	time.AfterFunc(20*time.Millisecond, l.Close)
	if _, err := l.Block(t.Context()); !errors.Is(err, ErrLeaseClosed) {
		t.Errorf("a block of a closed lease: %v", err)
	}
	for _, k := range held {
		k.Release()
	}
	b.check(t)
}

func TestLeaseGrowsWhileNobodyWaits(t *testing.T) {
	b := NewBudget(MinBudget)
	l, err := b.Lease(t.Context(), 2*BlockSize, func() {})
	if err != nil {
		t.Fatal(err)
	}
	var held []*Block
	for range 10 {
		k, err := l.Block(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, k)
	}
	granted := make(chan *Lease)
	go func() {
		other, err := b.Lease(t.Context(), b.LeaseMax()-2*BlockSize, func() {})
		if err != nil {
			t.Error(err)
		}
		granted <- other
	}()
	for !l.Waiting() {
		time.Sleep(time.Millisecond)
	}
	for _, k := range held { // what is beyond the promise goes to the one who waits
		k.Release()
	}
	(<-granted).Close()
	if k, err := l.Block(t.Context()); err != nil {
		t.Error(err)
	} else {
		k.Release()
	}
	l.Close()
	b.check(t)
}

// TestStalledLeaseIsRevoked asks a holder whose client has stalled, and only that one.
func TestStalledLeaseIsRevoked(t *testing.T) {
	b := NewBudget(MinBudget)
	half := b.LeaseMax() / 2 / BlockSize * BlockSize
	var revoked atomic.Int32
	var stalled *Lease
	var current *Block
	stalled, err := b.Lease(t.Context(), half, func() {
		revoked.Add(1)
		stalled.Close()
		current.Park()
	})
	if err != nil {
		t.Fatal(err)
	}
	busy, err := b.Lease(t.Context(), half, func() { t.Error("a lease that does not stall is revoked") })
	if err != nil {
		t.Fatal(err)
	}
	if current, err = stalled.Block(t.Context()); err != nil {
		t.Fatal(err)
	}
	stalled.Reading()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 200 { // never long without bytes
			busy.Reading()
			time.Sleep(2 * time.Millisecond)
			busy.Read(1 << 20)
		}
	}()
	start := time.Now()
	l, err := b.Lease(t.Context(), half, func() {}) // needs all of it: the block is parked
	if err != nil {
		t.Fatal(err)
	}
	if waited := time.Since(start); waited < stallWait/2 {
		t.Errorf("the lease was revoked after %v", waited)
	}
	if revoked.Load() != 1 {
		t.Errorf("revoked %d times", revoked.Load())
	}
	<-done
	stalled.Read(1)
	current.Release()
	l.Close()
	busy.Close()
	b.check(t)
}

func TestSlowLeaseIsStalled(t *testing.T) {
	now := time.Now()
	for _, c := range []struct {
		name    string
		held    time.Duration
		reading time.Duration // 0: not
		brought int64
		want    bool
	}{
		{"not reading", time.Hour, 0, 0, false},
		{"just began", 0, time.Millisecond, 0, false},
		{"waits long", time.Second, stallWait + time.Millisecond, 1 << 40, true},
		{"fast enough", 2 * time.Second, time.Millisecond, 3 * stallRate, false},
		{"trickles quickly", 2 * time.Second, time.Millisecond, stallRate, true},
		{"may still speed up", stallPatience / 2, time.Millisecond, 0, false},
	} {
		l := &Lease{granted: now.Add(-c.held)}
		l.brought.Store(c.brought)
		if c.reading > 0 {
			l.since.Store(now.Add(-c.reading).UnixNano())
		}
		if got := l.stalled(now); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}

// TestBudgetUnderLoad has many holders take, grow, park and give back at once.
func TestBudgetUnderLoad(t *testing.T) {
	b := NewBudget(MinBudget)
	var wg sync.WaitGroup
	for i := range 40 {
		wg.Go(func() {
			for range 20 {
				var mu sync.Mutex
				var l *Lease
				l, err := b.Lease(t.Context(), int64(1+i%10)<<20, func() { mu.Lock(); defer mu.Unlock(); l.Close() })
				if err != nil {
					t.Error(err)
					return
				}
				var held []*Block
				for range 30 + i {
					k, err := l.Block(t.Context())
					if err != nil {
						break
					}
					k.buf[0], k.buf[BlockSize-1] = byte(i), byte(i)
					held = append(held, k)
					if len(held) > 12 {
						held[0].Release()
						held = held[1:]
					}
				}
				for j, k := range held {
					if k.buf[0] != byte(i) || k.buf[BlockSize-1] != byte(i) {
						t.Error("a block has two owners")
					}
					if j == 0 {
						k.Park()
					}
				}
				l.Close()
				for _, k := range held {
					k.Release()
				}
			}
		})
	}
	wg.Wait()
	b.check(t)
}
