//go:build !unix

package fs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"time"
)

func openFile(name string, flag int, perm os.FileMode) (*os.File, error) {
	return os.OpenFile(name, flag, perm)
}

// lock fails: without locks two requests could mix their bytes. Servers run on Unix.
func lock(context.Context, *os.File, time.Duration) error {
	return fmt.Errorf("the directory store on %s: %w", runtime.GOOS, errors.ErrUnsupported)
}
