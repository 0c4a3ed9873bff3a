package registry

import (
	"context"
	"sync"
	"time"
)

// writerWait is how long a request waits for another one that writes to the same upload. That one may
// be reading from a connection that is dead, which it does not know.
const writerWait = 10 * time.Second

// writers let one request of this process at a time write to an upload. A client whose connection broke
// sends its chunk again while the first request is still storing it: the second one would write over bytes that are about to
// be recorded, and neither could go on. Between replicas the store and the compare-and-set of the
// row decide, at the price of the upload. The zero value is ready; uploads that nobody writes to take no memory.
type writers struct {
	mu   sync.Mutex
	byID map[string]*writer
}

type writer struct {
	turn    chan struct{} // has an element while a request writes
	users   int           // requests that write or wait
	waiting int           // those that have called busy
}

// enter waits until no other request writes to the upload, for writerWait at most or until the context
// ends, and calls busy before that when it has to wait. The caller calls leave in the end.
func (w *writers) enter(ctx context.Context, id string, busy func()) (leave func()) {
	w.mu.Lock()
	u := w.byID[id]
	if u == nil {
		if w.byID == nil {
			w.byID = map[string]*writer{}
		}
		u = &writer{turn: make(chan struct{}, 1)}
		w.byID[id] = u
	}
	u.users++
	w.mu.Unlock()

	mine := true
	select {
	case u.turn <- struct{}{}:
	default:
		busy()
		w.mu.Lock()
		u.waiting++
		w.mu.Unlock()
		patience := time.NewTimer(writerWait)
		defer patience.Stop()
		select {
		case u.turn <- struct{}{}:
		case <-patience.C:
			mine = false
		case <-ctx.Done():
			mine = false
		}
		w.mu.Lock()
		u.waiting--
		w.mu.Unlock()
	}
	return func() {
		if mine {
			<-u.turn
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		if u.users--; u.users == 0 {
			delete(w.byID, id)
		}
	}
}
