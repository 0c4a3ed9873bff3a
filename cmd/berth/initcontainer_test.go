package main

import (
	"bytes"
	"encoding/pem"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"berth/cmd/berth/client"
)

// runInitContainer runs the command line and gives its exit code and what it said.
func runInitContainer(t *testing.T, args ...string) (int, string) {
	t.Helper()
	var stderr bytes.Buffer
	root := newRootCommand()
	root.SetOut(io.Discard)
	root.SetErr(&stderr)
	code := run(t.Context(), root, append([]string{"init-container"}, args...), &stderr)
	return code, stderr.String()
}

// Dockit, works when 12: whatever is wrong with the answer, the exit code is not 0,
// and the file that was there stays.
func TestInitContainerRefuses(t *testing.T) {
	file := filepath.Join(t.TempDir(), "bundle.pem")
	if err := os.WriteFile(file, []byte("before"), 0o600); err != nil {
		t.Fatal(err)
	}
	var answer http.HandlerFunc
	plain := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { answer(w, r) }))
	defer plain.Close()
	secure := httptest.NewUnstartedServer(plain.Config.Handler)
	secure.Config.ErrorLog = log.New(io.Discard, "", 0) // of handshakes that have to fail
	secure.StartTLS()
	defer secure.Close()
	certificate := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: secure.Certificate().Raw}))
	say := func(status int, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			_, _ = io.WriteString(w, body)
		}
	}
	for name, tt := range map[string]struct {
		answer http.HandlerFunc
		says   string
	}{
		"an error with a certificate": {say(500, certificate), "500"},
		"not found":                   {say(404, certificate), "404"},
		"no content":                  {say(204, ""), "204"},
		"a redirect":                  {func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/elsewhere", http.StatusFound) }, "302"},
		"nothing":                     {say(200, ""), "not certificates"},
		"HTML":                        {say(200, "<html>sign in</html>"), "not certificates"},
		"HTML before":                 {say(200, "<html>\n"+certificate), "not certificates"},
		"HTML behind":                 {say(200, certificate+"<html>"), "not certificates"},
		"JSON":                        {say(200, `{"errors":[]}`), "not certificates"},
		"a private key":               {say(200, certificate+"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"), "not certificates"},
		"a damaged certificate":       {say(200, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"), "cannot be read"},
		"cut off in a certificate":    {say(200, certificate+certificate[:200]), "not certificates"},
		"cut off on the way": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "10000")
			_, _ = io.WriteString(w, certificate)
		}, "ended early"},
		"too large": {say(200, strings.Repeat(certificate, client.MaxBundle/len(certificate)+1)), "larger"},
	} {
		t.Run(name, func(t *testing.T) {
			answer = tt.answer
			code, said := runInitContainer(t, file, "--base-url", plain.URL+"/v2")
			if code == 0 || !strings.Contains(said, tt.says) {
				t.Errorf("exit code %d: %s, want one that says %q", code, said, tt.says)
			}
			if got, err := os.ReadFile(file); err != nil || string(got) != "before" {
				t.Errorf("the file is %q, %v", got, err)
			}
		})
	}

	answer = say(200, certificate)
	if code, said := runInitContainer(t, file, "--base-url", secure.URL+"/v2"); code == 0 || !strings.Contains(said, "certificate") {
		t.Errorf("a server that nobody vouches for: %d %s", code, said)
	}
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, []byte(certificate), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, flags := range [][]string{{"--ca", ca}, {"--insecure"}} {
		if code, said := runInitContainer(t, append([]string{file, "--base-url", secure.URL + "/v2"}, flags...)...); code != 0 {
			t.Errorf("%q: %d %s", flags, code, said)
		}
	}
	if got, err := os.ReadFile(file); err != nil || string(got) != certificate {
		t.Errorf("the file is %q, %v", got, err)
	}
	info, err := os.Stat(file)
	if err != nil || info.Mode().Perm() != 0o644 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if left, err := os.ReadDir(filepath.Dir(file)); err != nil || len(left) != 1 {
		t.Errorf("left beside the file: %v, %v", left, err)
	}
}
