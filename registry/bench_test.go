package registry

import (
	"bytes"
	"fmt"
	"sync/atomic"
	"testing"

	"berth/registry/registrytest"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// onEachB runs a benchmark on the combinations that keep what they are given.
func onEachB(b *testing.B, run func(b *testing.B, e *env)) {
	for _, c := range registrytest.Backends[1:] {
		b.Run(c.Name, func(b *testing.B) {
			url, driver, dsn := c.DB(b)
			e := newEnv(b, url, driver, dsn, c.Store(b))
			b.ReportAllocs()
			run(b, e)
		})
	}
}

// BenchmarkPushManifest pushes manifests with a tag each, eight at a time.
func BenchmarkPushManifest(b *testing.B) {
	onEachB(b, func(b *testing.B, e *env) {
		raw := e.image(e.r, repo, "bench")
		var n atomic.Int64
		b.SetParallelism(4)
		b.ResetTimer()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				i := n.Add(1)
				m := fmt.Appendf(nil, `{"n":%d,%s`, i, raw[1:])
				if _, err := e.r.PushManifest(e.ctx, as(alice), repo, tagged(fmt.Sprint("t", i)), nil, v1.MediaTypeImageManifest, m); err != nil {
					b.Error(err)
					return
				}
			}
		})
	})
}

// BenchmarkPushImage pushes a config and 5 layers of 16 KiB with POST, PATCH
// and PUT, as docker does, and the manifest with a tag; one client and eight.
func BenchmarkPushImage(b *testing.B) {
	push := func(e *env, i int64) error {
		m := v1.Manifest{MediaType: v1.MediaTypeImageManifest, Layers: []v1.Descriptor{}}
		m.SchemaVersion = 2
		for j := range 6 {
			data := random(16<<10, uint64(i)*6+uint64(j))
			data = append(data, fmt.Sprint(i, " ", j)...)
			d := digest.FromBytes(data)
			if _, err := e.r.Blob(e.ctx, repo, d); err == nil {
				return fmt.Errorf("the blob is there already")
			}
			u, err := e.r.StartUpload(e.ctx, as(alice), repo, digest.SHA256)
			if err == nil {
				_, err = e.r.AppendUpload(e.ctx, as(alice), repo, u.ID, -1, int64(len(data)), bytes.NewReader(data))
			}
			if err == nil {
				_, err = e.r.CommitUpload(e.ctx, as(alice), repo, u.ID, d, -1, 0, nil)
			}
			if err != nil {
				return err
			}
			desc := v1.Descriptor{MediaType: v1.MediaTypeImageLayer, Digest: d, Size: int64(len(data))}
			if j == 0 {
				m.Config = desc
			} else {
				m.Layers = append(m.Layers, desc)
			}
		}
		_, err := e.r.PushManifest(e.ctx, as(alice), repo, tagged(fmt.Sprint("t", i)), nil, v1.MediaTypeImageManifest, e.marshal(m))
		return err
	}
	for _, clients := range []int{1, 8} {
		b.Run(fmt.Sprint(clients), func(b *testing.B) {
			onEachB(b, func(b *testing.B, e *env) {
				var n atomic.Int64
				done := make(chan error)
				b.ResetTimer()
				for range clients {
					go func() {
						var err error
						for i := n.Add(1); err == nil && i <= int64(b.N); i = n.Add(1) {
							err = push(e, i)
						}
						done <- err
					}()
				}
				for range clients {
					if err := <-done; err != nil {
						b.Error(err)
					}
				}
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "images/s")
			})
		})
	}
}

// BenchmarkManifestByTag is the hottest read.
func BenchmarkManifestByTag(b *testing.B) {
	onEachB(b, func(b *testing.B, e *env) {
		e.pushManifest(e.r, repo, tagged("v1"), nil, v1.MediaTypeImageManifest, e.image(e.r, repo, "bench"))
		b.ResetTimer()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if _, err := e.r.Manifest(e.ctx, repo, tagged("v1")); err != nil {
					b.Error(err)
					return
				}
			}
		})
	})
}
