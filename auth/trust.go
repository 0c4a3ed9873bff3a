package auth

import (
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"berth/metadata"
	"berth/oci"
)

// MaxTrustLife is the longest life of a registry token that a workload gets by a
// trust policy.
const MaxTrustLife = 15 * time.Minute

// Bounds of a trust policy. The claims of its conditions and the four that are
// always kept fit into Principal.Claims.
const (
	maxConditions     = MaxClaims - 4
	maxConditionClaim = 128
	maxIssuer         = 512
	maxAudience       = 512
)

// TrustPrincipal is the robot that a workload acts as by a policy, or false when
// its claims do not match all conditions. values gives the values of a claim as
// text: of a list every item, of a claim that is missing none. The principal's
// Claims are those of the conditions; the caller adds what else is worth keeping.
func TrustPrincipal(p metadata.TrustPolicy, values func(claim string) []string) (Principal, bool) {
	actions, err := ParseActions(p.Actions)
	// Nothing is a condition that everybody meets: a policy without any is a mistake.
	if err != nil || len(p.Claims) == 0 || p.Team == "" {
		return Principal{}, false
	}
	matched := make(map[string]string, len(p.Claims))
	for claim, pattern := range p.Claims {
		i := slices.IndexFunc(values(claim), func(v string) bool { return oci.Match(pattern, v) })
		if i < 0 {
			return Principal{}, false
		}
		matched[claim] = ClipClaim(values(claim)[i])
	}
	return Principal{
		Kind: KindRobot, Name: p.Robot, TeamID: p.TeamID, Team: p.Team, TrustID: p.ID, Claims: matched,
		Limit: &Limit{Repositories: p.Repositories, Actions: actions, Tags: p.Tags},
	}, true
}

// maxOwners bounds the owners of one issuer, each of which is compared at a sign-in.
const maxOwners = 1000

// CheckTrustOwners says whether owners are ones that can be stored. The error is an INVALID.
func CheckTrustOwners(owners []metadata.TrustOwner) error {
	if len(owners) > maxOwners {
		return oci.Errorf(oci.CodeInvalid, "an issuer can have %d owners, these are %d: use patterns", maxOwners, len(owners))
	}
	for _, o := range owners {
		switch {
		case !claimRE.MatchString(o.Claim) || len(o.Claim) > maxConditionClaim:
			return oci.Errorf(oci.CodeInvalid, "%.140q cannot be the name of a claim: use letters, digits and '_.:/-', with dots between the names of nested claims", o.Claim)
		case o.Pattern == "" || len(o.Pattern) > MaxClaimSize:
			return oci.Errorf(oci.CodeInvalid, "the pattern for the claim %s has to be 1 to %d bytes", o.Claim, MaxClaimSize)
		}
	}
	return nil
}

// TrustOwners names the teams whose a workload with these claims is; none is anybody's.
// values is as in TrustPrincipal.
func TrustOwners(owners []metadata.TrustOwner, values func(claim string) []string) (teams []string) {
	for _, o := range owners {
		if slices.ContainsFunc(values(o.Claim), func(v string) bool { return oci.Match(o.Pattern, v) }) {
			teams = append(teams, o.Team)
		}
	}
	return teams
}

// ClipClaim cuts the value of a claim to what Principal.Claims may hold, and keeps
// it text.
func ClipClaim(v string) string {
	return strings.ToValidUTF8(v[:min(len(v), MaxClaimSize)], "")
}

// tenants are issuers that give tokens to everybody, with the claims that say
// whose job it is. A policy for one of them has to pin such a claim.
var tenants = map[string][]string{
	GitHubIssuer:    {"repository", "repository_id", "repository_owner", "repository_owner_id", "enterprise", "enterprise_id", "sub"},
	GitLabIssuer:    {"project_path", "project_id", "namespace_path", "namespace_id"},
	BuildkiteIssuer: {"organization_slug", "organization_id", "pipeline_id"},
}

// Issuers of well-known platforms, each of which serves all its customers.
const (
	GitHubIssuer    = "https://token.actions.githubusercontent.com"
	GitLabIssuer    = "https://gitlab.com"
	BuildkiteIssuer = "https://agent.buildkite.com"
)

// claimRE is the name of a claim: names of nested ones are joined with dots, and
// some platforms use a URL.
var claimRE = regexp.MustCompile(`^[A-Za-z0-9_.:/-]+$`)

// CheckTrustPolicy says whether a policy is one that can be stored. The error is an
// INVALID with what to do. Whether its issuer may be chosen is for the caller.
func CheckTrustPolicy(p metadata.TrustPolicy) error {
	if err := CheckIssuer(p.Issuer, true); err != nil {
		return err
	}
	if p.Audience == "" || len(p.Audience) > maxAudience {
		return oci.Errorf(oci.CodeInvalid, "the audience %.140q is not valid: use what the workload asks its platform for, such as the host name of this registry, of at most %d bytes", p.Audience, maxAudience)
	}
	if len(p.Claims) == 0 || len(p.Claims) > maxConditions {
		return oci.Errorf(oci.CodeInvalid, "a trust policy needs 1 to %d conditions on claims beside issuer and audience, this one has %d", maxConditions, len(p.Claims))
	}
	narrow := false
	for claim, pattern := range p.Claims {
		switch {
		case !claimRE.MatchString(claim) || len(claim) > maxConditionClaim:
			return oci.Errorf(oci.CodeInvalid, "%.140q cannot be the name of a claim: use letters, digits and '_.:/-', with dots between the names of nested claims", claim)
		case slices.Contains([]string{"iss", "aud", "exp", "nbf", "iat", "jti"}, claim):
			return oci.Errorf(oci.CodeInvalid, "the claim %s cannot be a condition: issuer, audience and times are checked in any case, and %s says nothing of whose job it is", claim, claim)
		case pattern == "" || len(pattern) > MaxClaimSize:
			return oci.Errorf(oci.CodeInvalid, "the condition on the claim %s has to be 1 to %d bytes", claim, MaxClaimSize)
		}
		narrow = narrow || strings.Trim(pattern, "*?") != ""
	}
	if !narrow {
		return oci.Errorf(oci.CodeInvalid, "the conditions of the trust policy match every token of the issuer: give at least one claim a value that is more than '*'")
	}
	if claims, ok := tenants[p.Issuer]; ok && !slices.ContainsFunc(claims, func(claim string) bool { return pinned(claim, p.Claims[claim]) }) {
		return oci.Errorf(oci.CodeInvalid, "everybody gets tokens from %s, so the trust policy has to say whose job it is: give one of the claims %s a value without a wildcard before its first '/'",
			p.Issuer, strings.Join(claims, ", "))
	}
	if p.MaxLife < time.Minute || p.MaxLife > MaxTrustLife {
		return oci.Errorf(oci.CodeInvalid, "tokens of a trust policy live 1 to %d minutes, not %s", int(MaxTrustLife/time.Minute), p.MaxLife)
	}
	return nil
}

// pinned reports whether a pattern names one tenant: it has no wildcard, or none in
// what stands before the first slash ("acme/*", "repo:acme/app:*").
func pinned(claim, pattern string) bool {
	wild := strings.IndexAny(pattern, "*?")
	if pattern == "" || wild < 0 {
		return pattern != ""
	}
	slash := strings.IndexByte(pattern, '/')
	owner, _ := strings.CutPrefix(pattern[:max(slash, 0)], "repo:")
	return slash >= 0 && slash < wild && owner != "" && (claim == "sub" || claim == "repository" || strings.HasSuffix(claim, "_path"))
}

// CheckIssuer says whether a URL can be the issuer of tokens: https, without query,
// fragment and user (OpenID Connect Discovery, section 2). http is for this machine
// itself, and only when loopback is true. The error is an INVALID.
func CheckIssuer(issuer string, loopback bool) error {
	u, err := url.Parse(issuer)
	ok := err == nil && len(issuer) <= maxIssuer && u.Host != "" && u.Hostname() != "" && u.User == nil && u.RawQuery == "" && !u.ForceQuery && u.Fragment == "" && !strings.Contains(issuer, "#")
	if ok && u.Scheme == "http" {
		ok = loopback && slices.Contains([]string{"localhost", "127.0.0.1", "::1"}, u.Hostname())
	} else if ok {
		ok = u.Scheme == "https"
	}
	if !ok {
		return oci.Errorf(oci.CodeInvalid, "%.140q is not an issuer: use its https URL as it stands in the claim iss, without query", issuer)
	}
	return nil
}
