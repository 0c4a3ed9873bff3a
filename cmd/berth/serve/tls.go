package serve

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"berth/cmd/berth/cli"
)

// certificate serves a certificate from files and reads them again when their
// content changes, which also sees the symlink swap of a Kubernetes Secret. A
// pair that does not parse is logged and the last good one stays in force.
type certificate struct {
	certFile, keyFile string
	log               *slog.Logger
	current           atomic.Pointer[tls.Certificate]
	sum               [sha256.Size]byte // of the files that current came from; used by watch only
}

func newCertificate(certFile, keyFile string, log *slog.Logger) (*certificate, error) {
	c := &certificate{certFile: certFile, keyFile: keyFile, log: log}
	_, err := c.load()
	return c, err
}

// load reads the files and reports whether they were new.
func (c *certificate) load() (bool, error) {
	cert, err := cli.ReadSmallFile(c.certFile)
	if err != nil {
		return false, fmt.Errorf("tls_cert: %w", err)
	}
	key, err := cli.ReadSmallFile(c.keyFile)
	if err != nil {
		return false, fmt.Errorf("tls_key: %w", err)
	}
	h := sha256.New()
	h.Write(cert)
	h.Write([]byte{0})
	h.Write(key)
	sum := [sha256.Size]byte(h.Sum(nil))
	if c.current.Load() != nil && sum == c.sum {
		return false, nil
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return false, fmt.Errorf("the certificate %s and the key %s: %w", c.certFile, c.keyFile, err)
	}
	c.sum = sum
	c.current.Store(&pair)
	return true, nil
}

// watch looks at the files every interval until the context ends.
func (c *certificate) watch(ctx context.Context, every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	failed := ""
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		changed, err := c.load()
		switch {
		case err != nil && err.Error() != failed:
			failed = err.Error()
			c.log.Error("the new certificate cannot be used, the old one stays", "error", err)
		case err == nil:
			failed = ""
			if changed {
				c.log.Info("new certificate in use", "file", c.certFile)
			}
		}
	}
}

func (c *certificate) config() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return c.current.Load(), nil
		},
	}
}
