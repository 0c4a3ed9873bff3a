package testenv

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

// reportFile names the file that collects what [Report] is given.
const reportFile = "BERTH_TEST_REPORT"

// Report logs what a test has measured, also when it passes: go test keeps the output of packages that pass to
// itself, so withservers, and with it make test, prints these lines in the end. One line each.
func Report(t testing.TB, format string, args ...any) {
	t.Helper()
	line := fmt.Sprintf(format, args...)
	t.Log(line)
	if err := report(t.Name() + ": " + line); err != nil {
		t.Errorf("reporting: %v", err)
	}
}

// report adds a line to the file of the run, where there is one.
func report(line string) error {
	path := os.Getenv(reportFile)
	if path == "" {
		return nil
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(line + "\n")
	return errors.Join(err, f.Close())
}

// reportTime reports what this test process and the programs that it has run took of the processor, where a run collects
// reports.
func reportTime(wall time.Duration) error {
	var spent time.Duration
	for _, who := range []int{syscall.RUSAGE_SELF, syscall.RUSAGE_CHILDREN} {
		var u syscall.Rusage
		if err := syscall.Getrusage(who, &u); err != nil {
			return err
		}
		spent += time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	dir, err := os.Getwd()
	if err != nil {
		return err
	}
	if root, err := Root(); err == nil {
		dir = strings.TrimPrefix(dir, root+"/")
	}
	return report(fmt.Sprintf("%s: %s of processor in %s", dir, spent.Round(time.Second), wall.Round(time.Second)))
}

// CollectReports makes the file for [Report], gives the variable for the environment of
// the tests, and a function that removes the file and gives what is in it.
func CollectReports() (env string, end func() (string, error), err error) {
	f, err := os.CreateTemp("", "berth-test-report-")
	if err != nil {
		return "", nil, err
	}
	path := f.Name()
	return reportFile + "=" + path, func() (string, error) {
		defer os.Remove(path)
		text, err := os.ReadFile(path)
		return string(text), err
	}, f.Close()
}
