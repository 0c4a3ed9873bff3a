package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"
)

// maxSlow is how many tests [results.slowest] names.
const maxSlow = 20

// results makes of what `go test -json` prints what `go test` prints, and remembers how long each test took. What is
// no event of a test is passed on as it is. For one writer at a time.
type results struct {
	to      io.Writer
	verbose bool // as go test -v

	line []byte              // the beginning of a line whose end has not come
	kept map[string][]string // by package and test: what a test that has not ended has printed
	slow []timed
}

// timed is a test that has ended.
type timed struct {
	name string // package and test
	took time.Duration
}

// event is what go test -json prints a line each; see go doc test2json.
type event struct {
	Action, Package, Test, Output string
	Elapsed                       float64 // seconds
}

var (
	progress = regexp.MustCompile(`^=== (RUN|PAUSE|CONT|NAME) `)
	verdict  = regexp.MustCompile(`^\s*--- (PASS|FAIL|SKIP): `)
)

func newResults(to io.Writer, verbose bool) *results {
	return &results{to: to, verbose: verbose, kept: map[string][]string{}}
}

// Write fails as the writer behind it does.
func (r *results) Write(p []byte) (int, error) {
	r.line = append(r.line, p...)
	for {
		end := bytes.IndexByte(r.line, '\n')
		if end < 0 {
			return len(p), nil
		}
		text := r.see(r.line[:end+1])
		r.line = r.line[end+1:]
		if _, err := io.WriteString(r.to, text); err != nil {
			return 0, err
		}
	}
}

// Close passes on a last line that has no end.
func (r *results) Close() error {
	_, err := r.to.Write(r.line)
	r.line = nil
	return err
}

// see gives what is to print for a line.
func (r *results) see(line []byte) string {
	var e event
	if line[0] != '{' || json.Unmarshal(line, &e) != nil || e.Action == "" {
		return string(line)
	}
	key := e.Package + " " + e.Test
	switch e.Action {
	case "build-output":
		return e.Output
	case "output":
		if r.verbose {
			return e.Output
		}
		if e.Test != "" {
			if !progress.MatchString(e.Output) {
				r.kept[key] = append(r.kept[key], e.Output)
			}
			return ""
		}
		if e.Output == "PASS\n" {
			return ""
		}
		return e.Output
	case "pass", "skip", "fail":
		if e.Test == "" {
			return r.left(e.Package)
		}
		if !strings.Contains(e.Test, "/") {
			r.slow = append(r.slow, timed{key, time.Duration(e.Elapsed * float64(time.Second))})
		}
		lines := r.kept[key]
		delete(r.kept, key)
		if e.Action == "fail" {
			return failed(lines)
		}
	}
	return ""
}

// failed puts the line that a test has failed before what it said, as go test does without -v.
func failed(lines []string) string {
	at := slices.IndexFunc(lines, verdict.MatchString)
	if at < 0 {
		return strings.Join(lines, "")
	}
	return lines[at] + strings.Join(lines[:at], "") + strings.Join(lines[at+1:], "")
}

// left gives what those tests of a package have printed that did not end, because the process has.
func (r *results) left(pkg string) string {
	var text strings.Builder
	for _, key := range slices.Sorted(maps.Keys(r.kept)) {
		if strings.HasPrefix(key, pkg+" ") {
			text.WriteString(failed(r.kept[key]))
			delete(r.kept, key)
		}
	}
	return text.String()
}

// slowest names the tests that took longest, by the clock: "" when there were none.
func (r *results) slowest() string {
	if len(r.slow) == 0 {
		return ""
	}
	slices.SortStableFunc(r.slow, func(a, b timed) int { return cmp.Compare(b.took, a.took) })
	text := "== the slowest tests\n"
	for _, t := range r.slow[:min(maxSlow, len(r.slow))] {
		text += fmt.Sprintf("%7.1f s  %s\n", t.took.Seconds(), t.name)
	}
	return text
}
