package admin

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"strings"

	"berth/api"
	"berth/oci"
)

// etagOf is a strong entity tag of what the API shows of a thing.
func etagOf(v any) *string {
	raw, err := json.Marshal(v)
	if err != nil {
		return nil // what we marshal cannot fail
	}
	sum := sha256.Sum256(raw)
	tag := `"` + base64.RawURLEncoding.EncodeToString(sum[:12]) + `"`
	return &tag
}

// checkMatch compares If-Match with the thing as it is (RFC 9110, section
// 13.1.1). The error is a PRECONDITION_FAILED.
func checkMatch(header *api.IfMatch, v any) error {
	if header == nil {
		return nil
	}
	now := etagOf(v)
	for _, tag := range strings.Split(*header, ",") {
		if tag = strings.TrimSpace(tag); tag == "*" || now != nil && tag == *now {
			return nil
		}
	}
	return oci.Errorf(oci.CodePreconditionFailed, "it has changed since you read it (If-Match does not hold): read it again and repeat the change")
}

// matches is checkMatch for what a change finds before it, shown as the API shows it; nil
// without the header.
func matches[T, S any](header *api.IfMatch, shown func(T) S) func(T) error {
	if header == nil {
		return nil
	}
	return func(before T) error { return checkMatch(header, shown(before)) }
}
