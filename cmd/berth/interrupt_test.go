package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestExamplesWithoutServer runs the examples of all client commands against an address where
// nothing answers, without a terminal: each says in one sentence what is wrong, and none asks.
func TestExamplesWithoutServer(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := listener.Addr().String()
	listener.Close()
	t.Setenv("HOME", t.TempDir())
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	t.Setenv("BERTH_SERVER", "http://"+nobody)
	t.Setenv("BERTH_USERNAME", "admin")
	t.Setenv("BERTH_PASSWORD", "no matter")
	t.Setenv("AWS_ACCESS_KEY_ID", "id")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "key")
	t.Chdir(t.TempDir())
	alone := map[string]bool{"logout": true, "aws-token": true} // need no answer
	count := 0
	for _, c := range newRootCommand().Commands() {
		if c.GroupID != groupClient {
			continue
		}
		for _, words := range examplesBelow(c) {
			for i, w := range words {
				if i > 0 && (words[i-1] == "--server" || words[i-1] == "--base-url") && w != "" {
					words[i] = "http://" + nobody
				}
			}
			count++
			root := newRootCommand()
			root.SetIn(strings.NewReader(""))
			var stdout, stderr bytes.Buffer
			root.SetOut(&stdout)
			root.SetErr(&stderr)
			ctx, cancel := context.WithCancel(t.Context())
			timer := time.AfterFunc(30*time.Second, cancel)
			code := run(ctx, root, words, &stderr)
			if !timer.Stop() {
				t.Errorf("berth %s does not end", strings.Join(words, " "))
			}
			cancel()
			if alone[c.Name()] {
				continue
			}
			lines := strings.Split(strings.TrimSpace(stderr.String()), "\n")
			if code == 0 || !strings.HasPrefix(lines[0], "berth: ") || len(lines) > 1 && !strings.HasPrefix(lines[1], "See 'berth ") || len(lines) > 2 {
				t.Errorf("berth %s ends with code %d and says\n%s", strings.Join(words, " "), code, stderr.String())
			}
			if stdout.Len() > 0 {
				t.Errorf("berth %s prints %q", strings.Join(words, " "), stdout.String())
			}
		}
	}
	if count < 100 {
		t.Errorf("only %d examples were run", count)
	}
}

// TestInterrupt: Ctrl-C ends a command that asks on the terminal, and one that waits for a
// server that does not answer; the terminal shows again what is typed.
func TestInterrupt(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	asked := make(chan struct{}, 16)
	go func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			defer c.Close()
			asked <- struct{}{}
		}
	}()
	for name, test := range map[string]struct {
		args     []string
		password string
		prompt   string // what the terminal shows by then; "" waits for the request
	}{
		"password": {[]string{"user", "list", "--username", "alice"}, "", "Password of alice: "},
		"login":    {[]string{"login"}, "", ""},
		"confirm":  {[]string{"team", "delete", "core", "--username", "alice"}, "secret", "[y/N] "},
		"server":   {[]string{"user", "list", "--username", "alice"}, "secret", ""},
	} {
		t.Run(name, func(t *testing.T) {
			master, slave := openTerminal(t)
			cmd := exec.Command("berth", test.args...) // this binary, as in the scripts
			cmd.Env = append(os.Environ(), "BERTH_SERVER=http://"+listener.Addr().String(), "BERTH_PASSWORD="+test.password, "BERTH_USERNAME=",
				"HOME="+t.TempDir(), "DOCKER_CONFIG="+t.TempDir())
			cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
			cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
			before, err := unix.IoctlGetTermios(int(slave.Fd()), unix.TCGETS)
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			timer := time.AfterFunc(30*time.Second, func() { _ = cmd.Process.Kill() })
			defer timer.Stop()
			if test.prompt == "" {
				select {
				case <-asked:
				case <-time.After(30 * time.Second):
					t.Error("no request came")
				}
			} else {
				shown := ""
				for buf := make([]byte, 256); !strings.Contains(shown, test.prompt); {
					n, err := master.Read(buf)
					if err != nil {
						t.Fatalf("%v after %q", err, shown)
					}
					shown += string(buf[:n])
				}
			}
			if _, err := master.Write([]byte{3}); err != nil { // Ctrl-C
				t.Fatal(err)
			}
			err = cmd.Wait()
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.ExitCode() != interrupted {
				t.Errorf("ended with %v, want exit code %d", err, interrupted)
			}
			after, err := unix.IoctlGetTermios(int(slave.Fd()), unix.TCGETS)
			if err != nil {
				t.Fatal(err)
			}
			if after.Lflag != before.Lflag {
				t.Errorf("the terminal is left with the flags %x, which were %x", after.Lflag, before.Lflag)
			}
			slave.Close()
			rest, _ := io.ReadAll(master) // ends with EIO when nobody has the other side any more
			if !strings.Contains(string(rest), "berth: interrupted\r\n") {
				t.Errorf("says %q", rest)
			}
		})
	}
}

// openTerminal makes a pseudo terminal.
func openTerminal(t *testing.T) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { master.Close() })
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	number, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { slave.Close() })
	return master, slave
}
