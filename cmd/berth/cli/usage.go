package main

import (
	"errors"
	"fmt"
)

// errNo ends a command with exit code 1 whose answer, which is printed already, is "no".
var errNo = errors.New("no")

// usageError is a command line that makes no sense, found after its flags
// were parsed.
type usageError struct{ error }

func usagef(format string, args ...any) error {
	return usageError{fmt.Errorf(format, args...)}
}

// asUsage makes an error one of usage.
func asUsage(err error) error { return usageError{err} }
