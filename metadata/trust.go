package metadata

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"berth/oci"
)

// TrustIssuer is an issuer of tokens that teams may choose for their trust
// policies. An administrator has let it in.
type TrustIssuer struct {
	URL       string // as it stands in the tokens' claim "iss"
	Owners    []TrustOwner
	CreatedAt time.Time
	CreatedBy string
}

// TrustOwner says whose the jobs are whose tokens have a claim that matches a pattern
// (* and ?): no policy of another team lets them in.
type TrustOwner struct {
	Claim   string `json:"claim"`
	Pattern string `json:"pattern"`
	Team    string `json:"team"`
}

// TrustPolicy lets workloads of somebody else's platform act as a robot of a
// team, without a secret: who shows a token of the issuer, for the audience, whose
// claims match, is the robot.
type TrustPolicy struct {
	ID           int64
	TeamID       int64
	Team         string
	Name         string // unique in the team
	Issuer       string
	Audience     string
	Claims       map[string]string // claim (nested ones with dots) -> pattern (* and ?)
	Robot        string            // whom the workload acts as: Team+Robot
	Repositories string            // glob on repository names; "*" is all of the team
	Actions      []string          // pull, push, delete, admin
	Tags         string            // glob on tags; "" is every tag
	MaxLife      time.Duration     // of a registry token, in whole seconds
	CreatedAt    time.Time
	CreatedBy    string
	UpdatedAt    time.Time
	LastUsedAt   *time.Time
}

// PutTrustIssuer lets an issuer in. One that is there already stays as it is.
func (tx *Tx) PutTrustIssuer(ctx context.Context, issuer, by string) (TrustIssuer, error) {
	_, err := tx.exec(ctx, `
		INSERT INTO trust_issuers (url, created_at, created_by) VALUES ($1, $2, $3)
		ON CONFLICT DO NOTHING`, issuer, micros(tx.now), by)
	if err != nil {
		return TrustIssuer{}, err
	}
	return tx.TrustIssuer(ctx, issuer)
}

const trustIssuerColumns = `url, owners, created_at, created_by FROM trust_issuers`

// TrustIssuer finds an issuer that an administrator has let in, or returns NOT_FOUND.
func (tx *Tx) TrustIssuer(ctx context.Context, issuer string) (TrustIssuer, error) {
	i, err := scanTrustIssuer(tx.row(ctx, `SELECT `+trustIssuerColumns+` WHERE url = $1`, issuer).Scan)
	return i, notFound(err, errTrustIssuerUnknown(issuer))
}

func errTrustIssuerUnknown(issuer string) *oci.Error {
	return oci.Errorf(oci.CodeNotFound, "there is no issuer %s", issuer)
}

// SetTrustOwners says whose the jobs of an issuer are; before, they were others'. It
// returns NOT_FOUND for the issuer or a team.
func (tx *Tx) SetTrustOwners(ctx context.Context, issuer string, owners []TrustOwner) (TrustIssuer, error) {
	for _, o := range owners {
		if _, err := tx.LockTeam(ctx, o.Team); err != nil {
			return TrustIssuer{}, err
		}
	}
	if err := tx.setTrustOwners(ctx, issuer, owners); err != nil {
		return TrustIssuer{}, err
	}
	return tx.TrustIssuer(ctx, issuer)
}

func (tx *Tx) setTrustOwners(ctx context.Context, issuer string, owners []TrustOwner) error {
	text := ""
	if len(owners) > 0 {
		raw, err := json.Marshal(owners)
		if err != nil {
			return err
		}
		text = string(raw)
	}
	n, err := tx.exec(ctx, `UPDATE trust_issuers SET owners = $2 WHERE url = $1`, issuer, text)
	if err == nil && n == 0 {
		return errTrustIssuerUnknown(issuer)
	}
	return err
}

// dropTrustOwners forgets what was a team's.
func (tx *Tx) dropTrustOwners(ctx context.Context, team string) error {
	issuers, err := list(ctx, tx, func(rows *sql.Rows) (TrustIssuer, error) { return scanTrustIssuer(rows.Scan) },
		`SELECT `+trustIssuerColumns+` WHERE owners <> '' ORDER BY url`+tx.dialect().ForUpdate())
	if err != nil {
		return err
	}
	for _, i := range issuers {
		left := slices.DeleteFunc(slices.Clone(i.Owners), func(o TrustOwner) bool { return o.Team == team })
		if len(left) < len(i.Owners) {
			if err := tx.setTrustOwners(ctx, i.URL, left); err != nil {
				return err
			}
		}
	}
	return nil
}

func scanTrustIssuer(scan func(...any) error) (TrustIssuer, error) {
	var i TrustIssuer
	var created int64
	var owners string
	err := scan(&i.URL, &owners, &created, &i.CreatedBy)
	if err == nil && owners != "" {
		if err := json.Unmarshal([]byte(owners), &i.Owners); err != nil {
			return i, fmt.Errorf("the owners of the issuer %s: %w", i.URL, err)
		}
	}
	i.CreatedAt = fromMicros(created)
	return i, err
}

// TrustIssuers lists issuers behind a URL, in byte order.
func (tx *Tx) TrustIssuers(ctx context.Context, after string, limit int) ([]TrustIssuer, error) {
	return list(ctx, tx, func(rows *sql.Rows) (TrustIssuer, error) { return scanTrustIssuer(rows.Scan) },
		`SELECT `+trustIssuerColumns+` WHERE url > $1 ORDER BY url LIMIT $2`, after, limit)
}

// HasTrustIssuer reports whether an administrator has let an issuer in.
func (tx *Tx) HasTrustIssuer(ctx context.Context, issuer string) (has bool, err error) {
	err = tx.row(ctx, `SELECT EXISTS (SELECT 1 FROM trust_issuers WHERE url = $1)`, issuer).Scan(&has)
	return has, err
}

// DeleteTrustIssuer removes an issuer. It returns CONFLICT while a policy names
// it, or NOT_FOUND.
func (tx *Tx) DeleteTrustIssuer(ctx context.Context, issuer string) error {
	n, err := tx.exec(ctx, `
		DELETE FROM trust_issuers WHERE url = $1
		   AND NOT EXISTS (SELECT 1 FROM trust_policies WHERE issuer = $1)`, issuer)
	if err != nil || n > 0 {
		return err
	}
	has, err := tx.HasTrustIssuer(ctx, issuer)
	switch {
	case err != nil:
		return err
	case has:
		return oci.Errorf(oci.CodeConflict, "trust policies name the issuer %s: delete these first", issuer)
	}
	return errTrustIssuerUnknown(issuer)
}

const trustPolicyColumns = `p.id, p.team_id, t.name, p.name, p.issuer, p.audience, p.claims, p.robot, p.repositories, p.actions, p.tags,
       p.max_seconds, p.created_at, p.created_by, p.updated_at, p.last_used_at
  FROM trust_policies p JOIN teams t ON t.id = p.team_id`

func scanTrustPolicy(scan func(...any) error) (TrustPolicy, error) {
	var p TrustPolicy
	var claims, actions string
	var seconds, created, updated int64
	var used sql.NullInt64
	err := scan(&p.ID, &p.TeamID, &p.Team, &p.Name, &p.Issuer, &p.Audience, &claims, &p.Robot, &p.Repositories, &actions, &p.Tags,
		&seconds, &created, &p.CreatedBy, &updated, &used)
	if err != nil {
		return p, err
	}
	if err := json.Unmarshal([]byte(claims), &p.Claims); err != nil {
		return p, fmt.Errorf("the claims of the trust policy %d: %w", p.ID, err)
	}
	if actions != "" {
		p.Actions = strings.Split(actions, ",")
	}
	p.MaxLife = time.Duration(seconds) * time.Second
	p.CreatedAt, p.UpdatedAt, p.LastUsedAt = fromMicros(created), fromMicros(updated), timePtr(used)
	return p, nil
}

func errTrustPolicyUnknown(team, name string) *oci.Error {
	return oci.Errorf(oci.CodeNotFound, "the team %s has no trust policy named %s", team, name)
}

// PutTrustPolicy makes a policy of a team, or replaces the one of this name, which
// keeps its place among the others. created says which. It returns NOT_FOUND
// for the team.
func (tx *Tx) PutTrustPolicy(ctx context.Context, p TrustPolicy) (stored TrustPolicy, created bool, err error) {
	team, err := tx.teamID(ctx, p.Team)
	if err != nil {
		return TrustPolicy{}, false, err
	}
	claims, err := json.Marshal(p.Claims)
	if err != nil {
		return TrustPolicy{}, false, err
	}
	err = tx.row(ctx, `
		INSERT INTO trust_policies (team_id, name, issuer, audience, claims, robot, repositories, actions, tags, max_seconds,
		       created_at, created_by, updated_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $11)
		ON CONFLICT (team_id, name) DO UPDATE
		   SET issuer = excluded.issuer, audience = excluded.audience, claims = excluded.claims, robot = excluded.robot,
		       repositories = excluded.repositories, actions = excluded.actions, tags = excluded.tags,
		       max_seconds = excluded.max_seconds, updated_at = excluded.updated_at
		RETURNING created_at = $11`,
		team, p.Name, p.Issuer, p.Audience, string(claims), p.Robot, p.Repositories, strings.Join(p.Actions, ","), p.Tags,
		int64(p.MaxLife/time.Second), micros(tx.now), p.CreatedBy).Scan(&created)
	if err != nil {
		return TrustPolicy{}, false, err
	}
	stored, err = tx.TrustPolicy(ctx, p.Team, p.Name)
	return stored, created, err
}

// TrustPolicy finds a policy of a team by its name, or returns NOT_FOUND.
func (tx *Tx) TrustPolicy(ctx context.Context, team, name string) (TrustPolicy, error) {
	p, err := scanTrustPolicy(tx.row(ctx, `SELECT `+trustPolicyColumns+` WHERE t.name = $1 AND p.name = $2`, team, name).Scan)
	return p, notFound(err, errTrustPolicyUnknown(team, name))
}

// LockTrustPolicy is TrustPolicy for a change: the row stays as it is until the
// transaction ends.
func (tx *Tx) LockTrustPolicy(ctx context.Context, team, name string) (TrustPolicy, error) {
	var id int64
	err := tx.row(ctx, `
		SELECT id FROM trust_policies WHERE team_id = (SELECT id FROM teams WHERE name = $1) AND name = $2`+tx.dialect().ForUpdate(), team, name).Scan(&id)
	if err != nil {
		return TrustPolicy{}, notFound(err, errTrustPolicyUnknown(team, name))
	}
	return tx.TrustPolicyByID(ctx, id)
}

// TrustPolicyByID finds a policy, or returns NOT_FOUND.
func (tx *Tx) TrustPolicyByID(ctx context.Context, id int64) (TrustPolicy, error) {
	p, err := scanTrustPolicy(tx.row(ctx, `SELECT `+trustPolicyColumns+` WHERE p.id = $1`, id).Scan)
	return p, notFound(err, oci.Errorf(oci.CodeNotFound, "there is no such trust policy"))
}

// TrustPolicies lists the policies of a team behind a name, in byte order.
func (tx *Tx) TrustPolicies(ctx context.Context, team, after string, limit int) ([]TrustPolicy, error) {
	return list(ctx, tx, func(rows *sql.Rows) (TrustPolicy, error) { return scanTrustPolicy(rows.Scan) },
		`SELECT `+trustPolicyColumns+` WHERE t.name = $1 AND p.name > $2 ORDER BY p.name LIMIT $3`, team, after, limit)
}

// trustPolicyPage is how many policies are read at a time.
const trustPolicyPage = 100

// EachTrustPolicy calls fn with the policies of an issuer for any of the
// audiences, the oldest first, until fn says false.
func (tx *Tx) EachTrustPolicy(ctx context.Context, issuer string, audiences []string, fn func(TrustPolicy) bool) error {
	if len(audiences) == 0 {
		return nil
	}
	args := []any{issuer, int64(0), trustPolicyPage}
	marks := make([]string, len(audiences))
	for i, audience := range audiences {
		args = append(args, audience)
		marks[i] = "$" + strconv.Itoa(len(args))
	}
	query := `SELECT ` + trustPolicyColumns + ` WHERE p.issuer = $1 AND p.id > $2 AND p.audience IN (` + strings.Join(marks, ", ") + `) ORDER BY p.id LIMIT $3`
	for {
		page, err := list(ctx, tx, func(rows *sql.Rows) (TrustPolicy, error) { return scanTrustPolicy(rows.Scan) }, query, args...)
		if err != nil {
			return err
		}
		for _, p := range page {
			if !fn(p) {
				return nil
			}
		}
		if len(page) < trustPolicyPage {
			return nil
		}
		args[1] = page[len(page)-1].ID
	}
}

// DeleteTrustPolicy removes a policy of a team by its name, or returns NOT_FOUND.
func (tx *Tx) DeleteTrustPolicy(ctx context.Context, team, name string) error {
	n, err := tx.exec(ctx, `DELETE FROM trust_policies WHERE team_id = (SELECT id FROM teams WHERE name = $1) AND name = $2`, team, name)
	if err == nil && n == 0 {
		return errTrustPolicyUnknown(team, name)
	}
	return err
}

// TouchTrustPolicy notes that a workload signed in by a policy now, at most once
// a minute.
func (tx *Tx) TouchTrustPolicy(ctx context.Context, id int64) error {
	_, err := tx.exec(ctx, `
		UPDATE trust_policies SET last_used_at = $2 WHERE id = $1 AND (last_used_at IS NULL OR last_used_at < $3)`,
		id, micros(tx.now), micros(tx.now.Add(-touchEvery)))
	return err
}
