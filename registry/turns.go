package registry

import (
	"context"
	"io"
	"sync"
	"time"
)

// turnWait is how long a request waits for another one that writes to the same upload.
const turnWait = 10 * time.Second

// An Interrupter is a body that can be ended from outside: a Read that waits for the client fails then, and so
// do later ones. It may be called at any time, and does nothing to a body that was read to its end.
type Interrupter interface{ Interrupt() }

// turns let one request of this process at a time write to an upload. A client whose connection
// broke sends its chunk again while the first request is still storing it: the second one would
// write over bytes that are about to be recorded, and neither could go on. And a request whose
// connection is dead, which it does not know, would keep the client from going on: what comes with
// a body of its own interrupts the one before it. Between replicas the store and the
// compare-and-set of the row decide, at the price of the upload. The zero value is ready; uploads
// that nobody writes to take no memory.
type turns struct {
	mu   sync.Mutex
	byID map[string]*turn
}

type turn struct {
	taken   chan struct{} // has an element while a request writes
	body    io.Reader     // of that request, nil for none
	users   int           // requests that write or wait
	waiting int           // those that have called busy
}

// enter waits until no other request writes to the upload, for turnWait at most or until the context
// ends. When it has to wait it calls busy before, which says whether it may; then, if it has a body, it
// interrupts the other's. The caller calls leave in the end.
func (w *turns) enter(ctx context.Context, id string, body io.Reader, busy func() bool) (leave func()) {
	w.mu.Lock()
	u := w.byID[id]
	if u == nil {
		if w.byID == nil {
			w.byID = map[string]*turn{}
		}
		u = &turn{taken: make(chan struct{}, 1)}
		w.byID[id] = u
	}
	u.users++
	w.mu.Unlock()

	mine := true
	select {
	case u.taken <- struct{}{}:
	default:
		may := busy()
		w.mu.Lock()
		u.waiting++
		if before, ok := u.body.(Interrupter); ok && may && body != nil {
			before.Interrupt()
		}
		w.mu.Unlock()
		patience := time.NewTimer(turnWait)
		defer patience.Stop()
		select {
		case u.taken <- struct{}{}:
		case <-patience.C:
			mine = false
		case <-ctx.Done():
			mine = false
		}
		w.mu.Lock()
		u.waiting--
		w.mu.Unlock()
	}
	if mine {
		w.mu.Lock()
		u.body = body
		w.mu.Unlock()
	}
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if mine {
			u.body = nil
			<-u.taken
		}
		if u.users--; u.users == 0 {
			delete(w.byID, id)
		}
	}
}
