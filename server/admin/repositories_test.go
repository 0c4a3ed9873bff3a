package admin_test

import (
	"context"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"berth/api"
	"berth/auth"
	"berth/metadata"
	"berth/oci"
)

// digest is that of a manifest which push would make of the content.
func (w *world) digest(content string) digest.Digest {
	return digest.FromString(`{"schemaVersion":2,"annotations":{"content":"` + content + `"}}`)
}

// nextOf is the path in a Link header, or "".
func nextOf(t testing.TB, link string) string {
	t.Helper()
	if link == "" {
		return ""
	}
	m := regexp.MustCompile(`^<(/api/v1/[^>]+)>; rel="next"$`).FindStringSubmatch(link)
	if m == nil {
		t.Fatalf("the Link header %q has no next page", link)
	}
	return m[1]
}

func TestRepositories(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		root := "root:" + rootPassword
		w.ok("POST", "/api/v1/teams", map[string]string{"name": "core", "default_visibility": "internal"})
		for _, role := range []string{"reader", "member", "maintainer"} {
			w.user(role, metadata.RoleUser)
			w.ok("PUT", "/api/v1/teams/core/members/"+role, map[string]string{"role": role})
		}
		w.user("outsider", metadata.RoleUser)

		// Names with slashes are one segment; PUT is idempotent.
		name := "/api/v1/repositories/core%2Fdeep%2Fapp"
		made := w.do("member", "PUT", name, nil)
		if r := made.json(t); made.status != http.StatusCreated || r["name"] != "core/deep/app" || r["team"] != "core" || r["visibility"] != "internal" || r["created_by"] != "member" {
			t.Fatalf("status %d: %s", made.status, made.body)
		}
		if again := w.do("maintainer", "PUT", name, nil); again.status != http.StatusOK || again.json(t)["created_by"] != "member" {
			t.Errorf("status %d: %s", again.status, again.body)
		}
		w.refused(w.do("reader", "PUT", "/api/v1/repositories/core%2Fother", nil), 403, oci.CodeDenied, "push", "maintainer")
		w.refused(w.do(root, "GET", "/api/v1/repositories/core/deep/app", nil), 404, oci.CodeNotFound, "percent-encoded")
		w.refused(w.do(root, "GET", "/api/v1/repositories/core%2FDeep", nil), 400, oci.CodeNameInvalid)
		w.refused(w.do(root, "GET", "/api/v1/repositories/..%2Fcore", nil), 400, oci.CodeNameInvalid)
		w.refused(w.do(root, "GET", "/api/v1/repositories/core%2Fnowhere", nil), 404, oci.CodeNameUnknown, "core/nowhere")

		w.push("core/deep/app", "one", "1.0", "latest")
		w.push("core/deep/app", "two", "2.0")
		w.push("core/secret", "one", "1.0")
		w.ok("PATCH", "/api/v1/repositories/core%2Fsecret", map[string]string{"visibility": "private"})
		got := w.ok("GET", name, nil)
		if r := got.json(t); r["tags"] != float64(3) || r["size"] != float64(2*len(`{"schemaVersion":2,"annotations":{"content":"one"}}`)) {
			t.Errorf("%s", got.body)
		}

		// Lists show what the caller may pull, and nothing else tells that the rest is there.
		if got := w.do("outsider", "GET", "/api/v1/repositories", nil).names(t, "name"); got != "core/deep/app" {
			t.Errorf("outsider sees %q", got)
		}
		missing := w.do("outsider", "GET", "/api/v1/repositories/core%2Fnowhere", nil)
		secret := w.do("outsider", "GET", "/api/v1/repositories/core%2Fsecret", nil)
		w.refused(secret, 403, oci.CodeDenied)
		w.refused(missing, 403, oci.CodeDenied)
		same := func(a answer) string {
			p := a.json(t)
			return strings.NewReplacer("core/secret", "X", "core/nowhere", "X").Replace(fmt.Sprint(p["detail"], p["title"], p["code"]))
		}
		if same(missing) != same(secret) {
			t.Errorf("a private repository and none differ: %s and %s", missing.body, secret.body)
		}

		if got := w.do("maintainer", "PATCH", name, map[string]string{"visibility": "private"}); got.json(t)["visibility"] != "private" {
			t.Errorf("%s", got.body)
		}
		w.refused(w.do("outsider", "GET", name, nil), 403, oci.CodeDenied)
		w.refused(w.do("maintainer", "PATCH", name, map[string]string{"visibility": "secret"}), 400, oci.CodeInvalid, "visibility")

		if got := w.do("maintainer", "DELETE", name, nil); got.status != http.StatusNoContent {
			t.Errorf("status %d: %s", got.status, got.body)
		}
		w.refused(w.do("maintainer", "DELETE", name, nil), 404, oci.CodeNameUnknown)
	})
}

func TestTags(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		root := "root:" + rootPassword
		one := w.push("core/app", "one", "1.0", "latest")
		two := w.push("core/app", "two", "latest")
		w.update(func(ctx context.Context, tx *metadata.Tx) error {
			return tx.RecordRefusal(ctx, "core/app", "1.0", two, metadata.Actor{Name: "mallory"})
		})

		got := w.ok("GET", "/api/v1/repositories/core%2Fapp/tags/1.0", nil)
		if tag := got.json(t); tag["digest"] != one.String() || tag["mode"] != "immutable" || tag["updated_by"] != "root" || tag["media_type"] != oci.MediaTypeImageManifest {
			t.Errorf("%s", got.body)
		}
		tags := w.ok("GET", "/api/v1/repositories/core%2Fapp/tags", nil)
		if tags.names(t, "name") != "1.0 latest" || tags.names(t, "mode") != "immutable mutable" {
			t.Errorf("%s", tags.body)
		}
		w.refused(w.do(root, "GET", "/api/v1/repositories/core%2Fapp/tags/nope", nil), 404, oci.CodeManifestUnknown, "nope")
		w.refused(w.do(root, "GET", "/api/v1/repositories/core%2Fapp/tags/-nope", nil), 400, oci.CodeTagInvalid)

		history := "/api/v1/repositories/core%2Fapp/tags/latest/history"
		events := w.ok("GET", history, nil)
		if events.names(t, "action") != "move create" || events.names(t, "digest") != two.String()+" "+one.String() {
			t.Errorf("%s", events.body)
		}
		refused := w.ok("GET", "/api/v1/repositories/core%2Fapp/tags/1.0/history", nil)
		if refused.names(t, "action") != "refused create" || refused.names(t, "actor") != "mallory root" {
			t.Errorf("%s", refused.body)
		}

		if got := w.ok("DELETE", "/api/v1/repositories/core%2Fapp/tags/latest", nil); got.status != http.StatusNoContent {
			t.Errorf("status %d", got.status)
		}
		w.refused(w.do(root, "DELETE", "/api/v1/repositories/core%2Fapp/tags/latest", nil), 404, oci.CodeManifestUnknown)
		// The history outlives the tag.
		if got := w.ok("GET", history, nil).names(t, "action"); got != "delete move create" {
			t.Errorf("the history is %s", got)
		}
		w.refused(w.do(root, "GET", "/api/v1/repositories/core%2Fapp/tags/nope/history", nil), 404, oci.CodeManifestUnknown)
		w.refused(w.do(root, "GET", "/api/v1/repositories/core%2Fnowhere/tags/nope/history", nil), 404, oci.CodeNameUnknown)
	})
}

func TestTagPolicies(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		root := "root:" + rootPassword
		w.ok("POST", "/api/v1/teams", map[string]string{"name": "core"})
		w.push("core/app", "one", "1.0", "dev")
		policy := func(path string) string {
			p := w.ok("GET", "/api/v1"+path+"/tag-policy", nil).json(t)
			return fmt.Sprint(p["mode"], p["exempt"], p["level"])
		}
		set := func(path, mode string, exempt ...string) {
			t.Helper()
			w.ok("PUT", "/api/v1"+path+"/tag-policy", map[string]any{"mode": mode, "exempt": append([]string{}, exempt...)})
		}
		check := func(step, instance, team, repository string) {
			t.Helper()
			for path, want := range map[string]string{"/instance": instance, "/teams/core": team, "/repositories/core%2Fapp": repository} {
				if got := policy(path); got != want {
					t.Errorf("%s: the policy of %s is %s, want %s", step, path, got, want)
				}
			}
		}
		first := "immutable[*-SNAPSHOT *-buildcache buildcache buildcache-* cache latest sha256-* sha512-*]instance"
		check("at first", first, first, first)
		set("/teams/core", "mutable")
		check("team", first, "mutable[]team", "mutable[]team")
		set("/repositories/core%2Fapp", "immutable", "dev", "pr-*")
		check("repository", first, "mutable[]team", "immutable[dev pr-*]repository")
		w.ok("DELETE", "/api/v1/repositories/core%2Fapp/tag-policy", nil)
		w.ok("DELETE", "/api/v1/repositories/core%2Fapp/tag-policy", nil)
		check("repository follows", first, "mutable[]team", "mutable[]team")
		w.ok("DELETE", "/api/v1/teams/core/tag-policy", nil)
		check("team follows", first, first, first)
		set("/instance", "mutable", "latest")
		check("instance", "mutable[latest]instance", "mutable[latest]instance", "mutable[latest]instance")

		// Sealed is for ever: what it met stays so when the policy goes.
		set("/repositories/core%2Fapp", "sealed", "dev")
		w.refused(w.do(root, "DELETE", "/api/v1/repositories/core%2Fapp/tags/1.0", nil), 409, oci.CodeTagImmutable, "1.0", "sealed")
		w.ok("DELETE", "/api/v1/repositories/core%2Fapp/tag-policy", nil)
		w.refused(w.do(root, "DELETE", "/api/v1/repositories/core%2Fapp/tags/1.0", nil), 409, oci.CodeTagImmutable, "sealed")
		w.refused(w.do(root, "DELETE", "/api/v1/repositories/core%2Fapp", nil), 409, oci.CodeTagImmutable, "sealed")
		w.ok("DELETE", "/api/v1/repositories/core%2Fapp/tags/dev", nil)

		for _, body := range []any{
			map[string]any{"mode": "frozen", "exempt": []string{}},
			map[string]any{"mode": "mutable"},
			map[string]any{"exempt": []string{}},
			map[string]any{"mode": "mutable", "exempt": []string{""}},
			map[string]any{"mode": "mutable", "exempt": []string{"a,b"}},
			map[string]any{"mode": "mutable", "exempt": []string{"a", "a"}},
			map[string]any{"mode": "mutable", "exempt": []string{strings.Repeat("a", 129)}},
			map[string]any{"mode": "mutable", "exempt": "latest"},
		} {
			for _, path := range []string{"/instance", "/teams/core", "/repositories/core%2Fapp"} {
				w.refused(w.do(root, "PUT", "/api/v1"+path+"/tag-policy", body), 400, oci.CodeInvalid)
			}
		}
		w.refused(w.do(root, "GET", "/api/v1/teams/nowhere/tag-policy", nil), 404, oci.CodeNotFound)
		w.refused(w.do(root, "DELETE", "/api/v1/teams/nowhere/tag-policy", nil), 404, oci.CodeNotFound)
		w.refused(w.do(root, "GET", "/api/v1/repositories/core%2Fnowhere/tag-policy", nil), 404, oci.CodeNameUnknown)
		w.refused(w.do(root, "PUT", "/api/v1/repositories/core%2Fnowhere/tag-policy", map[string]any{"mode": "mutable", "exempt": []string{}}), 404, oci.CodeNameUnknown)
	})
}

func TestTokens(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		root := "root:" + rootPassword
		w.user("alice", metadata.RoleUser)
		w.ok("POST", "/api/v1/teams", map[string]string{"name": "core"})
		w.ok("PUT", "/api/v1/teams/core/members/alice", map[string]string{"role": "maintainer"})
		for path, kind := range map[string][3]string{
			"/api/v1/users/alice/tokens": {auth.PersonalPrefix, "alice", "alice"},
			"/api/v1/teams/core/robots":  {auth.RobotPrefix, "core+ci", "core+ci"},
		} {
			made := w.do("alice", "POST", path, map[string]any{"name": "ci", "repositories": "core/*", "actions": []string{"push", "admin", "pull"}, "expires_at": soon()})
			if made.status != http.StatusCreated {
				t.Fatalf("%s: status %d: %s", path, made.status, made.body)
			}
			reply := made.json(t)
			secret, token := reply["secret"].(string), reply["token"].(map[string]any)
			if !strings.HasPrefix(secret, kind[0]) || !auth.IsSecret(secret) {
				t.Errorf("the secret is %q", secret)
			}
			if token["username"] != kind[1] || token["repositories"] != "core/*" || fmt.Sprint(token["actions"]) != "[pull push admin]" || token["created_by"] != "alice" || token["expires_at"] == nil {
				t.Errorf("%s", made.body)
			}
			w.secrets["ci"] = secret
			me := w.do("ci", "GET", "/api/v1/whoami", nil)
			if limit, ok := me.json(t)["limit"].(map[string]any); !ok || limit["repositories"] != "core/*" || me.json(t)["name"] != kind[2] {
				t.Errorf("whoami says %s", me.body)
			}
			// The secret is shown once.
			for _, shown := range []answer{w.do("alice", "GET", path, nil), w.do("alice", "GET", path+"/ci", nil)} {
				if shown.status != 200 || strings.Contains(shown.body, `"secret"`) || strings.Contains(shown.body, secret) || !strings.Contains(shown.body, kind[1]) {
					t.Errorf("%s shows %s", path, shown.body)
				}
			}
			w.refused(w.do("alice", "POST", path, map[string]any{"name": "ci", "actions": []string{"pull"}}), 409, oci.CodeConflict, "ci")
			// By default it is for all repositories and does not end.
			plain := w.do("alice", "POST", path, map[string]any{"name": "plain", "actions": []string{"pull"}}).json(t)["token"].(map[string]any)
			if plain["repositories"] != "*" || plain["expires_at"] != nil {
				t.Errorf("%v", plain)
			}
			for body, word := range map[string]string{
				`{"name":"Ci","actions":["pull"]}`:                                                  "name",
				`{"name":"a+b","actions":["pull"]}`:                                                 "name",
				`{"name":"x","actions":["pull"],"expires_at":"2020-01-01T00:00:00Z"}`:               "future",
				`{"name":"x","actions":["pull"],"repositories":"UPPER"}`:                            "pattern",
				`{"name":"x","actions":["pull"],"repositories":""}`:                                 "repositories",
				`{"name":"x","actions":["pull","pull"]}`:                                            "actions",
				`{"name":"x","actions":["pull"],"repositories":"[a-z]"}`:                            "pattern",
				`{"name":"x","actions":["pull"],"repositories":"` + strings.Repeat("a", 256) + `"}`: "repositories",
			} {
				w.refused(w.do("alice", "POST", path, body), 400, oci.CodeInvalid, word)
			}
			if got := w.do("alice", "DELETE", path+"/ci", nil); got.status != http.StatusNoContent {
				t.Errorf("status %d: %s", got.status, got.body)
			}
			w.refused(w.do("ci", "GET", "/api/v1/whoami", nil), 401, oci.CodeUnauthorized)
			w.refused(w.do("alice", "DELETE", path+"/ci", nil), 404, oci.CodeNotFound)
			w.refused(w.do("alice", "GET", path+"/ci", nil), 404, oci.CodeNotFound)
		}
		for _, path := range []string{"/api/v1/users/nobody/tokens", "/api/v1/teams/nowhere/robots"} {
			w.refused(w.do(root, "GET", path, nil), 404, oci.CodeNotFound)
			w.refused(w.do(root, "POST", path, map[string]any{"name": "x", "actions": []string{"pull"}}), 404, oci.CodeNotFound)
		}
	})
}

// TestTokensDoNotGrow checks that a token cannot make one that carries more
// than itself.
func TestTokensDoNotGrow(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		w.user("alice", metadata.RoleUser)
		w.ok("POST", "/api/v1/teams", map[string]string{"name": "core"})
		w.ok("PUT", "/api/v1/teams/core/members/alice", map[string]string{"role": "maintainer"})
		w.token("pat", metadata.Token{Kind: metadata.PersonalToken, User: "alice", Repositories: "*", Actions: []string{"pull", "admin"}})
		w.token("robot", metadata.Token{Kind: metadata.RobotToken, Team: "core", Repositories: "*", Actions: []string{"pull", "admin"}})
		w.token("narrow", metadata.Token{Kind: metadata.PersonalToken, User: "alice", Repositories: "core/*", Actions: auth.AllActions.Names()})
		for who, path := range map[string]string{"pat": "/api/v1/users/alice/tokens", "robot": "/api/v1/teams/core/robots"} {
			w.refused(w.do(who, "POST", path, map[string]any{"name": "more", "actions": []string{"pull", "push"}}), 403, oci.CodeDenied, "pull,admin")
			if got := w.do(who, "POST", path, map[string]any{"name": "less", "actions": []string{"pull"}}); got.status != http.StatusCreated {
				t.Errorf("%s: status %d: %s", who, got.status, got.body)
			}
			w.refused(w.do("narrow", "POST", path, map[string]any{"name": "wide", "actions": []string{"pull"}}), 403, oci.CodeDenied, "core/*")
		}
		w.refused(w.do("robot", "POST", "/api/v1/users/alice/tokens", map[string]any{"name": "x", "actions": []string{"pull"}}), 403, oci.CodeDenied)
	})
}

// TestDocuments checks what everybody may read, and the edges of the routes.
func TestDocuments(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		page := w.do("", "GET", "/api/", nil)
		if policy := page.header.Get("Content-Security-Policy"); !strings.Contains(policy, "script-src 'self';") || page.header.Get("Cross-Origin-Opener-Policy") != "same-origin" || page.header.Get("Cache-Control") != "no-store" {
			t.Errorf("the page's headers: %v", page.header)
		}
		if page.status != 200 || !strings.HasPrefix(page.header.Get("Content-Type"), "text/html") || !strings.Contains(page.body, `src="swagger-ui-bundle.js"`) {
			t.Errorf("status %d: %.300s", page.status, page.body)
		}
		if got := w.do("", "GET", "/api/openapi.yaml", nil); got.status != 200 || got.body != string(api.SpecYAML()) {
			t.Errorf("status %d", got.status)
		}
		if got := w.do("", "GET", "/api/openapi.json", nil); got.status != 200 || got.json(t)["openapi"] != "3.0.3" {
			t.Errorf("status %d", got.status)
		}
		if got := w.do("", "GET", "/swagger.json", nil); got.status != 200 || got.json(t)["openapi"] != "3.0.3" || got.json(t)["paths"].(map[string]any)["/repository/{owner}"] == nil {
			t.Errorf("status %d", got.status)
		}
		for _, path := range []string{"swagger-ui.css", "swagger-ui-bundle.js", "swagger-ui-standalone-preset.js", "init.js", "favicon-32x32.png"} {
			plain := w.do("", "GET", "/api/"+path, nil, "Accept-Encoding", "identity")
			packed := w.do("", "GET", "/api/"+path, nil, "Accept-Encoding", "br, gzip")
			if plain.status != 200 || plain.header.Get("Content-Encoding") != "" || !strings.Contains(plain.header.Get("Content-Security-Policy"), "sandbox;") || plain.header.Get("X-Content-Type-Options") != "nosniff" {
				t.Errorf("%s: %d %v", path, plain.status, plain.header)
			}
			if packed.status != 200 || packed.header.Get("Content-Type") != plain.header.Get("Content-Type") || len(plain.body) < len(packed.body) {
				t.Errorf("%s: %d %v, %d bytes and %d packed", path, packed.status, packed.header, len(plain.body), len(packed.body))
			}
		}
		for _, path := range []string{"/ui", "/ui/", "/api"} {
			if got := w.do("", "GET", path, nil); got.header.Get("Location") != "/api/" {
				t.Errorf("%s: %d %v", path, got.status, got.header)
			}
		}
		root := "root:" + rootPassword
		w.refused(w.do(root, "GET", "/api/v1/nothing", nil), 404, oci.CodeNotFound, "/api/")
		w.refused(w.do(root, "GET", "/api/v1/users/", nil), 404, oci.CodeNotFound)
		w.refused(w.do(root, "PUT", "/api/v1/users", nil), 405, oci.CodeUnsupported)
		for _, path := range []string{"/users/%ff", "/users/%00", "/teams/a%00/members", "/users?after=%ff", "/repositories?prefix=%00", "/users/a/tokens/%C0%80"} {
			w.refused(w.do(root, "GET", "/api/v1"+path, nil), 400, oci.CodeInvalid, "percent-encoded")
		}
		for _, path := range []string{"/users/%20", "/users/..%2F..%2Fx", "/teams/%2E%2E", "/users/a%3Fb", "/users/%E2%98%83", "/users/a/tokens/%27%3B--"} {
			w.refused(w.do(root, "GET", "/api/v1"+path, nil), 404, oci.CodeNotFound)
		}
		w.refused(w.do("", "GET", "/api/v1/users", nil), 401, oci.CodeUnauthorized)
		if got := w.do("", "GET", "/api/v1/users", nil).header.Get("WWW-Authenticate"); !strings.Contains(got, "berth:api:*") {
			t.Errorf("the challenge is %q", got)
		}
	})
}
