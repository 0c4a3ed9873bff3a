package metadata

import (
	"context"
	"database/sql"
	"time"

	"berth/oci"
)

// Where a signing key came from.
const (
	KeyGenerated = "generated" // made here
	KeyImported  = "imported"  // given by an administrator
	KeyFile      = "file"      // read from a file of the settings
)

// SigningKey signs the tokens that the token endpoint hands out: those for the
// registry itself when ServiceID is 0, else those of one service.
type SigningKey struct {
	ID           int64 // grows with each new key
	ServiceID    int64
	Service      string // name; "" for our own
	KID          string // RFC 7638 thumbprint
	Algorithm    string // JWS name, e.g. ES256
	PrivatePEM   string // PKCS #8
	Certificates string // PEM, that of the key first; "" when none was made yet
	Source       string // KeyGenerated, KeyImported or KeyFile
	CreatedAt    time.Time
	ActiveAt     time.Time  // it signs from then on, until a newer key does
	ExpiresAt    *time.Time // it verifies until then; nil while no key follows it
}

// SigningKeys lists the keys of all services and our own, newest first.
func (tx *Tx) SigningKeys(ctx context.Context) ([]SigningKey, error) {
	return list(ctx, tx, func(rows *sql.Rows) (SigningKey, error) {
		var k SigningKey
		var created, active int64
		var expires sql.NullInt64
		err := rows.Scan(&k.ID, &k.ServiceID, &k.Service, &k.KID, &k.Algorithm, &k.PrivatePEM, &k.Certificates, &k.Source, &created, &active, &expires)
		k.CreatedAt, k.ActiveAt, k.ExpiresAt = fromMicros(created), fromMicros(active), timePtr(expires)
		return k, err
	}, `
		SELECT k.id, COALESCE(k.service_id, 0), COALESCE(s.name, ''), k.kid, k.algorithm, k.private_pem, k.certificates, k.source,
		       k.created_at, k.active_at, k.expires_at
		  FROM signing_keys k LEFT JOIN services s ON s.id = k.service_id
		 ORDER BY k.id DESC`)
}

// keysOf selects the keys of the service $1; 0 is our own.
const keysOf = `COALESCE(service_id, 0) = $1`

// InsertFirstSigningKey stores a key that signs at once, unless its service (or,
// with ServiceID 0, the registry itself) has one, and reports whether it did: of
// any number of replicas that start on an empty database one does. It returns
// NOT_FOUND when the service is gone.
func (tx *Tx) InsertFirstSigningKey(ctx context.Context, k SigningKey) (bool, error) {
	if err := tx.dialect().LockTable(ctx, tx.sql, "signing_keys"); err != nil {
		return false, err
	}
	var has bool
	if err := tx.row(ctx, `SELECT EXISTS (SELECT 1 FROM signing_keys WHERE `+keysOf+`)`, k.ServiceID).Scan(&has); err != nil || has {
		return false, err
	}
	k.ActiveAt = tx.now
	return true, tx.insertSigningKey(ctx, k)
}

// AddSigningKey stores a key that its service signs with from k.ActiveAt on. The
// keys before it verify for as long as keep says after that, and then go. A key
// of the same kid becomes this one. It returns NOT_FOUND when the service is gone.
func (tx *Tx) AddSigningKey(ctx context.Context, k SigningKey, keep time.Duration) error {
	// Two who add at the same time add one after the other: each sees the other's.
	if err := tx.dialect().LockTable(ctx, tx.sql, "signing_keys"); err != nil {
		return err
	}
	if _, err := tx.exec(ctx, `DELETE FROM signing_keys WHERE `+keysOf+` AND kid = $2`, k.ServiceID, k.KID); err != nil {
		return err
	}
	if _, err := tx.exec(ctx, `UPDATE signing_keys SET expires_at = $2 WHERE `+keysOf+` AND expires_at IS NULL`,
		k.ServiceID, micros(k.ActiveAt.Add(keep))); err != nil {
		return err
	}
	return tx.insertSigningKey(ctx, k)
}

func (tx *Tx) insertSigningKey(ctx context.Context, k SigningKey) error {
	var service any
	if k.ServiceID != 0 {
		service = k.ServiceID
	}
	if k.Source == "" {
		k.Source = KeyGenerated
	}
	_, err := tx.exec(ctx, `
		INSERT INTO signing_keys (service_id, kid, algorithm, private_pem, certificates, source, created_at, active_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`,
		service, k.KID, k.Algorithm, k.PrivatePEM, k.Certificates, k.Source, micros(tx.now), micros(k.ActiveAt))
	if tx.dialect().IsForeignKey(err) {
		return oci.Errorf(oci.CodeNotFound, "the service of the key has been deleted").WithCause(err)
	}
	return err
}

// SetKeyCertificates replaces the certificates of a key, when they are still
// what they were: of several replicas that make them one does.
func (tx *Tx) SetKeyCertificates(ctx context.Context, id int64, before, after string) error {
	_, err := tx.exec(ctx, `UPDATE signing_keys SET certificates = $3 WHERE id = $1 AND certificates = $2`, id, before, after)
	return err
}

// RetireSigningKey removes a key at once: what it signed is refused from then
// on. It returns NOT_FOUND, or CONFLICT when no key would be left that signs now.
func (tx *Tx) RetireSigningKey(ctx context.Context, service, kid string) error {
	if err := tx.dialect().LockTable(ctx, tx.sql, "signing_keys"); err != nil {
		return err
	}
	var id, ring int64
	err := tx.row(ctx, `
		SELECT k.id, COALESCE(k.service_id, 0) FROM signing_keys k LEFT JOIN services s ON s.id = k.service_id
		 WHERE COALESCE(s.name, '') = $1 AND k.kid = $2`, service, kid).Scan(&id, &ring)
	if err != nil {
		return notFound(err, oci.Errorf(oci.CodeNotFound, "there is no key %.80s of this service", kid))
	}
	var left bool
	if err := tx.row(ctx, `SELECT EXISTS (SELECT 1 FROM signing_keys WHERE `+keysOf+` AND id <> $2 AND active_at <= $3)`,
		ring, id, micros(tx.now)).Scan(&left); err != nil {
		return err
	}
	if !left {
		return oci.Errorf(oci.CodeConflict, "the key %s is the only one that signs now: rotate first, with a new key that signs at once", kid)
	}
	if _, err := tx.exec(ctx, `DELETE FROM signing_keys WHERE id = $1`, id); err != nil {
		return err
	}
	// When it was the newest, the one before it has no successor any more.
	_, err = tx.exec(ctx, `
		UPDATE signing_keys SET expires_at = NULL
		 WHERE id = (SELECT MAX(id) FROM signing_keys WHERE `+keysOf+`)`, ring)
	return err
}

// DeleteExpiredKeys removes the keys that verify nothing any more, and gives
// their number.
func (tx *Tx) DeleteExpiredKeys(ctx context.Context) (int, error) {
	n, err := tx.exec(ctx, `DELETE FROM signing_keys WHERE expires_at IS NOT NULL AND expires_at <= $1`, micros(tx.now))
	return int(n), err
}
