package registry

import (
	"slices"
	"testing"
	"time"

	"berth/auth"
	"berth/metadata"
	"berth/oci"
)

// TestRulesAreRecorded: what is set for a repository, a team or the instance is in the audit
// log by the operation id of the management API, whoever calls; what is refused leaves nothing.
func TestRulesAreRecorded(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		e.push(e.r, repo, []byte("x"))
		e.ok(e.r.db.Update(e.ctx, func(tx *metadata.Tx) error {
			_, err := tx.CreateTeam(e.ctx, "team", metadata.Internal)
			return err
		}))
		root := as("root")
		sealed := &metadata.TagPolicy{Mode: metadata.Sealed, Exempt: []string{"dev-*"}}
		ten := int64(10)
		day := 24 * time.Hour
		retention := &metadata.RetentionPolicy{UntaggedTTL: &day, Rules: []metadata.RetentionRule{{Name: "young", YoungerThan: day}}}
		public, held := metadata.Public, TagPolicy{}
		_, err := e.r.UpdateRepository(e.ctx, root, repo, RepositoryChange{Visibility: &public})
		e.ok(err)
		for _, set := range []func(by auth.Actor, p *metadata.TagPolicy) (TagPolicy, error){
			func(by auth.Actor, p *metadata.TagPolicy) (TagPolicy, error) {
				return e.r.SetTeamTagPolicy(e.ctx, by, "team", p)
			},
			func(by auth.Actor, p *metadata.TagPolicy) (TagPolicy, error) {
				return e.r.SetRepositoryTagPolicy(e.ctx, by, repo, p)
			},
		} {
			held, err = set(root, sealed)
			e.ok(err)
			if held.Mode != metadata.Sealed || held.Level == instanceLevel {
				t.Errorf("the policy in force is %+v", held)
			}
			_, err = set(root, nil)
			e.ok(err)
		}
		_, err = e.r.SetTeamRetention(e.ctx, root, "team", retention)
		e.ok(err)
		_, err = e.r.SetRepositoryRetention(e.ctx, root, repo, retention)
		e.ok(err)
		_, err = e.r.SetRepositoryRetention(e.ctx, root, repo, nil)
		e.ok(err)
		quota, err := e.r.SetQuota(e.ctx, root, "team", metadata.Limits{Tags: &ten})
		e.ok(err)
		if !quota.Counted || *quota.Limits.Tags != 10 {
			t.Errorf("the quota is %+v", quota)
		}
		e.ok(e.r.DeleteQuota(e.ctx, root, "team"))
		_, err = e.r.RunRetentionNow(e.ctx, root, repo)
		e.ok(err)
		e.ok(e.r.ApplyTagPolicy(e.ctx, root, metadata.Mutable, []string{"latest"}))
		e.ok(e.r.ApplyTagPolicy(e.ctx, root, metadata.Mutable, nil)) // holds already

		// Refused.
		_, err = e.r.SetInstanceTagPolicy(e.ctx, root, metadata.TagPolicy{Mode: "loose"})
		e.is(err, oci.ErrInvalid)
		_, err = e.r.SetRepositoryTagPolicy(e.ctx, root, "team/none", sealed)
		e.is(err, oci.ErrNameUnknown)
		_, err = e.r.SetQuota(e.ctx, root, "nobody", metadata.Limits{Tags: &ten})
		e.is(err, oci.ErrNotFound)
		stop := oci.Errorf(oci.CodeConflict, "somebody else has changed it")
		_, err = e.r.UpdateRepository(e.ctx, root, repo, RepositoryChange{Visibility: &public, If: func(metadata.Repository) error { return stop }})
		e.is(err, oci.ErrConflict)
		narrow := auth.ActorOf(auth.Principal{Kind: auth.KindUser, Name: "alice", Limit: &auth.Limit{Repositories: "other/*", Actions: auth.AllActions}}, metadata.Actor{})
		private := metadata.Private
		_, err = e.r.UpdateRepository(e.ctx, root, repo, RepositoryChange{Visibility: &private})
		e.ok(err)
		_, err = e.r.UpdateRepository(e.ctx, narrow, repo, RepositoryChange{Visibility: &public})
		e.is(err, oci.ErrDenied)

		lines := e.strings(`SELECT action || ' ' || team || ' ' || repository || ' ' || detail FROM audit_events WHERE principal = 'root'`)
		slices.Sort(lines)
		want := []string{
			`deleteRepositoryRetention team team/app `,
			`deleteRepositoryTagPolicy team team/app `,
			`deleteTeamQuota team  `,
			`deleteTeamTagPolicy team  `,
			`runRetention team team/app `,
			`setInstanceTagPolicy   {"fields":{"exempt":["latest"],"mode":"mutable"}}`,
			`setRepositoryRetention team team/app {"fields":{"rules":[{"name":"young","younger_than":"24h0m0s"}],"untagged_ttl":"24h0m0s"}}`,
			`setRepositoryTagPolicy team team/app {"fields":{"exempt":["dev-*"],"mode":"sealed"}}`,
			`setTeamQuota team  {"fields":{"tags":10}}`,
			`setTeamRetention team  {"fields":{"rules":[{"name":"young","younger_than":"24h0m0s"}],"untagged_ttl":"24h0m0s"}}`,
			`setTeamTagPolicy team  {"fields":{"exempt":["dev-*"],"mode":"sealed"}}`,
			`updateRepository team team/app {"fields":{"visibility":"private"}}`,
			`updateRepository team team/app {"fields":{"visibility":"public"}}`,
		}
		if !slices.Equal(lines, want) {
			t.Errorf("the audit log says\n%q\nwant\n%q", lines, want)
		}
	})
}
