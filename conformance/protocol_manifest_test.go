package conformance

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// Pulling manifests (end-3), Checking if content exists.
func testManifestPull(t *testing.T, s *Server) {
	c := s.Admin(t)
	repo := unique("conf/manifest")
	raw, d := c.PushImage(repo, "v1")
	for _, ref := range []string{"v1", d} {
		path := "/v2/" + repo + "/manifests/" + ref
		c.Do("GET", path, nil, "Accept: "+typeManifest).Want(200).WantBody(raw).WantHeader("Content-Type", typeManifest).
			WantHeader("Docker-Content-Digest", d).WantHeader("Content-Length", strconv.Itoa(len(raw)))
		c.Do("HEAD", path, nil).Want(200).WantHeader("Content-Type", typeManifest).
			WantHeader("Docker-Content-Digest", d).WantHeader("Content-Length", strconv.Itoa(len(raw)))
		// Never converted: whatever the client accepts, it gets what was pushed.
		c.Do("GET", path, nil, "Accept: "+typeDocker).Want(200).WantBody(raw)
		c.Do("GET", path+"?ns=docker.io", nil).Want(200).WantBody(raw)
	}
	c.Do("HEAD", "/v2/"+repo+"/manifests/v2", nil).Want(404)
	c.Do("HEAD", "/v2/"+repo+"/manifests/"+sha256Of(nil), nil).Want(404)
	// A blob's digest is not a manifest's, and the other way round.
	c.Do("GET", "/v2/"+repo+"/blobs/"+d, nil).WantError(404, "BLOB_UNKNOWN")
	// Pushing Manifests: the answer tells where the manifest can be pulled.
	r := c.PushManifest(repo, "v1", typeManifest, raw).WantHeader("Docker-Content-Digest", d)
	c.Do("GET", r.Location(c), nil).Want(200).WantBody(raw)
	c.PushManifest(repo, d, typeManifest, raw)
	c.PutManifest(repo, sha256Of([]byte("x")), typeManifest, raw).WantError(400, "DIGEST_INVALID")
}

// The registry MUST store the manifest in the exact byte representation.
func testExactBytes(t *testing.T, s *Server) {
	c := s.Admin(t)
	repo := unique("conf/exact")
	m := c.MakeImage(repo, 1)
	compact, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	var spaced bytes.Buffer
	if err := json.Indent(&spaced, compact, "\t", " "); err != nil {
		t.Fatal(err)
	}
	unknown := bytes.Replace(compact, []byte(`{`), []byte(`{"zzz":{"b":1.0,"a":1e2,"ü":"\u00fc"},`), 1)
	for i, raw := range [][]byte{compact, spaced.Bytes(), append(spaced.Bytes(), "\n\n  "...), unknown} {
		tag := fmt.Sprintf("v%d", i)
		c.PushManifest(repo, tag, typeManifest, raw).WantHeader("Docker-Content-Digest", sha256Of(raw))
		c.Do("GET", "/v2/"+repo+"/manifests/"+tag, nil).Want(200).WantBody(raw)
	}
}

// Any media type that clients use. Content-Type is that of the push; the
// registry SHOULD ignore its parameters.
func testMediaTypes(t *testing.T, s *Server) {
	c := s.Admin(t)
	repo := unique("conf/types")
	m := c.MakeImage(repo, 2)
	m.MediaType = typeDocker
	c.PushManifest(repo, "docker", typeDocker, m.Bytes())
	c.Do("GET", "/v2/"+repo+"/manifests/docker", nil).Want(200).WantHeader("Content-Type", typeDocker)

	list := Image{SchemaVersion: 2, MediaType: typeDockerList, Manifests: []Descriptor{describe(typeDocker, m.Bytes())}}
	c.PushManifest(repo, "list", typeDockerList, list.Bytes())
	c.Do("GET", "/v2/"+repo+"/manifests/list", nil).Want(200).WantHeader("Content-Type", typeDockerList)

	// No mediaType in the body.
	m = c.MakeImage(repo, 1)
	m.MediaType = ""
	c.PushManifest(repo, "plain", typeManifest+"; charset=utf-8", m.Bytes())
	c.Do("GET", "/v2/"+repo+"/manifests/plain", nil).Want(200).WantHeader("Content-Type", typeManifest)

	// No layers at all, and an artifact with the empty config.
	m = c.MakeImage(repo, 0)
	c.PushManifest(repo, "nolayers", typeManifest, m.Bytes())
	c.PushBlob(repo, []byte("{}"))
	empty := describe(typeEmpty, []byte("{}"))
	artifact := Image{SchemaVersion: 2, MediaType: typeManifest, ArtifactType: "application/vnd.example.thing", Config: &empty, Layers: []Descriptor{empty}, Comment: "kept"}
	c.PushManifest(repo, "artifact", typeManifest, artifact.Bytes())

	// The data field, and layers that are not to be distributed.
	m = c.MakeImage(repo, 1)
	m.Config.Data = []byte("{}")
	foreign := describe("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", random(20))
	foreign.URLs = []string{"https://example.com/layer"}
	m.Layers = append(m.Layers, foreign)
	m.Config = &Descriptor{MediaType: typeEmpty, Digest: empty.Digest, Size: 2, Data: []byte("{}")}
	c.PushManifest(repo, "foreign", typeManifest, m.Bytes())

	// A type that nobody has heard of.
	raw := []byte(`{"hello":"world","list":[1,2,3]}`)
	c.PushManifest(repo, "unknown", "application/vnd.example.manifest.v7+json", raw)
	c.Do("GET", "/v2/"+repo+"/manifests/unknown", nil).Want(200).WantBody(raw).WantHeader("Content-Type", "application/vnd.example.manifest.v7+json")
}

func testIndex(t *testing.T, s *Server) {
	c := s.Admin(t)
	repo := unique("conf/index")
	var children []Descriptor
	for _, arch := range []string{"amd64", "arm64"} {
		raw := c.MakeImage(repo, 1).Bytes()
		c.PushManifest(repo, sha256Of(raw), typeManifest, raw)
		d := describe(typeManifest, raw)
		d.Platform = map[string]string{"os": "linux", "architecture": arch}
		children = append(children, d)
	}
	index := Image{SchemaVersion: 2, MediaType: typeIndex, Manifests: children}.Bytes()
	c.PushManifest(repo, "multi", typeIndex, index)
	c.Do("GET", "/v2/"+repo+"/manifests/multi", nil).Want(200).WantBody(index).WantHeader("Content-Type", typeIndex)
	nested := Image{SchemaVersion: 2, MediaType: typeIndex, Manifests: []Descriptor{describe(typeIndex, index), children[0]}}.Bytes()
	c.PushManifest(repo, "nested", typeIndex, nested)
	c.PushManifest(repo, "none", typeIndex, []byte(`{"schemaVersion":2,"mediaType":"`+typeIndex+`","manifests":[]}`))
	// A child that is not there.
	missing := describe(typeManifest, random(10))
	sparse := Image{SchemaVersion: 2, MediaType: typeIndex, Manifests: []Descriptor{children[0], missing}}.Bytes()
	c.PutManifest(repo, "sparse", typeIndex, sparse).WantError(400, "MANIFEST_BLOB_UNKNOWN")
	// A child stays as long as its index does.
	c.Do("DELETE", "/v2/"+repo+"/manifests/"+children[1].Digest, nil).WantError(409, "CONFLICT")
	c.Do("DELETE", "/v2/"+repo+"/manifests/"+sha256Of(index), nil).WantError(409, "CONFLICT") // nested has it
	c.Do("DELETE", "/v2/"+repo+"/manifests/"+sha256Of(nested), nil).Want(202)
	c.Do("DELETE", "/v2/"+repo+"/manifests/"+sha256Of(index), nil).Want(202)
	c.Do("DELETE", "/v2/"+repo+"/manifests/"+children[1].Digest, nil).Want(202)
}

func testInvalidManifests(t *testing.T, s *Server) {
	c := s.Admin(t)
	repo := unique("conf/invalid")
	good := c.MakeImage(repo, 1)
	compact, err := json.Marshal(good)
	if err != nil {
		t.Fatal(err)
	}
	text := string(compact)
	config, layers := good.Config.Digest, good.Layers[0].Digest
	for name, test := range map[string]struct{ contentType, body string }{
		"not JSON":               {typeManifest, "blabla"},
		"cut off":                {typeManifest, text[:len(text)-1]},
		"an array":               {typeManifest, "[" + text + "]"},
		"empty":                  {typeManifest, ""},
		"trailing text":          {typeManifest, text + "x"},
		"two kinds at once":      {typeManifest, strings.Replace(text, `"layers"`, `"manifests":[],"layers"`, 1)}, // CVE-2021-41190
		"another mediaType":      {typeIndex, text},
		"Docker's mediaType":     {typeDocker, text},
		"digest malformed":       {typeManifest, strings.Replace(text, layers, "sha256:abc", 1)},
		"digest without a colon": {typeManifest, strings.Replace(text, config, "abc", 1)},
		"negative size":          {typeManifest, strings.Replace(text, `"size":300`, `"size":-1`, 1)},
		"schema version":         {typeManifest, strings.Replace(text, `"schemaVersion":2`, `"schemaVersion":1`, 1)},
		"schema 1":               {"application/vnd.docker.distribution.manifest.v1+prettyjws", `{"schemaVersion":1,"name":"a","tag":"b","fsLayers":[]}`},
		"a size that is a word":  {typeManifest, strings.Replace(text, `"size":300`, `"size":"big"`, 1)},
		"not UTF-8":              {typeManifest, strings.Replace(text, `"schemaVersion"`, "\"a\":\"\xff\",\"schemaVersion\"", 1)},
	} {
		t.Run(name, func(t *testing.T) {
			c := s.Admin(t)
			c.PutManifest(repo, "bad", test.contentType, []byte(test.body)).WantError(400, "MANIFEST_INVALID")
			c.Do("GET", "/v2/"+repo+"/manifests/bad", nil).Want(404)
		})
	}
	c.PutManifest(repo, ".bad", typeManifest, compact).WantError(400, "TAG_INVALID")
	c.PutManifest(repo, "sha256:bad", typeManifest, compact).WantError(400, "DIGEST_INVALID")
}

// At least 4 megabytes SHOULD be supported; over the limit is a 413.
func testManifestSize(t *testing.T, s *Server) {
	c := s.Admin(t)
	repo := unique("conf/size")
	m := c.MakeImage(repo, 1)
	m.Annotations = map[string]string{}
	for i := range 390 {
		m.Annotations[fmt.Sprintf("org.example.%d", i)] = strings.Repeat("a", 10_000)
	}
	raw := m.Bytes()
	if len(raw) < 3_900_000 || len(raw) > 4<<20 {
		t.Fatalf("the large manifest has %d bytes", len(raw))
	}
	c.PushManifest(repo, "large", typeManifest, raw)
	c.Do("GET", "/v2/"+repo+"/manifests/large", nil).Want(200).WantBody(raw)
	for i := range 60 {
		m.Annotations[fmt.Sprintf("org.example.more.%d", i)] = strings.Repeat("a", 10_000)
	}
	c.PutManifest(repo, "larger", typeManifest, m.Bytes()).WantError(413, "MANIFEST_TOO_LARGE")
	c.Do("GET", "/v2/"+repo+"/manifests/larger", nil).Want(404)
}

// A manifest whose blobs are not there MUST result in MANIFEST_BLOB_UNKNOWN.
func testReferences(t *testing.T, s *Server) {
	c := s.Admin(t)
	repo, other := unique("conf/references"), unique("conf/references-other")
	m := c.MakeImage(repo, 1)
	missing := describe(typeLayer, random(10))
	elsewhere := random(10)
	c.PushBlob(other, elsewhere)
	for _, layer := range []Descriptor{missing, describe(typeLayer, elsewhere)} {
		bad := m
		bad.Layers = []Descriptor{m.Layers[0], layer}
		r := c.PutManifest(repo, "v1", typeManifest, bad.Bytes()).WantError(400, "MANIFEST_BLOB_UNKNOWN")
		if !bytes.Contains(r.Body, []byte(layer.Digest)) {
			t.Errorf("the error does not name the blob that is missing: %s", r.Body)
		}
	}
	noConfig := m
	noConfig.Config = &missing
	c.PutManifest(repo, "v1", typeManifest, noConfig.Bytes()).WantError(400, "MANIFEST_BLOB_UNKNOWN")
	c.Do("GET", "/v2/"+repo+"/manifests/v1", nil).Want(404)
}

// Pushing Manifests by digest with tag parameters (end-7b).
func testTagParameters(t *testing.T, s *Server) {
	c := s.Admin(t)
	repo := unique("conf/tagparam")
	raw := c.MakeImage(repo, 1).Bytes()
	d := sha256Of(raw)
	var tags, query []string
	for i := range 12 {
		tags = append(tags, fmt.Sprintf("1.%d", i))
		query = append(query, "tag="+tags[i])
	}
	r := c.PushManifest(repo, with(d, query...), typeManifest, raw).WantHeader("Docker-Content-Digest", d)
	var told []string
	for _, h := range r.Header.Values("OCI-Tag") {
		for part := range strings.SplitSeq(h, ",") {
			told = append(told, strings.TrimSpace(part))
		}
	}
	slices.Sort(told)
	slices.Sort(tags)
	if !slices.Equal(told, tags) {
		t.Errorf("OCI-Tag names %q, want %q", told, tags)
	}
	for _, tag := range tags {
		c.Do("GET", "/v2/"+repo+"/manifests/"+tag, nil).Want(200).WantBody(raw)
	}
	c.PutManifest(repo, d+"?tag=.bad", typeManifest, raw).WantError(400, "TAG_INVALID")
	// All or nothing: one tag is taken, so none of the new ones comes into being.
	raw2 := c.MakeImage(repo, 1).Bytes()
	c.PutManifest(repo, sha256Of(raw2)+"?tag=new&tag=1.0", typeManifest, raw2).WantError(409, "DENIED")
	c.Do("GET", "/v2/"+repo+"/manifests/new", nil).Want(404)
}

func testSHA512Manifest(t *testing.T, s *Server) {
	c := s.Admin(t)
	repo := unique("conf/sha512m")
	config, layer := []byte(`{"architecture":"amd64","os":"linux"}`), random(100)
	m := Image{SchemaVersion: 2, MediaType: typeManifest}
	for i, content := range [][]byte{config, layer} {
		d := Descriptor{Digest: sha512Of(content), Size: len(content), MediaType: []string{typeConfig, typeLayer}[i]}
		c.Do("POST", "/v2/"+repo+"/blobs/uploads/?digest="+d.Digest, content).Want(201)
		if i == 0 {
			m.Config = &d
		} else {
			m.Layers = append(m.Layers, d)
		}
	}
	raw := m.Bytes()
	d := sha512Of(raw)
	c.PushManifest(repo, d+"?tag=v1", typeManifest, raw).WantHeader("Docker-Content-Digest", d)
	c.Do("GET", "/v2/"+repo+"/manifests/"+d, nil).Want(200).WantBody(raw).WantHeader("Docker-Content-Digest", d)
	c.Do("GET", "/v2/"+repo+"/manifests/v1", nil).Want(200).WantBody(raw)
	c.Do("HEAD", "/v2/"+repo+"/manifests/"+d, nil).Want(200)
	c.Do("DELETE", "/v2/"+repo+"/manifests/"+d, nil).Want(202)
	c.Do("GET", "/v2/"+repo+"/manifests/"+d, nil).Want(404)
}

// Deleting Manifests (end-9): the manifest and every tag that points to it are gone.
func testManifestDelete(t *testing.T, s *Server) {
	c := s.Admin(t)
	repo := unique("conf/mdelete")
	raw, d := c.PushImage(repo, "v1")
	c.PushManifest(repo, "v2", typeManifest, raw)
	c.PushImage(repo, "v3")
	c.Do("DELETE", "/v2/"+repo+"/manifests/"+d, nil).Want(202)
	for _, ref := range []string{d, "v1", "v2"} {
		c.Do("GET", "/v2/"+repo+"/manifests/"+ref, nil).WantError(404, "MANIFEST_UNKNOWN")
		c.Do("HEAD", "/v2/"+repo+"/manifests/"+ref, nil).Want(404)
		c.Do("DELETE", "/v2/"+repo+"/manifests/"+ref, nil).WantError(404, "MANIFEST_UNKNOWN")
	}
	c.Do("GET", "/v2/"+repo+"/manifests/v3", nil).Want(200)
	// It can come back.
	c.PushManifest(repo, d, typeManifest, raw)
	c.Do("GET", "/v2/"+repo+"/manifests/"+d, nil).Want(200).WantBody(raw)
}

func testManifestConditional(t *testing.T, s *Server) {
	c := s.Admin(t)
	repo := unique("conf/mcond")
	_, d := c.PushImage(repo, "v1")
	for _, ref := range []string{"v1", d} {
		etag := c.Do("GET", "/v2/"+repo+"/manifests/"+ref, nil).Want(200).Header.Get("ETag")
		if etag == "" {
			t.Fatal("a manifest has no ETag")
		}
		c.Do("GET", "/v2/"+repo+"/manifests/"+ref, nil, "If-None-Match: "+etag).Want(304)
		c.Do("GET", "/v2/"+repo+"/manifests/"+ref, nil, `If-None-Match: "x"`).Want(200)
	}
}

type tagList struct {
	Name string   `json:"name"`
	Tags []string `json:"tags"`
}

// Listing Tags (end-8a, end-8b).
func testTagList(t *testing.T, s *Server) {
	c := s.Admin(t)
	repo := unique("conf/tags")
	raw := c.MakeImage(repo, 0).Bytes()
	tags := []string{"1.10", "1.2", "1.9", "B", "Z_z", "_x", "a", "b", "latest", "v1-rc.1", strings.Repeat("y", 128)}
	for _, i := range []int{5, 2, 9, 0, 7, 10, 1, 3, 8, 6, 4} {
		c.PushManifest(repo, tags[i], typeManifest, raw)
	}
	list := func(query string) (tagList, *Response) {
		var l tagList
		r := c.Do("GET", "/v2/"+repo+"/tags/list"+query, nil).Want(200).JSON(&l)
		if l.Name != repo {
			t.Errorf("%s: the name is %q, want %q", query, l.Name, repo)
		}
		return l, r
	}
	want := func(query string, want []string, link bool) {
		t.Helper()
		l, r := list(query)
		if !slices.Equal(l.Tags, want) {
			t.Errorf("tags/list%s: %q, want %q", query, l.Tags, want)
		}
		if l.Tags == nil {
			t.Errorf("tags/list%s: tags is null, want a list", query)
		}
		if got := r.Next(c) != ""; got != link {
			t.Errorf("tags/list%s: Link is %q, want one: %v", query, r.Header.Get("Link"), link)
		}
	}
	want("", tags, false)
	want("?n=0", []string{}, false)
	want("?n=4", tags[:4], true)
	want("?n=11", tags, false)
	want("?n=50", tags, false)
	want("?last=B", tags[4:], false)
	want("?last=B&n=2", tags[4:6], true)
	want("?last=aa&n=2", tags[7:9], true) // a tag that is not there
	want("?last="+tags[10], []string{}, false)
	for _, n := range []string{"-1", "x", "1.5"} {
		c.Do("GET", "/v2/"+repo+"/tags/list?n="+n, nil).Want(400)
	}
	// Following the links gives every tag once.
	var all []string
	pages := 0
	for next := "/v2/" + repo + "/tags/list?n=3"; next != ""; pages++ {
		var l tagList
		r := c.Do("GET", next, nil).Want(200).JSON(&l)
		all = append(all, l.Tags...)
		next = r.Next(c)
	}
	if !slices.Equal(all, tags) || pages != 4 {
		t.Errorf("following the links: %d pages with %q, want 4 with %q", pages, all, tags)
	}
}

// Deleting tags (end-9): the manifest stays.
func testTagDelete(t *testing.T, s *Server) {
	c := s.Admin(t)
	repo := unique("conf/tdelete")
	raw, d := c.PushImage(repo, "v1")
	c.PushManifest(repo, "v2", typeManifest, raw)
	c.Do("DELETE", "/v2/"+repo+"/manifests/v1", nil).Want(202)
	c.Do("GET", "/v2/"+repo+"/manifests/v1", nil).WantError(404, "MANIFEST_UNKNOWN")
	c.Do("DELETE", "/v2/"+repo+"/manifests/v1", nil).WantError(404, "MANIFEST_UNKNOWN")
	c.Do("GET", "/v2/"+repo+"/manifests/v2", nil).Want(200).WantBody(raw)
	c.Do("DELETE", "/v2/"+repo+"/manifests/v2", nil).Want(202)
	c.Do("GET", "/v2/"+repo+"/manifests/"+d, nil).Want(200).WantBody(raw)
	var l tagList
	c.Do("GET", "/v2/"+repo+"/tags/list", nil).Want(200).JSON(&l)
	if l.Tags == nil || len(l.Tags) != 0 {
		t.Errorf("after the last tag is gone the list is %#v, want an empty one", l.Tags)
	}
}

// Immutable tags, the default: the same digest again is a 201 and changes
// nothing, another one is refused with a message that tells what to do.
func testTagPolicy(t *testing.T, s *Server) {
	c := s.Admin(t)
	repo := unique("conf/policy")
	raw, d := c.PushImage(repo, "1.0")
	c.PushManifest(repo, "1.0", typeManifest, raw)
	other := c.MakeImage(repo, 1).Bytes()
	r := c.PutManifest(repo, "1.0", typeManifest, other).WantError(409, "DENIED")
	for _, want := range []string{"1.0", d, "admin"} {
		if !strings.Contains(r.Errors()[0].Message, want) {
			t.Errorf("the refusal %q does not name %s", r.Errors()[0].Message, want)
		}
	}
	c.Do("GET", "/v2/"+repo+"/manifests/1.0", nil).Want(200).WantBody(raw)
	// Exempt by default.
	for _, tag := range []string{"latest", "2.0-SNAPSHOT"} {
		c.PushManifest(repo, tag, typeManifest, raw)
		c.PushManifest(repo, tag, typeManifest, other)
		c.Do("GET", "/v2/"+repo+"/manifests/"+tag, nil).Want(200).WantBody(other)
	}
}

type referrers struct {
	SchemaVersion int          `json:"schemaVersion"`
	MediaType     string       `json:"mediaType"`
	Manifests     []Descriptor `json:"manifests"`
}

func listReferrers(c *Client, path string) (referrers, *Response) {
	c.t.Helper()
	var l referrers
	r := c.Do("GET", path, nil).Want(200).JSON(&l).WantHeader("Content-Type", typeIndex)
	if l.SchemaVersion != 2 || l.MediaType != typeIndex || l.Manifests == nil {
		c.t.Errorf("%s: not an image index with manifests: %s", path, clip(r.Body))
	}
	return l, r
}

// artifact pushes a manifest with a subject and gives its descriptor as the
// referrers API has to report it.
func artifact(c *Client, repo string, subject Descriptor, artifactType string, annotations map[string]string) Descriptor {
	c.t.Helper()
	c.PushBlob(repo, []byte("{}"))
	config := describe(typeEmpty, []byte("{}"))
	content := random(50)
	c.PushBlob(repo, content)
	m := Image{SchemaVersion: 2, MediaType: typeManifest, ArtifactType: artifactType, Config: &config,
		Layers: []Descriptor{describe("application/vnd.example.data", content)}, Subject: &subject, Annotations: annotations}
	raw := m.Bytes()
	c.PushManifest(repo, sha256Of(raw), typeManifest, raw).WantHeader("OCI-Subject", subject.Digest)
	d := describe(typeManifest, raw)
	d.ArtifactType, d.Annotations = artifactType, annotations
	return d
}

// Listing Referrers (end-12a), Pushing Manifests with Subject.
func testReferrers(t *testing.T, s *Server) {
	c := s.Admin(t)
	repo := unique("conf/referrers")
	raw := c.MakeImage(repo, 1).Bytes()
	subject := describe(typeManifest, raw)
	path := "/v2/" + repo + "/referrers/" + subject.Digest

	// The subject may come later.
	first := artifact(c, repo, subject, "application/vnd.example.sbom", map[string]string{"org.example.a": "1"})
	r := c.PushManifest(repo, "v1", typeManifest, raw)
	if got := r.Header.Get("OCI-Subject"); got != "" {
		t.Errorf("a manifest without a subject was answered with OCI-Subject %q", got)
	}
	want := map[string]Descriptor{first.Digest: first}
	second := artifact(c, repo, subject, "application/vnd.example.signature", nil)
	want[second.Digest] = second

	// Without an artifactType the config's media type stands in.
	m := c.MakeImage(repo, 1)
	m.Subject = &subject
	c.PushManifest(repo, "image-referrer", typeManifest, m.Bytes()).WantHeader("OCI-Subject", subject.Digest)
	third := describe(typeManifest, m.Bytes())
	third.ArtifactType = typeConfig
	want[third.Digest] = third

	// An index may have a subject too; without an artifactType it has none.
	for _, artifactType := range []string{"", "application/vnd.example.list"} {
		index := Image{SchemaVersion: 2, MediaType: typeIndex, ArtifactType: artifactType, Manifests: []Descriptor{subject}, Subject: &subject}
		c.PushManifest(repo, sha256Of(index.Bytes()), typeIndex, index.Bytes()).WantHeader("OCI-Subject", subject.Digest)
		d := describe(typeIndex, index.Bytes())
		d.ArtifactType = artifactType
		want[d.Digest] = d
	}
	compareReferrers(t, c, path, want)
	if strings.Contains(string(c.Do("GET", path, nil).Body), `"artifactType":""`) {
		t.Error("an artifactType that is not there MUST be left out")
	}

	// One that is deleted is not listed any more.
	c.Do("DELETE", "/v2/"+repo+"/manifests/"+second.Digest, nil).Want(202)
	delete(want, second.Digest)
	compareReferrers(t, c, path, want)

	// None is an empty index, never a 404; also for a subject nobody pushed.
	for _, d := range []string{first.Digest, sha256Of([]byte("nobody")), sha512Of([]byte("nobody"))} {
		if l, _ := listReferrers(c, "/v2/"+repo+"/referrers/"+d); len(l.Manifests) != 0 {
			t.Errorf("referrers of %s: %d, want none", d, len(l.Manifests))
		}
	}
	c.Do("GET", "/v2/"+repo+"/referrers/sha256:short", nil).WantError(400, "DIGEST_INVALID")
	c.Do("GET", "/v2/"+repo+"/referrers/latest", nil).WantError(400, "DIGEST_INVALID")
	// Another repository has none of them.
	other := unique("conf/referrers-other")
	c.PushManifest(other, "v1", typeManifest, c.MakeImage(other, 0).Bytes())
	if l, _ := listReferrers(c, "/v2/"+other+"/referrers/"+subject.Digest); len(l.Manifests) != 0 {
		t.Errorf("another repository lists %d referrers", len(l.Manifests))
	}
}

func compareReferrers(t *testing.T, c *Client, path string, want map[string]Descriptor) {
	t.Helper()
	l, _ := listReferrers(c, path)
	if len(l.Manifests) != len(want) {
		t.Errorf("%s lists %d, want %d", path, len(l.Manifests), len(want))
	}
	for _, got := range l.Manifests {
		w, ok := want[got.Digest]
		if !ok {
			t.Errorf("%s lists %s, which was not expected", path, got.Digest)
			continue
		}
		g, _ := json.Marshal(got)
		e, _ := json.Marshal(w)
		if !bytes.Equal(g, e) {
			t.Errorf("%s lists %s, want %s", path, g, e)
		}
	}
}

// The artifactType filter (end-12b): when applied, the answer says so.
func testReferrersFilter(t *testing.T, s *Server) {
	c := s.Admin(t)
	repo := unique("conf/filter")
	raw, _ := c.PushImage(repo, "v1")
	subject := describe(typeManifest, raw)
	a := artifact(c, repo, subject, "application/vnd.example.a+json", nil)
	artifact(c, repo, subject, "application/vnd.example.b", nil)
	path := "/v2/" + repo + "/referrers/" + subject.Digest + "?artifactType=application%2Fvnd.example.a%2Bjson"
	l, r := listReferrers(c, path)
	r.WantHeader("OCI-Filters-Applied", "artifactType")
	if len(l.Manifests) != 1 || l.Manifests[0].Digest != a.Digest {
		t.Errorf("the filter gives %+v, want %s only", l.Manifests, a.Digest)
	}
	l, r = listReferrers(c, "/v2/"+repo+"/referrers/"+subject.Digest+"?artifactType=none%2Fnone")
	r.WantHeader("OCI-Filters-Applied", "artifactType")
	if len(l.Manifests) != 0 {
		t.Errorf("a type that nothing has gives %+v", l.Manifests)
	}
	if _, r := listReferrers(c, "/v2/"+repo+"/referrers/"+subject.Digest); r.Header.Get("OCI-Filters-Applied") != "" {
		t.Errorf("OCI-Filters-Applied is %q without a filter", r.Header.Get("OCI-Filters-Applied"))
	}
}

// Enabling the Referrers API: what clients listed under the fallback tag is
// part of the answer, once.
func testReferrersFallback(t *testing.T, s *Server) {
	c := s.Admin(t)
	repo := unique("conf/fallback")
	raw, _ := c.PushImage(repo, "v1")
	subject := describe(typeManifest, raw)
	known := artifact(c, repo, subject, "application/vnd.example.a", map[string]string{"k": "v"})
	index := Image{SchemaVersion: 2, MediaType: typeIndex, Manifests: []Descriptor{known}}
	tag := strings.Replace(subject.Digest, ":", "-", 1)
	c.PushManifest(repo, tag, typeIndex, index.Bytes())
	compareReferrers(t, c, "/v2/"+repo+"/referrers/"+subject.Digest, map[string]Descriptor{known.Digest: known})
	c.Do("GET", "/v2/"+repo+"/manifests/"+tag, nil).Want(200).WantBody(index.Bytes())
	// A client that keeps the list itself moves the tag, where the policy lets it.
	s.Berth(t, "repo", "set", repo, "--tag-policy", "immutable", "--exempt", "sha256-*")
	more := artifact(c, repo, subject, "application/vnd.example.b", nil)
	index.Manifests = append(index.Manifests, more)
	c.PushManifest(repo, tag, typeIndex, index.Bytes())
	compareReferrers(t, c, "/v2/"+repo+"/referrers/"+subject.Digest, map[string]Descriptor{known.Digest: known, more.Digest: more})
}

// A Link header MUST be there when the list does not fit one answer; each page
// has other descriptors, and a filter holds for all of them.
func testReferrersPages(t *testing.T, s *Server) {
	c := s.Admin(t)
	repo := unique("conf/pages")
	raw, _ := c.PushImage(repo, "v1")
	subject := describe(typeManifest, raw)
	c.PushBlob(repo, []byte("{}"))
	config := describe(typeEmpty, []byte("{}"))
	want := map[string]bool{}
	const count = 60
	for i := range count {
		// 60 x 100 kB do not fit into the 4 MiB that clients take as one manifest.
		m := Image{SchemaVersion: 2, MediaType: typeManifest, ArtifactType: "application/vnd.example.page", Config: &config,
			Layers: []Descriptor{config}, Subject: &subject, Annotations: map[string]string{"i": strconv.Itoa(i), "pad": strings.Repeat("p", 100_000)}}
		c.PushManifest(repo, sha256Of(m.Bytes()), typeManifest, m.Bytes())
		want[sha256Of(m.Bytes())] = true
	}
	for _, query := range []string{"", "?artifactType=application%2Fvnd.example.page"} {
		got := map[string]bool{}
		pages := 0
		for next := "/v2/" + repo + "/referrers/" + subject.Digest + query; next != ""; pages++ {
			l, r := listReferrers(c, next)
			if len(r.Body) > 4<<20 {
				t.Errorf("a page has %d bytes, more than clients take as a manifest", len(r.Body))
			}
			if query != "" {
				r.WantHeader("OCI-Filters-Applied", "artifactType")
			}
			for _, d := range l.Manifests {
				if got[d.Digest] || !want[d.Digest] {
					t.Errorf("%s is listed twice, or was not expected", d.Digest)
				}
				got[d.Digest] = true
			}
			next = r.Next(c)
		}
		if len(got) != count || pages < 2 {
			t.Errorf("%d referrers on %d pages, want %d on 2 or more", len(got), pages, count)
		}
	}
}

// The catalog, which docker's registries have: every repository that the caller may pull.
func testCatalog(t *testing.T, s *Server) {
	c := s.Admin(t)
	prefix := unique("catalog")
	for _, name := range []string{"c", "a", "b/x", "b"} {
		c.PushImage(prefix+"/"+name, "v1")
	}
	var all []string
	for next := "/v2/_catalog?n=2"; next != ""; {
		var page struct {
			Repositories []string `json:"repositories"`
		}
		r := c.Do("GET", next, nil).Want(http.StatusOK).JSON(&page)
		if len(page.Repositories) > 2 {
			t.Errorf("a page of 2 has %d", len(page.Repositories))
		}
		all = append(all, page.Repositories...)
		next = r.Next(c)
	}
	if !slices.IsSorted(all) {
		t.Errorf("the catalog is not in order: %q", all)
	}
	mine := slices.DeleteFunc(slices.Clone(all), func(s string) bool { return !strings.HasPrefix(s, prefix+"/") })
	if want := []string{prefix + "/a", prefix + "/b", prefix + "/b/x", prefix + "/c"}; !slices.Equal(mine, want) {
		t.Errorf("the catalog has %q, want %q", mine, want)
	}
	s.Anonymous(t).Do("GET", "/v2/_catalog", nil).WantError(401, "UNAUTHORIZED")
}
