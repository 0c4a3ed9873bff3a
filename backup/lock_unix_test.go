//go:build unix

package backup

import (
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

// The lock is free when it was given back, whatever programs are started meanwhile.
func TestLockIsGivenBack(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	done := make(chan struct{})
	var group sync.WaitGroup
	defer group.Wait()
	defer close(done)
	for range 4 {
		group.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				if err := exec.Command("true").Run(); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for range 3000 {
		unlock, err := lockFile(path)
		if err != nil {
			t.Fatal(err)
		}
		unlock()
	}
}
