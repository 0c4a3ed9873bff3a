package sqldb

import (
	"context"
	"database/sql/driver"
	"errors"
	"io"
	"net"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
	sqlite "modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"berth/oci"
)

// Dialect is what differs between the engines for who writes statements: pieces of SQL text, the kinds of
// refusals, and what a transaction can ask for. Refusals are recognised by code, never by text.
type Dialect interface {
	// IsForeignKey reports the refusal of a foreign key.
	IsForeignKey(error) bool
	// IsTriggered reports the refusal of a trigger of the schema: SQLSTATE BT001 on Postgres, RAISE on SQLite.
	IsTriggered(error) bool
	// IsLockTimeout reports that Drain took too long.
	IsLockTimeout(error) bool

	// KeyShare ends a SELECT that keeps the row's key until the transaction ends.
	KeyShare() string
	// ForUpdate ends a SELECT whose rows the transaction is about to change.
	ForUpdate() string
	// SkipLocked is ForUpdate for the tables named, without the rows that others have locked.
	SkipLocked(tables ...string) string
	// Lateral reports whether a subquery in FROM may refer to the tables before it.
	Lateral() bool

	// OneSnapshot makes all statements of a transaction, whose first it is, see the same state.
	OneSnapshot(ctx context.Context, tx *Tx) error
	// Patient lets the rest of the transaction take as long as it needs, within hours.
	Patient(ctx context.Context, tx *Tx) error
	// PreferIndexes lets the rest of a transaction read tables by their indexes: Postgres
	// knows how many rows a repository has on average, not how few this one has.
	PreferIndexes(ctx context.Context, tx *Tx) error
	// LockTable makes transactions that lock the same table wait for each other.
	LockTable(ctx context.Context, tx *Tx, table string) error
	// Drain waits until nobody uses a table, and keeps others from it until the
	// transaction ends; IsLockTimeout tells that this took too long.
	Drain(ctx context.Context, tx *Tx, table string) error
}

// engine is all that differs between the engines, apart from how connections are opened.
type engine interface {
	Dialect
	rowDialect

	name() string
	// isRetryable: the transaction lost against another one and may win next time.
	isRetryable(error) bool
	// isUnavailable: the database, not the statement, is the trouble.
	isUnavailable(error) bool
	// isFull: it is, because its disk has no room.
	isFull(error) bool
	// advice is the message for trouble that has a remedy of its own, or "".
	advice(error) string
}

type postgresDialect struct{}

func (postgresDialect) name() string { return "postgres" }

func pgCode(err error) string {
	var e *pgconn.PgError
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}

func (postgresDialect) IsForeignKey(err error) bool { return pgCode(err) == "23503" }
func (postgresDialect) IsTriggered(err error) bool  { return pgCode(err) == "BT001" } // ours, see the schema

func (postgresDialect) isRetryable(err error) bool {
	code := pgCode(err)
	return code == "40001" || code == "40P01"
}

func (postgresDialect) isUnavailable(err error) bool {
	if code := pgCode(err); code != "" {
		// 08: connection, 53: out of resources, 57P: shutting down or starting, 57014: it took too long,
		// 25P03: a transaction rested too long.
		return strings.HasPrefix(code, "08") || strings.HasPrefix(code, "53") || strings.HasPrefix(code, "57P") ||
			code == "57014" || code == "25P03"
	}
	var connect *pgconn.ConnectError
	return errors.As(err, &connect) || isBrokenPipe(err)
}

// isBrokenPipe reports an error of the connection itself, rather than an answer.
func isBrokenPipe(err error) bool {
	var network net.Error
	return errors.As(err, &network) || errors.Is(err, driver.ErrBadConn) || errors.Is(err, net.ErrClosed) ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || pgconn.SafeToRetry(err)
}

// errReadOnlyDatabase is for a Postgres that answers but takes no writes.
var errReadOnlyDatabase = oci.Errorf(oci.CodeUnavailable, "%s", readOnlyDatabase)

const (
	readOnlyDatabase = "the database takes no writes now, as while it changes over to another server: nothing was changed, try again later"
	poolerUnset      = "the database is behind a pooler in transaction mode, such as pgbouncer, and this server was not told so: its operator has to set database_pooled (BERTH_DATABASE_POOLED=true)"
)

func (postgresDialect) advice(err error) string {
	var e *pgconn.PgError
	if !errors.As(err, &e) {
		return ""
	}
	switch {
	case e.Code == "25006":
		return readOnlyDatabase
	// A statement that was prepared on another session of the pooler, or is there already. The
	// pooler says the first in words of its own, when it gets settings that it does not pass on.
	case e.Code == "26000" || e.Code == "42P05" || e.Code == "08P01" && strings.Contains(e.Message, "unsupported startup parameter"):
		return poolerUnset
	}
	return ""
}

func (postgresDialect) isFull(err error) bool { return pgCode(err) == "53100" }

func (postgresDialect) KeyShare() string  { return " FOR KEY SHARE" }
func (postgresDialect) ForUpdate() string { return " FOR UPDATE" }
func (postgresDialect) SkipLocked(tables ...string) string {
	return " FOR UPDATE OF " + strings.Join(tables, ", ") + " SKIP LOCKED"
}
func (postgresDialect) Drain(ctx context.Context, tx *Tx, table string) error {
	if _, err := tx.Exec(ctx, "SET LOCAL lock_timeout = '10s'"); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, "LOCK TABLE "+table+" IN ACCESS EXCLUSIVE MODE")
	return err
}
func (postgresDialect) IsLockTimeout(err error) bool { return pgCode(err) == "55P03" }
func (postgresDialect) OneSnapshot(ctx context.Context, tx *Tx) error {
	_, err := tx.Exec(ctx, "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
	return err
}
func (postgresDialect) PreferIndexes(ctx context.Context, tx *Tx) error {
	_, err := tx.Exec(ctx, "SET LOCAL enable_seqscan = off")
	if err == nil { // for so many rows it would compile the statement, which takes longer than to run it
		_, err = tx.Exec(ctx, "SET LOCAL jit = off")
	}
	return err
}
func (postgresDialect) Lateral() bool { return true }
func (postgresDialect) LockTable(ctx context.Context, tx *Tx, table string) error {
	_, err := tx.Exec(ctx, "LOCK TABLE "+table+" IN SHARE ROW EXCLUSIVE MODE")
	return err
}

// sqliteDialect locks nothing: there is one writer.
type sqliteDialect struct{}

func (sqliteDialect) name() string { return "sqlite" }

// sqliteCode is SQLite's extended result code, or -1.
func sqliteCode(err error) int {
	var e *sqlite.Error
	if errors.As(err, &e) {
		return e.Code()
	}
	return -1
}

func (sqliteDialect) IsForeignKey(err error) bool {
	return sqliteCode(err) == sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY
}

func (sqliteDialect) IsTriggered(err error) bool {
	return sqliteCode(err) == sqlite3.SQLITE_CONSTRAINT_TRIGGER
}

func (sqliteDialect) isRetryable(error) bool { return false } // busy_timeout has waited already

func (sqliteDialect) isUnavailable(err error) bool {
	code := sqliteCode(err)
	if code < 0 {
		return false
	}
	switch code & 0xff { // the primary code
	case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY,
		// A file system that was shut down gives zeros or nothing, which looks like a damaged file.
		sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_PROTOCOL, sqlite3.SQLITE_NOMEM:
		return true
	}
	return false
}

func (sqliteDialect) isFull(err error) bool { return sqliteCode(err)&0xff == sqlite3.SQLITE_FULL }

func (sqliteDialect) advice(error) string                          { return "" }
func (sqliteDialect) KeyShare() string                             { return "" }
func (sqliteDialect) ForUpdate() string                            { return "" }
func (sqliteDialect) SkipLocked(...string) string                  { return "" }
func (sqliteDialect) Drain(context.Context, *Tx, string) error     { return nil }
func (sqliteDialect) IsLockTimeout(error) bool                     { return false }
func (sqliteDialect) OneSnapshot(context.Context, *Tx) error       { return nil }
func (sqliteDialect) PreferIndexes(context.Context, *Tx) error     { return nil }
func (sqliteDialect) Lateral() bool                                { return false }
func (sqliteDialect) LockTable(context.Context, *Tx, string) error { return nil }

// connector opens SQLite connections for database/sql. The driver is not
// looked up by a registered name, so that nothing depends on what is linked.
type connector struct {
	driver *sqlite.Driver
	dsn    string
}

func (c connector) Connect(context.Context) (driver.Conn, error) { return c.driver.Open(c.dsn) }
func (c connector) Driver() driver.Driver                        { return c.driver }
