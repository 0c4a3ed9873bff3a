package conformance

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"berth/testenv"
)

// What a push through HTTP costs in S3 requests, counted by MinIO: 1 for a
// blob that fits one part, the parts + 2 for a larger one, and never a COPY,
// a GET or a HEAD.
func TestS3RequestCounts(t *testing.T) {
	t.Parallel()
	b := NewBackend(t, Distributed)
	s := b.Start(t, "BERTH_STORAGE_PART_SIZE=5MiB")
	c := s.Admin(t)
	repo := unique("s3/counts")
	c.PushBlob(repo, []byte("first")) // what a server does once is done now
	counted(b, map[string]float64{}, map[string]float64{"PutObject": 1})
	const part = 5 << 20
	chunked := func(content []byte, chunk int) {
		loc := upload(t, c, repo, content, chunk)
		c.Do("PUT", with(loc, "digest="+sha256Of(content)), nil).Want(201)
	}
	for _, test := range []struct {
		name string
		push func()
		want map[string]float64
	}{
		{"small, single POST", func() { c.PushBlob(repo, random(1000)) }, map[string]float64{"PutObject": 1}},
		{"small, POST then PUT", func() {
			content := random(1000)
			c.Do("PUT", with(c.StartUpload(repo), "digest="+sha256Of(content)), content).Want(201)
		}, map[string]float64{"PutObject": 1}},
		{"small, of unknown length", func() {
			content := random(1000)
			c.Stream("PUT", with(c.StartUpload(repo), "digest="+sha256Of(content)), bytes.NewReader(content), -1).Want(201)
		}, map[string]float64{"PutObject": 1}},
		{"small, PATCH then PUT as docker", func() { chunked(random(1000), 1000) }, map[string]float64{"PutObject": 1}},
		{"exactly one part", func() { c.PushBlob(repo, random(part)) }, map[string]float64{"PutObject": 1}},
		// At most as many parts as the size asks for; the store joins them when it can.
		{"three parts and a rest", func() { c.PushBlob(repo, random(3*part+1)) },
			map[string]float64{"NewMultipartUpload": 1, "PutObjectPart": 4, "CompleteMultipartUpload": 1}},
		{"four parts, PATCH then PUT", func() { chunked(random(4*part), 4*part) },
			map[string]float64{"NewMultipartUpload": 1, "PutObjectPart": 4, "CompleteMultipartUpload": 1}},
		{"a known blob, HEAD first", func() {
			content := []byte("first")
			c.Do("HEAD", "/v2/"+repo+"/blobs/"+sha256Of(content), nil).Want(200)
			c.Do("POST", "/v2/"+repo+"-other/blobs/uploads/?mount="+sha256Of(content)+"&from="+repo, nil).Want(201)
		}, map[string]float64{}},
		{"a manifest", func() { c.PushManifest(repo, unique("t"), typeIndex, []byte(`{"schemaVersion":2,"manifests":[]}`)) }, map[string]float64{}},
		{"an upload that is given up", func() { c.Do("DELETE", c.StartUpload(repo), nil).Want(204) }, map[string]float64{}},
		// Written before its end was known, and removed again.
		{"a wrong digest", func() {
			c.Do("POST", "/v2/"+repo+"/blobs/uploads/?digest="+sha256Of(nil), random(1000)).WantError(400, "DIGEST_INVALID")
		}, map[string]float64{"PutObject": 1, "DeleteObject": 1}},
		{"a pull", func() { c.Do("GET", "/v2/"+repo+"/blobs/"+sha256Of([]byte("first")), nil).Want(200) }, map[string]float64{"GetObject": 1}},
	} {
		t.Run(test.name, func(t *testing.T) {
			before := b.Bucket.Metrics()
			test.push()
			got := counted(b, before, test.want)
			t.Logf("%s: %v", test.name, got)
			if parts := got["PutObjectPart"]; parts > 1 && parts < test.want["PutObjectPart"] {
				test.want["PutObjectPart"] = parts
			}
			if !maps.Equal(got, test.want) {
				t.Errorf("S3 requests %v, want %v", got, test.want)
			}
		})
	}
}

// counted gives what MinIO has counted for the bucket since before, once it has counted what is wanted, or has
// not for half a minute, and no more has come for a while. /readyz and
// the background jobs are left out by counting what changes objects or reads them.
func counted(b *Backend, before, want map[string]float64) map[string]float64 {
	// MinIO counts a request when its answer is out, which may be a moment after we have it.
	const quiet = 200 * time.Millisecond
	var got map[string]float64
	changed := time.Now()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		now := map[string]float64{}
		for name, n := range b.Bucket.Metrics() {
			if d := n - before[name]; d != 0 {
				now[name] = d
			}
		}
		if !maps.Equal(now, got) {
			got, changed = now, time.Now()
		}
		missing := false
		for name, n := range want {
			missing = missing || got[name] < min(n, 1) // of parts fewer are right too
		}
		if time.Since(changed) > quiet && !missing || time.Now().After(deadline) {
			return got
		}
	}
}

// Memory has a budget: 100 uploads of 64 MiB at once over S3 stay below 400
// MiB resident, and the size of a blob changes nothing.
func TestMemoryOfManyUploads(t *testing.T) {
	b := NewBackend(t, Distributed)
	s := b.Launch(t, PlainBinary(t))
	s.WaitReady(t)
	const uploads, size = 100, 64 << 20
	repo := unique("memory/uploads")
	began := time.Now()
	together(uploads, func(i int) {
		// Each blob is its own: a stream from a seed, hashed as it is made.
		d := seededDigest(uint64(i), size)
		c := s.Admin(t)
		r, err := c.TryStream("POST", "/v2/"+repo+"/blobs/uploads/?digest="+d, seeded(uint64(i), size), size)
		if err != nil || r.Status != 201 {
			t.Errorf("upload %d: %+v %v", i, r, err)
		}
	})
	peak := s.ResidentPeak(t)
	took := time.Since(began)
	testenv.Report(t, "%d uploads of %d MiB at once over S3: %d MiB resident at most, %v, %.0f MiB/s",
		uploads, size>>20, peak>>20, took.Round(time.Millisecond), float64(uploads*size>>20)/took.Seconds())
	if peak >= 400<<20 {
		t.Errorf("%d MiB resident, want less than 400", peak>>20)
	}
}

// Manifests of 3 to 4 MB that are pushed at once take turns in the memory budget: 40 of them in the default one need less than
// 400 MiB, and pulls go on beside them. With a budget in which they all fit it is what nobody counted before.
func TestMemoryOfLargeManifests(t *testing.T) {
	peak := func(budget string) (peak int64, pulls int, slowest, took time.Duration) {
		b := NewBackend(t, Embedded)
		s := b.Launch(t, PlainBinary(t), "BERTH_MEMORY_BUDGET="+budget)
		s.WaitReady(t)
		c := s.Admin(t)
		const repo = "memory/manifests"
		config := c.PushBlob(repo, []byte("{}"))
		raw, _ := c.PushImage(repo, "small")
		ctx, cancel := context.WithCancel(t.Context())
		beside := make(chan struct{})
		go func() {
			defer close(beside)
			for ctx.Err() == nil {
				began := time.Now()
				s.Admin(t).Do("GET", "/v2/"+repo+"/manifests/small", nil).Want(200).WantBody(raw)
				slowest = max(slowest, time.Since(began))
				pulls++
			}
		}()
		began := time.Now()
		together(40, func(i int) {
			// Many small things take more memory than a large one.
			var layers []string
			for j, n := 0, 0; n < 3_000_000+i*25_000; j++ {
				layers = append(layers, fmt.Sprintf(`{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":%q,"size":2,"annotations":{"org.example.note":"%0280x"}}`, config, i<<20+j))
				n += len(layers[j]) + 1
			}
			m := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":%q,"size":2},"layers":[%s]}`,
				typeManifest, config, strings.Join(layers, ","))
			s.Admin(t).Do("PUT", fmt.Sprintf("/v2/%s/manifests/large%d", repo, i), m, "Content-Type: "+typeManifest).Want(201)
		})
		took = time.Since(began)
		cancel()
		<-beside
		return s.ResidentPeak(t), pulls, slowest, took
	}
	for _, budget := range []string{"4GiB", "64MiB"} {
		most, pulls, slowest, took := peak(budget)
		testenv.Report(t, "40 manifests of 3 to 4 MB at once with a budget of %s: %d MiB resident at most, %v; beside them %d pulls of a manifest, the slowest took %v",
			budget, most>>20, took.Round(time.Millisecond), pulls, slowest.Round(time.Millisecond))
		if budget == "64MiB" && most >= 400<<20 {
			t.Errorf("%d MiB resident, want less than 400", most>>20)
		}
	}
}

// seeded is a stream of n bytes that the seed determines.
func seeded(seed uint64, n int64) io.Reader {
	var key [32]byte
	for i := range 8 {
		key[i] = byte(seed >> (8 * i))
	}
	return io.LimitReader(rand.NewChaCha8(key), n)
}

// With 200 clients trickling, one honest push still runs at half its lone
// speed or better. The speeds are printed; what is asserted is that memory is
// bounded and that the push gets through, as other load on the machine moves the rest.
func TestHonestPushAmongTricklers(t *testing.T) {
	b := NewBackend(t, Distributed)
	s := b.Launch(t, PlainBinary(t))
	s.WaitReady(t)
	repo := unique("memory/tricklers")
	const size = 256 << 20
	push := func(seed uint64) time.Duration {
		d := seededDigest(seed, size)
		began := time.Now()
		s.Admin(t).Stream("POST", "/v2/"+repo+"/blobs/uploads/?digest="+d, seeded(seed, size), size).Want(201)
		return time.Since(began)
	}
	push(1) // warm up
	lone := push(2)

	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	const tricklers = 200
	started := make(chan struct{}, tricklers)
	for i := range tricklers {
		go func() {
			c := s.Admin(t)
			r, err := c.TryStream("POST", "/v2/"+repo+"/blobs/uploads/", nil, 0)
			if err != nil || r.Status != 202 {
				t.Errorf("trickler %d: %+v %v", i, r, err)
				started <- struct{}{}
				return
			}
			req, err := http.NewRequestWithContext(ctx, "PATCH", r.Location(c), &trickle{ctx: ctx})
			started <- struct{}{}
			if err != nil {
				t.Error(err)
				return
			}
			req.ContentLength = 64 << 20
			req.SetBasicAuth("admin", AdminPassword)
			if res, err := newHTTPClient().Do(req); err == nil {
				res.Body.Close()
			}
		}()
	}
	for range tricklers {
		<-started
	}
	time.Sleep(2 * time.Second)
	among := push(3)
	peak := s.ResidentPeak(t)
	testenv.Report(t, "a push of %d MiB alone %v, among %d clients trickling 1 byte/s %v: %.0f%% of its lone speed; %d MiB resident at most",
		size>>20, lone.Round(time.Millisecond), tricklers, among.Round(time.Millisecond), 100*lone.Seconds()/among.Seconds(), peak>>20)
	if peak >= 400<<20 {
		t.Errorf("%d MiB resident, want less than 400", peak>>20)
	}
}

// trickle gives one byte a second until its context ends.
type trickle struct {
	ctx   context.Context // the request's, which http gives a reader no other way
	begun bool
}

func (r *trickle) Read(p []byte) (int, error) {
	if r.begun {
		select {
		case <-r.ctx.Done():
			return 0, r.ctx.Err()
		case <-time.After(time.Second):
		}
	}
	r.begun = true
	p[0] = 'x'
	return 1, nil
}

func (r *trickle) Close() error { return nil }

// A presigned redirect, when the setting is on: the bytes come from the bucket.
func TestRedirect(t *testing.T) {
	t.Parallel()
	b := NewBackend(t, Distributed)
	s := b.Start(t, "BERTH_STORAGE_REDIRECT=true")
	c := s.Admin(t)
	repo := unique("s3/redirect")
	content := random(10_000)
	d := c.PushBlob(repo, content)
	// At the address of the bucket, with another port, a client would send its credentials along.
	c.Do("GET", "/v2/"+repo+"/blobs/"+d, nil).Want(200).WantBody(content)
	c.base = strings.Replace(c.base, "127.0.0.1", "localhost", 1)
	r := c.Do("GET", "/v2/"+repo+"/blobs/"+d, nil).Want(307).WantHeader("Docker-Content-Digest", d)
	// Without our credentials, as clients do across hosts.
	res, err := http.Get(r.Location(c))
	if err != nil {
		t.Fatal(err)
	}
	got, err := drain(res.Body)
	if err != nil || res.StatusCode != 200 || !bytes.Equal(got, content) {
		t.Errorf("the link gave %s, %d bytes, %v", res.Status, len(got), err)
	}
	c.Do("HEAD", "/v2/"+repo+"/blobs/"+d, nil).Want(200).WantHeader("Content-Length", "10000")
}

// Sessions that nobody continues are cleaned up in the background, and their
// multipart uploads aborted: nothing is left in the bucket.
func TestStaleUploadsAreCleaned(t *testing.T) {
	t.Parallel()
	b := NewBackend(t, Distributed)
	s := b.Start(t, "BERTH_UPLOAD_TTL=1m", "BERTH_STORAGE_PART_SIZE=5MiB")
	c := s.Admin(t)
	repo := unique("s3/stale")
	var locs []string
	for _, size := range []int{1000, 11 << 20} {
		content := random(size)
		loc := c.StartUpload(repo)
		locs = append(locs, c.Do("PATCH", loc, content).Want(202).Location(c))
	}
	before := b.Bucket.Metrics()["AbortMultipartUpload"]
	deadline := time.Now().Add(4 * time.Minute)
	for _, loc := range locs {
		for {
			r := c.Do("GET", loc, nil)
			if r.Status == 404 {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("the upload is still there: %d", r.Status)
			}
			time.Sleep(2 * time.Second)
		}
	}
	for time.Now().Before(deadline) && (b.Bucket.Metrics()["AbortMultipartUpload"] == before || len(b.Bucket.Objects(t)) > 0) {
		time.Sleep(time.Second)
	}
	if n := b.Bucket.Metrics()["AbortMultipartUpload"] - before; n < 1 {
		t.Errorf("no multipart upload was aborted")
	}
	if left := b.Bucket.Objects(t); len(left) > 0 {
		t.Errorf("left in the bucket: %q", slices.Sorted(slices.Values(left)))
	}
}

func seededDigest(seed uint64, n int64) string {
	h := sha256.New()
	_, _ = io.Copy(h, seeded(seed, n)) // neither fails
	return "sha256:" + hex.EncodeToString(h.Sum(nil))
}
