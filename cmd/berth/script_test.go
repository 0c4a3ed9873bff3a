package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	gcr "github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/rogpeppe/go-internal/testscript"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"berth/cmd/berth/client"
	"berth/testenv"
)

// TestMain makes this test binary the programs of the scripts too: berth
// itself, and a credential helper.
func TestMain(m *testing.M) {
	testscript.Main(withServers{m}, map[string]func(){
		"berth":                  main,
		"docker-credential-file": credentialHelper,
		client.HelperProgram:     main,
	})
}

// withServers stops what testenv started.
type withServers struct{ m *testing.M }

func (w withServers) Run() int { return testenv.Main(w.m) }

// adminPassword is that of the user admin in the scripts.
const adminPassword = "admin's password"

// TestScripts runs testdata/script/*.txtar. Each has a server of its own, a
// child process on a free port, and is signed in there as admin; $HOST is its
// host and port. Beside the commands of testscript there are
//
//	push USER REPOSITORY:TAG SEED    push an image whose content is the seed
//	! push USER REPOSITORY:TAG SEED  the same, which must be refused
//	exits CODE PROGRAM ARGS...       run a program that ends with this code
//	capture NAME                     keep the last stdout in the variable NAME
//	dockerconfig FIELD               make admin's docker config hold, for $HOST, a refresh token
//	                                 (identitytoken) or a bearer token (registrytoken)
//	https                            put a proxy that speaks HTTPS before the server, at $HTTPS (host and
//	                                 port); its certificate's authority is the file ca.pem
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		Setup:               startServer,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"push":    push,
			"exits":   exits,
			"capture": capture,

			"dockerconfig": dockerConfig,
			"https":        https,
		},
	})
}

// startServer starts `berth serve` for a script and sets its environment.
func startServer(env *testscript.Env) error {
	dir := env.Getenv("WORK")
	cmd := exec.Command("berth", "serve", "--listen", "127.0.0.1:0", "--data-dir", filepath.Join(dir, ".server"))
	cmd.Env = append(os.Environ(), "BERTH_ADMIN_PASSWORD="+adminPassword, "BERTH_BACKUP_URL="+filepath.Join(dir, "server-backup"),
		"BERTH_TARGET_DATABASE_URL=sqlite:"+filepath.Join(dir, "target", "berth.db"), "BERTH_TARGET_STORAGE_URL=file:"+filepath.Join(dir, "target", "blobs"))
	var log bytes.Buffer
	cmd.Stderr = &log
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	t := env.T()
	env.Defer(func() {
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Log("stopping the server: ", err)
		}
		if err := cmd.Wait(); err != nil {
			t.Log("the server ended with ", err, "\n", log.String())
			t.FailNow()
		}
	})
	host := make(chan string, 1)
	go func() {
		for lines := bufio.NewScanner(stdout); lines.Scan(); {
			if _, url, ok := strings.Cut(lines.Text(), "running at http://"); ok {
				host <- strings.TrimSuffix(url, "/")
			}
		}
		close(host)
	}()
	select {
	case h := <-host:
		if h == "" {
			return errors.New("the server did not start:\n" + log.String())
		}
		env.Setenv("HOST", h)
	case <-time.After(time.Minute):
		return errors.New("the server did not start within a minute")
	}
	env.Setenv("BERTH_SERVER", env.Getenv("HOST"))
	env.Setenv("BERTH_USERNAME", "admin")
	env.Setenv("BERTH_PASSWORD", adminPassword)
	env.Setenv("HOME", dir)
	env.Setenv("DOCKER_CONFIG", filepath.Join(dir, ".docker"))
	return nil
}

// userPassword is the password that scripts give to a user.
func userPassword(user string) string { return user + "'s password" }

func push(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 3 {
		ts.Fatalf("usage: push USER REPOSITORY:TAG SEED")
	}
	ref, err := name.NewTag(ts.Getenv("HOST")+"/"+args[1], name.Insecure)
	ts.Check(err)
	image, err := mutate.Config(empty.Image, v1.Config{Labels: map[string]string{"seed": args[2]}})
	ts.Check(err)
	password := userPassword(args[0])
	if args[0] == "admin" {
		password = adminPassword
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	err = gcr.Write(ref, image, gcr.WithContext(ctx), gcr.WithAuth(&authn.Basic{Username: args[0], Password: password}))
	if neg {
		if err == nil {
			ts.Fatalf("the push was not refused")
		}
		ts.Logf("refused: %v", err)
		return
	}
	ts.Check(err)
}

func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE PROGRAM ARGS...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("%s ended with code %d, want %d", args[1], got, want)
	}
}

func capture(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: capture NAME")
	}
	ts.Setenv(args[0], strings.TrimSpace(ts.ReadFile("stdout")))
}

func https(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 0 {
		ts.Fatalf("usage: https")
	}
	proxy := httptest.NewTLSServer(httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: ts.Getenv("HOST")}))
	proxy.Config.ErrorLog = log.New(io.Discard, "", 0) // has what clients think of the certificate
	ts.Defer(proxy.Close)
	ts.Setenv("HTTPS", proxy.Listener.Addr().String())
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: proxy.Certificate().Raw})
	ts.Check(os.WriteFile(ts.MkAbs("ca.pem"), ca, 0o600))
}

func dockerConfig(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: dockerconfig FIELD")
	}
	resp, err := http.PostForm("http://"+ts.Getenv("HOST")+"/token", url.Values{
		"grant_type": {"password"}, "client_id": {"docker"}, "access_type": {"offline"}, "scope": {client.ApiScope},
		"username": {"admin"}, "password": {adminPassword},
	})
	ts.Check(err)
	defer resp.Body.Close()
	var tokens struct {
		Access  string `json:"access_token"`
		Refresh string `json:"refresh_token"`
	}
	ts.Check(json.NewDecoder(resp.Body).Decode(&tokens))
	value := map[string]string{"identitytoken": tokens.Refresh, "registrytoken": tokens.Access}[args[0]]
	if value == "" {
		ts.Fatalf("the token endpoint gave no %s (status %s)", args[0], resp.Status)
	}
	raw, err := json.Marshal(map[string]any{"auths": map[string]any{ts.Getenv("HOST"): map[string]string{args[0]: value}}})
	ts.Check(err)
	ts.Check(os.MkdirAll(ts.Getenv("DOCKER_CONFIG"), 0o700))
	ts.Check(os.WriteFile(filepath.Join(ts.Getenv("DOCKER_CONFIG"), "config.json"), raw, 0o600))
}

// credentialHelper keeps credentials in the file $CREDENTIALS, over the
// protocol of docker's credential helpers.
func credentialHelper() {
	type entry struct{ ServerURL, Username, Secret string }
	fail := func(err error) {
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
	}
	file := os.Getenv("CREDENTIALS")
	all := map[string]entry{}
	if raw, err := os.ReadFile(file); err == nil {
		fail(json.Unmarshal(raw, &all))
	}
	var in bytes.Buffer
	_, err := in.ReadFrom(os.Stdin)
	fail(err)
	key := strings.TrimSpace(in.String())
	switch os.Args[1] {
	case "get":
		e, ok := all[key]
		if !ok {
			fail(errors.New("credentials not found in native keychain")) // the text that docker looks for
		}
		fail(json.NewEncoder(os.Stdout).Encode(e))
		return
	case "store":
		var e entry
		fail(json.Unmarshal(in.Bytes(), &e))
		all[e.ServerURL] = e
	case "erase":
		delete(all, key)
	}
	raw, err := json.Marshal(all)
	fail(err)
	fail(os.WriteFile(file, raw, 0o600))
}
