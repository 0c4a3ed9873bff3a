// Package reports makes the management API's types of what the registry's own packages found: a
// file per noun. The server answers with them, and the command line prints the same, whether it
// asked a server or looked by itself. The types of other packages, of which some are also notes in
// the database or files of a backup, can so change without the API, and the other way round: a
// field is part of the API when a function here names it.
//
// Functions share slices and maps with what they are given; nobody writes to them afterwards.
package reports

import (
	"berth/api"
	"berth/jobs"
)

// optional is nil for the zero value, which the API leaves out.
func optional[T comparable](v T) *T {
	var zero T
	if v == zero {
		return nil
	}
	return &v
}

// each converts a list. It is never nil: the API has [] for a list without items.
func each[A, B any](list []A, convert func(A) B) []B {
	out := make([]B, len(list))
	for i, v := range list {
		out[i] = convert(v)
	}
	return out
}

// some is each of a list that the API leaves out when it has no items.
func some[A, B any](list []A, convert func(A) B) *[]B {
	if len(list) == 0 {
		return nil
	}
	out := each(list, convert)
	return &out
}

// same is the conversion of some for what needs none.
func same[T any](v T) T { return v }

func progress(p jobs.Progress) *api.Progress {
	return &api.Progress{Unit: p.Unit, Done: p.Done, Total: p.Total}
}
