package server

import (
	"context"
	"net"
	"net/http"
	"sync"
)

// Listen wraps a listener of TCP connections, so that a small blob leaves in one
// system call with its header, and so that a connection lives on behind a chunked request that had
// no Content-Length. Both are economies: a Server works with any listener.
func Listen(l net.Listener) net.Listener { return &listener{Listener: l} }

type listener struct {
	net.Listener
	buffers sync.Pool // of *[]byte, for connections that hold something
}

func (l *listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if tcp, ok := c.(*net.TCPConn); ok {
		return &conn{TCPConn: tcp, listener: l}, err
	}
	return c, err
}

// conn can hold back one write until the next. net/http has a buffer of 4 KiB for the header
// and what fits of the body, and writes the rest of the body by itself: two system
// calls, two packets, and a client that is woken twice.
//
// Only one goroutine writes to a connection of HTTP/1, that of the request.
type conn struct {
	*net.TCPConn // with its ReadFrom, for sendfile
	listener     *listener

	hold bool    // the next write is not the last one
	held *[]byte // what was written meanwhile, or nil

	framing framing
}

func (c *conn) Read(p []byte) (int, error) {
	n, err := c.TCPConn.Read(p)
	c.framing.read(p[:n])
	return n, err
}

// maxHeld is the most that is held back, in bytes; net/http's buffer.
const maxHeld = 4 << 10

func (c *conn) Write(p []byte) (int, error) {
	if c.hold {
		if c.hold = false; len(p) <= maxHeld {
			var ok bool
			if c.held, ok = c.listener.buffers.Get().(*[]byte); !ok {
				c.held = new([]byte)
			}
			*c.held = append((*c.held)[:0], p...)
			return len(p), nil
		}
	}
	if c.held == nil {
		return c.TCPConn.Write(p)
	}
	before := int64(len(*c.held))
	both := net.Buffers{*c.held, p}
	n, err := both.WriteTo(c.TCPConn)
	c.listener.buffers.Put(c.held)
	c.held = nil
	return int(max(0, n-before)), err
}

type connKey struct{}

// withConn is http.Server.ConnContext.
func withConn(ctx context.Context, nc net.Conn) context.Context {
	if c, ok := nc.(*conn); ok {
		c.framing.end() // the first request begins here
		return context.WithValue(ctx, connKey{}, c)
	}
	return ctx // TLS, which has a buffer of its own
}

// writeTogether says that a body of n bytes is about to be written in one piece. More
// than net/http's buffer takes two writes for sure, and the first of them waits for the second.
func writeTogether(r *http.Request, n int) {
	if c, ok := r.Context().Value(connKey{}).(*conn); ok && n >= maxHeld && r.ProtoMajor == 1 {
		c.hold = true
	}
}
