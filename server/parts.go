package server

import (
	"context"
	"crypto/rand"
	"io"
	"mime/multipart"
	"net/http"
	"net/textproto"
	"os"
	"strconv"

	"berth/metadata"
	"berth/oci"
)

// sendParts answers with several parts of a blob, as multipart/byteranges (RFC 9110, 14.6). Clients that fetch
// only the files that have changed ask so: podman with zstd:chunked, containerd with estargz.
func (s *Server) sendParts(ex *exchange, r *http.Request, b metadata.Blob, parts []byteRange) error {
	from := &partReader{server: s, request: r, blob: b, parts: parts}
	defer from.close()
	first, err := from.next(r.Context())
	if err != nil {
		return err
	}
	// The blob may have any bytes, also those of a boundary that can be guessed.
	boundary := rand.Text()
	var counted counter
	err = eachPart(&counted, boundary, b.Size, parts, func(p byteRange) error {
		counted += counter(p.length)
		return nil
	})
	if err != nil {
		return err
	}
	h := ex.Header()
	set(h, "Content-Type", "multipart/byteranges; boundary="+boundary)
	set(h, "Content-Length", strconv.FormatInt(int64(counted), 10))
	ex.WriteHeader(http.StatusPartialContent)
	s.sent(ex, r, b, eachPart(ex, boundary, b.Size, parts, func(p byteRange) (err error) {
		source := first
		if first = nil; source == nil {
			if source, err = from.next(r.Context()); err != nil {
				return err
			}
		}
		return s.stream(ex, source, p.length)
	}))
	return nil
}

// eachPart writes what stands around the parts, and has send write each.
func eachPart(w io.Writer, boundary string, size int64, parts []byteRange, send func(byteRange) error) error {
	m := multipart.NewWriter(w)
	if err := m.SetBoundary(boundary); err != nil {
		return err
	}
	for _, p := range parts {
		_, err := m.CreatePart(textproto.MIMEHeader{
			"Content-Type":  {oci.MediaTypeOctetStream},
			"Content-Range": {p.contentRange(size)},
		})
		if err == nil {
			err = send(p)
		}
		if err != nil {
			return err
		}
	}
	return m.Close()
}

// counter is a writer that only counts.
type counter int64

func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
}

// maxGap is how many bytes between two parts are read and thrown away, rather than asking the
// store again: a request to S3 takes as long as they do.
const maxGap = 128 << 10

// partReader reads the parts of a blob one after the other: a file by seeking, others by as few calls of the
// store as the gaps allow.
type partReader struct {
	server  *Server
	request *http.Request
	blob    metadata.Blob
	parts   []byteRange // that are still to come

	rc      io.ReadCloser
	file    *os.File // rc, when it is one
	at, end int64    // what rc gives next, and where it ends
}

// next gives a reader that stands where the next part begins. It may go on behind the part's end.
func (p *partReader) next(ctx context.Context) (io.Reader, error) {
	part := p.parts[0]
	rest := p.parts[1:]
	p.parts = rest
	switch {
	case p.file != nil:
		_, err := p.file.Seek(part.start, io.SeekStart)
		return p.file, err
	case p.rc != nil && part.start >= p.at && part.start+part.length <= p.end:
		gap := part.start - p.at
		p.at = part.start + part.length
		n, err := io.CopyN(io.Discard, p.rc, gap)
		if err == io.EOF {
			err = tooFew(n, gap)
		}
		return p.rc, err
	}
	p.close()
	p.at = part.start + part.length
	p.end = p.at
	for _, later := range rest {
		if later.start < p.end || later.start-p.end > maxGap {
			break
		}
		p.end = later.start + later.length
	}
	rc, err := p.server.registry.OpenBlob(ctx, p.blob, part.start, p.end-part.start)
	if err != nil {
		return nil, err
	}
	p.rc = rc
	from := sendable(p.request, rc)
	p.file, _ = from.(*os.File)
	return from, nil
}

func (p *partReader) close() {
	if p.rc != nil {
		p.rc.Close()
		p.rc = nil
	}
}
