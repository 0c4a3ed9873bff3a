package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// sample is one workload measured once on one target.
type sample struct {
	Workload string  `json:"workload"`
	Target   string  `json:"target"`
	Round    int     `json:"round"`
	Value    float64 `json:"value"` // in the workload's unit
	Seconds  float64 `json:"seconds"`
	Ops      float64 `json:"ops"`
	Bytes    float64 `json:"bytes"` // of blobs, pushed or pulled

	CPU         float64 `json:"cpu"` // seconds of processor time: the registry,
	CPUPostgres float64 `json:"cpu_postgres,omitempty"`
	CPUMinIO    float64 `json:"cpu_minio,omitempty"`
	CPUClient   float64 `json:"cpu_client"`
	Resident    int64   `json:"resident,omitempty"` // bytes, at the end
	Peak        int64   `json:"peak,omitempty"`     // bytes, during the workload: the registry,
	PeakMinIO   int64   `json:"peak_minio,omitempty"`
	S3          s3Count `json:"s3"`
	S3Disk      int64   `json:"s3_disk,omitempty"` // bytes that MinIO wrote to its disk
	Note        string  `json:"note,omitempty"`    // what is different from the workload's title
	Error       string  `json:"error,omitempty"`
}

// exam is one run of a workload on a target.
type exam struct {
	*bench
	ctx   context.Context
	t     *target
	w     *workload
	round int
	sample

	started time.Time
	before  counters
	profile *process // perf, while the clock runs
}

// counters are what the machine has counted so far for the servers of a target.
type counters struct {
	cpu, pg, minio, own time.Duration
	s3                  s3Count
	disk                int64
}

func (x *exam) counters() (c counters, err error) {
	var own unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &own); err != nil {
		return c, err
	}
	c.own = time.Duration(own.Utime.Nano() + own.Stime.Nano())
	if pid := x.t.pid(); pid != 0 {
		if c.cpu, err = cpu(pid); err != nil {
			return c, err
		}
	}
	if x.t.usesPG {
		if c.pg, err = cpu(x.lab.postgres.pid); err != nil {
			return c, err
		}
	}
	if x.t.s3 {
		if c.minio, err = cpu(x.lab.minio.pid); err != nil {
			return c, err
		}
		c.disk = written(x.lab.minio.pid)
		c.s3, err = x.lab.s3Metrics(x.t.bucket)
	}
	return c, err
}

// pid is the server's process, 0 for a registry that runs elsewhere.
func (t *target) pid() int {
	if t.server == nil {
		return 0
	}
	return t.server.p.pid
}

// warm has the kernel take memory from the hypervisor and then have it free, so that files that are
// about to be written do not pay for that: memory that a virtual machine has not had for a while costs more to
// get than to fill, and who gets such memory is chance.
// It takes half of what is free at most.
func warm(bytes int64) error {
	var machine unix.Sysinfo_t
	if err := unix.Sysinfo(&machine); err != nil {
		return fmt.Errorf("asking for free memory: %w", err)
	}
	bytes = min(bytes, int64(machine.Freeram)*int64(machine.Unit)/2)
	memory, err := unix.Mmap(-1, 0, int(bytes), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE|unix.MAP_POPULATE)
	if err != nil {
		return fmt.Errorf("taking memory: %w", err)
	}
	return unix.Munmap(memory)
}

// begin starts the clock. What other targets left unsynced is written out
// first, so that nobody pays for somebody else's push.
func (x *exam) begin() error {
	unix.Sync()
	if pid := x.t.pid(); pid != 0 {
		resetPeak(pid)
	}
	if x.t.s3 {
		resetPeak(x.lab.minio.pid)
	}
	if x.perf != "" && x.t.pid() != 0 {
		if err := x.record(); err != nil {
			return err
		}
	}
	var err error
	if x.before, err = x.counters(); err != nil {
		return err
	}
	x.started = time.Now()
	return nil
}

// end stops the clock and takes down what was done in the meantime.
func (x *exam) end(ops int, bytes int64) error {
	x.Seconds = time.Since(x.started).Seconds()
	x.Ops, x.Bytes = float64(ops), float64(bytes)
	now, err := x.counters()
	if err != nil {
		return err
	}
	if x.profile != nil {
		x.profile.stop(syscall.SIGINT)
		x.profile = nil
	}
	x.CPU = (now.cpu - x.before.cpu).Seconds()
	x.CPUPostgres = (now.pg - x.before.pg).Seconds()
	x.CPUMinIO = (now.minio - x.before.minio).Seconds()
	x.CPUClient = (now.own - x.before.own).Seconds()
	if pid := x.t.pid(); pid != 0 {
		x.Resident, x.Peak = memory(pid, "VmRSS"), memory(pid, "VmHWM")
	}
	if x.t.s3 {
		x.PeakMinIO = memory(x.lab.minio.pid, "VmHWM")
		x.S3, x.S3Disk = now.s3.minus(x.before.s3), now.disk-x.before.disk
	}
	switch x.w.unit {
	case unitMBs:
		x.Value = x.Bytes / 1e6 / x.Seconds
	case unitRate:
		x.Value = x.Ops / x.Seconds
	case unitMs:
		x.Value = x.Seconds * 1000 / x.Ops
	case unitMB:
		x.Value = float64(x.Resident) / 1e6
	}
	return nil
}

// record lets perf watch the server until the end. Whatever perf costs is part
// of what is measured then.
func (x *exam) record() error {
	name := fmt.Sprintf("%s-%s-%d", x.w.name, x.t.name, x.round)
	cmd := exec.Command("perf", "record", "-q", "-e", "cpu-clock", "-F", "997", "-g",
		"-o", filepath.Join(x.perf, name+".data"), "-p", strconv.Itoa(x.t.pid()))
	var err error
	if x.profile, err = start(x.perf, name, cmd); err != nil {
		return err
	}
	time.Sleep(300 * time.Millisecond) // it does not say when it is ready
	return nil
}

// clients makes n workers that are connected, and signed in for the scopes.
func (x *exam) clients(n int, a access, scopes ...string) ([]*client, func(), error) {
	list := make([]*client, n)
	done := func() {
		for _, c := range list {
			if c != nil {
				c.close()
			}
		}
	}
	for i := range list {
		c, err := newClient(x.ctx, a)
		if err != nil {
			return nil, done, err
		}
		list[i] = c
		if err := c.signIn(scopes...); err != nil {
			done()
			return nil, done, fmt.Errorf("signing in: %w", err)
		}
	}
	return list, done, nil
}

// together runs f once for each client, at the same time.
func together(clients []*client, f func(i int, c *client) error) error {
	errs := make([]error, len(clients))
	var group sync.WaitGroup
	for i, c := range clients {
		group.Go(func() { errs[i] = f(i, c) })
	}
	group.Wait()
	return errors.Join(errs...)
}

// share lets the clients take the jobs 0..n-1 one after the other, and none
// any more when the time is over (0: all are done). It returns how many were done.
func share(clients []*client, n int, most time.Duration, f func(job int, c *client) error) (int, error) {
	var next atomic.Int64
	begun := time.Now()
	err := together(clients, func(_ int, c *client) error {
		for most == 0 || time.Since(begun) < most {
			job := int(next.Add(1)) - 1
			if job >= n {
				break
			}
			if err := f(job, c); err != nil {
				next.Store(int64(n))
				return err
			}
		}
		return nil
	})
	return min(int(next.Load()), n), err
}

// fewer notes that the time was over before all was done.
func (x *exam) fewer(done, of int, what string) {
	if done < of {
		x.Note = fmt.Sprintf("%s of %s %s in %s", count(done), count(of), what, x.patience())
	}
}

// patience is how long a target may work at what others end sooner. Berth has to do all of it.
func (x *exam) patience() time.Duration {
	if strings.HasPrefix(x.t.name, "berth") {
		return 0
	}
	return x.most
}

// repeat lets the clients do f for the bench's time and measures it.
func (x *exam) repeat(clients []*client, f func(i, k int, c *client) (bytes int64, err error)) error {
	// Once before the clock: caches are warm, as they are on any later pull.
	if err := together(clients, func(i int, c *client) error { _, err := f(i, 0, c); return err }); err != nil {
		return err
	}
	if err := x.begin(); err != nil {
		return err
	}
	var ops, bytes atomic.Int64
	until := x.started.Add(x.time)
	err := together(clients, func(i int, c *client) error {
		k, sum := 0, int64(0)
		for ; time.Now().Before(until); k++ {
			n, err := f(i, k, c)
			if err != nil {
				return err
			}
			sum += n
		}
		ops.Add(int64(k))
		bytes.Add(sum)
		return nil
	})
	if err != nil {
		return err
	}
	return x.end(int(ops.Load()), bytes.Load())
}
