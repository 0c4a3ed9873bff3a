package storage

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// Sizes of buffers, in bytes. DefaultBudget leaves room below 400 MiB of
// resident memory for everything else that a process needs.
const (
	DefaultBudget = 256 << 20
	MinBudget     = 16 << 20 // the smallest budget with which every store works

	// BlockSize is the size of the blocks that a budget hands out.
	BlockSize = 64 << 10

	firstSize = 32 << 10 // the first buffer of every body
	tinySize  = 4 << 10  // the first buffer when very many bodies have one

	// LooseMax is how many loose blocks one body should have before it asks for a lease: 1 MiB.
	LooseMax = 16
)

// When a lease counts as stalled: its reader has waited this long for its
// client, or has brought less than stallRate for at least stallPatience.
const (
	stallWait     = 250 * time.Millisecond
	stallPatience = time.Second
	stallRate     = 1 << 20 // bytes per second
	stallCheck    = 50 * time.Millisecond
	idleTrim      = 10 * time.Second // until the memory of an idle budget goes back to the system
)

// Budget is the memory that all uploads of a process share for their
// buffers, whatever their number and size. It has three parts:
//
//   - First buffers, 32 KiB, one per body. They never wait; when a sixteenth of
//     the budget is in use for them, the next bodies begin with 4 KiB.
//   - Loose blocks, a quarter of the budget, given as long as there are any.
//     One body has up to 1 MiB of them, so small blobs never queue behind large ones. A
//     quarter of these is kept for the blocks of stalled readers, see [Block.Park].
//   - Leases, the rest: a body that needs more (a part of an S3 upload) first
//     gets a promise of all the memory that lets it go on alone, first come,
//     first served. Who holds a lease never waits for somebody else's memory, so
//     uploads cannot deadlock, however many they are. A holder whose client stalls
//     while others wait is asked to give its lease back.
//
// The blocks are not part of Go's heap: a heap with 200 MiB of live buffers
// would grow to twice that before it is collected.
//
// A Budget is used by any number of stores at once. It starts no goroutine.
type Budget struct {
	total, firstMax, looseMax, parkMax, leaseMax int64

	small  sync.Pool // *[]byte of firstSize
	firsts atomic.Int64

	mu     sync.Mutex
	memory arena
	blocks []Block
	free   []int32 // indexes of blocks that were used and came back, the last one first
	fresh  int32   // blocks from here on were never used
	loose  int64   // bytes given as loose blocks, or parked
	leased int64   // bytes promised to leases or in their blocks
	peak   int64
	queue  []*waiter
	leases map[*Lease]struct{}
	trim   *time.Timer
}

type waiter struct {
	lease   *Lease
	granted chan struct{}
}

// NewBudget makes a budget of so many bytes; 0 means [DefaultBudget], and less
// than [MinBudget] means that.
func NewBudget(bytes int64) *Budget {
	if bytes == 0 {
		bytes = DefaultBudget
	}
	bytes = max(bytes, MinBudget) / BlockSize * BlockSize
	b := &Budget{
		total:    bytes,
		firstMax: bytes / 16,
		looseMax: bytes / 16 * 3 / BlockSize * BlockSize,
		parkMax:  bytes / 4 / BlockSize * BlockSize,
		leases:   map[*Lease]struct{}{},
	}
	b.leaseMax = (bytes - b.firstMax - b.parkMax) / BlockSize * BlockSize
	b.small.New = func() any { buf := make([]byte, firstSize); return &buf }
	b.blocks = make([]Block, (b.parkMax+b.leaseMax)/BlockSize)
	return b
}

// Bytes is the size of the budget.
func (b *Budget) Bytes() int64 { return b.total }

// LeaseMax is the largest lease that can be had, in bytes.
func (b *Budget) LeaseMax() int64 { return b.leaseMax }

// Usage says how many bytes are in use now and at most were since the start,
// and how many bodies wait for memory.
func (b *Budget) Usage() (now, peak int64, waiting int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.inUse(), b.peak, len(b.queue)
}

func (b *Budget) inUse() int64 {
	return b.loose + b.leased + b.firsts.Load()*firstSize
}

// Block is a buffer on its way from a reader to a hash and a store. It is
// counted: it goes back to the budget when the last of its users has released it.
type Block struct {
	buf    []byte
	n      int
	refs   atomic.Int32
	budget *Budget
	lease  *Lease          // nil: loose or first
	index  int32           // -1: a first buffer
	pooled *[]byte         // of a first buffer
	done   chan<- struct{} // told when the block is released; may be nil
}

// Bytes is what the block holds.
func (k *Block) Bytes() []byte { return k.buf[:k.n] }

// Release gives up one use of the block.
func (k *Block) Release() {
	switch n := k.refs.Add(-1); {
	case n > 0:
		return
	case n < 0:
		panic("storage: a block was released twice")
	}
	done := k.done
	k.done = nil
	k.budget.put(k)
	if done != nil {
		done <- struct{}{}
	}
}

// Park makes a block of a lease a loose one, when its reader has stalled: the
// lease's memory would not all come back else, and a large lease might never be had again.
func (k *Block) Park() {
	b := k.budget
	b.mu.Lock()
	defer b.mu.Unlock()
	l := k.lease
	if l == nil || b.loose+BlockSize > b.parkMax {
		return
	}
	k.lease = nil
	b.loose += BlockSize
	b.leased -= BlockSize
	l.used -= BlockSize
	l.size -= BlockSize
	b.grant()
}

func (k *Block) retain() { k.refs.Add(1) }

// First gives the first buffer of a body. It never waits.
func (b *Budget) First() *Block {
	k := &Block{budget: b, index: -1}
	k.refs.Store(1)
	if b.firsts.Add(1)*firstSize > b.firstMax {
		b.firsts.Add(-1)
		k.buf = make([]byte, tinySize)
		return k
	}
	k.pooled = b.small.Get().(*[]byte)
	k.buf = *k.pooled
	return k
}

// Loose gives a loose block, or nil when none is left.
func (b *Budget) Loose() *Block {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.loose+BlockSize > b.looseMax {
		return nil
	}
	b.loose += BlockSize
	return b.get(nil)
}

// get takes a block from the pile; the caller holds the lock and has counted it.
func (b *Budget) get(l *Lease) *Block {
	b.peak = max(b.peak, b.inUse())
	var i int32
	if n := len(b.free); n > 0 {
		i, b.free = b.free[n-1], b.free[:n-1]
	} else {
		i = b.fresh
		b.fresh++
	}
	if b.memory == nil {
		b.memory = newArena(len(b.blocks) * BlockSize)
		runtime.AddCleanup(b, arena.free, b.memory)
	}
	k := &b.blocks[i]
	k.buf, k.n, k.budget, k.lease, k.index = b.memory.block(int(i)), 0, b, l, i
	k.refs.Store(1)
	return k
}

func (b *Budget) put(k *Block) {
	if k.index < 0 {
		if k.pooled != nil {
			b.small.Put(k.pooled)
			b.firsts.Add(-1)
		}
		k.buf = nil
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.free = append(b.free, k.index)
	l := k.lease
	k.lease = nil
	if l == nil {
		b.loose -= BlockSize
	} else {
		l.used -= BlockSize
		if l.closed || l.size > l.base && len(b.queue) > 0 {
			l.size -= BlockSize
			b.leased -= BlockSize
			b.grant()
		} else {
			l.promise += BlockSize
		}
		l.wake()
	}
	if b.loose == 0 && b.leased == 0 {
		b.idle()
	}
}

// idle gives the memory back to the system when the budget stays unused for a
// while; the caller holds the lock.
func (b *Budget) idle() {
	if b.trim != nil {
		b.trim.Reset(idleTrim)
		return
	}
	b.trim = time.AfterFunc(idleTrim, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.loose == 0 && b.leased == 0 && b.memory != nil {
			b.memory.discard(int(b.fresh))
			b.free, b.fresh = b.free[:0], 0
		}
	})
}

// ErrBudget says that a lease was asked for that is larger than the budget
// allows at all.
var ErrBudget = errors.New("storage: the buffer budget is too small")

// ErrLeaseClosed says that a lease has been given back.
var ErrLeaseClosed = errors.New("storage: the lease is closed")

// Lease is a promise of memory for one body. Its methods are for one
// goroutine, except where they say otherwise.
type Lease struct {
	b      *Budget
	revoke func()
	freed  chan struct{} // a block came back

	// Guarded by b.mu. size = promise + used; what exceeds base is extra and
	// goes back when somebody waits.
	base, size, promise, used int64
	closed, revoked           bool

	since   atomic.Int64 // when the read that goes on now began, in Unix ns; 0: none
	granted time.Time
	brought atomic.Int64 // bytes read under the lease
}

// Lease promises bytes of memory, and waits for its turn. The promise comes
// back with [Lease.Close]. When the holder's reader stalls while others
// wait, revoke is called, once, from another goroutine: the holder should then store
// what it has and close the lease soon.
//
// It returns the context's error, or ErrBudget.
func (b *Budget) Lease(ctx context.Context, bytes int64, revoke func()) (*Lease, error) {
	bytes = (bytes + BlockSize - 1) / BlockSize * BlockSize
	if bytes > b.leaseMax {
		return nil, fmt.Errorf("%w: %d bytes are needed at once, and %d of %d can be had; raise the budget", ErrBudget, bytes, b.leaseMax, b.total)
	}
	l := &Lease{b: b, base: bytes, size: bytes, promise: bytes, revoke: revoke, freed: make(chan struct{}, 1)}
	w := &waiter{lease: l, granted: make(chan struct{})}
	b.mu.Lock()
	b.queue = append(b.queue, w)
	b.grant()
	b.mu.Unlock()

	select {
	case <-w.granted:
		return l, nil
	default:
	}
	tick := time.NewTicker(stallCheck)
	defer tick.Stop()
	for {
		b.reclaim(0)
		select {
		case <-w.granted:
			return l, nil
		case <-tick.C:
		case <-ctx.Done():
			if !b.forget(w) {
				l.Close()
			}
			return nil, ctx.Err()
		}
	}
}

// grant serves the queue from its head; the caller holds the lock.
func (b *Budget) grant() {
	for len(b.queue) > 0 {
		w := b.queue[0]
		if b.leased+w.lease.size > b.leaseMax {
			return
		}
		b.queue = b.queue[1:]
		b.leased += w.lease.size
		b.leases[w.lease] = struct{}{}
		w.lease.granted = time.Now()
		close(w.granted)
	}
}

// forget takes a waiter out of the queue and reports whether it was there.
func (b *Budget) forget(w *waiter) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i, q := range b.queue {
		if q == w {
			b.queue = append(b.queue[:i:i], b.queue[i+1:]...)
			b.grant() // the next one may want less
			return true
		}
	}
	return false
}

// reclaim asks holders of stalled leases to give them back, the longest
// stalled first, until enough for all waiters and extra more would be free.
func (b *Budget) reclaim(extra int64) {
	b.mu.Lock()
	need := extra - (b.leaseMax - b.leased)
	for _, w := range b.queue {
		need += w.lease.size
	}
	for l := range b.leases {
		if l.revoked {
			need -= l.size
		}
	}
	var victims []*Lease
	for now := time.Now(); need > 0; {
		var worst *Lease
		for l := range b.leases {
			if !l.revoked && l.stalled(now) && (worst == nil || l.since.Load() < worst.since.Load()) {
				worst = l
			}
		}
		if worst == nil {
			break
		}
		worst.revoked = true
		need -= worst.size
		victims = append(victims, worst)
	}
	b.mu.Unlock()
	for _, l := range victims {
		l.revoke()
	}
}

func (l *Lease) stalled(now time.Time) bool {
	since := l.since.Load()
	if since == 0 {
		return false
	}
	if now.UnixNano()-since > int64(stallWait) {
		return true
	}
	held := now.Sub(l.granted)
	return held > stallPatience && float64(l.brought.Load()) < held.Seconds()*stallRate
}

// Waiting reports whether others wait for a lease.
func (l *Lease) Waiting() bool {
	l.b.mu.Lock()
	defer l.b.mu.Unlock()
	return len(l.b.queue) > 0
}

// Block gives a block of the lease. When all are in use it enlarges the lease,
// if nobody waits for memory; else it waits until one of the lease's own blocks comes
// back. The caller has to be sure that one will: a block that is being written
// to the store or hashed does, one that waits for the next block does not.
//
// It returns the context's error, or ErrLeaseClosed.
func (l *Lease) Block(ctx context.Context) (*Block, error) {
	for {
		if k, err := l.tryBlock(); k != nil || err != nil {
			return k, err
		}
		l.b.reclaim(BlockSize)
		select {
		case <-l.freed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (l *Lease) tryBlock() (*Block, error) {
	b := l.b
	b.mu.Lock()
	defer b.mu.Unlock()
	if l.closed {
		return nil, ErrLeaseClosed
	}
	if l.promise == 0 && len(b.queue) == 0 && b.leased+BlockSize <= b.leaseMax {
		b.leased += BlockSize
		l.size += BlockSize
		l.promise += BlockSize
	}
	if l.promise == 0 {
		return nil, nil
	}
	l.promise -= BlockSize
	l.used += BlockSize
	return b.get(l), nil
}

// Close gives back what is not in blocks; those follow when they are released. A
// second Close does nothing. It may be called from any goroutine.
func (l *Lease) Close() {
	b := l.b
	b.mu.Lock()
	defer b.mu.Unlock()
	if l.closed {
		return
	}
	l.closed = true
	delete(b.leases, l)
	b.leased -= l.promise
	l.size -= l.promise
	l.promise = 0
	l.wake()
	b.grant()
	if b.loose == 0 && b.leased == 0 {
		b.idle()
	}
}

func (l *Lease) wake() {
	select {
	case l.freed <- struct{}{}:
	default:
	}
}

// Reading notes that the holder begins to wait for its client.
func (l *Lease) Reading() { l.since.Store(time.Now().UnixNano()) }

// Read notes that the wait is over and has brought n bytes.
func (l *Lease) Read(n int) {
	l.brought.Add(int64(n))
	l.since.Store(0)
}
