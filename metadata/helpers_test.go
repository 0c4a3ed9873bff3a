package metadata_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"testing"

	_ "github.com/jackc/pgx/v5/stdlib"
	"github.com/opencontainers/go-digest"
	"modernc.org/sqlite"

	"berth/metadata"
	"berth/oci"
	"berth/testenv"
)

func TestMain(m *testing.M) { os.Exit(testenv.Main(m)) }

// shell opens the database as psql or sqlite3 would: around package metadata.
// SQLite's shell leaves foreign keys off unless it is told otherwise.
func shell(t testing.TB, dbURL string, foreignKeys bool) *sql.DB {
	t.Helper()
	var db *sql.DB
	if path, ok := strings.CutPrefix(dbURL, "sqlite:"); ok {
		q := url.Values{"_pragma": {"busy_timeout(10000)", fmt.Sprintf("foreign_keys(%t)", foreignKeys)}}
		c, err := sqlite.NewConnector("file:" + path + "?" + q.Encode())
		if err != nil {
			t.Fatal(err)
		}
		db = sql.OpenDB(c)
	} else {
		var err error
		if db, err = sql.Open("pgx", dbURL); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { db.Close() })
	return db
}

func engine(dbURL string) string { return strings.SplitN(dbURL, ":", 2)[0] }

// update runs fn in a transaction that has to succeed.
func update(t testing.TB, db *metadata.DB, fn func(ctx context.Context, tx *metadata.Tx) error) {
	t.Helper()
	ctx := context.Background()
	if err := db.Update(ctx, func(tx *metadata.Tx) error { return fn(ctx, tx) }); err != nil {
		t.Fatalf("Update: %v", err)
	}
}

// view runs fn for reading and has to succeed.
func view(t testing.TB, db *metadata.DB, fn func(ctx context.Context, tx *metadata.Tx) error) {
	t.Helper()
	ctx := context.Background()
	if err := db.View(ctx, func(tx *metadata.Tx) error { return fn(ctx, tx) }); err != nil {
		t.Fatalf("View: %v", err)
	}
}

// wantErr asks for an error of a kind, and gives it as what a client reads.
func wantErr(t testing.TB, err error, target *oci.Error) *oci.Error {
	t.Helper()
	if !errors.Is(err, target) {
		t.Fatalf("got error %v, want %s", err, target.Code)
	}
	var e *oci.Error
	errors.As(err, &e)
	return e
}

// repo makes a repository.
func repo(t testing.TB, db *metadata.DB, name string) (id int64) {
	t.Helper()
	update(t, db, func(ctx context.Context, tx *metadata.Tx) (err error) {
		id, _, err = tx.EnsureRepository(ctx, name, metadata.Private, "alice")
		return err
	})
	return id
}

// blob makes a blob with this content and links it.
func blob(t testing.TB, db *metadata.DB, repository int64, content string) digest.Digest {
	t.Helper()
	d := digest.FromString(content)
	update(t, db, func(ctx context.Context, tx *metadata.Tx) error {
		_, err := tx.PutBlob(ctx, repository, metadata.Blob{Digest: d, Key: "key-" + d.Encoded(), Size: int64(len(content))})
		return err
	})
	return d
}

// image is a manifest with this payload.
func image(payload string) metadata.Manifest {
	return metadata.Manifest{
		Digest: digest.FromString(payload), MediaType: oci.MediaTypeImageManifest,
		Payload: []byte(payload), Size: int64(len(payload)), CreatedBy: "alice",
	}
}

// manifest stores a manifest that references nothing.
func manifest(t testing.TB, db *metadata.DB, repository int64, payload string) digest.Digest {
	t.Helper()
	m := image(payload)
	update(t, db, func(ctx context.Context, tx *metadata.Tx) error {
		_, err := tx.PutManifest(ctx, repository, m, nil, nil, false)
		return err
	})
	return m.Digest
}

// tag points a tag to a digest, which has to be allowed.
func tag(t testing.TB, db *metadata.DB, repository int64, name string, d digest.Digest, actor string) (change metadata.TagChange) {
	t.Helper()
	update(t, db, func(ctx context.Context, tx *metadata.Tx) (err error) {
		change, err = tx.PutTag(ctx, repository, name, d, by(actor))
		return err
	})
	return change
}

// putTag tries to point a tag to a digest.
func putTag(db *metadata.DB, repository int64, name string, d digest.Digest, actor string) (change metadata.TagChange, err error) {
	ctx := context.Background()
	err = db.Update(ctx, func(tx *metadata.Tx) (err error) {
		change, err = tx.PutTag(ctx, repository, name, d, by(actor))
		return err
	})
	return change, err
}

// history is a tag's history, oldest first, as "action actor".
func history(t testing.TB, db *metadata.DB, repository, tag string) (lines []string) {
	t.Helper()
	view(t, db, func(ctx context.Context, tx *metadata.Tx) error {
		events, err := tx.TagHistory(ctx, repository, tag, 0, 1000)
		for i := len(events) - 1; i >= 0; i-- {
			lines = append(lines, events[i].Action+" "+events[i].Actor)
		}
		return err
	})
	return lines
}

// by is an actor of whom only the name matters.
func by(name string) metadata.Actor { return metadata.Actor{Name: name} }
