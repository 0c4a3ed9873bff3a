// Package dims is the door of d.ims.io: its API on the repositories of this registry. Paths,
// inputs and successes are the same, so its programs go on working. Two things differ. Where
// d.ims.io answered 500 to a mistake of the caller, this package answers 400, 404 or 409. Where
// it let everybody do everything, the rights of the management API hold. See docs/dims.md.
//
// Start with [Dims.Routes].
package dims

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/gorilla/mux"

	"berth/auth"
	"berth/metadata"
	"berth/oci"
	"berth/people"
	"berth/registry"
	"berth/server/door"
)

// Options of Dims; all are required.
type Options struct {
	Registry *registry.Registry
	People   *people.People
	Policy   *auth.Policy
}

// Dims is the door. It is safe for concurrent use.
type Dims struct{ o Options }

// New makes the door.
func New(o Options) (*Dims, error) {
	if o.Registry == nil || o.People == nil || o.Policy == nil {
		return nil, errors.New("dims: all options are required")
	}
	return &Dims{o}, nil
}

// Face implements [door.Door]. An error is a JSON object with the text in Error, as
// d.ims.io answered to what was wrong with a body.
func (d *Dims) Face() *door.Face {
	return &door.Face{
		Paths:       owns,
		ContentType: "application/json",
		Error: func(_ door.Exchange, _ *http.Request, e *oci.Error) any {
			return map[string]string{"Error": e.Message}
		},
		Basic:        true,
		Manages:      true,
		EscapedSlash: func(path string) bool { return !strings.HasPrefix(path, "/repository/") },
		LogPath: func(path string) string {
			if strings.HasPrefix(path, "/token/") {
				return "/token/***"
			}
			return path
		},
	}
}

// owns reports whether a path is that API's; POST /token, which it shares with OAuth2,
// apart.
func owns(path string) bool {
	for _, root := range []string{"/repository", "/account", "/token/"} {
		if rest, ok := strings.CutPrefix(path, root); ok && (rest == "" || rest[0] == '/' || root == "/token/") {
			return path != "/token/" // which is POST /token
		}
	}
	return false
}

// Patterns of the API. One slash at the end is ignored.
const (
	pathRepositories = "/repository{slash:/?}"
	pathOwner        = "/repository/{owner:[^/]+}{slash:/?}"
	pathRepository   = "/repository/{name:[^/]+/[^/]+}{slash:/?}"
	pathImages       = "/repository/{name:[^/]+/[^/]+}/image{slash:/?}"
	pathImage        = "/repository/{name:[^/]+/[^/]+}/image/{reference:[^/]+}{slash:/?}"
	pathAccounts     = "/account{slash:/?}"
	pathAccount      = "/account/{account:[^/]+}{slash:/?}"
	pathToken        = "/token/{token:.+}"
	pathTokens       = "/token{slash:/?}"
)

// Routes implements [door.Door].
func (d *Dims) Routes() []door.Route {
	return []door.Route{
		{Method: "POST", Pattern: pathTokens, Need: door.Manage, Handler: d.createToken, Name: "dims_token", Match: asksNothing, Resolve: operation("createToken")},
		{Method: "DELETE", Pattern: pathToken, Need: door.Manage, Handler: d.deleteToken, Name: "dims_token", Resolve: operation("deleteToken")},
		{Method: "GET", Pattern: pathRepositories, Need: door.Known, Handler: d.listRepositories, Name: "dims_repositories"},
		{Method: "GET", Pattern: pathImages, Need: door.Pull, Handler: d.listImages, Name: "dims_images"},
		{Method: "GET", Pattern: pathImage, Need: door.Pull, Handler: d.getImage, Name: "dims_image"},
		{Method: "DELETE", Pattern: pathImage, Need: door.Delete, Handler: d.deleteImage, Name: "dims_image"},
		{Method: "GET", Pattern: pathRepository, Need: door.Pull, Handler: d.getRepository, Name: "dims_repository"},
		{Method: "DELETE", Pattern: pathRepository, Need: door.Own, Handler: d.deleteRepository, Name: "dims_repository"},
		{Method: "GET", Pattern: pathOwner, Need: door.Known, Handler: d.listOwner, Name: "dims_owner"},
		{Method: "POST", Pattern: pathOwner, Need: door.Push, Handler: d.createRepository, Name: "dims_owner", Resolve: readRepository},
		{Method: "GET", Pattern: pathAccounts, Need: door.Manage, Handler: d.listAccounts, Name: "dims_accounts", Resolve: operation("listAccounts")},
		{Method: "POST", Pattern: pathAccounts, Need: door.Manage, Handler: d.createAccount, Name: "dims_accounts", Resolve: operation("putAccount")},
		{Method: "DELETE", Pattern: pathAccount, Need: door.Manage, Handler: d.deleteAccount, Name: "dims_account", Resolve: operation("deleteAccount")},
	}
}

// asksNothing tells POST /token of d.ims.io from OAuth2's, which has a form with a grant_type.
// The clients of d.ims.io send nothing, in whatever framing, or an empty object; curl calls
// either a form. With a query, a form without parameters has them there.
func asksNothing(r *http.Request) bool {
	body, whole := door.Peek(r, maxBody)
	kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	isForm := err == nil && kind == "application/x-www-form-urlencoded"
	text := string(bytes.Join(bytes.Fields(body), nil))
	return whole && (text == "" && (!isForm || r.URL.RawQuery == "") || text == "{}")
}

// operation is one of management. What it is about is the caller's own, if it is somebody's.
func operation(op auth.Operation) func(door.Exchange, *http.Request) (door.Deed, error) {
	return func(ex door.Exchange, _ *http.Request) (door.Deed, error) {
		return door.Deed{Operation: op, On: auth.Subject{User: ex.Actor().Name}}, nil
	}
}

// maxBody bounds a body, in bytes.
const maxBody = 64 << 10

// readField reads the one field of a JSON body. The error is an INVALID.
func readField(r *http.Request, field string) (string, error) {
	raw, err := io.ReadAll(http.MaxBytesReader(nil, r.Body, maxBody))
	if err != nil {
		return "", oci.Errorf(oci.CodeInvalid, "the body cannot be read: it has to be JSON of at most %d bytes", maxBody).WithCause(err)
	}
	var body map[string]json.RawMessage
	var value string
	if json.Unmarshal(raw, &body) != nil || json.Unmarshal(body[field], &value) != nil || value == "" {
		return "", oci.Errorf(oci.CodeInvalid, `the body has to be JSON with a text that is not empty in the field %q, such as {%q:"..."}`, field, field)
	}
	return value, nil
}

// pageSize is how many names are read at a time.
const pageSize = 1000

// streamNames answers {"key":[names]}, page by page, so that memory does not grow
// with the list. next gives the names behind one.
func streamNames(ex door.Exchange, key string, next func(after string) (names []string, last string, err error)) error {
	// The first page decides over the status.
	names, last, err := next("")
	if err != nil {
		return err
	}
	ex.Header().Set("Content-Type", "application/json")
	ex.WriteHeader(http.StatusOK)
	separator := `{"` + key + `":[`
	for {
		for _, name := range names {
			quoted, err := json.Marshal(name)
			if err == nil {
				_, err = ex.Write(append([]byte(separator), quoted...))
			}
			if err != nil {
				return ex.Abort(err)
			}
			separator = ","
		}
		if last == "" {
			break
		}
		if names, last, err = next(last); err != nil {
			return ex.Abort(err)
		}
	}
	if separator == "," {
		separator = ""
	}
	if _, err := ex.Write([]byte(separator + "]}")); err != nil {
		return ex.Abort(err)
	}
	return nil
}

func (d *Dims) listRepositories(ex door.Exchange, r *http.Request) error {
	return d.repositories(ex, r, "")
}

func (d *Dims) listOwner(ex door.Exchange, r *http.Request) error {
	owner := mux.Vars(r)["owner"]
	if _, err := oci.ParseName(owner); err != nil {
		return err
	}
	return d.repositories(ex, r, owner)
}

// repositories lists what the caller may pull; of an owner, without the
// owner's name before it. An owner that is not there has none.
func (d *Dims) repositories(ex door.Exchange, r *http.Request, owner string) error {
	viewer, err := d.o.Policy.Viewer(r.Context(), ex.Actor().Principal)
	if err != nil {
		return err
	}
	prefix := ""
	if owner != "" {
		prefix = owner + "/"
	}
	return streamNames(ex, "repositories", func(after string) ([]string, string, error) {
		names, err := d.o.Registry.RepositoryNames(r.Context(), metadata.RepositoryFilter{Viewer: viewer, Prefix: prefix, After: after, Limit: pageSize})
		last := ""
		if len(names) == pageSize {
			last = names[pageSize-1]
		}
		for i := range names {
			names[i] = strings.TrimPrefix(names[i], prefix)
		}
		return names, last, err
	})
}

type repository struct {
	Owner string `json:"owner"`
	Name  string `json:"name"`
}

// readRepository reads which repository a request is to make.
func readRepository(_ door.Exchange, r *http.Request) (door.Deed, error) {
	name, err := readField(r, "name")
	if err != nil {
		return door.Deed{}, err
	}
	if strings.Contains(name, "/") {
		return door.Deed{}, oci.Errorf(oci.CodeInvalid, "the name %.140q of the repository has a slash: the owner stands in the path, and here only what comes behind it", name)
	}
	full, err := oci.ParseName(mux.Vars(r)["owner"] + "/" + name)
	return door.Deed{On: auth.Subject{Repository: full}}, err
}

func (d *Dims) createRepository(ex door.Exchange, r *http.Request) error {
	switch _, created, err := d.o.Registry.CreateRepository(r.Context(), ex.Actor(), ex.Repository()); {
	case err != nil:
		return err
	case !created:
		return oci.Errorf(oci.CodeConflict, "the repository %s exists already", ex.Repository())
	}
	owner, name, _ := strings.Cut(ex.Repository(), "/")
	ex.JSON(http.StatusAccepted, repository{owner, name})
	return nil
}

func (d *Dims) getRepository(ex door.Exchange, r *http.Request) error {
	found, err := d.o.Registry.Repository(r.Context(), ex.Repository())
	if err != nil {
		return err
	}
	owner, name, _ := strings.Cut(ex.Repository(), "/")
	ex.JSON(http.StatusOK, struct {
		repository
		CreatedAt string `json:"created_at"`
	}{repository{owner, name}, found.CreatedAt.Format(time.RFC3339)})
	return nil
}

func (d *Dims) deleteRepository(ex door.Exchange, r *http.Request) error {
	if err := d.o.Registry.DeleteRepository(r.Context(), ex.Actor(), ex.Repository(), nil); err != nil {
		return err
	}
	return writeText(ex, "Successfully deleted repository")
}

func writeText(ex door.Exchange, text string) error {
	ex.Header().Set("Content-Type", "text/plain; charset=utf-8")
	ex.WriteHeader(http.StatusOK)
	_, _ = ex.Write([]byte(text)) // fails only when the client is gone
	return nil
}

func (d *Dims) listImages(ex door.Exchange, r *http.Request) error {
	return streamNames(ex, "images", func(after string) ([]string, string, error) {
		tags, err := d.o.Registry.TagNames(r.Context(), ex.Repository(), after, pageSize)
		if len(tags) == pageSize {
			return tags, tags[pageSize-1], err
		}
		return tags, "", err
	})
}

func (d *Dims) getImage(ex door.Exchange, r *http.Request) error {
	name, err := oci.ParseTag(mux.Vars(r)["reference"])
	if err != nil {
		return err
	}
	tag, err := d.o.Registry.Tag(r.Context(), ex.Repository(), name)
	if err != nil {
		return err
	}
	size, err := d.o.Registry.ImageSize(r.Context(), ex.Repository(), tag.Digest)
	if err != nil {
		return err
	}
	ex.JSON(http.StatusOK, map[string]string{
		"digest":    tag.Digest.String(),
		"size":      strconv.FormatFloat(float64(size)/1e6, 'f', -1, 64) + "MB",
		"pushed_at": tag.UpdatedAt.Format(time.RFC3339),
	})
	return nil
}

// deleteImage removes a tag, and with its last tag the image, as ECR did.
func (d *Dims) deleteImage(ex door.Exchange, r *http.Request) error {
	tag, err := oci.ParseTag(mux.Vars(r)["reference"])
	if err != nil {
		return err
	}
	if err := d.o.Registry.DeleteImage(r.Context(), ex.Actor(), ex.Repository(), tag); err != nil {
		return err
	}
	ex.JSON(http.StatusOK, "Image '"+ex.Repository()+":"+tag+"' successfully deleted.")
	return nil
}

func (d *Dims) listAccounts(ex door.Exchange, r *http.Request) error {
	return streamNames(ex, "accounts", func(after string) (ids []string, last string, err error) {
		account, role, _ := strings.Cut(after, "/")
		rows, err := d.o.People.Accounts(r.Context(), account, role, pageSize)
		for _, row := range rows {
			if row.Role == "" {
				ids = append(ids, row.Account)
			}
		}
		if len(rows) == pageSize {
			last = rows[pageSize-1].Account + "/" + rows[pageSize-1].Role
		}
		return ids, last, err
	})
}

// createAccount lets an account pull everything, as d.ims.io did. One that may
// pull something already stays as it is.
func (d *Dims) createAccount(ex door.Exchange, r *http.Request) error {
	account, err := readField(r, "account")
	if err != nil {
		return err
	}
	if !metadata.IsAccount(account) {
		return oci.Errorf(oci.CodeInvalid, "%.40q is not the id of an AWS account: it has 12 digits", account)
	}
	everything := metadata.Account{Account: account, Repositories: "*", Actions: auth.Pull.Names()}
	if err := d.o.People.AddAccount(r.Context(), ex.Actor(), everything); err != nil {
		return err
	}
	ex.WriteHeader(http.StatusNoContent)
	return nil
}

func (d *Dims) deleteAccount(ex door.Exchange, r *http.Request) error {
	account := mux.Vars(r)["account"]
	if !metadata.IsAccount(account) {
		return oci.Errorf(oci.CodeNotFound, "%.40q is not the id of an AWS account: it has 12 digits", account)
	}
	if err := d.o.People.DeleteAccount(r.Context(), ex.Actor(), account, ""); err != nil {
		return err
	}
	ex.WriteHeader(http.StatusNoContent)
	return nil
}

// createToken makes a personal token of the caller in the form of d.ims.io:
// base64 of a user name and a password, which docker's configuration takes as
// "auth". It carries what the caller may, for as long as the token that the caller
// uses, and else for ever.
func (d *Dims) createToken(ex door.Exchange, r *http.Request) error {
	user, password := rand.Text(), rand.Text() // 26 letters and digits, 130 bits, each
	t := metadata.Token{User: ex.Actor().Principal.Name, Name: "dims-" + auth.PairHash(user, password)[:16]}
	if _, err := d.o.People.CreatePair(r.Context(), ex.Actor(), t, user, password); err != nil {
		return err
	}
	ex.Header().Set("Cache-Control", "no-store")
	ex.JSON(http.StatusAccepted, map[string]string{"token": base64.StdEncoding.EncodeToString([]byte(user + ":" + password))})
	return nil
}

// deleteToken removes a token of the caller, or for an administrator anybody's.
func (d *Dims) deleteToken(ex door.Exchange, r *http.Request) error {
	raw, err := base64.StdEncoding.DecodeString(strings.TrimSuffix(mux.Vars(r)["token"], "/"))
	user, password, ok := strings.Cut(string(raw), ":")
	if err != nil || !ok || len(raw) > maxBody {
		return oci.Errorf(oci.CodeNotFound, "there is no such token")
	}
	if err := d.o.People.DeletePair(r.Context(), ex.Actor(), user, password); err != nil {
		return err
	}
	return writeText(ex, "Successfully deleted token")
}
