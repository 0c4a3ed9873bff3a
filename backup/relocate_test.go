package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"berth/registry/collect"
	"berth/storage"
)

// Objects move to another store while servers that read both take pushes and
// deletions, with deaths in between; in the end all is in the new store, and nothing in the old one.
func TestRelocate(t *testing.T) {
	onTransfers(t, func(t *testing.T, e, other *env) {
		old, fresh := e.store, other.store
		for i := range 6 {
			e.pushImage(e.r, repo, fmt.Sprint("app ", i), fmt.Sprint("v", i))
		}
		e.pushImage(e.r, "team/gone", "gone", "v1")
		gone := digest.FromString("layer of gone")
		e.ok(old().Delete(e.ctx, e.strings(`SELECT storage_key FROM blobs WHERE digest = $1`, string(gone))...))

		e.store = func() storage.Store { return storage.Fallback(fresh(), old()) }
		server, collector := e.replica(), e.collector()
		stop := make(chan struct{})
		var pushing sync.WaitGroup
		pushing.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				d := e.push(server, "team/churn", random(2000, uint64(100+i)))
				e.read(server, "team/churn", d)
				if i%2 == 1 {
					e.ok(server.DeleteBlob(e.ctx, as(alice), "team/churn", d))
				}
				_, err := collector.Collect(e.ctx, collect.Run{})
				e.ok(err)
			}
		})
		deaths, copied := 0, int64(0)
		for n := int64(0); ; n++ {
			ctx, cancel := context.WithCancel(e.ctx)
			var left atomic.Int64
			left.Store(2 + n%4)
			if n > 8 {
				left.Store(1000)
			}
			report, err := Relocate(ctx, e.openDB(), collect.DefaultGrace, old(), dying{fresh(), &left, cancel}, TransferRun{})
			cancel()
			copied += report.Copied
			if err == nil {
				if report.Lost != 1 || report.Problems[0].Digest != gone {
					t.Errorf("lost are %+v", report.Problems)
				}
				break
			}
			if deaths++; deaths > 50 {
				t.Fatal("no progress")
			}
		}
		close(stop)
		pushing.Wait()
		if deaths == 0 || copied < 12 {
			t.Errorf("%d deaths, %d objects copied", deaths, copied)
		}
		report, err := Relocate(e.ctx, e.openDB(), collect.DefaultGrace, old(), fresh(), TransferRun{})
		e.ok(err)
		if report.Copied != 0 || report.Present < 12 {
			t.Errorf("when all is moved: %+v", report)
		}
		// The new store alone serves, and the grace period empties the old one.
		for range 2 {
			e.clock.Add(48 * time.Hour)
			_, err := collector.ExpireUploads(e.ctx)
			e.ok(err)
			e.clock.Add(48 * time.Hour)
			_, err = collector.CollectGarbage(e.ctx)
			e.ok(err)
		}
		for info, err := range old().Walk(e.ctx) {
			e.ok(err)
			t.Errorf("the old store still has %+v", info)
		}
		e.store = fresh
		for _, l := range e.strings(`SELECT r.name || ' ' || l.digest FROM repository_blobs l JOIN repositories r ON r.id = l.repository_id`) {
			name, d, _ := strings.Cut(l, " ")
			if d != string(gone) {
				b, err := e.replica().Blob(e.ctx, name, digest.Digest(d))
				e.ok(err)
				rc, err := e.replica().OpenBlob(e.ctx, b, 0, -1)
				e.ok(err)
				_, err = io.Copy(io.Discard, rc)
				e.ok(errors.Join(err, rc.Close()))
			}
		}
		check, err := e.collector().Check(e.ctx, collect.CheckRun{Rehash: true})
		e.ok(err)
		if check.Open != 1 || slices.ContainsFunc(check.Problems, func(p collect.Problem) bool { return p.Digest != gone }) {
			t.Errorf("a check finds %+v", check.Problems)
		}
	})
}
