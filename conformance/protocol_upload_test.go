package conformance

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// upload pushes content in chunks of the size and gives the session's URL
// before the closing PUT. It asserts what the specification says of each step.
func upload(t *testing.T, c *Client, repo string, content []byte, chunk int, query ...string) string {
	t.Helper()
	loc := c.StartUpload(repo, query...)
	for at := 0; at < len(content); at += chunk {
		end := min(at+chunk, len(content))
		r := c.Do("PATCH", loc, content[at:end], "Content-Type: application/octet-stream",
			fmt.Sprintf("Content-Range: %d-%d", at, end-1)).Want(202).WantHeader("Range", fmt.Sprintf("0-%d", end-1))
		loc = r.Location(c)
		// Get the status (end-13).
		loc = c.Do("GET", loc, nil).Want(204).WantHeader("Range", fmt.Sprintf("0-%d", end-1)).Location(c)
	}
	return loc
}

// Pushing a blob in chunks (end-5, end-6, end-13).
func testChunks(t *testing.T, s *Server) {
	c := s.Admin(t)
	repo := unique("conf/chunks")
	for _, size := range []int{1, 1000, 70_000} {
		content := random(size*3 + size/2)
		loc := upload(t, c, repo, content, size)
		d := sha256Of(content)
		r := c.Do("PUT", with(loc, "digest="+d), nil).Want(201).WantHeader("Docker-Content-Digest", d)
		c.Do("GET", r.Location(c), nil).Want(200).WantBody(content)
	}
	// The final chunk may come with the closing PUT.
	content := random(5000)
	d := sha256Of(content)
	loc := upload(t, c, repo, content[:3000], 3000)
	c.Do("PUT", with(loc, "digest="+d), content[3000:], "Content-Type: application/octet-stream", "Content-Range: 3000-4999").Want(201)
	c.Do("GET", "/v2/"+repo+"/blobs/"+d, nil).Want(200).WantBody(content)

	// Chunks whose parts have to be joined to reach a store's least part size.
	content = random(6<<20 + 7)
	d = sha256Of(content)
	loc = upload(t, c, repo, content, 2<<20)
	c.Do("PUT", with(loc, "digest="+d), nil).Want(201)
	c.Do("GET", "/v2/"+repo+"/blobs/"+d, nil).Want(200).WantBody(content)
}

// A PATCH without Content-Range streams the whole blob, as docker does; what
// follows is added at the end.
func testStreamed(t *testing.T, s *Server) {
	c := s.Admin(t)
	repo := unique("conf/streamed")
	content := random(300_000)
	d := sha256Of(content)
	loc := c.StartUpload(repo)
	for _, part := range [][]byte{content[:100_000], content[100_000:]} {
		r := c.Stream("PATCH", loc, bytes.NewReader(part), -1, "Content-Type: application/octet-stream").Want(202)
		loc = r.Location(c)
	}
	c.Do("PUT", with(loc, "digest="+d), nil).Want(201)
	c.Do("GET", "/v2/"+repo+"/blobs/"+d, nil).Want(200).WantBody(content)
}

// Chunks MUST be uploaded in order; one that is not gets a 416 that tells
// where to go on, and the session lives.
func testOutOfOrder(t *testing.T, s *Server) {
	c := s.Admin(t)
	repo := unique("conf/order")
	content := random(3000)
	d := sha256Of(content)
	loc := c.StartUpload(repo)
	c.Do("PATCH", loc, content[1000:2000], "Content-Range: 1000-1999").WantError(416, "RANGE_INVALID")
	loc = c.Do("PATCH", loc, content[:1000], "Content-Range: 0-999").Want(202).Location(c)
	for _, wrong := range []string{"0-999", "2000-2999", "999-1998"} {
		c.Do("PATCH", loc, content[:1000], "Content-Range: "+wrong).WantError(416, "RANGE_INVALID").WantHeader("Range", "0-999")
	}
	c.Do("PUT", with(loc, "digest="+d), content[2000:], "Content-Range: 2000-2999").WantError(416, "RANGE_INVALID").WantHeader("Range", "0-999")
	// A range that disagrees with the length of the body, or has no form.
	for _, wrong := range []string{"1000-1500", "1000", "bytes=1000-1999", "1999-1000", "a-b"} {
		if r := c.Do("PATCH", loc, content[1000:2000], "Content-Range: "+wrong); r.Status != 400 && r.Status != 416 {
			t.Errorf("Content-Range %q on 1000 bytes: status %d, want 400 or 416", wrong, r.Status)
		}
	}
	loc = c.Do("GET", loc, nil).Want(204).WantHeader("Range", "0-999").Location(c)
	loc = c.Do("PATCH", loc, content[1000:], "Content-Range: 1000-2999").Want(202).Location(c)
	c.Do("PUT", with(loc, "digest="+d), nil).Want(201)
	c.Do("GET", "/v2/"+repo+"/blobs/"+d, nil).Want(200).WantBody(content)
}

// A digest that is malformed, of an unknown algorithm, or not that of the bytes.
func testWrongDigest(t *testing.T, s *Server) {
	c := s.Admin(t)
	repo := unique("conf/wrong")
	content := random(2000)
	other := sha256Of([]byte("something else"))
	for _, d := range []string{other, sha512Of([]byte("something else")), "sha256:12", "md5:d41d8cd98f00b204e9800998ecf8427e", "nothing", ""} {
		loc := c.StartUpload(repo)
		c.Do("PUT", with(loc, "digest="+d), content).WantError(400, "DIGEST_INVALID")
		loc = upload(t, c, repo, content, 1500)
		c.Do("PUT", with(loc, "digest="+d), nil).WantError(400, "DIGEST_INVALID")
	}
	c.Do("HEAD", "/v2/"+repo+"/blobs/"+other, nil).Want(404)
	c.Do("HEAD", "/v2/"+repo+"/blobs/"+sha256Of(content), nil).Want(404)
	c.Do("POST", "/v2/"+repo+"/blobs/uploads/?digest-algorithm=md5", nil).WantError(400, "DIGEST_INVALID")
	// Session ids that are not: unknown, malformed, of another repository.
	loc := c.StartUpload(repo)
	id := loc[strings.LastIndex(loc, "/")+1:]
	id, _, _ = strings.Cut(id, "?")
	for _, path := range []string{
		"/v2/" + repo + "/blobs/uploads/00000000-0000-0000-0000-000000000000",
		"/v2/" + repo + "/blobs/uploads/nonsense",
		"/v2/" + repo + "-other/blobs/uploads/" + id,
	} {
		c.Do("PATCH", path, content).WantError(404, "BLOB_UPLOAD_UNKNOWN")
		c.Do("GET", path, nil).WantError(404, "BLOB_UPLOAD_UNKNOWN")
		c.Do("PUT", path+"?digest="+sha256Of(content), content).WantError(404, "BLOB_UPLOAD_UNKNOWN")
		c.Do("DELETE", path, nil).WantError(404, "BLOB_UPLOAD_UNKNOWN")
	}
}

// sha512 as an equal (end-4c): announced on the POST, or not before the PUT.
func testSHA512Blob(t *testing.T, s *Server) {
	c := s.Admin(t)
	repo := unique("conf/sha512")
	for _, query := range [][]string{{"digest-algorithm=sha512"}, nil} {
		content := random(4000)
		d := sha512Of(content)
		loc := upload(t, c, repo, content, 1500, query...)
		r := c.Do("PUT", with(loc, "digest="+d), nil).Want(201).WantHeader("Docker-Content-Digest", d)
		c.Do("GET", r.Location(c), nil).Want(200).WantBody(content).WantHeader("Docker-Content-Digest", d)
		c.Do("HEAD", "/v2/"+repo+"/blobs/"+d, nil).Want(200).WantHeader("Docker-Content-Digest", d)
	}
	content := random(4000)
	c.Do("POST", "/v2/"+repo+"/blobs/uploads/?digest="+sha512Of(content), content).Want(201)
	c.Do("GET", "/v2/"+repo+"/blobs/"+sha512Of(content), nil).Want(200).WantBody(content)
}

func testEmptyBlob(t *testing.T, s *Server) {
	c := s.Admin(t)
	repo := unique("conf/empty")
	d := sha256Of(nil)
	loc := c.StartUpload(repo)
	c.Do("PUT", with(loc, "digest="+d), nil).Want(201)
	c.Do("GET", "/v2/"+repo+"/blobs/"+d, nil).Want(200).WantBody(nil).WantHeader("Docker-Content-Digest", d)
	c.Do("HEAD", "/v2/"+repo+"/blobs/"+d, nil).Want(200).WantHeader("Content-Length", "0")
}

// Cancel a blob upload (end-14).
func testCancel(t *testing.T, s *Server) {
	c := s.Admin(t)
	repo := unique("conf/cancel")
	for _, content := range [][]byte{nil, random(1000)} {
		loc := upload(t, c, repo, content, 500)
		c.Do("DELETE", loc, nil).Want(204)
		c.Do("GET", loc, nil).WantError(404, "BLOB_UPLOAD_UNKNOWN")
		c.Do("DELETE", loc, nil).WantError(404, "BLOB_UPLOAD_UNKNOWN")
		c.Do("PUT", with(loc, "digest="+sha256Of(content)), nil).WantError(404, "BLOB_UPLOAD_UNKNOWN")
	}
}

// Resumable Push: the client's connection breaks in the middle of a PATCH; it
// asks where it stands and sends the rest.
func testInterrupted(t *testing.T, s *Server) {
	c := s.Admin(t)
	repo := unique("conf/interrupted")
	content := random(3 << 20)
	loc := c.StartUpload(repo)
	loc = c.Do("PATCH", loc, content[:1<<20], "Content-Range: "+fmt.Sprintf("0-%d", 1<<20-1)).Want(202).Location(c)

	ctx, cancel := context.WithCancel(context.Background())
	body, feed := io.Pipe()
	go func() {
		_, _ = feed.Write(content[1<<20 : 2<<20])
		time.Sleep(300 * time.Millisecond) // let the server take it
		cancel()
		feed.CloseWithError(context.Canceled)
	}()
	req, err := http.NewRequestWithContext(ctx, "PATCH", loc, body)
	if err != nil {
		t.Fatal(err)
	}
	req.ContentLength = 2 << 20
	req.Header.Set("Content-Range", fmt.Sprintf("%d-%d", 1<<20, 3<<20-1))
	req.SetBasicAuth("admin", AdminPassword)
	if res, err := insecure.Do(req); err == nil {
		res.Body.Close()
		t.Fatalf("the broken PATCH got an answer: %s", res.Status)
	}

	have := resumePoint(t, c, loc)
	if have < 1<<20 || have > 2<<20 {
		t.Fatalf("after the break the server has %d bytes, want %d to %d", have, 1<<20, 2<<20)
	}
	t.Logf("resumed at byte %d of %d", have, len(content))
	loc = c.Do("PATCH", loc, content[have:], fmt.Sprintf("Content-Range: %d-%d", have, len(content)-1)).Want(202).Location(c)
	d := sha256Of(content)
	c.Do("PUT", with(loc, "digest="+d), nil).Want(201)
	c.Do("GET", "/v2/"+repo+"/blobs/"+d, nil).Want(200).WantBody(content)
}

// A client whose connection died in the middle of a chunk, which the server does not know, sends the chunk again in
// another one. It is taken, or told how far the upload is, and goes on from there at once, as regctl does.
func testChunkSentAgain(t *testing.T, s *Server) {
	c := s.Admin(t)
	repo := unique("conf/again")
	content := random(3 << 19)
	const chunk = 1 << 20
	loc := c.StartUpload(repo)
	where := "Content-Range: " + fmt.Sprintf("0-%d", chunk-1)
	body, feed := io.Pipe()
	// The server asks for the body when it is the request's turn to write to the upload.
	turn := make(chan struct{})
	trace := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{Got100Continue: sync.OnceFunc(func() { close(turn) })})
	target, err := url.Parse(s.URL)
	if err == nil {
		target, err = target.Parse(loc)
	}
	if err != nil {
		t.Fatal(err)
	}
	dying, err := http.NewRequestWithContext(trace, "PATCH", target.String(), body)
	if err != nil {
		t.Fatal(err)
	}
	dying.ContentLength = chunk
	dying.Header.Set("Content-Range", fmt.Sprintf("0-%d", chunk-1))
	dying.Header.Set("Expect", "100-continue")
	dying.SetBasicAuth("admin", AdminPassword)
	ended := make(chan int, 1)
	go func() {
		res, err := insecure.Do(dying)
		if err != nil { // the server may as well hang up
			ended <- 0
			return
		}
		res.Body.Close()
		ended <- res.StatusCode
	}()
	if _, err := feed.Write(content[:chunk-1]); err != nil {
		t.Fatal(err)
	}
	select {
	case <-turn:
	case <-time.After(time.Minute):
		t.Fatal("the server has not asked for the body in a minute")
	}
	again := c.Do("PATCH", loc, content[:chunk], where)
	size := chunk
	if again.Status == 202 { // nothing of the first one had been read
		again.WantHeader("Range", fmt.Sprintf("0-%d", chunk-1))
	} else {
		again.WantError(416, "RANGE_INVALID")
		var last int
		if _, err := fmt.Sscanf(again.Header.Get("Range"), "0-%d", &last); err != nil || last >= chunk-1 {
			t.Fatalf("the upload has the range %q, %v", again.Header.Get("Range"), err)
		}
		size = last + 1
	}
	feed.Close()
	if status := <-ended; status != 0 && status != 400 {
		t.Errorf("the request that was ended is answered with %d, want 400 or nothing", status)
	}
	loc = c.Do("PATCH", again.Location(c), content[size:], "Content-Range: "+fmt.Sprintf("%d-%d", size, len(content)-1)).Want(202).Location(c)
	d := sha256Of(content)
	c.Do("PUT", with(loc, "digest="+d), nil).Want(201)
	c.Do("GET", "/v2/"+repo+"/blobs/"+d, nil).Want(200).WantBody(content)
}

// resumePoint asks for the status of an upload until it has been the same for two seconds, as
// the server may still be taking in what a broken connection had sent, and
// gives the number of bytes there.
func resumePoint(t testing.TB, c *Client, loc string) int {
	t.Helper()
	last, same := -1, time.Now()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(200 * time.Millisecond) {
		r := c.Do("GET", loc, nil).Want(204)
		have := 0
		if v := r.Header.Get("Range"); v != "" && v != "0--1" {
			_, end, ok := strings.Cut(v, "-")
			n, err := strconv.Atoi(end)
			if !ok || err != nil {
				t.Fatalf("Range %q is not 0-<end>", v)
			}
			have = n + 1
		}
		if have != last {
			last, same = have, time.Now()
		} else if time.Since(same) > 2*time.Second {
			return have
		}
	}
	t.Fatal("the size of an upload that nobody writes to keeps changing")
	return 0
}

// Mounting a blob from another repository (end-11).
func testMount(t *testing.T, s *Server) {
	c := s.Admin(t)
	from, to, third := unique("conf/from"), unique("conf/to"), unique("conf/third")
	content := random(2000)
	d := c.PushBlob(from, content)
	r := c.Do("POST", "/v2/"+to+"/blobs/uploads/?mount="+d+"&from="+from, nil).Want(201).WantHeader("Docker-Content-Digest", d)
	c.Do("GET", r.Location(c), nil).Want(200).WantBody(content)
	// from is optional: the registry may find the blob itself, and this one does.
	r = c.Do("POST", "/v2/"+third+"/blobs/uploads/?mount="+d, nil).Want(201)
	c.Do("GET", r.Location(c), nil).Want(200).WantBody(content)
	// What cannot be mounted starts an upload session.
	other := random(500)
	for _, query := range []string{"?mount=" + sha256Of(other) + "&from=" + from, "?mount=" + sha256Of(other), "?mount=" + sha256Of(other) + "&from=" + unique("conf/none")} {
		loc := c.Do("POST", "/v2/"+to+"/blobs/uploads/"+query, nil).Want(202).Location(c)
		c.Do("DELETE", loc, nil).Want(204)
	}
	loc := c.Do("POST", "/v2/"+to+"/blobs/uploads/?mount="+sha256Of(other)+"&from="+from, nil).Want(202).Location(c)
	c.Do("PUT", with(loc, "digest="+sha256Of(other)), other).Want(201)
	c.Do("POST", "/v2/"+to+"/blobs/uploads/?mount=sha256:short&from="+from, nil).Want(202)
}

// Deleting Blobs (end-10).
func testBlobDelete(t *testing.T, s *Server) {
	c := s.Admin(t)
	repo, other := unique("conf/delete"), unique("conf/delete-other")
	content := random(1000)
	d := c.PushBlob(repo, content)
	c.PushBlob(other, content)
	c.Do("DELETE", "/v2/"+repo+"/blobs/"+d, nil).Want(202)
	c.Do("GET", "/v2/"+repo+"/blobs/"+d, nil).WantError(404, "BLOB_UNKNOWN")
	c.Do("DELETE", "/v2/"+repo+"/blobs/"+d, nil).WantError(404, "BLOB_UNKNOWN")
	c.Do("GET", "/v2/"+other+"/blobs/"+d, nil).Want(200).WantBody(content)
	// It can come back.
	c.PushBlob(repo, content)
	c.Do("GET", "/v2/"+repo+"/blobs/"+d, nil).Want(200).WantBody(content)
	// A blob that a manifest needs stays.
	m := c.MakeImage(repo, 1)
	c.PushManifest(repo, "v1", typeManifest, m.Bytes())
	c.Do("DELETE", "/v2/"+repo+"/blobs/"+m.Layers[0].Digest, nil).WantError(409, "CONFLICT")
	c.Do("GET", "/v2/"+repo+"/blobs/"+m.Layers[0].Digest, nil).Want(200)
}
