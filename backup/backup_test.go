package backup_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"berth/auth"
	"berth/backup"
	"berth/jobs"
	"berth/metadata"
	"berth/metadata/metadatatest"
	"berth/oci"
	"berth/registry"
	"berth/registry/collect"
	"berth/storage"
	"berth/storage/fs"
	"berth/storage/s3"
	"berth/testenv"
)

func TestMain(m *testing.M) { os.Exit(testenv.Main(m)) }

const repo = "core/app"

var alice = auth.Operator("alice")

// variants are the combinations of database and store.
var variants = []string{"sqlite+directory", "postgres+directory", "sqlite+s3", "postgres+s3"}

// world is a registry.
type world struct {
	t    *testing.T
	ctx  context.Context
	url  string
	dir  string // of the store; "" on S3
	side backup.Side
	reg  *registry.Registry
}

func directory(t *testing.T, dir string) *fs.Store {
	s, err := fs.New(dir, fs.Options{})
	must(t, err)
	return s
}

func bucket(t *testing.T) *s3.Store {
	b := testenv.MinIO(t)
	for _, kv := range b.Env() {
		k, v, _ := strings.Cut(kv, "=")
		t.Setenv(k, v)
	}
	c, err := s3.ParseURL(b.URL("registry"))
	must(t, err)
	s, err := s3.New(t.Context(), c)
	must(t, err)
	return s
}

func newWorld(t *testing.T, variant string) *world {
	t.Helper()
	w := &world{t: t, ctx: t.Context(), url: metadatatest.SQLite(t)}
	if strings.HasPrefix(variant, "postgres") {
		w.url = metadatatest.Postgres(t)
	}
	w.side.DB = metadatatest.Open(t, metadata.Options{URL: w.url})
	if strings.HasSuffix(variant, "s3") {
		w.side.Store = bucket(t)
	} else {
		w.dir = t.TempDir()
		w.side.Store = directory(t, w.dir)
	}
	w.reg = registry.New(w.side.DB, w.side.Store, registry.Options{})
	return w
}

func (w *world) collector() *collect.Collector {
	return collect.New(w.side.DB, w.side.Store, collect.Options{})
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (w *world) blob(data string) v1.Descriptor {
	w.t.Helper()
	d := digest.FromString(data)
	_, err := w.reg.PutBlob(w.ctx, alice, repo, d, int64(len(data)), strings.NewReader(data))
	must(w.t, err)
	return v1.Descriptor{MediaType: v1.MediaTypeImageLayer, Digest: d, Size: int64(len(data))}
}

// push makes an image under a tag, and gives its digest.
func (w *world) push(tag string) digest.Digest {
	w.t.Helper()
	m := v1.Manifest{MediaType: v1.MediaTypeImageManifest, Config: w.blob("config of " + tag), Layers: []v1.Descriptor{w.blob("layer of " + tag)}}
	m.SchemaVersion = 2
	m.Config.MediaType = v1.MediaTypeImageConfig
	raw, err := json.Marshal(m)
	must(w.t, err)
	p, err := w.reg.PushManifest(w.ctx, alice, repo, oci.Reference{Tag: tag}, nil, v1.MediaTypeImageManifest, raw)
	must(w.t, err)
	return p.Digest
}

// pull reads an image and all of its bytes.
func (w *world) pull(tag string) error {
	w.t.Helper()
	m, err := w.reg.Manifest(w.ctx, repo, oci.Reference{Tag: tag})
	if err != nil {
		return err
	}
	for _, part := range []string{"config of " + tag, "layer of " + tag} {
		b, err := w.reg.Blob(w.ctx, repo, digest.FromString(part))
		if err != nil {
			return err
		}
		rc, err := w.reg.OpenBlob(w.ctx, b, 0, -1)
		if err != nil {
			return err
		}
		got, err := io.ReadAll(rc)
		rc.Close()
		if err != nil || string(got) != part {
			return fmt.Errorf("%s holds %.60q: %w", part, got, err)
		}
	}
	if digest.FromBytes(m.Payload) != m.Digest {
		return errors.New("the manifest has other bytes")
	}
	return nil
}

func (w *world) update(fn func(tx *metadata.Tx) error) {
	w.t.Helper()
	must(w.t, w.side.DB.Update(w.ctx, fn))
}

// populate makes what has to survive: people, keys, policies and images.
func (w *world) populate() {
	w.t.Helper()
	w.update(func(tx *metadata.Tx) error {
		if _, err := tx.CreateFirstAdmin(w.ctx, "admin", "the hash of a password"); err != nil {
			return err
		}
		if _, err := tx.CreateTeam(w.ctx, "core", ""); err != nil {
			return err
		}
		return tx.SetInstanceTagPolicy(w.ctx, metadata.TagPolicy{Mode: "sealed", Exempt: []string{"latest"}})
	})
	for i := range 5 {
		w.push(fmt.Sprint("v", i))
	}
	w.push("latest")
}

func objects(t *testing.T, place backup.Place) (keys []string) {
	t.Helper()
	for info, err := range place.Walk(t.Context()) {
		must(t, err)
		keys = append(keys, info.Key)
	}
	return keys
}

// From each kind of registry to each kind of place, and back into another kind.
func TestBackupAndRestore(t *testing.T) {
	for i, variant := range variants {
		t.Run(variant, func(t *testing.T) {
			from, to := newWorld(t, variant), newWorld(t, variants[3-i])
			var place backup.Place
			if place = directory(t, t.TempDir()); i%2 == 1 {
				place = bucket(t)
			}
			o := backup.Options{Work: t.TempDir(), Source: "the registry", Version: "1.2.3"}
			if _, err := backup.ReadManifest(t.Context(), place); !errors.Is(err, backup.ErrNoBackup) {
				t.Errorf("an empty place gives %v", err)
			}
			from.populate()
			gone := from.blob("of no image")
			_, report, err := backup.Run(t.Context(), from.side, place, o)
			must(t, err)
			if at := report.Progress; at.Unit != jobs.UnitBytes || at.Done != report.Bytes || at.Total != at.Done {
				t.Errorf("after %d bytes the first backup is at %+v", report.Bytes, at)
			}
			if report.Copied != 13 {
				t.Errorf("the first backup copied %+v", report)
			}

			// What is new is copied, what is gone goes, also without the work directory.
			from.push("v9")
			must(t, from.reg.DeleteBlob(t.Context(), alice, repo, gone.Digest))
			_, err = from.collector().Collect(t.Context(), collect.Run{})
			must(t, err)
			o.Work = t.TempDir()
			m, report, err := backup.Run(t.Context(), from.side, place, o)
			must(t, err)
			if report.Copied != 2 || report.Present != 12 || m.Blobs != 14 || m.Lost != 0 {
				t.Errorf("the second backup copied %+v: %+v", report, m)
			}
			if n := len(objects(t, place)); n != 14 {
				t.Errorf("the place has %d objects, want 14", n)
			}
			v, err := backup.Verify(t.Context(), place, o)
			must(t, err)
			if at := v.Check.Progress; at.Unit != jobs.UnitBytes || at.Total == 0 || at.Done != at.Total {
				t.Errorf("the verified backup is at %+v", at)
			}
			if v.Bad != 0 || v.Check.Blobs != 14 || v.Check.Manifests != 7 || v.Check.Bytes == 0 {
				t.Errorf("the backup is %+v", v)
			}
			o.Source = "another registry"
			if _, _, err := backup.Run(t.Context(), from.side, place, o); err == nil || !strings.Contains(err.Error(), "is a copy of") {
				t.Errorf("a backup of another registry to the same place gives %v", err)
			}

			_, report, err = backup.Restore(t.Context(), place, to.side, o)
			must(t, err)
			if report.Copied != 14 || report.Lost != 0 {
				t.Errorf("restored %+v", report)
			}
			for _, tag := range []string{"v0", "v4", "v9", "latest"} {
				if err := to.pull(tag); err != nil {
					t.Errorf("pulling %s: %v", tag, err)
				}
			}
			if err := to.reg.DeleteTag(t.Context(), alice, repo, "v0"); !errors.Is(err, oci.ErrDenied) && err == nil {
				t.Error("a sealed tag was deleted in the restored registry")
			}
			must(t, to.side.DB.TakeIntoUse(t.Context()))
			counts, err := to.side.DB.CountRows(t.Context())
			must(t, err)
			for table, n := range m.Rows {
				if counts[table] != n {
					t.Errorf("the table %s has %d rows, want %d", table, counts[table], n)
				}
			}
			to.push("v10") // numbers and triggers work
			check, err := to.collector().Check(t.Context(), collect.CheckRun{Rehash: true, Repair: true, Grace: -time.Hour})
			must(t, err)
			if len(check.Problems) > 0 {
				t.Errorf("a check of the restored registry finds %+v", check.Problems)
			}
		})
	}
}

// Whatever is wrong with a backup is found by Verify, and never restored as if it were right.
func TestDamagedBackup(t *testing.T) {
	from := newWorld(t, variants[0])
	from.populate()
	damage := map[string]func(t *testing.T, dir string){
		"no manifest": func(t *testing.T, dir string) { must(t, os.Remove(filepath.Join(dir, "backup.json"))) },
		"half a manifest": func(t *testing.T, dir string) {
			must(t, os.Truncate(filepath.Join(dir, "backup.json"), 50))
		},
		"a manifest of 2 MiB": func(t *testing.T, dir string) {
			must(t, os.WriteFile(filepath.Join(dir, "backup.json"), bytes.Repeat([]byte(" "), 2<<20), 0o600))
		},
		"a newer format": func(t *testing.T, dir string) {
			must(t, os.WriteFile(filepath.Join(dir, "backup.json"), []byte(`{"format":99,"version":"9.0"}`), 0o600))
		},
		"a manifest that leads elsewhere": func(t *testing.T, dir string) {
			must(t, os.WriteFile(filepath.Join(dir, "backup.json"),
				[]byte(`{"format":1,"database":{"name":"../../etc/passwd.db","size":1,"sha256":"`+strings.Repeat("0", 64)+`"}}`), 0o600))
		},
		"half a database": func(t *testing.T, dir string) {
			must(t, os.Truncate(databaseOf(t, dir), 5000))
		},
		"a changed database": func(t *testing.T, dir string) { flip(t, databaseOf(t, dir)) },
		"no database":        func(t *testing.T, dir string) { must(t, os.Remove(databaseOf(t, dir))) },
	}
	for name, change := range damage {
		t.Run(name, func(t *testing.T) {
			dir, to := t.TempDir(), newWorld(t, variants[0])
			place := directory(t, dir)
			o := backup.Options{Work: t.TempDir(), Source: "s"}
			_, _, err := backup.Run(t.Context(), from.side, place, o)
			must(t, err)
			change(t, dir)
			if _, err := backup.Verify(t.Context(), place, o); err == nil {
				t.Error("Verify finds nothing")
			}
			if _, _, err := backup.Restore(t.Context(), place, to.side, o); err == nil {
				t.Error("Restore finds nothing")
			}
			// From another machine, the next backup cannot go on from it either, and says what to do.
			_, _, err = backup.Run(t.Context(), from.side, place, backup.Options{Work: t.TempDir(), Source: "s"})
			if strings.HasSuffix(name, "database") && (err == nil || !strings.Contains(err.Error(), "give another place")) {
				t.Errorf("the next backup gives %v", err)
			}
			must(t, to.side.DB.View(t.Context(), func(tx *metadata.Tx) error {
				empty, err := tx.IsEmpty(t.Context())
				if !empty {
					t.Error("something was restored")
				}
				return err
			}))
		})
	}
	// What does not keep a backup from being restored is a problem that Verify names.
	counts := map[string]struct {
		change func(m map[string]any)
		want   string
	}{
		"a table without a count":        {func(m map[string]any) { delete(m["rows"].(map[string]any), "tags") }, "the table tags has "},
		"no counts":                      {func(m map[string]any) { delete(m, "rows") }, "the table tags has "},
		"a wrong count":                  {func(m map[string]any) { m["rows"].(map[string]any)["tags"] = 99 }, "backup.json says 99"},
		"a schema of the future":         {func(m map[string]any) { m["schema"] = 999 }, "backup.json says 999"},
		"more blobs lost than there are": {func(m map[string]any) { m["lost"] = 99 }, "backup.json counts 12 blobs with bytes and 99 without, of 12"},
	}
	for name, c := range counts {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			place := directory(t, dir)
			o := backup.Options{Work: t.TempDir(), Source: "s"}
			_, _, err := backup.Run(t.Context(), from.side, place, o)
			must(t, err)
			path := filepath.Join(dir, "backup.json")
			text, err := os.ReadFile(path)
			must(t, err)
			var m map[string]any
			must(t, json.Unmarshal(text, &m))
			c.change(m)
			text, err = json.Marshal(m)
			must(t, err)
			must(t, os.WriteFile(path, text, 0o600))
			v, err := backup.Verify(t.Context(), place, o)
			must(t, err)
			if v.Bad == 0 || !strings.Contains(strings.Join(v.Problems, "\n"), c.want) {
				t.Errorf("Verify finds %d: %v", v.Bad, v.Problems)
			}
		})
	}
	t.Run("healed by the next backup", func(t *testing.T) {
		dir := t.TempDir()
		place := directory(t, dir)
		o := backup.Options{Work: t.TempDir(), Source: "s"}
		_, _, err := backup.Run(t.Context(), from.side, place, o)
		must(t, err)
		keys := objects(t, place)
		must(t, os.Remove(filepath.Join(dir, keys[0])))
		must(t, os.Chmod(filepath.Join(dir, keys[1]), 0o600))
		must(t, os.Truncate(filepath.Join(dir, keys[1]), 3))
		_, report, err := backup.Run(t.Context(), from.side, place, o)
		must(t, err)
		if report.Copied != 2 || report.Present != 10 {
			t.Errorf("the next backup: %+v", report)
		}
		v, err := backup.Verify(t.Context(), place, o)
		must(t, err)
		if v.Bad != 0 || len(objects(t, place)) != 12 {
			t.Errorf("Verify finds %+v, and there are %d objects", v, len(objects(t, place)))
		}
	})
	t.Run("changed and missing bytes", func(t *testing.T) {
		dir, to := t.TempDir(), newWorld(t, variants[1])
		place := directory(t, dir)
		o := backup.Options{Work: t.TempDir(), Source: "s"}
		_, _, err := backup.Run(t.Context(), from.side, place, o)
		must(t, err)
		keys := objects(t, place)
		flip(t, filepath.Join(dir, keys[0]))
		must(t, os.Remove(filepath.Join(dir, keys[1])))
		v, err := backup.Verify(t.Context(), place, o)
		must(t, err)
		if v.Bad != 2 || v.Check.Found[collect.ProblemDamaged] != 1 || v.Check.Found[collect.ProblemMissing] != 1 {
			t.Errorf("Verify finds %+v", v)
		}
		_, report, err := backup.Restore(t.Context(), place, to.side, o)
		must(t, err)
		if report.Lost != 2 || len(report.Problems) != 2 || report.Copied != 10 {
			t.Errorf("restored %+v", report)
		}
		failed := 0
		for _, tag := range []string{"v0", "v1", "v2", "v3", "v4", "latest"} {
			if to.pull(tag) != nil {
				failed++
			}
		}
		if failed == 0 || failed > 2 {
			t.Errorf("%d images lack bytes, want 1 or 2", failed)
		}
	})
}

func databaseOf(t *testing.T, dir string) string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, "berth-*.db"))
	must(t, err)
	if len(found) != 1 {
		t.Fatalf("the databases are %v", found)
	}
	return found[0]
}

// flip changes a byte in the middle of a file.
func flip(t *testing.T, path string) {
	t.Helper()
	data, err := os.ReadFile(path)
	must(t, err)
	data[len(data)/2] ^= 1
	must(t, os.Chmod(path, 0o600))
	must(t, os.WriteFile(path, data, 0o600))
}

// Two backups to one place at a time would mix.
func TestOneBackupAtATime(t *testing.T) {
	from := newWorld(t, variants[0])
	from.populate()
	place := directory(t, t.TempDir())
	o := backup.Options{Work: t.TempDir(), Source: "s"}
	var second error
	blocking := slowStore{Store: from.side.Store, first: sync.OnceFunc(func() {
		_, _, second = backup.Run(t.Context(), from.side, place, o)
	})}
	_, _, err := backup.Run(t.Context(), backup.Side{DB: from.side.DB, Store: &blocking}, place, o)
	must(t, err)
	if !errors.Is(second, backup.ErrBusy) {
		t.Errorf("a second backup meanwhile gives %v", second)
	}
}

// slowStore does something else before the first read; the others wait.
type slowStore struct {
	storage.Store
	first func()
}

func (s *slowStore) Open(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	s.first()
	return s.Store.Open(ctx, key, offset, length)
}

// A database that is older or newer than its store, as after a restore by other
// means, ends in a clean check.
func TestDatabaseAndStoreOfDifferentTimes(t *testing.T) {
	for _, variant := range []string{variants[0], variants[2]} {
		t.Run(variant, func(t *testing.T) {
			w := newWorld(t, variant)
			w.push("v1")
			before := keysOf(t, w)
			old := filepath.Join(t.TempDir(), "old.db")
			raw, err := os.ReadFile(strings.TrimPrefix(w.url, "sqlite:"))
			must(t, err)
			wal, err := os.ReadFile(strings.TrimPrefix(w.url, "sqlite:") + "-wal")
			must(t, err)
			must(t, os.WriteFile(old, raw, 0o600))
			must(t, os.WriteFile(old+"-wal", wal, 0o600))
			w.push("v2")

			// An older database: the store has bytes that nobody knows of.
			db := metadatatest.Open(t, metadata.Options{URL: "sqlite:" + old})
			older := collect.New(db, w.side.Store, collect.Options{})
			check := func(c *collect.Collector, run collect.CheckRun) collect.CheckReport {
				t.Helper()
				report, err := c.Check(t.Context(), run)
				must(t, err)
				return report
			}
			if report := check(older, collect.CheckRun{Grace: time.Hour}); len(report.Problems) > 0 {
				t.Errorf("within the grace period the check finds %+v", report.Problems)
			}
			report := check(older, collect.CheckRun{Repair: true, Grace: -time.Hour})
			if report.Found[collect.ProblemOrphan] != 2 || report.Open != 0 {
				t.Errorf("an older database: %+v", report)
			}
			_, err = older.CollectGarbage(t.Context())
			must(t, err)
			if now := keysOf(t, w); !slices.Equal(now, before) {
				t.Errorf("the store has %v, want %v", now, before)
			}
			if report := check(older, collect.CheckRun{Rehash: true, Grace: -time.Hour}); len(report.Problems) > 0 {
				t.Errorf("after the repair: %+v", report.Problems)
			}

			// The same store is older than the newer database: bytes are missing.
			report = check(w.collector(), collect.CheckRun{Repair: true, Grace: -time.Hour})
			if report.Found[collect.ProblemMissing] != 2 || report.Open != 2 {
				t.Errorf("a newer database: %+v", report)
			}
			if text, err := json.Marshal(report); err != nil || !strings.Contains(string(text), digest.FromString("layer of v2").String()) {
				t.Errorf("the report does not name what is missing: %s %v", text, err)
			}
			if w.pull("v2") == nil || w.pull("v1") != nil {
				t.Error("what is whole has to be served, and what is not, not")
			}
			w.push("v2")
			if err := w.pull("v2"); err != nil {
				t.Errorf("after the re-push: %v", err)
			}
			if report := check(w.collector(), collect.CheckRun{Rehash: true, Grace: -time.Hour}); len(report.Problems) > 0 {
				t.Errorf("after the re-push: %+v", report.Problems)
			}
		})
	}
}

func keysOf(t *testing.T, w *world) []string {
	t.Helper()
	var keys []string
	for info, err := range w.side.Store.Walk(t.Context()) {
		must(t, err)
		keys = append(keys, info.Key)
	}
	slices.Sort(keys)
	return keys
}
