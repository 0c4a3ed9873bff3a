package admin_test

import (
	"flag"
	"fmt"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"
	"text/tabwriter"

	"berth/api"
	"berth/auth"
	"berth/metadata"
	"berth/metadata/metadatatest"
)

var update = flag.Bool("update", false, "write testdata/permissions.golden")

// attempt is a request of the permission matrix. {me} in path or body is the
// role's own user name.
type attempt struct {
	operation, variant string
	method, path, body string
}

// attempts has every operation, in an order in which an earlier one does not
// take away what a later one needs.
var attempts = []attempt{
	{"whoami", "", "GET", "/whoami", ""},
	{"listUsers", "", "GET", "/users", ""},
	{"createUser", "", "POST", "/users", `{"name":"erin"}`},
	{"createUser", "an admin", "POST", "/users", `{"name":"eve","role":"admin"}`},
	{"getUser", "own", "GET", "/users/{me}", ""},
	{"getUser", "other", "GET", "/users/victim", ""},
	{"updateUser", "own", "PATCH", "/users/{me}", `{"role":"admin"}`},
	{"updateUser", "other", "PATCH", "/users/victim", `{"disabled":true}`},
	{"setPassword", "own, wrong current", "PUT", "/users/{me}/password", `{"password":"new password","current_password":"wrong password"}`},
	{"setPassword", "other", "PUT", "/users/victim/password", `{"password":"new password"}`},
	{"createToken", "own", "POST", "/users/{me}/tokens", `{"name":"spare","actions":["pull"]}`},
	{"createToken", "other", "POST", "/users/victim/tokens", `{"name":"spare","actions":["pull"]}`},
	{"listTokens", "own", "GET", "/users/{me}/tokens", ""},
	{"listTokens", "other", "GET", "/users/victim/tokens", ""},
	{"getToken", "own", "GET", "/users/{me}/tokens/spare", ""},
	{"getToken", "other", "GET", "/users/victim/tokens/laptop", ""},
	{"rotateToken", "own", "POST", "/users/{me}/tokens/spare/rotate", `{}`},
	{"rotateToken", "other", "POST", "/users/victim/tokens/laptop/rotate", `{"overlap":60}`},
	{"deleteToken", "own", "DELETE", "/users/{me}/tokens/spare", ""},
	{"deleteToken", "other", "DELETE", "/users/victim/tokens/laptop", ""},

	{"listTeams", "", "GET", "/teams", ""},
	{"createTeam", "", "POST", "/teams", `{"name":"extra"}`},
	{"getTeam", "", "GET", "/teams/core", ""},
	{"getTeam", "not there", "GET", "/teams/nowhere", ""},
	{"updateTeam", "", "PATCH", "/teams/core", `{"default_visibility":"internal"}`},
	{"listMembers", "", "GET", "/teams/core/members", ""},
	{"putMember", "", "PUT", "/teams/core/members/victim", `{"role":"reader"}`},
	{"putMember", "oneself", "PUT", "/teams/core/members/{me}", `{"role":"maintainer"}`},
	{"putMember", "other team", "PUT", "/teams/other/members/victim", `{"role":"reader"}`},
	{"removeMember", "", "DELETE", "/teams/core/members/victim", ""},
	{"getTeamTagPolicy", "", "GET", "/teams/core/tag-policy", ""},
	{"setTeamTagPolicy", "", "PUT", "/teams/core/tag-policy", `{"mode":"mutable","exempt":[]}`},
	{"deleteTeamTagPolicy", "", "DELETE", "/teams/core/tag-policy", ""},
	{"createRobot", "", "POST", "/teams/core/robots", `{"name":"ci","actions":["pull"]}`},
	{"createRobot", "other team", "POST", "/teams/other/robots", `{"name":"ci","actions":["pull"]}`},
	{"listRobots", "", "GET", "/teams/core/robots", ""},
	{"getRobot", "", "GET", "/teams/core/robots/spare", ""},
	{"rotateRobot", "", "POST", "/teams/core/robots/spare/rotate", `{}`},
	{"listAudit", "", "GET", "/audit", ""},
	{"listTeamAudit", "", "GET", "/teams/core/audit", ""},
	{"listTeamAudit", "other team", "GET", "/teams/other/audit", ""},
	{"deleteRobot", "", "DELETE", "/teams/core/robots/spare", ""},

	{"listRepositories", "", "GET", "/repositories", ""},
	{"createRepository", "", "PUT", "/repositories/core%2Fnew", ""},
	{"createRepository", "other team", "PUT", "/repositories/other%2Fnew", ""},
	{"getRepository", "private", "GET", "/repositories/core%2Fapp", ""},
	{"getRepository", "internal", "GET", "/repositories/core%2Finternal", ""},
	{"getRepository", "public", "GET", "/repositories/core%2Fpublic", ""},
	{"getRepository", "not there", "GET", "/repositories/core%2Fnowhere", ""},
	{"updateRepository", "", "PATCH", "/repositories/core%2Fapp", `{"visibility":"private"}`},
	{"getRepositoryTagPolicy", "", "GET", "/repositories/core%2Fapp/tag-policy", ""},
	{"setRepositoryTagPolicy", "", "PUT", "/repositories/core%2Fapp/tag-policy", `{"mode":"mutable","exempt":[]}`},
	{"deleteRepositoryTagPolicy", "", "DELETE", "/repositories/core%2Fapp/tag-policy", ""},
	{"listTags", "", "GET", "/repositories/core%2Fapp/tags", ""},
	{"getTag", "", "GET", "/repositories/core%2Fapp/tags/1.0", ""},
	{"listTagHistory", "", "GET", "/repositories/core%2Fapp/tags/1.0/history", ""},
	{"listTeamUsage", "", "GET", "/teams/core/usage", ""},
	{"listTeamUsage", "other team", "GET", "/teams/other/usage", ""},
	{"getRepositoryUsage", "", "GET", "/repositories/core%2Fapp/usage", ""},
	{"getRepositoryUsage", "other team", "GET", "/repositories/other%2Fapp/usage", ""},
	{"deleteTag", "", "DELETE", "/repositories/core%2Fapp/tags/1.0", ""},
	{"listDeletedTags", "", "GET", "/repositories/core%2Fapp/deleted/tags", ""},
	{"listDeletedManifests", "", "GET", "/repositories/core%2Fapp/deleted/manifests", ""},
	{"restoreDeleted", "", "POST", "/repositories/core%2Fapp/restore", `{"tag":"1.0"}`},
	{"listQuotas", "", "GET", "/quotas", ""},
	{"setTeamQuota", "", "PUT", "/teams/other/quota", `{"tags":100}`},
	{"setTeamQuota", "own team", "PUT", "/teams/core/quota", `{"tags":100}`},
	{"getTeamQuota", "none for others", "GET", "/teams/core/quota", ""},
	{"deleteTeamQuota", "", "DELETE", "/teams/other/quota", ""},
	{"getTeamRetention", "", "GET", "/teams/core/retention", ""},
	{"setTeamRetention", "", "PUT", "/teams/core/retention", `{"untagged_ttl":"720h"}`},
	{"setTeamRetention", "other team", "PUT", "/teams/other/retention", `{"rules":[]}`},
	{"deleteTeamRetention", "", "DELETE", "/teams/core/retention", ""},
	{"getRepositoryRetention", "", "GET", "/repositories/core%2Fapp/retention", ""},
	{"setRepositoryRetention", "", "PUT", "/repositories/core%2Fapp/retention", `{"rules":[{"name":"all"}]}`},
	{"setRepositoryRetention", "other team", "PUT", "/repositories/other%2Fapp/retention", `{"rules":[]}`},
	{"dryRunRetention", "", "POST", "/repositories/core%2Fapp/retention/dry-run", `{}`},
	{"runRetention", "", "POST", "/repositories/core%2Fapp/retention/run", ""},
	{"deleteRepositoryRetention", "", "DELETE", "/repositories/core%2Fapp/retention", ""},
	{"deleteRepository", "", "DELETE", "/repositories/core%2Fapp", ""},
	{"deleteRepository", "other team", "DELETE", "/repositories/other%2Fapp", ""},

	{"listGroups", "", "GET", "/groups", ""},
	{"createGroup", "", "POST", "/groups", `{"name":"extra"}`},
	{"getGroup", "", "GET", "/groups/devs", ""},
	{"updateGroup", "", "PATCH", "/groups/devs", `{"disabled":false}`},
	{"listGroupMembers", "", "GET", "/groups/devs/members", ""},
	{"putGroupMember", "", "PUT", "/groups/devs/members/victim", ""},
	{"putGroupMember", "oneself", "PUT", "/groups/devs/members/{me}", ""},
	{"removeGroupMember", "", "DELETE", "/groups/devs/members/victim", ""},
	{"listGrants", "", "GET", "/grants", ""},
	{"putUserGrant", "of the team", "PUT", "/users/victim/grants/core%2F*", `{"actions":["pull"]}`},
	{"putUserGrant", "to oneself", "PUT", "/users/{me}/grants/core%2Fx", `{"actions":["admin"]}`},
	{"putUserGrant", "other team", "PUT", "/users/victim/grants/other%2F*", `{"actions":["pull"]}`},
	{"putUserGrant", "named like the team", "PUT", "/users/victim/grants/core", `{"actions":["pull"]}`},
	{"putUserGrant", "named like another team", "PUT", "/users/victim/grants/other", `{"actions":["pull"]}`},
	{"putUserGrant", "all teams like it", "PUT", "/users/victim/grants/core*", `{"actions":["pull"]}`},
	{"putUserGrant", "everything", "PUT", "/users/victim/grants/*", `{"actions":["pull"]}`},
	{"deleteUserGrant", "of the team", "DELETE", "/users/holder/grants/core%2Fspare", ""},
	{"putGroupGrant", "of the team", "PUT", "/groups/devs/grants/core%2Fd*", `{"actions":["pull"]}`},
	{"putGroupGrant", "other team", "PUT", "/groups/devs/grants/other%2F*", `{"actions":["pull"]}`},
	{"deleteGroupGrant", "of the team", "DELETE", "/groups/devs/grants/core%2Fspare", ""},
	{"listDenials", "", "GET", "/denials", ""},
	{"getDenial", "", "GET", "/denials/spare", ""},
	{"putDenial", "", "PUT", "/denials/new", `{"principal":"victim","actions":["push"]}`},
	{"deleteDenial", "", "DELETE", "/denials/spare", ""},
	{"explain", "oneself", "GET", "/explain?action=push&repository=core%2Fapp&tag=1.0", ""},
	{"explain", "other", "GET", "/explain?action=push&repository=core%2Fapp&user=victim", ""},
	{"explain", "other, not there", "GET", "/explain?action=push&repository=core%2Fapp&user=ghost", ""},
	{"explain", "other team", "GET", "/explain?action=push&repository=other%2Fapp&user=victim", ""},
	{"whoCan", "", "GET", "/who-can?action=push&repository=core%2Fapp", ""},
	{"whoCan", "other team", "GET", "/who-can?action=push&repository=other%2Fapp", ""},
	{"deleteGroup", "", "DELETE", "/groups/devs", ""},

	{"getInstanceTagPolicy", "", "GET", "/instance/tag-policy", ""},
	{"setInstanceTagPolicy", "", "PUT", "/instance/tag-policy", `{"mode":"mutable","exempt":[]}`},
	{"listTrustIssuers", "", "GET", "/trust-issuers", ""},
	{"putTrustIssuer", "", "PUT", "/trust-issuers/https%3A%2F%2Fgitlab.com", ""},
	{"putTrustPolicy", "", "PUT", "/teams/core/trust-policies/main", `{"issuer":"https://jobs.example.com","claims":{"project":"core"},"actions":["push"]}`},
	{"putTrustPolicy", "other team", "PUT", "/teams/other/trust-policies/main", `{"issuer":"https://jobs.example.com","claims":{"project":"core"},"actions":["push"]}`},
	{"listTrustPolicies", "", "GET", "/teams/core/trust-policies", ""},
	{"getTrustPolicy", "not there", "GET", "/teams/core/trust-policies/nope", ""},
	{"deleteTrustPolicy", "not there", "DELETE", "/teams/core/trust-policies/nope", ""},
	{"setTrustOwners", "", "PUT", "/trust-issuers/https%3A%2F%2Fgitlab.com/owners", `{"owners":[{"claim":"namespace_path","pattern":"acme","team":"core"}]}`},
	{"deleteTrustIssuer", "", "DELETE", "/trust-issuers/https%3A%2F%2Fgitlab.com", ""},
	{"listServices", "", "GET", "/services", ""},
	{"putService", "", "PUT", "/services/registry.example.com", `{}`},
	{"getService", "", "GET", "/services/registry.example.com", ""},
	{"listKeys", "", "GET", "/keys", ""},
	{"rotateKey", "", "POST", "/keys", `{"service":"registry.example.com"}`},
	{"rotateKey", "our own", "POST", "/keys", `{}`},
	{"retireKey", "not there", "DELETE", "/keys/nope", ""},
	{"deleteService", "", "DELETE", "/services/registry.example.com", ""},
	{"listAccounts", "", "GET", "/accounts", ""},
	{"putAccount", "", "PUT", "/accounts/123456789012", `{}`},
	{"putAccountRole", "", "PUT", "/accounts/123456789012/roles/ci-*", `{"actions":["push"]}`},
	{"deleteAccountRole", "", "DELETE", "/accounts/123456789012/roles/ci-*", ""},
	{"deleteAccount", "", "DELETE", "/accounts/123456789012", ""},
	{"getCollector", "", "GET", "/instance/gc", ""},
	{"runCollector", "dry", "POST", "/instance/gc", `{"dry_run":true}`},
	{"runCollector", "", "POST", "/instance/gc", `{"grace":"1h"}`},
	{"getCheck", "", "GET", "/instance/check", ""},
	{"startCheck", "not valid", "POST", "/instance/check", `{"rate":0}`},
	{"cancelCheck", "none", "DELETE", "/instance/check", ""},
	{"startCheck", "", "POST", "/instance/check", `{}`},
	{"getBackup", "", "GET", "/instance/backup", ""},
	{"startBackup", "not valid", "POST", "/instance/backup", `{"rate":0}`},
	{"cancelBackup", "none", "DELETE", "/instance/backup", ""},
	{"getRestore", "", "GET", "/instance/restore", ""},
	{"startRestore", "not valid", "POST", "/instance/restore", `{"rate":0}`},
	{"startRestore", "not set", "POST", "/instance/restore", `{}`},
	{"cancelRestore", "none", "DELETE", "/instance/restore", ""},
	{"getMigration", "", "GET", "/instance/migration", ""},
	{"startMigration", "not valid", "POST", "/instance/migration", `{"to_database":"postgres://elsewhere/db"}`},
	{"startMigration", "not set", "POST", "/instance/migration", `{}`},
	{"startMigration", "storage, not set", "POST", "/instance/migration", `{"storage_only":true}`},
	{"cancelMigration", "none", "DELETE", "/instance/migration", ""},
	{"getInstanceUsage", "", "GET", "/instance/usage", ""},
	{"explainDigest", "of nothing", "GET", "/digests/sha256:0000000000000000000000000000000000000000000000000000000000000000", ""},
	{"explainDigest", "no digest", "GET", "/digests/latest", ""},
	{"deleteUser", "other", "DELETE", "/users/victim", ""},
	{"deleteTeam", "", "DELETE", "/teams/empty", ""},
	{"deleteUser", "own", "DELETE", "/users/{me}", ""},
}

// roles are the columns of the matrix: who asks, and their own user name.
var roles = []struct{ name, me string }{
	{"anonymous", "nobody"},
	{"outsider", "outsider"},
	{"reader", "reader"},
	{"member", "member"},
	{"maintainer", "maintainer"},
	{"admin", "boss"},
	{"grantee", "holder"},       // granted all actions on core/app
	{"grouped", "grouped"},      // in a group that is granted pull on core/*
	{"provided", "provided"},    // maintainer of core by the provider's word
	{"denied", "denied"},        // maintainer of core, denied everything
	{"denied-admin", "boss2"},   // admin, denied everything
	{"robot", "nobody"},         // of core, all actions on *
	{"robot-app", "nobody"},     // of core, all actions on core/app
	{"token-app", "maintainer"}, // the maintainer's, all actions on core/app
	{"token-boss-app", "boss"},  // the admin's, all actions on core/app
	{"token-pull", "boss"},      // the admin's, pull on *
}

// populate makes what the attempts are about.
func populate(w *world) {
	for _, name := range []string{"outsider", "reader", "member", "maintainer", "victim"} {
		w.user(name, metadata.RoleUser)
	}
	w.user("boss", metadata.RoleAdmin)
	w.secrets["admin"] = w.secrets["boss"]
	for _, team := range []string{"core", "other", "empty"} {
		w.ok("POST", "/api/v1/teams", map[string]string{"name": team})
	}
	for _, role := range []string{"reader", "member", "maintainer"} {
		w.ok("PUT", "/api/v1/teams/core/members/"+role, map[string]string{"role": role})
	}
	for _, name := range []string{"holder", "grouped", "denied"} {
		w.user(name, metadata.RoleUser)
	}
	w.user("boss2", metadata.RoleAdmin)
	w.secrets["grantee"], w.secrets["denied-admin"] = w.secrets["holder"], w.secrets["boss2"]
	w.ok("POST", "/api/v1/groups", map[string]string{"name": "devs"})
	w.ok("PUT", "/api/v1/groups/devs/members/grouped", nil)
	w.ok("PUT", "/api/v1/users/holder/grants/core%2Fapp", map[string]any{"actions": auth.AllActions.Names()})
	w.ok("PUT", "/api/v1/groups/devs/grants/core%2F*", map[string]any{"actions": []string{"pull"}})
	w.ok("PUT", "/api/v1/users/holder/grants/core%2Fspare", map[string]any{"actions": []string{"pull"}})
	w.ok("PUT", "/api/v1/groups/devs/grants/core%2Fspare", map[string]any{"actions": []string{"pull"}})
	w.ok("PUT", "/api/v1/teams/core/members/denied", map[string]string{"role": "maintainer"})
	w.ok("PUT", "/api/v1/denials/spare", map[string]any{"principal": "nobody", "actions": []string{"push"}})
	for _, name := range []string{"denied", "boss2"} {
		w.ok("PUT", "/api/v1/denials/no-"+name, map[string]any{"principal": name, "actions": auth.AllActions.Names(), "reason": "on leave"})
	}
	w.provided("provided", map[string]string{"core": metadata.RoleMaintainer})
	w.push("core/app", "one", "1.0")
	w.push("other/app", "one", "1.0")
	for _, visibility := range []string{"internal", "public"} {
		w.ok("PUT", "/api/v1/repositories/core%2F"+visibility, nil)
		w.ok("PATCH", "/api/v1/repositories/core%2F"+visibility, map[string]string{"visibility": visibility})
	}
	w.token("victim's", metadata.Token{Kind: metadata.PersonalToken, User: "victim", Name: "laptop", Repositories: "*", Actions: []string{"pull"}})
	w.token("spare", metadata.Token{Kind: metadata.RobotToken, Team: "core", Name: "spare", Repositories: "*", Actions: []string{"pull"}})
	w.token("robot", metadata.Token{Kind: metadata.RobotToken, Team: "core", Repositories: "*", Actions: auth.AllActions.Names()})
	w.token("robot-app", metadata.Token{Kind: metadata.RobotToken, Team: "core", Repositories: "core/app", Actions: auth.AllActions.Names()})
	w.token("token-app", metadata.Token{Kind: metadata.PersonalToken, User: "maintainer", Repositories: "core/app", Actions: auth.AllActions.Names()})
	w.token("token-boss-app", metadata.Token{Kind: metadata.PersonalToken, User: "boss", Repositories: "core/app", Actions: auth.AllActions.Names()})
	w.token("token-pull", metadata.Token{Kind: metadata.PersonalToken, User: "boss", Repositories: "*", Actions: []string{"pull"}})
}

// TestPermissions compares what every role gets for every operation with
// testdata/permissions.golden, which is where a change of rights shows in review.
func TestPermissions(t *testing.T) {
	spec, err := api.GetSpec()
	if err != nil {
		t.Fatal(err)
	}
	missing := map[string]bool{}
	for _, item := range spec.Paths.Map() {
		for _, op := range item.Operations() {
			missing[op.OperationID] = true
		}
	}
	for _, a := range attempts {
		if op := spec.Paths.Find(template(a.path)).GetOperation(a.method); op == nil || op.OperationID != a.operation {
			t.Fatalf("%s %s is not the operation %s", a.method, a.path, a.operation)
		}
		delete(missing, a.operation)
	}
	for id := range missing {
		t.Errorf("the operation %s is not in the matrix", id)
	}

	statuses := make([][]int, len(attempts))
	for _, role := range roles {
		w := newWorld(t, metadatatest.Open(t, metadata.Options{URL: metadatatest.SQLite(t)}))
		populate(w)
		who := role.name
		if who == "anonymous" {
			who = ""
		}
		for i, a := range attempts {
			var body any
			if a.body != "" {
				body = a.body
			}
			got := w.do(who, a.method, "/api/v1"+strings.ReplaceAll(a.path, "{me}", role.me), body)
			statuses[i] = append(statuses[i], got.status)
			if got.status == http.StatusForbidden && !strings.Contains(got.body, `"ask":"`) {
				t.Errorf("%s %s as %s: nobody is named who can help: %s", a.method, a.path, role.name, got.body)
			}
			if got.status >= 500 {
				t.Errorf("%s %s as %s: %s", a.method, a.path, role.name, got.body)
			}
		}
	}

	var table strings.Builder
	tw := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
	fmt.Fprint(tw, "operation\t")
	for _, role := range roles {
		fmt.Fprint(tw, role.name, "\t")
	}
	fmt.Fprintln(tw)
	for i, a := range attempts {
		name := a.operation
		if a.variant != "" {
			name += " (" + a.variant + ")"
		}
		fmt.Fprint(tw, name, "\t")
		for _, status := range statuses[i] {
			fmt.Fprint(tw, status, "\t")
		}
		fmt.Fprintln(tw)
	}
	tw.Flush()
	got := strings.ReplaceAll(regexp.MustCompile(` +\n`).ReplaceAllString(table.String(), "\n"), "\t", "")

	const golden = "testdata/permissions.golden"
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("the permissions differ from %s; if that is meant, run this test with -update\n%s", golden, got)
	}
}

// template is the path of the document that a path of the matrix belongs to.
func template(path string) string {
	path, _, _ = strings.Cut(path, "?")
	parameters := map[string]string{"groups": "{group}", "grants": "{pattern}", "denials": "{denial}", "users": "{user}", "members": "{user}", "teams": "{team}", "robots": "{token}", "tokens": "{token}", "repositories": "{repository}", "tags": "{tag}", "accounts": "{account}", "roles": "{role}", "services": "{service}", "trust-issuers": "{issuer}", "trust-policies": "{trust_policy}", "keys": "{kid}", "digests": "{digest}"}
	parts := strings.Split(path, "/")
	for i := 2; i < len(parts); i++ {
		if parameter, ok := parameters[parts[i-1]]; ok {
			parts[i] = parameter
		}
	}
	return strings.Join(parts, "/")
}
