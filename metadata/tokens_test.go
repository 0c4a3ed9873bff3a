package metadata_test

import (
	"context"
	"io/fs"
	"testing"
	"testing/fstest"
	"time"

	"berth/metadata"
	"berth/metadata/metadatatest"
	"berth/migrations"
	"berth/oci"
)

// The migration that gives tokens several secrets keeps those that are there: what
// they may, their secret, and on SQLite, whose table is made anew, the row ids that
// bearer tokens name, those of deleted tokens included.
func TestMigrateTokens(t *testing.T) {
	metadatatest.EachEmptyURL(t, func(t *testing.T, url string) {
		var all fs.FS = migrations.SQLite
		if engine(url) == "postgres" {
			all = migrations.Postgres
		}
		before := fstest.MapFS{}
		files, err := fs.Sub(all, engine(url))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"0001_init.sql", "0002_gc.sql", "0003_people.sql"} {
			text, err := fs.ReadFile(files, name)
			if err != nil {
				t.Fatal(err)
			}
			before[name] = &fstest.MapFile{Data: text}
		}
		db := open(t, url)
		db.SetMigrations(before)
		if _, err := db.Migrate(t.Context()); err != nil {
			t.Fatal(err)
		}
		raw := shell(t, url, true)
		for _, q := range []string{
			`INSERT INTO users (name, role, created_at, updated_at) VALUES ('alice', 'user', 1, 1)`,
			`INSERT INTO teams (name, created_at, updated_at) VALUES ('core', 1, 1)`,
			`INSERT INTO tokens (kind, name, user_id, secret_hash, repositories, actions, expires_at, last_used_at, created_at, created_by)
			 SELECT 'personal', 'laptop', id, 'hash1', 'core/*', 'pull,push', 99, 7, 5, 'alice' FROM users`,
			`INSERT INTO tokens (kind, name, team_id, secret_hash, actions, created_at, created_by) SELECT 'robot', 'ci', id, 'hash2', 'pull', 6, 'root' FROM teams`,
			`INSERT INTO tokens (kind, name, team_id, secret_hash, actions, created_at, created_by) SELECT 'robot', 'gone', id, 'hash3', 'pull', 6, 'root' FROM teams`,
			`DELETE FROM tokens WHERE name = 'gone'`,
		} {
			if _, err := raw.Exec(q); err != nil {
				t.Fatalf("%s: %v", q, err)
			}
		}
		var gone int64 = 3 // ids count from 1
		db.SetMigrations(files)
		if _, err := db.Migrate(t.Context()); err != nil {
			t.Fatal(err)
		}
		view(t, db, func(ctx context.Context, tx *metadata.Tx) error {
			token, _, err := tx.TokenBySecretHash(ctx, "hash1")
			if err != nil {
				return err
			}
			if token.ID != 1 || token.User != "alice" || token.Name != "laptop" || token.Repositories != "core/*" || len(token.Actions) != 2 ||
				token.ExpiresAt == nil || token.ExpiresAt.UnixMicro() != 99 || token.LastUsedAt == nil || token.LastUsedAt.UnixMicro() != 7 ||
				token.CreatedAt.UnixMicro() != 5 || token.Tags != "" || token.CIDRs != nil || len(token.Secrets) != 1 || token.Secrets[0].ExpiresAt != nil {
				t.Errorf("laptop is now %+v", token)
			}
			robot, _, err := tx.TokenBySecretHash(ctx, "hash2")
			if robot.ID != 2 || robot.Team != "core" || robot.Kind != metadata.RobotToken {
				t.Errorf("the robot is now %+v", robot)
			}
			return err
		})
		update(t, db, func(ctx context.Context, tx *metadata.Tx) error {
			made, err := tx.CreateToken(ctx, metadata.Token{Kind: metadata.DeployToken, Name: "prod", Team: "core", Repositories: "core/*", Actions: []string{"pull"}}, "hash4")
			if made.ID <= gone {
				t.Errorf("the new token has the id %d of one that was deleted", made.ID)
			}
			return err
		})
		// The rules of the table hold as before.
		for _, q := range []string{
			`INSERT INTO tokens (kind, name, team_id, actions, created_at, created_by) SELECT 'personal', 'x', id, 'pull', 6, 'root' FROM teams`,
			`INSERT INTO tokens (kind, name, user_id, actions, created_at, created_by) SELECT 'deploy', 'x', id, 'pull', 6, 'root' FROM users`,
			`INSERT INTO tokens (kind, name, user_id, actions, created_at, created_by) SELECT 'other', 'x', id, 'pull', 6, 'root' FROM users`,
			`INSERT INTO tokens (kind, name, team_id, actions, created_at, created_by) SELECT 'deploy', 'ci', id, 'pull', 6, 'root' FROM teams`,
			`INSERT INTO token_secrets (token_id, secret_hash, created_at) VALUES (1, 'hash2', 1)`,
			`INSERT INTO token_secrets (token_id, secret_hash, created_at) VALUES (77, 'hash77', 1)`,
		} {
			if _, err := raw.Exec(q); err == nil {
				t.Errorf("taken: %s", q)
			}
		}
		if _, err := raw.Exec(`DELETE FROM users`); err != nil {
			t.Fatal(err)
		}
		ctx := t.Context()
		wantErr(t, db.View(ctx, func(tx *metadata.Tx) error { _, _, err := tx.TokenBySecretHash(ctx, "hash1"); return err }), oci.ErrNotFound)
	})
}

// A rotated token has two secrets until the overlap is over, then one.
func TestRotateToken(t *testing.T) {
	metadatatest.EachURL(t, func(t *testing.T, url string) {
		var clock metadatatest.Clock
		db := metadatatest.Open(t, metadata.Options{URL: url, Clock: clock.Now})
		ctx := t.Context()
		update(t, db, func(ctx context.Context, tx *metadata.Tx) error {
			if _, err := tx.CreateTeam(ctx, "core", ""); err != nil {
				return err
			}
			_, err := tx.CreateToken(ctx, metadata.Token{Kind: metadata.RobotToken, Name: "ci", Team: "core", Repositories: "*", Actions: []string{"pull"}}, "one")
			return err
		})
		rotate := func(hash string, overlap time.Duration) (metadata.Token, error) {
			var token metadata.Token
			err := db.Update(ctx, func(tx *metadata.Tx) (err error) {
				token, err = tx.RotateToken(ctx, "", "core", "ci", hash, overlap)
				return err
			})
			return token, err
		}
		end := func(hash string) (at *time.Time) {
			t.Helper()
			view(t, db, func(ctx context.Context, tx *metadata.Tx) error {
				token, _, err := tx.TokenBySecretHash(ctx, hash)
				if err == nil {
					at = token.Secrets[0].ExpiresAt
				}
				return err
			})
			return at
		}
		start := clock.Now()
		token, err := rotate("two", 24*time.Hour)
		if err != nil || len(token.Secrets) != 2 || token.Secrets[1].ExpiresAt != nil || token.Secrets[0].ExpiresAt == nil {
			t.Fatalf("%+v %v", token, err)
		}
		if at := end("one"); at == nil || !at.Equal(start.Add(24*time.Hour)) {
			t.Errorf("the old secret ends at %v", at)
		}
		if at := end("two"); at != nil {
			t.Errorf("the new secret ends at %v", at)
		}
		// Again, with a longer overlap: the first one ends when it was to end.
		clock.Advance(time.Hour)
		if token, err = rotate("three", 48*time.Hour); err != nil || len(token.Secrets) != 3 {
			t.Fatalf("%+v %v", token, err)
		}
		if at := end("one"); at == nil || !at.Equal(start.Add(24*time.Hour)) {
			t.Errorf("the first secret ends at %v now", at)
		}
		// Without an overlap all old ones are gone at once.
		if token, err = rotate("four", 0); err != nil || len(token.Secrets) != 1 {
			t.Fatalf("%+v %v", token, err)
		}
		for _, hash := range []string{"one", "two", "three"} {
			wantErr(t, db.View(ctx, func(tx *metadata.Tx) error { _, _, err := tx.TokenBySecretHash(ctx, hash); return err }), oci.ErrNotFound)
		}
		// How many hold at a time is bounded.
		for i := range 9 {
			if _, err := rotate("many"+string(rune('a'+i)), time.Hour); err != nil {
				t.Fatal(err)
			}
		}
		_, err = rotate("too many", time.Hour)
		wantErr(t, err, oci.ErrConflict)
		update(t, db, func(ctx context.Context, tx *metadata.Tx) error {
			_, err := tx.CreateToken(ctx, metadata.Token{Kind: metadata.RobotToken, Name: "other", Team: "core", Repositories: "*", Actions: []string{"pull"}}, "other's")
			return err
		})
		_, err = rotate("other's", 0)
		wantErr(t, err, oci.ErrConflict)
		clock.Advance(2 * time.Hour)
		update(t, db, func(ctx context.Context, tx *metadata.Tx) error {
			n, err := tx.PruneTokenSecrets(ctx, clock.Now(), 5)
			if n != 5 {
				t.Errorf("%d secrets pruned, want 5", n)
			}
			return err
		})
		update(t, db, func(ctx context.Context, tx *metadata.Tx) error {
			n, err := tx.PruneTokenSecrets(ctx, clock.Now(), 5)
			if n != 4 {
				t.Errorf("%d secrets pruned, want 4", n)
			}
			return err
		})
		if err := db.Update(ctx, func(tx *metadata.Tx) error {
			_, err := tx.RotateToken(ctx, "", "core", "nope", "x", 0)
			return err
		}); err == nil {
			t.Error("a token that is not there was rotated")
		}
	})
}
