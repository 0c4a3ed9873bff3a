package sqldb

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// A database's rows, all of them, as both engines have them: what a backup and
// a move to another engine copy. The tables are asked of the database's own
// catalog, so that one which a later migration adds is copied too.

// Kind is what a column holds, whatever the engine calls its type.
type Kind string

// The kinds of columns.
const (
	KindInteger Kind = "integer"
	KindReal    Kind = "real"
	KindBoolean Kind = "boolean"
	KindText    Kind = "text"
	KindBytes   Kind = "bytes"
)

// Column is a column of a table.
type Column struct {
	Name string
	Kind Kind
}

// Table is a table as both engines describe it: two databases of the same
// schema version give equal tables.
type Table struct {
	Name    string
	Columns []Column // by name
	Key     []string // columns of the primary key, in its order
	Refs    []string // other tables that its foreign keys point to, by name
}

// CopyRules is what a copy has to know of tables that the catalog does not say. The zero value
// copies every table, and replaces all that is there.
type CopyRules struct {
	// LeaveOut has the tables whose rows are not copied, and why. The table of migrations, which each
	// database fills itself, is always left out.
	LeaveOut map[string]string
	// Merge has the tables whose rows stay where they are, for copied ones to be merged with.
	Merge map[string]Merge
}

// Merge says how copied rows meet those that are there. Its functions get the transaction of the copy.
type Merge struct {
	// Before is called before the first row comes, and After behind the last one.
	Before, After func(ctx context.Context, to *Tx) error
	// Change gives what changes each row before it is written; the values are in the order of the table's Columns.
	Change func(to *Tx, t Table) func(row []any)
	// Conflict gives the end of the INSERT (ON CONFLICT ...), which decides about a row that is there.
	Conflict func(t Table) string
}

func (r CopyRules) leaveOut(table string) bool {
	return table == migrationsTable || r.LeaveOut[table] != ""
}

// Tables lists the tables whose rows are copied, each behind those that it
// refers to. It fails when the schema has something that cannot be copied: a
// column of an unknown type, a table without a primary key, or tables that refer to each other.
func (db *DB) Tables(ctx context.Context, rules CopyRules) ([]Table, error) {
	var tables []Table
	err := db.View(ctx, func(tx *Tx) (err error) {
		tables, err = tx.tables(ctx, rules)
		return err
	})
	return tables, err
}

func (tx *Tx) tables(ctx context.Context, rules CopyRules) ([]Table, error) {
	byName := map[string]*Table{}
	var names []string
	err := tx.Each(ctx, func(rows *sql.Rows) error {
		var table, column, declared string
		var key int
		if err := rows.Scan(&table, &column, &declared, &key); err != nil || rules.leaveOut(table) {
			return err
		}
		kind := tx.db.dialect.kind(declared)
		if kind == "" {
			return fmt.Errorf("the column %s.%s has the type %s, which cannot be copied", table, column, declared)
		}
		t := byName[table]
		if t == nil {
			t = &Table{Name: table}
			byName[table] = t
			names = append(names, table)
		}
		t.Columns = append(t.Columns, Column{column, kind})
		if key > 0 {
			if len(t.Key) < key {
				t.Key = append(t.Key, make([]string, key-len(t.Key))...)
			}
			t.Key[key-1] = column
		}
		return nil
	}, tx.db.dialect.catalogColumns())
	if err != nil {
		return nil, fmt.Errorf("reading the columns of all tables: %w", err)
	}
	err = tx.Each(ctx, func(rows *sql.Rows) error {
		var from, to string
		if err := rows.Scan(&from, &to); err != nil {
			return err
		}
		if t := byName[from]; t != nil && from != to {
			t.Refs = append(t.Refs, to)
		}
		return nil
	}, tx.db.dialect.catalogReferences())
	if err != nil {
		return nil, fmt.Errorf("reading the foreign keys of all tables: %w", err)
	}
	slices.Sort(names)
	var ordered []Table
	placed := map[string]bool{}
	for len(ordered) < len(names) {
		before := len(ordered)
		for _, name := range names {
			t := byName[name]
			if placed[name] || slices.ContainsFunc(t.Refs, func(ref string) bool { return !placed[ref] && !rules.leaveOut(ref) }) {
				continue
			}
			if len(t.Key) == 0 {
				return nil, fmt.Errorf("the table %s has no primary key", name)
			}
			slices.SortFunc(t.Columns, func(a, b Column) int { return strings.Compare(a.Name, b.Name) })
			slices.Sort(t.Refs)
			placed[name] = true
			ordered = append(ordered, *t)
		}
		if len(ordered) == before {
			return nil, errors.New("some tables refer to each other in a circle, so none of them can be filled first")
		}
	}
	return ordered, nil
}

// Bounds of one INSERT of CopyRows.
const (
	copyBatch = 100     // rows
	copyBytes = 4 << 20 // of values; what is longer goes alone
)

// CopyRows makes the rows of to those that from has at this moment, in one
// snapshot of from and one transaction of to: who looks at to sees all of it or what was there
// before. Both have to have the same schema; nobody else may write to to meanwhile.
// Numbers that a table gives out go on behind those of from. Memory is bounded by a few rows.
//
// It returns the number of rows by table.
func CopyRows(ctx context.Context, from, to *DB, rules CopyRules) (map[string]int64, error) {
	var counts map[string]int64
	err := from.Snapshot(ctx, func(src *Tx) error {
		if err := from.dialect.Patient(ctx, src); err != nil {
			return err
		}
		tables, err := src.tables(ctx, rules)
		if err != nil {
			return err
		}
		other, err := to.Tables(ctx, rules)
		if err != nil {
			return err
		}
		if err := sameTables(tables, other); err != nil {
			return err
		}
		return to.Update(ctx, func(dst *Tx) error {
			counts = map[string]int64{}
			if err := to.dialect.Patient(ctx, dst); err != nil {
				return err
			}
			enable, err := to.dialect.disableTriggers(ctx, dst, tables)
			if err != nil {
				return fmt.Errorf("switching the triggers off: %w", err)
			}
			if err := to.dialect.empty(ctx, dst, slices.DeleteFunc(slices.Clone(tables), func(t Table) bool {
				_, stays := rules.Merge[t.Name]
				return stays
			})); err != nil {
				return fmt.Errorf("emptying the tables: %w", err)
			}
			for _, t := range tables {
				if counts[t.Name], err = copyTable(ctx, src, dst, t, rules.Merge[t.Name]); err != nil {
					return fmt.Errorf("copying the table %s: %w", t.Name, err)
				}
				n, err := from.dialect.lastNumber(ctx, src, t)
				if err == nil && n > 0 {
					err = to.dialect.setLastNumber(ctx, dst, t, n)
				}
				if err != nil {
					return fmt.Errorf("copying the numbering of the table %s: %w", t.Name, err)
				}
			}
			if err := enable(); err != nil {
				return fmt.Errorf("switching the triggers on: %w", err)
			}
			return nil
		})
	})
	return counts, err
}

// sameTables says in which table two databases differ.
func sameTables(from, to []Table) error {
	equal := func(a, b Table) bool {
		return a.Name == b.Name && slices.Equal(a.Columns, b.Columns) && slices.Equal(a.Key, b.Key)
	}
	for i := range max(len(from), len(to)) {
		if i >= len(from) || i >= len(to) || !equal(from[i], to[i]) {
			name := to[min(i, len(to)-1)].Name
			if i < len(from) {
				name = from[i].Name
			}
			return fmt.Errorf("the table %s is not the same in the two databases: bring both to the same schema version with 'berth migrate'", name)
		}
	}
	return nil
}

// Quoted is the name of a table or a column as it stands in a statement.
func Quoted(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

// copyTable copies one table, in the order of its key: a row that refers to
// another one of its table comes behind it, for that has the smaller number.
func copyTable(ctx context.Context, src, dst *Tx, t Table, merge Merge) (int64, error) {
	columns := make([]string, len(t.Columns))
	for i, c := range t.Columns {
		columns[i] = Quoted(c.Name)
	}
	key := make([]string, len(t.Key))
	for i, k := range t.Key {
		key[i] = Quoted(k)
	}
	into := inserter{tx: dst, table: t, batch: min(copyBatch, 30_000/len(columns))} // SQLite takes 32,766 parameters
	into.head = `INSERT INTO ` + Quoted(t.Name) + ` (` + strings.Join(columns, ", ") + `)` + dst.db.dialect.givenNumbers() + ` VALUES `
	if merge.Change != nil {
		into.change = merge.Change(dst, t)
	}
	if merge.Conflict != nil {
		into.tail = " " + merge.Conflict(t)
	}
	if merge.Before != nil {
		if err := merge.Before(ctx, dst); err != nil {
			return 0, err
		}
	}
	var n int64
	err := src.Each(ctx, func(rows *sql.Rows) error {
		values := make([]any, len(columns))
		targets := make([]any, len(columns))
		for i := range values {
			targets[i] = &values[i]
		}
		if err := rows.Scan(targets...); err != nil {
			return err
		}
		for i, c := range t.Columns {
			v, err := convert(c.Kind, values[i])
			if err != nil {
				return fmt.Errorf("the column %s of a row %w", c.Name, err)
			}
			values[i] = v
		}
		n++
		return into.add(ctx, values)
	}, `SELECT `+strings.Join(columns, ", ")+` FROM `+Quoted(t.Name)+` ORDER BY `+strings.Join(key, ", "))
	if err == nil {
		err = into.flush(ctx)
	}
	if err == nil && merge.After != nil {
		err = merge.After(ctx, dst)
	}
	return n, err
}

// convert gives a value that one driver has read the form that both drivers write.
func convert(kind Kind, v any) (any, error) {
	switch v := v.(type) {
	case nil:
		return nil, nil
	case int64:
		switch kind {
		case KindBoolean:
			return v != 0, nil
		case KindInteger, KindReal:
			return v, nil
		}
	case float64:
		if kind == KindReal {
			return v, nil
		}
	case bool:
		if kind == KindBoolean {
			return v, nil
		}
	case string:
		switch kind {
		case KindText:
			return v, nil
		case KindBytes:
			return []byte(v), nil
		}
	case []byte:
		switch kind {
		case KindText:
			return string(v), nil
		case KindBytes:
			return slices.Clone(v), nil // the driver's own, until the next row
		}
	}
	return nil, fmt.Errorf("holds a %T where a value of the kind %s belongs", v, kind)
}

// inserter writes rows a hundred at a time.
type inserter struct {
	tx         *Tx
	table      Table
	head, tail string
	batch      int
	change     func([]any)

	rows  [][]any
	bytes int
}

func (in *inserter) add(ctx context.Context, row []any) error {
	if in.change != nil {
		in.change(row)
	}
	in.rows = append(in.rows, row)
	for _, v := range row {
		switch v := v.(type) {
		case string:
			in.bytes += len(v)
		case []byte:
			in.bytes += len(v)
		}
	}
	if len(in.rows) < in.batch && in.bytes < copyBytes {
		return nil
	}
	return in.flush(ctx)
}

// flush writes what waits: a full batch in one statement, and what is less row
// by row, so that there are two texts for each table and not a hundred.
func (in *inserter) flush(ctx context.Context) error {
	step := 1
	if len(in.rows) == in.batch {
		step = in.batch
	}
	for chunk := range slices.Chunk(in.rows, step) {
		var text strings.Builder
		text.WriteString(in.head)
		args := make([]any, 0, step*len(in.table.Columns))
		for i, row := range chunk {
			if i > 0 {
				text.WriteString(", ")
			}
			for j, v := range row {
				text.WriteString(separator(j))
				args = append(args, v)
				text.WriteString("$" + strconv.Itoa(len(args)))
			}
			text.WriteString(")")
		}
		text.WriteString(in.tail)
		if _, err := in.tx.Exec(ctx, text.String(), args...); err != nil {
			return err
		}
	}
	in.rows, in.bytes = in.rows[:0], 0
	return nil
}

func separator(column int) string {
	if column == 0 {
		return "("
	}
	return ", "
}

// CountRows counts the rows of every table that CopyRows copies, by its name. It reads them all.
func (db *DB) CountRows(ctx context.Context, rules CopyRules) (map[string]int64, error) {
	counts := map[string]int64{}
	err := db.Snapshot(ctx, func(tx *Tx) error {
		if err := db.dialect.Patient(ctx, tx); err != nil {
			return err
		}
		tables, err := tx.tables(ctx, rules)
		for _, t := range tables {
			var n int64
			if err = tx.Row(ctx, `SELECT COUNT(*) FROM `+Quoted(t.Name)).Scan(&n); err != nil {
				break
			}
			counts[t.Name] = n
		}
		return err
	})
	return counts, err
}

// Integrity reads an SQLite database through and reports what is damaged: pages,
// indexes, and rows whose foreign keys point to nothing. Postgres does not have such a check.
func (db *DB) Integrity(ctx context.Context) error {
	if db.writer == nil {
		return nil
	}
	text := func(rows *sql.Rows) (s string, err error) { return s, rows.Scan(&s) }
	return db.View(ctx, func(tx *Tx) error {
		found, err := List(ctx, tx, text, `SELECT integrity_check FROM pragma_integrity_check LIMIT 10`)
		if err != nil {
			return err
		}
		if len(found) != 1 || found[0] != "ok" {
			return errors.New("the database is damaged: " + strings.Join(found, "; "))
		}
		found, err = List(ctx, tx, text, `SELECT DISTINCT "table" || ' to ' || parent FROM pragma_foreign_key_check LIMIT 10`)
		if err == nil && len(found) > 0 {
			err = errors.New("rows refer to others that are not there: " + strings.Join(found, "; "))
		}
		return err
	})
}
