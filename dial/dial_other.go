//go:build !linux

package dial

import (
	"syscall"
	"time"
)

func userTimeout(time.Duration) func(network, address string, c syscall.RawConn) error { return nil }
