package main

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

// goal is what a row asks of Berth: at least so many times the best of other
// targets, or at most so much.
type goal struct {
	workload, berth string
	what            string                         // the row's name when it is about something else than the workload's value
	get             func(*results, string) float64 // of a target; nil is the workload's value
	unit            string                         // of get
	times           float64                        // beside the best of the others; 0 when most decides
	most            float64                        // for get, of which less is better
	of              []string                       // the targets to compare with
	text            string
	aim             bool // nice to have
}

// perOp is a count of a workload, per operation, median over the rounds.
func perOp(workload string, f func(sample) float64) func(*results, string) float64 {
	return func(r *results, target string) float64 {
		return r.of(workload, target, func(s sample) float64 { return f(s) / s.Ops })
	}
}

func s3Requests(s sample) float64 { return s.S3.total() }

// s3Besides counts the requests that do not carry a part of the blob.
func s3Besides(s sample) float64 {
	n := s.S3.total()
	for name, of := range s.S3.Requests {
		if strings.EqualFold(name, "PutObjectPart") {
			n -= of
		}
	}
	return n
}

func resident(r *results, target string) float64 { return r.of("idle", target, value) }

// peak is the highest resident memory of a target over the ordinary workloads, in MB; NaN when there are none.
func (r *results) peak(target string) float64 {
	peak := math.NaN()
	for _, s := range r.Samples {
		if v := float64(s.Peak) / 1e6; s.Target == target && s.Error == "" && s.Workload != "crowd" && v > 0 && !(v <= peak) {
			peak = v
		}
	}
	return peak
}

// goals are those of the project, and the peers that each is about.
func goals() []goal {
	files, bucket := []string{"zot", "olareg", "distribution", "harbor"}, []string{"zot-s3", "distribution-s3"}
	syncing, nginx := []string{"zot-commit", "distribution", "harbor"}, []string{"nginx"}
	written := func(r *results, target string) float64 {
		return r.of("push-stream", target, func(s sample) float64 { return float64(s.S3Disk) / s.Bytes })
	}
	sent := func(r *results, target string) float64 {
		return r.of("push-stream", target, func(s sample) float64 { return s.S3.In / s.Bytes })
	}
	list := []goal{
		{workload: "push-stream", berth: "berth", times: 1.2, of: files, text: ">= 1.2 x the best, synced"},
		{workload: "push-stream-8", berth: "berth", times: 1, of: files, text: ">= 1 x the best"},
		{workload: "push-stream", berth: "berth-s3", times: 2, of: bucket, text: ">= 2 x"},
		{workload: "push-stream-8", berth: "berth-s3", times: 2, of: bucket, text: ">= 2 x"},
		{workload: "push-stream", berth: "berth-s3", what: "S3 requests besides the parts, of a large push", get: perOp("push-stream", s3Besides), most: 2, of: bucket, text: "parts + 2"},
		{workload: "push-stream", berth: "berth-s3", what: "S3 bytes sent per byte of a large push", get: sent, most: 1.01, of: bucket, text: "1.0"},
		{workload: "push-stream", berth: "berth-s3", what: "S3 bytes written per byte of a large push", get: written, most: 1.01, of: bucket, text: "1.0"},
		{workload: "push-images", berth: "berth", times: 3, of: syncing, text: ">= 3 x the best that syncs"},
		{workload: "push-images", berth: "berth", times: 1, of: files, text: "as fast as the best of all, synced", aim: true},
		{workload: "push-images", berth: "berth-s3", times: 8, of: bucket, text: ">= 8 x"},
		{workload: "push-images", berth: "berth-s3", what: "S3 requests of a small image", get: perOp("push-images", s3Requests), most: 6.05, of: bucket, text: "6"}, // some run into the next
		{workload: "mount", berth: "berth", times: 1, of: files, text: ">= 1 x the best"},
		{workload: "mount", berth: "berth-s3", times: 2, of: bucket, text: ">= 2 x"},
		{workload: "mount", berth: "berth-s3", what: "S3 requests of a mount", get: perOp("mount", s3Requests), most: 0, of: bucket, text: "0"},
		{workload: "pull-large", berth: "berth", times: 0.9, of: nginx, text: ">= 0.9 x nginx"},
		{workload: "pull-large-8", berth: "berth", times: 0.9, of: nginx, text: ">= 0.9 x nginx"},
		{workload: "pull-small", berth: "berth", times: 1, of: files, text: ">= 1 x the best, signed in"},
		{workload: "pull-large", berth: "berth-s3", times: 1, of: bucket, text: ">= 1 x, streamed"},
		{workload: "pull-large-redirect", berth: "berth-s3", times: 1, of: bucket, text: ">= 1 x, redirected"},
		{workload: "pull-small", berth: "berth-s3", times: 2, of: bucket, text: ">= 2 x, streamed"},
		{workload: "pull-small-redirect", berth: "berth-s3", times: 1, of: bucket, text: ">= 1 x, redirected"},
		{workload: "pull-small", berth: "berth-s3", what: "S3 requests of a pull", get: perOp("pull-small", s3Requests), most: 1.01, of: bucket, text: "1"},
	}
	for _, berth := range []string{"berth", "berth-s3"} {
		for _, w := range []string{"manifest-head", "manifest-get-tag", "manifest-get-digest"} {
			list = append(list, goal{workload: w, berth: berth, times: 1, of: files, text: ">= 1 x the best on a directory"})
		}
	}
	list = append(list, goal{workload: "manifest-get-tag", berth: "berth-s3", what: "S3 requests of a manifest by tag", get: perOp("manifest-get-tag", s3Requests), most: 0, of: bucket, text: "0"})
	for _, berth := range []string{"berth", "berth-s3"} {
		of := map[string][]string{"berth": files, "berth-s3": bucket}[berth]
		list = append(list,
			goal{workload: "tags-push", berth: berth, times: 2, of: of, text: ">= 2 x"},
			goal{workload: "tags-page", berth: berth, times: 20, of: of, text: ">= 20 x"},
			goal{workload: "catalog", berth: berth, times: 20, of: of, text: ">= 20 x"})
	}
	for _, berth := range []string{"berth", "berth-s3"} {
		of := map[string][]string{"berth": files, "berth-s3": bucket}[berth]
		list = append(list,
			goal{workload: "idle", berth: berth, what: "idle memory, 10 s after the workloads", get: resident, unit: unitMB, most: 40, of: of, text: "<= 40 MB"},
			goal{workload: "", berth: berth, what: "peak memory over the whole run", get: (*results).peak, unit: unitMB, most: 150, of: of, text: "<= 150 MB"})
	}
	return list
}

func (r *results) goalTable(b *strings.Builder) {
	b.WriteString("\n### Goals\n\nRatios are beside the best of the peers named by the goal; what each of them has synced stands above.\n\n" +
		"| | target | Berth | the best to compare with | ratio | goal | |\n|---|---|---|---|---|---|---|\n")
	for _, g := range goals() {
		name, unit, get := g.what, g.unit, g.get
		if get == nil {
			name, unit = g.workload, unitOf(g.workload)
			get = func(r *results, target string) float64 { return r.of(g.workload, target, value) }
		}
		ours, best, who := get(r, g.berth), math.NaN(), ""
		var absent []string
		for _, t := range g.of {
			v := get(r, t)
			if math.IsNaN(v) {
				if t != "harbor" && !r.cannot(t, g.workload) { // Harbor's is a distribution
					absent = append(absent, t)
				}
				continue
			}
			if best != best || g.times > 0 && v > best || g.times == 0 && v < best {
				best, who = v, t
			}
		}
		ratio, verdict := "", "reached"
		missed := g.times == 0 && ours > g.most
		if g.times > 0 && !math.IsNaN(ours/best) {
			ratio, missed = fmt.Sprintf("%.2f", ours/best), ours/best < g.times
		}
		switch {
		case math.IsNaN(ours):
			verdict = "not measured"
		case missed && g.aim:
			verdict = "not reached, an aim"
		case missed:
			verdict = "**missed**"
		case g.times > 0 && len(absent) > 0:
			verdict = "open: not measured are " + strings.Join(absent, ", ")
		}
		other := ""
		if who != "" {
			other = who + ": " + quantity(best, unit)
		}
		fmt.Fprintf(b, "| %s | %s | %s | %s | %s | %s | %s |\n", name, g.berth, quantity(ours, unit), other, ratio, g.text, verdict)
	}
}

// cannot reports whether a target took part and has nothing for a workload.
func (r *results) cannot(target, workload string) bool {
	return slices.ContainsFunc(r.Targets, func(t resultTarget) bool { return t.Name == target && slices.Contains(t.Without, workload) })
}

// quantity is a number with its unit, or "" for one that is not known.
func quantity(v float64, unit string) string {
	if math.IsNaN(v) {
		return ""
	}
	return strings.TrimSpace(number(v) + " " + unit)
}
