package admin_test

import (
	"context"
	"net/http"
	"strings"
	"testing"

	"berth/metadata"
	"berth/oci"
)

// TestNotText: what no text can hold is refused wherever it stands in a body, on both
// engines. Postgres fails on it.
func TestNotText(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		root := "root:" + rootPassword
		w.ok("POST", "/api/v1/teams", map[string]string{"name": "core"})
		for path, body := range map[string]any{
			"PUT /api/v1/denials/d":            map[string]any{"principal": "zed", "repository": "*", "actions": []string{"pull"}, "reason": "\x00"},
			"PUT /api/v1/services/x":           map[string]any{"issuer": "a\x00b"},
			"POST /api/v1/groups":              map[string]any{"name": "a\x00"},
			"PUT /api/v1/teams/core/retention": map[string]any{"rules": []any{map[string]any{"name": "a\x00", "newest": 1}}},
		} {
			method, path, _ := strings.Cut(path, " ")
			w.refused(w.do(root, method, path, body), 400, oci.CodeInvalid)
		}
		// An escaped backslash before the same letters is no NUL.
		w.ok("PUT", "/api/v1/denials/d", map[string]any{"principal": "zed", "repository": "*", "actions": []string{"pull"}, "reason": `\u0000`})
	})
}

func TestTeams(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		root := "root:" + rootPassword
		w.user("alice", metadata.RoleUser)
		made := w.ok("POST", "/api/v1/teams", map[string]string{"name": "core", "default_visibility": "public"})
		if team := made.json(t); made.status != http.StatusCreated || team["name"] != "core" || team["default_visibility"] != "public" {
			t.Fatalf("status %d: %s", made.status, made.body)
		}
		w.ok("POST", "/api/v1/teams", map[string]string{"name": "other"})
		w.refused(w.do(root, "POST", "/api/v1/teams", map[string]string{"name": "core"}), 409, oci.CodeConflict, "core")

		// PUT of a member is idempotent, and changes the role.
		for _, role := range []string{"reader", "maintainer", "maintainer"} {
			got := w.ok("PUT", "/api/v1/teams/core/members/alice", map[string]string{"role": role})
			if m := got.json(t); m["user"] != "alice" || m["role"] != role {
				t.Errorf("%s", got.body)
			}
		}
		w.refused(w.do(root, "PUT", "/api/v1/teams/core/members/bob", map[string]string{"role": "member"}), 404, oci.CodeNotFound, "bob")
		w.refused(w.do(root, "PUT", "/api/v1/teams/nowhere/members/alice", map[string]string{"role": "member"}), 404, oci.CodeNotFound, "nowhere")
		w.refused(w.do(root, "PUT", "/api/v1/teams/core/members/alice", map[string]string{"role": "owner"}), 400, oci.CodeInvalid, "role")
		if got := w.ok("GET", "/api/v1/teams/core/members", nil).names(t, "role"); got != "maintainer" {
			t.Errorf("the roles are %q", got)
		}

		// Everybody sees their own teams, admins all of them.
		if got := w.do("alice", "GET", "/api/v1/teams", nil).names(t, "name"); got != "core" {
			t.Errorf("alice sees %q", got)
		}
		if got := w.ok("GET", "/api/v1/teams", nil).names(t, "name"); got != "core other" {
			t.Errorf("root sees %q", got)
		}
		me := w.do("alice", "GET", "/api/v1/whoami", nil)
		if teams := me.json(t)["teams"].([]any); len(teams) != 1 || teams[0].(map[string]any)["role"] != "maintainer" {
			t.Errorf("whoami says %s", me.body)
		}

		// A refusal names who can help.
		w.user("bob", metadata.RoleUser)
		w.refused(w.do("bob", "PATCH", "/api/v1/teams/core", map[string]string{"default_visibility": "private"}), 403, oci.CodeDenied, "bob is not in the team core", "alice")
		w.ok("PUT", "/api/v1/teams/core/members/bob", map[string]string{"role": "member"})
		w.refused(w.do("bob", "PATCH", "/api/v1/teams/core", map[string]string{"default_visibility": "private"}), 403, oci.CodeDenied, "only a member", "alice")

		if got := w.do("alice", "PATCH", "/api/v1/teams/core", map[string]string{"default_visibility": "inherit"}); got.json(t)["default_visibility"] != "inherit" {
			t.Errorf("%s", got.body)
		}
		if got := w.do("alice", "DELETE", "/api/v1/teams/core/members/bob", nil); got.status != http.StatusNoContent {
			t.Errorf("status %d", got.status)
		}
		w.refused(w.do("alice", "DELETE", "/api/v1/teams/core/members/bob", nil), 404, oci.CodeNotFound, "bob")

		w.push("core/app", "one", "1.0")
		w.refused(w.do(root, "DELETE", "/api/v1/teams/core", nil), 409, oci.CodeConflict, "core/app")
		w.ok("DELETE", "/api/v1/repositories/core%2Fapp", nil)
		w.ok("DELETE", "/api/v1/teams/core", nil)
		w.refused(w.do(root, "GET", "/api/v1/teams/core", nil), 404, oci.CodeNotFound)
		w.refused(w.do(root, "GET", "/api/v1/teams/core/members", nil), 404, oci.CodeNotFound)
	})
}

// TestPreconditions checks ETag and If-Match on all that have them.
func TestPreconditions(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		root := "root:" + rootPassword
		w.user("alice", metadata.RoleUser)
		w.ok("POST", "/api/v1/teams", map[string]string{"name": "core"})
		w.push("core/app", "one", "1.0")
		for path, changes := range map[string][2]map[string]any{
			"/api/v1/users/alice":             {{"disabled": true}, {"role": "admin"}},
			"/api/v1/teams/core":              {{"default_visibility": "public"}, {"default_visibility": "internal"}},
			"/api/v1/repositories/core%2Fapp": {{"visibility": "public"}, {"visibility": "internal"}},
		} {
			first := w.ok("GET", path, nil).header.Get("ETag")
			if again := w.ok("GET", path, nil).header.Get("ETag"); first == "" || again != first {
				t.Errorf("%s: the ETag is %q, then %q", path, first, again)
			}
			changed := w.do(root, "PATCH", path, changes[0], "If-Match", first)
			second := changed.header.Get("ETag")
			if changed.status != 200 || second == first || second != w.ok("GET", path, nil).header.Get("ETag") {
				t.Errorf("%s: status %d, ETag %q after %q", path, changed.status, second, first)
			}
			w.refused(w.do(root, "PATCH", path, changes[1], "If-Match", first), 412, oci.CodePreconditionFailed, "read it again")
			w.refused(w.do(root, "DELETE", path, nil, "If-Match", first), 412, oci.CodePreconditionFailed)
			for _, match := range []string{`"other", ` + second, `*`} {
				if got := w.do(root, "PATCH", path, changes[0], "If-Match", match); got.status != 200 {
					t.Errorf("%s: If-Match %s: %d %s", path, match, got.status, got.body)
				}
			}
		}
		// What a push changes is not what If-Match protects.
		before := w.ok("GET", "/api/v1/repositories/core%2Fapp", nil).header.Get("ETag")
		w.push("core/app", "two", "2.0")
		if after := w.ok("GET", "/api/v1/repositories/core%2Fapp", nil).header.Get("ETag"); after != before {
			t.Errorf("a push changed the ETag")
		}
	})
}

// TestConcurrentIfMatch checks that of many changes with the same If-Match
// exactly one wins.
func TestConcurrentIfMatch(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		w.ok("POST", "/api/v1/teams", map[string]string{"name": "core"})
		w.push("core/app", "one", "1.0")
		w.user("alice", metadata.RoleUser)
		for path, body := range map[string]map[string]any{
			"/api/v1/users/alice":             {"disabled": true},
			"/api/v1/teams/core":              {"default_visibility": "public"},
			"/api/v1/repositories/core%2Fapp": {"visibility": "public"},
		} {
			etag := w.ok("GET", path, nil).header.Get("ETag")
			statuses := make(chan int)
			const n = 8
			for range n {
				go func() {
					statuses <- w.do("root:"+rootPassword, "PATCH", path, body, "If-Match", etag).status
				}()
			}
			count := map[int]int{}
			for range n {
				count[<-statuses]++
			}
			if count[200] != 1 || count[412] != n-1 {
				t.Errorf("%s: statuses %v, want 200 once and 412 otherwise", path, count)
			}
		}
	})
}

// TestPaging reads each list in pages of two, by next and by Link.
func TestPaging(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		w.ok("POST", "/api/v1/teams", map[string]string{"name": "core"})
		names := []string{"a", "b", "c", "d", "e"}
		for _, name := range names {
			w.user(name, metadata.RoleUser)
			w.ok("POST", "/api/v1/teams", map[string]string{"name": "team-" + name})
			w.ok("PUT", "/api/v1/teams/core/members/"+name, map[string]string{"role": "member"})
			w.ok("POST", "/api/v1/teams/core/robots", map[string]any{"name": name, "actions": []string{"pull"}})
			w.ok("POST", "/api/v1/users/root/tokens", map[string]any{"name": name, "actions": []string{"pull"}})
			w.push("core/"+name, "one", "1.0")
			w.push("core/paged", "one", name)
		}
		w.update(func(ctx context.Context, tx *metadata.Tx) error {
			for range 5 {
				if err := tx.RecordRefusal(ctx, "core/paged", "refused", w.digest("two"), metadata.Actor{Name: "root"}); err != nil {
					return err
				}
			}
			return nil
		})
		for path, want := range map[string][2]string{
			"/api/v1/users?limit=2":                                          {"name", "a b c d e root"},
			"/api/v1/teams?limit=2":                                          {"name", "core team-a team-b team-c team-d team-e"},
			"/api/v1/teams/core/members?limit=2":                             {"user", "a b c d e"},
			"/api/v1/teams/core/robots?limit=2":                              {"name", "a b c d e"},
			"/api/v1/users/root/tokens?limit=2":                              {"name", "a b c d e"},
			"/api/v1/repositories?limit=2&team=core":                         {"name", "core/a core/b core/c core/d core/e core/paged"},
			"/api/v1/repositories?limit=2&prefix=core/p":                     {"name", "core/paged"},
			"/api/v1/repositories/core%2Fpaged/tags?limit=2":                 {"name", "a b c d e"},
			"/api/v1/repositories/core%2Fpaged/tags/refused/history?limit=2": {"action", "refused refused refused refused refused"},
		} {
			got, pages := "", 0
			for next := path; next != ""; pages++ {
				a := w.ok("GET", next, nil)
				if page := a.names(t, want[0]); page != "" {
					got += " " + page
				}
				link := a.header.Get("Link")
				_, more := a.json(t)["next"]
				if more != (link != "") {
					t.Fatalf("%s: next is %v, Link is %q", next, more, link)
				}
				next = nextOf(t, link)
			}
			if got != " "+want[1] {
				t.Errorf("%s gives%s in %d pages, want %s", path, got, pages, want[1])
			}
		}
		for _, query := range []string{"limit=0", "limit=1001", "limit=x", "limit=-1"} {
			w.refused(w.do("root:"+rootPassword, "GET", "/api/v1/users?"+query, nil), 400, oci.CodeInvalid, "limit")
		}
		w.refused(w.do("root:"+rootPassword, "GET", "/api/v1/repositories/core%2Fpaged/tags/a/history?after=x", nil), 400, oci.CodeInvalid, "after")
	})
}
