package metadata

import (
	"cmp"
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strings"
	"time"

	"berth/oci"
)

// The kinds of tokens: a personal one acts for its user, a robot for its team. A
// deploy token is of a team too, for clusters that pull; it never carries admin.
const (
	PersonalToken = "personal"
	RobotToken    = "robot"
	DeployToken   = "deploy"
)

// Token is what signs in, without its secrets. Exactly one of User and Team owns it.
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
	Tags         string   // glob on tags; "" is every tag
	CIDRs        []string // networks from which it may be used; none is everywhere
	ExpiresAt    *time.Time
	LastUsedAt   *time.Time
	LastUsedFrom string // the address of the last use
	CreatedAt    time.Time
	CreatedBy    string
	// Secrets are those that were made for it and may still hold, the oldest first.
	// The last one has no end of its own.
	Secrets []TokenSecret
}

// TokenSecret is one secret of a token, without the secret.
type TokenSecret struct {
	ID         int64
	CreatedAt  time.Time
	ExpiresAt  *time.Time // when another one has taken its place; nil for the newest
	LastUsedAt *time.Time
}

const tokenColumns = `k.id, k.kind, k.name, COALESCE(k.user_id, 0), COALESCE(u.name, ''), COALESCE(k.team_id, 0), COALESCE(t.name, ''),
       k.repositories, k.actions, k.tags, k.cidrs, k.expires_at, k.last_used_at, k.last_used_from, k.created_at, k.created_by`

// tokenSecrets is one text with the secrets of the token k: numbers, 0 for none.
const tokenSecrets = `, COALESCE((SELECT string_agg(CAST(s.id AS TEXT) || ' ' || CAST(s.created_at AS TEXT) || ' ' ||
              CAST(COALESCE(s.expires_at, 0) AS TEXT) || ' ' || CAST(COALESCE(s.last_used_at, 0) AS TEXT), ',')
         FROM token_secrets s WHERE s.token_id = k.id), '')`

const tokenTables = `
  FROM tokens k LEFT JOIN users u ON u.id = k.user_id LEFT JOIN teams t ON t.id = k.team_id`

func scanToken(scan func(...any) error, more ...any) (Token, error) {
	var t Token
	var actions, cidrs string
	var expires, used sql.NullInt64
	var created int64
	err := scan(append([]any{&t.ID, &t.Kind, &t.Name, &t.UserID, &t.User, &t.TeamID, &t.Team,
		&t.Repositories, &actions, &t.Tags, &cidrs, &expires, &used, &t.LastUsedFrom, &created, &t.CreatedBy}, more...)...)
	if actions != "" {
		t.Actions = strings.Split(actions, ",")
	}
	if cidrs != "" {
		t.CIDRs = strings.Split(cidrs, ",")
	}
	t.ExpiresAt, t.LastUsedAt, t.CreatedAt = timePtr(expires), timePtr(used), fromMicros(created)
	return t, err
}

// scanTokenSecrets is scanToken with the column of tokenSecrets.
func scanTokenSecrets(scan func(...any) error) (Token, error) {
	var text string
	t, err := scanToken(scan, &text)
	if err != nil || text == "" {
		return t, err
	}
	optional := func(us int64) *time.Time { return timePtr(sql.NullInt64{Int64: us, Valid: us != 0}) }
	for _, one := range strings.Split(text, ",") {
		var s TokenSecret
		var created, expires, used int64
		if _, err := fmt.Sscan(one, &s.ID, &created, &expires, &used); err != nil {
			return t, fmt.Errorf("reading the secrets of the token %d: %w", t.ID, err)
		}
		s.CreatedAt, s.ExpiresAt, s.LastUsedAt = fromMicros(created), optional(expires), optional(used)
		t.Secrets = append(t.Secrets, s)
	}
	slices.SortFunc(t.Secrets, func(a, b TokenSecret) int { return cmp.Compare(a.ID, b.ID) })
	return t, nil
}

// CreateToken stores a token of the user or the team named in it, under the
// SHA-256 of its secret (lower-case hex). It returns NOT_FOUND for the owner,
// or CONFLICT when the owner has a token of this name, or when somebody has the secret.
func (tx *Tx) CreateToken(ctx context.Context, t Token, secretHash string) (Token, error) {
	var user, team any
	if t.Kind != PersonalToken {
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
		INSERT INTO tokens (kind, name, user_id, team_id, repositories, actions, tags, cidrs, expires_at, created_at, created_by)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
		ON CONFLICT DO NOTHING
		RETURNING id`,
		t.Kind, t.Name, user, team, t.Repositories, strings.Join(t.Actions, ","), t.Tags, strings.Join(t.CIDRs, ","), nullMicros(t.ExpiresAt),
		micros(tx.now), t.CreatedBy).Scan(&id)
	if err != nil {
		return Token{}, notFound(err, oci.Errorf(oci.CodeConflict, "%s%s has a token named %s already", t.User, t.Team, t.Name))
	}
	if err := tx.insertTokenSecret(ctx, id, secretHash); err != nil {
		return Token{}, err
	}
	return scanTokenSecrets(tx.row(ctx, `SELECT `+tokenColumns+tokenSecrets+tokenTables+` WHERE k.id = $1`, id).Scan)
}

func (tx *Tx) insertTokenSecret(ctx context.Context, tokenID int64, secretHash string) error {
	n, err := tx.exec(ctx, `
		INSERT INTO token_secrets (token_id, secret_hash, created_at) VALUES ($1, $2, $3)
		ON CONFLICT (secret_hash) DO NOTHING`, tokenID, secretHash, micros(tx.now))
	if err == nil && n == 0 {
		return oci.Errorf(oci.CodeConflict, "there is a token with this secret already")
	}
	return err
}

// maxTokenSecrets bounds the secrets of one token that hold at the same time.
const maxTokenSecrets = 10

// RotateToken gives a token of a user or of a team a new secret, under its SHA-256.
// Those before it end after the overlap, or when they would have ended anyway; none of
// them lives longer than now for an overlap of 0. It returns NOT_FOUND, or CONFLICT
// when too many old secrets would hold at the same time.
func (tx *Tx) RotateToken(ctx context.Context, user, team, name, secretHash string, overlap time.Duration) (Token, error) {
	t, err := tx.Token(ctx, user, team, name)
	if err != nil {
		return Token{}, err
	}
	// Two rotations at the same moment: the second one sees the secret of the first.
	if err := tx.row(ctx, `SELECT id FROM tokens WHERE id = $1`+tx.dialect().ForUpdate(), t.ID).Scan(&t.ID); err != nil {
		return Token{}, notFound(err, errTokenUnknown(user+team, name))
	}
	end := micros(tx.now.Add(overlap))
	if _, err := tx.exec(ctx, `
		UPDATE token_secrets SET expires_at = $2 WHERE token_id = $1 AND (expires_at IS NULL OR expires_at > $2)`, t.ID, end); err != nil {
		return Token{}, err
	}
	if _, err := tx.exec(ctx, `DELETE FROM token_secrets WHERE token_id = $1 AND expires_at <= $2`, t.ID, micros(tx.now)); err != nil {
		return Token{}, err
	}
	var old int
	if err := tx.row(ctx, `SELECT COUNT(*) FROM token_secrets WHERE token_id = $1`, t.ID).Scan(&old); err != nil {
		return Token{}, err
	}
	if old >= maxTokenSecrets {
		return Token{}, oci.Errorf(oci.CodeConflict, "the token %s has %d secrets that still hold: rotate it without an overlap, or wait until one ends", name, old)
	}
	if err := tx.insertTokenSecret(ctx, t.ID, secretHash); err != nil {
		return Token{}, err
	}
	return tx.Token(ctx, user, team, name)
}

// PruneTokenSecrets deletes secrets that ended before the time given, at most
// limit, and says how many.
func (tx *Tx) PruneTokenSecrets(ctx context.Context, before time.Time, limit int) (int64, error) {
	return tx.exec(ctx, `
		DELETE FROM token_secrets WHERE id IN (
		    SELECT id FROM token_secrets WHERE expires_at IS NOT NULL AND expires_at < $1 ORDER BY expires_at LIMIT $2)`,
		micros(before), limit)
}

// TokenOwner is the state of a token's owner.
type TokenOwner struct {
	Admin    bool
	Disabled bool
	SeenAt   *time.Time // when the user's provider last vouched; nil for local users and teams
}

// TokenBySecretHash finds a token by the SHA-256 of one of its secrets, or returns
// NOT_FOUND. Secrets has that one alone. Whether token or secret have expired is for
// the caller to see.
func (tx *Tx) TokenBySecretHash(ctx context.Context, secretHash string) (Token, TokenOwner, error) {
	return tx.tokenBySecret(ctx, `s.secret_hash = $1`, secretHash)
}

// TokenBySecretID is TokenBySecretHash for the ids of a token and of one of its secrets.
func (tx *Tx) TokenBySecretID(ctx context.Context, id, secret int64) (Token, TokenOwner, error) {
	return tx.tokenBySecret(ctx, `s.id = $1 AND s.token_id = $2`, secret, id)
}

func (tx *Tx) tokenBySecret(ctx context.Context, where string, args ...any) (Token, TokenOwner, error) {
	var owner TokenOwner
	var s TokenSecret
	var created int64
	var seen, expires, used sql.NullInt64
	t, err := scanToken(tx.row(ctx, `
		SELECT `+tokenColumns+`, COALESCE(u.role, '') = 'admin' OR COALESCE(u.provider_admin, FALSE), COALESCE(u.disabled, FALSE),
		       u.seen_at, s.id, s.created_at, s.expires_at, s.last_used_at`+tokenTables+`
		  JOIN token_secrets s ON s.token_id = k.id
		 WHERE `+where, args...).Scan, &owner.Admin, &owner.Disabled, &seen, &s.ID, &created, &expires, &used)
	s.CreatedAt, s.ExpiresAt, s.LastUsedAt = fromMicros(created), timePtr(expires), timePtr(used)
	t.Secrets, owner.SeenAt = []TokenSecret{s}, timePtr(seen)
	return t, owner, notFound(err, oci.Errorf(oci.CodeNotFound, "there is no such token"))
}

// Token finds a token of a user or of a team by its name, or returns NOT_FOUND.
// Exactly one of user and team is given.
func (tx *Tx) Token(ctx context.Context, user, team, name string) (Token, error) {
	owner, column := user, "u.name"
	if team != "" {
		owner, column = team, "t.name"
	}
	t, err := scanTokenSecrets(tx.row(ctx, `SELECT `+tokenColumns+tokenSecrets+tokenTables+` WHERE `+column+` = $1 AND k.name = $2`, owner, name).Scan)
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
	return list(ctx, tx, func(rows *sql.Rows) (Token, error) { return scanTokenSecrets(rows.Scan) },
		`SELECT `+tokenColumns+tokenSecrets+tokenTables+` WHERE `+column+` = $1 AND k.name > $2 ORDER BY k.name LIMIT $3`, owner, after, limit)
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

// TouchToken notes that a token was used now with one of its secrets, from an
// address, at most once a minute for each secret.
func (tx *Tx) TouchToken(ctx context.Context, id, secret int64, address string) error {
	n, err := tx.exec(ctx, `
		UPDATE token_secrets SET last_used_at = $2 WHERE id = $1 AND (last_used_at IS NULL OR last_used_at < $3)`,
		secret, micros(tx.now), micros(tx.now.Add(-touchEvery)))
	if err != nil || n == 0 {
		return err
	}
	_, err = tx.exec(ctx, `UPDATE tokens SET last_used_at = $2, last_used_from = $3 WHERE id = $1`, id, micros(tx.now), auditText(address))
	return err
}
