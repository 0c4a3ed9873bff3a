package auth

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"berth/metadata"
	"berth/oci"
)

// This file is the one place that says who may manage what: the table of operations, and
// [Policy.Manage], which reads it. What may be done with the content of a repository is in
// policy.go, and how far a credential reaches in limits.go.

// Operation names what may be managed. It is the operationId of api/openapi.yaml, whatever
// the door: the audit log and the permission table have the same words.
type Operation string

// ExplainOthers is the operation explain about somebody else than who asks.
const ExplainOthers Operation = "explainOthers"

// OperationRule says who may do an operation. Administrators may do all of them, and who
// has not signed in none. The zero rule is nobody but administrators.
type OperationRule struct {
	// Who is needed.
	Who Who
	// Action on the repository of the subject, when Who is WhoHolder.
	Action Actions
	// WhileReadOnly is for what leaves the registry as it is, and is needed to move it
	// while nobody pushes.
	WhileReadOnly bool
}

// Who says whom a rule is for.
type Who uint8

// Those whom a rule may be for.
const (
	WhoAdmin      Who = iota // administrators of the instance alone
	WhoSignedIn              // everybody with credentials; what they see is their own
	WhoSelf                  // the user of the subject
	WhoReader                // somebody of the team of the subject
	WhoMaintainer            // a maintainer of the team of the subject
	WhoHolder                // somebody with the action on the repository of the subject, as Policy.Actions says
	WhoGranter               // a maintainer of the team that the pattern of the subject lies in
)

// Subject is what an operation is about. A field with its zero value is not part of it.
type Subject struct {
	User, Team, Repository, Tag, Pattern string
}

// Operations is the table. It is a new map each time.
func Operations() map[Operation]OperationRule {
	return map[Operation]OperationRule{
		"whoami": {Who: WhoSignedIn},

		"listUsers":   {Who: WhoAdmin},
		"createUser":  {Who: WhoAdmin},
		"getUser":     {Who: WhoSelf},
		"updateUser":  {Who: WhoAdmin},
		"deleteUser":  {Who: WhoAdmin},
		"setPassword": {Who: WhoSelf},

		"listTokens":  {Who: WhoSelf},
		"createToken": {Who: WhoSelf},
		"getToken":    {Who: WhoSelf},
		"deleteToken": {Who: WhoSelf},
		"rotateToken": {Who: WhoSelf},

		"listTeams":    {Who: WhoSignedIn}, // those that the caller is in
		"createTeam":   {Who: WhoAdmin},
		"getTeam":      {Who: WhoReader},
		"updateTeam":   {Who: WhoMaintainer},
		"deleteTeam":   {Who: WhoAdmin},
		"listMembers":  {Who: WhoReader},
		"putMember":    {Who: WhoMaintainer},
		"removeMember": {Who: WhoMaintainer},

		"getTeamTagPolicy":    {Who: WhoReader},
		"setTeamTagPolicy":    {Who: WhoMaintainer},
		"deleteTeamTagPolicy": {Who: WhoMaintainer},

		"listRobots":  {Who: WhoMaintainer},
		"createRobot": {Who: WhoMaintainer},
		"getRobot":    {Who: WhoMaintainer},
		"deleteRobot": {Who: WhoMaintainer},
		"rotateRobot": {Who: WhoMaintainer},

		"listAudit":     {Who: WhoAdmin},
		"listTeamAudit": {Who: WhoMaintainer},

		"listRepositories": {Who: WhoSignedIn}, // those that the caller may pull
		"createRepository": {Who: WhoHolder, Action: Push},
		"getRepository":    {Who: WhoHolder, Action: Pull},
		"updateRepository": {Who: WhoHolder, Action: Admin},
		"deleteRepository": {Who: WhoHolder, Action: Admin},

		"getRepositoryTagPolicy":    {Who: WhoHolder, Action: Pull},
		"setRepositoryTagPolicy":    {Who: WhoHolder, Action: Admin},
		"deleteRepositoryTagPolicy": {Who: WhoHolder, Action: Admin},

		"listTags":       {Who: WhoHolder, Action: Pull},
		"getTag":         {Who: WhoHolder, Action: Pull},
		"deleteTag":      {Who: WhoHolder, Action: Delete},
		"listTagHistory": {Who: WhoHolder, Action: Pull},

		"listTrustIssuers":  {Who: WhoSignedIn},
		"putTrustIssuer":    {Who: WhoAdmin},
		"setTrustOwners":    {Who: WhoAdmin},
		"deleteTrustIssuer": {Who: WhoAdmin},
		"listTrustPolicies": {Who: WhoMaintainer},
		"getTrustPolicy":    {Who: WhoMaintainer},
		"putTrustPolicy":    {Who: WhoMaintainer},
		"deleteTrustPolicy": {Who: WhoMaintainer},

		"listServices":  {Who: WhoAdmin},
		"getService":    {Who: WhoAdmin},
		"putService":    {Who: WhoAdmin},
		"deleteService": {Who: WhoAdmin},
		"listKeys":      {Who: WhoAdmin},
		"rotateKey":     {Who: WhoAdmin},
		"retireKey":     {Who: WhoAdmin},

		"listGroups":        {Who: WhoAdmin},
		"createGroup":       {Who: WhoAdmin},
		"getGroup":          {Who: WhoAdmin},
		"updateGroup":       {Who: WhoAdmin},
		"deleteGroup":       {Who: WhoAdmin},
		"listGroupMembers":  {Who: WhoAdmin},
		"putGroupMember":    {Who: WhoAdmin},
		"removeGroupMember": {Who: WhoAdmin},

		"listGrants":       {Who: WhoSignedIn}, // those that reach the caller, and of teams that the caller maintains
		"putUserGrant":     {Who: WhoGranter},
		"deleteUserGrant":  {Who: WhoGranter},
		"putGroupGrant":    {Who: WhoGranter},
		"deleteGroupGrant": {Who: WhoGranter},

		"listDenials":  {Who: WhoAdmin},
		"getDenial":    {Who: WhoAdmin},
		"putDenial":    {Who: WhoAdmin},
		"deleteDenial": {Who: WhoAdmin},

		"explain":     {Who: WhoSignedIn}, // about oneself
		ExplainOthers: {Who: WhoHolder, Action: Admin},
		"whoCan":      {Who: WhoHolder, Action: Admin},

		"getInstanceTagPolicy": {Who: WhoSignedIn},
		"setInstanceTagPolicy": {Who: WhoAdmin},

		"getCollector":       {Who: WhoAdmin},
		"runCollector":       {Who: WhoAdmin},
		"getCheck":           {Who: WhoAdmin},
		"startCheck":         {Who: WhoAdmin},
		"cancelCheck":        {Who: WhoAdmin},
		"getBackup":          {Who: WhoAdmin},
		"startBackup":        {Who: WhoAdmin, WhileReadOnly: true},
		"cancelBackup":       {Who: WhoAdmin, WhileReadOnly: true},
		"getRestore":         {Who: WhoAdmin},
		"startRestore":       {Who: WhoAdmin, WhileReadOnly: true},
		"cancelRestore":      {Who: WhoAdmin, WhileReadOnly: true},
		"getMigration":       {Who: WhoAdmin},
		"startMigration":     {Who: WhoAdmin, WhileReadOnly: true},
		"cancelMigration":    {Who: WhoAdmin, WhileReadOnly: true},
		"getInstanceUsage":   {Who: WhoAdmin},
		"listTeamUsage":      {Who: WhoReader},
		"getRepositoryUsage": {Who: WhoHolder, Action: Pull},
		"explainDigest":      {Who: WhoSignedIn}, // in the repositories that the caller may pull from

		"getTeamRetention":          {Who: WhoReader},
		"setTeamRetention":          {Who: WhoMaintainer},
		"deleteTeamRetention":       {Who: WhoMaintainer},
		"getRepositoryRetention":    {Who: WhoHolder, Action: Pull},
		"setRepositoryRetention":    {Who: WhoHolder, Action: Admin},
		"deleteRepositoryRetention": {Who: WhoHolder, Action: Admin},
		"dryRunRetention":           {Who: WhoHolder, Action: Delete},
		"runRetention":              {Who: WhoHolder, Action: Admin},
		"listDeletedTags":           {Who: WhoHolder, Action: Pull},
		"listDeletedManifests":      {Who: WhoHolder, Action: Pull},
		"restoreDeleted":            {Who: WhoHolder, Action: Delete},
		"listQuotas":                {Who: WhoAdmin},
		"getTeamQuota":              {Who: WhoReader},
		"setTeamQuota":              {Who: WhoAdmin},
		"deleteTeamQuota":           {Who: WhoAdmin},

		"listAccounts":      {Who: WhoAdmin},
		"putAccount":        {Who: WhoAdmin},
		"deleteAccount":     {Who: WhoAdmin},
		"putAccountRole":    {Who: WhoAdmin},
		"deleteAccountRole": {Who: WhoAdmin},
	}
}

// WhileReadOnly reports whether the operation goes on while the registry is read-only.
func (op Operation) WhileReadOnly() bool { return operations[op].WhileReadOnly }

// Manage decides whether somebody may do an operation of the table. It returns
// UNAUTHORIZED, DENIED that says which rule refused and who can help, NAME_INVALID for the
// name of a repository that is none, and other errors when it cannot be said now. An
// operation that is not in the table is for nobody.
func (p *Policy) Manage(ctx context.Context, who Principal, op Operation, on Subject) error {
	rule, ok := operations[op]
	if !ok {
		return oci.Errorf(oci.CodeDenied, "nobody may do this: the operation %.40q has no row in the permission table", op)
	}
	return p.Permit(ctx, who, op, rule, on)
}

// operations is the table, made once; nobody changes it.
var operations = Operations()

// Permit is Manage with a rule in place of a row of the table, for a door that is
// narrower than the table.
func (p *Policy) Permit(ctx context.Context, who Principal, op Operation, rule OperationRule, on Subject) error {
	switch {
	case who.IsAnonymous():
		return oci.Errorf(oci.CodeUnauthorized, "the management API needs a sign-in: send a token from /token with the scope berth:api:*, or a user name and password")
	case !who.MayManage():
		return denied(who, string(RuleLimit), "a token that carries the admin action",
			"the token of %s is for images only, it does not carry the admin action that the management API needs", who)
	case rule.Who == WhoHolder:
		if err := p.permitRepository(ctx, who, rule.Action, on.Repository); err != nil {
			return err
		}
		return permitTag(who, rule.Action, on.Tag)
	case rule.Who == WhoSignedIn, who.IsAdmin():
		return nil
	case !who.CarriesAll():
		return denied(who, string(RuleLimit), "a token for all repositories (*) that carries the admin action",
			"the token of %s is limited to %q with %s, and may manage only repositories that match", who, who.Limit.Repositories, who.Limit.Actions)
	}

	switch rule.Who {
	case WhoSelf:
		if who.Kind == KindUser && who.Name == on.User {
			return nil
		}
		return denied(who, "self", anAdmin, "%s may not do this for another user: only %s and admins may", who, on.User)
	case WhoReader, WhoMaintainer:
		return p.permitTeam(ctx, who, rule.Who, on.Team)
	case WhoGranter:
		if err := metadata.ParsePattern(on.Pattern); err != nil {
			return err
		}
		// The pattern has to lie inside of the team: core/* and core do, core* does not.
		if team := metadata.PatternTeam(on.Pattern); team != "" {
			return p.permitTeam(ctx, who, WhoMaintainer, team)
		}
		return denied(who, "admin-only", anAdmin, "%s may not do this: %s reaches beyond one team, and only admins may grant there", who, on.Pattern)
	}
	return denied(who, "admin-only", anAdmin, "%s may not do this: only admins may (%s)", who, op)
}

// CarriesAll reports whether the credential carries all that its owner may manage: no
// token, or one for the admin action on every repository. It is the part of IsAdmin that
// does not ask for the role.
func (p Principal) CarriesAll() bool { return p.Limit.whole() }

func (p *Policy) permitRepository(ctx context.Context, who Principal, needed Actions, repository string) error {
	if _, err := oci.ParseName(repository); err != nil {
		return err
	}
	if who.IsAdmin() {
		// No denial locks out the one who can take it back.
		return nil
	}
	decision, err := p.Actions(ctx, who, repository)
	if err != nil {
		return err
	}
	switch {
	case decision.Actions.Has(needed):
		return nil
	case decision.Unsure != nil && !errors.Is(decision.Unsure, ErrShowCredential):
		return decision.Unsure
	}
	refusal := p.Explain(ctx, who, repository, decision, needed)
	return oci.Errorf(oci.CodeDenied, "%s", refusal.Message()).WithDetail(refusal)
}

// permitTag checks what a token with a tag pattern may delete and change: a tag that
// matches, and nothing that is about all tags of a repository.
func permitTag(who Principal, action Actions, tag string) error {
	if action&(Delete|Admin) == 0 || who.Limit.AllowsTag(action, tag) {
		return nil
	}
	return denied(who, string(RuleLimit), "a token without a tag pattern, or with one that matches",
		"the token of %s is for tags like %q only", who, who.Limit.Tags)
}

// permitTeam asks for a role in a team. A robot that carries the admin action everywhere
// acts in its own team as a maintainer does.
func (p *Policy) permitTeam(ctx context.Context, who Principal, needed Who, team string) error {
	var role string
	var maintainers []string
	err := p.db.View(ctx, func(tx *metadata.Tx) (err error) {
		switch {
		case who.Kind == KindRobot && who.Team == team:
			role = metadata.RoleMaintainer
		case who.Kind == KindUser:
			role, err = tx.MemberRole(ctx, team, who.ID)
		}
		if err == nil && role != metadata.RoleMaintainer {
			maintainers, err = tx.Maintainers(ctx, team, maxNamed)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("reading the role of %s in the team %s: %w", who, team, err)
	}
	if role == metadata.RoleMaintainer && needed == WhoMaintainer {
		// Who is denied the administration of the team's repositories must not get at
		// it by way of a new robot.
		d, refused, err := p.Denied(ctx, who, team+"/*", Admin)
		if err != nil {
			return err
		}
		if refused {
			refusal := p.Explain(ctx, who, team+"/*", d, Admin)
			return oci.Errorf(oci.CodeDenied, "%s", refusal.Message()).WithDetail(refusal)
		}
	}
	if role == metadata.RoleMaintainer || needed == WhoReader && role != "" {
		return nil
	}
	ask := anAdmin
	if len(maintainers) > 0 {
		ask = "a maintainer of the team " + team + ": " + strings.Join(maintainers, ", ")
	}
	if role == "" {
		return denied(who, "not-a-member", ask, "%s may not do this: %s is not in the team %s. Ask %s", who, who, team, ask)
	}
	return denied(who, "team-"+role, ask, "%s may not do this: %s is only a %s in the team %s, not a maintainer. Ask %s", who, who, role, team, ask)
}

// denied makes a DENIED that says which rule refused and who can help.
func denied(who Principal, rule, ask, format string, args ...any) error {
	return oci.Errorf(oci.CodeDenied, format, args...).WithDetail(map[string]string{
		"rule": rule, "principal": who.String(), "ask": ask,
	})
}
