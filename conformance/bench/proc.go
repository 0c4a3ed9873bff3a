package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"berth/testenv"
)

// process is a running server, with all of its children.
type process struct {
	*testenv.Process
	pid int
	log string
}

// start runs a program with its output in a file of the directory.
func start(dir, name string, cmd *exec.Cmd) (*process, error) {
	path := filepath.Join(dir, name+".log")
	log, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	p, err := testenv.Start(cmd, syscall.SIGKILL)
	if err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	return &process{p, cmd.Process.Pid, path}, nil
}

// await asks ready until it gives no error, for at most a minute.
func (p *process) await(ready func() error) error {
	deadline := time.Now().Add(time.Minute)
	for wait := time.Millisecond; ; wait = min(2*wait, 20*time.Millisecond) {
		err := ready()
		if err == nil {
			return nil
		}
		select {
		case <-p.Done():
			text, _ := os.ReadFile(p.log)
			return fmt.Errorf("the server ended: %v\n%s", p.Wait(), tail(text, 2000))
		case <-time.After(wait):
		}
		if time.Now().After(deadline) {
			text, _ := os.ReadFile(p.log)
			return fmt.Errorf("not ready after a minute: %w\n%s", err, tail(text, 2000))
		}
	}
}

func tail(b []byte, n int) []byte { return b[max(0, len(b)-n):] }

// stop ends the process and waits for it; one that does not end is killed.
func (p *process) stop(s syscall.Signal) {
	kill := time.AfterFunc(30*time.Second, func() { p.Signal(syscall.SIGKILL) })
	defer kill.Stop()
	_ = p.Stop(s) // how it ended is nothing to measure
}

// tree gives the ids of a process and its descendants.
func tree(pid int) []int {
	list := []int{pid}
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, t := range tasks {
		b, err := os.ReadFile(t)
		if err != nil {
			continue // a thread that has just ended
		}
		for _, f := range strings.Fields(string(b)) {
			if child, err := strconv.Atoi(f); err == nil {
				list = append(list, tree(child)...)
			}
		}
	}
	return list
}

// cpu is the processor time, user and system, that a process, its living and
// its ended children have used. The kernel's clock of a process counts
// nanoseconds, where /proc/PID/stat counts hundredths of a second.
func cpu(pid int) (time.Duration, error) {
	var sum time.Duration
	for i, id := range tree(pid) {
		var ts unix.Timespec
		if err := unix.ClockGettime(int32(^id<<3|2), &ts); err == nil { // CPUCLOCK_SCHED of a process
			sum += time.Duration(ts.Nano())
		} else if i == 0 {
			return 0, fmt.Errorf("processor time of %d: %w", id, err)
		}
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// proc_pid_stat(5): cutime and cstime are fields 16 and 17; field 3 follows the name.
	fields := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	for _, f := range fields[13:15] {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return 0, err
		}
		sum += time.Duration(n) * (time.Second / 100)
	}
	return sum, nil
}

// status reads a size such as VmRSS or VmHWM of a process, in bytes.
func status(pid int, field string) (int64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if value, ok := strings.CutPrefix(line, field+":"); ok {
			n, err := strconv.ParseInt(strings.Fields(value)[0], 10, 64)
			return n * kib, err
		}
	}
	return 0, fmt.Errorf("/proc/%d/status has no %s", pid, field)
}

// memory adds a field of a process and its children. Shared memory counts once
// for each, so for Postgres it is an upper bound.
func memory(pid int, field string) int64 {
	var sum int64
	for _, id := range tree(pid) {
		n, err := status(id, field)
		if err == nil {
			sum += n
		}
	}
	return sum
}

// resetPeak makes VmHWM start again from what is resident now.
func resetPeak(pid int) {
	for _, id := range tree(pid) {
		_ = os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", id), []byte("5"), 0o200) // a child may be gone
	}
}

// written is what a process and its living children have written to the disk, in bytes.
func written(pid int) int64 {
	var sum int64
	for _, id := range tree(pid) {
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/io", id))
		for line := range strings.Lines(string(b)) {
			if value, ok := strings.CutPrefix(line, "write_bytes: "); ok {
				n, _ := strconv.ParseInt(strings.TrimSpace(value), 10, 64)
				sum += n
			}
		}
	}
	return sum
}

// sinks holds buffers for bodies that are thrown away.
var sinks = sync.Pool{New: func() any { b := make([]byte, 256*kib); return &b }}
