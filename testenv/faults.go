package testenv

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// A Proxy passes TCP connections on, and does to them what networks do. Its methods may be called concurrently.
type Proxy struct {
	Addr string // host:port where it listens

	mu     sync.Mutex
	target string
	conns  map[*proxied]bool
	hole   bool // of new connections too
	closed bool
}

// proxied is a connection through a Proxy.
type proxied struct {
	client, server net.Conn
	held           chan struct{} // closed when nothing passes any more
	once           sync.Once
}

// NewProxy listens on a free port and passes on to the target, host:port, until the test ends.
func NewProxy(t testing.TB, target string) *Proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{Addr: l.Addr().String(), target: target, conns: map[*proxied]bool{}}
	var group sync.WaitGroup
	t.Cleanup(func() {
		l.Close()
		p.mu.Lock()
		p.closed = true
		p.mu.Unlock()
		p.Cut()
		group.Wait()
	})
	group.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			group.Go(func() { p.serve(c) })
		}
	})
	return p
}

// Target passes new connections on to another address.
func (p *Proxy) Target(target string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.target = target
}

// Connections is how many there are, those in a hole included.
func (p *Proxy) Connections() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.conns)
}

// HoldConnections lets nothing pass any more on the connections that there are: they stay open, and what is sent on them gets
// nowhere, as after the fail-over of a router. New ones work.
func (p *Proxy) HoldConnections() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		c.hold()
	}
}

// Hold is HoldConnections for new connections too, until Release.
func (p *Proxy) Hold() {
	p.HoldConnections()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hole = true
}

// Release lets new connections pass; those that were held stay dead.
func (p *Proxy) Release() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hole = false
}

// Cut resets all connections.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		c.close()
	}
}

func (c *proxied) hold() { c.once.Do(func() { close(c.held) }) }

func (c *proxied) close() {
	for _, conn := range []net.Conn{c.client, c.server} {
		if tcp, ok := conn.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0)
			_ = tcp.Close()
		}
	}
	c.hold()
}

func (p *Proxy) serve(client net.Conn) {
	c := &proxied{client: client, held: make(chan struct{})}
	p.mu.Lock()
	target, hole, closed := p.target, p.hole, p.closed
	p.mu.Unlock()
	if closed {
		client.Close()
		return
	}
	if !hole {
		server, err := net.Dial("tcp", target)
		if err != nil {
			c.close() // as if nobody listened
			return
		}
		c.server = server
	}
	p.mu.Lock()
	p.conns[c] = true
	if p.hole {
		c.hold()
	}
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		delete(p.conns, c)
		p.mu.Unlock()
		c.close()
	}()
	var group sync.WaitGroup
	if c.server != nil {
		group.Go(func() { c.pass(c.client, c.server) })
	}
	group.Go(func() { c.pass(c.server, c.client) })
	group.Wait()
}

// pass copies until one end closes. What comes in after the connection was held is thrown away, so that the end
// of the client is seen, and nothing else.
func (c *proxied) pass(to, from net.Conn) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		select {
		case <-c.held:
			if from == c.client {
				_, _ = io.Copy(io.Discard, from)
				c.close()
			}
			return
		default:
		}
		if to == nil {
			return
		}
		if n > 0 {
			if _, werr := to.Write(buf[:n]); werr != nil && err == nil {
				err = werr
			}
		}
		if err != nil {
			c.close()
			return
		}
	}
}

// Freeze stops the process and all that it has started (SIGSTOP): connections stay open and nobody answers. Thaw lets
// them go on.
func (p *Process) Freeze() error { return p.signalTree(syscall.SIGSTOP) }

// Thaw ends Freeze.
func (p *Process) Thaw() error { return p.signalTree(syscall.SIGCONT) }

// signalTree sends a signal to the process and all that it has started. A process may be started while they are listed:
// it lists them again until there is no other. A stopped parent starts no more.
func (p *Process) signalTree(s syscall.Signal) error {
	signalled := map[int]bool{}
	for {
		tree, err := descendants(p.Cmd.Process.Pid)
		if err != nil {
			return err
		}
		others := false
		for _, pid := range tree {
			if signalled[pid] {
				continue
			}
			signalled[pid], others = true, true
			if err := syscall.Kill(pid, s); err != nil && !errors.Is(err, syscall.ESRCH) {
				return fmt.Errorf("signalling process %d: %w", pid, err)
			}
		}
		if !others {
			return nil
		}
	}
}

// descendants lists a process and what it has started, parents first.
func descendants(pid int) ([]int, error) {
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil, err
	}
	children := map[int][]int{}
	for _, name := range stats {
		text, err := os.ReadFile(name)
		if err != nil {
			continue // it has ended
		}
		// pid (name) state parent ...; the name may have anything in it.
		_, rest, ok := strings.Cut(string(text[strings.LastIndexByte(string(text), ')')+1:]), " ")
		fields := strings.Fields(rest)
		child, err := strconv.Atoi(filepath.Base(filepath.Dir(name)))
		if !ok || err != nil || len(fields) < 2 {
			continue
		}
		if parent, err := strconv.Atoi(fields[1]); err == nil {
			children[parent] = append(children[parent], child)
		}
	}
	all := []int{pid}
	for i := 0; i < len(all); i++ {
		all = append(all, children[all[i]]...)
	}
	return all, nil
}
