package collect

import (
	"encoding/json"
	"testing"
)

// A note holds the first problems and does not change under the hands of who writes it.
func TestNotedCheck(t *testing.T) {
	many := make([]Problem, 3*maxNoted)
	report := CheckReport{Problems: many, Found: map[string]int64{ProblemMissing: 1}}
	noted := report.Noted()
	report.Found[ProblemMissing], many[0].Kind = 2, ProblemMissing
	if len(noted.Problems) != maxNoted || noted.Found[ProblemMissing] != 1 || noted.Problems[0].Kind != "" {
		t.Errorf("the check is noted with %d problems and %v", len(noted.Problems), noted.Found)
	}
	if empty := (CheckReport{}).Noted(); empty.Problems == nil || empty.Found == nil {
		t.Error("an empty report is noted with null in place of lists")
	}
}

// What another version of the program has noted is read, with all that the note says.
func TestNoteForms(t *testing.T) {
	for _, c := range []struct {
		into any
		note string
	}{
		{&CheckJob{}, `{"id":"01","state":"running","started_by":"root","updated_at":"2026-01-02T03:04:05Z",` +
			`"rehash":true,"repair":true,"rate":500,"hash_rate":1000,` +
			`"report":{"started_at":"2026-01-02T03:04:05Z","finished_at":"0001-01-01T00:00:00Z","blobs":1,"objects":2,"manifests":3,"bytes_read":4,` +
			`"found":{"orphan":1},"problems":[{"kind":"orphan","key":"blobs/00","size":5,"detail":"no row","repaired":false}],"open":1,` +
			`"progress":{"unit":"bytes","done":6,"total":7}}}`},
		{&LastCollection{}, `{"at":"2026-01-02T03:04:05Z","manifests":1,"links":2,"blobs":3,"blob_bytes":4,"objects":5,"freed_bytes":6,"more":true}`},
	} {
		if err := json.Unmarshal([]byte(c.note), c.into); err != nil {
			t.Fatal(err)
		}
		if again, err := json.Marshal(c.into); err != nil || string(again) != c.note {
			t.Errorf("a note is read and written as %v\n%s\nwant\n%s", err, again, c.note)
		}
	}
}
