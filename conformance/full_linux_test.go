package conformance

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"berth/testenv"
)

// TestFullDisk fills the disk of an embedded registry, first with a push, then from
// outside: each is refused with a sentence that says so, nothing is left of it, pulls
// go on, and pushes do when there is room again.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	testenv.NeedRoot(t, "mount a small file system")
	b := NewBackend(t, Embedded)
	if err := syscall.Mount("tmpfs", b.DataDir, "tmpfs", 0, "size=24m"); err != nil {
		t.Fatalf("mounting a small file system: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(b.DataDir, 0); err != nil {
			t.Error(err)
		}
	})
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
	room := func() uint64 {
		t.Helper()
		var fs syscall.Statfs_t
		if err := syscall.Statfs(b.DataDir, &fs); err != nil {
			t.Fatal(err)
		}
		return fs.Bavail * uint64(fs.Bsize)
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
