package oci

import "testing"

func TestShowBytes(t *testing.T) {
	for in, want := range map[int64]string{0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 1 << 20: "1.0 MiB", 1536 << 20: "1.5 GiB", 5 << 50: "5.0 PiB", 2048 << 50: "2048.0 PiB"} {
		if got := ShowBytes(in); got != want {
			t.Errorf("showBytes(%d) = %q, want %q", in, got, want)
		}
	}
}

func TestIsText(t *testing.T) {
	for s, want := range map[string]bool{"": true, "team/app": true, "ä€": true, "a\x00": false, "\xff": false, "a\xc3": false} {
		if got := IsText(s); got != want {
			t.Errorf("IsText(%q) = %v", s, got)
		}
	}
}
