package oauth2_test

import (
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"berth/auth"
	"berth/auth/authtest"
	"berth/auth/oauth2"
	"berth/metadata"
	"berth/oci"
)

// provider plays the OAuth2 server and the team services as pierone.md 3.2 documents
// them, over HTTP.
type provider struct {
	*httptest.Server
	mu     sync.Mutex
	tokens map[string]map[string]any // token -> answer
	teams  map[string][]string       // uid -> teams
	apps   map[string]string         // application -> team
	broken http.HandlerFunc          // answers everything instead, when set
	only   string                    // path that broken is for; "" is all
	asked  map[string]int            // path -> calls
	last   *http.Request
	body   string
}

func newProvider(t *testing.T) *provider {
	p := &provider{tokens: map[string]map[string]any{}, teams: map[string][]string{}, apps: map[string]string{}, asked: map[string]int{}}
	p.Server = httptest.NewServer(p)
	t.Cleanup(func() { p.CloseClientConnections(); p.Close() })
	return p
}

func (p *provider) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	p.mu.Lock()
	p.asked[r.URL.Path]++
	p.last, p.body = r.Clone(context.Background()), string(body)
	broken, only := p.broken, p.only
	p.mu.Unlock()
	if broken != nil && (only == "" || strings.HasPrefix(r.URL.Path, only)) {
		broken(w, r)
		return
	}
	bearer, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	p.mu.Lock()
	defer p.mu.Unlock()
	answer := func(status int, v any) {
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(v)
	}
	switch path := r.URL.Path; {
	case path == "/tokeninfo":
		info, ok := p.tokens[r.URL.Query().Get("access_token")]
		if !ok {
			answer(http.StatusBadRequest, map[string]string{"error": "invalid_request"})
			return
		}
		answer(http.StatusOK, info)
	case path == "/introspect":
		if id, secret, ok := r.BasicAuth(); !ok || id != "berth%3A1" || secret != "s%2Fcret" { // RFC 6749, 2.3.1
			answer(http.StatusUnauthorized, map[string]string{"error": "invalid_client"})
			return
		}
		values := map[string]string{}
		for _, kv := range strings.Split(string(body), "&") {
			k, v, _ := strings.Cut(kv, "=")
			values[k] = v
		}
		info, ok := p.tokens[values["token"]]
		if !ok {
			info = map[string]any{"active": false}
		}
		answer(http.StatusOK, info)
	case p.tokens[bearer] == nil:
		answer(http.StatusUnauthorized, map[string]string{"message": "who are you"})
	case path == "/api/accounts/aws":
		list := []map[string]string{}
		for _, team := range p.teams[r.URL.Query().Get("member")] {
			list = append(list, map[string]string{"name": team, "id": "1"})
		}
		answer(http.StatusOK, list)
	case strings.HasPrefix(path, "/apps/"):
		team, ok := p.apps[strings.TrimPrefix(path, "/apps/")]
		if !ok {
			answer(http.StatusNotFound, map[string]string{})
			return
		}
		answer(http.StatusOK, map[string]string{"id": "x", "team_id": team})
	case path == "/auth":
		var q struct {
			Policy  string
			Payload struct{ Team string }
		}
		_ = json.Unmarshal(body, &q)
		uid, _ := p.tokens[bearer]["uid"].(string)
		for _, team := range p.teams[uid] {
			if q.Policy == "relaxed-radical-agility" && team == q.Payload.Team {
				answer(http.StatusOK, map[string]bool{"ok": true})
				return
			}
		}
		answer(http.StatusForbidden, map[string]string{})
	default:
		answer(http.StatusNotFound, map[string]string{})
	}
}

func (p *provider) token(token string, answer map[string]any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.tokens[token] = answer
}

func (p *provider) breakWith(only string, h http.HandlerFunc) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.broken, p.only = h, only
}

func (p *provider) calls(path string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.asked[path]
}

func (p *provider) request() (*http.Request, string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.last, p.body
}

func employee(uid string) map[string]any {
	return map[string]any{"uid": uid, "realm": "/employees", "scope": []string{"uid"}, "expires_in": 3600, "access_token": "…"}
}

// clock is a time that tests move.
type clock struct{ now atomic.Int64 }

func newClock() *clock {
	c := &clock{}
	c.now.Store(time.Now().UnixNano())
	return c
}

func (c *clock) Now() time.Time          { return time.Unix(0, c.now.Load()) }
func (c *clock) forward(d time.Duration) { c.now.Add(int64(d)) }

// world is an authenticator with its database and its provider.
type world struct {
	*provider
	*oauth2.Authenticator
	clock  *clock
	db     *metadata.DB
	policy *auth.Policy
}

func newWorld(t *testing.T, options func(p *provider, o *oauth2.Options)) *world {
	t.Helper()
	db, err := metadata.Open(t.Context(), metadata.Options{URL: "sqlite:" + filepath.Join(t.TempDir(), "berth.db")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	if _, err := db.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	w := &world{provider: newProvider(t), clock: newClock(), db: db}
	o := oauth2.Options{TokeninfoURL: w.URL + "/tokeninfo", Realms: true, Timeout: 10 * time.Second, Clock: w.clock.Now}
	if options != nil {
		options(w.provider, &o)
	}
	if w.Authenticator, err = oauth2.New(auth.NewDirectory(db, nil, nil), o); err != nil {
		t.Fatal(err)
	}
	w.policy = auth.NewPolicy(db, auth.PolicyOptions{Teams: w.Authenticator})
	return w
}

func (w *world) signIn(t *testing.T, token string) auth.Principal {
	t.Helper()
	p, err := w.Authenticate(t.Context(), auth.Credentials{Bearer: token})
	if err != nil {
		t.Fatalf("%s: %v", token, err)
	}
	return p
}

func (w *world) may(t *testing.T, p auth.Principal, repository string) auth.Actions {
	t.Helper()
	d, err := w.policy.Actions(t.Context(), p, repository)
	if err != nil {
		t.Fatal(err)
	}
	if d.Unsure != nil {
		t.Fatalf("%s on %s: unsure: %v", p, repository, d.Unsure)
	}
	return d.Actions
}

// internal makes a repository that everybody who is signed in may pull.
func (w *world) internal(t *testing.T, name string) {
	t.Helper()
	err := w.db.Update(t.Context(), func(tx *metadata.Tx) error {
		_, _, err := tx.EnsureRepository(t.Context(), name, metadata.Internal, "test")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestContract(t *testing.T) {
	secret, _ := auth.NewSecret(auth.PersonalPrefix)
	authtest.Test(t, func(t *testing.T) authtest.Fixture {
		w := newWorld(t, nil)
		w.token("good-token", employee("alice"))
		return authtest.Fixture{
			Authenticator: w.Authenticator,
			Good:          auth.Credentials{Username: "oauth2", Password: "good-token"},
			Who:           "alice",
			Wrong: []auth.Credentials{
				{Username: "oauth2", Password: "bad-token"},
				{Username: "oauth2", Password: ""},
				{Username: "oauth2", Password: "two words"},
				{Username: "oauth2", Password: "header\r\ninjection: 1"},
				{Username: "oauth2", Password: strings.Repeat("x", 1<<20)},
				{Bearer: "bad-token"},
				{Bearer: "a.b.c"},
			},
			Foreign: []auth.Credentials{
				{Username: "alice", Password: "good-token"}, {Username: "OAUTH2", Password: "good-token"},
				{Username: "oauth2", Password: secret}, {Bearer: secret}, {Bearer: "two words"},
			},
			Break: func() { w.provider.CloseClientConnections(); w.provider.Close() },
		}
	})
}

// All ways to show a token name the same user, in the header as in the password.
func TestForms(t *testing.T) {
	w := newWorld(t, nil)
	w.token("abc", employee("alice"))
	w.token("eyJhbGciOiJub25lIn0.eyJpc3MiOiJvdGhlciJ9.x", employee("alice")) // some servers' tokens are JWTs
	for _, c := range []auth.Credentials{
		{Bearer: "abc"}, {Username: "oauth2", Password: "abc"}, {Bearer: "eyJhbGciOiJub25lIn0.eyJpc3MiOiJvdGhlciJ9.x"},
	} {
		if p, err := w.Authenticate(t.Context(), c); err != nil || p.Name != "alice" || p.Kind != auth.KindUser || p.Claims["realm"] != "/employees" {
			t.Errorf("%v: %+v, %v", c, p, err)
		}
	}
	if r, _ := w.request(); r.Method != http.MethodGet || r.URL.Path != "/tokeninfo" || r.Header.Get("Authorization") != "" {
		t.Errorf("%s %s, Authorization %q", r.Method, r.URL.Path, r.Header.Get("Authorization"))
	}
}

// TestRealms is pierone.md 3.4: who may write where.
func TestRealms(t *testing.T) {
	w := newWorld(t, func(p *provider, o *oauth2.Options) { o.TeamServiceURL = p.URL })
	for _, uid := range []string{"alice", "stups_app", "carl"} {
		w.teams[uid] = []string{"core", "Not A Team", "a/b"}
	}
	w.internal(t, "core/app")
	w.internal(t, "other/app")
	push := auth.Pull | auth.Push
	for _, tt := range []struct {
		name, uid, realm string
		scope            any
		core, other      auth.Actions
	}{
		{"employee", "alice", "/employees", []string{"uid"}, push, auth.Pull},
		{"employee, realm without a slash", "alice", "employees", []string{"uid"}, push, auth.Pull},
		{"employee, no scope", "alice", "/employees", nil, push, auth.Pull},
		{"employee of no team", "bob", "/employees", []string{"uid", "application.write"}, auth.Pull, auth.Pull},
		{"employee, everywhere", "bob", "/employees", []string{"application.write_all"}, push, push},
		{"service", "stups_app", "/services", []string{"uid", "application.write"}, push, auth.Pull},
		{"service, realm without a slash, scope as words", "stups_app", "services", "uid application.write", push, auth.Pull},
		{"service without the scope", "stups_app", "/services", []string{"uid"}, auth.Pull, auth.Pull},
		{"service of no team", "stups_none", "/services", []string{"application.write"}, auth.Pull, auth.Pull},
		{"service, everywhere", "stups_none", "/services", []string{"application.write_all"}, push, push},
		{"service, everywhere, trusted", "stups_none", "/services", []string{"application.write_all_trusted"}, push, push},
		{"another realm", "carl", "/customers", []string{"uid", "application.write"}, auth.Pull, auth.Pull},
		{"no realm", "carl2", "", []string{"uid", "application.write"}, auth.Pull, auth.Pull},
		{"realm that only begins like one", "carl3", "/employees2", []string{"application.write"}, auth.Pull, auth.Pull},
		{"another scope that only begins like one", "stups_app", "/services", []string{"application.write_alles", "application.writer"}, auth.Pull, auth.Pull},
	} {
		token := strings.ReplaceAll(tt.name, " ", "-")
		answer := map[string]any{"uid": tt.uid, "realm": tt.realm, "expires_in": 60}
		if tt.scope != nil {
			answer["scope"] = tt.scope
		}
		w.token(token, answer)
		p := w.signIn(t, token)
		if core, other := w.may(t, p, "core/app"), w.may(t, p, "other/app"); core != tt.core || other != tt.other {
			t.Errorf("%s: core %s, other %s, want %s and %s", tt.name, core, other, tt.core, tt.other)
		}
		if p.IsAdmin() || p.MayManage() && strings.Contains(tt.realm, "services") {
			t.Errorf("%s: may administer", tt.name)
		}
	}
	// Rights come with the token: one that may write everywhere lends nothing to
	// another one of the same user.
	w.token("weak", map[string]any{"uid": "stups_none", "realm": "/services", "scope": []string{"uid"}})
	strong, weak := w.signIn(t, "service,-everywhere"), w.signIn(t, "weak")
	if strong.ID != weak.ID || w.may(t, strong, "other/app") != push || w.may(t, weak, "other/app") != auth.Pull {
		t.Errorf("strong %s, weak %s", w.may(t, strong, "other/app"), w.may(t, weak, "other/app"))
	}
	// The same name in another realm is somebody else, and does not get in under it.
	w.token("impostor", map[string]any{"uid": "alice", "realm": "/customers"})
	if p, err := w.Authenticate(t.Context(), auth.Credentials{Bearer: "impostor"}); !errors.Is(err, auth.ErrWrong) {
		t.Errorf("alice of another realm: %+v, %v", p, err)
	}
}

// Without any source of teams, nobody pushes: Pier One let every employee push
// everywhere then (pierone.md, surprise 1).
func TestNoTeamServiceIsNoTeam(t *testing.T) {
	w := newWorld(t, nil)
	w.internal(t, "core/app")
	w.token("a", employee("alice"))
	p := w.signIn(t, "a")
	if got := w.may(t, p, "core/app"); got != auth.Pull {
		t.Errorf("%s, want pull", got)
	}
	if got := w.may(t, p, "alice/app"); got != 0 {
		t.Errorf("%s, want nothing", got)
	}
}

// hostile are answers that decide nothing.
func hostile(t *testing.T, elsewhere string) map[string]http.HandlerFunc {
	good := `{"uid":"mallory","realm":"/employees","scope":["application.write_all"],"active":true,"username":"mallory","sub":"m"}`
	write := func(kind, body string, status int) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", kind)
			w.WriteHeader(status)
			_, _ = io.WriteString(w, body)
		}
	}
	return map[string]http.HandlerFunc{
		"hangs": func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
		"hangs in the body": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, good[:10])
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		},
		"redirects": func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, elsewhere, http.StatusFound) },
		"redirects to self": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, r.URL.Path, http.StatusTemporaryRedirect)
		},
		"HTML":             write("text/html", "<html>"+good+"</html>", 200),
		"JSON called HTML": write("text/html", good, 200),
		"no type":          write("", good, 200),
		"not JSON":         write("application/json", "uid=mallory", 200),
		"empty":            write("application/json", "", 200),
		"cut off":          write("application/json", good[:30], 200),
		"a list":           write("application/json", "["+good+`,"x"]`, 200),
		"null":             write("application/json", `"mallory"`, 200),
		"a name twice":     write("application/json", `{"uid":"alice",`+good[1:], 200),
		"two documents":    write("application/json", good+good, 200),
		"exp is a list":    write("application/json", `{"exp":[],`+good[1:], 200),
		"204":              write("application/json", "", 204),
		"206":              write("application/json", good, 206),
		"429":              write("application/json", good, 429),
		"408":              write("application/json", good, 408),
		"500":              write("application/json", good, 500),
		"502":              write("text/html", good, 502),
		"503":              write("application/json", good, 503),
		"100 MiB": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, `{"uid":"mallory","pad":"`)
			for range 100 {
				if _, err := io.WriteString(w, strings.Repeat("x", 1<<20)); err != nil {
					return // cut off, as it should be
				}
			}
			t.Error("100 MiB were read")
		},
		"a bomb": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("Content-Encoding", "gzip")
			z := gzip.NewWriter(w)
			_, _ = io.WriteString(z, good[:len(good)-1]+`,"pad":"`+strings.Repeat("x", 32<<20)+`"}`)
			_ = z.Close()
		},
		"closes": func(w http.ResponseWriter, _ *http.Request) {
			conn, _, err := http.NewResponseController(w).Hijack()
			if err == nil {
				conn.Close()
			}
		},
	}
}

// TestHostileServer: whatever else than a decided answer comes is "cannot say
// now". It ends inside its deadline, is not remembered, and tells no secret.
func TestHostileServer(t *testing.T) {
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("a redirect was followed") }))
	defer elsewhere.Close()
	for _, target := range []struct {
		name, path string
		options    func(p *provider, o *oauth2.Options)
	}{
		{"tokeninfo", "/tokeninfo", nil},
		{"introspection", "/introspect", introspection},
		{"team service", "/api/", func(p *provider, o *oauth2.Options) { o.TeamServiceURL = p.URL }},
		{"kio", "/apps/", func(p *provider, o *oauth2.Options) { o.KioURL, o.Realms = p.URL, false }},
	} {
		for name, answer := range hostile(t, elsewhere.URL) {
			if target.path != "/tokeninfo" && target.path != "/introspect" && name == "exp is a list" {
				continue // no expiry there
			}
			t.Run(target.name+"/"+name, func(t *testing.T) {
				w := newWorld(t, func(p *provider, o *oauth2.Options) {
					if target.options != nil {
						target.options(p, o)
					}
					o.Timeout = 10 * time.Second
					if strings.HasPrefix(name, "hangs") {
						o.Timeout = 150 * time.Millisecond
					}
				})
				w.token("the-secret-token", map[string]any{"uid": "alice", "realm": "/employees", "active": true, "username": "alice", "sub": "1"})
				w.breakWith(target.path, answer)
				c := auth.Credentials{Username: "oauth2", Password: "the-secret-token"}
				ofTeams := target.path == "/api/" || target.path == "/apps/"
				ask := func() (auth.Principal, error) {
					p, err := w.Authenticate(t.Context(), c)
					if !ofTeams || err != nil {
						return p, err
					}
					// These are asked when a decision depends on a team.
					d, err := w.policy.Action(t.Context(), p, "core/app", auth.Push)
					if err == nil && d.Unsure == nil {
						return p, nil
					}
					return auth.Anonymous(), errors.Join(err, d.Unsure)
				}
				p, err := ask()
				if !errors.Is(err, oci.ErrUnavailable) || errors.Is(err, auth.ErrWrong) || errors.Is(err, auth.ErrNotMine) || !p.IsAnonymous() {
					t.Fatalf("%+v, %v, want UNAVAILABLE", p, err)
				}
				authtest.NoSecret(t, err, c)
				w.breakWith("", nil)
				if p, err := ask(); err != nil || p.Name != "alice" {
					t.Errorf("after it was mended: %+v, %v", p, err)
				}
			})
		}
	}
}

// A server that hangs does not keep a client that hung up, nor the others.
func TestClientHangsUp(t *testing.T) {
	w := newWorld(t, nil)
	release := make(chan struct{})
	w.token("a", employee("alice"))
	w.breakWith("", func(rw http.ResponseWriter, r *http.Request) {
		<-release
		w.breakWith("", nil)
		w.ServeHTTP(rw, r)
	})
	ctx, cancel := context.WithCancel(t.Context())
	first := make(chan error, 1)
	go func() {
		_, err := w.Authenticate(ctx, auth.Credentials{Bearer: "a"})
		first <- err
	}()
	for w.calls("/tokeninfo") == 0 {
		time.Sleep(time.Millisecond)
	}
	second := make(chan error, 1)
	go func() {
		_, err := w.Authenticate(t.Context(), auth.Credentials{Bearer: "a"})
		second <- err
	}()
	cancel()
	if err := <-first; !errors.Is(err, context.Canceled) {
		t.Errorf("who hung up: %v", err)
	}
	close(release)
	if err := <-second; err != nil {
		t.Errorf("who waited: %v", err)
	}
}

// TestCache: pierone.md, works when 4. A token is asked about once in two minutes,
// less often never, and not longer than it lives.
func TestCache(t *testing.T) {
	w := newWorld(t, nil)
	w.token("long", employee("alice"))
	w.token("short", map[string]any{"uid": "bob", "realm": "/employees", "expires_in": 30})
	w.token("exp", map[string]any{"uid": "carl", "realm": "/employees", "exp": w.clock.Now().Add(30 * time.Second).Unix()})
	asked := 0
	ask := func(token string, calls int, want error) {
		t.Helper()
		_, err := w.Authenticate(t.Context(), auth.Credentials{Bearer: token})
		if !errors.Is(err, want) || want == nil && err != nil {
			t.Errorf("%s: %v, want %v", token, err, want)
		}
		if n := w.calls("/tokeninfo") - asked; n != calls {
			t.Errorf("%s: %d calls, want %d", token, n, calls)
		}
		asked = w.calls("/tokeninfo")
	}
	ask("long", 1, nil)
	ask("long", 0, nil)
	ask("short", 1, nil)
	ask("exp", 1, nil)
	ask("new", 1, auth.ErrWrong)
	ask("new", 0, auth.ErrWrong) // a retrying client does not hammer the server
	w.token("new", employee("dora"))
	w.clock.forward(6 * time.Second)
	ask("new", 1, nil) // and what was wrong is not wrong for long
	if p := w.signIn(t, "short"); p.Expires.Sub(w.clock.Now()) > 30*time.Second {
		t.Errorf("the principal lives until %s", p.Expires)
	}
	w.clock.forward(26 * time.Second)
	ask("long", 0, nil)
	ask("short", 1, nil) // the server still says expires_in 30
	w.token("exp", map[string]any{"uid": "carl", "realm": "/employees", "exp": w.clock.Now().Unix() - 1})
	ask("exp", 1, auth.ErrWrong)
	w.clock.forward(2 * time.Minute)
	ask("long", 1, nil)

	// A user who was disabled here is refused at once, also from the cache.
	disabled := true
	err := w.db.Update(t.Context(), func(tx *metadata.Tx) error {
		if _, err := tx.CreateUser(t.Context(), metadata.User{Name: "root", Role: metadata.RoleAdmin}); err != nil {
			return err
		}
		_, err := tx.UpdateUser(t.Context(), "alice", metadata.UserChange{Disabled: &disabled})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	ask("long", 0, auth.ErrWrong)
	// One who was deleted signs in anew.
	if err := w.db.Update(t.Context(), func(tx *metadata.Tx) error { return tx.DeleteUser(t.Context(), "alice") }); err != nil {
		t.Fatal(err)
	}
	ask("long", 1, nil)
	ask("long", 0, nil)
}

// A token that holds and names nobody is known and may not sign in: 403, not 401.
func TestTokenOfNobody(t *testing.T) {
	w := newWorld(t, nil)
	for token, answer := range map[string]map[string]any{
		"no-uid":    {"realm": "/employees", "scope": []string{"application.write_all"}},
		"empty-uid": {"uid": "", "realm": "/employees"},
		"null-uid":  {"uid": nil, "realm": "/employees"},
		"list-uid":  {"uid": []string{"alice"}, "realm": "/employees"},
	} {
		w.token(token, answer)
		p, err := w.Authenticate(t.Context(), auth.Credentials{Bearer: token})
		var e *oci.Error
		if !errors.As(err, &e) || e.Status() != http.StatusForbidden || !strings.Contains(e.Message, "Forbidden") || !p.IsAnonymous() {
			t.Errorf("%s: %+v, %v", token, p, err)
		}
	}
}

// Many clients with one token ask once.
func TestOneFlight(t *testing.T) {
	w := newWorld(t, nil)
	w.token("a", employee("alice"))
	release := make(chan struct{})
	w.breakWith("", func(rw http.ResponseWriter, r *http.Request) {
		<-release
		rw.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(rw).Encode(employee("alice"))
	})
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() { w.signIn(t, "a") })
	}
	for w.calls("/tokeninfo") == 0 {
		time.Sleep(time.Millisecond)
	}
	close(release)
	wg.Wait()
	if n := w.calls("/tokeninfo"); n > 2 { // one, or two when somebody came late
		t.Errorf("%d calls", n)
	}
}

// One address that floods with tokens while the server hangs leaves room for others.
func TestFlood(t *testing.T) {
	w := newWorld(t, nil)
	w.token("a", employee("alice"))
	w.breakWith("", func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("access_token") == "a" {
			rw.Header().Set("Content-Type", "application/json")
			_ = json.NewEncoder(rw).Encode(employee("alice"))
			return
		}
		<-r.Context().Done()
	})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var flood sync.WaitGroup
	for i := range 100 {
		flood.Go(func() {
			_, _ = w.Authenticate(ctx, auth.Credentials{Bearer: fmt.Sprint("guess", i), RemoteAddr: "192.0.2.1:1"})
		})
	}
	for w.calls("/tokeninfo") < 8 {
		time.Sleep(time.Millisecond)
	}
	if _, err := w.Authenticate(t.Context(), auth.Credentials{Bearer: "a", RemoteAddr: "192.0.2.2:1"}); err != nil {
		t.Errorf("another address: %v", err)
	}
	if n := w.calls("/tokeninfo"); n > 9 {
		t.Errorf("%d calls at a time, want 8 for the flooder", n)
	}
	cancel()
	flood.Wait()
}

func introspection(p *provider, o *oauth2.Options) {
	o.TokeninfoURL, o.IntrospectionURL = "", p.URL+"/introspect"
	o.ClientID, o.ClientSecret, o.Realms = "berth:1", "s/cret", false
}

// TestIntrospection is RFC 7662.
func TestIntrospection(t *testing.T) {
	w := newWorld(t, func(p *provider, o *oauth2.Options) {
		introspection(p, o)
		o.Audience, o.TeamClaim = "registry", "groups"
	})
	good := map[string]any{"active": true, "username": "alice", "sub": "1234", "aud": []string{"x", "registry"}, "groups": []string{"core"}, "client_id": "cli"}
	with := func(key string, value any) map[string]any {
		m := map[string]any{}
		for k, v := range good {
			m[k] = v
		}
		m[key] = value
		return m
	}
	w.token("good", good)
	p := w.signIn(t, "good")
	if got := w.may(t, p, "core/app"); p.Name != "alice" || got != auth.Pull|auth.Push || p.Limit != nil || p.Claims["client_id"] != "cli" {
		t.Errorf("%+v: %s", p, got)
	}
	r, body := w.request()
	if r.Method != http.MethodPost || r.Header.Get("Content-Type") != "application/x-www-form-urlencoded" || !strings.Contains(body, "token=good") || r.URL.RawQuery != "" {
		t.Errorf("%s %s %s", r.Method, r.URL, body)
	}
	for name, tt := range map[string]struct {
		answer map[string]any
		want   error
	}{
		"unknown":          {nil, auth.ErrWrong},
		"not-active":       {with("active", false), auth.ErrWrong},
		"active-as-text":   {with("active", "true"), oci.ErrUnavailable},
		"no-active":        {with("active", nil), oci.ErrUnavailable},
		"expired":          {with("exp", time.Now().Unix()-1), auth.ErrWrong},
		"not-yet":          {with("nbf", time.Now().Unix()+3600), auth.ErrWrong},
		"other-audience":   {with("aud", "elsewhere"), auth.ErrWrong},
		"no-audience":      {with("aud", nil), auth.ErrWrong},
		"no-name":          {with("username", nil), oci.ErrDenied},
		"no-subject":       {with("sub", nil), oci.ErrDenied},
		"a-name-of-robots": {with("username", "core+ci"), auth.ErrWrong},
	} {
		if tt.answer != nil {
			w.token(name, tt.answer)
		}
		if p, err := w.Authenticate(t.Context(), auth.Credentials{Bearer: name}); !errors.Is(err, tt.want) {
			t.Errorf("%s: %+v, %v, want %v", name, p, err, tt.want)
		}
	}
	// That our own client is refused is no fault of the token.
	w = newWorld(t, func(p *provider, o *oauth2.Options) { introspection(p, o); o.ClientSecret = "old" })
	if _, err := w.Authenticate(t.Context(), auth.Credentials{Bearer: "good"}); !errors.Is(err, oci.ErrUnavailable) {
		t.Errorf("with the wrong client secret: %v", err)
	}
}

// TestTeamService is the documented contract: all teams of a member, asked with the
// caller's token, believed for five minutes.
func TestTeamService(t *testing.T) {
	w := newWorld(t, func(p *provider, o *oauth2.Options) { o.TeamServiceURL = p.URL + "/" })
	w.teams["alice"] = []string{"core", "ops"}
	w.token("a", employee("alice"))
	p := w.signIn(t, "a")
	if got := w.may(t, p, "ops/app"); got != auth.Pull|auth.Push {
		t.Errorf("ops/app: %s", got)
	}
	if r, _ := w.request(); r.URL.String() != "/api/accounts/aws?member=alice" || r.Header.Get("Authorization") != "Bearer a" {
		t.Errorf("%s, Authorization %q", r.URL, r.Header.Get("Authorization"))
	}
	w.mu.Lock()
	w.teams["alice"] = []string{"core"}
	w.mu.Unlock()
	w.clock.forward(3 * time.Minute)
	p = w.signIn(t, "a")
	w.may(t, p, "ops/app")
	if n := w.calls("/api/accounts/aws"); n != 1 {
		t.Errorf("%d calls within five minutes", n)
	}
	w.clock.forward(3 * time.Minute)
	p = w.signIn(t, "a")
	if got := w.may(t, p, "ops/app"); got != 0 {
		t.Errorf("ops/app after the membership ended: %s", got)
	}
	// A name that would be more than a value is nobody's.
	w.token("odd", map[string]any{"uid": "x&member=alice", "realm": "/employees"})
	if p, err := w.Authenticate(t.Context(), auth.Credentials{Bearer: "odd"}); !errors.Is(err, auth.ErrWrong) {
		t.Errorf("%+v, %v", p, err)
	}
}

// TestTeamServiceIsAskedForTeamsOnly: what does not depend on a team goes on without the service that knows them, and
// nobody waits for it. One that refuses the question knows of no team; one that fails fails that push alone.
func TestTeamServiceIsAskedForTeamsOnly(t *testing.T) {
	for name, options := range map[string]func(p *provider, o *oauth2.Options){
		"accounts": func(p *provider, o *oauth2.Options) { o.TeamServiceURL = p.URL },
		"kio":      func(p *provider, o *oauth2.Options) { o.KioURL = p.URL },
		"policy":   func(p *provider, o *oauth2.Options) { o.PolicyURL = p.URL },
	} {
		for _, status := range []int{400, 401, 403, 404, 410, 429, 500, 503} {
			t.Run(fmt.Sprint(name, "/", status), func(t *testing.T) {
				w := newWorld(t, options)
				w.internal(t, "core/app")
				var asked atomic.Int64
				w.breakWith("", func(rw http.ResponseWriter, r *http.Request) {
					if r.URL.Path == "/tokeninfo" {
						w.mu.Lock()
						defer w.mu.Unlock()
						rw.Header().Set("Content-Type", "application/json")
						_ = json.NewEncoder(rw).Encode(w.tokens[r.URL.Query().Get("access_token")])
						return
					}
					asked.Add(1)
					rw.WriteHeader(status)
				})
				w.token("own", map[string]any{"uid": "stups_one", "realm": "/services", "scope": []string{"application.write"}})
				w.token("all", map[string]any{"uid": "stups_all", "realm": "/services", "scope": []string{"application.write_all"}})
				own, all := w.signIn(t, "own"), w.signIn(t, "all")
				for what, tt := range map[string]struct {
					p      auth.Principal
					action auth.Actions
				}{"a pull": {own, auth.Pull}, "a pull with write_all": {all, auth.Pull}, "a push with write_all": {all, auth.Push}} {
					if d, err := w.policy.Action(t.Context(), tt.p, "core/app", tt.action); err != nil || d.Unsure != nil || !d.Actions.Has(tt.action) {
						t.Errorf("%s: %+v, %v", what, d, err)
					}
				}
				if n := asked.Load(); n != 0 {
					t.Errorf("the service was asked %d times", n)
				}
				d, err := w.policy.Action(t.Context(), own, "core/app", auth.Push)
				if no := status < 500 && status != 429; err != nil || d.Actions != auth.Pull || no != (d.Unsure == nil) || !no && !errors.Is(d.Unsure, oci.ErrUnavailable) {
					t.Errorf("a push: %+v, %v", d, err)
				}
				if asked.Load() != 1 {
					t.Errorf("the service was asked %d times for a push", asked.Load())
				}
			})
		}
	}
}

// TestKio: the team of a service user is that of its application.
func TestKio(t *testing.T) {
	for name, tt := range map[string]struct {
		prefix, uid, app string
		member           bool
	}{
		"behind the last _":  {"", "stups_pier_one", "one", true},
		"without a _":        {"", "pierone", "pierone", true},
		"prefix":             {"stups_", "stups_pier_one", "pier_one", true},
		"another prefix":     {"stups_", "robot_one", "one", false},
		"unknown":            {"", "stups_two", "one", false},
		"the name is a path": {"", "stups_..", "one", false},
	} {
		w := newWorld(t, func(p *provider, o *oauth2.Options) {
			o.KioURL, o.KioPrefix, o.TeamServiceURL = p.URL, tt.prefix, p.URL
		})
		w.apps[tt.app] = "core"
		w.token("s", map[string]any{"uid": tt.uid, "realm": "/services", "scope": []string{"application.write"}})
		p := w.signIn(t, "s")
		if got := w.may(t, p, "core/app").Has(auth.Push); got != tt.member || w.calls("/api/accounts/aws") != 0 {
			t.Errorf("%s: push %t, want %t", name, got, tt.member)
		}
	}
}

// TestPolicyService: one question per team, when a decision needs it.
func TestPolicyService(t *testing.T) {
	w := newWorld(t, func(p *provider, o *oauth2.Options) { o.PolicyURL = p.URL })
	w.internal(t, "other/app")
	w.teams["alice"] = []string{"core"}
	w.token("a", employee("alice"))
	p := w.signIn(t, "a")
	if n := w.calls("/auth"); n != 0 || !p.AskTeams {
		t.Fatalf("%d questions at sign-in, AskTeams %t", n, p.AskTeams)
	}
	for range 3 {
		if got := w.may(t, p, "core/app"); got != auth.Pull|auth.Push {
			t.Errorf("core/app: %s", got)
		}
		if got := w.may(t, p, "other/app"); got != auth.Pull {
			t.Errorf("other/app: %s", got)
		}
	}
	r, body := w.request()
	if n := w.calls("/auth"); n != 2 || r.Method != http.MethodGet || body != `{"payload":{"team":"other"},"policy":"relaxed-radical-agility"}` && body != `{"policy":"relaxed-radical-agility","payload":{"team":"other"}}` {
		t.Errorf("%d questions, %s %s", n, r.Method, body)
	}
	if r.Header.Get("Authorization") != "Bearer a" {
		t.Errorf("Authorization %q", r.Header.Get("Authorization"))
	}
	// When it cannot say, what is certain counts, and the rest is no refusal.
	w.breakWith("/auth", func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(http.StatusInternalServerError) })
	d, err := w.policy.Actions(t.Context(), p, "ops/app")
	if err != nil || d.Actions != 0 || !errors.Is(d.Unsure, oci.ErrUnavailable) {
		t.Errorf("ops/app with the service down: %+v, %v", d, err)
	}
	// HTML with 200 is no yes.
	w.breakWith("/auth", func(rw http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(rw, "<html>sign in</html>") })
	if d, err := w.policy.Actions(t.Context(), p, "ops/app"); err != nil || d.Actions != 0 || !errors.Is(d.Unsure, oci.ErrUnavailable) {
		t.Errorf("ops/app with a page: %+v, %v", d, err)
	}
	w.breakWith("", nil)
	w.mu.Lock()
	w.teams["alice"] = []string{"ops"}
	w.mu.Unlock()
	if got := w.may(t, p, "ops/app"); got != auth.Pull|auth.Push { // nothing was remembered
		t.Errorf("ops/app after it was mended: %s", got)
	}
	// The answer ends; then the token has to be shown again.
	w.clock.forward(6 * time.Minute)
	if d, err := w.policy.Actions(t.Context(), p, "core/app"); err != nil || d.Actions != 0 || !errors.Is(d.Unsure, auth.ErrShowCredential) {
		t.Errorf("core/app without the token: %+v, %v", d, err)
	}
	p = w.signIn(t, "a")
	if got := w.may(t, p, "core/app"); got != 0 {
		t.Errorf("core/app after the membership ended: %s", got)
	}
}

func TestOptions(t *testing.T) {
	directory := auth.NewDirectory(nil, nil, nil)
	for name, o := range map[string]oauth2.Options{
		"nothing":     {},
		"both":        {TokeninfoURL: "https://a/t", IntrospectionURL: "https://a/i"},
		"plain":       {TokeninfoURL: "http://tokens.example.com/t"},
		"no host":     {TokeninfoURL: "https:///t"},
		"a user":      {TokeninfoURL: "https://u:p@a/t"},
		"plain teams": {TokeninfoURL: "https://a/t", TeamServiceURL: "http://teams.example.com"},
	} {
		if _, err := oauth2.New(directory, o); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	for _, u := range []string{"https://a/t", "http://localhost:9021/oauth2/tokeninfo", "http://127.0.0.1/t", "http://[::1]:1/t"} {
		if _, err := oauth2.New(directory, oauth2.Options{TokeninfoURL: u}); err != nil {
			t.Errorf("%s: %v", u, err)
		}
	}
}
