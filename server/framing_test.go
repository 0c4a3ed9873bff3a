package server

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// listening is the server behind Listen, as it is served.
func listening(t *testing.T, w *world) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	hs := &http.Server{}
	w.server.Configure(hs)
	done := make(chan struct{})
	go func() { defer close(done); _ = hs.Serve(Listen(l)) }()
	t.Cleanup(func() { hs.Close(); <-done })
	return l.Addr().String()
}

// TestTwoLengths: behind a request with both Content-Length and Transfer-Encoding the connection is
// closed (RFC 9112, 6.1), wherever it stands in the connection and however its bytes come; behind a chunked request
// with one length it lives on, as pushes of docker need it.
func TestTwoLengths(t *testing.T) {
	w := small(t, nil)
	address := listening(t, w)
	const (
		chunked = "Transfer-Encoding: chunked\r\n"
		body    = "5\r\nhello\r\n0\r\n\r\n"
		get     = "GET /v2/ HTTP/1.1\r\nHost: a\r\n\r\n"
		post    = "POST /v2/team/app/blobs/uploads/ HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"
	)
	patch := func(fields string) string {
		return "PATCH /v2/team/app/blobs/uploads/x HTTP/1.1\r\nHost: a\r\n" + fields + "\r\n" + body
	}
	both := patch("Content-Length: 5\r\n" + chunked)
	for _, tt := range []struct {
		name   string
		writes []string // each is sent by itself, when what came before is answered
		closed bool     // behind the last one
	}{
		{"chunks alone", []string{patch(chunked)}, false},
		{"chunks behind others", []string{get, post, patch(chunked), get, patch(chunked)}, false},
		{"both", []string{both}, true},
		{"both, the other way round", []string{patch(chunked + "Content-Length: 5\r\n")}, true},
		{"both in other letters", []string{patch("cOnTeNt-LeNgTh:5\r\n" + chunked)}, true},
		{"both behind others", []string{get, post, patch(chunked), both}, true},
		{"both behind a body of a length", []string{strings.Replace(post, "Length: 0\r\n\r\n", "Length: 4\r\n\r\na\nco", 1), both}, true},
		{"both in one piece with another", []string{get + both}, true},
		{"both in one piece with a chunked one", []string{patch(chunked) + both}, true},
		{"one length, HTTP/1.0", []string{strings.Replace(post, "1.1\r\n", "1.0\r\nConnection: keep-alive\r\n", 1)}, true},
	} {
		for _, step := range []int{1 << 20, 7, 1} {
			t.Run(fmt.Sprintf("%s in steps of %d", tt.name, step), func(t *testing.T) {
				c, err := net.Dial("tcp", address)
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				_ = c.SetDeadline(time.Now().Add(30 * time.Second))
				answers := bufio.NewReader(c)
				var last *http.Response
				for _, write := range tt.writes {
					for rest := write; rest != ""; {
						n := min(step, len(rest))
						if _, err := io.WriteString(c, rest[:n]); err != nil {
							t.Fatal(err)
						}
						rest = rest[n:]
					}
					for range strings.Count(write, " HTTP/1.") {
						if last != nil && last.Close {
							break // with the first of two, when they cannot be told apart
						}
						if last, err = http.ReadResponse(answers, nil); err != nil {
							t.Fatal(err)
						}
						if _, err := io.Copy(io.Discard, last.Body); err != nil {
							t.Fatal(err)
						}
					}
				}
				if last.Close != tt.closed || last.StatusCode != http.StatusUnauthorized {
					t.Errorf("%s, closed: %v, want %v", last.Status, last.Close, tt.closed)
				}
				if tt.closed {
					if _, err := answers.ReadByte(); err != io.EOF {
						t.Errorf("the connection is open: %v", err)
					}
				}
			})
		}
	}
}

// TestTwoLengthsElsewhere: where the bytes cannot be seen, as behind TLS, every chunked request of HTTP/1
// ends its connection.
func TestTwoLengthsElsewhere(t *testing.T) {
	w := small(t, nil)
	if r := w.do("PATCH", "/v2/team/app/blobs/uploads/x", "", strings.NewReader("hello"), "Content-Length", "-1"); !r.Close {
		t.Errorf("%s, and the connection lives on", r.Status)
	}
}
