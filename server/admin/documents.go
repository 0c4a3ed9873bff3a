package admin

import (
	"bytes"
	"compress/gzip"
	"embed"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"path"
	"strings"

	"github.com/gorilla/mux"
	"github.com/swaggest/swgui/v5/static"

	"berth/api"
	"berth/server/door"
)

// ui is the page that shows the documents, and what starts Swagger UI on it.
//
//go:embed ui
var ui embed.FS

// uiPolicy lets the page load what comes from here, and nothing else: no inline
// script, no other host. Swagger UI sets styles on elements, and has images in its CSS.
const uiPolicy = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// document is a file that is served as it is.
type document struct {
	contentType string
	body        *io.SectionReader // what is embedded stays where it is, rather than on the heap
	gzipped     bool
}

// inMemory is a document that is made, not read from an embedded file.
func inMemory(contentType string, body []byte) document {
	return document{contentType: contentType, body: io.NewSectionReader(bytes.NewReader(body), 0, int64(len(body)))}
}

// addDocuments serves what describes the API: Swagger UI at /api/, the OpenAPI
// documents as JSON and as YAML, and the names that d.ims.io and Pier One had for
// them. They hold nothing of this instance, so that everybody may read them.
func (h *Admin) addDocuments(router *mux.Router) error {
	files, err := uiFiles()
	if err != nil {
		return err
	}
	asJSON, err := api.GetSpecJSON()
	if err != nil {
		return err
	}
	dims, err := api.DimsJSON()
	if err != nil {
		return err
	}
	page, err := h.page(files["/api/"])
	if err != nil {
		return err
	}
	router.Handle("/api/", page).Methods(http.MethodGet, http.MethodHead)
	delete(files, "/api/")
	files["/api/openapi.json"] = inMemory("application/json", asJSON)
	files["/api/openapi.yaml"] = inMemory("application/yaml", api.SpecYAML())
	files["/swagger.json"] = inMemory("application/json", dims)
	for path, d := range files {
		router.Handle(path, d).Methods(http.MethodGet, http.MethodHead)
	}
	toPage := http.RedirectHandler("/api/", http.StatusMovedPermanently)
	for _, path := range []string{"/api", "/ui", "/ui/"} {
		router.Handle(path, toPage).Methods(http.MethodGet, http.MethodHead)
	}
	return nil
}

// uiTypes are the content types of the page's files. The table of package mime is the
// machine's, and takes half a MB.
var uiTypes = map[string]string{
	".html": "text/html; charset=utf-8",
	".js":   "text/javascript; charset=utf-8",
	".css":  "text/css; charset=utf-8",
	".png":  "image/png",
}

// uiFiles are the page and those files of Swagger UI that it loads, by path.
func uiFiles() (map[string]document, error) {
	files := map[string]document{}
	for name, from := range map[string]fs.FS{
		"ui/index.html": ui, "ui/init.js": ui,
		"swagger-ui.css.gz": static.FS, "swagger-ui-bundle.js.gz": static.FS, "swagger-ui-standalone-preset.js.gz": static.FS,
		"favicon-32x32.png": static.FS,
	} {
		body, err := embedded(from, name)
		if err != nil {
			return nil, err
		}
		plain, gzipped := strings.CutSuffix(path.Base(name), ".gz")
		contentType, ok := uiTypes[path.Ext(plain)]
		if !ok {
			return nil, fmt.Errorf("%s has no content type here", name)
		}
		if plain == "index.html" {
			plain = ""
		}
		files["/api/"+plain] = document{contentType, body, gzipped}
	}
	return files, nil
}

// page serves the page, with the token of who is signed in with this browser.
func (h *Admin) page(d document) (http.Handler, error) {
	text, err := io.ReadAll(d.body)
	if err != nil {
		return nil, err
	}
	before, after, ok := strings.Cut(string(text), "{page-token}")
	if !ok {
		return nil, fmt.Errorf("the page has no place for its token")
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		token := door.Of(r.Context()).PageToken(r)
		header := w.Header()
		header.Set("Content-Type", d.contentType)
		header.Set("Content-Security-Policy", uiPolicy)
		header.Set("Cross-Origin-Opener-Policy", "same-origin")
		header.Set("Cache-Control", "no-store") // the token is one person's
		_, _ = io.WriteString(w, before+token+after)
	}), nil
}

// embedded opens a file of an embed.FS, which needs no closing.
func embedded(from fs.FS, name string) (*io.SectionReader, error) {
	f, err := from.Open(name)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	at, ok := f.(io.ReaderAt)
	if !ok {
		return nil, fmt.Errorf("%s is not embedded", name)
	}
	return io.NewSectionReader(at, 0, info.Size()), nil
}

// ServeHTTP implements http.Handler.
func (d document) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Type", d.contentType)
	h.Set("Cache-Control", "no-cache") // a new version has new files under the same names
	var body io.Reader = io.NewSectionReader(d.body, 0, d.body.Size())
	if d.gzipped {
		h.Set("Vary", "Accept-Encoding")
		if strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
			h.Set("Content-Encoding", "gzip")
		} else if plain, err := gzip.NewReader(body); err == nil { // else it is what we embedded, and a browser says so
			body = plain
		}
	}
	_, _ = io.Copy(w, body) // fails only when the client is gone
}
