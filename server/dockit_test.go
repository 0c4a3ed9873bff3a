package server

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"berth/auth"
	"berth/auth/token"
	"berth/metadata"
	"berth/metadata/metadatatest"
)

// The tests here are named after the numbered points of what works with Dockit.
// What those points ask of keys is in auth/token, what they ask of real registries
// in conformance, and of the import in cmd/berth.

// theirs is the service of these tests.
const theirs = "registry.example.com"

// dockitWorld is a server with the users alice, bob and carol, the admin root, and
// a service.
func dockitWorld(t *testing.T, change func(*metadata.Service)) *world {
	t.Helper()
	w := newWorld(t, nil)
	w.user("root", metadata.RoleAdmin)
	for _, name := range []string{"alice", "bob", "carol"} {
		w.user(name, metadata.RoleUser)
	}
	s := metadata.Service{Name: theirs, Issuer: "dockit", TokenTTL: 5 * time.Minute, Algorithm: token.ES256}
	if change != nil {
		change(&s)
	}
	w.update(func(ctx context.Context, tx *metadata.Tx) error {
		_, _, err := tx.PutService(ctx, s)
		return err
	})
	return w
}

// admin sends a request of root to Dockit's administration API.
func (w *world) admin(method, path string, status int, body ...string) (data any) {
	w.t.Helper()
	r := w.do(method, "/v2/admin/"+path, "root", strings.NewReader(strings.Join(body, ""))).want(w.t, status)
	var envelope struct {
		Success bool
		Data    any
		Errors  []string
	}
	if err := json.Unmarshal(r.body, &envelope); err != nil || envelope.Success != (status < 300) || (len(envelope.Errors) > 0) == envelope.Success || r.Header.Get("Content-Type") != "application/json" {
		w.t.Errorf("%s %s: %v %s, %v", method, path, r.Header, r.body, err)
	}
	return envelope.Data
}

// claimsOf reads a token without looking at its signature.
func claimsOf(t testing.TB, raw string) (c struct {
	Iss, Sub, Jti string
	Aud           string
	Exp, Nbf, Iat int64
	Access        []token.Access
	Berth         any
}) {
	t.Helper()
	payload, err := base64.RawURLEncoding.DecodeString(strings.Split(raw, ".")[1])
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(payload, &c); err != nil {
		t.Fatalf("%v: %s", err, payload)
	}
	return c
}

// scopesAt gives what somebody is granted, as scopes.
func (w *world) scopesAt(as string, scopes ...string) string {
	w.t.Helper()
	q := url.Values{"service": {theirs}, "scope": scopes}
	r := w.do("GET", "/v2/token?"+q.Encode(), as, nil).want(w.t, http.StatusOK)
	var a tokenAnswer
	if err := json.Unmarshal(r.body, &a); err != nil {
		w.t.Fatal(err)
	}
	if got := scopeText(claimsOf(w.t, a.Token).Access); got != a.Scope {
		w.t.Errorf("the answer says %q, the token %q", a.Scope, got)
	}
	return a.Scope
}

func TestDockitWorksWhen1(t *testing.T) {
	w := dockitWorld(t, func(s *metadata.Service) { s.TokenTTL = 7 * time.Minute })
	w.admin("PUT", "user:alice/repository:team_app:push", 200)
	for _, path := range []string{"/v2/token", "/token"} {
		r := w.do("GET", path+"?service="+theirs+"&account=alice&scope=repository:team/app:pull,push,delete", "alice", nil).want(t, 200)
		var a tokenAnswer
		if err := json.Unmarshal(r.body, &a); err != nil {
			t.Fatal(err)
		}
		at, err := time.Parse(time.RFC3339, a.IssuedAt)
		if a.Token == "" || a.Token != a.AccessToken || a.ExpiresIn != 420 || err != nil || time.Since(at).Abs() > time.Minute || r.Header.Get("Content-Type") != "application/json" {
			t.Errorf("%v %s", r.Header, r.body)
		}
		c := claimsOf(t, a.Token)
		want := []token.Access{{Type: "repository", Name: "team/app", Actions: []string{"pull", "push"}}}
		if c.Aud != theirs || c.Iss != "dockit" || c.Sub != "alice" || c.Jti == "" || !reflect.DeepEqual(c.Access, want) || c.Exp-c.Iat != 420 || c.Nbf > c.Iat || c.Berth != nil {
			t.Errorf("claims %+v", c)
		}
	}
}

func TestDockitWorksWhen3(t *testing.T) {
	w := dockitWorld(t, nil)
	w.user("dora", metadata.RoleUser)
	for _, group := range []string{"devs", "ops"} {
		w.admin("PUT", "group:"+group+"/add", 200)
	}
	w.admin("PUT", "group:devs/user:carol/add-member", 200)
	w.admin("PUT", "group:ops/user:dora/add-member", 200)
	for to, action := range map[string]string{"user:alice": "push", "user:bob": "pull", "group:devs": "push", "group:ops": "pull"} {
		w.admin("PUT", to+"/repository:team_app:"+action, 200)
	}
	const pull, push = "repository:team/app:pull", "repository:team/app:pull,push"
	check := func(want map[string]string) {
		t.Helper()
		for who, scope := range want {
			if got := w.scopesAt(who, push); got != scope {
				t.Errorf("%s has %q, want %q", who, got, scope)
			}
		}
	}
	check(map[string]string{"alice": push, "bob": pull, "carol": push, "dora": pull})
	// Push implies pull.
	if got := w.scopesAt("alice", pull); got != pull {
		t.Errorf("alice may push, and gets %q for pull", got)
	}
	w.admin("DELETE", "user:alice/repository:team_app:push", 200)
	check(map[string]string{"alice": "", "bob": pull, "carol": push, "dora": pull})
	w.admin("DELETE", "group:devs/repository:team_app:push", 200)
	check(map[string]string{"bob": pull, "carol": "", "dora": pull})
	w.admin("DELETE", "group:devs/repository:team_app:push", 200) // also when it is absent
	// The right to pull is part of the right to push, and does not go alone.
	w.admin("PUT", "user:bob/repository:team_app:push", 200)
	w.admin("DELETE", "user:bob/repository:team_app:pull", 200)
	check(map[string]string{"bob": push, "dora": pull})
}

func TestDockitWorksWhen4(t *testing.T) {
	w := dockitWorld(t, nil)
	w.admin("PUT", "user:alice/namespace:foo:pull", 200)
	w.admin("PUT", "user:bob/namespace:foo_a:push", 200)
	for repo, want := range map[string][2]bool{
		"foo/x": {true, false}, "foo/a/x": {true, true}, "foo/a/b/x": {true, true},
		"foobar/x": {}, "x/foo/y": {}, "foo": {}, "foobar/foo/x": {}, "foo-a/x": {}, "foo/ab/x": {true, false},
	} {
		if got := w.scopesAt("alice", "repository:"+repo+":pull") != ""; got != want[0] {
			t.Errorf("the namespace foo covers %s: %v", repo, got)
		}
		if got := w.scopesAt("bob", "repository:"+repo+":push") != ""; got != want[1] {
			t.Errorf("the namespace foo/a covers %s: %v", repo, got)
		}
	}
}

func TestDockitWorksWhen5(t *testing.T) {
	w := dockitWorld(t, nil)
	w.admin("PUT", "user:bob/repository:team_app:push", 200)
	ask := func(as, account string, status int) reply {
		t.Helper()
		q := url.Values{"service": {theirs}, "account": {account}, "scope": {"repository:team/app:push"}}
		return w.do("GET", "/v2/token?"+q.Encode(), as, nil).want(t, status)
	}
	ask("alice", "bob", 400)
	ask("alice", "root", 400)
	if r := ask("", "bob", 401); !strings.HasPrefix(r.Header.Get("WWW-Authenticate"), "Basic ") {
		t.Errorf("%v", r.Header)
	}
	form := url.Values{"grant_type": {"password"}, "username": {"alice"}, "password": {w.accounts["alice"]}, "service": {theirs}, "account": {"bob"}}
	w.do("POST", "/v2/token", "", strings.NewReader(form.Encode()), "Content-Type", "application/x-www-form-urlencoded").want(t, 400)
	for account, as := range map[string]string{"": "bob", "bob": "bob"} {
		var a tokenAnswer
		if err := json.Unmarshal(ask(as, account, 200).body, &a); err != nil {
			t.Fatal(err)
		}
		if c := claimsOf(t, a.Token); c.Sub != "bob" || len(c.Access) != 1 {
			t.Errorf("account %q: %+v", account, c)
		}
	}
	// A token as password goes with any user name, which docker then repeats: it
	// gives no right of that user.
	w.token(metadata.Token{Kind: metadata.PersonalToken, Name: "laptop", User: "alice", Actions: []string{"pull", "push"}})
	w.accounts["whoever"] = w.accounts["laptop"]
	var a tokenAnswer
	if err := json.Unmarshal(ask("whoever", "whoever", 200).body, &a); err != nil {
		t.Fatal(err)
	}
	if c := claimsOf(t, a.Token); c.Sub != "alice" || len(c.Access) != 0 {
		t.Errorf("%+v", c)
	}
	for _, scope := range []string{"repository", "repository:team/app", "repository::push", ":team/app:push", "repository:team/app:", "repository:TEAM/app:push", "repository:../app:push", "*", "repository:*:push", "repository:team/app:fly"} {
		if got := w.scopesAt("bob", scope); got != "" {
			t.Errorf("the scope %q gives %q", scope, got)
		}
	}
}

func TestDockitWorksWhen6(t *testing.T) {
	w := dockitWorld(t, nil)
	w.admin("PUT", "user:alice/repository:a_x:push", 200)
	w.admin("PUT", "user:alice/repository:b_x:pull", 200)
	const want = "repository:a/x:pull,push repository:b/x:pull"
	if got := w.scopesAt("alice", "repository:a/x:pull,push", "repository:b/x:pull"); got != want {
		t.Errorf("two parameters: %q", got)
	}
	if got := w.scopesAt("alice", "repository:a/x:pull,push repository:b/x:pull,push"); got != want {
		t.Errorf("two in one parameter: %q", got)
	}
	if got := w.scopesAt("alice", "repository(plugin):a/x:pull"); got != "repository(plugin):a/x:pull" {
		t.Errorf("with a class: %q", got)
	}
	q := url.Values{"service": {theirs}, "scope": {strings.Repeat("repository:a/x:pull ", 1000)}}
	w.do("GET", "/v2/token?"+q.Encode(), "alice", nil).want(t, 400)
}

func TestDockitWorksWhen7(t *testing.T) {
	w := dockitWorld(t, nil)
	ask := "/v2/token?service=" + theirs
	w.admin("PUT", "user:bob/disable", 200)
	w.do("GET", ask, "bob", nil).want(t, 401)
	w.admin("PUT", "user:bob/enable", 200)
	w.do("GET", ask, "bob", nil).want(t, 200)

	w.admin("PUT", "group:devs/add", 200)
	w.admin("PUT", "group:devs/user:bob/add-member", 200)
	w.admin("PUT", "group:devs/repository:team_app:pull", 200)
	const scope = "repository:team/app:pull"
	for _, step := range []struct{ action, want string }{{"enable", scope}, {"disable", ""}, {"enable", scope}} {
		w.admin("PUT", "group:devs/"+step.action, 200)
		if got := w.scopesAt("bob", scope); got != step.want {
			t.Errorf("after %s of the group: %q", step.action, got)
		}
	}

	const colons = "a:password:with:colons"
	w.admin("PUT", "user:eve/add", 201, `{"password":"`+colons+`"}`)
	w.accounts["eve"] = colons
	w.do("GET", ask, "eve", nil).want(t, 200)
	w.admin("PUT", "user:eve/change-password", 200, `{"password":"another one"}`)
	w.do("GET", ask, "eve", nil).want(t, 401)
	w.accounts["eve"] = "another one"
	w.do("GET", ask, "eve", nil).want(t, 200)
}

func TestDockitWorksWhen8(t *testing.T) {
	w := dockitWorld(t, nil)
	ask := "/v2/token?service=" + theirs + "&scope=repository:library/app:pull,push"
	challenged := func(r reply) {
		t.Helper()
		if r.want(t, 401).Header.Get("WWW-Authenticate") == "" || !strings.HasPrefix(r.Header.Get("WWW-Authenticate"), "Basic ") {
			t.Errorf("%v", r.Header)
		}
	}
	challenged(w.do("GET", ask, "", nil))
	w.accounts["alice"] = "wrong password"
	challenged(w.do("GET", ask, "alice", nil))
	for _, header := range []string{"Basic", "Basic !", "Basic YWxpY2U=", "Digest x", "Bearer"} { // YWxpY2U= has no colon
		challenged(w.do("GET", ask, "", nil, "Authorization", header))
	}
	w.update(func(ctx context.Context, tx *metadata.Tx) error {
		s, err := tx.Service(ctx, theirs)
		if err != nil {
			return err
		}
		s.AnonymousPull = "library/*"
		_, _, err = tx.PutService(ctx, s)
		return err
	})
	var a tokenAnswer
	if err := json.Unmarshal(w.do("GET", ask, "", nil).want(t, 200).body, &a); err != nil {
		t.Fatal(err)
	}
	if c := claimsOf(t, a.Token); a.Scope != "repository:library/app:pull" || c.Sub != "" || a.RefreshToken != "" {
		t.Errorf("anonymous: %+v %+v", a, c)
	}
	if got := w.scopesAt("", "repository:other/app:pull", "registry:catalog:*"); got != "" {
		t.Errorf("anonymous, elsewhere: %q", got)
	}
	if got := w.scopesAt("bob", "repository:library/app:pull,push"); got != "repository:library/app:pull" {
		t.Errorf("signed in: %q", got)
	}
}

func TestDockitWorksWhen9(t *testing.T) {
	w := dockitWorld(t, func(s *metadata.Service) { s.RefreshTokens = true })
	w.update(func(ctx context.Context, tx *metadata.Tx) error {
		_, _, err := tx.PutService(ctx, metadata.Service{Name: "second", Issuer: "x", TokenTTL: time.Minute, Algorithm: token.ES256})
		return err
	})
	w.admin("PUT", "user:alice/repository:team_app:push", 200)
	post := func(status int, form url.Values) (a tokenAnswer) {
		t.Helper()
		r := w.do("POST", "/v2/token", "", strings.NewReader(form.Encode()), "Content-Type", "application/x-www-form-urlencoded").want(t, status)
		if status == 200 {
			if err := json.Unmarshal(r.body, &a); err != nil {
				t.Fatal(err)
			}
		}
		return a
	}
	form := url.Values{"grant_type": {"password"}, "username": {"alice"}, "password": {w.accounts["alice"]}, "service": {theirs}, "client_id": {"buildkit"}, "scope": {"repository:team/app:pull,push repository:no/app:pull"}}
	a := post(200, form)
	if a.Scope != "repository:team/app:pull,push" || a.RefreshToken != "" || a.TokenType != "Bearer" || claimsOf(t, a.Token).Sub != "alice" {
		t.Errorf("%+v", a)
	}
	form.Set("access_type", "offline")
	refresh := post(200, form).RefreshToken
	var got tokenAnswer
	if err := json.Unmarshal(w.do("GET", "/v2/token?offline_token=true&service="+theirs, "alice", nil).want(t, 200).body, &got); err != nil || got.RefreshToken == "" {
		t.Errorf("offline_token: %+v, %v", got, err)
	}
	again := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {refresh}, "service": {theirs}, "client_id": {"buildkit"}, "scope": {"repository:team/app:push"}}
	if a := post(200, again); a.Scope != "repository:team/app:push" || claimsOf(t, a.Token).Aud != theirs {
		t.Errorf("refreshed: %+v", a)
	}
	// It is for this service only, and neither for us nor for another.
	for _, service := range []string{"second", "registry.test", ""} {
		again.Set("service", service)
		post(401, again)
	}
	again.Set("service", theirs)
	// What the service hands out is no refresh token, and what is none of ours neither.
	for _, raw := range []string{a.Token, "nonsense", ""} {
		again.Set("refresh_token", raw)
		post(401, again)
	}
	again.Set("refresh_token", refresh)
	w.admin("PUT", "user:alice/change-password", 200, `{"password":"another one"}`)
	post(401, again)
	// Where they are off, nobody gets one.
	form.Set("service", "second")
	form.Set("password", "another one")
	if a := post(200, form); a.RefreshToken != "" {
		t.Errorf("a refresh token of a service without them: %+v", a)
	}
	form.Set("grant_type", "client_credentials")
	post(400, form)
	form.Set("service", "unknown")
	post(400, form)
	form["service"] = []string{theirs, "second"}
	post(400, form)
}

// What Dockit's command line sends, and what it looks for in the answers.
func TestDockitWorksWhen10(t *testing.T) {
	w := dockitWorld(t, nil)
	w.admin("PUT", "group:devs/add", 200)
	w.admin("PUT", "group:devs/user:alice/add-member", 200)
	w.admin("PUT", "group:devs/repository:team_app:push", 200)
	w.admin("PUT", "user:alice/namespace:foo_bar:pull", 200)
	w.admin("PUT", "user:alice/repository:team%2Fmy_app:pull", 200)
	w.admin("PUT", "user:alice/repository:my%5Fapp_x:pull", 200)
	w.update(func(ctx context.Context, tx *metadata.Tx) error {
		return tx.AddGrant(ctx, metadata.Grantee{User: "alice"}, "a*/x", []string{"delete"}, "root")
	})
	seen := []string{}
	for _, p := range w.admin("PUT", "user:alice/permissions/", 200).([]any) {
		p := p.(map[string]any)
		line := fmt.Sprintf("%s -> %s:%s", p["action"], p["type"], p["name"])
		if user, ok := p["user"].(map[string]any); ok {
			line += fmt.Sprintf(" %s %v %v", user["Username"], user["active"], user["admin"])
		}
		if group, ok := p["group"].(map[string]any); ok {
			line += fmt.Sprintf(" %s", group["name"])
		}
		if p["id"].(float64) <= 0 || p["created_at"] == "" || p["updated_at"] == "" {
			t.Errorf("%v", p)
		}
		seen = append(seen, line)
	}
	slices.Sort(seen)
	want := []string{
		"delete -> pattern:a*/x alice true false", "pull -> namespace:foo/bar alice true false", "pull -> repository:my_app/x alice true false",
		"pull -> repository:team/my_app alice true false", "push -> repository:team/app devs",
	}
	if !slices.Equal(seen, want) {
		t.Errorf("permissions\n%s\nwant\n%s", strings.Join(seen, "\n"), strings.Join(want, "\n"))
	}
	if list := w.admin("PUT", "group:devs/permissions", 200).([]any); len(list) != 1 {
		t.Errorf("%v", list)
	}
	if list, ok := w.admin("PUT", "user:bob/permissions", 200).([]any); !ok || len(list) != 0 {
		t.Errorf("no permissions are %v, want an empty list", list)
	}
	w.admin("DELETE", "group:devs/repository:team_app:push", 200)
	w.admin("PUT", "group:devs/disable", 200)
	w.admin("PUT", "group:devs/enable", 200)
	w.admin("PUT", "user:alice/disable", 200)
	w.admin("PUT", "user:alice/enable", 200)
	w.admin("PUT", "group:devs/remove", 200)
	w.admin("PUT", "user:alice/remove", 201)
	w.admin("PUT", "user:alice/permissions", 404)
}

// Who is taken out of a group has lost its rights with the next token
// (CVE-2025-23208).
func TestDockitWorksWhen11(t *testing.T) {
	w := dockitWorld(t, nil)
	w.admin("PUT", "group:devs/add", 200)
	w.admin("PUT", "group:devs/repository:team_app:pull", 200)
	for _, method := range []string{"PUT", "DELETE"} {
		w.admin("PUT", "group:devs/user:alice/add-member", 200)
		w.admin("PUT", "group:devs/user:alice/add-member", 200)
		if got := w.scopesAt("alice", "repository:team/app:pull"); got == "" {
			t.Error("a member has no right")
		}
		w.admin(method, "group:devs/user:alice/remove-member", 200)
		if got := w.scopesAt("alice", "repository:team/app:pull"); got != "" {
			t.Errorf("after %s remove-member: %q", method, got)
		}
		w.admin(method, "group:devs/user:alice/remove-member", 404)
	}
}

func TestDockitWorksWhen12(t *testing.T) {
	w := dockitWorld(t, nil)
	certificates := func(path string) (n int) {
		t.Helper()
		r := w.do("GET", path, "", nil).want(t, 200)
		if r.Header.Get("Content-Type") != "application/x-pem-file" {
			t.Errorf("%v", r.Header)
		}
		for block, rest := pem.Decode(r.body); block != nil; block, rest = pem.Decode(rest) {
			if _, err := x509.ParseCertificate(block.Bytes); err != nil || block.Type != "CERTIFICATE" {
				t.Errorf("%s: %v", block.Type, err)
			}
			n++
		}
		return n
	}
	mine := "/v2/certs/pem?service=" + theirs
	if n := certificates(mine); n != 1 {
		t.Errorf("%d certificates, want 1", n)
	}
	if _, err := w.server.tokens.Keys().Rotate(t.Context(), theirs, token.Rotation{}); err != nil {
		t.Fatal(err)
	}
	w.clock.forward(2 * time.Second)
	if n := certificates(mine); n != 2 {
		t.Errorf("%d certificates after a rotation, want 2", n)
	}
	if n := certificates("/v2/certs/pem"); n != 3 { // and our own
		t.Errorf("%d certificates in the whole bundle, want 3", n)
	}
	w.do("HEAD", "/v2/certs/pem", "", nil).want(t, 200)
	w.do("GET", "/v2/certs/pem?service=nope", "", nil).want(t, 400)
	w.do("POST", "/v2/certs/pem", "", nil).want(t, 405)
	// A repository of that name is a repository.
	w.pushImage("root", "certs/pem", "v1")
	w.pushImage("root", "admin/user", "v1")
	w.do("GET", "/v2/certs/pem/manifests/v1", "root", nil).want(t, 200)

	var set token.JWKS
	if err := json.Unmarshal(w.do("GET", "/.well-known/jwks.json?service="+theirs, "", nil).want(t, 200).body, &set); err != nil || len(set.Keys) != 2 {
		t.Errorf("%+v, %v", set, err)
	}
}

func TestDockitWorksWhen16(t *testing.T) {
	w := dockitWorld(t, nil)
	w.update(func(ctx context.Context, tx *metadata.Tx) error {
		for user, grant := range map[string][2]string{"alice": {"*", "pull"}, "bob": {"team/*", "delete"}, "carol": {"team/*", "pull,push,delete,admin"}} {
			if err := tx.AddGrant(ctx, metadata.Grantee{User: user}, grant[0], strings.Split(grant[1], ","), "root"); err != nil {
				return err
			}
		}
		return nil
	})
	for _, tt := range []struct{ as, scope, want string }{
		{"alice", "registry:catalog:*", "registry:catalog:*"},
		{"root", "registry:catalog:*", "registry:catalog:*"},
		{"bob", "registry:catalog:*", ""},
		{"carol", "registry:catalog:*", ""}, // lists all names, and carol may see some
		{"alice", "registry:catalog:pull", ""},
		{"bob", "repository:team/app:delete", "repository:team/app:delete"},
		{"bob", "repository:team/app:pull,delete", "repository:team/app:delete"},
		{"bob", "repository:team/app:*", "repository:team/app:delete"},
		{"carol", "repository:team/app:*", "repository:team/app:pull,push,delete,*"},
		{"carol", "repository:team/app:admin", ""},
		{"carol", "berth:api:*", ""},
		{"root", "berth:api:*", ""},
		{"root", "repository:any/thing:delete", "repository:any/thing:delete"},
	} {
		if got := w.scopesAt(tt.as, tt.scope); got != tt.want {
			t.Errorf("%s asks %s and gets %q, want %q", tt.as, tt.scope, got, tt.want)
		}
	}
}

func TestDockitWorksWhen17(t *testing.T) {
	w := dockitWorld(t, nil)
	w.admin("PUT", "group:devs/add", 200)
	const password = `{"password":"a good password"}`
	paths := []string{"user:bob/repository:team_app:pull", "user:bob/add", "user:bob/remove", "user:bob/disable", "user:bob/permissions", "group:devs/remove", "group:devs/user:bob/add-member", "user:bob", "group:", "user:bob/nonsense"}
	for _, path := range paths {
		for _, method := range []string{"PUT", "DELETE"} {
			r := w.do(method, "/v2/admin/"+path, "", strings.NewReader(password)).want(t, 401)
			if r.Header.Get("WWW-Authenticate") == "" || !strings.HasPrefix(string(r.body), `{"success":false,"data":null,"errors":["`) {
				t.Errorf("%s %s: %v %s", method, path, r.Header, r.body)
			}
			w.do(method, "/v2/admin/"+path, "alice", strings.NewReader(password)).want(t, 403)
		}
	}
	// Dockit's stubs without a sign-in are not there at all.
	for _, path := range []string{"pki/generate", "pki/rotate", "", "nonsense"} {
		w.do("POST", "/v2/admin/"+path, "", nil).want(t, 404)
	}
	// A token of an admin that carries less than administration.
	w.token(metadata.Token{Kind: metadata.PersonalToken, Name: "narrow", User: "root", Actions: []string{"pull", "push"}})
	w.do("PUT", "/v2/admin/user:bob/disable", "token:narrow", nil).want(t, 403)
	w.do("PUT", "/v2/admin/user:bob/disable", w.jwt("root", "repository:a/b:push"), nil).want(t, 401)

	for _, tt := range []struct {
		method, path, body string
		status             int
	}{
		{"PUT", "user:nobody/repository:team_app:pull", "", 404},
		{"PUT", "group:nobody/repository:team_app:pull", "", 404},
		{"DELETE", "user:nobody/repository:team_app:pull", "", 404},
		{"PUT", "user:nobody/remove", "", 404},
		{"PUT", "user:nobody/enable", "", 404},
		{"PUT", "user:nobody/change-password", password, 404},
		{"PUT", "user:nobody/permissions", "", 404},
		{"PUT", "group:nobody/disable", "", 404},
		{"PUT", "group:nobody/permissions", "", 404},
		{"PUT", "group:nobody/user:bob/add-member", "", 404},
		{"PUT", "group:devs/user:nobody/add-member", "", 404},
		{"PUT", "user:bob/add", password, 409},
		{"PUT", "group:devs/add", "", 409},
		{"PUT", "user:root/remove", "", 409},  // the last admin
		{"PUT", "user:root/disable", "", 409}, // the last admin
		{"PUT", "user:erin/add", "", 400},
		{"PUT", "user:erin/add", "not JSON", 400},
		{"PUT", "user:erin/add", `{"password":"short"}`, 400},
		{"PUT", "user:erin/add", `{"password":"` + strings.Repeat("x", 1025) + `"}`, 400},
		{"PUT", "user:erin/add", strings.Repeat(" ", 20<<10), 400},
		{"PUT", "user:a%2Fb/add", password, 400},
		{"PUT", "user:anonymous/add", password, 400},
		{"PUT", "user:/add", password, 400},
		{"PUT", "user:bob/nonsense", "", 400},
		{"PUT", "user:bob", "", 400},
		{"PUT", "user:bob/a/b/c", "", 400},
		{"PUT", "user:bob/user:alice/add-member", "", 400},
		{"PUT", "user:bob/repository:team_app:admin", "", 400},
		{"PUT", "user:bob/repository:TEAM_app:pull", "", 400},
		{"PUT", "user:bob/repository:team_*:pull", "", 400},
		{"PUT", "user:bob/registry:catalog:pull", "", 400},
		{"PUT", "user:bob/repository:a:b:pull", "", 400},
		{"PUT", "user:bob/repository:__:pull", "", 400},
		{"DELETE", "user:bob/remove", "", 400}, // only PUT removes
	} {
		w.admin(tt.method, tt.path, tt.status, tt.body)
	}
	w.do("GET", "/v2/admin/user:bob/permissions", "root", nil).want(t, 405)
	if log := w.log.String(); strings.Contains(log, "a good password") {
		t.Error("a password is in the log")
	}
}

// Rights at another service do not depend on our repositories (and the other way
// round, which the access tests show).
func TestServicesDoNotLeak(t *testing.T) {
	w := dockitWorld(t, nil)
	w.team("core", "alice=member", "bob=reader")
	for _, visibility := range []string{metadata.Public, metadata.Internal} {
		w.pushImage("root", "open/"+visibility, "v1")
		w.visibility("open/"+visibility, visibility)
		if got := w.scopesAt("carol", "repository:open/"+visibility+":pull"); got != "" {
			t.Errorf("a repository that is %s here gives %q there", visibility, got)
		}
	}
	// Teams are the same people there.
	if got := w.scopesAt("alice", "repository:core/app:pull,push,delete"); got != "repository:core/app:pull,push" {
		t.Errorf("a member: %q", got)
	}
	// A limited token is as limited there (CVE-2025-68944).
	w.token(metadata.Token{Kind: metadata.PersonalToken, Name: "narrow", User: "alice", Actions: []string{"pull"}, Repositories: "core/app"})
	if got := w.scopesAt("token:narrow", "repository:core/app:pull,push repository:core/other:pull"); got != "repository:core/app:pull" {
		t.Errorf("a limited token: %q", got)
	}
	// The other registry knows nothing of tags, so one for some tags only pulls there.
	w.token(metadata.Token{Kind: metadata.PersonalToken, Name: "tags", User: "alice", Actions: []string{"pull", "push"}, Tags: "dev-*"})
	if got := w.scopesAt("token:tags", "repository:core/app:pull,push"); got != "repository:core/app:pull" {
		t.Errorf("a token for some tags: %q", got)
	}
	// What is denied is denied there too.
	w.update(func(ctx context.Context, tx *metadata.Tx) error {
		_, _, err := tx.PutDenial(ctx, metadata.Denial{Name: "freeze", Principal: "*", Repository: "core/*", Actions: []string{"push"}, CIDR: "127.0.0.0/8", CreatedBy: "root"})
		return err
	})
	w.clock.forward(time.Minute)
	if got := w.scopesAt("alice", "repository:core/app:pull,push"); got != "repository:core/app:pull" {
		t.Errorf("denied: %q", got)
	}
}

// A token for another service opens nothing here, whatever that service is called
// and whoever issues: cloudflare/serverless-registry#154. What another service's key
// signed is not ours, even when the claims are.
func TestServiceTokensOpenNothingHere(t *testing.T) {
	w := dockitWorld(t, func(s *metadata.Service) { s.Issuer = "berth" })
	w.pushImage("root", "team/app", "v1")
	var a tokenAnswer
	r := w.do("GET", "/token?service="+theirs+"&scope=repository:team/app:pull,push", "root", nil).want(t, 200)
	if err := json.Unmarshal(r.body, &a); err != nil || a.Scope == "" {
		t.Fatalf("%s, %v", r.body, err)
	}
	as := "jwt:" + a.Token
	for _, path := range []string{"/v2/", "/v2/team/app/manifests/v1", "/v2/_catalog"} {
		w.do("GET", path, as, nil).want(t, 401)
	}
	w.do("GET", "/token?service="+theirs, as, nil).want(t, 401)
	// A service that calls itself as we do is shadowed by us.
	w.update(func(ctx context.Context, tx *metadata.Tx) error {
		_, _, err := tx.PutService(ctx, metadata.Service{Name: "registry.test", Issuer: "berth", TokenTTL: time.Minute, Algorithm: token.ES256})
		return err
	})
	var found metadata.Service
	w.update(func(ctx context.Context, tx *metadata.Tx) (err error) {
		found, err = tx.Service(ctx, "registry.test")
		return err
	})
	raw, _, err := w.server.tokens.IssueFor(t.Context(), found, w.principal("root"), []token.Access{{Type: "repository", Name: "team/app", Actions: []string{"pull"}}})
	if err != nil {
		t.Fatal(err)
	}
	if tok, _, err := jwt.NewParser().ParseUnverified(raw, jwt.MapClaims{}); err != nil || tok.Claims.(jwt.MapClaims)["aud"] != "registry.test" {
		t.Fatalf("%+v, %v", tok, err)
	}
	w.do("GET", "/v2/team/app/manifests/v1", "jwt:"+raw, nil).want(t, 401)
}

// TestDockitOwnPassword: an administrator's own password changes for who knows the current
// one, whatever the request signed in with, as on the management API.
func TestDockitOwnPassword(t *testing.T) {
	metadatatest.EachURL(t, func(t *testing.T, url string) {
		w := newWorldOn(t, url, nil)
		w.user("root", metadata.RoleAdmin)
		w.token(metadata.Token{Kind: metadata.PersonalToken, User: "root", Name: "laptop", Actions: auth.AllActions.Names()})
		w.accounts["as-root"] = w.accounts["laptop"]
		jwt := w.jwt("root", "berth:api:*")
		put := func(as, body string) reply {
			return w.do("PUT", "/v2/admin/user:root/change-password", as, strings.NewReader(body))
		}
		for _, as := range []string{"token:laptop", "as-root", jwt} {
			for _, body := range []string{`{"password":"taken over"}`, `{"password":"taken over","current_password":"wrong"}`,
				fmt.Sprintf(`{"password":"taken over","current_password":%q}`, w.accounts["laptop"])} {
				r := put(as, body)
				if missing := r.StatusCode == http.StatusBadRequest && strings.Contains(string(r.body), "current_password"); !missing && r.StatusCode != http.StatusForbidden {
					t.Errorf("%s %s: %d %s", as, body, r.StatusCode, r.body)
				}
			}
		}
		w.do("GET", "/v2/", "root", nil).want(t, http.StatusOK)
		put(jwt, `{"password":"the second one","current_password":"pw-root"}`).want(t, http.StatusOK)
		w.accounts["root"] = "the second one"
		put("root", `{"password":"the third one"}`).want(t, http.StatusOK) // the request itself shows it
		w.accounts["root"] = "the third one"
		w.do("GET", "/v2/", "root", nil).want(t, http.StatusOK)
	})
}

// TestDockitReservedNames: no user gets a name that means something else at the sign-in.
func TestDockitReservedNames(t *testing.T) {
	w := dockitWorld(t, nil)
	for _, name := range []string{"oidc", "token", "oauth2", "OIDC", "Token", "anonymous", "instance-identity-document"} {
		w.admin("PUT", "user:"+name+"/add", 400, `{"password":"a new password"}`)
	}
}
