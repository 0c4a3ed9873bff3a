package api

import (
	"encoding/json"
	"fmt"
)

// Recast gives a value in another type that has the same JSON: the document uses the
// registry's own, so the server writes its reports as types of this package, and
// the command line reads them back to print what it prints without a server.
func Recast[T any](v any) (T, error) {
	var out T
	text, err := json.Marshal(v)
	if err == nil {
		err = json.Unmarshal(text, &out)
	}
	if err != nil {
		err = fmt.Errorf("the server's answer is not what was expected, is it of another version? %w", err)
	}
	return out, err
}
