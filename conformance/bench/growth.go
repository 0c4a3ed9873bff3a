package main

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
)

// growthSample is the cost of an operation at a stage: in a repository of so many tags, in an
// instance of so many repositories and of more live blobs than tags.
type growthSample struct {
	Target string  `json:"target"`
	Tags   int     `json:"tags"`
	Repos  int     `json:"repos"`
	Op     string  `json:"op"`
	Ms     float64 `json:"ms"`     // median over the repetitions
	CPU    float64 `json:"cpu_ms"` // of registry and Postgres, mean
}

// The stages of growth, by tags, and how long each takes for a target, in seconds, roughly.
var growthStages = []struct{ tags, about int }{{1_000, 12}, {10_000, 15}, {100_000, 35}, {1_000_000, 200}}

const (
	// maxRepos is how many repositories the last stages have.
	maxRepos = 100_000
	// publicEvery says that every so many of them is public.
	publicEvery = 1_000
	// garbage is how many manifests are collected, and tags removed by a rule.
	garbage = 1_000
)

// growth loads the database of Berth directly, stage by stage, and measures
// each stage through HTTP.
func (b *bench) growth(ctx context.Context, targets []*target, most int, all *results, save func() error) error {
	for _, t := range targets {
		if !strings.HasPrefix(t.name, "berth") {
			continue
		}
		repos := 0
		for _, stage := range growthStages {
			if stage.tags > most {
				break
			}
			begun := time.Now()
			t.server.stop()
			want := min(stage.tags, maxRepos)
			if err := b.load(ctx, t, stage.tags, repos, want); err != nil {
				return fmt.Errorf("loading %d tags into %s: %w", stage.tags, t.name, err)
			}
			repos = want
			if err := t.server.start(); err != nil {
				return err
			}
			logf("growth %-10s %d tags, %d repositories loaded in %s", t.name, stage.tags, repos, time.Since(begun).Round(time.Second))
			g := &growing{exam: exam{bench: b, ctx: ctx, t: t, w: &workload{unit: unitMs}}, tags: stage.tags, repos: repos, repo: growthRepo(stage.tags), all: all}
			if err := g.measure(); err != nil {
				return fmt.Errorf("measuring %d tags in %s: %w", stage.tags, t.name, err)
			}
			if err := save(); err != nil {
				return err
			}
			b.plan.done(growthStep(t.name, stage.tags), time.Since(begun))
			logf("growth %-10s %d tags measured in %s; %s", t.name, stage.tags, time.Since(begun).Round(time.Second), &b.plan)
		}
	}
	return nil
}

// planGrowth adds the stages to the plan.
func (b *bench) planGrowth(targets []string, most int) {
	for _, t := range targets {
		for _, stage := range growthStages {
			if stage.tags <= most {
				b.plan.add(growthStep(t, stage.tags), 1, time.Duration(stage.about)*time.Second)
			}
		}
	}
}

func growthStep(target string, tags int) string { return fmt.Sprint("growth ", target, " ", tags) }

func growthRepo(tags int) string { return fmt.Sprint(team, "/growth-", tags) }
func growthTag(i int) string     { return fmt.Sprintf("v%07d", i) }
func fillerRepo(i int) string    { return fmt.Sprintf("%s/filler-%07d", team, i) }

// growing is a stage while it is measured.
type growing struct {
	exam
	tags, repos int
	repo        string
	all         *results
	member      *client // who pushes and pulls
	admin       *client // of the management API
}

func (g *growing) measure() error {
	clients, done, err := g.clients(1, g.t.access, pushScope(g.repo), "registry:catalog:*")
	defer done()
	if err != nil {
		return err
	}
	g.member = clients[0]
	if g.admin, err = admin(g.ctx, g.t.url); err != nil {
		return err
	}
	defer g.admin.close()
	for _, part := range []func() error{g.requests, g.catalogs, g.questions, g.quota, g.collector, g.retention} {
		if err := part(); err != nil {
			return err
		}
	}
	return nil
}

// op measures f, done n times by one client.
func (g *growing) op(name string, n int, f func(i int) error) error {
	took := make([]float64, n)
	before, err := g.counters()
	if err != nil {
		return err
	}
	for i := range n {
		begun := time.Now()
		if err := f(i); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		took[i] = time.Since(begun).Seconds() * 1000
	}
	after, err := g.counters()
	if err != nil {
		return err
	}
	s := growthSample{g.t.name, g.tags, g.repos, name, median(took), (after.cpu + after.pg - before.cpu - before.pg).Seconds() * 1000 / float64(n)}
	logf("growth %-10s %8d tags, %7d repositories: %-50s %10.3f ms, processor %10.3f ms", s.Target, g.tags, g.repos, s.Op, s.Ms, s.CPU)
	g.all.addGrowth(s)
	return nil
}

// get is a GET that has to be answered with 200.
func (c *client) get(target string) error {
	_, err := c.call(request{method: "GET", target: target, header: "Accept: " + typeManifest + "\r\n"}, 200)
	return err
}

// requests measures what clients do all day.
func (g *growing) requests() error {
	c, repo := g.member, g.repo
	base := newImage(fmt.Sprint("growth/", g.tags))
	if err := c.pushImage(repo, "base", base); err != nil {
		return err
	}
	var images []*image
	var manifests []*content
	for i := range 100 {
		im := &image{blobs: append([]*content{newContent(fmt.Sprint("growth/", g.tags, "/", i), 16*kib)}, base.blobs[1:]...)}
		im.manifest = newManifest(im.blobs, "")
		images = append(images, im)
		manifests = append(manifests, newManifest(base.blobs, fmt.Sprint("growth", i)))
	}
	deep := url2("/v2/"+repo+"/tags/list?n=100&last=", growthTag(g.tags*9/10))
	for _, op := range []struct {
		name string
		n    int
		f    func(i int) error
	}{
		{"push an image", len(images), func(i int) error { return c.pushImage(repo, fmt.Sprint("image-", i), images[i]) }},
		{"push a tag", len(manifests), func(i int) error { return c.pushManifest(repo, fmt.Sprint("tag-", i), manifests[i]) }},
		{"GET a manifest by tag", 500, func(i int) error { return c.get("/v2/" + repo + "/manifests/" + growthTag(i*7919%g.tags)) }},
		{"HEAD a blob", 500, func(i int) error {
			_, err := c.call(request{method: "HEAD", target: "/v2/" + repo + "/blobs/" + images[i%len(images)].blobs[0].digest}, 200)
			return err
		}},
		{"first page of tags", 200, func(int) error { return c.get("/v2/" + repo + "/tags/list?n=100") }},
		{"deep page of tags", 200, func(int) error { return c.get(deep) }},
	} {
		if err := g.op(op.name, op.n, op.f); err != nil {
			return err
		}
	}
	return nil
}

// catalogs measures pages of repositories: of a member who may see all of the
// team's, and of those from whom nearly all of them are hidden.
func (g *growing) catalogs() error {
	page := func(c *client, query string) func(int) error {
		return func(int) error { return c.get("/v2/_catalog?n=100" + query) }
	}
	if err := g.op("first page of repositories", 200, page(g.member, "")); err != nil {
		return err
	}
	if err := g.op("deep page of repositories", 200, page(g.member, url2("&last=", fillerRepo(g.repos*9/10)))); err != nil {
		return err
	}
	for _, who := range []struct {
		name string
		access
	}{
		{"all repositories of a guest who may see a few of them", access{g.t.url, guestUser, benchPassword}},
		{"first page of repositories for nobody in particular: the public ones", access{url: g.t.url}},
	} {
		clients, done, err := g.clients(1, who.access, "registry:catalog:*")
		if err == nil {
			err = g.op(who.name, 100, page(clients[0], ""))
		}
		done()
		if err != nil {
			return err
		}
	}
	return nil
}

// questions measures what people ask of the management API.
func (g *growing) questions() error {
	blob := loadedBlob(g.tags)
	if err := g.op("`why` of a blob", 50, func(int) error { return g.admin.manage("GET", "/digests/"+blob, nil, nil) }); err != nil {
		return err
	}
	// The same images at each stage.
	const small = team + "/growth-usage"
	c, done, err := g.clients(1, g.t.access, pushScope(small))
	defer done()
	if err != nil {
		return err
	}
	for i := range 20 {
		if err := c[0].pushImage(small, fmt.Sprint("v", i), newImage(fmt.Sprint("growth-usage/", i))); err != nil {
			return err
		}
	}
	if err := g.op("usage of a repository of 20 images", 50, func(int) error {
		return g.admin.manage("GET", "/repositories/"+strings.ReplaceAll(small, "/", "%2F")+"/usage", nil, nil)
	}); err != nil {
		return err
	}
	return g.op(opUsage, 1, func(int) error { return g.admin.manage("GET", "/instance/usage", nil, nil) })
}

// Operations whose work grows with the stage: they look at everything.
const (
	opUsage  = "usage of the whole registry (reads all links)"
	opCount  = "the first quota of the team (counts all it has)"
	opDryRun = "retention dry run (decides about all tags)"
	opRetain = "retention that removes 1,000 tags (decides about all tags)"
)

// quota measures pushes of a team that has a quota, far from it and near it.
func (g *growing) quota() error {
	const path = "/teams/" + team + "/quota"
	limit := func(tags int64) error {
		return g.admin.manage("PUT", path, map[string]int64{"bytes": 1 << 50, "repositories": 1 << 30, "tags": tags}, nil)
	}
	if err := g.op(opCount, 1, func(int) error { return limit(1 << 40) }); err != nil {
		return err
	}
	push := func(what string) func(i int) error {
		blobs := newImage(fmt.Sprint("growth/", g.tags)).blobs
		manifests := make([]*content, 100)
		for i := range manifests {
			manifests[i] = newManifest(blobs, fmt.Sprint(what, i))
		}
		return func(i int) error { return g.member.pushManifest(g.repo, fmt.Sprint(what, "-", i), manifests[i]) }
	}
	if err := g.op("push a tag, far from a quota", 100, push("far")); err != nil {
		return err
	}
	var q struct {
		Tags int64 `json:"tags"`
	}
	if err := g.admin.manage("GET", path, nil, &q); err != nil {
		return err
	}
	if err := limit(q.Tags + 150); err != nil {
		return err
	}
	if err := g.op("push a tag, near a quota", 100, push("near")); err != nil {
		return err
	}
	return g.admin.manage("DELETE", path, nil, nil)
}

// collect runs the collector until nothing is left, and sums up what it said.
func (g *growing) collect() (manifests, blobs, objects int, err error) {
	for more := true; more; {
		var report struct {
			Manifests, Blobs, Objects int
			More                      bool
		}
		if err = g.admin.manage("POST", "/instance/gc", map[string]string{"grace": "0s", "undo_window": "0s"}, &report); err != nil {
			return
		}
		manifests, blobs, objects, more = manifests+report.Manifests, blobs+report.Blobs, objects+report.Objects, report.More
	}
	return
}

// collector measures how long deleted manifests take to be collected, with their blobs and objects.
func (g *growing) collector() error {
	if _, _, _, err := g.collect(); err != nil { // what is left of before
		return err
	}
	repo := fmt.Sprint(team, "/garbage-", g.tags)
	clients, done, err := g.clients(8, access{g.t.url, "admin", adminPassword}, "repository:"+repo+":pull,push,delete")
	defer done()
	if err != nil {
		return err
	}
	shared := newContent("garbage", 16*kib)
	if err := clients[0].pushBlob(repo, shared, nil); err != nil {
		return err
	}
	_, err = share(clients, garbage, 0, func(i int, c *client) error {
		layer := newContent(fmt.Sprint("garbage/", g.tags, "/", i), kib)
		manifest := newManifest([]*content{layer, shared}, "")
		if err := c.pushBlob(repo, layer, nil); err != nil {
			return err
		}
		if err := c.pushManifest(repo, manifest.digest, manifest); err != nil {
			return err
		}
		_, err := c.call(request{method: "DELETE", target: "/v2/" + repo + "/manifests/" + manifest.digest}, 202)
		return err
	})
	if err != nil {
		return err
	}
	return g.op("collect 1,000 deleted manifests with their blobs and objects", 1, func(int) error {
		_, blobs, objects, err := g.collect()
		if err == nil && (blobs < garbage || objects < garbage) {
			err = fmt.Errorf("collected %d blobs and %d objects", blobs, objects)
		}
		return err
	})
}

// retention measures rules that remove 1,000 of the tags and have to look at all.
func (g *growing) retention() error {
	none, some := 0, 5000
	policy := map[string]any{"rules": []map[string]any{
		{"name": "old", "tags": []string{"v0000*"}, "newest": none, "delete_immutable": true},
		{"name": "recent", "tags": []string{"v0001*"}, "newest": some},
	}}
	path := "/repositories/" + strings.ReplaceAll(g.repo, "/", "%2F") + "/retention"
	var dry struct{ Deleted int }
	err := g.op(opDryRun, 1, func(int) error { return g.admin.manage("POST", path+"/dry-run?limit=100", policy, &dry) })
	if err != nil {
		return err
	}
	if dry.Deleted != garbage {
		return fmt.Errorf("the dry run removes %d tags", dry.Deleted)
	}
	if err := g.admin.manage("PUT", path, policy, nil); err != nil {
		return err
	}
	return g.op(opRetain, 1, func(int) error {
		for more := true; more; {
			var run struct{ More bool }
			if err := g.admin.manage("POST", path+"/run", nil, &run); err != nil {
				return err
			}
			more = run.More
		}
		return nil
	})
}

func url2(prefix, name string) string { return prefix + strings.ReplaceAll(name, "/", "%2F") }

func (r *results) addGrowth(s growthSample) {
	i := slices.IndexFunc(r.Growth, func(have growthSample) bool {
		return have.Target == s.Target && have.Tags == s.Tags && have.Repos == s.Repos && have.Op == s.Op
	})
	if i < 0 {
		r.Growth = append(r.Growth, s)
		return
	}
	r.Growth[i] = s
}

// growthTables writes a table per target: a line per operation, a column per stage.
func (r *results) growthTables(b *strings.Builder) {
	if len(r.Growth) == 0 {
		return
	}
	fmt.Fprintf(b, "\n### Cost against growth\n\nMedian ms (mean ms of processor time of registry and Postgres), one client. Each tag has a manifest and a blob of its own, so there are as many live blobs "+
		"as tags of all stages so far; one of %s repositories is public. The last column is the processor time at the last stage beside that at the first; where it is set in brackets the work grows as well.\n", number(publicEvery))
	var targets, ops []string
	for _, s := range r.Growth {
		if !slices.Contains(targets, s.Target) {
			targets = append(targets, s.Target)
		}
		if !slices.Contains(ops, s.Op) {
			ops = append(ops, s.Op)
		}
	}
	for _, target := range targets {
		stages := map[int]int{}
		for _, s := range r.Growth {
			if s.Target == target {
				stages[s.Tags] = s.Repos
			}
		}
		fmt.Fprintf(b, "\n| %s |", target)
		var tags []int
		for _, stage := range growthStages {
			if repos, ok := stages[stage.tags]; ok {
				tags = append(tags, stage.tags)
				fmt.Fprintf(b, " %s tags, %s repositories |", number(float64(stage.tags)), number(float64(repos)))
			}
		}
		fmt.Fprintf(b, " last / first |\n|---|%s---|\n", strings.Repeat("---|", len(tags)))
		for _, op := range ops {
			first, last, line := math.NaN(), math.NaN(), ""
			for _, n := range tags {
				i := slices.IndexFunc(r.Growth, func(s growthSample) bool { return s.Target == target && s.Tags == n && s.Op == op })
				if i < 0 {
					line += " |"
					continue
				}
				s := r.Growth[i]
				if math.IsNaN(first) {
					first = s.CPU
				}
				last = s.CPU
				line += fmt.Sprintf(" %s (%s) |", number(s.Ms), number(s.CPU))
			}
			ratio := number(last / first)
			if slices.Contains([]string{opUsage, opCount, opDryRun, opRetain}, op) {
				ratio = "(" + ratio + ")"
			}
			fmt.Fprintf(b, "| %s |%s %s |\n", op, line, ratio)
		}
	}
}
