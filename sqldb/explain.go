package sqldb

import (
	"context"
	"database/sql"
	"errors"
	"strings"
)

// Explain runs fn in a transaction that is rolled back, and gives the plan of each statement to
// record, on Postgres twice: with its arguments, and for any. Plans are what golden files of tests
// hold, and what is looked at for a slow statement.
func (db *DB) Explain(ctx context.Context, fn func(*Tx) error, record func(query, plan string)) error {
	var failed error
	undo := errors.New("undo")
	err := db.Update(ctx, func(tx *Tx) error {
		tx.q = explainer{tx.q, record, db.Engine()}
		failed = fn(tx)
		return undo
	})
	if !errors.Is(err, undo) {
		return err
	}
	return failed
}

type explainer struct {
	querier
	record func(query, plan string)
	engine string
}

func (e explainer) explain(ctx context.Context, query string, args []any) error {
	if strings.HasPrefix(query, "SET ") { // has no plan
		return nil
	}
	if e.engine == "sqlite" {
		return e.plan(ctx, query, 4, "EXPLAIN QUERY PLAN "+query, args...)
	}
	// With these values, and as the server plans what it has prepared and run
	// a few times: for any values.
	if err := e.plan(ctx, query, 1, "EXPLAIN (COSTS OFF) "+query, args...); err != nil {
		return err
	}
	execute := "EXECUTE explained"
	if n := len(args); n > 0 {
		execute += "(NULL" + strings.Repeat(", NULL", n-1) + ")"
	}
	for _, s := range []string{"SET LOCAL plan_cache_mode = force_generic_plan", "PREPARE explained AS " + query} {
		if _, err := e.querier.ExecContext(ctx, s); err != nil {
			return err
		}
	}
	if err := e.plan(ctx, query, 1, "EXPLAIN (COSTS OFF) "+execute); err != nil {
		return err
	}
	_, err := e.querier.ExecContext(ctx, "DEALLOCATE explained")
	return err
}

func (e explainer) plan(ctx context.Context, query string, columns int, explain string, args ...any) error {
	rows, err := e.querier.QueryContext(ctx, explain, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	var plan strings.Builder
	for rows.Next() {
		var line string
		dest := make([]any, columns)
		for i := range dest {
			dest[i] = new(any)
		}
		dest[columns-1] = &line
		if err := rows.Scan(dest...); err != nil {
			return err
		}
		plan.WriteString(line + "\n")
	}
	e.record(query, plan.String())
	return rows.Err()
}

func (e explainer) ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error) {
	if err := e.explain(ctx, query, args); err != nil {
		return nil, err
	}
	return e.querier.ExecContext(ctx, query, args...)
}

func (e explainer) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	if err := e.explain(ctx, query, args); err != nil {
		return nil, err
	}
	return e.querier.QueryContext(ctx, query, args...)
}

func (e explainer) QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row {
	// The plan's error is the statement's own.
	_ = e.explain(ctx, query, args)
	return e.querier.QueryRowContext(ctx, query, args...)
}
