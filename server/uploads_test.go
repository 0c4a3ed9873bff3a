package server

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"berth/metadata"
)

// begin starts an upload and gives its location.
func (w *world) begin(as, repo string) string {
	w.t.Helper()
	r := w.do("POST", "/v2/"+repo+"/blobs/uploads/", as, nil).want(w.t, http.StatusAccepted)
	location := r.Header.Get("Location")
	if !strings.HasPrefix(location, "/v2/"+repo+"/blobs/uploads/") || !strings.HasSuffix(location, r.Header.Get("Docker-Upload-UUID")) || r.Header.Get("Range") != "0-0" {
		w.t.Fatalf("headers: %v", r.Header)
	}
	return location
}

func TestUploadInChunks(t *testing.T) {
	w := small(t, nil)
	content := []byte("0123456789abcdef")
	d := digest.FromBytes(content)
	location := w.begin("mo", "team/app")

	state := func(r reply, status int, rng string) {
		t.Helper()
		r.want(t, status)
		if r.Header.Get("Range") != rng || r.Header.Get("Location") != location || r.Header.Get("Docker-Upload-UUID") == "" {
			t.Errorf("Range %q, Location %q, want %q, %q", r.Header.Get("Range"), r.Header.Get("Location"), rng, location)
		}
	}
	chunk := func(method, path, contentRange, body string) reply {
		return w.do(method, path, "mo", strings.NewReader(body), "Content-Range", contentRange)
	}
	state(chunk("PATCH", location, "0-3", "0123"), 202, "0-3")
	state(chunk("PATCH", location, "bytes 4-5/*", "45"), 202, "0-5")
	// Out of order, twice the same, and a gap: nothing is taken, and the answer says where to go on.
	for _, bad := range []string{"0-3", "4-7", "8-11"} {
		state(chunk("PATCH", location, bad, "xxxx"), 416, "0-5")
	}
	state(chunk("PUT", location+"?digest="+d.String(), "0-3", "xxxx"), 416, "0-5")
	// Lengths that contradict each other, and ranges that are none.
	state(chunk("PATCH", location, "6-9", "xxx"), 400, "0-5")
	state(chunk("PATCH", location, "six-nine", "xxxx"), 400, "0-5")
	state(w.do("GET", location, "mo", nil), 204, "0-5")
	// Chunked transfer encoding, with and without Content-Range.
	state(w.do("PATCH", location, "mo", io.MultiReader(strings.NewReader("67")), "Content-Range", "6-7"), 202, "0-7")
	state(w.do("PATCH", location, "mo", io.MultiReader(strings.NewReader("89"))), 202, "0-9")
	state(w.do("PATCH", location, "mo", strings.NewReader("ab")), 202, "0-11")
	r := w.do("PUT", location+"?digest="+d.String(), "mo", strings.NewReader("cdef"), "Content-Range", "12-15").want(t, http.StatusCreated)
	if r.Header.Get("Location") != "/v2/team/app/blobs/"+d.String() || r.Header.Get("Docker-Content-Digest") != d.String() {
		t.Errorf("headers: %v", r.Header)
	}
	if got := w.do("GET", r.Header.Get("Location"), "mo", nil).want(t, 200); !bytes.Equal(got.body, content) {
		t.Errorf("blob: %q", got.body)
	}
	w.do("GET", location, "mo", nil).want(t, http.StatusNotFound)
	w.do("PATCH", location, "mo", strings.NewReader("x")).want(t, http.StatusNotFound)
}

func TestUploadEnds(t *testing.T) {
	w := small(t, nil)
	right := digest.FromString("right")
	// A digest that is not the content's.
	location := w.begin("mo", "team/app")
	if r := w.do("PUT", location+"?digest="+right.String(), "mo", strings.NewReader("wrong")).want(t, 400); r.code() != "DIGEST_INVALID" {
		t.Errorf("%s", r.body)
	}
	w.do("HEAD", "/v2/team/app/blobs/"+right.String(), "mo", nil).want(t, 404)
	// No digest, or none that we know.
	location = w.begin("mo", "team/app")
	w.do("PUT", location, "mo", strings.NewReader("right")).want(t, 400)
	w.do("PUT", location+"?digest=md5:00", "mo", strings.NewReader("right")).want(t, 400)
	w.do("PUT", location+"?digest="+right.String(), "mo", strings.NewReader("right")).want(t, 201)
	// Cancelled.
	location = w.begin("mo", "team/app")
	w.do("PATCH", location, "mo", strings.NewReader("x")).want(t, 202)
	w.do("DELETE", location, "mo", nil).want(t, 204)
	w.do("GET", location, "mo", nil).want(t, 404)
	w.do("DELETE", location, "mo", nil).want(t, 404)
	// One request; sha512; the empty blob; an algorithm announced.
	sha512 := digest.SHA512.FromString("right")
	w.do("POST", "/v2/team/app/blobs/uploads/?digest="+sha512.String(), "mo", strings.NewReader("right")).want(t, 201)
	w.do("POST", "/v2/team/app/blobs/uploads/?digest="+sha512.String(), "mo", strings.NewReader("wrong")).want(t, 400)
	w.do("POST", "/v2/team/app/blobs/uploads/?digest="+digest.FromString("").String(), "mo", nil).want(t, 201)
	r := w.do("POST", "/v2/team/app/blobs/uploads/?digest-algorithm=sha512", "mo", nil).want(t, 202)
	w.do("PUT", r.Header.Get("Location")+"?digest="+sha512.String(), "mo", strings.NewReader("right")).want(t, 201)
	w.do("POST", "/v2/team/app/blobs/uploads/?digest-algorithm=md5", "mo", nil).want(t, 400)
	w.do("POST", "/v2/team/app/blobs/uploads/?mount=sha256:xyz", "mo", nil).want(t, 202)                     // the client uploads then
	w.do("POST", "/v2/team/app/blobs/uploads/?mount="+right.String()+"&from=../etc", "mo", nil).want(t, 202) // the client uploads then
}

// TestStalledClient: a client may take as long as it needs, but one that falls
// silent is given up; what it sent is kept.
func TestStalledClient(t *testing.T) {
	const stall = 1500 * time.Millisecond
	w := small(t, func(_ *world, o *Options) { o.StallTimeout = stall })
	location := w.begin("mo", "team/app")
	jwt := strings.TrimPrefix(w.jwt("mo", "repository:team/app:pull,push"), "jwt:")

	conn, err := net.Dial("tcp", w.http.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "PATCH %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Length: 100\r\n\r\n", location, jwt)
	began := time.Now()
	for range 4 { // slow, but for longer than the deadline not silent
		time.Sleep(stall / 2)
		if _, err := conn.Write([]byte("0123456789")); err != nil {
			t.Fatalf("a slow client was cut off after %s: %v", time.Since(began), err)
		}
	}
	if err := conn.SetReadDeadline(began.Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(conn); err != nil { // the server closes
		t.Logf("reading: %v", err)
	}
	if took := time.Since(began); took < 2*stall || took > 30*time.Second {
		t.Errorf("the silent client was given up after %s", took)
	}
	r := w.do("GET", location, "mo", nil).want(t, 204)
	if r.Header.Get("Range") != "0-39" {
		t.Errorf("kept: %s, want 0-39", r.Header.Get("Range"))
	}
	// The connection of another client outlives a deadline between its requests.
	d := digest.FromString(strings.Repeat("0123456789", 4) + "x")
	w.do("PATCH", location, "mo", strings.NewReader("x"), "Content-Range", "40-40").want(t, 202)
	time.Sleep(stall + stall/2)
	w.do("PUT", location+"?digest="+d.String(), "mo", nil).want(t, 201)
}

// TestClientThatDoesNotRead: who asks for answers and takes none of them is given up, so
// that what holds them is free again. Slower than others is not given up.
func TestClientThatDoesNotRead(t *testing.T) {
	const stall = time.Second
	w := small(t, func(_ *world, o *Options) { o.StallTimeout = stall })
	config, layer := []byte("{}"), []byte("layer")
	w.pushBlob("mo", "team/app", config)
	w.pushBlob("mo", "team/app", layer)
	large := image(config, layer, `,"x":"`+strings.Repeat("x", 3<<20)+`"`)
	w.do("PUT", "/v2/team/app/manifests/1.0", "mo", bytes.NewReader(large), "Content-Type", imageManifest).want(t, 201)
	jwt := strings.TrimPrefix(w.jwt("mo", "repository:team/app:pull"), "jwt:")

	conn, err := net.Dial("tcp", w.http.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.(*net.TCPConn).SetReadBuffer(4 << 10); err != nil {
		t.Fatal(err)
	}
	// More than the buffers of both ends take.
	const asked = 10
	request := "GET /v2/team/app/manifests/1.0 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + jwt + "\r\n\r\n"
	if _, err := io.WriteString(conn, strings.Repeat(request, asked)); err != nil {
		t.Fatal(err)
	}
	// The first of them that does not fit any more is given up.
	for end := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		logged := w.log.String()
		if strings.Contains(logged, "manifests/1.0") && strings.Contains(logged, "i/o timeout") {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the server waits for ever")
		}
	}
	// All that comes now was in the buffers, and then the server has closed.
	if err := conn.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	n, err := io.Copy(io.Discard, conn)
	if isTimeout(err) {
		t.Fatal("the server holds the connection")
	}
	if n >= asked*int64(len(large)) {
		t.Errorf("the client got all %d bytes: the test needs more than the buffers take", n)
	}

	// A deadline that has passed since the last answer on a connection is not the next one's.
	if conn, err = net.Dial("tcp", w.http.Listener.Addr().String()); err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	answers := bufio.NewReader(conn)
	for range 2 {
		fmt.Fprint(conn, request)
		r, err := http.ReadResponse(answers, nil)
		if err != nil {
			t.Fatal(err)
		}
		if n, err := io.Copy(io.Discard, r.Body); n != int64(len(large)) {
			t.Fatalf("%d bytes: %v", n, err)
		}
		time.Sleep(2*stall + stall/2) // as long as a deadline can be, and more
	}
}

// TestRefusedBody: a client that is refused before its body is read, and then
// sends nothing, does not hold its connection.
func TestRefusedBody(t *testing.T) {
	w := small(t, func(_ *world, o *Options) { o.StallTimeout = time.Second })
	conn, err := net.Dial("tcp", w.http.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "PUT /v2/team/app/manifests/1.0 HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n")
	if err := conn.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	raw, err := io.ReadAll(conn)
	if err != nil || !bytes.HasPrefix(raw, []byte("HTTP/1.1 401 ")) {
		t.Errorf("%v: %.100q", err, raw)
	}
}

// TestManifestLimits is CVE-2017-11468: a manifest's size is bounded while it
// is read, announced or not. And CVE-2021-41190: a body that is both a manifest and an index.
func TestManifestLimits(t *testing.T) {
	w := small(t, func(w *world, _ *Options) { w.options.MaxManifestSize = 1000 })
	path := "/v2/team/app/manifests/1.0"
	big := bytes.Repeat([]byte(" "), 1001)
	for _, body := range []io.Reader{bytes.NewReader(big), io.MultiReader(bytes.NewReader(big))} {
		if r := w.do("PUT", path, "mo", body, "Content-Type", imageManifest).want(t, http.StatusRequestEntityTooLarge); r.code() != "MANIFEST_TOO_LARGE" {
			t.Errorf("%s", r.body)
		}
	}
	for _, body := range []string{
		`{"schemaVersion":2,"manifests":[],"layers":[]}`,
		`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}`,
		`{`,
		``,
	} {
		if r := w.do("PUT", path, "mo", strings.NewReader(body), "Content-Type", imageManifest).want(t, 400); r.code() != "MANIFEST_INVALID" {
			t.Errorf("%s: %s", body, r.body)
		}
	}
	missing := image([]byte("{}"), []byte("nobody pushed this"), "")
	if r := w.do("PUT", path, "mo", bytes.NewReader(missing), "Content-Type", imageManifest).want(t, 400); r.code() != "MANIFEST_BLOB_UNKNOWN" {
		t.Errorf("%s", r.body)
	}
	other := digest.FromString("other").String()
	if r := w.do("PUT", "/v2/team/app/manifests/"+other, "mo", bytes.NewReader(missing), "Content-Type", imageManifest).want(t, 400); r.code() != "DIGEST_INVALID" {
		t.Errorf("%s", r.body)
	}
	w.do("PUT", path+"?tag=2.0", "mo", bytes.NewReader(missing), "Content-Type", imageManifest).want(t, 400)
}

// TestMostUploads: who has too many uploads open is told so with 429, in one request or in several, and goes on when one
// has ended. Teams with a quota are no way around it.
func TestMostUploads(t *testing.T) {
	w := small(t, func(w *world, _ *Options) { w.options.MaxUploads = 3 })
	tags := int64(100)
	w.update(func(ctx context.Context, tx *metadata.Tx) error {
		return tx.SetQuota(ctx, "other", metadata.Limits{Tags: &tags}, "root")
	})
	content := digest.FromString("x").String()
	for as, repository := range map[string]string{"mo": "team/app", "fred": "other/app"} {
		uploads := "/v2/" + repository + "/blobs/uploads/"
		var last string
		for range 3 {
			last = w.begin(as, repository)
		}
		for _, path := range []string{uploads, uploads + "?digest=" + content} {
			r := w.do("POST", path, as, strings.NewReader("x")).want(t, http.StatusTooManyRequests)
			if r.code() != "TOOMANYREQUESTS" || r.detail("rule") != "too-many-uploads" || !strings.Contains(string(r.body), as+" has 3 uploads open") {
				t.Errorf("%s: %s", path, r.body)
			}
		}
		w.do("PUT", last+"?digest="+content, as, strings.NewReader("x")).want(t, http.StatusCreated)
		last = w.begin(as, repository)
		w.do("POST", uploads, as, nil).want(t, http.StatusTooManyRequests)
		w.do("DELETE", last, as, nil).want(t, http.StatusNoContent)
		w.do("POST", uploads+"?digest="+content, as, strings.NewReader("x")).want(t, http.StatusCreated)
		w.do("POST", uploads, as, nil).want(t, http.StatusAccepted)
	}
}
