package metadata

import (
	"context"
	"database/sql"
	"strconv"
	"time"

	"berth/oci"
)

// Holder is a user or a robot with rights on a repository.
type Holder struct {
	Principal string // the user's name, or team+robot
	Robot     bool
	Grounds   []Ground // at most 10, what makes it a holder
}

// HolderFilter selects holders.
type HolderFilter struct {
	Repository string
	Action     string    // the one that they have to have
	Roles      []string  // the roles in a team that give it
	Fresh      time.Time // users whose provider has not vouched since have nothing; zero asks nothing
	After      string    // names behind this one
	Limit      int
}

// maxHolderGrounds is how many grounds are given of one holder.
const maxHolderGrounds = 10

// Holders lists who has rights, in the byte order of names. What denials take
// away is not known here. It costs what all holders of the repository are, and
// is for people who ask.
func (tx *Tx) Holders(ctx context.Context, f HolderFilter) ([]Holder, error) {
	team := oci.Team(f.Repository)
	args := []any{team, f.Repository, "%," + f.Action + ",%", f.After, f.Limit, micros(tx.now)}
	arg := func(v any) string {
		args = append(args, v)
		return "$" + strconv.Itoa(len(args))
	}
	roles := "''"
	for _, role := range f.Roles {
		roles += ", " + arg(role)
	}
	fresh := ""
	if !f.Fresh.IsZero() {
		// Admins are what they are until somebody takes it away, see package auth.
		fresh = " AND (h.admin OR u.seen_at IS NULL OR u.seen_at >= " + arg(micros(f.Fresh)) + ")"
	}
	found := map[string]int{}
	var holders []Holder
	err := tx.each(ctx, func(rows *sql.Rows) error {
		var h Holder
		var g Ground
		var actions, cidrs string
		if err := rows.Scan(&h.Principal, &g.Robot, &g.Admin, &g.Role, &g.Provider, &g.Group, &g.Pattern, &actions, &g.Trust, &g.Tags, &cidrs); err != nil {
			return err
		}
		g.Actions, g.CIDRs = splitList(actions), splitList(cidrs)
		i, ok := found[h.Principal]
		if !ok {
			i = len(holders)
			found[h.Principal] = i
			h.Robot = g.Robot
			holders = append(holders, h)
		}
		if len(holders[i].Grounds) < maxHolderGrounds {
			holders[i].Grounds = append(holders[i].Grounds, g)
		}
		return nil
	}, `
		WITH matching AS (
		  SELECT g.user_id, g.group_id, g.pattern, g.actions FROM grants g
		   WHERE g.team IN ('', $1) AND glob(g.pattern, $2) AND ',' || g.actions || ',' LIKE $3),
		rights (user_id, admin, role, provider, via, pattern, actions) AS (
		  SELECT admins.id, TRUE, '', admins.role <> 'admin', '', '', '' FROM users admins WHERE admins.role = 'admin' OR admins.provider_admin
		   UNION ALL
		  SELECT m.user_id, FALSE, m.role, FALSE, '', '', '' FROM teams t JOIN team_members m ON m.team_id = t.id
		   WHERE t.name = $1 AND m.role IN (`+roles+`)
		   UNION ALL
		  SELECT p.user_id, FALSE, p.role, TRUE, '', '', '' FROM provider_teams p WHERE p.team = $1 AND p.role IN (`+roles+`)
		   UNION ALL
		  SELECT g.user_id, FALSE, '', FALSE, '', g.pattern, g.actions FROM matching g WHERE g.user_id IS NOT NULL
		   UNION ALL
		  SELECT m.user_id, FALSE, '', FALSE, o.name, g.pattern, g.actions
		    FROM matching g JOIN groups o ON o.id = g.group_id AND NOT o.disabled JOIN group_members m ON m.group_id = o.id
		   UNION ALL
		  SELECT p.user_id, FALSE, '', TRUE, o.name, g.pattern, g.actions
		    FROM matching g JOIN groups o ON o.id = g.group_id AND NOT o.disabled JOIN provider_groups p ON p.name = o.name),
		holders (principal, robot, admin, role, provider, via, pattern, actions, trust, tags, cidrs) AS (
		  SELECT u.name, FALSE, h.admin, h.role, h.provider, h.via, h.pattern, h.actions, '', '', ''
		    FROM rights h CROSS JOIN users u -- in this order, or SQLite walks over all users
		   WHERE u.id = h.user_id AND NOT u.disabled AND u.name > $4`+fresh+`
		   UNION ALL
		  SELECT t.name || '+' || k.name, TRUE, FALSE, '', FALSE, '', k.repositories, k.actions, '', k.tags, k.cidrs
		    FROM teams t JOIN tokens k ON k.team_id = t.id
		   WHERE t.name = $1 AND t.name || '+' || k.name > $4 AND (k.expires_at IS NULL OR k.expires_at > $6)
		     AND glob(k.repositories, $2) AND ',' || k.actions || ',' LIKE $3
		   UNION ALL
		  SELECT t.name || '+' || k.robot, TRUE, FALSE, '', FALSE, '', k.repositories, k.actions, k.name, k.tags, ''
		    FROM teams t JOIN trust_policies k ON k.team_id = t.id
		   WHERE t.name = $1 AND t.name || '+' || k.robot > $4
		     AND glob(k.repositories, $2) AND ',' || k.actions || ',' LIKE $3)
		SELECT h.principal, h.robot, h.admin, h.role, h.provider, h.via, h.pattern, h.actions, h.trust, h.tags, h.cidrs
		  FROM holders h
		 WHERE h.principal IN (SELECT DISTINCT d.principal FROM holders d ORDER BY d.principal LIMIT $5)
		 ORDER BY h.principal, h.admin DESC, h.role DESC, h.via, h.pattern, h.provider, h.trust`, args...)
	return holders, err
}
