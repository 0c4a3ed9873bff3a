package server

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"berth/audit"
	"berth/auth"
	"berth/auth/oauth2"
	"berth/auth/oidc"
	"berth/backup"
	"berth/metadata"
	"berth/metadata/metadatatest"
	"berth/people"
	"berth/registry"
	"berth/registry/collect"
	"berth/server/admin"
	"berth/server/door"
	"berth/storage/mem"
	"berth/testenv"
)

// shown is a credential of the model: how it is shown, and what it is bound to.
type shown struct {
	name    string
	me      string   // the user that it is, "" for a robot of the team core
	as      string   // for world.do
	headers []string // beside
	actions auth.Actions
	ends    time.Time // zero is never
	network bool      // bound to 127.0.0.0/8
	person  bool      // signed in at the provider in person
}

// may is the model: whether the credential may give a right.
func (c shown) may(d deed) bool {
	if !c.actions.Has(d.actions) || c.network && !d.network {
		return false
	}
	if c.ends.IsZero() || c.person && !d.own {
		return true
	}
	return !d.ends.IsZero() && !d.ends.After(c.ends)
}

// deed is a request that gives somebody a right.
type deed struct {
	name, method, path, body string

	actions auth.Actions
	ends    time.Time // zero is never
	network bool      // bound to 127.0.0.1
	own     bool      // a token of the caller
	team    bool      // robots of the team may ask for it
	door    string    // "" is the management API
	before  func(w *world)
}

// outgrowWorld is a server with every door and every kind of credential.
func outgrowWorld(t *testing.T, database string) (*world, []shown) {
	const audience = "https://registry.test/jobs"
	provider := testenv.OIDC(t, testenv.OIDCSettings{Jobs: map[string]map[string]any{"job-1": {"project": "core"}}, Redirects: []string{"https://registry.example.com/sign-in/callback"}})
	tokeninfo := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("Content-Type", "application/json")
		fmt.Fprint(rw, `{"uid":"olga","realm":"/employees","scope":["uid"],"expires_in":3600}`)
	}))
	t.Cleanup(tokeninfo.Close)
	var openid *oidc.Authenticator
	w := newWorldOn(t, database, func(w *world, o *Options) {
		must := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		vouch := &oidc.People{Issuer: provider.Issuer, ClientID: testenv.OIDCWebClient, ClientSecret: testenv.OIDCWebSecret, Scopes: []string{"openid"}, UsernameClaim: "preferred_username"}
		var err error
		openid, err = oidc.New(oidc.Options{DB: w.db, People: vouch, TrustedIssuers: []string{provider.Issuer}, Clock: w.clock.now})
		must(err)
		pierone, err := oauth2.New(auth.NewDirectory(w.db, nil, w.clock.now), oauth2.Options{TokeninfoURL: tokeninfo.URL, Realms: true, Clock: w.clock.now})
		must(err)
		chain := auth.NewChain(w.clock.now, auth.NewTokens(w.db, nil, w.clock.now), openid, pierone, auth.NewPasswords(w.db, w.hasher, w.clock.now))
		o.Auth = chain
		w.people = people.New(people.Options{DB: w.db, Hasher: w.hasher, Passwords: chain, Keys: o.Tokens.Keys(), Service: "registry.test", TrustedIssuers: []string{provider.Issuer}})
		o.URL = "https://registry.example.com"
		o.Browsers, o.Sessions = openid, auth.NewWebSessions(w.db, 8*time.Hour, w.clock.now)
		o.Provider = &Provider{Issuer: provider.Issuer, ClientID: "berth-cli", Scopes: []string{"openid"}}
		store := mem.New()
		reg := registry.New(w.db, store, registry.Options{})
		collector := collect.New(w.db, store, collect.Options{})
		checks := collect.NewCheckJobs(collector)
		t.Cleanup(checks.Close)
		copies := backup.NewJobs(backup.JobsOptions{From: backup.Side{DB: w.db, Store: store}, Grace: collect.DefaultGrace})
		t.Cleanup(copies.Close)
		management, err := admin.New(admin.Options{
			Registry: reg, Collector: collector, Checks: checks, Copies: copies, Audit: audit.New(w.db, audit.Options{}), Policy: o.Policy, People: w.people,
			Keys: o.Tokens.Keys(), TrustedIssuers: []string{provider.Issuer},
		})
		must(err)
		o.Doors = []door.Door{management}
	})
	w.user("boss", metadata.RoleAdmin)
	w.team("core")
	hour := time.Now().Add(time.Hour)
	all := auth.AllActions
	token := func(t metadata.Token, actions auth.Actions) {
		t.Actions = actions.Names()
		w.token(t)
	}
	token(metadata.Token{Kind: metadata.PersonalToken, User: "boss", Name: "whole"}, all)
	token(metadata.Token{Kind: metadata.PersonalToken, User: "boss", Name: "hour", ExpiresAt: &hour}, all)
	token(metadata.Token{Kind: metadata.PersonalToken, User: "boss", Name: "here", CIDRs: []string{"127.0.0.0/8"}}, all)
	token(metadata.Token{Kind: metadata.PersonalToken, User: "boss", Name: "manages"}, auth.Admin)
	token(metadata.Token{Kind: metadata.RobotToken, Team: "core", Name: "robot"}, all)
	token(metadata.Token{Kind: metadata.RobotToken, Team: "core", Name: "robot-hour", ExpiresAt: &hour}, all)
	token(metadata.Token{Kind: metadata.RobotToken, Team: "core", Name: "robot-manages"}, auth.Admin)
	w.update(func(ctx context.Context, tx *metadata.Tx) error {
		_, _, err := tx.PutTrustPolicy(ctx, metadata.TrustPolicy{Team: "core", Name: "jobs", Issuer: provider.Issuer, Audience: audience, Claims: map[string]string{"project": "core"},
			Robot: "job", Repositories: "*", Actions: all.Names(), MaxLife: 15 * time.Minute, CreatedBy: "test"})
		return err
	})
	w.accounts["oidc"] = provider.JobToken("job-1", audience)
	w.accounts["oauth2"] = "an-access-token-of-olga"

	// The person's own ID token, and the session of the browser.
	verifier := strings.Repeat("v", 43)
	to, err := openid.AuthURL(t.Context(), "https://registry.example.com/sign-in/callback", "s", "n", verifier)
	if err != nil {
		t.Fatal(err)
	}
	landed, err := http.NewRequest("GET", provider.Browse(to, "pia"), nil)
	if err != nil {
		t.Fatal(err)
	}
	form := values("grant_type", "authorization_code", "code", landed.URL.Query().Get("code"), "redirect_uri", "https://registry.example.com/sign-in/callback", "code_verifier", verifier)
	r, _ := http.NewRequest("POST", provider.Issuer+"/token", strings.NewReader(form.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.SetBasicAuth(url.QueryEscape(testenv.OIDCWebClient), url.QueryEscape(testenv.OIDCWebSecret))
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	var tokens struct {
		ID string `json:"id_token"`
	}
	if err := json.NewDecoder(answer.Body).Decode(&tokens); err != nil || tokens.ID == "" {
		t.Fatalf("no ID token: %v %s", err, answer.Status)
	}
	w.accounts["pia-id"] = tokens.ID
	cookie, back := comeBack(t, w, provider, "sam", "/api/")
	session := cookieOf(t, w.do("GET", back, "", nil, "Cookie", cookie).want(t, http.StatusSeeOther), sessionCookie)
	w.do("GET", "/v2/", "oauth2", nil).want(t, http.StatusOK)
	w.do("GET", "/v2/", "pia-id", nil).want(t, http.StatusOK)
	role := metadata.RoleAdmin
	w.update(func(ctx context.Context, tx *metadata.Tx) error {
		for _, name := range []string{"olga", "pia", "sam"} {
			if _, err := tx.UpdateUser(ctx, name, metadata.UserChange{Role: &role}); err != nil {
				return err
			}
		}
		return nil
	})
	return w, []shown{
		{name: "password", me: "boss", as: "boss", actions: all},
		{name: "whole token", me: "boss", as: "token:whole", actions: all},
		{name: "token of an hour", me: "boss", as: "token:hour", actions: all, ends: hour},
		{name: "token of a network", me: "boss", as: "token:here", actions: all, network: true},
		{name: "token for admin", me: "boss", as: "token:manages", actions: auth.Admin},
		{name: "robot", as: "token:robot", actions: all},
		{name: "robot of an hour", as: "token:robot-hour", actions: all, ends: hour},
		{name: "robot for admin", as: "token:robot-manages", actions: auth.Admin},
		{name: "job", as: "oidc", actions: all, ends: time.Now()}, // of minutes: shorter than anything that is made here
		{name: "OAuth2 token", me: "olga", as: "oauth2", actions: all, ends: hour.Add(-time.Second)},
		{name: "ID token", me: "pia", as: "pia-id", actions: all, ends: time.Now(), person: true},
		{name: "session", me: "sam", headers: []string{"Cookie", session, "Sec-Fetch-Site", "same-origin", PageTokenHeader, pageToken(session)}, actions: all, ends: time.Now().Add(7 * time.Hour), person: true},
	}
}

func values(pairs ...string) url.Values {
	v := url.Values{}
	for i := 0; i < len(pairs); i += 2 {
		v.Set(pairs[i], pairs[i+1])
	}
	return v
}

// deeds are all ways to give somebody a right, for the attempt n of who is me.
func deeds(n int, me string) []deed {
	soon := time.Now().Add(20 * time.Minute)
	end := fmt.Sprintf(`,"expires_at":%q`, soon.UTC().Format(time.RFC3339))
	const all, pull = auth.AllActions, auth.Pull
	allText := `["pull","push","delete","admin"]`
	user := fmt.Sprintf("user%d", n)
	have := func(w *world, disabled bool) {
		w.update(func(ctx context.Context, tx *metadata.Tx) error {
			_, err := tx.CreateUser(ctx, metadata.User{Name: user, Role: metadata.RoleUser, Disabled: disabled})
			return err
		})
	}
	haveUser := func(w *world) { have(w, false) }
	haveGroup := func(w *world) {
		haveUser(w)
		w.update(func(ctx context.Context, tx *metadata.Tx) error {
			_, err := tx.CreateGroup(ctx, user)
			return err
		})
	}
	haveTeam := func(w *world) {
		w.update(func(ctx context.Context, tx *metadata.Tx) error {
			_, err := tx.CreateTeam(ctx, user, metadata.Private)
			return err
		})
	}
	haveDenial := func(w *world) {
		w.deny(metadata.Denial{Name: user, Principal: "nobody", Repository: "core/x", Actions: []string{"push"}, CreatedBy: "test"})
	}
	list := []deed{
		{name: "own token", method: "POST", path: "/users/" + me + "/tokens", body: `{"name":"a","actions":` + allText + `}`, actions: all, own: true},
		{name: "own token that ends", method: "POST", path: "/users/" + me + "/tokens", body: `{"name":"b","actions":["pull"]` + end + `}`, actions: pull, ends: soon, own: true},
		{name: "own token here", method: "POST", path: "/users/" + me + "/tokens", body: `{"name":"c","actions":["pull"],"cidrs":["127.0.0.1"]}`, actions: pull, network: true, own: true},
		{name: "own token rotated", method: "POST", path: "/users/" + me + "/tokens/" + user + "/rotate", body: `{}`, actions: pull, own: true, before: func(w *world) {
			w.token(metadata.Token{Kind: metadata.PersonalToken, User: me, Name: user, Actions: []string{"pull"}})
		}},
		{name: "robot", method: "POST", path: "/teams/core/robots", body: `{"name":"%","actions":["pull"]}`, actions: pull, team: true},
		{name: "robot for all", method: "POST", path: "/teams/core/robots", body: `{"name":"%","actions":` + allText + `}`, actions: all, team: true},
		{name: "robot that ends", method: "POST", path: "/teams/core/robots", body: `{"name":"%","actions":["pull"]` + end + `}`, actions: pull, ends: soon, team: true},
		{name: "robot here", method: "POST", path: "/teams/core/robots", body: `{"name":"%","actions":["pull"],"cidrs":["127.0.0.1/32"]}`, actions: pull, network: true, team: true},
		{name: "robot rotated", method: "POST", path: "/teams/core/robots/" + user + "/rotate", body: `{"overlap":60}`, actions: all, team: true, before: func(w *world) {
			w.token(metadata.Token{Kind: metadata.RobotToken, Team: "core", Name: user, Actions: all.Names()})
		}},
		{name: "trust policy", method: "PUT", path: "/teams/core/trust-policies/" + user, body: `{"issuer":"https://jobs.example.com","claims":{"project":"core"},"actions":["pull"]}`, actions: pull, team: true,
			before: func(w *world) {
				w.update(func(ctx context.Context, tx *metadata.Tx) error {
					_, err := tx.PutTrustIssuer(ctx, "https://jobs.example.com", "test")
					return err
				})
			}},
		{name: "grant", method: "PUT", path: "/users/" + user + "/grants/core%2F*", body: `{"actions":` + allText + `}`, actions: all, team: true, before: haveUser},
		{name: "grant to pull", method: "PUT", path: "/users/" + user + "/grants/core%2Fx", body: `{"actions":["pull"]}`, actions: pull, team: true, before: haveUser},
		{name: "grant to a group", method: "PUT", path: "/groups/" + user + "/grants/core%2F*", body: `{"actions":["push"]}`, actions: auth.Push, team: true, before: haveGroup},
		{name: "reader", method: "PUT", path: "/teams/core/members/" + user, body: `{"role":"reader"}`, actions: pull, team: true, before: haveUser},
		{name: "maintainer", method: "PUT", path: "/teams/core/members/" + user, body: `{"role":"maintainer"}`, actions: all, team: true, before: haveUser},
		{name: "user", method: "POST", path: "/users", body: `{"name":"%"}`, actions: pull},
		{name: "admin", method: "POST", path: "/users", body: `{"name":"%","role":"admin"}`, actions: all},
		{name: "role", method: "PATCH", path: "/users/" + user, body: `{"role":"admin"}`, actions: all, before: haveUser},
		{name: "user enabled", method: "PATCH", path: "/users/" + user, body: `{"disabled":false}`, actions: all, before: func(w *world) { have(w, true) }},
		{name: "password", method: "PUT", path: "/users/" + user + "/password", body: `{"password":"a new password"}`, actions: all, before: haveUser},
		{name: "group member", method: "PUT", path: "/groups/" + user + "/members/" + user, actions: all, before: haveGroup},
		{name: "group enabled", method: "PATCH", path: "/groups/" + user, body: `{"disabled":false}`, actions: all, before: func(w *world) {
			haveGroup(w)
			w.update(func(ctx context.Context, tx *metadata.Tx) error {
				_, err := tx.SetGroupDisabled(ctx, user, true)
				return err
			})
		}},
		{name: "denial removed", method: "DELETE", path: "/denials/" + user, actions: auth.Push, before: haveDenial},
		{name: "denial weakened", method: "PUT", path: "/denials/" + user, body: `{"principal":"somebody","repository":"core/x","actions":["push"]}`, actions: auth.Push, before: haveDenial},
		{name: "trust issuer", method: "PUT", path: "/trust-issuers/https%3A%2F%2F" + user + ".example.com", actions: all},
		{name: "trust owners", method: "PUT", path: "/trust-issuers/https%3A%2F%2Fjobs.example.com/owners", body: `{"owners":[]}`, actions: all},
		{name: "service", method: "PUT", path: "/services/" + user + ".example.com", body: `{"anonymous_pull":"core/*"}`, actions: all},
		{name: "account", method: "PUT", path: fmt.Sprintf("/accounts/%012d", n), body: `{}`, actions: pull},
		{name: "account's role", method: "PUT", path: fmt.Sprintf("/accounts/%012d/roles/ci", n), body: `{"actions":["push"]}`, actions: auth.Push},
		{name: "public", method: "PATCH", path: "/repositories/core%2F" + user, body: `{"visibility":"public"}`, actions: pull, team: true, before: func(w *world) {
			w.update(func(ctx context.Context, tx *metadata.Tx) error {
				_, _, err := tx.EnsureRepository(ctx, "core/"+user, metadata.Private, "test")
				return err
			})
		}},
		{name: "team that is open", method: "POST", path: "/teams", body: `{"name":"%","default_visibility":"public"}`, actions: pull},
		{name: "team opened", method: "PATCH", path: "/teams/" + user, body: `{"default_visibility":"internal"}`, actions: pull, before: haveTeam},
		{name: "team as open as the instance", method: "PATCH", path: "/teams/" + user, body: `{"default_visibility":"inherit"}`, actions: pull, before: haveTeam},

		{name: "d.ims.io's account", door: "dims", method: "POST", path: "/account", body: fmt.Sprintf(`{"account":"%012d"}`, n), actions: pull},
		{name: "Dockit's grant", door: "dockit", method: "PUT", path: "/v2/admin/user:" + user + "/namespace:core:push", actions: pull | auth.Push, before: haveUser},
		{name: "Dockit's user", door: "dockit", method: "PUT", path: "/v2/admin/user:" + user + "/add", body: `{"password":"a new password"}`, actions: pull},
		{name: "Dockit's password", door: "dockit", method: "PUT", path: "/v2/admin/user:" + user + "/change-password", body: `{"password":"a new password"}`, actions: all, before: haveUser},
		{name: "Dockit's enable", door: "dockit", method: "PUT", path: "/v2/admin/user:" + user + "/enable", actions: all, before: func(w *world) { have(w, true) }},
		{name: "Dockit's member", door: "dockit", method: "PUT", path: "/v2/admin/group:" + user + "/user:" + user + "/add-member", actions: all, before: haveGroup},
	}
	for i := range list {
		list[i].body = strings.ReplaceAll(list[i].body, "%", user)
		if list[i].door == "" {
			list[i].path = "/api/v1" + list[i].path
		}
	}
	return list
}

// forms are the token forms of a credential: itself, our bearer token for the management
// API, and one that a refresh token gave.
func (w *world) forms(c shown) map[string]shown {
	forms := map[string]shown{"itself": c}
	if c.as == "" {
		return forms
	}
	bearer := c
	bearer.as = w.jwt(c.as, "berth:api:*")
	if strings.HasPrefix(c.as, "token:") {
		// As a password, for tokens of ours come so, too.
		name := strings.TrimPrefix(c.as, "token:")
		w.accounts["as-"+name] = w.accounts[name]
		bearer.as = w.jwt("as-"+name, "berth:api:*")
	}
	forms["bearer token"] = bearer
	var answer tokenAnswer
	form := values("grant_type", "password", "service", "registry.test", "username", "x", "password", w.accounts[strings.TrimPrefix(c.as, "token:")], "access_type", "offline")
	if !strings.HasPrefix(c.as, "token:") {
		form.Set("username", c.as)
	}
	header := []string{"Content-Type", "application/x-www-form-urlencoded"}
	if err := json.Unmarshal(w.do("POST", "/token", "", strings.NewReader(form.Encode()), header...).want(w.t, http.StatusOK).body, &answer); err != nil {
		w.t.Fatal(err)
	}
	if answer.RefreshToken == "" {
		return forms
	}
	if !c.ends.IsZero() {
		claims, err := w.server.tokens.VerifyRefresh(w.t.Context(), answer.RefreshToken, "registry.test")
		if err != nil || claims.ExpiresAt.After(c.ends) {
			w.t.Errorf("%s: %v: the refresh token outlives it: %v", c.name, err, claims)
		}
	}
	form = values("grant_type", "refresh_token", "service", "registry.test", "refresh_token", answer.RefreshToken, "scope", "berth:api:*")
	if err := json.Unmarshal(w.do("POST", "/token", "", strings.NewReader(form.Encode()), header...).want(w.t, http.StatusOK).body, &answer); err != nil {
		w.t.Fatal(err)
	}
	refreshed := c
	refreshed.as = "jwt:" + answer.Token
	forms["refreshed"] = refreshed
	return forms
}

// TestNoCredentialOutgrowsItself compares every way to give a right, through every door,
// with every credential in every form, with a model: a credential gives no right that it
// has not, and none that lives longer.
func TestNoCredentialOutgrowsItself(t *testing.T) {
	metadatatest.EachURL(t, func(t *testing.T, url string) {
		w, credentials := outgrowWorld(t, url)
		n, allowed, refused := 0, 0, 0
		for _, c := range credentials {
			for form, c := range w.forms(c) {
				for i := range deeds(0, "") {
					n++
					d := deeds(n, c.me)[i]
					if c.me == "" && (!d.team || d.door != "") || d.door != "" && c.as == "" {
						continue
					}
					if d.before != nil {
						d.before(w)
					}
					if d.own {
						d.body = strings.Replace(d.body, `"name":"`, fmt.Sprintf(`"name":"t%d`, n), 1)
					}
					headers := slices.Clone(c.headers)
					if d.body != "" {
						headers = append(headers, "Content-Type", "application/json")
					}
					r := w.do(d.method, d.path, c.as, strings.NewReader(d.body), headers...)
					switch {
					case c.may(d) && r.StatusCode/100 != 2:
						t.Errorf("%s (%s) may do %q, but got %d %s", c.name, form, d.name, r.StatusCode, r.body)
					case !c.may(d) && (r.StatusCode != http.StatusForbidden || !strings.Contains(string(r.body), "the token you use")):
						t.Errorf("%s (%s) may not do %q, but got %d %s", c.name, form, d.name, r.StatusCode, r.body)
					case r.StatusCode/100 == 2:
						allowed++
					default:
						refused++
					}
				}
			}
		}
		t.Logf("%d allowed, %d refused", allowed, refused)
		if allowed < 300 || refused < 300 {
			t.Errorf("%d allowed, %d refused: the model asks too little", allowed, refused)
		}

		// What d.ims.io's API makes ends with the credential.
		for _, c := range credentials {
			if c.as == "" || c.me == "" || c.actions != auth.AllActions {
				continue
			}
			for form, c := range w.forms(c) {
				pair := get[map[string]string](t, w.do("POST", "/token", c.as, nil).want(t, http.StatusAccepted))["token"]
				raw, err := base64.StdEncoding.DecodeString(pair)
				if err != nil {
					t.Fatal(err)
				}
				user, password, _ := strings.Cut(string(raw), ":")
				var made metadata.Token
				w.update(func(ctx context.Context, tx *metadata.Tx) (err error) {
					made, _, err = tx.TokenBySecretHash(ctx, auth.PairHash(user, password))
					return err
				})
				if (made.ExpiresAt == nil) != c.ends.IsZero() || made.ExpiresAt != nil && made.ExpiresAt.After(c.ends.Add(15*time.Minute)) || (len(made.CIDRs) > 0) != c.network {
					t.Errorf("%s (%s): %+v", c.name, form, made)
				}
			}
		}
	})
}
