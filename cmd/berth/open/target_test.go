package open

import (
	"database/sql"
	"errors"
	"log/slog"
	"net/url"
	"path/filepath"
	"strings"
	"testing"

	"berth/backup"
	"berth/cmd/berth/settings"
	"berth/metadata"
	"berth/metadata/metadatatest"
	"berth/testenv"
)

// What is wrong with a target is told with what to do about it, and without secrets.
func TestTargetThatCannotBeUsed(t *testing.T) {
	bucket := testenv.MinIO(t)
	for _, kv := range bucket.Env() {
		k, v, _ := strings.Cut(kv, "=")
		t.Setenv(k, v)
	}
	nowhere, err := testenv.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	missing := bucket
	missing.Bucket = "berth-test-that-is-not-there"
	unreachable := bucket
	unreachable.Endpoint = "http://" + nowhere
	absent, err := url.Parse(testenv.Postgres(t))
	if err != nil {
		t.Fatal(err)
	}
	absent.User, absent.Path = url.UserPassword("berth", "hush"), "/nope"
	files := "file:" + t.TempDir()
	for name, c := range map[string]struct {
		database, store string
		want            []string
	}{
		"no such database":     {absent.String(), files, []string{absent.Host + "/nope", "Check that it is there"}},
		"database unreachable": {"postgres://berth:hush@" + nowhere + "/berth?sslmode=disable", files, []string{nowhere, "connection refused", "can be reached from here"}},
		"database URL":         {"postgres://berth:hush/x@h/berth", files, []string{"is not valid", "postgres://user:password@host:5432/name"}},
		"no such bucket":       {metadatatest.EmptySQLite(t), missing.URL("r"), []string{missing.Bucket, "does not exist", "create it first"}},
		"store unreachable":    {metadatatest.EmptySQLite(t), unreachable.URL("r"), []string{nowhere, "connection refused", "endpoint"}},
		"store URL":            {metadatatest.EmptySQLite(t), "s3://key:hush@bucket/r", []string{"AWS_ACCESS_KEY_ID"}},
		"directory":            {metadatatest.EmptySQLite(t), "file:/proc/nowhere", []string{"/proc/nowhere", "can be written to"}},
	} {
		t.Run(name, func(t *testing.T) {
			conf := &settings.Config{DatabaseURL: c.database, StorageURL: c.store, MemoryBudget: 16 << 20}
			side, err := Target(t.Context(), conf, slog.New(slog.DiscardHandler))
			if err == nil {
				t.Fatal("it was opened: ", side.DB.Close())
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%v does not say %q", err, want)
				}
			}
			for _, secret := range []string{"hush", bucket.SecretKey} {
				if strings.Contains(err.Error(), secret) {
					t.Errorf("%v tells a secret", err)
				}
			}
		})
	}
}

// A registry that somebody names as a target by mistake is not even migrated.
func TestTargetInUse(t *testing.T) {
	address := metadatatest.EmptySQLite(t)
	db := metadatatest.Open(t, metadata.Options{URL: address})
	err := db.Update(t.Context(), func(tx *metadata.Tx) error {
		_, err := tx.CreateFirstAdmin(t.Context(), "admin", "the hash of a password")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	raw, err := sql.Open("sqlite", strings.TrimPrefix(address, "sqlite:"))
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	// As an older version of the program has left it.
	if _, err := raw.ExecContext(t.Context(), `DELETE FROM schema_migrations WHERE number = (SELECT MAX(number) FROM schema_migrations)`); err != nil {
		t.Fatal(err)
	}
	before, _, err := db.SchemaVersion(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	conf := &settings.Config{DatabaseURL: address, StorageURL: "file:" + filepath.Join(t.TempDir(), "blobs"), MemoryBudget: 16 << 20}
	if _, err := Target(t.Context(), conf, slog.New(slog.DiscardHandler)); !errors.Is(err, backup.ErrInUse) {
		t.Errorf("the target gives %v", err)
	}
	if after, _, err := db.SchemaVersion(t.Context()); err != nil || after != before {
		t.Errorf("the schema has the version %d %v, want %d", after, err, before)
	}
}
