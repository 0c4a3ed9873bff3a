package oidc

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"berth/auth"
	"berth/metadata"
	"berth/oci"
)

// provenance are claims that tell where something was built, by the names that GitHub,
// GitLab, Buildkite and Kubernetes give them. They are kept while there is room.
var provenance = []string{
	"iss", "sub", "aud", "jti",
	"repository", "ref", "sha", "run_id", "workflow_ref", "actor",
	"project_path", "pipeline_id", "job_id", "user_login",
	"organization_slug", "pipeline_slug", "build_number", "build_commit", "build_branch",
	"kubernetes.io.namespace", "kubernetes.io.serviceaccount.name", "kubernetes.io.pod.name",
}

// touchEvery is how exact the time of a trust policy's last use is.
const touchEvery = time.Minute

// job signs a workload in by the trust policies of its issuer. When several match, the
// user name may say whose robot it is (team+robot). Else the policies of the teams count
// in whose repositories something is asked for, when there are some, and of one team the
// oldest: a policy that somebody makes later takes nothing from those before. Policies of
// several teams are ambiguous, and refused: no team gets the jobs of another by a policy
// of its own.
// An administrator may say whose the jobs with some claims are; then only policies of
// these teams count.
//
// A token may be shown several times while it lives; its jti is kept for the audit log.
func (a *Authenticator) job(ctx context.Context, t *verified, c auth.Credentials) (auth.Principal, error) {
	if t.typ != "" && !strings.EqualFold(t.typ, "JWT") && !strings.EqualFold(t.typ, "at+jwt") {
		return auth.Principal{}, auth.Wrongf("the token of %s is not one of a workload: its type is %.40q", t.issuer, t.typ)
	}
	audience := slices.Compact(slices.Sorted(slices.Values(t.audience)))
	if len(audience) > maxAudiences {
		return auth.Principal{}, auth.Wrongf("the token of %s is for more than %d audiences", t.issuer, maxAudiences)
	}
	var (
		chosen jobPolicies
		asked  bool
	)
	named := strings.Contains(c.Username, "+")
	err := a.options.DB.View(ctx, func(tx *metadata.Tx) error {
		chosen, asked = jobPolicies{teams: c.Teams}, false
		issuer, err := tx.TrustIssuer(ctx, t.issuer)
		if err != nil && !errors.Is(err, oci.ErrNotFound) { // one of the settings needs no row
			return err
		}
		owners := auth.TrustOwners(issuer.Owners, t.claims.values)
		return tx.EachTrustPolicy(ctx, t.issuer, audience, func(candidate metadata.TrustPolicy) bool {
			asked = true
			if len(owners) > 0 && !slices.Contains(owners, candidate.Team) {
				return true
			}
			p, ok := auth.TrustPrincipal(candidate, t.claims.values)
			if !ok {
				return true
			}
			if named && p.String() == c.Username {
				chosen = jobPolicies{found: []jobPolicy{{p, candidate}}}
				return false
			}
			chosen.add(jobPolicy{p, candidate})
			return true
		})
	})
	if err == nil && len(chosen.found) > 1 {
		one, other := chosen.found[0], chosen.found[1]
		return auth.Principal{}, auth.Wrongf("the trust policies %s of the team %s and %s of the team %s both match this token: sign in with the user name %s or %s, or ask an administrator whose jobs these are (berth trust issuer owners)",
			one.policy.Name, one.policy.Team, other.policy.Name, other.policy.Team, one.principal, other.principal)
	}
	p, policy := chosen.only()
	switch {
	case err != nil:
		return auth.Principal{}, fmt.Errorf("reading the trust policies of %s: %w", t.issuer, err)
	case !asked:
		return auth.Principal{}, auth.Wrongf("no trust policy is for tokens of %s with the audience %s: ask for a token with the audience of the policy", t.issuer, quoted(audience))
	case policy.ID == 0:
		return auth.Principal{}, auth.Wrongf("no trust policy for tokens of %s matches the claims of this one (sub is %.200q): compare them with 'berth trust show'", t.issuer, t.claims.value("sub"))
	}
	p.Claims = keep(p.Claims, t.claims, provenance...)
	p.Expires = t.expires
	if latest := a.options.Clock().Add(min(policy.MaxLife, auth.MaxTrustLife)); latest.Before(p.Expires) {
		p.Expires = latest
	}
	a.touch(ctx, policy)
	return p, nil
}

// jobPolicy is a trust policy that matches a token, and who its holder is by it.
type jobPolicy struct {
	principal auth.Principal
	policy    metadata.TrustPolicy
}

// jobPolicies are the policies that match a token and of which one decides: the oldest of
// each team, and only those of the teams that are asked about when there are any.
type jobPolicies struct {
	teams []string // that are asked about
	found []jobPolicy
	asked bool // found are of these teams
}

func (j *jobPolicies) add(p jobPolicy) {
	switch asked := slices.Contains(j.teams, p.policy.Team); {
	case asked && !j.asked:
		j.found, j.asked = nil, true
	case j.asked && !asked:
		return
	}
	if !slices.ContainsFunc(j.found, func(f jobPolicy) bool { return f.policy.TeamID == p.policy.TeamID }) {
		j.found = append(j.found, p)
	}
}

// only is the one policy that is left, or one with ID 0.
func (j *jobPolicies) only() (p auth.Principal, policy metadata.TrustPolicy) {
	if len(j.found) == 1 {
		return j.found[0].principal, j.found[0].policy
	}
	return p, policy
}

// touch notes the use of a policy, for people who clean up: that it fails is no
// reason to refuse.
func (a *Authenticator) touch(ctx context.Context, policy metadata.TrustPolicy) {
	now := a.options.Clock()
	if last, ok := a.touched.Get(policy.ID); ok && now.Sub(last) < touchEvery {
		return
	}
	a.touched.Add(policy.ID, now)
	err := a.options.DB.UpdateRelaxed(ctx, func(tx *metadata.Tx) error { return tx.TouchTrustPolicy(ctx, policy.ID) })
	if err != nil && ctx.Err() == nil {
		a.options.Log.WarnContext(ctx, "the use of a trust policy was not noted", "policy", policy.Team+"/"+policy.Name, "error", err)
	}
}
