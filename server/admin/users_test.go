package admin_test

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"testing"

	"berth/metadata"
	"berth/oci"
)

func TestUsers(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		made := w.ok("POST", "/api/v1/users", map[string]string{"name": "alice", "password": "alice's password"})
		if made.status != http.StatusCreated || strings.Contains(made.body, "password") {
			t.Fatalf("status %d: %s", made.status, made.body)
		}
		user := made.json(t)
		if user["name"] != "alice" || user["role"] != "user" || user["disabled"] != false {
			t.Errorf("made %v", user)
		}
		w.refused(w.do("root:"+rootPassword, "POST", "/api/v1/users", map[string]string{"name": "alice"}), 409, oci.CodeConflict, "alice")

		me := w.do("alice:alice's password", "GET", "/api/v1/whoami", nil).json(t)
		if me["name"] != "alice" || me["kind"] != "user" || me["admin"] != false || me["limit"] != nil {
			t.Errorf("whoami says %v", me)
		}
		if got := w.ok("GET", "/api/v1/users", nil).names(t, "name"); got != "alice root" {
			t.Errorf("the users are %s", got)
		}

		// Disabled means out, with the password and with tokens.
		w.token("alice's token", metadata.Token{Kind: metadata.PersonalToken, User: "alice", Repositories: "*", Actions: []string{"admin", "pull"}})
		w.ok("PATCH", "/api/v1/users/alice", map[string]bool{"disabled": true})
		w.refused(w.do("alice:alice's password", "GET", "/api/v1/whoami", nil), 401, oci.CodeUnauthorized)
		w.refused(w.do("alice's token", "GET", "/api/v1/whoami", nil), 401, oci.CodeUnauthorized)
		w.ok("PATCH", "/api/v1/users/alice", map[string]bool{"disabled": false})
		if got := w.do("alice's token", "GET", "/api/v1/whoami", nil); got.status != 200 {
			t.Errorf("after enabling: %d %s", got.status, got.body)
		}

		if got := w.ok("DELETE", "/api/v1/users/alice", nil); got.status != http.StatusNoContent {
			t.Errorf("status %d", got.status)
		}
		w.refused(w.do("root:"+rootPassword, "GET", "/api/v1/users/alice", nil), 404, oci.CodeNotFound, "alice")
		w.refused(w.do("root:"+rootPassword, "DELETE", "/api/v1/users/alice", nil), 404, oci.CodeNotFound)
		w.refused(w.do("alice's token", "GET", "/api/v1/whoami", nil), 401, oci.CodeUnauthorized)
	})
}

func TestNames(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		long := strings.Repeat("a", 129)
		for _, name := range []string{"", "Alice", "a/b", "a+b", "a b", "-a", "a..b", "a@b", "ä", long, "anonymous", "oauth2", "token"} {
			for _, path := range []string{"/api/v1/users", "/api/v1/teams"} {
				w.refused(w.do("root:"+rootPassword, "POST", path, map[string]string{"name": name}), 400, oci.CodeInvalid)
			}
		}
		for _, name := range []string{"a", "0", "a-b.c__d", long[:128]} {
			w.ok("POST", "/api/v1/users", map[string]string{"name": name})
			w.ok("POST", "/api/v1/teams", map[string]string{"name": name})
		}
	})
}

// TestLastAdmin checks that the instance cannot be left without an admin, also
// when two admins demote each other at the same moment.
func TestLastAdmin(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		root := "root:" + rootPassword
		w.refused(w.do(root, "PATCH", "/api/v1/users/root", map[string]string{"role": "user"}), 409, oci.CodeConflict, "last admin")
		w.refused(w.do(root, "PATCH", "/api/v1/users/root", map[string]bool{"disabled": true}), 409, oci.CodeConflict, "last admin")
		w.refused(w.do(root, "DELETE", "/api/v1/users/root", nil), 409, oci.CodeConflict, "last admin")

		w.user("boss", metadata.RoleAdmin)
		w.ok("PATCH", "/api/v1/users/boss", map[string]bool{"disabled": true})
		w.refused(w.do(root, "DELETE", "/api/v1/users/root", nil), 409, oci.CodeConflict, "last admin")
		w.ok("PATCH", "/api/v1/users/boss", map[string]bool{"disabled": false})

		for range 5 {
			var wg sync.WaitGroup
			for _, pair := range [][2]string{{"boss", "root"}, {root, "boss"}} {
				wg.Go(func() { w.do(pair[0], "PATCH", "/api/v1/users/"+pair[1], map[string]string{"role": "user"}) })
			}
			wg.Wait()
			admins := 0
			w.update(func(ctx context.Context, tx *metadata.Tx) error {
				users, err := tx.Users(ctx, "", 10)
				admins = 0
				for _, u := range users {
					if u.Role == metadata.RoleAdmin {
						admins++
					}
					role := metadata.RoleAdmin
					if _, err := tx.UpdateUser(ctx, u.Name, metadata.UserChange{Role: &role}); err != nil {
						return err
					}
				}
				return err
			})
			if admins != 1 {
				t.Fatalf("%d admins are left, want 1", admins)
			}
		}
	})
}

// TestRoleEnds checks that a bearer token made before a demotion does not carry
// the old role: the management API asks for today's.
func TestRoleEnds(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		w.ok("POST", "/api/v1/users", map[string]string{"name": "boss", "password": "boss's password", "role": "admin"})
		form := "grant_type=password&client_id=test&username=boss&password=boss%27s+password&scope=berth:api:*"
		got := w.do("", "POST", "/token", form, "Content-Type", "application/x-www-form-urlencoded")
		jwt, ok := got.json(t)["access_token"].(string)
		if !ok {
			t.Fatalf("status %d: %s", got.status, got.body)
		}
		w.secrets["jwt"] = jwt
		if got := w.do("jwt", "GET", "/api/v1/users", nil); got.status != 200 {
			t.Fatalf("status %d: %s", got.status, got.body)
		}
		w.ok("PATCH", "/api/v1/users/boss", map[string]string{"role": "user"})
		w.refused(w.do("jwt", "GET", "/api/v1/users", nil), 403, oci.CodeDenied, "admin")
		w.ok("DELETE", "/api/v1/users/boss", nil)
		w.refused(w.do("jwt", "GET", "/api/v1/users", nil), 401, oci.CodeUnauthorized)
	})
}

func TestPasswords(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		root := "root:" + rootPassword
		w.ok("POST", "/api/v1/users", map[string]string{"name": "alice", "password": "first password"})
		alice := "alice:first password"
		path := "/api/v1/users/alice/password"

		w.refused(w.do(alice, "PUT", path, map[string]string{"password": "second password"}), 400, oci.CodeInvalid, "current_password")
		w.refused(w.do(alice, "PUT", path, map[string]string{"password": "second password", "current_password": "wrong"}), 403, oci.CodeDenied, "current password is wrong")
		// A token is not the password, though it signs in as one.
		w.token("alice's token", metadata.Token{Kind: metadata.PersonalToken, User: "alice", Repositories: "*", Actions: []string{"admin"}})
		w.refused(w.do("alice's token", "PUT", path, map[string]string{"password": "second password", "current_password": w.secrets["alice's token"]}), 403, oci.CodeDenied)
		if got := w.do(alice, "PUT", path, map[string]string{"password": "second password", "current_password": "first password"}); got.status != http.StatusNoContent {
			t.Fatalf("status %d: %s", got.status, got.body)
		}
		w.refused(w.do(alice, "GET", "/api/v1/whoami", nil), 401, oci.CodeUnauthorized)
		if got := w.do("alice:second password", "GET", "/api/v1/whoami", nil); got.status != 200 {
			t.Fatalf("status %d: %s", got.status, got.body)
		}
		w.ok("PUT", path, map[string]string{"password": "third password"})
		if got := w.do("alice:third password", "GET", "/api/v1/whoami", nil); got.status != 200 {
			t.Fatalf("status %d: %s", got.status, got.body)
		}
		w.refused(w.do(root, "PUT", "/api/v1/users/bob/password", map[string]string{"password": "some password"}), 404, oci.CodeNotFound, "bob")

		// The limits, of which no message repeats the password.
		for _, password := range []string{"", "seven77", strings.Repeat("x", 1025)} {
			got := w.do(root, "PUT", path, map[string]string{"password": password})
			w.refused(got, 400, oci.CodeInvalid, "password")
			if password != "" && strings.Contains(got.body, password) {
				t.Errorf("the answer shows the password: %.200s", got.body)
			}
		}
		w.ok("PUT", path, map[string]string{"password": strings.Repeat("x", 1024)})
	})
}

// TestPrivilegedFields checks that nobody sets what is not theirs to set by
// adding a field.
func TestPrivilegedFields(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		root := "root:" + rootPassword
		w.ok("POST", "/api/v1/users", map[string]string{"name": "alice", "password": "alice's password"})
		for _, c := range []struct{ method, path, body, word string }{
			{"POST", "/users", `{"name":"bob","id":1}`, "id"},
			{"POST", "/users", `{"name":"bob","password_hash":"x"}`, "password_hash"},
			{"POST", "/users", `{"name":"bob","Role":"admin"}`, "Role"},
			{"POST", "/users", `{"name":"bob","role":"root"}`, "role"},
			{"POST", "/users", `{"role":"user"}`, "name"},
			{"PATCH", "/users/alice", `{"name":"bob"}`, "name"},
			{"PATCH", "/users/alice", `{"disabled":"yes"}`, "disabled"},
			{"PATCH", "/users/alice", `{}`, ""},
			{"POST", "/teams", `{"name":"core","created_at":"2020-01-01T00:00:00Z"}`, "created_at"},
			{"POST", "/users/alice/tokens", `{"name":"x","actions":["pull"],"secret":"mine"}`, "secret"},
			{"POST", "/users/alice/tokens", `{"name":"x","actions":["pull"],"created_by":"root"}`, "created_by"},
			{"POST", "/users/alice/tokens", `{"name":"x","actions":["fly"]}`, "actions"},
			{"POST", "/users/alice/tokens", `{"name":"x","actions":[]}`, "actions"},
			{"POST", "/users/alice/tokens", `{"name":"x","actions":["pull"],"expires_at":"tomorrow"}`, ""},
			{"POST", "/users", `not json`, ""},
			{"POST", "/users", ``, ""},
			{"POST", "/users", `[]`, ""},
			{"POST", "/users", `null`, ""},
			{"POST", "/users", `{"name":"bob"} {"name":"eve"}`, ""},
		} {
			w.refused(w.do(root, c.method, "/api/v1"+c.path, c.body), 400, oci.CodeInvalid, c.word)
		}
		w.refused(w.do(root, "POST", "/api/v1/users", `name=bob`, "Content-Type", "application/x-www-form-urlencoded"), 400, oci.CodeInvalid, "application/json")
		w.refused(w.do(root, "POST", "/api/v1/users", `{"name":"`+strings.Repeat("b", 1<<20)+`"}`), 400, oci.CodeInvalid, "1048576")
		w.refused(w.do(root, "DELETE", "/api/v1/users/alice", `{}`), 400, oci.CodeInvalid, "no body")
		if got := w.ok("GET", "/api/v1/users", nil).names(t, "name"); got != "alice root" {
			t.Errorf("the users are %s", got)
		}
	})
}
