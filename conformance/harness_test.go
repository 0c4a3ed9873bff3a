package conformance

import (
	"fmt"
	"strings"
	"testing"
)

// TestExcerpt: what was wrong is shown of a long log, and how it ends, in a few kilobytes.
func TestExcerpt(t *testing.T) {
	t.Parallel()
	line := "time=2026-01-01T00:00:00Z level=INFO msg=request id=1 method=GET path=/v2/ status=200 " + strings.Repeat("x", 300)
	var log strings.Builder
	fmt.Fprintln(&log, `time=2026-01-01T00:00:00Z level=WARN msg="a warning"`)
	for range 1000 {
		fmt.Fprintln(&log, line)
	}
	fmt.Fprintln(&log, `{"time":"2026-01-01T00:00:00Z","level":"ERROR","msg":"an error"}`)
	for range 100 {
		fmt.Fprintln(&log, strings.Replace(line, "status=200", "status=503", 1))
	}
	fmt.Fprint(&log, "panic: something\n\ngoroutine 1 [running]:\nmain.main()\n")
	for range 30 {
		fmt.Fprintln(&log, line)
	}
	fmt.Fprintln(&log, "time=2026-01-01T00:00:00Z level=INFO msg=stopped")
	got := excerpt(log.String())
	for _, want := range []string{"a warning", "an error", "status=503", "... and 87 more such lines", "panic: something\n\ngoroutine 1 [running]:\nmain.main()\n", "... its end:\n"} {
		if !strings.Contains(got, want) {
			t.Errorf("the excerpt does not have %q", want)
		}
	}
	if !strings.HasSuffix(got, "msg=stopped") || len(got) > 25_000 {
		t.Errorf("the excerpt has %d bytes: %s", len(got), got)
	}
	if got := excerpt("one line\n"); got != "... its end:\none line" {
		t.Errorf("of a short log: %q", got)
	}
}
