package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	unitMBs  = "MB/s"
	unitRate = "/s"
	unitMs   = "ms"
	unitMB   = "MB"
)

// workload is a line of the table.
type workload struct {
	name   string
	title  string
	unit   string
	once   bool // measured in one round only: it takes long
	reads  bool // only reads, so that nginx can be measured too
	s3only bool // says something about a bucket only
	about  int  // seconds that it takes for a target, roughly; 0 is that of a repeated request
	run    func(x *exam) error
}

// workloads lists them in the order in which they run; some read what earlier
// ones have pushed, and push it themselves when those did not run.
func workloads() []workload {
	return []workload{
		{name: "push-stream", about: 2, title: "push 256 MiB: POST, one chunked PATCH, PUT", unit: unitMBs, run: pushStream(1)},
		{name: "push-stream-8", about: 4, title: "push 8 x 64 MiB at once", unit: unitMBs, run: pushStream(8)},
		{name: "push-images", about: 6, title: "push 200 images of 6 x 16 KiB, 8 at a time", unit: unitRate, run: pushImages},
		{name: "mount", about: 2, title: "mount 16 KiB blobs from another repository, 8 clients", unit: unitRate, run: mount},
		{name: "pull-large", title: "pull 256 MiB", unit: unitMBs, reads: true, run: pullLarge(1, false)},
		{name: "pull-large-8", title: "pull 256 MiB, 8 at once", unit: unitMBs, reads: true, run: pullLarge(8, false)},
		{name: "pull-large-redirect", title: "pull 256 MiB by redirect", unit: unitMBs, s3only: true, run: pullLarge(1, true)},
		{name: "pull-small", title: "pull 16 KiB blobs, 8 clients", unit: unitRate, reads: true, run: pullSmall(false)},
		{name: "pull-small-redirect", title: "pull 16 KiB blobs by redirect, 8 clients", unit: unitRate, s3only: true, run: pullSmall(true)},
		{name: "manifest-head", title: "HEAD of a manifest by tag, 8 clients", unit: unitRate, reads: true, run: manifest("HEAD", true)},
		{name: "manifest-get-tag", title: "GET of a manifest by tag, 8 clients", unit: unitRate, reads: true, run: manifest("GET", true)},
		{name: "manifest-get-digest", title: "GET of a manifest by digest, 8 clients", unit: unitRate, reads: true, run: manifest("GET", false)},
		{name: "tags-push", about: 9, title: "push 10,000 tags into one repository, 8 clients", unit: unitRate, run: tagsPush},
		{name: "tags-page", title: "first 1,000 of the 10,000 tags", unit: unitRate, run: tagsPage},
		{name: "tags-all", title: "all 10,000 tags, in pages of 1,000", unit: unitMs, run: tagsAll},
		{name: "catalog", about: 6, title: "first 100 of 1,000 repositories", unit: unitRate, run: catalog},
		{name: "idle", about: 2, title: "resident memory, 10 s after all of the above", unit: unitMB, once: true, run: idle},
		{name: "restart", about: 2, title: "start with the data of all of the above, until a manifest is pulled", unit: unitMs, run: restart},
		{name: "idle-fresh", about: 2, title: "resident memory, 10 s after that start", unit: unitMB, once: true, run: idle},
		{name: "tricklers", about: 4, title: "push 256 MiB among 200 clients that send 1 KiB a second", unit: unitMBs, once: true, run: tricklers},
		{name: "crowd", about: 15, title: "push 100 x 16 MiB at once", unit: unitMBs, once: true, run: crowd},
	}
}

func pushScope(repo string) string { return "repository:" + repo + ":pull,push" }
func pullScope(repo string) string { return "repository:" + repo + ":pull" }

// pushBlob uploads a blob as docker does: POST, one PATCH, PUT.
func (c *client) pushBlob(repo string, b *content, pace func([]byte, func([]byte) error) error) error {
	res, err := c.call(request{method: "POST", target: "/v2/" + repo + "/blobs/uploads/"}, 202)
	if err != nil {
		return err
	}
	q := request{method: "PATCH", target: res.location, header: "Content-Type: application/octet-stream\r\n", body: b, chunked: pace == nil, pace: pace}
	if res, err = c.call(q, 202); err != nil {
		return err
	}
	sep := "?"
	if strings.Contains(res.location, "?") {
		sep = "&"
	}
	_, err = c.call(request{method: "PUT", target: res.location + sep + "digest=" + url.QueryEscape(b.digest)}, 201)
	return err
}

func (c *client) pushManifest(repo, reference string, m *content) error {
	_, err := c.call(request{method: "PUT", target: "/v2/" + repo + "/manifests/" + reference,
		header: "Content-Type: " + typeManifest + "\r\n", body: m}, 201)
	return err
}

// pushImage does what docker push does, one layer after the other: each blob
// is looked for, then uploaded, at last the manifest.
func (c *client) pushImage(repo, tag string, im *image) error {
	for _, b := range im.blobs {
		res, err := c.call(request{method: "HEAD", target: "/v2/" + repo + "/blobs/" + b.digest}, 200, 404)
		if err != nil {
			return err
		}
		if res.status == 200 {
			continue
		}
		if err := c.pushBlob(repo, b, nil); err != nil {
			return err
		}
	}
	return c.pushManifest(repo, tag, im.manifest)
}

func pushStream(n int) func(x *exam) error {
	return func(x *exam) error {
		size := x.large
		if n > 1 {
			size = x.large / 4
		}
		var blobs []*content
		for i := range n {
			blobs = append(blobs, x.cached(fmt.Sprint("stream/", n, "/", x.round, "/", i), size))
		}
		repo := fmt.Sprintf("%s/stream%d-%d", team, n, x.round)
		clients, done, err := x.clients(n, x.t.access, pushScope(repo))
		defer done()
		if err != nil {
			return err
		}
		if err := warm(16 * int64(x.large)); err != nil {
			return err
		}
		if err := x.begin(); err != nil {
			return err
		}
		err = together(clients, func(i int, c *client) error { return c.pushBlob(repo, blobs[i], nil) })
		if err != nil {
			return err
		}
		return x.end(n, int64(n*size))
	}
}

// pushImages signs in for each image, as each docker push does. 20 images go
// into one repository.
func pushImages(x *exam) error {
	images := make([]*image, x.images)
	for i := range images {
		images[i] = newImage(fmt.Sprint("images/", x.round, "/", i))
	}
	clients, done, err := x.clients(8, x.t.access)
	defer done()
	if err != nil {
		return err
	}
	if err := x.begin(); err != nil {
		return err
	}
	pushed, err := share(clients, len(images), x.patience(), func(i int, c *client) error {
		repo := fmt.Sprintf("%s/images%d-%d", team, x.round, i/20)
		if err := c.signIn(pushScope(repo)); err != nil {
			return err
		}
		return c.pushImage(repo, fmt.Sprint("v", i), images[i])
	})
	if err != nil {
		return err
	}
	var bytes int64
	for _, im := range images[:pushed] {
		for _, b := range im.blobs {
			bytes += b.size
		}
		bytes += im.manifest.size
	}
	x.fewer(pushed, len(images), "images")
	return x.end(pushed, bytes)
}

// The repository that the pulls read from.
const pullRepo = team + "/pull"

// stock is what the reading workloads read.
type stock struct {
	once  sync.Once
	err   error
	large *content
	list  []*image
}

func (s *stock) blobs() (list []*content) {
	for _, im := range s.list {
		list = append(list, im.blobs...)
	}
	return list
}

// stock pushes a large blob and 20 images, once for each target.
func (x *exam) stock() (*stock, error) {
	s := x.bench.stocks[x.t.name]
	if s == nil {
		s = &stock{}
		x.bench.stocks[x.t.name] = s
	}
	s.once.Do(func() {
		s.large = x.cached("pull/large", x.large)
		for i := range 20 {
			s.list = append(s.list, newImage(fmt.Sprint("pull/", i)))
		}
		s.err = x.putStock(s)
	})
	return s, s.err
}

func (x *exam) putStock(s *stock) error {
	if x.t.files != "" {
		put := func(path string, c *content) error {
			path = filepath.Join(x.t.files, "v2", pullRepo, path)
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				return err
			}
			return os.WriteFile(path, slices.Concat(c.parts...), 0o644)
		}
		err := put("blobs/"+s.large.digest, s.large)
		for i, im := range s.list {
			for _, b := range im.blobs {
				err = errors.Join(err, put("blobs/"+b.digest, b))
			}
			err = errors.Join(err, put(fmt.Sprint("manifests/v", i), im.manifest), put("manifests/"+im.manifest.digest, im.manifest))
		}
		return err
	}
	clients, done, err := x.clients(1, x.t.access, pushScope(pullRepo))
	defer done()
	if err != nil {
		return err
	}
	for i, im := range s.list {
		if err := clients[0].pushImage(pullRepo, fmt.Sprint("v", i), im); err != nil {
			return err
		}
	}
	return clients[0].pushBlob(pullRepo, s.large, nil)
}

// mount mounts the blobs of the pushed images into a new repository, several
// times over under different names.
func mount(x *exam) error {
	s, err := x.stock()
	if err != nil {
		return err
	}
	blobs := s.blobs()
	targets := x.mounts / len(blobs)
	scopes := []string{pullScope(pullRepo)}
	name := func(i int) string { return fmt.Sprintf("%s/mount%d-%d", team, x.round, i) }
	for i := range targets {
		scopes = append(scopes, pushScope(name(i)))
	}
	clients, done, err := x.clients(8, x.t.access, scopes...)
	defer done()
	if err != nil {
		return err
	}
	if err := x.begin(); err != nil {
		return err
	}
	n := targets * len(blobs)
	_, err = share(clients, n, 0, func(i int, c *client) error {
		_, err := c.call(request{method: "POST", target: "/v2/" + name(i%targets) + "/blobs/uploads/?mount=" + blobs[i/targets].digest + "&from=" + pullRepo}, 201)
		return err
	})
	if err != nil {
		return err
	}
	return x.end(n, 0)
}

// source is where a pull goes: to the server that streams, or to the one that redirects.
func (x *exam) source(redirect bool) (access, error) {
	if !redirect {
		return x.t.access, nil
	}
	if x.t.redirect.url == "" {
		return access{}, errSkip
	}
	return x.t.redirect, nil
}

// errSkip is a workload that a target has nothing for.
var errSkip = errors.New("not applicable")

func pullLarge(n int, redirect bool) func(x *exam) error {
	return func(x *exam) error {
		a, err := x.source(redirect)
		if err != nil {
			return err
		}
		s, err := x.stock()
		if err != nil {
			return err
		}
		clients, done, err := x.clients(n, a, pullScope(pullRepo))
		defer done()
		if err != nil {
			return err
		}
		return x.repeat(clients, func(_, _ int, c *client) (int64, error) {
			return c.pull("/v2/"+pullRepo+"/blobs/"+s.large.digest, s.large.size)
		})
	}
}

func (c *client) pull(target string, size int64) (int64, error) {
	res, err := c.call(request{method: "GET", target: target}, 200)
	if err == nil && res.n != size {
		err = fmt.Errorf("GET %s: %d bytes instead of %d", target, res.n, size)
	}
	if err != nil {
		return 0, err
	}
	return size, nil
}

func pullSmall(redirect bool) func(x *exam) error {
	return func(x *exam) error {
		a, err := x.source(redirect)
		if err != nil {
			return err
		}
		s, err := x.stock()
		if err != nil {
			return err
		}
		blobs := s.blobs()
		clients, done, err := x.clients(8, a, pullScope(pullRepo))
		defer done()
		if err != nil {
			return err
		}
		return x.repeat(clients, func(i, k int, c *client) (int64, error) {
			b := blobs[(k*7+i*13)%len(blobs)]
			return c.pull("/v2/"+pullRepo+"/blobs/"+b.digest, b.size)
		})
	}
}

func manifest(method string, byTag bool) func(x *exam) error {
	return func(x *exam) error {
		s, err := x.stock()
		if err != nil {
			return err
		}
		clients, done, err := x.clients(8, x.t.access, pullScope(pullRepo))
		defer done()
		if err != nil {
			return err
		}
		return x.repeat(clients, func(i, k int, c *client) (int64, error) {
			n := (k*7 + i*3) % len(s.list)
			reference := s.list[n].manifest.digest
			if byTag {
				reference = fmt.Sprint("v", n)
			}
			res, err := c.call(request{method: method, target: "/v2/" + pullRepo + "/manifests/" + reference,
				header: "Accept: " + typeManifest + "\r\n"}, 200)
			if err != nil {
				return 0, err
			}
			return res.n, nil
		})
	}
}

func tagsRepo(round int) string { return fmt.Sprintf("%s/tags-%d", team, round) }

// tagsPush pushes manifests that differ in an annotation, each under a tag of
// its own, over the same blobs.
func tagsPush(x *exam) error {
	manifests := make([]*content, x.tags)
	im := newImage("tags")
	for i := range manifests {
		manifests[i] = newManifest(im.blobs, fmt.Sprint("1.0.", i))
	}
	repo := tagsRepo(x.round)
	clients, done, err := x.clients(8, x.t.access, pushScope(repo))
	defer done()
	if err != nil {
		return err
	}
	if err := clients[0].pushImage(repo, "first", im); err != nil {
		return err
	}
	if err := x.begin(); err != nil {
		return err
	}
	pushed, err := share(clients, len(manifests), x.patience(), func(i int, c *client) error {
		return c.pushManifest(repo, fmt.Sprint("1.0.", i), manifests[i])
	})
	if err != nil {
		return err
	}
	x.tagged[x.t.name] = tagged{repo, pushed + 1}
	x.fewer(pushed, len(manifests), "tags")
	return x.end(pushed, 0)
}

// tagged is a repository with so many tags.
type tagged struct {
	repo string
	tags int
}

// manyTags gives the repository with the many tags, and pushes them when need be.
func (x *exam) manyTags() (tagged, error) {
	if _, ok := x.tagged[x.t.name]; !ok {
		if err := tagsPush(&exam{bench: x.bench, ctx: x.ctx, t: x.t, w: x.w}); err != nil {
			return tagged{}, err
		}
	}
	many := x.tagged[x.t.name]
	return many, nil
}

// scale turns a figure about fewer tags into one about all: who is too slow to
// take them goes through all of them for each page, too.
func (x *exam) scale(many tagged, factor float64) {
	if many.tags < x.tags {
		x.Value *= factor
		x.Note = fmt.Sprintf("of %s tags, scaled to %s", count(many.tags), count(x.tags))
	}
}

func tagsPage(x *exam) error {
	many, err := x.manyTags()
	if err != nil {
		return err
	}
	clients, done, err := x.clients(1, x.t.access, pullScope(many.repo))
	defer done()
	if err != nil {
		return err
	}
	err = x.repeat(clients, func(_, k int, c *client) (int64, error) {
		res, err := c.call(request{method: "GET", target: "/v2/" + many.repo + "/tags/list?n=1000", keep: k == 0}, 200)
		if err == nil && k == 0 {
			err = expect(res.body, "tags", min(1000, many.tags), 1000)
		}
		return 0, err
	})
	x.scale(many, float64(many.tags)/float64(x.tags))
	return err
}

// expect checks that a JSON answer has a list of n names, or of more up to most.
func expect(body []byte, field string, n, most int) error {
	var m map[string]json.RawMessage
	var list []string
	if err := json.Unmarshal(body, &m); err != nil {
		return err
	}
	if err := json.Unmarshal(m[field], &list); err != nil {
		return err
	}
	if len(list) < n || len(list) > most {
		return fmt.Errorf("%d %s instead of %d", len(list), field, n)
	}
	return nil
}

func tagsAll(x *exam) error {
	many, err := x.manyTags()
	if err != nil {
		return err
	}
	clients, done, err := x.clients(1, x.t.access, pullScope(many.repo))
	defer done()
	if err != nil {
		return err
	}
	err = x.repeat(clients, func(_, k int, c *client) (int64, error) {
		return 0, c.pages("/v2/"+many.repo+"/tags/list?n=1000", nil)
	})
	x.scale(many, float64(x.tags)/float64(many.tags))
	return err
}

// pages walks all pages by their Link headers.
func (c *client) pages(target string, each func(body []byte)) error {
	for target != "" {
		res, err := c.call(request{method: "GET", target: target, keep: each != nil}, 200)
		if err != nil {
			return err
		}
		if each != nil {
			each(res.body)
		}
		target = ""
		if from, rest, ok := strings.Cut(res.link, "<"); ok && from == "" {
			target, _, _ = strings.Cut(rest, ">")
		}
	}
	return nil
}

// catalog lists repositories that hold one image each.
func catalog(x *exam) error {
	if x.cataloged[x.t.name] == 0 {
		im := newImage("catalog")
		clients, done, err := x.clients(8, x.t.access)
		defer done()
		if err != nil {
			return err
		}
		const first = team + "/catalog/0"
		if err := clients[0].signIn(pushScope(first)); err != nil {
			return err
		}
		if err := clients[0].pushImage(first, "v1", im); err != nil {
			return err
		}
		made, err := share(clients, x.repos-1, 3*x.patience(), func(i int, c *client) error {
			repo := fmt.Sprint(team, "/catalog/", i+1)
			if err := c.signIn(pushScope(repo), pullScope(first)); err != nil {
				return err
			}
			for _, b := range im.blobs {
				res, err := c.call(request{method: "POST", target: "/v2/" + repo + "/blobs/uploads/?mount=" + b.digest + "&from=" + first}, 201, 202)
				if err == nil && res.status == 202 { // it does not mount, so upload
					err = c.pushBlob(repo, b, nil)
				}
				if err != nil {
					return err
				}
			}
			return c.pushManifest(repo, "v1", im.manifest)
		})
		if err != nil {
			return err
		}
		x.cataloged[x.t.name] = made + 1
	}
	repos := x.cataloged[x.t.name]
	if repos < x.repos {
		x.Note = fmt.Sprintf("of %s repositories", count(repos))
	}
	clients, done, err := x.clients(1, x.t.access, "registry:catalog:*")
	defer done()
	if err != nil {
		return err
	}
	return x.repeat(clients, func(_, k int, c *client) (int64, error) {
		res, err := c.call(request{method: "GET", target: "/v2/_catalog?n=100", keep: k == 0}, 200)
		if err == nil && k == 0 {
			err = expect(res.body, "repositories", min(100, repos), 100)
		}
		return 0, err
	})
}

// idle is the memory of a server that has had nothing to do for ten seconds.
func idle(x *exam) error {
	if x.t.pid() == 0 {
		return errSkip
	}
	if err := x.begin(); err != nil {
		return err
	}
	select {
	case <-time.After(time.Until(x.t.busy.Add(10 * time.Second))):
	case <-x.ctx.Done():
		return x.ctx.Err()
	}
	return x.end(1, 0)
}

// restart measures from the start of the process to the first manifest.
func restart(x *exam) error {
	if x.t.server == nil {
		return errSkip
	}
	if _, err := x.stock(); err != nil {
		return err
	}
	x.t.server.stop()
	begun := time.Now()
	if err := x.t.server.start(); err != nil {
		return err
	}
	clients, done, err := x.clients(1, x.t.access, pullScope(pullRepo))
	defer done()
	if err != nil {
		return err
	}
	if _, err := clients[0].call(request{method: "GET", target: "/v2/" + pullRepo + "/manifests/v0", header: "Accept: " + typeManifest + "\r\n"}, 200); err != nil {
		return err
	}
	x.Ops, x.Seconds = 1, time.Since(begun).Seconds()
	x.Value = x.Seconds * 1000
	used, err := cpu(x.t.pid())
	x.CPU = used.Seconds()
	x.Resident, x.Peak = memory(x.t.pid(), "VmRSS"), memory(x.t.pid(), "VmHWM")
	return err
}

// tricklers measures an honest push while 200 clients send a body of 64 MiB at
// 1 KiB a second.
func tricklers(x *exam) error {
	blob := x.cached(fmt.Sprint("tricklers/", x.round), x.large)
	repo := fmt.Sprintf("%s/tricklers-%d", team, x.round)
	slow, done, err := x.clients(200, x.t.access, pushScope(repo))
	defer done()
	if err != nil {
		return err
	}
	honest, done2, err := x.clients(1, x.t.access, pushScope(repo))
	defer done2()
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(x.ctx)
	body := &content{size: 64 * mib, parts: [][]byte{make([]byte, 64*mib)}}
	var group, ready sync.WaitGroup
	ready.Add(len(slow))
	for _, c := range slow {
		group.Go(func() {
			first := true
			_ = c.pushBlob(repo, body, func(p []byte, write func([]byte) error) error {
				for ; len(p) > 0; p = p[kib:] {
					if err := write(p[:kib]); err != nil {
						return err
					}
					if first {
						ready.Done()
						first = false
					}
					select {
					case <-ctx.Done():
						c.close() // hangs up in the middle
						return ctx.Err()
					case <-time.After(time.Second):
					}
				}
				return nil
			}) // every one of them ends by hanging up
			if first {
				ready.Done()
			}
		})
	}
	defer group.Wait()
	defer stop()
	ready.Wait()
	if err := x.begin(); err != nil {
		return err
	}
	if err := honest[0].pushBlob(repo, blob, nil); err != nil {
		return err
	}
	return x.end(1, blob.size)
}

// crowd pushes 100 large blobs at once: memory has to stay bounded.
func crowd(x *exam) error {
	blobs := variants(fmt.Sprint("crowd/", x.round), x.crowd, x.large/16)
	repo := fmt.Sprintf("%s/crowd-%d", team, x.round)
	clients, done, err := x.clients(len(blobs), x.t.access, pushScope(repo))
	defer done()
	if err != nil {
		return err
	}
	if err := x.begin(); err != nil {
		return err
	}
	var bytes int64
	for _, b := range blobs {
		bytes += b.size
	}
	if err := together(clients, func(i int, c *client) error { return c.pushBlob(repo, blobs[i], nil) }); err != nil {
		return err
	}
	return x.end(len(blobs), bytes)
}
