//go:build !unix

package backup

import (
	"errors"
	"fmt"
	"runtime"
)

// lockFile fails: without a lock two backups could mix. Servers run on Unix.
func lockFile(string) (func(), error) {
	return nil, fmt.Errorf("backups on %s: %w", runtime.GOOS, errors.ErrUnsupported)
}
