package dockit

import (
	"net/http/httptest"
	"strings"
	"testing"

	"berth/oci"
)

func TestPattern(t *testing.T) {
	for _, tt := range []struct{ kind, escaped, want string }{
		{"repository", "team_app", "team/app"},
		{"repository", "a_b_c", "a/b/c"},
		{"repository", "team%2Fmy_app", "team/my_app"},
		{"repository", "team%2fmy_app", "team/my_app"},
		{"repository", "my%5Fapp_x", "my_app/x"},
		{"repository", "my%5Fapp", "my_app"},
		{"repository", "plain", "plain"},
		{"namespace", "foo", "foo/*"},
		{"namespace", "foo_a", "foo/a/*"},
		{"repository", "", ""},
		{"repository", "_", ""},
		{"repository", "a__b", ""},
		{"repository", "%zz", ""},
		{"repository", "a%2F..%2Fb", ""},
		{"repository", "a%2A", ""},
		{"repository", "%00", ""},
		{"registry", "catalog", ""},
	} {
		got, err := pattern(tt.kind, tt.escaped)
		if got != tt.want || (err != nil) != (tt.want == "") {
			t.Errorf("%s:%s is %q, %v, want %q", tt.kind, tt.escaped, got, err, tt.want)
		}
	}
}

// Whatever stands in the path: it is understood as what it says, or refused.
func FuzzParse(f *testing.F) {
	for _, path := range []string{"user:a/repository:b_c:pull", "group:g/user:u/add-member", "group:g/namespace:a%2Fb_c:push/", "user:/", "user:a/add"} {
		f.Add(path)
	}
	f.Fuzz(func(t *testing.T, path string) {
		r := httptest.NewRequest("PUT", "/", nil)
		r.URL.Path = Prefix + path
		c, err := parse(r)
		if err != nil {
			return
		}
		if c.kind != "user" && c.kind != "group" || c.name == "" || strings.ContainsAny(c.name+c.member, "/%:\x00") {
			t.Errorf("%q is %+v", path, c)
		}
		if c.target != "" {
			if _, err := oci.ParseName(strings.TrimSuffix(c.target, "/*")); err != nil || c.action != "pull" && c.action != "push" {
				t.Errorf("%q is %+v, %v", path, c, err)
			}
		}
	})
}
