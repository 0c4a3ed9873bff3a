package server

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/crypto/bcrypt"

	"berth/auth"
	"berth/auth/token"
	"berth/metadata"
	"berth/metadata/metadatatest"
	"berth/oci"
	"berth/people"
	"berth/registry"
	"berth/server/dims"
	"berth/server/dockit"
	"berth/server/door"
	"berth/storage"
	"berth/storage/fs"
)

// world is a server over a real registry on SQLite and a directory, with
// people in it.
type world struct {
	t        testing.TB
	db       *metadata.DB
	store    storage.Store
	registry *registry.Registry
	options  registry.Options // of the registry, for change
	people   *people.People
	doors    []door.Door
	server   *Server
	http     *httptest.Server
	metrics  *prometheus.Registry
	log      *syncBuffer
	clock    *clock
	hasher   *auth.Hasher
	dir      string
	accounts map[string]string // user name -> password, token name -> secret
}

// syncBuffer is a log that can be read while it is written.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// clock is the real one, which a test can put forward.
type clock struct {
	mu    sync.Mutex
	ahead time.Duration
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Add(c.ahead)
}

func (c *clock) forward(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ahead += d
}

// apiDoor is a door below /api/ whose handler answers all that a caller may who may do the
// operation; "" is whoami.
type apiDoor struct {
	operation auth.Operation
	handler   door.Handler
}

func (a apiDoor) Face() *door.Face {
	return &door.Face{
		Paths: func(path string) bool { return strings.HasPrefix(path, "/api/") }, Manages: true, Sessions: true,
		ContentType: "application/problem+json", Error: func(ex door.Exchange, r *http.Request, e *oci.Error) any { return ex.Problem(r, e) },
	}
}

func (a apiDoor) Routes() []door.Route {
	resolve := func(door.Exchange, *http.Request) (door.Deed, error) {
		return door.Deed{Operation: cmp.Or(a.operation, "whoami")}, nil
	}
	return []door.Route{
		{Pattern: "/api/v1/", Need: door.Manage, Resolve: resolve, Handler: a.handler, Name: "api"},
		{Pattern: "/api/", Need: door.Open, Handler: a.handler, Name: "api"},
	}
}

// newWorld makes a server. change may be nil; it sees the options last.
func newWorld(t testing.TB, change func(*world, *Options)) *world {
	t.Helper()
	return newWorldOn(t, metadatatest.SQLite(t), change)
}

// newWorldOn is newWorld with a database that is empty.
func newWorldOn(t testing.TB, url string, change func(*world, *Options)) *world {
	t.Helper()
	ctx := context.Background()
	w := &world{t: t, log: &syncBuffer{}, clock: &clock{}, hasher: auth.NewHasher(0), metrics: prometheus.NewRegistry(), dir: t.TempDir(), accounts: map[string]string{}}
	log := slog.New(slog.NewTextHandler(w.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	var err error
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	w.db, err = metadata.Open(ctx, metadata.Options{URL: url, Logger: log})
	must(err)
	t.Cleanup(func() { w.db.Close() })
	_, err = w.db.Migrate(ctx)
	must(err)
	if w.store == nil {
		w.store, err = fs.New(filepath.Join(w.dir, "blobs"), fs.Options{})
		must(err)
	}
	tokens, err := token.New(ctx, w.db, token.Options{Clock: w.clock.now})
	must(err)
	o := Options{
		Auth:       auth.NewChain(w.clock.now, auth.NewTokens(w.db, log, w.clock.now), auth.NewPasswords(w.db, w.hasher, w.clock.now)),
		Policy:     auth.NewPolicy(w.db, auth.PolicyOptions{Clock: w.clock.now}),
		Tokens:     tokens,
		Refresher:  auth.NewRefresher(w.db, w.clock.now),
		Service:    "registry.test",
		Registerer: w.metrics,
		Gatherer:   w.metrics,
		Logger:     log,
		Clock:      w.clock.now,
		Ready: []Check{{Name: "database", Read: w.db.Ping}, {Name: "storage",
			Read:  func(ctx context.Context) error { return w.store.Ping(ctx) },
			Write: func(ctx context.Context) error { return w.store.Writable(ctx) }}},
	}
	w.people = people.New(people.Options{DB: w.db, Hasher: w.hasher, Passwords: o.Auth, Keys: tokens.Keys(), Service: "registry.test"})
	o.Services = func(ctx context.Context, name string) (found metadata.Service, err error) {
		err = w.db.View(ctx, func(tx *metadata.Tx) (err error) {
			found, err = tx.Service(ctx, name)
			return err
		})
		return found, err
	}
	if change != nil {
		change(w, &o)
	}
	w.options.Logger = log
	w.registry = registry.New(w.db, w.store, w.options)
	o.Registry = w.registry
	oldDims, err := dims.New(dims.Options{Registry: w.registry, People: w.people, Policy: o.Policy})
	must(err)
	w.doors = append([]door.Door{dockit.New(w.people), oldDims}, o.Doors...)
	o.Doors = w.doors
	w.server, err = New(o)
	must(err)
	w.http = httptest.NewUnstartedServer(nil)
	w.server.Configure(w.http.Config)
	w.http.Start()
	t.Cleanup(w.http.Close)
	return w
}

func (w *world) update(fn func(ctx context.Context, tx *metadata.Tx) error) {
	w.t.Helper()
	ctx := context.Background()
	if err := w.db.Update(ctx, func(tx *metadata.Tx) error { return fn(ctx, tx) }); err != nil {
		w.t.Fatal(err)
	}
}

// user makes a user, whose password is "pw-" and the name. Its hash is the
// cheapest one, for there are many worlds.
func (w *world) user(name, role string) {
	w.t.Helper()
	cheap, err := bcrypt.GenerateFromPassword([]byte("pw-"+name), bcrypt.MinCost)
	if err != nil {
		w.t.Fatal(err)
	}
	hash := string(cheap)
	w.accounts[name] = "pw-" + name
	w.update(func(ctx context.Context, tx *metadata.Tx) error {
		_, err := tx.CreateUser(ctx, metadata.User{Name: name, PasswordHash: hash, Role: role})
		return err
	})
}

// external signs a user of an outside provider in, with a personal token of the
// same name for all actions, for there is no password.
func (w *world) external(id auth.Identity) {
	w.t.Helper()
	if _, err := auth.NewDirectory(w.db, nil, w.clock.now).SignIn(context.Background(), id); err != nil {
		w.t.Fatal(err)
	}
	if w.accounts[id.Name] == "" {
		w.token(metadata.Token{Kind: metadata.PersonalToken, Name: id.Name, User: id.Name, Actions: auth.AllActions.Names()})
	}
}

// team makes a team with members: name=role.
func (w *world) team(name string, members ...string) {
	w.t.Helper()
	w.update(func(ctx context.Context, tx *metadata.Tx) error {
		if _, err := tx.CreateTeam(ctx, name, ""); err != nil {
			return err
		}
		for _, m := range members {
			user, role, _ := strings.Cut(m, "=")
			if err := tx.PutMember(ctx, name, user, role); err != nil {
				return err
			}
		}
		return nil
	})
}

// token makes an opaque token of a user or a team and remembers it under its name.
func (w *world) token(t metadata.Token) string {
	w.t.Helper()
	prefix := map[string]string{metadata.PersonalToken: auth.PersonalPrefix, metadata.RobotToken: auth.RobotPrefix, metadata.DeployToken: auth.DeployPrefix}[t.Kind]
	if t.Repositories == "" {
		t.Repositories = "*"
	}
	t.CreatedBy = "test"
	secret, hash := auth.NewSecret(prefix)
	w.accounts[t.Name] = secret
	w.update(func(ctx context.Context, tx *metadata.Tx) error {
		_, err := tx.CreateToken(ctx, t, hash)
		return err
	})
	return secret
}

// reply is an answer with its body read.
type reply struct {
	*http.Response
	body []byte
}

func (r reply) code() string {
	var e struct {
		Errors []struct{ Code string }
	}
	if json.Unmarshal(r.body, &e) != nil || len(e.Errors) == 0 {
		return ""
	}
	return e.Errors[0].Code
}

// detail gives a fact of the error's detail, read as docs/refusals.md tells programs to read it.
func (r reply) detail(key string) string {
	var e struct {
		Errors []struct{ Detail string }
	}
	if json.Unmarshal(r.body, &e) != nil || len(e.Errors) == 0 {
		return ""
	}
	return parseDetail(e.Errors[0].Detail)[key]
}

func parseDetail(line string) map[string]string {
	facts := map[string]string{}
	for line != "" {
		key, rest, _ := strings.Cut(line, "=")
		value := json.NewDecoder(strings.NewReader(rest))
		var text string
		if strings.HasPrefix(rest, `"`) && value.Decode(&text) == nil {
			rest = strings.TrimPrefix(rest[value.InputOffset():], " ")
		} else {
			text, rest, _ = strings.Cut(rest, " ")
		}
		facts[key], line = text, rest
	}
	return facts
}

func (r reply) want(t testing.TB, status int) reply {
	t.Helper()
	if r.StatusCode != status {
		t.Fatalf("%s %s: status %d, want %d: %s", r.Request.Method, r.Request.URL, r.StatusCode, status, r.body)
	}
	return r
}

// do makes a request. as is a user ("alice": Basic), "token:<name>" (an opaque
// token as bearer), "jwt:<raw>", or "" for nobody. Redirects are not followed.
func (w *world) do(method, path, as string, body io.Reader, headers ...string) reply {
	w.t.Helper()
	target := path
	if !strings.HasPrefix(path, "http") {
		target = w.http.URL + path
	}
	r, err := http.NewRequest(method, target, body)
	if err != nil {
		w.t.Fatal(err)
	}
	switch kind, name, _ := strings.Cut(as, ":"); {
	case as == "":
	case kind == "token":
		r.Header.Set("Authorization", "Bearer "+w.accounts[name])
	case kind == "jwt":
		r.Header.Set("Authorization", "Bearer "+name)
	default:
		r.SetBasicAuth(as, w.accounts[as])
	}
	for i := 0; i < len(headers); i += 2 {
		if headers[i] == "Content-Length" { // -1: chunked
			fmt.Sscan(headers[i+1], &r.ContentLength)
			continue
		}
		r.Header.Add(headers[i], headers[i+1])
	}
	client := *w.http.Client()
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	resp, err := client.Do(r)
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return reply{resp, raw}
}

// jwt fetches a bearer token for scopes, and gives it as an "as".
func (w *world) jwt(as string, scopes ...string) string {
	w.t.Helper()
	q := url.Values{"service": {"registry.test"}, "scope": scopes}
	r := w.do("GET", "/token?"+q.Encode(), as, nil).want(w.t, http.StatusOK)
	var answer tokenAnswer
	if err := json.Unmarshal(r.body, &answer); err != nil {
		w.t.Fatal(err)
	}
	return "jwt:" + answer.Token
}

// pushBlob pushes bytes with one request and gives their digest.
func (w *world) pushBlob(as, repo string, content []byte) digest.Digest {
	w.t.Helper()
	d := digest.FromBytes(content)
	w.do("POST", "/v2/"+repo+"/blobs/uploads/?digest="+d.String(), as, bytes.NewReader(content)).want(w.t, http.StatusCreated)
	return d
}

const imageManifest = "application/vnd.oci.image.manifest.v1+json"

// image is a manifest over a config and a layer.
func image(config, layer []byte, extra string) []byte {
	return fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":%q,"size":%d},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":%q,"size":%d}]%s}`,
		imageManifest, digest.FromBytes(config), len(config), digest.FromBytes(layer), len(layer), extra)
}

// pushImage pushes a small image and gives its manifest and layer.
func (w *world) pushImage(as, repo, tag string) (manifest, layer digest.Digest) {
	w.t.Helper()
	config, content := []byte("{}"), []byte("layer of "+repo)
	w.pushBlob(as, repo, config)
	layer = w.pushBlob(as, repo, content)
	raw := image(config, content, "")
	w.do("PUT", "/v2/"+repo+"/manifests/"+tag, as, bytes.NewReader(raw), "Content-Type", imageManifest).want(w.t, http.StatusCreated)
	return digest.FromBytes(raw), layer
}

func (w *world) visibility(repo, visibility string) {
	w.t.Helper()
	w.update(func(ctx context.Context, tx *metadata.Tx) error { return tx.SetVisibility(ctx, repo, visibility) })
}

// principal is who a user signs in as.
func (w *world) principal(name string) auth.Principal {
	w.t.Helper()
	p, err := w.server.auth.Authenticate(context.Background(), auth.Credentials{Username: name, Password: w.accounts[name]})
	if err != nil {
		w.t.Fatal(err)
	}
	return p
}
