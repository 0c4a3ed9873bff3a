package conformance

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"syscall"
	"testing"

	"berth/testenv"
)

// The clients that people use, signed in by an outside provider.

// outsider is who signs in, and what that is allowed to do.
type outsider struct {
	user, password string
	wrong          string // another password
	own, foreign   string // a team that the user is a member of, and one that it is not
}

// signInEverywhere has real clients sign in, push, pull, and be refused.
func signInEverywhere(t *testing.T, s *Server, d *daemons, o outsider) {
	for _, client := range []struct {
		name string
		make func(*testing.T) (*box, tool)
	}{
		{"docker", func(t *testing.T) (*box, tool) { return dockerTool(t, s, d) }},
		{"podman", func(t *testing.T) (*box, tool) { return podmanTool(t, s) }},
		{"skopeo", func(t *testing.T) (*box, tool) { return skopeoTool(t, s) }},
	} {
		t.Run(client.name, func(t *testing.T) {
			b, c := client.make(t)
			must := func(what string, out string, err error) {
				t.Helper()
				if err != nil {
					t.Fatalf("%s: %v\n%s", what, err, tail(out, 40))
				}
			}
			image := newArchive(t, "example.com/mine:1")
			ref := s.Host + "/" + unique(o.own+"/"+client.name) + ":1.0"
			out, err := c.login(o.user, o.wrong)
			b.fails(out, err, "unauthorized|invalid username/password|401")
			out, err = c.login(o.user, o.password)
			must("login", out, err)
			out, err = c.push(image, ref)
			must("push", out, err)
			out, err = c.pull(ref)
			must("pull", out, err)
			out, err = c.push(image, s.Host+"/"+unique(o.foreign+"/"+client.name)+":1.0")
			b.fails(out, err, "denied|forbidden|403|unauthorized")
			c.logout()
			out, err = c.pull(ref)
			b.fails(out, err)
		})
	}
}

// oauth2Server plays a tokeninfo URL and the team services, as pierone.md 3.2 documents them.
type oauth2Server struct {
	*httptest.Server
	mu     sync.Mutex
	tokens map[string]map[string]any
	teams  map[string][]string
	asked  int
	down   int // status of every answer; 0 is none
}

func newOAuth2Server(t *testing.T) *oauth2Server {
	o := &oauth2Server{tokens: map[string]map[string]any{}, teams: map[string][]string{}}
	o.Server = httptest.NewServer(http.HandlerFunc(o.serve))
	t.Cleanup(o.Close)
	return o
}

func (o *oauth2Server) serve(w http.ResponseWriter, r *http.Request) {
	o.mu.Lock()
	defer o.mu.Unlock()
	answer := func(status int, v any) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(v)
	}
	if o.down != 0 {
		answer(o.down, nil)
		return
	}
	if r.URL.Path == "/tokeninfo" {
		o.asked++
		if info, ok := o.tokens[r.URL.Query().Get("access_token")]; ok {
			answer(http.StatusOK, info)
			return
		}
		answer(http.StatusBadRequest, map[string]string{"error": "invalid_request"})
		return
	}
	info, ok := o.tokens[strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")]
	if !ok {
		answer(http.StatusUnauthorized, nil)
		return
	}
	uid, _ := info["uid"].(string)
	switch r.URL.Path {
	case "/api/accounts/aws":
		list := []map[string]string{}
		for _, team := range o.teams[r.URL.Query().Get("member")] {
			list = append(list, map[string]string{"name": team})
		}
		answer(http.StatusOK, list)
	case "/auth":
		var q struct{ Payload struct{ Team string } }
		body, _ := io.ReadAll(r.Body)
		_ = json.Unmarshal(body, &q)
		for _, team := range o.teams[uid] {
			if team == q.Payload.Team {
				answer(http.StatusOK, map[string]bool{"ok": true})
				return
			}
		}
		answer(http.StatusForbidden, map[string]string{})
	default:
		answer(http.StatusNotFound, nil)
	}
}

func (o *oauth2Server) set(f func()) {
	o.mu.Lock()
	defer o.mu.Unlock()
	f()
}

// TestOAuth2Clients: docker and others with an OAuth2 token as the password of the user
// oauth2 (pierone.md, works when 1), with each of the services that know teams.
func TestOAuth2Clients(t *testing.T) {
	for name, setting := range map[string]string{"accounts": "BERTH_OAUTH2_TEAM_SERVICE_URL", "policy": "BERTH_OAUTH2_POLICY_URL"} {
		t.Run(name, func(t *testing.T) {
			d := &daemons{t: t}
			o := newOAuth2Server(t)
			o.tokens["the-token-of-alice"] = map[string]any{"uid": "alice", "realm": "/employees", "scope": []string{"uid"}, "expires_in": 3600}
			o.teams["alice"] = []string{"core"}
			s := Start(t, Embedded, "BERTH_OAUTH2_TOKENINFO_URL="+o.URL+"/tokeninfo", setting+"="+o.URL)
			signInEverywhere(t, s, d, outsider{user: "oauth2", password: "the-token-of-alice", wrong: "not-a-token", own: "core", foreign: "other"})
			if strings.Contains(s.Log(), "the-token-of-alice") {
				t.Error("the token is in the log")
			}
		})
	}
}

// TestOAuth2Contract is pierone.md, works when 2 to 4 and 6, by hand.
func TestOAuth2Contract(t *testing.T) {
	o := newOAuth2Server(t)
	token := func(name, uid, realm string, scopes ...string) {
		o.tokens[name] = map[string]any{"uid": uid, "realm": realm, "scope": scopes, "expires_in": 3600}
	}
	token("alice", "alice", "/employees", "uid")
	token("service", "stups_app", "/services", "uid", "application.write")
	token("reader", "stups_reader", "/services", "uid")
	token("everywhere", "stups_deploy", "/services", "application.write_all")
	token("customer", "carl", "/customers", "uid", "application.write")
	o.tokens["nobody"] = map[string]any{"realm": "/employees", "scope": []string{"application.write_all"}}
	o.teams["alice"], o.teams["stups_app"], o.teams["stups_reader"], o.teams["carl"] = []string{"core"}, []string{"core"}, []string{"core"}, []string{"core"}
	s := Start(t, Embedded, "BERTH_OAUTH2_TOKENINFO_URL="+o.URL+"/tokeninfo", "BERTH_OAUTH2_TEAM_SERVICE_URL="+o.URL, "BERTH_DEFAULT_VISIBILITY=internal")
	anonymous := s.Anonymous(t)
	upload := func(team, authorization string) *Response {
		t.Helper()
		return anonymous.Do("POST", "/v2/"+team+"/app/blobs/uploads/", nil, "Authorization: "+authorization)
	}
	raw, _ := s.As(t, "oauth2", "alice").PushImage("core/app", "1.0")

	// Bearer and Token without a token exchange, on /v2/ and on the APIs.
	for _, authorization := range []string{"Bearer alice", "Token alice", "bearer alice"} {
		anonymous.Do("GET", "/v2/core/app/manifests/1.0", nil, "Authorization: "+authorization, "Accept: */*").Want(200).WantBody(raw)
		anonymous.Do("GET", "/v2/", nil, "Authorization: "+authorization).Want(200)
		anonymous.Do("GET", "/api/v1/repositories", nil, "Authorization: "+authorization).Want(200)
		anonymous.Do("GET", "/token?scope=repository:core/app:pull,push", nil, "Authorization: "+authorization).Want(200)
	}
	// containerd and others try the form first.
	form := []byte("grant_type=password&username=oauth2&password=alice&client_id=x&access_type=offline&scope=repository:core/app:push")
	var issued struct {
		AccessToken  string `json:"access_token"`
		RefreshToken string `json:"refresh_token"`
	}
	posted := anonymous.Do("POST", "/token", form, "Content-Type: application/x-www-form-urlencoded").Want(200)
	if err := json.Unmarshal(posted.Body, &issued); err != nil || issued.RefreshToken != "" {
		t.Errorf("%v: %s: a refresh token would outlive the OAuth2 token", err, posted.Body)
	}
	upload("core", "Bearer "+issued.AccessToken).Want(202)
	for team, tokens := range map[string]map[string]int{
		"core":  {"alice": 202, "service": 202, "reader": 403, "everywhere": 202, "customer": 403, "nobody": 403, "unknown": 401},
		"other": {"alice": 403, "service": 403, "reader": 403, "everywhere": 202, "customer": 403, "nobody": 403, "unknown": 401},
	} {
		for name, status := range tokens {
			r := upload(team, "Bearer "+name).Want(status)
			if status == 403 && name == "nobody" && !strings.Contains(string(r.Body), "Forbidden") {
				t.Errorf("%s: %s", name, r.Body)
			}
			if status == 403 && name == "alice" && !strings.Contains(string(r.Body), " team=other user=alice ") {
				t.Errorf("%s is not told team and user: %s", name, r.Body)
			}
		}
	}
	for _, name := range []string{"reader", "customer"} { // everybody who is signed in pulls
		anonymous.Do("GET", "/v2/core/app/manifests/1.0", nil, "Authorization: Bearer "+name).Want(200)
	}
	// A token of everywhere is not for administration.
	anonymous.Do("GET", "/api/v1/users", nil, "Authorization: Bearer everywhere").Want(403)
	// Our own issuer's tokens get our own verdict, however they are forged, and nobody is asked.
	before := o.asked
	r := anonymous.Do("GET", "/v2/", nil, "Authorization: Bearer eyJhbGciOiJub25lIn0.eyJpc3MiOiJiZXJ0aCIsImF1ZCI6ImJlcnRoIn0.").Want(401)
	if !strings.Contains(string(r.Body), "token-invalid") || o.asked != before {
		t.Errorf("%d questions, %s", o.asked-before, r.Body)
	}

	// Who was asked about lately goes on; others cannot be told now.
	o.set(func() { o.down = 503 })
	anonymous.Do("GET", "/v2/", nil, "Authorization: Bearer alice").Want(200)
	for _, path := range []string{"/v2/", "/token", "/api/v1/repositories"} {
		req, err := http.NewRequest("GET", s.URL+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer not-seen-before")
		res, err := insecure.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != 503 || res.Header.Get("WWW-Authenticate") != "" {
			t.Errorf("%s with the server down: %d", path, res.StatusCode)
		}
	}
	o.set(func() { o.down = 0; token("not-seen-before", "bob", "/employees") })
	anonymous.Do("GET", "/v2/", nil, "Authorization: Bearer not-seen-before").Want(200)
	metrics := string(anonymous.Do("GET", "/metrics", nil).Want(200).Body)
	for _, want := range []string{`berth_provider_sign_ins_total{provider="oauth2",result="ok"}`, `{provider="oauth2",result="cached"}`, `{provider="oauth2",result="unavailable"} 3`, `{provider="oauth2",result="refused"}`} {
		if !strings.Contains(metrics, want) {
			t.Errorf("no %s in the metrics", want)
		}
	}
}

// TestOAuth2PolicyService: a service that answers about one team at a time is asked
// in the name of the token that was shown; who comes with our own token to a server that has
// not seen it is sent for a new one, and not refused.
func TestOAuth2PolicyService(t *testing.T) {
	o := newOAuth2Server(t)
	o.tokens["alice"] = map[string]any{"uid": "alice", "realm": "/employees", "expires_in": 3600}
	o.teams["alice"] = []string{"core"}
	s := Start(t, Embedded, "BERTH_OAUTH2_TOKENINFO_URL="+o.URL+"/tokeninfo", "BERTH_OAUTH2_POLICY_URL="+o.URL, "BERTH_DEFAULT_VISIBILITY=internal")
	raw, _ := s.As(t, "oauth2", "alice").PushImage("core/app", "1.0")
	s.Admin(t).PushImage("other/app", "1.0")
	anonymous := s.Anonymous(t)
	fetch := func(scope string) string {
		t.Helper()
		var answer struct{ Token string }
		if err := json.Unmarshal(s.As(t, "oauth2", "alice").Do("GET", "/token?scope="+scope, nil).Want(200).Body, &answer); err != nil {
			t.Fatal(err)
		}
		return "Authorization: Bearer " + answer.Token
	}
	upload := func(team, authorization string, status int) *Response {
		t.Helper()
		return anonymous.Do("POST", "/v2/"+team+"/app/blobs/uploads/", nil, authorization).Want(status)
	}
	narrow := fetch("repository:core/app:pull")
	upload("core", narrow, 401)
	upload("core", fetch("repository:core/app:pull,push"), 202)
	foreign := fetch("repository:other/app:pull,push")
	upload("other", foreign, 403)

	s.Kill()
	s.Restart(t)
	for team, authorization := range map[string]string{"core": narrow, "other": foreign} {
		r := upload(team, authorization, 401)
		if challenge := r.Header.Get("WWW-Authenticate"); !strings.Contains(challenge, "insufficient_scope") || !strings.Contains(challenge, "push") {
			t.Errorf("%s: %s", team, challenge)
		}
	}
	anonymous.Do("GET", "/v2/core/app/manifests/1.0", nil, narrow).Want(200).WantBody(raw)

	// What is certain without the service holds while it is down; the rest is no refusal.
	anonymous.Do("GET", "/v2/", nil, "Authorization: Bearer alice").Want(200)
	o.set(func() { o.down = 500 })
	anonymous.Do("GET", "/v2/other/app/manifests/1.0", nil, "Authorization: Bearer alice").Want(200)
	req, err := http.NewRequest("POST", s.URL+"/v2/core/app/blobs/uploads/", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer alice")
	res, err := insecure.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != 503 {
		t.Errorf("a push while the service is down: %d", res.StatusCode)
	}
	o.set(func() { o.down = 0 })
	upload("core", "Authorization: Bearer alice", 202)
}

// TestLDAPClients: docker and others with the name and password of a user of a
// directory. dims.md, works when 1 and 17; and 16, the directory away.
func TestLDAPClients(t *testing.T) {
	d := &daemons{t: t}
	directory := testenv.Slapd(t, `
dn: uid=alice,ou=people,dc=example,dc=org
objectClass: inetOrgPerson
cn: Alice
sn: A
uid: alice
userPassword: pw:of:alice

dn: uid=bob,ou=people,dc=example,dc=org
objectClass: inetOrgPerson
cn: Bob
sn: B
uid: bob
userPassword: pw-of-bob

dn: cn=devs,ou=groups,dc=example,dc=org
objectClass: groupOfNames
cn: devs
member: uid=alice,ou=people,dc=example,dc=org
`)
	s := Start(t, Embedded, "BERTH_LDAP_URL="+directory.URL, "BERTH_LDAP_CA_FILE="+directory.CAFile,
		"BERTH_LDAP_BIND_DN="+directory.BindDN, "BERTH_LDAP_BIND_PASSWORD="+directory.BindPassword,
		"BERTH_LDAP_BASE_DN=ou=people,"+directory.BaseDN, "BERTH_LDAP_GROUP_BASE=ou=groups,"+directory.BaseDN,
		"BERTH_LDAP_TEAMS=cn=devs,ou=groups,"+directory.BaseDN+"=core:member", "BERTH_LDAP_TIMEOUT=4s", "BERTH_LDAP_MAX_FAILURES=20")
	signInEverywhere(t, s, d, outsider{user: "alice", password: "pw:of:alice", wrong: "pw", own: "core", foreign: "other"})
	for _, secret := range []string{"pw:of:alice", directory.BindPassword} {
		if strings.Contains(s.Log(), secret) {
			t.Error("a password is in the log")
		}
	}
	// The administrator is ours, whatever the directory says or does.
	s.Admin(t).Do("GET", "/api/v1/users", nil).Want(200)

	directory.Signal(syscall.SIGSTOP)
	s.As(t, "alice", "pw:of:alice").Do("GET", "/v2/", nil).Want(200)
	s.Admin(t).Do("GET", "/api/v1/users", nil).Want(200)
	s.Anonymous(t).Do("GET", "/readyz", nil).Want(200)
	for _, password := range []string{"pw-of-bob", "wrong"} {
		req, err := http.NewRequest("GET", s.URL+"/token", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.SetBasicAuth("bob", password)
		res, err := insecure.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != 503 {
			t.Errorf("with the directory stopped: %d", res.StatusCode)
		}
	}
	directory.Signal(syscall.SIGCONT)
	s.As(t, "bob", "pw-of-bob").Do("GET", "/token", nil).Want(200)
	s.As(t, "bob", "wrong").Do("GET", "/token", nil).Want(401)
	s.As(t, "nobody", "wrong").Do("GET", "/token", nil).Want(401)
	s.As(t, "alice", "").Do("GET", "/token", nil).Want(401)
	metrics := string(s.Anonymous(t).Do("GET", "/metrics", nil).Want(200).Body)
	for _, want := range []string{`{provider="ldap",result="ok"}`, `{provider="ldap",result="cached"}`, `{provider="ldap",result="wrong"}`, `{provider="ldap",result="unavailable"} 2`} {
		if !strings.Contains(metrics, want) {
			t.Errorf("no %s in the metrics", want)
		}
	}
}
