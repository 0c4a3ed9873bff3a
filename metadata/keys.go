package metadata

import (
	"context"
	"database/sql"
	"time"
)

// SigningKey signs the tokens that the token endpoint hands out.
type SigningKey struct {
	KID        string // RFC 7638 thumbprint
	Algorithm  string // JWS name, e.g. ES256
	PrivatePEM string // PKCS #8
	CreatedAt  time.Time
}

// SigningKeys lists the keys, newest first.
func (tx *Tx) SigningKeys(ctx context.Context) ([]SigningKey, error) {
	return list(ctx, tx, func(rows *sql.Rows) (SigningKey, error) {
		var k SigningKey
		var created int64
		err := rows.Scan(&k.KID, &k.Algorithm, &k.PrivatePEM, &created)
		k.CreatedAt = fromMicros(created)
		return k, err
	}, `SELECT kid, algorithm, private_pem, created_at FROM signing_keys ORDER BY created_at DESC, kid`)
}

// InsertFirstSigningKey stores a key unless there is one, and reports whether
// it did: of any number of replicas that start on an empty database one does.
func (tx *Tx) InsertFirstSigningKey(ctx context.Context, k SigningKey) (bool, error) {
	if err := tx.db.dialect.lockTable(ctx, tx, "signing_keys"); err != nil {
		return false, err
	}
	n, err := tx.exec(ctx, `
		INSERT INTO signing_keys (kid, algorithm, private_pem, created_at)
		SELECT $1, $2, $3, $4 WHERE NOT EXISTS (SELECT 1 FROM signing_keys)`,
		k.KID, k.Algorithm, k.PrivatePEM, micros(tx.now))
	return n > 0, err
}
