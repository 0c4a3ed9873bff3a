// Package awstest has a server of sts:GetCallerIdentity for tests. It knows some
// access keys and verifies signatures for real: it signs the request that it got
// with the AWS SDK and compares.
package awstest

import (
	"encoding/xml"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
)

// Identity is an access key and whose it is.
type Identity struct {
	Secret, SessionToken string
	Account, ARN         string
}

// STS is a running server, with TLS.
type STS struct {
	*httptest.Server
	// Calls counts the requests.
	Calls atomic.Int32
	// Answer takes over when it is set.
	Answer atomic.Pointer[http.HandlerFunc]

	identities map[string]Identity
}

// New starts a server that knows the identities by their access key ids. It is
// stopped with the test.
func New(t testing.TB, identities map[string]Identity) *STS {
	s := &STS{identities: identities}
	s.Server = httptest.NewTLSServer(http.HandlerFunc(s.serve))
	t.Cleanup(s.Close)
	return s
}

// Host is the server's host and port.
func (s *STS) Host() string { return strings.TrimPrefix(s.URL, "https://") }

func (s *STS) serve(w http.ResponseWriter, r *http.Request) {
	s.Calls.Add(1)
	if answer := s.Answer.Load(); answer != nil {
		(*answer)(w, r)
		return
	}
	id, err := s.verify(r)
	w.Header().Set("Content-Type", "text/xml")
	if err != nil {
		w.WriteHeader(http.StatusForbidden)
		fmt.Fprint(w, `<ErrorResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><Error><Type>Sender</Type><Code>SignatureDoesNotMatch</Code><Message>`)
		_ = xml.EscapeText(w, []byte(err.Error()))
		fmt.Fprint(w, `</Message></Error></ErrorResponse>`)
		return
	}
	fmt.Fprint(w, Response(id.Account, id.ARN))
}

// Response is STS's answer for an identity.
func Response(account, arn string) string {
	return `<GetCallerIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">
  <GetCallerIdentityResult>
    <Arn>` + arn + `</Arn>
    <UserId>AROAEXAMPLEEXAMPLE:session</UserId>
    <Account>` + account + `</Account>
  </GetCallerIdentityResult>
  <ResponseMetadata>
    <RequestId>01234567-89ab-cdef-0123-456789abcdef</RequestId>
  </ResponseMetadata>
</GetCallerIdentityResponse>
`
}

// verify signs the request anew, with what it says it was signed with.
func (s *STS) verify(r *http.Request) (Identity, error) {
	q := r.URL.Query()
	scope := strings.Split(q.Get("X-Amz-Credential"), "/")
	if r.Method != http.MethodGet || len(scope) != 5 || q.Get("Action") != "GetCallerIdentity" {
		return Identity{}, fmt.Errorf("not a pre-signed GetCallerIdentity: %s", r.Method)
	}
	id, ok := s.identities[scope[0]]
	if !ok || id.SessionToken != q.Get("X-Amz-Security-Token") {
		return Identity{}, fmt.Errorf("the security token is invalid")
	}
	at, err := time.Parse("20060102T150405Z", q.Get("X-Amz-Date"))
	life, err2 := time.ParseDuration(q.Get("X-Amz-Expires") + "s")
	if err != nil || err2 != nil || time.Since(at) > life {
		return Identity{}, fmt.Errorf("the request has expired")
	}
	again := url.Values{}
	for name, values := range q {
		if !strings.HasPrefix(name, "X-Amz-") || name == "X-Amz-Expires" {
			again[name] = values
		}
	}
	sign, err := http.NewRequest(http.MethodGet, "https://"+r.Host+"/?"+again.Encode(), nil)
	if err != nil {
		return Identity{}, err
	}
	for _, name := range strings.Split(q.Get("X-Amz-SignedHeaders"), ";") {
		if name != "host" {
			sign.Header.Set(name, r.Header.Get(name))
		}
	}
	const empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855" // SHA-256 of no body
	signed, _, err := v4.NewSigner().PresignHTTP(r.Context(),
		aws.Credentials{AccessKeyID: scope[0], SecretAccessKey: id.Secret, SessionToken: id.SessionToken}, sign, empty, "sts", scope[2], at)
	if err != nil {
		return Identity{}, err
	}
	want, err := url.Parse(signed)
	if err != nil {
		return Identity{}, err
	}
	if want.Query().Get("X-Amz-Signature") != q.Get("X-Amz-Signature") {
		return Identity{}, fmt.Errorf("the signature does not match")
	}
	return id, nil
}
