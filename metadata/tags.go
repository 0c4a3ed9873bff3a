package metadata

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"berth/oci"
)

// The modes of a tag policy. An immutable tag never moves; deleting it is a
// right of its own and on record. A sealed tag can neither move nor be
// deleted, ever.
const (
	Mutable   = "mutable"
	Immutable = "immutable"
	Sealed    = "sealed"
)

// TagPolicy is what may happen to tags. Tags that match a pattern of Exempt
// are mutable; the only wildcards are * and ?.
type TagPolicy struct {
	Mode   string
	Exempt []string
}

// maxExempt and maxPattern bound a policy's patterns, in count and in bytes, and
// maxNamedPatterns how many of them a refusal names.
const (
	maxExempt        = 100
	maxPattern       = 128
	maxNamedPatterns = 12
)

// Validate checks a policy that a person wrote. The error is an INVALID.
func (p TagPolicy) Validate() error {
	if p.Mode != Mutable && p.Mode != Immutable && p.Mode != Sealed {
		return oci.Errorf(oci.CodeInvalid, "the tag policy %q is not one of mutable, immutable, sealed", p.Mode)
	}
	if len(p.Exempt) > maxExempt {
		return oci.Errorf(oci.CodeInvalid, "a tag policy may have at most %d exempt patterns, this one has %d", maxExempt, len(p.Exempt))
	}
	for _, pattern := range p.Exempt {
		if len(pattern) > maxPattern || !oci.IsTagGlob(pattern) {
			return oci.Errorf(oci.CodeInvalid, "the pattern %.140q is not valid: use at most %d of the characters of tags, * and ?", pattern, maxPattern)
		}
	}
	return nil
}

// tagPolicy reads the columns of a policy; without a mode there is no policy.
func tagPolicy(mode, exempt string) *TagPolicy {
	if mode == "" {
		return nil
	}
	p := &TagPolicy{Mode: mode, Exempt: []string{}}
	if exempt != "" {
		p.Exempt = strings.Split(exempt, ",")
	}
	return p
}

// Tag is a tag with what decides over it now.
type Tag struct {
	Name      string
	Digest    digest.Digest
	MediaType string
	Size      int64  // of the manifest, bytes
	Mode      string // mutable, immutable or sealed
	CreatedAt time.Time
	UpdatedAt time.Time
	UpdatedBy string
	Claims    map[string]string // what the identity provider said of UpdatedBy
}

const tagColumns = `t.name, t.digest, m.media_type, m.size, v.mode, t.created_at, t.updated_at, t.updated_by, t.claims
  FROM tags t
  JOIN manifests m ON m.repository_id = t.repository_id AND m.digest = t.digest
  JOIN tag_modes v ON v.repository_id = t.repository_id AND v.name = t.name`

func scanTag(scan func(...any) error) (Tag, error) {
	var t Tag
	var created, updated int64
	var claims string
	err := scan(&t.Name, &t.Digest, &t.MediaType, &t.Size, &t.Mode, &created, &updated, &t.UpdatedBy, &claims)
	t.Claims = readClaims(claims)
	t.CreatedAt, t.UpdatedAt = fromMicros(created), fromMicros(updated)
	return t, err
}

// TagChange says what a push did to a tag.
type TagChange struct {
	Created  bool
	Moved    bool
	Previous digest.Digest // where it pointed before, when Moved
}

// putTagAttempts is how often a push of a tag looks at what stands in its way.
const putTagAttempts = 8

// PutTag points a tag to a manifest of the repository. The database decides:
// one conditional upsert, with the tag's policy as its condition, so that of
// any number of pushers of an immutable tag exactly one wins. Where it refuses, the error is a
// DENIED (409) that says what the tag is, since when and by whom. Pushing
// what the tag already points to changes nothing and succeeds.
func (tx *Tx) PutTag(ctx context.Context, repositoryID int64, name string, d digest.Digest, actor Actor) (TagChange, error) {
	for attempt := 1; ; attempt++ {
		change, decided, err := tx.putTag(ctx, repositoryID, name, d, actor)
		if decided || err != nil {
			return change, err
		}
		if attempt == putTagAttempts {
			return TagChange{}, oci.Errorf(oci.CodeTagImmutable, "the tag %s is being changed by others all the time: push again", name)
		}
	}
}

// putTag is undecided when what stood in the way is gone, or may move by now.
func (tx *Tx) putTag(ctx context.Context, repositoryID int64, name string, d digest.Digest, actor Actor) (change TagChange, decided bool, err error) {
	var previous sql.NullString
	// The condition asks for the policy by the repository and not by the tag
	// (as tag_modes would): on Postgres the tag in the way may be younger than the
	// statement's snapshot, which only t itself is exempt from.
	err = tx.row(ctx, `
		INSERT INTO tags AS t (repository_id, name, digest, created_at, updated_at, updated_by, claims)
		VALUES ($1, $2, $3, $4, $4, $5, $6)
		ON CONFLICT (repository_id, name) DO UPDATE
		   SET digest = excluded.digest, previous = t.digest,
		       updated_at = excluded.updated_at, updated_by = excluded.updated_by, claims = excluded.claims
		 WHERE t.digest <> excluded.digest AND NOT t.sealed
		   AND EXISTS (SELECT 1 FROM repository_tag_policies p
		                WHERE p.repository_id = t.repository_id
		                  AND (p.mode = 'mutable' OR EXISTS (SELECT 1 FROM tag_policy_exemptions e
		                                                      WHERE e.policy_id = p.policy_id AND glob(e.pattern, t.name))))
		RETURNING previous`,
		repositoryID, name, string(d), micros(tx.now), actor.Name, actor.claims()).Scan(&previous)
	switch {
	case err == nil:
		return TagChange{Created: !previous.Valid, Moved: previous.Valid, Previous: digest.Digest(previous.String)}, true, nil
	case tx.dialect().IsForeignKey(err):
		return TagChange{}, true, oci.Errorf(oci.CodeManifestUnknown, "the manifest %s was deleted while it was tagged: push it again", d).WithCause(err)
	case !errors.Is(err, sql.ErrNoRows) && !tx.dialect().IsTriggered(err):
		return TagChange{}, true, err
	}
	// No row, or on SQLite the trigger tags_replace: the tag is there and may
	// not move, or points there already.
	refused := err
	var repository string
	t, err := scanTag(func(dest ...any) error {
		return tx.row(ctx, `SELECT r.name, `+tagColumns+`
			  JOIN repositories r ON r.id = t.repository_id
			 WHERE t.repository_id = $1 AND t.name = $2`, repositoryID, name).Scan(append([]any{&repository}, dest...)...)
	})
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return TagChange{}, false, nil
	case err != nil && tx.dialect().IsTriggered(refused):
		// A trigger refused on Postgres, so the policy has just become
		// stricter, and the transaction answers no more questions.
		return TagChange{}, true, oci.Errorf(oci.CodeTagImmutable, "the tag policy does not let the tag %s move", name).WithCause(refused)
	case err != nil:
		return TagChange{}, true, err
	case t.Digest == d:
		return TagChange{}, true, nil
	case t.Mode == Mutable:
		return TagChange{}, false, nil
	}
	policy, _, err := tx.EffectiveTagPolicy(ctx, repository)
	if err != nil {
		return TagChange{}, true, err
	}
	return TagChange{}, true, errTagMoves(repository, t, policy.Exempt)
}

// errTagMoves refuses to move a tag. exempt are the patterns of tags that may move: who has
// chosen a name for a build cache, or for a channel, learns there which name to take.
func errTagMoves(repository string, t Tag, exempt []string) *oci.Error {
	may := "No tag may move here"
	if len(exempt) > 0 {
		may = "Tags that may move here: " + strings.Join(exempt[:min(len(exempt), maxNamedPatterns)], ", ")
		if len(exempt) > maxNamedPatterns {
			may += ", ..."
		}
	}
	e := errTagRefused(repository, t)
	e.Message += ". " + may
	return e
}

func errTagRefused(repository string, t Tag) *oci.Error {
	remedy := fmt.Sprintf("push another tag, or ask a maintainer of the team %s to delete this one first", oci.Team(repository))
	if t.Mode == Sealed {
		remedy = "push another tag; a sealed one can neither move nor be deleted"
	}
	return oci.Errorf(oci.CodeTagImmutable, "the tag %s of %s is %s: it points to %s since %s, pushed by %s; %s",
		t.Name, repository, t.Mode, t.Digest, t.UpdatedAt.Format(time.RFC3339), t.UpdatedBy, remedy).
		WithDetail(map[string]any{
			"rule": "tag-policy",
			"tag":  t.Name, "repository": repository, "digest": t.Digest, "policy": t.Mode,
			"pushed_by": t.UpdatedBy, "pushed_at": t.UpdatedAt,
		})
}

// RecordRefusal leaves a line in the tag's history about a push that was
// refused. It belongs into a transaction of its own, after the refusal.
func (tx *Tx) RecordRefusal(ctx context.Context, repository, tag string, d digest.Digest, actor Actor) error {
	_, err := tx.exec(ctx, `
		INSERT INTO tag_history (repository, tag, action, digest, previous, actor, at, claims)
		SELECT $1, $2, 'refused', $3,
		       (SELECT t.digest FROM tags t JOIN repositories r ON r.id = t.repository_id WHERE r.name = $1 AND t.name = $2),
		       $4, $5, $6`, repository, tag, string(d), actor.Name, micros(tx.now), actor.claims())
	return err
}

// Tag finds a tag, or returns MANIFEST_UNKNOWN or NAME_UNKNOWN.
func (tx *Tx) Tag(ctx context.Context, repository, name string) (Tag, error) {
	t, err := scanTag(tx.row(ctx, `SELECT `+tagColumns+`
		  JOIN repositories r ON r.id = t.repository_id
		 WHERE r.name = $1 AND t.name = $2`, repository, name).Scan)
	if errors.Is(err, sql.ErrNoRows) {
		return Tag{}, tx.errManifestUnknown(ctx, repository, name)
	}
	return t, err
}

// Tags lists a repository's tags behind a name, in byte order, with all about
// them. It returns NAME_UNKNOWN when there is no such repository.
func (tx *Tx) Tags(ctx context.Context, repository, after string, limit int) ([]Tag, error) {
	id, err := tx.repositoryID(ctx, repository)
	if err != nil {
		return nil, err
	}
	return list(ctx, tx, func(rows *sql.Rows) (Tag, error) { return scanTag(rows.Scan) }, `SELECT `+tagColumns+`
		 WHERE t.repository_id = $1 AND t.name > $2 ORDER BY t.name LIMIT $3`, id, after, limit)
}

// TagNames is Tags for the names alone.
func (tx *Tx) TagNames(ctx context.Context, repository, after string, limit int) ([]string, error) {
	names, err := tx.rememberNames(ctx, `
		SELECT COALESCE((SELECT string_agg(page.name, ',')
		                   FROM (SELECT g.name FROM tags g WHERE g.repository_id = r.id AND g.name > $2
		                          ORDER BY g.name LIMIT $3) AS page), '')
		  FROM repositories r WHERE r.name = $1`, repository, after, limit)
	return names, notFound(err, errRepositoryUnknown(repository))
}

func (tx *Tx) repositoryID(ctx context.Context, name string) (id int64, err error) {
	err = tx.row(ctx, `SELECT id FROM repositories WHERE name = $1`, name).Scan(&id)
	return id, notFound(err, errRepositoryUnknown(name))
}

// DeleteTag removes a tag, on record; Restore can bring it back. It returns MANIFEST_UNKNOWN or
// NAME_UNKNOWN, or DENIED (409) when the tag is sealed.
// It gives the digest that the tag had.
func (tx *Tx) DeleteTag(ctx context.Context, repository, name string, actor Actor) (digest.Digest, error) {
	t, err := tx.Tag(ctx, repository, name)
	if err != nil {
		return "", err
	}
	if t.Mode == Sealed {
		return "", errTagRefused(repository, t)
	}
	id, err := tx.repositoryID(ctx, repository)
	if err != nil {
		return "", err
	}
	var d digest.Digest // it may have moved since it was read
	err = tx.row(ctx, `UPDATE tags SET removed_by = $3, claims = $4 WHERE repository_id = $1 AND name = $2 RETURNING digest`,
		id, name, actor.Name, actor.claims()).Scan(&d)
	if err != nil {
		return "", notFound(err, oci.Errorf(oci.CodeManifestUnknown, "the tag %s of %s was deleted by somebody else", name, repository))
	}
	if err := tx.buryTags(ctx, 0, `repository_id = $1 AND name = $2`, id, name); err != nil {
		return "", err
	}
	_, err = tx.exec(ctx, `DELETE FROM tags WHERE repository_id = $1 AND name = $2`, id, name)
	if err != nil && tx.dialect().IsTriggered(err) {
		return "", errTagRefused(repository, t).WithCause(err)
	}
	return d, err
}

// DeleteTagAndImage is DeleteTag that takes the manifest along when this was its last tag and no
// index needs it; dropped says so. Restore brings back both, by the tag or by the digest.
func (tx *Tx) DeleteTagAndImage(ctx context.Context, repository, name string, actor Actor) (d digest.Digest, dropped bool, err error) {
	t, err := tx.Tag(ctx, repository, name)
	if err != nil {
		return "", false, err
	}
	id, err := tx.repositoryID(ctx, repository)
	if err != nil {
		return "", false, err
	}
	// The lock stops other tags and indexes: their foreign keys wait for this row.
	_, err = list(ctx, tx, scanID, `SELECT id FROM manifests WHERE repository_id = $1 AND digest = $2`+tx.dialect().ForUpdate(), id, string(t.Digest))
	if err != nil {
		return "", false, err
	}
	var last bool
	err = tx.row(ctx, `
		SELECT EXISTS (SELECT 1 FROM tags WHERE repository_id = $1 AND digest = $2 AND name = $3)
		   AND NOT EXISTS (SELECT 1 FROM tags WHERE repository_id = $1 AND digest = $2 AND name <> $3)
		   AND NOT EXISTS (SELECT 1 FROM manifest_children c JOIN manifests m ON m.id = c.child_id
		                    WHERE m.repository_id = $1 AND m.digest = $2)`, id, string(t.Digest), name).Scan(&last)
	if err != nil {
		return "", false, err
	}
	if !last {
		d, err = tx.DeleteTag(ctx, repository, name, actor)
		return d, false, err
	}
	_, err = tx.DeleteManifest(ctx, repository, t.Digest, actor)
	return t.Digest, err == nil, err
}

// deleteTags removes all tags of a repository for ever, or those of one digest,
// which can be restored with its deletion.
func (tx *Tx) deleteTags(ctx context.Context, repository string, id int64, actor Actor, d string, deletion int64) ([]string, error) {
	of, args := "", []any{id}
	if d != "" {
		of, args = ` AND digest = $2`, append(args, d)
	}
	var sealedTag string
	err := tx.row(ctx, `SELECT v.name FROM tags t JOIN tag_modes v ON v.repository_id = t.repository_id AND v.name = t.name
		 WHERE t.repository_id = $1 AND v.mode = 'sealed'`+strings.ReplaceAll(of, "digest", "t.digest")+` LIMIT 1`, args...).Scan(&sealedTag)
	if err == nil {
		t, err := tx.Tag(ctx, repository, sealedTag)
		if err != nil {
			return nil, err
		}
		return nil, errTagRefused(repository, t)
	}
	if !errors.Is(err, sql.ErrNoRows) {
		return nil, err
	}
	set, by := `UPDATE tags SET removed_by = $2, claims = $3 WHERE repository_id = $1`, []any{id, actor.Name, actor.claims()}
	if d != "" {
		set, by = set+` AND digest = $4`, append(by, d)
	}
	if _, err := tx.exec(ctx, set, by...); err != nil {
		return nil, err
	}
	if d != "" {
		if err := tx.buryTags(ctx, deletion, `repository_id = $1`+of, args...); err != nil {
			return nil, err
		}
	}
	names, err := list(ctx, tx, scanString, `DELETE FROM tags WHERE repository_id = $1`+of+` RETURNING name`, args...)
	if err != nil && tx.dialect().IsTriggered(err) {
		return nil, oci.Errorf(oci.CodeTagImmutable, "a tag of %s is sealed and can never be deleted", repository).WithCause(err)
	}
	slices.Sort(names)
	return names, err
}

// TagEvent is a line of a tag's history.
type TagEvent struct {
	ID       int64
	Tag      string
	Action   string // create, move, delete or refused
	Digest   digest.Digest
	Previous digest.Digest // "" for none
	Actor    string
	Claims   map[string]string // what the identity provider said of Actor
	At       time.Time
}

// TagHistory lists what happened to a tag, newest first, before the id given
// (0 starts at the newest). The history outlives the tag and its repository.
func (tx *Tx) TagHistory(ctx context.Context, repository, tag string, before int64, limit int) ([]TagEvent, error) {
	if before <= 0 {
		before = 1<<63 - 1
	}
	return list(ctx, tx, func(rows *sql.Rows) (TagEvent, error) {
		var e TagEvent
		var at int64
		var claims string
		err := rows.Scan(&e.ID, &e.Tag, &e.Action, &e.Digest, &e.Previous, &e.Actor, &at, &claims)
		e.Claims = readClaims(claims)
		e.At = fromMicros(at)
		return e, err
	}, `
		SELECT id, tag, action, digest, COALESCE(previous, ''), actor, at, claims FROM tag_history
		 WHERE repository = $1 AND tag = $2 AND id < $3 ORDER BY id DESC LIMIT $4`, repository, tag, before, limit)
}

// instancePolicy is the id of the instance's own row.
const instancePolicy = 1

// InstanceTagPolicy gives the instance's policy.
func (tx *Tx) InstanceTagPolicy(ctx context.Context) (TagPolicy, error) {
	var mode, exempt string
	err := tx.row(ctx, `SELECT p.mode, `+exemptList+` FROM tag_policies p WHERE p.id = $1`, instancePolicy).Scan(&mode, &exempt)
	if err != nil {
		return TagPolicy{}, err
	}
	return *tagPolicy(mode, exempt), nil
}

// EffectiveTagPolicy gives the policy that decides in a repository, which need
// not exist yet, and the level that it comes from: "repository", "team" or "instance".
func (tx *Tx) EffectiveTagPolicy(ctx context.Context, repository string) (TagPolicy, string, error) {
	var mode, exempt, level string
	err := tx.row(ctx, `
		SELECT p.mode, `+exemptList+`,
		       CASE p.id WHEN COALESCE(r.tag_policy_id, 0) THEN 'repository' WHEN COALESCE(t.tag_policy_id, 0) THEN 'team' ELSE 'instance' END
		  FROM tag_policies i
		  LEFT JOIN repositories r ON r.name = $1
		  LEFT JOIN teams t ON t.name = $2
		  JOIN tag_policies p ON p.id = COALESCE(r.tag_policy_id, t.tag_policy_id, i.id)
		 WHERE i.id = $3`, repository, oci.Team(repository), instancePolicy).Scan(&mode, &exempt, &level)
	if err != nil {
		return TagPolicy{}, "", err
	}
	return *tagPolicy(mode, exempt), level, nil
}

// SetInstanceTagPolicy changes the policy of everything that has none of its
// own. Tags that stand under a policy of mode sealed are sealed for ever.
func (tx *Tx) SetInstanceTagPolicy(ctx context.Context, p TagPolicy) error {
	if err := p.Validate(); err != nil {
		return err
	}
	if err := tx.seal(ctx, `SELECT id FROM repositories`); err != nil { // what the old policy sealed
		return err
	}
	if _, err := tx.exec(ctx, `UPDATE tag_policies SET mode = $2 WHERE id = $1`, instancePolicy, p.Mode); err != nil {
		return err
	}
	if err := tx.setExempt(ctx, instancePolicy, p.Exempt); err != nil {
		return err
	}
	return tx.seal(ctx, `SELECT id FROM repositories`)
}

// SetTeamTagPolicy changes a team's policy; nil inherits the instance's. It
// returns NOT_FOUND when there is no such team.
func (tx *Tx) SetTeamTagPolicy(ctx context.Context, team string, p *TagPolicy) error {
	return tx.setTagPolicy(ctx, "teams", team, errTeamUnknown(team), p, `SELECT id FROM repositories WHERE team = $1`)
}

// SetRepositoryTagPolicy changes a repository's policy; nil inherits the
// team's. It returns NAME_UNKNOWN when there is no such repository.
func (tx *Tx) SetRepositoryTagPolicy(ctx context.Context, repository string, p *TagPolicy) error {
	return tx.setTagPolicy(ctx, "repositories", repository, errRepositoryUnknown(repository), p, `SELECT id FROM repositories WHERE name = $1`)
}

func (tx *Tx) setTagPolicy(ctx context.Context, table, name string, unknown *oci.Error, p *TagPolicy, repositories string) error {
	if p != nil {
		if err := p.Validate(); err != nil {
			return err
		}
	}
	var old sql.NullInt64
	if err := tx.row(ctx, `SELECT tag_policy_id FROM `+table+` WHERE name = $1`+tx.dialect().ForUpdate(), name).Scan(&old); err != nil {
		return notFound(err, unknown)
	}
	if err := tx.seal(ctx, repositories, name); err != nil { // what the old policy sealed
		return err
	}
	var id sql.NullInt64
	if p != nil {
		if err := tx.row(ctx, `INSERT INTO tag_policies (mode) VALUES ($1) RETURNING id`, p.Mode).Scan(&id); err != nil {
			return err
		}
		if err := tx.setExempt(ctx, id.Int64, p.Exempt); err != nil {
			return err
		}
	}
	if _, err := tx.exec(ctx, `UPDATE `+table+` SET tag_policy_id = $2 WHERE name = $1`, name, id); err != nil {
		return err
	}
	if old.Valid {
		if _, err := tx.exec(ctx, `DELETE FROM tag_policies WHERE id = $1`, old.Int64); err != nil {
			return err
		}
	}
	return tx.seal(ctx, repositories, name)
}

func (tx *Tx) setExempt(ctx context.Context, policy int64, patterns []string) error {
	if _, err := tx.exec(ctx, `DELETE FROM tag_policy_exemptions WHERE policy_id = $1`, policy); err != nil {
		return err
	}
	for _, pattern := range slices.Compact(slices.Sorted(slices.Values(patterns))) {
		if _, err := tx.exec(ctx, `INSERT INTO tag_policy_exemptions (policy_id, pattern) VALUES ($1, $2)`, policy, pattern); err != nil {
			return err
		}
	}
	return nil
}

// seal stamps the tags that now stand under a sealing policy, so that a later,
// softer policy cannot free them. It is called before a policy changes too: on Postgres a
// push that runs beside the change to sealed may leave a tag without the stamp, and so may a shell.
func (tx *Tx) seal(ctx context.Context, repositories string, args ...any) error {
	var used bool
	err := tx.row(ctx, `SELECT EXISTS (SELECT 1 FROM tag_policies WHERE mode = 'sealed')`).Scan(&used)
	if err != nil || !used {
		return err
	}
	_, err = tx.exec(ctx, `
		UPDATE tags SET sealed = TRUE
		 WHERE NOT sealed AND repository_id IN (`+repositories+`)
		   AND (SELECT v.mode FROM tag_modes v
		         WHERE v.repository_id = tags.repository_id AND v.name = tags.name) = 'sealed'`, args...)
	return err
}
