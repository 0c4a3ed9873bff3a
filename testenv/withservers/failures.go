package main

import (
	"bytes"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
)

// Bounds of what [failures] repeats.
const (
	maxMessages = 3   // per failed test
	maxMore     = 5   // last lines of a message of several: there a program that has failed says why
	maxFailed   = 30  // tests
	maxLine     = 400 // bytes
)

var (
	failedTest = regexp.MustCompile(`^\s*--- FAIL: (\S+)`)
	anyTest    = regexp.MustCompile(`^\s*--- (PASS|FAIL|SKIP): `)
	message    = regexp.MustCompile(`^\s+\S+\.go:\d+: `)
	serverLog  = regexp.MustCompile(`^\s+\S+\.go:\d+: log of `) // in which nothing says why a test has failed
	broken     = regexp.MustCompile(`^(panic: |fatal error: |WARNING: DATA RACE|FAIL\t\S+)`)
)

// failures passes on what go test prints and remembers which tests have failed and what they said first: a
// long run's own output has that in between of servers' logs. For one writer at a time.
type failures struct {
	to    io.Writer
	line  []byte // the beginning of a line whose end has not come
	lines []string
	tests int
	left  int      // messages of the test at hand that are still wanted
	more  []string // the last lines of the message at hand, nil when none is wanted
}

// Write never fails but as the writer behind it does.
func (f *failures) Write(p []byte) (int, error) {
	n, err := f.to.Write(p)
	for rest := p[:n]; len(rest) > 0; {
		end := bytes.IndexByte(rest, '\n')
		if end < 0 {
			f.line = append(f.line, rest[:min(len(rest), max(0, maxLine-len(f.line)))]...)
			break
		}
		f.line = append(f.line, rest[:min(end, max(0, maxLine-len(f.line)))]...)
		f.see(string(f.line))
		f.line, rest = f.line[:0], rest[end+1:]
	}
	return n, err
}

// see looks at one line.
func (f *failures) see(line string) {
	wanted := message.MatchString(line) && !serverLog.MatchString(line) && f.left > 0
	if f.more != nil && strings.HasPrefix(line, " ") && !message.MatchString(line) && !anyTest.MatchString(line) {
		f.more = append(f.more, line)
		f.more = f.more[max(0, len(f.more)-maxMore):]
		return
	}
	f.lines, f.more = append(f.lines, f.more...), nil
	switch {
	case f.tests > maxFailed:
	case failedTest.MatchString(line), broken.MatchString(line):
		f.tests++
		f.left = maxMessages
		if f.tests > maxFailed {
			line = "... and more"
		}
		f.lines = append(f.lines, line)
	case anyTest.MatchString(line):
		f.left = 0
	case wanted:
		f.left--
		f.lines, f.more = append(f.lines, line), []string{}
	}
}

// String is what has failed, "" when nothing has.
func (f *failures) String() string {
	if len(f.lines) == 0 {
		return ""
	}
	return fmt.Sprintf("== what failed, and what it said first\n%s\n", strings.Join(append(slices.Clone(f.lines), f.more...), "\n"))
}
