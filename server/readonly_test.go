package server

import (
	"net/http"
	"strings"
	"testing"

	"berth/server/door"
)

// A read-only server answers all reads, and refuses each write as the protocol
// says, after it has asked for the permission.
func TestReadOnly(t *testing.T) {
	var api int
	w := small(t, func(_ *world, o *Options) {
		o.Doors = []door.Door{apiDoor{handler: func(ex door.Exchange, _ *http.Request) error {
			api++
			ex.WriteHeader(http.StatusNoContent)
			return nil
		}}}
	})
	mo := w.jwt("mo", "repository:team/app:pull,push")
	manifest, layer := w.pushImage(mo, "team/app", "1.0")
	w.server.readOnly = true

	// The route is that of the token endpoint, which reads.
	if got := w.do("POST", "/token", "mo", nil).want(t, http.StatusMethodNotAllowed); !strings.Contains(string(got.body), "read-only") {
		t.Errorf("a d.ims.io token: %s", got.body)
	}

	for _, path := range []string{"/v2/", "/v2/team/app/manifests/1.0", "/v2/team/app/blobs/" + layer.String(), "/v2/team/app/tags/list", "/v2/team/app/referrers/" + manifest.String()} {
		w.do("GET", path, mo, nil).want(t, http.StatusOK)
	}
	if w.jwt("mia", "repository:team/app:pull") == "" { // POST and GET of the token endpoint
		t.Error("nobody can sign in")
	}
	writes := []struct{ method, path string }{
		{"POST", "/v2/team/app/blobs/uploads/"},
		{"POST", "/v2/team/new/blobs/uploads/?mount=" + layer.String() + "&from=team/app"},
		{"PATCH", "/v2/team/app/blobs/uploads/0123456789abcdef0123456789abcdef"},
		{"PUT", "/v2/team/app/blobs/uploads/0123456789abcdef0123456789abcdef?digest=" + layer.String()},
		{"DELETE", "/v2/team/app/blobs/uploads/0123456789abcdef0123456789abcdef"},
		{"PUT", "/v2/team/app/manifests/2.0"},
		{"DELETE", "/v2/team/app/manifests/1.0"},
		{"DELETE", "/v2/team/app/blobs/" + layer.String()},
	}
	for _, write := range writes {
		got := w.do(write.method, write.path, "mia", nil).want(t, http.StatusMethodNotAllowed)
		if !strings.Contains(string(got.body), `"UNSUPPORTED"`) || !strings.Contains(string(got.body), "read-only") {
			t.Errorf("%s %s: %s", write.method, write.path, got.body)
		}
		if got := w.do(write.method, write.path, "", nil); got.StatusCode != http.StatusUnauthorized {
			t.Errorf("%s %s of a stranger: %s", write.method, write.path, got.Status)
		}
	}
	// Of the management API only what leaves the registry as it is goes on.
	w.do("GET", "/api/v1/users", "root", nil).want(t, http.StatusNoContent)
	for _, method := range []string{"POST", "PUT", "PATCH", "DELETE"} {
		w.do(method, "/api/v1/users", "root", nil).want(t, http.StatusMethodNotAllowed)
	}
	if api != 1 {
		t.Errorf("the API was called %d times", api)
	}

	// Every route that could write is one of those above.
	exact, _ := w.server.table(w.doors)
	for _, ep := range exact {
		rt := ep.route
		if reads := rt.method == "GET" || rt.method == "HEAD"; !reads && !ep.writes(rt.method) && rt.need != door.Open {
			t.Errorf("%s %s is let through", rt.method, rt.pattern)
		}
	}
}
