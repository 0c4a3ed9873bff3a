package server

import (
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/gorilla/mux"

	"berth/metadata"
	"berth/oci"
)

func (s *Server) getBlob(ex *exchange, r *http.Request) error {
	b, done, err := s.blob(ex, r)
	if done || err != nil {
		return err
	}
	if s.redirectTTL > 0 {
		link, ok, err := s.registry.BlobURL(r.Context(), b, s.redirectTTL)
		if err != nil {
			return err
		}
		if ok {
			h := ex.Header()
			h.Set("Location", link)
			// The link ends soon and is for this caller only.
			h.Set("Cache-Control", "no-store")
			h.Set("Content-Length", "0")
			ex.WriteHeader(http.StatusTemporaryRedirect)
			return nil
		}
	}
	h := ex.Header()
	part, partial := byteRange{0, b.Size}, false
	if header := r.Header.Get("Range"); header != "" && rangeHolds(r.Header.Get("If-Range"), b) {
		if part, partial, err = parseRange(header, b.Size); err != nil {
			h.Set("Content-Range", "bytes */"+strconv.FormatInt(b.Size, 10))
			return err
		}
	}
	if small := s.registry.SmallBlob(r.Context(), b); small != nil {
		s.blobPart(ex, b, part, partial)
		writeTogether(r, int(part.length))
		if err := s.write(ex, small[part.start:part.start+part.length]); err != nil {
			ex.cause = fmt.Errorf("sending blob %s: %w", b.Digest, err)
		}
		return nil
	}
	length := part.length
	if part.start+part.length == b.Size {
		length = -1 // to the end: a directory gives the file itself then, for sendfile
	}
	rc, err := s.registry.OpenBlob(r.Context(), b, part.start, length)
	if err != nil {
		return err
	}
	defer rc.Close()
	s.blobPart(ex, b, part, partial)
	if err := s.stream(ex, rc, part.length); err != nil {
		// Too late for an error body. The length is not reached, so net/http closes
		// the connection and the client knows that it has not got all.
		ex.cause = fmt.Errorf("sending blob %s: %w", b.Digest, err)
	}
	return nil
}

// blobPart begins the answer with a blob or a part of it.
func (s *Server) blobPart(ex *exchange, b metadata.Blob, part byteRange, partial bool) {
	h := ex.Header()
	set(h, "Content-Length", strconv.FormatInt(part.length, 10))
	if partial {
		set(h, "Content-Range", part.contentRange(b.Size))
		ex.WriteHeader(http.StatusPartialContent)
		return
	}
	ex.WriteHeader(http.StatusOK)
}

func (s *Server) headBlob(ex *exchange, r *http.Request) error {
	b, done, err := s.blob(ex, r)
	if done || err != nil {
		return err
	}
	set(ex.Header(), "Content-Length", strconv.FormatInt(b.Size, 10))
	ex.WriteHeader(http.StatusOK)
	return nil
}

// blob finds a blob and sets its headers, and answers 304 when the client has
// it already.
func (s *Server) blob(ex *exchange, r *http.Request) (b metadata.Blob, done bool, err error) {
	d, err := oci.ParseDigest(mux.Vars(r)["digest"])
	if err != nil {
		return b, false, err
	}
	if b, err = s.registry.Blob(r.Context(), ex.repository, d); err != nil {
		return b, false, err
	}
	h := ex.Header()
	set(h, "Docker-Content-Digest", d.String())
	set(h, "Etag", etag(d))
	// private: who may pull is decided for each caller.
	set(h, "Cache-Control", "private, max-age=31536000, immutable")
	if etagMatches(r.Header.Get("If-None-Match"), d) {
		ex.WriteHeader(http.StatusNotModified)
		return b, true, nil
	}
	set(h, "Content-Type", oci.MediaTypeOctetStream)
	set(h, "Accept-Ranges", "bytes")
	set(h, "X-Content-Type-Options", "nosniff")
	return b, false, nil
}

// rangeHolds reports whether a range may be served: there is no If-Range, or it
// is the strong entity tag of what we have (RFC 9110, 13.1.5). We give no dates.
func rangeHolds(ifRange string, b metadata.Blob) bool {
	return ifRange == "" || ifRange == etag(b.Digest)
}

// streamChunk is what is sent between two renewals of the write deadline. It is
// also the most that one sendfile call takes.
const streamChunk = 4 << 20

// stream sends n bytes. The deadline moves with each chunk: a client may be
// slow, but one that takes nothing for Options.StallTimeout is given up.
func (s *Server) stream(ex *exchange, r io.Reader, n int64) error {
	control := http.NewResponseController(ex.rw)
	for left := n; left > 0; {
		if s.stall > 0 {
			_ = control.SetWriteDeadline(time.Now().Add(s.stall))
		}
		chunk := min(left, streamChunk)
		sent, err := ex.ReadFrom(&io.LimitedReader{R: r, N: chunk})
		left -= sent
		if err != nil {
			return err
		}
		if sent < chunk {
			return fmt.Errorf("the storage gave %d bytes of %d: %w", n-left, n, io.ErrUnexpectedEOF)
		}
	}
	if s.stall > 0 {
		_ = control.SetWriteDeadline(time.Time{}) // the connection lives on
	}
	return nil
}

// write is stream for a few bytes.
func (s *Server) write(ex *exchange, p []byte) error {
	if s.stall <= 0 {
		_, err := ex.Write(p)
		return err
	}
	control := http.NewResponseController(ex.rw)
	_ = control.SetWriteDeadline(time.Now().Add(s.stall))
	_, err := ex.Write(p)
	if err == nil {
		_ = control.SetWriteDeadline(time.Time{}) // the connection lives on
	}
	return err
}

func (s *Server) deleteBlob(ex *exchange, r *http.Request) error {
	d, err := oci.ParseDigest(mux.Vars(r)["digest"])
	if err != nil {
		return err
	}
	if err := s.registry.DeleteBlob(r.Context(), ex.actor(), ex.repository, d); err != nil {
		return err
	}
	ex.Header().Set("Docker-Content-Digest", d.String())
	ex.Header().Set("Content-Length", "0")
	ex.WriteHeader(http.StatusAccepted)
	return nil
}
