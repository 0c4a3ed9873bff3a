package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// client is one worker with one keep-alive connection per host, speaking
// HTTP/1.1 by hand: a request is one write, an answer is parsed for the few
// headers that matter, and bodies are read and thrown away. It shares the
// machine with the server, so what it does not burn is the server's.
// It is not safe for concurrent use.
//
// It signs in as docker does: without a token first, then with one from the
// realm of the challenge, which it keeps for as long as it suffices.
type client struct {
	base     *url.URL
	user     string // "" takes what everybody gets
	password string
	ctx      context.Context

	conns   map[string]*conn // by scheme and host
	token   string
	scratch []byte
}

func newClient(ctx context.Context, a access) (*client, error) {
	base, err := url.Parse(a.url)
	if err != nil {
		return nil, err
	}
	return &client{base: base, user: a.user, password: a.password, ctx: ctx, conns: map[string]*conn{}}, nil
}

func (c *client) close() {
	for _, k := range c.conns {
		k.close()
	}
}

type conn struct {
	net.Conn
	r    *bufio.Reader
	used bool
	stop func() bool
}

func (k *conn) close() {
	k.stop()
	k.Conn.Close()
}

func (c *client) conn(u *url.URL) (*conn, error) {
	key := u.Scheme + "://" + u.Host
	if k := c.conns[key]; k != nil {
		return k, nil
	}
	host := u.Host
	if u.Port() == "" {
		host += map[string]string{"http": ":80", "https": ":443"}[u.Scheme]
	}
	d := net.Dialer{Timeout: 30 * time.Second}
	nc, err := d.DialContext(c.ctx, "tcp", host)
	if err != nil {
		return nil, err
	}
	if u.Scheme == "https" {
		nc = tls.Client(nc, &tls.Config{ServerName: u.Hostname()})
	}
	k := &conn{Conn: nc, r: bufio.NewReaderSize(nc, 32*kib)}
	k.stop = context.AfterFunc(c.ctx, func() { nc.Close() })
	c.conns[key] = k
	return k, nil
}

func (c *client) drop(u *url.URL) {
	key := u.Scheme + "://" + u.Host
	if k := c.conns[key]; k != nil {
		k.close()
		delete(c.conns, key)
	}
}

type request struct {
	method  string
	target  string // path and query, or an absolute URL
	header  string // further header lines, each ending in CRLF
	body    *content
	chunked bool // send the body with chunked transfer coding
	keep    bool // keep the answer's body
	pace    func(p []byte, write func([]byte) error) error
}

type response struct {
	status    int
	location  string
	challenge string
	link      string
	n         int64  // length of the body that was read
	body      []byte // when the request said keep; valid until the next request
}

// statusError is an answer that was not what the workload expects.
type statusError struct {
	method, target string
	status         int
	body           string
}

func (e *statusError) Error() string {
	return fmt.Sprintf("%s %s: status %d %.300s", e.method, e.target, e.status, e.body)
}

// call sends a request that has to be answered with one of the statuses.
func (c *client) call(q request, want ...int) (*response, error) {
	res, err := c.do(q)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", q.method, q.target, err)
	}
	for _, w := range want {
		if res.status == w {
			return res, nil
		}
	}
	return res, &statusError{q.method, q.target, res.status, string(res.body)}
}

// do sends a request, with a token when there is one; it fetches one when the
// server asks, and follows a redirect of a GET.
func (c *client) do(q request) (*response, error) {
	u, err := c.base.Parse(q.target)
	if err != nil {
		return nil, err
	}
	res, err := c.send(u, q, c.token)
	if err == nil && res.status == 401 && res.challenge != "" {
		if err = c.fetchToken(res.challenge); err != nil {
			return nil, fmt.Errorf("token: %w", err)
		}
		res, err = c.send(u, q, c.token)
	}
	if err == nil && res.status == 307 && q.method == "GET" {
		to, err := u.Parse(res.location)
		if err != nil {
			return nil, err
		}
		return c.send(to, q, "")
	}
	return res, err
}

func (c *client) send(u *url.URL, q request, token string) (*response, error) {
	for {
		k, err := c.conn(u)
		if err != nil {
			return nil, err
		}
		reused := k.used
		k.used = true
		res, err := c.exchange(k, u, q, token)
		if err == nil {
			return res, nil
		}
		c.drop(u)
		// A server may close an idle connection at any time.
		var none noAnswer
		if !reused || !errors.As(err, &none) {
			return nil, err
		}
	}
}

// noAnswer is a connection that ended before the first byte of an answer.
type noAnswer struct{ error }

// chunk is what one chunk of a chunked body holds.
const chunk = 128 * kib

func (c *client) exchange(k *conn, u *url.URL, q request, token string) (*response, error) {
	b := append(c.scratch[:0], q.method...)
	b = append(b, ' ')
	b = append(b, u.RequestURI()...)
	b = append(b, " HTTP/1.1\r\nHost: "...)
	b = append(b, u.Host...)
	b = append(b, "\r\nUser-Agent: berth-bench\r\n"...)
	if token != "" {
		b = append(b, "Authorization: "...)
		b = append(b, token...)
		b = append(b, "\r\n"...)
	}
	b = append(b, q.header...)
	switch {
	case q.body != nil && q.chunked:
		b = append(b, "Transfer-Encoding: chunked\r\n"...)
	case q.body != nil:
		b = append(b, "Content-Length: "...)
		b = strconv.AppendInt(b, q.body.size, 10)
		b = append(b, "\r\n"...)
	case q.method != "GET" && q.method != "HEAD":
		b = append(b, "Content-Length: 0\r\n"...)
	}
	b = append(b, "\r\n"...)
	c.scratch = b
	// A server may answer and close before it has read all: its answer says more
	// than the failed write.
	writeErr := writeRequest(k, b, q)
	res, err := c.read(k, q)
	if err != nil && writeErr != nil {
		return nil, noAnswer{writeErr}
	}
	return res, err
}

func writeRequest(k *conn, head []byte, q request) error {
	if q.body == nil {
		_, err := k.Write(head)
		return err
	}
	if q.pace != nil {
		if _, err := k.Write(head); err != nil {
			return err
		}
		for _, p := range q.body.parts {
			if err := q.pace(p, func(p []byte) error { _, err := k.Write(p); return err }); err != nil {
				return err
			}
		}
		return nil
	}
	if !q.chunked {
		bufs := append(net.Buffers{head}, q.body.parts...)
		_, err := bufs.WriteTo(k.Conn)
		return err
	}
	pending := net.Buffers{head}
	for _, p := range q.body.parts {
		for len(p) > 0 {
			n := min(len(p), chunk)
			size := append(strconv.AppendInt(nil, int64(n), 16), "\r\n"...)
			pending = append(pending, size, p[:n], crlf)
			p = p[n:]
			if n == chunk {
				bufs := pending
				if _, err := bufs.WriteTo(k.Conn); err != nil {
					return err
				}
				pending = pending[:0:0]
			}
		}
	}
	pending = append(pending, []byte("0\r\n\r\n"))
	_, err := pending.WriteTo(k.Conn)
	return err
}

var crlf = []byte("\r\n")

// read parses an answer and takes its body off the connection.
func (c *client) read(k *conn, q request) (*response, error) {
	for {
		res := &response{}
		line, err := k.r.ReadSlice('\n')
		if err != nil {
			return nil, noAnswer{err}
		}
		if len(line) < 12 || !bytes.HasPrefix(line, []byte("HTTP/1.")) {
			return nil, fmt.Errorf("no HTTP/1 answer: %.60q", line)
		}
		if res.status, err = strconv.Atoi(string(line[9:12])); err != nil {
			return nil, fmt.Errorf("no HTTP/1 answer: %.60q", line)
		}
		length, chunked, closes := int64(-1), false, false
		for {
			if line, err = k.r.ReadSlice('\n'); err != nil {
				return nil, err
			}
			if line = bytes.TrimRight(line, "\r\n"); len(line) == 0 {
				break
			}
			i := bytes.IndexByte(line, ':')
			if i < 0 {
				return nil, fmt.Errorf("a header line without a colon: %.60q", line)
			}
			name, value := line[:i], bytes.TrimSpace(line[i+1:])
			switch {
			case is(name, "Content-Length"):
				if length, err = strconv.ParseInt(string(value), 10, 64); err != nil {
					return nil, err
				}
			case is(name, "Transfer-Encoding"):
				chunked = is(value, "chunked")
			case is(name, "Connection"):
				closes = is(value, "close")
			case is(name, "Location"):
				res.location = string(value)
			case is(name, "Link"):
				res.link = string(value)
			case is(name, "Www-Authenticate"):
				res.challenge = string(value)
			}
		}
		if res.status < 200 {
			continue
		}
		if err := c.body(k, q, res, length, chunked, closes); err != nil {
			return nil, fmt.Errorf("reading the body: %w", err)
		}
		if closes {
			c.dropConn(k)
		}
		return res, nil
	}
}

func (c *client) dropConn(k *conn) {
	for key, have := range c.conns {
		if have == k {
			k.close()
			delete(c.conns, key)
		}
	}
}

func is(b []byte, s string) bool { return len(b) == len(s) && strings.EqualFold(string(b), s) }

func (c *client) body(k *conn, q request, res *response, length int64, chunked, closes bool) error {
	if q.method == "HEAD" || res.status == 204 || res.status == 304 {
		return nil
	}
	keep := q.keep || res.status >= 400
	take := func(n int64) error {
		res.n += n
		if keep {
			if len(res.body)+int(n) > 64*mib {
				return errors.New("an answer to keep is larger than 64 MiB")
			}
			at := len(res.body)
			res.body = append(res.body, make([]byte, n)...)
			_, err := io.ReadFull(k.r, res.body[at:])
			return err
		}
		return discard(k, n)
	}
	switch {
	case chunked:
		for {
			line, err := k.r.ReadSlice('\n')
			if err != nil {
				return err
			}
			size, _, _ := strings.Cut(string(bytes.TrimSpace(line)), ";")
			n, err := strconv.ParseInt(size, 16, 64)
			if err != nil {
				return err
			}
			if err := take(n); err != nil {
				return err
			}
			if _, err := k.r.Discard(2); err != nil {
				return err
			}
			if n == 0 {
				return nil
			}
		}
	case length >= 0:
		return take(length)
	case closes:
		var err error
		res.body, err = io.ReadAll(io.LimitReader(k.r, mib))
		return err
	}
	return fmt.Errorf("status %d without a length", res.status)
}

// discard reads n bytes; the large ones go past the small buffer.
func discard(k *conn, n int64) error {
	b := min(n, int64(k.r.Buffered()))
	if _, err := k.r.Discard(int(b)); err != nil {
		return err
	}
	n -= b
	if n <= 32*kib {
		_, err := k.r.Discard(int(n))
		return err
	}
	sink := sinks.Get().(*[]byte)
	defer sinks.Put(sink)
	for n > 0 {
		m, err := k.Conn.Read((*sink)[:min(n, int64(len(*sink)))])
		n -= int64(m)
		if err != nil && n > 0 {
			return err
		}
	}
	return nil
}

// fetchToken asks the realm of a Bearer challenge with name and password, or
// takes up Basic when the challenge says so.
func (c *client) fetchToken(challenge string) error {
	basic := ""
	if c.user != "" {
		basic = "Basic " + base64.StdEncoding.EncodeToString([]byte(c.user+":"+c.password))
	}
	scheme, rest, _ := strings.Cut(challenge, " ")
	if strings.EqualFold(scheme, "Basic") {
		c.token = basic
		return nil
	}
	params := challengeParams(rest)
	realm, err := url.Parse(params["realm"])
	if err != nil || realm.Host == "" {
		return fmt.Errorf("the challenge %q has no realm", challenge)
	}
	v := realm.Query()
	if c.user != "" {
		v.Set("account", c.user)
	}
	if s := params["service"]; s != "" {
		v.Set("service", s)
	}
	for _, s := range strings.Fields(params["scope"]) {
		v.Add("scope", s)
	}
	realm.RawQuery = v.Encode()
	res, err := c.send(realm, request{method: "GET", keep: true}, basic)
	if err != nil {
		return err
	}
	if res.status != 200 {
		return &statusError{"GET", realm.Path, res.status, string(res.body)}
	}
	var answer struct {
		Token       string `json:"token"`
		AccessToken string `json:"access_token"`
	}
	if err := json.Unmarshal(res.body, &answer); err != nil {
		return err
	}
	if answer.Token == "" {
		answer.Token = answer.AccessToken
	}
	c.token = "Bearer " + answer.Token
	return nil
}

// signIn does what docker does before a push or a pull: ask /v2/, and fetch a
// token for what it is going to do.
func (c *client) signIn(scopes ...string) error {
	c.token = ""
	u, err := c.base.Parse("/v2/")
	if err != nil {
		return err
	}
	res, err := c.send(u, request{method: "GET"}, "")
	if err != nil {
		return err
	}
	if res.status == 401 {
		return c.fetchToken(res.challenge + `,scope="` + strings.Join(scopes, " ") + `"`)
	}
	if res.status != 200 {
		return &statusError{"GET", "/v2/", res.status, string(res.body)}
	}
	return nil
}

// challengeParams reads name="value" pairs; the last of two wins.
func challengeParams(s string) map[string]string {
	m := map[string]string{}
	for s != "" {
		name, rest, ok := strings.Cut(s, "=")
		if !ok {
			break
		}
		var value string
		if strings.HasPrefix(rest, `"`) {
			value, rest, _ = strings.Cut(rest[1:], `"`)
			_, s, _ = strings.Cut(rest, ",")
		} else {
			value, s, _ = strings.Cut(rest, ",")
		}
		m[strings.ToLower(strings.TrimSpace(name))] = value
	}
	return m
}
