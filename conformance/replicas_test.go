package conformance

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// replicas starts n servers on one Postgres and one MinIO.
func replicas(t *testing.T, n int, env ...string) (*Backend, []*Server) {
	t.Helper()
	b := NewBackend(t, Distributed)
	servers := make([]*Server, n)
	for i := range servers {
		servers[i] = b.Launch(t, Binary(t), env...)
	}
	for _, s := range servers {
		s.WaitReady(t)
	}
	return b, servers
}

// at gives the URL of an upload session on another server.
func at(s *Server, location string) string {
	i := strings.Index(location, "/v2/")
	return s.URL + location[i:]
}

// Any replica continues any upload, whatever the size of the chunks is.
func TestReplicasContinueUploads(t *testing.T) {
	t.Parallel()
	_, servers := replicas(t, 2)
	for _, test := range []struct{ chunk, count int }{{1, 40}, {64 << 10, 40}, {5<<20 + 1, 6}} {
		t.Run(fmt.Sprint(test.chunk), func(t *testing.T) {
			clients := []*Client{servers[0].Admin(t), servers[1].Admin(t)}
			repo := unique("replicas/chunks")
			content := random(test.chunk * test.count)
			d := sha256Of(content)
			loc := clients[0].StartUpload(repo)
			for i := range test.count {
				c := clients[i%2]
				start, end := i*test.chunk, (i+1)*test.chunk
				r := c.Do("PATCH", at(servers[i%2], loc), content[start:end], fmt.Sprintf("Content-Range: %d-%d", start, end-1)).
					Want(202).WantHeader("Range", fmt.Sprintf("0-%d", end-1))
				loc = r.Location(c)
				clients[(i+1)%2].Do("GET", at(servers[(i+1)%2], loc), nil).Want(204).WantHeader("Range", fmt.Sprintf("0-%d", end-1))
			}
			clients[1].Do("PUT", with(at(servers[1], loc), "digest="+d), nil).Want(201).WantHeader("Docker-Content-Digest", d)
			for _, c := range clients {
				c.Do("GET", "/v2/"+repo+"/blobs/"+d, nil).Want(200).WantBody(content)
			}
		})
	}
}

// The serving replica is killed with kill -9 in the middle of a PATCH; the
// client asks the other one where it stands, and goes on there.
func TestReplicaKilledInTheMiddleOfAPatch(t *testing.T) {
	t.Parallel()
	_, servers := replicas(t, 2)
	first, second := servers[0], servers[1]
	repo := unique("replicas/killed")
	content := random(64 << 20)
	d := sha256Of(content)
	a, b := first.Admin(t), second.Admin(t)
	loc := a.StartUpload(repo)
	const before = 7 << 20
	loc = a.Do("PATCH", loc, content[:before], fmt.Sprintf("Content-Range: 0-%d", before-1)).Want(202).Location(a)

	body, feed := io.Pipe()
	go func() {
		_, _ = feed.Write(content[before : 40<<20])
		time.Sleep(200 * time.Millisecond)
		first.Kill()
		feed.CloseWithError(io.ErrUnexpectedEOF)
	}()
	r, err := a.TryStream("PATCH", loc, body, int64(len(content)-before), fmt.Sprintf("Content-Range: %d-%d", before, len(content)-1))
	if err == nil {
		t.Fatalf("the PATCH to a killed server was answered with %d", r.Status)
	}

	loc = at(second, loc)
	have := resumePoint(t, b, loc)
	if have < before {
		t.Fatalf("after the kill the session has %d bytes, but %d were acknowledged", have, before)
	}
	t.Logf("killed after 40 MiB were sent, %d MiB of them acknowledged; resumed at byte %d", before>>20, have)
	loc = b.Do("PATCH", loc, content[have:], fmt.Sprintf("Content-Range: %d-%d", have, len(content)-1)).Want(202).Location(b)
	b.Do("PUT", with(loc, "digest="+d), nil).Want(201)
	b.Do("GET", "/v2/"+repo+"/blobs/"+d, nil).Want(200).WantBody(content)

	// The killed one starts again and serves it too.
	first.Restart(t)
	a.Do("GET", "/v2/"+repo+"/blobs/"+d, nil).Want(200).WantBody(content)
}

// Two replicas start at once on an empty database: one migrates, one admin comes into being.
func TestReplicasStartAtOnce(t *testing.T) {
	t.Parallel()
	_, servers := replicas(t, 3)
	repo := unique("replicas/start")
	servers[0].Admin(t).PushImage(repo, "v1")
	for _, s := range servers {
		s.Admin(t).Do("GET", "/v2/"+repo+"/manifests/v1", nil).Want(200)
	}
}

// A token that one replica issues is good at the other.
func TestReplicasShareTokens(t *testing.T) {
	t.Parallel()
	_, servers := replicas(t, 2, "BERTH_URL=http://registry.test")
	repo := unique("replicas/tokens")
	raw, _ := servers[0].Admin(t).PushImage(repo, "v1")
	for i, s := range servers {
		token := s.Admin(t).Token("repository:" + repo + ":pull")
		servers[1-i].Anonymous(t).Do("GET", "/v2/"+repo+"/manifests/v1", nil, "Authorization: Bearer "+token).Want(200).WantBody(raw)
	}
}

// Token gets a token of the token endpoint for the scopes, the way docker does.
func (c *Client) Token(scopes ...string) string {
	c.t.Helper()
	path := "/token?service=" + service(c)
	for _, s := range scopes {
		path += "&scope=" + s
	}
	var answer struct {
		Token       string `json:"token"`
		AccessToken string `json:"access_token"`
		ExpiresIn   int    `json:"expires_in"`
	}
	c.Do("GET", path, nil).Want(200).JSON(&answer)
	if answer.Token == "" || answer.AccessToken != answer.Token || answer.ExpiresIn < 60 {
		c.t.Fatalf("the token endpoint's answer has token and access_token equal: %v, expires_in %d",
			answer.AccessToken == answer.Token, answer.ExpiresIn)
	}
	return answer.Token
}

// service is the one that the challenge names.
func service(c *Client) string {
	c.t.Helper()
	anonymous := *c
	anonymous.user = ""
	challenge := anonymous.Do("GET", "/v2/", nil).Want(401).Header.Get("WWW-Authenticate")
	_, rest, _ := strings.Cut(challenge, `service="`)
	name, _, _ := strings.Cut(rest, `"`)
	return name
}

// 64 pushers, 64 different manifests, one tag, two replicas: exactly one wins,
// and the history tells who tried.
func TestTagRace(t *testing.T) {
	for _, test := range []struct {
		name  string
		start func(t *testing.T) []*Server
	}{
		{"postgres, two replicas", func(t *testing.T) []*Server { _, s := replicas(t, 2); return s }},
		{"sqlite", func(t *testing.T) []*Server { return []*Server{Start(t, Embedded)} }},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			servers := test.start(t)
			const pushers = 64
			repo := unique("race/tag")
			c := servers[0].Admin(t)
			m := c.MakeImage(repo, 1)
			bodies := make([][]byte, pushers)
			for i := range bodies {
				m.Comment = fmt.Sprint(i)
				bodies[i] = m.Bytes()
			}
			results := make([]*Response, pushers)
			together(pushers, func(i int) {
				s := servers[i%len(servers)]
				r, err := s.Admin(t).TryStream("PUT", "/v2/"+repo+"/manifests/1.0.0", bytes.NewReader(bodies[i]), int64(len(bodies[i])), "Content-Type: "+typeManifest)
				if err != nil {
					t.Errorf("pusher %d: %v", i, err)
					return
				}
				results[i] = r
			})
			counts := map[string]int{}
			winner := -1
			for i, r := range results {
				if r == nil {
					continue
				}
				key := fmt.Sprint(r.Status)
				if errs := r.Errors(); len(errs) > 0 {
					key += " " + errs[0].Code
				}
				counts[key]++
				if r.Status == 201 {
					winner = i
				}
			}
			t.Logf("64 pushers, one tag: %v", counts)
			if counts["201"] != 1 || counts["409 DENIED"] != pushers-1 {
				t.Fatalf("want one 201 and 63 times 409 DENIED")
			}
			for _, s := range servers {
				s.Admin(t).Do("GET", "/v2/"+repo+"/manifests/1.0.0", nil).Want(200).WantBody(bodies[winner])
			}
			// The winner's push again is no change.
			servers[0].Admin(t).PushManifest(repo, "1.0.0", typeManifest, bodies[winner])

			events := tagHistory(t, servers[0], repo, "1.0.0")
			actions := map[string]int{}
			digests := map[string]bool{}
			for _, e := range events {
				actions[e.Action]++
				digests[e.Digest] = true
				if e.Actor != "admin" {
					t.Errorf("the history names %q, want admin", e.Actor)
				}
			}
			t.Logf("tag history: %v", actions)
			if len(events) != pushers || actions["refused"] != pushers-1 || len(digests) != pushers {
				t.Errorf("the history has %d events with %d digests, %v; want 1 push and 63 refusals of 64 digests", len(events), len(digests), actions)
			}
		})
	}
}

// A tagEvent is a line of a tag's history in the management API.
type tagEvent struct {
	Action string `json:"action"`
	Digest string `json:"digest"`
	Actor  string `json:"actor"`
}

// tagHistory reads a tag's whole history through the command line.
func tagHistory(t *testing.T, s *Server, repo, tag string) []tagEvent {
	t.Helper()
	out := s.Berth(t, "tag", "history", "-o", "json", repo+":"+tag)
	var events []tagEvent
	if err := json.Unmarshal([]byte(out), &events); err != nil {
		t.Fatalf("berth tag history -o json: %v\n%s", err, out)
	}
	return events
}

// together runs f(0) to f(n-1) at once and waits for all.
func together(n int, f func(int)) {
	var wg sync.WaitGroup
	start := make(chan struct{})
	for i := range n {
		wg.Go(func() {
			<-start
			f(i)
		})
	}
	close(start)
	wg.Wait()
}

// 64 clients push the same blob at once: 64 successes, one stored object.
func TestSameBlobAtOnce(t *testing.T) {
	t.Parallel()
	b, servers := replicas(t, 2)
	repo := unique("race/blob")
	content := random(6 << 20) // two parts at S3's least size
	d := sha256Of(content)
	together(64, func(i int) {
		s := servers[i%2]
		c := s.Admin(t)
		r, err := c.TryStream("POST", "/v2/"+repo+"/blobs/uploads/", nil, 0)
		if err != nil || r.Status != 202 {
			t.Errorf("client %d: starting: %v %v", i, r, err)
			return
		}
		r, err = c.TryStream("PUT", with(r.Location(c), "digest="+d), bytes.NewReader(content), int64(len(content)))
		if err != nil || r.Status != 201 {
			t.Errorf("client %d: pushing: %+v %v", i, r, err)
		}
	})
	servers[0].Admin(t).Do("GET", "/v2/"+repo+"/blobs/"+d, nil).Want(200).WantBody(content)
	objects := b.Bucket.Objects(t)
	t.Logf("64 pushes of one blob of 6 MiB: %d object(s) in the bucket", len(objects))
	if len(objects) != 1 {
		t.Errorf("the bucket holds %q, want one object", objects)
	}
}

// A graceful stop finishes what is in flight and takes nothing new.
func TestGracefulStop(t *testing.T) {
	t.Parallel()
	for _, v := range []Variant{Embedded, Distributed} {
		t.Run(v.String(), func(t *testing.T) {
			b := NewBackend(t, v)
			s := b.Start(t)
			c := s.Admin(t)
			repo := unique("stop/graceful")
			content := random(4 << 20)
			d := sha256Of(content)
			loc := c.StartUpload(repo)
			body, feed := io.Pipe()
			done := make(chan *Response, 1)
			go func() {
				r, err := c.TryStream("PUT", with(loc, "digest="+d), body, int64(len(content)))
				if err != nil {
					t.Errorf("the request in flight failed: %v", err)
				}
				done <- r
			}()
			_, _ = feed.Write(content[:2<<20])
			// What was written may still be in the kernel, and a request that the server
			// has not begun to read is not in flight. This one and /metrics make two.
			for seen := time.Now(); !strings.Contains(string(c.Do("GET", "/metrics", nil).Body), "\nregistry_http_in_flight_requests 2\n"); {
				if time.Since(seen) > time.Minute {
					t.Fatal("the request is not in flight after a minute")
				}
				time.Sleep(10 * time.Millisecond)
			}
			s.Terminate()
			// New connections are refused while the old request goes on.
			deadline := time.Now().Add(20 * time.Second) // less than its shutdown_timeout of 30 s, which cuts the old one off
			for {
				ctx, cancel := context.WithTimeout(context.Background(), time.Second)
				req, _ := http.NewRequestWithContext(ctx, "GET", s.URL+"/livez", nil)
				res, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
				cancel()
				if err != nil {
					break
				}
				res.Body.Close()
				if time.Now().After(deadline) {
					t.Fatal("the server still takes connections 20 s after SIGTERM")
				}
				time.Sleep(50 * time.Millisecond)
			}
			_, _ = feed.Write(content[2<<20:])
			feed.Close()
			if r := <-done; r == nil || r.Status != 201 {
				t.Fatalf("the request in flight ended with %+v, want 201", r)
			}
			if err := s.Wait(); err != nil {
				t.Errorf("the server's exit: %v, want 0", err)
			}
			s.Restart(t)
			c.Do("GET", "/v2/"+repo+"/blobs/"+d, nil).Want(200).WantBody(content)
		})
	}
}

// What was acknowledged survives kill -9, on every combination.
func TestKillLosesNothing(t *testing.T) {
	t.Parallel()
	for _, v := range Variants() {
		t.Run(v.String(), func(t *testing.T) {
			s := Start(t, v)
			c := s.Admin(t)
			repo := unique("kill/all")
			type pushed struct {
				tag string
				raw []byte
			}
			acknowledged := make(chan pushed, 100_000)
			first := make(chan struct{}) // closed when something was acknowledged, or cannot be any more
			begun := sync.OnceFunc(func() { close(first) })
			var wg sync.WaitGroup
			for w := range 4 {
				m := c.MakeImage(repo, 1)
				wg.Go(func() {
					defer begun()
					for i := 0; ; i++ {
						m.Comment = fmt.Sprint(w, " ", i)
						p := pushed{fmt.Sprintf("w%d-%d", w, i), m.Bytes()}
						r, err := c.TryStream("PUT", "/v2/"+repo+"/manifests/"+p.tag, bytes.NewReader(p.raw), int64(len(p.raw)), "Content-Type: "+typeManifest)
						if err != nil {
							return
						}
						if r.Status == 201 {
							acknowledged <- p
							begun()
						}
					}
				})
			}
			<-first
			time.Sleep(500 * time.Millisecond)
			s.Kill()
			wg.Wait()
			close(acknowledged)
			s.Restart(t)
			n := 0
			for p := range acknowledged {
				c.Do("GET", "/v2/"+repo+"/manifests/"+p.tag, nil).Want(200).WantBody(p.raw)
				n++
			}
			if n == 0 {
				t.Error("nothing was acknowledged before the kill")
			}
			t.Logf("%d pushes acknowledged before kill -9, all there after it", n)
		})
	}
}
