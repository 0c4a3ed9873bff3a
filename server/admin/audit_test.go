package admin_test

import (
	"database/sql"
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"berth/api"

	_ "github.com/jackc/pgx/v5/stdlib"

	"berth/metadata"
	"berth/metadata/metadatatest"
)

// audited gives the audit log, newest first.
func (w *world) audited(f metadata.AuditFilter) (events []metadata.AuditEvent) {
	w.t.Helper()
	f.Limit = 1000
	err := w.db.View(w.t.Context(), func(tx *metadata.Tx) (err error) {
		events, err = tx.AuditEvents(w.t.Context(), f)
		return err
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return events
}

// A change and its record are one; a change that fails leaves none.
func TestChangesAreAudited(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		const root = "root:" + rootPassword
		w.do(root, "POST", "/api/v1/users", `{"name":"alice","password":"very-secret-1"}`)
		w.do(root, "POST", "/api/v1/teams", `{"name":"core"}`)
		w.do(root, "PUT", "/api/v1/teams/core/members/alice", `{"role":"maintainer"}`)
		if a := w.do(root, "POST", "/api/v1/teams", `{"name":"core"}`); a.status != 409 {
			t.Fatalf("%d %s", a.status, a.body)
		}
		w.do("alice:very-secret-1", "PUT", "/api/v1/users/alice/password", `{"password":"very-secret-2","current_password":"very-secret-1"}`)
		events := w.audited(metadata.AuditFilter{})
		var lines []string
		for _, e := range events {
			lines = append(lines, e.Action+" "+e.Actor.Name+" "+e.Team+" "+e.Reference)
			raw, err := json.Marshal(e)
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(string(raw), "very-secret") {
				t.Errorf("a password is in the audit log: %s", raw)
			}
			if e.Actor.RequestID == "" || e.Actor.Address == "" || e.Outcome != metadata.AuditOK || e.Actor.Kind != "user" {
				t.Errorf("%+v", e)
			}
		}
		const want = "setPassword alice  alice\nputMember root core alice\ncreateTeam root  core\ncreateUser root  alice"
		if got := strings.Join(lines, "\n"); got != want {
			t.Fatalf("got\n%s\nwant\n%s", got, want)
		}
		if fields := events[1].Detail["fields"]; fields.(map[string]any)["role"] != "maintainer" {
			t.Errorf("the change is %v", events[1].Detail)
		}
	})
}

// Every operation that changes something and succeeds is in the audit log, under its own
// name or one that says what it did.
func TestEveryChangeIsAudited(t *testing.T) {
	// What is recorded by the registry under the name of what happened, and what
	// changes nothing that anybody decided.
	known := map[string]string{"restoreDeleted": "restore", "dryRunRetention": "", "runCollector": ""}
	w := newWorld(t, metadatatest.Open(t, metadata.Options{URL: metadatatest.SQLite(t)}))
	populate(w)
	audited := 0
	for _, a := range attempts {
		if a.method == "GET" {
			continue
		}
		before := len(w.audited(metadata.AuditFilter{}))
		var body any
		if a.body != "" {
			body = a.body
		}
		got := w.do("admin", a.method, "/api/v1"+strings.ReplaceAll(a.path, "{me}", "boss"), body)
		action, ok := known[a.operation]
		if !ok {
			action = a.operation
		}
		if got.status >= 300 || action == "" {
			continue
		}
		events := w.audited(metadata.AuditFilter{})
		found := false
		for _, e := range events[:len(events)-before] {
			found = found || e.Action == action && e.Outcome == metadata.AuditOK && e.Actor.Name == "boss"
		}
		if !found {
			t.Errorf("%s (%s) is not in the audit log", a.operation, a.variant)
		}
		audited++
	}
	if audited < 30 {
		t.Errorf("only %d operations succeeded", audited)
	}
}

// TestNoChangeWithoutItsRecord: when the audit log cannot be written, nothing is changed.
func TestNoChangeWithoutItsRecord(t *testing.T) {
	metadatatest.EachURL(t, func(t *testing.T, url string) {
		w := newWorld(t, metadatatest.Open(t, metadata.Options{URL: url}))
		refuse := []string{
			`CREATE FUNCTION no_record() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no record'; END $$`,
			`CREATE TRIGGER no_record BEFORE INSERT ON audit_events FOR EACH ROW EXECUTE FUNCTION no_record()`,
		}
		driver, source := "pgx", url
		if path, ok := strings.CutPrefix(url, "sqlite:"); ok {
			driver, source = "sqlite", path
			refuse = []string{`CREATE TRIGGER no_record BEFORE INSERT ON audit_events BEGIN SELECT RAISE(ABORT, 'no record'); END`}
		}
		shell, err := sql.Open(driver, source)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { shell.Close() })
		root := "root:" + rootPassword
		w.ok("POST", "/api/v1/teams", map[string]string{"name": "core"})
		w.ok("POST", "/api/v1/groups", map[string]string{"name": "devs"})
		for _, statement := range refuse {
			if _, err := shell.ExecContext(t.Context(), statement); err != nil {
				t.Fatal(err)
			}
		}
		for _, change := range []struct {
			method, path string
			body         any
		}{
			{"POST", "/api/v1/teams", map[string]string{"name": "other"}},
			{"DELETE", "/api/v1/teams/core", nil},
			{"POST", "/api/v1/users", map[string]string{"name": "alice"}},
			{"PUT", "/api/v1/teams/core/members/root", map[string]string{"role": "maintainer"}},
			{"PUT", "/api/v1/groups/devs/members/root", nil},
			{"PUT", "/api/v1/users/root/grants/core%2F%2A", map[string]any{"actions": []string{"pull"}}},
			{"PUT", "/api/v1/denials/d", map[string]any{"principal": "x", "repository": "*", "actions": []string{"pull"}}},
			{"POST", "/api/v1/teams/core/robots", map[string]any{"name": "ci", "actions": []string{"pull"}}},
			{"POST", "/api/v1/keys", map[string]any{}},
		} {
			if got := w.do(root, change.method, change.path, change.body); got.status < 500 {
				t.Errorf("%s %s: %d %s", change.method, change.path, got.status, got.body)
			}
		}
		if got := w.ok("GET", "/api/v1/teams", nil).names(t, "name"); got != "core" {
			t.Errorf("the teams are %q", got)
		}
		for path, key := range map[string]string{"users": "name", "teams/core/members": "user", "groups/devs/members": "user", "grants": "pattern", "denials": "name", "teams/core/robots": "name"} {
			want := map[string]string{"users": "root"}[path]
			if got := w.ok("GET", "/api/v1/"+path, nil).names(t, key); got != want {
				t.Errorf("%s: %q, want %q", path, got, want)
			}
		}
		if got := strings.Count(string(w.ok("GET", "/api/v1/keys", nil).body), `"kid"`); got != 1 {
			t.Errorf("there are %d keys", got)
		}
	})
}

// A repository and a tag are made and deleted in one way: the lines of the API are those of every other door. What
// changes nothing is not recorded, and a personal token is not called a robot.
func TestOneMeaningInTheAuditLog(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		w.ok("POST", "/api/v1/teams", `{"name":"core"}`)
		for _, status := range []int{201, 200, 200} {
			if a := w.do("root:"+rootPassword, "PUT", "/api/v1/repositories/core%2Fapp", nil); a.status != status {
				t.Fatalf("%d %s", a.status, a.body)
			}
		}
		d := w.push("core/app", "one", "1.0")
		w.ok("DELETE", "/api/v1/repositories/core%2Fapp/tags/1.0", nil)
		w.ok("DELETE", "/api/v1/repositories/core%2Fapp", nil)
		var lines []string
		for _, e := range w.audited(metadata.AuditFilter{Repository: "core/app", Principal: "root"}) {
			if e.Action == string(metadata.ManifestPushed) {
				continue
			}
			lines = append(lines, strings.TrimSpace(e.Action+" "+e.Reference+" "+e.Digest.String()))
			if len(e.Detail) > 0 || e.Actor.RequestID == "" {
				t.Errorf("%+v", e)
			}
		}
		if got, want := strings.Join(lines, "\n"), "deleteRepository\ndeleteTag 1.0 "+d.String()+"\ncreateRepository"; got != want {
			t.Errorf("got\n%s\nwant\n%s", got, want)
		}

		w.ok("POST", "/api/v1/users/root/tokens", `{"name":"mine","actions":["pull"]}`)
		w.ok("POST", "/api/v1/teams/core/robots", `{"name":"ci","actions":["pull"]}`)
		kinds := map[string]any{}
		for _, e := range w.audited(metadata.AuditFilter{}) {
			if e.Action == "createToken" || e.Action == "createRobot" {
				kinds[e.Action] = e.Detail["fields"].(map[string]any)["kind"]
			}
		}
		if kinds["createToken"] != "personal" || kinds["createRobot"] != "robot" {
			t.Errorf("the kinds are %v", kinds)
		}
	})
}

// A team that only the provider knows gets a row when somebody first changes something of it, in that transaction.
func TestProvidersTeamIsAdopted(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		w.provided("lea", map[string]string{"far": metadata.RoleMaintainer})
		if a := w.do("root:"+rootPassword, "PUT", "/api/v1/teams/far/members/nobody", `{"role":"member"}`); a.status != 404 {
			t.Fatalf("%d %s", a.status, a.body)
		}
		if a := w.do("root:"+rootPassword, "GET", "/api/v1/teams/far", nil); a.status != 404 {
			t.Fatalf("%d %s", a.status, a.body)
		}
		w.ok("PUT", "/api/v1/teams/far/quota", `{"repositories":3}`)
		w.ok("POST", "/api/v1/teams/far/robots", `{"name":"ci","actions":["pull"]}`)
		w.ok("GET", "/api/v1/teams/far", nil)
		if a := w.do("root:"+rootPassword, "PUT", "/api/v1/teams/nowhere/quota", `{"repositories":3}`); a.status != 404 {
			t.Fatalf("%d %s", a.status, a.body)
		}
	})
}

// TestOperationsAreKinds: each operation that changes something is the kind of an event by its
// own id, so that the audit log is filtered by what the document of the API says.
func TestOperationsAreKinds(t *testing.T) {
	spec, err := api.GetSpec()
	if err != nil {
		t.Fatal(err)
	}
	other := map[string]metadata.EventKind{
		"dryRunRetention": "", // changes nothing
		"restoreDeleted":  metadata.DeletedRestored,
	}
	for path, item := range spec.Paths.Map() {
		for method, op := range item.Operations() {
			kind, ok := other[op.OperationID]
			if !ok {
				kind = metadata.EventKind(op.OperationID)
			}
			if method != http.MethodGet && kind != "" && !kind.Known() {
				t.Errorf("%s %s: metadata has no kind of event for %s", method, path, op.OperationID)
			}
		}
	}
}
