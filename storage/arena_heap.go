//go:build !unix || race

package storage

// arena is the memory of a budget's blocks. Here it is on the heap: the race
// detector does not look anywhere else.
type arena []byte

func newArena(size int) arena { return make([]byte, size) }

func (a arena) block(i int) []byte {
	return a[i*BlockSize : (i+1)*BlockSize : (i+1)*BlockSize]
}

func (a arena) discard(int) {}

func (a arena) free() {}
