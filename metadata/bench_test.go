package metadata_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/opencontainers/go-digest"

	"berth/metadata"
	"berth/metadata/metadatatest"
)

// benchEach runs a benchmark on a fresh database of each engine. The Postgres
// of testenv does not wait for its disk; for durable figures point
// BERTH_TEST_POSTGRES_URL at one that does.
func benchEach(b *testing.B, f func(b *testing.B, db *metadata.DB)) {
	b.Run("sqlite", func(b *testing.B) { f(b, metadatatest.Open(b, metadata.Options{URL: metadatatest.SQLite(b)})) })
	b.Run("postgres", func(b *testing.B) { f(b, metadatatest.Open(b, metadata.Options{URL: metadatatest.Postgres(b)})) })
}

// cpu reports processor time per operation, of this process: steadier than
// the clock on a machine with others on it.
func cpu(b *testing.B) func() {
	var before syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &before); err != nil {
		b.Fatal(err)
	}
	return func() {
		var after syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &after); err != nil {
			b.Fatal(err)
		}
		spent := after.Utime.Nano() + after.Stime.Nano() - before.Utime.Nano() - before.Stime.Nano()
		b.ReportMetric(float64(spent)/float64(b.N), "cpu-ns/op")
	}
}

// fill makes a repository of n images with a tag each.
func fill(b *testing.B, db *metadata.DB, name string, n int) (digests []digest.Digest) {
	b.Helper()
	r := repo(b, db, name)
	layer := blob(b, db, r, "layer")
	for done := 0; done < n; {
		update(b, db, func(ctx context.Context, tx *metadata.Tx) error {
			for range min(1000, n-done) {
				m := image(fmt.Sprintf("%s %d %s", name, done, strings.Repeat("x", 1000)))
				if _, err := tx.PutManifest(ctx, r, m, []digest.Digest{layer}, nil, false); err != nil {
					return err
				}
				if _, err := tx.PutTag(ctx, r, fmt.Sprintf("v%d", done), m.Digest, by("alice")); err != nil {
					return err
				}
				digests = append(digests, m.Digest)
				done++
			}
			return nil
		})
	}
	return digests
}

func BenchmarkRead(b *testing.B) {
	const images = 5000
	benchEach(b, func(b *testing.B, db *metadata.DB) {
		digests := fill(b, db, "team/app", images)
		layer := digest.FromString("layer")
		queries := []struct {
			name string
			run  func(ctx context.Context, tx *metadata.Tx, i int) error
		}{
			{"ManifestByTag", func(ctx context.Context, tx *metadata.Tx, i int) error {
				_, err := tx.ManifestByTag(ctx, "team/app", fmt.Sprintf("v%d", i%images))
				return err
			}},
			{"ManifestHeadByTag", func(ctx context.Context, tx *metadata.Tx, i int) error {
				_, err := tx.ManifestHeadByTag(ctx, "team/app", fmt.Sprintf("v%d", i%images))
				return err
			}},
			{"ManifestHeadByDigest", func(ctx context.Context, tx *metadata.Tx, i int) error {
				_, err := tx.ManifestHeadByDigest(ctx, "team/app", digests[i%images])
				return err
			}},
			{"Blob", func(ctx context.Context, tx *metadata.Tx, i int) error {
				_, err := tx.Blob(ctx, "team/app", layer)
				return err
			}},
			{"Access", func(ctx context.Context, tx *metadata.Tx, i int) error {
				_, err := tx.Access(ctx, 1, []string{"team/app"})
				return err
			}},
			{"TagNames100", func(ctx context.Context, tx *metadata.Tx, i int) error {
				_, err := tx.TagNames(ctx, "team/app", "v3", 100)
				return err
			}},
		}
		for _, q := range queries {
			ctx, cancel := context.WithCancel(context.Background()) // as a request's
			b.Run(q.name, func(b *testing.B) {
				b.ReportAllocs()
				defer cpu(b)()
				for i := range b.N {
					if err := db.View(ctx, func(tx *metadata.Tx) error { return q.run(ctx, tx, i) }); err != nil {
						b.Fatal(err)
					}
				}
			})
			b.Run(q.name+"Parallel", func(b *testing.B) {
				defer cpu(b)()
				var n atomic.Int64
				b.SetParallelism(8)
				b.RunParallel(func(pb *testing.PB) {
					for pb.Next() {
						i := int(n.Add(1))
						if err := db.View(ctx, func(tx *metadata.Tx) error { return q.run(ctx, tx, i) }); err != nil {
							b.Error(err)
						}
					}
				})
			})
			cancel()
		}
	})
}

// BenchmarkPushTag pushes a manifest of one layer under a tag of its own, durably.
func BenchmarkPushTag(b *testing.B) {
	benchEach(b, func(b *testing.B, db *metadata.DB) {
		fill(b, db, "team/app", 1000)
		layer := digest.FromString("layer")
		var n atomic.Int64
		for _, pushers := range []int{1, 8, 32} {
			b.Run(fmt.Sprintf("%d", pushers), func(b *testing.B) {
				work := make(chan struct{}, b.N)
				for range b.N {
					work <- struct{}{}
				}
				close(work)
				ctx, cancel := context.WithCancel(context.Background())
				defer cancel()
				b.ResetTimer()
				defer cpu(b)()
				var wg sync.WaitGroup
				for range pushers {
					wg.Go(func() {
						for range work {
							i := n.Add(1)
							m := image(fmt.Sprintf("new %d %s", i, strings.Repeat("x", 1000)))
							err := db.Update(ctx, func(tx *metadata.Tx) error {
								r, _, err := tx.EnsureRepository(ctx, "team/app", metadata.Private, "alice")
								if err != nil {
									return err
								}
								if _, err := tx.PutManifest(ctx, r, m, []digest.Digest{layer}, nil, false); err != nil {
									return err
								}
								_, err = tx.PutTag(ctx, r, fmt.Sprintf("n%d", i), m.Digest, by("alice"))
								return err
							})
							if err != nil {
								b.Error(err)
							}
						}
					})
				}
				wg.Wait()
			})
		}
	})
}

// BenchmarkUploadSession is what a blob costs between POST and PUT.
func BenchmarkUploadSession(b *testing.B) {
	benchEach(b, func(b *testing.B, db *metadata.DB) {
		r := repo(b, db, "team/app")
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		defer cpu(b)()
		for i := range b.N {
			u := metadata.Upload{ID: fmt.Sprintf("%p-%d", b, i), Repository: "team/app", Session: "0"}
			if err := db.UpdateRelaxed(ctx, func(tx *metadata.Tx) error { return tx.CreateUpload(ctx, u) }); err != nil {
				b.Fatal(err)
			}
			next := u
			next.Size, next.Session = 1000, "1"
			if err := db.UpdateRelaxed(ctx, func(tx *metadata.Tx) error { _, err := tx.AdvanceUpload(ctx, u, next); return err }); err != nil {
				b.Fatal(err)
			}
			d := digest.FromString(u.ID)
			err := db.Update(ctx, func(tx *metadata.Tx) error {
				if _, err := tx.InsertBlob(ctx, metadata.Blob{Digest: d, Key: u.ID, Size: 1000}); err != nil {
					return err
				}
				if _, _, err := tx.LinkBlob(ctx, r, d); err != nil {
					return err
				}
				_, err := tx.DeleteUpload(ctx, u.ID)
				return err
			})
			if err != nil {
				b.Fatal(err)
			}
		}
	})
}
