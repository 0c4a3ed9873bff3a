//go:build !linux

package sqldb

import "os"

// syncData waits until a file's data is on the disk.
func syncData(f *os.File) error { return f.Sync() }
