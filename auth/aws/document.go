package aws

import (
	"bytes"
	"context"
	"crypto"
	//lint:ignore SA1019 AWS signs instance identity documents with DSA
	"crypto/dsa"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/smallstep/pkcs7"

	"berth/auth"
	"berth/auth/outbound"
	"berth/metadata"
)

// DocumentOptions of Documents. DB is required, and one of Certificates and HelperURL.
type DocumentOptions struct {
	DB *metadata.DB
	// Certificates verify AWS's signature here.
	Certificates *Certificates
	// HelperURL is a service that verifies it instead, Pier One's HTTP_IIDINFO_URL:
	// it gets POST {"iid_signature": "..."} and answers 200 for a good one.
	HelperURL string
	// HelperRepositories is a glob on what instances may pull for which the helper
	// vouches; it names no account. The default is "*".
	HelperRepositories string
	// MaxAge refuses documents of instances that were started longer ago; 0 takes
	// any. A document does not expire by itself.
	MaxAge time.Duration
	// Roots are the certificate authorities of the helper; nil is the system's.
	Roots *x509.CertPool
	// Clock is time.Now by default.
	Clock func() time.Time
}

// Documents recognises EC2 instances by their instance identity document. The
// user name is DocumentUser, the password the text of
// http://169.254.169.254/latest/dynamic/instance-identity/pkcs7 (or rsa2048), with
// its line breaks or without. They may pull, and nothing else. Safe for
// concurrent use.
type Documents struct {
	options DocumentOptions
	client  *http.Client
	vouched *memory[struct{}]
	turns   *auth.Turns
}

// helperTimeout is what Pier One gave its helper.
const helperTimeout = 2 * time.Second

// NewDocuments makes the authenticator of instances.
func NewDocuments(o DocumentOptions) (*Documents, error) {
	if o.DB == nil || (o.Certificates == nil) == (o.HelperURL == "") {
		return nil, errors.New("aws: a database and either certificates or a helper are required")
	}
	if o.HelperURL != "" {
		if err := ValidHelperURL(o.HelperURL); err != nil {
			return nil, fmt.Errorf("aws: %w", err)
		}
	}
	if o.HelperRepositories == "" {
		o.HelperRepositories = "*"
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	return &Documents{options: o, client: newClient(o.Roots, helperTimeout), vouched: newMemory[struct{}](o.Clock), turns: auth.NewTurns(perAddress)}, nil
}

// ValidHelperURL says what is wrong with the URL of a helper.
func ValidHelperURL(v string) error {
	if u, err := url.Parse(v); err != nil || u.Host == "" || u.Scheme != "https" && !outbound.IsLoopbackHTTP(u) {
		return fmt.Errorf("%q does not begin with https://, and an identity document is a credential; http:// is for this machine itself", v)
	}
	return nil
}

// documentFor is how long what was made of a document holds. It does not expire by
// itself, so it has to be shown again.
const documentFor = time.Hour

// maxDocument bounds a password that holds a document, in bytes. AWS's are about 2 KiB.
const maxDocument = 16 << 10

// Authenticate verifies an instance identity document.
func (a *Documents) Authenticate(ctx context.Context, c auth.Credentials) (auth.Principal, error) {
	if c.Username != DocumentUser || c.Bearer != "" {
		return auth.Principal{}, auth.ErrNotMine
	}
	if c.Password == "" || len(c.Password) > maxDocument || strings.Contains(c.Password, ":") {
		return auth.Principal{}, auth.Wrongf("the password is not an instance identity document with a PKCS7 signature")
	}
	if a.options.HelperURL != "" {
		return a.ask(ctx, c)
	}
	d, err := a.verify(c.Password)
	if err != nil {
		return auth.Principal{}, err
	}
	p, err := rights(ctx, a.options.DB, "aws:"+d.AccountID, d.AccountID, "", d.claims())
	if err != nil {
		return auth.Principal{}, err
	}
	p.Limit.Actions &= auth.Pull
	p.Expires = a.options.Clock().Add(documentFor)
	return p, nil
}

// Unguessable reports whether the credentials are an instance's: a signature
// cannot be guessed, and all instances share a user name.
func (a *Documents) Unguessable(c auth.Credentials) bool { return c.Username == DocumentUser }

// document is what is used of an instance identity document.
type document struct {
	AccountID   string    `json:"accountId"`
	InstanceID  string    `json:"instanceId"`
	Region      string    `json:"region"`
	PendingTime time.Time `json:"pendingTime"`
}

var instanceRE = regexp.MustCompile(`^i-[0-9a-f]{8,32}$`)

func (d document) claims() map[string]string {
	return map[string]string{"aws_account": d.AccountID, "aws_instance": d.InstanceID, "aws_region": d.Region}
}

// decode takes the PKCS7 message out of a password: base64, whose lines clients
// may have joined by spaces or by nothing, with PEM armour or without.
func decode(password string) (*pkcs7.PKCS7, document, error) {
	var d document
	for _, armour := range []string{"-----BEGIN PKCS7-----", "-----END PKCS7-----"} {
		password = strings.ReplaceAll(password, armour, "")
	}
	raw, err := base64.StdEncoding.Strict().DecodeString(strings.Join(strings.Fields(password), ""))
	if err != nil {
		return nil, d, auth.Wrongf("the password is not base64: give the text of .../instance-identity/pkcs7 as it is")
	}
	message, err := pkcs7.Parse(raw)
	if err != nil {
		return nil, d, auth.Wrongf("the password is not a PKCS7 signature: give the text of .../instance-identity/pkcs7 as it is")
	}
	if len(message.Signers) != 1 {
		return nil, d, auth.Wrongf("the PKCS7 message has %d signatures, one is expected", len(message.Signers))
	}
	if len(message.Content) == 0 {
		return nil, d, auth.Wrongf("the PKCS7 signature is detached: the document itself has to be in it")
	}
	if json.Unmarshal(message.Content, &d) != nil || !metadata.IsAccount(d.AccountID) || !regionRE.MatchString(d.Region) || !instanceRE.MatchString(d.InstanceID) || d.PendingTime.IsZero() {
		return nil, d, auth.Wrongf("what the PKCS7 message holds is not an instance identity document")
	}
	return message, d, nil
}

// clockSkew is how far in the future AWS's times may lie.
const clockSkew = 5 * time.Minute

// verify checks the signature by a certificate of the operator's. Those that the
// message brings along are of no account.
func (a *Documents) verify(password string) (document, error) {
	message, d, err := decode(password)
	if err != nil {
		return document{}, err
	}
	now := a.options.Clock()
	message.Certificates = a.options.Certificates.of(d.Region)
	cert := message.GetOnlySigner()
	switch {
	case cert == nil:
		return document{}, auth.Wrongf("the document is for the region %.40s, and is not signed by a certificate that is known here for it: the operator of this registry sets them (aws_certificates)", d.Region)
	case now.Before(cert.NotBefore) || now.After(cert.NotAfter):
		return document{}, auth.Wrongf("AWS's certificate for the region %.40s is not valid at this time, tell the operator of this registry", d.Region)
	}
	if !signed(message, cert) {
		return document{}, auth.Wrongf("the signature of the instance identity document is wrong")
	}
	switch age := now.Sub(d.PendingTime); {
	case age < -clockSkew:
		return document{}, auth.Wrongf("the instance identity document is from the future")
	case a.options.MaxAge > 0 && age > a.options.MaxAge:
		return document{}, auth.Wrongf("the instance was started on %s, documents older than %s are not taken here: sign in as an IAM role", d.PendingTime.UTC().Format(time.RFC3339), a.options.MaxAge)
	}
	return d, nil
}

// OIDs of what AWS signs with.
var (
	oidSHA256        = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 1}
	oidSHA384        = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 2}
	oidSHA512        = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 3}
	oidDSAWithSHA256 = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 3, 2}
)

// signed reports whether the certificate's key signed the message's content.
func signed(message *pkcs7.PKCS7, cert *x509.Certificate) bool {
	signer := message.Signers[0]
	if len(signer.AuthenticatedAttributes) > 0 {
		// RFC 5652, 11.1: what is signed is of the type data, and not something else
		// that the same key signs.
		var kind asn1.ObjectIdentifier
		if err := message.UnmarshalSignedAttribute(pkcs7.OIDAttributeContentType, &kind); err != nil || !kind.Equal(pkcs7.OIDData) {
			return false
		}
	}
	digest := signer.DigestAlgorithm.Algorithm
	switch key := cert.PublicKey.(type) {
	case *rsa.PublicKey:
		return (digest.Equal(oidSHA256) || digest.Equal(oidSHA384) || digest.Equal(oidSHA512)) && message.Verify() == nil
	case *dsa.PublicKey:
		// The library leaves DSA to crypto/x509, which has dropped it.
		return signedDSA(message, key)
	}
	return false
}

func signedDSA(message *pkcs7.PKCS7, key *dsa.PublicKey) bool {
	signer := message.Signers[0]
	var hash crypto.Hash
	switch digest := signer.DigestAlgorithm.Algorithm; {
	case digest.Equal(pkcs7.OIDDigestAlgorithmSHA1): // AWS's for DSA
		hash = crypto.SHA1
	case digest.Equal(oidSHA256):
		hash = crypto.SHA256
	default:
		return false
	}
	if a := signer.DigestEncryptionAlgorithm.Algorithm; !a.Equal(pkcs7.OIDDigestAlgorithmDSA) && !a.Equal(pkcs7.OIDDigestAlgorithmDSASHA1) && !a.Equal(oidDSAWithSHA256) {
		return false
	}
	content := message.Content
	if len(signer.AuthenticatedAttributes) > 0 {
		// RFC 5652, 5.4: then the attributes are signed, and one of them is the
		// digest of the content.
		var claimed []byte
		if err := message.UnmarshalSignedAttribute(pkcs7.OIDAttributeMessageDigest, &claimed); err != nil || subtle.ConstantTimeCompare(claimed, sum(hash, content)) != 1 {
			return false
		}
		attributes, err := asn1.MarshalWithParams(signer.AuthenticatedAttributes, "set")
		if err != nil {
			return false
		}
		content = attributes
	}
	var signature struct{ R, S *big.Int }
	if rest, err := asn1.Unmarshal(signer.EncryptedDigest, &signature); err != nil || len(rest) != 0 {
		return false
	}
	if again, err := asn1.Marshal(signature); err != nil || !bytes.Equal(again, signer.EncryptedDigest) {
		return false
	}
	// FIPS 186-3, 4.6: as many bits of the digest as the subgroup has.
	digest := sum(hash, content)
	return dsa.Verify(key, digest[:min(len(digest), key.Q.BitLen()/8)], signature.R, signature.S)
}

func sum(hash crypto.Hash, content []byte) []byte {
	if hash == crypto.SHA1 {
		s := sha1.Sum(content)
		return s[:]
	}
	s := sha256.Sum256(content)
	return s[:]
}

// ask has the helper verify a document. Pier One took every trouble with the
// helper for a refusal; here only its answer is one, and trouble is a 503.
func (a *Documents) ask(ctx context.Context, c auth.Credentials) (auth.Principal, error) {
	password := c.Password
	if _, ok := a.vouched.get(password); !ok {
		body, err := json.Marshal(map[string]string{"iid_signature": password})
		if err != nil {
			return auth.Principal{}, err
		}
		r, err := http.NewRequestWithContext(ctx, http.MethodPost, a.options.HelperURL, bytes.NewReader(body))
		if err != nil {
			return auth.Principal{}, err
		}
		r.Header.Set("Content-Type", "application/json")
		release, err := a.turns.Take(ctx, c.RemoteAddr)
		if err != nil {
			return auth.Principal{}, err
		}
		defer release()
		status, _, _, err := do(a.client, r, "the service that checks instance identity documents")
		if err != nil {
			return auth.Principal{}, err
		}
		if status != http.StatusOK {
			return auth.Principal{}, auth.Wrongf("the instance identity document is refused by the service that checks it")
		}
		a.vouched.put(password, struct{}{}, time.Time{})
	}
	// The helper says good or bad, no more. It vouched for this very text, so the
	// document in it tells who this is, if it can be read.
	p := auth.Principal{
		Kind: auth.KindMachine, Name: "aws:instance", Expires: a.options.Clock().Add(documentFor),
		Limit: &auth.Limit{Repositories: a.options.HelperRepositories, Actions: auth.Pull},
	}
	if _, d, err := decode(password); err == nil {
		p.Name, p.Claims = "aws:"+d.AccountID, d.claims()
	}
	return p, nil
}
