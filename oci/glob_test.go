package oci

import (
	"strings"
	"testing"
)

func TestMatch(t *testing.T) {
	for _, tt := range []struct {
		glob, name string
		want       bool
	}{
		{"*", "a/b", true}, {"*", "", true}, {"", "", true}, {"", "a", false},
		{"a/b", "a/b", true}, {"a/b", "a/bc", false}, {"a/*", "a/b/c", true}, {"a/*", "a", false},
		{"*/b", "a/b", true}, {"a*c", "abc", true}, {"a*c", "ac", true}, {"a*c", "acb", false},
		{"?/b", "a/b", true}, {"??", "a", false}, {"a**b", "ab", true}, {"*a*b*", "xxaxxbxx", true},
		{"?", "ä", true}, {"??", "ä", false}, {"*?", "ä", true}, {"[a]", "a", false}, {"a.b", "axb", false},
		{strings.Repeat("*a", 30) + "b", strings.Repeat("a", 200), false}, // no exponential walk
	} {
		if got := Match(tt.glob, tt.name); got != tt.want {
			t.Errorf("Match(%q, %q) = %v", tt.glob, tt.name, got)
		}
	}
}
