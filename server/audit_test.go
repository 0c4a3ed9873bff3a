package server

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"

	"berth/auth"
	"berth/metadata"
)

// recorder collects what the server gives to the audit log.
type recorder struct {
	mu     sync.Mutex
	events []metadata.Event
}

func (r *recorder) record(e metadata.Event, _ string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, e)
}

func (r *recorder) take() (events []metadata.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	events, r.events = r.events, nil
	return events
}

// TestRefusalsAreRecorded: each refusal and each failed sign-in is one event, and what
// belongs to the protocol is none.
func TestRefusalsAreRecorded(t *testing.T) {
	log := &recorder{}
	w := small(t, func(_ *world, o *Options) { o.Audit = log.record })
	w.pushImage("mo", "team/app", "1.0")
	w.pushImage("mo", "team/sealed", "1.0")
	w.update(func(ctx context.Context, tx *metadata.Tx) error {
		return tx.SetRepositoryTagPolicy(ctx, "team/sealed", &metadata.TagPolicy{Mode: metadata.Sealed})
	})
	w.token(metadata.Token{Kind: metadata.RobotToken, Name: "cluster", Team: "team", Actions: []string{"pull"}, CIDRs: []string{"10.0.0.0/8"}})
	w.accounts["ghost"] = "secret-of-ghost"
	w.accounts["mia2"] = w.accounts["mia"]
	anonymous := w.jwt("")
	narrow := w.jwt("mo", "repository:team/app:pull")
	if got := log.take(); len(got) != 0 {
		t.Fatalf("what went well was recorded: %+v", got)
	}
	const upload = "/v2/team/app/blobs/uploads/"
	for _, tt := range []struct {
		name, method, path, as string
		status                 int
		want                   string // action outcome principal rule; "" is none
	}{
		{"asking how to sign in", "GET", "/v2/", "", 401, ""},
		{"asking for a scope", "POST", upload, narrow, 401, ""},
		{"nobody", "GET", "/v2/team/app/tags/list", "", 401, ""},
		{"anonymous token", "GET", "/v2/team/app/tags/list", anonymous, 401, "pull refused anonymous not-signed-in"},
		{"wrong password", "GET", "/v2/", "ghost", 401, "signIn failed ghost credentials"},
		{"wrong password at the token endpoint", "GET", "/token", "ghost", 401, "signIn failed ghost credentials"},
		{"a token that is none", "GET", "/v2/", "jwt:a.b.c", 401, "signIn failed  token-invalid"},
		{"reader pushes", "POST", upload, "rita", 403, "push refused rita team-reader"},
		{"stranger pulls", "GET", "/v2/team/app/manifests/1.0", "fred", 403, "pull refused fred not-a-member"},
		{"member deletes", "DELETE", "/v2/team/app/manifests/1.0", "mo", 403, "delete refused mo team-member"},
		{"from another network", "GET", "/v2/", "token:cluster", 401, "signIn refused team+cluster token-network"},
		{"the keeper deletes what is sealed", "DELETE", "/v2/team/sealed/manifests/1.0", "mia", 409, "delete refused mia tag-policy"},
		{"d.ims.io deletes what is sealed", "DELETE", "/repository/team/sealed/image/1.0", "mia", 409, "delete refused mia tag-policy"},
		{"d.ims.io deletes all that is sealed", "DELETE", "/repository/team/sealed", "mia", 409, "admin refused mia tag-policy"},
		{"not found", "GET", "/v2/team/app/manifests/none", "mo", 404, ""},
	} {
		w.do(tt.method, tt.path, tt.as, nil, "User-Agent", "test").want(t, tt.status)
		got := ""
		for _, e := range log.take() {
			rule, _ := e.Detail["rule"].(string)
			got += strings.Join([]string{string(e.Kind), e.Outcome, e.Actor.Name, rule}, " ")
			if e.Actor.Address != "127.0.0.1" || e.Actor.RequestID == "" || e.Actor.UserAgent != "test" {
				t.Errorf("%s: %+v", tt.name, e.Actor)
			}
			raw, err := json.Marshal(e)
			if err != nil || strings.Contains(string(raw), "secret-of-ghost") || strings.Contains(string(raw), w.accounts["cluster"]) {
				t.Errorf("%s: a secret is in %s (%v)", tt.name, raw, err)
			}
			if strings.Contains(tt.path, "team/app") && e.Repository != "team/app" {
				t.Errorf("%s: repository %q", tt.name, e.Repository)
			}
		}
		if got != tt.want {
			t.Errorf("%s: recorded %q, want %q", tt.name, got, tt.want)
		}
	}
	// A token where the user name belongs, as some programs put it, is no name.
	pat, _ := auth.NewSecret(auth.PersonalPrefix)
	for _, secret := range []string{w.accounts["cluster"], pat, strings.TrimPrefix(w.jwt("mo"), "jwt:")} {
		log.take()
		for _, path := range []string{"/v2/", "/token"} {
			w.do("GET", path, "", nil, "Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(secret+":x-oauth-basic"))).want(t, http.StatusUnauthorized)
		}
		w.do("POST", "/token", "", strings.NewReader(url.Values{"grant_type": {"password"}, "username": {secret}, "password": {"x"}}.Encode()), "Content-Type", "application/x-www-form-urlencoded").want(t, http.StatusUnauthorized)
		events := log.take()
		if raw, err := json.Marshal(events); len(events) != 3 || err != nil || strings.Contains(string(raw), secret) || events[0].Actor.Name != "***" {
			t.Errorf("%d events, %v: %s", len(events), err, raw)
		}
		if strings.Contains(w.log.String(), secret) {
			t.Error("the secret is in the log")
		}
	}
	// Throttled.
	for range 12 {
		w.do("GET", "/v2/", "ghost", nil)
	}
	events := log.take()
	if last := events[len(events)-1]; last.Kind != "signIn" || last.Detail["rule"] != "throttled" || last.Actor.Name != "ghost" {
		t.Errorf("%+v", last)
	}
	w.do("GET", "/v2/", "mo", nil).want(t, http.StatusOK)
}
