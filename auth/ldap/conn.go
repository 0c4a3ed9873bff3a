package ldap

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-ldap/ldap/v3"

	"berth/auth"
)

// server is where a directory listens.
type server struct {
	host, port string
	tls        bool // from the first byte
}

// conn is a connection that is bounded in time and in bytes.
type conn struct {
	*ldap.Conn
	wire    *wire
	timeout time.Duration
	made    time.Time
	rested  time.Time
}

// maxBytes is how much one step may read: ten thousand groups fit.
const maxBytes = 8 << 20

var errTooMuch = fmt.Errorf("the directory sent more than %d bytes", maxBytes)

// wire is the network connection under a conn.
type wire struct {
	net.Conn
	left atomic.Int64
}

func (w *wire) Read(p []byte) (int, error) {
	n, err := w.Conn.Read(p)
	if w.left.Add(-int64(n)) < 0 {
		return 0, errTooMuch
	}
	return n, err
}

// step bounds what follows until done is called, which has to be before the
// connection rests. The library itself has no bound for a TLS handshake or
// for a server that sends and sends.
func (w *wire) step(ctx context.Context, timeout time.Duration) (done func()) {
	w.left.Store(maxBytes)
	_ = w.SetDeadline(time.Now().Add(timeout))
	stop := context.AfterFunc(ctx, func() { _ = w.SetDeadline(time.Unix(1, 0)) })
	return func() {
		if stop() {
			_ = w.SetDeadline(time.Time{})
		}
	}
}

// dial connects to the first server that can be reached, with TLS as set. Nobody is
// bound.
func (a *Authenticator) dial(ctx context.Context) (*conn, error) {
	var problems []error
	for _, s := range a.servers {
		c, err := a.dialServer(ctx, s)
		if err == nil {
			return c, nil
		}
		problems = append(problems, fmt.Errorf("connecting to %s: %w", net.JoinHostPort(s.host, s.port), err))
	}
	return nil, errors.Join(problems...)
}

func (a *Authenticator) dialServer(ctx context.Context, s server) (*conn, error) {
	ctx, cancel := context.WithTimeout(ctx, a.o.Timeout)
	defer cancel()
	var dialer net.Dialer
	raw, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort(s.host, s.port))
	if err != nil {
		return nil, err
	}
	w := &wire{Conn: raw}
	done := w.step(ctx, a.o.Timeout)
	defer done()
	config := &tls.Config{ServerName: s.host, RootCAs: a.o.Roots, MinVersion: tls.VersionTLS12}
	var l *ldap.Conn
	if s.tls {
		secured := tls.Client(w, config)
		if err := secured.HandshakeContext(ctx); err != nil {
			raw.Close()
			return nil, err
		}
		l = ldap.NewConn(secured, true)
	} else {
		l = ldap.NewConn(w, false)
	}
	l.SetTimeout(a.o.Timeout)
	l.Start()
	if !s.tls && a.o.StartTLS {
		if err := l.StartTLS(config); err != nil {
			l.Close()
			return nil, fmt.Errorf("StartTLS: %w", err)
		}
	}
	return &conn{Conn: l, wire: w, timeout: a.o.Timeout, made: a.o.Clock()}, nil
}

// connectService connects as the account that searches.
func (a *Authenticator) connectService(ctx context.Context) (*conn, error) {
	c, err := a.dial(ctx)
	if err != nil || a.o.BindDN == "" {
		return c, err
	}
	done := c.wire.step(ctx, c.timeout)
	defer done()
	if err := c.Bind(a.o.BindDN, a.o.BindPassword); err != nil {
		c.Close()
		// Not the user's fault, and so never "wrong".
		return nil, fmt.Errorf("binding as %s, the account of the settings: %w", a.o.BindDN, err)
	}
	return c, nil
}

// bindAs checks a password by binding with it on a connection of its own, and then
// lets the user do something there.
func (a *Authenticator) bindAs(ctx context.Context, dn string, c auth.Credentials, then func(*conn) error) error {
	s, err := a.guarded(ctx, dn, c)
	if err != nil {
		return err
	}
	defer s.Close()
	if then == nil {
		return nil
	}
	return then(s)
}

// guarded binds a user on a new connection, when the guard lets the password pass. Of
// an account that is guarded one password is tried at a time, so that each counts
// before the next one is looked at.
func (a *Authenticator) guarded(ctx context.Context, dn string, c auth.Credentials) (*conn, error) {
	account, address := strings.ToLower(dn), auth.Network(c.RemoteAddr)
	leave, wait, err := a.guard.enter(ctx, account, address)
	if err != nil {
		return nil, err
	}
	if wait > 0 {
		return nil, &auth.ThrottledError{RetryAfter: wait}
	}
	defer leave()
	select {
	case a.binds <- struct{}{}:
		defer func() { <-a.binds }()
	case <-ctx.Done():
		return nil, fmt.Errorf("waiting to bind: %w", ctx.Err())
	}
	s, err := a.dial(ctx)
	if err != nil {
		return nil, err
	}
	done := s.wire.step(ctx, s.timeout)
	err = s.Bind(dn, c.Password)
	done()
	if err != nil {
		s.Close()
		if err = bindError(dn, err); errors.Is(err, auth.ErrWrong) {
			a.guard.failed(account, address)
		}
		return nil, err
	}
	a.guard.succeeded(account, address)
	return s, nil
}

// bindError tells a wrong password from a directory that cannot say. Active
// Directory hides why in the message of invalidCredentials; the reasons here are
// those that it gives only to who knows the password.
func bindError(dn string, err error) error {
	var e *ldap.Error
	if !errors.As(err, &e) {
		return fmt.Errorf("binding as %s: %w", dn, err)
	}
	switch e.ResultCode {
	case ldap.LDAPResultInvalidCredentials:
		for code, reason := range map[string]string{
			"data 532,": "the password has expired in the directory: change it there first",
			"data 773,": "the directory wants a new password: change it there first",
			"data 533,": "the account is disabled in the directory",
			"data 701,": "the account has expired in the directory",
		} {
			if e.Err != nil && strings.Contains(e.Err.Error(), code) {
				return auth.Wrongf("%s", reason)
			}
		}
		return auth.ErrWrong
	case ldap.LDAPResultInappropriateAuthentication, // the entry has no password
		ldap.LDAPResultConstraintViolation, // 389 Directory Server: too many wrong ones
		ldap.LDAPResultNoSuchObject:
		return auth.ErrWrong
	}
	return fmt.Errorf("binding as %s: %w", dn, err)
}

// search asks for at most limit entries. A search that finds more gives limit of them.
// Referrals to other servers are not followed: they would get to see passwords.
func (c *conn) search(ctx context.Context, base string, scope, limit int, filter string, attributes []string) ([]*ldap.Entry, error) {
	var named []string
	for _, a := range attributes {
		if a != "" && !strings.EqualFold(a, "dn") {
			named = append(named, a)
		}
	}
	done := c.wire.step(ctx, c.timeout)
	defer done()
	seconds := max(1, int(c.timeout.Seconds()))
	result, err := c.Search(ldap.NewSearchRequest(base, scope, ldap.NeverDerefAliases, limit, seconds, false, filter, named, nil))
	switch {
	case err == nil:
		return result.Entries[:min(limit, len(result.Entries))], nil
	case ldap.IsErrorWithCode(err, ldap.LDAPResultSizeLimitExceeded) && len(result.Entries) >= limit:
		return result.Entries[:limit], nil
	case ldap.IsErrorWithCode(err, ldap.LDAPResultReferral):
		return nil, fmt.Errorf("%s is on another server, which is not followed: name that server in the settings", base)
	}
	return nil, fmt.Errorf("below %s: %w", base, err)
}

// pool keeps connections that search. Users are never bound on them.
type pool struct {
	slots   chan struct{}
	clock   func() time.Time
	connect func(context.Context) (*conn, error)

	mu   sync.Mutex
	idle []*conn
	over bool
}

// Connections are replaced before servers and firewalls forget them.
const (
	maxRest = time.Minute
	maxAge  = 10 * time.Minute
)

func newPool(size int, clock func() time.Time, connect func(context.Context) (*conn, error)) *pool {
	return &pool{slots: make(chan struct{}, size), clock: clock, connect: connect}
}

// with runs f on a connection. When one that rested turns out to be dead, f runs a
// second time, on a new one.
func (p *pool) with(ctx context.Context, f func(*conn) error) error {
	select {
	case p.slots <- struct{}{}:
		defer func() { <-p.slots }()
	case <-ctx.Done():
		return fmt.Errorf("waiting for a connection to the directory: %w", ctx.Err())
	}
	if c := p.take(); c != nil {
		good, err := p.run(c, f)
		if good {
			return err
		}
	}
	c, err := p.connect(ctx)
	if err != nil {
		return err
	}
	_, err = p.run(c, f)
	return err
}

// run calls f, and keeps the connection when it is still good.
func (p *pool) run(c *conn, f func(*conn) error) (good bool, err error) {
	err = f(c)
	good = !c.IsClosing() && !ldap.IsErrorWithCode(err, ldap.ErrorNetwork)
	p.put(c, good)
	return good, err
}

// take gives the connection that rested last, if there is a good one.
func (p *pool) take() *conn {
	now := p.clock()
	for {
		p.mu.Lock()
		n := len(p.idle)
		if n == 0 {
			p.mu.Unlock()
			return nil
		}
		c := p.idle[n-1]
		p.idle = p.idle[:n-1]
		p.mu.Unlock()
		if !c.IsClosing() && now.Sub(c.rested) < maxRest && now.Sub(c.made) < maxAge {
			return c
		}
		c.Close()
	}
}

func (p *pool) put(c *conn, good bool) {
	c.rested = p.clock()
	p.mu.Lock()
	keep := good && !p.over
	if keep {
		p.idle = append(p.idle, c)
	}
	p.mu.Unlock()
	if !keep {
		c.Close()
	}
}

func (p *pool) close() {
	p.mu.Lock()
	idle := p.idle
	p.idle, p.over = nil, true
	p.mu.Unlock()
	for _, c := range idle {
		c.Close()
	}
}
