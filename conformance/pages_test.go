package conformance

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"berth/testenv"
)

// commands gives the commands of a section of a page, as somebody would paste them.
func commands(t *testing.T, page, heading string) string {
	t.Helper()
	root, err := testenv.Root()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(root, "docs", page))
	if err != nil {
		t.Fatal(err)
	}
	_, section, ok := strings.Cut(string(text), "\n## "+heading+"\n")
	if !ok {
		t.Fatalf("docs/%s has no section %q", page, heading)
	}
	section, _, _ = strings.Cut(section, "\n## ")
	var b strings.Builder
	for line := range strings.Lines(section) {
		if command, ok := strings.CutPrefix(line, "    "); ok || line == "\n" {
			b.WriteString(command)
			if line == "\n" {
				b.WriteString("\n")
			}
		}
	}
	return b.String()
}

// TestSignInPages runs the commands of the pages about sign-in, with other ports.
func TestSignInPages(t *testing.T) {
	for page, programs := range map[string][]string{
		"sign-in-ldap.md":   {"slapd", "ldapadd", "openssl"},
		"sign-in-oauth2.md": {"python3", "curl"},
	} {
		t.Run(page, func(t *testing.T) {
			for _, program := range programs {
				testenv.Tool(t, program)
			}
			d := &daemons{t: t}
			b := newBox(t, "DOCKER_HOST="+d.dockerd(t))
			docker := testenv.Tool(t, "docker")
			image := newArchive(t, "example.com/any:1")
			b.run(docker, "load", "-q", "-i", image.path)
			b.run(docker, "tag", image.id(t), "alpine")
			if err := os.Symlink(Binary(t), filepath.Join(b.home, "berth")); err != nil {
				t.Fatal(err)
			}
			script := commands(t, page, "Try it")
			for _, port := range []string{"5000", "3890", "9021"} {
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
			// What a person does not notice: that the servers take a moment.
			script = strings.ReplaceAll(script, "python3 tokeninfo.py &\n", "python3 tokeninfo.py 2>/dev/null &\nuntil curl -s http://$TOKENINFO >/dev/null; do sleep 0.05; kill -0 $!; done\n")
			script = strings.ReplaceAll(script, "./berth serve &\n", "./berth serve >berth.log 2>&1 &\nuntil curl -fsS http://$BERTH_LISTEN/readyz >/dev/null 2>&1; do sleep 0.05; kill -0 $! || { cat berth.log; exit 1; }; done\n")
			cmd := exec.Command("bash", "-eu", "-c", script)
			cmd.Dir, cmd.Env = b.home, b.env
			cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
			log := &logBuffer{}
			cmd.Stdout, cmd.Stderr = log, log
			cmd.WaitDelay = time.Second // the servers in the background keep the output open
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // the group that was made above
				if text, err := os.ReadFile(filepath.Join(b.home, "directory", "slapd.pid")); err == nil {
					if pid, err := strconv.Atoi(strings.TrimSpace(string(text))); err == nil && pid > 1 {
						_ = syscall.Kill(pid, syscall.SIGKILL)
					}
				}
			})
			timer := time.AfterFunc(2*time.Minute, func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
			defer timer.Stop()
			if err := cmd.Wait(); err != nil && !strings.Contains(err.Error(), "WaitDelay") {
				server, _ := os.ReadFile(filepath.Join(b.home, "berth.log"))
				t.Fatalf("%v\n%s\nof the script\n%s\nthe server's log:\n%s", err, tail(log.String(), 60), script, tail(string(server), 20))
			}
			if !strings.Contains(log.String(), "1.0: digest: sha256:") {
				t.Errorf("nothing was pushed:\n%s", tail(log.String(), 60))
			}
		})
	}
}
