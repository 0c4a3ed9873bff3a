package main

import (
	"context"
	"database/sql"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib" // the database/sql driver pgx
	_ "modernc.org/sqlite"             // the database/sql driver sqlite
)

// growthSample is the cost of an operation in a repository of so many tags,
// in an instance of so many repositories.
type growthSample struct {
	Target string  `json:"target"`
	Tags   int     `json:"tags"`
	Repos  int     `json:"repos"`
	Op     string  `json:"op"`
	Ms     float64 `json:"ms"`     // median over the repetitions
	CPU    float64 `json:"cpu_ms"` // of registry and Postgres, mean
}

// growthOps are the columns of the table.
var growthOps = []string{"push an image", "push a tag", "GET a manifest by tag", "HEAD a blob", "first page of tags", "deep page of tags", "first page of repositories", "deep page of repositories"}

// maxRepos is how many repositories the last stages have.
const maxRepos = 100_000

// growth loads the database of Berth directly, stage by stage, and measures
// each stage through HTTP.
func (b *bench) growth(ctx context.Context, targets []*target, most int, all *results, save func() error) error {
	for _, t := range targets {
		if !strings.HasPrefix(t.name, "berth") {
			continue
		}
		repos := 0
		for tags := 1000; tags <= most; tags *= 10 {
			begun := time.Now()
			t.server.stop()
			want := min(tags, maxRepos)
			if err := b.load(ctx, t, tags, repos, want); err != nil {
				return fmt.Errorf("loading %d tags into %s: %w", tags, t.name, err)
			}
			repos = want
			if err := t.server.start(); err != nil {
				return err
			}
			logf("growth %-10s %d tags, %d repositories loaded in %s", t.name, tags, repos, time.Since(begun).Round(time.Second))
			if err := b.measureGrowth(ctx, t, tags, repos, all); err != nil {
				return fmt.Errorf("measuring %d tags in %s: %w", tags, t.name, err)
			}
			if err := save(); err != nil {
				return err
			}
		}
	}
	return nil
}

func growthRepo(tags int) string { return fmt.Sprint(team, "/growth-", tags) }
func growthTag(i int) string     { return fmt.Sprintf("v%07d", i) }
func fillerRepo(i int) string    { return fmt.Sprintf("%s/filler-%07d", team, i) }

// load makes a repository with tags, each with a manifest of its own, and
// empty repositories until there are so many of them.
func (b *bench) load(ctx context.Context, t *target, tags, repos, want int) error {
	driver, dsn := "sqlite", "file:"+filepath.Join(b.lab.dir, t.name, "berth.db")+"?_pragma=cache_size(-1000000)&_pragma=synchronous(OFF)"
	// What differs: a row per number, a random digest, padding.
	rows, digest, pad := "WITH RECURSIVE g(n) AS (SELECT $1 UNION ALL SELECT n + 1 FROM g WHERE n < $2)", "lower(hex(randomblob(32)))", "printf('%0700d', n)"
	payload, name := "CAST(%s AS BLOB)", "printf('%s%%07d', %s)"
	if t.usesPG {
		driver, dsn = "pgx", b.lab.pgURL("berth")
		rows, digest, pad = "WITH g AS (SELECT n FROM generate_series($1::bigint, $2::bigint) n)", "encode(sha256(convert_to('growth' || $2::text || n::text, 'UTF8')), 'hex')", "lpad(n::text, 700, '0')"
		payload, name = "convert_to(%s, 'UTF8')", "'%s' || lpad((%s)::text, 7, '0')"
	}
	db, err := sql.Open(driver, dsn)
	if err != nil {
		return err
	}
	defer db.Close()
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() // nothing to undo after the commit
	now := time.Now().UnixMicro()
	var repo, base int64
	err = tx.QueryRowContext(ctx, "INSERT INTO repositories (name, team, visibility, created_at, created_by) VALUES ($1, $2, 'private', $3, 'bench') RETURNING id",
		growthRepo(tags), team, now).Scan(&repo)
	if err != nil {
		return err
	}
	if err := tx.QueryRowContext(ctx, "SELECT COALESCE(MAX(id), 0) FROM manifests").Scan(&base); err != nil {
		return err
	}
	blob := fmt.Sprintf("sha256:%064x", tags)
	for _, s := range []struct {
		text string
		args []any
	}{
		{"INSERT INTO blobs (digest, storage_key, size, created_at) VALUES ($1, $2, 1, $3)", []any{blob, fmt.Sprint("growth/", tags), now}},
		{"INSERT INTO repository_blobs (repository_id, digest, created_at) VALUES ($1, $2, $3)", []any{repo, blob, now}},
		{rows + " INSERT INTO manifests (repository_id, digest, media_type, size, created_at, created_by, payload) SELECT " + fmt.Sprint(repo) +
			", 'sha256:' || " + digest + ", '" + typeManifest + "', 700, n, 'bench', " + fmt.Sprintf(payload, pad) + " FROM g", []any{1, tags}},
		{"INSERT INTO manifest_blobs (manifest_id, repository_id, digest) SELECT id, repository_id, $1 FROM manifests WHERE repository_id = $2", []any{blob, repo}},
		{"INSERT INTO tags (repository_id, name, digest, created_at, updated_at, updated_by) SELECT repository_id, " +
			fmt.Sprintf(name, "v", "created_at") + ", digest, $1, $1, 'bench' FROM manifests WHERE repository_id = $2", []any{now, repo}},
		{rows + " INSERT INTO repositories (name, team, visibility, created_at, created_by) SELECT " +
			fmt.Sprintf(name, team+"/filler-", "n") + ", '" + team + "', 'private', " + fmt.Sprint(now) + ", 'bench' FROM g", []any{repos + 1, want}},
	} {
		if _, err := tx.ExecContext(ctx, s.text, s.args...); err != nil {
			return fmt.Errorf("%w in: %.120s", err, s.text)
		}
	}
	if err := tx.Commit(); err != nil {
		return err
	}
	if t.usesPG { // autovacuum would do it a minute later
		_, err = db.ExecContext(ctx, "VACUUM ANALYZE")
	} else {
		_, err = db.ExecContext(ctx, "PRAGMA wal_checkpoint(TRUNCATE)")
	}
	return err
}

func (b *bench) measureGrowth(ctx context.Context, t *target, tags, repos int, all *results) error {
	repo := growthRepo(tags)
	x := &exam{bench: b, ctx: ctx, t: t, w: &workload{unit: unitMs}}
	clients, done, err := x.clients(1, t.access, pushScope(repo), "registry:catalog:*")
	defer done()
	if err != nil {
		return err
	}
	c := clients[0]
	get := func(target string) error {
		_, err := c.call(request{method: "GET", target: target, header: "Accept: " + typeManifest + "\r\n"}, 200)
		return err
	}
	base := newImage(fmt.Sprint("growth/", tags))
	if err := c.pushImage(repo, "base", base); err != nil {
		return err
	}
	var images []*image
	var manifests []*content
	for i := range 100 {
		im := &image{blobs: append([]*content{newContent(fmt.Sprint("growth/", tags, "/", i), 16*kib)}, base.blobs[1:]...)}
		im.manifest = newManifest(im.blobs, "")
		images = append(images, im)
		manifests = append(manifests, newManifest(base.blobs, fmt.Sprint("growth", i)))
	}
	deep := url2("/v2/"+repo+"/tags/list?n=100&last=", growthTag(tags*9/10))
	deepRepo := url2("/v2/_catalog?n=100&last=", fillerRepo(repos*9/10))
	for _, op := range []struct {
		name string
		n    int
		f    func(i int) error
	}{
		{growthOps[0], len(images), func(i int) error { return c.pushImage(repo, fmt.Sprint("image-", i), images[i]) }},
		{growthOps[1], len(manifests), func(i int) error { return c.pushManifest(repo, fmt.Sprint("tag-", i), manifests[i]) }},
		{growthOps[2], 500, func(i int) error { return get("/v2/" + repo + "/manifests/" + growthTag(1+i*7919%tags)) }},
		{growthOps[3], 500, func(i int) error {
			_, err := c.call(request{method: "HEAD", target: "/v2/" + repo + "/blobs/" + images[i%len(images)].blobs[0].digest}, 200)
			return err
		}},
		{growthOps[4], 200, func(int) error { return get("/v2/" + repo + "/tags/list?n=100") }},
		{growthOps[5], 200, func(int) error { return get(deep) }},
		{growthOps[6], 200, func(int) error { return get("/v2/_catalog?n=100") }},
		{growthOps[7], 200, func(int) error { return get(deepRepo) }},
	} {
		took := make([]float64, op.n)
		before, err := x.counters()
		if err != nil {
			return err
		}
		for i := range op.n {
			begun := time.Now()
			if err := op.f(i); err != nil {
				return fmt.Errorf("%s: %w", op.name, err)
			}
			took[i] = time.Since(begun).Seconds() * 1000
		}
		after, err := x.counters()
		if err != nil {
			return err
		}
		s := growthSample{t.name, tags, repos, op.name, median(took), (after.cpu + after.pg - before.cpu - before.pg).Seconds() * 1000 / float64(op.n)}
		logf("growth %-10s %8d tags, %7d repositories: %-28s %8.3f ms, processor %8.3f ms", s.Target, tags, repos, s.Op, s.Ms, s.CPU)
		all.addGrowth(s)
	}
	return nil
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

func (r *results) growthTable(b *strings.Builder) {
	if len(r.Growth) == 0 {
		return
	}
	b.WriteString("\n### Cost against growth: median ms (mean ms of processor time of registry and Postgres), one client\n\n| target | tags in the repository | repositories |")
	for _, op := range growthOps {
		fmt.Fprintf(b, " %s |", op)
	}
	fmt.Fprintf(b, "\n|---|---|---|%s\n", strings.Repeat("---|", len(growthOps)))
	type row struct {
		target      string
		tags, repos int
	}
	var rows []row
	for _, s := range r.Growth {
		if k := (row{s.Target, s.Tags, s.Repos}); !slices.Contains(rows, k) {
			rows = append(rows, k)
		}
	}
	for _, k := range rows {
		fmt.Fprintf(b, "| %s | %s | %s |", k.target, number(float64(k.tags)), number(float64(k.repos)))
		for _, op := range growthOps {
			ms, used := math.NaN(), math.NaN()
			for _, s := range r.Growth {
				if (row{s.Target, s.Tags, s.Repos}) == k && s.Op == op {
					ms, used = s.Ms, s.CPU
				}
			}
			fmt.Fprintf(b, " %s (%s) |", number(ms), number(used))
		}
		b.WriteString("\n")
	}
}
