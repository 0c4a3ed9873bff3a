package server

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"berth/metadata/metadatatest"
)

// TestLyingSize: a manifest that gives a blob or a child of this repository another size than it has is refused with
// both sizes, for no client could pull it. Of what is not here nothing is known.
func TestLyingSize(t *testing.T) {
	metadatatest.EachURL(t, func(t *testing.T, url string) {
		w := smallOn(t, url, nil)
		child, layer := w.pushImage("mo", "team/app", "1.0")
		size := w.do("HEAD", "/v2/team/app/manifests/1.0", "mo", nil).ContentLength
		d := func(kind string, d digest.Digest, size int64, more string) string {
			return fmt.Sprintf(`{"mediaType":%q,"digest":%q,"size":%d%s}`, kind, d, size, more)
		}
		const (
			config, tar = "application/vnd.oci.image.config.v1+json", "application/vnd.oci.image.layer.v1.tar"
			index       = "application/vnd.oci.image.index.v1+json"
		)
		empty, content := digest.FromString("{}"), int64(len("layer of team/app"))
		img := func(config string, layers ...string) string {
			return `{"schemaVersion":2,"mediaType":"` + imageManifest + `","config":` + config + `,"layers":[` + strings.Join(layers, ",") + `]}`
		}
		idx := func(children ...string) string {
			return `{"schemaVersion":2,"mediaType":"` + index + `","manifests":[` + strings.Join(children, ",") + `]}`
		}
		for i, tt := range []struct {
			body          string
			given, stored int64 // 0: it is taken
		}{
			{img(d(config, empty, 2, ""), d(tar, layer, content, "")), 0, 0},
			{img(d(config, empty, 3, ""), d(tar, layer, content, "")), 3, 2},
			{img(d(config, empty, 2, ""), d(tar, layer, content+1, "")), content + 1, content},
			{img(d(config, empty, 2, ""), d(tar, layer, 0, "")), 0, content},
			{img(d(config, empty, 2, ""), d(tar, layer, content, ""), d(tar, layer, 1<<40, "")), 1 << 40, content}, // the second time
			{img(d(config, empty, 2, ""), d(tar, layer, 7, `,"urls":["https://a.example/l"]`)), 7, content},        // it need not be here, but is
			{img(d(config, empty, 2, ""), d(tar, digest.FromString("elsewhere"), 7, `,"urls":["https://a.example/l"]`)), 0, 0},
			{idx(d(imageManifest, child, size, "")), 0, 0},
			{idx(d(imageManifest, child, size-1, "")), size - 1, size},
			{idx(d("application/vnd.acme.thing", child, size+5, "")), size + 5, size},
			{idx(d(tar, layer, 4, "")), 4, content},
			{idx(d("application/vnd.acme.thing", layer, 4, "")), 4, content},
		} {
			kind := imageManifest
			if strings.Contains(tt.body, `"manifests"`) {
				kind = index
			}
			r := w.do("PUT", fmt.Sprintf("/v2/team/app/manifests/t%d", i), "mo", strings.NewReader(tt.body), "Content-Type", kind)
			if tt.stored == 0 {
				r.want(t, http.StatusCreated)
				continue
			}
			if r.StatusCode != http.StatusBadRequest || r.code() != "SIZE_INVALID" || r.detail("given") != fmt.Sprint(tt.given) || r.detail("stored") != fmt.Sprint(tt.stored) ||
				!strings.Contains(string(r.body), fmt.Sprintf(" %d bytes, but it has %d", tt.given, tt.stored)) {
				t.Errorf("%s: %d %s", tt.body, r.StatusCode, r.body)
			}
			w.do("HEAD", fmt.Sprintf("/v2/team/app/manifests/t%d", i), "mo", nil).want(t, http.StatusNotFound)
		}
	})
}

// TestIndexOfBlobs: what an index lists may be here as a blob, whatever its media type, unless that is one of
// manifests. It is held then as a layer is, and the index is gone before the blob can go.
func TestIndexOfBlobs(t *testing.T) {
	metadatatest.EachURL(t, func(t *testing.T, url string) {
		w := smallOn(t, url, nil)
		blob := w.pushBlob("mo", "team/app", []byte("a cache"))
		put := func(kind string) reply {
			body := fmt.Sprintf(`{"schemaVersion":2,"manifests":[{"mediaType":%q,"digest":%q,"size":7}]}`, kind, blob)
			return w.do("PUT", "/v2/team/app/manifests/latest", "mo", strings.NewReader(body), "Content-Type", "application/vnd.oci.image.index.v1+json")
		}
		for _, kind := range []string{"application/vnd.acme.cache.v1+json", "application/octet-stream", "text/plain", "", "application/vnd.oci.image.layer.v1.tar"} {
			put(kind).want(t, http.StatusCreated)
		}
		w.do("DELETE", "/v2/team/app/blobs/"+blob.String(), "mia", nil).want(t, http.StatusConflict)
		r := put(imageManifest)
		if r.StatusCode != http.StatusBadRequest || r.code() != "MANIFEST_BLOB_UNKNOWN" || !strings.Contains(string(r.body), "only as blobs") {
			t.Errorf("%d %s", r.StatusCode, r.body)
		}
	})
}

// TestImpossibleMount: a mount that cannot be is an upload, whatever makes it impossible; the
// parameters are still those of an upload.
func TestImpossibleMount(t *testing.T) {
	w := small(t, nil)
	d := w.pushBlob("mo", "team/app", []byte("content")).String()
	for _, query := range []string{
		"mount=" + d + "&from=host:5000/x", "mount=" + d + "&from=Team/App", "mount=" + d + "&from=..%2F..", "mount=" + d + "&from=team/app%20", "mount=" + d + "&from=none/such",
		"mount=" + d + "&from=" + strings.Repeat("a", 400), "mount=&from=team/app", "mount=", "mount=sha256:abc&from=team/app", "mount=" + strings.ToUpper(d) + "&from=team/app",
		"mount=md5:d41d8cd98f00b204e9800998ecf8427e&from=team/app", "mount=latest&from=team/app", "mount=sha256:abc&digest-algorithm=sha512",
	} {
		r := w.do("POST", "/v2/team/other/blobs/uploads/?"+query, "mo", nil)
		if r.StatusCode != http.StatusAccepted || r.Header.Get("Location") == "" {
			t.Errorf("%s: %d %s", query, r.StatusCode, r.body)
		}
	}
	w.do("POST", "/v2/team/other/blobs/uploads/?mount="+d+"&from=team/app", "mo", nil).want(t, http.StatusCreated)
	w.do("POST", "/v2/team/other/blobs/uploads/?mount=sha256:abc&digest-algorithm=md5", "mo", nil).want(t, http.StatusBadRequest)
	w.do("POST", "/v2/team/other/blobs/uploads/?mount=sha256:abc", "rita", nil).want(t, http.StatusForbidden)
}

// TestBarePlus: many clients write the + of a media type into the query as it is, which means
// a space there; the filter finds it all the same, on every page.
func TestBarePlus(t *testing.T) {
	w := small(t, nil)
	subject, _ := w.pushImage("mo", "team/app", "1.0")
	for _, n := range []string{"1", "2"} {
		raw := image([]byte("{}"), []byte("layer of team/app"), `,"artifactType":"application/spdx+json","annotations":{"n":"`+n+`"},"subject":{"mediaType":"`+imageManifest+`","digest":"`+subject.String()+`","size":3}`)
		w.do("PUT", "/v2/team/app/manifests/"+digest.FromBytes(raw).String(), "mo", strings.NewReader(string(raw)), "Content-Type", imageManifest).want(t, http.StatusCreated)
	}
	for filter, want := range map[string]int{"application/spdx+json": 2, "application/spdx%2Bjson": 2, "application%2Fspdx%2bjson": 2, "application/spdx%20json": 2, "application/spdx-json": 0} {
		next, found := "/v2/team/app/referrers/"+subject.String()+"?n=1&artifactType="+filter, 0
		for range 4 {
			r := w.do("GET", next, "mo", nil).want(t, http.StatusOK)
			found += strings.Count(string(r.body), `"artifactType":"application/spdx+json"`)
			if r.Header.Get("OCI-Filters-Applied") != "artifactType" {
				t.Errorf("%s: %v", filter, r.Header)
			}
			link, _, more := strings.Cut(strings.TrimPrefix(r.Header.Get("Link"), "<"), ">")
			if !more {
				break
			}
			next = link
		}
		if found != want {
			t.Errorf("%s finds %d, want %d", filter, found, want)
		}
	}
	for given, want := range map[string]string{"a/b+c": "a/b+c", "a/b c": "a/b+c", "text/plain; charset=utf-8": "text/plain; charset=utf-8", "": ""} {
		if got := mediaTypeParameter(given); got != want {
			t.Errorf("%q is %q, want %q", given, got, want)
		}
	}
}
