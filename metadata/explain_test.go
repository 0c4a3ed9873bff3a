package metadata_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"berth/metadata"
	"berth/metadata/metadatatest"
	"berth/oci"
)

var updateGolden = flag.Bool("update", false, "write testdata/*.golden")

// load fills tables with some thousands of rows, past the methods, for speed.
const loadRows = 6000

func load(t *testing.T, db *metadata.DB, url string) {
	t.Helper()
	raw := shell(t, url, true)
	series := fmt.Sprintf("(WITH RECURSIVE s (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM s WHERE i < %d) SELECT i FROM s) s", loadRows)
	hex := "'sha256:' || substr('0000000000000000000000000000000000000000000000000000000000000000' || CAST(i AS TEXT), -64)"
	if engine(url) == "postgres" {
		hex = "'sha256:' || lpad(CAST(i AS TEXT), 64, '0')"
	}
	bytes := map[string]string{"sqlite": "CAST(i AS BLOB)", "postgres": "convert_to(CAST(i AS TEXT), 'UTF8')"}[engine(url)]
	for _, q := range []string{
		`INSERT INTO tag_policies (mode) SELECT 'immutable' FROM ` + series,
		`INSERT INTO tag_policy_exemptions (policy_id, pattern) SELECT id, 'x*' FROM tag_policies`,
		`INSERT INTO users (name, role, created_at, updated_at) SELECT 'user' || i, 'user', 1, 1 FROM ` + series,
		`INSERT INTO teams (name, tag_policy_id, created_at, updated_at) SELECT 'team' || i, CASE WHEN i % 2 = 0 THEN i END, 1, 1 FROM ` + series,
		`INSERT INTO team_members (team_id, user_id, role, created_at) SELECT t.id, u.id, 'member', 1 FROM ` + series + ` JOIN teams t ON t.name = 'team' || i JOIN users u ON u.name = 'user' || i`,
		`INSERT INTO provider_teams (user_id, team, role) SELECT u.id, 'team' || i, 'member' FROM ` + series + ` JOIN users u ON u.name = 'user' || i`,
		`INSERT INTO provider_groups (user_id, name) SELECT u.id, 'group' || i % 50 FROM ` + series + ` JOIN users u ON u.name = 'user' || i`,
		`INSERT INTO groups (name, created_at, updated_at) SELECT 'group' || i, 1, 1 FROM ` + series,
		`INSERT INTO group_members (group_id, user_id, created_at) SELECT g.id, u.id, 1 FROM ` + series + ` JOIN groups g ON g.name = 'group' || i JOIN users u ON u.name = 'user' || i`,
		`INSERT INTO grants (user_id, pattern, team, actions, created_at, created_by, updated_at) SELECT u.id, 'team' || i || '/*', 'team' || i, 'pull,push', 1, 'x', 1 FROM ` + series + ` JOIN users u ON u.name = 'user' || i`,
		`INSERT INTO grants (group_id, pattern, team, actions, created_at, created_by, updated_at) SELECT g.id, 'team' || i || '/*', 'team' || i, 'pull', 1, 'x', 1 FROM ` + series + ` JOIN groups g ON g.name = 'group' || i`,
		`INSERT INTO tokens (kind, name, user_id, actions, created_at, created_by) SELECT 'personal', 'token', u.id, 'pull', 1, 'x' FROM ` + series + ` JOIN users u ON u.name = 'user' || i`,
		`INSERT INTO token_secrets (token_id, secret_hash, created_at) SELECT id, 'hash' || id, 1 FROM tokens`,
		`INSERT INTO repositories (name, team, visibility, created_at, created_by) SELECT 'team' || i || '/app', 'team' || i, CASE WHEN i % 100 = 0 THEN 'public' ELSE 'private' END, 1, 'x' FROM ` + series,
		`INSERT INTO blobs (digest, storage_key, size, created_at) SELECT ` + hex + `, 'key' || i, i, 1 FROM ` + series,
		`INSERT INTO repository_blobs (repository_id, digest, created_at) SELECT r.id, ` + hex + `, 1 FROM ` + series + ` JOIN repositories r ON r.name = 'team1/app'`,
		`INSERT INTO repository_blobs (repository_id, digest, created_at) SELECT r.id, ` + hex + `, 1 FROM ` + series + ` JOIN repositories r ON r.name = 'team' || i || '/app' WHERE i > 1`,
		`INSERT INTO manifests (repository_id, digest, media_type, subject, payload, size, created_at, created_by) SELECT r.id, ` + hex + `, 'm', CASE WHEN i % 3 = 0 THEN ` + strings.ReplaceAll(hex, "CAST(i AS TEXT)", "CAST(i / 10 AS TEXT)") + ` END, ` + bytes + `, 1, 1, 'x' FROM ` + series + ` JOIN repositories r ON r.name = 'team1/app'`,
		`INSERT INTO manifest_blobs (manifest_id, repository_id, digest) SELECT m.id, m.repository_id, m.digest FROM manifests m`,
		`INSERT INTO manifest_children (manifest_id, repository_id, digest, child_id) SELECT m.id, m.repository_id, m.digest, m.id FROM manifests m`,
		`INSERT INTO tags (repository_id, name, digest, created_at, updated_at, updated_by) SELECT r.id, 'v' || i, ` + hex + `, 1, 1, 'x' FROM ` + series + ` JOIN repositories r ON r.name = 'team1/app'`,
		`INSERT INTO uploads (id, repository, principal, algorithm, session, started_at, updated_at) SELECT 'u' || i, 'team1/app', 'user' || i % 300, 'sha256', 's', i, i FROM ` + series,
		`INSERT INTO audit_events (at, id, action, outcome, principal, kind, address, request_id, user_agent, claims, team, repository, reference, digest, detail, count)
		 SELECT i, i, CASE WHEN i % 50 = 0 THEN 'updateUser' ELSE 'pushManifest' END, CASE WHEN i % 60 = 0 THEN 'refused' ELSE 'ok' END, 'user' || i % 300,
		        'user', '', '', '', '', 'team' || i % 100, 'team' || i % 100 || '/app' || i % 500, '', '', '', 1 FROM ` + series,
		`INSERT INTO trust_policies (team_id, name, issuer, audience, claims, robot, repositories, actions, tags, max_seconds, created_at, created_by, updated_at) SELECT t.id, 'ci', 'https://issuer' || i % 10, 'aud' || i % 100, '{}', 'ci', '*', 'pull', '', 900, 1, 'x', 1 FROM ` + series + ` JOIN teams t ON t.name = 'team' || i`,
		`INSERT INTO web_sessions (secret_hash, user_id, created_at, expires_at) SELECT 'hash' || i, u.id, 1, i FROM ` + series + ` JOIN users u ON u.name = 'user' || i`,
		`INSERT INTO services (name, issuer, token_ttl, algorithm, anonymous_pull, refresh_tokens, created_at, updated_at) SELECT 'service' || i, 'x', 300, 'ES256', '', FALSE, 1, 1 FROM ` + series,
		`INSERT INTO garbage (kind, value, enqueued_at, not_before) SELECT 'object', 'key' || i, i, i FROM ` + series,
		`INSERT INTO manifest_pulls (manifest_id, pulled_at) SELECT id, 1 FROM manifests`,
		`INSERT INTO retention_policies (team_id, rules, updated_at, updated_by, next_at) SELECT t.id, '[{"name":"few","newest":10}]', 1, 'x', 1 FROM ` + series + ` JOIN teams t ON t.name = 'team' || i`,
		`INSERT INTO deleted_tags (repository_id, name, digest, created_at, deleted_at, deleted_by) SELECT r.id, 'd' || i, ` + hex + `, 1, i, 'x' FROM ` + series + ` JOIN repositories r ON r.name = 'team1/app'`,
		`INSERT INTO deleted_manifests (repository_id, digest, media_type, artifact_type, annotations, size, created_at, created_by, deleted_at, deleted_by, payload) SELECT r.id, 'd' || i, 'm', '', '', 1, 1, 'x', i, 'x', ` + bytes + ` FROM ` + series + ` JOIN repositories r ON r.name = 'team1/app'`,
		`INSERT INTO deleted_references (deletion_id, kind, repository_id, digest) SELECT id, 'blob', repository_id, digest FROM deleted_manifests`,
		`INSERT INTO team_quotas (team, max_bytes, counted, updated_at, updated_by) VALUES ('team2', 1000000000, TRUE, 1, 'x')`,
		`INSERT INTO quota_blobs (team, digest, size) SELECT 'team2', 'x' || ` + hex + `, 1 FROM ` + series,
		`INSERT INTO quota_ledger (team, digest, bytes) SELECT 'team' || i % 600, ` + hex + `, 1 FROM ` + series,
		`UPDATE uploads SET quota_team = 'team' || (started_at % 600)`,
	} {
		if _, err := raw.Exec(q); err != nil {
			t.Fatalf("%s: %v", q, err)
		}
	}
	if engine(url) == "sqlite" {
		return // nobody runs ANALYZE there
	}
	// Autovacuum does it, at moments of its own: without VACUUM the cost of a scan that reads the index alone, and
	// with it the plan, would depend on whether it has come by already.
	if _, err := raw.Exec(`VACUUM ANALYZE`); err != nil {
		t.Fatal(err)
	}
}

// What a hot statement costs must not grow with the tables: each finds its
// rows by an index, and the golden file tells which.
func TestPlans(t *testing.T) {
	const team, name = "team1", "team1/app"
	row := func(i int) digest.Digest { return digest.Digest(fmt.Sprintf("sha256:%064d", i)) }
	present := row(77)
	fresh := image("fresh")
	old := metadata.Upload{ID: "u7", Session: "s"}
	var run *metadata.RetentionRun
	type method struct {
		name string
		run  func(ctx context.Context, tx *metadata.Tx, repository int64) error
	}
	methods := []method{
		{"Blob", func(ctx context.Context, tx *metadata.Tx, r int64) error {
			_, err := tx.Blob(ctx, name, present)
			return err
		}},
		{"ManifestByDigest", func(ctx context.Context, tx *metadata.Tx, r int64) error {
			_, err := tx.ManifestByDigest(ctx, name, present)
			return err
		}},
		{"ManifestByTag", func(ctx context.Context, tx *metadata.Tx, r int64) error {
			_, err := tx.ManifestByTag(ctx, name, "v77")
			return err
		}},
		{"ManifestHeadByDigest", func(ctx context.Context, tx *metadata.Tx, r int64) error {
			_, err := tx.ManifestHeadByDigest(ctx, name, present)
			return err
		}},
		{"ManifestHeadByTag", func(ctx context.Context, tx *metadata.Tx, r int64) error {
			_, err := tx.ManifestHeadByTag(ctx, name, "v77")
			return err
		}},
		{"Access", func(ctx context.Context, tx *metadata.Tx, r int64) error {
			_, err := tx.Access(ctx, 77, []string{name})
			return err
		}},
		{"Access of many", func(ctx context.Context, tx *metadata.Tx, r int64) error {
			_, err := tx.Access(ctx, 77, []string{name, "team2/app", "team3/app", "no/app"})
			return err
		}},
		{"Grounds", func(ctx context.Context, tx *metadata.Tx, r int64) error {
			_, err := tx.Grounds(ctx, 77, name, 10)
			return err
		}},
		{"Holders", func(ctx context.Context, tx *metadata.Tx, r int64) error {
			_, err := tx.Holders(ctx, metadata.HolderFilter{Repository: name, Action: "push", Roles: []string{"member"}, Fresh: time.UnixMicro(1), Limit: 10})
			return err
		}},
		{"PullPatterns", func(ctx context.Context, tx *metadata.Tx, r int64) error {
			_, err := tx.PullPatterns(ctx, 77)
			return err
		}},
		{"AllDenials", func(ctx context.Context, tx *metadata.Tx, r int64) error {
			_, _, err := tx.AllDenials(ctx)
			return err
		}},
		{"Grants of a repository", func(ctx context.Context, tx *metadata.Tx, r int64) error {
			_, err := tx.Grants(ctx, metadata.GrantFilter{Repository: name, Limit: 10})
			return err
		}},
		{"UserGroups", func(ctx context.Context, tx *metadata.Tx, r int64) error {
			_, err := tx.UserGroups(ctx, 77)
			return err
		}},
		{"MemberRole", func(ctx context.Context, tx *metadata.Tx, r int64) error {
			_, err := tx.MemberRole(ctx, team, 77)
			return err
		}},
		{"TokenBySecretHash", func(ctx context.Context, tx *metadata.Tx, r int64) error {
			_, _, err := tx.TokenBySecretHash(ctx, "hash77")
			return err
		}},
		{"TouchToken", func(ctx context.Context, tx *metadata.Tx, r int64) error {
			return tx.TouchToken(ctx, 77, 77, "10.0.0.1")
		}},
		{"TokenBySecretID", func(ctx context.Context, tx *metadata.Tx, r int64) error {
			_, _, err := tx.TokenBySecretID(ctx, 77, 77)
			return err
		}},
		{"Tokens", func(ctx context.Context, tx *metadata.Tx, r int64) error {
			_, err := tx.Tokens(ctx, "user77", "", "", 10)
			return err
		}},
		{"PruneTokenSecrets", func(ctx context.Context, tx *metadata.Tx, r int64) error {
			_, err := tx.PruneTokenSecrets(ctx, time.UnixMicro(100), 10)
			return err
		}},
		{"Record", func(ctx context.Context, tx *metadata.Tx, r int64) error {
			return tx.Record(ctx, metadata.Event{Kind: metadata.ManifestPushed, Actor: by("alice"), Repository: name})
		}},
		{"PruneAudit", func(ctx context.Context, tx *metadata.Tx, r int64) error {
			_, _, _, err := tx.PruneAudit(ctx, time.UnixMicro(0), time.UnixMicro(5000), 10)
			return err
		}},
		{"EachTrustPolicy", func(ctx context.Context, tx *metadata.Tx, r int64) error {
			return tx.EachTrustPolicy(ctx, "https://issuer7", []string{"aud77", "aud17"}, func(metadata.TrustPolicy) bool { return true })
		}},
		{"TrustPolicyByID", func(ctx context.Context, tx *metadata.Tx, r int64) error {
			_, err := tx.TrustPolicyByID(ctx, 77)
			return err
		}},
		{"HasTrustIssuer", func(ctx context.Context, tx *metadata.Tx, r int64) error {
			_, err := tx.HasTrustIssuer(ctx, "https://issuer7")
			return err
		}},
		{"WebSession", func(ctx context.Context, tx *metadata.Tx, r int64) error {
			_, _, err := tx.WebSession(ctx, "hash77")
			return err
		}},
		{"User", func(ctx context.Context, tx *metadata.Tx, r int64) error {
			_, err := tx.User(ctx, "user77")
			return err
		}},
		{"Service", func(ctx context.Context, tx *metadata.Tx, r int64) error {
			_, err := tx.Service(ctx, "service77")
			return err
		}},
		{"UserByID", func(ctx context.Context, tx *metadata.Tx, r int64) error { _, err := tx.UserByID(ctx, 77); return err }},
		{"Maintainers", func(ctx context.Context, tx *metadata.Tx, r int64) error {
			_, err := tx.Maintainers(ctx, team, 3)
			return err
		}},
		{"TagNames", func(ctx context.Context, tx *metadata.Tx, r int64) error {
			_, err := tx.TagNames(ctx, name, "v5", 100)
			return err
		}},
		{"Tags", func(ctx context.Context, tx *metadata.Tx, r int64) error {
			_, err := tx.Tags(ctx, name, "v5", 100)
			return err
		}},
		{"Tag", func(ctx context.Context, tx *metadata.Tx, r int64) error {
			_, err := tx.Tag(ctx, name, "v77")
			return err
		}},
		{"TagHistory", func(ctx context.Context, tx *metadata.Tx, r int64) error {
			_, err := tx.TagHistory(ctx, name, "v77", 0, 10)
			return err
		}},
		{"Referrers", func(ctx context.Context, tx *metadata.Tx, r int64) error {
			_, err := tx.Referrers(ctx, name, row(30), "", "", 100)
			return err
		}},
		{"Repositories of an admin", func(ctx context.Context, tx *metadata.Tx, r int64) error {
			_, err := tx.Repositories(ctx, metadata.RepositoryFilter{Viewer: metadata.Viewer{All: true}, After: "team5", Limit: 100})
			return err
		}},
		{"Repositories of a user", func(ctx context.Context, tx *metadata.Tx, r int64) error {
			_, err := tx.Repositories(ctx, metadata.RepositoryFilter{Viewer: metadata.Viewer{Signed: true, UserID: 77}, Limit: 100})
			return err
		}},
		{"Repositories of a user with grants", func(ctx context.Context, tx *metadata.Tx, r int64) error {
			_, err := tx.Repositories(ctx, metadata.RepositoryFilter{Viewer: metadata.Viewer{
				Signed: true, UserID: 77, Fresh: time.UnixMicro(1), Patterns: []string{"team1/*", "team2/app"}, Denied: []string{"team3/*"},
			}, Limit: 100})
			return err
		}},
		{"Repositories of a team", func(ctx context.Context, tx *metadata.Tx, r int64) error {
			_, err := tx.Repositories(ctx, metadata.RepositoryFilter{Viewer: metadata.Viewer{All: true}, Team: team, Limit: 100})
			return err
		}},
		{"RepositoryNames of a user", func(ctx context.Context, tx *metadata.Tx, r int64) error {
			_, err := tx.RepositoryNames(ctx, metadata.RepositoryFilter{Viewer: metadata.Viewer{Signed: true, UserID: 77}, Limit: 100})
			return err
		}},
		{"RepositoryNames of a robot", func(ctx context.Context, tx *metadata.Tx, r int64) error {
			_, err := tx.RepositoryNames(ctx, metadata.RepositoryFilter{Viewer: metadata.Viewer{Team: team, Glob: "team1/a*"}, Limit: 100})
			return err
		}},
		{"UsageOfRepository", func(ctx context.Context, tx *metadata.Tx, r int64) error {
			_, err := tx.UsageOfRepository(ctx, "team2/app")
			return err
		}},
		{"UsageOfTeam", func(ctx context.Context, tx *metadata.Tx, r int64) error {
			_, err := tx.UsageOfTeam(ctx, "team2", "", 100)
			return err
		}},
		{"BlobLinks", func(ctx context.Context, tx *metadata.Tx, r int64) error {
			_, err := tx.BlobLinks(ctx, present, "", 100)
			return err
		}},
		{"Unheld", func(ctx context.Context, tx *metadata.Tx, r int64) error {
			_, err := tx.Unheld(ctx, metadata.HeldManifest{ID: 30, RepositoryID: r, Digest: row(30), Subject: row(31)})
			return err
		}},
		{"BlobRepositories", func(ctx context.Context, tx *metadata.Tx, r int64) error {
			_, err := tx.BlobRepositories(ctx, present, 3)
			return err
		}},
		{"EnsureRepository", func(ctx context.Context, tx *metadata.Tx, r int64) error {
			_, _, err := tx.EnsureRepository(ctx, "team7/new", metadata.Private, "alice")
			return err
		}},
		{"InsertBlob", func(ctx context.Context, tx *metadata.Tx, r int64) error {
			_, err := tx.InsertBlob(ctx, metadata.Blob{Digest: fresh.Digest, Key: "fresh", Size: 1})
			return err
		}},
		{"PutBlob", func(ctx context.Context, tx *metadata.Tx, r int64) error {
			_, err := tx.PutBlob(ctx, r, metadata.Blob{Digest: digest.FromString("fresher"), Key: "fresher", Size: 1})
			return err
		}},
		{"Link", func(ctx context.Context, tx *metadata.Tx, r int64) error {
			_, err := tx.Link(ctx, r, present)
			return err
		}},
		{"LinkBlob", func(ctx context.Context, tx *metadata.Tx, r int64) error {
			_, _, err := tx.LinkBlob(ctx, r, present)
			return err
		}},
		{"PutManifest", func(ctx context.Context, tx *metadata.Tx, r int64) error {
			_, err := tx.PutManifest(ctx, r, fresh, []digest.Digest{present, row(78)}, []digest.Digest{present}, false)
			return err
		}},
		{"PutTag", func(ctx context.Context, tx *metadata.Tx, r int64) error {
			_, err := tx.PutTag(ctx, r, "new", present, by("alice"))
			return err
		}},
		{"PutTag again", func(ctx context.Context, tx *metadata.Tx, r int64) error {
			_, err := tx.PutTag(ctx, r, "v77", present, by("alice"))
			return err
		}},
		{"RecordRefusal", func(ctx context.Context, tx *metadata.Tx, r int64) error {
			return tx.RecordRefusal(ctx, name, "v77", present, by("alice"))
		}},
		{"DeleteTag", func(ctx context.Context, tx *metadata.Tx, r int64) error {
			_, err := tx.DeleteTag(ctx, name, "v78", by("alice"))
			return err
		}},
		{"DeleteManifest", func(ctx context.Context, tx *metadata.Tx, r int64) error {
			if _, err := tx.PutManifest(ctx, r, image("lone"), nil, nil, false); err != nil {
				return err
			}
			_, err := tx.DeleteManifest(ctx, name, image("lone").Digest, by("alice"))
			return err
		}},
		{"UnlinkBlob", func(ctx context.Context, tx *metadata.Tx, r int64) error {
			return tx.UnlinkBlob(ctx, "team2/app", row(2))
		}},
		{"CreateUpload", func(ctx context.Context, tx *metadata.Tx, r int64) error {
			return tx.CreateUpload(ctx, metadata.Upload{ID: "new"})
		}},
		{"CreateUnlimitedUpload", func(ctx context.Context, tx *metadata.Tx, r int64) error {
			_, err := tx.CreateUnlimitedUpload(ctx, metadata.Upload{ID: "free", Repository: "team1/app", Principal: "user7"}, 3)
			return err
		}},
		{"RoomForUpload", func(ctx context.Context, tx *metadata.Tx, r int64) error {
			return tx.RoomForUpload(ctx, "user7", 1000)
		}},
		{"Upload", func(ctx context.Context, tx *metadata.Tx, r int64) error {
			_, err := tx.Upload(ctx, name, "u77")
			return err
		}},
		{"UploadToClose", func(ctx context.Context, tx *metadata.Tx, r int64) error {
			_, _, err := tx.UploadToClose(ctx, name, "u77", present)
			return err
		}},
		{"AdvanceUpload", func(ctx context.Context, tx *metadata.Tx, r int64) error {
			_, err := tx.AdvanceUpload(ctx, old, old)
			return err
		}},
		{"DeleteUpload", func(ctx context.Context, tx *metadata.Tx, r int64) error {
			_, err := tx.DeleteUpload(ctx, "u77")
			return err
		}},
		{"StaleUploads", func(ctx context.Context, tx *metadata.Tx, r int64) error {
			_, err := tx.StaleUploads(ctx, time.UnixMicro(100), 10)
			return err
		}},
		{"DueGarbage", func(ctx context.Context, tx *metadata.Tx, r int64) error {
			_, err := tx.DueGarbage(ctx, 10)
			return err
		}},
		{"RetentionRun", func(ctx context.Context, tx *metadata.Tx, r int64) error {
			_, err := tx.RetentionRun(ctx, name, nil)
			return err
		}},
		{"DecideRetention", func(ctx context.Context, tx *metadata.Tx, r int64) error {
			_, err := tx.DecideRetention(ctx, run, "v5", metadata.RetentionPage)
			return err
		}},
		{"DecideRetentionBriefly", func(ctx context.Context, tx *metadata.Tx, r int64) error {
			_, err := tx.DecideRetentionBriefly(ctx, run, "v5", metadata.RetentionPage)
			return err
		}},
		{"DeleteByRetention", func(ctx context.Context, tx *metadata.Tx, r int64) error {
			_, err := tx.DeleteByRetention(ctx, run, []metadata.RetentionDecision{{Tag: "v80", Digest: row(80), PushedAt: time.UnixMicro(1), Rule: "few"}})
			return err
		}},
		{"DueRetention", func(ctx context.Context, tx *metadata.Tx, r int64) error {
			_, _, err := tx.DueRetention(ctx)
			return err
		}},
		{"RecordPulls", func(ctx context.Context, tx *metadata.Tx, r int64) error { return tx.RecordPulls(ctx, []int64{77, 78}) }},
		{"DeletedTags", func(ctx context.Context, tx *metadata.Tx, r int64) error {
			_, err := tx.DeletedTags(ctx, name, 0, 100)
			return err
		}},
		{"DeletedManifests", func(ctx context.Context, tx *metadata.Tx, r int64) error {
			_, err := tx.DeletedManifests(ctx, name, 0, 100)
			return err
		}},
		{"Restore", func(ctx context.Context, tx *metadata.Tx, r int64) error {
			_, err := tx.Restore(ctx, name, "d82", "", by("alice"))
			return err
		}},
		{"PushTo", func(ctx context.Context, tx *metadata.Tx, r int64) error {
			_, err := tx.PushTo(ctx, "team9/app", metadata.Private, "alice", metadata.Charge{Bytes: 1}, func(int64) error { return nil })
			return err
		}},
		{"PushTo at the limit", func(ctx context.Context, tx *metadata.Tx, r int64) error {
			_, err := tx.PushTo(ctx, "team2/app", metadata.Private, "alice", metadata.Charge{Unknown: true}, func(int64) error { return nil })
			return err
		}},
		{"ReserveUpload", func(ctx context.Context, tx *metadata.Tx, r int64) error {
			return tx.ReserveUpload(ctx, "u77", "team2", 1)
		}},
		{"FoldQuota", func(ctx context.Context, tx *metadata.Tx, r int64) error {
			_, err := tx.FoldQuota(ctx, "team2")
			return err
		}},
		{"QuotaWork", func(ctx context.Context, tx *metadata.Tx, r int64) error {
			_, err := tx.QuotaWork(ctx, 10)
			return err
		}},
		{"PurgeDeleted", func(ctx context.Context, tx *metadata.Tx, r int64) error {
			_, err := tx.PurgeDeleted(ctx, time.Hour)
			return err
		}},
		{"AcquireLease", func(ctx context.Context, tx *metadata.Tx, r int64) error {
			_, err := tx.AcquireLease(ctx, "gc", "me", time.Minute)
			return err
		}},
	}
	for _, f := range []struct {
		name   string
		filter metadata.AuditFilter
	}{
		{"all", metadata.AuditFilter{}},
		{"since", metadata.AuditFilter{Since: time.UnixMicro(5000), Until: time.UnixMicro(5100)}},
		{"next page", metadata.AuditFilter{Before: metadata.AuditEvent{At: time.UnixMicro(5000), ID: 5000}.Key()}},
		{"principal", metadata.AuditFilter{Principal: "user77"}},
		{"team", metadata.AuditFilter{Team: "team77"}},
		{"repository", metadata.AuditFilter{Repository: "team77/app77"}},
		{"repository, next page", metadata.AuditFilter{Repository: "team77/app77", Before: metadata.AuditEvent{At: time.UnixMicro(5000), ID: 5000}.Key()}},
		{"action", metadata.AuditFilter{Action: "updateUser"}},
		{"pushes", metadata.AuditFilter{Action: string(metadata.ManifestPushed)}},
		{"refused", metadata.AuditFilter{Outcome: metadata.AuditRefused}},
	} {
		f.filter.Limit = 10
		methods = append(methods, method{"AuditEvents of " + f.name, func(ctx context.Context, tx *metadata.Tx, r int64) error {
			_, err := tx.AuditEvents(ctx, f.filter)
			return err
		}})
	}
	// How each engine's plan names a table and the way to it.
	access := map[string]*regexp.Regexp{
		"postgres": regexp.MustCompile(`(?m)(Seq Scan|Index Scan|Index Only Scan|Bitmap Index Scan)(?: Backward)?(?: using (\S+))?(?: on (\S+))?`),
		"sqlite":   regexp.MustCompile(`(?m)^(SCAN|SEARCH) (?:\d+ )?(\S+)(?: USING (?:COVERING )?(INDEX \S+|INTEGER PRIMARY KEY|PRIMARY KEY))?`),
	}
	// Tables that stay small whatever the registry holds, and what is no table.
	small := []string{"leases", "retention_state", "q", "team_quotas", "trust_issuers", "denials", "d", "v", "denial_version", "denied", "mine", "found", "admins", "h", "asked", "a", "CONSTANT"}
	subquery := regexp.MustCompile(`(?m)^(?:CO-ROUTINE|MATERIALIZE) (\S+)`) // SQLite's word for one it scans later
	metadatatest.EachURL(t, func(t *testing.T, url string) {
		e := engine(url)
		db := metadatatest.Open(t, metadata.Options{URL: url})
		load(t, db, url)
		ctx := context.Background()
		var r int64
		view(t, db, func(ctx context.Context, tx *metadata.Tx) error {
			got, err := tx.Repository(ctx, name)
			r = got.ID
			return err
		})
		view(t, db, func(ctx context.Context, tx *metadata.Tx) (err error) {
			run, err = tx.RetentionRun(ctx, name, nil)
			return err
		})
		var golden strings.Builder
		for _, m := range methods {
			var used []string
			err := db.Explain(ctx, func(tx *metadata.Tx) error { return m.run(ctx, tx, r) }, func(query, plan string) {
				if testing.Verbose() {
					t.Logf("%s: %s\n%s", m.name, strings.Join(strings.Fields(query), " "), plan)
				}
				known := slices.Clone(small)
				for _, s := range subquery.FindAllStringSubmatch(plan, -1) {
					known = append(known, s[1])
				}
				for _, found := range access[e].FindAllStringSubmatch(plan, -1) {
					kind, what, on := found[1], found[2], found[3]
					if e == "sqlite" {
						what, on = on, what
					} else if kind == "Bitmap Index Scan" {
						what = on
					}
					full := kind == "Seq Scan" || kind == "SCAN"
					if full && !slices.Contains(known, on) && !strings.HasSuffix(on, "-ROW") {
						t.Errorf("%s reads all of %s:\n%s\n%s", m.name, on, query, plan)
					}
					if !full {
						used = append(used, what)
					}
				}
			})
			var refused *oci.Error
			if err != nil && !errors.As(err, &refused) {
				t.Errorf("%s: %v", m.name, err)
			}
			slices.Sort(used)
			fmt.Fprintf(&golden, "%s: %s\n", m.name, strings.Join(slices.Compact(used), ", "))
		}
		file := "testdata/plans_" + e + ".golden"
		if *updateGolden {
			if err := os.WriteFile(file, []byte(golden.String()), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if golden.String() != string(want) {
			t.Errorf("the indexes that statements use have changed; look at the plans with -v, and run the test with -update when it is meant:\n%s", diff(string(want), golden.String()))
		}
	})
}

// diff names the lines that differ.
func diff(want, got string) string {
	var b strings.Builder
	w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
	for _, line := range w {
		if !slices.Contains(g, line) {
			b.WriteString("- " + line + "\n")
		}
	}
	for _, line := range g {
		if !slices.Contains(w, line) {
			b.WriteString("+ " + line + "\n")
		}
	}
	return b.String()
}
