package s3

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"berth/storage"
)

const (
	// maxPieces is how many pieces a session gathers before they become one: each Append of a
	// few bytes writes only those, and reads the others once in a while.
	maxPieces = 32

	// turnParts is how many parts an upload sends before it lets others have its
	// memory, if somebody waits for it.
	turnParts = 4

	// linger is how long requests go on when the context of an Append has ended, so
	// that what was read is kept.
	linger = 10 * time.Second
)

// Append implements [storage.Store]. Parts are sent while the body is read,
// several at a time.
func (s *Store) Append(ctx context.Context, session storage.Session, r io.Reader, tee io.Writer) (storage.Session, int64, error) {
	st, err := parseSession(session)
	if err != nil {
		return session, 0, err
	}
	if err := ctx.Err(); err != nil {
		return session, 0, err
	}
	u := newUploader(s, ctx, st)
	defer u.stop()
	// A failed part ends the reading, too.
	reading, stopReading := context.WithCancel(ctx)
	defer stopReading()
	u.stopReading = stopReading

	n, err := storage.Pump(reading, r, tee, u)
	var source *storage.SourceError
	if err != nil && !errors.As(err, &source) {
		u.fail(err)
	}
	next, ferr := u.finish(n)
	if ferr != nil {
		return session, 0, fmt.Errorf("writing upload %s: %w", st.ID, ferr)
	}
	if n == 0 {
		return session, 0, err
	}
	return next, n, err
}

// uploader is one Append at work. The goroutine that reads the body calls it as
// a [storage.Sink]; parts are sent by goroutines of their own.
type uploader struct {
	s   *Store
	old state // that the Append was given

	ctx         context.Context // of the requests: it outlives the caller's by linger
	cancel      context.CancelCauseFunc
	unlink      func() bool // from the caller's context
	stopReading func()

	slots chan struct{}  // one per part in flight
	jobs  sync.WaitGroup // of requests
	lease atomic.Pointer[storage.Lease]

	begun bool // the first buffer was given; only the reading goroutine looks

	mu       sync.Mutex
	err      error          // the first failure
	finished bool           // the body is at its end
	current  *storage.Block // being read into
	pending  []segment      // what is neither in a part nor on its way there: pieces, then blocks
	size     int64          // of pending, in bytes
	loose    int            // blocks in pending that belong to no lease
	pieces   []piece        // those in pending
	parts    parts          // of the upload, the ones in flight included
	shipped  int            // parts since the lease was had
	created  *state         // with the multipart upload that this Append has made
	made     []string       // pieces that this Append has made
	upload   func() (state, error)
}

func newUploader(s *Store, ctx context.Context, st state) *uploader {
	u := &uploader{
		s: s, old: st,
		slots:   make(chan struct{}, s.config.Parallel),
		pending: remotes(st, st.Pieces),
		pieces:  slices.Clone(st.Pieces),
		parts:   slices.Clone(st.Parts),
	}
	for _, p := range st.Pieces {
		u.size += p.Size
	}
	u.ctx, u.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
	u.unlink = context.AfterFunc(ctx, func() {
		time.AfterFunc(linger, func() { u.cancel(context.Cause(ctx)) })
	})
	u.upload = sync.OnceValues(u.create)
	return u
}

// create makes the multipart upload, unless the session has one.
func (u *uploader) create() (state, error) {
	st := u.old
	if st.Upload != "" {
		return st, nil
	}
	st.Name = newName()
	var err error
	if st.Upload, err = u.s.create(u.ctx, st); err != nil {
		return st, err
	}
	u.mu.Lock()
	u.created = &st
	u.mu.Unlock()
	return st, nil
}

// fail ends the Append with the first error that happens.
func (u *uploader) fail(err error) {
	u.mu.Lock()
	if u.err == nil {
		u.err = err
	}
	u.mu.Unlock()
	u.cancel(err)
	u.stopReading()
}

// Next implements [storage.Sink]. The first MiB takes what memory there is,
// more than that waits for a lease of all that the next part needs.
func (u *uploader) Next(ctx context.Context) (*storage.Block, error) {
	k, err := u.next(ctx)
	u.mu.Lock()
	u.current = k
	u.mu.Unlock()
	return k, err
}

func (u *uploader) next(ctx context.Context) (*storage.Block, error) {
	budget := u.s.config.Budget
	if !u.begun {
		u.begun = true
		return budget.First(), nil
	}
	for {
		lease := u.lease.Load()
		if lease == nil {
			u.mu.Lock()
			need, mayLoose := u.s.parts.limit(len(u.parts)), u.loose < storage.LooseMax
			u.mu.Unlock()
			if mayLoose {
				if k := budget.Loose(); k != nil {
					u.mu.Lock()
					u.loose++
					u.mu.Unlock()
					return k, nil
				}
			}
			var err error
			if lease, err = budget.Lease(ctx, need, u.revoked); err != nil {
				return nil, err
			}
			u.mu.Lock()
			u.shipped = 0
			u.lease.Store(lease)
			u.mu.Unlock()
		}
		k, err := lease.Block(ctx)
		if err != storage.ErrLeaseClosed {
			return k, err
		}
	}
}

// Reading implements [storage.Sink].
func (u *uploader) Reading() {
	if l := u.lease.Load(); l != nil {
		l.Reading()
	}
}

// Read implements [storage.Sink].
func (u *uploader) Read(n int) {
	if l := u.lease.Load(); l != nil {
		l.Read(n)
	}
}

// Take implements [storage.Sink]: it sends a part when more is pending than
// that part and the next one need.
func (u *uploader) Take(_ context.Context, k *storage.Block) error {
	u.mu.Lock()
	u.current = nil
	if len(k.Bytes()) == 0 {
		u.mu.Unlock()
		k.Release()
		return nil
	}
	u.pending = append(u.pending, segment{block: k})
	u.size += int64(len(k.Bytes()))
	number := len(u.parts)
	sizes := u.s.parts
	if u.size < sizes.limit(number) {
		u.mu.Unlock()
		return nil
	}
	if number == maxParts {
		u.mu.Unlock()
		return fmt.Errorf("the upload has more than the %d bytes that fit into %d parts; a larger buffer budget allows larger parts", u.s.MaxSize(), maxParts)
	}
	size := sizes.size(number)
	u.shipped++
	lease := u.lease.Load()
	if lease != nil && (u.shipped >= turnParts && lease.Waiting() || sizes.size(number+1) > size) {
		// Somebody else's turn, or time for a larger lease: it has to go as a whole.
		size = u.size
		u.closeLease()
	}
	part := u.cutPart(size)
	u.mu.Unlock()

	select {
	case u.slots <- struct{}{}:
		u.jobs.Go(func() { u.run(part); <-u.slots })
		return nil
	case <-u.ctx.Done():
		part.release()
		return context.Cause(u.ctx)
	}
}

// revoked is called when the client stalls and others wait for memory: what is
// pending goes to S3, as a part if it is enough for one, else as a piece.
func (u *uploader) revoked() {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.finished || u.lease.Load() == nil {
		return
	}
	var job *shipment
	switch blocks := len(u.pending) - len(u.pieces); {
	case blocks <= u.loose+1:
		// Nothing of it is the lease's.
	case u.size >= minPart && len(u.parts) < maxParts:
		job = u.cutPart(u.size)
	default:
		job = u.cutPiece()
	}
	if job != nil {
		u.loose = 0
		u.jobs.Go(func() {
			select {
			case u.slots <- struct{}{}:
				u.run(job)
				<-u.slots
			case <-u.ctx.Done():
				job.release()
				u.fail(context.Cause(u.ctx))
			}
		})
	}
	u.lease.Swap(nil).Close()
	if u.current != nil {
		u.current.Park()
	}
}

// closeLease gives the lease back; its blocks follow when they are sent. The
// caller holds the lock.
func (u *uploader) closeLease() {
	if l := u.lease.Swap(nil); l != nil {
		l.Close()
	}
	u.loose = 0
}

// shipment is a request to make: a part, or a piece when it has a name.
type shipment struct {
	segments []segment
	number   int // of the part, from 1
	piece    string
	done     chan struct{} // closed when a piece is stored
	err      error         // read it after done
}

func (j *shipment) release() {
	for _, g := range j.segments {
		if g.block != nil {
			g.block.Release()
		}
	}
	j.segments = nil
}

// cutPart takes at least size bytes from the front of what is pending. The caller holds the lock.
func (u *uploader) cutPart(size int64) *shipment {
	var n int
	var cut int64
	for n < len(u.pending) && cut < size {
		cut += u.pending[n].size()
		n++
	}
	j := &shipment{segments: slices.Clone(u.pending[:n]), number: len(u.parts) + 1}
	u.pending = slices.Clone(u.pending[n:])
	u.pieces = u.pieces[min(n, len(u.pieces)):]
	u.size -= cut
	u.parts = append(u.parts, part{})
	return j
}

// cutPiece makes a piece of the blocks that are pending; it stays pending. The
// caller holds the lock.
func (u *uploader) cutPiece() *shipment {
	return u.cut(len(u.pieces))
}

// cut makes one piece of what is pending from segment i on.
func (u *uploader) cut(i int) *shipment {
	j := &shipment{segments: slices.Clone(u.pending[i:]), piece: newName(), done: make(chan struct{})}
	all, err := join(spansOf(j.segments))
	if err != nil {
		panic(err) // CRC-32C can be joined
	}
	whole := i == 0 && len(u.pieces) == 0 && len(u.parts) == 0 && u.old.Size == 0 && u.finished
	p := piece{Name: j.piece, Size: all.size, CRC: all.crc, Whole: whole}
	u.pieces = append(slices.Clone(u.pieces[:min(i, len(u.pieces))]), p)
	u.pending = append(slices.Clone(u.pending[:i]), segment{
		key: u.old.key(p.Name), span: all,
		wait: func() error {
			select {
			case <-j.done:
				return j.err
			case <-u.ctx.Done():
				return context.Cause(u.ctx)
			}
		},
	})
	u.made = append(u.made, p.Name)
	return j
}

// run makes the request of a shipment.
func (u *uploader) run(j *shipment) {
	defer j.release()
	if j.piece != "" {
		_, j.err = u.s.put(u.ctx, u.old.key(j.piece), j.segments)
		close(j.done)
		if j.err != nil {
			u.fail(j.err)
		}
		return
	}
	st, err := u.upload()
	var done part
	if err == nil {
		done, err = u.s.putPart(u.ctx, st, j.number, j.segments)
	}
	if err != nil {
		u.fail(err)
		return
	}
	u.mu.Lock()
	u.parts[j.number-1] = done
	u.mu.Unlock()
}

// finish stores what is pending and gives the new session, of n bytes more.
func (u *uploader) finish(n int64) (storage.Session, error) {
	u.mu.Lock()
	u.finished = true
	u.closeLease()
	var last *shipment
	switch blocks := len(u.pending) - len(u.pieces); {
	case u.err != nil || n == 0 || blocks == 0:
	case u.old.Size == 0 && len(u.parts) == 0 && len(u.pieces) == 0:
		last = u.cut(0) // all of it: one object
	case u.size >= minPart && len(u.parts) < maxParts:
		last = u.cutPart(u.size)
	case len(u.pieces) >= maxPieces:
		last = u.cut(0)
	default:
		last = u.cutPiece()
	}
	u.mu.Unlock()
	if last != nil {
		u.run(last)
	}
	u.jobs.Wait()
	if u.err != nil {
		u.undo()
		return "", u.err
	}
	if n == 0 {
		return "", nil
	}
	st, err := u.result(n)
	if err != nil {
		u.undo()
		return "", err
	}
	return st, nil
}

// result is the session of what is stored now. Its predecessor's pieces stay
// for as long as it may be needed: until the new session is used.
func (u *uploader) result(n int64) (storage.Session, error) {
	st := u.old
	if len(u.parts) > 0 {
		var err error
		if st, err = u.upload(); err != nil {
			return "", err
		}
	}
	st.Size += n
	st.Parts = u.parts
	st.Pieces = u.pieces

	kept := map[string]bool{}
	for _, p := range u.pieces {
		kept[p.Name] = true
	}
	st.Stale = nil
	for _, p := range u.old.Pieces {
		switch {
		case kept[p.Name]:
		case p.Whole:
			st.Left = p.Name
		default:
			st.Stale = append(st.Stale, p.Name)
		}
	}
	session, err := st.session()
	if err != nil {
		return "", err
	}
	gone := slices.Clone(u.old.Stale)
	for _, name := range u.made {
		if !kept[name] {
			gone = append(gone, name)
		}
	}
	u.s.sweep(u.ctx, st, gone)
	return session, nil
}

// undo removes what a failed Append has stored.
func (u *uploader) undo() {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(u.ctx), u.s.config.Timeout)
	defer cancel()
	u.s.sweep(ctx, u.old, u.made)
	if u.created != nil {
		if err := u.s.abort(ctx, *u.created); err != nil && !errors.Is(err, storage.ErrSession) {
			u.s.config.Logger.Warn("a multipart upload is left behind", "upload", u.old.ID, "error", err)
		}
	}
}

// stop ends what may still be there of an Append.
func (u *uploader) stop() {
	u.unlink()
	u.cancel(nil)
	u.mu.Lock()
	defer u.mu.Unlock()
	u.finished = true
	u.closeLease()
	(&shipment{segments: u.pending}).release()
	u.pending = nil
}
