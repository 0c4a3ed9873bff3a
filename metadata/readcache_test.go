package metadata_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	osexec "os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"berth/metadata"
	"berth/metadata/metadatatest"
	"berth/oci"
)

// Each fact of the model counts up from 0: its state n is written by its n-th change.
// Before a change begins, begun is n; when it has returned, done is. So a read that began
// when done was d and ended when begun was b has to find a state from d to b.
type fact struct {
	name        string
	begun, done atomic.Int64
	change      func(ctx context.Context, tx *metadata.Tx, n int64) error
	// holds reports whether what the database says is state n.
	read func(ctx context.Context, tx *metadata.Tx) (holds func(n int64) bool, say string, err error)
}

const factStates = 40 // a tag goes round among so many manifests

func factDigest(n int64) digest.Digest {
	return digest.FromString(fmt.Sprint("manifest ", n%factStates))
}

var factBlob = digest.FromString("blob")

// tagFact is a tag that moves, and that every fifth change deletes.
func tagFact(repository string, repositoryID int64, name string) *fact {
	f := &fact{name: "tag " + name}
	gone := func(n int64) bool { return n%5 == 4 }
	f.change = func(ctx context.Context, tx *metadata.Tx, n int64) error {
		if gone(n) {
			_, err := tx.DeleteTag(ctx, repository, name, metadata.Actor{Name: "test"})
			return err
		}
		_, err := tx.PutTag(ctx, repositoryID, name, factDigest(n), metadata.Actor{Name: "test"})
		return err
	}
	f.read = func(ctx context.Context, tx *metadata.Tx) (func(int64) bool, string, error) {
		m, err := tx.ManifestHeadByTag(ctx, repository, name)
		if errors.Is(err, oci.ErrManifestUnknown) {
			return gone, "no tag", nil
		}
		return func(n int64) bool { return !gone(n) && m.Digest == factDigest(n) }, m.Digest.String(), err
	}
	return f
}

// listFact is the same kind of tag, seen in the list of tags.
func listFact(repository string, repositoryID int64, name string) *fact {
	f := tagFact(repository, repositoryID, name)
	f.name = "list with " + name
	f.read = func(ctx context.Context, tx *metadata.Tx) (func(int64) bool, string, error) {
		names, err := tx.TagNames(ctx, repository, "", 100)
		there := strings.Contains(","+strings.Join(names, ",")+",", ","+name+",")
		return func(n int64) bool { return there == (n%5 != 4) }, fmt.Sprint(names), err
	}
	return f
}

// facts are the model of a database, whose rows it makes.
func facts(t *testing.T, db *metadata.DB) (all []*fact, foreign *fact) {
	t.Helper()
	ctx := t.Context()
	const repository = "team/app"
	actor := metadata.Actor{Name: "test"}
	var id, user, version int64
	err := db.Update(ctx, func(tx *metadata.Tx) (err error) {
		if id, _, err = tx.EnsureRepository(ctx, repository, metadata.Private, "test"); err != nil {
			return err
		}
		if err := tx.SetInstanceTagPolicy(ctx, metadata.TagPolicy{Mode: metadata.Mutable}); err != nil {
			return err
		}
		for n := range int64(factStates) {
			m := metadata.Manifest{Digest: factDigest(n), MediaType: oci.MediaTypeImageManifest, Payload: []byte("{}"), CreatedBy: "test"}
			if _, err := tx.PutManifest(ctx, id, m, nil, nil, false); err != nil {
				return err
			}
		}
		for _, name := range []string{"moving", "listed", "foreign"} {
			if _, err := tx.PutTag(ctx, id, name, factDigest(0), actor); err != nil {
				return err
			}
		}
		if _, err := tx.InsertBlob(ctx, metadata.Blob{Digest: factBlob, Key: "key", Size: 1}); err != nil {
			return err
		}
		if _, _, err := tx.LinkBlob(ctx, id, factBlob); err != nil {
			return err
		}
		u, err := tx.CreateUser(ctx, metadata.User{Name: "alice", Role: metadata.RoleUser})
		if err != nil {
			return err
		}
		user = u.ID
		_, version, err = tx.AllDenials(ctx)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	blob := &fact{name: "blob"}
	blob.change = func(ctx context.Context, tx *metadata.Tx, n int64) error {
		if n%2 == 1 {
			return tx.UnlinkBlob(ctx, repository, factBlob)
		}
		_, _, err := tx.LinkBlob(ctx, id, factBlob)
		return err
	}
	blob.read = func(ctx context.Context, tx *metadata.Tx) (func(int64) bool, string, error) {
		_, err := tx.Blob(ctx, repository, factBlob)
		there := err == nil
		if errors.Is(err, oci.ErrBlobUnknown) {
			err = nil
		}
		return func(n int64) bool { return there == (n%2 == 0) }, fmt.Sprint("linked: ", there), err
	}
	// Visibility has four states: there are three values, and one of them is the next
	// state's too, so that a change may also change nothing.
	visible := &fact{name: "visibility"}
	values := []string{metadata.Private, metadata.Public, metadata.Internal, metadata.Internal}
	visible.change = func(ctx context.Context, tx *metadata.Tx, n int64) error {
		return tx.SetVisibility(ctx, repository, values[n%4])
	}
	visible.read = func(ctx context.Context, tx *metadata.Tx) (func(int64) bool, string, error) {
		found, err := tx.Access(ctx, user, []string{repository})
		v := found[repository].Visibility
		return func(n int64) bool { return v == values[n%4] }, v, err
	}
	catalog := &fact{name: "list of repositories"}
	catalog.change = func(ctx context.Context, tx *metadata.Tx, n int64) error {
		_, _, err := tx.EnsureRepository(ctx, fmt.Sprintf("new/r%06d", n), metadata.Private, "test")
		return err
	}
	catalog.read = func(ctx context.Context, tx *metadata.Tx) (func(int64) bool, string, error) {
		var names []string
		for {
			last := ""
			if len(names) > 0 {
				last = names[len(names)-1]
			}
			more, err := tx.RepositoryNames(ctx, metadata.RepositoryFilter{Viewer: metadata.Viewer{All: true}, Team: "new", After: last, Limit: 10_000})
			if names = append(names, more...); err != nil || len(more) == 0 {
				return func(n int64) bool { return int64(len(names)) == n }, fmt.Sprint(len(names), " repositories"), err
			}
		}
	}
	denied := &fact{name: "version of the denials"}
	denied.change = func(ctx context.Context, tx *metadata.Tx, _ int64) error { return tx.LockDenials(ctx) }
	denied.read = func(ctx context.Context, tx *metadata.Tx) (func(int64) bool, string, error) {
		found, err := tx.Access(ctx, user, []string{repository})
		v := found[repository].DenialVersion - version
		return func(n int64) bool { return v == n }, fmt.Sprint(v), err
	}
	return []*fact{tagFact(repository, id, "moving"), listFact(repository, id, "listed"), blob, visible, catalog, denied}, tagFact(repository, id, "foreign")
}

// look reads a fact, and reports it as wrong when what it finds is older than a
// change that had returned, or newer than any that has begun.
func (f *fact) look(ctx context.Context, view func(context.Context, func(*metadata.Tx) error) error) (state int64, err error) {
	var from, to int64
	var holds func(int64) bool
	var say string
	err = view(ctx, func(tx *metadata.Tx) (err error) {
		from = f.done.Load()
		holds, say, err = f.read(ctx, tx)
		to = f.begun.Load()
		return err
	})
	if err != nil {
		return 0, err
	}
	for n := from; n <= to; n++ {
		if holds(n) {
			return n, nil
		}
	}
	return 0, fmt.Errorf("%s: %s is none of the states from %d to %d", f.name, say, from, to)
}

// next makes the next change of a fact.
func (f *fact) next(ctx context.Context, db *metadata.DB) error {
	n := f.begun.Add(1)
	err := db.UpdateRelaxed(ctx, func(tx *metadata.Tx) error { return f.change(ctx, tx, n) })
	f.done.Store(n)
	return err
}

// No reader sees anything older than a change that had returned before, whoever
// changes it: this server, another handle, or another process, which may also be
// killed while it writes, while the log is folded into the file and begins anew.
func TestReadsAreNeverOld(t *testing.T) {
	metadatatest.EachURL(t, func(t *testing.T, url string) {
		db := metadatatest.Open(t, metadata.Options{URL: url})
		all, foreign := facts(t, db)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		var group sync.WaitGroup
		var looked, killed atomic.Int64
		remembers := engine(url) == "postgres" || metadata.RemembersReads
		enough := func() bool {
			for _, f := range append(all, foreign) {
				if f.done.Load() < 50 {
					return false
				}
			}
			return killed.Load() >= 2 && looked.Load() >= 5000 && (!remembers || db.ReadCacheHits() >= 5000)
		}
		until := func(f func() error) {
			group.Go(func() {
				for ctx.Err() == nil && !enough() {
					if err := f(); err != nil {
						t.Error(err)
						cancel()
					}
				}
			})
		}
		slower := time.Duration(1)
		if engine(url) == "postgres" {
			slower = 20 // what changes more often than it is asked is not remembered
		}
		for i, f := range all {
			pause := slower * time.Duration(i+1) * time.Millisecond // a state may be read many times
			until(func() error {
				time.Sleep(pause)
				return f.next(ctx, db)
			})
		}
		for range 3 {
			until(func() error {
				for _, f := range append(all, foreign) {
					if _, err := f.look(ctx, db.View); err != nil {
						return err
					}
					looked.Add(1)
				}
				return nil
			})
		}
		until(func() error {
			defer killed.Add(1)
			return foreign.writeElsewhere(ctx, db, url, slower*time.Millisecond, enough)
		})
		if engine(url) == "sqlite" {
			raw := shell(t, url, true)
			until(func() error {
				time.Sleep(20 * time.Millisecond)
				_, err := raw.ExecContext(t.Context(), `PRAGMA wal_checkpoint(TRUNCATE)`)
				return err
			})
		}
		group.Wait()
		if !t.Failed() && !enough() {
			t.Error("a minute was too short to show anything")
		}
		t.Logf("%d reads, %d of them from memory; %d changes by %d other processes", looked.Load(), db.ReadCacheHits(), foreign.done.Load(), killed.Load())
		for _, f := range append(all, foreign) {
			if _, err := f.look(t.Context(), db.View); err != nil {
				t.Error("in the end: ", err)
			}
		}
	})
}

// writeElsewhere lets another process change the fact for a while, and kills it at
// some moment.
func (f *fact) writeElsewhere(ctx context.Context, db *metadata.DB, url string, pause time.Duration, enough func() bool) error {
	c := osexec.CommandContext(ctx, os.Args[0], "-test.run=^TestWriterElsewhere$")
	c.Env = append(os.Environ(), "BERTH_TEST_WRITE_TO="+url)
	in, err := c.StdinPipe()
	if err != nil {
		return err
	}
	out, err := c.StdoutPipe()
	if err != nil {
		return err
	}
	if err := c.Start(); err != nil {
		return err
	}
	defer c.Wait() // it was killed
	defer c.Process.Kill()
	lines := bufio.NewScanner(out)
	for i := 0; !enough(); i++ {
		time.Sleep(rand.N(pause))
		n := f.begun.Add(1)
		if _, err := fmt.Fprintln(in, n); err != nil {
			return err
		}
		if i == 25 {
			time.Sleep(time.Duration(n%7) * 200 * time.Microsecond)
			if err := c.Process.Kill(); err != nil {
				return err
			}
			_ = c.Wait() // only now it is known to write no more
			// Whether the change was made, a transaction tells, which remembers nothing.
			state, err := f.look(ctx, db.Snapshot)
			if err != nil {
				return err
			}
			if state < n {
				return f.redo(ctx, db, n)
			}
			f.done.Store(n)
			return nil
		}
		if !lines.Scan() || lines.Text() != "done" {
			return fmt.Errorf("the other process said %q: %v", lines.Text(), lines.Err())
		}
		f.done.Store(n)
	}
	return nil
}

// redo makes a change that somebody else has begun.
func (f *fact) redo(ctx context.Context, db *metadata.DB, n int64) error {
	err := db.UpdateRelaxed(ctx, func(tx *metadata.Tx) error { return f.change(ctx, tx, n) })
	f.done.Store(n)
	return err
}

// TestWriterElsewhere is the other process of TestReadsAreNeverOld.
func TestWriterElsewhere(t *testing.T) {
	url := os.Getenv("BERTH_TEST_WRITE_TO")
	if url == "" {
		return
	}
	ctx := t.Context()
	db, err := metadata.Open(ctx, metadata.Options{URL: url})
	if err != nil {
		t.Fatal(err)
	}
	var id int64
	err = db.View(ctx, func(tx *metadata.Tx) error {
		r, err := tx.Repository(ctx, "team/app")
		id = r.ID
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	f := tagFact("team/app", id, "foreign")
	for {
		var n int64
		if _, err := fmt.Scan(&n); err == io.EOF {
			return
		} else if err != nil {
			t.Fatal(err)
		}
		if err := f.redo(ctx, db, n); err != nil {
			t.Fatal(err)
		}
		fmt.Println("done")
	}
}

// What is remembered stays within its bounds, goes when it is to be forgotten, and
// is not used any more after a close.
func TestReadCacheBounds(t *testing.T) {
	if !metadata.RemembersReads {
		return
	}
	ctx := t.Context()
	db := metadatatest.Open(t, metadata.Options{URL: metadatatest.SQLite(t)})
	var id int64
	big := []byte(strings.Repeat("x", 100<<10))
	err := db.Update(ctx, func(tx *metadata.Tx) (err error) {
		if id, _, err = tx.EnsureRepository(ctx, "team/app", metadata.Private, "test"); err != nil {
			return err
		}
		for n := range int64(2) {
			m := metadata.Manifest{Digest: factDigest(n), MediaType: oci.MediaTypeImageManifest, Payload: big[:int(n)*len(big)], CreatedBy: "test"}
			if _, err := tx.PutManifest(ctx, id, m, nil, nil, false); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	read := func(n int64, reference string) {
		t.Helper()
		err := db.View(ctx, func(tx *metadata.Tx) error {
			if n >= 0 {
				_, err := tx.ManifestByDigest(ctx, "team/app", factDigest(n))
				return err
			}
			_, err := tx.TagNames(ctx, "team/app", reference, 10)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if read(1, ""); db.ReadCacheBytes() != 0 {
		t.Errorf("a large manifest takes %d bytes of the cache", db.ReadCacheBytes())
	}
	read(0, "")
	small := db.ReadCacheBytes()
	if read(0, ""); small == 0 || db.ReadCacheBytes() != small || db.ReadCacheHits() != 1 {
		t.Errorf("a small one takes %d and then %d bytes, and %d of 2 reads came from memory", small, db.ReadCacheBytes(), db.ReadCacheHits())
	}
	most := 0
	for i := range 4000 {
		read(-1, fmt.Sprintf("%0200d", i))
		most = max(most, db.ReadCacheBytes())
	}
	if limit := 1 << 20; most > limit || most < limit/2 {
		t.Errorf("the cache has grown to %d bytes, its limit is %d", most, limit)
	}
	if err := db.Rest(ctx); err != nil || db.ReadCacheBytes() != 0 {
		t.Errorf("%d bytes are left at rest, %v", db.ReadCacheBytes(), err)
	}
	read(0, "")
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	err = db.View(ctx, func(tx *metadata.Tx) error {
		_, err := tx.ManifestByDigest(ctx, "team/app", factDigest(0))
		return err
	})
	if !errors.Is(err, oci.ErrUnavailable) {
		t.Errorf("a read after the close ends with %v", err)
	}
}
