package main

import (
	"bytes"
	"strings"
	"testing"
)

// What failed is repeated with its first messages, whatever the pieces are in which the output comes.
func TestFailuresAreRepeated(t *testing.T) {
	const output = `ok  	berth/a	0.1s
--- FAIL: TestClients (1.00s)
    --- PASS: TestClients/fine (0.10s)
        client_test.go:5: a note of what passed
    --- FAIL: TestClients/docker (0.20s)
        client_test.go:10: docker push: exit status 1
            The push refers to a repository
            one
            two
            three
            four
            no such image
        client_test.go:11: second
        client_test.go:12: third
        client_test.go:13: fourth
    harness.go:148: log of the server:
        level=INFO msg=request
--- FAIL: TestPages (1.00s)
    harness.go:148: log of the server:
        level=INFO msg=request
    pages_test.go:1: the last
        of two lines
FAIL
FAIL	berth/b	1.1s
panic: the end
`
	const want = `== what failed, and what it said first
--- FAIL: TestClients (1.00s)
    --- FAIL: TestClients/docker (0.20s)
        client_test.go:10: docker push: exit status 1
            one
            two
            three
            four
            no such image
        client_test.go:11: second
        client_test.go:12: third
--- FAIL: TestPages (1.00s)
    pages_test.go:1: the last
        of two lines
FAIL	berth/b	1.1s
panic: the end
`
	for _, size := range []int{1, 7, len(output)} {
		var to bytes.Buffer
		f := &failures{to: &to}
		for rest := []byte(output); len(rest) > 0; rest = rest[min(size, len(rest)):] {
			if n, err := f.Write(rest[:min(size, len(rest))]); err != nil || n != min(size, len(rest)) {
				t.Fatalf("Write: %d, %v", n, err)
			}
		}
		if to.String() != output {
			t.Errorf("in pieces of %d bytes the output is not passed on as it is: %q", size, to.String())
		}
		if got := f.String(); got != want {
			t.Errorf("in pieces of %d bytes:\n%s\nwant\n%s", size, got, want)
		}
	}
}

// Nothing is repeated of a good run, and not everything of a very bad one.
func TestFailuresAreBounded(t *testing.T) {
	f := &failures{to: &bytes.Buffer{}}
	f.Write([]byte("ok  \tberth/a\t0.1s\n"))
	if f.String() != "" {
		t.Errorf("of a good run: %q", f.String())
	}
	f.Write([]byte(strings.Repeat("--- FAIL: TestX (0.00s)\n", 1000) + "--- FAIL: Test" + strings.Repeat("x", 1<<20) + "\n"))
	if got := f.String(); len(got) > 2000 || !strings.HasSuffix(got, "... and more\n") {
		t.Errorf("of a bad run: %d bytes, %q", len(got), got[max(0, len(got)-100):])
	}
}
