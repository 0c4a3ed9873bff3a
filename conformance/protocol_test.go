package conformance

import (
	"bytes"
	"strings"
	"testing"
)

// TestProtocol holds every endpoint and every MUST of the OCI distribution
// specification against a running server, on all databases and stores. The
// tests' comments name the section of the specification.
func TestProtocol(t *testing.T) {
	for _, v := range Variants() {
		t.Run(v.String(), func(t *testing.T) {
			t.Parallel()
			s := Start(t, v)
			for _, test := range []struct {
				name string
				run  func(*testing.T, *Server)
			}{
				{"support", testSupport},
				{"errors", testErrors},
				{"blob/pull", testBlobPull},
				{"blob/range", testBlobRange},
				{"blob/conditional", testBlobConditional},
				{"blob/post then put", testPostThenPut},
				{"blob/single post", testSinglePost},
				{"blob/chunks", testChunks},
				{"blob/streamed", testStreamed},
				{"blob/out of order", testOutOfOrder},
				{"blob/wrong digest", testWrongDigest},
				{"blob/sha512", testSHA512Blob},
				{"blob/empty", testEmptyBlob},
				{"blob/cancel", testCancel},
				{"blob/interrupted", testInterrupted},
				{"blob/chunk sent again", testChunkSentAgain},
				{"blob/mount", testMount},
				{"blob/delete", testBlobDelete},
				{"manifest/pull", testManifestPull},
				{"manifest/exact bytes", testExactBytes},
				{"manifest/media types", testMediaTypes},
				{"manifest/index", testIndex},
				{"manifest/invalid", testInvalidManifests},
				{"manifest/size", testManifestSize},
				{"manifest/references", testReferences},
				{"manifest/by digest with tags", testTagParameters},
				{"manifest/sha512", testSHA512Manifest},
				{"manifest/delete", testManifestDelete},
				{"manifest/conditional", testManifestConditional},
				{"tags/list", testTagList},
				{"tags/delete", testTagDelete},
				{"tags/policy", testTagPolicy},
				{"referrers", testReferrers},
				{"referrers/filter", testReferrersFilter},
				{"referrers/fallback tag", testReferrersFallback},
				{"referrers/pages", testReferrersPages},
				{"catalog", testCatalog},
			} {
				t.Run(test.name, func(t *testing.T) { test.run(t, s) })
			}
		})
	}
}

// Determining Support (end-1), and the challenge that starts every client's sign-in.
func testSupport(t *testing.T, s *Server) {
	s.Admin(t).Do("GET", "/v2/", nil).Want(200)
	s.Admin(t).Do("HEAD", "/v2/", nil).Want(200)
	challenge := s.Anonymous(t).Do("GET", "/v2/", nil).WantError(401, "UNAUTHORIZED").Header.Get("WWW-Authenticate")
	for _, want := range []string{"Bearer ", `realm="` + s.URL, `service="`} {
		if !strings.Contains(challenge, want) {
			t.Errorf("the challenge is %q, want %q in it", challenge, want)
		}
	}
	s.As(t, "admin", "wrong").Do("GET", "/v2/", nil).WantError(401, "UNAUTHORIZED")
}

// Error Codes. That each error has the form asked for is checked by the client on every answer.
func testErrors(t *testing.T, s *Server) {
	c := s.Admin(t)
	d := sha256Of([]byte("nobody has this"))
	repo := unique("conf/errors")
	c.PushImage(repo, "v1")
	for _, test := range []struct {
		method, path string
		status       int
		code         string
	}{
		{"GET", "/v2/" + repo + "/blobs/" + d, 404, "BLOB_UNKNOWN"},
		{"GET", "/v2/" + repo + "/manifests/none", 404, "MANIFEST_UNKNOWN"},
		{"GET", "/v2/" + repo + "/manifests/" + d, 404, "MANIFEST_UNKNOWN"},
		{"GET", "/v2/" + unique("conf/none") + "/tags/list", 404, "NAME_UNKNOWN"},
		{"GET", "/v2/" + repo + "/blobs/sha256:short", 400, "DIGEST_INVALID"},
		{"GET", "/v2/" + repo + "/blobs/md5:d41d8cd98f00b204e9800998ecf8427e", 400, "DIGEST_INVALID"},
		{"GET", "/v2/" + repo + "/manifests/sha256:short", 400, "DIGEST_INVALID"},
		{"GET", "/v2/" + repo + "/manifests/" + strings.Repeat("a", 129), 400, "TAG_INVALID"},
		{"GET", "/v2/" + repo + "/manifests/-dash", 400, "TAG_INVALID"},
		{"GET", "/v2/Conf/Upper/tags/list", 400, "NAME_INVALID"},
		{"GET", "/v2/conf/a..b/tags/list", 400, "NAME_INVALID"},
		{"GET", "/v2/conf/" + strings.Repeat("a", 256) + "/tags/list", 400, "NAME_INVALID"},
		{"POST", "/v2/Conf/Upper/blobs/uploads/", 400, "NAME_INVALID"},
		{"PUT", "/v2/" + repo + "/tags/list", 405, "UNSUPPORTED"},
		{"POST", "/v2/" + repo + "/manifests/v1", 405, "UNSUPPORTED"},
		{"GET", "/v2/" + repo + "/nonsense", 404, ""},
	} {
		r := c.Do(test.method, test.path, nil)
		if test.code == "" {
			r.Want(test.status)
		} else {
			r.WantError(test.status, test.code)
		}
		if r.Status == 405 && r.Header.Get("Allow") == "" {
			t.Errorf("%s %s: 405 without Allow (RFC 9110, 15.5.6)", test.method, test.path)
		}
	}
	// Pushing Manifests: an attempt to pull a nonexistent repository MUST return 404.
	for _, path := range []string{"/manifests/latest", "/manifests/" + d, "/blobs/" + d} {
		c.Do("GET", "/v2/"+unique("conf/none")+path, nil).Want(404)
		c.Do("HEAD", "/v2/"+unique("conf/none")+path, nil).Want(404)
	}
}

// Pulling blobs (end-2), Checking if content exists.
func testBlobPull(t *testing.T, s *Server) {
	c := s.Admin(t)
	repo := unique("conf/pull")
	content := random(100_000)
	d := c.PushBlob(repo, content)
	c.Do("GET", "/v2/"+repo+"/blobs/"+d, nil).Want(200).WantBody(content).
		WantHeader("Docker-Content-Digest", d).WantHeader("Content-Length", "100000").
		WantHeader("Content-Type", "application/octet-stream").WantHeader("Accept-Ranges", "bytes")
	c.Do("HEAD", "/v2/"+repo+"/blobs/"+d, nil).Want(200).
		WantHeader("Docker-Content-Digest", d).WantHeader("Content-Length", "100000")
	// Registry Proxying: the ns parameter may be ignored, not refused.
	c.Do("GET", "/v2/"+repo+"/blobs/"+d+"?ns=docker.io", nil).Want(200).WantBody(content)
	missing := sha256Of([]byte("missing"))
	c.Do("GET", "/v2/"+repo+"/blobs/"+missing, nil).WantError(404, "BLOB_UNKNOWN")
	c.Do("HEAD", "/v2/"+repo+"/blobs/"+missing, nil).Want(404)
	// A blob of one repository is not one of another.
	c.PushBlob(repo+"-other", []byte("other"))
	c.Do("GET", "/v2/"+repo+"-other/blobs/"+d, nil).WantError(404, "BLOB_UNKNOWN")
}

// Pulling blobs: Range as RFC 9110, section 14.
func testBlobRange(t *testing.T, s *Server) {
	c := s.Admin(t)
	repo := unique("conf/range")
	content := random(1000)
	path := "/v2/" + repo + "/blobs/" + c.PushBlob(repo, content)
	for _, test := range []struct {
		ask, got string
		body     []byte
	}{
		{"bytes=0-0", "bytes 0-0/1000", content[:1]},
		{"bytes=10-19", "bytes 10-19/1000", content[10:20]},
		{"bytes=500-", "bytes 500-999/1000", content[500:]},
		{"bytes=0-", "bytes 0-999/1000", content},
		{"bytes=990-5000", "bytes 990-999/1000", content[990:]},
		{"bytes=-10", "bytes 990-999/1000", content[990:]},
	} {
		r := c.Do("GET", path, nil, "Range: "+test.ask).Want(206).WantBody(test.body).WantHeader("Content-Range", test.got)
		if r.Header.Get("Docker-Content-Digest") == "" {
			t.Errorf("%s: 206 without Docker-Content-Digest", test.ask)
		}
	}
	c.Do("GET", path, nil, "Range: bytes=1000-").WantError(416, "RANGE_INVALID").WantHeader("Content-Range", "bytes */1000")
	// A unit or a syntax that is not understood is ignored (RFC 9110, 14.2).
	c.Do("GET", path, nil, "Range: lines=1-2").Want(200).WantBody(content)
	// HEAD has no body to take a part of (RFC 9110, 14.2).
	c.Do("HEAD", path, nil).Want(200).WantHeader("Content-Length", "1000")
}

func testBlobConditional(t *testing.T, s *Server) {
	c := s.Admin(t)
	repo := unique("conf/conditional")
	path := "/v2/" + repo + "/blobs/" + c.PushBlob(repo, random(1000))
	etag := c.Do("GET", path, nil).Want(200).Header.Get("ETag")
	if etag == "" {
		t.Fatal("a blob has no ETag")
	}
	for _, method := range []string{"GET", "HEAD"} {
		if r := c.Do(method, path, nil, "If-None-Match: "+etag).Want(304); len(r.Body) != 0 {
			t.Errorf("304 with a body of %d bytes", len(r.Body))
		}
		c.Do(method, path, nil, `If-None-Match: "another"`).Want(200)
	}
}

// Pushing a blob monolithically, POST then PUT (end-4a, end-6).
func testPostThenPut(t *testing.T, s *Server) {
	c := s.Admin(t)
	repo := unique("conf/postput")
	content := random(70_000)
	d := sha256Of(content)
	for range 2 { // the second time the registry has it, which is no error
		loc := c.StartUpload(repo)
		r := c.Do("PUT", with(loc, "digest="+d), content, "Content-Type: application/octet-stream").Want(201).
			WantHeader("Docker-Content-Digest", d)
		c.Do("GET", r.Location(c), nil).Want(200).WantBody(content)
		// The session is closed.
		c.Do("GET", loc, nil).WantError(404, "BLOB_UPLOAD_UNKNOWN")
		c.Do("PUT", with(loc, "digest="+sha256Of([]byte("another"))), content).WantError(404, "BLOB_UPLOAD_UNKNOWN")
		// A client that did not get the answer may send the same PUT again: the blob is there.
		c.Do("PUT", with(loc, "digest="+d), content).Want(201)
	}
	// A body without a length, as HTTP/1.1 chunked.
	loc := c.StartUpload(repo)
	content = random(200_000)
	c.Stream("PUT", with(loc, "digest="+sha256Of(content)), bytes.NewReader(content), -1).Want(201)
	c.Do("GET", "/v2/"+repo+"/blobs/"+sha256Of(content), nil).Want(200).WantBody(content)
	// The digest is needed.
	loc = c.StartUpload(repo)
	c.Do("PUT", loc, content).WantError(400, "DIGEST_INVALID")
}

// Single POST (end-4b).
func testSinglePost(t *testing.T, s *Server) {
	c := s.Admin(t)
	repo := unique("conf/single")
	content := random(5000)
	d := sha256Of(content)
	r := c.Do("POST", "/v2/"+repo+"/blobs/uploads/?digest="+d, content, "Content-Type: application/octet-stream").Want(201)
	c.Do("GET", r.Location(c), nil).Want(200).WantBody(content).WantHeader("Docker-Content-Digest", d)
	other := sha256Of([]byte("other"))
	c.Do("POST", "/v2/"+repo+"/blobs/uploads/?digest="+other, content).WantError(400, "DIGEST_INVALID")
	c.Do("HEAD", "/v2/"+repo+"/blobs/"+other, nil).Want(404)
	c.Do("POST", "/v2/"+repo+"/blobs/uploads/?digest=sha256:zz", content).WantError(400, "DIGEST_INVALID")
}
