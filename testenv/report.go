package testenv

import (
	"fmt"
	"os"
	"testing"
)

// reportFile names the file that collects what [Report] is given.
const reportFile = "BERTH_TEST_REPORT"

// Report logs what a test has measured, also when it passes: go test keeps the output of packages that pass to
// itself, so withservers, and with it make test, prints these lines in the end. One line each.
func Report(t testing.TB, format string, args ...any) {
	t.Helper()
	line := fmt.Sprintf(format, args...)
	t.Log(line)
	path := os.Getenv(reportFile)
	if path == "" {
		return
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Errorf("reporting: %v", err)
		return
	}
	if _, err := fmt.Fprintf(f, "%s: %s\n", t.Name(), line); err != nil {
		t.Errorf("reporting: %v", err)
	}
	if err := f.Close(); err != nil {
		t.Errorf("reporting: %v", err)
	}
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
