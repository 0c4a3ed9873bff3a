package registry

import (
	"bytes"
	"context"
	"io"
	"sync"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"berth/metadata"
)

// Bounds of what is remembered of small blobs, in bytes and in number. Of those that
// were asked for once, only the key is kept.
const (
	// SmallBlob is the most that a blob may have to be remembered, in bytes.
	SmallBlob      = 32 << 10
	maxSmallBytes  = 4 << 20
	maxSmallNoted  = 8192
	smallBlobExtra = 256 // what an entry takes beside its bytes
)

// smallBlobs remembers the bytes of small blobs that are asked for again and again, configs
// above all. The bytes under a key of the store never change, and were compared with the digest;
// whether a repository may serve them is asked from the database each time, before. Zero works.
type smallBlobs struct {
	mu    sync.Mutex
	lru   *simplelru.LRU[string, []byte] // by key of the store; nil bytes: was asked for once
	bytes int
}

// get gives the bytes under a key. Without them it says whether the key was asked for before.
func (s *smallBlobs) get(key string) (data []byte, again bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lru == nil {
		s.lru, _ = simplelru.NewLRU(maxSmallNoted, func(_ string, data []byte) { s.bytes -= smallBlobExtra + len(data) }) // the size is not 0
	}
	if data, again = s.lru.Get(key); !again {
		s.add(key, nil)
	}
	return data, again
}

// add is called with the lock.
func (s *smallBlobs) add(key string, data []byte) {
	s.lru.Remove(key)
	s.lru.Add(key, data)
	for s.bytes += smallBlobExtra + len(data); s.bytes > maxSmallBytes; {
		s.lru.RemoveOldest()
	}
}

func (s *smallBlobs) put(key string, data []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lru != nil {
		s.add(key, data)
	}
}

func (s *smallBlobs) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lru, s.bytes = nil, 0
}

// SmallBlob gives all bytes of a blob that was just found, when it is small and asked for
// often, and nil otherwise: then OpenBlob has them. Nobody may change them.
func (r *Registry) SmallBlob(ctx context.Context, b metadata.Blob) []byte {
	if b.Size == 0 || b.Size > SmallBlob {
		return nil
	}
	data, again := r.small.get(b.Key)
	if data != nil || !again {
		return data
	}
	// Any trouble is OpenBlob's to tell.
	rc, err := r.OpenBlob(ctx, b, 0, -1)
	if err != nil {
		return nil
	}
	defer rc.Close()
	data = make([]byte, b.Size)
	if _, err := io.ReadFull(rc, data); err != nil {
		return nil
	}
	verifier := b.Digest.Verifier()
	if _, err := io.Copy(verifier, bytes.NewReader(data)); err != nil || !verifier.Verified() {
		return nil
	}
	r.small.put(b.Key, data)
	return data
}

// Rest drops what is remembered of blobs, in a moment without work.
func (r *Registry) Rest() { r.small.forget() }
