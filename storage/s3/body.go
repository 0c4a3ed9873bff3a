package s3

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"sync"

	"github.com/minio/minio-go/v7"

	"berth/storage"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// segment is some bytes of a session in order: a block in memory, or a piece in S3.
type segment struct {
	block *storage.Block
	span  span // of the piece
	key   string
	wait  func() error // until the piece is stored; nil: it is
}

func (g segment) size() int64 {
	if g.block != nil {
		return int64(len(g.block.Bytes()))
	}
	return g.span.size
}

func remotes(st state, pieces []piece) []segment {
	segments := make([]segment, len(pieces))
	for i, p := range pieces {
		segments[i] = segment{key: st.key(p.Name), span: span{p.Size, p.CRC}}
	}
	return segments
}

// spansOf is what a checksum of segments is made of: neighbouring blocks together.
func spansOf(segments []segment) []span {
	var spans []span
	local := false
	for _, g := range segments {
		if g.block == nil {
			spans = append(spans, g.span)
			local = false
			continue
		}
		if !local {
			spans = append(spans, span{})
			local = true
		}
		last := &spans[len(spans)-1]
		last.size += int64(len(g.block.Bytes()))
		last.crc = crc32.Update(last.crc, castagnoli, g.block.Bytes())
	}
	return spans
}

// body reads segments, of which pieces come from S3 as they are needed. After
// Close it reads nothing any more, whoever still holds it: the HTTP client may be about to
// when a request has failed, and the blocks are somebody else's then.
type body struct {
	ctx   context.Context // of the one request that the body is for
	store *Store

	mu       sync.Mutex
	segments []segment
	at       int           // bytes read of the first segment, if that is a block
	piece    io.ReadCloser // open for the first segment, if that is a piece
	left     int64         // of it
	closed   bool
	err      error
}

func (s *Store) newBody(ctx context.Context, segments []segment) *body {
	return &body{ctx: ctx, store: s, segments: segments}
}

var errBodyClosed = errors.New("the body of a request that is over")

func (b *body) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return 0, errBodyClosed
	}
	for b.err == nil {
		if len(b.segments) == 0 {
			return 0, io.EOF
		}
		if k := b.segments[0].block; k != nil {
			if b.at < len(k.Bytes()) {
				n := copy(p, k.Bytes()[b.at:])
				b.at += n
				return n, nil
			}
			b.segments, b.at = b.segments[1:], 0
			continue
		}
		var n int
		if n, b.err = b.readPiece(p); n > 0 {
			return n, nil
		}
	}
	return 0, b.err
}

func (b *body) readPiece(p []byte) (int, error) {
	g := b.segments[0]
	if b.piece == nil {
		if g.wait != nil {
			if err := g.wait(); err != nil {
				return 0, err
			}
		}
		r, err := b.store.get(b.ctx, b.store.prefix+g.key, minio.GetObjectOptions{})
		if code(err) == minio.NoSuchKey {
			return 0, fmt.Errorf("%w: its bytes are gone, %s", storage.ErrSession, g.key)
		}
		if err != nil {
			return 0, err
		}
		b.piece, b.left = r, g.span.size
	}
	n, err := b.piece.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	if b.left == 0 {
		b.piece.Close()
		b.piece, b.segments, b.at = nil, b.segments[1:], 0
		return n, nil
	}
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// failed gives the error of a piece that could not be read.
func (b *body) failed() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.err
}

func (b *body) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	b.segments = nil
	if b.piece != nil {
		b.piece.Close()
		b.piece = nil
	}
	return nil
}
