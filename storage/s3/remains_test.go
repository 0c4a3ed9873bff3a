package s3_test

import (
	"bytes"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"berth/storage"
	"berth/storage/storagetest"
	"berth/testenv"
)

// What a request has stored that nobody heard of is found by the upload's id, and only that; after
// the upload is aborted it is all that is left.
func TestRemains(t *testing.T) {
	bucket := testenv.MinIO(t)
	store := open(t, config(bucket))
	remains := func(s storage.Session) []string {
		t.Helper()
		found, err := store.Remains(t.Context(), s)
		if err != nil {
			t.Fatal(err)
		}
		var keys []string
		for _, f := range found {
			if f.Size == 0 || f.ModTime.IsZero() {
				t.Errorf("%+v has no size or time", f)
			}
			keys = append(keys, f.Key)
		}
		return keys
	}
	other := add(t, store, store.Begin(storagetest.NewID()), storagetest.Bytes(1000, 1))
	begun := store.Begin(storagetest.NewID())
	first := add(t, store, begun, storagetest.Bytes(1000, 2))
	_ = add(t, store, begun, storagetest.Bytes(1000, 3)) // of a request that lost, or died
	if got := remains(begun); len(got) != 2 {
		t.Errorf("before the upload ends the store has %q of it, want two objects", got)
	}
	if err := store.Abort(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	left := remains(first)
	if len(left) != 1 {
		t.Fatalf("after Abort there is %q, want one object", left)
	}
	if err := store.Delete(t.Context(), left...); err != nil {
		t.Fatal(err)
	}
	if got := remains(first); len(got) != 0 {
		t.Errorf("after Delete there is %q", got)
	}
	if got := remains(other); len(got) != 1 {
		t.Errorf("the other upload has %q, want its one object", got)
	}
}

// Multipart uploads that no session names are aborted, of this upload alone. MinIO lists them by their whole key,
// S3 by a prefix: the proxy asks MinIO for the keys, and answers as S3 does, in pages of one.
func TestRemainsOfMultipartUploads(t *testing.T) {
	bucket := testenv.MinIO(t)
	p, c := newProxy(t, bucket)
	store := open(t, c)
	direct, err := minio.NewCore(strings.TrimPrefix(bucket.Endpoint, "http://"), &minio.Options{Creds: credentials.NewStaticV4(bucket.AccessKey, bucket.SecretKey, "")})
	if err != nil {
		t.Fatal(err)
	}
	id, otherID := storagetest.NewID(), storagetest.NewID()
	names := []string{id + "-a", id + "-b", otherID + "-a"}
	for _, name := range names {
		if _, err := direct.NewMultipartUpload(t.Context(), bucket.Bucket, c.Prefix+"/"+name, minio.PutObjectOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	unfinished := func() (keys []string) {
		t.Helper()
		for _, name := range names {
			page, err := direct.ListMultipartUploads(t.Context(), bucket.Bucket, c.Prefix+"/"+name, "", "", "", 10)
			if err != nil {
				t.Fatal(err)
			}
			for _, u := range page.Uploads {
				keys = append(keys, strings.TrimPrefix(u.Key, c.Prefix+"/"))
			}
		}
		return keys
	}
	if got := unfinished(); !slices.Equal(got, names) {
		t.Fatalf("MinIO lists %q, want %q", got, names)
	}
	denied := false
	p.spoil = func(_ int, w http.ResponseWriter, r *http.Request, forward func()) {
		q := r.URL.Query()
		if r.Method != http.MethodGet || !q.Has("uploads") {
			forward()
			return
		}
		if denied {
			w.WriteHeader(http.StatusForbidden)
			io.WriteString(w, `<Error><Code>AccessDenied</Code></Error>`)
			return
		}
		var page bytes.Buffer
		page.WriteString(`<ListMultipartUploadsResult>`)
		after := q.Get("key-marker")
		for _, name := range names {
			key := c.Prefix + "/" + name
			found, err := direct.ListMultipartUploads(r.Context(), bucket.Bucket, key, "", "", "", 10)
			if err != nil {
				t.Error(err)
			}
			if key <= after || len(found.Uploads) == 0 || !strings.HasPrefix(key, q.Get("prefix")) {
				continue
			}
			upload := url.QueryEscape(found.Uploads[0].UploadID)
			page.WriteString(`<Upload><Key>` + key + `</Key><UploadId>` + upload + `</UploadId></Upload>` +
				`<IsTruncated>true</IsTruncated><NextKeyMarker>` + key + `</NextKeyMarker><NextUploadIdMarker>` + upload + `</NextUploadIdMarker>`)
			break
		}
		page.WriteString(`</ListMultipartUploadsResult>`)
		w.Write(page.Bytes())
	}
	if got, err := store.Remains(t.Context(), store.Begin(id)); err != nil || len(got) != 0 {
		t.Errorf("%v, %v", got, err)
	}
	if got := unfinished(); !slices.Equal(got, names[2:]) {
		t.Errorf("after that the multipart uploads of %q are left, want those of %q", got, names[2:])
	}
	// A policy that does not let it list them is no failure: there is the lifecycle rule.
	denied = true
	if _, err := store.Remains(t.Context(), store.Begin(otherID)); err != nil {
		t.Error(err)
	}
}
