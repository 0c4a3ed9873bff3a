package registry

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"berth/metadata"
	"berth/oci"
	"berth/registry/collect"
	"berth/testenv"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// Pushers, mounters and deleters of the same few images work while three
// collectors with next to no grace period take what they can. A push that is accepted is whole at that moment and until
// somebody deletes it; what a push needs may go before its manifest comes, and then the
// push is told so and begins again. In the end nothing is left over.
func TestGCRace(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		e.raced = true
		const pushers, repos, images = 6, 2, 3
		rounds := testenv.Steps(t, 8, 40)
		var layers [][]byte
		for i := range 4 {
			layers = append(layers, random(2000, uint64(i)))
		}
		var pushed, again, pulled atomic.Int64
		stop := make(chan struct{})
		var collectors, group sync.WaitGroup
		for range 3 {
			r := e.replica()
			collectors.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
					}
					// A push takes longer than that now and then.
					run := collect.Run{Grace: rand.N(100 * time.Millisecond), UntaggedTTL: time.Nanosecond}
					if _, err := collecting(r).Collect(e.ctx, run); err != nil {
						t.Errorf("collecting: %v", err)
						return
					}
					time.Sleep(rand.N(20 * time.Millisecond))
				}
			})
		}
		// again tells whether an error is one that a client answers with a new push.
		retry := func(err error) bool {
			return errors.Is(err, oci.ErrManifestBlobUnknown) || errors.Is(err, oci.ErrManifestUnknown) || errors.Is(err, oci.ErrNameUnknown) ||
				errors.Is(err, oci.ErrBlobUnknown)
		}
		for n := range pushers {
			r := e.replica()
			random := rand.New(rand.NewPCG(uint64(n), 7))
			group.Go(func() {
				for round := range rounds {
					repo := fmt.Sprintf("team/app%d", random.IntN(repos))
					image := random.IntN(images)
					own := fmt.Sprintf("tag-%d-%d", n, round)
					var raw []byte
					var used [][]byte
					for attempt := 0; ; attempt++ {
						if attempt > 500 {
							t.Error("a push has failed 500 times")
							return
						}
						m := v1.Manifest{MediaType: v1.MediaTypeImageManifest, Layers: []v1.Descriptor{}}
						m.SchemaVersion = 2
						used = [][]byte{fmt.Appendf(nil, `{"image":%d}`, image), layers[image], layers[image+1]}
						var failed error
						for i, data := range used {
							d := digest.FromBytes(data)
							desc := v1.Descriptor{MediaType: v1.MediaTypeImageLayer, Digest: d, Size: int64(len(data))}
							if i == 0 {
								desc.MediaType = v1.MediaTypeImageConfig
								m.Config = desc
							} else {
								m.Layers = append(m.Layers, desc)
							}
							// As clients do: what is there is not pushed; else try a mount, then push.
							if _, err := r.Blob(e.ctx, repo, d); err == nil && attempt == 0 {
								continue
							}
							if ok, err := r.MountBlob(e.ctx, as(alice), repo, d, "team/app0"); ok && err == nil && random.IntN(2) == 0 {
								continue
							} else if err != nil && !retry(err) {
								t.Errorf("mounting: %v", err)
								return
							}
							if _, err := r.PutBlob(e.ctx, as(alice), repo, d, int64(len(data)), bytes.NewReader(data)); err != nil {
								failed = err
								break
							}
						}
						raw = e.marshal(m)
						if failed == nil {
							_, failed = r.PushManifest(e.ctx, as(alice), repo, tagged(own), nil, v1.MediaTypeImageManifest, raw)
						}
						if failed == nil {
							pushed.Add(1)
							break
						}
						if !retry(failed) {
							t.Errorf("pushing: %v", failed)
							return
						}
						again.Add(1)
					}
					// Its tag is nobody else's: the image is whole until it is removed below, unless another
					// pusher of the same image deletes the manifest, which takes the tag along.
					for _, data := range used {
						d := digest.FromBytes(data)
						b, err := r.Blob(e.ctx, repo, d)
						if err == nil {
							var rc interface {
								Read([]byte) (int, error)
								Close() error
							}
							if rc, err = r.OpenBlob(e.ctx, b, 0, -1); err == nil {
								var got bytes.Buffer
								_, err = got.ReadFrom(rc)
								rc.Close()
								if err == nil && !bytes.Equal(got.Bytes(), data) {
									t.Errorf("%s has other bytes", d)
								}
							}
						}
						if err != nil {
							if _, terr := r.HeadManifest(e.ctx, repo, tagged(own)); terr == nil {
								t.Errorf("round %d of %d: the image is tagged but its blob is not there: %v", round, n, err)
							}
							break
						}
						pulled.Add(1)
					}
					var err error
					if random.IntN(3) == 0 {
						_, err = r.DeleteManifest(e.ctx, as(alice), repo, digest.FromBytes(raw))
					} else {
						err = r.DeleteTag(e.ctx, as(alice), repo, own)
					}
					if err != nil && !retry(err) {
						t.Errorf("deleting: %v", err)
					}
				}
			})
		}
		group.Wait()
		close(stop)
		collectors.Wait()
		t.Logf("%d pushes accepted, %d told to begin again, %d blobs pulled", pushed.Load(), again.Load(), pulled.Load())
		if pushed.Load() < pushers*int64(rounds) || pulled.Load() == 0 {
			t.Error("too little has happened")
		}
		for range 3 {
			e.clock.Add(48 * time.Hour)
			_, err := collecting(e.r).Collect(e.ctx, collect.Run{UntaggedTTL: time.Nanosecond})
			e.ok(err)
		}
		if left := e.strings(`SELECT digest FROM blobs UNION ALL SELECT digest FROM manifests`); len(left) > 0 || e.queued() > 0 {
			t.Errorf("%d in queues, left over: %v", e.queued(), left)
		}
		e.settled()
	})
}

// Whoever is first decides, on a real row lock: a link that is being written
// keeps the blob, and a blob that is going makes the push insert its own.
func TestGCLinkOrCollect(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		data := []byte("wanted again")
		d := digest.FromBytes(data)
		var kept, anew int
		for i := range 20 {
			if _, err := e.r.Blob(e.ctx, repo, d); err != nil {
				e.push(e.r, repo, data)
			}
			key := e.strings(`SELECT storage_key FROM blobs`)[0]
			e.ok(e.r.DeleteBlob(e.ctx, as(alice), repo, d))
			start := make(chan struct{})
			var group sync.WaitGroup
			other := e.replica()
			group.Go(func() {
				<-start
				_, err := collecting(other).Collect(e.ctx, collect.Run{})
				if err != nil {
					t.Error(err)
				}
			})
			name := fmt.Sprintf("team/other%d", i)
			group.Go(func() {
				<-start
				if err := e.r.db.Update(e.ctx, func(tx *metadata.Tx) error {
					_, _, err := tx.EnsureRepository(e.ctx, name, metadata.Private, alice)
					return err
				}); err != nil {
					t.Error(err)
				}
				e.push(e.r, name, data)
				// The push is answered; that its manifest comes within the grace
				// period is what a collector without one does not wait for.
			})
			close(start)
			group.Wait()
			b, err := e.r.Blob(e.ctx, name, d)
			switch {
			case errors.Is(err, oci.ErrBlobUnknown):
				continue
			case err != nil:
				t.Fatal(err)
			case b.Key == key:
				kept++
			default:
				anew++
			}
			e.read(e.r, name, d)
			e.ok(e.r.DeleteBlob(e.ctx, as(alice), name, d))
			_, err = collecting(e.r).Collect(e.ctx, collect.Run{})
			e.ok(err)
		}
		t.Logf("the old object was kept %d times, a new one recorded %d times", kept, anew)
		e.settled()
	})
}
