package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"berth/auth"
	"berth/metadata"
	"berth/oci"
	"berth/server/door"
)

// TestRefusalsDiffer: why somebody is refused is told apart, with the rule, what
// is missing and whom to ask.
func TestRefusalsDiffer(t *testing.T) {
	w := small(t, nil)
	w.pushImage("mo", "team/app", "1.0")
	w.token(metadata.Token{Kind: metadata.PersonalToken, Name: "readonly", User: "mia", Actions: []string{"pull"}})
	narrow := w.jwt("mo", "repository:team/app:pull")
	w.jwt("mo")
	expired := w.jwt("mo", "repository:team/app:pull,push")
	upload := "/v2/team/app/blobs/uploads/"

	for _, tt := range []struct {
		name, method, path, as string
		status                 int
		code, rule, challenge  string
		ask                    string
	}{
		{"nobody", "POST", upload, "", 401, "UNAUTHORIZED", "not-signed-in", `scope="repository:team/app:pull,push"`, "sign in"},
		{"token too narrow", "POST", upload, narrow, 401, "UNAUTHORIZED", "insufficient-scope", `error="insufficient_scope"`, ""},
		{"no right", "POST", upload, "rita", 403, "DENIED", "team-reader", "", "maintainer of the team team: mia"},
		{"stranger", "GET", "/v2/team/app/tags/list", "fred", 403, "DENIED", "not-a-member", "", "mia"},
		{"opaque token too narrow", "POST", upload, "token:readonly", 403, "DENIED", "token-limit", "", "make a token"},
		{"member deletes", "DELETE", "/v2/team/app/manifests/1.0", "mo", 403, "DENIED", "team-member", "", "mia"},
		{"no team", "POST", "/v2/nowhere/app/blobs/uploads/", "mo", 403, "DENIED", "not-a-member", "", "administrator"},
		{"unknown token", "GET", "/v2/", "jwt:berth_pat_xx", 401, "UNAUTHORIZED", "credentials", `error="invalid_token"`, ""},
		{"garbage", "GET", "/v2/", "jwt:a.b.c", 401, "UNAUTHORIZED", "token-invalid", `error="invalid_token"`, ""},
	} {
		r := w.do(tt.method, tt.path, tt.as, nil)
		if r.StatusCode != tt.status || r.code() != tt.code || r.detail("rule") != tt.rule || !strings.Contains(r.detail("ask"), tt.ask) {
			t.Errorf("%s: %d %s", tt.name, r.StatusCode, r.body)
		}
		challenges := r.Header.Values("WWW-Authenticate")
		if tt.challenge == "" && len(challenges) != 0 || tt.challenge != "" && (len(challenges) != 1 || !strings.Contains(challenges[0], tt.challenge)) {
			t.Errorf("%s: WWW-Authenticate %q", tt.name, challenges)
		}
		if r.detail("principal") == "" || r.detail("request_id") == "" {
			t.Errorf("%s: detail lacks principal or request_id: %s", tt.name, r.body)
		}
	}

	w.clock.forward(time.Hour)
	r := w.do("POST", upload, expired, nil).want(t, http.StatusUnauthorized)
	if r.detail("rule") != "token-expired" || !strings.Contains(r.Header.Get("WWW-Authenticate"), "invalid_token") {
		t.Errorf("expired: %s", r.body)
	}
}

// TestAlterationOfRights: what changes in the database holds for the next
// request with a password or an opaque token, and for the next bearer token.
// CVE-2025-23208: a removal counts as much as an addition.
func TestAlterationOfRights(t *testing.T) {
	w := small(t, nil)
	w.pushImage("mo", "team/app", "1.0")
	w.token(metadata.Token{Kind: metadata.PersonalToken, Name: "pat", User: "mo", Actions: []string{"pull", "push"}})
	path := "/v2/team/app/tags/list"
	for _, as := range []string{"mo", "token:pat"} {
		w.do("GET", path, as, nil).want(t, http.StatusOK)
	}
	w.update(func(ctx context.Context, tx *metadata.Tx) error { return tx.RemoveMember(ctx, "team", "mo") })
	for _, as := range []string{"mo", "token:pat", w.jwt("mo", "repository:team/app:pull")} {
		w.do("GET", path, as, nil).want(t, http.StatusForbidden)
	}
	disabled := true
	w.update(func(ctx context.Context, tx *metadata.Tx) error {
		_, err := tx.UpdateUser(ctx, "mo", metadata.UserChange{Disabled: &disabled})
		return err
	})
	for _, as := range []string{"mo", "token:pat"} {
		w.do("GET", "/v2/", as, nil).want(t, http.StatusUnauthorized)
		w.do("GET", "/token", as, nil).want(t, http.StatusUnauthorized)
	}
}

// TestMountOracle is CVE-2024-39897: neither HEAD nor mount tells about, or
// links, a blob that the caller could not pull.
func TestMountOracle(t *testing.T) {
	w := small(t, nil)
	_, layer := w.pushImage("mo", "team/app", "1.0")
	w.do("HEAD", "/v2/other/app/blobs/"+layer.String(), "fred", nil).want(t, http.StatusNotFound)
	for _, query := range []string{"&from=team/app", "&from=team/none", ""} {
		r := w.do("POST", "/v2/other/app/blobs/uploads/?mount="+layer.String()+query, "fred", nil).want(t, http.StatusAccepted)
		if r.Header.Get("Docker-Content-Digest") != "" || !strings.HasPrefix(r.Header.Get("Location"), "/v2/other/app/blobs/uploads/") {
			t.Errorf("%s: %v", query, r.Header)
		}
	}
	w.do("HEAD", "/v2/other/app/blobs/"+layer.String(), "fred", nil).want(t, http.StatusNotFound)

	// With the right to pull it is linked at once, with and without from.
	w.team("second", "mo=member")
	for i, query := range []string{"&from=team/app", ""} {
		repo := "second/app" + string(rune('0'+i))
		r := w.do("POST", "/v2/"+repo+"/blobs/uploads/?mount="+layer.String()+query, "mo", nil).want(t, http.StatusCreated)
		if r.Header.Get("Location") != "/v2/"+repo+"/blobs/"+layer.String() || r.Header.Get("Docker-Content-Digest") != layer.String() {
			t.Errorf("%v", r.Header)
		}
		w.do("HEAD", r.Header.Get("Location"), "mo", nil).want(t, http.StatusOK)
	}
}

// TestMountWithBearerToken: the token has to carry pull on the source. When its
// bearer may have such a token, the challenge names both scopes.
func TestMountWithBearerToken(t *testing.T) {
	w := small(t, nil)
	_, layer := w.pushImage("mo", "team/app", "1.0")
	w.team("second", "mo=member")
	path := "/v2/second/app/blobs/uploads/?mount=" + layer.String()
	here := "repository:second/app:pull,push"
	for _, query := range []string{"&from=team/app", ""} {
		r := w.do("POST", path+query, w.jwt("mo", here), nil).want(t, http.StatusUnauthorized)
		if want := `scope="` + here + ` repository:team/app:pull"`; !strings.Contains(r.Header.Get("WWW-Authenticate"), want) {
			t.Errorf("%s: %s lacks %s", query, r.Header.Get("WWW-Authenticate"), want)
		}
		w.do("POST", path+query, w.jwt("mo", here+" repository:team/app:pull"), nil).want(t, http.StatusCreated)
		w.update(func(ctx context.Context, tx *metadata.Tx) error {
			return tx.DeleteRepository(ctx, "second/app", metadata.Actor{Name: "test"})
		})
	}
	// One who may not pull there gets an upload, whatever the token was asked for.
	w.do("POST", strings.Replace(path, "second", "other", 1)+"&from=team/app", w.jwt("fred", "repository:other/app:pull,push", "repository:team/app:pull"), nil).want(t, http.StatusAccepted)
	// A public source needs no scope.
	w.visibility("team/app", metadata.Public)
	w.do("POST", strings.Replace(path, "second", "other", 1)+"&from=team/app", w.jwt("fred", "repository:other/app:pull,push"), nil).want(t, http.StatusCreated)
}

// TestUploadSessionOfAnother is CVE-2026-32589: an upload belongs to its
// repository and to who began it.
func TestUploadSessionOfAnother(t *testing.T) {
	w := small(t, nil)
	w.user("mo2", metadata.RoleUser)
	w.update(func(ctx context.Context, tx *metadata.Tx) error { return tx.PutMember(ctx, "team", "mo2", "member") })
	location := w.do("POST", "/v2/team/app/blobs/uploads/", "mo", nil).want(t, http.StatusAccepted).Header.Get("Location")
	elsewhere := strings.Replace(location, "team/app", "team/other", 1)
	foreign := strings.Replace(location, "team/app", "other/app", 1)
	d := digest.FromString("x").String()
	for _, tt := range []struct{ as, path string }{{"mo2", location}, {"mo", elsewhere}, {"fred", foreign}, {"root", location}} {
		w.do("GET", tt.path, tt.as, nil).want(t, http.StatusNotFound)
		w.do("PATCH", tt.path, tt.as, strings.NewReader("x")).want(t, http.StatusNotFound)
		w.do("PUT", tt.path+"?digest="+d, tt.as, strings.NewReader("x")).want(t, http.StatusNotFound)
		w.do("DELETE", tt.path, tt.as, nil).want(t, http.StatusNotFound)
	}
	w.do("PUT", location+"?digest="+d, "mo", strings.NewReader("x")).want(t, http.StatusCreated)
	if len(location) < len("/v2/team/app/blobs/uploads/")+32 {
		t.Errorf("the id in %s has less than 128 bits", location)
	}
}

// TestDeletedBlobStaysDeleted is CVE-2026-35172: nothing remembers a blob for a
// repository that it was deleted from.
func TestDeletedBlobStaysDeleted(t *testing.T) {
	w := small(t, nil)
	d := w.pushBlob("mo", "team/app", []byte("gone soon")).String()
	w.pushBlob("mo", "team/kept", []byte("gone soon"))
	w.do("GET", "/v2/team/app/blobs/"+d, "mo", nil).want(t, http.StatusOK)
	w.do("DELETE", "/v2/team/app/blobs/"+d, "mia", nil).want(t, http.StatusAccepted)
	w.do("GET", "/v2/team/app/blobs/"+d, "mo", nil).want(t, http.StatusNotFound)
	w.do("HEAD", "/v2/team/app/blobs/"+d, "mo", nil).want(t, http.StatusNotFound)
	w.do("GET", "/v2/team/kept/blobs/"+d, "mo", nil).want(t, http.StatusOK)
	w.do("DELETE", "/v2/team/app/blobs/"+d, "mia", nil).want(t, http.StatusNotFound)
}

// TestDelete: tags and manifests, by those who may.
func TestDelete(t *testing.T) {
	w := small(t, nil)
	manifest, _ := w.pushImage("mo", "team/app", "1.0")
	w.do("DELETE", "/v2/team/app/manifests/1.0", "mia", nil).want(t, http.StatusAccepted)
	w.do("GET", "/v2/team/app/manifests/1.0", "mia", nil).want(t, http.StatusNotFound)
	w.do("GET", "/v2/team/app/manifests/"+manifest.String(), "mia", nil).want(t, http.StatusOK)
	w.do("DELETE", "/v2/team/app/manifests/"+manifest.String(), w.jwt("mia", "repository:team/app:*"), nil).want(t, http.StatusAccepted)
	w.do("GET", "/v2/team/app/manifests/"+manifest.String(), "mia", nil).want(t, http.StatusNotFound)
	w.do("DELETE", "/v2/team/app/manifests/"+manifest.String(), "mia", nil).want(t, http.StatusNotFound)
}

// unsure is an authenticator whose directory is down.
type unsure struct{ err error }

func (u unsure) Authenticate(context.Context, auth.Credentials) (auth.Principal, error) {
	return auth.Principal{}, u.err
}

// TestFailClosed: what cannot be said is 503. It is never "allowed", and never
// "wrong password", on which clients throw credentials away
// (GHSA-2v5f-5r6w-p67r, peers.md D.3).
func TestFailClosed(t *testing.T) {
	for name, err := range map[string]error{
		"directory down":  oci.ErrUnavailable,
		"strange failure": errors.New("unexpected"),
		"deadline":        context.DeadlineExceeded,
	} {
		t.Run(name, func(t *testing.T) {
			w := small(t, func(_ *world, o *Options) { o.Auth = unsure{err} })
			for _, path := range []string{"/v2/", "/v2/team/app/tags/list", "/v2/_catalog", "/token?scope=repository:team/app:pull"} {
				r := w.do("GET", path, "mo", nil).want(t, http.StatusServiceUnavailable)
				if r.code() != "UNAVAILABLE" || r.Header.Get("Retry-After") == "" || r.Header.Get("WWW-Authenticate") != "" || strings.Contains(string(r.body), "unexpected") {
					t.Errorf("%s: %v %s", path, r.Header, r.body)
				}
			}
		})
	}

	w := small(t, nil)
	w.pushImage("mo", "team/app", "1.0")
	jwt := w.jwt("mo", "repository:team/app:pull")
	w.db.Close()
	for _, as := range []string{"", "mo", jwt} {
		for _, path := range []string{"/v2/team/app/tags/list", "/v2/team/app/manifests/1.0"} {
			r := w.do("GET", path, as, nil)
			if as != jwt { // the one that needs no query to be allowed gets the handler's own failure
				r.want(t, http.StatusServiceUnavailable)
			}
			if r.StatusCode < 500 || r.Header.Get("WWW-Authenticate") != "" || strings.Contains(string(r.body), "sql") {
				t.Errorf("%s as %q: %d %s", path, as, r.StatusCode, r.body)
			}
		}
	}
	ready := w.do("GET", "/readyz", "", nil).want(t, http.StatusServiceUnavailable)
	if string(ready.body) != "database failed\nstorage ok\n" {
		t.Errorf("readyz: %s", ready.body)
	}
	w.do("GET", "/livez", "", nil).want(t, http.StatusOK)
}

// TestThrottle: guesses at one name from one address are slowed down, and
// nobody else notices.
func TestThrottle(t *testing.T) {
	w := small(t, nil)
	w.do("GET", "/v2/", "mo", nil).want(t, http.StatusOK) // known to be right from here on
	guess := func(name string) reply {
		r, err := http.NewRequest("GET", w.http.URL+"/v2/", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.SetBasicAuth(name, "guess")
		resp, err := w.http.Client().Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		return reply{resp, nil}
	}
	limited := false
	for range 12 {
		if r := guess("mo"); r.StatusCode == http.StatusTooManyRequests {
			if limited = true; r.Header.Get("Retry-After") == "" {
				t.Error("429 without Retry-After")
			}
		}
	}
	if !limited {
		t.Error("12 guesses were taken")
	}
	w.do("GET", "/v2/", "mo", nil).want(t, http.StatusOK)   // the honest one at the same address
	w.do("GET", "/v2/", "rita", nil).want(t, http.StatusOK) // another name
	w.clock.forward(time.Minute)
	if r := guess("mo"); r.StatusCode != http.StatusUnauthorized {
		t.Errorf("after a minute: %d", r.StatusCode)
	}
}

// TestManagementAPI: the server authenticates before it hands over.
func TestManagementAPI(t *testing.T) {
	api := apiDoor{handler: func(ex door.Exchange, r *http.Request) error {
		if strings.HasSuffix(r.URL.Path, "/fail") {
			return oci.Errorf(oci.CodeConflict, "no").WithDetail(map[string]string{"why": "x"})
		}
		ex.JSON(http.StatusOK, map[string]any{"who": ex.Actor().String(), "admin": ex.Actor().IsAdmin(), "id": ex.RequestID()})
		return nil
	}}
	w := small(t, func(_ *world, o *Options) { o.Doors = []door.Door{api} })
	w.token(metadata.Token{Kind: metadata.PersonalToken, Name: "ci", User: "root", Actions: []string{"pull"}})
	w.token(metadata.Token{Kind: metadata.PersonalToken, Name: "ops", User: "root", Actions: []string{"admin"}})
	w.token(metadata.Token{Kind: metadata.PersonalToken, Name: "narrow", User: "root", Actions: []string{"admin"}, Repositories: "team/*"})

	for _, tt := range []struct {
		as     string
		status int
		who    string
		admin  bool
	}{
		{"", 401, "", false},
		{"mo", 200, "mo", false},
		{"root", 200, "root", true},
		{"token:ci", 403, "", false},
		{"token:ops", 200, "root", true},
		{"token:narrow", 200, "root", false},
		{w.jwt("root", "repository:a:pull"), 401, "", false},
		{w.jwt("root", "berth:api:*"), 200, "root", true},
		{w.jwt("token:ci", "berth:api:*"), 401, "", false},
		{w.jwt("", "berth:api:*"), 401, "", false},
	} {
		r := w.do("GET", "/api/v1/users", tt.as, nil)
		var got struct {
			Who, ID string
			Admin   bool
		}
		_ = json.Unmarshal(r.body, &got)
		if r.StatusCode != tt.status || tt.status == 200 && (got.Who != tt.who || got.Admin != tt.admin || got.ID != r.Header.Get("X-Request-Id")) {
			t.Errorf("%.20s: %d %s", tt.as, r.StatusCode, r.body)
		}
		if r.StatusCode != 200 && r.Header.Get("Content-Type") != "application/problem+json" {
			t.Errorf("%.20s: %s", tt.as, r.Header.Get("Content-Type"))
		}
		if r.StatusCode == 401 && !strings.Contains(r.Header.Get("WWW-Authenticate"), `scope="berth:api:*"`) {
			t.Errorf("%.20s: %s", tt.as, r.Header.Get("WWW-Authenticate"))
		}
	}
	w.do("GET", "/api/openapi.yaml", "", nil).want(t, http.StatusOK)
	var p Problem
	r := w.do("POST", "/api/v1/fail", "root", nil).want(t, http.StatusConflict)
	if err := json.Unmarshal(r.body, &p); err != nil || p.Status != 409 || p.Code != "CONFLICT" || p.Detail != "no" || p.RequestID == "" {
		t.Errorf("problem: %s", r.body)
	}

	// A bearer token from before its owner was demoted or disabled.
	jwt := w.jwt("root", "berth:api:*")
	role, disabled := metadata.RoleUser, true
	w.user("root2", metadata.RoleAdmin)
	w.update(func(ctx context.Context, tx *metadata.Tx) error {
		_, err := tx.UpdateUser(ctx, "root", metadata.UserChange{Role: &role})
		return err
	})
	if r := w.do("GET", "/api/v1/users", jwt, nil).want(t, http.StatusOK); !bytes.Contains(r.body, []byte(`"admin":false`)) {
		t.Errorf("a former admin: %s", r.body)
	}
	w.update(func(ctx context.Context, tx *metadata.Tx) error {
		_, err := tx.UpdateUser(ctx, "root", metadata.UserChange{Disabled: &disabled})
		return err
	})
	w.do("GET", "/api/v1/users", jwt, nil).want(t, http.StatusUnauthorized)
}

// TestMalformedAuthorization: none of it is taken, none of it is a 500.
func TestMalformedAuthorization(t *testing.T) {
	w := small(t, nil)
	for _, header := range []string{
		"Basic", "Basic !!!", "Basic bm9jb2xvbg==", "Basic Og==", "Bearer", "Bearer  ", "Bearer a b", "Digest x", "Negotiate", "basic " + strings.Repeat("A", 60000),
		"Bearer " + strings.Repeat("a", 20000), "Bearer " + strings.Repeat("a.", 2) + strings.Repeat("a", 20000), "Bearer ..", "Bearer \x01.b.c",
	} {
		r := httptest.NewRequest("GET", "/v2/", nil)
		r.Header.Set("Authorization", header)
		rec := httptest.NewRecorder()
		w.server.Handler().ServeHTTP(rec, r)
		if rec.Code != http.StatusUnauthorized {
			t.Errorf("%.30q: %d %s", header, rec.Code, rec.Body)
		}
	}
	// A user name with NUL or of 1 MB never reaches the database as such.
	for _, name := range []string{"a\x00b", "'; DROP TABLE users; --", strings.Repeat("a", 2000), "team+robot", "anonymous"} {
		r := httptest.NewRequest("GET", "/v2/", nil)
		r.SetBasicAuth(name, "x")
		rec := httptest.NewRecorder()
		w.server.Handler().ServeHTTP(rec, r)
		if rec.Code != http.StatusUnauthorized {
			t.Errorf("%.30q: %d", name, rec.Code)
		}
	}
}
