package server

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"berth/auth"
	"berth/metadata"
	"berth/registry"
	"berth/server/door"
)

// exchange is one request and its answer, as seen by what stands around the
// handlers: the log line, the metrics, the error writer. It is the
// http.ResponseWriter that handlers get. There is no other wrapper, so that a
// file reaches the socket by sendfile: ReadFrom is passed on.
type exchange struct {
	rw     http.ResponseWriter
	server *Server
	start  time.Time
	id     string // request id
	origin        // where it comes from
	agent  string // the User-Agent

	status     int
	written    int64
	patience   time.Time    // when the client last got time to take the answer
	body       *requestBody // nil when the request has none
	endpoint   *endpoint    // nil for a path that no route knows
	repository string       // name from the path; "" where there is none
	deed       door.Deed    // what it wants, of a route with Resolve
	tried      string       // the name that a sign-in was tried with
	identity   identity     // who asks, once access.go knows
	face       *door.Face   // how errors and challenges look
	cause      error        // what the error writer was given
	aborted    bool         // the connection must not be used again
}

var _ door.Exchange = (*exchange)(nil)

// exchangeOf finds the exchange of a request, or nil outside of the server.
func exchangeOf(ctx context.Context) *exchange {
	ex, _ := door.Of(ctx).(*exchange)
	return ex
}

// principal is who makes the request.
func (ex *exchange) principal() auth.Principal {
	if ex.identity.known {
		return ex.identity.principal
	}
	return auth.Anonymous()
}

// Actor implements [door.Exchange].
func (ex *exchange) Actor() auth.Actor {
	return auth.ActorOf(ex.principal(), metadata.Actor{Address: ex.remote, RequestID: ex.id, UserAgent: ex.agent, Host: ex.host})
}

// Deed implements [door.Exchange].
func (ex *exchange) Deed() door.Deed { return ex.deed }

// Repository implements [door.Exchange].
func (ex *exchange) Repository() string { return ex.repository }

// RequestID implements [door.Exchange].
func (ex *exchange) RequestID() string { return ex.id }

// JSON implements [door.Exchange].
func (ex *exchange) JSON(status int, body any) { writeJSON(ex, "application/json", status, body) }

// Fail implements [door.Exchange].
func (ex *exchange) Fail(r *http.Request, err error) { ex.fail(r, err) }

// Abort implements [door.Exchange].
func (ex *exchange) Abort(err error) error {
	ex.aborted = true
	return err
}

func (ex *exchange) Header() http.Header { return ex.rw.Header() }

func (ex *exchange) WriteHeader(status int) {
	if status >= 200 {
		ex.begins(status)
	}
	ex.wait()
	ex.rw.WriteHeader(status)
}

// begins notes that the answer begins now. When the server stops, it is the last one of its connection: a connection
// that is closed between two requests may take the next one with it.
func (ex *exchange) begins(status int) {
	if ex.status != 0 {
		return
	}
	ex.status = status
	if ex.server.draining.Load() {
		ex.rw.Header().Set("Connection", "close")
	}
}

// writeChunk is how much of an answer that is in memory is given to the client between
// two renewals of the write deadline.
const writeChunk = 256 << 10

func (ex *exchange) Write(p []byte) (n int, err error) {
	ex.begins(http.StatusOK)
	for {
		ex.wait()
		chunk := min(len(p), writeChunk)
		m, err := ex.rw.Write(p[:chunk])
		ex.written += int64(m)
		n, p = n+m, p[chunk:]
		if err != nil && ex.cause == nil {
			ex.cause = fmt.Errorf("sending the answer: %w", err) // for the log line; handlers can do nothing about it
		}
		if err != nil || len(p) == 0 {
			return n, err
		}
	}
}

// wait gives the client Options.StallTimeout to take what is written next. One that asks
// and does not read would otherwise hold the answer, and its connection, for ever. The
// deadline is the connection's and stays behind, so that each answer has to set its own.
func (ex *exchange) wait() {
	stall := ex.server.stall
	if stall <= 0 {
		return
	}
	if now := time.Now(); now.Sub(ex.patience) >= min(renewEvery, stall/8) {
		ex.patience = now
		// net/http may first drain the request's body, see drainTimeout. Without a
		// deadline (in tests over a pipe) there is nothing to renew.
		_ = http.NewResponseController(ex.rw).SetWriteDeadline(now.Add(stall + min(stall, drainTimeout)))
	}
}

// ReadFrom lets net/http use sendfile for a file.
func (ex *exchange) ReadFrom(r io.Reader) (int64, error) {
	ex.begins(http.StatusOK)
	ex.wait()
	n, err := io.Copy(ex.rw, r)
	ex.written += n
	return n, err
}

// Flush implements http.Flusher, which some libraries look for.
func (ex *exchange) Flush() { _ = http.NewResponseController(ex.rw).Flush() }

// Unwrap is for http.ResponseController.
func (ex *exchange) Unwrap() http.ResponseWriter { return ex.rw }

// requestBody counts what a client sends and gives it a deadline that moves
// with each byte: a client may take as long as it needs, but one that falls
// silent is given up. It also keeps the client's failure apart from ours.
type requestBody struct {
	rc      io.ReadCloser
	control *http.ResponseController
	stall   time.Duration
	clock   func() time.Time
	renewed time.Time
	n       atomic.Int64
	failed  atomic.Pointer[error]

	mu          sync.Mutex
	ended       bool  // read to its end
	interrupted error // why it is not read any more
}

// How a body ends that is not read any more.
var (
	errInterrupted = errors.New("another request continues this upload")
	errStopping    = errors.New("the server stops")
)

const (
	// renewEvery is how often the read deadline is moved at most.
	renewEvery = time.Second
	// drainTimeout bounds what net/http does after us: when a handler has left some of
	// the body, it reads up to 256 KiB more, to be able to use the connection
	// again, and a client that sends nothing would hold it for ever.
	drainTimeout = 5 * time.Second
)

func (b *requestBody) Read(p []byte) (int, error) {
	if b.stall > 0 {
		if now := b.clock(); now.Sub(b.renewed) >= min(renewEvery, b.stall/8) {
			b.renewed = now
			// Without a deadline (in tests over a pipe) there is nothing to renew.
			b.setDeadline(time.Now().Add(b.stall))
		}
	}
	n, err := b.rc.Read(p)
	b.n.Add(int64(n))
	switch {
	case err == io.EOF:
		b.end()
	case err != nil:
		b.mu.Lock()
		if b.interrupted != nil {
			err = b.interrupted
		}
		b.mu.Unlock()
		b.failed.Store(&err)
	}
	return n, err
}

// setDeadline sets the time at which a Read fails, unless that has come.
func (b *requestBody) setDeadline(t time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.interrupted == nil {
		_ = b.control.SetReadDeadline(t)
	}
}

// end notes that all has come. From here on net/http waits for the next request or for the client to
// hang up; an old deadline would cancel the context of a slow commit.
func (b *requestBody) end() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ended = true
	if b.stall > 0 || b.interrupted != nil {
		_ = b.control.SetReadDeadline(time.Time{})
	}
}

var _ registry.Interrupter = (*requestBody)(nil)

// Interrupt implements [registry.Interrupter].
func (b *requestBody) Interrupt() { b.interrupt(errInterrupted) }

// interrupt ends the body where it is, unless all of it has come.
func (b *requestBody) interrupt(why error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.ended && b.interrupted == nil {
		b.interrupted = why
		_ = b.control.SetReadDeadline(time.Unix(1, 0))
	}
}

func (b *requestBody) Close() error { return b.rc.Close() }

// done is called when the handler has returned.
func (b *requestBody) done() {
	if b == nil || b.stall <= 0 {
		return
	}
	b.mu.Lock()
	ended := b.ended
	b.mu.Unlock()
	if !ended {
		b.setDeadline(time.Now().Add(min(b.stall, drainTimeout)))
	}
}

// failure is the error that reading from the client ended with, or nil.
func (b *requestBody) failure() error {
	if b == nil {
		return nil
	}
	if err := b.failed.Load(); err != nil {
		return *err
	}
	return nil
}

// isTimeout reports whether a read or write ended at its deadline.
func isTimeout(err error) bool {
	var n net.Error
	return errors.As(err, &n) && n.Timeout()
}

const maxRequestID = 64

// requestID takes over the client's X-Request-Id when it is short and plain,
// so that it can stand in a log line, and makes one otherwise.
func requestID(r *http.Request) string {
	id := r.Header.Get("X-Request-Id")
	ok := id != "" && len(id) <= maxRequestID && auth.MaskSecrets(id) == id
	for i := 0; ok && i < len(id); i++ {
		c := id[i]
		ok = c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_' || c == '.'
	}
	if ok {
		return id
	}
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails: see crypto/rand
	return hex.EncodeToString(b[:])
}
