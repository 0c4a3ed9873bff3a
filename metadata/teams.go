package metadata

import (
	"context"
	"database/sql"
	"fmt"
	"strings"
	"time"

	"berth/oci"
)

// The roles of a member in a team: a reader pulls, a member pushes too, a
// maintainer also deletes and administers.
const (
	RoleReader     = "reader"
	RoleMember     = "member"
	RoleMaintainer = "maintainer"
)

// Team owns the repositories whose first path segment is its name.
type Team struct {
	ID                int64
	Name              string
	DefaultVisibility string     // of new repositories; "" takes the instance's
	TagPolicy         *TagPolicy // nil inherits the instance's
	CreatedAt         time.Time
	UpdatedAt         time.Time
}

const teamColumns = `t.id, t.name, COALESCE(t.default_visibility, ''), COALESCE(p.mode, ''), ` + exemptList + `, t.created_at, t.updated_at
  FROM teams t LEFT JOIN tag_policies p ON p.id = t.tag_policy_id`

func scanTeam(scan func(...any) error) (Team, error) {
	var t Team
	var mode, exempt string
	var created, updated int64
	err := scan(&t.ID, &t.Name, &t.DefaultVisibility, &mode, &exempt, &created, &updated)
	t.TagPolicy = tagPolicy(mode, exempt)
	t.CreatedAt, t.UpdatedAt = fromMicros(created), fromMicros(updated)
	return t, err
}

func errTeamUnknown(name string) *oci.Error {
	return oci.Errorf(oci.CodeNotFound, "there is no team %s", name)
}

// CreateTeam makes a team, or returns CONFLICT when the name is taken.
// Repositories of this name that exist already are the team's from now on.
func (tx *Tx) CreateTeam(ctx context.Context, name, defaultVisibility string) (Team, error) {
	n, err := tx.exec(ctx, `
		INSERT INTO teams (name, default_visibility, created_at, updated_at) VALUES ($1, NULLIF($2, ''), $3, $3)
		ON CONFLICT (name) DO NOTHING`, name, defaultVisibility, micros(tx.now))
	if err != nil {
		return Team{}, err
	}
	if n == 0 {
		return Team{}, oci.Errorf(oci.CodeConflict, "the team %s exists already", name)
	}
	return tx.Team(ctx, name)
}

// AdoptTeam makes the row of a team that has none, when a provider (LDAP, OIDC) has named it: so it can have
// settings, a quota and robots from its first use on. The actor is who uses it. It does nothing for other names.
func (tx *Tx) AdoptTeam(ctx context.Context, name string, actor Actor) error {
	n, err := tx.exec(ctx, `
		INSERT INTO teams (name, created_at, updated_at)
		SELECT $1, $2, $2 WHERE EXISTS (SELECT 1 FROM provider_teams WHERE team = $1)
		ON CONFLICT (name) DO NOTHING`, name, micros(tx.now))
	if err != nil || n == 0 {
		return err
	}
	return tx.Record(ctx, Event{Kind: TeamCreated, Actor: actor, Team: name, Reference: name,
		Detail: map[string]any{"from": "provider"}})
}

// Team finds a team, or returns NOT_FOUND.
func (tx *Tx) Team(ctx context.Context, name string) (Team, error) {
	t, err := scanTeam(tx.row(ctx, `SELECT `+teamColumns+` WHERE t.name = $1`, name).Scan)
	return t, notFound(err, errTeamUnknown(name))
}

// Teams lists teams behind a name, in byte order; with a user, only those that
// the user is a member of, here or by the provider's word.
func (tx *Tx) Teams(ctx context.Context, userID int64, after string, limit int) ([]Team, error) {
	where, args := ``, []any{after, limit}
	if userID != 0 {
		where, args = ` AND (EXISTS (SELECT 1 FROM team_members m WHERE m.team_id = t.id AND m.user_id = $3)
		                 OR EXISTS (SELECT 1 FROM provider_teams p WHERE p.team = t.name AND p.user_id = $3))`, append(args, userID)
	}
	return list(ctx, tx, func(rows *sql.Rows) (Team, error) { return scanTeam(rows.Scan) },
		`SELECT `+teamColumns+` WHERE t.name > $1`+where+` ORDER BY t.name LIMIT $2`, args...)
}

// SetTeamVisibility changes what new repositories of a team are; "" takes the
// instance's. It returns NOT_FOUND.
func (tx *Tx) SetTeamVisibility(ctx context.Context, name, visibility string) error {
	n, err := tx.exec(ctx, `UPDATE teams SET default_visibility = NULLIF($2, ''), updated_at = $3 WHERE name = $1`, name, visibility, micros(tx.now))
	if err == nil && n == 0 {
		return errTeamUnknown(name)
	}
	return err
}

// NamesTeam is what names a team without being a row of it. A right among it would reach
// the next team of that name.
type NamesTeam struct {
	Grants   []Grant   // on patterns that lie in the team
	Denials  []string  // on such patterns, or of the team's robots
	Accounts []Account // that may do something in the team alone
	Services []string  // that let everybody pull in the namespace of that name
	Quota    bool
}

// NamesTeam finds what names a team.
func (tx *Tx) NamesTeam(ctx context.Context, team string) (n NamesTeam, err error) {
	const inTeam = ` = $1 OR substr(%[1]s, 1, length($1) + 1) = $1 || '/'`
	within := func(column string) string { return "(" + column + fmt.Sprintf(inTeam, column) + ")" }
	n.Grants, err = list(ctx, tx, func(rows *sql.Rows) (Grant, error) { return scanGrant(rows.Scan) },
		`SELECT `+grantColumns+` WHERE g.team = $1 ORDER BY g.id`, team)
	if err != nil {
		return n, err
	}
	denials, _, err := tx.AllDenials(ctx)
	if err != nil {
		return n, err
	}
	for _, d := range denials {
		if whose, _, robot := strings.Cut(d.Principal, "+"); PatternTeam(d.Repository) == team || robot && whose == team {
			n.Denials = append(n.Denials, d.Name)
		}
	}
	n.Accounts, err = list(ctx, tx, scanAccount, `SELECT `+accountColumns+` WHERE `+within("repositories")+` ORDER BY account, role`, team)
	if err != nil {
		return n, err
	}
	n.Services, err = list(ctx, tx, scanString, `SELECT name FROM services WHERE `+within("anonymous_pull")+` ORDER BY name`, team)
	if err != nil {
		return n, err
	}
	return n, tx.row(ctx, `SELECT EXISTS (SELECT 1 FROM team_quotas WHERE team = $1)`, team).Scan(&n.Quota)
}

// DeleteTeam removes a team with all that names it: memberships, robots, trust policies,
// retention, quota, grants, denials and accounts' rights on patterns that lie in the team,
// what providers said of it, and which jobs are its own. Its repositories stay, in the care of the admins. It
// returns NOT_FOUND, or CONFLICT when a service lets everybody pull there.
func (tx *Tx) DeleteTeam(ctx context.Context, name string) error {
	named, err := tx.NamesTeam(ctx, name)
	if err != nil {
		return err
	}
	if len(named.Services) > 0 {
		return oci.Errorf(oci.CodeConflict, "the service %s lets everybody pull from the team %s: change what it lets everybody pull, or delete it, first", strings.Join(named.Services, ", "), name)
	}
	var policy sql.NullInt64
	err = tx.row(ctx, `DELETE FROM teams WHERE name = $1 RETURNING tag_policy_id`, name).Scan(&policy)
	if err != nil {
		return notFound(err, errTeamUnknown(name))
	}
	for _, table := range []string{"grants", "provider_teams", "team_quotas"} {
		if _, err := tx.exec(ctx, `DELETE FROM `+table+` WHERE team = $1`, name); err != nil {
			return err
		}
	}
	if err := tx.dropTrustOwners(ctx, name); err != nil {
		return err
	}
	for _, d := range named.Denials {
		if err := tx.DeleteDenial(ctx, d); err != nil {
			return err
		}
	}
	for _, a := range named.Accounts {
		if err := tx.DeleteAccount(ctx, a.Account, a.Role); err != nil {
			return err
		}
	}
	if err := tx.reviewUntagged(ctx); err != nil || !policy.Valid { // its policy has gone with it
		return err
	}
	_, err = tx.exec(ctx, `DELETE FROM tag_policies WHERE id = $1`, policy.Int64)
	return err
}

// Member is a user's place in a team.
type Member struct {
	User      string
	Role      string
	CreatedAt time.Time
}

// Members lists a team's members behind a name, in byte order. It returns NOT_FOUND.
func (tx *Tx) Members(ctx context.Context, team, after string, limit int) ([]Member, error) {
	id, err := tx.teamID(ctx, team)
	if err != nil {
		return nil, err
	}
	return list(ctx, tx, func(rows *sql.Rows) (Member, error) {
		var m Member
		var created int64
		err := rows.Scan(&m.User, &m.Role, &created)
		m.CreatedAt = fromMicros(created)
		return m, err
	}, `
		SELECT u.name, m.role, m.created_at FROM team_members m JOIN users u ON u.id = m.user_id
		 WHERE m.team_id = $1 AND u.name > $2 ORDER BY u.name LIMIT $3`, id, after, limit)
}

func (tx *Tx) teamID(ctx context.Context, name string) (id int64, err error) {
	err = tx.row(ctx, `SELECT id FROM teams WHERE name = $1`, name).Scan(&id)
	return id, notFound(err, errTeamUnknown(name))
}

// PutMember gives a user a role in a team, as a new member or a changed one.
// It returns NOT_FOUND for the team or the user.
func (tx *Tx) PutMember(ctx context.Context, team, user, role string) error {
	id, err := tx.teamID(ctx, team)
	if err != nil {
		return err
	}
	u, err := tx.User(ctx, user)
	if err != nil {
		return err
	}
	_, err = tx.exec(ctx, `
		INSERT INTO team_members (team_id, user_id, role, created_at) VALUES ($1, $2, $3, $4)
		ON CONFLICT (team_id, user_id) DO UPDATE SET role = excluded.role`, id, u.ID, role, micros(tx.now))
	return err
}

// RemoveMember takes a user out of a team. It returns NOT_FOUND when the team,
// or the user in it, is not there.
func (tx *Tx) RemoveMember(ctx context.Context, team, user string) error {
	id, err := tx.teamID(ctx, team)
	if err != nil {
		return err
	}
	n, err := tx.exec(ctx, `
		DELETE FROM team_members WHERE team_id = $1 AND user_id = (SELECT id FROM users WHERE name = $2)`, id, user)
	if err == nil && n == 0 {
		return oci.Errorf(oci.CodeNotFound, "%s is not a member of the team %s", user, team)
	}
	return err
}

// MemberRole gives a user's role in a team, the stronger of ours and the
// provider's, or "".
func (tx *Tx) MemberRole(ctx context.Context, team string, userID int64) (string, error) {
	var own, provided string
	err := tx.row(ctx, `
		SELECT COALESCE((SELECT m.role FROM team_members m JOIN teams t ON t.id = m.team_id
		                  WHERE t.name = $1 AND m.user_id = $2), ''),
		       COALESCE((SELECT p.role FROM provider_teams p WHERE p.user_id = $2 AND p.team = $1), '')`, team, userID).Scan(&own, &provided)
	return StrongerRole(own, provided), err
}

// UserTeams gives a user's roles by team, the stronger of ours and the provider's.
func (tx *Tx) UserTeams(ctx context.Context, userID int64) (map[string]string, error) {
	roles := map[string]string{}
	err := tx.each(ctx, func(rows *sql.Rows) error {
		var team, role string
		err := rows.Scan(&team, &role)
		roles[team] = StrongerRole(roles[team], role)
		return err
	}, `
		SELECT t.name, m.role FROM team_members m JOIN teams t ON t.id = m.team_id WHERE m.user_id = $1
		 UNION ALL
		SELECT p.team, p.role FROM provider_teams p WHERE p.user_id = $1`, userID)
	return roles, err
}

// Maintainers names maintainers of a team who can sign in, at most limit.
func (tx *Tx) Maintainers(ctx context.Context, team string, limit int) ([]string, error) {
	return list(ctx, tx, scanString, `
		SELECT u.name FROM (SELECT m.user_id FROM teams t JOIN team_members m ON m.team_id = t.id
		                     WHERE t.name = $1 AND m.role = 'maintainer'
		                     UNION
		                    SELECT p.user_id FROM provider_teams p WHERE p.team = $1 AND p.role = 'maintainer') AS m
		  JOIN users u ON u.id = m.user_id
		 WHERE NOT u.disabled ORDER BY u.name LIMIT $2`, team, limit)
}
