package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// results are all samples of one or several runs.
type results struct {
	Date     string         `json:"date"`
	Machine  string         `json:"machine"`
	Commands []string       `json:"commands"`
	Targets  []resultTarget `json:"targets"`
	Limits   []limit        `json:"limits"`
	Samples  []sample       `json:"samples"`
	Growth   []growthSample `json:"growth,omitempty"`
}

type resultTarget struct {
	Name    string   `json:"name"`
	Version string   `json:"version"`
	Durable string   `json:"durable"`
	S3      bool     `json:"s3"`
	Without []string `json:"without,omitempty"` // workloads that it cannot do
}

func (r *results) load(path string) error {
	b, err := os.ReadFile(path)
	if os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		return err
	}
	return json.Unmarshal(b, r)
}

func (r *results) save(path string) error {
	b, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return err
	}
	// An hour's samples are not lost to a disk that is full by now.
	fresh := path + ".new"
	if err := os.WriteFile(fresh, append(b, '\n'), 0o644); err != nil {
		return errors.Join(err, os.Remove(fresh))
	}
	return os.Rename(fresh, path)
}

func (r *results) target(t *target) {
	r.Date = time.Now().UTC().Format("2006-01-02")
	rt := resultTarget{t.name, t.version, t.durable, t.s3, t.without}
	i := slices.IndexFunc(r.Targets, func(have resultTarget) bool { return have.Name == t.name })
	if i < 0 {
		r.Targets = append(r.Targets, rt)
		kinds := targetKinds()
		slices.SortStableFunc(r.Targets, func(a, b resultTarget) int { return slices.Index(kinds, a.Name) - slices.Index(kinds, b.Name) })
		return
	}
	if had := r.Targets[i].Version; !strings.Contains(had, rt.Version) { // another run is added
		rt.Version = had + ", some rows " + rt.Version
	} else {
		rt.Version = had
	}
	r.Targets[i] = rt
}

// add puts a sample into the place of an older one of the same round.
func (r *results) add(s sample) {
	i := slices.IndexFunc(r.Samples, func(have sample) bool {
		return have.Workload == s.Workload && have.Target == s.Target && have.Round == s.Round
	})
	if i < 0 {
		r.Samples = append(r.Samples, s)
		return
	}
	r.Samples[i] = s
}

func median(values []float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	v := slices.Sorted(slices.Values(values))
	if n := len(v); n%2 == 0 {
		return (v[n/2-1] + v[n/2]) / 2
	}
	return v[len(v)/2]
}

// of gives the median of something over the rounds; NaN when nothing was measured.
func (r *results) of(workload, target string, f func(sample) float64) float64 {
	var values []float64
	for _, s := range r.Samples {
		if s.Workload == workload && s.Target == target && s.Error == "" {
			values = append(values, f(s))
		}
	}
	return median(values)
}

func value(s sample) float64 { return s.Value }

func (r *results) markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "Measured on %s on %s.\n\n    %s\n\n", r.Date, r.Machine, strings.Join(r.Commands, "\n    "))
	b.WriteString("| target | version | on the disk when a push is acknowledged |\n|---|---|---|\n")
	for _, t := range r.Targets {
		fmt.Fprintf(&b, "| %s | %s | %s |\n", t.Name, t.Version, t.Durable)
	}
	if len(r.Samples) > 0 {
		r.goalTable(&b)
		r.valueTable(&b)
		r.cpuTable(&b)
		r.memoryTable(&b)
		r.s3Table(&b)
		r.errorList(&b)
	}
	if len(r.Limits) > 0 {
		b.WriteString("\n### Limits of the machine in the same run\n\n| | |\n|---|---|\n")
		for _, l := range r.Limits {
			fmt.Fprintf(&b, "| %s | %s %s |\n", l.Name, number(median(l.Values)), l.Unit)
		}
	}
	r.growthTables(&b)
	return b.String()
}

func unitOf(name string) string {
	for _, w := range workloads() {
		if w.name == name {
			return w.unit
		}
	}
	return ""
}

// table writes a line per workload and a column per target.
func (r *results) table(b *strings.Builder, title string, cell func(w workload, t resultTarget) string) {
	fmt.Fprintf(b, "\n### %s\n\n| workload |", title)
	for _, t := range r.Targets {
		fmt.Fprintf(b, " %s |", t.Name)
	}
	fmt.Fprintf(b, "\n|---|%s\n", strings.Repeat("---|", len(r.Targets)))
	for _, w := range workloads() {
		line, any := "", false
		for _, t := range r.Targets {
			text := cell(w, t)
			any = any || text != ""
			line += " " + text + " |"
		}
		if any {
			fmt.Fprintf(b, "| %s |%s\n", w.name, line)
		}
	}
}

func (r *results) valueTable(b *strings.Builder) {
	r.table(b, "Medians", func(w workload, t resultTarget) string {
		return quantity(r.of(w.name, t.Name, value), w.unit)
	})
	b.WriteString("\n")
	for _, w := range workloads() {
		if slices.ContainsFunc(r.Samples, func(s sample) bool { return s.Workload == w.name }) {
			fmt.Fprintf(b, "- %s: %s\n", w.name, w.title)
		}
	}
	// What the slow ones did not do in full, of the last round.
	notes := ""
	for _, w := range workloads() {
		for _, t := range r.Targets {
			note := ""
			for _, s := range r.Samples {
				if s.Workload == w.name && s.Target == t.Name && s.Note != "" {
					note = s.Note
				}
			}
			if note != "" {
				notes += fmt.Sprintf("- %s, %s: %s\n", w.name, t.Name, note)
			}
		}
	}
	if notes != "" {
		b.WriteString("\nNot all of it was done by those who are slow at it:\n\n" + notes)
	}
}

func (r *results) cpuTable(b *strings.Builder) {
	r.table(b, "Processor time: s per GB where the unit is MB/s, else ms per operation (registry + Postgres + MinIO; client)", func(w workload, t resultTarget) string {
		if w.unit == unitMB {
			return ""
		}
		per := func(f func(sample) float64) float64 {
			return r.of(w.name, t.Name, func(s sample) float64 {
				if w.unit == unitMBs {
					return f(s) / (s.Bytes / 1e9)
				}
				return f(s) * 1000 / s.Ops
			})
		}
		own := per(func(s sample) float64 { return s.CPU })
		if math.IsNaN(own) {
			return ""
		}
		text := number(own)
		for _, v := range []float64{per(func(s sample) float64 { return s.CPUPostgres }), per(func(s sample) float64 { return s.CPUMinIO })} {
			if v > 0 {
				text += " + " + number(v)
			}
		}
		return text + "; " + number(per(func(s sample) float64 { return s.CPUClient }))
	})
}

func (r *results) memoryTable(b *strings.Builder) {
	r.table(b, "Peak resident memory of the registry during the workload, MB", func(w workload, t resultTarget) string {
		v := r.of(w.name, t.Name, func(s sample) float64 { return float64(s.Peak) })
		if math.IsNaN(v) || v == 0 {
			return ""
		}
		return number(v / 1e6)
	})
	b.WriteString("| **of all** |")
	for _, t := range r.Targets {
		fmt.Fprintf(b, " %s |", number(r.peak(t.Name)))
	}
	b.WriteString("\n\nThe last line leaves out crowd, whose 100 clients are no ordinary run.\n")
}

func (r *results) s3Table(b *strings.Builder) {
	if !slices.ContainsFunc(r.Targets, func(t resultTarget) bool { return t.S3 }) {
		return
	}
	r.table(b, "S3 requests per operation; bytes sent to MinIO and bytes that MinIO wrote, per byte pushed", func(w workload, t resultTarget) string {
		if !t.S3 || w.unit == unitMB || w.name == "restart" {
			return ""
		}
		n := r.of(w.name, t.Name, func(s sample) float64 { return s.S3.total() / s.Ops })
		if math.IsNaN(n) {
			return ""
		}
		text := number(n)
		if w.name == "push-images" || strings.HasPrefix(w.name, "push-stream") || w.name == "crowd" || w.name == "tricklers" {
			in := r.of(w.name, t.Name, func(s sample) float64 { return s.S3.In / s.Bytes })
			disk := r.of(w.name, t.Name, func(s sample) float64 { return float64(s.S3Disk) / s.Bytes })
			text += fmt.Sprintf("; %.2f, %.2f", in, disk)
		}
		return text
	})
}

func (r *results) errorList(b *strings.Builder) {
	for _, s := range r.Samples {
		if s.Error != "" {
			fmt.Fprintf(b, "\n- %s on %s, round %d, failed: %s", s.Workload, s.Target, s.Round+1, strings.ReplaceAll(s.Error, "\n", " "))
		}
	}
	b.WriteString("\n")
}

// count writes how many there are of something.
func count(n int) string {
	if n < 1000 {
		return strconv.Itoa(n)
	}
	return number(float64(n))
}

// number writes a figure with three digits that matter.
func number(v float64) string {
	switch a := math.Abs(v); {
	case math.IsNaN(v):
		return ""
	case a >= 1000:
		s := fmt.Sprintf("%.0f", v)
		for i := len(s) - 3; i > 0; i -= 3 {
			s = s[:i] + "," + s[i:]
		}
		return s
	case a >= 100:
		return fmt.Sprintf("%.0f", v)
	case a >= 10:
		return fmt.Sprintf("%.1f", v)
	case a >= 1 || a == 0:
		return fmt.Sprintf("%.2f", v)
	}
	return fmt.Sprintf("%.3f", v)
}

// write puts the tables into a page, or prints them when there is none.
func (r *results) write(page string) error {
	if page != "" {
		return writePage(page, r.markdown())
	}
	_, err := fmt.Print(r.markdown())
	return err
}

const (
	beginMarker = "<!-- begin: written by make bench -->\n"
	endMarker   = "<!-- end: written by make bench -->\n"
)

// writePage replaces what stands between the markers of a page.
func writePage(path, text string) error {
	raw, err := os.ReadFile(path)
	if err != nil && !os.IsNotExist(err) {
		return err
	}
	page := string(raw)
	before, rest, ok := strings.Cut(page, beginMarker)
	_, after, ok2 := strings.Cut(rest, endMarker)
	if !ok || !ok2 {
		if page != "" {
			return fmt.Errorf("%s has no markers %q and %q", path, strings.TrimSpace(beginMarker), strings.TrimSpace(endMarker))
		}
		before = "# Performance\n\n"
	}
	return os.WriteFile(path, []byte(before+beginMarker+text+endMarker+after), 0o644)
}
