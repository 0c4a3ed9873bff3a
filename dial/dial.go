// Package dial opens TCP connections to what a server depends on, such as Postgres and S3, so that
// the system notices by itself when the other end is gone. Start with [New].
package dial

import (
	"net"
	"time"
)

// Keep-alive probes of a silent connection: three that are lost in a row end it, after about 30 seconds.
const (
	keepAliveIdle     = 15 * time.Second
	keepAliveInterval = 5 * time.Second
	keepAliveCount    = 3
)

// New makes a dialer. connect bounds the making of a connection. silence bounds how long bytes that were
// sent may stay without an acknowledgement of the other machine: then the connection breaks with
// ETIMEDOUT, where TCP by itself goes on for about 15 minutes (TCP_USER_TIMEOUT, RFC 5482; only on Linux,
// elsewhere it has no effect). Keep-alive probes find a connection that is dead while nobody sends.
func New(connect, silence time.Duration) *net.Dialer {
	return &net.Dialer{
		Timeout:         connect,
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: keepAliveIdle, Interval: keepAliveInterval, Count: keepAliveCount},
		Control:         userTimeout(silence),
	}
}
