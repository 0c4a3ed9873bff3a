package server

import (
	"bytes"
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"berth/metadata"
	"berth/metadata/metadatatest"
	"berth/storage/mem"
)

// active are media types that browsers run or show, and others that no manifest has.
var active = []string{
	"text/html", "TEXT/HTML", "text/html; charset=utf-8", "image/svg+xml", "application/xhtml+xml", "application/xml", "text/xml", "application/rss+xml",
	"application/javascript", "text/javascript", "text/css", "text/plain", "multipart/related; boundary=a", "multipart/x-mixed-replace", "audio/ogg", "message/http",
}

// TestActiveManifestIsRefused: nothing that is no application/... media type can be pushed, by the
// Content-Type or by the body, by tag or by digest.
func TestActiveManifestIsRefused(t *testing.T) {
	w := small(t, nil)
	w.pushImage("mo", "team/app", "1.0")
	config, layer := []byte("{}"), []byte("layer of team/app")
	for _, kind := range active {
		raw := strings.Replace(string(image(config, layer, `,"annotations":{"x":"<script>alert(1)</script>"}`)), `"mediaType":"`+imageManifest+`",`, "", 1)
		name, _, _ := strings.Cut(kind, ";")
		inBody := strings.Replace(raw, `{`, `{"mediaType":"`+name+`",`, 1)
		for _, push := range []struct{ contentType, body string }{{kind, raw}, {kind, inBody}, {"", inBody}, {"application/json", inBody}, {"application/octet-stream", inBody}} {
			for _, ref := range []string{"p", digest.FromString(push.body).String()} {
				var headers []string
				if push.contentType != "" {
					headers = []string{"Content-Type", push.contentType}
				}
				r := w.do("PUT", "/v2/team/app/manifests/"+ref, "mo", strings.NewReader(push.body), headers...)
				if r.StatusCode != http.StatusBadRequest || r.code() != "MANIFEST_INVALID" {
					t.Errorf("%s, %s: %d %s", push.contentType, push.body[:40], r.StatusCode, r.body)
				}
			}
		}
	}
}

// TestStoredContentIsInert: what was stored before such pushes were refused is pulled byte
// for byte, and no browser runs it.
func TestStoredContentIsInert(t *testing.T) {
	metadatatest.EachURL(t, func(t *testing.T, url string) {
		w := smallOn(t, url, nil)
		for i, kind := range active {
			raw := []byte(`{"mediaType":"` + kind + `","annotations":{"x":"<script>alert(1)</script>"}}`)
			d := digest.FromBytes(raw)
			tag := "t" + string(rune('a'+i))
			w.update(func(ctx context.Context, tx *metadata.Tx) error {
				id, _, err := tx.EnsureRepository(ctx, "team/app", metadata.Public, "root")
				if err != nil {
					return err
				}
				name, _, _ := strings.Cut(kind, ";")
				if _, err := tx.PutManifest(ctx, id, metadata.Manifest{Digest: d, MediaType: name, Payload: raw, Size: int64(len(raw)), CreatedBy: "mo"}, nil, nil, false); err != nil {
					return err
				}
				_, err = tx.PutTag(ctx, id, tag, d, metadata.Actor{Name: "mo"})
				return err
			})
			for _, ref := range []string{tag, d.String()} {
				for _, method := range []string{"GET", "HEAD"} {
					r := w.do(method, "/v2/team/app/manifests/"+ref, "mo", nil, "Accept", "text/html").want(t, http.StatusOK)
					wantInert(t, r, true)
					if r.Header.Get("Content-Type") != "application/octet-stream" || r.Header.Get("Docker-Content-Digest") != d.String() || method == "GET" && !bytes.Equal(r.body, raw) {
						t.Errorf("%s %s: %v %s", method, kind, r.Header, r.body)
					}
				}
			}
		}
	})
}

// wantInert checks the headers that keep a browser from running an answer, and for what
// somebody stored that it becomes a file.
func wantInert(t *testing.T, r reply, stored bool) {
	t.Helper()
	h := r.Header
	if got := h.Values("Content-Security-Policy"); len(got) != 1 || got[0] != "default-src 'none'; sandbox; frame-ancestors 'none'" || h.Get("X-Content-Type-Options") != "nosniff" {
		t.Errorf("%s %s: %d %v", r.Request.Method, r.Request.URL.Path, r.StatusCode, h)
	}
	if got := h.Values("Content-Disposition"); stored && (len(got) != 1 || got[0] != "attachment") {
		t.Errorf("%s %s: %d, disposition %q", r.Request.Method, r.Request.URL.Path, r.StatusCode, got)
	}
}

// TestEveryAnswerIsInert: below /v2/ there is no answer that a browser may take for a page, whatever the
// status; and elsewhere none that repeats what somebody sent or stored.
func TestEveryAnswerIsInert(t *testing.T) {
	w := small(t, func(w *world, o *Options) { o.RedirectTTL = time.Minute })
	m, layer := w.pushImage("mo", "team/app", "1.0")
	etag := `"` + m.String() + `"`
	const evil = "%3Cscript%3E"
	for _, tt := range []struct {
		status  int
		line    string
		as      string
		stored  bool
		headers []string
	}{
		{200, "GET /v2/", "mo", false, nil},
		{401, "GET /v2/", "", false, nil},
		{200, "GET /v2/team/app/manifests/1.0", "mo", true, nil},
		{200, "HEAD /v2/team/app/manifests/" + m.String(), "mo", true, nil},
		{304, "GET /v2/team/app/manifests/1.0", "mo", true, []string{"If-None-Match", etag}},
		{404, "GET /v2/team/app/manifests/none", "mo", false, nil},
		{400, "GET /v2/team/app/manifests/" + evil, "mo", false, nil},
		{403, "GET /v2/team/app/manifests/1.0", "fred", false, nil},
		{400, "PUT /v2/team/app/manifests/1.0", "mo", false, nil},
		{200, "GET /v2/team/app/blobs/" + layer.String(), "mo", true, nil},
		{200, "HEAD /v2/team/app/blobs/" + layer.String(), "mo", true, nil},
		{206, "GET /v2/team/app/blobs/" + layer.String(), "mo", true, []string{"Range", "bytes=1-2"}},
		{416, "GET /v2/team/app/blobs/" + layer.String(), "mo", true, []string{"Range", "bytes=900-"}},
		{304, "GET /v2/team/app/blobs/" + layer.String(), "mo", true, []string{"If-None-Match", `"` + layer.String() + `"`}},
		{202, "POST /v2/team/app/blobs/uploads/", "mo", false, nil},
		{404, "PATCH /v2/team/app/blobs/uploads/" + evil, "mo", false, nil},
		{200, "GET /v2/team/app/tags/list", "mo", false, nil},
		{200, "GET /v2/team/app/referrers/" + m.String(), "mo", true, nil},
		{200, "GET /v2/_catalog", "root", false, nil},
		{404, "GET /v2/nothing", "mo", false, nil},
		{400, "GET /v2/TEAM/manifests/x", "mo", false, nil},
		{400, "GET /v2/%ff", "mo", false, nil},
		{405, "POST /v2/team/app/tags/list", "mo", false, nil},
		{200, "GET /v2/certs/pem", "", false, nil},
		{400, "PUT /v2/admin/user:" + evil, "root", false, nil},

		{200, "GET /token?scope=" + evil, "", false, nil},
		{401, "POST /token?service=" + evil, "", false, nil},
		{404, "GET /sign-in?return=" + evil, "", false, nil},
		{404, "GET /" + evil, "", false, nil},
		{400, "GET /repository/team/" + evil, "root", false, nil},
		{404, "DELETE /account/" + evil, "root", false, nil},
		{200, "GET /.well-known/berth", "", false, nil},
		{200, "GET /metrics", "", false, nil},
		{200, "GET /livez", "", false, nil},
	} {
		method, path, _ := strings.Cut(tt.line, " ")
		r := w.do(method, path, tt.as, strings.NewReader(""), tt.headers...)
		if r.StatusCode != tt.status {
			t.Errorf("%s: %d, want %d: %s", tt.line, r.StatusCode, tt.status, r.body)
		}
		wantInert(t, r, tt.stored)
		if kind := r.Header.Get("Content-Type"); strings.Contains(kind, "html") || kind == "" && len(r.body) > 0 {
			t.Errorf("%s is %q", tt.line, kind)
		}
	}
}

// TestRedirectIsInert: the way to the store is no page either.
func TestRedirectIsInert(t *testing.T) {
	w := small(t, func(w *world, o *Options) { w.store, o.RedirectTTL = linked{mem.New()}, time.Minute })
	d := w.pushBlob("mo", "team/app", []byte("content"))
	wantInert(t, w.do("GET", "/v2/team/app/blobs/"+d.String(), "mo", nil).want(t, http.StatusTemporaryRedirect), true)
}
