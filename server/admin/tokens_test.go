package admin_test

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"berth/auth"
	"berth/metadata"
	"berth/oci"
)

// made creates a token and remembers its secret under a name.
func (w *world) made(who, path, as string, body any) map[string]any {
	w.t.Helper()
	a := w.do(who, "POST", path, body)
	if a.status != http.StatusCreated && a.status != http.StatusOK {
		w.t.Fatalf("%s: %d %s", path, a.status, a.body)
	}
	w.secrets[as] = a.json(w.t)["secret"].(string)
	return a.json(w.t)["token"].(map[string]any)
}

func TestDeployTokens(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		root := "root:" + rootPassword
		w.ok("POST", "/api/v1/teams", map[string]string{"name": "core"})
		const path = "/api/v1/teams/core/robots"
		token := w.made(root, path, "prod", map[string]any{"name": "prod", "kind": "deploy", "actions": []string{"pull"}, "tags": "v*", "cidrs": []string{"10.1.2.3/8", "192.168.1.1"}})
		if !strings.HasPrefix(w.secrets["prod"], auth.DeployPrefix) || !auth.IsSecret(w.secrets["prod"]) {
			t.Errorf("the secret is %q", w.secrets["prod"])
		}
		if token["kind"] != "deploy" || token["repositories"] != "core/*" || token["tags"] != "v*" || fmt.Sprint(token["cidrs"]) != "[10.0.0.0/8 192.168.1.1/32]" || token["username"] != "core+prod" {
			t.Errorf("%v", token)
		}
		for body, word := range map[string]string{
			`{"name":"x","kind":"deploy","actions":["pull","admin"]}`:              "cannot carry admin",
			`{"name":"x","kind":"personal","actions":["pull"]}`:                    "kind",
			`{"name":"x","actions":["pull"],"tags":"v[0-9]"}`:                      "tag",
			`{"name":"x","actions":["pull"],"tags":""}`:                            "tags",
			`{"name":"x","actions":["pull"],"cidrs":["10.0.0.0/99"]}`:              "not a network",
			`{"name":"x","actions":["pull"],"cidrs":["10.0.0.0/8, 11.0.0.0/8"]}`:   "not a network",
			`{"name":"x","actions":["pull"],"cidrs":[""]}`:                         "cidrs",
			`{"name":"x","actions":["pull"],"cidrs":"10.0.0.0/8"}`:                 "cidrs",
			`{"name":"x","actions":["pull"],"secret":"mine"}`:                      "secret",
			`{"name":"x","actions":["pull"],"created_by":"root"}`:                  "created_by",
			`{"name":"x","actions":["pull"],"user":"root","kind":"robot"}`:         "user",
			`{"name":"prod","kind":"robot","actions":["pull"],"repositories":"*"}`: "already",
		} {
			a := w.do(root, "POST", path, body)
			if a.status != 400 && a.status != 409 || !strings.Contains(a.body, word) {
				t.Errorf("%s: %d %s", body, a.status, a.body)
			}
		}
		w.refused(w.do(root, "POST", "/api/v1/users/root/tokens", `{"name":"x","kind":"deploy","actions":["pull"]}`), 400, oci.CodeInvalid, "team")
		// It is bound to its network, so from here it is nobody.
		w.refused(w.do("prod", "GET", "/api/v1/whoami", nil), 401, oci.CodeUnauthorized, "10.0.0.0/8")
	})
}

func TestRotate(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		root := "root:" + rootPassword
		w.user("alice", metadata.RoleUser)
		w.ok("POST", "/api/v1/teams", map[string]string{"name": "core"})
		for _, path := range []string{"/api/v1/users/alice/tokens", "/api/v1/teams/core/robots"} {
			w.made(root, path, "one", map[string]any{"name": "ci", "actions": []string{"pull", "admin"}, "tags": "v*"})
			token := w.made(root, path+"/ci/rotate", "two", map[string]any{"overlap": 3600})
			secrets := token["secrets"].([]any)
			if len(secrets) != 2 || secrets[0].(map[string]any)["expires_at"] == nil || secrets[1].(map[string]any)["expires_at"] != nil || token["tags"] != "v*" {
				t.Errorf("%v", token)
			}
			if w.secrets["one"] == w.secrets["two"] {
				t.Fatal("the secret is the same")
			}
			for _, who := range []string{"one", "two"} {
				if a := w.do(who, "GET", "/api/v1/whoami", nil); a.status != 200 {
					t.Errorf("%s: %d %s", who, a.status, a.body)
				}
			}
			w.made(root, path+"/ci/rotate", "three", map[string]any{})
			for who, status := range map[string]int{"one": 401, "two": 401, "three": 200} {
				if a := w.do(who, "GET", "/api/v1/whoami", nil); a.status != status {
					t.Errorf("%s: %d %s", who, a.status, a.body)
				}
			}
			w.refused(w.do(root, "POST", path+"/nope/rotate", map[string]any{}), 404, oci.CodeNotFound)
			w.refused(w.do(root, "POST", path+"/ci/rotate", map[string]any{"overlap": -1}), 400, oci.CodeInvalid)
			w.refused(w.do(root, "POST", path+"/ci/rotate", map[string]any{"overlap": 90*24*3600 + 1}), 400, oci.CodeInvalid)
			for _, e := range w.audited(metadata.AuditFilter{}) {
				if text := fmt.Sprint(e); strings.Contains(text, w.secrets["two"]) || strings.Contains(text, w.secrets["three"]) {
					t.Errorf("a secret is in the audit log: %v", e)
				}
			}
		}
	})
}

// A token makes or rotates none that is bound to less than itself, or lives longer:
// peers.md D.3, "scope widening".
func TestTokensDoNotOutgrow(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		root := "root:" + rootPassword
		w.user("alice", metadata.RoleUser)
		w.ok("POST", "/api/v1/teams", map[string]string{"name": "core"})
		w.ok("PUT", "/api/v1/teams/core/members/alice", map[string]string{"role": "maintainer"})
		all := []string{"pull", "push", "delete", "admin"}
		end := time.Now().Add(time.Hour).UTC()
		w.made(root, "/api/v1/users/alice/tokens", "here", map[string]any{"name": "here", "actions": all, "cidrs": []string{"127.0.0.0/8"}})
		w.made(root, "/api/v1/users/alice/tokens", "short", map[string]any{"name": "short", "actions": all, "expires_at": end})
		w.made(root, "/api/v1/users/alice/tokens", "tagged", map[string]any{"name": "tagged", "actions": all, "tags": "v*"})
		w.made(root, "/api/v1/teams/core/robots", "robot", map[string]any{"name": "robot", "actions": all, "expires_at": end})
		w.made(root, "/api/v1/users/alice/tokens", "old", map[string]any{"name": "old", "actions": all})
		w.made(root, "/api/v1/users/alice/tokens/old/rotate", "new", map[string]any{"overlap": 3600})
		w.made(root, "/api/v1/teams/core/robots", "wide", map[string]any{"name": "wide", "actions": all})
		n := 0
		for _, c := range []struct {
			who  string
			more map[string]any
			ok   bool
		}{
			{"here", map[string]any{}, false},
			{"here", map[string]any{"cidrs": []string{"127.0.0.0/8", "10.0.0.0/8"}}, false},
			{"here", map[string]any{"cidrs": []string{"0.0.0.0/0"}}, false},
			{"here", map[string]any{"cidrs": []string{"127.0.0.1"}}, true},
			{"short", map[string]any{}, false},
			{"short", map[string]any{"expires_at": end.Add(time.Second)}, false},
			{"short", map[string]any{"expires_at": end.Add(-time.Second)}, true},
			{"robot", map[string]any{}, false},
			{"robot", map[string]any{"expires_at": end.Add(-time.Second)}, true},
			{"old", map[string]any{}, false}, // the secret ends within the hour
			{"old", map[string]any{"expires_at": end.Add(-time.Minute)}, true},
			{"new", map[string]any{}, true},
			{"tagged", map[string]any{}, false},
			{"tagged", map[string]any{"tags": "v*"}, false}, // it manages nothing as a whole
		} {
			n++
			body := map[string]any{"name": fmt.Sprint("t", n), "actions": []string{"pull"}}
			for k, v := range c.more {
				body[k] = v
			}
			a := w.do(c.who, "POST", "/api/v1/teams/core/robots", body)
			if c.ok && a.status != 201 || !c.ok && (a.status != 403 || !strings.Contains(a.body, "token-limit")) {
				t.Errorf("%s %v: %d %s", c.who, c.more, a.status, a.body)
			}
		}
		for _, who := range []string{"here", "short", "robot", "old", "tagged"} {
			w.refused(w.do(who, "POST", "/api/v1/teams/core/robots/wide/rotate", map[string]any{}), 403, oci.CodeDenied)
		}
		// What only the tag pattern is about: no other tag is deleted, and no setting changed.
		w.push("core/app", "one", "v1", "dev")
		w.refused(w.do("tagged", "DELETE", "/api/v1/repositories/core%2Fapp/tags/dev", nil), 403, oci.CodeDenied, "v*")
		w.refused(w.do("tagged", "DELETE", "/api/v1/repositories/core%2Fapp", nil), 403, oci.CodeDenied, "v*")
		w.refused(w.do("tagged", "PATCH", "/api/v1/repositories/core%2Fapp", map[string]any{"visibility": "public"}), 403, oci.CodeDenied, "v*")
		if a := w.do("tagged", "DELETE", "/api/v1/repositories/core%2Fapp/tags/v1", nil); a.status != 204 {
			t.Errorf("%d %s", a.status, a.body)
		}
	})
}

// Tokens of other teams and users are out of reach under any path: peers.md D.2, Harbor
// CVE-2022-31666 to 31671.
func TestTokensOfOtherTenants(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		root := "root:" + rootPassword
		for _, name := range []string{"alice", "mallory"} {
			w.user(name, metadata.RoleUser)
		}
		for _, team := range []string{"core", "evil"} {
			w.ok("POST", "/api/v1/teams", map[string]string{"name": team})
		}
		w.ok("PUT", "/api/v1/teams/core/members/alice", map[string]string{"role": "maintainer"})
		w.ok("PUT", "/api/v1/teams/evil/members/mallory", map[string]string{"role": "maintainer"})
		w.made(root, "/api/v1/teams/core/robots", "ci", map[string]any{"name": "ci", "actions": []string{"pull"}})
		w.made(root, "/api/v1/users/alice/tokens", "laptop", map[string]any{"name": "laptop", "actions": []string{"pull"}})
		for _, request := range []struct {
			method, path string
			status       int
		}{
			{"GET", "/teams/core/robots/ci", 403}, {"DELETE", "/teams/core/robots/ci", 403}, {"POST", "/teams/core/robots/ci/rotate", 403},
			{"GET", "/teams/evil/robots/ci", 404}, {"DELETE", "/teams/evil/robots/ci", 404}, {"POST", "/teams/evil/robots/ci/rotate", 404},
			{"GET", "/users/alice/tokens/laptop", 403}, {"DELETE", "/users/alice/tokens/laptop", 403}, {"POST", "/users/alice/tokens/laptop/rotate", 403},
			{"GET", "/users/mallory/tokens/laptop", 404}, {"DELETE", "/users/mallory/tokens/laptop", 404}, {"POST", "/users/mallory/tokens/laptop/rotate", 404},
			{"GET", "/teams/core/audit", 403}, {"GET", "/audit", 403},
		} {
			var body any
			if request.method == "POST" {
				body = map[string]any{}
			}
			if a := w.do("mallory", request.method, "/api/v1"+request.path, body); a.status != request.status {
				t.Errorf("%s %s: %d %s", request.method, request.path, a.status, a.body)
			}
		}
		for _, who := range []string{"ci", "laptop"} { // they still sign in
			if err := w.db.View(t.Context(), func(tx *metadata.Tx) error {
				_, _, err := tx.TokenBySecretHash(t.Context(), auth.SecretHash(w.secrets[who]))
				return err
			}); err != nil {
				t.Errorf("%s: %v", who, err)
			}
		}
	})
}

// The audit log, filtered and in pages; a team's maintainers see the team's part.
func TestAuditLog(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		w.user("alice", metadata.RoleUser)
		for _, team := range []string{"core", "other"} {
			w.ok("POST", "/api/v1/teams", map[string]string{"name": team})
		}
		w.ok("PUT", "/api/v1/teams/core/members/alice", map[string]string{"role": "maintainer"})
		err := w.db.Update(t.Context(), func(tx *metadata.Tx) error {
			return tx.Record(t.Context(),
				metadata.Event{Kind: metadata.ManifestPushed, Actor: metadata.Actor{Name: "core+ci", Kind: "robot", Claims: map[string]string{"workflow": "release"}}, Repository: "core/app", Reference: "1.0"},
				metadata.Event{Kind: "pull", Outcome: metadata.AuditRefused, Actor: metadata.Actor{Name: "mallory"}, Repository: "other/app", Detail: map[string]any{"rule": "not-a-member"}, Count: 9},
			)
		})
		if err != nil {
			t.Fatal(err)
		}
		root := "root:" + rootPassword
		get := func(who, path, query string) string {
			t.Helper()
			a := w.do(who, "GET", "/api/v1"+path+query, nil)
			if a.status != 200 {
				t.Fatalf("%s%s: %d %s", path, query, a.status, a.body)
			}
			return a.names(t, "action")
		}
		for query, want := range map[string]string{
			"?principal=core%2Bci":              "pushManifest",
			"?repository=other%2Fapp":           "pull",
			"?action=putMember":                 "putMember",
			"?outcome=refused":                  "pull",
			"?outcome=failed":                   "",
			"?team=other&outcome=refused":       "pull",
			"?since=2200-01-01T00:00:00Z":       "",
			"?until=2000-01-01T00:00:00Z":       "",
			"?principal=x%27%20OR%201%3D1%20--": "",
		} {
			if got := get(root, "/audit", query); got != want {
				t.Errorf("%s: %q, want %q", query, got, want)
			}
		}
		all := get(root, "/audit", "")
		var paged []string
		query := "?limit=2"
		for range 20 {
			a := w.do(root, "GET", "/api/v1/audit"+query, nil)
			paged = append(paged, a.names(t, "action"))
			next, ok := a.json(t)["next"].(string)
			if !ok {
				break
			}
			query = "?limit=2&after=" + url.QueryEscape(next)
		}
		if got := strings.Join(paged, " "); got != all || len(strings.Fields(all)) != 5 {
			t.Errorf("in pages %q, at once %q", got, all)
		}
		if got := get("alice", "/teams/core/audit", ""); strings.Contains(got, "pull") || !strings.Contains(got, "pushManifest") || !strings.Contains(got, "putMember") {
			t.Errorf("a maintainer of core sees %q", got)
		}
		if got := get("alice", "/teams/core/audit", "?repository=other%2Fapp"); got != "" {
			t.Errorf("a maintainer of core sees %q of another team", got)
		}
		a := w.do(root, "GET", "/api/v1/audit?principal=core%2Bci", nil)
		for _, want := range []string{`"claims":{"workflow":"release"}`, `"reference":"1.0"`, `"count":1`, `"kind":"robot"`} {
			if !strings.Contains(a.body, want) {
				t.Errorf("%s is not in %s", want, a.body)
			}
		}
		for _, bad := range []string{"?after=x", "?outcome=maybe", "?since=yesterday", "?limit=0", "?limit=1001"} {
			w.refused(w.do(root, "GET", "/api/v1/audit"+bad, nil), 400, oci.CodeInvalid)
		}
	})
}
