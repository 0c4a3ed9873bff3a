package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"
)

// Count is "1 manifest" or "2 manifests".
func Count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// PrintJSON writes a value as the API gives it, indented.
func PrintJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// ShowTime is a point in time to the second, in UTC.
func ShowTime(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// ShowTimeOr is showTime, or a word for no time.
func ShowTimeOr(t *time.Time, none string) string {
	if t == nil {
		return none
	}
	return ShowTime(*t)
}

// ShowOr is a text, or a word for none.
func ShowOr(s *string, none string) string {
	if s == nil || *s == "" {
		return none
	}
	return *s
}

// ShowState is whether a user or a group counts.
func ShowState(disabled bool) string {
	if disabled {
		return "disabled"
	}
	return "enabled"
}

// ShowList is a list for people.
func ShowList[T ~string](list []T) string {
	if len(list) == 0 {
		return "none"
	}
	parts := make([]string, len(list))
	for i, s := range list {
		parts[i] = string(s)
	}
	return strings.Join(parts, ", ")
}

// Pointer is nil for the zero value: a field that is left out.
func Pointer[T comparable](v T) *T {
	var zero T
	if v == zero {
		return nil
	}
	return &v
}

// Value is the zero value for nil: what a field means that is left out.
func Value[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}
