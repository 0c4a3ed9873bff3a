// Package metadata owns every fact of the registry: names, tags, links, sessions, people and their
// rights. All rows are written and read here, with one SQL text for Postgres and SQLite; how
// statements come to the database, and what differs between the engines, is package sqldb's.
//
// A [DB] hands out a [Tx] for reading or writing; the methods of Tx stand in one file per noun: tags.go, users.go.
// The exported ones are the only way to the rows: SQL does not leave this package. Start with tags.go, where the
// database decides who wins. The schema is in package migrations.
package metadata

import (
	"context"
	"database/sql"
	"errors"
	"io/fs"
	"slices"
	"strings"
	"time"

	"berth/migrations"
	"berth/oci"
	"berth/sqldb"
)

// Options says where the database is.
type Options = sqldb.Options

// ErrNoDatabase is [sqldb.ErrNoDatabase].
var ErrNoDatabase = sqldb.ErrNoDatabase

// DB is the database of a registry, on either engine. Its methods may be called concurrently. What is about
// connections rather than rows, such as Ping, Rest and Close, is that of [sqldb.DB].
type DB struct {
	*database
	files fs.FS // the migrations of this engine
}

// database is a name for the embedded one that others do not have: its transactions run any statement.
type database = sqldb.DB

// Open connects to the database, see [sqldb.Open]. It does not migrate; see Migrate.
func Open(ctx context.Context, o Options) (*DB, error) {
	db, err := sqldb.Open(ctx, o)
	if err != nil {
		return nil, err
	}
	files, err := fs.Sub(migrations.SQLite, "sqlite")
	if db.Engine() == "postgres" {
		files, err = fs.Sub(migrations.Postgres, "postgres")
	}
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return &DB{db, files}, nil
}

// Migrate brings the schema to what this program wants and returns the names
// of the migrations that it applied. Replicas that start together do it one
// after the other. A schema that is newer than the program is refused.
func (db *DB) Migrate(ctx context.Context) ([]string, error) {
	return db.database.Migrate(ctx, db.files)
}

// SchemaVersion gives the number of the last migration that was applied (0 for
// an empty database) and the one that this program wants.
func (db *DB) SchemaVersion(ctx context.Context) (have, want int, err error) {
	return db.database.SchemaVersion(ctx, db.files)
}

// Writable reports whether the database takes writes: one whose disk is full answers but takes none, and so does
// a Postgres that follows another one, or that was set to read-only. It writes one row.
func (db *DB) Writable(ctx context.Context) error {
	if err := db.TakesWrites(ctx); err != nil {
		return err
	}
	return db.StatementRelaxed(ctx, func(tx *Tx) error {
		_, err := tx.exec(ctx, `
			INSERT INTO leases (name, holder, expires_at) VALUES ('write-check', '', $1)
			    ON CONFLICT (name) DO UPDATE SET expires_at = EXCLUDED.expires_at`, micros(tx.now))
		return err
	})
}

// View runs reads without a transaction, see [sqldb.DB.View].
func (db *DB) View(ctx context.Context, fn func(*Tx) error) error {
	return db.database.View(ctx, rows(fn))
}

// Snapshot runs several reads that all see the same state, see [sqldb.DB.Snapshot].
func (db *DB) Snapshot(ctx context.Context, fn func(*Tx) error) error {
	return db.database.Snapshot(ctx, rows(fn))
}

// Update runs one durable transaction, see [sqldb.DB.Update]: fn may run several times, and has to be short.
func (db *DB) Update(ctx context.Context, fn func(*Tx) error) error {
	return db.database.Update(ctx, rows(fn))
}

// UpdateRelaxed is Update for facts that may be lost in a power failure, see [sqldb.DB.UpdateRelaxed].
func (db *DB) UpdateRelaxed(ctx context.Context, fn func(*Tx) error) error {
	return db.database.UpdateRelaxed(ctx, rows(fn))
}

// StatementRelaxed is UpdateRelaxed for a function that runs one statement at most, see [sqldb.DB.StatementRelaxed].
func (db *DB) StatementRelaxed(ctx context.Context, fn func(*Tx) error) error {
	return db.database.StatementRelaxed(ctx, rows(fn))
}

// Tx is the way to the rows: single statements (View) or a transaction (the
// others). It must not be used after the function that it was given to has
// returned, nor from another goroutine.
type Tx struct {
	sql *sqldb.Tx
	now time.Time // sql's
}

// rows gives what runs statements the methods of this package.
func rows(fn func(*Tx) error) func(*sqldb.Tx) error {
	return func(tx *sqldb.Tx) error { return fn(&Tx{tx, tx.Now()}) }
}

// Now is the one timestamp of the transaction, UTC, in microseconds.
func (tx *Tx) Now() time.Time { return tx.now }

// What follows are the names by which the files of this package write statements.

func (tx *Tx) exec(ctx context.Context, query string, args ...any) (int64, error) {
	return tx.sql.Exec(ctx, query, args...)
}

func (tx *Tx) row(ctx context.Context, query string, args ...any) sqldb.Row {
	return tx.sql.Row(ctx, query, args...)
}

func (tx *Tx) each(ctx context.Context, scan func(*sql.Rows) error, query string, args ...any) error {
	return tx.sql.Each(ctx, scan, query, args...)
}

func list[T any](ctx context.Context, tx *Tx, scan func(*sql.Rows) (T, error), query string, args ...any) ([]T, error) {
	return sqldb.List(ctx, tx.sql, scan, query, args...)
}

func remember[T any](ctx context.Context, tx *Tx, find func(query string, args []any) (T, int, error), query string, args ...any) (T, error) {
	return sqldb.Remember(ctx, tx.sql, find, query, args...)
}

func (tx *Tx) dialect() sqldb.Dialect { return tx.sql.Dialect() }

// clock is an expression for the time of the statement, in microseconds, by the clock that triggers
// have. Now is for all else.
func (tx *Tx) clock() string {
	if tx.sql.Engine() == "postgres" {
		return "gc_now()"
	}
	return "CAST(unixepoch('subsec') * 1000000 AS INTEGER)"
}

// names reads a query of one row with one text, names put together with commas,
// which are in no name. A page of names costs a fraction of what it costs as rows,
// for each row passes through many layers of the driver.
func (tx *Tx) names(ctx context.Context, query string, args ...any) ([]string, error) {
	var text sql.NullString
	if err := tx.row(ctx, query, args...).Scan(&text); err != nil || text.String == "" {
		return nil, err
	}
	list := strings.Split(text.String, ",")
	if !slices.IsSorted(list) { // the engines aggregate in the order of the subquery, but promise nothing
		slices.Sort(list)
	}
	return list, nil
}

// rememberNames is remember for names, which see.
func (tx *Tx) rememberNames(ctx context.Context, query string, args ...any) ([]string, error) {
	return remember(ctx, tx, func(query string, args []any) ([]string, int, error) {
		found, err := tx.names(ctx, query, args...)
		return found, sizeOf(found), err
	}, query, args...)
}

// sizeOf is about what a list takes in memory.
func sizeOf(list []string) int {
	n := 0
	for _, s := range list {
		n += 16 + len(s)
	}
	return n
}

func micros(t time.Time) int64      { return t.UnixMicro() }
func fromMicros(us int64) time.Time { return time.UnixMicro(us).UTC() }
func nullMicros(t *time.Time) any {
	if t == nil {
		return nil
	}
	return micros(*t)
}
func timePtr(us sql.NullInt64) *time.Time {
	if !us.Valid {
		return nil
	}
	t := fromMicros(us.Int64)
	return &t
}

// notFound turns "no rows" into the error given and leaves others alone.
func notFound(err error, instead *oci.Error) error {
	if errors.Is(err, sql.ErrNoRows) {
		return instead
	}
	return err
}
