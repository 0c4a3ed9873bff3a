package sqldb

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// walHeader is a header of the wal-index, as it stands in memory.
type walHeader [6]uint64

// walIndex is SQLite's wal-index, of which only the header is read
// (https://sqlite.org/walformat.html). SQLite knows by it whether its own cache of pages still
// holds: all processes that use the database share it, it changes with each commit before that commit
// returns, and two reads that begin under the same header see the same state ("The WAL-Index Header").
type walIndex struct {
	mu     sync.RWMutex                  // the memory is there while it is read
	memory []byte                        // nil when closed
	words  *[2 * len(walHeader{})]uint64 // the two copies of the header
}

const (
	walIndexVersion = 3007000
	// Offset of the byte that says that the header was written.
	walInitialised = 12
)

// openWALIndex maps the wal-index of a database, which this process has to have
// open, and has to have read from. The file stays open until the process ends: closing
// any descriptor of a file takes away all locks that the process has on it (fcntl(2)),
// and those are SQLite's.
func openWALIndex(database string) (*walIndex, error) {
	file, err := unix.Open(database+"-shm", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("opening the wal-index: %w", err)
	}
	x := &walIndex{}
	var info unix.Stat_t
	if err := unix.Fstat(file, &info); err != nil || info.Size < int64(unsafe.Sizeof(*x.words)) {
		return nil, errors.Join(errors.New("the wal-index is too short"), err)
	}
	if x.memory, err = unix.Mmap(file, 0, os.Getpagesize(), unix.PROT_READ, unix.MAP_SHARED); err != nil {
		return nil, fmt.Errorf("mapping the wal-index: %w", err)
	}
	x.words = (*[2 * len(walHeader{})]uint64)(unsafe.Pointer(unsafe.SliceData(x.memory)))
	return x, nil
}

func (x *walIndex) free() bool { return true }

func (x *walIndex) state(context.Context) (dbState, bool) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	if x.memory == nil {
		return dbState{}, false
	}
	h, readable := x.header()
	return dbState{header: h}, readable
}

// header reads the header. It is not readable at the moment in which somebody
// writes it, and after a writer died in that moment. A writer writes the second copy
// first, so that two copies that are equal, the first read first, are a whole header.
func (x *walIndex) header() (h walHeader, readable bool) {
	for i := range h {
		h[i] = atomic.LoadUint64(&x.words[i])
	}
	for i := range h {
		if atomic.LoadUint64(&x.words[len(h)+i]) != h[i] {
			return h, false
		}
	}
	bytes := (*[unsafe.Sizeof(h)]byte)(unsafe.Pointer(&h))
	return h, *(*uint32)(unsafe.Pointer(&h)) == walIndexVersion && bytes[walInitialised] == 1
}

func (x *walIndex) close() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	memory := x.memory
	x.memory = nil
	return unix.Munmap(memory)
}
