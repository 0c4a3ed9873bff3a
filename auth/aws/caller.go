package aws

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"time"

	"berth/auth"
	"berth/metadata"
)

// CallerOptions of Callers. DB and ServerID are required.
type CallerOptions struct {
	DB *metadata.DB
	// ServerID is what clients sign for, in ServerHeader: the registry's host name.
	ServerID string
	// Hosts are endpoints of STS beside AWS's own of the partition aws, host or
	// host:port: those of other partitions, or of a VPC.
	Hosts []string
	// Roots are the certificate authorities of the endpoints; nil is the system's.
	Roots *x509.CertPool
	// Clock is time.Now by default.
	Clock func() time.Time
}

// Callers recognises IAM roles and users by a request for sts:GetCallerIdentity
// that they signed. The user name is CallerUser, the password made by Password.
// What they may do stands in the table accounts. Safe for concurrent use.
type Callers struct {
	options CallerOptions
	client  *http.Client
	known   *memory[caller]
	turns   *auth.Turns
}

// callerTimeout bounds the question to STS.
const callerTimeout = 5 * time.Second

var serverIDRE = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._:-]{0,254}$`)

// ValidServerID says what is wrong with the name of a registry in signatures.
func ValidServerID(v string) error {
	if !serverIDRE.MatchString(v) {
		return fmt.Errorf("the server id %.80q is not valid: use the registry's host name", v)
	}
	return nil
}

// NewCallers makes the authenticator of IAM identities.
func NewCallers(o CallerOptions) (*Callers, error) {
	if o.DB == nil {
		return nil, errors.New("aws: a database is required")
	}
	if err := ValidServerID(o.ServerID); err != nil {
		return nil, fmt.Errorf("aws: %w", err)
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	return &Callers{options: o, client: newClient(o.Roots, callerTimeout), known: newMemory[caller](o.Clock), turns: auth.NewTurns(perAddress)}, nil
}

// Authenticate asks STS who signed.
func (a *Callers) Authenticate(ctx context.Context, c auth.Credentials) (auth.Principal, error) {
	if c.Username != CallerUser || c.Bearer != "" {
		return auth.Principal{}, auth.ErrNotMine
	}
	who, ok := a.known.get(c.Password)
	if !ok {
		request, err := parsePassword(c.Password, a.options.Hosts, a.options.Clock())
		if err != nil {
			return auth.Principal{}, auth.Wrongf("%s", err)
		}
		release, err := a.turns.Take(ctx, c.RemoteAddr)
		if err != nil {
			return auth.Principal{}, err
		}
		who, err = a.ask(ctx, request)
		release()
		if err != nil {
			return auth.Principal{}, err
		}
		who.expires = request.expires
		a.known.put(c.Password, who, who.expires)
	}
	p, err := rights(ctx, a.options.DB, who.name, who.account, who.role, map[string]string{"aws_account": who.account, "aws_arn": who.arn})
	if err != nil {
		return auth.Principal{}, err
	}
	p.Expires = who.expires
	return p, nil
}

// Unguessable reports whether the credentials are those of an IAM identity: a
// signature cannot be guessed, and all of them share a user name.
func (a *Callers) Unguessable(c auth.Credentials) bool { return c.Username == CallerUser }

// caller is who signed, as STS says.
type caller struct {
	account, arn string
	name         string // of the principal
	role         string // name of the IAM role, "" for users and the root of an account
	expires      time.Time
}

func (a *Callers) ask(ctx context.Context, request presigned) (caller, error) {
	const what = "AWS STS"
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, request.url, nil)
	if err != nil {
		return caller{}, auth.Wrongf("the signed request cannot be sent")
	}
	r.Header.Set(ServerHeader, a.options.ServerID)
	r.Header.Set("Accept", "application/xml")
	status, contentType, body, err := do(a.client, r, what)
	switch {
	case err != nil:
		return caller{}, err
	case status != http.StatusOK:
		return caller{}, auth.Wrongf("AWS does not accept the signature: it is not signed for the server id %s, has expired, or its credentials are not valid any more", a.options.ServerID)
	case contentType != "text/xml" && contentType != "application/xml":
		return caller{}, errUnavailable(what, fmt.Errorf("it answered with the content type %.80q", contentType))
	}
	account, arn, err := parseIdentity(body)
	if err != nil {
		return caller{}, errUnavailable(what, err)
	}
	return parseARN(account, arn)
}

// parseIdentity reads STS's answer. It has to be that document and nothing else:
// an answer of another kind that repeats what the client sent must not be taken
// for it.
func parseIdentity(body []byte) (account, arn string, err error) {
	const namespace = "https://sts.amazonaws.com/doc/2011-06-15/"
	var answer struct {
		XMLName xml.Name
		Results []struct {
			XMLName  xml.Name
			Accounts []string `xml:"https://sts.amazonaws.com/doc/2011-06-15/ Account"`
			ARNs     []string `xml:"https://sts.amazonaws.com/doc/2011-06-15/ Arn"`
		} `xml:"https://sts.amazonaws.com/doc/2011-06-15/ GetCallerIdentityResult"`
	}
	decoder := xml.NewDecoder(bytes.NewReader(body))
	if err := decoder.Decode(&answer); err != nil {
		return "", "", fmt.Errorf("its answer is not XML: %w", err)
	}
	for {
		token, err := decoder.Token()
		if err == io.EOF {
			break
		}
		if text, ok := token.(xml.CharData); err != nil || !ok || strings.TrimSpace(string(text)) != "" {
			return "", "", errors.New("there is something behind the document that it answered")
		}
	}
	if answer.XMLName.Space != namespace || answer.XMLName.Local != "GetCallerIdentityResponse" || len(answer.Results) != 1 ||
		len(answer.Results[0].Accounts) != 1 || len(answer.Results[0].ARNs) != 1 {
		return "", "", errors.New("its answer is not a GetCallerIdentityResponse")
	}
	return strings.TrimSpace(answer.Results[0].Accounts[0]), strings.TrimSpace(answer.Results[0].ARNs[0]), nil
}

// arnRE takes an ARN apart: partition, service, account, resource.
var arnRE = regexp.MustCompile(`^arn:(aws[a-z-]*):(iam|sts)::([0-9]{12}):([A-Za-z0-9+=,.@_/-]{1,600})$`)

// parseARN maps the identity to a principal's name. The session of an assumed
// role is named after whoever assumed it, so it stands in the claims and the role
// alone decides.
func parseARN(account, arn string) (caller, error) {
	m := arnRE.FindStringSubmatch(arn)
	if m == nil || m[3] != account || len(arn) > auth.MaxClaimSize {
		return caller{}, errUnavailable("AWS STS", errors.New("it answered with an ARN and an account that do not fit together"))
	}
	who := caller{account: account, arn: arn, name: "aws:" + account}
	parts := strings.Split(m[4], "/")
	last := parts[len(parts)-1]
	switch kind := parts[0]; {
	case m[2] == "sts" && kind == "assumed-role" && len(parts) == 3 && parts[1] != "":
		who.role = parts[1]
		who.name += ":role/" + parts[1]
	case m[2] == "iam" && kind == "user" && len(parts) >= 2 && last != "":
		who.name += ":user/" + last
	case m[2] == "iam" && kind == "root" && len(parts) == 1:
		who.name += ":root"
	case m[2] == "sts" && kind == "federated-user" && len(parts) == 2 && last != "":
		who.name += ":federated-user/" + last
	default:
		return caller{}, auth.Wrongf("%.140s is neither a role nor a user of IAM", arn)
	}
	return who, nil
}
