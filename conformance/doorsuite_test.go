package conformance

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// The door suite: the same deed through every door that can do it has the same rule, the same
// refusal and the same event. A new door runs it by a line in doors.

// What several doors can do. Each is done on something of its own, called name below.
const (
	makeRepository   = "make the repository core/name"
	makeTeam         = "make the team name"
	makeUser         = "make the user name"
	makeToken        = "make a token of one's own"
	giveGrant        = "let the user name pull core/app"
	setPassword      = "set the password of the user name"
	push             = "push core/name:1.0"
	deleteTag        = "delete the tag core/name:1.0"
	deleteRepository = "delete the repository core/name"
)

// outcomes of a deed. What was refused has the sentence that the caller reads behind it.
const (
	done    = "done"
	refused = "refused: "
	unknown = "not signed in"
)

// doorway is how deeds are done through one door. Each gives its outcome.
type doorway struct {
	name string
	// admins says that the door is for administrators alone, whatever the rule of a deed.
	admins bool
	// operator says that who uses it is on the machine itself, and has no name.
	operator bool
	deeds    map[string]func(w *doorWorld, as, name string) string
}

// doors are all of them.
func doors() []doorway {
	return []doorway{managementDoor(), protocolDoor(), dimsDoor(), dockitDoor(), commandLineDoor(), importDoor()}
}

const newPassword = "another password"

func managementDoor() doorway {
	call := func(method, path, body string) func(*doorWorld, string, string) string {
		return func(w *doorWorld, as, name string) string {
			fill := strings.NewReplacer("{name}", name, "{me}", as)
			return w.call(as, name, method, "/api/v1"+fill.Replace(path), fill.Replace(body))
		}
	}
	return doorway{name: "management API", deeds: map[string]func(*doorWorld, string, string) string{
		makeRepository:   call("PUT", "/repositories/core%2F{name}", ""),
		makeTeam:         call("POST", "/teams", `{"name":"{name}"}`),
		makeUser:         call("POST", "/users", `{"name":"{name}","password":"`+newPassword+`"}`),
		makeToken:        call("POST", "/users/{me}/tokens", `{"name":"{name}","actions":["pull","push","delete","admin"]}`),
		giveGrant:        call("PUT", "/users/{name}/grants/core%2Fapp", `{"actions":["pull"]}`),
		setPassword:      call("PUT", "/users/{name}/password", `{"password":"`+newPassword+`"}`),
		deleteTag:        call("DELETE", "/repositories/core%2F{name}/tags/1.0", ""),
		deleteRepository: call("DELETE", "/repositories/core%2F{name}", ""),
	}}
}

func protocolDoor() doorway {
	return doorway{name: "/v2/", deeds: map[string]func(*doorWorld, string, string) string{
		push: func(w *doorWorld, as, name string) string {
			return w.call(as, name, "PUT", "/v2/core/"+name+"/manifests/1.0", emptyIndex, "Content-Type: "+typeIndex)
		},
		deleteTag: func(w *doorWorld, as, name string) string {
			return w.call(as, name, "DELETE", "/v2/core/"+name+"/manifests/1.0", "")
		},
	}}
}

func dimsDoor() doorway {
	call := func(method, path, body string) func(*doorWorld, string, string) string {
		return func(w *doorWorld, as, name string) string {
			fill := strings.NewReplacer("{name}", name)
			return w.call(as, name, method, fill.Replace(path), fill.Replace(body))
		}
	}
	return doorway{name: "d.ims.io", deeds: map[string]func(*doorWorld, string, string) string{
		makeRepository:   call("POST", "/repository/core", `{"name":"{name}"}`),
		makeToken:        call("POST", "/token", ""),
		deleteTag:        call("DELETE", "/repository/core/{name}/image/1.0", ""),
		deleteRepository: call("DELETE", "/repository/core/{name}", ""),
	}}
}

func dockitDoor() doorway {
	call := func(path, body string) func(*doorWorld, string, string) string {
		return func(w *doorWorld, as, name string) string {
			return w.call(as, name, "PUT", "/v2/admin/user:"+name+path, body)
		}
	}
	return doorway{name: "Dockit", admins: true, deeds: map[string]func(*doorWorld, string, string) string{
		makeUser:    call("/add", `{"password":"`+newPassword+`"}`),
		giveGrant:   call("/repository:core_app:pull", ""),
		setPassword: call("/change-password", `{"password":"`+newPassword+`"}`),
	}}
}

func commandLineDoor() doorway {
	run := func(stdin string, args ...string) func(*doorWorld, string, string) string {
		return func(w *doorWorld, as, name string) string {
			var filled []string
			for _, arg := range args {
				filled = append(filled, strings.ReplaceAll(arg, "{name}", name))
			}
			return w.command(as, stdin, filled...)
		}
	}
	return doorway{name: "command line", deeds: map[string]func(*doorWorld, string, string) string{
		makeRepository:   run("", "repo", "create", "core/{name}"),
		makeTeam:         run("", "team", "create", "{name}"),
		makeUser:         run(newPassword+"\n", "user", "create", "{name}", "--new-password-stdin"),
		makeToken:        run("", "token", "create", "{name}", "--actions", "pull,push,delete,admin"),
		giveGrant:        run("", "grant", "add", "core/app", "--user", "{name}", "--actions", "pull"),
		setPassword:      run(newPassword+"\n", "user", "password", "{name}", "--new-password-stdin"),
		deleteTag:        run("", "tag", "delete", "core/{name}:1.0", "--yes"),
		deleteRepository: run("", "repo", "delete", "core/{name}", "--yes"),
	}}
}

// importDoor is an importer: who runs it is the operator, whom nobody limits.
func importDoor() doorway {
	return doorway{name: "berth import", operator: true, deeds: map[string]func(*doorWorld, string, string) string{
		makeUser: func(w *doorWorld, _, name string) string {
			file := filepath.Join(w.t.TempDir(), "htpasswd")
			// The bcrypt of "another password", as Apache's htpasswd -B writes it.
			line := name + ":$2y$05$0OUQC3aHiH5fHTrNZ2zcDOyrg4rxlo4yRgsmTuSHxCTrXv3mYzmAu\n"
			if err := os.WriteFile(file, []byte(line), 0o600); err != nil {
				w.t.Fatal(err)
			}
			return w.command("", "", "import", "htpasswd", file)
		},
	}}
}

// emptyIndex is the smallest thing to push.
const emptyIndex = `{"schemaVersion":2,"mediaType":"` + typeIndex + `","manifests":[]}`

// doorWorld is a server with people, and what the suite asks it.
type doorWorld struct {
	*world
	t       *testing.T
	env     []string // of the database and the store, for commands on the machine itself
	prepare int
}

// call makes a request, whose id is the name, and gives its outcome.
func (w *doorWorld) call(as, name, method, path, body string, headers ...string) string {
	w.t.Helper()
	status, text := w.http(as, name, method, path, body, headers...)
	switch {
	case status >= 200 && status < 300:
		return done
	case status == http.StatusForbidden:
		return refused + sentence(text)
	case status == http.StatusUnauthorized:
		return unknown
	}
	return fmt.Sprintf("%d %s", status, text)
}

// sentence is what people read of an error, in the form of any door.
func sentence(body string) string {
	var problem struct{ Detail, Error string }
	var protocol struct{ Errors []struct{ Message string } }
	var envelope struct{ Errors []string }
	switch {
	case json.Unmarshal([]byte(body), &envelope) == nil && len(envelope.Errors) > 0:
		return envelope.Errors[0]
	case json.Unmarshal([]byte(body), &protocol) == nil && len(protocol.Errors) > 0:
		return protocol.Errors[0].Message
	case json.Unmarshal([]byte(body), &problem) == nil:
		return problem.Detail + problem.Error
	}
	return body
}

func (w *doorWorld) http(as, id, method, path, body string, headers ...string) (int, string) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), clientTimeout)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, method, w.URL+path, strings.NewReader(body))
	if err != nil {
		w.t.Fatal(err)
	}
	if as != "" {
		r.SetBasicAuth(as, w.password(as))
	}
	r.Header.Set("X-Request-Id", id)
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for _, h := range headers {
		key, value, _ := strings.Cut(h, ": ")
		r.Header.Set(key, value)
	}
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		w.t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return res.StatusCode, string(text)
}

func (w *doorWorld) password(user string) string {
	if user == "admin" {
		return AdminPassword
	}
	return password(user)
}

// command runs berth as somebody, or as the operator when as is "".
func (w *doorWorld) command(as, stdin string, args ...string) string {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), clientTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, w.Bin, args...)
	cmd.Env = append(os.Environ(), w.env...)
	if as != "" {
		cmd.Env = append(os.Environ(), "BERTH_SERVER="+w.URL, "BERTH_USERNAME="+as, "BERTH_PASSWORD="+w.password(as))
	}
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	switch {
	case err == nil:
		return done
	case as != "":
		return refused + strings.TrimPrefix(strings.TrimSpace(string(out)), "berth: ")
	}
	return fmt.Sprintf("%v: %s", err, out)
}

// need makes what a deed is about.
func (w *doorWorld) need(deed, name string) {
	w.t.Helper()
	var steps []string
	switch deed {
	case giveGrant, setPassword:
		steps = []string{w.call("admin", "prepare", "POST", "/api/v1/users", `{"name":"`+name+`","password":"the first password"}`)}
	case deleteTag:
		// A second tag keeps the image, whatever the door does to one without tags.
		for _, tag := range []string{"1.0", "2.0"} {
			steps = append(steps, w.call("admin", "prepare", "PUT", "/v2/core/"+name+"/manifests/"+tag, emptyIndex, "Content-Type: "+typeIndex))
		}
	case deleteRepository:
		steps = []string{w.call("admin", "prepare", "PUT", "/v2/core/"+name+"/manifests/1.0", emptyIndex, "Content-Type: "+typeIndex)}
	}
	for _, got := range steps {
		if got != done {
			w.t.Fatalf("preparing %q: %s", deed, got)
		}
	}
}

// line is what the audit log tells of a deed, but for what differs by nature: its time, and who asked from where.
type line struct {
	Key        string         `json:"key"`
	Action     string         `json:"action"`
	Outcome    string         `json:"outcome"`
	Principal  string         `json:"principal"`
	Team       string         `json:"team"`
	Repository string         `json:"repository"`
	Reference  string         `json:"reference"`
	Digest     string         `json:"digest"`
	RequestID  string         `json:"request_id"`
	Detail     map[string]any `json:"detail"`
}

// events are the newest lines of what somebody did or was refused, the first one first, without those
// that have been seen.
func (w *doorWorld) events(as string, seen map[string]bool) (lines []line) {
	w.t.Helper()
	status, text := w.http("admin", "look", "GET", "/api/v1/audit?limit=20", "")
	var page struct{ Items []line }
	if err := json.Unmarshal([]byte(text), &page); err != nil || status != 200 {
		w.t.Fatalf("the audit log: %d %s", status, text)
	}
	for _, e := range page.Items {
		// What was refused is written some seconds later.
		if !seen[e.Key] && e.Outcome == "ok" && e.RequestID != "prepare" && e.Principal == as {
			lines = append(lines, e)
		}
	}
	slices.Reverse(lines)
	return lines
}

// dimsToken is a name that d.ims.io's door gives a token.
var dimsToken = regexp.MustCompile(`dims-[0-9a-f]{16}`)

// told is what the lines tell, with the name of what the deed was about left open.
func told(lines []line, name string) string {
	var b strings.Builder
	for _, e := range lines {
		// One door asks for the usual in words, another one by leaving it out.
		if fields, ok := e.Detail["fields"].(map[string]any); ok {
			for name, usual := range map[string]any{"role": "user", "repositories": "*", "current_password": "***"} {
				if fields[name] == usual {
					delete(fields, name)
				}
			}
		}
		detail, _ := json.Marshal(e.Detail)
		fmt.Fprintf(&b, "%s team=%s repository=%s reference=%s digest=%s %s\n", e.Action, e.Team, e.Repository, e.Reference, e.Digest, detail)
	}
	return strings.ReplaceAll(dimsToken.ReplaceAllString(b.String(), "NAME"), name, "NAME")
}

// TestDoors runs each deed through each door, as an administrator, as a maintainer, a member and a stranger
// of the team, and as nobody. The management API is what the others are compared with, or else the first door that can.
func TestDoors(t *testing.T) {
	t.Parallel()
	for _, v := range []Variant{Embedded, {"postgres", "directory"}} {
		t.Run(v.String(), func(t *testing.T) {
			t.Parallel()
			b := NewBackend(t, v)
			w := &doorWorld{world: newWorld(t, b.Start(t)), t: t, env: b.Env}
			for _, deed := range []string{makeRepository, makeTeam, makeUser, makeToken, giveGrant, setPassword, push, deleteTag, deleteRepository} {
				for _, as := range []string{"admin", "mary", "alice", "bob", ""} {
					w.compare(deed, as)
				}
			}
		})
	}
}

// compare does a deed as somebody through each door.
func (w *doorWorld) compare(deed, as string) {
	w.t.Helper()
	first, outcome, record := "", "", ""
	for _, d := range doors() {
		do := d.deeds[deed]
		if do == nil || as == "" && d.name == "command line" || d.operator && as != "admin" {
			continue
		}
		w.prepare++
		name := fmt.Sprintf("door%d", w.prepare)
		w.need(deed, name)
		by := as
		if d.operator {
			by = d.name
		}
		seen := map[string]bool{}
		for _, e := range w.events(by, nil) {
			seen[e.Key] = true
		}
		got := do(w, as, name)
		lines := w.events(by, seen)
		what := told(lines, name)
		got = strings.ReplaceAll(got, name, "NAME")
		switch {
		case first == "":
			first, outcome, record = d.name, got, what
			if got != done && got != unknown && !strings.HasPrefix(got, refused) || got == done && what == "" {
				w.t.Errorf("%s, as %q through %s: %s, on record as %q", deed, as, d.name, got, what)
			}
		case d.admins && as != "admin" && strings.HasPrefix(got, refused):
		case got != outcome:
			w.t.Errorf("%s, as %q: %s\nthrough %s, but through %s\n%s", deed, as, outcome, first, d.name, got)
		case what != record && !d.operator:
			w.t.Errorf("%s, as %q (%s): on record through %s as\n%sbut through %s as\n%s", deed, as, got, first, record, d.name, what)
		case d.operator && !strings.HasPrefix(what, strings.Fields(record)[0]+" "):
			w.t.Errorf("%s: on record through %s as\n%sbut through %s as\n%s", deed, first, record, d.name, what)
		}
	}
	if first == "" {
		w.t.Errorf("no door can %s as %q", deed, as)
	}
}
