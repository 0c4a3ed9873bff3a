package server

import (
	"context"
	"encoding/base64"
	"flag"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	neturl "net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"berth/auth"
	"berth/metadata"
	"berth/metadata/metadatatest"
	"berth/oci"
	"berth/server/dockit"
	"berth/server/door"
)

var update = flag.Bool("update", false, "write the golden files instead of comparing with them")

// TestEveryRouteHasAPermission: a line of the table without a need would be
// refused to everybody; that a route is open has to be written down.
// CVE-2026-41888: the same table drives every verb, so none can be forgotten.
func TestEveryRouteHasAPermission(t *testing.T) {
	seen := map[string]bool{}
	public := map[string]bool{}
	w := newWorld(t, nil)
	exact, prefixes := w.server.table(w.doors)
	for _, ep := range append(exact, prefixes...) {
		rt := ep.route
		key := rt.method + " " + rt.pattern
		if rt.need == door.Undeclared || rt.handler == nil || rt.name == "" || rt.face == nil {
			t.Errorf("%s: need %d, name %q", key, rt.need, rt.name)
		}
		if seen[key] && key != "POST /token{slash:/?}" { // of d.ims.io and OAuth2, told apart by the body
			t.Errorf("%s is there twice", key)
		}
		seen[key] = true
		switch {
		case rt.need == door.Open:
			public[rt.pattern] = true
			dockit := rt.pattern == "/v2/token" || rt.pattern == "/v2/certs/pem"
			if strings.HasPrefix(rt.pattern, "/v2") && !dockit {
				t.Errorf("%s is open to everybody", key)
			}
		case strings.Contains(rt.pattern, "{name:") && rt.need.Action() == 0:
			t.Errorf("%s is about a repository but asks for no action on it", key)
		case rt.need == door.Manage && ep.resolve == nil:
			t.Errorf("%s is management, and does not say what", key)
		case rt.method == "DELETE" && rt.pattern != pathUpload && rt.need != door.Delete && rt.need != door.Own && rt.need != door.Manage && rt.need != door.Administer:
			t.Errorf("%s deletes but does not need the right to", key)
		case rt.need == door.Known && rt.method != "GET":
			t.Errorf("%s changes something with no more than a sign-in", key)
		case rt.need == door.Pull && rt.method != "GET" && rt.method != "HEAD":
			t.Errorf("%s changes something with the right to pull", key)
		}
	}
	if len(public) != 13 {
		t.Errorf("open are %v: every one of them is worth a thought", public)
	}
}

// TestUndeclaredRouteIsClosed: the zero need refuses even an administrator.
func TestUndeclaredRouteIsClosed(t *testing.T) {
	w := small(t, nil)
	ex := &exchange{server: w.server, rw: httptest.NewRecorder(), endpoint: &endpoint{}, face: protocol}
	r := httptest.NewRequest("GET", "/v2/", nil)
	r.SetBasicAuth("root", w.accounts["root"])
	if err := w.server.authorize(ex, r); err == nil || err.(*oci.Error).Code != oci.CodeDenied {
		t.Errorf("error %v", err)
	}
}

// TestAccessGolden is the review of who may what: every route, every role,
// every visibility, against testdata/access.golden. Run with -update to write
// it, and read the difference.
//
// CVE-2026-27771, CVE-2026-41888: visibility × verb × anonymous, enumerated.
func TestAccessGolden(t *testing.T) {
	w := newWorld(t, nil)
	for _, name := range []string{"reader", "member", "maintainer", "foreign"} {
		w.user(name, metadata.RoleUser)
	}
	w.user("admin", metadata.RoleAdmin)
	w.team("team", "reader=reader", "member=member", "maintainer=maintainer")
	w.team("elsewhere", "foreign=maintainer")
	w.token(metadata.Token{Kind: metadata.PersonalToken, Name: "pull-only", User: "maintainer", Actions: []string{"pull"}})
	w.token(metadata.Token{Kind: metadata.RobotToken, Name: "robot", Team: "team", Actions: []string{"pull", "push"}})
	w.token(metadata.Token{Kind: metadata.RobotToken, Name: "strange-robot", Team: "elsewhere", Actions: []string{"pull", "push", "delete", "admin"}})

	// Rights beside those of teams: a grant, a group's grant, a provider's word; and denials.
	for _, name := range []string{"grantee", "group-member", "denied"} {
		w.user(name, metadata.RoleUser)
	}
	w.user("denied-admin", metadata.RoleAdmin)
	w.external(auth.Identity{Provider: "ldap", Subject: "1", Name: "provider-member", Teams: map[string]string{"team": "member"}})
	w.external(auth.Identity{Provider: "ldap", Subject: "2", Name: "provider-group", Groups: []string{"devs"}})
	w.update(func(ctx context.Context, tx *metadata.Tx) error {
		if _, err := tx.CreateGroup(ctx, "devs"); err != nil {
			return err
		}
		if err := tx.PutGroupMember(ctx, "devs", "group-member"); err != nil {
			return err
		}
		if err := tx.PutMember(ctx, "team", "denied", metadata.RoleMaintainer); err != nil {
			return err
		}
		if _, _, err := tx.PutGrant(ctx, metadata.Grantee{User: "grantee"}, "team/*", []string{"pull", "push"}, "test"); err != nil {
			return err
		}
		_, _, err := tx.PutGrant(ctx, metadata.Grantee{Group: "devs"}, "team/*", []string{"pull", "delete"}, "test")
		return err
	})

	roles := []string{"anonymous", "reader", "member", "maintainer", "foreign", "admin", "pull-only", "robot", "strange-robot",
		"grantee", "group-member", "provider-member", "provider-group", "denied", "denied-admin"}
	as := func(role string) string {
		switch {
		case role == "anonymous":
			return ""
		case strings.HasPrefix(w.accounts[role], "berth_"):
			return "token:" + role
		}
		return role
	}

	var manifest, layer digest.Digest
	for _, visibility := range []string{"public", "internal", "private"} {
		manifest, layer = w.pushImage("admin", "team/"+visibility, "v1")
		w.visibility("team/"+visibility, visibility)
	}
	// The layers differ by the repository's name; one is in all of them.
	shared := []byte("shared")
	for _, visibility := range []string{"public", "internal", "private"} {
		layer = w.pushBlob("admin", "team/"+visibility, shared)
	}
	w.pushBlob("admin", "team/private", []byte("only in private"))
	secret := digest.FromString("only in private").String()

	w.update(func(ctx context.Context, tx *metadata.Tx) error {
		_, _, err := tx.PutDenial(ctx, metadata.Denial{Name: "no", Principal: "denied*", Repository: "*", Actions: auth.AllActions.Names()})
		return err
	})
	w.clock.forward(time.Minute) // what is remembered of denials is older now

	// Every line is one request that changes nothing when it is allowed, so that
	// the order plays no part: it deletes what is not there, and pushes what is invalid.
	unknown := digest.FromString("unknown").String()
	requests := []struct{ method, path, line string }{
		{"GET", "/manifests/v1", "GET " + pathManifest},
		{"HEAD", "/manifests/v1", "HEAD " + pathManifest},
		{"PUT", "/manifests/v2", "PUT " + pathManifest},
		{"DELETE", "/manifests/none", "DELETE " + pathManifest},
		{"POST", "/blobs/uploads/", "POST " + pathUploads},
		{"GET", "/blobs/uploads/00000000000000000000000000000000", "GET " + pathUpload},
		{"PATCH", "/blobs/uploads/00000000000000000000000000000000", "PATCH " + pathUpload},
		{"PUT", "/blobs/uploads/00000000000000000000000000000000?digest=" + unknown, "PUT " + pathUpload},
		{"DELETE", "/blobs/uploads/00000000000000000000000000000000", "DELETE " + pathUpload},
		{"GET", "/blobs/" + layer.String(), "GET " + pathBlob},
		{"HEAD", "/blobs/" + layer.String(), "HEAD " + pathBlob},
		{"DELETE", "/blobs/" + unknown, "DELETE " + pathBlob},
		{"GET", "/tags/list", "GET " + pathTags},
		{"GET", "/referrers/" + manifest.String(), "GET " + pathReferrers},
	}
	covered := map[string]bool{}
	var b strings.Builder
	row := func(line, visibility string, status func(role string) int) {
		fmt.Fprintf(&b, "%-38s %-9s", short(line), visibility)
		for _, role := range roles {
			fmt.Fprintf(&b, " %-*d", len(role), status(role))
		}
		b.WriteString("\n")
	}
	fmt.Fprintf(&b, "%-38s %-9s %s\n", "request", "", strings.Join(roles, " "))
	statuses := map[string]int{}
	for _, rq := range requests {
		covered[short(rq.line)] = true
		for _, visibility := range []string{"public", "internal", "private", "absent"} {
			row(rq.line, visibility, func(role string) int {
				r := w.do(rq.method, "/v2/team/"+visibility+rq.path, as(role), nil)
				statuses[rq.line+visibility+role] = r.StatusCode
				return r.StatusCode
			})
		}
	}
	// A mount needs push here and pull there; without the second it is an upload
	// like any other (202), which tells nothing (CVE-2024-39897).
	for _, visibility := range []string{"public", "internal", "private", "absent"} {
		row("POST mount from elsewhere", visibility, func(role string) int {
			return w.do("POST", "/v2/elsewhere/app/blobs/uploads/?mount="+layer.String()+"&from=team/"+visibility, as(role), nil).StatusCode
		})
	}
	row("POST mount secret without from", "private", func(role string) int {
		target := "elsewhere/app"
		if role == "admin" { // who may: what it mounts must not make it pullable for those after it
			target = "third/app"
		}
		return w.do("POST", "/v2/"+target+"/blobs/uploads/?mount="+secret, as(role), nil).StatusCode
	})
	// The API of d.ims.io. What deletes a repository is only asked of one that is not there.
	for _, rq := range []struct{ method, path, body, line string }{
		{"GET", "", "", "GET /repository/<name>/"},
		{"DELETE", "", "", "DELETE /repository/<name>/"},
		{"GET", "/image", "", "GET /repository/<name>/image/"},
		{"GET", "/image/v1", "", "GET /repository/<name>/image/<reference>/"},
		{"DELETE", "/image/none", "", "DELETE /repository/<name>/image/<reference>/"},
	} {
		covered[short(rq.line)] = true
		for _, visibility := range []string{"public", "internal", "private", "absent"} {
			if rq.line == "DELETE /repository/<name>/" && visibility != "absent" {
				continue
			}
			row(rq.line, visibility, func(role string) int {
				return w.do(rq.method, "/repository/team/"+visibility+rq.path, as(role), nil).StatusCode
			})
		}
	}
	row("POST /repository/<owner>/", "private", func(role string) int {
		return w.do("POST", "/repository/team", as(role), strings.NewReader(`{"name":"private"}`)).StatusCode
	})
	row("POST /token of d.ims.io", "", func(role string) int { return w.do("POST", "/token", as(role), nil).StatusCode })
	table := routes()
	for _, d := range w.doors {
		for _, rt := range d.Routes() {
			table = append(table, route{method: rt.Method, pattern: rt.Pattern, need: rt.Need})
		}
	}
	covered["POST /token/"] = true // above, of d.ims.io
	for _, rt := range table {
		line := rt.method + " " + rt.pattern
		if covered[short(line)] || rt.need == door.Open {
			continue
		}
		row(line, "", func(role string) int {
			path := strings.NewReplacer("{slash:/?}", "/", dockit.Pattern, "/v2/admin/user:nobody/repository:team_none:pull",
				"{owner:[^/]+}", "team", "{account:[^/]+}", "none", "{token:.+}", "none").Replace(rt.pattern)
			return w.do(rt.method, path, as(role), nil).StatusCode
		})
		covered[short(line)] = true
	}

	// Whatever the golden file says: somebody who may not pull sees no difference
	// between a repository that is there and one that is not.
	for _, role := range roles {
		if statuses["HEAD "+pathManifest+"private"+role] == http.StatusOK {
			continue
		}
		for _, rq := range requests {
			private, absent := statuses[rq.line+"private"+role], statuses[rq.line+"absent"+role]
			if private != absent {
				t.Errorf("%s %s: %d for a private repository and %d for none: that tells that it is there", role, short(rq.line), private, absent)
			}
		}
	}

	path := filepath.Join("testdata", "access.golden")
	if *update {
		if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if b.String() != string(want) {
		t.Errorf("rights have changed; if that is meant, run go test ./server -run TestAccessGolden -update and read the difference\ngot:\n%s\nwant:\n%s", &b, want)
	}
}

// short is a line of the table without the grammar of its variables.
func short(line string) string {
	return strings.NewReplacer(varName, "<name>", varReference, "<reference>", varDigest, "<digest>", varUpload, "<upload>", dockit.Pattern, "/v2/admin/(user|group):<name>/...", "{slash:/?}", "/",
		"{name:[^/]+/[^/]+}", "<name>", "{owner:[^/]+}", "<owner>", "{account:[^/]+}", "<account>", "{token:.+}", "<token>").Replace(line)
}

func TestWrongMethodAndPath(t *testing.T) {
	w := small(t, nil)
	w.pushImage("mo", "team/app", "1.0")
	d := digest.FromString("x").String()
	for _, tt := range []struct {
		method, path string
		status       int
		code, allow  string
	}{
		{"POST", "/v2/team/app/manifests/1.0", 405, "UNSUPPORTED", "DELETE, GET, HEAD, PUT"},
		{"PATCH", "/v2/team/app/blobs/" + d, 405, "UNSUPPORTED", "DELETE, GET, HEAD"},
		{"GET", "/v2/team/app/blobs/uploads/", 405, "UNSUPPORTED", "POST"},
		{"DELETE", "/v2/", 405, "UNSUPPORTED", "GET, HEAD"},
		{"BREW", "/v2/", 405, "UNSUPPORTED", "GET, HEAD"},
		{"PUT", "/token", 405, "", "GET, POST"},
		{"GET", "/v2/team/app", 404, "NAME_UNKNOWN", ""},
		{"GET", "/v2/team/app/", 404, "NAME_UNKNOWN", ""},
		{"GET", "/v2/team/app/manifests/", 404, "NAME_UNKNOWN", ""},
		{"GET", "/v2/team/app/tags", 404, "NAME_UNKNOWN", ""},
		{"GET", "/v2/_nonsense", 404, "NAME_UNKNOWN", ""},
		{"GET", "/v2/Team/app/manifests/1.0", 400, "NAME_INVALID", ""},
		{"GET", "/v2/team//app/manifests/1.0", 400, "NAME_INVALID", ""},
		{"GET", "/v2//team/app/manifests/1.0", 400, "NAME_INVALID", ""},
		{"GET", "/v2/team/../team/app/manifests/1.0", 400, "NAME_INVALID", ""},
		{"GET", "/v2/team/%2e%2e/team/app/manifests/1.0", 400, "NAME_INVALID", ""},
		{"GET", "/v2/team%2fapp/manifests/1.0", 404, "NAME_UNKNOWN", ""},
		{"GET", "/v2/team%2Fapp/tags/list", 404, "NAME_UNKNOWN", ""},
		{"GET", `/v2/team%5capp/manifests/1.0`, 400, "NAME_INVALID", ""},
		{"GET", `/v2/team%5Capp/manifests/1.0`, 400, "NAME_INVALID", ""},
		{"GET", "/v2/team/app%00/manifests/1.0", 400, "NAME_INVALID", ""},
		{"GET", "/v2/team/%C3%A4pp/manifests/1.0", 400, "NAME_INVALID", ""},
		{"GET", "/v2/" + strings.Repeat("a", 256) + "/manifests/1.0", 400, "NAME_INVALID", ""},
		{"GET", "/v2/team/app/manifests/1.0%2f..", 404, "NAME_UNKNOWN", ""},
		{"GET", "/v2/team/app/manifests/-x", 400, "TAG_INVALID", ""},
		{"GET", "/v2/team/app/manifests/..", 400, "TAG_INVALID", ""},
		{"GET", "/v2/team/app/manifests/" + strings.Repeat("a", 129), 400, "TAG_INVALID", ""},
		{"GET", "/v2/team/app/manifests/sha256:abc", 400, "DIGEST_INVALID", ""},
		{"GET", "/v2/team/app/blobs/md5:d41d8cd98f00b204e9800998ecf8427e", 400, "DIGEST_INVALID", ""},
		{"GET", "/v2/team/app/blobs/uploads", 405, "UNSUPPORTED", "POST"},
		{"GET", "/v2/team/app/tags/list?n=%zz", 400, "INVALID", ""},
		{"GET", "/nowhere", 404, "", ""},
		{"GET", "//v2/", 404, "", ""},
		{"GET", "/../v2/", 404, "", ""},
	} {
		r := w.do(tt.method, tt.path, "mo", nil)
		if r.StatusCode != tt.status || r.code() != tt.code || r.Header.Get("Allow") != tt.allow || r.Header.Get("Location") != "" {
			t.Errorf("%s %.60s: %d %s, Allow %q, Location %q, want %d %s %q: %s", tt.method, tt.path, r.StatusCode, r.code(), r.Header.Get("Allow"), r.Header.Get("Location"), tt.status, tt.code, tt.allow, r.body)
		}
		if strings.HasPrefix(tt.path, "/v2/") && r.Header.Get("Docker-Distribution-API-Version") == "" {
			t.Errorf("%s %s: no Docker-Distribution-API-Version", tt.method, tt.path)
		}
		if tt.code == "" && r.StatusCode != 405 && r.Header.Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s %s: %s", tt.method, tt.path, r.Header.Get("Content-Type"))
		}
	}
	// A HEAD that fails has the status and no body.
	r := w.do("HEAD", "/v2/team/app/manifests/none", "mo", nil).want(t, http.StatusNotFound)
	if len(r.body) != 0 {
		t.Errorf("HEAD has a body: %q", r.body)
	}
	// An upload's POST is taken without the slash at the end, which some forget.
	w.do("POST", "/v2/team/app/blobs/uploads", "mo", nil).want(t, http.StatusAccepted)
}

// TestNotText: bytes that are no text, wherever a client can put them, are the client's
// mistake on both engines: Postgres fails on them, which must not look like a failure of ours.
func TestNotText(t *testing.T) {
	metadatatest.EachURL(t, func(t *testing.T, url string) {
		w := smallOn(t, url, nil)
		w.pushImage("mo", "team/app", "1.0")
		d := digest.FromString("x").String()
		for _, bad := range []string{"%00", "%ff", "%ed%a0%80", "a%00b", "%c0%af"} {
			for _, line := range []string{
				"GET /v2/team/app/tags/list?last=", "GET /v2/_catalog?last=", "GET /v2/team/app/referrers/" + d + "?artifactType=",
				"GET /v2/team/app/referrers/" + d + "?last=", "GET /v2/team/app/manifests/", "GET /v2/team/app/blobs/", "GET /v2/team/app/blobs/uploads/",
				"PATCH /v2/team/app/blobs/uploads/", "DELETE /v2/team/app/blobs/uploads/", "POST /v2/team/app/blobs/uploads/?from=",
				"POST /v2/team/app/blobs/uploads/?mount=" + d + "&from=", "PUT /v2/team/app/manifests/" + d + "?tag=", "GET /token?service=", "GET /token?scope=",
				"GET /token?account=", "GET /.well-known/jwks.json?service=", "GET /v2/certs/pem?service=", "GET /repository/", "GET /repository/team/",
				"GET /repository/team/app/image/", "DELETE /repository/team/app/image/", "PUT /v2/admin/user:mo/", "GET /nowhere/", "GET /v2/",
			} {
				method, path, _ := strings.Cut(line, " ")
				for _, as := range []string{"", "mo", "root"} {
					if r := w.do(method, path+bad, as, nil); r.StatusCode != http.StatusBadRequest {
						t.Errorf("%s%s as %q: %d %s", line, bad, as, r.StatusCode, r.body)
					}
				}
			}
			if r := w.do("GET", "/v2/team/"+bad+"/manifests/1.0", "mo", nil); r.StatusCode != http.StatusBadRequest || r.code() != "NAME_INVALID" {
				t.Errorf("a name: %d %s", r.StatusCode, r.body)
			}
			form := "grant_type=password&username=mo&password=x&service="
			for _, body := range []string{form + bad, strings.Replace(form, "mo", bad, 1), strings.Replace(form, "x", bad, 1), form + "&scope=" + bad} {
				if r := w.do("POST", "/token", "", strings.NewReader(body), "Content-Type", "application/x-www-form-urlencoded"); r.StatusCode != http.StatusBadRequest {
					t.Errorf("%s: %d %s", body, r.StatusCode, r.body)
				}
			}
			// A header takes any bytes; as a name or a password these are wrong ones.
			raw, err := neturl.PathUnescape(bad)
			if err != nil {
				t.Fatal(err)
			}
			for _, userinfo := range []string{raw + ":x", "mo:" + raw, "mo" + raw + ":" + w.accounts["mo"]} {
				basic := "Basic " + base64.StdEncoding.EncodeToString([]byte(userinfo))
				if r := w.do("GET", "/v2/team/app/manifests/1.0", "", nil, "Authorization", basic); r.StatusCode != http.StatusUnauthorized {
					t.Errorf("%q: %d %s", userinfo, r.StatusCode, r.body)
				}
			}
		}
		w.do("GET", "/v2/team/app/tags/list?last=%C3%A4", "mo", nil).want(t, http.StatusOK)
	})
}

// FuzzPath sends any path through the router: it never panics, never redirects,
// and what a handler gets for a name is a name.
func FuzzPath(f *testing.F) {
	for _, s := range []string{"/v2/", "/v2/a/b/manifests/latest", "/v2/a%2fb/manifests/x", "/v2/../x", `/v2/a\b/tags/list`, "/v2/a/manifests/b/manifests/c", "/v2/a/blobs/uploads/x", "/v2/_catalog", "/token", "/v2/a/manifests/%3A", "//", "/%"} {
		f.Add("GET", s)
	}
	var names []string
	s := &Server{metrics: newMetrics(nil), policy: auth.NewPolicy(nil, auth.PolicyOptions{Clock: time.Now}), service: "x"}
	table, _ := s.table(nil)
	for i := range table {
		table[i].need = door.Open
		table[i].handler = func(s *Server, ex *exchange, r *http.Request) error {
			if ex.repository != "" {
				names = append(names, ex.repository)
			}
			return oci.ErrNotFound
		}
	}
	w := newFuzzServer(s, table)
	f.Fuzz(func(t *testing.T, method, target string) {
		r, err := http.NewRequest(method, "http://x", nil)
		if err != nil {
			return
		}
		if r.URL, err = r.URL.Parse(target); err != nil || r.URL.Host != "x" {
			return
		}
		names = names[:0]
		rec := httptest.NewRecorder()
		w.ServeHTTP(rec, r)
		if rec.Code >= 300 && rec.Code < 400 || rec.Code >= 500 || rec.Code == 200 {
			t.Fatalf("%s %q: %d", method, target, rec.Code)
		}
		for _, name := range names {
			if _, err := oci.ParseName(name); err != nil {
				t.Fatalf("%s %q: a handler got the name %q", method, target, name)
			}
			if !strings.Contains(r.URL.EscapedPath(), "%") && !strings.HasPrefix(r.URL.Path, "/v2/"+name+"/") {
				t.Fatalf("%s %q: the name is %q", method, target, name)
			}
		}
	})
}

func newFuzzServer(s *Server, table []*endpoint) http.Handler {
	s.log, s.clock = slog.New(slog.DiscardHandler), time.Now
	s.router = s.newRouter(table, nil)
	return s.Handler()
}

func TestBaseURL(t *testing.T) {
	header := func(kv ...string) http.Header {
		h := http.Header{}
		for i := 0; i < len(kv); i += 2 {
			h.Set(kv[i], kv[i+1])
		}
		return h
	}
	for _, tt := range []struct {
		url   string
		trust bool
		host  string
		h     http.Header
		want  string
	}{
		{"", false, "r.example:5000", nil, "http://r.example:5000"},
		{"https://r.example", false, "other", nil, "https://r.example"},
		{"", false, "r.example", header("X-Forwarded-Proto", "https", "X-Forwarded-Host", "evil.example"), "http://r.example"},
		{"", true, "r.example", header("X-Forwarded-Proto", "https", "X-Forwarded-Host", "public.example"), "https://public.example"},
		{"", true, "r.example", header("X-Forwarded-Proto", "gopher", "X-Forwarded-Host", `x",realm="evil`), "http://r.example"},
		{"", false, `x",realm="evil`, nil, "http://localhost"},
		{"", false, "[::1]:5000", nil, "http://[::1]:5000"},
	} {
		s := &Server{url: tt.url, proxies: Proxies{nearest: tt.trust}}
		r := httptest.NewRequest("GET", "/v2/", nil)
		r.Host = tt.host
		if tt.h != nil {
			r.Header = tt.h
		}
		r = r.WithContext(door.With(r.Context(), &exchange{origin: originOf(r, s.proxies)}))
		if got := s.baseURL(r); got != tt.want {
			t.Errorf("%+v: %q", tt, got)
		}
	}
}

// TestSpoofedHeaders: zot's cluster hop header is set by clients too. We have no
// such header, and take the proxy's only when told to trust it.
func TestSpoofedHeaders(t *testing.T) {
	for _, trust := range []bool{false, true} {
		r := httptest.NewRequest("GET", "/", nil)
		r.RemoteAddr = "192.0.2.1:1234"
		r.Header.Add("X-Forwarded-For", "203.0.113.9")
		r.Header.Add("X-Forwarded-For", "198.51.100.1, 198.51.100.2")
		want := "192.0.2.1"
		if trust {
			want = "198.51.100.2" // what the nearest proxy appended; the rest is hearsay
		}
		if got := originOf(r, Proxies{nearest: trust}).remote; got != want {
			t.Errorf("trust %v: %q, want %q", trust, got, want)
		}
	}
	for id, kept := range map[string]bool{"abc-123_x.y": true, "": false, "a b": false, "a\nb": false, strings.Repeat("a", 65): false, "ä": false} {
		r := httptest.NewRequest("GET", "/", nil)
		r.Header.Set("X-Request-Id", id)
		if got := requestID(r); (got == id) != kept || got == "" {
			t.Errorf("X-Request-Id %q became %q", id, got)
		}
	}
	w := small(t, nil)
	for _, h := range []string{"X-Remote-User", "X-Forwarded-User", "X-Auth-Request-User", "X-Zot-Cluster-Hop-Count"} {
		w.do("GET", "/v2/_catalog", "", nil, h, "root").want(t, http.StatusUnauthorized)
	}
	r := w.do("GET", "/v2/", "", nil, "X-Request-Id", "mine").want(t, http.StatusUnauthorized)
	if r.Header.Get("X-Request-Id") != "mine" || r.Header.Get("Access-Control-Allow-Origin") != "" {
		t.Errorf("headers: %v", r.Header)
	}
}
