package backup

import (
	"encoding/json"
	"testing"
)

// A job that another version of the program has noted is read, with all that the note says.
func TestJobNoteForm(t *testing.T) {
	const note = `{"id":"01","state":"failed","started_by":"root","updated_at":"2026-01-02T03:04:05Z","error":"the disk is full",` +
		`"kind":"restore","rate":1000,` +
		`"transfer":{"rows":{"users":3},"blobs":4,"present":5,"copied":6,"copied_bytes":7,"lost":1,` +
		`"problems":[{"kind":"missing","digest":"sha256:00","key":"blobs/00","size":8,"repositories":["core/app"],"detail":"not there","repaired":true}],` +
		`"progress":{"unit":"bytes","done":9,"total":10}},` +
		`"check":{"started_at":"2026-01-02T03:04:05Z","finished_at":"2026-01-02T03:04:06Z","blobs":11,"objects":12,"manifests":13,"bytes_read":14,` +
		`"found":{"missing":1},"problems":[],"open":1,"progress":{"unit":"items","done":15,"total":16}},` +
		`"manifest":{"format":1,"created_at":"2026-01-02T03:04:05Z","version":"1.0","schema":17,"source":"sqlite",` +
		`"database":{"name":"berth.db.zst","size":18,"sha256":"00"},"rows":{"users":3},"blobs":19,"lost":20},` +
		`"verified":{"backup":{"format":1,"created_at":"2026-01-02T03:04:05Z","version":"1.0","schema":17,"source":"sqlite",` +
		`"database":{"name":"berth.db.zst","size":18,"sha256":"00"},"rows":{},"blobs":19,"lost":20},` +
		`"check":{"started_at":"2026-01-02T03:04:05Z","finished_at":"2026-01-02T03:04:06Z","blobs":11,"objects":12,"manifests":13,"bytes_read":14,` +
		`"found":{},"problems":[],"open":0,"progress":{"unit":"","done":0,"total":0}},"problems":["a row has no team"],"bad":21}}`
	var job Job
	if err := json.Unmarshal([]byte(note), &job); err != nil {
		t.Fatal(err)
	}
	if again, err := json.Marshal(job); err != nil || string(again) != note {
		t.Errorf("a note is read and written as %v\n%s\nwant\n%s", err, again, note)
	}
}
