package metadata

import (
	"context"
	"database/sql"
	"errors"
	"time"
)

// AcquireLease takes or renews a named lease for a holder, and reports whether
// the holder has it now. A lease ends by itself after ttl.
func (tx *Tx) AcquireLease(ctx context.Context, name, holder string, ttl time.Duration) (bool, error) {
	n, err := tx.exec(ctx, `
		INSERT INTO leases AS l (name, holder, expires_at) VALUES ($1, $2, $3)
		ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, expires_at = excluded.expires_at
		 WHERE l.holder = excluded.holder OR l.expires_at <= $4`,
		name, holder, micros(tx.now.Add(ttl)), micros(tx.now))
	return n > 0, err
}

// ReleaseLease ends a lease that the holder has; one of somebody else stays.
func (tx *Tx) ReleaseLease(ctx context.Context, name, holder string) error {
	_, err := tx.exec(ctx, `DELETE FROM leases WHERE name = $1 AND holder = $2`, name, holder)
	return err
}

// PassLease gives a lease that one holder still has to another, for ttl from now. It
// reports false when the first does not have it, and then changes nothing.
func (tx *Tx) PassLease(ctx context.Context, name, from, to string, ttl time.Duration) (bool, error) {
	n, err := tx.exec(ctx, `
		UPDATE leases SET holder = $3, expires_at = $4 WHERE name = $1 AND holder = $2 AND expires_at > $5`,
		name, from, to, micros(tx.now.Add(ttl)), micros(tx.now))
	return n > 0, err
}

// LeaseHolder says who has a lease now; "" is nobody.
func (tx *Tx) LeaseHolder(ctx context.Context, name string) (holder string, err error) {
	err = tx.row(ctx, `SELECT holder FROM leases WHERE name = $1 AND expires_at > $2`, name, micros(tx.now)).Scan(&holder)
	if errors.Is(err, sql.ErrNoRows) {
		err = nil
	}
	return holder, err
}

// RenewLease prolongs a lease that the holder still has. It reports false when
// that has run out or was taken away, and then takes nothing.
func (tx *Tx) RenewLease(ctx context.Context, name, holder string, ttl time.Duration) (bool, error) {
	n, err := tx.exec(ctx, `UPDATE leases SET expires_at = $3 WHERE name = $1 AND holder = $2 AND expires_at > $4`,
		name, holder, micros(tx.now.Add(ttl)), micros(tx.now))
	return n > 0, err
}
