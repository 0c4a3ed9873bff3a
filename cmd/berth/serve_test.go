package main

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"
)

// printed is stdout until it has a text.
type printed struct {
	bytes.Buffer
	text string
	then func()
}

func (p *printed) Write(b []byte) (int, error) {
	n, err := p.Buffer.Write(b)
	if strings.Contains(p.String(), p.text) {
		p.then()
	}
	return n, err
}

// TestFirstStart: the password of the user admin is printed once, so a start that cannot go on,
// such as one whose port is taken, must not make the user.
func TestFirstStart(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	data := filepath.Join(t.TempDir(), "data")
	start := func(env ...string) (string, error) {
		t.Helper()
		c, err := loadConfig(pflag.NewFlagSet("", pflag.ContinueOnError), append(env, "BERTH_DATA_DIR="+data))
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		out := &printed{text: "docker push", then: cancel}
		err = serve(ctx, c, out, slog.New(slog.DiscardHandler))
		return out.String(), err
	}
	for _, env := range [][]string{
		{"BERTH_LISTEN=" + taken.Addr().String()},
		{"BERTH_LISTEN=127.0.0.1:0", "BERTH_METRICS_LISTEN=" + taken.Addr().String()},
	} {
		out, err := start(env...)
		if err == nil || !strings.Contains(err.Error(), "is in use: stop what listens there") || out != "" {
			t.Errorf("%q: %v, and prints %q", env, err, out)
		}
	}
	out, err := start("BERTH_LISTEN=127.0.0.1:0")
	if err != nil || !strings.Contains(out, "    password  ") {
		t.Errorf("the first start that succeeds: %v, and prints %q", err, out)
	}
	if out, err = start("BERTH_LISTEN=127.0.0.1:0"); err != nil || strings.Contains(out, "    password  ") {
		t.Errorf("the second one: %v, and prints %q", err, out)
	}
}
