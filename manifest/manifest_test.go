package manifest

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"berth/oci"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

const emptyConfig = "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"

// sum is the digest that the test data give the content of that name.
func sum(name string) string { return digest.FromString(name).String() }

func digests(ds []Descriptor) []string {
	var s []string
	for _, d := range ds {
		s = append(s, d.Digest.String())
	}
	return s
}

func sums(names ...string) []string {
	var s []string
	for _, n := range names {
		if !strings.Contains(n, ":") {
			n = sum(n)
		}
		s = append(s, n)
	}
	return s
}

func TestParseAccepts(t *testing.T) {
	const (
		image  = oci.MediaTypeImageManifest
		index  = oci.MediaTypeImageIndex
		docker = oci.MediaTypeDockerManifest
		list   = oci.MediaTypeDockerManifestList
	)
	l512 := digest.SHA512.FromString("l").String()
	tests := []struct {
		file, contentType        string
		mediaType, artifactType  string
		blobs, foreign, children []string
		subject                  string
		annotations              map[string]string
	}{
		{file: "docker-schema2", contentType: docker, mediaType: docker, artifactType: "application/vnd.docker.container.image.v1+json",
			blobs: sums("dcfg", "dl1", "dl2")},
		{file: "docker-list", contentType: list, mediaType: list, children: sums("dm-amd64", "dm-win")},
		{file: "docker-foreign", contentType: docker, mediaType: docker, artifactType: "application/vnd.docker.container.image.v1+json",
			blobs: sums("wcfg", "wapp"), foreign: sums("wbase")},
		{file: "oci-image", contentType: image, mediaType: image, artifactType: v1.MediaTypeImageConfig, blobs: sums("cfg", "l1", "l2"),
			annotations: map[string]string{"org.opencontainers.image.created": "2026-01-02T03:04:05Z", "org.example.emoji": "\u2693 Anker"}},
		{file: "oci-image-untyped", contentType: image, mediaType: image, artifactType: v1.MediaTypeImageConfig, blobs: sums("cfg")},
		{file: "oci-nondistributable", contentType: image, mediaType: image, artifactType: v1.MediaTypeImageConfig,
			blobs: sums("cfg", "l1"), foreign: sums("nd1", "nd2")},
		{file: "oci-index", contentType: index, mediaType: index, children: sums("amd64", "arm"), annotations: map[string]string{"a": "b"}},
		{file: "oci-index-nested", contentType: index, mediaType: index, artifactType: "application/vnd.example.bundle",
			children: sums("inner", "amd64", "legacy")},
		{file: "oci-index-empty", contentType: index, mediaType: index},
		{file: "buildx-attestation", contentType: index, mediaType: index, children: sums("bx-amd64", "bx-att")},
		{file: "buildkit-cache", contentType: index, mediaType: index, blobs: sums("cache1", "cachecfg")},
		{file: "cosign-signature", contentType: image, mediaType: image, artifactType: v1.MediaTypeImageConfig, blobs: sums("sigcfg", "sig")},
		{file: "helm-chart", contentType: image, mediaType: image, artifactType: "application/vnd.cncf.helm.config.v1+json",
			blobs: sums("helmcfg", "chart", "prov"), annotations: map[string]string{"org.opencontainers.image.title": "mychart", "org.opencontainers.image.version": "0.1.0+build.1"}},
		{file: "wasm", contentType: image, mediaType: image, artifactType: "application/vnd.wasm.config.v0+json", blobs: sums("wasmcfg", "module")},
		{file: "empty-config", contentType: image, mediaType: image, artifactType: "application/vnd.example.thing", blobs: sums(emptyConfig)},
		{file: "artifact-subject", contentType: image, mediaType: image, artifactType: "application/spdx+json",
			blobs: sums(emptyConfig, "sbom"), subject: sum("amd64"), annotations: map[string]string{"org.example.sbom.format": "json"}},
		{file: "artifact-subject-sha512", contentType: image, mediaType: image, artifactType: "application/vnd.example.config+json",
			blobs: sums("c", l512), subject: digest.SHA512.FromString("amd64").String()},
		{file: "artifact-manifest", contentType: "application/vnd.oci.artifact.manifest.v1+json", mediaType: "application/vnd.oci.artifact.manifest.v1+json",
			artifactType: "application/vnd.cncf.notary.signature", blobs: sums("jws"), subject: sum("amd64"), annotations: map[string]string{"k": "v"}},
		{file: "unknown-fields", contentType: image, mediaType: image, artifactType: v1.MediaTypeImageConfig, blobs: sums("cfg", "l1")},
		{file: "unknown-type", contentType: "application/vnd.acme.Recipe.v1+json", mediaType: "application/vnd.acme.Recipe.v1+json"},
		{file: "unknown-type", contentType: "application/json", mediaType: "application/json"},
		// The Content-Type in all the ways that clients send it.
		{file: "oci-index", contentType: "", mediaType: index, children: sums("amd64", "arm"), annotations: map[string]string{"a": "b"}},
		{file: "oci-index", contentType: "application/json; charset=utf-8", mediaType: index, children: sums("amd64", "arm"), annotations: map[string]string{"a": "b"}},
		{file: "oci-index", contentType: "Application/Octet-Stream", mediaType: index, children: sums("amd64", "arm"), annotations: map[string]string{"a": "b"}},
		{file: "oci-index", contentType: " Application/vnd.OCI.image.index.v1+json ;q=1", mediaType: index, children: sums("amd64", "arm"), annotations: map[string]string{"a": "b"}},
	}
	seen := map[string]bool{}
	for _, tt := range tests {
		seen[tt.file+".json"] = true
		t.Run(tt.file+"/"+tt.contentType, func(t *testing.T) {
			raw := read(t, tt.file)
			m, err := Parse(tt.contentType, raw)
			if err != nil {
				t.Fatalf("Parse: %v", err)
			}
			subject := ""
			if m.Subject != nil {
				subject = m.Subject.Digest.String()
			}
			for _, c := range []struct {
				what      string
				got, want any
			}{
				{"MediaType", m.MediaType, tt.mediaType},
				{"ArtifactType", m.ArtifactType, tt.artifactType},
				{"Blobs", digests(m.Blobs), tt.blobs},
				{"Foreign", digests(m.Foreign), tt.foreign},
				{"Children", digests(m.Children), tt.children},
				{"Subject", subject, tt.subject},
				{"Annotations", m.Annotations, tt.annotations},
			} {
				if !reflect.DeepEqual(c.got, c.want) {
					t.Errorf("%s = %v, want %v", c.what, c.got, c.want)
				}
			}
		})
	}
	files, err := filepath.Glob("testdata/*.json")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if !seen[filepath.Base(f)] {
			t.Errorf("%s is in no case", f)
		}
	}
}

// members are n different members of an object.
func members(n int, value string) string {
	all := make([]string, n)
	for i := range all {
		all[i] = fmt.Sprintf(`"%x":%s`, i, value)
	}
	return strings.Join(all, ",")
}

func TestParseRefuses(t *testing.T) {
	const image, index = oci.MediaTypeImageManifest, oci.MediaTypeImageIndex
	d := fmt.Sprintf(`{"mediaType":"x/y","digest":%q,"size":1}`, sum("x"))
	img := func(fields string) string { return `{"schemaVersion":2,` + fields + `}` }
	tests := []struct {
		name, contentType, body string
		rule, field             string
	}{
		{"empty", image, "", "empty", ""},
		{"white space", image, " \n", "empty", ""},
		{"not JSON", image, "hello", "json", ""},
		{"byte order mark", image, "\ufeff{}", "json", ""},
		{"single quotes", image, "{'schemaVersion':2}", "json", ""},
		{"trailing comma", image, `{"schemaVersion":2,}`, "json", ""},
		{"missing comma", image, img(`"layers":[` + d + d + `]`), "json", ""},
		{"NaN", image, `{"schemaVersion":NaN}`, "json", ""},
		{"leading zero", image, `{"schemaVersion":02}`, "json", ""},
		{"lone surrogate", image, `{"annotations":{"a":"\ud800"}}`, "json", ""},
		{"control character", image, "{\"annotations\":{\"a\":\"\x01\"}}", "json", ""},
		{"cut off", image, img(`"config":` + d)[:60], "truncated", ""},
		{"not UTF-8", image, "{\"annotations\":{\"a\":\"\xff\"}}", "utf-8", ""},
		{"array", image, "[" + d + "]", "not-an-object", ""},
		{"null", image, "null", "not-an-object", ""},
		{"string", image, `"x"`, "not-an-object", ""},
		{"trailing object", image, img(`"config":`+d+`,"layers":[]`) + `{}`, "trailing-data", ""},
		{"trailing text", image, img(`"config":`+d+`,"layers":[]`) + `x`, "trailing-data", ""},
		{"trailing brace", image, img(`"config":`+d+`,"layers":[]`) + `}`, "trailing-data", ""},
		{"trailing zero byte", image, img(`"config":`+d+`,"layers":[]`) + "\x00", "trailing-data", ""},

		{"deep unknown field", image, `{"x":` + strings.Repeat("[", 100) + strings.Repeat("]", 100) + `}`, "depth", ""},
		{"deep objects", image, strings.Repeat(`{"x":`, 100), "depth", ""},

		{"manifests twice", index, img(`"manifests":[],"manifests":[` + d + `]`), "duplicate-field", "/manifests"},
		{"escaped manifests twice", index, img(`"manifests":[],"\u006danifests":[` + d + `]`), "duplicate-field", "/manifests"},
		{"digest twice", image, img(`"config":{"digest":"` + sum("a") + `","size":1,"digest":"` + sum("b") + `"},"layers":[]`), "duplicate-field", "/config/digest"},
		{"annotation twice", image, img(`"annotations":{"a":"1","a":"2"}`), "duplicate-field", "/annotations/a"},
		{"unknown field twice", image, img(`"x":{"a":1,"a":2}`), "duplicate-field", "/x/a"},
		{"Manifests", image, img(`"config":` + d + `,"layers":[],"Manifests":[` + d + `]`), "field-case", "/Manifests"},
		{"SCHEMAVERSION", image, `{"SCHEMAVERSION":2}`, "field-case", "/SCHEMAVERSION"},
		{"layerſ, which Go folds to layers", image, img(`"layerſ":[]`), "field-case", "/layerſ"},
		{"Digest in a descriptor", image, img(`"config":{"Digest":"x","size":1}`), "field-case", "/config/Digest"},

		{"layer null", image, img(`"config":` + d + `,"layers":[null]`), "null", "/layers/0"},
		{"manifest null", index, img(`"manifests":[null]`), "null", "/manifests/0"},
		{"url null", image, img(`"config":{"urls":[null]}`), "null", "/config/urls/0"},
		{"config null, which is no config", image, img(`"config":null,"layers":[]`), "config-missing", "/config"},
		{"schemaVersion null, which is none", image, `{"schemaVersion":null}`, "schema-version", "/schemaVersion"},
		{"digest null, which is none", image, img(`"config":{"digest":null,"size":1}`), "digest-missing", "/config"},
		{"size null, which is none", image, img(`"config":{"digest":"` + sum("a") + `","size":null}`), "size-missing", "/config"},
		{"null twice", image, img(`"manifests":null,"manifests":[` + d + `]`), "duplicate-field", "/manifests"},
		{"Manifests null", image, img(`"Manifests":null`), "field-case", "/Manifests"},

		{"config a list", image, img(`"config":[` + d + `]`), "type", "/config"},
		{"layers an object", image, img(`"layers":` + d), "type", "/layers"},
		{"layer a string", image, img(`"layers":["` + sum("a") + `"]`), "type", "/layers/0"},
		{"annotation a number", image, img(`"annotations":{"a":1}`), "type", "/annotations/a"},
		{"mediaType a number", image, img(`"mediaType":1`), "type", "/mediaType"},
		{"schemaVersion a string", image, `{"schemaVersion":"2"}`, "type", "/schemaVersion"},
		{"size a string", image, img(`"config":{"size":"1"}`), "type", "/config/size"},
		{"digest a number", image, img(`"config":{"digest":1}`), "type", "/config/digest"},
		{"url a number", image, img(`"config":{"urls":[1]}`), "type", "/config/urls/0"},

		{"schemaVersion 2.0", image, `{"schemaVersion":2.0}`, "integer", "/schemaVersion"},
		{"schemaVersion 2e0", image, `{"schemaVersion":2e0}`, "integer", "/schemaVersion"},
		{"size over 64 bits", image, img(`"config":{"size":18446744073709551617}`), "integer", "/config/size"},
		{"size negative", image, img(`"config":{"size":-1}`), "size-negative", "/config/size"},
		{"size missing", image, img(`"config":{"digest":"` + sum("a") + `"}`), "size-missing", "/config"},
		{"digest missing", image, img(`"config":{"size":1}`), "digest-missing", "/config"},
		{"digest empty", image, img(`"config":{"digest":"","size":1}`), "digest", "/config/digest"},
		{"digest short", image, img(`"config":{"digest":"sha256:ab","size":1}`), "digest", "/config/digest"},
		{"digest upper case", image, img(`"config":{"digest":"` + strings.ToUpper(sum("a")) + `","size":1}`), "digest", "/config/digest"},
		{"digest of an unknown algorithm", image, img(`"subject":{"digest":"md5:d41d8cd98f00b204e9800998ecf8427e","size":1}`), "digest", "/subject/digest"},
		{"media type too long", image, img(`"artifactType":"a/` + strings.Repeat("b", 300) + `"`), "media-type", "/artifactType"},
		{"media type with a line break", image, img(`"config":{"mediaType":"a/b\r\nX: y"}`), "media-type", "/config/mediaType"},
		{"body's media type not one", "", img(`"mediaType":"hello world"`), "media-type", "/mediaType"},

		{"html", "text/html", `{}`, "media-type-forbidden", "/mediaType"},
		{"html with parameters", "text/html; charset=utf-8", `{}`, "media-type-forbidden", "/mediaType"},
		{"html in the body", "", img(`"mediaType":"text/html"`), "media-type-forbidden", "/mediaType"},
		{"html in the body that is JSON", "application/json", img(`"mediaType":"text/html"`), "media-type-forbidden", "/mediaType"},
		{"svg", "image/svg+xml", `{}`, "media-type-forbidden", "/mediaType"},
		{"xhtml", "Application/XHTML+XML", `{}`, "media-type-forbidden", "/mediaType"},
		{"xml", "application/xml", `{}`, "media-type-forbidden", "/mediaType"},
		{"xml of a vendor", "application/vnd.a+xml", `{}`, "media-type-forbidden", "/mediaType"},
		{"script", "application/javascript", `{}`, "media-type-forbidden", "/mediaType"},
		{"script as text", "text/javascript", `{}`, "media-type-forbidden", "/mediaType"},
		{"style", "text/css", `{}`, "media-type-forbidden", "/mediaType"},
		{"multipart", "multipart/x-mixed-replace; boundary=a", `{}`, "media-type-forbidden", "/mediaType"},
		{"plain text", "text/plain", `{}`, "media-type-forbidden", "/mediaType"},
		{"artifactType not one", image, img(`"config":` + d + `,"artifactType":"<b>"`), "artifact-type", "/artifactType"},
		{"artifactType with parameters", image, img(`"config":` + d + `,"artifactType":"a/b; c=d"`), "artifact-type", "/artifactType"},

		{"content type not one", "image manifest", `{}`, "content-type", ""},
		{"content type with a line break", "a/b\r\nx", `{}`, "content-type", ""},
		{"no media type at all", "", `{}`, "media-type-missing", "/mediaType"},
		{"media type mismatch", image, img(`"mediaType":"` + index + `","manifests":[]`), "media-type-mismatch", "/mediaType"},
		{"unknown media type mismatch", "application/vnd.a+json", img(`"mediaType":"application/vnd.b+json"`), "media-type-mismatch", "/mediaType"},

		{"schema 1", "application/vnd.docker.distribution.manifest.v1+prettyjws", `{"schemaVersion":1,"fsLayers":[]}`, "schema1", "/schemaVersion"},
		{"schema 1 unsigned", "application/vnd.docker.distribution.manifest.v1+json", `{"schemaVersion":1}`, "schema1", "/schemaVersion"},
		{"schema 1 without its type", "application/json", `{"schemaVersion":1,"fsLayers":[]}`, "schema1", "/schemaVersion"},
		{"schema 1 as OCI", image, `{"schemaVersion":1,"fsLayers":[]}`, "schema1", "/schemaVersion"},
		{"no schemaVersion", image, `{"config":` + d + `,"layers":[]}`, "schema-version", "/schemaVersion"},
		{"schemaVersion 3", index, `{"schemaVersion":3,"manifests":[]}`, "schema-version", "/schemaVersion"},

		{"CVE-2021-41190 image", image, img(`"config":` + d + `,"layers":[],"manifests":[]`), "index-and-image", "/manifests"},
		{"CVE-2021-41190 index", index, img(`"manifests":[],"layers":[]`), "index-and-image", "/manifests"},
		{"CVE-2021-41190 config", index, img(`"manifests":[],"config":` + d), "index-and-image", "/manifests"},
		{"CVE-2021-41190 unknown type", "application/vnd.a+json", img(`"manifests":[],"layers":[]`), "index-and-image", "/manifests"},
		{"image with manifests", image, img(`"manifests":[]`), "image-with-manifests", "/manifests"},
		{"index with layers", index, img(`"layers":[]`), "index-with-layers", "/layers"},
		{"image without config", image, img(`"layers":[]`), "config-missing", "/config"},
		{"index without manifests", index, img(`"annotations":{}`), "manifests-missing", "/manifests"},
		{"artifact manifest with bad blobs", "application/vnd.oci.artifact.manifest.v1+json", `{"blobs" : [{"size":1}]}`, "digest-missing", "/blobs/0"},

		{"too many descriptors", index, img(`"manifests":[` + strings.Repeat(d+",", MaxDescriptors) + d + `]`), "too-many-descriptors", "/manifests/10000"},
		{"too many in all", "application/vnd.oci.artifact.manifest.v1+json",
			`{"layers":[` + strings.Repeat(d+",", MaxDescriptors-1) + d + `],"blobs":[` + d + `]}`, "too-many-descriptors", "/blobs/0"},
		{"too many urls", image, img(`"config":{"urls":[` + strings.Repeat(`"",`, MaxURLs) + `""]}`), "too-many-urls", "/config/urls/1000"},
		{"too many annotations", image, img(`"annotations":{` + members(MaxAnnotations+1, `""`) + `}`), "too-many-annotations", "/annotations"},
		{"too many names in an unknown field", image, img(`"x":{` + members(MaxTokens/2, "0") + `}`), "too-many-values", ""},
		{"too many values in an unknown field", image, img(`"x":[` + strings.Repeat("0,", MaxTokens) + `0]`), "too-many-values", ""},
		{"too many foreign layers", image, img(`"config":` + d + `,"layers":[` + foreignLayers(MaxForeign+1) + `]`), "too-many-foreign-layers", "/layers"},
	}
	messages := map[string]string{} // of each rule, with the variable parts
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m, err := Parse(tt.contentType, []byte(tt.body))
			var e *oci.Error
			if !errors.As(err, &e) || m != nil {
				t.Fatalf("Parse = %v, %v; want a refusal", m, err)
			}
			if e.Code != oci.CodeManifestInvalid {
				t.Errorf("code %s", e.Code)
			}
			detail := e.Detail.(map[string]any)
			field, _ := detail["field"].(string)
			if detail["rule"] != tt.rule || field != tt.field {
				t.Errorf("rule %v at %q, want %q at %q (%s)", detail["rule"], field, tt.rule, tt.field, e.Message)
			}
			if len(e.Message) < 20 || len(e.Message) > 700 {
				t.Errorf("message of %d bytes: %s", len(e.Message), e.Message)
			}
			for rule, message := range messages {
				if rule != tt.rule && message == e.Message {
					t.Errorf("rules %s and %s share the message %q", rule, tt.rule, message)
				}
			}
			messages[tt.rule] = e.Message
		})
	}
}

// TestParseNull: null is absent for each known field, and empty for a list. `crane index filter`
// that matches nothing writes such an index, and old tools leave layers out.
func TestParseNull(t *testing.T) {
	const image, index = oci.MediaTypeImageManifest, oci.MediaTypeImageIndex
	d := fmt.Sprintf(`{"mediaType":null,"artifactType":null,"urls":null,"digest":%q,"size":1}`, sum("x"))
	for body, contentType := range map[string]string{
		`{"schemaVersion":2,"manifests":null}`: index,
		`{"schemaVersion":2,"mediaType":null,"artifactType":null,"subject":null,"annotations":null,"config":null,"layers":null,"manifests":[]}`: index,
		`{"schemaVersion":2,"config":` + d + `,"layers":null}`:                                             image,
		`{"schemaVersion":2,"config":` + d + `,"layers":[],"manifests":null,"blobs":null,"fsLayers":null}`: image,
		`{"schemaVersion":2,"config":` + d + `}`:                                                           image,
		`{"schemaVersion":2,"config":` + d + `,"annotations":{"a":null}}`:                                  image,
		`{"mediaType":null,"blobs":null}`:                                                                  "application/vnd.oci.artifact.manifest.v1+json",
	} {
		m, err := Parse(contentType, []byte(body))
		if err != nil {
			t.Errorf("%s: %v", body, err)
			continue
		}
		want := []string(nil)
		if contentType == image {
			want = sums("x")
		}
		if m.MediaType != contentType || m.ArtifactType != "" || m.Subject != nil || m.Annotations != nil || len(m.Children)+len(m.Foreign) != 0 ||
			!reflect.DeepEqual(digests(m.Blobs), want) {
			t.Errorf("%s is %+v", body, m)
		}
	}
}

// TestStoredNames: what was pushed before its media type was refused can be read, and
// is served as bytes.
func TestStoredNames(t *testing.T) {
	for _, stored := range []string{"text/html", "image/svg+xml", "application/xhtml+xml", "text/javascript"} {
		if m, err := Read(stored, []byte(`{"mediaType":"`+stored+`"}`)); err != nil || m.MediaType != stored {
			t.Errorf("%s: %v, %v", stored, m, err)
		}
		if got := ContentType(stored); got != oci.MediaTypeOctetStream {
			t.Errorf("%s is served as %s", stored, got)
		}
	}
	for _, good := range []string{oci.MediaTypeImageManifest, "application/json", "application/vnd.acme.Recipe.v1+json", "application/vnd.xml.v1+json"} {
		if got := ContentType(good); got != good {
			t.Errorf("%s is served as %s", good, got)
		}
	}
}

// TestFreeNames: what never becomes a Content-Type is named as people like: files as text,
// artifacts as the guides of ORAS have them.
func TestFreeNames(t *testing.T) {
	d := func(kind string) string {
		return fmt.Sprintf(`{"mediaType":%q,"digest":%q,"size":1}`, kind, sum(kind))
	}
	body := `{"schemaVersion":2,"artifactType":"sbom/example","config":` + d("text/spdx") + `,"layers":[` + d("text/plain; charset=utf-8") + `,` + d("image/png") + `]}`
	if m, err := Parse(oci.MediaTypeImageManifest, []byte(body)); err != nil || m.ArtifactType != "sbom/example" {
		t.Errorf("%v, %v", m, err)
	}
}

// TestLyingSizes: a digest that comes with two sizes keeps both, so that neither escapes
// the comparison with what is stored.
func TestLyingSizes(t *testing.T) {
	d := func(size int) string { return fmt.Sprintf(`{"digest":%q,"size":%d}`, sum("x"), size) }
	m, err := Parse(oci.MediaTypeImageManifest, []byte(`{"schemaVersion":2,"config":`+d(1)+`,"layers":[`+d(1)+`,`+d(2)+`]}`))
	if err != nil || len(m.Blobs) != 2 || m.Blobs[1].Size != 2 {
		t.Errorf("%+v, %v", m, err)
	}
}

// TestParseNames: a spelling in another case is never read as the field.
func TestParseNames(t *testing.T) {
	for _, f := range documentFields {
		upper := strings.ToUpper(f[:1]) + f[1:]
		if _, err := Parse("application/vnd.a+json", []byte(`{"`+upper+`":[]}`)); err == nil {
			t.Errorf("%s was accepted", upper)
		}
	}
}

// TestPointerIsBounded: a hostile name does not come back at full length.
func TestPointerIsBounded(t *testing.T) {
	_, err := Parse("application/vnd.a+json", []byte(`{"annotations":{"`+strings.Repeat("é", 100_000)+`":1}}`))
	var e *oci.Error
	if !errors.As(err, &e) {
		t.Fatal(err)
	}
	body, err := json.Marshal(e)
	if err != nil || len(body) > 2000 {
		t.Errorf("error of %d bytes, %v", len(body), err)
	}
}

func foreignLayers(n int) string {
	var ls []string
	for i := range n {
		ls = append(ls, fmt.Sprintf(`{"digest":%q,"size":1,"urls":["https://a.example/b"]}`, sum(fmt.Sprint(i))))
	}
	return strings.Join(ls, ",")
}

func read(t testing.TB, name string) []byte {
	raw, err := os.ReadFile("testdata/" + name + ".json")
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// FuzzParse: never a panic, always the same answer, within bounds; and what is
// accepted is what encoding/json, hence every Go client, reads.
func FuzzParse(f *testing.F) {
	files, err := filepath.Glob("testdata/*.json")
	if err != nil || len(files) == 0 {
		f.Fatal("no test data", err)
	}
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		for _, ct := range []string{"", "application/json", oci.MediaTypeImageManifest, oci.MediaTypeImageIndex, oci.MediaTypeDockerManifest, "application/vnd.oci.artifact.manifest.v1+json"} {
			f.Add(ct, raw)
		}
	}
	f.Add("text/html", []byte(`{"annotations":{"a":null},"urls":null}`))
	f.Add("application/a", []byte(`{"annotations":{"a":null},"config":{"digest":null,"size":null},"manifests":null}`))
	f.Add("a/b", []byte(`{"Manifests":[{}],"manifests":null}`))
	f.Add("a/b", []byte(`{"config":{"digest":"sha256:ab","size":-0}}`))
	f.Fuzz(func(t *testing.T, contentType string, raw []byte) {
		before := string(raw)
		m, err := Parse(contentType, raw)
		again, err2 := Parse(contentType, raw)
		if string(raw) != before {
			t.Fatal("Parse changed its input")
		}
		if err != nil {
			var e *oci.Error
			if m != nil || err2 == nil || !errors.As(err, &e) || e.Code != oci.CodeManifestInvalid || len(e.Message) > 2000 {
				t.Fatalf("%v, %v, %v", m, err, err2)
			}
			var e2 *oci.Error
			if errors.As(err2, &e2); e.Message != e2.Message {
				t.Fatalf("%v then %v", err, err2)
			}
			return
		}
		if err2 != nil || !reflect.DeepEqual(m, again) {
			t.Fatalf("not deterministic: %v, %v", m, again)
		}
		if n := len(m.Blobs) + len(m.Foreign) + len(m.Children); n > MaxDescriptors || len(m.Foreign) > MaxForeign {
			t.Fatalf("%d descriptors", n)
		}
		if !mediaTypeRE.MatchString(m.MediaType) || ContentType(m.MediaType) != m.MediaType {
			t.Fatalf("media type %q", m.MediaType)
		}
		var doc struct {
			Config      *Descriptor
			Layers      []Descriptor
			Manifests   []Descriptor
			Subject     *Descriptor
			Annotations map[string]*string
			MediaType   string
		}
		if err := json.Unmarshal(raw, &doc); err != nil {
			return // a field that Parse does not read, such as platform, has another type
		}
		in := map[digest.Digest]bool{}
		if doc.Config != nil {
			in[doc.Config.Digest] = true
		}
		for _, d := range append(doc.Layers, doc.Manifests...) {
			in[d.Digest] = true
		}
		k := kinds[m.MediaType]
		read := map[digest.Digest]bool{}
		for _, list := range [][]Descriptor{m.Blobs, m.Foreign, m.Children} {
			for _, d := range list {
				if !in[d.Digest] && k != kindArtifact {
					t.Errorf("encoding/json does not see %s", d.Digest)
				}
				read[d.Digest] = true
			}
		}
		if !reflect.DeepEqual(read, in) && k != kindArtifact {
			t.Errorf("Parse sees %v, encoding/json %v", read, in)
		}
		if (m.Subject == nil) != (doc.Subject == nil) || m.Subject != nil && m.Subject.Digest != doc.Subject.Digest {
			t.Errorf("subject %v, encoding/json has %v", m.Subject, doc.Subject)
		}
		annotations := map[string]string{} // one that is null is absent
		for name, value := range doc.Annotations {
			if value != nil {
				annotations[name] = *value
			}
		}
		if len(m.Annotations) != len(annotations) || len(m.Annotations) > 0 && !reflect.DeepEqual(m.Annotations, annotations) {
			t.Errorf("annotations %v, encoding/json has %v", m.Annotations, annotations)
		}
		if doc.MediaType != "" && doc.MediaType != m.MediaType {
			t.Errorf("media type %q, encoding/json has %q", m.MediaType, doc.MediaType)
		}
	})
}

// large is the conformance suite's large manifest: 390 annotations of 10,000 bytes.
func large(t testing.TB) []byte {
	m := v1.Manifest{MediaType: v1.MediaTypeImageManifest, Annotations: map[string]string{},
		Config: Descriptor{MediaType: v1.MediaTypeImageConfig, Digest: digest.FromString("c"), Size: 1}, Layers: []Descriptor{}}
	m.SchemaVersion = 2
	for i := range 390 {
		m.Annotations[fmt.Sprintf("org.example.annotation-%d", i)] = strings.Repeat("x", 10_000)
	}
	raw, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestParseLarge(t *testing.T) {
	m, err := Parse(oci.MediaTypeImageManifest, large(t))
	if err != nil || len(m.Annotations) != 390 || len(m.Annotations["org.example.annotation-7"]) != 10_000 {
		t.Fatal(m, err)
	}
}

func BenchmarkParseLarge(b *testing.B) {
	raw := large(b)
	b.SetBytes(int64(len(raw)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Parse(oci.MediaTypeImageManifest, raw); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkParseImage(b *testing.B) {
	raw := read(b, "oci-image")
	b.SetBytes(int64(len(raw)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Parse(oci.MediaTypeImageManifest, raw); err != nil {
			b.Fatal(err)
		}
	}
}
