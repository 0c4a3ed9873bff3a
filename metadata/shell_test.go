package metadata_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"modernc.org/sqlite"

	"berth/metadata"
	"berth/metadata/metadatatest"
	"berth/oci"
)

// refusal is the code of a database's refusal, or the error's text.
func refusal(err error) string {
	var pg *pgconn.PgError
	var lite *sqlite.Error
	switch {
	case err == nil:
		return "none"
	case errors.As(err, &pg):
		return pg.Code
	case errors.As(err, &lite):
		return fmt.Sprint(lite.Code())
	}
	return err.Error()
}

// Whoever has a SQL shell meets the same refusals as a pusher.
func TestShellRefusals(t *testing.T) {
	const policy, foreignKey = "policy", "foreign key"
	codes := map[string]map[string]string{
		"postgres": {policy: "BT001", foreignKey: "23503"},
		"sqlite":   {policy: "1811", foreignKey: "787"},
	}
	cases := []struct {
		name, engine, sql string // engine "" is both
		want              string // of SQLite without foreign keys: always policy, where the case is of both
	}{
		{name: "move immutable", sql: `UPDATE tags SET digest = '$two' WHERE name = '1.0'`, want: policy},
		{name: "move immutable with an actor", sql: `UPDATE tags SET digest = '$two', updated_by = 'x', removed_by = 'x' WHERE name = '1.0'`, want: policy},
		{name: "move all", sql: `UPDATE tags SET digest = '$two'`, want: policy},
		{name: "move sealed", sql: `UPDATE tags SET digest = '$two' WHERE name = 'S'`, want: policy},
		{name: "unseal", sql: `UPDATE tags SET sealed = FALSE WHERE name = 'S'`, want: policy},
		{name: "unseal and move", sql: `UPDATE tags SET sealed = FALSE, digest = '$two' WHERE name = 'S'`, want: policy},
		{name: "rename", sql: `UPDATE tags SET name = '2.0' WHERE name = '1.0'`, want: policy},
		{name: "rename mutable over immutable", sql: `UPDATE tags SET name = '1.0' WHERE name = 'latest'`, want: policy},
		{name: "give away", sql: `UPDATE tags SET repository_id = $other WHERE name = '1.0'`, want: policy},
		{name: "delete without a name", sql: `DELETE FROM tags WHERE name = '1.0'`, want: policy},
		{name: "delete sealed", sql: `DELETE FROM tags WHERE name = 'S'`, want: policy},
		{name: "delete all", sql: `DELETE FROM tags`, want: policy},
		{name: "upsert", sql: `INSERT INTO tags (repository_id, name, digest, created_at, updated_at, updated_by) VALUES ($repo, '1.0', '$two', 1, 1, 'x')
			ON CONFLICT (repository_id, name) DO UPDATE SET digest = excluded.digest`, want: policy},
		{name: "delete the manifest", sql: `DELETE FROM manifests WHERE digest = '$one'`, want: foreignKey},
		{name: "delete the repository", sql: `DELETE FROM repositories WHERE id = $repo`, want: foreignKey},
		{name: "change the manifest", sql: `UPDATE manifests SET payload = 'x' WHERE digest = '$one'`, want: policy},
		{name: "change the manifest's digest", sql: `UPDATE manifests SET digest = 'x' WHERE digest = '$one'`, want: policy},
		{name: "rename the repository", sql: `UPDATE repositories SET name = 'team/old' WHERE id = $repo`, want: policy},
		{name: "history: change", sql: `UPDATE tag_history SET actor = 'somebody else'`, want: policy},
		{name: "history: delete", sql: `DELETE FROM tag_history`, want: policy},

		{name: "update or replace", engine: "sqlite", sql: `UPDATE OR REPLACE tags SET name = '1.0' WHERE name = 'latest'`, want: policy},
		{name: "insert or replace", engine: "sqlite", sql: `INSERT OR REPLACE INTO tags (repository_id, name, digest, created_at, updated_at, updated_by) VALUES ($repo, '1.0', '$two', 1, 1, 'x')`, want: policy},
		{name: "replace, same digest, unsealed", engine: "sqlite", sql: `REPLACE INTO tags (repository_id, name, digest, sealed, created_at, updated_at, updated_by) VALUES ($repo, 'S', '$one', FALSE, 1, 1, 'x')`, want: policy},
		{name: "replace the repository", engine: "sqlite", sql: `REPLACE INTO repositories (name, team, visibility, created_at, created_by) VALUES ('team/app', 'team', 'public', 1, 'x')`, want: policy},
		{name: "replace the repository's id", engine: "sqlite", sql: `REPLACE INTO repositories (id, name, team, visibility, created_at, created_by) VALUES ($repo, 'team/new', 'team', 'public', 1, 'x')`, want: policy},
		{name: "history: replace", engine: "sqlite", sql: `INSERT OR REPLACE INTO tag_history (id, repository, tag, action, digest, actor, at) SELECT id, repository, tag, action, digest, 'x', at FROM tag_history`, want: policy},
		{name: "history: update or replace", engine: "sqlite", sql: `UPDATE OR REPLACE tag_history SET id = 1`, want: policy},
		{name: "truncate", engine: "postgres", sql: `TRUNCATE tags`, want: policy},
		{name: "truncate cascade", engine: "postgres", sql: `TRUNCATE repositories CASCADE`, want: policy},
		{name: "history: truncate", engine: "postgres", sql: `TRUNCATE tag_history`, want: policy},
		{name: "merge", engine: "postgres", sql: `MERGE INTO tags t USING (SELECT '$two' AS d) s ON t.name = '1.0' WHEN MATCHED THEN UPDATE SET digest = s.d`, want: policy},
	}
	metadatatest.EachURL(t, func(t *testing.T, url string) {
		db := metadatatest.Open(t, metadata.Options{URL: url})
		r, other := repo(t, db, "team/app"), repo(t, db, "team/other")
		one, two := manifest(t, db, r, "one"), manifest(t, db, r, "two")
		manifest(t, db, other, "one")
		tag(t, db, r, "1.0", one, "alice")
		tag(t, db, r, "S", one, "alice")
		tag(t, db, r, "latest", one, "alice")
		e := engine(url)
		raw := shell(t, url, true)
		if _, err := raw.Exec(`UPDATE tags SET sealed = TRUE WHERE name = 'S'`); err != nil {
			t.Fatal(err)
		}
		dump := func() (lines []string) {
			for _, q := range []string{
				`SELECT name || ' ' || digest || ' ' || CASE WHEN sealed THEN 'sealed' ELSE '' END || updated_by FROM tags`,
				`SELECT repository || ' ' || tag || ' ' || action || ' ' || digest || ' ' || actor FROM tag_history`,
				`SELECT name FROM repositories`, `SELECT digest FROM manifests WHERE length(payload) = 3`,
			} {
				rows, err := raw.Query(q)
				if err != nil {
					t.Fatal(err)
				}
				for rows.Next() {
					var s string
					if err := rows.Scan(&s); err != nil {
						t.Fatal(err)
					}
					lines = append(lines, s)
				}
				rows.Close()
			}
			slices.Sort(lines)
			return lines
		}
		before := dump()
		if len(before) != 3+3+2+3 {
			t.Fatalf("%d rows to begin with: %q", len(before), before)
		}
		fill := strings.NewReplacer("$one", one.String(), "$two", two.String(), "$repo", fmt.Sprint(r), "$other", fmt.Sprint(other))
		for _, foreignKeys := range []bool{true, false} {
			if e == "postgres" && !foreignKeys {
				continue
			}
			raw := shell(t, url, foreignKeys)
			for _, c := range cases {
				if c.engine != "" && c.engine != e {
					continue
				}
				t.Run(fmt.Sprintf("%s/foreign keys %t", c.name, foreignKeys), func(t *testing.T) {
					_, err := raw.Exec(fill.Replace(c.sql))
					got := refusal(err)
					if got != codes[e][c.want] && got != codes[e][policy] {
						t.Errorf("got %v, want the refusal %s", err, codes[e][c.want])
					}
					if after := dump(); !slices.Equal(after, before) {
						t.Errorf("rows changed:\nbefore %q\nafter  %q", before, after)
					}
				})
			}
		}
		// What the policy allows, a shell may do too, and it is on record.
		for _, q := range []string{
			`UPDATE tags SET digest = '$two', updated_by = 'shell' WHERE name = 'latest'`,
			`DELETE FROM tags WHERE name = 'latest'`,
			`UPDATE tags SET removed_by = 'shell' WHERE name = '1.0'`,
			`DELETE FROM tags WHERE name = '1.0'`,
		} {
			if _, err := raw.Exec(fill.Replace(q)); err != nil {
				t.Errorf("%s: %v", q, err)
			}
		}
		latest := history(t, db, "team/app", "latest")
		if len(latest) != 3 || latest[1] != "move shell" || !strings.HasPrefix(latest[2], "delete sql") {
			t.Errorf("history of latest: %q", latest)
		}
		if got, want := history(t, db, "team/app", "1.0"), []string{"create alice", "delete shell"}; !slices.Equal(got, want) {
			t.Errorf("history of 1.0: %q, want %q", got, want)
		}
	})
}

// A shell seals by changing the policy alone; softening it through the
// program keeps what was sealed meanwhile.
func TestShellPolicySeals(t *testing.T) {
	metadatatest.EachURL(t, func(t *testing.T, url string) {
		db := metadatatest.Open(t, metadata.Options{URL: url})
		r := repo(t, db, "team/app")
		one, two := manifest(t, db, r, "one"), manifest(t, db, r, "two")
		tag(t, db, r, "1.0", one, "alice")
		if _, err := shell(t, url, true).Exec(`UPDATE tag_policies SET mode = 'sealed' WHERE id = 1`); err != nil {
			t.Fatal(err)
		}
		update(t, db, func(ctx context.Context, tx *metadata.Tx) error {
			return tx.SetRepositoryTagPolicy(ctx, "team/app", &metadata.TagPolicy{Mode: metadata.Mutable})
		})
		_, err := putTag(db, r, "1.0", two, "bob")
		wantErr(t, err, oci.ErrTagImmutable)
		tag(t, db, r, "2.0", one, "alice")
		tag(t, db, r, "2.0", two, "bob")
	})
}

// A tag that a shell makes under a sealing policy is sealed like any other.
func TestShellInsertIsSealed(t *testing.T) {
	metadatatest.EachURL(t, func(t *testing.T, url string) {
		db := metadatatest.Open(t, metadata.Options{URL: url})
		r := repo(t, db, "team/app")
		d := manifest(t, db, r, "one")
		update(t, db, func(ctx context.Context, tx *metadata.Tx) error {
			return tx.SetInstanceTagPolicy(ctx, metadata.TagPolicy{Mode: metadata.Sealed})
		})
		raw := shell(t, url, true)
		if _, err := raw.Exec(`INSERT INTO tags (repository_id, name, digest, sealed, created_at, updated_at, updated_by) VALUES ($1, '1.0', $2, FALSE, 1, 1, 'shell')`, r, d.String()); err != nil {
			t.Fatal(err)
		}
		var sealed bool
		if err := raw.QueryRow(`SELECT sealed FROM tags`).Scan(&sealed); err != nil || !sealed {
			t.Errorf("sealed %t, %v", sealed, err)
		}
		if got := history(t, db, "team/app", "1.0"); !slices.Equal(got, []string{"create shell"}) {
			t.Errorf("history %q", got)
		}
	})
}
