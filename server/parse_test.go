package server

import (
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/gorilla/mux"
	"github.com/opencontainers/go-digest"

	"berth/oci"
)

func TestParseRanges(t *testing.T) {
	many := func(n int, each func(i int) string) string {
		specs := make([]string, n)
		for i := range specs {
			specs[i] = each(i)
		}
		return "bytes=" + strings.Join(specs, ",")
	}
	all := func(n int) (parts []byteRange) {
		for i := range n {
			parts = append(parts, byteRange{int64(2 * i), 1})
		}
		return parts
	}
	ascending := func(i int) string { return fmt.Sprintf("%d-%d", 2*i, 2*i) }
	for _, tt := range []struct {
		header string
		size   int64
		want   []byteRange // nil: everything
		chosen bool
		bad    bool
	}{
		{"", 100, nil, false, false},
		{"bytes=0-0", 100, []byteRange{{0, 1}}, true, false},
		{"bytes=0-99", 100, []byteRange{{0, 100}}, true, false},
		{"bytes=10-", 100, []byteRange{{10, 90}}, false, false},
		{"bytes=90-500", 100, []byteRange{{90, 10}}, true, false},
		{"bytes=-10", 100, []byteRange{{90, 10}}, true, false},
		{"bytes=-500", 100, []byteRange{{0, 100}}, true, false},
		{"Bytes = 1-2 ", 100, []byteRange{{1, 2}}, true, false},
		{"bytes=100-", 100, nil, false, true},
		{"bytes=100-200", 100, nil, false, true},
		{"bytes=-0", 100, nil, false, true},
		{"bytes=0-", 0, nil, false, true},
		{"bytes=-5", 0, nil, false, true},
		{"bytes=500-0", 1000, nil, false, true},
		{"bytes=99999999999999999999-", 100, nil, false, true},
		{"bytes=5-99999999999999999999", 100, []byteRange{{5, 95}}, true, false},
		{"bytes=", 100, nil, false, false},
		{"bytes=-", 100, nil, false, false},
		{"bytes=a-b", 100, nil, false, false},
		{"bytes=+1-2", 100, nil, false, false},
		{"bytes=1--2", 100, nil, false, false},
		{"bytes=1-2 3", 100, nil, false, false},
		{"lines=0-1", 100, nil, false, false},

		// Several: in the order of the request, without those that lie outside.
		{"bytes=0-1,5-6", 100, []byteRange{{0, 2}, {5, 2}}, true, false},
		{"bytes=50-59, 0-9 ,-10", 100, []byteRange{{50, 10}, {0, 10}, {90, 10}}, true, false},
		{"bytes=,0-1,, ,5-6,", 100, []byteRange{{0, 2}, {5, 2}}, true, false},
		{"bytes=,0-1,", 100, []byteRange{{0, 2}}, true, false},
		{"bytes=0-1,100-200,-0", 100, []byteRange{{0, 2}}, true, false},
		{"bytes=100-,200-300", 100, nil, true, true},
		{"bytes=0-1,7-5", 100, nil, true, true},
		{"bytes=0-1,x", 100, nil, true, false},
		{"bytes=,,", 100, nil, false, false},
		// Two over the same bytes are served, three are not, nor more bytes than there are.
		{"bytes=0-9,5-14", 100, []byteRange{{0, 10}, {5, 10}}, true, false},
		{"bytes=0-9,5-14,9-20", 100, nil, true, false},
		{"bytes=0-9,10-19,5-14,0-2", 100, []byteRange{{0, 10}, {10, 10}, {5, 10}, {0, 3}}, true, false},
		{"bytes=0-,0-", 100, nil, true, false},
		{"bytes=0-60,40-99", 100, nil, true, false},
		{"bytes=0-49,50-99", 100, []byteRange{{0, 50}, {50, 50}}, true, false},
		{many(3000, func(int) string { return "0-" }), 1 << 40, nil, true, false},
		// As many as a partial pull asks for, and no more; many only in order.
		{many(1024, ascending), 1 << 40, all(1024), true, false},
		{many(maxRanges, ascending), 1 << 40, all(maxRanges), true, false},
		{many(maxRanges+1, ascending), 1 << 40, nil, true, false},
		{many(maxUnordered+1, func(i int) string { return fmt.Sprintf("%d-%d", 1000-2*i, 1000-2*i) }), 1 << 40, nil, true, false},
	} {
		got, chosen, err := parseRanges(tt.header, tt.size)
		if !slices.Equal(got, tt.want) || err == nil && chosen != tt.chosen || (err != nil) != tt.bad {
			t.Errorf("parseRanges(%.60q, %d) = %v, %v, %v, want %v, %v, error %v", tt.header, tt.size, got, chosen, err, tt.want, tt.chosen, tt.bad)
		}
	}
}

func FuzzRange(f *testing.F) {
	for _, s := range []string{"bytes=0-1", "bytes=-5", "bytes=7-", "bytes=9223372036854775807-9223372036854775807", "bytes=1-2,3-4", "bytes=0-5,3-9,-1"} {
		f.Add(s, int64(10))
	}
	f.Fuzz(func(t *testing.T, header string, size int64) {
		if size < 0 {
			size = 0
		}
		parts, _, err := parseRanges(header, size)
		if err != nil && parts != nil {
			t.Fatalf("%q of %d: %v beside %v", header, size, parts, err)
		}
		var total int64
		specs := make([]string, len(parts))
		for i, r := range parts {
			if r.start < 0 || r.length <= 0 || r.start > size-r.length {
				t.Fatalf("%q of %d: %v lies outside", header, size, r)
			}
			total += r.length
			specs[i] = strings.TrimSuffix(strings.TrimPrefix(r.contentRange(size), "bytes "), "/"+strconv.FormatInt(size, 10))
		}
		if total > size || len(parts) > maxRanges {
			t.Fatalf("%q of %d: %d parts of %d bytes", header, size, len(parts), total)
		}
		again, _, err := parseRanges("bytes="+strings.Join(specs, ","), size)
		if len(parts) > 0 && (err != nil || !slices.Equal(again, parts)) {
			t.Fatalf("%q: %v is read again as %v, %v", header, parts, again, err)
		}
	})
}

func TestParseContentRange(t *testing.T) {
	for _, tt := range []struct {
		header     string
		length     int64
		at, wanted int64
		code       oci.Code
	}{
		{"", 5, -1, 5, ""},
		{"", -1, -1, -1, ""},
		{"0-4", 5, 0, 5, ""},
		{"10-19", -1, 10, 10, ""},
		{"bytes 10-19/*", 10, 10, 10, ""},
		{"bytes 10-19/20", 10, 10, 10, ""},
		{"0-0", 1, 0, 1, ""},
		{"0-4", 6, 0, 0, oci.CodeSizeInvalid},
		{"0-4", 0, 0, 0, oci.CodeSizeInvalid},
		{"5-4", 0, 0, 0, oci.CodeBlobUploadInvalid},
		{"0-", 5, 0, 0, oci.CodeBlobUploadInvalid},
		{"-4", 5, 0, 0, oci.CodeBlobUploadInvalid},
		{"bytes 0-4/x", 5, 0, 0, oci.CodeBlobUploadInvalid},
		{"0-99999999999999999999", -1, 0, 0, oci.CodeBlobUploadInvalid},
		{"99999999999999999999-99999999999999999999", -1, 0, 0, oci.CodeBlobUploadInvalid},
		{"+0-4", 5, 0, 0, oci.CodeBlobUploadInvalid},
		{"chunk", 5, 0, 0, oci.CodeBlobUploadInvalid},
	} {
		at, length, err := parseContentRange(tt.header, tt.length)
		if tt.code != "" {
			if e, ok := err.(*oci.Error); !ok || e.Code != tt.code {
				t.Errorf("parseContentRange(%q, %d): %v, want %s", tt.header, tt.length, err, tt.code)
			}
			continue
		}
		if err != nil || at != tt.at || length != tt.wanted {
			t.Errorf("parseContentRange(%q, %d) = %d, %d, %v, want %d, %d", tt.header, tt.length, at, length, err, tt.at, tt.wanted)
		}
	}
}

func FuzzContentRange(f *testing.F) {
	f.Add("0-4", int64(5))
	f.Add("bytes 0-4/*", int64(-1))
	f.Add("bytes 5-99/100", int64(95))
	f.Fuzz(func(t *testing.T, header string, contentLength int64) {
		if contentLength < -1 {
			contentLength = -1
		}
		at, length, err := parseContentRange(header, contentLength)
		if err != nil {
			return
		}
		if header == "" {
			if at != -1 || length != contentLength {
				t.Fatalf("no header: %d, %d", at, length)
			}
			return
		}
		if at < 0 || length < 1 || at+length < at || contentLength >= 0 && length != contentLength {
			t.Fatalf("%q with length %d: %d, %d", header, contentLength, at, length)
		}
	})
}

func TestEtagMatches(t *testing.T) {
	d := digest.FromString("x")
	for header, want := range map[string]bool{
		"":                           false,
		etag(d):                      true,
		"W/" + etag(d):               true,
		`"other", ` + etag(d):        true,
		`"other",W/"` + d.String():   true, // docker's own registry forgets quotes, clients do too
		d.String():                   true,
		"*":                          true,
		`"other"`:                    false,
		`"` + d.String() + `x"`:      false,
		",,, ":                       false,
		etag(d)[:20]:                 false,
		etag(digest.FromString("y")): false,
	} {
		if got := etagMatches(header, d); got != want {
			t.Errorf("etagMatches(%q) = %v, want %v", header, got, want)
		}
	}
}

func TestParsePage(t *testing.T) {
	for _, tt := range []struct {
		query string
		want  page
		bad   bool
	}{
		{"", page{maxPage, ""}, false},
		{"n=5", page{5, ""}, false},
		{"n=0", page{0, ""}, false},
		{"n=5&last=v1", page{5, "v1"}, false},
		{"last=v1", page{maxPage, "v1"}, false},
		// CVE-2023-2253: a huge n costs as much as a page.
		{"n=1000000000", page{maxPage, ""}, false},
		{"n=99999999999999999999999", page{maxPage, ""}, false},
		{"n=-1", page{}, true},
		{"n=", page{}, true},
		{"n=abc", page{}, true},
		{"n=1.5", page{}, true},
		{"n=%2B5", page{}, true},
		{"last=" + strings.Repeat("a", maxLast+1), page{}, true},
	} {
		q, err := url.ParseQuery(tt.query)
		if err != nil {
			t.Fatal(err)
		}
		got, err := parsePage(q)
		if got != tt.want || (err != nil) != tt.bad {
			t.Errorf("parsePage(%.40q) = %v, %v", tt.query, got, err)
		}
	}
}

// FuzzPage writes a Link and reads it back: a client that follows it gets the
// page behind the one it has, with the other parameters as they were.
func FuzzPage(f *testing.F) {
	f.Add("n=2&last=a", "next")
	f.Add("n=0", "")
	f.Add("artifactType=a%2Fb&n=7", "sha256:00>;\"\r\n")
	f.Fuzz(func(t *testing.T, rawQuery, last string) {
		q, err := url.ParseQuery(rawQuery)
		if err != nil {
			return
		}
		p, err := parsePage(q)
		if err != nil {
			return
		}
		if p.n < 0 || p.n > maxPage || len(p.last) > maxLast {
			t.Fatalf("%q: %v", rawQuery, p)
		}
		if len(last) > maxLast {
			return
		}
		r := httptest.NewRequest("GET", "/v2/team/app/tags/list", nil)
		r.URL.RawQuery = rawQuery
		w := httptest.NewRecorder()
		setNext(w, r, p, last)
		link := w.Header().Get("Link")
		target, ok := strings.CutSuffix(link, `>; rel="next"`)
		if !ok || strings.ContainsAny(target, "\r\n\">") {
			t.Fatalf("Link %q", link)
		}
		u, err := url.Parse(strings.TrimPrefix(target, "<"))
		if err != nil || u.IsAbs() || u.Path != r.URL.Path {
			t.Fatalf("Link %q: %v", link, err)
		}
		again, err := parsePage(u.Query())
		if err != nil || again != (page{p.n, last}) {
			t.Fatalf("Link %q is read as %v, %v", link, again, err)
		}
		for key := range q {
			if key != "n" && key != "last" && u.Query().Get(key) != q.Get(key) {
				t.Fatalf("Link %q lost %q", link, key)
			}
		}
	})
}

func TestUploadRange(t *testing.T) {
	for size, want := range map[int64]string{0: "0-0", 1: "0-0", 2: "0-1", 1 << 40: "0-1099511627775"} {
		if got := uploadRange(size); got != want {
			t.Errorf("uploadRange(%d) = %q, want %q", size, got, want)
		}
	}
}

func TestParseScopes(t *testing.T) {
	for _, tt := range []struct {
		params []string
		want   string
	}{
		{[]string{"repository:a/b:pull,push"}, "repository:a/b:pull,push"},
		{[]string{"repository:a/b:pull repository:c:push"}, "repository:a/b:pull repository:c:push"},
		{[]string{"repository:a/b:pull", "repository:a/b:push"}, "repository:a/b:pull,push"},
		{[]string{"repository(plugin):a:pull"}, "repository(plugin):a:pull"},
		{[]string{"registry:catalog:*"}, "registry:catalog:*"},
		// What is malformed grants nothing; nothing widens it.
		{[]string{""}, ""},
		{[]string{"repository"}, ""},
		{[]string{"repository:a"}, ""},
		{[]string{"repository::pull"}, ""},
		{[]string{"repository:a:"}, ""},
		{[]string{":a:pull"}, ""},
		{[]string{"repository:../etc:pull"}, ""},
		{[]string{"repository:A:pull"}, ""},
		{[]string{"repository:*:pull"}, ""},
		{[]string{"repository:a/*:pull"}, ""},
		{[]string{"Repository:a:pull"}, ""},
		{[]string{"repository(:a:pull"}, ""},
		{[]string{"repository():a:pull"}, ""},
	} {
		got, err := parseScopes(tt.params)
		if err != nil {
			t.Fatal(err)
		}
		var parts []string
		for _, sc := range got {
			kind := sc.kind
			if sc.class != "" {
				kind += "(" + sc.class + ")"
			}
			parts = append(parts, kind+":"+sc.name+":"+strings.Join(sc.actions, ","))
		}
		if s := strings.Join(parts, " "); s != tt.want {
			t.Errorf("parseScopes(%q) = %q, want %q", tt.params, s, tt.want)
		}
	}
	if _, err := parseScopes([]string{strings.Repeat("repository:a:pull ", 101)}); err == nil {
		t.Error("101 scopes were taken")
	}
}

func FuzzScope(f *testing.F) {
	for _, s := range []string{"repository:a/b:pull,push", "repository(plugin):a:*", "registry:catalog:*", "a:b:c:d", "::", "repository:h:5000/x:pull"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		sc, ok := parseScope(text)
		if !ok {
			return
		}
		if !word(sc.kind) || sc.name == "" || len(sc.actions) == 0 || len(sc.actions) > maxScopeActions {
			t.Fatalf("%q: %+v", text, sc)
		}
		if sc.kind == "repository" {
			if _, err := oci.ParseName(sc.name); err != nil {
				t.Fatalf("%q: %+v", text, sc)
			}
		}
		kind := sc.kind
		if sc.class != "" {
			kind += "(" + sc.class + ")"
		}
		if again := kind + ":" + sc.name + ":" + strings.Join(sc.actions, ","); again != text {
			t.Fatalf("%q is written as %q", text, again)
		}
	})
}

// What is read by hand is what the regular expressions of the patterns say.
func FuzzSplitPath(f *testing.F) {
	for _, path := range []string{
		"/v2/a/manifests/latest", "/v2/a/b/manifests/", "/v2/a/manifests/b/manifests/c", "/v2/manifests/x", "/v2//manifests/x",
		"/v2/a/blobs/uploads", "/v2/a/blobs/uploads/", "/v2/a/blobs/uploads//", "/v2/a/blobs/uploads/id", "/v2/a/blobs/uploads/id/", "/v2/a/blobs/sha256:0",
		"/v2/a.b_c__d--e/f/tags/list", "/v2/a_/tags/list", "/v2/a___b/tags/list", "/v2/a-/tags/list", "/v2/-a/tags/list", "/v2/a..b/tags/list", "/v2/A/tags/list", "/v2/a/tags/list/",
		"/v2/a/referrers/sha256:0", "/v2/a/referrers/\n", "/v2/a\n/tags/list", "/v2/\xff/tags/list", "/v2", "/v2/", "", "/v2/a/tags/list\n",
	} {
		f.Add(path)
	}
	byHand, byExpression := map[string]*mux.Route{}, map[string]*mux.Route{}
	for _, pattern := range []string{pathManifest, pathUploads, pathUpload, pathBlob, pathTags, pathReferrers} {
		byHand[pattern], byExpression[pattern] = newRoute(mux.NewRouter().SkipClean(true), pattern), mux.NewRouter().SkipClean(true).Path(pattern)
	}
	f.Fuzz(func(t *testing.T, path string) {
		r := &http.Request{URL: &url.URL{Path: path}}
		for pattern := range byHand {
			var hand, expression mux.RouteMatch
			got, want := byHand[pattern].Match(r, &hand), byExpression[pattern].Match(r, &expression)
			if got != want || want && !maps.Equal(hand.Vars, expression.Vars) {
				t.Errorf("%q as %s: %v %q, want %v %q", path, pattern, got, hand.Vars, want, expression.Vars)
			}
		}
	})
}
