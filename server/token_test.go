package server

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"berth/auth"
	"berth/auth/token"
	"berth/metadata"
)

// answerOf reads the token endpoint's answer.
func answerOf(t *testing.T, r reply) (a tokenAnswer, access []token.Access) {
	t.Helper()
	r.want(t, http.StatusOK)
	if err := json.Unmarshal(r.body, &a); err != nil {
		t.Fatal(err)
	}
	if a.Token == "" || a.Token != a.AccessToken || a.ExpiresIn != 300 || r.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("answer: %v %s", r.Header, r.body)
	}
	if at, err := time.Parse(time.RFC3339, a.IssuedAt); err != nil || time.Since(at).Abs() > time.Minute {
		t.Errorf("issued_at %q: %v", a.IssuedAt, err)
	}
	payload, err := base64.RawURLEncoding.DecodeString(strings.Split(a.Token, ".")[1])
	if err != nil {
		t.Fatal(err)
	}
	var claims struct {
		Aud    any
		Access []token.Access
	}
	if err := json.Unmarshal(payload, &claims); err != nil {
		t.Fatal(err)
	}
	return a, claims.Access
}

// TestTokenGrants: what is granted is what was asked and is allowed. A missing
// right is left out and is no error.
func TestTokenGrants(t *testing.T) {
	w := small(t, nil)
	w.pushImage("mo", "team/app", "1.0")
	w.pushImage("mo", "team/open", "1.0")
	w.visibility("team/open", metadata.Public)
	w.token(metadata.Token{Kind: metadata.PersonalToken, Name: "pulls", User: "mia", Actions: []string{"pull"}, Repositories: "team/*"})
	w.token(metadata.Token{Kind: metadata.RobotToken, Name: "ci", Team: "team", Actions: []string{"pull", "push"}})
	grant := func(scope string) token.Access {
		parts := strings.Split(scope, ":")
		return token.Access{Type: parts[0], Name: parts[1], Actions: strings.Split(parts[2], ",")}
	}
	for _, tt := range []struct {
		as     string
		scopes []string
		want   []string
	}{
		{"mo", nil, nil},
		{"mo", []string{"repository:team/app:pull,push"}, []string{"repository:team/app:pull,push"}},
		{"mo", []string{"repository:team/app:push,pull"}, []string{"repository:team/app:pull,push"}},
		{"mo", []string{"repository:team/app:pull,push,delete"}, []string{"repository:team/app:pull,push"}},
		{"mo", []string{"repository:team/app:*"}, []string{"repository:team/app:pull,push"}},
		{"mia", []string{"repository:team/app:*"}, []string{"repository:team/app:pull,push,delete,admin"}},
		{"rita", []string{"repository:team/app:pull,push"}, []string{"repository:team/app:pull"}},
		{"rita", []string{"repository:team/app:push"}, nil},
		{"fred", []string{"repository:team/app:pull"}, nil},
		{"fred", []string{"repository:team/app:pull repository:other/x:push"}, []string{"repository:other/x:push"}},
		{"fred", []string{"repository:team/app:pull", "repository:other/x:pull,push", "repository:team/open:pull,push"}, []string{"repository:other/x:pull,push", "repository:team/open:pull"}},
		{"", []string{"repository:team/open:pull,push"}, []string{"repository:team/open:pull"}},
		{"", []string{"repository:team/app:pull"}, nil},
		{"", []string{"registry:catalog:*"}, []string{"registry:catalog:*"}},
		{"mo", []string{"registry:catalog:pull"}, nil},
		{"mo", []string{"berth:api:*"}, []string{"berth:api:*"}},
		{"", []string{"berth:api:*"}, nil},
		{"token:pulls", []string{"berth:api:*", "repository:team/app:pull,push,delete", "repository:other/x:pull"}, []string{"repository:team/app:pull"}},
		{"pulls-as-password", []string{"repository:team/app:pull,push"}, []string{"repository:team/app:pull"}},
		{"token:ci", []string{"repository:team/app:pull,push,delete"}, []string{"repository:team/app:pull,push"}},
		{"token:ci", []string{"repository:other/x:pull,push"}, nil},
		{"root", []string{"repository:other/x:delete"}, []string{"repository:other/x:delete"}},
		{"mo", []string{"repository:team/app:pull,fly"}, []string{"repository:team/app:pull"}},
		{"mo", []string{"nonsense", "repository:*:pull", "repository:team/app"}, nil},
	} {
		if tt.as == "pulls-as-password" { // any user name goes with a token
			w.accounts[tt.as] = w.accounts["pulls"]
		}
		q := url.Values{"service": {"registry.test"}, "scope": tt.scopes, "account": accountOf(tt.as), "client_id": {"docker"}, "offline_token": {"true"}}
		a, access := answerOf(t, w.do("GET", "/token?"+q.Encode(), tt.as, nil))
		want := []token.Access{}
		for _, scope := range tt.want {
			want = append(want, grant(scope))
		}
		if !reflect.DeepEqual(access, want) || a.Scope != strings.Join(tt.want, " ") {
			t.Errorf("%s asks %q: %v (%q), want %v", tt.as, tt.scopes, access, a.Scope, want)
		}
		if a.RefreshToken != "" {
			t.Errorf("a refresh token without being set to give one")
		}
	}
}

// accountOf is what docker sends as account: the user name that it shows, if any.
func accountOf(as string) []string {
	if as == "" || strings.Contains(as, ":") {
		return nil
	}
	return []string{as}
}

func TestTokenRefusals(t *testing.T) {
	w := small(t, nil)
	w.accounts["mo2"] = "x"
	w.accounts["nobody"] = "x"
	for _, name := range []string{"mo2", "nobody"} {
		r := w.do("GET", "/token?service=registry.test", name, nil).want(t, http.StatusUnauthorized)
		if r.code() != "UNAUTHORIZED" || !strings.HasPrefix(r.Header.Get("WWW-Authenticate"), "Basic ") {
			t.Errorf("%s: %v %s", name, r.Header, r.body)
		}
	}
	// An audience that is not ours, too many scopes, a bearer token for another one.
	w.do("GET", "/token?service=other.registry", "mo", nil).want(t, http.StatusBadRequest)
	q := url.Values{"scope": {strings.Repeat("repository:team/app:pull ", 1000)}}
	w.do("GET", "/token?"+q.Encode(), "mo", nil).want(t, http.StatusBadRequest)
	w.do("GET", "/token", w.jwt("mo"), nil).want(t, http.StatusUnauthorized)

	form := func(as string, kv ...string) reply {
		v := url.Values{}
		for i := 0; i < len(kv); i += 2 {
			v.Set(kv[i], kv[i+1])
		}
		return w.do("POST", "/token", as, strings.NewReader(v.Encode()), "Content-Type", "application/x-www-form-urlencoded")
	}
	form("", "grant_type", "password", "username", "mo", "password", "wrong").want(t, http.StatusUnauthorized)
	form("", "grant_type", "password").want(t, http.StatusUnauthorized)
	form("", "grant_type", "client_credentials").want(t, http.StatusBadRequest)
	form("mo", "scope", "x").want(t, http.StatusBadRequest)
	form("", "grant_type", "refresh_token", "refresh_token", "x").want(t, http.StatusUnauthorized)
	form("", "grant_type", "password", "username", "mo", "password", strings.Repeat("x", 100_000)).want(t, http.StatusBadRequest)
	w.do("POST", "/token", "", strings.NewReader(`{"grant_type":"password"}`), "Content-Type", "application/json").want(t, http.StatusBadRequest)
	// What is secret is not read from the query.
	w.do("POST", "/token?grant_type=password&username=mo&password=pw-mo", "", nil, "Content-Type", "application/x-www-form-urlencoded").want(t, http.StatusBadRequest)
}

// TestRefreshToken: a form with access_type=offline, as docker's OAuth2 flow
// has it; and the ends of a refresh token.
func TestRefreshToken(t *testing.T) {
	w := small(t, func(_ *world, o *Options) { o.OfflineTokens = true })
	w.token(metadata.Token{Kind: metadata.PersonalToken, Name: "pat", User: "mia", Actions: []string{"pull"}})
	post := func(v url.Values) reply {
		v.Set("service", "registry.test")
		return w.do("POST", "/token", "", strings.NewReader(v.Encode()), "Content-Type", "application/x-www-form-urlencoded")
	}
	sign := func(user, password string) string {
		a, _ := answerOf(t, post(url.Values{"grant_type": {"password"}, "username": {user}, "password": {password}, "access_type": {"offline"}, "scope": {"repository:team/app:pull,push"}}))
		if a.RefreshToken == "" || a.TokenType != "Bearer" {
			t.Fatalf("answer: %+v", a)
		}
		return a.RefreshToken
	}
	refresh := func(raw, scope string) reply {
		return post(url.Values{"grant_type": {"refresh_token"}, "refresh_token": {raw}, "scope": {scope}})
	}
	mo := sign("mo", "pw-mo")
	a, access := answerOf(t, refresh(mo, "repository:team/app:pull,push,delete"))
	if len(access) != 1 || strings.Join(access[0].Actions, ",") != "pull,push" || a.RefreshToken != "" {
		t.Errorf("refreshed: %+v %v", a, access)
	}
	// It opens nothing else, and an access token does not refresh.
	w.do("GET", "/v2/", "jwt:"+mo, nil).want(t, http.StatusUnauthorized)
	refresh(a.Token, "").want(t, http.StatusUnauthorized)

	// The limit of a token travels along (CVE-2025-68944).
	pat := sign("any", w.accounts["pat"])
	if _, access := answerOf(t, refresh(pat, "repository:team/app:pull,push,delete berth:api:*")); len(access) != 1 || strings.Join(access[0].Actions, ",") != "pull" {
		t.Errorf("of a token: %v", access)
	}
	w.update(func(ctx context.Context, tx *metadata.Tx) error { return tx.DeleteToken(ctx, "mia", "", "pat") })
	refresh(pat, "").want(t, http.StatusUnauthorized)

	// docker login asks with GET and offline_token.
	got, _ := answerOf(t, w.do("GET", "/token?service=registry.test&offline_token=true&account=mo", "mo", nil))
	if got.RefreshToken == "" {
		t.Error("no refresh token for offline_token")
	}
	if got, _ := answerOf(t, w.do("GET", "/token?service=registry.test&offline_token=true", "", nil)); got.RefreshToken != "" {
		t.Error("a refresh token for nobody")
	}

	// What changed since counts: rights, the password, the user.
	w.update(func(ctx context.Context, tx *metadata.Tx) error { return tx.RemoveMember(ctx, "team", "mo") })
	if _, access := answerOf(t, refresh(mo, "repository:team/app:pull,push")); len(access) != 0 {
		t.Errorf("after removal: %v", access)
	}
	hash, err := w.hasher.Hash(context.Background(), "new")
	if err != nil {
		t.Fatal(err)
	}
	w.update(func(ctx context.Context, tx *metadata.Tx) error {
		_, err := tx.UpdateUser(ctx, "mo", metadata.UserChange{PasswordHash: &hash})
		return err
	})
	if r := refresh(mo, "").want(t, http.StatusUnauthorized); !strings.Contains(string(r.body), "password was changed") {
		t.Errorf("after a new password: %s", r.body)
	}
	mo = sign("mo", "new")
	w.update(func(ctx context.Context, tx *metadata.Tx) error { return tx.DeleteUser(ctx, "mo") })
	refresh(mo, "").want(t, http.StatusUnauthorized)
	mia := sign("mia", "pw-mia")
	w.clock.forward(91 * 24 * time.Hour)
	refresh(mia, "").want(t, http.StatusUnauthorized)
}

// TestTokenOfAnotherService is cloudflare/serverless-registry#154: the audience
// is checked, so a token of the test registry does not open production.
func TestTokenOfAnotherService(t *testing.T) {
	w := small(t, nil)
	w.pushImage("mo", "team/app", "1.0")
	issuer, err := token.New(context.Background(), w.db, token.Options{}) // the same key
	if err != nil {
		t.Fatal(err)
	}
	access := []token.Access{{Type: "repository", Name: "team/app", Actions: []string{"pull"}}}
	mo := auth.Principal{Kind: auth.KindUser, ID: 1, Name: "mo"}
	for service, status := range map[string]int{"registry.test": 200, "test.registry": 401, "": 401} {
		raw, _, err := issuer.Issue(context.Background(), mo, service, access)
		if err != nil {
			t.Fatal(err)
		}
		w.do("GET", "/v2/team/app/tags/list", "jwt:"+raw, nil).want(t, status)
	}
}

func TestJWKS(t *testing.T) {
	w := small(t, nil)
	r := w.do("GET", "/.well-known/jwks.json", "", nil).want(t, http.StatusOK)
	var set token.JWKS
	if err := json.Unmarshal(r.body, &set); err != nil || len(set.Keys) != 1 || set.Keys[0].Curve != "P-256" || strings.Contains(string(r.body), `"d"`) {
		t.Errorf("JWKS: %s", r.body)
	}
}

// TestChallengeOfSettings: clients that know only Basic get that where the setting says so, and never both unless it
// says so. Who came with a bearer token is told of bearer tokens.
func TestChallengeOfSettings(t *testing.T) {
	const basic = `Basic realm="registry.test"`
	for _, tt := range []struct {
		setting string
		want    []string // what each challenge begins with
	}{
		{"", []string{"Bearer realm="}}, {ChallengeBearer, []string{"Bearer realm="}}, {ChallengeBasic, []string{basic}}, {ChallengeBoth, []string{"Bearer realm=", basic}},
	} {
		w := small(t, func(_ *world, o *Options) { o.Challenge = tt.setting })
		w.accounts["mo2"] = "wrong"
		got := func(path, as string) []string {
			return w.do("GET", path, as, nil).want(t, http.StatusUnauthorized).Header.Values("WWW-Authenticate")
		}
		same := func(got, want []string) bool {
			return slices.EqualFunc(got, want, strings.HasPrefix)
		}
		for _, path := range []string{"/v2/", "/v2", "/v2/team/app/tags/list", "/v2/_catalog"} {
			for _, as := range []string{"", "mo2"} {
				if c := got(path, as); !same(c, tt.want) {
					t.Errorf("%q: GET %s as %q is asked with %q", tt.setting, path, as, c)
				}
			}
		}
		for _, path := range []string{"/v2/team/app/tags/list", "/v2/_catalog"} {
			if c := got(path, w.jwt("mo")); !same(c, []string{"Bearer realm="}) {
				t.Errorf("%q: GET %s with a bearer token is asked with %q", tt.setting, path, c)
			}
		}
		w.do("GET", "/v2/", "mo", nil).want(t, http.StatusOK)
	}
}
