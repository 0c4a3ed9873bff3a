package admin

import (
	"bytes"
	"html/template"
	"net/http"
	"sort"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/gorilla/mux"

	"berth/api"
)

// documents serves what describes the API: a page at /api/, and the OpenAPI
// document as JSON and as YAML. They hold nothing of this instance, so that
// everybody may read them.
func (h *handler) documents(router *mux.Router, spec *openapi3.T) error {
	asJSON, err := api.GetSpecJSON()
	if err != nil {
		return err
	}
	page, err := render(spec)
	if err != nil {
		return err
	}
	for path, document := range map[string]struct {
		contentType string
		body        []byte
	}{
		"/api/":             {"text/html; charset=utf-8", page},
		"/api/openapi.json": {"application/json", asJSON},
		"/api/openapi.yaml": {"application/yaml", api.SpecYAML()},
	} {
		router.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", document.contentType)
			w.Header().Set("X-Content-Type-Options", "nosniff")
			w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
			_, _ = w.Write(document.body) // fails only when the client is gone
		}).Methods(http.MethodGet, http.MethodHead)
	}
	router.Handle("/api", http.RedirectHandler("/api/", http.StatusMovedPermanently)).Methods(http.MethodGet, http.MethodHead)
	return nil
}

// listed is an operation on the page.
type listed struct{ Method, Path, ID, Summary, Description string }

// render makes the page: the document's introduction and its operations.
func render(spec *openapi3.T) ([]byte, error) {
	byTag := map[string][]listed{}
	for path, item := range spec.Paths.Map() {
		for method, op := range item.Operations() {
			byTag[op.Tags[0]] = append(byTag[op.Tags[0]], listed{method, base + path, op.OperationID, op.Summary, op.Description})
		}
	}
	type section struct {
		Name, Description string
		Operations        []listed
	}
	var sections []section
	for _, tag := range spec.Tags {
		list := byTag[tag.Name]
		sort.Slice(list, func(i, j int) bool {
			if list[i].Path != list[j].Path {
				return list[i].Path < list[j].Path
			}
			return list[i].Method < list[j].Method
		})
		sections = append(sections, section{tag.Name, tag.Description, list})
	}
	var out bytes.Buffer
	err := pageTemplate.Execute(&out, map[string]any{"Info": spec.Info, "Sections": sections})
	return out.Bytes(), err
}

var pageTemplate = template.Must(template.New("api").Parse(`<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{{.Info.Title}}</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
pre { white-space: pre-wrap; font: inherit; }
code { background: #8882; padding: 0 .3em; }
dd { margin: 0 0 .8rem 1rem; }
</style>
<h1>{{.Info.Title}}</h1>
<p>The whole document: <a href="/api/openapi.json">openapi.json</a>, <a href="/api/openapi.yaml">openapi.yaml</a>.</p>
<pre>{{.Info.Description}}</pre>
{{range .Sections}}<h2>{{.Name}}</h2>
<p>{{.Description}}</p>
<dl>
{{range .Operations}}<dt id="{{.ID}}"><code>{{.Method}} {{.Path}}</code></dt>
<dd>{{.Summary}}.{{with .Description}} {{.}}{{end}}</dd>
{{end}}</dl>
{{end}}</html>
`))
