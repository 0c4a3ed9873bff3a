package metadata

import (
	"context"
	"database/sql"
	"net/netip"
	"regexp"
	"strings"
	"time"

	"berth/oci"
)

// Denial refuses some actions, whatever else allows them. All its conditions
// have to hold.
type Denial struct {
	ID         int64
	Name       string
	Principal  string   // pattern on the principal's name (alice, core+*, anonymous); "*" is everybody
	CIDR       string   // the caller's network, such as 10.0.0.0/8; "" is everywhere
	Repository string   // pattern on the repository's name
	Actions    []string // pull, push, delete, admin
	Reason     string   // for those who are refused
	CreatedAt  time.Time
	CreatedBy  string
	UpdatedAt  time.Time
}

// Bounds of denials. All of them are compared in each decision that is made.
const (
	maxDenials      = 500
	maxDenialName   = 128 // bytes
	maxDenialReason = 500 // bytes
)

var (
	denialName       = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]*$`)
	principalPattern = regexp.MustCompile(`^[A-Za-z0-9._@:+/*?-]+$`)
)

// Validate checks a denial that a person wrote. The error is an INVALID.
func (d Denial) Validate() error {
	switch {
	case len(d.Name) > maxDenialName || !denialName.MatchString(d.Name):
		return oci.Errorf(oci.CodeInvalid, "the name of the denial %.140q is not valid: use at most %d lower-case letters, digits, '.', '_' and '-'", d.Name, maxDenialName)
	case len(d.Principal) > maxGrantPattern || !principalPattern.MatchString(d.Principal):
		return oci.Errorf(oci.CodeInvalid, "the pattern %.260q is not valid for names of users and tokens: use such a name (alice, core+ci), in which * stands for any characters and ? for one", d.Principal)
	case len(d.Actions) == 0:
		return oci.Errorf(oci.CodeInvalid, "a denial needs an action: pull, push, delete or admin")
	case len(d.Reason) > maxDenialReason:
		return oci.Errorf(oci.CodeInvalid, "the reason is longer than %d bytes", maxDenialReason)
	}
	if d.CIDR != "" {
		if network, err := netip.ParsePrefix(d.CIDR); err != nil || network.Addr().Is4In6() {
			return oci.Errorf(oci.CodeInvalid, "%.60q is not a network: write it as 10.0.0.0/8 or 2001:db8::/32", d.CIDR)
		}
	}
	return ParsePattern(d.Repository)
}

const denialColumns = `d.id, d.name, d.principal, d.cidr, d.pattern, d.actions, d.reason, d.created_at, d.created_by, d.updated_at`

func scanDenial(scan func(...any) error, more ...any) (Denial, error) {
	var d Denial
	var actions string
	var created, updated int64
	err := scan(append([]any{&d.ID, &d.Name, &d.Principal, &d.CIDR, &d.Repository, &actions, &d.Reason, &created, &d.CreatedBy, &updated}, more...)...)
	d.Actions = splitList(actions)
	d.CreatedAt, d.UpdatedAt = fromMicros(created), fromMicros(updated)
	return d, err
}

func errDenialUnknown(name string) *oci.Error {
	return oci.Errorf(oci.CodeNotFound, "there is no denial %s", name)
}

// AllDenials gives all denials, at most 500, by name, with the version that
// AccessFacts carry: when it has grown, they have changed. One statement.
func (tx *Tx) AllDenials(ctx context.Context) (denials []Denial, version int64, err error) {
	err = tx.each(ctx, func(rows *sql.Rows) error {
		var d Denial
		var id sql.NullInt64
		var actions string
		err := rows.Scan(&version, &id, &d.Name, &d.Principal, &d.CIDR, &d.Repository, &actions, &d.Reason)
		if d.ID, d.Actions = id.Int64, splitList(actions); id.Valid {
			denials = append(denials, d)
		}
		return err
	}, `
		SELECT v.version, d.id, COALESCE(d.name, ''), COALESCE(d.principal, ''), COALESCE(d.cidr, ''), COALESCE(d.pattern, ''), COALESCE(d.actions, ''), COALESCE(d.reason, '')
		  FROM denial_version v LEFT JOIN denials d ON v.id = 1
		 WHERE v.id = 1 ORDER BY d.name`)
	return denials, version, err
}

// Denials lists denials behind a name, in byte order.
func (tx *Tx) Denials(ctx context.Context, after string, limit int) ([]Denial, error) {
	return list(ctx, tx, func(rows *sql.Rows) (Denial, error) { return scanDenial(rows.Scan) },
		`SELECT `+denialColumns+` FROM denials d WHERE d.name > $1 ORDER BY d.name LIMIT $2`, after, limit)
}

// Denial finds a denial, or returns NOT_FOUND.
func (tx *Tx) Denial(ctx context.Context, name string) (Denial, error) {
	d, err := scanDenial(tx.row(ctx, `SELECT `+denialColumns+` FROM denials d WHERE d.name = $1`, name).Scan)
	return d, notFound(err, errDenialUnknown(name))
}

// LockDenials makes changes of denials wait for each other until the transaction
// ends, and counts one: what it is called for has to change something.
func (tx *Tx) LockDenials(ctx context.Context) error {
	_, err := tx.exec(ctx, `UPDATE denial_version SET version = version + 1 WHERE id = 1`)
	return err
}

// PutDenial stores a denial under its name, and says whether it is new. It
// returns INVALID, or CONFLICT for more than 500 denials.
func (tx *Tx) PutDenial(ctx context.Context, d Denial) (stored Denial, created bool, err error) {
	if err := d.Validate(); err != nil {
		return d, false, err
	}
	if err := tx.LockDenials(ctx); err != nil {
		return d, false, err
	}
	var others int
	var exists bool
	err = tx.row(ctx, `SELECT COUNT(*), COUNT(CASE WHEN name = $1 THEN 1 END) > 0 FROM denials`, d.Name).Scan(&others, &exists)
	if err != nil {
		return d, false, err
	}
	if !exists && others >= maxDenials {
		return d, false, oci.Errorf(oci.CodeConflict, "there are %d denials already, which is the limit: delete some, or use wider patterns", maxDenials)
	}
	stored, err = scanDenial(tx.row(ctx, `
		INSERT INTO denials AS d (name, principal, cidr, pattern, actions, reason, created_at, created_by, updated_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $7)
		ON CONFLICT (name) DO UPDATE SET principal = excluded.principal, cidr = excluded.cidr, pattern = excluded.pattern,
		   actions = excluded.actions, reason = excluded.reason, updated_at = excluded.updated_at
		RETURNING id, name, principal, cidr, pattern, actions, reason, created_at, created_by, updated_at`,
		d.Name, d.Principal, d.CIDR, d.Repository, strings.Join(d.Actions, ","), d.Reason, micros(tx.now), d.CreatedBy).Scan)
	return stored, !exists, err
}

// DeleteDenial removes a denial. It returns NOT_FOUND.
func (tx *Tx) DeleteDenial(ctx context.Context, name string) error {
	if err := tx.LockDenials(ctx); err != nil {
		return err
	}
	n, err := tx.exec(ctx, `DELETE FROM denials WHERE name = $1`, name)
	if err == nil && n == 0 {
		return errDenialUnknown(name)
	}
	return err
}
