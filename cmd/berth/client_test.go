package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
)

func TestParseServer(t *testing.T) {
	for in, want := range map[string]string{
		"localhost":                     "http://localhost",
		"localhost:5000":                "http://localhost:5000",
		"127.0.0.1:5000":                "http://127.0.0.1:5000",
		"[::1]:5000":                    "http://[::1]:5000",
		"berth.localhost:5000":          "http://berth.localhost:5000",
		"registry.example.com":          "https://registry.example.com",
		"registry.example.com:8443":     "https://registry.example.com:8443",
		"10.0.0.7:5000":                 "https://10.0.0.7:5000",
		"http://registry.example.com":   "http://registry.example.com",
		"https://registry.example.com/": "https://registry.example.com",
		"https://localhost:5000":        "https://localhost:5000",
	} {
		got, err := parseServer(in)
		if err != nil || got.String() != want {
			t.Errorf("parseServer(%q) = %v, %v, want %s", in, got, err, want)
		}
	}
	for _, in := range []string{"", "ftp://x", "http://", "https://x/path", "x/path", "http://user:secret@x", "x?y=z", "x#y", ":5000", "http://%zz"} {
		var usage usageError
		if got, err := parseServer(in); !errors.As(err, &usage) {
			t.Errorf("parseServer(%q) = %v, %v, want a usage error", in, got, err)
		}
	}
}

func TestParseExpiry(t *testing.T) {
	now := time.Date(2030, 1, 31, 12, 0, 0, 0, time.UTC)
	for in, want := range map[string]string{
		"12h":                       "2030-02-01T00:00:00Z",
		"30d":                       "2030-03-02T12:00:00Z",
		"2w":                        "2030-02-14T12:00:00Z",
		"2031-05-06":                "2031-05-06T00:00:00Z",
		"2031-05-06T07:08:09+02:00": "2031-05-06T05:08:09Z",
	} {
		got, err := parseExpiry(in, now)
		if err != nil || showTime(got) != want {
			t.Errorf("parseExpiry(%q) = %v, %v, want %s", in, got, err, want)
		}
	}
	for _, in := range []string{"d", "0d", "-1d", "1.5d", "30", "30m", "99999999d", "tomorrow", "2031-13-01"} {
		var usage usageError
		if got, err := parseExpiry(in, now); !errors.As(err, &usage) {
			t.Errorf("parseExpiry(%q) = %v, %v, want a usage error", in, got, err)
		}
	}
}

func TestTagArgument(t *testing.T) {
	repository, tag, err := tagArgument("core/app:1.0")
	if err != nil || repository != "core/app" || tag != "1.0" {
		t.Errorf("got %q %q %v", repository, tag, err)
	}
	// ".." would change the path of the request.
	for _, in := range []string{"core/app", "core/app:", "core/app:..", "core/app:.", ":1.0", "../x:1.0", "core/app@sha256:abc", "localhost:5000/core/app:1"} {
		if _, _, err := tagArgument(in); err == nil {
			t.Errorf("tagArgument(%q) is accepted", in)
		}
	}
}

func TestShowBytes(t *testing.T) {
	for in, want := range map[int64]string{0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 1 << 20: "1.0 MiB", 1536 << 20: "1.5 GiB", 5 << 50: "5.0 PiB", 2048 << 50: "2048.0 PiB"} {
		if got := showBytes(in); got != want {
			t.Errorf("showBytes(%d) = %q, want %q", in, got, want)
		}
	}
}

// TestRedirects checks that neither a password nor a token follows a redirect
// to another host.
func TestRedirects(t *testing.T) {
	thief := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		t.Errorf("the other host got %s %s with %q and %q", r.Method, r.URL, r.Header.Get("Authorization"), body)
	}))
	defer thief.Close()
	t.Setenv("BERTH_USERNAME", "alice")
	t.Setenv("BERTH_PASSWORD", "alice's password")
	for _, tokens := range []bool{false, true} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if tokens && r.URL.Path == "/token" {
				w.Header().Set("Content-Type", "application/json")
				fmt.Fprint(w, `{"access_token":"secret","token_type":"Bearer","expires_in":300}`)
				return
			}
			http.Redirect(w, r, thief.URL+r.URL.Path, http.StatusTemporaryRedirect)
		}))
		var stderr bytes.Buffer
		code := run(t.Context(), newRootCommand(), []string{"whoami", "--server", server.URL}, &stderr)
		server.Close()
		if code != 1 || !strings.Contains(stderr.String(), "307 Temporary Redirect") || !strings.Contains(stderr.String(), "--server") {
			t.Errorf("code %d: %s", code, stderr.String())
		}
	}
}

// TestCommands asks of every command what the house promises: an example and
// a help that can be printed.
func TestCommands(t *testing.T) {
	var visit func(c *cobra.Command)
	visit = func(c *cobra.Command) {
		if c.HasParent() && (!strings.Contains(c.Example, c.CommandPath()) || c.Short == "" || strings.HasSuffix(c.Short, ".")) {
			t.Errorf("%s: needs an example with this command, and a short description without a full stop", c.CommandPath())
		}
		for _, child := range c.Commands() {
			visit(child)
		}
	}
	visit(newRootCommand())

	var out bytes.Buffer
	root := newRootCommand()
	root.SetOut(&out)
	if code := run(t.Context(), root, []string{"user", "create", "--help"}, &out); code != 0 || !strings.Contains(out.String(), "--new-password-stdin") {
		t.Errorf("exit code %d, output %s", code, out.String())
	}
}
