package server

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"berth/auth"
	"berth/metadata"
)

// follow reads all pages of a list and gives their entries, page by page.
func (w *world) follow(path, as, key string) (pages [][]string) {
	w.t.Helper()
	for path != "" {
		r := w.do("GET", path, as, nil).want(w.t, http.StatusOK)
		var body map[string]json.RawMessage
		var entries []string
		if err := json.Unmarshal(r.body, &body); err != nil {
			w.t.Fatal(err)
		}
		if err := json.Unmarshal(body[key], &entries); err != nil || entries == nil {
			w.t.Fatalf("%s: %v", r.body, err)
		}
		pages = append(pages, entries)
		path = ""
		if link := r.Header.Get("Link"); link != "" {
			target, ok := strings.CutSuffix(strings.TrimPrefix(link, "<"), `>; rel="next"`)
			if !ok {
				w.t.Fatalf("Link %q", link)
			}
			path = target
		}
	}
	return pages
}

func TestTagPages(t *testing.T) {
	w := small(t, nil)
	manifest, _ := w.pushImage("mo", "team/app", "t0")
	w.update(func(ctx context.Context, tx *metadata.Tx) error {
		r, err := tx.Repository(ctx, "team/app")
		if err != nil {
			return err
		}
		for _, tag := range []string{"t3", "t1", "t2", "T9", "_x", "t10"} {
			if _, err := tx.PutTag(ctx, r.ID, tag, manifest, metadata.Actor{Name: "mo"}); err != nil {
				return err
			}
		}
		return nil
	})
	for query, want := range map[string]string{
		"":              "[[T9 _x t0 t1 t10 t2 t3]]",
		"?n=3":          "[[T9 _x t0] [t1 t10 t2] [t3]]",
		"?n=7":          "[[T9 _x t0 t1 t10 t2 t3]]",
		"?n=6":          "[[T9 _x t0 t1 t10 t2] [t3]]",
		"?n=0":          "[[]]",
		"?n=0&last=t0":  "[[]]",
		"?last=t10":     "[[t2 t3]]",
		"?n=1&last=t10": "[[t2] [t3]]",
		"?last=t1x":     "[[t2 t3]]", // a tag that is not there (any more) is a place in the order
		"?last=zzz":     "[[]]",
		// CVE-2023-2253
		"?n=99999999999999999999": "[[T9 _x t0 t1 t10 t2 t3]]",
	} {
		if got := fmt.Sprint(w.follow("/v2/team/app/tags/list"+query, "rita", "tags")); got != want {
			t.Errorf("%s: %s, want %s", query, got, want)
		}
	}
	for _, query := range []string{"?n=-1", "?n=x", "?n=", "?last=" + strings.Repeat("x", 300)} {
		w.do("GET", "/v2/team/app/tags/list"+query, "rita", nil).want(t, http.StatusBadRequest)
	}
	if r := w.do("GET", "/v2/team/none/tags/list?n=0", "rita", nil).want(t, http.StatusNotFound); r.code() != "NAME_UNKNOWN" {
		t.Errorf("%s", r.body)
	}
}

// TestCatalog: everybody sees what they may pull, page by page.
func TestCatalog(t *testing.T) {
	w := small(t, nil)
	w.update(func(ctx context.Context, tx *metadata.Tx) error {
		for _, r := range [][2]string{{"other/a", "public"}, {"other/b", "internal"}, {"other/c", "private"}, {"team/a", "private"}, {"team/b", "public"}} {
			if _, _, err := tx.EnsureRepository(ctx, r[0], r[1], "test"); err != nil {
				return err
			}
		}
		return nil
	})
	w.token(metadata.Token{Kind: metadata.RobotToken, Name: "ci", Team: "team", Actions: []string{"pull"}})
	w.token(metadata.Token{Kind: metadata.PersonalToken, Name: "narrow", User: "root", Actions: []string{"pull"}, Repositories: "*/c"})
	w.token(metadata.Token{Kind: metadata.PersonalToken, Name: "pushes", User: "root", Actions: []string{"push"}})
	for as, want := range map[string]string{
		"rita":                            "[[other/a other/b] [team/a team/b]]",
		"fred":                            "[[other/a other/b] [other/c team/b]]",
		"root":                            "[[other/a other/b] [other/c team/a] [team/b]]",
		"token:ci":                        "[[other/a other/b] [team/a team/b]]",
		"token:narrow":                    "[[other/c]]",
		"token:pushes":                    "[[other/a team/b]]",
		w.jwt("", "registry:catalog:*"):   "[[other/a team/b]]",
		w.jwt("mo", "registry:catalog:*"): "[[other/a other/b] [team/a team/b]]",
	} {
		if got := fmt.Sprint(w.follow("/v2/_catalog?n=2", as, "repositories")); got != want {
			t.Errorf("%.20s: %s, want %s", as, got, want)
		}
	}
	r := w.do("GET", "/v2/_catalog", w.jwt("mo", "repository:team/a:pull"), nil).want(t, http.StatusUnauthorized)
	if !strings.Contains(r.Header.Get("WWW-Authenticate"), `scope="registry:catalog:*",error="insufficient_scope"`) {
		t.Errorf("%v", r.Header)
	}
	if got := fmt.Sprint(w.follow("/v2/_catalog?n=0", "root", "repositories")); got != "[[]]" {
		t.Errorf("n=0: %s", got)
	}
}

// TestPublicRead: the setting opens pulls of everything to everybody, and
// nothing else.
func TestPublicRead(t *testing.T) {
	w := small(t, func(w *world, o *Options) { o.Policy = auth.NewPolicy(w.db, auth.PolicyOptions{PublicRead: true}) })
	_, layer := w.pushImage("mo", "team/app", "1.0")
	for _, as := range []string{"", "fred", w.jwt("", "repository:team/app:pull,push repository:team/none:pull")} {
		w.do("GET", "/v2/team/app/manifests/1.0", as, nil).want(t, http.StatusOK)
		w.do("GET", "/v2/team/app/blobs/"+layer.String(), as, nil).want(t, http.StatusOK)
		w.do("GET", "/v2/team/none/manifests/1.0", as, nil).want(t, http.StatusNotFound)
		if r := w.do("POST", "/v2/team/app/blobs/uploads/", as, nil); r.StatusCode != 401 && r.StatusCode != 403 {
			t.Errorf("push as %.10q: %d", as, r.StatusCode)
		}
	}
	w.do("GET", "/v2/", "", nil).want(t, http.StatusUnauthorized) // so that docker login works
	if got := fmt.Sprint(w.follow("/v2/_catalog", w.jwt("", "registry:catalog:*"), "repositories")); got != "[[team/app]]" {
		t.Errorf("catalog: %s", got)
	}
}
