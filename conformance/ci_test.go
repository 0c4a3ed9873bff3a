package conformance

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"berth/testenv"
)

// The media types of a build cache (buildkit, cache/remotecache/v1).
const typeCacheConfig = "application/vnd.buildkit.cacheconfig.v0"

// TestFirstDayOfCI: on a registry that nobody has set up the second run of a pipeline works as the first one did:
// the build cache that it moves, and what is kept under the digest of an image. What it released does not move, by
// any of these names or forms. cosign is in TestClients.
func TestFirstDayOfCI(t *testing.T) {
	w := newWorld(t, Start(t, Embedded))
	ci := w.person(t, "alice")
	const repo = "core/app"

	// What buildx pushes for --cache-to type=registry,ref=…: its cache is a config and layers, as an image manifest
	// (buildkit from 0.21 on, and image-manifest=true before), or as an index of them.
	cache := func(run int) (config, layer Descriptor) {
		config = describe(typeCacheConfig, fmt.Appendf(nil, `{"layers":[],"records":[{"digest":"%s"}]}`, sha256Of(fmt.Append(nil, run))))
		ci.PushBlob(repo, fmt.Appendf(nil, `{"layers":[],"records":[{"digest":"%s"}]}`, sha256Of(fmt.Append(nil, run))))
		content := random(1000)
		ci.PushBlob(repo, content)
		return config, describe("application/vnd.oci.image.layer.v1.tar+gzip", content)
	}
	form := func(d Descriptor) string {
		return fmt.Sprintf(`{"mediaType":%q,"digest":%q,"size":%d}`, d.MediaType, d.Digest, d.Size)
	}
	manifest := func(run int) (string, []byte) {
		config, layer := cache(run)
		return typeManifest, fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"config":%s,"layers":[%s]}`, typeManifest, form(config), form(layer))
	}
	index := func(run int) (string, []byte) {
		config, layer := cache(run)
		return typeIndex, fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"manifests":[%s,%s]}`, typeIndex, form(layer), form(config))
	}
	for _, tag := range []string{"buildcache", "cache", "buildcache-arm64", "main-buildcache"} {
		for run := range 2 {
			mediaType, raw := manifest(run)
			ci.PushManifest(repo, tag, mediaType, raw)
			mediaType, raw = index(run)
			ci.PushManifest(repo, tag, mediaType, raw)
			ci.Do("GET", "/v2/"+repo+"/manifests/"+tag, nil).Want(200).WantBody(raw)
		}
	}
	// A cache under the name of a release holds that name, and the refusal says which names move.
	mediaType, raw := manifest(0)
	ci.PushManifest(repo, "1.0", mediaType, raw)
	mediaType, raw = manifest(1)
	r := ci.PutManifest(repo, "1.0", mediaType, raw).WantError(409, "DENIED")
	if !strings.Contains(string(r.Body), "Tags that may move here: *-SNAPSHOT, *-buildcache, buildcache, buildcache-*, cache, latest") {
		t.Errorf("the refusal does not say which tags move: %s", r.Body)
	}

	// Two artifacts of one image, by a client that keeps the list of them itself (distribution-spec, "Referrers Tag Schema").
	_, digest := ci.PushImage(repo, "2.0")
	b, c := orasTool(t, w.Server)
	if out, err := c.login("alice", password("alice")); err != nil {
		t.Fatalf("oras login: %v\n%s", err, out)
	}
	for run := range 2 {
		if err := os.WriteFile(filepath.Join(b.home, "sbom"), fmt.Append(nil, run), 0o600); err != nil {
			t.Fatal(err)
		}
		b.run(testenv.Tool(t, "oras"), "attach", "--plain-http", "--distribution-spec", "v1.1-referrers-tag", "--artifact-type", "application/vnd.example.sbom",
			w.Host+"/"+repo+"@"+digest, "sbom")
	}
	var fallback struct{ Manifests []Descriptor }
	if ci.Do("GET", "/v2/"+repo+"/manifests/"+strings.Replace(digest, ":", "-", 1), nil).Want(200).JSON(&fallback); len(fallback.Manifests) != 2 {
		t.Errorf("the fallback tag lists %v, want both artifacts", fallback.Manifests)
	}
	raw = ci.MakeImage(repo, 1).Bytes()
	ci.PutManifest(repo, "2.0", typeManifest, raw).WantError(409, "DENIED")
}
