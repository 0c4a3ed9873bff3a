package admin_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"berth/audit"
	"berth/auth"
	"berth/auth/token"
	"berth/backup"
	"berth/metadata"
	"berth/metadata/metadatatest"
	"berth/oci"
	"berth/people"
	"berth/registry"
	"berth/registry/collect"
	"berth/server"
	"berth/server/admin"
	"berth/server/door"
	"berth/storage"
	"berth/storage/mem"
	"berth/testenv"
)

func TestMain(m *testing.M) { os.Exit(testenv.Main(m)) }

// rootPassword is that of the user root, the admin of every world.
const rootPassword = "correct horse battery"

// world is a real server with its database.
type world struct {
	t       testing.TB
	db      *metadata.DB
	url     string
	secrets map[string]string           // of tokens, by the name that as() takes
	place   backup.Place                // of backups, nil for none; set it before a request
	work    string                      // the work directory of backups
	target  func() (backup.Side, error) // where another registry is made, nil for nowhere
	second  storage.Store               // the registry's second store, nil for none
}

// newWorld starts a server on a database with one admin, root. One that is to be read-only gets
// the error that it answers to changes.
func newWorld(t testing.TB, db *metadata.DB, change ...func(*server.Options)) *world {
	t.Helper()
	hasher := auth.NewHasher(0)
	hash, err := hasher.Hash(t.Context(), rootPassword)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(t.Context(), func(tx *metadata.Tx) error {
		_, err := tx.CreateFirstAdmin(t.Context(), "root", hash)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	issuer, err := token.New(t.Context(), db, token.Options{})
	if err != nil {
		t.Fatal(err)
	}
	policy := auth.NewPolicy(db, auth.PolicyOptions{})
	chain := auth.NewChain(nil, auth.NewTokens(db, nil, nil), auth.NewPasswords(db, hasher, nil))
	w := &world{t: t, db: db, secrets: map[string]string{}}
	store := mem.New()
	reg := registry.New(db, store, registry.Options{UndoWindow: time.Hour})
	collector := collect.New(db, store, collect.Options{UndoWindow: time.Hour})
	checks := collect.NewCheckJobs(collector)
	t.Cleanup(checks.Close)
	unset := oci.Errorf(oci.CodeConflict, "it is not set")
	copies := backup.NewJobs(backup.JobsOptions{
		From: backup.Side{DB: db, Store: store}, Grace: collector.DefaultRun().Grace, Source: "test", Version: "test", Renew: 50 * time.Millisecond,
		Place: func(context.Context) (backup.Place, string, error) {
			if w.place == nil {
				return nil, "", unset
			}
			return w.place, w.work, nil
		},
		Target: func(ctx context.Context) (backup.Side, error) {
			if w.target == nil {
				return backup.Side{}, unset
			}
			return w.target()
		},
		Stores: func(context.Context) (from, to storage.Store, err error) {
			if w.second == nil {
				return nil, nil, unset
			}
			return w.second, store, nil
		},
	})
	t.Cleanup(copies.Close)
	who := people.New(people.Options{
		DB: db, Hasher: hasher, Passwords: chain, Keys: issuer.Keys(), Service: "berth", TrustedIssuers: []string{"https://jobs.example.com"},
	})
	management, err := admin.New(admin.Options{
		Registry: reg, Collector: collector, Checks: checks, Copies: copies, Audit: audit.New(db, audit.Options{}), Policy: policy, People: who, Keys: issuer.Keys(),
		TrustedIssuers: []string{"https://jobs.example.com"},
	})
	if err != nil {
		t.Fatal(err)
	}
	o := server.Options{
		Registry: reg, Auth: chain, Policy: policy,
		Tokens: issuer, Refresher: auth.NewRefresher(db, nil), Doors: []door.Door{management}, Start: "/api/", Sessions: auth.NewWebSessions(db, time.Hour, nil),
	}
	for _, f := range change {
		f(&o)
	}
	s, err := server.New(o)
	if err != nil {
		t.Fatal(err)
	}
	ts := httptest.NewServer(s.Handler())
	t.Cleanup(ts.Close)
	w.url = ts.URL
	return w
}

// each runs a test in a fresh world on each engine.
func each(t *testing.T, f func(t *testing.T, w *world)) {
	metadatatest.Each(t, func(t *testing.T, db *metadata.DB) { f(t, newWorld(t, db)) })
}

// answer is what a request got.
type answer struct {
	status int
	header http.Header
	body   string
}

// json decodes the body.
func (a answer) json(t testing.TB) map[string]any {
	t.Helper()
	var v map[string]any
	if err := json.Unmarshal([]byte(a.body), &v); err != nil {
		t.Fatalf("status %d, body %q: %v", a.status, a.body, err)
	}
	return v
}

// names is a field of each item of a list.
func (a answer) names(t testing.TB, field string) string {
	t.Helper()
	var list []string
	for _, item := range a.json(t)["items"].([]any) {
		list = append(list, fmt.Sprint(item.(map[string]any)[field]))
	}
	return strings.Join(list, " ")
}

// do makes a request as somebody: "name:password" is Basic, "" is nobody,
// anything else is the name of a token in w.secrets. A body is JSON; a value
// that is no string is marshalled.
func (w *world) do(who, method, path string, body any, headers ...string) answer {
	w.t.Helper()
	var reader io.Reader
	switch b := body.(type) {
	case nil:
	case string:
		reader = strings.NewReader(b)
	default:
		raw, err := json.Marshal(b)
		if err != nil {
			w.t.Fatal(err)
		}
		reader = bytes.NewReader(raw)
	}
	req, err := http.NewRequestWithContext(w.t.Context(), method, w.url+path, reader)
	if err != nil {
		w.t.Fatal(err)
	}
	if reader != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if name, password, ok := strings.Cut(who, ":"); ok {
		req.SetBasicAuth(name, password)
	} else if who != "" {
		secret, ok := w.secrets[who]
		if !ok {
			w.t.Fatalf("there is no token %q in this test", who)
		}
		req.Header.Set("Authorization", "Bearer "+secret)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	client := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := client.Do(req)
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return answer{resp.StatusCode, resp.Header, string(raw)}
}

// ok is do as root, which has to succeed.
func (w *world) ok(method, path string, body any) answer {
	w.t.Helper()
	a := w.do("root:"+rootPassword, method, path, body)
	if a.status < 200 || a.status > 299 {
		w.t.Fatalf("%s %s: status %d: %s", method, path, a.status, a.body)
	}
	return a
}

// refused checks a problem's status and code, and that its text has the words.
func (w *world) refused(a answer, status int, code oci.Code, words ...string) {
	w.t.Helper()
	if a.status != status || a.header.Get("Content-Type") != "application/problem+json" {
		w.t.Fatalf("status %d (%s), want %d: %s", a.status, a.header.Get("Content-Type"), status, a.body)
	}
	p := a.json(w.t)
	if p["code"] != string(code) || p["status"] != float64(status) || p["type"] != "about:blank" || p["title"] == "" || p["request_id"] == "" {
		w.t.Errorf("the problem is %s, want code %s", a.body, code)
	}
	for _, word := range words {
		if !strings.Contains(fmt.Sprint(p["detail"]), word) {
			w.t.Errorf("the detail %q does not say %q", p["detail"], word)
		}
	}
}

// user makes a user with a personal token for everything, so that the test
// pays no password hash. as is the token's name in w.secrets, and the user's.
func (w *world) user(name, role string) {
	w.t.Helper()
	w.update(func(ctx context.Context, tx *metadata.Tx) error {
		_, err := tx.CreateUser(ctx, metadata.User{Name: name, Role: role})
		return err
	})
	w.token(name, metadata.Token{Kind: metadata.PersonalToken, User: name, Repositories: "*", Actions: auth.AllActions.Names()})
}

// provided makes a user as a provider's sign-in does, with teams and groups, and a
// token like user.
func (w *world) provided(name string, teams map[string]string, groups ...string) {
	w.t.Helper()
	_, err := auth.NewDirectory(w.db, nil, nil).SignIn(w.t.Context(), auth.Identity{Provider: "ldap", Subject: "id of " + name, Name: name, Teams: teams, Groups: groups})
	if err != nil {
		w.t.Fatal(err)
	}
	w.token(name, metadata.Token{Kind: metadata.PersonalToken, User: name, Repositories: "*", Actions: auth.AllActions.Names()})
}

// token makes a token, known to the test as who.
func (w *world) token(who string, t metadata.Token) {
	w.t.Helper()
	prefix := auth.PersonalPrefix
	if t.Kind == metadata.RobotToken {
		prefix = auth.RobotPrefix
	}
	secret, hash := auth.NewSecret(prefix)
	if t.Name == "" {
		t.Name = "test-" + who
	}
	t.CreatedBy = "root"
	w.update(func(ctx context.Context, tx *metadata.Tx) error {
		_, err := tx.CreateToken(ctx, t, hash)
		return err
	})
	w.secrets[who] = secret
}

func (w *world) update(f func(context.Context, *metadata.Tx) error) {
	w.t.Helper()
	if err := w.db.Update(w.t.Context(), func(tx *metadata.Tx) error { return f(w.t.Context(), tx) }); err != nil {
		w.t.Fatal(err)
	}
}

// push puts a manifest with tags into a repository, as a push leaves it. Each
// content is a digest of its own.
func (w *world) push(repository, content string, tags ...string) digest.Digest {
	w.t.Helper()
	payload := []byte(`{"schemaVersion":2,"annotations":{"content":"` + content + `"}}`)
	d := digest.FromBytes(payload)
	w.update(func(ctx context.Context, tx *metadata.Tx) error {
		id, _, err := tx.EnsureRepository(ctx, repository, metadata.Private, "root")
		if err != nil {
			return err
		}
		_, err = tx.PutManifest(ctx, id, metadata.Manifest{
			Digest: d, MediaType: oci.MediaTypeImageManifest, Payload: payload, Size: int64(len(payload)), CreatedBy: "root"}, nil, nil, false)
		if err != nil {
			return err
		}
		for _, tag := range tags {
			if _, err := tx.PutTag(ctx, id, tag, d, metadata.Actor{Name: "root"}); err != nil {
				return err
			}
		}
		return nil
	})
	return d
}

// soon is a time in the future, as JSON has it.
func soon() string { return time.Now().Add(time.Hour).UTC().Format(time.RFC3339) }
