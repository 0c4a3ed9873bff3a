package admin_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"berth/metadata"
	"berth/oci"
)

// TestExplain: each rule is named, with what is missing and who can help.
func TestExplain(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		populate(w)
		past := time.Now().Add(-time.Hour)
		for _, k := range []metadata.Token{
			{Name: "old", ExpiresAt: &past, Actions: []string{"pull"}, Repositories: "*"},
			{Name: "narrow", Actions: []string{"pull"}, Repositories: "core/*"},
			{Name: "tagged", Actions: []string{"pull", "push", "delete"}, Repositories: "*", Tags: "dev-*", CIDRs: []string{"10.0.0.0/8"}},
		} {
			k.Kind, k.User = metadata.PersonalToken, "maintainer"
			w.token("key-"+k.Name, k)
		}
		w.token("core-bot", metadata.Token{Kind: metadata.RobotToken, Team: "core", Name: "bot", Repositories: "core/app", Actions: []string{"pull", "push"}})
		w.ok("PUT", "/api/v1/denials/abroad", map[string]any{"principal": "member", "cidr": "198.51.100.0/24", "actions": []string{"push"}})
		w.ok("PUT", "/api/v1/repositories/core%2Fapp/tag-policy", map[string]any{"mode": "immutable", "exempt": []string{"latest"}})
		w.push("core/app", "one", "latest")
		w.ok("PUT", "/api/v1/repositories/core%2Fsealed", nil)
		w.ok("PUT", "/api/v1/repositories/core%2Fsealed/tag-policy", map[string]any{"mode": "sealed", "exempt": []string{}})
		w.push("core/sealed", "one", "1.0")
		for _, tt := range []struct {
			query   string
			allowed bool
			rule    string
			words   string // of the whole answer
		}{
			{"action=push&repository=core/app&user=member", true, "team-member", "the role in the team core is member"},
			{"action=delete&repository=core/app&user=member", false, "team-member", `"ask":"a maintainer of the team core:`},
			{"action=pull&repository=core/app&user=outsider", false, "not-a-member", "outsider is not a member of the team core"},
			{"action=pull&repository=core/internal&user=outsider", true, "internal", "the repository is internal"},
			{"action=pull&repository=core/public&user=outsider", true, "public", "the repository is public"},
			{"action=push&repository=core/public&user=outsider", false, "public", "others may only pull"},
			{"action=admin&repository=core/app&user=boss", true, "admin", "administrators may do everything"},
			{"action=push&repository=core/app&user=boss2", false, "denied", `"denial":"no-boss2"`},
			{"action=admin&repository=core/app&user=boss2", true, "admin", ""},
			{"action=push&repository=core/app&user=holder", true, "grant", `"pattern":"core/app"`},
			{"action=pull&repository=core/app&user=grouped", true, "group-grant", `"group":"devs"`},
			{"action=push&repository=core/app&user=grouped", false, "group-grant", "is granted only pull"},
			{"action=push&repository=core/app&user=provided", true, "team-maintainer", "by the identity provider's word"},
			{"action=push&repository=core/app&user=denied", false, "denied", `"reason":"on leave"`},
			{"action=push&repository=core/app&user=core%2Bbot", true, "team-robot", "it carries pull, push on core/app"},
			{"action=push&repository=core/x&user=core%2Bbot", false, "token-limit", "a maintainer of the team core, for a token"},
			{"action=pull&repository=other/app&user=core%2Bbot", false, "not-a-member", ""},
			{"action=push&repository=core/app&user=maintainer&token=narrow", false, "token-limit", "does not carry push"},
			{"action=pull&repository=core/app&user=maintainer&token=old", false, "token-expired", "the token has ended on"},
			// What depends on the address is a condition, or decides when it is given.
			{"action=push&repository=core/app&user=member", true, "team-member", "not from 198.51.100.0/24, which the denial abroad forbids"},
			{"action=push&repository=core/app&user=member&address=198.51.100.9", false, "denied", `"denial":"abroad"`},
			{"action=push&repository=core/app&user=member&address=192.0.2.1", true, "team-member", `"conditions":[]`},
			{"action=pull&repository=core/app&user=maintainer&token=tagged", true, "team-maintainer", "only from 10.0.0.0/8"},
			{"action=pull&repository=core/app&user=maintainer&token=tagged&address=192.0.2.1", false, "token-limit", "from 10.0.0.0/8"},
			{"action=pull&repository=core/app&user=maintainer&token=tagged&address=10.1.1.1", true, "team-maintainer", ""},
			// Tags.
			{"action=push&repository=core/app&tag=1.0&user=member", false, "tag-policy", "core/app:1.0 is immutable and points to sha256:"},
			{"action=push&repository=core/app&tag=latest&user=member", true, "team-member", ""},
			{"action=push&repository=core/app&tag=2.0&user=member", true, "team-member", "core/app:2.0 does not exist yet; once pushed it is immutable, by the policy of the repository"},
			{"action=push&repository=core/nowhere&tag=2.0&user=member", true, "team-member", "once pushed it is immutable, by the policy of the instance"},
			{"action=delete&repository=core/app&tag=1.0&user=maintainer", true, "team-maintainer", ""},
			{"action=delete&repository=core/sealed&tag=1.0&user=maintainer", false, "tag-policy", "nobody can delete it"},
			{"action=push&repository=core/sealed&tag=1.0&user=outsider", false, "not-a-member", "Besides, core/sealed:1.0 is sealed"},
			{"action=push&repository=core/app&tag=latest&user=maintainer&token=tagged", false, "token-limit", `on the tag latest`},
			{"action=push&repository=core/app&tag=dev-1&user=maintainer&token=tagged", true, "team-maintainer", ""},
			{"action=pull&repository=core/app&tag=9&user=member", true, "team-member", "core/app:9 does not exist"},
		} {
			a := w.do("root:"+rootPassword, "GET", "/api/v1/explain?"+tt.query, nil)
			if a.status != http.StatusOK {
				t.Errorf("%s: %d %s", tt.query, a.status, a.body)
				continue
			}
			got := a.json(t)
			if got["allowed"] != tt.allowed || got["rule"] != tt.rule || !strings.Contains(a.body, tt.words) {
				t.Errorf("%s: %s", tt.query, a.body)
			}
			if !tt.allowed && (fmt.Sprint(got["ask"]) == "" || got["ask"] == nil || got["message"] == "") {
				t.Errorf("%s: nobody to ask: %s", tt.query, a.body)
			}
		}
		// Nothing of a tag is told to somebody who may neither push nor pull.
		for _, tag := range []string{"1.0", "none"} {
			a := w.do("outsider", "GET", "/api/v1/explain?action=push&repository=core/app&tag="+tag, nil)
			if a.status != http.StatusOK || strings.Contains(a.body, "immutable") || strings.Contains(a.body, "exist") {
				t.Errorf("about %s: %d %s", tag, a.status, a.body)
			}
		}
		w.refused(w.do("member", "GET", "/api/v1/explain?action=push&repository=core/app&user=maintainer", nil), http.StatusForbidden, oci.CodeDenied, "admin")
		w.refused(w.do("root:"+rootPassword, "GET", "/api/v1/explain?action=push&repository=core/app&user=ghost", nil), http.StatusNotFound, oci.CodeNotFound, "ghost")
		w.refused(w.do("root:"+rootPassword, "GET", "/api/v1/explain?action=push&repository=core/app&user=core%2Bghost", nil), http.StatusNotFound, oci.CodeNotFound)
		w.refused(w.do("root:"+rootPassword, "GET", "/api/v1/explain?action=fly&repository=core/app", nil), http.StatusBadRequest, oci.CodeInvalid)
		w.refused(w.do("root:"+rootPassword, "GET", "/api/v1/explain?action=push&repository=Core", nil), http.StatusBadRequest, oci.CodeNameInvalid)
		w.refused(w.do("root:"+rootPassword, "GET", "/api/v1/explain?action=push&repository=core/app&address=here", nil), http.StatusBadRequest, oci.CodeInvalid, "192.0.2.7")
		w.refused(w.do("root:"+rootPassword, "GET", "/api/v1/explain?action=push&repository=core/app&tag=%2F", nil), http.StatusBadRequest, oci.CodeTagInvalid)
	})
}

// TestWhoCan: pages of everybody who may, but for those whom a denial meets.
func TestWhoCan(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		populate(w)
		w.ok("PUT", "/api/v1/denials/abroad", map[string]any{"principal": "member", "cidr": "198.51.100.0/24", "actions": []string{"push"}})
		w.token("bound", metadata.Token{Kind: metadata.RobotToken, Team: "core", Name: "bound", Repositories: "*", Actions: []string{"push"}, Tags: "dev-*", CIDRs: []string{"10.0.0.0/8"}})
		var got []string
		for path := "/api/v1/who-can?action=push&repository=core/app&limit=2"; path != ""; {
			a := w.ok("GET", path, nil)
			if n := len(a.json(t)["items"].([]any)); n > 2 {
				t.Fatalf("a page of %d", n)
			}
			got = append(got, strings.Fields(a.names(t, "principal"))...)
			next := a.json(t)["next"]
			if link := a.header.Get("Link"); (link == "") != (next == nil) {
				t.Errorf("link %q, next %v", link, next)
			}
			if path = ""; next != nil {
				path = "/api/v1/who-can?action=push&repository=core/app&limit=2&after=" + strings.ReplaceAll(fmt.Sprint(next), "+", "%2B")
			}
		}
		if want := "boss core+bound core+test-robot core+test-robot-app holder maintainer member provided root"; strings.Join(got, " ") != want {
			t.Errorf("%q, want %q", got, want)
		}
		a := w.ok("GET", "/api/v1/who-can?action=push&repository=core/app", nil)
		if !strings.Contains(a.body, "not from 198.51.100.0/24") || !strings.Contains(a.body, "only tags like dev-*, from 10.0.0.0/8") {
			t.Errorf("no condition: %s", a.body)
		}
		// An admin whom a denial meets still administers.
		if a := w.ok("GET", "/api/v1/who-can?action=admin&repository=core/app", nil); !strings.Contains(a.body, `"boss2"`) {
			t.Errorf("%s", a.body)
		}
		for repository, everyone := range map[string]any{"core/app": nil, "core/public": "public", "core/internal": "internal", "core/none": nil} {
			if a := w.ok("GET", "/api/v1/who-can?action=pull&repository="+repository, nil); a.json(t)["everyone"] != everyone {
				t.Errorf("%s: %s", repository, a.body)
			}
		}
	})
}

// TestGroupsAPI: paging, conditions and conflicts of groups, grants and denials.
func TestGroupsAPI(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		w.user("alice", metadata.RoleUser)
		root := "root:" + rootPassword
		odd := "CN=devs,OU=Groups, Land/de"
		for _, name := range []string{"ops", "devs", odd} {
			w.ok("POST", "/api/v1/groups", map[string]string{"name": name})
		}
		for _, bad := range []string{"", " a", "a ", "a\nb", strings.Repeat("x", 256)} {
			w.refused(w.do(root, "POST", "/api/v1/groups", map[string]string{"name": bad}), http.StatusBadRequest, oci.CodeInvalid)
		}
		w.refused(w.do(root, "POST", "/api/v1/groups", map[string]string{"name": "ops"}), http.StatusConflict, oci.CodeConflict)
		w.ok("GET", "/api/v1/groups/CN=devs,OU=Groups,%20Land%2Fde", nil)
		a := w.ok("GET", "/api/v1/groups?limit=2", nil)
		if a.json(t)["next"] != "devs" || a.header.Get("Link") == "" || a.names(t, "name") != odd+" devs" {
			t.Errorf("a page: %s", a.body)
		}
		etag := w.ok("GET", "/api/v1/groups/devs", nil).header.Get("ETag")
		if a := w.do(root, "PATCH", "/api/v1/groups/devs", `{"disabled":true}`, "If-Match", etag); a.status != http.StatusOK || !strings.Contains(a.body, `"disabled":true`) {
			t.Errorf("%d %s", a.status, a.body)
		}
		w.refused(w.do(root, "PATCH", "/api/v1/groups/devs", `{"disabled":false}`, "If-Match", etag), http.StatusPreconditionFailed, oci.CodePreconditionFailed)
		w.refused(w.do(root, "DELETE", "/api/v1/groups/devs", nil, "If-Match", etag), http.StatusPreconditionFailed, oci.CodePreconditionFailed)
		w.refused(w.do(root, "PATCH", "/api/v1/groups/none", `{"disabled":false}`), http.StatusNotFound, oci.CodeNotFound)
		w.refused(w.do(root, "PATCH", "/api/v1/groups/devs", `{"name":"x"}`), http.StatusBadRequest, oci.CodeInvalid)

		// PUT is idempotent, a second DELETE is a 404.
		for range 2 {
			w.ok("PUT", "/api/v1/groups/ops/members/alice", nil)
			w.ok("PUT", "/api/v1/groups/ops/grants/core%2F*", map[string]any{"actions": []string{"push", "pull"}})
			w.ok("PUT", "/api/v1/users/alice/grants/core%2F%3F", map[string]any{"actions": []string{"pull"}})
			w.ok("PUT", "/api/v1/denials/d", map[string]any{"actions": []string{"pull"}})
		}
		w.provided("ext", nil, "ops")
		if a := w.ok("GET", "/api/v1/groups/ops/members", nil); a.names(t, "user") != "alice ext" || a.names(t, "provider") != "false true" {
			t.Errorf("members: %s", a.body)
		}
		w.refused(w.do(root, "DELETE", "/api/v1/groups/ops/members/ext", nil), http.StatusConflict, oci.CodeConflict, "identity provider")
		if a := w.ok("GET", "/api/v1/users/ext", nil).json(t); a["source"] != "ldap" || a["seen_at"] == nil || fmt.Sprint(a["groups"]) != "[ops]" {
			t.Errorf("the user of a provider: %v", a)
		}
		if a := w.ok("GET", "/api/v1/grants?limit=1", nil); a.names(t, "pattern") != "core/*" || a.json(t)["next"] == nil || !strings.Contains(a.body, `"actions":["pull","push"]`) {
			t.Errorf("grants: %s", a.body)
		}
		if a := w.ok("GET", "/api/v1/grants?repository=core/x", nil); a.names(t, "pattern") != "core/* core/?" {
			t.Errorf("grants of a repository: %s", a.body)
		}
		w.refused(w.do(root, "GET", "/api/v1/grants?after=x", nil), http.StatusBadRequest, oci.CodeInvalid)
		if a := w.do("alice", "GET", "/api/v1/grants", nil); a.names(t, "pattern") != "core/* core/?" {
			t.Errorf("for her eyes: %s", a.body)
		}
		for _, path := range []string{"/api/v1/groups/ops/members/alice", "/api/v1/groups/ops/grants/core%2F*", "/api/v1/users/alice/grants/core%2F%3F", "/api/v1/denials/d", "/api/v1/groups/ops"} {
			w.ok("DELETE", path, nil)
			w.refused(w.do(root, "DELETE", path, nil), http.StatusNotFound, oci.CodeNotFound)
		}
		w.refused(w.do(root, "PUT", "/api/v1/users/ghost/grants/core%2F*", map[string]any{"actions": []string{"pull"}}), http.StatusNotFound, oci.CodeNotFound)
		w.refused(w.do(root, "PUT", "/api/v1/users/alice/grants/core%2F%5Bab%5D", map[string]any{"actions": []string{"pull"}}), http.StatusBadRequest, oci.CodeInvalid)
		w.refused(w.do(root, "PUT", "/api/v1/users/alice/grants/core%2F*", map[string]any{"actions": []string{}}), http.StatusBadRequest, oci.CodeInvalid)

		d := w.ok("PUT", "/api/v1/denials/e", map[string]any{"actions": []string{"pull"}, "cidr": "10.0.0.0/8"})
		w.refused(w.do(root, "PUT", "/api/v1/denials/e", `{"actions":["push"]}`, "If-Match", `"x"`), http.StatusPreconditionFailed, oci.CodePreconditionFailed)
		w.refused(w.do(root, "PUT", "/api/v1/denials/none", `{"actions":["push"]}`, "If-Match", "*"), http.StatusPreconditionFailed, oci.CodePreconditionFailed)
		if a := w.do(root, "PUT", "/api/v1/denials/e", `{"actions":["push"]}`, "If-Match", d.header.Get("ETag")); a.status != http.StatusOK || strings.Contains(a.body, "cidr") {
			t.Errorf("%d %s", a.status, a.body)
		}
		w.refused(w.do(root, "PUT", "/api/v1/denials/e", `{"actions":["push"],"cidr":"10.0.0.1"}`), http.StatusBadRequest, oci.CodeInvalid, "network")

		// Each change is in the audit log.
		w.update(func(ctx context.Context, tx *metadata.Tx) error {
			for _, action := range []string{"createGroup", "updateGroup", "putGroupMember", "putGroupGrant", "putUserGrant", "deleteUserGrant", "putDenial", "deleteDenial", "deleteGroup"} {
				events, err := tx.AuditEvents(ctx, metadata.AuditFilter{Action: action, Limit: 1})
				if err != nil || len(events) == 0 {
					t.Errorf("%s is not in the audit log: %v", action, err)
				}
			}
			return nil
		})
	})
}
