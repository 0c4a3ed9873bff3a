package server

import (
	"net/http"
	"net/url"
	"strconv"

	"berth/oci"
)

// maxPage is the largest page of a list, and its default. A client that asks for
// more gets this many and a Link to the rest; what a request costs never grows
// with the number that it names (CVE-2023-2253).
const maxPage = 1000

// page is what a list request asks for: at most n entries behind last.
type page struct {
	n    int
	last string
}

// maxLast bounds the parameter last, in bytes: the longest repository name.
const maxLast = oci.MaxNameLength

// parsePage reads n and last (distribution-spec, "Listing Tags"). The error is an INVALID.
func parsePage(q url.Values) (page, error) {
	p := page{n: maxPage, last: q.Get("last")}
	if len(p.last) > maxLast {
		return page{}, oci.Errorf(oci.CodeInvalid, "the parameter last has %d characters, at most %d are allowed: give the last name of the previous page", len(p.last), maxLast)
	}
	if s := q.Get("n"); s != "" || q.Has("n") {
		n, ok := parseOffset(s)
		if !ok {
			return page{}, oci.Errorf(oci.CodeInvalid, "the parameter n=%.40q is not a number: give how many entries to list, e.g. n=100", s)
		}
		p.n = int(min(n, maxPage))
	}
	return p, nil
}

// setNext sets the Link to the page behind last (RFC 8288). The link is
// relative, so that it holds behind any proxy, and repeats the other
// parameters of the request.
func setNext(w http.ResponseWriter, r *http.Request, p page, last string) {
	q := r.URL.Query()
	q.Set("n", strconv.Itoa(p.n))
	q.Set("last", last)
	u := url.URL{Path: r.URL.Path, RawQuery: q.Encode()}
	w.Header().Set("Link", "<"+u.String()+`>; rel="next"`)
}
