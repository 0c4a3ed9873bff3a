package metadata

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"berth/oci"
)

// RetentionRule keeps some of the tags that it selects. A tag stays when any
// rule keeps it; one that rules select and none keeps goes, and so does a mutable
// tag that no rule selects.
type RetentionRule struct {
	// Name says in the tag's history which rule let it go: at most 64 lower-case
	// letters, digits, '.', '_' and '-'.
	Name string `json:"name"`
	// Tags are patterns of * and ?; none selects all tags.
	Tags []string `json:"tags,omitempty"`
	// The conditions; any that is met keeps the tag. A rule without one keeps
	// all that it selects.
	Newest       *int          `json:"newest,omitempty"`        // among so many, by when they were pushed last
	YoungerThan  time.Duration `json:"younger_than,omitempty"`  // pushed within that time
	PulledWithin time.Duration `json:"pulled_within,omitempty"` // pulled or pushed within it, exact to an hour
	// DeleteImmutable lets the rule delete immutable tags that it selects. Without it
	// they stay. Sealed tags always stay.
	DeleteImmutable bool `json:"delete_immutable,omitempty"`
}

// Bounds of a retention policy.
const (
	maxRules     = 50
	maxNewest    = 10_000
	maxRetention = 100 * 365 * 24 * time.Hour
	minUntagged  = 10 * time.Minute
)

var ruleNameRE = regexp.MustCompile(`^[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?$`)

// RetentionPolicy is what a team or a repository says itself. Each part that
// is nil is inherited: from the team, and UntaggedTTL from the instance's setting at last.
type RetentionPolicy struct {
	// Rules decide which tags stay; none at all (not nil) keeps all tags.
	Rules []RetentionRule
	// UntaggedTTL is how long a manifest lives that no tag, index or subject
	// holds; 0 keeps it.
	UntaggedTTL *time.Duration
}

// Validate checks a policy that a person wrote. The error is an INVALID.
func (p RetentionPolicy) Validate() error {
	if p.Rules == nil && p.UntaggedTTL == nil {
		return oci.Errorf(oci.CodeInvalid, "the retention policy says nothing: give rules, untagged_ttl or both, or remove the policy")
	}
	if t := p.UntaggedTTL; t != nil && *t != 0 && (*t < minUntagged || *t > maxRetention) {
		return oci.Errorf(oci.CodeInvalid, "untagged_ttl is %s: it has to be 0s, which keeps untagged manifests, or at least %s", *t, minUntagged)
	}
	if len(p.Rules) > maxRules {
		return oci.Errorf(oci.CodeInvalid, "there are %d retention rules: at most %d are allowed", len(p.Rules), maxRules)
	}
	names := map[string]bool{}
	for _, r := range p.Rules {
		switch {
		case !ruleNameRE.MatchString(r.Name), r.Name == unmatched:
			return oci.Errorf(oci.CodeInvalid, "the name %.80q of a retention rule is not valid: use at most 64 lower-case letters, digits, '.', '_' and '-', and not %q", r.Name, unmatched)
		case names[r.Name]:
			return oci.Errorf(oci.CodeInvalid, "two retention rules have the name %s: give each its own", r.Name)
		case len(r.Tags) > maxExempt:
			return oci.Errorf(oci.CodeInvalid, "the retention rule %s has %d patterns: at most %d are allowed", r.Name, len(r.Tags), maxExempt)
		case r.Newest != nil && (*r.Newest < 0 || *r.Newest > maxNewest):
			return oci.Errorf(oci.CodeInvalid, "the retention rule %s keeps the newest %d: use a number from 0 to %d", r.Name, *r.Newest, maxNewest)
		case r.YoungerThan < 0, r.PulledWithin < 0, r.YoungerThan > maxRetention, r.PulledWithin > maxRetention:
			return oci.Errorf(oci.CodeInvalid, "a time of the retention rule %s is not valid: use a duration such as 720h", r.Name)
		}
		names[r.Name] = true
		for _, pattern := range r.Tags {
			if len(pattern) > maxPattern || !oci.IsTagGlob(pattern) {
				return oci.Errorf(oci.CodeInvalid, "the pattern %.140q of the retention rule %s is not valid: use at most %d of the characters of tags, * and ?", pattern, r.Name, maxPattern)
			}
		}
	}
	return nil
}

// selects reports whether the rule is about a tag.
func (r RetentionRule) selects(tag string) bool {
	return len(r.Tags) == 0 || slices.ContainsFunc(r.Tags, func(pattern string) bool { return oci.Match(pattern, tag) })
}

// Retention is the retention that holds in a repository or for a team.
type Retention struct {
	Rules      []RetentionRule
	RulesLevel string // repository, team, or instance, where there are no rules
	// UntaggedTTL is meant only when TTLLevel is not instance: then the setting decides.
	UntaggedTTL time.Duration
	TTLLevel    string
	LastRun     *time.Time // when rules of this level were last applied to all their repositories
}

func scanRetention(scan func(...any) error) (Retention, string, error) {
	var r Retention
	var rules sql.NullString
	var ttl, ran sql.NullInt64
	if err := scan(&rules, &r.RulesLevel, &ttl, &r.TTLLevel, &ran); err != nil {
		return r, "", err
	}
	r.UntaggedTTL, r.LastRun = time.Duration(ttl.Int64)*time.Microsecond, timePtr(ran)
	if rules.Valid {
		if err := json.Unmarshal([]byte(rules.String), &r.Rules); err != nil {
			return r, "", fmt.Errorf("reading retention rules: %w", err)
		}
	}
	return r, rules.String, nil
}

// TeamRetention gives the retention that holds for a team's repositories, or NOT_FOUND.
func (tx *Tx) TeamRetention(ctx context.Context, team string) (Retention, error) {
	r, _, err := scanRetention(tx.row(ctx, `
		SELECT p.rules, CASE WHEN p.rules IS NULL THEN 'instance' ELSE 'team' END,
		       p.untagged_ttl, CASE WHEN p.untagged_ttl IS NULL THEN 'instance' ELSE 'team' END, p.ran_at
		  FROM teams t LEFT JOIN retention_policies p ON p.team_id = t.id
		 WHERE t.name = $1`, team).Scan)
	return r, notFound(err, errTeamUnknown(team))
}

// RepositoryRetention gives the retention that holds in a repository, or NAME_UNKNOWN.
func (tx *Tx) RepositoryRetention(ctx context.Context, repository string) (Retention, error) {
	r, _, err := tx.repositoryRetention(ctx, repository)
	return r, err
}

func (tx *Tx) repositoryRetention(ctx context.Context, repository string) (Retention, string, error) {
	r, text, err := scanRetention(tx.row(ctx, `
		SELECT v.rules, v.rules_level, v.untagged_ttl, v.ttl_level, p.ran_at
		  FROM repositories r JOIN repository_retention v ON v.repository_id = r.id
		  LEFT JOIN retention_policies p ON p.repository_id = r.id
		 WHERE r.name = $1`, repository).Scan)
	return r, text, notFound(err, errRepositoryUnknown(repository))
}

// SetTeamRetention changes a team's policy; nil removes it. It returns
// NOT_FOUND. The rules are applied at the next pass of the job.
func (tx *Tx) SetTeamRetention(ctx context.Context, team string, p *RetentionPolicy, actor string) error {
	id, err := tx.teamID(ctx, team)
	if err != nil {
		return err
	}
	return tx.setRetention(ctx, "team_id", id, p, actor)
}

// SetRepositoryRetention is SetTeamRetention for a repository. It returns NAME_UNKNOWN.
func (tx *Tx) SetRepositoryRetention(ctx context.Context, repository string, p *RetentionPolicy, actor string) error {
	id, err := tx.repositoryID(ctx, repository)
	if err != nil {
		return err
	}
	return tx.setRetention(ctx, "repository_id", id, p, actor)
}

func (tx *Tx) setRetention(ctx context.Context, column string, id int64, p *RetentionPolicy, actor string) error {
	if p == nil {
		if _, err := tx.exec(ctx, `DELETE FROM retention_policies WHERE `+column+` = $1`, id); err != nil {
			return err
		}
		return tx.reviewUntagged(ctx)
	}
	if err := p.Validate(); err != nil {
		return err
	}
	var rules, ttl any
	if p.Rules != nil {
		text, err := json.Marshal(p.Rules)
		if err != nil {
			return fmt.Errorf("encoding retention rules: %w", err)
		}
		rules = string(text)
	}
	if p.UntaggedTTL != nil {
		ttl = p.UntaggedTTL.Microseconds()
	}
	_, err := tx.exec(ctx, `
		INSERT INTO retention_policies (`+column+`, rules, untagged_ttl, updated_at, updated_by, next_at) VALUES ($1, $2, $3, $4, $5, $4)
		ON CONFLICT (`+column+`) DO UPDATE SET rules = excluded.rules, untagged_ttl = excluded.untagged_ttl,
		       updated_at = excluded.updated_at, updated_by = excluded.updated_by, next_at = excluded.next_at, progress = ''`,
		id, rules, ttl, micros(tx.now), actor)
	if err != nil {
		return err
	}
	return tx.reviewUntagged(ctx)
}

// reviewUntagged makes the collector look at all untagged manifests again, for
// a policy has changed.
func (tx *Tx) reviewUntagged(ctx context.Context) error {
	_, err := tx.exec(ctx, `UPDATE retention_state SET review_after = 0 WHERE id = 1`)
	return err
}

// RetentionPage is how many tags are looked at, and deleted, at a time.
const RetentionPage = inList

// RetentionReason is what one rule, or the tag itself, says of a tag.
type RetentionReason struct {
	Rule   string // "" for what is not up to rules
	Keeps  bool
	Reason string
	// Until is when this ceases to keep the tag, if nobody pushes or pulls it; nil when no time decides.
	Until *time.Time
}

// RetentionDecision is what becomes of a tag.
type RetentionDecision struct {
	Tag      string
	Digest   digest.Digest
	PushedAt time.Time
	PulledAt *time.Time // exact to an hour; nil when it was not, since that is noted
	Keep     bool
	// Rule is the one that lets the tag go: the first that selects it, or unmatched.
	Rule    string
	Reasons []RetentionReason
}

// unmatched is the history's name for tags that no rule selects.
const unmatched = "unmatched"

// RetentionRun decides about the tags of a repository, as things were when it
// was made.
type RetentionRun struct {
	Repository string
	Level      string // whose rules these are

	id         int64
	rules      []RetentionRule
	text       string // the rules as stored
	policy     TagPolicy
	now        time.Time
	pullsSince time.Time
	oldest     []cut // of the newest that each rule keeps
}

// cut is the last tag of those that a rule's Newest keeps.
type cut struct {
	at   int64
	name string
}

func (c cut) before(o cut) bool { return c.at < o.at || c.at == o.at && c.name < o.name }

// Empty reports whether there is nothing to do: no rules, so all tags stay.
func (r *RetentionRun) Empty() bool { return len(r.rules) == 0 }

// RetentionRun reads what is needed to decide about a repository's tags: by
// its rules, or, to try them, by others that a person wrote. When rules keep the newest, it reads all names and times, a
// page at a time. It returns NAME_UNKNOWN.
func (tx *Tx) RetentionRun(ctx context.Context, repository string, try []RetentionRule) (*RetentionRun, error) {
	held, text, err := tx.repositoryRetention(ctx, repository)
	if err != nil {
		return nil, err
	}
	r := &RetentionRun{Repository: repository, Level: held.RulesLevel, rules: held.Rules, text: text, now: tx.now}
	if try != nil {
		if err := (RetentionPolicy{Rules: try}).Validate(); err != nil {
			return nil, err
		}
		r.rules = try
	}
	if r.id, err = tx.repositoryID(ctx, repository); err != nil {
		return nil, err
	}
	if r.policy, _, err = tx.EffectiveTagPolicy(ctx, repository); err != nil {
		return nil, err
	}
	var since int64
	if err := tx.row(ctx, `SELECT pulls_since FROM retention_state WHERE id = 1`).Scan(&since); err != nil {
		return nil, err
	}
	r.pullsSince = fromMicros(since)
	return r, tx.findNewest(ctx, r)
}

// namesPage is how many names and times are read at a time.
const namesPage = 2000

func (tx *Tx) findNewest(ctx context.Context, r *RetentionRun) error {
	r.oldest = make([]cut, len(r.rules))
	newest := make([][]cut, len(r.rules))
	counting := false
	for _, rule := range r.rules {
		counting = counting || rule.Newest != nil && *rule.Newest > 0
	}
	// The newest come first; no more than needed are kept while reading.
	trim := func(i int) {
		slices.SortFunc(newest[i], func(a, b cut) int {
			if a.before(b) {
				return 1
			}
			return -1
		})
		newest[i] = newest[i][:min(len(newest[i]), *r.rules[i].Newest)]
	}
	for after, n := "", namesPage; counting && n == namesPage; {
		n = 0
		err := tx.each(ctx, func(rows *sql.Rows) error {
			var c cut
			if err := rows.Scan(&c.name, &c.at); err != nil {
				return err
			}
			n++
			after = c.name
			if subjectOf(c.name) != "" {
				return nil
			}
			for i, rule := range r.rules {
				if rule.Newest == nil || *rule.Newest == 0 || !rule.selects(c.name) {
					continue
				}
				if newest[i] = append(newest[i], c); len(newest[i]) >= 2**rule.Newest+namesPage {
					trim(i)
				}
			}
			return nil
		}, `SELECT name, updated_at FROM tags WHERE repository_id = $1 AND name > $2 ORDER BY name LIMIT $3`, r.id, after, namesPage)
		if err != nil {
			return err
		}
	}
	for i := range newest {
		if len(newest[i]) > 0 {
			trim(i)
			r.oldest[i] = newest[i][len(newest[i])-1]
		}
	}
	return nil
}

var fallbackRE = regexp.MustCompile(`^(sha256|sha512)-([0-9a-f]{64,128})(\.[a-z0-9]+)?$`)

// subjectOf gives the subject of a tag of clients without the referrers API,
// such as sha256-<hex> (distribution-spec, "Referrers Tag Schema") or cosign's sha256-<hex>.sig; else "".
func subjectOf(tag string) digest.Digest {
	m := fallbackRE.FindStringSubmatch(tag)
	if m == nil {
		return ""
	}
	d := digest.NewDigestFromEncoded(digest.Algorithm(m[1]), m[2])
	if d.Validate() != nil {
		return ""
	}
	return d
}

// retentionTag is a tag as it was read.
type retentionTag struct {
	name    string
	digest  digest.Digest
	pushed  time.Time
	pulled  *time.Time
	sealed  bool
	subject digest.Digest // of a fallback tag
	there   bool          // the subject is, or can be restored
}

// DecideRetention decides about a page of tags behind a name, in byte order.
func (tx *Tx) DecideRetention(ctx context.Context, r *RetentionRun, after string, limit int) ([]RetentionDecision, error) {
	return tx.decideRetention(ctx, r, after, limit, true)
}

// DecideRetentionBriefly is DecideRetention for those who count or delete: PulledAt
// stays nil when no rule asks for it. Looking for it is most of the work in a large repository.
func (tx *Tx) DecideRetentionBriefly(ctx context.Context, r *RetentionRun, after string, limit int) ([]RetentionDecision, error) {
	asked := slices.ContainsFunc(r.rules, func(rule RetentionRule) bool { return rule.PulledWithin > 0 })
	return tx.decideRetention(ctx, r, after, limit, asked)
}

func (tx *Tx) decideRetention(ctx context.Context, r *RetentionRun, after string, limit int, pulls bool) ([]RetentionDecision, error) {
	pulled := `CAST(NULL AS BIGINT)`
	if pulls {
		pulled = `(SELECT p.pulled_at FROM manifests m JOIN manifest_pulls p ON p.manifest_id = m.id
		         WHERE m.repository_id = t.repository_id AND m.digest = t.digest)`
	}
	tags, err := list(ctx, tx, func(rows *sql.Rows) (t retentionTag, err error) {
		var pushed int64
		var pulled sql.NullInt64
		err = rows.Scan(&t.name, &t.digest, &pushed, &t.sealed, &pulled)
		t.pushed, t.pulled, t.subject = fromMicros(pushed), timePtr(pulled), subjectOf(t.name)
		return t, err
	}, `
		SELECT t.name, t.digest, t.updated_at, t.sealed, `+pulled+`
		  FROM tags t WHERE t.repository_id = $1 AND t.name > $2 ORDER BY t.name LIMIT $3`, r.id, after, limit)
	if err != nil {
		return nil, err
	}
	if err := tx.findSubjects(ctx, r.id, tags); err != nil {
		return nil, err
	}
	decisions := make([]RetentionDecision, len(tags))
	for i, t := range tags {
		decisions[i] = r.decide(t)
	}
	return decisions, nil
}

// DecideRetentionOf is DecideRetention for one tag, which has to be there.
func (tx *Tx) DecideRetentionOf(ctx context.Context, r *RetentionRun, tag string) (RetentionDecision, error) {
	// The name that is just before it in byte order may be no tag, which does not matter.
	before := tag[:len(tag)-1]
	if last := tag[len(tag)-1]; last > 1 {
		before += string(rune(last-1)) + "\x7f"
	}
	decisions, err := tx.DecideRetention(ctx, r, before, 1)
	if err == nil && (len(decisions) == 0 || decisions[0].Tag != tag) {
		err = oci.Errorf(oci.CodeManifestUnknown, "there is no tag %s in the repository %s", tag, r.Repository)
	}
	if err != nil {
		return RetentionDecision{}, err
	}
	return decisions[0], nil
}

// findSubjects looks which subjects of fallback tags are there.
func (tx *Tx) findSubjects(ctx context.Context, repositoryID int64, tags []retentionTag) error {
	var asked []digest.Digest
	for _, t := range tags {
		if t.subject != "" {
			asked = append(asked, t.subject)
		}
	}
	there := map[digest.Digest]bool{}
	for chunk := range slices.Chunk(sorted(asked), inList) {
		in, args := inArgs(2, chunk)
		err := tx.each(ctx, func(rows *sql.Rows) error {
			var d digest.Digest
			err := rows.Scan(&d)
			there[d] = true
			return err
		}, `
			SELECT digest FROM manifests WHERE repository_id = $1 AND digest IN `+in+`
			 UNION ALL SELECT digest FROM deleted_manifests WHERE repository_id = $1 AND digest IN `+in, append([]any{repositoryID}, args...)...)
		if err != nil {
			return err
		}
	}
	for i := range tags {
		tags[i].there = there[tags[i].subject]
	}
	return nil
}

// pullPrecision is how exact pulls are known; the error is in favour of keeping.
const pullPrecision = time.Hour

func (r *RetentionRun) decide(t retentionTag) RetentionDecision {
	d := RetentionDecision{Tag: t.name, Digest: t.digest, PushedAt: t.pushed, PulledAt: t.pulled}
	say := func(rule string, keeps bool, format string, args ...any) {
		d.Keep = d.Keep || keeps
		d.Reasons = append(d.Reasons, RetentionReason{Rule: rule, Keeps: keeps, Reason: fmt.Sprintf(format, args...)})
	}
	if r.Empty() {
		say("", true, "there are no retention rules")
		return d
	}
	mode := r.policy.Mode
	switch {
	case t.sealed:
		mode = Sealed
	case slices.ContainsFunc(r.policy.Exempt, func(pattern string) bool { return oci.Match(pattern, t.name) }):
		mode = Mutable
	}
	if mode == Sealed {
		say("", true, "the tag is sealed and can never be deleted")
	}
	if t.there {
		say("", true, "it belongs to %s, which is there", t.subject)
	}
	may := mode == Mutable
	d.Rule = unmatched
	for i, rule := range r.rules {
		if !rule.selects(t.name) {
			continue
		}
		if d.Rule == unmatched || !may && rule.DeleteImmutable {
			d.Rule = rule.Name
		}
		may = may || mode == Immutable && rule.DeleteImmutable
		if t.subject != "" {
			say(rule.Name, false, "selected; what it belongs to decides")
			continue
		}
		r.apply(i, t, say, &d)
	}
	if d.Rule == unmatched {
		say("", false, "no rule selects it")
	}
	if !may && !d.Keep {
		say("", true, "the tag is immutable, and no rule that selects it has delete_immutable")
	}
	if d.Keep {
		d.Rule = ""
	}
	return d
}

// apply says what one rule that selects a tag says of it.
func (r *RetentionRun) apply(i int, t retentionTag, say func(rule string, keeps bool, format string, args ...any), d *RetentionDecision) {
	rule := r.rules[i]
	if rule.Newest == nil && rule.YoungerThan == 0 && rule.PulledWithin == 0 {
		say(rule.Name, true, "keeps all that it selects")
		return
	}
	if n := rule.Newest; n != nil {
		among := *n > 0 && !(cut{micros(t.pushed), t.name}).before(r.oldest[i])
		not := "not "
		if among {
			not = ""
		}
		say(rule.Name, among, "%samong the %d newest", not, *n)
	}
	age := func(what string, at time.Time, within time.Duration) {
		word := "longer ago than"
		if r.now.Sub(at) < within {
			word = "within"
		}
		keeps, until := r.now.Sub(at) < within, at.Add(within)
		say(rule.Name, keeps, "%s %s, %s %s", what, at.Format(time.RFC3339), word, within)
		if keeps {
			d.Reasons[len(d.Reasons)-1].Until = &until
		}
	}
	if rule.YoungerThan > 0 {
		age("pushed", t.pushed, rule.YoungerThan)
	}
	if rule.PulledWithin > 0 {
		// Nothing is known of pulls before the first version that notes them.
		what, last := "pushed", t.pushed
		if r.pullsSince.After(last) {
			what, last = "pulls are noted since", r.pullsSince
		}
		if t.pulled != nil && t.pulled.After(last) {
			what, last = "pulled", *t.pulled
		}
		age(what, last, rule.PulledWithin+pullPrecision)
	}
}

// NextRetention is when the rules that hold in the repository are next applied;
// in the past, that is due or under way. nil when there are no rules.
func (tx *Tx) NextRetention(ctx context.Context, r *RetentionRun) (*time.Time, error) {
	var next sql.NullInt64
	err := tx.row(ctx, `
		SELECT p.next_at FROM repositories r
		  LEFT JOIN teams t ON t.name = r.team
		  JOIN retention_policies p ON p.rules IS NOT NULL AND (p.repository_id = r.id OR p.team_id = t.id)
		 WHERE r.id = $1 ORDER BY CASE WHEN p.repository_id IS NULL THEN 1 ELSE 0 END LIMIT 1`, r.id).Scan(&next)
	return timePtr(next), notFoundIsNil(err)
}

// ErrRetentionChanged: the rules have changed since the run began.
var ErrRetentionChanged = errors.New("the retention rules have changed meanwhile")

// DeleteByRetention deletes the tags of decisions, at most RetentionPage, that are as they were
// when it was decided, and names them. A tag that was pushed again since, or that may
// not be deleted by now (its policy is the condition of the statement), stays. Restore can bring them back.
// It returns ErrRetentionChanged when the repository has other rules by now.
func (tx *Tx) DeleteByRetention(ctx context.Context, r *RetentionRun, decisions []RetentionDecision) ([]string, error) {
	decisions = slices.DeleteFunc(slices.Clone(decisions), func(d RetentionDecision) bool { return d.Keep })
	if len(decisions) == 0 {
		return nil, nil
	}
	if _, text, err := tx.repositoryRetention(ctx, r.Repository); err != nil || text != r.text {
		return nil, errors.Join(err, ErrRetentionChanged)
	}
	immutable := map[string]int{}
	for _, rule := range r.rules {
		if rule.DeleteImmutable {
			immutable[rule.Name] = 1
		}
	}
	n := 1
	for n < len(decisions) {
		n *= 2
	}
	args, values, names := []any{r.id}, make([]string, n), make([]digest.Digest, len(decisions))
	for i := range n { // padded, so that there are few different texts to prepare
		d := decisions[min(i, len(decisions)-1)]
		at := len(args)
		args = append(args, d.Tag, string(d.Digest), micros(d.PushedAt), retentionActor+d.Rule, immutable[d.Rule])
		values[i] = "(CAST($" + strconv.Itoa(at+1) + " AS TEXT), CAST($" + strconv.Itoa(at+2) + " AS TEXT), CAST($" + strconv.Itoa(at+3) +
			" AS BIGINT), CAST($" + strconv.Itoa(at+4) + " AS TEXT), CAST($" + strconv.Itoa(at+5) + " AS INTEGER))"
	}
	for i, d := range decisions {
		names[i] = digest.Digest(d.Tag) // inArgs takes any text
	}
	_, err := tx.exec(ctx, `
		WITH v (name, digest, updated_at, actor, immutable) AS (VALUES `+strings.Join(values, ", ")+`)
		UPDATE tags SET removed_by = v.actor, claims = '' FROM v
		 WHERE tags.repository_id = $1 AND tags.name = v.name AND tags.digest = v.digest AND tags.updated_at = v.updated_at
		   AND NOT tags.sealed
		   AND EXISTS (SELECT 1 FROM repository_tag_policies p
		                WHERE p.repository_id = tags.repository_id
		                  AND (p.mode = 'mutable' OR p.mode = 'immutable' AND v.immutable = 1
		                    OR EXISTS (SELECT 1 FROM tag_policy_exemptions e
		                                WHERE e.policy_id = p.policy_id AND glob(e.pattern, tags.name))))`, args...)
	if err != nil {
		return nil, err
	}
	in, args := inArgs(2, names)
	args = append([]any{r.id}, args...)
	condition := `repository_id = $1 AND name IN ` + in
	if err := tx.buryTags(ctx, 0, condition, args...); err != nil {
		return nil, err
	}
	deleted, err := list(ctx, tx, scanString, `DELETE FROM tags WHERE `+condition+` AND removed_by IS NOT NULL RETURNING name`, args...)
	slices.Sort(deleted)
	return deleted, err
}

// DueRetention is a policy whose rules have to be applied, and the repository
// that comes next.
type DueRetention struct {
	ID         int64
	Repository string // "" when all have been done
	progress   string
}

// DueRetention gives the policy that has been due longest, if there is one.
func (tx *Tx) DueRetention(ctx context.Context) (d DueRetention, ok bool, err error) {
	var team sql.NullString
	err = tx.row(ctx, `
		SELECT p.id, p.progress, COALESCE(r.name, ''), t.name
		  FROM retention_policies p LEFT JOIN repositories r ON r.id = p.repository_id LEFT JOIN teams t ON t.id = p.team_id
		 WHERE p.rules IS NOT NULL AND p.next_at <= $1 ORDER BY p.next_at, p.id LIMIT 1`, micros(tx.now)).Scan(&d.ID, &d.progress, &d.Repository, &team)
	if err != nil {
		return d, false, notFoundIsNil(err)
	}
	if !team.Valid {
		if d.progress >= d.Repository { // done
			d.Repository = ""
		}
		return d, true, nil
	}
	err = tx.row(ctx, `
		SELECT r.name FROM repositories r
		 WHERE r.team = $1 AND r.name > $2
		   AND NOT EXISTS (SELECT 1 FROM retention_policies o WHERE o.repository_id = r.id AND o.rules IS NOT NULL)
		 ORDER BY r.name LIMIT 1`, team.String, d.progress).Scan(&d.Repository)
	return d, true, notFoundIsNil(err)
}

func notFoundIsNil(err error) error {
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	return err
}

// AdvanceRetention notes that the rules were applied to d's repository, or, when that is
// "", to all: then they are due again at a time.
func (tx *Tx) AdvanceRetention(ctx context.Context, d DueRetention, next time.Time) error {
	if d.Repository != "" {
		_, err := tx.exec(ctx, `UPDATE retention_policies SET progress = $3 WHERE id = $1 AND progress = $2`, d.ID, d.progress, d.Repository)
		return err
	}
	_, err := tx.exec(ctx, `UPDATE retention_policies SET progress = '', next_at = $3, ran_at = $4 WHERE id = $1 AND progress = $2`,
		d.ID, d.progress, micros(next), micros(tx.now))
	return err
}

// RecordPulls notes that manifests were pulled just now. Those that are gone are passed over.
func (tx *Tx) RecordPulls(ctx context.Context, ids []int64) error {
	for chunk := range slices.Chunk(slices.Sorted(slices.Values(ids)), inList) {
		in, args := inIDs(2, chunk, func(id int64) int64 { return id })
		_, err := tx.exec(ctx, `
			INSERT INTO manifest_pulls (manifest_id, pulled_at)
			SELECT id, CAST($1 AS BIGINT) FROM manifests WHERE id IN `+in+` ORDER BY id
			ON CONFLICT (manifest_id) DO UPDATE SET pulled_at = excluded.pulled_at
			 WHERE manifest_pulls.pulled_at < excluded.pulled_at`, append([]any{micros(tx.now)}, args...)...)
		if err != nil {
			return err
		}
	}
	return nil
}
