// Package dockit serves the administration API of Dockit, a token server whose
// clients go on to work with Berth: users, groups and their rights, under
// /v2/admin/. It has no facts of its own. What it changes are the users, groups and
// grants that the management API (server/admin) shows.
//
// Paths, methods, the envelope of the answers and the statuses of successes are
// Dockit's. Failures have the status that belongs to them, where Dockit's was mostly
// 500. That the caller is an administrator is seen to before, by package server.
// Start with [New] and the table in it.
package dockit

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"

	"berth/auth"
	"berth/metadata"
	"berth/oci"
	"berth/people"
)

// Prefix is the path of everything here.
const Prefix = "/v2/admin/"

// Options are what the handler needs; all are required.
type Options struct {
	DB *metadata.DB
	// People changes users, groups and grants.
	People *people.People
	// Actor gives who makes the request whose context this is.
	Actor func(context.Context) auth.Actor
}

// maxBody bounds a request's body, in bytes. It holds a password.
const maxBody = 16 << 10

// handler answers requests of administrators.
type handler struct{ Options }

// New makes the handler of everything below Prefix. It answers successes; a
// failure is returned, for package server to write: an INVALID, NOT_FOUND,
// CONFLICT or UNSUPPORTED.
func New(o Options) (func(http.ResponseWriter, *http.Request) error, error) {
	if o.DB == nil || o.People == nil || o.Actor == nil {
		return nil, errors.New("dockit: all options are required")
	}
	h := &handler{o}
	return h.serve, nil
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
func (h *handler) serve(w http.ResponseWriter, r *http.Request) error {
	c, err := parse(r)
	if err != nil {
		return err
	}
	c.by = h.Actor(r.Context())
	do, status := h.operation(c)
	if do == nil {
		return oci.Errorf(oci.CodeInvalid, "unsupported action %.40q for a %s and %s: see docs/token-server.md for what there is", c.action, c.kind, c.method)
	}
	data, err := do(r, c)
	if err != nil {
		return err
	}
	body, err := json.Marshal(struct {
		Success bool `json:"success"`
		Data    any  `json:"data"`
	}{true, data})
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write(body) // fails only when the client is gone
	return nil
}

// operation is what does a call, and the status of its success.
func (h *handler) operation(c call) (func(*http.Request, call) (any, error), int) {
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

func (h *handler) grant(r *http.Request, c call) (any, error) {
	return nil, h.People.AddGrant(r.Context(), c.by, c.grantee(), c.target, granted(c.action))
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
func (h *handler) revoke(r *http.Request, c call) (any, error) {
	var unless []string
	if c.action == "pull" {
		unless = []string{"push", "delete", "admin"}
	}
	return nil, h.People.TakeGrant(r.Context(), c.by, c.grantee(), c.target, granted(c.action), unless...)
}

// grantsOf lists what a user or a group itself was granted.
func grantsOf(ctx context.Context, tx *metadata.Tx, to metadata.Grantee) ([]metadata.Grant, error) {
	return tx.Grants(ctx, metadata.GrantFilter{Grantee: to, Limit: metadata.MaxGrants})
}

// permissionAction is the one action under which Dockit shows a grant: the
// greatest.
func permissionAction(actions []string) string { return actions[len(actions)-1] }

func (h *handler) addUser(r *http.Request, c call) (any, error) {
	w, err := readPassword(r)
	if err != nil {
		return nil, err
	}
	_, err = h.People.CreateUser(r.Context(), c.by, people.NewUser{Name: c.name, Password: &w.New})
	return nil, err
}

func (h *handler) removeUser(r *http.Request, c call) (any, error) {
	return nil, h.People.DeleteUser(r.Context(), c.by, c.name, nil)
}

func (h *handler) changePassword(r *http.Request, c call) (any, error) {
	w, err := readPassword(r)
	if err != nil {
		return nil, err
	}
	return nil, h.People.SetPassword(r.Context(), c.by, c.name, w)
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

func (h *handler) setDisabled(r *http.Request, c call) (any, error) {
	disabled := c.action == "disable"
	if c.kind == "group" {
		_, err := h.People.SetGroupDisabled(r.Context(), c.by, c.name, disabled, nil)
		return nil, err
	}
	_, err := h.People.UpdateUser(r.Context(), c.by, c.name, people.UserChange{Disabled: &disabled})
	return nil, err
}

func (h *handler) addGroup(r *http.Request, c call) (any, error) {
	_, err := h.People.CreateGroup(r.Context(), c.by, c.name)
	return nil, err
}

func (h *handler) removeGroup(r *http.Request, c call) (any, error) {
	return nil, h.People.DeleteGroup(r.Context(), c.by, c.name, nil)
}

func (h *handler) addMember(r *http.Request, c call) (any, error) {
	return nil, h.People.PutGroupMember(r.Context(), c.by, c.name, c.member)
}

func (h *handler) removeMember(r *http.Request, c call) (any, error) {
	return nil, h.People.RemoveGroupMember(r.Context(), c.by, c.name, c.member)
}
