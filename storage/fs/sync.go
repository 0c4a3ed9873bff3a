package fs

import (
	"errors"
	iofs "io/fs"
	"os"
	"path/filepath"
	"sync"
)

// dirSyncs makes directory entries durable. Calls for one directory at the
// same time share fsyncs: whoever comes while one runs waits for the next one, which
// covers all who came.
type dirSyncs struct {
	mu   sync.Mutex
	dirs map[string]*dirSync
}

type dirSync struct {
	run    sync.Mutex // one fsync at a time
	next   *round     // guarded by dirSyncs.mu
	parent bool       // the directory's own entry is durable; likewise
}

type round struct {
	done chan struct{}
	err  error
}

// sync makes the entries of dir durable, and, once per process, that of dir in root.
func (d *dirSyncs) sync(root, dir string) error {
	d.mu.Lock()
	if d.dirs == nil {
		d.dirs = map[string]*dirSync{}
	}
	g := d.dirs[dir]
	if g == nil {
		g = &dirSync{}
		d.dirs[dir] = g
	}
	r, leader := g.next, false
	if r == nil {
		r, leader = &round{done: make(chan struct{})}, true
		g.next = r
	}
	d.mu.Unlock()
	if !leader {
		<-r.done
		return r.err
	}

	g.run.Lock()
	d.mu.Lock()
	g.next = nil // from here on others are too late for this round
	parent := g.parent
	d.mu.Unlock()
	r.err = syncDir(dir)
	if r.err == nil && !parent {
		if r.err = syncDir(root); r.err == nil {
			d.mu.Lock()
			g.parent = true
			d.mu.Unlock()
		}
	}
	g.run.Unlock()
	close(r.done)
	return r.err
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// makeDir makes a directory and what is missing above it, durably.
func makeDir(dir string) error {
	var made []string
	for d := dir; ; d = filepath.Dir(d) {
		if _, err := os.Stat(d); !errors.Is(err, iofs.ErrNotExist) {
			break
		}
		made = append(made, d)
	}
	if err := os.MkdirAll(dir, modeDir); err != nil {
		return err
	}
	for _, d := range made {
		if err := syncDir(filepath.Dir(d)); err != nil {
			return err
		}
	}
	return nil
}
