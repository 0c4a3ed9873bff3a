package serve

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"berth/auth/token"
	"berth/cmd/berth/settings"
	"berth/metadata"
)

// lockedBuffer is a log that is read while it is written.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// A broken new key file is said once in the log and shown by the metric; the key
// before it stays, until a good one comes.
func TestKeyFilesAreWatched(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	dir := t.TempDir()
	db, err := metadata.Open(ctx, metadata.Options{URL: "sqlite:" + filepath.Join(dir, "berth.db")})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Migrate(ctx); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "key.pem")
	write := func(text []byte) {
		t.Helper()
		if err := os.WriteFile(file+".new", text, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(file+".new", file); err != nil {
			t.Fatal(err)
		}
	}
	newKey := func() []byte {
		t.Helper()
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		der, err := x509.MarshalECPrivateKey(k)
		if err != nil {
			t.Fatal(err)
		}
		return pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})
	}
	write(newKey())
	tokens, err := token.New(ctx, db, token.Options{Keys: token.KeyOptions{Files: []token.KeyFile{{Key: file}}}})
	if err != nil {
		t.Fatal(err)
	}
	var log lockedBuffer
	metrics := prometheus.NewRegistry()
	f, err := newKeyFiles(tokens.Keys(), metrics, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	failed := func() float64 {
		t.Helper()
		families, err := metrics.Gather()
		if err != nil || len(families) != 1 || families[0].GetName() != "berth_signing_key_files_failed" {
			t.Fatalf("%v, %v", families, err)
		}
		return families[0].GetMetric()[0].GetGauge().GetValue()
	}
	done := make(chan struct{})
	go func() { f.watch(ctx, 5*time.Millisecond); close(done) }()
	until := func(what string, ok func() bool) {
		t.Helper()
		for range 2000 {
			if ok() {
				return
			}
			time.Sleep(5 * time.Millisecond)
		}
		t.Fatalf("%s did not happen; the log is %s", what, log.String())
	}
	count := func() int {
		t.Helper()
		list, err := tokens.Keys().List(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	secret := newKey()
	write(append([]byte("-----BEGIN NONSENSE-----\nAAAA\n-----END NONSENSE-----\n"), secret...))
	until("the failure", func() bool { return failed() == 1 })
	time.Sleep(50 * time.Millisecond) // several looks
	if n := strings.Count(log.String(), "the old one stays"); n != 1 || count() != 1 {
		t.Errorf("the failure is %d times in the log, and there are %d keys", n, count())
	}
	if strings.Contains(log.String(), string(secret[60:100])) {
		t.Error("the key is in the log")
	}
	write(secret)
	until("the recovery", func() bool { return failed() == 0 && count() == 2 })
	cancel()
	<-done
}

func TestKeyFileSettings(t *testing.T) {
	for value, want := range map[string][]token.KeyFile{
		"":                  nil,
		"a=/k":              {{Service: "a", Key: "/k"}},
		"a=/k:/c, *=/other": {{Service: "a", Key: "/k", Certificates: "/c"}, {Service: "*", Key: "/other"}},
	} {
		c := &settings.Config{}
		s := settings.KeyFilesSetting("x", "", func(c *settings.Config) *[]token.KeyFile { return &c.ServiceKeyFiles }, true)
		if err := s.Set(c, value); err != nil || len(c.ServiceKeyFiles) != len(want) {
			t.Errorf("%q: %+v, %v", value, c.ServiceKeyFiles, err)
		}
		for n, f := range want {
			if c.ServiceKeyFiles[n] != f {
				t.Errorf("%q: %+v, want %+v", value, c.ServiceKeyFiles[n], f)
			}
		}
		if got := s.Get(c); got != strings.ReplaceAll(value, " ", "") {
			t.Errorf("%q is shown as %q", value, got)
		}
	}
	for _, bad := range []string{"/k", "=/k", "a=", "a=:c", "a=/k,a=/l"} {
		if err := settings.KeyFilesSetting("x", "", func(c *settings.Config) *[]token.KeyFile { return &c.ServiceKeyFiles }, true).Set(&settings.Config{}, bad); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
	if err := settings.KeyFilesSetting("x", "", func(c *settings.Config) *[]token.KeyFile { return &c.TokenKeyFile }, false).Set(&settings.Config{}, "/a,/b"); err == nil {
		t.Error("two files of our own are taken")
	}
}
