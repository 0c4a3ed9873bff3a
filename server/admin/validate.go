package admin

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"

	"berth/oci"
)

// maxBody is the largest body of a request in bytes.
const maxBody = 1 << 20

// validate checks a request's parameters and body against the document, which
// the generated handlers do not: required and unknown fields, enumerations,
// lengths, the content type. It fills in defaults. The error is an INVALID.
func validate(w http.ResponseWriter, r *http.Request, route *routers.Route, params map[string]string) error {
	if route.Operation.RequestBody == nil && r.ContentLength != 0 {
		return oci.Errorf(oci.CodeInvalid, "this request takes no body. See /api/ for what %s takes", route.Operation.OperationID)
	}
	if route.Operation.RequestBody != nil {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
		var tooLarge *http.MaxBytesError
		if errors.As(err, &tooLarge) {
			return oci.Errorf(oci.CodeInvalid, "the body is larger than %d bytes, which is the limit", tooLarge.Limit)
		}
		if err != nil {
			return oci.Errorf(oci.CodeInvalid, "the body could not be read to its end").WithCause(err)
		}
		// The decoders below stop after the first value and ignore the rest.
		if !json.Valid(body) {
			return oci.Errorf(oci.CodeInvalid, "the body is not JSON: send one JSON object, with the Content-Type application/json")
		}
		if hasNUL(body) {
			return oci.Errorf(oci.CodeInvalid, "a text in the body holds the character NUL (\\u0000), which no text here can: leave it out")
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
	}
	err := openapi3filter.ValidateRequest(r.Context(), &openapi3filter.RequestValidationInput{
		Request:    r,
		PathParams: params,
		Route:      route,
		// Who may call is decided before, by the permission table.
		Options: &openapi3filter.Options{AuthenticationFunc: openapi3filter.NoopAuthenticationFunc},
	})
	if err == nil {
		return nil
	}
	return oci.Errorf(oci.CodeInvalid, "%s. See /api/ for what %s takes", complaint(err), route.Operation.OperationID)
}

// hasNUL reports whether a string of a JSON document, which is valid, holds the
// character NUL: Postgres stores it in no text. Other bytes that are not UTF-8 become
// U+FFFD when they are decoded.
func hasNUL(body []byte) bool {
	if !bytes.Contains(body, []byte(`\u0000`)) {
		return false
	}
	tokens := json.NewDecoder(bytes.NewReader(body))
	for {
		token, err := tokens.Token()
		if err != nil {
			return false // the end
		}
		if s, ok := token.(string); ok && strings.ContainsRune(s, 0) {
			return true
		}
	}
}

// complaint says what the document does not allow. Values stay out of it,
// because one of them may be a password.
func complaint(err error) string {
	what := "the request"
	var request *openapi3filter.RequestError
	if errors.As(err, &request) {
		switch {
		case request.Parameter != nil:
			what = fmt.Sprintf("the parameter %q", request.Parameter.Name)
		case request.RequestBody != nil:
			what = "the body"
		}
	}
	var schema *openapi3.SchemaError
	var parse *openapi3filter.ParseError
	switch {
	case errors.As(err, &schema):
		if field := strings.Join(schema.JSONPointer(), "."); field != "" && what == "the body" {
			what = fmt.Sprintf("the field %q", field)
		}
		return what + " is not valid: " + schema.Reason
	case errors.Is(err, openapi3filter.ErrInvalidRequired):
		return what + " is missing"
	case errors.As(err, &parse):
		return what + " is not valid: it is not of the form that is expected"
	case request != nil && request.RequestBody != nil && request.Reason != "" && request.Err == nil:
		return "the body must be JSON, with the Content-Type application/json"
	}
	return what + " is not valid"
}
