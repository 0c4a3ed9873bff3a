package conformance

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"mime"
	"mime/multipart"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/containerd/stargz-snapshotter/estargz"

	"berth/testenv"
)

// partialStores are the servers that partial pulls are tried against. Redirects lead to another host name than the
// server's: see server.redirectBlob.
var partialStores = []struct {
	name    string
	variant Variant
	env     []string
}{
	{"directory", Embedded, nil},
	{"s3", Distributed, nil},
	{"s3 with redirects", Distributed, []string{"BERTH_STORAGE_REDIRECT=true"}},
}

// The content of an image of 110 files of 100,000 bytes, of which version 2 has four others: 3.6 %.
const partialFiles, partialSize = 110, 100_000

var partialChanged = []int{7, 33, 60, 99}

func partialName(i int) string { return fmt.Sprintf("f%03d", i) }

func partialFile(i, version int) []byte {
	seed := uint64(i)
	for _, c := range partialChanged {
		if version > 1 && c == i {
			seed += 1000
		}
	}
	content, _ := io.ReadAll(seeded(seed, partialSize)) // does not fail
	return content
}

// partialTar is the image's layer.
func partialTar(t *testing.T, version int) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for i := range partialFiles {
		err := w.WriteHeader(&tar.Header{Name: partialName(i), Mode: 0o644, Size: partialSize})
		if err == nil {
			_, err = w.Write(partialFile(i, version))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// blobBytes is what a server has sent of blobs.
func blobBytes(t *testing.T, c *Client) int64 {
	t.Helper()
	m := regexp.MustCompile(`(?m)^registry_http_response_size_bytes_sum\{handler="blob"\} (\S+)$`).FindSubmatch(c.Do("GET", "/metrics", nil).Want(200).Body)
	if m == nil {
		return 0
	}
	n, err := strconv.ParseFloat(string(m[1]), 64)
	if err != nil {
		t.Fatal(err)
	}
	return int64(n)
}

// TestPodmanPartialPull: podman, with partial pulls enabled, fetches of a zstd:chunked image only what it has not of
// another one, with several ranges in one request.
func TestPodmanPartialPull(t *testing.T) {
	t.Parallel()
	testenv.NeedRoot(t, "run podman with a store of its own")
	podman := testenv.Tool(t, "podman")
	for _, v := range partialStores {
		t.Run(v.name, func(t *testing.T) {
			s := NewBackend(t, v.variant).Start(t, v.env...)
			c := s.Admin(t)
			host := strings.Replace(s.Host, "127.0.0.1", "localhost", 1)
			b := newBox(t)
			conf := filepath.Join(b.home, "storage.conf")
			text := fmt.Sprintf("[storage]\ndriver = \"overlay\"\ngraphroot = %q\nrunroot = %q\n[storage.options]\npull_options = {enable_partial_images = \"true\", use_hard_links = \"false\", ostree_repos = \"\"}\n",
				filepath.Join(b.home, "store"), filepath.Join(b.home, "runroot"))
			if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			b.env = append(b.env, "CONTAINERS_STORAGE_CONF="+conf)
			if out, err := b.try(podman, "info", "--format", "{{.Store.GraphDriverName}}"); err != nil || strings.TrimSpace(out) != "overlay" {
				unable := t.Skipf
				if os.Getenv("CI") != "" {
					unable = t.Fatalf
				}
				unable("podman has no overlay here: %v %s", err, tail(out, 5))
			}
			auth := "--authfile=" + filepath.Join(b.home, "auth.json")
			if out, err := b.tryIn(AdminPassword, podman, "login", auth, "--tls-verify=false", "-u", "admin", "--password-stdin", host); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			ref := func(version int) string { return fmt.Sprintf("%s/partial/app:%d", host, version) }
			for version := 1; version <= 2; version++ {
				layer := filepath.Join(b.home, "layer.tar")
				if err := os.WriteFile(layer, partialTar(t, version), 0o600); err != nil {
					t.Fatal(err)
				}
				local := fmt.Sprintf("localhost/app:%d", version)
				b.run(podman, "import", "-q", layer, local)
				b.run(podman, "push", auth, "--tls-verify=false", "--compression-format", "zstd:chunked", local, ref(version))
			}
			b.run(podman, "rmi", "-f", "-a")
			b.run(podman, "pull", auth, "--tls-verify=false", ref(1))
			before := blobBytes(t, c)
			out := b.run(podman, "--log-level=debug", "pull", auth, "--tls-verify=false", ref(2))
			fetched := blobBytes(t, c) - before
			if !strings.Contains(out, "Retrieved partial blob") {
				t.Errorf("no partial pull:\n%s", tail(out, 30))
			}
			testenv.Report(t, "podman, zstd:chunked, %s: %d bytes of blobs for a change of 3.6 %% of %d", v.name, fetched, partialFiles*partialSize)
			if least, most := int64(len(partialChanged)*partialSize), int64(len(partialChanged)*partialSize*5/4); fetched < least || fetched > most {
				t.Errorf("%d bytes were fetched, want %d to %d", fetched, least, most)
			}
			mounted := strings.TrimSpace(b.run(podman, "image", "mount", ref(2)))
			defer func() { _, _ = b.try(podman, "image", "unmount", "-f", ref(2)) }()
			for i := range partialFiles {
				if got, err := os.ReadFile(filepath.Join(mounted, partialName(i))); err != nil || !bytes.Equal(got, partialFile(i, 2)) {
					t.Fatalf("%s: %d bytes, %v", partialName(i), len(got), err)
				}
			}
		})
	}
}

// lazy reads a blob as containerd's stargz snapshotter does: a first request for two bytes, whose answer says where the
// blob is, and there one request for all ranges that are missing; what it gets may be one part, several, or everything.
type lazy struct {
	t       *testing.T
	url     string
	sign    func(*http.Request)
	have    map[int64][]byte // by offset
	fetched int
}

func newLazy(t *testing.T, c *Client, path string) *lazy {
	l := &lazy{t: t, url: c.base + path, have: map[int64][]byte{}, sign: func(r *http.Request) { r.SetBasicAuth(c.user, c.pass) }}
	res, _ := l.get("bytes=0-1")
	switch res.StatusCode {
	case http.StatusPartialContent, http.StatusOK:
	case http.StatusTemporaryRedirect:
		l.url, l.sign = res.Header.Get("Location"), func(*http.Request) {}
	default:
		t.Fatalf("the first request: %s", res.Status)
	}
	return l
}

func (l *lazy) get(ranges string) (*http.Response, []byte) {
	l.t.Helper()
	r, err := http.NewRequest("GET", l.url, nil)
	if err != nil {
		l.t.Fatal(err)
	}
	l.sign(r)
	r.Header.Set("Range", ranges)
	r.Header.Set("Accept-Encoding", "identity")
	r.Close = true
	res, err := http.DefaultTransport.RoundTrip(r) // follows nothing
	if err != nil {
		l.t.Fatal(err)
	}
	body, err := drain(res.Body)
	if err != nil {
		l.t.Fatal(err)
	}
	l.fetched += len(body)
	return res, body
}

// fetch gets parts of the blob with one request.
func (l *lazy) fetch(parts [][2]int64) (status int, kind string) {
	l.t.Helper()
	var specs []string
	for _, p := range parts {
		specs = append(specs, fmt.Sprintf("%d-%d", p[0], p[0]+p[1]-1))
	}
	res, body := l.get("bytes=" + strings.Join(specs, ","))
	keep := func(contentRange string, content []byte) {
		var from, to, size int64
		if _, err := fmt.Sscanf(contentRange, "bytes %d-%d/%d", &from, &to, &size); err != nil || to-from+1 != int64(len(content)) {
			l.t.Fatalf("%d bytes with Content-Range %q: %v", len(content), contentRange, err)
		}
		l.have[from] = content
	}
	kind, params, err := mime.ParseMediaType(res.Header.Get("Content-Type"))
	if err != nil {
		l.t.Fatal(err)
	}
	switch {
	case res.StatusCode == http.StatusOK:
		l.have[0] = body
	case res.StatusCode != http.StatusPartialContent:
		l.t.Fatalf("several ranges: %s %s", res.Status, clip(body))
	case kind == "multipart/byteranges":
		for m := multipart.NewReader(bytes.NewReader(body), params["boundary"]); ; {
			p, err := m.NextRawPart()
			if err == io.EOF {
				break
			}
			if err != nil {
				l.t.Fatal(err)
			}
			content, err := io.ReadAll(p)
			if err != nil {
				l.t.Fatal(err)
			}
			keep(p.Header.Get("Content-Range"), content)
		}
	default:
		keep(res.Header.Get("Content-Range"), body)
	}
	return res.StatusCode, kind
}

// ReadAt implements io.ReaderAt with what is there, or one request.
func (l *lazy) ReadAt(p []byte, at int64) (int, error) {
	for {
		for from, content := range l.have {
			if from <= at && at+int64(len(p)) <= from+int64(len(content)) {
				return copy(p, content[at-from:]), nil
			}
		}
		l.fetch([][2]int64{{at, int64(len(p))}})
	}
}

// TestLazyPullOfEstargz: the files of an estargz layer that changed are read as containerd's stargz snapshotter reads them.
func TestLazyPullOfEstargz(t *testing.T) {
	t.Parallel()
	for _, v := range partialStores {
		t.Run(v.name, func(t *testing.T) {
			s := NewBackend(t, v.variant).Start(t, v.env...)
			c := s.Admin(t)
			c.base = strings.Replace(c.base, "127.0.0.1", "localhost", 1)
			plain := partialTar(t, 2)
			built, err := estargz.Build(io.NewSectionReader(bytes.NewReader(plain), 0, int64(len(plain))))
			if err != nil {
				t.Fatal(err)
			}
			defer built.Close()
			layer, err := io.ReadAll(built)
			if err != nil {
				t.Fatal(err)
			}
			const repo = "partial/estargz"
			d := c.PushBlob(repo, layer)
			l := newLazy(t, c, "/v2/"+repo+"/blobs/"+d)
			toc, err := estargz.Open(io.NewSectionReader(l, 0, int64(len(layer))))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := toc.VerifyTOC(built.TOCDigest()); err != nil {
				t.Fatal(err)
			}
			var parts [][2]int64
			for _, i := range partialChanged {
				e, ok := toc.Lookup(partialName(i))
				if !ok {
					t.Fatalf("%s is not in the table of contents", partialName(i))
				}
				parts = append(parts, [2]int64{e.Offset, e.NextOffset() - e.Offset})
			}
			rand.Shuffle(len(parts), func(i, j int) { parts[i], parts[j] = parts[j], parts[i] })
			status, kind := l.fetch(parts)
			before := l.fetched
			for _, i := range partialChanged {
				f, err := toc.OpenFile(partialName(i))
				if err != nil {
					t.Fatal(err)
				}
				if got, err := io.ReadAll(io.NewSectionReader(f, 0, partialSize)); err != nil || !bytes.Equal(got, partialFile(i, 2)) {
					t.Errorf("%s: %d bytes, %v", partialName(i), len(got), err)
				}
			}
			if l.fetched != before {
				t.Errorf("%d bytes were asked for again", l.fetched-before)
			}
			testenv.Report(t, "stargz, %s: %d bytes for %d files of %d, with %d %s", v.name, l.fetched, len(partialChanged), partialFiles, status, kind)
			if status != 206 || kind != "multipart/byteranges" || l.fetched > len(layer)/10 {
				t.Errorf("%d %s, %d bytes of %d", status, kind, l.fetched, len(layer))
			}
		})
	}
}
