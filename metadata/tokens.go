package metadata

import (
	"context"
	"database/sql"
	"strings"
	"time"

	"berth/oci"
)

// The kinds of tokens: a personal one acts for its user, a robot for its team.
const (
	PersonalToken = "personal"
	RobotToken    = "robot"
)

// Token is a secret that signs in, without the secret. Exactly one of User and
// Team owns it.
type Token struct {
	ID           int64
	Kind         string
	Name         string // unique among its owner's
	UserID       int64
	User         string
	TeamID       int64
	Team         string
	Repositories string   // glob on repository names; "*" is all
	Actions      []string // pull, push, delete, admin
	ExpiresAt    *time.Time
	LastUsedAt   *time.Time
	CreatedAt    time.Time
	CreatedBy    string
}

const tokenColumns = `k.id, k.kind, k.name, COALESCE(k.user_id, 0), COALESCE(u.name, ''), COALESCE(k.team_id, 0), COALESCE(t.name, ''),
       k.repositories, k.actions, k.expires_at, k.last_used_at, k.created_at, k.created_by`

const tokenTables = `
  FROM tokens k LEFT JOIN users u ON u.id = k.user_id LEFT JOIN teams t ON t.id = k.team_id`

func scanToken(scan func(...any) error, more ...any) (Token, error) {
	var t Token
	var actions string
	var expires, used sql.NullInt64
	var created int64
	err := scan(append([]any{&t.ID, &t.Kind, &t.Name, &t.UserID, &t.User, &t.TeamID, &t.Team,
		&t.Repositories, &actions, &expires, &used, &created, &t.CreatedBy}, more...)...)
	if actions != "" {
		t.Actions = strings.Split(actions, ",")
	}
	t.ExpiresAt, t.LastUsedAt, t.CreatedAt = timePtr(expires), timePtr(used), fromMicros(created)
	return t, err
}

// CreateToken stores a token of the user or the team named in it, under the
// SHA-256 of its secret (lower-case hex). It returns NOT_FOUND for the owner,
// or CONFLICT when the owner has a token of this name.
func (tx *Tx) CreateToken(ctx context.Context, t Token, secretHash string) (Token, error) {
	var user, team any
	if t.Kind == RobotToken {
		id, err := tx.teamID(ctx, t.Team)
		if err != nil {
			return Token{}, err
		}
		team = id
	} else {
		u, err := tx.User(ctx, t.User)
		if err != nil {
			return Token{}, err
		}
		user = u.ID
	}
	var id int64
	err := tx.row(ctx, `
		INSERT INTO tokens (kind, name, user_id, team_id, secret_hash, repositories, actions, expires_at, created_at, created_by)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
		ON CONFLICT DO NOTHING
		RETURNING id`,
		t.Kind, t.Name, user, team, secretHash, t.Repositories, strings.Join(t.Actions, ","), nullMicros(t.ExpiresAt),
		micros(tx.now), t.CreatedBy).Scan(&id)
	if err != nil {
		return Token{}, notFound(err, oci.Errorf(oci.CodeConflict, "%s%s has a token named %s already", t.User, t.Team, t.Name))
	}
	return scanToken(tx.row(ctx, `SELECT `+tokenColumns+tokenTables+` WHERE k.id = $1`, id).Scan)
}

// TokenOwner is the state of a token's owner.
type TokenOwner struct {
	Admin    bool
	Disabled bool
}

// TokenBySecretHash finds a token by the SHA-256 of its secret, or returns
// NOT_FOUND. Whether it has expired is for the caller to see.
func (tx *Tx) TokenBySecretHash(ctx context.Context, secretHash string) (Token, TokenOwner, error) {
	var owner TokenOwner
	t, err := scanToken(tx.row(ctx, `SELECT `+tokenColumns+`, COALESCE(u.role, '') = 'admin' OR COALESCE(u.provider_admin, FALSE), COALESCE(u.disabled, FALSE)`+tokenTables+`
		 WHERE k.secret_hash = $1`, secretHash).Scan, &owner.Admin, &owner.Disabled)
	return t, owner, notFound(err, oci.Errorf(oci.CodeNotFound, "there is no such token"))
}

// TokenByID finds a token, or returns NOT_FOUND.
func (tx *Tx) TokenByID(ctx context.Context, id int64) (Token, TokenOwner, error) {
	var owner TokenOwner
	t, err := scanToken(tx.row(ctx, `SELECT `+tokenColumns+`, COALESCE(u.role, '') = 'admin' OR COALESCE(u.provider_admin, FALSE), COALESCE(u.disabled, FALSE)`+tokenTables+`
		 WHERE k.id = $1`, id).Scan, &owner.Admin, &owner.Disabled)
	return t, owner, notFound(err, oci.Errorf(oci.CodeNotFound, "there is no such token"))
}

// Token finds a token of a user or of a team by its name, or returns NOT_FOUND.
// Exactly one of user and team is given.
func (tx *Tx) Token(ctx context.Context, user, team, name string) (Token, error) {
	owner, column := user, "u.name"
	if team != "" {
		owner, column = team, "t.name"
	}
	t, err := scanToken(tx.row(ctx, `SELECT `+tokenColumns+tokenTables+` WHERE `+column+` = $1 AND k.name = $2`, owner, name).Scan)
	return t, notFound(err, errTokenUnknown(owner, name))
}

func errTokenUnknown(owner, name string) *oci.Error {
	return oci.Errorf(oci.CodeNotFound, "%s has no token named %s", owner, name)
}

// Tokens lists the tokens of a user or of a team behind a name, in byte order.
// Exactly one of user and team is given.
func (tx *Tx) Tokens(ctx context.Context, user, team, after string, limit int) ([]Token, error) {
	owner, column := user, "u.name"
	if team != "" {
		owner, column = team, "t.name"
	}
	return list(ctx, tx, func(rows *sql.Rows) (Token, error) { return scanToken(rows.Scan) },
		`SELECT `+tokenColumns+tokenTables+` WHERE `+column+` = $1 AND k.name > $2 ORDER BY k.name LIMIT $3`, owner, after, limit)
}

// DeleteToken removes a token of a user or a team by its name, or returns NOT_FOUND.
func (tx *Tx) DeleteToken(ctx context.Context, user, team, name string) error {
	owner, own := user, `user_id = (SELECT id FROM users WHERE name = $1)`
	if team != "" {
		owner, own = team, `team_id = (SELECT id FROM teams WHERE name = $1)`
	}
	n, err := tx.exec(ctx, `DELETE FROM tokens WHERE `+own+` AND name = $2`, owner, name)
	if err == nil && n == 0 {
		return errTokenUnknown(owner, name)
	}
	return err
}

// touchEvery is how exact last_used_at is.
const touchEvery = time.Minute

// TouchToken notes that a token was used now, at most once a minute.
func (tx *Tx) TouchToken(ctx context.Context, id int64) error {
	_, err := tx.exec(ctx, `
		UPDATE tokens SET last_used_at = $2 WHERE id = $1 AND (last_used_at IS NULL OR last_used_at < $3)`,
		id, micros(tx.now), micros(tx.now.Add(-touchEvery)))
	return err
}
