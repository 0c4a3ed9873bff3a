package fs_test

import (
	"errors"
	"os"
	"os/exec"
	"testing"

	"berth/storage"
	"berth/storage/fs"
	"berth/storage/storagetest"
	"berth/testenv"
)

// TestFailedFsyncIsFinal: after an fsync that failed the kernel may have dropped the bytes, and the next one finds nothing to
// do. A second Commit must not succeed with them. strace lets the first fsync of each thread fail.
func TestFailedFsyncIsFinal(t *testing.T) {
	const child = "BERTH_TEST_FSYNC"
	if dir := os.Getenv(child); dir != "" {
		s := open(t, dir, fs.Options{})
		session := add(t, s, s.Begin(storagetest.NewID()), make([]byte, 100_000))
		if _, err := s.Commit(t.Context(), session); err == nil || errors.Is(err, storage.ErrSession) {
			t.Fatalf("the first Commit: %v", err)
		}
		for range 3 {
			if _, err := s.Commit(t.Context(), session); !errors.Is(err, storage.ErrSession) {
				t.Fatalf("another Commit: %v", err)
			}
		}
		if left := files(t, dir); len(left) > 0 {
			t.Errorf("left: %q", left)
		}
		return
	}
	strace := testenv.Tool(t, "strace")
	cmd := exec.Command(strace, "-f", "-q", "-o", os.DevNull, "-e", "trace=fsync", "-e", "inject=fsync:error=EIO:when=1", os.Args[0], "-test.run=^TestFailedFsyncIsFinal$")
	cmd.Env = append(os.Environ(), child+"="+t.TempDir())
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}
