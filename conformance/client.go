package conformance

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"
)

// insecure is a client that takes any certificate and follows no redirect.
var insecure = newHTTPClient()

func newHTTPClient() *http.Client {
	return &http.Client{
		Timeout: 10 * time.Minute, // a slow disk takes minutes for the largest uploads
		Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, MaxIdleConnsPerHost: 100,
			IdleConnTimeout: time.Minute}, // less than the server's, which would close one that is just being used
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// Client speaks the protocol by hand, so that a test sees every status,
// header and byte. Every answer is checked for what holds for all of them:
// see check.
type Client struct {
	t    testing.TB
	base string
	user string // "" sends no credentials
	pass string
	http *http.Client

	unavailable bool // 503 is an answer that a test expects
}

// Admin is a client with the rights of the user admin.
func (s *Server) Admin(t testing.TB) *Client { return s.As(t, "admin", AdminPassword) }

// As is a client with Basic credentials.
func (s *Server) As(t testing.TB, user, password string) *Client {
	return &Client{t: t, base: s.URL, user: user, pass: password, http: insecure}
}

// Unavailable is the same client for when the server is in trouble: no other answer of
// a server's mistake than 503 is right then.
func (c *Client) Unavailable() *Client {
	d := *c
	d.unavailable = true
	return &d
}

// Anonymous is a client without credentials.
func (s *Server) Anonymous(t testing.TB) *Client { return s.As(t, "", "") }

// Response is an answer, read to its end.
type Response struct {
	t      testing.TB
	what   string
	Status int
	Header http.Header
	Body   []byte
}

// Do sends a request. path is a path on the server or an absolute URL, as
// Location headers give either. headers are "Name: value".
func (c *Client) Do(method, path string, body []byte, headers ...string) *Response {
	c.t.Helper()
	return c.Stream(method, path, bytes.NewReader(body), int64(len(body)), headers...)
}

// Stream is Do with a body that is read as it goes; length -1 sends it chunked.
func (c *Client) Stream(method, path string, body io.Reader, length int64, headers ...string) *Response {
	c.t.Helper()
	res, err := c.TryStream(method, path, body, length, headers...)
	if err != nil {
		c.t.Fatalf("%s %s: %v", method, path, err)
	}
	return res
}

// TryStream is Stream for requests that may fail to get an answer.
func (c *Client) TryStream(method, path string, body io.Reader, length int64, headers ...string) (*Response, error) {
	c.t.Helper()
	target := path
	if strings.HasPrefix(path, "/") {
		target = c.base + path
	}
	if length == 0 {
		body = http.NoBody
	}
	req, err := http.NewRequest(method, target, body)
	if err != nil {
		return nil, err
	}
	req.ContentLength = length
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Set(name, value)
	}
	if c.user != "" && req.Header.Get("Authorization") == "" {
		req.SetBasicAuth(c.user, c.pass)
	}
	res, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	b, err := drain(res.Body)
	if err != nil {
		return nil, fmt.Errorf("reading the answer: %w", err)
	}
	r := &Response{t: c.t, what: method + " " + path, Status: res.StatusCode, Header: res.Header, Body: b}
	r.check(req, c.unavailable)
	return r, nil
}

// The error codes of the specification, and those of this registry.
var errorCode = regexp.MustCompile(`^[A-Z_]+$`)

// check asserts what the specification says of every answer.
func (r *Response) check(req *http.Request, unavailable bool) {
	r.t.Helper()
	if r.Status >= 400 && req.Method != http.MethodHead && strings.HasPrefix(req.URL.Path, "/v2/") {
		errs := r.Errors()
		if len(errs) == 0 {
			r.t.Errorf("%s: %d without an error in its body: %q", r.what, r.Status, clip(r.Body))
		}
		for _, e := range errs {
			if !errorCode.MatchString(e.Code) || e.Message == "" {
				r.t.Errorf("%s: %d with the error code %q and the message %q", r.what, r.Status, e.Code, e.Message)
			}
		}
		// What follows the error that clients decide by is another name for the same.
		if len(errs) > 0 && (len(errs[0].Detail) == 0 || string(errs[0].Detail) == "null") {
			r.t.Errorf("%s: %d %s has no detail that names the rule", r.what, r.Status, errs[0].Code)
		}
	}
	if r.Status >= 500 && !(unavailable && r.Status == http.StatusServiceUnavailable) {
		r.t.Errorf("%s: status %d: %s", r.what, r.Status, clip(r.Body))
	}
	if r.Status == http.StatusUnauthorized && r.Header.Get("WWW-Authenticate") == "" {
		r.t.Errorf("%s: 401 without WWW-Authenticate (RFC 9110, 15.5.2)", r.what)
	}
	warnings := 0
	for _, w := range r.Header.Values("Warning") {
		warnings += len(w)
		if !strings.HasPrefix(w, "299 - ") {
			r.t.Errorf("%s: warning %q does not start with 299 -", r.what, w)
		}
	}
	if warnings > 4096 {
		r.t.Errorf("%s: %d bytes of warnings, at most 4096 are allowed", r.what, warnings)
	}
}

// Want asserts the status and returns the response.
func (r *Response) Want(status int) *Response {
	r.t.Helper()
	if r.Status != status {
		r.t.Fatalf("%s: status %d, want %d: %s", r.what, r.Status, status, clip(r.Body))
	}
	return r
}

// WantError asserts the status and the error code.
func (r *Response) WantError(status int, code string) *Response {
	r.t.Helper()
	r.Want(status)
	for _, e := range r.Errors() {
		if e.Code == code {
			return r
		}
	}
	r.t.Fatalf("%s: %d without the error code %s: %s", r.what, r.Status, code, clip(r.Body))
	return r
}

// WantHeader asserts a header's value.
func (r *Response) WantHeader(name, value string) *Response {
	r.t.Helper()
	if got := r.Header.Get(name); got != value {
		r.t.Errorf("%s: %s is %q, want %q", r.what, name, got, value)
	}
	return r
}

// WantBody asserts the body, byte for byte.
func (r *Response) WantBody(body []byte) *Response {
	r.t.Helper()
	if !bytes.Equal(r.Body, body) {
		r.t.Errorf("%s: the body has %d bytes and differs from the %d expected: %q", r.what, len(r.Body), len(body), clip(r.Body))
	}
	return r
}

// Location is the Location header as an absolute URL.
func (r *Response) Location(c *Client) string {
	r.t.Helper()
	loc := r.Header.Get("Location")
	if loc == "" {
		r.t.Fatalf("%s: %d without Location", r.what, r.Status)
	}
	base, err := url.Parse(c.base)
	if err != nil {
		r.t.Fatal(err)
	}
	u, err := base.Parse(loc)
	if err != nil {
		r.t.Fatalf("%s: Location %q: %v", r.what, loc, err)
	}
	return u.String()
}

// An ErrorItem is an element of an error body.
type ErrorItem struct {
	Code    string          `json:"code"`
	Message string          `json:"message"`
	Detail  json.RawMessage `json:"detail"`
}

// Errors reads the error body; a body that has another form gives none.
func (r *Response) Errors() []ErrorItem {
	var body struct {
		Errors []ErrorItem `json:"errors"`
	}
	if json.Unmarshal(r.Body, &body) != nil {
		return nil
	}
	return body.Errors
}

// JSON reads the body into v.
func (r *Response) JSON(v any) *Response {
	r.t.Helper()
	if err := json.Unmarshal(r.Body, v); err != nil {
		r.t.Fatalf("%s: the body is not the JSON expected: %v: %s", r.what, err, clip(r.Body))
	}
	return r
}

// Next is the target of the Link header with rel="next", or "".
func (r *Response) Next(c *Client) string {
	r.t.Helper()
	link := r.Header.Get("Link")
	if link == "" {
		return ""
	}
	m := regexp.MustCompile(`^<([^>]+)>; *rel="?next"?$`).FindStringSubmatch(link)
	if m == nil {
		r.t.Fatalf("%s: Link %q is not a link with rel=\"next\" (RFC 8288)", r.what, link)
	}
	base, _ := url.Parse(c.base)
	u, err := base.Parse(m[1])
	if err != nil {
		r.t.Fatalf("%s: Link %q: %v", r.what, link, err)
	}
	return u.String()
}

func clip(b []byte) string {
	if len(b) > 500 {
		return string(b[:500]) + "…"
	}
	return string(b)
}

// sha256Of and sha512Of give the digest of bytes.
func sha256Of(b []byte) string {
	sum := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(sum[:])
}

func sha512Of(b []byte) string {
	sum := sha512.Sum512(b)
	return "sha512:" + hex.EncodeToString(sum[:])
}

// with adds query parameters ("key=value", escaped already) to a URL.
func with(target string, query ...string) string {
	sep := "?"
	if strings.Contains(target, "?") {
		sep = "&"
	}
	return target + sep + strings.Join(query, "&")
}

// PushBlob pushes a blob with a single POST and gives its digest.
func (c *Client) PushBlob(repo string, content []byte) string {
	c.t.Helper()
	d := sha256Of(content)
	c.Do("POST", "/v2/"+repo+"/blobs/uploads/?digest="+d, content, "Content-Type: application/octet-stream").Want(201)
	return d
}

// StartUpload opens an upload session and gives its URL.
func (c *Client) StartUpload(repo string, query ...string) string {
	c.t.Helper()
	path := "/v2/" + repo + "/blobs/uploads/"
	if len(query) > 0 {
		path = with(path, query...)
	}
	return c.Do("POST", path, nil).Want(202).Location(c)
}

// Media types of the images made here.
const (
	typeManifest   = "application/vnd.oci.image.manifest.v1+json"
	typeIndex      = "application/vnd.oci.image.index.v1+json"
	typeConfig     = "application/vnd.oci.image.config.v1+json"
	typeLayer      = "application/vnd.oci.image.layer.v1.tar"
	typeDocker     = "application/vnd.docker.distribution.manifest.v2+json"
	typeDockerList = "application/vnd.docker.distribution.manifest.list.v2+json"
	typeEmpty      = "application/vnd.oci.empty.v1+json"
)

// A Descriptor of the image specification, in the order that Go prints.
type Descriptor struct {
	MediaType    string            `json:"mediaType"`
	Digest       string            `json:"digest"`
	Size         int               `json:"size"`
	URLs         []string          `json:"urls,omitempty"`
	Data         []byte            `json:"data,omitempty"`
	ArtifactType string            `json:"artifactType,omitempty"`
	Annotations  map[string]string `json:"annotations,omitempty"`
	Platform     map[string]string `json:"platform,omitempty"`
}

// Image is an image manifest, or an index when Manifests is not nil.
type Image struct {
	SchemaVersion int               `json:"schemaVersion"`
	MediaType     string            `json:"mediaType,omitempty"`
	ArtifactType  string            `json:"artifactType,omitempty"`
	Config        *Descriptor       `json:"config,omitempty"`
	Layers        []Descriptor      `json:"layers,omitzero"`
	Manifests     []Descriptor      `json:"manifests,omitzero"`
	Subject       *Descriptor       `json:"subject,omitempty"`
	Annotations   map[string]string `json:"annotations,omitempty"`
	Comment       string            `json:"org.example.comment,omitempty"` // a field that no specification knows
}

// Bytes is the manifest as it is pushed.
func (m Image) Bytes() []byte {
	b, err := json.MarshalIndent(m, "", "   ")
	if err != nil {
		panic(err) // strings and numbers only
	}
	return b
}

// describe makes the descriptor of bytes.
func describe(mediaType string, content []byte) Descriptor {
	return Descriptor{MediaType: mediaType, Digest: sha256Of(content), Size: len(content)}
}

// MakeImage pushes a config and layers of random bytes and gives the manifest
// over them, which is not pushed yet.
func (c *Client) MakeImage(repo string, layers int) Image {
	c.t.Helper()
	config := []byte(fmt.Sprintf(`{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]},"x":%q}`, hex.EncodeToString(random(16))))
	c.PushBlob(repo, config)
	d := describe(typeConfig, config)
	m := Image{SchemaVersion: 2, MediaType: typeManifest, Config: &d, Layers: []Descriptor{}}
	for range layers {
		layer := random(300)
		c.PushBlob(repo, layer)
		m.Layers = append(m.Layers, describe(typeLayer, layer))
	}
	return m
}

// PushManifest puts a manifest under a tag or digest and wants a 201.
func (c *Client) PushManifest(repo, ref, mediaType string, raw []byte) *Response {
	c.t.Helper()
	return c.PutManifest(repo, ref, mediaType, raw).Want(201)
}

// PutManifest puts a manifest and wants nothing.
func (c *Client) PutManifest(repo, ref, mediaType string, raw []byte) *Response {
	c.t.Helper()
	return c.Do("PUT", "/v2/"+repo+"/manifests/"+ref, raw, "Content-Type: "+mediaType)
}

// PushImage pushes a new image under a tag and gives the manifest and its digest.
func (c *Client) PushImage(repo, tag string) (raw []byte, digest string) {
	c.t.Helper()
	raw = c.MakeImage(repo, 1).Bytes()
	c.PushManifest(repo, tag, typeManifest, raw)
	return raw, sha256Of(raw)
}
