package metadata

import (
	"context"
	"database/sql"
	"errors"
	"maps"
	"slices"
	"time"

	"berth/oci"
)

// SourceLocal is the source of users who are ours: they sign in with a password
// or a token from this database.
const SourceLocal = "local"

// ExternalUser is what an outside provider says of somebody who signed in there.
type ExternalUser struct {
	Source  string            // the provider's name; never SourceLocal
	Subject string            // the provider's own id of the user, which it gives to nobody else later
	Name    string            // of the user here, when it is the first sign-in
	Admin   bool              // the provider gives the role admin
	Teams   map[string]string // team -> reader, member or maintainer
	Groups  []string          // sorted, without duplicates
}

// ProviderFacts are the teams and groups that the provider named at the last
// sign-in of a user.
func (tx *Tx) ProviderFacts(ctx context.Context, userID int64) (teams map[string]string, groups []string, err error) {
	teams = map[string]string{}
	err = tx.each(ctx, func(rows *sql.Rows) error {
		var kind, name, role string
		if err := rows.Scan(&kind, &name, &role); err != nil {
			return err
		}
		if kind == "team" {
			teams[name] = role
		} else {
			groups = append(groups, name)
		}
		return nil
	}, `
		SELECT 'team', team, role FROM provider_teams WHERE user_id = $1
		UNION ALL
		SELECT 'group', name, '' FROM provider_groups WHERE user_id = $1
		 ORDER BY 1, 2`, userID)
	return teams, groups, err
}

// ExternalUserOf finds the user of a provider's subject. What it says of the user
// has been stored exactly so before when same is true. It returns NOT_FOUND
// for somebody who never signed in.
func (tx *Tx) ExternalUserOf(ctx context.Context, e ExternalUser) (u User, same bool, err error) {
	u, err = scanUser(tx.row(ctx, `SELECT `+userColumns+` FROM users WHERE source = $1 AND subject = $2`, e.Source, e.Subject).Scan)
	if err != nil {
		return u, false, notFound(err, errUserUnknown(e.Name))
	}
	teams, groups, err := tx.ProviderFacts(ctx, u.ID)
	return u, err == nil && u.ProviderAdmin == e.Admin && maps.Equal(teams, e.Teams) && slices.Equal(groups, e.Groups), err
}

// PutExternalUser stores what a provider says of a user, who is made at the first
// sign-in. What it said before is forgotten: a membership that it does not name
// any more is gone. It returns CONFLICT when the name is that of somebody else, or looks like it.
func (tx *Tx) PutExternalUser(ctx context.Context, e ExternalUser) (User, error) {
	u, err := scanUser(tx.row(ctx, `
		UPDATE users SET provider_admin = $3, seen_at = $4 WHERE source = $1 AND subject = $2 RETURNING `+userColumns,
		e.Source, e.Subject, e.Admin, micros(tx.now)).Scan)
	if errors.Is(err, sql.ErrNoRows) { // made by an import, for this provider
		u, err = scanUser(tx.row(ctx, `
			UPDATE users SET subject = $3, provider_admin = $4, seen_at = $5
			 WHERE name = $1 AND source = $2 AND subject IS NULL RETURNING `+userColumns,
			e.Name, e.Source, e.Subject, e.Admin, micros(tx.now)).Scan)
	}
	if errors.Is(err, sql.ErrNoRows) { // the same, with the name in another case than the provider's
		u, err = scanUser(tx.row(ctx, `
			UPDATE users SET name = $1, subject = $3, provider_admin = $4, seen_at = $5
			 WHERE source = $2 AND subject IS NULL AND lower(name) = lower($1)
			   AND 1 = (SELECT COUNT(*) FROM users o WHERE o.source = $2 AND o.subject IS NULL AND lower(o.name) = lower($1))
			   AND NOT EXISTS (SELECT 1 FROM users o WHERE o.name = $1)
			RETURNING `+userColumns,
			e.Name, e.Source, e.Subject, e.Admin, micros(tx.now)).Scan)
	}
	if errors.Is(err, sql.ErrNoRows) {
		if err := tx.checkLookAlike(ctx, e.Name); err != nil {
			return User{}, err
		}
		u, err = scanUser(tx.row(ctx, `
			INSERT INTO users (name, source, subject, provider_admin, seen_at, created_at, updated_at)
			VALUES ($1, $2, $3, $4, $5, $5, $5)
			ON CONFLICT DO NOTHING
			RETURNING `+userColumns, e.Name, e.Source, e.Subject, e.Admin, micros(tx.now)).Scan)
	}
	if err != nil {
		return User{}, notFound(err, oci.Errorf(oci.CodeConflict, "the user name %s belongs to somebody else already", e.Name))
	}
	if _, err := tx.exec(ctx, `DELETE FROM provider_teams WHERE user_id = $1`, u.ID); err != nil {
		return User{}, err
	}
	if _, err := tx.exec(ctx, `DELETE FROM provider_groups WHERE user_id = $1`, u.ID); err != nil {
		return User{}, err
	}
	for _, team := range slices.Sorted(maps.Keys(e.Teams)) {
		if _, err := tx.exec(ctx, `INSERT INTO provider_teams (user_id, team, role) VALUES ($1, $2, $3)`, u.ID, team, e.Teams[team]); err != nil {
			return User{}, err
		}
	}
	for _, group := range e.Groups {
		if _, err := tx.exec(ctx, `INSERT INTO provider_groups (user_id, name) VALUES ($1, $2)`, u.ID, group); err != nil {
			return User{}, err
		}
	}
	return u, nil
}

// seenEvery is how exact a user's SeenAt is.
const seenEvery = time.Minute

// TouchUser notes that a user's provider vouched for the user now, at most once
// a minute.
func (tx *Tx) TouchUser(ctx context.Context, id int64) error {
	_, err := tx.exec(ctx, `
		UPDATE users SET seen_at = $2 WHERE id = $1 AND (seen_at IS NULL OR seen_at < $3)`,
		id, micros(tx.now), micros(tx.now.Add(-seenEvery)))
	return err
}
