package conformance

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"berth/testenv"
)

// TestUploadsOutliveFullDisk: uploads that are under way when the disk is full are told so, and go on from the byte that the
// registry names when there is room again: one that has one chunk, one that has two, and one that has none.
func TestUploadsOutliveFullDisk(t *testing.T) {
	t.Parallel()
	b, room := smallDisk(t)
	c := b.Start(t).Admin(t)
	const repo, chunk = "full/uploads", 100_000
	content := random(4 * chunk)
	type upload struct {
		location string
		have     int
	}
	var uploads []upload
	for chunks := range 3 {
		u := upload{location: c.StartUpload(repo)}
		for range chunks {
			u.location = c.Do("PATCH", u.location, content[u.have:u.have+chunk]).Want(202).Location(c)
			u.have += chunk
		}
		uploads = append(uploads, u)
	}
	fill := filepath.Join(b.DataDir, "fill")
	for range 3 { // more than once, since the server may give some back
		f, err := os.OpenFile(fill, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write(make([]byte, room()+1)); err != nil && !errors.Is(err, syscall.ENOSPC) {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		for _, u := range uploads {
			c.Unavailable().Do("PATCH", u.location, content[u.have:u.have+chunk]).WantError(503, "UNAVAILABLE")
		}
	}
	if err := os.Remove(fill); err != nil {
		t.Fatal(err)
	}
	for _, u := range uploads {
		r := c.Do("GET", u.location, nil).Want(204)
		if want := fmt.Sprintf("0-%d", max(0, u.have-1)); r.Header.Get("Range") != want {
			t.Errorf("after %d bytes the upload says %s", u.have, r.Header.Get("Range"))
		}
		location := c.Do("PATCH", r.Location(c), content[u.have:], fmt.Sprintf("Content-Range: %d-%d", u.have, len(content)-1)).Want(202).Location(c)
		c.Do("PUT", with(location, "digest="+sha256Of(content)), nil).Want(201)
	}
	c.Do("GET", "/v2/"+repo+"/blobs/"+sha256Of(content), nil).Want(200).WantBody(content)
}

// smallDisk is an embedded backend on a file system of 24 MiB; room says how many bytes are left.
func smallDisk(t *testing.T) (b *Backend, room func() uint64) {
	t.Helper()
	testenv.NeedRoot(t, "mount a small file system")
	b = NewBackend(t, Embedded)
	if err := syscall.Mount("tmpfs", b.DataDir, "tmpfs", 0, "size=24m"); err != nil {
		t.Fatalf("mounting a small file system: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(b.DataDir, 0); err != nil {
			t.Error(err)
		}
	})
	return b, func() uint64 {
		t.Helper()
		var fs syscall.Statfs_t
		if err := syscall.Statfs(b.DataDir, &fs); err != nil {
			t.Fatal(err)
		}
		return fs.Bavail * uint64(fs.Bsize)
	}
}

// TestFullDisk fills the disk of an embedded registry, first with a push, then from
// outside: each is refused with a sentence that says so, nothing is left of it, pulls
// go on, and pushes do when there is room again.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	b, room := smallDisk(t)
	s := b.Start(t)
	c := s.Admin(t)
	const repo = "full/app"
	raw, _ := c.PushImage(repo, "1.0")
	refused := func(r *Response, words string) {
		t.Helper()
		if text := r.WantError(503, "UNAVAILABLE").Errors()[0].Message; !strings.Contains(text, words) || !strings.Contains(text, "operator has made room") {
			t.Errorf("a client reads %q", text)
		}
	}
	before := room()
	large := random(int(before) + 1<<20)
	refused(c.Unavailable().Do("POST", with("/v2/"+repo+"/blobs/uploads/", "digest="+sha256Of(large)), large), "storage of this registry is full")
	if left := before - min(before, room()); left > 1<<20 {
		t.Errorf("the refused push has left %d bytes", left)
	}
	fill := filepath.Join(b.DataDir, "fill")
	// The server may take some of the room meanwhile; then this fills what is left.
	if err := os.WriteFile(fill, make([]byte, room()), 0o600); err != nil && !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	refused(c.Unavailable().Do("POST", "/v2/"+repo+"/blobs/uploads/", nil), "registry's database is full")
	c.Do("GET", "/v2/"+repo+"/manifests/1.0", nil).Want(200).WantBody(raw)
	if err := os.Remove(fill); err != nil {
		t.Fatal(err)
	}
	c.PushImage(repo, "2.0")
	c.Do("GET", "/v2/"+repo+"/manifests/1.0", nil).Want(200).WantBody(raw)
}
