package conformance

import (
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"berth/testenv"
)

// readPage gives the text of a page of the project, such as docs/gc.md.
func readPage(t *testing.T, page string) string {
	t.Helper()
	root, err := testenv.Root()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(root, page))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// section gives what stands under a heading of a page.
func section(t *testing.T, page, heading string) string {
	t.Helper()
	_, section, ok := strings.Cut(readPage(t, page), "\n## "+heading+"\n")
	if !ok {
		t.Fatalf("%s has no section %q", page, heading)
	}
	section, _, _ = strings.Cut(section, "\n## ")
	return section
}

// code gives the code of a text, as somebody would paste it: what is indented or fenced.
func code(text string) string {
	var b strings.Builder
	fenced := false
	for line := range strings.Lines(text) {
		command, indented := strings.CutPrefix(line, "    ")
		switch {
		case strings.HasPrefix(line, "```"):
			fenced = !fenced
			b.WriteString("\n")
		case fenced:
			b.WriteString(line)
		case indented:
			b.WriteString(command)
		default:
			b.WriteString("\n")
		}
	}
	return b.String()
}

// isCommand is what a paragraph of commands begins with; others are settings, files and answers.
var isCommand = regexp.MustCompile(`^ *((\./berth|berth|docker|curl|openssl|echo|aws|make|registry) |export [A-Z]|cat >)`)

var heredoc = regexp.MustCompile(`<<'?(\w+)'?\n`)

// commands gives the paragraphs of code that are commands.
func commands(code string) string {
	var script strings.Builder
	for code = strings.TrimLeft(code, "\n"); code != ""; code = strings.TrimLeft(code, "\n") {
		paragraph, _, _ := strings.Cut(code, "\n\n")
		if m := heredoc.FindStringSubmatch(paragraph); m != nil { // up to its end, and what follows
			before, after, _ := strings.Cut(code, "\n"+m[1]+"\n")
			more, _, _ := strings.Cut(after, "\n\n")
			paragraph = before + "\n" + m[1] + "\n" + more
		}
		code = strings.TrimPrefix(code, paragraph)
		if isCommand.MatchString(paragraph) {
			script.WriteString(strings.TrimRight(paragraph, "\n") + "\n")
		}
	}
	return script.String()
}

// edit changes a script where it names what is another thing in a test. What it changes has to be
// there, so that an edit ends with what it was for.
func edit(t *testing.T, script string, edits ...string) string {
	t.Helper()
	for pair := range slices.Chunk(edits, 2) {
		if !strings.Contains(script, pair[0]) {
			t.Errorf("the page does not have %q any more", pair[0])
		}
		script = strings.ReplaceAll(script, pair[0], pair[1])
	}
	return script
}

// paste runs a script as a person pastes it into a shell, and gives what it prints. It fails at the
// first command that does. What it starts in the background ends with the test.
func paste(t *testing.T, b *box, script string) string {
	t.Helper()
	cmd := exec.Command("bash", "-eu", "-o", "pipefail", "-v", "-c", script)
	cmd.Dir, cmd.Env = b.home, b.env
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	log := &logBuffer{}
	cmd.Stdout, cmd.Stderr = log, log
	cmd.WaitDelay = time.Second // the servers in the background keep the output open
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }) // the group that was made above
	timer := time.AfterFunc(2*clientTimeout, func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
	defer timer.Stop()
	if err := cmd.Wait(); err != nil && !strings.Contains(err.Error(), "WaitDelay") {
		server, _ := os.ReadFile(filepath.Join(b.home, "berth.log"))
		t.Fatalf("%v\n%s\nof the script\n%s\nthe server's log:\n%s", err, tail(log.String(), 60), script, tail(string(server), 20))
	}
	return log.String()
}

// programs puts berth under its names where a page finds it: in this directory, and in PATH.
func (b *box) programs() {
	b.t.Helper()
	bin := filepath.Join(b.home, "bin")
	if err := os.Mkdir(bin, 0o755); err != nil {
		b.t.Fatal(err)
	}
	for _, link := range []string{filepath.Join(b.home, "berth"), filepath.Join(bin, "berth")} {
		if err := os.Symlink(Binary(b.t), link); err != nil {
			b.t.Fatal(err)
		}
	}
	b.env = append(b.env, "PATH="+bin+":"+os.Getenv("PATH"))
}

// alpine gives docker an image of that name.
func (b *box) alpine(t *testing.T) {
	t.Helper()
	docker := testenv.Tool(t, "docker")
	image := newArchive(t, "example.com/any:1")
	b.run(docker, "load", "-q", "-i", image.path)
	b.run(docker, "tag", image.id(t), "alpine")
}

// browser signs in as account wherever a program opens an OpenID provider's page.
func (b *box) browser(t *testing.T, account string) {
	t.Helper()
	opened, program := filepath.Join(b.home, "opened"), filepath.Join(b.home, "browser")
	if err := os.WriteFile(program, []byte("#!/bin/sh\necho \"$1\" >\""+opened+".new\" && mv \""+opened+".new\" \""+opened+"\"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	b.env = append(b.env, "BROWSER="+program)
	stop, stopped := make(chan struct{}), make(chan struct{})
	t.Cleanup(func() { close(stop); <-stopped })
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			case <-time.After(50 * time.Millisecond):
			}
			address, err := os.ReadFile(opened)
			if err != nil {
				continue // nothing was opened
			}
			os.Remove(opened)
			page, err := url.Parse(strings.TrimSpace(string(address)))
			if err == nil {
				err = testenv.OIDCAt(t, page.Scheme+"://"+page.Host).Visit(page.String(), account)
			}
			if err != nil {
				t.Errorf("the browser at %s: %v", address, err)
			}
		}
	}()
}

// otherPorts gives a script ports of its own; what starts in it listens at BERTH_LISTEN and TOKENINFO.
func otherPorts(t *testing.T, script string, ports ...string) string {
	t.Helper()
	for _, port := range ports {
		addr, err := testenv.FreePort()
		if err != nil {
			t.Fatal(err)
		}
		script = regexp.MustCompile(`\b`+port+`\b`).ReplaceAllString(script, addr[strings.LastIndex(addr, ":")+1:])
		switch port {
		case "5000":
			script = "export BERTH_LISTEN=" + addr + "\n" + script
		case "9021":
			script = "TOKENINFO=" + addr + "\n" + script
		}
	}
	return script
}

// servers makes a script wait for the servers that it starts: a person does not notice that they take a moment.
func servers(script string) string {
	script = strings.ReplaceAll(script, "python3 tokeninfo.py &\n", "python3 tokeninfo.py 2>/dev/null &\nuntil curl -s http://$TOKENINFO >/dev/null; do sleep 0.05; kill -0 $!; done\n")
	script = regexp.MustCompile(`(?m)^node \S+/provider\.mjs (\d+) .*&$`).ReplaceAllString(script, "$0\nuntil curl -s http://127.0.0.1:$1 >/dev/null; do sleep 0.05; kill -0 $$!; done")
	script = regexp.MustCompile(`(?m)^/usr/sbin/slapd .* ldap://127\.0\.0\.1:(\d+)/$`).ReplaceAllString(script, "$0\nuntil (exec 3<>/dev/tcp/127.0.0.1/$1) 2>/dev/null; do sleep 0.05; kill -0 $$(cat slapd.pid); done")
	return strings.ReplaceAll(script, "./berth serve &\n", "./berth serve >berth.log 2>&1 &\nuntil curl -fsS http://$BERTH_LISTEN/readyz >/dev/null 2>&1; do sleep 0.05; kill -0 $! || { cat berth.log; exit 1; }; done\n")
}

// TestSignInPages runs the commands of the pages about sign-in, with other ports.
func TestSignInPages(t *testing.T) {
	d := &daemons{t: t}
	root, err := testenv.Root()
	if err != nil {
		t.Fatal(err)
	}
	for page, p := range map[string]struct {
		heading  string
		programs []string
		edits    []string
	}{
		"docs/sign-in-ldap.md":   {"Try it", []string{"slapd", "ldapadd", "openssl"}, nil},
		"docs/sign-in-oauth2.md": {"Try it", []string{"python3", "curl"}, nil},
		"docs/keyless-ci.md": {"Try it without a platform", []string{"python3", "curl", "node"}, []string{
			"scripts/tools.sh oidc-provider\n", "", "$PWD/.cache", root + "/.cache", "node testenv", "node " + root + "/testenv"}},
		"docs/sign-in-oidc.md": {"Try it", []string{"node"}, []string{
			"./berth whoami\n", "./berth whoami --server localhost:5000\n",
			"scripts/tools.sh oidc-provider\n", "", "$PWD/.cache", root + "/.cache", "node testenv", "node " + root + "/testenv"}},
		"README.md": {"Start", nil, []string{
			"make run\n", "export BERTH_ADMIN_PASSWORD=a-good-password\n./berth serve &\n",
			"docker login localhost:5000 -u admin", "docker login localhost:5000 -u admin --password-stdin <<<a-good-password",
			"./berth login --username admin", "./berth login --username admin --password-stdin <<<a-good-password",
			"user create alice", "user create alice --new-password-stdin <<<another-password"}},
	} {
		t.Run(filepath.Base(page), func(t *testing.T) {
			for _, program := range p.programs {
				testenv.Tool(t, program)
			}
			b := newBox(t, "DOCKER_HOST="+d.dockerd(t))
			b.programs()
			b.alpine(t)
			b.browser(t, "alice")
			script := edit(t, code(section(t, page, p.heading)), p.edits...)
			t.Cleanup(func() {
				if text, err := os.ReadFile(filepath.Join(b.home, "directory", "slapd.pid")); err == nil {
					if pid, err := strconv.Atoi(strings.TrimSpace(string(text))); err == nil && pid > 1 {
						_ = syscall.Kill(pid, syscall.SIGKILL)
					}
				}
			})
			out := paste(t, b, servers(otherPorts(t, script, "5000", "3890", "9021", "9400")))
			if !strings.Contains(out, "1.0: digest: sha256:") {
				t.Errorf("nothing was pushed:\n%s", tail(out, 60))
			}
		})
	}
}

// TestPages runs all commands of the pages about running and managing a registry, from top to bottom,
// against a new server on which admin is signed in. The server has the team core with the repository core/app,
// and the user alice, unless the page makes them.
func TestPages(t *testing.T) {
	hash, err := bcrypt.GenerateFromPassword([]byte("a good password"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	d := &daemons{t: t}
	const digestOf = `berth tag show core/app:1.0 -o json | sed -n 's/.*"digest": "\(.*\)".*/\1/p'`
	const anyDigest = "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
	for page, p := range map[string]struct {
		empty   bool     // the page makes the team and the user itself
		docker  bool     // the page uses docker, and another registry
		moves   bool     // the page moves to the Postgres and the MinIO of $TO_DATABASE and $TO_STORAGE
		section string   // "" is the whole page
		until   string   // the heading at which it ends; "" is the whole page
		edits   []string // of the script
		says    []string // what is printed at some place
	}{
		"docs/permissions.md": {empty: true, edits: []string{" BERTH_PASSWORD=...", ""}, says: []string{"rule: ", "NAME "}},
		"docs/tokens.md": {edits: []string{"aws dynamodb scan --table-name d.ims.io.tokens", "echo '{\"Items\":[]}'"},
			says: []string{"berth_pat_", "berth_rob_", "berth_dep_"}},
		"docs/retention.md": {edits: []string{
			"berth tag deleted", "berth tag delete core/app:1.0 --yes\nberth tag deleted",
			"berth tag restore core/app@" + anyDigest, "digest=$(" + digestOf + ")\n" +
				"curl -fsS -u \"admin:$BERTH_PASSWORD\" -X DELETE $BERTH_SERVER/v2/core/app/manifests/$digest\nberth tag restore core/app@$digest"},
			says: []string{"Would go now", "is restored as 1.0"}},
		"docs/quotas.md": {says: []string{"100.0 GiB"}},
		"docs/gc.md": {edits: []string{
			"berth why sha256:44136f...", "berth why $(" + digestOf + ")"},
			says: []string{"Would go now", "tag 1.0 (immutable)", "LOGICAL"}},
		"docs/operations.md": {edits: []string{"/backup/berth", "$PWD/backup", "password admin --local", "password admin --local --new-password-stdin <<<" + AdminPassword,
			"docker buildx build --push -t registry.example.com/core/app:1.0 \\\n" +
				"  --cache-to type=registry,ref=registry.example.com/core/app:buildcache,mode=max \\\n" +
				"  --cache-from type=registry,ref=registry.example.com/core/app:buildcache .\n", "", // needs a plugin of Docker
			"make conformance OCI_CONFORMANCE=/path/to/the/program", ""}},
		"docs/audit.md": {says: []string{"createTeam"}},
		"docs/dims.md": {edits: []string{"curl -u alice", "curl -fsS -u alice:alice-Password-1",
			"https://registry.example.com", "$BERTH_SERVER",
			"aws dynamodb scan --table-name d.ims.io.tokens --output json", "echo '{\"Items\":[]}'"},
			says: []string{`{"token":"`}},
		"docs/backup.md": {edits: []string{
			"/backup/berth", "$PWD/backup",
			"export BERTH_TARGET_DATABASE_URL=sqlite:/var/lib/berth-restored/berth.db BERTH_TARGET_STORAGE_URL=file:/var/lib/berth-restored/blobs\nberth serve\n", "", // it runs
			"http://localhost:5000", "$BERTH_SERVER",
			"$SERVER --cancel", "$SERVER --cancel || true", // it has ended
			"curl -u admin", "curl -fsS -u admin:" + AdminPassword,
			"-fsS -u admin:" + AdminPassword + " -X DELETE", "-sS -u admin:" + AdminPassword + " -X DELETE", // it may have ended
			"curl -fsS -u admin:" + AdminPassword + " -H 'Content-Type: application/json' -d '{}' $SERVER/api/v1/instance/restore",
			"while curl -fsS -u admin:" + AdminPassword + " $SERVER/api/v1/instance/backup | grep '\"running\"'; do sleep 0.1; done\n" +
				"curl -fsS -u admin:" + AdminPassword + " -H 'Content-Type: application/json' -d '{}' $SERVER/api/v1/instance/restore"},
			says: []string{"backed up", "checked: ", `"kind":"restore"`}},
		"docs/migrate-storage.md": {moves: true, edits: []string{
			"export BERTH_DATA_DIR=/var/lib/berth\nexport AWS_ACCESS_KEY_ID=berth AWS_SECRET_ACCESS_KEY=change-me-too\n", "",
			"postgres://berth:change-me@db:5432/berth --to-storage s3://berth/registry?region=eu-central-1\"", "$TO_DATABASE --to-storage $TO_STORAGE\"",
			"export BERTH_TARGET_DATABASE_URL=postgres://berth:change-me@db:5432/berth\nexport BERTH_TARGET_STORAGE_URL='s3://berth/registry?region=eu-central-1'\nberth serve\n", "", // it runs
			"http://localhost:5000", "$BERTH_SERVER",
			"$SERVER --cancel", "$SERVER --cancel || true", // it has ended
			"curl -u admin", "curl -fsS -u admin:" + AdminPassword,
			"berth migrate-storage --storage-only", "while curl -fsS -u admin:" + AdminPassword + " $SERVER/api/v1/instance/migration | grep '\"running\"'; do sleep 0.1; done\n" +
				"BERTH_STORAGE_URL=$TO_STORAGE BERTH_STORAGE_FALLBACK_URL=file:$BERTH_DATA_DIR/blobs berth migrate-storage --storage-only"},
			says: []string{"checked: ", `"kind":"migrate"`}},
		"docs/sign-in-aws.md": {section: "Let an account in", says: []string{"role ci-* of account 123456789012 may pull, push"}},
		"docs/keyless-ci.md": {until: "Try it without a platform", edits: []string{"https://registry.example.com", "$BERTH_SERVER"},
			says: []string{"act as core+ci"}},
		"docs/token-server.md": {empty: true, docker: true, until: "Coming from Dockit", edits: []string{
			"http://localhost:5000", "$BERTH_SERVER", "<<'END'", "<<END", "127.0.0.1:5001", "$REGISTRY", "localhost:5001", "$REGISTRY",
			"registry serve registry.yml\n", "registry serve registry.yml >registry.log 2>&1 &\nuntil curl -s http://$REGISTRY/v2/; do sleep 0.1; kill -0 $!; done\n",
			"user create alice", "user create alice --new-password-stdin <<<another-password",
			"docker login $REGISTRY -u alice", "docker login $REGISTRY -u alice --password-stdin <<<another-password",
			"--yes KID", "--yes -- $(berth key list | sed -n 's/^registry.example.com *\\([^ ]*\\).*/\\1/p' | tail -1)"},
			says: []string{"1.0: digest: sha256:", "signs from", "is retired"}},
		"README.md": {section: "On the command line", edits: []string{"core/alpine", "core/app", "./berth tag restore", "./berth tag delete core/app:1.0 --yes\n./berth tag restore"},
			says: []string{"core/app", "is restored as 1.0", "berth_rob_", "yes: ", "updateRepository"}},
	} {
		t.Run(filepath.Base(page), func(t *testing.T) {
			t.Parallel()
			b := newBox(t)
			b.programs()
			if p.docker {
				registry, err := testenv.FreePort()
				if err != nil {
					t.Fatal(err)
				}
				if err := os.Symlink(testenv.Tool(t, "registry"), filepath.Join(b.home, "bin", "registry")); err != nil {
					t.Fatal(err)
				}
				b.env = append(b.env, "DOCKER_HOST="+d.dockerd(t), "REGISTRY="+registry, "OTEL_TRACES_EXPORTER=none")
				b.alpine(t)
			}
			backend := NewBackend(t, Embedded)
			s := backend.Start(t, "BERTH_BACKUP_URL="+filepath.Join(b.home, "backups"),
				"BERTH_TARGET_DATABASE_URL=sqlite:"+filepath.Join(b.home, "restored.db"), "BERTH_TARGET_STORAGE_URL=file:"+filepath.Join(b.home, "restored"),
				"BERTH_OIDC_TRUSTED_ISSUERS=https://kubernetes.default.svc.cluster.local")
			if !p.empty {
				newWorld(t, s)
			}
			if p.moves {
				target := NewBackend(t, Distributed)
				b.env = append(b.env, target.Bucket.Env()...)
				b.env = append(b.env, "TO_DATABASE="+target.DatabaseURL, "TO_STORAGE="+target.Bucket.URL("registry"))
			}
			b.env = append(b.env, "BERTH_SERVER="+s.URL, "BERTH_USERNAME=admin", "BERTH_PASSWORD="+AdminPassword, "BERTH_DATA_DIR="+backend.DataDir)
			if err := os.WriteFile(filepath.Join(b.home, "users.htpasswd"), []byte("henry:"+string(hash)+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			if !p.empty {
				image := newArchive(t, "example.com/any:1")
				crane := testenv.Tool(t, "crane")
				for _, tag := range []string{"1.0", "v1.0", "dev-1"} {
					b.run(crane, "auth", "login", s.Host, "-u", "admin", "-p", AdminPassword)
					b.run(crane, "push", "--insecure", image.path, s.Host+"/core/app:"+tag)
				}
			}
			text := readPage(t, page)
			if p.section != "" {
				text = section(t, page, p.section)
			}
			if p.until != "" {
				var ok bool
				if text, _, ok = strings.Cut(text, "\n## "+p.until+"\n"); !ok {
					t.Fatalf("the page has no section %q", p.until)
				}
			}
			script := edit(t, commands(code(text)), p.edits...)
			if strings.Count(script, "\n") < 2 {
				t.Fatalf("the page has hardly a command: %q", script)
			}
			out := paste(t, b, script)
			for _, words := range p.says {
				if !strings.Contains(out, words) {
					t.Errorf("the commands do not print %q:\n%s", words, out)
				}
			}
		})
	}
}

// Each page of decisions has a number of its own, and every page that is linked is there.
func TestDecisionsHaveNumbersOfTheirOwn(t *testing.T) {
	t.Parallel()
	root, err := testenv.Root()
	if err != nil {
		t.Fatal(err)
	}
	pages, err := filepath.Glob(filepath.Join(root, "docs", "decisions", "*.md"))
	if err != nil || len(pages) == 0 {
		t.Fatalf("%d pages: %v", len(pages), err)
	}
	seen := map[string]string{}
	for _, page := range pages {
		name := filepath.Base(page)
		number, _, _ := strings.Cut(name, "-")
		if other := seen[number]; other != "" || len(number) != 4 {
			t.Errorf("%s and %s: give each page four digits of its own", name, other)
		}
		seen[number] = name
	}
	linked := regexp.MustCompile(`decisions/[0-9]{4}-[a-z0-9-]+\.md`)
	for _, page := range []string{"README.md", "docs/architecture.md", "docs/operations.md", "docs/performance.md", "docs/sign-in-oidc.md"} {
		for _, link := range linked.FindAllString(readPage(t, page), -1) {
			if seen[filepath.Base(link)[:4]] != filepath.Base(link) {
				t.Errorf("%s links %s, which is not there", page, link)
			}
		}
	}
}
