package metadata

import (
	"context"
	"database/sql"
	"fmt"
	"strconv"
	"strings"

	"berth/oci"
)

// AccessFacts is what the database knows about a user and a repository. What
// follows from it is decided in package auth, and only there.
type AccessFacts struct {
	Exists     bool
	Visibility string // "" when there is no such repository yet
	Role       string // the user's role in the team of the name, the stronger of ours and the provider's; "" for none
}

// maxAccessNames bounds how many repositories are asked about at once.
const maxAccessNames = 256

// Access gives the facts about a user (0 for nobody) and repositories, which
// need not exist. One statement; at most 256 names.
func (tx *Tx) Access(ctx context.Context, userID int64, repositories []string) (map[string]AccessFacts, error) {
	facts := make(map[string]AccessFacts, len(repositories))
	if len(repositories) == 0 {
		return facts, nil
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
	err := tx.each(ctx, func(rows *sql.Rows) error {
		var name string
		var f AccessFacts
		var provided string
		err := rows.Scan(&name, &f.Visibility, &f.Role, &provided)
		f.Role = StrongerRole(f.Role, provided)
		f.Exists = f.Visibility != ""
		facts[name] = f
		return err
	}, `
		WITH asked (name, team) AS (VALUES `+strings.Join(rows, ", ")+`)
		SELECT a.name, COALESCE(r.visibility, ''), COALESCE(m.role, ''), COALESCE(p.role, '')
		  FROM asked a
		  LEFT JOIN repositories r ON r.name = a.name
		  LEFT JOIN teams t ON t.name = a.team
		  LEFT JOIN team_members m ON m.team_id = t.id AND m.user_id = $1
		  LEFT JOIN provider_teams p ON p.user_id = $1 AND p.team = a.team`, args...)
	return facts, err
}

// StrongerRole is the one of two roles in a team that allows more; "" is none.
func StrongerRole(a, b string) string {
	rank := map[string]int{RoleReader: 1, RoleMember: 2, RoleMaintainer: 3}
	if rank[b] > rank[a] {
		return b
	}
	return a
}
