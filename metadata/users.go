package metadata

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"time"

	"berth/oci"
)

// The roles of a user in the instance.
const (
	RoleUser  = "user"
	RoleAdmin = "admin"
)

// User is a person who signs in.
type User struct {
	ID           int64
	Name         string
	PasswordHash string // PHC string; "" cannot sign in with a password
	Role         string // user or admin
	Disabled     bool
	CreatedAt    time.Time
	UpdatedAt    time.Time

	Source        string     // who vouches: SourceLocal, or the name of a provider
	Subject       string     // the provider's id of the user; "" for local users
	ProviderAdmin bool       // the provider gives the role admin
	SeenAt        *time.Time // when the provider last vouched; nil for local users
}

// IsAdmin reports whether the user administers the instance, by the role here or
// by the provider's word.
func (u User) IsAdmin() bool { return u.Role == RoleAdmin || u.ProviderAdmin }

const userColumns = `id, name, password_hash, role, disabled, created_at, updated_at, source, COALESCE(subject, ''), provider_admin, seen_at`

func scanUser(scan func(...any) error) (User, error) {
	var u User
	var created, updated int64
	var seen sql.NullInt64
	err := scan(&u.ID, &u.Name, &u.PasswordHash, &u.Role, &u.Disabled, &created, &updated, &u.Source, &u.Subject, &u.ProviderAdmin, &seen)
	u.CreatedAt, u.UpdatedAt, u.SeenAt = fromMicros(created), fromMicros(updated), timePtr(seen)
	return u, err
}

func errUserUnknown(name string) *oci.Error {
	return oci.Errorf(oci.CodeNotFound, "there is no user %s", name)
}

// CreateUser makes a user, or returns CONFLICT when the name is taken. A user with the
// Source of a provider and no Subject is taken over at the first sign-in by that provider.
// A name that differs from another user's in upper and lower case only is taken, too:
// nobody shall be mistaken for somebody else.
func (tx *Tx) CreateUser(ctx context.Context, u User) (User, error) {
	if err := tx.checkLookAlike(ctx, u.Name); err != nil {
		return User{}, err
	}
	made, err := scanUser(tx.row(ctx, `
		INSERT INTO users (name, password_hash, role, disabled, created_at, updated_at, source)
		VALUES ($1, $2, $3, $4, $5, $5, $6)
		ON CONFLICT (name) DO NOTHING
		RETURNING `+userColumns, u.Name, u.PasswordHash, u.Role, u.Disabled, micros(tx.now), cmp.Or(u.Source, SourceLocal)).Scan)
	return made, notFound(err, oci.Errorf(oci.CodeConflict, "the user %s exists already", u.Name))
}

// checkLookAlike returns CONFLICT when a user has a name that differs in case only. Until
// the transaction ends nobody else makes one.
func (tx *Tx) checkLookAlike(ctx context.Context, name string) error {
	if err := tx.dialect().LockTable(ctx, tx.sql, "users"); err != nil {
		return err
	}
	var other string
	err := tx.row(ctx, `SELECT name FROM users WHERE lower(name) = lower($1) AND name <> $1 LIMIT 1`, name).Scan(&other)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	if err != nil {
		return err
	}
	return oci.Errorf(oci.CodeConflict, "the user name %s differs from that of the user %s in upper and lower case only: choose another one", name, other)
}

// CreateFirstAdmin makes the first user, an admin, and reports whether it did:
// of any number of replicas that start on an empty database one does.
func (tx *Tx) CreateFirstAdmin(ctx context.Context, name, passwordHash string) (bool, error) {
	if err := tx.dialect().LockTable(ctx, tx.sql, "users"); err != nil {
		return false, err
	}
	n, err := tx.exec(ctx, `
		INSERT INTO users (name, password_hash, role, disabled, created_at, updated_at)
		SELECT $1, $2, 'admin', FALSE, $3, $3 WHERE NOT EXISTS (SELECT 1 FROM users)
		ON CONFLICT (name) DO NOTHING`, name, passwordHash, micros(tx.now))
	return n > 0, err
}

// HasUsers reports whether there is any user.
func (tx *Tx) HasUsers(ctx context.Context) (has bool, err error) {
	return has, tx.row(ctx, `SELECT EXISTS (SELECT 1 FROM users)`).Scan(&has)
}

// User finds a user by name, or returns NOT_FOUND.
func (tx *Tx) User(ctx context.Context, name string) (User, error) {
	u, err := scanUser(tx.row(ctx, `SELECT `+userColumns+` FROM users WHERE name = $1`, name).Scan)
	return u, notFound(err, errUserUnknown(name))
}

// UserByID finds a user by id, or returns NOT_FOUND.
func (tx *Tx) UserByID(ctx context.Context, id int64) (User, error) {
	u, err := scanUser(tx.row(ctx, `SELECT `+userColumns+` FROM users WHERE id = $1`, id).Scan)
	return u, notFound(err, oci.Errorf(oci.CodeNotFound, "there is no such user"))
}

// Users lists users behind a name, in byte order.
func (tx *Tx) Users(ctx context.Context, after string, limit int) ([]User, error) {
	return list(ctx, tx, func(rows *sql.Rows) (User, error) { return scanUser(rows.Scan) },
		`SELECT `+userColumns+` FROM users WHERE name > $1 ORDER BY name LIMIT $2`, after, limit)
}

// UserChange says what to change of a user; nil leaves a field as it is.
type UserChange struct {
	PasswordHash *string
	Role         *string
	Disabled     *bool
}

// UpdateUser changes a user. It returns NOT_FOUND, or CONFLICT when no enabled
// admin would be left.
func (tx *Tx) UpdateUser(ctx context.Context, name string, c UserChange) (User, error) {
	if err := tx.lockAdmins(ctx); err != nil {
		return User{}, err
	}
	u, err := scanUser(tx.row(ctx, `
		UPDATE users SET password_hash = COALESCE($2, password_hash), role = COALESCE($3, role),
		                 disabled = COALESCE($4, disabled), updated_at = $5
		 WHERE name = $1 RETURNING `+userColumns,
		name, c.PasswordHash, c.Role, c.Disabled, micros(tx.now)).Scan)
	if err != nil {
		return User{}, notFound(err, errUserUnknown(name))
	}
	return u, tx.checkAdminLeft(ctx, name)
}

// DeleteUser removes a user with memberships and tokens. It returns NOT_FOUND,
// or CONFLICT when no enabled admin would be left.
func (tx *Tx) DeleteUser(ctx context.Context, name string) error {
	if err := tx.lockAdmins(ctx); err != nil {
		return err
	}
	n, err := tx.exec(ctx, `DELETE FROM users WHERE name = $1`, name)
	if err != nil {
		return err
	}
	if n == 0 {
		return errUserUnknown(name)
	}
	return tx.checkAdminLeft(ctx, name)
}

// lockAdmins makes changes of admins wait for each other, so that two of them
// cannot each leave the other one as the last.
func (tx *Tx) lockAdmins(ctx context.Context) error {
	return tx.each(ctx, func(*sql.Rows) error { return nil },
		`SELECT id FROM users WHERE role = 'admin' AND NOT disabled ORDER BY id`+tx.dialect().ForUpdate())
}

func (tx *Tx) checkAdminLeft(ctx context.Context, name string) error {
	var one int
	err := tx.row(ctx, `SELECT 1 FROM users WHERE role = 'admin' AND NOT disabled LIMIT 1`).Scan(&one)
	if errors.Is(err, sql.ErrNoRows) {
		return oci.Errorf(oci.CodeConflict, "%s is the last admin: make somebody else an admin first", name)
	}
	return err
}
