package registry

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"berth/metadata"
	"berth/oci"
	"berth/registry/collect"
	"berth/registry/registrytest"
	"berth/storage"
	"berth/storage/fs"
	"berth/storage/storagetest"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// checked runs a check with the clock that objects have, and gives its
// problems as "kind subject", with a star when they are repaired.
func (e *env) checked(run collect.CheckRun) (problems []string, report collect.CheckReport) {
	e.Helper()
	db, err := metadata.Open(e.ctx, metadata.Options{URL: e.url})
	e.ok(err)
	defer db.Close()
	report, err = collecting(New(db, e.store(), Options{})).Check(e.ctx, run)
	e.ok(err)
	for _, p := range report.Problems {
		line := p.Kind + " " + string(p.Digest)
		if p.Digest == "" {
			line = p.Kind + " " + p.Key
		}
		if p.Repaired {
			line += "*"
		}
		problems = append(problems, line)
	}
	slices.Sort(problems)
	return problems, report
}

func (e *env) wantProblems(run collect.CheckRun, open int64, want ...string) collect.CheckReport {
	e.Helper()
	slices.Sort(want)
	got, report := e.checked(run)
	if !slices.Equal(got, want) || report.Open != open {
		e.Errorf("found %v with %d open, want %v with %d\n%+v", got, report.Open, want, open, report)
	}
	return report
}

// put stores an object that no row points to.
func (e *env) put(data []byte) string {
	e.Helper()
	store := e.store()
	s, _, err := store.Append(e.ctx, store.Begin(storagetest.NewID()), bytes.NewReader(data), io.Discard)
	e.ok(err)
	key, err := store.Commit(e.ctx, s)
	e.ok(err)
	return key
}

func TestCheck(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		ago := collect.CheckRun{Grace: -time.Hour} // all objects are old enough
		lost, kept := []byte("will be lost"), []byte("stays")
		d := e.push(e.r, repo, lost)
		e.push(e.r, repo, kept)
		ok, err := e.r.MountBlob(e.ctx, as(alice), "team/other", d, repo)
		if !ok || err != nil {
			t.Fatal(ok, err)
		}
		raw := e.image(e.r, repo, "app")
		e.pushManifest(e.r, repo, tagged("1"), nil, v1.MediaTypeImageManifest, raw)
		u, err := e.r.StartUpload(e.ctx, as(alice), repo, digest.SHA256)
		e.ok(err)
		_, err = e.r.AppendUpload(e.ctx, as(alice), repo, u.ID, -1, -1, bytes.NewReader(random(100, 1)))
		e.ok(err)
		rehash := ago
		rehash.Rehash = true
		if r := e.wantProblems(rehash, 0); r.Blobs != 4 || r.Objects < 4 || r.Manifests != 1 || r.Bytes == 0 || r.FinishedAt.IsZero() {
			t.Errorf("%+v", r)
		}

		// An object goes behind our back. Until a repair, its blob is still promised.
		b, err := e.r.Blob(e.ctx, repo, d)
		e.ok(err)
		e.ok(e.store().Delete(e.ctx, b.Key))
		r := e.wantProblems(ago, 1, "missing "+string(d))
		if p := r.Problems[0]; p.Size != int64(len(lost)) || !slices.Contains(p.Repositories, "team/other") || p.Key != b.Key {
			t.Errorf("%+v", p)
		}
		_, err = e.r.Blob(e.ctx, repo, d)
		e.ok(err)

		// Marked, it is unknown everywhere: to pulls, mounts and manifests.
		repair := ago
		repair.Repair = true
		e.wantProblems(repair, 1, "missing "+string(d)+"*")
		e.wantProblems(repair, 1, "missing "+string(d)+"*")
		for _, name := range []string{repo, "team/other"} {
			_, err = e.r.Blob(e.ctx, name, d)
			e.is(err, oci.ErrBlobUnknown)
		}
		ok, err = e.r.MountBlob(e.ctx, as(alice), "team/third", d, repo)
		if ok || err != nil {
			t.Error(ok, err)
		}
		needs := e.image(e.r, repo, "needs", func(m *v1.Manifest) {
			m.Layers = append(m.Layers, v1.Descriptor{MediaType: v1.MediaTypeImageLayerGzip, Digest: d, Size: int64(len(lost))})
		})
		_, err = e.r.PushManifest(e.ctx, as(alice), repo, tagged("2"), nil, v1.MediaTypeImageManifest, needs)
		e.is(err, oci.ErrManifestBlobUnknown)

		// The next push of it, anywhere, heals it everywhere.
		e.push(e.r, "team/fourth", lost)
		for _, name := range []string{repo, "team/other", "team/fourth"} {
			if !bytes.Equal(e.read(e.r, name, d), lost) {
				t.Error("other bytes")
			}
		}
		e.pushManifest(e.r, repo, tagged("2"), nil, v1.MediaTypeImageManifest, needs)
		e.wantProblems(rehash, 0)

		// An object that comes back, as from a backup, is served again.
		if _, err := e.raw.ExecContext(e.ctx, `UPDATE blobs SET missing_since = 1 WHERE digest = $1`, string(d)); err != nil {
			t.Fatal(err)
		}
		e.wantProblems(ago, 1, "found "+string(d))
		e.wantProblems(repair, 0, "found "+string(d)+"*")
		e.read(e.r, repo, d)

		// Objects without a row wait for the grace period.
		orphan := e.put([]byte("nobody's"))
		e.wantProblems(collect.CheckRun{Repair: true}, 0)
		e.wantProblems(ago, 1, "orphan "+orphan)
		e.wantProblems(repair, 0, "orphan "+orphan+"*")
		e.wantProblems(repair, 0)
		e.clock.Add(365 * day) // the check's clock is ahead of this one
		e.collect(e.r)
		if slices.Contains(e.keys(), orphan) {
			t.Error("the orphan is still there")
		}

		// Rows that somebody took out of the queues come back.
		for _, table := range []string{"gc_manifests", "gc_links", "gc_blobs"} {
			_, err := e.raw.ExecContext(e.ctx, `DELETE FROM `+table)
			e.ok(err)
		}
		e.ok(e.r.DeleteTag(e.ctx, as(alice), repo, "2"))
		_, err = e.raw.ExecContext(e.ctx, `DELETE FROM gc_manifests`)
		e.ok(err)
		r = e.wantProblems(repair, 0, "queue *")
		if !strings.HasPrefix(r.Problems[0].Detail, "3 ") { // the links of the kept, mounted and pushed blobs; the manifest can be restored
			t.Errorf("%+v", r.Problems)
		}
		e.wantProblems(repair, 0)
		e.ok(e.r.CancelUpload(e.ctx, as(alice), repo, u.ID))
		e.settled()
	})
}

// Bytes that change under their digest are found by their size, or by reading
// them, and healed by a push.
func TestCheckDamage(t *testing.T) {
	url, driver, dsn := registrytest.SQLite(t)
	dir := t.TempDir()
	e := newEnv(t, url, driver, dsn, func() storage.Store {
		s, err := fs.New(dir, fs.Options{})
		if err != nil {
			t.Fatal(err)
		}
		return s
	})
	data := random(1000, 1)
	d := e.push(e.r, repo, data)
	raw := e.image(e.r, repo, "app")
	e.pushManifest(e.r, repo, tagged("1"), nil, v1.MediaTypeImageManifest, raw)
	damage := func(bytes []byte) {
		t.Helper()
		b, err := e.r.Blob(e.ctx, repo, d)
		e.ok(err)
		name := filepath.Join(dir, b.Key)
		e.ok(os.Chmod(name, 0o600))
		e.ok(os.WriteFile(name, bytes, 0o600))
	}
	damage(random(1000, 2))
	e.wantProblems(collect.CheckRun{}, 0)
	e.wantProblems(collect.CheckRun{Rehash: true}, 1, "damaged "+string(d))
	damage(data[:999])
	e.wantProblems(collect.CheckRun{Repair: true}, 1, "damaged "+string(d)+"*")
	_, err := e.r.Blob(e.ctx, repo, d)
	e.is(err, oci.ErrBlobUnknown)
	e.push(e.r, repo, data)
	e.wantProblems(collect.CheckRun{Rehash: true}, 0)
	e.clock.Add(time.Minute)
	e.collect(e.r)
	if n := len(e.keys()); n != 3 {
		t.Errorf("%d objects, the damaged one is still there", n)
	}

	// A manifest's bytes are in the database, where a trigger stands before them.
	m := digest.FromBytes(raw)
	for _, statement := range []string{`DROP TRIGGER manifests_update`, `UPDATE manifests SET payload = payload || ' '`} {
		_, err := e.raw.ExecContext(e.ctx, statement)
		e.ok(err)
	}
	e.wantProblems(collect.CheckRun{}, 0)
	e.wantProblems(collect.CheckRun{Rehash: true, Repair: true}, 1, "manifest "+string(m))

	// A store that does not answer ends the check, and proves nothing.
	faulty := storagetest.Faulty(e.store(), storagetest.Fault{Op: "Stat", Call: 2})
	report, err := collecting(New(e.openDB(), faulty, e.o)).Check(e.ctx, collect.CheckRun{Repair: true})
	if !errors.Is(err, storagetest.ErrFault) || report.Blobs != 1 || len(report.Problems) > 0 {
		t.Errorf("%v, %+v", err, report)
	}
	faulty = storagetest.Faulty(e.store(), storagetest.Fault{Op: "Walk"})
	if _, err := collecting(New(e.openDB(), faulty, e.o)).Check(e.ctx, collect.CheckRun{}); !errors.Is(err, storagetest.ErrFault) {
		t.Error(err)
	}

	// It keeps its pace.
	start := time.Now()
	e.wantProblems(collect.CheckRun{Rate: 20}, 0)
	if took := time.Since(start); took < 100*time.Millisecond {
		t.Errorf("3 blobs at 20 a second in %s", took)
	}
	start = time.Now()
	e.wantProblems(collect.CheckRun{Rehash: true, HashRate: 10_000}, 1, "manifest "+string(m))
	if took := time.Since(start); took < 90*time.Millisecond {
		t.Errorf("1,000 bytes at 10,000 a second in %s", took)
	}
}
