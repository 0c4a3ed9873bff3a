package metadata

import (
	"context"
	"io/fs"
)

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
