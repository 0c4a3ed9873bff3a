package server

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/opencontainers/go-digest"

	"berth/api"
	"berth/auth"
	"berth/metadata"
)

// dimsWorld is small with a team carbon: mia maintains it, mo is a member, rita reads.
func dimsWorld(t *testing.T) *world {
	w := small(t, nil)
	w.team("carbon", "mia=maintainer", "mo=member", "rita=reader")
	return w
}

// get reads a JSON answer.
func get[T any](t *testing.T, r reply) (v T) {
	t.Helper()
	if err := json.Unmarshal(r.body, &v); err != nil {
		t.Fatalf("%d %s: %v", r.StatusCode, r.body, err)
	}
	return v
}

// dimsError checks the form of an error: a JSON object with Error and nothing else.
func dimsError(t *testing.T, r reply, status int, says string) {
	t.Helper()
	var body map[string]string
	if err := json.Unmarshal(r.body, &body); err != nil || r.StatusCode != status || len(body) != 1 || body["Error"] == "" || !strings.Contains(body["Error"], says) || r.Header.Get("Content-Type") != "application/json" {
		t.Errorf("%s %s: %d %s %s, want %d and %q", r.Request.Method, r.Request.URL.Path, r.StatusCode, r.Header.Get("Content-Type"), r.body, status, says)
	}
	if challenge := r.Header.Get("WWW-Authenticate"); (status == 401) != (challenge == `Basic realm="registry.test"`) {
		t.Errorf("%s %s: %d with the challenge %q", r.Request.Method, r.Request.URL.Path, status, challenge)
	}
}

// pairOf makes a d.ims.io token and gives it, as base64.
func pairOf(t *testing.T, w *world, as string) string {
	t.Helper()
	r := w.do("POST", "/token", as, nil).want(t, http.StatusAccepted)
	pair := get[map[string]string](t, r)["token"]
	if r.Header.Get("Cache-Control") != "no-store" {
		t.Error("a proxy may keep the token")
	}
	return pair
}

// basic shows a pair as it is.
func (w *world) basic(method, path, pair string) reply {
	return w.do(method, path, "", nil, "Authorization", "Basic "+pair)
}

// TestDimsCheck1: a ping without credentials is a 401. The challenge is Bearer: docker
// and all others sign in at /token with the name and password that they have.
func TestDimsCheck1(t *testing.T) {
	w := dimsWorld(t)
	w.do("GET", "/v2/", "", nil).want(t, http.StatusUnauthorized)
	w.do("GET", "/v2/", "mo", nil).want(t, http.StatusOK)
	w.do("GET", "/token?service=registry.test", "mo", nil).want(t, http.StatusOK)
	w.accounts["mo"] = "wrong"
	w.do("GET", "/v2/", "mo", nil).want(t, http.StatusUnauthorized)
	for _, path := range []string{"/repository", "/repository/carbon", "/repository/carbon/redis", "/account", "/token/x"} {
		method := "GET"
		if path == "/token/x" {
			method = "DELETE"
		}
		dimsError(t, w.do(method, path, "", nil), 401, "sign-in")
		dimsError(t, w.do(method, path, "mo", nil), 401, "password is wrong")
	}
	dimsError(t, w.do("POST", "/token", "", nil), 401, "sign-in")
	dimsError(t, w.do("POST", "/token", w.jwt(""), nil), 401, "")
}

// TestDimsCheck2: a token is a pair that signs in everywhere, and POST /token is
// still OAuth2's for those who send a form.
func TestDimsCheck2(t *testing.T) {
	w := dimsWorld(t)
	pair := pairOf(t, w, "mo")
	raw, err := base64.StdEncoding.DecodeString(pair)
	if user, password, ok := strings.Cut(string(raw), ":"); err != nil || !ok || len(user) < 20 || len(password) < 20 || user == password {
		t.Fatalf("the token is %q, %v", raw, err)
	}
	if pairOf(t, w, "mo") == pair {
		t.Error("two tokens are the same")
	}
	for _, path := range []string{"/v2/", "/token?service=registry.test", "/repository", "/repository/"} {
		w.basic("GET", path, pair).want(t, http.StatusOK)
	}
	// It is a personal token like others, and makes others.
	var tokens []metadata.Token
	w.update(func(ctx context.Context, tx *metadata.Tx) (err error) {
		tokens, err = tx.Tokens(ctx, "mo", "", "", 10)
		return err
	})
	if len(tokens) != 2 || !strings.HasPrefix(tokens[0].Name, "dims-") || tokens[0].CreatedBy != "mo" {
		t.Errorf("%+v", tokens)
	}
	again := w.basic("POST", "/token", pair).want(t, http.StatusAccepted)
	w.basic("GET", "/v2/", get[map[string]string](t, again)["token"]).want(t, http.StatusOK)

	form := w.do("POST", "/token", "", strings.NewReader("grant_type=password&service=registry.test&username=mo&password=pw-mo"), "Content-Type", "application/x-www-form-urlencoded").want(t, http.StatusOK)
	if get[map[string]any](t, form)["access_token"] == "" {
		t.Errorf("%s", form.body)
	}
	w.do("POST", "/token", "mo", strings.NewReader(`{"a":1}`), "Content-Type", "application/json").want(t, http.StatusBadRequest)

	// The old server looked at no body, and at no slash at the end: what its clients send as nothing.
	for _, path := range []string{"/token", "/token/"} {
		for _, tt := range []struct {
			body    string
			headers []string
		}{
			{"", nil}, {"", []string{"Content-Length", "-1"}}, {"", []string{"Content-Type", "application/json"}},
			{"{}", []string{"Content-Type", "application/json"}}, {" {\n} ", []string{"Content-Length", "-1"}},
			{"{}", []string{"Content-Type", "application/x-www-form-urlencoded"}}, // curl -d '{}'
			{"", []string{"Content-Type", "application/x-www-form-urlencoded"}},   // curl -d ''
		} {
			r := w.do("POST", path, "mo", strings.NewReader(tt.body), tt.headers...).want(t, http.StatusAccepted)
			w.basic("GET", "/v2/", get[map[string]string](t, r)["token"]).want(t, http.StatusOK)
			dimsError(t, w.do("POST", path, "", strings.NewReader(tt.body), tt.headers...), 401, "sign-in")
		}
		w.do("GET", path+"?service=registry.test", "mo", nil).want(t, http.StatusOK)
	}
	w.do("POST", "/v2/token", "mo", strings.NewReader("{}"), "Content-Type", "application/json").want(t, http.StatusBadRequest)
	w.do("POST", "/v2/token", "mo", nil).want(t, http.StatusBadRequest)

	// What carries less than its owner has makes nothing that carries more; robots are nobody's.
	w.token(metadata.Token{Kind: metadata.PersonalToken, Name: "narrow", User: "mo", Actions: []string{"pull", "push", "admin"}, Repositories: "carbon/*"})
	w.token(metadata.Token{Kind: metadata.PersonalToken, Name: "pull-only", User: "mo", Actions: []string{"pull"}})
	w.token(metadata.Token{Kind: metadata.RobotToken, Name: "robot", Team: "carbon", Actions: auth.AllActions.Names()})
	for _, as := range []string{"token:narrow", "token:pull-only", "token:robot"} {
		dimsError(t, w.do("POST", "/token", as, nil), 403, "")
		dimsError(t, w.do("DELETE", "/token/"+pair, as, nil), 403, "")
	}
	// A bearer token of the protocol is for images.
	dimsError(t, w.do("POST", "/token", w.jwt("mo", "repository:carbon/redis:pull"), nil), 401, "berth:api:*")
	w.do("POST", "/token", w.jwt("mo", "berth:api:*"), nil).want(t, http.StatusAccepted)
}

// TestDimsCheck3: a deleted token is refused at once.
func TestDimsCheck3(t *testing.T) {
	w := dimsWorld(t)
	pair, second, foreign := pairOf(t, w, "mo"), pairOf(t, w, "mo"), pairOf(t, w, "fred")
	r := w.do("DELETE", "/token/"+pair, "mo", nil).want(t, http.StatusOK)
	if string(r.body) != "Successfully deleted token" || !strings.HasPrefix(r.Header.Get("Content-Type"), "text/plain") {
		t.Errorf("%s", r.body)
	}
	w.basic("GET", "/v2/", pair).want(t, http.StatusUnauthorized)
	dimsError(t, w.basic("GET", "/repository", pair), 401, "")
	dimsError(t, w.do("DELETE", "/token/"+pair, "mo", nil), 404, "no such token")

	// With itself, and by an administrator; not by somebody else.
	dimsError(t, w.do("DELETE", "/token/"+foreign, "mo", nil), 403, "somebody else's")
	w.basic("GET", "/v2/", foreign).want(t, http.StatusOK)
	w.do("DELETE", "/token/"+foreign, "root", nil).want(t, http.StatusOK)
	w.basic("DELETE", "/token/"+strings.ReplaceAll(second, "=", "%3D"), second).want(t, http.StatusOK)
	w.basic("GET", "/v2/", second).want(t, http.StatusUnauthorized)
	for _, none := range []string{"x", "%20", "YQ==", "YTpi", strings.Repeat("YTpi", 4000)} {
		dimsError(t, w.do("DELETE", "/token/"+none, "mo", nil), 404, "no such token")
	}
}

// TestDimsCheck4: the pair of the old system, stored by its hash, goes on working.
func TestDimsCheck4(t *testing.T) {
	w := dimsWorld(t)
	w.update(func(ctx context.Context, tx *metadata.Tx) error {
		_, err := tx.CreateToken(ctx, metadata.Token{Kind: metadata.PersonalToken, Name: "imported", User: "mo", Repositories: "*", Actions: auth.AllActions.Names(), CreatedBy: "import"},
			auth.PairHash("xvlbzgbaicmrajwwhthc", "tcuaxhxkqfdafplsjfbc"))
		return err
	})
	old := base64.StdEncoding.EncodeToString([]byte("xvlbzgbaicmrajwwhthc:tcuaxhxkqfdafplsjfbc"))
	w.basic("GET", "/repository/carbon", old).want(t, http.StatusOK)
	w.basic("DELETE", "/token/"+old, old).want(t, http.StatusOK)
	w.basic("GET", "/repository/carbon", old).want(t, http.StatusUnauthorized)
}

// TestDimsCheck5 makes and lists repositories.
func TestDimsCheck5(t *testing.T) {
	w := dimsWorld(t)
	made := w.do("POST", "/repository/carbon", "mo", strings.NewReader(`{"name":"redis","more":1}`)).want(t, http.StatusAccepted)
	if string(made.body) != `{"owner":"carbon","name":"redis"}` {
		t.Errorf("%s", made.body)
	}
	w.pushImage("mo", "carbon/deep/er", "1")
	w.pushImage("fred", "other/secret", "1")
	for _, tt := range []struct{ path, as, want string }{
		{"/repository", "mo", `{"repositories":["carbon/deep/er","carbon/redis"]}`},
		{"/repository/", "mo", `{"repositories":["carbon/deep/er","carbon/redis"]}`},
		{"/repository/carbon", "mo", `{"repositories":["deep/er","redis"]}`},
		{"/repository/carbon", "fred", `{"repositories":[]}`},
		{"/repository/carb", "mo", `{"repositories":[]}`},
		{"/repository/nobody", "mo", `{"repositories":[]}`},
		{"/repository", "root", `{"repositories":["carbon/deep/er","carbon/redis","other/secret"]}`},
	} {
		if r := w.do("GET", tt.path, tt.as, nil).want(t, http.StatusOK); string(r.body) != tt.want {
			t.Errorf("%s as %s: %s, want %s", tt.path, tt.as, r.body, tt.want)
		}
	}
	r := w.do("GET", "/repository/carbon/redis", "rita", nil).want(t, http.StatusOK)
	facts := get[map[string]string](t, r)
	if _, err := time.Parse(time.RFC3339, facts["created_at"]); err != nil || facts["owner"] != "carbon" || facts["name"] != "redis" || len(facts) != 3 {
		t.Errorf("%s", r.body)
	}

	// More than a page, and the order of pages.
	w.update(func(ctx context.Context, tx *metadata.Tx) error {
		for i := range 2*1000 + 1 {
			if _, _, err := tx.EnsureRepository(ctx, fmt.Sprintf("carbon/r%04d", i), metadata.Private, "mo"); err != nil {
				return err
			}
		}
		return nil
	})
	all := get[map[string][]string](t, w.do("GET", "/repository/carbon", "mo", nil).want(t, http.StatusOK))["repositories"]
	if len(all) != 2*1000+3 || !slices.IsSorted(all) || all[1] != "r0000" {
		t.Errorf("%d repositories: %v ...", len(all), all[:4])
	}
}

// TestDimsCheck6: what is no repository's name.
func TestDimsCheck6(t *testing.T) {
	w := dimsWorld(t)
	for _, body := range []string{`{"name":"a/b"}`, `{"name":""}`, `{"name":`, ``, `{}`, `[]`, `"x"`, `{"name":1}`, `{"name":null}`, `{"name":"UPPER"}`, `{"name":".."}`, `{"name":"a%2fb"}`, `{"name":"a\u0000"}`,
		`{"name":"` + strings.Repeat("a", 300) + `"}`, `{"name":"` + strings.Repeat("a", 64<<10) + `"}`} {
		dimsError(t, w.do("POST", "/repository/carbon", "mo", strings.NewReader(body)), 400, "")
	}
	for _, path := range []string{"/repository/CARBON", "/repository/%2e%2e", "/repository/carbon/..", "/repository/carbon/UPPER", "/repository/carbon/%00", "/repository/carbon/redis/image/-x"} {
		dimsError(t, w.do("GET", path, "root", nil), 400, "")
	}
}

// TestDimsCheck7: what is pushed is listed, with digest, size and time.
func TestDimsCheck7(t *testing.T) {
	w := dimsWorld(t)
	config, layer := []byte("{}"), bytes.Repeat([]byte("x"), 1_500_000)
	w.pushBlob("mo", "carbon/redis", config)
	w.pushBlob("mo", "carbon/redis", layer)
	raw := image(config, layer, "")
	w.do("PUT", "/v2/carbon/redis/manifests/1", "mo", bytes.NewReader(raw), "Content-Type", imageManifest).want(t, http.StatusCreated)
	small, _ := w.pushImage("mo", "carbon/redis", "2")
	index := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{"mediaType":%q,"digest":%q,"size":%d},{"mediaType":%q,"digest":%q,"size":%d}]}`,
		imageManifest, digest.FromBytes(raw), len(raw), imageManifest, small, len(image(config, []byte("layer of carbon/redis"), "")))
	w.do("PUT", "/v2/carbon/redis/manifests/multi", "mo", bytes.NewReader(index), "Content-Type", "application/vnd.oci.image.index.v1+json").want(t, http.StatusCreated)

	if r := w.do("GET", "/repository/carbon/redis/image", "rita", nil).want(t, http.StatusOK); string(r.body) != `{"images":["1","2","multi"]}` {
		t.Errorf("%s", r.body)
	}
	for tag, want := range map[string][2]string{
		"1":     {digest.FromBytes(raw).String(), "1.500002MB"},
		"2":     {small.String(), "0.000023MB"}, // "{}" and "layer of carbon/redis"
		"multi": {digest.FromBytes(index).String(), "1.500002MB"},
	} {
		facts := get[map[string]string](t, w.do("GET", "/repository/carbon/redis/image/"+tag, "rita", nil).want(t, http.StatusOK))
		at, err := time.Parse(time.RFC3339, facts["pushed_at"])
		if err != nil || time.Since(at).Abs() > time.Hour || facts["digest"] != want[0] || facts["size"] != want[1] || len(facts) != 3 {
			t.Errorf("%s: %v, want %v", tag, facts, want)
		}
	}
}

// TestDimsCheck8: deleting obeys the rights of the team and the policy of tags.
func TestDimsCheck8(t *testing.T) {
	w := dimsWorld(t)
	w.pushImage("mo", "carbon/redis", "1")
	w.pushImage("mo", "carbon/redis", "2")
	dimsError(t, w.do("DELETE", "/repository/carbon/redis/image/1", "mo", nil), 403, "mia")
	r := w.do("DELETE", "/repository/carbon/redis/image/1", "mia", nil).want(t, http.StatusOK)
	if get[string](t, r) != "Image 'carbon/redis:1' successfully deleted." {
		t.Errorf("%s", r.body)
	}
	w.do("GET", "/v2/carbon/redis/manifests/1", "mo", nil).want(t, http.StatusNotFound)

	w.pushImage("mo", "carbon/sealed", "1")
	w.update(func(ctx context.Context, tx *metadata.Tx) error {
		return tx.SetRepositoryTagPolicy(ctx, "carbon/sealed", &metadata.TagPolicy{Mode: metadata.Sealed})
	})
	for _, path := range []string{"/repository/carbon/sealed/image/1", "/repository/carbon/sealed"} {
		for _, as := range []string{"mia", "root"} {
			if r := w.do("DELETE", path, as, nil); r.StatusCode < 400 || r.StatusCode >= 500 {
				t.Errorf("%s as %s: %d %s", path, as, r.StatusCode, r.body)
			}
		}
	}
	dimsError(t, w.do("DELETE", "/repository/carbon/redis", "mo", nil), 403, "mia")
	if r := w.do("DELETE", "/repository/carbon/redis", "mia", nil).want(t, http.StatusOK); string(r.body) != "Successfully deleted repository" {
		t.Errorf("%s", r.body)
	}
	w.do("GET", "/v2/carbon/redis/manifests/2", "mo", nil).want(t, http.StatusNotFound)
}

// TestDimsQuota: a repository that is made here counts against the team's quota.
func TestDimsQuota(t *testing.T) {
	w := dimsWorld(t)
	one := int64(1)
	w.update(func(ctx context.Context, tx *metadata.Tx) error {
		return tx.SetQuota(ctx, "carbon", metadata.Limits{Repositories: &one}, "root")
	})
	if _, err := w.registry.FoldQuotas(t.Context()); err != nil {
		t.Fatal(err)
	}
	create := func(name string) reply {
		return w.do("POST", "/repository/carbon", "mo", strings.NewReader(`{"name":"`+name+`"}`))
	}
	create("one").want(t, http.StatusAccepted)
	for _, name := range []string{"two", "three", "four"} {
		dimsError(t, create(name), 403, "1 of at most 1 repositories")
	}
	dimsError(t, create("one"), 409, "exists already")
	if r := w.do("GET", "/repository/carbon", "mo", nil); string(r.body) != `{"repositories":["one"]}` {
		t.Errorf("%s", r.body)
	}
}

// TestDimsLookIsNoPull: what a program asks about an image does not keep it from retention.
func TestDimsLookIsNoPull(t *testing.T) {
	w := dimsWorld(t)
	w.pushImage("mo", "carbon/redis", "1")
	for _, path := range []string{"/repository/carbon/redis/image/1", "/repository/carbon/redis/image", "/repository/carbon/redis"} {
		w.do("GET", path, "rita", nil).want(t, http.StatusOK)
	}
	if n, err := w.registry.RecordPulls(t.Context()); n != 0 || err != nil {
		t.Errorf("%d pulls, %v", n, err)
	}
	w.do("GET", "/v2/carbon/redis/manifests/1", "rita", nil).want(t, http.StatusOK)
	if n, err := w.registry.RecordPulls(t.Context()); n != 1 || err != nil {
		t.Errorf("%d pulls, %v", n, err)
	}
}

// TestDimsDeletesTheImage: with its last tag, as ECR did; and it can be restored.
func TestDimsDeletesTheImage(t *testing.T) {
	w := dimsWorld(t)
	d, _ := w.pushImage("mo", "carbon/redis", "1")
	w.pushImage("mo", "carbon/redis", "2")
	byDigest := "/v2/carbon/redis/manifests/" + d.String()
	w.do("DELETE", "/repository/carbon/redis/image/1", "mia", nil).want(t, http.StatusOK)
	w.do("GET", byDigest, "mo", nil).want(t, http.StatusOK)
	w.do("DELETE", "/repository/carbon/redis/image/2", "mia", nil).want(t, http.StatusOK)
	w.do("GET", byDigest, "mo", nil).want(t, http.StatusNotFound)
	if r, err := w.registry.Restore(t.Context(), auth.Operator("mia"), "carbon/redis", "2", ""); err != nil || r.Digest != d || !r.Manifest {
		t.Errorf("%+v, %v", r, err)
	}
	w.do("GET", byDigest, "mo", nil).want(t, http.StatusOK)
}

// TestDimsCheck9: what is not there, and what is there already; methods that are none.
func TestDimsCheck9(t *testing.T) {
	w := dimsWorld(t)
	w.pushImage("mo", "carbon/redis", "1")
	for _, tt := range []struct{ method, path string }{
		{"GET", "/repository/carbon/none"}, {"DELETE", "/repository/carbon/none"}, {"GET", "/repository/carbon/none/image"}, {"GET", "/repository/carbon/none/image/1"},
		{"GET", "/repository/carbon%2Fredis"}, {"GET", "/repository/carbon/redis/image/none"}, {"DELETE", "/repository/carbon/redis/image/none"}, {"GET", "/repository/carbon/redis/nothing"},
	} {
		dimsError(t, w.do(tt.method, tt.path, "root", nil), 404, "")
	}
	dimsError(t, w.do("POST", "/repository/carbon", "mo", strings.NewReader(`{"name":"redis"}`)), 409, "exists already")
	// Who may not push learns nothing of what exists.
	for _, name := range []string{"redis", "none"} {
		dimsError(t, w.do("POST", "/repository/carbon", "fred", strings.NewReader(`{"name":"`+name+`"}`)), 403, "fred")
		dimsError(t, w.do("GET", "/repository/carbon/"+name, "fred", nil), 403, "fred")
	}
	for _, tt := range []struct{ method, path, allow string }{
		{"PUT", "/repository", "GET"}, {"PATCH", "/repository/carbon", "GET, POST"}, {"POST", "/repository/carbon/redis", "DELETE, GET"},
		{"HEAD", "/repository/carbon/redis/image", "GET"}, {"PUT", "/repository/carbon/redis/image/1", "DELETE, GET"},
		{"PUT", "/account", "GET, POST"}, {"GET", "/account/123456789012", "DELETE"}, {"GET", "/token/x", "DELETE"}, {"OPTIONS", "/repository", "GET"},
	} {
		r := w.do(tt.method, tt.path, "root", nil, "Origin", "https://elsewhere.example")
		if r.StatusCode != 405 || r.Header.Get("Allow") != tt.allow || r.Header.Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("%s %s: %d, Allow %q", tt.method, tt.path, r.StatusCode, r.Header.Get("Allow"))
		}
	}
}

// TestDimsAccounts is check 10 as far as it is about this API.
func TestDimsAccounts(t *testing.T) {
	w := dimsWorld(t)
	body := func() *strings.Reader { return strings.NewReader(`{"account":"123456789012"}`) }
	for _, as := range []string{"mo", "mia"} {
		dimsError(t, w.do("GET", "/account", as, nil), 403, "admin")
		dimsError(t, w.do("POST", "/account", as, body()), 403, "admin")
		dimsError(t, w.do("DELETE", "/account/123456789012", as, nil), 403, "admin")
	}
	w.update(func(ctx context.Context, tx *metadata.Tx) error {
		if _, err := tx.PutAccount(ctx, metadata.Account{Account: "210987654321", Repositories: "base/*", Actions: []string{"pull"}, CreatedBy: "root"}); err != nil {
			return err
		}
		_, err := tx.PutAccount(ctx, metadata.Account{Account: "333333333333", Role: "ci", Repositories: "*", Actions: []string{"pull"}, CreatedBy: "root"})
		return err
	})
	for range 2 {
		if r := w.do("POST", "/account", "root", body()).want(t, http.StatusNoContent); len(r.body) != 0 {
			t.Errorf("%s", r.body)
		}
	}
	// What an account may is not widened by the old API.
	w.do("POST", "/account", "root", strings.NewReader(`{"account":"210987654321"}`)).want(t, http.StatusNoContent)
	w.update(func(ctx context.Context, tx *metadata.Tx) error {
		rows, err := tx.AccountRoles(ctx, "210987654321")
		if len(rows) != 1 || rows[0].Repositories != "base/*" {
			t.Errorf("%+v", rows)
		}
		return err
	})
	if r := w.do("GET", "/account", "root", nil).want(t, http.StatusOK); string(r.body) != `{"accounts":["123456789012","210987654321"]}` {
		t.Errorf("%s", r.body)
	}
	for _, bad := range []string{`{"account":""}`, `{"account":"123"}`, `{"account":"12345678901x"}`, `{`, ``, `{"account":123456789012}`} {
		dimsError(t, w.do("POST", "/account", "root", strings.NewReader(bad)), 400, "")
	}
	w.do("DELETE", "/account/123456789012", "root", nil).want(t, http.StatusNoContent)
	dimsError(t, w.do("DELETE", "/account/123456789012", "root", nil), 404, "123456789012")
	dimsError(t, w.do("DELETE", "/account/x", "root", nil), 404, "")
	if r := w.do("GET", "/account/", "root", nil).want(t, http.StatusOK); string(r.body) != `{"accounts":["210987654321"]}` {
		t.Errorf("%s", r.body)
	}
	w.do("DELETE", "/account/210987654321", "root", nil).want(t, http.StatusNoContent)
	if r := w.do("GET", "/account", "root", nil).want(t, http.StatusOK); string(r.body) != `{"accounts":[]}` {
		t.Errorf("%s", r.body)
	}
}

// TestDimsCheck16: with the one who checks passwords down, what was made before goes
// on, new sign-ins are a 503 and not "wrong"; and a wrong password is not remembered.
func TestDimsCheck16(t *testing.T) {
	down := false
	w := newWorld(t, func(w *world, o *Options) {
		o.Auth = auth.NewChain(w.clock.now, auth.NewTokens(w.db, nil, w.clock.now), authFunc(func(ctx context.Context, c auth.Credentials) (auth.Principal, error) {
			if down {
				return auth.Principal{}, fmt.Errorf("the directory does not answer")
			}
			return auth.NewPasswords(w.db, w.hasher, w.clock.now).Authenticate(ctx, c)
		}))
	})
	w.user("mo", metadata.RoleUser)
	pair := pairOf(t, w, "mo")
	down = true
	w.basic("GET", "/repository", pair).want(t, http.StatusOK)
	dimsError(t, w.do("GET", "/repository", "mo", nil), 503, "")
	if r := w.do("GET", "/token", "mo", nil); r.StatusCode != 503 || r.Header.Get("Retry-After") == "" {
		t.Errorf("%d %s", r.StatusCode, r.body)
	}
	down = false
	w.do("GET", "/repository", "mo", nil).want(t, http.StatusOK)
	right := w.accounts["mo"]
	w.accounts["mo"] = "wrong"
	dimsError(t, w.do("GET", "/repository", "mo", nil), 401, "")
	w.accounts["mo"] = right
	w.do("GET", "/repository", "mo", nil).want(t, http.StatusOK)
	w.accounts["mo"] = "wrong"
	dimsError(t, w.do("GET", "/repository", "mo", nil), 401, "")
}

// authFunc is an authenticator that is a function.
type authFunc func(context.Context, auth.Credentials) (auth.Principal, error)

func (f authFunc) Authenticate(ctx context.Context, c auth.Credentials) (auth.Principal, error) {
	return f(ctx, c)
}

// TestDimsCheck17: who is outside of the team may neither push nor delete, nor touch
// somebody else's token.
func TestDimsCheck17(t *testing.T) {
	w := dimsWorld(t)
	w.pushImage("mo", "carbon/redis", "1")
	fred, mo := pairOf(t, w, "fred"), pairOf(t, w, "mo")
	for _, as := range []string{"fred", "basic"} {
		do := func(method, path string) reply {
			if as == "basic" {
				return w.basic(method, path, fred)
			}
			return w.do(method, path, as, nil)
		}
		do("POST", "/v2/carbon/redis/blobs/uploads/").want(t, http.StatusForbidden)
		for _, tt := range []struct{ method, path string }{
			{"DELETE", "/repository/carbon/redis"}, {"DELETE", "/repository/carbon/redis/image/1"}, {"GET", "/repository/carbon/redis/image"}, {"DELETE", "/token/" + mo}, {"GET", "/account"},
		} {
			dimsError(t, do(tt.method, tt.path), 403, "")
		}
	}
	// A pull token pulls, and no more; a right that is taken away ends at once.
	w.token(metadata.Token{Kind: metadata.PersonalToken, Name: "pull-only", User: "mia", Actions: []string{"pull"}})
	w.do("GET", "/repository/carbon/redis/image", "token:pull-only", nil).want(t, http.StatusOK)
	w.token(metadata.Token{Kind: metadata.PersonalToken, Name: "tag-limited", User: "mia", Actions: auth.AllActions.Names(), Tags: "v*"})
	dimsError(t, w.do("DELETE", "/repository/carbon/redis/image/1", "token:tag-limited", nil), 403, "")
	dimsError(t, w.do("DELETE", "/repository/carbon/redis/image/1", "token:pull-only", nil), 403, "")
	w.update(func(ctx context.Context, tx *metadata.Tx) error { return tx.RemoveMember(ctx, "carbon", "mo") })
	dimsError(t, w.basic("GET", "/repository/carbon/redis", mo), 403, "")
}

// TestDimsAudit: every change leaves a line, without the secret.
func TestDimsAudit(t *testing.T) {
	w := dimsWorld(t)
	pair := pairOf(t, w, "root")
	w.do("POST", "/repository/carbon", "root", strings.NewReader(`{"name":"redis"}`)).want(t, http.StatusAccepted)
	w.do("DELETE", "/repository/carbon/redis", "root", nil).want(t, http.StatusOK)
	w.do("POST", "/account", "root", strings.NewReader(`{"account":"123456789012"}`)).want(t, http.StatusNoContent)
	w.do("DELETE", "/account/123456789012", "root", nil).want(t, http.StatusNoContent)
	w.do("DELETE", "/token/"+pair, "root", nil).want(t, http.StatusOK)
	raw, _ := base64.StdEncoding.DecodeString(pair)
	user, password, _ := strings.Cut(string(raw), ":")
	var actions []string
	w.update(func(ctx context.Context, tx *metadata.Tx) error {
		events, err := tx.AuditEvents(ctx, metadata.AuditFilter{Limit: 100})
		for _, e := range events {
			if e.Outcome == metadata.AuditOK && e.Actor.Name == "root" && e.Action != "signIn" {
				actions = append(actions, e.Action)
			}
			if text := fmt.Sprintf("%+v", e); strings.Contains(text, user) || strings.Contains(text, password) || strings.Contains(text, pair) {
				t.Errorf("the audit log has the secret: %s", text)
			}
		}
		return err
	})
	slices.Sort(actions)
	if want := []string{"createRepository", "createToken", "deleteAccount", "deleteRepository", "deleteToken", "putAccount"}; !slices.Equal(actions, want) {
		t.Errorf("the audit log tells of %v, want %v", actions, want)
	}
	if log := w.log.String(); strings.Contains(log, password) || strings.Contains(log, pair) {
		t.Error("the log has the secret")
	}
}

// TestDimsCheck15: GET / leads to the API's page, for programs; and its document is a
// valid one, has every route, and every status that an operation answers.
func TestDimsCheck15(t *testing.T) {
	spec, err := openapi3.NewLoader().LoadFromData(api.DimsYAML())
	if err != nil {
		t.Fatal(err)
	}
	if err := spec.Validate(t.Context()); err != nil {
		t.Fatal(err)
	}
	down := false
	w := newWorld(t, func(w *world, o *Options) {
		o.Start = "/api/"
		next := o.Auth
		o.Auth = authFunc(func(ctx context.Context, c auth.Credentials) (auth.Principal, error) {
			if down {
				return auth.Principal{}, errors.New("down")
			}
			return next.Authenticate(ctx, c)
		})
	})
	if r := w.do("GET", "/", "", nil); r.StatusCode != http.StatusFound || r.Header.Get("Location") != "/api/" {
		t.Errorf("GET / led to %d %s", r.StatusCode, r.Header.Get("Location"))
	}
	if r := w.do("GET", "/", "", nil, "Accept", "text/html"); !strings.Contains(string(r.body), "docker login") || !strings.Contains(string(r.body), `href="/api/"`) {
		t.Errorf("a browser gets %s", r.body)
	}

	w.user("root", metadata.RoleAdmin)
	for _, name := range []string{"mia", "mo", "fred"} {
		w.user(name, metadata.RoleUser)
	}
	w.team("carbon", "mia=maintainer", "mo=member")
	w.user("locked", metadata.RoleUser)
	w.pushImage("mo", "carbon/redis", "1")
	w.pushImage("mo", "carbon/sealed", "1")
	w.update(func(ctx context.Context, tx *metadata.Tx) error {
		return tx.SetRepositoryTagPolicy(ctx, "carbon/sealed", &metadata.TagPolicy{Mode: metadata.Sealed})
	})
	w.accounts["locked"] = "wrong"
	for range 11 {
		w.do("GET", "/repository", "locked", nil)
	}
	w.token(metadata.Token{Kind: metadata.RobotToken, Name: "robot", Team: "carbon", Actions: []string{"pull"}})

	// What is asked of each operation: everything that makes a difference.
	values := map[string][]string{
		"{owner}": {"carbon", "UPPER", "nobody"}, "{name}": {"none", "sealed", "UPPER", "redis"}, "{tag}": {"none", "-x", "1"},
		"{account}": {"123456789012", "x"}, "{token}": {"none", pairOf(t, w, "fred")},
	}
	bodies := map[string][]string{
		"dimsCreateRepository": {`{"name":"new"}`, `{"name":"redis"}`, `{"name":"a/b"}`, `{`}, "dimsCreateAccount": {`{"account":"123456789012"}`, `{"account":"x"}`, `{`},
	}
	answered := map[string]bool{}
	ids := map[string]bool{}
	// Reading comes before deleting, and what is inside before what it is in.
	documented := slices.Sorted(maps.Keys(spec.Paths.Map()))
	slices.Reverse(documented)
	for _, method := range []string{"GET", "POST", "DELETE"} {
		for _, path := range documented {
			op := spec.Paths.Find(path).GetOperation(method)
			if op == nil {
				continue
			}
			ids[op.OperationID] = true
			paths := []string{path}
			for variable, choices := range values {
				if !strings.Contains(path, variable) {
					continue
				}
				var more []string
				for _, p := range paths {
					for _, choice := range choices {
						more = append(more, strings.Replace(p, variable, choice, 1))
					}
				}
				paths = more
			}
			given := bodies[op.OperationID]
			if given == nil {
				given = []string{""}
			}
			for _, as := range []string{"", "locked", "token:robot", "fred", "mo", "mia", "root", "down"} {
				for _, p := range paths {
					for _, body := range given {
						who := as
						if down = as == "down"; down {
							who = "mo"
						}
						var headers []string
						if body != "" {
							headers = []string{"Content-Type", "application/json"}
						}
						r := w.do(method, p, who, strings.NewReader(body), headers...)
						down = false
						if op.Responses.Status(r.StatusCode) == nil {
							t.Errorf("%s %s as %q: %d, which is not documented: %s", method, p, as, r.StatusCode, r.body)
						}
						answered[fmt.Sprintf("%s %d", op.OperationID, r.StatusCode)] = true
					}
				}
			}
			answered[op.OperationID+" 400"] = answered[op.OperationID+" 400"] || op.OperationID == "dimsCreateToken" // a body that is no form
		}
	}
	// The other way round: what is documented is answered.
	for _, item := range spec.Paths.Map() {
		for _, op := range item.Operations() {
			for status := range op.Responses.Map() {
				if !answered[op.OperationID+" "+status] && !(status == "403" && (op.OperationID == "dimsListRepositories" || op.OperationID == "dimsListOwner")) {
					t.Errorf("%s documents %s, which nothing answered", op.OperationID, status)
				}
			}
		}
	}
	// Each route of the table is an operation.
	routesOf := 0
	for _, d := range w.doors {
		for _, rt := range d.Routes() {
			if strings.HasPrefix(rt.Name, "dims_") {
				routesOf++
			}
		}
	}
	if routesOf != len(ids) {
		t.Errorf("%d routes, and %d operations are documented", routesOf, len(ids))
	}
}
