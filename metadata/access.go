package metadata

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"berth/oci"
)

// AccessFacts is what the database knows about a user and a repository. What
// follows from it is decided in package auth, and only there.
type AccessFacts struct {
	Exists     bool
	Visibility string // "" when there is no such repository yet
	Role       string // the user's role in the team of the name, the stronger of ours and the provider's; "" for none

	// Granted and GroupGranted are the actions of the grants that match the
	// repository, separated by commas: the user's own, and those of the enabled
	// groups that the user is in, here or by the provider's word. Actions may repeat.
	Granted      string
	GroupGranted string

	Gone   bool       // the user was deleted or disabled
	SeenAt *time.Time // when the user's provider last vouched; nil for local users

	// DenialVersion is that of the denials that hold now; see Denials.
	DenialVersion int64
}

const (
	// maxAccessNames bounds how many repositories are asked about at once.
	maxAccessNames = 256
	// accessCost is about what the facts of one take in memory, beside their texts.
	accessCost = 200
)

// userGrants are the grants that reach the user $1, as the table mine.
const userGrants = `
		mine (via, pattern, actions) AS (
		  SELECT '', g.pattern, g.actions FROM grants g WHERE g.user_id = $1
		   UNION ALL
		  SELECT o.name, g.pattern, g.actions
		    FROM group_members m
		    JOIN groups o ON o.id = m.group_id AND NOT o.disabled
		    JOIN grants g ON g.group_id = o.id
		   WHERE m.user_id = $1
		   UNION ALL
		  SELECT o.name, g.pattern, g.actions
		    FROM provider_groups m
		    JOIN groups o ON o.name = m.name AND NOT o.disabled
		    JOIN grants g ON g.group_id = o.id
		   WHERE m.user_id = $1)`

// Access gives the facts about a user (0 for nobody) and repositories, which
// need not exist. One statement; at most 256 names. Nobody may change the map.
func (tx *Tx) Access(ctx context.Context, userID int64, repositories []string) (map[string]AccessFacts, error) {
	if len(repositories) == 0 {
		return nil, nil
	}
	if len(repositories) > maxAccessNames {
		return nil, fmt.Errorf("access: %d repositories asked for at once, at most %d are allowed", len(repositories), maxAccessNames)
	}
	n := 1 // padded to a power of two, like inArgs
	for n < len(repositories) {
		n *= 2
	}
	args := []any{userID}
	rows := make([]string, n)
	for i := range n {
		name := repositories[min(i, len(repositories)-1)]
		args = append(args, name, oci.Team(name))
		rows[i] = "(CAST($" + strconv.Itoa(len(args)-1) + " AS TEXT), CAST($" + strconv.Itoa(len(args)) + " AS TEXT))"
	}
	return remember(ctx, tx, func(query string, args []any) (facts map[string]AccessFacts, size int, err error) {
		facts = make(map[string]AccessFacts, len(repositories))
		err = tx.each(ctx, func(rows *sql.Rows) error {
			var name string
			var f AccessFacts
			var provided string
			var seen sql.NullInt64
			err := rows.Scan(&name, &f.Visibility, &f.Role, &provided, &f.Granted, &f.GroupGranted, &f.Gone, &seen, &f.DenialVersion)
			f.Role = StrongerRole(f.Role, provided)
			f.Gone = f.Gone && userID != 0
			f.Exists = f.Visibility != ""
			f.SeenAt = timePtr(seen)
			facts[name] = f
			size += len(name) + len(f.Granted) + len(f.GroupGranted) + accessCost
			return err
		}, query, args...)
		return facts, size, err
	}, `
		WITH asked (name, team) AS (VALUES `+strings.Join(rows, ", ")+`),`+userGrants+`
		SELECT a.name, COALESCE(r.visibility, ''), COALESCE(m.role, ''), COALESCE(p.role, ''),
		       COALESCE((SELECT string_agg(mine.actions, ',') FROM mine WHERE mine.via = '' AND glob(mine.pattern, a.name)), ''),
		       COALESCE((SELECT string_agg(mine.actions, ',') FROM mine WHERE mine.via <> '' AND glob(mine.pattern, a.name)), ''),
		       COALESCE(u.disabled, TRUE), u.seen_at, v.version
		  FROM asked a
		  JOIN denial_version v ON v.id = 1
		  LEFT JOIN users u ON u.id = $1
		  LEFT JOIN repositories r ON r.name = a.name
		  LEFT JOIN teams t ON t.name = a.team
		  LEFT JOIN team_members m ON m.team_id = t.id AND m.user_id = $1
		  LEFT JOIN provider_teams p ON p.user_id = $1 AND p.team = a.team`, args...)
}

// StrongerRole is the one of two roles in a team that allows more; "" is none.
func StrongerRole(a, b string) string {
	rank := map[string]int{RoleReader: 1, RoleMember: 2, RoleMaintainer: 3}
	if rank[b] > rank[a] {
		return b
	}
	return a
}

// Ground is one reason for which somebody may do something with a repository.
type Ground struct {
	Admin    bool     // an administrator of the instance
	Robot    bool     // a token of the team, or a trust policy of it, with Pattern and Actions
	Role     string   // the role in the team, or "" for all else
	Provider bool     // the role is one that the user's provider gives
	Group    string   // the group that the grant is made to, or "" for the user
	Pattern  string   // of the grant, or of the robot
	Actions  []string // of the grant, or of the robot

	Trust string   // the trust policy that makes the robot, or ""
	Tags  string   // the only tags that the robot writes, a pattern; "" is all
	CIDRs []string // the only networks from which the robot comes
}

// Grounds lists what Access sums up, in a fixed order, at most limit: it is for
// people who want to know why.
func (tx *Tx) Grounds(ctx context.Context, userID int64, repository string, limit int) ([]Ground, error) {
	return list(ctx, tx, func(rows *sql.Rows) (Ground, error) {
		var g Ground
		var actions string
		err := rows.Scan(&g.Role, &g.Provider, &g.Group, &g.Pattern, &actions)
		g.Actions = splitList(actions)
		return g, err
	}, `
		WITH`+userGrants+`
		SELECT role, provider, via, pattern, actions FROM (
		  SELECT m.role, FALSE AS provider, '' AS via, '' AS pattern, '' AS actions
		    FROM teams t JOIN team_members m ON m.team_id = t.id WHERE t.name = $3 AND m.user_id = $1
		   UNION ALL
		  SELECT p.role, TRUE, '', '', '' FROM provider_teams p WHERE p.user_id = $1 AND p.team = $3
		   UNION
		  SELECT '', FALSE, mine.via, mine.pattern, mine.actions FROM mine WHERE glob(mine.pattern, $2)) AS found
		 ORDER BY role DESC, via, pattern LIMIT $4`, userID, repository, oci.Team(repository), limit)
}

// splitList reads a column that holds a list separated by commas.
func splitList(s string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(s, ",")
}

// maxPullPatterns bounds the patterns that one user's lists are made from.
const maxPullPatterns = 5000

// PullPatterns gives the different patterns of the grants that let a user pull,
// in byte order. The error is an UNAVAILABLE for a user with more than 5,000.
func (tx *Tx) PullPatterns(ctx context.Context, userID int64) ([]string, error) {
	patterns, err := remember(ctx, tx, func(query string, args []any) ([]string, int, error) {
		found, err := list(ctx, tx, scanString, query, args...)
		return found, sizeOf(found), err
	}, `
		WITH`+userGrants+`
		SELECT DISTINCT mine.pattern FROM mine WHERE ',' || mine.actions || ',' LIKE '%,pull,%' ORDER BY mine.pattern LIMIT $2`, userID, maxPullPatterns+1)
	if err == nil && len(patterns) > maxPullPatterns {
		return nil, oci.Errorf(oci.CodeUnavailable, "your repositories cannot be listed: more than %d patterns are granted to you. Ask an administrator for fewer and wider ones", maxPullPatterns)
	}
	return slices.Clone(patterns), err
}
