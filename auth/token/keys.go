package token

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"golang.org/x/sync/singleflight"

	"berth/metadata"
)

// algorithm is pinned: a token that says anything else is refused unread.
var algorithm = jwt.SigningMethodES256.Alg()

const (
	// keyringAge is how long the keys are used without a look at the database.
	// A new key is therefore signed with everywhere after this time.
	keyringAge = 5 * time.Minute
	// keyringRetry is the least time between two looks for an unknown key, so that
	// invented key ids cost nothing.
	keyringRetry = time.Second
	// keyringTimeout bounds one look.
	keyringTimeout = 5 * time.Second
)

type key struct {
	id      string // RFC 7638 thumbprint
	private *ecdsa.PrivateKey
}

// keyring is the set of keys, newest first. It is read again when it is old,
// and when a token names a key that it lacks. Nobody waits for the database who
// can do with what is in memory.
type keyring struct {
	db      *metadata.DB
	clock   func() time.Time
	current atomic.Pointer[keyset]
	loads   singleflight.Group
}

// keyset is never changed, only replaced.
type keyset struct {
	keys []*key
	read time.Time
}

func (s *keyset) find(id string) *key {
	for _, k := range s.keys {
		if k.id == id {
			return k
		}
	}
	return nil
}

// openKeyring reads the keys and makes the first one. Of any number of replicas
// that start on an empty database, one makes it and all use it.
func openKeyring(ctx context.Context, db *metadata.DB, clock func() time.Time) (*keyring, error) {
	r := &keyring{db: db, clock: clock}
	set, err := r.load(ctx)
	if err != nil || len(set.keys) > 0 {
		return r, err
	}
	if err := r.create(ctx); err != nil {
		return nil, err
	}
	_, err = r.load(ctx)
	return r, err
}

// create makes a key, unless there is one by now.
func (r *keyring) create(ctx context.Context) error {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	kid, err := thumbprint(&private.PublicKey)
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return err
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	return r.db.Update(ctx, func(tx *metadata.Tx) error {
		_, err := tx.InsertFirstSigningKey(ctx, metadata.SigningKey{KID: kid, Algorithm: algorithm, PrivatePEM: string(text)})
		return err
	})
}

// load reads the keys from the database, once for all who want them at the
// same time. Keys of another algorithm are for other services, and are not
// ours to use.
func (r *keyring) load(ctx context.Context) (*keyset, error) {
	loaded, err, _ := r.loads.Do("", func() (any, error) {
		// The others who wait should not suffer from one client that hangs up.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), keyringTimeout)
		defer cancel()
		var rows []metadata.SigningKey
		err := r.db.View(ctx, func(tx *metadata.Tx) (err error) {
			rows, err = tx.SigningKeys(ctx)
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("reading the signing keys: %w", err)
		}
		set := &keyset{read: r.clock()}
		for _, row := range rows {
			if row.Algorithm != algorithm {
				continue
			}
			k, err := parseKey(row.PrivatePEM)
			if err != nil {
				return nil, fmt.Errorf("signing key %s in the database: %w", row.KID, err)
			}
			set.keys = append(set.keys, k)
		}
		r.current.Store(set)
		return set, nil
	})
	if err != nil {
		return nil, err
	}
	return loaded.(*keyset), nil
}

// fresh gives the keys, read again when they are older than age. When the
// database is down, those that we have go on serving.
func (r *keyring) fresh(ctx context.Context, age time.Duration) (*keyset, error) {
	set := r.current.Load()
	if r.clock().Sub(set.read) <= age {
		return set, nil
	}
	newer, err := r.load(ctx)
	switch {
	case err == nil:
		return newer, nil
	case len(set.keys) > 0:
		return set, nil
	}
	return nil, err
}

// parseKey reads a key and gives it the id that its value has: what stands in
// the row's id does not matter.
func parseKey(text string) (*key, error) {
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		return nil, errors.New("it is not PEM")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("it is not PKCS#8: %w", err)
	}
	private, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || private.Curve != elliptic.P256() {
		return nil, errors.New("it is not an EC P-256 key")
	}
	id, err := thumbprint(&private.PublicKey)
	return &key{id, private}, err
}

// signing gives the newest key.
func (r *keyring) signing(ctx context.Context) (*key, error) {
	set, err := r.fresh(ctx, keyringAge)
	if err != nil {
		return nil, err
	}
	if len(set.keys) == 0 {
		return nil, errors.New("there is no signing key of algorithm ES256 in the database")
	}
	return set.keys[0], nil
}

// find gives the key of an id, or nil when there is none. An error says that
// it could not be found out.
func (r *keyring) find(ctx context.Context, id string) (*key, error) {
	set := r.current.Load()
	if k := set.find(id); k != nil || r.clock().Sub(set.read) < keyringRetry {
		return k, nil
	}
	set, err := r.load(ctx)
	if err != nil {
		return nil, err
	}
	return set.find(id), nil
}

// JWK is a public key as RFC 7517 writes it.
type JWK struct {
	KeyType   string `json:"kty"`
	Curve     string `json:"crv"`
	X         string `json:"x"`
	Y         string `json:"y"`
	ID        string `json:"kid"`
	Use       string `json:"use"`
	Algorithm string `json:"alg"`
}

// JWKS is a set of public keys, as others fetch it to check our tokens.
type JWKS struct {
	Keys []JWK `json:"keys"`
}

// JWKS gives the public keys.
func (i *Issuer) JWKS(ctx context.Context) (JWKS, error) {
	keys, err := i.keys.fresh(ctx, keyringRetry)
	if err != nil {
		return JWKS{}, err
	}
	set := JWKS{Keys: []JWK{}}
	for _, k := range keys.keys {
		x, y, err := coordinates(&k.private.PublicKey)
		if err != nil {
			return JWKS{}, err
		}
		set.Keys = append(set.Keys, JWK{KeyType: "EC", Curve: "P-256", X: x, Y: y, ID: k.id, Use: "sig", Algorithm: algorithm})
	}
	return set, nil
}

// coordinates gives x and y in base64url with the full 32 bytes (RFC 7518, 6.2.1.2).
func coordinates(public *ecdsa.PublicKey) (x, y string, err error) {
	point, err := public.Bytes() // 4, x, y
	if err != nil || len(point) != 65 {
		return "", "", fmt.Errorf("encoding a public key: %w", err)
	}
	return base64.RawURLEncoding.EncodeToString(point[1:33]), base64.RawURLEncoding.EncodeToString(point[33:]), nil
}

// thumbprint is RFC 7638: the SHA-256 of the required members in lexical order.
func thumbprint(public *ecdsa.PublicKey) (string, error) {
	x, y, err := coordinates(public)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(fmt.Appendf(nil, `{"crv":"P-256","kty":"EC","x":%q,"y":%q}`, x, y))
	return base64.RawURLEncoding.EncodeToString(sum[:]), nil
}
