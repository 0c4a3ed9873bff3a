package storagetest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"io"
	"net"
	"sync/atomic"
	"testing"

	"berth/storage"
)

// Benchmark measures pushes as a server sees them: read from a TCP
// connection, hashed with SHA-256, committed.
func Benchmark(b *testing.B, store storage.Store) {
	b.Run("256MiB", func(b *testing.B) { benchmarkPush(b, store, 256<<20) })
	b.Run("64MiB-parallel8", func(b *testing.B) { benchmarkParallel(b, store, 64<<20, 8) })
	b.Run("16KiB", func(b *testing.B) { benchmarkPush(b, store, 16<<10) })
	b.Run("16KiB-parallel8", func(b *testing.B) { benchmarkParallel(b, store, 16<<10, 8) })
}

// Push uploads n bytes through a loopback connection and gives the key.
func Push(ctx context.Context, store storage.Store, n int64) (string, error) {
	client, server, err := pipe()
	if err != nil {
		return "", err
	}
	defer server.Close()
	go func() {
		defer client.Close()
		block := make([]byte, min(n, 256<<10))
		for left := n; left > 0; {
			m, err := client.Write(block[:min(left, int64(len(block)))])
			if err != nil {
				return
			}
			left -= int64(m)
		}
	}()
	return push(ctx, store, server, n)
}

func push(ctx context.Context, store storage.Store, r io.Reader, n int64) (string, error) {
	s, got, err := store.Append(ctx, store.Begin(NewID()), r, sha256.New())
	if err != nil {
		return "", err
	}
	if got != n {
		return "", io.ErrUnexpectedEOF
	}
	return store.Commit(ctx, s)
}

// pipe is a TCP connection within the process.
func pipe() (client, server net.Conn, err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	defer l.Close()
	if client, err = net.Dial("tcp", l.Addr().String()); err != nil {
		return nil, nil, err
	}
	if server, err = l.Accept(); err != nil {
		client.Close()
		return nil, nil, err
	}
	return client, server, nil
}

func benchmarkPush(b *testing.B, store storage.Store, n int64) {
	b.SetBytes(n)
	b.ReportAllocs()
	body := make([]byte, min(n, 1<<20))
	for b.Loop() {
		var key string
		var err error
		if n <= int64(len(body)) {
			key, err = push(b.Context(), store, bytes.NewReader(body[:n]), n)
		} else {
			key, err = Push(b.Context(), store, n)
		}
		if err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if err := store.Delete(b.Context(), key); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}

func benchmarkParallel(b *testing.B, store storage.Store, n int64, parallel int) {
	b.SetBytes(n)
	keys := make(chan string, 1<<20)
	var left atomic.Int64
	left.Store(int64(b.N))
	errs := make(chan error, parallel)
	body := make([]byte, min(n, 1<<20))
	for range parallel {
		go func() {
			for left.Add(-1) >= 0 {
				var key string
				var err error
				if n <= int64(len(body)) {
					key, err = push(b.Context(), store, bytes.NewReader(body[:n]), n)
				} else {
					key, err = Push(b.Context(), store, n)
				}
				if err != nil {
					errs <- err
					return
				}
				keys <- key
			}
			errs <- nil
		}()
	}
	for range parallel {
		if err := <-errs; err != nil {
			b.Error(err)
		}
	}
	b.StopTimer()
	close(keys)
	for key := range keys {
		if err := store.Delete(context.Background(), key); err != nil {
			b.Fatal(err)
		}
	}
}
