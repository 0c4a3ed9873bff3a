//go:build unix && !race

package storage

import "golang.org/x/sys/unix"

// arena is the memory of a budget's blocks, outside of Go's heap. The system
// provides pages as they are touched.
type arena []byte

func newArena(size int) arena {
	mem, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		panic("storage: no memory for buffers: " + err.Error()) // as make does
	}
	return mem
}

func (a arena) block(i int) []byte {
	return a[i*BlockSize : (i+1)*BlockSize : (i+1)*BlockSize]
}

// discard gives the memory of the first n blocks back to the system. Nobody
// may be using them.
func (a arena) discard(n int) {
	if n > 0 {
		_ = unix.Madvise(a[:n*BlockSize], unix.MADV_DONTNEED)
	}
}

func (a arena) free() { _ = unix.Munmap(a) }
