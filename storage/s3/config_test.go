package s3

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"reflect"
	"strings"
	"testing"

	"github.com/minio/minio-go/v7"

	"berth/storage"
)

func TestParseURL(t *testing.T) {
	for text, want := range map[string]Config{
		"s3://bucket": {Bucket: "bucket"},
		"s3://bucket/some/prefix/?endpoint=http://127.0.0.1:9000&region=us-east-1&path_style=true": {
			Bucket: "bucket", Prefix: "some/prefix", Endpoint: "127.0.0.1:9000", Insecure: true, Region: "us-east-1", PathStyle: true},
		"s3://my.bucket-1?endpoint=https://s3.example.org&part_size=16777216": {
			Bucket: "my.bucket-1", Endpoint: "s3.example.org", PartSize: 16 << 20},
	} {
		got, err := ParseURL(text)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v, %v, want %+v", text, got, err, want)
		}
	}
	for text, want := range map[string]string{
		"http://bucket":                           "begins with s3://",
		"s3:bucket":                               "s3://bucket/prefix",
		"s3://":                                   "bucket",
		"s3://Bucket":                             "lower-case",
		"s3://key:secret@bucket":                  "AWS_ACCESS_KEY_ID",
		"s3://bucket?secret_key=x":                "unknown parameter",
		"s3://bucket?region=a&region=b":           "twice",
		"s3://bucket?region=a/b":                  "region",
		"s3://bucket?path_style=perhaps":          "true or false",
		"s3://bucket?endpoint=minio:9000":         "http://host:port",
		"s3://bucket?endpoint=http://h/path":      "http://host:port",
		"s3://bucket?endpoint=http://u:p@h":       "http://host:port",
		"s3://bucket?part_size=1000":              "5 MiB",
		"s3://bucket?part_size=0":                 "number of bytes",
		"s3://bucket?part_size=99999999999":       "1 GiB",
		"s3://bucket/a//b":                        "single slashes",
		"s3://bucket/a/../b":                      "single slashes",
		"s3://bucket/a%00b":                       "printable",
		"s3://bucket/" + strings.Repeat("a", 501): "500 bytes",
	} {
		if c, err := ParseURL(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.60s: %+v, %v, want an error with %q", text, c, err, want)
		}
	}
}

func FuzzParseURL(f *testing.F) {
	f.Add("s3://bucket/some/prefix?endpoint=http://127.0.0.1:9000&region=us-east-1&path_style=true&part_size=8388608")
	f.Add("s3://bucket/%2f?endpoint=https://[::1]:9000")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := ParseURL(text)
		if err != nil {
			return
		}
		again, err := ParseURL(c.URL())
		if err != nil || !reflect.DeepEqual(again, c) {
			t.Errorf("%q is %+v, its URL %q is %+v, %v", text, c, c.URL(), again, err)
		}
	})
}

func TestPartSizes(t *testing.T) {
	for _, c := range []struct{ first, budget, want int64 }{
		{8 << 20, 0, 50 << 30}, // the issue's
		{8 << 20, 0, 500 << 30},
		{8 << 20, 3 << 30, 5 << 40}, // S3's own limit needs a larger budget
		{1 << 30, 0, 1 << 40},
		{5 << 20, storage.MinBudget, 48 << 30},
		{64 << 20, storage.MinBudget, 48 << 30},
	} {
		budget := storage.NewBudget(c.budget)
		p := newPartSizes(c.first, budget.LeaseMax())
		if p.total() < c.want {
			t.Errorf("parts of %d bytes in a budget of %d make %d bytes, want %d", c.first, budget.Bytes(), p.total(), c.want)
		}
		for i := range maxParts {
			if p.size(i) < minPart || p.limit(i) > budget.LeaseMax() || i > 0 && p.size(i) < p.size(i-1) {
				t.Fatalf("part %d has %d bytes, in a lease of %d", i, p.size(i), budget.LeaseMax())
			}
		}
	}
}

// full is a session of 10,000 parts.
func full(etag func(int) string) state {
	st := state{ID: strings.Repeat("0123456789abcdef", 8), Name: "abcdefghijklmnop", Upload: strings.Repeat("u", 200), Size: 50 << 30}
	for i := range maxParts {
		st.Parts = append(st.Parts, part{etag: etag(i), crc: uint32(i) * 2654435761})
	}
	for i := range maxPieces {
		p := piece{Name: fmt.Sprintf("abcdefghijkl%d", i), Size: 100 << 10, CRC: 1 << 31}
		st.Pieces = append(st.Pieces, p)
		st.Stale = append(st.Stale, p.Name)
	}
	return st
}

func TestSessionSize(t *testing.T) {
	for name, etag := range map[string]func(int) string{
		"MD5":    func(i int) string { return fmt.Sprintf("%032x", i*i) },
		"others": func(i int) string { return fmt.Sprintf("%040x-1", i) },
	} {
		want := full(etag)
		s, err := want.session()
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("10,000 parts, ETags of %s: %d bytes", name, len(s))
		got, err := parseSession(s)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: the session is another one when it is read: %v", name, err)
		}
	}
	if _, err := full(func(int) string { return strings.Repeat("x", 100) }).session(); err == nil {
		t.Error("a session of more than 1 MiB is made")
	}
}

func FuzzSession(f *testing.F) {
	small := full(func(i int) string { return fmt.Sprintf("%032x", i) })
	small.Parts = small.Parts[:2]
	for _, st := range []state{{ID: strings.Repeat("a", 32)}, small} {
		s, err := st.session()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(s))
	}
	f.Fuzz(func(t *testing.T, text string) {
		st, err := parseSession(storage.Session(text))
		if err != nil {
			if !errors.Is(err, storage.ErrSession) {
				t.Errorf("%q: %v", text, err)
			}
			return
		}
		s, err := st.session()
		if err != nil {
			return
		}
		again, err := parseSession(s)
		a, _ := json.Marshal(st)
		b, _ := json.Marshal(again)
		if err != nil || string(a) != string(b) {
			t.Errorf("%q is %s, and then %s, %v", text, a, b, err)
		}
		for _, name := range append([]string{st.Name, st.Left}, st.Stale...) {
			if name != "" && !validKey(st.key(name)) {
				t.Errorf("%q leads to the key %q", text, st.key(name))
			}
		}
	})
}

func TestJoin(t *testing.T) {
	data := []byte(strings.Repeat("The quick brown fox. ", 1000))
	for _, cuts := range [][]int{{}, {0}, {1}, {100, 5000}, {7, 7, 20000}} {
		var spans []span
		at := 0
		for _, cut := range append(cuts, len(data)) {
			spans = append(spans, span{int64(cut - at), crc32.Checksum(data[at:cut], castagnoli)})
			at = cut
		}
		got, err := join(spans)
		if err != nil || got.size != int64(len(data)) || got.crc != crc32.Checksum(data, castagnoli) {
			t.Errorf("cut at %v: %+v, %v", cuts, got, err)
		}
	}
}

// What S3 says is told in the contract's words, so that people read what to do.
func TestTranslate(t *testing.T) {
	for code, full := range map[string]bool{"XMinioStorageFull": true, "XMinioAdminBucketQuotaExceeded": true, "SlowDown": false} {
		if err := translate(minio.ErrorResponse{Code: code}); storage.Full(err) != full || !strings.Contains(err.Error(), code) && full {
			t.Errorf("%s: %v", code, err)
		}
	}
	if err := translate(minio.ErrorResponse{Code: minio.NoSuchUpload}); !errors.Is(err, storage.ErrSession) {
		t.Error(err)
	}
}
