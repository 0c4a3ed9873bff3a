// Package outbound makes the HTTP clients with which Berth asks identity
// providers. What answers is not trusted: each call has a deadline, each answer a
// bound in bytes, a redirect stays on its host, and a client for addresses that
// users of the registry name reaches nothing but the public Internet. Start with [New].
package outbound

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"syscall"
	"time"
)

// Bounds of a call, unless Options say otherwise.
const (
	// Timeout ends a call, its answer read to the end included.
	Timeout = 10 * time.Second
	// MaxBody is the largest answer in bytes, after decompression.
	MaxBody = 1 << 20

	maxRedirects = 3
	maxHeader    = 64 << 10
)

// ErrTooLarge ends the reading of an answer that is larger than the bound.
var ErrTooLarge = errors.New("the answer is larger than the limit")

// Options of a client. The zero value reaches every address by https.
type Options struct {
	// PublicOnly refuses addresses that are not of the public Internet (loopback,
	// link-local with the clouds' metadata services, private networks, ...). It looks at the
	// address that is dialled, after DNS and on every hop, so that a name which
	// changes its address in between gains nothing. Such a client uses no proxy, whose
	// address would be the one that is looked at.
	PublicOnly bool
	// LoopbackHTTP lets http:// through to this machine itself; elsewhere only
	// https:// is spoken.
	LoopbackHTTP bool
	// Roots are the certificate authorities; nil is the system's.
	Roots *x509.CertPool
}

// New makes a client. It is safe for concurrent use, and keeps connections.
func New(o Options) *http.Client {
	dialer := &net.Dialer{Timeout: 5 * time.Second, KeepAlive: 30 * time.Second}
	transport := &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            dialer.DialContext,
		TLSClientConfig:        &tls.Config{RootCAs: o.Roots, MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:    5 * time.Second,
		ResponseHeaderTimeout:  Timeout,
		IdleConnTimeout:        90 * time.Second,
		MaxIdleConns:           16,
		MaxIdleConnsPerHost:    4,
		MaxConnsPerHost:        16,
		MaxResponseHeaderBytes: maxHeader,
		ForceAttemptHTTP2:      true,
	}
	if o.PublicOnly {
		transport.Proxy = nil
		dialer.ControlContext = dialPublic
	}
	return &http.Client{
		Transport:     &bounded{next: transport, loopbackHTTP: o.LoopbackHTTP},
		Timeout:       Timeout,
		CheckRedirect: sameHost,
	}
}

// sameHost follows a redirect only within scheme, host and port, so that neither
// a secret nor the choice of whom to ask goes elsewhere.
func sameHost(r *http.Request, via []*http.Request) error {
	first := via[0].URL
	switch {
	case len(via) > maxRedirects:
		return fmt.Errorf("%s redirects more than %d times", first.Host, maxRedirects)
	case r.URL.Scheme != first.Scheme || r.URL.Host != first.Host:
		return fmt.Errorf("%s redirects to another host, which is not followed", first.Host)
	}
	return nil
}

// bounded refuses plain HTTP, and cuts answers off.
type bounded struct {
	next         http.RoundTripper
	loopbackHTTP bool
}

// RoundTrip implements http.RoundTripper.
func (b *bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme != "https" && !(b.loopbackHTTP && IsLoopbackHTTP(r.URL)) {
		return nil, fmt.Errorf("%s://%s is not asked: only https is", r.URL.Scheme, r.URL.Host)
	}
	resp, err := b.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	resp.Body = &limitedBody{ReadCloser: resp.Body, left: MaxBody}
	return resp, nil
}

// limitedBody fails with ErrTooLarge, where io.LimitReader would pretend an end.
type limitedBody struct {
	io.ReadCloser
	left int64
}

func (b *limitedBody) Read(p []byte) (int, error) {
	if int64(len(p)) > b.left+1 {
		p = p[:b.left+1]
	}
	n, err := b.ReadCloser.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return 0, fmt.Errorf("%w of %d bytes", ErrTooLarge, MaxBody)
	}
	return n, err
}

// IsLoopbackHTTP reports whether a URL is http:// on this machine itself.
func IsLoopbackHTTP(u *url.URL) bool {
	if u.Scheme != "http" {
		return false
	}
	addr, err := netip.ParseAddr(u.Hostname())
	return u.Hostname() == "localhost" || err == nil && addr.IsLoopback()
}

func dialPublic(_ context.Context, _, address string, _ syscall.RawConn) error {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return err
	}
	addr, err := netip.ParseAddr(host)
	if err != nil || !IsPublic(addr) {
		return fmt.Errorf("%s is not an address of the public Internet", host)
	}
	return nil
}

// notPublic are networks that netip has no word for: those of RFC 6890 and the
// registries that it made which are not global, and IPv6 forms that carry an IPv4
// address to somewhere else.
var notPublic = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"),
	netip.MustParsePrefix("100.64.0.0/10"),
	netip.MustParsePrefix("192.0.0.0/24"),
	netip.MustParsePrefix("192.0.2.0/24"),
	netip.MustParsePrefix("192.88.99.0/24"),
	netip.MustParsePrefix("198.18.0.0/15"),
	netip.MustParsePrefix("198.51.100.0/24"),
	netip.MustParsePrefix("203.0.113.0/24"),
	netip.MustParsePrefix("240.0.0.0/4"),
	netip.MustParsePrefix("::/96"),
	netip.MustParsePrefix("::ffff:0:0:0/96"),
	netip.MustParsePrefix("64:ff9b::/96"),
	netip.MustParsePrefix("64:ff9b:1::/48"),
	netip.MustParsePrefix("100::/64"),
	netip.MustParsePrefix("2001::/23"),
	netip.MustParsePrefix("2001:db8::/32"),
	netip.MustParsePrefix("2002::/16"),
	netip.MustParsePrefix("3fff::/20"),
	netip.MustParsePrefix("5f00::/16"),
	netip.MustParsePrefix("fec0::/10"),
}

// IsPublic reports whether an address is one of the public Internet.
func IsPublic(addr netip.Addr) bool {
	addr = addr.Unmap().WithZone("") // ::ffff:127.0.0.1 is 127.0.0.1
	if !addr.IsGlobalUnicast() || addr.IsPrivate() || addr.IsLoopback() || addr.IsLinkLocalUnicast() {
		return false
	}
	for _, p := range notPublic {
		if p.Contains(addr) {
			return false
		}
	}
	return true
}
