package fs

import (
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// writeback starts to write dirty pages to the disk and waits for nothing. It is
// advice: a file system that knows better ignores it.
func writeback(f *os.File, offset, length int64) {
	_ = unix.SyncFileRange(int(f.Fd()), offset, length, unix.SYNC_FILE_RANGE_WRITE)
}

// bootID is different after every start of the machine; "" when it is not known.
func bootID() string {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(id))
}
