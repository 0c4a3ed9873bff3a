package admin

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"berth/auth"
	"berth/metadata"
	"berth/oci"
)

// rule says who may call an operation. Admins of the instance may call all of
// them, anonymous callers none. The zero rule is nobody.
type rule struct {
	// who is needed: one of the constants below.
	who who
	// action on the repository of the path, when who is "holder".
	action auth.Actions
	// whileReadOnly is for what leaves the registry as it is, and is needed to move it
	// while nobody pushes.
	whileReadOnly bool
}

type who int

const (
	nobody     who = iota
	signedIn       // everybody with credentials; what they see is their own
	self           // the user of the path
	reader         // somebody of the team of the path
	maintainer     // a maintainer of the team of the path
	holder         // somebody with the action on the repository of the path, as auth.Policy says
	granter        // a maintainer of the team that the pattern of the path lies in
	adminOnly
)

// permissions is the table, by operationId.
func permissions() map[string]rule {
	return map[string]rule{
		"whoami": {who: signedIn},

		"listUsers":   {who: adminOnly},
		"createUser":  {who: adminOnly},
		"getUser":     {who: self},
		"updateUser":  {who: adminOnly},
		"deleteUser":  {who: adminOnly},
		"setPassword": {who: self},

		"listTokens":  {who: self},
		"createToken": {who: self},
		"getToken":    {who: self},
		"deleteToken": {who: self},
		"rotateToken": {who: self},

		"listTeams":    {who: signedIn}, // those that the caller is in
		"createTeam":   {who: adminOnly},
		"getTeam":      {who: reader},
		"updateTeam":   {who: maintainer},
		"deleteTeam":   {who: adminOnly},
		"listMembers":  {who: reader},
		"putMember":    {who: maintainer},
		"removeMember": {who: maintainer},

		"getTeamTagPolicy":    {who: reader},
		"setTeamTagPolicy":    {who: maintainer},
		"deleteTeamTagPolicy": {who: maintainer},

		"listRobots":  {who: maintainer},
		"createRobot": {who: maintainer},
		"getRobot":    {who: maintainer},
		"deleteRobot": {who: maintainer},
		"rotateRobot": {who: maintainer},

		"listAudit":     {who: adminOnly},
		"listTeamAudit": {who: maintainer},

		"listRepositories": {who: signedIn}, // those that the caller may pull
		"createRepository": {who: holder, action: auth.Push},
		"getRepository":    {who: holder, action: auth.Pull},
		"updateRepository": {who: holder, action: auth.Admin},
		"deleteRepository": {who: holder, action: auth.Admin},

		"getRepositoryTagPolicy":    {who: holder, action: auth.Pull},
		"setRepositoryTagPolicy":    {who: holder, action: auth.Admin},
		"deleteRepositoryTagPolicy": {who: holder, action: auth.Admin},

		"listTags":       {who: holder, action: auth.Pull},
		"getTag":         {who: holder, action: auth.Pull},
		"deleteTag":      {who: holder, action: auth.Delete},
		"listTagHistory": {who: holder, action: auth.Pull},

		"listTrustIssuers":  {who: signedIn},
		"putTrustIssuer":    {who: adminOnly},
		"setTrustOwners":    {who: adminOnly},
		"deleteTrustIssuer": {who: adminOnly},
		"listTrustPolicies": {who: maintainer},
		"getTrustPolicy":    {who: maintainer},
		"putTrustPolicy":    {who: maintainer},
		"deleteTrustPolicy": {who: maintainer},

		"listServices":  {who: adminOnly},
		"getService":    {who: adminOnly},
		"putService":    {who: adminOnly},
		"deleteService": {who: adminOnly},
		"listKeys":      {who: adminOnly},
		"rotateKey":     {who: adminOnly},
		"retireKey":     {who: adminOnly},

		"listGroups":        {who: adminOnly},
		"createGroup":       {who: adminOnly},
		"getGroup":          {who: adminOnly},
		"updateGroup":       {who: adminOnly},
		"deleteGroup":       {who: adminOnly},
		"listGroupMembers":  {who: adminOnly},
		"putGroupMember":    {who: adminOnly},
		"removeGroupMember": {who: adminOnly},

		"listGrants":       {who: signedIn}, // those that reach the caller, and of teams that the caller maintains
		"putUserGrant":     {who: granter},
		"deleteUserGrant":  {who: granter},
		"putGroupGrant":    {who: granter},
		"deleteGroupGrant": {who: granter},

		"listDenials":  {who: adminOnly},
		"getDenial":    {who: adminOnly},
		"putDenial":    {who: adminOnly},
		"deleteDenial": {who: adminOnly},

		"explain": {who: signedIn}, // about oneself; about others like whoCan
		"whoCan":  {who: signedIn}, // with the action admin on the repository of the query

		"getInstanceTagPolicy": {who: signedIn},
		"setInstanceTagPolicy": {who: adminOnly},

		"getCollector":       {who: adminOnly},
		"runCollector":       {who: adminOnly},
		"getCheck":           {who: adminOnly},
		"startCheck":         {who: adminOnly},
		"cancelCheck":        {who: adminOnly},
		"getBackup":          {who: adminOnly},
		"startBackup":        {who: adminOnly, whileReadOnly: true},
		"cancelBackup":       {who: adminOnly, whileReadOnly: true},
		"getRestore":         {who: adminOnly},
		"startRestore":       {who: adminOnly, whileReadOnly: true},
		"cancelRestore":      {who: adminOnly, whileReadOnly: true},
		"getMigration":       {who: adminOnly},
		"startMigration":     {who: adminOnly, whileReadOnly: true},
		"cancelMigration":    {who: adminOnly, whileReadOnly: true},
		"getInstanceUsage":   {who: adminOnly},
		"listTeamUsage":      {who: reader},
		"getRepositoryUsage": {who: holder, action: auth.Pull},
		"explainDigest":      {who: signedIn}, // in the repositories that the caller may pull from

		"getTeamRetention":          {who: reader},
		"setTeamRetention":          {who: maintainer},
		"deleteTeamRetention":       {who: maintainer},
		"getRepositoryRetention":    {who: holder, action: auth.Pull},
		"setRepositoryRetention":    {who: holder, action: auth.Admin},
		"deleteRepositoryRetention": {who: holder, action: auth.Admin},
		"dryRunRetention":           {who: holder, action: auth.Delete},
		"runRetention":              {who: holder, action: auth.Admin},
		"listDeletedTags":           {who: holder, action: auth.Pull},
		"listDeletedManifests":      {who: holder, action: auth.Pull},
		"restoreDeleted":            {who: holder, action: auth.Delete},
		"listQuotas":                {who: adminOnly},
		"getTeamQuota":              {who: reader},
		"setTeamQuota":              {who: adminOnly},
		"deleteTeamQuota":           {who: adminOnly},

		"listAccounts":      {who: adminOnly},
		"putAccount":        {who: adminOnly},
		"deleteAccount":     {who: adminOnly},
		"putAccountRole":    {who: adminOnly},
		"deleteAccountRole": {who: adminOnly},
	}
}

// permit decides whether the principal may call an operation with the
// parameters of its path. The errors are UNAUTHORIZED and DENIED, which says
// who can help, and NAME_INVALID for the name of a repository that is none.
func (h *handler) permit(ctx context.Context, p auth.Principal, op operation, params map[string]string) error {
	id := op.route.Operation.OperationID
	switch {
	case p.IsAnonymous():
		return oci.Errorf(oci.CodeUnauthorized, "the management API needs a sign-in: send a token from /token with the scope berth:api:*, or a user name and password")
	case !p.MayManage():
		return denied(p, "token-limit", "a token that carries the admin action",
			"the token of %s is for images only, it does not carry the admin action that the management API needs", p)
	case op.rule.who == holder:
		if err := h.permitRepository(ctx, p, op.rule.action, params["repository"]); err != nil {
			return err
		}
		return permitTag(p, op.rule.action, params["tag"])
	case op.rule.who == signedIn, p.IsAdmin():
		return nil
	case !everywhere(p):
		return denied(p, "token-limit", "a token for all repositories (*) that carries the admin action",
			"the token of %s is limited to %q with %s, and may manage only repositories that match", p, p.Limit.Repositories, p.Limit.Actions)
	}

	switch op.rule.who {
	case self:
		if p.Kind == auth.KindUser && p.Name == params["user"] {
			return nil
		}
		return denied(p, "self", anAdmin, "%s may not do this for another user: only %s and admins may", p, params["user"])
	case reader, maintainer:
		return h.permitTeam(ctx, p, op.rule.who, params["team"])
	case granter:
		if err := metadata.ParsePattern(params["pattern"]); err != nil {
			return err
		}
		// The pattern has to lie inside of the team: core/* and core do, core* does not.
		if team := metadata.PatternTeam(params["pattern"]); team != "" {
			return h.permitTeam(ctx, p, maintainer, team)
		}
		return denied(p, "admin-only", anAdmin, "%s may not do this: %s reaches beyond one team, and only admins may grant there", p, params["pattern"])
	}
	return denied(p, "admin-only", anAdmin, "%s may not do this: only admins may (%s)", p, id)
}

// anAdmin is whom to ask for what only admins may.
const anAdmin = "an administrator of this registry"

// everywhere reports whether the credential carries all that its owner may
// manage: no token, or one for the admin action on every repository. It is the
// part of IsAdmin that does not ask for the role.
func everywhere(p auth.Principal) bool {
	return auth.Principal{Kind: auth.KindUser, Admin: true, Limit: p.Limit}.IsAdmin()
}

func (h *handler) permitRepository(ctx context.Context, p auth.Principal, needed auth.Actions, repository string) error {
	if _, err := oci.ParseName(repository); err != nil {
		return err
	}
	if p.IsAdmin() {
		// No denial locks out the one who can take it back.
		return nil
	}
	decision, err := h.Policy.Actions(ctx, p, repository)
	if err != nil {
		return err
	}
	switch {
	case decision.Actions.Has(needed):
		return nil
	case decision.Unsure != nil && !errors.Is(decision.Unsure, auth.ErrShowCredential):
		return decision.Unsure
	}
	refusal := h.Policy.Explain(ctx, p, repository, decision, needed)
	return oci.Errorf(oci.CodeDenied, "%s", refusal.Message()).WithDetail(refusal)
}

// permitTag checks what a token with a tag pattern may delete and change: a tag that
// matches, and nothing that is about all tags of a repository.
func permitTag(p auth.Principal, action auth.Actions, tag string) error {
	if action&(auth.Delete|auth.Admin) == 0 || p.Limit.AllowsTag(action, tag) {
		return nil
	}
	return denied(p, string(auth.RuleLimit), "a token without a tag pattern, or with one that matches",
		"the token of %s is for tags like %q only", p, p.Limit.Tags)
}

// maxNamed is how many maintainers a refusal names.
const maxNamed = 5

// permitTeam asks for a role in a team. A robot that carries the admin action
// everywhere acts in its own team as a maintainer does.
func (h *handler) permitTeam(ctx context.Context, p auth.Principal, needed who, team string) error {
	var role string
	var maintainers []string
	err := h.DB.View(ctx, func(tx *metadata.Tx) (err error) {
		switch {
		case p.Kind == auth.KindRobot && p.Team == team:
			role = metadata.RoleMaintainer
		case p.Kind == auth.KindUser:
			role, err = tx.MemberRole(ctx, team, p.ID)
		}
		if err == nil && role != metadata.RoleMaintainer {
			maintainers, err = tx.Maintainers(ctx, team, maxNamed)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("reading the role of %s in the team %s: %w", p, team, err)
	}
	if role == metadata.RoleMaintainer && needed == maintainer {
		// Who is denied the administration of the team's repositories must not get at
		// it by way of a new robot.
		d, refused, err := h.Policy.Denied(ctx, p, team+"/*", auth.Admin)
		if err != nil {
			return err
		}
		if refused {
			refusal := h.Policy.Explain(ctx, p, team+"/*", d, auth.Admin)
			return oci.Errorf(oci.CodeDenied, "%s", refusal.Message()).WithDetail(refusal)
		}
	}
	if role == metadata.RoleMaintainer || needed == reader && role != "" {
		return nil
	}
	ask := anAdmin
	if len(maintainers) > 0 {
		ask = "a maintainer of the team " + team + ": " + strings.Join(maintainers, ", ")
	}
	if role == "" {
		return denied(p, "not-a-member", ask, "%s may not do this: %s is not in the team %s. Ask %s", p, p, team, ask)
	}
	return denied(p, "team-"+role, ask, "%s may not do this: %s is only a %s in the team %s, not a maintainer. Ask %s", p, p, role, team, ask)
}

// denied makes a DENIED that says which rule refused and who can help.
func denied(p auth.Principal, rule, ask, format string, args ...any) error {
	return oci.Errorf(oci.CodeDenied, format, args...).WithDetail(map[string]string{
		"rule": rule, "principal": p.String(), "ask": ask,
	})
}
