package serve

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"berth/auth"
	"berth/cmd/berth/client"
	"berth/cmd/berth/open"
	"berth/cmd/berth/operate"
	"berth/cmd/berth/settings"
	"berth/metadata"
	"berth/metadata/metadatatest"
	"berth/testenv"
)

// A duration in a log of JSON has its unit in its name; in text it is written with it.
func TestLogDurations(t *testing.T) {
	for format, want := range map[string]string{"json": `"duration_ms":1.25,"at_most_ms":30000}`, "text": "duration=1.25ms at_most=30s"} {
		c, err := settings.Load(pflag.NewFlagSet("", pflag.ContinueOnError), []string{"BERTH_LOG_FORMAT=" + format})
		if err != nil {
			t.Fatal(err)
		}
		var log bytes.Buffer
		open.Logger(c, &log).Info("a line", slog.Duration("duration", 1250*time.Microsecond), "at_most", 30*time.Second)
		if !strings.HasSuffix(strings.TrimSpace(log.String()), want) {
			t.Errorf("%s: %s, want %s", format, log.String(), want)
		}
	}
}

// A lost password of the admin is set while no server runs, on both engines; and a setting
// admin_password that counts no more is said in the log.
func TestLostAdminPassword(t *testing.T) {
	metadatatest.EachURL(t, func(t *testing.T, database string) {
		data := t.TempDir()
		start := func(env ...string) (log string) {
			t.Helper()
			c, err := settings.Load(pflag.NewFlagSet("", pflag.ContinueOnError),
				append(env, "BERTH_LISTEN=127.0.0.1:0", "BERTH_DATA_DIR="+data, "BERTH_DATABASE_URL="+database))
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			var lines bytes.Buffer
			if err := serve(ctx, c, "test", &printed{text: "docker push", then: cancel}, slog.New(slog.NewTextHandler(&lines, nil))); err != nil {
				t.Fatal(err)
			}
			return lines.String()
		}
		const ignored = "the setting admin_password is ignored"
		if log := start("BERTH_ADMIN_PASSWORD=the first one"); strings.Contains(log, ignored) {
			t.Errorf("at the first start:\n%s", log)
		}
		if log := start(); strings.Contains(log, ignored) {
			t.Errorf("without the setting:\n%s", log)
		}
		if log := start("BERTH_ADMIN_PASSWORD=another one"); !strings.Contains(log, ignored) || !strings.Contains(log, "berth user password admin --local") {
			t.Errorf("with the setting:\n%s", log)
		}

		signIn := func(password string) error {
			db, err := metadata.Open(t.Context(), metadata.Options{URL: database})
			if err != nil {
				t.Fatal(err)
			}
			defer db.Close()
			chain := auth.NewChain(nil, auth.NewPasswords(db, auth.NewHasher(1), nil))
			_, err = chain.Authenticate(t.Context(), auth.Credentials{Username: "admin", Password: password})
			return err
		}
		if err := signIn("the first one"); err != nil {
			t.Fatal(err)
		}
		cmd := operate.NewUserPasswordCommand(&client.Remote{})
		var out strings.Builder
		cmd.SetIn(strings.NewReader("the new one\n"))
		cmd.SetOut(&out)
		cmd.SetArgs([]string{"admin", "--local", "--new-password-stdin", "--data-dir", data, "--database-url", database})
		if err := cmd.ExecuteContext(t.Context()); err != nil || out.String() != "the password of admin is set\n" {
			t.Fatalf("%v, and says %q", err, out.String())
		}
		if err := signIn("the new one"); err != nil {
			t.Error(err)
		}
		if err := signIn("the first one"); err == nil {
			t.Error("the lost password still signs in")
		}
	})
}

// printed is stdout until it has a text.
type printed struct {
	bytes.Buffer
	text string
	then func()
}

func (p *printed) Write(b []byte) (int, error) {
	n, err := p.Buffer.Write(b)
	if strings.Contains(p.String(), p.text) {
		p.then()
	}
	return n, err
}

// TestFirstStart: the password of the user admin is printed once, so a start that cannot go on,
// such as one whose port is taken, must not make the user.
func TestFirstStart(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	data := filepath.Join(t.TempDir(), "data")
	start := func(env ...string) (string, error) {
		t.Helper()
		c, err := settings.Load(pflag.NewFlagSet("", pflag.ContinueOnError), append(env, "BERTH_DATA_DIR="+data))
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		out := &printed{text: "docker push", then: cancel}
		err = serve(ctx, c, "test", out, slog.New(slog.DiscardHandler))
		return out.String(), err
	}
	for _, env := range [][]string{
		{"BERTH_LISTEN=" + taken.Addr().String()},
		{"BERTH_LISTEN=127.0.0.1:0", "BERTH_METRICS_LISTEN=" + taken.Addr().String()},
	} {
		out, err := start(env...)
		if err == nil || !strings.Contains(err.Error(), "is in use: stop what listens there") || out != "" {
			t.Errorf("%q: %v, and prints %q", env, err, out)
		}
	}
	out, err := start("BERTH_LISTEN=127.0.0.1:0")
	if err != nil || !strings.Contains(out, "    password  ") {
		t.Errorf("the first start that succeeds: %v, and prints %q", err, out)
	}
	if out, err = start("BERTH_LISTEN=127.0.0.1:0"); err != nil || strings.Contains(out, "    password  ") {
		t.Errorf("the second one: %v, and prints %q", err, out)
	}
}

// TestStop: a server that stops says so on /readyz while it still takes connections, closes none of
// them under a request, and then cuts what is not through, which the client is told, keeps its
// bytes, and is no fault of the client's in the log.
func TestStop(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	start := func(env ...string) (address string, stop context.CancelFunc, log *lockedBuffer, ended chan error) {
		t.Helper()
		free, err := testenv.FreePort()
		if err != nil {
			t.Fatal(err)
		}
		c, err := settings.Load(pflag.NewFlagSet("", pflag.ContinueOnError), append(env, "BERTH_DATA_DIR="+data, "BERTH_LISTEN="+free, "BERTH_ADMIN_PASSWORD=password-of-admin"))
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		serving, ready := context.WithCancel(t.Context())
		log, ended = &lockedBuffer{}, make(chan error, 1)
		go func() {
			ended <- serve(ctx, c, "test", &printed{text: "docker push", then: ready}, slog.New(slog.NewTextHandler(log, nil)))
		}()
		<-serving.Done()
		return free, stop, log, ended
	}
	ask := func(client *http.Client, method, url string, body io.Reader) (*http.Response, string, error) {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), method, url, body)
		if err != nil {
			t.Fatal(err)
		}
		r.SetBasicAuth("admin", "password-of-admin")
		res, err := client.Do(r)
		if err != nil {
			return nil, "", err
		}
		defer res.Body.Close()
		raw, err := io.ReadAll(res.Body)
		return res, string(raw), err
	}

	address, stop, log, ended := start("BERTH_DRAIN_TIME=5s", "BERTH_SHUTDOWN_TIMEOUT=0s")
	defer stop()
	kept := &http.Client{Transport: &http.Transport{}}
	defer kept.CloseIdleConnections()
	begun, text, err := ask(kept, "POST", "http://"+address+"/v2/team/app/blobs/uploads/", nil)
	if err != nil || begun.StatusCode != http.StatusAccepted || begun.Close {
		t.Fatalf("beginning an upload: %v %s", err, text)
	}
	location := begun.Header.Get("Location")
	slow, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer slow.Close()
	fmt.Fprintf(slow, "PATCH %s HTTP/1.1\r\nHost: x\r\nAuthorization: Basic %s\r\nContent-Length: 100\r\n\r\n0123456789",
		location, base64.StdEncoding.EncodeToString([]byte("admin:password-of-admin")))

	stop()
	fresh := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	for deadline := time.Now().Add(time.Minute); ; {
		res, text, err := ask(fresh, "GET", "http://"+address+"/readyz", nil)
		if err != nil || time.Now().After(deadline) {
			t.Fatalf("the listener closed before /readyz said that the server stops: %v", err)
		}
		if res.StatusCode == http.StatusServiceUnavailable && strings.Contains(text, "stopping\n") {
			break
		}
	}
	if res, text, err := ask(kept, "GET", "http://"+address+"/v2/", nil); err != nil || res.StatusCode != http.StatusOK || !res.Close {
		t.Errorf("a kept-alive connection while stopping: %v %s", err, text)
	}
	res, err := http.ReadResponse(bufio.NewReader(slow), nil)
	if err != nil || res.StatusCode != http.StatusServiceUnavailable || res.Header.Get("Retry-After") == "" || res.Header.Get("Range") != "0-9" {
		t.Errorf("the slow upload: %v, %+v", err, res)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	for line := range strings.Lines(log.String()) {
		if strings.Contains(line, "method=PATCH") && (!strings.Contains(line, "status=503") || !strings.Contains(line, "level=WARN")) {
			t.Errorf("the log says %s", line)
		}
	}

	address, stop, _, ended = start()
	defer stop()
	if res, text, err := ask(kept, "GET", "http://"+address+location, nil); err != nil || res.Header.Get("Range") != "0-9" {
		t.Errorf("the upload afterwards: %v %s", err, text)
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
