package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Of a run with -json that is shown which a run without shows: the failed tests with what they said, and the packages'
// lines; and it ends with what failed and with the slowest tests.
func TestResultsOfARun(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"go.mod": "module example.com/x\n\ngo 1.24\n",
		"a/a.go": "package a\n",
		"a/a_test.go": `package a

import ("fmt"; "testing")

func TestGood(t *testing.T) { t.Log("good says this"); fmt.Println("and prints that") }

func TestBad(t *testing.T) {
	t.Run("fine", func(t *testing.T) { t.Log("fine says this") })
	t.Run("wrong", func(t *testing.T) { t.Error("wrong says this") })
}
`,
		"b/b_test.go": "package b\n\nimport \"testing\"\n\nfunc TestDies(t *testing.T) { t.Log(\"before\"); panic(\"at the disco\") }\n",
		"c/c_test.go": "package c\n\nimport \"testing\"\n\nfunc TestUnbuilt(t *testing.T) { unknown() }\n",
		"d/d_test.go": "package d\n\nimport \"testing\"\n\nfunc TestFine(t *testing.T) {}\n",
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("go", "test", "-json", "./...")
	cmd.Dir = dir
	events, err := cmd.Output()
	if err == nil {
		t.Fatal("the tests of the example have not failed")
	}
	for _, size := range []int{7, len(events)} {
		var shown bytes.Buffer
		f := &failures{to: &shown}
		r := newResults(f, false)
		for rest := events; len(rest) > 0; rest = rest[min(size, len(rest)):] {
			if _, err := r.Write(rest[:min(size, len(rest))]); err != nil {
				t.Fatal(err)
			}
		}
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		text := shown.String()
		for _, want := range []string{
			`(?m)^--- FAIL: TestBad/wrong .*\n    a_test.go:9: wrong says this$`, `(?m)^--- FAIL: TestBad `, `(?m)^FAIL\texample.com/x/a\t`,
			`before`, `panic: at the disco`, `(?m)^FAIL\texample.com/x/b\t`,
			`undefined: unknown`, `(?m)^FAIL\texample.com/x/c \[build failed\]$`, `(?m)^ok  \texample.com/x/d\t`,
		} {
			if !regexp.MustCompile(want).MatchString(text) {
				t.Errorf("no %s in\n%s", want, text)
			}
		}
		for _, unwanted := range []string{"good says", "prints that", "fine says", "=== ", `{"`, "\nPASS\n"} {
			if strings.Contains(text, unwanted) {
				t.Errorf("%q is in\n%s", unwanted, text)
			}
		}
		for _, want := range []string{"--- FAIL: TestBad/wrong", "wrong says this", "panic: at the disco"} {
			if !strings.Contains(f.String(), want) {
				t.Errorf("what failed has no %q: %s", want, f)
			}
		}
		slow := r.slowest()
		for _, test := range []string{"a TestGood", "a TestBad", "d TestFine"} {
			if !strings.Contains(slow, "example.com/x/"+test+"\n") {
				t.Errorf("%s is not among the slowest:\n%s", test, slow)
			}
		}
	}
}

// What is no event of a test is passed on, and everything when it is wanted.
func TestResultsPassOn(t *testing.T) {
	var shown bytes.Buffer
	r := newResults(&shown, true)
	const text = "downloading\n{\"a\": 1}\n{\nan end without a line"
	_, _ = r.Write([]byte(`{"Action":"output","Package":"p","Test":"T","Output":"=== RUN   T\n"}` + "\n" + text))
	if err := r.Close(); err != nil || shown.String() != "=== RUN   T\n"+text {
		t.Errorf("%q, %v", shown.String(), err)
	}
	if got := r.slowest(); got != "" {
		t.Errorf("without a test, the slowest are %q", got)
	}
}
