package metadata_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"berth/metadata"
	"berth/metadata/metadatatest"
	"berth/oci"
)

// The next team of a name gets nothing of what the one before had, and nobody keeps a right
// in its namespace.
func TestDeletedTeamLeavesNoRight(t *testing.T) {
	metadatatest.Each(t, func(t *testing.T, db *metadata.DB) {
		bytes := int64(1 << 20)
		update(t, db, func(ctx context.Context, tx *metadata.Tx) error {
			var errs []error
			for _, team := range []string{"core", "core2"} {
				_, err := tx.CreateTeam(ctx, team, "")
				errs = append(errs, err, tx.SetQuota(ctx, team, metadata.Limits{Bytes: &bytes}, "test"),
					tx.SetTeamRetention(ctx, team, &metadata.RetentionPolicy{UntaggedTTL: new(time.Duration)}, "test"),
					tx.SetTeamTagPolicy(ctx, team, &metadata.TagPolicy{Mode: metadata.Mutable}))
				_, _, err = tx.PutTrustPolicy(ctx, metadata.TrustPolicy{Team: team, Name: "main", Issuer: "https://jobs.example.com", Audience: "a",
					Claims: map[string]string{"sub": "x"}, Robot: "ci", Repositories: "*", Actions: []string{"push"}, MaxLife: time.Minute, CreatedBy: "test"})
				errs = append(errs, err)
			}
			_, err := tx.CreateUser(ctx, metadata.User{Name: "alice", Role: metadata.RoleUser})
			_, err2 := tx.CreateGroup(ctx, "devs")
			errs = append(errs, err, err2, tx.PutMember(ctx, "core", "alice", metadata.RoleMaintainer))
			for _, pattern := range []string{"core", "core/*", "core/app", "core2/*", "core*", "*"} {
				_, _, err := tx.PutGrant(ctx, metadata.Grantee{User: "alice"}, pattern, []string{"pull"}, "test")
				_, _, err2 := tx.PutGrant(ctx, metadata.Grantee{Group: "devs"}, pattern, []string{"pull"}, "test")
				errs = append(errs, err, err2)
			}
			for name, d := range map[string]metadata.Denial{
				"in-core": {Principal: "*", Repository: "core/*"}, "robots": {Principal: "core+*", Repository: "*"}, "robot": {Principal: "core+ci", Repository: "other/x"},
				"in-core2": {Principal: "*", Repository: "core2/*"}, "robots2": {Principal: "core2+*", Repository: "*"}, "all": {Principal: "*", Repository: "*"},
			} {
				d.Name, d.Actions, d.CreatedBy = name, []string{"push"}, "test"
				_, _, err := tx.PutDenial(ctx, d)
				errs = append(errs, err)
			}
			for role, pattern := range map[string]string{"a": "core/*", "b": "core", "c": "core2/*", "d": "*"} {
				_, err := tx.PutAccount(ctx, metadata.Account{Account: "123456789012", Role: role, Repositories: pattern, Actions: []string{"pull"}, CreatedBy: "test"})
				errs = append(errs, err)
			}
			_, err = tx.PutExternalUser(ctx, metadata.ExternalUser{Source: "ldap", Subject: "1", Name: "bob", Teams: map[string]string{"core": metadata.RoleMember, "core2": metadata.RoleMember}})
			_, err3 := tx.PutTrustIssuer(ctx, "https://jobs.example.com", "test")
			_, err4 := tx.SetTrustOwners(ctx, "https://jobs.example.com", []metadata.TrustOwner{{Claim: "sub", Pattern: "a", Team: "core"}, {Claim: "sub", Pattern: "b", Team: "core2"}})
			errs = append(errs, err3, err4)
			_, _, err2 = tx.PutService(ctx, metadata.Service{Name: "registry.example.com", Issuer: "x", TokenTTL: time.Minute, Algorithm: "ES256", AnonymousPull: "core/*"})
			return errors.Join(append(errs, err, err2)...)
		})
		// A service is not the team's, so it is in the way and says so.
		err := db.Update(t.Context(), func(tx *metadata.Tx) error { return tx.DeleteTeam(t.Context(), "core") })
		if !errors.Is(err, oci.ErrConflict) || !strings.Contains(err.Error(), "registry.example.com") {
			t.Fatalf("%v", err)
		}
		update(t, db, func(ctx context.Context, tx *metadata.Tx) error {
			_, _, err := tx.PutService(ctx, metadata.Service{Name: "registry.example.com", Issuer: "x", TokenTTL: time.Minute, Algorithm: "ES256", AnonymousPull: "*"})
			if err := errors.Join(err, tx.DeleteTeam(ctx, "core")); err != nil {
				return err
			}
			_, err = tx.CreateTeam(ctx, "core", "")
			return err
		})
		view(t, db, func(ctx context.Context, tx *metadata.Tx) error {
			core, err := tx.NamesTeam(ctx, "core")
			if len(core.Grants)+len(core.Denials)+len(core.Accounts)+len(core.Services) > 0 || core.Quota {
				t.Errorf("the next team of the name has %+v", core)
			}
			other, err2 := tx.NamesTeam(ctx, "core2")
			if len(other.Grants) != 2 || len(other.Denials) != 2 || len(other.Accounts) != 1 || !other.Quota {
				t.Errorf("the other team has %+v", other)
			}
			grants, err3 := tx.Grants(ctx, metadata.GrantFilter{Limit: 100})
			denials, _, err4 := tx.AllDenials(ctx)
			accounts, err5 := tx.AccountRoles(ctx, "123456789012")
			if len(grants) != 6 || len(denials) != 3 || len(accounts) != 2 {
				t.Errorf("%d grants, %d denials, %d accounts are left", len(grants), len(denials), len(accounts))
			}
			roles := map[string]string{}
			for _, name := range []string{"alice", "bob"} {
				u, err := tx.User(ctx, name)
				if err != nil {
					return err
				}
				if roles[name], err = tx.MemberRole(ctx, "core", u.ID); err != nil {
					return err
				}
			}
			if roles["alice"] != "" || roles["bob"] != "" {
				t.Errorf("roles in the next team: %v", roles)
			}
			issuer, err9 := tx.TrustIssuer(ctx, "https://jobs.example.com")
			if err9 != nil || len(issuer.Owners) != 1 || issuer.Owners[0].Team != "core2" {
				t.Errorf("whose the jobs are: %+v, %v", issuer, err9)
			}
			policies, err6 := tx.TrustPolicies(ctx, "core", "", 10)
			retention, err7 := tx.TeamRetention(ctx, "core")
			team, err8 := tx.Team(ctx, "core")
			if len(policies) > 0 || retention.TTLLevel != "instance" || team.TagPolicy != nil {
				t.Errorf("the next team has %v, %+v, %v", policies, retention, team.TagPolicy)
			}
			return errors.Join(err, err2, err3, err4, err5, err6, err7, err8)
		})
	})
}
