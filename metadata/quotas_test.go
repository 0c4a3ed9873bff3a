package metadata_test

import (
	"context"
	"testing"

	"berth/metadata"
	"berth/metadata/metadatatest"
)

// What a team has is counted once: the background job and the request that gave
// the quota may both be about to.
func TestCountQuotaOnce(t *testing.T) {
	metadatatest.EachURL(t, func(t *testing.T, url string) {
		db := metadatatest.Open(t, metadata.Options{URL: url})
		raw := shell(t, url, true)
		if _, err := raw.Exec(`INSERT INTO teams (name, created_at, updated_at) VALUES ('core', 1, 1)`); err != nil {
			t.Fatal(err)
		}
		tags := int64(10)
		update(t, db, func(ctx context.Context, tx *metadata.Tx) error {
			return tx.SetQuota(ctx, "core", metadata.Limits{Tags: &tags}, "alice")
		})
		count := func(want int64) {
			t.Helper()
			update(t, db, func(ctx context.Context, tx *metadata.Tx) error { return tx.CountQuota(ctx, "core") })
			view(t, db, func(ctx context.Context, tx *metadata.Tx) error {
				q, err := tx.Quota(ctx, "core")
				if !q.Counted || q.Tags != want {
					t.Errorf("counted %v, %d tags, want %d", q.Counted, q.Tags, want)
				}
				return err
			})
		}
		count(0)
		if _, err := raw.Exec(`UPDATE team_quotas SET used_tags = 7`); err != nil {
			t.Fatal(err)
		}
		count(7)
	})
}
