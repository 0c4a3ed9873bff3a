package oci

import (
	"errors"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

func TestParseName(t *testing.T) {
	good := []string{"a", "team/app", "a/b/c", "a.b_c__d-e--f/g", "0/1", strings.Repeat("a", MaxNameLength)}
	for _, s := range good {
		if got, err := ParseName(s); err != nil || got != s {
			t.Errorf("ParseName(%q) = %q, %v", s, got, err)
		}
	}
	bad := []string{"", "/", "a/", "/a", "a//b", "A", "a_", "_a", "a___b", "a..b", "a/../b", "a b", "a\n", "ä", "a\\b", "a%2fb", "a:b", "a@b", strings.Repeat("a", MaxNameLength+1)}
	for _, s := range bad {
		if _, err := ParseName(s); !errors.Is(err, ErrNameInvalid) {
			t.Errorf("ParseName(%q): %v, want NAME_INVALID", s, err)
		}
	}
}

func TestParseReference(t *testing.T) {
	sha256 := digest.SHA256.FromString("x")
	sha512 := digest.SHA512.FromString("x")
	for s, want := range map[string]Reference{
		"latest":                 {Tag: "latest"},
		"_x.Y-1":                 {Tag: "_x.Y-1"},
		strings.Repeat("t", 128): {Tag: strings.Repeat("t", 128)},
		sha256.String():          {Digest: sha256},
		sha512.String():          {Digest: sha512},
	} {
		if got, err := ParseReference(s); err != nil || got != want {
			t.Errorf("ParseReference(%q) = %v, %v", s, got, err)
		}
	}
	for s, code := range map[string]Code{
		"":                                  CodeTagInvalid,
		".x":                                CodeTagInvalid,
		"-x":                                CodeTagInvalid,
		"a/b":                               CodeTagInvalid,
		strings.Repeat("t", 129):            CodeTagInvalid,
		"sha256:abc":                        CodeDigestInvalid,
		"sha256:" + strings.Repeat("A", 64): CodeDigestInvalid,
		"sha384:" + strings.Repeat("a", 96): CodeDigestInvalid,
		"md5:" + strings.Repeat("a", 32):    CodeDigestInvalid,
		sha256.String() + "\n":              CodeDigestInvalid,
		":":                                 CodeDigestInvalid,
	} {
		var e *Error
		if _, err := ParseReference(s); !errors.As(err, &e) || e.Code != code {
			t.Errorf("ParseReference(%q): %v, want %s", s, err, code)
		}
	}
}

func TestReferrersTag(t *testing.T) {
	// The table of the distribution specification, "Referrers Tag Schema".
	a := strings.Repeat("a", 64)
	for d, want := range map[digest.Digest]string{
		digest.Digest("sha256:" + a):     "sha256-" + a,
		digest.Digest("sha512:" + a + a): "sha512-" + a,
		"test+algorithm+using+algorithm+separators+and+lots+of+characters+to+excercise+overall+truncation:alsoSome=InTheEncodedSectionToShowHyphenReplacementAndLotsAndLotsOfCharactersToExcerciseEncodedTruncation": "test-algorithm-using-algorithm-s-alsoSome-InTheEncodedSectionToShowHyphenReplacementAndLotsAndLot",
	} {
		if got := ReferrersTag(d); got != want {
			t.Errorf("ReferrersTag(%q) = %q, want %q", d, got, want)
		}
	}
}

func TestTeam(t *testing.T) {
	for name, want := range map[string]string{"alpine": "alpine", "team/app": "team", "a/b/c": "a"} {
		if got := Team(name); got != want {
			t.Errorf("Team(%q) = %q, want %q", name, got, want)
		}
	}
}

func TestErrors(t *testing.T) {
	cause := errors.New("disk on fire")
	err := Errorf(CodeBlobUnknown, "blob %s: %w", "x", cause)
	if !errors.Is(err, ErrBlobUnknown) || !errors.Is(err, cause) || errors.Is(err, ErrManifestUnknown) {
		t.Errorf("%v is not BLOB_UNKNOWN caused by %v", err, cause)
	}
	if err.Status() != http.StatusNotFound {
		t.Errorf("status %d", err.Status())
	}
	// On the wire both are DENIED first; here they are different errors.
	denied, refused := Errorf(CodeDenied, "may not"), Errorf(CodeTagImmutable, "no")
	if denied.Status() != http.StatusForbidden || refused.Status() != http.StatusConflict {
		t.Errorf("DENIED is %d and %d", denied.Status(), refused.Status())
	}
	if errors.Is(denied, ErrTagImmutable) || errors.Is(refused, ErrDenied) || !errors.Is(refused.WithDetail(1), ErrTagImmutable) {
		t.Error("ErrTagImmutable does not tell the two apart")
	}
	if (&Error{Code: "NEVER_HEARD_OF"}).Status() != http.StatusInternalServerError {
		t.Error("an unknown code is not a 500")
	}
	for code, status := range statuses {
		if status < 400 || status > 599 || strings.ToUpper(string(code)) != string(code) {
			t.Errorf("%s has status %d", code, status)
		}
	}
}

func FuzzParseReference(f *testing.F) {
	for _, s := range []string{"latest", "sha256:" + strings.Repeat("a", 64), "a:b", "", "sha512:x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := ParseReference(s)
		if err != nil {
			return
		}
		if r.String() != s || (r.Tag == "") == (r.Digest == "") {
			t.Fatalf("ParseReference(%q) = %#v", s, r)
		}
	})
}

func FuzzParseName(f *testing.F) {
	for _, s := range []string{"a", "team/app", "a/../b", "a//b", "a__b", "a___b", "a_", "a---b", "a-", "-a", "a._b", "a/-b", "A", "a\n", ""} {
		f.Add(s)
	}
	grammar := regexp.MustCompile(`^` + NamePattern + `$`)
	f.Fuzz(func(t *testing.T, s string) {
		if got, want := IsName(s), grammar.MatchString(s); got != want {
			t.Errorf("IsName(%q) = %v, the grammar says %v", s, got, want)
		}
		name, err := ParseName(s)
		if err != nil {
			return
		}
		if name != s || len(s) > MaxNameLength || strings.Contains(s, "..") || strings.Contains(s, "//") || strings.ContainsAny(s, "\\%: \x00") {
			t.Fatalf("ParseName accepts %q", s)
		}
		if team := Team(name); team == "" || strings.Contains(team, "/") || !strings.HasPrefix(name, team) {
			t.Fatalf("Team(%q) = %q", name, team)
		}
	})
}
