package server

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"berth/auth"
	"berth/auth/token"
	"berth/metadata"
)

// from makes a request from an address.
func (w *world) from(address, method, path, authorization string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, nil)
	r.RemoteAddr = address
	if authorization != "" {
		r.Header.Set("Authorization", authorization)
	}
	rec := httptest.NewRecorder()
	w.server.Handler().ServeHTTP(rec, r)
	return rec
}

// TestTagPattern: a token with a tag pattern pushes and deletes only such tags, also by the
// tag parameters of a push by digest (zot #4266), and not by digest, which takes every tag.
// The pattern travels in the bearer token (CVE-2025-68944).
func TestTagPattern(t *testing.T) {
	w := small(t, nil)
	m, _ := w.pushImage("mo", "team/app", "dev")
	w.do("GET", "/v2/team/app/manifests/dev", "mo", nil).want(t, http.StatusOK)
	raw := w.do("GET", "/v2/team/app/manifests/dev", "mo", nil).body
	w.token(metadata.Token{Kind: metadata.RobotToken, Name: "release", Team: "team", Actions: []string{"pull", "push", "delete"}, Tags: "v*"})
	w.token(metadata.Token{Kind: metadata.DeployToken, Name: "prod", Team: "team", Actions: []string{"pull"}, Tags: "v*"})
	w.token(metadata.Token{Kind: metadata.RobotToken, Name: "stars", Team: "team", Actions: []string{"push"}, Tags: "**"})

	const manifests = "/v2/team/app/manifests/"
	for _, as := range []string{"token:release", w.jwt("release", "repository:team/app:pull,push,delete")} {
		put := func(path string, status int) {
			t.Helper()
			r := w.do("PUT", manifests+path, as, bytes.NewReader(raw), "Content-Type", imageManifest)
			if r.StatusCode != status || status == 403 && (r.code() != "DENIED" || r.detail("rule") != "token-limit") {
				t.Errorf("%s: PUT %s: %d %s", as[:5], path, r.StatusCode, r.body)
			}
		}
		put("v1", 201)
		put("latest", 403)
		put("xv1", 403)
		put(m.String(), 201)
		put(m.String()+"?tag=v2&tag=v3", 201)
		put(m.String()+"?tag=v2&tag=latest", 403)
		put(m.String()+"?tag=", 403)
		w.do("DELETE", manifests+"dev", as, nil).want(t, http.StatusForbidden)
		w.do("DELETE", manifests+m.String(), as, nil).want(t, http.StatusForbidden)
		w.do("DELETE", manifests+"v1", as, nil).want(t, http.StatusAccepted)
		// What it may pull is not narrowed: it has other uses.
		w.do("GET", manifests+"dev", as, nil).want(t, http.StatusOK)
	}
	// One that can only pull is narrowed in that.
	for _, as := range []string{"token:prod", w.jwt("prod", "repository:team/app:pull")} {
		w.do("GET", manifests+"v2", as, nil).want(t, http.StatusOK)
		w.do("HEAD", manifests+"v2", as, nil).want(t, http.StatusOK)
		w.do("GET", manifests+"dev", as, nil).want(t, http.StatusForbidden)
		w.do("HEAD", manifests+"dev", as, nil).want(t, http.StatusForbidden)
		w.do("GET", manifests+m.String(), as, nil).want(t, http.StatusOK)
		w.do("PUT", manifests+"v9", as, bytes.NewReader(raw), "Content-Type", imageManifest).want(t, http.StatusForbidden)
	}
	// Nor does it administer a repository by the API of d.ims.io.
	w.token(metadata.Token{Kind: metadata.PersonalToken, Name: "tagged", User: "mia", Actions: auth.AllActions.Names(), Tags: "v*"})
	w.do("DELETE", "/repository/team/app/image/dev", "tagged", nil).want(t, http.StatusForbidden)
	w.do("DELETE", "/repository/team/app", "tagged", nil).want(t, http.StatusForbidden)
	w.do("PUT", manifests+"any", "token:stars", bytes.NewReader(raw), "Content-Type", imageManifest).want(t, http.StatusCreated)
	w.do("GET", manifests+"dev", "mo", nil).want(t, http.StatusOK) // nothing took it
}

// TestSourceNetworks: a token is refused from elsewhere, at the sign-in, and as the bearer
// token that was made for it and carried away, whatever the request is.
func TestSourceNetworks(t *testing.T) {
	w := small(t, nil)
	w.pushImage("mo", "team/app", "1.0")
	w.visibility("team/app", metadata.Public)
	w.token(metadata.Token{Kind: metadata.RobotToken, Name: "cluster", Team: "team", Actions: []string{"pull"}, CIDRs: []string{"10.0.0.0/8", "2001:db8::/32"}})
	basic := "Basic " + base64.StdEncoding.EncodeToString([]byte("x:"+w.accounts["cluster"]))
	opaque := "Bearer " + w.accounts["cluster"]

	const tags = "/v2/team/app/tags/list"
	scope := "/token?" + url.Values{"service": {"registry.test"}, "scope": {"repository:team/app:pull"}}.Encode()
	for _, header := range []string{basic, opaque} {
		for _, address := range []string{"10.1.2.3:4", "[2001:db8::1]:4", "[::ffff:10.1.2.3]:4"} {
			if r := w.from(address, "GET", tags, header); r.Code != http.StatusOK {
				t.Errorf("%s: %d %s", address, r.Code, r.Body)
			}
		}
		for _, address := range []string{"11.1.2.3:4", "[2001:db9::1]:4", "10.0.0.1.evil:4", ""} {
			for _, path := range []string{tags, scope, "/v2/"} {
				r := w.from(address, "GET", path, header)
				if r.Code != http.StatusUnauthorized || !strings.Contains(r.Body.String(), "token-network") || !strings.Contains(r.Body.String(), "10.0.0.0/8") {
					t.Errorf("%s from %q: %d %s", path, address, r.Code, r.Body)
				}
			}
		}
	}
	inside := w.from("10.1.2.3:4", "GET", scope, basic)
	jwt := "Bearer " + strings.Split(strings.SplitN(inside.Body.String(), `"token":"`, 2)[1], `"`)[0]
	for _, path := range []string{tags, "/v2/", "/v2/_catalog"} {
		if r := w.from("10.9.9.9:4", "GET", path, jwt); r.Code == http.StatusForbidden {
			t.Errorf("%s from inside: %d %s", path, r.Code, r.Body)
		}
		// Public or not: a token that is stolen is told so.
		if r := w.from("11.1.2.3:4", "GET", path, jwt); r.Code != http.StatusForbidden || !strings.Contains(r.Body.String(), "token-network") {
			t.Errorf("%s from outside: %d %s", path, r.Code, r.Body)
		}
	}
	var used *time.Time
	w.update(func(ctx context.Context, tx *metadata.Tx) error {
		token, err := tx.Token(ctx, "", "team", "cluster")
		used = token.LastUsedAt
		if token.LastUsedFrom != "10.1.2.3" {
			t.Errorf("last used from %q", token.LastUsedFrom)
		}
		return err
	})
	if used == nil {
		t.Error("the use was not noted")
	}
}

// TestRotatedSecret: with an overlap both secrets sign in until it is over; then the
// old one is told so, and what was signed in with it ends: peers.md D.3, "revoked robot".
func TestRotatedSecret(t *testing.T) {
	w := small(t, nil)
	w.pushImage("mo", "team/app", "1.0")
	w.token(metadata.Token{Kind: metadata.RobotToken, Name: "ci", Team: "team", Actions: []string{"pull"}})
	old := w.accounts["ci"]
	form := url.Values{"grant_type": {"password"}, "username": {"x"}, "password": {old}, "access_type": {"offline"}, "scope": {"repository:team/app:pull"}}
	login := func(v url.Values) reply {
		return w.do("POST", "/token", "", strings.NewReader(v.Encode()), "Content-Type", "application/x-www-form-urlencoded")
	}
	a, _ := answerOf(t, login(form))
	refresh := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {a.RefreshToken}, "scope": {"repository:team/app:pull"}}

	secret, hash := auth.NewSecret(auth.RobotPrefix)
	w.update(func(ctx context.Context, tx *metadata.Tx) error {
		_, err := tx.RotateToken(ctx, "", "team", "ci", hash, time.Hour)
		return err
	})
	w.accounts["new"] = secret
	const tags = "/v2/team/app/tags/list"
	w.do("GET", tags, "token:ci", nil).want(t, http.StatusOK)
	w.do("GET", tags, "token:new", nil).want(t, http.StatusOK)
	login(refresh).want(t, http.StatusOK)
	w.clock.forward(2 * time.Hour)
	if r := w.do("GET", tags, "token:ci", nil).want(t, http.StatusUnauthorized); !strings.Contains(string(r.body), "has another secret since") {
		t.Errorf("%s", r.body)
	}
	login(refresh).want(t, http.StatusUnauthorized)
	w.do("GET", tags, "token:new", nil).want(t, http.StatusOK)

	// Deleted: at once for the secret and for refresh tokens, and with the life of
	// the bearer token (5 minutes) for what is under way.
	form.Set("password", secret)
	if err := json.Unmarshal(login(form).want(t, http.StatusOK).body, &a); err != nil {
		t.Fatal(err)
	}
	refresh.Set("refresh_token", a.RefreshToken)
	w.update(func(ctx context.Context, tx *metadata.Tx) error { return tx.DeleteToken(ctx, "", "team", "ci") })
	w.do("GET", tags, "token:new", nil).want(t, http.StatusUnauthorized)
	login(refresh).want(t, http.StatusUnauthorized)
	w.clock.forward(6 * time.Minute)
	w.do("GET", tags, "jwt:"+a.Token, nil).want(t, http.StatusUnauthorized)
}

// TestRevokedUser: peers.md D.3, "revoked user", "group removal". A personal token is
// never more than its user is at that moment.
func TestRevokedUser(t *testing.T) {
	w := small(t, nil)
	w.pushImage("mo", "team/app", "1.0")
	w.token(metadata.Token{Kind: metadata.PersonalToken, Name: "laptop", User: "mo", Actions: []string{"pull", "push", "delete", "admin"}})
	const upload = "/v2/team/app/blobs/uploads/"
	push := func(as string) int { return w.do("POST", upload, as, nil).StatusCode }
	if got := push("token:laptop"); got != http.StatusAccepted {
		t.Fatalf("a member's token: %d", got)
	}
	// Delete is carried by the token and not by its user.
	w.do("DELETE", "/v2/team/app/manifests/1.0", "token:laptop", nil).want(t, http.StatusForbidden)
	set := func(fn func(ctx context.Context, tx *metadata.Tx) error) { t.Helper(); w.update(fn) }
	set(func(ctx context.Context, tx *metadata.Tx) error { return tx.PutMember(ctx, "team", "mo", "reader") })
	if got := push("token:laptop"); got != http.StatusForbidden {
		t.Errorf("a reader's token pushes: %d", got)
	}
	set(func(ctx context.Context, tx *metadata.Tx) error { return tx.RemoveMember(ctx, "team", "mo") })
	w.do("GET", "/v2/team/app/tags/list", "token:laptop", nil).want(t, http.StatusForbidden)
	set(func(ctx context.Context, tx *metadata.Tx) error {
		disabled := true
		_, err := tx.UpdateUser(ctx, "mo", metadata.UserChange{Disabled: &disabled})
		return err
	})
	w.do("GET", "/v2/", "token:laptop", nil).want(t, http.StatusUnauthorized)
	set(func(ctx context.Context, tx *metadata.Tx) error { return tx.DeleteUser(ctx, "mo") })
	w.do("GET", "/v2/", "token:laptop", nil).want(t, http.StatusUnauthorized)
}

// TestRobotOfAnotherTenant: peers.md D.2, Harbor CVE-2022-31666 and others: a robot acts in
// its own team whatever its pattern says, and a deploy token never administers.
func TestRobotOfAnotherTenant(t *testing.T) {
	w := small(t, nil)
	w.pushImage("mo", "team/app", "1.0")
	w.token(metadata.Token{Kind: metadata.RobotToken, Name: "stranger", Team: "other", Actions: []string{"pull", "push", "delete", "admin"}})
	w.token(metadata.Token{Kind: metadata.RobotToken, Name: "wide", Team: "other", Repositories: "team/*", Actions: []string{"pull", "push", "delete", "admin"}})
	for _, as := range []string{"token:stranger", "token:wide"} {
		w.do("GET", "/v2/team/app/tags/list", as, nil).want(t, http.StatusForbidden)
		w.do("POST", "/v2/team/app/blobs/uploads/", as, nil).want(t, http.StatusForbidden)
		w.do("DELETE", "/v2/team/app/manifests/1.0", as, nil).want(t, http.StatusForbidden)
	}
}

// TestProvenance: what the identity provider said of a job travels in its bearer token, and
// stays with the tag and in the audit log.
func TestProvenance(t *testing.T) {
	w := small(t, nil)
	w.pushImage("mo", "team/app", "1.0")
	raw := w.do("GET", "/v2/team/app/manifests/1.0", "mo", nil).body
	job := auth.Principal{
		Kind: auth.KindRobot, Name: "release", Team: "team", TrustID: 7,
		Limit:  &auth.Limit{Repositories: "team/*", Actions: auth.Pull | auth.Push, Tags: "v*"},
		Claims: map[string]string{"repository": "acme/app", "workflow": "release"},
	}
	jwt, _, err := w.server.tokens.Issue(t.Context(), job, "registry.test", []token.Access{{Type: "repository", Name: "team/app", Actions: []string{"pull", "push"}}})
	if err != nil {
		t.Fatal(err)
	}
	put := func(tag string) reply {
		return w.do("PUT", "/v2/team/app/manifests/"+tag, "jwt:"+jwt, bytes.NewReader(raw), "Content-Type", imageManifest)
	}
	put("v1").want(t, http.StatusCreated)
	put("latest").want(t, http.StatusForbidden)
	w.update(func(ctx context.Context, tx *metadata.Tx) error {
		history, err := tx.TagHistory(ctx, "team/app", "v1", 0, 10)
		if err != nil {
			return err
		}
		if len(history) != 1 || history[0].Actor != "team+release" || history[0].Claims["workflow"] != "release" {
			t.Errorf("history %+v", history)
		}
		events, err := tx.AuditEvents(ctx, metadata.AuditFilter{Principal: "team+release", Limit: 10})
		if len(events) != 1 || events[0].Actor.Claims["repository"] != "acme/app" || events[0].Actor.Address != "127.0.0.1" {
			t.Errorf("events %+v", events)
		}
		return err
	})
}
