package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"berth/oci"
)

// count is "1 manifest" or "2 manifests".
func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// message is what a person reads of an error: without the code of an *oci.Error.
func message(err error) string {
	var e *oci.Error
	if errors.As(err, &e) {
		return e.Message
	}
	return err.Error()
}

// printJSON writes a value as the API gives it, indented.
func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// showTime is a point in time to the second, in UTC.
func showTime(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// showTimeOr is showTime, or a word for no time.
func showTimeOr(t *time.Time, none string) string {
	if t == nil {
		return none
	}
	return showTime(*t)
}

// showOr is a text, or a word for none.
func showOr(s *string, none string) string {
	if s == nil || *s == "" {
		return none
	}
	return *s
}

// showState is whether a user or a group counts.
func showState(disabled bool) string {
	if disabled {
		return "disabled"
	}
	return "enabled"
}

// showBytes is a size for people, in binary units.
func showBytes(n int64) string {
	if n < 1024 {
		return strconv.FormatInt(n, 10) + " B"
	}
	v, unit := float64(n), ""
	for _, unit = range []string{"KiB", "MiB", "GiB", "TiB", "PiB"} {
		if v /= 1024; v < 1024 {
			break
		}
	}
	return fmt.Sprintf("%.1f %s", v, unit)
}

func showList[T ~string](list []T) string {
	if len(list) == 0 {
		return "none"
	}
	parts := make([]string, len(list))
	for i, s := range list {
		parts[i] = string(s)
	}
	return strings.Join(parts, ", ")
}

// pointer is nil for the zero value: a field that is left out.
func pointer[T comparable](v T) *T {
	var zero T
	if v == zero {
		return nil
	}
	return &v
}
