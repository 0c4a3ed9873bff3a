package admin_test

import (
	"net/http"
	"testing"

	"berth/oci"
)

func TestAccounts(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		root := "root:" + rootPassword
		for range 2 { // PUT is idempotent
			if a := w.ok("PUT", "/api/v1/accounts/123456789012", map[string]any{}).json(t); a["repositories"] != "*" || a["role"] != nil || a["created_by"] != "root" {
				t.Errorf("%v", a)
			}
		}
		made := w.ok("PUT", "/api/v1/accounts/123456789012/roles/ci-*", map[string]any{"repositories": "core/*", "actions": []string{"push", "pull"}})
		if a := made.json(t); a["role"] != "ci-*" || a["repositories"] != "core/*" || len(a["actions"].([]any)) != 2 {
			t.Errorf("%s", made.body)
		}
		w.ok("PUT", "/api/v1/accounts/210987654321/roles/deploy", map[string]any{"actions": []string{"delete"}})

		first := w.ok("GET", "/api/v1/accounts?limit=1", nil)
		next := first.json(t)["next"].(string)
		second := w.ok("GET", "/api/v1/accounts?limit=1&after="+next, nil)
		if first.names(t, "account") != "123456789012" || second.names(t, "role") != "ci-*" || second.json(t)["next"] == nil {
			t.Errorf("pages: %s then %s", first.body, second.body)
		}

		for path, body := range map[string]any{
			"/123":                         map[string]any{},
			"/12345678901x":                map[string]any{},
			"/123456789012/roles/a%20b":    map[string]any{"actions": []string{"pull"}},
			"/123456789012/roles/ops":      map[string]any{"actions": []string{"admin"}},
			"/123456789012/roles/deployer": map[string]any{"actions": []string{}},
			"/123456789013":                map[string]any{"repositories": "[a-z]"},
			"/123456789014":                map[string]any{"actions": []string{"push"}}, // a whole account only pulls
		} {
			w.refused(w.do(root, "PUT", "/api/v1/accounts"+path, body), 400, oci.CodeInvalid)
		}

		for _, path := range []string{"/123456789012/roles/ci-*", "/123456789012"} {
			if got := w.do(root, "DELETE", "/api/v1/accounts"+path, nil); got.status != http.StatusNoContent {
				t.Errorf("%s: %d %s", path, got.status, got.body)
			}
			w.refused(w.do(root, "DELETE", "/api/v1/accounts"+path, nil), 404, oci.CodeNotFound, "123456789012")
		}
		if got := w.ok("GET", "/api/v1/accounts", nil).names(t, "account"); got != "210987654321" {
			t.Errorf("left: %q", got)
		}
	})
}
