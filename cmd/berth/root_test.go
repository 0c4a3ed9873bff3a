package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"berth/cmd/berth/cli"
	"berth/cmd/berth/settings"
	"berth/testenv"
)

// everyCommand walks the command tree as run prepares it, but for the commands that cobra adds.
func everyCommand(t *testing.T, visit func(t *testing.T, c *cobra.Command)) {
	t.Helper()
	root := newRootCommand()
	prepare(root, new(bool))
	count := 0
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		if c.IsAdditionalHelpTopicCommand() {
			return
		}
		if c.HasParent() {
			count++
			t.Run(strings.ReplaceAll(strings.TrimPrefix(c.CommandPath(), "berth "), " ", "-"), func(t *testing.T) { visit(t, c) })
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(root)
	if count < 60 {
		t.Errorf("only %d commands were looked at", count)
	}
}

// TestHelp holds the help of all commands to one voice: a sentence without a full stop that
// says what the command does, and examples that this very command understands.
func TestHelp(t *testing.T) {
	everyCommand(t, func(t *testing.T, c *cobra.Command) {
		if c.Short == "" || !unicode.IsUpper(rune(c.Short[0])) || strings.HasSuffix(c.Short, ".") {
			t.Errorf("Short %q: begin with a capital letter and end without a full stop", c.Short)
		}
		if c.Long != "" && !strings.Contains(c.Long, ".") {
			t.Errorf("Long %q is not a sentence", c.Long)
		}
		examples := commandsOf(c.Example)
		if len(examples) == 0 {
			t.Fatalf("Example %q has no command", c.Example)
		}
		own := false
		for _, words := range examples {
			root := newRootCommand()
			prepare(root, new(bool))
			found, rest, err := root.Find(words)
			if err != nil {
				t.Errorf("example berth %s: %v", strings.Join(words, " "), err)
				continue
			}
			own = own || strings.HasPrefix(found.CommandPath(), c.CommandPath())
			if err := found.ParseFlags(rest); err != nil {
				t.Errorf("example berth %s: %v", strings.Join(words, " "), err)
				continue
			}
			if err := found.ValidateArgs(found.Flags().Args()); err != nil {
				t.Errorf("example berth %s: %v", strings.Join(words, " "), err)
			}
			if err := found.ValidateRequiredFlags(); err != nil {
				t.Errorf("example berth %s: %v", strings.Join(words, " "), err)
			}
			if err := found.ValidateFlagGroups(); err != nil {
				t.Errorf("example berth %s: %v", strings.Join(words, " "), err)
			}
		}
		if !own {
			t.Errorf("no example of its own in %q", c.Example)
		}
		c.LocalFlags().VisitAll(func(f *pflag.Flag) {
			if f.Usage == "" || strings.HasSuffix(f.Usage, ".") || unicode.IsUpper(rune(f.Usage[0])) && !unicode.IsUpper(rune(f.Usage[1])) {
				t.Errorf("--%s: usage %q: begin with a small letter and end without a full stop", f.Name, f.Usage)
			}
		})
	})
}

// word is a word of a shell's command line, with quotes.
var word = regexp.MustCompile(`(?:'[^']*'|"[^"]*"|[^\s'"])+`)

// commandsOf gives the arguments of the calls of berth in an example or in the code of a page.
func commandsOf(text string) [][]string {
	var commands [][]string
	for line := range strings.Lines(strings.ReplaceAll(text, "\\\n", " ")) {
		line, _, _ = strings.Cut(line, "  #")
		first, ours := true, false // word of a command, which is berth
		for _, w := range word.FindAllString(line, -1) {
			last := strings.HasSuffix(w, ";")
			w = strings.TrimSuffix(w, ";")
			switch {
			case w == "|" || w == "&" || w == "&&" || w == "||":
				last = true
			case strings.HasPrefix(w, "<") || strings.HasPrefix(w, ">"):
				ours = false
			case first && assignment.MatchString(w):
				continue
			case first && (w == "berth" || w == "./berth"):
				ours = true
				commands = append(commands, []string{})
			case ours && w != "":
				n := len(commands) - 1
				commands[n] = append(commands[n], strings.NewReplacer("'", "", `"`, "").Replace(w))
			}
			first = last
			ours = ours && !last
		}
	}
	return commands
}

// examplesBelow gives the examples of a command and of those below it.
func examplesBelow(c *cobra.Command) [][]string {
	examples := commandsOf(c.Example)
	for _, sub := range c.Commands() {
		examples = append(examples, examplesBelow(sub)...)
	}
	return examples
}

var assignment = regexp.MustCompile(`^[A-Za-z_]+=`)

// TestPagesNameCommands: a command in the README or a page is one that there is, with flags that there are.
func TestPagesNameCommands(t *testing.T) {
	root, err := testenv.Root()
	if err != nil {
		t.Fatal(err)
	}
	pages, err := filepath.Glob(filepath.Join(root, "docs", "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	count := 0
	for _, page := range append(pages, filepath.Join(root, "README.md"), filepath.Join(root, "deploy", "README.md")) {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		inline, blocks := codeOf(string(text))
		for i, words := range append(commandsOf(blocks), commandsOf(inline)...) {
			if slices.ContainsFunc(words, func(w string) bool { return strings.HasPrefix(w, "$") }) {
				continue // a shell variable holds flags
			}
			count++
			tree := newRootCommand()
			tree.InitDefaultCompletionCmd()
			tree.InitDefaultHelpCmd()
			prepare(tree, new(bool))
			found, rest, err := tree.Find(words)
			if err == nil {
				err = found.ParseFlags(rest)
			}
			if err == nil && i < len(commandsOf(blocks)) { // in a sentence arguments may be left out
				if err = found.ValidateArgs(found.Flags().Args()); err == nil {
					err = found.ValidateFlagGroups()
				}
			}
			if err != nil && !errors.Is(err, pflag.ErrHelp) {
				t.Errorf("%s: berth %s: %v", filepath.Base(page), strings.Join(words, " "), err)
			}
		}
	}
	if count < 100 {
		t.Errorf("only %d commands were found in the pages", count)
	}
}

// TestPagesNameSettings: a setting in a page, or in what deploys Berth, is one that there is.
func TestPagesNameSettings(t *testing.T) {
	root, err := testenv.Root()
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{
		"BERTH_CONFIG": true, // the settings file
		"BERTH_IMAGE":  true, // of compose.yaml
		"BERTH_TOKEN":  true, // of a job of GitLab
	}
	for _, s := range settings.All() {
		known[s.Env()] = true
		if s.Secret {
			known[s.Env()+"_FILE"] = true
		}
	}
	variable := regexp.MustCompile(`\bBERTH_[A-Z0-9_]*[A-Z0-9]\b`)
	count := 0
	for _, pattern := range []string{"README.md", "docs/*.md", "docs/decisions/*.md", "deploy/*.md", "deploy/*/*", "deploy/*/*/*", "Dockerfile"} {
		files, err := filepath.Glob(filepath.Join(root, filepath.FromSlash(pattern)))
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %d files, %v", pattern, len(files), err)
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				continue // a directory
			}
			for _, name := range variable.FindAllString(string(text), -1) {
				count++
				if !known[name] && !settings.ClientVariable(name) {
					t.Errorf("%s: there is no setting %s", filepath.Base(file), name)
				}
			}
		}
	}
	if count < 100 {
		t.Errorf("only %d settings were found", count)
	}
}

// TestReadmePlainHTTP: the README has a line for each client that needs a flag for plain HTTP.
func TestReadmePlainHTTP(t *testing.T) {
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	for client, flag := range map[string]string{
		"berth": "--server http://", "docker": "insecure-registries", "docker buildx": "http = true", "podman, buildah": "--tls-verify=false",
		"skopeo": "--dest-tls-verify=false", "containerd, Kubernetes": `server = "http://`, "ctr": "--plain-http", "crane": "--insecure",
		"regctl": "--tls disabled", "oras": "--plain-http", "helm": "--plain-http", "cosign": "--allow-http-registry",
	} {
		_, line, ok := strings.Cut(string(text), "\n| "+client+" | ")
		if line, _, _ = strings.Cut(line, "\n"); !ok || !strings.Contains(line, flag) {
			t.Errorf("README.md has no line for %s that says %s", client, flag)
		}
	}
}

// codeOf gives the code of a page: what stands in a sentence between backquotes, and what is indented or fenced.
func codeOf(text string) (inline, blocks string) {
	var in, out strings.Builder
	fenced := false
	for line := range strings.Lines(text) {
		switch {
		case strings.HasPrefix(line, "```"):
			fenced = !fenced
		case fenced || strings.HasPrefix(line, "    "):
			out.WriteString(strings.TrimSpace(line) + "\n")
		default:
			for i, part := range strings.Split(line, "`") {
				if i%2 == 1 && len(strings.Fields(part)) > 1 {
					in.WriteString(part + "\n")
				}
			}
		}
	}
	return in.String(), out.String()
}

// TestUnknownArguments: what a command does not know is refused, and never passed over.
func TestUnknownArguments(t *testing.T) {
	everyCommand(t, func(t *testing.T, c *cobra.Command) {
		err := c.ValidateArgs([]string{"a", "b", "c", "d", "e"})
		if err == nil {
			t.Fatal("takes any number of arguments")
		}
		if text := err.Error(); strings.Contains(text, "arg(s)") || strings.Contains(text, "\n") {
			t.Errorf("says %q: one sentence, please, that says what the command takes", text)
		}
	})
}

// TestFlags: what prints data prints JSON, and a letter stands for one flag everywhere.
func TestFlags(t *testing.T) {
	letters := map[string]string{}
	everyCommand(t, func(t *testing.T, c *cobra.Command) {
		c.Flags().VisitAll(func(f *pflag.Flag) {
			if was := letters[f.Shorthand]; f.Shorthand != "" && was != "" && was != f.Name {
				t.Errorf("-%s is --%s, and --%s elsewhere", f.Shorthand, f.Name, was)
			}
			letters[f.Shorthand] = f.Name
		})
		if c.HasSubCommands() || slices.Contains(withoutJSON, c.CommandPath()) {
			return
		}
		f := c.Flag("output")
		if f == nil || f.Shorthand != "o" {
			t.Fatal("has no --output, -o")
		}
		if f.Value.Set("json") != nil || f.Value.Set("xml") == nil {
			t.Error("--output does not take json, or takes anything")
		}
	})
}

// withoutJSON are the commands that print no data, or in a form that others have fixed.
var withoutJSON = []string{
	"berth serve",
	"berth credential-helper", "berth init-container",
	"berth rbac grant", "berth rbac revoke", "berth rbac add", "berth rbac remove", "berth rbac enable", "berth rbac disable",
	"berth rbac permissions", "berth rbac add-member", "berth rbac remove-member", "berth rbac change-password",
}

// TestCompletion: the shell completes the words of every flag that takes one of a few.
func TestCompletion(t *testing.T) {
	everyCommand(t, func(t *testing.T, c *cobra.Command) {
		c.Flags().VisitAll(func(f *pflag.Flag) {
			if one, ok := f.Value.(*cli.Choice); ok {
				complete, ok := c.GetFlagCompletionFunc(f.Name)
				if !ok {
					t.Errorf("--%s is not completed", f.Name)
					return
				}
				if names, _ := complete(c, nil, ""); !slices.Equal(names, one.Values) {
					t.Errorf("--%s is completed as %q", f.Name, names)
				}
			}
		})
	})
}

// The help of a command lists its own flags; the settings, which are flags too, have a page of their own.
func TestHelpListsOwnFlags(t *testing.T) {
	help := func(args ...string) string {
		root := newRootCommand()
		var out, stderr strings.Builder
		root.SetOut(&out)
		root.SetErr(&stderr)
		if code := run(t.Context(), root, args, &stderr); code != 0 {
			t.Errorf("berth %s ends with code %d: %s", strings.Join(args, " "), code, stderr.String())
		}
		return out.String()
	}
	setting := regexp.MustCompile(`(?m)^ +--(?:[a-z0-9-]+) .*\(BERTH_`)
	everyCommand(t, func(t *testing.T, c *cobra.Command) {
		words := strings.Fields(c.CommandPath())[1:]
		text := help(append(words, "--help")...)
		if found := setting.FindString(strings.ReplaceAll(text, "--config", "")); found != "" {
			t.Errorf("the help lists the setting%s", found)
		}
		if c.Flags().Lookup("data-dir") != nil && !strings.Contains(text, "berth help settings") {
			t.Error("the help does not say where the settings are")
		}
		if lines := strings.Count(text, "\n"); lines > 70 {
			t.Errorf("the help has %d lines", lines)
		}
	})
	if text := help("gc", "--help"); !strings.Contains(text, "--dry-run") || !strings.Contains(text, "--config") {
		t.Errorf("the help of gc lacks flags of its own:\n%s", text)
	}
	for _, words := range [][]string{{"help", "settings"}, {"settings"}, {"settings", "--help"}} {
		text := help(words...)
		for _, s := range settings.All() {
			if !strings.Contains(text, "--"+s.Flag()+" ") && !strings.Contains(text, "--"+s.Flag()+"\n") && !strings.Contains(text, "--"+s.Flag()+"[") {
				t.Errorf("berth %s does not list --%s", strings.Join(words, " "), s.Flag())
			}
		}
		if !strings.Contains(strings.Join(strings.Fields(text), " "), "10m to 2160h") {
			t.Errorf("berth %s does not say the bounds of gc_grace", strings.Join(words, " "))
		}
	}
	if text := help("--help"); !strings.Contains(text, "berth settings") {
		t.Errorf("berth --help does not name the page of settings:\n%s", text)
	}
}

// berth --version says what 'berth version' does.
func TestVersionFlag(t *testing.T) {
	for _, words := range [][]string{{"--version"}, {"version"}} {
		root := newRootCommand()
		var out strings.Builder
		root.SetOut(&out)
		if code := run(t.Context(), root, words, &out); code != 0 || out.String() != "berth "+version+"\n" {
			t.Errorf("berth %s ends with code %d and says %q", words[0], code, out.String())
		}
	}
}

// TestRedirects checks that neither a password nor a token follows a redirect
// to another host.
func TestRedirects(t *testing.T) {
	thief := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		t.Errorf("the other host got %s %s with %q and %q", r.Method, r.URL, r.Header.Get("Authorization"), body)
	}))
	defer thief.Close()
	t.Setenv("BERTH_USERNAME", "alice")
	t.Setenv("BERTH_PASSWORD", "alice's password")
	for _, tokens := range []bool{false, true} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if tokens && r.URL.Path == "/token" {
				w.Header().Set("Content-Type", "application/json")
				fmt.Fprint(w, `{"access_token":"secret","token_type":"Bearer","expires_in":300}`)
				return
			}
			http.Redirect(w, r, thief.URL+r.URL.Path, http.StatusTemporaryRedirect)
		}))
		var stderr bytes.Buffer
		code := run(t.Context(), newRootCommand(), []string{"whoami", "--server", server.URL}, &stderr)
		server.Close()
		if code != 1 || !strings.Contains(stderr.String(), "307 Temporary Redirect") || !strings.Contains(stderr.String(), "--server") {
			t.Errorf("code %d: %s", code, stderr.String())
		}
	}
}

// TestCommands asks of every command what the house promises: an example and
// a help that can be printed.
func TestCommands(t *testing.T) {
	var visit func(c *cobra.Command)
	visit = func(c *cobra.Command) {
		if c.IsAdditionalHelpTopicCommand() {
			return
		}
		if c.HasParent() && (!strings.Contains(c.Example, c.CommandPath()) || c.Short == "" || strings.HasSuffix(c.Short, ".")) {
			t.Errorf("%s: needs an example with this command, and a short description without a full stop", c.CommandPath())
		}
		for _, child := range c.Commands() {
			visit(child)
		}
	}
	visit(newRootCommand())

	var out bytes.Buffer
	root := newRootCommand()
	root.SetOut(&out)
	if code := run(t.Context(), root, []string{"user", "create", "--help"}, &out); code != 0 || !strings.Contains(out.String(), "--new-password-stdin") {
		t.Errorf("exit code %d, output %s", code, out.String())
	}
}

// TestConfigMasksURLs: berth config prints no password, wherever in a URL it stands.
func TestConfigMasksURLs(t *testing.T) {
	for in, want := range map[string]string{
		"s3://AKIA:se/cr+et@bucket/prefix?region=eu":                      "s3://***@bucket/prefix?region=eu",
		"s3://bucket/a?endpoint=http://user:secret@minio:9000&region=eu":  "s3://bucket/a?endpoint=http://***@minio:9000&region=eu",
		"s3://bucket/a?endpoint=http%3A%2F%2Fuser%3Asecret%40minio%3A900": "s3://bucket/a?endpoint=http%3A%2F%2F***%40minio%3A900",
		"s3://bucket?secret_access_key=secret&region=eu":                  "s3://bucket?secret_access_key=***&region=eu",
		"ldaps://cn=berth:secret@ldap.example/dc=example":                 "ldaps://***@ldap.example/dc=example",
		"https://secret@registry.example":                                 "https://***@registry.example",
		"s3://blobs/berth?region=eu-central-1&path_style=true":            "s3://blobs/berth?region=eu-central-1&path_style=true",
		"file:/var/lib/berth@home":                                        "file:/var/lib/berth@home",
		"latest,*-SNAPSHOT":                                               "latest,*-SNAPSHOT",
	} {
		if got := settings.MaskURLs(in); got != want {
			t.Errorf("%q becomes %q, want %q", in, got, want)
		}
	}
	t.Setenv("BERTH_STORAGE_URL", "s3://AKIA:secret@bucket?endpoint=http://u:secret@127.0.0.1:9")
	t.Setenv("BERTH_DATABASE_URL", "postgres://u:secret@db/berth")
	for _, args := range [][]string{{"config"}, {"config", "-o", "json"}} {
		root := newRootCommand()
		var out bytes.Buffer
		root.SetOut(&out)
		if code := run(t.Context(), root, args, &out); code != 0 || strings.Contains(out.String(), "secret@") || strings.Contains(out.String(), ":secret") {
			t.Errorf("%v: exit code %d\n%s", args, code, &out)
		}
	}
}

// An error that has text of others is printed without what would steer the terminal.
func TestTerminalShowsErrorsOfOthers(t *testing.T) {
	cmd := &cobra.Command{Use: "x", SilenceErrors: true, SilenceUsage: true, RunE: func(*cobra.Command, []string) error {
		return errors.New("fine\x1b[2J\x1b]0;owned\a\u202e\u2066\r")
	}}
	var stderr bytes.Buffer
	if code := run(t.Context(), cmd, []string{}, &stderr); code != 1 || strings.ContainsAny(stderr.String(), "\x1b\a\r\u202e\u2066") || !strings.Contains(stderr.String(), `\x1b[2J`) {
		t.Errorf("exit code %d, %q", code, stderr.String())
	}
}
