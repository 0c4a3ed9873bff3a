package registry

import (
	"crypto/sha256"
	"crypto/sha512"
	"encoding"
	"errors"
	"fmt"
	"hash"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
)

// hashPool keeps hashers for reuse; the zero value is ready.
type hashPool struct{ pool sync.Pool }

// sum is a running hash of an upload's bytes.
type sum struct {
	hash.Hash
	algorithm digest.Algorithm
	n         int64 // bytes written since it was taken from the pool
}

// Write implements io.Writer, which hash.Hash promises never to fail.
func (s *sum) Write(p []byte) (int, error) {
	s.n += int64(len(p))
	return s.Hash.Write(p)
}

// digest is that of everything written, before and after a restart.
func (s *sum) digest() digest.Digest { return digest.NewDigest(s.algorithm, s.Hash) }

// state is what restore continues from. It names its algorithm, for that of
// an upload may still change while there are no bytes.
func (s *sum) state() ([]byte, error) {
	prefix := []byte(s.algorithm + ":")
	if a, ok := s.Hash.(encoding.BinaryAppender); ok {
		return a.AppendBinary(prefix)
	}
	return nil, errors.New("the hash of " + string(s.algorithm) + " cannot be stored")
}

func (r *Registry) pool(a digest.Algorithm) *sync.Pool {
	if a == digest.SHA512 {
		return &r.sha512.pool
	}
	return &r.sha256.pool
}

// newSum gives an empty hash. The caller returns it with release.
func (r *Registry) newSum(a digest.Algorithm) *sum {
	if s, ok := r.pool(a).Get().(*sum); ok {
		s.Reset()
		s.n = 0
		return s
	}
	if a == digest.SHA512 {
		return &sum{Hash: sha512.New(), algorithm: a}
	}
	return &sum{Hash: sha256.New(), algorithm: digest.SHA256}
}

// restoreSum continues from a stored state.
func (r *Registry) restoreSum(state []byte) (*sum, error) {
	name, rest, ok := strings.Cut(string(state), ":")
	a := digest.Algorithm(name)
	if !ok || a != digest.SHA256 && a != digest.SHA512 {
		return nil, fmt.Errorf("the stored hash state of %d bytes is damaged", len(state))
	}
	s := r.newSum(a)
	if err := s.Hash.(encoding.BinaryUnmarshaler).UnmarshalBinary([]byte(rest)); err != nil {
		return nil, fmt.Errorf("the stored hash state is damaged: %w", err)
	}
	return s, nil
}

// release puts a hash back for reuse; nil is allowed.
func (r *Registry) release(s *sum) {
	if s != nil {
		r.pool(s.algorithm).Put(s)
	}
}
