package server

import (
	"bytes"
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"berth/metadata"
	"berth/metadata/metadatatest"
)

// small is a world with one team and its people.
func small(t testing.TB, change func(*world, *Options)) *world {
	t.Helper()
	return smallOn(t, metadatatest.SQLite(t), change)
}

// smallOn is small with a database that is empty.
func smallOn(t testing.TB, url string, change func(*world, *Options)) *world {
	t.Helper()
	w := newWorldOn(t, url, change)
	w.user("root", metadata.RoleAdmin)
	w.user("mia", metadata.RoleUser)
	w.user("mo", metadata.RoleUser)
	w.user("rita", metadata.RoleUser)
	w.user("fred", metadata.RoleUser)
	w.team("team", "mia=maintainer", "mo=member", "rita=reader")
	w.team("other", "fred=maintainer")
	return w
}

func TestLoginPushPull(t *testing.T) {
	w := small(t, nil)

	ping := w.do("GET", "/v2/", "", nil).want(t, http.StatusUnauthorized)
	want := `Bearer realm="` + w.http.URL + `/token",service="registry.test"`
	if got := ping.Header.Values("WWW-Authenticate"); len(got) != 1 || got[0] != want {
		t.Errorf("WWW-Authenticate = %q, want one %q", got, want)
	}
	if got := ping.Header.Get("Docker-Distribution-API-Version"); got != "registry/2.0" {
		t.Errorf("Docker-Distribution-API-Version = %q", got)
	}
	w.do("GET", "/v2/", w.jwt("mo"), nil).want(t, http.StatusOK)
	w.do("GET", "/v2/", w.jwt(""), nil).want(t, http.StatusOK)
	w.do("GET", "/v2/", "mo", nil).want(t, http.StatusOK)
	w.do("GET", "/v2", "mo", nil).want(t, http.StatusOK)

	// The way of docker: a challenge names the scope, the token carries it.
	start := w.do("POST", "/v2/team/app/blobs/uploads/", "", nil).want(t, http.StatusUnauthorized)
	if got := start.Header.Get("WWW-Authenticate"); !strings.HasSuffix(got, `,scope="repository:team/app:pull,push"`) {
		t.Errorf("challenge = %q", got)
	}
	mo := w.jwt("mo", "repository:team/app:pull,push")
	manifest, layer := w.pushImage(mo, "team/app", "1.0")

	for _, reference := range []string{"1.0", manifest.String(), strings.Replace(manifest.String(), ":", "%3A", 1)} {
		got := w.do("GET", "/v2/team/app/manifests/"+reference, mo, nil).want(t, http.StatusOK)
		if digest.FromBytes(got.body) != manifest || got.Header.Get("Content-Type") != imageManifest || got.Header.Get("Docker-Content-Digest") != manifest.String() {
			t.Errorf("manifest %s: %v %s", reference, got.Header, got.body)
		}
		head := w.do("HEAD", "/v2/team/app/manifests/"+reference, mo, nil).want(t, http.StatusOK)
		if head.ContentLength != int64(len(got.body)) || len(head.body) != 0 || head.Header.Get("Docker-Content-Digest") != manifest.String() {
			t.Errorf("HEAD %s: %v", reference, head.Header)
		}
		w.do("GET", "/v2/team/app/manifests/"+reference, mo, nil, "If-None-Match", got.Header.Get("Etag")).want(t, http.StatusNotModified)
	}
	got := w.do("GET", "/v2/team/app/blobs/"+layer.String(), mo, nil).want(t, http.StatusOK)
	if digest.FromBytes(got.body) != layer || got.Header.Get("Accept-Ranges") != "bytes" {
		t.Errorf("blob: %v", got.Header)
	}
	w.do("GET", "/v2/team/app/blobs/"+layer.String(), mo, nil, "If-None-Match", `W/"x", "`+layer.String()+`"`).want(t, http.StatusNotModified)

	tags := w.do("GET", "/v2/team/app/tags/list", mo, nil).want(t, http.StatusOK)
	if strings.TrimSpace(string(tags.body)) != `{"name":"team/app","tags":["1.0"]}` {
		t.Errorf("tags: %s", tags.body)
	}
	catalog := w.do("GET", "/v2/_catalog", w.jwt("mo", "registry:catalog:*"), nil).want(t, http.StatusOK)
	if string(catalog.body) != `{"repositories":["team/app"]}` {
		t.Errorf("catalog: %s", catalog.body)
	}
}

func TestImmutableTagIsRefusedReadably(t *testing.T) {
	w := small(t, nil)
	w.pushImage("mo", "team/app", "1.0")
	other := image([]byte("{}"), []byte("layer of team/app"), `,"annotations":{"a":"b"}`)
	r := w.do("PUT", "/v2/team/app/manifests/1.0", "mo", bytes.NewReader(other), "Content-Type", imageManifest).want(t, http.StatusConflict)
	if r.StatusCode != 409 || r.code() != "DENIED" || r.detail("rule") != "tag-policy" || !strings.Contains(string(r.body), "1.0") || r.detail("principal") != "mo" || r.detail("request_id") != r.Header.Get("X-Request-Id") {
		t.Errorf("body: %s", r.body)
	}
	// Clients decide by the first code; programs of Pier One look for TAG_INVALID.
	if !strings.Contains(string(r.body), `{"code":"TAG_INVALID","message":"the tag is immutable"}]}`) {
		t.Errorf("TAG_INVALID is not behind it: %s", r.body)
	}
	// zot #4266: a push by digest with several tags checks each of them, and does
	// all or nothing.
	d := digest.FromBytes(other).String()
	w.do("PUT", "/v2/team/app/manifests/"+d+"?tag=2.0&tag=1.0", "mo", bytes.NewReader(other), "Content-Type", imageManifest).want(t, http.StatusConflict)
	w.do("HEAD", "/v2/team/app/manifests/2.0", "mo", nil).want(t, http.StatusNotFound)
	ok := w.do("PUT", "/v2/team/app/manifests/"+d+"?tag=2.0&tag=3.0", "mo", bytes.NewReader(other), "Content-Type", imageManifest).want(t, http.StatusCreated)
	if got := ok.Header.Values("OCI-Tag"); len(got) != 2 || ok.Header.Get("Location") != "/v2/team/app/manifests/"+d {
		t.Errorf("headers: %v", ok.Header)
	}
	// CVE-2026-31801: no name is special. latest moves because the policy exempts
	// it, for those who may push; a reader may not.
	w.do("PUT", "/v2/team/app/manifests/latest", "rita", bytes.NewReader(other), "Content-Type", imageManifest).want(t, http.StatusForbidden)
}

func TestReferrers(t *testing.T) {
	w := small(t, nil)
	subject, _ := w.pushImage("mo", "team/app", "1.0")
	for _, kind := range []string{"a/sbom", "a/signature", "a/sbom"} {
		raw := image([]byte("{}"), []byte("layer of team/app"), `,"artifactType":"`+kind+`","subject":{"mediaType":"`+imageManifest+`","digest":"`+subject.String()+`","size":3},"annotations":{"n":"`+kind+string(rune('0'+len(kind)))+`"}`)
		d := digest.FromBytes(raw)
		r := w.do("PUT", "/v2/team/app/manifests/"+d.String(), "mo", bytes.NewReader(raw), "Content-Type", imageManifest).want(t, http.StatusCreated)
		if r.Header.Get("OCI-Subject") != subject.String() {
			t.Errorf("OCI-Subject = %q", r.Header.Get("OCI-Subject"))
		}
	}
	list := func(query string) (n int, r reply) {
		t.Helper()
		r = w.do("GET", "/v2/team/app/referrers/"+subject.String()+query, "rita", nil).want(t, http.StatusOK)
		var index struct {
			SchemaVersion int
			MediaType     string
			Manifests     []map[string]any
		}
		if err := json.Unmarshal(r.body, &index); err != nil || index.SchemaVersion != 2 || index.MediaType != r.Header.Get("Content-Type") || index.Manifests == nil {
			t.Fatalf("%v: %s", err, r.body)
		}
		return len(index.Manifests), r
	}
	if n, r := list(""); n != 2 || r.Header.Get("OCI-Filters-Applied") != "" {
		t.Errorf("all: %d, %v", n, r.Header)
	}
	if n, r := list("?artifactType=a/sbom"); n != 1 || r.Header.Get("OCI-Filters-Applied") != "artifactType" {
		t.Errorf("filtered: %d, %v", n, r.Header)
	}
	n, r := list("?n=1")
	link := r.Header.Get("Link")
	if n != 1 || !strings.HasSuffix(link, `; rel="next"`) {
		t.Fatalf("page 1: %d, Link %q", n, link)
	}
	next, _, _ := strings.Cut(strings.TrimPrefix(link, "<"), ">")
	if second := w.do("GET", next, "rita", nil).want(t, http.StatusOK); second.Header.Get("Link") != "" || bytes.Equal(second.body, r.body) {
		t.Errorf("page 2: %v %s", second.Header, second.body)
	}
	// No repository, no referrers, and no 404 for one who may pull.
	empty := w.do("GET", "/v2/team/none/referrers/"+subject.String(), "rita", nil).want(t, http.StatusOK)
	if !strings.Contains(string(empty.body), `"manifests":[]`) {
		t.Errorf("empty: %s", empty.body)
	}
	w.do("GET", "/v2/team/app/referrers/sha256:abc", "rita", nil).want(t, http.StatusBadRequest)
	w.do("GET", "/v2/team/app/referrers/"+subject.String(), "fred", nil).want(t, http.StatusForbidden)
}
