package auth

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"berth/metadata"
	"berth/oci"
)

// Policy is THE decision: what a principal may do with a repository. Everything
// else asks it. It keeps nothing, so what changes in the database holds for
// the next decision. Safe for concurrent use.
type Policy struct {
	db         *metadata.DB
	publicRead bool
	teams      TeamService
}

// PolicyOptions of a Policy.
type PolicyOptions struct {
	// PublicRead lets everybody pull from every repository.
	PublicRead bool
	// Teams is asked about users whose teams the database does not have; nil is
	// nobody, and then they are in no team.
	Teams TeamService
}

// NewPolicy makes a Policy.
func NewPolicy(db *metadata.DB, o PolicyOptions) *Policy {
	return &Policy{db: db, publicRead: o.PublicRead, teams: o.Teams}
}

// Decision is what a principal may do with a repository, and by which rule.
type Decision struct {
	Actions Actions
	Rule    Rule
	// Unsure is not nil when more may be allowed, and it cannot be told now. Whoever
	// lacks an action gets this answer and no refusal: ErrShowCredential, or an error
	// to answer with 503.
	Unsure error
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

// Rule names what decided, for messages and the detail of refusals.
type Rule string

// The rules. The first that applies names the decision; token-limit is named
// when it took away what another rule had given.
const (
	RuleAdmin      Rule = "admin"           // administrators may do everything
	RuleMaintainer Rule = "team-maintainer" // pull, push, delete, admin in the team's namespace
	RuleMember     Rule = "team-member"     // pull, push
	RuleReader     Rule = "team-reader"     // pull
	RuleEverywhere Rule = "every-team"      // the provider's word: pull, push in every team's namespace
	RuleRobot      Rule = "team-robot"      // the token's actions in its team's namespace
	RuleMachine    Rule = "machine"         // what is allowed to the machines of a platform's account
	RulePublic     Rule = "public"          // a public repository: pull
	RuleInternal   Rule = "internal"        // an internal repository: pull for all who are signed in
	RulePublicRead Rule = "public-read"     // the setting: pull for everybody
	RuleLimit      Rule = "token-limit"     // the token carries less than its owner has
	RuleNoMember   Rule = "not-a-member"    // signed in, and nothing else applies
	RuleAnonymous  Rule = "not-signed-in"   // nothing applies
)

// decide is the whole policy as a function of facts: no clock, no database.
func decide(p Principal, repository string, f metadata.AccessFacts, publicRead bool) Decision {
	everybody := Decision{Rule: RuleAnonymous}
	switch {
	case f.Visibility == metadata.Public:
		everybody = Decision{Actions: Pull, Rule: RulePublic}
	case publicRead:
		everybody = Decision{Actions: Pull, Rule: RulePublicRead}
	}
	if p.IsAnonymous() {
		return everybody
	}

	own := Decision{Rule: RuleNoMember}
	switch {
	case p.Kind == KindUser && p.Admin:
		own = Decision{Actions: AllActions, Rule: RuleAdmin}
	case p.Kind == KindUser && f.Role == metadata.RoleMaintainer:
		own = Decision{Actions: AllActions, Rule: RuleMaintainer}
	case p.Kind == KindUser && f.Role == metadata.RoleMember:
		own = Decision{Actions: Pull | Push, Rule: RuleMember}
	case p.Kind == KindUser && f.Role == metadata.RoleReader:
		own = Decision{Actions: Pull, Rule: RuleReader}
	case p.Kind == KindRobot && p.Limit != nil && p.Team != "" && oci.Team(repository) == p.Team:
		own = Decision{Actions: AllActions, Rule: RuleRobot}
	case p.Kind == KindMachine && p.Limit != nil:
		own = Decision{Actions: AllActions, Rule: RuleMachine}
	case f.Visibility == metadata.Internal:
		own = Decision{Actions: Pull, Rule: RuleInternal}
	}
	if more := p.Everywhere &^ Admin &^ own.Actions; p.Kind == KindUser && more != 0 {
		own = Decision{Actions: own.Actions | more, Rule: RuleEverywhere}
	}
	// Robots and machines act by their limit alone: one without is a mistake of ours.
	limit := p.Limit
	if p.Kind != KindUser && limit == nil {
		limit = &Limit{}
	}
	limited := Decision{Actions: own.Actions & limit.allows(repository), Rule: own.Rule}
	if limited.Actions != own.Actions && (own.Rule != RuleRobot && own.Rule != RuleMachine || limited.Actions == 0) {
		limited.Rule = RuleLimit
	}
	// What everybody may, those who signed in may too, whatever their token says.
	if own.Actions == 0 && everybody.Actions != 0 {
		return everybody
	}
	return Decision{Actions: limited.Actions | everybody.Actions, Rule: limited.Rule}
}

// Actions decides about one repository, which need not exist: at most one
// query. The error says that it cannot be decided now; then the answer is no.
func (y *Policy) Actions(ctx context.Context, p Principal, repository string) (Decision, error) {
	if d, ok := y.withoutFacts(p, repository); ok {
		return d, nil
	}
	decisions, err := y.query(ctx, p, []string{repository})
	if err != nil {
		return Decision{}, err
	}
	return decisions[repository], nil
}

// maxAsked is how many repositories one query asks about.
const maxAsked = 256

// ActionsFor is Actions for many repositories: one query for each 256 of them.
func (y *Policy) ActionsFor(ctx context.Context, p Principal, repositories []string) (map[string]Decision, error) {
	all := make(map[string]Decision, len(repositories))
	var ask []string
	for _, repository := range repositories {
		if d, ok := y.withoutFacts(p, repository); ok {
			all[repository] = d
		} else {
			ask = append(ask, repository)
		}
	}
	for len(ask) > 0 {
		n := min(maxAsked, len(ask))
		decisions, err := y.query(ctx, p, ask[:n])
		if err != nil {
			return nil, err
		}
		for repository, d := range decisions {
			all[repository] = d
		}
		ask = ask[n:]
	}
	return all, nil
}

// withoutFacts decides where the facts of the database make no difference. It
// saves the query for administrators, and for pulls of a registry that is open.
func (y *Policy) withoutFacts(p Principal, repository string) (Decision, bool) {
	switch {
	case p.Kind == KindUser && p.Admin && p.Limit == nil, p.IsAnonymous() && y.publicRead:
		return decide(p, repository, metadata.AccessFacts{}, y.publicRead), true
	}
	return Decision{}, false
}

func (y *Policy) query(ctx context.Context, p Principal, repositories []string) (map[string]Decision, error) {
	var userID int64
	if p.Kind == KindUser {
		userID = p.ID
	}
	var facts map[string]metadata.AccessFacts
	err := y.db.View(ctx, func(tx *metadata.Tx) (err error) {
		facts, err = tx.Access(ctx, userID, repositories)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("reading the rights of %s: %w", p, err)
	}
	roles := y.askTeams(ctx, p, repositories)
	decisions := make(map[string]Decision, len(repositories))
	for _, repository := range repositories {
		f, asked := facts[repository], roles[oci.Team(repository)]
		f.Role = metadata.StrongerRole(f.Role, asked.role)
		// Without a row there are no facts, and so no rights but everybody's.
		d := decide(p, repository, f, y.publicRead)
		d.Unsure = asked.err
		decisions[repository] = d
	}
	return decisions, nil
}

// askedRole is what the team service said of a user and a team.
type askedRole struct {
	role string
	err  error
}

// askTeams asks about the teams of repositories, for a user whose teams the
// database does not have. No transaction is open meanwhile.
func (y *Policy) askTeams(ctx context.Context, p Principal, repositories []string) map[string]askedRole {
	if !p.AskTeams || p.Kind != KindUser || y.teams == nil {
		return nil
	}
	roles := map[string]askedRole{}
	for _, repository := range repositories {
		team := oci.Team(repository)
		if _, ok := roles[team]; ok {
			continue
		}
		role, err := y.teams.Role(ctx, p, team)
		if err != nil {
			role = ""
		}
		roles[team] = askedRole{role, err}
	}
	return roles
}

// Viewer is whose eyes a list of repositories is for: exactly those are listed
// that decide lets the principal pull, or fewer for a token with a pattern.
func (y *Policy) Viewer(p Principal) metadata.Viewer {
	if y.publicRead {
		return metadata.Viewer{All: true}
	}
	if p.IsAnonymous() {
		return metadata.Viewer{}
	}
	v := metadata.Viewer{Signed: true}
	if p.Limit != nil {
		if !p.Limit.Actions.Has(Pull) {
			return metadata.Viewer{}
		}
		if v.Glob = p.Limit.Repositories; v.Glob == "" {
			return metadata.Viewer{} // matches nothing, but "" in a Viewer is everything
		}
	}
	switch p.Kind {
	case KindUser:
		v.All, v.UserID = p.Admin || p.Everywhere.Has(Pull), p.ID
	case KindRobot:
		if p.Limit == nil {
			return metadata.Viewer{}
		}
		v.Team = p.Team
	}
	return v
}

// Refusal says why somebody may not, and whom to ask. It is the detail of the
// error that the client gets.
type Refusal struct {
	Rule       Rule     `json:"rule"`
	Principal  string   `json:"principal"`
	Repository string   `json:"repository"`
	Missing    []string `json:"missing"`
	Ask        string   `json:"ask"`

	text string
}

// Message says it in a sentence or two.
func (r Refusal) Message() string { return r.text }

// maxNamed is how many maintainers a refusal names.
const maxNamed = 5

// Explain makes the refusal of a decision that lacks what was needed. It reads
// the maintainers of the team that the name belongs to, whether or not there is
// such a repository, so that it does not tell. When that fails, the refusal
// stands without the names.
func (y *Policy) Explain(ctx context.Context, p Principal, repository string, d Decision, needed Actions) Refusal {
	missing := needed &^ d.Actions
	team := oci.Team(repository)
	r := Refusal{Rule: d.Rule, Principal: p.String(), Repository: repository, Missing: missing.Names()}
	verbs := strings.Join(r.Missing, " and ")
	switch {
	case p.IsAnonymous():
		r.Ask = "sign in (docker login), then try again"
		r.text = fmt.Sprintf("%s on %s needs a sign-in: nobody is signed in here. Sign in with docker login and try again", verbs, repository)
		return r
	case d.Rule == RuleLimit, d.Rule == RuleRobot:
		r.Ask = "make a token that carries " + verbs + " on this repository"
		if p.Kind == KindRobot {
			r.Ask = "a maintainer of the team " + p.Team + ", for a token that carries " + verbs + " on this repository"
		}
		r.text = fmt.Sprintf("the token of %s does not carry %s on %s (it carries %s on %q). Use or make a token that does", p, verbs, repository, orNothing(p.Limit), globOf(p.Limit))
		return r
	}
	r.Ask = "an administrator of this registry"
	var maintainers []string
	if err := y.db.View(ctx, func(tx *metadata.Tx) (err error) {
		maintainers, err = tx.Maintainers(ctx, team, maxNamed)
		return err
	}); err == nil && len(maintainers) > 0 {
		r.Ask = "a maintainer of the team " + team + ": " + strings.Join(maintainers, ", ")
	}
	why := "is not a member of the team " + team
	switch d.Rule {
	case RuleReader:
		why = "is only a reader in the team " + team
	case RuleMember:
		why = "is only a member of the team " + team
	case RuleInternal, RulePublic, RulePublicRead:
		why += ", and others may only pull"
	}
	r.text = fmt.Sprintf("%s may not %s on %s: %s %s. Ask %s", p, verbs, repository, p, why, r.Ask)
	return r
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
