package server

import (
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"

	"berth/oci"
)

// byteRange is a part of a blob: length bytes from start.
type byteRange struct{ start, length int64 }

// parseRange reads the Range header of a GET of size bytes (RFC 9110, 14.2).
// partial is false when the whole blob is to be sent: there is no header, its
// unit or syntax is unknown, or it asks for several ranges, which a server may
// answer with everything. The error is a RANGE_INVALID when the one range has
// nothing in common with the blob.
func parseRange(header string, size int64) (r byteRange, partial bool, err error) {
	whole := byteRange{0, size}
	spec, ok := strings.CutPrefix(header, "bytes=")
	if !ok || strings.Contains(spec, ",") {
		return whole, false, nil
	}
	first, last, ok := strings.Cut(strings.TrimSpace(spec), "-")
	if !ok {
		return whole, false, nil
	}
	unsatisfiable := oci.Errorf(oci.CodeRangeInvalid, "the range %.60q lies outside of the blob, which has %d bytes", header, size)
	if first == "" { // the last n bytes
		n, ok := parseOffset(last)
		switch {
		case !ok:
			return whole, false, nil
		case n == 0 || size == 0:
			return byteRange{}, false, unsatisfiable
		}
		n = min(n, size)
		return byteRange{size - n, n}, true, nil
	}
	start, ok := parseOffset(first)
	if !ok {
		return whole, false, nil
	}
	end := size - 1
	if last != "" {
		n, ok := parseOffset(last)
		switch {
		case !ok:
			return whole, false, nil
		case n < start:
			// RFC 9110, 14.1.1 calls this range invalid and leaves the answer to
			// the server; the OCI conformance suite and net/http say 416.
			return byteRange{}, false, unsatisfiable
		}
		end = min(end, n)
	}
	if start >= size {
		return byteRange{}, false, unsatisfiable
	}
	return byteRange{start, end - start + 1}, true, nil
}

// contentRange is what Content-Range says of the part.
func (r byteRange) contentRange(size int64) string {
	return "bytes " + strconv.FormatInt(r.start, 10) + "-" + strconv.FormatInt(r.start+r.length-1, 10) + "/" + strconv.FormatInt(size, 10)
}

// parseOffset reads decimal digits and nothing else. A number that is too
// large for 63 bits is still a number: it is as far away as can be.
func parseOffset(s string) (int64, bool) {
	if s == "" {
		return 0, false
	}
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return 0, false
		}
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		const farAway = 1<<63 - 1
		return farAway, true
	}
	return n, true
}

// parseContentRange reads the Content-Range of a chunk: "0-1023" as the
// distribution specification has it, or "bytes 0-1023/*" as RFC 9110 has it.
// contentLength is the request's, -1 when it is not announced. It returns the
// chunk's offset (-1: no header) and its length (-1: unknown). The error is a
// SIZE_INVALID when the two lengths differ, else a BLOB_UPLOAD_INVALID.
func parseContentRange(header string, contentLength int64) (at, length int64, err error) {
	if header == "" {
		return -1, contentLength, nil
	}
	malformed := oci.Errorf(oci.CodeBlobUploadInvalid, "the Content-Range %.60q is not valid: write <first byte>-<last byte>, both inclusive, e.g. 0-1023", header)
	spec := strings.TrimSpace(strings.TrimPrefix(header, "bytes "))
	if rest, total, ok := strings.Cut(spec, "/"); ok {
		if _, number := parseOffset(total); total != "*" && !number {
			return 0, 0, malformed
		}
		spec = rest
	}
	first, last, ok := strings.Cut(spec, "-")
	start, okFirst := parseOffset(first)
	end, okLast := parseOffset(last)
	const most = 1 << 62
	if !ok || !okFirst || !okLast || end < start || end > most {
		return 0, 0, malformed
	}
	length = end - start + 1
	if contentLength >= 0 && contentLength != length {
		return 0, 0, oci.Errorf(oci.CodeSizeInvalid, "the Content-Range %.60q is %d bytes long but the Content-Length is %d", header, length, contentLength)
	}
	return start, length, nil
}

// uploadRange is the Range header of an upload's state: what was taken so far.
// The specification has no way to say "nothing"; docker's registries write 0-0.
func uploadRange(size int64) string { return "0-" + strconv.FormatInt(max(0, size-1), 10) }

// etag is the entity tag of content that never changes: its digest.
func etag(d digest.Digest) string { return `"` + d.String() + `"` }

// etagMatches reports whether an If-None-Match header names the digest, with
// the weak comparison that RFC 9110, 13.1.2, asks for.
func etagMatches(header string, d digest.Digest) bool {
	for header != "" {
		var item string
		item, header, _ = strings.Cut(header, ",")
		item = strings.TrimPrefix(strings.TrimSpace(item), "W/")
		if item == "*" || strings.Trim(item, `"`) == d.String() {
			return true
		}
	}
	return false
}
