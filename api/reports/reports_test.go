package reports

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"berth/metadata"
)

// Every field of what the registry found arrives in the API. A new one has to be mapped, or said
// here not to be part of it.
func TestReportsHaveEveryField(t *testing.T) {
	everyField(t, Check)
	everyField(t, CopyJob)
	everyField(t, CollectorReport)
	// The status shows two of the rules by which a run goes.
	everyField(t, Collector, "Rules.UndoWindow", "Rules.Limit", "Rules.Progress")
	// Only a command that looks by itself lists the repositories of all teams. A team has no
	// repository, and what waits is measured in one repository.
	everyField(t, InstanceUsage, "Repositories", "Teams.Repository", "Teams.Waiting")
	// They would tell what other teams have.
	everyField(t, RepositoryUsage, "Unique", "Shared")
	everyField(t, DigestHolders)
	everyField(t, func(r metadata.RetentionReason) any { return RetentionReasons([]metadata.RetentionReason{r}) })
}

// everyField fills a report, one field at a time, and looks whether the API's JSON changes.
func everyField[A, B any](t *testing.T, convert func(A) B, unshown ...string) {
	t.Helper()
	var whole A
	name := reflect.TypeFor[A]().String()
	shown := func(report A) string {
		text, err := json.Marshal(convert(report))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	var paths []string
	walk(reflect.ValueOf(&whole).Elem(), "", nil, func(path string, _ reflect.Value) { paths = append(paths, path) })
	for i, path := range paths {
		fill := func(change bool) (report A) {
			n := 0
			walk(reflect.ValueOf(&report).Elem(), "", nil, func(_ string, v reflect.Value) {
				set(v, n, change && n == i)
				n++
			})
			return report
		}
		hidden := false
		for _, u := range unshown {
			hidden = hidden || path == u || strings.HasPrefix(path, u+".")
		}
		if before, after := shown(fill(false)), shown(fill(true)); (before == after) != hidden {
			t.Errorf("%s of %s: in the API is %v, want %v", path, name, before != after, !hidden)
		}
	}
	if len(paths) == 0 {
		t.Errorf("%s has no fields", name)
	}
}

// walk makes what a value points to, one of every list, and calls leaf for what is left. A type
// inside of itself is made twice.
func walk(v reflect.Value, path string, inside []reflect.Type, leaf func(string, reflect.Value)) {
	switch v.Kind() {
	case reflect.Pointer:
		if count(inside, v.Type()) < 2 {
			v.Set(reflect.New(v.Type().Elem()))
			walk(v.Elem(), path, append(inside, v.Type()), leaf)
		}
	case reflect.Slice:
		if count(inside, v.Type().Elem()) < 2 {
			v.Set(reflect.MakeSlice(v.Type(), 1, 1))
			walk(v.Index(0), path, inside, leaf)
		}
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			leaf(path, v)
			return
		}
		for i := range v.NumField() {
			walk(v.Field(i), strings.TrimPrefix(path+"."+v.Type().Field(i).Name, "."), inside, leaf)
		}
	default:
		leaf(path, v)
	}
}

func count(types []reflect.Type, of reflect.Type) (n int) {
	for _, t := range types {
		if t == of {
			n++
		}
	}
	return n
}

// set gives the nth leaf a value that no other has, or a changed one.
func set(v reflect.Value, n int, change bool) {
	step := 2*n + 2
	if change {
		step++
	}
	switch {
	case v.Type() == reflect.TypeFor[time.Time]():
		v.Set(reflect.ValueOf(time.Unix(int64(step), 0).UTC()))
	case v.Type() == reflect.TypeFor[time.Duration]():
		v.SetInt(int64(step) * int64(time.Second))
	case v.Kind() == reflect.String:
		v.SetString(fmt.Sprint("text ", step))
	case v.Kind() == reflect.Bool:
		v.SetBool(change)
	case v.CanInt():
		v.SetInt(int64(step))
	case v.CanFloat():
		v.SetFloat(float64(step))
	case v.Kind() == reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(reflect.ValueOf("table"), reflect.ValueOf(int64(step)))
	case v.Kind() == reflect.Func: // hears of something
	default:
		panic("a field of a kind that this test does not know: " + v.Type().String())
	}
}
