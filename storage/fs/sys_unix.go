//go:build unix

package fs

import (
	"context"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"berth/storage"
)

// openFile opens a file and never follows a link to get to it.
func openFile(name string, flag int, perm os.FileMode) (*os.File, error) {
	return os.OpenFile(name, flag|unix.O_NOFOLLOW, perm)
}

// lock takes the file's lock, which ends when the file is closed or the
// process dies. It waits that long at most, then it is ErrSession.
func lock(ctx context.Context, f *os.File, wait time.Duration) error {
	const step = 10 * time.Millisecond
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err != unix.EWOULDBLOCK && err != unix.EINTR {
			return err
		}
		if wait -= step; wait <= 0 {
			return fmt.Errorf("%w: another request is writing to it", storage.ErrSession)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(step):
		}
	}
}
