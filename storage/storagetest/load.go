package storagetest

import (
	"bufio"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"berth/storage"
)

// Reader gives n bytes of nothing in particular, as fast as they are taken.
func Reader(n int64) io.Reader { return io.LimitReader(endless{}, n) }

type endless struct{}

func (endless) Read(p []byte) (int, error) {
	for i := 0; i < len(p); i += 512 { // as good as all, and costs no time
		p[i] = byte(i >> 9)
	}
	return len(p), nil
}

// Trickle starts n uploads whose clients send a byte a second, and gives a
// function that ends them. A third sends nothing before, a third 100 KiB and a
// third 6 MiB at once.
func Trickle(t testing.TB, store storage.Store, n int) (stop func()) {
	t.Helper()
	var all, ready sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	for i := range n {
		s := store.Begin(NewID())
		r := &trickle{ctx: ctx, burst: []int{0, 100 << 10, 6 << 20}[i%3], ready: sync.OnceFunc(ready.Done)}
		ready.Add(1)
		all.Go(func() {
			next, _, err := store.Append(context.Background(), s, r, sha256.New())
			if err != nil {
				t.Errorf("trickling upload: %v", err)
			}
			if err := store.Abort(context.Background(), next); err != nil {
				t.Errorf("trickling upload: %v", err)
			}
		})
	}
	ready.Wait()
	return func() { cancel(); all.Wait() }
}

// trickle is a slow client: a burst, then one byte a second until ctx ends.
type trickle struct {
	ctx   context.Context
	burst int
	ready func()
}

func (r *trickle) Read(p []byte) (int, error) {
	if r.burst > 0 {
		n, _ := endless{}.Read(p[:min(len(p), r.burst)])
		r.burst -= n
		return n, nil
	}
	r.ready()
	select {
	case <-time.After(time.Second):
		p[0] = '.'
		return 1, nil
	case <-r.ctx.Done():
		return 0, io.EOF
	}
}

// Speeds measures pushes of size bytes, alone and while n clients trickle, in
// turns, and gives the best of each in bytes per second. Other load on the machine only makes
// them slower, so it goes on, for ten turns at most, until the second is half of the first or more.
func Speeds(t testing.TB, store storage.Store, size int64, n int) (alone, trickling float64) {
	t.Helper()
	speed := func() float64 {
		start := time.Now()
		key, err := Push(t.Context(), store, size)
		if err != nil {
			t.Fatal(err)
		}
		took := time.Since(start)
		if err := store.Delete(t.Context(), key); err != nil {
			t.Fatal(err)
		}
		return float64(size) / took.Seconds()
	}
	speed() // connections and memory
	for turn := 0; turn < 3 || trickling < alone/2 && turn < 10; turn++ {
		alone = max(alone, speed())
		stop := Trickle(t, store, n)
		trickling = max(trickling, speed())
		stop()
	}
	return alone, trickling
}

// Uploads runs n uploads of size bytes at once and aborts them when they are
// stored. It gives the largest resident memory of the process meanwhile, in bytes.
func Uploads(t testing.TB, store storage.Store, n int, size int64) (peak int64, took time.Duration) {
	t.Helper()
	debug.FreeOSMemory()
	var top atomic.Int64
	done := make(chan struct{})
	go func() {
		defer close(done)
		for top.Load() >= 0 {
			rss, err := Resident()
			if err != nil {
				t.Errorf("resident memory: %v", err)
				return
			}
			if old := top.Load(); old >= 0 && rss > old {
				top.CompareAndSwap(old, rss)
			}
			time.Sleep(10 * time.Millisecond)
		}
	}()
	start := time.Now()
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			s, got, err := store.Append(t.Context(), store.Begin(NewID()), Reader(size), sha256.New())
			if err != nil || got != size {
				t.Errorf("%d of %d bytes, %v", got, size, err)
			}
			if err := store.Abort(t.Context(), s); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	took = time.Since(start)
	peak = top.Swap(-1)
	<-done
	return peak, took
}

// Resident is the process's resident memory in bytes. Only Linux tells.
func Resident() (int64, error) {
	if runtime.GOOS != "linux" {
		return 0, errors.ErrUnsupported
	}
	f, err := os.Open("/proc/self/status")
	if err != nil {
		return 0, err
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if rest, ok := strings.CutPrefix(lines.Text(), "VmRSS:"); ok {
			kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			return kib << 10, err
		}
	}
	return 0, errors.New("no VmRSS in /proc/self/status")
}

// WithoutRaceDetector runs the calling test again in a process without the
// race detector when this one has it, as that multiplies memory and time. It reports
// whether it did, so that the test has nothing left to do.
func WithoutRaceDetector(t *testing.T, env ...string) bool {
	t.Helper()
	if !raceDetector {
		return false
	}
	cmd := exec.CommandContext(t.Context(), "go", "test", "-count=1", "-v", "-run", "^"+t.Name()+"$", ".")
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	t.Logf("without the race detector:\n%s", out)
	if err != nil {
		t.Fatal(err)
	}
	return true
}
