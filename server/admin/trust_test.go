package admin_test

import (
	"context"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"berth/metadata"
	"berth/oci"
)

func TestTrust(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		const path = "/api/v1/teams/core/trust-policies"
		root, listed := "root:"+rootPassword, "https://jobs.example.com" // in the settings of this test
		w.user("mia", metadata.RoleUser)
		for _, team := range []string{"core", "other"} {
			w.ok("POST", "/api/v1/teams", map[string]string{"name": team})
		}
		w.ok("PUT", "/api/v1/teams/core/members/mia", map[string]string{"role": "maintainer"})
		body := func(change map[string]any) map[string]any {
			b := map[string]any{"issuer": listed, "claims": map[string]string{"project": "core/app"}, "actions": []string{"push", "pull"}}
			for field, v := range change {
				if b[field] = v; v == nil {
					delete(b, field)
				}
			}
			return b
		}

		// A maintainer makes one; what is left out gets its default.
		made := w.do("mia", "PUT", path+"/main", body(nil))
		got := made.json(t)
		if made.status != http.StatusOK || got["audience"] != "berth" || got["robot"] != "main" || got["username"] != "core+main" || got["repositories"] != "*" ||
			got["max_life"] != 900.0 || got["created_by"] != "mia" || got["tags"] != nil || made.header.Get("ETag") == "" {
			t.Fatalf("status %d: %s", made.status, made.body)
		}
		if again := w.do("mia", "PUT", path+"/main", body(nil)); again.status != http.StatusOK || again.json(t)["created_at"] != got["created_at"] {
			t.Errorf("PUT is not idempotent: %d %s", again.status, again.body)
		}
		changed := w.do("mia", "PUT", path+"/main", body(map[string]any{"robot": "ci", "tags": "v*", "repositories": "core/app*", "max_life": 300, "audience": "https://registry.example.com"}))
		if c := changed.json(t); c["username"] != "core+ci" || c["tags"] != "v*" || c["max_life"] != 300.0 {
			t.Errorf("%s", changed.body)
		}
		w.refused(w.do("mia", "PUT", path+"/main", body(nil), "If-Match", made.header.Get("ETag")), 412, oci.CodePreconditionFailed)
		w.refused(w.do("mia", "DELETE", path+"/main", nil, "If-Match", made.header.Get("ETag")), 412, oci.CodePreconditionFailed)
		w.refused(w.do("mia", "PUT", path+"/new", body(nil), "If-Match", "*"), 404, oci.CodeNotFound)
		for _, name := range []string{"b", "a"} {
			w.ok("PUT", path+"/"+name, body(nil))
		}
		first := w.do("mia", "GET", path+"?limit=2", nil)
		if names := first.names(t, "name"); names != "a b" || first.json(t)["next"] != "b" {
			t.Errorf("the first page is %q: %s", names, first.body)
		}
		if names := w.do("mia", "GET", path+"?after=b", nil).names(t, "name"); names != "main" {
			t.Errorf("the second page is %q", names)
		}

		// Another team's is not hers, by whatever path.
		w.refused(w.do("mia", "PUT", "/api/v1/teams/other/trust-policies/x", body(nil)), 403, oci.CodeDenied, "not in the team other")
		w.refused(w.do("mia", "GET", "/api/v1/teams/other/trust-policies", nil), 403, oci.CodeDenied)
		w.refused(w.do(root, "GET", "/api/v1/teams/other/trust-policies/main", nil), 404, oci.CodeNotFound, "main")
		w.refused(w.do(root, "PUT", "/api/v1/teams/nowhere/trust-policies/x", body(nil)), 404, oci.CodeNotFound, "nowhere")

		// Issuers: maintainers choose, admins let in.
		w.refused(w.do("mia", "PUT", path+"/x", body(map[string]any{"issuer": "https://gitlab.example.com"})), 400, oci.CodeInvalid, "ask an administrator")
		gitlab := "/api/v1/trust-issuers/" + url.PathEscape("https://gitlab.example.com")
		w.refused(w.do("mia", "PUT", gitlab, nil), 403, oci.CodeDenied, "only admins")
		for range 2 {
			w.ok("PUT", gitlab, nil)
		}
		w.ok("PUT", path+"/x", body(map[string]any{"issuer": "https://gitlab.example.com"}))
		if names := w.do("mia", "GET", "/api/v1/trust-issuers", nil).names(t, "issuer"); names != "https://gitlab.example.com "+listed {
			t.Errorf("the issuers are %q", names)
		}
		if names := w.do("mia", "GET", "/api/v1/trust-issuers?limit=1&after="+url.QueryEscape("https://gitlab.example.com"), nil).names(t, "setting"); names != "true" {
			t.Errorf("behind the first one: %q", names)
		}
		w.refused(w.do(root, "DELETE", gitlab, nil), 409, oci.CodeConflict, "trust policies name the issuer")
		w.ok("DELETE", path+"/x", nil)
		w.ok("DELETE", gitlab, nil)
		w.refused(w.do(root, "DELETE", gitlab, nil), 404, oci.CodeNotFound)
		w.refused(w.do("mia", "DELETE", path+"/x", nil), 404, oci.CodeNotFound)
		for _, bad := range []string{"http://gitlab.example.com", "http://127.0.0.1:9999", "https://gitlab.example.com/?x", "gitlab.example.com", "file:///etc/passwd", "https://a:b@c"} {
			w.refused(w.do(root, "PUT", "/api/v1/trust-issuers/"+url.PathEscape(bad), nil), 400, oci.CodeInvalid, "is not an issuer")
		}

		// What cannot be a policy.
		for word, change := range map[string]map[string]any{
			"at least one claim":    {"claims": map[string]string{"project": "*"}},
			"cannot be a condition": {"claims": map[string]string{"aud": "x"}},
			"claims":                {"claims": map[string]string{}},
			"name of a claim":       {"claims": map[string]string{"pro ject": "x"}},
			"actions":               {"actions": []string{"fly"}},
			"pattern":               {"repositories": "Core/*"},
			"a tag":                 {"tags": "v/*"},
			"max_life":              {"max_life": 901},
			"robot name":            {"robot": "Ci"},
			"admin_of":              {"admin_of": "other"}, // CVE-2019-16097: a field that nobody named
			"\"id\"":                {"id": 1},
			"issuer":                {"issuer": nil},
		} {
			w.refused(w.do("mia", "PUT", path+"/bad", body(change)), 400, oci.CodeInvalid, strings.Trim(word, `"`))
		}
		w.refused(w.do("mia", "PUT", path+"/Bad", body(nil)), 400, oci.CodeInvalid, "trust policy name")

		// A token gives no more away than it carries.
		w.token("mia-push", metadata.Token{Kind: metadata.PersonalToken, User: "mia", Repositories: "*", Actions: []string{"push", "admin"}})
		w.refused(w.do("mia-push", "PUT", path+"/more", body(map[string]any{"actions": []string{"delete"}})), 403, oci.CodeDenied, "cannot make one that carries delete")

		// It is on record who changed what.
		var events []metadata.AuditEvent
		w.update(func(ctx context.Context, tx *metadata.Tx) (err error) {
			events, err = tx.AuditEvents(ctx, metadata.AuditFilter{Action: "putTrustPolicy", Limit: 100})
			return err
		})
		if len(events) < 3 || events[0].Team != "core" {
			t.Errorf("%d events: %+v", len(events), events)
		}
	})
}
