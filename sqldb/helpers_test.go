package sqldb

import (
	"context"
	"database/sql"
	"os"
	"testing"
	"testing/fstest"

	"berth/testenv"
)

func TestMain(m *testing.M) { os.Exit(testenv.Main(m)) }

// words is the schema of the tests of this package, on both engines.
var words = fstest.MapFS{"0001_words.sql": {Data: []byte(`CREATE TABLE words (word TEXT NOT NULL PRIMARY KEY)`)}}

func (tx *Tx) add(ctx context.Context, word string) error {
	_, err := tx.Exec(ctx, `INSERT INTO words (word) VALUES ($1)`, word)
	return err
}

func (tx *Tx) words(ctx context.Context) ([]string, error) {
	scan := func(rows *sql.Rows) (s string, err error) { return s, rows.Scan(&s) }
	return List(ctx, tx, scan, `SELECT word FROM words ORDER BY word`)
}

// add writes a word, durably.
func (db *DB) add(ctx context.Context, word string) error {
	return db.Update(ctx, func(tx *Tx) error { return tx.add(ctx, word) })
}

// read reads all words.
func (db *DB) read(ctx context.Context) error {
	return db.View(ctx, func(tx *Tx) error { _, err := tx.words(ctx); return err })
}
