package metadata_test

import (
	"context"
	"regexp"
	"strings"
	"testing"
	"time"

	"berth/metadata"
	"berth/metadata/metadatatest"
)

// A list must not walk over all that somebody may not see: here nearly everything
// belongs to one team, which is what statistics know of every team, and the user is in none.
func TestHiddenRepositories(t *testing.T) {
	const hidden = 20_000
	// How a plan names the ways to the table: by visibility and by team only, the latter with
	// the team as a condition.
	access := map[string]*regexp.Regexp{
		"postgres": regexp.MustCompile(`Seq Scan on repositories|using repositories_\w*(?:key|pkey) on repositories`),
		"sqlite":   regexp.MustCompile(`SCAN r USING|sqlite_autoindex_repositories`),
	}
	metadatatest.EachURL(t, func(t *testing.T, url string) {
		db := metadatatest.Open(t, metadata.Options{URL: url})
		raw := shell(t, url, true)
		for _, q := range []string{
			`INSERT INTO users (name, role, created_at, updated_at) VALUES ('guest', 'user', 1, 1)`,
			`INSERT INTO teams (name, created_at, updated_at) VALUES ('big', 1, 1)`,
			`INSERT INTO repositories (name, team, visibility, created_at, created_by)
			 SELECT 'big/' || i, 'big', CASE WHEN i % 5000 = 0 THEN 'public' ELSE 'private' END, 1, 'x'
			   FROM (WITH RECURSIVE s (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM s WHERE i < 20000) SELECT i FROM s) s`,
		} {
			if _, err := raw.Exec(q); err != nil {
				t.Fatalf("%s: %v", q, err)
			}
		}
		if engine(url) == "postgres" {
			if _, err := raw.Exec(`ANALYZE`); err != nil {
				t.Fatal(err)
			}
		}
		for who, viewer := range map[string]metadata.Viewer{
			"a user of no team":           {Signed: true, UserID: 1},
			"one whose provider was seen": {Signed: true, UserID: 1, Fresh: time.UnixMicro(1)},
			"nobody in particular":        {},
			"a robot for few":             {Team: "big", Glob: "big/1999?"},
		} {
			want := hidden / 5000 // the public ones
			if viewer.Glob != "" {
				want = 10
			}
			err := db.Explain(t.Context(), func(tx *metadata.Tx) error {
				names, err := tx.RepositoryNames(context.Background(), metadata.RepositoryFilter{Viewer: viewer, Limit: 100})
				if len(names) != want {
					t.Errorf("%s sees %d repositories, want %d", who, len(names), want)
				}
				return err
			}, func(query, plan string) {
				if found := access[engine(url)].FindString(plan); found != "" {
					t.Errorf("for %s the list walks over what is hidden: %s\n%s\n%s", who, found, strings.Join(strings.Fields(query), " "), plan)
				}
			})
			if err != nil {
				t.Errorf("%s: %v", who, err)
			}
		}
	})
}
