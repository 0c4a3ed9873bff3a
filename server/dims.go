package server

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/gorilla/mux"

	"berth/auth"
	"berth/metadata"
	"berth/oci"
)

// The API of d.ims.io on the repositories of this registry: the same paths, inputs
// and successes, so that its programs go on. Where it answered 500 to what the
// caller did wrong there is a 400, 404 or 409 here, and where it let everybody do
// everything, the rights of the management API hold. docs/dims.md tells the rest.

// dimsPath reports whether a path is that API's; POST /token, which it shares with
// OAuth2, apart.
func dimsPath(path string) bool {
	for _, root := range []string{"/repository", "/account", "/token/"} {
		if rest, ok := strings.CutPrefix(path, root); ok && (rest == "" || rest[0] == '/' || root == "/token/") {
			return path != "/token/" // which is POST /token
		}
	}
	return false
}

// Patterns of the API. One slash at the end is ignored.
const (
	pathDimsRepositories = "/repository{slash:/?}"
	pathDimsOwner        = "/repository/{owner:[^/]+}{slash:/?}"
	pathDimsRepository   = "/repository/{name:[^/]+/[^/]+}{slash:/?}"
	pathDimsImages       = "/repository/{name:[^/]+/[^/]+}/image{slash:/?}"
	pathDimsImage        = "/repository/{name:[^/]+/[^/]+}/image/" + varReference + "{slash:/?}"
	pathDimsAccounts     = "/account{slash:/?}"
	pathDimsAccount      = "/account/{account:[^/]+}{slash:/?}"
	pathDimsToken        = "/token/{token:.+}"
)

// maxDimsBody bounds a body, in bytes.
const maxDimsBody = 64 << 10

// readDims reads the one field of a JSON body. The error is an INVALID.
func readDims(r *http.Request, field string) (string, error) {
	raw, err := io.ReadAll(http.MaxBytesReader(nil, r.Body, maxDimsBody))
	if err != nil {
		return "", oci.Errorf(oci.CodeInvalid, "the body cannot be read: it has to be JSON of at most %d bytes", maxDimsBody).WithCause(err)
	}
	var body map[string]json.RawMessage
	var value string
	if json.Unmarshal(raw, &body) != nil || json.Unmarshal(body[field], &value) != nil || value == "" {
		return "", oci.Errorf(oci.CodeInvalid, `the body has to be JSON with a text that is not empty in the field %q, such as {%q:"..."}`, field, field)
	}
	return value, nil
}

// dimsPage is how many names are read at a time.
const dimsPage = 1000

// streamNames answers {"key":[names]}, page by page, so that memory does not grow
// with the list. next gives the names behind one.
func streamNames(ex *exchange, key string, next func(after string) (names []string, last string, err error)) error {
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
				return abort(ex, err)
			}
			separator = ","
		}
		if last == "" {
			break
		}
		if names, last, err = next(last); err != nil {
			return abort(ex, err)
		}
	}
	if separator == "," {
		separator = ""
	}
	if _, err := ex.Write([]byte(separator + "]}")); err != nil {
		return abort(ex, err)
	}
	return nil
}

// abort closes the connection in the middle of an answer, so that nobody takes it
// for whole.
func abort(ex *exchange, err error) error {
	ex.aborted = true
	return err
}

func (s *Server) dimsListRepositories(ex *exchange, r *http.Request) error {
	return s.dimsRepositories(ex, r, "")
}

func (s *Server) dimsListOwner(ex *exchange, r *http.Request) error {
	owner := mux.Vars(r)["owner"]
	if _, err := oci.ParseName(owner); err != nil {
		return err
	}
	return s.dimsRepositories(ex, r, owner)
}

// dimsRepositories lists what the caller may pull; of an owner, without the
// owner's name before it. An owner that is not there has none.
func (s *Server) dimsRepositories(ex *exchange, r *http.Request, owner string) error {
	viewer, err := s.policy.Viewer(r.Context(), ex.identity.principal)
	if err != nil {
		return failClosed(err)
	}
	prefix := ""
	if owner != "" {
		prefix = owner + "/"
	}
	return streamNames(ex, "repositories", func(after string) ([]string, string, error) {
		names, err := s.registry.RepositoryNames(r.Context(), metadata.RepositoryFilter{Viewer: viewer, Prefix: prefix, After: after, Limit: dimsPage})
		last := ""
		if len(names) == dimsPage {
			last = names[dimsPage-1]
		}
		for i := range names {
			names[i] = strings.TrimPrefix(names[i], prefix)
		}
		return names, last, err
	})
}

type dimsRepository struct {
	Owner string `json:"owner"`
	Name  string `json:"name"`
}

func (s *Server) dimsCreateRepository(ex *exchange, r *http.Request) error {
	owner := mux.Vars(r)["owner"]
	name, err := readDims(r, "name")
	if err != nil {
		return err
	}
	if strings.Contains(name, "/") {
		return oci.Errorf(oci.CodeInvalid, "the name %.140q of the repository has a slash: the owner stands in the path, and here only what comes behind it", name)
	}
	if ex.repository, err = oci.ParseName(owner + "/" + name); err != nil {
		return err
	}
	if err := s.authorizeRepository(ex, r, auth.Push); err != nil {
		return err
	}
	switch _, created, err := s.registry.CreateRepository(r.Context(), ex.actor(), ex.repository); {
	case err != nil:
		return err
	case !created:
		return oci.Errorf(oci.CodeConflict, "the repository %s exists already", ex.repository)
	}
	writeJSON(ex, "application/json", http.StatusAccepted, dimsRepository{owner, name})
	return nil
}

func (s *Server) dimsGetRepository(ex *exchange, r *http.Request) error {
	var repository metadata.Repository
	err := s.db.View(r.Context(), func(tx *metadata.Tx) (err error) {
		repository, err = tx.Repository(r.Context(), ex.repository)
		return err
	})
	if err != nil {
		return err
	}
	owner, name, _ := strings.Cut(ex.repository, "/")
	writeJSON(ex, "application/json", http.StatusOK, struct {
		dimsRepository
		CreatedAt string `json:"created_at"`
	}{dimsRepository{owner, name}, repository.CreatedAt.Format(time.RFC3339)})
	return nil
}

func (s *Server) dimsDeleteRepository(ex *exchange, r *http.Request) error {
	if err := s.registry.DeleteRepository(r.Context(), ex.actor(), ex.repository, nil); err != nil {
		return err
	}
	return writeText(ex, "Successfully deleted repository")
}

func writeText(ex *exchange, text string) error {
	ex.Header().Set("Content-Type", "text/plain; charset=utf-8")
	ex.WriteHeader(http.StatusOK)
	_, _ = ex.Write([]byte(text)) // fails only when the client is gone
	return nil
}

func (s *Server) dimsListImages(ex *exchange, r *http.Request) error {
	return streamNames(ex, "images", func(after string) ([]string, string, error) {
		tags, err := s.registry.TagNames(r.Context(), ex.repository, after, dimsPage)
		if len(tags) == dimsPage {
			return tags, tags[dimsPage-1], err
		}
		return tags, "", err
	})
}

func (s *Server) dimsGetImage(ex *exchange, r *http.Request) error {
	name, err := oci.ParseTag(mux.Vars(r)["reference"])
	if err != nil {
		return err
	}
	var tag metadata.Tag
	err = s.db.View(r.Context(), func(tx *metadata.Tx) (err error) {
		tag, err = tx.Tag(r.Context(), ex.repository, name)
		return err
	})
	if err != nil {
		return err
	}
	size, err := s.registry.ImageSize(r.Context(), ex.repository, tag.Digest)
	if err != nil {
		return err
	}
	writeJSON(ex, "application/json", http.StatusOK, map[string]string{
		"digest":    tag.Digest.String(),
		"size":      strconv.FormatFloat(float64(size)/1e6, 'f', -1, 64) + "MB",
		"pushed_at": tag.UpdatedAt.Format(time.RFC3339),
	})
	return nil
}

// dimsDeleteImage removes a tag, and with its last tag the image, as ECR did.
func (s *Server) dimsDeleteImage(ex *exchange, r *http.Request) error {
	tag, err := oci.ParseTag(mux.Vars(r)["reference"])
	if err != nil {
		return err
	}
	if err := s.registry.DeleteImage(r.Context(), ex.actor(), ex.repository, tag); err != nil {
		return err
	}
	writeJSON(ex, "application/json", http.StatusOK, "Image '"+ex.repository+":"+tag+"' successfully deleted.")
	return nil
}

// dimsAccountRE is the id of an AWS account. d.ims.io took any text.
var dimsAccountRE = regexp.MustCompile(`^[0-9]{12}$`)

func (s *Server) dimsListAccounts(ex *exchange, r *http.Request) error {
	return streamNames(ex, "accounts", func(after string) (ids []string, last string, err error) {
		account, role, _ := strings.Cut(after, "/")
		var rows []metadata.Account
		err = s.db.View(r.Context(), func(tx *metadata.Tx) (err error) {
			rows, err = tx.Accounts(r.Context(), account, role, dimsPage)
			return err
		})
		for _, row := range rows {
			if row.Role == "" {
				ids = append(ids, row.Account)
			}
		}
		if len(rows) == dimsPage {
			last = rows[dimsPage-1].Account + "/" + rows[dimsPage-1].Role
		}
		return ids, last, err
	})
}

// dimsCreateAccount lets an account pull everything, as d.ims.io did. One that may
// pull something already stays as it is.
func (s *Server) dimsCreateAccount(ex *exchange, r *http.Request) error {
	account, err := readDims(r, "account")
	if err != nil {
		return err
	}
	if !dimsAccountRE.MatchString(account) {
		return oci.Errorf(oci.CodeInvalid, "%.40q is not the id of an AWS account: it has 12 digits", account)
	}
	err = s.people.AddAccount(r.Context(), ex.actor(), metadata.Account{Account: account, Repositories: "*", Actions: auth.Pull.Names()})
	if err != nil {
		return err
	}
	ex.WriteHeader(http.StatusNoContent)
	return nil
}

func (s *Server) dimsDeleteAccount(ex *exchange, r *http.Request) error {
	account := mux.Vars(r)["account"]
	if !dimsAccountRE.MatchString(account) {
		return oci.Errorf(oci.CodeNotFound, "%.40q is not the id of an AWS account: it has 12 digits", account)
	}
	if err := s.people.DeleteAccount(r.Context(), ex.actor(), account, ""); err != nil {
		return err
	}
	ex.WriteHeader(http.StatusNoContent)
	return nil
}

// dimsCreateToken makes a personal token of the caller in the form of d.ims.io:
// base64 of a user name and a password, which docker's configuration takes as
// "auth". It carries what the caller may, for as long as the token that the caller
// uses, and else for ever.
func (s *Server) dimsCreateToken(ex *exchange, r *http.Request) error {
	if err := s.authorizeDims(ex, r); err != nil {
		return err
	}
	if err := s.authorizeOwnTokens(ex); err != nil {
		return err
	}
	if s.readOnly { // the route itself is open, and does not count as one that writes
		return ErrReadOnly()
	}
	user, password := rand.Text(), rand.Text() // 26 letters and digits, 130 bits, each
	t := metadata.Token{User: ex.identity.principal.Name, Name: "dims-" + auth.PairHash(user, password)[:16]}
	if _, err := s.people.CreatePair(r.Context(), ex.actor(), t, user, password); err != nil {
		return err
	}
	ex.Header().Set("Cache-Control", "no-store")
	writeJSON(ex, "application/json", http.StatusAccepted, map[string]string{"token": base64.StdEncoding.EncodeToString([]byte(user + ":" + password))})
	return nil
}

// dimsDeleteToken removes a token of the caller, or for an administrator anybody's.
func (s *Server) dimsDeleteToken(ex *exchange, r *http.Request) error {
	if err := s.authorizeOwnTokens(ex); err != nil {
		return err
	}
	raw, err := base64.StdEncoding.DecodeString(strings.TrimSuffix(mux.Vars(r)["token"], "/"))
	user, password, ok := strings.Cut(string(raw), ":")
	if err != nil || !ok || len(raw) > maxCredentials {
		return oci.Errorf(oci.CodeNotFound, "there is no such token")
	}
	if err := s.people.DeletePair(r.Context(), ex.actor(), user, password); err != nil {
		return err
	}
	return writeText(ex, "Successfully deleted token")
}
