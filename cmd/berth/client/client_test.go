package client

import (
	"errors"
	"testing"
	"time"

	"berth/cmd/berth/cli"
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
		var usage cli.UsageError
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
		if err != nil || cli.ShowTime(got) != want {
			t.Errorf("parseExpiry(%q) = %v, %v, want %s", in, got, err, want)
		}
	}
	for _, in := range []string{"d", "0d", "-1d", "1.5d", "30", "99999999d", "tomorrow", "2031-13-01"} {
		var usage cli.UsageError
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
