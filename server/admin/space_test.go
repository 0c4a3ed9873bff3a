package admin_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"berth/auth"
	"berth/backup"
	"berth/metadata"
	"berth/metadata/metadatatest"
	"berth/oci"
	"berth/registry"
	"berth/server"
	"berth/storage"
	"berth/storage/fs"
)

// What somebody is told about a digest and about space is only about what they
// may pull from.
func TestWhyTellsNothingOfOthers(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		for _, team := range []string{"core", "secret"} {
			w.ok("POST", "/api/v1/teams", map[string]string{"name": team})
		}
		w.user("reader", metadata.RoleUser)
		w.user("outsider", metadata.RoleUser)
		w.ok("PUT", "/api/v1/teams/core/members/reader", map[string]string{"role": "reader"})
		both := w.push("core/app", "both", "1.0")
		w.push("secret/app", "both", "hidden-tag")
		theirs := w.push("secret/app", "theirs", "2.0")

		path := func(d fmt.Stringer) string { return "/api/v1/digests/" + d.String() }
		admin := w.ok("GET", path(both), nil)
		if !strings.Contains(admin.body, "core/app") || !strings.Contains(admin.body, "secret/app") || !strings.Contains(admin.body, "hidden-tag") {
			t.Errorf("the admin is told %s", admin.body)
		}
		got := w.do("reader", "GET", path(both), nil)
		if got.status != http.StatusOK || !strings.Contains(got.body, "core/app") || !strings.Contains(got.body, `"1.0"`) {
			t.Errorf("the reader is told %d %s", got.status, got.body)
		}
		if strings.Contains(got.body, "secret") || strings.Contains(got.body, "hidden") {
			t.Errorf("the reader is told of others: %s", got.body)
		}
		// What is only elsewhere is as if it were nowhere, word for word.
		nowhere := w.digest("nowhere")
		other, none := w.do("reader", "GET", path(theirs), nil), w.do("reader", "GET", path(nowhere), nil)
		w.refused(other, 404, oci.CodeBlobUnknown)
		if a, b := fmt.Sprint(other.json(t)["detail"]), fmt.Sprint(none.json(t)["detail"]); strings.ReplaceAll(a, theirs.String(), "") != strings.ReplaceAll(b, nowhere.String(), "") {
			t.Errorf("%q differs from %q", a, b)
		}
		w.refused(w.do("outsider", "GET", path(both), nil), 404, oci.CodeBlobUnknown)

		// Nor is what was deleted elsewhere, or what rules do there; what can be restored here is, and the rules here are.
		w.ok("PUT", "/api/v1/teams/secret/retention", map[string]any{"rules": []any{map[string]any{"name": "hidden-rule", "newest": 0}}})
		w.ok("PUT", "/api/v1/teams/core/retention", map[string]any{"rules": []any{map[string]any{"name": "ours", "younger_than": "48h"}}})
		gone := w.push("core/app", "gone", "3.0")
		w.push("secret/app", "gone", "hidden-tag-too")
		w.update(func(ctx context.Context, tx *metadata.Tx) error {
			for _, repository := range []string{"core/app", "secret/app"} {
				if _, err := tx.DeleteManifest(ctx, repository, gone, metadata.Actor{Name: "root"}); err != nil {
					return err
				}
			}
			_, err := tx.DeleteManifest(ctx, "secret/app", theirs, metadata.Actor{Name: "root"})
			return err
		})
		got = w.do("reader", "GET", path(both), nil)
		if !strings.Contains(got.body, `"rule":"ours"`) || !strings.Contains(got.body, `"until":`) || strings.Contains(got.body, "hidden") {
			t.Errorf("the reader is told of the rules %d %s", got.status, got.body)
		}
		got = w.do("reader", "GET", path(gone), nil)
		if got.status != http.StatusOK || !strings.Contains(got.body, `"deleted_manifest":`) || !strings.Contains(got.body, `"3.0"`) ||
			strings.Contains(got.body, "secret") || strings.Contains(got.body, "hidden") {
			t.Errorf("the reader is told of the deleted %d %s", got.status, got.body)
		}
		if admin := w.ok("GET", path(gone), nil); !strings.Contains(admin.body, "secret/app") || !strings.Contains(admin.body, "hidden-tag-too") {
			t.Errorf("the admin is told of the deleted %s", admin.body)
		}
		w.refused(w.do("reader", "GET", path(theirs), nil), 404, oci.CodeBlobUnknown)
		w.refused(w.do("outsider", "GET", path(gone), nil), 404, oci.CodeBlobUnknown)

		usage := w.do("reader", "GET", "/api/v1/teams/core/usage", nil)
		if usage.status != 200 || usage.names(t, "repository") != "core/app" || usage.names(t, "manifests") != "1" || strings.Contains(usage.body, "unique") || strings.Contains(usage.body, "shared") {
			t.Errorf("the reader's usage is %d %s", usage.status, usage.body)
		}
		w.push("core/lib", "lib", "1.0")
		first := w.do("reader", "GET", "/api/v1/teams/core/usage?limit=1", nil)
		second := w.do("reader", "GET", nextOf(t, first.header.Get("Link")), nil)
		if first.names(t, "repository") != "core/app" || second.names(t, "repository") != "core/lib" {
			t.Errorf("the pages are %s and %s", first.body, second.body)
		}
		w.ok("POST", "/api/v1/teams", map[string]string{"name": "idle"})
		if idle := w.ok("GET", "/api/v1/teams/idle/usage", nil); idle.names(t, "repository") != "" {
			t.Errorf("a team without repositories has %s", idle.body)
		}
		w.refused(w.do("root:"+rootPassword, "GET", "/api/v1/teams/nowhere/usage", nil), 404, oci.CodeNotFound)
		instance := w.ok("GET", "/api/v1/instance/usage", nil)
		if !strings.Contains(instance.body, `"team":"secret"`) || !strings.Contains(instance.body, `"stored":`) {
			t.Errorf("the instance's usage is %s", instance.body)
		}
	})
}

func TestCollector(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		w.push("core/app", "untagged")
		run := func(body string) map[string]any { return w.ok("POST", "/api/v1/instance/gc", body).json(t) }
		dry := run(`{"dry_run":true,"grace":"0s","untagged_ttl":"1ns"}`)
		items, _ := dry["items"].([]any)
		if dry["manifests"] != 1.0 || len(items) != 1 || items[0].(map[string]any)["repository"] != "core/app" {
			t.Errorf("the dry run says %v", dry)
		}
		if status := w.ok("GET", "/api/v1/instance/gc", nil).json(t); status["last"] != nil || status["gc_grace"] != "24h0m0s" || len(status["queues"].([]any)) == 0 {
			t.Errorf("before, the status is %v", status)
		}
		if kept := run(`{}`); kept["manifests"] != 0.0 {
			t.Errorf("within the grace period: %v", kept)
		}
		if gone := run(`{"grace":"0s","untagged_ttl":"1ns"}`); gone["manifests"] != 1.0 || gone["more"] != nil {
			t.Errorf("the run says %v", gone)
		}
		status := w.ok("GET", "/api/v1/instance/gc", nil).json(t)
		if last, _ := status["last"].(map[string]any); last["manifests"] != 1.0 || status["last_at"] == nil {
			t.Errorf("after, the status is %v", status)
		}
		root := "root:" + rootPassword
		for _, body := range []string{`{"grace":"soon"}`, `{"grace":"-1h"}`, `{"untagged_ttl":"x"}`, `{"grace":0}`, `{"force":true}`} {
			w.refused(w.do(root, "POST", "/api/v1/instance/gc", body), 400, oci.CodeInvalid)
		}
	})
}

func TestCheckJob(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		root := "root:" + rootPassword
		w.refused(w.do(root, "GET", "/api/v1/instance/check", nil), 404, oci.CodeNotFound, "berth check")
		w.refused(w.do(root, "DELETE", "/api/v1/instance/check", nil), 404, oci.CodeNotFound)
		for _, body := range []string{`{"rate":0}`, `{"rate":100000}`, `{"hash_rate":1}`, `{"all":true}`} {
			w.refused(w.do(root, "POST", "/api/v1/instance/check", body), 400, oci.CodeInvalid)
		}
		// The store of this server is empty, so the bytes of all blobs are missing.
		w.blobs(40)
		started := w.do(root, "POST", "/api/v1/instance/check", `{"rehash":true,"rate":2}`)
		if started.status != http.StatusAccepted || started.json(t)["state"] != "running" || started.json(t)["started_by"] != "root" {
			t.Fatalf("status %d: %s", started.status, started.body)
		}
		w.refused(w.do(root, "POST", "/api/v1/instance/check", `{}`), 409, oci.CodeConflict, "running already")
		if now := w.ok("GET", "/api/v1/instance/check", nil).json(t); now["state"] != "running" {
			t.Errorf("the check is %v", now)
		}
		w.ok("DELETE", "/api/v1/instance/check", nil)
		w.refused(w.do(root, "POST", "/api/v1/instance/check", `{}`), 409, oci.CodeConflict, "about to end")
		if end := w.jobEnds("/api/v1/instance/check"); end["state"] != "cancelled" || end["error"] == nil {
			t.Errorf("after it was cancelled the check is %v", end)
		}
		w.ok("POST", "/api/v1/instance/check", `{"rate":10000}`)
		end := w.jobEnds("/api/v1/instance/check")
		report := end["report"].(map[string]any)
		if end["state"] != "finished" || report["open"] != 40.0 || report["blobs"] != 40.0 || len(report["problems"].([]any)) != 40 {
			t.Errorf("the check is %.500v", end)
		}
		if starts, cancels := w.audited(metadata.AuditFilter{Action: "startCheck"}), w.audited(metadata.AuditFilter{Action: "cancelCheck"}); len(starts) != 2 || len(cancels) != 1 {
			t.Errorf("%d starts and %d cancels are in the audit log, want those that were not refused", len(starts), len(cancels))
		}
	})
}

// blobs makes rows of blobs whose objects nobody has.
func (w *world) blobs(n int) {
	w.t.Helper()
	w.update(func(ctx context.Context, tx *metadata.Tx) error {
		for i := range n {
			d := digest.FromString(fmt.Sprint(i))
			if _, err := tx.InsertBlob(ctx, metadata.Blob{Digest: d, Key: d.Encoded(), Size: 3}); err != nil {
				return err
			}
		}
		return nil
	})
}

// jobEnds waits for the end of a job.
func (w *world) jobEnds(path string) map[string]any {
	w.t.Helper()
	for range 1200 {
		if job := w.ok("GET", path, nil).json(w.t); job["state"] != "running" {
			return job
		}
		time.Sleep(50 * time.Millisecond)
	}
	w.t.Fatal("the job does not end")
	return nil
}

// slowPlace holds up the first file that is stored until the job ends.
type slowPlace struct{ backup.Place }

func (slowPlace) PutFile(ctx context.Context, _ string, _ *os.File) error {
	<-ctx.Done()
	return ctx.Err()
}

// Backups over the API: one at a time, into the place of the settings, verified, cancelled.
func TestBackupJob(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		const path = "/api/v1/instance/backup"
		root := "root:" + rootPassword
		w.refused(w.do(root, "GET", path, nil), 404, oci.CodeNotFound, "berth backup")
		w.refused(w.do(root, "DELETE", path, nil), 404, oci.CodeNotFound)
		w.refused(w.do(root, "POST", path, `{}`), 409, oci.CodeConflict, "not set")
		w.refused(w.do(root, "POST", path, `{"to":"/tmp"}`), 400, oci.CodeInvalid)
		store, err := fs.New(t.TempDir(), fs.Options{})
		if err != nil {
			t.Fatal(err)
		}
		w.place, w.work = slowPlace{store}, t.TempDir()
		started := w.do(root, "POST", path, `{}`)
		if now := started.json(t); started.status != http.StatusAccepted || now["state"] != "running" || now["kind"] != "backup" || now["started_by"] != "root" {
			t.Fatalf("status %d: %s", started.status, started.body)
		}
		w.refused(w.do(root, "POST", path, `{"verify":true}`), 409, oci.CodeConflict, "running already")
		w.ok("DELETE", path, nil)
		if end := w.jobEnds(path); end["state"] != "cancelled" || end["manifest"] != nil {
			t.Errorf("after it was cancelled the backup is %v", end)
		}
		w.place = store
		w.ok("POST", path, `{"verify":true}`)
		if end := w.jobEnds(path); end["state"] != "failed" || !strings.Contains(end["error"].(string), "no complete backup") {
			t.Errorf("verifying what is not there ended with %v", end)
		}
		w.blobs(2) // whose bytes the registry has lost
		w.ok("POST", path, `{"rate":1000000}`)
		end := w.jobEnds(path)
		if end["state"] != "finished" || end["manifest"] == nil || end["transfer"].(map[string]any)["lost"] != 2.0 {
			t.Fatalf("the backup is %v", end)
		}
		if _, err := backup.ReadManifest(t.Context(), store); err != nil {
			t.Error(err)
		}
		w.ok("POST", path, `{"verify":true}`)
		end = w.jobEnds(path)
		if verified, _ := end["verified"].(map[string]any); end["state"] != "finished" || end["kind"] != "verify" || verified["bad"] != 0.0 {
			t.Errorf("verified: %v", end)
		}
		if n := len(w.audited(metadata.AuditFilter{Action: "startBackup"})); n != 4 {
			t.Errorf("%d starts are in the audit log, want 4", n)
		}
	})
}

// slowStore holds up whatever is stored until the job ends.
type slowStore struct{ storage.Store }

func (slowStore) Commit(ctx context.Context, _ storage.Session) (string, error) {
	<-ctx.Done()
	return "", ctx.Err()
}

// A backup is restored, and the registry migrated, to the target of the settings: one at a
// time, cancelled, gone on with, until the target is in use.
func TestRestoreAndMigrationJobs(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		const backups, restores, migrations = "/api/v1/instance/backup", "/api/v1/instance/restore", "/api/v1/instance/migration"
		root := "root:" + rootPassword
		for _, path := range []string{restores, migrations} {
			w.refused(w.do(root, "GET", path, nil), 404, oci.CodeNotFound, "berth")
			w.refused(w.do(root, "DELETE", path, nil), 404, oci.CodeNotFound)
			w.refused(w.do(root, "POST", path, `{}`), 409, oci.CodeConflict, "not set")
			// Nobody names a place over the API.
			for _, body := range []string{`{"to":"/tmp"}`, `{"target_database_url":"postgres://elsewhere/db"}`, `{"rate":1}`} {
				w.refused(w.do(root, "POST", path, body), 400, oci.CodeInvalid)
			}
		}
		w.refused(w.do(root, "POST", migrations, `{"storage_only":true}`), 409, oci.CodeConflict, "not set")
		pushed := w.push("core/app", "migrated", "1.0")
		const layer = `{"some":"bytes"}`
		w.ok("POST", "/v2/core/app/blobs/uploads/?digest="+digest.FromString(layer).String(), layer)
		place, err := fs.New(t.TempDir(), fs.Options{})
		if err != nil {
			t.Fatal(err)
		}
		w.place, w.work = place, t.TempDir()
		w.ok("POST", backups, `{}`)
		if end := w.jobEnds(backups); end["state"] != "finished" {
			t.Fatalf("the backup is %v", end)
		}

		// target makes a place for another registry; it stands still when slow.
		slow, url, dir := true, "", ""
		w.target = func() (backup.Side, error) {
			store, err := fs.New(dir, fs.Options{})
			if err != nil {
				return backup.Side{}, err
			}
			db, err := metadata.Open(context.Background(), metadata.Options{URL: url})
			if err != nil {
				return backup.Side{}, err
			}
			if _, err := db.Migrate(context.Background()); err != nil {
				return backup.Side{}, errors.Join(err, db.Close())
			}
			if slow {
				return backup.Side{DB: db, Store: slowStore{store}}, nil
			}
			return backup.Side{DB: db, Store: store}, nil
		}
		for _, c := range []struct{ path, kind, operation string }{{restores, "restore", "Restore"}, {migrations, "migrate", "Migration"}} {
			slow, url, dir = true, metadatatest.SQLite(t), t.TempDir()
			started := w.do(root, "POST", c.path, `{}`)
			if now := started.json(t); started.status != http.StatusAccepted || now["state"] != "running" || now["kind"] != c.kind || now["started_by"] != "root" {
				t.Fatalf("status %d: %s", started.status, started.body)
			}
			for _, other := range []string{backups, restores, migrations} {
				w.refused(w.do(root, "POST", other, `{}`), 409, oci.CodeConflict, "backup, restore or migration is running already")
			}
			w.refused(w.do(root, "DELETE", backups, nil), 404, oci.CodeNotFound)
			w.ok("DELETE", c.path, nil)
			if end := w.jobEnds(c.path); end["state"] != "cancelled" {
				t.Errorf("after it was cancelled the %s is %v", c.kind, end)
			}

			slow = false
			for run := range 2 {
				w.ok("POST", c.path, `{"rate":100000000}`)
				end := w.jobEnds(c.path)
				transfer, _ := end["transfer"].(map[string]any)
				check, _ := end["check"].(map[string]any)
				if end["state"] != "finished" || transfer["lost"] != 0.0 || transfer["present"] != float64(run) || check["open"] != 0.0 || check["blobs"] != 1.0 {
					t.Fatalf("run %d of the %s is %v", run, c.kind, end)
				}
			}
			side, err := w.target()
			if err != nil {
				t.Fatal(err)
			}
			if m, err := registry.New(side.DB, side.Store, registry.Options{}).Manifest(t.Context(), "core/app", oci.Reference{Tag: "1.0"}); err != nil || m.Digest != pushed {
				t.Errorf("the copy has %v %v, want %s", m.Digest, err, pushed)
			}
			if err := errors.Join(side.DB.TakeIntoUse(t.Context()), side.DB.Close()); err != nil {
				t.Fatal(err)
			}
			w.ok("POST", c.path, `{}`)
			if end := w.jobEnds(c.path); end["state"] != "failed" || !strings.Contains(end["error"].(string), "holds a registry already") {
				t.Errorf("into a target in use the %s ends as %v", c.kind, end)
			}
			for operation, want := range map[string]int{"start" + c.operation: 4, "cancel" + c.operation: 1} {
				if events := w.audited(metadata.AuditFilter{Action: operation}); len(events) != want || events[0].Actor.Name != "root" {
					t.Errorf("%s is %d times in the audit log, want %d: %+v", operation, len(events), want, events)
				}
			}
		}
	})
}

// The objects alone move from the registry's second store to its first.
func TestStorageJob(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		const path = "/api/v1/instance/migration"
		w.blobs(3)
		second, err := fs.New(t.TempDir(), fs.Options{})
		if err != nil {
			t.Fatal(err)
		}
		const layer = "in the second store"
		d := digest.FromString(layer)
		if _, err := registry.New(w.db, second, registry.Options{}).PutBlob(t.Context(), auth.Operator("root"), "core/app", d, int64(len(layer)), strings.NewReader(layer)); err != nil {
			t.Fatal(err)
		}
		w.second = second
		w.ok("POST", path, `{"storage_only":true}`)
		end := w.jobEnds(path)
		if transfer, _ := end["transfer"].(map[string]any); end["state"] != "finished" || end["kind"] != "storage" || transfer["lost"] != 3.0 || transfer["copied"] != 1.0 {
			t.Errorf("the job is %v, want one that has found one of four objects", end)
		}
		if got := w.ok("GET", "/v2/core/app/blobs/"+d.String(), nil); got.body != layer {
			t.Errorf("after that the blob is %q", got.body)
		}
	})
}

// A read-only server refuses each change, but for the jobs that it is read-only for.
func TestReadOnly(t *testing.T) {
	db := metadatatest.Open(t, metadata.Options{URL: metadatatest.SQLite(t)})
	before := newWorld(t, db)
	populate(before)
	w := newWorld(t, db, func(o *server.Options) { o.ReadOnly = true })
	w.secrets = before.secrets
	let := map[string]bool{}
	for _, a := range attempts {
		if a.method == "GET" {
			continue
		}
		var body any
		if a.body != "" {
			body = a.body
		}
		path := "/api/v1" + strings.ReplaceAll(a.path, "{me}", "boss")
		got := w.do("admin", a.method, path, body)
		if got.status != http.StatusMethodNotAllowed {
			let[a.operation] = true
		} else if !strings.Contains(got.body, "read-only") {
			t.Errorf("%s is refused with %s", a.operation, got.body)
		}
		if got := w.do("", a.method, path, body); got.status != http.StatusUnauthorized {
			t.Errorf("%s of a stranger gives %d", a.operation, got.status)
		}
	}
	want := "cancelBackup cancelMigration cancelRestore startBackup startMigration startRestore"
	if got := strings.Join(slices.Sorted(maps.Keys(let)), " "); got != want {
		t.Errorf("a read-only server lets through %s, want %s", got, want)
	}
}
