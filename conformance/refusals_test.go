package conformance

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"berth/testenv"
)

var update = flag.Bool("update", false, "write docs/refusals.md with what the clients print here")

// TestRefusals has every client refused in every way that people meet, and reads what it prints: the sentence is
// there, no Go map, and nothing is tried again that will be refused again. With -update it writes the page of that.
func TestRefusals(t *testing.T) {
	d := &daemons{t: t}
	w := newWorld(t, Start(t, Embedded))
	wire := newWire(t, w.Server)
	for _, team := range []string{"full", "shut"} {
		w.Berth(t, "team", "create", team)
		w.Berth(t, "team", "add-member", team, "alice", "--role", "member")
	}
	w.Berth(t, "quota", "set", "full", "--bytes", "100")
	w.Berth(t, "deny", "add", "freeze", "--repositories", "shut/*", "--actions", "push", "--reason", "the team is moving house")

	clients := refusedClients(t, &Server{Host: wire.Host, URL: "http://" + wire.Host}, d, wire)
	var page strings.Builder
	for _, kind := range refusalKinds {
		if kind.before != nil {
			kind.before(t, w)
		}
		fmt.Fprintf(&page, "\n## %s\n\n%s\n", kind.title, kind.about)
		for _, c := range clients {
			do := c.kinds[kind.key]
			if do == nil {
				continue
			}
			t.Run(kind.key+"/"+c.name, func(t *testing.T) {
				c.box.t = t
				wire.reset()
				out, err := do()
				t.Logf("%s\n%v", out, wire.refused())
				words := kind.words
				if c.silent[kind.key] != "" {
					words = []string{c.silent[kind.key]}
				}
				if kind.served {
					if err != nil {
						t.Errorf("%v: %s", err, out)
					}
					err = errors.New("served")
				}
				c.box.fails(out, err, words...)
				if strings.Contains(out, "map[") {
					t.Errorf("it prints a Go map:\n%s", out)
				}
				if n := wire.count(kind.once); kind.once != nil && n != 1 {
					t.Errorf("%d requests %s, want one, since what is refused once is refused again: %q", n, kind.once, wire.refused())
				}
				fmt.Fprintf(&page, "\n%s:\n\n%s", c.name, quote(c.box.home, wire.Host, out))
			})
		}
	}
	if t.Failed() {
		return
	}
	root, err := testenv.Root()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(root, "docs", "refusals.md")
	old, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	const mark = "<!-- From here on written by: go test ./conformance -run TestRefusals -update -->\n"
	intro, rest, found := strings.Cut(string(old), mark)
	if !found {
		t.Fatalf("%s has no line %q", file, mark)
	}
	if *update {
		if err := os.WriteFile(file, []byte(intro+mark+page.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	// What is printed differs between versions of the clients; which refusals and which clients there are does not.
	if got, want := outline(rest), outline(page.String()); !slices.Equal(got, want) {
		t.Errorf("docs/refusals.md has the parts %q, want %q: run this test with -update", got, want)
	}
}

// refusalKinds are the ways to be refused. Each client prints all the words; of the requests that
// once matches there is one.
var refusalKinds = []struct {
	key, title, about string
	words             []string
	once              *regexp.Regexp
	before            func(*testing.T, *world)
	served            bool // the client is told something, and not refused
}{
	{key: "immutable", title: "A tag that may not move", words: []string{"immutable", "pushed by alice", "Tags that may move here"},
		about: "409 `DENIED`, then `TAG_INVALID`, rule `tag-policy`: another image is pushed under an immutable tag. Every client sends its manifest once.",
		once:  regexp.MustCompile(`^PUT /v2/core/\w+/manifests/1\.0`)},
	{key: "foreign", title: "A push to another team's repository", words: []string{"denied|forbidden"},
		about: "403 `DENIED`, rule `not-a-member`. Some clients look with HEAD first, whose answer has a status and no sentence."},
	{key: "quota", title: "A team's quota is used up", words: []string{"the team full", "quota"},
		about: "403 `DENIED`, rule `quota`."},
	{key: "denial", title: "A denial", words: []string{"the team is moving house|forbidden"},
		about: "403 `DENIED`, rule `denied`, with the reason that its author gave."},
	{key: "anonymous", title: "A pull without a sign-in", words: []string{"needs a sign-in|unauthorized"},
		about: "401 `UNAUTHORIZED`, rule `not-signed-in`: the repository is private, or there is none of that name."},
	{key: "password", title: "A wrong password", words: []string{"wrong|unauthorized|invalid username/password"},
		about: "401 `UNAUTHORIZED` of the token endpoint, rule `credentials`."},
	{key: "unknown", title: "A tag that is not there", words: []string{"not found|unknown"},
		about: "404 `MANIFEST_UNKNOWN`."},
	{key: "list", title: "A list of repositories without a sign-in, when none is public", words: []string{"no repository here is public"},
		about: "401 `UNAUTHORIZED`, rule `not-signed-in`: an empty list would read as an empty registry."},
	{key: "listpublic", title: "A list of repositories without a sign-in, when one is public", words: []string{"core/public"}, served: true,
		about: "200, the public repositories, and a header `Warning` (distribution-spec, \"Warnings\") that there may be more.",
		before: func(t *testing.T, w *world) {
			w.person(t, "alice").PushImage("core/public", "1.0")
			w.publish(t, "core/public")
		}},
}

// refusedClient is a client and how it is refused.
type refusedClient struct {
	name   string
	box    *box
	kinds  map[string]func() (string, error)
	silent map[string]string // what it prints instead of our words
}

// refusedClients are the clients, signed in as alice, whose team is core.
func refusedClients(t *testing.T, s *Server, d *daemons, wire *wire) (all []refusedClient) {
	mine, changed := newArchive(t, "example.com/mine:1"), newArchive(t, "example.com/changed:1")
	add := func(name string, b *box, c tool, silent map[string]string, list ...string) {
		ref := func(team, tag string) string { return s.Host + "/" + team + "/" + name + ":" + tag }
		login := func() {
			b.t.Helper()
			if out, err := c.login("alice", password("alice")); err != nil {
				b.t.Fatalf("signing in: %v\n%s", err, out)
			}
		}
		push := func(team string) func() (string, error) {
			return func() (string, error) { login(); return c.push(mine, ref(team, "1.0")) }
		}
		r := refusedClient{name: name, box: b, silent: silent, kinds: map[string]func() (string, error){
			"immutable": func() (string, error) {
				if out, err := push("core")(); err != nil {
					b.t.Fatalf("the first push: %v\n%s", err, out)
				}
				wire.reset()
				return c.push(changed, ref("core", "1.0"))
			},
			"foreign":   push("other"),
			"quota":     push("full"),
			"denial":    push("shut"),
			"anonymous": func() (string, error) { c.logout(); return c.pull(ref("core", "1.0")) },
			"password":  func() (string, error) { return c.login("nobody-"+name, "wrong") }, // each a name that no other's failures hold up
			"unknown":   func() (string, error) { login(); return c.pull(ref("core", "2.0")) },
		}}
		if list != nil {
			r.kinds["list"] = func() (string, error) { c.logout(); return b.try(testenv.Tool(b.t, list[0]), list[1:]...) }
			r.kinds["listpublic"] = r.kinds["list"]
		}
		all = append(all, r)
	}
	b, c := dockerTool(t, s, d)
	add("docker", b, c, nil)
	b, c = podmanTool(t, s)
	add("podman", b, c, nil)
	b, c, _ = buildahTool(t, s)
	add("buildah", b, c, nil)
	b, c = skopeoTool(t, s)
	add("skopeo", b, c, nil)
	b, c = ctrTool(t, s, d)
	add("ctr", b, c, map[string]string{"immutable": "409", "quota": "403", "anonymous": "insufficient_scope"})
	b, c = craneTool(t, s)
	add("crane", b, c, nil, "crane", "catalog", s.Host)
	b, c = regctlTool(t, s)
	add("regctl", b, c, map[string]string{"quota": "404", "list": "unauthorized"}, "regctl", "repo", "ls", s.Host)
	b, c = orasTool(t, s)
	add("oras", b, c, nil, "oras", "repo", "ls", "--plain-http", s.Host)
	b, c = helmTool(t, s)
	add("helm", b, c, nil)
	return all
}

// orasTool is oras against a server. What it pushes is an artifact, another one for another archive.
func orasTool(t *testing.T, s *Server) (*box, tool) {
	b := newBox(t)
	oras := testenv.Tool(t, "oras")
	return b, tool{
		login: func(user, password string) (string, error) {
			return b.tryIn(password, oras, "login", "--plain-http", "-u", user, "--password-stdin", s.Host)
		},
		logout: func() { _, _ = b.try(oras, "logout", s.Host) },
		push: func(a archive, ref string) (string, error) {
			if err := os.WriteFile(filepath.Join(b.home, "file"), []byte(a.id(t)), 0o600); err != nil {
				return "", err
			}
			return b.try(oras, "push", "--plain-http", ref, "file")
		},
		pull: func(ref string) (string, error) { return b.try(oras, "pull", "--plain-http", "-o", t.TempDir(), ref) },
	}
}

// helmTool is helm against a server. The chart is called as the last part of the repository's name, and its version
// is the tag and ".0"; it differs with the archive.
func helmTool(t *testing.T, s *Server) (*box, tool) {
	b := newBox(t)
	helm := testenv.Tool(t, "helm")
	chart := func(ref string) (prefix, name, version string) {
		ref, tag, _ := strings.Cut(strings.TrimPrefix(ref, s.Host+"/"), ":")
		dir, name := path.Split(ref)
		return "oci://" + s.Host + "/" + strings.TrimSuffix(dir, "/"), name, tag + ".0"
	}
	return b, tool{
		login: func(user, password string) (string, error) {
			return b.tryIn(password, helm, "registry", "login", s.Host, "--plain-http", "-u", user, "--password-stdin")
		},
		logout: func() { _, _ = b.try(helm, "registry", "logout", s.Host) },
		push: func(a archive, ref string) (string, error) {
			prefix, name, version := chart(ref)
			dir := filepath.Join(b.home, name)
			if err := os.MkdirAll(dir, 0o700); err != nil {
				return "", err
			}
			yaml := fmt.Sprintf("apiVersion: v2\nname: %s\nversion: %s\ndescription: %s\n", name, version, a.id(t))
			if err := os.WriteFile(filepath.Join(dir, "Chart.yaml"), []byte(yaml), 0o600); err != nil {
				return "", err
			}
			if out, err := b.try(helm, "package", name); err != nil {
				return out, err
			}
			return b.try(helm, "push", name+"-"+version+".tgz", prefix, "--plain-http")
		},
		pull: func(ref string) (string, error) {
			prefix, name, version := chart(ref)
			return b.try(helm, "pull", prefix+"/"+name, "--version", version, "--plain-http", "-d", t.TempDir())
		},
	}
}

// wire is a proxy in front of a server that keeps a line about each request: method, path and status.
type wire struct {
	Host string

	mu    sync.Mutex
	lines []string
}

func newWire(t *testing.T, s *Server) *wire {
	t.Helper()
	w := &wire{}
	proxy := httptest.NewServer(&httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host = "http", s.Host // and In's Host, so that challenges and links lead through here
			r.Out.Host = r.In.Host
		},
		ErrorLog: log.New(io.Discard, "", 0), // of clients that give up one request when another is refused
		ModifyResponse: func(r *http.Response) error {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.lines = append(w.lines, fmt.Sprintf("%s %s %d", r.Request.Method, r.Request.URL.Path, r.StatusCode))
			return nil
		},
	})
	t.Cleanup(proxy.Close)
	w.Host = strings.TrimPrefix(proxy.URL, "http://")
	return w
}

func (w *wire) reset() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lines = nil
}

// refused are the requests that ended with a status from 400.
func (w *wire) refused() (lines []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, line := range w.lines {
		if status := line[len(line)-3:]; status >= "400" {
			lines = append(lines, line)
		}
	}
	return lines
}

func (w *wire) count(what *regexp.Regexp) (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, line := range w.lines {
		if what != nil && what.MatchString(line) {
			n++
		}
	}
	return n
}

// telling are the lines that speak of the refusal, and not of what was done before.
var telling = regexp.MustCompile(`(?i)error|denied|unauthorized|forbidden|fatal|failed|not found|unknown|immutable|warn|public|status`)

// quote shows what a client printed, without what differs from run to run, as wrapped code.
func quote(home, host, out string) string {
	for _, r := range []struct{ of, with string }{
		{regexp.QuoteMeta(host), "registry.example.com"},
		{`(?:[\w/.-]*)?` + regexp.QuoteMeta(home), "~"},
		{`time="?[^ "]+"? `, ""},
		{`^\d{4}/\d\d/\d\d \d\d:\d\d:\d\d `, ""},
		{`\x1b\[[0-9;]*[A-Za-z]`, ""},
		{`(sha256(:|%3A))[0-9a-f]{64}`, "${1}…"},
		{`\b[0-9a-f]{64}\b`, "…"},
		{`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z`, "2026-03-01T09:00:00Z"},
		{`request_id=[\w-]+`, "request_id=…"},
		{`/uploads/[\w-]+`, "/uploads/…"},
	} {
		out = regexp.MustCompile(`(?m)`+r.of).ReplaceAllString(out, r.with)
	}
	var b strings.Builder
	for line := range strings.Lines(strings.ReplaceAll(out, "\r", "\n")) {
		if line = strings.TrimSpace(line); !telling.MatchString(line) {
			continue
		}
		indent := "    "
		for len(line) > 100 {
			at := strings.LastIndex(line[:100], " ")
			if at <= 0 {
				break
			}
			b.WriteString(indent + line[:at] + "\n")
			line, indent = line[at+1:], "      "
		}
		b.WriteString(indent + line + "\n")
	}
	return b.String()
}

// outline are the headings of a page and the clients under each.
func outline(page string) (parts []string) {
	for line := range strings.Lines(page) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "## ") || strings.HasSuffix(line, ":") && !strings.Contains(line, " ") {
			parts = append(parts, line)
		}
	}
	return parts
}
