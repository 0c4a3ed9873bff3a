package sqldb

import (
	"context"
	"database/sql"
	"fmt"
	"io/fs"
	"sort"
	"strconv"
	"strings"
	"time"
)

// migrationLock is the key of the Postgres advisory lock: "berth" in ASCII.
const migrationLock int64 = 0x6265727468

// migrationLockWait bounds how long a starting replica waits for another one
// that is migrating.
const migrationLockWait = 5 * time.Minute

// migrationsTable is the one table that this package makes and knows.
const migrationsTable = "schema_migrations"

type migration struct {
	name string
	text string
}

// migrations lists the files; the n-th has the number n+1.
func migrations(files fs.FS) ([]migration, error) {
	names, err := fs.Glob(files, "*.sql")
	if err != nil {
		return nil, err
	}
	sort.Strings(names)
	var all []migration
	for i, name := range names {
		if number, err := strconv.Atoi(strings.SplitN(name, "_", 2)[0]); err != nil || number != i+1 {
			return nil, fmt.Errorf("the migration %s is out of sequence", name)
		}
		text, err := fs.ReadFile(files, name)
		if err != nil {
			return nil, err
		}
		all = append(all, migration{name, string(text)})
	}
	return all, nil
}

// SchemaVersion gives the number of the last migration that was applied (0 for
// an empty database) and the one that the files lead to.
func (db *DB) SchemaVersion(ctx context.Context, files fs.FS) (have, want int, err error) {
	all, err := migrations(files)
	if err != nil {
		return 0, 0, err
	}
	have, err = schemaVersion(ctx, db.reads, db.Engine())
	return have, len(all), db.classify(ctx, err)
}

func schemaVersion(ctx context.Context, q querier, engine string) (int, error) {
	exists := `SELECT EXISTS (SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'schema_migrations')`
	if engine == "postgres" {
		// Not to_regclass, which asks a cache: that does not hear of what another replica has made while
		// this transaction waited for the lock.
		exists = `SELECT EXISTS (SELECT 1 FROM pg_catalog.pg_class WHERE relname = 'schema_migrations' AND pg_table_is_visible(oid))`
	}
	var there bool
	if err := q.QueryRowContext(ctx, exists).Scan(&there); err != nil || !there {
		return 0, err
	}
	var version int
	err := q.QueryRowContext(ctx, `SELECT COALESCE(MAX(number), 0) FROM schema_migrations`).Scan(&version)
	return version, err
}

// Migrate brings the schema to what the files of this engine lead to and returns the names
// of the migrations that it applied. The files are NNNN_name.sql, from 0001 and without a gap; each is one
// transaction. Replicas that start together do it one after the other. A schema that is newer than
// the files is refused.
func (db *DB) Migrate(ctx context.Context, files fs.FS) ([]string, error) {
	all, err := migrations(files)
	if err != nil {
		return nil, err
	}
	var conn *sql.Conn
	begin := `BEGIN IMMEDIATE`
	if db.writer != nil {
		conn, err = db.writer.migrationConn(ctx)
	} else {
		// The lock is one of the transaction, for a pooler gives each another session.
		begin = `BEGIN; SET LOCAL statement_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0;
			SET LOCAL standard_conforming_strings = on; SET LOCAL lock_timeout = '` + milliseconds(migrationLockWait) + `';
			SELECT pg_advisory_xact_lock(` + strconv.FormatInt(migrationLock, 10) + `); SET LOCAL lock_timeout = 0`
		conn, err = db.reads.Conn(ctx)
	}
	if err != nil {
		return nil, db.classify(ctx, err)
	}
	defer conn.Close()
	var applied []string
	for {
		name, err := db.applyNext(ctx, conn, begin, all)
		if err != nil {
			return applied, db.classify(ctx, err)
		}
		if name == "" {
			return applied, nil
		}
		applied = append(applied, name)
	}
}

// applyNext applies one migration in a transaction. Its name is empty when
// there is none left.
func (db *DB) applyNext(ctx context.Context, conn *sql.Conn, begin string, all []migration) (name string, err error) {
	defer func() {
		if err != nil || name == "" {
			// It may not have begun.
			if _, rollback := conn.ExecContext(context.WithoutCancel(ctx), `ROLLBACK`); err == nil {
				err = rollback
			}
		}
	}()
	if _, err := conn.ExecContext(ctx, begin); err != nil {
		if db.dialect.IsLockTimeout(err) {
			err = fmt.Errorf("another replica has been migrating the database for %s: look at its log, then start again: %w", migrationLockWait, err)
		}
		return "", err
	}
	have, err := schemaVersion(ctx, conn, db.Engine())
	if err != nil {
		return "", err
	}
	if have > len(all) {
		return "", fmt.Errorf("the database has schema version %d and this program knows %d: start a newer berth, or restore a backup", have, len(all))
	}
	if have == len(all) {
		return "", nil
	}
	m := all[have]
	if have == 0 {
		if _, err := conn.ExecContext(ctx, `CREATE TABLE schema_migrations (
			number INTEGER PRIMARY KEY, name TEXT NOT NULL, applied_at BIGINT NOT NULL)`); err != nil {
			return "", err
		}
	}
	if _, err := conn.ExecContext(ctx, m.text); err != nil {
		return "", fmt.Errorf("migration %s: %w", m.name, err)
	}
	if _, err := conn.ExecContext(ctx, `INSERT INTO schema_migrations (number, name, applied_at) VALUES ($1, $2, $3)`,
		have+1, m.name, db.clock().UnixMicro()); err != nil {
		return "", err
	}
	if _, err := conn.ExecContext(ctx, `COMMIT`); err != nil {
		return "", err
	}
	return m.name, nil
}
