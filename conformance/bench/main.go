// Command bench measures registries beside each other: Berth, the peers it
// finds, and the limits of the machine, all on loopback with fresh data.
//
//	go run ./conformance/bench -all -json bench.json -page docs/performance.md    everything, about half an hour
//	go run ./conformance/bench -quick                                             three minutes: does everything work
//	go run ./conformance/bench -targets berth,distribution -workloads push-images,mount
//	go run ./conformance/bench -add -json bench.json -page docs/performance.md -workloads mount    only these rows again
//	go run ./conformance/bench -url https://registry.example.com -user name:password -workloads pull-small
//	go run ./conformance/bench -growth -targets berth,berth-s3
//
// The targets take turns (A B A B ...) within each workload, so that what else
// the machine does hits all of them; tables show medians of the rounds. Start
// reading in workloads.go; targets.go says how each registry is set up, exam.go what is counted, goals.go what Berth is to reach.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"berth/testenv"
)

// bench is a run of the program.
type bench struct {
	lab    *lab
	rounds int
	time   time.Duration // of workloads that repeat a small request
	most   time.Duration // that a slow target works at what others end sooner
	perf   string        // directory for profiles; "" takes none
	plan   plan

	large, images, mounts, tags, repos, crowd int

	contents  map[string]*content
	stocks    map[string]*stock
	tagged    map[string]tagged // target -> its repository with many tags
	cataloged map[string]int    // target -> repositories for the catalog
}

// cached makes a large content once for all targets of a round. Only the
// contents of one workload are kept.
func (b *bench) cached(key string, size int) *content {
	if c := b.contents[key]; c != nil {
		return c
	}
	c := newContent(key, size)
	b.contents[key] = c
	return c
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) (err error) {
	f := flag.NewFlagSet("bench", flag.ExitOnError)
	var p programs
	f.StringVar(&p.berth, "berth", "", "Berth's binary (default: built from this tree)")
	f.StringVar(&p.distribution, "distribution", "", "CNCF distribution's binary (default: registry in .cache/tools or PATH)")
	f.StringVar(&p.zot, "zot", "", "zot's binary (default: zot in .cache/tools or PATH)")
	f.StringVar(&p.olareg, "olareg", "", "olareg's binary (default: olareg in .cache/tools or PATH)")
	f.StringVar(&p.harbor, "harbor", "", "binary of Harbor's registry")
	f.StringVar(&p.minio, "minio", "", "MinIO's binary (default: minio in .cache/tools or PATH)")
	f.StringVar(&p.nginx, "nginx", "", "nginx's binary (default: from PATH)")
	f.StringVar(&p.pgbin, "pgbin", "", "directory of initdb and postgres (default: PATH, or the newest in /usr/lib/postgresql)")
	var (
		rounds  = f.Int("rounds", 3, "rounds of each workload")
		seconds = f.Duration("time", 2*time.Second, "how long a small request is repeated in each round")
		quick   = f.Bool("quick", false, "one round with a tenth of the work: shows that everything works, measures nothing")
		only    = f.String("workloads", "", "which workloads, separated by commas (default all)")
		names   = f.String("targets", strings.Join(targetKinds(), ","), "which targets, separated by commas")
		url     = f.String("url", "", "measure the registry at this URL, instead of those that the program starts")
		user    = f.String("user", "", "name:password to sign in with at -url; repositories are below bench/")
		dir     = f.String("dir", "", "directory for the data of all servers (default: a temporary one, removed in the end)")
		jsonTo  = f.String("json", "", "file for all samples; with -add also read first")
		add     = f.Bool("add", false, "keep the samples of the -json file that this run does not replace")
		render  = f.Bool("render", false, "write the tables of the -json file again and measure nothing")
		page    = f.String("page", "", "Markdown page whose part between the markers is replaced by the tables")
		every   = f.Bool("all", false, "after the workloads, measure cost against growth, as -growth does")
		growth  = f.Bool("growth", false, "measure Berth's cost against growth instead of the workloads: up to 1 million tags and blobs and 100 thousand repositories")
		rows    = f.Int("growth-max", 1_000_000, "most tags of -growth; at most 100 thousand repositories are made")
		perf    = f.String("perf", "", "directory for a profile of the server in each workload, taken with perf record (give -berth a binary with symbols)")
		list    = f.Bool("list", false, "list workloads and targets, and end")
	)
	if err := f.Parse(args); err != nil {
		return err
	}
	if *list {
		for _, w := range workloads() {
			fmt.Printf("%-20s %s (%s)\n", w.name, w.title, w.unit)
		}
		fmt.Println("\ntargets:", strings.Join(targetKinds(), " "))
		return nil
	}
	b := &bench{rounds: *rounds, time: *seconds, most: 10 * time.Second, perf: *perf, large: 256 * mib, images: 200, mounts: 2400, tags: 10_000, repos: 1_000, crowd: 100,
		contents: map[string]*content{}, stocks: map[string]*stock{}, tagged: map[string]tagged{}, cataloged: map[string]int{}}
	if *quick {
		b.rounds, b.time, b.most, b.large, b.images, b.mounts, b.tags, b.repos, b.crowd = 1, 300*time.Millisecond, 3*time.Second, 32*mib, 24, 240, 1000, 120, 20
	}
	chosen, err := choose(*only)
	if err != nil {
		return err
	}
	if *render {
		old := &results{}
		if err := old.load(*jsonTo); err != nil {
			return err
		}
		return old.write(*page)
	}
	all := &results{}
	if *add {
		if err := all.load(*jsonTo); err != nil {
			return err
		}
	}
	machine := describeMachine()
	if all.Machine != "" && all.Machine != machine {
		return fmt.Errorf("%s was measured on %s, and this is %s: figures of two machines are no table", *jsonTo, all.Machine, machine)
	}
	all.Machine = machine
	all.Commands = append(all.Commands, strings.Join(append([]string{"go run ./conformance/bench"}, publicArgs(args)...), " "))
	save := func() error {
		if *jsonTo == "" {
			return nil
		}
		return all.save(*jsonTo)
	}

	tmp := *dir
	if tmp == "" {
		if tmp, err = os.MkdirTemp("", "berth-bench-"); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(tmp)) }()
		if err := os.Chmod(tmp, 0o755); err != nil { // Postgres runs as another user
			return err
		}
	}
	if err := p.find(filepath.Join(tmp, "bin"), *url == "" && strings.Contains(*names, "berth")); err != nil {
		return err
	}
	kinds := strings.Split(*names, ",")
	berths := slices.DeleteFunc(slices.Clone(kinds), func(kind string) bool { return !strings.HasPrefix(kind, "berth") })
	if *every || *growth {
		b.planGrowth(berths, *rows)
	}
	begun := time.Now()
	// Growth gets servers and data of its own, and no other servers beside it.
	if !*growth {
		b.lab = &lab{dir: filepath.Join(tmp, "workloads"), programs: p}
		err := b.with(ctx, kinds, *url, *user, all, func(targets []*target) (err error) {
			if all.Limits, err = b.limits(all.Limits); err != nil {
				return err
			}
			return b.measure(ctx, targets, chosen, all, save)
		})
		if err != nil {
			return err
		}
	}
	if *every || *growth {
		b.lab = &lab{dir: filepath.Join(tmp, "growth"), programs: p}
		err := b.with(ctx, berths, "", "", all, func(targets []*target) error {
			return b.growth(ctx, targets, *rows, all, save)
		})
		if err != nil {
			return err
		}
	}
	logf("done in %s", time.Since(begun).Round(time.Second))
	if err := save(); err != nil {
		return err
	}
	return all.write(*page)
}

// with starts the targets in the lab, or takes the one at the URL, and ends and removes them after f.
func (b *bench) with(ctx context.Context, kinds []string, url, user string, all *results, f func([]*target) error) (err error) {
	if err := os.MkdirAll(b.lab.dir, 0o755); err != nil {
		return err
	}
	defer func() {
		b.lab.close()
		err = errors.Join(err, os.RemoveAll(b.lab.dir))
	}()
	var targets []*target
	if url != "" {
		name, password, _ := strings.Cut(user, ":")
		targets = []*target{{name: url, version: "unknown", access: access{url, name, password}}}
	} else if targets, err = b.open(ctx, kinds); err != nil {
		return err
	}
	for _, t := range targets {
		all.target(t)
		logf("target %s: %s, %s", t.name, t.version, t.url)
	}
	var fs unix.Statfs_t
	if need := uint64(len(targets)) * perTarget; unix.Statfs(b.lab.dir, &fs) == nil && b.large == 256*mib && fs.Bavail*uint64(fs.Bsize) < need {
		return fmt.Errorf("%s has %d GB free, and all targets together may need %d GB: give another directory with -dir", b.lab.dir, fs.Bavail*uint64(fs.Bsize)/1e9, need/1e9)
	}
	return f(targets)
}

// perTarget is what the data of a target takes at most, in bytes, roughly.
const perTarget = 4.5e9

// publicArgs leaves out what is private to a machine: paths and passwords.
func publicArgs(args []string) (list []string) {
	for i := 0; i < len(args); i++ {
		a := args[i]
		if slices.Contains([]string{"-user", "-dir", "-json", "-page", "-perf", "-berth", "-distribution", "-zot", "-olareg", "-harbor", "-minio", "-nginx", "-pgbin"}, a) {
			i++
			continue
		}
		list = append(list, a)
	}
	return list
}

func choose(names string) ([]workload, error) {
	all := workloads()
	if names == "" {
		return all, nil
	}
	want := strings.Split(names, ",")
	for _, name := range want {
		if !slices.ContainsFunc(all, func(w workload) bool { return w.name == name }) {
			return nil, fmt.Errorf("there is no workload %q, see -list", name)
		}
	}
	return slices.DeleteFunc(all, func(w workload) bool { return !slices.Contains(want, w.name) }), nil
}

// find looks for the programs that were not given, and builds Berth from this
// tree into a directory when it is needed.
func (p *programs) find(bin string, berth bool) error {
	if p.berth == "" && berth {
		root, err := testenv.Root()
		if err != nil {
			return err
		}
		p.berth = filepath.Join(bin, "berth")
		flags := "-s -w"
		describe := exec.Command("git", "describe", "--tags", "--always", "--dirty")
		describe.Dir = root
		if out, err := describe.Output(); err == nil { // else its version is dev
			flags += " -X main.version=" + strings.TrimSpace(string(out))
		}
		cmd := exec.Command("go", "build", "-trimpath", "-ldflags", flags, "-o", p.berth, "./cmd/berth")
		cmd.Dir, cmd.Env = root, append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("building Berth: %w\n%s", err, out)
		}
	}
	for name, path := range map[string]*string{"registry": &p.distribution, "zot": &p.zot, "olareg": &p.olareg, "minio": &p.minio, "nginx": &p.nginx} {
		if *path == "" {
			*path = find(name)
		}
	}
	if p.pgbin == "" {
		if path := find("initdb"); path != "" {
			p.pgbin = filepath.Dir(path)
		} else if found, _ := filepath.Glob("/usr/lib/postgresql/*/bin"); len(found) > 0 {
			p.pgbin = found[len(found)-1]
		}
	}
	return nil
}

// open starts the targets. Those without a program are left out, and named.
func (b *bench) open(ctx context.Context, kinds []string) ([]*target, error) {
	var targets []*target
	for _, kind := range kinds {
		if !slices.Contains(targetKinds(), kind) {
			return nil, fmt.Errorf("there is no target %q, see -list", kind)
		}
		t, err := b.lab.open(ctx, kind)
		var m missing
		if errors.As(err, &m) {
			logf("target %s is left out: %s", kind, m)
			continue
		}
		if err != nil {
			return nil, err
		}
		targets = append(targets, t)
	}
	return targets, nil
}

// find looks for a program in the tools of the tree, then in PATH.
func find(name string) string {
	if root, err := testenv.Root(); err == nil {
		if path, err := exec.LookPath(filepath.Join(root, ".cache", "tools", name)); err == nil {
			return path
		}
	}
	path, _ := exec.LookPath(name) // "" when there is none
	return path
}

// skips reports whether a target has nothing to do in a round of a workload.
func (t *target) skips(w workload, round int) bool {
	return w.once && round > 0 || t.files != "" && !w.reads || w.s3only && !t.s3 || slices.Contains(t.without, w.name)
}

// measure runs the workloads: each one in turn, in rounds, over all targets.
// What a target fails at is recorded and does not stop the others; all is
// saved after each sample, so that a run that is interrupted can be gone on with by -add.
func (b *bench) measure(ctx context.Context, targets []*target, chosen []workload, all *results, save func() error) error {
	step := func(w workload, t *target) string { return w.name + " " + t.name }
	for _, w := range chosen {
		about := time.Duration(w.about) * time.Second
		if about == 0 {
			about = b.time + time.Second
		}
		for round := range b.rounds {
			for _, t := range targets {
				if !t.skips(w, round) {
					b.plan.add(step(w, t), 1, about)
				}
			}
		}
	}
	for _, w := range chosen {
		for round := range b.rounds {
			for i := range targets {
				// Somebody else begins in each round, for to be the first may be good or bad.
				t := targets[(i+round*len(targets)/b.rounds)%len(targets)]
				if t.skips(w, round) {
					continue
				}
				x := &exam{bench: b, ctx: ctx, t: t, w: &w, round: round}
				x.Workload, x.Target, x.Round = w.name, t.name, round
				begun := time.Now()
				err := w.run(x)
				b.plan.done(step(w, t), time.Since(begun))
				if w.unit != unitMB {
					t.busy = time.Now()
				}
				if ctx.Err() != nil {
					return ctx.Err()
				}
				if errors.Is(err, errSkip) {
					continue
				}
				if err != nil {
					x.Error = fmt.Sprintf("%.500s", err.Error())
					logf("%-20s %-16s round %d: %s; %s", w.name, t.name, round+1, x.Error, &b.plan)
				} else {
					logf("%-20s %-16s round %d: %10.1f %-4s cpu %.2f s, client %.2f s, peak %.0f MB; %s", w.name, t.name, round+1, x.Value, w.unit, x.CPU, x.CPUClient, float64(x.Peak)/1e6, &b.plan)
				}
				all.add(x.sample)
				if err := save(); err != nil {
					return err
				}
			}
			clear(b.contents)
		}
	}
	return nil
}

func logf(format string, args ...any) {
	fmt.Fprintf(os.Stderr, time.Now().UTC().Format("15:04:05 ")+format+"\n", args...)
}
