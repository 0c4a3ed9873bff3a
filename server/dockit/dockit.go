// Package dockit serves the administration API of Dockit, a token server whose
// clients go on to work with Berth: users, groups and their rights, under
// /v2/admin/. It has no facts of its own. What it changes are the users, groups and
// grants that the management API (server/admin) shows.
//
// Paths, methods, the envelope of the answers and the statuses of successes are
// Dockit's. Failures have the status that belongs to them, where Dockit's was mostly
// 500. Package server has checked before that the caller is an administrator.
// Start with [Dockit.Routes] and operation.
package dockit

import (
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strings"

	"berth/auth"
	"berth/metadata"
	"berth/oci"
	"berth/people"
	"berth/server/door"
)

// Prefix is the path of everything here.
const Prefix = "/v2/admin/"

// maxBody bounds a request's body, in bytes. It holds a password.
const maxBody = 16 << 10

// Dockit is the door. It is safe for concurrent use.
type Dockit struct{ people *people.People }

// New makes the door. All that it changes and shows goes through people.
func New(p *people.People) *Dockit { return &Dockit{p} }

// Face implements [door.Door]. An error is Dockit's envelope with its text.
func (h *Dockit) Face() *door.Face {
	return &door.Face{
		Paths: func(path string) bool {
			return strings.HasPrefix(path, Prefix+"user:") || strings.HasPrefix(path, Prefix+"group:")
		},
		ContentType: "application/json",
		Error: func(_ door.Exchange, _ *http.Request, e *oci.Error) any {
			return envelope{Errors: []string{e.Message}}
		},
		Manages: true,
		// There is no repository in the paths, and each part is decoded on its own.
		EscapedSlash: func(string) bool { return true },
	}
}

// envelope is the body of every answer.
type envelope struct {
	Success bool     `json:"success"`
	Data    any      `json:"data"`
	Errors  []string `json:"errors,omitempty"`
}

// Pattern is that of all paths. A repository's name has no colon, so that they are no
// repository's.
const Pattern = Prefix + "{rest:(?:user|group):.*}"

// Routes implements [door.Door].
func (h *Dockit) Routes() []door.Route {
	return []door.Route{
		{Method: "PUT", Pattern: Pattern, Need: door.Administer, Handler: h.serve, Name: "dockit"},
		{Method: "DELETE", Pattern: Pattern, Need: door.Administer, Handler: h.serve, Name: "dockit"},
	}
}

// call is a request as its path says it.
type call struct {
	kind, name string // user or group, and which
	member     string // the user of add-member and remove-member
	target     string // repository:NAME or namespace:NAME as a pattern
	action     string // what to do; or pull or push, on the target
	method     string
	by         auth.Actor
}

// serve does what a request asks, and answers it.
func (h *Dockit) serve(ex door.Exchange, r *http.Request) error {
	c, err := parse(r)
	if err != nil {
		return err
	}
	c.by = ex.Actor()
	do, status := h.operation(c)
	if do == nil {
		return oci.Errorf(oci.CodeInvalid, "unsupported action %.40q for a %s and %s: see docs/token-server.md for what there is", c.action, c.kind, c.method)
	}
	data, err := do(r, c)
	if err != nil {
		return err
	}
	ex.Header().Set("Cache-Control", "no-store")
	ex.JSON(status, envelope{Success: true, Data: data})
	return nil
}

// operation is what does a call, and the status of its success.
func (h *Dockit) operation(c call) (func(*http.Request, call) (any, error), int) {
	put, del := c.method == http.MethodPut, c.method == http.MethodDelete
	key := c.action
	switch {
	case c.target != "":
		key = "grant"
	case c.member != "":
		key = "member " + c.action
	}
	switch {
	case key == "grant" && put:
		return h.grant, http.StatusOK
	case key == "grant" && del:
		return h.revoke, http.StatusOK
	case key == "member add-member" && put:
		return h.addMember, http.StatusOK
	case key == "member remove-member" && (put || del):
		return h.removeMember, http.StatusOK
	case !put:
		return nil, 0
	case key == "permissions":
		return h.permissions, http.StatusOK
	case key == "enable" || key == "disable":
		return h.setDisabled, http.StatusOK
	case c.kind == "user" && key == "add":
		return h.addUser, http.StatusCreated
	case c.kind == "user" && key == "remove":
		return h.removeUser, http.StatusCreated // Dockit's clients look for it
	case c.kind == "user" && key == "change-password":
		return h.changePassword, http.StatusOK
	case c.kind == "group" && key == "add":
		return h.addGroup, http.StatusOK
	case c.kind == "group" && key == "remove":
		return h.removeGroup, http.StatusOK
	}
	return nil, 0
}

// parse reads the path, in which each part is percent-encoded on its own.
func parse(r *http.Request) (call, error) {
	c := call{method: r.Method}
	path := strings.TrimSuffix(strings.TrimPrefix(r.URL.EscapedPath(), Prefix), "/")
	parts := strings.Split(path, "/")
	malformed := oci.Errorf(oci.CodeInvalid, "the path %.200q is not valid: write %s(user|group):NAME/ACTION, or /(repository|namespace):NAME:(pull|push) in place of the action", r.URL.Path, Prefix)
	kind, name, ok := strings.Cut(parts[0], ":")
	if c.kind = kind; !ok || kind != "user" && kind != "group" || len(parts) < 2 || len(parts) > 3 {
		return c, malformed
	}
	var err error
	if c.name, err = plain(name); err != nil {
		return c, err
	}
	if len(parts) == 3 {
		member, found := strings.CutPrefix(parts[1], "user:")
		if !found || c.kind != "group" {
			return c, malformed
		}
		c.action = parts[2]
		c.member, err = plain(member)
		return c, err
	}
	fields := strings.Split(parts[1], ":")
	if len(fields) == 1 {
		c.action = parts[1]
		return c, nil
	}
	if len(fields) != 3 || fields[2] != "pull" && fields[2] != "push" {
		return c, malformed
	}
	c.action = fields[2]
	c.target, err = pattern(fields[0], fields[1])
	return c, err
}

// plain decodes the name of a user or a group.
func plain(escaped string) (string, error) {
	name, err := url.PathUnescape(escaped)
	if err != nil {
		return "", oci.Errorf(oci.CodeInvalid, "the name %.140q is not percent-encoded text", escaped)
	}
	return auth.ParseUserName(name)
}

// pattern gives the pattern on names of repositories that Dockit's target means.
// In Dockit's paths every underscore is a slash. So that underscores have a name
// too, one in a name with an encoded slash (%2F) stands for itself, and so does an
// encoded underscore (%5F).
func pattern(kind, escaped string) (string, error) {
	upper := strings.ToUpper(escaped)
	if !strings.Contains(upper, "%2F") {
		escaped = strings.ReplaceAll(escaped, "_", "/")
	}
	name, err := url.PathUnescape(escaped)
	if err != nil {
		return "", oci.Errorf(oci.CodeInvalid, "the name %.140q is not percent-encoded text", escaped)
	}
	if _, err := oci.ParseName(name); err != nil {
		return "", err
	}
	switch kind {
	case "repository":
		return name, nil
	case "namespace":
		return name + "/*", nil
	}
	return "", oci.Errorf(oci.CodeInvalid, "the type %.40q is not valid: use repository or namespace", kind)
}

// grantee is whom the rights of a call are for.
func (c call) grantee() metadata.Grantee {
	if c.kind == "group" {
		return metadata.Grantee{Group: c.name}
	}
	return metadata.Grantee{User: c.name}
}

func (h *Dockit) grant(r *http.Request, c call) (any, error) {
	return nil, h.people.AddGrant(r.Context(), c.by, c.grantee(), c.target, granted(c.action))
}

// granted is what a right of Dockit's gives: the one to push includes pulling.
func granted(action string) []string {
	if action == "push" {
		return []string{"pull", "push"}
	}
	return []string{"pull"}
}

// revoke takes a right away. Who may push may pull, so the right to pull of somebody
// who may push goes with the right to push, and is not there on its own.
func (h *Dockit) revoke(r *http.Request, c call) (any, error) {
	var unless []string
	if c.action == "pull" {
		unless = []string{"push", "delete", "admin"}
	}
	return nil, h.people.TakeGrant(r.Context(), c.by, c.grantee(), c.target, granted(c.action), unless...)
}

// permissionAction is the one action under which Dockit shows a grant: the
// greatest.
func permissionAction(actions []string) string { return actions[len(actions)-1] }

func (h *Dockit) addUser(r *http.Request, c call) (any, error) {
	w, err := readPassword(r)
	if err != nil {
		return nil, err
	}
	_, err = h.people.CreateUser(r.Context(), c.by, people.NewUser{Name: c.name, Password: &w.New})
	return nil, err
}

func (h *Dockit) removeUser(r *http.Request, c call) (any, error) {
	return nil, h.people.DeleteUser(r.Context(), c.by, c.name, nil)
}

func (h *Dockit) changePassword(r *http.Request, c call) (any, error) {
	w, err := readPassword(r)
	if err != nil {
		return nil, err
	}
	return nil, h.people.SetPassword(r.Context(), c.by, c.name, w)
}

// readPassword reads the body {"password": ...}. The current password is the field
// current_password, which Dockit does not know; else the one by which the caller signed in.
func readPassword(r *http.Request) (w people.Password, err error) {
	raw, err := io.ReadAll(http.MaxBytesReader(nil, r.Body, maxBody))
	if err != nil {
		return w, oci.Errorf(oci.CodeInvalid, "the body could not be read: it has to be JSON of at most %d bytes", maxBody).WithCause(err)
	}
	// The decoder's error would repeat the body.
	if json.Unmarshal(raw, &w) != nil {
		return w, oci.Errorf(oci.CodeInvalid, "the body is not JSON: send {\"password\": \"...\"}")
	}
	if w.Current == "" {
		_, w.Current, _ = r.BasicAuth()
	}
	return w, nil
}

func (h *Dockit) setDisabled(r *http.Request, c call) (any, error) {
	disabled := c.action == "disable"
	if c.kind == "group" {
		_, err := h.people.SetGroupDisabled(r.Context(), c.by, c.name, disabled, nil)
		return nil, err
	}
	_, err := h.people.UpdateUser(r.Context(), c.by, c.name, people.UserChange{Disabled: &disabled})
	return nil, err
}

func (h *Dockit) addGroup(r *http.Request, c call) (any, error) {
	_, err := h.people.CreateGroup(r.Context(), c.by, c.name)
	return nil, err
}

func (h *Dockit) removeGroup(r *http.Request, c call) (any, error) {
	return nil, h.people.DeleteGroup(r.Context(), c.by, c.name, nil)
}

func (h *Dockit) addMember(r *http.Request, c call) (any, error) {
	return nil, h.people.PutGroupMember(r.Context(), c.by, c.name, c.member)
}

func (h *Dockit) removeMember(r *http.Request, c call) (any, error) {
	return nil, h.people.RemoveGroupMember(r.Context(), c.by, c.name, c.member)
}
