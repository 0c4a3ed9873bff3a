// Package api is the management API's contract: openapi.yaml is the source,
// api.gen.go is what `go generate ./api` makes of it for the server (types, and
// strict handlers on gorilla/mux that package server/admin implements), and
// the package client below has the client that the command line uses.
//
// To change the API, edit openapi.yaml, run `go generate ./api`, and give new
// operations a row in the permission table of server/admin.
package api

import (
	_ "embed"
	"fmt"

	"github.com/getkin/kin-openapi/openapi3"
)

//go:generate go tool oapi-codegen -config server.cfg.yaml openapi.yaml
//go:generate go tool oapi-codegen -config client/client.cfg.yaml openapi.yaml

//go:embed openapi.yaml
var specYAML []byte

// SpecYAML is openapi.yaml as it is written, with its comments. The caller
// must not change it.
func SpecYAML() []byte { return specYAML }

//go:embed dims.yaml
var dimsYAML []byte

// DimsYAML is the document of d.ims.io's API, which package server implements by
// hand, as it is written. The caller must not change it.
func DimsYAML() []byte { return dimsYAML }

// DimsJSON is DimsYAML as JSON.
func DimsJSON() ([]byte, error) {
	spec, err := openapi3.NewLoader().LoadFromData(dimsYAML)
	if err != nil {
		return nil, fmt.Errorf("reading dims.yaml: %w", err)
	}
	return spec.MarshalJSON()
}
