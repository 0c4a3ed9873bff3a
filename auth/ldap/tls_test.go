package ldap_test

import (
	"crypto/tls"
	"io"
	"net"
	"strings"
	"sync"
	"testing"

	"berth/auth/ldap"
)

func tlsConfig(o ldap.Options) *tls.Config {
	return &tls.Config{RootCAs: o.Roots, ServerName: "127.0.0.1", MinVersion: tls.VersionTLS12}
}

// gate is a port in front of a server, which a test can shut.
type gate struct {
	addr     string
	listener net.Listener
	mu       sync.Mutex
	conns    []net.Conn
	count    int
}

func newGate(t *testing.T, target string) *gate {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := &gate{addr: l.Addr().String(), listener: l}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			g.mu.Lock()
			g.count++
			g.mu.Unlock()
			up, err := net.Dial("tcp", target[strings.Index(target, "//")+2:])
			if err != nil {
				c.Close()
				continue
			}
			g.mu.Lock()
			g.conns = append(g.conns, c, up)
			g.mu.Unlock()
			go func() { _, _ = io.Copy(up, c); up.Close() }()
			go func() { _, _ = io.Copy(c, up); c.Close() }()
		}
	}()
	t.Cleanup(g.shut)
	return g
}

// connections is how many there have been.
func (g *gate) connections() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.count
}

// cut ends all connections, and takes new ones.
func (g *gate) cut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, c := range g.conns {
		c.Close()
	}
	g.conns = nil
}

func (g *gate) shut() { g.listener.Close(); g.cut() }
