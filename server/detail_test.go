package server

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"berth/auth"
	"berth/metadata"
	"berth/oci"
)

// TestDetailIsALine: crane, oras and helm print the detail behind the message as Go prints it. A string is all that
// reads well there, and programs read it as logfmt.
func TestDetailIsALine(t *testing.T) {
	for _, c := range []struct {
		name   string
		detail any
		want   any
	}{
		{"order", map[string]any{"request_id": "r1", "b": "2", "ask": "mary", "a": "1", "rule": "x"}, "rule=x ask=mary a=1 b=2 request_id=r1"},
		{"sentence", map[string]any{"rule": "x", "ask": `say "please", mary`}, `rule=x ask="say \"please\", mary"`},
		{"list", map[string]any{"rule": "x", "missing": []string{"pull", "push"}, "none": []string{}}, `rule=x missing=pull,push`},
		{"scalars", map[string]any{"rule": "x", "size": int64(4194304), "over": true, "at": time.Unix(0, 0).UTC()}, "rule=x at=1970-01-01T00:00:00Z over=true size=4194304"},
		{"no line is broken", map[string]any{"rule": "x", "reason": "a\nb=c\u2028<&>"}, `rule=x reason="a\nb=c\u2028<&>"`},
		{"objects are for the API", map[string]any{"rule": "x", "grounds": []auth.Ground{{}}, "owner": map[string]any{"a": 1}}, "rule=x"},
		{"no object", "see the log", "see the log"},
		{"nothing", nil, "rule=blob-unknown"},
	} {
		if got := detailLine(nil, &oci.Error{Code: oci.CodeBlobUnknown, Detail: c.detail}); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

func FuzzDetailLine(f *testing.F) {
	f.Add("not-a-member", "a maintainer of the team core: mary", `a "b"=\c`, "d\x00\n")
	f.Add("", " ", "=", "é\u2028\ufffd\xe2\x80")
	f.Fuzz(func(t *testing.T, rule, ask, one, two string) {
		want := map[string]string{"rule": rule, "ask": ask, "one": one, "two": two}
		line := fmt.Sprint(detailLine(nil, &oci.Error{Code: oci.CodeDenied, Detail: map[string]any{"rule": rule, "ask": ask, "one": one, "two": two}}))
		if strings.ContainsAny(line, "\n\r\x00") {
			t.Errorf("%q is more than a line", line)
		}
		got := parseDetail(line)
		for key, value := range want {
			var asJSON string // which has no bytes that are no text
			if raw, err := json.Marshal(value); err != nil || json.Unmarshal(raw, &asJSON) != nil {
				t.Fatal(err)
			}
			if got[key] != asJSON {
				t.Errorf("%s is %q in %q, want %q", key, got[key], line, asJSON)
			}
		}
	})
}

// TestCatalogOfNobody: an empty list would read as an empty registry, so who is not signed in is asked when nothing
// is public, and told that there may be more when something is.
func TestCatalogOfNobody(t *testing.T) {
	w := small(t, nil)
	nobody := w.jwt("", "registry:catalog:*")
	repository := func(name, visibility string) {
		w.update(func(ctx context.Context, tx *metadata.Tx) error {
			_, _, err := tx.EnsureRepository(ctx, name, visibility, "test")
			return err
		})
	}
	repository("team/a", metadata.Private)
	r := w.do("GET", "/v2/_catalog?n=10", nobody, nil).want(t, http.StatusUnauthorized)
	if r.code() != "UNAUTHORIZED" || r.detail("rule") != "not-signed-in" || !strings.Contains(string(r.body), "no repository here is public: sign in") ||
		!strings.Contains(r.Header.Get("WWW-Authenticate"), `scope="registry:catalog:*"`) {
		t.Errorf("%v %s", r.Header, r.body)
	}
	if r := w.do("GET", "/v2/_catalog", "fred", nil).want(t, http.StatusOK); string(r.body) != `{"repositories":[]}` || r.Header.Get("Warning") != "" {
		t.Errorf("signed in: %v %s", r.Header, r.body)
	}
	repository("team/b", metadata.Public)
	r = w.do("GET", "/v2/_catalog", nobody, nil).want(t, http.StatusOK)
	if warning := r.Header.Get("Warning"); string(r.body) != `{"repositories":["team/b"]}` || !strings.HasPrefix(warning, `299 - "You are not signed in`) {
		t.Errorf("%q %s", warning, r.body)
	}
	// The end of a list is no empty registry.
	w.do("GET", "/v2/_catalog?last=zzz", nobody, nil).want(t, http.StatusOK)
	w.do("GET", "/v2/_catalog?n=0", nobody, nil).want(t, http.StatusOK)
	var list struct{ Repositories []string }
	if r := w.do("GET", "/v2/_catalog", "root", nil).want(t, http.StatusOK); json.Unmarshal(r.body, &list) != nil || len(list.Repositories) != 2 {
		t.Errorf("root: %s", r.body)
	}
}

// TestChallengeDescribes: docker shows the description of a challenge with an error, and not the body.
func TestChallengeDescribes(t *testing.T) {
	w := small(t, nil)
	w.pushImage("mo", "team/app", "1.0")
	r := w.do("GET", "/v2/team/app/manifests/1.0", w.jwt("", "repository:team/app:pull"), nil).want(t, http.StatusUnauthorized)
	want := `,error="insufficient_scope",error_description="pull on team/app needs a sign-in: nobody is signed in here. Sign in with docker login and try again"`
	if got := r.Header.Get("WWW-Authenticate"); !strings.HasSuffix(got, want) {
		t.Errorf("%s does not end with %s", got, want)
	}
	if got, want := description("a \"b\", c\\d\n\u00e9"), "a 'b'; c'd??"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}
