package server

import (
	"cmp"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"

	"berth/oci"
)

// byteRange is a part of a blob: length bytes from start.
type byteRange struct{ start, length int64 }

// Bounds of a request for several ranges. RFC 9110, 14.2, lets a server ignore a request that has more than two ranges
// over the same bytes, or many small ones out of order: those of an honest client have neither.
const (
	// maxRanges is how many ranges one request may ask for. podman asks for at most 1,024 in its partial pulls.
	maxRanges = 2048
	// maxUnordered is how many of them may be in another order than that of the blob.
	maxUnordered = 64
	// maxCover is how many of them may ask for the same byte.
	maxCover = 2
)

// parseRanges reads the Range header of a GET of size bytes (RFC 9110, 14.2) and gives the parts to send, in the
// order in which they were asked for, without those that the blob does not have. chosen says that the client wants
// certain parts, several or one that has an end, rather than a blob or the rest of it.
//
// No parts mean that the whole blob is to be sent: there is no header, its unit or syntax is unknown, or it asks for more
// than the bounds allow. The error is a RANGE_INVALID when none of the ranges has anything in common
// with the blob, or one ends before it begins.
func parseRanges(header string, size int64) (parts []byteRange, chosen bool, err error) {
	unit, set, ok := strings.Cut(header, "=")
	if !ok || !strings.EqualFold(strings.TrimSpace(unit), "bytes") {
		return nil, false, nil
	}
	unsatisfiable := func() error {
		return oci.Errorf(oci.CodeRangeInvalid, "the range %.60q lies outside of the blob, which has %d bytes", header, size)
	}
	asked, rest := 0, false
	for spec := range strings.SplitSeq(set, ",") {
		spec = strings.Trim(spec, " \t")
		if spec == "" {
			continue // RFC 9110, 5.6.1.2: empty elements of a list do not count
		}
		if asked++; asked > maxRanges {
			return nil, true, nil
		}
		part, valid, ordered := parseRange(spec, size)
		switch {
		case !valid:
			return nil, strings.Contains(set, ","), nil
		case !ordered:
			// RFC 9110, 14.1.1 calls this range invalid and leaves the answer to
			// the server; the OCI conformance suite and net/http say 416.
			return nil, true, unsatisfiable()
		case part.length > 0:
			parts = append(parts, part)
		}
		rest = strings.HasSuffix(spec, "-")
	}
	chosen = asked > 1 || !rest
	switch {
	case asked == 0:
		return nil, false, nil
	case len(parts) == 0:
		return nil, chosen, unsatisfiable()
	case len(parts) > 1 && !worthwhile(parts, size):
		return nil, true, nil
	}
	return parts, chosen, nil
}

// worthwhile reports whether parts keep to the bounds, and are not more bytes than the whole.
func worthwhile(parts []byteRange, size int64) bool {
	inOrder := slices.SortedStableFunc(slices.Values(parts), func(a, b byteRange) int { return cmp.Compare(a.start, b.start) })
	if len(parts) > maxUnordered && !slices.Equal(parts, inOrder) {
		return false
	}
	left := size
	var ends []int64 // of the parts that have the byte where the next one begins
	for _, p := range inOrder {
		if left -= p.length; left < 0 {
			return false
		}
		ends = slices.DeleteFunc(ends, func(end int64) bool { return end <= p.start })
		if ends = append(ends, p.start+p.length); len(ends) > maxCover {
			return false
		}
	}
	return true
}

// parseRange reads one range of the unit bytes. It is not valid when its syntax is wrong, and not ordered when
// it ends before it begins. One that has nothing in common with the blob has no length.
func parseRange(spec string, size int64) (r byteRange, valid, ordered bool) {
	first, last, ok := strings.Cut(spec, "-")
	if !ok {
		return r, false, false
	}
	if first == "" { // the last n bytes
		n, ok := parseOffset(last)
		n = min(n, size)
		return byteRange{size - n, n}, ok, true
	}
	start, ok := parseOffset(first)
	if !ok {
		return r, false, false
	}
	end := size - 1
	if last != "" {
		n, ok := parseOffset(last)
		if !ok || n < start {
			return r, ok, false
		}
		end = min(end, n)
	}
	if start >= size {
		return r, true, true
	}
	return byteRange{start, end - start + 1}, true, true
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
