package sqldb

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strings"
	"time"
)

// rowDialect is what differs between the engines when all rows are copied.
type rowDialect interface {
	// catalogColumns is a query for the tables' columns: table, column, declared
	// type, and the place in the primary key, from 1, or 0. Computed columns are left out.
	catalogColumns() string
	// catalogReferences is a query for foreign keys: the table, and that which it points to.
	catalogReferences() string
	// kind of a declared type, "" for one that is not known.
	kind(declared string) Kind
	// disableTriggers switches our triggers off until the function that it
	// returns is called, in the same transaction. Foreign keys and checks stay in force.
	disableTriggers(ctx context.Context, tx *Tx, tables []Table) (enable func() error, err error)
	// empty removes the rows of tables; what refers to them has to be among them, or to keep no rows.
	empty(ctx context.Context, tx *Tx, tables []Table) error
	// givenNumbers stands before VALUES where rows bring their numbers along.
	givenNumbers() string
	// lastNumber is the last one that the table has given to a row, 0 for a table that gives none.
	lastNumber(ctx context.Context, tx *Tx, t Table) (int64, error)
	// setLastNumber makes the table go on behind a number.
	setLastNumber(ctx context.Context, tx *Tx, t Table, n int64) error
}

func (postgresDialect) catalogColumns() string {
	return `
		SELECT c.relname, a.attname, format_type(a.atttypid, NULL),
		       COALESCE(array_position(i.indkey::int2[], a.attnum) + 1, 0)
		  FROM pg_class c
		  JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
		  LEFT JOIN pg_index i ON i.indrelid = c.oid AND i.indisprimary
		 WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
		 ORDER BY c.relname, a.attnum`
}

func (postgresDialect) catalogReferences() string {
	return `
		SELECT DISTINCT c.relname, f.relname
		  FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_class f ON f.oid = k.confrelid
		 WHERE k.contype = 'f' AND c.relnamespace = current_schema()::regnamespace`
}

func (postgresDialect) kind(declared string) Kind {
	switch declared {
	case "bigint", "integer", "smallint":
		return KindInteger
	case "double precision", "real":
		return KindReal
	case "boolean":
		return KindBoolean
	case "text", "character varying", "json", "jsonb":
		return KindText
	case "bytea":
		return KindBytes
	}
	return ""
}

// patience is the bound of a statement that may take as long as it needs.
const patience = 6 * time.Hour

func (postgresDialect) Patient(ctx context.Context, tx *Tx) error {
	for _, limit := range []string{"statement_timeout", "idle_in_transaction_session_timeout"} {
		if _, err := tx.Exec(ctx, `SET LOCAL `+limit+` = 0`); err != nil {
			return err
		}
	}
	tx.bound = patience
	return nil
}

func (postgresDialect) disableTriggers(ctx context.Context, tx *Tx, tables []Table) (func() error, error) {
	each := func(what string) error {
		for _, t := range tables {
			if _, err := tx.Exec(ctx, `ALTER TABLE `+Quoted(t.Name)+` `+what+` TRIGGER USER`); err != nil {
				return err
			}
		}
		return nil
	}
	return func() error { return each("ENABLE") }, each("DISABLE")
}

func (postgresDialect) empty(ctx context.Context, tx *Tx, tables []Table) error {
	names := make([]string, len(tables))
	for i, t := range tables {
		names[i] = Quoted(t.Name)
	}
	_, err := tx.Exec(ctx, `TRUNCATE `+strings.Join(names, ", "))
	return err
}

func (postgresDialect) givenNumbers() string { return ` OVERRIDING SYSTEM VALUE` }

// sequence is the sequence of the table's numbers, "" for none.
func (postgresDialect) sequence(ctx context.Context, tx *Tx, t Table) (string, error) {
	if len(t.Key) != 1 {
		return "", nil
	}
	var name sql.NullString
	err := tx.Row(ctx, `SELECT pg_get_serial_sequence($1, $2)`, Quoted(t.Name), t.Key[0]).Scan(&name)
	return name.String, err
}

func (d postgresDialect) lastNumber(ctx context.Context, tx *Tx, t Table) (n int64, err error) {
	name, err := d.sequence(ctx, tx, t)
	if err != nil || name == "" {
		return 0, err
	}
	err = tx.Row(ctx, `SELECT CASE WHEN is_called THEN last_value ELSE last_value - 1 END FROM `+name).Scan(&n)
	return n, err
}

func (d postgresDialect) setLastNumber(ctx context.Context, tx *Tx, t Table, n int64) error {
	name, err := d.sequence(ctx, tx, t)
	if err != nil || name == "" {
		return err
	}
	_, err = tx.Exec(ctx, `SELECT setval($1::text::regclass, $2)`, name, n)
	return err
}

func (sqliteDialect) catalogColumns() string {
	return `
		SELECT t.name, c.name, c.type, c.pk
		  FROM sqlite_master t, pragma_table_info(t.name) c
		 WHERE t.type = 'table' AND t.name NOT LIKE 'sqlite~_%' ESCAPE '~'
		 ORDER BY t.name, c.cid`
}

func (sqliteDialect) catalogReferences() string {
	return `
		SELECT DISTINCT t.name, f."table"
		  FROM sqlite_master t, pragma_foreign_key_list(t.name) f
		 WHERE t.type = 'table'`
}

// kind goes by the rules of SQLite's own affinity (datatype3.html, 3.1), and BOOLEAN.
func (sqliteDialect) kind(declared string) Kind {
	has := func(words ...string) bool {
		return slices.ContainsFunc(words, func(w string) bool { return strings.Contains(strings.ToUpper(declared), w) })
	}
	switch {
	case has("BOOL"):
		return KindBoolean
	case has("INT"):
		return KindInteger
	case has("CHAR", "CLOB", "TEXT", "JSON"):
		return KindText
	case has("BLOB"):
		return KindBytes
	case has("REAL", "FLOA", "DOUB"):
		return KindReal
	}
	return ""
}

func (sqliteDialect) Patient(context.Context, *Tx) error { return nil }

// disableTriggers takes the triggers away and makes them again from their own
// text; SQLite has no other way, and undoes this with the transaction.
func (sqliteDialect) disableTriggers(ctx context.Context, tx *Tx, tables []Table) (func() error, error) {
	names := map[string]bool{}
	for _, t := range tables {
		names[t.Name] = true
	}
	type trigger struct{ name, table, text string }
	triggers, err := List(ctx, tx, func(rows *sql.Rows) (t trigger, err error) {
		return t, rows.Scan(&t.name, &t.table, &t.text)
	}, `SELECT name, tbl_name, sql FROM sqlite_master WHERE type = 'trigger' ORDER BY rowid`)
	if err != nil {
		return nil, err
	}
	triggers = slices.DeleteFunc(triggers, func(t trigger) bool { return !names[t.table] })
	for _, t := range triggers {
		if _, err := tx.Exec(ctx, `DROP TRIGGER `+Quoted(t.name)); err != nil {
			return nil, err
		}
	}
	return func() error {
		for _, t := range triggers {
			if _, err := tx.Exec(ctx, t.text); err != nil {
				return fmt.Errorf("the trigger %s: %w", t.name, err)
			}
		}
		return nil
	}, nil
}

func (sqliteDialect) empty(ctx context.Context, tx *Tx, tables []Table) error {
	// Foreign keys are looked at when the transaction ends: a row may go before
	// those that refer to it, all of which go too.
	if _, err := tx.Exec(ctx, `PRAGMA defer_foreign_keys = ON`); err != nil {
		return err
	}
	for _, t := range slices.Backward(tables) {
		if _, err := tx.Exec(ctx, `DELETE FROM `+Quoted(t.Name)); err != nil {
			return err
		}
	}
	return nil
}

func (sqliteDialect) givenNumbers() string { return "" }

// lastNumber asks the table of numbers, where tables with AUTOINCREMENT have a
// row, and else the rows, which is what SQLite does for the others.
func (sqliteDialect) lastNumber(ctx context.Context, tx *Tx, t Table) (n int64, err error) {
	if len(t.Key) != 1 || !slices.Contains(t.Columns, Column{t.Key[0], KindInteger}) {
		return 0, nil
	}
	err = tx.Row(ctx, `
		SELECT MAX(COALESCE((SELECT seq FROM sqlite_sequence WHERE name = $1), 0),
		           COALESCE((SELECT MAX(`+Quoted(t.Key[0])+`) FROM `+Quoted(t.Name)+`), 0))`, t.Name).Scan(&n)
	return n, err
}

func (sqliteDialect) setLastNumber(ctx context.Context, tx *Tx, t Table, n int64) error {
	if _, err := tx.Exec(ctx, `DELETE FROM sqlite_sequence WHERE name = $1`, t.Name); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, `
		INSERT INTO sqlite_sequence (name, seq)
		SELECT name, CAST($2 AS INTEGER) FROM sqlite_master
		 WHERE type = 'table' AND name = $1 AND sql LIKE '%AUTOINCREMENT%'`, t.Name, n)
	return err
}
