package server

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/gorilla/mux"

	"berth/metadata"
	"berth/oci"
	"berth/registry"
)

func (s *Server) getBlob(ex *exchange, r *http.Request) error {
	b, done, err := s.blob(ex, r)
	if done || err != nil {
		return err
	}
	var parts []byteRange
	chosen := false
	if header := r.Header.Get("Range"); header != "" && rangeHolds(r.Header.Get("If-Range"), b) {
		if parts, chosen, err = parseRanges(header, b.Size); err != nil {
			ex.Header().Set("Content-Range", "bytes */"+strconv.FormatInt(b.Size, 10))
			return err
		}
	}
	// Who fetches a blob by parts gets them here. S3 gives one range of an object per request, or everything; and the stargz
	// snapshotter asks for all parts where its first request for two bytes was answered, and follows no redirect later.
	if s.redirectTTL > 0 && !chosen {
		if done, err := s.redirectBlob(ex, r, b); done || err != nil {
			return err
		}
	}
	switch len(parts) {
	case 0:
		return s.sendBlob(ex, r, b, byteRange{0, b.Size}, false)
	case 1:
		return s.sendBlob(ex, r, b, parts[0], true)
	}
	return s.sendParts(ex, r, b, parts)
}

// sendBlob answers with one part of a blob, or all of it.
func (s *Server) sendBlob(ex *exchange, r *http.Request, b metadata.Blob, part byteRange, partial bool) error {
	if small := s.registry.SmallBlob(r.Context(), b); small != nil {
		s.blobPart(ex, b, part, partial)
		writeTogether(r, int(part.length))
		s.sent(ex, r, b, s.write(ex, small[part.start:part.start+part.length]))
		return nil
	}
	length := part.length
	if part.start+part.length == b.Size {
		length = -1 // to the end
	}
	rc, err := s.registry.OpenBlob(r.Context(), b, part.start, length)
	if err != nil {
		return err
	}
	defer rc.Close()
	from := sendable(r, rc)
	if _, byFile := from.(*os.File); byFile || part.length != b.Size {
		s.blobPart(ex, b, part, partial)
		s.sent(ex, r, b, s.stream(ex, from, part.length))
		return nil
	}
	if b.Size <= registry.SmallBlob { // what is wrong with it is known before the answer begins
		all, err := s.registry.ReadBlob(rc, b)
		if err != nil {
			s.damaged(r, b, err)
			return err
		}
		s.blobPart(ex, b, part, partial)
		s.sent(ex, r, b, s.write(ex, all))
		return nil
	}
	s.blobPart(ex, b, part, partial)
	s.sent(ex, r, b, s.streamVerified(ex, rc, b))
	return nil
}

// sendable gives what of an open blob is handed to net/http: the file, where that is sent without passing through
// this process (sendfile), else the reader. TLS and HTTP/2 have to see the bytes.
func sendable(r *http.Request, rc io.Reader) io.Reader {
	if f, ok := rc.(interface{ File() *os.File }); ok && r.TLS == nil && r.ProtoMajor == 1 {
		return f.File()
	}
	if f, ok := rc.(*os.File); ok && (r.TLS != nil || r.ProtoMajor != 1) {
		return struct{ io.Reader }{f}
	}
	return rc
}

// sent is called when the answer with a blob has been sent, or has failed. It is too late for an error body then:
// the connection is cut before the last bytes (a stream of HTTP/2 is reset), so that no client
// takes what it has got for the blob.
func (s *Server) sent(ex *exchange, r *http.Request, b metadata.Blob, err error) {
	if err == nil {
		return
	}
	ex.cause, ex.aborted = fmt.Errorf("sending blob %s: %w", b.Digest, err), true
	s.damaged(r, b, err)
}

// damaged counts a blob that the store has given wrong, and has the next check look at it.
func (s *Server) damaged(r *http.Request, b metadata.Blob, err error) {
	var damage *registry.DamageError
	if errors.As(err, &damage) {
		s.metrics.damage.Inc()
		s.registry.Suspect(r.Context(), b, damage)
	}
}

// redirectBlob answers with a link from which the client fetches the blob itself; done is false when it has to
// come from here.
func (s *Server) redirectBlob(ex *exchange, r *http.Request, b metadata.Blob) (done bool, err error) {
	link, ok, err := s.registry.BlobURL(r.Context(), b, s.redirectTTL)
	if err != nil || !ok {
		return false, err
	}
	if s.keepsCredentials(r, link) {
		s.sameHost.Do(func() {
			s.log.Warn("blobs are sent by this server although storage_redirect is on: the bucket's host is this server's or below it, "+
				"so clients would send it the credentials of the registry, which S3 refuses; give the bucket a host name of its own",
				"host", r.Host)
		})
		return false, nil
	}
	h := ex.Header()
	h.Set("Location", link)
	// The link ends soon and is for this caller only.
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Length", "0")
	ex.WriteHeader(http.StatusTemporaryRedirect)
	return true, nil
}

// keepsCredentials reports whether the client would send the Authorization of its request along to the link: Go's net/http, and
// with it nearly every client of a registry, does so to the same host, whatever the port, and to all below it.
// A presigned link with an Authorization beside it is a 400 of S3.
func (s *Server) keepsCredentials(r *http.Request, link string) bool {
	if r.Header.Get("Authorization") == "" {
		return false
	}
	u, err := url.Parse(link)
	if err != nil {
		return false
	}
	to := strings.ToLower(u.Hostname())
	for _, address := range []string{"http://" + r.Host, s.baseURL(r)} {
		if u, err := url.Parse(address); err == nil {
			own := strings.ToLower(u.Hostname())
			if to == own || !strings.Contains(to, ":") && strings.HasSuffix(to, "."+own) {
				return true
			}
		}
	}
	return false
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
	setAttachment(h)
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
	return b, false, nil
}

// rangeHolds reports whether a range may be served: there is no If-Range, or it
// is the strong entity tag of what we have (RFC 9110, 13.1.5). We give no dates.
func rangeHolds(ifRange string, b metadata.Blob) bool {
	return ifRange == "" || ifRange == etag(b.Digest)
}

// streamChunk is what is sent of a file between two renewals of the write deadline. It is
// also the most that one sendfile call takes.
const streamChunk = 4 << 20

// stream sends n bytes. The deadline moves on: a client may be
// slow, but one that takes nothing for Options.StallTimeout is given up.
func (s *Server) stream(ex *exchange, r io.Reader, n int64) error {
	if _, ok := r.(*os.File); !ok {
		return s.copy(ex, r, n)
	}
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
			return tooFew(n-left, n)
		}
	}
	if s.stall > 0 {
		_ = control.SetWriteDeadline(time.Time{}) // the connection lives on
	}
	return nil
}

func tooFew(got, want int64) error {
	return fmt.Errorf("the storage gave %d bytes of %d: %w", got, want, io.ErrUnexpectedEOF)
}

// copyBuffer is the memory of a pull whose bytes pass through this process.
const copyBuffer = 64 << 10

func (s *Server) buffer() *[]byte {
	if buf, ok := s.buffers.Get().(*[]byte); ok {
		return buf
	}
	buf := make([]byte, copyBuffer)
	return &buf
}

// streamVerified is stream for a whole blob outside of a file: its bytes are hashed while others are read and sent, and
// the last ones are sent when the digest is right.
func (s *Server) streamVerified(ex *exchange, r io.Reader, b metadata.Blob) error {
	verifier := s.registry.VerifyBlob(b)
	buffers := [2]*[]byte{s.buffer(), s.buffer()}
	blocks, hashed := make(chan []byte, len(buffers)), make(chan struct{}, len(buffers))
	go func() {
		defer close(hashed)
		for p := range blocks {
			_, _ = verifier.Write(p) // does not fail
			hashed <- struct{}{}
		}
	}()
	finish := sync.OnceFunc(func() {
		close(blocks)
		for range hashed { // until the goroutine has ended
		}
	})
	defer func() {
		finish()
		verifier.Close()
		for _, buf := range buffers {
			s.buffers.Put(buf)
		}
	}()
	for i, left := 0, b.Size; left > 0; i++ {
		if i >= len(buffers) {
			<-hashed // the block that was in the buffer before
		}
		p := (*buffers[i%len(buffers)])[:min(left, copyBuffer)]
		if n, err := io.ReadFull(r, p); err == io.EOF || err == io.ErrUnexpectedEOF {
			return tooFew(b.Size-left+int64(n), b.Size)
		} else if err != nil {
			return err
		}
		blocks <- p
		if left -= int64(len(p)); left == 0 {
			finish()
			if err := verifier.Check(); err != nil {
				return err
			}
		}
		if _, err := ex.Write(p); err != nil {
			return err
		}
	}
	return nil
}

// copy is stream for bytes outside of a file.
func (s *Server) copy(ex *exchange, r io.Reader, n int64) error {
	buf := s.buffer()
	defer s.buffers.Put(buf)
	for left := n; left > 0; {
		m, err := r.Read((*buf)[:min(left, int64(len(*buf)))])
		if m > 0 {
			if _, werr := ex.Write((*buf)[:m]); werr != nil {
				return werr
			}
			left -= int64(m)
		}
		switch {
		case left == 0:
		case err == io.EOF:
			return tooFew(n-left, n)
		case err != nil:
			return err
		}
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
	if err := s.registry.DeleteBlob(r.Context(), ex.Actor(), ex.repository, d); err != nil {
		return err
	}
	ex.Header().Set("Docker-Content-Digest", d.String())
	ex.Header().Set("Content-Length", "0")
	ex.WriteHeader(http.StatusAccepted)
	return nil
}
