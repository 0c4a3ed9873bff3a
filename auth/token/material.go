package token

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"berth/oci"
)

// The algorithms that we sign with, by their JWS names (RFC 7518, section 3.1;
// RFC 8037). One key has exactly one of them, and a token that says another is
// refused unread.
const (
	ES256 = "ES256" // EC P-256
	ES384 = "ES384" // EC P-384
	RS256 = "RS256" // RSA of 2048 bits and more
	EdDSA = "EdDSA" // Ed25519; for our own tokens only, the registries that take our tokens do not know it
)

// Algorithms lists those that keys can be made for.
func Algorithms() []string { return []string{ES256, ES384, RS256, EdDSA} }

// Bounds of keys. More bits than maxRSABits cost a second for each signature.
const (
	minRSABits  = 2048
	maxRSABits  = 8192
	madeRSABits = 3072
	// maxKeyFile bounds the text of a key and its certificates, in bytes.
	maxKeyFile = 64 << 10
	// maxChain bounds the certificates of a key: each travels in every token's header.
	maxChain = 4
)

func signingMethod(algorithm string) jwt.SigningMethod {
	switch algorithm {
	case ES256:
		return jwt.SigningMethodES256
	case ES384:
		return jwt.SigningMethodES384
	case RS256:
		return jwt.SigningMethodRS256
	case EdDSA:
		return jwt.SigningMethodEdDSA
	}
	return nil
}

// Material is a private key with its certificates.
type Material struct {
	private   crypto.Signer
	algorithm string
	kid       string
	chain     []*x509.Certificate // that of the key first; may be empty
}

// KID is the key's RFC 7638 thumbprint.
func (m *Material) KID() string { return m.kid }

// Algorithm is the JWS name of the algorithm that the key signs with.
func (m *Material) Algorithm() string { return m.algorithm }

// newMaterial says what a key is for, or why it is for nothing.
func newMaterial(private any) (*Material, error) {
	m := &Material{}
	switch k := private.(type) {
	case *ecdsa.PrivateKey:
		switch k.Curve {
		case elliptic.P256():
			m.algorithm = ES256
		case elliptic.P384():
			m.algorithm = ES384
		default:
			return nil, fmt.Errorf("the curve %s is not supported: use P-256 or P-384", k.Curve.Params().Name)
		}
		m.private = k
	case *rsa.PrivateKey:
		if bits := k.N.BitLen(); bits < minRSABits || bits > maxRSABits {
			return nil, fmt.Errorf("the RSA key has %d bits: use one of %d to %d", bits, minRSABits, maxRSABits)
		}
		m.algorithm, m.private = RS256, k
	case ed25519.PrivateKey:
		m.algorithm, m.private = EdDSA, k
	default:
		return nil, errors.New("the key is of another kind: use EC P-256 or P-384, RSA or Ed25519")
	}
	var err error
	m.kid, err = thumbprint(m.private.Public())
	return m, err
}

// generate makes a key, whose id can stand in a command line: it does not begin
// with a dash.
func generate(algorithm string) (*Material, error) {
	for {
		m, err := generateAny(algorithm)
		if err != nil || m.kid[0] != '-' {
			return m, err
		}
	}
}

func generateAny(algorithm string) (*Material, error) {
	var (
		private any
		err     error
	)
	switch algorithm {
	case ES256:
		private, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case ES384:
		private, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case RS256:
		private, err = rsa.GenerateKey(rand.Reader, madeRSABits)
	case EdDSA:
		_, private, err = ed25519.GenerateKey(rand.Reader)
	default:
		return nil, oci.Errorf(oci.CodeInvalid, "there is no algorithm %.20q: use ES256, ES384, RS256 or EdDSA", algorithm)
	}
	if err != nil {
		return nil, err
	}
	return newMaterial(private)
}

// ParseMaterial reads a private key in PEM (PKCS #1, SEC 1 or PKCS #8, not
// encrypted), and the certificates that stand with it or in more texts: that of
// the key, and those that lead from it to its authority, in any order. That is
// what cert-manager writes, as two files or as one. The error is for an operator
// and holds nothing of the key.
func ParseMaterial(texts ...[]byte) (*Material, error) {
	var m *Material
	var certificates []*x509.Certificate
	for _, rest := range texts {
		if len(rest) > maxKeyFile {
			return nil, fmt.Errorf("it is larger than %d KiB, which no key is", maxKeyFile>>10)
		}
		for {
			var block *pem.Block
			if block, rest = pem.Decode(rest); block == nil {
				break
			}
			var private any
			var err error
			switch block.Type {
			case "CERTIFICATE":
				c, err := x509.ParseCertificate(block.Bytes)
				if err != nil {
					return nil, fmt.Errorf("a certificate cannot be read: %w", err)
				}
				if len(certificates) == maxChain {
					return nil, fmt.Errorf("there are more than %d certificates: leave out those that do not lead from the key to its authority", maxChain)
				}
				certificates = append(certificates, c)
				continue
			case "PRIVATE KEY":
				private, err = x509.ParsePKCS8PrivateKey(block.Bytes)
			case "EC PRIVATE KEY":
				private, err = x509.ParseECPrivateKey(block.Bytes)
			case "RSA PRIVATE KEY":
				if block.Headers["DEK-Info"] != "" {
					return nil, errors.New("the private key is encrypted: decrypt it first (openssl pkey -in FILE)")
				}
				private, err = x509.ParsePKCS1PrivateKey(block.Bytes)
			case "ENCRYPTED PRIVATE KEY":
				return nil, errors.New("the private key is encrypted: decrypt it first (openssl pkey -in FILE)")
			case "EC PARAMETERS": // openssl ecparam writes them before the key, which names its curve itself
				continue
			default:
				return nil, fmt.Errorf("a PEM block %.40q is neither a private key nor a certificate", block.Type)
			}
			if err != nil {
				return nil, fmt.Errorf("the %s cannot be read: it is damaged, or of another kind than it says", block.Type)
			}
			if m != nil {
				return nil, errors.New("there are two private keys: leave one")
			}
			if m, err = newMaterial(private); err != nil {
				return nil, err
			}
		}
	}
	if m == nil {
		return nil, errors.New("there is no private key in PEM (PRIVATE KEY, EC PRIVATE KEY or RSA PRIVATE KEY)")
	}
	var err error
	m.chain, err = orderChain(m.private.Public(), certificates)
	return m, err
}

// orderChain puts the certificate of the key first, then that of its issuer, and so on.
func orderChain(public crypto.PublicKey, certificates []*x509.Certificate) ([]*x509.Certificate, error) {
	if len(certificates) == 0 {
		return nil, nil
	}
	var chain []*x509.Certificate
	for _, c := range certificates {
		if samePublic(c.PublicKey, public) && (chain == nil || c.NotAfter.After(chain[0].NotAfter)) {
			chain = []*x509.Certificate{c}
		}
	}
	if chain == nil {
		return nil, errors.New("none of the certificates is that of the private key")
	}
	for last := chain[0]; !bytes.Equal(last.RawIssuer, last.RawSubject); {
		var issuer *x509.Certificate
		for _, c := range certificates {
			if bytes.Equal(c.RawSubject, last.RawIssuer) && last.CheckSignatureFrom(c) == nil {
				issuer = c
			}
		}
		if issuer == nil || len(chain) == maxChain {
			break
		}
		chain, last = append(chain, issuer), issuer
	}
	return chain, nil
}

func samePublic(a, b crypto.PublicKey) bool {
	k, ok := a.(interface{ Equal(crypto.PublicKey) bool })
	return ok && k.Equal(b)
}

// encode gives the forms that the database keeps.
func (m *Material) encode() (private, certificates string, err error) {
	der, err := x509.MarshalPKCS8PrivateKey(m.private)
	if err != nil {
		return "", "", err
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})), pemChain(m.chain), nil
}

func pemChain(chain []*x509.Certificate) string {
	var b bytes.Buffer
	for _, c := range chain {
		_ = pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}) // a buffer takes all
	}
	return b.String()
}

// certify gives a key that has no certificate one that it signs itself. Those who
// verify by certificates know it from our bundle; a name in it means nothing.
func (m *Material) certify(name string, now time.Time, life time.Duration) error {
	if len(m.chain) > 0 {
		return nil
	}
	var serial [16]byte
	_, _ = rand.Read(serial[:]) // never fails: see crypto/rand
	serial[0] = serial[0]&0x3f | 0x40
	if len(name) > 64 {
		name = name[:64] // ub-common-name, RFC 5280 appendix A
	}
	template := &x509.Certificate{
		SerialNumber:          new(big.Int).SetBytes(serial[:]),
		Subject:               pkix.Name{Organization: []string{"Berth"}, OrganizationalUnit: []string{"token signing"}, CommonName: name},
		NotBefore:             now.Add(-time.Hour), // for those whose clocks are behind
		NotAfter:              now.Add(life),
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, m.private.Public(), m.private)
	if err != nil {
		return fmt.Errorf("making a certificate: %w", err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return err
	}
	m.chain = []*x509.Certificate{c}
	return nil
}

// JWK is a public key as RFC 7517 writes it.
type JWK struct {
	KeyType   string `json:"kty"`
	Curve     string `json:"crv,omitempty"`
	X         string `json:"x,omitempty"`
	Y         string `json:"y,omitempty"`
	N         string `json:"n,omitempty"`
	E         string `json:"e,omitempty"`
	ID        string `json:"kid"`
	Use       string `json:"use"`
	Algorithm string `json:"alg"`
}

// JWKS is a set of public keys, as others fetch it to check our tokens.
type JWKS struct {
	Keys []JWK `json:"keys"`
}

// publicJWK gives the members of a public key that its kind has.
func publicJWK(public crypto.PublicKey) (JWK, error) {
	text := base64.RawURLEncoding.EncodeToString
	switch k := public.(type) {
	case *ecdsa.PublicKey:
		point, err := k.Bytes() // 4, x, y, each with its full length (RFC 7518, 6.2.1.2)
		if err != nil {
			return JWK{}, fmt.Errorf("encoding a public key: %w", err)
		}
		half := len(point) / 2
		return JWK{KeyType: "EC", Curve: k.Curve.Params().Name, X: text(point[1 : 1+half]), Y: text(point[1+half:])}, nil
	case *rsa.PublicKey:
		return JWK{KeyType: "RSA", N: text(k.N.Bytes()), E: text(big.NewInt(int64(k.E)).Bytes())}, nil
	case ed25519.PublicKey:
		return JWK{KeyType: "OKP", Curve: "Ed25519", X: text(k)}, nil
	}
	return JWK{}, errors.New("encoding a public key: it is of an unknown kind")
}

// thumbprint is RFC 7638: the SHA-256 of the required members in lexical order.
func thumbprint(public crypto.PublicKey) (string, error) {
	j, err := publicJWK(public)
	if err != nil {
		return "", err
	}
	var members []byte
	switch j.KeyType {
	case "EC":
		members = fmt.Appendf(nil, `{"crv":%q,"kty":"EC","x":%q,"y":%q}`, j.Curve, j.X, j.Y)
	case "RSA":
		members = fmt.Appendf(nil, `{"e":%q,"kty":"RSA","n":%q}`, j.E, j.N)
	default:
		members = fmt.Appendf(nil, `{"crv":%q,"kty":"OKP","x":%q}`, j.Curve, j.X)
	}
	sum := sha256.Sum256(members)
	return base64.RawURLEncoding.EncodeToString(sum[:]), nil
}
