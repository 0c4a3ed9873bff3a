package server

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"time"
)

// A held write leaves with the next one, in order, and nothing is held behind it.
func TestConnHoldsOneWrite(t *testing.T) {
	plain, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := Listen(plain)
	defer l.Close()
	client, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer accepted.Close()
	c := accepted.(*conn)
	write := func(p []byte) {
		t.Helper()
		if n, err := c.Write(p); n != len(p) || err != nil {
			t.Fatalf("%d bytes of %d written, %v", n, len(p), err)
		}
	}
	part := func(b byte, n int) []byte { return bytes.Repeat([]byte{b}, n) }
	for _, tt := range []struct{ first, second int }{{1, 1}, {maxHeld, 100_000}, {maxHeld, 0}, {maxHeld + 1, 10}, {0, 5}} {
		first, second := part('a', tt.first), part('b', tt.second)
		want := bytes.Join([][]byte{first, second, []byte("c")}, nil)
		done := make(chan error, 1)
		go func() {
			got := make([]byte, len(want))
			_ = client.SetReadDeadline(time.Now().Add(10 * time.Second))
			_, err := io.ReadFull(client, got)
			if err == nil && !bytes.Equal(got, want) {
				err = fmt.Errorf("the order of the bytes is wrong")
			}
			done <- err
		}()
		c.hold = true
		buffer := bytes.Clone(first)
		write(buffer)
		clear(buffer) // it is the writer's again
		write(second)
		if c.held != nil || c.hold {
			t.Errorf("%v: something is held", tt)
		}
		write([]byte("c"))
		if err := <-done; err != nil {
			t.Errorf("%v: %v", tt, err)
		}
	}
	c.hold = true
	write([]byte("held"))
	client.Close()
	accepted.Close()
	if n, err := c.Write([]byte("more")); n != 0 || err == nil {
		t.Errorf("to a closed connection %d bytes were written, %v", n, err)
	}
}

// Blobs of all sizes around those of net/http's buffers come through whole, from memory
// and from the file, one after the other on one connection.
func TestBlobsOnOneConnection(t *testing.T) {
	w := small(t, nil)
	plain, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var h http.Server
	w.server.Configure(&h)
	go h.Serve(Listen(plain))
	defer h.Close()
	transport := &http.Transport{MaxConnsPerHost: 1, DisableCompression: true}
	defer transport.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	get := func(path, rng string) []byte {
		t.Helper()
		r, err := http.NewRequestWithContext(ctx, "GET", "http://"+plain.Addr().String()+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.SetBasicAuth("mo", w.accounts["mo"])
		if rng != "" {
			r.Header.Set("Range", rng)
		}
		res, err := transport.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		if err != nil || res.StatusCode >= 300 {
			t.Fatalf("%s: %d, %v", path, res.StatusCode, err)
		}
		return body
	}
	for _, size := range []int{1, 2048, 3000, 3800, 4095, 4096, 4097, 7000, 8191, 8192, 8193, 16 << 10, 32 << 10, 32<<10 + 1} {
		content := bytes.Repeat([]byte(fmt.Sprintf("%7d|", size)), size/8+1)[:size]
		path := "/v2/team/app/blobs/" + w.pushBlob("mo", "team/app", content).String()
		for i := range 4 {
			if got := get(path, ""); !bytes.Equal(got, content) {
				t.Errorf("%d bytes, time %d: got %d", size, i, len(got))
			}
			if got := get(path, "bytes=0-4999"); !bytes.Equal(got, content[:min(size, 5000)]) {
				t.Errorf("5000 of %d bytes, time %d: got %d", size, i, len(got))
			}
		}
	}
}
