package api

import (
	"testing"
	"time"
)

// Days and weeks are read wherever a duration is, beside all that Go reads.
func TestParseDuration(t *testing.T) {
	const day = 24 * time.Hour
	for text, want := range map[string]time.Duration{
		"0": 0, "0s": 0, "90s": 90 * time.Second, "1.5h": 90 * time.Minute, "-1s": -time.Second, "720h": 30 * day,
		"10d": 10 * day, "2w": 14 * day, "1d12h": 36 * time.Hour, "1y": 365 * day, "10ms": 10 * time.Millisecond,
	} {
		if got, err := ParseDuration(text); err != nil || got != want {
			t.Errorf("ParseDuration(%q) = %s, %v, want %s", text, got, err, want)
		}
	}
	for _, text := range []string{"", "1", "d", "10 d", "1.5d", "h1d", "12h1d", "-10d", "1000000y", "10days"} {
		if got, err := ParseDuration(text); err == nil {
			t.Errorf("ParseDuration(%q) = %s, want an error", text, got)
		}
	}
	for d, want := range map[time.Duration]string{0: "0s", 10 * time.Minute: "10m", 90 * day: "2160h", 90 * time.Minute: "1h30m", 90 * time.Second: "1m30s"} {
		if got := FormatDuration(d); got != want {
			t.Errorf("FormatDuration(%s) = %s, want %s", d, got, want)
		}
	}
}
