package metadata

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"berth/oci"
)

// The visibilities of a repository: who may pull besides the members of its team.
const (
	Public   = "public"   // everybody
	Internal = "internal" // every signed-in user
	Private  = "private"  // nobody
)

// Repository is a repository's row.
type Repository struct {
	ID         int64
	Name       string
	Team       string // first path segment of the name
	Visibility string
	TagPolicy  *TagPolicy // nil inherits the team's or the instance's; only filled by Repository and Repositories
	CreatedAt  time.Time
	CreatedBy  string
}

const repositoryColumns = `r.id, r.name, r.team, r.visibility, r.created_at, r.created_by,
       COALESCE((SELECT p.mode FROM tag_policies p WHERE p.id = r.tag_policy_id), ''),
       COALESCE((SELECT string_agg(e.pattern, ',' ORDER BY e.pattern) FROM tag_policy_exemptions e WHERE e.policy_id = r.tag_policy_id), '')`

// exemptList is the patterns of policy p, separated by commas, which no pattern holds.
const exemptList = `COALESCE((SELECT string_agg(e.pattern, ',' ORDER BY e.pattern) FROM tag_policy_exemptions e WHERE e.policy_id = p.id), '')`

func scanRepository(scan func(...any) error) (Repository, error) {
	var r Repository
	var created int64
	var mode, exempt string
	err := scan(&r.ID, &r.Name, &r.Team, &r.Visibility, &created, &r.CreatedBy, &mode, &exempt)
	r.CreatedAt = fromMicros(created)
	r.TagPolicy = tagPolicy(mode, exempt)
	return r, err
}

// errRepositoryUnknown makes the NAME_UNKNOWN for a name.
func errRepositoryUnknown(name string) *oci.Error {
	return oci.Errorf(oci.CodeNameUnknown, "there is no repository %s", name)
}

// errRepositoryGone is for a push that a foreign key stopped.
func errRepositoryGone(cause error) *oci.Error {
	return oci.Errorf(oci.CodeNameUnknown, "the repository was deleted while something was pushed to it: push again").WithCause(cause)
}

// Repository finds a repository by its name, or returns NAME_UNKNOWN.
func (tx *Tx) Repository(ctx context.Context, name string) (Repository, error) {
	r, err := scanRepository(tx.row(ctx, `SELECT `+repositoryColumns+` FROM repositories r WHERE r.name = $1`, name).Scan)
	return r, notFound(err, errRepositoryUnknown(name))
}

// EnsureRepository returns the repository's id and makes it when it is not
// there yet. A new one gets its team's default visibility, else the given one.
func (tx *Tx) EnsureRepository(ctx context.Context, name, defaultVisibility, actor string) (id int64, created bool, err error) {
	err = tx.row(ctx, `SELECT id FROM repositories WHERE name = $1`, name).Scan(&id)
	if !errors.Is(err, sql.ErrNoRows) {
		return id, false, err
	}
	err = tx.row(ctx, `
		INSERT INTO repositories (name, team, visibility, created_at, created_by)
		VALUES ($1, $2, COALESCE((SELECT default_visibility FROM teams WHERE name = $2), $3), $4, $5)
		ON CONFLICT (name) DO NOTHING
		RETURNING id`,
		name, oci.Team(name), defaultVisibility, micros(tx.now), actor).Scan(&id)
	if errors.Is(err, sql.ErrNoRows) { // somebody else made it in between
		return id, false, tx.row(ctx, `SELECT id FROM repositories WHERE name = $1`, name).Scan(&id)
	}
	return id, err == nil, err
}

// Viewer says whose eyes a list is for: a repository is listed when one of
// the fields lets them pull it, and none of Denied takes that away.
type Viewer struct {
	All      bool      // everything
	Signed   bool      // internal repositories too
	UserID   int64     // those of the user's teams, ours and the provider's; nothing but public ones when the user is gone
	Fresh    time.Time // the same when the user's provider has not vouched since; zero is never
	Team     string    // those of this team
	Patterns []string  // those that match one of them, as granted to the user
	Glob     string    // and only names that match; "" is all
	Denied   []string  // and only names that match none of them
}

// RepositoryFilter selects repositories for a list.
type RepositoryFilter struct {
	Viewer Viewer
	Team   string // only this team's
	Prefix string // only names that start so
	After  string // names behind this one
	Limit  int
}

// Repositories lists repositories in the order of their names (bytes).
func (tx *Tx) Repositories(ctx context.Context, f RepositoryFilter) ([]Repository, error) {
	return inChunks(f, func(r Repository) string { return r.Name }, func(f RepositoryFilter) ([]Repository, error) {
		page, args := f.page("*", tx.dialect().Lateral())
		return list(ctx, tx, func(rows *sql.Rows) (Repository, error) { return scanRepository(rows.Scan) },
			`SELECT `+repositoryColumns+` FROM `+page+` AS r ORDER BY r.name`, args...)
	})
}

// RepositoryNames is Repositories for the names alone.
func (tx *Tx) RepositoryNames(ctx context.Context, f RepositoryFilter) ([]string, error) {
	if tx.sql.Remembers() && !f.Viewer.Fresh.IsZero() {
		// With a moment in it, no question would be asked twice. For nearly everybody it
		// makes no difference, which is a question without one.
		fresh, err := tx.isFresh(ctx, f.Viewer)
		if err != nil {
			return nil, err
		}
		if fresh {
			f.Viewer.Fresh = time.Time{}
		}
	}
	return inChunks(f, func(name string) string { return name }, func(f RepositoryFilter) ([]string, error) {
		page, args := f.page("name", tx.dialect().Lateral())
		return tx.rememberNames(ctx, `SELECT string_agg(r.name, ',') FROM `+page+` AS r`, args...)
	})
}

// isFresh reports whether the viewer's provider has vouched since Viewer.Fresh, or
// there is none.
func (tx *Tx) isFresh(ctx context.Context, v Viewer) (bool, error) {
	seen, err := remember(ctx, tx, func(query string, args []any) (seen sql.NullInt64, _ int, err error) {
		return seen, 0, tx.row(ctx, query, args...).Scan(&seen)
	}, `SELECT seen_at FROM users WHERE id = $1`, v.UserID)
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	return err == nil && (!seen.Valid || seen.Int64 >= micros(v.Fresh)), err
}

// patternsAtOnce is how many patterns of grants one statement looks for.
const patternsAtOnce = 32

// inChunks puts a page together from statements that look for some of the
// viewer's patterns each. Nearly everybody has so few that it is one.
func inChunks[T any](f RepositoryFilter, name func(T) string, read func(RepositoryFilter) ([]T, error)) ([]T, error) {
	patterns := f.Viewer.Patterns
	f.Viewer.Patterns = patterns[:min(len(patterns), patternsAtOnce)]
	page, err := read(f)
	for rest := patterns[len(f.Viewer.Patterns):]; err == nil && len(rest) > 0; rest = rest[len(f.Viewer.Patterns):] {
		f.Viewer.Patterns = rest[:min(len(rest), patternsAtOnce)]
		var more []T
		if more, err = read(f); err == nil {
			page = slices.Concat(page, more) // a new one: what was read may be remembered
			slices.SortFunc(page, func(a, b T) int { return strings.Compare(name(a), name(b)) })
			page = slices.CompactFunc(page, func(a, b T) bool { return name(a) == name(b) })
			page = page[:min(len(page), f.Limit)]
		}
	}
	return page, err
}

// page is the list as a table expression, with the given columns, one of which is name.
func (f RepositoryFilter) page(columns string, lateral bool) (from string, args []any) {
	var where []string
	arg := func(v any) string {
		args = append(args, v)
		return "$" + strconv.Itoa(len(args))
	}
	where = append(where, "r.name > "+arg(f.After))
	if f.Team != "" {
		where = append(where, "r.team = "+arg(f.Team))
	}
	if f.Prefix != "" {
		// A range, so that the index serves it: the name grammar ends below '{'.
		where = append(where, "r.name >= "+arg(f.Prefix), "r.name < "+arg(f.Prefix+"{"))
	}
	if f.Viewer.Glob != "" && f.Viewer.Glob != "*" {
		// The part before the first wildcard is a range of the index.
		if literal := literalOf(f.Viewer.Glob); literal != "" {
			where = append(where, "r.name >= "+arg(literal), "r.name < "+arg(literal+"{"))
		}
		where = append(where, "glob("+arg(f.Viewer.Glob)+", r.name)")
	}
	if denied := padded(f.Viewer.Denied); len(denied) > 0 {
		rows := make([]string, len(denied))
		for i, pattern := range denied {
			rows[i] = "(CAST(" + arg(pattern) + " AS TEXT))"
		}
		where = append(where, "NOT EXISTS (WITH denied (pattern) AS (VALUES "+strings.Join(rows, ", ")+") SELECT 1 FROM denied WHERE glob(denied.pattern, r.name))")
	}
	limit := arg(f.Limit)
	page := func(also string) string {
		return `(SELECT ` + columns + ` FROM repositories r WHERE ` + strings.Join(where, " AND ") + also + ` ORDER BY r.name LIMIT ` + limit + `)`
	}
	if f.Viewer.All {
		return page(""), args
	}
	may := []string{"r.visibility = 'public'"}
	known := ""
	var pages []string
	if f.Viewer.UserID != 0 {
		user := arg(f.Viewer.UserID)
		known = ` AND EXISTS (SELECT 1 FROM users u WHERE u.id = ` + user + ` AND NOT u.disabled`
		if !f.Viewer.Fresh.IsZero() {
			known += ` AND (u.seen_at IS NULL OR u.seen_at >= ` + arg(micros(f.Viewer.Fresh)) + `)`
		}
		known += `)`
		teams := `(SELECT t.name FROM team_members m JOIN teams t ON t.id = m.team_id WHERE m.user_id = ` + user + `
		            UNION ALL SELECT p.team FROM provider_teams p WHERE p.user_id = ` + user + `)`
		if lateral {
			// A page of each team: of teams in a condition, Postgres may walk over all
			// repositories by name until it has found enough, or none.
			pages = append(pages, `SELECT page.`+columns+` FROM `+teams+` AS mine (team) CROSS JOIN LATERAL `+page(` AND r.team = mine.team`+known)+` AS page`)
		} else {
			may = append(may, `r.team IN `+teams+known)
		}
	}
	if f.Viewer.Signed {
		may = append(may, "r.visibility = 'internal'"+known)
	}
	if f.Viewer.Team != "" {
		may = append(may, "r.team = "+arg(f.Viewer.Team))
	}
	for _, pattern := range padded(f.Viewer.Patterns) {
		literal := literalOf(pattern) // a range of the index
		may = append(may, "r.name >= "+arg(literal)+" AND r.name < "+arg(literal+"{")+" AND glob("+arg(pattern)+", r.name)"+known)
	}
	// Each reason has an index in the order of names, so a page is read
	// from each and merged. One condition with OR would walk over all that
	// somebody may not see, which is nearly everything in a large instance.
	for _, m := range may {
		pages = append(pages, `SELECT `+columns+` FROM `+page(" AND "+m)+` AS page`)
	}
	return `(SELECT ` + columns + ` FROM (` + strings.Join(pages, ` UNION `) + `) AS seen ORDER BY name LIMIT ` + limit + `)`, args
}

// literalOf is what all names that match a pattern begin with.
func literalOf(pattern string) string {
	if i := strings.IndexAny(pattern, "*?"); i >= 0 {
		return pattern[:i]
	}
	return pattern
}

// padded repeats the last of a list up to a power of two, so that the number of
// different statements stays small.
func padded(list []string) []string {
	n := 1
	for n < len(list) {
		n *= 2
	}
	if len(list) == 0 {
		return nil
	}
	out := slices.Clone(list)
	for len(out) < n {
		out = append(out, list[len(list)-1])
	}
	return out
}

// SetVisibility changes who may pull, or returns NAME_UNKNOWN.
func (tx *Tx) SetVisibility(ctx context.Context, name, visibility string) error {
	n, err := tx.exec(ctx, `UPDATE repositories SET visibility = $2 WHERE name = $1`, name, visibility)
	if err == nil && n == 0 {
		return errRepositoryUnknown(name)
	}
	return err
}

// RepositoryStats is what a repository holds.
type RepositoryStats struct {
	Tags      int64
	Manifests int64
	Blobs     int64
	Bytes     int64 // of its manifests and blobs; blobs may be shared with other repositories
}

// RepositoryStats counts what a repository holds. It reads all its rows.
func (tx *Tx) RepositoryStats(ctx context.Context, id int64) (RepositoryStats, error) {
	var s RepositoryStats
	var manifestBytes, blobBytes int64
	err := tx.row(ctx, `
		SELECT (SELECT COUNT(*) FROM tags WHERE repository_id = $1),
		       (SELECT COUNT(*) FROM manifests WHERE repository_id = $1),
		       (SELECT CAST(COALESCE(SUM(size), 0) AS BIGINT) FROM manifests WHERE repository_id = $1),
		       (SELECT COUNT(*) FROM repository_blobs WHERE repository_id = $1),
		       (SELECT CAST(COALESCE(SUM(b.size), 0) AS BIGINT)
		          FROM repository_blobs l JOIN blobs b ON b.digest = l.digest WHERE l.repository_id = $1)`,
		id).Scan(&s.Tags, &s.Manifests, &manifestBytes, &s.Blobs, &blobBytes)
	s.Bytes = manifestBytes + blobBytes
	return s, err
}

// DeleteRepository removes a repository with its tags, manifests and links, and
// what of it could be restored; the history of its tags stays. It returns NAME_UNKNOWN, or DENIED (409) when a tag is sealed.
func (tx *Tx) DeleteRepository(ctx context.Context, name string, actor Actor) error {
	// The lock stops pushes: their foreign keys wait for this row, then fail.
	var id int64
	var policy sql.NullInt64
	err := tx.row(ctx, `SELECT id, tag_policy_id FROM repositories WHERE name = $1`+tx.dialect().ForUpdate(), name).Scan(&id, &policy)
	if err != nil {
		return notFound(err, errRepositoryUnknown(name))
	}
	if _, err := tx.deleteTags(ctx, name, id, actor, ``, 0); err != nil {
		return err
	}
	for _, statement := range []string{
		`DELETE FROM manifest_children WHERE manifest_id IN (SELECT id FROM manifests WHERE repository_id = $1)`,
		`DELETE FROM manifests WHERE repository_id = $1`,
		`DELETE FROM repository_blobs WHERE repository_id = $1`,
		`DELETE FROM repositories WHERE id = $1`,
	} {
		if _, err := tx.exec(ctx, statement, id); err != nil {
			if tx.dialect().IsForeignKey(err) {
				return oci.Errorf(oci.CodeConflict, "somebody is pushing to %s right now: try again", name).WithCause(err)
			}
			return fmt.Errorf("deleting repository %s: %w", name, err)
		}
	}
	if policy.Valid {
		_, err := tx.exec(ctx, `DELETE FROM tag_policies WHERE id = $1`, policy.Int64)
		return err
	}
	return nil
}
