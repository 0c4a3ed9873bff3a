// Package cli is what the commands have in common with a terminal: errors of usage, flags that take
// a choice or a duration, passwords that are typed, and how sizes, times, JSON and progress are
// shown. Start with Usagef.
package cli

import (
	"errors"
	"fmt"
)

// ErrNo ends a command with exit code 1 whose answer, which is printed already, is "no".
var ErrNo = errors.New("no")

// UsageError is a command line that makes no sense, found after its flags
// were parsed.
type UsageError struct{ error }

// Usagef makes an error of usage: the program ends with exit code 2 and names the help.
func Usagef(format string, args ...any) error {
	return UsageError{fmt.Errorf(format, args...)}
}

// AsUsage makes an error one of usage.
func AsUsage(err error) error { return UsageError{err} }
