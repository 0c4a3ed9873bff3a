package metadata_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"

	"berth/metadata"
	"berth/metadata/metadatatest"
	"berth/oci"
)

func TestBlobs(t *testing.T) {
	metadatatest.Each(t, func(t *testing.T, db *metadata.DB) {
		a, b := repo(t, db, "a/one"), repo(t, db, "b/two")
		d := blob(t, db, a, "content")
		want := metadata.Blob{Digest: d, Key: "key-" + d.Encoded(), Size: 7}
		view(t, db, func(ctx context.Context, tx *metadata.Tx) error {
			got, err := tx.Blob(ctx, "a/one", d)
			if got != want {
				t.Errorf("got %+v, want %+v", got, want)
			}
			// Not linked, though the instance has it; no repository; no blob.
			_, e := tx.Blob(ctx, "b/two", d)
			wantErr(t, e, oci.ErrBlobUnknown)
			_, e = tx.Blob(ctx, "no/repo", d)
			wantErr(t, e, oci.ErrBlobUnknown)
			_, e = tx.Blob(ctx, "a/one", digest.FromString("nothing"))
			wantErr(t, e, oci.ErrBlobUnknown)
			return err
		})
		update(t, db, func(ctx context.Context, tx *metadata.Tx) error {
			inserted, err := tx.InsertBlob(ctx, metadata.Blob{Digest: d, Key: "another key", Size: 7})
			if inserted {
				t.Error("the second row of a digest was inserted")
			}
			if err != nil {
				return err
			}
			for range 2 { // linking again changes nothing
				got, ok, err := tx.LinkBlob(ctx, b, d)
				if got != want || !ok || err != nil {
					t.Errorf("LinkBlob: %+v %t %v", got, ok, err)
				}
				if ok, err := tx.Link(ctx, b, d); !ok || err != nil {
					t.Errorf("Link: %t %v", ok, err)
				}
			}
			_, ok, err := tx.LinkBlob(ctx, b, digest.FromString("nothing"))
			too, err2 := tx.Link(ctx, b, digest.FromString("nothing"))
			if ok || too {
				t.Error("linked a blob that is not there")
			}
			return errors.Join(err, err2)
		})
		// What comes second has to do with what came first, in any repository.
		other := digest.FromString("put")
		update(t, db, func(ctx context.Context, tx *metadata.Tx) error {
			for i, repository := range []int64{b, b, b} {
				first := metadata.Blob{Digest: other, Key: "key-0", Size: 3}
				got, err := tx.PutBlob(ctx, repository, metadata.Blob{Digest: other, Key: fmt.Sprint("key-", i), Size: 3})
				if got != first || err != nil {
					t.Errorf("PutBlob %d: %+v %v", i, got, err)
				}
			}
			return nil
		})
		wantErr(t, db.Update(t.Context(), func(tx *metadata.Tx) error {
			_, err := tx.PutBlob(t.Context(), 1<<40, metadata.Blob{Digest: digest.FromString("nowhere"), Key: "key", Size: 3})
			return err
		}), oci.ErrNameUnknown)
		view(t, db, func(ctx context.Context, tx *metadata.Tx) error {
			_, err := tx.Blob(ctx, "b/two", other)
			return err
		})
		view(t, db, func(ctx context.Context, tx *metadata.Tx) error {
			names, err := tx.BlobRepositories(ctx, d, 10)
			if !slices.Equal(names, []string{"a/one", "b/two"}) {
				t.Errorf("repositories of the blob: %q", names)
			}
			names, err2 := tx.BlobRepositories(ctx, d, 1)
			if len(names) != 1 {
				t.Errorf("one repository of the blob: %q", names)
			}
			return errors.Join(err, err2)
		})
		ctx := context.Background()
		unlink := func(repository string) error {
			return db.Update(ctx, func(tx *metadata.Tx) error { return tx.UnlinkBlob(ctx, repository, d) })
		}
		if err := unlink("b/two"); err != nil {
			t.Fatal(err)
		}
		wantErr(t, unlink("b/two"), oci.ErrBlobUnknown)
		wantErr(t, unlink("no/repo"), oci.ErrBlobUnknown)
		var users []digest.Digest
		for i := range 5 {
			m := image(fmt.Sprint(i))
			update(t, db, func(ctx context.Context, tx *metadata.Tx) error {
				_, err := tx.PutManifest(ctx, a, m, []digest.Digest{d}, nil, false)
				return err
			})
			users = append(users, m.Digest)
		}
		e := wantErr(t, unlink("a/one"), oci.ErrConflict)
		if !strings.Contains(e.Message, users[0].String()) || !strings.Contains(e.Message, users[2].String()) || strings.Contains(e.Message, users[3].String()) {
			t.Errorf("the message should name the first three manifests: %s", e.Message)
		}
		view(t, db, func(ctx context.Context, tx *metadata.Tx) error {
			_, err := tx.Blob(ctx, "a/one", d)
			return err
		})
	})
}

func TestManifests(t *testing.T) {
	metadatatest.EachURL(t, func(t *testing.T, url string) {
		var clock metadatatest.Clock
		db := metadatatest.Open(t, metadata.Options{URL: url, Clock: clock.Now})
		r := repo(t, db, "team/app")
		config, layer := blob(t, db, r, "config"), blob(t, db, r, "layer")
		m := image("\x00\xff {\"bytes\": \"exactly as pushed\"}\r\n")
		m.ArtifactType, m.Annotations, m.Subject = "application/x", map[string]string{"k": "v\u2028ü"}, digest.FromString("subject")
		put := func(m metadata.Manifest, blobs, children []digest.Digest, sparse bool) (created bool, err error) {
			ctx := context.Background()
			err = db.Update(ctx, func(tx *metadata.Tx) (err error) {
				created, err = tx.PutManifest(ctx, r, m, blobs, children, sparse)
				return err
			})
			return created, err
		}
		for i, want := range []bool{true, false, false} {
			// In any order, named twice: a digest counts once.
			created, err := put(m, []digest.Digest{layer, config, layer}, nil, false)
			if err != nil || created != want {
				t.Fatalf("push %d: created %t, %v", i, created, err)
			}
		}
		tag(t, db, r, "1.0", m.Digest, "alice")
		view(t, db, func(ctx context.Context, tx *metadata.Tx) error {
			check := func(got metadata.Manifest, err error, payload bool) {
				t.Helper()
				if err != nil {
					t.Error(err)
				}
				if payload != (got.Payload != nil) || payload && !bytes.Equal(got.Payload, m.Payload) {
					t.Errorf("payload %q", got.Payload)
				}
				if got.Digest != m.Digest || got.MediaType != m.MediaType || got.ArtifactType != m.ArtifactType || got.Subject != m.Subject ||
					got.Size != int64(len(m.Payload)) || got.CreatedBy != "alice" || !got.CreatedAt.Equal(clock.Now()) {
					t.Errorf("got %+v", got)
				}
			}
			got, err := tx.ManifestByDigest(ctx, "team/app", m.Digest)
			check(got, err, true)
			got, err = tx.ManifestByTag(ctx, "team/app", "1.0")
			check(got, err, true)
			got, err = tx.ManifestHeadByDigest(ctx, "team/app", m.Digest)
			check(got, err, false)
			got, err = tx.ManifestHeadByTag(ctx, "team/app", "1.0")
			check(got, err, false)
			_, err = tx.ManifestByDigest(ctx, "team/app", digest.FromString("nothing"))
			wantErr(t, err, oci.ErrManifestUnknown)
			_, err = tx.ManifestByTag(ctx, "team/app", "nope")
			wantErr(t, err, oci.ErrManifestUnknown)
			_, err = tx.ManifestHeadByTag(ctx, "team/nope", "1.0")
			wantErr(t, err, oci.ErrNameUnknown)
			_, err = tx.ManifestByDigest(ctx, "team/nope", m.Digest)
			wantErr(t, err, oci.ErrNameUnknown)
			return nil
		})

		// All that is missing is named, and nothing is stored.
		absent := []digest.Digest{digest.FromString("x"), digest.FromString("y")}
		child := digest.FromString("child")
		index := image("index")
		_, err := put(index, []digest.Digest{config, absent[0], absent[1]}, []digest.Digest{child, m.Digest}, false)
		e := wantErr(t, err, oci.ErrManifestBlobUnknown)
		missing := e.Detail.(map[string]any)["missing"].([]digest.Digest)
		if want := slices.Sorted(slices.Values(append(absent, child))); !slices.Equal(slices.Sorted(slices.Values(missing)), want) {
			t.Errorf("missing %q, want %q", missing, want)
		}
		view(t, db, func(ctx context.Context, tx *metadata.Tx) error {
			_, err := tx.ManifestByDigest(ctx, "team/app", index.Digest)
			wantErr(t, err, oci.ErrManifestUnknown)
			return nil
		})
		// Sparse: children may be missing, blobs may not.
		_, err = put(index, absent, []digest.Digest{child}, true)
		wantErr(t, err, oci.ErrManifestBlobUnknown)
		if _, err = put(index, nil, []digest.Digest{child, m.Digest}, true); err != nil {
			t.Fatal(err)
		}
		remove := func(d digest.Digest) (tags []string, err error) {
			ctx := context.Background()
			err = db.Update(ctx, func(tx *metadata.Tx) (err error) {
				tags, err = tx.DeleteManifest(ctx, "team/app", d, by("maria"))
				return err
			})
			return tags, err
		}
		_, err = remove(m.Digest)
		if e := wantErr(t, err, oci.ErrConflict); !strings.Contains(e.Message, index.Digest.String()) {
			t.Errorf("message %q", e.Message)
		}
		// The child that the index waited for is tied to it when it comes.
		manifest(t, db, r, "child")
		_, err = remove(child)
		wantErr(t, err, oci.ErrConflict)
		if _, err := remove(index.Digest); err != nil {
			t.Fatal(err)
		}
		if _, err := remove(child); err != nil {
			t.Fatal(err)
		}
		tag(t, db, r, "1.1", m.Digest, "alice")
		tag(t, db, r, "latest", m.Digest, "alice")
		tags, err := remove(m.Digest)
		if err != nil || !slices.Equal(tags, []string{"1.0", "1.1", "latest"}) {
			t.Fatalf("tags of the deleted manifest: %q, %v", tags, err)
		}
		for _, name := range tags {
			if got := history(t, db, "team/app", name); !slices.Equal(got, []string{"create alice", "delete maria"}) {
				t.Errorf("history of %s: %q", name, got)
			}
		}
		_, err = remove(m.Digest)
		wantErr(t, err, oci.ErrManifestUnknown)
		ctx := context.Background()
		wantErr(t, db.Update(ctx, func(tx *metadata.Tx) error {
			_, err := tx.DeleteManifest(ctx, "team/nope", m.Digest, by("maria"))
			return err
		}), oci.ErrNameUnknown)
		// Nothing holds the blobs any more.
		update(t, db, func(ctx context.Context, tx *metadata.Tx) error {
			return errors.Join(tx.UnlinkBlob(ctx, "team/app", config), tx.UnlinkBlob(ctx, "team/app", layer))
		})
	})
}

// Thousands of references go in chunks, and nothing is lost at their edges.
func TestManyReferences(t *testing.T) {
	metadatatest.Each(t, func(t *testing.T, db *metadata.DB) {
		r := repo(t, db, "team/app")
		const n = 1500
		var blobs, children []digest.Digest
		update(t, db, func(ctx context.Context, tx *metadata.Tx) error {
			for i := range n {
				d := digest.FromString(fmt.Sprint("blob ", i))
				if _, err := tx.InsertBlob(ctx, metadata.Blob{Digest: d, Key: d.Encoded(), Size: 1}); err != nil {
					return err
				}
				if _, _, err := tx.LinkBlob(ctx, r, d); err != nil {
					return err
				}
				m := image(fmt.Sprint("child ", i))
				if _, err := tx.PutManifest(ctx, r, m, nil, nil, false); err != nil {
					return err
				}
				blobs, children = append(blobs, d), append(children, m.Digest)
			}
			return nil
		})
		index := image("index")
		lost := digest.FromString("lost")
		ctx := context.Background()
		err := db.Update(ctx, func(tx *metadata.Tx) error {
			_, err := tx.PutManifest(ctx, r, index, append(slices.Clone(blobs), lost), children, false)
			return err
		})
		e := wantErr(t, err, oci.ErrManifestBlobUnknown)
		if missing := e.Detail.(map[string]any)["missing"].([]digest.Digest); !slices.Equal(missing, []digest.Digest{lost}) {
			t.Errorf("missing %q", missing)
		}
		update(t, db, func(ctx context.Context, tx *metadata.Tx) error {
			_, err := tx.PutManifest(ctx, r, index, blobs, children, false)
			return err
		})
		for _, i := range []int{0, 1, 255, 256, 257, 511, 512, 1023, 1024, n - 1} {
			wantErr(t, db.Update(ctx, func(tx *metadata.Tx) error { return tx.UnlinkBlob(ctx, "team/app", blobs[i]) }), oci.ErrConflict)
			wantErr(t, db.Update(ctx, func(tx *metadata.Tx) error {
				_, err := tx.DeleteManifest(ctx, "team/app", children[i], by("alice"))
				return err
			}), oci.ErrConflict)
		}
	})
}

func TestReferrers(t *testing.T) {
	metadatatest.Each(t, func(t *testing.T, db *metadata.DB) {
		r := repo(t, db, "team/app")
		subject := digest.FromString("not pushed yet")
		var want []digest.Digest
		types := map[digest.Digest]string{}
		for i := range 25 {
			m := image(fmt.Sprint(i))
			m.Subject, m.ArtifactType = subject, []string{"sbom", "signature"}[i%2]
			m.Annotations = map[string]string{"n": fmt.Sprint(i)}
			update(t, db, func(ctx context.Context, tx *metadata.Tx) error {
				_, err := tx.PutManifest(ctx, r, m, nil, nil, false)
				return err
			})
			want = append(want, m.Digest)
			types[m.Digest] = m.ArtifactType
		}
		slices.Sort(want)
		manifest(t, db, r, "no referrer")
		view(t, db, func(ctx context.Context, tx *metadata.Tx) error {
			for _, limit := range []int{1, 7, 25, 100} {
				var got []digest.Digest
				for after := digest.Digest(""); ; {
					page, err := tx.Referrers(ctx, "team/app", subject, "", after, limit)
					if err != nil {
						return err
					}
					for _, m := range page {
						got = append(got, m.Digest)
						if m.Payload != nil || m.ArtifactType != types[m.Digest] || digest.FromString(m.Annotations["n"]) != m.Digest || m.Subject != subject {
							t.Errorf("referrer %+v", m)
						}
					}
					if len(page) < limit {
						break
					}
					after = page[len(page)-1].Digest
				}
				if !slices.Equal(got, want) {
					t.Errorf("pages of %d: %q, want %q", limit, got, want)
				}
			}
			sboms, err := tx.Referrers(ctx, "team/app", subject, "sbom", "", 100)
			if len(sboms) != 13 || err != nil {
				t.Errorf("%d of type sbom, %v", len(sboms), err)
			}
			for _, c := range []struct {
				repo    string
				subject digest.Digest
			}{{"team/app", want[0]}, {"team/nope", subject}} {
				none, err := tx.Referrers(ctx, c.repo, c.subject, "", "", 100)
				if len(none) != 0 || err != nil {
					t.Errorf("%+v has %d referrers, %v", c, len(none), err)
				}
			}
			heads, err := tx.ManifestHeads(ctx, "team/app", []digest.Digest{want[3], subject, want[1]})
			got := map[digest.Digest]string{}
			for _, h := range heads {
				got[h.Digest] = h.ArtifactType
			}
			if !maps.Equal(got, map[digest.Digest]string{want[3]: types[want[3]], want[1]: types[want[1]]}) {
				t.Errorf("heads %v", got)
			}
			return err
		})
	})
}

// A blob is unlinked, or a child deleted, while manifests that need it are
// pushed: whoever comes second is told so, and no manifest lacks what it references.
func TestManifestRaces(t *testing.T) {
	metadatatest.EachURL(t, func(t *testing.T, url string) {
		dbs := []*metadata.DB{metadatatest.Open(t, metadata.Options{URL: url}), metadatatest.Open(t, metadata.Options{URL: url})}
		r := repo(t, dbs[0], "team/app")
		ctx := context.Background()
		won, lost := 0, 0
		for i := range 60 {
			d := blob(t, dbs[0], r, fmt.Sprint("blob ", i))
			child := manifest(t, dbs[0], r, fmt.Sprint("child ", i))
			m := image(fmt.Sprint("manifest ", i))
			var wg sync.WaitGroup
			var push, unlink, remove error
			start := make(chan struct{})
			run := func(err *error, db *metadata.DB, fn func(tx *metadata.Tx) error) {
				wg.Go(func() { <-start; *err = db.Update(ctx, fn) })
			}
			run(&push, dbs[0], func(tx *metadata.Tx) error {
				_, err := tx.PutManifest(ctx, r, m, []digest.Digest{d}, []digest.Digest{child}, false)
				return err
			})
			run(&unlink, dbs[1], func(tx *metadata.Tx) error { return tx.UnlinkBlob(ctx, "team/app", d) })
			run(&remove, dbs[1], func(tx *metadata.Tx) error {
				_, err := tx.DeleteManifest(ctx, "team/app", child, by("bob"))
				return err
			})
			close(start)
			wg.Wait()
			if push == nil {
				won++
				wantErr(t, unlink, oci.ErrConflict)
				wantErr(t, remove, oci.ErrConflict)
				view(t, dbs[0], func(ctx context.Context, tx *metadata.Tx) error {
					_, err1 := tx.Blob(ctx, "team/app", d)
					_, err2 := tx.ManifestByDigest(ctx, "team/app", child)
					return errors.Join(err1, err2)
				})
			} else {
				lost++
				wantErr(t, push, oci.ErrManifestBlobUnknown)
				for _, err := range []error{unlink, remove} {
					if err != nil {
						wantErr(t, err, oci.ErrConflict)
					}
				}
				if unlink != nil && remove != nil {
					t.Errorf("everybody lost: %v; %v; %v", push, unlink, remove)
				}
			}
		}
		t.Logf("the push won %d times and lost %d times", won, lost)
	})
}

// The same manifest pushed by many at once is stored once.
func TestSameManifestAtOnce(t *testing.T) {
	metadatatest.EachURL(t, func(t *testing.T, url string) {
		dbs := []*metadata.DB{metadatatest.Open(t, metadata.Options{URL: url}), metadatatest.Open(t, metadata.Options{URL: url})}
		ctx := context.Background()
		for round := range 5 {
			name := fmt.Sprintf("team/app%d", round)
			d := digest.FromString("layer")
			m := image("same")
			var made, repos int
			var mu sync.Mutex
			var wg sync.WaitGroup
			for i := range 16 {
				wg.Go(func() {
					var created, repoCreated bool
					err := dbs[i%2].Update(ctx, func(tx *metadata.Tx) error {
						r, isNew, err := tx.EnsureRepository(ctx, name, metadata.Private, "alice")
						if err != nil {
							return err
						}
						repoCreated = isNew
						if _, err := tx.InsertBlob(ctx, metadata.Blob{Digest: d, Key: fmt.Sprint("key ", i), Size: 5}); err != nil {
							return err
						}
						if _, ok, err := tx.LinkBlob(ctx, r, d); err != nil || !ok {
							return fmt.Errorf("linking: %t %w", ok, err)
						}
						created, err = tx.PutManifest(ctx, r, m, []digest.Digest{d}, nil, false)
						return err
					})
					if err != nil {
						t.Errorf("push %d: %v", i, err)
					}
					mu.Lock()
					defer mu.Unlock()
					if created {
						made++
					}
					if repoCreated {
						repos++
					}
				})
			}
			wg.Wait()
			if made != 1 || repos != 1 {
				t.Errorf("%s: the manifest was created %d times, the repository %d times", name, made, repos)
			}
		}
	})
}
