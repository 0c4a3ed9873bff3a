package sqldb

import (
	"os"

	"golang.org/x/sys/unix"
)

// syncData waits until a file's data is on the disk; fdatasync leaves out times.
func syncData(f *os.File) error { return unix.Fdatasync(int(f.Fd())) }
