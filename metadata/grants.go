package metadata

import (
	"context"
	"database/sql"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"

	"berth/oci"
)

// Grantee is who a grant is made to: a user or a group, exactly one of them.
type Grantee struct{ User, Group string }

// String is how messages name a grantee.
func (g Grantee) String() string {
	if g.Group != "" {
		return "the group " + g.Group
	}
	return g.User
}

// Grant is the right to some actions on the repositories that a pattern matches.
// Several grants add up.
type Grant struct {
	ID        int64
	Grantee   Grantee
	Pattern   string   // * stands for any characters, '/' included, ? for one: core/* has core/a/x and not core
	Team      string   // the team that the pattern lies in, or "" when it reaches several
	Actions   []string // pull, push, delete, admin, in this order; each stands alone
	CreatedAt time.Time
	CreatedBy string
	UpdatedAt time.Time
}

// Bounds of grants.
const (
	maxGrantPattern = 255  // bytes
	MaxGrants       = 1000 // of one user or group
)

// ParsePattern checks a pattern on names of repositories: 1 to 255 of the
// characters of names, * and ?. The error is an INVALID.
func ParsePattern(pattern string) error {
	if len(pattern) > maxGrantPattern || !oci.IsRepositoryGlob(pattern) {
		return oci.Errorf(oci.CodeInvalid, "the pattern %.260q is not valid: use a repository's name, in which * stands for any characters and ? for one, such as core/*", pattern)
	}
	return nil
}

// PatternTeam is the team that all repositories of a pattern belong to, or ""
// when there is no such one.
func PatternTeam(pattern string) string {
	team, _, found := strings.Cut(pattern, "/")
	if strings.ContainsAny(team, "*?") || !found && strings.ContainsAny(pattern, "*?") {
		return ""
	}
	return team
}

const grantColumns = `g.id, COALESCE(u.name, ''), COALESCE(o.name, ''), g.pattern, g.team, g.actions, g.created_at, g.created_by, g.updated_at
  FROM grants g LEFT JOIN users u ON u.id = g.user_id LEFT JOIN groups o ON o.id = g.group_id`

func scanGrant(scan func(...any) error) (Grant, error) {
	var g Grant
	var actions string
	var created, updated int64
	err := scan(&g.ID, &g.Grantee.User, &g.Grantee.Group, &g.Pattern, &g.Team, &actions, &created, &g.CreatedBy, &updated)
	g.Actions = splitList(actions)
	g.CreatedAt, g.UpdatedAt = fromMicros(created), fromMicros(updated)
	return g, err
}

// grantee gives the column and the id of a grantee, and makes changes of the
// grantee's grants wait for each other. It returns NOT_FOUND.
func (tx *Tx) grantee(ctx context.Context, to Grantee, lock bool) (column string, id int64, err error) {
	column, table, name, unknown := "user_id", "users", to.User, errUserUnknown(to.User)
	if to.Group != "" {
		column, table, name, unknown = "group_id", "groups", to.Group, errGroupUnknown(to.Group)
	}
	query := `SELECT id FROM ` + table + ` WHERE name = $1`
	if lock {
		query += tx.dialect().ForUpdate()
	}
	err = tx.row(ctx, query, name).Scan(&id)
	return column, id, notFound(err, unknown)
}

// PutGrant gives a user or a group exactly these actions on the repositories of
// a pattern, and says whether the grant is new. It returns NOT_FOUND for the
// grantee, INVALID for the pattern or no action, and CONFLICT for more than
// 1,000 grants of one grantee. Actions are names that package auth has checked.
func (tx *Tx) PutGrant(ctx context.Context, to Grantee, pattern string, actions []string, actor string) (g Grant, created bool, err error) {
	return tx.changeGrant(ctx, to, pattern, actor, func([]string) []string { return actions })
}

// AddGrant adds actions to what is granted on a pattern, and TakeGrant takes
// them away: they are PutGrant for callers who name the change. A grant without
// actions is removed; taking away what is not there is no error.
func (tx *Tx) AddGrant(ctx context.Context, to Grantee, pattern string, actions []string, actor string) error {
	_, _, err := tx.changeGrant(ctx, to, pattern, actor, func(before []string) []string { return append(before, actions...) })
	return err
}

// TakeGrant is described at AddGrant.
func (tx *Tx) TakeGrant(ctx context.Context, to Grantee, pattern string, actions []string, actor string) error {
	column, id, err := tx.grantee(ctx, to, true)
	if err != nil {
		return err
	}
	left := func(before []string) []string {
		return slices.DeleteFunc(before, func(a string) bool { return slices.Contains(actions, a) })
	}
	var text string
	err = tx.row(ctx, `SELECT actions FROM grants WHERE `+column+` = $1 AND pattern = $2`, id, pattern).Scan(&text)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return nil
	case err != nil:
		return err
	case len(left(splitList(text))) == 0:
		return tx.DeleteGrant(ctx, to, pattern)
	}
	_, _, err = tx.changeGrant(ctx, to, pattern, actor, left)
	return err
}

// actionOrder is the order in which actions are stored.
var actionOrder = []string{"pull", "push", "delete", "admin"}

func (tx *Tx) changeGrant(ctx context.Context, to Grantee, pattern, actor string, change func(before []string) []string) (g Grant, created bool, err error) {
	if err := ParsePattern(pattern); err != nil {
		return g, false, err
	}
	column, id, err := tx.grantee(ctx, to, true)
	if err != nil {
		return g, false, err
	}
	// A team that is being deleted takes its grants along, and this one with them.
	if team := PatternTeam(pattern); team != "" {
		if err := tx.each(ctx, func(*sql.Rows) error { return nil }, `SELECT id FROM teams WHERE name = $1`+tx.dialect().ForUpdate(), team); err != nil {
			return g, false, err
		}
	}
	var before string
	err = tx.row(ctx, `SELECT actions FROM grants WHERE `+column+` = $1 AND pattern = $2`, id, pattern).Scan(&before)
	if created = errors.Is(err, sql.ErrNoRows); created {
		var n int
		err = tx.row(ctx, `SELECT COUNT(*) FROM grants WHERE `+column+` = $1`, id).Scan(&n)
		if err == nil && n >= MaxGrants {
			return g, false, oci.Errorf(oci.CodeConflict, "%s has %d grants already, which is the limit: remove some, or use wider patterns", to, MaxGrants)
		}
	}
	if err != nil {
		return g, false, err
	}
	wanted := change(splitList(before))
	var actions []string
	for _, a := range actionOrder {
		if slices.Contains(wanted, a) {
			actions = append(actions, a)
		}
	}
	if len(actions) == 0 {
		return g, false, oci.Errorf(oci.CodeInvalid, "a grant needs an action: pull, push, delete or admin")
	}
	var row int64
	err = tx.row(ctx, `
		INSERT INTO grants (`+column+`, pattern, team, actions, created_at, created_by, updated_at) VALUES ($1, $2, $3, $4, $5, $6, $5)
		ON CONFLICT (`+column+`, pattern) WHERE `+column+` IS NOT NULL DO UPDATE SET actions = excluded.actions, updated_at = excluded.updated_at
		RETURNING id`, id, pattern, PatternTeam(pattern), strings.Join(actions, ","), micros(tx.now), actor).Scan(&row)
	if err != nil {
		return g, false, err
	}
	g, err = scanGrant(tx.row(ctx, `SELECT `+grantColumns+` WHERE g.id = $1`, row).Scan)
	return g, created, err
}

// DeleteGrant removes a grant. It returns NOT_FOUND.
func (tx *Tx) DeleteGrant(ctx context.Context, to Grantee, pattern string) error {
	column, id, err := tx.grantee(ctx, to, true)
	if err != nil {
		return err
	}
	n, err := tx.exec(ctx, `DELETE FROM grants WHERE `+column+` = $1 AND pattern = $2`, id, pattern)
	if err == nil && n == 0 {
		return oci.Errorf(oci.CodeNotFound, "there is no grant of %s on %s", to, pattern)
	}
	return err
}

// GrantFilter selects grants for a list. Empty fields select all.
type GrantFilter struct {
	Grantee    Grantee
	Repository string // those whose pattern matches this repository
	Team       string // those whose pattern lies in this team
	After      int64  // those with a larger id
	Limit      int

	// For makes it the list for one user's eyes: what is granted to the user and
	// to the user's groups, and what lies in the teams that the user maintains. 0
	// is everything.
	For int64
}

// Grants lists grants in the order in which they were made.
func (tx *Tx) Grants(ctx context.Context, f GrantFilter) ([]Grant, error) {
	args := []any{f.After, f.Limit}
	arg := func(v any) string {
		args = append(args, v)
		return "$" + strconv.Itoa(len(args))
	}
	where := "g.id > $1"
	if f.Grantee.User != "" {
		where += " AND u.name = " + arg(f.Grantee.User)
	}
	if f.Grantee.Group != "" {
		where += " AND o.name = " + arg(f.Grantee.Group)
	}
	if f.Team != "" {
		where += " AND g.team = " + arg(f.Team)
	}
	if f.Repository != "" {
		where += " AND g.team IN ('', " + arg(oci.Team(f.Repository)) + ") AND glob(g.pattern, " + arg(f.Repository) + ")"
	}
	if f.For != 0 {
		me := arg(f.For)
		where += ` AND (g.user_id = ` + me + `
		   OR g.group_id IN (SELECT m.group_id FROM group_members m WHERE m.user_id = ` + me + `)
		   OR g.group_id IN (SELECT d.id FROM provider_groups p JOIN groups d ON d.name = p.name WHERE p.user_id = ` + me + `)
		   OR g.team IN (SELECT t.name FROM team_members m JOIN teams t ON t.id = m.team_id WHERE m.user_id = ` + me + ` AND m.role = 'maintainer')
		   OR g.team IN (SELECT p.team FROM provider_teams p WHERE p.user_id = ` + me + ` AND p.role = 'maintainer'))`
	}
	return list(ctx, tx, func(rows *sql.Rows) (Grant, error) { return scanGrant(rows.Scan) },
		`SELECT `+grantColumns+` WHERE `+where+` ORDER BY g.id LIMIT $2`, args...)
}
