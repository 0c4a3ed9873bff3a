package server

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"berth/auth"
	"berth/auth/token"
	"berth/metadata"
)

// grant gives a user or a group rights, and takes them away with no actions.
func (w *world) grant(to metadata.Grantee, pattern string, actions ...string) {
	w.t.Helper()
	w.update(func(ctx context.Context, tx *metadata.Tx) error {
		if len(actions) == 0 {
			return tx.DeleteGrant(ctx, to, pattern)
		}
		_, _, err := tx.PutGrant(ctx, to, pattern, actions, "test")
		return err
	})
}

func (w *world) deny(d metadata.Denial) {
	w.t.Helper()
	if d.Principal == "" {
		d.Principal = "*"
	}
	if d.Repository == "" {
		d.Repository = "*"
	}
	w.update(func(ctx context.Context, tx *metadata.Tx) error { _, _, err := tx.PutDenial(ctx, d); return err })
}

// TestRemovalCounts is CVE-2025-23208: what is taken away is gone at the next
// token, be it a grant, a place in a group, the group, or the word of a provider.
func TestRemovalCounts(t *testing.T) {
	w := small(t, nil)
	w.pushImage("mo", "team/app", "1.0")
	fred, devs := metadata.Grantee{User: "fred"}, metadata.Grantee{Group: "devs"}
	w.update(func(ctx context.Context, tx *metadata.Tx) error { _, err := tx.CreateGroup(ctx, "devs"); return err })
	external := auth.Identity{Provider: "ldap", Subject: "1", Name: "ext"}
	w.external(external)
	// carries is what a new token holds, for a request with the credential too.
	carries := func(as string) string {
		t.Helper()
		_, access := answerOf(t, w.do("GET", "/token?service=registry.test&scope=repository:team/app:pull,push,delete", as, nil))
		var got string
		if len(access) > 0 {
			got = strings.Join(access[0].Actions, ",")
		}
		status := http.StatusForbidden
		if strings.Contains(got, "pull") {
			status = http.StatusOK
		}
		w.do("GET", "/v2/team/app/tags/list", as, nil).want(t, status)
		r := w.do("GET", "/v2/_catalog", as, nil).want(t, http.StatusOK)
		if listed := strings.Contains(string(r.body), "team/app"); listed != (status == http.StatusOK) {
			t.Errorf("%s: %q is carried, and the catalog is %s", as, got, r.body)
		}
		return got
	}
	group := func(f func(ctx context.Context, tx *metadata.Tx) error) func() { return func() { w.update(f) } }
	disable := func(disabled bool) func() {
		return group(func(ctx context.Context, tx *metadata.Tx) error {
			_, err := tx.SetGroupDisabled(ctx, "devs", disabled)
			return err
		})
	}
	signIn := func(teams map[string]string, groups ...string) func() {
		return func() {
			external.Teams, external.Groups = teams, groups
			w.external(external)
		}
	}
	for _, step := range []struct {
		name     string
		do       func()
		as, want string
	}{
		{"nothing", func() {}, "fred", ""},
		{"a grant", func() { w.grant(fred, "team/app", "pull", "push") }, "fred", "pull,push"},
		{"a smaller grant", func() { w.grant(fred, "team/app", "pull") }, "fred", "pull"},
		{"no grant", func() { w.grant(fred, "team/app") }, "fred", ""},
		{"a grant to a group of others", func() { w.grant(devs, "team/*", "pull", "delete") }, "fred", ""},
		{"in the group", group(func(ctx context.Context, tx *metadata.Tx) error { return tx.PutGroupMember(ctx, "devs", "fred") }), "fred", "pull,delete"},
		{"the group is disabled", disable(true), "fred", ""},
		{"the group is enabled", disable(false), "fred", "pull,delete"},
		{"out of the group", group(func(ctx context.Context, tx *metadata.Tx) error { return tx.RemoveGroupMember(ctx, "devs", "fred") }), "fred", ""},
		{"the provider names nothing", func() {}, "token:ext", ""},
		{"the provider names the group", signIn(nil, "devs"), "token:ext", "pull,delete"},
		{"the provider names a team too", signIn(map[string]string{"team": "member"}, "devs"), "token:ext", "pull,push,delete"},
		{"the provider names the team alone", signIn(map[string]string{"team": "reader"}), "token:ext", "pull"},
		{"the provider names nothing again", signIn(nil), "token:ext", ""},
		{"the group is deleted", group(func(ctx context.Context, tx *metadata.Tx) error {
			if err := tx.PutGroupMember(ctx, "devs", "fred"); err != nil {
				return err
			}
			return tx.DeleteGroup(ctx, "devs")
		}), "fred", ""},
	} {
		step.do()
		if got := carries(step.as); got != step.want {
			t.Errorf("%s: %q, want %q", step.name, got, step.want)
		}
	}
}

// TestDenied: denials win over everything, for new tokens at once and for those
// that are about within seconds, from the caller's address.
func TestDenied(t *testing.T) {
	w := small(t, func(_ *world, o *Options) { o.Proxies = AnyProxy() })
	w.pushImage("mo", "team/app", "1.0")
	w.pushImage("mo", "team/open", "1.0")
	w.visibility("team/open", metadata.Public)
	list := "/v2/team/app/tags/list"
	office := []string{"X-Forwarded-For", "10.1.2.3"}
	home := []string{"X-Forwarded-For", "192.0.2.1"}
	jwt := w.jwt("mo", "repository:team/app:pull,push")
	for _, as := range []string{"mo", jwt, "root"} {
		w.do("GET", list, as, nil, office...).want(t, http.StatusOK)
	}

	w.deny(metadata.Denial{Name: "office", CIDR: "10.0.0.0/8", Actions: []string{"pull"}, Reason: "the office has a mirror"})
	w.clock.forward(3 * time.Second)
	for _, as := range []string{"mo", jwt, "root"} {
		r := w.do("GET", list, as, nil, office...).want(t, http.StatusForbidden)
		if r.detail("rule") != "denied" || r.detail("denial") != "office" || r.detail("reason") != "the office has a mirror" || !strings.Contains(r.detail("ask"), "administrator") {
			t.Errorf("%.20s: %s", as, r.body)
		}
		w.do("GET", list, as, nil, home...).want(t, http.StatusOK)
	}
	// Public repositories and nobody, too; and the catalog.
	if r := w.do("GET", "/v2/team/open/tags/list", "", nil, office...).want(t, http.StatusUnauthorized); r.detail("rule") != "denied" || r.detail("denial") != "office" {
		t.Errorf("nobody: %s", r.body)
	}
	w.do("GET", "/v2/team/open/tags/list", "", nil, home...).want(t, http.StatusOK)
	if r := w.do("GET", "/v2/_catalog", "root", nil, office...).want(t, http.StatusOK); !strings.HasPrefix(string(r.body), `{"repositories":[]}`) {
		t.Errorf("the catalog: %s", r.body)
	}
	if _, access := answerOf(t, w.do("GET", "/token?service=registry.test&scope=repository:team/app:pull,push", "mo", nil, office...)); len(access) != 1 || strings.Join(access[0].Actions, ",") != "push" {
		t.Errorf("a token in the office: %v", access)
	}
	// A blob is not mounted from what may not be pulled, with a token that carries it.
	w.team("second", "mo=member")
	_, layer := w.pushImage("root", "team/other", "1.0")
	both := w.jwt("mo", "repository:second/app:pull,push", "repository:team/other:pull")
	mount := "/v2/second/app/blobs/uploads/?mount=" + layer.String() + "&from=team/other"
	w.do("POST", mount, both, nil, office...).want(t, http.StatusAccepted)
	w.do("POST", mount, both, nil, home...).want(t, http.StatusCreated)

	// By name and repository, at the next token and the next password.
	w.deny(metadata.Denial{Name: "freeze", Principal: "m*", Repository: "team/*", Actions: []string{"push"}})
	w.do("POST", "/v2/team/app/blobs/uploads/", "mo", nil, home...).want(t, http.StatusForbidden)
	w.do("POST", "/v2/second/app/blobs/uploads/", "mo", nil, home...).want(t, http.StatusAccepted)
	w.do("POST", "/v2/team/app/blobs/uploads/", "root", nil, home...).want(t, http.StatusAccepted)
	w.update(func(ctx context.Context, tx *metadata.Tx) error { return tx.DeleteDenial(ctx, "freeze") })
	w.do("POST", "/v2/team/app/blobs/uploads/", "mo", nil, home...).want(t, http.StatusAccepted)
}

// TestScopesOnlyNarrow is CVE-2025-68944: what a token is limited to travels in
// the JWT, and nothing that is asked for later widens it.
func TestScopesOnlyNarrow(t *testing.T) {
	w := small(t, func(_ *world, o *Options) { o.OfflineTokens = true })
	w.pushImage("mo", "team/app", "1.0")
	w.pushImage("mo", "team/other", "1.0")
	w.token(metadata.Token{Kind: metadata.PersonalToken, Name: "narrow", User: "mia", Actions: []string{"pull"}, Repositories: "team/app"})
	jwt := w.jwt("token:narrow", "repository:team/app:pull,push,delete", "repository:team/other:pull,push", "berth:api:*")
	w.do("GET", "/v2/team/app/tags/list", jwt, nil).want(t, http.StatusOK)
	// What it lacks is not to be had by another token either: 403 and no challenge.
	for _, request := range [][2]string{{"POST", "/v2/team/app/blobs/uploads/"}, {"DELETE", "/v2/team/app/manifests/1.0"}, {"GET", "/v2/team/other/tags/list"}} {
		r := w.do(request[0], request[1], jwt, nil).want(t, http.StatusForbidden)
		if r.detail("rule") != "token-limit" {
			t.Errorf("%v: %s", request, r.body)
		}
	}
	// The owner's own token was asked for less: a better one is to be had, and the
	// one that is there stays as it is.
	little := w.jwt("mia", "repository:team/app:pull")
	w.do("POST", "/v2/team/app/blobs/uploads/", little, nil).want(t, http.StatusUnauthorized)
	w.do("GET", "/v2/team/other/tags/list", little, nil).want(t, http.StatusUnauthorized)
	// An account that is somebody else is refused, by every way in (dockit.md, works when 5).
	for _, account := range []string{"mia", "root", "anonymous", "' OR 1=1 --"} {
		q := url.Values{"service": {"registry.test"}, "account": {account}, "scope": {"repository:team/app:pull,push,delete"}}
		if r := w.do("GET", "/token?"+q.Encode(), "fred", nil).want(t, http.StatusBadRequest); !strings.Contains(string(r.body), "fred has signed in") {
			t.Errorf("fred as %s: %s", account, r.body)
		}
		w.do("GET", "/token?"+q.Encode(), "", nil).want(t, http.StatusUnauthorized)
		q.Set("grant_type", "password")
		q.Set("username", "fred")
		q.Set("password", "pw-fred")
		w.do("POST", "/token", "", strings.NewReader(q.Encode()), "Content-Type", "application/x-www-form-urlencoded").want(t, http.StatusBadRequest)
	}
	q := url.Values{"service": {"registry.test"}, "account": {"fred"}, "scope": {"repository:team/app:pull"}}
	if _, access := answerOf(t, w.do("GET", "/token?"+q.Encode(), "fred", nil)); len(access) != 0 {
		t.Errorf("fred as fred: %v", access)
	}
}

// TestReplayAcrossServices: a token opens the service that it was asked for and
// no other, in both directions, whatever its scopes say
// (cloudflare/serverless-registry#154).
func TestReplayAcrossServices(t *testing.T) {
	w := small(t, func(_ *world, o *Options) { o.OfflineTokens = true })
	w.pushImage("mo", "team/app", "1.0")
	w.update(func(ctx context.Context, tx *metadata.Tx) error {
		_, _, err := tx.PutService(ctx, metadata.Service{Name: "other.test", Issuer: "other", TokenTTL: 5 * time.Minute, Algorithm: token.ES256, RefreshTokens: true})
		return err
	})
	ask := func(service string) tokenAnswer {
		t.Helper()
		form := url.Values{"grant_type": {"password"}, "username": {"mo"}, "password": {"pw-mo"}, "access_type": {"offline"}, "service": {service}, "scope": {"repository:team/app:pull berth:api:*"}}
		r := w.do("POST", "/token", "", strings.NewReader(form.Encode()), "Content-Type", "application/x-www-form-urlencoded").want(t, http.StatusOK)
		var a tokenAnswer
		if err := json.Unmarshal(r.body, &a); err != nil || a.RefreshToken == "" {
			t.Fatalf("%v: %s", err, r.body)
		}
		return a
	}
	ours, theirs := ask("registry.test"), ask("other.test")
	list := "/v2/team/app/tags/list"
	w.do("GET", list, "jwt:"+ours.Token, nil).want(t, http.StatusOK)
	w.do("GET", list, "jwt:"+theirs.Token, nil).want(t, http.StatusUnauthorized)
	refresh := func(raw, service string) int {
		form := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {raw}, "service": {service}, "scope": {"repository:team/app:pull"}}
		return w.do("POST", "/token", "", strings.NewReader(form.Encode()), "Content-Type", "application/x-www-form-urlencoded").StatusCode
	}
	for _, tt := range []struct {
		name, raw, service string
		status             int
	}{
		{"ours for us", ours.RefreshToken, "registry.test", 200}, {"theirs for them", theirs.RefreshToken, "other.test", 200},
		{"ours for them", ours.RefreshToken, "other.test", 401}, {"theirs for us", theirs.RefreshToken, "registry.test", 401},
		{"their access token for us", theirs.Token, "registry.test", 401}, {"our access token for them", ours.Token, "other.test", 401},
	} {
		if got := refresh(tt.raw, tt.service); got != tt.status {
			t.Errorf("%s: %d, want %d", tt.name, got, tt.status)
		}
	}
}

// TestNameTakenOver: who gets the name of somebody who is gone, or of a repository
// or a team that is gone, gets none of their rights, and the other way round.
func TestNameTakenOver(t *testing.T) {
	w := small(t, func(_ *world, o *Options) { o.OfflineTokens = true })
	w.pushImage("mo", "team/app", "1.0")
	w.token(metadata.Token{Kind: metadata.PersonalToken, Name: "pat", User: "fred", Actions: []string{"pull"}})
	w.token(metadata.Token{Kind: metadata.RobotToken, Name: "bot", Team: "team", Actions: []string{"pull"}})
	w.grant(metadata.Grantee{User: "fred"}, "team/app", "pull")
	old := w.jwt("fred", "repository:other/app:pull")
	a, _ := answerOf(t, w.do("GET", "/token?service=registry.test&offline_token=true", "fred", nil))
	w.do("GET", "/v2/team/app/tags/list", "token:pat", nil).want(t, http.StatusOK)
	w.update(func(ctx context.Context, tx *metadata.Tx) error { return tx.DeleteUser(ctx, "fred") })
	w.user("fred", metadata.RoleUser)
	w.do("GET", "/v2/team/app/tags/list", "fred", nil).want(t, http.StatusForbidden)
	w.do("GET", "/v2/team/app/tags/list", "token:pat", nil).want(t, http.StatusUnauthorized)
	if r := w.do("GET", "/v2/team/app/tags/list", old, nil).want(t, http.StatusForbidden); r.detail("rule") != "user-gone" {
		t.Errorf("the old bearer token: %s", r.body)
	}
	w.grant(metadata.Grantee{User: "fred"}, "team/app", "pull")
	w.do("GET", "/v2/team/app/tags/list", "fred", nil).want(t, http.StatusOK)
	w.do("GET", "/v2/team/app/tags/list", old, nil).want(t, http.StatusForbidden)
	form := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {a.RefreshToken}, "service": {"registry.test"}}
	w.do("POST", "/token", "", strings.NewReader(form.Encode()), "Content-Type", "application/x-www-form-urlencoded").want(t, http.StatusUnauthorized)

	// A team that is made anew has none of the old one's members and robots.
	w.do("GET", "/v2/team/app/tags/list", "token:bot", nil).want(t, http.StatusOK)
	w.update(func(ctx context.Context, tx *metadata.Tx) error { return tx.DeleteTeam(ctx, "team") })
	w.team("team", "fred=maintainer")
	w.do("GET", "/v2/team/app/tags/list", "mo", nil).want(t, http.StatusForbidden)
	w.do("GET", "/v2/team/app/tags/list", "token:bot", nil).want(t, http.StatusUnauthorized)
}
