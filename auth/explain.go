package auth

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"berth/metadata"
	"berth/oci"
)

// Ground is something that gives rights on a repository.
type Ground struct {
	Rule     Rule     `json:"rule"`
	Team     string   `json:"team,omitempty"`
	Group    string   `json:"group,omitempty"`
	Provider bool     `json:"provider,omitempty"` // by the word of the user's identity provider
	Pattern  string   `json:"pattern,omitempty"`  // of the grant or the token
	Actions  []string `json:"actions"`
}

// Refusal says why somebody may not, and whom to ask. It is the detail of the
// error that the client gets.
type Refusal struct {
	Rule       Rule   `json:"rule"`
	Principal  string `json:"principal"`
	Repository string `json:"repository"`
	// Missing are the actions that were needed and lack, Has those that are allowed.
	Missing []string `json:"missing"`
	Has     []string `json:"has"`
	Ask     string   `json:"ask"`
	// Team is whose namespace it is, and User the user who was refused: Pier One's
	// clients read these two.
	Team string `json:"team,omitempty"`
	User string `json:"user,omitempty"`
	// Denial names the denial that refused, and Reason is what its author says.
	Denial string `json:"denial,omitempty"`
	Reason string `json:"reason,omitempty"`
	// Grounds is what gives the rights that there are, at most 50.
	Grounds []Ground `json:"grounds,omitempty"`

	text string
}

// Message says it in a sentence or two.
func (r Refusal) Message() string { return r.text }

const (
	maxNamed   = 5  // maintainers that a refusal names
	maxGrounds = 50 // grounds that it lists
)

// anAdmin is whom to ask for what only administrators may.
const anAdmin = "an administrator of this registry"

// Explain makes the refusal of a decision that lacks what was needed. It reads
// the maintainers of the team that the name belongs to, whether or not there is
// such a repository, so that it does not tell. When that fails, the refusal
// stands without the names.
func (y *Policy) Explain(ctx context.Context, p Principal, repository string, d Decision, needed Actions) Refusal {
	missing := needed &^ d.Actions
	r := Refusal{Rule: d.Rule, Principal: p.String(), Repository: repository, Missing: missing.Names(), Has: d.Actions.Names(), Team: oci.Team(repository)}
	if p.Kind == KindUser {
		r.User = p.Name
	}
	for _, n := range actionNames {
		if missing.Has(n.action) {
			r.Rule = d.By(n.action) // of several, the first one speaks
			break
		}
	}
	team := oci.Team(repository)
	var maintainers []string
	if !p.IsAnonymous() {
		err := y.db.View(ctx, func(tx *metadata.Tx) (err error) {
			if r.Grounds, err = grounds(ctx, tx, p, repository); err == nil {
				maintainers, err = tx.Maintainers(ctx, team, maxNamed)
			}
			return err
		})
		if err != nil {
			maintainers = nil
		}
	}
	y.word(&r, p, d, team, maintainers)
	return r
}

// word writes the sentences of a refusal.
func (y *Policy) word(r *Refusal, p Principal, d Decision, team string, maintainers []string) {
	verbs := strings.Join(r.Missing, " and ")
	do := doing(r.Missing, r.Repository)
	switch {
	case r.Rule == RuleDenied:
		r.Denial, r.Reason = d.Denial, d.Reason
		r.Ask = anAdmin + ", who can change the denial " + d.Denial
		because := ""
		if d.Reason != "" {
			because = " (" + d.Reason + ")"
		}
		r.text = fmt.Sprintf("%s may not %s: the denial %s forbids it%s. Ask %s", p, do, d.Denial, because, r.Ask)
		return
	case p.IsAnonymous():
		r.Ask = "sign in (docker login), then try again"
		r.text = fmt.Sprintf("%s on %s needs a sign-in: nobody is signed in here. Sign in with docker login and try again", verbs, r.Repository)
		return
	case r.Rule == RuleStale:
		r.Ask = "sign in again with the identity provider"
		r.text = fmt.Sprintf("%s may not %s: what the identity provider said about %s is too old. Sign in there again", p, do, p)
		return
	case r.Rule == RuleLimit, r.Rule == RuleRobot:
		r.Ask = "make a token that carries " + verbs + " on this repository"
		if p.Kind == KindRobot {
			r.Ask = "a maintainer of the team " + p.Team + ", for a token that carries " + verbs + " on this repository"
		}
		from := ""
		if p.Limit != nil && len(p.Limit.CIDRs) > 0 {
			from = " from " + strings.Join(p.Limit.CIDRs, ", ")
		}
		r.text = fmt.Sprintf("the token of %s does not carry %s on %s (it carries %s on %q%s). Use or make a token that does", p, verbs, r.Repository, orNothing(p.Limit), globOf(p.Limit), from)
		return
	}
	r.Ask = anAdmin
	if len(maintainers) > 0 {
		r.Ask = "a maintainer of the team " + team + ": " + strings.Join(maintainers, ", ")
	}
	why := p.String() + " is not a member of the team " + team
	switch r.Rule {
	case RuleReader:
		why = p.String() + " is only a reader in the team " + team
	case RuleMember:
		why = p.String() + " is only a member of the team " + team
	case RuleGrant, RuleGroupGrant:
		why += ", and is granted only " + d.Actions.String()
	case RuleEverywhere:
		why += ", and may only " + strings.Join((p.Everywhere&^Admin).Names(), " and ") + " in every team by the identity provider's word"
	case RuleInternal, RulePublic, RulePublicRead:
		why += ", and others may only pull"
	case RuleMachine:
		why = "machines like it are allowed only " + orNothing(p.Limit) + " on " + globOf(p.Limit)
	case RuleGone:
		why = p.String() + " was deleted or disabled"
	}
	r.text = fmt.Sprintf("%s may not %s: %s. Ask %s", p, do, why, r.Ask)
}

// doing says actions in a repository as people do: "pull and push on core/app", "administer core/app".
func doing(actions []string, repo string) string {
	on := slices.DeleteFunc(slices.Clone(actions), func(a string) bool { return a == "admin" })
	var parts []string
	if len(on) > 0 {
		parts = append(parts, strings.Join(on, " and ")+" on")
	}
	if len(on) < len(actions) {
		parts = append(parts, "administer")
	}
	return strings.Join(parts, " and ") + " " + repo
}

// grounds lists what gives rights to somebody who is signed in, but for what
// the repository's visibility gives to all.
func grounds(ctx context.Context, tx *metadata.Tx, p Principal, repository string) ([]Ground, error) {
	team := oci.Team(repository)
	switch {
	case p.Kind == KindUser && p.Admin:
		return []Ground{{Rule: RuleAdmin, Actions: AllActions.Names()}}, nil
	case p.Kind == KindRobot && p.Limit != nil && p.Team == team:
		return []Ground{{Rule: RuleRobot, Team: team, Pattern: p.Limit.Repositories, Actions: p.Limit.Actions.Names()}}, nil
	case p.Kind == KindMachine && p.Limit != nil:
		return []Ground{{Rule: RuleMachine, Pattern: p.Limit.Repositories, Actions: p.Limit.Actions.Names()}}, nil
	case p.Kind != KindUser:
		return nil, nil
	}
	rows, err := tx.Grounds(ctx, p.ID, repository, maxGrounds)
	if err != nil {
		return nil, err
	}
	var all []Ground
	for _, row := range rows {
		all = append(all, groundOf(row, team))
	}
	if everywhere := p.Everywhere &^ Admin; everywhere != 0 {
		all = append(all, Ground{Rule: RuleEverywhere, Provider: true, Actions: everywhere.Names()})
	}
	return all, nil
}

// groundOf is a row of the database as the rule that it makes.
func groundOf(row metadata.Ground, team string) Ground {
	switch {
	case row.Admin:
		return Ground{Rule: RuleAdmin, Provider: row.Provider, Actions: AllActions.Names()}
	case row.Role != "":
		rule, actions := roleRule(row.Role)
		return Ground{Rule: rule, Team: team, Provider: row.Provider, Actions: actions.Names()}
	case row.Robot:
		return Ground{Rule: RuleRobot, Team: team, Pattern: row.Pattern, Actions: row.Actions}
	case row.Group != "":
		return Ground{Rule: RuleGroupGrant, Group: row.Group, Pattern: row.Pattern, Actions: row.Actions}
	}
	return Ground{Rule: RuleGrant, Pattern: row.Pattern, Actions: row.Actions}
}

func orNothing(l *Limit) string {
	if l == nil || l.Actions == 0 {
		return "nothing"
	}
	return strings.Join(l.Actions.Names(), ", ")
}

func globOf(l *Limit) string {
	if l == nil {
		return ""
	}
	return l.Repositories
}

// Question is what Policy.Ask answers.
type Question struct {
	Action     Actions // one of them
	Repository string  // need not exist
	Tag        string  // "" leaves tags out
	// Anywhere says that the principal's address is not known: what depends on it
	// becomes a condition of the answer.
	Anywhere bool
	// ShowTag lets the answer tell of a tag also to who may not pull.
	ShowTag bool
}

// Explanation is the answer to a Question: whether something may be done, by
// which rule, and who can help.
type Explanation struct {
	Refusal
	Allowed bool
	// Conditions are what the answer depends on, in words.
	Conditions []string
}

// Ask says whether a principal may do something, and why. Nothing is done, and
// nothing is promised for a moment later. The error says that it cannot be told now.
func (y *Policy) Ask(ctx context.Context, p Principal, q Question) (Explanation, error) {
	e := Explanation{Conditions: []string{}}
	known, err := y.facts(ctx, p, []string{q.Repository})
	if err != nil {
		return e, err
	}
	f := known[q.Repository]
	f.publicRead = y.publicRead
	if q.Anywhere {
		p, f.denials = y.anywhere(&e, p, f.denials, q)
	}
	d := y.decideAsked(ctx, p, q.Repository, q.Action, f, map[string]askedRole{})
	if d.Unsure != nil && !d.Actions.Has(q.Action) {
		if !errors.Is(d.Unsure, ErrShowCredential) {
			return e, d.Unsure
		}
		e.Conditions = append(e.Conditions, "what the identity provider says about "+p.String()+" and the team "+oci.Team(q.Repository)+" is known only at the sign-in")
	}
	if e.Allowed = d.Actions.Has(q.Action); e.Allowed {
		e.Refusal = Refusal{Rule: d.By(q.Action), Principal: p.String(), Repository: q.Repository, Missing: []string{}, Has: d.Actions.Names()}
		e.text = fmt.Sprintf("%s may %s on %s", p, q.Action, q.Repository)
		err := y.db.View(ctx, func(tx *metadata.Tx) (err error) {
			e.Grounds, err = grounds(ctx, tx, p, q.Repository)
			return err
		})
		if err != nil {
			return e, fmt.Errorf("reading why %s may: %w", p, err)
		}
	} else {
		e.Refusal = y.Explain(ctx, p, q.Repository, d, q.Action)
	}
	if open := everybody(f); open.actions != 0 {
		e.Grounds = append(e.Grounds, Ground{Rule: open.rule, Actions: open.actions.Names()})
	} else if f.Visibility == metadata.Internal && !p.IsAnonymous() {
		e.Grounds = append(e.Grounds, Ground{Rule: RuleInternal, Actions: Pull.Names()})
	}
	if e.Allowed {
		e.text += because(e.Rule, e.Grounds, q.Action)
	}
	if q.Tag != "" && (e.Allowed || d.Actions.Has(Pull) || q.ShowTag) {
		return e, y.askTag(ctx, &e, p, q)
	}
	return e, nil
}

// anywhere takes out what depends on the address that is not known, and writes
// it down as conditions.
func (y *Policy) anywhere(e *Explanation, p Principal, all []denial, q Question) (Principal, []denial) {
	var kept []denial
	for _, n := range all {
		if !n.somewhere {
			kept = append(kept, n)
			continue
		}
		if n.actions.Has(q.Action) && oci.Match(n.principal, p.String()) && oci.Match(n.repository, q.Repository) {
			e.Conditions = append(e.Conditions, "not from "+n.network.String()+", which the denial "+n.name+" forbids")
		}
	}
	if p.Limit != nil && len(p.Limit.CIDRs) > 0 {
		e.Conditions = append(e.Conditions, "only from "+strings.Join(p.Limit.CIDRs, ", ")+", where the token may be used")
		limit := *p.Limit
		limit.CIDRs = nil
		p.Limit = &limit
	}
	return p, kept
}

// because tells which ground made a rule decide.
func because(rule Rule, grounds []Ground, action Actions) string {
	for _, g := range grounds {
		if g.Rule != rule || !slices.Contains(g.Actions, action.String()) {
			continue
		}
		by := ""
		if g.Provider {
			by = " (by the identity provider's word)"
		}
		switch rule {
		case RuleAdmin:
			return ": administrators may do everything" + by
		case RuleMaintainer, RuleMember, RuleReader:
			return ": the role in the team " + g.Team + " is " + strings.TrimPrefix(string(rule), "team-") + by
		case RuleGrant:
			return fmt.Sprintf(": %s is granted on %s", strings.Join(g.Actions, ", "), g.Pattern)
		case RuleGroupGrant:
			return fmt.Sprintf(": %s is granted to the group %s on %s", strings.Join(g.Actions, ", "), g.Group, g.Pattern)
		case RuleRobot, RuleMachine:
			return fmt.Sprintf(": it carries %s on %s", strings.Join(g.Actions, ", "), g.Pattern)
		case RuleEverywhere:
			return ": the identity provider allows it in every team"
		case RulePublic:
			return ": the repository is public"
		case RuleInternal:
			return ": the repository is internal, and everybody who is signed in pulls"
		case RulePublicRead:
			return ": this registry lets everybody pull"
		}
	}
	return ""
}

// The rules beyond rights, which Ask may name.
const (
	// RuleTagPolicy refuses to move or delete a tag.
	RuleTagPolicy Rule = "tag-policy"
	// RuleExpired says that the token has ended.
	RuleExpired Rule = "token-expired"
)

// askTag goes on to the tag: the pattern of the token, then the policy.
func (y *Policy) askTag(ctx context.Context, e *Explanation, p Principal, q Question) error {
	var (
		policy metadata.TagPolicy
		source string
		tag    metadata.Tag
		exists = true
	)
	err := y.db.View(ctx, func(tx *metadata.Tx) (err error) {
		if policy, source, err = tx.EffectiveTagPolicy(ctx, q.Repository); err == nil {
			tag, err = tx.Tag(ctx, q.Repository, q.Tag)
		}
		return err
	})
	if errors.Is(err, oci.ErrNotFound) || errors.Is(err, oci.ErrNameUnknown) || errors.Is(err, oci.ErrManifestUnknown) {
		exists, err = false, nil
	}
	if err != nil {
		return fmt.Errorf("reading the tag: %w", err)
	}
	name := q.Repository + ":" + q.Tag
	refuse := func(rule Rule, ask, format string, args ...any) {
		if e.Allowed {
			e.Allowed, e.Rule, e.Ask = false, rule, ask
			e.text = fmt.Sprintf(format, args...)
			return
		}
		e.text += ". Besides, " + fmt.Sprintf(format, args...)
	}
	if writes := q.Action == Push || q.Action == Delete; writes && !p.Limit.AllowsTag(q.Action, q.Tag) {
		refuse(RuleLimit, "make a token that carries "+q.Action.String()+" on this tag", "the token of %s does not carry %s on the tag %s (it is for tags like %q)", p, q.Action, q.Tag, p.Limit.Tags)
		return nil
	}
	switch {
	case !exists && q.Action == Push:
		mode := policy.Mode
		if slices.ContainsFunc(policy.Exempt, func(pattern string) bool { return oci.Match(pattern, q.Tag) }) {
			mode = metadata.Mutable
		}
		e.Conditions = append(e.Conditions, fmt.Sprintf("%s does not exist yet; once pushed it is %s, by the policy of the %s", name, mode, source))
	case !exists:
		e.Conditions = append(e.Conditions, name+" does not exist")
	case tag.Mode == metadata.Sealed && q.Action == Delete:
		refuse(RuleTagPolicy, "nobody: a sealed tag stays for ever", "%s is sealed, and nobody can delete it", name)
	case tag.Mode != metadata.Mutable && q.Action == Push:
		ask := "push under a new tag"
		if tag.Mode == metadata.Immutable {
			ask += "; a maintainer may delete this one"
		}
		refuse(RuleTagPolicy, ask, "%s is %s and points to %s, pushed by %s on %s: only the same manifest can be pushed again. To change it, %s",
			name, tag.Mode, tag.Digest, tag.UpdatedBy, tag.UpdatedAt.UTC().Format(time.RFC3339), ask)
	}
	return nil
}

// Named finds the principal of a name, as it would be after a sign-in: a user or
// a robot (team+robot), and with a token, that token of the user. Ended is when
// the token ended, and nil for one that still holds. The error is a NOT_FOUND for a
// name that is nobody's.
func (y *Policy) Named(ctx context.Context, name, token string) (p Principal, ended *time.Time, err error) {
	team, robot, isRobot := strings.Cut(name, "+")
	var t metadata.Token
	err = y.db.View(ctx, func(tx *metadata.Tx) (err error) {
		if isRobot {
			t, err = tx.Token(ctx, "", team, robot)
			return err
		}
		u, err := tx.User(ctx, name)
		if err != nil {
			return err
		}
		p = userPrincipal(u)
		if token != "" {
			t, err = tx.Token(ctx, name, "", token)
		}
		return err
	})
	if err != nil || t.ID == 0 {
		return p, nil, err
	}
	actions, err := ParseActions(t.Actions)
	if err != nil {
		return p, nil, fmt.Errorf("token %d in the database: %w", t.ID, errors.New(err.Error()))
	}
	p.TokenID, p.Limit = t.ID, &Limit{Repositories: t.Repositories, Actions: actions, Tags: t.Tags, CIDRs: t.CIDRs}
	if isRobot {
		p.Kind, p.ID, p.Name, p.TeamID, p.Team = KindRobot, t.ID, t.Name, t.TeamID, t.Team
	}
	if t.ExpiresAt != nil && !y.clock().Before(*t.ExpiresAt) {
		ended = t.ExpiresAt
	}
	return p, ended, nil
}

// Holder is somebody who may do something with a repository.
type Holder struct {
	Principal  string
	Robot      bool
	Grounds    []Ground
	Conditions []string // what it depends on, in words
}

// Holders lists the users and robots who may do one thing with a repository,
// behind a name and in byte order, at most limit. Users who are disabled, whose
// provider has not vouched for too long, or whom a denial meets, are left out.
// After the last of a page is where the next one begins, "" for none: a page may
// be short. Everyone names the rule by which others may, too, and "" when they may not.
func (y *Policy) Holders(ctx context.Context, repository string, action Actions, after string, limit int) (page []Holder, next string, everyone Rule, err error) {
	team := oci.Team(repository)
	var roles []string
	for _, role := range []string{metadata.RoleReader, metadata.RoleMember, metadata.RoleMaintainer} {
		if _, actions := roleRule(role); actions.Has(action) {
			roles = append(roles, role)
		}
	}
	var fresh time.Time
	if y.externalMaxAge > 0 {
		fresh = y.clock().Add(-y.externalMaxAge)
	}
	known, err := y.facts(ctx, Anonymous(), []string{repository})
	if err != nil {
		return nil, "", "", err
	}
	f := known[repository]
	f.publicRead = y.publicRead
	var rows []metadata.Holder
	err = y.db.View(ctx, func(tx *metadata.Tx) (err error) {
		rows, err = tx.Holders(ctx, metadata.HolderFilter{
			Repository: repository, Action: action.String(), Roles: roles, Fresh: fresh, After: after, Limit: limit + 1,
		})
		return err
	})
	if err != nil {
		return nil, "", "", fmt.Errorf("reading who may %s on %s: %w", action, repository, err)
	}
	if open := everybody(f); open.actions.Has(action) {
		everyone = open.rule
	} else if f.Visibility == metadata.Internal && action == Pull {
		everyone = RuleInternal
	}
	if len(rows) > limit {
		rows = rows[:limit]
		next = rows[limit-1].Principal
	}
	for _, row := range rows {
		h := Holder{Principal: row.Principal, Robot: row.Robot, Conditions: []string{}}
		for _, g := range row.Grounds {
			h.Grounds = append(h.Grounds, groundOf(g, team))
			if limits := robotLimits(g); limits != "" && len(row.Grounds) == 1 {
				h.Conditions = append(h.Conditions, limits)
			}
		}
		if h.denied(f.denials, repository, action) {
			continue
		}
		page = append(page, h)
	}
	return page, next, everyone, nil
}

// robotLimits are what else a robot is bound to, in words.
func robotLimits(g metadata.Ground) string {
	var limits []string
	if g.Trust != "" {
		limits = append(limits, "as a job of the trust policy "+g.Trust)
	}
	if g.Tags != "" {
		limits = append(limits, "tags like "+g.Tags)
	}
	if len(g.CIDRs) > 0 {
		limits = append(limits, "from "+strings.Join(g.CIDRs, ", "))
	}
	if len(limits) == 0 {
		return ""
	}
	return "only " + strings.Join(limits, ", ")
}

// denied reports whether a denial meets a holder wherever it is, and notes those
// that meet it somewhere.
func (h *Holder) denied(all []denial, repository string, action Actions) bool {
	if action == Admin && len(h.Grounds) > 0 && h.Grounds[0].Rule == RuleAdmin {
		return false // see decide
	}
	for _, n := range all {
		if !n.actions.Has(action) || !oci.Match(n.principal, h.Principal) || !oci.Match(n.repository, repository) {
			continue
		}
		if !n.somewhere {
			return true
		}
		h.Conditions = append(h.Conditions, "not from "+n.network.String()+", which the denial "+n.name+" forbids")
	}
	return false
}
