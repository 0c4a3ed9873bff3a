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

// Policy is THE decision: what a principal may do with a repository. Everything
// else asks it. It keeps nothing but the denials, which each query that it makes
// tells to be current, so what changes in the database holds for the next
// decision. Safe for concurrent use.
type Policy struct {
	db             *metadata.DB
	publicRead     bool
	teams          TeamService
	externalMaxAge time.Duration
	clock          func() time.Time
	denials        *denials
}

// PolicyOptions of a Policy.
type PolicyOptions struct {
	// PublicRead lets everybody pull from every repository.
	PublicRead bool
	// Teams is asked about users whose teams the database does not have; nil is
	// nobody, and then they are in no team.
	Teams TeamService
	// ExternalMaxAge is how long the word of an outside provider about a user
	// counts. After that the user has no more rights than a stranger until the next
	// sign-in. 0 is for ever.
	ExternalMaxAge time.Duration
	// Clock is the database's by default.
	Clock func() time.Time
}

// NewPolicy makes a Policy.
func NewPolicy(db *metadata.DB, o PolicyOptions) *Policy {
	if o.Clock == nil {
		o.Clock = db.Now
	}
	return &Policy{db: db, publicRead: o.PublicRead, teams: o.Teams, externalMaxAge: o.ExternalMaxAge, clock: o.Clock, denials: newDenials(db, o.Clock)}
}

// Decision is what a principal may do with a repository, and by which rules. Two
// decisions can be compared.
type Decision struct {
	Actions Actions
	// Rule names what decided: the first rule that applies, or what took away some
	// of what it gives. By tells it for one action.
	Rule Rule
	// Denial is the name of the denial that took something away, and Reason what
	// its author says to those it meets.
	Denial, Reason string
	// Unsure is not nil when more may be allowed, and it cannot be told now. Whoever
	// lacks an action gets this answer and no refusal: ErrShowCredential, or an error
	// to answer with 503.
	Unsure error

	by [len(actionNames)]Rule
}

// ErrShowCredential says that a right depends on what a provider says to the
// holder of a credential, which is not at hand: a client that came with our bearer
// token has to fetch a new one.
var ErrShowCredential = errors.New("auth: the rights can be told only to who shows the credential")

// TeamService knows the memberships of users whose provider does not list them
// (Principal.AskTeams). Safe for concurrent use.
type TeamService interface {
	// Role gives a user's role in a team, "" for none. The error is
	// ErrShowCredential, or says that it cannot be told now.
	Role(ctx context.Context, p Principal, team string) (role string, err error)
}

// By is the rule that decided over one action: what gives it, or why it lacks.
func (d Decision) By(action Actions) Rule {
	for i, n := range actionNames {
		if n.action == action && d.by[i] != "" {
			return d.by[i]
		}
	}
	return d.Rule
}

// Rule names what decided, for messages and the detail of refusals.
type Rule string

// The rules. The first that applies names the decision; denied and token-limit
// are named when they took away what another rule had given.
const (
	RuleAdmin      Rule = "admin"           // administrators may do everything
	RuleMaintainer Rule = "team-maintainer" // pull, push, delete, admin in the team's namespace
	RuleMember     Rule = "team-member"     // pull, push
	RuleReader     Rule = "team-reader"     // pull
	RuleGrant      Rule = "grant"           // what is granted to the user on a pattern
	RuleGroupGrant Rule = "group-grant"     // what is granted to a group that the user is in
	RuleEverywhere Rule = "every-team"      // the provider's word: pull, push in every team's namespace
	RuleRobot      Rule = "team-robot"      // the token's actions in its team's namespace
	RuleMachine    Rule = "machine"         // what is allowed to the machines of a platform's account
	RulePublic     Rule = "public"          // a public repository: pull
	RuleInternal   Rule = "internal"        // an internal repository: pull for all who are signed in
	RulePublicRead Rule = "public-read"     // the setting: pull for everybody
	RuleDenied     Rule = "denied"          // a denial takes away what another rule gives
	RuleLimit      Rule = "token-limit"     // the token carries less than its owner has
	RuleGone       Rule = "user-gone"       // the user was deleted or disabled since the sign-in
	RuleStale      Rule = "sign-in-too-old" // the user's provider has not vouched for too long
	RuleNoMember   Rule = "not-a-member"    // signed in, and nothing else applies
	RuleAnonymous  Rule = "not-signed-in"   // nothing applies
)

// facts are all that a decision depends on, beside the principal and the name.
type facts struct {
	metadata.AccessFacts
	publicRead bool     // everybody may pull
	stale      bool     // the user's provider has not vouched for too long
	denials    []denial // those in force
	unsure     error    // the team service could not say; see Decision.Unsure
}

// share is what one rule gives.
type share struct {
	actions Actions
	rule    Rule
}

// everybody is what a repository gives to those who are not signed in.
func everybody(f facts) share {
	switch {
	case f.Visibility == metadata.Public:
		return share{Pull, RulePublic}
	case f.publicRead:
		return share{Pull, RulePublicRead}
	}
	return share{0, RuleAnonymous}
}

// shares lists what the rules give to somebody who is signed in, the strongest
// first. There is at least one, which may give nothing.
func shares(p Principal, repository string, f facts) []share {
	var all []share
	switch {
	case p.Kind == KindUser && p.Admin:
		// The role was read when the credential was checked, at each sign-in.
		return []share{{AllActions, RuleAdmin}}
	case p.Kind == KindUser && f.Gone:
		return []share{{0, RuleGone}}
	case p.Kind == KindUser && f.stale:
		return []share{{0, RuleStale}}
	case p.Kind == KindUser:
		if rule, actions := roleRule(f.Role); actions != 0 {
			all = append(all, share{actions, rule})
		}
		if granted := grantedActions(f.Granted); granted != 0 {
			all = append(all, share{granted, RuleGrant})
		}
		if granted := grantedActions(f.GroupGranted); granted != 0 {
			all = append(all, share{granted, RuleGroupGrant})
		}
		if everywhere := p.Everywhere &^ Admin; everywhere != 0 {
			all = append(all, share{everywhere, RuleEverywhere})
		}
	case p.Kind == KindRobot && p.Limit != nil && p.Team != "" && oci.Team(repository) == p.Team:
		all = append(all, share{AllActions, RuleRobot})
	case p.Kind == KindMachine && p.Limit != nil:
		all = append(all, share{AllActions, RuleMachine})
	}
	if f.Visibility == metadata.Internal {
		all = append(all, share{Pull, RuleInternal})
	}
	if len(all) == 0 {
		all = append(all, share{0, RuleNoMember})
	}
	return all
}

// roleRule is what a role in the team gives in the team's namespace.
func roleRule(role string) (Rule, Actions) {
	switch role {
	case metadata.RoleMaintainer:
		return RuleMaintainer, AllActions
	case metadata.RoleMember:
		return RuleMember, Pull | Push
	case metadata.RoleReader:
		return RuleReader, Pull
	}
	return RuleNoMember, 0
}

// RoleActions are what a role gives in the team's namespace; any other word gives nothing.
func RoleActions(role string) Actions {
	_, actions := roleRule(role)
	return actions
}

// grantedActions reads the actions of grants. Any other word gives nothing.
func grantedActions(text string) (set Actions) {
	for name := range strings.SplitSeq(text, ",") {
		action, _ := ParseAction(name)
		set |= action
	}
	return set
}

// decide is the whole policy as a function of facts: no clock, no database. What
// everybody may and what the rules give to the principal add up, as far as the
// token carries it; denials have the last word.
func decide(p Principal, repository string, f facts) Decision {
	open := everybody(f)
	d := Decision{Rule: open.rule, Actions: open.actions}
	if !p.IsAnonymous() {
		d = decideSigned(p, repository, f, open)
	} else {
		d.fill(open.rule, AllActions)
	}
	d.Unsure = f.unsure
	for i := range f.denials {
		n := &f.denials[i]
		taken := n.actions & d.Actions
		if p.IsAdmin() {
			// The one who can take a denial back is never locked out by one.
			taken &^= Admin
		}
		if taken == 0 || !n.meets(p, repository) {
			continue
		}
		if d.Denial == "" {
			d.Denial, d.Reason = n.name, n.reason
		}
		d.Actions &^= taken
		d.Rule = RuleDenied
		d.fill(RuleDenied, taken)
		d.Unsure = nil // what else might be allowed would not help
	}
	return d
}

func decideSigned(p Principal, repository string, f facts, open share) Decision {
	all := shares(p, repository, f)
	var own Actions
	for _, s := range all {
		own |= s.actions
	}
	// Robots and machines act by their limit alone: one without is a mistake of ours.
	limit := p.Limit
	if p.Kind != KindUser && limit == nil {
		limit = &Limit{}
	}
	d := Decision{Rule: all[0].rule}
	d.fill(all[0].rule, AllActions)
	for _, s := range slices.Backward(all) {
		d.fill(s.rule, s.actions)
	}
	limited := own & limit.allows(repository, p.RemoteAddr)
	d.fill(RuleLimit, own&^limited)
	byLimit := all[0].rule == RuleRobot || all[0].rule == RuleMachine
	if limited != own && (!byLimit || limited == 0) {
		d.Rule = RuleLimit
	}
	// What everybody may, those who signed in may too, whatever their token says.
	d.fill(open.rule, open.actions&^limited)
	d.Actions = limited | open.actions
	if own == 0 && open.actions != 0 {
		if d.Rule = open.rule; all[0].rule == RuleNoMember {
			d.fill(open.rule, AllActions)
		}
	}
	return d
}

// fill notes a rule as what decided over actions.
func (d *Decision) fill(rule Rule, actions Actions) {
	for i, n := range actionNames {
		if actions.Has(n.action) {
			d.by[i] = rule
		}
	}
}

// Actions decides about one repository, which need not exist: at most one
// query. The error says that it cannot be decided now; then the answer is no.
func (y *Policy) Actions(ctx context.Context, p Principal, repository string) (Decision, error) {
	return y.Action(ctx, p, repository, AllActions)
}

// Action is Actions for somebody who asks for some of them only; see Asked.
func (y *Policy) Action(ctx context.Context, p Principal, repository string, asked Actions) (Decision, error) {
	decisions, err := y.Asked(ctx, p, []string{repository}, func(string) Actions { return asked })
	return decisions[repository], err
}

// maxAsked is how many repositories one query asks about.
const maxAsked = 256

// ActionsFor is Actions for many repositories: one query for each 256 of them.
func (y *Policy) ActionsFor(ctx context.Context, p Principal, repositories []string) (map[string]Decision, error) {
	return y.Asked(ctx, p, repositories, func(string) Actions { return AllActions })
}

// Asked is ActionsFor for somebody who asks for some of the actions only. The TeamService is not asked
// when nothing that is asked for depends on it: then it keeps nobody waiting, and a decision on other actions may lack them.
func (y *Policy) Asked(ctx context.Context, p Principal, repositories []string, asked func(repository string) Actions) (map[string]Decision, error) {
	// The facts of the database make no difference to administrators, and to pulls
	// of a registry that is open. That saves the query.
	known := p.Kind == KindUser && p.Admin && p.Limit == nil || p.IsAnonymous() && y.publicRead
	return y.decisions(ctx, p, repositories, asked, known, func(f facts, _ string) facts {
		f.publicRead = y.publicRead
		return f
	})
}

// ActionsForService decides about repositories of another registry, which asks
// by its service name for a token. What counts there are roles in teams, grants,
// denials, and what the service lets everybody pull: whether a repository of that
// name is here and public says nothing about the one there, and neither does the
// setting public_read. What is asked for counts as for Asked.
func (y *Policy) ActionsForService(ctx context.Context, p Principal, service metadata.Service, repositories []string, asked func(repository string) Actions) (map[string]Decision, error) {
	known := p.Kind == KindUser && p.Admin && p.Limit == nil || p.IsAnonymous()
	decisions, err := y.decisions(ctx, p, repositories, asked, known, func(f facts, repository string) facts {
		f.Exists, f.Visibility = false, ""
		f.publicRead = service.AnonymousPull != "" && oci.Match(service.AnonymousPull, repository)
		return f
	})
	if err != nil {
		return nil, fmt.Errorf("for the service %s: %w", service.Name, err)
	}
	// The other registry knows nothing of a limit to some tags: what depends on the
	// tag is not given at all.
	for name, d := range decisions {
		d.Actions = p.Limit.OnAllTags(d.Actions)
		decisions[name] = d
	}
	return decisions, nil
}

// decisions decides by the facts of the database, seen through a lens, or by none
// when it is known that they make no difference.
func (y *Policy) decisions(ctx context.Context, p Principal, repositories []string, asked func(string) Actions, known bool, lens func(facts, string) facts) (map[string]Decision, error) {
	all := make(map[string]Decision, len(repositories))
	if known && len(repositories) > 0 {
		denials, err := y.denials.recent(ctx)
		if err != nil {
			return nil, err
		}
		for _, repository := range repositories {
			all[repository] = decide(p, repository, lens(facts{denials: denials}, repository))
		}
		return all, nil
	}
	roles := map[string]askedRole{}
	for ask := repositories; len(ask) > 0; {
		n := min(maxAsked, len(ask))
		found, err := y.facts(ctx, p, ask[:n])
		if err != nil {
			return nil, err
		}
		for _, repository := range ask[:n] {
			all[repository] = y.decideAsked(ctx, p, repository, asked(repository), lens(found[repository], repository), roles)
		}
		ask = ask[n:]
	}
	return all, nil
}

// facts reads what decisions depend on.
func (y *Policy) facts(ctx context.Context, p Principal, repositories []string) (map[string]facts, error) {
	var userID int64
	if p.Kind == KindUser {
		userID = p.ID
	}
	var found map[string]metadata.AccessFacts
	err := y.db.View(ctx, func(tx *metadata.Tx) (err error) {
		found, err = tx.Access(ctx, userID, repositories)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("reading the rights of %s: %w", p, err)
	}
	all := make(map[string]facts, len(repositories))
	for _, repository := range repositories {
		f, ok := found[repository]
		if !ok {
			// Denials may be among what was not read.
			return nil, fmt.Errorf("reading the rights of %s: the database says nothing about %s", p, repository)
		}
		denials, err := y.denials.since(ctx, f.DenialVersion)
		if err != nil {
			return nil, err
		}
		all[repository] = facts{AccessFacts: f, stale: tooOld(f.SeenAt, y.clock(), y.externalMaxAge), denials: denials}
	}
	return all, nil
}

// askedRole is what the team service said of a user and a team.
type askedRole struct {
	role string
	err  error
}

// decideAsked decides by facts, and asks about the team of the repository when what is asked for
// depends on it, for a user whose teams the database does not have. No transaction is open
// meanwhile. What was said of teams is in roles.
func (y *Policy) decideAsked(ctx context.Context, p Principal, repository string, asked Actions, f facts, roles map[string]askedRole) Decision {
	d := decide(p, repository, f)
	if !p.AskTeams || p.Kind != KindUser || y.teams == nil {
		return d
	}
	best := f
	best.Role = metadata.StrongerRole(f.Role, metadata.RoleMaintainer)
	if asked&decide(p, repository, best).Actions&^d.Actions == 0 {
		return d
	}
	team := oci.Team(repository)
	said, ok := roles[team]
	if !ok {
		if said.role, said.err = y.teams.Role(ctx, p, team); said.err != nil {
			said.role = ""
		}
		roles[team] = said
	}
	f.Role, f.unsure = metadata.StrongerRole(f.Role, said.role), said.err
	return decide(p, repository, f)
}

// Denied reports whether a denial takes an action away that a bearer token
// carries: tokens live for minutes, and a denial should not wait for their end.
// It costs no query but one every few seconds. The decision names the denial.
func (y *Policy) Denied(ctx context.Context, p Principal, repository string, action Actions) (Decision, bool, error) {
	denials, err := y.denials.recent(ctx)
	if err != nil {
		return Decision{}, false, err
	}
	d := Decision{Actions: action}
	for i := range denials {
		if n := &denials[i]; n.actions&action != 0 && n.meets(p, repository) {
			d.Actions, d.Rule, d.Denial, d.Reason = d.Actions&^n.actions, RuleDenied, n.name, n.reason
			d.fill(RuleDenied, n.actions&action)
			return d, true, nil
		}
	}
	if !p.Limit.AllowsFrom(p.RemoteAddr) {
		d = Decision{Rule: RuleLimit}
		d.fill(RuleLimit, AllActions)
		return d, true, nil
	}
	return d, false, nil
}

// Viewer is whose eyes a list of repositories is for: exactly those are listed
// that decide lets the principal pull, or fewer for a token with a pattern. The
// error says that it cannot be decided now.
func (y *Policy) Viewer(ctx context.Context, p Principal) (metadata.Viewer, error) {
	v, err := y.allowed(ctx, p)
	if err != nil {
		return metadata.Viewer{}, err
	}
	denials, err := y.denials.recent(ctx)
	if err != nil {
		return metadata.Viewer{}, err
	}
	for i := range denials {
		if n := &denials[i]; n.actions.Has(Pull) && n.meetsPrincipal(p) {
			v.Denied = append(v.Denied, n.repository)
		}
	}
	v.Denied = widest(v.Denied)
	return v, nil
}

// allowed is Viewer without the denials.
func (y *Policy) allowed(ctx context.Context, p Principal) (v metadata.Viewer, err error) {
	switch {
	case y.publicRead:
		return metadata.Viewer{All: true}, nil
	case p.IsAnonymous():
		return v, nil
	}
	v.Signed = true
	if p.Limit != nil {
		if !p.Limit.Actions.Has(Pull) || !p.Limit.AllowsFrom(p.RemoteAddr) {
			return metadata.Viewer{}, nil
		}
		if v.Glob = p.Limit.Repositories; v.Glob == "" {
			return metadata.Viewer{}, nil // matches nothing, but "" in a Viewer is everything
		}
	}
	switch p.Kind {
	case KindUser:
		if p.Admin {
			v.All = true
			return v, nil
		}
		v.UserID = p.ID
		if y.externalMaxAge > 0 {
			v.Fresh = y.clock().Add(-y.externalMaxAge)
		}
		err = y.db.View(ctx, func(tx *metadata.Tx) (err error) {
			v.Patterns, err = tx.PullPatterns(ctx, p.ID)
			return err
		})
		if p.Everywhere.Has(Pull) {
			v.Patterns = []string{"*"}
		}
		v.Patterns = widest(v.Patterns)
	case KindRobot:
		if p.Limit == nil {
			return metadata.Viewer{}, nil
		}
		v.Team = p.Team
	case KindMachine:
		if p.Limit == nil {
			return metadata.Viewer{}, nil
		}
		v.All = true // of what the pattern of the limit matches
	}
	if err != nil {
		return metadata.Viewer{}, fmt.Errorf("reading the grants of %s: %w", p, err)
	}
	return v, nil
}

// widest drops the patterns that another one covers.
func widest(patterns []string) []string {
	slices.Sort(patterns)
	patterns = slices.Compact(patterns)
	covered := func(i int) bool {
		for j, wide := range patterns {
			// A ? in the wide one could stand for a * in the other, and that is more.
			if j != i && !strings.Contains(wide, "?") && oci.Match(wide, patterns[i]) {
				return true
			}
		}
		return false
	}
	var kept []string
	for i, pattern := range patterns {
		if !covered(i) {
			kept = append(kept, pattern)
		}
	}
	return kept
}

// tooOld reports whether a provider's word, given at a time, counts no more. Nil
// is for those whom no provider vouches for.
func tooOld(seen *time.Time, now time.Time, maxAge time.Duration) bool {
	return seen != nil && maxAge > 0 && now.Sub(*seen) > maxAge
}
