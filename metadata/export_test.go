package metadata

import (
	"context"
	"io/fs"
	"runtime"

	"berth/sqldb"
)

// RemembersReads says whether there is a read cache on this system.
const RemembersReads = runtime.GOOS == "linux"

// ReadCacheHits counts the reads that were answered from memory.
func (db *DB) ReadCacheHits() int64 { return db.CacheStats().Hits }

// ReadCacheBytes is what the read cache holds.
func (db *DB) ReadCacheBytes() int { return db.CacheStats().Bytes }

// Exec runs any statement, for tests.
func (tx *Tx) Exec(ctx context.Context, query string, args ...any) error {
	_, err := tx.exec(ctx, query, args...)
	return err
}

// Value reads one value of a statement, for tests.
func (tx *Tx) Value(ctx context.Context, dest any, query string, args ...any) error {
	return tx.row(ctx, query, args...).Scan(dest)
}

// SetMigrations lets a test be an older or a newer program.
func (db *DB) SetMigrations(files fs.FS) { db.files = files }

// Migrations are the files of this program.
func (db *DB) Migrations() fs.FS { return db.files }

// Explain is [sqldb.DB.Explain].
func (db *DB) Explain(ctx context.Context, fn func(*Tx) error, record func(query, plan string)) error {
	return db.database.Explain(ctx, rows(fn), record)
}

// Tables are those whose rows a copy has.
func (db *DB) Tables(ctx context.Context) ([]sqldb.Table, error) {
	return db.database.Tables(ctx, copyRules)
}
