package metadata

import (
	"context"
	"database/sql"
	"regexp"
	"strings"
	"time"

	"berth/oci"
)

// Service is another registry that takes our tokens.
type Service struct {
	ID            int64
	Name          string        // the parameter "service" of the token endpoint, and the claim "aud"
	Issuer        string        // the claim "iss"
	TokenTTL      time.Duration // whole seconds
	Algorithm     string        // JWS name of the keys that are made for it: ES256, ES384 or RS256
	AnonymousPull string        // pattern (* and ?) of the repositories that everybody may pull; "" gives no token without credentials
	RefreshTokens bool          // the token endpoint hands out refresh tokens
	OmitX5C       bool          // its tokens name their key (kid) and do not carry its certificates (x5c)
	CreatedAt     time.Time
	UpdatedAt     time.Time
}

const serviceColumns = `id, name, issuer, token_ttl, algorithm, anonymous_pull, refresh_tokens, omit_x5c, created_at, updated_at`

func scanService(scan func(...any) error) (Service, error) {
	var s Service
	var ttl, created, updated int64
	err := scan(&s.ID, &s.Name, &s.Issuer, &ttl, &s.Algorithm, &s.AnonymousPull, &s.RefreshTokens, &s.OmitX5C, &created, &updated)
	s.TokenTTL = time.Duration(ttl) * time.Second
	s.CreatedAt, s.UpdatedAt = fromMicros(created), fromMicros(updated)
	return s, err
}

func errServiceUnknown(name string) *oci.Error {
	return oci.Errorf(oci.CodeNotFound, "there is no service %.128s", name)
}

// Service finds a service, or returns NOT_FOUND.
func (tx *Tx) Service(ctx context.Context, name string) (Service, error) {
	s, err := scanService(tx.row(ctx, `SELECT `+serviceColumns+` FROM services WHERE name = $1`, name).Scan)
	return s, notFound(err, errServiceUnknown(name))
}

// Services lists services behind a name, in byte order.
func (tx *Tx) Services(ctx context.Context, after string, limit int) ([]Service, error) {
	return list(ctx, tx, func(rows *sql.Rows) (Service, error) { return scanService(rows.Scan) },
		`SELECT `+serviceColumns+` FROM services WHERE name > $1 ORDER BY name LIMIT $2`, after, limit)
}

// LockService is Service for a change: the row stays as it is until the
// transaction ends. It returns NOT_FOUND.
func (tx *Tx) LockService(ctx context.Context, name string) (Service, error) {
	s, err := scanService(tx.row(ctx, `SELECT `+serviceColumns+` FROM services WHERE name = $1`+tx.dialect().ForUpdate(), name).Scan)
	return s, notFound(err, errServiceUnknown(name))
}

// serviceName is what a challenge of the protocol can carry between quotes (RFC 9110,
// section 5.6.4), such as a host name or "Docker registry": words of visible ASCII.
var serviceName = regexp.MustCompile(`^[!#-\[\]-~]+( [!#-\[\]-~]+)*$`)

const maxServiceName = 255

// checkService checks the name of a service. "refresh" and a space begin the audience of
// refresh tokens, so no name does.
func checkService(name string) error {
	if len(name) > maxServiceName || !serviceName.MatchString(name) || strings.HasPrefix(name, "refresh ") {
		return oci.Errorf(oci.CodeInvalid, "the service name %.260q is not valid: write it as it stands in the setting of the registry, in at most %d visible ASCII characters with single spaces, without quotes and backslashes, and not beginning with \"refresh \"", name, maxServiceName)
	}
	return nil
}

// PutService makes a service or changes the one of this name, and reports
// whether it made it. When its tokens are to live longer, so do the keys that verify them.
// It returns INVALID for a name of another form.
func (tx *Tx) PutService(ctx context.Context, s Service) (put Service, made bool, err error) {
	if err := checkService(s.Name); err != nil {
		return s, false, err
	}
	n, err := tx.exec(ctx, `
		INSERT INTO services (name, issuer, token_ttl, algorithm, anonymous_pull, refresh_tokens, omit_x5c, created_at, updated_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $8)
		ON CONFLICT (name) DO NOTHING`,
		s.Name, s.Issuer, int64(s.TokenTTL/time.Second), s.Algorithm, s.AnonymousPull, s.RefreshTokens, s.OmitX5C, micros(tx.now))
	if err == nil && n == 0 {
		// A key that has a successor may sign until that one does.
		_, err = tx.exec(ctx, `
			UPDATE signing_keys SET expires_at = expires_at + 1000000 * ($2 - (SELECT token_ttl FROM services WHERE name = $1))
			 WHERE service_id = (SELECT id FROM services WHERE name = $1 AND token_ttl < $2) AND expires_at > $3`,
			s.Name, int64(s.TokenTTL/time.Second), micros(tx.now))
	}
	if err == nil && n == 0 {
		_, err = tx.exec(ctx, `
			UPDATE services SET issuer = $2, token_ttl = $3, algorithm = $4, anonymous_pull = $5, refresh_tokens = $6, omit_x5c = $7, updated_at = $8
			 WHERE name = $1`,
			s.Name, s.Issuer, int64(s.TokenTTL/time.Second), s.Algorithm, s.AnonymousPull, s.RefreshTokens, s.OmitX5C, micros(tx.now))
	}
	if err != nil {
		return Service{}, false, err
	}
	put, err = tx.Service(ctx, s.Name)
	return put, n > 0, err
}

// DeleteService removes a service with its keys; tokens that were issued for it
// are good until they end, where the other registry keeps the certificates. It
// returns NOT_FOUND.
func (tx *Tx) DeleteService(ctx context.Context, name string) error {
	n, err := tx.exec(ctx, `DELETE FROM services WHERE name = $1`, name)
	if err == nil && n == 0 {
		return errServiceUnknown(name)
	}
	return err
}
