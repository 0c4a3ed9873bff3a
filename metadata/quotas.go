package metadata

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"

	"berth/oci"
	"berth/sqldb"
)

// Limits are the limits of a team; nil is none.
type Limits struct {
	Bytes        *int64 // of blobs, each once for the team, of manifests, and of uploads under way
	Repositories *int64
	Tags         *int64
}

// Quota is a team's limits and what it uses of them.
type Quota struct {
	Team   string
	Limits Limits
	// Counted is false until what the team had is counted, which begins when
	// it gets its first quota. Until then nothing is refused.
	Counted bool
	// Bytes, Repositories and Tags are in use. Blobs that were pushed in the last
	// moments may count more than once.
	Bytes, Repositories, Tags int64
	Reserved                  int64 // bytes of uploads under way, not in Bytes
	UpdatedAt                 time.Time
	UpdatedBy                 string
}

// The things that have a limit, in the order of an amount.
const (
	quotaBytes = iota
	quotaRepositories
	quotaTags
)

// amount is of bytes, repositories and tags.
type amount [3]int64

func (q Quota) limits() [3]*int64 {
	return [3]*int64{q.Limits.Bytes, q.Limits.Repositories, q.Limits.Tags}
}
func (q Quota) used() amount { return amount{q.Bytes + q.Reserved, q.Repositories, q.Tags} }

const quotaColumns = `q.team, q.max_bytes, q.max_repositories, q.max_tags, q.counted, q.updated_at, q.updated_by,
	q.used_bytes + COALESCE((SELECT CAST(SUM(l.bytes) AS BIGINT) FROM quota_ledger l WHERE l.team = q.team), 0),
	q.used_repositories + COALESCE((SELECT CAST(SUM(l.repositories) AS BIGINT) FROM quota_ledger l WHERE l.team = q.team), 0),
	q.used_tags + COALESCE((SELECT CAST(SUM(l.tags) AS BIGINT) FROM quota_ledger l WHERE l.team = q.team), 0),
	COALESCE((SELECT CAST(SUM(u.reserved) AS BIGINT) FROM uploads u WHERE u.quota_team = q.team), 0)
	FROM team_quotas q`

func scanQuota(scan func(...any) error) (q Quota, err error) {
	var limits [3]sql.NullInt64
	var updated int64
	err = scan(&q.Team, &limits[0], &limits[1], &limits[2], &q.Counted, &updated, &q.UpdatedBy, &q.Bytes, &q.Repositories, &q.Tags, &q.Reserved)
	q.UpdatedAt = fromMicros(updated)
	for i, to := range []**int64{&q.Limits.Bytes, &q.Limits.Repositories, &q.Limits.Tags} {
		if limits[i].Valid {
			*to = &limits[i].Int64
		}
	}
	return q, err
}

// Quota gives a team's quota, or NOT_FOUND.
func (tx *Tx) Quota(ctx context.Context, team string) (Quota, error) {
	q, err := scanQuota(tx.row(ctx, `SELECT `+quotaColumns+` WHERE q.team = $1`, team).Scan)
	if errors.Is(err, sql.ErrNoRows) {
		if _, err := tx.teamID(ctx, team); err != nil {
			return Quota{}, err
		}
		return Quota{}, oci.Errorf(oci.CodeNotFound, "the team %s has no quota", team)
	}
	return q, err
}

// Quotas lists the teams that have a quota, by name, behind one.
func (tx *Tx) Quotas(ctx context.Context, after string, limit int) ([]Quota, error) {
	return list(ctx, tx, func(rows *sql.Rows) (Quota, error) { return scanQuota(rows.Scan) },
		`SELECT `+quotaColumns+` WHERE q.team > $1 ORDER BY q.team LIMIT $2`, after, limit)
}

// SetQuota changes a team's limits. The first ones hold when CountQuotas has
// counted what the team has. It returns NOT_FOUND, INVALID, or UNAVAILABLE when
// pushes do not let it begin to count.
func (tx *Tx) SetQuota(ctx context.Context, team string, l Limits, actor string) error {
	for _, limit := range []*int64{l.Bytes, l.Repositories, l.Tags} {
		if limit != nil && *limit < 0 {
			return oci.Errorf(oci.CodeInvalid, "a limit is negative: use 0 or more, or leave it out for none")
		}
	}
	if l == (Limits{}) {
		return oci.Errorf(oci.CodeInvalid, "the quota limits nothing: give a limit of bytes, repositories or tags, or remove the quota")
	}
	if _, err := tx.teamID(ctx, team); err != nil {
		return err
	}
	n, err := tx.exec(ctx, `UPDATE team_quotas SET max_bytes = $2, max_repositories = $3, max_tags = $4, updated_at = $5, updated_by = $6 WHERE team = $1`,
		team, l.Bytes, l.Repositories, l.Tags, micros(tx.now), actor)
	if err != nil || n > 0 {
		return err
	}
	// Whoever pushes after this writes the ledger; whoever has begun before does
	// not, so these end first.
	if err := tx.dialect().Drain(ctx, tx.sql, "team_quotas"); err != nil {
		if tx.dialect().IsLockTimeout(err) {
			return oci.Errorf(oci.CodeUnavailable, "pushes did not let the counting begin: set the quota again").WithCause(err)
		}
		return err
	}
	_, err = tx.exec(ctx, `INSERT INTO team_quotas (team, max_bytes, max_repositories, max_tags, updated_at, updated_by) VALUES ($1, $2, $3, $4, $5, $6)`,
		team, l.Bytes, l.Repositories, l.Tags, micros(tx.now), actor)
	return err
}

// DeleteQuota removes a team's quota; then nothing of it is counted. It returns NOT_FOUND.
func (tx *Tx) DeleteQuota(ctx context.Context, team string) error {
	n, err := tx.exec(ctx, `DELETE FROM team_quotas WHERE team = $1`, team)
	if err == nil && n == 0 {
		_, err = tx.Quota(ctx, team) // says what is not there
	}
	return err
}

// CountQuota counts what a team has, all of it: for a quota that is new, and does nothing
// when somebody else has counted meanwhile. It has to
// be the first thing in its transaction. On SQLite other writes wait for it, about ten
// seconds per million images.
func (tx *Tx) CountQuota(ctx context.Context, team string) error {
	if err := tx.dialect().OneSnapshot(ctx, tx.sql); err != nil {
		return err
	}
	// Millions of blobs take longer than a statement may, and the quota would never begin to hold.
	if err := tx.dialect().Patient(ctx, tx.sql); err != nil {
		return err
	}
	// Who counts at the same time waits here, and begins again when that is done.
	if n, err := tx.exec(ctx, `UPDATE team_quotas SET counted = FALSE WHERE team = $1 AND NOT counted`, team); err != nil || n == 0 {
		return err
	}
	for _, statement := range []string{
		`DELETE FROM quota_blobs WHERE team = $1`,
		`DELETE FROM quota_ledger WHERE team = $1`,
		`INSERT INTO quota_blobs (team, digest, size)
		 SELECT DISTINCT r.team, l.digest, b.size
		   FROM repositories r JOIN repository_blobs l ON l.repository_id = r.id JOIN blobs b ON b.digest = l.digest
		  WHERE r.team = $1 AND EXISTS (SELECT 1 FROM team_quotas q WHERE q.team = $1)`,
		`UPDATE team_quotas SET counted = TRUE,
		        used_bytes = COALESCE((SELECT CAST(SUM(size) AS BIGINT) FROM quota_blobs WHERE team = $1), 0)
		                   + COALESCE((SELECT CAST(SUM(m.size) AS BIGINT) FROM manifests m JOIN repositories r ON r.id = m.repository_id WHERE r.team = $1), 0),
		        used_repositories = (SELECT COUNT(*) FROM repositories WHERE team = $1),
		        used_tags = (SELECT COUNT(*) FROM tags t JOIN repositories r ON r.id = t.repository_id WHERE r.team = $1)
		  WHERE team = $1`,
	} {
		if _, err := tx.exec(ctx, statement, team); err != nil {
			return err
		}
	}
	return nil
}

// QuotaWork is a team whose ledger has to be folded, or, when it was never, counted.
type QuotaWork struct {
	Team    string
	Counted bool
}

// QuotaWork lists teams that have something to fold or to count.
func (tx *Tx) QuotaWork(ctx context.Context, limit int) ([]QuotaWork, error) {
	return list(ctx, tx, func(rows *sql.Rows) (w QuotaWork, err error) {
		return w, rows.Scan(&w.Team, &w.Counted)
	}, `
		SELECT q.team, q.counted FROM team_quotas q
		 WHERE NOT q.counted OR EXISTS (SELECT 1 FROM quota_ledger l WHERE l.team = q.team)
		 ORDER BY q.team LIMIT $1`, limit)
}

// foldBatch is how many lines of a ledger are folded at a time.
const foldBatch = 1000

// FoldQuota folds lines of a team's ledger into its sums, and returns how many.
func (tx *Tx) FoldQuota(ctx context.Context, team string) (int, error) {
	held, err := list(ctx, tx, scanString, `SELECT team FROM team_quotas WHERE team = $1 AND counted`+tx.dialect().ForUpdate(), team)
	if err != nil || len(held) == 0 {
		return 0, err
	}
	return tx.foldQuota(ctx, team)
}

// foldQuota is FoldQuota under the lock of the quota's row. A line about a blob
// is worth what the links say now, so that folding it twice, or a line too many, does no harm.
func (tx *Tx) foldQuota(ctx context.Context, team string) (int, error) {
	var ids []int64
	var sum amount
	blobs := map[digest.Digest]bool{}
	err := tx.each(ctx, func(rows *sql.Rows) error {
		var id int64
		var d digest.Digest
		var of amount
		err := rows.Scan(&id, &d, &of[0], &of[1], &of[2])
		ids = append(ids, id)
		if d != "" {
			blobs[d] = true
			of[quotaBytes] = 0
		}
		for i := range sum {
			sum[i] += of[i]
		}
		return err
	}, `SELECT id, digest, bytes, repositories, tags FROM quota_ledger WHERE team = $1 ORDER BY id LIMIT $2`, team, foldBatch)
	if err != nil || len(ids) == 0 {
		return 0, err
	}
	var all []digest.Digest
	for d := range blobs {
		all = append(all, d)
	}
	all = sorted(all)
	for len(all) > 0 {
		chunk := all[:min(len(all), inList)]
		all = all[len(chunk):]
		in, args := inArgs(2, chunk)
		args = append([]any{team}, args...)
		sizes := func(query string) (map[digest.Digest]int64, error) {
			found := map[digest.Digest]int64{}
			return found, tx.each(ctx, func(rows *sql.Rows) error {
				var d digest.Digest
				var size int64
				err := rows.Scan(&d, &size)
				found[d] = size
				return err
			}, query, args...)
		}
		// First what is counted, then what is there: a link that comes in between has its own line.
		counted, err := sizes(`SELECT digest, size FROM quota_blobs WHERE team = $1 AND digest IN ` + in)
		if err != nil {
			return 0, err
		}
		there, err := sizes(`
			SELECT b.digest, b.size FROM blobs b
			 WHERE b.digest IN ` + in + `
			   AND EXISTS (SELECT 1 FROM repository_blobs l JOIN repositories r ON r.id = l.repository_id
			                WHERE l.digest = b.digest AND r.team = $1)`)
		if err != nil {
			return 0, err
		}
		for _, d := range chunk {
			was, is := counted[d], there[d]
			_, wasThere := counted[d]
			_, isThere := there[d]
			switch {
			case isThere && !wasThere:
				_, err = tx.exec(ctx, `INSERT INTO quota_blobs (team, digest, size) VALUES ($1, $2, $3)`, team, string(d), is)
			case !isThere && wasThere:
				_, err = tx.exec(ctx, `DELETE FROM quota_blobs WHERE team = $1 AND digest = $2`, team, string(d))
			default:
				continue
			}
			if err != nil {
				return 0, err
			}
			sum[quotaBytes] += is - was
		}
	}
	_, err = tx.exec(ctx, `
		UPDATE team_quotas SET used_bytes = used_bytes + $2, used_repositories = used_repositories + $3, used_tags = used_tags + $4
		 WHERE team = $1`, team, sum[quotaBytes], sum[quotaRepositories], sum[quotaTags])
	if err != nil {
		return 0, err
	}
	for left := ids; len(left) > 0; {
		chunk := left[:min(len(left), inList)]
		left = left[len(chunk):]
		in, args := inIDs(1, chunk, func(id int64) int64 { return id })
		if _, err := tx.exec(ctx, `DELETE FROM quota_ledger WHERE id IN `+in, args...); err != nil {
			return 0, err
		}
	}
	return len(ids), nil
}

// DropLedger removes lines of teams that have no quota any more, at most a
// thousand, and returns how many.
func (tx *Tx) DropLedger(ctx context.Context) (int64, error) {
	return tx.exec(ctx, `
		DELETE FROM quota_ledger WHERE id IN (
		       SELECT l.id FROM quota_ledger l
		        WHERE NOT EXISTS (SELECT 1 FROM team_quotas q WHERE q.team = l.team) ORDER BY l.id LIMIT $1)`, foldBatch)
}

// Charge is the most that a transaction may add to what a team uses.
type Charge struct {
	Bytes int64
	Tags  int
	// Unknown says that it cannot be told.
	Unknown bool
}

// Those who are far from a limit do not wait for each other: what is left
// beyond 7/8 of it holds 1,024 charges that do not see each other, of 1/8192 of the limit each. That
// many transactions are never under way at once, for each has a connection.
const (
	farPart  = 8
	farCount = 1024
)

// far reports whether a charge may be made without waiting for others.
func (q Quota) far(c amount) bool {
	used := q.used()
	for i, limit := range q.limits() {
		if limit != nil && c[i] != 0 && (c[i] > *limit/(farPart*farCount) || used[i] > *limit-*limit/farPart) {
			return false
		}
	}
	return true
}

// over gives the first limit that is exceeded, and by more than it was before.
func (q Quota) over(before amount) (int, bool) {
	used := q.used()
	for i, limit := range q.limits() {
		if limit != nil && used[i] > *limit && used[i] > before[i] {
			return i, true
		}
	}
	return 0, false
}

// errQuotaContended makes the transaction begin again, now as one that waits.
var errQuotaContended = oci.Errorf(oci.CodeUnavailable, "many are pushing at the limit of a quota at once: push again").WithCause(sqldb.ErrAgain)

// PushTo runs a push to a repository, which is made when it is not there yet, and refuses
// what its team's quota does not allow: then all is undone, and the error is a DENIED. The limit is never
// exceeded: near it, the pushes of a team wait for each other. For a team without a quota it costs nothing.
// created says that this push has made the repository.
func (tx *Tx) PushTo(ctx context.Context, repository, defaultVisibility, actor string, c Charge, fn func(id int64) error) (created bool, err error) {
	var found sql.NullInt64
	var limited bool
	team := oci.Team(repository)
	err = tx.row(ctx, `SELECT (SELECT id FROM repositories WHERE name = $1), EXISTS (SELECT 1 FROM team_quotas WHERE team = $2)`, repository, team).Scan(&found, &limited)
	if err != nil {
		return false, err
	}
	push := func() (err error) {
		id := found.Int64
		if !found.Valid {
			if id, created, err = tx.EnsureRepository(ctx, repository, defaultVisibility, actor); err != nil {
				return err
			}
		}
		return fn(id)
	}
	if !limited {
		err = push()
		return created, err
	}
	most := amount{c.Bytes, 0, int64(c.Tags)}
	if !found.Valid {
		most[quotaRepositories] = 1
	}
	err = tx.withinQuota(ctx, team, most, c.Unknown, push)
	return created, err
}

// withinQuota runs fn, which adds at most so much to what a team uses.
func (tx *Tx) withinQuota(ctx context.Context, team string, most amount, unknown bool, fn func() error) error {
	q, err := tx.Quota(ctx, team)
	switch {
	case errors.Is(err, oci.ErrNotFound): // it was removed just now
		return fn()
	case err != nil:
		return err
	case !q.Counted:
		return fn()
	}
	lock := func(mode string) error {
		held, err := list(ctx, tx, scanString, `SELECT team FROM team_quotas WHERE team = $1`+mode, team)
		if err == nil && len(held) == 0 {
			err = errQuotaContended // removed just now
		}
		return err
	}
	// What was read before the lock is out of date.
	if !unknown && q.far(most) {
		if err := lock(tx.dialect().KeyShare()); err != nil {
			return err
		}
		if q, err = tx.Quota(ctx, team); err != nil {
			return err
		}
		if !q.far(most) {
			return errQuotaContended
		}
		return fn()
	}
	if err := lock(tx.dialect().ForUpdate()); err != nil {
		return err
	}
	if q, err = tx.Quota(ctx, team); err != nil {
		return err
	}
	enough := !unknown
	for i, limit := range q.limits() {
		enough = enough && (limit == nil || q.used()[i]+most[i] <= *limit)
	}
	if enough {
		return fn()
	}
	// Exactly, then: what the ledger says too much is folded away, before and after.
	exact := func() (Quota, error) {
		for n := foldBatch; n == foldBatch; {
			var err error
			if n, err = tx.foldQuota(ctx, team); err != nil {
				return Quota{}, err
			}
		}
		return tx.Quota(ctx, team)
	}
	if q, err = exact(); err != nil {
		return err
	}
	before := q.used()
	if err := fn(); err != nil {
		return err
	}
	after, err := exact()
	if err != nil {
		return err
	}
	if i, over := after.over(before); over {
		return errQuotaExceeded(q, i, after.used()[i]-before[i])
	}
	return nil
}

// ReserveUpload makes an upload's row hold so many bytes of its team's quota. It
// returns DENIED when they are not there, and BLOB_UPLOAD_UNKNOWN.
func (tx *Tx) ReserveUpload(ctx context.Context, id, team string, bytes int64) error {
	return tx.withinQuota(ctx, team, amount{bytes}, false, func() error {
		n, err := tx.exec(ctx, `UPDATE uploads SET quota_team = $2, reserved = CASE WHEN reserved > CAST($3 AS BIGINT) THEN reserved ELSE CAST($3 AS BIGINT) END WHERE id = $1`, id, team, bytes)
		if err == nil && n == 0 {
			err = errUploadUnknown(id)
		}
		return err
	})
}

// RoomForRepository returns DENIED when the repository is not there and its team may have no
// further one: an upload to it would come to nothing. It holds nothing; the push decides.
func (tx *Tx) RoomForRepository(ctx context.Context, repository string) error {
	q, err := tx.Quota(ctx, oci.Team(repository))
	switch limit := q.Limits.Repositories; {
	case errors.Is(err, oci.ErrNotFound): // it was removed just now
		return nil
	case err != nil, !q.Counted, limit == nil, q.Repositories < *limit:
		return err
	}
	_, err = tx.repositoryID(ctx, repository)
	if errors.Is(err, oci.ErrNameUnknown) {
		return errQuotaExceeded(q, quotaRepositories, 1)
	}
	return err
}

func errQuotaExceeded(q Quota, of int, more int64) *oci.Error {
	limit, used := *q.limits()[of], q.used()[of]
	name := []string{"bytes", "repositories", "tags"}[of]
	var state, remedy string
	if of == quotaBytes {
		state = fmt.Sprintf("has used %s of its quota of %s", oci.ShowBytes(q.Bytes), oci.ShowBytes(limit))
		if q.Reserved > 0 {
			state += fmt.Sprintf(", and %s by uploads under way", oci.ShowBytes(q.Reserved))
		}
		state += fmt.Sprintf("; this needs %s more", oci.ShowBytes(more))
		remedy = "Delete images that nobody needs, which frees their space when they can no longer be restored"
	} else {
		state = fmt.Sprintf("has %d of at most %d %s", used, limit, name)
		remedy = "Delete " + name + " that nobody needs"
	}
	return oci.Errorf(oci.CodeDenied, "the team %s %s. %s (berth quota show %s, berth du), or ask an administrator of this registry to raise the quota",
		q.Team, state, remedy, q.Team).WithDetail(map[string]any{
		"rule": "quota", "team": q.Team, "of": name, "limit": limit, "used": used, "reserved": q.Reserved, "needed": more,
		"ask": "an administrator of this registry",
	})
}
