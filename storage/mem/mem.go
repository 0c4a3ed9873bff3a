// Package mem keeps objects in memory, for tests and for trying things out.
package mem

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"
	"sync"
	"time"

	"berth/storage"
)

// Store is a [storage.Store] in memory. It has no use for a budget, since it
// keeps everything.
type Store struct {
	mu      sync.Mutex
	objects map[string]object
	chunks  map[string]chunk // unfinished sessions: what each Append brought
	budget  *storage.Budget
}

type object struct {
	data []byte
	made time.Time
}

// chunk is one Append's bytes and the session that it continued. Nothing is ever
// overwritten, so sessions cannot mix.
type chunk struct {
	before storage.Session
	data   []byte
	made   time.Time
}

var _ storage.Store = (*Store)(nil)

// New makes an empty store.
func New() *Store {
	return &Store{objects: map[string]object{}, chunks: map[string]chunk{}, budget: storage.NewBudget(storage.MinBudget)}
}

// Begin implements [storage.Store]. A session is the upload's id, or the id and the name of a chunk.
func (s *Store) Begin(id string) storage.Session { return storage.Session(id) }

// Append implements [storage.Store].
func (s *Store) Append(ctx context.Context, session storage.Session, r io.Reader, tee io.Writer) (storage.Session, int64, error) {
	if err := ctx.Err(); err != nil {
		return session, 0, err
	}
	s.mu.Lock()
	_, err := s.bytes(session)
	s.mu.Unlock()
	if err != nil {
		return session, 0, err
	}
	var body bytes.Buffer
	n, err := storage.Pump(ctx, r, tee, storage.NewWriteThrough(s.budget, func(p []byte) error {
		_, err := body.Write(p)
		return err
	}))
	var source *storage.SourceError
	if err != nil && !errors.As(err, &source) {
		return session, 0, err
	}
	if n == 0 {
		return session, 0, err
	}
	next := id(session) + "-" + rand.Text()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.chunks[next] = chunk{before: session, data: body.Bytes(), made: time.Now()}
	return storage.Session(next), n, err
}

func id(session storage.Session) string {
	id, _, _ := strings.Cut(string(session), "-")
	return id
}

// bytes collects what a session holds; the caller holds the lock.
func (s *Store) bytes(session storage.Session) ([]byte, error) {
	var chunks [][]byte
	for strings.Contains(string(session), "-") {
		c, ok := s.chunks[string(session)]
		if !ok {
			return nil, fmt.Errorf("%w: it is not there any more", storage.ErrSession)
		}
		chunks = append(chunks, c.data)
		session = c.before
	}
	if session == "" || strings.Trim(string(session), "0123456789abcdef") != "" {
		return nil, fmt.Errorf("%w: its text is damaged", storage.ErrSession)
	}
	var all []byte
	for i := len(chunks) - 1; i >= 0; i-- {
		all = append(all, chunks[i]...)
	}
	return all, nil
}

// drop forgets a session and what it was made of; the caller holds the lock.
func (s *Store) drop(session storage.Session) {
	for {
		c, ok := s.chunks[string(session)]
		if !ok {
			return
		}
		delete(s.chunks, string(session))
		session = c.before
	}
}

// OpenSession implements [storage.Store].
func (s *Store) OpenSession(ctx context.Context, session storage.Session) (io.ReadCloser, error) {
	s.mu.Lock()
	data, err := s.bytes(session)
	s.mu.Unlock()
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return nil, err
	}
	return io.NopCloser(bytes.NewReader(data)), nil
}

// Commit implements [storage.Store].
func (s *Store) Commit(ctx context.Context, session storage.Session) (string, error) {
	if err := ctx.Err(); err != nil {
		return "", err
	}
	key := string(session)
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, again := s.objects[key]; again {
		return key, nil
	}
	data, err := s.bytes(session)
	if err != nil {
		return "", err
	}
	s.objects[key] = object{data: data, made: time.Now()}
	s.drop(session)
	return key, nil
}

// Abort implements [storage.Store].
func (s *Store) Abort(ctx context.Context, session storage.Session) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.objects, string(session))
	s.drop(session)
	return nil
}

// Open implements [storage.Store].
func (s *Store) Open(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	o, err := s.object(ctx, key)
	if err != nil {
		return nil, err
	}
	if offset < 0 || offset > int64(len(o.data)) {
		return nil, fmt.Errorf("opening %s: %w: offset %d of %d bytes", key, storage.ErrOutOfRange, offset, len(o.data))
	}
	data := o.data[offset:]
	if length >= 0 {
		data = data[:min(length, int64(len(data)))]
	}
	return io.NopCloser(bytes.NewReader(data)), nil
}

// Stat implements [storage.Store].
func (s *Store) Stat(ctx context.Context, key string) (storage.Info, error) {
	o, err := s.object(ctx, key)
	if err != nil {
		return storage.Info{}, err
	}
	return storage.Info{Key: key, Size: int64(len(o.data)), ModTime: o.made}, nil
}

func (s *Store) object(ctx context.Context, key string) (object, error) {
	if err := ctx.Err(); err != nil {
		return object{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	o, ok := s.objects[key]
	if !ok {
		return object{}, fmt.Errorf("%w: %s", storage.ErrNotFound, key)
	}
	return o, nil
}

// Delete implements [storage.Store].
func (s *Store) Delete(ctx context.Context, keys ...string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, key := range keys {
		delete(s.objects, key)
		delete(s.chunks, key)
	}
	return nil
}

// Walk implements [storage.Store].
func (s *Store) Walk(ctx context.Context) iter.Seq2[storage.Info, error] {
	return func(yield func(storage.Info, error) bool) {
		s.mu.Lock()
		var all []storage.Info
		for key, o := range s.objects {
			all = append(all, storage.Info{Key: key, Size: int64(len(o.data)), ModTime: o.made})
		}
		for key, c := range s.chunks {
			all = append(all, storage.Info{Key: key, Size: int64(len(c.data)), ModTime: c.made})
		}
		s.mu.Unlock()
		for _, info := range all {
			if err := ctx.Err(); err != nil {
				yield(storage.Info{}, err)
				return
			}
			if !yield(info, nil) {
				return
			}
		}
	}
}

// Ping implements [storage.Store].
func (s *Store) Ping(ctx context.Context) error { return ctx.Err() }

// Writable implements [storage.Store].
func (s *Store) Writable(ctx context.Context) error { return ctx.Err() }
