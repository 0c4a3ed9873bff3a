package admin_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"berth/oci"
)

func TestServices(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		root := "root:" + rootPassword
		path := "/api/v1/services/" + url.PathEscape("Docker:registry")
		for range 2 { // PUT is idempotent
			s := w.ok("PUT", path, map[string]any{}).json(t)
			if s["name"] != "Docker:registry" || s["issuer"] != "berth" || s["token_ttl"] != 300.0 || s["algorithm"] != "ES256" || s["anonymous_pull"] != "" || s["refresh_tokens"] != false || s["omit_x5c"] != false {
				t.Errorf("the defaults are %v", s)
			}
		}
		if s := w.ok("PUT", path, map[string]any{"issuer": "dockit", "token_ttl": 600, "algorithm": "ES384", "anonymous_pull": "library/*", "refresh_tokens": true, "omit_x5c": true}).json(t); s["issuer"] != "dockit" || s["token_ttl"] != 600.0 || s["anonymous_pull"] != "library/*" || s["refresh_tokens"] != true || s["omit_x5c"] != true {
			t.Errorf("changed: %v", s)
		}
		// Another algorithm is a new key, which is published beside the old one; it comes with the change, or neither does.
		w.refused(w.do(root, "PUT", path, map[string]any{"algorithm": "RS256"}, "If-Match", `"nonsense"`), 412, oci.CodePreconditionFailed)
		if s := w.ok("GET", path, nil).json(t); s["algorithm"] != "ES384" {
			t.Errorf("after a refused change the algorithm is %v", s["algorithm"])
		}
		keys := map[string]string{}
		for _, k := range w.ok("GET", "/api/v1/keys", nil).json(t)["items"].([]any) {
			k := k.(map[string]any)
			if k["service"] == "Docker:registry" {
				keys[k["algorithm"].(string)] = k["kid"].(string)
			}
		}
		if len(keys) != 2 || keys["ES256"] == "" || keys["ES384"] == "" {
			t.Errorf("keys %v", keys)
		}
		w.ok("PUT", "/api/v1/services/other", map[string]any{})
		first := w.ok("GET", "/api/v1/services?limit=1", nil)
		second := w.ok("GET", "/api/v1/services?limit=1&after="+url.QueryEscape(first.json(t)["next"].(string)), nil)
		if first.names(t, "name") != "Docker:registry" || second.names(t, "name") != "other" || second.json(t)["next"] != nil {
			t.Errorf("pages: %s then %s", first.body, second.body)
		}
		for path, body := range map[string]any{
			"/berth": map[string]any{}, // our own name
			"/a%22b": map[string]any{},
			"/%20a":  map[string]any{},
			"/a":     map[string]any{"algorithm": "EdDSA"},
			"/b":     map[string]any{"algorithm": "HS256"},
			"/c":     map[string]any{"token_ttl": 1},
			"/d":     map[string]any{"token_ttl": 1000000},
			"/e":     map[string]any{"anonymous_pull": "[a-z]"},
			"/f":     map[string]any{"issuer": ""},
			"/g":     map[string]any{"nonsense": true},
		} {
			w.refused(w.do(root, "PUT", "/api/v1/services"+path, body), 400, oci.CodeInvalid)
		}
		if got := w.do(root, "DELETE", path, nil); got.status != http.StatusNoContent {
			t.Errorf("%d %s", got.status, got.body)
		}
		w.refused(w.do(root, "DELETE", path, nil), 404, oci.CodeNotFound, "Docker:registry")
		w.refused(w.do(root, "GET", path, nil), 404, oci.CodeNotFound, "Docker:registry")
		if strings.Contains(string(w.ok("GET", "/api/v1/keys", nil).body), "Docker:registry") {
			t.Error("the keys of a service that is gone are there")
		}
	})
}

func TestKeys(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		root := "root:" + rootPassword
		w.ok("PUT", "/api/v1/services/one", map[string]any{})
		rotate := func(body map[string]any) answer {
			t.Helper()
			return w.do(root, "POST", "/api/v1/keys", body)
		}
		pending := rotate(map[string]any{"service": "one", "algorithm": "RS256", "delay": 3600})
		if k := pending.json(t); pending.status != http.StatusCreated || k["state"] != "published" || k["algorithm"] != "RS256" || k["source"] != "generated" || k["service"] != "one" {
			t.Errorf("%d %s", pending.status, pending.body)
		}
		_, private, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		der, err := x509.MarshalPKCS8PrivateKey(private)
		if err != nil {
			t.Fatal(err)
		}
		text := string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
		own := rotate(map[string]any{"private_key": text, "delay": 0})
		if k := own.json(t); own.status != http.StatusCreated || k["state"] != "signing" || k["algorithm"] != "EdDSA" || k["source"] != "imported" || k["service"] != nil {
			t.Errorf("%d %s", own.status, own.body)
		}
		w.ok("GET", "/api/v1/whoami", nil) // with a token that the new key signs
		for _, body := range []map[string]any{
			{"service": "one", "private_key": text}, // Ed25519 is ours alone
			{"private_key": "nonsense"},
			{"private_key": text, "algorithm": "EdDSA"},
			{"algorithm": "none"},
			{"delay": -1},
		} {
			got := rotate(body)
			w.refused(got, 400, oci.CodeInvalid)
			if strings.Contains(string(got.body), text[30:60]) {
				t.Errorf("the answer repeats the key: %s", got.body)
			}
		}
		w.refused(rotate(map[string]any{"service": "nope"}), 404, oci.CodeNotFound, "nope")
		list := w.ok("GET", "/api/v1/keys", nil)
		if strings.Contains(string(list.body), "PRIVATE") || len(list.json(t)["items"].([]any)) != 4 {
			t.Errorf("%s", list.body)
		}
		retire := func(kid any, service string) answer {
			return w.do(root, "DELETE", "/api/v1/keys/"+kid.(string)+"?service="+service, nil)
		}
		w.refused(retire(pending.json(t)["kid"], ""), 404, oci.CodeNotFound)
		if got := retire(pending.json(t)["kid"], "one"); got.status != http.StatusNoContent {
			t.Errorf("%d %s", got.status, got.body)
		}
		for _, k := range w.ok("GET", "/api/v1/keys", nil).json(t)["items"].([]any) {
			if k := k.(map[string]any); k["service"] == "one" {
				w.refused(retire(k["kid"], "one"), 409, oci.CodeConflict)
			}
		}
	})
}
