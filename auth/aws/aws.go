// Package aws recognises machines by what AWS says of them, in two ways. An EC2
// instance shows its instance identity document with AWS's signature
// (document.go). Everything else that has AWS credentials shows a request for
// sts:GetCallerIdentity that it signed but did not send; we send it, and AWS
// answers who signed it (caller.go, password.go).
//
// What a machine may do stands in the table accounts, read at each sign-in. Start
// with [NewDocuments] and [NewCallers].
package aws

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"berth/auth"
	"berth/auth/outbound"
	"berth/metadata"
	"berth/oci"
)

// The user names that machines sign in with. Whatever else is for somebody else.
const (
	// DocumentUser is the user name of instances, as Pier One had it.
	DocumentUser = "instance-identity-document"
	// CallerUser is the user name of IAM roles and users.
	CallerUser = "aws-iam"
)

// errUnavailable keeps "cannot say now" apart from "wrong".
func errUnavailable(what string, cause error) error {
	return oci.Errorf(oci.CodeUnavailable, "%s cannot be asked now, try again later", what).WithCause(cause)
}

// rights makes the principal of a machine: who it is comes from AWS, what it may
// from the table. The most specific row that matches counts alone: the role's
// exact name, then the longest pattern, then the whole account. role is "" for
// an identity without a role.
//
// An account that nobody let in is DENIED: it is who it says, and has no rights.
func rights(ctx context.Context, db *metadata.DB, name, account, role string, claims map[string]string) (auth.Principal, error) {
	var rows []metadata.Account
	err := db.View(ctx, func(tx *metadata.Tx) (err error) {
		rows, err = tx.AccountRoles(ctx, account)
		return err
	})
	if err != nil {
		return auth.Principal{}, fmt.Errorf("reading what the AWS account %s may: %w", account, err)
	}
	var best *metadata.Account
	rank := -1
	for i, row := range rows {
		score := len(row.Role)
		switch {
		case row.Role == "":
		case role == "" || !oci.Match(row.Role, role):
			continue
		case row.Role == role:
			score = len(role) + maxRolePattern
		}
		if score > rank {
			best, rank = &rows[i], score
		}
	}
	if best == nil {
		return auth.Principal{}, oci.Errorf(oci.CodeDenied, "%s is known to AWS, but may not sign in here: an administrator of this registry can let it in with 'berth account add %s'", name, account)
	}
	actions, err := auth.ParseActions(best.Actions)
	if err != nil {
		return auth.Principal{}, fmt.Errorf("account %s in the database: %w", account, errors.New(err.Error()))
	}
	return auth.Principal{
		Kind: auth.KindMachine, Name: name, Claims: claims,
		Limit: &auth.Limit{Repositories: best.Repositories, Actions: actions &^ auth.Admin},
	}, nil
}

// maxRolePattern is the longest pattern on the name of a role, in bytes.
const maxRolePattern = 64

// What was verified by asking somebody else is remembered for as long, so that a
// client that shows it with each request does not cause a call each time. What it
// may do is read afresh.
const (
	// perAddress is how many of these questions one address has under way. A signature
	// cannot be guessed, so that the chain counts no failures; this is what keeps one
	// address from using up what AWS takes from us.
	perAddress = 8

	rememberFor = time.Minute
	rememberMax = 4096
)

// memory holds what was verified, by the hash of the password. Safe for concurrent use.
type memory[T any] struct {
	clock func() time.Time
	cache *lru.Cache[[sha256.Size]byte, entry[T]]
}

type entry[T any] struct {
	value T
	until time.Time
}

func newMemory[T any](clock func() time.Time) *memory[T] {
	cache, err := lru.New[[sha256.Size]byte, entry[T]](rememberMax)
	if err != nil {
		panic(err) // only for a size that is not positive
	}
	return &memory[T]{clock, cache}
}

func (m *memory[T]) get(password string) (value T, ok bool) {
	e, ok := m.cache.Get(sha256.Sum256([]byte(password)))
	if !ok || !m.clock().Before(e.until) {
		return value, false
	}
	return e.value, true
}

// put remembers a value for a minute, but not past the given time.
func (m *memory[T]) put(password string, value T, until time.Time) {
	if end := m.clock().Add(rememberFor); until.IsZero() || end.Before(until) {
		until = end
	}
	m.cache.Add(sha256.Sum256([]byte(password)), entry[T]{value, until})
}

// newClient makes a client that follows no redirect, for where an answer comes
// from is part of what it proves.
func newClient(roots *x509.CertPool, timeout time.Duration) *http.Client {
	client := outbound.New(outbound.Options{LoopbackHTTP: true, Roots: roots})
	client.Timeout = timeout
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return client
}

// maxAnswer bounds the body of an answer, in bytes.
const maxAnswer = 64 << 10

// do sends a request and reads the answer, if it fits. The error says that the
// other side cannot be asked now; it never holds the request's URL, which may be
// a credential.
func do(client *http.Client, r *http.Request, what string) (status int, contentType string, body []byte, err error) {
	answer, err := client.Do(r)
	if err != nil {
		var hidden interface{ Unwrap() error } // *url.Error repeats the URL
		if errors.As(err, &hidden) {
			err = hidden.Unwrap()
		}
		return 0, "", nil, errUnavailable(what, err)
	}
	defer answer.Body.Close()
	body, err = io.ReadAll(io.LimitReader(answer.Body, maxAnswer+1))
	if err == nil && len(body) > maxAnswer {
		err = fmt.Errorf("the answer is larger than %d bytes", maxAnswer)
	}
	if err != nil {
		return 0, "", nil, errUnavailable(what, err)
	}
	if s := answer.StatusCode; s >= 500 || s == http.StatusTooManyRequests || s >= 300 && s < 400 {
		return 0, "", nil, errUnavailable(what, fmt.Errorf("it answered %d", s))
	}
	kind, _, _ := strings.Cut(answer.Header.Get("Content-Type"), ";")
	return answer.StatusCode, strings.TrimSpace(kind), body, nil
}
