package registry

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"time"

	"berth/metadata"
	"berth/oci"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// limit gives the team "team" a quota; 0 is no limit.
func (e *env) limit(bytes, repositories, tags int64) {
	e.Helper()
	e.ok(e.r.db.Update(e.ctx, func(tx *metadata.Tx) error {
		if _, err := tx.CreateTeam(e.ctx, "team", ""); err != nil && !errors.Is(err, oci.ErrConflict) {
			return err
		}
		return nil
	}))
	var l metadata.Limits
	for _, one := range []struct {
		to *(*int64)
		n  int64
	}{{&l.Bytes, bytes}, {&l.Repositories, repositories}, {&l.Tags, tags}} {
		if one.n > 0 {
			*one.to = &one.n
		}
	}
	e.ok(e.r.db.Update(e.ctx, func(tx *metadata.Tx) error { return tx.SetQuota(e.ctx, "team", l, alice) }))
	_, err := e.r.FoldQuotas(e.ctx)
	e.ok(err)
}

func (e *env) quota() (q metadata.Quota) {
	e.Helper()
	e.ok(e.r.db.View(e.ctx, func(tx *metadata.Tx) (err error) {
		q, err = tx.Quota(e.ctx, "team")
		return err
	}))
	return q
}

// uses is what the team's rows say: bytes, repositories, tags.
func (e *env) uses() string {
	e.Helper()
	return e.strings(`SELECT CAST(COALESCE((SELECT SUM(b.size) FROM blobs b WHERE EXISTS (
			SELECT 1 FROM repository_blobs l JOIN repositories r ON r.id = l.repository_id WHERE l.digest = b.digest AND r.team = 'team')), 0)
		+ COALESCE((SELECT SUM(m.size) FROM manifests m JOIN repositories r ON r.id = m.repository_id WHERE r.team = 'team'), 0) AS BIGINT)
		|| ' ' || (SELECT COUNT(*) FROM repositories WHERE team = 'team')
		|| ' ' || (SELECT COUNT(*) FROM tags t JOIN repositories r ON r.id = t.repository_id WHERE r.team = 'team')`)[0]
}

// balanced folds the ledger and compares it with the rows.
func (e *env) balanced(when string) {
	e.Helper()
	before := e.quota()
	for n := 1; n > 0; {
		var err error
		n, err = e.r.FoldQuotas(e.ctx)
		e.ok(err)
	}
	q := e.quota()
	if got, want := fmt.Sprint(q.Bytes, q.Repositories, q.Tags), e.uses(); got != want {
		e.Errorf("%s: the ledger says %s, the rows %s", when, got, want)
	}
	if before.Bytes < q.Bytes || before.Repositories != q.Repositories || before.Tags != q.Tags {
		e.Errorf("%s: before folding it said %+v, then %+v", when, before, q)
	}
}

// Whatever is done, the ledger adds up to what the rows say, each blob once for the
// team; and a quota that comes later counts what is there.
func TestQuotaLedger(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		e.o.UndoWindow = day
		e.r = e.replica()
		e.policy(metadata.Mutable)
		push := func(repo, tag, name string) digest.Digest {
			raw := e.image(e.r, repo, name)
			e.pushManifest(e.r, repo, tagged(tag), nil, v1.MediaTypeImageManifest, raw)
			return digest.FromBytes(raw)
		}
		first := push(repo, "1", "first")
		push("team/two", "1", "first")
		push("other/app", "1", "first")
		e.limit(1<<40, 100, 100)
		e.balanced("counted")
		if q := e.quota(); !q.Counted || q.Bytes == 0 || q.Repositories != 2 || q.Tags != 2 {
			t.Fatalf("%+v", q)
		}
		push(repo, "2", "second")
		push(repo, "2", "third") // moves
		push("team/three", "1", "second")
		e.balanced("pushed")
		ok, err := e.r.MountBlob(e.ctx, as(alice), "team/four", digest.FromString(`{"name":"first"}`), repo)
		if !ok || err != nil {
			t.Fatal(ok, err)
		}
		e.push(e.r, "team/four", []byte("alone"))
		e.balanced("mounted")
		e.ok(e.r.DeleteBlob(e.ctx, as(alice), "team/four", digest.FromString("alone")))
		_, err = e.r.DeleteManifest(e.ctx, as(alice), repo, first)
		e.ok(err)
		e.balanced("deleted")
		_, err = e.r.Restore(e.ctx, as(alice), repo, "1", "")
		e.ok(err)
		e.balanced("restored")
		_, err = e.r.DeleteManifest(e.ctx, as(alice), repo, first)
		e.ok(err)
		for range 3 {
			e.age(2 * day)
			e.collect(e.r)
		}
		e.balanced("collected")
		e.ok(e.r.db.Update(e.ctx, func(tx *metadata.Tx) error { return tx.DeleteRepository(e.ctx, "team/three", as(alice).Audit) }))
		e.balanced("a repository deleted")

		// Without a quota nothing is written; a new one begins from what is there.
		e.ok(e.r.db.Update(e.ctx, func(tx *metadata.Tx) error { return tx.DeleteQuota(e.ctx, "team") }))
		push(repo, "3", "fourth")
		_, err = e.r.FoldQuotas(e.ctx)
		e.ok(err)
		if left := e.strings(`SELECT team FROM quota_ledger UNION ALL SELECT team FROM quota_blobs`); len(left) > 0 {
			t.Errorf("left over: %v", left)
		}
		e.limit(0, 0, 100)
		e.balanced("counted again")
		e.settled()
	})
}

// The limit of bytes is never exceeded, not even by 64 pushers who each see
// room for themselves; what is left over is room for none of them. The same for tags.
func TestQuotaPushers(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		const pushers, each, size, room = 64, 2, 1000, 70
		e.limit(room*size+size/2, 0, 0)
		var group sync.WaitGroup
		var accepted, refused atomic.Int64
		replicas := []*Registry{e.r, e.replica(), e.replica()}
		stop := make(chan struct{})
		watched := make(chan struct{})
		go func() {
			defer close(watched)
			for {
				select {
				case <-stop:
					return
				case <-time.After(5 * time.Millisecond):
				}
				var used int64
				if err := e.raw.QueryRow(`SELECT CAST(COALESCE(SUM(size), 0) AS BIGINT) FROM blobs`).Scan(&used); err == nil && used > room*size+size/2 {
					t.Errorf("%d bytes are stored", used)
				}
			}
		}()
		for n := range pushers {
			r := replicas[n%len(replicas)]
			group.Go(func() {
				for i := range each {
					data := random(size, uint64(n*each+i))
					d := digest.FromBytes(data)
					var err error
					if n%2 == 0 {
						_, err = r.PutBlob(e.ctx, as(alice), fmt.Sprint("team/app", n%5), d, size, bytes.NewReader(data))
					} else { // as docker does
						var u Upload
						if u, err = r.StartUpload(e.ctx, as(alice), "team/app", digest.SHA256); err == nil {
							if _, err = r.AppendUpload(e.ctx, as(alice), "team/app", u.ID, -1, -1, bytes.NewReader(data)); err == nil {
								_, err = r.CommitUpload(e.ctx, as(alice), "team/app", u.ID, d, -1, 0, nil)
							}
						}
					}
					switch {
					case err == nil:
						accepted.Add(1)
					case errors.Is(err, oci.ErrDenied):
						refused.Add(1)
					default:
						t.Errorf("pushing: %v", err)
					}
				}
			})
		}
		group.Wait()
		close(stop)
		<-watched
		q := e.quota()
		t.Logf("%d accepted, %d refused, %+v", accepted.Load(), refused.Load(), q)
		if accepted.Load() > room || q.Reserved != 0 || accepted.Load()+refused.Load() != pushers*each {
			t.Errorf("%d of %d accepted, %d bytes are reserved", accepted.Load(), room, q.Reserved)
		}
		e.balanced("after the race")
		// Those who were refused while others held reservations may find room now.
		for i := uint64(0); accepted.Load() < room; i++ {
			e.push(e.r, repo, random(size, 1_000_000+i))
			accepted.Add(1)
		}
		data := random(size, 7_000_000)
		_, err := e.r.PutBlob(e.ctx, as(alice), repo, digest.FromBytes(data), size, bytes.NewReader(data))
		e.is(err, oci.ErrDenied, "quota")

		// What the team has already costs nothing, even now.
		again := random(size, 0)
		if _, err := e.r.Blob(e.ctx, "team/app0", digest.FromBytes(again)); err == nil {
			ok, err := e.r.MountBlob(e.ctx, as(alice), "team/app1", digest.FromBytes(again), "team/app0")
			if !ok || err != nil {
				t.Errorf("mounting what the team has: %v, %v", ok, err)
			}
		}
		e.balanced("full")

		// Tags: exactly so many as are allowed, and those that are there go on.
		raw := e.image(e.r, "other/app", "one")
		e.ok(e.r.db.Update(e.ctx, func(tx *metadata.Tx) error {
			ten := int64(10)
			return tx.SetQuota(e.ctx, "team", metadata.Limits{Tags: &ten}, alice)
		}))
		e.pushManifest(e.r, "team/tags", digested(digest.FromBytes(e.image(e.r, "team/tags", "one"))), nil, v1.MediaTypeImageManifest, raw)
		var tags atomic.Int64
		for n := range pushers {
			r := replicas[n%len(replicas)]
			group.Go(func() {
				_, err := r.PushManifest(e.ctx, as(alice), "team/tags", tagged(fmt.Sprint("v", n)), nil, v1.MediaTypeImageManifest, raw)
				if err == nil {
					tags.Add(1)
				} else if !errors.Is(err, oci.ErrDenied) {
					t.Errorf("tagging: %v", err)
				}
			})
		}
		group.Wait()
		if tags.Load() != 10 || e.quota().Tags != 10 {
			t.Errorf("%d tags accepted, %d counted, want 10", tags.Load(), e.quota().Tags)
		}
		tag := e.strings(`SELECT name FROM tags ORDER BY name LIMIT 1`)[0]
		e.pushManifest(e.r, "team/tags", tagged(tag), nil, v1.MediaTypeImageManifest, raw) // again
		e.balanced("tagged")
		e.settled()
	})
}

// An upload holds what it may become, and gives it back whatever ends it; a
// refusal says what is used and who can help.
func TestQuotaUploads(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		e.limit(10_000, 2, 0)
		reserved := func(want int64) {
			t.Helper()
			if q := e.quota(); q.Reserved != want {
				t.Errorf("%d bytes are reserved, want %d", q.Reserved, want)
			}
		}
		start := func() string {
			t.Helper()
			u, err := e.r.StartUpload(e.ctx, as(alice), repo, digest.SHA256)
			e.ok(err)
			return u.ID
		}
		one := start()
		_, err := e.r.AppendUpload(e.ctx, as(alice), repo, one, -1, 6000, bytes.NewReader(random(6000, 1)))
		e.ok(err)
		reserved(6000)
		two := start()
		_, err = e.r.AppendUpload(e.ctx, as(alice), repo, two, -1, 5000, iotest.ErrReader(errors.New("not a byte of it is read")))
		e.is(err, oci.ErrDenied, "quota")
		for _, words := range []string{"the team team has used 0 B of its quota of 9.8 KiB", "5.9 KiB by uploads under way", "4.9 KiB more", "ask an administrator", "berth quota show team"} {
			if !strings.Contains(err.Error(), words) {
				t.Errorf("the refusal does not say %q: %v", words, err)
			}
		}
		reserved(6000) // it was ended
		_, err = e.r.UploadStatus(e.ctx, as(alice), repo, two)
		e.is(err, oci.ErrBlobUploadUnknown)
		// Nobody says how much comes.
		two = start()
		_, err = e.r.AppendUpload(e.ctx, as(alice), repo, two, -1, -1, struct{ io.Reader }{bytes.NewReader(random(9000, 2))})
		e.is(err, oci.ErrDenied, "quota")
		reserved(6000)
		e.ok(e.r.CancelUpload(e.ctx, as(alice), repo, one))
		reserved(0)

		three := start()
		_, err = e.r.AppendUpload(e.ctx, as(alice), repo, three, -1, 8000, bytes.NewReader(random(8000, 3)))
		e.ok(err)
		_, err = e.r.CommitUpload(e.ctx, as(alice), repo, three, digest.FromBytes(random(8000, 3)), -1, 0, nil)
		e.ok(err)
		reserved(0)
		if q := e.quota(); q.Bytes != 8000 {
			t.Errorf("%+v", q)
		}
		four := start()
		_, err = e.r.AppendUpload(e.ctx, as(alice), repo, four, -1, 1000, bytes.NewReader(random(1000, 4)))
		e.ok(err)
		e.clock.Add(48 * time.Hour)
		_, err = collecting(e.r).ExpireUploads(e.ctx)
		e.ok(err)
		reserved(0)

		// An upload that began before there was a quota is counted at its end.
		e.ok(e.r.db.Update(e.ctx, func(tx *metadata.Tx) error { return tx.DeleteQuota(e.ctx, "team") }))
		five := start()
		_, err = e.r.AppendUpload(e.ctx, as(alice), repo, five, -1, 5000, bytes.NewReader(random(5000, 5)))
		e.ok(err)
		e.limit(10_000, 2, 0)
		_, err = e.r.CommitUpload(e.ctx, as(alice), repo, five, digest.FromBytes(random(5000, 5)), -1, 0, nil)
		e.is(err, oci.ErrDenied, "quota")

		// The third repository is refused, by a push and by a mount; and a full quota before a byte comes.
		e.push(e.r, "team/second", []byte("x"))
		_, err = e.r.PutBlob(e.ctx, as(alice), "team/third", digest.FromString("y"), 1, strings.NewReader("y"))
		e.is(err, oci.ErrDenied, "quota")
		_, err = e.r.MountBlob(e.ctx, as(alice), "team/third", digest.FromString("x"), "team/second")
		e.is(err, oci.ErrDenied, "quota")
		// It is refused before its bytes come, where that is known by then, and else gives back what it held.
		_, err = e.r.StartUpload(e.ctx, as(alice), "team/third", digest.SHA256)
		e.is(err, oci.ErrDenied, "quota")
		e.limit(10_000, 3, 0)
		late, err := e.r.StartUpload(e.ctx, as(alice), "team/third", digest.SHA256)
		e.ok(err)
		e.limit(10_000, 2, 0)
		_, err = e.r.CommitUpload(e.ctx, as(alice), "team/third", late.ID, digest.FromString("x"), -1, 1, strings.NewReader("x"))
		e.is(err, oci.ErrDenied, "quota")
		reserved(0)
		e.limit(100, 0, 0)
		_, err = e.r.StartUpload(e.ctx, as(alice), repo, digest.SHA256)
		e.is(err, oci.ErrDenied, "quota")
		_, err = e.r.StartUpload(e.ctx, as(alice), "other/app", digest.SHA256)
		e.ok(err)
		e.balanced("at the end")
	})
}
